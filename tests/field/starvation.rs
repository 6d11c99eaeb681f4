//! Any mix of units, some of them dead, with commands in between: nobody who answers starves, the dead take their small part and
//! are not forgotten, and who comes back is read again.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{Plan, Verify};
use ironbridge::field::FieldCommand;
use ironbridge::model::command::Outcome;
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Framing, Plc};
use proptest::prelude::*;
use rig::{Rig, TIMEOUT};
use tokio::sync::oneshot;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
/// Long enough for every dead unit to be asked a few times.
const WATCHED: Duration = Duration::from_secs(180);
/// Two failures of each unit, and the silences between them.
const SETTLED: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Work {
    framing: Framing,
    /// Of each unit: its period in milliseconds, and whether it is dead. The first one never is.
    units: Vec<(u64, bool)>,
    think: u64,
    /// A command after each so many milliseconds.
    commands: Option<u64>,
}

fn work() -> impl Strategy<Value = Work> {
    let unit = (prop::sample::select(vec![50u64, 200, 500, 1000, 3000]), any::<bool>());
    let framing = prop::sample::select(vec![Framing::Tcp, Framing::Rtu]);
    let commands = prop::sample::select(vec![None, Some(0), Some(300)]);
    (framing, prop::collection::vec(unit, 2..7), 1u64..30, commands)
        .prop_map(|(framing, units, think, commands)| Work { framing, units, think, commands })
}

impl Work {
    fn is_dead(&self, unit: usize) -> bool {
        unit > 0 && self.units[unit].1
    }

    /// A request, its answer and the silences around them, generously.
    fn transaction(&self) -> Duration {
        MS * u32::try_from(self.think).expect("short") + 25 * MS
    }

    /// A request without an answer, and the silence after it.
    fn in_vain() -> Duration {
        2 * TIMEOUT + 50 * MS
    }

    /// How long nobody who answers waits: late by a period, everybody else once before it, two commands before each of those, and
    /// one probe.
    fn patience(&self, unit: usize) -> Duration {
        let answering = u32::try_from((0..self.units.len()).filter(|unit| !self.is_dead(*unit)).count()).expect("few");
        let turn = if self.commands.is_some() { 3 * self.transaction() } else { self.transaction() };
        2 * MS * u32::try_from(self.units[unit].0).expect("short") + turn * answering + 2 * Self::in_vain()
    }
}

/// When each unit was read, and how long commands took.
async fn watch(work: &Work) -> (Plc, Rig, Vec<Duration>, Instant) {
    let mut plan = rig::plan(rig::link(work.framing));
    let plc = Plc::new(work.framing);
    plc.think(MS * u32::try_from(work.think).expect("short"));
    for (place, (period, _)) in work.units.iter().enumerate() {
        let unit = u8::try_from(place + 1).expect("few");
        rig::device(&mut plan, unit);
        let tag = rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
        plan.tags[tag.0 as usize].poll = Duration::from_millis(*period);
        plan.tags[tag.0 as usize].write.verify = Verify::TrustReply;
        if work.is_dead(place) {
            plc.kill(unit);
        }
    }
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(SETTLED).await;
    plc.forget_seen();
    let began = Instant::now();
    let flood =
        tokio::spawn(flood(Arc::clone(&rig.plan), rig.handle.commands.clone(), rig.clock.clone(), work.commands));
    rig.collect(WATCHED).await;
    flood.abort();
    let took = flood.await.unwrap_or_default();
    (plc, rig, took, began)
}

/// Commands to the first unit for as long as it is watched; how long each of them took.
async fn flood(
    plan: Arc<Plan>,
    commands: tokio::sync::mpsc::Sender<FieldCommand>,
    clock: ironbridge::flow::clock::Clock,
    every: Option<u64>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    let Some(every) = every else { return took };
    let end = Instant::now() + WATCHED - 5 * TIMEOUT;
    while Instant::now() < end {
        let (reply, outcome) = oneshot::channel();
        let (asked, deadline) = (Instant::now(), clock.now().after(Duration::from_secs(30)));
        let plan = Arc::clone(&plan);
        let command = FieldCommand { plan, tag: TagIx(0), value: Value::Uint(7), deadline, reply };
        commands.send(command).await.expect("the bus runs");
        assert_eq!(outcome.await.expect("answered"), Outcome::Done { read_back: None });
        took.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(every)).await;
    }
    took
}

async fn holds(work: Work) {
    let (plc, mut rig, took, began) = watch(&work).await;
    let mut reads: HashMap<u8, Vec<Instant>> = HashMap::new();
    for seen in plc.seen().into_iter().filter(|seen| seen.function() == 3) {
        reads.entry(seen.unit).or_default().push(seen.at);
    }
    let mut probes = 0;
    for unit in 0..work.units.len() {
        let moments = reads.remove(&u8::try_from(unit + 1).expect("few")).unwrap_or_default();
        if work.is_dead(unit) {
            assert!(!moments.is_empty(), "unit {unit} is forgotten: {work:?}");
            probes += u32::try_from(moments.len()).expect("few");
            continue;
        }
        let edges = [began].into_iter().chain(moments).chain([began + WATCHED]).collect::<Vec<_>>();
        let longest = edges.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default();
        let patience = work.patience(unit);
        assert!(longest <= patience, "unit {unit} waited {longest:?}, at most {patience:?}: {work:?}");
    }
    let part = TIMEOUT * probes;
    assert!(part <= WATCHED / 20 + 2 * Work::in_vain(), "{probes} probes took {part:?}: {work:?}");
    let slowest = took.iter().max().copied().unwrap_or_default();
    assert!(slowest <= Work::in_vain() + 3 * work.transaction(), "a command took {slowest:?}: {work:?}");
    assert_eq!(took.is_empty(), work.commands.is_none());

    for unit in 0..work.units.len() {
        plc.revive(u8::try_from(unit + 1).expect("few"));
    }
    plc.forget_seen();
    // The longest wait for a probe is a minute; then everything of the unit is read.
    rig.collect(Duration::from_secs(75)).await;
    plc.forget_seen();
    rig.collect(Duration::from_secs(8)).await;
    let seen = plc.seen();
    let is_read = |unit: usize| seen.iter().any(|seen| usize::from(seen.unit) == unit + 1);
    assert!((0..work.units.len()).all(is_read), "not everybody is back: {work:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starves_beside_dead_units_and_a_flood_of_commands(work in work()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(holds(work));
    }
}
