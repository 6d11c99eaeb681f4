//! Alarms: limits with hysteresis and delays, one small state machine per condition.
//!
//! Fed with every usable value of a tag, whatever the deadband then makes of it. Promises: at its limit (see [`limits::met`]) a
//! value is an alarm; it is over when the value has come back by more than the hysteresis; `delay` and `off_delay` run from the first
//! value on the other side, and one value on the old side ends them; a value of bad quality neither raises nor clears,
//! and lets a running delay run on, which the next usable value then decides; each change is told once. Uncertain values
//! count. The delays are looked at when a value comes, so that an alarm is as punctual as its tag is polled; for values
//! that come only when they change, [`Alarm::tick`] lets time pass over the last one.

use std::time::Duration;

use super::limits;
use crate::config::plan::{AlarmPlan, TagPlan};
use crate::model::alarm::{Change, Condition, Level};
use crate::model::quality::Quality;
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;

/// The alarms of one tag.
#[derive(Debug, Clone)]
pub struct Alarm {
    tag: TagIx,
    hysteresis: f64,
    delay: Duration,
    off_delay: Duration,
    conditions: Vec<(Limit, Phase)>,
    /// The last value, if it was a usable one.
    last: Option<(Value, Quality)>,
}

/// What a value is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Above(Level, Mark),
    Below(Level, Mark),
    Is(bool),
}

/// A limit as it was written, and as the values of the tag meet it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mark {
    told: f64,
    met: f64,
}

/// Where one condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Rising { since: Stamp },
    Active,
    Falling { since: Stamp },
}

/// On which side of a limit a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// At it or beyond.
    Beyond,
    /// Short of it by no more than the hysteresis.
    Near,
    /// Back.
    Back,
}

impl Alarm {
    /// The alarms of a plan, all quiet.
    pub fn new(tag: TagIx, plan: &AlarmPlan) -> Self {
        let mark = |limit: f64| Mark { told: limit, met: limit };
        let limits = plan.limits.iter().map(|(level, limit)| match level {
            Level::Low | Level::LowLow => Limit::Below(*level, mark(*limit)),
            _ => Limit::Above(*level, mark(*limit)),
        });
        let limits = limits.chain(plan.state.map(Limit::Is));
        Self {
            tag,
            hysteresis: plan.hysteresis,
            delay: plan.delay,
            off_delay: plan.off_delay,
            conditions: limits.map(|limit| (limit, Phase::Quiet)).collect(),
            last: None,
        }
    }

    /// With its limits as the values of this tag meet them.
    #[must_use]
    pub fn met_by(mut self, tag: &TagPlan) -> Self {
        for (limit, _) in &mut self.conditions {
            if let Limit::Above(_, mark) | Limit::Below(_, mark) = limit {
                mark.met = limits::met(tag, mark.told);
            }
        }
        self
    }

    /// A condition that was active before a restart still is, until a value says otherwise.
    pub fn resume(&mut self, level: Level) {
        for (limit, phase) in &mut self.conditions {
            if limit.level() == level {
                *phase = Phase::Active;
            }
        }
    }

    /// Judges a value; what changed by it is added to `changes`.
    pub fn offer(&mut self, value: Option<&Value>, quality: Quality, at: Stamp, changes: &mut Vec<Change>) {
        self.last = value.filter(|_| !matches!(quality, Quality::Bad(_))).map(|value| (value.clone(), quality));
        self.tick(at, changes);
    }

    /// When a running delay will be over, if the value stays what it is.
    pub fn due(&self) -> Option<Stamp> {
        self.last.as_ref()?;
        let due = |(_, phase): &(Limit, Phase)| match phase {
            Phase::Rising { since } => Some(since.after(self.delay)),
            Phase::Falling { since } => Some(since.after(self.off_delay)),
            Phase::Quiet | Phase::Active => None,
        };
        self.conditions.iter().filter_map(due).min()
    }

    /// The last value still holds at this moment.
    pub fn tick(&mut self, at: Stamp, changes: &mut Vec<Change>) {
        let Some((value, quality)) = &self.last else { return };
        let (delay, off_delay) = (self.delay, self.off_delay);
        for (limit, phase) in &mut self.conditions {
            let Some(side) = limit.side(value, self.hysteresis) else { continue };
            let (next, change) = step(*phase, side, at, [delay, off_delay]);
            *phase = next;
            changes.extend(change.map(|condition| Change {
                tag: self.tag,
                level: limit.level(),
                condition,
                value: value.clone(),
                quality: *quality,
                limit: limit.value(),
                at,
            }));
        }
    }
}

