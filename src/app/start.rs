//! Builds the house from a plan.
//!
//! Order: store (it knows the boot and the clock's past) → clock → broker → buses and router → uplinks. `running` takes it
//! down in the opposite spirit: sources first, then everyone else because the channel in front closed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::broker::{Broker, BrokerParts, Publisher};
use crate::config::plan::{Downlink, Plan};
use crate::disk::journal::CommandJournal;
use crate::flow::clock::Clock;
use crate::flow::command::{self, CommandEntry};
use crate::flow::forward::ForwardEntry;
use crate::flow::hub::{self, EventRecord, Hub};
use crate::flow::latest::Latest;
use crate::flow::notice::{self, Notice, Notices};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::host::clock::{self as host_clock, Told, Watch};
use crate::host::facts;
use crate::model::tag::{BusIx, TagIx};
use crate::model::topic::{GatewayTopics, Ownership};
use crate::payload::json;
use crate::pipeline::derive::Derive;
use crate::status::values::Values;
use crate::store::{self, Opening, Route, StoreHandle, TagMeta};
use crate::uplink::{Commands, StoreSource, Timing, Uplink, UplinkParts};

use super::alarm_memory::AlarmMemory;
use super::alarms::AlarmBoard;
use super::board::Sources;
use super::bridges::{Around, Bridges, Connecting, pass_on};
use super::derived;
use super::events::Events;
use super::forwarding;
use super::gatekeeper::Gatekeeper;
use super::learned;
use super::publisher::LivePublisher;
use super::quarters::Quarters;
use super::reload::Reloader;
use super::router::{Answers, BusSlot, Router};
use super::running::{Running, Tasks, Uplinks};
use super::status;
use super::supervisor::{BusParts, WatchedBus, build, watch_broker, watch_stores};
use super::timekeeper::Timekeeper;
use super::watchdog;

/// Why a gateway with a valid plan could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No private directory for sockets.
    #[error("cannot make a private runtime directory: {0}")]
    RuntimeDir(io::Error),
    /// No threads for local clients.
    #[error("cannot start threads for local clients: {0}")]
    Quarters(io::Error),
    /// The broker's own files.
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
    /// A thread of the start died.
    #[error("a start thread died: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// What every other part is built on.
struct Base {
    plan: Arc<Plan>,
    stop: Stop,
    clock: Clock,
    store: StoreHandle,
    hub: Hub,
    latest: Arc<Latest>,
    notices: Notices,
    told: mpsc::Receiver<Notice>,
    watch: Watch,
    progress: Progress,
}

impl Base {
    fn around(&self) -> Around<'_> {
        let boot_token = facts::boot_token(facts::systemd_runtime_dir().as_deref());
        Around { plan: &self.plan, clock: &self.clock, notices: &self.notices, boot_token }
    }

    fn connecting<'a>(&'a self, publisher: &'a Publisher, run_dir: &Path, timing: Timing) -> Connecting<'a> {
        Connecting {
            gateway: &self.plan.gateway.name,
            clock: &self.clock,
            notices: &self.notices,
            publisher,
            progress: &self.progress,
            run_dir: run_dir.to_owned(),
            timing,
            stop: self.stop.clone(),
        }
    }
}

