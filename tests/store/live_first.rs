//! Live before the backlog: what a reader hands out when both wait, over reconnects and restarts.

use crate::rig as support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ironbridge::config::plan::{Delivery, UplinkStart};
use ironbridge::flow::hub::EventRecord;
use ironbridge::model::number::Class;
use ironbridge::store::{Item, Lane, Pull, Reader, Wants, inspect};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;

async fn pull(reader: &mut Reader, live: usize, backlog: usize) -> Pull {
    let pulled = reader.pull(Wants { live, backlog, above: [None; 2] });
    tokio::time::timeout(PATIENCE, pulled).await.expect("something comes in time").expect("open")
}

fn values(pull: &Pull) -> Vec<u64> {
    pull.items.iter().filter_map(told).map(|(_, value)| value).collect()
}

fn acknowledge(reader: &Reader, pull: &Pull) {
    pull.items.iter().for_each(|item| reader.acknowledge(ack(item)));
}

#[tokio::test]
async fn what_is_committed_after_the_session_began_comes_first_and_the_backlog_beside_it() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.emit(Class::Bulk, 0..50).await;
    running.emit(Class::Alarm, 50..60).await;
    running.settled(60).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    reader.begin(Delivery::LiveFirst);
    let first = pull(&mut reader, 100, 20).await;
    assert_eq!((first.lane, values(&first)), (Lane::Backlog, (50..60).collect()), "alarms first");
    running.emit(Class::Bulk, 100..110).await;
    running.emit(Class::Event, 110..115).await;
    running.settled(75).await;
    let live = pull(&mut reader, 100, 20).await;
    assert_eq!((live.lane, values(&live)), (Lane::Live, (110..115).collect()), "the most urgent class first");
    let backlog = pull(&mut reader, 0, 20).await;
    assert_eq!((backlog.lane, values(&backlog)), (Lane::Backlog, (0..20).collect()));
    let live = pull(&mut reader, 100, 20).await;
    assert_eq!((live.lane, values(&live)), (Lane::Live, (100..110).collect()));
    acknowledge(&reader, &live);
    assert_eq!(reader.backlog(), 65);

    // The next session: what was not acknowledged is the backlog now, what was does not come again.
    reader.begin(Delivery::LiveFirst);
    let mut again = Vec::new();
    while again.len() < 65 {
        let more = pull(&mut reader, 100, 100).await;
        assert_eq!(more.lane, Lane::Backlog);
        acknowledge(&reader, &more);
        again.extend(values(&more));
    }
    assert_eq!(again, (50..60).chain(110..115).chain(0..50).collect::<Vec<_>>());
    assert_eq!((reader.backlog(), reader.oldest()), (0, None));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn in_strict_order_the_lane_only_says_what_is_live() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..50).await;
    running.settled(50).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    reader.begin(Delivery::Strict);
    running.emit(Class::Telemetry, 50..60).await;
    running.settled(60).await;
    let mut seen = Vec::new();
    while seen.len() < 60 {
        let more = pull(&mut reader, 20, 20).await;
        for value in values(&more) {
            assert_eq!(more.lane == Lane::Live, value >= 50, "{value}");
            seen.push(value);
        }
    }
    assert!(seen.into_iter().eq(0..60));
    drop(reader);
    running.close().await;
}

/// Leaves ten records behind and acknowledges ten live ones.
async fn a_session_with_a_hole(running: &Running, reader: &mut Reader, stored: &mut u64) {
    running.emit(Class::Telemetry, *stored..*stored + 10).await;
    running.settled(*stored + 10).await;
    reader.begin(Delivery::LiveFirst);
    running.emit(Class::Telemetry, *stored + 10..*stored + 20).await;
    *stored += 20;
    running.settled(*stored).await;
    let mut left = 10;
    while left > 0 {
        let live = pull(reader, left, 0).await;
        left -= live.items.len();
        acknowledge(reader, &live);
    }
}

