//! The edge node on the gateway's own broker (`url = "local:"`), before a host that connects there as any client does.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rustix::process::Signal;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::births::two_devices;
use crate::commands::rebirth;
use crate::gateway::mqtt::Client4;
use crate::gateway::{Home, Plc, until};
use crate::host::{Did, Entry, Message, message};
use crate::law::{Values, lawful_log};
use crate::outage::{Truth, count_up};
use crate::payload::{INT32, Metric, Payload, Value};

pub const RULE: &str = "write = [\"gw/+/+/set\", \"spBv1.0/acme/NCMD/gw\", \"spBv1.0/acme/DCMD/gw/+\"]";

pub fn local(more: &str) -> String {
    format!(
        "[[uplink]]\nname = \"hmi\"\nurl = \"local:\"\nstart = \"oldest\"\nformat = \"sparkplug\"\ngroup_id = \"acme\"\n\
         commands = true\n{more}\n"
    )
}

/// Clients without a name may send its commands.
fn site(plc: &Plc, more: &str) -> String {
    two_devices(plc).replace("write = [\"gw/+/+/set\"]", RULE) + &local(more)
}

/// Hears everything of Sparkplug, and says what it is told to.
pub struct Scada {
    address: SocketAddr,
    /// All that there are.
    pub devices: &'static [&'static str],
    heard: Arc<Mutex<Vec<Entry>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scada {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scada {
    pub async fn at(address: SocketAddr) -> Self {
        Self::with(address, Client4::connect(address, "scada-ears").await, None).await
    }

    /// One that reads so many bytes a second and no more; the system reads little ahead of it.
    pub async fn slow(address: SocketAddr, bytes_per_s: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut connect = v4::Connect::new("slow-ears");
        connect.keep_alive = 0;
        let (client, _) = Client4::over(socket.connect(address).await.unwrap(), connect).await;
        Self::with(address, client, Some(bytes_per_s)).await
    }

    async fn with(address: SocketAddr, mut client: Client4, bytes_per_s: Option<u32>) -> Self {
        client.subscribe("spBv1.0/#", QoS::AtLeastOnce).await;
        let heard = Arc::<Mutex<Vec<Entry>>>::default();
        let book = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let mut connection = 1;
            while let Some(packet) = client.try_next().await {
                let v4::Packet::Publish(publish) = packet else { continue };
                if publish.qos == QoS::AtLeastOnce {
                    client.send(v4::Packet::PubAck(v4::PubAck { pkid: publish.pkid })).await;
                }
                if let Some(bytes_per_s) = bytes_per_s {
                    let bytes = u32::try_from(publish.topic.len() + publish.payload.len()).unwrap();
                    tokio::time::sleep(Duration::from_secs(1) * bytes / bytes_per_s).await;
                }
                let death = publish.topic.contains("/NDEATH/");
                let v4::Publish { topic, payload, qos, retain, .. } = publish;
                let did = Did::Publish { topic, payload: payload.to_vec(), qos, retain };
                book.lock().unwrap().push(Entry { connection, at: Instant::now(), did });
                connection += usize::from(death);
            }
        });
        Self { address, devices: &["meter", "plc"], heard, task }
    }

    pub fn log(&self) -> Vec<Entry> {
        let log = self.heard.lock().unwrap().clone();
        log.into_iter().filter(|entry| message(entry.clone()).is_some_and(|it| !it.kind.ends_with("CMD"))).collect()
    }

    pub fn of(&self, kind: &str) -> Vec<Message> {
        self.log().into_iter().filter_map(message).filter(|message| message.kind == kind).collect()
    }

    pub async fn count(&self, kind: &str, count: usize) {
        until(&format!("{count} {kind}"), || self.of(kind).len() >= count).await;
    }

    pub fn lawful(&self) -> Values {
        lawful_log(self.log(), self.devices)
    }

    /// As a client that comes for it and goes; the broker has taken it when this returns.
    pub async fn say(&self, topic: &str, payload: Vec<u8>, retain: bool) {
        let mut client = Client4::connect(self.address, "scada-mouth").await;
        let mut publish = v4::Publish::new(topic, QoS::AtLeastOnce, payload);
        (publish.pkid, publish.retain) = (1, retain);
        client.send(v4::Packet::Publish(publish)).await;
        assert!(matches!(client.next().await, v4::Packet::PubAck(_)));
    }

    pub async fn state(&self, online: bool, timestamp_ms: u64) {
        let payload = format!(r#"{{"online":{online},"timestamp":{timestamp_ms}}}"#);
        self.say("spBv1.0/STATE/scada", payload.into_bytes(), true).await;
    }

    pub async fn command(&self, topic: &str, metric: Metric) {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
        let metrics = vec![Metric { timestamp: Some(now), ..metric }];
        let payload = Payload { timestamp: Some(now), metrics, ..Payload::default() };
        self.say(topic, payload.encode_to_vec(), false).await;
    }

    /// Times and values of `plc/level` that it was told.
    pub fn levels(&self) -> BTreeSet<(u64, i64)> {
        let values = self.lawful();
        let told = values.get(&("plc".into(), "level".into())).cloned().unwrap_or_default();
        let level = |told: crate::law::Told| match told.value {
            Some(Value::Int(bits)) => Some((told.unix_ms, i64::from(bits.cast_signed()))),
            _ => None,
        };
        told.into_iter().filter_map(level).collect()
    }
}

