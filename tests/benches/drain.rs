//! How fast a backlog leaves: samples a second on loopback for each format, how much of a 256 kbit/s link with 600 ms of
//! round trip is used, and how late live records are meanwhile.
//!
//! `cargo bench --bench drain`, or with an argument that is part of a row's name. Store, uplink and road are the real
//! ones; the broker is the least that acknowledges (`-- mqtt://127.0.0.1:1883` takes another), the link is made in user
//! space.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark ends by panicking and rounds")]

#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/slow_link.rs"]
mod slow_link;
#[path = "../support/store.rs"]
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironbridge::config::plan::{Delivery, Format, Layout, MqttVersion, ServerPlan, Transport, UplinkPlan};
use ironbridge::flow::notice::notices;
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::Class;
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::value::Value;
use ironbridge::uplink::{StoreSource, Timing, Uplink, UplinkParts, UplinkStats};
use slow_link::SlowLink;
use store::{Running, opening, start, tag, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TAGS: u32 = 1000;
const RATE: u32 = 32_000;
const ROUND_TRIP: Duration = Duration::from_millis(600);
/// How long the slow link is watched.
const WATCHED: Duration = Duration::from_secs(30);

/// A message with a single event; those of the backlog are larger.
const SMALL: usize = 600;

#[derive(Default)]
struct Seen {
    payload: AtomicU64,
    messages: AtomicU64,
    events: AtomicU64,
}

/// Takes every publish of MQTT 3.1.1 and acknowledges it.
async fn broker(seen: Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream, Arc::clone(&seen)));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>) {
    let (mut bytes, mut answer) = (Vec::new(), Vec::new());
    let mut piece = vec![0; 256 << 10];
    loop {
        let Ok(length @ 1..) = stream.read(&mut piece).await else { return };
        bytes.extend_from_slice(&piece[..length]);
        let mut at = 0;
        while let Some((body, end)) = packet(&bytes[at..]) {
            let (first, content) = (bytes[at], &bytes[at + body..at + end]);
            match first >> 4 {
                1 => answer.extend([0x20, 2, 0, 0]),
                3 => {
                    let topic = usize::from(u16::from_be_bytes([content[0], content[1]]));
                    answer.extend([0x40, 2, content[2 + topic], content[3 + topic]]);
                    seen.payload.fetch_add(content.len() as u64, Ordering::Relaxed);
                    seen.messages.fetch_add(1, Ordering::Relaxed);
                    // where events go in batches, the one that is live is the small one
                    let (name, small) = (&content[2..2 + topic], content.len() < SMALL);
                    if name.ends_with(b"/event") || small && name.ends_with(b"/batch") {
                        seen.events.fetch_add(1, Ordering::Relaxed);
                    }
                }
                12 => answer.extend([0xD0, 0]),
                _ => {}
            }
            at += end;
        }
        bytes.drain(..at);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        answer.clear();
    }
}

/// Where the body of the first packet begins and ends.
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

struct Row {
    name: &'static str,
    /// Samples of backlog, on loopback and on the slow link.
    samples: (u64, u64),
    change: fn(&mut UplinkPlan),
}

fn rows() -> Vec<Row> {
    vec![
        Row { name: "json, a message per sample", samples: (200_000, 30_000), change: |_| {} },
        Row { name: "json, layout device", samples: (500_000, 100_000), change: |plan| plan.layout = Layout::Device },
        Row { name: "json, lists of 1000", samples: (500_000, 100_000), change: |plan| plan.batch_samples = 1000 },
        Row {
            name: "batch of 1000",
            samples: (2_000_000, 600_000),
            change: |plan| (plan.format, plan.batch_samples) = (Format::Batch, 1000),
        },
        Row {
            name: "batch of 10000",
            samples: (3_000_000, 1_000_000),
            change: |plan| (plan.format, plan.batch_samples) = (Format::Batch, 10_000),
        },
    ]
}

/// A store with this many samples: 1000 tags at 1 Hz, temperatures that move a little.
async fn filled(dir: &std::path::Path, samples: u64) -> Running {
    let mut opening = opening(dir);
    opening.max_size = 1 << 30;
    opening.commit_interval = Duration::from_secs(1);
    opening.tags = (0..TAGS).map(|n| tag(&format!("tag-{n}"), DataType::Float32, Class::Telemetry)).collect();
    let running = start(opening);
    let rounds = samples / u64::from(TAGS);
    for round in 0..rounds {
        let at = running.clock.now();
        let value = |n: u32| ((round * 7 + u64::from(n) * 13) % 40) as f64 * 0.1 + f64::from(n);
        let sample = |n| Sample { tag: TagIx(n), value: Some(Value::Float(value(n))), quality: Quality::Good, at };
        running.hub.emit(Batch { device: DeviceIx(0), samples: (0..TAGS).map(sample).collect() }).await;
        running.time.advance(Duration::from_secs(1));
    }
    running.settled(rounds * u64::from(TAGS)).await;
    running
}

