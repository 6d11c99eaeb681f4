//! A real configuration with doors of all four kinds, and what a reload does to those who are connected.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority::{Authority, VALID};
use crate::gateway;

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use gateway::mqtt::{self, Client5};
use gateway::{Daemon, Home, PATIENCE, Plc, config, tag, until};
use rumqttc::v5::mqttbytes::v5;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DOORS: &str = r#"
[broker]
users_file = "users"
[[broker.listener]]
listen = "127.0.0.1:0"
tls = { certificate = "server.crt", key = "server.key", client_ca = "clients.pem", client_certificate = "optional" }
[[broker.listener]]
listen = "127.0.0.1:0"
websocket = true
[[broker.listener]]
listen = "unix:mqtt.sock"
[[broker.acl]]
user = "hmi"
read = ["gw/#"]
[[broker.acl]]
user = "cert:scada"
read = ["gw/#"]
write = ["gw/+/+/set"]
"#;

/// Where its door of this kind listens.
async fn at(daemon: &Daemon, scheme: &str) -> SocketAddr {
    let what = format!("listener={scheme}://");
    until("the door is open", || daemon.said(&what).is_some()).await;
    let line = daemon.said(&what).unwrap();
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    address.parse().unwrap()
}

fn put_server(authority: &Authority, home: &Home) {
    let (certificate, key) = authority.server_pem("localhost", VALID);
    std::fs::write(home.path("server.key"), key).unwrap();
    std::fs::set_permissions(home.path("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(home.path("server.crt"), certificate).unwrap();
}

async fn secure(
    address: SocketAddr,
    ca: &Path,
    own: Option<(PathBuf, PathBuf)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

fn login(wishes: &mut mqtt::Wishes) {
    wishes.login = Some(v5::Login { username: "hmi".to_owned(), password: "secret".to_owned() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doors_of_all_kinds_are_open_and_a_reload_renews_certificates_and_drops_only_who_is_not_trusted_any_more() {
    let (authority, second) = (Authority::new(), Authority::new());
    let plc = Plc::start().await;
    let text = config(plc.line.address()) + &tag("level", "holding:0", "uint16", "") + DOORS;
    let home = Home::new(&text);
    put_server(&authority, &home);
    std::fs::write(home.path("clients.pem"), authority.pem() + &second.pem()).unwrap();
    let mut passwd = home.command(&["passwd", "users", "hmi"]).stdin(Stdio::piped()).spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(passwd.wait().unwrap().success());
    let mut daemon = home.run();

    let plain = Client5::connect(at(&daemon, "mqtt").await, "plain", |_| {}).await;
    let tls = at(&daemon, "mqtts").await;
    let enter = async |id: &'static str, ca: PathBuf, own: Option<(PathBuf, PathBuf)>| {
        let wish = own.is_none();
        let stream = secure(tls, &ca, own).await.unwrap();
        let (client, connack) = Client5::over(stream, id, |wishes| {
            if wish {
                login(wishes);
            }
        })
        .await;
        assert_eq!(connack.code, v5::ConnectReturnCode::Success, "{id}");
        client
    };
    let mut hmi = enter("hmi", authority.ca_file(), None).await;
    let mut scada = enter("scada", authority.ca_file(), Some(authority.client("scada", VALID))).await;
    let mut outgoing = enter("outgoing", authority.ca_file(), Some(second.client("scada", VALID))).await;
    let granted = v5::SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::AtMostOnce);
    for client in [&mut hmi, &mut scada] {
        assert_eq!(client.subscribe(mqtt::filter("gw/plc/level", 0), None).await, granted);
        client.message().await; // whatever the tag is by now
    }
    // Without a login nobody comes in by the socket; a program with one does.
    let socket = UnixStream::connect(home.path("mqtt.sock")).await.unwrap();
    assert_eq!(Client5::over(socket, "u", |_| {}).await.1.code, v5::ConnectReturnCode::NotAuthorized);
    let socket = UnixStream::connect(home.path("mqtt.sock")).await.unwrap();
    let (mut local, connack) = Client5::over(socket, "local", login).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::Success);
    let mut web = TcpStream::connect(at(&daemon, "ws").await).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
                   dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    web.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    web.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");

    // Another server certificate, of another authority, and one authority of clients less.
    put_server(&second, &home);
    std::fs::write(home.path("clients.pem"), authority.pem()).unwrap();
    daemon.signal(Signal::HUP);
    // Subscribed to nothing, so that is all it hears.
    assert_eq!(outgoing.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
    until("renewed", || daemon.said("renewed certificates are in use").is_some()).await;
    let mut new = enter("new", second.ca_file(), None).await;
    new.ping().await;
    assert!(secure(tls, &authority.ca_file(), None).await.is_err(), "the old certificate is not shown any more");
    plc.set(0, &[7]);
    for client in [&mut hmi, &mut scada] {
        while !String::from_utf8_lossy(&client.message().await.payload).contains("\"value\":7") {}
    }
    local.ping().await;
    drop(plain);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended(PATIENCE).await.code(), Some(0));
    assert!(!home.path("mqtt.sock").exists());
}
