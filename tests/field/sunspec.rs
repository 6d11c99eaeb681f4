//! SunSpec chains, found and read through the whole field: at every base, with unknown models between, cut off, without an
//! end, without the model that is wanted; and above all moving while it runs.

use crate::plc;
use crate::rig;

use std::time::Duration;

use DataType::{Float32, Int16, Uint16, Uint32, Uint64};
use ironbridge::config::plan::{Grouping, Plan, Source};
use ironbridge::model::command::{Outcome, Refusal};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::sunspec::{ModelPlace, ModelRef};
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use rig::{Rig, good};

const SECOND: Duration = Duration::from_secs(1);
const SUNS: [u16; 2] = [0x5375, 0x6E53];
const END: [u16; 2] = [0xFFFF, 0];
/// Offsets in model 103.
const AMPS: u16 = 2;
const AMPS_SF: u16 = 6;
const WATTS: u16 = 14;
const WATTS_SF: u16 = 15;

/// A point of a model.
fn point(plan: &mut Plan, numbers: &[u16], nth: u8, offset: u16, data_type: DataType) -> TagIx {
    let ix = rig::tag(plan, Table::Holding, 0, data_type);
    let model = ModelRef::new(numbers, nth).expect("a model");
    plan.tags[ix.0 as usize].source = Source::Model(ModelPlace { model, offset, bit: None });
    ix
}

/// A device with the power and the current of an inverter, each with its scale factor, in this order.
fn inverter() -> (Plan, [TagIx; 4]) {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tags = [
        point(&mut plan, &[101, 102, 103], 1, WATTS, Int16),
        point(&mut plan, &[101, 102, 103], 1, AMPS, Uint16),
        point(&mut plan, &[101, 102, 103], 1, WATTS_SF, Int16),
        point(&mut plan, &[101, 102, 103], 1, AMPS_SF, Int16),
    ];
    for (tag, factor) in [(0, 2), (1, 3)] {
        plan.tags[tag].scale_from = Some(tags[factor]);
    }
    (plan, tags)
}

/// A model of this length whose points hold their own offset.
fn model(number: u16, length: u16) -> Vec<u16> {
    let mut words = vec![number, length];
    words.extend(2..length + 2);
    words
}

/// Model 103 with these words for power and its scale factor, current and its scale factor.
fn model_103(watts: [u16; 2], amps: [u16; 2]) -> Vec<u16> {
    let mut words = model(103, 50);
    for (at, word) in [(WATTS, watts[0]), (WATTS_SF, watts[1]), (AMPS, amps[0]), (AMPS_SF, amps[1])] {
        words[usize::from(at)] = word;
    }
    words
}

/// A device that has just this chain, and refuses all other registers.
fn chain(base: u16, models: &[Vec<u16>], end: &[u16]) -> Plc {
    let plc = Plc::new(Framing::Tcp);
    plc.map_nothing();
    lay(&plc, base, models, end);
    plc
}

fn lay(plc: &Plc, base: u16, models: &[Vec<u16>], end: &[u16]) {
    let words: Vec<u16> = SUNS.iter().chain(models.iter().flatten()).chain(end).copied().collect();
    plc.set(base, &words);
}

