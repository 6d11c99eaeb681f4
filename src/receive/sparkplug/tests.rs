//! What a host makes of edge nodes that behave and of some that do not.

use super::*;
use crate::payload::sparkplug::{BD_SEQ, Metric, Payload, Property, QUALITY, Value};

fn metric<'a>(name: Option<&'a str>, alias: Option<u64>, value: Value<'a>) -> Metric<'a> {
    Metric { name, alias, timestamp_ms: Some(5), datatype: None, historical: false, value, properties: &[] }
}

fn payload(seq: Option<u8>, metrics: &[Metric<'_>]) -> Vec<u8> {
    let mut payload = Payload::new(7, seq);
    for metric in metrics {
        payload.push(metric);
    }
    payload.encode()
}

fn bd_seq(number: u64) -> Metric<'static> {
    Metric { datatype: Some(DataType::Int64), ..metric(Some(BD_SEQ), None, Value::Long(number)) }
}

fn births(host: &mut Host, number: u64, now: Instant) {
    let level = Metric { datatype: Some(DataType::Int32), ..metric(Some("level"), Some(9), Value::Int(1)) };
    assert_eq!(host.take("spBv1.0/g/NBIRTH/n", &payload(Some(0), &[bd_seq(number)]), now).ask, None);
    assert_eq!(host.take("spBv1.0/g/DBIRTH/n/d", &payload(Some(1), &[level]), now).ask, None);
}

fn data(seq: u8, alias: u64) -> Vec<u8> {
    payload(Some(seq), &[metric(None, Some(alias), Value::Int(u32::MAX))])
}

#[tokio::test(start_paused = true)]
async fn data_are_read_by_the_birth_before_them_and_say_where_they_come_from() {
    let (mut host, now) = (Host::default(), Instant::now());
    births(&mut host, 3, now);
    let properties = [(QUALITY, Property::Int(STALE))];
    let late = Metric { historical: true, properties: &properties, ..metric(None, Some(9), Value::Null) };
    let outcome = host.take("spBv1.0/g/DDATA/n/d", &payload(Some(2), &[late]), now);
    let text = Json::Object(outcome.lines[0].body.clone()).to_string();
    assert_eq!(outcome.lines[0].topic, "g/n/d/level");
    assert_eq!(
        text,
        r#"{"cause":"stale","historical":true,"quality":"bad","time":"1970-01-01T00:00:00.005Z","value":null}"#
    );
    let outcome = host.take("spBv1.0/g/DDATA/n/d", &data(3, 9), now);
    assert_eq!((&outcome.lines[0].body["value"], outcome.ask), (&Json::from(-1), None));
    let sum = host.account().sum();
    assert_eq!((sum.messages, sum.values, sum.historical, sum.missing), (4, 4, 1, 0));
    assert!(host.account().is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_the_count_is_what_is_missing_and_births_are_asked_for_once_in_five_seconds() {
    let (mut host, now) = (Host::default(), Instant::now());
    births(&mut host, 3, now);
    let node = Node::new("g", "n").ok();
    assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(5, 9), now).ask, node);
    assert_eq!(host.account().sum().missing, 3);
    let outcome = host.take("spBv1.0/g/DDATA/n/d", &data(8, 9), now);
    assert_eq!((outcome.lines.len(), outcome.ask), (1, None), "asked already, and still understood");
    assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(9, 77), now + ASK_EVERY).ask, node, "an unknown alias");
    let sum = host.account().sum();
    assert_eq!((sum.missing, sum.unknown, sum.asked), (5, 1, 2));
    assert!(!host.account().is_complete());
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_round_and_who_comes_late_asks_for_births() {
    let (mut host, now) = (Host::default(), Instant::now());
    let outcome = host.take("spBv1.0/g/DDATA/n/d", &data(200, 9), now);
    assert_eq!((outcome.lines.len(), outcome.ask), (0, Node::new("g", "n").ok()));
    births(&mut host, 3, now);
    for seq in (2..=255).chain(0..=3) {
        assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(seq, 9), now).lines.len(), 1, "{seq}");
    }
    assert_eq!((host.account().sum().missing, host.account().sum().unknown), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_will_of_an_older_session_ends_nothing_and_the_dead_say_nothing() {
    let (mut host, now) = (Host::default(), Instant::now());
    births(&mut host, 4, now);
    host.take("spBv1.0/g/NDEATH/n", &payload(None, &[bd_seq(3)]), now);
    assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(2, 9), now).lines.len(), 1);
    host.take("spBv1.0/g/DDEATH/n/d", &payload(Some(3), &[]), now);
    assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(4, 9), now).lines.len(), 0, "its device is dead");
    host.take("spBv1.0/g/NDEATH/n", &payload(None, &[bd_seq(4)]), now);
    assert_eq!(host.take("spBv1.0/g/NDATA/n", &data(5, 9), now).lines.len(), 0);
    let sum = host.account().sum();
    assert_eq!((sum.deaths, sum.unknown, sum.missing), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_counted_and_hurts_nobody() {
    let (mut host, now) = (Host::default(), Instant::now());
    births(&mut host, 4, now);
    for payload in [&b"{}"[..], &[0xFF; 90], &[0x18, 0x80, 0x02]] {
        host.take("spBv1.0/g/DDATA/n/d", payload, now);
    }
    host.take("machines/7", b"1", now);
    host.take("spBv1.0/g/DCMD/n/d", b"1", now);
    assert_eq!((host.account().broken.values().sum::<u64>(), host.account().other), (3, 1));
    assert_eq!(host.take("spBv1.0/g/DDATA/n/d", &data(2, 9), now).lines.len(), 1);
}
