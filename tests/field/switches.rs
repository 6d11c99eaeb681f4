//! A person at the status page pauses, resumes, polls and resets a device; its neighbours on the bus notice nothing.

use crate::plc;
use crate::rig;

use std::time::Duration;

use ironbridge::config::plan::Verify;
use ironbridge::flow::hub::Standing;
use ironbridge::flow::operate::Operation;
use ironbridge::model::command::{Failure, Outcome, Refusal};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{Access, DataType, DeviceIx, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Framing, Plc};
use rig::{Rig, good};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

const FIRST: DeviceIx = DeviceIx(0);

/// Units 1 and 2, one tag each, polled every second.
fn bench() -> (Plc, Rig) {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    for unit in [1, 2] {
        rig::device(&mut plan, unit);
        rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    }
    let plc = Plc::new(Framing::Tcp);
    (plc.clone(), Rig::run_over(plan, Box::new(plc)))
}

fn ask(rig: &Rig, operation: Operation) {
    rig.handle.switches.ask(FIRST, operation).expect("it is on this bus");
}

fn paused(sample: &Sample) -> bool {
    sample.quality == Quality::Bad(Cause::Paused) && sample.value.is_none()
}

fn asked_of(plc: &Plc, unit: u8) -> usize {
    plc.seen().iter().filter(|seen| seen.unit == unit).count()
}

