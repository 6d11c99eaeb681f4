//! Uplinks and bridges.

use crate::config::plan::Period;
use crate::status::metrics::{Figures, Labels};
use crate::uplink::{PathFigures, PathState, UplinkState, UplinkStats};

use super::{of, real};

/// One of them. What it does not count in a public field is asked by its name.
pub(super) fn uplink(out: &mut Figures, name: &str, stats: &UplinkStats) {
    let UplinkStats {
        connected,
        sessions,
        failures,
        published,
        acknowledged,
        unsendable,
        refused,
        not_taken,
        in_flight,
        backlog,
        backlog_age_s,
        mqtt_level,
        commands,
        commands_refused,
        commands_foreign,
        commands_dropped,
        down,
        down_refused,
        down_superseded,
        down_dropped,
        expired,
        bridge_lost,
        replies_lost,
        certificate_ends,
        unreached,
        server,
        ..
    } = stats;
    let labels = of("uplink", name);
    for (name, help, counter) in [
        ("uplink_sessions", "Sessions that the broker accepted.", sessions),
        ("uplink_failures", "Connects that failed and sessions that were lost.", failures),
        ("uplink_published_records", "Records published, repetitions too.", published),
        ("uplink_acknowledged_records", "Records acknowledged.", acknowledged),
        ("uplink_unsendable_records", "Records given up, no broker would take their topic.", unsendable),
        ("uplink_refused_records", "Records given up, the broker would not take them.", refused),
        ("uplink_messages_not_taken", "Messages that the broker did not take, to be sent again.", not_taken),
        ("uplink_commands", "Commands from upstream.", commands),
        ("uplink_commands_refused", "Those that were refused.", commands_refused),
        ("uplink_commands_foreign", "Publishes that are no command for a tag of ours.", commands_foreign),
        ("uplink_commands_dropped", "Commands dropped, too many came at once.", commands_dropped),
        ("uplink_down_messages", "Messages on topics that come down.", down),
        ("uplink_down_refused", "Those that may not come down.", down_refused),
        ("uplink_down_superseded", "Those to be retained, a newer one stays here.", down_superseded),
        ("uplink_down_dropped", "Those dropped, too many came at once.", down_dropped),
        ("uplink_expired_messages", "Clients' messages that expired before they could be sent.", expired),
        ("uplink_bridge_lost", "Messages of a bridge that were not kept or not taken.", bridge_lost),
        ("uplink_replies_lost", "Answers to commands that found no session, or were not taken.", &**replies_lost),
    ] {
        out.count(name, help, &labels, counter.get());
    }
    for (name, help, gauge) in [
        ("uplink_connected", "1 while connected.", connected),
        ("uplink_unreached", "1 after an attempt to which no broker said anything.", unreached),
        ("uplink_messages_in_flight", "Messages on their way.", in_flight),
        ("uplink_backlog_records", "Records owed.", backlog),
        ("uplink_backlog_age_seconds", "Since the oldest of them was taken.", backlog_age_s),
        ("uplink_server", "The place in `urls` of the broker that is, or was last, connected to; 0: none.", server),
        ("uplink_mqtt_level", "4: MQTT 3.1.1, 5: MQTT 5, 0 before the first session.", mqtt_level),
    ] {
        out.level(name, help, &labels, real(gauge.get()));
    }
    if certificate_ends.get() > 0 {
        let help = "When the first of its certificates ends.";
        out.level("uplink_certificate_end_timestamp_seconds", help, &labels, real(certificate_ends.get()));
    }
    rest(out, &labels, stats);
}

fn rest(out: &mut Figures, labels: &Labels, stats: &UplinkStats) {
    let with = |more: &[(&'static str, &str)]| -> Labels {
        labels.iter().cloned().chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
    };
    let standing = stats.standing();
    for state in UplinkState::ALL {
        let is = f64::from(u8::from(state == standing));
        out.level("uplink_state", "1 for where it stands.", &with(&[("state", state.as_str())]), is);
    }
    if let Some(left) = stats.drain_estimate() {
        out.level("uplink_drain_seconds", "How long its backlog will last.", labels, left.as_secs_f64());
    }
    let help = "How often its QUIC connection went on from another address of this box.";
    out.count("uplink_quic_moves", help, labels, stats.moves());
    let help = "Bytes of TCP sent (out) and received (in), TLS included.";
    out.count("uplink_transferred_bytes", help, &with(&[("direction", "in")]), stats.bytes_down());
    out.count("uplink_transferred_bytes", help, &with(&[("direction", "out")]), stats.bytes_up());
    let mut budgets = Vec::new();
    for (budget, used) in stats.budgets().iter() {
        budgets.push((String::new(), *budget, *used));
    }
    for PathFigures { path, state, current, bytes, budgets: of_way } in stats.paths().iter() {
        let labels = with(&[("path", path)]);
        out.count("uplink_wire_bytes", "Bytes on the wire, headers included, both directions.", &labels, *bytes);
        let well = f64::from(u8::from(*state == PathState::Well));
        out.level("uplink_path_well", "1 while nothing is known against the path.", &labels, well);
        let current = f64::from(u8::from(*current));
        out.level("uplink_path_current", "1 for the path that carries the session.", &labels, current);
        budgets.extend(of_way.iter().map(|(budget, used)| (path.clone(), *budget, *used)));
    }
    for (path, budget, used) in budgets {
        let span = if budget.period == Period::Day { "day" } else { "month" };
        let labels = with(&[("path", &path), ("span", span)]);
        out.level("uplink_budget_bytes", "What may be spent in this time.", &labels, real(budget.bytes));
        out.level("uplink_budget_used_bytes", "What was spent of it.", &labels, real(used));
    }
}
