//! Doors with TLS: who gets in with which certificate, what half-open handshakes do to others, and certificates that are
//! renewed while clients are connected.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority::{Authority, EXPIRED, FUTURE, VALID};
use crate::patience::answer;
use crate::ports::own_port;
use crate::support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{AclPlan, Anonymous, ClientCertificate, Listen, ListenerPlan, ListenerTls};
use ironbridge::flow::clock::{Clock, FakeTime, TimeSource};
use ironbridge::flow::notice::Phase;
use ironbridge::model::time::Boot;
use rumqttc::v5::mqttbytes::v5;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Secure = Client5<TlsStream<TcpStream>>;

/// Puts a server's certificate and key of this authority where the door looks for them.
pub fn put(authority: &Authority, at: &Path) {
    let (certificate, key) = authority.server_pem("localhost", VALID);
    std::fs::write(at.join("server.crt"), certificate).unwrap();
    std::fs::write(at.join("server.key"), key).unwrap();
    std::fs::set_permissions(at.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A door with TLS whose files lie there; `client_ca` is `clients.pem` beside them.
pub fn door(at: &Path, client_certificate: Option<ClientCertificate>, anonymous: Anonymous) -> ListenerPlan {
    let tls = ListenerTls {
        certificate: at.join("server.crt"),
        key: at.join("server.key"),
        client_ca: client_certificate.map(|_| at.join("clients.pem")),
        client_certificate: client_certificate.unwrap_or_default(),
    };
    ListenerPlan { tls: Some(tls), ..ListenerPlan::plain(SocketAddr::from(([127, 0, 0, 1], 0)), anonymous) }
}

async fn open(door: ListenerPlan) -> Running {
    let rule = |user: &str| AclPlan {
        user: user.to_owned(),
        read: vec!["own/#".to_owned()],
        write: vec!["own/#".to_owned()],
        operate: Vec::new(),
    };
    Running::with(Setup { doors: vec![door], acl: vec![rule("cert:pump"), rule("cert:valve")], ..Setup::default() })
        .await
}

/// A client's side: trusts this authority, shows this certificate.
pub fn config(authority: &Authority, own: Option<&(PathBuf, PathBuf)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    })
}

pub async fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