#[tokio::test(start_paused = true)]
async fn a_paused_device_is_not_asked_anything_its_tags_say_why_and_its_neighbour_goes_on() {
    let (plc, mut rig) = bench();
    rig.collect(5 * SECOND).await;
    ask(&rig, Operation::Pause);
    rig.sample(TagIx(0), paused).await;
    assert_eq!(rig.reports().await[&0].standing, Standing::Paused);
    plc.forget_seen();
    let samples = rig.collect(100 * SECOND).await;
    assert_eq!(asked_of(&plc, 1), 0);
    assert!(samples.iter().filter(|sample| sample.tag == TagIx(0)).all(paused));
    let neighbour = samples.iter().filter(|sample| sample.tag == TagIx(1) && good(sample)).count();
    assert!((99..=101).contains(&neighbour), "{neighbour}");
    assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, Outcome::Refused(Refusal::Paused));
    assert_eq!(asked_of(&plc, 1), 0);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_would_reach_a_paused_device_too_and_is_refused_until_it_is_resumed() {
    let mut plan = rig::plan(rig::link(Framing::Rtu));
    rig::device(&mut plan, 1);
    rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    rig::device(&mut plan, 0);
    let all = rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    plan.tags[1].access = Access::Write;
    plan.tags[1].write.verify = Verify::TrustReply;
    let plc = Plc::new(Framing::Rtu);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(TagIx(0), good).await;
    ask(&rig, Operation::Pause);
    rig.sample(TagIx(0), paused).await;
    assert_eq!(rig.command(all, Value::Uint(1)).await, Outcome::Refused(Refusal::Paused));
    assert_eq!(asked_of(&plc, 0), 0);
    ask(&rig, Operation::Resume);
    assert_eq!(rig.command(all, Value::Uint(1)).await, Outcome::Done { read_back: None });
    assert_eq!(asked_of(&plc, 0), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlives_the_connection_and_its_end_is_a_value_at_once() {
    let (plc, mut rig) = bench();
    rig.collect(5 * SECOND).await;
    ask(&rig, Operation::Pause);
    rig.sample(TagIx(0), paused).await;
    plc.refuse_to_open(true);
    plc.next([plc::Fault::Close]);
    rig.sample(TagIx(1), |sample| sample.quality == Quality::Bad(Cause::Transport)).await;
    plc.refuse_to_open(false);
    plc.forget_seen();
    rig.sample(TagIx(1), good).await;
    let samples = rig.collect(20 * SECOND).await;
    assert_eq!((asked_of(&plc, 1), samples.iter().any(|sample| sample.tag == TagIx(0) && !paused(sample))), (0, false));
    let before = tokio::time::Instant::now();
    ask(&rig, Operation::Resume);
    rig.sample(TagIx(0), good).await;
    assert!(before.elapsed() < 100 * MS, "{:?}", before.elapsed());
    assert_eq!(rig.reports().await[&0].standing, Standing::Answering);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_when_what_was_under_way_is_over_and_not_before() {
    let (plc, mut rig) = bench();
    plc.plan(|seen| if seen.function() == 6 { plc::Fault::Drop } else { plc::Fault::None });
    rig.collect(5 * SECOND).await;
    let writing = rig.command_within(TagIx(0), Value::Uint(7), 30 * SECOND).await;
    while !plc.seen().iter().any(|seen| seen.function() == 6) {
        tokio::time::sleep(MS).await;
    }
    let before = tokio::time::Instant::now();
    ask(&rig, Operation::Pause);
    rig.handle.switches.heeded(FIRST).await;
    assert!(before.elapsed() + 10 * MS >= rig::TIMEOUT, "{:?}: the write is under way until then", before.elapsed());
    assert!(writing.await.is_ok());
    plc.forget_seen();
    rig.collect(10 * SECOND).await;
    assert_eq!(asked_of(&plc, 1), 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_be_repeated_is_not_once_its_device_is_paused() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    plan.tags[0].write.retries = 3;
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|seen| if seen.function() == 6 { plc::Fault::Drop } else { plc::Fault::None });
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(tag, good).await;
    let writing = rig.command_within(tag, Value::Uint(7), 30 * SECOND).await;
    let writes = || plc.seen().iter().filter(|seen| seen.function() == 6).count();
    while writes() == 0 {
        tokio::time::sleep(MS).await;
    }
    ask(&rig, Operation::Pause);
    let failed = Outcome::Failed { reason: Failure::Timeout, read_back: None };
    assert_eq!(writing.await.expect("answered"), failed, "the first one may have arrived");
    assert_eq!(writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_down_is_tried_at_once_when_somebody_asks_for_it() {
    let (plc, mut rig) = bench();
    plc.kill(1);
    rig.collect(200 * SECOND).await; // by now it is probed once a minute
    plc.revive(1);
    plc.forget_seen();
    rig.collect(2 * SECOND).await;
    let before = tokio::time::Instant::now();
    ask(&rig, Operation::Poll);
    rig.sample(TagIx(0), good).await;
    assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
    plc.kill(1);
    rig.sample(TagIx(0), rig::is_bad).await;
    plc.forget_seen();
    ask(&rig, Operation::Poll);
    rig.collect(10 * SECOND).await;
    assert!((1..=4).contains(&asked_of(&plc, 1)), "still dead: probed again from the beginning");
}

#[tokio::test(start_paused = true)]
async fn a_poll_comes_between_two_polls_and_a_reset_forgets_what_was_counted() {
    let (plc, mut rig) = bench();
    plc.next([plc::Fault::Drop]);
    rig.collect(5500 * MS).await;
    plc.forget_seen();
    ask(&rig, Operation::Poll);
    rig.collect(50 * MS).await;
    assert_eq!(asked_of(&plc, 1), 1);
    rig.collect(10 * SECOND).await;
    assert!(rig.reports().await[&0].requests > 5);
    ask(&rig, Operation::Reset);
    rig.collect(50 * MS).await;
    let report = rig.reports().await.remove(&0).expect("news");
    assert!(report.requests <= 1 && report.timeouts == 0, "{report:?}");
    assert_eq!(report.standing, Standing::Answering);
}

/// Somebody presses "reset" while an answer is waited for, as one does when a device does not answer.
#[tokio::test(start_paused = true)]
async fn after_a_reset_a_device_in_doubt_is_asked_once_more_and_bad_when_that_fails_too() {
    for (doubtful, tag) in [(1, TagIx(1)), (2, TagIx(3))] {
        let mut plan = rig::plan(rig::tcp("nowhere:502"));
        for unit in [1, 2] {
            rig::device(&mut plan, unit);
            rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
            rig::tag(&mut plan, Table::Holding, 2, DataType::Uint16);
        }
        let plc = Plc::new(Framing::Tcp);
        plc.unmap(1); // each device has two reads, the second ones behind all the others
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        rig.collect(5 * SECOND).await;
        plc.plan(move |seen| match (seen.unit == doubtful, seen.start()) {
            (true, 2) => plc::Fault::Drop,
            _ => plc::Fault::None,
        });
        plc.forget_seen();
        while !plc.seen().iter().any(|seen| seen.unit == doubtful && seen.start() == 2) {
            rig.collect(10 * MS).await;
        }
        plc.kill(doubtful);
        ask(&rig, Operation::Reset);
        let before = tokio::time::Instant::now();
        let bad = tokio::time::timeout(3 * SECOND, rig.sample(tag, rig::is_bad)).await.expect("it is asked again");
        assert_eq!(bad.quality, Quality::Bad(Cause::Timeout));
        assert!(before.elapsed() > rig::TIMEOUT, "unit {doubtful}: {:?}, not without a second try", before.elapsed());
        plc.plan(|_| plc::Fault::None);
        plc.revive(doubtful);
        rig.sample(tag, good).await;
    }
}
