//! How much waits to be stored, of all local senders together: messages that a store has not yet told of, in memory for as long
//! as it takes. When that is very much, whoever wants to bring a long one waits for [`Unsettled::room`] before it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// From here on nothing long is begun, bytes. Beyond go those that are on their way in by then.
const CROWDED_BYTES: usize = 8 << 20;

/// Bytes of messages that wait to be stored.
#[derive(Debug, Default)]
pub struct Unsettled {
    bytes: AtomicUsize,
    less: Notify,
}

/// What a message that waits is counted as; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    unsettled: Arc<Unsettled>,
    bytes: usize,
}

impl Unsettled {
    /// Counts a message until what is given back is dropped.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        Held { unsettled: Arc::clone(self), bytes }
    }

    /// Does so much wait that no long message should be begun?
    pub fn is_crowded(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= CROWDED_BYTES
    }

    /// Resolves when it is not crowded, for all who wait at once: it may be again by the time one of them looks. Cancel-safe.
    pub async fn room(self: Arc<Self>) {
        loop {
            let mut less = std::pin::pin!(self.less.notified());
            less.as_mut().enable(); // before it is looked, or what comes to be free in between is missed
            if !self.is_crowded() {
                return;
            }
            less.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.unsettled.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        if before >= CROWDED_BYTES && before - self.bytes < CROWDED_BYTES {
            self.unsettled.less.notify_waiters();
        }
    }
}
