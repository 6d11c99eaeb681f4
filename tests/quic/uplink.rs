//! The uplink: nothing is lost on a bad link that changes addresses, and where QUIC does not get through, TLS over TCP does.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{
    self, Anonymous, BrokerLimits, ListenerPlan, PathPlan, ServerPlan, Transport, UplinkPlan, UplinkTlsPlan,
};
use ironbridge::model::number::Class;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Bind, Destination};
use ironbridge::road::{Now, Prober, Road};
use rumqttc::v5::mqttbytes::v5;

use crate::authority::Authority;
use crate::middlebox::Middlebox;
use crate::owed::OwedList;
use crate::rig::Rig;
use crate::support::{Client5, Running, Setup, filter, until};
use crate::toll::Toll;
use crate::{any, door, put, tls};

/// A broker with a door for QUIC, one for TLS over TCP, and one for the test.
async fn open(authority: &Authority) -> Running {
    let home = authority.home.path();
    put(authority, home);
    let secure = ListenerPlan { tls: Some(tls(home, None)), ..ListenerPlan::plain(any(), Anonymous::ReadWrite) };
    let doors = vec![door(home, None, Anonymous::ReadWrite), secure, ListenerPlan::plain(any(), Anonymous::ReadWrite)];
    let limits = BrokerLimits { queued_bytes: 64 << 20, ..BrokerLimits::default() };
    Running::with(Setup { doors, limits, ..Setup::default() }).await
}

fn server(at: SocketAddr, transport: Transport) -> ServerPlan {
    ServerPlan { host: at.ip().to_string(), port: at.port(), transport }
}

fn lead(plan: &mut UplinkPlan, authority: &Authority, servers: Vec<ServerPlan>) {
    plan.servers = servers;
    plan.tls = Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity: None });
}

