//! Commands: what reaches the device, what does not, and what the sender is told.

use crate::plc;
use crate::rig;

use std::time::Duration;

use ironbridge::config::plan::{BusLink, Limits, Scale, Source, Verify};
use ironbridge::model::command::{Failure, Outcome, Refusal};
use ironbridge::model::tag::{Access, Address, DataType, Order, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc, Seen};
use rig::Rig;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

const SPEED: TagIx = TagIx(0);
const LEVEL: TagIx = TagIx(1);
const VALVE: TagIx = TagIx(2);
const BIT: TagIx = TagIx(3);
const NAME: TagIx = TagIx(4);
const FIXED: TagIx = TagIx(5);
const TRUSTED: TagIx = TagIx(6);
const BIG: TagIx = TagIx(7);

fn bench(framing: Framing) -> (Plc, Rig) {
    let mut plan = rig::plan(rig::link(framing));
    rig::device(&mut plan, 1);
    rig::tag(&mut plan, Table::Holding, 0, DataType::Int16);
    rig::tag(&mut plan, Table::Holding, 10, DataType::Float32);
    rig::tag(&mut plan, Table::Coil, 20, DataType::Bool);
    rig::tag(&mut plan, Table::Holding, 30, DataType::Bool);
    rig::tag(&mut plan, Table::Holding, 40, DataType::Text(6));
    rig::tag(&mut plan, Table::Input, 50, DataType::Int16);
    rig::tag(&mut plan, Table::Holding, 60, DataType::Uint16);
    rig::tag(&mut plan, Table::Holding, 70, DataType::Uint64);
    plan.tags[0].scale = Scale { factor: 0.1, offset: 0.0 };
    plan.tags[0].write.limits = Limits { min: Some(-50.0), max: Some(50.0) };
    plan.tags[1].order = Order::Cdab;
    plan.tags[3].source = Source::Register(Address { table: Table::Holding, start: 30, bit: Some(9) });
    plan.tags[5].access = Access::Read;
    plan.tags[6].write.verify = Verify::TrustReply;
    let plc = Plc::new(framing);
    (plc.clone(), Rig::run_over(plan, Box::new(plc)))
}

fn writes(plc: &Plc) -> Vec<Seen> {
    plc.seen().into_iter().filter(|seen| seen.function() > 4).collect()
}

fn done(value: Value) -> Outcome {
    Outcome::Done { read_back: Some(value) }
}

