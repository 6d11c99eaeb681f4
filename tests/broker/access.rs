//! Who may: users, rules and what the gateway owns, asked for over real sockets in both versions of MQTT.

use std::collections::HashMap;
use std::sync::Arc;

use ironbridge::config::plan::{AclPlan, Anonymous};
use ironbridge::model::tag::TagIx;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use crate::support::{Client4, Client5, Running, Setup, Wishes, filter, message, until};

/// "password", cheap to check.
pub const HASH: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

/// Written by mosquitto_passwd 2.0.11: "seven pass" and "six:pass".
const MOSQUITTO: &str = "\
seven:$7$101$BvuWeUkv7+YRjiZt$e3U55Eiik04AHrfzILsRyAERZQw7AgXZV+oHMjpIXaqdx7hChWe6sK9FF15VNmMjzaNbDXQMEp2r2kBG3tu4nw==
six:$6$S+/b7k6zY+X6umo2$HJ0PcX8FmoE6yIuDSLxJvrUEdnc+73WsvRVCGOl1z3EPSosDiU8yNwW/fUmQ3gNnT10SmtU4GBm8HkU0xTmeEw==
";

pub fn rule(user: &str, read: &[&str], write: &[&str]) -> AclPlan {
    let own = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
    AclPlan { user: user.to_owned(), read: own(read), write: own(write), operate: Vec::new() }
}

fn rules() -> Vec<AclPlan> {
    vec![
        rule("hmi", &["machines/#", "$SYS/broker/uptime"], &["machines/+/cmd"]),
        rule("root", &["#", "$SYS/#"], &["#", "$SYS/#"]),
        rule("*", &["u/%u/#", "c/%c/+"], &["u/%u/#", "c/%c/+"]),
        rule("anonymous", &["public/#"], &["public/in"]),
    ]
}

pub fn setup() -> Setup {
    let users: Vec<String> = ["hmi", "root", "other", "+"].iter().map(|name| format!("{name}:{HASH}\n")).collect();
    let users_file = Some(users.concat() + MOSQUITTO);
    Setup { anonymous: Anonymous::Acl, acl: rules(), users_file, ..Setup::default() }
}

pub fn login(name: &str, password: &str) -> impl FnOnce(&mut Wishes) {
    let login = v5::Login { username: name.to_owned(), password: password.to_owned() };
    move |wishes| wishes.login = Some(login)
}

pub async fn v5(broker: &Running, user: &str, id: &str) -> Client5 {
    Client5::connect(broker.address, id, login(user, "password")).await
}

async fn v4(broker: &Running, user: &str, id: &str) -> Client4 {
    let (client, connack) = Client4::open(broker.address, connect4(user, "password", id)).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::Success);
    client
}

fn connect4(user: &str, password: &str, id: &str) -> v4::Connect {
    let mut connect = v4::Connect::new(id);
    connect.keep_alive = 0;
    connect.set_login(user, password);
    connect
}

#[tokio::test]
async fn a_name_needs_its_password_and_no_version_is_told_which_of_the_two_was_wrong() {
    let broker = Running::with(Setup { anonymous: Anonymous::None, ..setup() }).await;
    let good = [("hmi", "password"), ("seven", "seven pass"), ("six", "six:pass")];
    for (name, password) in good {
        drop(Client5::connect(broker.address, "a", login(name, password)).await);
        let (_, connack) = Client4::open(broker.address, connect4(name, password, "b")).await;
        assert_eq!(connack.code, v4::ConnectReturnCode::Success, "{name}");
    }
    let bad = [("hmi", "Password"), ("hmi", ""), ("nobody", "password"), ("anonymous", "password"), ("", "password")];
    for (name, password) in bad {
        let (_, connack) = Client5::open(broker.address, "c", login(name, password)).await;
        assert_eq!(connack.code, v5::ConnectReturnCode::NotAuthorized, "{name:?} {password:?}");
    }
    let (_, connack) = Client4::open(broker.address, connect4("hmi", "wrong", "d")).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::NotAuthorized);
    let (_, connack) = Client5::open(broker.address, "e", |_| {}).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::NotAuthorized);
    let (_, connack) = Client4::open(broker.address, v4::Connect::new("f")).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::NotAuthorized);
    let stats = &broker.access.stats;
    assert_eq!((stats.logins.get(), stats.wrong.get(), stats.refused.get()), (6, 6, 2));
    broker.stop().await;
}

