//! What storing costs on flash, and how many bytes a stored sample takes: `cargo bench --bench flash [-- MINUTES [DIR]]`.
//!
//! Runs the real store in a directory (of its own below the system's temporary one) as fast as it goes: 1000 tags at 1 Hz
//! for so many minutes of plant time (10) after two that do not count (files are made, the dictionary is written), one group commit per second, then one per 10 s, then with two uplinks that
//! acknowledge everything. Beside it, for the ratios of one run: a row per sample and one segment per commit, both in
//! SQLite, both committed once a second.
//!
//! Two meters: what this process had written (`/proc/self/io`, write_bytes: the file system's journal is not in it), and
//! what reached the block device (its `stat` in /sys, journal included). The second counts everybody who writes there, so
//! it tells the truth on a quiet device only, for example one made for this:
//!
//! ```text
//! truncate -s 1G disk && mkfs.ext4 -q disk && mount -o loop disk /mnt && cargo bench --bench flash -- 10 /mnt
//! ```
//!
//! The plant (1000 tags on 10 devices, each device's reply 0 to 3 ms late by chance):
//! 550 slow analog values with two decimals (half of all polls: moved by up to 3 steps), 100 noisy ones with one decimal
//! (always moved, by up to 5 steps around their mean), 70 float32 from a 12-bit converter with 2 steps of noise, 30 float32
//! with noise in every bit, 150 counters (0 to 3 more each second), 100 states (changed every 5 minutes or so).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbridge::config::plan::UplinkStart;
use ironbridge::disk::chunk::{ChunkInfo, ChunkWriter, SegmentRow};
use ironbridge::disk::database;
use ironbridge::disk::fault::Unreadable;
use ironbridge::disk::marks::{Mark, Marks};
use ironbridge::flow::clock::{Clock, FakeTime};
use ironbridge::flow::hub::hub;
use ironbridge::flow::notice::notices;
use ironbridge::model::number::{Class, PerClass};
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::value::Value;
use ironbridge::store::{Ack, Item, Opening, Reader, Route, StoreHandle, TagMeta, open};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const TAGS: u32 = 1000;
const DEVICES: u32 = 10;
/// Minutes before the count begins.
const WARM_UP: u64 = 2;
/// 4 GB of MLC, 3000 cycles.
const ENDURANCE: f64 = 4e9 * 3000.0;
const SECONDS_PER_YEAR: f64 = 365.25 * 86_400.0;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let minutes: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(10);
    let home =
        words.next().map_or_else(std::env::temp_dir, PathBuf::from).join(format!("flash-{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("a directory to write in");
    println!("{TAGS} tags at 1 Hz, {minutes} minutes of plant time, in {}", home.display());
    println!("B/sample written by this process · to the device (journal included) · stored; years on 4 GB MLC eMMC");
    println!("at flash amplification 1 and 4, by the device where it counted, else by the process\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rows = rows(&home.join("rows"), minutes.min(2));
    rows.print("row per sample, 1 s commits");
    let segments = segments(&home.join("segments"), minutes);
    segments.print("segment per commit, 1 s");
    let one = runtime.block_on(store(&home.join("one"), minutes, 1, 0));
    one.print("store, commit_interval 1 s");
    let ten = runtime.block_on(store(&home.join("ten"), minutes, 10, 0));
    ten.print("store, commit_interval 10 s");
    let single = runtime.block_on(store(&home.join("single"), minutes, 1, 1));
    single.print("store 1 s, one uplink");
    let double = runtime.block_on(store(&home.join("double"), minutes, 1, 2));
    double.print("store 1 s, two uplinks");
    println!();
    println!("row per sample / store 1 s       {:5.1}", rows.per_sample() / one.per_sample());
    println!("segment per commit / store 1 s   {:5.1}", segments.per_sample() / one.per_sample());
    println!("two uplinks / one                {:5.2}   (at most 1.1)", double.per_sample() / single.per_sample());
    println!("written / stored, 1 s            {:5.1}", one.per_sample() / one.stored);
    println!("limits: 16 B/sample at 1 s, 5 at 10 s, 1.0 stored");
    std::fs::remove_dir_all(&home).expect("removed");
}

/// What one way of storing cost.
struct Cost {
    samples: f64,
    process: f64,
    device: Option<f64>,
    stored: f64,
    counted: Option<f64>,
    took: Duration,
}

impl Cost {
    fn per_sample(&self) -> f64 {
        self.device.unwrap_or(self.process) / self.samples
    }

    fn print(&self, name: &str) {
        let per_second = self.per_sample() * f64::from(TAGS);
        let years = ENDURANCE / per_second / SECONDS_PER_YEAR;
        let device = self.device.map_or_else(|| "    -".into(), |bytes| format!("{:5.1}", bytes / self.samples));
        let counted =
            self.counted.map_or_else(String::new, |bytes| format!("  (own count {:.1})", bytes / self.samples));
        println!(
            "{name:<30} {:6.1} · {device} · {:5.2}   {years:6.1} / {:5.1} years   {:4.1} µs{counted}",
            self.process / self.samples,
            self.stored,
            years / 4.0,
            self.took.as_secs_f64() * 1e6 / self.samples,
        );
    }
}

/// Both meters, at the start.
struct Meter {
    process: u64,
    device: Option<u64>,
    stat: Option<PathBuf>,
    begun: Instant,
}

impl Meter {
    fn start(dir: &Path) -> Self {
        let device = std::fs::metadata(dir).expect("made").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = Some(PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"))).filter(|stat| stat.exists());
        flush(dir);
        Self { process: written(), device: stat.as_deref().map(sectors), stat, begun: Instant::now() }
    }

    fn stop(self, dir: &Path, samples: u64, stored: f64, counted: Option<u64>) -> Cost {
        let took = self.begun.elapsed();
        flush(dir);
        let device = self.stat.as_deref().map(sectors).zip(self.device).map(|(now, then)| as_f64((now - then) * 512));
        let process = as_f64(written() - self.process);
        Cost { samples: as_f64(samples), process, device, stored, counted: counted.map(as_f64), took }
    }
}

fn flush(dir: &Path) {
    rustix::fs::syncfs(std::fs::File::open(dir).expect("there")).expect("synced");
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Field 7 of the device's stat: sectors of 512 bytes written (Linux, Documentation/block/stat.rst).
fn sectors(stat: &Path) -> u64 {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    text.split_whitespace().nth(6).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// The values of the plant.
struct Plant {
    random: StdRng,
    state: Vec<i64>,
}

impl Plant {
    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let state = (0..TAGS).map(|_| random.random_range(500..3500)).collect();
        Self { random, state }
    }

    fn data_type(tag: u32) -> DataType {
        match tag % 100 {
            65..75 => DataType::Float32,
            75..90 => DataType::Uint32,
            90.. => DataType::Uint16,
            _ => DataType::Int16,
        }
    }

    fn value(&mut self, tag: u32) -> Value {
        let (random, state) = (&mut self.random, &mut self.state[tag as usize]);
        match tag % 100 {
            0..55 => {
                if random.random_bool(0.5) {
                    *state += random.random_range(-3..=3);
                }
                Value::Float(real(*state) * 0.01)
            }
            55..65 => Value::Float(real(*state + random.random_range(-5..=5)) * 0.1),
            65..72 => Value::Float(f64::from(single(real(*state + random.random_range(-2..=2)) * 100.0 / 4095.0))),
            72..75 => Value::Float(f64::from(single(real(*state) + random.random_range(-0.5..0.5)))),
            75..90 => {
                *state += random.random_range(0..=3);
                Value::Uint(state.cast_unsigned())
            }
            _ => {
                if random.random_bool(1.0 / 300.0) {
                    *state = random.random_range(0..6);
                }
                Value::Uint((*state % 6).cast_unsigned())
            }
        }
    }

    /// What one second brings, device by device.
    fn second(&mut self, clock: &Clock) -> Vec<Batch> {
        let batch = |device: u32| {
            let mut at = clock.now();
            at.micros += self.random.random_range(0..3000);
            let tags = device * (TAGS / DEVICES)..(device + 1) * (TAGS / DEVICES);
            let samples = tags.map(|tag| {
                let value = Some(self.value(tag));
                Sample { tag: TagIx(tag), value, quality: Quality::Good, at }
            });
            Batch { device: DeviceIx(device), samples: samples.collect() }
        };
        (0..DEVICES).map(batch).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn real(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, reason = "what a float32 register holds")]
fn single(number: f64) -> f32 {
    number as f32
}

fn opening(dir: &Path, uplinks: usize) -> Opening {
    let tags = (0..TAGS).map(|tag| TagMeta {
        device: format!("device-{}", tag / (TAGS / DEVICES)),
        name: format!("value-{tag}"),
        topic: format!("acme/site/device-{}/value-{tag}", tag / (TAGS / DEVICES)).into(),
        data_type: Plant::data_type(tag),
        class: Class::Telemetry,
    });
    let route = |n| Route { name: format!("uplink-{n}"), classes: vec![Class::Telemetry], start: UplinkStart::Now };
    Opening {
        dir: dir.to_path_buf(),
        max_size: 512 << 20,
        max_age: None,
        // Plant time runs fast: a group is complete long before this.
        commit_interval: Duration::from_millis(50),
        tags: tags.collect(),
        uplinks: (0..uplinks).map(route).collect(),
        boot_token: "bench".into(),
    }
}

/// The real store, one commit for each `interval` seconds.
async fn store(dir: &Path, minutes: u64, interval: u64, uplinks: usize) -> Cost {
    std::fs::create_dir_all(dir).expect("made");
    let opening = opening(dir, uplinks);
    let (hub, _latest, end) = hub(opening.tags.iter().map(|tag| tag.class).collect());
    let (tell, _told) = notices();
    let store = open(opening);
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), store.boot(), 0);
    let store = store.start(end, clock.clone(), tell);
    let mut readers: Vec<Reader> = (0..uplinks).filter_map(|n| store.reader(&format!("uplink-{n}"))).collect();
    let mut plant = Plant::new();
    let (mut samples, mut before, mut group) = (0, None, Vec::new());
    for second in 1..=(WARM_UP + minutes) * 60 {
        if second == WARM_UP * 60 + 1 {
            let stats = store.stats();
            before =
                Some((Meter::start(dir), samples, chunk_bytes(dir), stats.written_bytes.get(), stats.commits.get()));
        }
        time.advance(Duration::from_secs(1));
        group.extend(plant.second(&clock));
        if second % interval == 0 {
            for batch in group.drain(..) {
                samples += batch.samples.len() as u64;
                hub.emit(batch).await;
            }
            committed(&store, samples).await;
            for reader in &mut readers {
                acknowledge_all(reader).await;
            }
        }
    }
    committed(&store, samples).await;
    drop((hub, readers));
    store.ended().await;
    let stats = store.stats();
    store.finish().await;
    let (meter, earlier, stored, written, commits) = before.expect("more than the warm-up");
    let samples = samples - earlier;
    let stored = as_f64(chunk_bytes(dir) - stored) / as_f64(samples);
    let (commits, groups) = (stats.commits.get() - commits, minutes * 60 / interval);
    if commits != groups {
        println!("({commits} commits for {groups} groups: this machine is slow, the figures that follow are too high)");
    }
    meter.stop(dir, samples, stored, Some(stats.written_bytes.get() - written))
}

async fn committed(store: &StoreHandle, samples: u64) {
    while store.stats().stored[Class::Telemetry].get() < samples {
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
}

async fn acknowledge_all(reader: &mut Reader) {
    while reader.backlog() > 0 {
        let Some(items) = reader.next(5000).await else { return };
        for item in items {
            if let Item::Record(owed) = item {
                reader.acknowledge(Ack::of(owed.number));
            }
        }
    }
}

fn chunk_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("a directory").flatten();
    let chunks = files.filter(|file| file.file_name().to_string_lossy().starts_with("chunk-"));
    chunks.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// One segment of 2.6 bytes a sample per second, in SQLite, and the marks: what the store did before it had a tail.
fn segments(dir: &Path, minutes: u64) -> Cost {
    std::fs::create_dir_all(dir).expect("made");
    let meter = Meter::start(dir);
    let info = ChunkInfo { class: Class::Telemetry, number: 1, epoch: 7, previous: None };
    let mut chunk = ChunkWriter::create(&dir.join("chunk-telemetry-000001.db"), &info, 500).expect("made");
    let mut marks = Marks::open(&dir.join("marks"), Unreadable::TryAgain).expect("made");
    let mut random = StdRng::seed_from_u64(7);
    let per_commit = u64::from(TAGS);
    for second in 0..minutes * 60 {
        let (first, last) = (second * per_commit + 1, (second + 1) * per_commit);
        let body = (0..2600).map(|_| random.random()).collect();
        let row = SegmentRow { first, last, boot: 1, earliest: 0, latest: 1, raw: 5000, crc: 0, body };
        chunk.append(&[], &[row]).expect("committed");
        marks.write(&PerClass::of(|_| Mark { epoch: 7, last, given_up: 0 }), &[]).expect("written");
    }
    chunk.finish();
    let samples = minutes * 60 * per_commit;
    meter.stop(dir, samples, as_f64(chunk_bytes(dir)) / as_f64(samples), None)
}

/// A row for each sample, in SQLite, a commit per second.
fn rows(dir: &Path, minutes: u64) -> Cost {
    std::fs::create_dir_all(dir).expect("made");
    let meter = Meter::start(dir);
    let mut file = database::open(&dir.join("chunk-rows.db")).expect("made");
    file.execute_batch(
        "CREATE TABLE sample (seq INTEGER PRIMARY KEY, tag INTEGER, micros INTEGER, value, quality INTEGER)",
    )
    .expect("made");
    let clock = Clock::new(Arc::new(FakeTime::default()), ironbridge::model::time::Boot(1), 0);
    let (mut plant, mut samples) = (Plant::new(), 0u64);
    for second in 0..i64::try_from(minutes * 60).expect("small") {
        let work = file.transaction().expect("begun");
        let sql = "INSERT INTO sample (tag, micros, value, quality) VALUES (?1, ?2, ?3, 0)";
        let mut insert = work.prepare(sql).expect("a statement");
        for sample in plant.second(&clock).into_iter().flat_map(|batch| batch.samples) {
            let value = sample.value.and_then(|value| value.as_f64());
            let at = sample.at.micros + second * 1_000_000;
            insert.execute((sample.tag.0, at, value)).expect("inserted");
            samples += 1;
        }
        drop(insert);
        work.commit().expect("committed");
    }
    database::checkpoint(&file).expect("emptied");
    drop(file);
    meter.stop(dir, samples, as_f64(chunk_bytes(dir)) / as_f64(samples), None)
}
