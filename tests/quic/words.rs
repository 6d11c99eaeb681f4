//! What is said last arrives, and what was agreed on with one server is not forgotten over another.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ironbridge::config::plan::{Anonymous, ListenerPlan};
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Destination, TlsFiles};
use ironbridge::road::{Now, RelayEnd, Road};
use rumqttc::v5::mqttbytes::v5;

use crate::authority::Authority;
use crate::middlebox::Middlebox;
use crate::support::{Client5, PATIENCE, Running, Setup, filter, message, until};
use crate::{any, door, line, put, road, tls};

const LARGE: usize = 120_000;

/// A door for QUIC, one for TLS over TCP, and one for the test.
async fn open(authority: &Authority) -> Running {
    let home = authority.home.path();
    let secure = ListenerPlan { tls: Some(tls(home, None)), ..ListenerPlan::plain(any(), Anonymous::ReadWrite) };
    let doors = vec![door(home, None, Anonymous::ReadWrite), secure, ListenerPlan::plain(any(), Anonymous::ReadWrite)];
    Running::with(Setup { doors, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_publish_and_disconnect_arrive_although_something_came_for_a_client_that_was_gone() {
    let authority = Authority::new();
    put(&authority, authority.home.path());
    let broker = open(&authority).await;
    let between = Middlebox::start(broker.address).await;
    let mut hears = Client5::connect(broker.addresses[2].unwrap(), "hears", |_| {}).await;
    hears.subscribe(filter("last/#", 0), None).await;
    let mut way = road(between.address, &authority, None);
    let (stream, relay) = line(&mut way).await.unwrap();
    let will =
        v5::LastWill::new("last/will", "gone without a word", rumqttc::v5::mqttbytes::QoS::AtMostOnce, false, None);
    let (mut leaves, _) = Client5::over(stream, "leaves", |wishes| wishes.will = Some(will)).await;
    leaves.subscribe(filter("plant/#", 0), None).await;
    between.delay(Duration::from_millis(60)); // what is large takes many round trips
    // All the time something comes down.
    let (publisher, over) = (broker.publisher.clone(), Arc::<AtomicBool>::default());
    let ended = Arc::clone(&over);
    let chatter = tokio::spawn(async move {
        while !ended.load(Ordering::Relaxed) {
            publisher.publish("plant/dev0/tag0".into(), "7".to_owned().into());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    leaves.send(v5::Packet::Publish(message("last/words", 0, &"x".repeat(LARGE)))).await;
    leaves.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
    drop(leaves);
    let words = hears.message().await;
    assert_eq!((&words.topic[..], words.payload.len()), (&b"last/words"[..], LARGE));
    assert_eq!(tokio::time::timeout(PATIENCE, relay).await.unwrap().unwrap(), RelayEnd::Closed);
    until("it has gone", || broker.publisher.stats().clients.get() == 1).await;
    over.store(true, Ordering::Relaxed);
    chatter.await.unwrap();
    hears.send(v5::Packet::Publish(message("last/of all", 0, "no will before this"))).await;
    assert_eq!(&hears.message().await.topic[..], b"last/of all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_arrives_although_the_relay_was_dropped() {
    let authority = Authority::new();
    put(&authority, authority.home.path());
    let broker = open(&authority).await;
    let between = Middlebox::start(broker.address).await;
    let mut hears = Client5::connect(broker.addresses[2].unwrap(), "hears", |_| {}).await;
    hears.subscribe(filter("last/#", 0), None).await;
    let mut way = road(between.address, &authority, None);
    let meter = way.meter();
    let (stream, relay) = line(&mut way).await.unwrap();
    let (mut leaves, _) = Client5::over(stream, "leaves", |_| {}).await;
    leaves.ping().await;
    between.block(true); // the first time it does not arrive
    let before = meter.snapshot().sent;
    leaves.send(v5::Packet::Publish(message("last/words", 0, "7"))).await;
    until("it is on its way", || meter.snapshot().sent > before).await;
    relay.abort();
    assert!(relay.await.unwrap_err().is_cancelled());
    between.block(false);
    assert_eq!(&hears.message().await.topic[..], b"last/words");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_to_and_fro_between_quic_and_tls_over_tcp_throws_no_tickets_away() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    // As long as the chains of public authorities are: a first packet is padded, and hides a short one.
    let leaf = std::fs::read_to_string(home.join("server.crt")).unwrap();
    std::fs::write(home.join("server.crt"), leaf + &authority.pem().repeat(6)).unwrap();
    let broker = open(&authority).await;
    let files = TlsFiles { ca_file: authority.ca_file(), identity: None };
    let to = |scheme: &str, door: usize| {
        Destination::from_url(&format!("{scheme}://{}", broker.addresses[door].unwrap()), Some(files.clone())).unwrap()
    };
    let servers = [to("quic", 0), to("mqtts", 1)];
    let now = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    let mut way = Road::new(servers[0].clone(), Now::new(move || now), home.to_owned());
    let mut cost = Vec::new();
    for turn in 0..6 {
        way.lead(servers[turn % 2].clone());
        let before = way.meter().snapshot().total();
        let (stream, relay) = line(&mut way).await.unwrap();
        let (mut client, _) = Client5::over(stream, "to and fro", |_| {}).await;
        client.ping().await;
        drop(client);
        relay.await.unwrap();
        until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
        cost.push(way.meter().snapshot().total() - before);
    }
    for again in 2..6 {
        assert!(cost[again] + 1500 < cost[again % 2], "no certificates the second time: {cost:?}");
    }
}
