//! The gateway's own metrics: alarms, other events, results of commands and declared losses, as JSON with their topic; an edge node
//! has no topic for each of them. Pure.
//!
//! What was said last of each is kept for as long as the process lives, because every NBIRTH says it again
//! (tck-id-operational-behavior-data-publish-nbirth-values): an alarm is as active after births as before them. After a
//! restart there is none until the first is said.
//!
//! Historical is what is not newer than that: backlog behind live ones, and what goes again. Newer is what the store numbered
//! later and not what has the later time, because one metric is the story of many tags: alarms of one poll have one time, and
//! buses do not wait for each other. An alarm of an outage that nothing has followed is no history: it still holds.

use std::collections::BTreeMap;

use super::catalogue::{ALARM, EVENT, GAP, RESULT};
use super::{EdgeNode, TEXT, Telegram, ms};
use crate::model::number::Number;
use crate::model::sparkplug::Kind;
use crate::model::time::Stamp;
use crate::payload::sparkplug::{Metric, Payload, Value};
use crate::store::Owed;

/// By alias.
pub(super) type Own = BTreeMap<u64, Last>;

/// What was said last of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) at: Stamp,
    pub(super) text: String,
    /// A declared loss has none.
    number: Option<Number>,
}

impl Last {
    /// Is it older than this record of the same metric?
    fn is_before(&self, owed: &Owed) -> bool {
        match self.number {
            Some(said) if (said.stream, said.epoch) == (owed.number.stream, owed.number.epoch) => {
                said.seq < owed.number.seq
            }
            _ => self.at < owed.at,
        }
    }
}

/// The metric that an event belongs to.
fn metric_of(topic: &str) -> u64 {
    let (_, alias) = if topic.ends_with("/set/result") {
        RESULT
    } else if topic.starts_with("ironbridge/") && topic.contains("/alarm/") {
        ALARM
    } else {
        EVENT
    };
    alias
}

impl EdgeNode {
    /// An event, behind those that `said` has.
    pub(super) fn event(&self, payload: &mut Payload, said: &mut Own, owed: &Owed, (topic, numbered): (&str, &[u8])) {
        let body = String::from_utf8_lossy(numbered);
        let rest = body.trim_start().strip_prefix('{').unwrap_or("}").trim_start();
        let comma = if rest.starts_with('}') { "" } else { "," };
        let text = format!("{{\"topic\":{}{comma}{rest}", serde_json::Value::from(topic));
        let alias = metric_of(topic);
        let newest = said.get(&alias).or_else(|| self.own.get(&alias));
        let historical = newest.is_some_and(|last| !last.is_before(owed));
        payload.push(&Metric { historical, ..self.own_metric(alias, &text, owed.at) });
        if !historical {
            said.insert(alias, Last { at: owed.at, text, number: Some(owed.number) });
        }
    }

    /// A declared loss, now.
    pub(super) fn gap(&mut self, text: String) -> Telegram {
        let (mut payload, at) = (Payload::new(0, None), self.clock.now());
        payload.push(&self.own_metric(GAP.1, &text, at));
        self.own.insert(GAP.1, Last { at, text, number: None });
        Telegram { kind: Kind::NData, device: None, payload }
    }

    fn own_metric<'a>(&self, alias: u64, text: &'a str, at: Stamp) -> Metric<'a> {
        Metric {
            name: None,
            alias: Some(alias),
            timestamp_ms: Some(ms(self.clock.wall(at).unix_ms)),
            datatype: self.datatype(TEXT),
            historical: false,
            value: Value::Str(text),
            properties: &[],
        }
    }
}
