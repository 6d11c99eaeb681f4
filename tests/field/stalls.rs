//! A path that stalls: everything arrives, in order, and long after anybody waits for it. Without numbers an old answer looks
//! like the answer to what was asked last.

use crate::line;
use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::{Plan, Source};
use ironbridge::field::carrier::{Opener, Opening, Wire};
use ironbridge::flow::notice::notices;
use ironbridge::model::command::Outcome;
use ironbridge::model::tag::{Address, DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rig::{Rig, TIMEOUT, good};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
use tokio::time::{Instant, sleep, sleep_until};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Where a path may stall, and answers have no numbers.
const FRAMINGS: [Framing; 3] = [Framing::RtuOverTcp, Framing::AsciiOverTcp, Framing::RtuOverUdp];

/// Single registers of these units, far from each other, so that one answer looks like the other.
fn plan(framing: Framing, units: &[u8]) -> (Plan, HashMap<TagIx, Value>) {
    let mut plan = rig::plan(rig::link(framing));
    let mut holds = HashMap::new();
    for unit in units {
        rig::device(&mut plan, *unit);
        for start in [100, 900] {
            let tag = rig::tag(&mut plan, Table::Holding, start, DataType::Uint16);
            plan.tags[tag.0 as usize].poll = 100 * MS;
            holds.insert(tag, Value::Uint(start.into()));
        }
    }
    (plan, holds)
}

fn plc(framing: Framing) -> Plc {
    let plc = Plc::new(framing);
    plc.in_turn(6 * MS);
    plc
}

#[tokio::test(start_paused = true)]
async fn no_answer_that_a_stalled_path_held_back_is_the_value_of_another_block() {
    for framing in FRAMINGS {
        for units in [&[1][..], &[1, 2]] {
            let (plan, holds) = plan(framing, units);
            let plc = plc(framing);
            let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
            let mut chance = StdRng::seed_from_u64(7);
            for _ in 0..60 {
                sleep(chance.random_range(2 * SECOND..3 * SECOND)).await;
                plc.stall(TIMEOUT.mul_f64(chance.random_range(0.5..8.0)));
                for sample in rig.collect(3 * SECOND).await.iter().filter(|sample| good(sample)) {
                    assert_eq!(sample.value.as_ref(), holds.get(&sample.tag), "{framing:?} {units:?}: {sample:?}");
                }
            }
            for tag in holds.keys() {
                rig.sample(*tag, good).await;
            }
            assert!(rig.handle.stats.timeouts.get() > 30 && rig.handle.stats.reconnects.get() > 10, "{framing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_bit_is_written_into_what_another_register_holds() {
    const PUMP: TagIx = TagIx(1);
    for framing in FRAMINGS {
        let mut plan = rig::plan(rig::link(framing));
        rig::device(&mut plan, 1);
        let status = rig::tag(&mut plan, Table::Holding, 100, DataType::Uint16);
        plan.tags[status.0 as usize].poll = 100 * MS;
        rig::tag(&mut plan, Table::Holding, 7, DataType::Bool);
        plan.tags[1].source = Source::Register(Address { table: Table::Holding, start: 7, bit: Some(3) });
        plan.tags[1].poll = 100 * MS;
        let plc = plc(framing);
        plc.set(7, &[0x0001]);
        plc.set(100, &[0x5550]);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        let (mut chance, mut done) = (StdRng::seed_from_u64(3), 0);
        for turn in 0..200 {
            if turn % 4 == 0 {
                plc.stall(TIMEOUT.mul_f64(chance.random_range(0.5..8.0)));
            }
            sleep(chance.random_range(MS..SECOND)).await;
            let outcome = rig.command(PUMP, Value::Bool(turn % 2 == 0)).await;
            done += u32::from(matches!(outcome, Outcome::Done { .. }));
            rig.collect(MS).await;
            for seen in plc.seen().iter().filter(|seen| seen.function() == 6) {
                assert!(seen.start() == 7 && matches!(seen.count(), 1 | 9), "{framing:?}: {seen:?}");
            }
        }
        assert!(done > 100, "{framing:?}: {done}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_unit_beside_one_that_answers_costs_no_connection_and_nor_does_an_answer_a_little_late() {
    for framing in FRAMINGS {
        let (plan, holds) = plan(framing, &[1, 2]);
        let plc = plc(framing);
        plc.kill(2);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        rig.collect(600 * SECOND).await;
        plc.revive(2);
        for _ in 0..20 {
            rig.collect(20 * SECOND).await;
            plc.next([Fault::Late(TIMEOUT + TIMEOUT / 2)]);
        }
        for tag in holds.keys() {
            rig.sample(*tag, good).await;
        }
        let stats = &rig.handle.stats;
        assert!(stats.timeouts.get() > 30 && stats.stale.get() == 20, "{framing:?}");
        assert_eq!(stats.reconnects.get(), 0, "{framing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_alone_that_never_answers_has_a_new_connection_for_each_probe_and_nobody_is_told_of_a_loss() {
    for framing in FRAMINGS {
        let (plan, _) = plan(framing, &[1]);
        let plc = plc(framing);
        let (tell, mut told) = notices();
        let mut rig = Rig::run_lanes(plan, vec![Box::new(plc.clone())], |bus| bus.telling(&tell));
        rig.sample(TagIx(0), good).await;
        plc.kill(1);
        rig.collect(3600 * SECOND).await;
        let reconnects = rig.handle.stats.reconnects.get();
        assert!((50..=130).contains(&reconnects), "{framing:?}: {reconnects}");
        assert!(told.try_recv().is_err(), "{framing:?}");
        plc.revive(1);
        let back = Instant::now();
        rig.sample(TagIx(0), good).await;
        assert!(back.elapsed() < 65 * SECOND, "{framing:?}: {:?}", back.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_be_repeated_is_repeated_on_another_connection() {
    for framing in FRAMINGS {
        let (mut plan, _) = plan(framing, &[1]);
        plan.tags[0].poll = 100 * SECOND;
        plan.tags[1].poll = 100 * SECOND;
        plan.tags[0].write.retries = 1;
        let plc = plc(framing);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        rig.sample(TagIx(1), good).await;
        plc.next([Fault::Drop]);
        let outcome = rig.command(TagIx(0), Value::Uint(5)).await;
        assert_eq!(outcome, Outcome::Done { read_back: Some(Value::Uint(5)) }, "{framing:?}");
        assert_eq!(rig.handle.stats.reconnects.get(), 1, "{framing:?}");
    }
}

/// Three scales behind one serial server; the first two say the same of different weights, and the third is never there.
const SCALES: &str = r#"
[gateway]
name = "gw"
data_dir = "/nowhere"
[[bus]]
name = "scales"
type = "line"
endpoint = "nowhere:4001"
response_timeout = "200ms"
frame_end = "\r\n"
[[device]]
name = "a"
bus = "scales"
send = "A\r\n"
match = 'S (?P<weight>[0-9]+)'
poll = "100ms"
[[device.tag]]
name = "first"
field = "weight"
[[device]]
name = "b"
bus = "scales"
send = "B\r\n"
match = 'S (?P<weight>[0-9]+)'
poll = "100ms"
[[device.tag]]
name = "second"
field = "weight"
[[device]]
name = "c"
bus = "scales"
send = "C\r\n"
match = 'T (?P<weight>[0-9]+)'
poll = "100ms"
[[device.tag]]
name = "third"
field = "weight"
"#;

/// They answer in turn, once the path moves again.
#[derive(Clone, Default)]
struct Scales(Arc<Mutex<Option<Instant>>>);

impl Scales {
    async fn serve(self, wire: DuplexStream) {
        let (mut wire, mut line) = (BufReader::new(wire), String::new());
        while wire.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            let stalled = *self.0.lock().expect("nobody panics");
            sleep_until(stalled.unwrap_or_else(Instant::now)).await;
            sleep(6 * MS).await;
            let says: &[u8] = match line.as_str() {
                "A\r\n" => b"S 100\r\n",
                "B\r\n" => b"S 200\r\n",
                _ => b"",
            };
            wire.write_all(says).await.ok(); // the bus may have closed
            line.clear();
        }
    }
}

impl Opener for Scales {
    fn open(&mut self) -> Opening<'_> {
        let (near, far) = duplex(4096);
        tokio::spawn(self.clone().serve(far));
        Box::pin(async { Ok(Box::new(near) as Box<dyn Wire>) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_a_stalled_path_held_back_is_not_that_of_another_scale() {
    let plan = line::plan(SCALES);
    let holds =
        HashMap::from([("first", 100.0), ("second", 200.0)].map(|(name, weight)| (line::ix(&plan, name), weight)));
    let scales = Scales::default();
    let mut rig = Rig::run_over(plan, Box::new(scales.clone()));
    rig.collect(600 * SECOND).await;
    assert!(rig.handle.stats.timeouts.get() > 5);
    assert_eq!(rig.handle.stats.reconnects.get(), 0, "a silent one beside others, which are not like it");
    let (mut chance, mut goods) = (StdRng::seed_from_u64(5), 0);
    for _ in 0..60 {
        let stalled = TIMEOUT.mul_f64(chance.random_range(0.5..8.0));
        *scales.0.lock().expect("nobody panics") = Some(Instant::now() + stalled);
        for sample in
            rig.collect(chance.random_range(4 * SECOND..6 * SECOND)).await.iter().filter(|sample| good(sample))
        {
            assert_eq!(sample.value, holds.get(&sample.tag).copied().map(Value::Float), "{sample:?}");
            goods += 1;
        }
    }
    assert!(goods > 1000 && rig.handle.stats.reconnects.get() > 10, "{goods}");
}
