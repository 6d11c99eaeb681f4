//! The uplink: what the store owes to one broker upstream, sent in order, acknowledged on PUBACK and never before.
//!
//! One [`Uplink`] per `[[uplink]]`; they share nothing. It only pulls: neither polling nor the store ever waits for it.
//! `source` what it pulls from · `pack` items to topics and payloads · `window` what was sent and is not yet
//! acknowledged · `line` the connection as poller and feeder share it, and how rumqttc is driven · `session` one MQTT
//! connection from CONNECT to its end (`watch`: beside it, what may end it), `client` both versions of MQTT behind one
//! face, `alias` short names for topics, `incoming` what rumqttc says happened, `overheard` what it loses, `answer`
//! what a PUBACK says, `ended` how it ended, `brief` whether too soon, `version` which of them is spoken.
//!
//! `destinations` where the road leads, `files` what it needs, `azure` where that is no broker, `again` when it is
//! tried next · `routing` which path is taken and what may be spent, `thrift` where a session asks for that · `rate`
//! publishes a second · `outage` what goes first after a long one, a `summary`.
//!
//! `intake` what the subscription brings: to `downlink` (commands) or `down` (topics that come down; `subscribed` which they
//! were), `reading` what is retained on those that go both ways · `feeder` the one who publishes, with `filling` from the source
//! to the `lanes` and `sending` from there to the wire · `timing` how patient all are · `pace` how much the link bears ·
//! `refusal` what becomes of what the broker does not take, `forbidden` and `withhold` of topics that it never takes ·
//! `sparkplug` an edge node, where it differs · `place` the gateway around it, where it has to do with that · `status` the
//! retained status and last will · `trouble` what the operator is told, `certificates` of those · `stats` what is counted.
//! DNS, TLS and bytes are the road's (floor 1).
//!
//! Promises: at least once and in the order of the source; at most one window is sent twice per interruption; a broker
//! that withholds acknowledgements, a black hole, a missing file or an expired certificate cost time, never a record. A
//! record that the broker will never take is declared by a gap record, and the others go on.

mod again;
mod alias;
mod answer;
mod azure;
mod brief;
mod certificates;
mod client;
mod destinations;
mod down;
mod downlink;
mod ended;
mod feeder;
mod files;
mod filling;
mod forbidden;
mod incoming;
mod intake;
mod lanes;
mod line;
mod outage;
mod overheard;
mod pace;
mod pack;
mod place;
mod rate;
mod reading;
mod refusal;
mod routing;
mod sending;
mod session;
mod source;
mod sparkplug;
mod stats;
mod status;
mod subscribed;
mod summary;
mod thrift;
mod timing;
mod trouble;
mod version;
mod watch;
mod window;
mod withhold;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::config::plan::UplinkPlan;
use crate::config::preset::{self, Limits};
use crate::flow::clock::Clock;
use crate::flow::notice::Notices;
use crate::flow::stop::Stop;
use crate::road::backoff::Backoff;
use crate::road::destination::{Destination, RoadError};
use crate::road::rotation::Rotation;
use crate::road::{Now, Relay, Road};

use azure::{Device, Pass};
use brief::Brief;
use certificates::{Certificates, Fault};
use destinations::destinations;
use down::Down;
pub use down::{Handed, LocalBroker, PassOn, PassedOn};
pub use downlink::Commands;
use downlink::Downlink;
pub use files::disabled_by;
use forbidden::Forbidden;
use outage::Outage;
use pack::Packer;
use rate::Rate;
use refusal::Refusals;
pub use routing::PathState;
use routing::{Routing, Save, Step};
use session::{End, Session};
pub use source::{Lane, Pull, Source, StoreSource, Wants};
pub use sparkplug::Plant;
pub use stats::{PathFigures, UplinkState, UplinkStats};
pub use timing::Timing;
use trouble::Trouble;
use version::Known;
use watch::{Reason, Watch};

/// What topic and headers may take of the message that a cloud allows.
const ENVELOPE_BYTES: usize = 2 << 10;
/// How fresh the backlog figure is, at least.
const BACKLOG_EVERY: Duration = Duration::from_secs(1);

/// What an uplink is made of.
pub struct UplinkParts<S> {
    /// Its part of the plan.
    pub plan: UplinkPlan,
    /// The gateway's name, one topic level.
    pub gateway: String,
    /// What it pulls from: a [`StoreSource`].
    pub source: S,
    /// Stamps to wall time, when a payload is encoded and when a certificate is checked.
    pub clock: Clock,
    /// Where it tells the operator what needs a person.
    pub notices: Notices,
    /// The road for commands, where the plan accepts them; without it nothing is subscribed to.
    pub commands: Option<Commands>,
    /// Where topics that come down are published, where the plan has any.
    pub pass_on: Option<PassOn>,
    /// A directory for its private socket, short (a socket's path has at most 107 bytes).
    pub run_dir: PathBuf,
    /// How patient it is.
    pub timing: Timing,
}

