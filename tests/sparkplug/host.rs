//! A host and the broker it is at, in one: speaks MQTT 3.1.1 to one edge node or several, keeps what they say, sends commands
//! and its own state, and misbehaves on command.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use prost::Message as _;
use rumqttc::QoS;
use rumqttc::mqttbytes::{Error, v4};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::payload::{Metric, Payload};

/// What an edge node did.
#[derive(Clone, Debug)]
pub enum Did {
    Connect(v4::Connect),
    Subscribe(Vec<(String, QoS)>),
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: QoS,
        retain: bool,
    },
    /// The barrier behind what is QoS 0.
    Unsubscribe,
    /// DISCONNECT
    Leave,
    /// The connection is over, with or without [`Did::Leave`].
    Gone,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Counted from 1.
    pub connection: usize,
    pub at: Instant,
    pub did: Did,
}

/// A publish on a topic of Sparkplug, taken apart.
#[derive(Clone, Debug)]
pub struct Message {
    pub connection: usize,
    pub at: Instant,
    /// `NBIRTH`, …
    pub kind: String,
    pub group: String,
    pub node: String,
    pub device: Option<String>,
    pub payload: Payload,
    pub qos: QoS,
    pub retain: bool,
}

/// How it misbehaves.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    /// Connections are closed at once.
    refuse: bool,
    /// Every connection is cut when this changes.
    cut: u64,
    /// What comes is read and lost, nothing is answered: a broker that is about to die.
    swallow: bool,
    withheld: Withheld,
}

/// What is not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Withheld {
    #[default]
    Nothing,
    Subacks,
    /// Barriers are answered when this is over.
    Unsubacks,
}

struct Shared {
    log: Mutex<Vec<Entry>>,
    orders: watch::Sender<Orders>,
    /// Retained messages.
    kept: Mutex<Vec<(String, Vec<u8>)>>,
    /// To whoever has subscribed.
    out: broadcast::Sender<v4::Publish>,
}

pub struct Host {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    door: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.door.abort();
        self.cut();
    }
}

