//! The primary host: births wait for it, and while it is away nothing counts as received.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::births::{two_devices, uplink};
use crate::commands::rebirth;
use crate::gateway::{Home, Plc};
use crate::host::{Did, Host};
use crate::law::lawful;
use crate::outage::{Truth, count_up};

/// With a primary host, whose proofs count at once.
const PRIMARY: &str = "primary_host = \"scada\"\nhost_timeout = \"0s\"";

// covers: tck-id-message-flow-edge-node-birth-publish-phid-wait, tck-id-message-flow-edge-node-birth-publish-phid-wait-id
// covers: tck-id-message-flow-edge-node-birth-publish-phid-wait-online
// covers: tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp
// covers: tck-id-operational-behavior-edge-node-birth-sequence-wait
#[tokio::test]
async fn nothing_is_born_before_the_primary_host_says_that_it_is_there() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.state("other", true, 9_000);
    host.state("scada", false, 5_000);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, PRIMARY)));
    let daemon = home.run();
    let subscribed = |host: &Host| host.log().iter().any(|entry| matches!(entry.did, Did::Subscribe(_)));
    host.until("it has subscribed", subscribed).await;
    host.state("scada", true, 4_999); // older than what it said last
    host.keep("spBv1.0/STATE/scada", b"ONLINE");
    let polled = plc.requests();
    crate::gateway::until("twenty polls", || plc.requests() > polled + 20).await;
    let born = host.messages().iter().filter(|it| it.kind.ends_with("BIRTH") || it.kind.ends_with("DATA")).count();
    assert_eq!(born, 0);
    host.state("scada", true, 5_000);
    host.count("DDATA", 2).await;
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

// covers: tck-id-message-flow-edge-node-birth-publish-phid-offline
// covers: tck-id-operational-behavior-edge-node-termination-host-offline
// covers: tck-id-operational-behavior-edge-node-termination-host-offline-timestamp
#[tokio::test]
async fn a_host_that_goes_away_is_left_with_a_death_and_misses_nothing_when_it_is_back() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.state("scada", true, 5_000);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, PRIMARY)));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    host.count("DDATA", 3).await;
    host.state("scada", false, 4_999); // of a session before this one
    host.state("other", false, 9_999);
    let seen = host.of("DDATA").len();
    host.count("DDATA", seen + 3).await;
    assert_eq!(host.of("NDEATH").len(), 0);
    host.state("scada", false, 5_000);
    host.count("NDEATH", 1).await;
    let data = host.of("DDATA").len();
    let polled = plc.requests();
    crate::gateway::until("twenty polls", || plc.requests() > polled + 20).await;
    assert_eq!(host.of("DDATA").len(), data, "nobody is there to hear it");
    host.state("scada", true, 6_000);
    host.count("NBIRTH", 2).await;
    counting.abort();
    truth.is_at(&host, &["meter", "plc"]).await;
    drop(daemon);
}

// covers: tck-id-operational-behavior-edge-node-termination-host-offline-reconnect
// covers: tck-id-operational-behavior-primary-application-state-with-multiple-servers-state-subs
// covers: tck-id-operational-behavior-primary-application-state-with-multiple-servers-single-server
// covers: tck-id-operational-behavior-primary-application-state-with-multiple-servers-walk
#[tokio::test]
async fn the_next_server_is_tried_when_the_primary_host_leaves_this_one() {
    let (plc, first, second) = (Plc::start().await, Host::start().await, Host::start().await);
    first.state("scada", true, 5_000);
    let urls = format!("urls = [\"mqtt://{}\", \"mqtt://{}\"]", first.address, second.address);
    let one = format!("url = \"mqtt://{}\"", first.address);
    let home = Home::new(&(two_devices(&plc) + &uplink(&first, PRIMARY).replace(&one, &urls)));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    first.count("DDATA", 3).await;
    second.state("scada", true, 4_000); // its session there is the older one
    first.state("scada", false, 5_000);
    second.count("DDATA", 3).await;
    let left = first.log().iter().position(|entry| matches!(entry.did, Did::Gone)).expect("it has left the first");
    let came = second.log()[0].at;
    assert!(first.log()[left].at <= came, "one server at a time");
    assert!(first.of("NDEATH").len() == 1, "with a death");
    let asked = |entry: &crate::host::Entry| matches!(&entry.did, Did::Subscribe(filters) if filters.iter().any(|(filter, _)| filter == "spBv1.0/STATE/scada"));
    assert!([&first, &second].iter().all(|host| host.log().iter().any(asked)), "the state is asked for on each server");
    counting.abort();
    truth.is_at_either(&[&first, &second], &["meter", "plc"]).await;
    drop(daemon);
}

