//! The tail: what is committed and not merged yet survives everything that a chunk survives, and costs little.

use crate::rig as support;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironbridge::config::plan::UplinkStart;
use ironbridge::disk::tail::TailFile;
use ironbridge::model::number::{Class, Epoch, PerClass, Seq};
use ironbridge::model::sample::Batch;
use ironbridge::model::tag::{DataType, DeviceIx};
use ironbridge::store::{Item, Opening, OwedGap, Route, inspect};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;

const BLOCK: usize = 4096;

/// One uplink that wants everything there is.
fn auditor(dir: &Path) -> Opening {
    let late = Route { start: UplinkStart::Oldest, ..route("auditor", &Class::ALL) };
    Opening { uplinks: vec![route("cloud", &Class::ALL), late], ..opening(dir) }
}

/// Runs a store until `groups` groups of 100 telemetry values are committed, the first of them in a chunk and the others
/// in the tail, and copies the directory as a crash would leave it. Returns the epoch.
async fn crashed(home: &Path, groups: u64) -> Epoch {
    let running = start(opening(&home.join("first")));
    for group in 0..groups {
        running.emit(Class::Telemetry, group * 100..group * 100 + 100).await;
        running.settled(group * 100 + 100).await;
    }
    let newest = running.store.newest()[Class::Telemetry as usize];
    assert_eq!(newest.2, Seq(groups * 100));
    copy(&home.join("first"), &home.join("crashed"));
    running.close().await;
    newest.1
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// Opens the store, takes everything there is, closes it, and has it verified.
async fn everything(dir: &Path) -> Vec<Item> {
    let running = start(auditor(dir));
    let mut reader = running.store.reader("auditor").expect("routed");
    let owed = reader.backlog();
    let mut items = Vec::new();
    while reader.backlog() > 0 {
        for item in next(&mut reader, 777).await.expect("open") {
            reader.acknowledge(ack(&item));
            items.push(item);
        }
    }
    assert!(items.len() as u64 <= owed, "{} of {owed}", items.len());
    drop(reader);
    running.close().await;
    let verdict = inspect::verify(dir, &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
    items
}

fn values(items: &[Item]) -> Vec<u64> {
    items.iter().filter_map(told).map(|(_, value)| value).collect()
}

fn gaps(items: &[Item]) -> Vec<&OwedGap> {
    items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None }).collect()
}

fn tail(dir: &Path) -> PathBuf {
    dir.join("tail")
}

/// Where each slot lies in a tail file: its first block, and the first number in it.
fn slots(path: &Path) -> Vec<(usize, u64)> {
    let rows = TailFile::read(path);
    rows.iter().enumerate().map(|(block, row)| (block, row.row.first)).collect()
}

#[tokio::test]
async fn what_is_committed_and_not_merged_survives_a_crash_and_is_merged_at_the_end() {
    let home = tempfile::tempdir().expect("a directory");
    let epoch = crashed(home.path(), 30).await;
    let dir = home.path().join("crashed");
    let status = inspect::status(&dir).expect("readable");
    assert_eq!(status.streams[Class::Telemetry as usize].last, 3000, "status sees the tail");
    let verdict = inspect::verify(&dir, &mut |_, _| {}).expect("readable");
    assert_eq!((verdict.records, verdict.problems.len()), (3000, 0), "so does verify: {verdict:?}");
    let items = everything(&dir).await;
    assert!(values(&items).into_iter().eq(0..3000) && gaps(&items).is_empty());
    assert!(items.iter().filter_map(told).all(|(number, _)| number.epoch == epoch));
    let verdict = inspect::verify(&dir, &mut |_, _| {}).expect("readable");
    assert!(verdict.records == 3000 && verdict.segments <= 3, "few large ones: {verdict:?}");
}

