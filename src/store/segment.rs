//! Segments: how records lie in the store. Packs records of one class and one boot, and gives them back, bit by bit
//! the same and in the same order.
//!
//! ```text
//! row     first, last (seqs), boot, earliest, latest (stamps, µs of the boot), raw (bytes of the body unpacked), crc, body
//! crc     CRC-32 (IEEE) over "IBSEG1" | class u8 | epoch u64 | first u64 | last u64 | boot u32 | earliest i64 | latest i64 |
//!         raw u32 | body
//!         (numbers little-endian): a segment that strays into another stream is noticed as well
//! body    zstd(protobuf `Segment` below)
//! ```
//!
//! `Segment` holds the samples in columns, one per tag, end to end (tag-major), each array packed. Fields 1 to 4 and from
//! 11 on are its own; 5 to 10 lie in an inner message, its field 5 ([`super::column::Cells`]):
//!
//! ```text
//!  1 base        sint64  time of the first record, µs of the boot
//!  2 tags        sint64  dictionary id of each column, minus that of the column before
//!  3 counts      uint32  samples of each column
//!  4 times       sint64  older segments instead of 13 and 14: per sample, µs since the sample before in the column; the
//!                        first of a column: since the first of the column before; the very first: since base
//!  5 qualities   uint32  runs over all columns: code (model::quality), length, code, length …
//!  6 kinds       uint32  runs over all columns: kind, length …
//!                        0 none · 1 bool · 2 int64 · 3 uint64 · 4 float32 bits · 5 float64 bits · 6 text
//!                        · 16+k  whole number / 10^k · 32+k  whole number × 10^-k as written (0.1, 0.01 …), k ≤ 6
//!  7 numbers     sint64  bools, integers and whole numbers of decimals: minus the one before of the same column
//!                        (wrapping; uint64 as the same 64 bits)
//!  8 singles     fixed32 float32 bits
//!  9 doubles     fixed64 float64 bits
//! 10 texts       string
//! 11 events      Event { 1 topic string, 2 body bytes, 3 time sint64 since base, 4 message }; where there is a message
//!                        ([`super::letter`]), the body is a client's payload, else a JSON object
//! 12 order       sint32  per record, in order of arrival: its column, minus that of the record before;
//!                        column number = count of columns means "the next event"
//! 13 stamps      sint64  runs over all samples in order of arrival (those of one reply share their time): µs since the
//!                        run before; the first: since base
//! 14 shared      uint32  samples in each of these runs
//! ```

use std::sync::Arc;

use crate::disk::chunk::SegmentRow;
use crate::disk::fault::Fault;
use crate::model::message::ClientMessage;
use crate::model::number::Class;
use crate::model::quality::Quality;
use crate::model::time::{Boot, Stamp};
use crate::model::value::Value;

use super::column::{self, Cells, Times};
use super::letter::Envelope;

/// Records in one segment of a commit.
pub(super) const RECORDS_MAX: usize = 16_384;
/// Bytes of events and messages after which a segment of a commit ends; a reader unpacks one at a time.
pub(super) const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Records in one merged segment; unpacked they take 4 to 5 MiB.
pub(super) const MERGED_MAX: usize = 60_000;
/// Bytes of a body unpacked, far above what a segment takes; larger is damage.
const RAW_MAX: u32 = 64 * 1024 * 1024;
/// zstd: 3 is within 2 % of 12 on segments of any length; 15 saves 14 % on merged ones and takes 100 times as long, on
/// the thread that commits.
const LEVEL: i32 = 3;

/// One record without its number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// What it is.
    pub(super) body: Body,
    /// When.
    pub(super) at: Stamp,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Sample { tag: u32, value: Option<Value>, quality: Quality },
    Event { topic: Arc<str>, body: Arc<[u8]> },
    Message { topic: Arc<str>, message: Arc<ClientMessage> },
}

