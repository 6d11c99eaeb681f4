//! Merging: the many small segments of the tail become few large ones in chunks, every five minutes at the latest, once a
//! minute at 1000 samples a second.
//!
//! A segment of a minute takes a third of the space of sixty of a second: values of one tag stand side by side. Numbers
//! do not change; until the chunk is committed the tail has them, afterwards both, until the tail's slot is used again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::disk::chunk::SegmentRow;
use crate::disk::fault::Fault;
use crate::model::number::Class;

use super::commit::Load;
use super::cursor::Span;
use super::open::Disk;
use super::room;
use super::segment::{self, Body, MERGED_MAX, Place, Record};
use super::stream::{Held, Stream};
use super::tail::{self, Unmerged};
use super::writer::Writer;

/// What is committed is merged after this long at the latest.
const MERGE_EVERY: Duration = Duration::from_secs(300);
/// A merge that failed is tried again after this long.
const AGAIN: Duration = Duration::from_secs(30);
/// Unpacked bytes of a merged segment; a reader unpacks one at a time.
const MERGED_BYTES: u64 = 2 * 1024 * 1024;

impl Writer {
    /// Something came into the tail.
    pub(super) fn plan_merge(&mut self) {
        let state = self.shared.state();
        let (mut any, mut large) = (false, false);
        for stream in state.streams.values() {
            let records: u64 = stream.tail.iter().map(|unmerged| unmerged.span().len()).sum();
            any |= records > 0;
            large |= records >= MERGED_MAX as u64;
        }
        drop(state);
        let now = Instant::now();
        self.merge_at = match (any, large) {
            (false, _) => None,
            // Not with every commit while merging fails.
            (true, true) => Some(self.merge_failed.map_or(now, |at| now.max(at + AGAIN))),
            (true, false) => Some(self.merge_at.unwrap_or(now + MERGE_EVERY)),
        };
        self.tail_since = any.then(|| self.tail_since.unwrap_or_else(|| self.clock.now()));
    }

    /// Merges when that is due. What does not succeed stays in the tail and is tried again.
    pub(super) fn merge_due(&mut self, now: Instant) {
        // The boot-time clock goes on while the machine sleeps.
        let old = self.tail_since.is_some_and(|since| self.clock.now().since(since) >= MERGE_EVERY);
        if old || self.merge_at.is_some_and(|at| at <= now) {
            self.merge_now();
        }
    }

    /// Merges everything.
    pub(super) fn merge_now(&mut self) {
        let Some(mut disk) = self.disk.take() else { return };
        let outcome = self.merge_all(&mut disk);
        self.disk = Some(disk);
        (self.merge_at, self.tail_since) = (None, None);
        self.merge_failed = outcome.is_err().then(Instant::now);
        self.plan_merge();
        if let Err(fault) = outcome {
            tracing::warn!(error = %fault, "tail could not be merged; trying again");
            (self.merge_at, self.tail_since) = (self.merge_at.map(|_| Instant::now() + AGAIN), None);
        }
    }

    /// Merges all classes; one that fails does not hold the others up.
    pub(super) fn merge_all(&mut self, disk: &mut Disk) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for class in Class::ALL {
            outcome = outcome.and(self.merge(disk, class));
        }
        outcome
    }

    /// Merges what the tail has of a class.
    pub(super) fn merge(&mut self, disk: &mut Disk, class: Class) -> Result<(), Fault> {
        let runs: Vec<Vec<Unmerged>> = {
            let state = self.shared.state();
            tail::runs(&state.stream(class).tail).into_iter().map(<[_]>::to_vec).collect()
        };
        let most = room::piece_bytes(self.opening.max_size);
        for piece in runs.iter().flat_map(|run| tail::pieces(run, most)) {
            let [first, ..] = piece else { continue };
            let ordinal = first.ordinal;
            let epoch = self.shared.state().stream(class).life(ordinal).map_or(0, |life| life.epoch);
            let load = load(Place { class, epoch }, piece);
            let held = self.append(disk, class, &load)?;
            {
                let mut state = self.shared.state();
                let stream = state.stream_mut(class);
                extend(stream, held);
                stream.merged(ordinal, load.last);
            }
            if let Some(open) = &mut disk.open[class] {
                open.unpublished = false;
            }
            if let Some(file) = &mut disk.tail {
                file.merged(class, epoch, load.last);
            }
            self.shared.stats.merges.one();
            self.shared.wake_readers();
        }
        Ok(())
    }
}

/// Moves the end of a chunk, or adds one.
pub(super) fn extend(stream: &mut Stream, held: Held) {
    let before = stream.chunks.iter().find(|old| old.name == held.name).copied().unwrap_or(held);
    let span = Span { first: before.span.first.min(held.span.first), ..held.span };
    stream.hold(Held { span, times: before.times.and(held.times), ..held });
}

/// Segments in a row as few large ones.
fn load(place: Place, run: &[Unmerged]) -> Load {
    let (mut rows, mut tags) = (Vec::new(), HashSet::new());
    // To size at once: growing, it would take twice as much for moments, and the process would keep that.
    let count = run.iter().map(|unmerged| unmerged.span().len()).sum::<u64>().min(MERGED_MAX as u64);
    let records = Vec::with_capacity(usize::try_from(count).unwrap_or(MERGED_MAX));
    let mut waiting = Waiting { records, rows: Vec::new(), bytes: 0 };
    for Unmerged { row, .. } in run {
        let Ok(records) = segment::unpack(place, row) else {
            // Not as it was packed: memory has failed. It stays as it is; its CRC speaks for it.
            waiting.close(place, &mut rows);
            rows.push(Arc::clone(row));
            continue;
        };
        tags.extend(records.iter().filter_map(|record| match record.body {
            Body::Sample { tag, .. } => Some(tag),
            Body::Event { .. } | Body::Message { .. } => None,
        }));
        let bytes = waiting.bytes + u64::from(row.raw);
        let other_boot = waiting.rows.first().is_some_and(|first| first.boot != row.boot);
        if waiting.records.len() + records.len() > MERGED_MAX || bytes > MERGED_BYTES || other_boot {
            waiting.close(place, &mut rows);
        }
        waiting.records.extend(records);
        waiting.bytes += u64::from(row.raw);
        waiting.rows.push(Arc::clone(row));
    }
    waiting.close(place, &mut rows);
    let (first, last) = (run.first().map_or(0, |one| one.row.first), run.last().map_or(0, |one| one.row.last));
    Load { ordinal: run.first().map_or(0, |one| one.ordinal), rows, tags: tags.into_iter().collect(), first, last }
}

/// What goes into the next large segment.
struct Waiting {
    records: Vec<Record>,
    rows: Vec<Arc<SegmentRow>>,
    bytes: u64,
}

impl Waiting {
    fn close(&mut self, place: Place, rows: &mut Vec<Arc<SegmentRow>>) {
        match self.rows.as_slice() {
            [] => {}
            [alone] => rows.push(Arc::clone(alone)),
            [first, ..] => rows.push(Arc::new(segment::pack(place, first.first, &self.records))),
        }
        self.records.clear();
        self.rows.clear();
        self.bytes = 0;
    }
}
