//! What a plant really did, as its store remembers it: how many records of each class in what time, and a sample of them.
//! For `ironbridge cost`; only reads, also beside the running gateway.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::disk::chunk::ChunkReader;
use crate::disk::directory::Directory;
use crate::disk::meta::{Contents, Meta};
use crate::flow::clock::{Clock, FakeTime, Fix};
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::time::{Boot, Stamp};

use super::inspect::LookError;
use super::segment::{self, Body, Place};
use super::times::Times;
use super::{DictionaryTag, MeterRow, Owed, OwedBody, boot, dictionary};

/// Newest records of a class that are handed out.
const SAMPLE: u64 = 20_000;
/// Segments read at a time.
const SEGMENTS: usize = 16;

/// One class.
#[derive(Debug)]
pub struct Surveyed {
    /// Which.
    pub stream: Class,
    /// Records that the store holds.
    pub records: u64,
    /// UTC of the oldest and newest of them, ms since 1970.
    pub from_ms: i64,
    /// See [`Surveyed::from_ms`].
    pub to_ms: i64,
    /// Some of the newest, in order.
    pub sample: Vec<Owed>,
}

/// All of it.
pub struct Survey {
    /// Classes that have records.
    pub streams: Vec<Surveyed>,
    /// Works out times of the records.
    pub clock: Clock,
    /// What the uplinks counted on the wire.
    pub meters: Vec<MeterRow>,
}

/// Looks at the store in a directory. Reads the ends of all chunk files and a few segments of the newest.
pub fn survey(dir: &Path) -> Result<Survey, LookError> {
    let directory = Directory::at(dir);
    let meta = directory.file(boot::META);
    if !meta.exists() {
        return Err(LookError::NoStore(dir.display().to_string()));
    }
    let contents = Meta::look(&meta)?;
    let clock = clock(&contents);
    let tags = contents.tags.iter().filter_map(|row| dictionary::tag(row.clone()));
    let tags: HashMap<u32, Arc<DictionaryTag>> = tags.map(|tag| (tag.id, Arc::new(tag))).collect();
    let mut streams: Vec<Surveyed> = Vec::new();
    for name in directory.chunks()? {
        // What was evicted meanwhile, or is damaged, is not counted.
        let Ok(chunk) = ChunkReader::open(&directory.chunk(name)) else { continue };
        let (Ok(Some(first)), Ok(Some(last))) = (chunk.first(), chunk.last()) else { continue };
        let Ok(info) = chunk.info() else { continue };
        let times = Times::of(&first).and(Times::of(&last));
        let (from_ms, to_ms) = (clock.wall(times.first).unix_ms, clock.wall(times.last).unix_ms);
        let place = streams.iter().position(|seen| seen.stream == name.class).unwrap_or_else(|| {
            streams.push(Surveyed { stream: name.class, records: 0, from_ms, to_ms, sample: Vec::new() });
            streams.len() - 1
        });
        let seen = &mut streams[place];
        seen.records += (last.last + 1).saturating_sub(first.first);
        (seen.from_ms, seen.to_ms) = (seen.from_ms.min(from_ms), seen.to_ms.max(to_ms));
        // The newest chunk comes last.
        let from = first.first.max(last.last.saturating_sub(SAMPLE - 1));
        seen.sample = records(&chunk, Place { class: name.class, epoch: info.epoch }, from, &tags);
    }
    streams.sort_by_key(|seen| seen.stream);
    Ok(Survey { streams, clock, meters: contents.meters })
}

fn clock(contents: &Contents) -> Clock {
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(0), 0);
    for row in &contents.fixes {
        clock.learn(Fix { at: Stamp { boot: Boot(row.at.0), micros: row.at.1 }, unix_ms: row.unix_ms });
    }
    clock
}

fn records(chunk: &ChunkReader, place: Place, from: u64, tags: &HashMap<u32, Arc<DictionaryTag>>) -> Vec<Owed> {
    let (mut found, mut seq) = (Vec::new(), from);
    while let Ok(rows) = chunk.segments_from(seq, SEGMENTS) {
        let rows: Vec<_> = rows.into_iter().filter(|row| row.last >= seq).collect();
        let Some(last) = rows.last() else { break };
        seq = last.last + 1;
        for row in &rows {
            let Ok(records) = segment::unpack(place, row) else { continue };
            found.extend((row.first..).zip(records).map(|(seq, record)| Owed {
                number: Number { stream: place.class, epoch: Epoch(place.epoch), seq: Seq(seq) },
                previous: None,
                at: record.at,
                body: match record.body {
                    Body::Event { topic, body } => OwedBody::Event { topic, body },
                    Body::Sample { tag, value, quality } => {
                        let tag = tags.get(&tag).cloned().unwrap_or_else(|| dictionary::unknown(tag));
                        OwedBody::Sample { tag, value, quality }
                    }
                },
            }));
        }
    }
    found
}
