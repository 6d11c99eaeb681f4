//! The cap, eviction, a full disk, and a chunk that is unlinked while it is read.

use crate::rig as support;
use crate::skip::skipped;
use crate::witness::OPEN_MAX;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ironbridge::disk::fault::Unreadable;
use ironbridge::disk::marks::{Found, Marks};
use ironbridge::flow::clock::Fix;
use ironbridge::flow::hub::EventRecord;
use ironbridge::flow::notice::Phase;
use ironbridge::model::number::Class;
use ironbridge::model::sample::Batch;
use ironbridge::model::tag::DeviceIx;
use ironbridge::model::time::{Boot, Certainty, Stamp, Wall};
use ironbridge::store::{Item, Opening, inspect, open};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;

const CAP: u64 = 8 * 1024 * 1024;

fn capped(dir: &Path) -> Opening {
    Opening { max_size: CAP, ..opening(dir) }
}

fn bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Watches a directory and remembers how big it ever was.
struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn over(dir: &Path) -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, end, dir) = (Arc::clone(&most), Arc::clone(&stop), dir.to_path_buf());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                seen.fetch_max(bytes(&dir), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { most, stop, thread: Some(thread) }
    }

    fn most(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("ended");
        self.most.load(Ordering::Relaxed)
    }
}

/// Records of 2000 bytes that do not compress.
async fn fill(running: &Running, class: Class, count: u64, random: &mut StdRng, stored: &mut u64) {
    for n in 1..=count {
        let body: Vec<u8> = (0..2000).map(|_| random.random()).collect();
        let (topic, at) = ("machines/press".into(), running.clock.now());
        running.hub.emit_event(EventRecord { topic, body, class, at, committed: None }).await;
        *stored += 1;
        if n % 40 == 0 || n == count {
            running.settled(*stored).await;
        }
    }
}

#[tokio::test]
async fn the_cap_holds_at_every_moment_and_the_least_important_and_oldest_goes_first_with_a_gap() {
    let home = tempfile::tempdir().expect("a directory");
    let watch = Watch::over(home.path());
    let running = start(capped(home.path()));
    let mut random = StdRng::seed_from_u64(1);
    let mut stored = 0;
    fill(&running, Class::Telemetry, 800, &mut random, &mut stored).await;
    let stats = running.store.stats();
    assert_eq!(stats.chunks_evicted.get(), 0);
    fill(&running, Class::Bulk, 3600, &mut random, &mut stored).await;
    assert!(stats.evicted[Class::Bulk].get() > 0);
    assert_eq!(stats.evicted[Class::Telemetry].get(), 0, "bulk goes before telemetry");
    fill(&running, Class::Telemetry, 4800, &mut random, &mut stored).await;
    assert!(stats.evicted[Class::Telemetry].get() > 0);
    running.event(Class::Alarm, "high").await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, stored + 1).await;
    assert_eq!(reader.backlog(), 0);
    let gaps: Vec<_> =
        items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None }).collect();
    assert!(gaps.len() <= 4, "neighbours are one gap: {gaps:?}");
    assert!(gaps.iter().all(|gap| gap.first.0 == 1 && gap.reason == "evicted" && gap.stream >= Class::Telemetry));
    let records = items.len() - gaps.len();
    let missing: u64 = gaps.iter().map(|gap| gap.last.0).sum();
    assert_eq!(records as u64 + missing, stored + 1);
    // What everybody has goes silently.
    let evicted: Vec<u64> = stats.evicted.values().map(ironbridge::model::stats::Counter::get).collect();
    let (chunks, before) = (stats.chunks_evicted.get(), stored);
    for _ in 0..20 {
        fill(&running, Class::Bulk, 80, &mut random, &mut stored).await;
        drain(&mut reader, 80).await;
    }
    assert_eq!(stored, before + 1600);
    assert!(stats.chunks_evicted.get() > chunks);
    assert_eq!(stats.evicted.values().map(ironbridge::model::stats::Counter::get).collect::<Vec<_>>(), evicted);
    drop(reader);
    running.close().await;
    let most = watch.most();
    assert!(most <= CAP, "{most} bytes");
    assert!(most > CAP * 3 / 4, "and the cap is used: {most}");
    let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
}

