//! The whole gateway as its users have it: the real binary with a configuration file, a PLC in front of it, a local
//! MQTT client beside it. Everything on free ports; every wait is for a condition, with a deadline.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "broker.rs"]
pub mod mqtt;

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironbridge::model::tag::Table;
use ironbridge::plant::image::Image;
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;
use rumqttc::mqttbytes::v4;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

#[allow(unused_imports)] // each test file waits in its own way
pub use crate::patience::{PATIENCE, until, within};

/// One Modbus TCP device, unit 1, that counts what it is asked.
pub struct Plc {
    pub line: TcpLine,
    pub units: Units,
}

impl Plc {
    /// Holding registers 0 to 99, all 0.
    pub async fn start() -> Self {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &[0; 100]);
        Self::with(image).await
    }

    pub async fn with(image: Image) -> Self {
        let units = Units::new();
        units.insert(1, image);
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), units).await
    }

    pub async fn at(listen: SocketAddr, units: Units) -> Self {
        Self { line: TcpLine::serve(listen, units.clone()).await.unwrap(), units }
    }

    pub fn requests(&self) -> u64 {
        self.units.stats().requests.get()
    }

    pub fn writes(&self) -> u64 {
        self.units.stats().writes.get()
    }

    pub fn set(&self, start: u16, words: &[u16]) {
        self.units.with_image(1, |image| image.set_words(Table::Holding, start, words)).unwrap();
    }

    pub fn word(&self, at: u16) -> u16 {
        self.units.with_image(1, |image| image.words(Table::Holding, at, 1)).unwrap().unwrap()[0]
    }
}

/// `[gateway]` to `[[device]]`; tags may follow at once. Everything local is open to anonymous clients, and the gateway
/// `gw` polls unit 1 of the bus ten times a second.
pub fn config(plc: SocketAddr) -> String {
    format!(
        r#"
[gateway]
name = "gw"
data_dir = "data"
[store]
commit_interval = "100ms"
[status]
listen = "127.0.0.2:0"
anonymous = "read"
[[broker.listener]]
listen = "127.0.0.1:0"
anonymous = "read-write"
[[broker.acl]]
user = "anonymous"
write = ["gw/+/+/set"]
[[bus]]
name = "line"
type = "modbus-tcp"
endpoint = "{plc}"
response_timeout = "500ms"
[[device]]
name = "plc"
bus = "line"
unit_id = 1
poll = "100ms"
"#
    )
}

/// A tag of the device before it; `more` are further keys.
pub fn tag(name: &str, address: &str, data_type: &str, more: &str) -> String {
    format!("[[device.tag]]\nname = \"{name}\"\naddress = \"{address}\"\ntype = \"{data_type}\"\n{more}\n")
}

/// An uplink without TLS.
pub fn uplink(name: &str, to: SocketAddr) -> String {
    format!("[[uplink]]\nname = \"{name}\"\nurl = \"mqtt://{to}\"\nclient_id = \"gw-{name}\"\nstart = \"oldest\"\n")
}

