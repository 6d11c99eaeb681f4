//! Commands, from the entry to the bus and back ("The walk of a command" in `src/lib.rs`).
//!
//! Order of business for each: read the payload → check tag, limits and deadline → journal on disk → only then tell the
//! sender → hand it to the bus, which takes it before the next poll → close the journal → publish the result. A command
//! that was open when the gateway went down is answered "failed: unknown" at the next start and never written twice. One
//! that was refused, here or by its bus, was never sent: its id may be tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::broker::Publisher;
use crate::config::plan::Plan;
use crate::disk::journal::{Begun, CommandJournal, Entry, EntryId, Recalled, UnfinishedEntry};
use crate::field::{BusHandle, FieldCommand};
use crate::flow::clock::Clock;
use crate::flow::command::{Admission, Redelivery, Replies, Reply, Request, Retained, Stored, Submitted};
use crate::flow::hub::{EventRecord, Hub};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::command::{Failure, Outcome, Refusal};
use crate::model::number::Class;
use crate::model::tag::{DeviceIx, TagIx};
use crate::model::time::{Certainty, Stamp};
use crate::model::topic::result_topic;
use crate::payload::json;
use crate::pipeline::limits;

use super::request::{self, Wanted};
use super::roster::{PlanNow, Slots};

/// A command without a deadline of its own is dropped after this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A disk that takes longer than this to journal a command does not take it at all.
const JOURNALLED_WITHIN: Duration = Duration::from_secs(300);

/// The router's connections to the other rooms.
pub struct Router {
    /// What may be written, and within which limits.
    pub plan: PlanNow,
    /// Where its buses are.
    pub buses: Slots,
    /// Remembers commands across restarts.
    pub journal: CommandJournal,
    /// It could not be written the last time: said once, however many commands come meanwhile.
    pub journal_fails: AtomicBool,
    /// For deadlines.
    pub clock: Clock,
    /// Local results.
    pub answers: Answers,
    /// Results that go into the store as events.
    pub hub: Hub,
    /// Nobody can ask any more.
    pub end: CancellationToken,
}

/// Says locally how a command ended.
#[derive(Clone)]
pub struct Answers {
    /// For the topics.
    pub plan: PlanNow,
    /// Where they are published.
    pub publisher: Publisher,
    /// Where they are written down.
    pub access: Arc<Access>,
}

/// A checked command on its way through journal and bus.
struct Ready {
    /// By which all of it was checked.
    plan: Arc<Plan>,
    tag: TagIx,
    deadline: Stamp,
    wanted: Wanted,
    response: Response,
}

/// Where the answer goes besides the result topic.
#[derive(Clone)]
struct Response {
    /// Goes back in the result.
    id: Option<String>,
    /// MQTT 5 response topic.
    topic: Option<String>,
    correlation: Option<Vec<u8>>,
    /// To the uplink it came from; then the response topic is one upstream.
    replies: Option<Replies>,
}

impl Response {
    fn to(request: &Request, id: Option<String>) -> Self {
        Self {
            id,
            topic: request.response_topic.clone(),
            correlation: request.correlation.clone(),
            replies: request.replies.clone(),
        }
    }
}

impl Router {
    /// Runs until stopping begins and what was accepted is finished. From the one to the end of the broker a task of its
    /// own refuses: it keeps neither bus nor store from ending.
    pub async fn run(self, mut commands: mpsc::Receiver<Submitted>, stop: Stop) {
        self.answer_unfinished().await;
        let router = Arc::new(self);
        let mut open = JoinSet::new();
        loop {
            progress::rest();
            tokio::select! {
                biased;
                () = stop.begun() => break,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                submitted = commands.recv() => match submitted {
                    Some(submitted) => {
                        progress::step(JOURNALLED_WITHIN);
                        router.take(submitted, &mut open, &stop).await;
                    }
                    None => break,
                },
            }
        }
        let end = router.end.clone();
        tokio::spawn(end.run_until_cancelled_owned(router.answers.clone().refuse_the_rest(commands)));
        while open.join_next().await.is_some() {}
    }

