//! From records in memory to numbers on disk: one group commit.
//!
//! Numbers are given in order of arrival when a group is packed. A group whose commit failed keeps its numbers and its
//! bytes and is written again to another chunk: whether the first attempt is on disk as well does not matter.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::disk::chunk::{ChunkInfo, ChunkWriter, SegmentRow};
use crate::disk::directory::ChunkName;
use crate::disk::fault::Fault;
use crate::flow::hub::{EventRecord, Lost};
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::sample::Sample;

use super::cursor::Span;
use super::segment::{self, Body, Place, RECORDS_MAX, Record};
use super::stream::{Held, Loss};
use super::times::Times;
use super::writer::{Disk, Writer};
use super::{boot, room};

/// How often a full disk is answered with more room at once.
const FULL_ATTEMPTS: usize = 4;

/// What waits for its number.
pub(super) enum Pending {
    Sample(Sample),
    Event(EventRecord),
}

/// The chunk a class is being written to.
pub(super) struct Tail {
    pub(super) name: ChunkName,
    pub(super) ordinal: i64,
    writer: ChunkWriter,
    /// Tags that stand in it.
    tags: HashSet<u32>,
    /// A group in it is not published yet: nobody knows of it, so it must not be evicted.
    pub(super) unpublished: bool,
}

/// A packed group: these numbers belong to these bytes for good.
pub(super) struct Group {
    ordinal: i64,
    rows: Vec<SegmentRow>,
    tags: Vec<u32>,
    first: u64,
    last: u64,
    told: Vec<(u64, oneshot::Sender<Number>)>,
}

impl Group {
    fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.body.len() as u64).sum()
    }

    fn times(&self) -> Option<Times> {
        self.rows.iter().map(Times::of).reduce(Times::and)
    }
}

impl Writer {
    /// Commits what waits in these classes, and numbers what did not get in.
    pub(super) fn commit(&mut self, classes: &[Class], lost: &mut [Option<Lost>; 4]) -> Result<(), Fault> {
        let Some(mut disk) = self.disk.take() else {
            return Err(Fault::Unavailable("the directory cannot be used".into()));
        };
        let started = Instant::now();
        let outcome = self.commit_to(&mut disk, classes, lost);
        self.disk = Some(disk);
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.stats.commit_ms_last.set(elapsed_ms);
        self.shared.stats.commit_ms_max.set(elapsed_ms.max(self.shared.stats.commit_ms_max.get()));
        outcome
    }

    fn commit_to(&mut self, disk: &mut Disk, classes: &[Class], lost: &mut [Option<Lost>; 4]) -> Result<(), Fault> {
        let mut outcome = Ok(());
        let mut appended = Vec::new();
        for class in classes {
            self.pack(disk, *class);
            if self.groups[*class as usize].is_none() {
                continue;
            }
            match self.append(disk, *class) {
                Ok(held) => appended.push((*class, held)),
                Err(fault) => outcome = Err(fault),
            }
        }
        let mut marks = boot::marks_of(&self.shared.state());
        for (class, held) in &appended {
            marks[*class as usize].last = held.span.last;
        }
        for class in classes {
            // Whatever was spilled came after what is in the group.
            let waits = self.groups[*class as usize].is_some() && !appended.iter().any(|(done, _)| done == class);
            if let (Some(lost), false) = (lost[*class as usize], waits) {
                marks[*class as usize].last += lost.count;
            }
        }
        disk.marks.write(&marks)?;
        for (class, held) in appended {
            self.publish(class, held);
            if let Some(tail) = &mut disk.tails[class as usize] {
                tail.unpublished = false;
            }
        }
        for class in classes {
            if self.groups[*class as usize].is_none()
                && let Some(lost) = lost[*class as usize].take()
            {
                self.number_lost(*class, lost);
            }
        }
        self.shared.wake_readers();
        outcome
    }

