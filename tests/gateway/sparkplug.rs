//! The whole gateway as an edge node of Sparkplug, at a broker that is stopped and started, with a host that comes and goes.
//!
//! Payloads are read by a few lines here that know protobuf and no code of ours.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::Anonymous;
use rumqttc::mqttbytes::v4;
use rustix::process::Signal;

use crate::gateway::mqtt::{Client4, Running, Setup};
use crate::gateway::{Home, PATIENCE, Plc, config, tag, until};

/// A metric as it came.
#[derive(Debug, Clone, Default, PartialEq)]
struct Metric {
    name: String,
    alias: Option<u64>,
    at: u64,
    kind: Option<u64>,
    historical: bool,
    null: bool,
    /// `int_value` or `long_value`.
    whole: Option<u64>,
    float: Option<f64>,
    truth: Option<bool>,
    text: Option<String>,
    quality: Option<u64>,
}

#[derive(Debug, Clone)]
struct Message {
    kind: String,
    device: String,
    seq: Option<u64>,
    metrics: Vec<Metric>,
}

impl Message {
    fn metric(&self, name: &str) -> &Metric {
        self.metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// Number, value of a varint or fixed field, content of a field with a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (value, content): (u64, &[u8]) = match key & 7 {
            0 => (varint(&mut bytes), &[]),
            1 => {
                let (fixed, rest) = bytes.split_at(8);
                bytes = rest;
                (u64::from_le_bytes(fixed.try_into().unwrap()), &[])
            }
            5 => {
                let (fixed, rest) = bytes.split_at(4);
                bytes = rest;
                (u32::from_le_bytes(fixed.try_into().unwrap()).into(), &[])
            }
            _ => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                (0, content)
            }
        };
        all.push((key >> 3, value, content));
    }
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn metric(bytes: &[u8]) -> Metric {
    let mut metric = Metric::default();
    for (field, value, content) in fields(bytes) {
        match field {
            1 => metric.name = text(content),
            2 => metric.alias = Some(value),
            3 => metric.at = value,
            4 => metric.kind = Some(value),
            5 => metric.historical = value == 1,
            7 => metric.null = value == 1,
            9 => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for (field, _, content) in fields(content) {
                    if field == 1 { keys.push(text(content)) } else { values.push(fields(content)) }
                }
                let place = keys.iter().position(|key| key == "Quality");
                metric.quality = place.and_then(|place| values[place].iter().find(|field| field.0 == 3).map(|it| it.1));
            }
            10 | 11 => metric.whole = Some(value),
            12 => metric.float = Some(f32::from_bits(u32::try_from(value).unwrap()).into()),
            13 => metric.float = Some(f64::from_bits(value)),
            14 => metric.truth = Some(value == 1),
            15 => metric.text = Some(text(content)),
            _ => {}
        }
    }
    metric
}

fn message(topic: &str, payload: &[u8]) -> Option<Message> {
    let levels: Vec<&str> = topic.split('/').collect();
    if levels[1] == "STATE" {
        return None;
    }
    assert_eq!((levels[0], levels[1], levels[3]), ("spBv1.0", "plant", "gw"), "{topic}");
    let (mut seq, mut metrics) = (None, Vec::new());
    for (field, value, content) in fields(payload) {
        match field {
            2 => metrics.push(metric(content)),
            3 => seq = Some(value),
            _ => {}
        }
    }
    let device = levels.get(4).unwrap_or(&"").to_string();
    Some(Message { kind: levels[2].to_owned(), device, seq, metrics })
}

