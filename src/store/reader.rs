//! A reader: hands an uplink what it is owed, in the order of its delivery, and takes its acknowledgements.
//!
//! Records are unpacked a page at a time by the reader's own thread ([`super::fetch`]); here is only the order: the most
//! urgent class first, within a class by number, a gap record where the missing numbers would have been.
//!
//! Live-first: what was committed up to the beginning of the session is the backlog, what came later is live, and the
//! two are read side by side, each in that order. So every session adds at most one acknowledged range to a cursor. A
//! class whose cursor has [`RANGES_SAVED_MAX`] of them is read as one queue, in strict order, until half of them have
//! merged.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::plan::Delivery;
use crate::model::number::{Class, PerClass};
use crate::model::time::Stamp;

use super::cursor::{Ends, Position, RANGES_SAVED_MAX, Span};
use super::fetch::{self, Page, Request};
use super::state::{Next, State};
use super::stream::Found;
use super::writer::CURSORS_RECORDS;
use super::{Ack, Control, Item, Shared};

/// Which of two queues something upstream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Committed after the session ([`Reader::begin`]) began.
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
    /// By lane: only of classes more urgent than this one.
    pub above: [Option<Class>; 2],
}

impl Wants {
    /// So many of each lane, of all classes.
    pub const fn of_each(items: usize) -> Self {
        Self { live: items, backlog: items, above: [None; 2] }
    }
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
    delivery: Delivery,
    /// By class: the end of the stream when the session began.
    marks: PerClass<Position>,
    /// By class: live records are read beside the backlog. Never in strict order.
    beside: PerClass<bool>,
    /// By lane and class. What is not read beside the backlog has its place there.
    queues: [PerClass<Queue>; 2],
    /// By class: may be handed out now.
    wanted: PerClass<bool>,
    /// Gap records of what a broker refused in this session.
    refused: VecDeque<Item>,
    /// A page that was asked for; kept here so that `next` may be cancelled. `None`: no longer wanted.
    asked: Option<Asked>,
}

/// For which queue, and where the page will come.
type Asked = (Option<(Lane, Class)>, oneshot::Receiver<Page>);

struct Queue {
    /// Where to go on reading; `None`: at the cursor, or behind the mark.
    at: Option<Position>,
    /// All of one lane.
    ready: VecDeque<Item>,
    lane: Lane,
}

impl Default for Queue {
    fn default() -> Self {
        Self { at: None, ready: VecDeque::new(), lane: Lane::Backlog }
    }
}

