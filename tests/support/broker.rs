//! A broker on a free port, and clients that speak through the packet codecs of `rumqttc`: not ours, and every packet
//! in the test's own hands.

#![allow(dead_code)] // each test file uses its part of it

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ironbridge::access::Access;
use ironbridge::broker::{Broker, BrokerParts, Control, Publisher};
use ironbridge::config::plan::{AclPlan, Anonymous, BrokerLimits, BrokerPlan, ListenerPlan, SessionsPlan};
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::flow::command::{self, Submitted};
use ironbridge::flow::forward::ForwardEntry;
use ironbridge::flow::notice::{self, Notice};
use ironbridge::flow::stop::Stop;
use ironbridge::model::tag::TagIx;
use ironbridge::model::time::Boot;
use ironbridge::model::topic::Ownership;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[allow(unused_imports)] // each test file waits in its own way
pub use crate::patience::{PATIENCE, until};

/// The topics of the gateway's tags in these tests.
pub fn tag(n: usize) -> Arc<str> {
    format!("plant/dev{}/tag{n}", n / 100).into()
}

/// How a broker is to be.
pub struct Setup {
    pub anonymous: Anonymous,
    pub write: Vec<String>,
    pub tags: usize,
    pub listen: SocketAddr,
    pub sessions: SessionsPlan,
    /// Instead of a plain one at `listen`; then the clock has a fix, too.
    pub doors: Vec<ListenerPlan>,
    pub limits: BrokerLimits,
    /// Rules beside those of `anonymous`.
    pub acl: Vec<AclPlan>,
    /// Who may log in; the password is the name.
    pub users: Vec<&'static str>,
    /// The users file as it is to stand there, instead.
    pub users_file: Option<String>,
    pub clock: Clock,
    /// What becomes of clients' messages beyond local clients.
    pub forward: ForwardEntry,
}

/// A clock that nobody vouches for, and that stands still.
pub fn still() -> Clock {
    Clock::new(Arc::new(FakeTime::default()), Boot(1), 1_800_000_000_000)
}

impl Default for Setup {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (acl, users, sessions, clock) = (Vec::new(), Vec::new(), SessionsPlan::default(), still());
        let (doors, limits) = (Vec::new(), BrokerLimits::default());
        let (anonymous, write, users_file) = (Anonymous::ReadWrite, Vec::new(), None);
        let forward = ForwardEntry::none();
        Self { anonymous, write, tags: 10, listen, sessions, doors, limits, acl, users, users_file, clock, forward }
    }
}

/// A running broker.
pub struct Running {
    pub address: SocketAddr,
    /// One per door.
    pub addresses: Vec<Option<SocketAddr>>,
    pub publisher: Publisher,
    pub access: Arc<Access>,
    pub control: Control,
    /// Replaced by a reload.
    pub ownership: Arc<Ownership>,
    /// For [`Access::reload`].
    pub plan: BrokerPlan,
    pub commands: mpsc::Receiver<Submitted>,
    pub notices: mpsc::Receiver<Notice>,
    pub stop: Stop,
    pub end: CancellationToken,
    pub run: JoinHandle<()>,
    pub dir: Arc<tempfile::TempDir>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        Self::at(setup, Arc::new(tempfile::tempdir().expect("a directory"))).await
    }

    pub async fn at(setup: Setup, dir: Arc<tempfile::TempDir>) -> Self {
        let (entry, commands) = command::road();
        let (notices, told) = notice::remembered(setup.clock.clone());
        let ownership = Arc::new(Ownership::new((0..setup.tags).map(tag).zip((0..).map(TagIx))));
        let (clock, mut listeners) = (setup.clock, setup.doors);
        if listeners.is_empty() {
            listeners.push(ListenerPlan::plain(setup.listen, setup.anonymous));
        } else {
            clock.learn(Fix { at: clock.now(), unix_ms: 1_800_000_000_000 });
        }
        let acl = AclPlan { user: "anonymous".to_owned(), read: Vec::new(), write: setup.write, operate: Vec::new() };
        let (acl, sessions) = (setup.acl.into_iter().chain([acl]).collect(), setup.sessions);
        let users_file = match &setup.users_file {
            None => write_users(dir.path(), &setup.users),
            Some(text) => {
                let path = dir.path().join("users");
                ironbridge::access::replace(&path, text).expect("the users file is written");
                Some(path)
            }
        };
        let plan = BrokerPlan { listeners, limits: setup.limits, users_file, acl, sessions };
        let access = Arc::new(Access::new(&plan));
        access.load_users();
        let parts = BrokerParts {
            access: Arc::clone(&access),
            plan: plan.clone(),
            ownership: Arc::clone(&ownership),
            commands: entry,
            forward: setup.forward,
            clock,
            notices,
            ledger_path: dir.path().join("broker.db"),
        };
        let (mut broker, publisher) = Broker::new(parts).expect("a broker");
        let addresses = broker.bind().await;
        let address = addresses[0].unwrap_or(setup.listen);
        let (stop, end, control) = (Stop::new(), CancellationToken::new(), broker.control());
        let run = tokio::spawn(broker.run(stop.clone(), end.clone()));
        let notices = told;
        Self { address, addresses, publisher, access, control, ownership, plan, commands, notices, stop, end, run, dir }
    }

    /// Ends it in order; the directory is handed on.
    pub async fn stop(self) -> Arc<tempfile::TempDir> {
        self.stop.begin();
        self.end.cancel();
        tokio::time::timeout(PATIENCE, self.run).await.expect("it ends").expect("without a panic");
        self.dir
    }

    pub async fn v5(&self, id: &str) -> Client5 {
        Client5::connect(self.address, id, |_| {}).await
    }

    pub async fn v4(&self, id: &str) -> Client4 {
        Client4::connect(self.address, id).await
    }
}

