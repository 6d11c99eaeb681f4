//! Publishes at QoS −1 (section 6.8): without a connection, and so without anybody who could be asked. They are published
//! at QoS 0 by one client of ours with the rights of `publish_user`, on predefined topics and short ones only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::inner::{self, Heard, Said};
use super::pipe::Pipe;
use super::rules::Rules;
use crate::broker::door::Porch;
use crate::broker::door::needed::needed;
use crate::broker::door::shown::{Peer, Shown};
use crate::broker::message::{Qos, Retain};
use crate::broker::sn::{Kept, Publish, Topic};
use crate::broker::stats::SensorStats;
use crate::broker::talk::Trouble;
use crate::config::plan::{AddressRange, UnaskedPlan, admits};
use crate::model::topic::{INSIDE_ID, check_topic};

/// Messages on their way to the broker.
const WAITING: usize = 64;

/// Pause before the broker is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest packet we take; nothing is subscribed to.
const PACKET_BYTES: u32 = 4096;

/// The road for them.
#[derive(Debug)]
pub(super) struct Unasked {
    user: String,
    from: Vec<AddressRange>,
    road: mpsc::Sender<Post>,
}

#[derive(Debug)]
struct Post {
    topic: String,
    retain: Retain,
    payload: Vec<u8>,
}

impl Unasked {
    /// By this plan, and the same as before as long as its user is.
    pub(super) fn follow(before: Option<Self>, plan: &UnaskedPlan, porch: &Arc<Porch>, tracker: &TaskTracker) -> Self {
        let UnaskedPlan { user, from } = plan.clone();
        let road = before.filter(|before| before.user == user).map(|before| before.road);
        let road = road.unwrap_or_else(|| {
            let (road, posts) = mpsc::channel(WAITING);
            let running = run(user.as_str().into(), Arc::clone(porch), tracker.clone(), posts);
            tracker.spawn(needed("unasked publishes", &porch.name, &porch.shared.lost, running));
            road
        });
        Self { user, from, road }
    }

    pub(super) fn is_of(&self, user: &str) -> bool {
        self.user == user
    }

    /// Hands it in; false: it may not be, or there is no room.
    pub(super) fn take(&self, publish: Publish, from: IpAddr, rules: &Rules) -> bool {
        let Publish { topic, kept, payload, .. } = publish;
        let topic = match topic {
            Topic::Id(_) => None, // nobody has registered it
            Topic::Predefined(id) => rules.plan.topic(id).map(ToOwned::to_owned),
            Topic::Short(name) => String::from_utf8(name.to_vec()).ok(),
        };
        let retains = kept == Kept::Yes;
        let forbidden = retains && !rules.terms.retain_available || rules.terms.is_too_long(&payload);
        match topic.filter(|topic| check_topic(topic).is_ok()) {
            Some(topic) if admits(&self.from, from) && !forbidden => {
                self.road.try_send(Post { topic, retain: retains.into(), payload }).is_ok()
            }
            _ => false,
        }
    }
}

/// Until the door is closed.
async fn run(user: Arc<str>, porch: Arc<Porch>, tracker: TaskTracker, mut posts: mpsc::Receiver<Post>) {
    let mut trouble = Trouble::default();
    while let Some(first) = posts.recv().await {
        let shown = Shown { peer: Peer::Gone, certificate: None, sensor: Some(Arc::clone(&user)) };
        // Nobody else may come with such an id, and so nobody can take its place; nor that of its user's successor.
        let connect = inner::connect(&format!("{INSIDE_ID}mqtt-sn:{}:{user}", porch.name), true, PACKET_BYTES, None);
        let mut pipe = Pipe::enter(&porch, &tracker, (shown, connect), ());
        let stats = &porch.shared.stats.sensors;
        let served = serve(&mut pipe, first, &mut posts, stats).await;
        let Served::Ended { reason } = served else { return pipe.leave(BytesMut::new()).await };
        pipe.vanish().await;
        while posts.try_recv().is_ok() {
            stats.unasked_refused.one(); // by the time there is a connection they would be old, and bear no time
        }
        if porch.closed.is_cancelled() || porch.end.is_cancelled() {
            return;
        }
        if trouble.is_news() {
            tracing::warn!(listener = porch.name, reason, "publishes at QoS -1 are not taken, trying on");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = porch.closed.cancelled() => return,
            () = porch.end.cancelled() => return,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// The door is closed.
    Closed,
    /// The broker has ended it; what CONNACK said, if it was that.
    Ended { reason: Option<u8> },
}

/// Nothing is said before the broker has let it in; what it has then taken in is counted, and what it has not as well.
async fn serve(pipe: &mut Pipe, first: Post, posts: &mut mpsc::Receiver<Post>, stats: &SensorStats) -> Served {
    let (mut packets, mut is_in, mut at_hand) = (BytesMut::new(), false, Some(first));
    loop {
        if is_in && let Some(post) = at_hand.take() {
            say(&mut packets, post);
        }
        let says = !packets.is_empty();
        tokio::select! {
            post = posts.recv(), if is_in && !says => match post {
                Some(post) => at_hand = Some(post),
                None => return Served::Closed,
            },
            turned = pipe.turn(true, &mut packets) => {
                if says && packets.is_empty() {
                    stats.unasked.one();
                }
                let (mut ended, mut reason) = (!matches!(turned, Ok(1..)), None);
                while let Some(heard) = pipe.next() {
                    match heard {
                        Heard::Connack { reason: 0 } => is_in = true,
                        Heard::Connack { reason: refused } => (ended, reason) = (true, Some(refused)),
                        Heard::Disconnect => ended = true,
                        _ => {}
                    }
                }
                if ended {
                    if at_hand.is_some() || !packets.is_empty() {
                        stats.unasked_refused.one();
                    }
                    return Served::Ended { reason };
                }
            }
        }
    }
}

fn say(packets: &mut BytesMut, post: Post) {
    let Post { topic, retain, payload } = post;
    let (again, qos, packet_id) = (false, Qos::AtMostOnce, 0);
    inner::publish(packets, Said { again, qos, retain, packet_id, topic: &topic, payload: &payload });
}
