//! Secrets in every place that may hold one, and a look at everything the program says: none is there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5;

use crate::authority::{Authority, VALID};
use crate::gateway::mqtt::Client5;
use crate::gateway::{Daemon, Home, Plc, config, tag, until};
use crate::ports::own_port;

const USER: &str = "canary-user-4b1c";
const TYPED: &str = "canary-typed-77d0";
const CLOUD: &str = "canary-cloud-91ee";
const PROXY: &str = "canary-proxy-2f65";
const CREDENTIAL: &str = "canary-credential-c3a8";
const ENVIRONMENT: &str = "canary-environment-5d5d";
const COMMENT: &str = "canary-comment-e2b7";

fn secret_file(home: &Home, name: &str, text: &str) {
    fs::write(home.path(name), text).unwrap();
    fs::set_permissions(home.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A broker that takes whatever CONNECT comes, and remembers it; so it is known that the password was in use.
fn greedy_broker() -> (SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut heard = vec![0; 1024];
            let count = stream.read(&mut heard).unwrap_or(0);
            heard.truncate(count);
            let _ = stream.write_all(&[0x20, 0x02, 0x00, 0x05]); // CONNACK of 3.1.1: not authorized
            if sender.send(heard).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn told(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.command(arguments);
    command.env("SECRET_TOKEN", ENVIRONMENT).env("CREDENTIALS_DIRECTORY", home.path("credentials"));
    command.stdout(Stdio::piped()).output().unwrap()
}

fn has(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

async fn log_in(broker: SocketAddr, password: &str) -> v5::ConnectReturnCode {
    let login = v5::Login { username: "hmi".to_owned(), password: password.to_owned() };
    Client5::open(broker, "hmi-1", |wishes| wishes.login = Some(login)).await.1.code
}

fn passwd(home: &Home, password: &str) {
    let mut child = home.command(&["passwd", "users", "hmi"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn configuration(plc: SocketAddr, cloud: SocketAddr, page: u16) -> String {
    let text = config(plc).replacen("[[broker.listener]]", "[broker]\nusers_file = \"users\"\n[[broker.listener]]", 1);
    let text =
        text.replacen("[status]\nlisten = \"127.0.0.2:0\"", &format!("[status]\nlisten = \"127.0.0.1:{page}\""), 1);
    format!(
        "# the modem's PIN is {COMMENT}\n{text}{}\
         [[broker.listener]]\nlisten = \"127.0.0.1:0\"\ntls = {{ certificate = \"door.crt\", key = \"door.key\" }}\n\
         [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://{cloud}\"\nusername = \"box\"\npassword_file = \"cloud.password\"\n\
         mqtt_version = \"3.1.1\"\n\
         [[uplink]]\nname = \"far\"\nurl = \"mqtt://192.0.2.1\"\nproxy = \"http://{cloud}\"\nproxy_username = \"box\"\n\
         proxy_password_file = \"proxy.password\"\n\
         [[bridge]]\nname = \"hall\"\nurl = \"mqtt://{cloud}\"\nusername = \"box\"\n\
         password_file = \"$CREDENTIALS_DIRECTORY/hall\"\nmqtt_version = \"3.1.1\"\n[[bridge.topic]]\nfilter = \"x/#\"\n",
        tag("a", "holding:0", "uint16", "")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_secret_is_in_log_page_metrics_arguments_check_or_diag_and_no_core_is_written() {
    let (cloud, connects) = greedy_broker();
    let (plc, page) = (Plc::start().await, own_port());
    let home = Home::new(&configuration(plc.line.address(), cloud, page));
    passwd(&home, USER);
    let hash = fs::read_to_string(home.path("users")).unwrap().trim().rsplit('$').next().unwrap().to_owned();
    let authority = Authority::new();
    let (certificate, key) = authority.server_pem("localhost", VALID);
    fs::write(home.path("door.crt"), certificate).unwrap();
    secret_file(&home, "door.key", &key);
    let key_line = key.lines().nth(1).unwrap().to_owned();
    secret_file(&home, "cloud.password", CLOUD);
    secret_file(&home, "proxy.password", PROXY);
    fs::create_dir(home.path("credentials")).unwrap();
    secret_file(&home, "credentials/hall", CREDENTIAL);
    let secrets = [USER, TYPED, CLOUD, PROXY, CREDENTIAL, ENVIRONMENT, hash.as_str(), key_line.as_str()];

    let mut command = home.command(&["run", "--config", "ironbridge.toml"]);
    command.env("RUST_LOG", "trace").env("SECRET_TOKEN", ENVIRONMENT);
    command.env("CREDENTIALS_DIRECTORY", home.path("credentials"));
    let daemon = Daemon::start(command);
    let broker = daemon.mqtt().await;
    assert_eq!(log_in(broker, USER).await, v5::ConnectReturnCode::Success);
    assert_eq!(log_in(broker, TYPED).await, v5::ConnectReturnCode::NotAuthorized);
    let mut waiting = vec![CLOUD, CREDENTIAL];
    while !waiting.is_empty() {
        let heard = connects.recv_timeout(Duration::from_secs(120)).expect("both passwords are used");
        waiting.retain(|secret| !has(&heard, secret));
    }
    let address = SocketAddr::from(([127, 0, 0, 1], page));
    until("the page answers", || TcpStream::connect(address).is_ok()).await;

    let pid = daemon.pid();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // Soft and hard: a shell's own soft limit is 0 as a rule, and who has only that may raise it.
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let check = told(&home, &["check", "--config", "ironbridge.toml"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let diag = told(&home, &["diag", "--config", "ironbridge.toml", "--output", "box.zip"]);
    assert!(diag.status.success(), "{}", String::from_utf8_lossy(&diag.stderr));
    let archive = fs::read(home.path("box.zip")).unwrap();
    assert_eq!(fs::metadata(home.path("box.zip")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = told(&home, &["diag", "--config", "ironbridge.toml", "--output", "box.zip"]);
    assert_eq!(again.status.code(), Some(75), "never over another file");
    let said: Vec<(&str, Vec<u8>)> = vec![
        ("arguments", arguments),
        ("check", [check.stdout, check.stderr].concat()),
        ("diag", [archive.clone(), diag.stdout.clone(), diag.stderr].concat()),
        ("page", get(address, "/").into_bytes()),
        ("status", get(address, "/api/status").into_bytes()),
        ("metrics", get(address, "/metrics").into_bytes()),
        ("health", get(address, "/health").into_bytes()),
    ];
    for secret in secrets {
        assert_eq!(daemon.said(secret), None, "in the log");
        for (place, bytes) in &said {
            assert!(!has(bytes, secret), "{secret} is in {place}");
        }
    }
    it_is_of_use(&archive, &diag.stdout);
    assert_eq!(daemon.stop().await, Some(0));
}

/// What diag wrote, without what is nobody's business.
fn it_is_of_use(archive: &[u8], manifest: &[u8]) {
    assert!(!has(archive, COMMENT), "people write passwords into comments");
    let manifest = String::from_utf8_lossy(manifest).into_owned();
    let there = [
        "config/ironbridge.toml",
        "plan.txt",
        "store.txt",
        "bridge-hall.txt",
        "process.txt",
        "status.json",
        "metrics.txt",
        "versions.txt",
    ];
    for part in there {
        assert!(manifest.lines().any(|line| line.starts_with("there") && line.contains(part)), "{part} of\n{manifest}");
    }
    for words in ["endpoint = ", "gateway gw: data in", "SQLite     3.", "ironbridge_build_info"] {
        assert!(has(archive, words), "{words}");
    }
}

/// Where people put secrets that do not belong there.
fn misplaced(secret: &str) -> String {
    format!(
        "# {secret}\n[gateway]\nname = \"gw\" # {secret}\ndata_dir = \"data\"\n[status]\ntoken = \"{secret}\"\n\
         [[uplink]]\nname = \"cloud\"\nurl = \"mqtts://box:{secret}@localhost?token={secret}\"\npassword = \"{secret}\"\n\
         passwd = '{secret}'\npassword_file = \"{secret}\"\nkey = \"{secret}\"\ncertificate = \"gw.crt\"\nusername = \"{secret}\"\napi_key = \"{secret}\"\n\
         [secrets]\nname = \"{secret}\"\n"
    )
}

#[test]
fn secrets_where_they_do_not_belong_are_shown_neither_by_check_nor_by_diag_also_when_nothing_parses() {
    let secret = "canary-misplaced-0aa1";
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    let whole = misplaced(secret);
    let texts = [whole.clone(), format!("{whole}secret = \"{secret}\n"), format!("password {secret}\n{whole}"), pem];
    for (number, text) in texts.iter().enumerate() {
        let home = Home::new(text);
        let output = format!("{number}.zip");
        let diag = told(&home, &["diag", "--config", "ironbridge.toml", "--output", &output]);
        assert!(diag.status.success(), "{}", String::from_utf8_lossy(&diag.stderr));
        let archive = fs::read(home.path(&output)).unwrap();
        assert!(!has(&archive, secret), "text {number}: {}", around(&archive, secret));
        assert!(has(&archive, "problems: the gateway does not start"), "the problems are there");
        assert!(!has(&[diag.stdout, diag.stderr].concat(), secret), "text {number}, on the terminal");
    }
    let home = Home::new(&whole);
    for form in [&["check", "--config", "ironbridge.toml"][..], &["check", "--json", "--config", "ironbridge.toml"]] {
        let check = told(&home, form);
        assert_eq!(check.status.code(), Some(78));
        let said = [check.stdout, check.stderr].concat();
        assert!(!has(&said, secret), "{}", around(&said, secret));
    }
}

#[test]
fn a_secret_in_a_url_is_shown_by_diag_in_no_file_whatever_characters_it_has() {
    let urls = [
        ("url = \"mqtts://alice:s3cr;CANARYone@localhost:8883\"", "s3cr;CANARYone"),
        ("url = \"mqtt://localhost\"\nproxy = \"http://bob:x)CANARYtwo@localhost:3128\"", "x)CANARYtwo"),
        ("url = \"wss://localhost/mqtt?password=abc;CANARYthree\"", "abc;CANARYthree"),
        (
            "urls = ['wss://localhost/mqtt?password=a@b,CANARYfour', \"mqtts://c:d}\\\"CANARYfour@localhost\"]",
            "a@b,CANARYfour",
        ),
        ("url = \"eve:x`y>CANARYfive@localhost\"", "x`y>CANARYfive"),
    ];
    for (number, (url, secret)) in urls.iter().enumerate() {
        let home =
            Home::new(&format!("[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n[[uplink]]\nname = \"cloud\"\n{url}\n"));
        fs::create_dir(home.path("ironbridge.d")).unwrap();
        // Where it stands by itself nothing says that it is a secret.
        fs::write(home.path("ironbridge.d/10.toml"), format!("[[bus]]\nname = \"at {secret}\"\n")).unwrap();
        let output = format!("{number}.zip");
        let diag = told(&home, &["diag", "--config", "ironbridge.toml", "--output", &output]);
        assert!(diag.status.success(), "{}", String::from_utf8_lossy(&diag.stderr));
        let archive = fs::read(home.path(&output)).unwrap();
        assert!(!has(&archive, "CANARY"), "{url}: {}", around(&archive, "CANARY"));
        assert!(!has(&[diag.stdout, diag.stderr].concat(), "CANARY"), "{url}, on the terminal");
        assert!(has(&archive, "name = \"at (removed)\""), "what is no secret stays");
    }
}

fn around(bytes: &[u8], secret: &str) -> String {
    let at = bytes.windows(secret.len()).position(|window| window == secret.as_bytes()).unwrap_or(0);
    String::from_utf8_lossy(&bytes[at.saturating_sub(80)..(at + 80).min(bytes.len())]).into_owned()
}

#[test]
fn diag_works_on_a_box_without_anything() {
    let home = Home::new("");
    let output = home.path("box.zip").display().to_string();
    let diag = told(&home, &["diag", "--config", "/nowhere/ironbridge.toml", "--output", &output]);
    assert!(diag.status.success(), "{}", String::from_utf8_lossy(&diag.stderr));
    let manifest = String::from_utf8_lossy(&diag.stdout).into_owned();
    assert!(manifest.lines().any(|line| line.starts_with("MISSING") && line.contains("ironbridge.toml")), "{manifest}");
    assert!(Path::new(&output).exists() && manifest.contains("readable by you alone"));
}