#[tokio::test]
async fn a_power_cut_anywhere_in_a_merge_loses_nothing_and_doubles_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let (first, before, merged) = (home.path().join("first"), home.path().join("before"), home.path().join("merged"));
    let with_late = |dir: &Path| {
        let mut opening = auditor(dir);
        opening.tags.push(tag("late", DataType::Uint64, Class::Telemetry));
        opening
    };
    let running = start(with_late(&first));
    for group in 0..20 {
        running.emit(Class::Telemetry, group * 100..group * 100 + 100).await;
        running.settled(group * 100 + 100).await;
    }
    copy(&first, &before);
    // A tag that no chunk names yet: it goes to the chunk, and the whole tail before it.
    let late = Batch { device: DeviceIx(0), samples: vec![sample(4, 2000, running.clock.now())] };
    running.hub.emit(late).await;
    running.settled(2001).await;
    assert_eq!(running.store.stats().merges.get(), 1);
    copy(&first, &merged);
    running.close().await;
    let log = |dir: &Path| dir.join("chunk-telemetry-000001.db-wal");
    let (earlier, whole) = (std::fs::read(log(&before)).expect("a log"), std::fs::read(log(&merged)).expect("a log"));
    assert!(whole.len() > earlier.len() + 4000 && whole.starts_with(&earlier));
    let new = whole.len() - earlier.len();
    for part in [0, 1, 25, new / 3, new / 2, new - 4120, new - 1, new] {
        // The chunk has got so far; marks, meta.db and tail are as before: nothing of the late one was acknowledged.
        let dir = home.path().join(format!("cut-{part}"));
        copy(&before, &dir);
        std::fs::copy(merged.join("chunk-telemetry-000001.db"), dir.join("chunk-telemetry-000001.db")).expect("copied");
        std::fs::write(log(&dir), &whole[..earlier.len() + part]).expect("cut off");
        let running = start(with_late(&dir));
        let mut reader = running.store.reader("auditor").expect("routed");
        let backlog = reader.backlog();
        let found = values(&drain(&mut reader, backlog).await);
        assert!(found.iter().copied().eq(0..backlog) && (2000..=2001).contains(&backlog), "{part}: {backlog}");
        assert!(part < new || backlog == 2001);
        drop(reader);
        running.close().await;
        let verdict = inspect::verify(&dir, &mut |_, _| {}).expect("readable");
        assert!(verdict.problems.is_empty() && verdict.declared.is_empty(), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_damaged_slot_costs_its_own_numbers_which_are_declared_and_nothing_else() {
    for newest in [false, true] {
        let home = tempfile::tempdir().expect("a directory");
        let epoch = crashed(home.path(), 20).await;
        let dir = home.path().join("crashed");
        let found = slots(&tail(&dir));
        assert_eq!(found.len(), 19);
        let (block, first) = found[if newest { 18 } else { 7 }];
        let file = std::fs::File::options().write(true).open(tail(&dir)).expect("open");
        file.write_all_at(&[0xA5; 9], (block * BLOCK + 60) as u64).expect("torn");
        let items = everything(&dir).await;
        let [gap] = gaps(&items)[..] else { panic!("one gap: {items:?}") };
        assert_eq!((gap.epoch, gap.first.0, gap.last.0), (epoch, first, first + 99));
        assert_eq!(gap.reason, "damaged");
        assert_eq!(values(&items).len(), 1900);
    }
}

#[tokio::test]
async fn a_slot_that_was_never_acknowledged_may_be_torn_and_its_numbers_are_used_again() {
    let home = tempfile::tempdir().expect("a directory");
    crashed(home.path(), 20).await;
    let dir = home.path().join("crashed");
    // A power cut while the next slot was written: half of it is there, the marks know nothing of it.
    let rows = TailFile::read(&tail(&dir));
    let mut bytes = std::fs::read(tail(&dir)).expect("read");
    let (from, to) = (18 * BLOCK, rows.len() * BLOCK);
    bytes.copy_within(from..from + BLOCK / 2, to);
    std::fs::write(tail(&dir), bytes).expect("written");
    let items = everything(&dir).await;
    assert!(values(&items).into_iter().eq(0..2000) && gaps(&items).is_empty());
}

#[tokio::test]
async fn a_tail_that_is_emptied_zeroed_cut_off_gone_or_of_another_store_is_noticed_and_the_store_goes_on() {
    let home = tempfile::tempdir().expect("a directory");
    let other = home.path().join("other");
    crashed(&other, 7).await;
    let epoch = crashed(home.path(), 20).await;
    let whole = std::fs::read(tail(&home.path().join("crashed"))).expect("read");
    let foreign = std::fs::read(tail(&other.join("crashed"))).expect("read");
    let cases: [(&str, Option<Vec<u8>>, u64); 6] = [
        ("emptied", Some(Vec::new()), 101),
        ("zeroed", Some(vec![0; whole.len()]), 101),
        ("cut off", Some(whole[..5 * BLOCK + 77].to_vec()), 601),
        ("noise", Some((0..whole.len()).map(|n| u8::try_from(n * 7 % 251).expect("small")).collect()), 101),
        ("gone", None, 101),
        ("foreign", Some(foreign), 101),
    ];
    for (name, content, first_lost) in cases {
        let dir = home.path().join(name);
        copy(&home.path().join("crashed"), &dir);
        match content {
            Some(content) => std::fs::write(tail(&dir), content).expect("written"),
            None => std::fs::remove_file(tail(&dir)).expect("removed"),
        }
        let before = Instant::now();
        let items = everything(&dir).await;
        assert!(before.elapsed() < Duration::from_secs(20));
        let [gap] = gaps(&items)[..] else { panic!("{name}: one gap: {items:?}") };
        assert_eq!((gap.epoch, gap.first.0, gap.last.0), (epoch, first_lost, 2000), "{name}");
        assert!(values(&items).into_iter().eq(0..first_lost - 1), "{name}");
        // And it is used again.
        let running = start(auditor(&dir));
        for n in 0..5 {
            running.emit(Class::Telemetry, [9000 + n]).await;
            running.settled(n + 1).await;
        }
        assert!(tail(&dir).metadata().expect("there").len() >= 128 * 1024, "{name}");
        assert!(!TailFile::read(&tail(&dir)).is_empty(), "{name}");
        running.close().await;
    }
}

#[tokio::test]
async fn a_tail_that_cannot_be_opened_or_made_leaves_commits_to_chunks() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(tail(home.path()).join("in the way")).expect("made");
    let running = start(auditor(home.path()));
    for n in 0..5 {
        running.emit(Class::Bulk, [n]).await;
        running.settled(n + 1).await;
    }
    running.close().await;
    let items = everything(home.path()).await;
    assert!(values(&items).into_iter().eq(0..5));
}

#[tokio::test]
async fn a_store_of_a_version_without_tail_opens_and_goes_on() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(auditor(home.path()));
    running.emit(Class::Telemetry, 0..500).await;
    running.settled(500).await;
    running.close().await;
    std::fs::remove_file(tail(home.path())).expect("removed");
    let items = everything(home.path()).await;
    assert!(values(&items).into_iter().eq(0..500) && gaps(&items).is_empty());
}

