//! The time of an event, as it is known when the event is sent or shown.
//!
//! The gateway's own events and alarms end with `,"time":"…"}`: what was known of the clock when they were stored. The record
//! has its moment besides, so the time is written anew, as for a sample. Without a fix it is marked as a sample is:
//! `"quality":"uncertain","cause":"clock"`, and `time_until` behind the time where the end of the estimate is known; the
//! mark goes when there is a fix. Bodies that do not end so (results of commands) have no time and stay as they are.

use std::borrow::Cow;

use super::json::{self, Previous};
use crate::model::number::Number;
use crate::model::time::Wall;

const TIME: &[u8] = br#","time":""#;
const QUALITY: &[u8] = br#","quality":""#;
const GOOD: &[u8] = br#","quality":"good""#;
const MARK: &[u8] = br#","quality":"uncertain","cause":"clock""#;

/// The body with the time of its moment, still without a number.
pub fn dated(body: &[u8], time: Wall) -> Cow<'_, [u8]> {
    let Some(told) = undated(body) else { return Cow::Borrowed(body) };
    let mut out = Vec::with_capacity(body.len() + 96);
    // In JSON text these words cannot stand within a string: its quotes would be escaped.
    let (known, marked, good) = (time.certainty.is_fixed(), find(told, MARK), find(told, GOOD));
    match (known, marked, good) {
        (true, Some(at), _) => replace(&mut out, told, (at, MARK.len()), GOOD),
        (false, None, Some(at)) => replace(&mut out, told, (at, GOOD.len()), MARK),
        (false, None, None) if find(told, QUALITY).is_none() => replace(&mut out, told, (told.len(), 0), MARK),
        _ => out.extend_from_slice(told),
    }
    out.extend_from_slice(TIME);
    out.extend_from_slice(time.to_string().as_bytes());
    out.push(b'"');
    json::write_until(&mut out, time);
    out.push(b'}');
    Cow::Owned(out)
}

/// What stands before a time that nobody vouches for, where there is nothing else to say how good it is.
pub const fn mark(time: Wall) -> &'static str {
    if time.certainty.is_fixed() { "" } else { r#","quality":"uncertain","cause":"clock""# }
}

/// An event as it is sent: [`dated`], with its number.
pub fn numbered(body: &[u8], time: Wall, number: Number, previous: Option<Previous>) -> Vec<u8> {
    json::numbered_event(&dated(body, time), number, previous)
}

/// What stands before the time at the end.
fn undated(body: &[u8]) -> Option<&[u8]> {
    let open = body.strip_suffix(b"\"}")?;
    let at = open.windows(TIME.len()).rposition(|words| words == TIME)?;
    let plain = |byte: &u8| byte.is_ascii_digit() || b"-:.TZ".contains(byte);
    open[at + TIME.len()..].iter().all(plain).then_some(&open[..at])
}

fn find(text: &[u8], words: &[u8]) -> Option<usize> {
    text.windows(words.len()).position(|found| found == words)
}

fn replace(out: &mut Vec<u8>, text: &[u8], (at, length): (usize, usize), by: &[u8]) {
    out.extend_from_slice(&text[..at]);
    out.extend_from_slice(by);
    out.extend_from_slice(&text[at + length..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Certainty;

    const RIGHT: Wall = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };
    const FLOOR: Wall = Wall { certainty: Certainty::Floor, ..RIGHT };

    fn text(body: &str, time: Wall) -> String {
        String::from_utf8(dated(body.as_bytes(), time).into_owned()).expect("json is utf-8")
    }

    #[test]
    fn a_time_that_nobody_vouched_for_is_marked_and_put_right_when_it_is_known() {
        let notice = r#"{"detail":"said \"time\":\"x\"","event":"e","time":"2026-11-01T00:10:00.972Z"}"#;
        let right = r#"{"detail":"said \"time\":\"x\"","event":"e","time":"2026-11-20T20:00:00.123Z"}"#;
        let marked = right.replace(r#","time":"2"#, r#","quality":"uncertain","cause":"clock","time":"2"#);
        assert_eq!((text(notice, RIGHT), text(notice, FLOOR)), (right.to_owned(), marked.clone()));
        assert_eq!(text(right, RIGHT), right);
        let until = Wall { certainty: Certainty::Until(RIGHT.unix_ms + 60_000), ..RIGHT };
        let bracket = marked.replace("123Z\"}", "123Z\",\"time_until\":\"2026-11-20T20:01:00.123Z\"}");
        assert_eq!(text(notice, until), bracket);
    }

    #[test]
    fn the_quality_of_an_alarm_says_what_is_known_of_its_time() {
        let good = r#"{"event":"high","value":1.5,"quality":"good","limit":1,"time":"2026-11-20T20:00:00.123Z"}"#;
        let marked = good.replace(r#""good""#, r#""uncertain","cause":"clock""#);
        assert_eq!((text(&marked, RIGHT), text(good, FLOOR)), (good.to_owned(), marked.clone()));
        assert_eq!((text(&marked, FLOOR), text(good, RIGHT)), (marked, good.to_owned()));
        let bad = good.replace(r#""good""#, r#""bad","cause":"config""#);
        assert_eq!((text(&bad, FLOOR), text(&bad, RIGHT)), (bad.clone(), bad));
    }

    #[test]
    fn what_has_no_time_at_its_end_stays_as_it_is() {
        for body in [r#"{"outcome":"done"}"#, "{}", r#"{"a":1,"time":"noon"}"#, r#"{"time":"2026","a":1}"#, "", "\"}"] {
            assert_eq!(text(body, FLOOR), body);
        }
    }
}
