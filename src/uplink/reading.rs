//! What is retained on topics that go both ways (a bridge's `both`): when it is read from the other broker, and what of it
//! is too old for this one.
//!
//! It came from here, perhaps, and while something newer still waits in the store for its turn it must not take the place
//! of that. So where a session begins with anything owed, nothing retained is asked for on those topics; when nothing waits
//! any more they are subscribed to once more, with what is retained: that comes behind all that has arrived, so what is sent
//! is what came there last, and both sides have the same. Only MQTT 5 can ask for nothing; such a bridge speaks no other.
//!
//! What is left here while it is on its way is newer than any of it ([`Fence`]). The fence stands where the other broker has
//! all that is behind it. So first the version of what is retained here is noted, then the store commits what it has (a
//! message of QoS 0 waits for that up to a minute, and is not owed until then), then it is seen what is owed, and what is
//! retained there is asked for when all that has arrived.
//!
//! Nothing on the wire tells what was retained there for long from what somebody publishes there now: where both sides leave
//! something on one topic in that time, what comes down may be older than what is here, or newer. Such a one is not taken,
//! and its rule is read again later, in the same way; the fence has moved on by then. What comes is then what the other
//! broker has in the end. Each time that costs bytes, so the pause before it doubles. What was cleared there would not come: of
//! that it is only told that what is here stays.
//!
//! What a session has not come to read is read in the next. It is read anew also where the other broker has kept our session:
//! of a topic that both sides have published on meanwhile, what waited there comes down and what waited here goes up, and
//! each would keep the other's; and its queue may have been full, of which nobody would tell us.
//!
//! What this side sent comes back with all that is retained there (No Local is not for that), and may be older than what is
//! here by now. That is no contest: the first to come on a topic after it was asked for is what stood there then, and if
//! that is the last that went there before the question, on the same connection, it is an [echo](Fence::came).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, timeout};

use super::client::{Client, Handling};
use super::feeder::Progress;
use super::line::Line;
use super::session::{End, Session};
use super::source::Source;
use super::version::Known;
use crate::model::lock::Hold as _;
use crate::store::Ends;

/// More of it may be on its way so long after the broker has answered, or after the last that came.
const COMING_FOR: Duration = Duration::from_secs(60);
/// But no longer than this after it was asked for: what is published there all the time may look the same.
const COMING_MAX: Duration = Duration::from_secs(15 * 60);
/// Topics of which it is remembered what went there last, in one session. An echo on another one is contested.
const SENT_MAX: usize = 16_384;
/// The longest pause before it is read again.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// So long a session that begins waits for the store's commit; with a store that takes longer it asks for nothing as yet.
const COMMITTED_MAX: Duration = Duration::from_secs(1);
/// A store that cannot commit is asked again after this long.
const COMMITTED_AGAIN: Duration = Duration::from_secs(1);

/// Of one session.
#[derive(Debug)]
pub(super) struct Reading {
    /// What its first SUBSCRIBE asks for.
    pub(super) first: Handling,
    stage: Stage,
    /// It is not asked for before.
    not_before: Option<Instant>,
    /// From one time to the next.
    pause: Duration,
    pub(super) fence: Arc<Fence>,
}

/// How far it has come. What is to be read is in the fence, and stays there until it is asked for.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing has been begun.
    #[default]
    Idle,
    /// The store commits what came until what is retained here had this version.
    Settling { version: u64, settled: oneshot::Receiver<bool> },
    /// It is to be asked for when all this has arrived, that is what came until that version.
    Behind { version: u64, ends: Ends },
    /// The SUBSCRIBE that asks for it is not answered yet.
    Asked,
}

/// What has been left here since the other broker had all that was retained here stays, whatever comes down as retained.
/// Shared with whoever takes what comes down.
#[derive(Debug, Default)]
pub(super) struct Fence {
    ground: Mutex<Ground>,
    /// Of topics and payloads.
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct Ground {
    /// By rule: it moves only where what is retained there comes behind it.
    places: BTreeMap<usize, Place>,
    /// The rules, by their places, of which what is retained there is to be read.
    unread: BTreeSet<usize>,
    /// A message was contested, and a clearing.
    contested: [bool; 2],
    /// What went there last to be retained: hashes of topic and payload.
    sent: HashMap<u64, u64>,
    /// The same when it was last asked for, without what has come on since.
    echoes: HashMap<u64, u64>,
}

/// What came down to be retained and was not taken, for what is here may be newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contested {
    /// It comes again, if it stands there then.
    Message = 0,
    /// Of a topic on which nothing is to stand any more, nothing comes again.
    Clearing = 1,
}

/// Where the fence stands, and since when.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Of what is retained here.
    version: u64,
    asked: Instant,
    /// The broker's answer, or the last arrival after it.
    last: Option<Instant>,
}

impl Fence {
    /// What is retained there on topics of these rules is to be read.
    fn wants(&self, rules: BTreeSet<usize>) {
        self.ground.hold().unread = rules;
    }

