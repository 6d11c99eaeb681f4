//! What all clients share and one may not have all of: places for sessions, and what subscriptions take in memory and on disk.

use crate::support;

use rumqttc::v5::mqttbytes::{QoS, v5};
use rusqlite::{Connection, params};
use support::*;

use ironbridge::config::plan::{AclPlan, SessionsPlan};
use ironbridge::flow::notice::{Notice, Phase};

/// In a client's share, and what they share, there is room for some such filters.
const LONG: usize = 1000;

fn setup() -> Setup {
    let read = vec!["#".to_owned()];
    let rule = AclPlan { user: "*".to_owned(), read, write: Vec::new(), operate: Vec::new() };
    Setup { users: vec!["ann", "ben"], acl: vec![rule], ..Setup::default() }
}

/// With a session of an hour.
async fn comes(broker: &Running, user: &str, id: &str) -> (Client5, v5::ConnAck) {
    Client5::open(broker.address, id, |wishes| {
        wishes.login = Some(v5::Login { username: user.to_owned(), password: user.to_owned() });
        wishes.connect.clean_start = false;
        wishes.properties.session_expiry_interval = Some(3600);
    })
    .await
}

/// Subscribes to filters, some at a time, as long as none is refused; says how many were not.
async fn takes(client: &mut Client5, filters: impl Iterator<Item = String>) -> usize {
    let (mut filters, mut taken) = (filters.map(|path| v5::Filter::new(path, QoS::AtMostOnce)), 0);
    loop {
        let some: Vec<v5::Filter> = filters.by_ref().take(200).collect();
        let asked = some.len();
        client.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 1, filters: some, properties: None })).await;
        let v5::Packet::SubAck(ack) = client.next().await else { panic!("a SUBACK") };
        let granted = |code: &&v5::SubscribeReasonCode| matches!(code, v5::SubscribeReasonCode::Success(_));
        let granted = ack.return_codes.iter().filter(granted).count();
        taken += granted;
        if granted < asked {
            assert!(ack.return_codes.contains(&v5::SubscribeReasonCode::QuotaExceeded), "{:?}", ack.return_codes);
            return taken;
        }
    }
}

async fn told(broker: &mut Running) -> Notice {
    tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice")
}

#[tokio::test]
async fn one_user_leaves_places_for_sessions_to_others_and_that_there_are_no_more_is_told_until_there_are() {
    let sessions = SessionsPlan { max_sessions: 8, ..SessionsPlan::default() };
    let mut broker = Running::with(Setup { sessions, ..setup() }).await;
    for n in 0..7 {
        assert_eq!(comes(&broker, "ann", &format!("ann/{n}")).await.1.code, v5::ConnectReturnCode::Success);
    }
    let refused = comes(&broker, "ann", "ann/7").await.1;
    assert_eq!(refused.code, v5::ConnectReturnCode::QuotaExceeded);
    let notice = told(&mut broker).await;
    assert_eq!(
        (notice.event, notice.phase, notice.subject.as_str()),
        ("broker_no_more_sessions", Phase::Active, "sessions")
    );
    assert!(notice.detail.contains("ann has the most"), "{}", notice.detail);
    assert!(comes(&broker, "ann", "ann/0").await.1.session_present, "whoever has one goes on with it");
    assert_eq!(comes(&broker, "ben", "ben").await.1.code, v5::ConnectReturnCode::Success);
    assert_eq!(comes(&broker, "ben", "ben/2").await.1.code, v5::ConnectReturnCode::QuotaExceeded);
    for n in 0..3 {
        let _ends = Client5::open(broker.address, &format!("ann/{n}"), |wishes| {
            wishes.login = Some(v5::Login { username: "ann".to_owned(), password: "ann".to_owned() });
            wishes.connect.clean_start = true;
        })
        .await;
    }
    let notice = told(&mut broker).await;
    assert_eq!((notice.event, notice.phase), ("broker_no_more_sessions", Phase::Cleared));
    broker.stop().await;
}

