//! From records in memory to numbers on disk: one group commit.
//!
//! Numbers are given in order of arrival when a group is packed. A group goes into the tail, all classes of a commit in one
//! slot; straight into a chunk where it is too large for that, where there is no tail, or where no chunk of the class yet
//! names its epoch and all its tags (what is in the tail can be read without `meta.db`). A group whose commit failed keeps
//! its numbers and its bytes and is written again elsewhere: whether the first attempt is on disk as well does not matter.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::disk::chunk::SegmentRow;
use crate::disk::fault::Fault;
use crate::disk::tail::{TailFile, TailRow};
use crate::flow::forward::MessageRecord;
use crate::flow::hub::{EventRecord, Lost};
use crate::model::number::{Class, Epoch, Number, PerClass, Seq};
use crate::model::sample::Sample;
use crate::model::time::{Boot, millis};

use super::acked;
use super::cursor::Span;
use super::merge;
use super::open::Disk;
use super::segment::{self, BYTES_MAX, Body, Place, RECORDS_MAX, Record};
use super::stream::{Held, Loss};
use super::tail::Unmerged;
use super::writer::{RECORD_BYTES, URGENT_CLASSES, Writer};

/// A slot takes at most this part of the tail.
const SLOT_PART: u64 = 4;

/// What waits for its number.
pub(super) enum Pending {
    Sample(Sample),
    Event(EventRecord),
    Message(MessageRecord),
}

impl Pending {
    /// Bytes beyond its place.
    fn bytes(&self) -> usize {
        match self {
            Self::Sample(_) => 0,
            Self::Event(event) => event.topic.len() + event.body.len(),
            Self::Message(record) => record.topic.len() + record.message.bytes(),
        }
    }

    /// Is it lost when it is not committed? What a sender waits for stays the sender's until then.
    pub(super) const fn is_ours(&self) -> bool {
        !matches!(self, Self::Message(record) if record.committed.is_some())
    }

    /// Does somebody wait for its number?
    const fn is_awaited(&self) -> bool {
        match self {
            Self::Sample(_) => false,
            Self::Event(event) => event.committed.is_some(),
            Self::Message(record) => record.committed.is_some(),
        }
    }
}

/// Segments for a chunk: of one epoch, without a hole.
pub(super) struct Load {
    pub(super) ordinal: i64,
    pub(super) rows: Vec<Arc<SegmentRow>>,
    pub(super) tags: Vec<u32>,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// A packed group: these numbers belong to these bytes for good.
pub(super) struct Group {
    load: Load,
    told: Vec<(u64, oneshot::Sender<Number>)>,
}

impl Group {
    /// How many.
    pub(super) const fn records(&self) -> u64 {
        self.load.last + 1 - self.load.first
    }
}

impl Writer {
    /// Commits what waits in these classes, and numbers what did not get in.
    pub(super) fn commit(&mut self, classes: &[Class], lost: &mut PerClass<Option<Lost>>) -> Result<(), Fault> {
        let Some(mut disk) = self.disk.take() else {
            return Err(Fault::Unavailable("the directory cannot be used".into()));
        };
        let started = Instant::now();
        let outcome = self.commit_to(&mut disk, classes, lost);
        self.disk = Some(disk);
        let took = started.elapsed();
        self.shared.stats.commit_times.add(took);
        let elapsed_ms = millis(took);
        self.shared.stats.commit_ms_last.set(elapsed_ms);
        self.shared.stats.commit_ms_max.set(elapsed_ms.max(self.shared.stats.commit_ms_max.get()));
        outcome
    }

    fn commit_to(
        &mut self,
        disk: &mut Disk,
        classes: &[Class],
        lost: &mut PerClass<Option<Lost>>,
    ) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for class in classes {
            self.pack(disk, *class);
        }
        let ready: Vec<Class> = classes.iter().copied().filter(|class| self.groups[*class].is_some()).collect();
        let in_tail = self.write_tail(disk, &ready);
        let mut written = Vec::new();
        for class in ready {
            if in_tail.contains(&class) {
                written.push((class, None));
                continue;
            }
            match self.write_chunk(disk, class) {
                Ok(held) => written.push((class, Some(held))),
                Err(fault) => outcome = Err(fault),
            }
        }
        self.write_marks(disk, classes, &written, lost)?;
        for (class, held) in written {
            self.publish(class, held);
            if let Some(open) = &mut disk.open[class] {
                open.unpublished = false;
            }
        }
        for class in classes {
            if self.groups[*class].is_none()
                && self.pending[*class].is_empty()
                && let Some(lost) = lost[*class].take()
            {
                self.number_lost(*class, lost);
            }
        }
        self.plan_merge();
        self.shared.wake_readers();
        outcome
    }