/// Where a reader is in each stream, and what it acknowledged.
#[derive(Default)]
struct Follower {
    /// By class: last number handed out, last acknowledged, value of each number.
    at: PerClass<(u64, u64)>,
    values: BTreeMap<(Class, u64), u64>,
}

impl Follower {
    fn take(&mut self, item: &Item) -> &mut (u64, u64) {
        let (number, value) = told(item).expect("no gap");
        let before = self.values.insert((number.stream, number.seq.0), value);
        assert!(before.is_none_or(|before| before == value), "{number:?} meant {before:?} and now {value}");
        let at = &mut self.at[number.stream];
        assert_eq!(number.seq.0, at.0 + 1, "{number:?}");
        at.0 = number.seq.0;
        at
    }

    fn has_all(&self, running: &Running) -> bool {
        let stats = running.store.stats();
        self.at.iter().all(|(class, at)| at.0 == stats.stored[class].get())
    }
}

/// Random sizes, classes and acknowledgements while the tail, which is small, is merged again and again under the reader.
#[tokio::test]
async fn a_reader_gets_every_number_in_order_while_the_tail_is_merged_under_it() {
    for seed in 0..3 {
        let home = tempfile::tempdir().expect("a directory");
        let small = Opening { max_size: 8 << 20, commit_interval: Duration::from_millis(1), ..opening(home.path()) };
        let running = start(small);
        let mut random = StdRng::seed_from_u64(seed);
        let mut reader = running.store.reader("cloud").expect("routed");
        let (mut follower, mut emitted) = (Follower::default(), 0);
        for _ in 0..500 {
            let class = Class::ALL[random.random_range(0..4)];
            // Values that do not compress: slots are large.
            let values: Vec<u64> = (0..random.random_range(1..60)).map(|_| random.random()).collect();
            emitted += values.len() as u64;
            running.emit(class, values).await;
            if random.random_bool(0.3) {
                running.settled(emitted).await;
            }
            while !follower.has_all(&running) && random.random_bool(0.6) {
                for item in next(&mut reader, random.random_range(1..200)).await.expect("open") {
                    let (last, acked) = follower.take(&item);
                    if *acked + 1 == *last && random.random_bool(0.995) {
                        *acked = *last;
                        reader.acknowledge(ack(&item));
                    }
                }
            }
            if random.random_bool(0.05) {
                reader.rewind();
                follower.at.iter_mut().for_each(|(_, (last, acked))| *last = *acked);
            }
        }
        running.settled(emitted).await;
        while !follower.has_all(&running) {
            for item in next(&mut reader, 500).await.expect("open") {
                follower.take(&item);
            }
        }
        assert_eq!(follower.values.len() as u64, emitted);
        let stats = running.store.stats();
        assert!(stats.merges.get() > 4, "{} merges", stats.merges.get());
        assert_eq!(stats.commit_failures.get(), 0);
        drop(reader);
        running.close().await;
        let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
        assert!(verdict.problems.is_empty() && verdict.records == emitted, "{verdict:?}");
    }
}

