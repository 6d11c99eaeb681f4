//! A broker upstream that misbehaves on command. Speaks real MQTT 3.1.1 and 5, over TCP or TLS; a log of everything
//! published is what subscribers are served from (commands, `…/set`: from when they subscribe).

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "cloud_peer.rs"]
mod peer;
#[path = "cloud_wire.rs"]
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode};
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, ConnectProperties, PublishProperties, RetainForwardRule};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::patience::until;

/// How it misbehaves.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is one way to misbehave, and they combine
pub struct Orders {
    withhold_acks: bool,
    black_hole: bool,
    no_connack: bool,
    refuse: Option<ConnectReturnCode>,
    ack_delay: Duration,
    acks_in_pairs_swapped: bool,
    cut_after_publishes: Option<usize>,
    cut: u64,
    refuse_connections: bool,
    answer_with: Option<Vec<u8>>,
    old: Option<Old>,
    agree: Option<ConnAckProperties>,
    deny: Vec<(String, u8)>,
    close_when_denied: bool,
    deny_payload: Option<(String, u8)>,
    fall_over: Option<String>,
    tell: (u64, Vec<u8>),
    no_suback: bool,
    no_unsuback: bool,
    greeting_delay: Duration,
    refuse_subscriptions: bool,
}

/// How a broker of MQTT 3.1.1 takes a CONNECT with 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// CONNACK 0x84 in the form of MQTT 5, then closes.
    SaysSoIn5,
    /// CONNACK 1 in the form of 3.1.1, then closes.
    SaysSoIn4,
    /// The same and does not close.
    SaysSoAndStays,
    /// Closes.
    Closes,
}

/// One publish that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub qos: QoS,
    pub client: String,
    /// Which connection, counted from 1.
    pub connection: usize,
    /// Said by the broker itself, for a client that vanished.
    pub will: bool,
    pub dup: bool,
    /// Length of the topic as it came: 0 when only its alias came.
    pub topic_bytes: usize,
    /// MQTT 5.
    pub properties: Option<PublishProperties>,
}

impl Arrived {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

#[derive(Default)]
struct Book {
    log: Vec<Arrived>,
    connects: Vec<Connect>,
    connect_properties: Vec<Option<ConnectProperties>>,
    subscriptions: Vec<(usize, Vec<String>)>,
    unsubscribed: Vec<String>,
    retained_wanted: Vec<Vec<Option<RetainForwardRule>>>,
    acknowledged: usize,
    too_new: usize,
    denied: usize,
    most_unacknowledged: usize,
    disconnects: usize,
    cursors: HashMap<String, usize>,
}

struct Shared {
    orders: watch::Sender<Orders>,
    book: Mutex<Book>,
    grown: watch::Sender<usize>,
}

/// The broker; ends with its value.
pub struct Cloud {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    door: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.door.abort();
        self.cut();
    }
}

