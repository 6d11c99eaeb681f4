//! Room: the directory stays below its cap and the file system keeps a little space.
//!
//! What goes first: files in quarantine that were read to the end; chunks that everybody has acknowledged, in order or
//! ahead of a backlog, least important class first, oldest first; then chunks that somebody has not, in the same order,
//! with a gap record. Space is freed by unlinking whole files only: on a full disk SQLite can neither delete nor
//! checkpoint.

use std::time::Duration;

use tokio::time::Instant;

use crate::disk::database::PAGE;
use crate::disk::directory::ChunkName;
use crate::disk::fault::Fault;
use crate::flow::notice::Phase;
use crate::model::number::Class;
use crate::model::time::Stamp;

use super::open::Disk;
use super::writer::Writer;
use super::{times, upkeep};

/// Largest chunk file.
const CHUNK_MAX: u64 = 32 * 1024 * 1024;
/// Smallest: below this the file's own overhead dominates.
const CHUNK_MIN: u64 = 256 * 1024;
/// Space that the file system must keep beside what a commit needs.
const FREE_MIN: u64 = 256 * 1024;
/// A new chunk: its tables, its shared memory file, and some.
const CHUNK_OVERHEAD: u64 = 128 * 1024;

/// A chunk is finished at this size.
pub(super) fn chunk_bytes_max(max_size: u64) -> u64 {
    // One page of the log stays out of the cap's sight between commits.
    (max_size / 8).clamp(CHUNK_MIN, CHUNK_MAX - 64 * PAGE)
}

/// A chunk's log is moved into it after this many pages.
pub(super) fn log_pages(max_size: u64) -> u64 {
    (chunk_bytes_max(max_size) / PAGE / 8).clamp(16, 500)
}

/// Without an eviction that costs anything for this long, the store is no longer called full.
const QUIET: Duration = Duration::from_secs(600);

/// The tail: some minutes of commits, and small beside the cap and what the disk has left.
const TAIL_MIN: u64 = 128 * 1024;
const TAIL_MAX: u64 = 2 * 1024 * 1024;
/// It takes at most this part of either.
const TAIL_PART: u64 = 32;

/// The size of a new tail; `None` when there is no place for one.
pub(super) fn tail_bytes(writer: &Writer) -> Option<u64> {
    let directory = &writer.shared.directory;
    let free = directory.bytes_free();
    let bytes = (writer.opening.max_size.min(free) / TAIL_PART).clamp(TAIL_MIN, TAIL_MAX) / PAGE * PAGE;
    let fits = directory.bytes() + bytes + 2 * CHUNK_OVERHEAD <= writer.opening.max_size;
    (fits && free > 4 * (bytes + FREE_MIN)).then_some(bytes)
}

/// So much of a tail is merged at once: a tail that was laid for a larger store has more than a small one has room for.
pub(super) fn piece_bytes(max_size: u64) -> u64 {
    (max_size / TAIL_PART).max(TAIL_MIN)
}

fn ballast_bytes(max_size: u64) -> u64 {
    (max_size / 64).clamp(64 * 1024, 1024 * 1024) / PAGE * PAGE
}

/// Lays the ballast down again where there is plenty of space.
pub(super) fn lay_ballast(writer: &Writer) {
    let directory = &writer.shared.directory;
    let bytes = ballast_bytes(writer.opening.max_size);
    if directory.bytes_free() > bytes + 4 * FREE_MIN
        && directory.bytes() + bytes + 2 * CHUNK_OVERHEAD < writer.opening.max_size
        && let Err(fault) = directory.lay_ballast(bytes)
    {
        tracing::debug!(error = %fault, "no ballast");
    }
}

/// Makes room for a commit of so many bytes of segments.
pub(super) fn make(writer: &mut Writer, disk: &mut Disk, segments: u64) -> Result<(), Fault> {
    // Each page goes to the log first and to the database later; the last page of the table is written again.
    let need = segments * 3 + CHUNK_OVERHEAD;
    let mut cost = false;
    loop {
        let directory = &writer.shared.directory;
        let over_cap = directory.bytes() + need > writer.opening.max_size;
        if !over_cap && directory.bytes_free() >= need + FREE_MIN {
            break;
        }
        let Some(lost) = free_some(writer, disk) else {
            if over_cap {
                return Err(Fault::Full("store.max_size is reached and nothing is left to evict".into()));
            }
            break; // the disk is nearly full with other things: let the commit find out
        };
        cost |= lost > 0;
    }
    tell(writer, cost);
    Ok(())
}

/// When unacknowledged records were last evicted; `None` while the operator knows of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evicting(Option<Instant>);

impl Evicting {
    /// One commit, and whether it had to evict some: what there is to tell.
    fn news(&mut self, cost: bool, now: Instant) -> Option<Phase> {
        match self.0 {
            _ if cost => self.0.replace(now).is_none().then_some(Phase::Active),
            Some(at) if now.duration_since(at) >= QUIET => {
                self.0 = None;
                Some(Phase::Cleared)
            }
            _ => None,
        }
    }
}

/// Tells the operator when unacknowledged records begin to be evicted, and when that has long not happened.
fn tell(writer: &mut Writer, cost: bool) {
    let Some(phase) = writer.evicting.news(cost, Instant::now()) else { return };
    let detail = match phase {
        Phase::Cleared => "no unacknowledged record was evicted lately",
        _ => "the store is full: the oldest unacknowledged records are being evicted",
    };
    writer.tell("store_evicting", phase, detail.to_owned());
}

