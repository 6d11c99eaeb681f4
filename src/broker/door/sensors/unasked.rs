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
use super::translator::Rules;
use crate::broker::door::Porch;
use crate::broker::door::needed::needed;
use crate::broker::door::shown::{Peer, Shown};
use crate::broker::message::{Qos, Retain};
use crate::broker::sn::{Kept, Publish, Topic};
use crate::config::plan::{AddressRange, UnaskedPlan, admits};
use crate::model::topic::check_topic;

/// Messages on their way to the broker.
const WAITING: usize = 64;

/// Pause before the broker is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest packet we take; nothing is subscribed to.
const PACKET_BYTES: u32 = 4096;

/// The road for them.
#[derive(Debug)]
pub(super) struct Unasked {
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
    pub(super) fn begin(plan: &UnaskedPlan, porch: &Arc<Porch>, tracker: &TaskTracker) -> Self {
        let (road, posts) = mpsc::channel(WAITING);
        let running = run(plan.user.as_str().into(), Arc::clone(porch), tracker.clone(), posts);
        tracker.spawn(needed("unasked publishes", &porch.name, &porch.shared.lost, running));
        Self { from: plan.from.clone(), road }
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
        match topic.filter(|topic| check_topic(topic).is_ok()) {
            Some(topic) if admits(&self.from, from) && (!retains || rules.retain_available) => {
                self.road.try_send(Post { topic, retain: retains.into(), payload }).is_ok()
            }
            _ => false,
        }
    }
}

/// Until the door is closed.
async fn run(user: Arc<str>, porch: Arc<Porch>, tracker: TaskTracker, mut posts: mpsc::Receiver<Post>) {
    while let Some(first) = posts.recv().await {
        let mut packets = BytesMut::new();
        say(&mut packets, first);
        let shown = Shown { peer: Peer::Gone, certificate: None, sensor: Some(Arc::clone(&user)) };
        let connect = inner::connect(&format!("mqtt-sn:{}", porch.name), true, PACKET_BYTES, None);
        let mut pipe = Pipe::enter(&porch, &tracker, (shown, connect), ());
        let served = serve(&mut pipe, &mut packets, &mut posts).await;
        if served == Served::Closed {
            return pipe.leave(packets).await;
        }
        pipe.vanish().await;
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
    /// The broker has ended it.
    Ended,
}

async fn serve(pipe: &mut Pipe, packets: &mut BytesMut, posts: &mut mpsc::Receiver<Post>) -> Served {
    loop {
        let room = packets.is_empty();
        tokio::select! {
            post = posts.recv(), if room => match post {
                Some(post) => say(packets, post),
                None => return Served::Closed,
            },
            turned = pipe.turn(true, packets) => {
                let refused = |heard| matches!(heard, Heard::Disconnect | Heard::Connack { reason: 1.. });
                if !matches!(turned, Ok(1..)) || std::iter::from_fn(|| pipe.next()).any(refused) {
                    return Served::Ended;
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
