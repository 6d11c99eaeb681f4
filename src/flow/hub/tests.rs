//! How long a bus waits for the store, and what the tap holds.

use super::*;
use crate::model::alarm::Level;
use crate::model::quality::Quality;
use crate::model::tag::DeviceIx;
use crate::model::time::Boot;

fn batch(micros: i64) -> Batch {
    let at = Stamp { boot: Boot(1), micros };
    Batch { device: DeviceIx(0), samples: vec![Sample { tag: TagIx(0), value: None, quality: Quality::Good, at }] }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_take_costs_two_seconds_then_a_counted_gap_and_live_goes_on() {
    let (hub, latest, mut end) = hub(vec![Class::Bulk]);
    for n in 0..DURABLE_DEPTH {
        hub.emit(batch(i64::try_from(n).expect("small"))).await;
    }
    let waited = async |micros| {
        let before = tokio::time::Instant::now();
        hub.emit(batch(micros)).await;
        before.elapsed()
    };
    assert_eq!(waited(1000).await, DURABLE_WAIT_MAX);
    assert_eq!(waited(1500).await, Duration::ZERO, "a lane that does not move is not waited for again");
    assert!(end.records.recv().await.is_some());
    assert_eq!(waited(1600).await, Duration::ZERO, "there is room");
    end.full.store(true, Ordering::Relaxed);
    assert_eq!(waited(2000).await, Duration::ZERO, "a store without room is not waited for");
    let lost = end.spill.take()[Class::Bulk].expect("counted");
    assert_eq!((lost.count, lost.first.micros, lost.last.micros), (3, 1000, 2000));
    end.full.store(false, Ordering::Relaxed);
    assert_eq!(waited(3000).await, DURABLE_WAIT_MAX, "it moved: worth waiting for");
    assert_eq!(latest.take().await.expect("live").samples[0].at.micros, 3000);
}

#[tokio::test]
async fn what_waits_in_the_tap_stays_when_it_is_for_other_tags_and_nothing_comes_without_one() {
    let (hub, _latest, _end) = hub(vec![Class::Bulk]);
    let tap = Arc::<Latest>::default();
    hub.tap(&[TagIx(0)], &tap);
    hub.show(&batch(1).samples);
    hub.tap(&[TagIx(0), TagIx(7)], &tap);
    assert_eq!(tap.take().await.expect("it waits").samples[0].at.micros, 1);
    hub.untap();
    hub.show(&batch(2).samples);
    tap.close();
    assert!(tap.take().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_alarm_waits_for_a_lane_that_frees_after_a_moment_although_telemetry_waited_in_vain() {
    const MOMENT: Duration = Duration::from_millis(500);
    let (hub, latest, mut end) = hub(vec![Class::Telemetry]);
    for n in 0..=DURABLE_DEPTH {
        hub.emit(batch(i64::try_from(n).expect("small"))).await;
    }
    assert!(end.spill.take()[Class::Telemetry].is_some(), "a bus has waited in vain");
    let alarm = async |before| {
        let at = Stamp { boot: Boot(1), micros: 7 };
        let record = EventRecord { topic: "t".into(), body: Vec::new(), class: Class::Alarm, at, committed: None };
        let began = tokio::time::Instant::now();
        let fate = hub.emit_alarm((TagIx(0), Level::High), Condition::Active, record, before).await;
        (fate, began.elapsed())
    };
    let frees = async {
        tokio::time::sleep(MOMENT).await;
        end.records.recv().await
    };
    let (told, freed) = tokio::join!(alarm(Fate::Kept), frees);
    assert!(freed.is_some());
    assert_eq!(told, (Fate::Kept, MOMENT));
    assert!(end.spill.take()[Class::Alarm].is_none());
    assert_eq!(alarm(Fate::Kept).await, (Fate::Spilled, DURABLE_WAIT_MAX), "not for ever");
    assert_eq!(alarm(Fate::Spilled).await, (Fate::Spilled, Duration::ZERO), "nor twice in one poll");
    end.full.store(true, Ordering::Relaxed);
    assert_eq!(alarm(Fate::Kept).await, (Fate::Spilled, Duration::ZERO), "nor for a store that has failed");
    assert_eq!(latest.alarms.active(), [(TagIx(0), Level::High)], "live it is shown all the same");
}
