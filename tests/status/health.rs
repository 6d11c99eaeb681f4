//! `/health` and `/api/status`: what they say of a gateway, and to whom.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::{Authority, VALID};
use crate::gateway::{Home, PATIENCE, Plc, config, tag, until};
use crate::ports::own_port;
use crate::visit::Site;
use crate::web::{Answer, ask, get, try_ask};

/// A shortage that is more than a moment.
const WITHOUT_FILES: Duration = Duration::from_secs(6);

/// Asks until the answer is as it should be.
pub async fn until_health(page: SocketAddr, what: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
    let begun = std::time::Instant::now();
    loop {
        let answer = get(page, "/health", "").await;
        if holds(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_port_that_is_missing_is_a_reason_and_a_controller_that_is_away_is_a_note() {
    let plc = Plc::start().await;
    let serial = "[[bus]]\nname = \"rs485\"\ntype = \"modbus-rtu\"\nport = \"/nonexistent/tty\"\nserial = \"9600-8E1\"\n\
        [[device]]\nname = \"meter\"\nbus = \"rs485\"\nunit_id = 3\npoll = \"1s\"\n";
    let tags = tag("x", "holding:0", "uint16", "");
    let home = Home::new(&format!("{}{tags}", config(plc.line.address())));
    let daemon = home.run();
    let page = daemon.page().await;
    let well = until_health(page, "it is well", |answer| answer.status == 200).await.json();
    assert_eq!((&well["ok"], &well["reasons"]), (&true.into(), &serde_json::json!([])));
    drop(plc);
    let noted = until_health(page, "the controller is noted", |answer| answer.body.contains("\"bus\"")).await;
    assert_eq!(noted.status, 200, "{noted:?}");
    assert_eq!(noted.json()["notes"][0]["name"], "line");
    assert_eq!(daemon.stop().await, Some(0));

    home.configure(&format!("{}{tags}{serial}{tags}", config(([127, 0, 0, 1], 9).into())));
    let daemon = home.run();
    let ill = until_health(daemon.page().await, "a port is missing", |answer| answer.status == 503).await.json();
    assert_eq!(ill["ok"], false);
    assert_eq!((&ill["reasons"][0]["part"], &ill["reasons"][0]["name"]), (&"bus".into(), &"rs485".into()));
    assert!(ill["reasons"][0]["text"].as_str().unwrap().contains("/nonexistent/tty"), "{ill}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_bus_whose_own_port_is_taken_is_a_reason_with_its_cause_and_a_modem_that_has_not_dialled_in_is_a_note() {
    let port = own_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let text = config(([127, 0, 0, 1], port).into()).replace("endpoint = ", "listen = ");
    let home = Home::new(&format!("{text}{}", tag("x", "holding:0", "uint16", "")));
    let daemon = home.run();
    let page = daemon.page().await;
    let ill = until_health(page, "a port is taken", |answer| answer.status == 503).await.json();
    assert_eq!((&ill["reasons"][0]["part"], &ill["reasons"][0]["name"]), (&"bus".into(), &"line".into()));
    assert!(ill["reasons"][0]["text"].as_str().unwrap().contains("Address already in use"), "{ill}");
    drop(taken);
    let waits = |answer: &Answer| answer.body.contains("nobody has dialled in");
    let well = until_health(page, "it listens", waits).await;
    assert_eq!((well.status, &well.json()["notes"][0]["name"]), (200, &"line".into()), "{well:?}");
    assert!(!well.body.contains("already in use"), "{well:?}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_page_whose_port_is_taken_is_told_and_opens_when_it_is_free() {
    let plc = Plc::start().await;
    let port = own_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let text = config(plc.line.address())
        .replace("[status]\nlisten = \"127.0.0.2:0\"", &format!("[status]\nlisten = \"127.0.0.1:{port}\""));
    let home = Home::new(&format!("{text}{}", tag("x", "holding:0", "uint16", "")));
    let daemon = home.run();
    until("it is told", || daemon.said("cannot open the status page, trying on").is_some()).await;
    until("polled all the same", || plc.requests() > 0).await;
    drop(taken);
    assert_eq!(daemon.page().await.port(), port);
    let board = get(([127, 0, 0, 1], port).into(), "/api/status", "").await.json();
    let events: Vec<_> =
        board["events"].as_array().unwrap().iter().map(|event| (&event["event"], &event["state"])).collect();
    let down = serde_json::Value::from("status_listener_down");
    assert_eq!(events.iter().filter(|(event, _)| **event == down).count(), 2, "begun and over: {events:?}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_page_that_went_without_file_descriptors_for_long_answers_when_there_are_some_again() {
    let plc = Plc::start().await;
    // A port of its own: one that the system chooses anew could be opened twice.
    let port = own_port();
    let text = config(plc.line.address())
        .replace("[status]\nlisten = \"127.0.0.2:0\"", &format!("[status]\nlisten = \"127.0.0.1:{port}\""));
    let home = Home::new(&format!("{text}{}", tag("x", "holding:0", "uint16", "")));
    let daemon = home.run();
    let page = daemon.page().await;
    let pid = rustix::process::Pid::from_raw(daemon.pid());
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64;
    let limit = |files| Rlimit { current: Some(files), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, limit(open)).unwrap();
    let mut waiting = Vec::new(); // the first few may find a place that something else has left since they were counted
    let begun = std::time::Instant::now();
    while daemon.said("cannot take in visitors").is_none() {
        assert!(begun.elapsed() < PATIENCE, "it has not noticed");
        waiting.push(TcpStream::connect(page).await.unwrap()); // the kernel takes it, and keeps it
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(WITHOUT_FILES).await;
    prlimit(pid, Resource::Nofile, before).unwrap();
    // What else went without files has a word to say at first, and then is well again.
    let well = async { while get(page, "/health", "").await.status != 200 {} };
    assert_eq!(tokio::time::timeout(PATIENCE, well).await, Ok(()));
    assert_eq!(daemon.times_said("the status page's listener broke"), 0, "a shortage is no fault of it");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn the_board_shows_buses_devices_and_alarms() {
    let plc = Plc::start().await;
    plc.set(0, &[90]);
    let tags = tag("level", "holding:0", "uint16", "alarm = { high = 80.0 }");
    let home = Home::new(&format!("{}{tags}", config(plc.line.address())));
    let daemon = home.run();
    let page = daemon.page().await;
    let mut board = serde_json::Value::Null;
    let begun = std::time::Instant::now();
    while board["alarms"].as_array().is_none_or(Vec::is_empty) {
        assert!(begun.elapsed() < PATIENCE, "{board:#}");
        board = get(page, "/api/status", "").await.json();
    }
    assert_eq!(board["gateway"]["name"], "gw");
    let bus = &board["buses"][0];
    assert_eq!(
        (&bus["name"], &bus["type"], &bus["state"]),
        (&"line".into(), &"modbus-tcp".into(), &"connected".into())
    );
    assert!(bus["response_ms"]["p99"].as_f64().unwrap() > 0.0);
    let device = &board["devices"][0];
    assert_eq!(
        (&device["name"], &device["bus"], &device["state"]),
        (&"plc".into(), &"line".into(), &"answering".into())
    );
    assert!(device["polls"].as_u64().unwrap() > 0 && device["last_success"].is_string());
    let alarm = &board["alarms"][0];
    assert_eq!((&alarm["device"], &alarm["tag"], &alarm["event"]), (&"plc".into(), &"level".into(), &"high".into()));
    assert_eq!(alarm["value"], 90);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn over_tls_a_login_sees_the_board_and_nobody_else_does() {
    let plc = Plc::start().await;
    let text = config(plc.line.address())
        .replace(
            "[status]\nlisten = \"127.0.0.2:0\"\nanonymous = \"read\"\n",
            "[status]\nlisten = \"127.0.0.2:0\"\ntls = { certificate = \"server.crt\", key = \"server.key\" }\n",
        )
        .replace("[[broker.listener]]", "[broker]\nusers_file = \"users\"\n[[broker.listener]]");
    let home = Home::new(&format!("{text}{}", tag("x", "holding:0", "uint16", "")));
    let authority = Authority::new();
    let (certificate, key) = authority.server_pem("localhost", VALID);
    std::fs::write(home.path("server.crt"), certificate).unwrap();
    std::fs::write(home.path("server.key"), key).unwrap();
    let users = ironbridge::access::hash(b"secret").unwrap();
    std::fs::write(home.path("users"), format!("hmi:{users}\n")).unwrap();
    for name in ["server.key", "users"] {
        std::fs::set_permissions(home.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let daemon = home.run();
    let page = daemon.page().await;
    let connector = TlsConnector::from(trusting(&authority));
    let ask_for = async |path: &str, more: &str| {
        let stream = TcpStream::connect(page).await.unwrap();
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")).await
    };
    assert_eq!(ask_for("/api/status", "").await.status, 401);
    // hmi:wrong, hmi:secret
    assert_eq!(ask_for("/api/status", "Authorization: Basic aG1pOndyb25n\r\n").await.status, 401);
    let board = ask_for("/api/status", "Authorization: Basic aG1pOnNlY3JldA==\r\n").await;
    assert_eq!((board.status, &board.json()["gateway"]["name"]), (200, &"gw".into()));
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn diag_asks_behind_tls_too_and_nobody_who_only_has_the_port() {
    let plc = Plc::start().await;
    let port = own_port();
    let tls = "tls = { certificate = \"server.crt\", key = \"server.key\" }";
    let page = format!("[status]\nlisten = \"127.0.0.1:{port}\"\nanonymous = \"read\"\n{tls}\n");
    let text = config(plc.line.address()).replace("[status]\nlisten = \"127.0.0.2:0\"\nanonymous = \"read\"\n", &page);
    let home = Home::new(&format!("{text}{}", tag("x", "holding:0", "uint16", "")));
    let put = |name: &str| {
        let (certificate, key) = Authority::new().server_pem("box.example.com", VALID);
        std::fs::write(home.path(&format!("{name}.crt")), certificate).unwrap();
        std::fs::write(home.path(&format!("{name}.key")), key).unwrap();
        std::fs::set_permissions(home.path(&format!("{name}.key")), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("server");
    let daemon = home.run();
    daemon.page().await;
    let diag = |config: &str| {
        let mut command = home.command(&["diag", "--config", config, "--output", "-"]);
        let output = command.stdout(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        output.stdout
    };
    let has = |archive: &[u8], text: &str| archive.windows(text.len()).any(|window| window == text.as_bytes());
    // Its control socket lies elsewhere: a gateway of before there was one, or one that is stuck in a reload.
    let text = std::fs::read_to_string(home.path("ironbridge.toml")).unwrap();
    let text = text.replacen("data_dir = \"data\"", "data_dir = \"elsewhere\"", 1);
    std::fs::write(home.path("aside.toml"), &text).unwrap();
    let told = diag("aside.toml");
    assert!(has(&told, "\"reasons\":["), "health.txt has what /health says on this machine");
    assert!(has(&told, "\"buses\":["), "and status.json what the page shows");
    // By this configuration somebody else has the port: whoever answers is not who is meant.
    put("other");
    std::fs::write(home.path("other.toml"), text.replace("server.", "other.")).unwrap();
    assert!(!has(&diag("other.toml"), "\"reasons\":["), "another certificate than that in the file");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn diag_has_counters_and_status_of_a_gateway_whose_page_wants_a_login() {
    let site = Site::with(|text| text.replacen("anonymous = \"read\"\n", "", 1)).await;
    assert_eq!(get(site.page, "/metrics", "").await.status, 401);
    let mut command = site.home.command(&["diag", "--config", "ironbridge.toml", "--output", "-"]);
    let output = command.stdout(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let has = |text: &str| output.stdout.windows(text.len()).any(|window| window == text.as_bytes());
    for text in ["\"buses\":[", "{\"ok\":true,\"reasons\":[", "\nironbridge_uptime_seconds "] {
        assert!(has(text), "{text}");
    }
}

#[tokio::test]
async fn where_visitors_must_log_in_health_keeps_its_reasons_from_this_machine_too() {
    let site = Site::with(|text| text.replacen("anonymous = \"read\"\n", "", 1)).await;
    let stranger = get(site.page, "/health", "").await;
    assert!(
        ["ok\n", "not ok\n"].contains(&stranger.body.as_str()),
        "a proxy on this machine brings anybody: {stranger:?}"
    );
    assert!(site.logged_in("hmi").await.get("/health").await.json()["ok"].is_boolean());
    let basic = get(site.page, "/health", "Authorization: Basic aG1pOmhtaQ==\r\n").await; // hmi:hmi
    assert!(basic.json()["reasons"].is_array());
}

#[tokio::test]
async fn what_the_readme_asks_with_curl_is_answered() {
    let readme = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let asked = readme.lines().filter(|line| line.starts_with("curl "));
    let paths = asked.filter_map(|line| line.split("http://127.0.0.1:8080").nth(1)?.split_whitespace().next());
    let paths: Vec<&str> = paths.collect();
    assert!(paths.len() >= 3, "{paths:?}");
    let plc = Plc::start().await;
    let home = Home::new(&format!("{}{}", config(plc.line.address()), tag("x", "holding:0", "uint16", "")));
    let daemon = home.run();
    let page = daemon.page().await;
    for path in paths {
        let answer = get(page, path, "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn who_asks_badly_is_refused_and_harms_nobody() {
    let plc = Plc::start().await;
    let home = Home::new(&format!("{}{}", config(plc.line.address()), tag("x", "holding:0", "uint16", "")));
    let daemon = home.run();
    let page = daemon.page().await;
    let say = async |request: &str| ask(TcpStream::connect(page).await.unwrap(), request).await;
    let evil = say("GET /api/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(evil.status, 421, "a name that points here is not ours");
    assert_eq!(say("GET /api/status HTTP/1.1\r\nConnection: close\r\n\r\n").await.status, 421);
    assert_eq!(
        say("GET http://127.0.0.1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await.status,
        421
    );
    for path in
        ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/health/..", "/api", "/api/status/", "/.."]
    {
        assert_eq!(get(page, path, "").await.status, 404, "{path}");
    }
    assert_eq!(say("DELETE /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.status, 405);
    for heads in ["X: x\r\n".repeat(100), format!("X: {}\r\n", "x".repeat(20_000))] {
        let stream = TcpStream::connect(page).await.unwrap();
        // What the server does not read any more may take the answer with it.
        let answer = try_ask(stream, &format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{heads}\r\n")).await;
        assert!(answer.is_none_or(|answer| [400, 431].contains(&answer.status)));
    }
    assert_eq!(say("\x16\x03\x01 nonsense\r\n\r\n").await.status, 400);
    // More than there are places, and none of them says a word.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(page).await.unwrap());
    }
    let begun = plc.requests();
    until("polled all the same", || plc.requests() > begun + 3).await;
    // The watchdog of this machine, and the hook that confirms an update, ask all the same.
    assert_eq!(get(page, "/health", "").await.status, 200);
    daemon.heard_times("visitors were turned away", 1).await;
    drop(silent);
    let page_again = until_health(page, "there is room again", |answer| answer.status == 200).await;
    assert_eq!(page_again.header("x-content-type-options"), "nosniff");
    assert!(page_again.header("content-security-policy").starts_with("default-src 'none'"));
    let turned_away = get(page, "/metrics", "").await.body;
    let line = turned_away.lines().find(|line| line.starts_with("ironbridge_status_turned_away_total")).unwrap();
    assert!(line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() >= 72, "{line}");
    assert_eq!(daemon.stop().await, Some(0));
}

pub fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    let pem = authority.pem();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}
