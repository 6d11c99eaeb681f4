//! An uplink whose certificates are renewed or end, and whose servers come and go: nothing is lost, nothing stops.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::cloud;
use crate::owed;
use crate::rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{ServerPlan, Transport, UplinkTlsPlan};
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::model::time::Boot;
use ironbridge::uplink::UplinkState;
use rumqttc::mqttbytes::v4::ConnectReturnCode;

use authority::{Authority, VALID};
use cloud::Cloud;
use owed::OwedList;
use rig::Rig;

fn server(cloud: &Cloud) -> ServerPlan {
    let (host, port) = (cloud.address.ip().to_string(), cloud.address.port());
    ServerPlan { host, port, transport: Transport::Tcp }
}

/// Every number that arrived anywhere.
fn numbers(clouds: &[&Cloud]) -> BTreeSet<u64> {
    let arrived = clouds.iter().flat_map(|cloud| cloud.log()).filter(|arrived| !arrived.retain && !arrived.will);
    arrived.filter_map(|arrived| arrived.json()["seq"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_tried_in_their_order_and_the_first_one_again_without_loss() {
    let (first, second, third) = (Cloud::start().await, Cloud::start().await, Cloud::start().await);
    first.refuse_connections(true);
    second.refuse_session(Some(ConnectReturnCode::NotAuthorized));
    let owed = OwedList::default();
    owed.samples(1..=100);
    let rig = Rig::start_with(&first, &owed, |parts| {
        parts.plan.servers = [&first, &second, &third].map(server).to_vec();
        parts.timing.first_server_again = Duration::from_millis(500);
        parts.timing.stop_wait = Duration::from_millis(500);
    });
    third.until("the third has it all", |_| owed.acknowledged() == 100).await;
    assert!(!second.connects().is_empty(), "the second was asked before");
    assert!(first.log().is_empty());
    first.refuse_connections(false);
    owed.samples(101..=5000);
    first.until("back at the first", |first| !first.connects().is_empty()).await;
    owed.samples(5001..=6000);
    first.until("all acknowledged", |_| owed.acknowledged() == 6000).await;
    assert!(third.disconnects() >= 1, "the third was left in order");
    assert_eq!(numbers(&[&first, &third]), (1..=6000).collect());
    assert_eq!(owed.wrong_acks(), 0);
    rig.stop.begin();
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_that_comes_and_goes_is_waited_for_with_backoff() {
    let only = Cloud::start().await;
    only.refuse_connections(true);
    let owed = OwedList::default();
    owed.samples(1..=10);
    let rig = Rig::start(&only, &owed);
    only.until("some attempts", |_| rig.stats.failures.get() >= 3).await;
    only.refuse_connections(false);
    only.until("all acknowledged", |_| owed.acknowledged() == 10).await;
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_within_a_moment_and_nothing_is_lost() {
    let authority = Authority::new();
    let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
    let owed = OwedList::default();
    owed.samples(1..=500);
    let (certificate, key) = authority.client("gw", VALID);
    let mut rig = Rig::start_with(&cloud, &owed, |parts| {
        let identity = Some((certificate.clone(), key.clone()));
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls = Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity });
        parts.timing.stop_wait = Duration::from_millis(500);
    });
    cloud.until("connected", |_| rig.stats.sessions.get() == 1).await;
    for round in 1..=3 {
        // first half of the pair: told, and the session goes on
        let old_key = std::fs::read(&key).unwrap();
        authority.client("gw", VALID);
        let new_key = std::fs::read(&key).unwrap();
        std::fs::write(&key, old_key).unwrap();
        let mut told = Vec::new();
        loop {
            told.extend(rig.told());
            if told.iter().any(|told| told == "certificate_unusable active") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(rig.stats.connected.get(), 1, "half of a pair takes nothing down");
        owed.samples(500 * round + 1..=500 * (round + 1));
        std::fs::write(&key, new_key).unwrap();
        cloud.until("connected anew", |_| rig.stats.sessions.get() > round).await;
        let all = usize::try_from(500 * (round + 1)).unwrap();
        cloud.until("all acknowledged", |_| owed.acknowledged() == all).await;
        assert_eq!(rig.told(), ["certificate_unusable cleared"]);
    }
    assert_eq!(numbers(&[&cloud]), (1..=2000).collect());
    assert_eq!(rig.stats.failures.get(), 0, "each session was left in order");
    assert_eq!(cloud.log().iter().filter(|arrived| arrived.will).count(), 0, "and no last will was said");
    assert_eq!(owed.wrong_acks(), 0);
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_is_told_ahead_and_its_end_stops_no_session() {
    let authority = Authority::new();
    let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
    let owed = OwedList::default();
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(1), 0);
    // 2029-12-01, the certificate ends with the year
    clock.learn(Fix { at: clock.now(), unix_ms: 1_890_777_600_000 });
    let (certificate, key) = authority.client("ending", (2020, 2030));
    let mut rig = Rig::start_with(&cloud, &owed, |parts| {
        parts.clock = clock.clone();
        let identity = Some((certificate.clone(), key.clone()));
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls = Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity });
        parts.timing.stop_wait = Duration::from_millis(500);
    });
    cloud.until("connected", |_| rig.stats.sessions.get() == 1).await;
    assert_eq!(rig.told(), Vec::<String>::new(), "31 days");
    assert_eq!(rig.stats.certificate_ends.get(), 1_893_456_000);
    let next = async |rig: &mut Rig, expected: &str| loop {
        match rig.told().as_slice() {
            [] => tokio::time::sleep(Duration::from_millis(5)).await,
            told => return assert_eq!(told, [expected]),
        }
    };
    for _ in 0..3 {
        time.advance(Duration::from_secs(86_400));
        next(&mut rig, "certificate_expiring active").await;
    }
    time.advance(Duration::from_secs(40 * 86_400));
    next(&mut rig, "certificate_expiring active").await;
    owed.samples(1..=100);
    cloud.until("an ended certificate stops no session", |_| owed.acknowledged() == 100).await;
    // once the session is gone there is no way back until it is renewed; what is owed waits
    cloud.cut();
    cloud.until("disabled", |_| rig.stats.standing() == UplinkState::Disabled).await;
    owed.samples(101..=200);
    let renewed = authority.client("renewed", VALID);
    std::fs::copy(renewed.0, &certificate).unwrap();
    std::fs::copy(renewed.1, &key).unwrap();
    cloud.until("all acknowledged", |_| owed.acknowledged() == 200).await;
    let told = rig.told();
    assert!(told.contains(&"uplink_disabled cleared".to_owned()), "{told:?}");
    assert!(told.contains(&"certificate_expiring cleared".to_owned()), "{told:?}");
    owed.end();
    rig.finished().await;
}
