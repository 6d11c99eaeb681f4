//! The way of the bytes: bound sockets, proxies with TLS inside, websockets, resumption, what it costs and how fast it may go.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::far;
use crate::skip::skipped;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Bind, Destination, Proxy, ProxyKind, RoadError, TlsFiles};
use ironbridge::road::login::LoginFiles;
use ironbridge::road::meter::{Meter, MeterReading};
use ironbridge::road::{Now, RelayEnd, Road};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::patience::until;
use crate::ports::own_port;
use authority::{Authority, FUTURE, VALID};
use far::Far;

fn road(to: Destination, home: &tempfile::TempDir) -> Road {
    let now = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    Road::new(to, Now::new(move || now), home.path().to_owned())
}

fn to(address: SocketAddr) -> Destination {
    Destination::plain(&address.ip().to_string(), address.port())
}

/// A connection through the road, as the MQTT client has it.
struct Line {
    stream: UnixStream,
    relay: JoinHandle<RelayEnd>,
}

impl Line {
    async fn open(road: &mut Road) -> Result<Self, RoadError> {
        let relay = road.open().await?;
        let socket = relay.socket();
        let relay = tokio::spawn(relay.run());
        Ok(Self { stream: UnixStream::connect(socket).await.unwrap(), relay })
    }

    /// Sends, and expects the same back.
    async fn echo(&mut self, bytes: usize) {
        let sent: Vec<u8> = (0..bytes).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let (mut reader, mut writer) = self.stream.split();
        let mut received = vec![0; bytes];
        let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
        written.unwrap();
        read.unwrap();
        assert!(received == sent, "what comes back is what was sent");
    }

    async fn close(mut self) {
        self.stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
        assert_eq!(self.relay.await.unwrap(), RelayEnd::Closed);
    }
}

#[tokio::test]
async fn a_source_address_is_what_the_server_sees() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::echo().await;
    let mut road = road(to(far.address), &home);
    road.go_by(Bind::Source([127, 0, 0, 2].into()), Arc::default());
    let mut line = Line::open(&mut road).await.unwrap();
    line.echo(100).await;
    line.close().await;
    assert_eq!(far.seen()[0].peer.ip().to_string(), "127.0.0.2");
}

#[tokio::test]
async fn an_interface_is_used_and_a_missing_one_or_a_foreign_address_is_said() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::echo().await;
    let mut road = road(to(far.address), &home);
    road.go_by(Bind::Interface("lo".into()), Arc::default());
    match Line::open(&mut road).await {
        Ok(mut line) => {
            line.echo(100).await;
            line.close().await;
        }
        Err(RoadError::Disabled(why)) => skipped("an uplink bound to an interface", &why),
        Err(other) => panic!("{other}"),
    }
    for (bind, expected) in [
        (Bind::Interface("nosuch0".into()), "nosuch0"),
        (Bind::Source([192, 0, 2, 1].into()), "source address 192.0.2.1"),
        (Bind::Source("2001:db8::1".parse().unwrap()), "no address that 2001:db8::1 can reach"),
    ] {
        road.go_by(bind, Arc::default());
        let Err(error) = road.open().await else { panic!("connected") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_name_with_two_addresses_is_reached_at_the_one_that_answers() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::echo().await; // on 127.0.0.1 alone, while localhost may also be ::1
    let mut road = road(Destination::plain("localhost", far.address.port()), &home);
    let mut line = Line::open(&mut road).await.unwrap();
    line.echo(100).await;
    line.close().await;
}

fn secured(authority: &Authority, port: u16) -> Destination {
    let identity = Some(authority.client("gw", VALID));
    let tls = TlsFiles { ca_file: authority.ca_file(), identity };
    Destination { tls: Some(tls), ..Destination::plain("broker.example.com", port) }
}

fn proxy(kind: ProxyKind, address: SocketAddr, home: &tempfile::TempDir) -> Proxy {
    let password = home.path().join("proxy.password");
    std::fs::write(&password, "secret\n").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let login = LoginFiles { username: Some("gw".into()), password_file: Some(password) };
    Proxy { kind, host: address.ip().to_string(), port: address.port(), login }
}

#[tokio::test]
async fn tls_with_the_brokers_own_name_goes_through_both_kinds_of_proxy() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("broker.example.com", VALID)).await;
    let (http, socks) = (Far::http_proxy(far.address).await, Far::socks_proxy(far.address).await);
    for (kind, by) in [(ProxyKind::Http, &http), (ProxyKind::Socks5, &socks)] {
        let proxy = Some(proxy(kind, by.address, &home));
        let mut road = road(Destination { proxy, ..secured(&authority, 8883) }, &home);
        let mut line = Line::open(&mut road).await.unwrap();
        line.echo(100_000).await;
        line.close().await;
    }
    let asked = http.seen()[0].asked.clone();
    assert!(asked.starts_with("CONNECT broker.example.com:8883 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic Z3c6c2VjcmV0\r\n"), "{asked}");
    assert_eq!(socks.seen()[0].asked, "gw secret broker.example.com", "the proxy resolves the name");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    let gone = SocketAddr::from(([127, 0, 0, 1], own_port())); // where nobody listens
    let proxy = Some(proxy(ProxyKind::Http, gone, &home));
    let mut road = road(Destination { proxy, ..Destination::plain("broker", 1883) }, &home);
    let Err(RoadError::Unreachable(why)) = road.open().await else { panic!("connected") };
    assert!(why.contains(&format!("proxy http://{gone}: cannot connect")), "{why}");
    assert!(!why.contains("secret"), "{why}");
}