#[tokio::test]
async fn a_chunk_that_is_evicted_while_it_is_read_becomes_a_gap_and_reading_goes_on() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(capped(home.path()));
    let mut random = StdRng::seed_from_u64(2);
    let mut stored = 0;
    fill(&running, Class::Bulk, 1200, &mut random, &mut stored).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut covered = std::collections::BTreeSet::new();
    let mut take = |items: Vec<Item>, reader: &ironbridge::store::Reader| {
        for item in items {
            match &item {
                Item::Gap(gap) => covered.extend(gap.first.0..=gap.last.0),
                Item::Record(owed) => drop(covered.insert(owed.number.seq.0)),
            }
            reader.acknowledge(ack(&item));
        }
        covered.len() as u64
    };
    take(next(&mut reader, 10).await.expect("open"), &reader);
    fill(&running, Class::Bulk, 6000, &mut random, &mut stored).await;
    while take(next(&mut reader, 4000).await.expect("open"), &reader) < stored {}
    assert!(running.store.stats().evicted[Class::Bulk].get() > 0);
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_gap_record_says_when_the_evicted_records_were_taken_even_from_the_middle_of_a_chunk() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(capped(home.path()));
    let mut random = StdRng::seed_from_u64(3);
    let taken = |seq: u64| Stamp { micros: i64::try_from(seq).expect("small") * 1_000_000, ..running.clock.now() };
    let mut reader = running.store.reader("cloud").expect("routed");
    for seq in 1..=5000 {
        let body = (0..2000).map(|_| random.random()).collect();
        let (topic, at) = ("machines/press".into(), taken(seq));
        running.hub.emit_event(EventRecord { topic, body, class: Class::Bulk, at, committed: None }).await;
        if seq % 20 == 0 {
            running.settled(seq).await; // a commit has at most 20 records
        }
        if seq == 100 {
            for _ in 0..90 {
                let items = next(&mut reader, 1).await.expect("open");
                reader.acknowledge(ack(&items[0]));
            }
        }
    }
    reader.rewind();
    let items = next(&mut reader, 1).await.expect("open");
    let [Item::Gap(gap)] = &items[..] else { panic!("{items:?}") };
    assert_eq!((gap.first.0, gap.reason.as_str()), (91, "evicted"));
    let (from, to) = (gap.from.expect("known"), gap.to.expect("known"));
    assert_eq!(from, taken(91));
    assert_eq!(to, taken(gap.last.0));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn what_a_commit_has_just_written_is_not_evicted_by_the_next_class_of_the_same_commit() {
    let home = tempfile::tempdir().expect("a directory");
    let uplinks = vec![route("dead", &[Class::Telemetry]), route("alive", &[Class::Event])];
    let running = start(Opening { uplinks, ..capped(home.path()) });
    let mut random = StdRng::seed_from_u64(4);
    let mut reader = running.store.reader("alive").expect("routed");
    for round in 1..=40 {
        // Enough to be committed at once, together with the event; made before, so that it comes at once.
        let bodies: Vec<Vec<u8>> = (0..260).map(|_| (0..2000).map(|_| random.random()).collect()).collect();
        let event = format!("{{\"event\":\"{round}\"}}").into_bytes();
        let records = bodies.into_iter().map(|body| (Class::Telemetry, body));
        for (class, body) in std::iter::once((Class::Event, event)).chain(records) {
            let (topic, at) = ("machines/press".into(), running.clock.now());
            running.hub.emit_event(EventRecord { topic, body, class, at, committed: None }).await;
        }
        running.settled(round * 261).await;
        let items = drain(&mut reader, 1).await;
        assert!(matches!(&items[..], [Item::Record(owed)] if owed.number.seq.0 == round), "{round}: {items:?}");
    }
    assert!(running.store.stats().evicted[Class::Telemetry].get() > 0);
    drop(reader);
    running.close().await;
}

/// A small file system of its own; `None` (said aloud) where that is not allowed.
struct Small(tempfile::TempDir);

