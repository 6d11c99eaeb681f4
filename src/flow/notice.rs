//! Notices: what a room wants the operator to know. The app turns each into a stored event on
//! `ironbridge/<gateway>/event` and a log line. Bounded; a notice that finds the queue full is counted, never waited for.
//!
//! Where they are handed in they are also remembered, for the status page and for health: what holds now, and the newest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::clock::Clock;
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;
use crate::model::time::Stamp;

/// Notices that may wait for the app.
pub const NOTICES_WAITING_MAX: usize = 256;

/// The newest that are remembered.
pub const NOTICES_KEPT: usize = 100;

/// So many of one event are remembered while they hold: however many of one there are (clients choose their names), what
/// health depends on has its place.
const STANDING_MAX: usize = 1024;

/// Whether a condition begins, ends or is a single happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It holds from now on.
    Active,
    /// It is over.
    Cleared,
    /// It happened.
    Once,
}

impl Phase {
    /// The `"state"` of the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cleared => "cleared",
            Self::Once => "once",
        }
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Snake-case name, such as `uplink_disabled` or `store_damaged`.
    pub event: &'static str,
    /// Begin, end or happening.
    pub phase: Phase,
    /// What it is about, such as the name of the uplink.
    pub subject: String,
    /// One sentence for a person; no secrets.
    pub detail: String,
}

impl Notice {
    /// What part of the gateway it is of: the first word of its event, but where that is called after something else.
    pub fn part(&self) -> &'static str {
        match self.event {
            "host_awaited" => "uplink",
            event => event.split_once('_').map_or(event, |(part, _)| part),
        }
    }
}

/// Where notices are handed in; cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices {
    queue: mpsc::Sender<Notice>,
    dropped: Arc<Counter>,
    memory: Option<Arc<Memory>>,
}

/// A notice and when it was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatedNotice {
    /// When.
    pub at: Stamp,
    /// What.
    pub notice: Notice,
}

struct Memory {
    clock: Clock,
    told: Mutex<Remembered>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

/// Event and subject.
type Key = (&'static str, String);

#[derive(Default)]
struct Remembered {
    /// Since when it holds stays as its words change.
    standing: BTreeMap<Key, DatedNotice>,
    newest: VecDeque<DatedNotice>,
}

/// Makes the queue.
pub fn notices() -> (Notices, mpsc::Receiver<Notice>) {
    let (queue, taken) = mpsc::channel(NOTICES_WAITING_MAX);
    (Notices { queue, dropped: Arc::default(), memory: None }, taken)
}

/// Makes a queue that remembers what went through it.
pub fn remembered(clock: Clock) -> (Notices, mpsc::Receiver<Notice>) {
    let (notices, taken) = notices();
    let memory = Some(Arc::new(Memory { clock, told: Mutex::default() }));
    (Notices { memory, ..notices }, taken)
}

impl Memory {
    fn note(&self, notice: &Notice) {
        let told = DatedNotice { at: self.clock.now(), notice: notice.clone() };
        let mut remembered = self.told.hold();
        let Remembered { standing, newest } = &mut *remembered;
        let key = (notice.event, notice.subject.clone());
        match notice.phase {
            Phase::Active => {
                let at = standing.get(&key).map_or(told.at, |known| known.at);
                let same = |((event, _), _): &(&Key, &DatedNotice)| *event == notice.event;
                let others = standing.range((notice.event, String::new())..).take_while(same);
                if standing.contains_key(&key) || others.count() < STANDING_MAX {
                    standing.insert(key, DatedNotice { at, ..told.clone() });
                }
            }
            Phase::Cleared => drop(standing.remove(&key)),
            Phase::Once => {}
        }
        newest.truncate(NOTICES_KEPT - 1);
        newest.push_front(told);
    }
}

impl Notices {
    /// Hands one in; never waits.
    pub fn tell(&self, notice: Notice) {
        if let Some(memory) = &self.memory {
            memory.note(&notice);
        }
        if self.queue.try_send(notice).is_err() {
            self.dropped.one();
        }
    }

    /// What holds now, and since when; nothing where it is not remembered.
    pub fn standing(&self) -> Vec<DatedNotice> {
        self.look(|remembered| remembered.standing.values().cloned().collect())
    }

    /// What still holds of a part that is gone holds no more; `of` says what is of it.
    pub fn over(&self, detail: &str, of: impl Fn(&Notice) -> bool) {
        for told in self.standing().into_iter().filter(|told| of(&told.notice)) {
            self.tell(Notice { phase: Phase::Cleared, detail: detail.to_owned(), ..told.notice });
        }
    }

    /// The newest, the last one first; nothing where it is not remembered.
    pub fn newest(&self) -> Vec<DatedNotice> {
        self.look(|remembered| remembered.newest.iter().cloned().collect())
    }

    fn look(&self, at: impl FnOnce(&Remembered) -> Vec<DatedNotice>) -> Vec<DatedNotice> {
        let memory = self.memory.as_ref();
        memory.map_or_else(Vec::new, |memory| at(&memory.told.hold()))
    }

    /// Notices that found the queue full or closed.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::FakeTime;
    use crate::model::time::Boot;

    fn notice(event: &'static str, phase: Phase, subject: &str, detail: &str) -> Notice {
        Notice { event, phase, subject: subject.into(), detail: detail.into() }
    }

    #[test]
    fn what_holds_is_remembered_since_it_began_until_it_is_over_even_when_nobody_takes_the_notices() {
        let time = Arc::new(FakeTime::default());
        let (notices, _full) = remembered(Clock::new(time.clone(), Boot(1), 0));
        notices.tell(notice("bus_down", Phase::Active, "a", "no connection"));
        let began = notices.standing()[0].at;
        time.advance(std::time::Duration::from_secs(1));
        notices.tell(notice("bus_down", Phase::Active, "a", "still none"));
        notices.tell(notice("bus_down", Phase::Active, "b", "no connection"));
        let standing = notices.standing();
        let seen: Vec<_> = standing.iter().map(|told| (&*told.notice.subject, &*told.notice.detail)).collect();
        assert_eq!(seen, [("a", "still none"), ("b", "no connection")]);
        assert!(standing[0].at == began && standing[1].at > began);
        for _ in 0..NOTICES_WAITING_MAX * 2 {
            notices.tell(notice("store_damaged", Phase::Once, "store", "a file"));
        }
        notices.tell(notice("bus_down", Phase::Cleared, "a", "connected"));
        assert!(notices.dropped() > 0);
        assert_eq!(notices.standing().len(), 1);
        let newest = notices.newest();
        assert_eq!((newest.len(), newest[0].notice.phase), (NOTICES_KEPT, Phase::Cleared));
    }

    #[test]
    fn however_many_sessions_are_full_a_store_that_fails_has_its_place() {
        let (notices, _taken) = remembered(Clock::new(Arc::new(FakeTime::default()), Boot(1), 0));
        for n in 0..STANDING_MAX * 2 {
            notices.tell(notice("broker_session_full", Phase::Active, &n.to_string(), "no room"));
        }
        notices.tell(notice("store_failed", Phase::Active, "store", "no disk"));
        notices.tell(notice("broker_session_full", Phase::Active, "0", "still none"));
        let standing = notices.standing();
        assert_eq!(standing.len(), STANDING_MAX + 1);
        assert_eq!(standing[0].notice.detail, "still none", "what is known stays known");
        assert_eq!(standing[STANDING_MAX].notice.event, "store_failed");
    }
}
