//! Devices and connections that are not as the standard has them: each key that says so, seen from the wire.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::{AnswersAs, Grouping, Keep, Plan};
use ironbridge::field::carrier::{Opener, Opening};
use ironbridge::field::memory::{Boundary, Memory};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc, Seen};
use rig::{Rig, good, is_bad};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// One holding register of each unit, polled every second.
fn plan(framing: Framing, units: &[u8]) -> Plan {
    let mut plan = rig::plan(rig::link(framing));
    for unit in units {
        rig::device(&mut plan, *unit);
        rig::tag(&mut plan, Table::Holding, 10, DataType::Uint16);
    }
    plan
}

/// What a bus says within this time; then it is stopped.
async fn said(mut rig: Rig, time: Duration) -> Vec<Sample> {
    let samples = rig.collect(time).await;
    rig.stop.begin();
    (&mut rig.task).await.expect("ends");
    samples
}

fn goods(samples: &[Sample]) -> HashMap<TagIx, usize> {
    let mut counts = HashMap::new();
    samples.iter().filter(|sample| good(sample)).for_each(|sample| *counts.entry(sample.tag).or_default() += 1);
    counts
}

/// Counts how often it is opened, and when.
struct Counted(Plc, Arc<AtomicUsize>);

impl Opener for Counted {
    fn open(&mut self) -> Opening<'_> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.open()
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_after_connecting_and_between_units_are_kept() {
    let mut plan = plan(Framing::Tcp, &[1, 2, 3]);
    plan.devices[0].manners.pause_after_connect = 300 * MS;
    plan.devices[1].manners.delay_on_unit_change = 40 * MS;
    let plc = Plc::new(Framing::Tcp);
    let begun = tokio::time::Instant::now();
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(10 * SECOND).await;
    assert!(goods(&samples).values().all(|count| *count >= 9), "{:?}", goods(&samples));
    let seen = plc.seen();
    let first = |unit| seen.iter().find(|seen| seen.unit == unit).map(|seen: &Seen| seen.at - begun);
    assert!(first(1).is_some_and(|at| at >= 300 * MS), "{:?}", first(1));
    assert!(first(3).is_some_and(|at| at < 10 * MS), "others do not wait: {:?}", first(3));
    let changes = seen.windows(2).filter(|pair| pair[1].unit == 2 && pair[0].unit != 2);
    assert!(changes.clone().count() >= 9);
    assert!(changes.into_iter().all(|pair| pair[1].at - pair[0].at >= 40 * MS));
}

#[tokio::test(start_paused = true)]
async fn two_devices_that_are_one_unit_are_asked_as_suits_both() {
    for meter in [0, 1] {
        let mut plan = plan(Framing::Tcp, &[1, 1]);
        plan.devices[meter].manners.delay_between_requests = 30 * MS;
        plan.devices[meter].manners.answers_as = AnswersAs::Anyone;
        let plc = Plc::new(Framing::Tcp);
        plc.plan(|_| Fault::WrongUnit);
        let samples = said(Rig::run_over(plan, Box::new(plc.clone())), 10 * SECOND).await;
        assert!(samples.len() >= 18 && samples.iter().all(good), "{samples:?}");
        let seen = plc.seen();
        let shortest = seen.windows(2).map(|pair| pair[1].at - pair[0].at).min();
        assert!(shortest.is_some_and(|pause| pause >= 30 * MS), "{shortest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_answers_under_its_own_id_is_understood_where_that_is_said() {
    for framing in Framing::ALL {
        let mut plan = plan(framing, &[1]);
        let plc = Plc::new(framing);
        plc.plan(|_| Fault::WrongUnit);
        let strict = said(Rig::run_over(plan.clone(), Box::new(plc.clone())), 5 * SECOND).await;
        assert!(!strict.is_empty() && strict.iter().all(is_bad), "{framing:?}: {strict:?}");
        plan.devices[0].manners.answers_as = AnswersAs::Anyone;
        let mut rig = Rig::run_over(plan, Box::new(plc));
        let lenient = rig.collect(5 * SECOND).await;
        assert!(lenient.len() >= 3 && lenient.iter().all(good), "{framing:?}: {lenient:?}");
        assert_eq!(lenient[0].value, Some(Value::Uint(10)));
        let outcome = rig.command(TagIx(0), Value::Uint(7)).await;
        assert_eq!(outcome.to_string(), "done", "{framing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_after_each_cycle_is_opened_once_per_cycle_and_costs_no_sample() {
    let mut plan = plan(Framing::Tcp, &[1, 2, 3, 4]);
    plan.buses[0].habits.keep = Keep::CloseAfterCycle;
    let (plc, opened) = (Plc::new(Framing::Tcp), Arc::new(AtomicUsize::new(0)));
    plc.think(5 * MS);
    let mut rig = Rig::run_over(plan, Box::new(Counted(plc.clone(), Arc::clone(&opened))));
    let samples = rig.collect(20 * SECOND + 100 * MS).await;
    assert!(samples.iter().all(good), "{samples:?}");
    assert!(goods(&samples).values().all(|count| (20..=21).contains(count)), "{:?}", goods(&samples));
    let opened_by_polls = opened.load(Ordering::Relaxed);
    assert!((20..=22).contains(&opened_by_polls), "{opened_by_polls}");
    assert_eq!(rig.handle.stats.reconnects.get(), 0, "what we close ourselves is no loss");
    rig.collect(300 * MS).await;
    assert_eq!(rig.command(TagIx(0), Value::Uint(5)).await.to_string(), "done", "a command opens it too");
    assert_eq!(plc.register(10), 5);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_works_in_parallel_is_asked_in_parallel_and_each_device_in_order() {
    let mut plan = plan(Framing::Tcp, &[1, 2, 3, 4, 5, 6]);
    plan.tags.iter_mut().for_each(|tag| tag.poll = 100 * MS);
    plan.devices[5].tags.end = plan.tags.len();
    let plc = Plc::new(Framing::Tcp);
    plc.think(45 * MS);
    let lanes = |count| (0..count).map(|_| Box::new(plc.clone()) as Box<dyn Opener>).collect::<Vec<_>>();
    let one = said(Rig::run_lanes(plan.clone(), lanes(1), |bus| bus), 5 * SECOND).await;
    assert!(goods(&one).values().all(|count| (15..=20).contains(count)), "six of 45 ms: {:?}", goods(&one));
    plc.forget_seen();
    let mut rig = Rig::run_lanes(plan, lanes(3), |bus| bus);
    let three = rig.collect(5 * SECOND).await;
    assert!(goods(&three).values().all(|count| *count >= 48), "{:?}", goods(&three));
    assert_eq!(rig.handle.others.len(), 2);
    plc.forget_seen();
    let mut waiting = Vec::new();
    for value in 1..=5 {
        waiting.push(rig.command_within(TagIx(4), Value::Uint(value), 30 * SECOND).await);
    }
    for outcome in waiting {
        assert_eq!(outcome.await.expect("answered").to_string(), "done");
    }
    let written: Vec<_> =
        plc.seen().iter().filter(|seen| seen.function() == 6).map(|seen| (seen.unit, seen.count())).collect();
    assert_eq!(written, [(5, 1), (5, 2), (5, 3), (5, 4), (5, 5)]);
    rig.stop.begin();
    (&mut rig.task).await.expect("ends with all its lanes");
}

#[tokio::test(start_paused = true)]
async fn a_device_may_fail_as_often_as_it_is_said_to_need() {
    let mut plan = plan(Framing::Tcp, &[1]);
    plan.devices[0].manners.retries = 3;
    let plc = Plc::new(Framing::Tcp);
    let mut turn = 0u32;
    plc.plan(move |_| {
        turn += 1;
        if turn.is_multiple_of(4) { Fault::None } else { Fault::Drop }
    });
    let samples = Rig::run_over(plan, Box::new(plc)).collect(20 * SECOND).await;
    assert!(samples.len() >= 10 && samples.iter().all(good), "{samples:?}");
}

#[tokio::test(start_paused = true)]
async fn forbidden_registers_are_never_read_whatever_a_device_refuses() {
    let mut plan = plan(Framing::Tcp, &[1]);
    for start in [12, 20, 30, 40] {
        rig::tag(&mut plan, Table::Holding, start, DataType::Uint16);
    }
    let forbid = |first, last| ironbridge::config::plan::Extent { table: Table::Holding, first, last };
    plan.devices[0].territory.forbidden = vec![forbid(11, 11), forbid(25, 29)];
    let plc = Plc::new(Framing::Tcp);
    plc.unmap(20);
    let samples = said(Rig::run_over(plan.clone(), Box::new(plc.clone())), 300 * SECOND).await;
    assert_eq!(goods(&samples).len(), 4, "all but the one that is not there");
    let touches = |seen: &Seen, at: u16| (seen.start()..seen.start() + seen.count()).contains(&at);
    assert!(plc.seen().iter().all(|seen| [11, 25, 26, 27, 28, 29].iter().all(|at| !touches(seen, *at))));
    plan.devices[0].grouping = Grouping::OneRequestPerTag;
    plc.forget_seen();
    said(Rig::run_over(plan, Box::new(plc.clone())), 5 * SECOND).await;
    assert!(plc.seen().iter().all(|seen| seen.count() == 1));
}

#[derive(Default)]
struct Kept(Mutex<HashMap<(String, u64), Vec<Boundary>>>);

impl Memory for Kept {
    fn recall(&self, device: &str, map: u64) -> Vec<Boundary> {
        self.0.lock().expect("whole").get(&(device.to_owned(), map)).cloned().unwrap_or_default()
    }

    fn keep(&self, device: &str, map: u64, boundaries: &[Boundary]) {
        self.0.lock().expect("whole").insert((device.to_owned(), map), boundaries.to_vec());
    }
}

fn remembering(plan: &Plan, plc: &Plc, kept: &Arc<Kept>) -> Rig {
    let memory: Arc<dyn Memory> = Arc::clone(kept) as _;
    Rig::run_lanes(plan.clone(), vec![Box::new(plc.clone())], |bus| bus.remembering(&memory))
}

#[tokio::test(start_paused = true)]
async fn what_a_device_refuses_is_known_after_a_restart_and_tried_again_seldom() {
    let mut plan = plan(Framing::Tcp, &[1]);
    for place in 2..8 {
        rig::tag(&mut plan, Table::Holding, place * 10, DataType::Uint16);
    }
    let (plc, kept) = (Plc::new(Framing::Tcp), Arc::<Kept>::default());
    plc.unmap(35);
    let first = said(remembering(&plan, &plc, &kept), 30 * SECOND).await;
    assert!(first.iter().all(good), "a hole is no tag");
    assert!(kept.0.lock().expect("whole").values().any(|boundaries| !boundaries.is_empty()));

    plc.forget_seen();
    let mut rig = remembering(&plan, &plc, &kept);
    rig.collect(30 * SECOND).await;
    let over_the_hole = |seen: &Seen| seen.start() < 35 && seen.start() + seen.count() > 35;
    assert!(!plc.seen().iter().any(over_the_hole), "known from last time");
    plc.forget_seen();
    rig.collect(3600 * SECOND).await;
    let tries = plc.seen().iter().filter(|seen| over_the_hole(seen)).count();
    assert!((3..=7).contains(&tries), "seldom, and more seldom each time: {tries}");

    plc.set(35, &[35]);
    rig.collect(3 * 3600 * SECOND).await;
    plc.forget_seen();
    rig.collect(10 * SECOND).await;
    assert!(plc.seen().iter().all(|seen| seen.count() == 61), "whole again");
    assert!(kept.0.lock().expect("whole").values().all(Vec::is_empty));

    let mut other = plan.clone();
    other.devices[0].max_registers_per_read = 60;
    kept.0.lock().expect("whole").clear();
    assert!(said(remembering(&other, &plc, &kept), 5 * SECOND).await.iter().all(good));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refused_everything_at_our_start_is_read_in_whole_blocks_later() {
    let mut plan = plan(Framing::Tcp, &[1]);
    for place in 2..10 {
        rig::tag(&mut plan, Table::Holding, place * 10, DataType::Uint16);
    }
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|_| Fault::Exception(2));
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.plan(|_| Fault::None);
    rig.collect(400 * SECOND).await;
    plc.forget_seen();
    let samples = rig.collect(10 * SECOND).await;
    assert!(samples.iter().all(good));
    assert!(plc.seen().iter().all(|seen| seen.count() == 81), "{:?}", plc.seen().first());
}

#[tokio::test(start_paused = true)]
async fn a_function_that_a_device_does_not_have_is_not_asked_for_all_the_time_nor_taken_apart() {
    let mut plan = plan(Framing::Tcp, &[1]);
    rig::tag(&mut plan, Table::Input, 1, DataType::Uint16);
    rig::tag(&mut plan, Table::Input, 5, DataType::Uint16);
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|seen| if seen.function() == 4 { Fault::Exception(1) } else { Fault::None });
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(120 * SECOND).await;
    let asked = plc.seen().iter().filter(|seen| seen.function() == 4).map(Seen::count).collect::<Vec<_>>();
    assert!((2..=3).contains(&asked.len()) && asked.iter().all(|count| *count == 5), "{asked:?}");
    assert_eq!(samples.iter().filter(|sample| is_bad(sample)).count(), 2, "one bad sample each");
    assert_eq!(goods(&samples).len(), 1);
    let report = rig.reports().await.remove(&0).expect("a report");
    assert_eq!(report.diagnosis.exception_codes, [(1, asked.len() as u64)]);
}

#[tokio::test(start_paused = true)]
async fn a_command_reaches_the_wire_within_two_transactions_of_a_bus_that_has_no_time() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let mut plan = plan(framing, &[1, 2, 3]);
        plan.tags.iter_mut().for_each(|tag| tag.poll = 20 * MS);
        let plc = Plc::new(framing);
        plc.think(30 * MS);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        rig.collect(3 * SECOND).await;
        for value in 0..20 {
            plc.forget_seen();
            rig.collect(7 * MS * value).await;
            let before = plc.seen().len();
            let outcome = rig.command(TagIx(1), Value::Uint(value.into())).await;
            assert_eq!(outcome.to_string(), "done");
            let seen = plc.seen();
            let write = seen.iter().position(|seen| seen.function() == 6).expect("written");
            assert!(write - before.min(write) <= 2, "{framing:?}: {} polls before it", write - before);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_without_enough_time_reads_everything_alike_and_what_it_reads_is_fresh() {
    let mut plan = plan(Framing::Rtu, &[1, 2, 3, 4]);
    for start in [200, 400, 600] {
        rig::tag(&mut plan, Table::Holding, start, DataType::Uint16);
    }
    plan.tags.iter_mut().for_each(|tag| tag.poll = 100 * MS);
    let plc = Plc::new(Framing::Rtu);
    plc.think(40 * MS);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    let samples = rig.collect(60 * SECOND).await;
    let counts = goods(&samples);
    let (least, most) = (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0));
    assert!(counts.len() == 7 && least > 100 && most - least <= 2, "{counts:?}");
    for pair in samples.windows(2) {
        assert!(pair[1].at.since(pair[0].at) < 100 * MS, "no sample waits behind another");
    }
    let report = rig.reports().await.remove(&0).expect("a report");
    assert!(report.diagnosis.skipped > 100 && report.diagnosis.bus_load >= 80, "{report:?}");
    let response = report.diagnosis.response.expect("answers");
    assert!(response.p50 >= 40 * MS && response.longest < 60 * MS, "{response:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_answers_under_another_unit_id_is_told_with_the_frames_of_that_unit() {
    let plc = Plc::new(Framing::Rtu);
    plc.plan(|_| Fault::WrongUnit);
    let mut rig = Rig::run_over(plan(Framing::Rtu, &[1]), Box::new(plc.clone()));
    rig.collect(60 * SECOND).await;
    let report = rig.reports().await.remove(&0).expect("a report");
    let asked = plc.seen().len() as u64;
    assert!(asked > 2 && report.diagnosis.foreign + 1 >= asked, "{report:?}, {asked} asked");
    assert_eq!((report.diagnosis.crc, report.diagnosis.stale, report.diagnosis.garbage), (0, 0, 0));
}
