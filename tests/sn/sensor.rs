//! A sensor as a test wants it: keeps the rules of the specification, sends again what is not answered, and remembers
//! what it got.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ironbridge::broker::sn::{
    self, Again, Asks, Code, Connect, Filter, Kept, Message, Publish, Quality, Start, Topic, WillTopic,
};
use ironbridge::config::plan::{AclPlan, Anonymous, Listen, ListenerPlan, MqttSnPlan, SensorPlan};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::support::{PATIENCE, Running, Setup};

/// Between two attempts.
pub const RETRY: Duration = Duration::from_millis(60);

/// What a door is told unless a test says otherwise.
pub fn plan() -> MqttSnPlan {
    MqttSnPlan {
        gateway_id: 7,
        advertise: None,
        retry: RETRY,
        retries: 10,
        wait: RETRY,
        datagram_bytes: 1400,
        topics: vec![(1, "plant/known/one".to_owned()), (2, "plant/known/two".to_owned())],
        sensors: vec![SensorPlan { client_id: "tank-*".to_owned(), user: Some("tanks".to_owned()), from: Vec::new() }],
        publish: None,
    }
}

/// On a free port, with what anonymous clients may do there.
pub fn door(plan: MqttSnPlan, anonymous: Anonymous) -> ListenerPlan {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    ListenerPlan { listen: Listen::Udp(address), mqtt_sn: Some(plan), ..ListenerPlan::plain(address, anonymous) }
}

/// A door for MQTT.
pub fn plain(anonymous: Anonymous) -> ListenerPlan {
    ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), anonymous)
}

/// A broker with a door for sensors (they may read and write all that is not the gateway's) and, as its second, one for MQTT.
pub async fn broker_with(plan: MqttSnPlan, setup: Setup) -> (Running, SocketAddr, SocketAddr) {
    broker_at(plan, setup, Arc::new(tempfile::tempdir().expect("a directory"))).await
}

/// The same, in a directory that an earlier one may have used.
pub async fn broker_at(
    plan: MqttSnPlan,
    setup: Setup,
    directory: Arc<tempfile::TempDir>,
) -> (Running, SocketAddr, SocketAddr) {
    let doors = vec![door(plan, Anonymous::ReadWrite), plain(Anonymous::ReadWrite)];
    let all = || vec!["#".to_owned()];
    let mut acl = setup.acl;
    acl.push(AclPlan { user: "sensor:tanks".to_owned(), read: all(), write: all(), operate: Vec::new() });
    let running = Running::at(Setup { doors, acl, ..setup }, directory).await;
    let [sensors, mqtt] = [0, 1].map(|at| running.addresses[at].expect("it is open"));
    (running, sensors, mqtt)
}

pub async fn broker() -> (Running, SocketAddr, SocketAddr) {
    broker_with(plan(), Setup::default()).await
}

/// What a sensor got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    pub quality: Quality,
    pub kept: Kept,
}

pub struct Sensor {
    pub socket: UdpSocket,
    pub gateway: SocketAddr,
    pub id: String,
    /// Acknowledges what it gets.
    pub willing: bool,
    pub names: HashMap<u16, String>,
    pub got: VecDeque<Got>,
    pub repeats: u64,
    /// How long it waits for an answer before it asks again.
    pub again: Duration,
    open: HashSet<u16>,
    last: Option<Got>,
    next: u16,
}

