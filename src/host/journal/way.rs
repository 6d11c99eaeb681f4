//! The way of a log line: to journald with its fields, or to stderr; by the queue, or at once.
//!
//! The daemon's go by the queue. Commands write by themselves, so that what they log stays in order with what they print;
//! so does a daemon that gets no thread for its queue.

use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::Record;
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::Level;

use super::queue::{Line, Queue};
use super::{Fields, Verbosity};
use crate::host::terminal::say;

/// Of the daemon.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Waits until what the daemon logged is out, for so long at most.
pub(super) fn flush(at_most: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(at_most);
    }
}

/// On standard error, as plain text; of the daemon behind what waits, lest its end waits for a reader.
pub(super) fn say_last(line: &str) {
    match QUEUE.get() {
        Some(queue) => queue.put(Line::Plain(format!("{line}\n").into_bytes())),
        None => say(line),
    }
}

/// Lines that were lost.
pub(super) fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// Where lines end.
enum Out {
    Journal(JournalLog),
    Stderr,
}

impl Out {
    fn of_this_process() -> Self {
        let log = if connected_to_journal() { JournalLog::empty().ok() } else { None };
        log.map_or(Self::Stderr, |log| Self::Journal(log.with_syslog_identifier("ironbridge".to_owned())))
    }

    /// Waits for as long as that takes.
    fn write(&self, line: &Line) {
        match (self, line) {
            (Self::Journal(log), Line::Entry { level, target, fields }) => send(log, *level, target, fields),
            (Self::Journal(log), Line::Lost(count)) => send(log, Level::WARN, "ironbridge", &lost_lines(*count)),
            (Self::Stderr, Line::Lost(count)) => say(format_args!("WARN {}", lost_lines(*count).text())),
            (Self::Stderr, Line::Entry { fields, .. }) => say(fields.text()),
            (_, Line::Plain(bytes)) => drop(io::stderr().lock().write_all(bytes)), // see `say`
        }
    }
}

fn lost_lines(count: u64) -> Fields {
    let message = "log lines are lost, nobody took them in time".to_owned();
    Fields { message, pairs: vec![("count".to_owned(), count.to_string())] }
}

fn send(log: &JournalLog, level: Level, target: &str, fields: &Fields) {
    let text = fields.text();
    let record = Record::builder().level(priority(level)).target(target).key_values(fields).build();
    if log.journal_send(&record.to_builder().args(format_args!("{text}")).build()).is_err() {
        // journald is being restarted: stderr is its socket too and is kept by systemd.
        say(&text);
    }
}

/// Where lines end, and how they come there.
pub(super) struct Way {
    out: Arc<Out>,
    queue: Option<Arc<Queue>>,
}

impl Way {
    pub(super) fn out(verbosity: Verbosity) -> Self {
        let out = Arc::new(Out::of_this_process());
        let own = Arc::clone(&out);
        let queue = match verbosity {
            Verbosity::Daemon => Queue::begin(move |line| own.write(line)).ok(),
            Verbosity::Tool => None,
        };
        Self { out, queue: queue.map(|queue| Arc::clone(QUEUE.get_or_init(|| queue))) }
    }

    pub(super) fn leads_to_the_journal(&self) -> bool {
        matches!(*self.out, Out::Journal(_))
    }

    pub(super) fn put(&self, line: Line) {
        match &self.queue {
            Some(queue) => queue.put(line),
            None => self.out.write(&line),
        }
    }
}

/// For tracing's own lines of text, each of which comes in one piece.
impl io::Write for &Way {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(Line::Plain(bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The journal's priorities are syslog's. `systemd-journal-logger` sends log's info as 5 (notice) and debug as 6 (info);
/// one level lower, tracing's info arrives as 6, which is what `journalctl -p info` users expect.
const fn priority(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Debug,
        _ => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_arrives_in_the_journal_as_info() {
        assert_eq!(priority(Level::INFO), log::Level::Debug);
        assert_eq!(priority(Level::WARN), log::Level::Warn);
    }
}