fn failed(reason: Failure) -> Outcome {
    Outcome::Failed { reason, read_back: None }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_tag_is_written_and_read_back() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let (plc, rig) = bench(framing);
        plc.set(30, &[0x0001]);
        assert_eq!(rig.command(SPEED, Value::Float(-4.2)).await, done(Value::Float(-4.2)));
        assert_eq!(plc.register(0), 42u16.wrapping_neg());
        assert_eq!(rig.command(LEVEL, Value::Float(123.456)).await, done(Value::Float(f64::from(123.456f32))));
        assert_eq!((plc.register(10), plc.register(11)), (0xE979, 0x42F6));
        assert_eq!(rig.command(VALVE, Value::Bool(true)).await, done(Value::Bool(true)));
        assert!(plc.bit(20));
        assert_eq!(rig.command(BIT, Value::Uint(1)).await, done(Value::Bool(true)));
        assert_eq!(plc.register(30), 0x0201, "the other bits stay");
        assert_eq!(rig.command(BIT, Value::Bool(false)).await, done(Value::Bool(false)));
        assert_eq!(plc.register(30), 0x0001);
        assert_eq!(rig.command(NAME, Value::Text("pump".into())).await, done(Value::Text("pump".into())));
        assert_eq!(rig.command(BIG, Value::Uint(u64::MAX - 1)).await, done(Value::Uint(u64::MAX - 1)));
        assert_eq!(rig.command(TRUSTED, Value::Int(7)).await, Outcome::Done { read_back: None });
        let functions: Vec<u8> = writes(&plc).iter().map(Seen::function).collect();
        assert_eq!(functions, [6, 16, 5, 6, 6, 16, 16, 6]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_never_reaches_the_wire() {
    let (plc, rig) = bench(Framing::Tcp);
    for (tag, value, refusal) in [
        (SPEED, Value::Float(50.1), Refusal::Range),
        (SPEED, Value::Float(f64::NAN), Refusal::Range),
        (SPEED, Value::Text("fast".into()), Refusal::Payload),
        (LEVEL, Value::Float(1e39), Refusal::Range),
        (VALVE, Value::Int(2), Refusal::Payload),
        (NAME, Value::Text("much too long".into()), Refusal::Range),
        (FIXED, Value::Int(1), Refusal::Access),
        (TRUSTED, Value::Int(-1), Refusal::Range),
        (TRUSTED, Value::Float(1.5), Refusal::Range),
        (TagIx(99), Value::Int(1), Refusal::Access),
    ] {
        assert_eq!(rig.command(tag, value.clone()).await, Outcome::Refused(refusal), "{tag:?} {value}");
    }
    assert!(writes(&plc).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_what_the_step_of_the_scale_makes_of_a_value() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    plan.tags[0].scale = Scale { factor: 0.4, offset: 0.0 };
    plan.tags[0].write.limits = Limits { min: Some(0.0), max: Some(1.0) };
    let plc = Plc::new(Framing::Tcp);
    let rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(rig.command(tag, Value::Float(1.0)).await, Outcome::Refused(Refusal::Range), "3 steps are 1.2");
    assert_eq!(rig.command(tag, Value::Float(0.9)).await, done(Value::Float(0.8)));
    assert_eq!(plc.register(0), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_only_pretends_is_found_out() {
    let (plc, rig) = bench(Framing::Tcp);
    plc.set(0, &[5]);
    tokio::time::sleep(10 * MS).await;
    plc.next([Fault::Pretend]);
    let outcome = rig.command(SPEED, Value::Float(4.2)).await;
    assert_eq!(outcome, Outcome::Failed { reason: Failure::Verify, read_back: Some(Value::Float(0.5)) });
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_never_repeated_on_the_wire() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let (plc, mut rig) = bench(framing);
        rig.collect(SECOND / 2).await;
        plc.next([Fault::Drop]);
        assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Timeout));
        rig.collect(20 * SECOND).await;
        assert_eq!(writes(&plc).len(), 1);
        plc.next([Fault::Exception(4)]);
        assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Exception(4)));
        plc.next([Fault::Close]);
        assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Timeout), "it may have arrived");
        assert_eq!(writes(&plc).len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_is_tried_once_and_a_missing_connection_not_at_all() {
    let (plc, mut rig) = bench(Framing::Tcp);
    plc.kill(1);
    rig.collect(10 * SECOND).await;
    assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Timeout));
    assert_eq!(writes(&plc).len(), 1);
    plc.revive(1);
    assert_eq!(rig.command(SPEED, Value::Int(1)).await, done(Value::Float(1.0)), "operators expect the attempt");
    rig.sample(LEVEL, |_| true).await;
    let (plc, mut rig) = bench(Framing::Tcp);
    plc.refuse_to_open(true);
    rig.collect(SECOND).await;
    assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Transport));
    assert!(writes(&plc).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_looked_at_just_before_the_wire() {
    let (plc, mut rig) = bench(Framing::Rtu);
    rig.collect(SECOND / 2).await;
    // The bus waits for a unit that fell silent, then keeps the line quiet: meanwhile the command grows too old.
    plc.plan(|_| Fault::Drop);
    while rig.handle.stats.timeouts.get() == 0 {
        rig.collect(10 * MS).await;
    }
    let outcome = rig.command_within(SPEED, Value::Int(1), 20 * MS).await;
    assert_eq!(outcome.await.expect("answered"), Outcome::Refused(Refusal::Expired));
    assert!(writes(&plc).is_empty());
}

#[tokio::test(start_paused = true)]
async fn commands_go_before_polls_but_at_most_two_in_a_row() {
    for (framing, link) in [(Framing::Tcp, rig::tcp("nowhere:502")), (Framing::Rtu, rig::rtu("/dev/nowhere", 19_200))] {
        fair(framing, link).await;
    }
}

async fn fair(framing: Framing, link: BusLink) {
    let mut plan = rig::plan(link);
    rig::device(&mut plan, 1);
    for place in 0..4 {
        let tag = rig::tag(&mut plan, Table::Holding, place * 1000, DataType::Uint16);
        plan.tags[tag.0 as usize].poll = 10 * MS; // always something due
        plan.tags[tag.0 as usize].write.verify = Verify::TrustReply;
    }
    let plc = Plc::new(framing);
    plc.think(10 * MS);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(SECOND).await;
    plc.forget_seen();
    let mut outcomes = Vec::new();
    for place in 0..6 {
        outcomes.push(rig.command_within(TagIx(place % 4), Value::Uint(9), SECOND).await);
    }
    for outcome in outcomes {
        assert_eq!(outcome.await.expect("answered"), Outcome::Done { read_back: None });
    }
    let functions: String = plc.seen().iter().map(|seen| if seen.function() == 3 { 'r' } else { 'w' }).collect();
    assert!(functions.contains("wwrwwrww"), "{functions}");
}

#[tokio::test(start_paused = true)]
async fn a_command_is_followed_by_a_poll_of_its_tag() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 5, DataType::Uint16);
    plan.tags[0].poll = 3600 * SECOND;
    let mut rig = Rig::run_over(plan, Box::new(Plc::new(Framing::Tcp)));
    rig.batch().await;
    assert_eq!(rig.command(tag, Value::Uint(77)).await, done(Value::Uint(77)));
    let sample = rig.batch().await.remove(0);
    assert_eq!((sample.value, sample.at.micros < 1_000_000), (Some(Value::Uint(77)), true));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_seen_by_the_sender_and_a_stop_refuses_what_waits() {
    let (plc, mut rig) = bench(Framing::Tcp);
    rig.collect(SECOND / 2).await;
    plc.think(100 * MS);
    let mut outcomes = Vec::new();
    let send = |rig: &Rig| {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        let deadline = rig.clock.now().after(60 * SECOND);
        let command = ironbridge::field::FieldCommand { tag: TRUSTED, value: Value::Uint(1), deadline, reply };
        rig.handle.commands.try_send(command).map(|()| outcome)
    };
    for _ in 0..16 {
        outcomes.push(send(&rig).expect("room"));
    }
    assert!(send(&rig).is_err(), "full");
    tokio::time::sleep(50 * MS).await;
    rig.stop.begin();
    (&mut rig.task).await.expect("ends");
    let mut ends = Vec::new();
    for outcome in outcomes {
        ends.push(outcome.await.expect("answered"));
    }
    assert_eq!(ends[0], Outcome::Done { read_back: None }, "was on the wire");
    assert!(ends[1..].iter().all(|end| *end == Outcome::Refused(Refusal::Stopping)), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_write_on_a_line_that_echoes_is_not_fooled() {
    let mut plan = rig::plan(rig::rtu("/dev/nowhere", 19_200));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 5, DataType::Uint16);
    plan.tags[0].access = Access::Write; // never polled: nothing is known of the line when the command comes
    plan.tags[0].write.verify = Verify::TrustReply;
    let plc = Plc::new(Framing::Rtu);
    plc.echo_everything(true);
    plc.kill(1);
    let rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(rig.command(tag, Value::Uint(77)).await, failed(Failure::Timeout));
    plc.revive(1);
    assert_eq!(rig.command(tag, Value::Uint(78)).await, Outcome::Done { read_back: None });
    assert_eq!(plc.register(5), 78);
}
