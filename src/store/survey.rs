//! What a plant really did, as its store remembers it: how many records of each class in what time, and a sample of them.
//! For `ironbridge cost`; only reads, also beside the running gateway.

use std::path::Path;

use crate::flow::clock::Clock;
use crate::model::number::{Class, Epoch, Number, Seq};

use super::cursor::{Position, Span};
use super::inspect::LookError;
use super::pages::{Page, Pages, Turned};
use super::segment::Body;
use super::times::Times;
use super::{MeterRow, Owed, OwedBody, dictionary};

/// Newest records of a class that are handed out.
const SAMPLE: u64 = 20_000;

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
    /// There were records before them that are not held any more: the class brought these since `from_ms`, not since the
    /// store was begun.
    pub is_cut: bool,
    /// Some of the newest, in order.
    pub sample: Vec<Owed>,
}

/// A class of which nothing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    /// Which.
    pub stream: Class,
    /// There were records of it, and all of them are gone.
    pub is_gone: bool,
}

/// All of it.
pub struct Survey {
    /// Classes that have records.
    pub streams: Vec<Surveyed>,
    /// The others.
    pub absent: Vec<Absent>,
    /// Works out times of the records.
    pub clock: Clock,
    /// What the uplinks counted on the wire.
    pub meters: Vec<MeterRow>,
}

/// Looks at the store in a directory, what is not merged yet included. Reads the ends of all files and some of the newest
/// segments.
pub fn survey(dir: &Path) -> Result<Survey, LookError> {
    let mut pages = Pages::open(dir)?;
    let (mut streams, mut absent) = (Vec::new(), Vec::new());
    for class in Class::ALL {
        let stream = pages.stream(class);
        let held = &stream.chunks;
        let Some(times) = held.iter().map(|held| held.times).reduce(Times::and) else {
            let is_gone = stream.epochs.iter().any(|life| life.last > 0 || life.previous.is_some());
            absent.push(Absent { stream: class, is_gone });
            continue;
        };
        let records = held.iter().map(|held| held.span.len()).sum();
        let has_previous = |span: Span| stream.life(span.ordinal).is_some_and(|life| life.previous.is_some());
        let is_cut = held.first().is_some_and(|held| held.span.first > 1 || has_previous(held.span));
        let (from_ms, to_ms) = (pages.clock().wall(times.first).unix_ms, pages.clock().wall(times.last).unix_ms);
        let sample = newest(&mut pages, class)?;
        streams.push(Surveyed { stream: class, records, from_ms, to_ms, is_cut, sample });
    }
    streams.sort_by_key(|seen| seen.stream);
    absent.sort_by_key(|class| class.stream);
    Ok(Survey { streams, absent, clock: pages.clock().clone(), meters: pages.now.contents.meters.clone() })
}

/// The newest records of the newest epoch.
fn newest(pages: &mut Pages, class: Class) -> Result<Vec<Owed>, LookError> {
    let end = pages.stream(class).end();
    let mut at = Position { seq: end.seq.saturating_sub(SAMPLE - 1).max(1), ..end };
    let mut found = Vec::new();
    while at <= end {
        at = match pages.turn(class, at, &|_| true)? {
            Turned::End => break,
            Turned::Skip { next, .. } => next,
            Turned::Page(page) => {
                let next = page.next;
                found.extend(owed(pages, class, page));
                next
            }
        };
    }
    Ok(found)
}

fn owed(pages: &Pages, class: Class, page: Page) -> impl Iterator<Item = Owed> {
    let epoch = Epoch(page.epoch);
    (page.first..).zip(page.records).map(move |(seq, record)| Owed {
        number: Number { stream: class, epoch, seq: Seq(seq) },
        previous: None,
        at: record.at,
        body: match record.body {
            Body::Event { topic, body } => OwedBody::Event { topic, body },
            Body::Message { topic, message } => OwedBody::Message { topic, message },
            Body::Sample { tag, value, quality } => {
                let tag = pages.tag(tag).unwrap_or_else(|| dictionary::unknown(tag));
                OwedBody::Sample { tag, value, quality }
            }
        },
    })
}
