//! Messages that have expired give their room back where it is needed. As a rule they are left out when they would be sent;
//! but a session that is full of them would refuse fresh ones until its client comes back (MQTT 5, 3.3.2-5: what has expired
//! is deleted).
//!
//! Only of a client that is away: what a connection has at hand it leaves out itself. Not what was sent at QoS 2: its
//! packet identifier stands for it until it is acknowledged (MQTT-4.3.3-7). Only what is certainly over, and a
//! session is looked through once a minute at most.

use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::{Core, Shared};
use crate::broker::clients::Presence;
use crate::broker::durable::cost;
use crate::broker::keeping;
use crate::broker::message::{Owed, Stage};
use crate::broker::tree::ClientKey;
use crate::disk::ledger::Ended;

const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Sessions that are looked through at once: commits wait for it.
const LOOKS_MAX: usize = 4;

/// A session that is being looked through.
#[derive(Debug)]
pub(super) struct Look {
    client: ClientKey,
    /// Its client has been away since; what has been away anew has perhaps seen some of it.
    since: Instant,
    ended: oneshot::Receiver<Vec<Ended>>,
}

impl Shared {
    /// Takes off the sessions what was found to be over, and has those looked through that have no room.
    pub(super) fn make_room(&self, core: &mut Core, now: Instant) {
        for mut look in std::mem::take(&mut core.looks) {
            match look.ended.try_recv() {
                Ok(ended) => self.take_off(core, &look, &ended),
                Err(TryRecvError::Empty) => core.looks.push(look),
                Err(TryRecvError::Closed) => {}
            }
        }
        let Core { clients, looks, .. } = core;
        for (client, entry) in clients.all_mut() {
            let (Presence::Away(away), Some(durable)) = (&entry.presence, &mut entry.durable) else { continue };
            let looked_lately = durable.looked.is_some_and(|at| now.duration_since(at) < LOOK_EVERY);
            if durable.tally.now().0 == 0 || looked_lately || durable.has_room(&self.bounds) {
                continue;
            }
            if looks.len() >= LOOKS_MAX {
                break;
            }
            durable.looked = Some(now);
            let clock = self.clock.clone();
            let begun_below = durable.sent_below_of(&entry.presence).unwrap_or(u64::MAX);
            let ended =
                self.disk.ended(durable.tally.id, begun_below, move |expires| keeping::is_over(expires, &clock));
            looks.push(Look { client, since: away.since, ended });
        }
    }

    fn take_off(&self, core: &Core, look: &Look, ended: &[Ended]) {
        let Some(client) = core.clients.get(look.client) else { return };
        let (Presence::Away(away), Some(durable)) = (&client.presence, &client.durable) else { return };
        if away.since != look.since {
            return;
        }
        for Ended { ordinal, bytes } in ended {
            let cost = cost(usize::try_from(*bytes).unwrap_or(usize::MAX));
            self.settle(&durable.tally, Owed { ordinal: *ordinal, cost, stage: Stage::Committed });
            self.stats.dropped_expired.one();
        }
    }
}
