//! The JSON payloads, local and upstream, written by hand into one buffer: numbers exact, keys in fixed order.
//!
//! Tag, local:    `{"value":12.5,"quality":"good","time":"2026-11-20T20:00:00.123Z"}`
//! Tag, doubtful: `{"value":null,"quality":"bad","cause":"timeout","time":…}`
//! Upstream adds: `,"stream":"telemetry","epoch":8123,"seq":4711` and, on the first record of an epoch whose
//! predecessor is known, `,"previous":{"epoch":8122,"seq":990}`.
//! List, upstream: `[{"topic":"acme/pump-1/pressure","value":12.5,…},…]`: what would have been single messages, each with
//! its topic first.

use std::io::Write as _;

use crate::model::alarm::Change;
use crate::model::command::Outcome;
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::quality::{Cause, Quality};
use crate::model::time::{Certainty, Wall};
use crate::model::value::Value;

/// The epoch before, and its last number if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    /// The epoch that ended.
    pub epoch: Epoch,
    /// Its last number; `None` when it was lost with the store.
    pub seq: Option<Seq>,
}

/// What a gap record says: these numbers will not come, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Whose numbers are missing.
    pub stream: Class,
    /// In which epoch.
    pub epoch: Epoch,
    /// First missing number.
    pub first: Seq,
    /// Last missing number.
    pub last: Seq,
    /// Time of the first lost sample (`damaged`: of the record before it), if known.
    pub from: Option<Wall>,
    /// Time of the last lost sample (`damaged`: of the record after it), if known.
    pub to: Option<Wall>,
    /// `evicted`, `damaged`, `purged`, `refused` or `store`: README, "Bridge to a cloud".
    pub reason: &'static str,
}

/// A tag's local payload.
pub fn sample(value: Option<&Value>, quality: Quality, time: Wall) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    write_sample(&mut out, value, quality, time);
    out.push(b'}');
    out
}

/// A tag's upstream payload (layout `tag`).
pub fn numbered_sample(
    value: Option<&Value>,
    quality: Quality,
    time: Wall,
    number: Number,
    previous: Option<Previous>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    write_sample(&mut out, value, quality, time);
    write_number(&mut out, number, previous);
    out.push(b'}');
    out
}

/// An event: `body` is a JSON object; its number is put in before the closing brace.
pub fn numbered_event(body: &[u8], number: Number, previous: Option<Previous>) -> Vec<u8> {
    let open = body.strip_suffix(b"}").unwrap_or(body);
    let mut out = Vec::with_capacity(body.len() + 96);
    out.extend_from_slice(open);
    if open.len() > 1 {
        write_number(&mut out, number, previous);
    } else {
        let mut numbers = Vec::with_capacity(96);
        write_number(&mut numbers, number, previous);
        out.extend_from_slice(&numbers[1..]); // an empty object needs no comma
    }
    out.push(b'}');
    out
}

