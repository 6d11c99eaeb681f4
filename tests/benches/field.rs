//! How well a bus uses its line, and what a poll costs: `cargo bench --bench field`, or with an argument that is part of a
//! section's name (`line`, `dead`, `fresh`, `cpu`).
//!
//! - `line`: one device, 125 registers a read, as often as can be, on a serial line whose bytes take their time (8E1, a
//!   pseudo-terminal; the far end is paced by absolute moments). Wire-time use is what the bytes and two pauses of 3.5
//!   characters of each transaction take, of the time that passed. "line" is what the far end counted by itself, without
//!   pauses. On a machine that is busy otherwise this measures the machine; `chrt -f 5` in front of the command helps.
//! - `dead`: ten units on one line at 19200, half of what it can do; the mean cycle of the living with none, one and three
//!   of them dead, after they were found to be so.
//! - `fresh`: a hundred reads on one connection, wanted every 10 ms from a device that needs 1 ms for each: how many come, how
//!   evenly, and how old they are when the store gets them.
//! - `cpu`: processor time of the bus alone (its thread) for reads of 125 registers of a TCP device on loopback, as 125 tags.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark ends by panicking and rounds"
)]

#[path = "../support/plc.rs"]
mod plc;
#[path = "../support/rig.rs"]
mod rig;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::blocks::{char_time, frame_pause};
use ironbridge::config::plan::{BusLink, Parity, Plan, SerialPlan};
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;
use rig::{Rig, good};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sections: [(&str, fn()); 4] = [("line", line), ("dead", dead), ("fresh", fresh), ("cpu", cpu)];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            section();
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn serial(baud: u32) -> SerialPlan {
    SerialPlan { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 }
}

fn units(ids: &[u8]) -> Units {
    let units = Units::new();
    for id in ids {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &vec![7; 2000]);
        units.insert(*id, image);
    }
    units
}

/// Reads of 125 registers: as one text, so that the line is measured and not the tags.
fn long_reads(link: BusLink, ids: &[u8], poll: Duration) -> Plan {
    let mut plan = rig::plan(link);
    plan.buses[0].response_timeout = Duration::from_secs(1);
    for id in ids {
        rig::device(&mut plan, *id);
        let tag = rig::tag(&mut plan, Table::Holding, 0, DataType::Text(250));
        plan.tags[tag.0 as usize].poll = poll;
    }
    plan
}

fn run(plan: Plan) -> Rig {
    let opener = ironbridge::field::carrier::opener(&plan.buses[0].link.carrier, &rig::clock());
    Rig::run_lanes(plan, vec![opener], ironbridge::field::Bus::precise)
}

fn line() {
    println!("line: 125 registers a read, 8E1\n  baud     reads   wire-time use   line   CRC  timeouts");
    for (baud, seconds) in [(9600, 15), (19_200, 10), (115_200, 10)] {
        runtime().block_on(async {
            let units = units(&[1]);
            let far = RtuLine::serve(None, Pace::Line(serial(baud)), units.clone()).unwrap();
            let mut rig = run(long_reads(BusLink::rtu(far.path(), serial(baud)), &[1], 10 * MS));
            rig.batch().await;
            let (begun, busy) = (Instant::now(), units.stats().busy_micros.get());
            // From one answer to another: whole transactions.
            let (mut reads, mut last) = (0u32, begun);
            while begun.elapsed() < Duration::from_secs(seconds) {
                reads += rig.batch().await.iter().filter(|sample| good(sample)).count() as u32;
                last = Instant::now();
            }
            let passed = (last - begun).as_secs_f64();
            let ideal = char_time(serial(baud)) * (8 + 255) + 2 * frame_pause(serial(baud));
            let used = ideal.as_secs_f64() * f64::from(reads) / passed;
            let line = (units.stats().busy_micros.get() - busy) as f64 / 1e6 / passed;
            let stats = &rig.handle.stats;
            let (crc, timeouts) = (stats.crc.get(), stats.timeouts.get());
            println!("  {baud:6} {reads:7} {:13.1} % {:5.1} % {crc:5} {timeouts:9}", used * 100.0, line * 100.0);
        });
    }
}

