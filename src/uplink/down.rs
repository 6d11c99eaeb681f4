//! Topics that come down (`[[uplink.down]]`, and what comes in over a bridge): from the subscription to the local broker.
//!
//! Their session persists, so that the broker upstream keeps what comes while the link is down. That is why an uplink has
//! them or commands, never both: a command that waited must not move anything, and here everything may have waited. What
//! is a command or a topic of the gateway is refused by the local broker, whatever it is called upstream.
//!
//! What is retained on topics that go both ways has a time of its own: see [`super::reading`].
//!
//! A publish of QoS 1 is acknowledged upstream when everything that it is owed to here has it on disk; where that fails it
//! is handed on again, with all that came behind it. Acknowledged in the order of arrival, at least once.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc;

use super::client::{Handling, Receiver, Wanted};
use super::intake::{ARRIVALS_MAX, Arrived, Intake};
use super::reading::{Contested, Fence, Reading};
use super::stats::UplinkStats;
use super::subscribed::Subscribed;
use crate::config::plan::{DownPlan, RetainHere, UplinkPlan};
use crate::flow::clock::Clock;
use crate::flow::forward::{Letter, Wish};
use crate::model::message::{ClientMessage, Kept};
use crate::model::stats::Counter;

/// Payload and topic of one message: what the local broker takes in a packet.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What could not be kept is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Resolves when a message may be acknowledged (true), or could not be kept (false).
pub type PassedOn = Pin<Box<dyn Future<Output = bool> + Send>>;

/// What becomes of a message that is handed to the local broker.
pub enum Handed {
    /// It is published.
    On(PassedOn),
    /// Its topic is nobody's but the gateway's: it is not published.
    Refused,
    /// What was left on its topic meanwhile may be newer, and stays: it is not published.
    Superseded,
}

/// The local broker, for what comes down.
pub trait LocalBroker: Send + Sync {
    /// Publishes a message here. `newest`: not where anybody but its bridge has left something on its topic since what is
    /// retained here had this version.
    fn pass_on(&self, letter: Letter, newest: Option<u64>) -> Handed;

    /// Of what is retained: grows with all that is.
    fn retained_version(&self) -> u64;
}

/// Shared with the sessions' tasks.
pub type PassOn = Arc<dyn LocalBroker>;

/// Of one uplink; outlives its sessions.
pub(super) struct Down {
    pass_on: PassOn,
    rules: Arc<[DownPlan]>,
    from: Arc<str>,
    clock: Clock,
    stats: Arc<UplinkStats>,
    subscribed: Option<Subscribed>,
}

impl Down {
    /// `None` where nothing comes down. What is subscribed to is remembered in this directory, if there is one.
    pub(super) fn new(
        pass_on: Option<PassOn>,
        (plan, directory): (&UplinkPlan, Option<PathBuf>),
        clock: Clock,
        stats: Arc<UplinkStats>,
    ) -> Option<Self> {
        // the session of an edge node forgets, whatever else is configured (tck-id-principles-persistence-clean-session-311)
        let pass_on = pass_on.filter(|_| !plan.downs.is_empty() && plan.sparkplug.is_none())?;
        let subscribed = directory.map(|directory| Subscribed::beside(&directory, plan));
        Some(Self {
            pass_on,
            rules: plan.downs.clone().into(),
            from: plan.name.as_str().into(),
            clock,
            stats,
            subscribed,
        })
    }

    /// Where it is remembered what is subscribed to.
    pub(super) const fn subscribed(&self) -> Option<&Subscribed> {
        self.subscribed.as_ref()
    }

