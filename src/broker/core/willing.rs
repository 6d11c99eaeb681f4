//! What sensors have and MQTT itself has no packet for: a connected client leaves another will than it came with, and its
//! session remembers that will, which topics it knows by predefined ids, and which ids it was given.

use std::sync::Arc;

use super::{Core, Shared};
use crate::broker::clients::{Client, Presence, Remembered, Taken};
use crate::broker::keeping;
use crate::broker::outbox::Outbox;
use crate::broker::ruling::{self, Ruling};
use crate::broker::tree::ClientKey;
use crate::broker::will::LastWill;
use crate::broker::wire::Will;

impl Shared {
    /// Instead of the will that the owner of this outbox has left, if it is connected still. One that it may not leave is not
    /// taken: then the one before stands.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients can ask for it"))]
    pub(in crate::broker) fn change_will(&self, key: ClientKey, outbox: &Arc<Outbox>, will: Option<Will>) -> Taken {
        let mut core = self.lock();
        let Some(client) = here(&mut core, key, outbox) else { return Taken::No };
        let (Some(identity), Presence::Here(connected)) = (client.identity.clone(), &mut client.presence) else {
            return Taken::No;
        };
        let Some(will) = will else {
            connected.will = None;
            return Taken::Yes;
        };
        match self.judged(LastWill::new(will, identity)) {
            Some(will) => {
                connected.will = Some(will);
                Taken::Yes
            }
            None => Taken::No,
        }
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

    /// What was remembered last. Of a session that an earlier program has left it is not known how its topics were named: those
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
        if let Some(remembered) = &client.sensor {
            return Remembered::clone(remembered);
        }
        let own = predefined.iter().filter(|(_, name)| client.filters.contains_key(name.as_str()));
        Remembered { predefined: own.map(|(id, _)| *id).collect(), ..Remembered::default() }
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