/// A users file, if there are users.
fn write_users(dir: &Path, users: &[&str]) -> Option<PathBuf> {
    let line = |name: &&str| format!("{name}:{}\n", ironbridge::access::hash(name.as_bytes()).expect("hashed"));
    let path = (!users.is_empty()).then(|| dir.join("users"))?;
    ironbridge::access::replace(&path, &users.iter().map(line).collect::<String>()).expect("written");
    Some(path)
}

/// Processor time of this thread, on which a test's broker runs too: what others do to the machine is not in it.
pub fn worked() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// An MQTT 5 client; every packet by hand.
pub struct Client5<S = TcpStream> {
    pub stream: S,
    pub arrived: BytesMut,
}

/// What may be asked for at CONNECT.
pub struct Wishes {
    pub connect: v5::Connect,
    pub properties: v5::ConnectProperties,
    pub will: Option<v5::LastWill>,
    pub login: Option<v5::Login>,
}

impl Client5 {
    pub async fn open(address: SocketAddr, id: &str, wish: impl FnOnce(&mut Wishes)) -> (Self, v5::ConnAck) {
        Self::over(TcpStream::connect(address).await.expect("a connection"), id, wish).await
    }

    pub async fn connect(address: SocketAddr, id: &str, wish: impl FnOnce(&mut Wishes)) -> Self {
        let (client, connack) = Self::open(address, id, wish).await;
        assert_eq!(connack.code, v5::ConnectReturnCode::Success);
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client5<S> {
    /// Over any stream that is there already.
    pub async fn over(stream: S, id: &str, wish: impl FnOnce(&mut Wishes)) -> (Self, v5::ConnAck) {
        let mut client = Self { stream, arrived: BytesMut::new() };
        let connect = v5::Connect { keep_alive: 0, client_id: id.to_owned(), clean_start: true, properties: None };
        let mut wishes = Wishes { connect, properties: v5::ConnectProperties::new(), will: None, login: None };
        wish(&mut wishes);
        wishes.connect.properties = Some(wishes.properties);
        client.send(v5::Packet::Connect(wishes.connect, wishes.will, wishes.login)).await;
        let v5::Packet::ConnAck(connack) = client.next().await else { panic!("a CONNACK") };
        (client, connack)
    }

    pub async fn send(&mut self, packet: v5::Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).expect("encodable");
        self.stream.write_all(&bytes).await.expect("sent");
        self.stream.flush().await.expect("sent");
    }

    /// The next packet; `None` when the connection was closed.
    pub async fn try_next(&mut self) -> Option<v5::Packet> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match v5::Packet::read(&mut self.arrived, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the broker sent nonsense: {error}"),
            }
            let read = tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.arrived)).await;
            if read.expect("a packet in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn next(&mut self) -> v5::Packet {
        self.try_next().await.expect("a packet, not the end")
    }

    pub async fn message(&mut self) -> v5::Publish {
        match self.next().await {
            v5::Packet::Publish(publish) => publish,
            other => panic!("a PUBLISH, not {other:?}"),
        }
    }

    /// The reason of the DISCONNECT that comes next (other packets before it are let by), then the end.
    pub async fn disconnected(&mut self) -> v5::DisconnectReasonCode {
        loop {
            if let v5::Packet::Disconnect(disconnect) = self.next().await {
                assert!(self.try_next().await.is_none(), "closed after DISCONNECT");
                return disconnect.reason_code;
            }
        }
    }

    pub async fn subscribe(&mut self, filter: v5::Filter, id: Option<usize>) -> v5::SubscribeReasonCode {
        let properties = id.map(|id| v5::SubscribeProperties { id: Some(id), user_properties: Vec::new() });
        self.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 9, filters: vec![filter], properties })).await;
        match self.next().await {
            v5::Packet::SubAck(suback) => suback.return_codes[0],
            other => panic!("a SUBACK, not {other:?}"),
        }
    }

    pub async fn publish(&mut self, publish: v5::Publish) -> v5::PubAckReason {
        let quiet = publish.qos == rumqttc::v5::mqttbytes::QoS::AtMostOnce;
        self.send(v5::Packet::Publish(publish)).await;
        if quiet {
            return v5::PubAckReason::Success;
        }
        match self.next().await {
            v5::Packet::PubAck(puback) => puback.reason,
            other => panic!("a PUBACK, not {other:?}"),
        }
    }

    /// A round trip: whatever was sent before has been dealt with.
    pub async fn ping(&mut self) {
        self.send(v5::Packet::PingReq(v5::PingReq)).await;
        assert_eq!(self.next().await, v5::Packet::PingResp(v5::PingResp));
    }
}

