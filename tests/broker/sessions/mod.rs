//! Sessions that outlive their connections, and the gateway: what their clients rely on when they come back.
//!
//! Here: present, owed, in order, ended, taken over, whose · `cut` connections that break in the middle of a handshake ·
//! `life` how long sessions, messages and wills last · `rest` what a session is not owed, or not any more · `unowed` what its
//! client got without being owed it · `upstream` what also goes to a store upstream.

mod cut;
mod life;
mod rest;
mod unowed;
mod upstream;

use crate::support;

use std::collections::HashSet;

use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use support::*;

/// For a session that outlives its connection by so many seconds.
pub fn lasting(seconds: u32) -> impl FnOnce(&mut Wishes) {
    move |wishes| {
        wishes.connect.clean_start = false;
        wishes.properties.session_expiry_interval = Some(seconds);
    }
}

/// Connects with a session of an hour; was there one?
pub async fn back(broker: &Running, id: &str) -> (Client5, bool) {
    let (client, connack) = Client5::open(broker.address, id, lasting(3600)).await;
    assert_eq!(connack.code, v5::ConnectReturnCode::Success);
    (client, connack.session_present)
}

/// The same for 3.1.1.
pub async fn back4(broker: &Running, id: &str) -> (Client4, bool) {
    let mut connect = v4::Connect::new(id);
    (connect.keep_alive, connect.clean_session) = (0, false);
    let (client, connack) = Client4::open(broker.address, connect).await;
    assert_eq!(connack.code, v4::ConnectReturnCode::Success);
    (client, connack.session_present)
}

/// A subscriber that has gone.
pub async fn absent(broker: &Running, id: &str, path: &str, qos: u8) {
    let (mut client, _) = back(broker, id).await;
    client.subscribe(filter(path, qos), None).await;
    client.leave().await;
}

pub trait More {
    /// DISCONNECT, and waits for the end.
    async fn leave(self);
    /// The next message, acknowledged in full.
    async fn take(&mut self) -> v5::Publish;
    /// So many of them, as texts.
    async fn take_texts(&mut self, count: usize) -> Vec<String>;
    /// Publishes, to the end of the handshake; was it taken?
    async fn give(&mut self, publish: v5::Publish) -> bool;
}

