//! Upkeep of `meta.db` and the marks: cursors, high-water marks, clock fixes, and the copy to go on from when `meta.db` is
//! damaged.
//!
//! Done on the writer thread, between commits. What cannot be written stays for the next time. Cursors are saved in the
//! marks, which each commit writes anyway: a crash makes go out twice what was acknowledged since the last commit, or in
//! the last 5 s ([`CURSORS_EVERY`]) where nothing is committed or the commit interval is longer, and at most
//! [`CURSORS_RECORDS`] records and those of 200 ms. `meta.db` gets them once a minute, for the marks may be damaged; then
//! it is what was acknowledged since.

use std::borrow::Cow;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use crate::disk::fault::Fault;
use crate::disk::marks::{Mark, Marks};
use crate::disk::meta::{Behind, Edit, FixRow, Meta};
use crate::flow::clock::{Fix, Seen};
use crate::flow::hub::Lost;
use crate::model::number::{Class, PerClass};

use super::boot::Opened;
use super::open::Disk;
use super::state::State;
use super::writer::{CURSORS_RECORDS, RETRY, Writer};
use super::{Control, Shared, StoreHandle, acked, boot};

/// Cursors are saved at least this often while they move.
const CURSORS_EVERY: Duration = Duration::from_secs(5);
/// And at most this often, but for commits.
const CURSORS_AT_MOST: Duration = Duration::from_millis(200);
/// In `meta.db`, while the marks have room for all.
const CURSORS_IN_META_EVERY: Duration = Duration::from_secs(60);
/// What a commit to `meta.db` writes, about: a few pages, to the log and later into the database.
const META_BYTES: u64 = 4 * (2 * 4096 + 24);
/// Name of the latest wall time among the values.
pub(super) const WALL: &str = "latest_wall_ms";
/// The same, by a clock that somebody vouched for.
pub(super) const VOUCHED: &str = "vouched_wall_ms";
/// The latest wall time is saved this often.
const WALL_EVERY: Duration = Duration::from_secs(600);
/// A fix that says the same as the one before, to this many ms, is not stored again.
const FIX_SAME_MS: i64 = 20;
/// Fixes that wait for the directory to become usable: the first ones and the newest.
const FIXES_WAITING_MAX: usize = 16;
/// `meta.db` is copied at most this often, and when the store ends.
const COPY_EVERY: Duration = Duration::from_secs(60);
/// Where only meters have changed since, which is so all the time: kind to flash, and it costs a day's bytes at most.
const COPY_METERS_EVERY: Duration = Duration::from_secs(86_400);

impl State {
    /// Notes a clock fix for `meta.db`, in the place of one that it has not taken yet.
    fn put_fix(&mut self, fix: Fix) {
        let row = FixRow { at: (fix.at.boot.0, fix.at.micros), unix_ms: fix.unix_ms };
        let is_older = |older: &FixRow| older.at.0 == row.at.0 && (older.at.1 < 0) == fix.is_floor();
        self.edits.retain(|edit| !matches!(edit, Edit::PutFix(older) if is_older(older)));
        self.edits.push(Edit::PutFix(row));
        self.put_value(WALL, fix.unix_ms);
    }

    /// Notes a single number for `meta.db`, in the place of one of that name that it has not taken yet.
    pub(super) fn put_value(&mut self, name: impl Into<Cow<'static, str>>, number: i64) {
        let name = name.into();
        self.edits.retain(|edit| !matches!(edit, Edit::PutValue(older, _) if *older == name));
        self.edits.push(Edit::PutValue(name, number));
    }
}

impl Opened {
    /// How late it was when this was saved last.
    pub(super) fn seen(&self) -> Seen {
        let vouched = self.values.iter().find(|(name, _)| name == VOUCHED);
        Seen { latest_ms: self.latest_wall_ms, vouched_ms: vouched.map(|(_, unix_ms)| *unix_ms) }
    }
}

impl StoreHandle {
    /// Remembers a clock fix for this and later runs; never waits.
    pub fn record_fix(&self, fix: Fix) {
        match self.control.try_send(Control::Fix(fix)) {
            Ok(()) => {}
            // The writer has much to do, and takes it when it has done some of that. Of several the newest counts.
            Err(TrySendError::Full(_)) => *self.shared.late_fix() = Some(fix),
            Err(TrySendError::Closed(_)) => tracing::warn!("store has ended; a clock fix was not recorded"),
        }
    }
}

