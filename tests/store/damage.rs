//! Particular damages, each with what must come of it.

use crate::rig as support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironbridge::config::plan::UplinkStart;
use ironbridge::disk::meta::Meta;
use ironbridge::flow::clock::Fix;
use ironbridge::model::number::{Class, Epoch, Seq};
use ironbridge::model::sample::Batch;
use ironbridge::model::tag::{DataType, DeviceIx, TagIx};
use ironbridge::model::time::{Boot, Certainty, Stamp, Wall};
use ironbridge::store::{Item, Opening, OwedBody, OwedGap, inspect, open};
use support::*;

/// Stores and delivers some telemetry; returns its epoch.
async fn life(dir: &Path, values: std::ops::Range<u64>, deliver: u64) -> Epoch {
    let running = start(opening(dir));
    let count = values.end - values.start;
    for value in values {
        running.emit(Class::Telemetry, [value]).await;
    }
    running.settled(count).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    drain(&mut reader, deliver).await;
    let newest = running.store.newest();
    drop(reader);
    running.close().await;
    newest[Class::Telemetry as usize].1
}

async fn rest(dir: &Path) -> Vec<Item> {
    let running = start(opening(dir));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    let mut items = Vec::new();
    while !items.iter().filter_map(told).any(|(_, value)| value == 4711) {
        items.extend(drain(&mut reader, 1).await);
    }
    drop(reader);
    running.close().await;
    let verdict = inspect::verify(dir, &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
    items
}

fn gaps(items: &[Item]) -> Vec<&OwedGap> {
    items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None }).collect()
}

fn chunk(dir: &Path) -> PathBuf {
    let mut found = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    found
        .find(|path| path.to_string_lossy().contains("chunk-telemetry") && path.extension().is_some_and(|e| e == "db"))
        .expect("one")
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

#[tokio::test]
async fn a_chunk_that_came_back_shorter_begins_an_epoch_that_names_the_one_before_and_declares_the_rest() {
    let home = tempfile::tempdir().expect("a directory");
    let first = life(home.path(), 0..20, 20).await;
    let old = chunk(home.path());
    let before = std::fs::read(&old).expect("read");
    assert_eq!(life(home.path(), 20..50, 0).await, first, "an orderly restart keeps the epoch");
    let log = PathBuf::from(format!("{}-wal", old.display()));
    let _ = std::fs::remove_file(log);
    std::fs::write(&old, before).expect("rolled back");
    let items = rest(home.path()).await;
    let [gap] = gaps(&items)[..] else { panic!("one gap: {items:?}") };
    assert_eq!((gap.epoch, gap.last, gap.reason.as_str()), (first, Seq(50), "damaged"));
    assert_eq!(gap.first, Seq(21), "everything that was not acknowledged is in it");
    let Some(Item::Record(owed)) = items.last() else { panic!("{items:?}") };
    assert_eq!(owed.number.seq, Seq(1));
    let previous = owed.previous.expect("names the one before");
    assert_eq!((previous.epoch, previous.seq), (first, Some(Seq(50))));
}

#[tokio::test]
async fn a_copied_store_never_uses_the_numbers_of_its_original() {
    let home = tempfile::tempdir().expect("a directory");
    let (original, copied) = (home.path().join("a"), home.path().join("b"));
    let first = life(&original, 0..20, 20).await;
    copy(&original, &copied);
    assert_eq!(life(&original, 20..30, 10).await, first);
    let items = rest(&copied).await;
    let Some(Item::Record(owed)) = items.last() else { panic!("{items:?}") };
    assert_ne!(owed.number.epoch, first);
    let previous = owed.previous.expect("names the one before");
    assert_eq!((previous.epoch, previous.seq), (first, None), "where the original ends is not known");
    assert_eq!(items.len(), 1);
}

/// Stores forty times ten values, a second apart, and flips bits in one segment of the middle. Each time is a run of its
/// own: what is stored between two merges becomes one segment.
async fn flipped(home: &Path) {
    flipped_at(home, 20).await;
}

async fn flipped_at(home: &Path, segment: usize) {
    for round in 0..40 {
        let running = start(opening(home));
        running.time.advance(Duration::from_secs(round + 1));
        running.emit(Class::Telemetry, round * 10..round * 10 + 10).await;
        running.settled(10).await;
        running.close().await;
    }
    let file = chunk(home);
    // A body of the middle: found by its content, so that only the CRC can notice.
    let bytes = std::fs::read(&file).expect("read");
    let place =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == [0x28, 0xB5, 0x2F, 0xFD]).map(|(n, _)| n).nth(segment);
    let place = place.expect("zstd frames") as u64;
    File::options().write(true).open(&file).expect("open").write_all_at(&[0x55; 3], place + 9).expect("flipped");
}