#[tokio::test]
async fn long_filters_are_bounded_by_their_bytes_of_one_client_and_of_all_and_another_user_finds_room() {
    let mut broker = Running::with(setup()).await;
    let (mut all, mut clients) = (0, Vec::new());
    for n in 0..4 {
        let (mut client, _) = comes(&broker, "ann", &format!("ann/{n}")).await;
        let taken = takes(&mut client, (0..).map(|i| format!("{i:06}{}", "x".repeat(LONG - 6)))).await;
        assert!(taken < 16_384 && taken * LONG < 48 << 20, "{taken}");
        all += taken;
        clients.push(client);
    }
    assert!(all > 10_000 && all * LONG < 48 << 20, "{all}");
    let notice = told(&mut broker).await;
    assert_eq!((notice.event, notice.phase), ("broker_no_more_subscriptions", Phase::Active));
    let (mut ben, _) = comes(&broker, "ben", "ben").await;
    let granted = v5::SubscribeReasonCode::Success(QoS::AtLeastOnce);
    assert_eq!(ben.subscribe(filter("plant/#", 1), None).await, granted);
    broker.notices.close();
    broker.stop().await;
}

#[tokio::test]
async fn a_shared_subscription_has_a_short_group() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    for (group, expected) in [
        (100, v5::SubscribeReasonCode::Success(QoS::AtMostOnce)),
        (65_000, v5::SubscribeReasonCode::TopicFilterInvalid),
    ] {
        let path = format!("$share/{}/x", "g".repeat(group));
        assert_eq!(client.subscribe(filter(&path, 0), None).await, expected, "{group}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_that_an_earlier_version_took_beyond_the_bounds_are_left_out_and_counted_and_the_small_ones_stay()
{
    let broker = Running::with(setup()).await;
    for id in ["big", "small", "long"] {
        let (mut client, _) = comes(&broker, "ann", id).await;
        client.subscribe(filter("plant/#", 1), None).await;
    }
    let dir = broker.stop().await;
    let file = Connection::open(dir.path().join("broker.db")).expect("opened");
    let id =
        |client: &str| file.query_row("SELECT id FROM session WHERE client = ?", [client], |row| row.get::<_, i64>(0));
    let (big, long) = (id("big").expect("there"), id("long").expect("there"));
    file.execute_batch("BEGIN").expect("begun");
    let mut put = file.prepare("INSERT INTO subscription VALUES (?, ?, 1, NULL)").expect("prepared");
    for n in 0..100_000 {
        put.execute(params![big, format!("{n:06}{}", "x".repeat(474))]).expect("put");
    }
    for n in 0..20 {
        put.execute(params![long, format!("$share/{}/{n}", "g".repeat(65_000))]).expect("put");
    }
    file.execute_batch("COMMIT").expect("committed");
    drop(put);
    drop(file);
    let mut broker = Running::at(setup(), dir).await;
    let stats = broker.publisher.stats();
    until("they are counted", || stats.subscriptions.get() > 0).await;
    let (left_out, there) = (stats.subscriptions_left_out.get(), stats.subscriptions.get());
    assert_eq!(left_out + there, 100_023);
    assert!(left_out > 50_000 && there > 20_000, "{left_out} and {there}");
    let notice = told(&mut broker).await;
    assert_eq!((notice.event, notice.phase), ("broker_subscriptions_left_out", Phase::Once));
    assert!(notice.detail.starts_with(&format!("{left_out} subscriptions")), "{}", notice.detail);
    // Their clients get what they want by those that are left.
    broker.publisher.publish("plant/x".into(), "1".into());
    for id in ["small", "long"] {
        let (mut client, connack) = comes(&broker, "ann", id).await;
        assert!(connack.session_present);
        broker.publisher.publish("plant/x".into(), "2".into());
        while client.message().await.payload != "2" {}
    }
    broker.notices.close();
    let broker = Running::at(setup(), broker.stop().await).await;
    let stats = broker.publisher.stats();
    until("they are counted", || stats.subscriptions.get() > 0).await;
    assert_eq!((stats.subscriptions_left_out.get(), stats.subscriptions.get()), (0, there), "they are gone for good");
    broker.stop().await;
}