/// Builds everything and lets it run; `stop` is heard by the sources, `patience` is the uplinks'.
pub async fn start(plan: Arc<Plan>, stop: Stop, patience: Timing) -> Result<Running, StartError> {
    let run_dir = facts::RuntimeDir::new().map_err(StartError::RuntimeDir)?;
    let base = lay_base(Arc::clone(&plan), stop.clone()).await?;
    let (entry, commands) = command::road();
    let ownership = Arc::new(ownership(&plan));
    let quarters = Quarters::new().map_err(StartError::Quarters)?;
    let access = Arc::new(Access::new(&plan.broker));
    let bridges = Bridges::open(base.around()).await?;
    let forward = forwarding::entry(&plan, &base.hub, &bridges);
    let entries = (entry.clone(), forward.clone());
    let (mut broker, publisher) = build_broker(&base, &access, Arc::clone(&ownership), entries).await?;
    bridges.offer_retained(&publisher, &forward).await;
    let control = broker.control();
    let gatekeeper = Arc::new(Gatekeeper::new(Arc::clone(&access), broker.control(), base.notices.clone()));
    gatekeeper.load().await;
    let upstream = commands_from_upstream(&plan, ownership, entry.clone());
    let values = plan.status.is_some().then(|| Arc::new(Values::new(Arc::clone(&plan), base.clock.clone())));
    let live = LivePublisher::new(Arc::clone(&plan), base.clock.clone(), publisher.clone(), values.clone());
    live.begin();
    let (broker, addresses) = quarters
        .spawn(async move {
            let addresses = broker.bind().await;
            (broker, addresses)
        })
        .await?;
    announce(&plan);

    let alarms = resume_alarms(&base, publisher.clone()).await?;
    let shown = alarms.shown();
    let broker_end = CancellationToken::new();
    let answers = Answers { plan: Arc::clone(&plan), publisher: publisher.clone() };
    let (mut sources, buses) = start_buses_and_router(&base, commands, answers, &broker_end);
    sources.spawn(forwarding::close_at_stop(forward, stop.clone()));
    let connecting = base.connecting(&publisher, run_dir.path(), patience);
    let mut uplinks = start_uplinks(&base, &upstream, &connecting);
    let bridge_stores = bridges.start(&connecting, &mut uplinks, &mut sources);

    let figures = Sources {
        plan: Arc::clone(&plan),
        clock: base.clock.clone(),
        started: base.clock.now(),
        buses,
        latest: Arc::clone(&base.latest),
        hub: base.hub.stats(),
        uplinks: uplinks.stats.clone(),
        store: base.store.stats(),
        bridge_stores: bridge_stores.figures(&plan),
        broker: publisher.stats(),
        access: Arc::clone(&access),
        notices: base.notices.clone(),
        progress: base.progress.clone(),
        alarms: shown,
        status: Arc::default(),
    };
    let renew = gatekeeper.renewals();
    let status = status::open(&plan, figures, &quarters, (values, entry), (&mut sources, &stop, renew)).await?;

    let Base { clock, store, hub, latest, told, watch, notices, progress, .. } = base;
    let reloader = Reloader { plan: Arc::clone(&plan), gatekeeper: Arc::clone(&gatekeeper), notices: notices.clone() };
    sources.spawn(progress.watch("users", "", gatekeeper.run(stop.clone())));
    watchdog::ask_store(&mut sources, &progress, ("", &store), &stop);
    let ledger = watchdog::ask(async move || control.disk_answers().await, stop.clone());
    sources.spawn(progress.watch("ledger", "", ledger));
    let timekeeper = Timekeeper { clock: clock.clone(), store: store.clone(), notices: notices.clone() };
    sources.spawn(progress.watch("clock", "", timekeeper.run(watch, stop.clone())));
    let events_end = Stop::new();
    let events = Events::new(&plan.gateway.name, clock, publisher).run(told, hub, events_end.clone());
    let ((broken, broke), bridged) = (watch::channel(None), bridge_stores.stores.clone());
    let tasks = Tasks {
        sources,
        events: tokio::spawn(progress.watch("events", "", events)),
        live: quarters.spawn(progress.watch("publisher", "", live.run(Arc::clone(&latest), alarms))),
        store_watch: tokio::spawn(watch_stores(store.clone(), bridged, stop.clone(), broken.clone())),
        broker: quarters.spawn(watch_broker(broker, stop.clone(), broker_end.clone(), broken, progress.clone())),
    };
    Ok(Running {
        stop,
        tasks,
        events_end,
        uplinks,
        latest,
        broker_end,
        broke,
        store,
        bridge_stores,
        addresses,
        status,
        run_dir,
        store_dir: store_dir(&plan),
        reloader,
        progress,
        notices,
        _quarters: quarters,
    })
}

