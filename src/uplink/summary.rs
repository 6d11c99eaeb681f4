//! The outage summary: for each tag of a long backlog its smallest, largest, mean and last value, before the raw samples.
//!
//! Pure. One JSON object, in as many parts as it needs, on `<prefix>ironbridge/<gateway>/summary`:
//!
//! ```text
//! {"uplink":"cloud","part":1,"parts":2,"complete":true,"samples":1200000,
//!  "from":"2026-11-20T20:00:00.000Z","to":"2026-11-20T21:00:00.000Z",
//!  "tags":{"acme/pump-1/flow":{"count":3600,"good":3598,"min":1.5,"max":7.25,"mean":4.1,"last":6.0,
//!                              "last_quality":"good","last_time":"2026-11-20T20:59:59.512Z"}}}
//! ```
//!
//! min, max and mean are over the values of good quality; a tag without any has none of the three. As in all that goes
//! out, a value whose time is a guess is not good: without a clock fix all are uncertain. Texts and booleans have
//! only a count and a last value. `complete` is false when the backlog was too long to be read before it should be sent.
//! It is a preview: it has no number, is sent once at QoS 1 and not stored; the raw samples follow whatever becomes of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::model::quality::Quality;
use crate::model::time::Wall;
use crate::model::value::Value;
use crate::payload::json::honest;
use crate::store::DictionaryTag;

/// Bytes of one part, so that every broker takes it.
const PART_BYTES_MAX: usize = 32 << 10;

/// Figures of one tag.
#[derive(Debug, Clone)]
struct Figures {
    count: u64,
    good: u64,
    numbers: u64,
    min: f64,
    max: f64,
    /// Welford's running mean: no sum that grows beyond what a float64 resolves.
    mean: f64,
    last: Option<Value>,
    last_quality: Quality,
    last_time: Wall,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// By the id in the dictionary.
    tags: BTreeMap<u32, (String, Figures)>,
    samples: u64,
    span: Option<(Wall, Wall)>,
}

impl Summary {
    /// Takes a sample; those of one tag come in order.
    pub(super) fn take(&mut self, tag: &DictionaryTag, value: Option<&Value>, quality: Quality, time: Wall) {
        let quality = honest(quality, time);
        self.samples += 1;
        let (from, to) = self.span.unwrap_or((time, time));
        let earlier = if time.unix_ms < from.unix_ms { time } else { from };
        self.span = Some((earlier, if time.unix_ms > to.unix_ms { time } else { to }));
        let new = || (tag.topic.clone(), Figures::new(quality, time));
        self.tags.entry(tag.id).or_insert_with(new).1.take(value, quality, time);
    }

    /// The payloads, none when there was nothing.
    pub(super) fn payloads(&self, uplink: &str, complete: bool) -> Vec<Vec<u8>> {
        let Some((from, to)) = self.span else { return Vec::new() };
        let mut parts: Vec<Map<String, Json>> = vec![Map::new()];
        let mut bytes = 0;
        for (topic, figures) in self.tags.values() {
            let figures = figures.to_json();
            bytes += topic.len() + figures.to_string().len() + 6;
            if bytes > PART_BYTES_MAX {
                parts.push(Map::new());
                bytes = 0;
            }
            if let Some(part) = parts.last_mut() {
                part.insert(topic.clone(), figures);
            }
        }
        let count = parts.len();
        let payload = |(part, tags): (usize, Map<String, Json>)| {
            let (from, to) = (from.to_string(), to.to_string());
            json!({"uplink": uplink, "part": part, "parts": count, "complete": complete, "samples": self.samples,
                   "from": from, "to": to, "tags": tags})
            .to_string()
            .into_bytes()
        };
        (1..).zip(parts).map(payload).collect()
    }
}

impl Figures {
    const fn new(last_quality: Quality, last_time: Wall) -> Self {
        let (count, good, numbers, last) = (0, 0, 0, None);
        let (min, max, mean) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        Self { count, good, numbers, min, max, mean, last, last_quality, last_time }
    }

    #[expect(clippy::cast_precision_loss, reason = "a backlog has fewer than 2^53 samples of a tag")]
    fn take(&mut self, value: Option<&Value>, quality: Quality, time: Wall) {
        self.count += 1;
        self.last = value.cloned();
        (self.last_quality, self.last_time) = (quality, time);
        if quality != Quality::Good {
            return;
        }
        self.good += 1;
        let number = value.filter(|value| !matches!(value, Value::Bool(_))).and_then(Value::as_f64);
        if let Some(number) = number {
            self.numbers += 1;
            (self.min, self.max) = (self.min.min(number), self.max.max(number));
            self.mean += (number - self.mean) / self.numbers as f64;
        }
    }

