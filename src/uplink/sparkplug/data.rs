//! Records to NDATA and DDATA: grouped by device, in the order of their times, with aliases and without names and types.
//!
//! **Historical** is what is not newer than the newest that a host was told of its metric in this session, by the birth or by data:
//! backlog, and what was stored just before the birth that tells the same. A host files it and does not show it.
//!
//! Quality is told where it is not good, and once when it is good again. A sample without value of a device that was told to be
//! dead, taken after it died, says nothing new and goes nowhere; its number counts as received.
//!
//! Events are the gateway's own (`own`).

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use tokio::time::Instant;

use super::own::Own;
use super::{EdgeNode, Telegram, Told, ms};
use crate::config::plan::Datatypes;
use crate::model::quality::Quality;
use crate::model::sparkplug::{Kind, check_id};
use crate::model::time::Stamp;
use crate::model::value;
use crate::payload::event;
use crate::payload::json::honest;
use crate::payload::sparkplug::{
    DataType, Metric, Payload, Property, QUALITY, Value, Worked, quality_code, type_of, value_of,
};
use crate::store::{DictionaryTag, Owed, OwedBody};

/// [`quality_code`] of a good value.
const GOOD: i32 = 192;
/// Devices in one go: rumqttc's queue has room for what the window allows, and for births before each of these.
pub(super) const TELEGRAMS_MAX: usize = 256;
/// About what a sample takes: two bytes around it, an alias of three, a time of seven and a value of five to nine.
pub(in crate::uplink) const SAMPLE_BYTES: usize = 20;

/// A record and when it was taken, UTC, ms.
type Timed<'r> = (u64, &'r Owed);

/// What MQTT, topic and number add to the payload of a telegram.
const TELEGRAM_BYTES: usize = 60;

/// What waits to be sent. Of records nothing is kept but themselves: births that go before them may change their type, the devices
/// that they need, and what of them is historical.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::uplink) enum Said {
    /// A declared loss, as JSON.
    Gap(String),
    /// These, in about so many bytes.
    Records { records: Vec<Owed>, bytes: usize },
}

impl Said {
    /// Bytes on the wire before TLS.
    pub(in crate::uplink) fn bytes(&self) -> usize {
        match self {
            Self::Gap(text) => text.len() + SAMPLE_BYTES + TELEGRAM_BYTES,
            Self::Records { bytes, .. } => *bytes,
        }
    }

    /// Can all the devices in it have a topic?
    pub(super) fn has_topics(&self) -> bool {
        let Self::Records { records, .. } = self else { return true };
        records.iter().all(|owed| match &owed.body {
            OwedBody::Sample { tag, .. } => check_id(&tag.device).is_ok(),
            OwedBody::Event { .. } | OwedBody::Message { .. } => true,
        })
    }
}

/// What was made of some records; not yet sent.
#[derive(Default)]
pub(in crate::uplink) struct Draft {
    pub(super) telegrams: Vec<Telegram>,
    telegrams_max: usize,
    told: HashMap<u64, Told>,
    own: Own,
    /// Tags that no birth told of.
    strangers: Vec<Arc<DictionaryTag>>,
}

impl Draft {
    /// May it go as it is, with payloads of so many bytes at most?
    pub(in crate::uplink) fn fits(&self, bytes_max: usize) -> bool {
        self.telegrams.len() <= self.telegrams_max && self.bytes() <= bytes_max
    }

    fn bytes(&self) -> usize {
        self.telegrams.iter().map(|telegram| telegram.payload.encoded_len()).max().unwrap_or(0)
    }

    /// What all of it takes, before TLS.
    pub(in crate::uplink) fn bytes_on_wire(&self) -> usize {
        self.telegrams.iter().map(|telegram| telegram.payload.encoded_len() + TELEGRAM_BYTES).sum()
    }
}

impl EdgeNode {
    /// What goes out now for this: telegrams in the order in which they are to be sent, each behind the birth that it needs.
    /// They are made here and not before, of what births have told by now; a birth that goes before them counts as told too.
    pub(super) fn say(&mut self, said: Said, bytes_max: usize, now: Instant) -> Vec<Telegram> {
        match said {
            Said::Gap(text) => vec![self.gap(text)],
            Said::Records { records, .. } => self.say_records(&records, bytes_max, now),
        }
    }

    fn say_records(&mut self, records: &[Owed], bytes_max: usize, now: Instant) -> Vec<Telegram> {
        let mut draft = self.draft(records);
        self.meet(std::mem::take(&mut draft.strangers));
        let mut all: Vec<Telegram> = draft.telegrams.iter().filter_map(|telegram| self.before(telegram, now)).collect();
        if !all.is_empty() {
            draft = self.draft(records);
        }
        if records.len() > 1 && !draft.fits(bytes_max) {
            // more of it is historical, or of a larger type, than when it was put together
            let (first, second) = records.split_at(records.len() / 2);
            all.extend(self.say_records(first, bytes_max, now));
            all.extend(self.say_records(second, bytes_max, now));
            return all;
        }
        all.extend(self.keep(draft));
        all
    }

