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
//! 11 events      Event { 1 topic string, 2 body bytes, 3 time sint64 since base }
//! 12 order       sint32  per record, in order of arrival: its column, minus that of the record before;
//!                        column number = count of columns means "the next event"
//! 13 stamps      sint64  runs over all samples in order of arrival (those of one reply share their time): µs since the
//!                        run before; the first: since base
//! 14 shared      uint32  samples in each of these runs
//! ```

use std::sync::Arc;

use crate::disk::chunk::SegmentRow;
use crate::disk::fault::Fault;
use crate::model::number::Class;
use crate::model::quality::Quality;
use crate::model::time::{Boot, Stamp};
use crate::model::value::Value;

use super::column::{self, Cells, Times};

/// Records in one segment of a commit.
pub(super) const RECORDS_MAX: usize = 16_384;
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
            Body::Event { .. } => None,
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
                packed.events.push(Event { topic: topic.to_string(), body: body.to_vec(), time });
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
            let body = Body::Event { topic: event.topic.as_str().into(), body: event.body.as_slice().into() };
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
mod tests {
    use super::*;
    use crate::model::quality::Cause;
    use proptest::prelude::*;

    const PLACE: Place = Place { class: Class::Telemetry, epoch: 77 };

    fn value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            any::<bool>().prop_map(|bit| Some(Value::Bool(bit))),
            any::<i64>().prop_map(|number| Some(Value::Int(number))),
            any::<u64>().prop_map(|number| Some(Value::Uint(number))),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|number| Some(Value::Float(number))),
            any::<f32>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| Some(Value::Float(f64::from(n)))),
            (-99_999i32..99_999, 0u8..8)
                .prop_map(|(raw, k)| Some(Value::Float(f64::from(raw) / 10f64.powi(i32::from(k))))),
            (-99_999i32..99_999).prop_map(|raw| Some(Value::Float(f64::from(raw) * 0.1))),
            Just(Some(Value::Float(-0.0))),
            ".{0,12}".prop_map(|text| Some(Value::Text(text.into()))),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let body = prop_oneof![
            9 => (0u32..6, value(), any::<bool>()).prop_map(|(tag, value, good)| Body::Sample {
                tag,
                value,
                quality: if good { Quality::Good } else { Quality::Bad(Cause::Timeout) },
            }),
            1 => (".{0,9}", prop::collection::vec(any::<u8>(), 0..20))
                .prop_map(|(topic, body)| Body::Event { topic: topic.into(), body: body.into() }),
        ];
        (body, any::<i64>()).prop_map(|(body, micros)| Record { body, at: Stamp { boot: Boot(3), micros } })
    }

    /// `==` on f64 takes 0.0 for -0.0; the bits must be the same.
    fn bits(records: &[Record]) -> Vec<String> {
        records.iter().map(|record| format!("{record:?}")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn records_come_back_bit_by_bit_in_the_order_they_arrived(records in prop::collection::vec(record(), 1..80)) {
            let row = pack(PLACE, 5, &records);
            prop_assert_eq!((row.first, row.last), (5, 4 + records.len() as u64));
            prop_assert_eq!(bits(&unpack(PLACE, &row).expect("whole")), bits(&records));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let sample = Body::Sample { tag: 1, value: Some(Value::Uint(u64::MAX)), quality: Quality::Good };
            let record = Record { body: sample, at: Stamp { boot: Boot(3), micros: 9 } };
            let mut row = pack(PLACE, 5, &[record]);
            let index = place.index(row.body.len());
            row.body[index] ^= 1 << bit;
            prop_assert!(unpack(PLACE, &row).is_err());
        }
    }

    #[test]
    fn segments_of_the_version_before_with_times_by_column_are_read() {
        let record = |tag, micros| {
            let body = Body::Sample { tag, value: Some(Value::Int(micros)), quality: Quality::Good };
            Record { body, at: Stamp { boot: Boot(3), micros } }
        };
        let records = [record(7, 100), record(9, 100), record(7, 130), record(9, 160), record(7, 131)];
        let row = pack(PLACE, 5, &records);
        let raw = zstd::bulk::decompress(&row.body, row.raw as usize).expect("packed");
        let mut packed: Packed = prost::Message::decode(raw.as_slice()).expect("whole");
        assert_eq!((packed.stamps.as_slice(), packed.shared.as_slice()), (&[0, 30, 30, -29][..], &[2, 1, 1, 1][..]));
        (packed.stamps, packed.shared) = (Vec::new(), Vec::new());
        packed.times = vec![0, 30, 1, 0, 60];
        assert_eq!(restore(&packed, Boot(3)).expect("fits"), records);
    }

    #[test]
    fn a_segment_of_another_stream_is_not_taken_for_ours() {
        let sample = Body::Sample { tag: 1, value: Some(Value::Int(i64::MIN)), quality: Quality::Good };
        let row = pack(PLACE, 5, &[Record { body: sample, at: Stamp { boot: Boot(3), micros: 9 } }]);
        assert!(unpack(Place { epoch: 78, ..PLACE }, &row).is_err());
        assert!(unpack(PLACE, &SegmentRow { first: 6, last: 6, ..row.clone() }).is_err());
        assert!(unpack(PLACE, &row).is_ok());
    }
}
