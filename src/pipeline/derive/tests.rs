//! What is worked out, when, and what goes on over a reload.

use super::*;
use crate::config::difference::arranged;
use crate::config::plan::AlarmPlan;
use crate::config::{self, HostFacts};
use crate::model::time::Boot;

const PLANT: &str = r#"
    [[bus]]
    name = "net"
    type = "modbus-tcp"
    endpoint = "127.0.0.1:1"
    [[device]]
    name = "pump-1"
    bus = "net"
    unit_id = 1
    [[device.tag]]
    name = "flow"
    address = "input:0"
    type = "float32"
    [[device.tag]]
    name = "litres"
    expression = "{flow} * 1000"
    max = 5000.0
    [[device.tag]]
    name = "count"
    address = "input:2"
    type = "uint64"
    [[device]]
    name = "station"
    [[device.tag]]
    name = "twice"
    expression = "{once} * 2"
    [[device.tag]]
    name = "once"
    expression = "{pump-1/flow} + {pump-1/litres}"
    [[device.tag]]
    name = "next"
    expression = "{pump-1/count} + 1"
    type = "uint64"
    [[device.tag]]
    name = "slow"
    expression = "{pump-1/flow}"
    poll = "10s"
"#;

fn plan() -> Plan {
    parsed(PLANT)
}

fn parsed(text: &str) -> Plan {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    config::parse(text, std::path::Path::new("plant.toml"), &facts).expect("checks").plan
}

fn at(second: i64) -> Stamp {
    Stamp { boot: Boot(1), micros: second * 1_000_000 }
}

fn sample(tag: u32, value: Value, second: i64) -> Sample {
    Sample { tag: TagIx(tag), value: Some(value), quality: Quality::Good, at: at(second) }
}

/// What came out, as (name, value or cause, second).
fn told(plan: &Plan, harvests: BTreeMap<DeviceIx, Harvest>) -> Vec<(String, String, i64)> {
    let samples = harvests.into_values().flat_map(|harvest| harvest.samples);
    let mut told: Vec<_> = samples
        .map(|Sample { tag, value, quality, at }| {
            let value = match (value, quality) {
                (Some(value), Quality::Good) => value.to_string(),
                (value, quality) => format!("{value:?} {quality:?}"),
            };
            (plan[tag].name.clone(), value, at.micros / 1_000_000)
        })
        .collect();
    told.sort();
    told
}

#[test]
fn tags_that_need_each_other_are_worked_out_in_one_go_with_the_time_of_the_newest() {
    let plan = plan();
    let mut derive = Derive::new(&plan).expect("there are some");
    assert_eq!(derive.wanted(), [TagIx(0), TagIx(2)]);
    assert_eq!(told(&plan, derive.work(at(0))), [], "nothing is known yet");
    derive.learn(&sample(0, Value::Float(2.0), 1));
    let text = |name: &str, value: &str, second| (name.to_owned(), value.to_owned(), second);
    // With a period, too: nobody waits for a value until the first one is over.
    let slow = |second| text("slow", "2", second);
    let expected = [text("litres", "2000", 1), text("once", "2002", 1), slow(2), text("twice", "4004", 1)];
    assert_eq!(told(&plan, derive.work(at(2))), expected);
    assert_eq!(told(&plan, derive.work(at(3))), [], "no news");
    derive.learn(&sample(2, Value::Uint(u64::MAX - 1), 4));
    assert_eq!(told(&plan, derive.work(at(4))), [text("next", &u64::MAX.to_string(), 4)], "exact");
    assert_eq!(told(&plan, derive.work(at(11))), []);
    assert_eq!(told(&plan, derive.work(at(12))), [slow(12)], "at its own period");
    assert_eq!(derive.idle(at(14)), Some(Duration::from_secs(8)));
}

#[test]
fn one_with_a_period_has_a_value_as_soon_as_what_it_needs_is_known_and_is_left_alone_until_then() {
    let mut plan = plan();
    plan.tags.retain(|tag| ["flow", "litres", "count", "slow"].contains(&tag.name.as_str()));
    let mut derive = Derive::new(&plan).expect("there are some");
    assert_eq!(told(&plan, derive.work(at(0))), []);
    assert_eq!(derive.idle(at(0)), None, "it does not look again and again");
    derive.learn(&sample(0, Value::Float(2.0), 3));
    assert_eq!(derive.idle(at(3)), Some(Duration::ZERO));
    assert!(told(&plan, derive.work(at(3))).contains(&("slow".to_owned(), "2".to_owned(), 3)));
    assert_eq!(derive.idle(at(5)), Some(Duration::from_secs(8)));
}