#[tokio::test]
async fn without_a_users_file_that_can_be_read_nobody_with_a_name_comes_in_and_others_do() {
    let broker = Running::with(setup()).await;
    let plan =
        ironbridge::config::plan::BrokerPlan { users_file: Some("/nowhere/users".into()), ..broker.plan.clone() };
    let fresh = ironbridge::access::Access::new(&plan);
    assert!(matches!(fresh.load_users(), ironbridge::access::Loading::Failed(_)));
    // Those that were read before stay.
    assert!(matches!(broker.access.reload(&plan), ironbridge::access::Loading::Failed(_)));
    v5(&broker, "hmi", "a").await.ping().await;
    Client5::connect(broker.address, "b", |_| {}).await.ping().await;
    broker.stop().await;
}

/// Who publishes (`""`: without a name, else with the id `id`), on which topic, and whether that is allowed.
const PUBLISHES: &[(&str, &str, bool)] = &[
    ("hmi", "machines/1/cmd", true),
    ("hmi", "machines/1/2/cmd", false),
    ("hmi", "machines/1/state", false),
    ("hmi", "u/hmi/x", true),
    ("hmi", "u/other/x", false),
    ("hmi", "c/id/x", true),
    ("hmi", "c/other/x", false),
    ("hmi", "public/in", false),
    ("hmi", "plant/dev0/tag1", false),
    ("hmi", "plant/dev0/tag1/set", false),
    ("other", "machines/1/cmd", false),
    ("other", "u/other/x", true),
    ("+", "u/hmi/x", false),
    ("root", "any/thing", true),
    ("root", "any/set", true),
    ("root", "plant/dev0/tag1", false),
    ("root", "plant/dev0/tag1/set/result", false),
    ("root", "ironbridge/gw/status", false),
    ("root", "ironbridge/x", false),
    ("root", "$SYS/broker/uptime", false),
    ("root", "$other/x", false),
    ("", "public/in", true),
    ("", "public/out", false),
    ("", "u//x", false),
];

#[tokio::test]
async fn what_no_rule_allows_is_refused_and_never_arrives_whatever_the_version_and_the_qos() {
    let broker = Running::with(setup()).await;
    let mut observer = v5(&broker, "root", "observer").await;
    for all in ["#", "$SYS/broker/never"] {
        observer.subscribe(filter(all, 0), None).await;
    }
    for (row, &(user, topic, allowed)) in PUBLISHES.iter().enumerate() {
        let case = format!("{user:?} on {topic}");
        let mut five = match user {
            "" => Client5::connect(broker.address, "id", |_| {}).await,
            _ => v5(&broker, user, "id").await,
        };
        let reason = five.publish(message(topic, 1, &format!("{row} five"))).await;
        let right = if allowed { v5::PubAckReason::Success } else { v5::PubAckReason::NotAuthorized };
        assert_eq!(reason, right, "{case}");
        five.send(v5::Packet::Publish(message(topic, 2, &format!("{row} five twice")))).await;
        let v5::Packet::PubRec(pubrec) = five.next().await else { panic!("PUBREC: {case}") };
        assert_eq!(pubrec.reason == v5::PubRecReason::NotAuthorized, !allowed, "{case}");
        five.publish(message(topic, 0, &format!("{row} five quiet"))).await;
        five.ping().await;
        drop(five);
        let mut four = match user {
            "" => broker.v4("id4").await,
            _ => v4(&broker, user, "id4").await,
        };
        // 3.1.1 has no word for it: acknowledged and dropped, as by mosquitto.
        four.publish(&topic.replace("c/id/", "c/id4/"), QoS::AtLeastOnce, &format!("{row} four")).await;
        four.publish(&topic.replace("c/id/", "c/id4/"), QoS::AtMostOnce, &format!("{row} four quiet")).await;
        four.ping().await;
    }
    observer.publish(message("end", 0, "end")).await;
    let mut arrived = Vec::new();
    loop {
        let publish = observer.message().await;
        if &publish.topic[..] == b"end" {
            break;
        }
        arrived.push(String::from_utf8(publish.payload.to_vec()).expect("text"));
    }
    let ways = ["five", "five twice", "five quiet", "four", "four quiet"];
    let allowed = PUBLISHES.iter().enumerate().filter(|(_, (.., allowed))| *allowed);
    let right: Vec<String> = allowed.flat_map(|(row, _)| ways.map(|way| format!("{row} {way}"))).collect();
    assert_eq!(arrived, right);
    broker.stop().await;
}