impl Writer {
    /// Copies `meta.db` when that is due.
    pub(super) fn copy_meta_due(&mut self, now: Instant) {
        let every = match self.disk.as_ref().map(|disk| disk.meta.copy_is_behind()) {
            None | Some(Behind::Nothing) => return,
            Some(Behind::Meters) => COPY_METERS_EVERY,
            Some(Behind::Facts) => COPY_EVERY,
        };
        if self.copied.is_none_or(|at| now.saturating_duration_since(at) >= every) {
            self.copy_meta();
        }
    }

    pub(super) fn copy_meta(&mut self) {
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.meta.copy_is_behind() > Behind::Nothing) else { return };
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
        let fix = Fix { at: self.clock.numbered(fix.at), ..fix };
        let says = |fix: &Fix| fix.unix_ms - fix.at.micros / 1000;
        let kind = |fix: &Fix| (fix.at.boot, fix.is_floor());
        // What met a busy writer may have overtaken those before it.
        let says_enough = |last: &Fix| fix.at.micros < last.at.micros || (says(last) - says(&fix)).abs() <= FIX_SAME_MS;
        if !self.last_fix.as_ref().is_some_and(|last| kind(last) == kind(&fix) && says_enough(last)) {
            self.last_fix = Some(fix);
            self.shared.state().put_fix(fix);
            self.flush_edits(Vec::new());
        }
    }

    /// When something may be due.
    pub(super) fn save_at(&self, now: Instant) -> Instant {
        let state = self.shared.state();
        let unsaved = state.ledgers.iter().map(|ledger| ledger.unsaved).max().unwrap_or(0);
        let marks = match unsaved {
            0 => now + CURSORS_IN_META_EVERY,
            unsaved if unsaved < CURSORS_RECORDS => self.marks_saved + self.cursors_every(),
            _ => self.marks_saved + CURSORS_AT_MOST,
        };
        let meta = if self.cursors_moved { self.cursors_saved + self.in_meta_every() } else { marks };
        state.refused_at.map_or(marks.min(meta), |at| marks.min(meta.max(at + RETRY)))
    }

    fn cursors_every(&self) -> Duration {
        self.opening.commit_interval.max(CURSORS_EVERY)
    }

    fn in_meta_every(&self) -> Duration {
        if self.marks_full { self.cursors_every() } else { CURSORS_IN_META_EVERY }
    }

    /// Saves what is due.
    pub(super) fn save_due(&mut self, now: Instant) {
        let late = self.shared.late_fix().take();
        if let Some(fix) = late {
            self.remember(fix);
        }
        let (unsaved, edits, refused_at) = {
            let state = self.shared.state();
            let unsaved = state.ledgers.iter().map(|ledger| ledger.unsaved).max().unwrap_or(0);
            (unsaved, !state.edits.is_empty(), state.refused_at)
        };
        let since = now.saturating_duration_since(self.marks_saved);
        let due = since >= self.cursors_every() || (unsaved >= CURSORS_RECORDS && since >= CURSORS_AT_MOST);
        if unsaved > 0 && due {
            self.save_cursors();
        }
        if refused_at.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
            return;
        }
        let moved = self.cursors_moved && now.saturating_duration_since(self.cursors_saved) >= self.in_meta_every();
        let wall = self.wall_saved.is_none_or(|at| now.saturating_duration_since(at) >= WALL_EVERY);
        if moved || wall {
            self.save();
        } else if edits {
            self.flush_edits(Vec::new());
        }
    }

    /// Saves the cursors where that is cheap; true when all of them are on disk.
    pub(super) fn save_cursors(&mut self) -> bool {
        let Some(mut disk) = self.disk.take() else { return false };
        let marks = acked::marks_of(&self.shared.state());
        let outcome = self.save_marks(&mut disk, &marks, &self.waiting_long(&self.lost));
        self.disk = Some(disk);
        if let Err(fault) = &outcome {
            tracing::warn!(error = %fault, "marks could not be written");
        }
        outcome.is_ok() && !self.marks_full
    }

    /// Somebody waits for the cursors.
    pub(super) fn save_now(&mut self) {
        if self.save_cursors() {
            self.flush_edits(Vec::new());
        } else {
            self.save();
        }
    }

    /// While commits fail: what waits, by class. Should the power go before it can be committed, the next start declares it.
    pub(super) fn waiting_long(&self, lost: &PerClass<Option<Lost>>) -> PerClass<u64> {
        let mut waiting = PerClass::default();
        for class in Class::ALL.into_iter().filter(|_| self.failed) {
            waiting[class] = self.waiting(class, lost);
        }
        waiting
    }

    /// Writes the marks, and with them the cursors; beyond the marks, so many numbers as given up.
    pub(super) fn save_marks(
        &mut self,
        disk: &mut Disk,
        marks: &PerClass<Mark>,
        waiting: &PerClass<u64>,
    ) -> Result<(), Fault> {
        let uplinks = {
            let mut state = self.shared.state();
            for ledger in &mut state.ledgers {
                self.cursors_moved |= ledger.unsaved > 0;
                ledger.unsaved = 0;
            }
            acked::uplinks_of(&state)
        };
        self.marks_saved = Instant::now();
        let mut marks = *marks;
        for (class, mark) in marks.iter_mut() {
            let given_up = self.given_up[class] + waiting[class];
            (mark.last, mark.given_up) = (mark.last + given_up, given_up);
        }
        match disk.marks.write(&marks, &uplinks) {
            Ok(told) => {
                self.marks_full = told < uplinks.len();
                self.shared.stats.written_bytes.add(Marks::BYTES);
                Ok(())
            }
            Err(fault) => {
                for ledger in &mut self.shared.state().ledgers {
                    ledger.unsaved = ledger.unsaved.max(1); // again at the next time
                }
                Err(fault)
            }
        }
    }

    /// Saves cursors, high-water marks and the latest wall time.
    pub(super) fn save(&mut self) {
        let mut edits = Vec::new();
        {
            let state = self.shared.state();
            for ledger in &state.ledgers {
                edits.extend(state.cursor_rows(ledger));
            }
            for stream in state.streams.values() {
                edits.extend(stream.newest().map(|life| Edit::PutEpoch(stream.epoch_row(life))));
            }
        }
        // Without a fix this is the floor and the time since: the next boot was later.
        edits.push(Edit::PutValue(WALL.into(), self.clock.wall_now().unix_ms));
        edits.extend(self.clock.vouched_ms().map(|unix_ms| Edit::PutValue(VOUCHED.into(), unix_ms)));
        self.wear.add(self.shared.stats.written_bytes.get(), self.clock.now().micros / 1000);
        edits.extend(self.wear.edits());
        self.cursors_saved = Instant::now();
        self.wall_saved = Some(Instant::now());
        self.cursors_moved = !self.flush_edits(edits);
    }

    /// Writes what `meta.db` must learn, and `more`. What does not get there stays for the next time, but for `more`: that
    /// must be what is made anew then.
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
    if !edits.is_empty() {
        shared.stats.written_bytes.add(META_BYTES);
    }
    if let Err(fault) = meta.apply(&edits) {
        edits.truncate(kept); // `more` is cursors and the like, made anew each time
        let mut state = shared.state();
        if state.refused_at.is_none() {
            tracing::warn!(error = %fault, "meta.db could not be written; trying again every second");
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::flow::clock::{Clock, FakeTime};
    use crate::flow::notice::notices;
    use crate::model::time::{Boot, Stamp};
    use crate::store::Opening;

    #[tokio::test]
    async fn a_clock_fix_that_meets_a_busy_writer_is_remembered_when_it_has_time() {
        let home = tempfile::tempdir().expect("a directory");
        let shared = Arc::new(Shared::at(home.path()));
        let ((control, mut inbox), (_finished, done)) = (mpsc::channel(1), watch::channel(()));
        let handle = StoreHandle { shared: Arc::clone(&shared), control, done };
        let fix = |unix_ms| Fix { at: Stamp { boot: Boot(1), micros: 5 }, unix_ms };
        for unix_ms in [1, 2, 3] {
            handle.record_fix(fix(unix_ms));
        }
        assert!(matches!(inbox.try_recv(), Ok(Control::Fix(first)) if first == fix(1)));
        let opening = Opening {
            dir: home.path().to_owned(),
            max_size: 1 << 20,
            max_age: None,
            commit_interval: Duration::from_secs(1),
            tags: Vec::new(),
            uplinks: Vec::new(),
            boot_token: "boot".into(),
        };
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
        let mut writer = Writer::new(opening, shared, clock, notices().0);
        for _ in 0..2 {
            writer.save_due(Instant::now());
            assert_eq!(writer.fixes_waiting, [fix(3)], "the newest, once");
        }
    }
}