/// Frees something because the disk is full; false when there is nothing left to free.
pub(super) fn make_some(writer: &mut Writer, disk: &mut Disk) -> bool {
    let ballast = writer.shared.directory.drop_ballast();
    free_some(writer, disk).is_some() || ballast
}

/// Frees one thing; how many records that cost somebody, or `None` when there is nothing left.
fn free_some(writer: &mut Writer, disk: &mut Disk) -> Option<u64> {
    let salvaging = writer.shared.state().streams.values().any(|stream| stream.salvaging);
    if !salvaging && writer.shared.directory.clear_aside() {
        tracing::warn!("quarantine emptied to make room");
        return Some(0);
    }
    let Some(name) = candidate(writer, disk) else {
        return writer.shared.directory.drop_ballast().then_some(0);
    };
    Some(evict(writer, disk, name))
}

/// Evicts a chunk; how many records that cost somebody.
pub(super) fn evict(writer: &mut Writer, disk: &mut Disk, name: ChunkName) -> u64 {
    if disk.open[name.class].as_ref().is_some_and(|open| open.name == name) {
        disk.open[name.class] = None;
    }
    let begins = begins(writer, name);
    let lost = writer.shared.state().evict(name, &begins);
    forget_epochs(writer, name.class);
    // The gap record first; on a disk so full that it cannot be written it stays in memory and follows.
    upkeep::flush(&writer.shared, &mut disk.meta, Vec::new());
    let class = name.class;
    if let Err(fault) = writer.shared.directory.remove_database(&name.file_name()) {
        tracing::error!(error = %fault, file = name.file_name(), "evicted chunk cannot be removed");
    }
    upkeep::flush(&writer.shared, &mut disk.meta, Vec::new());
    writer.shared.stats.chunks_evicted.one();
    if lost > 0 {
        writer.shared.stats.evicted[class].add(lost);
        tracing::warn!(class = %class, records = lost, "unacknowledged records evicted");
    } else {
        tracing::debug!(class = %class, "history evicted");
    }
    writer.shared.wake_readers();
    lost
}

/// Where uplinks stand inside a chunk, and when what follows was taken.
fn begins(writer: &Writer, name: ChunkName) -> Vec<(u64, Stamp)> {
    let (held, epoch, seqs) = {
        let state = writer.shared.state();
        let stream = state.stream(name.class);
        let Some(held) = stream.chunks.iter().find(|held| held.name == name).copied() else { return Vec::new() };
        (held, stream.life(held.span.ordinal).map_or(0, |life| life.epoch), state.begins(name.class, held.span))
    };
    let inside = seqs.into_iter().filter(|seq| *seq > held.span.first);
    inside.map(|seq| (seq, times::since(&writer.shared.directory, held, epoch, seq))).collect()
}

/// May this chunk be evicted? Not what nobody knows of yet, and not what is in no chunk.
pub(super) fn may_go(disk: &Disk, name: ChunkName) -> bool {
    let open = disk.open[name.class].as_ref();
    !name.is_tail() && !open.is_some_and(|open| open.name == name && open.unpublished)
}

/// The chunk that goes next.
fn candidate(writer: &Writer, disk: &Disk) -> Option<ChunkName> {
    let state = writer.shared.state();
    let all = || Class::ALL.into_iter().rev().flat_map(|class| &state.stream(class).chunks);
    let chunks = || all().filter(|held| may_go(disk, held.name));
    let in_use = |name: ChunkName| {
        disk.open[name.class].as_ref().is_some_and(|open| open.name == name)
            || disk.salvaged.as_ref().is_some_and(|target| target.name() == name)
    };
    let acknowledged = || chunks().filter(|held| state.is_acknowledged(held.name.class, held.span));
    let first = acknowledged().find(|held| !in_use(held.name)).or_else(|| acknowledged().next());
    first.or_else(|| chunks().next()).map(|held| held.name)
}

/// Epochs of which nothing is left, and which nobody stands in, are forgotten.
fn forget_epochs(writer: &Writer, class: Class) {
    let mut state = writer.shared.state();
    loop {
        let stream = state.stream(class);
        let [oldest, _, ..] = stream.epochs.as_slice() else { return };
        let (ordinal, empty) = (oldest.ordinal, oldest.evicted >= oldest.last);
        let held = stream.chunks.iter().any(|held| held.span.ordinal == ordinal);
        let needed = state.ledgers.iter().any(|ledger| {
            ledger.cursors[class].as_ref().is_some_and(|cursor| cursor.acked.ordinal <= ordinal)
                || ledger.gaps.iter().any(|gap| gap.class == class && gap.loss.span.ordinal == ordinal)
        });
        if !empty || held || needed {
            return;
        }
        state.edits.push(crate::disk::meta::Edit::DropEpoch(class as u8, ordinal));
        state.stream_mut(class).epochs.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evicted_unsent_is_told_once_and_its_end_too() {
        let (mut evicting, begun) = (Evicting::default(), Instant::now());
        let mut after = |cost: bool, seconds: u64| evicting.news(cost, begun + Duration::from_secs(seconds));
        assert_eq!(after(false, 0), None, "nothing to tell");
        assert_eq!(after(true, 1), Some(Phase::Active));
        assert_eq!((after(true, 2), after(false, 500), after(true, 599)), (None, None, None), "told already");
        assert_eq!(after(false, 1198), None, "it was not long ago");
        assert_eq!(after(false, 1199), Some(Phase::Cleared));
        assert_eq!(after(false, 5000), None, "told already");
        assert_eq!(after(true, 5001), Some(Phase::Active), "once more");
    }
}