#[tokio::test]
async fn a_host_on_the_local_broker_has_births_data_commands_and_the_death_of_the_gateway() {
    let plc = Plc::start().await;
    let home = Home::new(&site(&plc, "primary_host = \"scada\""));
    let daemon = home.run();
    let scada = Scada::at(daemon.mqtt().await).await;
    let polled = plc.requests();
    until("ten polls", || plc.requests() > polled + 10).await;
    assert!(scada.of("NBIRTH").is_empty(), "births wait for their host");
    scada.state(true, 5_000).await;
    scada.count("DDATA", 3).await;
    assert_eq!((scada.of("NBIRTH").len(), scada.of("DBIRTH").len()), (1, 2));
    scada.command("spBv1.0/acme/DCMD/gw/plc", Metric::write("level", INT32, Value::Int(321))).await;
    until("it is written", || plc.word(0) == 321).await;
    until("and comes back", || scada.levels().iter().any(|(_, level)| *level == 321)).await;
    scada.command("spBv1.0/acme/NCMD/gw", rebirth()).await;
    scada.count("NBIRTH", 2).await;
    let seen = scada.of("DDATA").len();
    scada.count("DDATA", seen + 2).await;
    scada.lawful();
    assert_eq!(daemon.stop().await, Some(0));
    scada.count("NDEATH", 1).await;
    scada.lawful();
}

#[tokio::test]
async fn a_local_host_that_was_away_misses_nothing() {
    let plc = Plc::start().await;
    let home = Home::new(&site(&plc, "primary_host = \"scada\"\nhost_timeout = \"0s\""));
    let daemon = home.run();
    let (truth, scada) = (Truth::of(&daemon).await, Scada::at(daemon.mqtt().await).await);
    let counting = count_up(&plc);
    scada.state(true, 5_000).await;
    scada.count("DDATA", 3).await;
    scada.state(false, 5_000).await;
    scada.count("NDEATH", 1).await;
    let polled = plc.requests();
    until("thirty polls that nobody hears", || plc.requests() > polled + 30).await;
    let data = scada.of("DDATA").len();
    scada.state(true, 6_000).await;
    scada.count("NBIRTH", 2).await;
    counting.abort();
    let wanted = truth.levels();
    until("everything", || wanted.is_subset(&scada.levels())).await;
    assert!(wanted.len() > 10 && scada.of("DDATA").len() > data);
    let values = scada.lawful();
    assert!(values[&("plc".into(), "level".into())].iter().any(|told| told.historical), "what is late says so");
    drop(daemon);
}

