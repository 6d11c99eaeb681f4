//! What the app may ask of a running broker: judge by rules that have changed, read certificates again, take topics over.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Rejudged, Shared};
use super::door::{DoorList, Order, Step};
use crate::config::plan::ListenerPlan;
use crate::road::inside::InnerDoor;

/// Cheap to clone; does nothing once the broker has ended.
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) certificates: watch::Sender<u64>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) doors: DoorList,
    pub(super) inner: InnerDoor,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Other listeners from now on. Who came in through one that is there before and after stays; who came in through one
    /// that is not is told to go. One whose sensors and topics alone are others stays, too, and so does who is still let in
    /// there as what it is. Resolves when each has been tried to be opened; what fails is tried again for ever.
    pub async fn listen(&self, listeners: Vec<ListenerPlan>) {
        self.order(listeners, Step::Open).await;
    }

    /// The first half of [`Control::listen`], before rights change: who does not stay is told to go, and nobody comes in by what
    /// is new until that is called.
    pub async fn shut_others(&self, listeners: Vec<ListenerPlan>) {
        self.order(listeners, Step::Shut).await;
    }

    async fn order(&self, listeners: Vec<ListenerPlan>, step: Step) {
        let (done, changed) = oneshot::channel();
        let _ = self.orders.send(Order { listeners, step, done }).await.is_ok() && changed.await.is_ok();
    }

    /// By which an uplink of this gateway comes in that leads to its own broker.
    pub fn inner_door(&self) -> InnerDoor {
        self.inner.clone()
    }

    /// The listeners there are, in no order, and whether each is open.
    pub fn doors(&self) -> Vec<(ListenerPlan, bool)> {
        self.doors.now()
    }

    /// The same, for who must not keep the broker from ending.
    pub fn door_list(&self) -> DoorList {
        self.doors.clone()
    }

    /// Asks the doors to read their certificates again (they also look by themselves, once a minute). New ones serve the
    /// next client; of those connected only those go whose own certificate is not accepted any more.
    pub fn reload_certificates(&self) {
        self.certificates.send_modify(|asked| *asked += 1);
    }

    /// Resolves when the thread that keeps what outlives a restart has come to it, or says that its disk does not work.
    /// Cancel-safe.
    pub async fn disk_answers(&self) {
        drop(self.shared.disk.committed().await); // whether it could commit is told elsewhere
    }

    /// Topics have become the gateway's: drops what clients have left retained on them, for good.
    pub fn reclaim(&self) {
        self.shared.reclaim();
    }

    /// Judges whoever is connected by the rules as they are now: those who would not be let in any more are told to go
    /// (MQTT 5: 0x87), subscriptions that are not allowed any more end. Nobody else notices.
    pub fn rejudge(&self) -> Rejudged {
        self.shared.rejudge()
    }
}
