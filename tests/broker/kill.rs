//! kill -9 of the whole gateway under load, again and again, as clients with lasting sessions see it: what was acknowledged
//! arrives, at QoS 2 once, in the order in which it was published; retained messages are never older than what was
//! acknowledged.
//!
//! Every client here keeps its side of its session over the kills, as MQTT demands: what it has not seen acknowledged it
//! sends again, what it has received at QoS 2 it remembers until it is released. So each message has to arrive in the end,
//! and every gap is one that was acknowledged and lost.
//!
//! `IRONBRIDGE_BROKER_KILLS` sets the number of kills (6; a long run: 50).

use crate::gateway::{Daemon, Home, PATIENCE};

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::Rng as _;
use rumqttc::v5::mqttbytes::{QoS, v5};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Publishes on their way per client.
const WINDOW: usize = 32;

/// Packet identifiers a publisher uses: few, so that each comes again soon.
const IDS: u64 = 200;

/// A connection that may break at any moment.
struct Link {
    stream: TcpStream,
    arrived: BytesMut,
}

impl Link {
    /// A lasting session (or a clean one); with it, whether it was there.
    async fn open(to: SocketAddr, id: &str, clean_start: bool) -> Option<(Self, bool)> {
        let stream = TcpStream::connect(to).await.ok()?;
        let mut link = Self { stream, arrived: BytesMut::new() };
        let mut properties = v5::ConnectProperties::new();
        properties.session_expiry_interval = Some(if clean_start { 0 } else { 3600 });
        let (client_id, properties) = (id.to_owned(), Some(properties));
        let connect = v5::Connect { keep_alive: 0, client_id, clean_start, properties };
        link.send(v5::Packet::Connect(connect, None, None)).await?;
        match link.next().await? {
            v5::Packet::ConnAck(connack) => {
                assert_eq!(connack.code, v5::ConnectReturnCode::Success, "{id}");
                Some((link, connack.session_present))
            }
            other => panic!("a CONNACK, not {other:?}"),
        }
    }

    async fn send(&mut self, packet: v5::Packet) -> Option<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("encodable");
        self.stream.write_all(&bytes).await.ok()
    }

    async fn next(&mut self) -> Option<v5::Packet> {
        loop {
            match v5::Packet::read(&mut self.arrived, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the broker sent nonsense: {error}"),
            }
            if self.stream.read_buf(&mut self.arrived).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn subscribe(&mut self, path: &str, qos: QoS) -> Option<()> {
        let filters = vec![v5::Filter::new(path, qos)];
        self.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 9, filters, properties: None })).await
    }
}

/// What all clients know.
struct Scene {
    /// Where the broker is, once it is.
    broker: watch::Receiver<Option<SocketAddr>>,
    /// Publishers begin nothing new.
    enough: AtomicBool,
    /// Every reader may go when it has that many of each topic.
    wanted: watch::Receiver<Option<HashMap<String, u64>>>,
}

