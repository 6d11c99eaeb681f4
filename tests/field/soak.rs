//! The key promise of the field: whatever a line does to the answers, no wrong value has quality good.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::time::Duration;

use ironbridge::config::plan::BusLink;
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
async fn soak(link: BusLink, framing: Framing, seed: u64) -> HashMap<&'static str, u64> {
    let mut plan = rig::plan(link);
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
    plc.plan(move |_| roll(&mut chance));
    plc.think(Duration::from_millis(3));
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let mut good = 0;
    while rig.handle.stats.replies.get() < READS {
        for sample in rig.batch().await {
            match sample.quality {
                Quality::Good => {
                    assert_eq!(sample.value, Some(Value::Uint(expected[&sample.tag])), "seed {seed}: {sample:?}");
                    good += 1;
                }
                Quality::Bad(_) => assert_eq!(sample.value, None, "seed {seed}: {sample:?}"),
                Quality::Uncertain(_) => panic!("seed {seed}: {sample:?}"),
            }
        }
    }
    let stats = &rig.handle.stats;
    HashMap::from([
        ("good", good),
        ("timeouts", stats.timeouts.get()),
        ("stale", stats.stale.get()),
        ("crc", stats.crc.get()),
        ("echo", stats.echo.get()),
        ("foreign", stats.foreign.get()),
        ("garbage", stats.garbage.get()),
        ("reconnects", stats.reconnects.get()),
    ])
}

#[tokio::test(start_paused = true)]
async fn late_torn_flipped_echoed_and_foreign_rtu_replies_never_become_a_good_value() {
    for seed in 1..=4 {
        let counts = soak(rig::rtu("/dev/nowhere", 19_200), Framing::Rtu, seed).await;
        for kind in ["good", "timeouts", "stale", "crc", "echo", "foreign", "garbage"] {
            assert!(counts[kind] > 20, "seed {seed}: the plan must have exercised {kind}: {counts:?}");
        }
        println!("rtu seed {seed}: {counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn late_and_broken_tcp_replies_never_become_a_good_value_where_the_framing_shows_them() {
    // A flipped data bit is invisible in Modbus TCP (TCP's own checksum is what guards it), so nothing is flipped here.
    let fault = |chance: &mut StdRng| match roll(chance) {
        Fault::Flip(_) | Fault::Truncate(_) => Fault::WrongTransaction,
        Fault::Garbage(_) => Fault::NoHeader,
        other => other,
    };
    for seed in 1..=2 {
        let counts = soak_tcp(seed, fault).await;
        println!("tcp seed {seed}: {counts:?}");
    }
}

async fn soak_tcp(seed: u64, fault: impl Fn(&mut StdRng) -> Fault + Send + 'static) -> u64 {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    let mut expected: HashMap<TagIx, u64> = HashMap::new();
    for unit in [1, 3, 7] {
        rig::device(&mut plan, unit);
        for start in [100, 400, 700, 1000, 1300] {
            let tag = rig::tag(&mut plan, Table::Input, start, DataType::Uint16);
            plan.tags[tag.0 as usize].poll = Duration::from_millis(100);
            expected.insert(tag, start.into());
        }
    }
    let plc = Plc::new(Framing::Tcp);
    let mut chance = StdRng::seed_from_u64(seed);
    plc.plan(move |_| fault(&mut chance));
    let mut rig = Rig::run_over(plan, Box::new(plc));
    while rig.handle.stats.replies.get() < READS {
        for sample in rig.batch().await {
            if sample.quality == Quality::Good {
                assert_eq!(sample.value, Some(Value::Uint(expected[&sample.tag])), "seed {seed}: {sample:?}");
            }
        }
    }
    let stats = &rig.handle.stats;
    assert!(stats.stale.get() > 20 && stats.garbage.get() > 20 && stats.reconnects.get() > 20);
    stats.stale.get()
}
