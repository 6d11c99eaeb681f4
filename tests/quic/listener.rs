//! The door: who gets in, who does not, what it does when many come, and what a connection costs.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{AclPlan, Anonymous, BrokerLimits, ClientCertificate, Listen, ListenerPlan};
use ironbridge::road::destination::RoadError;
use ironbridge::road::{RelayEnd, Road};
use quinn::crypto::rustls::QuicClientConfig;
use rumqttc::v5::mqttbytes::v5;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::UnixStream;

use crate::authority::Authority;
use crate::middlebox::Middlebox;
use crate::patience::answer;
use crate::support::{Client5, PATIENCE, Running, Setup, filter, message, until};
use crate::{door, line, put, road};

async fn open(authority: &Authority, limits: BrokerLimits) -> Running {
    put(authority, authority.home.path());
    let doors = vec![door(authority.home.path(), None, Anonymous::ReadWrite)];
    Running::with(Setup { doors, limits, ..Setup::default() }).await
}

pub async fn enter(road: &mut Road, id: &str) -> Client5<UnixStream> {
    let (stream, _relay) = line(road).await.unwrap();
    let (client, connack) = Client5::over(stream, id, |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::Success, "{id}");
    client
}

/// A client that is not the product's road: the library alone.
pub fn stranger(authority: &Authority, alpn: &[u8], early: bool) -> (quinn::Endpoint, quinn::ClientConfig) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = early;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    (quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(), config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_speaks_mqtt_over_quic_and_the_meter_shows_what_went_over_the_wire() {
    let authority = Authority::new();
    let broker = open(&authority, BrokerLimits::default()).await;
    let between = Middlebox::start(broker.address).await;
    let mut way = road(between.address, &authority, None);
    let (stream, relay) = line(&mut way).await.unwrap();
    let (mut client, _) = Client5::over(stream, "far", |_| {}).await;
    client.subscribe(filter("own/#", 1), None).await;
    let large = "x".repeat(300_000);
    client.send(v5::Packet::Publish(message("own/x", 1, &large))).await;
    let mut seen = (false, false);
    while seen != (true, true) {
        match client.next().await {
            v5::Packet::PubAck(_) => seen.0 = true,
            v5::Packet::Publish(publish) => {
                assert_eq!(publish.payload.len(), large.len());
                seen.1 = true;
                client.send(v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None))).await;
            }
            other => panic!("{other:?}"),
        }
    }
    client.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
    drop(client);
    assert_eq!(tokio::time::timeout(PATIENCE, relay).await.unwrap().unwrap(), RelayEnd::Closed);
    let meter = way.meter();
    until("the same count at both", || {
        let (counted, metered) = (between.counted(), meter.snapshot());
        (counted.from_client, counted.to_client) == (metered.sent, metered.received)
    })
    .await;
    let counted = between.counted();
    assert!(counted.from_client > 300_000 && counted.from_client < 360_000, "{counted:?}");
    until("the place is free", || broker.publisher.stats().clients.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_somebody_else_is_refused_and_so_is_another_protocol() {
    let (authority, other) = (Authority::new(), Authority::new());
    let broker = open(&authority, BrokerLimits::default()).await;
    let refused = line(&mut road(broker.address, &other, None)).await.unwrap_err();
    assert!(matches!(&refused, RoadError::Distrusted(text) if text.contains("CA in ca_file")), "{refused}");
    let (endpoint, config) = stranger(&authority, b"h3", false);
    let refused = endpoint.connect_with(config, broker.address, "127.0.0.1").unwrap().await.unwrap_err();
    assert!(refused.to_string().contains("120"), "no_application_protocol, RFC 8446, section 6: {refused}");
    until("both were turned away", || broker.publisher.stats().turned_away.get() == 2).await;
    // Only TLS 1.3 can be in QUIC, and a TCP door at the same port is another door.
    assert!(tokio::net::TcpStream::connect(broker.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_who_its_certificate_says_and_one_without_is_refused() {
    let (authority, clients) = (Authority::new(), Authority::new());
    put(&authority, authority.home.path());
    std::fs::write(authority.home.path().join("clients.pem"), clients.pem()).unwrap();
    let own = |user: &str| AclPlan {
        user: user.to_owned(),
        read: vec!["own/#".to_owned()],
        write: vec!["own/#".to_owned()],
        operate: Vec::new(),
    };
    let doors = vec![door(authority.home.path(), Some(ClientCertificate::Required), Anonymous::None)];
    let broker = Running::with(Setup { doors, acl: vec![own("cert:pump")], ..Setup::default() }).await;
    let pump = clients.client("pump", crate::VALID);
    let mut client = enter(&mut road(broker.address, &authority, Some(pump)), "pump").await;
    assert_eq!(client.publish(message("own/x", 1, "7")).await, v5::PubAckReason::NoMatchingSubscribers);
    assert_eq!(client.publish(message("other/x", 1, "7")).await, v5::PubAckReason::NotAuthorized);

    // TLS 1.3: a client hears of it after its side of the handshake is done.
    let mut without = road(broker.address, &authority, None);
    let distrusted = match line(&mut without).await {
        Err(RoadError::Distrusted(_)) => true,
        Err(other) => panic!("{other}"),
        Ok((mut stream, relay)) => {
            drop(tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await);
            matches!(relay.await.unwrap(), RelayEnd::Distrusted(_))
        }
    };
    assert!(distrusted);

    // Its authority is not trusted any more: it goes, and others come.
    let later = Authority::new();
    std::fs::write(authority.home.path().join("clients.pem"), later.pem()).unwrap();
    broker.control.reload_certificates();
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_connections_than_allowed_and_a_place_comes_back() {
    let authority = Authority::new();
    let broker = open(&authority, BrokerLimits { connections: 2, ..BrokerLimits::default() }).await;
    let mut way = road(broker.address, &authority, None);
    let first = enter(&mut way, "1").await;
    let _second = enter(&mut way, "2").await;
    let refused = line(&mut way).await.unwrap_err();
    assert!(matches!(&refused, RoadError::Unreachable(_)), "{refused}");
    drop(first);
    until("one has gone", || broker.publisher.stats().clients.get() == 1).await;
    answer("its place is free again", async || line(&mut way).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_many_come_at_once_they_have_to_prove_their_address_and_who_says_nothing_makes_room() {
    let authority = Authority::new();
    let broker = open(&authority, BrokerLimits::default()).await;
    let (endpoint, config) = stranger(&authority, b"mqtt", false);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(endpoint.connect_with(config.clone(), broker.address, "127.0.0.1").unwrap().await.unwrap());
    }
    let stats = broker.publisher.stats();
    until("the last ones were asked", || stats.asked_for_proof.get() >= 4).await;
    let client = enter(&mut road(broker.address, &authority, None), "one that means it").await;
    assert_eq!(stats.clients.get(), 1);
    drop(client);
    // Nobody is a stranger for ever: 15 s for the handshake and its stream.
    until("all the silent ones have gone", || silent.iter().all(|one| one.close_reason().is_some())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_but_nothing_is_taken_before_the_handshake() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    // As long as the chains of public authorities are: a first packet is padded, and hides a short one.
    let leaf = std::fs::read_to_string(home.join("server.crt")).unwrap();
    std::fs::write(home.join("server.crt"), leaf + &authority.pem().repeat(6)).unwrap();
    let doors = vec![door(home, None, Anonymous::ReadWrite)];
    let broker = Running::with(Setup { doors, ..Setup::default() }).await;
    let between = Middlebox::start(broker.address).await;
    let mut way = road(between.address, &authority, None);
    let mut cost = Vec::new();
    for _ in 0..2 {
        let before = between.counted();
        let mut client = enter(&mut way, "again").await;
        client.ping().await;
        let now = between.counted();
        cost.push(now.from_client + now.to_client - before.from_client - before.to_client);
        drop(client);
        until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
    }
    assert!(cost[1] + 1500 < cost[0], "no certificates the second time: {cost:?}");

    // A client that wants to send early is not given the means to.
    let (endpoint, config) = stranger(&authority, b"mqtt", true);
    for _ in 0..2 {
        let connecting = endpoint.connect_with(config.clone(), broker.address, "127.0.0.1").unwrap();
        let Err(connecting) = connecting.into_0rtt() else { panic!("early data would be taken") };
        let connection = connecting.await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0x10]).await.unwrap(); // tickets come behind the handshake
        tokio::time::timeout(PATIENCE, async {
            while connection.stats().frame_rx.crypto < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        connection.close(quinn::VarInt::from_u32(0), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_reach_a_client_before_the_connection_ends() {
    let authority = Authority::new();
    let broker = open(&authority, BrokerLimits::default()).await;
    let between = Middlebox::start(broker.address).await;
    between.delay(Duration::from_millis(100));
    let mut way = road(between.address, &authority, None);
    let mut client = enter(&mut way, "told").await;
    let mut other = enter(&mut way, "told").await; // the same id: the first has to go
    assert_eq!(client.disconnected().await, v5::DisconnectReasonCode::SessionTakenOver);
    broker.stop.begin();
    broker.end.cancel();
    assert_eq!(other.disconnected().await, v5::DisconnectReasonCode::ServerShuttingDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_at_once_that_the_broker_was_killed_and_is_back() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    // In a runtime of its own, which dies without a word.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let plan = door(home, None, Anonymous::ReadWrite);
    let opened = dying.spawn(async move { Running::with(Setup { doors: vec![plan], ..Setup::default() }).await });
    let first = opened.await.unwrap();
    let address = first.address;
    let between = Middlebox::start(address).await;
    let (stream, relay) = line(&mut road(between.address, &authority, None)).await.unwrap();
    let (mut client, _) = Client5::over(stream, "old", |_| {}).await;
    client.ping().await;
    between.block(true); // what the runtime still says when it ends does not arrive
    std::mem::forget(first.dir.clone());
    dying.shutdown_background();
    let again = ListenerPlan { listen: Listen::Quic(address), ..door(home, None, Anonymous::ReadWrite) };
    let second = answer("the port is free", async || {
        let second = Running::with(Setup { doors: vec![again.clone()], ..Setup::default() }).await;
        if second.addresses[0].is_some() {
            return Some(second);
        }
        second.stop().await; // it would go on trying, and take the port
        None
    });
    let second = second.await;
    between.block(false);
    client.send(v5::Packet::PingReq(v5::PingReq)).await;
    let end = tokio::time::timeout(Duration::from_secs(10), relay).await.expect("long before any timeout").unwrap();
    assert!(matches!(&end, RelayEnd::Broken(why) if why.contains("reset")), "{end:?}");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_address_changes_stays_the_same_client() {
    let authority = Authority::new();
    let broker = open(&authority, BrokerLimits::default()).await;
    let between = Middlebox::start(broker.address).await;
    let mut client = enter(&mut road(between.address, &authority, None), "rover").await;
    client.subscribe(filter("own/#", 1), None).await;
    for n in 2..6_u8 {
        between.change_source(Some(IpAddr::from([127, 0, 0, n]))); // another host, and another port
        client.ping().await;
        between.change_source(Some(IpAddr::from([127, 0, 0, n]))); // another port only: a NAT forgot
        client.ping().await;
    }
    assert!(between.mapped() >= 9);
    let stats = broker.publisher.stats();
    assert_eq!((stats.clients.get(), stats.connects.get()), (1, 1));
}
