//! Bridges and topics that come down, between whole gateways and to a real mosquitto: prefixes, retained messages, no
//! circles; and nothing acknowledged lost, whatever is cut and killed.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::gateway;
use crate::peers;

use gateway::{Daemon, Home, PATIENCE, Plc, Watch, config, tag, until};
use ironbridge::plant::link::{Link, LinkState};
use peers::{Far, Listener, Pour, end_session, free_port, publish, publish_unasked};
use rustix::process::Signal;
use serde_json::json;

/// A gateway that listens on a port of its own, so that its clients find it again after a kill.
struct Near {
    home: Home,
    port: u16,
    daemon: Option<Daemon>,
}

impl Near {
    fn start(text: &str) -> Self {
        let port = free_port();
        let home = Home::new(&text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\"")));
        let daemon = Some(home.run());
        Self { home, port, daemon }
    }

    /// With another configuration, after a stop.
    async fn again(&mut self, text: &str) {
        let listen = format!("listen = \"127.0.0.1:{}\"", self.port);
        self.home.configure(&text.replace("listen = \"127.0.0.1:0\"", &listen));
        self.daemon = Some(self.home.run());
        self.daemon.as_ref().unwrap().mqtt().await;
    }

    /// SIGKILL and, once nobody gets in any more, a new one.
    async fn kill(&mut self) {
        self.daemon = None; // dropped: killed
        until("it is gone", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err()).await;
        self.daemon = Some(self.home.run());
        self.daemon.as_ref().unwrap().mqtt().await;
    }

    async fn stop(&mut self) -> Option<i32> {
        self.daemon.take().unwrap().stop().await
    }
}

fn bridge(to: u16, topics: &[&str]) -> String {
    let topics = topics.iter().fold(String::new(), |all, keys| all + "[[bridge.topic]]\n" + keys + "\n");
    format!("[[bridge]]\nname = \"far\"\nurl = \"mqtt://127.0.0.1:{to}\"\n{topics}")
}

