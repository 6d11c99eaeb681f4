//! What waits for the commit interval is committed now: for one who must know what is owed of all that was handed in so far.

use tokio::sync::{mpsc, oneshot};

use crate::flow::hub::DurableEnd;
use crate::model::number::Class;

use super::writer::Writer;
use super::{Control, StoreHandle};

impl StoreHandle {
    /// Asks for all that was handed in before to be committed. Told true when it is; false, or nothing, where it cannot be for
    /// now: ask again. Never waits.
    pub fn settle(&self) -> oneshot::Receiver<bool> {
        let (done, settled) = oneshot::channel();
        let _ = self.control.try_send(Control::Settle(done)); // where that is full, or closed, nothing is told
        settled
    }
}

impl Writer {
    /// Commits what is in the lane and what waits. False: not all of it, for now.
    pub(super) fn settle(&mut self, records: &mut DurableEnd, control: &mpsc::WeakSender<Control>) -> bool {
        let mut in_lane = records.records.len(); // no more: others may fill it as fast as it is emptied
        while in_lane > 0
            && !self.is_full()
            && let Ok(record) = records.records.try_recv()
        {
            self.take(record);
            in_lane -= 1;
        }
        if !self.failed && !self.is_empty() {
            self.commit_due(&Class::ALL, records, control);
        }
        in_lane == 0 && !self.failed && self.is_empty()
    }
}