#[tokio::test]
async fn a_cursor_with_64_ranges_falls_back_to_strict_order_until_half_of_them_have_merged() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut stored = 0;
    for _ in 0..64 {
        a_session_with_a_hole(&running, &mut reader, &mut stored).await;
    }
    drop(reader);
    running.close().await;

    // All 64 ranges were saved.
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    assert_eq!(reader.backlog(), 640);
    reader.begin(Delivery::LiveFirst);
    running.emit(Class::Telemetry, stored..stored + 10).await;
    running.settled(10).await;
    for hole in 0..32 {
        let next = pull(&mut reader, 100, 100).await;
        let first = hole * 20;
        assert_eq!((next.lane, values(&next)), (Lane::Backlog, (first..first + 10).collect()), "no live one beside it");
        acknowledge(&reader, &next);
    }
    running.emit(Class::Telemetry, stored + 10..stored + 20).await;
    running.settled(20).await;
    reader.pull(Wants { live: 0, backlog: 1, above: [None; 2] }).await.expect("open");
    running.emit(Class::Telemetry, stored + 20..stored + 30).await;
    running.settled(30).await;
    let live = pull(&mut reader, 100, 100).await;
    assert_eq!(live.lane, Lane::Live, "beside the backlog again");
    assert!(values(&live).iter().all(|value| *value >= stored + 10), "{:?}", values(&live));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_refused_record_comes_back_as_a_gap_record_of_this_uplink_alone_and_survives_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let mut with_two = opening(home.path());
    with_two.uplinks.push(route("plant", &[Class::Telemetry]));
    let running = start(with_two.clone());
    running.emit(Class::Telemetry, 0..10).await;
    running.settled(10).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    reader.begin(Delivery::LiveFirst);
    let items = next(&mut reader, 10).await.expect("open");
    for (n, item) in items.iter().enumerate().filter(|(n, _)| *n != 3 && *n != 9) {
        assert!(n < 9);
        reader.acknowledge(ack(item));
    }
    let at = match &items[3] {
        Item::Record(owed) => owed.at,
        Item::Gap(gap) => panic!("{gap:?}"),
    };
    reader.refuse(ack(&items[3]), Some((at, at)));
    let Some(Item::Gap(gap)) = next(&mut reader, 10).await.expect("open").pop() else { panic!("a gap record") };
    assert_eq!((gap.first.0, gap.last.0, gap.reason.as_str(), gap.from), (4, 4, "refused", Some(at)));
    assert_eq!(reader.backlog(), 2, "the gap record and the last record");
    drop(reader);
    running.close().await;

    let running = start(with_two);
    let mut reader = running.store.reader("cloud").expect("routed");
    reader.begin(Delivery::LiveFirst);
    let again = drain(&mut reader, 2).await;
    assert!(matches!(&again[0], Item::Gap(again) if *again == gap), "{again:?}");
    assert_eq!(told(&again[1]).map(|(number, _)| number.seq.0), Some(10));
    assert_eq!(reader.backlog(), 0);
    let mut plant = running.store.reader("plant").expect("routed");
    assert_eq!(drain(&mut plant, 10).await.len(), 10, "the other uplink has the record itself");
    drop((reader, plant));
    running.close().await;
}

#[tokio::test]
async fn evictions_under_a_live_first_cursor_declare_what_is_missing_and_nothing_else() {
    let home = tempfile::tempdir().expect("a directory");
    let small = ironbridge::store::Opening { max_size: 3 << 20, ..opening(home.path()) };
    let running = start(small);
    let mut dice = StdRng::seed_from_u64(5);
    let mut emitted = 0;
    let mut emit = async |count: u64| {
        // incompressible, so that chunks fill
        let at = running.clock.now();
        let samples: Vec<_> = (0..count).map(|_| sample(Class::Telemetry as u32, dice.random(), at)).collect();
        for part in samples.chunks(500) {
            let batch = ironbridge::model::sample::Batch {
                device: ironbridge::model::tag::DeviceIx(0),
                samples: part.to_vec(),
            };
            running.hub.emit(batch).await;
        }
        emitted += count;
        running.settled(emitted).await;
    };
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut taken = BTreeSet::new();
    for _ in 0..12 {
        emit(10_000).await;
        reader.begin(Delivery::LiveFirst);
        emit(10_000).await;
        let mut left = 10_000;
        while left > 0 {
            let live = pull(&mut reader, left, 0).await;
            assert_eq!(live.lane, Lane::Live);
            for item in &live.items {
                taken.insert(told(item).expect("a record").0.seq.0);
                reader.acknowledge(ack(item));
            }
            left -= live.items.len();
        }
    }
    for _ in 0..3 {
        emit(50_000).await; // an outage
    }
    reader.begin(Delivery::LiveFirst);
    let mut declared = BTreeSet::new();
    while reader.backlog() > 0 {
        let more = pull(&mut reader, 5000, 5000).await;
        for item in &more.items {
            match item {
                Item::Gap(gap) => {
                    assert_eq!(gap.reason, "evicted");
                    declared.extend(gap.first.0..=gap.last.0);
                }
                Item::Record(owed) => assert!(taken.insert(owed.number.seq.0), "acknowledged, and again"),
            }
            reader.acknowledge(ack(item));
        }
    }
    assert!(!declared.is_empty());
    assert!(declared.is_disjoint(&taken), "what arrived is not declared lost");
    assert!(taken.union(&declared).copied().eq(1..=emitted), "every number is explained");
    drop(reader);
    running.close().await;
}