#[tokio::test]
async fn nobody_else_speaks_as_the_gateways_edge_node_and_its_commands_need_a_rule() {
    let plc = Plc::start().await;
    let home = Home::new(&(two_devices(&plc) + &local("primary_host = \"scada\"")));
    let daemon = home.run();
    let scada = Scada::at(daemon.mqtt().await).await;
    scada.state(true, 5_000).await;
    scada.count("DDATA", 1).await;
    for topic in ["NDEATH/gw", "NBIRTH/gw", "DDATA/gw/plc", "DDEATH/gw/plc"] {
        scada.say(&format!("spBv1.0/acme/{topic}"), vec![0xFF], true).await;
    }
    scada.command("spBv1.0/acme/DCMD/gw/plc", Metric::write("level", INT32, Value::Int(99))).await;
    scada.command("spBv1.0/acme/NCMD/gw", rebirth()).await;
    let mut connect = v4::Connect::new("$ironbridge/hmi");
    connect.keep_alive = 60;
    let (_client, answer) = Client4::open(scada.address, connect).await;
    assert_eq!(answer.code, v4::ConnectReturnCode::BadClientId);
    let seen = scada.of("DDATA").len();
    scada.count("DDATA", seen + 10).await;
    assert_eq!((plc.writes(), plc.word(0), scada.of("NDEATH").len()), (0, 0, 0));
    scada.lawful(); // another word as the gateway would have shown
    drop(daemon);
}

#[tokio::test]
async fn the_local_edge_node_comes_and_goes_with_a_reload() {
    let plc = Plc::start().await;
    let home = Home::new(&two_devices(&plc));
    let daemon = home.run();
    let scada = Scada::at(daemon.mqtt().await).await;
    home.configure(&site(&plc, ""));
    daemon.signal(Signal::HUP);
    scada.count("DDATA", 3).await;
    scada.lawful();
    home.configure(&two_devices(&plc));
    daemon.signal(Signal::HUP);
    scada.count("NDEATH", 1).await;
    scada.lawful();
    let said = scada.log().len();
    let polled = plc.requests();
    until("ten polls", || plc.requests() > polled + 10).await;
    assert_eq!(scada.log().len(), said, "it is no edge node any more");
    drop(daemon);
}

/// With this a customer proves that nothing is missing.
#[tokio::test]
async fn a_receiver_that_is_the_primary_host_has_every_value_although_it_was_killed() {
    let plc = Plc::start().await;
    let home = Home::new(&site(&plc, "primary_host = \"scada\""));
    let daemon = home.run();
    let (truth, address) = (Truth::of(&daemon).await, daemon.mqtt().await);
    let url = format!("mqtt://{address}");
    let arguments =
        ["receive", &url, "--format", "sparkplug", "--host-id", "scada", "--ndjson", "values.ndjson", "--json"];
    let receive = || {
        let mut command = home.command(&arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let levels = || -> BTreeSet<(u64, i64)> {
        let text = std::fs::read_to_string(home.path("values.ndjson")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let level = |line: serde_json::Value| {
            let time: jiff::Timestamp = line["time"].as_str()?.parse().ok()?;
            (line["topic"] == "acme/gw/plc/level")
                .then(|| Some((u64::try_from(time.as_millisecond()).ok()?, line["value"].as_i64()?)))?
        };
        lines.filter_map(level).collect()
    };
    let counting = count_up(&plc);
    let mut first = receive();
    until("it has some", || levels().len() > 5).await;
    first.kill().unwrap();
    first.wait().unwrap();
    let polled = plc.requests();
    until("thirty polls that nobody hears", || plc.requests() > polled + 30).await;
    let mut second = receive();
    let before = levels().len();
    until("it has more", || levels().len() > before + 5).await;
    counting.abort();
    let wanted = truth.levels();
    until("everything", || wanted.is_subset(&levels())).await;
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let said = {
        use std::io::Read as _;
        let mut said = String::new();
        second.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said
    };
    assert!(second.wait().unwrap().success());
    let report: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&report["complete"], &report["report"]["nodes"]["acme/gw"]["missing"]), (&true.into(), &0.into()));
    assert!(wanted.len() > 10);
    drop(daemon);
}
