//! Reading a whole store from outside, also while it is used: what `ironbridge store verify` says.
//!
//! Only reads. Whatever is missing must be declared; a running store is given a moment to do so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::disk::chunk::ChunkReader;
use crate::disk::directory::{ChunkName, Directory};
use crate::disk::fault::{Fault, Unreadable};
use crate::disk::marks::{Found, Mark, Marks};
use crate::disk::meta::{Contents, Meta};
use crate::disk::tail::{TailFile, TailRow};
use crate::model::number::Class;

use super::boot::{MARKS, META, TAIL};
use super::cursor::Span;
use super::inspect::{LookError, Missing, declared, existing, streams};
use super::segment::{self, Body, Place, Record};
use super::tail;

/// A running store declares a loss within moments of the commit beside it: wait this long before calling it undeclared.
const DECLARED_WITHIN: Duration = Duration::from_millis(700);
const DECLARED_ATTEMPTS: usize = 5;
/// Segments read at a time.
const SEGMENTS: usize = 16;

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
    /// Numbers of records that the last stop could not commit: the next start declares them.
    pub given_up: Vec<Missing>,
}

/// Reads everything: structure, CRC and content of each segment, continuity of numbers, cursors, dictionary. `progress`
/// is told after each chunk (done, of). Takes as long as reading the whole store.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Verdict, LookError> {
    let directory = existing(dir)?;
    let mut verdict = Verdict::default();
    // Taken first: what is written while we read may be newer than what we saw, never older.
    let (marks, _) = Marks::read(&directory.file(MARKS), Unreadable::GiveUp)?;
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
        for (class, &mark) in marks.iter() {
            if mark.epoch != 0 {
                seen.ends(class, mark.epoch, mark.last);
                verdict.given_up.extend(seen.give_up(class, mark));
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
    tags: BTreeSet<u32>,
}

impl Seen {
    fn ends(&mut self, class: Class, epoch: u64, last: u64) {
        let entry = self.spans.entry((class as u8, epoch)).or_default();
        entry.0 = entry.0.max(last);
    }

    /// What the mark says was given up need not be looked for.
    fn give_up(&mut self, class: Class, mark: Mark) -> Option<Missing> {
        let Mark { epoch, last, given_up } = mark;
        let first = last.checked_sub(given_up)? + 1;
        if first > last {
            return None;
        }
        self.spans.entry((class as u8, epoch)).or_default().1.push(Span { ordinal: 0, first, last });
        let reason = "not committed at the last stop".to_owned();
        Some(Missing { stream: class.as_str(), epoch, first, last, reason })
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
        Body::Event { .. } | Body::Message { .. } => None,
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
