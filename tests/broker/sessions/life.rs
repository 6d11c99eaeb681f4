//! How long things last: sessions, what they are owed, wills; by clocks that the tests move where it is about wall time.

use super::*;

use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::SessionsPlan;
use ironbridge::flow::clock::{Clock, FakeTime, Fix};
use ironbridge::model::time::Boot;

const NOON: i64 = 1_800_000_000_000;

/// A clock that is vouched for and stands at so many seconds after noon until it is moved.
fn at(seconds: u64) -> (Arc<FakeTime>, Clock) {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(1), NOON);
    clock.learn(Fix { at: clock.now(), unix_ms: NOON });
    time.advance(Duration::from_secs(seconds));
    (time, clock)
}

fn with(clock: Clock) -> Setup {
    Setup { clock, ..Setup::default() }
}

/// Connects with a session of so many seconds; was there one?
async fn for_seconds(broker: &Running, id: &str, seconds: u32) -> (Client5, bool) {
    let (client, connack) = Client5::open(broker.address, id, lasting(seconds)).await;
    (client, connack.session_present)
}

#[tokio::test]
async fn a_session_ends_a_second_after_its_client_if_that_is_what_it_asked_for_and_the_loss_is_counted() {
    let broker = Running::start().await;
    let (mut short, _) = for_seconds(&broker, "short", 1).await;
    short.subscribe(filter("q", 1), None).await;
    drop(short);
    let (mut changed, _) = back(&broker, "changed").await;
    changed.subscribe(filter("q", 1), None).await;
    let properties = v5::DisconnectProperties {
        session_expiry_interval: Some(1),
        reason_string: None,
        user_properties: Vec::new(),
        server_reference: None,
    };
    let reason_code = v5::DisconnectReasonCode::NormalDisconnection;
    changed.send(v5::Packet::Disconnect(v5::Disconnect { reason_code, properties: Some(properties) })).await;
    assert!(changed.try_next().await.is_none());
    absent(&broker, "long", "q", 1).await;
    assert!(broker.v5("sender").await.give(message("q", 1, "x")).await);
    let stats = broker.publisher.stats();
    until("two sessions end", || stats.sessions_expired.get() == 2).await;
    assert_eq!((stats.dropped_ended.get(), stats.subscriptions.get()), (2, 1));
    assert!(!back(&broker, "short").await.1 && !back(&broker, "changed").await.1 && back(&broker, "long").await.1);
    broker.stop().await;
}