    /// Marks what was written, and what found no place.
    fn write_marks(
        &mut self,
        disk: &mut Disk,
        classes: &[Class],
        written: &[(Class, Option<Held>)],
        lost: &PerClass<Option<Lost>>,
    ) -> Result<(), Fault> {
        let mut marks = acked::marks_of(&self.shared.state());
        let mut waiting = self.waiting_long(lost);
        for (class, _) in written {
            if let Some(group) = &self.groups[*class] {
                marks[*class].last = group.load.last;
                waiting[*class] = waiting[*class].saturating_sub(group.records());
            }
        }
        for class in classes {
            // Whatever was spilled came after what is in the group, and after what waits behind it.
            let waits = self.groups[*class].is_some() && !written.iter().any(|(done, _)| done == class);
            let waits = waits || !self.pending[*class].is_empty();
            if let (Some(lost), false) = (lost[*class], waits) {
                marks[*class].last += lost.count;
                waiting[*class] = waiting[*class].saturating_sub(lost.count);
            }
        }
        self.save_marks(disk, &marks, &waiting)
    }

    /// Writes the groups of these classes into the tail, as far as they belong there; returns which.
    fn write_tail(&mut self, disk: &mut Disk, ready: &[Class]) -> Vec<Class> {
        self.renew_tail(disk);
        let mut suited: Vec<Class> = ready.iter().copied().filter(|class| self.suits_tail(disk, *class)).collect();
        let mut rows = self.tail_rows(&suited);
        if !rows.is_empty() && disk.tail.as_ref().is_some_and(|tail| !tail.has_room(&rows)) {
            if let Err(fault) = self.merge_all(disk) {
                tracing::warn!(error = %fault, "tail is full and could not be merged");
            }
            suited.retain(|class| self.suits_tail(disk, *class)); // another chunk may have been begun
            rows = self.tail_rows(&suited);
        }
        let Some(tail) = disk.tail.as_mut().filter(|_| !rows.is_empty()) else { return Vec::new() };
        match tail.write(&rows) {
            Ok(true) => {
                self.shared.stats.written_bytes.add(TailFile::slot_bytes(&rows));
                suited
            }
            Ok(false) => Vec::new(),
            Err(fault) => {
                // What of it is on disk is not known: closed for writing, for good.
                tracing::error!(error = %fault, "commit to the tail failed; a new one will be begun");
                self.shared.stats.commit_failures.one();
                disk.tail = None;
                Vec::new()
            }
        }
    }

    fn suits_tail(&self, disk: &Disk, class: Class) -> bool {
        let (Some(tail), Some(open), Some(group)) = (&disk.tail, &disk.open[class], &self.groups[class]) else {
            return false;
        };
        open.covers(&group.load) && TailFile::slot_bytes(&self.tail_rows(&[class])) <= tail.bytes() / SLOT_PART
    }

    fn tail_rows(&self, classes: &[Class]) -> Vec<TailRow> {
        let state = self.shared.state();
        let mut rows = Vec::new();
        for class in classes {
            let Some(group) = &self.groups[*class] else { continue };
            let Some(life) = state.stream(*class).life(group.load.ordinal) else { continue };
            let row = |row| TailRow { class: *class, epoch: life.epoch, row: Arc::clone(row) };
            rows.extend(group.load.rows.iter().map(row));
        }
        rows
    }

    /// Writes a class's group to its chunk, behind what the tail has of the class.
    fn write_chunk(&mut self, disk: &mut Disk, class: Class) -> Result<Held, Fault> {
        self.merge(disk, class)?;
        let Some(group) = self.groups[class].take() else {
            return Err(Fault::Unavailable("nothing to do".into()));
        };
        let outcome = self.append(disk, class, &group.load);
        self.groups[class] = Some(group);
        outcome
    }

