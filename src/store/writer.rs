//! The writer thread: takes records off the durable lane, decides when to commit, and keeps `meta.db` up to date.
//!
//! Everything that touches the disk for writing happens on this one thread; the lane waits, polling does not. While
//! commits fail it keeps what it has (bounded), tries again every second, and leaves the rest in the lane, where
//! the hub counts what finds no place.

use std::collections::HashSet;
use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::disk::fault::Fault;
use crate::flow::clock::{Clock, Fix};
use crate::flow::hub::{Durable, DurableEnd, Lost};
use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::number::{Class, PerClass};
use crate::model::time::Stamp;

use super::age::Ages;
use super::commit::{Group, Pending};
use super::open::Disk;
use super::wear::Wear;
use super::{Control, Opening, Shared, boot, room, salvage};

/// Alarms and events are committed this soon after they arrive, so that a burst shares one commit.
const URGENT: Duration = Duration::from_millis(20);
/// A failed commit is tried again after this long.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Acknowledgements that make saving due before its time.
pub(super) const CURSORS_RECORDS: u64 = 10_000;
/// A group of this many records, or of events of this many bytes, is committed before its time.
const GROUP_RECORDS: usize = 16_384;
const GROUP_BYTES: usize = 512 * 1024;
/// What a record takes in memory, about.
pub(super) const RECORD_BYTES: usize = 64;
/// What waits in memory while commits fail; above this the lane is left alone.
const PENDING_RECORDS_MAX: usize = 65_536;
const PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// At the end, how long a commit that fails is tried again.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Without anything to do the writer looks this often at what only time changes.
const IDLE: Duration = Duration::from_secs(60);

pub(super) const URGENT_CLASSES: [Class; 2] = [Class::Alarm, Class::Event];

/// The ends of the channels.
pub(super) struct Ends {
    pub(super) records: DurableEnd,
    pub(super) inbox: mpsc::Receiver<Control>,
    pub(super) control: mpsc::WeakSender<Control>,
    pub(super) finished: watch::Sender<()>,
}

pub(super) struct Writer {
    pub(super) opening: Opening,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) notices: Notices,
    pub(super) disk: Option<Disk>,
    pub(super) pending: PerClass<Vec<Pending>>,
    pub(super) pending_bytes: PerClass<usize>,
    pub(super) groups: PerClass<Option<Group>>,
    /// Tags that stand in a chunk of this run, by class.
    pub(super) tags_used: PerClass<HashSet<u32>>,
    /// When a tail was last made, or tried.
    pub(super) tail_tried: Option<Instant>,
    /// When the tail is to be merged, and since when there is something in it.
    pub(super) merge_at: Option<Instant>,
    pub(super) tail_since: Option<Stamp>,
    pub(super) merge_failed: Option<Instant>,
    pub(super) ages: Ages,
    pub(super) wear: Wear,
    pub(super) lost: PerClass<Option<Lost>>,
    /// Records that were given up at the end: their numbers are used.
    pub(super) given_up: PerClass<u64>,
    pub(super) failed: bool,
    openings: u32,
    /// When an eviction last cost records that somebody had not passed; `None` when the operator knows that it is over.
    pub(super) evicting: room::Evicting,
    pub(super) commit_at: Option<Instant>,
    pub(super) urgent_at: Option<Instant>,
    /// By class: somebody waits for the number of a record.
    pub(super) awaited: PerClass<bool>,
    /// Cursors in the marks, and in `meta.db`.
    pub(super) marks_saved: Instant,
    pub(super) cursors_saved: Instant,
    /// They moved since they were saved in `meta.db`.
    pub(super) cursors_moved: bool,
    /// Not all uplinks find room in the marks.
    pub(super) marks_full: bool,
    pub(super) wall_saved: Option<Instant>,
    pub(super) copied: Option<Instant>,
    pub(super) last_fix: Option<Fix>,
    pub(super) fixes_waiting: Vec<Fix>,
}

impl Writer {
    pub(super) fn new(opening: Opening, shared: Arc<Shared>, clock: Clock, notices: Notices) -> Self {
        Self {
            opening,
            shared,
            clock,
            notices,
            disk: None,
            pending: PerClass::default(),
            pending_bytes: PerClass::default(),
            groups: PerClass::default(),
            tags_used: PerClass::default(),
            tail_tried: None,
            merge_at: None,
            tail_since: None,
            merge_failed: None,
            ages: Ages::default(),
            wear: Wear::default(),
            lost: PerClass::default(),
            given_up: PerClass::default(),
            failed: false,
            openings: 0,
            evicting: room::Evicting::default(),
            commit_at: None,
            urgent_at: None,
            awaited: PerClass::default(),
            marks_saved: Instant::now(),
            cursors_saved: Instant::now(),
            cursors_moved: false,
            marks_full: false,
            wall_saved: None,
            copied: None,
            last_fix: None,
            fixes_waiting: Vec::new(),
        }
    }

