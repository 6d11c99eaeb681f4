//! Looking at a store from outside, also while it is used: what `ironbridge store status` and `store verify` say.
//!
//! Only reads, over connections of its own. What is read of a running store is at most as old as its last commit
//! (cursors: as their last save).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::disk::chunk::ChunkReader;
use crate::disk::directory::{ChunkName, Directory};
use crate::disk::fault::Fault;
use crate::disk::marks::{Found, Marks};
use crate::disk::meta::{Contents, Meta};
use crate::disk::tail::{TailFile, TailRow};
use crate::model::number::{Class, Epoch, Number, Seq};

use super::boot::{MARKS, META, TAIL};
use super::cursor::Span;
use super::segment::{self, Body, Place, Record};
use super::state::{Ledger, State};
use super::stream::Held;
use super::times::Times;
use super::{acked, epochs, routes, tail};

/// A running store declares a loss within moments of the commit beside it: wait this long before calling it undeclared.
const DECLARED_WITHIN: Duration = Duration::from_millis(700);
const DECLARED_ATTEMPTS: usize = 5;
/// Segments read at a time.
const SEGMENTS: usize = 16;

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

/// What `store verify` found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Chunk files read.
    pub chunks: u64,
    /// Segments whose CRC, content and place are right.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// What is wrong and not declared by a gap record.
    pub problems: Vec<String>,
    /// Losses that are declared.
    pub declared: Vec<Missing>,
}

/// A store as it was at one moment.
pub(super) struct Holdings {
    pub(super) directory: Directory,
    pub(super) contents: Contents,
    pub(super) state: State,
    /// Of the chunk files, by class.
    pub(super) bytes: [u64; 4],
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
    let mut bytes = [0; 4];
    for name in directory.chunks()? {
        let path = directory.chunk(name);
        match ends(&path) {
            Ok(Some((epoch, first, last, times))) => {
                bytes[name.class as usize] += path.metadata().map_or(0, |about| about.len());
                let stream = state.stream_mut(name.class);
                if let Some(ordinal) = stream.ordinal_of(epoch) {
                    stream.hold(Held { name, span: Span { ordinal, first, last }, times });
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
    acked::recall(&mut contents, &state, &Marks::read(&directory.file(MARKS)).1);
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
        streams: state.streams.iter().filter_map(|stream| stream_status(&state, stream.class, &bytes)).collect(),
        uplinks: uplinks(&state),
        missing: declared(&contents),
        unreadable,
    })
}

fn existing(dir: &Path) -> Result<Directory, LookError> {
    let directory = Directory::at(dir);
    if directory.file(META).exists() { Ok(directory) } else { Err(LookError::NoStore(dir.display().to_string())) }
}

fn streams(contents: &Contents) -> State {
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
                cursors: Default::default(),
                gaps: Vec::new(),
                unsaved: 0,
            });
            state.ledgers.len() - 1
        });
        state.ledgers[place].cursors[class as usize] = Some(cursor);
    }
    routes::take_gaps(state, contents);
}

fn ends(path: &Path) -> Result<Option<(u64, u64, u64, Times)>, Fault> {
    let chunk = ChunkReader::open(path)?;
    let epoch = chunk.info()?.epoch;
    let ends = chunk.first()?.zip(chunk.last()?);
    Ok(ends.map(|(first, last)| (epoch, first.first, last.last, Times::of(&first).and(Times::of(&last)))))
}

fn stream_status(state: &State, class: Class, bytes: &[u64; 4]) -> Option<StreamStatus> {
    let stream = state.stream(class);
    let newest = stream.newest()?;
    let oldest = stream.chunks.first();
    let first = oldest.and_then(|held| Some((stream.life(held.span.ordinal)?.epoch, held.span.first)));
    let chunks = stream.chunks.iter().filter(|held| !held.name.is_tail()).count();
    let bytes = bytes[class as usize];
    Some(StreamStatus { stream: class.as_str(), epoch: newest.epoch, first, last: newest.last, chunks, bytes })
}

