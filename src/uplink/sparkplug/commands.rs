//! What comes in for an edge node: NCMD and DCMD, and the state of its primary host.
//!
//! ```text
//!  poller ── Intake (bounded) ──> serve ── DCMD: flow::command ──> router (allow list, limits, deadline, journal, read-back)
//!    └─ STATE: Ears                └────── NCMD: Ears ──> feeder
//! ```
//!
//! "Node Control/Rebirth" and the like are taken from every host that may publish there; writes only with `commands = true`:
//! without, births say that nothing can be written (`readOnly`), and DCMD is not subscribed to. A write that is refused is counted,
//! told to the log, and answered by the value that the metric really has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::answers::SHOWN_MAX;
use super::catalogue::{Catalogue, Entry, Known};
use super::host::is_credible;
use super::{EdgeNode, ms};
use crate::config::plan::{Plan, ReceiveQos, SparkplugPlan};
use crate::flow::clock::Clock;
use crate::flow::command::{Admission, CommandEntry, Redelivery, Request, Retained as Retain};
use crate::model::lock::Hold as _;
use crate::model::sparkplug::{Kind, Topic, state_topic};
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::payload::sparkplug::{
    Command, DataType, NEXT_SERVER, REBIRTH, SCAN_RATE, State, decode_command, decode_state,
};
use crate::road::inside::InnerDoor;
use crate::uplink::client::{Handling, Receiver, Wanted};
use crate::uplink::downlink::Commands;
use crate::uplink::intake::{Arrived, Intake};
use crate::uplink::stats::UplinkStats;

/// A write that is older moves nothing any more. Commands live 30 s; a host's clock may be another 30 s behind ours.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// One line in this time: strangers must not fill the journal.
const PERIOD: Duration = Duration::from_secs(60);

/// What was heard since it was asked for last.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Of the primary host, newest last.
    pub(super) states: Vec<State>,
    /// Something came on the topic of its state.
    pub(super) on_state: bool,
    pub(super) rebirth: bool,
    pub(super) next_server: bool,
    /// ms
    pub(super) scan_rate: Option<u64>,
    /// Aliases of metrics whose value is to be told again.
    pub(super) show: BTreeSet<u64>,
}

/// Between who takes what comes in and the feeder.
pub(in crate::uplink) struct Ears {
    host_topic: Option<String>,
    clock: Clock,
    heard: Mutex<Heard>,
    changed: Notify,
    /// By which it comes to its hosts in memory, if it does.
    door: OnceLock<InnerDoor>,
}

impl Ears {
    pub(super) fn new(spark: &SparkplugPlan, clock: Clock) -> Self {
        let host_topic = spark.primary_host.as_deref().map(state_topic);
        Self { host_topic, clock, heard: Mutex::default(), changed: Notify::new(), door: OnceLock::new() }
    }

    /// It comes to its hosts by this door.
    pub(in crate::uplink) fn come_in_by(&self, door: InnerDoor) {
        self.door.get_or_init(|| door);
    }

    /// Does one of its hosts have more waiting for him than is good?
    pub(super) fn is_pressed(&self) -> bool {
        self.door.get().is_some_and(|door| door.pressure().is_on())
    }

    /// Bytes that may be on their way at most, if they are not to be more than a host has room for.
    pub(in crate::uplink) fn in_flight_max(&self) -> Option<usize> {
        self.door.get().map(InnerDoor::bytes_max)
    }

    /// Nothing of the session before counts.
    pub(super) fn begin(&self) {
        *self.lock() = Heard::default();
    }

    /// Anything on any topic: the state of the primary host is taken at once, in its order, whatever waits.
    pub(in crate::uplink) fn overhear(&self, topic: &str, payload: &[u8]) {
        if self.host_topic.as_deref() != Some(topic) {
            return;
        }
        self.note(|heard| heard.on_state = true);
        match decode_state(payload) {
            Ok(State { timestamp_ms, .. }) if !is_credible(timestamp_ms, &self.clock) => {
                tracing::warn!(topic, timestamp_ms, "state of a host passed over: its time is far ahead of ours");
            }
            Ok(state) => self.note(|heard| {
                // What is older, or said already, says nothing. Of what nobody looked at yet the last two tell all there is: that it
                // went or began anew, and where it stands.
                let newest = heard.states.last();
                if newest.is_some_and(|newest| state.timestamp_ms < newest.timestamp_ms || state == *newest) {
                    return;
                }
                if heard.states.len() > 1 {
                    heard.states.remove(0);
                }
                heard.states.push(state);
            }),
            Err(error) => tracing::warn!(topic, error = %error, "state of a host not understood"),
        }
    }