/// The directory of one gateway: configuration and data.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new(config: &str) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        home.configure(config);
        home
    }

    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("ironbridge.toml"), config).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ironbridge` with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
        command.args(arguments).current_dir(self.dir.path()).env("TMPDIR", self.dir.path());
        for name in ["RUST_LOG", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// `ironbridge run`.
    pub fn run(&self) -> Daemon {
        Daemon::start(self.command(&["run", "--config", "ironbridge.toml"]))
    }
}

/// A running daemon; killed when dropped. What it says goes to a file, so that it can be read as soon as it is said.
pub struct Daemon {
    child: Child,
    log: File,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{}", self.log());
        }
        self.kill();
    }
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        let log = tempfile::tempfile().unwrap();
        let child = command.stderr(log.try_clone().unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// What it says goes where the command says; nothing is known of it here.
    pub fn speaking_elsewhere(mut command: Command) -> Self {
        Self { child: command.spawn().unwrap(), log: tempfile::tempfile().unwrap() }
    }

    /// All it has said.
    fn log(&self) -> String {
        let mut bytes = vec![0; usize::try_from(self.log.metadata().unwrap().len()).unwrap()];
        self.log.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The first line of the log that has this in it.
    pub fn said(&self, what: &str) -> Option<String> {
        self.log().lines().find(|line| line.contains(what)).map(ToOwned::to_owned)
    }

    /// The first line of the log that has this in it, once it is there. Lines come behind what they tell of: the daemon
    /// writes them from a queue.
    pub async fn heard(&self, what: &str) -> String {
        until(what, || self.said(what).is_some()).await;
        self.said(what).unwrap()
    }

    /// So many lines of the log have this in them, and no more so far.
    pub async fn heard_times(&self, what: &str, times: usize) {
        until(what, || self.times_said(what) >= times).await;
        assert_eq!(self.times_said(what), times, "{what}");
    }

    /// How many lines of the log have this in them.
    pub fn times_said(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }

    /// Where its broker listens.
    pub async fn mqtt(&self) -> SocketAddr {
        let line = || self.said("listening for MQTT clients address=");
        until("the broker listens", || line().is_some()).await;
        let line = line().unwrap();
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        address.parse().unwrap()
    }

    /// Where its status page is.
    pub async fn page(&self) -> SocketAddr {
        let line = || self.said("status page is open address=");
        until("the status page is open", || line().is_some()).await;
        let line = line().unwrap();
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        address.parse().unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may be gone
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; panics when that takes longer.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        within(limit, "the daemon ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// SIGTERM once it is up, and the exit code.
    pub async fn stop(mut self) -> Option<i32> {
        self.mqtt().await;
        self.signal(Signal::TERM);
        self.ended(PATIENCE).await.code()
    }
}

/// One message that a local client saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
}

impl Seen {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.payload).unwrap_or(Json::Null)
    }
}

/// A local client that sees everything.
pub struct Watch {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    pub async fn on_all(broker: SocketAddr) -> Self {
        let mut client = mqtt::Client4::connect(broker, "watch").await;
        let everything = ["#", "$SYS/#"].map(|path| v4::SubscribeFilter::new(path.into(), rumqttc::QoS::AtMostOnce));
        let mut subscribe = v4::Subscribe::new_many(everything);
        subscribe.pkid = 1;
        client.send(v4::Packet::Subscribe(subscribe)).await;
        assert!(matches!(client.next().await, v4::Packet::SubAck(_)));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let book = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Some(packet) = client.try_next().await {
                if let v4::Packet::Publish(publish) = packet {
                    let v4::Publish { topic, payload, retain, .. } = publish;
                    book.lock().unwrap().push(Seen { topic, payload: payload.to_vec(), retained: retain });
                }
            }
        });
        Self { seen, task }
    }

    /// Everything on a topic so far.
    pub fn on(&self, topic: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.topic == topic).cloned().collect()
    }

    /// The newest message on a topic.
    pub fn newest(&self, topic: &str) -> Option<Json> {
        self.on(topic).last().map(Seen::json)
    }

    /// Waits for a message on a topic that fits.
    pub async fn until(&self, topic: &str, what: &str, fits: impl Fn(&Json) -> bool) -> Json {
        let mut found = None;
        let begun = Instant::now();
        while found.is_none() {
            let on = self.on(topic);
            found = on.iter().map(Seen::json).find(&fits);
            let last = on.last().map(Seen::json);
            assert!(begun.elapsed() < PATIENCE, "in vain on {topic}: {what}; the newest: {last:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        found.unwrap()
    }

    /// The topic of a message that has this in it.
    pub fn contains(&self, text: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        seen.iter().find(|seen| has(&seen.payload) || seen.topic.contains(text)).map(|seen| seen.topic.clone())
    }

    /// Waits for this event on `ironbridge/gw/event`.
    pub async fn event(&self, name: &str, state: &str) -> Json {
        let fits = |event: &Json| event["event"] == name && event["state"] == state;
        self.until("ironbridge/gw/event", &format!("{name} {state}"), fits).await
    }
}