fn uplink(running: &Running, row: &Row, to: SocketAddr, run_dir: &std::path::Path) -> (Arc<UplinkStats>, Stop) {
    let mut plan = UplinkPlan {
        delivery: Delivery::LiveFirst,
        mqtt_version: MqttVersion::V311,
        servers: vec![ServerPlan { host: to.ip().to_string(), port: to.port(), transport: Transport::Tcp }],
        ..UplinkPlan::plain("cloud")
    };
    (row.change)(&mut plan);
    let (uplink, stats) = Uplink::new(UplinkParts {
        plan,
        gateway: "gw".into(),
        source: StoreSource::new(running.store.clone(), "cloud").unwrap(),
        clock: running.clock.clone(),
        notices: notices().0,
        commands: None,
        pass_on: None,
        run_dir: run_dir.to_owned(),
        timing: Timing::default(),
    });
    let stop = Stop::new();
    tokio::spawn(uplink.run(stop.clone()));
    (stats, stop)
}

async fn loopback(row: &Row, other: Option<SocketAddr>) {
    let (home, run_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seen = Arc::new(Seen::default());
    let address = match other {
        Some(address) => address,
        None => broker(Arc::clone(&seen)).await,
    };
    let samples = row.samples.0 / u64::from(TAGS) * u64::from(TAGS);
    let running = filled(home.path(), samples).await;
    let begun = Instant::now();
    let (stats, stop) = uplink(&running, row, address, run_dir.path());
    until("all acknowledged", || stats.acknowledged.get() >= samples).await;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = stats.bytes_up() as f64 / samples as f64;
    println!("{:<28} {:>11.0} {:>14.2} {:>10}", row.name, samples as f64 / seconds, bytes, stats.published.get());
    stop.begin();
    stop.hurry();
    running.close().await;
}

async fn satellite(row: &Row) {
    let (home, run_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seen = Arc::new(Seen::default());
    let running = filled(home.path(), row.samples.1).await;
    let link = SlowLink::to(broker(Arc::clone(&seen)).await, RATE, ROUND_TRIP).await;
    let (stats, stop) = uplink(&running, row, link.address, run_dir.path());
    until("the backlog is on its way", || stats.acknowledged.get() > 0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (begun, bytes, acknowledged) = (Instant::now(), link.up.load(Ordering::Relaxed), stats.acknowledged.get());
    let mut late = Vec::new();
    while begun.elapsed() < WATCHED {
        let before = seen.events.load(Ordering::Relaxed);
        running.event(Class::Event, "live").await;
        let committed = Instant::now();
        until("the event has arrived", || seen.events.load(Ordering::Relaxed) > before).await;
        late.push(committed.elapsed().as_millis());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let used = (link.up.load(Ordering::Relaxed) - bytes) as f64 / (f64::from(RATE) * seconds) * 100.0;
    let rate = (stats.acknowledged.get() - acknowledged) as f64 / seconds;
    late.sort_unstable();
    let left = stats.backlog.get();
    println!(
        "{:<28} {used:>9.1} % {rate:>11.0} {:>10} {:>9} {:>11}",
        row.name,
        late[late.len() / 2],
        late[late.len() - 1],
        if left == 0 { "DRAINED".into() } else { left.to_string() },
    );
    stop.begin();
    stop.hurry();
    running.close().await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let other = words.iter().find_map(|word| word.strip_prefix("mqtt://")?.parse().ok());
    let wanted = |name: &str| {
        let mut names = words.iter().filter(|word| !word.starts_with("mqtt://")).peekable();
        names.peek().is_none() || names.any(|word| name.contains(word.as_str()))
    };
    println!("{:<28} {:>11} {:>14} {:>10}", "loopback", "samples/s", "bytes/sample", "messages");
    for row in rows().iter().filter(|row| wanted(row.name)) {
        loopback(row, other).await;
    }
    if other.is_some() {
        return;
    }
    println!();
    println!(
        "{:<28} {:>11} {:>11} {:>10} {:>9} {:>11}",
        "256 kbit/s, 600 ms", "link used", "samples/s", "live, ms", "worst", "still owed"
    );
    for row in rows().iter().filter(|row| wanted(row.name)) {
        satellite(row).await;
    }
}