/// A v5 PUBLISH.
pub fn message(topic: &str, qos: u8, payload: &str) -> v5::Publish {
    use rumqttc::v5::mqttbytes::QoS;
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
    let mut publish = v5::Publish::new(topic, qos, payload.to_owned(), None);
    publish.pkid = 77;
    publish
}

/// A v5 filter.
pub fn filter(path: &str, qos: u8) -> v5::Filter {
    use rumqttc::v5::mqttbytes::QoS;
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
    v5::Filter::new(path, qos)
}

/// An MQTT 3.1.1 client; every packet by hand.
pub struct Client4 {
    pub stream: TcpStream,
    arrived: BytesMut,
}

impl Client4 {
    pub async fn open(address: SocketAddr, connect: v4::Connect) -> (Self, v4::ConnAck) {
        Self::over(TcpStream::connect(address).await.expect("a connection"), connect).await
    }

    /// Over a stream that is there already.
    pub async fn over(stream: TcpStream, connect: v4::Connect) -> (Self, v4::ConnAck) {
        let mut client = Self { stream, arrived: BytesMut::new() };
        client.send(v4::Packet::Connect(connect)).await;
        let v4::Packet::ConnAck(connack) = client.next().await else { panic!("a CONNACK") };
        (client, connack)
    }

    pub async fn connect(address: SocketAddr, id: &str) -> Self {
        let mut connect = v4::Connect::new(id);
        connect.keep_alive = 0;
        let (client, connack) = Self::open(address, connect).await;
        assert_eq!(connack.code, v4::ConnectReturnCode::Success);
        client
    }

    pub async fn send(&mut self, packet: v4::Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 20).expect("encodable");
        self.stream.write_all(&bytes).await.expect("sent");
    }

    pub async fn try_next(&mut self) -> Option<v4::Packet> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match v4::Packet::read(&mut self.arrived, 1 << 20) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the broker sent nonsense: {error}"),
            }
            let read = tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.arrived)).await;
            if read.expect("a packet in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn next(&mut self) -> v4::Packet {
        self.try_next().await.expect("a packet, not the end")
    }

    pub async fn message(&mut self) -> v4::Publish {
        match self.next().await {
            v4::Packet::Publish(publish) => publish,
            other => panic!("a PUBLISH, not {other:?}"),
        }
    }

    pub async fn subscribe(&mut self, path: &str, qos: rumqttc::QoS) {
        let mut subscribe = v4::Subscribe::new(path, qos);
        subscribe.pkid = 9;
        self.send(v4::Packet::Subscribe(subscribe)).await;
        let v4::Packet::SubAck(suback) = self.next().await else { panic!("a SUBACK") };
        assert_eq!(suback.return_codes, [v4::SubscribeReasonCode::Success(qos)]);
    }

    pub async fn publish(&mut self, topic: &str, qos: rumqttc::QoS, payload: &str) {
        let mut publish = v4::Publish::new(topic, qos, payload.to_owned());
        publish.pkid = 78;
        self.send(v4::Packet::Publish(publish)).await;
        if qos == rumqttc::QoS::AtLeastOnce {
            let v4::Packet::PubAck(puback) = self.next().await else { panic!("a PUBACK") };
            assert_eq!(puback.pkid, 78);
        }
    }

    pub async fn ping(&mut self) {
        self.send(v4::Packet::PingReq).await;
        assert_eq!(self.next().await, v4::Packet::PingResp);
    }
}