impl More for Client5 {
    async fn leave(mut self) {
        self.send(v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))).await;
        assert!(self.try_next().await.is_none(), "closed");
    }

    async fn take(&mut self) -> v5::Publish {
        let seen = self.message().await;
        match seen.qos {
            QoS5::AtMostOnce => {}
            QoS5::AtLeastOnce => self.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await,
            QoS5::ExactlyOnce => {
                self.send(v5::Packet::PubRec(v5::PubRec::new(seen.pkid, None))).await;
                assert_eq!(self.next().await, v5::Packet::PubRel(v5::PubRel::new(seen.pkid, None)));
                self.send(v5::Packet::PubComp(v5::PubComp::new(seen.pkid, None))).await;
            }
        }
        seen
    }

    async fn take_texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        let (mut recorded, mut completed) = (HashSet::new(), 0);
        // The next message may come before the PUBREL of the one before.
        while texts.len() < count || completed < recorded.len() {
            match self.next().await {
                v5::Packet::Publish(seen) => {
                    texts.push(String::from_utf8(seen.payload.to_vec()).expect("text"));
                    if seen.qos == QoS5::ExactlyOnce {
                        assert!(recorded.insert(seen.pkid), "an identifier of its own");
                        self.send(v5::Packet::PubRec(v5::PubRec::new(seen.pkid, None))).await;
                    } else if seen.qos == QoS5::AtLeastOnce {
                        self.send(v5::Packet::PubAck(v5::PubAck::new(seen.pkid, None))).await;
                    }
                }
                v5::Packet::PubRel(pubrel) => {
                    assert!(recorded.contains(&pubrel.pkid));
                    completed += 1;
                    self.send(v5::Packet::PubComp(v5::PubComp::new(pubrel.pkid, None))).await;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        texts
    }

    async fn give(&mut self, publish: v5::Publish) -> bool {
        let (qos, pkid) = (publish.qos, publish.pkid);
        self.send(v5::Packet::Publish(publish)).await;
        if qos == QoS5::AtMostOnce {
            return true;
        }
        match self.next().await {
            v5::Packet::PubAck(puback) => {
                matches!(puback.reason, v5::PubAckReason::Success | v5::PubAckReason::NoMatchingSubscribers)
            }
            v5::Packet::PubRec(pubrec) if pubrec.reason == v5::PubRecReason::Success => {
                self.send(v5::Packet::PubRel(v5::PubRel::new(pkid, None))).await;
                assert_eq!(self.next().await, v5::Packet::PubComp(v5::PubComp::new(pkid, None)));
                true
            }
            v5::Packet::PubRec(_) => false,
            other => panic!("an acknowledgement, not {other:?}"),
        }
    }
}

/// Stops the broker and starts it on what it has left, with the same choices.
pub async fn again(broker: Running) -> Running {
    Running::at(Setup::default(), broker.stop().await).await
}

#[tokio::test]
async fn a_session_is_present_if_it_was_kept_and_a_clean_start_ends_it() {
    let broker = Running::start().await;
    let (client, present) = back(&broker, "new").await;
    assert!(!present);
    client.leave().await;
    let (mut client, present) = back(&broker, "new").await;
    assert!(present);
    client.subscribe(filter("a", 1), None).await;
    client.leave().await;
    let (mut old, present) = back4(&broker, "old").await;
    assert!(!present);
    old.subscribe("a", QoS::AtLeastOnce).await;
    drop(old);
    let mut sender = broker.v5("sender").await;
    assert_eq!(sender.publish(message("a", 1, "owed")).await, v5::PubAckReason::Success);
    // A connection of 3.1.1 with clean_session, or of MQTT 5 with clean start: nothing of the old one is left.
    let mut old = broker.v4("old").await;
    let mut client = broker.v5("new").await;
    assert_eq!(sender.publish(message("a", 1, "to nobody")).await, v5::PubAckReason::NoMatchingSubscribers);
    old.ping().await;
    client.ping().await;
    assert_eq!(broker.publisher.stats().dropped_ended.get(), 2, "and what was owed is counted");
    client.leave().await;
    assert!(!back(&broker, "new").await.1, "nor did the clean one leave a session");
    let broker = again(broker).await;
    assert!(back(&broker, "new").await.1 && !back4(&broker, "old").await.1);
    broker.stop().await;
}

#[tokio::test]
async fn an_absent_client_gets_everything_above_qos_0_in_order_after_a_reconnect_and_after_a_restart() {
    for restart in [false, true] {
        let mut broker = Running::start().await;
        absent(&broker, "new", "q/#", 2).await;
        let (mut old, _) = back4(&broker, "old").await;
        old.subscribe("q/#", QoS::AtLeastOnce).await;
        drop(old);
        let mut sender = broker.v5("sender").await;
        let mut wanted = Vec::new();
        for n in 0..300_u32 {
            let text = format!("{n}");
            assert!(sender.give(message(&format!("q/{}", n % 5), [0, 1, 2][n as usize % 3], &text)).await);
            wanted.extend((n % 3 > 0).then_some(text));
        }
        if restart {
            broker = again(broker).await;
        }
        let (mut new, present) = back(&broker, "new").await;
        assert!(present);
        assert_eq!(new.take_texts(wanted.len()).await, wanted);
        let (mut old, present) = back4(&broker, "old").await;
        assert!(present);
        for text in &wanted {
            let seen = old.message().await;
            assert_eq!((&seen.payload[..], seen.qos), (text.as_bytes(), QoS::AtLeastOnce));
            old.send(v4::Packet::PubAck(v4::PubAck::new(seen.pkid))).await;
        }
        // Live again, and behind what was owed.
        broker.publisher.publish("q/own".into(), "live".into());
        assert_eq!(new.take().await.payload, "live");
        assert_eq!(old.message().await.payload, "live");
        broker.stop().await;
    }
}

#[tokio::test]
async fn whoever_takes_a_session_over_goes_on_with_what_was_in_flight() {
    let broker = Running::start().await;
    let (mut first, _) = back(&broker, "same").await;
    first.subscribe(filter("q", 1), None).await;
    let mut sender = broker.v5("sender").await;
    assert!(sender.give(message("q", 1, "in flight")).await);
    let seen = first.message().await;
    let (mut second, present) = back(&broker, "same").await;
    assert!(present);
    assert_eq!(first.disconnected().await, v5::DisconnectReasonCode::SessionTakenOver);
    let once_more = second.take().await;
    assert_eq!((once_more.pkid, once_more.dup, once_more.payload), (seen.pkid, true, seen.payload));
    assert!(sender.give(message("q", 1, "next")).await);
    let next = second.take().await;
    assert_eq!((&next.payload[..], next.dup), (&b"next"[..], false));
    second.ping().await;
    second.leave().await;
    let (mut third, _) = back(&broker, "same").await;
    third.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn options_and_identifiers_of_subscriptions_outlive_connections_and_restarts() {
    let mut broker = Running::start().await;
    let (mut client, _) = back(&broker, "c").await;
    let mut as_it_was = filter("kept/#", 1);
    (as_it_was.preserve_retain, as_it_was.retain_forward_rule) = (true, v5::RetainForwardRule::Never);
    client.subscribe(as_it_was, Some(268_435_455)).await;
    let mut not_own = filter("own", 2);
    not_own.nolocal = true;
    client.subscribe(not_own, Some(7)).await;
    client.subscribe(filter("gone", 1), None).await;
    client
        .send(v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: 3, filters: vec!["gone".into()], properties: None }))
        .await;
    assert!(matches!(client.next().await, v5::Packet::UnsubAck(_)));
    client.leave().await;
    for restart in [false, true] {
        if restart {
            broker = again(broker).await;
        }
        let mut sender = broker.v5("sender").await;
        let mut publish = message("kept/x", 1, "x");
        publish.retain = true;
        assert!(sender.give(publish).await);
        assert!(sender.give(message("gone", 1, "x")).await);
        assert!(sender.give(message("own", 2, "from another")).await);
        let (mut client, _) = back(&broker, "c").await;
        let seen = client.take().await;
        let ids = |publish: &v5::Publish| publish.properties.clone().expect("properties").subscription_identifiers;
        assert_eq!((&seen.topic[..], seen.retain, ids(&seen)), (&b"kept/x"[..], true, vec![268_435_455]));
        let seen = client.take().await;
        assert_eq!((&seen.payload[..], seen.qos, ids(&seen)), (&b"from another"[..], QoS5::ExactlyOnce, vec![7]));
        assert!(client.give(message("own", 1, "from itself")).await);
        client.ping().await;
        client.leave().await;
    }
    broker.stop().await;
}

