//! The uplink against a broker that misbehaves: nothing lost, order kept, acknowledged on PUBACK only.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;

use std::time::Duration;

use ironbridge::model::number::{Class, Epoch, Seq};
use ironbridge::store::{Item, OwedGap};
use rumqttc::ConnectReturnCode;
use rumqttc::mqttbytes::QoS;

use cloud::Cloud;
use owed::OwedList;
use rig::Rig;

const TOPIC: &str = "up/acme/pump-1/pressure";
const STATUS: &str = "up/ironbridge/gw/status";

/// Sequence numbers in order of arrival.
fn seqs(cloud: &Cloud) -> Vec<u64> {
    cloud.on(TOPIC).iter().map(|arrived| arrived.json()["seq"].as_u64().unwrap()).collect()
}

/// All of 1..=last arrived, and each repetition starts over from something older: order holds within a connection.
fn assert_complete_and_in_order(cloud: &Cloud, last: u64) {
    let mut seen = std::collections::BTreeSet::new();
    let mut before = (0, 0);
    for arrived in cloud.on(TOPIC) {
        let seq = arrived.json()["seq"].as_u64().unwrap();
        assert!(arrived.connection > before.0 || seq > before.1, "{seq} after {} on one connection", before.1);
        before = (arrived.connection, seq);
        seen.insert(seq);
    }
    assert_eq!(
        seen.len() as u64,
        last,
        "missing {:?}",
        (1..=last).filter(|seq| !seen.contains(seq)).take(5).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owed_arrives_in_order_at_qos_1_with_status_and_will() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=5000);
    let gap = OwedGap {
        id: 3,
        stream: Class::Bulk,
        epoch: Epoch(5),
        first: Seq(1),
        last: Seq(2),
        from: None,
        to: None,
        reason: "evicted".into(),
    };
    owed.push([Item::Gap(gap)]);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 5001).await;
    owed.end();
    rig.finished().await;

    assert_eq!(seqs(&cloud), (1..=5000).collect::<Vec<_>>(), "each once, in order");
    assert!(cloud.on(TOPIC).iter().all(|arrived| arrived.qos == QoS::AtLeastOnce && !arrived.retain));
    assert_eq!(cloud.on("up/ironbridge/gw/gap")[0].json()["count"], 2);
    let connect = &cloud.connects()[0];
    assert!(connect.clean_session);
    assert_eq!(connect.last_will.as_ref().unwrap().topic, STATUS);
    assert_eq!(&connect.last_will.as_ref().unwrap().message[..], br#"{"state":"offline"}"#);
    let statuses = cloud.on(STATUS);
    assert_eq!(statuses.len(), 2, "{statuses:?}");
    assert!(statuses.iter().all(|status| status.retain && status.qos == QoS::AtLeastOnce && !status.will));
    assert_eq!(cloud.log()[0].json()["state"], "online", "the status comes first");
    assert_eq!(statuses[1].json()["state"], "offline");
    assert_eq!(statuses[1].json()["streams"]["telemetry"]["seq"], 5000);
    assert_eq!((cloud.disconnects(), owed.saved(), owed.wrong_acks()), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_again_and_again_loses_nothing_and_repeats_at_most_a_window_each_time() {
    let cloud = Cloud::start().await;
    cloud.cut_after(Some(1500));
    let owed = OwedList::default();
    owed.samples(1..=10_000);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 10_000).await;
    cloud.cut_after(None);
    let cuts = cloud.connects().len() - 1;
    owed.end();
    rig.finished().await;
    assert_complete_and_in_order(&cloud, 10_000);
    assert!(cuts >= 6, "{cuts} cuts");
    let repeated = seqs(&cloud).len() - 10_000;
    assert!(repeated <= cuts * 512, "{repeated} repeated in {cuts} cuts");
    assert!(cloud.on(STATUS).iter().filter(|status| status.will).count() >= cuts, "each cut speaks the will");
    assert_eq!(owed.wrong_acks(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withheld_acknowledgements_move_no_cursor_and_the_stalled_session_is_replaced() {
    let cloud = Cloud::start().await;
    cloud.withhold_acks(true);
    let owed = OwedList::default();
    owed.samples(1..=1000);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("a second session after the stall", |cloud| cloud.connects().len() >= 2).await;
    assert_eq!(owed.acknowledged(), 0);
    cloud.withhold_acks(false);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 1000).await;
    owed.end();
    rig.finished().await;
    assert_complete_and_in_order(&cloud, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_falls_into_a_black_hole_is_left_and_found_again() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=500);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("the first records", |_| owed.acknowledged() == 500).await;
    cloud.black_hole(true);
    owed.samples(501..=3000);
    cloud.until("the session is given up", |_| rig.stats.failures.get() >= 1).await;
    assert_eq!(owed.acknowledged(), 500);
    cloud.black_hole(false);
    cloud.cut();
    cloud.until("all acknowledged", |_| owed.acknowledged() == 3000).await;
    owed.end();
    rig.finished().await;
    assert_complete_and_in_order(&cloud, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_in_a_black_hole_is_noticed_by_its_pings() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.keep_alive = Duration::from_secs(1);
        parts.timing.stalled = Duration::from_secs(600);
    });
    cloud.until("connected", |_| rig.stats.connected.get() == 1).await;
    cloud.until("the status", |cloud| cloud.on(STATUS).len() == 1).await;
    cloud.black_hole(true);
    cloud.until("noticed", |_| rig.stats.failures.get() >= 1).await;
    assert_eq!(rig.stats.connected.get(), 0);
    rig.stop.begin();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_out_of_order_and_late_are_matched_to_their_records() {
    let cloud = Cloud::start().await;
    cloud.swap_acks();
    cloud.ack_slowly(Duration::from_millis(20));
    let owed = OwedList::default();
    owed.samples(1..=4000);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 4000).await;
    owed.end();
    rig.finished().await;
    assert_eq!(seqs(&cloud), (1..=4000).collect::<Vec<_>>());
    assert_eq!(owed.wrong_acks(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_session_sends_one_record_and_waits_before_it_opens_its_window() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    let rig = Rig::start(&cloud, &owed);
    cloud.until("the status", |cloud| cloud.on(STATUS).len() == 1 && rig.stats.in_flight.get() == 0).await;
    cloud.withhold_acks(true);
    owed.samples(1..=1000);
    cloud.until("a second session after the stall", |cloud| cloud.connects().len() >= 2).await;
    assert_eq!(seqs(&cloud), [1], "nothing more was sent all that time");
    cloud.withhold_acks(false);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 1000).await;
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_session_is_told_once_and_retried_until_it_is_accepted() {
    let cloud = Cloud::start().await;
    cloud.refuse_session(Some(ConnectReturnCode::NotAuthorized));
    let owed = OwedList::default();
    owed.samples(1..=10);
    let mut rig = Rig::start(&cloud, &owed);
    cloud.until("some attempts", |cloud| cloud.connects().len() >= 3).await;
    cloud.refuse_session(None);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 10).await;
    assert_eq!(rig.told(), ["uplink_refused active", "uplink_refused cleared"]);
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_acknowledgements_until_its_deadline_and_then_leaves_politely() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=2000);
    cloud.ack_slowly(Duration::from_millis(50));
    let rig = Rig::start(&cloud, &owed);
    cloud.until("connected", |_| rig.stats.connected.get() == 1).await;
    rig.stop.begin();
    owed.end(); // the store committed its last record
    let stats = std::sync::Arc::clone(&rig.stats);
    rig.finished().await;
    assert_eq!(owed.acknowledged(), 2000, "nothing of what the store held is left behind");
    assert_eq!(stats.backlog.get(), 0);

    let owed = OwedList::default();
    owed.samples(1..=2000);
    cloud.withhold_acks(true);
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.timing.stop_wait = Duration::from_millis(300);
        parts.timing.stalled = Duration::from_secs(600);
    });
    cloud.until("connected", |_| rig.stats.connected.get() == 1).await;
    let disconnects = cloud.disconnects();
    rig.stop.begin();
    rig.finished().await;
    assert_eq!(cloud.disconnects(), disconnects + 1, "DISCONNECT even when nothing was acknowledged");
    assert_eq!((owed.acknowledged(), owed.saved()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_interrupts_the_wait_for_a_reconnect() {
    let cloud = Cloud::start().await;
    cloud.refuse_connections(true);
    let owed = OwedList::default();
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.timing.retry_first = Duration::from_secs(900);
    });
    cloud.until("a failure", |_| rig.stats.failures.get() >= 1).await;
    rig.stop.begin();
    rig.finished().await;
    assert_eq!(owed.saved(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uplinks_do_not_wait_for_each_other() {
    let (good, bad) = (Cloud::start().await, Cloud::start().await);
    bad.black_hole(true);
    let (owed_good, owed_bad) = (OwedList::default(), OwedList::default());
    owed_good.samples(1..=3000);
    owed_bad.samples(1..=3000);
    let (rig_good, rig_bad) = (Rig::start(&good, &owed_good), Rig::start(&bad, &owed_bad));
    good.until("all acknowledged", |_| owed_good.acknowledged() == 3000).await;
    assert_eq!(owed_bad.acknowledged(), 0);
    owed_good.end();
    rig_good.finished().await;
    rig_bad.stop.begin();
    rig_bad.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_no_broker_would_take_is_counted_and_does_not_hold_up_the_others() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=3);
    owed.push([owed::sample_on("acme/+/pressure", 4)]);
    owed.samples(5..=8);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 8).await;
    assert_eq!(rig.stats.unsendable.get(), 1);
    assert_eq!(seqs(&cloud), [1, 2, 3, 5, 6, 7, 8]);
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_answers_nonsense_is_left_and_acknowledges_nothing_by_it() {
    let cases: [&[u8]; 9] = [
        &[0x40, 2, 0x03, 0xE7],                   // PUBACK of 999, which nobody sent
        &[0x40, 2, 0xFF, 0xFF],                   // PUBACK beyond every packet id
        &[0x40, 2, 0, 1, 0x40, 2, 0, 1],          // PUBACK of the status, twice
        &[0x50, 2, 0, 1, 0x70, 2, 0, 1],          // PUBREC and PUBCOMP, as if it had been QoS 2
        &[0x62, 2, 0, 9],                         // PUBREL of something never received
        &[0x20, 2, 0, 0],                         // a second CONNACK
        &[0xF0, 0],                               // packet type 15, reserved
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, 0], // PUBLISH of 256 MB
        &[0x40, 1, 0],                            // PUBACK cut short
    ];
    for case in cases {
        let cloud = Cloud::start().await;
        cloud.answer_with(Some(case));
        let owed = OwedList::default();
        owed.samples(1..=5);
        let rig = Rig::start_with(&cloud, &owed, |parts| parts.timing.stalled = Duration::from_millis(500));
        cloud.until("the session is left", |_| rig.stats.failures.get() >= 2).await;
        assert_eq!(owed.acknowledged(), 0, "{case:x?}");
        cloud.answer_with(None);
        cloud.until("all acknowledged", |_| owed.acknowledged() == 5).await;
        owed.end();
        rig.finished().await;
    }
}