/// A condition of a tag that began or ended, without its number: `{"event":"high","state":"active","value":12.3,
/// "quality":"good","limit":12.0,"unit":"bar","time":…}`. `unit` is left out where there is none.
pub fn alarm(change: &Change, unit: &str, time: Wall) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    let _ = write!(out, r#"{{"event":"{}","state":"{}","value":"#, change.level, change.condition.as_str());
    write_value(&mut out, Some(&change.value));
    write_quality(&mut out, honest(change.quality, time));
    out.extend_from_slice(b",\"limit\":");
    write_value(&mut out, Some(&change.limit));
    if !unit.is_empty() {
        out.extend_from_slice(b",\"unit\":");
        write_text(&mut out, unit);
    }
    let _ = write!(out, r#","time":"{time}"}}"#); // memory takes everything
    out
}

/// The end of a condition that the configuration no longer has.
pub fn forgotten_alarm(event: &str, time: Wall) -> Vec<u8> {
    let mut out = b"{\"event\":".to_vec();
    write_text(&mut out, event);
    let _ = write!(out, r#","state":"cleared","value":null,"quality":"bad","cause":"config","time":"{time}"}}"#);
    out
}

/// Puts what would be a single message on this topic into a list; [`close_list`] ends it.
pub fn add_to_list(list: &mut Vec<u8>, topic: &str, object: &[u8]) {
    list.extend_from_slice(if list.is_empty() { b"[{\"topic\":" } else { b",{\"topic\":" });
    write_text(list, topic);
    let inside = object.strip_prefix(b"{").unwrap_or(object);
    if inside != b"}" {
        list.push(b',');
    }
    list.extend_from_slice(inside);
}

/// Ends a list.
pub fn close_list(list: &mut Vec<u8>) {
    list.extend_from_slice(if list.is_empty() { b"[]" } else { b"]" });
}

/// A gap record.
pub fn gap(gap: &Gap) -> Vec<u8> {
    let time = |wall: &Option<Wall>| wall.map(|wall| wall.to_string());
    let count = (gap.last.0 + 1).saturating_sub(gap.first.0);
    serde_json::json!({
        "stream": gap.stream.as_str(), "epoch": gap.epoch.0, "first": gap.first.0, "last": gap.last.0,
        "count": count, "from": time(&gap.from), "to": time(&gap.to), "reason": gap.reason,
    })
    .to_string()
    .into_bytes()
}

/// The result of a command: `{"id":"abc","outcome":"done","read_back":4.2}`.
pub fn command_result(id: Option<&str>, outcome: &Outcome) -> Vec<u8> {
    let mut out = vec![b'{'];
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        write_text(&mut out, id);
        out.push(b',');
    }
    let (word, reason, read_back) = match outcome {
        Outcome::Done { read_back } => ("done", None, read_back.as_ref()),
        Outcome::Refused(reason) => ("refused", Some(reason.as_str().to_owned()), None),
        Outcome::Failed { reason, read_back } => ("failed", Some(reason.to_string()), read_back.as_ref()),
    };
    out.extend_from_slice(b"\"outcome\":\"");
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
    if let Some(reason) = reason {
        out.extend_from_slice(b",\"reason\":");
        write_text(&mut out, &reason);
    }
    if let Some(value) = read_back {
        out.extend_from_slice(b",\"read_back\":");
        write_value(&mut out, Some(value));
    }
    out.push(b'}');
    out
}

/// A time without a fix makes a good value uncertain: 1970 is never published as good.
pub fn honest(quality: Quality, time: Wall) -> Quality {
    match (quality, time.certainty) {
        (Quality::Good, Certainty::Floor | Certainty::Until(_)) => Quality::Uncertain(Cause::Clock),
        _ => quality,
    }
}

fn write_sample(out: &mut Vec<u8>, value: Option<&Value>, quality: Quality, time: Wall) {
    let quality = honest(quality, time);
    out.extend_from_slice(b"{\"value\":");
    write_value(out, value);
    write_quality(out, quality);
    let _ = write!(out, r#","time":"{time}""#); // memory takes everything
    write_until(out, time);
}

/// `,"time_until":"…"` where the time is an estimate with a known end.
pub(super) fn write_until(out: &mut Vec<u8>, time: Wall) {
    if let Some(unix_ms) = time.until_ms() {
        out.extend_from_slice(b",\"time_until\":\"");
        out.extend_from_slice(Wall { unix_ms, ..time }.to_string().as_bytes());
        out.push(b'"');
    }
}

fn write_quality(out: &mut Vec<u8>, quality: Quality) {
    out.extend_from_slice(b",\"quality\":\"");
    out.extend_from_slice(quality.as_str().as_bytes());
    if let Some(cause) = quality.cause() {
        out.extend_from_slice(b"\",\"cause\":\"");
        out.extend_from_slice(cause.as_str().as_bytes());
    }
    out.push(b'"');
}

pub(super) fn write_number(out: &mut Vec<u8>, number: Number, previous: Option<Previous>) {
    out.extend_from_slice(b",\"stream\":\"");
    out.extend_from_slice(number.stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"epoch\":");
    out.extend_from_slice(number.epoch.0.to_string().as_bytes());
    out.extend_from_slice(b",\"seq\":");
    out.extend_from_slice(number.seq.0.to_string().as_bytes());
    if let Some(previous) = previous {
        out.extend_from_slice(b",\"previous\":{\"epoch\":");
        out.extend_from_slice(previous.epoch.0.to_string().as_bytes());
        if let Some(seq) = previous.seq {
            out.extend_from_slice(b",\"seq\":");
            out.extend_from_slice(seq.0.to_string().as_bytes());
        }
        out.push(b'}');
    }
}

pub(super) fn write_value(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        None => out.extend_from_slice(b"null"),
        Some(Value::Text(text)) => write_text(out, text),
        // A finite f64 as the shortest text that reads back as the same f64.
        Some(Value::Float(number)) if number.is_finite() => write_plain(out, number),
        Some(Value::Float(_)) => out.extend_from_slice(b"null"),
        Some(Value::Bool(bit)) => write_plain(out, bit),
        Some(Value::Int(number)) => write_plain(out, number),
        Some(Value::Uint(number)) => write_plain(out, number),
    }
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_plain(out, text);
}

/// A text, a number or a truth value straight into the buffer: this is done for every value that anybody sees.
fn write_plain(out: &mut Vec<u8>, plain: &(impl serde::Serialize + ?Sized)) {
    let _ = serde_json::to_writer(out, plain); // memory takes everything, and these have no other way to fail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Failure, Refusal};

    const TIME: Wall = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("json is utf-8")
    }

    #[test]
    fn the_examples_of_its_head_come_out_letter_by_letter() {
        assert_eq!(
            text(sample(Some(&Value::Float(12.5)), Quality::Good, TIME)),
            r#"{"value":12.5,"quality":"good","time":"2026-11-20T20:00:00.123Z"}"#
        );
        assert_eq!(
            text(sample(None, Quality::Bad(Cause::Timeout), TIME)),
            r#"{"value":null,"quality":"bad","cause":"timeout","time":"2026-11-20T20:00:00.123Z"}"#
        );
        let number = Number { stream: Class::Telemetry, epoch: Epoch(8123), seq: Seq(1) };
        let previous = Some(Previous { epoch: Epoch(7), seq: Some(Seq(9)) });
        assert_eq!(
            text(numbered_sample(Some(&Value::Uint(u64::MAX)), Quality::Good, TIME, number, previous)),
            r#"{"value":18446744073709551615,"quality":"good","time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8123,"seq":1,"previous":{"epoch":7,"seq":9}}"#
        );
        assert_eq!(
            text(numbered_event(br#"{"event":"start"}"#, number, None)),
            r#"{"event":"start","stream":"telemetry","epoch":8123,"seq":1}"#
        );
        let mut list = Vec::new();
        add_to_list(&mut list, "a/b", br#"{"event":"start"}"#);
        add_to_list(&mut list, "a\"", b"{}");
        close_list(&mut list);
        assert_eq!(text(list), r#"[{"topic":"a/b","event":"start"},{"topic":"a\""}]"#);
        assert_eq!(
            text(command_result(Some("abc"), &Outcome::Done { read_back: Some(Value::Float(4.2)) })),
            r#"{"id":"abc","outcome":"done","read_back":4.2}"#
        );
        assert_eq!(
            text(command_result(None, &Outcome::Refused(Refusal::Range))),
            r#"{"outcome":"refused","reason":"range"}"#
        );
        let failed = Outcome::Failed { reason: Failure::Exception(2), read_back: None };
        assert_eq!(text(command_result(None, &failed)), r#"{"outcome":"failed","reason":"exception 2"}"#);
    }

    #[test]
    fn a_good_value_without_a_clock_is_uncertain() {
        let floor = Wall { certainty: Certainty::Floor, ..TIME };
        assert!(
            text(sample(Some(&Value::Bool(true)), Quality::Good, floor)).contains(r#""uncertain","cause":"clock""#)
        );
        assert!(text(sample(None, Quality::Bad(Cause::Nan), floor)).contains(r#""bad","cause":"nan""#));
        let bracket = Wall { certainty: Certainty::Until(TIME.unix_ms + 60_000), ..TIME };
        assert_eq!(
            text(sample(Some(&Value::Bool(true)), Quality::Good, bracket)),
            r#"{"value":true,"quality":"uncertain","cause":"clock","time":"2026-11-20T20:00:00.123Z","time_until":"2026-11-20T20:01:00.123Z"}"#
        );
    }
}
