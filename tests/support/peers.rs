//! The other side of a bridge, and clients on either: a gateway of its own or a real mosquitto, somebody who publishes all
//! the time and notes what was acknowledged, somebody whose session persists and who notes what arrives.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::gateway::mqtt::Client5;
use crate::gateway::{Daemon, Home, until};
use crate::mosquitto::Mosquitto;

pub use crate::ports::own_port as free_port;

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A broker at the other end.
pub enum Far {
    Gateway { home: Home, daemon: Option<Daemon>, port: u16 },
    Mosquitto(Mosquitto),
}

impl Far {
    pub async fn gateway() -> Self {
        let port = free_port();
        let home = Home::new(&format!(
            "[gateway]\nname = \"far\"\ndata_dir = \"data\"\n[[broker.listener]]\nlisten = \"127.0.0.1:{port}\"\n\
             anonymous = \"read-write\"\n"
        ));
        let daemon = home.run();
        daemon.mqtt().await;
        Self::Gateway { home, daemon: Some(daemon), port }
    }

    /// `None`, visibly, where there is no mosquitto.
    pub fn mosquitto() -> Option<Self> {
        let keeping = |home: &std::path::Path| {
            format!("allow_anonymous true\npersistence true\npersistence_location {}/\n", home.display())
        };
        Mosquitto::start("a bridge to a mosquitto", keeping).map(Self::Mosquitto)
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Gateway { port, .. } => *port,
            Self::Mosquitto(mosquitto) => mosquitto.port,
        }
    }

    /// A gateway is killed; a mosquitto, which writes its sessions down when it ends, is told to end.
    pub async fn restart(&mut self) {
        match self {
            Self::Gateway { home, daemon, .. } => {
                *daemon = None;
                let again = home.run();
                again.mqtt().await;
                *daemon = Some(again);
            }
            Self::Mosquitto(mosquitto) => mosquitto.restart_in_order(),
        }
    }
}

/// One message, acknowledged, with the user property `unit` = `bar`.
pub async fn publish(port: u16, topic: &str, payload: &str, retain: bool) {
    let mut client = Client5::connect(at(port), "", |_| {}).await;
    let mut message = v5::Publish::new(topic, QoS::AtLeastOnce, payload.to_owned(), None);
    (message.pkid, message.retain) = (1, retain);
    let user_properties = vec![("unit".to_owned(), "bar".to_owned())];
    message.properties = Some(v5::PublishProperties { user_properties, ..v5::PublishProperties::default() });
    client.publish(message).await;
}

/// The same at QoS 0; returns when the broker has dealt with it.
pub async fn publish_unasked(port: u16, topic: &str, payload: &str) {
    let mut client = Client5::connect(at(port), "", |_| {}).await;
    client.send(v5::Packet::Publish(v5::Publish::new(topic, QoS::AtMostOnce, payload.to_owned(), None))).await;
    client.ping().await;
}

/// Ends a client's session: comes with its id, and leaves nothing.
pub async fn end_session(port: u16, id: &str) {
    let mut client = Client5::connect(at(port), id, |wishes| wishes.connect.clean_start = true).await;
    client.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
    assert!(client.try_next().await.is_none(), "closed");
}

/// One message that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
    pub user: Vec<(String, String)>,
}

#[derive(Default)]
struct Book {
    all: Vec<Arrived>,
    /// Payloads that are numbers, by the topic up to its last level.
    numbers: HashMap<String, BTreeSet<u64>>,
    subscribed: bool,
}

