//! A reader: hands an uplink what it is owed, in strict order, and takes its acknowledgements.
//!
//! Records are unpacked a page at a time by the reader's own thread ([`super::fetch`]); here is only the order: the most
//! urgent class first, within a class by number, a gap record where the missing numbers would have been.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::model::number::Class;

use super::cursor::{Position, Span};
use super::fetch::{self, Page, Request};
use super::state::Next;
use super::stream::Found;
use super::writer::CURSORS_RECORDS;
use super::{Ack, Control, Item, Shared};

/// Which of two queues something upstream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Committed after the session began.
    Live = 0,
    /// Owed from before.
    Backlog = 1,
}

/// How many items of each lane are useful now; 0: none of that lane. In strict order there is one queue, and the larger
/// number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Of [`Lane::Live`].
    pub live: usize,
    /// Of [`Lane::Backlog`].
    pub backlog: usize,
}

/// Items of one class and one lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Pull {
    /// Whose.
    pub lane: Lane,
    /// At least one.
    pub items: Vec<Item>,
}

/// Hands out what one uplink is owed. Dropping it ends its thread; nothing is lost by that.
pub struct Reader {
    shared: Arc<Shared>,
    control: mpsc::Sender<Control>,
    uplink: usize,
    requests: mpsc::Sender<Request>,
    progress: watch::Receiver<u64>,
    lanes: [Queue; 4],
    /// A page that was asked for; kept here so that `next` may be cancelled. `None`: no longer wanted.
    asked: Option<(Option<Class>, oneshot::Receiver<Page>)>,
}

#[derive(Default)]
struct Queue {
    /// Where to go on reading; `None`: at the cursor.
    at: Option<Position>,
    ready: VecDeque<Item>,
}

/// What a look at a class shows.
enum Look {
    /// Its items are ready.
    Ready,
    /// A page was asked for.
    Asked,
    /// These numbers are missing and nobody has said so.
    Lost(Span),
    /// Nothing now.
    Nothing,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, control: mpsc::Sender<Control>, uplink: usize) -> Self {
        let requests = fetch::start(Arc::clone(&shared), uplink);
        let progress = shared.progress.subscribe();
        Self { shared, control, uplink, requests, progress, lanes: Default::default(), asked: None }
    }

    /// Waits for at least one item and returns at most `at_most` (at least 1) of one class. `None` when the store has
    /// ended and everything was handed out. Cancel-safe: what was not returned comes with the next call.
    pub async fn next(&mut self, at_most: usize) -> Option<Vec<Item>> {
        'again: loop {
            self.progress.borrow_and_update();
            if let Some((class, page)) = &mut self.asked {
                let (class, page) = (*class, page.await);
                self.asked = None;
                match (page, class) {
                    (Ok(page), Some(class)) => self.take(class, page).await,
                    (Ok(_), None) => {}
                    (Err(_), _) => return None, // the thread is gone
                }
            }
            let mut waiting = !self.shared.state().ended;
            for class in Class::ALL {
                match self.look(class) {
                    Look::Ready => {
                        let ready = &mut self.lanes[class as usize].ready;
                        let count = ready.len().min(at_most.max(1));
                        return Some(ready.drain(..count).collect());
                    }
                    Look::Asked => continue 'again,
                    Look::Lost(span) => {
                        self.report(class, span).await;
                        waiting = true;
                    }
                    Look::Nothing => {}
                }
            }
            if !waiting && !self.has_changed() {
                return None;
            }
            if self.progress.changed().await.is_err() {
                return None;
            }
        }
    }

    fn has_changed(&self) -> bool {
        let salvaging = self.shared.state().streams.iter().any(|stream| stream.salvaging);
        salvaging || self.progress.has_changed().unwrap_or(false)
    }

    async fn report(&self, class: Class, span: Span) {
        // An error means that the writer is gone; then nothing more will come anyway.
        let _ = self.control.send(Control::Lost { class, span }).await;
    }

    async fn take(&mut self, class: Class, page: Page) {
        match page {
            Page::Items(items, at) => {
                let lane = &mut self.lanes[class as usize];
                lane.ready.extend(items);
                lane.at = Some(at);
            }
            Page::Lost(span) => self.report(class, span).await,
            Page::Changed => {}
        }
    }

    fn look(&mut self, class: Class) -> Look {
        let lane = &mut self.lanes[class as usize];
        if !lane.ready.is_empty() {
            return Look::Ready;
        }
        let state = self.shared.state();
        let Some(ledger) = state.ledgers.get(self.uplink) else { return Look::Nothing };
        let Some(cursor) = &ledger.cursors[class as usize] else { return Look::Nothing };
        let at = lane.at.unwrap_or(Position { seq: cursor.acked.seq + 1, ..cursor.acked });
        let found = match state.next(self.uplink, class, at) {
            Next::Gap(gap, then) => {
                lane.at = Some(then);
                lane.ready.push_back(Item::Gap(gap));
                return Look::Ready;
            }
            Next::Found(found) => found,
        };
        match found {
            Found::In { name, at, upto } => {
                let Some(life) = state.stream(class).life(at.ordinal) else { return Look::Nothing };
                let (answer, page) = oneshot::channel();
                let request = Request { name, at, upto, epoch: life.epoch, previous: life.previous(), answer };
                drop(state);
                if self.requests.try_send(request).is_err() {
                    return Look::Nothing;
                }
                self.asked = Some((Some(class), page));
                Look::Asked
            }
            Found::Hole(span) => Look::Lost(span),
            Found::NotYet(at) => {
                lane.at = Some(at);
                Look::Nothing
            }
        }
    }

    /// Goes back to what is not acknowledged, for a new session.
    pub fn rewind(&mut self) {
        self.lanes = Default::default();
        if let Some((class, _)) = &mut self.asked {
            *class = None;
        }
    }

    /// The uplink's broker has taken something; may come out of order. Never waits.
    pub fn acknowledge(&self, ack: Ack) {
        let mut state = self.shared.state();
        state.acknowledge(self.uplink, ack);
        if state.ledgers.get(self.uplink).is_some_and(|ledger| ledger.unsaved % CURSORS_RECORDS == CURSORS_RECORDS - 1)
        {
            self.shared.cursors_due.notify_one();
        }
    }

    /// Saves the cursors; resolves when they are on disk. Cancel-safe.
    pub async fn save(&self) {
        let (done, saved) = oneshot::channel();
        if self.control.send(Control::Save(done)).await.is_ok() {
            let _ = saved.await; // the writer is gone: it saves when it goes
        }
    }

    /// Numbers still owed; a gap record counts as one.
    pub fn backlog(&self) -> u64 {
        self.shared.state().backlog(self.uplink)
    }
}
