//! Commands: what reaches the device, what does not, and what the sender is told.

use crate::plc;
use crate::rig;

use std::time::Duration;

use ironbridge::config::plan::{BusLink, Limits, Scale, Source, TagPlan, ValueMap, Verify, WriteFunction};
use ironbridge::flow::hub::Standing;
use ironbridge::model::command::{Failure, Outcome, Refusal};
use ironbridge::model::registers::BitField;
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
async fn what_a_gateway_says_of_a_dead_unit_behind_it_does_not_make_the_unit_answer() {
    let (plc, mut rig) = bench(Framing::Tcp);
    plc.plan(|_| Fault::Exception(11));
    rig.collect(10 * SECOND).await;
    assert_eq!(rig.reports().await[&0].standing, Standing::Down);
    plc.forget_seen();
    assert_eq!(rig.command(SPEED, Value::Int(1)).await, failed(Failure::Exception(11)));
    rig.collect(SECOND).await;
    assert_eq!(plc.seen().len(), 1, "the write; of a unit that answers everything would be polled at once");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_busy_is_written_again_in_a_moment_and_not_for_ever() {
    let (plc, mut rig) = bench(Framing::Tcp);
    rig.collect(SECOND / 2).await;
    plc.next([Fault::Exception(6), Fault::Exception(6)]);
    assert_eq!(rig.command(SPEED, Value::Int(1)).await, done(Value::Float(1.0)));
    assert_eq!(writes(&plc).len(), 3);
    plc.plan(|seen| if seen.function() == 6 { Fault::Exception(6) } else { Fault::None });
    assert_eq!(rig.command(SPEED, Value::Int(2)).await, failed(Failure::Exception(6)));
    assert_eq!(writes(&plc).len(), 3 + 4);
    let late = rig.command_within(SPEED, Value::Int(2), 300 * MS).await;
    assert_eq!(late.await.expect("answered"), Outcome::Refused(Refusal::Expired), "it was never taken");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_takes_the_device_long_is_done_when_it_is_there_and_else_in_doubt() {
    let (plc, mut rig) = bench(Framing::Tcp);
    rig.collect(SECOND / 2).await;
    plc.plan(|seen| if seen.function() == 6 { Fault::Exception(5) } else { Fault::None });
    let slow = plc.clone();
    let stores = async move {
        tokio::time::sleep(500 * MS).await;
        slow.set(0, &[42]);
    };
    let (outcome, ()) = tokio::join!(rig.command(SPEED, Value::Float(4.2)), stores);
    assert_eq!(outcome, done(Value::Float(4.2)));
    let outcome = rig.command(SPEED, Value::Float(1.0)).await;
    assert_eq!(outcome, Outcome::Failed { reason: Failure::Timeout, read_back: Some(Value::Float(4.2)) });
    assert_eq!(rig.command(TRUSTED, Value::Int(7)).await, failed(Failure::Timeout), "nobody looks whether it is there");
    assert_eq!(writes(&plc).len(), 3, "none is sent a second time");
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
        let (plan, tag) = (std::sync::Arc::clone(&rig.plan), TRUSTED);
        let command = ironbridge::field::FieldCommand { plan, tag, value: Value::Uint(1), deadline, reply };
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

/// A bench of one writable tag of a device.
fn one(framing: Framing, unit: u8, tag: (Table, u16, DataType), change: impl FnOnce(&mut TagPlan)) -> (Plc, Rig) {
    let link = match framing {
        Framing::Tcp => rig::tcp("nowhere:502"),
        _ => rig::rtu("/dev/nowhere", 19_200),
    };
    let mut plan = rig::plan(link);
    rig::device(&mut plan, unit);
    rig::tag(&mut plan, tag.0, tag.1, tag.2);
    change(&mut plan.tags[0]);
    let plc = Plc::new(framing);
    (plc.clone(), Rig::run_over(plan, Box::new(plc)))
}

/// What happens to the next writes; reads go well.
fn fail_writes(plc: &Plc, faults: impl IntoIterator<Item = Fault>) {
    let mut faults: Vec<Fault> = faults.into_iter().collect();
    plc.plan(move |seen| if seen.function() > 4 && !faults.is_empty() { faults.remove(0) } else { Fault::None });
}

fn functions(plc: &Plc) -> Vec<u8> {
    writes(plc).iter().map(Seen::function).collect()
}

#[tokio::test(start_paused = true)]
async fn each_write_uses_the_function_that_was_chosen() {
    use WriteFunction::{Auto, Mask, Multiple, Single};
    let register = (Table::Holding, 3, DataType::Uint16);
    let bits = Some(BitField { mask: 0x0FF0, shift: 4 });
    let cases = [
        (register, None, Auto, Value::Uint(0xABC), vec![6, 0, 3, 0x0A, 0xBC]),
        (register, None, Single, Value::Uint(0xABC), vec![6, 0, 3, 0x0A, 0xBC]),
        (register, None, Multiple, Value::Uint(0xABC), vec![16, 0, 3, 0, 1, 2, 0x0A, 0xBC]),
        (register, bits, Auto, Value::Uint(0x12), vec![6, 0, 3, 0x51, 0x2A]),
        (register, bits, Multiple, Value::Uint(0x12), vec![16, 0, 3, 0, 1, 2, 0x51, 0x2A]),
        (register, bits, Mask, Value::Uint(0x12), vec![22, 0, 3, 0xF0, 0x0F, 0x01, 0x20]),
        ((Table::Coil, 3, DataType::Bool), None, Single, Value::Bool(true), vec![5, 0, 3, 0xFF, 0]),
        ((Table::Coil, 3, DataType::Bool), None, Multiple, Value::Bool(true), vec![15, 0, 3, 0, 1, 1, 1]),
        (
            (Table::Holding, 3, DataType::Bcd32),
            None,
            Auto,
            Value::Uint(123_456),
            vec![16, 0, 3, 0, 2, 4, 0x00, 0x12, 0x34, 0x56],
        ),
    ];
    for framing in [Framing::Tcp, Framing::Rtu] {
        for (tag, field, function, value, wire) in &cases {
            let (plc, rig) = one(framing, 1, *tag, |tag| {
                tag.field = *field;
                tag.write.function = *function;
            });
            plc.set(3, &[0x5AAA]);
            assert_eq!(rig.command(TagIx(0), value.clone()).await, done(value.clone()), "{function:?} {wire:02x?}");
            let seen: Vec<Vec<u8>> = writes(&plc).into_iter().map(|seen| seen.pdu).collect();
            assert_eq!(seen, std::slice::from_ref(wire), "{framing:?} {function:?}");
            if field.is_some() {
                assert_eq!(plc.register(3), 0x512A, "the other bits stay");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refuses_the_function_for_one_is_asked_with_the_one_for_several() {
    let (plc, rig) = one(Framing::Rtu, 1, (Table::Holding, 3, DataType::Uint16), |_| {});
    plc.knows_not([6]);
    assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, done(Value::Uint(7)));
    assert_eq!(functions(&plc), [6, 16]);
    plc.knows_not([16]);
    assert_eq!(rig.command(TagIx(0), Value::Uint(8)).await, failed(Failure::Exception(1)));
    let (plc, rig) = one(Framing::Tcp, 1, (Table::Coil, 3, DataType::Bool), |_| {});
    plc.knows_not([5]);
    assert_eq!(rig.command(TagIx(0), Value::Bool(true)).await, done(Value::Bool(true)));
    assert_eq!(functions(&plc), [5, 15]);
    let (plc, rig) = one(Framing::Tcp, 1, (Table::Holding, 3, DataType::Uint16), |tag| {
        tag.write.function = WriteFunction::Single;
    });
    plc.knows_not([6]);
    assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, failed(Failure::Exception(1)), "chosen is chosen");
    assert_eq!(functions(&plc), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_mask_write_on_a_line_that_echoes_is_not_fooled() {
    let (plc, rig) = one(Framing::Rtu, 1, (Table::Holding, 3, DataType::Bool), |tag| {
        tag.source = Source::Register(Address { table: Table::Holding, start: 3, bit: Some(4) });
        tag.write.function = WriteFunction::Mask;
        tag.write.verify = Verify::TrustReply;
        tag.access = Access::Write;
    });
    plc.set(3, &[0]);
    plc.echo_everything(true);
    plc.kill(1);
    assert_eq!(rig.command(TagIx(0), Value::Bool(true)).await, failed(Failure::Timeout));
    plc.revive(1);
    assert_eq!(rig.command(TagIx(0), Value::Bool(true)).await, Outcome::Done { read_back: None });
    assert_eq!(plc.register(3), 0x10);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_of_something_else_is_none() {
    for function in [WriteFunction::Single, WriteFunction::Multiple, WriteFunction::Mask] {
        let (plc, rig) = one(Framing::Tcp, 1, (Table::Holding, 3, DataType::Uint16), |tag| {
            tag.access = Access::Write;
            tag.write.verify = Verify::TrustReply;
            tag.write.function = function;
            if function == WriteFunction::Mask {
                tag.field = Some(BitField { mask: 0xFF, shift: 0 });
            }
        });
        plc.next([Fault::Flip(8 * 9 + 7)]); // the last bit of the address in an MBAP answer
        assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, failed(Failure::Protocol), "{function:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_tag_that_allows_it_is_written_again_after_silence() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let tag = (Table::Holding, 3, DataType::Uint16);
        let (plc, mut rig) = one(framing, 1, tag, |tag| tag.write.retries = 2);
        rig.collect(SECOND).await;
        fail_writes(&plc, [Fault::Drop, Fault::Drop]);
        assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, done(Value::Uint(7)));
        assert_eq!(functions(&plc), [6, 6, 6]);
        fail_writes(&plc, [Fault::Drop, Fault::Drop, Fault::Drop]);
        assert_eq!(rig.command(TagIx(0), Value::Uint(8)).await, failed(Failure::Timeout));
        assert_eq!(writes(&plc).len(), 6);
        fail_writes(&plc, [Fault::Close]);
        assert_eq!(rig.command(TagIx(0), Value::Uint(9)).await, done(Value::Uint(9)), "over a new connection");
        fail_writes(&plc, [Fault::Exception(4)]);
        assert_eq!(rig.command(TagIx(0), Value::Uint(9)).await, failed(Failure::Exception(4)), "an answer is one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_confirmed_is_not_told_as_refused_because_the_device_is_busy_with_storing_it() {
    let written = Value::Uint(7);
    let unknown = Outcome::Failed { reason: Failure::Verify, read_back: None };
    for (code, times, reads, told) in
        [(6, 2, 3, done(written.clone())), (5, 9, 4, unknown.clone()), (4, 9, 1, unknown.clone())]
    {
        let (plc, mut rig) = one(Framing::Tcp, 1, (Table::Holding, 3, DataType::Uint16), |_| {});
        rig.collect(SECOND / 2).await;
        let (mut is_written, mut left) = (false, times);
        plc.forget_seen();
        plc.plan(move |seen| {
            is_written |= seen.function() > 4;
            let refused = is_written && seen.function() <= 4 && left > 0;
            left -= i32::from(refused);
            if refused { Fault::Exception(code) } else { Fault::None }
        });
        assert_eq!(rig.command(TagIx(0), written.clone()).await, told, "exception {code}");
        assert_eq!(plc.register(3), 7);
        let seen = plc.seen();
        let first = seen.iter().position(|seen| seen.function() > 4).expect("written");
        let behind = seen.len() - first - 1; // the poll that follows a command may be one of them
        assert!(writes(&plc).len() == 1 && (reads..=reads + 1).contains(&behind), "exception {code}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exception_to_the_second_attempt_does_not_hide_that_the_first_may_have_arrived() {
    let auto = WriteFunction::Auto;
    for (code, function, data_type) in [
        (4, auto, DataType::Uint16),
        (6, auto, DataType::Uint16),
        // to exception 1 there is nothing else to try here
        (1, WriteFunction::Single, DataType::Uint16),
        (1, auto, DataType::Uint32),
    ] {
        let (plc, mut rig) = one(Framing::Tcp, 1, (Table::Holding, 3, data_type), |tag| {
            (tag.write.retries, tag.write.function) = (1, function);
        });
        rig.collect(SECOND).await;
        fail_writes(&plc, [Fault::Late(60 * SECOND), Fault::Exception(code)]);
        let outcome = rig.command(TagIx(0), Value::Uint(7)).await;
        assert_eq!(outcome, failed(Failure::Timeout), "exception {code} to {function:?} of {data_type}");
        assert_eq!(writes(&plc).len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_outlive_the_deadline_and_does_not_hide_the_first_attempt() {
    let tag = (Table::Holding, 3, DataType::Uint16);
    let (plc, mut rig) = one(Framing::Tcp, 1, tag, |tag| tag.write.retries = 3);
    rig.collect(SECOND).await;
    plc.plan(|seen| if seen.function() > 4 { Fault::Drop } else { Fault::None });
    let outcome = rig.command_within(TagIx(0), Value::Uint(7), 150 * MS).await.await.expect("answered");
    assert_eq!(outcome, failed(Failure::Timeout), "not refused: it may have arrived");
    assert_eq!(writes(&plc).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_is_sent_once_and_waits_for_nobody() {
    let (plc, rig) = one(Framing::Rtu, 0, (Table::Holding, 3, DataType::Uint16), |tag| {
        tag.access = Access::Write;
        tag.write.verify = Verify::TrustReply;
    });
    plc.kill(0); // nobody answers
    let begun = tokio::time::Instant::now();
    assert_eq!(rig.command(TagIx(0), Value::Uint(7)).await, Outcome::Done { read_back: None });
    assert_eq!(plc.seen().iter().map(|seen| (seen.unit, seen.function())).collect::<Vec<_>>(), [(0, 6)]);
    assert!(begun.elapsed() < rig::TIMEOUT * 3, "listening, then the turnaround: {:?}", begun.elapsed());
    assert_eq!(rig.handle.stats.timeouts.get(), 0);
    let again = tokio::time::Instant::now();
    assert_eq!(rig.command(TagIx(0), Value::Uint(8)).await, Outcome::Done { read_back: None });
    assert!(again.elapsed() >= 100 * MS, "the line is given its turnaround");
}

#[tokio::test(start_paused = true)]
async fn a_scale_factor_is_read_anew_before_a_value_is_written_with_it() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let value = rig::tag(&mut plan, Table::Holding, 10, DataType::Int16);
    let factor = rig::tag(&mut plan, Table::Holding, 11, DataType::Int16);
    plan.tags[0].scale_from = Some(factor);
    plan.tags[0].poll = 3600 * SECOND;
    plan.tags[1].poll = 3600 * SECOND;
    let plc = Plc::new(Framing::Tcp);
    plc.set(10, &[2404, 0xFFFF]);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(SECOND).await;
    assert_eq!(rig.command(value, Value::Float(230.5)).await, done(Value::Float(230.5)));
    assert_eq!(plc.register(10), 2305);
    plc.set(11, &[0xFFFE]);
    assert_eq!(rig.command(value, Value::Float(230.5)).await, done(Value::Float(230.5)));
    assert_eq!(plc.register(10), 23_050, "the factor moved meanwhile");
    plc.set(11, &[0x8000]);
    assert_eq!(rig.command(value, Value::Float(1.0)).await, Outcome::Refused(Refusal::Range), "not implemented");
    assert_eq!(plc.register(10), 23_050);
}

#[tokio::test(start_paused = true)]
async fn words_times_and_hex_are_written_as_what_they_mean() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let state = rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    let clock = rig::tag(&mut plan, Table::Holding, 10, DataType::Cp56);
    let key = rig::tag(&mut plan, Table::Holding, 20, DataType::Bytes(4));
    let guarded = rig::tag(&mut plan, Table::Holding, 30, DataType::Int16);
    let entries = vec![(0, "off".into()), (1, "on".into())];
    plan.tags[0].map = Some(std::sync::Arc::new(ValueMap { entries }));
    plan.tags[3].nan = vec![0x8000];
    let plc = Plc::new(Framing::Tcp);
    let rig = Rig::run_over(plan, Box::new(plc.clone()));
    let text = |text: &str| Value::Text(text.into());
    assert_eq!(rig.command(state, text("on")).await, done(text("on")));
    assert_eq!(plc.register(0), 1);
    assert_eq!(rig.command(state, text("auto")).await, Outcome::Refused(Refusal::Range));
    assert_eq!(rig.command(state, Value::Uint(1)).await, Outcome::Refused(Refusal::Payload));
    let time = rig.command(clock, text("2026-11-20T08:30:34.567Z")).await;
    assert_eq!(time, done(text("2026-11-20T08:30:34.567Z")));
    assert_eq!([10, 11, 12, 13].map(|at| plc.register(at)), [0x001A, 0x0B14, 0x081E, 0x8707]);
    assert_eq!(rig.command(clock, text("soon")).await, Outcome::Refused(Refusal::Payload));
    assert_eq!(rig.command(key, text("0A1B2C3D")).await, done(text("0a1b2c3d")));
    assert_eq!(rig.command(key, text("0a1b")).await, Outcome::Refused(Refusal::Range));
    assert_eq!(rig.command(guarded, Value::Int(-32_768)).await, Outcome::Refused(Refusal::Range), "the sentinel");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_was_checked_by_another_plan_is_refused_if_its_device_is_not_the_same_there() {
    let (plc, mut rig) = bench(Framing::Tcp);
    rig.collect(SECOND / 2).await;
    let same = (*rig.plan).clone();
    let mut other = same.clone();
    other.tags[TRUSTED.0 as usize].unit = "bar".to_owned();
    rig.plan = std::sync::Arc::new(other);
    assert_eq!(rig.command(TRUSTED, Value::Uint(1)).await, Outcome::Refused(Refusal::Busy));
    rig.plan = std::sync::Arc::new(same);
    assert!(matches!(rig.command(TRUSTED, Value::Uint(1)).await, Outcome::Done { .. }));
    drop(plc);
}
