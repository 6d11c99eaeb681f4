//! Deadband and heartbeat: which of the values read are worth a sample.
//!
//! Fed by the bus, one [`Filter`] per tag. Promises: the first value and every change of quality are samples; without
//! a deadband every good or uncertain value is one; with it a smaller change is none until the heartbeat is due; a tag
//! that stays bad costs one sample per [`BAD_HEARTBEAT`].

use std::time::Duration;

use crate::model::quality::Quality;
use crate::model::time::Stamp;
use crate::model::value::Value;

/// How often a tag that stays bad is said to be bad again.
pub const BAD_HEARTBEAT: Duration = Duration::from_secs(300);

/// Floating-point dust: 23.2 - 23.1 is a hair less than a deadband of 0.1 and still a change of 0.1.
const DUST: f64 = 1e-9;

/// Whether a value becomes a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// Send it.
    Sample,
    /// The receiver knows it well enough.
    Nothing,
}

/// What was last sent of one tag.
#[derive(Debug, Clone)]
pub struct Filter {
    deadband: Option<f64>,
    heartbeat: Option<Duration>,
    sent: Option<Sent>,
}

#[derive(Debug, Clone)]
struct Sent {
    value: Option<Value>,
    quality: Quality,
    at: Stamp,
}

impl Filter {
    /// `deadband` absolute, in engineering units; `heartbeat` counts only with a deadband.
    pub const fn new(deadband: Option<f64>, heartbeat: Option<Duration>) -> Self {
        Self { deadband, heartbeat, sent: None }
    }

    /// Judges a value; what is worth a sample is remembered as sent.
    pub fn offer(&mut self, value: Option<&Value>, quality: Quality, at: Stamp) -> Worth {
        if self.sent.as_ref().is_some_and(|sent| self.known(sent, value, quality, at)) {
            return Worth::Nothing;
        }
        if self.deadband.is_none() && !matches!(quality, Quality::Bad(_)) {
            // Every value of this tag is a sample: only the quality will be compared.
            self.sent = Some(Sent { value: None, quality, at });
        } else {
            self.sent = Some(Sent { value: value.cloned(), quality, at });
        }
        Worth::Sample
    }

    fn known(&self, sent: &Sent, value: Option<&Value>, quality: Quality, at: Stamp) -> bool {
        if sent.quality != quality {
            return false;
        }
        let quiet = at.since(sent.at);
        if matches!(quality, Quality::Bad(_)) {
            return quiet < BAD_HEARTBEAT;
        }
        let Some(deadband) = self.deadband else {
            return false;
        };
        self.heartbeat.is_none_or(|heartbeat| quiet < heartbeat) && is_small(sent.value.as_ref(), value, deadband)
    }
}

fn is_small(old: Option<&Value>, new: Option<&Value>, deadband: f64) -> bool {
    match (old, new) {
        (Some(Value::Bool(old)), Some(Value::Bool(new))) => old == new,
        (Some(Value::Text(old)), Some(Value::Text(new))) => old == new,
        (Some(old), Some(new)) if old == new => true,
        (Some(old), Some(new)) => distance(old, new).is_some_and(|distance| distance < deadband * (1.0 - DUST)),
        _ => false,
    }
}

/// Of whole numbers exactly: a counter beyond 2^53 still counts by ones.
#[expect(
    clippy::cast_precision_loss,
    reason = "a distance beyond 2^53 is far beyond any deadband that tells ones apart"
)]
fn distance(old: &Value, new: &Value) -> Option<f64> {
    match (old.as_whole(), new.as_whole()) {
        (Some(old), Some(new)) => Some(old.abs_diff(new) as f64),
        _ => Some((new.as_f64()? - old.as_f64()?).abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Cause;
    use crate::model::time::Boot;

    fn at(seconds: i64) -> Stamp {
        Stamp { boot: Boot(1), micros: seconds * 1_000_000 }
    }

    fn offer(filter: &mut Filter, value: f64, second: i64) -> Worth {
        filter.offer(Some(&Value::Float(value)), Quality::Good, at(second))
    }

    #[test]
    fn without_a_deadband_every_good_value_is_a_sample() {
        let mut filter = Filter::new(None, None);
        for second in 0..3 {
            assert_eq!(offer(&mut filter, 1.0, second), Worth::Sample);
        }
    }

    #[test]
    fn a_change_smaller_than_the_deadband_waits_for_the_heartbeat() {
        let mut filter = Filter::new(Some(0.1), Some(Duration::from_secs(60)));
        assert_eq!(offer(&mut filter, 23.1, 0), Worth::Sample, "the first value");
        assert_eq!(offer(&mut filter, 23.15, 1), Worth::Nothing);
        assert_eq!(offer(&mut filter, 23.2, 2), Worth::Sample, "exactly the deadband, in spite of binary fractions");
        assert_eq!(offer(&mut filter, 23.11, 3), Worth::Nothing, "measured from what was sent, not from what was read");
        assert_eq!(offer(&mut filter, 23.2, 61), Worth::Nothing);
        assert_eq!(offer(&mut filter, 23.2, 62), Worth::Sample, "the heartbeat");
    }

    #[test]
    fn a_change_of_quality_is_always_a_sample_and_staying_bad_costs_one() {
        let mut filter = Filter::new(Some(10.0), None);
        assert_eq!(offer(&mut filter, 1.0, 0), Worth::Sample);
        let timeout = Quality::Bad(Cause::Timeout);
        assert_eq!(filter.offer(None, timeout, at(1)), Worth::Sample);
        assert_eq!(filter.offer(None, timeout, at(2)), Worth::Nothing);
        assert_eq!(filter.offer(None, Quality::Bad(Cause::Transport), at(3)), Worth::Sample, "another cause");
        assert_eq!(filter.offer(None, Quality::Bad(Cause::Transport), at(302)), Worth::Nothing);
        assert_eq!(filter.offer(None, Quality::Bad(Cause::Transport), at(303)), Worth::Sample, "the heartbeat");
        assert_eq!(offer(&mut filter, 1.0, 304), Worth::Sample, "the same value, but good again");
        let uncertain = Quality::Uncertain(Cause::Range);
        assert_eq!(filter.offer(Some(&Value::Float(1.5)), uncertain, at(305)), Worth::Sample);
        assert_eq!(filter.offer(Some(&Value::Float(1.6)), uncertain, at(306)), Worth::Nothing);
    }

    #[test]
    fn a_deadband_of_zero_sends_every_change_and_only_changes() {
        let mut filter = Filter::new(Some(0.0), None);
        assert_eq!(offer(&mut filter, 1.0, 0), Worth::Sample);
        assert_eq!(offer(&mut filter, 1.0, 1), Worth::Nothing);
        assert_eq!(offer(&mut filter, 1.000_001, 2), Worth::Sample);
        let (count, next) = (Value::Uint(1 << 60), Value::Uint((1 << 60) + 1));
        let mut filter = Filter::new(Some(1.0), None);
        assert_eq!(filter.offer(Some(&count), Quality::Good, at(0)), Worth::Sample);
        assert_eq!(filter.offer(Some(&next), Quality::Good, at(1)), Worth::Sample, "a large counter counts by ones");
        let (off, on) = (Value::Bool(false), Value::Bool(true));
        let mut filter = Filter::new(Some(5.0), None);
        assert_eq!(filter.offer(Some(&off), Quality::Good, at(0)), Worth::Sample);
        assert_eq!(filter.offer(Some(&on), Quality::Good, at(1)), Worth::Sample, "a switch has no small change");
    }
}
