//! MQTT over QUIC beside TLS over TCP, in bytes on the wire: `cargo bench --profile dev --bench quic` (bytes do
//! not depend on the profile).
//!
//! Our uplink's road and our listener, in one process, on loopback: IP and transport headers, handshakes, acknowledgements
//! and farewells, both directions, as the road's meter has them (for TCP that is the kernel's own count, for QUIC each
//! datagram; tests/road and tests/quic hold both against what went over the wire). Certificates are ECDSA on P-256, chains
//! of one. A reconnect is CONNECT, CONNACK, one publish of QoS 1 with 130 bytes, DISCONNECT. A day of idling is `PINGS` keep
//! alives, measured, times as many as a day has. What is large goes by TCP in packets of 64 KB, which only loopback has: on a
//! real link its headers are 44 times as many.

#![allow(clippy::unwrap_used)] // a bench fails by panicking
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/broker.rs"]
mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use authority::{Authority, VALID};
use ironbridge::config::plan::{AclPlan, Anonymous, ClientCertificate, Listen, ListenerPlan, ListenerTls};
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Destination, TlsFiles};
use ironbridge::road::{Now, Road};
use rumqttc::v5::mqttbytes::v5;
use support::{Client5, Running, Setup, message, until};
use tokio::net::UnixStream;

const RECONNECTS: u64 = 10;
const PINGS: u64 = 50;
const DAY: u64 = 86_400;
const LARGE: usize = 1_000_000;

/// What was measured of one transport, bytes.
struct Measured {
    first: u64,
    ten: u64,
    ping: f64,
    large: u64,
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn open(authority: &Authority, clients: Option<ClientCertificate>) -> Running {
    let at = authority.home.path();
    let (certificate, key) = authority.server_pem("127.0.0.1", VALID);
    std::fs::write(at.join("server.crt"), certificate).unwrap();
    std::fs::write(at.join("server.key"), key).unwrap();
    std::fs::set_permissions(at.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let tls = Some(ListenerTls {
        certificate: at.join("server.crt"),
        key: at.join("server.key"),
        client_ca: clients.map(|_| authority.ca_file()),
        client_certificate: clients.unwrap_or_default(),
    });
    let anonymous = if clients.is_some() { Anonymous::None } else { Anonymous::ReadWrite };
    let tcp = ListenerPlan { tls, ..ListenerPlan::plain(any(), anonymous) };
    let quic = ListenerPlan { listen: Listen::Quic(any()), ..tcp.clone() };
    let own = AclPlan {
        user: "cert:gw".to_owned(),
        read: vec!["own/#".to_owned()],
        write: vec!["own/#".to_owned()],
        operate: Vec::new(),
    };
    Running::with(Setup { doors: vec![tcp, quic], acl: vec![own], ..Setup::default() }).await
}

/// The stream, and who carries its bytes.
async fn enter(road: &mut Road) -> (Client5<UnixStream>, tokio::task::JoinHandle<ironbridge::road::RelayEnd>) {
    let relay = road.open().await.unwrap();
    let socket = relay.socket();
    let relay = tokio::spawn(relay.run());
    let (client, _) = Client5::over(UnixStream::connect(socket).await.unwrap(), "gw", |_| {}).await;
    (client, relay)
}

async fn leave(
    (mut client, relay): (Client5<UnixStream>, tokio::task::JoinHandle<ironbridge::road::RelayEnd>),
    broker: &Running,
) {
    client.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
    drop(client);
    relay.await.unwrap();
    until("it has gone", || broker.publisher.stats().clients.get() == 0).await;
    // The last datagrams of a QUIC connection are sent by nobody who could be waited for.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}

async fn measure(url: &str, files: TlsFiles, broker: &Running) -> Measured {
    let run_dir = tempfile::tempdir().unwrap();
    let now = Wall { unix_ms: 1_800_000_000_000, certainty: Certainty::Fixed };
    let to = Destination::from_url(url, Some(files)).unwrap();
    let mut road = Road::new(to, Now::new(move || now), run_dir.path().to_owned());
    let meter = road.meter();
    let total = || meter.snapshot().total();
    let mut connects = Vec::new();
    for _ in 0..=RECONNECTS {
        let before = total();
        let (mut client, relay) = enter(&mut road).await;
        client.publish(message("own/x", 1, &"x".repeat(130))).await;
        leave((client, relay), broker).await;
        connects.push(total() - before);
    }
    let (mut client, relay) = enter(&mut road).await;
    client.ping().await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await; // the kernel is asked once a second
    let before = total();
    for _ in 0..PINGS {
        client.ping().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await; // each confirmed by itself, as a minute apart
    }
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let ping = (total() - before) as f64 / PINGS as f64;
    let before = total();
    client.publish(message("own/x", 1, &"x".repeat(LARGE))).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let large = total() - before;
    leave((client, relay), broker).await;
    Measured { first: connects[0], ten: connects[1..].iter().sum(), ping, large }
}

#[tokio::main]
async fn main() {
    println!(
        "bytes on the wire, both directions              first   10 reconnects   a ping   a day at 60 s   at 300 s   1 MB"
    );
    for (what, clients) in [("", None), (", client certificates", Some(ClientCertificate::Required))] {
        let authority = Authority::new();
        let broker = open(&authority, clients).await;
        let identity: Option<(PathBuf, PathBuf)> = clients.map(|_| authority.client("gw", VALID));
        for (name, scheme, door) in [("TLS over TCP", "mqtts", 0), ("QUIC", "quic", 1)] {
            let url = format!("{scheme}://{}", broker.addresses[door].unwrap());
            let files = TlsFiles { ca_file: authority.ca_file(), identity: identity.clone() };
            let Measured { first, ten, ping, large } = measure(&url, files, &broker).await;
            let day = |seconds: u64| ping * (DAY / seconds) as f64;
            println!(
                "{:<45} {first:>7} {ten:>15} {ping:>8.0} {:>15.0} {:>10.0} {large:>8}",
                format!("{name}{what}"),
                day(60),
                day(300)
            );
        }
    }
}