#[tokio::test]
async fn websocket_tls_and_proxy_together_carry_a_megabyte_both_ways() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_websocket_echo(authority.server("broker.example.com", VALID)).await;
    let by = Far::http_proxy(far.address).await;
    let mut to = secured(&authority, 443);
    to.websocket = Some("/mqtt".into());
    to.proxy = Some(proxy(ProxyKind::Http, by.address, &home));
    let mut road = road(to, &home);
    let mut line = Line::open(&mut road).await.unwrap();
    for bytes in [1, 125, 126, 65_536, 1 << 20] {
        line.echo(bytes).await;
    }
    line.close().await;
}

#[tokio::test]
async fn sessions_are_resumed_until_ca_or_identity_change_and_alpn_is_offered() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut server = (*authority.server("127.0.0.1", VALID)).clone();
    server.alpn_protocols = vec![b"mqtt".to_vec(), b"x-amzn-mqtt-ca".to_vec()];
    server.send_tls13_tickets = 2;
    let far = Far::secure_echo(Arc::new(server)).await;
    let mut to = secured(&authority, far.address.port());
    (to.host, to.alpn) = ("127.0.0.1".into(), vec![b"x-amzn-mqtt-ca".to_vec()]);
    let mut road = road(to.clone(), &home);
    let mut costs = Vec::new();
    for _ in 0..3 {
        let before = road.meter().snapshot().total();
        let mut line = Line::open(&mut road).await.unwrap();
        line.echo(1).await; // the tickets have come before what comes back
        line.close().await;
        costs.push(road.meter().snapshot().total() - before);
    }
    println!("a connect with one byte each way, wire bytes: full {}, resumed {} and {}", costs[0], costs[1], costs[2]);
    let resumed = |far: &Far| far.seen().iter().map(|seen| seen.resumed).collect::<Vec<_>>();
    assert_eq!(resumed(&far), [false, true, true]);
    assert!(costs[1] * 4 < costs[0] * 3, "{costs:?}: no certificates");
    assert_eq!(far.seen()[0].alpn.as_deref(), Some(b"x-amzn-mqtt-ca".as_slice()));

    authority.client("gw", VALID); // writes another pair into the same files
    let mut line = Line::open(&mut road).await.unwrap();
    line.echo(1).await;
    line.close().await;
    let ca = std::fs::read_to_string(authority.ca_file()).unwrap();
    std::fs::write(authority.ca_file(), format!("{ca}\n{}", Authority::new().pem())).unwrap();
    for _ in 0..2 {
        let mut line = Line::open(&mut road).await.unwrap();
        line.echo(1).await;
        line.close().await;
    }
    assert_eq!(resumed(&far)[3..], [false, false, true], "another identity, another CA, and once more");
}