    async fn take(self: &Arc<Self>, submitted: Submitted, open: &mut JoinSet<()>, stop: &Stop) {
        let Submitted { request, admitted } = submitted;
        let began_ms = self.clock.began_ms();
        let at_unix_ms = began_ms.map(|began| began + request.at.micros / 1000);
        if let Some(began) = began_ms {
            self.journal.reckon(began).await;
        }
        // First of all: what was done must not be called refused because it is asked for again, late or in a crowd.
        match self.recall(&request, at_unix_ms).await {
            Recalled::Unknown => {}
            Recalled::UnderWay => return self.remind(&request, admitted, None),
            Recalled::Ended(result) => return self.remind(&request, admitted, Some(result)),
        }
        let ready = match self.check(&request) {
            Ok(ready) => ready,
            Err(reason) => return self.answers.refuse(&request, admitted, reason),
        };
        let Some(bus) = self.bus_of(&ready.plan, ready.tag) else {
            return self.answers.refuse(&request, admitted, Refusal::Access);
        };
        let Ok(place) = bus.commands.clone().try_reserve_owned() else {
            return self.answers.refuse(&request, admitted, Refusal::Busy);
        };
        let Some(tag_topic) = self.answers.topic(ready.tag) else {
            return self.answers.refuse(&request, admitted, Refusal::Access);
        };
        let entry = Entry {
            key: ready.response.id.as_ref().map(|id| key(&tag_topic, id)),
            tag: tag_topic.to_string(),
            payload: request.payload.clone(),
            origin: request.origin.clone(),
            at_unix_ms,
        };
        match self.journal.begin(entry).await {
            Ok(Begun::New(entry)) => {
                self.journal_fails.store(false, Ordering::Relaxed);
                // The sender may be gone by now; the command runs all the same.
                let _ = admitted.send(Admission::Accepted);
                let (reply, outcome) = oneshot::channel();
                place.send(FieldCommand {
                    plan: Arc::clone(&ready.plan),
                    tag: ready.tag,
                    value: ready.wanted.value.clone(),
                    deadline: ready.deadline,
                    reply,
                });
                let (router, stop) = (Arc::clone(self), stop.clone());
                open.spawn(async move {
                    let unknown = Outcome::Failed { reason: Failure::Unknown, read_back: None };
                    let outcome = of_gateway(outcome.await.unwrap_or(unknown), &stop);
                    let access = &router.answers.access;
                    access.command_ended((&request.origin, &tag_topic), &ready.wanted.value, &outcome);
                    router.finish(entry, &tag_topic, &outcome, &ready.response).await;
                });
            }
            Ok(Begun::Known { result }) => self.remind(&request, admitted, result),
            Err(error) => {
                if !self.journal_fails.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "command journal cannot be written");
                }
                self.answers.refuse(&request, admitted, Refusal::Journal);
            }
        }
    }

    /// What the journal knows of the id of a request: how it ended, or that it has not yet.
    async fn recall(&self, request: &Request, now: Option<i64>) -> Recalled {
        let id = id_of(request).filter(|_| request.retained == Retained::No);
        let Some((id, topic)) = id.zip(self.answers.topic(request.tag)) else { return Recalled::Unknown };
        // Without a journal it is refused in a moment, with that reason.
        self.journal.recall(key(&topic, &id), now).await.unwrap_or(Recalled::Unknown)
    }

    /// Answers with the old outcome; while there is none, it will be published when it comes.
    fn remind(&self, request: &Request, admitted: oneshot::Sender<Admission>, result: Option<Vec<u8>>) {
        let _ = admitted.send(Admission::Accepted); // the sender may be gone
        if let (Some(result), Some(tag_topic)) = (result, self.answers.topic(request.tag)) {
            self.answers.publish(&tag_topic, result, &Response::to(request, id_of(request)), Stored::No);
        }
    }

    /// Everything that can be said before the journal and the bus are asked.
    fn check(&self, request: &Request) -> Result<Ready, Refusal> {
        let plan = self.plan.load_full();
        // One that is gone since the command was on its way has the access of none.
        let tag = plan.tag(request.tag).ok_or(Refusal::Access)?;
        if request.retained == Retained::Yes {
            return Err(Refusal::Retained);
        }
        if !tag.access.writes() {
            return Err(Refusal::Access);
        }
        let wanted = request::read(&request.payload, tag.kind())?;
        let id = wanted.id.clone().or_else(|| request.correlation.as_deref().map(hex));
        if id.is_none() && request.redelivery == Redelivery::Again {
            return Err(Refusal::Duplicate);
        }
        if wanted.value.as_f64().is_some_and(|number| !limits::of_writes(tag).contain(number)) {
            return Err(Refusal::Range);
        }
        let deadline = self.deadline(request, wanted.expires_ms)?;
        let response = Response::to(request, id);
        Ok(Ready { plan, tag: request.tag, deadline, wanted, response })
    }

    /// The earliest of `expires`, MQTT 5 message expiry and arrival + 30 s; refused if it has passed.
    fn deadline(&self, request: &Request, expires_ms: Option<i64>) -> Result<Stamp, Refusal> {
        let now = self.clock.now();
        let mut deadline = request.at.after(request.expiry.map_or(DEADLINE, |expiry| expiry.min(DEADLINE)));
        if let Some(expires_ms) = expires_ms {
            let wall = self.clock.wall(now);
            if wall.certainty != Certainty::Fixed {
                return Err(Refusal::Clock);
            }
            let left = u64::try_from(expires_ms.saturating_sub(wall.unix_ms)).map_err(|_| Refusal::Expired)?;
            deadline = deadline.min(now.after(Duration::from_millis(left)));
        }
        if now >= deadline { Err(Refusal::Expired) } else { Ok(deadline) }
    }

    /// `None`: the device has no bus, because its tags are derived.
    fn bus_of(&self, plan: &Plan, tag: TagIx) -> Option<Arc<BusHandle>> {
        let DeviceIx(device) = plan.tag(tag)?.device;
        let bus = plan.devices.get(device as usize)?.bus?;
        self.buses.load().get(bus.0 as usize)?.as_ref().map(|slot| slot.load_full())
    }

    async fn finish(&self, entry: EntryId, tag_topic: &str, outcome: &Outcome, response: &Response) {
        let result = json::command_result(response.id.as_deref(), outcome);
        // What was never sent, the device being paused or just touched by a reload, may be asked for again in a minute.
        let written = match outcome {
            Outcome::Refused(_) => self.journal.dismiss(entry, result.clone()).await,
            Outcome::Done { .. } | Outcome::Failed { .. } => self.journal.close(entry, result.clone()).await,
        };
        if let Err(error) = written {
            // The command is done; only its memory is not. After a crash it would be answered "failed: unknown".
            tracing::error!(%error, "result of a command cannot be journalled");
        }
        self.answers.publish(tag_topic, result.clone(), response, Stored::Yes);
        self.store(tag_topic, result).await;
    }

    async fn store(&self, tag_topic: &str, result: Vec<u8>) {
        let (topic, at) = (result_topic(tag_topic).into(), self.clock.now());
        self.hub.emit_event(EventRecord { topic, body: result, class: Class::Event, at, committed: None }).await;
    }

    async fn answer_unfinished(&self) {
        for UnfinishedEntry { id: open, entry } in self.journal.unfinished().await {
            let outcome = Outcome::Failed { reason: Failure::Unknown, read_back: None };
            tracing::warn!(
                audit = "command_ended",
                topic = entry.tag,
                origin = entry.origin,
                %outcome,
                "command was open when the gateway went down"
            );
            let response =
                Response { id: request::id_of(&entry.payload), topic: None, correlation: None, replies: None };
            self.finish(open, &entry.tag, &outcome, &response).await;
        }
    }
}

