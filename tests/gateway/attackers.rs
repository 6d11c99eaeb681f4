//! The whole gateway among clients that mean harm: it polls, stores and serves on, its memory and its log stay small.
//!
//! Short here; `ATTACK_SECONDS` makes each attack as long as that, `ATTACK_CLIENTS` as wide.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::gateway;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::mqtt::{self, Client4};
use gateway::{Daemon, Home, Plc, Watch, config, tag, until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rustix::process::{Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn lasts() -> Duration {
    Duration::from_secs(from_environment("ATTACK_SECONDS", 2))
}

fn crowd() -> usize {
    usize::try_from(from_environment("ATTACK_CLIENTS", 150)).unwrap()
}

/// A gateway that polls one tag and lets anybody write where no tag is.
async fn gateway(plc: &Plc) -> (Home, Daemon, SocketAddr) {
    let text = config(plc.line.address()) + &tag("speed", "holding:0", "uint16", "");
    let home = Home::new(&text.replace("\"gw/+/+/set\"", "\"#\""));
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    (home, daemon, broker)
}

/// Waits until so many more polls have been seen on the wire and a value that was set now has reached the broker.
async fn still_polls(plc: &Plc, watch: &Watch, value: u16) {
    let before = plc.requests();
    plc.set(0, &[value]);
    until("it polls on", || plc.requests() >= before + 5).await;
    watch.until("gw/plc/speed", "the value that was set", |sample| sample["value"] == value).await;
}

fn connect(id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap(), 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0];
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend(id.as_bytes());
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_file_descriptors_it_polls_and_serves_on_says_so_once_and_recovers_by_itself() {
    let plc = Plc::start().await;
    let (_home, daemon, broker) = gateway(&plc).await;
    let watch = Watch::on_all(broker).await;
    still_polls(&plc, &watch, 1).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64;
    let limit = |files| Rlimit { current: Some(files), maximum: None };
    let before = prlimit(rustix::process::Pid::from_raw(daemon.pid()), Resource::Nofile, limit(open + 8)).unwrap();
    assert!(before.current > Some(open + 8));
    let mut greedy: Vec<TcpStream> = Vec::new();
    let begun = Instant::now();
    // Places come free and are taken again all the time: that is no news each time.
    while begun.elapsed() < lasts() {
        for n in 0..20 {
            let mut stream = TcpStream::connect(broker).await.unwrap();
            drop(stream.write_all(&connect(&format!("greedy-{n}"))).await);
            greedy.push(stream);
        }
        until("it has noticed", || daemon.said("cannot take in connections").is_some()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        greedy.drain(..10);
    }
    still_polls(&plc, &watch, 2).await;
    assert!(daemon.times_said("cannot take in connections") <= 2, "as often as it happened");
    drop(greedy);
    Client4::connect(broker, "afterwards").await.ping().await;
    still_polls(&plc, &watch, 3).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_subscribes_and_publishes_costs_little_memory_and_few_lines_of_log() {
    let plc = Plc::start().await;
    let (_home, daemon, broker) = gateway(&plc).await;
    let watch = Watch::on_all(broker).await;
    still_polls(&plc, &watch, 1).await;
    let (before, lines) = (daemon.rss(), daemon.times_said(""));
    let mut clients = Vec::new();
    for n in 0..crowd() {
        let mut client = Client4::connect(broker, &format!("crowd-{n}")).await;
        client.subscribe(&format!("crowd/{n}/#"), QoS::AtLeastOnce).await;
        clients.push(client);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut publish = v4::Publish::new(format!("crowd/{n}/x"), QoS::AtLeastOnce, vec![b'x'; 1000]);
        publish.pkid = 1;
        client.send(v4::Packet::Publish(publish)).await;
    }
    for client in &mut clients {
        let (one, other) = (client.next().await, client.next().await);
        assert!(matches!((&one, &other), (v4::Packet::Publish(_), _) | (_, v4::Packet::Publish(_))));
    }
    still_polls(&plc, &watch, 2).await;
    let each = daemon.rss().saturating_sub(before) / clients.len() as u64;
    assert!(each < 64 * 1024, "{each} bytes for each client");
    drop(clients);
    still_polls(&plc, &watch, 3).await;
    let said = daemon.times_said("") - lines;
    assert!(said < 200, "{said} lines of log for {} clients", crowd());
    assert_eq!(daemon.stop().await, Some(0));
}

/// The conversations of tests/fuzz, with a CONNECT before those that have none.
fn seeds() -> Vec<Vec<u8>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/conversation");
    let seed = |entry: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let mut conversation = match bytes[0] % 4 {
            0 => connect("wild"),
            3 => Vec::new(),
            _ => [&[0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 4][..], b"wild"].concat(),
        };
        conversation.extend(&bytes[1..]);
        conversation
    };
    std::fs::read_dir(home).unwrap().map(seed).collect()
}

fn spoil(conversation: &mut Vec<u8>, others: &[Vec<u8>], chance: &mut StdRng) {
    for _ in 0..chance.random_range(0..5) {
        let at = chance.random_range(0..conversation.len());
        match chance.random_range(0..5) {
            0 => conversation[at] = chance.random(),
            1 => conversation[at] ^= 1 << chance.random_range(0..8),
            2 => conversation.insert(at, chance.random()),
            3 if conversation.len() > 1 => drop(conversation.remove(at)),
            _ => {
                let other = others.choose(chance).unwrap();
                let from = chance.random_range(0..other.len());
                conversation.splice(at..at, other[from..].iter().copied());
            }
        }
    }
}

async fn attack(broker: SocketAddr, seed: u64, until: Instant) -> u64 {
    let (seeds, mut chance, mut rounds) = (seeds(), StdRng::seed_from_u64(seed), 0);
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(broker).await else { continue };
        let mut conversation = seeds.choose(&mut chance).unwrap().clone();
        spoil(&mut conversation, &seeds, &mut chance);
        // The broker may hang up at any byte: that is the point.
        if stream.write_all(&conversation).await.is_ok() && chance.random() {
            drop(stream.shutdown().await);
            let mut answers = Vec::new();
            drop(tokio::time::timeout(mqtt::PATIENCE, stream.read_to_end(&mut answers)).await.expect("it is closed"));
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoiled_conversations_for_as_long_as_one_likes_leave_it_alive_small_and_quiet() {
    let plc = Plc::start().await;
    let (_home, mut daemon, broker) = gateway(&plc).await;
    let watch = Watch::on_all(broker).await;
    still_polls(&plc, &watch, 1).await;
    let (mut reader, mut writer) = (Client4::connect(broker, "reader").await, Client4::connect(broker, "writer").await);
    reader.subscribe("undisturbed", QoS::AtLeastOnce).await;
    let (before, lines, begun) = (daemon.rss(), daemon.times_said(""), Instant::now());
    let attackers = (0..4).map(|seed| tokio::spawn(attack(broker, seed, begun + lasts()))).collect::<Vec<_>>();
    let mut number = 0_u32;
    while begun.elapsed() < lasts() {
        number += 1;
        let mut publish = v4::Publish::new("undisturbed", QoS::AtLeastOnce, number.to_string());
        publish.pkid = 1;
        writer.send(v4::Packet::Publish(publish)).await;
        assert!(matches!(writer.next().await, v4::Packet::PubAck(_)));
        let seen = reader.message().await;
        assert_eq!(seen.payload, number.to_string(), "nothing is missing, nothing changes places");
        reader.send(v4::Packet::PubAck(v4::PubAck::new(seen.pkid))).await;
    }
    let mut rounds = 0;
    for attacker in attackers {
        rounds += attacker.await.unwrap();
    }
    println!("{rounds} spoiled conversations beside {number} messages");
    still_polls(&plc, &watch, 2).await;
    assert!(daemon.is_running() && daemon.said("panicked").is_none());
    // What was kept for strangers has its own bound.
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more than before");
    let said = daemon.times_said("") - lines;
    assert!(said as u64 <= 200 + begun.elapsed().as_secs(), "{said} lines of log");
    assert_eq!(daemon.stop().await, Some(0));
}
