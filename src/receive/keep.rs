//! Messages into one transaction of the database.

use crate::disk::fault::Fault;
use crate::disk::received::{Came, DictionaryRow, EventRow, GapRow, LifeKey, SampleRow, WaitingRow, Window};
use crate::payload::batch::{Batch, Dictionary, Entry};
use crate::payload::packed::{self, Opened};

use super::consumer::{Arrival, Books, NEVER_EXPLAINED};
use super::lag::bucket;
use super::message::Message;
use super::record::{Body, Record};
use super::unfold::unfold;

/// Batches that wait for their dictionary: bytes in the database.
const WAITING_BYTES_MAX: u64 = 256 << 20;

/// Puts one window away.
pub(super) struct Keeper<'a, 'w> {
    pub(super) into: &'a mut Window<'w>,
    pub(super) books: &'a mut Books,
    pub(super) dictionary: &'a mut Dictionary,
}

impl Keeper<'_, '_> {
    pub(super) fn keep(&mut self, messages: &[(Message, &Arrival<'_>)]) -> Result<(), Fault> {
        for (message, arrival) in messages {
            self.books.note_rest(message);
            match message {
                Message::Records(records) => self.records(records)?,
                Message::Batch(batch) => self.batch(batch, arrival.payload)?,
                Message::Gap(gap) => {
                    let key = LifeKey { gateway: Some(&gap.gateway), stream: gap.stream, epoch: gap.epoch.0 };
                    let life = self.into.life(key)?;
                    let body = serde_json::Value::Object(gap.body.clone()).to_string();
                    let reason = gap.body.get("reason").and_then(serde_json::Value::as_str);
                    self.into.gap(life, &GapRow { first: gap.first.0, last: gap.last.0, reason, body: &body })?;
                }
                Message::Status { gateway, newest } => {
                    for (stream, epoch, seq) in newest {
                        let key = LifeKey { gateway: Some(gateway), stream: *stream, epoch: epoch.0 };
                        let life = self.into.life(key)?;
                        self.into.newest(life, seq.0);
                    }
                }
                Message::Other | Message::Broken(_) => {}
            }
        }
        Ok(())
    }

    fn records(&mut self, records: &[Record]) -> Result<(), Fault> {
        for record in records {
            let (gateway, number) = (record.gateway.as_deref(), record.number);
            let life = self.into.life(LifeKey { gateway, stream: number.stream, epoch: number.epoch.0 })?;
            let (topic, time_ms) = (&*record.topic, record.time_ms);
            let came = match &record.body {
                Body::Sample { value, quality, cause } => {
                    let (value, quality, cause) = (value.as_ref(), *quality as u8, cause.as_deref());
                    let until_ms = record.until_ms;
                    self.into.sample(
                        life,
                        number.seq.0,
                        &SampleRow { topic, time_ms, until_ms, value, quality, cause },
                    )?
                }
                Body::Event(object) => {
                    let body = serde_json::to_string(object).unwrap_or_default(); // texts and numbers always serialize
                    self.into.event(life, number.seq.0, &EventRow { topic, time_ms, body: &body })?
                }
            };
            if let Some(previous) = record.previous {
                self.into.previous(life, (previous.epoch.0, previous.seq.map(|seq| seq.0)));
            }
            if let (Came::First, Some((time_ms, now_ms))) = (came, time_ms.zip(self.books.now_ms)) {
                self.into.delay(life, bucket(now_ms.saturating_sub(time_ms)));
            }
            self.books.note(record);
        }
        Ok(())
    }

    /// A batch; one whose dictionary has not come is kept as it is, and every batch that brings entries is asked whether
    /// it explains those.
    fn batch(&mut self, batch: &Batch, payload: &[u8]) -> Result<(), Fault> {
        let new = self.learn(batch)?;
        if !self.unfolded(batch)? {
            let gateway = Some(batch.gateway.as_str());
            let key = LifeKey { gateway, stream: batch.first.stream, epoch: batch.first.epoch.0 };
            if self.into.waiting_bytes()? + payload.len() as u64 > WAITING_BYTES_MAX {
                *self.books.strays.broken.entry(NEVER_EXPLAINED).or_default() += 1;
            } else {
                let came = self.into.put_waiting(key, &WaitingRow { first: batch.first.seq.0, payload })?;
                self.books.strays.waiting += u64::from(came == Came::First);
            }
        }
        if new {
            for (row, payload) in self.into.waiting(&batch.gateway)? {
                let done = match packed::open(&payload) {
                    Ok(Opened::Batch(batch)) => self.unfolded(&batch)?,
                    _ => true,
                };
                if done {
                    self.into.drop_waiting(row)?;
                    self.books.strays.waiting = self.books.strays.waiting.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Takes a batch's entries; true when there was something new.
    fn learn(&mut self, batch: &Batch) -> Result<bool, Fault> {
        let mut new = false;
        for entry in &batch.entries {
            if self.dictionary.put(&batch.gateway, entry.clone()) {
                new = true;
                self.into.put_tag(&batch.gateway, &row(entry))?;
            }
        }
        Ok(new)
    }

    /// Puts a batch's records away; false while its dictionary is not known to any of those who write this file.
    fn unfolded(&mut self, batch: &Batch) -> Result<bool, Fault> {
        let mut tags = self.dictionary.tags(batch);
        if tags.is_none() {
            for row in self.into.tags(&batch.gateway)? {
                self.dictionary.put(&batch.gateway, entry(row));
            }
            tags = self.dictionary.tags(batch);
        }
        let Some(tags) = tags else { return Ok(false) };
        self.records(&unfold(batch, &tags)).map(|()| true)
    }
}

fn row(entry: &Entry) -> DictionaryRow {
    let Entry { id, device, name, topic, data_type } = entry.clone();
    DictionaryRow { id, device, name, topic, data_type }
}

fn entry(row: DictionaryRow) -> Entry {
    let DictionaryRow { id, device, name, topic, data_type } = row;
    Entry { id, device, name, topic, data_type }
}