    /// Gives the waiting records of a class their numbers, unless a group of it is still unwritten.
    fn pack(&mut self, disk: &Disk, class: Class) {
        if self.groups[class].is_some() || self.pending[class].is_empty() {
            return;
        }
        let (ordinal, epoch, before) = {
            let state = self.shared.state();
            let Some(life) = state.stream(class).newest() else { return };
            (life.ordinal, life.epoch, life.last)
        };
        let load = Load { ordinal, rows: Vec::new(), tags: Vec::new(), first: before + 1, last: before };
        let mut group = Group { load, told: Vec::new() };
        let mut used = std::collections::HashSet::new();
        let (mut records, mut bytes) = (Vec::<Record>::new(), 0);
        for pending in std::mem::take(&mut self.pending[class]) {
            let record = match pending {
                Pending::Sample(sample) => {
                    let Some(tag) = disk.tag_ids.get(sample.tag.0 as usize).copied() else { continue };
                    used.insert(tag);
                    let body = Body::Sample { tag, value: sample.value, quality: sample.quality };
                    Record { body, at: sample.at }
                }
                Pending::Event(event) => {
                    let seq = group.load.last + records.len() as u64 + 1;
                    group.told.extend(event.committed.map(|told| (seq, told)));
                    Record { body: Body::Event { topic: event.topic, body: event.body.into() }, at: event.at }
                }
                Pending::Message(record) if !record.claim() => continue, // its sender has been told that it is not stored
                Pending::Message(record) => {
                    let seq = group.load.last + records.len() as u64 + 1;
                    group.told.extend(record.committed.map(|told| (seq, told)));
                    let body = Body::Message { topic: record.topic, message: Arc::new(record.message) };
                    Record { body, at: record.at }
                }
            };
            let mut record = record;
            if record.at.boot == Boot(0) {
                // Taken before the boot had a number; where it has none yet (this is a bridge's store), none is better than
                // that of another boot.
                record.at = self.clock.numbered(record.at);
            }
            let other_boot = records.last().is_some_and(|last| last.at.boot != record.at.boot);
            if records.len() >= RECORDS_MAX || bytes >= BYTES_MAX || other_boot {
                group.load.close(Place { class, epoch }, &mut records);
                bytes = 0;
            }
            bytes += record.body.bytes();
            records.push(record);
        }
        group.load.close(Place { class, epoch }, &mut records);
        group.load.tags = used.into_iter().collect();
        self.pending_bytes[class] = 0;
        if !group.load.rows.is_empty() {
            self.groups[class] = Some(group);
        }
    }

    /// A group is committed (in a chunk where one is given, else in the tail) and marked: readers may have it, senders
    /// are told.
    fn publish(&mut self, class: Class, held: Option<Held>) {
        let Some(Group { load, told }) = self.groups[class].take() else { return };
        let epoch = {
            let mut state = self.shared.state();
            let stream = state.stream_mut(class);
            match held {
                Some(held) => merge::extend(stream, held),
                None => {
                    let of_tail = |row: &Arc<SegmentRow>| Unmerged { ordinal: load.ordinal, row: Arc::clone(row) };
                    stream.hold_tail(load.rows.iter().map(of_tail));
                }
            }
            let Some(life) = stream.life_mut(load.ordinal) else { return };
            life.last = life.last.max(load.last);
            life.epoch
        };
        let stats = &self.shared.stats;
        stats.stored[class].add(load.last + 1 - load.first);
        stats.segments.add(load.rows.len() as u64);
        stats.commits.one();
        for (seq, told) in told {
            // Nobody may be waiting any more; that is the sender's affair.
            let _ = told.send(Number { stream: class, epoch: Epoch(epoch), seq: Seq(seq) });
        }
    }

    /// Keeps an event or a message for the next commit; is that to be soon?
    pub(super) fn hold(&mut self, class: Class, pending: Pending) -> bool {
        let awaited = pending.is_awaited();
        self.awaited[class] |= awaited;
        self.pending_bytes[class] += pending.bytes() + RECORD_BYTES;
        self.pending[class].push(pending);
        awaited || URGENT_CLASSES.contains(&class)
    }

    /// Classes that do not wait for the commit interval.
    pub(super) fn urgent(&self) -> Vec<Class> {
        let is_urgent = |class: &Class| URGENT_CLASSES.contains(class) || self.awaited[*class];
        Class::ALL.into_iter().filter(is_urgent).collect()
    }

    /// What found no place since the last look.
    pub(super) fn take_spill(&mut self, spilled: PerClass<Option<Lost>>) {
        for (class, lost) in self.lost.iter_mut() {
            *lost = match (*lost, spilled[class]) {
                (Some(old), Some(new)) => Some(Lost { count: old.count + new.count, last: new.last, ..old }),
                (old, new) => old.or(new),
            };
        }
    }

    /// Records that found no place take their numbers and go into a gap record.
    fn number_lost(&mut self, class: Class, spilled: Lost) {
        let (from, to) = (self.clock.numbered(spilled.first), self.clock.numbered(spilled.last));
        let mut state = self.shared.state();
        let end = state.stream(class).end();
        let span = Span { ordinal: end.ordinal, first: end.seq + 1, last: end.seq + spilled.count };
        let loss = Loss { span, reason: "store".into(), from: Some(from), to: Some(to) };
        state.declare(class, &loss);
        drop(state);
        self.shared.stats.spilled[class].add(spilled.count);
        tracing::error!(class = %class, count = spilled.count, "records lost while the store could not take them");
    }
}

impl Load {
    pub(super) fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.body.len() as u64).sum()
    }

    fn close(&mut self, place: Place, records: &mut Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let row = segment::pack(place, self.last + 1, records);
        self.last = row.last;
        self.rows.push(Arc::new(row));
        records.clear();
    }
}
