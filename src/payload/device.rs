//! Layout `device` of the JSON format: one object for the samples of one device, poll and class.
//!
//! `{"time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8123,"seq":4711,"count":3,"values":{"pressure":12.5},
//! "bad":{"flow":"timeout"},"uncertain":{"level":[7.1,"range"]},"at":{"level":12}}`
//!
//! The tag names of values, bad and uncertain together, sorted bytewise, have the numbers seq, seq + 1 …; `time` is that of
//! the earliest reply, `at` says how many ms later another one came. `values`, `bad`, `uncertain` and `at` are left out
//! when empty; `previous` stands behind seq as in layout `tag`, `time_until` behind time: it holds for every sample of the
//! message, as it is when the next boot began (all samples of a poll are of one boot).
//!
//! A message has one number and counts by the names, so it can hold what lies together in the stream in the order of the
//! names. A device that is read in one block has one message a poll. Read in several, it has one for each block whose names do
//! not all follow those of the block before, or between whose replies another bus had samples of the same class.

use std::io::Write;

use super::json::{Previous, honest, write_number, write_text, write_until, write_value};
use crate::model::number::Number;
use crate::model::quality::{Cause, Quality};
use crate::model::time::Wall;
use crate::model::value::Value;

/// A sample of the device.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The tag's name.
    pub name: &'a str,
    /// Its value, if any.
    pub value: Option<&'a Value>,
    /// Its quality.
    pub quality: Quality,
    /// Its time.
    pub time: Wall,
}

/// Has this layout a place for such a sample? A bad one has no value there.
pub fn fits(value: Option<&Value>, quality: Quality) -> bool {
    !(matches!(quality, Quality::Bad(_)) && value.is_some())
}

/// The payload of parts that fit, sorted by name without doubles; `first` is the number of the first. Nothing for no parts.
pub fn samples<'a>(parts: &'a [Part<'a>], first: Number, previous: Option<Previous>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + 32 * parts.len());
    let Some(earliest) = parts.iter().map(|part| part.time).min_by_key(|time| time.unix_ms) else { return out };
    let _ = write!(out, "{{\"time\":\"{earliest}\""); // memory takes everything
    write_until(&mut out, earliest);
    write_number(&mut out, first, previous);
    let _ = write!(out, ",\"count\":{}", parts.len());
    let good = |part: &'a Part<'a>| (honest(part.quality, part.time) == Quality::Good).then_some(part.value);
    object(&mut out, "values", parts, good, write_value);
    let bad = |part: &'a Part<'a>| if let Quality::Bad(cause) = part.quality { Some(cause) } else { None };
    object(&mut out, "bad", parts, bad, write_cause);
    let doubtful = |part: &'a Part<'a>| match honest(part.quality, part.time) {
        Quality::Uncertain(cause) => Some((part.value, cause)),
        _ => None,
    };
    object(&mut out, "uncertain", parts, doubtful, |out, (value, cause)| {
        out.push(b'[');
        write_value(out, value);
        out.push(b',');
        write_cause(out, cause);
        out.push(b']');
    });
    let later = |part: &'a Part<'a>| Some(part.time.unix_ms - earliest.unix_ms).filter(|later| *later > 0);
    object(&mut out, "at", parts, later, |out, later| drop(write!(out, "{later}")));
    out.push(b'}');
    out
}

fn write_cause(out: &mut Vec<u8>, cause: Cause) {
    let _ = write!(out, "\"{}\"", cause.as_str());
}

/// `,"name":{"tag":…}` of the parts that have something to say under it.
fn object<'a, T>(
    out: &mut Vec<u8>,
    name: &str,
    parts: &'a [Part<'a>],
    what: impl Fn(&'a Part<'a>) -> Option<T>,
    say: impl Fn(&mut Vec<u8>, T),
) {
    let mut empty = true;
    for (part, said) in parts.iter().filter_map(|part| Some((part, what(part)?))) {
        if empty {
            let _ = write!(out, ",\"{name}\":{{");
        } else {
            out.push(b',');
        }
        write_text(out, part.name);
        out.push(b':');
        say(out, said);
        empty = false;
    }
    if !empty {
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::{Class, Epoch, Seq};
    use crate::model::time::Certainty;

    #[test]
    fn the_example_of_its_head_comes_out_letter_by_letter() {
        let time = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };
        let first = Number { stream: Class::Telemetry, epoch: Epoch(8123), seq: Seq(4711) };
        let (pressure, level) = (Value::Float(12.5), Value::Float(7.1));
        let part = |name, value, quality| Part { name, value, quality, time };
        let mut parts = [
            part("flow", None, Quality::Bad(Cause::Timeout)),
            part("level", Some(&level), Quality::Uncertain(Cause::Range)),
            part("pressure", Some(&pressure), Quality::Good),
        ];
        parts[1].time.unix_ms += 12;
        assert!(fits(None, parts[0].quality) && !fits(Some(&level), parts[0].quality));
        assert_eq!(
            String::from_utf8(samples(&parts, first, None)).expect("json is utf-8"),
            r#"{"time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8123,"seq":4711,"count":3,"values":{"pressure":12.5},"bad":{"flow":"timeout"},"uncertain":{"level":[7.1,"range"]},"at":{"level":12}}"#
        );
        let floor = Wall { certainty: Certainty::Floor, ..time };
        let doubtful = Part { time: floor, ..parts[2] };
        let text = String::from_utf8(samples(&[doubtful], first, None)).expect("json is utf-8");
        assert!(text.ends_with(r#""count":1,"uncertain":{"pressure":[12.5,"clock"]}}"#), "{text}");
    }
}