    /// Gives the waiting records of a class their numbers, unless a group of it is still unwritten.
    fn pack(&mut self, disk: &Disk, class: Class) {
        if self.groups[class as usize].is_some() || self.pending[class as usize].is_empty() {
            return;
        }
        let (ordinal, epoch, before) = {
            let state = self.shared.state();
            let Some(life) = state.stream(class).newest() else { return };
            (life.ordinal, life.epoch, life.last)
        };
        let mut group =
            Group { ordinal, rows: Vec::new(), tags: Vec::new(), first: before + 1, last: before, told: Vec::new() };
        let mut used = HashSet::new();
        let mut records: Vec<Record> = Vec::new();
        for pending in std::mem::take(&mut self.pending[class as usize]) {
            let record = match pending {
                Pending::Sample(sample) => {
                    let Some(tag) = disk.tag_ids.get(sample.tag.0 as usize).copied() else { continue };
                    used.insert(tag);
                    let body = Body::Sample { tag, value: sample.value, quality: sample.quality };
                    Record { body, at: sample.at }
                }
                Pending::Event(event) => {
                    let seq = group.last + records.len() as u64 + 1;
                    group.told.extend(event.committed.map(|told| (seq, told)));
                    Record { body: Body::Event { topic: event.topic, body: event.body.into() }, at: event.at }
                }
            };
            let mut record = record;
            if record.at.boot.0 == 0 {
                record.at.boot = disk.boot; // taken before the directory could be used
            }
            let other_boot = records.last().is_some_and(|last| last.at.boot != record.at.boot);
            if records.len() >= RECORDS_MAX || other_boot {
                group.close(Place { class, epoch }, &mut records);
            }
            records.push(record);
        }
        group.close(Place { class, epoch }, &mut records);
        group.tags = used.into_iter().collect();
        self.pending_bytes[class as usize] = 0;
        if !group.rows.is_empty() {
            self.groups[class as usize] = Some(group);
        }
    }

