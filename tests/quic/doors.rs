//! A door over its life: a reload that changes it, and a certificate that is not there for a while.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::time::Duration;

use ironbridge::config::plan::{Anonymous, Listen, ListenerPlan};
use ironbridge::flow::notice::Phase;
use rustls::Side;
use rustls::pki_types::CertificateDer;
use rustls::quic::{Keys, Version};

use crate::authority::Authority;
use crate::listener::{enter, stranger};
use crate::middlebox::Middlebox;
use crate::patience::answer;
use crate::support::{PATIENCE, Running, Setup, until};
use crate::{any, door, put, road};

/// What a reload may take: nobody has to wait for whoever was here before.
const AT_ONCE: Duration = Duration::from_secs(3);

fn all_open(broker: &Running) -> bool {
    broker.control.doors().iter().all(|(_, open)| *open)
}

fn no_notice(broker: &mut Running) {
    if let Ok(told) = broker.notices.try_recv() {
        panic!("{}: {}", told.event, told.detail);
    }
}

async fn listen(broker: &Running, doors: &[&ListenerPlan]) {
    let changed = broker.control.listen(doors.iter().map(|door| (*door).clone()).collect());
    tokio::time::timeout(AT_ONCE, changed).await.expect("nobody is waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_changes_has_its_port_at_once_whoever_is_still_on_the_way_out() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    let (first, other) = (door(home, None, Anonymous::ReadWrite), door(home, None, Anonymous::Read));
    let doors = vec![first.clone(), other.clone()];
    let mut broker = Running::with(Setup { doors, ..Setup::default() }).await;
    let between = Middlebox::start(broker.address).await;
    let slow = enter(&mut road(between.address, &authority, None), "far away").await;
    let mut stays = enter(&mut road(broker.addresses[1].unwrap(), &authority, None), "of the other door").await;
    between.block(true); // the goodbye is confirmed by nobody, so the connection is held for seconds

    let there = |plan: &ListenerPlan| ListenerPlan { listen: Listen::Quic(broker.address), ..plan.clone() };
    let changed = ListenerPlan { max_qos: 1, ..there(&first) };
    let bound = ListenerPlan { interface: Some("lo".to_owned()), ..changed.clone() };
    for plan in [&changed, &bound] {
        listen(&broker, &[plan, &other]).await;
        assert!(all_open(&broker));
        let mut next = tokio::time::timeout(AT_ONCE, enter(&mut road(broker.address, &authority, None), "next")).await;
        next.as_mut().expect("the door is open").ping().await;
    }

    // Without that door nobody new comes in; with it again they do, before the last one is out.
    listen(&broker, &[&other]).await;
    let (endpoint, config) = stranger(&authority, b"mqtt", false);
    let knocking = endpoint.connect_with(config, broker.address, "127.0.0.1").unwrap();
    let knocked = tokio::time::timeout(Duration::from_millis(300), knocking).await;
    assert!(!matches!(knocked, Ok(Ok(_))), "nobody comes in");
    listen(&broker, &[&bound, &other]).await;
    assert!(all_open(&broker));
    enter(&mut road(broker.address, &authority, None), "again").await.ping().await;
    stays.ping().await;

    // In the end the port is free for others.
    let address = broker.address;
    listen(&broker, &[&other]).await;
    until("the port is closed", || std::net::UdpSocket::bind(address).is_ok()).await;
    drop(slow);
    stays.ping().await;
    no_notice(&mut broker);
}

/// A datagram with an Initial packet of these frames (RFC 9000, section 17.2.2; RFC 9001, section 5), for a connection of
/// its own.
fn first_packet(frames: &[u8], number: u8) -> Vec<u8> {
    let id = [7, 7, 7, 7, 7, 7, 7, number];
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let keys = Keys::initial(Version::V1, suite, suite.quic.unwrap(), &id, Side::Client);
    // Long header, Initial, a packet number of four bytes; version 1; the ids (ours is empty); no token; the length.
    let length: u16 = 1182;
    let mut packet = [&[0xc3, 0, 0, 0, 1, 8][..], &id, &[0, 0], &(0x4000 | length).to_be_bytes(), &[0; 4]].concat();
    let (begin, mut payload) = (packet.len(), frames.to_vec());
    payload.resize(usize::from(length) - 4 - 16, 0); // PADDING
    let tag = keys.local.packet.encrypt_in_place(0, &packet, &mut payload).unwrap();
    packet.extend([&payload, tag.as_ref()].concat());
    let sample = packet[begin..begin + keys.local.header.sample_len()].to_vec();
    let (first, rest) = packet.split_first_mut().unwrap();
    keys.local.header.encrypt_in_place(&sample, first, &mut rest[begin - 5..begin - 1]).unwrap();
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_goodbye_in_its_first_packet_leaves_nothing_behind() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    let (gone, other) = (door(home, None, Anonymous::ReadWrite), door(home, None, Anonymous::Read));
    let broker = Running::with(Setup { doors: vec![gone, other.clone()], ..Setup::default() }).await;
    let socket = std::net::UdpSocket::bind(any()).unwrap();
    let goodbyes: [&[u8]; 3] = [&[0x1c, 0, 0, 0], &[0x1d, 0, 0], &[0x06, 0, 1, 1, 0x1c, 0, 0, 0]];
    for (number, goodbye) in (0..).zip(goodbyes) {
        socket.send_to(&first_packet(goodbye, number), broker.address).unwrap();
    }
    enter(&mut road(broker.address, &authority, None), "in order").await.ping().await;
    listen(&broker, &[&other]).await;
    let address = broker.address;
    until("nobody holds the port", || std::net::UdpSocket::bind(address).is_ok()).await;
}

/// The first certificate that a door shows.
async fn shown(authority: &Authority, at: SocketAddr) -> CertificateDer<'static> {
    let (endpoint, config) = stranger(authority, b"mqtt", false);
    let connection = endpoint.connect_with(config, at, "127.0.0.1").unwrap().await.unwrap();
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_outlives_a_gap_of_its_certificate_and_shows_the_renewed_one_without_a_break() {
    let authority = Authority::new();
    let home = authority.home.path();
    put(&authority, home);
    let doors = vec![door(home, None, Anonymous::ReadWrite)];
    let mut broker = Running::with(Setup { doors, ..Setup::default() }).await;
    let mut stays = enter(&mut road(broker.address, &authority, None), "stays").await;
    let certificate = home.join("server.crt");
    let mut old = shown(&authority, broker.address).await;
    for wrong in [None, Some("half of a certifi")] {
        match wrong {
            None => std::fs::remove_file(&certificate).unwrap(),
            Some(text) => std::fs::write(&certificate, text).unwrap(),
        }
        broker.control.reload_certificates();
        let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
        assert_eq!((told.event, told.phase), ("certificate_unusable", Phase::Active), "{}", told.detail);
        assert!(told.detail.contains("the last good files stay in use"), "{}", told.detail);
        stays.ping().await;
        assert_eq!(shown(&authority, broker.address).await, old);
        enter(&mut road(broker.address, &authority, None), "new").await.ping().await;
        assert!(all_open(&broker));

        put(&authority, home);
        broker.control.reload_certificates();
        let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
        assert_eq!((told.event, told.phase), ("certificate_unusable", Phase::Cleared), "{}", told.detail);
        let renewed = async || Some(shown(&authority, broker.address).await).filter(|now| *now != old);
        old = answer("the renewed one is shown", renewed).await;
        stays.ping().await;
    }
    no_notice(&mut broker);
}
