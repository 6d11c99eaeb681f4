//! How long a scan takes at worst: when nobody answers, or only the last one asked. Pure.

use std::time::Duration;

use crate::config::plan::BusPlan;
use crate::field::modbus::timing::Timing;

/// Data of an answer to the question for one register.
const DATA: u32 = 2;

/// The time that a unit takes that is not there: waiting for it, and on a line whose answers have no numbers the silence
/// in which a late one would come.
pub fn silence(bus: &BusPlan) -> Duration {
    let timing = Timing::new(bus);
    let wait = timing.wait(bus.link.framing.transaction_bytes(DATA));
    if timing.is_numbered() { wait } else { wait + opening(bus) }
}

/// The time to listen on a line before the first question.
pub fn opening(bus: &BusPlan) -> Duration {
    let timing = Timing::new(bus);
    if timing.is_numbered() { Duration::ZERO } else { timing.response_timeout().max(timing.pause()) }
}

/// So many units at each of these settings.
pub fn all<'a>(buses: impl IntoIterator<Item = &'a BusPlan>, units: usize) -> Duration {
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    buses.into_iter().map(|bus| opening(bus) + silence(bus) * units).sum()
}

/// `45 s`, `6 min 20 s`, `2 h 5 min`
pub fn shown(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{BusLink, Parity, SerialPlan};

    #[test]
    fn a_silent_unit_costs_the_timeout_twice_on_a_line_and_once_on_a_network() {
        let line = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 };
        let timeout = Duration::from_millis(300);
        let of = |link| BusPlan { response_timeout: timeout, ..BusPlan::plain("bus", link) };
        let (serial, network) = (of(BusLink::rtu("/dev/ttyUSB0", line)), of(BusLink::tcp("plc:502")));
        assert_eq!(silence(&serial), timeout * 2);
        assert_eq!(silence(&network), timeout);
        assert_eq!(all([&serial, &serial], 10), timeout * 42);
    }

    #[test]
    fn times_are_shown_as_people_say_them() {
        let shown = |seconds: u64| shown(Duration::from_millis(seconds * 1000));
        assert_eq!([shown(45), shown(380), shown(120), shown(7500)], ["45 s", "6 min 20 s", "2 min", "2 h 5 min"]);
        assert_eq!(super::shown(Duration::from_millis(100)), "1 s");
    }
}