impl Cloud {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start_with(Some(config)).await
    }

    async fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            orders: watch::Sender::new(Orders::default()),
            book: Mutex::default(),
            grown: watch::Sender::new(0),
        });
        let door = tokio::spawn(door(listener, tls.map(TlsAcceptor::from), Arc::clone(&shared)));
        Self { address, shared, door }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.shared.orders.send_modify(change);
    }

    /// Publishes are taken, but not acknowledged until this is lifted.
    pub fn withhold_acks(&self, on: bool) {
        self.order(|orders| orders.withhold_acks = on);
    }

    /// Nothing is read or written any more, connections stay open, new ones are not answered.
    pub fn black_hole(&self, on: bool) {
        self.order(|orders| orders.black_hole = on);
    }

    /// CONNECT is not answered.
    pub fn no_connack(&self, on: bool) {
        self.order(|orders| orders.no_connack = on);
    }

    /// CONNECT is answered with this code.
    pub fn refuse_session(&self, code: Option<ConnectReturnCode>) {
        self.order(|orders| orders.refuse = code);
    }

    /// TCP connections are closed at once.
    pub fn refuse_connections(&self, on: bool) {
        self.order(|orders| orders.refuse_connections = on);
    }

    /// Each acknowledgement comes this late.
    pub fn ack_slowly(&self, delay: Duration) {
        self.order(|orders| orders.ack_delay = delay);
    }

    /// Acknowledgements come two by two, the second first.
    pub fn swap_acks(&self) {
        self.order(|orders| orders.acks_in_pairs_swapped = true);
    }

    /// A publish is answered with these bytes instead of an acknowledgement.
    pub fn answer_with(&self, bytes: Option<&[u8]>) {
        self.order(|orders| orders.answer_with = bytes.map(<[u8]>::to_vec));
    }

    /// Each connection is cut after this many publishes, the last of them unacknowledged.
    pub fn cut_after(&self, publishes: Option<usize>) {
        self.order(|orders| orders.cut_after_publishes = publishes);
    }

    /// Every connection is cut now.
    pub fn cut(&self) {
        self.order(|orders| orders.cut += 1);
    }

    /// Everything that arrived so far.
    pub fn log(&self) -> Vec<Arrived> {
        self.shared.book.lock().unwrap().log.clone()
    }

    /// Everything that arrived on this topic.
    pub fn on(&self, topic: &str) -> Vec<Arrived> {
        self.log().into_iter().filter(|arrived| arrived.topic == topic).collect()
    }

    /// Every CONNECT so far.
    pub fn connects(&self) -> Vec<Connect> {
        self.shared.book.lock().unwrap().connects.clone()
    }

    /// DISCONNECT packets so far.
    pub fn disconnects(&self) -> usize {
        self.shared.book.lock().unwrap().disconnects
    }

    /// As if another client had published.
    pub fn deliver(&self, topic: &str, payload: &[u8]) {
        self.shared.log(Arrived {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
            qos: QoS::AtLeastOnce,
            client: "another".into(),
            connection: 0,
            will: false,
            dup: false,
            topic_bytes: topic.len(),
            properties: None,
        });
    }

    /// The same with flags and properties.
    pub fn deliver_with(&self, topic: &str, payload: &[u8], change: impl FnOnce(&mut Arrived)) {
        let mut arrived = Arrived {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
            qos: QoS::AtLeastOnce,
            client: "another".into(),
            connection: 0,
            will: false,
            dup: false,
            topic_bytes: topic.len(),
            properties: None,
        };
        change(&mut arrived);
        self.shared.log(arrived);
    }

    /// Only 3.1.1 is spoken.
    pub fn is_old(&self, old: Option<Old>) {
        self.order(|orders| orders.old = old);
    }

    /// What CONNACK says in MQTT 5.
    pub fn agrees(&self, change: impl FnOnce(&mut ConnAckProperties)) {
        let mut properties = wire::no_properties();
        change(&mut properties);
        self.order(|orders| orders.agree = Some(properties));
    }

    /// Publishes on this topic are not taken: PUBACK with this reason code. 0: they are again.
    pub fn deny(&self, topic: &str, reason: u8) {
        self.order(|orders| orders.deny = vec![(topic.to_owned(), reason)]);
    }

    /// The same for several topics; for these only.
    pub fn deny_all(&self, topics: &[String], reason: u8) {
        self.order(|orders| orders.deny = topics.iter().map(|topic| (topic.clone(), reason)).collect());
    }

    /// After a publish that is not taken the connection is closed; in 3.1.1, where an answer says nothing, without one.
    pub fn close_when_denied(&self, on: bool) {
        self.order(|orders| orders.close_when_denied = on);
    }

    /// Publishes with this text in them are not taken: PUBACK with this reason code.
    pub fn refuse_payloads_with(&self, text: &str, reason: u8) {
        self.order(|orders| orders.deny_payload = Some((text.to_owned(), reason)));
    }

    /// A publish with this text in it makes it close the connection.
    pub fn fall_over(&self, text: &str) {
        self.order(|orders| orders.fall_over = Some(text.to_owned()));
    }

    /// Every connection gets these bytes and is closed.
    pub fn tell(&self, bytes: &[u8]) {
        self.order(|orders| orders.tell = (orders.tell.0 + 1, bytes.to_vec()));
    }

    /// CONNACK comes this late.
    pub fn greet_slowly(&self, delay: Duration) {
        self.order(|orders| orders.greeting_delay = delay);
    }

    /// SUBSCRIBE is not answered.
    pub fn no_suback(&self, on: bool) {
        self.order(|orders| orders.no_suback = on);
    }

    /// No filter is granted.
    pub fn refuse_subscriptions(&self, on: bool) {
        self.order(|orders| orders.refuse_subscriptions = on);
    }

    /// Properties of every CONNECT so far.
    pub fn connect_properties(&self) -> Vec<Option<ConnectProperties>> {
        self.shared.book.lock().unwrap().connect_properties.clone()
    }

    /// Every SUBSCRIBE so far: connection and filters.
    pub fn subscriptions(&self) -> Vec<(usize, Vec<String>)> {
        self.shared.book.lock().unwrap().subscriptions.clone()
    }

    /// Filters of every UNSUBSCRIBE so far.
    pub fn unsubscribed(&self) -> Vec<String> {
        self.shared.book.lock().unwrap().unsubscribed.clone()
    }

    /// No UNSUBSCRIBE is answered.
    pub fn no_unsuback(&self, on: bool) {
        self.order(|orders| orders.no_unsuback = on);
    }

    /// What each filter of each SUBSCRIBE asked for of what is retained; `None` in 3.1.1.
    pub fn retained_wanted(&self) -> Vec<Vec<Option<RetainForwardRule>>> {
        self.shared.book.lock().unwrap().retained_wanted.clone()
    }

    /// PUBACKs of subscribers so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.book.lock().unwrap().acknowledged
    }

    /// CONNECTs with MQTT 5 that were not understood.
    pub fn too_new(&self) -> usize {
        self.shared.book.lock().unwrap().too_new
    }

    /// The most publishes of one connection that waited for their acknowledgement at once.
    pub fn most_unacknowledged(&self) -> usize {
        self.shared.book.lock().unwrap().most_unacknowledged
    }

    /// Publishes that were not taken.
    pub fn denied(&self) -> usize {
        self.shared.book.lock().unwrap().denied
    }

    /// Waits until what arrived, and who came, satisfies `enough`.
    pub async fn until(&self, what: &str, enough: impl Fn(&Self) -> bool) {
        until(what, || enough(self)).await;
    }
}

impl Shared {
    fn log(&self, arrived: Arrived) {
        let length = {
            let mut book = self.book.lock().unwrap();
            book.log.push(arrived);
            book.log.len()
        };
        self.grown.send_replace(length);
    }
}

async fn door(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut number = 0;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        number += 1;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let orders = shared.orders.borrow().clone();
            if orders.refuse_connections {
                return;
            }
            if orders.black_hole {
                swallow(stream, &shared).await;
                return;
            }
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        peer::serve(stream, shared, number).await;
                    }
                }
                None => peer::serve(stream, shared, number).await,
            }
        });
    }
}

async fn swallow(stream: TcpStream, shared: &Shared) {
    let mut orders = shared.orders.subscribe();
    let cut = orders.borrow().cut;
    while orders.borrow().cut == cut {
        if orders.changed().await.is_err() {
            return;
        }
    }
    drop(stream);
}
