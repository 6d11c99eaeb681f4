//! The whole gateway as its users run it: how much processor time a million tag values cost, how old a value is when a
//! subscriber has it, what happens when more is asked than the machine can do, how soon the first message comes, and how
//! much memory it all takes.
//!
//! `cargo bench --bench chain`, or with an argument that is part of a row's name. Ten PLCs of 1000 holding registers over
//! Modbus TCP (each register holds the PLC's milliseconds, so every value tells its own age), the real binary with store
//! and broker on, one MQTT subscriber on everything. The PLCs and the subscriber run in the bench's process and are not
//! counted; on a small machine they take processor time away from the gateway all the same.
//!
//! Rows `tag` have one message per tag on the local broker. Row `block` has one message per device and poll: an uplink
//! with `layout = "device"` to a broker in this process, and nobody listening locally.
//!
//! Latency is counted from the moment a register changed to the moment the subscriber had the new value; with a cycle of
//! 100 ms the best that can be is 50 ms in the middle and 99 ms at the 99th percentile.

#![allow(
    clippy::unwrap_used,
    clippy::naive_bytecount,
    clippy::format_push_string,
    reason = "a benchmark ends by panicking"
)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "and rounds")]

#[path = "../support/ports.rs"]
mod ports;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const DEVICES: usize = 10;
const REGISTERS: usize = 1000;
const WARM_UP: Duration = Duration::from_secs(4);
const WATCHED: Duration = Duration::from_secs(15);
/// `USER_HZ` of every Linux of the last decades (man 5 proc).
const TICKS_PER_SECOND: f64 = 100.0;

struct Row {
    name: &'static str,
    poll: &'static str,
    /// One message per device and poll, upstream.
    block: bool,
    tags: usize,
}

const ROWS: [Row; 6] = [
    Row { name: "tag, every 1 s", poll: "1s", block: false, tags: REGISTERS },
    Row { name: "block, every 1 s", poll: "1s", block: true, tags: REGISTERS },
    Row { name: "tag, every 100 ms", poll: "100ms", block: false, tags: REGISTERS },
    Row { name: "block, every 100 ms", poll: "100ms", block: true, tags: REGISTERS },
    Row { name: "overload: tag, every 10 ms", poll: "10ms", block: false, tags: REGISTERS },
    Row { name: "idle: ten tags a minute", poll: "60s", block: false, tags: 1 },
];

fn main() {
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let epoch = Instant::now();
    let plcs: Vec<SocketAddr> = (0..DEVICES).map(|_| plc(epoch)).collect();
    println!(
        "{:<28} {:>10} {:>9} {:>12} {:>8} {:>8} {:>8} {:>9}",
        "", "values/s", "of wanted", "CPU s/10^6", "p50 ms", "p99 ms", "RSS MB", "first ms"
    );
    for row in ROWS.iter().filter(|row| row.name.contains(&wanted)) {
        measure(row, &plcs, epoch);
    }
}

fn measure(row: &Row, plcs: &[SocketAddr], epoch: Instant) {
    let home = tempfile::tempdir().unwrap();
    let seen = Arc::<Seen>::default();
    let upstream = row.block.then(|| upstream(epoch, Arc::clone(&seen)));
    let port = SocketAddr::from(([127, 0, 0, 1], ports::own_port()));
    std::fs::write(home.path().join("ironbridge.toml"), config(row, plcs, port, upstream)).unwrap();
    let started = Instant::now();
    let gateway = Gateway::start(home.path());
    if !row.block {
        let seen = Arc::clone(&seen);
        spawn(move || subscribe(port, epoch, &seen));
    }
    let first = wait_for_first(&seen, started);
    if row.poll != "60s" {
        sleep(WARM_UP);
    }
    seen.ages.lock().unwrap().clear();
    let (values, cpu, begun) = (seen.values.load(Ordering::Relaxed), gateway.cpu(), Instant::now());
    sleep(WATCHED);
    let elapsed = begun.elapsed().as_secs_f64();
    let values = (seen.values.load(Ordering::Relaxed) - values) as f64;
    let cpu = gateway.cpu() - cpu;
    let mut ages = std::mem::take(&mut *seen.ages.lock().unwrap());
    ages.sort_unstable();
    let age = |part: f64| {
        let place = (ages.len() as f64 * part) as usize;
        ages.get(place.min(ages.len().saturating_sub(1))).map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let poll = match row.poll {
        "1s" => 1.0,
        "100ms" => 0.1,
        "10ms" => 0.01,
        _ => 60.0,
    };
    let of_wanted = values / elapsed / ((DEVICES * row.tags) as f64 / poll);
    let per_million = if values > 1000.0 { format!("{:.2}", cpu / values * 1e6) } else { "-".to_owned() };
    println!(
        "{:<28} {:>10.0} {:>8.1}% {:>12} {:>8} {:>8} {:>8.1} {:>9.0}",
        row.name,
        values / elapsed,
        of_wanted * 100.0,
        per_million,
        age(0.5),
        age(0.99),
        gateway.rss() as f64 / 1e6,
        first.as_secs_f64() * 1e3
    );
}

fn wait_for_first(seen: &Seen, started: Instant) -> Duration {
    while seen.values.load(Ordering::Relaxed) == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "no value came");
        sleep(Duration::from_micros(200));
    }
    started.elapsed()
}