fn of(samples: &[Sample], tag: TagIx) -> Option<(Option<Value>, Quality)> {
    samples.iter().rfind(|sample| sample.tag == tag).map(|sample| (sample.value.clone(), sample.quality))
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what `of` brings")]
fn exactly(value: Value) -> Option<(Option<Value>, Quality)> {
    Some((Some(value), Quality::Good))
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what `of` brings")]
fn bad(cause: Cause) -> Option<(Option<Value>, Quality)> {
    Some((None, Quality::Bad(cause)))
}

/// -1234 W in tens, 20.77 A.
fn usual() -> Vec<u16> {
    model_103([0xFB2E, 1], [2077, 0xFFFE])
}

#[tokio::test(start_paused = true)]
async fn an_inverter_is_read_exact_wherever_its_chain_begins_and_whatever_lies_before_it() {
    for base in [40_000, 50_000, 0] {
        for common in [65, 66] {
            for vendor in [&[][..], &[model(64_110, 7), model(64_111, 300)]] {
                let mut models = vec![model(1, common)];
                models.extend(vendor.iter().cloned());
                models.push(usual());
                let plc = chain(base, &models, &END);
                let (plan, [watts, amps, ..]) = inverter();
                let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
                let samples = rig.collect(3 * SECOND).await;
                assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)), "{base} {common} {}", vendor.len());
                assert_eq!(of(&samples, amps), exactly(Value::Float(20.77)), "{base} {common} {}", vendor.len());
                assert!(samples.iter().all(good), "{samples:?}");
                let requests = plc.seen().len();
                assert!(requests <= 12, "{requests} requests for three polls and one walk");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_read_brings_header_values_and_factors_of_a_model() {
    let plc = chain(40_000, &[model(1, 66), usual()], &END);
    let (plan, _) = inverter();
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(3 * SECOND).await;
    let reads: Vec<_> = plc.seen().iter().map(|seen| (seen.start(), seen.count())).collect();
    assert_eq!(reads[..4], [(40_000, 4), (40_070, 2), (40_122, 2), (40_070, 16)]);
    assert!(reads[4..].iter().all(|read| *read == (40_070, 16)), "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_device_says_it_does_not_have_is_no_value() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let mut tag = |offset, data_type, nan: &[u64]| {
        let ix = point(&mut plan, &[64_001], 1, offset, data_type);
        plan.tags[ix.0 as usize].nan = nan.to_vec();
        ix
    };
    let absent = [
        tag(2, Int16, &[0x8000]),
        tag(3, Uint16, &[0xFFFF]),
        tag(4, Uint32, &[0]), // acc32: not accumulated
        tag(6, Float32, &[]),
        tag(8, Uint64, &[0]), // acc64
        tag(12, DataType::Int32, &[0x8000_0000]),
        tag(14, Int16, &[]),
    ];
    let there = [tag(16, Uint32, &[0]), tag(18, Uint64, &[0])];
    let no_factor = tag(22, Int16, &[0x8000]);
    plan.tags[absent[6].0 as usize].scale_from = Some(no_factor);
    let points = [0x8000, 0xFFFF, 0, 0, 0x7FC0, 0, 0, 0, 0, 0, 0x8000, 0, 5, 0, 0, 7, 0, 1, 0, 1, 0x8000, 0];
    let mut words = vec![64_001, 22];
    words.extend(points);
    let mut rig = Rig::run_over(plan, Box::new(chain(40_000, &[model(1, 65), words], &END)));
    let samples = rig.collect(3 * SECOND).await;
    for tag in absent.into_iter().chain([no_factor]) {
        assert_eq!(of(&samples, tag), bad(Cause::Nan), "{tag:?}");
    }
    assert_eq!(of(&samples, there[0]), exactly(Value::Uint(7)));
    assert_eq!(of(&samples, there[1]), exactly(Value::Uint(0x0001_0000_0001)));
}

#[tokio::test(start_paused = true)]
async fn the_second_of_several_like_models_is_another_one() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tags = [1, 2, 3].map(|nth| point(&mut plan, &[160], nth, 5, Uint16));
    let models = [model(1, 66), [vec![160, 8], vec![11; 8]].concat(), usual(), [vec![160, 8], vec![22; 8]].concat()];
    let mut rig = Rig::run_over(plan, Box::new(chain(40_000, &models, &END)));
    let samples = rig.collect(3 * SECOND).await;
    assert_eq!(of(&samples, tags[0]), exactly(Value::Uint(11)));
    assert_eq!(of(&samples, tags[1]), exactly(Value::Uint(22)));
    assert_eq!(of(&samples, tags[2]), bad(Cause::Config));
}

#[tokio::test(start_paused = true)]
async fn a_missing_model_has_the_cause_config_and_costs_the_others_nothing() {
    let (mut plan, [watts, ..]) = inverter();
    let meter = point(&mut plan, &[203], 1, 18, Int16);
    let plc = chain(40_000, &[model(1, 66), usual()], &END);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(60 * SECOND).await;
    assert_eq!(of(&samples, meter), bad(Cause::Config));
    assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)));
    assert!(samples.iter().filter(|sample| sample.tag == watts).count() >= 59);
    let walks = plc.seen().iter().filter(|seen| seen.start() == 40_000).count();
    assert!((2..=4).contains(&walks), "{walks} walks in a minute");
    let mut meter_model = model(203, 105);
    meter_model[18] = 55;
    lay(&plc, 40_000, &[model(1, 66), usual(), meter_model], &END);
    let late = rig.sample(meter, good).await;
    assert_eq!(late.value, Some(Value::Int(55)), "it is looked for again");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_shorter_than_its_tags_has_those_it_reaches() {
    let (mut plan, [watts, ..]) = inverter();
    let (inside, behind, far) = (
        point(&mut plan, &[101, 102, 103], 1, 51, Uint16),
        point(&mut plan, &[101, 102, 103], 1, 52, Uint16),
        point(&mut plan, &[101, 102, 103], 1, 300, Uint16),
    );
    // What comes behind the model is mapped, and looks like any value.
    let models = [model(1, 66), usual(), model(64_001, 400)];
    let mut rig = Rig::run_over(plan, Box::new(chain(40_000, &models, &END)));
    let samples = rig.collect(5 * SECOND).await;
    assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)));
    assert_eq!(of(&samples, inside), exactly(Value::Uint(51)));
    assert_eq!((of(&samples, behind), of(&samples, far)), (bad(Cause::Config), bad(Cause::Config)));
}

