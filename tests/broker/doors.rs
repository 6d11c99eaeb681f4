//! Doors of other kinds: websocket, plain and secure, unix sockets, one interface only, and the limits of all.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::patience::answer;
use crate::skip::skipped;
use crate::support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use ironbridge::config::plan::{Anonymous, BrokerLimits, Listen, ListenerPlan, Rate, WebsocketPlan};
use ironbridge::flow::notice::Phase;
use rumqttc::v5::mqttbytes::v5;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// CONNECT of MQTT 5 with the client id `bad`, clean start.
const CONNECT: [u8; 18] = [0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 3, b'b', b'a', b'd'];

fn plain() -> ListenerPlan {
    ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), Anonymous::ReadWrite)
}

fn websocket(origins: &[&str]) -> ListenerPlan {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    ListenerPlan { websocket: Some(WebsocketPlan { origins }), ..plain() }
}

async fn open(doors: Vec<ListenerPlan>, limits: BrokerLimits) -> Running {
    Running::with(Setup { doors, limits, ..Setup::default() }).await
}

/// Asks for the upgrade with these further lines; the status line, and the connection.
async fn ask(address: SocketAddr, path: &str, more: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time");
        head.push(byte.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

async fn upgraded(address: SocketAddr) -> TcpStream {
    let (head, stream) = ask(address, "/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the answer of RFC 6455, section 1.3: {head}");
    stream
}

/// A short frame as a client sends it; the mask is zero (section 5.3 asks for one, not for a good one).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0][..], payload].concat()
}

/// The next frame of the server; these are short.
async fn next_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("a frame in time").unwrap();
    let mut payload = vec![0; usize::from(head[1])];
    stream.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}

#[tokio::test]
async fn mqtt_in_frames_however_they_are_cut_with_pings_between_and_a_close_in_order() {
    let broker = open(vec![websocket(&[])], BrokerLimits::default()).await;
    let mut stream = upgraded(broker.address).await;
    // One packet in three frames, a ping between them; then two packets in one frame.
    for part in
        [frame(0x02, &CONNECT[..1]), frame(0x89, b"there?"), frame(0x00, &CONNECT[1..10]), frame(0x80, &CONNECT[10..])]
    {
        stream.write_all(&part).await.unwrap();
    }
    assert_eq!(next_frame(&mut stream).await, (0x8A, b"there?".to_vec()));
    let (first, connack) = next_frame(&mut stream).await;
    assert_eq!((first, connack[0], connack[3]), (0x82, 0x20, 0), "accepted");
    stream.write_all(&frame(0x82, &[0xC0, 0, 0xC0, 0])).await.unwrap();
    let mut pongs = Vec::new();
    while pongs.len() < 4 {
        pongs.extend(next_frame(&mut stream).await.1);
    }
    assert_eq!(pongs, [0xD0, 0, 0xD0, 0]);
    stream.write_all(&frame(0x88, &[0x03, 0xE8])).await.unwrap();
    assert_eq!(next_frame(&mut stream).await, (0x88, vec![0x03, 0xE8]));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
    broker.stop().await;
}

/// Writes these frames again and again, as fast as they are taken: until the connection is closed, or nobody is left to see it.
fn flood(stream: TcpStream, frames: &[u8]) -> std::thread::JoinHandle<()> {
    let many = frames.repeat(64 * 1024 / frames.len());
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    std::thread::spawn(move || {
        while std::time::Instant::now() < until && std::io::Write::write_all(&mut stream, &many).is_ok() {}
    })
}

