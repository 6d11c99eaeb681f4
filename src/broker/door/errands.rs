//! What a connection waits for while it goes on: commits of the ledger, pages of what is owed, commands being journalled.
//!
//! Commits come in the order in which they were entered, so one queue serves them all. What could not be committed is
//! asked for again after a pause where nothing else can be done; a disk that does not work makes nobody spin.
//!
//! What waits here is in memory: a client is not read further while much of its own does, nor to something long while much of
//! all clients' waits for the stores upstream. It goes on as soon as that is less.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::broker::core::Shared;
use crate::broker::durable::Tally;
use crate::broker::session::{Token, Verdict};
use crate::disk::ledger::{Committed, NotCommitted, OwedRow};
use crate::flow::forward::Unsettled;

/// Bytes of owed messages read at a time.
const PAGE_BYTES: usize = 256 * 1024;

/// Bytes of a client's publishes that may wait for a store or a journal; one message alone may be longer. A window full of
/// messages of 16 KiB, and two orders of magnitude above what a plant's clients have on the way.
const UNSETTLED_BYTES_MAX: usize = 1024 * 1024;

/// A client of whose publishes no more than this would wait is not stopped by what waits of others.
const LITTLE_BYTES: usize = 16 * 1024;

/// Pause before a disk that did not work is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A client that answers all deliveries but one may leave that one unanswered for so long when its packet identifier is
/// needed again.
const IDENTIFIER_WAIT_MAX: Duration = Duration::from_secs(15);

/// What has been waited for, and is done.
#[derive(Debug)]
pub(super) enum Done {
    /// A publish of the client has found its end.
    Settled(Token, Verdict),
    /// A delivery has arrived at QoS 2, durably.
    Released(u16),
    /// A publish of the client is over, durably.
    Finished(u16),
    /// This may be written to the client; also when the disk fails.
    Say(Bytes),
    /// This much of what is owed.
    Page(Vec<OwedRow>),
    /// All that was at hand is committed.
    Committed,
    /// The disk, or the stores, have caught up, or a wait has been too long: it is looked at anew.
    Paused,
    /// Something that must be on disk is not: the connection ends.
    Failed,
}

type Reading = Pin<Box<dyn Future<Output = Vec<OwedRow>> + Send>>;

/// That the next delivery needs.
#[derive(Default)]
enum Identifier {
    #[default]
    Free,
    /// Until then.
    InUse(Pin<Box<Sleep>>),
    /// And for too long.
    Stuck,
}

/// What is waited for.
#[derive(Default)]
pub(super) struct Waits {
    commits: VecDeque<(Done, Committed)>,
    gate: Option<Committed>,
    pause: Option<Committed>,
    reading: Option<Reading>,
    /// With how many bytes each holds.
    tasks: JoinSet<(Done, usize)>,
    /// Of these together.
    bytes: usize,
    /// What is tried until the disk works.
    insisted: JoinSet<(Done, usize)>,
    /// In line, since so much of all clients' waits.
    in_line: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    identifier: Identifier,
    done: Vec<Done>,
}

impl Waits {
    /// How many things that the client waits for, too? Without what waits for a disk that fails: that may be for days, and
    /// whoever is not read meanwhile is not known to have gone. Its window and the bound of what is unreleased are enough.
    pub(super) fn len(&self) -> usize {
        self.commits.len() + self.tasks.len()
    }

    /// Is there room for the next packet, of this length? Where there is not, it is told when to look again.
    pub(super) fn has_room(&mut self, next: usize, all: &Arc<Unsettled>) -> bool {
        let bytes = self.bytes + next;
        if self.bytes > 0 && bytes > UNSETTLED_BYTES_MAX {
            return false;
        }
        if bytes <= LITTLE_BYTES || !all.is_crowded() {
            return true;
        }
        self.in_line.get_or_insert_with(|| Box::pin(Arc::clone(all).room()));
        false
    }

    /// When this is committed, that is done.
    pub(super) fn commit(&mut self, committed: Committed, done: Done) {
        self.commits.push_back((done, committed));
    }

    /// [`Done::Committed`] when this is; whoever waited for an earlier one waits for this one.
    pub(super) fn gate(&mut self, committed: Committed) {
        self.gate = Some(committed);
    }

    /// The client is not heard until the disk has caught up so far.
    pub(super) fn pause(&mut self, committed: Committed) {
        self.pause = Some(committed);
    }

    /// Must it wait for the disk before it may say more?
    pub(super) fn is_pausing(&self) -> bool {
        self.pause.is_some()
    }

    /// The next delivery cannot have its packet identifier. Is that so for too long?
    pub(super) fn has_waited_for_identifier(&mut self) -> bool {
        if matches!(self.identifier, Identifier::Free) {
            self.identifier = Identifier::InUse(Box::pin(tokio::time::sleep(IDENTIFIER_WAIT_MAX)));
        }
        matches!(self.identifier, Identifier::Stuck)
    }