    /// The filters alone.
    pub(super) fn names(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.mapping.remote_filter()).collect()
    }

    /// The rules that go both ways, by their places.
    pub(super) fn both_ways(&self) -> BTreeSet<usize> {
        (0..self.rules.len()).filter(|rule| self.rules[*rule].both_ways).collect()
    }

    /// Does a topic, as it is called upstream, go both ways?
    pub(super) fn has_both_ways(&self, topic: &str) -> bool {
        self.rules.iter().any(|rule| rule.both_ways && rule.mapping.to_local(topic).is_some())
    }

    /// See [`LocalBroker::retained_version`].
    pub(super) fn version(&self) -> u64 {
        self.pass_on.retained_version()
    }

    /// For the SUBSCRIBE of a session; of what is retained on topics that go both ways it asks for this.
    pub(super) fn filters(&self, both_ways: Handling) -> Vec<Wanted> {
        let of = |rule: &DownPlan| {
            let handling = match rule.retain {
                RetainHere::Never => Handling::Never,
                RetainHere::AsPublished if rule.both_ways => both_ways,
                RetainHere::AsPublished => Handling::AtFirst,
            };
            wanted(rule, handling)
        };
        self.rules.iter().map(of).collect()
    }

    /// For another one, with what is retained on the topics of these rules.
    pub(super) fn filters_again(&self, rules: &BTreeSet<usize>) -> Vec<Wanted> {
        rules.iter().filter_map(|rule| Some(wanted(self.rules.get(*rule)?, Handling::Always))).collect()
    }

    /// The two ends of one session's way in.
    pub(super) fn intake(&self) -> (Intake, mpsc::Receiver<Arrived>) {
        Intake::of_topics(self.clock.clone(), Arc::clone(&self.stats))
    }

    /// Takes arrivals to the local broker, and acknowledges each when it may be. Ends with the session.
    pub(super) fn serve(
        &self,
        mut arrivals: mpsc::Receiver<Arrived>,
        receiver: Receiver,
        reading: &Reading,
    ) -> impl Future<Output = ()> + Send + 'static {
        let desk = Desk {
            pass_on: Arc::clone(&self.pass_on),
            rules: Arc::clone(&self.rules),
            from: Arc::clone(&self.from),
            fence: Arc::clone(&reading.fence),
            stats: Arc::clone(&self.stats),
        };
        async move {
            let mut waiting: VecDeque<Waiting> = VecDeque::new();
            loop {
                let room = waiting.len() < usize::from(ARRIVALS_MAX);
                tokio::select! {
                    biased;
                    kept = first_told(&mut waiting) => if kept {
                        let Some(first) = waiting.pop_front() else { return };
                        if receiver.acknowledge(&first.arrived.arrival.receipt).is_err() {
                            return; // the session is over
                        }
                    } else {
                        tracing::debug!(uplink = &*desk.from, "a message from upstream could not be kept; trying again");
                        // Nobody waits in a queue meanwhile.
                        for one in &mut waiting {
                            one.told = Told::NotKept;
                        }
                        tokio::time::sleep(AGAIN).await;
                        for one in &mut waiting {
                            one.told = desk.take(&one.arrived).0;
                            if one.told.is_refused() {
                                break; // what is behind it would be seen here again each time
                            }
                        }
                    },
                    arrived = arrivals.recv(), if room => {
                        let Some(arrived) = arrived else { return };
                        let (told, counter) = desk.take(&arrived);
                        counter.one();
                        waiting.push_back(Waiting { arrived, told });
                    }
                }
            }
        }
    }
}

fn wanted(rule: &DownPlan, handling: Handling) -> Wanted {
    Wanted { filter: rule.mapping.remote_filter(), qos: rule.qos, handling }
}

/// One that is not yet acknowledged; its room is free when it is.
struct Waiting {
    arrived: Arrived,
    told: Told,
}

/// What is known of it.
enum Told {
    /// Not yet.
    Open(PassedOn),
    /// It may be acknowledged: it is on disk where it is owed, or nobody here is to have it.
    Kept,
    /// It could not be kept. Then it is handed on again, and all that came behind it: nothing newer may be overtaken. What
    /// is refused outright, before anybody has seen it, holds those behind it up.
    NotKept,
}