#[tokio::test]
async fn the_time_without_a_connection_goes_on_while_the_gateway_is_off_and_never_by_a_clock_nobody_vouches_for() {
    for (off, there) in [(99, true), (101, false)] {
        let broker = Running::with(with(at(0).1)).await;
        let (mut client, _) = for_seconds(&broker, "c", 100).await;
        client.subscribe(filter("q", 1), None).await;
        client.leave().await;
        let dir = broker.stop().await;
        // Whatever such a clock says, nothing ends by it.
        let ahead = Clock::new(Arc::new(FakeTime::default()), Boot(2), NOON + 31_536_000_000);
        let unsure = Running::at(with(ahead), dir).await;
        let stats = unsure.publisher.stats();
        ticked(&unsure).await;
        assert_eq!(stats.sessions_expired.get(), 0, "nobody vouches for that clock");
        let broker = Running::at(with(at(off).1), unsure.stop().await).await;
        let stats = broker.publisher.stats();
        if there {
            ticked(&broker).await;
        } else {
            until("it ends", || stats.sessions_expired.get() == 1).await;
        }
        assert_eq!(for_seconds(&broker, "c", 100).await.1, there);
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_session_lasts_as_long_as_it_was_to_though_the_clock_was_a_day_ahead_when_its_client_left() {
    for (off, there) in [(99, true), (101, false)] {
        let (_, clock) = at(0);
        clock.learn(Fix { at: clock.now(), unix_ms: NOON + 86_400_000 });
        let broker = Running::with(with(clock.clone())).await;
        let (client, _) = for_seconds(&broker, "c", 100).await;
        client.leave().await;
        clock.learn(Fix { at: clock.now(), unix_ms: NOON });
        for_seconds(&broker, "other", 1).await.0.leave().await;
        until("a look at the time", || broker.publisher.stats().sessions_expired.get() == 1).await;
        let dir = broker.stop().await;
        let broker = Running::at(with(at(off).1), dir).await;
        let stats = broker.publisher.stats();
        if there {
            ticked(&broker).await;
        } else {
            until("it ends", || stats.sessions_expired.get() == 1).await;
        }
        assert_eq!(for_seconds(&broker, "c", 100).await.1, there);
        broker.stop().await;
    }
}

/// Waits until the broker has once looked at what time brings: only then it tells `$SYS`.
async fn ticked(broker: &Running) {
    let stats = broker.publisher.stats();
    until("a look at the time", || stats.retained.get() > 5).await;
}

fn expiring(text: &str, seconds: u32) -> v5::Publish {
    let message_expiry_interval = Some(seconds);
    let properties = v5::PublishProperties { message_expiry_interval, ..Default::default() };
    v5::Publish { properties: Some(properties), ..message("q", 1, text) }
}

#[tokio::test]
async fn what_has_expired_in_the_meantime_is_not_sent_and_the_rest_says_how_long_it_is_still_good_for() {
    for restart in [false, true] {
        let (time, clock) = at(0);
        let mut broker = Running::with(with(clock)).await;
        absent(&broker, "c", "q", 1).await;
        let mut sender = broker.v5("sender").await;
        for publish in [expiring("30 s", 30), message("q", 1, "for ever"), expiring("100 s", 100)] {
            assert!(sender.give(publish).await);
        }
        if restart {
            broker = Running::at(with(at(40).1), broker.stop().await).await;
        } else {
            time.advance(Duration::from_secs(40));
        }
        let (mut client, _) = back(&broker, "c").await;
        assert_eq!(client.take().await.payload, "for ever");
        let seen = client.take().await;
        let left = seen.properties.and_then(|properties| properties.message_expiry_interval);
        assert!(seen.payload == "100 s" && left.is_some_and(|left| (40..=60).contains(&left)), "{left:?}");
        client.ping().await;
        assert_eq!(broker.publisher.stats().dropped_expired.get(), 1);
        broker.stop().await;
    }
}

#[tokio::test]
async fn what_was_sent_at_qos_2_and_not_acknowledged_is_sent_again_though_it_has_expired() {
    let (time, clock) = at(0);
    let broker = Running::with(with(clock)).await;
    absent(&broker, "c", "q", 2).await;
    let mut sender = broker.v5("sender").await;
    for text in ["sent", "not sent"] {
        let qos = QoS5::ExactlyOnce;
        assert!(sender.give(v5::Publish { qos, ..expiring(text, 30) }).await);
    }
    let small = |wishes: &mut Wishes| {
        lasting(3600)(wishes);
        wishes.properties.receive_maximum = Some(1);
    };
    let (mut client, _) = Client5::open(broker.address, "c", small).await;
    let first = client.message().await;
    drop(client);
    time.advance(Duration::from_secs(40));
    let (mut client, _) = Client5::open(broker.address, "c", small).await;
    let again = client.take().await;
    assert_eq!((&again.payload[..], again.dup, again.pkid), (&b"sent"[..], true, first.pkid));
    client.ping().await;
    assert_eq!(broker.publisher.stats().dropped_expired.get(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn what_has_expired_makes_room_for_what_is_fresh_though_its_client_stays_away() {
    let (time, clock) = at(0);
    let sessions = SessionsPlan { session_max_size: 64 << 10, ..SessionsPlan::default() };
    let broker = Running::with(Setup { sessions, ..with(clock) }).await;
    absent(&broker, "c", "q", 1).await;
    let mut sender = broker.v5("sender").await;
    assert!(sender.give(message("q", 1, "for ever")).await);
    let body = "x".repeat(1000);
    for _ in 0..30 {
        assert!(sender.give(expiring(&body, 30)).await);
    }
    time.advance(Duration::from_secs(40));
    let stats = broker.publisher.stats();
    let mut kept = 0;
    while stats.dropped_full.get() == 0 {
        kept += 1;
        assert!(sender.give(expiring(&body, 300)).await);
    }
    assert!((20..40).contains(&kept), "{kept}");
    until("it has been looked through", || stats.dropped_expired.get() == 30).await;
    assert!(sender.give(message("q", 1, "fresh")).await);
    assert_eq!(stats.dropped_full.get(), 1);
    let (mut client, _) = back(&broker, "c").await;
    let seen = client.take_texts(kept + 1).await;
    assert_eq!((&*seen[0], &*seen[1], &*seen[kept]), ("for ever", &*body, "fresh"));
    client.ping().await;
    assert_eq!(stats.dropped_expired.get(), 30);
    broker.stop().await;
}

#[tokio::test]
async fn a_will_waits_for_its_delay_but_not_longer_than_the_session_and_a_kept_session_is_owed_it() {
    let broker = Running::start().await;
    absent(&broker, "watcher", "will/#", 1).await;
    for (name, delay, expiry) in [("delay", 1, 3600), ("end", 3600, 1), ("called back", 3600, 3600)] {
        let properties = v5::LastWillProperties {
            delay_interval: Some(delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let topic = format!("will/{name}");
        let will = v5::LastWill::new(topic, "gone", QoS5::AtLeastOnce, false, Some(properties));
        let (client, _) = Client5::open(broker.address, name, |wishes| {
            lasting(expiry)(wishes);
            wishes.will = Some(will);
        })
        .await;
        drop(client);
    }
    let (stats, publisher) = (broker.publisher.stats(), &broker.publisher);
    until("one session ends", || stats.sessions_expired.get() == 1).await;
    let (mut watcher, _) = back(&broker, "watcher").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(String::from_utf8(watcher.take().await.topic.to_vec()).expect("text"));
    }
    seen.sort();
    assert_eq!(seen, ["will/delay", "will/end"]);
    assert!(back(&broker, "called back").await.1 && back(&broker, "delay").await.1);
    publisher.publish("will/own".into(), "".into());
    assert_eq!(watcher.take().await.topic, "will/own", "and nothing before it");
    broker.stop().await;
}