/// What a look at a queue shows.
enum Look {
    /// Its items are ready.
    Ready,
    /// A page was asked for.
    Asked,
    /// It went on to another place: look again.
    Moved,
    /// These numbers are missing and nobody has said so.
    Lost(Span),
    /// Nothing now.
    Nothing,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, control: mpsc::Sender<Control>, uplink: usize) -> Self {
        let requests = fetch::start(Arc::clone(&shared), uplink);
        let progress = shared.progress.subscribe();
        let mut reader = Self {
            shared,
            control,
            uplink,
            requests,
            progress,
            delivery: Delivery::Strict,
            marks: PerClass::of(|_| Position { ordinal: 0, seq: 0 }),
            beside: PerClass::default(),
            queues: Default::default(),
            wanted: PerClass::of(|_| true),
            refused: VecDeque::new(),
            asked: None,
        };
        reader.begin(Delivery::Strict);
        reader
    }

    /// Waits for at least one item and returns at most `at_most` (at least 1) of one class. `None` when the store has
    /// ended and everything was handed out. Cancel-safe: what was not returned comes with the next call.
    pub async fn next(&mut self, at_most: usize) -> Option<Vec<Item>> {
        let at_most = at_most.max(1);
        self.pull(Wants::of_each(at_most)).await.map(|pull| pull.items)
    }

    /// Waits for at least one item of a lane that is wanted and returns at most so many, of one class: live ones before
    /// the backlog when live-first, else in strict order. `None` when the store has ended and everything was handed
    /// out. Cancel-safe: what was not returned comes with the next call.
    pub async fn pull(&mut self, wants: Wants) -> Option<Pull> {
        'again: loop {
            self.progress.borrow_and_update();
            if let Some((place, page)) = &mut self.asked {
                let (place, page) = (*place, page.await);
                self.asked = None;
                match (page, place) {
                    (Ok(page), Some((lane, class))) => self.take(lane, class, page).await,
                    (Ok(_), None) => {}
                    (Err(_), _) => return None, // the thread is gone
                }
            }
            let wants = self.settle(wants);
            if wants.backlog > 0
                && let Some(item) = self.refused.pop_front()
            {
                return Some(Pull { lane: Lane::Backlog, items: vec![item] });
            }
            let ended = self.shared.state().ended;
            let mut waiting = !ended;
            for (lane, at_most) in [(Lane::Live, wants.live), (Lane::Backlog, wants.backlog)] {
                for class in Class::ALL {
                    let above = wants.above[lane as usize];
                    let at_most = if above.is_none_or(|above| class < above) { at_most } else { 0 };
                    if !self.wanted[class] || at_most == 0 && !ended {
                        continue;
                    }
                    match self.look(lane, class) {
                        Look::Ready if at_most == 0 => waiting = true,
                        Look::Ready => return Some(self.hand_out(lane, class, at_most)),
                        Look::Asked | Look::Moved => continue 'again,
                        Look::Lost(span) => {
                            self.report(class, span).await;
                            waiting = true;
                        }
                        Look::Nothing => {}
                    }
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

    fn hand_out(&mut self, lane: Lane, class: Class, at_most: usize) -> Pull {
        let Queue { ready, lane, .. } = &mut self.queues[lane as usize][class];
        let count = ready.len().min(at_most);
        Pull { lane: *lane, items: ready.drain(..count).collect() }
    }

    /// Ends or begins reading a class's live records beside its backlog, as its ranges allow; what is wanted, then.
    fn settle(&mut self, wants: Wants) -> Wants {
        if self.delivery == Delivery::Strict {
            return Wants { live: 0, backlog: wants.live.max(wants.backlog), ..wants };
        }
        let state = self.shared.state();
        for class in Class::ALL {
            let ledger = state.ledgers.get(self.uplink);
            let Some(cursor) = ledger.and_then(|ledger| ledger.cursors[class].as_ref()) else { continue };
            let (ranges, beside) = (cursor.ranges().len(), &mut self.beside[class]);
            if *beside && ranges >= RANGES_SAVED_MAX {
                *beside = false; // the backlog's queue goes on and gets there
                self.queues[Lane::Live as usize][class] = Queue::default();
                if let Some((place, _)) = &mut self.asked
                    && *place == Some((Lane::Live, class))
                {
                    *place = None;
                }
            } else if !*beside && ranges <= RANGES_SAVED_MAX / 2 {
                *beside = true;
                self.marks[class] = state.stream(class).end();
            }
        }
        wants
    }

    fn has_changed(&self) -> bool {
        let state = self.shared.state();
        let salvaging = !state.stalled && state.streams.values().any(|stream| stream.salvaging);
        drop(state);
        salvaging || self.progress.has_changed().unwrap_or(false)
    }

    async fn report(&self, class: Class, span: Span) {
        // An error means that the writer is gone; then nothing more will come anyway.
        let _ = self.control.send(Control::Lost { class, span }).await;
    }

    async fn take(&mut self, lane: Lane, class: Class, page: Page) {
        match page {
            Page::Items(items, at) => {
                let queue = &mut self.queues[lane as usize][class];
                queue.ready.extend(items);
                queue.at = Some(at);
            }
            Page::Lost(span) => self.report(class, span).await,
            Page::Changed => {}
        }
    }

    fn look(&mut self, lane: Lane, class: Class) -> Look {
        let (mark, beside) = (self.marks[class], self.beside[class]);
        let queue = &mut self.queues[lane as usize][class];
        if !queue.ready.is_empty() {
            return Look::Ready;
        }
        if lane == Lane::Live && !beside {
            return Look::Nothing;
        }
        let state = self.shared.state();
        let Some(ledger) = state.ledgers.get(self.uplink) else { return Look::Nothing };
        let Some(cursor) = &ledger.cursors[class] else { return Look::Nothing };
        let begin = if lane == Lane::Live { cursor.acked.max(mark) } else { cursor.acked };
        let at = cursor.after_acknowledged(queue.at.unwrap_or(begin.next()));
        // Where an item at this place belongs: the live queue passes over what the other one has, and the other way round.
        let belongs = |at: Position| if at > mark { Lane::Live } else { Lane::Backlog };
        let found = match state.next(self.uplink, class, at) {
            Next::Gap(gap, begin, then) => {
                if beside && belongs(begin) != lane {
                    queue.at = Some(then);
                    return if lane == Lane::Live { Look::Moved } else { Look::Nothing };
                }
                queue.at = Some(then);
                queue.lane = belongs(begin);
                queue.ready.push_back(Item::Gap(gap));
                return Look::Ready;
            }
            Next::Found(found) => found,
        };
        match found {
            Found::In { at, .. } if beside && belongs(at) != lane => Look::Nothing,
            Found::In { name, at, mut upto } => {
                let Some(life) = state.stream(class).life(at.ordinal) else { return Look::Nothing };
                if at <= mark && mark.ordinal == at.ordinal {
                    upto = upto.min(mark.seq); // one lane in a page
                }
                let upto = cursor.before_acknowledged(at, upto);
                queue.lane = belongs(at);
                let (answer, page) = oneshot::channel();
                let request = Request { name, at, upto, epoch: life.epoch, previous: life.previous(), answer };
                drop(state);
                if self.requests.try_send(request).is_err() {
                    return Look::Nothing;
                }
                self.asked = Some((Some((lane, class)), page));
                Look::Asked
            }
            Found::Hole(span) => Look::Lost(span),
            Found::NotYet(at) => {
                queue.at = Some(at);
                Look::Nothing
            }
        }
    }

    /// Goes back to what is not acknowledged.
    pub fn rewind(&mut self) {
        self.begin(self.delivery);
    }

    /// The same for a new session with this order: what is committed now is its backlog.
    pub fn begin(&mut self, delivery: Delivery) {
        self.queues = Default::default();
        self.refused.clear();
        if let Some((place, _)) = &mut self.asked {
            *place = None;
        }
        self.delivery = delivery;
        let state = self.shared.state();
        let ledger = state.ledgers.get(self.uplink);
        for class in Class::ALL {
            self.marks[class] = state.stream(class).end();
            let cursor = ledger.and_then(|ledger| ledger.cursors[class].as_ref());
            let ranges = cursor.map_or(0, |cursor| cursor.ranges().len());
            self.beside[class] = delivery == Delivery::LiveFirst && ranges < RANGES_SAVED_MAX;
        }
    }

    /// From now on hands out these classes only; the others wait, also for the end of the store.
    pub fn only(&mut self, classes: &[Class]) {
        self.wanted = PerClass::of(|class| classes.contains(&class));
    }

    /// Classes of which something is still owed, most urgent first.
    pub fn waiting(&self) -> Vec<Class> {
        let state = self.shared.state();
        Class::ALL.into_iter().filter(|class| state.backlog_of(self.uplink, *class) > 0).collect()
    }

    /// The uplink's broker has taken something; may come out of order. Never waits.
    pub fn acknowledge(&self, ack: Ack) {
        let mut state = self.shared.state();
        let unsaved = |state: &State| state.ledgers.get(self.uplink).map_or(0, |ledger| ledger.unsaved);
        let before = unsaved(&state);
        state.acknowledge(self.uplink, ack);
        if before / CURSORS_RECORDS != unsaved(&state) / CURSORS_RECORDS {
            self.shared.cursors_due.notify_one();
        }
    }

    /// The uplink's broker will never take these, taken between these times: a gap record (reason `refused`) takes their
    /// place. What was already acknowledged of them is not in it; a gap record that is refused itself is dropped.
    pub fn refuse(&mut self, ack: Ack, taken: Option<(Stamp, Stamp)>) {
        let mut state = self.shared.state();
        let gaps = state.refuse(self.uplink, ack, taken);
        drop(state);
        self.refused.extend(gaps.into_iter().map(Item::Gap));
        self.shared.cursors_due.notify_one();
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

    /// What is owed now; with [`Self::is_behind`].
    pub fn ends(&self) -> Ends {
        self.shared.state().ends(self.uplink)
    }

    /// Is anything of it still owed?
    pub fn is_behind(&self, ends: &Ends) -> bool {
        let state = self.shared.state();
        state.is_behind(self.uplink, ends) && state.backlog(self.uplink) > 0
    }

    /// About when the oldest of them was taken.
    pub fn oldest(&self) -> Option<Stamp> {
        self.shared.state().oldest(self.uplink)
    }
}
