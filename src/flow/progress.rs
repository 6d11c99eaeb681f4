//! Who still makes progress: a board of workers, each with a beat, for whoever feeds the watchdog.
//!
//! A worker is a task under [`Progress::watch`]. It is late in one of two ways:
//!
//! * it has not been *served*: its task was given no turn for [`SERVED_WITHIN`], because it, or another one before it on its
//!   thread, computes or blocks without end. Every worker is watched for this; a timer of its own asks for the turns;
//! * it has not *kept its word*: a [`step`] it announced takes longer than it said, because something it awaits never
//!   comes. Only who announces steps is watched for this. [`rest`] takes the word back: waiting for work is no step.
//!
//! A bus that waits for an answer says how long that may take, so a dead device is no reason to be late. A worker leaves
//! the board when its task ends; that it ended is the supervisor's business. The beat in force is found by the thread, as
//! a span of tracing is, so that a loop deep inside a room can announce its steps without being handed anything.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::model::lock::Hold as _;

/// A task that was given no turn for so long is stuck. Generous: a flash card that stalls stalls the page cache too.
pub const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// How often a task that waits is given a turn for the sake of its beat.
const TURN_EVERY: Duration = Duration::from_secs(10);

/// No step is under way.
const RESTING: u64 = u64::MAX;

thread_local! {
    /// The worker whose task has its turn on this thread.
    static CURRENT: RefCell<Option<Arc<Beat>>> = const { RefCell::new(None) };
}

/// The board; cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    began: Instant,
    beats: Arc<Mutex<Vec<Arc<Beat>>>>,
}

/// One worker.
#[derive(Debug)]
struct Beat {
    kind: &'static str,
    name: String,
    began: Instant,
    board: Weak<Mutex<Vec<Arc<Beat>>>>,
    /// When its task last had a turn; ms since `began`.
    served_ms: AtomicU64,
    /// When its step must be over; ms since `began`, or [`RESTING`].
    due_ms: AtomicU64,
}

/// Which word was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Its task has had no turn for [`SERVED_WITHIN`].
    Unserved,
    /// Its step takes longer than it said.
    Overdue,
}

/// A worker that is late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// What it is: `bus`, `uplink`, `store` …
    pub kind: &'static str,
    /// Which of them; empty where there is one.
    pub name: String,
    /// How.
    pub stuck: Stuck,
    /// How long ago it should have been heard of.
    pub by: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self { began: Instant::now(), beats: Arc::default() }
    }
}

impl Progress {
    /// Puts a worker on the board for as long as the task lives.
    pub fn watch<F: Future>(&self, kind: &'static str, name: &str, task: F) -> Watched<F> {
        let (began, name, board) = (self.began, name.to_owned(), Arc::downgrade(&self.beats));
        let beat = Beat { kind, name, began, board, served_ms: AtomicU64::new(0), due_ms: AtomicU64::new(RESTING) };
        let beat = Arc::new(beat);
        beat.served();
        self.beats.hold().push(Arc::clone(&beat));
        Watched { seat: Some(Seat { beat, board: self.clone() }), turn: None, task: Box::pin(task) }
    }

    /// Everybody who is late at this moment, in the order in which they came.
    pub fn late(&self, now: Instant) -> Vec<Late> {
        let now_ms = millis(now.saturating_duration_since(self.began));
        let beats = self.beats.hold();
        beats.iter().filter_map(|beat| beat.late(now_ms)).collect()
    }

    /// How many are on the board.
    pub fn workers(&self) -> usize {
        self.beats.hold().len()
    }

    /// Of each worker of a kind, how long the step it has announced may still take.
    #[cfg(test)]
    pub(crate) fn steps(&self, kind: &str) -> Vec<Option<Duration>> {
        let left = |beat: &Arc<Beat>| {
            let due = beat.due_ms.load(Ordering::Relaxed);
            (due != RESTING).then(|| Duration::from_millis(due.saturating_sub(beat.now_ms())))
        };
        self.beats.hold().iter().filter(|beat| beat.kind == kind).map(left).collect()
    }
}

/// Announces what the worker does next, and how long that may take at most; it replaces what was announced before.
/// Does nothing where nobody watches.
pub fn step(at_most: Duration) {
    with_current(|beat| beat.due_ms.store(beat.now_ms().saturating_add(millis(at_most)), Ordering::Relaxed));
}

/// The worker waits for work, for as long as there is none.
pub fn rest() {
    with_current(|beat| beat.due_ms.store(RESTING, Ordering::Relaxed));
}

/// A part of the worker that has its turn on this thread, as a worker of its own on the same board; nothing but the task
/// where nobody watches.
pub fn part<F: Future>(kind: &'static str, name: &str, task: F) -> Watched<F> {
    let board = CURRENT.with_borrow(|current| {
        let beat = current.as_deref()?;
        Some(Progress { began: beat.began, beats: beat.board.upgrade()? })
    });
    match board {
        Some(board) => board.watch(kind, name, task),
        None => Watched { seat: None, turn: None, task: Box::pin(task) },
    }
}

fn with_current(f: impl FnOnce(&Beat)) {
    CURRENT.with_borrow(|current| current.as_deref().map(f));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(RESTING - 1)
}

