//! Presets: what a cloud publishes as its limits is kept on the wire.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::cloud;
use crate::owed;
use crate::rig;

use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{Preset, Transport, UplinkTlsPlan};
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::model::time::Boot;
use rumqttc::mqttbytes::Protocol;
use tokio::time::Instant;

use authority::{Authority, VALID};
use cloud::Cloud;
use owed::OwedList;
use rig::Rig;

const TOPIC: &str = "up/acme/pump-1/pressure";
/// 32 bytes in base64, as a device key is.
const KEY: &str = "bm90IGEgcmVhbCBrZXksIGp1c3QgMzIgYnl0ZXMgbG8=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_gets_at_most_a_hundred_publishes_a_second() {
    let cloud = Cloud::start().await;
    cloud.agrees(|agree| (agree.receive_max, agree.topic_alias_max) = (Some(100), Some(8)));
    let owed = OwedList::default();
    owed.samples(1..=330);
    let rig = Rig::start_with(&cloud, &owed, |parts| parts.plan.preset = Preset::Aws);
    cloud.until("the first", |cloud| !cloud.on(TOPIC).is_empty()).await;
    let begun = Instant::now();
    cloud.until("all acknowledged", |_| owed.acknowledged() == 330).await;
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?} for 330", begun.elapsed());
    assert_eq!(cloud.connects().len(), 1);
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_receive_maximum_the_preset_bounds_what_is_in_flight() {
    let cloud = Cloud::start().await;
    let owed = OwedList::default();
    owed.samples(1..=5);
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.plan.preset = Preset::HiveMq;
        parts.timing.stalled = Duration::from_secs(600);
    });
    cloud.until("the window is open", |_| owed.acknowledged() == 5).await;
    cloud.withhold_acks(true);
    owed.samples(6..=500);
    cloud.until("the window is full", |cloud| cloud.on(TOPIC).len() >= 5 + 8).await;
    cloud.withhold_acks(false);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 500).await;
    assert!(cloud.most_unacknowledged() <= 10, "{}", cloud.most_unacknowledged());
    owed.end();
    rig.finished().await;
}

/// An uplink to a hub of our own, with TLS, as Azure wants it.
async fn hub(owed: &OwedList, clock: Clock) -> (Authority, Cloud, Rig) {
    let authority = Authority::new();
    let cloud = Cloud::start_tls(authority.server("localhost", VALID)).await;
    let rig = Rig::start_with(&cloud, owed, |parts| {
        let key_file = authority.home.path().join("device.key");
        std::fs::write(&key_file, KEY.to_owned() + "\n").unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        parts.plan.preset = Preset::Azure;
        parts.plan.client_id = "gw-7".into();
        parts.plan.sas_key_file = Some(key_file);
        parts.plan.servers[0].host = "localhost".into();
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls =
            Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity: Some(authority.client("gw-7", VALID)) });
        parts.clock = clock;
    });
    (authority, cloud, rig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_gets_3_1_1_a_fresh_token_at_each_connect_and_everything_on_the_devices_topic() {
    let owed = OwedList::default();
    owed.samples(1..=20);
    let (_authority, cloud, rig) = hub(&owed, rig::clock()).await;
    cloud.until("all acknowledged", |_| owed.acknowledged() == 20).await;
    cloud.cut();
    owed.samples(21..=25);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 25).await;
    owed.end();
    rig.finished().await;
    let connects = cloud.connects();
    assert_eq!((connects.len(), cloud.too_new()), (2, 0));
    for connect in &connects {
        assert_eq!((connect.protocol, connect.client_id.as_str()), (Protocol::V4, "gw-7"));
        let login = connect.login.clone().unwrap();
        assert_eq!(login.username, "localhost/gw-7/?api-version=2021-04-12");
        let ends = rig::NOW_MS / 1000 + 24 * 3600;
        let signed = "SharedAccessSignature sr=localhost%2Fdevices%2Fgw-7&sig=";
        assert!(login.password.starts_with(signed), "{}", login.password);
        assert!((0..60).any(|late| login.password.ends_with(&format!("&se={}", ends + late))), "{}", login.password);
        let will = connect.last_will.clone().unwrap();
        assert!(will.topic.starts_with("devices/gw-7/messages/events/topic=up%2Fironbridge%2Fgw%2Fstatus&"));
        assert!(!will.retain);
    }
    let topic =
        "devices/gw-7/messages/events/topic=up%2Facme%2Fpump-1%2Fpressure&%24.ct=application%2Fjson&%24.ce=utf-8";
    assert_eq!(cloud.on(topic).len(), 25);
    assert!(cloud.log().iter().all(|it| it.topic.starts_with("devices/gw-7/messages/events/") && !it.retain));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_waits_for_the_time_because_its_token_needs_it() {
    let owed = OwedList::default();
    owed.samples(1..=5);
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
    let (_authority, cloud, mut rig) = hub(&owed, clock.clone()).await;
    cloud.until("it says so", |_| rig.stats.last_error().is_some()).await;
    assert!(cloud.connects().is_empty());
    clock.learn(Fix { at: clock.now(), unix_ms: rig::NOW_MS });
    cloud.until("all acknowledged", |_| owed.acknowledged() == 5).await;
    assert_eq!(rig.told(), ["uplink_disabled active", "uplink_disabled cleared"]);
    owed.end();
    rig.finished().await;
}