    /// It has it.
    pub(super) fn has_identifier(&mut self) {
        self.identifier = Identifier::Free;
    }

    /// Done when its future is, which holds so many bytes.
    pub(super) fn task(&mut self, bytes: usize, work: impl Future<Output = Done> + Send + 'static) {
        self.bytes += bytes;
        self.tasks.spawn(async move { (work.await, bytes) });
    }

    /// Reads a page of what is owed from this ordinal on.
    pub(super) fn read(&mut self, shared: &Arc<Shared>, tally: &Arc<Tally>, from: u64) {
        let (shared, id) = (Arc::clone(shared), tally.id);
        self.reading = Some(Box::pin(async move {
            loop {
                match shared.disk.page(id, from, PAGE_BYTES).await {
                    Ok(Ok(rows)) => return rows,
                    Ok(Err(error)) => tracing::debug!(%error, "what a session is owed cannot be read, trying on"),
                    Err(_closed) => {}
                }
                tokio::time::sleep(AGAIN).await;
            }
        }));
    }

    /// It was not committed, but will be: done then.
    pub(super) fn insist(&mut self, shared: &Arc<Shared>, done: Done) {
        let shared = Arc::clone(shared);
        self.insisted.spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                if matches!(shared.disk.committed().await, Ok(Ok(()))) {
                    return (done, 0);
                }
            }
        });
    }

    /// What is done, once each.
    pub(super) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// Notes what is done by now. A client that sends without a pause gets nowhere else round to hearing of it.
    pub(super) fn look(&mut self, shared: &Arc<Shared>) {
        let _pending = self.poll(shared, &mut Context::from_waker(Waker::noop()));
    }

    /// Waits until something is done; for ever when nothing is waited for. Cancel-safe.
    pub(super) async fn any(&mut self, shared: &Arc<Shared>) {
        std::future::poll_fn(|context| self.poll(shared, context)).await;
    }

    fn poll(&mut self, shared: &Arc<Shared>, context: &mut Context<'_>) -> Poll<()> {
        while let Some((_, committed)) = self.commits.front_mut()
            && let Poll::Ready(told) = Pin::new(committed).poll(context)
            && let Some((done, _)) = self.commits.pop_front()
        {
            match (told, done) {
                (Ok(Ok(())), done) => self.done.push(done),
                (_, Done::Settled(token, verdict)) => self.done.push(Done::Settled(token, verdict.not_kept())),
                (_, done @ (Done::Released(_) | Done::Finished(_))) => self.insist(shared, done),
                // In force, and entered: the ledger tries on. Whoever was cut off for it would be without values for as
                // long as the disk fails.
                (Ok(Err(NotCommitted)), done @ Done::Say(_)) => self.done.push(done),
                _ => self.done.push(Done::Failed),
            }
        }
        if let Some(gate) = &mut self.gate
            && let Poll::Ready(told) = Pin::new(gate).poll(context)
        {
            self.gate = None;
            self.done.push(if matches!(told, Ok(Ok(()))) { Done::Committed } else { Done::Failed });
        }
        // Whatever came of it, it is looked again whether there is more to wait for.
        if let Some(pause) = &mut self.pause
            && Pin::new(pause).poll(context).is_ready()
        {
            self.pause = None;
            self.done.push(Done::Paused);
        }
        if let Some(line) = &mut self.in_line
            && line.as_mut().poll(context).is_ready()
        {
            self.in_line = None;
            self.done.push(Done::Paused);
        }
        if let Identifier::InUse(wait) = &mut self.identifier
            && wait.as_mut().poll(context).is_ready()
        {
            self.identifier = Identifier::Stuck;
            self.done.push(Done::Paused);
        }
        if let Some(reading) = &mut self.reading
            && let Poll::Ready(rows) = reading.as_mut().poll(context)
        {
            self.reading = None;
            self.done.push(Done::Page(rows));
        }
        for tasks in [&mut self.tasks, &mut self.insisted] {
            while let Poll::Ready(Some(finished)) = tasks.poll_join_next(context) {
                match finished {
                    Ok((done, bytes)) => {
                        self.bytes -= bytes;
                        self.done.push(done);
                    }
                    // These tasks do not panic and are not cancelled; a publish lost that way would just not be acknowledged.
                    Err(error) => tracing::error!(%error, "a publish could not be settled"),
                }
            }
        }
        if self.done.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// The verdict when it is known whether it was committed.
pub(super) async fn kept(committed: Option<Committed>, verdict: Verdict) -> Verdict {
    let Some(committed) = committed else { return verdict };
    if matches!(committed.await, Ok(Ok(()))) { verdict } else { verdict.not_kept() }
}
