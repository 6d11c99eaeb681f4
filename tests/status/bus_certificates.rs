//! The certificates of a bus with TLS: what check, events, health and metrics say of them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::Framing;
use ironbridge::model::tag::Table;
use ironbridge::plant::image::Image;
use ironbridge::plant::tcp::{Manner, TcpLine};
use ironbridge::plant::units::Units;
use rustix::process::Signal;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::{Authority, EXPIRED, VALID};
use crate::gateway::{Home, Plc, config, tag, until};
use crate::health::until_health;
use crate::web::get;

const DAY: Duration = Duration::from_secs(86_400);

/// A controller with one register behind TLS.
async fn controller(tls: Arc<ServerConfig>) -> Plc {
    let (units, mut image) = (Units::new(), Image::new());
    image.set_words(Table::Holding, 0, &[7]);
    units.insert(1, image);
    let manner = Manner { framing: Framing::Mbap, tls: Some(tls) };
    let line = TcpLine::serve_as(manner, ([127, 0, 0, 1], 0).into(), units.clone()).await.unwrap();
    Plc { line, units }
}

/// A gateway that reaches it with these files.
fn secured(plc: SocketAddr, ca_file: &Path, (certificate, key): &(PathBuf, PathBuf)) -> String {
    let (ca_file, certificate, key) = (ca_file.display(), certificate.display(), key.display());
    let files = format!("ca_file = \"{ca_file}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    let tls = format!("type = \"modbus-tls\"\n{files}server_name = \"localhost\"");
    plain(plc).replace("type = \"modbus-tcp\"", &tls)
}

fn plain(plc: SocketAddr) -> String {
    let text = config(plc).replacen("name = \"gw\"\n", "name = \"gw\"\ntime_source = \"system\"\n", 1);
    format!("{text}{}", tag("x", "holding:0", "uint16", ""))
}

/// What `check --strict` says, and its exit code.
fn checked(home: &Home) -> (String, Option<i32>) {
    let mut command = home.command(&["check", "--strict", "--config", "ironbridge.toml"]);
    let output = command.stdout(Stdio::piped()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn open_to(key: &Path, mode: u32) {
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_end_of_a_bus_certificate_is_told_ahead_by_check_log_health_and_metrics() {
    let authority = Authority::new();
    let plc = controller(authority.server("localhost", VALID)).await;
    let files = authority.client_ending("gw", 5 * DAY);
    let home = Home::new(&secured(plc.line.address(), &authority.ca_file(), &files));
    let (text, code) = checked(&home);
    assert!(text.contains("gw.crt ends soon, or has ended") && code == Some(1), "{text}");
    let daemon = home.run();
    let page = daemon.page().await;
    until("polled", || plc.requests() > 0).await;
    let noted = until_health(page, "it is noted", |answer| answer.body.contains("gw.crt ends in 4 days")).await;
    assert_eq!(noted.status, 200, "{noted:?}");
    let note = noted.json()["notes"].as_array().unwrap().iter().find(|note| note["part"] == "certificate").cloned();
    assert_eq!(note.unwrap()["name"], "bus line");
    assert!(daemon.said("certificate ends soon").is_some());
    let figures = get(page, "/metrics", "").await.body;
    assert!(figures.contains("ironbridge_bus_certificate_end_timestamp_seconds{bus=\"line\"} "), "{figures}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_bus_key_that_everybody_may_read_is_a_reason_until_it_is_mended_or_the_bus_is_gone() {
    let authority = Authority::new();
    let plc = controller(authority.server("localhost", VALID)).await;
    let files = authority.client("gw", VALID);
    open_to(&files.1, 0o644);
    let home = Home::new(&secured(plc.line.address(), &authority.ca_file(), &files));
    let (text, code) = checked(&home);
    assert!(text.contains("gw.key: everybody on this machine may use it") && code == Some(1), "{text}");
    let daemon = home.run();
    let page = daemon.page().await;
    let both = |answer: &crate::web::Answer| answer.body.matches("gw.key: everybody").count() == 2;
    let ill = until_health(page, "both are told", both).await;
    let reasons = ill.json()["reasons"].as_array().unwrap().clone();
    let told: Vec<_> = reasons.iter().map(|reason| (&reason["part"], &reason["name"])).collect();
    assert_eq!(told, [(&"certificate".into(), &"bus line".into()), (&"bus".into(), &"line".into())]);
    assert_eq!((ill.status, plc.requests()), (503, 0));
    open_to(&files.1, 0o600);
    until_health(page, "it is mended", |answer| answer.status == 200).await;
    until("polled", || plc.requests() > 0).await;
    assert_eq!(daemon.stop().await, Some(0));

    open_to(&files.1, 0o644);
    let daemon = home.run();
    let page = daemon.page().await;
    until_health(page, "it is told", |answer| answer.status == 503).await;
    home.configure(&plain(([127, 0, 0, 1], 9).into()));
    daemon.signal(Signal::HUP);
    until_health(page, "the bus is gone", |answer| answer.status == 200).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn an_expired_bus_certificate_never_stops_polling_and_is_a_reason() {
    let authority = Authority::new();
    // A controller that looks at no date, and so at no certificate of ours.
    let (certificate, key) = authority.server_pem("localhost", VALID);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let plc = controller(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())).await;
    let files = authority.client("gw", EXPIRED);
    let home = Home::new(&secured(plc.line.address(), &authority.ca_file(), &files));
    let (text, code) = checked(&home);
    assert!(text.contains("gw.crt has expired") && text.contains("shown all the same") && code == Some(1), "{text}");
    let daemon = home.run();
    until("polled", || plc.requests() > 0).await;
    let told = |answer: &crate::web::Answer| answer.body.contains("gw.crt has expired");
    let ill = until_health(daemon.page().await, "it is told", told).await;
    assert_eq!((ill.status, &ill.json()["reasons"][0]["part"]), (503, &"certificate".into()), "{ill:?}");
    assert_eq!(daemon.stop().await, Some(0));
}
