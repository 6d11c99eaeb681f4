//! What things cost on the wire before the meter has counted them, TLS, TCP and acknowledgements included: estimates from
//! above, so that what cannot be paid is not begun. The meter has the last word. What was measured stands in
//! [`wire`], which the forecast is made from, too. Pure.

use crate::config::plan::{ServerPlan, Transport, UplinkPlan};
use crate::config::wire;

/// IP and TCP headers with the timestamp option (RFC 791, RFC 9293, RFC 7323), per segment.
const SEGMENT: u64 = 52;
/// A TLS 1.3 record adds header, content type and tag (RFC 8446, section 5.2).
const RECORD: u64 = 22;
/// Payload of a full segment; smaller than Ethernet's because of mobile networks' tunnels.
const SEGMENT_PAYLOAD: u64 = 1300;
/// A PUBACK and what carries it both ways: 4 bytes of MQTT in a record in a segment, and the segment that confirms it.
const ANSWER: u64 = 4 + RECORD + 2 * SEGMENT;
/// A full keep alive cycle: PINGREQ, PINGRESP and their confirmations.
pub(in crate::uplink) const PING: u64 = wire::KEEP_ALIVE_CYCLE as u64;
/// Offline status, its answer, DISCONNECT, close_notify both ways, FIN both ways.
const GOODBYE: u64 = 1000;
/// What an orderly end needs in hand: the goodbye, a ping that is under way, a status.
pub(in crate::uplink) const LEAVE: u64 = GOODBYE + PING + 600;
/// Who has no more than this cannot send even a small message and leave afterwards.
pub(in crate::uplink) const LAST: u64 = LEAVE + 600;
/// CONNECT, CONNACK, SUBSCRIBE, SUBACK and the first status.
const GREETING: u64 = 900;
/// Opening and closing a TCP connection.
pub(in crate::uplink) const TCP: u64 = 7 * SEGMENT;
/// A TLS handshake with both certificates, and half as much again for long chains.
const TLS: u64 = wire::CONNECT_MUTUAL as u64 * 3 / 2;
/// The same by QUIC, and half as much again; and before it an address of the other family that keeps silent: a first packet,
/// two repetitions and a farewell, all of them padded (`road::quic`).
const QUIC: u64 = wire::CONNECT_QUIC as u64 * 3 / 2 + QUIC_SILENCE;
const QUIC_SILENCE: u64 = 4 * 1228;
/// The websocket upgrade and a proxy's greeting, each.
const HTTP: u64 = 800;

/// A publish of this many bytes (topic, payload, MQTT header) until its acknowledgement is confirmed.
pub(in crate::uplink) fn publish(bytes: usize) -> u64 {
    let bytes = bytes as u64;
    let segments = bytes / SEGMENT_PAYLOAD + 1;
    // the other side confirms every second segment, and a record may be split in two
    bytes + (segments + segments / 2 + 1) * SEGMENT + (bytes / (8 << 10) + 2) * RECORD + ANSWER
}

/// Bytes that fill segments, with their headers.
fn with_headers(bytes: u64) -> u64 {
    bytes * u64::from(wire::WITH_HEADERS) / 100
}

/// Births of an edge node: publishes without acknowledgement that leave together, with a barrier behind each few kB.
pub(in crate::uplink) fn births(messages: usize, bytes: usize) -> u64 {
    let (messages, bytes) = (messages as u64, bytes as u64);
    with_headers(bytes) + messages * RECORD + (bytes / (4 << 10) + 1) * (2 * RECORD + 2 * SEGMENT + ANSWER)
}

/// Publishes in flight, of which the meter may have counted all or nothing.
pub(in crate::uplink) fn in_flight(messages: usize, bytes: usize) -> u64 {
    messages as u64 * publish(0) + with_headers(bytes as u64)
}

/// Beginning a session, before one was measured.
pub(in crate::uplink) fn connect(plan: &UplinkPlan) -> u64 {
    let of = |server: &ServerPlan| {
        let tls = match &server.transport {
            Transport::Quic => QUIC,
            transport if transport.is_secure() => TLS,
            _ => 0,
        };
        let web = matches!(server.transport, Transport::Websocket { .. } | Transport::SecureWebsocket { .. });
        tls + if web { HTTP } else { 0 }
    };
    let dearest = plan.servers.iter().map(of).max().unwrap_or(TLS);
    TCP + GREETING + dearest + if plan.proxy.is_some() { HTTP } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_lie_above_what_was_measured_and_not_far() {
        // One JSON sample a message, all in: 261 bytes, of which topic, payload and MQTT header are about 130.
        let sample = publish(130);
        assert!((261..=480).contains(&sample), "{sample}");
        // 16 KiB of a batch: payload, 12 segments, half as many confirmations, the answer.
        let batch = publish(16 << 10);
        assert!((17_200..=18_200).contains(&batch), "{batch}");
        assert!(in_flight(10, 1300) >= 10 * 261, "ten small ones");
        let mut plan = UplinkPlan::plain("x");
        for (transport, measured) in [
            (Transport::Tls, u64::from(wire::CONNECT_MUTUAL)),
            (Transport::Quic, u64::from(wire::CONNECT_QUIC) + QUIC_SILENCE),
        ] {
            plan.servers = vec![ServerPlan { host: "x".to_owned(), port: 1, transport: transport.clone() }];
            let estimate = connect(&plan);
            assert!((measured..2 * measured).contains(&estimate), "{transport:?}: {estimate}");
        }
    }
}