    /// How long a write of this time may still be carried out; `None`: it says no time, or we do not know what time it is.
    fn left(&self, timestamp_ms: Option<u64>, arrived: Stamp) -> Option<Duration> {
        let told_ms = timestamp_ms.filter(|told_ms| *told_ms > 0)?;
        let wall = self.clock.wall(arrived);
        let age = Duration::from_millis(ms(wall.unix_ms).saturating_sub(told_ms));
        wall.certainty.is_fixed().then(|| WRITE_MAX.saturating_sub(age))
    }

    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// Where the primary host says whether it is there, if there is one.
    pub(super) fn host_topic(&self) -> Option<&str> {
        self.host_topic.as_deref()
    }

    /// Takes what was heard.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut self.lock())
    }

    /// Waits for something new, or for a host that has room again; one waiter only. Cancel-safe.
    pub(in crate::uplink) async fn changed(&self) {
        let Some(pressure) = self.door.get().map(InnerDoor::pressure) else { return self.changed.notified().await };
        tokio::select! {
            () = self.changed.notified() => {}
            () = pressure.relieved() => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.hold()
    }
}

/// Turns what came in into requests.
struct Desk {
    catalogue: Arc<ArcSwap<Catalogue>>,
    plan: Option<Arc<ArcSwap<Plan>>>,
    commands: Option<Commands>,
    ears: Arc<Ears>,
    origin: String,
    stats: Arc<UplinkStats>,
    /// When a refusal was logged last, and how many were not since.
    quiet: Mutex<(Option<Instant>, u64)>,
}

impl EdgeNode {
    /// For the one SUBSCRIBE of a session. One filter stands for all devices: a reload may make others writable, and births
    /// follow it in the same session.
    pub(in crate::uplink) fn filters(&self) -> Vec<Wanted> {
        let wanted = |filter, handling| Wanted { filter, qos: ReceiveQos::AtLeastOnce, handling };
        let mut filters = vec![wanted(self.node.topic(Kind::NCmd), Handling::Never)];
        if self.commands.is_some() {
            filters.push(wanted(self.node.device_commands(), Handling::Never));
        }
        filters.extend(self.ears.host_topic.clone().map(|topic| wanted(topic, Handling::AtFirst)));
        filters
    }

    /// Takes arrivals one after the other and acknowledges each. Runs beside the feeder and ends with the session.
    pub(in crate::uplink) fn serve(
        &self,
        stats: &Arc<UplinkStats>,
        receiver: Receiver,
    ) -> (Intake, impl Future<Output = ()> + Send + 'static) {
        let (intake, mut arrivals): (Intake, mpsc::Receiver<Arrived>) =
            Intake::of_commands(self.clock.clone(), Arc::clone(stats));
        let desk = Desk {
            catalogue: Arc::clone(&self.shown),
            plan: self.plant.as_ref().map(|plant| Arc::clone(&plant.plan)),
            commands: self.commands.clone(),
            ears: Arc::clone(&self.ears),
            origin: self.origin.clone(),
            stats: Arc::clone(stats),
            quiet: Mutex::default(),
        };
        let serving = async move {
            while let Some(arrived) = arrivals.recv().await {
                let receipt = arrived.arrival.receipt.clone();
                desk.take(arrived).await;
                if receiver.acknowledge(&receipt).is_err() {
                    return; // the session is over
                }
            }
        };
        (intake.heard_by(self.ears()), serving)
    }
}

impl Desk {
    async fn take(&self, arrived: Arrived) {
        let topic = arrived.arrival.topic.clone();
        let device = match Topic::parse(&topic) {
            Some(Topic::State { .. }) => return, // heard already
            Some(Topic::Node { kind: Kind::NCmd, .. }) => None,
            Some(Topic::Device { kind: Kind::DCmd, device, .. }) => Some(device),
            _ => return self.stats.commands_foreign.one(),
        };
        let commands = match decode_command(&arrived.arrival.payload) {
            Ok(commands) => commands,
            Err(error) => return self.refuse(&topic, &error.to_string(), 1),
        };
        match device {
            None if arrived.arrival.retain => self.refuse(&topic, "retained", commands.len()),
            None => self.control(&topic, &commands),
            Some(device) => {
                let Some(Commands { entry: road, .. }) = &self.commands else {
                    return self.stats.commands_foreign.one(); // nobody subscribed to it
                };
                for command in &commands {
                    self.write(road, (&topic, device), command, &arrived).await;
                }
            }
        }
    }

    fn refuse(&self, topic: &str, reason: &str, count: usize) {
        let count = count as u64;
        self.stats.commands.add(count);
        self.stats.commands_refused.add(count);
        let mut quiet = self.quiet.hold();
        if quiet.0.is_some_and(|told| told.elapsed() < PERIOD) {
            quiet.1 += count;
            return;
        }
        let unsaid = std::mem::take(&mut quiet.1);
        quiet.0 = Some(Instant::now());
        drop(quiet);
        tracing::warn!(audit = "command_refused", topic, origin = self.origin, reason, unsaid, "command refused");
    }

