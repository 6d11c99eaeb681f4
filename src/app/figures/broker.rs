//! The broker, and who was let in.

use crate::access::AccessStats;
use crate::broker::{BrokerStats, SensorStats};
use crate::status::metrics::{Figures, Labels};

use super::{of, real};

/// What `$SYS` has, and what was dropped by reason.
pub(super) fn broker(out: &mut Figures, stats: &BrokerStats) {
    let BrokerStats {
        clients,
        clients_max,
        sessions_away,
        sessions_expired,
        subscriptions,
        subscriptions_left_out,
        retained,
        retained_dropped,
        connections,
        asked_for_proof,
        turned_away,
        connects,
        connects_refused,
        packets_received,
        packets_sent,
        bytes_received,
        bytes_sent,
        publishes_received,
        publishes_sent,
        publish_bytes_received,
        publish_bytes_sent,
        // `dropped` has these.
        conflated: _,
        dropped_slow: _,
        dropped_too_large: _,
        dropped_full: _,
        dropped_ended: _,
        dropped_expired: _,
        publishes_refused,
        faults,
        sensors,
    } = stats;
    let none = Labels::new();
    for (name, help, gauge) in [
        ("broker_clients", "Clients connected now.", clients),
        ("broker_clients_max", "Most clients that were connected at once.", clients_max),
        ("broker_sessions_away", "Sessions kept for clients that are not connected.", sessions_away),
        ("broker_subscriptions", "Subscriptions now.", subscriptions),
        ("broker_retained_messages", "Retained messages now.", retained),
    ] {
        out.level(name, help, &none, real(gauge.get()));
    }
    for (name, help, counter) in [
        ("broker_sessions_expired", "Kept sessions whose client did not come back in time.", sessions_expired),
        ("broker_subscriptions_left_out", "Subscriptions on disk that found no room at start.", subscriptions_left_out),
        ("broker_retained_dropped", "Retained messages of clients dropped, see the log.", retained_dropped),
        ("broker_connections", "Connections taken in.", connections),
        ("broker_quic_retries", "Callers by QUIC asked to prove their address first.", asked_for_proof),
        ("broker_turned_away", "Connections turned away, or without anything sensible in time.", turned_away),
        ("broker_connects", "CONNECTs that came.", connects),
        ("broker_connects_refused", "CONNECTs refused.", connects_refused),
        ("broker_publishes_refused", "Publishes of clients refused.", publishes_refused),
        ("broker_faults", "Connections ended for malformed packets or protocol errors.", faults),
    ] {
        out.count(name, help, &none, counter.get());
    }
    for (name, help, received, sent) in [
        ("broker_packets", "Packets from (in) and to (out) clients.", packets_received, packets_sent),
        ("broker_transferred_bytes", "Bytes from and to clients.", bytes_received, bytes_sent),
        ("broker_publishes", "PUBLISH from and to clients.", publishes_received, publishes_sent),
        ("broker_payload_bytes", "Payload of PUBLISH.", publish_bytes_received, publish_bytes_sent),
    ] {
        out.count(name, help, &of("direction", "in"), received.get());
        out.count(name, help, &of("direction", "out"), sent.get());
    }
    dropped(out, stats);
    if cfg!(feature = "mqtt-sn") {
        mqtt_sn(out, sensors);
    }
}

/// What did not reach a client, by reason.
fn dropped(out: &mut Figures, stats: &BrokerStats) {
    for (reason, dropped) in [
        ("conflated", &stats.conflated),
        ("slow", &stats.dropped_slow),
        ("too_large", &stats.dropped_too_large),
        ("full", &stats.dropped_full),
        ("ended", &stats.dropped_ended),
        ("expired", &stats.dropped_expired),
    ] {
        let help = "Messages that did not reach a client they were meant for.";
        out.count("broker_dropped_messages", help, &of("reason", reason), dropped.get());
    }
}

/// Doors for sensors.
fn mqtt_sn(out: &mut Figures, stats: &SensorStats) {
    let SensorStats {
        asleep,
        received,
        sent,
        bad,
        strangers,
        crowded,
        repeated,
        lost,
        refused,
        unasked,
        unasked_refused,
    } = stats;
    let none = Labels::new();
    out.level("mqtt_sn_asleep", "MQTT-SN clients that sleep now.", &none, real(asleep.get()));
    let help = "Datagrams from (in) and to (out) MQTT-SN clients.";
    out.count("mqtt_sn_datagrams", help, &of("direction", "in"), received.get());
    out.count("mqtt_sn_datagrams", help, &of("direction", "out"), sent.get());
    for (reason, dropped) in [("bad", bad), ("stranger", strangers), ("crowded", crowded)] {
        let help = "MQTT-SN datagrams that nothing was done about.";
        out.count("mqtt_sn_dropped_datagrams", help, &of("reason", reason), dropped.get());
    }
    for (name, help, counter) in [
        ("mqtt_sn_repeated", "Messages sent to MQTT-SN clients again.", repeated),
        ("mqtt_sn_lost_clients", "MQTT-SN clients that did not answer any more.", lost),
        ("mqtt_sn_refused_messages", "Messages that an MQTT-SN client did not take.", refused),
    ] {
        out.count(name, help, &none, counter.get());
    }
    for (outcome, counter) in [("taken", unasked), ("refused", unasked_refused)] {
        let help = "MQTT-SN publishes at QoS -1; rules may have refused what was taken.";
        out.count("mqtt_sn_unasked", help, &of("outcome", outcome), counter.get());
    }
}

/// Logins at the broker and at the status page.
pub(super) fn access(out: &mut Figures, stats: &AccessStats) {
    let AccessStats { logins, wrong, busy, refused } = stats;
    for (outcome, counter) in [("accepted", logins), ("wrong", wrong), ("busy", busy), ("refused", refused)] {
        out.count("access_logins", "Logins by what came of them.", &of("outcome", outcome), counter.get());
    }
}
