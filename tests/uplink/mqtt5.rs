//! The uplink over MQTT 5, and finding out whether the broker speaks it: what CONNACK says is kept to, what PUBACK and
//! DISCONNECT say is acted on. What both versions promise is tried with both.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;

use std::time::Duration;

use ironbridge::config::plan::{MqttVersion, UplinkPlan};
use rumqttc::mqttbytes::Protocol;

use cloud::{Cloud, Old};
use owed::{OwedList, sample_on};
use rig::Rig;

const TOPIC: &str = "up/acme/pump-1/pressure";
const STATUS: &str = "up/ironbridge/gw/status";
/// Longer than any test: a wait that happens is a test that fails.
const NEVER: Duration = Duration::from_secs(3600);
const BOTH: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

fn seqs(cloud: &Cloud) -> Vec<u64> {
    cloud.on(TOPIC).iter().map(|arrived| arrived.json()["seq"].as_u64().unwrap()).collect()
}

fn owing(samples: u64) -> OwedList {
    let owed = OwedList::default();
    owed.samples(1..=samples);
    owed
}

fn speaking(cloud: &Cloud, owed: &OwedList, version: MqttVersion) -> Rig {
    Rig::start_with(cloud, owed, |parts| {
        parts.plan.mqtt_version = version;
        parts.timing.refused_again = Duration::from_millis(100);
    })
}

async fn all_arrive(cloud: &Cloud, owed: &OwedList, samples: usize) {
    cloud.until("all acknowledged", |_| owed.acknowledged() == samples).await;
}