impl Host {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            orders: watch::Sender::new(Orders::default()),
            kept: Mutex::default(),
            out: broadcast::channel(4096).0,
        });
        let door = tokio::spawn(door(listener, Arc::clone(&shared)));
        Self { address, shared, door }
    }

    /// Every connection is cut, and no new one taken until [`Self::live`].
    pub fn die(&self) {
        self.shared.orders.send_modify(|orders| (orders.refuse, orders.cut) = (true, orders.cut + 1));
    }

    /// Takes connections again; what was lost is lost.
    pub fn live(&self) {
        self.shared.orders.send_modify(|orders| (orders.refuse, orders.swallow) = (false, false));
    }

    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cut += 1);
    }

    /// What comes from now on is lost, and nothing is answered.
    pub fn swallow(&self) {
        self.shared.orders.send_modify(|orders| orders.swallow = true);
    }

    pub fn no_suback(&self, on: bool) {
        let withheld = if on { Withheld::Subacks } else { Withheld::Nothing };
        self.shared.orders.send_modify(|orders| orders.withheld = withheld);
    }

    /// Barriers are answered when this is over.
    pub fn no_unsuback(&self, on: bool) {
        let withheld = if on { Withheld::Unsubacks } else { Withheld::Nothing };
        self.shared.orders.send_modify(|orders| orders.withheld = withheld);
    }

    /// The state of a host, retained, and told to who has subscribed.
    pub fn state(&self, host: &str, online: bool, timestamp_ms: u64) {
        let payload = format!(r#"{{"online":{online},"timestamp":{timestamp_ms}}}"#);
        self.keep(&format!("spBv1.0/STATE/{host}"), payload.as_bytes());
    }

    /// Any retained message, told to who has subscribed too.
    pub fn keep(&self, topic: &str, payload: &[u8]) {
        let mut kept = self.shared.kept.lock().unwrap();
        kept.retain(|(known, _)| known != topic);
        kept.push((topic.into(), payload.into()));
        drop(kept);
        self.say(topic, payload);
    }

    /// To who has subscribed.
    pub fn say(&self, topic: &str, payload: &[u8]) {
        let _ = self.shared.out.send(v4::Publish::new(topic, QoS::AtMostOnce, payload)); // perhaps nobody is there
    }

    /// NCMD to `acme/gw`, or DCMD to a device of it, of now.
    pub fn command(&self, device: Option<&str>, metrics: Vec<Metric>) {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
        self.command_of(now, device, metrics);
    }

    /// The same; its payload says when it was sent.
    pub fn command_of(&self, unix_ms: u64, device: Option<&str>, metrics: Vec<Metric>) {
        let topic = match device {
            None => "spBv1.0/acme/NCMD/gw".to_owned(),
            Some(device) => format!("spBv1.0/acme/DCMD/gw/{device}"),
        };
        let payload = Payload { timestamp: Some(unix_ms), metrics, ..Payload::default() };
        self.say(&topic, &payload.encode_to_vec());
    }

    /// Everything so far.
    pub fn log(&self) -> Vec<Entry> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Every CONNECT so far.
    pub fn connects(&self) -> Vec<v4::Connect> {
        let connect = |entry: Entry| if let Did::Connect(connect) = entry.did { Some(connect) } else { None };
        self.log().into_iter().filter_map(connect).collect()
    }

    /// Every message of Sparkplug so far; those on other topics are no concern of a host.
    pub fn messages(&self) -> Vec<Message> {
        self.log().into_iter().filter_map(message).collect()
    }

    /// Those of this kind.
    pub fn of(&self, kind: &str) -> Vec<Message> {
        self.messages().into_iter().filter(|message| message.kind == kind).collect()
    }

    /// Waits until this holds; panics after two minutes.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !holds(self) {
            if Instant::now() > deadline {
                let kinds: Vec<_> = self.messages().iter().map(|it| format!("{} {:?}", it.kind, it.device)).collect();
                panic!("in vain: {what}; so far {:?}", &kinds[kinds.len().saturating_sub(30)..]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many of this kind have come.
    pub async fn count(&self, kind: &str, count: usize) {
        self.until(&format!("{count} {kind}"), |host| host.of(kind).len() >= count).await;
    }
}

pub fn message(entry: Entry) -> Option<Message> {
    let Did::Publish { topic, payload, qos, retain } = entry.did else { return None };
    let mut levels = topic.strip_prefix("spBv1.0/")?.split('/').map(str::to_owned);
    let (group, kind, node) = (levels.next()?, levels.next()?, levels.next()?);
    let payload = unpacked(Payload::decode(&payload[..]).expect("a payload of Sparkplug"));
    let device = levels.next();
    assert_eq!(levels.next(), None, "{topic}");
    Some(Message { connection: entry.connection, at: entry.at, kind, group, node, device, payload, qos, retain })
}

/// What is in a compressed payload; it must say the same of time and seq as what is around it.
fn unpacked(outer: Payload) -> Payload {
    use std::io::Read as _;
    if outer.uuid.is_none() {
        return outer;
    }
    assert_eq!(outer.uuid.as_deref(), Some("SPBV1.0_COMPRESSED"));
    assert_eq!(outer.named("algorithm").unwrap().value, Some(crate::payload::Value::Text("GZIP".into())));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&outer.body.unwrap()[..]).read_to_end(&mut plain).unwrap();
    let inner = Payload { uuid: Some("packed".into()), ..Payload::decode(&plain[..]).unwrap() };
    assert_eq!((inner.timestamp, inner.seq), (outer.timestamp, outer.seq));
    inner
}

async fn door(listener: TcpListener, shared: Arc<Shared>) {
    let mut connection = 0;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if shared.orders.borrow().refuse {
            continue;
        }
        connection += 1;
        stream.set_nodelay(true).unwrap();
        let (filters, unanswered) = (Vec::new(), Vec::new());
        let peer = Peer { stream, shared: Arc::clone(&shared), connection, filters, unanswered };
        tokio::spawn(peer.serve());
    }
}

struct Peer {
    stream: TcpStream,
    shared: Arc<Shared>,
    connection: usize,
    filters: Vec<String>,
    /// Barriers.
    unanswered: Vec<u16>,
}

