//! Several receivers side by side, on a real broker: `--share` divides the messages, the common database has them all.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::mosquitto::Mosquitto;
use crate::patience::until_blocking;
use crate::skip::skipped;

struct Running(Child);

impl Running {
    fn start(program: &str, args: &[&str]) -> Option<Self> {
        let child = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.ok().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With the client that publishes there: in Debian it is a package of its own.
fn mosquitto() -> Option<Mosquitto> {
    const WHAT: &str = "receivers that share a mosquitto";
    if Command::new("mosquitto_pub").arg("--help").output().is_err() {
        skipped(WHAT, "mosquitto_pub is not installed");
        return None;
    }
    Mosquitto::start(WHAT, |_| "allow_anonymous true\n".to_owned())
}

fn count(file: &Path, sql: &str) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn two_of_a_group_have_everything_together_on_either_version_of_mqtt() {
    let Some(broker) = mosquitto() else { return };
    let (home, port) = (tempfile::tempdir().unwrap(), broker.port);
    let url = format!("mqtt://127.0.0.1:{port}");
    let file = home.path().join("lake.sqlite");
    let receiver = |id: &str, version: &str| {
        let options = ["receive", &url, "--share", "lake", "--client-id", id, "--mqtt-version", version, "--sqlite"];
        let program = env!("CARGO_BIN_EXE_ironbridge");
        let words: Vec<&str> = options.into_iter().chain([file.to_str().unwrap()]).collect();
        Running::start(program, &words).unwrap()
    };
    let receivers = [receiver("one", "5"), receiver("two", "3.1.1")];
    let publish = |seqs: std::ops::RangeInclusive<u64>| {
        let mut lines = String::new();
        for seq in seqs {
            let time = "2026-11-20T20:00:00.123Z";
            let number = format!("\"stream\":\"bulk\",\"epoch\":7,\"seq\":{seq}");
            writeln!(lines, "{{\"value\":{seq},\"quality\":\"good\",\"time\":\"{time}\",{number}}}").unwrap();
        }
        let input = home.path().join("lines");
        std::fs::write(&input, lines).unwrap();
        let words = ["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "a/b", "-q", "1", "-l"];
        let input = std::fs::File::open(&input).unwrap();
        let sent = Command::new("mosquitto_pub").args(words).stdin(input).status();
        sent.is_ok_and(|status| status.success())
    };
    // What is sent before both have subscribed goes to nobody; so the first is sent until it arrives.
    until_blocking("the group is there", || {
        publish(1..=1) && file.exists() && count(&file, "SELECT count(*) FROM samples") == 1
    });
    assert!(publish(2..=3000));
    until_blocking("all is written", || count(&file, "SELECT count(*) FROM samples") == 3000);
    drop(receivers);
    let verdict = Command::new(env!("CARGO_BIN_EXE_ironbridge"))
        .args(["receive", "--from-start", "--json", "--report"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(verdict.status.success());
    let report: serde_json::Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert_eq!((report["report"]["received"].as_u64(), report["report"]["missing"].as_u64()), (Some(3000), Some(0)));
}

#[test]
fn a_message_beyond_the_limit_is_passed_over_on_either_version_and_what_follows_arrives() {
    let Some(broker) = mosquitto() else { return };
    let (home, port) = (tempfile::tempdir().unwrap(), broker.port.to_string());
    let url = format!("mqtt://127.0.0.1:{port}");
    let large = home.path().join("large");
    std::fs::write(&large, vec![b'x'; 17 << 20]).unwrap();
    let publish = |topic: &str, options: &[&str]| {
        let words = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic];
        let sent = Command::new("mosquitto_pub").args(words).args(options).stderr(Stdio::null()).status();
        sent.is_ok_and(|status| status.success())
    };
    let record =
        |seq: u64| format!("{{\"value\":{seq},\"quality\":\"good\",\"stream\":\"bulk\",\"epoch\":7,\"seq\":{seq}}}");
    let files = ["3.1.1", "5"].map(|version| (version, home.path().join(version)));
    let _receivers = files.clone().map(|(version, file)| {
        let words = ["receive", &url, "--client-id", version, "--mqtt-version", version, "--sqlite"];
        let words: Vec<&str> = words.into_iter().chain([file.to_str().unwrap()]).collect();
        Running::start(env!("CARGO_BIN_EXE_ironbridge"), &words).unwrap()
    });
    let all = |rows: i64| files.iter().all(|(_, file)| count(file, "SELECT count(*) FROM samples") == rows);
    until_blocking("both are there", || publish("a/b", &["-m", &record(1)]) && all(1));
    assert!(publish("ironbridge/gw/batch", &["-f", large.to_str().unwrap()]));
    assert!(publish("a/b", &["-m", &record(2)]));
    until_blocking("what follows has arrived", || all(2));
}
