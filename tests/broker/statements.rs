//! What the standards say a server must do, as a client sees it; statements are quoted by their numbers in MQTT 5.

use crate::support::*;

use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

#[tokio::test]
async fn the_qos_of_a_delivery_is_the_lower_of_the_publishers_and_the_subscribers() {
    let broker = Running::start().await;
    let mut sender = broker.v5("sender").await;
    for (wanted, old) in [(0, QoS::AtMostOnce), (1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
        let (mut new, mut other) = (broker.v5(&format!("n{wanted}")).await, broker.v4(&format!("o{wanted}")).await);
        let topic = format!("min/{wanted}");
        new.subscribe(filter(&topic, wanted), None).await;
        other.subscribe(&topic, old).await;
        for sent in 0..3 {
            let mut publish = message(&topic, sent, "x");
            publish.pkid = if sent == 0 { 0 } else { 7 };
            sender.send(v5::Packet::Publish(publish)).await;
            match (sent, if sent == 0 { None } else { Some(sender.next().await) }) {
                (2, Some(v5::Packet::PubRec(_))) => {
                    sender.send(v5::Packet::PubRel(v5::PubRel::new(7, None))).await;
                    assert!(matches!(sender.next().await, v5::Packet::PubComp(_)));
                }
                (1, Some(v5::Packet::PubAck(_))) | (0, None) => {}
                (sent, other) => panic!("{other:?} for QoS {sent}"),
            }
            let lower = [QoS5::AtMostOnce, QoS5::AtLeastOnce, QoS5::ExactlyOnce][usize::from(sent.min(wanted))];
            assert_eq!(new.message().await.qos, lower, "published at {sent}, subscribed at {wanted}");
            assert_eq!(other.message().await.qos as u8, lower as u8, "the same in 3.1.1");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn user_properties_arrive_in_their_order_with_repeated_names_and_text_is_left_as_it_is() {
    let broker = Running::start().await;
    let (mut reader, mut sender) = (broker.v5("r").await, broker.v5("s").await);
    // 1.5.4-3: U+FEFF is a character like others.
    let topic = "\u{feff}p/\u{e9}";
    reader.subscribe(filter(topic, 0), None).await;
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("a", "\u{feff}3")];
    let user_properties: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut publish = message(topic, 0, "x");
    publish.properties = Some(v5::PublishProperties { user_properties: user_properties.clone(), ..Default::default() });
    sender.publish(publish).await;
    let seen = reader.message().await;
    assert_eq!(seen.topic, topic);
    assert_eq!(seen.properties.expect("properties").user_properties, user_properties);
    broker.stop().await;
}

#[tokio::test]
async fn who_asks_for_no_problem_information_gets_codes_alone_and_others_get_words() {
    let broker = Running::start().await;
    for (wants, told) in [(Some(0), false), (Some(1), true), (None, true)] {
        let mut client = Client5::connect(broker.address, "c", |wishes| {
            wishes.properties.request_problem_info = wants;
            wishes.properties.request_response_info = Some(1);
        })
        .await;
        client.send(v5::Packet::Publish(message("$SYS/mine", 1, "x"))).await;
        let v5::Packet::PubAck(puback) = client.next().await else { panic!("a PUBACK") };
        assert_eq!(puback.reason, v5::PubAckReason::NotAuthorized);
        assert_eq!(puback.properties.is_some_and(|properties| properties.reason_string.is_some()), told, "{wants:?}");
        let filters = vec![filter("a#", 0), filter("a/#", 0), filter("$share/+/a", 0), filter("$share//a", 0)];
        client.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 5, filters, properties: None })).await;
        let v5::Packet::SubAck(suback) = client.next().await else { panic!("a SUBACK") };
        let bad = v5::SubscribeReasonCode::TopicFilterInvalid;
        let good = v5::SubscribeReasonCode::Success(QoS5::AtMostOnce);
        assert_eq!(suback.return_codes, [bad, good, bad, bad], "3.8.4-6: one code for each, in order");
        assert_eq!(suback.properties.is_some_and(|properties| properties.reason_string.is_some()), told, "{wants:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn topic_aliases_go_to_whoever_takes_them_and_to_nobody_else() {
    let broker = Running::start().await;
    let take = |most| move |wishes: &mut Wishes| wishes.properties.topic_alias_max = most;
    let mut with = Client5::connect(broker.address, "with", take(Some(2))).await;
    let mut without = Client5::connect(broker.address, "without", take(None)).await;
    for client in [&mut with, &mut without] {
        client.subscribe(filter("alias/#", 0), None).await;
    }
    let mut known = std::collections::HashMap::new();
    for n in [1, 2, 1, 3, 1, 3, 3, 2] {
        let topic = format!("alias/{n}");
        broker.publisher.publish(topic.as_str().into(), n.to_string().into());
        let seen = with.message().await;
        match seen.properties.and_then(|properties| properties.topic_alias) {
            Some(alias) => {
                assert!((1..=2).contains(&alias), "3.3.2-9: no alias above the client's maximum");
                if !seen.topic.is_empty() {
                    known.insert(alias, seen.topic.clone());
                }
                assert_eq!(known.get(&alias).map(|topic| &topic[..]), Some(topic.as_bytes()));
            }
            None => assert_eq!(seen.topic, topic),
        }
        let plain = without.message().await;
        assert_eq!(plain.topic, topic);
        assert_eq!(plain.properties.and_then(|properties| properties.topic_alias), None, "3.3.2-10");
    }
    assert!(!known.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn when_a_member_of_a_shared_group_has_gone_the_others_get_everything() {
    let broker = Running::start().await;
    let (mut one, mut two) = (broker.v5("one").await, broker.v5("two").await);
    for (client, qos) in [(&mut one, 1), (&mut two, 0)] {
        client.subscribe(filter("$share/g/jobs", qos), None).await;
    }
    drop(one);
    until("one has gone", || broker.publisher.stats().clients.get() == 1).await;
    for n in 0..10 {
        broker.publisher.publish("jobs".into(), n.to_string().into());
    }
    for n in 0..10 {
        let seen = two.message().await;
        assert_eq!((seen.qos, &seen.payload[..]), (QoS5::AtMostOnce, n.to_string().as_bytes()), "4.8.2-3: its own QoS");
    }
    broker.stop().await;
}

/// Takes and acknowledges jobs until it has so many different ones.
async fn all_jobs(client: &mut Client5, count: usize) {
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count {
        let job = client.message().await;
        client.send(v5::Packet::PubAck(v5::PubAck::new(job.pkid, None))).await;
        seen.insert(job.payload);
    }
}

#[tokio::test]
async fn what_a_member_of_a_shared_group_has_not_acknowledged_when_it_is_cut_goes_to_the_others() {
    const JOBS: usize = 700; // more than the window of the one who acknowledges nothing
    let broker = Running::start().await;
    let (mut one, mut two, mut sender) = (broker.v5("one").await, broker.v5("two").await, broker.v5("s").await);
    for client in [&mut one, &mut two] {
        client.subscribe(filter("$share/g/jobs/#", 1), None).await;
    }
    for n in 0..JOBS {
        assert_eq!(sender.publish(message("jobs/x", 1, &n.to_string())).await, v5::PubAckReason::Success);
    }
    one.message().await;
    drop(one);
    all_jobs(&mut two, JOBS).await;
    assert_eq!(broker.publisher.stats().dropped(), 0);
    // Nobody is left for the last one.
    assert_eq!(sender.publish(message("jobs/x", 1, "last")).await, v5::PubAckReason::Success);
    two.message().await;
    drop(two);
    until("it is counted", || broker.publisher.stats().dropped_ended.get() == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn while_a_member_of_a_shared_group_is_taken_over_the_others_get_everything() {
    const JOBS: usize = 300;
    let broker = Running::start().await;
    let (mut one, mut two, mut sender) = (broker.v5("one").await, broker.v5("two").await, broker.v5("s").await);
    for client in [&mut one, &mut two] {
        client.subscribe(filter("$share/g/jobs", 1), None).await;
    }
    // It is heard out for as long as it goes on talking, within limits.
    let talking = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut one.stream, &[0xC0, 0]).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let address = broker.address;
    let anew = tokio::spawn(async move { Client5::connect(address, "one", |_| {}).await });
    for n in 0..JOBS {
        sender.publish(message("jobs", 1, &n.to_string())).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    all_jobs(&mut two, JOBS).await;
    anew.await.expect("it comes in");
    talking.await.expect("and the old one has gone");
    assert_eq!(broker.publisher.stats().dropped(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn messages_of_a_topic_come_in_the_order_in_which_they_were_sent_at_every_qos() {
    let broker = Running::start().await;
    for qos in 0..3 {
        let (mut sender, mut reader) = (broker.v5("s").await, broker.v5("r").await);
        reader.subscribe(filter("order", qos), None).await;
        // 4.6.0-5, 4.6.0-6: nothing is acknowledged meanwhile.
        for pkid in 1..=50 {
            let mut publish = message("order", qos, &pkid.to_string());
            publish.pkid = if qos == 0 { 0 } else { pkid };
            sender.send(v5::Packet::Publish(publish)).await;
        }
        for pkid in 1..=50 {
            assert_eq!(reader.message().await.payload, pkid.to_string(), "QoS {qos}");
        }
        for pkid in 1..=if qos == 0 { 0 } else { 50 } {
            let acknowledged = match sender.next().await {
                v5::Packet::PubAck(puback) => puback.pkid,
                v5::Packet::PubRec(pubrec) => pubrec.pkid,
                other => panic!("an acknowledgement, not {other:?}"),
            };
            assert_eq!(acknowledged, pkid, "4.6.0-2, 4.6.0-3: in the order of the publishes");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_carry_the_subscription_identifier_and_their_own_properties() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    let mut publish = message("kept", 1, "x");
    publish.retain = true;
    let user_properties = vec![("k".to_owned(), "v".to_owned())];
    publish.properties = Some(v5::PublishProperties { user_properties: user_properties.clone(), ..Default::default() });
    assert_eq!(client.publish(publish).await, v5::PubAckReason::NoMatchingSubscribers);
    client.subscribe(filter("kept", 0), Some(268_435_455)).await;
    let seen = client.message().await;
    assert!(seen.retain);
    let properties = seen.properties.expect("properties");
    assert_eq!((properties.subscription_identifiers, properties.user_properties), (vec![268_435_455], user_properties));
    broker.stop().await;
}

#[tokio::test]
async fn a_publisher_that_is_the_only_subscriber_and_wants_no_echo_is_not_told_that_nobody_subscribes() {
    let broker = Running::start().await;
    let mut client = broker.v5("c").await;
    let mut wanted = filter("mine", 1);
    wanted.nolocal = true;
    client.subscribe(wanted, None).await;
    assert_eq!(client.publish(message("mine", 1, "x")).await, v5::PubAckReason::Success);
    assert_eq!(client.publish(message("nobodys", 1, "x")).await, v5::PubAckReason::NoMatchingSubscribers);
    client.ping().await;
    broker.stop().await;
}

/// What mosquitto 2 tells, but for `heap/…`: dashboards rely on the names.
const SYS: &[&str] = &[
    "version",
    "uptime",
    "clients/total",
    "clients/connected",
    "clients/active",
    "clients/disconnected",
    "clients/inactive",
    "clients/maximum",
    "clients/expired",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "store/messages/count",
    "store/messages/bytes",
    "subscriptions/count",
    "shared_subscriptions/count",
    "retained messages/count",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
    "publish/bytes/received",
    "publish/bytes/sent",
    "bytes/received",
    "bytes/sent",
    "load/messages/received/1min",
    "load/messages/sent/5min",
    "load/publish/received/15min",
    "load/publish/sent/1min",
    "load/publish/dropped/1min",
    "load/bytes/received/1min",
    "load/bytes/sent/1min",
    "load/sockets/1min",
    "load/connections/1min",
];

#[tokio::test]
async fn sys_is_read_by_its_own_filter_and_never_by_a_wildcard_in_the_first_level() {
    let broker = Running::start().await;
    let named = |name: &&str| format!("$SYS/broker/{name}");
    let mut missing: std::collections::HashSet<String> = SYS.iter().map(named).collect();
    let mut early = broker.v4("early").await; // perhaps before they are told for the first time
    early.subscribe("$SYS/#", QoS::AtMostOnce).await;
    while !missing.is_empty() {
        missing.remove(&early.message().await.topic);
    }
    let mut explorer = broker.v4("explorer").await;
    for path in ["#", "+/broker/#", "+/+/uptime", "/#"] {
        explorer.subscribe(path, QoS::AtMostOnce).await;
    }
    explorer.ping().await; // 4.7.2-1: not one retained figure of $SYS before the answer
    explorer.subscribe("$SYS/#", QoS::AtMostOnce).await;
    let mut seen = std::collections::HashMap::new();
    while SYS.iter().any(|name| !seen.contains_key(&format!("$SYS/broker/{name}"))) {
        let message = explorer.message().await;
        assert!(message.topic.starts_with("$SYS/broker/"), "{}", message.topic);
        assert!(message.retain || seen.contains_key(&message.topic), "{}", message.topic);
        seen.insert(message.topic, String::from_utf8(message.payload.to_vec()).expect("text"));
    }
    assert!(seen["$SYS/broker/version"].starts_with("ironbridge version "), "{seen:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_refused_publish_is_acknowledged_in_3_1_1_and_changes_nothing() {
    let broker = Running::start().await;
    let mut client = broker.v4("c").await;
    client.subscribe("$SYS/mine", QoS::AtLeastOnce).await;
    let mut publish = v4::Publish::new("$SYS/mine", QoS::AtLeastOnce, "x");
    (publish.pkid, publish.retain) = (3, true);
    client.send(v4::Packet::Publish(publish)).await;
    assert_eq!(client.next().await, v4::Packet::PubAck(v4::PubAck { pkid: 3 }), "3.3.5-2");
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_keep_alive_above_the_servers_is_replaced_by_it_and_one_below_is_kept() {
    let limits = ironbridge::config::plan::BrokerLimits { keep_alive_max: Some(10), ..Default::default() };
    let broker = Running::with(Setup { limits, ..Setup::default() }).await;
    // 3.1.2-21, 3.2.2-21; 0 is no keep alive at all.
    for (asked, told) in [(0, Some(10)), (11, Some(10)), (10, None), (3, None)] {
        let (_client, connack) = Client5::open(broker.address, "c", |wishes| wishes.connect.keep_alive = asked).await;
        assert_eq!(connack.properties.expect("properties").server_keep_alive, told, "asked for {asked}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_will_carries_its_properties_its_qos_and_its_retain_flag() {
    let broker = Running::start().await;
    let mut watcher = broker.v5("watcher").await;
    let mut wanted = filter("will", 2);
    wanted.preserve_retain = true;
    watcher.subscribe(wanted, None).await;
    let properties = v5::LastWillProperties {
        delay_interval: None,
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(60),
        content_type: Some("text".to_owned()),
        response_topic: Some("answer".to_owned()),
        correlation_data: Some("7".into()),
        user_properties: vec![("k".to_owned(), "v".to_owned())],
    };
    let will = v5::LastWill::new("will", "gone", QoS5::ExactlyOnce, true, Some(properties));
    drop(Client5::connect(broker.address, "c", |wishes| wishes.will = Some(will)).await);
    let seen = watcher.message().await;
    assert_eq!((seen.qos, seen.retain, &seen.payload[..]), (QoS5::ExactlyOnce, true, &b"gone"[..]));
    let properties = seen.properties.expect("properties");
    assert_eq!((properties.payload_format_indicator, properties.message_expiry_interval), (Some(1), Some(60)));
    assert_eq!(
        (properties.content_type.as_deref(), properties.response_topic.as_deref()),
        (Some("text"), Some("answer"))
    );
    assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
    broker.stop().await;
}
