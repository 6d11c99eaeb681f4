//! Gathers the status page's board from the counters of all rooms. Everything is read, nothing is asked: no room waits
//! for the page.

use std::time::Duration;

use serde::Deserialize;

use crate::config::plan::{BusPlan, Carrier, DevicePlan, ListenerPlan, Period, Plan};
use crate::field::BusStats;
use crate::flow::hub::DeviceReport;
use crate::flow::notice::{DatedNotice, Notice};
use crate::model::lock::Hold as _;
use crate::model::stats::Times;
use crate::model::time::{Certainty, Stamp, Wall};
use crate::status::board::{
    Alarm, Board, Broker, Budget, Bus, Device, Event, Gateway, Listener, Spread, Store, Uplink,
};
use crate::uplink::UplinkStats;

use super::health;
use super::roster::BusSlot;
use super::sources::Sources;

const DAY_S: u64 = 86_400;
const DAY_MS: i64 = 86_400_000;

/// Shorter than this, what was written says nothing about a day.
const WRITTEN_AFTER_S: u64 = 60;

impl Sources {
    /// How everything stands now.
    pub(super) fn board(&self) -> Board {
        let alarms = self.alarms();
        let mut board = Board {
            gateway: self.gateway(),
            buses: self.buses(),
            devices: self.devices(),
            uplinks: self.uplinks.load().iter().map(|(name, stats)| self.uplink(name, stats)).collect(),
            store: self.store(),
            broker: self.broker(),
            alarms_total: alarms.len(),
            alarms,
            events: self.notices.newest().into_iter().map(|told| self.event(told)).collect(),
        };
        board.gateway.health = health::judge(self, &board);
        board
    }

    fn buses(&self) -> Vec<Bus> {
        let (plan, slots) = (self.plan.load(), self.buses.load());
        let both = plan.buses.iter().zip(slots.iter());
        both.filter_map(|(plan, slot)| Some(bus(plan, slot.as_ref()?))).collect()
    }

    fn time(&self, at: Stamp) -> String {
        self.clock.wall(at).to_string()
    }

    fn gateway(&self) -> Gateway {
        let now = self.clock.wall_now();
        Gateway {
            name: self.plan.load().gateway.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: self.time(self.started),
            uptime_s: self.uptime().as_secs(),
            time: now.to_string(),
            clock: if now.certainty == Certainty::Fixed { "fixed" } else { "unknown" },
            ..Gateway::default()
        }
    }

    fn devices(&self) -> Vec<Device> {
        let reports = self.latest.reports();
        let mut reports = reports.into_iter().peekable();
        let plan = self.plan.load();
        let devices = plan.devices.iter().enumerate().filter(|(_, device)| !device.is_hole());
        let devices = devices.map(|(place, device)| {
            while reports.next_if(|report| (report.device.0 as usize) < place).is_some() {}
            let report = reports.next_if(|report| report.device.0 as usize == place);
            self.device(&plan, device, report)
        });
        devices.collect()
    }

    fn device(&self, all: &Plan, plan: &DevicePlan, report: Option<DeviceReport>) -> Device {
        let bus = plan.bus.and_then(|bus| all.buses.get(bus.0 as usize)).map(|bus| bus.name.clone());
        let device = Device { name: plan.name.clone(), bus, state: "starting", ..Device::default() };
        let Some(report) = report else { return device };
        let response = report.diagnosis.response;
        Device {
            state: report.standing.as_str(),
            last_success: report.last_success.map(|at| self.time(at)),
            polls: report.requests,
            timeouts: report.timeouts,
            exceptions: report.exceptions,
            other_errors: report.errors,
            response_ms: response.map(|took| Spread { p50: millis(took.p50), p99: millis(took.p99) }),
            ..device
        }
    }

    fn uplink(&self, name: &str, stats: &UplinkStats) -> Uplink {
        let plan = self.plan.load();
        let server = plan.connections().filter(|plan| plan.name == name).find_map(|plan| plan.servers.first());
        let now = self.clock.wall_now();
        let (paths, backlog) = (stats.paths(), stats.backlog.get());
        let own = stats.budgets();
        let own = own.iter().map(|(plan, used)| (None, plan, used));
        let of_paths =
            paths.iter().flat_map(|own| own.budgets.iter().map(|(plan, used)| (Some(&own.path), plan, used)));
        let budgets = own.chain(of_paths).map(|(path, plan, used)| Budget {
            path: path.cloned(),
            span: if plan.period == Period::Day { "day" } else { "month" },
            limit_bytes: plan.bytes,
            used_bytes: *used,
        });
        Uplink {
            name: name.to_owned(),
            url: server.map(ToString::to_string).unwrap_or_default(),
            state: stats.standing().as_str(),
            since: stats.standing_for().map(|time| ago(now, time)),
            error: stats.last_error().map(|error| error.as_str().to_owned()),
            path: paths.iter().find(|one| one.current && !one.path.is_empty()).map(|one| one.path.clone()),
            waiting_records: backlog,
            waiting_bytes: stats.bytes_up().saturating_mul(backlog).checked_div(stats.published.get()),
            oldest_age_s: stats.backlog_age_s.get(),
            drain_s: stats.drain_estimate().map(|left| left.as_secs()),
            sent_bytes: stats.bytes_up(),
            budgets: budgets.collect(),
            certificate_days_left: days_left(stats.certificate_ends.get(), now),
        }
    }

