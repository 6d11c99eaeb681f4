//! The store: every sample and event that must reach the cloud, numbered, committed, owed until acknowledged.
//!
//! Fed by the durable lane of `flow::hub`, emptied by uplinks through [`Reader`]s. It promises: what was committed is
//! handed to every uplink that has its class until that uplink acknowledges it, or a gap record says otherwise; numbers
//! have no gaps and are never used twice; neither a full disk nor a damaged file keeps polling from starting. It knows nothing of MQTT.
//!
//! The way in: `writer` (the thread) takes batches, `commit` numbers and packs them (`segment`, `column`; `letter`: of
//! clients' messages) into the `tail`, from which `merge` makes few large segments in chunk files (`open`). `upkeep`
//! keeps `meta.db` and the marks (`acked`), `room` keeps the directory below its cap, `age` evicts what is too old,
//! `evict` remembers what went. `end` leaves the numbers of what could not be committed.
//!
//! The way out: `reader` hands out in order what is `owed`, `fetch` (a thread per reader) unpacks. What is known in
//! memory: `state` of `stream`s and `cursor`s, one lock; `join` keeps gap records few.
//!
//! At start: `boot` looks at what lies there (`look`: at a chunk), `epochs`, `routes` and `dictionary` fit it to the plan, `salvage` reads
//! what was damaged, `times` says when lost records were taken, `patience` how long a medium that refuses is waited
//! for. While it runs: `revise` what changes; `settle` commits before its time; `meters` what uplinks have counted,
//! `births` how often one was an edge node; `wear` what was written; `survey` what a plant did; `stats` what is counted.
//!
//! From outside, also while it is used: `inspect`, `verify`, `detail`; `pages` reads records, for `export` and
//! `preview`; `purge` removes them.

mod acked;
mod age;
mod births;
mod boot;
mod column;
mod commit;
mod cursor;
pub mod detail;
mod dictionary;
mod end;
mod epochs;
mod evict;
pub mod export;
mod fetch;
pub mod inspect;
mod join;
mod letter;
mod look;
mod merge;
mod meters;
mod open;
mod owed;
mod pages;
mod patience;
pub mod preview;
pub mod purge;
mod reader;
mod revise;
mod room;
mod routes;
mod salvage;
mod segment;
mod settle;
mod state;
mod stats;
mod stream;
mod survey;
mod tail;
mod times;
mod upkeep;
mod verify;
mod wear;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config::plan::UplinkStart;
use crate::disk::directory::Directory;
use crate::disk::fault::{Fault, Unreadable};
use crate::flow::clock::{Clock, Fix, Seen};
use crate::flow::hub::DurableEnd;
use crate::flow::notice::Notices;
use crate::model::lock::Hold as _;
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::tag::DataType;
use crate::model::time::Boot;

pub use cursor::Ends;
pub use meters::MeterRow;
pub use owed::{DictionaryTag, Item, Owed, OwedBody, OwedGap};
pub use reader::{Lane, Pull, Reader, Wants};
pub use revise::Revision;
pub use stats::StoreStats;
pub use survey::{Absent, Survey, Surveyed, survey};

use cursor::Span;
use state::State;

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Its directory; made if need be. Everything in it belongs to the store.
    pub dir: PathBuf,
    /// Hard cap on the bytes in the directory.
    pub max_size: u64,
    /// Records older than this go, acknowledged or not. `None`: only `max_size` counts.
    pub max_age: Option<Duration>,
    /// What a power cut may cost at most. Classes alarm and event are committed at once.
    pub commit_interval: Duration,
    /// The tags of the plan, in `TagIx` order.
    pub tags: Vec<TagMeta>,
    /// The uplinks of the plan.
    pub uplinks: Vec<Route>,
    /// The same for every start within one boot of the machine.
    pub boot_token: String,
}

/// What the store must know of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagMeta {
    /// Device name.
    pub device: String,
    /// Tag name.
    pub name: String,
    /// Local topic.
    pub topic: Arc<str>,
    /// Type on the wire.
    pub data_type: DataType,
    /// Its stream.
    pub class: Class,
}

