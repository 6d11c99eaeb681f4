//! Messages as rows on disk, and back: clients' retained ones, what sessions are owed, and what they keep for sensors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::clients::Remembered;
use super::durable::cost_of;
use super::message::{Delivery, Holders, Keep, Message, Owed, Qos, Retain, Stage};
use super::wire::{Will, revive};
use crate::access::{Access, Holder, Identity};
use crate::disk::ledger::{MessageRow, OwedRow, Owing, Row, SensorRow, Source, WillRow};
use crate::flow::clock::Clock;
use crate::model::time::{Boot, Certainty, Stamp, signed_micros, signed_millis};
use crate::model::topic::{Owner, Ownership, check_topic};

/// In place of what tells names apart.
const PREDEFINED: u64 = 0;

/// A retained message as a row, with the client that has left it; its end of life is by the clock of this boot.
pub(super) fn row(message: &Message, source: Option<&Identity>, clock: &Clock) -> Row {
    Row {
        topic: message.topic.clone(),
        qos: message.qos.bits(),
        payload: message.payload.clone(),
        properties: properties(message),
        expires_unix_ms: ends_at(message, clock),
        source: source.map(|source| Source { owner: source.owner(), client: source.client().into() }),
    }
}

/// A retained message that was on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub message: Message,
    /// Who has left it, if the row says so.
    pub source: Option<Identity>,
    /// When it ends, where it has to be judged again: see [`End::is_open`].
    pub open: Option<End>,
    /// Its row says no boot by which it ends, and a row that does should take its place.
    pub unnumbered: bool,
}

/// A row as a retained message; `None` when it must not be served any more: expired, or the topic is the gateway's by now.
pub(super) fn message(row: Row, clock: &Clock, ownership: &Ownership, access: &Access) -> Option<Found> {
    if check_topic(&row.topic).is_err() || ownership.of(&row.topic) != Owner::Client || row.payload.is_empty() {
        return None;
    }
    let written = row.expires_unix_ms.map(End::of_row);
    let end = written.map(|end| end.found(clock));
    let expires = match end.map_or(Life::Endless, |end| end.life(clock)) {
        Life::Endless => None,
        Life::Until(end) => Some(end),
        Life::Over => return None,
    };
    let message = Message {
        topic: row.topic,
        qos: Qos::from_bits(row.qos)?,
        payload: row.payload,
        forwarded: revive(row.properties),
        expires,
        keep: Keep::Every,
        holders: Holders::default(),
    };
    let source = row.source.map(|source| access.owner(Holder { owner: &source.owner, client: &source.client }));
    Some(Found { message, source, open: end.filter(|end| end.is_open(clock)), unnumbered: end != written })
}

/// What goes on from one connection of a sensor to the next.
pub(super) fn sensor_row(remembered: &Remembered) -> SensorRow {
    let Remembered { will, predefined, given } = remembered;
    let will = will.as_ref().map(|will| WillRow {
        topic: will.topic.as_str().into(),
        payload: will.payload.clone(),
        qos: will.qos.bits(),
        retain: will.retain == Retain::Yes,
    });
    let predefined = predefined.iter().map(|id| (*id, PREDEFINED));
    SensorRow { will, known: predefined.chain(given.iter().map(|(id, name)| (*id, *name))).collect() }
}

/// The same, as it was on disk.
pub(super) fn remembered(row: &SensorRow) -> Remembered {
    let will = row.will.as_ref().and_then(|will| {
        let (topic, payload, qos) = (will.topic.to_string(), will.payload.clone(), Qos::from_bits(will.qos)?);
        Some(Will { topic, payload, qos, retain: will.retain.into(), delay: 0, expiry: None, forwarded: None })
    });
    let (predefined, given): (Vec<_>, Vec<_>) = row.known.iter().partition(|(_, name)| *name == PREDEFINED);
    Remembered {
        will,
        predefined: predefined.into_iter().map(|(id, _)| id).collect(),
        given: given.into_iter().collect(),
    }
}

/// A message that sessions are owed.
pub(super) fn owed_row(message: &Message, clock: &Clock) -> Arc<MessageRow> {
    Arc::new(MessageRow {
        topic: message.topic.clone(),
        qos: message.qos.bits(),
        payload: message.payload.clone(),
        properties: properties(message),
        expires_unix_ms: ends_at(message, clock),
    })
}