/// The board of alarms as the last run left it; buses that begin now begin with its alarms.
async fn resume_alarms(base: &Base, publisher: Publisher) -> Result<AlarmBoard, StartError> {
    let memory = AlarmMemory::in_dir(&base.plan.gateway.data_dir);
    let (reader, plan) = (memory.clone(), Arc::clone(&base.plan));
    let remembered = tokio::task::spawn_blocking(move || reader.read(&plan)).await?;
    base.latest
        .alarms
        .resume(remembered.active.iter().flat_map(|(tag, levels)| levels.keys().map(|level| (*tag, *level))));
    let topics = GatewayTopics::new(&base.plan.gateway.name);
    for gone in &remembered.gone {
        let (at, class) = (base.clock.now(), gone.class());
        let body = json::forgotten_alarm(&gone.event, base.clock.wall(at));
        let topic = topics.alarm(&gone.device, &gone.tag).into();
        base.hub.emit_event(EventRecord { topic, body, class, at, committed: None }).await;
    }
    Ok(AlarmBoard::new(Arc::clone(&base.plan), publisher, memory, remembered))
}

async fn lay_base(plan: Arc<Plan>, stop: Stop) -> Result<Base, StartError> {
    // Where the data directory cannot be used, values are polled and served all the same: the store says so and tries
    // again, and commands are refused, because they cannot be journalled.
    let token = facts::boot_token(facts::systemd_runtime_dir().as_deref());
    let opening = opening(&plan, token);
    let store = tokio::task::spawn_blocking(move || store::open(opening)).await?;
    let seen_ms = store.latest_wall_ms();
    let clock = host_clock::system_clock(store.boot(), seen_ms);
    for fix in store.fixes() {
        clock.learn(fix);
    }
    let floor = clock.floor();
    let mut watch = Watch::new(plan.gateway.time_source.clone(), seen_ms);
    let first_fix = match watch.look(&clock) {
        Told::Fix(fix) | Told::Set(fix) => Some(fix),
        Told::Nothing | Told::Unset(_) => None,
    };
    for fix in floor.into_iter().chain(first_fix) {
        clock.learn(fix);
    }
    let (notices, told) = notice::remembered(clock.clone());
    let (hub, latest, durable) = hub::hub(plan.tags.iter().map(|tag| tag.class).collect());
    let store = store.start(durable, clock.clone(), notices.clone());
    for fix in floor.into_iter().chain(first_fix) {
        store.record_fix(fix);
    }
    Ok(Base { plan, stop, clock, store, hub, latest, notices, told, watch, progress: Progress::default() })
}

fn opening(plan: &Plan, boot_token: String) -> Opening {
    let device = |tag: &crate::config::plan::TagPlan| plan.devices[tag.device.0 as usize].name.clone();
    let tags = plan.tags.iter().map(|tag| TagMeta {
        device: device(tag),
        name: tag.name.clone(),
        topic: Arc::clone(&tag.topic),
        data_type: tag.data_type,
        class: tag.class,
    });
    let routes = plan.uplinks.iter().map(|uplink| Route {
        name: uplink.name.clone(),
        classes: uplink.classes.clone(),
        start: uplink.start,
    });
    Opening {
        dir: store_dir(plan),
        max_size: plan.store.max_size,
        max_age: plan.store.max_age,
        commit_interval: plan.store.commit_interval,
        tags: tags.collect(),
        uplinks: routes.collect(),
        boot_token,
    }
}

/// Where the store of a plan lies: its own directory below the data directory.
pub fn store_dir(plan: &Plan) -> PathBuf {
    plan.gateway.data_dir.join("store")
}

/// Which topic is whose, on the local broker and, behind `topic_prefix`, upstream.
fn ownership(plan: &Plan) -> Ownership {
    let topics = plan.tags.iter().map(|tag| Arc::clone(&tag.topic));
    Ownership::new(topics.zip((0..).map(TagIx)))
}

