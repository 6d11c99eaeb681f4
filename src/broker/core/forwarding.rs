//! What clients publish and the gateway is to send upstream: handed to [`crate::flow::forward`]. And what comes down from
//! there: published as a client's message would be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::{Company, Core, Origin, PAGE_RETAINED, Sender, Shared};
use crate::access::Identity;
use crate::broker::carried;
use crate::broker::message::{Keep, Message, Qos, Retain};
use crate::broker::retained::{Author, Cursor, Look, Rest};
use crate::broker::tree::ClientKey;
use crate::broker::will::LastWill;
use crate::disk::ledger::{Committed, Ledger, NotCommitted};
use crate::flow::forward::{ForwardEntry, Letter, Refused};
use crate::model::message::Kept;
use crate::model::topic::{Owner, check_topic};

/// What a store did not take is handed in again, and what the disk does not take looked after, after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Resolves when a message is stored, or is not going to be.
pub(in crate::broker) type Stored = Pin<Box<dyn Future<Output = Result<(), Refused>> + Send>>;

/// The same for a message that came down.
pub(in crate::broker) type PassedOn = Pin<Box<dyn Future<Output = Result<(), NotTaken>> + Send>>;

/// Why a message from elsewhere is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// No topic for anybody but the gateway, a command for it, or one to clients that is retained: it never will be.
    #[error("the topic belongs to the gateway")]
    NotOurs,
    /// It was to be retained, and what has been left here may be newer: that stays.
    #[error("a newer one is retained here")]
    Superseded,
    /// Something that it is owed to could not keep it. Sent again it may be taken.
    #[error("it could not be kept")]
    NoRoom,
}

impl Shared {
    /// Hands a message in where its topic goes upstream; what must be awaited before it is acknowledged, if anything. What is
    /// between an edge node that the gateway is here and its hosts goes upstream by an uplink, or not at all: its births and
    /// numbers are of this broker.
    pub(in crate::broker) fn forward(&self, message: &Message, retain: Retain) -> Option<Stored> {
        if !self.forward.wants(&message.topic, None) || !self.ownership.of(&message.topic).is_clients() {
            return None;
        }
        at_once(self.forward.submit(carried::letter(message, retain, self.clock.now())))
    }

    /// A message that came down from elsewhere, to local clients and to wherever else it is forwarded; resolves when all of
    /// it is on disk that must be. One that has expired while it could not be kept goes nowhere, and may be acknowledged, and
    /// what it was to replace is not true any more; nor does one in the place of which a client has left another, or another
    /// bridge brought one, since what is retained had the version `newest`.
    pub(in crate::broker) fn pass_on(
        self: &Arc<Self>,
        letter: Letter,
        newest: Option<u64>,
    ) -> Result<PassedOn, NotTaken> {
        let owner = self.ownership.of(&letter.topic);
        // A command that is retained there may be of long ago: it is not carried out once more at each connection.
        let is_old_command = owner == Owner::ClientSet && letter.message.kept == Kept::Yes;
        if check_topic(&letter.topic).is_err() || !owner.is_clients() || is_old_command {
            return Err(NotTaken::NotOurs);
        }
        let Some(message) = carried::message(&letter, self.clock.age(letter.at)) else {
            self.stats.dropped_expired.one();
            if letter.message.kept == Kept::Yes {
                self.outlive(&letter, newest)?;
            }
            return Ok(Box::pin(std::future::ready(Ok(()))));
        };
        let message = Arc::new(message);
        let is_kept = letter.message.kept == Kept::Yes;
        let retain = Retain::from(is_kept && self.limits.retain_available);
        if is_kept && retain == Retain::No {
            self.outdate(&letter.topic);
        }
        let (client, company) = (ClientKey::NOBODY, Company::InRow);
        let origin =
            Origin { client, who: None, packet_id: None, company, pressure: None, bridge: letter.from.as_ref() };
        let published = {
            let mut core = self.lock();
            if newest.is_some_and(|version| core.retained.is_newer(&letter.topic, version, letter.from.as_deref())) {
                tracing::debug!(topic = &*letter.topic, "retained upstream, and a newer one has been left here");
                return Err(NotTaken::Superseded);
            }
            self.keep_and_route(&mut core, &message, retain, Sender::Client(origin)).map_err(|_| NotTaken::NoRoom)?
        };
        let stored = self
            .forward
            .wants(&letter.topic, letter.from.as_deref())
            .then(|| at_once(self.forward.submit(letter.clone())))
            .flatten();
        let committed = published.committed.filter(|_| message.qos != Qos::AtMostOnce);
        let shared = Arc::clone(self);
        Ok(Box::pin(async move {
            if let Some(stored) = stored {
                stored_at_last(stored, &shared.forward, &letter).await;
            }
            match committed {
                None => {}
                // What a session was to be owed is given up where the commit fails: it has to come again.
                Some(committed) if published.owed => {
                    committed.await.unwrap_or(Err(NotCommitted)).map_err(|_| NotTaken::NoRoom)?;
                }
                Some(committed) => kept_at_last(committed, &shared.disk).await,
            }
            Ok(())
        }))
    }

