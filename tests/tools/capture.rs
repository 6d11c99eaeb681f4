//! capture and replay as processes: a simulated site is recorded, and what replay serves is what was recorded.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_modbus::ExceptionCode;
use tokio_modbus::client::{Reader as _, Writer as _, tcp};
use tokio_modbus::slave::{Slave, SlaveContext as _};

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
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::metadata(&file).map_or(0, |file| file.len()) < 2000 {
        assert!(Instant::now() < deadline, "nothing is recorded");
        std::thread::sleep(Duration::from_millis(20));
    }
    recorder.0.kill().expect("runs");
    recorder.0.wait().expect("ended");
    let shown = shown(&file);
    assert!(questions(&shown, 1).any(|item| item["result"] == "answer"), "{shown:?}");
    let tail = shown.last().expect("an end")["tail"].as_str().expect("it says so").to_owned();
    assert!(tail.contains("cut off"), "{tail}");
    let (code, text) = tool(&["replay", &file, "--for", "100ms"]);
    assert!(code == Some(0) && text.contains("cut off") && text.contains("0 not recorded"), "{text}");
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
    says(
        &["capture", "--config", &config, "--bus", "line", "--for", "200ms", "--output", &file],
        75,
        "no bus could be",
    );
    says(&["capture", "--show", &file], 0, "cannot connect");
    says(&["capture", "--show", &config], 64, "no recording");
    says(&["replay", &config], 64, "no recording");
    says(&["replay", &at("nothing")], 75, "No such file");
    says(&["replay", &file, "--speed", "fast"], 64, "no speed");
    says(&["simulate", "--config", &config, "--fault", "pump=unplug"], 64, "needs a serial port");
    says(&["simulate", "--config", &config, "--fault", "meter=stale-id"], 64, "late");
    says(&["simulate", "--config", &config, "--fault", "line=close"], 64, "TCP connection");
    says(&["simulate", "--config", &config, "--fault", "meter=tired"], 64, "no fault 'tired'");
    says(&["simulate", "--config", &config, "--fault", "lime=dead"], 64, "no device 'lime'");
}
