//! What uplinks get from the store, and in which order.

use crate::rig as support;

use std::ops::ControlFlow;
use std::time::Duration;

use ironbridge::model::number::{Class, Seq};
use ironbridge::model::value::Value;
use ironbridge::store::preview::{Previewed, preview};
use ironbridge::store::{Ack, Item, Opening};
use support::*;

#[tokio::test]
async fn every_record_comes_once_in_order_of_class_and_number_and_not_again_after_its_acknowledgement() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..3000).await;
    running.emit(Class::Bulk, 0..10).await;
    let number = running.event(Class::Alarm, "high").await;
    assert_eq!((number.stream, number.seq), (Class::Alarm, Seq(1)));
    running.settled(3011).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let items = drain(&mut reader, 3011).await;
    let said: Vec<_> = items.iter().filter_map(told).collect();
    assert_eq!(said[0].0, number);
    for (n, (number, value)) in said[1..3001].iter().enumerate() {
        assert_eq!((number.stream, number.seq, *value), (Class::Telemetry, Seq(n as u64 + 1), n as u64));
    }
    assert!(said[3001..].iter().all(|(number, _)| number.stream == Class::Bulk));
    assert_eq!(reader.backlog(), 0);
    drop(reader);
    running.close().await;

    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, [77]).await;
    let items = next(&mut reader, 10).await.expect("open");
    assert_eq!(told(&items[0]).map(|(number, value)| (number.seq, value)), Some((Seq(3001), 77)));
    assert_eq!(items.len(), 1);
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn a_rewind_goes_back_to_what_is_not_acknowledged_and_only_that() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..100).await;
    running.settled(100).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut items = Vec::new();
    while items.len() < 100 {
        items.extend(next(&mut reader, 30).await.expect("open"));
    }
    for item in items.iter().filter(|item| told(item).is_some_and(|(_, value)| value != 5 && value != 40)) {
        reader.acknowledge(ack(item));
    }
    assert_eq!(reader.backlog(), 2);
    reader.rewind();
    let again: Vec<_> = drain(&mut reader, 2).await.iter().filter_map(told).map(|(_, value)| value).collect();
    assert_eq!(again, [5, 40]);
    assert_eq!(reader.backlog(), 0);
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn two_uplinks_are_owed_the_same_records_and_neither_waits_for_the_other() {
    let home = tempfile::tempdir().expect("a directory");
    let mut with_two = opening(home.path());
    with_two.uplinks.push(route("plant", &[Class::Telemetry]));
    let running = start(with_two.clone());
    running.emit(Class::Telemetry, 0..50).await;
    running.emit(Class::Bulk, 0..50).await;
    running.settled(100).await;
    let mut plant = running.store.reader("plant").expect("routed");
    assert_eq!(drain(&mut plant, 50).await.len(), 50);
    plant.save().await;
    drop(plant);
    running.close().await;

    let running = start(with_two);
    let mut cloud = running.store.reader("cloud").expect("routed");
    assert_eq!((drain(&mut cloud, 100).await.len(), cloud.backlog()), (100, 0));
    assert_eq!(running.store.reader("plant").expect("routed").backlog(), 0);
    assert!(running.store.reader("nobody").is_none());
    drop(cloud);
    running.close().await;
}

