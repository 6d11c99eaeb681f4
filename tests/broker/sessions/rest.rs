//! What a session is not owed, or not any more: values that are no news, what has no room, what another member got, what its
//! client may not read now.

use super::*;

use ironbridge::config::plan::{AclPlan, Anonymous, SessionsPlan};
use ironbridge::flow::notice::Phase;

#[tokio::test]
async fn of_the_gateways_values_a_client_that_returns_gets_the_newest_of_each_that_changed_and_no_stale_one() {
    let broker = Running::start().await;
    for n in 0..3 {
        broker.publisher.retain(tag(n), "0".into());
    }
    let (mut client, _) = back(&broker, "hmi").await;
    client.subscribe(filter("plant/#", 1), None).await;
    for _ in 0..3 {
        assert!(client.take().await.retain);
    }
    client.ping().await;
    client.leave().await;
    for round in 1..=50 {
        broker.publisher.retain(tag(0), format!("{round}").into());
        broker.publisher.retain(tag(1), format!("{round}").into());
    }
    let (mut client, _) = back(&broker, "hmi").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let value = client.take().await;
        assert!(!value.retain && value.payload == "50", "{value:?}");
        seen.push(value.topic);
    }
    assert!(seen[0] != seen[1]);
    client.ping().await;
    client.leave().await;
    // The gateway begins with what it knows of its tags: nothing that was true before.
    let broker = again(broker).await;
    for n in 0..3 {
        broker.publisher.retain(tag(n), "starting".into());
    }
    let (mut client, _) = back(&broker, "hmi").await;
    for _ in 0..3 {
        assert_eq!(client.take().await.payload, "starting");
    }
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn retained_values_that_a_new_subscription_did_not_get_before_the_connection_broke_come_on_the_next() {
    let broker = Running::start().await;
    for n in 0..5 {
        broker.publisher.retain(tag(n), "steady".into());
    }
    let (mut client, _) = back(&broker, "hmi").await;
    client.subscribe(filter("plant/#", 1), None).await;
    // They are on their way, and not one is acknowledged.
    for _ in 0..5 {
        assert!(client.message().await.retain);
    }
    drop(client);
    let (mut client, present) = back(&broker, "hmi").await;
    assert!(present);
    for _ in 0..5 {
        assert_eq!(client.take().await.payload, "steady");
    }
    client.ping().await;
    client.leave().await;
    let (mut client, _) = back(&broker, "hmi").await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn clients_retained_messages_that_come_after_a_reconnect_say_that_they_were_kept() {
    let broker = Running::start().await;
    let mut sender = broker.v5("sender").await;
    for n in 0..150 {
        let kept = v5::Publish { retain: true, ..message(&format!("kept/{n}"), 1, "x") };
        assert!(sender.give(kept).await);
    }
    let slow = |wishes: &mut Wishes| {
        lasting(3600)(wishes);
        wishes.properties.receive_maximum = Some(5);
    };
    let mut client = Client5::connect(broker.address, "c", slow).await;
    client.subscribe(filter("kept/#", 1), None).await;
    assert!(client.message().await.retain);
    drop(client);
    let (mut client, present) = back(&broker, "c").await;
    assert!(present);
    let mut topics = HashSet::new();
    while topics.len() < 150 {
        let seen = client.take().await;
        assert!(seen.retain, "{:?}", seen.topic);
        topics.insert(seen.topic);
    }
    client.ping().await;
    broker.stop().await;
}

/// One session may fill the bound for all; each has a share of 4 KiB.
fn crowded() -> SessionsPlan {
    let size = 64 << 10;
    SessionsPlan { session_max_size: size, sessions_max_size: size, max_sessions: 8, ..SessionsPlan::default() }
}

#[tokio::test]
async fn what_finds_no_room_is_counted_noticed_told_and_the_oldest_are_kept_and_others_have_room() {
    let sessions = crowded();
    let mut broker = Running::with(Setup { sessions, ..Setup::default() }).await;
    absent(&broker, "full", "q", 1).await;
    absent(&broker, "other", "r", 1).await;
    let mut sender = broker.v5("sender").await;
    let body = "x".repeat(1000);
    for n in 0..100 {
        assert!(sender.give(message("q", 1, &format!("{n} {body}"))).await);
    }
    assert!(sender.give(message("r", 1, "room")).await);
    let notice = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
    assert_eq!((notice.event, notice.subject.as_str()), ("broker_session_full", "full"));
    for _ in 0..5 {
        assert!(sender.give(message("q", 1, &body)).await, "after it was noticed");
    }
    let dropped = broker.publisher.stats().dropped_full.get();
    assert!((35..55).contains(&dropped), "{dropped}");
    let mut watch = broker.v5("watch").await;
    watch.subscribe(filter("$SYS/broker/sessions/dropped", 0), None).await;
    while watch.message().await.payload != dropped.to_string() {}
    // It is told though the gateway was started again.
    let setup = Setup { sessions, ..Setup::default() };
    let mut broker = Running::at(setup, broker.stop().await).await;
    let (mut full, connack) = Client5::open(broker.address, "full", lasting(3600)).await;
    let told = connack.properties.expect("properties").user_properties;
    assert_eq!(told, [("dropped".to_owned(), dropped.to_string())]);
    for n in 0..105 - dropped {
        let seen = full.take().await;
        assert!(seen.payload.starts_with(format!("{n} ").as_bytes()));
    }
    full.ping().await;
    full.leave().await;
    let (_, connack) = Client5::open(broker.address, "full", lasting(3600)).await;
    assert_eq!(connack.properties.expect("properties").user_properties, [], "once");
    let (mut other, _) = back(&broker, "other").await;
    assert_eq!(other.take().await.payload, "room");
    broker.notices.close();
    broker.stop().await;
}

#[tokio::test]
async fn that_there_is_no_room_for_a_session_is_over_when_it_ends() {
    let mut broker = Running::with(Setup { sessions: crowded(), ..Setup::default() }).await;
    absent(&broker, "full", "q", 1).await;
    let mut sender = broker.v5("sender").await;
    let body = "x".repeat(1000);
    for _ in 0..100 {
        assert!(sender.give(message("q", 1, &body)).await);
    }
    let mut told = async || {
        let notice = tokio::time::timeout(PATIENCE, broker.notices.recv()).await.expect("in time").expect("a notice");
        assert_eq!((notice.event, notice.subject.as_str()), ("broker_session_full", "full"));
        notice.phase
    };
    assert_eq!(told().await, Phase::Active);
    let (_anew, connack) = Client5::open(broker.address, "full", |wishes| wishes.connect.clean_start = true).await;
    assert!(!connack.session_present);
    assert_eq!(told().await, Phase::Cleared);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_keeps_up_gets_everything_though_what_others_are_owed_has_filled_the_bound_for_all() {
    let broker = Running::with(Setup { sessions: crowded(), ..Setup::default() }).await;
    let (mut here, _) = back(&broker, "here").await;
    here.subscribe(filter("q", 1), None).await;
    let (mut full, _) = back(&broker, "full").await;
    full.subscribe(filter("q", 1), None).await;
    full.subscribe(filter("$share/g/r", 1), None).await;
    full.leave().await;
    let mut sender = broker.v5("sender").await;
    let body = "x".repeat(5000); // more than a share
    for n in 0..50 {
        assert!(sender.give(message("q", 1, &format!("{n} {body}"))).await);
        assert!(here.take().await.payload.starts_with(format!("{n} ").as_bytes()));
    }
    let stats = broker.publisher.stats();
    let dropped = stats.dropped_full.get();
    assert!((35..45).contains(&dropped), "the absent one's alone: {dropped}");
    let small = "x".repeat(200);
    while stats.dropped_full.get() == dropped {
        assert!(sender.give(message("q", 1, &small)).await, "until that has no room for such a one either");
        here.take().await;
    }
    let before = stats.dropped_full.get();
    assert!(sender.give(message("q", 1, &format!("last {body}"))).await);
    assert!(here.message().await.payload.starts_with(b"last "));
    drop(here); // without an acknowledgement
    until("it is counted, for both", || stats.dropped_full.get() == before + 2).await;
    let (mut here, connack) = Client5::open(broker.address, "here", lasting(3600)).await;
    let told = connack.properties.expect("properties").user_properties;
    assert_eq!(told, [("dropped".to_owned(), "1".to_owned())]);
    // Of a group one who has room is owed it, whoever's turn it is.
    absent(&broker, "roomy", "$share/g/r", 1).await;
    let larger = "x".repeat(600); // what the one that is here was charged has come back
    for n in 0..5 {
        assert!(sender.give(message("r", 1, &format!("{n} {larger}"))).await);
    }
    assert_eq!(stats.dropped_full.get(), dropped + 3);
    let (mut roomy, _) = back(&broker, "roomy").await;
    for n in 0..5 {
        assert!(roomy.take().await.payload.starts_with(format!("{n} ").as_bytes()));
    }
    here.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn of_a_shared_subscription_whoever_is_there_gets_it_and_if_nobody_is_one_is_owed_it() {
    let broker = Running::start().await;
    absent(&broker, "away", "$share/g/q", 1).await;
    let (mut here, _) = back(&broker, "here").await;
    here.subscribe(filter("$share/g/q", 1), None).await;
    let mut sender = broker.v5("sender").await;
    for n in 0..20 {
        assert!(sender.give(message("q", 1, &format!("{n}"))).await);
        assert_eq!(here.take().await.payload, format!("{n}"));
    }
    here.ping().await;
    here.leave().await;
    for n in 0..20 {
        assert!(sender.give(message("q", 2, &format!("{n}"))).await);
    }
    let broker = again(broker).await;
    let mut all = Vec::new();
    for id in ["away", "here"] {
        let (mut client, present) = back(&broker, id).await;
        assert!(present);
        client.send(v5::Packet::PingReq(v5::PingReq)).await;
        let mut newest = None;
        // What it is owed is read from disk: its first message may come after the answer to its ping.
        loop {
            let done = newest.is_some() && all.len() % 10 == 0;
            if done {
                break;
            }
            match client.next().await {
                v5::Packet::Publish(seen) => {
                    client.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
                    let n: u32 = std::str::from_utf8(&seen.payload).expect("text").parse().expect("a number");
                    assert!(newest < Some(n), "in order");
                    newest = Some(n);
                    all.push(n);
                }
                v5::Packet::PingResp(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>(), "each once, to one of them");
    broker.stop().await;
}

/// Anonymous clients may read these topics and nothing else.
fn readable(filters: &[&str]) -> Setup {
    let read = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let acl = AclPlan { user: "anonymous".to_owned(), read, write: Vec::new(), operate: Vec::new() };
    Setup { anonymous: Anonymous::Acl, acl: vec![acl], write: vec!["#".to_owned()], ..Setup::default() }
}

#[tokio::test]
async fn who_may_read_less_than_before_gets_no_more_of_it_though_it_is_owed() {
    for restart in [false, true] {
        let mut broker = Running::with(readable(&["a", "b"])).await;
        let (mut client, _) = back(&broker, "c").await;
        client.subscribe(filter("a", 1), None).await;
        client.subscribe(filter("b", 1), None).await;
        client.leave().await;
        let mut sender = broker.v5("sender").await;
        for n in 0..4 {
            assert!(sender.give(message(["a", "b"][n % 2], 1, &format!("{n}"))).await);
        }
        if restart {
            broker = Running::at(readable(&["b"]), broker.stop().await).await;
        } else {
            let mut plan = broker.plan.clone();
            plan.acl[0].read.remove(0);
            broker.access.reload(&plan);
            assert_eq!(broker.control.rejudge().subscriptions, 1);
        }
        assert!(broker.v5("sender").await.give(message("a", 1, "not any more")).await);
        let (mut client, present) = back(&broker, "c").await;
        assert!(present);
        assert_eq!(client.take_texts(2).await, ["1", "3"]);
        client.ping().await;
        client.leave().await;
        let (mut client, _) = back(&broker, "c").await;
        client.ping().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn who_may_read_less_than_before_gets_nothing_more_of_what_waits_though_it_is_connected() {
    let acknowledged = |seen: &v5::Publish| v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None));
    // In its outbox, whether it is owed to it or not; or read from the disk already.
    for (seconds, away) in [(0, false), (3600, false), (3600, true)] {
        let broker = Running::with(readable(&["a", "b"])).await;
        let wish = |wishes: &mut Wishes| {
            lasting(seconds)(wishes);
            wishes.properties.receive_maximum = Some(1);
        };
        let mut client = Client5::connect(broker.address, "c", wish).await;
        client.subscribe(filter("a", 1), None).await;
        client.subscribe(filter("b", 1), None).await;
        let mut left = Some(client);
        if away {
            left.take().expect("connected").leave().await;
        }
        let mut sender = broker.v5("sender").await;
        for n in 0..100 {
            assert!(sender.give(message("a", 1, &format!("{n}"))).await);
        }
        assert!(sender.give(message("b", 1, "end")).await);
        let mut client = match left {
            Some(client) => client,
            None => Client5::connect(broker.address, "c", wish).await,
        };
        let first = client.message().await;
        assert_eq!(first.payload, "0");
        let mut plan = broker.plan.clone();
        plan.acl[0].read.remove(0);
        broker.access.reload(&plan);
        assert_eq!(broker.control.rejudge().subscriptions, 1);
        client.send(acknowledged(&first)).await;
        let next = client.message().await;
        assert_eq!(next.topic, "b", "what it may still read, and nothing else");
        client.send(acknowledged(&next)).await;
        client.ping().await;
        assert_eq!(broker.publisher.stats().dropped_ended.get(), 99, "counted");
        client.leave().await;
        let mut client = Client5::connect(broker.address, "c", wish).await;
        client.ping().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_will_that_waits_is_not_sent_if_its_client_may_not_publish_it_any_more() {
    let broker = Running::with(readable(&["#"])).await;
    let (mut watcher, _) = back(&broker, "watcher").await;
    watcher.subscribe(filter("will", 1), None).await;
    let properties = v5::LastWillProperties {
        delay_interval: Some(1000),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let will = v5::LastWill::new("will", "gone", QoS5::AtLeastOnce, false, Some(properties));
    let leaves = |id: &'static str| {
        let (address, will) = (broker.address, will.clone());
        Client5::connect(address, id, |wishes| {
            lasting(2)(wishes);
            wishes.will = Some(will);
        })
    };
    drop(leaves("c").await);
    let stats = broker.publisher.stats();
    until("it has left", || stats.sessions_away.get() == 1).await;
    let mut plan = broker.plan.clone();
    for acl in &mut plan.acl {
        acl.write.clear();
    }
    broker.access.reload(&plan);
    broker.control.rejudge();
    until("its session ends", || stats.sessions_expired.get() == 1).await;
    broker.publisher.publish("will".into(), "own".into());
    assert_eq!(watcher.take().await.payload, "own");
    broker.stop().await;
}

#[tokio::test]
async fn a_3_1_1_client_with_more_unreleased_messages_than_are_remembered_goes_on_without_loss_or_repeat() {
    const MANY: u16 = 1100;
    let broker = Running::start().await;
    let (mut reader, _) = back(&broker, "reader").await;
    reader.subscribe(filter("m", 1), None).await;
    let publish = |pkid: u16, dup| {
        let publish = v4::Publish::new("m", QoS::ExactlyOnce, pkid.to_string());
        v4::Packet::Publish(v4::Publish { pkid, dup, ..publish })
    };
    let (mut sender, _) = back4(&broker, "sender").await;
    for pkid in 1..=MANY {
        sender.send(publish(pkid, false)).await;
    }
    // 3.1.1 has no other way to say "not so many at once".
    let mut received = 0;
    while let Some(packet) = sender.try_next().await {
        received += 1;
        assert_eq!(packet, v4::Packet::PubRec(v4::PubRec::new(received)));
    }
    assert!(0 < received && received <= 1024, "{received}"); // some were not committed yet: not told, and not sent on again
    let (mut sender, present) = back4(&broker, "sender").await;
    assert!(present);
    for pkid in 1..=received {
        sender.send(v4::Packet::PubRel(v4::PubRel::new(pkid))).await;
        assert_eq!(sender.next().await, v4::Packet::PubComp(v4::PubComp::new(pkid)));
    }
    for pkid in received + 1..=MANY {
        sender.send(publish(pkid, true)).await;
        assert_eq!(sender.next().await, v4::Packet::PubRec(v4::PubRec::new(pkid)));
    }
    let all: Vec<String> = (1..=MANY).map(|pkid| pkid.to_string()).collect();
    assert_eq!(reader.take_texts(MANY.into()).await, all);
    reader.ping().await; // nothing came twice
    broker.stop().await;
}
