//! Commands from upstream: the subscription, the way in to the one road for commands, and
//! the answers back.
//!
//! ```text
//!  poller ── Intake (bounded) ──> serve ── flow::command ──> router ── journalled ──> PUBACK
//!                                                              └── Replies (bounded) ──> feeder ──> publish
//! ```
//!
//! Each session begins clean, so nothing that waited out an outage reaches us. A publish is taken for a command when its
//! topic is `<topic_prefix><tag topic>/set` of a tag that may be written; anything else that the wildcards of the
//! subscription bring is acknowledged and forgotten. Outcomes go upstream through the store, as events; what the store
//! does not carry (refusals, repeated answers, the response topic of MQTT 5) goes straight back while a session stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::plan::{ReceiveQos, UplinkPlan};
use crate::flow::clock::Clock;
use crate::flow::command::{
    self, Admission, CommandEntry, Redelivery, Replies, Reply, Request, Retained as Retain, Stored,
};
use crate::model::number::Class;
use crate::model::topic::{Owner, Ownership, check_topic, set_topic};

use super::client::{Extras, Handling, Receiver, Wanted};
use super::intake::{Arrived, Intake};
use super::stats::UplinkStats;

/// Filters in the SUBSCRIBE, before wildcards stand for many: AWS IoT Core takes 8 (Service quotas, MQTT).
const FILTERS_MAX: usize = 8;

/// An answer that nobody fetched within a day tells nobody anything: an id is not remembered for longer (by
/// `disk::journal`). Nothing else expires: records are owed, and the retained status must still be there for who asks late.
const ANSWER_EXPIRES_S: u32 = 24 * 3600;

/// What an uplink needs to take commands.
#[derive(Debug, Clone)]
pub struct Commands {
    /// The road to the router.
    pub entry: CommandEntry,
    /// Which topic is whose, without `topic_prefix`.
    pub ownership: Arc<Ownership>,
    /// Topics of the tags that may be written.
    pub writable: Vec<Arc<str>>,
}

/// Of one uplink; outlives its sessions.
pub(super) struct Downlink {
    commands: Commands,
    filters: Vec<Wanted>,
    prefix: String,
    origin: String,
    clock: Clock,
    stats: Arc<UplinkStats>,
    /// Whether outcomes reach this uplink as events.
    has_events: bool,
    replies: Replies,
    coming: mpsc::Receiver<Reply>,
    waiting: VecDeque<Answering>,
}

/// One publish back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answering {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) extras: Extras,
}

impl Downlink {
    pub(super) fn new(commands: Commands, plan: &UplinkPlan, clock: Clock, stats: Arc<UplinkStats>) -> Self {
        let (replies, coming) = command::replies(Arc::clone(&stats.replies_lost));
        Self {
            filters: filters(&plan.topic_prefix, &commands.writable).into_iter().map(wanted).collect(),
            commands,
            prefix: plan.topic_prefix.clone(),
            origin: format!("uplink:{}", plan.name),
            clock,
            stats,
            has_events: plan.classes.contains(&Class::Event),
            replies,
            coming,
            waiting: VecDeque::new(),
        }
    }

    /// For the SUBSCRIBE; never empty unless nothing may be written.
    pub(super) fn filters(&self) -> &[Wanted] {
        &self.filters
    }

    /// The two ends of one session's way in.
    pub(super) fn intake(&self) -> (Intake, mpsc::Receiver<Arrived>) {
        Intake::of_commands(self.clock.clone(), Arc::clone(&self.stats))
    }

    /// Takes arrivals to the road, one after the other, and acknowledges each when it is journalled or refused. Runs
    /// beside the feeder and ends with the session; a command that was handed in runs on without it.
    pub(super) fn serve(
        &self,
        mut arrivals: mpsc::Receiver<Arrived>,
        receiver: Receiver,
    ) -> impl Future<Output = ()> + Send + 'static {
        let desk = Desk {
            commands: self.commands.clone(),
            prefix: self.prefix.clone(),
            origin: self.origin.clone(),
            replies: self.replies.clone(),
        };
        let stats = Arc::clone(&self.stats);
        async move {
            while let Some(arrived) = arrivals.recv().await {
                let receipt = arrived.arrival.receipt.clone();
                match desk.request(arrived) {
                    Some(request) => {
                        stats.commands.one();
                        if let Admission::Refused(_) = desk.commands.entry.submit(request).await {
                            stats.commands_refused.one();
                        }
                    }
                    None => stats.commands_foreign.one(),
                }
                if receiver.acknowledge(&receipt).is_err() {
                    return; // the session is over
                }
            }
        }
    }

    /// Waits until there is something to publish. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        while self.waiting.is_empty() {
            match self.coming.recv().await {
                Some(reply) => self.note(reply),
                None => std::future::pending().await, // we hold a sender ourselves: never
            }
        }
    }

    /// The next answer to publish.
    pub(super) fn next(&mut self) -> Option<Answering> {
        if self.waiting.is_empty()
            && let Ok(reply) = self.coming.try_recv()
        {
            self.note(reply);
        }
        self.waiting.pop_front()
    }

    fn note(&mut self, reply: Reply) {
        let json = || Extras { expiry_s: Some(ANSWER_EXPIRES_S), ..Extras::json() };
        if reply.stored == Stored::No || !self.has_events {
            let topic = format!("{}{}", self.prefix, reply.result_topic);
            self.waiting.push_back(Answering { topic, payload: reply.result.clone(), extras: json() });
        }
        if let Some(topic) = reply.response_topic {
            let extras = Extras { correlation: reply.correlation, ..json() };
            self.waiting.push_back(Answering { topic, payload: reply.result, extras });
        }
    }
}