/// Who subscribes, to what, and whether that is allowed.
const SUBSCRIBES: &[(&str, &str, bool)] = &[
    ("hmi", "machines/#", true),
    ("hmi", "machines/+/x", true),
    ("hmi", "$share/g/machines/#", true),
    ("hmi", "#", false),
    ("hmi", "+/x", false),
    ("hmi", "$share/g/#", false),
    ("hmi", "$share/machines/plant/#", false),
    ("hmi", "plant/#", false),
    ("hmi", "$SYS/#", false),
    ("hmi", "$SYS/broker/uptime", true),
    ("hmi", "u/hmi/#", true),
    ("hmi", "u/+/#", false),
    ("hmi", "c/id/+", true),
    ("hmi", "c/id/#", false),
    ("hmi", "c/+/+", false),
    ("+", "u/+/#", false),
    ("+", "u/+/x", false),
    ("other", "machines/#", false),
    ("other", "public/#", false),
    ("root", "#", true),
    ("root", "$SYS/#", true),
    ("root", "$other/#", false),
    ("", "public/#", true),
    ("", "#", false),
    ("", "plant/#", false),
];

#[tokio::test]
async fn a_subscription_is_allowed_as_a_whole_or_refused_as_a_whole() {
    let broker = Running::with(setup()).await;
    for &(user, path, allowed) in SUBSCRIBES {
        let (mut five, mut four) = match user {
            "" => (Client5::connect(broker.address, "id", |_| {}).await, broker.v4("id4").await),
            _ => (v5(&broker, user, "id").await, v4(&broker, user, "id4").await),
        };
        let v5::SubscribeReasonCode::Success(QoS5::AtMostOnce) = five.subscribe(filter(path, 0), None).await else {
            assert!(!allowed, "{user:?} subscribes {path}");
            let subscribe =
                v4::Subscribe { pkid: 9, ..v4::Subscribe::new(path.replace("c/id/", "c/id4/"), QoS::AtMostOnce) };
            four.send(v4::Packet::Subscribe(subscribe)).await;
            let v4::Packet::SubAck(suback) = four.next().await else { panic!("a SUBACK") };
            assert_eq!(suback.return_codes, [v4::SubscribeReasonCode::Failure], "{user:?} subscribes {path}");
            continue;
        };
        assert!(allowed, "{user:?} subscribes {path}");
        four.subscribe(&path.replace("c/id/", "c/id4/"), QoS::AtMostOnce).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn in_one_subscribe_each_filter_has_its_own_answer() {
    let broker = Running::with(setup()).await;
    let mut client = v5(&broker, "hmi", "id").await;
    let filters = vec![filter("machines/#", 1), filter("#", 1), filter("u/hmi/x", 2), filter("u/seven/x", 2)];
    client.send(v5::Packet::Subscribe(v5::Subscribe { pkid: 3, filters, properties: None })).await;
    let v5::Packet::SubAck(suback) = client.next().await else { panic!("a SUBACK") };
    let (one, two) = (QoS5::AtLeastOnce, QoS5::ExactlyOnce);
    let success = v5::SubscribeReasonCode::Success;
    let no = v5::SubscribeReasonCode::NotAuthorized;
    assert_eq!(suback.return_codes, [success(one), no, success(two), no]);
    broker.stop().await;
}

#[tokio::test]
async fn a_retained_message_goes_to_those_who_may_read_it_and_none_is_kept_of_those_who_may_not_write() {
    let broker = Running::with(setup()).await;
    let (mut root, mut hmi) = (v5(&broker, "root", "r").await, v5(&broker, "hmi", "h").await);
    let retained = |topic: &str, payload: &str| v5::Publish { retain: true, ..message(topic, 1, payload) };
    for topic in ["machines/1/state", "secret/1"] {
        root.publish(retained(topic, "root's")).await;
    }
    assert_eq!(hmi.publish(retained("machines/1/state", "forged")).await, v5::PubAckReason::NotAuthorized);
    assert_eq!(hmi.publish(retained("machines/1/state", "")).await, v5::PubAckReason::NotAuthorized);
    assert_eq!(hmi.subscribe(filter("secret/#", 0), None).await, v5::SubscribeReasonCode::NotAuthorized);
    hmi.subscribe(filter("machines/#", 0), None).await;
    let publish = hmi.message().await;
    assert_eq!((&publish.payload[..], publish.retain), (&b"root's"[..], true));
    hmi.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_is_left_only_where_its_client_may_write() {
    let broker = Running::with(setup()).await;
    let mut observer = v5(&broker, "root", "observer").await;
    observer.subscribe(filter("#", 0), None).await;
    let topics =
        ["machines/1/cmd", "machines/1/state", "plant/dev0/tag1", "plant/dev0/tag1/set", "$SYS/x", "u/hmi/gone"];
    for topic in topics {
        let client = Client5::connect(broker.address, "w", |wishes| {
            login("hmi", "password")(wishes);
            wishes.will = Some(v5::LastWill::new(topic, "gone", QoS5::AtLeastOnce, false, None));
        });
        // Dropped without DISCONNECT: lost.
        drop(client.await);
    }
    for right in ["machines/1/cmd", "u/hmi/gone"] {
        assert_eq!(observer.message().await.topic, right);
    }
    observer.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn new_rules_count_at_once_for_those_who_are_connected_and_disturb_nobody_else() {
    let broker = Running::with(setup()).await;
    let mut hmi = v5(&broker, "hmi", "h").await;
    let mut other = v5(&broker, "other", "o").await;
    let mut sixth = Client5::connect(broker.address, "s", login("six", "six:pass")).await;
    for path in ["machines/#", "$share/g/machines/#", "u/hmi/x"] {
        hmi.subscribe(filter(path, 0), None).await;
    }
    sixth.subscribe(filter("u/six/x", 0), None).await;
    let mut acl = rules();
    acl[0] = rule("hmi", &["plant/#"], &["machines/#"]);
    let users = format!("hmi:{HASH}\nroot:{HASH}\n{}", MOSQUITTO.replace("six:$6$S+/b7", "six:$6$T+/b7"));
    ironbridge::access::replace(&broker.dir.path().join("users"), &users).expect("written");
    let plan = ironbridge::config::plan::BrokerPlan { acl, ..broker.plan.clone() };
    broker.access.reload(&plan);
    let rejudged = broker.control.rejudge();
    assert_eq!((rejudged.clients, rejudged.subscriptions), (2, 2), "other is gone, six has another password");
    for gone in [&mut other, &mut sixth] {
        assert_eq!(gone.disconnected().await, v5::DisconnectReasonCode::NotAuthorized);
    }
    let mut root = v5(&broker, "root", "r").await;
    for topic in ["machines/1", "u/hmi/x", "plant/free"] {
        root.publish(message(topic, 1, "x")).await;
    }
    assert_eq!(hmi.message().await.topic, "u/hmi/x");
    assert_ne!(hmi.publish(message("machines/1/state", 1, "x")).await, v5::PubAckReason::NotAuthorized, "a new right");
    assert_eq!(hmi.subscribe(filter("machines/#", 0), None).await, v5::SubscribeReasonCode::NotAuthorized);
    hmi.subscribe(filter("plant/free", 0), None).await;
    let (_, connack) = Client5::open(broker.address, "s", login("six", "six:pass")).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::NotAuthorized, "nobody remembers the old password");
    broker.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_member_of_a_group_that_may_not_read_it_any_more_goes_to_another() {
    const MANY: usize = 40;
    let broker = Running::with(setup()).await;
    let mut slow = Client5::connect(broker.address, "slow", |wishes| {
        login("hmi", "password")(wishes);
        wishes.properties.receive_maximum = Some(1);
    })
    .await;
    let mut good = v5(&broker, "root", "good").await;
    for member in [&mut slow, &mut good] {
        member.subscribe(filter("$share/g/machines/#", 1), None).await;
    }
    let mut sender = v5(&broker, "root", "sender").await;
    for n in 0..MANY {
        assert_eq!(sender.publish(message("machines/1", 1, &n.to_string())).await, v5::PubAckReason::Success);
    }
    let first = slow.message().await;
    let mut texts = vec![first.payload];
    let mut acl = rules();
    acl[0] = rule("hmi", &[], &[]);
    broker.access.reload(&ironbridge::config::plan::BrokerPlan { acl, ..broker.plan.clone() });
    assert_eq!(broker.control.rejudge().subscriptions, 1);
    slow.send(v5::Packet::PubAck(v5::PubAck::new(first.pkid, None))).await;
    while texts.len() < MANY {
        let seen = good.message().await;
        good.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
        texts.push(seen.payload);
    }
    let each: std::collections::HashSet<_> = texts.iter().collect();
    assert_eq!(each.len(), MANY, "each once: {texts:?}");
    slow.ping().await;
    good.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_that_waits_is_judged_by_new_rules_too() {
    let broker = Running::with(setup()).await;
    let mut observer = v5(&broker, "root", "observer").await;
    observer.subscribe(filter("#", 0), None).await;
    for (id, topic) in [("one", "machines/1/cmd"), ("two", "u/hmi/gone")] {
        let client = Client5::connect(broker.address, id, |wishes| {
            login("hmi", "password")(wishes);
            wishes.properties.session_expiry_interval = Some(1200);
            let properties = v5::LastWillProperties { delay_interval: Some(600), ..will_properties() };
            wishes.will = Some(v5::LastWill::new(topic, "gone", QoS5::AtLeastOnce, false, Some(properties)));
        });
        drop(client.await);
    }
    let away = || broker.publisher.stats().sessions_away.get() == 2;
    until("both sessions are away", away).await;
    let mut acl = rules();
    acl[0] = rule("hmi", &[], &[]);
    broker.access.reload(&ironbridge::config::plan::BrokerPlan { acl, ..broker.plan.clone() });
    broker.control.rejudge();
    // A new session ends the old one, and a will waits no longer than its session lives.
    for id in ["one", "two"] {
        v5(&broker, "hmi", id).await;
    }
    assert_eq!(observer.message().await.topic, "u/hmi/gone");
    observer.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_is_judged_by_the_rules_that_are_when_its_client_comes_in_not_by_those_when_it_knocked() {
    // Dear to check: there is time for new rules while it is.
    let users = format!("root:{HASH}\nslow:{}\n", ironbridge::access::hash(b"password").expect("hashed"));
    let may = |write: &[&str]| vec![rule("root", &["#"], &["#"]), rule("slow", &[], write)];
    let setup = Setup { acl: may(&["will"]), users_file: Some(users), anonymous: Anonymous::None, ..setup() };
    let broker = Running::with(setup).await;
    let mut observer = v5(&broker, "root", "observer").await;
    observer.subscribe(filter("#", 0), None).await;
    let knocks = tokio::spawn({
        let address = broker.address;
        let will = v5::LastWill::new("will", "gone", QoS5::AtLeastOnce, false, None);
        async move {
            let wish = |wishes: &mut Wishes| {
                login("slow", "password")(wishes);
                wishes.will = Some(will);
            };
            Client5::connect(address, "slow", wish).await
        }
    });
    until("it has knocked", || broker.publisher.stats().connects.get() == 2).await;
    broker.access.reload(&ironbridge::config::plan::BrokerPlan { acl: may(&[]), ..broker.plan.clone() });
    broker.control.rejudge();
    drop(knocks.await.expect("it comes in"));
    until("it has gone", || broker.publisher.stats().clients.get() == 1).await;
    observer.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_on_a_topic_that_has_become_the_gateways_replaces_nothing_of_the_gateways() {
    let broker = Running::with(setup()).await;
    let leave = async |id: &str, topic: &str, delay: u32| {
        Client5::connect(broker.address, id, |wishes| {
            login("root", "password")(wishes);
            wishes.properties.session_expiry_interval = Some(1200);
            let properties = v5::LastWillProperties { delay_interval: Some(delay), ..will_properties() };
            wishes.will = Some(v5::LastWill::new(topic, "of a client", QoS5::AtLeastOnce, true, Some(properties)));
        })
        .await
    };
    let at_once = leave("one", "gw/plc2/speed", 0).await;
    drop(leave("two", "gw/plc2/level", 600).await);
    let still = leave("three", "gw/plc1/free", 0).await;
    until("its will waits", || broker.publisher.stats().sessions_away.get() == 1).await;
    let (speed, level): (Arc<str>, Arc<str>) = ("gw/plc2/speed".into(), "gw/plc2/level".into());
    broker.ownership.replace([(Arc::clone(&speed), TagIx(0)), (Arc::clone(&level), TagIx(1))]);
    broker.publisher.retain_many([speed, level].map(|topic| (topic, "of the gateway".into())));
    drop(at_once);
    drop(still);
    until("both have gone", || broker.publisher.stats().clients.get() == 0).await;
    // A new session ends the old one, and a will waits no longer than its session lives.
    let mut observer = v5(&broker, "root", "two").await;
    observer.subscribe(filter("gw/#", 0), None).await;
    let mut seen = HashMap::new();
    for _ in 0..3 {
        let message = observer.message().await;
        seen.insert(message.topic, message.payload);
    }
    assert_eq!(seen["gw/plc2/speed".as_bytes()], "of the gateway");
    assert_eq!(seen["gw/plc2/level".as_bytes()], "of the gateway");
    assert_eq!(seen["gw/plc1/free".as_bytes()], "of a client");
    assert_eq!(broker.publisher.stats().publishes_refused.get(), 2, "each is counted");
    broker.stop().await;
}

fn will_properties() -> v5::LastWillProperties {
    v5::LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    }
}

#[tokio::test]
async fn where_there_are_no_users_a_name_is_not_looked_at_and_gives_no_rights() {
    let acl = vec![rule("hmi", &["#"], &["#"]), rule("*", &["#"], &["#"]), rule("anonymous", &["public/#"], &[])];
    let open = Setup { acl: acl.clone(), users_file: None, ..setup() };
    let broker = Running::with(open).await;
    let mut named = Client5::connect(broker.address, "a", login("hmi", "password")).await;
    assert_eq!(named.subscribe(filter("x", 0), None).await, v5::SubscribeReasonCode::NotAuthorized);
    assert!(matches!(named.subscribe(filter("public/#", 0), None).await, v5::SubscribeReasonCode::Success(_)));
    assert_eq!(named.publish(message("public/in", 1, "x")).await, v5::PubAckReason::NotAuthorized);
    broker.stop().await;
    let shut = Setup { acl, users_file: None, anonymous: Anonymous::None, ..setup() };
    let broker = Running::with(shut).await;
    let (_, connack) = Client5::open(broker.address, "a", login("hmi", "password")).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::NotAuthorized);
    broker.stop().await;
}
