//! What sensors have and MQTT itself has no packet for: a connected client leaves another will than it came with, its session
//! remembers that will, which topics it knows by predefined ids, and which ids it was given, and may come to last.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Core, Shared};
use crate::broker::clients::{Client, Presence, Remembered, Taken};
use crate::broker::durable::Durable;
use crate::broker::keeping;
use crate::broker::outbox::Outbox;
use crate::broker::ruling::{self, Ruling};
use crate::broker::tree::ClientKey;
use crate::broker::will::LastWill;
use crate::broker::wire::Will;

/// Protocol level of MQTT 5, which the doors of sensors speak.
const LEVEL: u8 = 5;

impl Shared {
    /// Instead of the will that the owner of this outbox has left, if it is connected still. One that it may not leave is not
    /// taken, nor one for which there is no room: then the one before stands.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients can ask for it"))]
    pub(in crate::broker) fn change_will(&self, key: ClientKey, outbox: &Arc<Outbox>, will: Option<Will>) -> Taken {
        let mut core = self.lock();
        let room = core.wills.room.clone();
        let Some(client) = here(&mut core, key, outbox) else { return Taken::No };
        let (Some(identity), Presence::Here(connected)) = (client.identity.clone(), &mut client.presence) else {
            return Taken::No;
        };
        let Some(will) = will else {
            connected.will = None;
            return Taken::Yes;
        };
        let Some(mut will) = self.judged(LastWill::new(will, identity)) else { return Taken::No };
        if !room.charge(&mut will, 0) {
            return Taken::No;
        }
        connected.will = Some(will);
        Taken::Yes
    }

    /// The session of this outbox's owner was to end with its connection, and is to outlive it from now on, with all it has
    /// subscribed to. What has come for it before passes as it would have passed. No: there is no room for one more.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients can ask for it"))]
    pub(in crate::broker) fn let_last(&self, key: ClientKey, outbox: &Arc<Outbox>) -> Taken {
        let mut guard = self.lock();
        let core = &mut *guard;
        let is_shut = self.disk.is_crowded() || !self.disk.is_known();
        let Some(client) = here(core, key, outbox) else { return Taken::No };
        let longest = self.bounds.session_expiry_max;
        if client.durable.is_some() || longest == 0 {
            return Taken::Yes; // as far as sessions last here
        }
        let owner = Arc::clone(&client.owner);
        if is_shut || !self.has_room_for_session(core, &owner) {
            return Taken::No;
        }
        let Some(client) = here(core, key, outbox) else { return Taken::No };
        client.expiry = longest;
        let durable = Durable::new(self.disk.new_session(), LEVEL, &self.owed);
        outbox.outlives(Arc::clone(&durable.tally));
        client.durable = Some(Box::new(durable));
        self.tell_ledger_all(client);
        core.sessions.take(&owner, 1);
        Taken::Yes
    }

    /// For as long as the session of this outbox's owner lives.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients have it"))]
    pub(in crate::broker) fn remember(&self, key: ClientKey, outbox: &Arc<Outbox>, what: Remembered) {
        let mut core = self.lock();
        let Some(client) = here(&mut core, key, outbox) else { return };
        if client.sensor.as_deref() == Some(&what) {
            return;
        }
        if let Some(durable) = &client.durable {
            self.disk.sensor(durable.tally.id, keeping::sensor_row(&what));
        }
        client.sensor = Some(Box::new(what));
    }

    /// What was remembered last, but for predefined ids that have come to stand for what it has not subscribed to. Of a session that an earlier program has left it is not known how its topics were named: those
    /// that have predefined ids were subscribed to by them.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients have it"))]
    pub(in crate::broker) fn recall(
        &self,
        key: ClientKey,
        outbox: &Arc<Outbox>,
        predefined: &[(u16, String)],
    ) -> Remembered {
        let mut core = self.lock();
        let Some(client) = here(&mut core, key, outbox) else { return Remembered::default() };
        let own = predefined.iter().filter(|(_, name)| client.filters.contains_key(name.as_str()));
        let own = own.map(|(id, _)| *id).collect();
        match &client.sensor {
            Some(remembered) => {
                let mut remembered = Remembered::clone(remembered);
                remembered.predefined.retain(|id| BTreeSet::contains(&own, id));
                remembered
            }
            None => Remembered { predefined: own, ..Remembered::default() },
        }
    }

    /// The will as it may be left; `None`: not at all.
    pub(super) fn judged(&self, mut will: LastWill) -> Option<LastWill> {
        match ruling::judge(&self.access, &self.ownership, will.source(), will.topic(), will.retain()) {
            Ruling::Publish(retain) => {
                will.set_retain(retain);
                Some(will)
            }
            _ => {
                let reason = "last will is not allowed on this topic, it is ignored";
                self.access.publish_refused(will.source(), will.topic(), reason);
                self.stats.publishes_refused.one();
                None
            }
        }
    }
}

/// The client, if it is connected still and this is its outbox.
fn here<'a>(core: &'a mut Core, key: ClientKey, outbox: &Arc<Outbox>) -> Option<&'a mut Client> {
    let client = core.clients.get_mut(key)?;
    client.connected().is_some_and(|connected| Arc::ptr_eq(&connected.outbox, outbox)).then_some(client)
}