#[tokio::test]
async fn alarms_and_events_do_not_wait_for_the_commit_interval() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(Opening { commit_interval: Duration::from_secs(3600), ..opening(home.path()) });
    running.emit(Class::Telemetry, 0..100).await;
    for n in 1..=50u64 {
        let class = if n % 2 == 0 { Class::Alarm } else { Class::Event };
        assert_eq!(running.event(class, "high").await.seq, Seq(n.div_ceil(2)));
    }
    // Their commits do not drag along what may wait.
    assert_eq!(running.store.stats().stored[Class::Telemetry].get(), 0);
    running.close().await;
}

#[tokio::test]
async fn what_was_acknowledged_before_the_last_commit_is_not_sent_again_after_a_crash() {
    let home = tempfile::tempdir().expect("a directory");
    let (dir, crash) = (home.path().join("first"), home.path().join("crash"));
    let running = start(opening(&dir));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, 0..1000).await;
    running.settled(1000).await;
    let items = drain(&mut reader, 1000).await;
    assert_eq!(items.len(), 1000);
    // Nobody asks for the cursors to be saved: the next commit takes them along.
    running.emit(Class::Telemetry, [1000]).await;
    running.settled(1001).await;
    // And out of order: a range above the cursor.
    running.emit(Class::Telemetry, 1001..1011).await;
    running.settled(1011).await;
    let late = drain_without_acknowledging(&mut reader, 11).await;
    reader.acknowledge(ack(&late[7]));
    running.emit(Class::Telemetry, [1011]).await;
    running.settled(1012).await;
    copy(&dir, &crash);
    drop(reader);
    running.close().await;
    let running = start(opening(&crash));
    let mut reader = running.store.reader("cloud").expect("routed");
    assert_eq!(reader.backlog(), 11);
    let again: Vec<u64> = values(&drain(&mut reader, 11).await);
    assert!(again.iter().copied().eq((1000..1012).filter(|value| *value != 1007)), "{again:?}");
    drop(reader);
    running.close().await;
}

async fn drain_without_acknowledging(reader: &mut ironbridge::store::Reader, count: usize) -> Vec<Item> {
    let mut items = Vec::new();
    while items.len() < count {
        items.extend(next(reader, 100).await.expect("open"));
    }
    items
}

#[tokio::test]
async fn a_second_uplink_writes_next_to_nothing() {
    let mut written = Vec::new();
    for uplinks in [1, 2] {
        let home = tempfile::tempdir().expect("a directory");
        let routes = (0..uplinks).map(|n| route(&format!("uplink-{n}"), &Class::ALL)).collect();
        let running = start(Opening { uplinks: routes, ..opening(home.path()) });
        let mut readers: Vec<_> = (0..uplinks).filter_map(|n| running.store.reader(&format!("uplink-{n}"))).collect();
        for round in 0..100 {
            running.emit(Class::Telemetry, round * 1000..(round + 1) * 1000).await;
            running.settled((round + 1) * 1000).await;
            for reader in &mut readers {
                drain(reader, 1000).await;
            }
        }
        written.push(running.store.stats().written_bytes.get());
        drop(readers);
        running.close().await;
    }
    let [one, two] = written[..] else { panic!("two runs") };
    assert!(two * 10 <= one * 11, "{two} is more than 1.1 times {one}");
}