async fn out_in_and_both(far: Far) {
    let plc = Plc::start().await;
    plc.set(0, &[7]);
    let text = config(plc.line.address())
        + &tag("speed", "holding:0", "uint16", "access = \"read-write\"\nwrite = { min = 0, max = 100 }")
        + &bridge(
            far.port(),
            &[
                "filter = \"o/#\"\nremote_prefix = \"a/\"",
                "filter = \"quiet/#\"\nretain = false",
                "filter = \"i/#\"\ndirection = \"in\"\nlocal_prefix = \"far/\"",
                "filter = \"b/#\"\ndirection = \"both\"",
                "filter = \"gw/#\"\ndirection = \"in\"",
            ],
        );
    // Retained before there was a bridge.
    let mut near = Near::start(text.split("[[bridge]]").next().unwrap());
    near.daemon.as_ref().unwrap().mqtt().await;
    publish(near.port, "o/before", "old", true).await;
    publish(near.port, "quiet/before", "old", true).await;
    assert_eq!(near.stop().await, Some(0));
    near.again(&text).await;
    let watch = Watch::on_all(near.daemon.as_ref().unwrap().mqtt().await).await;
    watch.until("$SYS/broker/connection/gw.far/state", "connected", |state| state == 1).await;
    let (here, there) =
        (Listener::start(near.port, "here", "#").await, Listener::start(far.port(), "there", "#").await);

    publish(near.port, "o/1", "out", true).await;
    publish(near.port, "quiet/1", "out", true).await;
    publish(far.port(), "i/1", "in", true).await;
    publish(near.port, "b/1", "from here", true).await;
    publish(far.port(), "b/2", "from there", true).await;
    publish_unasked(near.port, "o/0", "out at QoS 0").await;
    publish_unasked(far.port(), "i/0", "in at QoS 0").await;
    // What is the gateway's own is not to be had from outside, and no command waits in a session.
    publish(far.port(), "gw/plc/speed", "{\"value\":99}", true).await;
    publish(far.port(), "gw/plc/speed/set", "99", false).await;
    // What went round would have been there before these: each way keeps its order.
    publish(near.port, "b/end", "of here", false).await;
    publish(far.port(), "b/over", "of there", false).await;
    for (topic, listener) in [("b/over", &here), ("b/end", &there), ("a/o/0", &there), ("far/i/0", &here)] {
        until(topic, || !listener.on(topic).is_empty()).await;
    }
    publish(near.port, "b/end", "again", false).await;
    publish(far.port(), "b/over", "again", false).await;
    until("the end there", || there.on("b/end").len() == 2).await;
    until("the end here", || here.on("b/over").len() == 2).await;

    let of = |listener: &Listener, topic: &str| -> Vec<String> {
        listener.on(topic).iter().map(|seen| String::from_utf8_lossy(&seen.payload).into_owned()).collect()
    };
    for listener in [&here, &there] {
        assert_eq!(of(listener, "b/1"), ["from here"], "once on either side");
        assert_eq!(of(listener, "b/2"), ["from there"], "once on either side");
    }
    assert_eq!((of(&there, "a/o/1"), of(&here, "far/i/1")), (vec!["out".into()], vec!["in".into()]));
    assert_eq!((of(&there, "a/o/0"), of(&here, "far/i/0")), (vec!["out at QoS 0".into()], vec!["in at QoS 0".into()]));
    let carried = there.on("a/o/1").remove(0);
    assert_eq!(carried.user, [("unit".to_owned(), "bar".to_owned())], "properties as they are, no numbers");
    assert!(there.on("o/1").is_empty() && here.on("i/1").is_empty(), "by their names on the other side only");
    assert_eq!(here.on("gw/plc/speed/set").len(), 0, "no command");
    let speed = here.on("gw/plc/speed");
    assert!(speed.iter().all(|seen| !seen.payload.starts_with(b"{\"value\":99")), "the gateway's own stays its own");
    assert_eq!((plc.word(0), plc.writes()), (7, 0));

    // Whoever comes later finds what is retained, and only that.
    let late = Listener::start(far.port(), "late", "#").await;
    until("retained there", || ["a/o/1", "b/1", "a/o/before"].iter().all(|topic| late.on(topic).len() == 1)).await;
    assert!(late.on("quiet/before").is_empty());
    assert!(late.on("a/o/1")[0].retained && late.on("quiet/1").is_empty());
    assert!(there.on("quiet/1").iter().all(|seen| !seen.retained) && !there.on("quiet/1").is_empty());
    let late = Watch::on_all(([127, 0, 0, 1], near.port).into()).await;
    until("retained here", || late.on("far/i/1").len() == 1 && late.on("b/2").len() == 1).await;
    assert!(late.on("far/i/1")[0].retained);
    assert_eq!(near.stop().await, Some(0));
    until("told that it is gone", || late.newest("$SYS/broker/connection/gw.far/state") == Some(json!(0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_between_two_gateways_carries_out_in_and_both_and_nothing_goes_round() {
    out_in_and_both(Far::gateway().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_to_a_mosquitto_carries_out_in_and_both_and_nothing_goes_round() {
    let Some(far) = Far::mosquitto() else { return };
    out_in_and_both(far).await;
}

/// Clients on either side publish all the time, over a bridge and over an uplink with topics that come down, while the
/// link is cut, the gateway is killed and the other broker restarted.
async fn everything_acknowledged_arrives(mut far: Far) {
    let plc = Plc::start().await;
    let link = Link::to(([127, 0, 0, 1], far.port()).into()).await.unwrap();
    let to = link.address().port();
    let text = config(plc.line.address())
        + &bridge(to, &["filter = \"o/#\"", "filter = \"i/#\"\ndirection = \"in\"\nlocal_prefix = \"far/\""])
        + &format!(
            "[[uplink]]\nname = \"up\"\nurl = \"mqtt://127.0.0.1:{to}\"\ntopic_prefix = \"site/\"\nclasses = [\"bulk\"]\n"
        )
        + "[[uplink.down]]\nfilter = \"r/#\"\nlocal_prefix = \"up/\"\n"
        + "[[forward]]\nfilter = \"m/#\"\nclass = \"bulk\"\n";
    let mut near = Near::start(&text);
    let watch = Watch::on_all(near.daemon.as_ref().unwrap().mqtt().await).await;
    watch.until("$SYS/broker/connection/gw.far/state", "connected", |state| state == 1).await;
    let (here, there) =
        (Listener::start(near.port, "here", "#").await, Listener::start(far.port(), "there", "#").await);
    until("the uplink is connected", || !there.on("site/ironbridge/gw/status").is_empty()).await;
    let pours = [(near.port, "o/"), (near.port, "m/"), (far.port(), "i/"), (far.port(), "site/r/")];
    let pours = pours.map(|(port, topic)| Pour::start(port, topic));
    let some_more = || {
        let before: Vec<usize> = pours.iter().map(|pour| pour.acknowledged().len()).collect();
        move |pours: &[Pour]| pours.iter().zip(&before).all(|(pour, before)| pour.acknowledged().len() > before + 20)
    };
    until("traffic both ways", || here.count("far/i/") > 20 && here.count("up/r/") > 20 && there.count("o/") > 20)
        .await;
    for turn in 0..3 {
        link.set(if turn == 1 { LinkState::BlackHole } else { LinkState::Cut });
        let enough = some_more();
        until("published while the link is down", || enough(&pours)).await;
        near.kill().await;
        let enough = some_more();
        until("published after the kill", || enough(&pours)).await;
        if turn == 2 {
            far.restart().await;
        }
        link.set(LinkState::Up);
        let (o, i) = (there.count("o/"), here.count("far/i/"));
        until("traffic again", || there.count("o/") > o + 20 && here.count("far/i/") > i + 20).await;
        near.kill().await; // in the middle of it
    }
    let mut acknowledged = Vec::new();
    for pour in pours {
        acknowledged.push(pour.stop().await);
    }
    let arrives = [(&there, "o/"), (&there, "site/m/"), (&here, "far/i/"), (&here, "up/r/")];
    for ((listener, prefix), acknowledged) in arrives.into_iter().zip(&acknowledged) {
        let missing = || acknowledged.iter().filter(|number| !listener.has(prefix, **number)).count();
        let what = format!("all of {} acknowledged {prefix}", acknowledged.len());
        gateway::within(2 * PATIENCE, &what, || missing() == 0).await;
        println!("{prefix}: {} acknowledged, {} arrivals", acknowledged.len(), listener.count(prefix));
    }
    near.daemon.as_ref().unwrap().signal(Signal::TERM);
    assert_eq!(near.daemon.as_mut().unwrap().ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_gateways_nothing_acknowledged_is_lost_whatever_is_cut_and_killed() {
    everything_acknowledged_arrives(Far::gateway().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_bridge_to_a_mosquitto_nothing_acknowledged_is_lost_whatever_is_cut_and_killed() {
    let Some(far) = Far::mosquitto() else { return };
    everything_acknowledged_arrives(far).await;
}

/// What is retained on these topics, as somebody finds it who has just come.
async fn kept(port: u16, topics: &[&str]) -> Vec<String> {
    let late = Listener::start(port, &format!("late-{}", rand::random::<u64>()), "b/#").await;
    until("all of them are retained", || topics.iter().all(|topic| !late.on(topic).is_empty())).await;
    topics.iter().map(|topic| String::from_utf8_lossy(&late.on(topic)[0].payload).into_owned()).collect()
}

/// What was retained on either side while the link was away comes to both, also where the other broker has forgotten the
/// session and tells everything anew; where both have changed the same, they agree.
async fn both_have_what_came_last(far: Far) {
    const TOPICS: [&str; 3] = ["b/here", "b/there", "b/either"];
    let plc = Plc::start().await;
    let link = Link::to(([127, 0, 0, 1], far.port()).into()).await.unwrap();
    let bridge = bridge(link.address().port(), &["filter = \"b/#\"\ndirection = \"both\""]);
    let mut near = Near::start(&(config(plc.line.address()) + &bridge));
    let watch = Watch::on_all(near.daemon.as_ref().unwrap().mqtt().await).await;
    let state = "$SYS/broker/connection/gw.far/state";
    watch.until(state, "connected", |state| state == 1).await;
    for topic in TOPICS {
        publish(if topic == "b/there" { far.port() } else { near.port }, topic, "old", true).await;
    }
    for port in [near.port, far.port()] {
        assert_eq!(kept(port, &TOPICS).await, ["old"; 3]);
    }
    link.set(LinkState::Cut);
    watch.until(state, "cut", |state| state == 0).await;
    end_session(far.port(), "gw.far").await;
    publish(near.port, "b/here", "new", true).await;
    publish(far.port(), "b/there", "new", true).await;
    publish(near.port, "b/either", "of here", true).await;
    publish(far.port(), "b/either", "of there", true).await;
    link.set(LinkState::Up);
    watch.until(state, "connected again", |state| state == 1).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (here, there) = (kept(near.port, &TOPICS).await, kept(far.port(), &TOPICS).await);
        if here == there && here == ["new", "new", "of here"] {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "here {here:?}, there {there:?}");
    }
    assert_eq!(near.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_gateways_retained_while_the_link_was_away_is_the_same_on_both_afterwards() {
    both_have_what_came_last(Far::gateway().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_retained_here_and_on_a_mosquitto_while_the_link_was_away_is_the_same_on_both_afterwards() {
    let Some(far) = Far::mosquitto() else { return };
    both_have_what_came_last(far).await;
}

/// Soon after a bridge has come up both sides leave something on one topic, first here and then there. What comes down could be
/// of before as well; it is read again when it cannot be any more.
async fn what_came_last_counts_also_while_what_is_retained_is_on_its_way(far: Far) {
    let plc = Plc::start().await;
    let bridge = bridge(far.port(), &["filter = \"b/#\"\ndirection = \"both\""]);
    let mut near = Near::start(&(config(plc.line.address()) + &bridge));
    let watch = Watch::on_all(near.daemon.as_ref().unwrap().mqtt().await).await;
    watch.until("$SYS/broker/connection/gw.far/state", "connected", |state| state == 1).await;
    publish(near.port, "b/x", "of here", true).await;
    assert_eq!(kept(far.port(), &["b/x"]).await, ["of here"]);
    publish(far.port(), "b/x", "of there", true).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kept(near.port, &["b/x"]).await != ["of there"] {
        assert!(tokio::time::Instant::now() < deadline, "what was there first stays");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(kept(far.port(), &["b/x"]).await, ["of there"]);
    assert_eq!(near.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_two_gateways_leave_on_one_topic_as_soon_as_they_are_connected_the_last_counts() {
    what_came_last_counts_also_while_what_is_retained_is_on_its_way(Far::gateway().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_is_left_here_and_on_a_mosquitto_as_soon_as_they_are_connected_the_last_counts() {
    let Some(far) = Far::mosquitto() else { return };
    what_came_last_counts_also_while_what_is_retained_is_on_its_way(far).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_bridges_that_carry_a_topic_both_ways_neither_brings_back_what_is_older_than_what_the_other_has_brought()
{
    let (one, other, plc) = (Far::gateway().await, Far::gateway().await, Plc::start().await);
    let link = Link::to(([127, 0, 0, 1], one.port()).into()).await.unwrap();
    link.set(LinkState::BlackHole);
    let topics = ["filter = \"b/#\"\ndirection = \"both\""];
    let bridges = bridge(link.address().port(), &topics)
        + &bridge(other.port(), &topics).replace("name = \"far\"", "name = \"other\"");
    publish(one.port(), "b/x", "old", true).await;
    let mut near = Near::start(&(config(plc.line.address()) + &bridges));
    let watch = Watch::on_all(near.daemon.as_ref().unwrap().mqtt().await).await;
    watch.until("$SYS/broker/connection/gw.other/state", "connected", |state| state == 1).await;
    link.set(LinkState::Slow(std::time::Duration::from_secs(1)));
    until("the session with the one has begun", || link.stats().bytes_up.get() > 0).await;
    publish(other.port(), "b/x", "new", true).await; // before what is retained at the one has come here
    watch.until("$SYS/broker/connection/gw.far/state", "connected", |state| state == 1).await;
    link.set(LinkState::Up);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for port in [one.port(), near.port, other.port()] {
        while kept(port, &["b/x"]).await != ["new"] {
            assert!(tokio::time::Instant::now() < deadline, "what is older has taken the place of what is newer");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    publish(near.port, "b/end", "all is through", true).await;
    for port in [one.port(), near.port, other.port()] {
        assert_eq!(kept(port, &["b/x", "b/end"]).await, ["new", "all is through"]);
    }
    assert_eq!(near.stop().await, Some(0));
}