impl Beat {
    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn served(&self) {
        self.served_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn late(&self, now_ms: u64) -> Option<Late> {
        let unserved = self.served_ms.load(Ordering::Relaxed).saturating_add(millis(SERVED_WITHIN));
        let due = self.due_ms.load(Ordering::Relaxed);
        let (stuck, at) = if unserved < due { (Stuck::Unserved, unserved) } else { (Stuck::Overdue, due) };
        let by = Duration::from_millis(now_ms.checked_sub(at).filter(|by| *by > 0)?);
        Some(Late { kind: self.kind, name: self.name.clone(), stuck, by })
    }
}

/// A task on the board.
pub struct Watched<F> {
    seat: Option<Seat>,
    turn: Option<Pin<Box<Sleep>>>,
    task: Pin<Box<F>>,
}

/// Its place there.
struct Seat {
    beat: Arc<Beat>,
    board: Progress,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let Some(Seat { beat, .. }) = &this.seat else { return this.task.as_mut().poll(context) };
        beat.served();
        let turn = this.turn.get_or_insert_with(|| Box::pin(tokio::time::sleep(TURN_EVERY)));
        while turn.as_mut().poll(context).is_ready() {
            turn.set(tokio::time::sleep(TURN_EVERY));
        }
        let entered = Entered(CURRENT.replace(Some(Arc::clone(beat))));
        let polled = this.task.as_mut().poll(context);
        drop(entered);
        beat.served();
        polled
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut beats = self.board.beats.hold();
        beats.retain(|beat| !Arc::ptr_eq(beat, &self.beat));
    }
}

/// Whoever had the thread before has it again afterwards, also after a panic.
struct Entered(Option<Arc<Beat>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;

    fn who(late: &[Late]) -> Vec<(&str, Stuck)> {
        late.iter().map(|late| (late.name.as_str(), late.stuck)).collect()
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Gives the tasks that were spawned their first turn.
    async fn first_turns() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_step_that_never_ends_is_named_and_a_worker_that_waits_for_work_is_not() {
        let progress = Progress::default();
        let hung = async {
            step(Duration::from_secs(5));
            pending::<()>().await;
        };
        let (hung, idle) = (
            tokio::spawn(progress.watch("bus", "hung", hung)),
            tokio::spawn(progress.watch("bus", "idle", pending::<()>())),
        );
        first_turns().await;
        assert_eq!(progress.late(after(4)), []);
        let late = progress.late(after(30));
        assert_eq!(who(&late), [("hung", Stuck::Overdue)]);
        assert!((20..=25).contains(&late[0].by.as_secs()), "{late:?}");
        hung.abort();
        drop(hung.await);
        assert_eq!((progress.late(after(30)), progress.workers()), (vec![], 1), "what has ended is not stuck");
        drop(idle);
    }

    #[tokio::test]
    async fn a_step_is_over_when_the_next_begins_or_the_worker_rests() {
        let progress = Progress::default();
        let (go_on, wait) = oneshot::channel::<()>();
        let working = async {
            step(Duration::from_secs(1));
            step(Duration::from_secs(40));
            drop(wait.await);
            rest();
            pending::<()>().await;
        };
        let working = tokio::spawn(progress.watch("router", "", working));
        first_turns().await;
        assert_eq!(progress.late(after(30)), [], "the second word counts");
        assert_eq!(who(&progress.late(after(50))), [("", Stuck::Overdue)]);
        drop(go_on);
        first_turns().await;
        assert_eq!(progress.late(after(50)), []);
        working.abort();
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_seen_from_outside() {
        let progress = Progress::default();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (began, begin) = std::sync::mpsc::channel::<()>();
        let blocking = progress.watch("broker", "", async move {
            let _ = began.send(());
            let _ = blocked.recv_timeout(Duration::from_secs(60));
        });
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(blocking);
        });
        begin.recv().expect("it runs");
        assert_eq!(progress.late(after(59)), []);
        assert_eq!(who(&progress.late(after(62))), [("", Stuck::Unserved)]);
        drop(release);
        thread.join().expect("ended");
        assert_eq!(progress.workers(), 0);
    }

    #[tokio::test]
    async fn a_part_that_hangs_is_not_covered_by_one_that_runs() {
        let progress = Progress::default();
        let bus = progress.watch("bus", "line", async {
            let hung = part("bus", "line/2", async {
                step(Duration::from_secs(5));
                pending::<()>().await;
            });
            let running = part("bus", "line", async {
                step(Duration::from_secs(50));
                pending::<()>().await;
            });
            tokio::join!(hung, running);
        });
        let bus = tokio::spawn(bus);
        first_turns().await;
        assert_eq!(who(&progress.late(after(20))), [("line/2", Stuck::Overdue)]);
        bus.abort();
        drop(part("bus", "nobody's", pending::<()>()));
    }

    #[tokio::test]
    async fn workers_do_not_announce_each_others_steps() {
        let progress = Progress::default();
        let inner = progress.watch("inner", "inner", async { step(Duration::from_secs(9)) });
        let outer = progress.watch("outer", "outer", async {
            inner.await;
            step(Duration::from_secs(3));
            pending::<()>().await;
        });
        let outer = tokio::spawn(outer);
        first_turns().await;
        assert_eq!(who(&progress.late(after(5))), [("outer", Stuck::Overdue)]);
        outer.abort();
        step(Duration::ZERO); // nobody's
    }
}