#[tokio::test]
async fn a_reader_hands_out_everything_before_it_says_that_the_store_has_ended() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, 0..10_000).await;
    let Running { hub, store, .. } = running;
    drop(hub);
    let mut count = 0;
    while let Some(items) = next(&mut reader, 512).await {
        count += items.len();
    }
    assert_eq!(count, 10_000);
    store.ended().await;
    drop(reader);
    store.finish().await;
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.emit(Class::Telemetry, 0..9000).await;
    running.settled(9000).await;
    let mut reader = running.store.reader("cloud").expect("routed");
    let mut values = Vec::new();
    while values.len() < 9000 {
        let items = tokio::select! {
            biased;
            items = reader.next(100) => items.expect("open"),
            () = tokio::task::yield_now() => continue,
        };
        values.extend(items.iter().filter_map(told).map(|(_, value)| value));
    }
    assert!(values.into_iter().eq(0..9000));
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn what_did_not_get_into_the_store_takes_its_numbers_and_comes_as_a_gap_record_in_its_place() {
    let home = tempfile::tempdir().expect("a directory");
    let classes = opening(home.path()).tags.iter().map(|tag| tag.class).collect();
    let (hub, _latest, end) = ironbridge::flow::hub::hub(classes);
    let (tell, _told) = ironbridge::flow::notice::notices();
    let store = ironbridge::store::open(opening(home.path()));
    let clock = ironbridge::flow::clock::Clock::new(
        std::sync::Arc::new(ironbridge::flow::clock::FakeTime::default()),
        store.boot(),
        0,
    );
    let batch = |value| ironbridge::model::sample::Batch {
        device: ironbridge::model::tag::DeviceIx(0),
        samples: vec![sample(Class::Telemetry as u32, value, clock.now())],
    };
    hub.emit(batch(1)).await;
    for _ in 0..7 {
        end.spill.add(Class::Telemetry, clock.now());
    }
    let store = store.start(end, clock.clone(), tell);
    let mut reader = store.reader("cloud").expect("routed");
    assert_eq!(drain(&mut reader, 1).await.len(), 1);
    hub.emit(batch(2)).await;
    let items = drain(&mut reader, 8).await;
    let Item::Gap(gap) = &items[0] else { panic!("a gap comes first: {items:?}") };
    assert_eq!((gap.first, gap.last, gap.reason.as_str()), (Seq(2), Seq(8), "store"));
    assert_eq!(told(&items[1]).map(|(number, value)| (number.seq, value)), Some((Seq(9), 2)));
    assert_eq!(reader.backlog(), 0);
    drop((hub, reader));
    store.ended().await;
    store.finish().await;
}

#[tokio::test]
async fn whoever_waits_for_a_number_and_every_alarm_and_event_is_committed_at_once_whatever_the_interval() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(Opening { commit_interval: Duration::from_secs(3600), ..opening(home.path()) });
    running.emit(Class::Bulk, [1]).await;
    for class in [Class::Telemetry, Class::Alarm, Class::Event] {
        assert_eq!(running.event(class, "one that is waited for").await.seq, Seq(1));
    }
    let stored = |class| running.store.stats().stored[class].get();
    for class in [Class::Alarm, Class::Event] {
        running.emit(class, [2]).await;
        until("both are stored", || stored(class) == 2).await;
    }
    assert_eq!(stored(Class::Bulk), 0, "what nobody waits for has time");
    assert_eq!(running.event(Class::Bulk, "behind a sample").await.seq, Seq(2));
    running.close().await;
}

#[tokio::test]
async fn a_reader_may_live_in_a_task_of_its_own() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    let task = tokio::spawn(async move {
        let items = next(&mut reader, 10).await.expect("open");
        reader.save().await;
        items.len()
    });
    running.emit(Class::Bulk, [1]).await;
    assert_eq!(task.await.expect("no panic"), 1);
    running.close().await;
}

#[tokio::test]
async fn what_went_ahead_of_the_backlog_is_not_in_its_preview() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let reader = running.store.reader("cloud").expect("routed");
    running.emit(Class::Telemetry, 1..=100).await;
    running.settled(100).await;
    let (stream, epoch, _) = running.store.newest()[Class::Telemetry as usize];
    for (first, last) in [(1, 10), (41, 60), (100, 100)] {
        reader.acknowledge(Ack::Records { stream, epoch, first: Seq(first), last: Seq(last) });
    }
    reader.save().await;
    let mut seen = Vec::new();
    let each = &mut |sample: Previewed<'_>| {
        seen.extend(sample.value.cloned());
        ControlFlow::Continue(())
    };
    preview(home.path(), "cloud", &[Class::Telemetry], each).expect("read");
    assert_eq!(seen, (11..=40).chain(61..=99).map(Value::Uint).collect::<Vec<_>>());
    drop(reader);
    running.close().await;
}
