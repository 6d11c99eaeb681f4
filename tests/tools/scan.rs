//! `scan` as a process: who is found, who is not, what is told; and that nothing but reads is ever sent.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config;
use ironbridge::config::HostFacts;
use ironbridge::model::tag::Table;
use ironbridge::plant::identity::Identity;
use ironbridge::plant::image::Image;
use ironbridge::plant::pty::Pty;
use ironbridge::plant::site::{Site, SiteOptions};
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// FC 1 to 4 read, 17 and 43 ask who is there.
const READS: [u8; 6] = [1, 2, 3, 4, 17, 43];

/// What a unit says to a PDU; `None`: nothing.
type Says = fn(u8, &[u8]) -> Option<Vec<u8>>;

/// A serial line whose devices are a function, and which functions they were asked for.
struct Line {
    path: String,
    seen: Arc<Mutex<Vec<(u8, u8)>>>,
}

impl Line {
    fn serve(says: Says) -> Self {
        let pty = Pty::open(None).expect("opens");
        let path = pty.path().to_str().expect("UTF-8").to_owned();
        let seen: Arc<Mutex<Vec<(u8, u8)>>> = Arc::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            let (mut frame, mut space) = (Vec::new(), [0; 300]);
            loop {
                let count = pty.read(&mut space).await.expect("open");
                frame.extend_from_slice(&space[..count]);
                let whole = frame.split_last_chunk::<2>().is_some_and(|(body, sum)| crc(body).to_le_bytes() == *sum);
                if !whole {
                    continue;
                }
                let (unit, pdu) = (frame[0], frame[1..frame.len() - 2].to_vec());
                frame.clear();
                log.lock().expect("whole").push((unit, pdu[0]));
                if let Some(reply) = says(unit, &pdu) {
                    let body = [&[unit][..], &reply].concat();
                    pty.write(&[&body[..], &crc(&body).to_le_bytes()].concat()).expect("open");
                }
            }
        });
        Self { path, seen }
    }

    /// Scans until the line has seen all of these questions, and never another one. What a device has not read when the
    /// port is opened anew is gone, so on a machine with more to do some may be missing.
    async fn is_asked_for(&self, words: &str, units: &[u8]) {
        for attempt in 0.. {
            self.seen.lock().expect("whole").clear();
            scan(words).await;
            let asked: Vec<u8> = self.seen().into_iter().map(|(unit, _)| unit).collect();
            if asked == units {
                return;
            }
            assert!(attempt < 20 && asked.len() < units.len(), "{words}: {asked:?}");
        }
    }

    fn seen(&self) -> Vec<(u8, u8)> {
        self.seen.lock().expect("whole").clone()
    }
}

/// Unit 3 has holding register 0 and says who it is; unit 40 says no to everything; others are not there.
fn meters(unit: u8, pdu: &[u8]) -> Option<Vec<u8>> {
    match (unit, pdu) {
        (3, [3, 0, 0, 0, 1]) => Some(vec![3, 2, 0x12, 0x34]),
        (3, [43, 14, 1, 0]) => Some([&[43, 14, 1, 1, 0, 0, 2, 0, 7][..], b"Eastron", &[1, 6], b"SDM630"].concat()),
        (3, [17]) => Some(vec![17, 2, 1, 0xFF]),
        (3, [function, ..]) => Some(vec![function | 0x80, 1]),
        (40, [function, ..]) => Some(vec![function | 0x80, 2]),
        _ => None,
    }
}

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

fn command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.arg("scan").args(words.split_whitespace());
    command
}

