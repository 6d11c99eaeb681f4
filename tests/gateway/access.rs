//! Users and rules of the real program: changed while it runs, and never told to anybody.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::gateway::mqtt::{Client5, filter, message};
use crate::gateway::{Daemon, Home, Plc, Watch, tag, until};
use rumqttc::v5::mqttbytes::v5;
use rustix::process::Signal;

/// What must not be seen anywhere.
const CANARY: &str = "canary-7f3a91";

fn config(plc: SocketAddr, read: &str) -> String {
    let text = crate::gateway::config(plc)
        .replace("[[broker.listener]]", "[broker]\nusers_file = \"users\"\n[[broker.listener]]");
    let rules = format!(
        "[[broker.acl]]\nuser = \"hmi\"\nread = [{read}]\nwrite = [\"mine/#\"]\n[[broker.acl]]\nuser = \"other\"\nread = [\"#\"]\n"
    );
    text.replacen("[[bus]]", &format!("{rules}[[bus]]"), 1) + &tag("a", "holding:0", "uint16", "")
}

pub fn passwd(home: &Home, words: &[&str], password: &str) {
    use std::io::Write as _;
    let mut child = home.command(&[&["passwd"], words].concat()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

pub async fn open(broker: SocketAddr, user: &str, password: &str) -> (Client5, v5::ConnectReturnCode) {
    let login = v5::Login { username: user.to_owned(), password: password.to_owned() };
    let (client, connack) = Client5::open(broker, &format!("{user}'s"), |wishes| wishes.login = Some(login)).await;
    (client, connack.code)
}

async fn hup(daemon: &Daemon, reloads: usize) {
    daemon.signal(Signal::HUP);
    until("it has reloaded", || daemon.times_said("audit=\"access_reloaded\"") == reloads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_rights_and_removes_users_while_everybody_else_stays() {
    let plc = Plc::start().await;
    let home = Home::new(&config(plc.line.address(), "\"gw/#\", \"mine/#\""));
    for user in ["hmi", "other"] {
        passwd(&home, &["users", user], user);
    }
    let daemon = home.run();
    let broker = daemon.mqtt().await;
    let (mut hmi, code) = open(broker, "hmi", "hmi").await;
    assert_eq!(code, v5::ConnectReturnCode::Success);
    let (mut other, _) = open(broker, "other", "other").await;
    for path in ["mine/#", "gw/#"] {
        hmi.subscribe(filter(path, 0), None).await;
    }
    home.configure(&config(plc.line.address(), "\"mine/#\""));
    passwd(&home, &["-D", "users", "other"], "");
    hup(&daemon, 1).await;
    assert_eq!(other.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
    for audit in ["audit=\"client_removed\"", "audit=\"subscription_removed\""] {
        daemon.heard_times(audit, 1).await;
    }
    // What had been on its way may still come; then only what is allowed.
    plc.set(0, &[7]);
    hmi.send(v5::Packet::Publish(message("mine/x", 0, "x"))).await;
    while hmi.message().await.topic != "mine/x" {}
    plc.set(0, &[8]);
    hmi.ping().await;
    // A wrong configuration changes nothing, a file that everybody may read neither.
    home.configure("[gateway]\nnaem = 1\n");
    daemon.signal(Signal::HUP);
    until("it was refused", || daemon.said("reload refused").is_some()).await;
    home.configure(&config(plc.line.address(), "\"gw/#\""));
    std::fs::set_permissions(home.path("users"), std::fs::Permissions::from_mode(0o644)).unwrap();
    hup(&daemon, 2).await;
    daemon.heard("users file cannot be used").await;
    assert_eq!(open(broker, "hmi", "hmi").await.1, v5::ConnectReturnCode::Success, "users stay as they were");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_file_that_cannot_be_read_is_taken_back_with_the_trial() {
    let plc = Plc::start().await;
    let text = config(plc.line.address(), "\"#\"").replacen("[gateway]\n", "[gateway]\nrollback_after = \"5s\"\n", 1);
    let home = Home::new(&text);
    passwd(&home, &["users", "hmi"], "hmi");
    let daemon = home.run();
    daemon.mqtt().await;
    home.configure(&text.replacen("\"users\"", "\"typing-error\"", 1));
    daemon.signal(Signal::HUP);
    until("it is taken back", || {
        daemon.said("audit=\"config_rolled_back\"").is_some_and(|line| line.contains("the users file cannot be read"))
    })
    .await;
    until("the one before is read", || daemon.times_said("users file read") >= 2).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_and_its_hash_are_seen_nowhere() {
    let plc = Plc::start().await;
    let home = Home::new(&config(plc.line.address(), "\"#\""));
    passwd(&home, &["users", "hmi"], CANARY);
    let users = std::fs::read_to_string(home.path("users")).unwrap();
    let hash = users.trim().rsplit('$').next().unwrap().to_owned();
    let broken = format!("{users}double:{users}hmi:{CANARY}\nplain:{CANARY}\n");
    std::fs::write(home.path("users"), broken).unwrap();
    let mut command = home.command(&["run", "--config", "ironbridge.toml"]);
    command.env("RUST_LOG", "trace");
    let daemon = Daemon::start(command);
    let broker = daemon.mqtt().await;
    let watch = Watch::on_all(broker).await;
    let (mut hmi, code) = open(broker, "hmi", CANARY).await;
    assert_eq!(code, v5::ConnectReturnCode::Success);
    for _ in 0..25 {
        hmi.publish(message("elsewhere", 1, "x")).await;
    }
    let (_, code) = open(broker, "hmi", &format!("{CANARY}x")).await;
    assert_eq!(code, v5::ConnectReturnCode::NotAuthorized);
    hup(&daemon, 1).await;
    watch.event("broker_users_incomplete", "once").await;
    watch.event("broker_access_reloaded", "once").await;
    daemon.heard("login_refused").await;
    daemon.heard_times("audit=\"publish_refused\"", 1).await; // twenty-five alike are one line
    for secret in [CANARY, hash.as_str()] {
        assert_eq!(daemon.said(secret), None, "in the log");
        assert_eq!(watch.contains(secret), None, "in a message");
    }
    assert_eq!(daemon.stop().await, Some(0));
    for entry in walk(&home.path("data")) {
        let bytes = std::fs::read(&entry).unwrap();
        for secret in [CANARY, hash.as_str()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "in {}", entry.display());
        }
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            files.push(entry.path());
        }
    }
    files
}
