//! The swinging door: which values a straight line between two others already tells.
//!
//! From the last kept value, the anchor, every later one opens a door: the slopes of the lines that pass it within
//! `swing`. A new value whose own line from the anchor goes through all doors is held; the one held before is told by
//! it and forgotten. One whose line does not go through makes the held value a kept one, with its own time, and the
//! anchor of what follows. (The usual form asks only whether the doors still overlap; then the stored line itself may be
//! off by twice the swing.)
//!
//! Promises: between two kept values of one quality, what was not kept lies within `swing` of the straight line, up to
//! rounding (a billionth); the first value, each change of quality, each value after the time went backwards or a
//! boot later, and one per `max_gap` are kept; at most one value is held, and [`Door::flush`] gives it out. What stays
//! bad is kept as [`Filter`] says.

use std::time::Duration;

use super::deadband::{Filter, Worth};
use crate::config::plan::Compression;
use crate::model::quality::Quality;
use crate::model::time::Stamp;
use crate::model::value::Value;

/// One value that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// A number.
    pub value: Value,
    /// Good or uncertain.
    pub quality: Quality,
    /// When.
    pub at: Stamp,
}

/// What is to be stored now.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// A value from before that turned out to be worth a sample: goes first.
    pub earlier: Option<Seen>,
    /// The value that was offered.
    pub now: Worth,
}

/// The doors of one tag.
#[derive(Debug, Clone)]
pub struct Door {
    swing: f64,
    max_gap: Duration,
    anchor: Option<Seen>,
    held: Option<Seen>,
    /// Slopes, per microsecond, that go through every door since the anchor.
    slopes: [f64; 2],
    bad: Filter,
}

const OPEN: [f64; 2] = [f64::NEG_INFINITY, f64::INFINITY];

impl Door {
    /// All doors open.
    pub const fn new(plan: Compression) -> Self {
        Self {
            swing: plan.swing,
            max_gap: plan.max_gap,
            anchor: None,
            held: None,
            slopes: OPEN,
            bad: Filter::new(None, None),
        }
    }

    /// Judges a value.
    pub fn offer(&mut self, value: Option<&Value>, quality: Quality, at: Stamp) -> Verdict {
        let worth = self.bad.offer(value, quality, at);
        let usable = value.filter(|_| !matches!(quality, Quality::Bad(_)));
        let Some(value) = usable else {
            let earlier = self.held.take();
            self.anchor = None;
            return Verdict { earlier, now: worth };
        };
        let new = Seen { value: value.clone(), quality, at };
        if self.anchor.as_ref().is_none_or(|anchor| !self.follows(anchor, &new)) {
            let earlier = self.held.take();
            self.begin_at(new);
            return Verdict { earlier, now: Worth::Sample };
        }
        if self.slope(&new).is_some_and(|slope| slope >= self.slopes[0] && slope <= self.slopes[1]) {
            return Verdict { earlier: None, now: self.hold(new) };
        }
        let earlier = self.flush();
        Verdict { earlier, now: self.hold(new) }
    }

    /// Gives out what is held: it becomes the anchor.
    pub fn flush(&mut self) -> Option<Seen> {
        let held = self.held.take()?;
        self.begin_at(held.clone());
        Some(held)
    }

    /// May a line lead from the anchor to this value?
    fn follows(&self, anchor: &Seen, new: &Seen) -> bool {
        let last = self.held.as_ref().unwrap_or(anchor).at;
        anchor.quality == new.quality && last.boot == new.at.boot && last < new.at && rise(anchor, new).is_some()
    }

    fn slope(&self, new: &Seen) -> Option<f64> {
        let anchor = self.anchor.as_ref()?;
        Some(rise(anchor, new)? / run(anchor, new))
    }

    fn begin_at(&mut self, anchor: Seen) {
        self.anchor = Some(anchor);
        self.slopes = OPEN;
    }