/// Turns arrivals into requests.
struct Desk {
    commands: Commands,
    prefix: String,
    origin: String,
    replies: Replies,
}

impl Desk {
    fn request(&self, Arrived { arrival, at, .. }: Arrived) -> Option<Request> {
        let ownership = &self.commands.ownership;
        let Owner::Command(tag) = ownership.of(arrival.topic.strip_prefix(&self.prefix)?) else {
            return None;
        };
        let may_answer_on = |topic: &String| {
            check_topic(topic).is_ok()
                && topic.strip_prefix(&self.prefix).is_some_and(|rest| ownership.of(rest) == Owner::Client)
        };
        Some(Request {
            tag,
            payload: arrival.payload.to_vec(),
            retained: if arrival.retain { Retain::Yes } else { Retain::No },
            redelivery: if arrival.dup { Redelivery::Again } else { Redelivery::First },
            expiry: arrival.expiry,
            correlation: arrival.properties.correlation,
            response_topic: arrival.properties.response_topic.filter(may_answer_on),
            origin: self.origin.clone(),
            replies: Some(self.replies.clone()),
            at,
        })
    }
}

/// What is retained at the broker is no command.
fn wanted(filter: String) -> Wanted {
    Wanted { filter, qos: ReceiveQos::AtLeastOnce, handling: Handling::Never }
}

/// Filters that match `<prefix><topic>/set` of every topic: each by name while they are few; then one per number of
/// levels, with `+` where the topics differ. Never `#`: it would bring our own publishes back.
fn filters(prefix: &str, topics: &[Arc<str>]) -> Vec<String> {
    let exact: Vec<String> = topics.iter().map(|topic| format!("{prefix}{}", set_topic(topic))).collect();
    if exact.len() <= FILTERS_MAX {
        return exact;
    }
    let mut by_levels: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for topic in &exact {
        let levels: Vec<&str> = topic.split('/').collect();
        match by_levels.get_mut(&levels.len()) {
            Some(common) => {
                let differ = common.iter_mut().zip(&levels).filter(|(common, level)| *common != *level);
                differ.for_each(|(common, _)| *common = "+");
            }
            None => _ = by_levels.insert(levels.len(), levels),
        }
    }
    by_levels.into_values().map(|levels| levels.join("/")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::topic::{check_filter, matches};

    fn topics(names: impl IntoIterator<Item = String>) -> Vec<Arc<str>> {
        names.into_iter().map(Into::into).collect()
    }

    #[test]
    fn few_topics_are_subscribed_by_name_many_by_wildcards_that_match_no_publish_of_ours() {
        assert_eq!(filters("site/", &topics(["a/b/c".into()])), ["site/a/b/c/set"]);
        assert_eq!(filters("", &[]), Vec::<String>::new());
        let mut names: Vec<String> = (0..40).map(|n| format!("acme/gw/pump-{}/speed-{n}", n % 7)).collect();
        names.extend((0..3).map(|n| format!("acme/gw/hall/{n}/light")));
        let topics = topics(names);
        let filters = filters("site/", &topics);
        assert_eq!(filters, ["site/acme/gw/+/+/set", "site/acme/gw/hall/+/light/set"]);
        for topic in &topics {
            assert!(filters.iter().any(|filter| matches(filter, &format!("site/{}", set_topic(topic)))), "{topic}");
            assert!(!filters.iter().any(|filter| matches(filter, &format!("site/{topic}"))), "{topic}");
        }
        assert!(filters.iter().all(|filter| check_filter(filter).is_ok()));
    }
}
