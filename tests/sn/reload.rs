//! A reload that changes who may come in, or what predefined ids stand for: the listener stays open, and whoever is still let
//! in goes on, awake or asleep.

use std::net::SocketAddr;
use std::time::Duration;

use ironbridge::broker::sn::{Code, Filter, Message, Quality, Start, Topic};
use ironbridge::config::plan::{AclPlan, AddressRange, Anonymous, MqttSnPlan, SensorPlan, UnaskedPlan};
use rumqttc::mqttbytes::QoS;

use crate::hmi::Hmi;
use crate::sensor::{Sensor, door, plain, plan};
use crate::support::{Running, Setup, until};

fn let_in(id: &str, user: &str) -> SensorPlan {
    SensorPlan { client_id: id.to_owned(), user: Some(user.to_owned()), from: Vec::new() }
}

/// With a door by this plan for sensors that are in its list, and one for MQTT.
async fn broker(plan: MqttSnPlan) -> (Running, SocketAddr, Hmi) {
    let rule = |user: &str| {
        let all = || vec!["#".to_owned()];
        AclPlan { user: format!("sensor:{user}"), read: all(), write: all(), operate: Vec::new() }
    };
    let doors = vec![door(plan, Anonymous::None), plain(Anonymous::ReadWrite)];
    let acl = ["tanks", "others"].into_iter().map(rule).collect();
    let running = Running::with(Setup { doors, acl, ..Setup::default() }).await;
    let [gateway, mqtt] = [0, 1].map(|at| running.addresses[at].expect("it is open"));
    (running, gateway, Hmi::connect(mqtt, "hmi").await)
}

/// Another plan for the sensors, in both steps, as a reload does.
async fn reload(running: &Running, plan: MqttSnPlan) {
    let listeners = || vec![door(plan.clone(), Anonymous::None), plain(Anonymous::ReadWrite)];
    running.control.shut_others(listeners()).await;
    running.control.listen(listeners()).await;
}

/// With a will on `wills/` and its id.
async fn enter(gateway: SocketAddr, id: &str, start: Start) -> Sensor {
    let mut sensor = Sensor::new(gateway, id).await;
    let entered = sensor.connect_with_will(start, 600, &format!("wills/{id}"), b"gone").await;
    assert_eq!(entered, Code::Accepted, "{id}");
    sensor
}

fn orders() -> Filter {
    Filter::Name("orders/#".to_owned())
}

#[tokio::test]
async fn a_reload_of_the_list_ends_only_those_who_are_not_in_it_any_more_and_sleepers_sleep_on() {
    let sensors = ["sleeper", "awake", "goner", "dozer"].map(|id| let_in(id, "tanks"));
    let old = MqttSnPlan { sensors: sensors.into(), ..plan() };
    let (running, gateway, mut hmi) = broker(old.clone()).await;
    hmi.subscribe("wills/#", QoS::AtLeastOnce).await;
    let (mut sleeper, mut awake) =
        (enter(gateway, "sleeper", Start::Kept).await, enter(gateway, "awake", Start::Clean).await);
    let (mut goner, mut dozer) =
        (enter(gateway, "goner", Start::Clean).await, enter(gateway, "dozer", Start::Kept).await);
    sleeper.subscribe(orders(), Quality::One).await;
    sleeper.sleep(600).await;
    dozer.sleep(600).await;
    until("they sleep", || running.publisher.stats().sensors.asleep.get() == 2).await;
    hmi.publish("orders/a", QoS::AtLeastOnce, b"1").await;
    let mut new = old;
    new.sensors.retain(|sensor| !["goner", "dozer"].contains(&&*sensor.client_id));
    new.sensors.push(let_in("newcomer", "tanks"));
    reload(&running, new).await;
    for gone in [&goner, &dozer] {
        gone.told_to_go().await;
    }
    let mut wills = [hmi.message().await.topic, hmi.message().await.topic];
    wills.sort();
    assert_eq!(wills, ["wills/dozer", "wills/goner"]);
    assert_eq!(running.publisher.stats().sensors.asleep.get(), 1);
    for gone in [&mut goner, &mut dozer] {
        assert_eq!(gone.connect(Start::Kept, 60).await, Code::NotSupported);
    }
    let mut newcomer = Sensor::connected(gateway, "newcomer").await;
    assert_eq!(newcomer.publish(Topic::Short(*b"ok"), Quality::Two, b"").await, Code::Accepted);
    assert_eq!(awake.publish(Topic::Short(*b"ok"), Quality::Two, b"").await, Code::Accepted);
    hmi.publish("orders/b", QoS::AtLeastOnce, b"2").await;
    sleeper.wake().await;
    assert_eq!(sleeper.got.drain(..).map(|got| got.payload[0]).collect::<Vec<_>>(), *b"12");
    hmi.publish("wills/last", QoS::AtMostOnce, b"").await;
    assert_eq!(hmi.message().await.topic, "wills/last", "nobody else has gone");
    assert_eq!(running.publisher.stats().sensors.lost.get(), 0);
}

