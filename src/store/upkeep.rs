//! Upkeep of `meta.db`: cursors, high-water marks, clock fixes, and the copy to go on from when the file is damaged.
//!
//! Done on the writer thread, between commits. What cannot be written stays for the next time.

use std::time::Duration;

use tokio::time::Instant;

use crate::disk::meta::{Edit, FixRow, Meta};
use crate::flow::clock::Fix;

use super::writer::{CURSORS_AT_MOST, CURSORS_EVERY, CURSORS_RECORDS, RETRY, Writer};
use super::{Shared, boot};

/// Name of the latest wall time among the values.
pub(super) const WALL: &str = "latest_wall_ms";
/// The latest wall time is saved this often.
const WALL_EVERY: Duration = Duration::from_secs(600);
/// A fix that says the same as the one before, to this many ms, is not stored again.
const FIX_SAME_MS: i64 = 20;
/// Fixes that wait for the directory to become usable.
const FIXES_WAITING_MAX: usize = 16;
/// `meta.db` is copied at most this often, and when the store ends.
const COPY_EVERY: Duration = Duration::from_secs(60);

impl Writer {
    /// Copies `meta.db` when that is due.
    pub(super) fn copy_meta_due(&mut self, now: Instant) {
        if self.copied.is_none_or(|at| now.saturating_duration_since(at) >= COPY_EVERY) {
            self.copy_meta();
        }
    }

    pub(super) fn copy_meta(&mut self) {
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.meta.copy_due()) else { return };
        self.copied = Some(Instant::now());
        let directory = &self.shared.directory;
        let bytes = directory.file(boot::META).metadata().map_or(0, |about| about.len());
        if directory.bytes() + 2 * bytes > self.opening.max_size {
            return; // the old copy must do
        }
        if let Err(fault) = disk.meta.copy_to(&directory.file(boot::META_COPY)).and_then(|()| directory.sync()) {
            tracing::warn!(error = %fault, "meta.db could not be copied");
        }
    }

    /// Remembers a clock fix.
    pub(super) fn remember(&mut self, fix: Fix) {
        if self.disk.is_none() {
            self.fixes_waiting.truncate(FIXES_WAITING_MAX - 1);
            self.fixes_waiting.push(fix);
            return;
        }
        let says = |fix: &Fix| fix.unix_ms - fix.at.micros / 1000;
        let same = |last: &Fix| {
            last.at.boot == fix.at.boot
                && last.is_floor() == fix.is_floor()
                && (says(last) - says(&fix)).abs() <= FIX_SAME_MS
        };
        if !self.last_fix.as_ref().is_some_and(same) {
            let row = FixRow { at: (fix.at.boot.0, fix.at.micros), unix_ms: fix.unix_ms };
            if self.flush_edits(vec![Edit::PutFix(row), Edit::PutValue(WALL, fix.unix_ms)]) {
                self.last_fix = Some(fix);
            }
        }
    }

    /// Saves what is due.
    pub(super) fn save_due(&mut self, now: Instant) {
        let (unsaved, edits, refused_at) = {
            let state = self.shared.state();
            let unsaved = state.ledgers.iter().map(|ledger| ledger.unsaved).max().unwrap_or(0);
            (unsaved, !state.edits.is_empty(), state.refused_at)
        };
        if refused_at.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
            return;
        }
        let since = now.saturating_duration_since(self.cursors_saved);
        let due = since >= CURSORS_EVERY || (unsaved >= CURSORS_RECORDS && since >= CURSORS_AT_MOST);
        let wall = self.wall_saved.is_none_or(|at| now.saturating_duration_since(at) >= WALL_EVERY);
        if (unsaved > 0 && due) || wall {
            self.save();
        } else if edits {
            self.flush_edits(Vec::new());
        }
    }

    /// Saves cursors, high-water marks and the latest wall time.
    pub(super) fn save(&mut self) {
        let mut edits = Vec::new();
        {
            let mut state = self.shared.state();
            for ledger in &state.ledgers {
                edits.extend(state.cursor_rows(ledger));
            }
            for stream in &state.streams {
                edits.extend(stream.newest().map(|life| Edit::PutEpoch(stream.epoch_row(life))));
            }
            for ledger in &mut state.ledgers {
                ledger.unsaved = 0;
            }
        }
        // Without a fix this is the floor and the time since: the next boot was later.
        edits.push(Edit::PutValue(WALL, self.clock.wall_now().unix_ms));
        self.cursors_saved = Instant::now();
        self.wall_saved = Some(Instant::now());
        if !self.flush_edits(edits) {
            for ledger in &mut self.shared.state().ledgers {
                ledger.unsaved = ledger.unsaved.max(1); // again at the next time
            }
        }
    }

    /// Writes what `meta.db` must learn; what does not get there stays for the next time.
    pub(super) fn flush_edits(&mut self, more: Vec<Edit>) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        flush(&self.shared, &mut disk.meta, more)
    }
}

/// See [`Writer::flush_edits`].
pub(super) fn flush(shared: &Shared, meta: &mut Meta, more: Vec<Edit>) -> bool {
    let mut edits = std::mem::take(&mut shared.state().edits);
    let kept = edits.len();
    edits.extend(more);
    if let Err(fault) = meta.apply(&edits) {
        edits.truncate(kept); // cursors and the like are made anew
        let mut state = shared.state();
        if state.refused_at.is_none() {
            tracing::warn!(error = %fault, "meta.db could not be written; trying again every few seconds");
        }
        state.refused_at = Some(Instant::now());
        edits.append(&mut state.edits);
        state.edits = edits;
        return false;
    }
    if shared.state().refused_at.take().is_some() {
        tracing::info!("meta.db is written again");
    }
    true
}
