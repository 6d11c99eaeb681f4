//! What a commit costs on flash: fdatasync instead of fsync, and bytes written per sample.

use crate::rig as support;
use crate::strace;

use std::process::{Command, Stdio};
use std::time::Duration;

use ironbridge::model::number::Class;
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::value::Value;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;

const CHILD: &str = "IRONBRIDGE_TEST_FLASH_CHILD";
const TAGS: u32 = 1000;
const ROUNDS: u64 = 60;

/// Not a test of its own: what is traced. 1000 slowly moving tags, a commit per round.
#[tokio::test]
async fn the_process_that_is_traced() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut many = opening(std::path::Path::new(&dir));
    many.tags = (0..TAGS).map(|n| tag(&format!("level-{n}"), DataType::Float32, Class::Telemetry)).collect();
    many.commit_interval = Duration::from_millis(20);
    let running = start(many);
    let mut random = StdRng::seed_from_u64(1);
    let mut raw: Vec<i32> = (0..TAGS).map(|_| random.random_range(0..10_000)).collect();
    for round in 0..ROUNDS {
        for device in 0..10 {
            let mut at = running.clock.now();
            at.micros += i64::try_from(round * 1_000_000).expect("small") + random.random_range(0..3000);
            let tags = device * 100..(device + 1) * 100;
            let samples = tags.map(|n| {
                raw[n as usize] += random.random_range(-3..=3);
                let value = Some(Value::Float(f64::from(raw[n as usize]) * 0.1));
                Sample { tag: TagIx(n), value, quality: Quality::Good, at }
            });
            running.hub.emit(Batch { device: DeviceIx(device), samples: samples.collect() }).await;
        }
        running.settled((round + 1) * u64::from(TAGS)).await;
    }
    running.close().await;
}

#[test]
fn commits_use_fdatasync_and_cost_few_bytes_per_sample() {
    if !strace::available() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let log = home.path().join("log");
    let status = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync,pwrite64", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().expect("this test"))
        .args(["flash::the_process_that_is_traced", "--exact", "--test-threads=1"])
        .env(CHILD, home.path().join("store"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("started");
    assert!(status.success(), "what is traced failed: {status}");
    let log = std::fs::read_to_string(&log).expect("written");
    let count = |call: &str| log.lines().filter(|line| line.contains(call)).count() as u64;
    let written =
        |line: &str| line.contains("pwrite64").then(|| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok()).flatten();
    let bytes: u64 = log.lines().filter_map(written).sum();
    let per_sample = bytes / (ROUNDS * u64::from(TAGS));
    eprintln!("{} fdatasync, {} fsync, {bytes} bytes, {per_sample} per sample", count("fdatasync("), count("fsync("));
    assert!(count("fdatasync(") >= ROUNDS, "each commit is one");
    assert!(count("fsync(") < ROUNDS, "new files and directories only");
    assert!(per_sample < 40, "{per_sample} bytes per sample");
}