/// What one session makes of it.
pub(super) fn owing(delivery: &Delivery, ordinal: u64) -> Owing {
    let retain = delivery.retain == Retain::Yes;
    Owing { ordinal, qos: delivery.qos.bits(), retain, identifiers: delivery.ids.clone() }
}

/// What is owed, as it goes to the client. One that has expired says so.
pub(super) fn delivery(row: OwedRow, clock: &Clock) -> Delivery {
    let OwedRow { ordinal, message, qos, retain, identifiers, released } = row;
    let qos_of = |bits| Qos::from_bits(bits).unwrap_or(Qos::AtLeastOnce);
    let stage = if released { Stage::Released } else { Stage::Committed };
    let owed = Some(Owed { ordinal, cost: cost_of(&message, &identifiers), stage });
    let message = Message {
        topic: Arc::clone(&message.topic),
        qos: qos_of(message.qos),
        payload: message.payload.clone(),
        forwarded: revive(message.properties.clone()),
        expires: message.expires_unix_ms.and_then(|number| End::of_row(number).instant(clock)),
        keep: Keep::Every,
        holders: Holders::default(),
    };
    Delivery {
        message: Arc::new(message),
        qos: qos_of(qos),
        retain: retain.into(),
        ids: identifiers,
        owed,
        shared: None,
        held: None,
    }
}

/// Has a row with this end of life certainly expired?
pub(super) fn is_over(expires: i64, clock: &Clock) -> bool {
    End::of_row(expires).life(clock) == Life::Over
}

fn properties(message: &Message) -> Bytes {
    message.forwarded.as_ref().map_or_else(Bytes::new, |forwarded| forwarded.encoded.clone())
}

/// Boot and ms since its begin in one number: this many bits are for the ms, 278 years.
const MS_BITS: u32 = 43;
const MS_MAX: i64 = (1 << MS_BITS) - 1;
const BOOT_MAX: u32 = (1 << (63 - MS_BITS)) - 1;

/// When a life ends. By the clock of the boot, which is never stepped: a wall clock is days behind until it hears the time, or
/// a day ahead until somebody sets it right, and what was to live for an hour would be long over by then, or live on for a
/// day. Another boot knows when that was by the latest fix of this one. Wall time is written down only by a boot that has no
/// number, because its store could not be opened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// ms since 1970.
    Wall(i64),
    /// By the clock of a boot.
    Boot(Stamp),
}

impl End {
    /// As in the ledger: ms since 1970; or, below zero, −1 − (boot × 2⁴³ + ms since that boot).
    fn of_row(number: i64) -> Self {
        if number >= 0 {
            return Self::Wall(number);
        }
        let number = !number;
        let boot = Boot(u32::try_from(number >> MS_BITS).unwrap_or(0));
        Self::Boot(Stamp { boot, micros: (number & MS_MAX).saturating_mul(1000) })
    }

    fn row(self) -> i64 {
        match self {
            Self::Wall(unix_ms) => unix_ms.max(0),
            Self::Boot(Stamp { boot, micros }) => {
                let ms = (micros / 1000).clamp(0, MS_MAX);
                !(i64::from(boot.0.min(BOOT_MAX)) << MS_BITS | ms)
            }
        }
    }

    /// Of a row that was on disk at the start. When a strange boot was nobody will ever know: what ends by it has at most as
    /// long to live as that boot had run by then, from now on.
    fn found(self, clock: &Clock) -> Self {
        let now = clock.numbered(clock.now());
        match self {
            Self::Boot(end) if is_strange(end, now) => {
                Self::Boot(Stamp { micros: now.micros.saturating_add(end.micros), ..now })
            }
            end => end,
        }
    }

    /// Nobody vouches for the clock, or knows of earlier boots yet, and so this end is too far away, or none at all: to be asked
    /// again when somebody does.
    pub(super) fn is_open(self, clock: &Clock) -> bool {
        match self {
            Self::Wall(_) => !clock.is_fixed(),
            Self::Boot(end) => {
                let this_boot = clock.numbered(end).boot == clock.numbered(clock.now()).boot;
                !(this_boot || clock.is_fixed() && clock.is_numbered())
            }
        }
    }