    /// Takes over what was opened and starts the thread.
    pub(super) fn start(mut self, opened: Result<Box<boot::Opened>, Fault>, ends: Ends) {
        match opened {
            Ok(opened) => self.take_over(*opened, &ends.control),
            Err(fault) => self.fail(&fault),
        }
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(self.run(ends)),
            Err(error) => tracing::error!(error = %error, "store thread cannot start"),
        };
        if let Err(error) = std::thread::Builder::new().name("store".into()).spawn(run) {
            tracing::error!(error = %error, "store thread cannot start");
        }
    }

    fn take_over(&mut self, opened: boot::Opened, control: &mpsc::WeakSender<Control>) {
        self.shared.stats.damaged_files.add(opened.damaged_files);
        for notice in opened.notices {
            self.notices.tell(notice);
        }
        self.last_fix = opened.fixes.last().copied();
        self.ages = Ages::resume(opened.latest_wall_ms, &opened.values);
        self.wear = Wear::resume(&opened.values, self.clock.now().micros / 1000);
        *self.shared.state() = opened.state;
        self.disk = Some(Disk {
            lock: opened.lock,
            meta: opened.meta,
            marks: opened.marks,
            next_chunk: opened.next_chunk,
            tail: opened.tail,
            open: PerClass::default(),
            closed: HashSet::new(),
            salvaged: None,
            salvage_failed: false,
            tag_ids: opened.tag_ids,
        });
        if !opened.salvage.is_empty() {
            salvage::start(Arc::clone(&self.shared), control.clone(), opened.salvage);
        }
        self.plan_merge();
        self.shared.wake_readers();
    }

    async fn run(mut self, ends: Ends) {
        let Ends { mut records, mut inbox, control, finished } = ends;
        let (mut lane_open, mut handles_open) = (true, true);
        let (mut give_up_at, mut looked_at): (Option<Instant>, _) = (None, Instant::now());
        self.prepare();
        while lane_open || handles_open || !self.shared.state().ended {
            let (shared, wake) = (Arc::clone(&self.shared), self.wake_at());
            tokio::select! {
                record = records.records.recv(), if lane_open && !self.is_full() => match record {
                    Some(record) => {
                        self.take(record);
                        while !self.is_full() && let Ok(record) = records.records.try_recv() {
                            self.take(record);
                        }
                    }
                    None => (lane_open, self.commit_at) = (false, Some(Instant::now())),
                },
                message = inbox.recv(), if handles_open => match message {
                    Some(message) => self.answer(message, &mut records, &control),
                    None => handles_open = false,
                },
                () = shared.cursors_due.notified() => {}
                () = tokio::time::sleep_until(give_up_at.unwrap_or(wake).min(wake)) => {}
            }
            self.work(&records, &control);
            if looked_at.elapsed() >= RETRY {
                looked_at = Instant::now();
                if self.has_lost_its_place() {
                    return; // whoever watches this thread begins anew, on what lies there then
                }
            }
            // While memory is full nobody comes to the end of the lane.
            let ends = !lane_open || (self.is_full() && records.records.is_closed());
            if !ends || self.shared.state().ended {
                give_up_at = None;
                continue;
            }
            let at = *give_up_at.get_or_insert_with(|| Instant::now() + END_PATIENCE);
            if (!lane_open && self.is_empty()) || Instant::now() >= at {
                lane_open = false;
                self.end_stream(&mut records);
            }
        }
        self.close();
        drop(finished);
    }

    fn has_lost_its_place(&self) -> bool {
        let lost = self.disk.as_ref().is_some_and(|disk| !self.shared.directory.is_held_by(&disk.lock));
        if lost {
            let place = self.shared.directory.file("");
            tracing::error!(place = %place.display(), "the store's directory was taken away; nobody would find what is kept in it");
        }
        lost
    }

    /// What may take its time, before the first record is waited for.
    fn prepare(&mut self) {
        room::lay_ballast(self);
        if let Some(mut disk) = self.disk.take() {
            self.renew_tail(&mut disk);
            self.disk = Some(disk);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.values().map(Vec::len).sum::<usize>() >= PENDING_RECORDS_MAX
            || self.pending_bytes.values().sum::<usize>() >= PENDING_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.values().all(Vec::is_empty)
            && self.groups.values().all(Option::is_none)
            && self.lost.values().all(Option::is_none)
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let due = [self.commit_at, self.urgent_at, self.merge_at, Some(self.save_at(now)), Some(now + IDLE)];
        due.into_iter().flatten().min().unwrap_or(now)
    }

    /// Takes one entry of the lane.
    pub(super) fn take(&mut self, record: Durable) {
        let now = Instant::now();
        let mut urgent = false;
        match record {
            Durable::Batch(batch) => {
                for sample in batch.samples {
                    let Some(class) = self.opening.tags.get(sample.tag.0 as usize).map(|tag| tag.class) else {
                        self.shared.stats.unknown_tags.one();
                        continue;
                    };
                    urgent |= URGENT_CLASSES.contains(&class);
                    self.pending_bytes[class] += RECORD_BYTES;
                    self.pending[class].push(Pending::Sample(sample));
                }
            }
            Durable::Event(event) => urgent = self.hold(event.class, Pending::Event(event)),
            Durable::Message(record) => urgent = self.hold(record.class, Pending::Message(record)),
        }
        if self.failed {
            return; // the time of the next attempt stands
        }
        let large = |class| {
            let records = self.pending[class].len();
            records >= GROUP_RECORDS || self.pending_bytes[class] >= GROUP_BYTES + records * RECORD_BYTES
        };
        let at = if Class::ALL.into_iter().any(large) { now } else { now + self.opening.commit_interval };
        self.commit_at = Some(self.commit_at.map_or(at, |before| before.min(at)));
        if urgent && self.urgent_at.is_none() {
            self.urgent_at = Some(now + URGENT);
        }
    }

    /// Does what is due.
    fn work(&mut self, records: &DurableEnd, control: &mpsc::WeakSender<Control>) {
        let now = Instant::now();
        let waiting: usize = self.pending.values().map(Vec::len).sum();
        self.shared.stats.uncommitted.set(waiting as u64);
        if self.commit_at.is_some_and(|at| at <= now) {
            self.commit_due(&Class::ALL, records, control);
        } else if self.urgent_at.is_some_and(|at| at <= now) {
            self.urgent_at = None;
            self.commit_due(&self.urgent(), records, control);
        }
        self.merge_due(Instant::now());
        self.save_due(Instant::now());
        self.age_due();
        self.copy_meta_due(now);
        // While there is room in memory nothing need be lost: the lane is emptied within moments.
        records.full.store(self.failed && self.is_full(), Ordering::Relaxed);
    }

    pub(super) fn commit_due(&mut self, classes: &[Class], records: &DurableEnd, control: &mpsc::WeakSender<Control>) {
        if self.disk.is_none() {
            self.openings += 1;
            match boot::open(&self.opening, boot::patience(self.openings)) {
                Ok(opened) => self.take_over_late(opened, control),
                Err(fault) => return self.fail(&fault),
            }
        }
        // What is in the lane came before what found no place in it.
        if records.records.is_empty() {
            self.take_spill(records.spill.take());
        }
        let mut lost = std::mem::take(&mut self.lost);
        let outcome = self.commit(classes, &mut lost);
        self.lost = lost;
        self.awaited = PerClass::default(); // those of a class that failed come with its next attempt
        match outcome {
            Ok(()) => {
                if classes.len() == Class::ALL.len() {
                    // After a failure there is more behind the group that was written again.
                    let more = !self.pending.values().all(Vec::is_empty);
                    (self.commit_at, self.urgent_at) = (more.then(Instant::now), None);
                }
                self.recover();
                self.shared.stats.bytes.set(self.shared.directory.bytes());
                let owed: usize = self.shared.state().ledgers.iter().map(|ledger| ledger.gaps.len()).sum();
                self.shared.stats.gaps_owed.set(owed as u64);
                room::lay_ballast(self);
            }
            Err(fault) => self.fail(&fault),
        }
    }

    /// The directory can be used at last.
    fn take_over_late(&mut self, opened: boot::Opened, control: &mpsc::WeakSender<Control>) {
        let waiting = std::mem::take(&mut self.fixes_waiting);
        if waiting.is_empty() {
            // boots are numbered by the store that is told of fixes, not by those of bridges
            return self.take_over(opened, control);
        }
        // first: who is told of the records asks at once when they were taken
        self.clock.resume(opened.boot, opened.seen(), &opened.fixes);
        self.take_over(opened, control);
        let floor = self.clock.floor();
        for fix in floor.into_iter().chain(waiting.into_iter().filter(|fix| !fix.is_floor())) {
            self.clock.learn(fix);
            self.remember(fix);
        }
    }

    fn fail(&mut self, fault: &Fault) {
        (self.commit_at, self.urgent_at) = (Some(Instant::now() + RETRY), None);
        self.shared.stats.failed.set(1);
        if !self.failed {
            self.failed = true;
            tracing::error!(error = %fault, "store cannot commit; trying again every second");
            self.tell("store_failed", Phase::Active, format!("the store cannot commit: {fault}"));
        }
    }

    fn recover(&mut self) {
        if self.failed {
            self.failed = false;
            self.shared.stats.failed.set(0);
            tracing::info!("store commits again");
            self.tell("store_failed", Phase::Cleared, "the store commits again".into());
        }
    }

    pub(super) fn tell(&self, event: &'static str, phase: Phase, detail: String) {
        self.notices.tell(Notice { event, phase, subject: "store".into(), detail });
    }

    fn answer(&mut self, message: Control, records: &mut DurableEnd, control: &mpsc::WeakSender<Control>) {
        match message {
            Control::Save(done) => {
                self.save_now();
                let _ = done.send(()); // the asker may be gone
            }
            Control::Answer(done) => drop(done.send(())), // the asker may be gone
            Control::Settle(done) => drop(done.send(self.settle(records, control))), // the same
            Control::Revise(revision, done) => self.revise(*revision, done),
            Control::Fix(fix) => self.remember(fix),
            Control::Lost { class, span } => self.declare_unreadable(class, span),
            Control::Salvaged(piece) => salvage::take(self, piece),
        }
    }
}