/// Stores events of 2000 bytes that do not compress.
async fn fill(running: &Running, dice: &mut StdRng, count: u64, stored: &mut u64) {
    for _ in 0..count {
        let body: Vec<u8> = (0..2000).map(|_| dice.random()).collect();
        let (topic, at) = ("machines/press".into(), running.clock.now());
        let event = EventRecord { topic, body, class: Class::Bulk, at, committed: None };
        running.hub.emit_event(event).await;
    }
    *stored += count;
    running.settled(*stored).await;
}

#[tokio::test]
async fn live_records_that_everybody_has_go_before_the_backlog_that_waits_below_them() {
    let home = tempfile::tempdir().expect("a directory");
    let small = || ironbridge::store::Opening { max_size: 8 << 20, ..opening(home.path()) };
    let running = start(small());
    let (mut dice, mut stored, backlog) = (StdRng::seed_from_u64(6), 0, 1000);
    for _ in 0..20 {
        fill(&running, &mut dice, backlog / 20, &mut stored).await;
    }
    let mut reader = running.store.reader("cloud").expect("routed");
    reader.begin(Delivery::LiveFirst);
    for _ in 0..150 {
        fill(&running, &mut dice, 40, &mut stored).await;
        let mut left = 40;
        while left > 0 {
            let live = pull(&mut reader, left, 0).await;
            assert_eq!(live.lane, Lane::Live);
            acknowledge(&reader, &live);
            left -= live.items.len();
        }
    }
    let stats = running.store.stats();
    assert!(stats.chunks_evicted.get() > 3, "{}", stats.chunks_evicted.get());
    assert_eq!((stats.evicted[Class::Bulk].get(), reader.backlog()), (0, backlog));
    drop(reader);
    running.close().await;
    let missing = inspect::status(home.path()).expect("readable").missing;
    assert!(matches!(&missing[..], [one] if one.first > backlog && one.reason == "evicted"), "{missing:?}");

    // After a restart, too, all of the backlog arrives, and nothing else.
    let late = ironbridge::store::Route { start: UplinkStart::Oldest, ..route("late", &Class::ALL) };
    let uplinks = vec![route("cloud", &Class::ALL), late];
    let running = start(ironbridge::store::Opening { uplinks, ..small() });
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, backlog).await;
    let numbers = items.iter().map(|item| told(item).expect("no gap record").0.seq.0);
    assert!(numbers.eq(1..=backlog));
    assert_eq!(reader.backlog(), 0);
    // One who was not there and wants all of it is told what is gone.
    let mut late = running.store.reader("late").expect("routed");
    let items = drain(&mut late, stored).await;
    let gaps = items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None });
    assert_eq!(gaps.map(|gap| (gap.first.0, gap.last.0)).collect::<Vec<_>>(), [(missing[0].first, missing[0].last)]);
    drop((reader, late));
    running.close().await;
    let verdict = inspect::verify(home.path(), &mut |_, _| {}).expect("readable");
    assert!(verdict.problems.is_empty(), "{verdict:?}");
}