    /// Holds a value that goes through all doors, and sets up its own; after `max_gap` it is kept instead.
    fn hold(&mut self, new: Seen) -> Worth {
        let Some(anchor) = &self.anchor else { return Worth::Sample };
        let Some(rise) = rise(anchor, &new) else { return Worth::Sample };
        if new.at.since(anchor.at) >= self.max_gap {
            self.held = None;
            self.begin_at(new);
            return Worth::Sample;
        }
        let run = run(anchor, &new);
        let [low, high] = self.slopes;
        self.slopes = [low.max((rise - self.swing) / run), high.min((rise + self.swing) / run)];
        self.held = Some(new);
        Worth::Nothing
    }
}

/// How far the value has moved: of whole numbers exactly.
#[expect(clippy::cast_precision_loss, reason = "a distance beyond 2^53 is beyond any swing that tells ones apart")]
fn rise(from: &Seen, to: &Seen) -> Option<f64> {
    let rise = match (from.value.as_whole(), to.value.as_whole()) {
        (Some(from), Some(to)) => (to - from) as f64,
        _ => to.value.as_f64()? - from.value.as_f64()?,
    };
    rise.is_finite().then_some(rise)
}

/// Microseconds between two values; never 0, because time went on.
#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn run(from: &Seen, to: &Seen) -> f64 {
    to.at.micros.saturating_sub(from.at.micros).max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::quality::Cause;
    use crate::model::time::Boot;

    const SWING: f64 = 0.5;

    fn door() -> Door {
        Door::new(Compression { swing: SWING, max_gap: Duration::from_secs(600) })
    }

    fn at(second: i64) -> Stamp {
        Stamp { boot: Boot(1), micros: second * 1_000_000 }
    }

    /// What is kept of good values, one a second, as (second, value).
    fn kept(values: &[f64]) -> Vec<(i64, f64)> {
        let mut door = door();
        let mut kept = Vec::new();
        let plain = |seen: Seen| (seen.at.micros / 1_000_000, seen.value.as_f64().expect("a number"));
        for (second, value) in (0i64..).zip(values) {
            let verdict = door.offer(Some(&Value::Float(*value)), Quality::Good, at(second));
            kept.extend(verdict.earlier.map(plain));
            if verdict.now == Worth::Sample {
                kept.push((second, *value));
            }
        }
        kept.extend(door.flush().map(plain));
        kept
    }

    #[test]
    fn a_straight_line_is_two_samples_and_a_corner_keeps_its_own_time() {
        let ramp: Vec<f64> = (0..60).map(f64::from).collect();
        assert_eq!(kept(&ramp), [(0, 0.0), (59, 59.0)]);
        assert_eq!(kept(&[1.0, 1.2, 0.9, 1.1, 1.0]), [(0, 1.0), (4, 1.0)], "noise below the swing");
        let step = [0.0, 0.0, 0.0, 10.0, 10.0, 10.0];
        assert_eq!(kept(&step), [(0, 0.0), (2, 0.0), (3, 10.0), (5, 10.0)], "the step is where it was");
    }

    #[test]
    fn a_counter_beyond_two_to_the_53_still_counts_by_ones() {
        let mut door = door();
        let count = |n| Value::Uint((1 << 60) + n);
        let offer = |door: &mut Door, n, second| door.offer(Some(&count(n)), Quality::Good, at(second)).earlier;
        for second in 0i64..3 {
            assert_eq!(offer(&mut door, second.cast_unsigned(), second), None);
        }
        assert_eq!(offer(&mut door, 2, 3).expect("it stopped").value, count(2));
    }

    #[test]
    fn a_value_that_does_not_move_is_kept_once_per_gap_and_bad_ones_as_a_filter_says() {
        let values = [1.0; 1300];
        assert_eq!(kept(&values), [(0, 1.0), (600, 1.0), (1200, 1.0), (1299, 1.0)]);
        let mut door = door();
        door.offer(Some(&Value::Float(1.0)), Quality::Good, at(0));
        door.offer(Some(&Value::Float(1.0)), Quality::Good, at(1));
        let lost = door.offer(None, Quality::Bad(Cause::Timeout), at(2));
        assert_eq!((lost.earlier.expect("what was held").at, lost.now), (at(1), Worth::Sample));
        let still = door.offer(None, Quality::Bad(Cause::Timeout), at(3));
        assert_eq!(still, Verdict { earlier: None, now: Worth::Nothing });
    }

    #[derive(Debug, Clone)]
    enum Event {
        Read { value: f64, uncertain: bool, later_ms: i64 },
        Bad { cause: bool, later_ms: i64 },
        Stop,
        Crash,
        Boot,
    }

    fn event() -> impl Strategy<Value = Event> {
        let value = prop_oneof![-2.0..2.0, -1e6..1e6, Just(0.0), Just(1e300), (-100i32..100).prop_map(f64::from)];
        let later = prop_oneof![20 => 1i64..5000, 2 => -5000i64..=0, 1 => 1_000_000i64..2_000_000];
        prop_oneof![
            40 => (value, prop::bool::weighted(0.05), later.clone())
                .prop_map(|(value, uncertain, later_ms)| Event::Read { value, uncertain, later_ms }),
            2 => (any::<bool>(), later).prop_map(|(cause, later_ms)| Event::Bad { cause, later_ms }),
            1 => Just(Event::Stop),
            1 => Just(Event::Crash),
            1 => Just(Event::Boot),
        ]
    }

    /// What a receiver has: the last kept value, and what was read since then and not kept.
    #[derive(Default)]
    struct Receiver {
        last: Option<Seen>,
        missing: Vec<Seen>,
    }

    impl Receiver {
        fn keep(&mut self, kept: Seen) {
            for lost in std::mem::take(&mut self.missing).iter().filter(|lost| **lost != kept) {
                let last = self.last.as_ref().expect("the first value is kept");
                assert_eq!((last.quality, kept.quality), (lost.quality, lost.quality), "a line of one quality");
                assert!(last.at < lost.at && lost.at < kept.at, "a line forward in time");
                let number = |seen: &Seen| seen.value.as_f64().expect("a number");
                let part = run(last, lost) / run(last, &kept);
                let line = number(last) + (number(&kept) - number(last)) * part;
                let off = (line - number(lost)).abs();
                let dust = 1e-9 * (SWING + number(last).abs() + number(&kept).abs());
                assert!(off <= SWING + dust, "{off} off at {lost:?}, between {last:?} and {kept:?}");
            }
            self.last = Some(kept);
        }
    }

    proptest! {
        #[test]
        fn what_is_not_kept_lies_within_the_swing_of_a_straight_line(
            events in prop::collection::vec(event(), 1..300)
        ) {
            let (mut door, mut receiver, mut now) = (door(), Receiver::default(), at(1000));
            for event in events {
                match event {
                    Event::Read { value, uncertain, later_ms } => {
                        now.micros += later_ms * 1000;
                        let quality = if uncertain { Quality::Uncertain(Cause::Range) } else { Quality::Good };
                        let new = Seen { value: Value::Float(value), quality, at: now };
                        let verdict = door.offer(Some(&new.value), quality, now);
                        verdict.earlier.into_iter().for_each(|earlier| receiver.keep(earlier));
                        match verdict.now {
                            Worth::Sample => receiver.keep(new),
                            Worth::Nothing => receiver.missing.push(new),
                        }
                    }
                    Event::Bad { cause, later_ms } => {
                        now.micros += later_ms * 1000;
                        let cause = if cause { Cause::Nan } else { Cause::Timeout };
                        let verdict = door.offer(None, Quality::Bad(cause), now);
                        verdict.earlier.into_iter().for_each(|earlier| receiver.keep(earlier));
                        prop_assert!(receiver.missing.is_empty(), "nothing is held across a bad value");
                        receiver.last = None;
                    }
                    Event::Stop => door.flush().into_iter().for_each(|held| receiver.keep(held)),
                    // What was held goes with the process; afterwards everything begins anew.
                    Event::Crash => (door, receiver) = (self::door(), Receiver::default()),
                    Event::Boot => now.boot = Boot(now.boot.0 + 1),
                }
            }
            door.flush().into_iter().for_each(|held| receiver.keep(held));
            prop_assert!(receiver.missing.is_empty(), "everything was told");
        }
    }
}