impl Small {
    fn mounted(size: &str) -> Option<Self> {
        let home = tempfile::tempdir().expect("a directory");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(home.path())
            .stderr(std::process::Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(home));
        }
        skipped("a full disk", "no right to mount a tmpfs");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_the_oldest_goes_and_when_others_fill_it_the_store_fails_and_comes_back() {
    let Some(small) = Small::mounted("6m") else { return };
    let home = small.0.path().join("store");
    let running = start(opening(&home));
    let mut random = StdRng::seed_from_u64(3);
    let mut stored = 0;
    // The cap (64 MiB) lies above the end of the disk.
    fill(&running, Class::Bulk, 4000, &mut random, &mut stored).await;
    let stats = running.store.stats();
    assert!(stats.evicted[Class::Bulk].get() > 0);
    assert_eq!(stats.failed.get(), 0);
    // Somebody else takes everything, again and again.
    let hog = small.0.path().join("hog");
    let mut file = std::fs::File::create(&hog).expect("made");
    let block = vec![7u8; 65_536];
    let mut emitted = 0;
    while stats.failed.get() == 0 || emitted < 5000 {
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        running.emit(Class::Telemetry, 0..100).await;
        emitted += 100;
        tokio::task::yield_now().await;
    }
    drop(file);
    std::fs::remove_file(&hog).expect("removed");
    stored += emitted;
    running.settled(stored).await;
    until("the store commits again", || stats.failed.get() == 0).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, stored).await;
    let telemetry =
        items.iter().filter_map(told).filter(|(number, _)| number.stream == Class::Telemetry).count() as u64;
    let spilled = stats.spilled[Class::Telemetry].get() + stats.evicted[Class::Telemetry].get();
    assert_eq!(telemetry + spilled, emitted);
    drop(reader);
    running.close().await;
    let verdict = inspect::verify(&home, &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
}

/// What was told of an event so far.
fn phases(running: &mut Running, event: &str) -> Vec<Phase> {
    let told = std::iter::from_fn(|| running.notices.try_recv().ok());
    told.filter(|notice| notice.event == event).map(|notice| notice.phase).collect()
}

#[tokio::test]
async fn that_unsent_records_are_evicted_is_told_once_however_many_are() {
    let home = tempfile::tempdir().expect("a directory");
    let mut running = start(Opening { max_size: 8 << 20, ..opening(home.path()) });
    let (mut random, mut stored) = (StdRng::seed_from_u64(5), 0);
    let stats = running.store.stats();
    while stats.evicted[Class::Bulk].get() == 0 {
        assert_eq!(phases(&mut running, "store_evicting"), []);
        fill(&running, Class::Bulk, 50, &mut random, &mut stored).await;
    }
    fill(&running, Class::Bulk, 500, &mut random, &mut stored).await;
    assert_eq!(phases(&mut running, "store_evicting"), [Phase::Active]);
    running.close().await;
}

#[tokio::test]
async fn that_the_store_cannot_commit_is_told_once_however_often_it_tries_and_its_end_too() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    std::fs::write(&dir, b"a file where the directory should be").expect("written");
    let mut running = start(opening(&dir));
    let stats = running.store.stats();
    running.emit(Class::Telemetry, 0..10).await;
    until("the store cannot commit", || stats.failed.get() == 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await; // it tries every second
    std::fs::remove_file(&dir).expect("removed");
    running.settled(10).await;
    until("the store commits again", || stats.failed.get() == 0).await;
    assert_eq!(phases(&mut running, "store_failed"), [Phase::Active, Phase::Cleared]);
    running.close().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_fails_the_store_but_not_the_start_and_is_used_once_it_can_be() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    std::fs::write(&dir, b"a file where the directory should be").expect("written");
    let running = start(opening(&dir));
    running.began();
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, 0..10).await;
    let stats = running.store.stats();
    until("the store cannot commit", || stats.failed.get() == 1).await;
    std::fs::remove_file(&dir).expect("removed");
    let items = drain(&mut reader, 10).await;
    assert_eq!(items.len(), 10);
    let stamps: Vec<Stamp> =
        items.iter().map(|item| if let Item::Record(owed) = item { owed.at } else { panic!("{item:?}") }).collect();
    assert!(stamps.iter().all(|at| at.boot.0 == 1));
    until("the store commits again", || stats.failed.get() == 0).await;
    // A fix that comes after that is one of the boot that the records are of, for this run and for the next.
    running.time.advance(Duration::from_secs(40));
    let fix = Fix { at: running.clock.now(), unix_ms: 1_795_204_840_000 };
    running.learns(fix);
    let taken = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    assert!(stamps.iter().all(|at| running.clock.wall(*at) == taken && running.clock.age(*at).as_secs() == 40));
    drop(reader);
    running.close().await;
    let fix = Fix { at: Stamp { boot: Boot(1), ..fix.at }, ..fix };
    assert!(open(opening(&dir)).fixes().contains(&fix));
}