fn dead() {
    println!("dead: ten units at 19200, 25 registers a second each\n  dead   mean cycle of the living   longest gap");
    for dead in [0u8, 1, 3] {
        runtime().block_on(async {
            let ids: Vec<u8> = (1..=10).collect();
            let units = units(&ids);
            let far = RtuLine::serve(None, Pace::Line(serial(19_200)), units.clone()).unwrap();
            for id in 1..=dead {
                units.set_fault(id, Some(Fault::Dead));
            }
            let mut plan = long_reads(BusLink::rtu(far.path(), serial(19_200)), &ids, Duration::from_secs(1));
            plan.tags.iter_mut().for_each(|tag| tag.data_type = DataType::Text(50));
            plan.buses[0].response_timeout = 200 * MS;
            let mut rig = run(plan);
            rig.collect(Duration::from_secs(15)).await;
            let mut last: HashMap<TagIx, Instant> = HashMap::new();
            let (mut gaps, begun) = (Vec::new(), Instant::now());
            while begun.elapsed() < Duration::from_secs(30) {
                for sample in rig.batch().await.iter().filter(|sample| good(sample)) {
                    let now = Instant::now();
                    gaps.extend(last.insert(sample.tag, now).map(|last| (now - last).as_secs_f64()));
                }
            }
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            println!("  {dead:4} {mean:23.3} s {:11.3} s", gaps.iter().copied().fold(0.0, f64::max));
        });
    }
}

fn fresh() {
    println!("fresh: a hundred reads wanted every 10 ms, one connection, 1 ms to answer");
    runtime().block_on(async {
        let mut plan = rig::plan(rig::tcp("nowhere:502"));
        rig::device(&mut plan, 1);
        for place in 0..100 {
            let tag = rig::tag(&mut plan, Table::Holding, place * 200, DataType::Uint16);
            plan.tags[tag.0 as usize].poll = 10 * MS;
        }
        let plc = plc::Plc::new(plc::Framing::Tcp);
        plc.think(MS);
        let mut rig = Rig::run_over(plan, Box::new(plc));
        rig.collect(Duration::from_secs(2)).await;
        let (mut ages, mut counts, begun) = (Vec::new(), HashMap::<TagIx, u32>::new(), Instant::now());
        while begun.elapsed() < Duration::from_secs(10) {
            for sample in rig.batch().await {
                ages.push(rig.clock.now().since(sample.at));
                *counts.entry(sample.tag).or_default() += 1;
            }
        }
        ages.sort_unstable();
        let at = |percent: usize| ages[(ages.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        println!("  {} reads/s, each tag {least} to {most} times in 10 s", ages.len() / 10);
        println!("  age at the store: p50 {:.3} ms, p99 {:.3} ms, longest {:.3} ms", at(50), at(99), at(100));
        println!("  polls skipped {}", rig.handle.stats.polls_skipped.get());
    });
}

fn cpu() {
    let server = runtime();
    let far = server.block_on(TcpLine::serve((Ipv4Addr::LOCALHOST, 0).into(), units(&[1]))).unwrap();
    // One thread for the bus and the reader of its batches, so that its processor time is known.
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut plan = rig::plan(BusLink::tcp(&far.address().to_string()));
        rig::device(&mut plan, 1);
        for place in 0..1000 {
            let tag = rig::tag(&mut plan, Table::Holding, place, DataType::Uint16);
            plan.tags[tag.0 as usize].poll = 10 * MS;
        }
        let mut rig = run(plan);
        rig.batch().await;
        sleep(200 * MS).await;
        let polls = Arc::clone(&rig.handle.stats);
        let (begun, cpu, reads) = (Instant::now(), thread_seconds(), polls.polls.get());
        let mut values = 0usize;
        while begun.elapsed() < Duration::from_secs(10) {
            values += rig.batch().await.len();
        }
        let (cpu, reads) = (thread_seconds() - cpu, polls.polls.get() - reads);
        println!("cpu: 1000 registers as 1000 tags every 10 ms, 8 reads of 125 over TCP on loopback");
        println!(
            "  {:.0} values/s, {:.1} us a read, {:.3} s a million values (the bus and its hub; no store, no broker)",
            values as f64 / begun.elapsed().as_secs_f64(),
            cpu / reads as f64 * 1e6,
            cpu / values as f64 * 1e6
        );
    });
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