    /// When that is, as far as is known now: just now, if it is over. `None`: never.
    pub(super) fn instant(self, clock: &Clock) -> Option<Instant> {
        match self.life(clock) {
            Life::Endless => None,
            Life::Until(end) => Some(end),
            Life::Over => Some(Instant::now()),
        }
    }

    fn life(self, clock: &Clock) -> Life {
        let Some(left) = self.left_ms(clock) else { return Life::Endless };
        match u64::try_from(left) {
            Ok(left @ 1..) => Life::Until(Instant::now() + Duration::from_millis(left.min(u64::from(u32::MAX) * 1000))),
            _ => Life::Over,
        }
    }

    /// ms until then, or since, if negative. A clock that nobody vouches for is behind, never ahead: by it nothing ends too
    /// early. `None`: nobody knows.
    fn left_ms(self, clock: &Clock) -> Option<i64> {
        let end = match self {
            Self::Wall(unix_ms) => return Some(unix_ms.saturating_sub(clock.wall_now().unix_ms)),
            Self::Boot(end) => clock.numbered(end),
        };
        let now = clock.numbered(clock.now());
        if end.boot == now.boot {
            return Some((end.micros - now.micros) / 1000);
        }
        if is_strange(end, now) {
            return Some(end.micros / 1000); // see `found`
        }
        let (then, now) = (clock.wall(end), clock.wall(now));
        let then_ms = match then.certainty {
            Certainty::Fixed => then.unix_ms,
            // Whatever was to live until then in that boot came before the next one began.
            Certainty::Until(began) => began.saturating_add(end.micros / 1000),
            Certainty::Floor => return None,
        };
        now.certainty.is_fixed().then(|| then_ms.saturating_sub(now.unix_ms))
    }
}

/// Is it of a boot without a number, or, as its number says, of another store?
fn is_strange(end: Stamp, now: Stamp) -> bool {
    end.boot == Boot(0) || now.boot != Boot(0) && end.boot > now.boot
}

fn ends_at(message: &Message, clock: &Clock) -> Option<i64> {
    let left = message.expires?.saturating_duration_since(Instant::now());
    let (now, wall) = (clock.numbered(clock.now()), clock.wall_now());
    let end = if now.boot == Boot(0) && wall.certainty.is_fixed() {
        End::Wall(wall.unix_ms.saturating_add(signed_millis(left)))
    } else {
        let micros = now.micros.saturating_add(signed_micros(left));
        End::Boot(Stamp { micros, ..now })
    };
    Some(end.row())
}

