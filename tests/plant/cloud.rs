//! The simulated cloud and the link before it.
#![cfg(feature = "demo")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::plant::cloud::Cloud;
use ironbridge::plant::cloud::front::ClientCertificate;
use ironbridge::plant::link::{Link, LinkState};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// CONNECT, MQTT 3.1.1, clean session, keep alive 60 s, client id "a"; answered with CONNACK 0.
const CONNECT: [u8; 15] = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'a'];
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

fn client(id: &str, address: SocketAddr) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
    options.set_inflight(100);
    AsyncClient::new(options, 10)
}

/// A TLS handshake and a CONNECT; `Ok` is the CONNACK.
async fn knock(cloud: &Cloud, address: SocketAddr, identity: bool) -> std::io::Result<[u8; 4]> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cloud.files().ca).expect("PEM")).expect("authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    let config = if identity {
        let certificate = CertificateDer::from_pem_file(&cloud.files().client_certificate).expect("PEM");
        let key = PrivateKeyDer::from_pem_file(&cloud.files().client_key).expect("PEM");
        builder.with_client_auth_cert(vec![certificate], key).expect("identity")
    } else {
        builder.with_no_client_auth()
    };
    let name = ServerName::try_from("localhost").expect("name");
    let stream = TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(&CONNECT).await?;
    let mut answer = [0u8; 4];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_cloud_speaks_mqtt_behind_tls_and_asks_for_a_certificate_when_told() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let open = Cloud::start(&folder.path().join("open"), ClientCertificate::None).await.expect("cloud");
    assert_eq!(knock(&open, open.address(), false).await.expect("open door"), CONNACK);
    let strict = Cloud::start(&folder.path().join("strict"), ClientCertificate::Required).await.expect("cloud");
    assert!(knock(&strict, strict.address(), false).await.is_err());
    assert_eq!(knock(&strict, strict.address(), true).await.expect("with certificate"), CONNACK);
    let silent = TcpStream::connect(strict.address()).await.expect("connects");
    assert_eq!(knock(&strict, strict.address(), true).await.expect("beside a silent one"), CONNACK);
    drop(silent);
}

#[tokio::test]
async fn a_new_broker_behind_the_door_throws_everybody_out() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let cloud = Cloud::start(folder.path(), ClientCertificate::None).await.expect("cloud");
    let before = cloud.plain_address();
    cloud.restart_broker().await.expect("second broker");
    assert_ne!(cloud.plain_address(), before);
    assert_eq!(knock(&cloud, cloud.address(), false).await.expect("open door"), CONNACK);
}

#[tokio::test]
async fn a_cut_link_resets_and_a_black_hole_says_nothing() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let cloud = Cloud::start(folder.path(), ClientCertificate::None).await.expect("cloud");
    let link = Link::to(cloud.plain_address()).await.expect("link");
    let mut stream = TcpStream::connect(link.address()).await.expect("connects");
    let mut answer = [0u8; 4];
    stream.write_all(&CONNECT).await.expect("writes");
    stream.read_exact(&mut answer).await.expect("CONNACK");
    assert_eq!((link.stats().bytes_up.get(), link.stats().bytes_down.get()), (15, 4));

    link.set(LinkState::BlackHole);
    stream.write_all(&[0xC0, 0]).await.expect("a black hole takes everything"); // PINGREQ
    let mut pong = [0u8; 2];
    assert!(timeout(Duration::from_millis(200), stream.read_exact(&mut pong)).await.is_err());
    link.set(LinkState::Up);
    stream.read_exact(&mut pong).await.expect("the answer was only late");
    assert_eq!(pong, [0xD0, 0]);

    link.set(LinkState::Cut);
    let error = stream.read_exact(&mut pong).await.expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut refused = TcpStream::connect(link.address()).await.expect("the relay is there");
    assert!(refused.read_exact(&mut pong).await.is_err());
    link.set(LinkState::Up);
    assert_eq!(link.state(), LinkState::Up);
    TcpStream::connect(link.address()).await.expect("connects").write_all(&CONNECT).await.expect("up again");
    link.stop().await;
}

/// What the demo's verifier relies on: rumqttd does not overrun one QoS 1 subscriber that is slower than the publisher.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_a_whole_burst_behind_still_gets_all_of_it() {
    let burst: u32 = std::env::var("IRONBRIDGE_TEST_BURST").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let folder = tempfile::tempdir().expect("temporary directory");
    let cloud = Cloud::start(folder.path(), ClientCertificate::None).await.expect("cloud");
    let (subscriber, mut events) = client("verifier", cloud.plain_address());
    subscriber.subscribe("#", QoS::AtLeastOnce).await.expect("asked");
    while !matches!(events.poll().await.expect("broker"), Event::Incoming(Packet::SubAck(_))) {}

    // Nobody polls the subscriber while the whole burst is published and acknowledged.
    let (publisher, mut sent) = client("gateway", cloud.plain_address());
    let acknowledged = tokio::spawn(async move {
        let mut count = 0;
        while count < burst {
            if let Event::Incoming(Packet::PubAck(_)) = sent.poll().await.expect("broker") {
                count += 1;
            }
        }
    });
    for number in 0..burst {
        let payload =
            format!("{{\"value\":12.5,\"quality\":\"good\",\"time\":\"2026-11-20T20:00:00.123Z\",\"seq\":{number}}}");
        publisher
            .publish(format!("plant/pump-{}/pressure", number % 50), QoS::AtLeastOnce, false, payload)
            .await
            .expect("queued");
    }
    acknowledged.await.expect("all acknowledged");

    let mut seen = vec![false; burst as usize];
    while !seen.iter().all(|seen| *seen) {
        let event =
            timeout(Duration::from_secs(120), events.poll()).await.expect("nothing more comes").expect("broker");
        if let Event::Incoming(Packet::Publish(publish)) = event {
            let text = std::str::from_utf8(&publish.payload).expect("JSON");
            let number: usize = text.rsplit(':').next().expect("seq").trim_end_matches('}').parse().expect("number");
            seen[number] = true;
        }
    }
}
