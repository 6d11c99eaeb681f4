//! Topics that come down (`[[uplink.down]]`, and what comes in over a bridge): from the subscription to the local broker.
//!
//! Their session persists, so that the broker upstream keeps what comes while the link is down. That is why an uplink has
//! them or commands, never both: a command that waited must not move anything, and here everything may have waited. What
//! is a command or a topic of the gateway is refused by the local broker, whatever it is called upstream.
//!
//! A publish of QoS 1 is acknowledged upstream when everything that it is owed to here has it on disk; where that fails it
//! is tried again, and what comes behind it waits. Acknowledged in the order of arrival, at least once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;

use super::client::{Receipt, Receiver, Retained, Wanted};
use super::intake::{ARRIVALS_MAX, Arrived, Intake};
use super::stats::UplinkStats;
use crate::config::plan::{DownPlan, RetainHere, UplinkPlan};
use crate::flow::clock::Clock;
use crate::flow::forward::{Letter, Wish};
use crate::model::message::{ClientMessage, Kept};

/// Payload and topic of one message: what the local broker takes in a packet.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What could not be kept is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Resolves when a message may be acknowledged (true), or could not be kept (false).
pub type PassedOn = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Publishes a message here; `None`: its topic is nobody's but the gateway's, and it is not published.
pub type PassOn = Arc<dyn Fn(Letter) -> Option<PassedOn> + Send + Sync>;

/// Of one uplink; outlives its sessions.
pub(super) struct Down {
    pass_on: PassOn,
    rules: Arc<[DownPlan]>,
    from: Arc<str>,
    clock: Clock,
    stats: Arc<UplinkStats>,
}

impl Down {
    /// `None` where nothing comes down.
    pub(super) fn new(
        pass_on: Option<PassOn>,
        plan: &UplinkPlan,
        clock: Clock,
        stats: Arc<UplinkStats>,
    ) -> Option<Self> {
        let pass_on = pass_on.filter(|_| !plan.downs.is_empty())?;
        Some(Self { pass_on, rules: plan.downs.clone().into(), from: plan.name.as_str().into(), clock, stats })
    }

    /// For the SUBSCRIBE.
    pub(super) fn filters(&self) -> Vec<Wanted> {
        let wanted = |rule: &DownPlan| Wanted {
            filter: rule.mapping.remote_filter(),
            qos: rule.qos,
            retained: if rule.retain == RetainHere::AsPublished { Retained::Yes } else { Retained::No },
        };
        self.rules.iter().map(wanted).collect()
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
    ) -> impl Future<Output = ()> + Send + 'static {
        let desk = Desk {
            pass_on: Arc::clone(&self.pass_on),
            rules: Arc::clone(&self.rules),
            from: Arc::clone(&self.from),
            stats: Arc::clone(&self.stats),
        };
        async move {
            let mut waiting: VecDeque<Waiting> = VecDeque::new();
            loop {
                let room = waiting.len() < usize::from(ARRIVALS_MAX);
                tokio::select! {
                    biased;
                    receipt = first_done(&mut waiting) => {
                        if receiver.acknowledge(&receipt).is_err() {
                            return; // the session is over
                        }
                    }
                    arrived = arrivals.recv(), if room => {
                        let Some(arrived) = arrived else { return };
                        let receipt = arrived.arrival.receipt.clone();
                        waiting.push_back(Waiting { receipt, done: Some(desk.clone().take(arrived)) });
                    }
                }
            }
        }
    }
}

/// One that is not yet acknowledged; `None`: it may be.
struct Waiting {
    receipt: Receipt,
    done: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Moves all of them on: each may have a place in a queue that others stand in, whatever becomes of the first. Resolves
/// when the first of them may be acknowledged. Cancel-safe.
async fn first_done(waiting: &mut VecDeque<Waiting>) -> Receipt {
    std::future::poll_fn(|context| {
        for one in waiting.iter_mut() {
            if let Some(done) = &mut one.done
                && done.as_mut().poll(context).is_ready()
            {
                one.done = None;
            }
        }
        match waiting.pop_front() {
            Some(Waiting { receipt, done: None }) => Poll::Ready(receipt),
            Some(first) => {
                waiting.push_front(first);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    })
    .await
}

#[derive(Clone)]
struct Desk {
    pass_on: PassOn,
    rules: Arc<[DownPlan]>,
    from: Arc<str>,
    stats: Arc<UplinkStats>,
}

impl Desk {
    /// Publishes it at once; what is returned resolves when it is kept, however long that takes.
    fn take(self, arrived: Arrived) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let letter = self.letter(&arrived);
        let first = letter.as_ref().and_then(|letter| (self.pass_on)(letter.clone()));
        let (Some(letter), Some(mut done)) = (letter, first) else {
            self.stats.down_refused.one();
            return Box::pin(std::future::ready(()));
        };
        self.stats.down.one();
        Box::pin(async move {
            let _arrived = arrived; // its room is free when it is done
            while !done.await {
                tracing::debug!(uplink = &*self.from, "a message from upstream could not be kept; trying again");
                tokio::time::sleep(AGAIN).await;
                match (self.pass_on)(letter.clone()) {
                    Some(again) => done = again,
                    None => return,
                }
            }
        })
    }

    /// What it is here; `None` where no rule means it, or it is larger than the local broker takes.
    fn letter(&self, Arrived { arrival, at, .. }: &Arrived) -> Option<Letter> {
        if arrival.topic.len() + arrival.payload.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let found = self.rules.iter().find_map(|rule| Some((rule, rule.mapping.to_local(&arrival.topic)?)));
        let (rule, topic) = found?;
        let kept = arrival.retain && rule.retain == RetainHere::AsPublished;
        let message = ClientMessage {
            payload: arrival.payload.as_ref().into(),
            kept: if kept { Kept::Yes } else { Kept::No },
            expiry_s: arrival.expiry.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX)),
            properties: arrival.properties.clone(),
        };
        let wish = if arrival.is_owed() { Wish::Receipt } else { Wish::Nothing };
        Some(Letter { topic: topic.into(), message, wish, from: Some(Arc::clone(&self.from)), at: *at })
    }
}