/// What the store must know of an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Names its cursors.
    pub name: String,
    /// What it is owed.
    pub classes: Vec<Class>,
    /// Where it begins when it is new.
    pub start: UplinkStart,
}

/// What an uplink's broker has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Records of one stream, both ends included.
    Records {
        /// Whose.
        stream: Class,
        /// In which epoch.
        epoch: Epoch,
        /// First number.
        first: Seq,
        /// Last number.
        last: Seq,
    },
    /// A gap record, by [`OwedGap::id`].
    Gap(i64),
}

impl Ack {
    /// A single record.
    pub const fn of(number: Number) -> Self {
        Self::Records { stream: number.stream, epoch: number.epoch, first: number.seq, last: number.seq }
    }

    /// How many records or gap records that is.
    pub const fn count(self) -> u64 {
        match self {
            Self::Records { first, last, .. } => (last.0 + 1).saturating_sub(first.0),
            Self::Gap(_) => 1,
        }
    }
}

/// A store that is open, but does not take records yet.
pub struct Store {
    opening: Opening,
    opened: Result<Box<boot::Opened>, Fault>,
}

/// Opens the store of a directory, whatever lies there: what is damaged is set aside and declared. Where the directory
/// cannot be used at all, or a file cannot be read though it may be whole, the store starts in the failed state and tries
/// again every second; after some attempts it goes on without what cannot be read. Blocks while the ends of chunks are read.
pub fn open(opening: Opening) -> Store {
    let opened = boot::open(&opening, Unreadable::TryAgain).map(Box::new);
    if let Err(fault) = &opened {
        tracing::error!(error = %fault, dir = %opening.dir.display(), "store cannot be opened; trying again");
    }
    Store { opening, opened }
}

/// Does another process have the store of this directory?
pub fn is_in_use(dir: &Path) -> bool {
    matches!(Directory::at(dir).lock(), Err(Fault::InUse(_)))
}

impl Store {
    /// The number of this boot of the machine; 0 when the directory cannot be used.
    pub fn boot(&self) -> Boot {
        self.opened.as_ref().map_or(Boot(0), |opened| opened.boot)
    }

    /// The clock fixes of this and earlier boots.
    pub fn fixes(&self) -> Vec<Fix> {
        self.opened.as_ref().map_or_else(|_| Vec::new(), |opened| opened.fixes.clone())
    }

    /// The wall time the store has seen last, ms since 1970: it is at least this late.
    pub fn latest_wall_ms(&self) -> Option<i64> {
        self.opened.as_ref().ok().and_then(|opened| opened.latest_wall_ms)
    }

    /// The same, and by the last clock that somebody vouched for.
    pub fn seen(&self) -> Seen {
        self.opened.as_ref().map_or_else(|_| Seen::default(), |opened| opened.seen())
    }

    /// Starts the writer thread on the store's end of the durable lane.
    pub fn start(self, end: DurableEnd, clock: Clock, notices: Notices) -> StoreHandle {
        let stats = Arc::<StoreStats>::default();
        stats.max_bytes.set(self.opening.max_size);
        let routes = self.opening.uplinks.iter().map(|route| route.name.clone()).collect();
        let shared = Arc::new(Shared { stats, routes: Mutex::new(routes), ..Shared::at(&self.opening.dir) });
        let (control, inbox) = mpsc::channel(CONTROL_WAITING_MAX);
        let (finished, done) = watch::channel(());
        let writer = writer::Writer::new(self.opening, Arc::clone(&shared), clock, notices);
        writer.start(self.opened, writer::Ends { records: end, inbox, control: control.downgrade(), finished });
        StoreHandle { shared, control, done }
    }
}

/// Requests that may wait for the writer.
const CONTROL_WAITING_MAX: usize = 64;

