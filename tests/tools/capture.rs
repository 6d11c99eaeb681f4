//! capture and replay as processes: a simulated site is recorded, and what replay serves is what was recorded.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ironbridge::plant::pty::Pty;
use serde_json::Value;
use tokio_modbus::ExceptionCode;
use tokio_modbus::client::{Reader as _, Writer as _, tcp};
use tokio_modbus::slave::{Slave, SlaveContext as _};

use crate::patience::{until, until_blocking};

const SITE: &str = r#"
[gateway]
name = "seven"
[[uplink]]
name = "cloud"
url = "mqtt://cloud.example"
client_id = "a-secret-name"
[[bus]]
name = "plc"
type = "modbus-tcp"
endpoint = "192.0.2.1:502"
response_timeout = "300ms"
[[bus]]
name = "line"
type = "modbus-rtu"
port = "/dev/ttyUSB0"
serial = "19200-8E1"
response_timeout = "150ms"
[[device]]
name = "pump"
bus = "plc"
unit_id = 1
profile = "pump.csv"
[[device]]
name = "strict"
bus = "plc"
unit_id = 4
[[device.tag]]
name = "x"
address = "holding:5"
type = "uint16"
poll = "200ms"
[[device]]
name = "meter"
bus = "line"
unit_id = 3
[[device.tag]]
name = "v"
address = "input:0"
type = "int16"
poll = "100ms"
[[device]]
name = "dead"
bus = "line"
unit_id = 9
[[device.tag]]
name = "v"
address = "holding:0"
type = "int16"
poll = "200ms"
"#;

const MAP: &str = "name,address,type,poll,access\n\
    speed,holding:100,uint16,200ms,read-write\nramp,holding:101,uint16,200ms,read-write\n";

/// Ends with the test, whatever happens in it.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> (Self, Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("starts");
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut said).expect("says something");
        let process = Self(child);
        // Nobody reads the rest, and it is little.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        (process, serde_json::from_str(&said).expect("one JSON object"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn tool(args: &[&str]) -> (Option<i32>, String) {
    let told = Command::new(env!("CARGO_BIN_EXE_ironbridge")).args(args).output().expect("runs");
    let text = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    (told.status.code(), text)
}