impl Body {
    /// Bytes that it takes in memory beyond its place.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Sample { .. } => 0,
            Self::Event { topic, body } => topic.len() + body.len(),
            Self::Message { topic, message } => topic.len() + message.bytes(),
        }
    }
}

/// Where a segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Packed {
    #[prost(sint64, tag = "1")]
    base: i64,
    #[prost(sint64, repeated, tag = "2")]
    tags: Vec<i64>,
    #[prost(uint32, repeated, tag = "3")]
    counts: Vec<u32>,
    #[prost(sint64, repeated, tag = "4")]
    times: Vec<i64>,
    #[prost(message, required, tag = "5")]
    cells: Cells,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(sint32, repeated, tag = "12")]
    order: Vec<i32>,
    #[prost(sint64, repeated, tag = "13")]
    stamps: Vec<i64>,
    #[prost(uint32, repeated, tag = "14")]
    shared: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
    #[prost(sint64, tag = "3")]
    time: i64,
    #[prost(message, optional, tag = "4")]
    message: Option<Envelope>,
}

/// Packs records that have the seqs `first ..`; all of one boot, at most [`MERGED_MAX`], at least one.
pub(super) fn pack(place: Place, first: u64, records: &[Record]) -> SegmentRow {
    let base = records.first().map_or(0, |record| record.at.micros);
    let mut packed = Packed { base, ..Packed::default() };
    let columns = lay_out(records, &mut packed);
    stamp(records, &mut packed);
    let mut tag_before = 0;
    for column in &columns {
        packed.tags.push(i64::from(column.tag) - tag_before);
        tag_before = i64::from(column.tag);
        packed.counts.push(u32::try_from(column.rows.len()).unwrap_or(u32::MAX));
        let samples = column.rows.iter().filter_map(|row| match &records[*row].body {
            Body::Sample { value, quality, .. } => Some((value.as_ref(), *quality)),
            Body::Event { .. } | Body::Message { .. } => None,
        });
        packed.cells.push(&samples.collect::<Vec<_>>());
    }
    let raw = prost::Message::encode_to_vec(&packed);
    let body = zstd::bulk::compress(&raw, LEVEL).expect("zstd writes to memory and the level exists");
    let last = first + records.len() as u64 - 1;
    let boot = records.first().map_or(0, |record| record.at.boot.0);
    let micros = || records.iter().map(|record| record.at.micros);
    let (earliest, latest) = (micros().min().unwrap_or(base), micros().max().unwrap_or(base));
    let raw = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let mut row = SegmentRow { first, last, boot, earliest, latest, raw, crc: 0, body };
    row.crc = crc(place, &row);
    row
}

/// Notes the times, runs of the same together.
fn stamp(records: &[Record], packed: &mut Packed) {
    let mut before = packed.base;
    for record in records.iter().filter(|record| matches!(record.body, Body::Sample { .. })) {
        match packed.shared.last_mut() {
            Some(count) if record.at.micros == before => *count += 1,
            _ => {
                packed.stamps.push(record.at.micros.wrapping_sub(before));
                packed.shared.push(1);
                before = record.at.micros;
            }
        }
    }
}

struct Column {
    tag: u32,
    rows: Vec<usize>,
}

/// Sorts the records into columns, events apart, and notes the order of arrival.
fn lay_out(records: &[Record], packed: &mut Packed) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut order = Vec::with_capacity(records.len());
    for (row, record) in records.iter().enumerate() {
        match &record.body {
            Body::Sample { tag, .. } => {
                let place = *places.entry(*tag).or_insert(columns.len());
                if place == columns.len() {
                    columns.push(Column { tag: *tag, rows: Vec::new() });
                }
                columns[place].rows.push(row);
                order.push(Some(place));
            }
            Body::Event { topic, body } => {
                let time = record.at.micros.wrapping_sub(packed.base);
                packed.events.push(Event { topic: topic.to_string(), body: body.to_vec(), time, message: None });
                order.push(None);
            }
            Body::Message { topic, message } => {
                let time = record.at.micros.wrapping_sub(packed.base);
                let (topic, body) = (topic.to_string(), message.payload.to_vec());
                packed.events.push(Event { topic, body, time, message: Some(Envelope::of(message)) });
                order.push(None);
            }
        }
    }
    let mut before = 0;
    for place in order {
        let place = i32::try_from(place.unwrap_or(columns.len())).unwrap_or(i32::MAX);
        packed.order.push(place - before);
        before = place;
    }
    columns
}