#[tokio::test]
async fn half_of_a_renewed_pair_leaves_the_last_good_one_in_force() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("127.0.0.1", VALID)).await;
    let mut to = secured(&authority, far.address.port());
    to.host = "127.0.0.1".into();
    let (certificate, key) = to.tls.as_ref().unwrap().identity.clone().unwrap();
    let mut road = road(to, &home);
    Line::open(&mut road).await.unwrap().close().await;
    assert_eq!((road.files().await.renewed, road.files().await.fault), (false, None));
    let old_key = std::fs::read(&key).unwrap();
    authority.client("gw", VALID);
    let new_key = std::fs::read(&key).unwrap();
    std::fs::write(&key, old_key).unwrap();
    let files = road.files().await;
    assert!(!files.renewed && files.fault.as_ref().unwrap().contains("do not work together"), "{files:?}");
    Line::open(&mut road).await.unwrap().close().await;
    std::fs::remove_file(&certificate).unwrap();
    Line::open(&mut road).await.unwrap().close().await;
    authority.client("gw", VALID);
    assert_ne!(std::fs::read(&key).unwrap(), new_key);
    let files = road.files().await;
    assert!(files.renewed && files.fault.is_none(), "{files:?}");
    Line::open(&mut road).await.unwrap().close().await;
    assert!(!road.files().await.renewed, "in use");
}

#[tokio::test]
async fn each_way_has_a_meter_of_its_own_and_the_road_counts_all() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::echo().await;
    let mut road = road(to(far.address), &home);
    let (first, second) = (Arc::<Meter>::default(), Arc::<Meter>::default());
    for (meter, source) in [(&first, [127, 0, 0, 2]), (&second, [127, 0, 0, 3])] {
        road.go_by(Bind::Source(source.into()), Arc::clone(meter));
        let mut line = Line::open(&mut road).await.unwrap();
        line.echo(100_000).await;
        let shown = || meter.snapshot().sent > 100_000 && meter.snapshot().received > 100_000;
        until("the meter shows it while connected", shown).await;
        line.close().await;
    }
    let (a, b, all) = (first.snapshot(), second.snapshot(), road.meter().snapshot());
    assert_eq!(all, MeterReading { sent: a.sent + b.sent, received: a.received + b.received });
    for reading in [a.sent, a.received, b.sent, b.received] {
        // handshake and farewell at least; on loopback segments are large, but there are acknowledgements
        assert!(reading > 100_000 + 200 && reading < 110_000, "{reading}");
    }
    let before = road.meter().snapshot().total();
    let probe = road.probe(Bind::System, Arc::default());
    probe.await.unwrap();
    let cost = road.meter().snapshot().total() - before;
    assert!((300..450).contains(&cost), "{cost} bytes for a probe");
}

#[tokio::test]
async fn a_pace_is_kept_on_the_wire_and_changed_while_bytes_flow() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::echo().await;
    let mut road = road(to(far.address), &home);
    let pace = road.pace();
    pace.set(Some(64 << 10));
    let mut line = Line::open(&mut road).await.unwrap();
    let began = Instant::now();
    line.echo(160 << 10).await;
    let elapsed = began.elapsed();
    let sent = road.meter().snapshot().sent;
    assert!(elapsed >= Duration::from_millis(2300), "{sent} bytes in {elapsed:?}");
    pace.set(Some(128)); // the rest would take two hours
    let faster = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        pace.set(None);
    };
    let ((), ()) = tokio::join!(line.echo(1 << 20), faster);
    line.close().await;
}