async fn scan(words: &str) -> (Option<i32>, String, String) {
    let mut command = command(words);
    let told: Output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("no panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (told.status.code(), text(&told.stdout), text(&told.stderr))
}

fn units_of(found: &Json) -> Vec<u64> {
    found["devices"].as_array().expect("a list").iter().filter_map(|device| device["unit_id"].as_u64()).collect()
}

/// Scans until these units are found and all is as it should be. On a network, where everybody answers at once, with all
/// patience; on a line, where patience costs time, with more and more of it: the machine may have more to do.
async fn finds(words: &str, units: &[u64], right: impl Fn(&Json) -> bool) -> Json {
    let timeouts: &[u32] = if words.starts_with("tcp") { &[20_000] } else { &[200, 400, 1600, 6400] };
    let mut last = Json::Null;
    for timeout in timeouts {
        let (code, found, said) = scan(&format!("{words} --json --timeout {timeout}ms")).await;
        last = serde_json::from_str(&found).unwrap_or_else(|_| panic!("{words}: {found} {said}"));
        if units_of(&last) == units && right(&last) {
            assert_eq!(code, Some(i32::from(units.is_empty())));
            return last;
        }
    }
    panic!("{words}: {last}");
}

fn accepted(lines: &str, home: &Path) {
    let file = home.join("pasted.toml");
    fs::write(&file, format!("[gateway]\nname = \"g\"\n{lines}")).expect("written");
    let check = Command::new(env!("CARGO_BIN_EXE_ironbridge")).arg("check").arg("--config").arg(&file).output();
    let check = check.expect("runs");
    assert!(check.status.success(), "{lines}\n{}", String::from_utf8_lossy(&check.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_scanned_with_reads_only_and_says_who_is_there() {
    let line = Line::serve(meters);
    let home = tempfile::tempdir().expect("temporary directory");
    let words = format!("serial {} --serial 19200-8E1 --units 2-4,40", line.path);
    let found = finds(&words, &[3, 40], |found| {
        let first = &found["devices"][0];
        first["vendor"] == "Eastron"
            && first["identity_from"] == "FC 43/14"
            && first["tables"]["holding"] == "data"
            && first["profiles"] == serde_json::json!(["eastron-sdm630"])
            && found["devices"][1]["tables"]["holding"] == "exception 2"
    })
    .await;
    assert_eq!((&found["complete"], &found["asked"]), (&Json::Bool(true), &serde_json::json!(4)));
    accepted(found["config"].as_str().expect("text"), home.path());
    let functions: BTreeSet<u8> = line.seen().into_iter().map(|(_, function)| function).collect();
    assert_eq!(functions, READS.into(), "all that is ever asked");
    let (code, text, said) = scan(&format!("serial {} --serial 19200-8E1 --units 3 --timeout 2s", line.path)).await;
    assert!(code == Some(0) && text.contains("Eastron SDM630") && text.contains("[[device]]"), "{text}");
    assert!(said.contains("at worst 6 s") && !said.contains('['), "an estimate, and no bar in a pipe: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usual_units_are_asked_at_every_setting_and_the_others_where_somebody_answers() {
    let line = Line::serve(meters);
    let words = format!("serial {} --baud 9600,19200 --format 8N1 --units 3,39-41", line.path);
    finds(&words, &[3, 40], |found| {
        // A pseudo-terminal does not mind its settings.
        found["devices"][0]["serial"] == serde_json::json!(["9600-8N1", "19200-8N1"])
            && found["left_out"].to_string().contains("units 39-41 at other settings than 9600-8N1")
    })
    .await;
    let nobody = Line::serve(|_, _| None);
    let words = format!("serial {} --baud 9600,19200 --format 8N1 --units 3,39-41 --timeout 50ms", nobody.path);
    let (code, text, _) = scan(&words).await;
    assert!(code == Some(1) && text.contains("nothing found") && text.contains("A and B swapped"), "{text}");
    assert!(text.contains("not asked: units 39-41 at any setting"), "{text}");
    nobody.is_asked_for(&words, &[3, 3]).await;
    nobody.is_asked_for(&format!("{words} --all"), &[3, 39, 40, 41, 3, 39, 40, 41]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_told_and_never_counts_for_another_unit() {
    let pty = Pty::open(None).expect("opens");
    let path = pty.path().to_str().expect("UTF-8").to_owned();
    tokio::spawn(async move {
        let mut space = [0; 300];
        loop {
            pty.read(&mut space).await.expect("open");
            if space[0] == 5 {
                tokio::time::sleep(Duration::from_millis(600)).await;
                let body = [5, 3, 2, 0, 1];
                pty.write(&[&body[..], &crc(&body).to_le_bytes()].concat()).expect("open");
            }
        }
    });
    for attempt in 0.. {
        let words = format!("serial {path} --serial 19200-8E1 --units 5,6 --timeout 400ms --json");
        let (_, found, _) = scan(&words).await;
        let found: Json = serde_json::from_str(&found).expect("an object");
        assert!(!units_of(&found).contains(&6), "{found}");
        // Where the machine stood still the answer was there when it went on.
        if units_of(&found).is_empty() && found["notes"].to_string().contains("longer --timeout") {
            return;
        }
        assert!(attempt < 10, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_frame_are_told_as_other_settings() {
    let pty = Pty::open(None).expect("opens");
    let path = pty.path().to_str().expect("UTF-8").to_owned();
    tokio::spawn(async move {
        let mut space = [0; 300];
        loop {
            pty.read(&mut space).await.expect("open");
            pty.write(&[space[0], 3, 2, 0x55, 0xAA, 0, 0]).expect("open"); // a wrong CRC
        }
    });
    for attempt in 0.. {
        let (code, text, _) = scan(&format!("serial {path} --serial 19200-8E1 --units 5 --timeout 500ms")).await;
        assert!(code == Some(1), "{text}");
        if text.contains("something talks here at 19200-8E1 (asked for unit 5)") {
            return;
        }
        assert!(attempt < 20, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_behind_a_gateway_are_told_from_those_that_are_not_there() {
    let units = Units::new();
    let mut image = Image::new();
    image.set_words(Table::Holding, 0, &[7]);
    for unit in [9, 77] {
        units.insert(unit, image.clone());
    }
    units.introduce(9, Identity::new("ACME", "flow meter", "3"));
    let line = TcpLine::serve(ANY, units.clone()).await.expect("serves");
    let home = tempfile::tempdir().expect("temporary directory");
    let found = finds(&format!("tcp {}", line.address()), &[9, 77], |_| true).await;
    assert_eq!(found["devices"][0]["product"], "flow meter");
    assert_eq!(found["heard"][0]["absent"].as_array().map(Vec::len), Some(254));
    accepted(found["config"].as_str().expect("text"), home.path());
    assert_eq!(units.stats().writes.get(), 0);
    let (code, text, _) = scan(&format!("tcp {} --units 1-5", line.address())).await;
    assert!(code == Some(1) && text.contains("nobody is there (exceptions 10, 11) for units 1-5"), "{text}");
    let place = line.address();
    line.stop().await;
    let (code, _, said) = scan(&format!("tcp {place}")).await;
    assert!(code == Some(75) && said.contains("nobody listens"), "{said}");
}

/// A server over MBAP; `says`: to unit and PDU; `None`: it hangs up.
async fn server(says: Says) -> (SocketAddr, Arc<Mutex<BTreeSet<u8>>>) {
    let door = TcpListener::bind(ANY).await.expect("binds");
    let (place, seen) = (door.local_addr().expect("bound"), Arc::<Mutex<BTreeSet<u8>>>::default());
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = door.accept().await.expect("open");
            let mut head = [0; 7];
            while peer.read_exact(&mut head).await.is_ok() {
                let mut pdu = vec![0; usize::from(head[5]) - 1];
                peer.read_exact(&mut pdu).await.expect("whole");
                log.lock().expect("whole").insert(pdu[0]);
                let Some(reply) = says(head[6], &pdu) else { break };
                let length = u8::try_from(reply.len() + 1).expect("short");
                let frame = [&head[..4], &[0, length, head[6]], &reply].concat();
                peer.write_all(&frame).await.expect("open");
            }
        }
    });
    (place, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_that_answers_for_every_id_is_one_device() {
    let (place, seen) = server(|_, pdu| match pdu {
        [3, 0, 0, 0, 1] => Some(vec![3, 2, 0, 1]),
        [function, ..] => Some(vec![function | 0x80, 1]),
        [] => None,
    })
    .await;
    let found = finds(&format!("tcp {place}"), &[1], |_| true).await;
    assert_eq!(found["alike"]["unit_id"], 1);
    assert!(found["notes"][0].as_str().is_some_and(|note| note.contains("answers every unit id")), "{found}");
    assert!(found["left_out"][0].as_str().is_some_and(|note| note.starts_with("unit ids 2-96")), "{found}");
    assert!(seen.lock().expect("whole").iter().all(|function| READS.contains(function)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_asked_a_few_times_and_no_more() {
    let (place, _) = server(|_, _| None).await;
    let (code, text, _) = scan(&format!("tcp {place}")).await;
    assert!(code == Some(1) && text.contains("not finished: 5 times in a row"), "{text}");
    let (place, _) = server(|unit, pdu| (unit == 9).then(|| vec![pdu[0] | 0x80, 2])).await;
    let found = finds(&format!("tcp {place} --units 8-10"), &[9], |_| true).await;
    assert_eq!(found["heard"][0]["hung_up"], serde_json::json!([8, 10]), "one that hangs up for some only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_is_broken_off_tells_what_it_found_and_a_port_has_one_master() {
    let line = Line::serve(meters);
    let words = format!("serial {} --serial 19200-8E1 --units 3,41-247 --timeout 2s --json", line.path);
    let child = command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    while !line.seen().iter().any(|(unit, _)| *unit == 41) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (code, _, said) = scan(&format!("serial {} --serial 19200-8E1", line.path)).await;
    assert!(code == Some(75) && said.contains("a serial line has one master"), "{said}");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("there");
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().expect("ends")).await.expect("no panic");
    let found: Json = serde_json::from_slice(&ended.stdout).expect("an object");
    assert_eq!((ended.status.code(), &found["complete"], units_of(&found)), (Some(0), &Json::Bool(false), vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_plant_is_found_by_name() {
    let text = "[gateway]\nname = \"g\"\n[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n\
                [[device]]\nname = \"pump-1\"\nbus = \"b\"\nunit_id = 4\n\
                [[device.tag]]\nname = \"p\"\naddress = \"input:0\"\ntype = \"uint16\"\n";
    let facts = HostFacts { hostname: "h".into(), credentials_dir: None };
    let plan = config::parse(text, Path::new("plant.toml"), &facts).expect("is right").plan;
    let site = Site::serve(&plan, &SiteOptions::default()).await.expect("serves");
    let place = site.place("b").expect("served").to_string();
    let found = finds(&format!("tcp {place} --units 1-6"), &[4], |_| true).await;
    assert_eq!(
        (&found["devices"][0]["vendor"], &found["devices"][0]["product"]),
        (&"Ironbridge simulator".into(), &"pump-1".into())
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_usage_and_a_missing_port_names_those_there_are() {
    for (words, part) in [
        ("serial", "name a port; "),
        ("serial /dev/ttyUSB0 --units 0", "outside 1 ..= 247"),
        ("serial /dev/ttyUSB0 --units 9-1", "backwards"),
        ("serial /dev/ttyUSB0 --serial 9600-9X1", "9600-9X1"),
        ("serial /dev/ttyUSB0 --timeout 1ms", "10ms"),
        ("tcp plc --probe holdings:1", "holding:0"),
        ("tcp plc --tls", "--ca-file"),
    ] {
        let (code, _, said) = scan(words).await;
        assert!(code == Some(64) && said.contains(part), "{words}: {said}");
    }
    let (code, _, said) = scan("serial /dev/serial/by-id/nothing-here").await;
    assert!(code == Some(75) && said.contains("there is no /dev") && said.contains("serial port"), "{said}");
}
