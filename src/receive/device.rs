//! JSON, layout `device`: one message per device, poll and class.
//!
//! `{"time":…,"stream":…,"epoch":…,"seq":4711,"count":3,"values":{"pressure":12.5},"bad":{"flow":"timeout"},
//! "uncertain":{"level":[7.1,"range"]},"at":{"level":12}}`: the tag names of values, bad and uncertain together, sorted
//! bytewise, have the numbers seq, seq + 1 …; `at` = ms after `time`. It arrives on the tags' topic without `{tag}`, which
//! is where the template usually ends: so a sample's own topic is taken to be that topic, a slash, and the tag.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::model::number::{Number, Seq};
use crate::model::value::Value;
use crate::payload::json::Previous;

use super::message::{moment, number_fits, value};
use super::record::{Body, Grade, Record};

/// What is known of a poll before its cells are read.
pub(super) struct Poll<'a> {
    pub(super) topic: &'a str,
    pub(super) gateway: Option<Arc<str>>,
    pub(super) number: Number,
    pub(super) previous: Option<Previous>,
}

type Cell = (Option<Value>, Grade, Option<Cow<'static, str>>);

/// Has an object this layout?
pub(super) fn is_meant(body: &Map<String, Json>) -> bool {
    body.contains_key("count") && ["values", "bad", "uncertain"].iter().any(|key| body.contains_key(*key))
}

impl Poll<'_> {
    /// Its samples; `None` when names and numbers do not agree.
    pub(super) fn records(self, body: &Map<String, Json>) -> Option<Vec<Record>> {
        let cells = cells(body)?;
        let count = cells.len() as u64;
        let Number { stream, epoch, seq } = self.number;
        if body.get("count")?.as_u64()? != count || count == 0 || !number_fits(epoch.0, seq.0, count) {
            return None;
        }
        let (base, until_ms) = (moment(body, "time"), moment(body, "time_until"));
        let at = body.get("at").and_then(Json::as_object);
        let records = (seq.0..).zip(cells).map(|(seq, (name, (value, quality, cause)))| {
            let later = at.and_then(|at| at.get(name)).and_then(Json::as_i64).unwrap_or(0);
            Record {
                gateway: self.gateway.clone(),
                number: Number { stream, epoch, seq: Seq(seq) },
                previous: self.previous.filter(|_| seq == self.number.seq.0),
                topic: format!("{}/{name}", self.topic).into(),
                time_ms: base.map(|base| base.saturating_add(later)),
                until_ms,
                body: Body::Sample { value, quality, cause },
                whole: None,
            }
        });
        Some(records.collect())
    }
}

/// By name, bytewise; `None` when a name comes twice or a cell is of no known form.
fn cells(body: &Map<String, Json>) -> Option<BTreeMap<&str, Cell>> {
    let mut cells = BTreeMap::new();
    let of = |key: &str| body.get(key).map_or(Some(None), |part| part.as_object().map(Some));
    for (name, good) in of("values")?.into_iter().flatten() {
        cells.insert(name.as_str(), (value(good), Grade::Good, None));
    }
    for (name, cause) in of("bad")?.into_iter().flatten() {
        let cause = Some(Cow::Owned(cause.as_str()?.to_owned()));
        if cells.insert(name.as_str(), (None, Grade::Bad, cause)).is_some() {
            return None;
        }
    }
    for (name, doubt) in of("uncertain")?.into_iter().flatten() {
        let [number, cause] = doubt.as_array()?.as_slice() else { return None };
        let cause = Some(Cow::Owned(cause.as_str()?.to_owned()));
        if cells.insert(name.as_str(), (value(number), Grade::Uncertain, cause)).is_some() {
            return None;
        }
    }
    Some(cells)
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, read};
    use super::*;

    fn records(body: &str) -> Option<Vec<Record>> {
        match read("acme/gw/pump", body.as_bytes()) {
            Message::Records(records) => Some(records),
            Message::Broken(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_of_all_three_kinds_sorted_bytewise_have_the_numbers_in_turn() {
        let body = r#"{"time":"2026-11-20T20:00:00.123Z","stream":"telemetry","epoch":8,"seq":4711,"count":4,
            "values":{"pressure":12.5,"Zone":true},"bad":{"flow":"timeout"},"uncertain":{"level":[7,"range"]},
            "at":{"level":12}}"#;
        let records = records(body).expect("adds up");
        let told: Vec<_> = records.iter().map(|r| (r.number.seq.0, &*r.topic, r.time_ms.expect("time"))).collect();
        let time = 1_795_204_800_123;
        let expected = [
            (4711, "acme/gw/pump/Zone", time),
            (4712, "acme/gw/pump/flow", time),
            (4713, "acme/gw/pump/level", time + 12),
            (4714, "acme/gw/pump/pressure", time),
        ];
        assert_eq!(told, expected);
        let doubt = Body::Sample { value: Some(Value::Int(7)), quality: Grade::Uncertain, cause: Some("range".into()) };
        assert_eq!(records[2].body, doubt);
    }

    #[test]
    fn a_poll_that_does_not_add_up_is_broken_and_nothing_of_it_is_taken() {
        for part in [
            r#""count":2,"values":{"a":1}"#,
            r#""count":0,"values":{}"#,
            r#""count":2,"values":{"a":1},"bad":{"a":"nan"}"#,
            r#""count":1,"values":[1]"#,
            r#""count":1,"uncertain":{"a":[1]}"#,
            r#""count":1,"bad":{"a":1}"#,
            r#""count":18446744073709551615,"values":{"a":1}"#,
        ] {
            assert_eq!(records(&format!(r#"{{"stream":"bulk","epoch":8,"seq":1,{part}}}"#)), None, "{part}");
        }
        let end = r#"{"stream":"bulk","epoch":8,"seq":9007199254740991,"count":2,"values":{"a":1,"b":2}}"#;
        assert_eq!(records(end), None);
    }
}
