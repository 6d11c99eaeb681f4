//! Notices: what a room wants the operator to know. The app turns each into a stored event on
//! `ironbridge/<gateway>/event` and a log line. Bounded; what finds the queue full is never waited for: begin and end wait
//! beside it, the newest of each condition (one that began and ended meanwhile is told as ended), the rest is counted.
//!
//! Where they are handed in they are also remembered, for the status page and for health: what holds now, and the newest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::clock::Clock;
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;
use crate::model::time::Stamp;

/// Notices that may wait for the app.
pub const NOTICES_WAITING_MAX: usize = 256;

/// The newest that are remembered.
pub const NOTICES_KEPT: usize = 100;

/// So many of one event are remembered while they hold, and wait beside a full queue: however many of one there are
/// (clients choose their names), what health depends on has its place.
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

/// What found the queue full. Whoever takes notices that are remembered takes them through this.
#[derive(Debug, Default)]
pub struct Later(Mutex<BTreeMap<Key, Notice>>);

struct Memory {
    clock: Clock,
    told: Mutex<Remembered>,
    later: Arc<Later>,
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
    let memory = Some(Arc::new(Memory { clock, told: Mutex::default(), later: Arc::default() }));
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
                if room(standing, &key) {
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

impl Later {
    /// Hands one in; false if it is lost. What waits here waits for nothing but the queue to be empty: so later ones of the
    /// same condition follow it here, or they would be told before it.
    fn hand_in(&self, notice: Notice, queue: &mpsc::Sender<Notice>) -> bool {
        let key = (notice.event, notice.subject.clone());
        let mut later = self.0.hold(); // held while the queue is asked, here and in `take`: order is that of this lock
        let notice = if notice.phase == Phase::Once || !later.contains_key(&key) {
            match queue.try_send(notice) {
                Ok(()) => return true,
                Err(TrySendError::Full(notice)) if notice.phase != Phase::Once => notice,
                Err(_) => return false,
            }
        } else {
            notice
        };
        let room = room(&later, &key);
        if room {
            later.insert(key, notice);
        }
        room
    }

    /// What is told next, if anything waits: what is in the queue, and when that is empty what found it full.
    pub fn take(&self, queue: &mut mpsc::Receiver<Notice>) -> Option<Notice> {
        let mut later = self.0.hold();
        queue.try_recv().ok().or_else(|| Some(later.pop_first()?.1))
    }
}

/// Whether one more of its event may be kept.
fn room<T>(kept: &BTreeMap<Key, T>, key: &Key) -> bool {
    let of_event = kept.range((key.0, String::new())..).take_while(|((event, _), _)| *event == key.0);
    kept.contains_key(key) || of_event.count() < STANDING_MAX
}

impl Notices {
    /// Hands one in; never waits.
    pub fn tell(&self, notice: Notice) {
        let handed_in = match &self.memory {
            Some(memory) => {
                memory.note(&notice);
                memory.later.hand_in(notice, &self.queue)
            }
            None => self.queue.try_send(notice).is_ok(),
        };
        if !handed_in {
            self.dropped.one();
        }
    }

    /// Through which they are taken; where they are not remembered nothing ever waits there.
    pub fn later(&self) -> Arc<Later> {
        self.memory.as_ref().map_or_else(Arc::default, |memory| Arc::clone(&memory.later))
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

    /// Notices that are lost: they found the queue closed, or full and are single happenings or too many of one event.
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

    #[test]
    fn of_more_conditions_than_the_queue_holds_each_is_told_and_none_stays_active_that_is_over() {
        let (notices, mut queue) = remembered(Clock::new(Arc::new(FakeTime::default()), Boot(1), 0));
        let later = notices.later();
        let bus = |n: usize, phase| notices.tell(notice("bus_down", phase, &format!("b{n:03}"), "no connection"));
        let mut told: BTreeMap<String, Vec<Phase>> = BTreeMap::new();
        let mut tell = |most: usize| {
            let taken = std::iter::from_fn(|| later.take(&mut queue)).take(most);
            taken.for_each(|told_now| told.entry(told_now.subject).or_default().push(told_now.phase));
        };
        (0..400).for_each(|n| bus(n, Phase::Active));
        tell(300); // all of the queue, and some that wait beside it
        (300..400).for_each(|n| bus(n, Phase::Active)); // told again, in other words
        (0..400).for_each(|n| bus(n, Phase::Cleared));
        bus(399, Phase::Active);
        notices.tell(notice("path_changed", Phase::Once, "cloud", "no room"));
        assert_eq!(notices.dropped(), 1, "only the single one");
        tell(usize::MAX);
        assert_eq!(told.len(), 400);
        assert!((0..300).all(|n| told[&format!("b{n:03}")] == [Phase::Active, Phase::Cleared]));
        assert!((300..399).all(|n| told[&format!("b{n:03}")].last() == Some(&Phase::Cleared)));
        assert_eq!(told["b399"].last(), Some(&Phase::Active), "the newest wins");
        bus(399, Phase::Cleared);
        notices.tell(notice("path_changed", Phase::Once, "cloud", "room"));
        assert_eq!(later.take(&mut queue).map(|told| told.phase), Some(Phase::Cleared));
        assert_eq!(later.take(&mut queue).map(|told| told.phase), Some(Phase::Once));
        assert_eq!((later.take(&mut queue), notices.dropped()), (None, 1));
    }

    #[test]
    fn what_waits_beside_the_queue_is_bounded_for_each_event() {
        let (notices, mut queue) = remembered(Clock::new(Arc::new(FakeTime::default()), Boot(1), 0));
        for n in 0..NOTICES_WAITING_MAX + STANDING_MAX + 7 {
            notices.tell(notice("broker_session_full", Phase::Active, &n.to_string(), "no room"));
        }
        notices.tell(notice("store_failed", Phase::Active, "store", "no disk"));
        assert_eq!(notices.dropped(), 7);
        let later = notices.later();
        let told = std::iter::from_fn(|| later.take(&mut queue));
        assert_eq!(told.map(|told| told.event).filter(|event| *event == "store_failed").count(), 1);
    }
}