    /// Writes a group to its class's chunk and commits; where the disk is full, room is made and a new chunk begun.
    fn append(&mut self, disk: &mut Disk, class: Class) -> Result<Held, Fault> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_append(disk, class) {
                Err(fault)
                    if attempt < FULL_ATTEMPTS
                        && (matches!(fault, Fault::Full(_)) || self.shared.directory.is_full()) =>
                {
                    tracing::warn!(class = %class, error = %fault, "disk full; making room");
                    if !room::make_some(self, disk) {
                        return Err(fault);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn try_append(&mut self, disk: &mut Disk, class: Class) -> Result<Held, Fault> {
        let Some(group) = &self.groups[class as usize] else { return Err(Fault::Unavailable("nothing to do".into())) };
        let (ordinal, bytes, times) = (group.ordinal, group.bytes(), group.times());
        room::make(self, disk, bytes)?;
        self.ensure_tail(disk, class, ordinal, bytes)?;
        let (Some(group), Some(tail), Some(times)) =
            (&self.groups[class as usize], &mut disk.tails[class as usize], times)
        else {
            return Err(Fault::Unavailable("no chunk to write to".into()));
        };
        let new: Vec<u32> = group.tags.iter().copied().filter(|tag| !tail.tags.contains(tag)).collect();
        let rows: Vec<_> = {
            let state = self.shared.state();
            new.iter().filter_map(|id| state.tag_row(*id)).collect()
        };
        if let Err(fault) = tail.writer.append(&rows, &group.rows) {
            // Outcome unknown: closed for writing, for good.
            tracing::error!(file = tail.name.file_name(), error = %fault, "commit failed; a new chunk will be begun");
            self.shared.stats.commit_failures.one();
            disk.closed.insert(tail.name);
            disk.tails[class as usize] = None;
            return Err(fault);
        }
        tail.tags.extend(new);
        tail.unpublished = true;
        Ok(Held { name: tail.name, span: Span { ordinal, first: group.first, last: group.last }, times })
    }

    /// Sees to it that the class has a chunk of this epoch with place for so many bytes.
    fn ensure_tail(&mut self, disk: &mut Disk, class: Class, ordinal: i64, bytes: u64) -> Result<(), Fault> {
        let limit = room::chunk_bytes_max(self.opening.max_size);
        if let Some(tail) = &disk.tails[class as usize] {
            if tail.ordinal == ordinal && tail.writer.bytes()? + bytes <= limit {
                return Ok(());
            }
            if let Some(tail) = disk.tails[class as usize].take() {
                tail.writer.finish();
            }
        } else if let Some(tail) = self.resume(disk, class, ordinal, limit.saturating_sub(bytes)) {
            disk.tails[class as usize] = Some(tail);
            return Ok(());
        }
        disk.tails[class as usize] = Some(self.begin_chunk(disk, class, ordinal)?);
        Ok(())
    }

    /// Goes on with the last chunk of an earlier run.
    fn resume(&self, disk: &Disk, class: Class, ordinal: i64, limit: u64) -> Option<Tail> {
        let held = *self.shared.state().stream(class).chunks.last()?;
        let path = self.shared.directory.chunk(held.name);
        if disk.closed.contains(&held.name)
            || held.span.ordinal != ordinal
            || path.metadata().map_or(u64::MAX, |about| about.len()) > limit
        {
            return None;
        }
        let writer = ChunkWriter::open(&path, room::log_pages(self.opening.max_size)).ok()?;
        // Tags are written again; they are few and replace themselves.
        Some(Tail { name: held.name, ordinal, writer, tags: HashSet::new(), unpublished: false })
    }

    /// Makes a new chunk file, durable with its name.
    pub(super) fn begin_chunk(&self, disk: &mut Disk, class: Class, ordinal: i64) -> Result<Tail, Fault> {
        let number = disk.next_chunk;
        disk.next_chunk += 1;
        let name = ChunkName { class, number };
        let (epoch, previous) = {
            let state = self.shared.state();
            state.stream(class).life(ordinal).map_or((0, None), |life| (life.epoch, life.previous))
        };
        let path = self.shared.directory.chunk(name);
        let info = ChunkInfo { class, number, epoch, previous };
        let made = ChunkWriter::create(&path, &info, room::log_pages(self.opening.max_size));
        match made {
            Ok(writer) => Ok(Tail { name, ordinal, writer, tags: HashSet::new(), unpublished: false }),
            Err(fault) => {
                let _ = self.shared.directory.remove_database(&name.file_name());
                Err(fault)
            }
        }
    }

    /// A group is committed and marked: readers may have it, senders are told.
    fn publish(&mut self, class: Class, held: Held) {
        let Some(group) = self.groups[class as usize].take() else { return };
        let epoch = {
            let mut state = self.shared.state();
            let stream = state.stream_mut(class);
            let before = stream.chunks.iter().find(|old| old.name == held.name).copied().unwrap_or(held);
            let span = Span { first: before.span.first.min(held.span.first), ..held.span };
            stream.hold(Held { span, times: before.times.and(held.times), ..held });
            let Some(life) = stream.life_mut(group.ordinal) else { return };
            life.last = life.last.max(group.last);
            life.epoch
        };
        let stats = &self.shared.stats;
        stats.stored[class as usize].add(group.last + 1 - group.first);
        stats.segments.add(group.rows.len() as u64);
        stats.commits.one();
        for (seq, told) in group.told {
            // Nobody may be waiting any more; that is the sender's affair.
            let _ = told.send(Number { stream: class, epoch: Epoch(epoch), seq: Seq(seq) });
        }
    }

    /// Records that found no place take their numbers and go into a gap record.
    fn number_lost(&mut self, class: Class, spilled: Lost) {
        let mut state = self.shared.state();
        let end = state.stream(class).end();
        let span = Span { ordinal: end.ordinal, first: end.seq + 1, last: end.seq + spilled.count };
        let loss = Loss { span, reason: "store".into(), from: Some(spilled.first), to: Some(spilled.last) };
        state.declare(class, &loss);
        drop(state);
        self.shared.stats.spilled[class as usize].add(spilled.count);
        tracing::error!(class = %class, count = spilled.count, "records lost while the store could not take them");
    }
}

impl Tail {
    /// Writes salvaged segments.
    pub(super) fn append(&mut self, tags: &[crate::disk::chunk::TagRow], rows: &[SegmentRow]) -> Result<(), Fault> {
        self.writer.append(tags, rows)
    }

    /// No more will be written to it.
    pub(super) fn finish(self) {
        self.writer.finish();
    }

    /// Empties its log.
    pub(super) fn checkpoint(&self) -> Result<(), Fault> {
        self.writer.checkpoint()
    }
}

impl Group {
    fn close(&mut self, place: Place, records: &mut Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let row = segment::pack(place, self.last + 1, records);
        self.last = row.last;
        self.rows.push(row);
        records.clear();
    }
}
