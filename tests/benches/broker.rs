//! Our broker beside mosquitto: `cargo bench --bench broker [-- WORDS OF A ROW]`, both in the same run, in turns, on this
//! machine, as ratios. Without mosquitto: SKIPPED.
//!
//! Both are processes of their own: the gateway as it is shipped, without a bus; mosquitto with `max_queued_messages 0` (no
//! limit), `max_inflight_messages 256` (what ours has) and `set_tcp_nodelay true`. The clients are ours for both
//! (tests/support/load.rs), speak 3.1.1 and count every message. A round is short, each row has several, and the best one
//! counts: others use the machine too. CPU is the broker's own, of all its threads, in the cheapest round.
//!
//! Durable sessions, like for like: mosquitto keeps them in memory and writes its whole database now and then (every half
//! hour, as it is set up by default: kill -9 loses what was acknowledged since), or with `autosave_on_changes true` and
//! `autosave_interval 1` after every change: that is the safest it can do, and still after the acknowledgement. Ours has
//! committed before it acknowledges, or the subscriber had it. What is queued for one that is away is therefore a window per
//! fdatasync; with `TMPDIR=/dev/shm` there is no disk in it, and what is left is work.
//!
//! `IRONBRIDGE` names another binary, `ROUNDS` (3) and `ROUND_MS` (700) the effort.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../support/load.rs"]
mod load;
#[path = "../support/ports.rs"]
mod ports;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use load::{Load, Outcome};
use ports::own_port;

/// Payloads: a tag's JSON, and a recipe.
const PAYLOADS: [usize; 2] = [100, 10_000];

/// Messages for a subscriber that is away.
const AWAY: u64 = 5000;

/// A broker in a process and a directory of its own.
struct Broker {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    home: PathBuf,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have gone
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Broker {
    fn start(name: &'static str, config: impl Fn(SocketAddr, &Path) -> String, command: &[&str]) -> Self {
        let home =
            std::env::temp_dir().join(format!("ironbridge-bench-{}-{}", std::process::id(), name.replace(' ', "-")));
        fs::create_dir_all(&home).expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], own_port()));
        fs::write(home.join("config"), config(address, &home)).expect("written");
        let log = fs::File::create(home.join("log")).expect("a file");
        let child = Command::new(command[0])
            .args(&command[1..])
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        let broker = Self { name, child, address, home };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    fn ours() -> Self {
        let binary = std::env::var("IRONBRIDGE").ok();
        let binary = binary.as_deref().or(option_env!("CARGO_BIN_EXE_ironbridge")).expect("IRONBRIDGE");
        let config = |address: SocketAddr, _: &Path| {
            format!(
                "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n\
                 [[broker.listener]]\nlisten = \"{address}\"\nanonymous = \"read-write\"\n\
                 [[broker.acl]]\nuser = \"anonymous\"\nwrite = [\"#\"]\n"
            )
        };
        Self::start("ironbridge", config, &[binary, "run", "--config", "config"])
    }

    fn mosquitto(name: &'static str, persistence: &str) -> Self {
        let config = |address: SocketAddr, home: &Path| {
            format!(
                "listener {} {}\nallow_anonymous true\nmax_inflight_messages 256\nmax_queued_messages 0\n\
                 set_tcp_nodelay true\nlog_type error\nuser {}\npersistence_location {}/\n{persistence}\n",
                address.port(),
                address.ip(),
                std::env::var("USER").unwrap_or_else(|_| "root".to_owned()),
                home.display()
            )
        };
        Self::start(name, config, &["mosquitto", "-c", "config"])
    }

    /// CPU time of all its threads (proc(5), schedstat: nanoseconds).
    fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let spent = threads.filter_map(|thread| {
            let said = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            said.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }
}

/// The best of a broker in one row.
#[derive(Clone, Copy)]
struct Best {
    per_second: f64,
    micros: f64,
}

impl Best {
    const NONE: Self = Self { per_second: 0.0, micros: f64::INFINITY };

    fn take(&mut self, outcome: &Outcome, cpu: Duration) {
        self.per_second = self.per_second.max(outcome.messages as f64 / outcome.took.as_secs_f64());
        self.micros = self.micros.min(cpu.as_secs_f64() * 1e6 / outcome.messages as f64);
    }
}

struct Effort {
    rounds: u32,
    round: Duration,
    wanted: Vec<String>,
}

impl Effort {
    fn from_environment() -> Self {
        let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        let wanted = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        Self { rounds: number("ROUNDS", 3), round: Duration::from_millis(number("ROUND_MS", 700).into()), wanted }
    }

    fn wants(&self, row: &str) -> bool {
        self.wanted.iter().all(|word| row.split_whitespace().any(|part| part == word))
    }

    /// One row for ours and each other one, in turns.
    fn row(&self, name: &str, brokers: &[&Broker], go: impl FnMut(&Broker) -> Outcome) {
        self.prepared(name, brokers, |_| {}, go);
    }

    /// The same, with something to be done before each round that is not measured.
    fn prepared(
        &self,
        name: &str,
        brokers: &[&Broker],
        prepare: impl Fn(&Broker),
        mut go: impl FnMut(&Broker) -> Outcome,
    ) {
        if !self.wants(name) {
            return;
        }
        let mut best = vec![Best::NONE; brokers.len()];
        for _ in 0..self.rounds {
            for (broker, best) in brokers.iter().zip(&mut best) {
                prepare(broker);
                let before = broker.cpu();
                let outcome = go(broker);
                best.take(&outcome, broker.cpu().saturating_sub(before));
            }
        }
        for (other, theirs) in brokers.iter().zip(&best).skip(1) {
            let (ratio, cpu) = (best[0].per_second / theirs.per_second, theirs.micros / best[0].micros);
            println!(
                "{name:<44} {:>9.0} {:>9.0} {ratio:>6.2}{} {:>8.2} {:>8.2} {cpu:>6.2}  {}",
                best[0].per_second,
                theirs.per_second,
                if ratio < 1.0 { " SLOWER" } else { "       " },
                best[0].micros,
                theirs.micros,
                other.name,
            );
        }
    }
}

