//! A bus as its neighbours see it: samples, standings, pace; against a PLC that misbehaves, in paused time.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::time::Duration;

use ironbridge::config::plan::{Limits, Plan, Scale, Source};
use ironbridge::flow::hub::Standing;
use ironbridge::flow::notice::{Phase, notices};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{Address, DataType, Order, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use rig::{Rig, good, is_bad};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn tcp_plan(units: &[u8], tags_each: u16) -> Plan {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    for unit in units {
        rig::device(&mut plan, *unit);
        for place in 0..tags_each {
            rig::tag(&mut plan, Table::Holding, place * 10, DataType::Uint16);
        }
    }
    plan
}

fn bad(cause: Cause) -> impl Fn(&Sample) -> bool {
    move |sample| sample.quality == Quality::Bad(cause) && sample.value.is_none()
}

/// Good samples per tag.
fn goods(samples: &[Sample]) -> HashMap<TagIx, usize> {
    let mut counts = HashMap::new();
    samples.iter().filter(|sample| good(sample)).for_each(|sample| *counts.entry(sample.tag).or_default() += 1);
    counts
}

/// Ten units at 9600 baud, 50 registers each every 2 s: seven tenths of what the line can do; the mean cycle of the nine that live.
async fn mean_cycle_at_9600(dead: Option<u8>) -> f64 {
    let mut plan = rig::plan(rig::rtu("/dev/nowhere", 9600));
    plan.buses[0].response_timeout = SECOND;
    for unit in 1..=10 {
        rig::device(&mut plan, unit);
        let tag = rig::tag(&mut plan, Table::Holding, 0, DataType::Text(100));
        plan.tags[tag.0 as usize].poll = 2 * SECOND;
    }
    let plc = Plc::new(Framing::Rtu);
    plc.set(0, &[0x4142; 50]);
    plc.baud(9600);
    plc.think(10 * MS);
    if let Some(unit) = dead {
        plc.kill(unit);
    }
    let mut rig = Rig::run_over(plan, Box::new(plc));
    rig.collect(30 * SECOND).await;
    let samples = rig.collect(600 * SECOND).await;
    let counts = goods(&samples);
    let slowest = counts.values().min().copied().expect("nine live");
    assert_eq!(counts.len(), if dead.is_some() { 9 } else { 10 });
    600.0 / f64::from(u32::try_from(slowest).expect("small"))
}

#[tokio::test(start_paused = true)]
async fn a_dead_unit_does_not_slow_its_neighbours() {
    let healthy = mean_cycle_at_9600(None).await;
    assert!((healthy - 2.0).abs() < 0.01, "{healthy}");
    let with_dead = mean_cycle_at_9600(Some(4)).await;
    assert!(with_dead < healthy * 1.05, "{with_dead} s instead of {healthy} s");
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_costs_one_bad_sample_per_tag_then_heartbeats() {
    let plc = Plc::new(Framing::Tcp);
    plc.kill(2);
    let mut rig = Rig::run_over(tcp_plan(&[1, 2], 3), Box::new(plc));
    let dead = |sample: &Sample| (3..6).contains(&sample.tag.0);
    let first = rig.collect(200 * SECOND).await;
    let mut told: Vec<&Sample> = first.iter().filter(|sample| dead(sample)).collect();
    told.sort_by_key(|sample| sample.tag);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|sample| bad(Cause::Timeout)(sample)));
    assert_eq!(goods(&first)[&TagIx(0)], 200, "its neighbour goes on");
    let later = rig.collect(310 * SECOND).await;
    assert_eq!(later.iter().filter(|sample| dead(sample)).count(), 3, "one heartbeat each in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_returns_is_polled_whole_at_once_and_everyone_is_told() {
    let plc = Plc::new(Framing::Tcp);
    let mut plan = tcp_plan(&[1], 1);
    for place in 1..4 {
        rig::tag(&mut plan, Table::Holding, place * 1000, DataType::Uint16);
    }
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    assert_eq!(rig.reports().await[&0].standing, Standing::Answering);
    plc.kill(1);
    rig.sample(TagIx(3), is_bad).await;
    assert_eq!(rig.reports().await[&0].standing, Standing::Down);
    rig.collect(40 * SECOND).await;
    plc.revive(1);
    let back = rig.sample(TagIx(0), good).await.at;
    let samples = rig.collect(100 * MS).await;
    for tag in 1..4 {
        let first = samples.iter().find(|sample| sample.tag == TagIx(tag)).expect("polled");
        assert!(good(first) && first.at.since(back) < 10 * MS, "{first:?}");
    }
    let report = rig.reports().await.remove(&0).expect("news");
    assert_eq!(report.standing, Standing::Answering);
    assert!(report.timeouts >= 3 && report.requests > report.timeouts && report.last_success.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_failure_is_retried_and_nobody_hears_of_it() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1], 2), Box::new(plc.clone()));
    rig.collect(3 * SECOND).await;
    plc.next([Fault::Drop]);
    let samples = rig.collect(10 * SECOND).await;
    assert!(samples.iter().all(good));
    assert_eq!(rig.handle.stats.timeouts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_every_tag_is_bad_once_and_the_bus_comes_back_by_itself() {
    let plc = Plc::new(Framing::Tcp);
    plc.refuse_to_open(true);
    let mut rig = Rig::run_over(tcp_plan(&[1, 2], 2), Box::new(plc.clone()));
    let samples = rig.collect(120 * SECOND).await;
    assert_eq!(samples.len(), 4);
    assert!(samples.iter().all(bad(Cause::Transport)));
    assert!(rig.reports().await.values().all(|report| report.standing == Standing::Down));
    plc.refuse_to_open(false);
    let samples = rig.collect(31 * SECOND).await;
    assert_eq!(goods(&samples).len(), 4);
    assert!(rig.reports().await.values().all(|report| report.standing == Standing::Answering));
}

#[tokio::test(start_paused = true)]
async fn a_plc_that_closes_idle_connections_costs_no_bad_sample() {
    let plc = Plc::new(Framing::Tcp);
    let mut count = 0;
    plc.plan(move |_| {
        count += 1;
        if count % 3 == 0 { Fault::Close } else { Fault::None }
    });
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc));
    let samples = rig.collect(60 * SECOND).await;
    assert!(samples.iter().all(good));
    assert!(samples.len() >= 59, "{}", samples.len());
    assert!(rig.handle.stats.reconnects.get() >= 20);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_closes_is_not_hammered() {
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|_| Fault::Close);
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc.clone()));
    let samples = rig.collect(300 * SECOND).await;
    assert_eq!(samples.len(), 1, "bad, once");
    assert!(plc.seen().len() < 30, "{}", plc.seen().len());
}