    fn store(&self) -> Store {
        let (stats, uptime) = (&self.store, self.uptime().as_secs());
        let written = u128::from(stats.written_bytes.get()) * u128::from(DAY_S);
        let written = written.checked_div(u128::from(uptime)).and_then(|bytes| u64::try_from(bytes).ok());
        // Whether it fails it says itself; why, in its notice. The store of a bridge has the bridge's name before this.
        let why = |told: DatedNotice| {
            let Notice { event, subject, detail, .. } = told.notice;
            (event == "store_failed" && subject == "store").then_some(detail)
        };
        let trouble = (stats.failed.get() > 0).then(|| {
            let told = self.notices.standing().into_iter().find_map(why);
            told.unwrap_or_else(|| "the store cannot commit".to_owned())
        });
        Store {
            bytes: stats.bytes.get(),
            max_bytes: stats.max_bytes.get(),
            written_per_day: written.filter(|_| uptime >= WRITTEN_AFTER_S),
            trouble,
            gaps: stats.gaps_owed.get(),
        }
    }

    fn broker(&self) -> Broker {
        let stats = &self.broker;
        let (plan, doors) = (self.plan.load(), self.doors.now());
        let is_open = |plan: &ListenerPlan| doors.iter().any(|(door, open)| door == plan && *open);
        let listeners = plan
            .broker
            .listeners
            .iter()
            .map(|plan| Listener { listen: plan.to_string(), state: if is_open(plan) { "open" } else { "closed" } });
        Broker {
            connections: stats.clients.get(),
            sessions: stats.clients.get() + stats.sessions_away.get(),
            messages_in: stats.publishes_received.get(),
            messages_out: stats.publishes_sent.get(),
            dropped: stats.dropped(),
            listeners: listeners.collect(),
        }
    }

    /// All of them, the gravest first: who may see which is decided later.
    fn alarms(&self) -> Vec<Alarm> {
        let plan = self.plan.load();
        let active = self.alarms.hold().clone();
        let all = active.iter().flat_map(|(tag, levels)| levels.iter().map(move |(level, body)| (*level, *tag, body)));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|(level, tag, _)| (*level, *tag));
        let shown = all.into_iter().filter_map(|(level, ix, body)| {
            let tag = plan.live_tag(ix)?;
            let device = plan.device(tag.device)?;
            let Begun { value, time } = serde_json::from_slice(body).unwrap_or_default();
            let (device, tag, event) = (device.name.clone(), tag.name.clone(), level.to_string());
            Some(Alarm { device, tag, ix, event, state: "active", value, since: time })
        });
        shown.collect()
    }

    fn event(&self, DatedNotice { at, notice }: DatedNotice) -> Event {
        Event {
            time: self.time(at),
            event: notice.event,
            state: notice.phase.as_str(),
            part: notice.subject,
            text: notice.detail,
        }
    }
}

/// What is shown of the payload of an alarm.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Begun {
    value: serde_json::Value,
    time: Option<String>,
}

fn bus(plan: &BusPlan, slot: &BusSlot) -> Bus {
    let handle = slot.load();
    let lanes = || std::iter::once(&handle.stats).chain(&handle.others);
    let sum = |count: fn(&BusStats) -> u64| lanes().map(|stats| count(stats)).sum::<u64>();
    // A port that is missing is for somebody here to mend; a controller that is switched off is no fault of the gateway.
    let is_serial = matches!(plan.link.carrier, Carrier::Serial(_));
    let connected = lanes().all(|stats| stats.connected.get() == 1);
    let times = lanes().fold(Times::default(), |sum, stats| sum.and(&stats.response.times()));
    let response = times.percentile(50).zip(times.percentile(99));
    Bus {
        name: plan.name.clone(),
        kind: plan.link.kind(),
        endpoint: plan.link.carrier.to_string(),
        state: if connected { "connected" } else { "down" },
        ours: is_serial || lanes().any(|stats| stats.ours.get() == 1),
        load: lanes().map(|stats| stats.load_percent.get()).max().unwrap_or(0),
        response_ms: response.map(|(p50, p99)| Spread { p50: millis(p50), p99: millis(p99) }),
        late: sum(|stats| stats.polls_skipped.get()),
    }
}

/// To a tenth.
fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 10_000.0).round() / 10.0
}

fn ago(now: Wall, time: Duration) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Wall { unix_ms: now.unix_ms.saturating_sub(millis), ..now }.to_string()
}

/// `ends`: seconds since 1970, 0 when it is not known.
fn days_left(ends: u64, now: Wall) -> Option<i64> {
    let ends = i64::try_from(ends).ok().filter(|ends| *ends > 0)?;
    (now.certainty == Certainty::Fixed).then(|| (ends.saturating_mul(1000) - now.unix_ms).div_euclid(DAY_MS))
}