fn shown(file: &str) -> Vec<Value> {
    let (code, text) = tool(&["capture", "--show", file, "--json"]);
    assert_eq!(code, Some(0), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect()
}

/// A recording of about a second of the site, its places and what was shown of it.
fn record(home: &Path) -> (String, Vec<Value>) {
    let at = |name: &str| home.join(name).display().to_string();
    std::fs::create_dir(home.join("etc")).expect("directory");
    std::fs::write(home.join("etc/site.toml"), SITE).expect("written");
    std::fs::write(home.join("etc/pump.csv"), MAP).expect("written");
    let (config, live, file) = (at("etc/site.toml"), at("live.toml"), at("site.capture"));
    let (_site, _) = Process::start(&[
        "simulate",
        "--json",
        "--config",
        &config,
        "--write-config",
        &live,
        "--dead",
        "dead",
        "--exception",
        "strict=2",
    ]);
    let (code, text) = tool(&["capture", "--config", &live, "--for", "1500ms", "--output", &file]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ironbridge replay"), "it says what to do next: {text}");
    assert_eq!(tool(&["capture", "--config", &live, "--output", &file]).0, Some(64), "nothing is overwritten");
    let shown = shown(&file);
    (file, shown)
}

fn questions(shown: &[Value], unit: u64) -> impl Iterator<Item = &Value> {
    shown.iter().filter(move |item| item["kind"] == "question" && item["unit"] == unit)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_what_is_played_values_exceptions_and_silence() {
    let home = tempfile::tempdir().expect("temporary directory");
    let (file, shown) = record(home.path());
    assert!(questions(&shown, 1).all(|item| item["result"] == "answer" && item["function"] == 3), "{shown:?}");
    assert!(questions(&shown, 3).any(|item| item["result"] == "answer" && item["function"] == 4));
    assert!(questions(&shown, 4).any(|item| item["exception"] == 2));
    assert!(questions(&shown, 9).count() >= 2 && questions(&shown, 9).all(|item| item["result"] == "silence"));
    assert_eq!(shown.last().expect("an end")["tail"], Value::Null);
    let bytes = std::fs::read(&file).expect("there");
    assert!(!bytes.windows(13).any(|part| part == b"a-secret-name"), "the uplink stays at home");

    let desk = home.path().join("desk.toml").display().to_string();
    let (_play, report) = Process::start(&["replay", &file, "--json", "--write-config", &desk]);
    let plc = report["buses"][0]["at"].as_str().expect("an address").parse().expect("a socket address");
    let mut client = tcp::connect_slave(plc, Slave(1)).await.expect("listens");
    let recorded: Vec<Vec<u16>> =
        questions(&shown, 1).filter_map(|item| serde_json::from_value(item["words"].clone()).ok()).collect();
    let block = client.read_holding_registers(100, 2).await.expect("line").expect("recorded");
    assert!(recorded.contains(&block), "{block:?} was never said, only {recorded:?}");
    let part = client.read_holding_registers(101, 1).await.expect("line").expect("part of what was recorded");
    assert!(recorded.iter().any(|words| words[1..] == part), "{part:?}");
    let unknown = client.read_holding_registers(101, 2).await.expect("line");
    assert_eq!(unknown, Err(ExceptionCode::IllegalDataAddress), "102 was never asked for");
    assert_eq!(client.write_single_register(100, 1).await.expect("line"), Err(ExceptionCode::IllegalFunction));
    client.set_slave(Slave(4));
    assert_eq!(client.read_holding_registers(5, 1).await.expect("line"), Err(ExceptionCode::IllegalDataAddress));

    let (code, text) = tool(&["read", "--config", &desk, "pump", "meter", "--json"]);
    assert_eq!(code, Some(0), "the map came with the recording: {text}");
    assert_eq!(text.matches("\"quality\":\"good\"").count(), 3, "{text}");
    let (code, text) = tool(&["read", "--config", &desk, "dead"]);
    assert!(code == Some(1) && text.contains("bad (timeout)"), "{text}");
    let again = home.path().join("again.capture").display().to_string();
    let (code, text) = tool(&["capture", "--config", &desk, "--for", "1s", "--output", &again]);
    assert_eq!(code, Some(0), "{text}");
    let words = |shown: &[Value]| questions(shown, 1).map(|item| item["words"].clone()).collect::<Vec<_>>();
    let (first, second) = (words(&shown), words(&self::shown(&again)));
    assert!(second.iter().all(|words| first.contains(words)), "a recording of the replay has the same values");
}

#[test]
fn a_recorder_that_is_killed_leaves_what_it_had_recorded() {
    let home = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::write(home.path().join("pump.csv"), MAP).expect("written");
    std::fs::write(home.path().join("site.toml"), SITE).expect("written");
    std::fs::create_dir(home.path().join("live")).expect("directory");
    let (config, live, file) = (at("site.toml"), at("live/site.toml"), at("site.capture"));
    let (_site, _) = Process::start(&["simulate", "--json", "--config", &config, "--write-config", &live]);
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    let recorder = recorder.args(["capture", "--json", "--config", &live, "--output", &file]);
    let mut recorder = Process(recorder.spawn().expect("starts"));
    until_blocking("something is recorded", || std::fs::metadata(&file).is_ok_and(|file| file.len() >= 2000));
    recorder.0.kill().expect("runs");
    recorder.0.wait().expect("ended");
    let shown = shown(&file);
    assert!(questions(&shown, 1).any(|item| item["result"] == "answer"), "{shown:?}");
    let tail = shown.last().expect("an end")["tail"].as_str().expect("it says so").to_owned();
    assert!(tail.contains("cut off"), "{tail}");
    let (code, text) = tool(&["replay", &file, "--for", "100ms"]);
    assert!(code == Some(0) && text.contains("cut off") && text.contains("0 not recorded"), "{text}");
}

/// Faults of a device, and what the recording of it is to say: a bus for each, so that they do not wait for one another.
const TRAPS: [(&str, &str, &str); 8] = [
    ("modbus-rtu-over-tcp", "noise", "wrong check sum"),
    ("modbus-rtu-over-tcp", "wrong-unit", "another unit"),
    ("modbus-rtu-over-tcp", "registers:2", "another answer"),
    ("modbus-rtu-over-tcp", "truncated", "garbage"),
    ("modbus-tcp", "stale-id", "another answer"),
    ("modbus-tcp", "close", "silence"),
    ("modbus-ascii-over-tcp", "exception:6", "exception"),
    ("modbus-tcp", "pieces:20ms", "answer"),
];

/// Six seconds: two recordings of two seconds each, and two sites that start.
#[test]
fn every_fault_that_was_recorded_is_played_and_recorded_again() {
    let home = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    let (config, live, desk) = (at("site.toml"), at("live.toml"), at("desk.toml"));
    let mut text = "[gateway]\nname = \"seven\"\n".to_owned();
    let mut faults = Vec::new();
    for (ix, (kind, fault, result)) in TRAPS.iter().enumerate() {
        // Who answers in the end is waited for, however slow the machine is; most faults are known only when the time is over.
        let patience = if *result == "answer" { "10s" } else { "500ms" };
        let part = format!(
            "[[bus]]\nname = \"b{ix}\"\ntype = \"{kind}\"\nendpoint = \"192.0.2.{ix}:502\"\nresponse_timeout = \"{patience}\"\n\
             [[device]]\nname = \"d{ix}\"\nbus = \"b{ix}\"\nunit_id = {unit}\n[[device.tag]]\nname = \"v\"\n\
             address = \"holding:0\"\ntype = \"uint64\"\npoll = \"100ms\"\n",
            unit = ix + 1
        );
        text.push_str(&part);
        faults.push(format!("--fault=d{ix}={fault}"));
    }
    std::fs::write(&config, text).expect("written");
    let mut args = vec!["simulate", "--json", "--config", &config, "--write-config", &live];
    args.extend(faults.iter().map(String::as_str));
    let (site, _) = Process::start(&args);
    let mut from = live.clone();
    let mut rounds = Vec::new();
    let mut play = None;
    for name in ["first.capture", "second.capture"] {
        let file = at(name);
        let (code, text) = tool(&["capture", "--config", &from, "--for", "2s", "--output", &file]);
        assert_eq!(code, Some(0), "{text}");
        rounds.push(shown(&file));
        if play.is_none() {
            play = Some(Process::start(&["replay", &file, "--json", "--write-config", &desk]));
            from.clone_from(&desk);
        }
    }
    drop((site, play));
    for (unit, (kind, fault, result)) in (1..).zip(TRAPS) {
        for (round, shown) in rounds.iter().enumerate() {
            // On a machine that stood still the wrong answer comes after its time: such a question tells nothing of the fault.
            let in_time =
                |item: &&Value| fault == "close" || item["received"].as_array().is_some_and(|all| !all.is_empty());
            let told: Vec<_> = questions(shown, unit).filter(in_time).collect();
            assert!(!told.is_empty(), "{fault} on {kind}, round {round}: nothing was asked, or answered in time");
            for item in told {
                assert_eq!(item["result"], result, "{fault} on {kind}, round {round}: {item}");
                assert_eq!(item["hung_up"], fault == "close", "{fault} on {kind}, round {round}: {item}");
            }
        }
    }
    let pieces = |round: usize| {
        questions(&rounds[round], 8).all(|item| item["received"].as_array().is_some_and(|all| all.len() > 1))
    };
    assert!(pieces(0) && pieces(1), "pieces stay pieces");
}

/// A frame of a serial line.
fn frame(body: &[u8]) -> Vec<u8> {
    let one = |crc: u16, byte: &u8| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    };
    [body, &body.iter().fold(0xFFFF, one).to_le_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_listens_says_nothing_and_hears_who_asked_whom() {
    let home = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    let (port, file) = (at("rs485"), at("line.capture"));
    let line = Pty::open(Some(&home.path().join("rs485"))).expect("a pseudo-terminal");
    let mut listener = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    let listener = listener.args(["capture", "--json", "--listen", &port, "--serial", "19200-8N1", "--output", &file]);
    let mut listener = Process(listener.stdout(Stdio::null()).spawn().expect("starts"));
    let size = || std::fs::metadata(&file).map_or(0, |file| file.len());
    let grown = async |from: u64| {
        until("something more is recorded", || size() > from).await;
        size()
    };
    until("the port is open", || tool(&["capture", "--show", &file]).1.contains("connected")).await;
    let mut known = size();
    for said in [
        &[3, 4, 0, 0, 0, 2][..],
        &[3, 4, 4, 0x12, 0x34, 0x56, 0x78],
        &[9, 3, 0, 0, 0, 1],
        &[3, 6, 0, 7, 0, 5],
        &[3, 0x86, 2],
        &[3, 4, 0, 0, 0, 2],
        &[3, 4, 4, 0x12, 0x35, 0x56, 0x78],
    ] {
        let frame = frame(said);
        assert_eq!(line.write(&frame).expect("open"), frame.len());
        known = grown(known).await;
    }
    let mut unsaid = [0u8; 1];
    let heard = tokio::time::timeout(Duration::from_millis(1), line.read(&mut unsaid)).await;
    assert!(heard.is_err(), "it must not say anything");
    let id = rustix::process::Pid::from_child(&listener.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("signal");
    assert!(listener.0.wait().expect("ends").success());

    let shown = shown(&file);
    let told: Vec<_> = shown.iter().filter(|item| item["kind"] == "question").map(|item| &item["result"]).collect();
    assert_eq!(told, ["answer", "silence", "exception", "answer"]);
    assert_eq!(questions(&shown, 3).next().expect("asked")["words"], serde_json::json!([0x1234, 0x5678]));
    let (_play, report) = Process::start(&["replay", &file, "--json", "--speed", "1000x"]);
    let played = report["buses"][0]["at"].as_str().expect("a path");
    let (code, text) = tool(&["read", "serial", played, "input:1", "--unit", "3", "--line", "19200-8N1"]);
    assert!(code == Some(0) && text.contains("0x5678"), "{text}");
    let (code, text) = tool(&["replay", &file, "--write-config", &at("desk.toml")]);
    assert!(code == Some(64) && text.contains("--config"), "nobody told it of devices: {text}");
}

#[test]
fn what_cannot_be_recorded_or_played_is_said_in_words() {
    let home = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| home.path().join(name).display().to_string();
    let says = |args: &[&str], code: i32, part: &str| {
        let (ended, text) = tool(args);
        assert!(ended == Some(code) && text.contains(part), "{args:?}: {ended:?} {text}");
    };
    std::fs::write(home.path().join("pump.csv"), MAP).expect("written");
    std::fs::write(home.path().join("site.toml"), SITE).expect("written");
    let (config, file) = (at("site.toml"), at("no.capture"));
    says(&["capture", "--config", &config], 64, "--output");
    says(&["capture", "--config", &config, "--bus", "lime", "--output", &file], 64, "no bus 'lime'");
    let mut vain = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    let vain = vain.args(["capture", "--json", "--config", &config, "--bus", "line", "--output", &file]);
    let mut vain = Process(vain.stdout(Stdio::null()).spawn().expect("starts"));
    until_blocking("it tries", || tool(&["capture", "--show", &file]).1.contains("cannot connect"));
    let id = rustix::process::Pid::from_child(&vain.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("signal");
    assert_eq!(vain.0.wait().expect("ends").code(), Some(75), "nobody could be asked");
    says(&["capture", "--show", &file], 0, "cannot connect");
    says(&["capture", "--show", &config], 64, "no recording");
    says(&["replay", &config], 64, "no recording");
    says(&["replay", &at("nothing")], 64, "No such file");
    says(&["replay", &file, "--speed", "fast"], 64, "no speed");
    says(&["simulate", "--config", &config, "--fault", "pump=unplug"], 64, "serial port");
    says(&["simulate", "--config", &config, "--fault", "meter=stale-id"], 64, "late");
    says(&["simulate", "--config", &config, "--fault", "line=close"], 64, "TCP connection");
    says(&["simulate", "--config", &config, "--fault", "meter=tired"], 64, "no fault 'tired'");
    says(&["simulate", "--config", &config, "--fault", "lime=dead"], 64, "no device 'lime'");
}