#[tokio::test(start_paused = true)]
async fn a_silent_unit_behind_a_gateway_never_costs_the_connection() {
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|seen| if seen.unit == 2 { Fault::Exception(11) } else { Fault::None });
    plc.kill(3);
    let mut rig = Rig::run_over(tcp_plan(&[1, 2, 3], 1), Box::new(plc));
    let samples = rig.collect(100 * SECOND).await;
    assert_eq!(goods(&samples)[&TagIx(0)], 100);
    for tag in [1, 2] {
        let of: Vec<_> = samples.iter().filter(|sample| sample.tag == TagIx(tag)).collect();
        assert!(of.len() == 1 && bad(Cause::Timeout)(of[0]), "{of:?}");
    }
    assert_eq!(rig.handle.stats.reconnects.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_everyone_is_mute_is_opened_anew_after_a_minute() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1, 2], 1), Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.kill(1);
    plc.kill(2);
    rig.collect(50 * SECOND).await;
    assert_eq!(rig.handle.stats.reconnects.get(), 0);
    rig.collect(300 * SECOND).await;
    assert!((2..=6).contains(&rig.handle.stats.reconnects.get()), "{}", rig.handle.stats.reconnects.get());
}

#[tokio::test(start_paused = true)]
async fn a_moment_of_refusal_does_not_break_good_blocks_up() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1], 5), Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.next([Fault::Exception(2)]);
    let samples = rig.collect(5 * SECOND).await;
    assert!(samples.iter().all(good));
    plc.forget_seen();
    rig.collect(10 * SECOND).await;
    assert_eq!(plc.seen().len(), 10, "still one read for all five");
}