impl Answers {
    /// `None`: the tag is gone.
    fn topic(&self, tag: TagIx) -> Option<Arc<str>> {
        let plan = self.plan.load();
        plan.live_tag(tag).map(|tag| Arc::clone(&tag.topic))
    }

    /// Refusals are answered at once; they are not remembered, so that the same id may be tried again.
    fn refuse(&self, request: &Request, admitted: oneshot::Sender<Admission>, reason: Refusal) {
        let Some(tag_topic) = self.topic(request.tag) else {
            // A reload took the tag away while the command was on its way: there is no topic to answer on.
            let _ = admitted.send(Admission::Refused(reason)); // the sender may be gone
            return;
        };
        self.access.command_refused((&request.origin, &tag_topic), reason);
        let id = id_of(request);
        let response = Response::to(request, id);
        let result = json::command_result(response.id.as_deref(), &Outcome::Refused(reason));
        self.publish(&tag_topic, result, &response, Stored::No);
        let _ = admitted.send(Admission::Refused(reason)); // the sender may be gone
    }

    fn publish(&self, tag_topic: &str, result: Vec<u8>, response: &Response, stored: Stored) {
        if let Some(replies) = &response.replies {
            replies.tell(Reply {
                result_topic: result_topic(tag_topic),
                result: result.clone(),
                stored,
                response_topic: response.topic.clone(),
                correlation: response.correlation.clone(),
            });
        } else if let Some(topic) = &response.topic {
            self.publisher.respond(topic.as_str().into(), result.clone().into(), response.correlation.clone());
        }
        self.publisher.publish(result_topic(tag_topic).into(), result.into());
    }

    async fn refuse_the_rest(self, mut commands: mpsc::Receiver<Submitted>) {
        while let Some(Submitted { request, admitted }) = commands.recv().await {
            self.refuse(&request, admitted, Refusal::Stopping);
        }
    }
}

/// A bus that ends does not know whether the gateway does: if only a reload has touched it, another one takes its place.
fn of_gateway(outcome: Outcome, stop: &Stop) -> Outcome {
    match outcome {
        Outcome::Refused(Refusal::Stopping) if !stop.is_begun() => Outcome::Refused(Refusal::Busy),
        outcome => outcome,
    }
}

/// The id in the payload, or the correlation data.
fn id_of(request: &Request) -> Option<String> {
    request::id_of(&request.payload).or_else(|| request.correlation.as_deref().map(hex))
}

/// What the journal knows a command by.
fn key(tag_topic: &str, id: &str) -> String {
    format!("{tag_topic}\0{id}")
}

/// Correlation data as an id that fits into JSON.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}
