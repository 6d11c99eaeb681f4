//! What commands print: a full disk behind `>` is said and is no success; a reader that went away is nobody's error.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// One of each kind: short and long, for people and for scripts, about a program, a configuration, a store.
const COMMANDS: &[&str] = &[
    "completions bash",
    "man",
    "profiles",
    "decode 1 2",
    "check --config gw.toml",
    "check --config gw.toml --json",
    "cost --config gw.toml",
    "tags export --config gw.toml",
    "broker import empty.conf",
    "store status --config gw.toml",
    "store verify --config gw.toml --json",
    "factory-reset --config gw.toml --dry-run",
    "diag --config gw.toml --output -",
];

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let text = "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n\
                [status]\nlisten = \"127.0.0.1:0\"\n[[broker.listener]]\nlisten = \"127.0.0.1:0\"\n\
                [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://broker.example.com\"\nclient_id = \"gw\"\n\
                [[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"127.0.0.1:9\"\n\
                [[device]]\nname = \"pump\"\nbus = \"b\"\nunit_id = 1\n\
                [[device.tag]]\nname = \"speed\"\naddress = \"holding:1\"\ntype = \"uint16\"\n";
    fs::write(home.path().join("gw.toml"), text).expect("written");
    fs::write(home.path().join("empty.conf"), "").expect("written");
    home
}

/// The same, and the gateway has run there for a moment: there is a store.
fn lived_in() -> tempfile::TempDir {
    let home = home();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.args(["run", "--config", "gw.toml"]).current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut gateway = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(gateway.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let started = lines.any(|line| line.contains("gateway started"));
    gateway.kill().expect("it ran");
    gateway.wait().expect("it ended");
    assert!(started);
    home
}

fn run(words: &str, home: &Path, stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.args(words.split_whitespace()).current_dir(home).stdin(Stdio::null()).stdout(stdout);
    command.output().expect("runs")
}

#[test]
fn what_cannot_be_printed_is_said_and_is_no_success() {
    let home = lived_in();
    for words in COMMANDS {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let told = run(words, home.path(), full.into());
        let error = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(75), "{words}: {error}");
        assert!(error.contains("standard output: ") && !error.contains("panicked"), "{words}: {error}");
    }
}

#[test]
fn a_reader_that_went_away_is_nobodys_error() {
    let home = lived_in();
    for words in COMMANDS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let told = run(words, home.path(), writer.into());
        let error = String::from_utf8_lossy(&told.stderr);
        assert!(!error.contains("panicked") && !error.contains("standard output"), "{words}: {error}");
        assert_eq!(told.status.code(), Some(0), "{words}: {error}");
    }
}

#[test]
fn a_reset_whose_list_cannot_be_printed_deletes_nothing() {
    let home = home();
    fs::create_dir(home.path().join("data")).expect("made");
    fs::write(home.path().join("data/broker.db"), "kept").expect("written");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let told = run("factory-reset --config gw.toml --keep-config --yes", home.path(), full.into());
    assert_eq!(told.status.code(), Some(75), "{}", String::from_utf8_lossy(&told.stderr));
    assert!(home.path().join("data/broker.db").exists());
}

#[test]
fn what_nobody_reads_on_standard_error_changes_no_exit_code() {
    let home = lived_in();
    fs::write(home.path().join("secret"), "correct horse\n").expect("written");
    fs::write(home.path().join("mosquitto.conf"), "listener 1883\nallow_anonymous true\nqueue_qos0_messages true\n")
        .expect("written");
    fs::write(home.path().join("received.db"), "").expect("written");
    for words in [
        "check --config none.toml",
        "passwd users anna",
        "broker import mosquitto.conf",
        "store export --config gw.toml --format csv",
        "receive --report received.db",
        "write --config gw.toml pump/speed 1 --yes",
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
        command.args(words.split_whitespace()).current_dir(home.path()).env("RUST_LOG", "chatty");
        let secret = || fs::File::open(home.path().join("secret")).expect("there");
        let heard = command.stdin(secret()).output().expect("runs");
        assert!(!heard.stderr.is_empty(), "{words} says something");
        let unheard = command.stdin(secret()).stderr(writer).output().expect("runs");
        assert_eq!((words, unheard.status.code()), (words, heard.status.code()));
        assert_ne!((words, heard.status.code()), (words, Some(101)));
    }
}

#[test]
fn a_file_that_is_not_there_is_usage_and_a_configuration_that_is_not_there_is_78_whoever_is_told_to_read_it() {
    let home = home();
    fs::write(home.path().join("asks.conf"), "password_file none\n").expect("written");
    fs::write(home.path().join("rules.conf"), "acl_file none\n").expect("written");
    fs::write(home.path().join("more.conf"), "include_dir none\n").expect("written");
    for words in [
        "broker import none",
        "broker import .",
        "broker import asks.conf",
        "broker import rules.conf",
        "broker import more.conf",
        "replay none",
        "replay .",
        "capture --show none",
        "tags import none",
        "tags import none --config gw.toml --device pump",
        "receive mqtts://127.0.0.1:9 --ca-file none",
        "receive mqtt://127.0.0.1:9 --username u --password-file none",
        "store status --dir none",
        "store verify --dir none",
        "store export --dir none",
        "store purge --dir none --older 1d",
        "cost --config gw.toml --from-store none",
    ] {
        let told = run(words, home.path(), Stdio::piped());
        let error = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(64), "{words}: {error}");
        assert!(
            told.stdout.is_empty() && error.contains("none") | error.contains(": Is a directory"),
            "{words}: {error}"
        );
    }
    for words in ["run", "check", "cost", "simulate", "tags export", "store status", "read speed", "capture -o x"] {
        let told = run(&format!("{words} --config none.toml"), home.path(), Stdio::piped());
        let error = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(78), "{words}: {error}");
        assert!(error.contains("there is no such file"), "{words}: {error}");
    }
}

#[test]
fn an_export_of_a_store_that_is_not_there_writes_nothing() {
    let home = home();
    fs::write(home.path().join("old.csv"), "kept").expect("written");
    for words in ["", " --format ndjson", " --out old.csv", " --out new.parquet"] {
        let told = run(&format!("store export --dir none{words}"), home.path(), Stdio::piped());
        assert_eq!((told.status.code(), told.stdout.len()), (Some(64), 0), "{words}");
    }
    assert_eq!(fs::read(home.path().join("old.csv")).expect("read"), b"kept");
    assert_eq!(fs::read_dir(home.path()).expect("listed").count(), 3, "gw.toml, empty.conf and old.csv");
}

#[test]
fn a_purge_without_an_age_names_both_ways_to_give_one() {
    let home = home();
    let told = run("store purge --config gw.toml", home.path(), Stdio::piped());
    let error = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(64));
    assert!(error.contains("--before <TIME>|--older <DURATION>"), "{error}");
    let both = run("store purge --config gw.toml --older 1d --before -1d", home.path(), Stdio::piped());
    assert_eq!(both.status.code(), Some(64), "one of them");
}