// covers: tck-id-operational-behavior-primary-application-state-with-multiple-servers-walk
#[tokio::test]
async fn a_server_that_keeps_that_the_host_is_offline_is_left_for_the_next_without_a_wait() {
    let (plc, first, second) = (Plc::start().await, Host::start().await, Host::start().await);
    first.state("scada", false, 5_000);
    second.state("scada", true, 4_000);
    let urls = format!("urls = [\"mqtt://{}\", \"mqtt://{}\"]", first.address, second.address);
    let one = format!("url = \"mqtt://{}\"", first.address);
    let home = Home::new(&(two_devices(&plc) + &uplink(&first, PRIMARY).replace(&one, &urls)));
    let daemon = home.run();
    second.count("DDATA", 2).await;
    let waited = second.log()[0].at - first.log()[0].at;
    assert!(waited < std::time::Duration::from_secs(15), "{waited:?} at a server that says where the host is not");
    assert_eq!((first.messages().len(), first.connects().len()), (0, 1));
    lawful(&second, &["meter", "plc"]);
    drop(daemon);
}

// covers: tck-id-operational-behavior-edge-node-termination-host-offline-timestamp
#[tokio::test]
async fn that_the_host_went_is_not_drowned_by_states_that_are_older() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.state("scada", true, 5_000);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, PRIMARY)));
    let daemon = home.run();
    host.count("DDATA", 2).await;
    host.keep("spBv1.0/STATE/scada", br#"{"online":false,"timestamp":6000}"#);
    for _ in 0..500 {
        host.say("spBv1.0/STATE/scada", br#"{"online":true,"timestamp":5000}"#);
    }
    host.count("NDEATH", 1).await;
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_host_that_comes_and_goes_gets_one_birth_each_time_and_every_value() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, PRIMARY)));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    for (round, since) in (1..=3).zip([10_000, 20_000, 30_000]) {
        host.state("scada", true, since);
        host.count("NBIRTH", round).await;
        let seen = host.of("DDATA").len();
        host.count("DDATA", seen + 2).await;
        host.state("scada", false, since);
        host.count("NDEATH", round).await;
    }
    host.state("scada", true, 40_000);
    host.count("NBIRTH", 4).await;
    counting.abort();
    truth.is_at(&host, &["meter", "plc"]).await;
    assert_eq!(host.of("NBIRTH").len(), 4);
    drop(daemon);
}

/// Its broker may have died with its last will, and kept what it said before.
#[tokio::test]
async fn a_host_that_begins_anew_without_a_word_gets_births_when_it_asks_and_what_had_not_counted() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.state("scada", true, 5_000);
    let patient = "primary_host = \"scada\"\nhost_timeout = \"60s\"";
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, patient)));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    host.count("DDATA", 8).await;
    truth.is_at(&host, &["meter", "plc"]).await;
    let before = crate::outage::levels_at(&host, &["meter", "plc"]);
    host.state("scada", true, 6_000);
    host.command(None, vec![rebirth()]);
    host.count("NBIRTH", 2).await;
    counting.abort();
    let twice = |host: &Host| {
        let told = crate::outage::levels_at(host, &["meter", "plc"]);
        before.iter().all(|level| told.iter().filter(|told| *told == level).count() > 1)
    };
    host.until("all of it again", twice).await;
    assert_eq!((host.of("NBIRTH").len(), host.of("NDEATH").len(), host.connects().len()), (2, 0, 1));
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}

#[tokio::test]
async fn a_state_that_is_renewed_brings_no_births_and_keeps_nothing_from_counting() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.state("scada", true, 5_000);
    let patient = "primary_host = \"scada\"\nhost_timeout = \"500ms\"";
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, patient)));
    let daemon = home.run();
    let counting = count_up(&plc);
    host.count("DDATA", 4).await;
    let early = host.of("DDATA").len();
    for renewed in 1..=15 {
        host.state("scada", true, 5_000 + renewed); // more often than host_timeout
        let seen = host.of("DDATA").len();
        host.count("DDATA", seen + 2).await;
    }
    assert_eq!((host.of("NBIRTH").len(), host.of("NDEATH").len(), host.connects().len()), (1, 0, 1));
    host.cut();
    host.count("NBIRTH", 2).await;
    host.until("what had not counted", |host| {
        let values = lawful(host, &["meter", "plc"]);
        values[&("plc".into(), "level".into())].iter().any(|told| told.historical)
    })
    .await;
    counting.abort();
    let (seen, messages) = (host.of("DDATA").len(), host.of("DDATA"));
    host.count("DDATA", seen + 3).await;
    let counted: Vec<_> = messages[..early].iter().flat_map(|it| &it.payload.metrics).collect();
    let again = messages.iter().filter(|it| it.connection > 1).flat_map(|it| &it.payload.metrics);
    let again: Vec<_> = again.map(|metric| (metric.alias, metric.timestamp)).collect();
    assert!(counted.iter().all(|metric| !again.contains(&(metric.alias, metric.timestamp))), "it had counted");
    drop(daemon);
}
