//! How long a device thinks, measured as it runs, and which holes between its tags are worth reading over. Pure.
//!
//! On a serial line the bytes of a transaction have a known time; what is left of it is thinking. Elsewhere nobody knows
//! what lies behind the connection, such as a slow line behind a gateway: there a line is fitted through the times of long
//! and short reads, `time = request + registers × each`, and a hole is worth reading while it is cheaper than a request.

use std::time::Duration;

use crate::config::blocks::{REGISTERS_PER_READ_MAX, char_time, max_gap};
use crate::config::plan::{BusLink, DevicePlan};

/// The weight of one more answer in the mean: the last thirty or so count.
const WEIGHT: f64 = 1.0 / 32.0;
/// Fewer answers say nothing.
const ANSWERS_MIN: u32 = 16;
/// Reads must differ in length by this much, in registers, for a line through them to mean something.
const DEVIATION_MIN: f64 = 8.0;
/// A register that costs less than this costs nothing.
const REGISTER_MIN_SECS: f64 = 20e-6;

/// What is known of one device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Think {
    answers: u32,
    /// Mean of the thinking, seconds.
    thought: f64,
    /// Means of registers, seconds, registers², registers × seconds.
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Think {
    /// A read of this many registers and of this many bytes in both directions took so long.
    pub fn learn(&mut self, link: &BusLink, registers: u16, bytes: u32, took: Duration) {
        let wire = link.line().map_or(Duration::ZERO, |line| char_time(line) * bytes);
        self.answers = self.answers.saturating_add(1);
        // As a plain mean in the beginning, fading later.
        let weight = WEIGHT.max(1.0 / f64::from(self.answers));
        let blend = |mean: &mut f64, value: f64| *mean += (value - *mean) * weight;
        let (x, y) = (f64::from(registers), took.as_secs_f64());
        blend(&mut self.thought, took.saturating_sub(wire).as_secs_f64());
        blend(&mut self.x, x);
        blend(&mut self.y, y);
        blend(&mut self.xx, x * x);
        blend(&mut self.xy, x * y);
    }

    /// The largest hole worth reading over, as measured; `None`: not known yet.
    pub fn max_gap(&self, link: &BusLink, device: &DevicePlan) -> Option<u16> {
        if self.answers < ANSWERS_MIN {
            return None;
        }
        let pause = device.manners.delay_between_requests;
        if link.line().is_some() {
            return Some(max_gap(link, Duration::try_from_secs_f64(self.thought).ok()? + pause));
        }
        let variance = self.xx - self.x * self.x;
        if variance < DEVIATION_MIN * DEVIATION_MIN {
            return None;
        }
        let register = (self.xy - self.x * self.y) / variance;
        if register < REGISTER_MIN_SECS {
            return Some(REGISTERS_PER_READ_MAX);
        }
        let request = (self.y - register * self.x).max(0.0) + pause.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        Some((request / register).clamp(0.0, f64::from(REGISTERS_PER_READ_MAX)) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Parity, SerialPlan};
    use crate::model::tag::BusIx;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn on_a_serial_line_what_is_left_of_the_wire_time_is_thinking() {
        let link = BusLink::rtu("/dev/x", SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 });
        let device = DevicePlan::plain("d", BusIx(0), 1);
        let mut think = Think::default();
        let wire = char_time(link.line().expect("serial")) * (13 + 20);
        for answer in 0..40 {
            assert_eq!(think.max_gap(&link, &device).is_some(), answer >= ANSWERS_MIN);
            think.learn(&link, 10, 33, wire + 40 * MS);
        }
        assert_eq!(think.max_gap(&link, &device), Some(max_gap(&link, 40 * MS)));
        assert!(max_gap(&link, 40 * MS) > max_gap(&link, 10 * MS) + 10);
    }

    #[test]
    fn behind_a_gateway_a_slow_line_shows_in_the_times_of_long_reads() {
        let link = BusLink::tcp("h:502");
        let device = DevicePlan::plain("d", BusIx(0), 1);
        let measured = |each: Duration| {
            let mut think = Think::default();
            for turn in 0..60u16 {
                let registers = if turn % 2 == 0 { 2 } else { 60 };
                think.learn(&link, registers, 0, 30 * MS + each * u32::from(registers));
            }
            think.max_gap(&link, &device)
        };
        assert!(measured(2 * MS).is_some_and(|gap| (14..=15).contains(&gap)), "{:?}", measured(2 * MS));
        assert_eq!(measured(Duration::from_micros(1)), Some(REGISTERS_PER_READ_MAX));
        let mut alike = Think::default();
        (0..60).for_each(|_| alike.learn(&link, 10, 0, 50 * MS));
        assert_eq!(alike.max_gap(&link, &device), None, "reads of one length tell nothing");
    }
}
