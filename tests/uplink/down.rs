//! Topics that come down, against a broker in the test's hands: acknowledged when they are kept here and not before, each
//! by its name here, on a session that persists.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::{DownPlan, MqttVersion, Notifications, ReceiveQos, RetainHere, Use};
use ironbridge::flow::forward::Letter;
use ironbridge::model::mapping::Mapping;
use ironbridge::model::message::{ClientMessage, Kept, Properties};
use ironbridge::uplink::{Handed, LocalBroker};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::v5::mqttbytes::v5::RetainForwardRule::{Never, OnEverySubscribe, OnNewSubscribe};
use tokio::sync::oneshot;

use crate::letters::{at, clock};
use crate::patience::until;
use cloud::Cloud;
use owed::{OwedList, letter};
use rig::Rig;

/// The local broker: what it was given, and what it has not yet said about it.
#[derive(Default)]
struct Local {
    letters: Mutex<Vec<Letter>>,
    open: Mutex<Vec<oneshot::Sender<bool>>>,
    /// How often this topic was refused outright, while it is.
    refused: Mutex<Option<(&'static str, usize)>>,
    /// What may not be replaced, of each letter.
    newest: Mutex<Vec<Option<u64>>>,
    /// Of what is retained here.
    version: AtomicU64,
    /// What is to be retained is older than what is here.
    supersedes: AtomicBool,
}

impl LocalBroker for Local {
    fn pass_on(&self, letter: Letter, newest: Option<u64>) -> Handed {
        if letter.topic.starts_with("own/") {
            return Handed::Refused;
        }
        if newest.is_some() && self.supersedes.load(Relaxed) {
            return Handed::Superseded;
        }
        if let Some((topic, times)) = &mut *self.refused.lock().unwrap()
            && letter.topic.ends_with(*topic)
        {
            *times += 1;
            return Handed::On(Box::pin(std::future::ready(false)));
        }
        let (said, told) = oneshot::channel();
        self.newest.lock().unwrap().push(newest);
        self.letters.lock().unwrap().push(letter);
        self.open.lock().unwrap().push(said);
        Handed::On(Box::pin(async move { told.await.unwrap_or(false) }))
    }

    fn retained_version(&self) -> u64 {
        self.version.load(Relaxed)
    }
}

impl Local {
    fn topics(&self) -> Vec<String> {
        self.letters.lock().unwrap().iter().map(|letter| letter.topic.to_string()).collect()
    }