#[tokio::test]
async fn an_uplink_that_begins_at_the_oldest_is_told_of_losses_that_were_declared_before_it_was_there() {
    let home = tempfile::tempdir().expect("a directory");
    flipped(home.path()).await;
    assert_eq!(gaps(&rest(home.path()).await).len(), 1);
    let late = ironbridge::store::Route { start: UplinkStart::Oldest, ..route("late", &Class::ALL) };
    let running =
        start(ironbridge::store::Opening { uplinks: vec![route("cloud", &Class::ALL), late], ..opening(home.path()) });
    let mut reader = running.store.reader("late").expect("routed");
    let backlog = reader.backlog();
    let items = drain(&mut reader, 401).await;
    assert_eq!(gaps(&items).len(), 1, "{items:?}");
    assert_eq!((backlog, items.len(), reader.backlog()), (400 - 10 + 1 + 1, 400 - 10 + 1 + 1, 0));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn damage_at_the_end_of_a_chunk_is_bracketed_by_what_is_whole() {
    let mut at_an_end = 0;
    for segment in [0, 1, 37, 38] {
        let home = tempfile::tempdir().expect("a directory");
        flipped_at(home.path(), segment).await;
        let items = rest(home.path()).await;
        let [gap] = gaps(&items)[..] else { panic!("one gap: {items:?}") };
        let (first, last) = (i64::try_from(gap.first.0).expect("small"), i64::try_from(gap.last.0).expect("small"));
        let second = |at: Option<Stamp>| at.map(|at| at.micros / 1_000_000);
        assert_eq!(second(gap.from), (first > 1).then_some((first - 1) / 10), "{gap:?}");
        // After the very last comes a record of the next run, whose clock begins at 0, or nothing yet.
        assert_eq!(second(gap.to).filter(|at| *at > 0), (last < 400).then_some(last / 10 + 1), "{gap:?}");
        at_an_end += u32::from(first == 1 || last == 400);
    }
    assert!(at_an_end > 0);
}

#[tokio::test]
async fn a_file_in_quarantine_that_cannot_be_read_now_is_waited_for_and_costs_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    life(home.path(), 0..20, 0).await;
    let (chunk, aside) = (chunk(home.path()), home.path().join("quarantine"));
    let log = PathBuf::from(format!("{}-wal", chunk.display()));
    assert!(std::fs::metadata(&log).map_or(0, |log| log.len()) == 0, "all of it is in the file");
    std::fs::create_dir_all(&aside).expect("made");
    let name = chunk.file_name().expect("a name").to_string_lossy().into_owned();
    std::fs::rename(&chunk, aside.join(&name)).expect("moved");
    // A directory can be opened, and each read of it fails, with another error than that of a bad sector.
    let medium = aside.join(format!("{name}-wal"));
    std::fs::create_dir(&medium).expect("made");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    running.settled(1).await;
    let early = tokio::time::timeout(Duration::from_millis(300), reader.next(100)).await;
    assert!(early.is_err(), "neither records nor gaps: {early:?}");
    std::fs::remove_dir(&medium).expect("gone");
    let items = drain(&mut reader, 21).await;
    assert!(gaps(&items).is_empty(), "{items:?}");
    let values: Vec<u64> = items.iter().filter_map(told).map(|(_, value)| value).collect();
    assert_eq!(values, (0..20).chain([4711]).collect::<Vec<_>>());
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn flipped_bits_in_the_middle_cost_one_segment_and_the_rest_arrives() {
    let home = tempfile::tempdir().expect("a directory");
    flipped(home.path()).await;
    let items = rest(home.path()).await;
    let [gap] = gaps(&items)[..] else { panic!("one gap: {items:?}") };
    assert_eq!((gap.last.0 - gap.first.0, gap.reason.as_str()), (9, "damaged"));
    // Between the whole records on either side, that is.
    let second = |at: Option<Stamp>| at.expect("known").micros / 1_000_000;
    let lost = i64::try_from(gap.last.0).expect("small") / 10;
    assert_eq!((second(gap.from), second(gap.to)), (lost - 1, lost + 1));
    assert_eq!(items.len(), 400 - 10 + 1 + 1);
}

#[tokio::test]
async fn a_meta_file_of_a_newer_version_is_set_aside_untouched_and_one_that_is_gone_is_healed() {
    for newer in [true, false] {
        let home = tempfile::tempdir().expect("a directory");
        let first = life(home.path(), 0..50, 50).await;
        let meta = home.path().join("meta.db");
        // Bytes 60..64 of the header are user_version (sqlite.org/fileformat2.html, section 1.3).
        File::options().write(true).open(&meta).expect("open").write_all_at(&99u32.to_be_bytes(), 60).expect("written");
        let untouched = std::fs::read(&meta).expect("read");
        if !newer {
            std::fs::remove_file(&meta).expect("removed");
            std::fs::remove_file(home.path().join("meta.copy")).expect("removed");
        }
        let items = rest(home.path()).await;
        if newer {
            assert_eq!(std::fs::read(home.path().join("quarantine/meta.db")).expect("set aside"), untouched);
        }
        assert!(gaps(&items).is_empty(), "{items:?}");
        let last = items.iter().filter_map(told).next_back().expect("a record");
        assert_eq!((last.0.epoch, last.0.seq, last.1), (first, Seq(51), 4711), "numbers go on");
        assert!(items.iter().all(|item| matches!(item, Item::Record(owed)
            if matches!(&owed.body, ironbridge::store::OwedBody::Sample { tag, .. } if tag.name == "telemetry"))));
    }
}

const MANY: u64 = 120_000;

/// What no packing makes smaller.
fn mixed(n: u64) -> u64 {
    let n = (n ^ n << 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (n ^ n >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// More than goes into one chunk, after one value of a tag of its own; the chunks in order. A chunk is finished between runs.
async fn several_chunks(home: &Path) -> Vec<PathBuf> {
    let mut opening = Opening { max_size: 4 * 1024 * 1024, ..opening(home) };
    opening.tags.push(tag("early", DataType::Uint64, Class::Telemetry));
    let early = TagIx(u32::try_from(opening.tags.len()).expect("few") - 1);
    for part in 0..3 {
        let running = start(opening.clone());
        if part == 0 {
            let samples = vec![sample(early.0, 7, running.clock.now())];
            running.hub.emit(Batch { device: DeviceIx(0), samples }).await;
        }
        let values = (part * MANY / 3).max(1)..(part + 1) * MANY / 3;
        let count = values.end - values.start + u64::from(part == 0);
        running.emit(Class::Telemetry, values.map(mixed)).await;
        running.settled(count).await;
        running.close().await;
    }
    let mut chunks: Vec<PathBuf> = std::fs::read_dir(home)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.to_string_lossy().contains("chunk-telemetry") && path.extension().is_some_and(|e| e == "db")
        })
        .collect();
    chunks.sort();
    assert!(chunks.len() > 1);
    chunks
}

#[tokio::test]
async fn a_meta_file_that_was_begun_anew_and_never_filled_gives_no_record_to_another_tag() {
    let home = tempfile::tempdir().expect("a directory");
    several_chunks(home.path()).await;
    let meta = home.path().join("meta.db");
    std::fs::remove_file(home.path().join("meta.copy")).expect("removed");
    std::fs::remove_file(&meta).expect("removed");
    drop(Meta::create(&meta).expect("as a start leaves it whose power is cut"));
    // Other tags before those that are there: whoever gives numbers anew gives theirs away.
    let mut other = opening(home.path());
    let new = (0..8).map(|n| tag(&format!("new-{n}"), DataType::Uint64, Class::Telemetry));
    other.tags.splice(0..0, new);
    let running = start(other);
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 10).await;
    let name = |item: &Item| match item {
        Item::Record(owed) => match &owed.body {
            OwedBody::Sample { tag, .. } => tag.name.clone(),
            _ => String::new(),
        },
        Item::Gap(_) => String::new(),
    };
    assert_eq!((name(&items[0]), name(&items[1])), ("early".into(), "telemetry".into()));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_first_number_that_flipped_costs_its_own_segment_and_nothing_of_other_chunks() {
    let home = tempfile::tempdir().expect("a directory");
    let chunks = several_chunks(home.path()).await;
    let file = rusqlite::Connection::open(&chunks[1]).expect("opens");
    let (first, last): (i64, i64) = file
        .query_row("SELECT first, last FROM segment ORDER BY first LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a segment");
    file.execute("UPDATE segment SET first = 9 WHERE first = ?1", [first]).expect("as a bit flips");
    drop(file);
    let (first, last) = (first.unsigned_abs(), last.unsigned_abs());
    let items = rest(home.path()).await;
    let [gap] = gaps(&items)[..] else { panic!("one gap: {:?}", gaps(&items)) };
    assert_eq!((gap.first.0, gap.last.0, gap.reason.as_str()), (first, last, "damaged"));
    let values = items.iter().filter_map(told).skip(1).map(|(_, value)| value);
    let there = (1..MANY).filter(|n| !(first..=last).contains(&(n + 1))).map(mixed);
    assert!(values.eq(there.chain([4711])));
}

#[tokio::test]
async fn a_meta_file_that_the_medium_never_gives_is_given_up_for_its_copy_and_nothing_is_lost() {
    let home = tempfile::tempdir().expect("a directory");
    let first = life(home.path(), 0..50, 50).await;
    let meta = home.path().join("meta.db");
    std::fs::remove_file(&meta).expect("removed");
    // At address 0 of this process nothing lies: a read is EIO, as of a bad sector.
    std::os::unix::fs::symlink("/proc/self/mem", &meta).expect("made");
    let items = rest(home.path()).await;
    assert!(home.path().join("quarantine/meta.db").is_symlink());
    assert!(gaps(&items).is_empty(), "{items:?}");
    let last = items.iter().filter_map(told).next_back().expect("a record");
    assert_eq!((items.len(), last.0.epoch, last.0.seq), (1, first, Seq(51)), "what was delivered is known");
}

#[tokio::test]
async fn a_meta_file_whose_header_forbids_writing_is_set_aside_for_its_copy_and_nothing_is_lost() {
    let home = tempfile::tempdir().expect("a directory");
    let first = life(home.path(), 0..50, 50).await;
    let meta = File::options().write(true).open(home.path().join("meta.db")).expect("opens");
    meta.write_all_at(&[0x82], 18).expect("as a bit flips in the write version");
    let items = rest(home.path()).await;
    assert!(home.path().join("quarantine/meta.db").exists());
    let last = items.iter().filter_map(told).next_back().expect("a record");
    assert_eq!((items.len(), last.0.epoch, last.0.seq), (1, first, Seq(51)), "what was delivered is known");
}

#[tokio::test]
async fn a_chunk_that_can_be_neither_read_nor_set_aside_keeps_no_store_closed_and_is_declared() {
    let home = tempfile::tempdir().expect("a directory");
    life(home.path(), 0..50, 0).await;
    std::fs::write(chunk(home.path()), [0x55; 8192]).expect("damaged");
    let quarantine = home.path().join("quarantine");
    std::fs::remove_dir(&quarantine).expect("it is empty");
    // A directory of another file system: every rename to it fails.
    std::os::unix::fs::symlink("/proc/self/task", &quarantine).expect("made");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    let mut items = Vec::new();
    while !items.iter().filter_map(told).any(|(_, value)| value == 4711) {
        items.extend(drain(&mut reader, 1).await);
    }
    let [gap] = gaps(&items)[..] else { panic!("one gap: {items:?}") };
    assert_eq!((gap.first, gap.last, gap.reason.as_str()), (Seq(1), Seq(50), "damaged"));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_directory_that_is_taken_away_ends_the_store_instead_of_being_written_to_where_nobody_looks() {
    for another in [true, false] {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("store");
        let running = start(opening(&dir));
        running.emit(Class::Telemetry, 0..10).await;
        running.settled(10).await;
        std::fs::rename(&dir, home.path().join("elsewhere")).expect("moved");
        if another {
            std::fs::create_dir(&dir).expect("made");
        }
        let emitting = async {
            loop {
                running.emit(Class::Telemetry, [11]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = running.store.ended() => {}
            () = emitting => unreachable!("for ever"),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it goes on"),
        }
    }
}

#[tokio::test]
async fn a_directory_in_use_is_not_touched_and_taken_once_it_is_free() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let fix = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 };
    running.learns(fix);
    running.emit(Class::Telemetry, [1]).await;
    running.settled(1).await;
    let second = start(Opening { boot_token: "boot-2".into(), ..opening(home.path()) });
    second.began();
    assert_eq!(open(opening(home.path())).boot().0, 0);
    second.emit(Class::Telemetry, [2]).await;
    running.close().await;
    second.settled(1).await;
    let newest = second.store.newest()[Class::Telemetry as usize];
    assert_eq!(newest.2, Seq(2));
    // What lies there has the times it was given, though the clock began without them, and this boot comes after it.
    let mut reader = second.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 2).await;
    let [Item::Record(before), Item::Record(now)] = &items[..] else { panic!("{items:?}") };
    assert_eq!((before.at.boot, now.at.boot), (Boot(1), Boot(2)));
    assert_eq!(second.clock.wall(before.at), Wall { unix_ms: fix.unix_ms, certainty: Certainty::Fixed });
    assert_eq!(second.clock.wall(now.at), Wall { unix_ms: fix.unix_ms, certainty: Certainty::Floor });
    drop(reader);
    second.close().await;
    let floor = Fix::floor(Boot(2), fix.unix_ms);
    assert_eq!(open(opening(home.path())).fixes(), [fix, floor]);
}

#[tokio::test]
async fn a_clock_that_was_ahead_and_was_set_right_is_believed_after_a_restart_too() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let wrong = Fix { at: running.clock.now(), unix_ms: 3_500_000_000_000 };
    running.time.advance(Duration::from_secs(10));
    let right = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 };
    for fix in [wrong, right] {
        running.clock.learn(fix);
        running.store.record_fix(fix);
        running.event(Class::Event, "stored").await;
    }
    running.close().await;
    let floor = open(opening(home.path())).latest_wall_ms();
    assert_eq!(floor, Some(right.unix_ms), "a later floor would have the right time refused for years");
}