#[tokio::test(start_paused = true)]
async fn a_chain_without_a_good_end_serves_what_lies_before_it() {
    let endless: Vec<u16> = (0..120).flat_map(|_| [64_000, 1, 9]).collect();
    let ends: [&[u16]; 5] = [&[], &[120], &[0, 0], &[120, 0], &endless];
    for end in ends {
        let (mut plan, [watts, ..]) = inverter();
        let missing = point(&mut plan, &[120], 1, 2, Uint16);
        let plc = chain(40_000, &[model(1, 66), usual()], end);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        let samples = rig.collect(9 * SECOND).await;
        assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)), "{end:?}");
        assert_eq!(of(&samples, missing), bad(Cause::Config), "{end:?}");
        assert!(plc.seen().len() < 130, "{} requests for {} words behind", plc.seen().len(), end.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_without_a_chain_is_bad_and_not_asked_all_the_time() {
    let plc = Plc::new(Framing::Tcp);
    plc.map_nothing();
    plc.set(40_000, &[1, 2, 3, 4]);
    let (plan, tags) = inverter();
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(9 * SECOND).await;
    assert!(tags.iter().all(|tag| of(&samples, *tag) == bad(Cause::Config)), "{samples:?}");
    assert_eq!(plc.seen().len(), 3, "one question for each base");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_silent_where_others_refuse_is_found_all_the_same() {
    let plc = chain(50_000, &[model(1, 66), usual()], &END);
    plc.plan(|seen| if seen.start() == 40_000 { Fault::Drop } else { Fault::None });
    let (plan, [watts, ..]) = inverter();
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let samples = rig.collect(5 * SECOND).await;
    assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)));
}

/// A device whose header reads otherwise when it is read with what is behind it: never believed, and not asked for ever.
#[tokio::test(start_paused = true)]
async fn a_model_that_never_is_where_the_chain_has_it_is_bad_and_leaves_the_others_their_time() {
    let (mut plan, [watts, ..]) = inverter();
    let other = point(&mut plan, &[120], 1, 2, Uint16);
    let plc = chain(40_000, &[model(1, 66), usual(), model(120, 26)], &END);
    plc.plan(|seen| match (seen.start(), u8::try_from(seen.count())) {
        (40_070, Ok(count @ 3..)) => Fault::Registers(count),
        _ => Fault::None,
    });
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(60 * SECOND).await;
    assert_eq!(of(&samples, watts), bad(Cause::Protocol));
    assert!(samples.iter().filter(|sample| sample.tag == other && good(sample)).count() >= 55);
    let walks = plc.seen().iter().filter(|seen| seen.start() == 40_000).count();
    assert!(walks <= 12, "{walks} walks in a minute");
}