    /// Makes telegrams of these records; [`Self::keep`] when they are to be sent.
    pub(in crate::uplink) fn draft(&self, records: &[Owed]) -> Draft {
        let mut groups: Vec<(Option<&str>, Vec<Timed<'_>>)> = Vec::new();
        let mut places: HashMap<Option<&str>, usize> = HashMap::new();
        for owed in records.iter().filter(|owed| !self.says_nothing(owed)) {
            let device = match &owed.body {
                OwedBody::Sample { tag, .. } => Some(&*tag.device),
                OwedBody::Event { .. } | OwedBody::Message { .. } => None,
            };
            let place = *places.entry(device).or_insert_with(|| {
                groups.push((device, Vec::new()));
                groups.len() - 1
            });
            groups[place].1.push((ms(self.clock.wall(owed.at).unix_ms), owed));
        }
        let mut draft = Draft { telegrams_max: self.telegrams_max, ..Draft::default() };
        for (device, mut records) in groups {
            records.sort_by_key(|(at_ms, _)| *at_ms);
            let mut payload = Payload::new(0, None);
            for (at_ms, owed) in records {
                match &owed.body {
                    OwedBody::Sample { tag, value, quality } => {
                        let quality = honest(*quality, self.clock.wall(owed.at));
                        self.sample(&mut draft, &mut payload, (tag, owed.at, at_ms), (value.as_ref(), quality));
                    }
                    OwedBody::Event { topic, body } => {
                        let time = self.clock.wall(owed.at);
                        let numbered = event::numbered(body, time, owed.number, owed.previous);
                        self.event(&mut payload, &mut draft.own, owed, (topic, &numbered));
                    }
                    OwedBody::Message { .. } => {} // refused with the configuration: no such record is owed here
                }
            }
            let kind = if device.is_some() { Kind::DData } else { Kind::NData };
            draft.telegrams.push(Telegram { kind, device: device.map(Into::into), payload });
        }
        draft
    }

    /// A draft is to be sent.
    pub(super) fn keep(&mut self, draft: Draft) -> Vec<Telegram> {
        let Draft { telegrams, told, own, strangers, .. } = draft;
        self.metrics.extend(told);
        self.own.extend(own);
        self.meet(strangers);
        telegrams
    }

    /// Their devices must tell of them before any data.
    fn meet(&mut self, strangers: Vec<Arc<DictionaryTag>>) {
        for tag in strangers {
            let life = self.devices.entry(tag.device.as_str().into()).or_default();
            life.stale = true;
            life.extras.insert(tag.id.into(), tag);
        }
    }

    /// What data say of it.
    pub(super) fn datatype(&self, kind: DataType) -> Option<DataType> {
        (self.datatypes == Datatypes::Always).then_some(kind)
    }

    /// A dead device's tag that still has no value.
    fn says_nothing(&self, owed: &Owed) -> bool {
        let OwedBody::Sample { tag, value: None, quality: Quality::Bad(_) } = &owed.body else { return false };
        let Some(life) = self.devices.get(tag.device.as_str()).filter(|life| !life.born) else { return false };
        life.dead_since.is_some_and(|since| owed.at >= since)
    }

    fn sample(
        &self,
        draft: &mut Draft,
        payload: &mut Payload,
        (tag, at, at_ms): (&Arc<DictionaryTag>, Stamp, u64),
        (value, quality): (Option<&value::Value>, Quality),
    ) {
        let alias = u64::from(tag.id);
        let kind = match self.catalogue.metric(alias) {
            Some((_, entry)) => entry.kind,
            None => {
                let told = self.devices.get(tag.device.as_str()).is_some_and(|life| life.extras.contains_key(&alias));
                if !told && !draft.strangers.iter().any(|known| known.id == tag.id) {
                    draft.strangers.push(Arc::clone(tag));
                }
                type_of(tag.data_type, Worked::Raw)
            }
        };
        let told = match draft.told.entry(alias) {
            Slot::Occupied(told) => told.into_mut(),
            // its birth goes before it, and will be newer than anything that was taken by now
            Slot::Vacant(free) => {
                free.insert(self.metrics.get(&alias).copied().unwrap_or(Told { newest: self.clock.now(), quality: 0 }))
            }
        };
        let code = quality_code(quality);
        let historical = at <= told.newest;
        let loud = code != GOOD || told.quality != GOOD;
        if !historical {
            *told = Told { newest: at, quality: code };
        }
        // A value that its metric cannot have is one of a time when the tag was another: it says its type itself.
        let (datatype, value) = match value_of(value, kind) {
            Some(value) => (self.datatype(kind), value),
            None => value.map_or((None, Value::Null), |value| plain(value)),
        };
        let property = [(QUALITY, Property::Int(code))];
        payload.push(&Metric {
            name: None,
            alias: Some(alias),
            timestamp_ms: Some(at_ms),
            datatype,
            historical,
            value,
            properties: if loud { &property } else { &[] },
        });
    }
}

/// In the type that it has by itself.
fn plain(value: &value::Value) -> (Option<DataType>, Value<'_>) {
    let kind = match value {
        value::Value::Bool(_) => DataType::Boolean,
        value::Value::Int(_) => DataType::Int64,
        value::Value::Uint(_) => DataType::UInt64,
        value::Value::Float(_) => DataType::Double,
        value::Value::Text(_) => DataType::String,
    };
    (Some(kind), value_of(Some(value), kind).unwrap_or(Value::Null))
}