impl Sensor {
    /// On a link that loses nothing: it asks once, so that an answer which is not sent is seen.
    pub async fn new(gateway: SocketAddr, id: &str) -> Self {
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.expect("a port"),
            gateway,
            id: id.to_owned(),
            willing: true,
            names: HashMap::new(),
            got: VecDeque::new(),
            repeats: 0,
            again: PATIENCE,
            open: HashSet::new(),
            last: None,
            next: 0,
        }
    }

    /// On a link that loses datagrams: it asks again until it is answered.
    pub async fn behind(radio: &Radio, id: &str) -> Self {
        Self { again: RETRY, ..Self::new(radio.address, id).await }
    }

    /// One that has been let in, with a clean start.
    pub async fn connected(gateway: SocketAddr, id: &str) -> Self {
        let mut sensor = Self::new(gateway, id).await;
        assert_eq!(sensor.connect(Start::Clean, 60).await, Code::Accepted);
        sensor
    }

    pub fn hello(&self, start: Start, duration: u16) -> Message {
        Message::Connect(Connect { start, asks: Asks::NoWill, duration, client_id: self.id.clone() })
    }

    pub async fn connect(&mut self, start: Start, duration: u16) -> Code {
        let hello = self.hello(start, duration);
        match self.ask(&hello, |message| matches!(message, Message::Connack(_))).await {
            Message::Connack(code) => code,
            other => panic!("{other:?}"),
        }
    }

    pub async fn connect_with_will(&mut self, start: Start, duration: u16, topic: &str, payload: &[u8]) -> Code {
        let id = self.id.clone();
        let hello = Message::Connect(Connect { start, asks: Asks::ForWill, duration, client_id: id });
        let mut say = hello;
        loop {
            let answer = self.ask(&say, |message| {
                matches!(message, Message::WillTopicRequest | Message::WillMessageRequest | Message::Connack(_))
            });
            say = match answer.await {
                Message::WillTopicRequest => {
                    let name = topic.to_owned();
                    Message::WillTopic(Some(WillTopic { name, quality: Quality::One, kept: Kept::No }))
                }
                Message::WillMessageRequest => Message::WillMessage(payload.to_vec()),
                Message::Connack(code) => return code,
                other => panic!("{other:?}"),
            };
        }
    }

    pub async fn send(&self, message: &Message) {
        self.socket.send_to(&sn::write(message), self.gateway).await.expect("sent");
    }

    /// The next message as it comes.
    pub async fn hear(&self) -> Message {
        timeout(PATIENCE, self.hear_long()).await.expect("a message comes")
    }

    /// DISCONNECT comes, whatever comes before it.
    pub async fn told_to_go(&self) {
        while self.hear().await != Message::Disconnect(None) {}
    }

    async fn hear_long(&self) -> Message {
        let mut datagram = [0; 4096];
        let (length, from) = self.socket.recv_from(&mut datagram).await.expect("received");
        assert_eq!(from, self.gateway, "nobody else speaks to us");
        sn::read(&datagram[..length]).expect("a message")
    }

    /// Says it until it is answered (once, where nothing gets lost), and does meanwhile what a client does.
    pub async fn ask(&mut self, say: &Message, is_answer: impl Fn(&Message) -> bool) -> Message {
        let until = Instant::now() + PATIENCE;
        loop {
            self.send(say).await;
            let mut again = (Instant::now() + self.again).min(until);
            while let Ok(message) = timeout_at(again, self.hear_long()).await {
                again = (Instant::now() + self.again).min(until);
                let answers = is_answer(&message);
                self.deal_with(&message).await;
                if answers {
                    return message;
                }
            }
            self.repeats += 1;
            assert!(Instant::now() < until, "no answer to {say:?}");
        }
    }

    /// What a client does with what only concerns itself.
    async fn deal_with(&mut self, message: &Message) {
        match message {
            Message::Register { topic_id, message_id, name } => {
                self.names.insert(*topic_id, name.clone());
                let (topic_id, message_id) = (*topic_id, *message_id);
                if self.willing {
                    self.send(&Message::Regack { topic_id, message_id, code: Code::Accepted }).await;
                }
            }
            Message::Publish(publish) if self.willing => self.take(publish).await,
            Message::Pubrel(id) => {
                self.open.remove(id);
                self.send(&Message::Pubcomp(*id)).await;
            }
            _ => {}
        }
    }

    async fn take(&mut self, publish: &Publish) {
        let Publish { again, topic, quality, kept, message_id, payload } = publish.clone();
        let name = match topic {
            Topic::Id(id) => self.names.get(&id).cloned(),
            Topic::Predefined(id) => plan().topic(id).map(ToOwned::to_owned),
            Topic::Short(name) => String::from_utf8(name.to_vec()).ok(),
        };
        let topic_id = match topic {
            Topic::Id(id) | Topic::Predefined(id) => id,
            Topic::Short(name) => u16::from_be_bytes(name),
        };
        let Some(topic) = name else {
            return self.send(&Message::Puback { topic_id, message_id, code: Code::InvalidTopicId }).await;
        };
        let got = Got { topic, payload, quality, kept };
        let is_new = match quality {
            Quality::Two => self.open.insert(message_id),
            _ => again == Again::No || self.last.as_ref() != Some(&got), // as a patient client would
        };
        if is_new {
            self.last = Some(got.clone());
            self.got.push_back(got);
        }
        match quality {
            Quality::One => self.send(&Message::Puback { topic_id, message_id, code: Code::Accepted }).await,
            Quality::Two => self.send(&Message::Pubrec(message_id)).await,
            _ => {}
        }
    }

    pub fn number(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    pub async fn register(&mut self, name: &str) -> (u16, Code) {
        let id = self.number();
        let say = Message::Register { topic_id: 0, message_id: id, name: name.to_owned() };
        let is_answer = |message: &Message| matches!(message, Message::Regack { message_id, .. } if *message_id == id);
        match self.ask(&say, is_answer).await {
            Message::Regack { topic_id, code, .. } => {
                self.names.insert(topic_id, name.to_owned());
                (topic_id, code)
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn publication(&mut self, topic: Topic, quality: Quality, payload: &[u8]) -> Publish {
        let surely = matches!(quality, Quality::One | Quality::Two);
        let message_id = if surely { self.number() } else { 0 };
        Publish { again: Again::No, quality, kept: Kept::No, topic, message_id, payload: payload.to_vec() }
    }

    /// Publishes and goes through with it.
    pub async fn publish(&mut self, topic: Topic, quality: Quality, payload: &[u8]) -> Code {
        let publish = self.publication(topic, quality, payload);
        let id = publish.message_id;
        let say = Message::Publish(publish);
        if id == 0 {
            self.send(&say).await;
            return Code::Accepted;
        }
        let is_answer = move |message: &Message| match message {
            Message::Puback { message_id, .. } => *message_id == id,
            Message::Pubrec(received) => *received == id,
            _ => false,
        };
        match self.ask(&say, is_answer).await {
            Message::Puback { code, .. } => code,
            _ => {
                self.ask(&Message::Pubrel(id), |message| *message == Message::Pubcomp(id)).await;
                Code::Accepted
            }
        }
    }

    pub async fn subscribe(&mut self, filter: Filter, quality: Quality) -> (Quality, u16, Code) {
        let message_id = self.number();
        let name = if let Filter::Name(name) = &filter { Some(name.clone()) } else { None };
        let say = Message::Subscribe { again: Again::No, quality, message_id, filter };
        let is_answer =
            |message: &Message| matches!(message, Message::Suback { message_id: id, .. } if *id == message_id);
        match self.ask(&say, is_answer).await {
            Message::Suback { quality, topic_id, code, .. } => {
                if let Some(name) = name.filter(|_| topic_id > 0) {
                    self.names.insert(topic_id, name);
                }
                (quality, topic_id, code)
            }
            other => panic!("{other:?}"),
        }
    }

    /// What comes next for it.
    pub async fn next(&mut self) -> Got {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = self.got.pop_front() {
                return got;
            }
            let message = timeout_at(until, self.hear_long()).await.expect("a message comes");
            self.deal_with(&message).await;
        }
    }

    /// Answers what comes until nothing has come for a while.
    pub async fn settle(&mut self) {
        while let Ok(message) = timeout(RETRY * 6, self.hear_long()).await {
            self.deal_with(&message).await;
        }
    }

    pub async fn sleep(&mut self, seconds: u16) {
        self.ask(&Message::Disconnect(Some(seconds)), |message| *message == Message::Disconnect(None)).await;
    }

    /// Wakes, takes what there is, and sleeps again.
    pub async fn wake(&mut self) {
        let ping = Message::Ping(Some(self.id.clone()));
        self.ask(&ping, |message| *message == Message::Pong).await;
    }

    pub async fn goodbye(&mut self) {
        self.ask(&Message::Disconnect(None), |message| *message == Message::Disconnect(None)).await;
    }
}

/// A radio link: loses so many of a hundred datagrams, each way, and may be cut.
pub struct Radio {
    pub address: SocketAddr,
    pub lost: Arc<AtomicU64>,
    pub cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Radio {
    pub async fn to(gateway: SocketAddr, loses: u32, seed: u64) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = near.local_addr().expect("its address");
        let (lost, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_cut) = (Arc::clone(&lost), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            let far = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let mut random = StdRng::seed_from_u64(seed);
            let (mut out, mut back) = ([0; 4096], [0; 4096]);
            let mut sensor = None;
            loop {
                let (from_sensor, length) = tokio::select! {
                    received = near.recv_from(&mut out) => {
                        let (length, from) = received.expect("received");
                        sensor = Some(from);
                        (true, length)
                    }
                    received = far.recv_from(&mut back) => (false, received.expect("received").0),
                };
                if is_cut.load(Ordering::Relaxed) || random.random_range(0..100) < loses {
                    count.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                if from_sensor {
                    far.send_to(&out[..length], gateway).await.expect("sent");
                } else if let Some(sensor) = sensor {
                    near.send_to(&back[..length], sensor).await.expect("sent");
                }
            }
        });
        Self { address, lost, cut, task }
    }
}

impl Drop for Radio {
    fn drop(&mut self) {
        self.task.abort();
    }
}