async fn ends(rig: Rig, owed: &OwedList) {
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_begin_clean_leave_nothing_behind_and_carry_the_same() {
    for version in BOTH {
        let cloud = Cloud::start().await;
        let owed = owing(2000);
        let rig = speaking(&cloud, &owed, version);
        all_arrive(&cloud, &owed, 2000).await;
        ends(rig, &owed).await;
        assert_eq!(seqs(&cloud), (1..=2000).collect::<Vec<_>>());
        let connect = &cloud.connects()[0];
        assert!(connect.clean_session);
        assert_eq!(connect.last_will.as_ref().unwrap().topic, STATUS);
        let expected = if version == MqttVersion::V5 { Protocol::V5 } else { Protocol::V4 };
        assert_eq!(connect.protocol, expected);
        let expiry = cloud.connect_properties()[0].as_ref().and_then(|properties| properties.session_expiry_interval);
        assert!(expiry.is_none_or(|seconds| seconds == 0), "the session ends with its connection");
        assert_eq!((cloud.disconnects(), cloud.connects().len(), owed.wrong_acks()), (1, 1, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_3_1_1_is_found_out_and_spoken_to_at_once() {
    for old in [Old::SaysSoIn5, Old::SaysSoIn4, Old::SaysSoAndStays, Old::Closes] {
        let cloud = Cloud::start().await;
        cloud.is_old(Some(old));
        let owed = owing(10);
        let mut rig = Rig::start_with(&cloud, &owed, |parts| parts.timing.retry_first = NEVER);
        all_arrive(&cloud, &owed, 10).await;
        assert_eq!((cloud.too_new(), cloud.connects().len()), (1, 1), "{old:?}");
        assert_eq!(rig.told(), Vec::<String>::new(), "nobody needs to come");
        assert_eq!(rig.stats.failures.get(), 0);
        ends(rig, &owed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_said_so_is_not_asked_again_one_that_just_closed_is_once() {
    for (old, asked) in [(Old::SaysSoIn5, 1), (Old::SaysSoIn4, 1), (Old::Closes, 2)] {
        let cloud = Cloud::start().await;
        cloud.is_old(Some(old));
        let owed = OwedList::default();
        let rig = Rig::start(&cloud, &owed);
        for session in 1..=4 {
            let samples = session * 10;
            owed.samples(samples as u64 - 9..=samples as u64);
            all_arrive(&cloud, &owed, samples).await;
            assert_eq!(cloud.connects().len(), session);
            cloud.cut();
        }
        assert_eq!(cloud.too_new(), asked, "{old:?}");
        ends(rig, &owed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_dies_at_connect_is_no_old_broker() {
    let cloud = Cloud::start().await;
    cloud.refuse_connections(true); // TCP is accepted and closed at once
    let owed = owing(10);
    let rig = Rig::start(&cloud, &owed);
    cloud.until("some attempts", |_| rig.stats.failures.get() >= 3).await;
    cloud.refuse_connections(false);
    all_arrive(&cloud, &owed, 10).await;
    cloud.cut();
    owed.samples(11..=20);
    all_arrive(&cloud, &owed, 20).await;
    let last = cloud.connects().pop().unwrap();
    assert_eq!(last.protocol, Protocol::V5, "back to MQTT 5 with the next session at the latest");
    ends(rig, &owed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_told_is_the_only_one_spoken() {
    let cloud = Cloud::start().await;
    cloud.is_old(Some(Old::SaysSoIn5));
    let owed = owing(10);
    let mut rig = speaking(&cloud, &owed, MqttVersion::V5);
    cloud.until("some attempts", |cloud| cloud.too_new() >= 3).await;
    assert!(cloud.connects().is_empty());
    assert_eq!(rig.told(), ["uplink_refused active"], "a person must look at mqtt_version");
    rig.stop.begin();
    rig.finished().await;
    let rig = speaking(&cloud, &owed, MqttVersion::V311);
    let before = cloud.too_new();
    all_arrive(&cloud, &owed, 10).await;
    assert_eq!(cloud.too_new(), before);
    ends(rig, &owed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_in_flight_than_the_broker_takes_also_out_of_order() {
    for receive_max in [1, 2, 3, 20, 100] {
        let cloud = Cloud::start().await; // it fails the connection when more come
        cloud.agrees(|agree| agree.receive_max = Some(receive_max));
        cloud.ack_slowly(Duration::from_millis(2));
        cloud.swap_acks();
        let owed = owing(300);
        let rig = speaking(&cloud, &owed, MqttVersion::V5);
        all_arrive(&cloud, &owed, 300).await;
        ends(rig, &owed).await;
        assert_eq!(seqs(&cloud), (1..=300).collect::<Vec<_>>(), "of {receive_max} at once");
        assert_eq!(cloud.connects().len(), 1, "nothing went wrong with {receive_max} at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_sent_once_is_sent_as_its_alias_in_this_session_only() {
    let cloud = Cloud::start().await; // it knows the aliases of one connection and fails it on a wrong one
    cloud.agrees(|agree| agree.topic_alias_max = Some(8));
    cloud.cut_after(Some(400));
    let owed = OwedList::default();
    let topics: Vec<String> = (0..12).map(|n| format!("acme/pump-{n}/pressure")).collect();
    let topic_of = |seq: u64| &topics[usize::try_from(seq % 12).unwrap()];
    owed.push((1..=2000).map(|seq| sample_on(topic_of(seq), seq)));
    let rig = speaking(&cloud, &owed, MqttVersion::V5);
    all_arrive(&cloud, &owed, 2000).await;
    cloud.cut_after(None);
    ends(rig, &owed).await;
    let log = cloud.log();
    let samples = || log.iter().filter(|arrived| arrived.topic.ends_with("/pressure"));
    for arrived in samples() {
        let seq = arrived.json()["seq"].as_u64().unwrap();
        assert_eq!(arrived.topic, format!("up/{}", topic_of(seq)), "the right topic");
    }
    let aliased = samples().filter(|arrived| arrived.topic_bytes == 0).count();
    assert!(aliased * 12 >= samples().count() * 7, "{aliased} of {}: 8 of 12 topics have one", samples().count());
    assert!(cloud.connects().len() >= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_the_broker_takes_does_not_hold_up_the_others() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| agree.max_packet_size = Some(300));
    let owed = owing(5);
    owed.push([sample_on(&format!("acme/{}", "x".repeat(300)), 6)]);
    owed.push((7..=20).map(|seq| sample_on("acme/pump-1/pressure", seq)));
    let rig = speaking(&cloud, &owed, MqttVersion::V5);
    cloud.until("the others", |cloud| seqs(cloud).len() >= 19).await;
    cloud.until("the one is declared", |_| owed.refused() == [6]).await;
    assert_eq!(cloud.connects().len(), 1, "the session lives");
    assert_eq!(seqs(&cloud).len(), 19);
    ends(rig, &owed).await;
}

/// As mosquitto does with `message_size_limit`: reason 0x95, which section 3.4.2.1 does not have, and rumqttc neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_calls_too_large_without_having_said_so_is_declared_and_the_others_arrive() {
    let cloud = Cloud::start().await;
    cloud.deny("up/acme/pump-1/large", 0x95);
    let owed = owing(5);
    owed.push([sample_on("acme/pump-1/large", 6)]);
    owed.push((7..=20).map(|seq| sample_on("acme/pump-1/pressure", seq)));
    let mut rig = speaking(&cloud, &owed, MqttVersion::V5);
    cloud.until("the one is declared", |_| owed.refused() == [6]).await;
    all_arrive(&cloud, &owed, 20).await;
    assert_eq!((cloud.denied(), owed.wrong_acks()), (3, 0));
    assert!(rig.told().contains(&"uplink_record_refused once".to_owned()));
    ends(rig, &owed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_keeps_no_retained_messages_is_sent_none() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| agree.retain_available = Some(0));
    let owed = owing(5);
    let rig = speaking(&cloud, &owed, MqttVersion::V5);
    all_arrive(&cloud, &owed, 5).await;
    cloud.until("the status", |cloud| cloud.on(STATUS).len() == 1).await;
    assert!(!cloud.on(STATUS)[0].retain);
    ends(rig, &owed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_qos_0_is_refused_with_a_reason_because_it_acknowledges_nothing() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| agree.max_qos = Some(0));
    let owed = owing(5);
    let mut rig = speaking(&cloud, &owed, MqttVersion::V5);
    cloud.until("two attempts", |cloud| cloud.connects().len() >= 2).await;
    assert_eq!(rig.told(), ["uplink_refused active"]);
    assert!(rig.stats.last_error().unwrap().contains("QoS 0"), "{:?}", rig.stats.last_error());
    assert!(cloud.log().iter().all(|arrived| arrived.will), "nothing was published");
    rig.stop.begin();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_wants_no_pings_gets_a_steady_session() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| agree.server_keep_alive = Some(0));
    let owed = owing(5);
    let rig = speaking(&cloud, &owed, MqttVersion::V5);
    all_arrive(&cloud, &owed, 5).await;
    for samples in 6..=25 {
        owed.samples(samples..=samples);
        all_arrive(&cloud, &owed, usize::try_from(samples).unwrap()).await;
    }
    assert_eq!((cloud.connects().len(), rig.stats.failures.get()), (1, 0));
    ends(rig, &owed).await;
}

/// What the broker says when it ends the session, in the short form that mosquitto sends and in the long one.
fn goodbyes(reason: u8) -> [Vec<u8>; 2] {
    [vec![0xE0, 1, reason], vec![0xE0, 2, reason, 0]]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_taken_over_by_another_client_is_told_once() {
    for goodbye in goodbyes(0x8E) {
        let cloud = Cloud::start().await;
        let owed = owing(5);
        let mut rig = speaking(&cloud, &owed, MqttVersion::Auto);
        for sessions in 1..=3 {
            all_arrive(&cloud, &owed, sessions * 5).await;
            cloud.tell(&goodbye);
            cloud.until("it is back", |cloud| cloud.connects().len() == sessions + 1).await;
            owed.samples(sessions as u64 * 5 + 1..=sessions as u64 * 5 + 5);
        }
        assert_eq!(rig.told(), ["uplink_taken_over active"]);
        ends(rig, &owed).await;
    }
}

/// As mosquitto does it to clients of MQTT 3.1.1, and its 2.0 to those of MQTT 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_cut_one_after_the_other_without_a_word_are_told_once() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let cloud = Cloud::start().await;
        let owed = owing(5);
        let mut rig = speaking(&cloud, &owed, version);
        for sessions in 1..=5 {
            all_arrive(&cloud, &owed, sessions * 5).await;
            let told: &[&str] = if sessions == 4 { &["uplink_unsteady active"] } else { &[] };
            assert_eq!(rig.told(), told, "once, after the third");
            cloud.cut();
            cloud.until("it is back", |cloud| cloud.connects().len() == sessions + 1).await;
            owed.samples(sessions as u64 * 5 + 1..=sessions as u64 * 5 + 5);
        }
        ends(rig, &owed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_the_broker_ended_the_session_is_known() {
    for (reason, word) in
        [(0x8B, "shutting down"), (0x89, "busy"), (0x97, "quota"), (0x95, "too large"), (0x9C, "another")]
    {
        for goodbye in goodbyes(reason) {
            let cloud = Cloud::start().await;
            let owed = owing(5);
            let rig = Rig::start_with(&cloud, &owed, |parts| parts.timing.retry_first = NEVER);
            all_arrive(&cloud, &owed, 5).await;
            cloud.tell(&goodbye);
            cloud.until("it ended", |_| rig.stats.failures.get() == 1).await;
            let why = rig.stats.last_error().unwrap();
            assert!(why.contains(word), "0x{reason:02X}: {why}");
            rig.stop.begin();
            rig.finished().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misunderstood_alias_is_the_last_one() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| agree.topic_alias_max = Some(8));
    let owed = owing(5);
    let rig = speaking(&cloud, &owed, MqttVersion::V5);
    all_arrive(&cloud, &owed, 5).await;
    cloud.tell(&[0xE0, 1, 0x94]);
    owed.samples(6..=50);
    all_arrive(&cloud, &owed, 50).await;
    let log = cloud.on(TOPIC);
    assert!(log.iter().any(|arrived| arrived.topic_bytes == 0));
    assert!(log.iter().filter(|arrived| arrived.connection > 1).all(|arrived| arrived.topic_bytes > 0));
    ends(rig, &owed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_will_not_take_now_stays_owed() {
    for reason in [0x97, 0x87, 0x83, 0x80] {
        let cloud = Cloud::start().await;
        cloud.deny(TOPIC, reason);
        let owed = owing(20);
        let rig = speaking(&cloud, &owed, MqttVersion::V5);
        cloud.until("it was tried", |cloud| cloud.denied() >= 1).await;
        assert_eq!(owed.acknowledged(), 0, "0x{reason:02X}");
        cloud.deny(TOPIC, 0);
        all_arrive(&cloud, &owed, 20).await;
        ends(rig, &owed).await;
    }
}

#[test]
fn the_default_is_to_find_out() {
    assert_eq!(UplinkPlan::plain("x").mqtt_version, MqttVersion::Auto);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_one_by_one_over_a_long_way_go_by_3_1_1_where_the_broker_takes_few_at_once_in_5() {
    for (version, spoken) in [(MqttVersion::Auto, Protocol::V4), (MqttVersion::V5, Protocol::V5)] {
        let cloud = Cloud::start().await;
        cloud.agrees(|agree| agree.receive_max = Some(20));
        cloud.greet_slowly(Duration::from_millis(300));
        let owed = owing(50);
        let mut rig = speaking(&cloud, &owed, version);
        all_arrive(&cloud, &owed, 50).await;
        assert_eq!(cloud.connects().pop().unwrap().protocol, spoken);
        assert!(cloud.log().iter().all(|arrived| !arrived.will), "the first session left in order");
        assert_eq!((rig.told(), rig.stats.failures.get()), (Vec::new(), 0));
        ends(rig, &owed).await;
    }
}