#[tokio::test]
async fn whoever_is_another_user_after_a_reload_has_to_come_again_and_may_at_once() {
    let near = vec![AddressRange::parse("127.0.0.0/8").expect("a network")];
    let far = vec![AddressRange::parse("10.0.0.0/8").expect("a network")];
    let old = MqttSnPlan { sensors: ["a", "b", "c"].map(|id| let_in(id, "tanks")).into(), ..plan() };
    let (running, gateway, mut hmi) = broker(old.clone()).await;
    hmi.subscribe("wills/#", QoS::AtLeastOnce).await;
    let mut other = enter(gateway, "a", Start::Clean).await;
    let mut moved = enter(gateway, "b", Start::Clean).await;
    let mut same = enter(gateway, "c", Start::Clean).await;
    let sensors = vec![
        let_in("a", "others"),
        SensorPlan { from: far, ..let_in("b", "tanks") },
        SensorPlan { from: near, ..let_in("c", "tanks") },
    ];
    reload(&running, MqttSnPlan { sensors, ..old }).await;
    other.told_to_go().await;
    assert_eq!(other.connect(Start::Clean, 60).await, Code::Accepted, "as who it is now");
    moved.told_to_go().await;
    assert_eq!(moved.connect(Start::Clean, 60).await, Code::NotSupported);
    assert_eq!(same.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted);
    let mut wills = [hmi.message().await.topic, hmi.message().await.topic];
    wills.sort();
    assert_eq!(wills, ["wills/a", "wills/b"]);
}

#[tokio::test]
async fn a_predefined_id_stands_for_its_new_topic_and_what_was_subscribed_to_by_it_comes_by_name() {
    let old = MqttSnPlan { sensors: vec![let_in("tank", "tanks")], ..plan() };
    let (running, gateway, mut hmi) = broker(old.clone()).await;
    let mut watcher = Hmi::connect(running.addresses[1].expect("it is open"), "watcher").await;
    watcher.subscribe("plant/known/#", QoS::AtLeastOnce).await;
    let mut tank = Sensor::new(gateway, "tank").await;
    assert_eq!(tank.connect(Start::Kept, 600).await, Code::Accepted);
    for id in [1, 2] {
        tank.subscribe(Filter::Predefined(id), Quality::One).await;
    }
    let topics = vec![(1, "plant/known/three".to_owned()), (2, "plant/known/two".to_owned())];
    reload(&running, MqttSnPlan { topics, ..old }).await;
    assert_eq!(tank.publish(Topic::Predefined(1), Quality::One, b"3").await, Code::Accepted);
    assert_eq!(watcher.message().await.topic, "plant/known/three");
    for name in ["plant/known/one", "plant/known/two"] {
        hmi.publish(name, QoS::AtLeastOnce, b"").await;
        assert_eq!(tank.next().await.topic, name);
    }
    assert_eq!(tank.names.into_values().collect::<Vec<_>>(), ["plant/known/one"], "told, since its id is another's");
}