fn uplinks(state: &State) -> Vec<UplinkStatus> {
    let of = |(place, ledger): (usize, &Ledger)| {
        let mut acknowledged = BTreeMap::new();
        for (class, cursor) in Class::ALL.into_iter().zip(&ledger.cursors) {
            let at = cursor.as_ref().map(|cursor| cursor.acked);
            let epoch = at.and_then(|at| state.stream(class).life(at.ordinal)).map(|life| life.epoch);
            acknowledged.extend(at.zip(epoch).map(|(at, epoch)| (class.as_str(), (epoch, at.seq))));
        }
        let (uplink, backlog, gaps) = (ledger.name.clone(), state.backlog(place), ledger.gaps.len());
        UplinkStatus { uplink, backlog, gaps, acknowledged }
    };
    state.ledgers.iter().enumerate().map(of).collect()
}

fn declared(contents: &Contents) -> Vec<Missing> {
    let of = |row: &crate::disk::meta::LossRow| {
        let stream = Class::from_code(row.class)?.as_str();
        Some(Missing { stream, epoch: row.epoch, first: row.first, last: row.last, reason: row.reason.clone() })
    };
    contents.losses.iter().filter_map(of).collect()
}

/// Reads everything: structure, CRC and content of each segment, continuity of numbers, cursors, dictionary. `progress`
/// is told after each chunk (done, of). Takes as long as reading the whole store.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Verdict, LookError> {
    let directory = existing(dir)?;
    let mut verdict = Verdict::default();
    // Taken first: what is written while we read may be newer than what we saw, never older.
    let (marks, _) = Marks::read(&directory.file(MARKS));
    let before = Meta::look(&directory.file(META))?;
    let tail = TailFile::read(&directory.file(TAIL));
    let mut seen = Seen::default();
    let names = directory.chunks()?;
    for (n, name) in names.iter().enumerate() {
        if let Err(fault) = read_chunk(&directory, *name, &mut seen, &mut verdict)
            && directory.chunk(*name).exists()
        {
            verdict.problems.push(format!("{}: {fault}", name.file_name()));
        }
        progress(n + 1, names.len());
    }
    read_tail(&before, &tail, &mut seen, &mut verdict);
    if let Found::Marks(marks) | Found::Copied(marks) = marks {
        for (class, mark) in Class::ALL.into_iter().zip(marks) {
            if mark.epoch != 0 {
                seen.ends(class, mark.epoch, mark.last);
            }
        }
    } else {
        verdict.problems.push("the high-water marks cannot be read".into());
    }
    for row in &before.epochs {
        if let Some(class) = Class::from_code(row.class) {
            seen.ends(class, row.epoch, row.last);
        }
    }
    for attempt in 1.. {
        let after = Meta::look(&directory.file(META))?;
        let problems = compare(&seen, &after);
        if problems.is_empty() || attempt >= DECLARED_ATTEMPTS {
            verdict.problems.extend(problems);
            verdict.declared = declared(&after);
            break;
        }
        std::thread::sleep(DECLARED_WITHIN);
    }
    Ok(verdict)
}

/// What the chunks hold, by class code and epoch: the last number that must exist, and the spans that do.
#[derive(Default)]
struct Seen {
    /// From the first number to the last of each chunk, whatever is wrong in between.
    chunks: Vec<(Class, u64, Span)>,
    spans: BTreeMap<(u8, u64), (u64, Vec<Span>)>,
    tags: std::collections::BTreeSet<u32>,
}

impl Seen {
    fn ends(&mut self, class: Class, epoch: u64, last: u64) {
        let entry = self.spans.entry((class as u8, epoch)).or_default();
        entry.0 = entry.0.max(last);
    }

    fn add(&mut self, class: Class, epoch: u64, first: u64, last: u64) {
        self.ends(class, epoch, last);
        let spans = &mut self.spans.entry((class as u8, epoch)).or_default().1;
        match spans.last_mut() {
            Some(span) if span.last + 1 == first => span.last = last,
            _ => spans.push(Span { ordinal: 0, first, last }),
        }
    }
}