    fn to_json(&self) -> Json {
        let mut figures = Map::new();
        figures.insert("count".into(), self.count.into());
        figures.insert("good".into(), self.good.into());
        if self.numbers > 0 {
            for (name, number) in [("min", self.min), ("max", self.max), ("mean", self.mean)] {
                figures.insert(name.into(), number.into());
            }
        }
        figures.insert("last".into(), exact(self.last.as_ref()));
        figures.insert("last_quality".into(), self.last_quality.as_str().into());
        figures.insert("last_time".into(), self.last_time.to_string().into());
        figures.into()
    }
}

fn exact(value: Option<&Value>) -> Json {
    match value {
        None => Json::Null,
        Some(Value::Bool(bit)) => (*bit).into(),
        Some(Value::Int(number)) => (*number).into(),
        Some(Value::Uint(number)) => (*number).into(),
        Some(Value::Float(number)) => (*number).into(),
        Some(Value::Text(text)) => text.as_ref().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quality::Cause;
    use crate::model::time::Certainty;

    fn at(seconds: i64) -> Wall {
        Wall { unix_ms: 1_795_204_800_000 + seconds * 1000, certainty: Certainty::Fixed }
    }

    fn tag(id: u32, topic: &str) -> DictionaryTag {
        let data_type = crate::model::tag::DataType::Float64;
        DictionaryTag { id, device: "d".into(), name: "t".into(), topic: topic.into(), data_type }
    }

    fn read(payloads: &[Vec<u8>]) -> Vec<Json> {
        payloads.iter().map(|payload| serde_json::from_slice(payload).expect("JSON")).collect()
    }

    #[test]
    fn good_numbers_make_the_figures_and_the_last_sample_is_told_whatever_it_is() {
        let mut summary = Summary::default();
        for (second, value) in [(0, 2.0), (1, 8.0), (2, 5.0)] {
            summary.take(&tag(1, "a"), Some(&Value::Float(value)), Quality::Good, at(second));
        }
        summary.take(&tag(1, "a"), Some(&Value::Float(99.0)), Quality::Uncertain(Cause::Range), at(3));
        summary.take(&tag(1, "a"), None, Quality::Bad(Cause::Timeout), at(4));
        summary.take(&tag(2, "b"), Some(&Value::Bool(true)), Quality::Good, at(1));
        summary.take(&tag(3, "c"), Some(&Value::Uint(u64::MAX)), Quality::Good, at(9));
        let [whole] = &read(&summary.payloads("cloud", true))[..] else { panic!("one part") };
        assert_eq!((&whole["samples"], &whole["complete"], &whole["parts"]), (&json!(7), &json!(true), &json!(1)));
        assert_eq!((&whole["from"], &whole["to"]), (&json!(at(0).to_string()), &json!(at(9).to_string())));
        let expected = json!({"count": 5, "good": 3, "min": 2.0, "max": 8.0, "mean": 5.0, "last": null,
                              "last_quality": "bad", "last_time": at(4).to_string()});
        assert_eq!(whole["tags"]["a"], expected);
        let switch = &whole["tags"]["b"];
        assert_eq!((&switch["last"], switch.get("mean")), (&json!(true), None));
        assert_eq!(whole["tags"]["c"]["last"], json!(u64::MAX), "exact");
    }

    #[test]
    fn a_value_whose_time_is_a_guess_is_not_good() {
        for certainty in [Certainty::Floor, Certainty::Until(at(9).unix_ms)] {
            let mut summary = Summary::default();
            summary.take(&tag(1, "a"), Some(&Value::Float(2.0)), Quality::Good, Wall { certainty, ..at(0) });
            let [whole] = &read(&summary.payloads("cloud", true))[..] else { panic!("one part") };
            let expected = json!({"count": 1, "good": 0, "last": 2.0, "last_quality": "uncertain",
                                  "last_time": at(0).to_string()});
            assert_eq!(whole["tags"]["a"], expected);
        }
    }

    #[test]
    fn many_tags_make_several_parts_of_bounded_size_and_nothing_makes_none() {
        let mut summary = Summary::default();
        assert!(summary.payloads("cloud", true).is_empty());
        for n in 0..5000 {
            summary.take(
                &tag(n, &format!("plant/device/tag-{n}")),
                Some(&Value::Uint(n.into())),
                Quality::Good,
                at(n.into()),
            );
        }
        let payloads = summary.payloads("cloud", false);
        assert!(payloads.iter().all(|payload| payload.len() < PART_BYTES_MAX + 1024));
        let parts = read(&payloads);
        let tags: usize = parts.iter().map(|part| part["tags"].as_object().expect("an object").len()).sum();
        assert_eq!((tags, &parts[0]["complete"]), (5000, &json!(false)));
        assert!(parts.iter().zip(1..).all(|(part, n)| part["part"] == n && part["parts"] == parts.len()));
    }
}