/// A client whose session persists, QoS 1, RETAIN as published.
pub struct Listener {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub async fn start(port: u16, id: &str, filter: &str) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let notes = Arc::clone(&book);
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_keep_alive(Duration::from_secs(5));
        let (client, mut events) = AsyncClient::new(options, 64);
        let wanted = v5::Filter { preserve_retain: true, ..v5::Filter::new(filter.to_owned(), QoS::AtLeastOnce) };
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) if !notes.lock().unwrap().subscribed => {
                        client.try_subscribe_many([wanted.clone()]).unwrap();
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => notes.lock().unwrap().subscribed = true,
                    Ok(Event::Incoming(Incoming::Publish(publish))) => notes.lock().unwrap().note(publish),
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        until("subscribed", || book.lock().unwrap().subscribed).await;
        Self { book, task }
    }

    pub fn on(&self, topic: &str) -> Vec<Arrived> {
        self.book.lock().unwrap().all.iter().filter(|arrived| arrived.topic == topic).cloned().collect()
    }

    /// Arrivals below a prefix, repeated ones included.
    pub fn count(&self, prefix: &str) -> usize {
        self.book.lock().unwrap().all.iter().filter(|arrived| arrived.topic.starts_with(prefix)).count()
    }

    pub fn has(&self, prefix: &str, number: u64) -> bool {
        self.book.lock().unwrap().numbers.get(prefix).is_some_and(|numbers| numbers.contains(&number))
    }
}

impl Book {
    fn note(&mut self, publish: v5::Publish) {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let number = std::str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok());
        if let (Some(number), Some(last)) = (number, topic.rfind('/')) {
            self.numbers.entry(topic[..=last].to_owned()).or_default().insert(number);
        }
        let user = publish.properties.map(|properties| properties.user_properties).unwrap_or_default();
        self.all.push(Arrived { topic, payload: publish.payload.to_vec(), retained: publish.retain, user });
    }
}

/// Somebody who publishes numbers one after the other at QoS 1, connects again when cut off, and never gives a number
/// twice; what was acknowledged stands in a list.
pub struct Pour {
    acknowledged: Arc<Mutex<Vec<u64>>>,
    stop: Arc<Mutex<bool>>,
    task: JoinHandle<()>,
}

impl Pour {
    pub fn start(port: u16, prefix: &'static str) -> Self {
        let (acknowledged, stop) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<bool>>::default());
        let (list, over) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut number = 0;
            while !*over.lock().unwrap() {
                if let Ok(stream) = TcpStream::connect(at(port)).await {
                    pour(stream, prefix, &mut number, &list, &over).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { acknowledged, stop, task }
    }

    pub fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.lock().unwrap().clone()
    }

    pub async fn stop(self) -> Vec<u64> {
        *self.stop.lock().unwrap() = true;
        self.task.await.unwrap();
        self.acknowledged.lock().unwrap().clone()
    }
}

/// One connection, until it breaks or the end.
async fn pour(mut stream: TcpStream, prefix: &str, number: &mut u64, list: &Mutex<Vec<u64>>, over: &Mutex<bool>) {
    let mut bytes = BytesMut::new();
    let connect = v5::Connect { keep_alive: 0, client_id: String::new(), clean_start: true, properties: None };
    v5::Packet::Connect(connect, None, None).write(&mut bytes, None).unwrap();
    let mut asked = stream.write_all(&bytes).await;
    let mut arrived = BytesMut::new();
    while asked.is_ok() && !*over.lock().unwrap() {
        match answer(&mut stream, &mut arrived).await {
            Some(v5::Packet::PubAck(ack)) => {
                assert_eq!(ack.reason, v5::PubAckReason::Success, "{prefix}{number}");
                list.lock().unwrap().push(*number);
            }
            Some(v5::Packet::ConnAck(_)) => {}
            _ => return,
        }
        *number += 1;
        let mut publish = v5::Publish::new(format!("{prefix}n"), QoS::AtLeastOnce, number.to_string(), None);
        publish.pkid = 1;
        bytes.clear();
        v5::Packet::Publish(publish).write(&mut bytes, None).unwrap();
        asked = stream.write_all(&bytes).await;
        sleep(Duration::from_millis(2)).await;
    }
}

async fn answer(stream: &mut TcpStream, arrived: &mut BytesMut) -> Option<v5::Packet> {
    loop {
        if let Ok(packet) = v5::Packet::read(arrived, None) {
            return Some(packet);
        }
        let read = timeout(Duration::from_secs(20), stream.read_buf(arrived)).await;
        if read.is_err() || matches!(read, Ok(Err(_) | Ok(0))) {
            return None;
        }
    }
}