fn read_chunk(directory: &Directory, name: ChunkName, seen: &mut Seen, verdict: &mut Verdict) -> Result<(), Fault> {
    let chunk = ChunkReader::open(&directory.chunk(name))?;
    if let Err(fault) = chunk.quick_check() {
        // Its segments may all be readable nevertheless: go on.
        verdict.problems.push(format!("{}: {fault}", name.file_name()));
    }
    let info = chunk.info()?;
    if info.class != name.class || info.number != name.number {
        return Err(Fault::Damaged("the file is not what its name says".into()));
    }
    let place = Place { class: info.class, epoch: info.epoch };
    let (mut seq, mut whole) = (0, None);
    loop {
        let rows = chunk.segments_from(seq, SEGMENTS)?;
        let rows: Vec<_> = rows.into_iter().filter(|row| row.first >= seq).collect();
        let Some(last) = rows.last() else { break };
        seq = last.first + 1;
        whole =
            Some(Span { ordinal: 0, first: whole.map_or(rows[0].first, |whole: Span| whole.first), last: last.last });
        for row in &rows {
            // What does not unpack is a hole; whether it is declared is seen later.
            let Ok(records) = segment::unpack(place, row) else { continue };
            take(seen, verdict, place, (row.first, row.last), &records);
        }
    }
    seen.chunks.extend(whole.map(|span| (place.class, place.epoch, span)));
    verdict.chunks += 1;
    Ok(())
}

fn read_tail(contents: &Contents, found: &[TailRow], seen: &mut Seen, verdict: &mut Verdict) {
    for TailRow { class, epoch, row } in tail::beside(streams(contents), &seen.chunks, found) {
        let place = Place { class, epoch };
        let Ok(records) = segment::unpack(place, &row) else { continue };
        take(seen, verdict, place, (row.first, row.last), &records);
    }
}

fn take(seen: &mut Seen, verdict: &mut Verdict, place: Place, (first, last): (u64, u64), records: &[Record]) {
    verdict.segments += 1;
    verdict.records += records.len() as u64;
    seen.add(place.class, place.epoch, first, last);
    seen.tags.extend(records.iter().filter_map(|record| match record.body {
        Body::Sample { tag, .. } => Some(tag),
        Body::Event { .. } => None,
    }));
}

fn compare(seen: &Seen, contents: &Contents) -> Vec<String> {
    let mut problems = Vec::new();
    let state = streams(contents);
    for ((code, epoch), (last, spans)) in &seen.spans {
        let Some(class) = Class::from_code(*code) else { continue };
        let stream = state.stream(class);
        let Some(life) = stream.ordinal_of(*epoch).and_then(|ordinal| stream.life(ordinal)) else {
            if !spans.is_empty() {
                problems.push(format!("stream {class}: meta.db does not know epoch {epoch}"));
            }
            continue;
        };
        let mut left = vec![Span { ordinal: 0, first: life.evicted + 1, last: *last }];
        left.retain(|span| span.len() > 0);
        let losses = stream.losses.iter().filter(|loss| loss.span.ordinal == life.ordinal);
        for known in spans.iter().copied().chain(losses.map(|loss| Span { ordinal: 0, ..loss.span })) {
            left = known.take_out_of(left);
        }
        for span in left {
            problems.push(format!("stream {class} epoch {epoch}: {}..{} are missing", span.first, span.last));
        }
    }
    for row in &contents.cursors {
        let known = contents.epochs.iter().any(|epoch| epoch.class == row.class && epoch.epoch == row.epoch);
        let last = seen.spans.get(&(row.class, row.epoch)).map_or(0, |(last, _)| *last);
        let last = contents.epochs.iter().filter(|e| e.epoch == row.epoch).map(|e| e.last).max().unwrap_or(0).max(last);
        if !known || row.acked > last {
            problems.push(format!("cursor of uplink {} is beyond the end of its stream", row.uplink));
        }
    }
    for tag in seen.tags.iter().filter(|id| !contents.tags.iter().any(|tag| tag.id == **id)) {
        problems.push(format!("the dictionary does not know tag {tag}"));
    }
    problems
}