impl Told {
    /// Is it said at once that it cannot be kept?
    fn is_refused(&mut self) -> bool {
        if let Self::Open(passed_on) = self
            && let Poll::Ready(kept) = passed_on.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            *self = if kept { Self::Kept } else { Self::NotKept };
        }
        matches!(self, Self::NotKept)
    }
}

/// Moves all of them on: each may have a place in a queue that others stand in, whatever becomes of the first. Resolves
/// when the first of them is told of: true, it may be acknowledged. Cancel-safe.
async fn first_told(waiting: &mut VecDeque<Waiting>) -> bool {
    std::future::poll_fn(|context| {
        for one in waiting.iter_mut() {
            if let Told::Open(passed_on) = &mut one.told
                && let Poll::Ready(kept) = passed_on.as_mut().poll(context)
            {
                one.told = if kept { Told::Kept } else { Told::NotKept };
            }
        }
        match waiting.front().map(|first| &first.told) {
            Some(Told::Kept) => Poll::Ready(true),
            Some(Told::NotKept) => Poll::Ready(false),
            Some(Told::Open(_)) | None => Poll::Pending,
        }
    })
    .await
}

struct Desk {
    pass_on: PassOn,
    rules: Arc<[DownPlan]>,
    from: Arc<str>,
    fence: Arc<Fence>,
    stats: Arc<UplinkStats>,
}

impl Desk {
    /// Publishes it at once. And where it is counted.
    fn take(&self, arrived: &Arrived) -> (Told, &Counter) {
        let stats = &self.stats;
        let Some((place, letter, newest)) = self.letter(arrived) else { return (Told::Kept, &stats.down_refused) };
        let is_echo = newest.is_some() && self.fence.came(&arrived.arrival.topic, &arrived.arrival.payload);
        let (topic, clears) = (Arc::clone(&letter.topic), letter.message.payload.is_empty());
        match self.pass_on.pass_on(letter, newest) {
            Handed::On(passed_on) => (Told::Open(passed_on), &stats.down),
            Handed::Refused => (Told::Kept, &stats.down_refused),
            Handed::Superseded if is_echo => (Told::Kept, &stats.down),
            Handed::Superseded => {
                self.contest(place, &topic, if clears { Contested::Clearing } else { Contested::Message });
                (Told::Kept, &stats.down_superseded)
            }
        }
    }

    /// It was not taken; told once in a session.
    fn contest(&self, place: usize, topic: &str, what: Contested) {
        if self.fence.contest(place, what) {
            let uplink = &*self.from;
            match what {
                Contested::Message => {
                    tracing::info!(uplink, topic, "a newer one may be retained here and stays; upstream is read again");
                }
                Contested::Clearing => {
                    tracing::warn!(uplink, topic, "cleared upstream; a newer one may be retained here and stays");
                }
            }
        }
    }

    /// Its rule, what it is here, and what it may not take the place of; `None` where no rule means it, or it is larger than
    /// the local broker takes.
    fn letter(&self, Arrived { arrival, at, .. }: &Arrived) -> Option<(usize, Letter, Option<u64>)> {
        if arrival.topic.len() + arrival.payload.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let mut rules = self.rules.iter().enumerate();
        let found = rules.find_map(|(place, rule)| Some((place, rule, rule.mapping.to_local(&arrival.topic)?)));
        let (place, rule, topic) = found?;
        let kept = arrival.retain && rule.retain == RetainHere::AsPublished;
        let message = ClientMessage {
            payload: arrival.payload.as_ref().into(),
            kept: if kept { Kept::Yes } else { Kept::No },
            expiry_s: arrival.expiry.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX)),
            properties: arrival.properties.clone(),
        };
        let wish = if arrival.is_owed() { Wish::Receipt } else { Wish::Nothing };
        let newest = if kept && rule.both_ways { self.fence.met(place) } else { None };
        let from = Some(Arc::clone(&self.from));
        Some((place, Letter { topic: topic.into(), message, wish, from, at: *at }, newest))
    }
}