/// The first fear of who plans a plant: the firmware is updated, every model lies elsewhere, and the numbers still look like
/// numbers. Under a running connection, without a refusal, between any two requests.
#[tokio::test(start_paused = true)]
async fn a_chain_that_moves_under_a_running_connection_never_gives_a_wrong_good_value() {
    let (mut plan, [watts, amps, ..]) = inverter();
    // One in a model that is longer than a read, with a scale factor in its head.
    let far = point(&mut plan, &[64_500], 1, 200, Uint16);
    let far_sf = point(&mut plan, &[64_500], 1, 3, Int16);
    plan.tags[far.0 as usize].scale_from = Some(far_sf);
    plan.tags.iter_mut().for_each(|tag| tag.poll = SECOND / 10);
    let long = |value: u16, factor: u16| {
        let mut words = model(64_500, 220);
        (words[200], words[3]) = (value, factor);
        words
    };
    let layouts: Vec<Vec<Vec<u16>>> = vec![
        vec![model(1, 65), usual(), long(500, 0)],
        vec![model(1, 66), usual(), long(500, 0)],
        vec![model(1, 66), model(64_001, 12), usual(), long(50, 1)],
        vec![model(1, 66), long(500, 0), usual()],
        vec![model(1, 66), usual(), model(64_001, 2), long(5, 2)],
        // 103 became 102 with other registers between.
        vec![
            model(1, 70),
            {
                let mut words = usual();
                words[0] = 102;
                words
            },
            long(500, 0),
        ],
    ];
    let plc = chain(40_000, &layouts[0], &END);
    plc.set(40_000, &vec![3; 600]); // mapped, whatever lies there
    lay(&plc, 40_000, &layouts[0], &END);
    plc.think(SECOND / 150);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let mut samples = Vec::new();
    for turn in 0..1500_u32 {
        // At another point of the round each time, also between two requests for one value.
        samples.extend(rig.collect(Duration::from_micros(u64::from(250_000 + turn * 7919 % 300_000))).await);
        lay(&plc, 40_000, &layouts[(turn as usize + 1) % layouts.len()], &END);
    }
    let right = |sample: &Sample| match sample.tag {
        tag if tag == watts => sample.value == Some(Value::Int(-12_340)),
        tag if tag == amps => sample.value == Some(Value::Float(20.77)),
        tag if tag == far => sample.value.as_ref().and_then(Value::as_f64) == Some(500.0),
        _ => true,
    };
    let wrong: Vec<_> = samples.iter().filter(|sample| good(sample) && !right(sample)).collect();
    assert!(wrong.is_empty(), "{} wrong good values: {:?}", wrong.len(), wrong.first());
    for tag in [watts, amps, far] {
        let count = samples.iter().filter(|sample| sample.tag == tag && good(sample)).count();
        assert!(count > 1000, "{tag:?}: {count} good values");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_was_moved_while_the_device_was_away_is_walked_before_the_first_value() {
    let plc = chain(40_000, &[model(1, 65), usual()], &END);
    plc.set(40_000, &vec![7; 400]);
    lay(&plc, 40_000, &[model(1, 65), usual()], &END);
    let (plan, [watts, ..]) = inverter();
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(watts, good).await;
    plc.kill(1);
    rig.sample(watts, rig::is_bad).await;
    lay(&plc, 40_000, &[model(1, 66), model(64_001, 5), usual()], &END);
    plc.forget_seen();
    plc.revive(1);
    let back = rig.sample(watts, good).await;
    assert_eq!(back.value, Some(Value::Int(-12_340)));
    let first = plc.seen().into_iter().find(|seen| seen.count() != 4).expect("asked on");
    assert_eq!((first.start(), first.count()), (40_070, 2), "headers first");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_makes_the_gateway_look_again_where_the_models_are() {
    let plc = chain(40_000, &[model(1, 66), model(64_001, 9), usual()], &END);
    let (plan, [watts, ..]) = inverter();
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(watts, good).await;
    // It lies further down now, and nothing is behind it.
    plc.map_nothing();
    lay(&plc, 40_000, &[model(1, 66), usual()], &END);
    let samples = rig.collect(5 * SECOND).await;
    assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)));
    assert!(samples.iter().all(good), "found again before anything was bad: {samples:?}");
}

#[tokio::test(start_paused = true)]
async fn factors_are_of_the_same_moment_although_they_are_polled_seldom() {
    let (mut plan, [watts, _, watts_sf, _]) = inverter();
    plan.tags[watts_sf.0 as usize].poll = 3600 * SECOND;
    let plc = chain(40_000, &[model(1, 66), usual()], &END);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(watts, good).await;
    plc.set(40_070 + WATTS, &[0xCFCC, 0]); // the range changed: the same power in ones
    let samples = rig.collect(5 * SECOND).await;
    assert!(samples.iter().filter(|sample| sample.tag == watts).count() >= 4);
    let wrong = samples.iter().find(|sample| sample.tag == watts && sample.value != Some(Value::Int(-12_340)));
    assert_eq!(wrong, None);
}

