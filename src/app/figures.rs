//! Every counter of every room, by its name in `/metrics`. One file per room below (`broker`, `field`, `store`,
//! `uplink`); each takes its room's counters apart by name, so that a new one is not forgotten:
//! `tests/status/metrics.rs` compares.

use std::time::Instant;

use crate::config::GATEWAY;
use crate::config::plan::Plan;
use crate::flow::alarms::AlarmSlots;
use crate::flow::hub::HubStats;
use crate::host::{journal, process};
use crate::status::StatusStats;
use crate::status::metrics::{Figures, Labels};

use super::sources::Sources;

mod broker;
mod field;
mod store;
mod uplink;

/// All of them, at this moment.
pub(super) fn all(sources: &Sources) -> Figures {
    let mut figures = Figures::default();
    let out = &mut figures;
    let plan = sources.plan.load();
    let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("gateway", plan.gateway.name.clone())];
    out.level("build_info", "Which program this is; always 1.", &labels, 1.0);
    gateway(out, sources);
    plant(out, &plan);
    for (bus, slot) in plan.buses.iter().zip(sources.buses.load().iter()) {
        let Some(handle) = slot.as_ref().map(|slot| slot.load()) else { continue };
        for stats in std::iter::once(&handle.stats).chain(&handle.others) {
            field::bus(out, &bus.name, stats);
        }
    }
    for report in sources.latest.reports() {
        field::device(out, sources, &plan, &report);
    }
    flow(out, sources);
    store::store(out, GATEWAY, &sources.store);
    for (name, stats) in sources.bridge_stores.load().iter() {
        store::store(out, name, stats);
    }
    broker::broker(out, &sources.broker);
    broker::access(out, &sources.access.stats);
    for (name, stats) in sources.uplinks.load().iter() {
        uplink::uplink(out, name, stats);
    }
    status(out, &sources.status);
    process(out);
    figures
}

/// One label.
fn of(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

/// A gauge's number.
#[allow(clippy::cast_precision_loss, reason = "above 2^53 nobody misses the last digit")]
fn real(number: u64) -> f64 {
    number as f64
}

fn gateway(out: &mut Figures, sources: &Sources) {
    let none = Labels::new();
    let well = sources.board().gateway.health.ok;
    out.level("healthy", "1 while /health says ok.", &none, f64::from(u8::from(well)));
    out.level("uptime_seconds", "Since the gateway started.", &none, sources.uptime().as_secs_f64());
    let fixed = f64::from(u8::from(sources.clock.is_fixed()));
    out.level(
        "clock_fixed",
        "1 while the time is known, by whoever vouches for it or, where nobody can be asked, by the system's clock.",
        &none,
        fixed,
    );
    let (workers, late) = (sources.progress.workers(), sources.progress.late(Instant::now()).len());
    out.level("workers", "Tasks that the watchdog looks at.", &none, real(workers as u64));
    out.level("workers_late", "Those that make no progress.", &none, real(late as u64));
    let help = "Conditions that rooms have told and not taken back.";
    out.level("conditions", help, &none, real(sources.notices.standing().len() as u64));
    let help = "Events that were lost because too many came at once.";
    out.count("events_dropped", help, &none, sources.notices.dropped());
    let help = "Log lines that were lost because the journal, or whoever reads stderr, stood still.";
    out.count("log_lines_lost", help, &none, journal::lost());
}

fn plant(out: &mut Figures, plan: &Plan) {
    let none = Labels::new();
    let devices = plan.live_devices().count();
    let tags = plan.live_tags().count();
    out.level("devices", "Devices of the configuration.", &none, real(devices as u64));
    out.level("tags", "Tags of the configuration.", &none, real(tags as u64));
}

fn flow(out: &mut Figures, sources: &Sources) {
    let none = Labels::new();
    let HubStats { samples, durable_waits, spilled } = &*sources.hub;
    out.count("samples", "Samples that buses and derived tags gave out.", &none, samples.get());
    out.count("durable_waits", "Times a bus had to wait for the store.", &none, durable_waits.get());
    out.count("samples_spilled", "Samples that went into a gap, the store did not take them.", &none, spilled.get());
    let help = "Samples that a newer one replaced before they were published.";
    out.count("live_replaced", help, &none, sources.latest.replaced.get());
    let slots: &AlarmSlots = &sources.latest.alarms;
    out.level("alarms_active", "Alarms that hold now.", &none, real(slots.active().len() as u64));
    let help = "Changes of alarms that a newer one replaced before they were published.";
    out.count("alarms_replaced", help, &none, slots.replaced.get());
}

fn status(out: &mut Figures, stats: &StatusStats) {
    let none = Labels::new();
    let StatusStats { connections, turned_away, requests, refused_host } = stats;
    out.count("status_connections", "Connections to the status page.", &none, connections.get());
    out.count("status_turned_away", "Those closed at once, there were too many.", &none, turned_away.get());
    out.count("status_requests", "Requests to the status page.", &none, requests.get());
    out.count("status_refused_host", "Requests that named another host.", &none, refused_host.get());
}

/// As every Prometheus client names them.
fn process(out: &mut Figures) {
    let none = Labels::new();
    let process::Usage { cpu_seconds, resident_bytes, virtual_bytes, open_files, files_max, threads } =
        process::usage();
    let mut level = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            out.level(name, help, &none, real(value));
        }
    };
    level("process_resident_memory_bytes", "Memory in use.", resident_bytes);
    level("process_virtual_memory_bytes", "Memory asked for.", virtual_bytes);
    level("process_open_fds", "Open file descriptors.", open_files);
    level("process_max_fds", "File descriptors it may have.", files_max);
    level("process_threads", "Threads.", threads);
    if let Some(seconds) = cpu_seconds {
        out.spent("process_cpu_seconds", "Processor time.", &none, seconds);
    }
}
