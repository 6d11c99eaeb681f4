//! Long messages through every kind of door: whole, in order, also for one who reads slowly.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority::Authority;
use crate::support;
use crate::tls;

use std::net::SocketAddr;

use ironbridge::config::plan::{Anonymous, ListenerPlan, WebsocketPlan};
use rumqttc::v5::mqttbytes::{QoS, v5};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// Around what a TLS record, a buffer and a frame of a websocket hold, and far beyond.
const LENGTHS: [usize; 9] = [1, 125, 126, 16_384, 16_385, 65_535, 65_536, 262_144, 900_000];

/// The bytes of a message; no two alike.
fn payload(number: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 31 + at / 251 + number) % 256).unwrap();
    (0..LENGTHS[number % LENGTHS.len()]).map(byte).collect()
}

/// Takes what comes out of its frames (RFC 6455, section 5.2).
async fn unframe(mut from: ReadHalf<impl AsyncRead>, mut to: WriteHalf<DuplexStream>) {
    while let Ok(first) = from.read_u8().await {
        assert_eq!(first & 0x70, 0, "no extension was agreed on");
        let length = match from.read_u8().await.unwrap() {
            126 => u64::from(from.read_u16().await.unwrap()),
            127 => from.read_u64().await.unwrap(),
            length => u64::from(length),
        };
        let mut part = vec![0; usize::try_from(length).unwrap()];
        from.read_exact(&mut part).await.unwrap();
        if matches!(first & 0x0F, 0 | 2) && to.write_all(&part).await.is_err() {
            return;
        }
    }
}

/// Puts what is sent into frames; the mask is zero.
async fn frame(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<impl AsyncWrite>) {
    let mut part = [0; 125];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let head = [0x82, 0x80 | u8::try_from(length).unwrap(), 0, 0, 0, 0];
        if to.write_all(&[&head, &part[..length]].concat()).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// What a websocket carries, as a stream.
async fn websocket(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> DuplexStream {
    let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let (ours, theirs) = tokio::io::duplex(4096);
    let ((from, to), (into, out)) = (tokio::io::split(stream), tokio::io::split(theirs));
    tokio::spawn(unframe(from, out));
    tokio::spawn(frame(into, to));
    ours
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

#[tokio::test]
async fn long_messages_come_whole_and_in_order_through_every_kind_of_door_at_every_qos() {
    let authority = Authority::new();
    tls::put(&authority, authority.home.path());
    let plain = ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), Anonymous::ReadWrite);
    let secure = tls::door(authority.home.path(), None, Anonymous::ReadWrite);
    let web = Some(WebsocketPlan { origins: Vec::new() });
    let doors = vec![
        plain.clone(),
        secure.clone(),
        ListenerPlan { websocket: web.clone(), ..plain },
        ListenerPlan { websocket: web, ..secure },
    ];
    let broker = Running::with(Setup { doors, write: vec!["long/#".to_owned()], ..Setup::default() }).await;
    let at = |door: usize| broker.addresses[door].unwrap();
    let config = tls::config(&authority, None);
    let mut publisher = broker.v5("publisher").await;
    for qos in 0..=2 {
        let streams: [Box<dyn Stream>; 4] = [
            Box::new(TcpStream::connect(at(0)).await.unwrap()),
            Box::new(tls::handshake(at(1), &config).await.unwrap()),
            Box::new(websocket(TcpStream::connect(at(2)).await.unwrap()).await),
            Box::new(websocket(tls::handshake(at(3), &config).await.unwrap()).await),
        ];
        let mut readers = Vec::new();
        for (door, stream) in streams.into_iter().enumerate() {
            let (mut reader, connack) = Client5::over(stream, &format!("reader-{door}"), |_| {}).await;
            assert_eq!(connack.code, v5::ConnectReturnCode::Success);
            reader.subscribe(filter("long/x", qos), None).await;
            readers.push(reader);
        }
        // Nobody reads meanwhile: what does not fit into the sockets waits in the broker.
        for number in 0..LENGTHS.len() {
            let sent = v5::Publish { payload: payload(number).into(), ..message("long/x", 1, "") };
            assert_eq!(publisher.publish(sent).await, v5::PubAckReason::Success);
        }
        for (door, reader) in readers.iter_mut().enumerate() {
            for number in 0..LENGTHS.len() {
                let seen = reader.message().await;
                assert!(seen.payload == payload(number), "message {number} of door {door} at QoS {qos}");
                if seen.qos == QoS::AtLeastOnce {
                    reader.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
                }
            }
        }
        drop(readers);
    }
    broker.stop().await;
}