    fn unread(&self) -> BTreeSet<usize> {
        self.ground.hold().unread.clone()
    }

    /// Those of them that may be asked for: of what was asked for before nothing has come for so long, so all of it is here. A
    /// fence that moved while it still comes would let it pass.
    fn due(&self, quiet: Duration) -> BTreeSet<usize> {
        let (ground, now) = (self.ground.hold(), Instant::now());
        let is_over =
            |place: &Place| now >= place.asked + COMING_MAX || place.last.is_some_and(|last| now >= last + quiet);
        ground.unread.iter().copied().filter(|rule| ground.places.get(rule).is_none_or(is_over)).collect()
    }

    /// This goes there, to be retained.
    pub(super) fn went(&self, topic: &str, payload: &[u8]) {
        let mut ground = self.ground.hold();
        let topic = self.hashes.hash_one(topic);
        let is_bridge = !(ground.places.is_empty() && ground.unread.is_empty());
        if is_bridge && (ground.sent.len() < SENT_MAX || ground.sent.contains_key(&topic)) {
            ground.sent.insert(topic, self.hashes.hash_one(payload));
        }
    }

    /// This is retained there, or is to be. True: an echo.
    pub(super) fn came(&self, topic: &str, payload: &[u8]) -> bool {
        let sent = self.ground.hold().echoes.remove(&self.hashes.hash_one(topic));
        sent == Some(self.hashes.hash_one(payload))
    }

    /// The other broker has all that this version speaks of, and what is retained there on topics of these rules is asked for
    /// now.
    fn raise(&self, version: u64, rules: &BTreeSet<usize>) {
        let mut ground = self.ground.hold();
        let place = Place { version, asked: Instant::now(), last: None };
        ground.places.extend(rules.iter().map(|rule| (*rule, place)));
        let Ground { echoes, sent, .. } = &mut *ground;
        echoes.clone_from(sent);
        ground.unread.retain(|rule| !rules.contains(rule));
    }

    /// The broker has answered: it is on its way.
    fn answered(&self) {
        for place in self.ground.hold().places.values_mut() {
            place.last.get_or_insert_with(Instant::now);
        }
    }

    /// One has come by this rule that is retained there, or is to be. While the fence stands: what is newer here than this
    /// stays.
    pub(super) fn met(&self, rule: usize) -> Option<u64> {
        let (mut ground, now) = (self.ground.hold(), Instant::now());
        let place = ground.places.get_mut(&rule)?;
        let stands = now < place.asked + COMING_MAX && place.last.is_none_or(|last| now < last + COMING_FOR);
        if !stands {
            return None;
        }
        place.last = place.last.map(|_| now);
        Some(place.version)
    }

    /// One was not taken: its rule is to be read again, if that brings anything. True: it is the first such.
    pub(super) fn contest(&self, rule: usize, what: Contested) -> bool {
        let mut ground = self.ground.hold();
        if what == Contested::Message {
            ground.unread.insert(rule);
        }
        !std::mem::replace(&mut ground.contested[what as usize], true)
    }
}

impl Default for Reading {
    /// Of an uplink without topics that go both ways.
    fn default() -> Self {
        let (first, stage, pause) = (Handling::AtFirst, Stage::Idle, Duration::ZERO);
        Self { first, stage, not_before: None, pause, fence: Arc::default() }
    }
}

impl Reading {
    /// It is asked for now.
    fn asks(&mut self, version: u64, rules: &BTreeSet<usize>) {
        self.fence.raise(version, rules);
        self.stage = Stage::Asked;
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// For the next session: what the other broker has is not known as long as it may have heard that we do not ask.
    pub(super) fn leave(&self, line: &Line, known: &mut Known) {
        if line.is_agreed() {
            let is_open = matches!(self.stage, Stage::Asked) && !line.has_subscribed();
            known.unread = is_open || !self.fence.unread().is_empty();
        }
    }
}

impl<S: Source> Session<'_, S> {
    /// Before the first SUBSCRIBE.
    pub(super) async fn begin_reading(&self, known: &Known) -> Reading {
        let mut reading = Reading { pause: self.timing.read_again, ..Reading::default() };
        let Some((down, both_ways)) = self.down.map(|down| (down, down.both_ways())) else { return reading };
        if both_ways.is_empty() {
            return reading;
        }
        let (version, settled) = (down.version(), self.source.settle());
        let is_settled = matches!(timeout(COMMITTED_MAX, settled).await, Ok(Ok(true)));
        if !is_settled || self.source.backlog() > 0 {
            reading.first = Handling::Never;
            reading.fence.wants(both_ways);
        } else {
            reading.first = if known.unread { Handling::Always } else { Handling::AtFirst };
            reading.asks(version, &both_ways);
        }
        reading
    }

