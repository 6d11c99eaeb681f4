//! What a person should know beside the list of devices: what else was heard, and what to try when nothing was. Pure.

use super::Place;
use super::found::{Survey, Tally};
use super::prober::Sign;
use super::units;
use crate::config::units::write_duration;

/// Fewer bytes than this come from switching a transmitter, or from plugging in.
const BYTES_MIN: u64 = 3;

/// One sentence each.
pub fn notes(survey: &Survey, place: &Place) -> Vec<String> {
    let mut notes = survey.notes.clone();
    notes.extend(alike(survey));
    notes.extend(unasked(survey));
    notes.extend(survey.tallies.iter().filter_map(noisy));
    notes.extend(late(survey, place));
    notes.extend(gateway(survey, place));
    notes.extend(twice(survey));
    if survey.devices.iter().any(|device| device.sign == Sign::OtherId) {
        notes.push("an answer under another unit id is taken only with ignore_unit_id = true at its device".into());
    }
    if survey.devices.is_empty() {
        notes.extend(nothing(survey, place));
    }
    notes
}

fn alike(survey: &Survey) -> Option<String> {
    let alike = survey.alike.as_ref()?;
    let ids = units::shown(&alike.units);
    Some(match alike.exception {
        None => format!("answers every unit id ({ids}) alike: this is one device; any of them will do"),
        Some(code) if !survey.devices.iter().any(|device| device.unit == alike.unit) => {
            format!("for units {ids} the gateway says exception {code} to everything: taken for nobody there")
        }
        Some(code) => format!(
            "brings exception {code} for every unit id ({ids}): one device that has no such register (try --probe input:0), \
             or a gateway that answers so for units that are not there"
        ),
    })
}

/// Somebody else on the line.
fn unasked(survey: &Survey) -> Option<String> {
    let talks = |tally: &&Tally| tally.unasked.stale + tally.unasked.crc > 0 || tally.unasked.garbage >= BYTES_MIN;
    let settings: Vec<&str> = survey.tallies.iter().filter(talks).map(|tally| tally.setting.as_str()).collect();
    let valid = survey.tallies.iter().find(|tally| tally.unasked.stale > 0);
    let who = "another master, or a device that sends by itself; a line has one master, so stop it before you trust this list";
    match (valid, settings.as_slice()) {
        (_, []) => None,
        (Some(tally), _) => Some(format!("whole Modbus frames came unasked at {}: {who}", tally.setting)),
        (None, _) => Some(format!("bytes came unasked (while listening at {}): {who}", settings.join(", "))),
    }
}

/// Something talks, but not so that it can be understood.
fn noisy(tally: &Tally) -> Option<String> {
    if tally.noisy.is_empty() {
        return None;
    }
    let at = if tally.setting.is_empty() { String::new() } else { format!(" at {}", tally.setting) };
    let ids = units::shown(&tally.noisy);
    Some(if tally.found.is_empty() {
        format!("something talks here{at} (asked for unit {ids}), but no valid frame came: likely other settings")
    } else {
        format!(
            "broken frames{at} when unit {ids} was asked: two devices with one unit id, noise, or missing termination"
        )
    })
}

fn late(survey: &Survey, place: &Place) -> Option<String> {
    let late: u64 = survey.tallies.iter().map(|tally| tally.late).sum();
    (late > 0).then(|| {
        let answers = if late == 1 { "an answer came".to_owned() } else { format!("{late} answers came") };
        format!(
            "{answers} when nobody was waiting any more: a device or gateway needs longer than {} (try a longer \
             --timeout), or another master is at work",
            write_duration(place.timeout)
        )
    })
}