/// Collects numbers until it has them all.
async fn all(client: &mut Client5, wanted: u64) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < wanted {
        let v5::Packet::Publish(publish) = client.next().await else { continue };
        client.send(v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None))).await;
        let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        numbers.extend(json["seq"].as_u64());
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_changes_of_address_and_every_fifth_datagram_lost_with_nothing_missing() {
    let authority = Authority::new();
    let broker = open(&authority).await;
    let between = Middlebox::start(broker.addresses[0].unwrap()).await;
    let mut receiver = Client5::connect(broker.addresses[2].unwrap(), "receiver", |_| {}).await;
    receiver.subscribe(filter("up/acme/#", 1), None).await;
    let owed = OwedList::default();
    owed.samples(1..=200);
    let rig = Rig::start_at(between.address, &owed, |parts| {
        lead(&mut parts.plan, &authority, vec![server(between.address, Transport::Quic)]);
        parts.timing.stalled = Duration::from_secs(60);
    });
    until("connected", || rig.stats.sessions.get() == 1).await;
    between.lose_each(5);
    between.delay(Duration::from_millis(10));
    for round in 0..8_u8 {
        between.change_source(Some(IpAddr::from([127, 0, 0, 2 + round % 2])));
        let more = u64::from(round) * 100;
        owed.samples(201 + more..=300 + more);
        let enough = usize::try_from(200 + more).unwrap();
        until("it goes on", || owed.acknowledged() >= enough).await;
    }
    assert_eq!(all(&mut receiver, 1000).await, (1..=1000).collect());
    until("all acknowledged", || owed.acknowledged() == 1000).await;
    assert_eq!((rig.stats.sessions.get(), rig.stats.failures.get(), owed.wrong_acks()), (1, 0, 0));
    assert!(between.mapped() >= 8);
    between.lose_each(0);
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_is_blocked_the_uplink_goes_by_tls_over_tcp_and_comes_back_to_quic() {
    let authority = Authority::new();
    let broker = open(&authority).await;
    let between = Middlebox::start(broker.addresses[0].unwrap()).await;
    between.block(true);
    let mut receiver = Client5::connect(broker.addresses[2].unwrap(), "receiver", |_| {}).await;
    receiver.subscribe(filter("up/acme/#", 1), None).await;
    let owed = OwedList::default();
    owed.samples(1..=100);
    let mut rig = Rig::start_at(between.address, &owed, |parts| {
        let servers =
            vec![server(between.address, Transport::Quic), server(broker.addresses[1].unwrap(), Transport::Tls)];
        lead(&mut parts.plan, &authority, servers);
        parts.timing.first_server_again = Duration::from_secs(3);
    });
    until("by TCP", || rig.stats.server.get() == 2 && owed.acknowledged() == 100).await;
    until("told", || rig.told().contains(&"uplink_quic_blocked active".to_owned())).await;
    let tried = between.counted();
    assert!(tried.from_client <= 4 * 1228 && tried.to_client == 0, "what a blocked attempt costs: {tried:?}");
    between.block(false);
    until("back to QUIC", || rig.stats.server.get() == 1).await;
    until("told", || rig.told().contains(&"uplink_quic_blocked cleared".to_owned())).await;
    owed.samples(101..=200);
    assert_eq!(all(&mut receiver, 200).await, (1..=200).collect());
    until("all acknowledged", || owed.acknowledged() == 200).await;
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_quic_reaches_and_that_refuses_us_is_no_sign_that_udp_is_blocked() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    let secure = ListenerPlan { tls: Some(tls(home, None)), ..ListenerPlan::plain(any(), Anonymous::ReadWrite) };
    let doors = vec![door(home, None, Anonymous::None), secure];
    let broker = Running::with(Setup { doors, ..Setup::default() }).await;
    let owed = OwedList::default();
    owed.samples(1..=10);
    let [quic, tcp] = [0, 1].map(|at| broker.addresses[at].unwrap());
    let mut rig = Rig::start_at(quic, &owed, |parts| {
        lead(&mut parts.plan, &authority, vec![server(quic, Transport::Quic), server(tcp, Transport::Tls)]);
    });
    until("by TCP", || rig.stats.server.get() == 2 && owed.acknowledged() == 10).await;
    let told = rig.told();
    assert!(told.contains(&"uplink_refused active".to_owned()), "{told:?}");
    assert!(!told.iter().any(|told| told.starts_with("uplink_quic_blocked")), "{told:?}");
    owed.end();
    rig.finished().await;
}

#[tokio::test]
async fn a_way_that_lets_no_udp_through_is_well_where_another_server_answers_there_by_tcp() {
    let home = tempfile::tempdir().unwrap();
    let mute = tokio::net::UdpSocket::bind(any()).await.unwrap();
    let answers = tokio::net::TcpListener::bind(any()).await.unwrap();
    let to = |at: SocketAddr| Destination::plain(&at.ip().to_string(), at.port());
    let by_quic = to(mute.local_addr().unwrap()).over_quic(Duration::from_secs(60));
    let by_tcp = to(answers.local_addr().unwrap());
    let now = Wall { unix_ms: 0, certainty: Certainty::Fixed };
    let mut road = Road::new(by_quic.clone(), Now::new(move || now), home.path().to_owned());
    let probe = |prober: Prober| prober.probe(Bind::System, Arc::default());
    let servers = [by_quic.clone(), by_tcp.clone()];
    let (alone, with_another) = (probe(road.prober()), probe(road.prober().or(&servers)));
    let (alone, with_another) = tokio::join!(alone, with_another);
    assert!(alone.is_err() && with_another.is_ok(), "{alone:?} {with_another:?}");
    drop(answers);
    road.lead(by_tcp);
    assert!(probe(road.prober().or(&servers)).await.is_err(), "who goes by TCP asks no further");
}

/// An interface that has this address.
fn path(name: &str, source: &str) -> PathPlan {
    PathPlan {
        name: name.into(),
        bind: plan::Bind::Source(source.parse().unwrap()),
        classes: Class::ALL.to_vec(),
        budgets: Vec::new(),
        max_rate: None,
        schedule: None,
        price_per_mib: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cheap_path_that_comes_back_without_udp_is_taken_back_by_tls_over_tcp_and_nothing_is_lost() {
    const WIRED: &str = "127.0.0.2";
    let authority = Authority::new();
    let broker = open(&authority).await;
    let by_udp = Middlebox::start(broker.addresses[0].unwrap()).await;
    let by_tcp = Toll::before(broker.addresses[1].unwrap()).await;
    let mut receiver = Client5::connect(broker.addresses[2].unwrap(), "receiver", |_| {}).await;
    receiver.subscribe(filter("up/acme/#", 1), None).await;
    let owed = OwedList::default();
    owed.samples(1..=100);
    let rig = Rig::start_at(by_udp.address, &owed, |parts| {
        let servers = vec![server(by_udp.address, Transport::Quic), server(by_tcp.address, Transport::Tls)];
        lead(&mut parts.plan, &authority, servers);
        parts.plan.paths = vec![path("wired", WIRED), path("radio", "127.0.0.3")];
        (parts.timing.path_healthy, parts.timing.first_server_again) = (Duration::from_secs(3), Duration::from_secs(4));
    });
    let goes = |name: &str, server: u64| {
        let current = rig.stats.paths().iter().any(|way| way.current && way.path == name);
        current && rig.stats.connected.get() == 1 && rig.stats.server.get() == server
    };
    until("by wire and QUIC", || goes("wired", 1) && owed.acknowledged() == 100).await;
    by_udp.shut_out(WIRED);
    by_tcp.close(WIRED);
    owed.samples(101..=200);
    until("by radio and QUIC", || goes("radio", 1) && owed.acknowledged() == 200).await;
    by_tcp.open(WIRED);
    until("by wire and TCP", || goes("wired", 2)).await;
    owed.samples(201..=300);
    assert_eq!(all(&mut receiver, 300).await, (1..=300).collect());
    until("all acknowledged", || owed.acknowledged() == 300).await;
    owed.end();
    rig.finished().await;
}
