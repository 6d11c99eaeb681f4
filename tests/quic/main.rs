//! MQTT over QUIC: our uplink and our listener, with a router between them that loses datagrams, blocks them and changes
//! addresses.

#![cfg(feature = "quic")]

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/cloud.rs"]
mod cloud;
#[path = "../support/middlebox.rs"]
mod middlebox;
#[path = "../support/owed.rs"]
mod owed;
#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/uplink_rig.rs"]
mod rig;
#[path = "../support/broker.rs"]
mod support;
#[path = "../support/toll.rs"]
mod toll;

mod cost;
mod doors;
mod listener;
mod uplink;
mod words;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use authority::{Authority, VALID};
use ironbridge::config::plan::{Anonymous, ClientCertificate, Listen, ListenerPlan, ListenerTls};
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Destination, RoadError, TlsFiles};
use ironbridge::road::{Now, RelayEnd, Road};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Puts a server's certificate and key of this authority where the door looks for them.
fn put(authority: &Authority, at: &Path) {
    let (certificate, key) = authority.server_pem("127.0.0.1", VALID);
    std::fs::write(at.join("server.crt"), certificate).expect("written");
    std::fs::write(at.join("server.key"), key).expect("written");
    std::fs::set_permissions(at.join("server.key"), std::fs::Permissions::from_mode(0o600)).expect("made secret");
}

/// What the door shows, whose files lie there; `client_ca` is `clients.pem` beside them.
fn tls(at: &Path, client_certificate: Option<ClientCertificate>) -> ListenerTls {
    ListenerTls {
        certificate: at.join("server.crt"),
        key: at.join("server.key"),
        client_ca: client_certificate.map(|_| at.join("clients.pem")),
        client_certificate: client_certificate.unwrap_or_default(),
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A door for QUIC.
fn door(at: &Path, client_certificate: Option<ClientCertificate>, anonymous: Anonymous) -> ListenerPlan {
    let listen = Listen::Quic(any());
    ListenerPlan { listen, tls: Some(tls(at, client_certificate)), ..ListenerPlan::plain(any(), anonymous) }
}

/// A road to there that trusts this authority.
fn road(to: SocketAddr, authority: &Authority, identity: Option<(std::path::PathBuf, std::path::PathBuf)>) -> Road {
    let files = TlsFiles { ca_file: authority.ca_file(), identity };
    let to = Destination::from_url(&format!("quic://{to}"), Some(files)).expect("a URL");
    let now = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    Road::new(to, Now::new(move || now), authority.home.path().to_owned())
}

/// A connection through a road, as the MQTT client has it.
async fn line(road: &mut Road) -> Result<(UnixStream, JoinHandle<RelayEnd>), RoadError> {
    let relay = road.open().await?;
    let socket = relay.socket();
    let relay = tokio::spawn(relay.run());
    Ok((UnixStream::connect(socket).await.expect("the relay listens"), relay))
}
