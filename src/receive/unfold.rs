//! A batch and its dictionary to records.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::model::number::{Number, Seq};
use crate::payload::batch::{Batch, RecordBody};
use crate::payload::{json, letter};

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
                    _ => letter::object(body, number, None),
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