impl Peer {
    async fn serve(mut self) {
        let (mut orders, mut out) = (self.shared.orders.subscribe(), self.shared.out.subscribe());
        let cut = orders.borrow().cut;
        let mut buffer = BytesMut::new();
        while orders.borrow_and_update().cut == cut {
            tokio::select! {
                read = self.stream.read_buf(&mut buffer) => {
                    if !matches!(read, Ok(1..)) || self.packets(&mut buffer).await.is_none() {
                        break;
                    }
                }
                publish = out.recv() => {
                    let Ok(publish) = publish else { break };
                    let swallow = self.shared.orders.borrow().swallow;
                    if !swallow && self.wants(&publish.topic) && self.send(&v4::Packet::Publish(publish)).await.is_none() {
                        break;
                    }
                }
                changed = orders.changed() => if changed.is_err() || self.answer().await.is_none() { break },
            }
        }
        self.note(Did::Gone);
    }

    fn wants(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| rumqttc::mqttbytes::matches(topic, filter))
    }

    fn note(&self, did: Did) {
        let entry = Entry { connection: self.connection, at: Instant::now(), did };
        self.shared.log.lock().unwrap().push(entry);
    }

    async fn packets(&mut self, buffer: &mut BytesMut) -> Option<()> {
        loop {
            let packet = match v4::Packet::read(buffer, 1 << 24) {
                Ok(packet) => packet,
                Err(Error::InsufficientBytes(_)) => return Some(()),
                Err(error) => panic!("the edge node sent nonsense: {error}"),
            };
            if self.shared.orders.borrow().swallow {
                continue;
            }
            self.packet(packet).await?;
        }
    }

    async fn packet(&mut self, packet: v4::Packet) -> Option<()> {
        match packet {
            v4::Packet::Connect(connect) => {
                self.note(Did::Connect(connect));
                let code = v4::ConnectReturnCode::Success;
                self.send(&v4::Packet::ConnAck(v4::ConnAck { session_present: false, code })).await
            }
            v4::Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            v4::Packet::Unsubscribe(it) => {
                self.note(Did::Unsubscribe);
                self.unanswered.push(it.pkid);
                self.answer().await
            }
            v4::Packet::Publish(it) => {
                let v4::Publish { topic, payload, qos, retain, pkid, .. } = it;
                self.note(Did::Publish { topic, payload: payload.to_vec(), qos, retain });
                match qos {
                    QoS::AtMostOnce => Some(()),
                    _ => self.send(&v4::Packet::PubAck(v4::PubAck { pkid })).await,
                }
            }
            v4::Packet::PingReq => self.send(&v4::Packet::PingResp).await,
            v4::Packet::PubAck(_) => Some(()),
            v4::Packet::Disconnect => {
                self.note(Did::Leave);
                None
            }
            other => panic!("the edge node sent {other:?}"),
        }
    }

    /// Barriers, unless that is forbidden.
    async fn answer(&mut self) -> Option<()> {
        if self.shared.orders.borrow().withheld == Withheld::Unsubacks {
            return Some(());
        }
        for pkid in std::mem::take(&mut self.unanswered) {
            self.send(&v4::Packet::UnsubAck(v4::UnsubAck { pkid })).await?;
        }
        Some(())
    }

    async fn subscribe(&mut self, subscribe: v4::Subscribe) -> Option<()> {
        let asked: Vec<_> = subscribe.filters.into_iter().map(|filter| (filter.path, filter.qos)).collect();
        self.note(Did::Subscribe(asked.clone()));
        if self.shared.orders.borrow().withheld == Withheld::Subacks {
            return Some(());
        }
        let codes = asked.iter().map(|(_, qos)| v4::SubscribeReasonCode::Success(*qos)).collect();
        self.send(&v4::Packet::SubAck(v4::SubAck { pkid: subscribe.pkid, return_codes: codes })).await?;
        self.filters.extend(asked.into_iter().map(|(filter, _)| filter));
        let kept = self.shared.kept.lock().unwrap().clone();
        let wanted: Vec<_> = kept.into_iter().filter(|(topic, _)| self.wants(topic)).collect();
        for (topic, payload) in wanted {
            let mut publish = v4::Publish::new(topic, QoS::AtMostOnce, payload);
            publish.retain = true;
            self.send(&v4::Packet::Publish(publish)).await?;
        }
        Some(())
    }

    async fn send(&mut self, packet: &v4::Packet) -> Option<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 24).unwrap();
        self.stream.write_all(&bytes).await.ok()
    }
}