#[tokio::test(start_paused = true)]
async fn one_request_per_tag_and_short_reads_are_guarded_too() {
    for (grouping, longest) in [(Grouping::OneRequestPerTag, 125), (Grouping::Blocks, 4)] {
        let (mut plan, [watts, amps, ..]) = inverter();
        (plan.devices[0].grouping, plan.devices[0].max_registers_per_read) = (grouping, longest);
        let plc = chain(40_000, &[model(1, 66), usual()], &END);
        plc.set(40_000, &vec![7; 400]);
        lay(&plc, 40_000, &[model(1, 66), usual()], &END);
        let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
        let samples = rig.collect(3 * SECOND).await;
        assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)), "{grouping:?}");
        assert_eq!(of(&samples, amps), exactly(Value::Float(20.77)), "{grouping:?}");
        assert!(plc.seen().iter().all(|seen| seen.count() <= longest));
        lay(&plc, 40_000, &[model(1, 66), model(64_001, 1), usual()], &END);
        let samples = rig.collect(5 * SECOND).await;
        let wrong = samples
            .iter()
            .find(|sample| sample.tag == watts && good(sample) && sample.value != Some(Value::Int(-12_340)));
        assert_eq!(wrong, None, "{grouping:?}");
        assert_eq!(of(&samples, watts), exactly(Value::Int(-12_340)), "{grouping:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_reaches_the_point_where_it_is_now_or_nothing_is_written() {
    let (plan, [watts, ..]) = inverter();
    let plc = chain(40_000, &[model(1, 65), usual()], &END);
    plc.set(40_000, &vec![7; 400]);
    lay(&plc, 40_000, &[model(1, 65), usual()], &END);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let done = rig.command(watts, Value::Int(50)).await;
    assert_eq!(done, Outcome::Done { read_back: Some(Value::Int(50)) }, "walks by itself when it must");
    assert_eq!(plc.register(40_069 + WATTS), 5);
    rig.sample(watts, good).await;
    lay(&plc, 40_000, &[model(1, 66), usual()], &END);
    let before: Vec<_> = (40_000..40_400).map(|at| plc.register(at)).collect();
    let done = rig.command(watts, Value::Int(60)).await;
    assert_eq!(done, Outcome::Refused(Refusal::Absent), "it has moved since");
    assert_eq!(before, (40_000..40_400).map(|at| plc.register(at)).collect::<Vec<_>>(), "nothing was written");
    let done = rig.command(watts, Value::Int(60)).await;
    assert_eq!(done, Outcome::Done { read_back: Some(Value::Int(60)) });
    assert_eq!(plc.register(40_070 + WATTS), 6);
    lay(&plc, 40_000, &[model(1, 66), model(120, 26)], &END);
    assert_eq!(rig.command(watts, Value::Int(70)).await, Outcome::Refused(Refusal::Absent));
    assert_eq!(rig.command(watts, Value::Int(70)).await, Outcome::Refused(Refusal::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_walk_is_work_of_the_bus_like_any_other_and_commands_go_before_it() {
    let (mut plan, [watts, ..]) = inverter();
    rig::device(&mut plan, 2);
    let neighbour = rig::tag(&mut plan, Table::Input, 5, Uint16);
    plan.tags[neighbour.0 as usize].poll = SECOND / 5;
    // Two hundred milliseconds a question, sixty models: a walk of twelve seconds.
    let mut models = vec![model(1, 66)];
    models.extend((0..60).map(|number| model(64_000 + number, 1)));
    models.push(usual());
    let plc = chain(40_000, &models, &END);
    plc.set(5, &[7]);
    plc.think(SECOND / 10);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(6 * SECOND).await;
    assert_eq!(of(&samples, watts), None, "still walking");
    let heard = samples.iter().filter(|sample| sample.tag == neighbour).count();
    assert!(heard >= 20, "the neighbour was read {heard} times in six seconds");
    let asked = plc.seen().len();
    let done = rig.command(neighbour, Value::Uint(9)).await;
    assert_eq!(done, Outcome::Refused(Refusal::Access), "input registers");
    assert!(plc.seen().len() <= asked + 2);
    let late = rig.sample(watts, good).await;
    assert_eq!(late.value, Some(Value::Int(-12_340)));
}
