//! What the status page costs while nobody looks at it: the values of 10 000 tags, once a second, on their way to the local broker,
//! and what of that is the page's.
//!
//! usage: cargo bench --bench page

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironbridge::config::plan::{DevicePlan, Plan, TagPlan};
use ironbridge::flow::clock::{Clock, FakeTime};
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{Address, BusIx, DataType, DeviceIx, Table, TagIx};
use ironbridge::model::time::{Boot, Stamp};
use ironbridge::model::value::Value;
use ironbridge::payload::json;
use ironbridge::status::values::Values;

const TAGS: u32 = 10_000;
const SECONDS: i64 = 3600;

fn samples(second: i64) -> Vec<Sample> {
    let at = Stamp { boot: Boot(1), micros: second * 1_000_000 };
    let value = |tag: u32| Value::Float(f64::from(tag) + f64::from(u32::try_from(second % 60).unwrap_or(0)) / 10.0);
    (0..TAGS).map(|tag| Sample { tag: TagIx(tag), value: Some(value(tag)), quality: Quality::Good, at }).collect()
}

fn main() {
    let address = Address { table: Table::Holding, start: 0, bit: None };
    let tags = (0..TAGS).map(|n| TagPlan::plain(&format!("t{n}"), DeviceIx(0), address, DataType::Float32)).collect();
    let devices = vec![DevicePlan { tags: 0..TAGS as usize, ..DevicePlan::plain("d", BusIx(0), 1) }];
    let plan = Plan { devices, tags, ..Plan::empty("g") };
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
    let values = Values::new(Arc::new(plan), clock.clone());
    let (mut shown, mut encoded) = (Duration::ZERO, Duration::ZERO);
    for second in 0..SECONDS {
        let samples = samples(second);
        let begun = Instant::now();
        values.show(black_box(&samples));
        shown += begun.elapsed();
        if second % 10 == 0 {
            let begun = Instant::now();
            for sample in &samples {
                black_box(json::sample(sample.value.as_ref(), sample.quality, clock.wall(sample.at)));
            }
            encoded += begun.elapsed() * 10;
        }
    }
    let each = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(TAGS) / 3600.0;
    let part = |took: Duration| took.as_secs_f64() / 3600.0 * 100.0;
    println!("10 000 tags, once a second, for an hour");
    println!("encoded for the broker   {:6.0} ns a value   {:.3} % of a processor", each(encoded), part(encoded));
    println!("shown to the page        {:6.0} ns a value   {:.3} % of a processor", each(shown), part(shown));
    println!("points kept of each tag  {:6}", values.history(TagIx(7), 600).len());
    println!("shown / encoded          {:6.2}", shown.as_secs_f64() / encoded.as_secs_f64());
}