#[tokio::test]
async fn a_store_starts_on_a_disk_that_is_full_already() {
    let Some(small) = Small::mounted("6m") else { return };
    let home = small.0.path().join("store");
    let running = start(opening(&home));
    running.emit(Class::Telemetry, 0..1000).await;
    running.settled(1000).await;
    running.close().await;
    let mut file = std::fs::File::create(small.0.path().join("hog")).expect("made");
    while std::io::Write::write_all(&mut file, &[7u8; 512]).is_ok() {}
    let before = std::time::Instant::now();
    let running = start(opening(&home));
    assert!(before.elapsed() < OPEN_MAX);
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, 1000..1010).await;
    let items = drain(&mut reader, 1010).await;
    assert_eq!(items.iter().filter_map(told).next_back().map(|(_, value)| value), Some(1009));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn while_the_store_cannot_commit_nothing_is_lost_for_which_there_is_memory_however_fast_it_comes() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    std::fs::write(&dir, b"a file where the directory should be").expect("written");
    let running = start(opening(&dir));
    let mut reader = running.store.reader("cloud").expect("routed");
    let stats = running.store.stats();
    until("the store cannot commit", || stats.failed.get() == 1).await;
    let at = running.clock.now();
    for value in 0..50_000 {
        let samples = vec![sample(Class::Telemetry as u32, value, at)];
        running.hub.emit(Batch { device: DeviceIx(0), samples }).await;
    }
    assert_eq!(running.hub.stats().spilled.get(), 0);
    std::fs::remove_file(&dir).expect("removed");
    let items = drain(&mut reader, 50_000).await;
    assert!(items.iter().filter_map(told).map(|(_, value)| value).eq(0..50_000), "in order of arrival");
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_long_failure_keeps_memory_bounded_and_what_found_no_place_is_the_last_of_the_numbers() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    std::fs::write(&dir, b"a file where the directory should be").expect("written");
    let running = start(opening(&dir));
    let mut reader = running.store.reader("cloud").expect("routed");
    let stats = running.store.stats();
    until("the store cannot commit", || stats.failed.get() == 1).await;
    running.emit(Class::Telemetry, 0..250_000).await;
    let spilled = running.hub.stats().spilled.get();
    assert!(spilled > 20_000, "{spilled}");
    std::fs::remove_file(&dir).expect("removed");
    let items = drain(&mut reader, 250_000).await;
    let values: Vec<u64> = items.iter().filter_map(told).map(|(_, value)| value).collect();
    assert!(values.iter().copied().eq(0..250_000 - spilled), "in order of arrival");
    let Some(Item::Gap(gap)) = items.last() else { panic!("a gap at the end") };
    assert_eq!((gap.last.0 - gap.first.0 + 1, gap.last.0, gap.reason.as_str()), (spilled, 250_000, "store"));
    assert!(gap.from.is_some() && gap.to.is_some());
    drop(reader);
    running.close().await;
    let verdict = inspect::verify(&dir, &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty() && verdict.declared.len() == 1, "{verdict:?}");
}

/// Somebody else has filled the disk: here, the directory up to its cap.
struct Hog(std::path::PathBuf);

impl Hog {
    fn in_store(dir: &Path) -> Self {
        let path = dir.join("hog");
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 30)).expect("made");
        Self(path)
    }

    fn goes(self) {
        std::fs::remove_file(self.0).expect("removed");
    }
}

#[tokio::test]
async fn what_a_stop_finds_uncommitted_on_a_full_disk_is_declared_by_the_next_run() {
    for waiting in [1000, 120_000] {
        let home = tempfile::tempdir().expect("a directory");
        let running = start(opening(home.path()));
        let mut reader = running.store.reader("cloud").expect("routed");
        running.emit(Class::Telemetry, 0..10).await;
        drain(&mut reader, 10).await;
        let (_, epoch, _) = running.store.newest()[Class::Telemetry as usize];
        drop(reader);
        running.close().await;

        let hog = Hog::in_store(home.path());
        let running = start(opening(home.path()));
        let stats = running.store.stats();
        running.emit(Class::Telemetry, 10..20).await;
        until("the store cannot commit", || stats.failed.get() == 1).await;
        // More than memory is granted to, the second time: the end comes nevertheless.
        running.emit(Class::Telemetry, 20..10 + waiting).await;
        running.close().await;
        assert_eq!(stats.spilled[Class::Telemetry].get(), waiting);
        hog.goes();
        // A look at it before that is no alarm: what is missing is known to have been given up.
        let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
        let [given_up] = &verdict.given_up[..] else { panic!("{verdict:?}") };
        assert_eq!((given_up.epoch, given_up.first, given_up.last), (epoch.0, 11, 10 + waiting));
        assert!(verdict.problems.is_empty(), "{verdict:?}");

        let mut running = start(opening(home.path()));
        let mut reader = running.store.reader("cloud").expect("routed");
        running.emit(Class::Telemetry, [4711]).await;
        let items = drain(&mut reader, waiting + 1).await;
        let [Item::Gap(gap), Item::Record(owed)] = &items[..] else { panic!("{items:?}") };
        assert_eq!((gap.epoch, gap.first.0, gap.last.0), (epoch, 11, 10 + waiting));
        assert_eq!(gap.reason, "store", "nothing is damaged");
        let told: Vec<_> = std::iter::from_fn(|| running.notices.try_recv().ok()).map(|notice| notice.event).collect();
        assert!(!told.contains(&"store_damaged"), "{told:?}");
        let previous = owed.previous.expect("names the epoch before");
        assert_eq!((previous.epoch, previous.seq), (epoch, Some(gap.last)));
        drop(reader);
        running.close().await;
        let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
        assert!(verdict.problems.is_empty() && verdict.given_up.is_empty(), "{verdict:?}");
    }
}