/// Is the row what was written for this place?
pub(super) fn check(place: Place, row: &SegmentRow) -> Result<(), Fault> {
    if crc(place, row) == row.crc && row.first >= 1 && row.last >= row.first {
        return Ok(());
    }
    Err(Fault::Damaged(format!("CRC of segment {}..{} of {} is wrong", row.first, row.last, place.class)))
}

/// Unpacks a segment, checking its CRC first.
pub(super) fn unpack(place: Place, row: &SegmentRow) -> Result<Vec<Record>, Fault> {
    check(place, row)?;
    let broken = || Fault::Damaged(format!("segment {}..{} does not unpack", row.first, row.last));
    if row.raw > RAW_MAX {
        return Err(broken());
    }
    let raw = zstd::bulk::decompress(&row.body, row.raw as usize).map_err(|_| broken())?;
    let packed: Packed = prost::Message::decode(raw.as_slice()).map_err(|_| broken())?;
    let count = usize::try_from(row.last - row.first + 1).map_err(|_| broken())?;
    if packed.order.len() != count {
        return Err(broken());
    }
    restore(&packed, Boot(row.boot)).ok_or_else(broken)
}

fn restore(packed: &Packed, boot: Boot) -> Option<Vec<Record>> {
    let stamp = |micros| Stamp { boot, micros };
    let counts: Vec<usize> = packed.counts.iter().map(|count| *count as usize).collect();
    let mut cells = column::restore(&packed.cells, &counts)?;
    // Where each column's next sample lies in the tag-major arrays.
    let (mut next, mut tags) = (Vec::with_capacity(counts.len()), Vec::with_capacity(counts.len()));
    let (mut tag, mut start) = (0i64, 0);
    for (delta, count) in packed.tags.iter().zip(&counts) {
        tag = tag.checked_add(*delta)?;
        tags.push(u32::try_from(tag).ok()?);
        next.push(start);
        start += count;
    }
    if tags.len() != counts.len() || start != cells.len() {
        return None;
    }
    let mut times = Times::of((packed.base, &packed.times), (&packed.stamps, &packed.shared), &counts)?;
    let mut events = packed.events.iter();
    let mut place = 0i32;
    let mut records = Vec::with_capacity(packed.order.len());
    for step in &packed.order {
        place = place.checked_add(*step)?;
        let column = usize::try_from(place).ok()?;
        if column == counts.len() {
            let event = events.next()?;
            let (topic, body) = (event.topic.as_str().into(), event.body.as_slice().into());
            let body = match &event.message {
                None => Body::Event { topic, body },
                Some(envelope) => Body::Message { topic, message: Arc::new(envelope.open(body)?) },
            };
            records.push(Record { body, at: stamp(packed.base.wrapping_add(event.time)) });
        } else {
            let at = next.get_mut(column)?;
            let (value, quality) = cells.get_mut(*at).map(std::mem::take)?;
            let tag = *tags.get(column)?;
            records.push(Record { body: Body::Sample { tag, value, quality: quality? }, at: stamp(times.next(*at)?) });
            *at += 1;
        }
    }
    Some(records)
}

fn crc(place: Place, row: &SegmentRow) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(b"IBSEG1");
    hasher.update(&[place.class as u8]);
    for number in [place.epoch, row.first, row.last] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&row.boot.to_le_bytes());
    for micros in [row.earliest, row.latest] {
        hasher.update(&micros.to_le_bytes());
    }
    hasher.update(&row.raw.to_le_bytes());
    hasher.update(&row.body);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