/// A road whose clock the test commands.
fn timed_road(to: Destination, home: &tempfile::TempDir, wall: Wall) -> (Road, Arc<Mutex<Wall>>) {
    let wall = Arc::new(Mutex::new(wall));
    let shown = Arc::clone(&wall);
    (Road::new(to, Now::new(move || *shown.lock().unwrap()), home.path().to_owned()), wall)
}

#[tokio::test]
async fn a_session_from_before_the_fix_does_not_excuse_a_certificate_that_the_fix_refuses() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("127.0.0.1", FUTURE)).await;
    let to = Destination { host: "127.0.0.1".into(), ..secured(&authority, far.address.port()) };
    let floor = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Floor };
    let (mut road, wall) = timed_road(to, &home, floor);
    let mut line = Line::open(&mut road).await.unwrap();
    line.echo(1).await;
    line.close().await;
    *wall.lock().unwrap() = Wall { certainty: Certainty::Fixed, ..floor };
    assert!(!road.files().await.renewed, "the clock is no renewed file");
    let opened = road.open().await.map(|_| ());
    assert!(matches!(&opened, Err(RoadError::Distrusted(why)) if why.contains("not valid yet")), "{opened:?}");
}

#[tokio::test]
async fn a_servers_certificate_that_has_ended_is_not_outlived_by_its_session() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("127.0.0.1", (2020, 2030))).await;
    let to = Destination { host: "127.0.0.1".into(), ..secured(&authority, far.address.port()) };
    // an hour before and an hour after 2030-01-01; a ticket is good for longer
    let hour = 3_600_000;
    let last = Wall { unix_ms: 1_893_456_000_000 - hour, certainty: Certainty::Fixed };
    let (mut road, wall) = timed_road(to, &home, last);
    for _ in 0..2 {
        let mut line = Line::open(&mut road).await.unwrap();
        line.echo(1).await;
        line.close().await;
    }
    assert!(far.seen()[1].resumed);
    *wall.lock().unwrap() = Wall { unix_ms: last.unix_ms + 2 * hour, ..last };
    let opened = road.open().await.map(|_| ());
    assert!(matches!(&opened, Err(RoadError::Distrusted(why)) if why.contains("expired")), "{opened:?}");
}

#[tokio::test]
async fn a_broker_that_never_hangs_up_does_not_keep_the_connection_of_a_client_that_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let far = Far::mute().await;
    let line = Line::open(&mut road(to(far.address), &home)).await.unwrap();
    drop(line.stream);
    tokio::time::pause(); // what follows is a matter of minutes
    let ended = tokio::time::timeout(Duration::from_secs(120), line.relay).await;
    assert_eq!(ended.expect("it ends").unwrap(), RelayEnd::Closed);
}

#[tokio::test]
async fn a_connect_that_is_given_up_is_paid_for_too() {
    let home = tempfile::tempdir().unwrap();
    // A queue for one, which is full: Linux takes no further SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let full = listener.local_addr().unwrap();
    let address = full.as_socket().unwrap();
    let waiting = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let queued: Vec<_> = std::iter::repeat_with(waiting).take(8).map_while(Result::ok).collect();
    assert!(queued.len() < 8, "the queue is full");
    let mut road = road(to(address), &home);
    let meter = road.meter();
    let given_up = tokio::time::timeout(Duration::from_millis(100), road.open()).await;
    assert!(given_up.is_err(), "nobody answers");
    assert_eq!(meter.snapshot(), MeterReading { sent: 60, received: 0 });
}

#[tokio::test]
async fn a_key_that_everybody_may_read_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("127.0.0.1", VALID)).await;
    let to = Destination { host: "127.0.0.1".into(), ..secured(&authority, far.address.port()) };
    let key = to.tls.clone().and_then(|tls| tls.identity).unwrap().1;
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    let mut road = road(to, &home);
    mode(0o644);
    let opened = road.open().await.map(|_| ());
    assert!(matches!(&opened, Err(RoadError::Disabled(why)) if why.contains("chmod 640")), "{opened:?}");
    assert_eq!(road.meter().snapshot().total(), 0);
    mode(0o640);
    Line::open(&mut road).await.unwrap().close().await;
}