#[tokio::test]
async fn control_frames_without_end_keep_nobody_waiting_be_it_behind_a_close_or_while_another_takes_over() {
    let broker = open(vec![websocket(&[])], BrokerLimits::default()).await;
    let mut good = upgraded(broker.address).await;
    good.write_all(&frame(0x82, &CONNECT)).await.unwrap();
    next_frame(&mut good).await;
    let other = [&CONNECT[..CONNECT.len() - 1], b"o"].concat();
    for before in [frame(0x88, &[0x03, 0xE8]), Vec::new()] {
        let mut stream = upgraded(broker.address).await;
        stream.write_all(&frame(0x82, &other)).await.unwrap();
        assert_eq!(next_frame(&mut stream).await.1[0], 0x20);
        stream.write_all(&before).await.unwrap();
        let flood = flood(stream, &frame(0x8A, b""));
        let mut heir = upgraded(broker.address).await;
        heir.write_all(&frame(0x82, &other)).await.unwrap();
        assert_eq!(next_frame(&mut heir).await.1[0], 0x20, "it takes over");
        good.write_all(&frame(0x82, &[0xC0, 0])).await.unwrap();
        assert_eq!(next_frame(&mut good).await.1, [0xD0, 0]);
        until("the flood has ended", || flood.is_finished()).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_text_frame_ends_that_connection_with_its_code_and_nobody_elses() {
    let broker = open(vec![websocket(&[])], BrokerLimits::default()).await;
    let mut good = upgraded(broker.address).await;
    good.write_all(&frame(0x82, &CONNECT)).await.unwrap();
    next_frame(&mut good).await;
    let mut text = upgraded(broker.address).await;
    text.write_all(&frame(0x81, b"hello")).await.unwrap();
    let (first, said) = next_frame(&mut text).await;
    assert_eq!((first, &said[..2]), (0x88, &[0x03, 0xEB][..]), "1003, RFC 6455, section 7.4.1");
    let mut unmasked = upgraded(broker.address).await;
    unmasked.write_all(&[0x82, 2, 0xC0, 0]).await.unwrap();
    let (first, said) = next_frame(&mut unmasked).await;
    assert_eq!((first, &said[..2]), (0x88, &[0x03, 0xEA][..]), "1002, section 5.1");
    good.write_all(&frame(0x82, &[0xC0, 0])).await.unwrap();
    assert_eq!(next_frame(&mut good).await.1, [0xD0, 0]);
    broker.stop().await;
}

#[tokio::test]
async fn a_page_from_elsewhere_is_not_let_in_a_listed_one_is_and_any_path_does() {
    let broker = open(vec![websocket(&["https://hmi.example"])], BrokerLimits::default()).await;
    let mqtt = "Sec-WebSocket-Protocol: mqtt\r\n";
    for (path, more, status) in [
        ("/", mqtt.to_owned(), "101"),
        ("/any/where?x=1", mqtt.to_owned(), "101"),
        ("/mqtt", format!("{mqtt}Origin: https://hmi.example\r\n"), "101"),
        ("/mqtt", format!("{mqtt}Origin: http://localhost:1880\r\n"), "101"),
        ("/mqtt", format!("{mqtt}Origin: https://evil.example\r\n"), "403"),
        ("/mqtt", format!("{mqtt}Origin: null\r\n"), "403"),
        ("/mqtt", "Sec-WebSocket-Protocol: chat\r\n".to_owned(), "400"),
        ("/mqtt", String::new(), "400"),
    ] {
        let (head, _) = ask(broker.address, path, &more).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {more}: {head}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn half_an_upgrade_and_silence_behind_one_keep_nobody_out() {
    let broker = open(vec![websocket(&[])], BrokerLimits::default()).await;
    let mut held = Vec::new();
    for n in 0..300 {
        held.push(match n % 3 {
            0 => TcpStream::connect(broker.address).await.unwrap(),
            1 => {
                let mut stream = TcpStream::connect(broker.address).await.unwrap();
                stream.write_all(b"GET /mqtt HTTP/1.1\r\nHost: loc").await.unwrap();
                stream
            }
            _ => upgraded(broker.address).await,
        });
    }
    let mut good = upgraded(broker.address).await;
    good.write_all(&frame(0x82, &CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut good).await.1[0], 0x20);
    drop(held);
    broker.stop().await;
}

#[tokio::test]
async fn a_unix_socket_is_for_owner_and_group_and_a_left_over_one_is_replaced_but_nothing_else_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("mqtt.sock");
    // Left over from a run that was cut off.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let door = |path: &std::path::Path| ListenerPlan { listen: Listen::Unix(path.to_owned()), ..plain() };
    let broker = open(vec![door(&path), plain()], BrokerLimits::default()).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (mut local, connack) = Client5::over(UnixStream::connect(&path).await.unwrap(), "local", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::Success);
    let mut other = Client5::connect(broker.addresses[1].unwrap(), "other", |_| {}).await;
    local.subscribe(filter("x", 1), None).await;
    assert_eq!(other.publish(message("x", 1, "1")).await, v5::PubAckReason::Success);
    assert_eq!(local.message().await.payload, "1");

    // Somebody listens there, or it is no socket: left alone, and told.
    let file = home.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    for taken in [&path, &file] {
        let mut second = open(vec![door(taken)], BrokerLimits::default()).await;
        let told = tokio::time::timeout(PATIENCE, second.notices.recv()).await.unwrap().unwrap();
        assert_eq!((told.event, told.phase), ("broker_listener_down", Phase::Active), "{told:?}");
        second.stop().await;
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    local.ping().await;
    assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    broker.stop().await;
    assert!(!path.exists(), "removed in the end");
}

#[tokio::test]
async fn a_door_on_one_interface_is_open_there_and_one_on_none_says_so() {
    let on = |name: &str| ListenerPlan { interface: Some(name.to_owned()), ..plain() };
    let mut broker = open(vec![on("lo"), on("nowhere0")], BrokerLimits::default()).await;
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.event, told.phase), ("broker_listener_down", Phase::Active));
    if broker.addresses[0].is_none() {
        skipped("a listener on one interface", &told.detail);
    } else {
        assert!(told.detail.contains("there is no interface nowhere0"), "{}", told.detail);
        Client5::connect(broker.address, "c", |_| {}).await.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn two_doors_with_one_address_and_different_interfaces_are_told_apart() {
    let on = |name: &str| ListenerPlan { interface: Some(name.to_owned()), ..plain() };
    let mut broker = open(vec![on("nowhere0"), on("nowhere1")], BrokerLimits::default()).await;
    let mut shut = Vec::new();
    for _ in 0..2 {
        let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
        assert_eq!((told.event, told.phase), ("broker_listener_down", Phase::Active));
        shut.push(told.subject);
    }
    shut.sort();
    assert!(shut[0].ends_with(" on nowhere0") && shut[1].ends_with(" on nowhere1"), "{shut:?}");
    broker.control.listen(vec![on("nowhere0")]).await;
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.phase, &told.subject), (Phase::Cleared, &shut[1]), "the other one is as shut as it was");
    broker.stop().await;
}

/// Is the next client turned away?
async fn is_full(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(stream.write_all(&CONNECT).await);
    let mut answer = [0; 2];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer");
    !matches!(read, Ok(1..))
}

#[tokio::test]
async fn all_places_together_and_the_rate_of_new_connections_are_limited_over_all_doors() {
    let limits = BrokerLimits { connections: 3, ..BrokerLimits::default() };
    let broker = open(vec![plain(), websocket(&[])], limits).await;
    let mut clients = Vec::new();
    for n in 0..2 {
        clients.push(broker.v5(&format!("c{n}")).await);
    }
    let web = upgraded(broker.addresses[1].unwrap()).await;
    assert!(is_full(broker.address).await);
    drop(web);
    answer("the place is free again", async || (!is_full(broker.address).await).then_some(())).await;
    for client in &mut clients {
        client.ping().await;
    }
    assert!(broker.publisher.stats().turned_away.get() >= 1);
    broker.stop().await;

    let broker = open(vec![plain()], BrokerLimits { rate: Rate(1), ..BrokerLimits::default() }).await;
    let begun = std::time::Instant::now();
    let mut let_in = 0_u32;
    for _ in 0..40 {
        let_in += u32::from(!is_full(broker.address).await);
    }
    let most = 6 + u32::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(
        (4..=most).contains(&let_in),
        "{let_in} of 40: four at once, the fifth is left to others, and one more each second"
    );
    broker.stop().await;
}

#[tokio::test]
async fn one_address_has_its_own_limit_and_this_box_has_none() {
    // What this machine is called from outside; packets to it stay inside. No packet is sent to find out.
    let outside = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Ok(IpAddr::V4(outside)) = outside.map(|address| address.ip()) else {
        skipped("the limit of one address", "this machine has no address besides loopback");
        return;
    };
    let any = ListenerPlan { listen: Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0))), ..plain() };
    let broker = open(vec![any], BrokerLimits { per_address: 2, ..BrokerLimits::default() }).await;
    let port = broker.address.port();
    let (there, here) = (SocketAddr::from((outside, port)), SocketAddr::from(([127, 0, 0, 1], port)));
    let _two = (Client5::connect(there, "a", |_| {}).await, Client5::connect(there, "b", |_| {}).await);
    if !outside.is_loopback() {
        assert!(is_full(there).await);
    }
    for n in 0..5 {
        Client5::connect(here, &format!("local/{n}"), |_| {}).await.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_bounds_of_one_client_are_the_configured_ones_and_it_is_told_of_them() {
    let limits = BrokerLimits {
        packet_bytes: 2048,
        inflight: 3,
        subscriptions: 2,
        queued_bytes: 64 << 10,
        ..BrokerLimits::default()
    };
    let broker = open(vec![plain()], limits).await;
    let (mut client, connack) = Client5::open(broker.address, "c", |_| {}).await;
    assert_eq!(connack.properties.unwrap().max_packet_size, Some(2048));
    let granted = v5::SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::AtLeastOnce);
    assert_eq!(client.subscribe(filter("a/#", 1), None).await, granted);
    assert_eq!(client.subscribe(filter("b/#", 1), None).await, granted);
    assert_eq!(client.subscribe(filter("c/#", 1), None).await, v5::SubscribeReasonCode::QuotaExceeded);
    let mut sender = broker.v5("sender").await;
    for n in 0..10 {
        sender.publish(message("a/x", 1, &n.to_string())).await;
    }
    let mut seen = Vec::new();
    for n in 0..3 {
        let message = client.message().await;
        assert_eq!(message.payload, n.to_string());
        seen.push(message.pkid);
    }
    client.ping().await; // three are on the way unacknowledged, and no fourth one came before the answer
    client.send(v5::Packet::PubAck(v5::PubAck::new(seen[0], None))).await;
    assert_eq!(client.message().await.payload, "3");
    sender.send(v5::Packet::Publish(message("a/x", 0, &"x".repeat(3000)))).await;
    assert_eq!(sender.disconnected().await, v5::DisconnectReasonCode::PacketTooLarge);
    broker.stop().await;
}
