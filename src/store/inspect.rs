//! Looking at a store from outside, also while it is used: what `ironbridge store status` says.
//!
//! Only reads, over connections of its own. What is read of a running store is at most as old as its last commit
//! (cursors: as their last save).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::disk::chunk::ChunkReader;
use crate::disk::directory::Directory;
use crate::disk::fault::{Fault, Unreadable};
use crate::disk::marks::Marks;
use crate::disk::meta::{Contents, Meta};
use crate::disk::tail::TailFile;
use crate::model::number::{Class, Epoch, Number, PerClass, Seq};

use super::boot::{MARKS, META, TAIL};
use super::cursor::Span;
use super::join::Joined;
use super::state::{Ledger, State};
use super::stream::Held;
use super::times::Times;
use super::wear::Wear;
use super::{acked, epochs, routes, tail};

pub use super::wear::Written;

pub use super::verify::{Verdict, verify};

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// There is no store: check the path.
    #[error("there is no store in {0}")]
    NoStore(String),
    /// It cannot be read now.
    #[error("the store cannot be read: {0}")]
    Unreadable(#[from] Fault),
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStatus {
    /// Its class.
    pub stream: &'static str,
    /// The epoch being written.
    pub epoch: u64,
    /// Epoch and number of the oldest record held.
    pub first: Option<(u64, u64)>,
    /// Last number used in the epoch being written.
    pub last: u64,
    /// Chunk files.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// One uplink.
#[derive(Debug, Clone, Serialize)]
pub struct UplinkStatus {
    /// Its name.
    pub uplink: String,
    /// Numbers owed; a gap record counts as one.
    pub backlog: u64,
    /// Gap records owed.
    pub gaps: usize,
    /// Per class: epoch and number up to which everything is acknowledged.
    pub acknowledged: BTreeMap<&'static str, (u64, u64)>,
}

/// Numbers without records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Class.
    pub stream: &'static str,
    /// Epoch.
    pub epoch: u64,
    /// First missing number.
    pub first: u64,
    /// Last missing number.
    pub last: u64,
    /// Why.
    pub reason: String,
}

/// What `store status` says.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of damaged files that were set aside.
    pub bytes_aside: u64,
    /// Tags in the dictionary.
    pub tags: usize,
    /// All streams.
    pub streams: Vec<StreamStatus>,
    /// All uplinks that have cursors.
    pub uplinks: Vec<UplinkStatus>,
    /// Declared losses among what is held.
    pub missing: Vec<Missing>,
    /// Files that could not be read.
    pub unreadable: Vec<String>,
    /// What was written to the disk, by what the gateway last saved (some minutes ago at most while it runs).
    pub written: Written,
}

impl Status {
    /// The newest committed number of each stream that has one.
    pub fn newest(&self) -> Vec<Number> {
        let used = self.streams.iter().filter(|stream| stream.last > 0);
        used.filter_map(|stream| {
            let class = Class::from_name(stream.stream)?;
            Some(Number { stream: class, epoch: Epoch(stream.epoch), seq: Seq(stream.last) })
        })
        .collect()
    }
}

/// A store as it was at one moment.
pub(super) struct Holdings {
    pub(super) directory: Directory,
    pub(super) contents: Contents,
    pub(super) state: State,
    /// Of the chunk files, by class.
    pub(super) bytes: PerClass<u64>,
    pub(super) unreadable: Vec<String>,
}

/// Looks at a store: all that reads one from outside begins here, and goes on in `pages`.
pub(super) fn look(dir: &Path) -> Result<Holdings, LookError> {
    let directory = existing(dir)?;
    let mut contents = Meta::look(&directory.file(META))?;
    // Before the chunks: what is merged meanwhile is in them.
    let tail = TailFile::read(&directory.file(TAIL));
    let mut state = streams(&contents);
    let mut unreadable = Vec::new();
    let mut bytes = PerClass::default();
    for name in directory.chunks()? {
        let path = directory.chunk(name);
        match ends(&path) {
            Ok(Some((epoch, first, last, times))) => {
                bytes[name.class] += path.metadata().map_or(0, |about| about.len());
                let stream = state.stream_mut(name.class);
                if let Some(ordinal) = stream.ordinal_of(epoch) {
                    stream.found(Held { name, span: Span { ordinal, first, last }, times });
                    if let Some(life) = stream.life_mut(ordinal) {
                        life.last = life.last.max(last);
                    }
                }
            }
            Ok(None) => {}
            Err(_) if !path.exists() => {} // evicted meanwhile
            Err(fault) => unreadable.push(format!("{}: {fault}", name.file_name())),
        }
    }
    tail::adopt(&mut state, &tail);
    acked::recall(&mut contents, &state, &Marks::read(&directory.file(MARKS), Unreadable::GiveUp)?.1);
    ledgers(&mut state, &contents);
    Ok(Holdings { directory, contents, state, bytes, unreadable })
}