/// What is between us and the units.
fn gateway(survey: &Survey, place: &Place) -> Vec<String> {
    let all = |of: fn(&Tally) -> &Vec<u8>| -> Vec<u8> { survey.tallies.iter().flat_map(of).copied().collect() };
    let (absent, hung_up) = (all(|tally| &tally.absent), all(|tally| &tally.hung_up));
    let mut notes = Vec::new();
    if !absent.is_empty() {
        notes.push(format!(
            "a gateway says that nobody is there (exceptions 10, 11) for units {}",
            units::shown(&absent)
        ));
    }
    if !hung_up.is_empty() && !place.is_serial() {
        let why = survey.tallies.iter().find_map(|tally| tally.hung_up_why.as_deref()).unwrap_or_default();
        notes.push(format!("the connection ended at the question for units {} ({why})", units::shown(&hung_up)));
    }
    notes
}

/// One unit id, two devices.
fn twice(survey: &Survey) -> Vec<String> {
    let mut ids: Vec<u8> = survey.devices.iter().map(|device| device.unit).collect();
    ids.sort_unstable();
    let mut twice: Vec<u8> = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    twice.dedup();
    let note =
        |unit| format!("unit {unit} is there more than once, at different settings: give each device an id of its own");
    twice.into_iter().map(note).collect()
}

fn nothing(survey: &Survey, place: &Place) -> Option<String> {
    if survey.tallies.iter().any(|tally| !tally.is_silent()) {
        return None;
    }
    let timeout = write_duration(place.timeout);
    Some(match place.kind {
        _ if place.is_serial() => format!(
            "nobody answered within {timeout}: is the device powered, are A and B swapped, is the line terminated? Some are \
             slower (--timeout 1s), or keep quiet about registers they do not have (--probe input:0)"
        ),
        "modbus-tcp" => "connected, but nobody answered: the unit id may be another, or this is a serial server in \
                         transparent mode (try --rtu-over-tcp)"
            .to_owned(),
        "modbus-udp" => "nobody answered; over UDP that may also mean that nobody is there at all".to_owned(),
        _ => format!(
            "connected, but nobody answered within {timeout}: unit ids, wiring, line settings behind the server"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::found::Alike;
    use super::*;
    use crate::field::stats::Noise;
    use std::time::Duration;

    fn of(tally: Tally) -> String {
        let place =
            Place { name: "p".into(), kind: "modbus-rtu", lines: String::new(), timeout: Duration::from_millis(300) };
        notes(&Survey { tallies: vec![tally], ..Survey::default() }, &place).join("\n")
    }

    #[test]
    fn what_is_heard_is_told_with_what_to_do() {
        let tally = || Tally { asked: 9, ..Tally::new("9600-8N1") };
        assert!(of(tally()).contains("A and B swapped") && of(tally()).contains("300ms"));
        let noisy = of(Tally { noisy: vec![3], ..tally() });
        assert!(noisy.contains("something talks here at 9600-8N1 (asked for unit 3)") && !noisy.contains("swapped"));
        assert!(of(Tally { noisy: vec![3], found: vec![4], ..tally() }).contains("two devices with one unit id"));
        let bytes = Noise { garbage: 40, ..Noise::default() };
        assert!(of(Tally { unasked: bytes, ..tally() }).contains("bytes came unasked (while listening at 9600-8N1)"));
        let frames = Noise { stale: 2, ..Noise::default() };
        assert!(of(Tally { unasked: frames, ..tally() }).contains("whole Modbus frames came unasked at 9600-8N1"));
        assert!(of(Tally { late: 2, ..tally() }).contains("longer --timeout"));
        assert!(
            of(Tally { absent: vec![1, 2, 3], ..tally() })
                .contains("nobody is there (exceptions 10, 11) for units 1-3")
        );
    }

    #[test]
    fn who_answers_for_every_id_is_told_so() {
        let alike = |exception| Some(Alike { unit: 1, units: (0..=255).collect(), exception });
        let told =
            |exception| super::alike(&Survey { alike: alike(exception), ..Survey::default() }).unwrap_or_default();
        assert!(told(None).contains("answers every unit id (0-255) alike: this is one device"));
        assert!(told(Some(4)).contains("taken for nobody there"));
    }
}