/// What each uplink with `commands = true` is given.
fn commands_from_upstream(plan: &Plan, ownership: Arc<Ownership>, entry: CommandEntry) -> Commands {
    let writable = plan.tags.iter().filter(|tag| tag.access.writes());
    Commands { entry, ownership, writable: writable.map(|tag| Arc::clone(&tag.topic)).collect() }
}

async fn build_broker(
    base: &Base,
    access: &Arc<Access>,
    ownership: Arc<Ownership>,
    (commands, forward): (CommandEntry, ForwardEntry),
) -> Result<(Broker, Publisher), StartError> {
    let parts = BrokerParts {
        plan: base.plan.broker.clone(),
        access: Arc::clone(access),
        ownership,
        commands,
        forward,
        clock: base.clock.clone(),
        notices: base.notices.clone(),
        ledger_path: base.plan.gateway.data_dir.join("broker.db"),
    };
    Ok(tokio::task::spawn_blocking(move || Broker::new(parts)).await??)
}

fn start_buses_and_router(
    base: &Base,
    commands: mpsc::Receiver<command::Submitted>,
    answers: Answers,
    end: &CancellationToken,
) -> (JoinSet<()>, Vec<BusSlot>) {
    let journal = CommandJournal::open(&base.plan.gateway.data_dir.join("commands.db"));
    let mut sources = JoinSet::new();
    let mut buses = Vec::with_capacity(base.plan.buses.len());
    let parts = BusParts {
        plan: Arc::clone(&base.plan),
        hub: base.hub.clone(),
        clock: base.clock.clone(),
        stop: base.stop.clone(),
        notices: base.notices.clone(),
        progress: base.progress.clone(),
        memory: learned::open(&base.plan.gateway.data_dir, &base.clock),
        build: Arc::new(build),
    };
    // Before the first bus, so that it hears everything.
    if let Some(derive) = Derive::new(&base.plan) {
        let tap = base.hub.tap(&derive.wanted());
        sources.spawn(derived::watch(parts.clone(), derive, tap));
    }
    for (_, bus) in base.plan.buses.iter().zip((0..).map(BusIx)) {
        let (watched, slot) = WatchedBus::new(parts.clone(), bus);
        buses.push(slot);
        sources.spawn(watched.run());
    }
    let asked = journal.clone();
    let asking = watchdog::ask(async move || asked.answers().await, base.stop.clone());
    sources.spawn(base.progress.watch("journal", "", asking));
    let router = Router {
        plan: Arc::clone(&base.plan),
        buses: buses.clone(),
        journal,
        clock: base.clock.clone(),
        answers,
        hub: base.hub.clone(),
        end: end.clone(),
    };
    sources.spawn(base.progress.watch("router", "", router.run(commands, base.stop.clone())));
    (sources, buses)
}

fn start_uplinks(base: &Base, commands: &Commands, connecting: &Connecting<'_>) -> Uplinks {
    let (mut tasks, mut stats, stop) = (JoinSet::new(), Vec::new(), Stop::new());
    for plan in &base.plan.uplinks {
        let source = StoreSource::new(base.store.clone(), &plan.name);
        let source = source.expect("the store was opened with every uplink of this plan");
        let parts = UplinkParts {
            plan: plan.clone(),
            gateway: base.plan.gateway.name.clone(),
            source,
            clock: base.clock.clone(),
            notices: base.notices.clone(),
            commands: (plan.commands == Downlink::Accepted).then(|| commands.clone()),
            pass_on: Some(pass_on(connecting.publisher.clone())),
            run_dir: connecting.run_dir.clone(),
            timing: connecting.timing,
        };
        let (uplink, counted) = Uplink::new(parts);
        stats.push((plan.name.clone(), counted));
        tasks.spawn(base.progress.watch("uplink", &plan.name, uplink.run(stop.clone())));
    }
    Uplinks { tasks, stats, stop }
}

fn announce(plan: &Plan) {
    let (buses, devices, tags) = (plan.buses.len(), plan.devices.len(), plan.tags.len());
    tracing::info!(gateway = plan.gateway.name, buses, devices, tags, uplinks = plan.uplinks.len(), "gateway started");
}