/// What is left of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Over,
    Until(Instant),
    /// It has no end, or none that anybody knows.
    Endless,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::{FakeTime, Fix, Seen};

    const NOON: i64 = 1_800_000_000_000;
    const DAY: i64 = 86_400_000;

    fn message_of(seconds: u64) -> Message {
        let expires = Some(Instant::now() + Duration::from_secs(seconds));
        let own = Message::own("t".into(), Bytes::from_static(b"x"), Keep::Every);
        Message { expires, ..own }
    }

    fn left(row: &MessageRow, clock: &Clock) -> Option<u64> {
        let end = End::of_row(row.expires_unix_ms.expect("it has an end")).instant(clock)?;
        Some(end.saturating_duration_since(Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_anybody_vouched_for_the_clock_lives_as_long_as_it_was_to() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(7), NOON - 3 * DAY);
        time.advance(Duration::from_secs(60));
        let row = owed_row(&message_of(3600), &clock);
        assert_eq!(left(&row, &clock), Some(3600));
        time.advance(Duration::from_secs(600));
        clock.learn(Fix { at: clock.now(), unix_ms: NOON });
        assert_eq!(left(&row, &clock), Some(3000), "though the clock was set on by three days");
        // Another boot, in which it is known when that one was.
        let later = Clock::new(Arc::new(FakeTime::default()), Boot(8), NOON);
        later.learn(Fix { at: Stamp { boot: Boot(7), micros: 660_000_000 }, unix_ms: NOON });
        assert_eq!(left(&row, &later), None, "nobody vouches for the clock of this one");
        later.learn(Fix { at: later.now(), unix_ms: NOON + 2_000_000 });
        assert_eq!(left(&row, &later), Some(1000));
        time.advance(Duration::from_secs(3000));
        assert_eq!(left(&row, &clock), Some(0));
        // And one in which nobody ever knew.
        let unsure = Clock::new(Arc::new(FakeTime::default()), Boot(9), NOON);
        unsure.learn(Fix { at: unsure.now(), unix_ms: NOON + 9 * DAY });
        assert_eq!(left(&row, &unsure), Some(3660), "it may only live longer, from when that boot was certainly over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_or_on_changes_no_life_of_that_boot_and_is_followed_in_the_next() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(7), NOON - DAY);
        let learn = |unix_ms| clock.learn(Fix { at: clock.now(), unix_ms });
        for wrong in [NOON + DAY, NOON - DAY] {
            learn(wrong);
            let row = owed_row(&message_of(3600), &clock);
            time.advance(Duration::from_secs(600));
            learn(NOON);
            assert_eq!(left(&row, &clock), Some(3000));
            let (right, next) = (clock.now(), Clock::new(Arc::new(FakeTime::default()), Boot(8), NOON));
            next.learn(Fix { at: right, unix_ms: NOON });
            next.learn(Fix { at: next.now(), unix_ms: NOON + 1_000_000 });
            assert_eq!(left(&row, &next), Some(2000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_whose_boot_gets_its_number_late_writes_that_and_knows_what_it_wrote_before() {
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(0), NOON);
        time.advance(Duration::from_secs(100));
        let before = owed_row(&message_of(60), &clock);
        clock.resume(Boot(7), Seen::default(), &[]);
        let after = owed_row(&message_of(60), &clock);
        let of_boot = |row: &MessageRow| End::of_row(row.expires_unix_ms.expect("it has an end"));
        assert_eq!(of_boot(&after), End::Boot(Stamp { boot: Boot(7), micros: 160_000_000 }));
        time.advance(Duration::from_secs(20));
        assert_eq!([left(&before, &clock), left(&after, &clock)], [Some(40), Some(40)]);
        // For other processes what has no number is of no boot that they know: it lives on, but not for ever.
        let (numbered, other) = (Clock::new(time.clone(), Boot(8), NOON), Clock::new(time.clone(), Boot(0), NOON));
        let anew = Clock::new(time.clone(), Boot(1), NOON);
        assert_eq!(left(&after, &anew), Some(160), "the store was deleted, and boots are counted anew");
        assert_eq!(left(&before, &numbered), Some(160));
        for clock in [&numbered, &other] {
            let now = clock.now();
            let micros = now.micros + 160_000_000;
            assert_eq!(of_boot(&before).found(clock), End::Boot(Stamp { micros, ..now }));
        }
    }

    #[test]
    fn an_end_by_an_earlier_boot_is_open_until_the_store_has_told_of_that_boot() {
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(0), NOON);
        clock.learn(Fix { at: clock.now(), unix_ms: NOON });
        let earlier = Stamp { boot: Boot(5), micros: 60_000_000 };
        assert!(End::Boot(earlier).is_open(&clock) && !End::Wall(NOON).is_open(&clock));
        clock.resume(Boot(7), Seen::default(), &[Fix { at: Stamp { micros: 0, ..earlier }, unix_ms: NOON - 10_000 }]);
        assert!(!End::Boot(earlier).is_open(&clock));
        assert_eq!(End::Boot(earlier).left_ms(&clock), Some(50_000));
    }

    #[test]
    fn an_end_of_life_comes_back_from_its_row_as_it_was() {
        let boot = |boot, ms: i64| End::Boot(Stamp { boot: Boot(boot), micros: ms * 1000 });
        for end in [End::Wall(0), End::Wall(NOON), boot(0, 0), boot(1, 0), boot(7, NOON), boot(BOOT_MAX, MS_MAX)] {
            assert_eq!(End::of_row(end.row()), end);
        }
        for number in [i64::MIN, i64::MIN + 1, -1, i64::MAX] {
            assert_eq!(End::of_row(number).row(), number);
        }
    }
}