/// What the writer is asked besides storing records.
enum Control {
    /// Save the cursors now.
    Save(oneshot::Sender<()>),
    /// Give a sign of life.
    Answer(oneshot::Sender<()>),
    /// Commit now what was handed in; is all of it?
    Settle(oneshot::Sender<bool>),
    /// Other tags, uplinks or bounds.
    Revise(Box<Revision>, oneshot::Sender<()>),
    /// Remember a clock fix.
    Fix(Fix),
    /// These numbers cannot be read: declare them lost.
    Lost { class: Class, span: Span },
    /// Something out of a damaged chunk.
    Salvaged(salvage::Piece),
}

/// What writer, readers and handles share.
struct Shared {
    directory: Directory,
    state: Mutex<State>,
    /// Goes on whenever there may be something new for readers.
    progress: watch::Sender<u64>,
    /// Many acknowledgements are not saved yet.
    cursors_due: Notify,
    stats: Arc<StoreStats>,
    routes: Mutex<Vec<String>>, // the uplinks' names, each at its place for good; empty where one was removed
    late_fix: Mutex<Option<Fix>>, // found the writer's inbox full
}

impl Shared {
    fn at(dir: &Path) -> Self {
        Self {
            directory: Directory::at(dir),
            state: Mutex::new(State::empty()),
            progress: watch::Sender::new(0),
            cursors_due: Notify::new(),
            stats: Arc::default(),
            routes: Mutex::default(),
            late_fix: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.hold()
    }

    fn late_fix(&self) -> MutexGuard<'_, Option<Fix>> {
        self.late_fix.hold()
    }

    fn wake_readers(&self) {
        self.progress.send_modify(|count| *count += 1);
    }
}

/// The running store; cheap to clone. The writer saves, checkpoints and ends when the durable lane is closed and the
/// last handle and [`Reader`] are gone.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
    control: mpsc::Sender<Control>,
    done: watch::Receiver<()>,
}

impl StoreHandle {
    /// Where the store lies.
    pub fn directory(&self) -> &Path {
        self.shared.directory.path()
    }

    /// The reader of an uplink of the plan; one at a time for each.
    pub fn reader(&self, uplink: &str) -> Option<Reader> {
        let place = self.shared.place_of(uplink)?;
        Some(Reader::new(Arc::clone(&self.shared), self.control.clone(), place))
    }

    /// Epoch and last committed number of each stream (number 0: none yet).
    pub fn newest(&self) -> Vec<(Class, Epoch, Seq)> {
        let state = self.shared.state();
        let streams = state.streams.values();
        streams.filter_map(|stream| stream.newest().map(|l| (stream.class, Epoch(l.epoch), Seq(l.last)))).collect()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Resolves when the writer has come to it: it is not stuck. Never, if it is gone. Cancel-safe.
    pub async fn answers(&self) {
        let (done, answered) = oneshot::channel();
        if self.control.send(Control::Answer(done)).await.is_err() || answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the durable lane is closed and everything that was in it is committed (or declared), or when the
    /// writer is gone, and with it everything it had. Cancel-safe.
    pub async fn ended(&self) {
        let (mut progress, mut done) = (self.shared.progress.subscribe(), self.done.clone());
        tokio::select! {
            _ = progress.wait_for(|_| self.shared.state().ended) => {}
            () = async { while done.changed().await.is_ok() {} } => {}
        }
    }

    /// Gives this handle back and resolves when the writer has saved everything and ended. Other handles and readers
    /// keep it alive.
    pub async fn finish(self) {
        let Self { shared, control, mut done, .. } = self;
        drop((control, shared));
        while done.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_panicked_has_ended_and_gives_no_sign_of_life() {
        let home = tempfile::tempdir().expect("a directory");
        let ((control, inbox), (finished, done)) = (mpsc::channel::<Control>(1), watch::channel(()));
        let handle = StoreHandle { shared: Arc::new(Shared::at(home.path())), control, done };
        let writer = std::thread::spawn(move || {
            let _its = (inbox, finished);
            panic!("as a bug would");
        });
        assert!(writer.join().is_err());
        let long = Duration::from_secs(3600);
        assert_eq!(tokio::time::timeout(long, handle.ended()).await, Ok(()));
        assert!(tokio::time::timeout(long, handle.answers()).await.is_err());
    }
}
