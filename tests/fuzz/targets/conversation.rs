//! A client's whole connection, from CONNECT to its end, with a broker that others use at the same time.
//!
//! Promises: whatever comes, the broker answers or closes; what it answers is legal to a decoder that is not ours (the one
//! of `rumqttc`) and to the rules below: CONNACK first and once, an acknowledgement only for what was sent, nothing behind
//! a DISCONNECT. Another client's messages go on arriving, in order.
//!
//! The first byte says what is done around the rest: which version's CONNECT goes before it (or none: it is in the input)
//! and whether half a packet at its end is sent.

#[path = "../../support/broker.rs"]
pub(super) mod support;

use std::cell::RefCell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use support::{Client4, PATIENCE, Running};
use tokio::runtime::Runtime;

use super::Bytes;

/// How many conversations go by before the other client must have seen a message.
const BETWEEN: u32 = 16;

/// The broker, in threads of its own, and the client that nothing may disturb.
struct Home {
    running: Option<(Runtime, Running)>,
    address: SocketAddr,
    control: Client4,
    turn: u32,
}

impl Home {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (broker, control) = runtime.block_on(async {
            let broker = Running::start().await;
            let mut control = broker.v4("the-client-that-nothing-may-disturb").await;
            control.subscribe("undisturbed", rumqttc::QoS::AtLeastOnce).await;
            (broker, control)
        });
        let address = broker.address;
        Self { running: Some((runtime, broker)), address, control, turn: 0 }
    }

    fn check(&mut self) {
        self.turn += 1;
        if !self.turn.is_multiple_of(BETWEEN) {
            return;
        }
        let said = self.turn.to_string();
        let (control, (runtime, broker)) = (&mut self.control, self.running.as_ref().expect("there until the end"));
        broker.publisher.publish("undisturbed".into(), said.clone().into());
        runtime.block_on(async {
            loop {
                let seen = control.message().await;
                control.send(v4::Packet::PubAck(v4::PubAck::new(seen.pkid))).await;
                // Anybody may publish there.
                if seen.payload == said {
                    break;
                }
            }
        });
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Some((runtime, broker)) = self.running.take() else { return };
        // This thread is ending, and with it what a runtime needs: another one brings it to its end.
        let ended = std::thread::spawn(move || drop(runtime.block_on(broker.stop()))).join();
        assert!(ended.is_ok() || std::thread::panicking(), "the broker did not end in order");
    }
}

thread_local! {
    static HOME: RefCell<Option<Home>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Four,
    Five,
}

/// A CONNECT that is fine.
const CONNECTS: [(Version, &[u8]); 3] = [
    (Version::Four, &[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 4, b'f', b'u', b'z', b'z']),
    (Version::Five, &[0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 4, b'f', b'u', b'z', b'z']),
    // A session that stays; 3 aliases; 2 in flight.
    (
        Version::Five,
        &[
            0x10, 28, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 60, 11, 17, 0, 0, 0, 60, 33, 0, 2, 34, 0, 3, 0, 4, b'f',
            b'u', b'z', b'z',
        ],
    ),
];

/// Whole packets at the front: first byte and body of each, and how long they are together.
fn whole(bytes: &[u8]) -> (Vec<(u8, &[u8])>, usize) {
    let (mut packets, mut at) = (Vec::new(), 0);
    'packets: while at < bytes.len() {
        let (mut length, mut place) = (0_usize, 1);
        loop {
            let Some(byte) = bytes.get(at + place) else { break 'packets };
            length |= usize::from(byte & 0x7F) << (7 * (place - 1));
            place += 1;
            if byte & 0x80 == 0 || place > 4 {
                break;
            }
        }
        let Some(body) = bytes.get(at + place..at + place + length) else { break };
        packets.push((bytes[at], body));
        at += place + length;
    }
    (packets, at)
}