/// A host that hears everything and knows metrics by the births only.
struct Host {
    heard: Arc<Mutex<Vec<Message>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    async fn at(broker: SocketAddr) -> Self {
        let mut client = Client4::connect(broker, "host").await;
        client.subscribe("spBv1.0/#", rumqttc::QoS::AtLeastOnce).await;
        let heard = Arc::<Mutex<Vec<Message>>>::default();
        let book = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                // a host waits for as long as it takes
                let packet = match tokio::time::timeout(Duration::from_secs(5), client.try_next()).await {
                    Err(_) => continue,
                    Ok(None) => return,
                    Ok(Some(packet)) => packet,
                };
                if let v4::Packet::Publish(publish) = packet {
                    assert!(!publish.retain || publish.topic.contains("/STATE/"), "{publish:?}");
                    if publish.qos == rumqttc::QoS::AtLeastOnce {
                        client.send(v4::Packet::PubAck(v4::PubAck::new(publish.pkid))).await;
                    }
                    book.lock().unwrap().extend(message(&publish.topic, &publish.payload));
                }
            }
        });
        Self { heard, task }
    }

    fn all(&self) -> Vec<Message> {
        self.heard.lock().unwrap().clone()
    }

    fn count(&self, kind: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|message| message.kind == kind).count()
    }

    async fn until(&self, what: &str, fits: impl Fn(&[Message]) -> bool) {
        until(what, || fits(&self.all())).await;
    }

    /// Values of a metric of the device, by time; checks what every host checks: seq without holes, no data before births, no
    /// alias that a birth did not tell of.
    fn values(&self, name: &str) -> BTreeMap<u64, Metric> {
        let (mut next, mut aliases, mut alive) = (None::<u64>, BTreeMap::new(), BTreeSet::new());
        let mut values = BTreeMap::new();
        for message in self.all() {
            if message.kind.ends_with("CMD") || message.kind == "NDEATH" {
                if message.kind == "NDEATH" {
                    assert_eq!((message.seq, message.metrics.len()), (None, 1));
                    (next, alive) = (None, BTreeSet::new());
                }
                continue;
            }
            let seq = message.seq.expect("every message has one");
            if message.kind == "NBIRTH" {
                assert_eq!(seq, 0);
                (aliases, alive) = (BTreeMap::new(), BTreeSet::from([String::new()]));
            } else {
                assert_eq!(Some(seq), next, "{message:?}");
            }
            next = Some((seq + 1) % 256);
            match message.kind.as_str() {
                "DBIRTH" => _ = alive.insert(message.device.clone()),
                "DDEATH" => assert!(alive.remove(&message.device), "{message:?}"),
                "NDATA" | "DDATA" => {
                    assert!(alive.contains(&message.device), "data of {:?} before its birth", message.device);
                }
                _ => {}
            }
            for metric in &message.metrics {
                if message.kind.ends_with("BIRTH") {
                    assert!(metric.kind.is_some() && !metric.name.is_empty(), "{metric:?}");
                    aliases.extend(metric.alias.map(|alias| (alias, metric.name.clone())));
                } else {
                    assert!(metric.name.is_empty() && metric.kind.is_none(), "{metric:?}");
                }
                let known = metric.alias.map_or(metric.name.clone(), |alias| aliases[&alias].clone());
                if known == name {
                    values.insert(metric.at, metric.clone());
                }
            }
        }
        values
    }
}

async fn broker(listen: SocketAddr) -> Running {
    Running::with(Setup {
        anonymous: Anonymous::ReadWrite,
        write: vec!["#".into()],
        tags: 0,
        listen,
        ..Setup::default()
    })
    .await
}

fn node(plc: SocketAddr, broker: SocketAddr, more: &str) -> String {
    let tags = tag("level", "holding:0", "uint16", "unit = \"cm\"\nmax = 500.0")
        + &tag("depth", "holding:1", "int16", "")
        + &tag("setpoint", "holding:2", "uint16", "access = \"read-write\"\nwrite = { min = 0.0, max = 100.0 }")
        + &tag("total", "holding:4", "uint64", "");
    format!(
        "{}{tags}[[uplink]]\nname = \"scada\"\nurl = \"mqtt://{broker}\"\nclient_id = \"gw-scada\"\nstart = \"oldest\"\n\
         format = \"sparkplug\"\ngroup_id = \"plant\"\n{more}\n",
        config(plc)
    )
}

/// A command with one metric: field 2 of the payload; its name or alias, and its value as field and bytes.
fn command(metric: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x12, u8::try_from(metric.len()).unwrap()];
    payload.extend_from_slice(metric);
    payload
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut metric = vec![0x0A, u8::try_from(name.len()).unwrap()];
    metric.extend_from_slice(name.as_bytes());
    metric.extend_from_slice(rest);
    command(&metric)
}

