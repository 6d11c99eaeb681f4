//! A short history of one tag: few points that look like all of them when they are drawn as a line. Pure.
//!
//! Points come as fast as the tag is polled and go into slots of time. While there is room every point has a slot of its
//! own; when there is none left, every two neighbouring slots become one and slots are twice as long from then on, until
//! all of them together are [`SPAN`]; then the oldest goes. Of what falls into one slot the point stays that differs most
//! from the slot before: a peak of one poll is seen as long as its slot is, and so is a moment without a value.

/// What a history covers at most, tenths of a second.
pub const SPAN: u32 = 36_000;

/// What one point takes, bytes; and what a history takes beside its points.
pub const POINT_BYTES: usize = 4 + 8;
/// See above.
pub const EMPTY_BYTES: usize = size_of::<History>();

/// The points of one tag. Times are tenths of a second since some beginning; NaN stands for "no value".
#[derive(Debug, Clone, Default)]
pub struct History {
    times: Vec<u32>,
    values: Vec<f64>,
    slot: u32,
}

impl History {
    /// A new point, not older than the ones before. `most`: so many points may be kept.
    pub fn push(&mut self, time: u32, value: f64, most: usize) {
        if most < 4 {
            return;
        }
        let last = self.times.len().wrapping_sub(1);
        if let Some(begun) = self.times.last()
            && time < begun.saturating_add(self.slot)
        {
            let before = if last == 0 { f64::NAN } else { self.values[last - 1] };
            if last == 0 || stands_out(value, before) >= stands_out(self.values[last], before) {
                self.values[last] = value;
            }
            return;
        }
        while self.times.len() >= most {
            if self.slot.saturating_mul(u32::try_from(most).unwrap_or(u32::MAX)) >= SPAN {
                self.times.remove(0);
                self.values.remove(0);
            } else {
                self.halve();
            }
        }
        if self.times.len() == self.times.capacity() {
            // In few steps, and never more than are kept: a Vec by itself would take twice as much.
            let more = (most / 4).clamp(1, most - self.times.len());
            self.times.reserve_exact(more);
            self.values.reserve_exact(more);
        }
        self.times.push(time);
        self.values.push(value);
    }

    /// Every two slots become one.
    fn halve(&mut self) {
        let covered = self.times.last().copied().unwrap_or(0).saturating_sub(self.times.first().copied().unwrap_or(0));
        let mean = covered / u32::try_from(self.times.len()).unwrap_or(u32::MAX).max(1);
        self.slot = (self.slot.max(mean) * 2).max(1);
        let mut before = f64::NAN;
        let mut kept = 0;
        for place in (0..self.times.len()).step_by(2) {
            let one = self.values[place];
            let value = match self.values.get(place + 1) {
                Some(other) if stands_out(*other, before) > stands_out(one, before) || before.is_nan() && kept == 0 => {
                    *other
                }
                _ => one,
            };
            (self.times[kept], self.values[kept]) = (self.times[place], value);
            before = value;
            kept += 1;
        }
        self.times.truncate(kept);
        self.values.truncate(kept);
    }

    /// All points, the oldest first.
    pub fn points(&self) -> impl Iterator<Item = (u32, Option<f64>)> {
        let value = |value: &f64| (!value.is_nan()).then_some(*value);
        self.times.iter().copied().zip(self.values.iter().map(value))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        EMPTY_BYTES + self.times.capacity() * 4 + self.values.capacity() * 8
    }
}

/// How far a value is from the one before. Where one of them is none and the other is not there is nothing farther.
fn stands_out(value: f64, before: f64) -> f64 {
    match (value.is_nan(), before.is_nan()) {
        (true, true) => 0.0,
        (false, false) => (value - before).abs(),
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_never_takes_more_than_its_share_and_covers_an_hour() {
        for most in [4, 29, 120, 600] {
            let mut history = History::default();
            for second in 0..100_000_u32 {
                history.push(second * 10, f64::from(second), most);
                assert!(history.len() <= most && history.bytes() <= EMPTY_BYTES + most * POINT_BYTES, "{most}");
            }
            let times: Vec<u32> = history.points().map(|(time, _)| time).collect();
            assert!(times.is_sorted());
            let covered = times[times.len() - 1] - times[0];
            assert!(covered >= SPAN / 2 && covered <= SPAN * 3, "{most} points cover {covered}");
        }
    }

    #[test]
    fn a_peak_of_one_poll_and_a_moment_without_a_value_are_still_seen_later() {
        let mut history = History::default();
        for second in 0..1800_u32 {
            let value = match second {
                600 => 99.0,
                900 => f64::NAN,
                _ => 5.0,
            };
            history.push(second * 10, value, 29);
        }
        let values: Vec<Option<f64>> = history.points().map(|(_, value)| value).collect();
        assert!(values.contains(&Some(99.0)) && values.contains(&None), "{values:?}");
        assert!(values.iter().filter(|value| **value == Some(5.0)).count() >= 10, "{values:?}");
    }

    #[test]
    fn while_there_is_room_every_point_is_kept_and_without_any_none() {
        let mut history = History::default();
        (0..20).for_each(|tenth| history.push(tenth, f64::from(tenth), 20));
        assert_eq!(history.len(), 20);
        let mut none = History::default();
        (0..20).for_each(|tenth| none.push(tenth, 1.0, 0));
        assert!(none.is_empty());
    }
}