impl Scene {
    /// A connection to the broker, once it runs.
    async fn link(&self, id: &str, clean: bool) -> (Link, bool) {
        loop {
            let to = *self.broker.borrow();
            if let Some(to) = to
                && let Some(link) = Link::open(to, id, clean).await
            {
                return link;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flight {
    Published,
    Released,
}

/// Publishes numbers, one after the other, until it is enough and all of them are acknowledged.
struct Sender {
    topic: &'static str,
    qos: QoS,
    retain: bool,
    next: u64,
    open: VecDeque<(u64, Flight)>,
    /// All below this are acknowledged.
    acknowledged: Arc<AtomicU64>,
}

impl Sender {
    fn new(topic: &'static str, qos: QoS, retain: bool) -> Self {
        Self { topic, qos, retain, next: 1, open: VecDeque::new(), acknowledged: Arc::default() }
    }

    /// How many it has published.
    async fn run(mut self, scene: Arc<Scene>) -> (&'static str, u64) {
        loop {
            let (link, _) = scene.link(self.topic, false).await;
            if self.talk(link, &scene).await.is_some() {
                return (self.topic, self.next - 1);
            }
        }
    }

    async fn talk(&mut self, mut link: Link, scene: &Scene) -> Option<()> {
        for (n, flight) in self.open.clone() {
            link.send(if flight == Flight::Released { released(n) } else { self.publish(n, true) }).await?;
        }
        loop {
            while self.open.len() < WINDOW && !scene.enough.load(Ordering::Relaxed) {
                link.send(self.publish(self.next, false)).await?;
                self.open.push_back((self.next, Flight::Published));
                self.next += 1;
            }
            if self.open.is_empty() {
                return Some(());
            }
            match link.next().await? {
                v5::Packet::PubAck(puback) => {
                    use v5::PubAckReason::{NoMatchingSubscribers, Success};
                    assert!(matches!(puback.reason, Success | NoMatchingSubscribers), "{puback:?}");
                    self.land(puback.pkid);
                }
                v5::Packet::PubRec(pubrec) => {
                    assert_eq!(pubrec.reason, v5::PubRecReason::Success);
                    let place = self.open.iter_mut().find(|(n, _)| packet_id(*n) == pubrec.pkid);
                    let (n, flight) = place.expect("something to answer");
                    *flight = Flight::Released;
                    let packet = released(*n);
                    link.send(packet).await?;
                }
                v5::Packet::PubComp(pubcomp) => self.land(pubcomp.pkid),
                other => panic!("an acknowledgement, not {other:?}"),
            }
        }
    }

    fn land(&mut self, id: u16) {
        self.open.retain(|(n, _)| packet_id(*n) != id);
        let oldest = self.open.front().map_or(self.next, |(n, _)| *n);
        self.acknowledged.store(oldest, Ordering::SeqCst);
    }

    fn publish(&self, n: u64, dup: bool) -> v5::Packet {
        let mut publish = v5::Publish::new(self.topic, self.qos, n.to_string(), None);
        (publish.pkid, publish.dup, publish.retain) = (packet_id(n), dup, self.retain);
        v5::Packet::Publish(publish)
    }
}

fn packet_id(n: u64) -> u16 {
    u16::try_from(1 + n % IDS).expect("few")
}

fn released(n: u64) -> v5::Packet {
    v5::Packet::PubRel(v5::PubRel::new(packet_id(n), None))
}

/// What a subscriber has seen, and its side of the session.
#[derive(Default)]
struct Reader {
    /// QoS 2: received and not released.
    held: HashSet<u16>,
    /// Per topic, in the order in which they came.
    seen: HashMap<String, Vec<u64>>,
    /// PUBLISH with DUP.
    again: u64,
}

impl Reader {
    /// One whose session subscribes before anybody publishes.
    async fn begin(id: &str, qos: QoS, scene: &Scene) -> Self {
        let (mut link, _) = scene.link(id, false).await;
        link.subscribe("load/#", qos).await.expect("it runs");
        assert!(matches!(link.next().await, Some(v5::Packet::SubAck(_))));
        Self::default()
    }

    async fn run(mut self, id: &'static str, scene: Arc<Scene>) -> (&'static str, Self) {
        loop {
            let (link, present) = scene.link(id, false).await;
            assert!(present, "{id}: the session is gone");
            if self.talk(link, &scene).await.is_some() {
                return (id, self);
            }
        }
    }

    async fn talk(&mut self, mut link: Link, scene: &Scene) -> Option<()> {
        let mut wanted = scene.wanted.clone();
        loop {
            if wanted.borrow().as_ref().is_some_and(|wanted| self.has(wanted)) {
                return Some(());
            }
            let packet = tokio::select! {
                packet = link.next() => packet?,
                _ = wanted.changed() => continue,
            };
            match packet {
                v5::Packet::Publish(publish) => {
                    self.again += u64::from(publish.dup);
                    let once = publish.qos == QoS::ExactlyOnce;
                    if !once || self.held.insert(publish.pkid) {
                        let topic = String::from_utf8(publish.topic.to_vec()).expect("text");
                        let n = std::str::from_utf8(&publish.payload).expect("text").parse().expect("a number");
                        self.seen.entry(topic).or_default().push(n);
                    }
                    link.send(match publish.qos {
                        QoS::ExactlyOnce => v5::Packet::PubRec(v5::PubRec::new(publish.pkid, None)),
                        _ => v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None)),
                    })
                    .await?;
                }
                v5::Packet::PubRel(pubrel) => {
                    self.held.remove(&pubrel.pkid);
                    link.send(v5::Packet::PubComp(v5::PubComp::new(pubrel.pkid, None))).await?;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// All of these, and nothing half done.
    fn has(&self, wanted: &HashMap<String, u64>) -> bool {
        self.held.is_empty()
            && wanted.iter().all(|(topic, count)| {
                // Behind the last there may be some that came again.
                self.seen.get(topic).is_some_and(|seen| seen.iter().rev().take(1000).any(|n| n == count))
            })
    }

    /// Every number up to the last, in order; `once`: and none twice.
    fn check(&self, id: &str, topic: &str, count: u64, once: bool) {
        let seen = &self.seen[topic];
        let (mut first, mut known) = (Vec::new(), HashSet::new());
        first.extend(seen.iter().copied().filter(|n| known.insert(*n)));
        let wrong = first.iter().zip(1..).find(|(n, wanted)| *n != wanted);
        assert_eq!(wrong, None, "{id} on {topic}: lost, or out of order, among {count}");
        assert_eq!(first.len() as u64, count, "{id} on {topic}");
        assert!(!once || seen.len() == first.len(), "{id} on {topic}: {} came twice", seen.len() - first.len());
    }
}

/// A gateway whose sessions may be owed much.
pub fn config() -> String {
    "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n[status]\nlisten = \"off\"\n\
     [broker]\nsession_max_size = \"512MiB\"\nsessions_max_size = \"1GiB\"\n\
     [[broker.listener]]\nlisten = \"127.0.0.1:0\"\nanonymous = \"read-write\"\n\
     [[bus]]\nname = \"line\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:9\"\n\
     [[device]]\nname = \"plc\"\nbus = \"line\"\nunit_id = 1\npoll = \"1s\"\n\
     [[device.tag]]\nname = \"t\"\naddress = \"holding:0\"\ntype = \"uint16\"\n"
        .to_owned()
}

/// What is retained on the topic now.
async fn retained(scene: &Scene) -> u64 {
    let (mut link, _) = scene.link("look", true).await;
    link.subscribe("load/kept", QoS::AtMostOnce).await.expect("it runs");
    loop {
        if let v5::Packet::Publish(publish) = link.next().await.expect("it runs") {
            return std::str::from_utf8(&publish.payload).expect("text").parse().expect("a number");
        }
    }
}

#[tokio::test]
async fn after_kill_9_under_load_nothing_acknowledged_is_lost_doubled_stale_or_out_of_order() {
    let kills: u64 = std::env::var("IRONBRIDGE_BROKER_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let home = Home::new(&config());
    let (told, broker) = watch::channel(None);
    let (ready, wanted) = watch::channel(None);
    let scene = Arc::new(Scene { broker, enough: AtomicBool::new(false), wanted });
    let mut daemon: Daemon = home.run();
    told.send_replace(Some(daemon.mqtt().await));
    // One is there only at the beginning and at the end.
    let absent = Reader::begin("absent", QoS::ExactlyOnce, &scene).await;
    let mut readers = Vec::new();
    for (id, qos) in [("once", QoS::ExactlyOnce), ("least", QoS::AtLeastOnce)] {
        readers.push(tokio::spawn(Reader::begin(id, qos, &scene).await.run(id, Arc::clone(&scene))));
    }
    let kept = Sender::new("load/kept", QoS::AtLeastOnce, true);
    let acknowledged = Arc::clone(&kept.acknowledged);
    let senders =
        [Sender::new("load/1", QoS::AtLeastOnce, false), Sender::new("load/2", QoS::ExactlyOnce, false), kept];
    let senders = senders.map(|sender| tokio::spawn(sender.run(Arc::clone(&scene))));
    let began = Instant::now();
    while acknowledged.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..kills {
        // Not a wait for something: the moment is to be any.
        let after = Duration::from_millis(rand::rng().random_range(20..600));
        tokio::time::sleep(after).await;
        told.send_replace(None);
        daemon.kill();
        let before = acknowledged.load(Ordering::SeqCst).saturating_sub(1);
        daemon = home.run();
        told.send_replace(Some(daemon.mqtt().await));
        let now = retained(&scene).await;
        assert!(now >= before, "{now} is retained, {before} was acknowledged");
    }
    scene.enough.store(true, Ordering::Relaxed);
    readers.push(tokio::spawn(absent.run("absent", Arc::clone(&scene))));
    let mut published = HashMap::new();
    for sender in senders {
        let (topic, count) = tokio::time::timeout(PATIENCE, sender).await.expect("in time").expect("no panic");
        published.insert(topic.to_owned(), count);
    }
    ready.send_replace(Some(published.clone()));
    let mut again = 0;
    for reader in readers {
        let (id, reader) = tokio::time::timeout(PATIENCE * 4, reader).await.expect("all of it").expect("no panic");
        for (topic, count) in &published {
            reader.check(id, topic, *count, topic == "load/2" && id != "least");
        }
        again += reader.again;
    }
    eprintln!("{kills} kills: {published:?} published and acknowledged, {again} deliveries came again");
    assert_eq!(daemon.stop().await, Some(0));
}