/// The next phase of a condition, and what is to be told.
fn step(phase: Phase, side: Side, at: Stamp, [delay, off_delay]: [Duration; 2]) -> (Phase, Option<Condition>) {
    match (phase, side) {
        (Phase::Quiet, Side::Beyond) if delay.is_zero() => (Phase::Active, Some(Condition::Active)),
        (Phase::Quiet, Side::Beyond) => (Phase::Rising { since: at }, None),
        (Phase::Rising { since }, Side::Beyond) if at.since(since) >= delay => (Phase::Active, Some(Condition::Active)),
        (Phase::Rising { .. }, Side::Beyond) => (phase, None),
        (Phase::Quiet | Phase::Rising { .. }, Side::Near | Side::Back) => (Phase::Quiet, None),
        (Phase::Active, Side::Back) if off_delay.is_zero() => (Phase::Quiet, Some(Condition::Cleared)),
        (Phase::Active, Side::Back) => (Phase::Falling { since: at }, None),
        (Phase::Falling { since }, Side::Back) if at.since(since) >= off_delay => {
            (Phase::Quiet, Some(Condition::Cleared))
        }
        (Phase::Falling { .. }, Side::Back) => (phase, None),
        (Phase::Active | Phase::Falling { .. }, Side::Beyond | Side::Near) => (Phase::Active, None),
    }
}

impl Limit {
    const fn level(self) -> Level {
        match self {
            Self::Above(level, _) | Self::Below(level, _) => level,
            Self::Is(_) => Level::State,
        }
    }

    const fn value(self) -> Value {
        match self {
            Self::Above(_, limit) | Self::Below(_, limit) => Value::Float(limit.told),
            Self::Is(state) => Value::Bool(state),
        }
    }