    /// Asks for it when it is due: TCP keeps that behind all that is on its way.
    pub(super) fn read_when_due(&self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        let Some(down) = self.down else { return Ok(()) };
        let waits = !progress.lanes.is_empty() || self.source.backlog() > line.owed();
        let reading = &mut progress.reading;
        if matches!(reading.stage, Stage::Asked) && line.has_subscribed() {
            reading.fence.answered();
            reading.stage = Stage::Idle;
        }
        let due = reading.fence.due(self.timing.read_again);
        let is_time = reading.not_before.is_none_or(|at| at <= Instant::now());
        if matches!(reading.stage, Stage::Idle) && !due.is_empty() && is_time && !waits {
            let (version, settled) = (down.version(), self.source.settle());
            reading.stage = Stage::Settling { version, settled };
        }
        if let Stage::Settling { version, settled } = &mut reading.stage {
            match settled.try_recv() {
                Ok(true) => reading.stage = Stage::Behind { version: *version, ends: self.source.ends() },
                Err(TryRecvError::Empty) => {}
                Ok(false) | Err(TryRecvError::Closed) => {
                    reading.not_before = Some(Instant::now() + COMMITTED_AGAIN);
                    reading.stage = Stage::Idle;
                }
            }
        }
        let Stage::Behind { version, ends } = &reading.stage else { return Ok(()) };
        if due.is_empty() {
            reading.stage = Stage::Idle; // more has come of what was asked for before
            return Ok(());
        }
        if self.source.is_behind(ends) {
            return Ok(());
        }
        let wanted = down.filters_again(&due);
        if line.subscribes_again(wanted.iter().map(|wanted| wanted.filter.clone()).collect()) {
            reading.asks(*version, &due);
            client.subscribe(&wanted)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_long_after_all_that_was_on_its_way_is_not_held_for_old() {
        let (fence, rule) = (Fence::default(), BTreeSet::from([3]));
        assert_eq!(fence.met(3), None, "nothing was asked for");
        fence.raise(7, &rule);
        tokio::time::advance(2 * COMING_FOR).await;
        assert_eq!((fence.met(3), fence.met(4)), (Some(7), None), "the broker takes its time");
        fence.answered();
        tokio::time::advance(COMING_FOR).await;
        assert_eq!(fence.met(3), None);
        fence.raise(8, &rule);
        fence.answered();
        let mut stood = Duration::ZERO;
        while fence.met(3) == Some(8) {
            assert!(stood < COMING_MAX, "for ever");
            stood += COMING_FOR / 2;
            tokio::time::advance(COMING_FOR / 2).await;
        }
        assert_eq!(stood, COMING_MAX, "one after the other");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_again_while_what_was_asked_for_before_still_comes() {
        let (fence, rule, quiet) = (Fence::default(), BTreeSet::from([3]), Duration::from_secs(10));
        fence.wants(rule.clone());
        assert_eq!(fence.due(quiet), rule, "nothing was asked for yet");
        fence.raise(7, &rule);
        fence.contest(3, Contested::Message);
        tokio::time::advance(2 * quiet).await;
        assert!(fence.due(quiet).is_empty(), "no answer yet");
        fence.answered();
        for _ in 0..5 {
            tokio::time::advance(quiet * 9 / 10).await;
            assert!(fence.due(quiet).is_empty() && fence.met(3) == Some(7), "one after the other");
        }
        tokio::time::advance(quiet).await;
        assert_eq!(fence.due(quiet), rule);
    }

    #[test]
    fn an_echo_is_the_first_to_come_and_what_went_there_last_before_the_question() {
        let (fence, rule) = (Fence::default(), BTreeSet::from([0]));
        fence.went("a", b"of an uplink that is no bridge");
        fence.raise(7, &rule);
        assert!(!fence.came("a", b"of an uplink that is no bridge"));
        for payload in [b"off", b"on "] {
            fence.went("a", payload);
            fence.went("b", payload);
        }
        fence.raise(8, &rule);
        fence.went("a", b"new");
        assert!(fence.came("a", b"on ") && !fence.came("a", b"on "), "somebody has published it again");
        assert!(!fence.came("b", b"off") && !fence.came("b", b"on "), "what stood there was another one");
        assert!(!fence.came("c", b"on "), "never went there");
    }

    #[test]
    fn what_is_contested_after_it_was_asked_for_is_read_once_more() {
        let fence = Fence::default();
        fence.wants(BTreeSet::from([1, 2]));
        let asked = fence.unread();
        let contest = |rule, what| fence.contest(rule, what);
        assert!(contest(3, Contested::Message) && !contest(1, Contested::Message), "told once");
        assert!(contest(4, Contested::Clearing) && !contest(4, Contested::Clearing), "of which nothing would come");
        fence.raise(7, &asked);
        assert_eq!(fence.unread(), BTreeSet::from([3]));
        fence.raise(8, &BTreeSet::from([1]));
        assert_eq!([1, 2, 3].map(|rule| fence.met(rule)), [Some(8), Some(7), None], "it moves with what is asked for");
    }
}