/// Which version the answer must be in; `None` if the first packet is not one that is answered for sure. A version that
/// nobody knows yet is answered as the newest, one that is lost as the oldest; the top bit is a bridge's.
fn version(first: Option<&(u8, &[u8])>) -> Option<Version> {
    let (level, newest) = match first? {
        (0x10, [0, 4, b'M', b'Q', b'T', b'T', level, ..]) => (level, 5),
        (0x10, [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', level, ..]) => (level, 6),
        _ => return None,
    };
    let is_bridge = *level == if newest == 5 { 0x84 } else { 0x83 };
    Some(if *level >= newest && !is_bridge { Version::Five } else { Version::Four })
}

/// What the broker says, in the order of saying.
#[derive(Debug)]
enum Said {
    Connack,
    Publish {
        topic: String,
        id: u16,
        qos: u8,
        payload: usize,
    },
    /// First byte and packet id.
    Answer(u8, u16),
    Pingresp,
    Disconnect,
}

fn read_four(from: &mut BytesMut) -> Option<Said> {
    use v4::Packet;
    let packet = match Packet::read(from, 1 << 21) {
        Ok(packet) => packet,
        Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => return None,
        Err(error) => panic!("not legal in 3.1.1: {error}"),
    };
    Some(match packet {
        Packet::ConnAck(_) => Said::Connack,
        Packet::Publish(v4::Publish { topic, pkid, qos, payload, .. }) => {
            Said::Publish { topic, id: pkid, qos: qos as u8, payload: payload.len() }
        }
        Packet::PubAck(ack) => Said::Answer(0x40, ack.pkid),
        Packet::PubRec(ack) => Said::Answer(0x50, ack.pkid),
        Packet::PubRel(ack) => Said::Answer(0x62, ack.pkid),
        Packet::PubComp(ack) => Said::Answer(0x70, ack.pkid),
        Packet::SubAck(ack) => Said::Answer(0x90, ack.pkid),
        Packet::UnsubAck(ack) => Said::Answer(0xB0, ack.pkid),
        Packet::PingResp => Said::Pingresp,
        other => panic!("not for a client: {other:?}"),
    })
}

fn read_five(from: &mut BytesMut) -> Option<Said> {
    use v5::Packet;
    let packet = match Packet::read(from, None) {
        Ok(packet) => packet,
        Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => return None,
        Err(error) => panic!("not legal in 5: {error}"),
    };
    Some(match packet {
        Packet::ConnAck(_) => Said::Connack,
        Packet::Publish(v5::Publish { topic, pkid, qos, payload, properties, .. }) => {
            let aliased = properties.is_some_and(|properties| properties.topic_alias.is_some());
            let topic = if topic.is_empty() && aliased { "by its alias".into() } else { topic };
            let topic = std::str::from_utf8(&topic).expect("UTF-8").to_owned();
            Said::Publish { topic, id: pkid, qos: qos as u8, payload: payload.len() }
        }
        Packet::PubAck(ack) => Said::Answer(0x40, ack.pkid),
        Packet::PubRec(ack) => Said::Answer(0x50, ack.pkid),
        Packet::PubRel(ack) => Said::Answer(0x62, ack.pkid),
        Packet::PubComp(ack) => Said::Answer(0x70, ack.pkid),
        Packet::SubAck(ack) => Said::Answer(0x90, ack.pkid),
        Packet::UnsubAck(ack) => Said::Answer(0xB0, ack.pkid),
        Packet::PingResp(_) => Said::Pingresp,
        Packet::Disconnect(_) => Said::Disconnect,
        other => panic!("not for a client: {other:?}"),
    })
}

/// Holds what was said against what was sent.
fn judge(sent: &[(u8, &[u8])], said: &[Said]) {
    let count = |wanted: u8, id: u16| {
        let of = |(first, body): &&(u8, &[u8])| match first >> 4 {
            3 if body.len() > 3 => {
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                body.get(at..at + 2) == Some(&id.to_be_bytes()[..]) && first & 6 != 0
            }
            _ => body.get(..2) == Some(&id.to_be_bytes()[..]),
        };
        sent.iter().filter(|(first, _)| first >> 4 == wanted).filter(of).count()
    };
    let answers = |first: u8, id: u16| {
        said.iter().filter(|said| matches!(said, Said::Answer(f, i) if (*f, *i) == (first, id))).count()
    };
    for (place, said) in said.iter().enumerate() {
        assert_eq!(place == 0, matches!(said, Said::Connack), "CONNACK first and once: {said:?}");
        match said {
            Said::Publish { topic, id, qos, payload } => {
                assert!(!topic.is_empty() && !topic.contains(['+', '#', '\0']), "{topic:?}");
                assert_eq!(*id == 0, *qos == 0, "a packet id above QoS 0 only");
                assert!(*payload <= 1 << 20);
            }
            Said::Answer(first, id) => {
                let by = match first >> 4 {
                    4 | 5 => 3,
                    6 => 5,
                    7 => 6,
                    9 => 8,
                    _ => 10,
                };
                assert!(answers(*first, *id) <= count(by, *id), "{said:?} for nothing that was sent");
            }
            Said::Connack | Said::Pingresp | Said::Disconnect => {}
        }
    }
    let pings = said.iter().filter(|said| matches!(said, Said::Pingresp)).count();
    assert!(pings <= sent.iter().filter(|(first, _)| *first == 0xC0).count());
    let last_words = said.iter().position(|said| matches!(said, Said::Disconnect));
    assert!(last_words.is_none_or(|place| place + 1 == said.len()), "something behind DISCONNECT");
}

/// Sends it, hears what comes until the broker closes.
fn converse(address: SocketAddr, bytes: &[u8]) -> BytesMut {
    let mut stream = TcpStream::connect(address).expect("the door is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut heard = Vec::new();
    // The broker may hang up at any byte: that is the point.
    if stream.write_all(bytes).is_ok() {
        drop(stream.shutdown(Shutdown::Write));
    }
    match stream.read_to_end(&mut heard) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("it does not end"),
        _ => BytesMut::from(&heard[..]),
    }
}

/// See above.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let how = input.byte();
    let mut bytes = match CONNECTS.get(usize::from(how % 4)) {
        Some((_, connect)) => connect.to_vec(),
        None => Vec::new(),
    };
    bytes.extend(input.0);
    let (_, end) = whole(&bytes);
    if how & 4 == 0 {
        bytes.truncate(end);
    }
    HOME.with_borrow_mut(|home| {
        let home = home.get_or_insert_with(Home::new);
        let mut heard = converse(home.address, &bytes);
        let (sent, _) = whole(&bytes);
        let read = match version(sent.first()) {
            Some(Version::Four) => read_four,
            Some(Version::Five) => read_five,
            None => |from: &mut BytesMut| {
                // Garbage gets no answer; of what is nearly a CONNECT, the version is told in 3.1.1.
                assert!(from.is_empty() || matches!(from.first(), Some(0x20)) && from.len() <= 5, "{from:?}");
                None
            },
        };
        let said: Vec<Said> = std::iter::from_fn(|| read(&mut heard)).collect();
        judge(&sent, &said);
        home.check();
    });
}
