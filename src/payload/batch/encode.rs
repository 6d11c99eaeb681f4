//! Records to the payload of a batch.

use std::collections::HashMap;
use std::time::Instant;

use prost::Message;

use crate::model::number::Number;
use crate::model::quality::Quality;
use crate::model::value::Value;

use super::cells::{Cells, Hint};
use super::dictionary::{Book, Entry};
use super::rows::{self, Place, Step};
use super::schema::{Content, Event, Frame, Tag};
use super::{RECORDS_MAX, VERSION};
use crate::payload::json::Previous;

/// zstd; `cargo bench --bench wire` shows what others would give.
const LEVEL: i32 = 6;
/// All times are ms: that is what wall times are known in.
const TICKS_PER_SECOND: u32 = 1000;

/// Number of the first record, and what it says about the epoch before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the first record.
    pub first: Number,
    /// Only where the first record is the first of its epoch.
    pub previous: Option<Previous>,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// UTC, ms since 1970.
    pub unix_ms: i64,
    /// Where that is the earliest it can have been: the latest.
    pub until_ms: Option<i64>,
    /// What it is.
    pub body: RowBody<'a>,
}

/// The two kinds of record.
#[derive(Debug, Clone, Copy)]
pub enum RowBody<'a> {
    /// A sample of a tag that the encoder was told of.
    Sample {
        /// [`Entry::id`].
        tag: u32,
        /// Its value.
        value: Option<&'a Value>,
        /// Its quality, already doubtful where the time is.
        quality: Quality,
    },
    /// A payload on a topic.
    Event {
        /// With the uplink's prefix.
        topic: &'a str,
        /// Without its number.
        body: &'a [u8],
    },
}

/// A payload that may be sent, or thrown away when it came out too large.
#[derive(Debug)]
pub struct Draft {
    /// The payload.
    pub payload: Vec<u8>,
    entries: Vec<u32>,
    records: usize,
}

/// One per uplink: what was told to whom depends on the session.
pub struct Encoder {
    gateway: String,
    book: Book,
    hints: HashMap<u32, Hint>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Encoder {
    /// For the batches of this gateway.
    pub fn new(gateway: &str) -> Self {
        let zstd = zstd::bulk::Compressor::new(LEVEL).ok();
        Self { gateway: gateway.to_owned(), book: Book::default(), hints: HashMap::new(), zstd }
    }

    /// A tag as it is now; before a batch uses it.
    pub fn know(&mut self, entry: Entry) {
        self.book.know(entry);
    }

    /// A new session: nobody has been told anything.
    pub fn forget(&mut self) {
        self.book.forget();
    }

    /// It goes out, after all drafts that were sent before it.
    pub fn sent(&mut self, draft: &Draft, now: Instant) {
        self.book.told(&draft.entries, draft.records, now);
    }

    /// Packs consecutive records: at least one, at most [`RECORDS_MAX`] (what is beyond is left out).
    pub fn draft(&mut self, head: Head, rows: &[Row<'_>], now: Instant) -> Draft {
        let rows = &rows[..rows.len().min(RECORDS_MAX)];
        let tags = tags_of(rows);
        let due = self.book.due(&tags, rows.len(), now);
        let content = self.content(head, rows, &tags, &due).encode_to_vec();
        let frame = Frame { crc: crc32fast::hash(&content), content }.encode_to_vec();
        Draft { payload: self.compress(&frame), entries: due, records: rows.len() }
    }

    fn compress(&mut self, bytes: &[u8]) -> Vec<u8> {
        let reused = self.zstd.as_mut().and_then(|zstd| zstd.compress(bytes).ok());
        reused
            .unwrap_or_else(|| zstd::bulk::compress(bytes, LEVEL).expect("zstd writes to memory and the level exists"))
    }

    fn content(&mut self, head: Head, rows: &[Row<'_>], tags: &[u32], due: &[u32]) -> Content {
        let base = rows.first().map_or(0, |row| row.unix_ms);
        let places: HashMap<u32, usize> = tags.iter().enumerate().map(|(place, tag)| (*tag, place)).collect();
        let mut columns: Vec<Vec<(Option<&Value>, Quality)>> = vec![Vec::new(); tags.len()];
        let mut steps = Vec::with_capacity(rows.len());
        let mut events = Vec::new();
        for row in rows {
            let (place, device) = match row.body {
                RowBody::Sample { tag, value, quality } => {
                    let column = places.get(&tag).copied().unwrap_or(0); // there by the line above
                    columns[column].push((value, quality));
                    (Place::Column(column), self.book.device(tag))
                }
                RowBody::Event { topic, body } => {
                    events.push(Event { topic: topic.to_owned(), body: body.to_vec() });
                    (Place::Event, 0)
                }
            };
            steps.push(Step { place, device, ticks: row.unix_ms });
        }
        let mut cells = Cells::default();
        for (tag, column) in tags.iter().zip(&columns) {
            cells.push(column, self.hints.entry(*tag).or_default());
        }
        let order = rows::lay_out(&steps, tags.len(), base);
        let previous = head.previous.filter(|_| head.first.seq.0 == 1);
        Content {
            version: VERSION,
            gateway: self.gateway.clone(),
            stream: head.first.stream as i32,
            epoch: head.first.epoch.0,
            first: head.first.seq.0,
            count: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            previous_epoch: previous.map_or(0, |previous| previous.epoch.0),
            previous_seq: previous.and_then(|previous| previous.seq).map_or(0, |seq| seq.0),
            ticks_per_second: TICKS_PER_SECOND,
            base,
            dictionary: self.book.entries(due).map(tag).collect(),
            fingerprint: self.book.fingerprint(tags),
            tags: deltas(tags),
            shape_sizes: order.sizes,
            shape_columns: order.columns,
            poll_shapes: order.polls,
            poll_times: order.times,
            qualities: cells.qualities,
            kinds: cells.kinds,
            starts: cells.starts,
            steps: cells.steps,
            ulps: cells.ulps,
            texts: cells.texts,
            events,
            untils: rows::until_runs(rows.iter().map(|row| row.until_ms.map(|until| until.wrapping_sub(base)))),
        }
    }
}

/// The tags of these records, ascending.
fn tags_of(rows: &[Row<'_>]) -> Vec<u32> {
    let ids = rows.iter().filter_map(|row| match row.body {
        RowBody::Sample { tag, .. } => Some(tag),
        RowBody::Event { .. } => None,
    });
    let mut tags: Vec<u32> = ids.collect::<std::collections::HashSet<_>>().into_iter().collect();
    tags.sort_unstable();
    tags
}

fn deltas(tags: &[u32]) -> Vec<i64> {
    let mut before = 0;
    tags.iter().map(|tag| i64::from(*tag) - i64::from(std::mem::replace(&mut before, *tag))).collect()
}

fn tag(entry: &Entry) -> Tag {
    Tag {
        id: entry.id,
        device: entry.device.clone(),
        name: entry.name.clone(),
        topic: entry.topic.clone(),
        r#type: entry.data_type.clone(),
    }
}