/// A user's MQTT 5 client.
async fn of_user(broker: &Running, id: &str, user: &str) -> (Client5, v5::ConnAck) {
    Client5::open(broker.address, id, |wishes| {
        lasting(3600)(wishes);
        wishes.login = Some(v5::Login { username: user.to_owned(), password: user.to_owned() });
    })
    .await
}

#[tokio::test]
async fn nobody_else_gets_at_a_session_neither_its_queue_nor_its_connection() {
    use ironbridge::config::plan::AclPlan;
    let acl = AclPlan { user: "*".to_owned(), read: vec!["#".to_owned()], write: Vec::new(), operate: Vec::new() };
    let setup = || Setup { users: vec!["ann", "ben"], acl: vec![acl.clone()], ..Setup::default() };
    let mut broker = Running::with(setup()).await;
    let (mut ann, _) = of_user(&broker, "hmi", "ann").await;
    ann.subscribe(filter("secret", 1), None).await;
    let refused = |connack: v5::ConnAck| connack.code == v5::ConnectReturnCode::ClientIdentifierNotValid;
    assert!(refused(of_user(&broker, "hmi", "ben").await.1), "not while she is there");
    assert!(refused(Client5::open(broker.address, "hmi", |_| {}).await.1), "nor with a clean start, or without a name");
    let mut connect = v4::Connect::new("hmi");
    connect.keep_alive = 0;
    assert_eq!(Client4::open(broker.address, connect).await.1.code, v4::ConnectReturnCode::BadClientId);
    ann.ping().await;
    ann.leave().await;
    assert!(refused(of_user(&broker, "hmi", "ben").await.1), "nor when she has left");
    assert!(broker.v5("sender").await.give(message("secret", 1, "for ann")).await);
    broker = Running::at(setup(), broker.stop().await).await;
    assert!(refused(of_user(&broker, "hmi", "ben").await.1), "nor after a restart");
    let (mut ann, connack) = of_user(&broker, "hmi", "ann").await;
    assert!(connack.session_present);
    assert_eq!(ann.take().await.payload, "for ann");
    broker.stop().await;
}
