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
use ironbridge::config::plan::{BusLink, Scale};
use ironbridge::model::tag::{DataType, Order, Table};
use ironbridge::model::value::Value;
use plc::{Framing, Plc};
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
