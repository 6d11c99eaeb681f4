//! Log lines of the daemon on their way out: a bounded queue, and the thread that empties it.
//!
//! journald's socket and a pipe hold up whoever writes while nobody reads at the other end: after 167 lines (the usual
//! wmem) a journald on a card that stalls would stand in the way of the broker, the page and a reload. So whoever logs only
//! leaves the line here, in order. While the other end stands still lines gather, up to `BYTES_MAX`; what comes then is
//! lost, counted, and told of once there is room again. [`Queue::flush`] is for the end of the process.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Level;

use super::Fields;
use crate::model::lock::Hold as _;

/// Some ten thousand lines: more than the start of the largest plant says, a fiftieth of what the unit may take.
const BYTES_MAX: usize = 4 << 20;

/// Room that stays where a burst has passed.
const LINES_KEPT: usize = 256;

/// One line.
pub(super) enum Line {
    /// With its fields, for journald.
    Entry { level: Level, target: &'static str, fields: Fields },
    /// As it is, for stderr.
    Plain(Vec<u8>),
    /// So many were lost here.
    Lost(u64),
}

impl Line {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let text = match self {
            Self::Entry { fields, .. } => {
                let pairs = fields.pairs.iter().map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len());
                fields.message.len() + pairs.sum::<usize>()
            }
            Self::Plain(bytes) => bytes.len(),
            Self::Lost(_) => 0,
        };
        size_of::<Self>() + text
    }
}

/// What waits. Never blocks whoever puts.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    gone: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    bytes: usize,
    /// One is on its way.
    is_busy: bool,
    lost: u64,
    /// Of these.
    untold: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.untold == 0
    }

    fn keep(&mut self, line: Line) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
    }

    fn put(&mut self, line: Line) {
        if self.bytes + line.bytes() > BYTES_MAX {
            self.lost += 1;
            self.untold += 1;
            return;
        }
        if let Some(told) = self.take_untold() {
            self.keep(told);
        }
        self.keep(line);
    }

    fn take_untold(&mut self) -> Option<Line> {
        (self.untold > 0).then(|| Line::Lost(std::mem::take(&mut self.untold)))
    }

    fn take(&mut self) -> Option<Line> {
        let Some(line) = self.lines.pop_front() else { return self.take_untold() };
        self.bytes -= line.bytes();
        if self.lines.is_empty() {
            self.lines.shrink_to(LINES_KEPT);
        }
        Some(line)
    }
}

impl Queue {
    /// With a thread that hands each line to `out`, which may block. The error: there is no thread.
    pub(super) fn begin(out: impl Fn(&Line) + Send + 'static) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let own = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                if let Some(line) = own.next() {
                    out(&line);
                }
            }
        })?;
        Ok(queue)
    }

    pub(super) fn put(&self, line: Line) {
        self.waiting.hold().put(line);
        self.came.notify_one();
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> u64 {
        self.waiting.hold().lost
    }

    /// Waits until all are out, for so long at most.
    pub(super) fn flush(&self, at_most: Duration) {
        let is_left = |waiting: &mut Waiting| waiting.is_busy || !waiting.is_empty();
        drop(self.gone.wait_timeout_while(self.waiting.hold(), at_most, is_left));
    }

    /// The one before is out; waits for the next.
    fn next(&self) -> Option<Line> {
        let mut waiting = self.waiting.hold();
        waiting.is_busy = false;
        self.gone.notify_all();
        let come = self.came.wait_while(waiting, |waiting| waiting.is_empty());
        let mut waiting = come.unwrap_or_else(PoisonError::into_inner);
        waiting.is_busy = true;
        waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    fn plain(number: usize) -> Line {
        Line::Plain(format!("{number:1000}").into_bytes())
    }

    #[test]
    fn a_journal_that_stands_still_holds_nobody_up_and_what_it_cost_is_told() {
        let (goes_on, stands_still) = mpsc::channel::<()>();
        let (out, came) = mpsc::channel();
        let queue = Queue::begin(move |line| {
            let _ = stands_still.recv(); // once it goes on there is no sender any more
            let told = match line {
                Line::Plain(bytes) => Ok(String::from_utf8_lossy(bytes).trim().parse::<usize>().expect("a number")),
                Line::Lost(lost) => Err(*lost),
                Line::Entry { .. } => panic!("nobody put one"),
            };
            out.send(told).expect("somebody listens");
        });
        let queue = queue.expect("a thread");
        let all = 2 * BYTES_MAX / 1000;
        (0..all).for_each(|number| queue.put(plain(number)));
        let lost = queue.lost();
        assert!(lost > 0 && queue.waiting.hold().bytes <= BYTES_MAX);
        drop(goes_on);
        queue.flush(Duration::from_secs(60));
        queue.put(plain(all));
        let kept = all - usize::try_from(lost).expect("few");
        let told: Vec<_> = came.iter().take(kept + 2).collect();
        let expected: Vec<_> = (0..kept).map(Ok).chain([Err(lost), Ok(all)]).collect();
        assert!(told == expected, "{lost} lost of {all}: {:?} …", &told[kept.saturating_sub(3)..]);
    }

    #[test]
    fn the_end_waits_for_what_was_said_but_not_for_a_journal_that_stands_still() {
        let (goes_on, stands_still) = mpsc::channel::<()>();
        let (out, came) = mpsc::channel();
        let queue = Queue::begin(move |_| {
            let _ = stands_still.recv();
            let _ = out.send(());
        });
        let queue = queue.expect("a thread");
        let begun = Instant::now();
        queue.flush(Duration::from_secs(60));
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing was said");
        (0..10).for_each(|number| queue.put(plain(number)));
        queue.flush(Duration::from_millis(10));
        assert_eq!(came.try_iter().count(), 0, "it did not wait");
        drop(goes_on);
        queue.flush(Duration::from_secs(60));
        assert_eq!(came.try_iter().count(), 10);
    }

    #[test]
    fn a_burst_of_some_thousand_lines_is_kept_with_all_its_fields() {
        let (goes_on, stands_still) = mpsc::channel::<()>();
        let queue = Queue::begin(move |_| _ = stands_still.recv()).expect("a thread");
        for _ in 0..8000 {
            let pair = |name: &str| (name.to_owned(), "a name of usual length".to_owned());
            let fields = Fields {
                message: "device does not answer any more".to_owned(),
                pairs: ["bus", "device", "error"].map(pair).into(),
            };
            queue.put(Line::Entry { level: Level::WARN, target: "ironbridge", fields });
        }
        assert_eq!(queue.lost(), 0);
        drop(goes_on);
    }
}