#[tokio::test(start_paused = true)]
async fn a_plc_that_is_being_programmed_is_read_in_whole_blocks_afterwards() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1], 5), Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.plan(|_| Fault::Exception(2));
    let samples = rig.collect(40 * SECOND).await;
    assert_eq!(samples.iter().filter(|sample| bad(Cause::Exception)(sample)).count(), 5, "one bad sample per tag");
    plc.plan(|_| Fault::None);
    rig.collect(2 * SECOND).await;
    plc.forget_seen();
    let samples = rig.collect(10 * SECOND).await;
    assert!(samples.len() >= 45 && samples.iter().all(good));
    assert_eq!(plc.seen().len(), 10, "still one read for all five");
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_whose_block_is_whole_again_does_not_break_up_those_of_a_plc_that_is_being_programmed() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1, 2], 5), Box::new(plc.clone()));
    plc.plan(|seen| match (seen.unit, seen.start()..seen.start() + seen.count()) {
        (1, read) if read.contains(&20) => Fault::Exception(2),
        _ => Fault::None,
    });
    rig.collect(50 * SECOND).await;
    plc.plan(|seen| if seen.unit == 2 { Fault::Exception(2) } else { Fault::None });
    rig.collect(35 * SECOND).await; // meanwhile the first one is read whole again, and all reads are planned anew
    plc.plan(|_| Fault::None);
    rig.collect(2 * SECOND).await;
    plc.forget_seen();
    rig.collect(10 * SECOND).await;
    for unit in [1, 2] {
        assert_eq!(
            plc.seen().iter().filter(|seen| seen.unit == unit).count(),
            10,
            "unit {unit}: one read for all five"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_disappears_takes_its_block_along_for_a_minute_only() {
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(tcp_plan(&[1], 5), Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.unmap(20);
    rig.collect(62 * SECOND).await;
    let samples = rig.collect(10 * SECOND).await;
    assert!(samples.len() >= 36 && samples.iter().all(good), "{}", samples.len());
    assert_eq!(goods(&samples).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn one_bad_address_does_not_lose_its_block() {
    for hole in [0, 5, 17, 39] {
        let mut plan = rig::plan(rig::tcp("nowhere:502"));
        rig::device(&mut plan, 1);
        for address in 0..40 {
            rig::tag(&mut plan, Table::Holding, address, DataType::Uint16);
        }
        let plc = Plc::new(Framing::Tcp);
        plc.unmap(hole);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        let samples = rig.collect(20 * SECOND).await;
        for tag in 0..40u16 {
            let of: Vec<_> = samples.iter().filter(|sample| sample.tag == TagIx(tag.into())).collect();
            if tag == hole {
                assert!(of.len() == 1 && bad(Cause::Exception)(of[0]), "{of:?}");
            } else {
                assert!(of.len() >= 19 && of.iter().all(|sample| good(sample)), "tag {tag}: {}", of.len());
            }
        }
        plc.forget_seen();
        rig.collect(20 * SECOND).await;
        let again = plc.seen().iter().filter(|seen| seen.start() <= hole && hole < seen.start() + seen.count()).count();
        assert_eq!(again, 0, "what was learned is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_device_is_asked_again_shortly_and_is_bad_only_when_it_stays_busy() {
    let plc = Plc::new(Framing::Tcp);
    plc.next([Fault::Exception(6), Fault::Exception(5)]);
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc.clone()));
    let first = rig.batch().await;
    assert!(good(&first[0]) && first[0].at.micros < 500_000, "{first:?}");
    plc.plan(|_| Fault::Exception(6));
    let samples = rig.collect(30 * SECOND).await;
    assert!(samples.len() == 1 && bad(Cause::Exception)(&samples[0]), "{samples:?}");
}

#[tokio::test(start_paused = true)]
async fn values_have_the_quality_they_deserve() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let nan = rig::tag(&mut plan, Table::Input, 0, DataType::Float32);
    let high = rig::tag(&mut plan, Table::Input, 2, DataType::Int16);
    let text = rig::tag(&mut plan, Table::Input, 3, DataType::Text(2));
    let bit = rig::tag(&mut plan, Table::Input, 4, DataType::Bool);
    let swapped = rig::tag(&mut plan, Table::Input, 6, DataType::Float32);
    plan.tags[high.0 as usize].limits = Limits { min: None, max: Some(16.0) };
    plan.tags[high.0 as usize].scale = Scale { factor: 0.1, offset: 0.0 };
    plan.tags[bit.0 as usize].source = Source::Register(Address { table: Table::Input, start: 4, bit: Some(3) });
    plan.tags[swapped.0 as usize].order = Order::Cdab;
    let plc = Plc::new(Framing::Tcp);
    plc.set(0, &[0x7FC0, 0, 161, 0xC328, 0b1000, 0, 0xE979, 0x42F6]);
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let samples = rig.batch().await;
    let seen: Vec<_> = [nan, high, text, bit, swapped]
        .iter()
        .map(|tag| {
            samples.iter().find(|sample| sample.tag == *tag).map(|s| (s.value.clone(), s.quality)).expect("read")
        })
        .collect();
    assert_eq!(
        seen,
        [
            (None, Quality::Bad(Cause::Nan)),
            (Some(Value::Float(16.1)), Quality::Uncertain(Cause::Range)),
            (None, Quality::Bad(Cause::Config)),
            (Some(Value::Bool(true)), Quality::Good),
            (Some(Value::Float(f64::from(123.456f32))), Quality::Good),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_sample_carries_the_time_of_its_reply_not_of_its_question() {
    let plc = Plc::new(Framing::Tcp);
    plc.think(150 * MS);
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc.clone()));
    let sample = rig.batch().await.remove(0);
    assert!(sample.at.micros >= 150_000, "{sample:?}");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_not_put_off_by_a_reply_that_is_a_little_faster_than_the_last() {
    let plc = Plc::new(Framing::Tcp);
    let mut plan = tcp_plan(&[1], 1);
    (plan.tags[0].deadband, plan.tags[0].heartbeat) = (Some(1.0), Some(2 * SECOND));
    plc.think(20 * MS);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(rig.collect(500 * MS).await.len(), 1);
    plc.think(5 * MS);
    assert_eq!(rig.collect(2 * SECOND).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_wants_a_pause_gets_it() {
    let mut plan = tcp_plan(&[1, 2], 1);
    for place in 1..5 {
        rig::tag(&mut plan, Table::Holding, place * 1000, DataType::Uint16);
    }
    plan.devices[1].manners.delay_between_requests = 30 * MS;
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(20 * SECOND).await;
    assert!(goods(&samples).values().all(|count| *count >= 19));
    let at: Vec<_> = plc.seen().iter().filter(|seen| seen.unit == 2).map(|seen| seen.at).collect();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 30 * MS));
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_cannot_keep_up_with_is_skipped_and_counted() {
    let mut plan = tcp_plan(&[1], 1);
    plan.tags[0].poll = 10 * MS;
    let plc = Plc::new(Framing::Tcp);
    plc.think(45 * MS);
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let samples = rig.collect(10 * SECOND).await;
    assert!((190..=223).contains(&samples.len()), "{}", samples.len());
    let skipped = rig.handle.stats.polls_skipped.get();
    assert!((750..=810).contains(&skipped), "{skipped}");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_cannot_keep_up_is_told_once_after_a_minute_and_so_is_that_it_can_again() {
    let mut plan = tcp_plan(&[1], 1);
    plan.tags[0].poll = 10 * MS;
    let plc = Plc::new(Framing::Tcp);
    plc.think(45 * MS);
    let (tell, mut told) = notices();
    let mut rig = Rig::run_lanes(plan, vec![Box::new(plc.clone())], |bus| bus.telling(&tell));
    rig.collect(50 * SECOND).await;
    assert!(told.try_recv().is_err(), "a restart or one slow device is no overload");
    rig.collect(100 * SECOND).await;
    plc.think(MS);
    rig.collect(150 * SECOND).await;
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).map(|told| (told.event, told.phase)).collect();
    assert_eq!(told, [("bus_overloaded", Phase::Active), ("bus_overloaded", Phase::Cleared)]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_the_transaction_under_way_finish_and_ends_the_bus() {
    let plc = Plc::new(Framing::Tcp);
    plc.think(150 * MS);
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc.clone()));
    tokio::time::sleep(50 * MS).await;
    rig.stop.begin();
    assert!(good(&rig.batch().await[0]), "the answer under way is not thrown away");
    (&mut rig.task).await.expect("ends");
    assert_eq!(plc.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_there_is_no_connection() {
    let plc = Plc::new(Framing::Tcp);
    plc.refuse_to_open(true);
    let mut rig = Rig::run_over(tcp_plan(&[1], 1), Box::new(plc));
    rig.collect(100 * SECOND).await;
    rig.stop.begin();
    let begun = tokio::time::Instant::now();
    (&mut rig.task).await.expect("ends");
    assert!(begun.elapsed() < MS);
}