    fn answer(&self, place: usize, kept: bool) {
        self.open.lock().unwrap().remove(place).send(kept).unwrap();
    }
}

fn down(filter: &str, local_prefix: &str) -> DownPlan {
    let mapping = Mapping { local_prefix: local_prefix.into(), remote_prefix: "up/".into(), ..Mapping::plain(filter) };
    DownPlan { mapping, qos: ReceiveQos::AtLeastOnce, retain: RetainHere::AsPublished, both_ways: false }
}

/// One with topics that go both ways.
fn both_ways(cloud: &Cloud, owed: &OwedList, local: &Arc<Local>) -> Rig {
    Rig::start_with(cloud, owed, |parts| {
        parts.plan.mqtt_version = MqttVersion::V5;
        parts.plan.downs = vec![down("a/#", "cloud/"), DownPlan { both_ways: true, ..down("b/#", "") }];
        parts.pass_on = Some(local.clone());
    })
}

/// An uplink that is owed nothing, and so ends at once when it may.
fn start(cloud: &Cloud, local: &Arc<Local>, version: MqttVersion) -> (Rig, OwedList) {
    let owed = OwedList::default();
    let rig = Rig::start_with(cloud, &owed, |parts| {
        parts.plan.mqtt_version = version;
        parts.plan.session_expiry = Duration::from_secs(3600);
        parts.plan.downs = vec![down("a/#", "cloud/"), down("o/#", "own/")];
        parts.pass_on = Some(local.clone());
    });
    (rig, owed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_down_is_acknowledged_in_order_and_when_it_is_kept_here() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
        let (rig, owed) = start(&cloud, &local, version);
        cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
        assert_eq!(cloud.subscriptions()[0].1, ["up/a/#", "up/o/#"]);
        assert!(!cloud.connects()[0].clean_session, "its session persists");
        if version == MqttVersion::V5 {
            let properties = cloud.connect_properties()[0].clone().unwrap();
            assert_eq!(properties.session_expiry_interval, Some(3600));
        }
        let user = vec![("k".to_owned(), "v".to_owned())];
        cloud.deliver_with("up/a/1", b"first", |it| {
            it.retain = true;
            it.properties = Some(PublishProperties { user_properties: user.clone(), ..PublishProperties::default() });
        });
        cloud.deliver("up/a/2", b"second");
        until("both are handed on", || local.topics() == ["cloud/a/1", "cloud/a/2"]).await;
        {
            let letters = local.letters.lock().unwrap();
            assert_eq!((&*letters[0].message.payload, letters[0].message.kept), (&b"first"[..], Kept::Yes));
            if version == MqttVersion::V5 {
                assert_eq!(letters[0].message.properties.user, user);
            }
        }
        local.answer(1, true); // the second one is kept before the first
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(cloud.acknowledged(), 0, "not before the first");
        local.answer(0, false); // it could not be kept: once more
        until("tried again", || local.topics().len() == 4).await;
        assert_eq!(cloud.acknowledged(), 0);
        assert_eq!(local.topics()[2..], ["cloud/a/1", "cloud/a/2"], "and what is newer has the last word");
        local.answer(0, true);
        cloud.until("the first is acknowledged", |cloud| cloud.acknowledged() == 1).await;
        local.answer(0, true);
        cloud.until("acknowledged", |cloud| cloud.acknowledged() == 2).await;
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retained_on_topics_that_go_both_ways_is_asked_for_once_all_that_was_owed_has_arrived() {
    let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
    cloud.withhold_acks(true);
    let owed = OwedList::default();
    owed.samples(1..=3);
    let rig = both_ways(&cloud, &owed, &local);
    cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
    cloud.until("the first is on its way", |cloud| !cloud.log().is_empty()).await;
    assert_eq!(cloud.subscriptions().len(), 1, "nothing has arrived");
    cloud.withhold_acks(false);
    cloud.until("subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    assert_eq!(owed.acknowledged(), 3, "all that was owed");
    assert_eq!(cloud.subscriptions()[1].1, ["up/b/#"]);
    let wanted = [vec![Some(OnNewSubscribe), Some(Never)], vec![Some(OnEverySubscribe)]];
    assert_eq!(cloud.retained_wanted(), wanted);
    cloud.deliver_with("up/b/1", b"x", |it| it.retain = true);
    cloud.deliver_with("up/a/1", b"x", |it| it.retain = true);
    cloud.deliver("up/b/2", b"x");
    until("it counts now", || local.topics() == ["b/1", "cloud/a/1", "b/2"]).await;
    let newest = [Some(0), None, None];
    assert_eq!(*local.newest.lock().unwrap(), newest, "only where it may be older than what has been said here since");
    (0..3).for_each(|_| local.answer(0, true));
    cloud.until("acknowledged", |cloud| cloud.acknowledged() == 3).await;
    owed.samples(4..=40);
    until("and all goes on", || owed.acknowledged() == 40).await;
    owed.end();
    rig.finished().await;
    // Where nothing waits, nothing can be newer.
    let owed = OwedList::default();
    let rig = both_ways(&cloud, &owed, &local);
    cloud.until("subscribed", |cloud| cloud.subscriptions().len() == 3).await;
    assert_eq!(cloud.retained_wanted()[2], [Some(OnNewSubscribe), Some(OnEverySubscribe)], "a process begins anew");
    owed.end();
    rig.finished().await;
    assert_eq!(cloud.subscriptions().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retained_on_topics_that_go_both_ways_comes_behind_all_that_waits_for_the_window() {
    let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
    cloud.agrees(|properties| properties.receive_max = Some(2)); // so one at a time
    cloud.ack_slowly(Duration::from_millis(50));
    let owed = OwedList::default();
    owed.samples(1..=3);
    let rig = both_ways(&cloud, &owed, &local);
    cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
    owed.samples(4..=12); // published while the backlog drains
    cloud.until("subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    assert!(owed.acknowledged() >= 11, "asked for after {}", owed.acknowledged());
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_has_not_committed_yet_arrives_before_what_is_retained_is_asked_for() {
    let (cloud, local, owed) = (Cloud::start().await, Arc::<Local>::default(), OwedList::default());
    cloud.withhold_acks(true);
    owed.commit_when_asked([owed::sample(1)]);
    let rig = both_ways(&cloud, &owed, &local);
    cloud.until("the first is on its way", |cloud| !cloud.log().is_empty()).await;
    assert_eq!(
        cloud.retained_wanted(),
        [[Some(OnNewSubscribe), Some(Never)]],
        "it is newer than what is retained there"
    );
    owed.commit_when_asked([owed::sample(2)]); // published here before it is asked for
    cloud.withhold_acks(false);
    cloud.until("subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    assert_eq!((owed.acknowledged(), cloud.retained_wanted()[1].clone()), (2, vec![Some(OnEverySubscribe)]));
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_session_did_not_come_to_read_of_what_is_retained_is_read_in_the_next() {
    let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
    cloud.withhold_acks(true);
    let owed = OwedList::default();
    owed.samples(1..=1);
    let rig = both_ways(&cloud, &owed, &local);
    cloud.until("all is on its way", |cloud| !cloud.log().is_empty()).await;
    cloud.no_suback(true); // the second SUBSCRIBE gets no answer
    cloud.withhold_acks(false);
    cloud.until("subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    cloud.no_suback(false);
    cloud.cut();
    cloud.until("a session without a backlog", |cloud| cloud.subscriptions().len() == 3).await;
    assert_eq!(cloud.retained_wanted()[2], [Some(OnNewSubscribe), Some(OnEverySubscribe)]);
    until("connected", || rig.stats.connected.get() == 1).await;
    cloud.cut();
    cloud.until("another", |cloud| cloud.subscriptions().len() == 4).await;
    assert_eq!(cloud.retained_wanted()[3], [Some(OnNewSubscribe), Some(OnNewSubscribe)], "it has been read");
    owed.end();
    rig.finished().await;
    assert_eq!(cloud.subscriptions().len(), 4);
}

/// Two rules that go both ways, and how soon what was contested is read again.
fn contested(cloud: &Cloud, owed: &OwedList, local: &Arc<Local>, read_again: Duration) -> Rig {
    Rig::start_with(cloud, owed, |parts| {
        parts.plan.mqtt_version = MqttVersion::V5;
        parts.plan.downs = ["b/#", "c/#"].map(|filter| DownPlan { both_ways: true, ..down(filter, "") }).into();
        parts.pass_on = Some(local.clone());
        parts.timing.read_again = read_again;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_because_a_newer_one_is_here_is_read_again_once_that_has_arrived_there() {
    let (cloud, local, owed) = (Cloud::start().await, Arc::<Local>::default(), OwedList::default());
    let rig = contested(&cloud, &owed, &local, Duration::from_millis(50));
    until("connected", || rig.stats.connected.get() == 1).await;
    cloud.withhold_acks(true);
    owed.samples(1..=1);
    cloud.until("something new is on its way", |cloud| !cloud.log().is_empty()).await;
    local.version.store(9, Relaxed);
    local.supersedes.store(true, Relaxed);
    owed.commit_when_asked([owed::sample(2)]);
    cloud.deliver_with("up/b/1", b"x", |it| it.retain = true);
    cloud.until("acknowledged all the same", |cloud| cloud.acknowledged() == 1).await;
    assert_eq!((rig.stats.down_superseded.get(), rig.stats.down.get(), rig.stats.down_refused.get()), (1, 0, 0));
    cloud.withhold_acks(false);
    cloud.until("subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    assert_eq!((owed.acknowledged(), &cloud.subscriptions()[1].1[..]), (2, &["up/b/#".to_owned()][..]));
    assert_eq!(cloud.retained_wanted()[1], [Some(OnEverySubscribe)]);
    local.supersedes.store(false, Relaxed);
    cloud.deliver_with("up/b/1", b"x", |it| it.retain = true);
    until("it is taken now", || local.topics() == ["b/1"]).await;
    assert_eq!(*local.newest.lock().unwrap(), [Some(9)], "the fence has moved on");
    local.answer(0, true);
    owed.end();
    rig.finished().await;
    assert_eq!(cloud.subscriptions().len(), 2, "and that is all");
}

fn retained(payload: &[u8], expiry_s: Option<u32>) -> ClientMessage {
    ClientMessage { payload: payload.into(), kept: Kept::Yes, expiry_s, properties: Properties::default() }
}

/// A bridge of topics that go both ways, which soon reads again what was contested.
fn bridge(cloud: &Cloud, owed: &OwedList, local: &Arc<Local>) -> Rig {
    Rig::start_with(cloud, owed, |parts| {
        (parts.plan.mqtt_version, parts.clock) = (MqttVersion::V5, clock());
        parts.plan.usage = Use::Bridge(Notifications::None);
        parts.plan.downs = vec![DownPlan { both_ways: true, ..down("b/#", "") }];
        parts.pass_on = Some(local.clone());
        parts.timing.read_again = Duration::from_millis(50);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_up_from_here_and_comes_back_with_what_is_retained_there_is_no_reason_to_read_it_once_more() {
    let (cloud, local, owed) = (Cloud::start().await, Arc::<Local>::default(), OwedList::default());
    let rig = bridge(&cloud, &owed, &local);
    until("connected", || rig.stats.connected.get() == 1).await;
    owed.push([letter("b/1", 1, at(2, 0), retained(b"on", None))]);
    until("it is there, and this broker knows no No Local", || local.topics() == ["b/1"]).await;
    local.answer(0, true);
    cloud.until("acknowledged both ways", |cloud| owed.acknowledged() == 1 && cloud.acknowledged() == 1).await;
    local.supersedes.store(true, Relaxed);
    cloud.deliver_with("up/b/1", b"on", |it| it.retain = true);
    cloud.until("not taken, and subscribed again", |cloud| cloud.subscriptions().len() == 2).await;
    assert_eq!((rig.stats.down_superseded.get(), rig.stats.down.get()), (1, 1), "somebody there, after the question");
    cloud.deliver_with("up/b/1", b"on", |it| it.retain = true);
    cloud.until("acknowledged", |cloud| cloud.acknowledged() == 3).await;
    assert_eq!((rig.stats.down_superseded.get(), rig.stats.down.get()), (1, 2), "what stood there at the second one");
    cloud.deliver_with("up/b/1", b"on", |it| it.retain = true);
    cloud.until("not taken, and subscribed again", |cloud| cloud.subscriptions().len() == 3).await;
    assert_eq!((rig.stats.down_superseded.get(), rig.stats.down.get()), (2, 2), "somebody there once more");
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_before_it_could_go_takes_nothing_away_where_somebody_there_may_have_left_a_newer_one() {
    let (cloud, local, owed) = (Cloud::start().await, Arc::<Local>::default(), OwedList::default());
    let rig = bridge(&cloud, &owed, &local);
    let over = |topic, seq| letter(topic, seq, at(2, 0), retained(b"x", Some(60)));
    owed.push([over("b/1", 1), over("c/1", 2)]);
    cloud.until("both are settled", |_| owed.acknowledged() == 2).await;
    assert_eq!((cloud.on("up/b/1").len(), cloud.on("up/c/1").len(), rig.stats.expired.get()), (0, 1, 2));
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_is_read_in_the_next_session_where_this_one_did_not_come_to_it() {
    let (cloud, local, owed) = (Cloud::start().await, Arc::<Local>::default(), OwedList::default());
    let rig = contested(&cloud, &owed, &local, Duration::from_secs(3600));
    until("connected", || rig.stats.connected.get() == 1).await;
    local.supersedes.store(true, Relaxed);
    cloud.deliver_with("up/b/1", b"x", |it| it.retain = true);
    cloud.until("acknowledged all the same", |cloud| cloud.acknowledged() == 1).await;
    for wanted in [[Some(OnEverySubscribe), Some(OnEverySubscribe)], [Some(OnNewSubscribe), Some(OnNewSubscribe)]] {
        let (sessions, before) = (rig.stats.sessions.get(), cloud.subscriptions().len());
        cloud.cut();
        cloud.until("another session", |cloud| cloud.subscriptions().len() == before + 1).await;
        assert_eq!(cloud.retained_wanted()[before], wanted);
        until("which stands", || rig.stats.sessions.get() > sessions).await;
    }
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_the_gateway_or_is_too_large_is_acknowledged_and_counted_and_holds_nothing_up() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
        let (rig, owed) = start(&cloud, &local, version);
        cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
        cloud.deliver("up/o/1", b"the gateway's own");
        cloud.deliver("up/a/large", &vec![7; (1 << 20) + 1]);
        cloud.deliver("up/a/1", b"x");
        until("handed on", || local.topics() == ["cloud/a/1"]).await;
        local.answer(0, true);
        cloud.until("all acknowledged", |cloud| cloud.acknowledged() == 3).await;
        assert_eq!((rig.stats.down.get(), rig.stats.down_refused.get()), (1, 2));
        owed.end();
        rig.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_comes_again_after_a_cut() {
    let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
    let (rig, owed) = start(&cloud, &local, MqttVersion::V5);
    cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
    cloud.deliver("up/a/1", b"x");
    until("handed on", || local.topics().len() == 1).await;
    cloud.cut();
    until("handed on again", || local.topics().len() == 2).await;
    local.answer(1, true);
    cloud.until("acknowledged", |cloud| cloud.acknowledged() == 1).await;
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_behind_something_that_is_refused_outright_is_not_seen_here_again_and_again() {
    let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
    let (rig, owed) = start(&cloud, &local, MqttVersion::V5);
    cloud.until("subscribed", |cloud| !cloud.subscriptions().is_empty()).await;
    cloud.deliver("up/a/1", b"first");
    cloud.deliver("up/a/2", b"second");
    until("both are handed on", || local.topics().len() == 2).await;
    *local.refused.lock().unwrap() = Some(("a/1", 0));
    local.answer(0, false);
    until("tried three times more", || local.refused.lock().unwrap().is_some_and(|(_, times)| times == 3)).await;
    assert_eq!(local.topics(), ["cloud/a/1", "cloud/a/2"]);
    *local.refused.lock().unwrap() = None;
    until("handed on again", || local.topics().len() == 4).await;
    assert_eq!(local.topics()[2..], ["cloud/a/1", "cloud/a/2"], "in their order");
    local.answer(1, true);
    local.answer(1, true);
    cloud.until("acknowledged", |cloud| cloud.acknowledged() == 2).await;
    owed.end();
    rig.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_taken_out_is_unsubscribed_from_until_the_broker_has_said_so() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let (cloud, local) = (Cloud::start().await, Arc::<Local>::default());
        let home = tempfile::tempdir().unwrap();
        let connects = async |filters: &[&str]| {
            let (owed, before) = (OwedList::default(), cloud.subscriptions().len());
            owed.lie_in(home.path());
            let rig = Rig::start_with(&cloud, &owed, |parts| {
                parts.plan.mqtt_version = version;
                parts.plan.downs = filters.iter().map(|filter| down(filter, "")).collect();
                parts.pass_on = Some(local.clone());
            });
            cloud.until("subscribed", |cloud| cloud.subscriptions().len() > before).await;
            owed.samples(1..=1);
            until("and all goes on", || owed.acknowledged() == 1).await;
            owed.end();
            rig.finished().await;
            cloud.unsubscribed()
        };
        assert_eq!(connects(&["#", "b/#", "c/#"]).await, Vec::<String>::new());
        assert_eq!(connects(&["#", "b/#", "c/#"]).await, Vec::<String>::new());
        cloud.no_unsuback(true);
        assert_eq!(connects(&["c/#"]).await, ["up/#", "up/b/#"]);
        cloud.no_unsuback(false);
        assert_eq!(connects(&["c/#"]).await[2..], ["up/#", "up/b/#"], "again, for it did not answer");
        assert_eq!(connects(&["c/#"]).await.len(), 4, "and then no more");
    }
}
