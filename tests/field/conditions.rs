//! What a bus keeps, watches and holds back: swinging doors, tags that fall silent, alarms.

use crate::plc;
use crate::rig;

use std::collections::BTreeSet;
use std::time::Duration;

use ironbridge::config::plan::{AlarmPlan, Compression, Freshness, Plan};
use ironbridge::model::alarm::Level;
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::tag::{DataType, Table};
use ironbridge::model::time::Stamp;
use ironbridge::model::value::Value;
use plc::{Framing, Plc};
use rig::{Rig, good};

const SECOND: Duration = Duration::from_secs(1);

fn one_tag() -> Plan {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    plan
}

#[tokio::test(start_paused = true)]
async fn a_swinging_door_gives_out_what_it_holds_when_the_device_is_lost_and_at_a_stop() {
    let mut plan = one_tag();
    plan.tags[0].compression = Some(Compression { swing: 0.5, max_gap: 3600 * SECOND });
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    assert_eq!(rig.collect(60 * SECOND).await.len(), 1, "a straight line");
    plc.kill(1);
    let lost = rig.collect(60 * SECOND).await;
    let [held, bad] = &lost[..] else { panic!("{lost:?}") };
    assert!(good(held) && bad.quality == Quality::Bad(Cause::Timeout) && held.at < bad.at, "{lost:?}");
    assert!(held.at.since(bad.at).is_zero() && bad.at.since(held.at) < 5 * SECOND, "the last value before: {lost:?}");
    plc.revive(1);
    let back = rig.collect(600 * SECOND).await;
    let moments: BTreeSet<Stamp> = back.iter().filter(|sample| good(sample)).map(|sample| sample.at).collect();
    assert_eq!(moments.len(), 1, "a straight line again: {back:?}");
    let shown = rig.latest.take().await.expect("open").samples.pop().expect("one tag");
    rig.stop.begin();
    let held = rig.batch().await.pop().expect("one");
    assert_eq!((held.at, held.value), (shown.at, Some(Value::Uint(0))), "the live lane has seen it already");
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_was_not_read_for_too_long_is_stale_until_it_is_read_again() {
    let mut plan = one_tag();
    plan.tags[0].poll = 60 * SECOND;
    plan.tags[0].freshness = Freshness { stale_after: Some(10 * SECOND), unchanged_for: None };
    let mut rig = Rig::run_over(plan, Box::new(Plc::new(Framing::Tcp)));
    let samples = rig.collect(150 * SECOND).await;
    let qualities: Vec<Quality> = samples.iter().map(|sample| sample.quality).collect();
    let stale = Quality::Bad(Cause::Stale);
    let from_read = qualities.iter().position(|quality| *quality == Quality::Good).expect("it was read");
    assert!(qualities[from_read..].starts_with(&[Quality::Good, stale, Quality::Good, stale]), "{samples:?}");
    let (read, late) = (&samples[from_read], &samples[from_read + 1]);
    let silent = late.at.since(read.at);
    assert!(silent >= 10 * SECOND && silent <= 13 * SECOND, "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_is_active_in_the_hub_as_long_as_it_lasts_and_goes_ahead_of_the_value() {
    let mut plan = one_tag();
    plan.tags[0].alarm = Some(Box::new(AlarmPlan { limits: vec![(Level::High, 10.0)], ..AlarmPlan::plain() }));
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(5 * SECOND).await;
    plc.set(0, &[11]);
    let record = rig.event().await;
    assert_eq!(&*record.topic, "ironbridge/rig/alarm/device-0/tag-0");
    let body = String::from_utf8(record.body).expect("text");
    assert!(body.starts_with(r#"{"event":"high","state":"active","value":11,"#), "{body}");
    assert_eq!(rig.batch().await[0].value, Some(Value::Uint(11)));
    assert_eq!(rig.latest.alarms.active().len(), 1);
    plc.set(0, &[0]);
    let body = String::from_utf8(rig.event().await.body).expect("text");
    assert!(body.contains(r#""state":"cleared""#), "{body}");
    assert!(rig.latest.alarms.active().is_empty());
}