async fn enter(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> Secure {
    let (client, connack) = Client5::over(handshake(address, config).await.unwrap(), id, |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::Success, "{id}");
    client
}

/// Is it turned away in the handshake? In TLS 1.3 a client hears of it only when it reads.
async fn is_turned_away(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = handshake(address, config).await else { return true };
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("the broker does something");
    !matches!(read, Ok(1..))
}

#[tokio::test]
async fn a_door_with_tls_speaks_mqtt_behind_1_2_and_1_3_and_takes_no_older_one() {
    let authority = Authority::new();
    put(&authority, authority.home.path());
    let broker = open(door(authority.home.path(), None, Anonymous::ReadWrite)).await;
    let newest = config(&authority, None);
    let mut first = enter(broker.address, &newest, "1.3").await;
    assert_eq!(first.stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let older = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut second = enter(broker.address, &Arc::new(older), "1.2").await;
    assert_eq!(second.stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    first.subscribe(filter("x", 1), None).await;
    let large = "x".repeat(300_000);
    assert_eq!(second.publish(message("x", 1, &large)).await, v5::PubAckReason::Success);
    assert_eq!(first.message().await.payload.len(), large.len());

    // TLS 1.1, RFC 4346, section 7.4.1.2: record, handshake, version 3.2, random, no session, one suite, no compression.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xC0, 0x13, 1, 0]);
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // A fatal alert (RFC 5246, section 7.2): handshake_failure or protocol_version.
    assert!(matches!(answer[..], [0x15, 3, _, 0, 2, 2, 40 | 70]), "{answer:?}");

    // Plain MQTT at a door with TLS, and the door of a stranger's trust.
    let mut plain = TcpStream::connect(broker.address).await.unwrap();
    plain.write_all(&[0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 3, b'b', b'a', b'd']).await.unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(&[0x20]), "no CONNACK without TLS");
    assert!(handshake(broker.address, &config(&Authority::new(), None)).await.is_err());
    first.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn only_certificates_of_the_clients_authority_open_a_door_that_asks_and_each_has_the_rights_of_its_name() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    put(&authority, authority.home.path());
    std::fs::copy(authority.ca_file(), authority.home.path().join("clients.pem")).unwrap();
    let broker = open(door(authority.home.path(), Some(ClientCertificate::Required), Anonymous::None)).await;
    let own = |name: &str, years| config(&authority, Some(&authority.client(name, years)));
    let mut pump = enter(broker.address, &own("pump", VALID), "any id").await;
    let mut stranger = enter(broker.address, &own("stranger", VALID), "other").await;
    let refused = v5::PubAckReason::NotAuthorized;
    assert_ne!(pump.publish(message("own/x", 1, "1")).await, refused);
    assert_eq!(pump.publish(message("other/x", 1, "1")).await, refused);
    assert_eq!(stranger.publish(message("own/x", 1, "1")).await, refused);
    let theirs = foreign.client("pump", VALID);
    for (who, config) in [
        ("without one", config(&authority, None)),
        ("of another authority", config(&authority, Some(&theirs))),
        ("that has ended", own("late", EXPIRED)),
    ] {
        assert!(is_turned_away(broker.address, &config).await, "{who}");
    }
    // A client that is already connected by this name keeps its session: another identity cannot have it.
    let stream = handshake(broker.address, &own("valve", VALID)).await.unwrap();
    let (_, connack) = Client5::over(stream, "any id", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::ClientIdentifierNotValid);
    pump.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn where_a_certificate_is_optional_one_may_come_without_but_not_with_a_bad_one() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    put(&authority, authority.home.path());
    std::fs::copy(authority.ca_file(), authority.home.path().join("clients.pem")).unwrap();
    let broker = open(door(authority.home.path(), Some(ClientCertificate::Optional), Anonymous::Read)).await;
    let mut nobody = enter(broker.address, &config(&authority, None), "nobody").await;
    assert_eq!(nobody.publish(message("own/x", 1, "1")).await, v5::PubAckReason::NotAuthorized);
    let known = config(&authority, Some(&authority.client("pump", VALID)));
    assert_ne!(
        enter(broker.address, &known, "pump").await.publish(message("own/x", 1, "1")).await,
        v5::PubAckReason::NotAuthorized
    );
    let bad = config(&authority, Some(&foreign.client("pump", VALID)));
    assert!(is_turned_away(broker.address, &bad).await);
    broker.stop().await;
}

#[tokio::test]
async fn silent_and_half_open_handshakes_keep_nobody_out() {
    let authority = Authority::new();
    put(&authority, authority.home.path());
    let broker = open(door(authority.home.path(), None, Anonymous::ReadWrite)).await;
    let config = config(&authority, None);
    let mut held = Vec::new();
    for n in 0..400_u32 {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3]).await.unwrap(); // a ClientHello begins
        }
        held.push(stream);
        if n % 50 == 0 {
            enter(broker.address, &config, &format!("good/{n}")).await.ping().await;
        }
    }
    enter(broker.address, &config, "good").await.ping().await;
    drop(held);
    broker.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_serves_the_next_client_and_who_is_connected_stays() {
    let (first, second) = (Authority::new(), Authority::new());
    put(&first, first.home.path());
    let broker = open(door(first.home.path(), None, Anonymous::ReadWrite)).await;
    let mut old = enter(broker.address, &config(&first, None), "old").await;
    // Half of a renewed pair is no pair: the last good one stays in use.
    let (certificate, key) = second.server_pem("localhost", VALID);
    std::fs::write(first.home.path().join("server.crt"), certificate).unwrap();
    broker.control.reload_certificates();
    let mut broker = broker;
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.event, told.phase), ("certificate_unusable", Phase::Active), "{told:?}");
    enter(broker.address, &config(&first, None), "meanwhile").await.ping().await;
    std::fs::write(first.home.path().join("server.key"), key).unwrap();
    broker.control.reload_certificates();
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.event, told.phase), ("certificate_unusable", Phase::Cleared), "{told:?}");
    let renewed = config(&second, None);
    answer("the renewed certificate is shown", async || handshake(broker.address, &renewed).await.ok()).await;
    enter(broker.address, &renewed, "new").await.ping().await;
    old.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn of_connected_clients_only_those_go_whose_authority_has_gone_also_in_the_middle_of_a_handshake() {
    let (authority, other) = (Authority::new(), Authority::new());
    put(&authority, authority.home.path());
    let trusted = authority.home.path().join("clients.pem");
    std::fs::write(&trusted, authority.pem() + &other.pem()).unwrap();
    let broker = open(door(authority.home.path(), Some(ClientCertificate::Required), Anonymous::None)).await;
    let (pump, valve) = (authority.client("pump", VALID), other.client("valve", VALID));
    let (pump, valve) = (config(&authority, Some(&pump)), config(&authority, Some(&valve)));
    let (mut stays, mut goes) =
        (enter(broker.address, &pump, "stays").await, enter(broker.address, &valve, "goes").await);
    // Another of those who are about to go has begun its handshake and not ended it.
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    let slow = tokio::spawn(TlsConnector::from(Arc::clone(&valve)).connect(name, near));
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let mut hello = [0; 4096];
    let length = far.read(&mut hello).await.unwrap();
    stream.write_all(&hello[..length]).await.unwrap();
    stream.readable().await.unwrap(); // the server has answered, by what it trusts now

    std::fs::write(&trusted, authority.pem()).unwrap();
    broker.control.reload_certificates();
    assert_eq!(goes.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
    stays.ping().await;
    assert!(is_turned_away(broker.address, &valve).await);
    let relay = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut stream).await });
    if let Ok(mut late) = slow.await.unwrap() {
        let read = tokio::time::timeout(PATIENCE, late.read(&mut [0])).await.expect("the broker hangs up");
        assert!(!matches!(read, Ok(1..)), "a handshake that began before must not get in");
    }
    relay.abort();
    enter(broker.address, &pump, "again").await.ping().await;
    stays.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_door_whose_key_is_missing_opens_when_it_is_there_and_says_both() {
    let authority = Authority::new();
    put(&authority, authority.home.path());
    let (key, aside) = (authority.home.path().join("server.key"), authority.home.path().join("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let mut broker = open(door(authority.home.path(), None, Anonymous::ReadWrite)).await;
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.event, told.phase), ("broker_certificate_missing", Phase::Active));
    assert!(told.detail.contains("server.key"), "{}", told.detail);
    assert_eq!(broker.addresses, [None]);
    std::fs::rename(&aside, &key).unwrap();
    broker.control.reload_certificates();
    let told = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
    assert_eq!((told.event, told.phase), ("broker_certificate_missing", Phase::Cleared));
    broker.stop().await;
}

