//! A connected client leaves another will than it came with: sensors may (MQTT itself has no packet for it).

use std::sync::Arc;

use super::Shared;
use crate::access::Identity;
use crate::broker::clients::Presence;
use crate::broker::outbox::Outbox;
use crate::broker::ruling::{self, Ruling};
use crate::broker::tree::ClientKey;
use crate::broker::will::LastWill;
use crate::broker::wire::Will;

impl Shared {
    /// Instead of the will that the owner of this outbox has left, if it is connected still. One that it may not leave is
    /// ignored, as at CONNECT: then there is none.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its clients can ask for it"))]
    pub(in crate::broker) fn change_will(&self, key: ClientKey, outbox: &Arc<Outbox>, will: Option<Will>) {
        let mut core = self.lock();
        let Some(client) = core.clients.get_mut(key) else { return };
        let Some(identity) = client.identity.clone() else { return };
        let Presence::Here(connected) = &mut client.presence else { return };
        if Arc::ptr_eq(&connected.outbox, outbox) {
            connected.will = will.and_then(|will| self.judged(&identity, LastWill::new(will, identity.clone())));
        }
    }

    /// The will as it may be left; `None`: not at all.
    pub(super) fn judged(&self, who: &Identity, mut will: LastWill) -> Option<LastWill> {
        match ruling::judge(&self.access, &self.ownership, who, will.topic(), will.retain()) {
            Ruling::Publish(retain) => {
                will.set_retain(retain);
                Some(will)
            }
            _ => {
                let reason = "last will is not allowed on this topic, it is ignored";
                self.access.publish_refused(who, will.topic(), reason);
                self.stats.publishes_refused.one();
                None
            }
        }
    }
}