fn config(row: &Row, plcs: &[SocketAddr], mqtt: SocketAddr, upstream: Option<SocketAddr>) -> String {
    let mut text = format!(
        "[gateway]\nname = \"g\"\ntopic = \"b/{{device}}/{{tag}}\"\ndata_dir = \"data\"\n\
         [[broker.listener]]\nlisten = \"{mqtt}\"\nanonymous = \"read\"\n"
    );
    if let Some(upstream) = upstream {
        text += &format!(
            "[[uplink]]\nname = \"up\"\nurl = \"mqtt://{upstream}\"\nclient_id = \"b\"\nlayout = \"device\"\nmqtt_version = \"3.1.1\"\n"
        );
    }
    for (place, plc) in plcs.iter().enumerate() {
        text += &format!(
            "[[bus]]\nname = \"bus-{place}\"\ntype = \"modbus-tcp\"\nendpoint = \"{plc}\"\n\
             [[device]]\nname = \"d{place}\"\nbus = \"bus-{place}\"\nunit_id = 1\npoll = \"{}\"\n",
            row.poll
        );
        for tag in 0..row.tags {
            text += &format!("[[device.tag]]\nname = \"t{tag}\"\naddress = \"holding:{tag}\"\ntype = \"uint16\"\n");
        }
    }
    text
}

/// The running gateway; killed when dropped.
struct Gateway(Child);

impl Gateway {
    fn start(home: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
        command.args(["run", "--config", "ironbridge.toml"]).current_dir(home).env_remove("JOURNAL_STREAM");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Processor time so far, seconds: user and system.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let behind_name = stat.rsplit_once(") ").unwrap().1;
        let ticks: u64 = behind_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// Resident memory, bytes.
    fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What came to the subscriber.
#[derive(Default)]
struct Seen {
    values: AtomicU64,
    /// Of the changes of one register of each device, milliseconds.
    ages: Mutex<Vec<u32>>,
}

/// The milliseconds of the PLCs' clock, as far as they go into a register.
fn now(epoch: Instant) -> u16 {
    epoch.elapsed().as_millis() as u16
}

/// A device whose every holding register is its clock.
fn plc(epoch: Instant) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        for stream in listener.incoming() {
            spawn(move || drop(answer(stream.unwrap(), epoch)));
        }
    });
    address
}

/// MODBUS Messaging on TCP/IP 1.0b, section 3.1.3: transaction, protocol, length, unit; then the PDU.
fn answer(mut stream: TcpStream, epoch: Instant) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 12];
    loop {
        stream.read_exact(&mut request)?;
        let count = usize::from(u16::from_be_bytes([request[10], request[11]]));
        let mut reply = Vec::with_capacity(9 + 2 * count);
        reply.extend(&request[..4]);
        reply.extend((3 + 2 * count as u16).to_be_bytes());
        reply.extend([request[6], request[7], (2 * count) as u8]);
        let word = now(epoch).to_be_bytes();
        (0..count).for_each(|_| reply.extend(word));
        stream.write_all(&reply)?;
    }
}

