//! A broker upstream that misbehaves on command. Speaks real MQTT 3.1.1, over TCP or TLS; a log of everything published
//! is what subscribers are served from.

#![allow(dead_code)] // every test file uses its own part of it

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error, QoS, matches};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Publishes to one subscriber that are not yet acknowledged.
const SUBSCRIBER_WINDOW: usize = 20;

/// How it misbehaves.
#[derive(Clone, Debug, Default)]
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
        });
    }

    /// Waits until what arrived, and who came, satisfies `enough`; panics after 30 s.
    pub async fn until(&self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !enough(self) {
            assert!(Instant::now() < deadline, "waited 30 s for: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
                        serve(stream, shared, number).await;
                    }
                }
                None => serve(stream, shared, number).await,
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

struct Peer<S> {
    stream: S,
    shared: Arc<Shared>,
    number: usize,
    connect: Option<Connect>,
    publishes: usize,
    owed_acks: VecDeque<(Instant, u16)>,
    filters: Vec<String>,
    cursor: usize,
    unacknowledged: VecDeque<(u16, usize)>,
    next_id: u16,
}

/// What happens next to a connection.
enum Next {
    Go,
    CloseInOrder,
    Cut,
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>, number: usize) {
    let mut orders = shared.orders.subscribe();
    let mut grown = shared.grown.subscribe();
    let cut = orders.borrow().cut;
    let mut peer = Peer {
        stream,
        shared,
        number,
        connect: None,
        publishes: 0,
        owed_acks: VecDeque::new(),
        filters: Vec::new(),
        cursor: 0,
        unacknowledged: VecDeque::new(),
        next_id: 0,
    };
    let mut buffer = BytesMut::new();
    let next = loop {
        let now = orders.borrow_and_update().clone();
        if now.cut != cut {
            break Next::Cut;
        }
        if now.black_hole {
            if orders.changed().await.is_err() {
                break Next::Cut;
            }
            continue;
        }
        if peer.pay_acks(&now).await.is_err() || peer.feed_subscriber().await.is_err() {
            break Next::Cut;
        }
        let due = match peer.owed_acks.front() {
            Some((due, _)) if !now.withhold_acks => *due,
            _ => Instant::now() + Duration::from_secs(3600),
        };
        tokio::select! {
            read = peer.stream.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => break Next::Cut,
                Ok(_) => match peer.packets(&mut buffer, &now).await {
                    Next::Go => {}
                    other => break other,
                },
            },
            _ = orders.changed() => {}
            _ = grown.changed(), if !peer.filters.is_empty() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    };
    peer.gone(&next);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn packets(&mut self, buffer: &mut BytesMut, orders: &Orders) -> Next {
        loop {
            let packet = match Packet::read(buffer, 1 << 24) {
                Ok(packet) => packet,
                Err(Error::InsufficientBytes(_)) => return Next::Go,
                Err(error) => panic!("the client sent nonsense: {error}"),
            };
            match self.packet(packet, orders).await {
                Next::Go => {}
                other => return other,
            }
        }
    }

    async fn packet(&mut self, packet: Packet, orders: &Orders) -> Next {
        match packet {
            Packet::Connect(connect) => {
                self.shared.book.lock().unwrap().connects.push(connect.clone());
                if orders.no_connack {
                    return Next::Go;
                }
                if let Some(code) = orders.refuse {
                    drop(self.write(Packet::ConnAck(ConnAck::new(code, false))).await);
                    return Next::Cut;
                }
                if !connect.clean_session {
                    self.cursor =
                        self.shared.book.lock().unwrap().cursors.get(&connect.client_id).copied().unwrap_or(0);
                }
                self.connect = Some(connect);
                self.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await
            }
            Packet::Publish(publish) => self.publish(publish, orders).await,
            Packet::Subscribe(subscribe) => {
                let codes = subscribe.filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce)).collect();
                self.filters.extend(subscribe.filters.into_iter().map(|filter| filter.path));
                self.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await
            }
            Packet::PubAck(ack) => {
                self.unacknowledged.retain(|(id, _)| *id != ack.pkid);
                let upto = self.unacknowledged.front().map_or(self.cursor, |(_, at)| *at);
                let client = self.connect.as_ref().unwrap().client_id.clone();
                self.shared.book.lock().unwrap().cursors.insert(client, upto);
                Next::Go
            }
            Packet::PingReq => self.write(Packet::PingResp).await,
            Packet::Disconnect => {
                self.shared.book.lock().unwrap().disconnects += 1;
                Next::CloseInOrder
            }
            other => panic!("the client sent {other:?}"),
        }
    }

    async fn publish(&mut self, publish: Publish, orders: &Orders) -> Next {
        let client = self.connect.as_ref().expect("CONNECT comes first").client_id.clone();
        self.shared.log(Arrived {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            retain: publish.retain,
            qos: publish.qos,
            client,
            connection: self.number,
            will: false,
        });
        self.publishes += 1;
        if orders.cut_after_publishes.is_some_and(|limit| self.publishes >= limit) {
            return Next::Cut;
        }
        self.owed_acks.push_back((Instant::now() + orders.ack_delay, publish.pkid));
        match self.pay_acks(orders).await {
            Ok(()) => Next::Go,
            Err(_) => Next::Cut,
        }
    }

    async fn pay_acks(&mut self, orders: &Orders) -> std::io::Result<()> {
        if orders.withhold_acks {
            return Ok(());
        }
        if orders.acks_in_pairs_swapped && self.publishes > 4 && self.owed_acks.len() >= 2 {
            self.owed_acks.swap(0, 1);
        }
        while self.owed_acks.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (_, id) = self.owed_acks.pop_front().unwrap();
            if let Next::Cut = self.write(Packet::PubAck(PubAck::new(id))).await {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    async fn feed_subscriber(&mut self) -> std::io::Result<()> {
        while !self.filters.is_empty() && self.unacknowledged.len() < SUBSCRIBER_WINDOW {
            let Some(arrived) = self.shared.book.lock().unwrap().log.get(self.cursor).cloned() else {
                break;
            };
            let at = self.cursor;
            self.cursor += 1;
            if !self.filters.iter().any(|filter| matches(&arrived.topic, filter)) {
                continue;
            }
            self.next_id = self.next_id % 60_000 + 1;
            let mut publish = Publish::new(&arrived.topic, QoS::AtLeastOnce, arrived.payload);
            publish.pkid = self.next_id;
            self.unacknowledged.push_back((self.next_id, at));
            if let Next::Cut = self.write(Packet::Publish(publish)).await {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    async fn write(&mut self, packet: Packet) -> Next {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 24).unwrap();
        let written = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match written.await {
            Ok(()) => Next::Go,
            Err(_) => Next::Cut,
        }
    }

    fn gone(self, next: &Next) {
        let Some(connect) = self.connect else { return };
        if let (Next::Cut, Some(will)) = (next, connect.last_will) {
            self.shared.log(Arrived {
                topic: will.topic,
                payload: will.message.to_vec(),
                retain: will.retain,
                qos: will.qos,
                client: connect.client_id,
                connection: self.number,
                will: true,
            });
        }
    }
}