#[test]
fn nothing_is_worked_out_from_what_was_read_under_another_scale_and_the_rest_goes_on() {
    let before = plan();
    let mut earlier = Derive::new(&before).expect("there are some");
    earlier.learn(&sample(0, Value::Float(5000.0), 1));
    earlier.learn(&sample(2, Value::Uint(7), 1));
    earlier.work(at(1));
    let scaled = PLANT.replacen("float32\"", "float32\"\nscale = 0.001", 1).replace("{flow} * 1000", "{flow}");
    let after = arranged(&before, parsed(&scaled));
    let mut derive = Derive::new(&after).expect("there are some");
    derive.knowing(earlier, (&before, &after));
    let next = ("next".to_owned(), "8".to_owned(), 1);
    assert_eq!(told(&after, derive.work(at(2))), [next], "of a neighbour, which is what it was at another place");
    derive.learn(&sample(0, Value::Float(5001.0), 2)); // it was on its way
    assert_eq!(told(&after, derive.work(at(3))), []);
    let flow = (0..).zip(&after.tags).find(|(_, tag)| tag.name == "flow").map(|(ix, _)| ix).expect("it is there");
    derive.learn(&sample(flow, Value::Float(5.0), 4));
    let litres = ("litres".to_owned(), "5".to_owned(), 4);
    assert!(told(&after, derive.work(at(4))).contains(&litres));

    let same = arranged(&before, parsed(&PLANT.replace("{flow} * 1000", "{flow}")));
    let mut derive = Derive::new(&same).expect("there are some");
    let mut earlier = Derive::new(&before).expect("there are some");
    earlier.learn(&sample(0, Value::Float(5000.0), 1));
    derive.knowing(earlier, (&before, &same));
    assert!(told(&same, derive.work(at(2))).contains(&("litres".to_owned(), "5000".to_owned(), 1)), "at once");
}

#[test]
fn an_alarm_with_a_delay_is_told_although_its_inputs_are_quiet() {
    let mut plan = plan();
    let limits = vec![(Level::High, 100.0)];
    plan.tags[1].alarm = Some(Box::new(AlarmPlan { limits, delay: Duration::from_secs(3), ..AlarmPlan::plain() }));
    plan.tags.truncate(3);
    let mut derive = Derive::new(&plan).expect("there is one");
    derive.learn(&sample(0, Value::Float(1.0), 1));
    derive.work(at(1));
    assert_eq!(derive.idle(at(2)), Some(Duration::from_secs(2)));
    let harvest = derive.work(at(4)).remove(&DeviceIx(0)).expect("an alarm");
    assert_eq!((harvest.alarms.len(), harvest.samples.len(), harvest.alarms[0].at), (1, 0, at(4)));
}

#[test]
fn doubts_and_faults_go_through_with_their_cause() {
    let plan = plan();
    let mut derive = Derive::new(&plan).expect("there are some");
    derive.learn(&sample(0, Value::Float(6.0), 1));
    let doubt = format!("{:?}", Quality::Uncertain(Cause::Range));
    let found = told(&plan, derive.work(at(1)));
    assert!(found.iter().all(|(name, value, _)| name == "slow" || value.ends_with(&doubt)), "{found:?}");
    let lost = Sample { tag: TagIx(0), value: None, quality: Quality::Bad(Cause::Timeout), at: at(2) };
    derive.learn(&lost);
    let found = told(&plan, derive.work(at(2)));
    let fault = format!("None {:?}", lost.quality);
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|(_, value, second)| *value == fault && *second == 2), "{found:?}");
    derive.learn(&sample(2, Value::Uint(u64::MAX), 3));
    let range = format!("None {:?}", Quality::Bad(Cause::Range));
    assert_eq!(told(&plan, derive.work(at(3))), [("next".to_owned(), range, 3)], "one more does not fit");
}
