//! Builds the house from a plan.
//!
//! Order: store (it knows the boot and the clock's past) → clock → broker → buses and router → uplinks. Buses, uplinks and
//! bridges are parts of the `house`, which begins them here and exchanges them at a reload. `running` takes it
//! down in the opposite spirit: sources first, then everyone else because the channel in front closed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::broker::{Broker, BrokerParts, Control, Publisher};
use crate::config::plan::Plan;
use crate::disk::journal::CommandJournal;
use crate::field::Pauses;
use crate::flow::clock::Clock;
use crate::flow::command::{self, CommandEntry};
use crate::flow::forward::ForwardEntry;
use crate::flow::hub::{self, EventRecord, Hub};
use crate::flow::latest::Latest;
use crate::flow::notice::{self, Notice, Notices};
use crate::flow::progress::Progress;
use crate::flow::stop::Stop;
use crate::host::clock::{self as host_clock, News, Watch};
use crate::host::facts::{self, RuntimeDir};
use crate::model::topic::{GatewayTopics, Ownership};
use crate::payload::json;
use crate::status::values::Values;
use crate::store::StoreHandle;
use crate::uplink::Timing;

use super::alarm_memory::AlarmMemory;
use super::alarms::{AlarmBoard, Shown};
use super::bridges::Bridges;
use super::buses::Buses;
use super::events::Events;
use super::fallback::Fallback;
use super::forwarding;
use super::gatekeeper::Gatekeeper;
use super::house::House;
use super::insight::Insight;
use super::journalling;
use super::learned;
use super::means::{Means, own_nodes, places, topics};
use super::opening::{self, NotOpened, store_dir};
use super::quarters::Quarters;
use super::reload::Reloader;
use super::roster::{StoreRoster, UplinkRoster, plan_now};
use super::router::{Answers, Router};
use super::running::{Running, Tasks};
use super::sources::Sources;
use super::status::{self, Page};
use super::supervisor::{watch_broker, watch_store};
use super::timekeeper::Timekeeper;
use super::turns::{Turns, turns};
use super::uplinks::Uplinks;
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
    /// The store.
    #[error(transparent)]
    Store(#[from] NotOpened),
    /// The broker's own files.
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
    /// A thread of the start died.
    #[error("a start thread died: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// What every other part is built on.
struct Base {
    run_dir: RuntimeDir,
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
    broken: watch::Sender<Option<&'static str>>,
}

/// What leads to the gateway's own broker, and in through it.
struct Local {
    publisher: Publisher,
    control: Control,
    entry: CommandEntry,
    forward: ForwardEntry,
    ownership: Arc<Ownership>,
}

/// Builds everything and lets it run; `stop` is heard by the sources, `patience` is the uplinks'.
pub async fn start(plan: Arc<Plan>, stop: Stop, patience: Timing) -> Result<Running, StartError> {
    let base = lay_base(Arc::clone(&plan), stop.clone()).await?;
    let (entry, commands) = command::road();
    let quarters = Quarters::new().map_err(StartError::Quarters)?;
    let access = Arc::new(Access::new(&plan.broker));
    let (broker, local) = build_broker(&base, &access, entry.clone()).await?;
    let publisher = local.publisher.clone();
    let (turns, turned) = turns();
    let means = means(&base, local, turns, patience);
    let values = plan.status.is_some().then(|| Arc::new(Values::new(Arc::clone(&plan), base.clock.clone())));
    let live = means.live(&plan, values.clone());
    let mut house = house(&base, means, Arc::clone(&access));
    house.open_bridges(&[]).await.inspect_err(|_| stop.begin())?; // what runs by now is not missed
    house.gatekeeper.load().await;
    live.begin();
    let (broker, addresses) = bind(&quarters, broker).await?;
    announce(&plan);

    let alarms = resume_alarms(&base, publisher.clone()).await?;
    let broker_end = CancellationToken::new();
    house.buses.begin(&house.means, &plan).await;
    let mut sources = start_sources(&base, &house, commands, &access, &broker_end);
    house.uplinks.begin(&house.means, &plan);
    house.bridges.connect(&house.means, &plan.gateway.name);
    house.show_roster();
    let insight = Insight(figures(&base, &house, &access, alarms.shown()));
    let crew = house.means.crew(&stop);
    let (shows, renew) = (insight.0.clone(), house.gatekeeper.renewals());
    let page = Page { sources: shows, values, commands: entry, renew, stop: stop.clone() };
    let status = status::open(&plan, page, &quarters, &crew, &mut sources).await.inspect_err(|_| stop.begin())?;

    let Base { run_dir, clock, store, hub, latest, told, watch: time, notices, progress, broken, .. } = base;
    let timekeeper = Timekeeper { clock: clock.clone(), store: store.clone(), notices: notices.clone() };
    sources.spawn(crew.run("clock", timekeeper.run(time, stop.clone())));
    let (roster, in_force, farewell) = (Arc::clone(&house.roster), Arc::clone(&house.means.plan), house.farewell());
    let events_end = Stop::new();
    let events = Events::new(&plan.gateway.name, clock, publisher, &notices).run(told, hub, events_end.clone());
    let tasks = Tasks {
        sources,
        events: tokio::spawn(crew.run("events", events)),
        live: quarters.spawn(crew.run("publisher", live.run(Arc::clone(&latest), alarms, turned))),
        store_watch: tokio::spawn(watch_store(store.clone(), "the store", stop.clone(), broken.clone())),
        broker: quarters.spawn(watch_broker(
            broker,
            stop.clone(),
            broker_end.clone(),
            broken.clone(),
            progress.clone(),
        )),
    };
    Ok(Running {
        stop,
        tasks,
        events_end,
        roster,
        plan: in_force,
        latest,
        broker_end,
        broke: broken.subscribe(),
        store,
        addresses,
        status,
        insight,
        run_dir,
        store_dir: store_dir(&plan),
        reloader: Reloader::new(house),
        farewell,
        progress,
        notices,
        _quarters: quarters,
    })
}

/// Which topics of a plan are ours.
fn ownership(plan: &Plan) -> Ownership {
    let ownership = Ownership::new(topics(plan));
    ownership.settle(places(plan));
    ownership.stand_for(own_nodes(plan).collect());
    ownership
}

/// Tries to open the listeners, on the threads of the clients.
async fn bind(quarters: &Quarters, mut broker: Broker) -> Result<(Broker, Vec<Option<SocketAddr>>), StartError> {
    let binding = async move {
        let addresses = broker.bind().await;
        (broker, addresses)
    };
    Ok(quarters.spawn(binding).await?)
}

/// What the status page shows.
fn figures(base: &Base, house: &House, access: &Arc<Access>, alarms: Shown) -> Sources {
    Sources {
        plan: Arc::clone(&house.means.plan),
        clock: base.clock.clone(),
        started: base.clock.now(),
        buses: Arc::clone(&house.means.slots),
        latest: Arc::clone(&base.latest),
        hub: base.hub.stats(),
        uplinks: Arc::clone(&house.roster),
        store: base.store.stats(),
        bridge_stores: Arc::clone(&house.bridge_stores),
        broker: house.means.publisher.stats(),
        access: Arc::clone(access),
        notices: base.notices.clone(),
        progress: base.progress.clone(),
        unvouched: base.watch.unvouched(),
        alarms,
        doors: house.means.control.door_list(),
        status: Arc::default(),
    }
}

fn boot_token() -> String {
    facts::boot_token(facts::systemd_runtime_dir().as_deref())
}

/// What parts are built from.
fn means(base: &Base, local: Local, turns: Turns, timing: Timing) -> Means {
    let Local { publisher, control, entry, forward, ownership } = local;
    Means {
        stop: base.stop.clone(),
        clock: base.clock.clone(),
        notices: base.notices.clone(),
        progress: base.progress.clone(),
        store: base.store.clone(),
        hub: base.hub.clone(),
        latest: Arc::clone(&base.latest),
        publisher,
        control,
        configuration: watch::Sender::default(),
        forward,
        entry,
        ownership,
        pauses: Pauses::default(),
        memory: learned::open(&base.plan.gateway.data_dir, &base.clock),
        plan: plan_now(&base.plan),
        coming: watch::Sender::new(Arc::clone(&base.plan)),
        plans: watch::Sender::new(Arc::clone(&base.plan)),
        slots: Arc::default(),
        turns,
        run_dir: base.run_dir.path().to_owned(),
        boot_token: boot_token(),
        timing,
        broken: base.broken.clone(),
    }
}

/// Without a part yet.
fn house(base: &Base, means: Means, access: Arc<Access>) -> House {
    let gatekeeper = Arc::new(Gatekeeper::new(access, means.control.clone(), means.notices.clone()));
    House {
        plan: Arc::clone(&base.plan),
        means,
        buses: Buses::default(),
        uplinks: Uplinks::new(),
        bridges: Bridges::new(),
        roster: UplinkRoster::default(),
        bridge_stores: StoreRoster::default(),
        gatekeeper,
        texts: Arc::default(),
        fallback: Fallback::in_dir(&base.plan.gateway.data_dir),
        trial: None,
        trials: 0,
        rolled_back: false,
        unkept: None,
    }
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
    let run_dir = RuntimeDir::new().map_err(StartError::RuntimeDir)?;
    // Where the data directory cannot be used, values are polled and served all the same: the store says so and tries
    // again, and commands are refused, because they cannot be journalled.
    let store = opening::open(&plan, boot_token()).await?;
    let clock = host_clock::system_clock(store.boot(), store.seen());
    for fix in store.fixes() {
        clock.learn(fix);
    }
    let floor = clock.floor();
    let mut watch = Watch::new(plan.gateway.time_source.clone());
    let first_fix = match watch.look(&clock) {
        News::Fix(fix) | News::Set(fix) => Some(fix),
        News::Nothing | News::Unset(_) => None,
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
    let (progress, broken) = (Progress::default(), watch::Sender::default());
    Ok(Base { run_dir, plan, stop, clock, store, hub, latest, notices, told, watch, progress, broken })
}

async fn build_broker(base: &Base, access: &Arc<Access>, entry: CommandEntry) -> Result<(Broker, Local), StartError> {
    let (ownership, forward) = (Arc::new(ownership(&base.plan)), ForwardEntry::none());
    let parts = BrokerParts {
        plan: base.plan.broker.clone(),
        access: Arc::clone(access),
        ownership: Arc::clone(&ownership),
        commands: entry.clone(),
        forward: forward.clone(),
        clock: base.clock.clone(),
        notices: base.notices.clone(),
        ledger_path: base.plan.gateway.data_dir.join("broker.db"),
    };
    let (broker, publisher) = tokio::task::spawn_blocking(move || Broker::new(parts)).await??;
    let control = broker.control();
    Ok((broker, Local { publisher, control, entry, forward, ownership }))
}

/// What hears the stop besides the buses: router, users, clock, and who asks threads for a sign of life.
fn start_sources(
    base: &Base,
    house: &House,
    commands: mpsc::Receiver<command::Submitted>,
    access: &Arc<Access>,
    end: &CancellationToken,
) -> JoinSet<()> {
    let (mut sources, stop, means) = (JoinSet::new(), &base.stop, &house.means);
    let crew = means.crew(stop);
    let journal = CommandJournal::open(&base.plan.gateway.data_dir.join("commands.db"));
    let (asked, clock) = (journal.clone(), base.clock.clone());
    let asking = watchdog::ask(async move || asked.answers(clock.began_ms()).await, stop.clone());
    sources.spawn(crew.run("journal", asking));
    let telling = journalling::tell(journal.trouble(), means.notices.clone(), stop.clone());
    sources.spawn(crew.keep("journal", "", telling));
    let router = Router {
        plan: Arc::clone(&means.plan),
        buses: Arc::clone(&means.slots),
        journal,
        journal_fails: AtomicBool::default(),
        clock: base.clock.clone(),
        answers: Answers {
            plan: Arc::clone(&means.plan),
            publisher: means.publisher.clone(),
            access: Arc::clone(access),
        },
        hub: base.hub.clone(),
        end: end.clone(),
    };
    sources.spawn(crew.run("router", router.run(commands, stop.clone())));
    sources.spawn(crew.keep("forward", "", forwarding::close_at_stop(means.forward.clone(), stop.clone())));
    sources.spawn(crew.run("users", Arc::clone(&house.gatekeeper).run(stop.clone())));
    watchdog::ask_store(&mut sources, &crew, "", &base.store, stop);
    let control = means.control.clone();
    let ledger = watchdog::ask(async move || control.disk_answers().await, stop.clone());
    sources.spawn(crew.run("ledger", ledger));
    sources
}

fn announce(plan: &Plan) {
    let (buses, devices, tags) = (plan.buses.len(), plan.devices.len(), plan.tags.len());
    tracing::info!(gateway = plan.gateway.name, buses, devices, tags, uplinks = plan.uplinks.len(), "gateway started");
}
