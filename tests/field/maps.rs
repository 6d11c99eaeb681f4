//! Two real register maps with known words: every engineering value must come out exact, through the whole field, on a
//! device that has only the registers of its map.
//!
//! The addresses and types are those of the devices (Eastron SDM630, Carlo Gavazzi EM24); the words are invented.

use crate::plc;
use crate::rig;

use std::collections::HashMap;
use std::time::Duration;

use DataType::{Float32, Int16, Int32};
use Order::{Abcd, Cdab};
use ironbridge::config::plan::{BusLink, Scale, TagPlan, ValueMap};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::registers::BitField;
use ironbridge::model::tag::{DataType, Order, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use rig::{Rig, good};

/// Name, input register, type, order, scale, words, engineering value.
type Row = (&'static str, u16, DataType, Order, f64, &'static [u16], f64);

#[rustfmt::skip]
const SDM630: &[Row] = &[
    ("voltage_l1", 0, Float32, Abcd, 1.0, &[0x4366, 0x3333], 230.199_996_948_242_2),
    ("voltage_l2", 2, Float32, Abcd, 1.0, &[0x4367, 0x6666], 231.399_993_896_484_38),
    ("voltage_l3", 4, Float32, Abcd, 1.0, &[0x4365, 0xE666], 229.899_993_896_484_38),
    ("current_l1", 6, Float32, Abcd, 1.0, &[0x4097, 0x5C29], 4.730_000_019_073_486),
    ("current_l2", 8, Float32, Abcd, 1.0, &[0x0000, 0x0000], 0.0),
    ("current_l3", 10, Float32, Abcd, 1.0, &[0x4140, 0x1893], 12.005_999_565_124_512),
    ("power_l1", 12, Float32, Abcd, 1.0, &[0x4483, 0x5000], 1050.5),
    ("power_l2", 14, Float32, Abcd, 1.0, &[0xC050, 0x0000], -3.25),
    ("power_l3", 16, Float32, Abcd, 1.0, &[0x4528, 0xE200], 2702.125),
    ("cosphi_l1", 30, Float32, Abcd, 1.0, &[0x3F77, 0x0A3D], 0.964_999_973_773_956_3),
    ("power", 52, Float32, Abcd, 1.0, &[0x456A, 0x5600], 3749.375),
    ("apparent_power", 56, Float32, Abcd, 1.0, &[0x4573, 0x019A], 3_888.100_097_656_25),
    ("reactive_power", 60, Float32, Abcd, 1.0, &[0xC400, 0x3000], -512.75),
    ("cosphi", 62, Float32, Abcd, 1.0, &[0x3F76, 0xDC5D], 0.964_299_976_825_714_1),
    ("frequency", 70, Float32, Abcd, 1.0, &[0x4247, 0xEB85], 49.979_999_542_236_33),
    ("import_kwh", 72, Float32, Abcd, 1.0, &[0x4640, 0xE6B6], 12_345.677_734_375),
    ("export_kwh", 74, Float32, Abcd, 1.0, &[0x3CFD, 0xF3B6], 0.030_999_999_493_360_52),
    ("thd_l1", 234, Float32, Abcd, 1.0, &[0x4019, 0x999A], 2.400_000_095_367_431_6),
    ("sum_kwh", 342, Float32, Abcd, 1.0, &[0x4640, 0xE6D6], 12_345.708_984_375),
    ("import_l1_kwh", 346, Float32, Abcd, 1.0, &[0x4580, 0x2400], 4100.5),
    ("reactive_sum_l3", 380, Float32, Abcd, 1.0, &[0x418A, 0x0000], 17.25),
];

#[rustfmt::skip]
const EM24: &[Row] = &[
    ("voltage_l1", 0, Int32, Cdab, 0.1, &[0x0901, 0x0000], 230.5),
    ("voltage_l2", 2, Int32, Cdab, 0.1, &[0x0907, 0x0000], 231.1),
    ("voltage_l3", 4, Int32, Cdab, 0.1, &[0x08FA, 0x0000], 229.8),
    ("current_l1", 12, Int32, Cdab, 0.001, &[0x11EB, 0x0001], 70.123),
    ("current_l2", 14, Int32, Cdab, 0.001, &[0xEE15, 0xFFFE], -70.123),
    ("current_l3", 16, Int32, Cdab, 0.001, &[0x0000, 0x0000], 0.0),
    ("power_l1", 18, Int32, Cdab, 0.1, &[0x3BD9, 0x0000], 1532.1),
    ("power_l2", 20, Int32, Cdab, 0.1, &[0xC568, 0xFFFF], -1500.0),
    ("power_l3", 22, Int32, Cdab, 0.1, &[0x0000, 0x0000], 0.0),
    ("power", 40, Int32, Cdab, 0.1, &[0x0141, 0x0000], 32.1),
    ("import_kwh", 66, Int32, Cdab, 0.1, &[0xD687, 0x0012], 123_456.7),
    ("import_l1_kwh", 70, Int32, Cdab, 0.1, &[0x1A81, 0x0006], 40_000.1),
    ("export_kwh", 92, Int32, Cdab, 0.1, &[0x0009, 0x0000], 0.9),
    ("cosphi_l1", 50, Int16, Abcd, 0.001, &[0xFC27], -0.985),
    ("cosphi", 53, Int16, Abcd, 0.001, &[0x03E8], 1.0),
    ("frequency", 55, Int16, Abcd, 0.1, &[0x01F3], 49.9),
];

async fn every_value_is_exact(map: &'static [Row], link: BusLink, framing: Framing) {
    let mut plan = rig::plan(link);
    rig::device(&mut plan, 1);
    let plc = Plc::new(framing);
    plc.map_nothing();
    let mut expected = HashMap::new();
    for (name, address, data_type, order, scale, words, value) in map {
        plc.set(*address, words);
        let tag = rig::tag(&mut plan, Table::Input, *address, *data_type);
        let tag_plan = &mut plan.tags[tag.0 as usize];
        (tag_plan.order, tag_plan.scale) = (*order, Scale { factor: *scale, offset: 0.0 });
        expected.insert(tag, (*name, *value));
    }
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let samples = rig.collect(Duration::from_secs(10)).await;
    for (tag, (name, value)) in expected {
        let of: Vec<_> = samples.iter().filter(|sample| sample.tag == tag).collect();
        assert!(of.len() > 5, "{name}: {} samples", of.len());
        for sample in of {
            assert!(good(sample), "{name}: {sample:?}");
            let read = sample.value.as_ref().and_then(Value::as_f64).expect("a number");
            assert!((read - value).abs() <= 1e-12 * value.abs(), "{name}: {read} instead of {value}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_sdm630_reads_exact_over_tcp_and_rtu() {
    every_value_is_exact(SDM630, rig::tcp("nowhere:502"), Framing::Tcp).await;
    every_value_is_exact(SDM630, rig::rtu("/dev/nowhere", 9600), Framing::Rtu).await;
}

#[tokio::test(start_paused = true)]
async fn an_em24_reads_exact_over_tcp_and_rtu() {
    every_value_is_exact(EM24, rig::tcp("nowhere:502"), Framing::Tcp).await;
    every_value_is_exact(EM24, rig::rtu("/dev/nowhere", 9600), Framing::Rtu).await;
}

/// The last sample of a tag: value and quality.
async fn last(rig: &mut Rig, tag: TagIx, time: Duration) -> (Option<Value>, Quality) {
    let samples = rig.collect(time).await;
    let sample = samples.into_iter().rfind(|sample| sample.tag == tag).expect("sampled");
    (sample.value, sample.quality)
}

const SECOND: Duration = Duration::from_secs(1);

/// A SunSpec inverter, model 103: currents with their scale factor behind them, voltages with theirs, as in the
/// specification's own layout (offsets 2 to 6 and 10 to 13 of the model).
#[tokio::test(start_paused = true)]
async fn a_sunspec_chain_is_exact_and_follows_its_scale_factor() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let amps = rig::tag(&mut plan, Table::Holding, 40_071, DataType::Uint16);
    let phase_c = rig::tag(&mut plan, Table::Holding, 40_074, DataType::Uint16);
    let amps_sf = rig::tag(&mut plan, Table::Holding, 40_075, Int16);
    let volts = rig::tag(&mut plan, Table::Holding, 40_079, DataType::Uint16);
    let volts_sf = rig::tag(&mut plan, Table::Holding, 40_082, Int16);
    for (tag, factor) in [(amps, amps_sf), (phase_c, amps_sf), (volts, volts_sf)] {
        let tag = &mut plan.tags[tag.0 as usize];
        (tag.scale_from, tag.nan) = (Some(factor), vec![0xFFFF]);
    }
    let plc = Plc::new(Framing::Tcp);
    plc.set(40_071, &[2077, 692, 693, 0xFFFF, 0xFFFE]); // A, AphA, AphB, AphC not implemented, A_SF -2
    plc.set(40_079, &[2404, 2398, 2401, 0xFFFF]); // PhVphA … PhVphC, V_SF -1
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(3 * SECOND).await;
    let of =
        |tag| samples.iter().rfind(|sample| sample.tag == tag).map(|sample| (sample.value.clone(), sample.quality));
    assert_eq!(of(amps), Some((Some(Value::Float(20.77)), Quality::Good)));
    assert_eq!(of(volts), Some((Some(Value::Float(240.4)), Quality::Good)));
    assert_eq!(of(phase_c), Some((None, Quality::Bad(Cause::Nan))));
    assert_eq!(of(amps_sf), Some((Some(Value::Int(-2)), Quality::Good)));
    plc.set(40_071, &[208]);
    plc.set(40_075, &[0xFFFF]); // the range changed: value and factor move in one answer
    assert_eq!(last(&mut rig, amps, 3 * SECOND).await, (Some(Value::Float(20.8)), Quality::Good));
    plc.set(40_075, &[0x8000]);
    assert_eq!(last(&mut rig, amps, 3 * SECOND).await, (None, Quality::Bad(Cause::Nan)));
    plc.set(40_075, &[77]);
    assert_eq!(last(&mut rig, amps, 3 * SECOND).await, (None, Quality::Bad(Cause::Config)), "no scale factor");
    plc.set(40_075, &[3]);
    assert_eq!(last(&mut rig, amps, 3 * SECOND).await, (Some(Value::Int(208_000)), Quality::Good));
}

/// The factor is wanted once a minute only, and lies further off than a hole is worth: it is read with each value all the same.
#[tokio::test(start_paused = true)]
async fn a_value_is_never_good_with_the_scale_factor_of_another_moment() {
    let mut plan = rig::plan(rig::rtu("/dev/nowhere", 9600));
    rig::device(&mut plan, 1);
    let value = rig::tag(&mut plan, Table::Holding, 0, Int16);
    let factor = rig::tag(&mut plan, Table::Holding, 60, Int16);
    plan.tags[0].scale_from = Some(factor);
    plan.tags[1].poll = 60 * SECOND;
    let plc = Plc::new(Framing::Rtu);
    plc.set(0, &[0; 61]);
    plc.set(0, &[123]);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(last(&mut rig, value, 5 * SECOND).await, (Some(Value::Int(123)), Quality::Good));
    plc.set(60, &[0xFFFF]); // the device changes its range: 123.0, said with a digit more
    plc.set(0, &[1230]);
    let samples = rig.collect(30 * SECOND).await;
    let torn: Vec<_> = samples.iter().filter(|sample| sample.value == Some(Value::Int(1230)) && good(sample)).collect();
    assert!(torn.is_empty(), "{torn:?}");
    assert_eq!(last(&mut rig, value, 5 * SECOND).await, (Some(Value::Float(123.0)), Quality::Good));
}

/// Both registers are there, and nothing between them: one read that reaches from the one to the other is refused.
#[tokio::test(start_paused = true)]
async fn a_value_whose_scale_factor_lies_behind_registers_that_do_not_exist_is_read_without_them() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let value = rig::tag(&mut plan, Table::Holding, 0, Int16);
    let factor = rig::tag(&mut plan, Table::Holding, 60, Int16);
    plan.tags[0].scale_from = Some(factor);
    plan.tags[1].poll = 60 * SECOND;
    let plc = Plc::new(Framing::Tcp);
    (1..60).for_each(|address| plc.unmap(address));
    plc.set(0, &[1230]);
    plc.set(60, &[0xFFFF]);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(last(&mut rig, value, 5 * SECOND).await, (Some(Value::Float(123.0)), Quality::Good));
    plc.forget_seen();
    let samples = rig.collect(600 * SECOND).await;
    assert!(samples.iter().all(good), "nor is a later attempt to read all of it told");
    let wide = plc.seen().iter().filter(|seen| seen.count() > 1).count();
    assert!((1..5).contains(&wide), "{wide}: it is tried again, seldom");
}

/// The factor lies in a block of its own, which fails: values without it are never good.
#[tokio::test(start_paused = true)]
async fn a_value_waits_for_its_scale_factor_and_does_not_outlive_it() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let value = rig::tag(&mut plan, Table::Holding, 0, Int16);
    let factor = rig::tag(&mut plan, Table::Input, 500, Int16);
    plan.tags[0].scale_from = Some(factor);
    let plc = Plc::new(Framing::Tcp);
    plc.set(0, &[123]);
    plc.set(500, &[0xFFFF]);
    let held_back = |seen: &plc::Seen| if seen.function() == 4 { Fault::Exception(6) } else { Fault::None };
    plc.plan(held_back);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    let samples = rig.collect(20 * SECOND).await;
    assert!(samples.iter().filter(|sample| sample.tag == value).all(rig::is_bad), "{samples:?}");
    plc.plan(|_| Fault::None);
    assert_eq!(last(&mut rig, value, 10 * SECOND).await, (Some(Value::Float(12.3)), Quality::Good));
    plc.plan(held_back);
    assert_eq!(
        last(&mut rig, value, 20 * SECOND).await,
        (None, Quality::Bad(Cause::Exception)),
        "its cause is the factor's"
    );
    plc.plan(|_| Fault::None);
    assert_eq!(last(&mut rig, value, 10 * SECOND).await, (Some(Value::Float(12.3)), Quality::Good));
}

/// A round of the bus takes three seconds, and it was planned for a tenth of one: the factor is as fresh as it can be.
#[tokio::test(start_paused = true)]
async fn a_scale_factor_is_not_old_because_the_bus_is_slow() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    plan.buses[0].response_timeout = 5 * SECOND;
    rig::device(&mut plan, 1);
    let value = rig::tag(&mut plan, Table::Holding, 0, Int16);
    let factor = rig::tag(&mut plan, Table::Input, 500, Int16);
    plan.tags[0].scale_from = Some(factor);
    plan.tags.iter_mut().for_each(|tag| tag.poll = SECOND / 10);
    let plc = Plc::new(Framing::Tcp);
    plc.set(0, &[123]);
    plc.set(500, &[0xFFFF]);
    plc.think(SECOND * 3 / 2);
    let mut rig = Rig::run_over(plan, Box::new(plc));
    rig.collect(10 * SECOND).await;
    let samples: Vec<_> = rig.collect(60 * SECOND).await.into_iter().filter(|sample| sample.tag == value).collect();
    assert!(samples.len() > 10 && samples.iter().all(good), "{samples:?}");
}

