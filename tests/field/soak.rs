//! The key promise of the field: whatever a line does to the answers, no wrong value has quality good.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::time::Duration;

use ironbridge::model::quality::Quality;
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rig::{Rig, TIMEOUT};

/// Good answers wanted of each run.
const READS: u64 = 3000;

/// A fault in two of five answers; late ones come after the timeout, up to twice as late.
fn roll(chance: &mut StdRng) -> Fault {
    let timeout_ms = u64::try_from(TIMEOUT.as_millis()).expect("short");
    match chance.random_range(0..100) {
        0..10 => Fault::Late(Duration::from_millis(chance.random_range(timeout_ms..2 * timeout_ms - 10))),
        10..15 => Fault::Flip(chance.random_range(0..1000)),
        15..20 => Fault::Truncate(chance.random_range(0..100)),
        20..25 => Fault::Garbage((0..chance.random_range(1..12)).map(|_| chance.random()).collect()),
        25..30 => Fault::Drop,
        30..34 => Fault::Echo,
        34..38 => Fault::Foreign,
        38..40 => Fault::Registers([0, 2, 125][chance.random_range(0..3)]),
        40..42 => Fault::EchoAndAnswer,
        _ => Fault::None,
    }
}

/// Three units, each with blocks of the same shape, so that an answer to one question looks like that to another.
async fn soak(framing: Framing, seed: u64, fault: impl Fn(&mut StdRng) -> Fault + Send + 'static) -> Counts {
    let mut plan = rig::plan(rig::link(framing));
    let mut expected: HashMap<TagIx, u64> = HashMap::new();
    for unit in [1, 3, 7] {
        rig::device(&mut plan, unit);
        for start in [100, 400, 700, 1000, 1300] {
            for address in start..start + 4 {
                let tag = rig::tag(&mut plan, Table::Holding, address, DataType::Uint16);
                plan.tags[tag.0 as usize].poll = Duration::from_millis(100);
                expected.insert(tag, address.into());
            }
        }
    }
    let plc = Plc::new(framing);
    let mut chance = StdRng::seed_from_u64(seed);
    plc.plan(move |_| fault(&mut chance));
    plc.think(Duration::from_millis(3));
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let mut good = 0;
    while rig.handle.stats.replies.get() < READS {
        for sample in rig.batch().await {
            match sample.quality {
                Quality::Good => {
                    let right = Some(Value::Uint(expected[&sample.tag]));
                    assert_eq!(sample.value, right, "{framing:?} seed {seed}: {sample:?}");
                    good += 1;
                }
                Quality::Bad(_) => assert_eq!(sample.value, None, "{framing:?} seed {seed}: {sample:?}"),
                Quality::Uncertain(_) => panic!("{framing:?} seed {seed}: {sample:?}"),
            }
        }
    }
    let stats = &rig.handle.stats;
    let counts = HashMap::from([
        ("good", good),
        ("timeouts", stats.timeouts.get()),
        ("stale", stats.stale.get()),
        ("crc", stats.crc.get()),
        ("echo", stats.echo.get()),
        ("foreign", stats.foreign.get()),
        ("garbage", stats.garbage.get()),
        ("reconnects", stats.reconnects.get()),
    ]);
    println!("{framing:?} seed {seed}: {counts:?}");
    counts
}

type Counts = HashMap<&'static str, u64>;

/// Every fault of the table where the framing has a check sum.
async fn checked_framing(framing: Framing, seeds: std::ops::RangeInclusive<u64>) {
    for seed in seeds {
        let counts = soak(framing, seed, roll).await;
        for kind in ["good", "timeouts", "stale", "crc", "echo", "foreign", "garbage"] {
            assert!(counts[kind] > 20, "{framing:?} seed {seed}: the plan must have exercised {kind}: {counts:?}");
        }
    }
}

/// A flipped data bit is invisible behind an MBAP header (the check sum of TCP or UDP is what guards it), so nothing is
/// flipped there.
fn roll_numbered(chance: &mut StdRng) -> Fault {
    match roll(chance) {
        Fault::Flip(_) => Fault::WrongTransaction,
        other => other,
    }
}

#[tokio::test(start_paused = true)]
async fn late_torn_flipped_echoed_and_foreign_rtu_replies_never_become_a_good_value() {
    checked_framing(Framing::Rtu, 1..=3).await;
}

#[tokio::test(start_paused = true)]
async fn late_torn_flipped_echoed_and_foreign_ascii_replies_never_become_a_good_value() {
    checked_framing(Framing::Ascii, 1..=1).await;
    checked_framing(Framing::AsciiOverTcp, 2..=2).await;
}

#[tokio::test(start_paused = true)]
async fn late_torn_flipped_echoed_and_foreign_replies_of_a_serial_server_never_become_a_good_value() {
    checked_framing(Framing::RtuOverTcp, 5..=5).await;
    checked_framing(Framing::RtuOverUdp, 6..=6).await;
}

#[tokio::test(start_paused = true)]
async fn late_and_broken_tcp_replies_never_become_a_good_value_where_the_framing_shows_them() {
    for seed in 1..=2 {
        // In a stream a torn frame swallows the beginning of the next one: bytes without a header stand for it.
        let counts = soak(Framing::Tcp, seed, |chance| match roll_numbered(chance) {
            Fault::Truncate(_) => Fault::WrongTransaction,
            Fault::Garbage(_) => Fault::NoHeader,
            other => other,
        });
        let counts = counts.await;
        assert!(["stale", "garbage", "reconnects"].iter().all(|kind| counts[kind] > 20), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn late_and_broken_datagrams_never_become_a_good_value() {
    let counts = soak(Framing::Udp, 1, roll_numbered).await;
    assert!(["stale", "garbage", "foreign", "echo"].iter().all(|kind| counts[kind] > 20), "{counts:?}");
    assert_eq!(counts["reconnects"], 0, "a bad datagram says nothing about the next one");
}