#[tokio::test]
async fn time_that_comes_by_hand_each_minute_leaves_one_fix_of_the_boot_and_its_floor() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let floor = Fix::floor(running.clock.now().boot, 1_795_000_000_000);
    running.learns(floor);
    let mut latest = floor;
    for minute in 1..=50 {
        running.time.advance(Duration::from_secs(60));
        latest = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 + minute * 61_000 };
        running.learns(latest);
        running.store.answers().await;
    }
    running.close().await;
    assert_eq!(open(opening(home.path())).fixes(), [floor, latest]);
}

#[tokio::test]
async fn clock_fixes_and_boot_numbers_survive_and_a_new_boot_gets_a_new_number() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let fix = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 };
    running.clock.learn(fix);
    running.store.record_fix(fix);
    running.close().await;
    let store = open(opening(home.path()));
    assert_eq!((store.boot().0, store.fixes(), store.latest_wall_ms()), (1, vec![fix], Some(fix.unix_ms)));
    drop(store);
    let store = open(ironbridge::store::Opening { boot_token: "boot-2".into(), ..opening(home.path()) });
    assert_eq!((store.boot().0, store.fixes()), (2, vec![fix]));
}

#[tokio::test]
async fn the_clock_fixes_of_a_boot_stay_as_long_as_there_is_something_of_it_however_many_boots_there_were_since() {
    let home = tempfile::tempdir().expect("a directory");
    let boot = |number: u32| Opening { boot_token: format!("boot-{number}"), ..opening(home.path()) };
    let fix = |number: u32| {
        let unix_ms = 1_795_204_800_000 + i64::from(number) * 3_600_000;
        Fix { at: Stamp { boot: Boot(number), micros: 0 }, unix_ms }
    };
    // Nothing was taken in the first one.
    for number in 1..=2 {
        let running = start(boot(number));
        running.learns(fix(number));
        if number == 2 {
            running.emit(Class::Telemetry, [7]).await;
            running.settled(1).await;
        }
        running.close().await;
    }
    for number in 3..=80 {
        assert_eq!(open(boot(number)).boot().0, number);
    }
    let fixes = open(boot(80)).fixes();
    assert_eq!(fixes, [fix(2)]);
    let running = start(boot(80));
    running.clock.learn(fixes[0]);
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 1).await;
    let [Item::Record(owed)] = &items[..] else { panic!("{items:?}") };
    let taken = Wall { unix_ms: fix(2).unix_ms, certainty: Certainty::Fixed };
    assert_eq!((owed.at.boot, running.clock.wall(owed.at)), (Boot(2), taken));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn what_a_stop_finds_uncommitted_in_a_store_that_could_not_be_opened_is_declared_by_the_next_run() {
    let home = tempfile::tempdir().expect("a directory");
    let epoch = life(home.path(), 0..10, 10).await;
    // The medium refuses one file; the marks are written in place.
    let (meta, away) = (home.path().join("meta.db"), home.path().join("away"));
    std::fs::rename(&meta, &away).expect("moved");
    std::fs::create_dir(&meta).expect("something in the way");
    let running = start(opening(home.path()));
    let stats = running.store.stats();
    until("the store cannot commit", || stats.failed.get() == 1).await;
    running.emit(Class::Telemetry, 10..30).await;
    running.close().await;
    assert_eq!(stats.spilled[Class::Telemetry].get(), 20);
    std::fs::remove_dir(&meta).expect("removed");
    std::fs::rename(&away, &meta).expect("back");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [4711]).await;
    let items = drain(&mut reader, 21).await;
    let [Item::Gap(gap), Item::Record(_)] = &items[..] else { panic!("{items:?}") };
    assert_eq!((gap.epoch, gap.first, gap.last, &*gap.reason), (epoch, Seq(11), Seq(30), "store"));
    drop(reader);
    running.close().await;
}