fn load(qos: u8, subscribers: usize, payload: usize, lasts: Duration) -> Load {
    Load { qos, subscribers, payload, window: 64, durable: false, shared: false, rate: None, lasts }
}

fn throughput(effort: &Effort, brokers: &[&Broker]) {
    for qos in 0..=2 {
        for subscribers in [1, 5] {
            for payload in PAYLOADS {
                for window in if qos == 0 { &[64][..] } else { &[1, 20, 64] } {
                    let load = Load { window: *window, ..load(qos, subscribers, payload, effort.round) };
                    let window = if qos == 0 { String::new() } else { format!("window {window}") };
                    let name = format!("clean qos{qos} 1to{subscribers} {payload} B {window}");
                    effort.row(&name, brokers, |broker| load::run(broker.address, &load));
                }
            }
        }
    }
}

/// What goes to a member of a shared group is kept for others of it until it is acknowledged: beside the same without groups.
fn shared(effort: &Effort, brokers: &[&Broker]) {
    for qos in 0..=2 {
        for subscribers in [1, 5] {
            let load = Load { shared: true, ..load(qos, subscribers, 100, effort.round) };
            let name = format!("shared qos{qos} 1to{subscribers} 100 B window 64");
            effort.row(&name, brokers, |broker| load::run(broker.address, &load));
        }
    }
}

fn durable(effort: &Effort, brokers: &[&Broker]) {
    for qos in 1..=2 {
        for subscribers in [1, 5] {
            let load = Load { durable: true, ..load(qos, subscribers, 100, effort.round) };
            let name = format!("durable qos{qos} 1to{subscribers} 100 B window 64");
            effort.row(&name, brokers, |broker| load::run(broker.address, &load));
        }
        let load = load(qos, 1, 100, effort.round);
        let queue = |broker: &Broker| load::queue(broker.address, &load, AWAY);
        effort.row(&format!("durable qos{qos} away: {AWAY} queued"), brokers, queue);
        effort.prepared(
            &format!("durable qos{qos} away: {AWAY} fetched"),
            brokers,
            |broker| drop(queue(broker)),
            |broker| load::fetch(broker.address, &load, AWAY),
        );
    }
}

/// At a moderate rate: how old a message is when it arrives. Where the scheduler puts the threads of a round weighs more than
/// either broker's work (a row's ratio goes from 0.8 to 1.4 from one run of three rounds to the next), hence more rounds.
fn latency(effort: &Effort, brokers: &[&Broker]) {
    for qos in 0..=2 {
        for subscribers in [1, 5] {
            let name = format!("latency qos{qos} 1to{subscribers} 100 B 500/s");
            if !effort.wants(&name) {
                continue;
            }
            let load = Load { rate: Some(500), ..load(qos, subscribers, 100, effort.round * 2) };
            let mut best = vec![[f64::INFINITY; 2]; brokers.len()];
            for _ in 0..effort.rounds * 4 {
                for (broker, best) in brokers.iter().zip(&mut best) {
                    let seen = load::run(broker.address, &load).latencies;
                    for (best, part) in best.iter_mut().zip([50, 99]) {
                        *best = best.min(seen[(seen.len() * part / 100).min(seen.len() - 1)].as_secs_f64() * 1e6);
                    }
                }
            }
            let (ours, theirs) = (best[0], best[1]);
            println!(
                "{name:<44} {:>9.0} {:>9.0} {:>6.2}{} {:>8.0} {:>8.0} {:>6.2}  {}",
                ours[0],
                theirs[0],
                theirs[0] / ours[0],
                if ours[0] > theirs[0] { " SLOWER" } else { "       " },
                ours[1],
                theirs[1],
                theirs[1] / ours[1],
                brokers[1].name,
            );
        }
    }
}

fn main() {
    if Command::new("mosquitto").arg("-h").output().is_err() {
        println!("SKIPPED broker bench: mosquitto not installed");
        return;
    }
    let effort = Effort::from_environment();
    let ours = Broker::ours();
    let theirs = Broker::mosquitto("mosquitto", "persistence false");
    let column = ("ours", "theirs", "ratio");
    println!(
        "{:<44} {:>9} {:>9} {:>6}        {:>8} {:>8} {:>6}  beside\n{:<44} {:>26}        {:>24}",
        "", column.0, column.1, column.2, column.0, column.1, column.2, "", "messages/s", "CPU us/message"
    );
    throughput(&effort, &[&ours, &theirs]);
    shared(&effort, &[&ours, &theirs]);
    let kept = Broker::mosquitto("mosquitto, autosave as by default", "persistence true");
    let safest = "persistence true\nautosave_on_changes true\nautosave_interval 1";
    let safest = Broker::mosquitto("mosquitto, saves on every change", safest);
    durable(&effort, &[&ours, &kept, &safest]);
    println!("{:<44} {:>26}        {:>24}", "", "p50 us", "p99 us");
    latency(&effort, &[&ours, &theirs]);
}