#[tokio::test]
async fn who_was_away_when_a_predefined_id_came_to_mean_something_else_is_sent_nothing_else_by_it() {
    let old = MqttSnPlan { sensors: vec![let_in("tank", "tanks")], ..plan() };
    let (running, gateway, mut hmi) = broker(old.clone()).await;
    let mut tank = Sensor::new(gateway, "tank").await;
    assert_eq!(tank.connect(Start::Kept, 600).await, Code::Accepted);
    tank.subscribe(Filter::Predefined(1), Quality::One).await;
    tank.subscribe(Filter::Name("plant/known/#".to_owned()), Quality::One).await;
    tank.goodbye().await;
    let topics = vec![(1, "plant/known/three".to_owned())];
    reload(&running, MqttSnPlan { topics, ..old }).await;
    assert_eq!(tank.connect(Start::Kept, 600).await, Code::Accepted);
    hmi.publish("plant/known/three", QoS::AtLeastOnce, b"3").await;
    assert_eq!(tank.next().await.topic, "plant/known/three");
    assert_eq!(
        tank.names.into_values().collect::<Vec<_>>(),
        ["plant/known/three"],
        "by its name, and not as what 1 was"
    );
}

#[tokio::test]
async fn while_rights_change_nobody_comes_in_by_the_new_list_and_nobody_stays_by_the_old_one() {
    let old = MqttSnPlan { sensors: vec![let_in("a", "tanks"), let_in("b", "tanks")], ..plan() };
    let (running, gateway, _hmi) = broker(old.clone()).await;
    let (goes, mut stays) = (Sensor::connected(gateway, "a").await, Sensor::connected(gateway, "b").await);
    let new = MqttSnPlan { sensors: vec![let_in("b", "tanks"), let_in("c", "tanks")], ..old };
    let listeners = || vec![door(new.clone(), Anonymous::None), plain(Anonymous::ReadWrite)];
    running.control.shut_others(listeners()).await;
    goes.told_to_go().await;
    let mut comes = Sensor::new(gateway, "c").await;
    comes.send(&comes.hello(Start::Clean, 60)).await;
    until("it waits", || running.publisher.stats().sensors.crowded.get() == 1).await;
    assert_eq!(stays.publish(Topic::Short(*b"ok"), Quality::One, b"").await, Code::Accepted);
    running.control.listen(listeners()).await;
    assert_eq!(comes.connect(Start::Clean, 60).await, Code::Accepted);
}

#[tokio::test]
async fn who_publishes_without_a_connection_and_who_is_told_of_the_gateway_follow_a_reload_too() {
    let user = |user: &str| Some(UnaskedPlan { user: user.to_owned(), from: Vec::new() });
    let old = MqttSnPlan { sensors: vec![let_in("tank", "tanks")], publish: user("nobody"), ..plan() };
    let (running, gateway, mut hmi) = broker(old.clone()).await;
    hmi.subscribe("ok", QoS::AtMostOnce).await;
    let mut tank = Sensor::connected(gateway, "tank").await;
    let say = async |tank: &mut Sensor, payload: &[u8]| {
        let publish = tank.publication(Topic::Short(*b"ok"), Quality::Unasked, payload);
        tank.send(&Message::Publish(publish)).await;
    };
    say(&mut tank, b"0").await;
    until("rules refuse it", || running.publisher.stats().publishes_refused.get() == 1).await;
    for payload in [b"1", b"2"] {
        let from = if payload == b"1" { Vec::new() } else { vec![AddressRange::parse("127.0.0.0/8").expect("one")] };
        let publish = user("others").map(|plan| UnaskedPlan { from, ..plan });
        reload(&running, MqttSnPlan { publish, ..old.clone() }).await;
        say(&mut tank, payload).await;
        assert_eq!(&hmi.message().await.payload[..], payload);
    }
    reload(&running, MqttSnPlan { publish: None, ..old }).await;
    say(&mut tank, b"3").await;
    until("it is not taken", || running.publisher.stats().sensors.unasked_refused.get() == 1).await;
    tank.ask(&Message::Ping(None), |message| *message == Message::Pong).await;
    tokio::time::timeout(Duration::from_secs(60), hmi.ping()).await.expect("nothing else has come");
}