#[tokio::test]
async fn what_a_power_cut_takes_while_others_have_filled_the_disk_is_declared_by_the_next_start() {
    let Some(small) = Small::mounted("6m") else { return };
    let home = small.0.path().join("store");
    let running = start(opening(&home));
    running.emit(Class::Telemetry, 0..100).await;
    running.settled(100).await;
    let stats = running.store.stats();
    let mut file = std::fs::File::create(small.0.path().join("hog")).expect("made");
    let mut emitted = 100;
    while stats.failed.get() == 0 {
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
        running.emit(Class::Telemetry, emitted..emitted + 100).await;
        emitted += 100;
        tokio::task::yield_now().await;
    }
    let marked = || match Marks::read(&home.join("marks"), Unreadable::GiveUp) {
        Ok((Found::Marks(marks), _)) => marks[Class::Telemetry].last,
        _ => 0,
    };
    until("all of it is marked", || marked() == emitted).await;
    let cut_off = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(&home).expect("a directory").flatten().filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), cut_off.path().join(entry.file_name())).expect("copied");
    }
    let after = start(opening(cut_off.path()));
    let mut reader = after.store.reader("cloud").expect("routed");
    after.emit(Class::Telemetry, [4711]).await;
    let items = drain(&mut reader, emitted + 1).await;
    assert_eq!(items.iter().filter_map(told).next_back().map(|(_, value)| value), Some(4711));
    let gap = items.iter().rev().find_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None });
    assert_eq!(gap.map(|gap| (gap.last.0, &*gap.reason)), Some((emitted, "store")));
    drop(reader);
    after.close().await;
    // Where the disk works again instead, nothing but what was evicted is declared, and nothing is missing.
    drop(file);
    std::fs::remove_file(small.0.path().join("hog")).expect("removed");
    running.settled(emitted).await;
    running.close().await;
    let running = start(opening(&home));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4712]).await;
    let items = drain(&mut reader, emitted + 1).await;
    let is_right = |item: &Item| !matches!(item, Item::Gap(gap) if gap.reason != "evicted");
    assert!(items.iter().all(is_right) && stats.spilled[Class::Telemetry].get() == 0);
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn what_a_stop_finds_uncommitted_on_a_disk_that_others_have_filled_to_the_last_byte_is_declared_too() {
    let Some(small) = Small::mounted("6m") else { return };
    let home = small.0.path().join("store");
    let running = start(opening(&home));
    let stats = running.store.stats();
    let hog = small.0.path().join("hog");
    let mut file = std::fs::File::create(&hog).expect("made");
    let mut emitted = 0;
    while stats.failed.get() == 0 || emitted < 2000 {
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
        running.emit(Class::Telemetry, emitted..emitted + 100).await;
        emitted += 100;
        tokio::task::yield_now().await;
    }
    running.close().await;
    assert!(stats.spilled[Class::Telemetry].get() > 0);
    let verdict = inspect::verify(&home, &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
    drop(file);
    std::fs::remove_file(&hog).expect("removed");
    let running = start(opening(&home));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    // Each number comes, as a record or in a gap record.
    let items = drain(&mut reader, emitted + 1).await;
    assert_eq!(items.iter().filter_map(told).next_back().map(|(_, value)| value), Some(4711));
    drop(reader);
    running.close().await;
}