async fn send(to: SocketAddr, topic: &str, payload: Vec<u8>) {
    let mut client = Client4::connect(to, "operator").await;
    let mut publish = v4::Publish::new(topic, rumqttc::QoS::AtMostOnce, payload);
    publish.pkid = 0;
    client.send(v4::Packet::Publish(publish)).await;
    client.ping().await;
}

async fn state(to: SocketAddr, online: bool, at: u64) {
    let mut client = Client4::connect(to, "scada").await;
    let payload = format!("{{\"online\":{online},\"timestamp\":{at}}}");
    let mut publish = v4::Publish::new("spBv1.0/STATE/scada", rumqttc::QoS::AtMostOnce, payload);
    publish.retain = true;
    client.send(v4::Packet::Publish(publish)).await;
    client.ping().await;
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_node_is_born_tells_takes_commands_is_born_again_and_dies_in_order() {
    let (plc, cloud) = (Plc::start().await, broker(anywhere()).await);
    plc.set(0, &[100, 0xFFFE, 7, 0, 0x8000, 0, 0, 1]);
    let host = Host::at(cloud.address).await;
    let home = Home::new(&node(plc.line.address(), cloud.address, "commands = true"));
    let mut daemon = home.run();
    host.until("data", |all| all.iter().any(|message| message.kind == "DDATA")).await;
    let births: Vec<Message> = host.all();
    assert_eq!((births[0].kind.as_str(), births[1].kind.as_str()), ("NBIRTH", "DBIRTH"), "{births:?}");
    assert_eq!(births[0].metric("Node Control/Rebirth").truth, Some(false));
    assert_eq!(births[0].metric("Node Control/Rebirth").alias, None);
    assert_eq!(births[0].metric("bdSeq").whole, Some(0));
    let (level, depth) = (births[1].metric("level"), births[1].metric("depth"));
    assert!(level.alias.is_some() && level.alias != depth.alias);
    until("the newest value of each", || {
        let last = |name| host.values(name).into_values().last();
        last("level").is_some_and(|metric| metric.whole == Some(100) && metric.quality.is_none_or(|code| code == 192))
            && last("depth").is_some_and(|metric| metric.whole == Some(u64::from((-2_i32).cast_unsigned())))
            && last("total").is_some_and(|metric| metric.whole == Some(0x8000_0000_0000_0001))
    })
    .await;

    // a write within its limits, by alias; one beyond them, by name; one to what may not be written
    let alias = u8::try_from(births[1].metric("setpoint").alias.unwrap()).unwrap();
    send(cloud.address, "spBv1.0/plant/DCMD/gw/plc", command(&[0x10, alias, 0x20, 3, 0x50, 42])).await;
    until("written", || plc.word(2) == 42).await;
    let result = || host.values("Node Info/Command Result").into_values().last().and_then(|metric| metric.text);
    until("told how it ended", || result().is_some_and(|text| text.contains("\"done\""))).await;
    let told = host.count("DDATA");
    send(cloud.address, "spBv1.0/plant/DCMD/gw/plc", named("setpoint", &[0x20, 3, 0x50, 0xC8, 1])).await;
    send(cloud.address, "spBv1.0/plant/DCMD/gw/plc", named("level", &[0x20, 3, 0x50, 5])).await;
    until("refused", || daemon.times_said("command refused") >= 2).await;
    host.until("the value it has", |_| host.count("DDATA") > told).await;
    assert_eq!((plc.word(2), plc.word(0)), (42, 100));

    // three hosts ask at once: one rebirth, with the same bdSeq
    for _ in 0..3 {
        send(cloud.address, "spBv1.0/plant/NCMD/gw", named("Node Control/Rebirth", &[0x20, 11, 0x70, 1])).await;
    }
    host.until("born again", |_| host.count("NBIRTH") >= 2 && host.count("DBIRTH") >= 2).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    host.until("dead", |all| all.last().is_some_and(|last| last.kind == "NDEATH")).await;
    let all = host.all();
    let counts: Vec<_> = all.iter().filter(|message| matches!(message.kind.as_str(), "NBIRTH" | "NDEATH")).collect();
    assert!(counts.iter().all(|message| message.metric("bdSeq").whole == Some(0)), "{counts:?}");
    host.values("level");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_while_the_broker_was_away_comes_as_historical_and_nothing_is_missing() {
    let (plc, cloud) = (Plc::start().await, broker(anywhere()).await);
    let address = cloud.address;
    let host = Host::at(address).await;
    let home = Home::new(&node(plc.line.address(), address, ""));
    let mut daemon = home.run();
    host.until("data", |_| host.count("DDATA") > 0).await;
    let before = host.all();
    drop(host);
    drop(cloud.stop().await);
    until("noticed", || daemon.said("uplink down").is_some()).await;
    for level in 1..=20_u16 {
        plc.set(0, &[level]);
        let polled = plc.requests() + 2;
        until("polled", || plc.requests() > polled).await;
    }
    daemon.kill(); // and a power cut on top of it
    let mut daemon = home.run();
    let cloud = broker(address).await;
    let host = Host::at(address).await;
    let levels = || -> BTreeSet<u64> {
        host.values("level")
            .into_values()
            .filter(|metric| metric.historical)
            .filter_map(|metric| metric.whole)
            .collect()
    };
    until("the backlog", || (1..=19).all(|level| levels().contains(&level))).await;
    let counts = host.all().iter().find(|message| message.kind == "NBIRTH").unwrap().metric("bdSeq").whole.unwrap();
    assert!(counts > 0, "it goes on over a restart");
    assert_eq!(before.iter().find(|message| message.kind == "NBIRTH").unwrap().metric("bdSeq").whole, Some(0));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    drop(cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_falls_silent_dies_and_lives_again_when_it_answers() {
    let (plc, cloud) = (Plc::start().await, broker(anywhere()).await);
    let host = Host::at(cloud.address).await;
    let home = Home::new(&node(plc.line.address(), cloud.address, ""));
    let _daemon = home.run();
    host.until("data", |_| host.count("DDATA") > 0).await;
    let (address, units) = (plc.line.address(), plc.units.clone());
    drop(plc);
    host.until("dead", |_| host.count("DDEATH") == 1).await;
    assert_eq!(
        host.values("level").into_values().last().and_then(|metric| metric.quality),
        Some(0),
        "bad before it died"
    );
    let plc = Plc::at(address, units).await;
    plc.set(0, &[77]);
    host.until("born again", |_| host.count("DBIRTH") >= 2).await;
    until("its value", || host.values("level").into_values().last().is_some_and(|metric| metric.whole == Some(77)))
        .await;
    assert_eq!((host.count("NBIRTH"), host.count("DDEATH")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn births_wait_for_the_primary_host_and_what_it_may_not_have_seen_goes_again() {
    let (plc, cloud) = (Plc::start().await, broker(anywhere()).await);
    let host = Host::at(cloud.address).await;
    let keys = "primary_host = \"scada\"\nhost_timeout = \"1h\"";
    let home = Home::new(&node(plc.line.address(), cloud.address, keys));
    let daemon = home.run();
    until("connected", || daemon.said("uplink connected").is_some()).await;
    state(cloud.address, false, 1000).await;
    let polls = plc.requests();
    until("there is much to tell", || plc.requests() > polls + 10).await;
    assert_eq!(host.count("NBIRTH"), 0);
    state(cloud.address, true, 1000).await;
    host.until("born", |_| host.count("DDATA") > 0).await;
    state(cloud.address, false, 999).await;
    plc.set(0, &[55]);
    let has = |historical: bool| {
        let fits = |metric: &Metric| metric.whole == Some(55) && metric.historical == historical;
        host.all().iter().any(|message| message.kind == "DDATA" && message.metrics.iter().any(fits))
    };
    until("told, for an older state is passed over", || has(false)).await;
    assert_eq!(host.count("NDEATH"), 0);
    state(cloud.address, false, 1000).await;
    host.until("it leaves", |_| host.count("NDEATH") == 1).await;
    state(cloud.address, true, 2000).await;
    host.until("born again", |_| host.count("NBIRTH") == 2).await;
    until("told again", || has(true)).await;
    host.values("level");
}