    /// `None`: there is nothing to compare.
    fn side(self, value: &Value, hysteresis: f64) -> Option<Side> {
        let (number, limit) = match (self, value) {
            (Self::Is(state), Value::Bool(bit)) => return Some(if *bit == state { Side::Beyond } else { Side::Back }),
            (Self::Is(_), _) | (_, Value::Bool(_)) => return None,
            (Self::Above(_, limit), number) => (number.as_f64()?, limit.met),
            (Self::Below(_, limit), number) => (-number.as_f64()?, -limit.met), // seen from below
        };
        Some(if number >= limit {
            Side::Beyond
        } else if limit - number > hysteresis || hysteresis == 0.0 {
            Side::Back
        } else {
            Side::Near
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Cause;
    use crate::model::time::Boot;

    fn plan(limits: &[(Level, f64)]) -> AlarmPlan {
        AlarmPlan { limits: limits.to_vec(), ..AlarmPlan::plain() }
    }

    /// Feeds one value a second; what was told, as "second event state".
    fn told(plan: &AlarmPlan, values: &[Option<f64>]) -> Vec<String> {
        let mut alarm = Alarm::new(TagIx(0), plan);
        let mut told = Vec::new();
        for (second, value) in (0i64..).zip(values) {
            let mut changes = Vec::new();
            let at = Stamp { boot: Boot(1), micros: second * 1_000_000 };
            let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Cause::Timeout) };
            alarm.offer(value.map(Value::Float).as_ref(), quality, at, &mut changes);
            told.extend(
                changes.iter().map(|change| format!("{second} {} {}", change.level, change.condition.as_str())),
            );
        }
        told
    }

    fn good(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn an_alarm_begins_at_its_limit_and_ends_behind_its_hysteresis_and_each_is_told_once() {
        let high = AlarmPlan { hysteresis: 0.5, ..plan(&[(Level::High, 12.0)]) };
        let values = good(&[11.9, 12.0, 12.5, 11.8, 11.5, 12.0, 11.4, 11.9, 12.1]);
        assert_eq!(told(&high, &values), ["1 high active", "6 high cleared", "8 high active"]);
        let low = AlarmPlan { hysteresis: 0.5, ..plan(&[(Level::Low, -1.0)]) };
        assert_eq!(told(&low, &good(&[0.0, -1.0, -0.5, -0.4])), ["1 low active", "3 low cleared"]);
        let plain = plan(&[(Level::High, 12.0)]);
        assert_eq!(told(&plain, &good(&[12.0, 11.999])), ["0 high active", "1 high cleared"]);
    }

    #[test]
    fn each_level_is_an_alarm_of_its_own() {
        let both = plan(&[(Level::HighHigh, 14.0), (Level::High, 12.0), (Level::LowLow, 0.0), (Level::Low, 1.0)]);
        let expected = [
            "1 high active",
            "2 high_high active",
            "3 high_high cleared",
            "4 high cleared",
            "5 low_low active",
            "5 low active",
        ];
        assert_eq!(told(&both, &good(&[5.0, 13.0, 14.5, 13.0, 5.0, -1.0])), expected);
    }

    #[test]
    fn the_delays_run_from_the_first_value_on_the_other_side_and_end_with_one_on_the_old_side() {
        let high = AlarmPlan {
            hysteresis: 1.0,
            delay: Duration::from_secs(2),
            off_delay: Duration::from_secs(3),
            ..plan(&[(Level::High, 10.0)])
        };
        let values = good(&[11.0, 11.0, 9.5, 11.0, 11.0, 11.0, 8.0, 8.0, 9.5, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(told(&high, &values), ["5 high active", "12 high cleared"]);
    }

    #[test]
    fn bad_quality_neither_raises_nor_clears_and_a_running_delay_runs_on() {
        let high = AlarmPlan { delay: Duration::from_secs(2), ..plan(&[(Level::High, 10.0)]) };
        let values = [Some(11.0), None, None, Some(11.0), None, None, Some(11.0), Some(9.0)];
        assert_eq!(told(&high, &values), ["3 high active", "7 high cleared"]);
        assert_eq!(told(&high, &[None, None, None]), Vec::<String>::new());
    }

    #[test]
    fn a_value_that_comes_only_once_is_an_alarm_when_its_delay_is_over() {
        let high = AlarmPlan { delay: Duration::from_secs(2), ..plan(&[(Level::High, 10.0)]) };
        let mut alarm = Alarm::new(TagIx(0), &high);
        let (mut changes, at) = (Vec::new(), |second: i64| Stamp { boot: Boot(1), micros: second * 1_000_000 });
        alarm.offer(Some(&Value::Float(11.0)), Quality::Good, at(1), &mut changes);
        assert_eq!((changes.len(), alarm.due()), (0, Some(at(3))));
        alarm.tick(at(2), &mut changes);
        assert!(changes.is_empty());
        alarm.tick(at(3), &mut changes);
        assert_eq!((changes.len(), alarm.due()), (1, None));
        alarm.offer(Some(&Value::Float(9.0)), Quality::Good, at(4), &mut changes);
        alarm.offer(Some(&Value::Float(12.0)), Quality::Good, at(5), &mut changes);
        alarm.offer(None, Quality::Bad(Cause::Timeout), at(6), &mut changes);
        alarm.tick(at(60), &mut changes);
        assert_eq!((changes.len(), alarm.due()), (2, None), "not on the word of a value that is gone");
    }

    #[test]
    fn a_switch_is_an_alarm_in_one_state_and_uncertain_values_count() {
        let door = AlarmPlan { state: Some(false), ..AlarmPlan::plain() };
        let mut alarm = Alarm::new(TagIx(7), &door);
        let at = Stamp { boot: Boot(1), micros: 0 };
        let mut changes = Vec::new();
        alarm.offer(Some(&Value::Bool(true)), Quality::Good, at, &mut changes);
        assert!(changes.is_empty());
        let uncertain = Quality::Uncertain(Cause::Clock);
        alarm.offer(Some(&Value::Bool(false)), uncertain, at, &mut changes);
        let change = Change {
            tag: TagIx(7),
            level: Level::State,
            condition: Condition::Active,
            value: Value::Bool(false),
            quality: uncertain,
            limit: Value::Bool(false),
            at,
        };
        assert_eq!(changes, [change]);
    }

    #[test]
    fn what_was_active_before_a_restart_is_not_told_again_and_still_clears() {
        let mut alarm = Alarm::new(TagIx(0), &plan(&[(Level::High, 10.0)]));
        alarm.resume(Level::High);
        let mut changes = Vec::new();
        let at = |micros| Stamp { boot: Boot(2), micros };
        alarm.offer(Some(&Value::Int(11)), Quality::Good, at(1), &mut changes);
        assert!(changes.is_empty());
        alarm.offer(Some(&Value::Int(9)), Quality::Good, at(2), &mut changes);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].condition, Condition::Cleared);
    }
}