/// A look at every stream and uplink.
pub fn status(dir: &Path) -> Result<Status, LookError> {
    let Holdings { directory, contents, state, bytes, unreadable } = look(dir)?;
    Ok(Status {
        bytes: directory.bytes(),
        bytes_aside: directory.bytes_aside(),
        tags: contents.tags.len(),
        streams: state.streams.values().filter_map(|stream| stream_status(&state, stream.class, &bytes)).collect(),
        uplinks: uplinks(&state),
        missing: declared(&contents),
        unreadable,
        written: Wear::resume(&contents.values, 0).written(),
    })
}

pub(super) fn existing(dir: &Path) -> Result<Directory, LookError> {
    let directory = Directory::at(dir);
    if directory.file(META).exists() { Ok(directory) } else { Err(LookError::NoStore(dir.display().to_string())) }
}

pub(super) fn streams(contents: &Contents) -> State {
    let mut state = State::empty();
    epochs::take(&mut state, contents);
    for row in &contents.losses {
        if let Some(class) = Class::from_code(row.class) {
            let loss = state.stream(class).loss_from(row);
            let stream = state.stream_mut(class);
            if let Some(life) = loss.as_ref().and_then(|loss| stream.life_mut(loss.span.ordinal)) {
                life.last = life.last.max(row.last);
            }
            stream.losses.extend(loss);
        }
    }
    state
}

fn ledgers(state: &mut State, contents: &Contents) {
    for row in &contents.cursors {
        let Some(class) = Class::from_code(row.class) else { continue };
        let cursor = routes::resume(state.stream(class), row);
        let known = state.ledgers.iter().position(|ledger| ledger.name == row.uplink);
        let place = known.unwrap_or_else(|| {
            state.ledgers.push(Ledger {
                name: row.uplink.clone(),
                cursors: PerClass::default(),
                gaps: Vec::new(),
                unsaved: 0,
                joined: Joined::default(),
            });
            state.ledgers.len() - 1
        });
        state.ledgers[place].cursors[class] = Some(cursor);
    }
    routes::take_gaps(state, contents);
}

fn ends(path: &Path) -> Result<Option<(u64, u64, u64, Times)>, Fault> {
    let chunk = ChunkReader::open(path)?;
    let epoch = chunk.info()?.epoch;
    let ends = chunk.first()?.zip(chunk.last()?);
    Ok(ends.map(|(first, last)| (epoch, first.first, last.last, Times::of(&first).and(Times::of(&last)))))
}

fn stream_status(state: &State, class: Class, bytes: &PerClass<u64>) -> Option<StreamStatus> {
    let stream = state.stream(class);
    let newest = stream.newest()?;
    let oldest = stream.chunks.first();
    let first = oldest.and_then(|held| Some((stream.life(held.span.ordinal)?.epoch, held.span.first)));
    let chunks = stream.chunks.iter().filter(|held| !held.name.is_tail()).count();
    let bytes = bytes[class];
    Some(StreamStatus { stream: class.as_str(), epoch: newest.epoch, first, last: newest.last, chunks, bytes })
}

fn uplinks(state: &State) -> Vec<UplinkStatus> {
    let of = |(place, ledger): (usize, &Ledger)| {
        let mut acknowledged = BTreeMap::new();
        for (class, cursor) in ledger.cursors.iter() {
            let at = cursor.as_ref().map(|cursor| cursor.acked);
            let epoch = at.and_then(|at| state.stream(class).life(at.ordinal)).map(|life| life.epoch);
            acknowledged.extend(at.zip(epoch).map(|(at, epoch)| (class.as_str(), (epoch, at.seq))));
        }
        let (uplink, backlog, gaps) = (ledger.name.clone(), state.backlog(place), ledger.gaps.len());
        UplinkStatus { uplink, backlog, gaps, acknowledged }
    };
    state.ledgers.iter().enumerate().map(of).collect()
}

pub(super) fn declared(contents: &Contents) -> Vec<Missing> {
    let of = |row: &crate::disk::meta::LossRow| {
        let stream = Class::from_code(row.class)?.as_str();
        Some(Missing { stream, epoch: row.epoch, first: row.first, last: row.last, reason: row.reason.clone() })
    };
    contents.losses.iter().filter_map(of).collect()
}