/// One uplink; built, then [`Uplink::run`].
pub struct Uplink<S> {
    plan: UplinkPlan,
    source: S,
    packer: Packer,
    clock: Clock,
    timing: Timing,
    road: Road,
    /// The brokers of the plan, in its order.
    servers: Vec<Destination>,
    rotation: Rotation,
    certificates: Certificates,
    /// What is known of each.
    known: Vec<Known>,
    device: Option<Device>,
    limits: &'static Limits,
    rate: Rate,
    downlink: Option<Downlink>,
    down: Option<Down>,
    trouble: Trouble,
    refusals: Refusals,
    forbidden: Forbidden,
    outage: Outage,
    stats: Arc<UplinkStats>,
    backoff: Backoff,
    brief: Brief,
    dice: StdRng,
    lost_since: Option<Instant>,
    routing: Routing,
}

impl<S: Source> Uplink<S> {
    /// Builds it; nothing is touched yet.
    pub fn new(parts: UplinkParts<S>) -> (Self, Arc<UplinkStats>) {
        let UplinkParts { plan, gateway, source, clock, notices, commands, pass_on, run_dir, timing } = parts;
        let limits = preset::limits(plan.preset);
        let servers = destinations(&plan, limits.alpn_on_443);
        let first = servers.first().cloned().unwrap_or_else(|| Destination::plain("", 0));
        let dates = clock.clone();
        let road = Road::new(first, Now::new(move || dates.date_now()), run_dir);
        let message_bytes_max = pack::MESSAGE_BYTES_MAX.min(limits.message_bytes_max.saturating_sub(ENVELOPE_BYTES));
        let stats = Arc::new(UplinkStats::new(road.meter()));
        let mut packer = Packer::new(&plan, &gateway, clock.clone(), message_bytes_max);
        let downlink = match (commands, packer.node()) {
            (Some(commands), Some(node)) => {
                node.obey(commands);
                None
            }
            (commands, _) => commands.map(|taken| Downlink::new(taken, &plan, clock.clone(), Arc::clone(&stats))),
        };
        let down = Down::new(pass_on, (&plan, source.directory()), clock.clone(), Arc::clone(&stats));
        let routing = Routing::new(&plan, timing.path_healthy, clock.clone(), notices.clone(), Arc::clone(&stats));
        let uplink = Self {
            known: vec![Known::new(limits.version.unwrap_or(plan.mqtt_version)); servers.len().max(1)],
            device: Device::new(&plan),
            limits,
            rate: Rate::new(limits.publishes_per_s),
            downlink,
            down,
            packer,
            certificates: Certificates::new(plan.name.clone(), notices.clone(), Arc::clone(&stats)),
            trouble: Trouble::new(plan.name.clone(), notices),
            rotation: Rotation::new(servers.len(), timing.first_server_again),
            refusals: Refusals::default(),
            forbidden: Forbidden::new(timing.forbidden_after),
            outage: Outage::new(&plan),
            backoff: Backoff::new(timing.retry_first, timing.retry_max),
            brief: Brief::default(),
            dice: StdRng::from_os_rng(),
            stats: Arc::clone(&stats),
            lost_since: None,
            routing,
            plan,
            source,
            clock,
            timing,
            road,
            servers,
        };
        (uplink, stats)
    }

    /// Connects, drains, reconnects, until `stop` begins or the source ends; then waits for what is in flight, says
    /// offline, disconnects and saves the cursor. Never ends for any trouble. Not cancel-safe: tell `stop` instead.
    pub async fn run(mut self, stop: Stop) {
        while !stop.is_begun() {
            feeder::turn();
            if let Some(wait) = self.choose_way() {
                if self.stopped_while_waiting(wait, &stop).await {
                    break;
                }
                continue;
            }
            self.stats.state(UplinkState::Connecting);
            let prepared = tokio::select! {
                biased;
                () = stop.begun() => break,
                prepared = self.prepare() => prepared,
            };
            let wait = match prepared {
                Ok((relay, pass)) => match self.session(relay, pass, &stop).await {
                    Some(wait) => wait,
                    None => break,
                },
                Err(error) => self.no_road(&error),
            };
            if self.stopped_while_waiting(wait, &stop).await {
                break;
            }
        }
        self.stats.state(UplinkState::Stopped);
        self.keep_meters(Save::Exact);
        self.source.save().await;
    }

    /// Which way to go; or how long to wait, because none may carry anything now.
    fn choose_way(&mut self) -> Option<Duration> {
        self.keep_meters(Save::Due); // what was used before this run comes first
        let step = self.routing.next_for(self.packer.node(), &self.source.waiting(), Instant::now());
        self.keep_meters(Save::Due);
        match step {
            Step::Connect => {}
            Step::Retry => return Some(routing::TICK),
            Step::Pause => {
                self.stats.state(UplinkState::Paused);
                return Some(routing::TICK);
            }
        }
        let (bind, meter, rate) = self.routing.terms();
        self.road.go_by(bind, meter);
        self.road.pace().set([rate, self.limits.bytes_per_s].into_iter().flatten().min());
        None
    }