#[tokio::test]
async fn a_door_whose_port_is_taken_is_told_to_be_shut_until_it_is_open_whatever_becomes_of_its_certificate_meanwhile()
{
    let authority = Authority::new();
    let put = |years| {
        let (certificate, key) = authority.server_pem("localhost", years);
        std::fs::write(authority.home.path().join("server.crt"), certificate).unwrap();
        let at = authority.home.path().join("server.key");
        std::fs::write(&at, key).unwrap();
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put((2020, 2036));
    let taken = std::net::TcpListener::bind(("127.0.0.1", own_port())).unwrap();
    let listen = Listen::Tcp(taken.local_addr().unwrap());
    let door = ListenerPlan { listen, ..door(authority.home.path(), None, Anonymous::ReadWrite) };
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(Arc::clone(&time) as Arc<dyn TimeSource>, Boot(1), 0);
    let mut broker = Running::with(Setup { doors: vec![door], clock, ..Setup::default() }).await;
    let mut told = async || {
        let notice = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.unwrap().unwrap();
        (notice.event, notice.phase)
    };
    assert_eq!(told().await, ("broker_listener_down", Phase::Active));
    time.advance(Duration::from_secs(10 * 366 * 86_400)); // from 2027
    broker.control.reload_certificates();
    assert_eq!(told().await, ("broker_certificate_missing", Phase::Active));
    put(FUTURE);
    broker.control.reload_certificates();
    assert_eq!(told().await, ("broker_certificate_missing", Phase::Cleared));
    drop(taken);
    assert_eq!(told().await, ("broker_listener_down", Phase::Cleared));
    broker.stop().await;
}
