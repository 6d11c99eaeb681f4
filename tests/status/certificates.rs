//! The certificates of page and doors: their end is told ahead, and new ones are shown while the gateway runs.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{Authority, VALID};
use crate::gateway::{PATIENCE, until};
use crate::health::trusting;
use crate::visit::Site;
use crate::web::ask;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn an_end_that_comes_near_is_told_for_page_and_door_and_a_reload_shows_the_renewed_certificate() {
    let (authority, keys) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| keys.path().join(name);
    let put = |(certificate, key): (String, String)| {
        std::fs::write(path("box.crt"), &certificate).unwrap();
        std::fs::write(path("box.key"), key).unwrap();
        std::fs::set_permissions(path("box.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
    };
    let ending = put(authority.server_pem_ending("localhost", 20 * DAY));
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}\n", path("box.crt"), path("box.key"));
    let site = Site::with(|text| {
        text.replacen("name = \"gw\"\n", "name = \"gw\"\ntime_source = \"system\"\n", 1)
            .replacen("anonymous = \"read\"\n", &tls, 1)
            .replacen("[[bus]]", &format!("[[broker.listener]]\nlisten = \"127.0.0.1:0\"\n{tls}[[bus]]"), 1)
    })
    .await;
    until("it is told", || site.daemon.times_said("certificate ends soon") == 2).await;

    let connector = TlsConnector::from(trusting(&authority));
    let open = async || {
        let stream = TcpStream::connect(site.page).await.unwrap();
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    };
    let told = async |stream: TlsStream<TcpStream>, state: &str| {
        let login = "Authorization: Basic aG1pOmhtaQ==\r\n"; // hmi:hmi
        let request = format!("GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{login}\r\n");
        let board = ask(stream, &request).await.json();
        let is_it = |event: &&Json| event["event"] == "certificate_expiring" && event["state"] == state;
        board["events"].as_array().unwrap().iter().filter(is_it).count()
    };
    assert_eq!(shown(&open().await), ending);
    assert_eq!(told(open().await, "active").await, 2);
    let there_before = open().await;

    let renewed = put(authority.server_pem("localhost", VALID));
    site.daemon.signal(Signal::HUP);
    until("both have the new one", || site.daemon.times_said("renewed certificates are in use") == 2).await;
    told(there_before, "cleared").await; // who is connected stays
    assert_eq!(shown(&open().await), renewed);
    let begun = Instant::now();
    while told(open().await, "cleared").await != 2 {
        assert!(begun.elapsed() < PATIENCE, "both are renewed"); // a board is shown for a moment
    }
    assert_eq!(site.daemon.stop().await, Some(0));
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}