    fn keep_meters(&mut self, save: Save) {
        let rows = self.routing.keep(|| self.source.meters(), save);
        if !rows.is_empty() {
            self.source.save_meters(rows);
        }
    }

    /// Waits, keeping the backlog figure fresh; true when a stop came.
    async fn stopped_while_waiting(&self, wait: Duration, stop: &Stop) -> bool {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            feeder::turn();
            self.stats.owes(self.source.backlog(), self.source.oldest(), &self.clock);
            tokio::select! {
                biased;
                () = stop.begun() => return true,
                () = tokio::time::sleep_until(until.min(Instant::now() + BACKLOG_EVERY)) => {}
            }
        }
        stop.is_begun()
    }

    async fn prepare(&mut self) -> Result<(Relay, Pass), RoadError> {
        let server = self.servers.get(self.rotation.server()).cloned();
        let pass =
            Pass::get(&self.plan, self.device.as_ref(), server.as_ref().map_or("", |server| &server.host), &self.clock)
                .await?;
        if let Some(server) = server {
            self.road.lead(server);
        }
        let opened = self.road.open().await;
        let fault = if opened.is_ok() { Fault::Told } else { Fault::Elsewhere };
        self.certificates.note(&self.road.files().await, self.clock.wall_now(), fault);
        Ok((opened?, pass))
    }

    /// What is owed comes from the start again. An edge node has a number for each of its sessions, on disk before CONNECT.
    async fn begin_session(&mut self) {
        self.source.begin(self.plan.delivery);
        self.outage.interrupted();
        self.source.only(self.routing.classes());
        self.routing.connected(self.road.prober().or(&self.servers));
        if self.packer.node().is_none() {
            return;
        }
        let bdseq = self.source.next_session().await;
        if let Some(node) = self.packer.node() {
            node.begin(bdseq, self.rotation.server());
        }
    }

    /// One MQTT connection; how long to wait before the next, `None` when it ended as it should. It also ends, in order,
    /// for renewed certificates and for the first server.
    async fn session(&mut self, relay: Relay, pass: Pass, stop: &Stop) -> Option<Duration> {
        let leave = stop.child();
        self.rotation.connected(Instant::now());
        self.trouble.clear_disabled();
        self.arrived();
        self.begin_session().await;
        let server = self.servers.get(self.rotation.server());
        let session = Session {
            server: server.map(|server| format!("{}:{}", server.host, server.port)).unwrap_or_default(),
            plan: &self.plan,
            source: &mut self.source,
            packer: &mut self.packer,
            clock: &self.clock,
            timing: self.timing,
            trouble: &mut self.trouble,
            stats: &self.stats,
            lost_since: &mut self.lost_since,
            downlink: self.downlink.as_mut(),
            down: self.down.as_ref(),
            routing: &mut self.routing,
            refusals: &mut self.refusals,
            forbidden: &mut self.forbidden,
            outage: &mut self.outage,
            rate: &mut self.rate,
            device: self.device.as_ref(),
            limits: self.limits,
            may_narrow: false,
        };
        let known = &mut self.known[self.rotation.server()];
        let spoken = known.spoken(Instant::now().into_std());
        let watch = Watch {
            road: &mut self.road,
            certificates: &mut self.certificates,
            clock: &self.clock,
            every: self.timing.files_again,
            first_server_at: self.rotation.leave_at(),
            token_at: pass.good_for.map(|good_for| Instant::now() + good_for),
        };
        let reason = OnceLock::new();
        let outcome = tokio::select! {
            outcome = session.run(relay, pass.login, known, &leave) => outcome,
            never = watch.run(&leave, &reason) => match never {},
        };
        self.packer.clear();
        self.stats.in_flight.set(0);
        let finished = matches!(outcome.end, End::Finished) && !stop.is_begun();
        if let Some(left) = self.routing.left().filter(|_| finished) {
            self.routing.ended();
            tracing::info!(uplink = self.plan.name, reason = left.as_str(), "uplink disconnects");
            self.backoff.reset();
            return Some(Duration::ZERO);
        }
        self.shorten_waits(&outcome);
        if outcome.proved {
            self.rotation.worked();
        }
        match reason.get() {
            Some(reason) if finished => {
                self.routing.ended();
                tracing::info!(uplink = self.plan.name, reason = reason.as_str(), "uplink connects anew");
                if *reason == Reason::FirstServer {
                    self.rotation.back_to_first();
                }
                Some(Duration::ZERO)
            }
            _ => self.wait_after(spoken, outcome),
        }
    }
}
