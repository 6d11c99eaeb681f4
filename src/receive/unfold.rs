//! A batch and its dictionary to records.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::model::number::{Number, Seq};
use crate::payload::batch::{Batch, RecordBody};
use crate::payload::json;

use super::consumer::Tags;
use super::record::{Body, Grade, Record};

/// Every record of a batch; `tags` are those of its columns.
pub(super) fn unfold(batch: &Batch, tags: &Tags) -> Vec<Record> {
    let gateway: Arc<str> = batch.gateway.as_str().into();
    let topics: Vec<Arc<str>> = tags.iter().map(|tag| tag.topic.as_str().into()).collect();
    let Number { stream, epoch, seq: first } = batch.first;
    let records = (first.0..).zip(&batch.records).filter_map(|(seq, record)| {
        let number = Number { stream, epoch, seq: Seq(seq) };
        let previous = batch.previous.filter(|_| seq == first.0);
        let (topic, body) = match &record.body {
            RecordBody::Sample { column, value, quality } => {
                let grade = Grade::from_word(quality.as_str());
                let cause = quality.cause().map(|cause| cause.as_str().into());
                let body = Body::Sample { value: value.clone(), quality: grade, cause };
                (Arc::clone(topics.get(*column)?), body)
            }
            RecordBody::Event { topic, body } => {
                let body = match serde_json::from_slice::<Json>(&json::numbered_event(body, number, previous)) {
                    Ok(Json::Object(object)) if !has_number(body) => object,
                    _ => opaque(body, number),
                };
                (topic.as_str().into(), Body::Event(body))
            }
        };
        let gateway = Some(Arc::clone(&gateway));
        let (time_ms, until_ms) = (Some(record.unix_ms), record.until_ms);
        Some(Record { gateway, number, previous, topic, time_ms, until_ms, body, whole: None })
    });
    records.collect()
}

/// A client's message that was forwarded may have keys of these names: they are its own, and nothing is put over them.
fn has_number(payload: &[u8]) -> bool {
    let Ok(Json::Object(object)) = serde_json::from_slice::<Json>(payload) else { return false };
    ["stream", "epoch", "seq"].iter().any(|key| object.contains_key(*key))
}

/// A payload that is no JSON object (a client's message that was forwarded): as text where it is text, else in hex.
fn opaque(payload: &[u8], number: Number) -> Map<String, Json> {
    let mut object = Map::new();
    match std::str::from_utf8(payload) {
        Ok(text) => object.insert("payload".into(), text.into()),
        Err(_) => {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
            let hex: String = payload.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            object.insert("payload_hex".into(), hex.into())
        }
    };
    object.insert("stream".into(), number.stream.as_str().into());
    object.insert("epoch".into(), number.epoch.0.into());
    object.insert("seq".into(), number.seq.0.into());
    object
}