type Change<'a> = Box<dyn FnOnce(&mut TagPlan) + 'a>;
/// Type, order, words, what else the tag says, value and quality.
type Case<'a> = (DataType, Order, &'static [u16], Change<'a>, (Option<Value>, Quality));

#[tokio::test(start_paused = true)]
async fn counters_sentinels_fields_words_and_times_come_out_as_they_were_meant() {
    let mut plan = rig::plan(rig::rtu("/dev/nowhere", 19_200));
    rig::device(&mut plan, 1);
    let plc = Plc::new(Framing::Rtu);
    let mut expected = Vec::new();
    let text = |text: &str| Some(Value::Text(text.into()));
    let nan = (None, Quality::Bad(Cause::Nan));
    let good = |value| (value, Quality::Good);
    let none = |_: &mut TagPlan| {};
    let counter = u64::MAX - 1;
    let entries = vec![(0, "off".into()), (11, "hand".into())];
    let map = std::sync::Arc::new(ValueMap { entries });
    let field = |mask, shift| -> Change<'_> { Box::new(move |tag| tag.field = Some(BitField { mask, shift })) };
    let cases: Vec<Case<'_>> = vec![
        (DataType::Uint64, Cdab, &[0xFFFE, 0xFFFF, 0xFFFF, 0xFFFF], Box::new(none), good(Some(Value::Uint(counter)))),
        (DataType::Int64, Abcd, &[0x8000, 0, 0, 1], Box::new(none), good(Some(Value::Int(i64::MIN + 1)))),
        (
            DataType::Uint64,
            Abcd,
            &[0x1000, 0, 0, 1],
            Box::new(|tag| tag.scale.factor = 10.0),
            good(Some(Value::Uint(((1 << 60) + 1) * 10))),
        ),
        (DataType::Int16, Abcd, &[0x8000], Box::new(|tag| tag.nan = vec![0x8000, 0x7FFF]), nan.clone()),
        (DataType::Int16, Abcd, &[0x7FFF], Box::new(|tag| tag.nan = vec![0x8000, 0x7FFF]), nan.clone()),
        (DataType::Uint32, Cdab, &[0xFFFF, 0xFFFF], Box::new(|tag| tag.nan = vec![0xFFFF_FFFF]), nan.clone()),
        (Float32, Abcd, &[0x7FC0, 0], Box::new(none), nan.clone()),
        (DataType::Float16, Abcd, &[0x4248], Box::new(none), good(Some(Value::Float(3.140_625)))),
        (DataType::Bcd16, Abcd, &[0x12F4], Box::new(none), nan.clone()),
        (
            DataType::Bcd32,
            Abcd,
            &[0x0012, 0x3456],
            Box::new(|tag| tag.scale.factor = 0.01),
            good(Some(Value::Float(1234.56))),
        ),
        (DataType::Mod10(3), Abcd, &[12, 3456, 7890], Box::new(none), good(Some(Value::Int(1_234_567_890)))),
        (DataType::Uint16, Abcd, &[0xABCD], field(0x0FF0, 4), good(Some(Value::Uint(0xBC)))),
        (DataType::Int16, Abcd, &[0xFE12], field(0xFF00, 8), good(Some(Value::Int(-2)))),
        (DataType::Uint16, Abcd, &[11], Box::new(|tag| tag.map = Some(map.clone())), good(text("hand"))),
        (
            DataType::Uint16,
            Abcd,
            &[12],
            Box::new(|tag| tag.map = Some(map.clone())),
            (text("12"), Quality::Uncertain(Cause::Range)),
        ),
        (DataType::Unix32, Abcd, &[0x6B00, 0xA6C0], Box::new(none), good(text("2026-11-20T20:00:00.000Z"))),
        (DataType::Cp56, Abcd, &[0x000B, 0x013F, 0, 0], Box::new(none), good(text("2011-01-31T00:00:00.000Z"))),
        (DataType::Cp56, Abcd, &[0x000B, 0x013F, 0x0080, 0], Box::new(none), nan),
        (DataType::Bytes(3), Abcd, &[0x0A1B, 0x2C00], Box::new(none), good(text("0a1b2c"))),
    ];
    for (place, (data_type, order, words, change, value)) in (0u16..).zip(cases) {
        plc.set(place * 8, words);
        let tag = rig::tag(&mut plan, Table::Holding, place * 8, data_type);
        plan.tags[tag.0 as usize].order = order;
        change(&mut plan.tags[tag.0 as usize]);
        expected.push((tag, value));
    }
    let mut rig = Rig::run_over(plan, Box::new(plc));
    let samples = rig.collect(10 * SECOND).await;
    for (tag, value) in expected {
        let sample = samples.iter().rfind(|sample| sample.tag == tag).expect("sampled");
        assert_eq!((sample.value.clone(), sample.quality), value, "{tag:?}");
    }
}
