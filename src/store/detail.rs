//! More of what `store status` says: what each uplink is owed of each stream, and since when; what is held, from when to
//! when, in which files. Only reads, also while the store is used.

use std::path::Path;

use serde::Serialize;

use crate::model::number::Class;
use crate::model::time::{Certainty, Stamp, Wall};

use super::cursor::{Position, Span};
use super::inspect::LookError;
use super::meters::MeterRow;
use super::pages::Pages;
use super::state::Ledger;
use super::stream::Held;
use super::times::{self, Times};

/// Of all of it.
#[derive(Debug, Clone, Serialize)]
pub struct Detail {
    /// Streams that hold anything.
    pub held: Vec<HeldDetail>,
    /// What is owed.
    pub owed: Vec<OwedDetail>,
    /// Wire bytes that uplinks have counted, by day and month.
    #[serde(skip)]
    pub meters: Vec<MeterRow>,
}

/// What is held of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct HeldDetail {
    /// Its class.
    pub stream: &'static str,
    /// Records held.
    pub records: u64,
    /// Bytes of its chunk files per record in them.
    pub bytes_per_record: Option<f64>,
    /// When the oldest was taken; with a floor where the clock was never set.
    pub oldest: Option<String>,
    /// When the newest was taken.
    pub newest: Option<String>,
    /// Its epochs, oldest first: epoch, first and last number not evicted.
    pub epochs: Vec<(u64, u64, u64)>,
    /// Its files, and what is not in one yet.
    pub chunks: Vec<ChunkDetail>,
}

/// One file.
#[derive(Debug, Clone, Serialize)]
pub struct ChunkDetail {
    /// Its name; `tail` for what is not in a chunk yet.
    pub file: String,
    /// Of which epoch.
    pub epoch: u64,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// Its bytes.
    pub bytes: u64,
    /// When its first record was taken.
    pub from: String,
    /// When its last record was taken.
    pub to: String,
}

/// What an uplink is owed of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct OwedDetail {
    /// Whom.
    pub uplink: String,
    /// Of which stream.
    pub stream: &'static str,
    /// Records.
    pub records: u64,
    /// What they take in the store, about.
    pub bytes: u64,
    /// Gap records.
    pub gaps: usize,
    /// When the oldest of them was taken, ms since 1970; `None`: nothing is owed, or the clock was never set.
    pub oldest_ms: Option<i64>,
}

/// Looks. `floor_ms`: no honest clock is before this.
pub fn detail(dir: &Path, floor_ms: i64) -> Result<Detail, LookError> {
    let pages = Pages::with_floor(dir, floor_ms)?;
    let held: Vec<_> = Class::ALL.into_iter().filter_map(|class| of_stream(&pages, class)).collect();
    let mut owed = Vec::new();
    for ledger in &pages.now.state.ledgers {
        for class in Class::ALL.into_iter().filter(|class| ledger.cursors[*class].is_some()) {
            let each = held.iter().find(|held| held.stream == class.as_str()).and_then(|held| held.bytes_per_record);
            owed.push(of_uplink(&pages, ledger, class, each));
        }
    }
    Ok(Detail { held, owed, meters: pages.now.contents.meters.clone() })
}

fn of_stream(pages: &Pages, class: Class) -> Option<HeldDetail> {
    let stream = pages.stream(class);
    let chunks: Vec<_> = stream.chunks.iter().map(|held| of_chunk(pages, class, held)).collect();
    let times = stream.chunks.iter().map(|held| held.times).reduce(Times::and)?;
    let in_files = || stream.chunks.iter().filter(|held| !held.name.is_tail());
    let filed: u64 = in_files().map(|held| held.span.len()).sum();
    let bytes: u64 = chunks.iter().filter(|chunk| chunk.file != TAIL).map(|chunk| chunk.bytes).sum();
    let text = |stamp| Some(pages.clock().wall(stamp).to_string());
    Some(HeldDetail {
        stream: class.as_str(),
        records: stream.chunks.iter().map(|held| held.span.len()).sum(),
        bytes_per_record: ratio(bytes, filed),
        oldest: text(times.first),
        newest: text(times.last),
        epochs: stream.epochs.iter().map(|life| (life.epoch, life.evicted + 1, life.last)).collect(),
        chunks,
    })
}

const TAIL: &str = "tail";

#[allow(clippy::cast_precision_loss)] // for people
fn ratio(bytes: u64, records: u64) -> Option<f64> {
    (records > 0).then(|| bytes as f64 / records as f64)
}

fn of_chunk(pages: &Pages, class: Class, held: &Held) -> ChunkDetail {
    let wall = |stamp| pages.clock().wall(stamp).to_string();
    let name = if held.name.is_tail() { TAIL.to_owned() } else { held.name.file_name() };
    let bytes = if held.name.is_tail() {
        0
    } else {
        pages.now.directory.chunk(held.name).metadata().map_or(0, |about| about.len())
    };
    ChunkDetail {
        file: name,
        epoch: pages.stream(class).life(held.span.ordinal).map_or(0, |life| life.epoch),
        first: held.span.first,
        last: held.span.last,
        bytes,
        from: wall(held.times.first),
        to: wall(held.times.last),
    }
}

fn of_uplink(pages: &Pages, ledger: &Ledger, class: Class, each: Option<f64>) -> OwedDetail {
    let stream = pages.stream(class);
    let gaps: Vec<Span> = ledger.gaps.iter().filter(|gap| gap.class == class).map(|gap| gap.loss.span).collect();
    let mut owed = Vec::new();
    if let Some(cursor) = &ledger.cursors[class] {
        for life in stream.epochs.iter().filter(|life| life.last > life.evicted) {
            let held = Span { ordinal: life.ordinal, first: life.evicted + 1, last: life.last };
            let known = gaps.iter().copied().chain(stream.losses.iter().map(|loss| loss.span));
            owed.extend(known.fold(cursor.missing_of(held), |left, known| known.take_out_of(left)));
        }
    }
    let records: u64 = owed.iter().map(|span: &Span| span.len()).sum();
    let oldest = owed.first().and_then(|span| taken(pages, class, Position { ordinal: span.ordinal, seq: span.first }));
    OwedDetail {
        uplink: ledger.name.clone(),
        stream: class.as_str(),
        records,
        bytes: estimate(records, each),
        gaps: gaps.len(),
        oldest_ms: oldest
            .map(|stamp| pages.clock().wall(stamp))
            .filter(|wall: &Wall| wall.certainty == Certainty::Fixed)
            .map(|wall| wall.unix_ms),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an estimate, not negative
fn estimate(records: u64, each: Option<f64>) -> u64 {
    each.map_or(0, |each| (records as f64 * each) as u64)
}

/// When the record at this place was taken, to the segment.
fn taken(pages: &Pages, class: Class, at: Position) -> Option<Stamp> {
    let stream = pages.stream(class);
    if let Some(row) = stream.tail_at(at) {
        return Some(Times::of(row).first);
    }
    let held = stream.chunks.iter().rev().find(|held| held.span.has(at) && !held.name.is_tail())?;
    Some(times::since(&pages.now.directory, *held, stream.life(at.ordinal)?.epoch, at.seq))
}