    /// Commands for the node itself; their metrics have names and no aliases.
    fn control(&self, topic: &str, commands: &[Command]) {
        for command in commands {
            match command.name.as_deref() {
                Some(REBIRTH) if command.told.is_true() => self.ears.note(|heard| heard.rebirth = true),
                Some(NEXT_SERVER) if command.told.is_true() => self.ears.note(|heard| heard.next_server = true),
                Some(REBIRTH | NEXT_SERVER) => {} // false asks for nothing
                Some(SCAN_RATE) => match command.told.as_kind(DataType::Int64) {
                    Ok(Value::Int(every_ms)) if every_ms > 0 => {
                        self.ears.note(|heard| heard.scan_rate = Some(every_ms.unsigned_abs()));
                    }
                    _ => {
                        self.refuse(topic, "the scan rate is a number of milliseconds above 0", 1);
                        continue;
                    }
                },
                _ => {
                    self.refuse(topic, "the node has no such metric that can be written", 1);
                    continue;
                }
            }
            self.stats.commands.one();
        }
    }

    async fn write(&self, road: &CommandEntry, (topic, device): (&str, &str), command: &Command, arrived: &Arrived) {
        let catalogue = self.catalogue.load_full();
        let Some(entry) = find(&catalogue, device, command) else {
            return self.refuse(topic, "the device has no such metric", 1);
        };
        if let Err(reason) = self.submit(road, entry, command, arrived).await {
            if let Some(reason) = reason {
                self.refuse(topic, &reason, 1);
            } else {
                self.stats.commands.one();
                self.stats.commands_refused.one();
            }
            self.ears.note(|heard| {
                if heard.show.len() < SHOWN_MAX {
                    heard.show.insert(entry.alias);
                }
            });
            return;
        }
        self.stats.commands.one();
    }

    /// `Err`: refused, with the reason where nobody has told it yet.
    async fn submit(
        &self,
        road: &CommandEntry,
        entry: &Entry,
        command: &Command,
        arrived: &Arrived,
    ) -> Result<(), Option<String>> {
        let value = command.told.as_kind(entry.kind).map_err(|error| Some(error.to_string()))?;
        let plan = self.plan.as_ref().map(|plan| plan.load());
        let writes = plan.as_ref().and_then(|plan| plan.tag(entry.tag)).is_some_and(|tag| tag.access.writes());
        drop(plan);
        if !writes {
            return Err(Some("the tag may not be written".to_owned()));
        }
        let arrival = &arrived.arrival;
        let request = Request {
            tag: entry.tag,
            payload: json(&value).into_bytes(),
            retained: if arrival.retain { Retain::Yes } else { Retain::No },
            redelivery: if arrival.dup { Redelivery::Again } else { Redelivery::First },
            expiry: self.ears.left(command.timestamp_ms, arrived.at),
            correlation: None,
            response_topic: None,
            origin: self.origin.clone(),
            replies: None,
            at: arrived.at,
        };
        match road.submit(request).await {
            Admission::Accepted => Ok(()),
            Admission::Refused(_) => Err(None),
        }
    }
}

/// By its alias, or by its name; where both are there they must mean the same.
fn find<'c>(catalogue: &'c Catalogue, device: &str, command: &Command) -> Option<&'c Entry> {
    let known: &Known = catalogue.device(device)?;
    known.metrics.iter().find(|entry| {
        let alias = command.alias.is_none_or(|alias| alias == entry.alias);
        let name = command.name.as_deref().is_none_or(|name| name == entry.name);
        alias && name
    })
}

/// As the `…/set` topics have it.
fn json(value: &Value) -> String {
    match value {
        Value::Text(text) => serde_json::Value::from(&**text).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Datatypes;
    use crate::flow::clock::{FakeTime, Fix};
    use crate::model::sparkplug::Node;
    use crate::model::time::Boot;

    #[test]
    fn a_write_that_was_long_on_its_way_has_no_time_left() {
        const NOW_MS: u64 = 1_795_204_800_000;
        let clock = Clock::new(Arc::<FakeTime>::default(), Boot(1), 0);
        let spark = SparkplugPlan {
            node: Node::new("g", "gw").expect("good ids"),
            primary_host: None,
            host_timeout: Duration::ZERO,
            datatypes: Datatypes::Births,
        };
        let ears = Ears::new(&spark, clock.clone());
        assert_eq!(ears.left(Some(NOW_MS), clock.now()), None, "who knows what time it is?");
        clock.learn(Fix { at: clock.now(), unix_ms: 1_795_204_800_000 });
        let left = |told_ms| ears.left(told_ms, clock.now());
        assert_eq!([left(None), left(Some(0))], [None, None], "it says no time");
        assert_eq!(left(Some(NOW_MS - 20_000)), Some(Duration::from_secs(40)));
        assert_eq!(left(Some(NOW_MS - 60_000)), Some(Duration::ZERO));
        assert_eq!(left(Some(1)), Some(Duration::ZERO));
        assert_eq!(left(Some(NOW_MS + 5_000)), Some(WRITE_MAX), "its clock is ahead of ours");
    }
}