    /// What was to be retained on this topic came, and has expired: so has what stood there before.
    fn outlive(&self, Letter { topic, from, .. }: &Letter, newest: Option<u64>) -> Result<(), NotTaken> {
        if !self.limits.retain_available {
            self.outdate(topic);
            return Ok(());
        }
        let mut core = self.lock();
        if newest.is_some_and(|version| core.retained.is_newer(topic, version, from.as_deref())) {
            return Err(NotTaken::Superseded);
        }
        if self.may_be_kept(&mut core, topic) {
            self.clear(&mut core, topic, &from.clone().map_or(Author::Nobody, Author::Bridge));
            self.stats.retained.set(core.retained.len() as u64);
            self.disk.change_at_leisure(Arc::clone(topic), None);
        }
        Ok(())
    }

    /// The next of clients' retained messages that a filter matches; none when the walk is over.
    pub(in crate::broker) fn next_retained(&self, cursor: &mut Option<Cursor>) -> Vec<Letter> {
        let mut found = Vec::new();
        let stands = |source: &Identity, topic: &str| self.stands(source, topic);
        let (most, qos) = (PAGE_RETAINED, Qos::ExactlyOnce);
        let look = Look { most, qos, now: Instant::now(), stands: &stands };
        while let (true, Some(walk)) = (found.is_empty(), cursor.as_mut()) {
            if self.lock().retained.page(walk, &look, &mut found) != Rest::More {
                *cursor = None;
            }
            found.retain(|message| message.keep == Keep::Every);
        }
        let at = self.clock.now();
        found.iter().map(|message| carried::letter(message, Retain::Yes, at)).collect()
    }

    /// Of what is retained: grows with all that is.
    pub(in crate::broker) fn retained_version(&self) -> u64 {
        self.lock().retained.version()
    }

    /// The beginning of such a walk.
    pub(in crate::broker) fn retained(&self, filter: &str) -> Cursor {
        self.lock().retained.cursor(filter)
    }

    /// What [`Shared::forward`] does, for a message whose sender is gone: a last will.
    pub(super) fn forward_alone(&self, message: &Message, retain: Retain) {
        let (Some(stored), Ok(runtime)) = (self.forward(message, retain), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let topic = message.topic.clone();
        runtime.spawn(async move {
            if let Err(refused) = stored.await {
                tracing::warn!(topic = &*topic, error = %refused, "last will was not stored for upstream");
            }
        });
    }

    /// Judged again: whose topic it is may be another since it was left.
    pub(super) fn publish_will(&self, core: &mut Core, will: LastWill, now: Instant) {
        let Some(will) = self.judged(will) else { return };
        let (message, retain, source) = will.publish(now);
        self.forward_alone(&message, retain);
        // Nobody waits for its commit: whoever left it has gone.
        if self.keep_and_route(core, &message, retain, Sender::Gone(&source)).is_err() {
            self.stats.publishes_refused.one();
        }
    }
}

/// Local clients have it already: only the store is asked again, not they. Nothing is acknowledged while the gateway stops.
async fn stored_at_last(stored: Stored, forward: &ForwardEntry, letter: &Letter) {
    let mut outcome = stored.await;
    while let Err(refused) = outcome {
        if refused == Refused::Stopping {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(AGAIN).await;
        outcome = forward.submit(letter.clone()).await;
    }
}

/// The same for what is retained: the ledger goes on trying, and nobody is sent anew what cannot be kept for now.
async fn kept_at_last(committed: Committed, disk: &Ledger) {
    let mut outcome = committed.await;
    while outcome != Ok(Ok(())) {
        tokio::time::sleep(AGAIN).await;
        outcome = disk.committed().await;
    }
}

/// Polled once here, which gives it its place in the order: a task of its own might be overtaken by the next one's.
fn at_once(stored: impl Future<Output = Result<(), Refused>> + Send + 'static) -> Option<Stored> {
    let mut stored: Stored = Box::pin(stored);
    match stored.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(refused)) => Some(Box::pin(std::future::ready(Err(refused)))),
        Poll::Pending => Some(stored),
    }
}
