//! What an uplink pulls from: the store, or a plain list in tests of the wire.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::plan::Delivery;
use crate::model::number::{Class, Epoch, Seq};
use crate::model::time::Stamp;
use crate::store::{Ack, DictionaryTag, Ends, MeterRow, Reader, StoreHandle};
pub use crate::store::{Lane, Pull, Wants};

/// Everything one uplink is owed, in order.
pub trait Source: Send + Sync + 'static {
    /// Waits for at least one item of a lane that is wanted; `None` when the store has ended and all was handed out.
    /// Cancel-safe.
    fn next(&mut self, wants: Wants) -> impl Future<Output = Option<Pull>> + Send;
    /// Back to the first item that is not acknowledged, for a new session with this order.
    fn begin(&mut self, delivery: Delivery);
    /// From now on hands out these classes only, whatever session it is; the others wait.
    fn only(&mut self, classes: &[Class]);
    /// Classes of which something is not acknowledged, most urgent first.
    fn waiting(&self) -> Vec<Class>;
    /// What was counted on the wire until the last run ended; `None` until that can be known.
    fn meters(&self) -> Option<Vec<MeterRow>>;
    /// Puts what was counted on disk; never waits.
    fn save_meters(&self, rows: Vec<MeterRow>);
    /// The broker has it.
    fn acknowledge(&self, ack: Ack);
    /// The broker will never take it: a gap record is owed instead. `taken`: between which times, if known.
    fn refuse(&mut self, ack: Ack, taken: Option<(Stamp, Stamp)>);
    /// Puts the cursor on disk.
    fn save(&self) -> impl Future<Output = ()> + Send;
    /// Items not yet acknowledged.
    fn backlog(&self) -> u64;
    /// Asks for all that was handed in before to be owed, if it is not yet; see [`StoreHandle::settle`].
    fn settle(&self) -> oneshot::Receiver<bool> {
        let (done, settled) = oneshot::channel();
        let _ = done.send(true); // without a commit everything is owed at once
        settled
    }
    /// What is owed now: for [`Source::is_behind`].
    fn ends(&self) -> Ends {
        Ends::default()
    }
    /// Is anything of it not yet acknowledged?
    fn is_behind(&self, _ends: &Ends) -> bool {
        self.backlog() > 0
    }
    /// About when the oldest of them was taken.
    fn oldest(&self) -> Option<Stamp>;
    /// Where what is owed lies on disk, for one who reads all of it beside us; `None` where it does not.
    fn directory(&self) -> Option<PathBuf> {
        None
    }
    /// The newest number of each stream.
    fn newest(&self) -> Vec<(Class, Epoch, Seq)>;
    /// All tags that items may name, those of earlier plans included; `None` while that cannot be known.
    fn dictionary(&self) -> Option<Vec<Arc<DictionaryTag>>> {
        Some(Vec::new())
    }
    /// The number of the next session of an edge node, on disk by then; `None` where nobody counts them.
    fn next_session(&self) -> impl Future<Output = Option<u8>> + Send {
        async { None }
    }
}

/// The store as one uplink sees it.
pub struct StoreSource {
    reader: Reader,
    store: StoreHandle,
    uplink: String,
}

impl StoreSource {
    /// `None` when the store was not opened with an uplink of this name.
    pub fn new(store: StoreHandle, uplink: &str) -> Option<Self> {
        Some(Self { reader: store.reader(uplink)?, store, uplink: uplink.to_owned() })
    }
}

impl Source for StoreSource {
    async fn next(&mut self, wants: Wants) -> Option<Pull> {
        self.reader.pull(wants).await
    }

    fn begin(&mut self, delivery: Delivery) {
        self.reader.begin(delivery);
    }

    fn only(&mut self, classes: &[Class]) {
        self.reader.only(classes);
    }

    fn waiting(&self) -> Vec<Class> {
        self.reader.waiting()
    }

    fn meters(&self) -> Option<Vec<MeterRow>> {
        self.store.meters(&self.uplink)
    }

    fn save_meters(&self, rows: Vec<MeterRow>) {
        self.store.save_meters(rows);
    }

    fn acknowledge(&self, ack: Ack) {
        self.reader.acknowledge(ack);
    }

    fn refuse(&mut self, ack: Ack, taken: Option<(Stamp, Stamp)>) {
        self.reader.refuse(ack, taken);
    }

    async fn save(&self) {
        self.reader.save().await;
    }

    fn backlog(&self) -> u64 {
        self.reader.backlog()
    }

    fn settle(&self) -> oneshot::Receiver<bool> {
        self.store.settle()
    }

    fn ends(&self) -> Ends {
        self.reader.ends()
    }

    fn is_behind(&self, ends: &Ends) -> bool {
        self.reader.is_behind(ends)
    }

    fn oldest(&self) -> Option<Stamp> {
        self.reader.oldest()
    }

    fn directory(&self) -> Option<PathBuf> {
        Some(self.store.directory().to_path_buf())
    }

    fn newest(&self) -> Vec<(Class, Epoch, Seq)> {
        self.store.newest()
    }

    fn dictionary(&self) -> Option<Vec<Arc<DictionaryTag>>> {
        self.store.dictionary()
    }

    async fn next_session(&self) -> Option<u8> {
        self.store.next_session(&self.uplink).await
    }
}