/// A subscriber on everything, MQTT 3.1.1, QoS 0.
fn subscribe(broker: SocketAddr, epoch: Instant, seen: &Seen) {
    let mut stream = loop {
        match TcpStream::connect(broker) {
            Ok(stream) => break stream,
            Err(_) => sleep(Duration::from_micros(200)),
        }
    };
    stream.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05bench").unwrap();
    stream.write_all(b"\x82\x08\x00\x01\x00\x03b/#\x00").unwrap();
    let mut last = [None; DEVICES];
    drop(packets(&mut stream, |first, body| {
        if first >> 4 == 3 {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let (name, payload) = (&body[2..2 + topic], &body[2 + topic..]);
            if let Some(value) = value(payload) {
                seen.values.fetch_add(1, Ordering::Relaxed);
                if name.ends_with(b"/t0") {
                    note(seen, &mut last[usize::from(name[3] - b'0')], value, now(epoch));
                }
            }
        }
        Vec::new()
    }));
}

/// Counts the age of every change between the last value and this one: all of them are known from now on.
fn note(seen: &Seen, last: &mut Option<u16>, value: u16, now: u16) {
    if let Some(before) = last.replace(value) {
        let changes = value.wrapping_sub(before);
        let youngest = now.wrapping_sub(value);
        seen.ages.lock().unwrap().extend((0..changes).map(|older| u32::from(youngest) + u32::from(older)));
    }
}

/// `{"value":123,…`; nothing for null.
fn value(payload: &[u8]) -> Option<u16> {
    let digits = payload.strip_prefix(b"{\"value\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// A broker that acknowledges everything and counts the values in messages of layout `device`.
fn upstream(epoch: Instant, seen: Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        let mut last = [None; DEVICES];
        for stream in listener.incoming() {
            drop(packets(&mut stream.unwrap(), |first, body| match first >> 4 {
                1 => vec![0x20, 2, 0, 0],
                8 => vec![0x90, 3, body[0], body[1], 1],
                12 => vec![0xD0, 0],
                3 => {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let (name, payload) = (&body[2..2 + topic], &body[4 + topic..]);
                    count_device(&seen, &mut last, name, payload, epoch);
                    if first & 0x06 == 0 { Vec::new() } else { vec![0x40, 2, body[2 + topic], body[3 + topic]] }
                }
                _ => Vec::new(),
            }));
        }
    });
    address
}

fn count_device(seen: &Seen, last: &mut [Option<u16>], name: &[u8], payload: &[u8], epoch: Instant) {
    let now = now(epoch);
    let Some(values) = find(payload, b"\"values\":{") else { return };
    let inside = &payload[values..];
    let inside = &inside[..inside.iter().position(|byte| *byte == b'}').unwrap_or(inside.len())];
    let count = inside.iter().filter(|byte| **byte == b':').count() as u64;
    seen.values.fetch_add(count, Ordering::Relaxed);
    if let Some(at) = find(inside, b"\"t0\":") {
        let digits: Vec<u8> = inside[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
        if let Some(value) = std::str::from_utf8(&digits).ok().and_then(|text| text.parse().ok()) {
            note(seen, &mut last[usize::from(name[name.len() - 1] - b'0')], value, now);
        }
    }
}

/// Where what follows `what` begins.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what).map(|at| at + what.len())
}

/// Reads MQTT packets until the other side is gone: first byte and body to `take`, its answer back.
fn packets(stream: &mut TcpStream, mut take: impl FnMut(u8, &[u8]) -> Vec<u8>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut bytes, mut piece, mut answer) = (Vec::new(), vec![0; 256 << 10], Vec::new());
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..length]);
        let mut at = 0;
        while let Some((body, end)) = packet(&bytes[at..]) {
            answer.extend(take(bytes[at], &bytes[at + body..at + end]));
            at += end;
        }
        bytes.drain(..at);
        stream.write_all(&answer)?;
        answer.clear();
    }
}

/// Where the body of the first packet begins and ends (MQTT 3.1.1, section 2.2.3).
fn packet(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut length, mut shift) = (0, 0);
    for (place, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let end = place + 1 + length;
            return (bytes.len() >= end).then_some((place + 1, end));
        }
    }
    None
}