/// Random sessions against plain sets: pulls from both lanes, acknowledgements in any order, reconnects, restarts.
#[allow(clippy::too_many_lines, reason = "one model, read from top to bottom")]
#[tokio::test]
async fn random_sessions_deliver_everything_and_nothing_again_that_was_acknowledged_within_64_ranges() {
    for seed in 0..4 {
        let mut dice = StdRng::seed_from_u64(seed);
        let home = tempfile::tempdir().expect("a directory");
        let mut stored = 0_u64;
        let mut arrived: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        let mut acknowledged: BTreeSet<(u8, u64)> = BTreeSet::new();
        for life in 0..4 {
            let running = start(opening(home.path()));
            let mut mine = 0;
            let mut reader = running.store.reader("cloud").expect("routed");
            for session in 0..6 {
                reader.begin(Delivery::LiveFirst);
                let marks: BTreeMap<u8, u64> =
                    running.store.newest().into_iter().map(|(class, _, seq)| (class as u8, seq.0)).collect();
                let mut before: BTreeMap<(u8, bool), u64> = BTreeMap::new();
                let mut flying: Vec<Item> = Vec::new();
                for _ in 0..dice.random_range(1..12) {
                    if dice.random_bool(0.4) {
                        let count = dice.random_range(1..300);
                        running.emit(Class::ALL[dice.random_range(0..4)], stored..stored + count).await;
                        (stored, mine) = (stored + count, mine + count);
                        running.settled(mine).await;
                    }
                    let wants =
                        Wants { live: dice.random_range(0..400), backlog: dice.random_range(0..400), above: [None; 2] };
                    let Ok(Some(more)) = tokio::time::timeout(Duration::from_millis(20), reader.pull(wants)).await
                    else {
                        continue;
                    };
                    for item in more.items {
                        let (number, value) = told(&item).expect("nothing was lost");
                        let key = (number.stream as u8, number.seq.0);
                        assert!(!acknowledged.contains(&key), "seed {seed} {life}.{session}: {key:?} comes again");
                        assert!(arrived.insert(key, value).is_none_or(|before| before == value));
                        let live = number.seq.0 > marks.get(&key.0).copied().unwrap_or(0);
                        assert_eq!(live, more.lane == Lane::Live, "seed {seed}: {key:?}");
                        let order = before.insert((key.0, live), key.1);
                        assert!(order.is_none_or(|before| before < key.1), "in order within class and lane");
                        flying.push(item);
                    }
                    // acknowledged from the front, now and then one out of order
                    for _ in 0..dice.random_range(0..=flying.len()) {
                        let which = if dice.random_bool(0.98) { 0 } else { dice.random_range(0..flying.len()) };
                        let item = flying.remove(which);
                        let (number, _) = told(&item).expect("a record");
                        reader.acknowledge(ack(&item));
                        acknowledged.insert((number.stream as u8, number.seq.0));
                    }
                    if (0..4).any(|class| ranges(&acknowledged, class) >= 60) {
                        break; // that is another test
                    }
                }
            }
            drop(reader);
            running.close().await;
        }
        let running = start(opening(home.path()));
        let mut reader = running.store.reader("cloud").expect("routed");
        reader.begin(Delivery::LiveFirst);
        while reader.backlog() > 0 {
            let more = pull(&mut reader, 500, 500).await;
            for item in &more.items {
                let (number, value) = told(item).expect("nothing was lost");
                assert!(arrived.insert((number.stream as u8, number.seq.0), value).is_none_or(|old| old == value));
                reader.acknowledge(ack(item));
            }
        }
        let mut values: Vec<u64> = arrived.into_values().collect();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..stored), "seed {seed}");
        drop(reader);
        running.close().await;
    }
}

/// Acknowledged ranges of a class.
fn ranges(acknowledged: &BTreeSet<(u8, u64)>, class: u8) -> usize {
    let seqs = acknowledged.range((class, 0)..=(class, u64::MAX)).map(|(_, seq)| *seq);
    let mut count = 0;
    let mut before = None;
    for seq in seqs {
        count += usize::from(before.is_none_or(|before| before + 1 != seq));
        before = Some(seq);
    }
    count
}
