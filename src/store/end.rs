//! The end of a store: what is committed is saved, and what could not be committed leaves its numbers behind.
//!
//! A disk that others have filled may be full still when the gateway stops. What waits in memory cannot be kept then, but its
//! numbers can: the marks are written in place. The next run finds more numbers used than there are records, and declares them.

use crate::flow::hub::DurableEnd;
use crate::model::number::Class;

use super::writer::Writer;

impl Writer {
    /// The lane has ended; what is not committed by now will not be.
    pub(super) fn end_stream(&mut self, records: &mut DurableEnd) {
        while let Ok(record) = records.records.try_recv() {
            self.take(record); // more than memory is granted to, for a moment
        }
        self.take_spill(records.spill.take());
        self.give_up();
        self.save();
        self.shared.state().ended = true;
        self.shared.wake_readers();
    }

    fn give_up(&mut self) {
        for class in Class::ALL {
            let place = class as usize;
            let packed = self.groups[place].take().map_or(0, |group| group.records());
            let waiting = std::mem::take(&mut self.pending[place]);
            let waiting = waiting.iter().filter(|pending| pending.is_ours()).count() as u64;
            let spilled = self.lost[place].take().map_or(0, |lost| lost.count);
            self.pending_bytes[place] = 0;
            self.given_up[place] = packed + waiting + spilled;
        }
        (self.commit_at, self.urgent_at) = (None, None);
        let given_up = || Class::ALL.into_iter().zip(self.given_up).filter(|(_, records)| *records > 0);
        for (class, records) in given_up() {
            self.shared.stats.spilled[class as usize].add(records);
            tracing::error!(class = %class, records, "records lost: the store ends without having committed them");
        }
        if given_up().next().is_some() {
            self.save_cursors();
        }
    }

    /// Nobody wants anything any more.
    pub(super) fn close(&mut self) {
        self.merge_now();
        self.save();
        self.copy_meta();
        if let Some(mut disk) = self.disk.take() {
            for open in disk.open.into_iter().flatten() {
                let _ = open.checkpoint(); // the log says the same
            }
            let _ = disk.meta.checkpoint();
        }
    }
}
