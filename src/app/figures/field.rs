//! Buses and devices.

use crate::config::plan::Plan;
use crate::field::BusStats;
use crate::flow::hub::{DeviceReport, Diagnosis, Standing};
use crate::model::stats::Counter;
use crate::status::metrics::{Figures, Labels};

use super::{of, real};
use crate::app::sources::Sources;

/// One connection of a bus; those of one bus are summed up.
pub(super) fn bus(out: &mut Figures, name: &str, stats: &BusStats) {
    let BusStats {
        requests,
        replies,
        timeouts,
        exceptions,
        crc,
        stale,
        garbage,
        echo,
        foreign,
        reconnects,
        polls_skipped,
        probes,
        commands,
        restarts,
        busy_micros,
        turns,
        polls,
        overtaken,
        response,
        load_percent,
        certificate_ends,
        ours: _in_health,
        connected,
    } = stats;
    let labels = of("bus", name);
    let mut count =
        |name: &'static str, help: &'static str, counter: &Counter| out.count(name, help, &labels, counter.get());
    count("bus_requests", "Requests that went out.", requests);
    count("bus_replies", "Valid answers, exceptions too.", replies);
    count("bus_timeouts", "Requests without an answer in time.", timeouts);
    count("bus_exceptions", "Answers that were exceptions.", exceptions);
    count("bus_crc_errors", "Frames that looked like the answer up to their check sum.", crc);
    count("bus_stale_replies", "Whole frames that answer another question.", stale);
    count("bus_garbage_bytes", "Bytes that belong to no frame.", garbage);
    count("bus_echoes", "Our own requests, come back.", echo);
    count("bus_foreign_frames", "Whole frames of another unit.", foreign);
    count(
        "bus_reconnects",
        "Connections or ports opened again: the old one was lost, or an answer was owed on it.",
        reconnects,
    );
    count("bus_polls_skipped", "Polls left out because their time had passed.", polls_skipped);
    count("bus_probes", "Requests to devices that are down.", probes);
    count("bus_commands", "Commands taken from the queue.", commands);
    count("bus_restarts", "Times it failed inside the gateway and was begun anew.", restarts);
    count("bus_turns", "Turns of the loop; it stands still only when the bus is stuck.", turns);
    count("bus_polls", "Polls carried out, whatever came of them.", polls);
    let help = "Values dropped because a reload had just taken their tag away, or made it mean something else.";
    count("bus_overtaken", help, overtaken);
    let help = "Time in transactions and the silences they need.";
    out.spent("bus_busy_seconds", help, &labels, real(busy_micros.get()) / 1e6);
    out.times("bus_response_seconds", "How long devices took to answer.", &labels, &response.times());
    let help = "Part of its time that was taken during the last ten seconds.";
    out.level("bus_load_ratio", help, &labels, real(load_percent.get()) / 100.0);
    let help = "1 while there is a connection, or an open port; of several connections, while all are there.";
    out.least("bus_connected", help, &labels, real(connected.get()));
    if certificate_ends.get() > 0 {
        let help = "When the first of its certificates ends.";
        out.level("bus_certificate_end_timestamp_seconds", help, &labels, real(certificate_ends.get()));
    }
}

/// One device.
pub(super) fn device(out: &mut Figures, sources: &Sources, plan: &Plan, report: &DeviceReport) {
    let DeviceReport { device, standing, last_success, requests, timeouts, exceptions, errors, diagnosis } = report;
    let Some(labels) = labels(plan, device.0) else { return };
    let up = f64::from(u8::from(*standing == Standing::Answering));
    out.level("device_up", "1 while the device answers.", &labels, up);
    if let Some(at) = last_success {
        let help = "When it last answered.";
        let seconds = sources.clock.wall(*at).unix_ms.max(0).unsigned_abs();
        out.level("device_last_success_timestamp_seconds", help, &labels, real(seconds) / 1e3);
    }
    let Diagnosis { response, crc, stale, garbage, foreign, skipped, exception_codes, bus_load: _of_the_bus } =
        diagnosis;
    for (name, help, count) in [
        ("device_requests", "Requests to the device.", requests),
        ("device_timeouts", "Requests without an answer in time.", timeouts),
        ("device_exceptions", "Answers that were exceptions.", exceptions),
        ("device_errors", "Broken frames, wrong lengths, lost connections.", errors),
        ("device_crc_errors", "Frames that looked like its answer up to their check sum.", crc),
        ("device_stale_replies", "Whole frames that answered another question.", stale),
        ("device_garbage_bytes", "Bytes that belonged to no frame.", garbage),
        ("device_foreign_frames", "Whole frames of another unit while it was asked.", foreign),
        ("device_polls_skipped", "Polls left out because their time had passed.", skipped),
    ] {
        out.count(name, help, &labels, *count);
    }
    for (code, count) in exception_codes {
        let labels = with(&labels, "code", code.to_string());
        out.count("device_exceptions_by_code", "Exceptions by their code.", &labels, *count);
    }
    let quantiles = response.iter().flat_map(|took| [("0.5", took.p50), ("0.95", took.p95), ("0.99", took.p99)]);
    for (quantile, took) in quantiles {
        let labels = with(&labels, "quantile", quantile.to_owned());
        out.level("device_response_quantile_seconds", "How long its answers take.", &labels, took.as_secs_f64());
    }
    if let Some(took) = response {
        out.level("device_response_longest_seconds", "Its longest answer.", &labels, took.longest.as_secs_f64());
    }
}

/// Bus and name; derived tags have no bus.
fn labels(plan: &Plan, device: u32) -> Option<Labels> {
    let device = plan.devices.get(device as usize).filter(|device| !device.is_hole())?;
    let bus = device.bus.and_then(|bus| plan.bus(bus));
    let bus = bus.map(|bus| bus.name.clone()).unwrap_or_default();
    Some(vec![("bus", bus), ("device", device.name.clone())])
}

fn with(labels: &Labels, name: &'static str, value: String) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_of_which_one_of_several_connections_is_cut_is_not_connected() {
        let lanes = |connected: [u64; 2]| {
            let mut figures = Figures::default();
            for level in connected {
                let stats = BusStats::default();
                stats.connected.set(level);
                stats.requests.add(2);
                bus(&mut figures, "a", &stats);
            }
            figures.text().expect("written")
        };
        for connected in [[1, 0], [0, 1], [0, 0]] {
            let text = lanes(connected);
            assert!(text.contains("ironbridge_bus_connected{bus=\"a\"} 0.0\n"), "{connected:?}: {text}");
            assert!(text.contains("ironbridge_bus_requests_total{bus=\"a\"} 4\n"), "{text}");
        }
        assert!(lanes([1, 1]).contains("ironbridge_bus_connected{bus=\"a\"} 1.0\n"));
    }
}
