//! The end of a store: what is committed is saved, and what could not be committed leaves its numbers behind.
//!
//! A disk that others have filled may be full still when the gateway stops. What waits in memory cannot be kept then, but its
//! numbers can: the marks are written in place, also where nothing else of the store could be opened. The next run finds more
//! numbers used than there are records, and how many of them were given up, and declares those with the reason `store`.

use crate::disk::fault::{Fault, Unreadable};
use crate::disk::marks::{Found, Marks};
use crate::flow::hub::{DurableEnd, Lost};
use crate::model::number::{Class, PerClass};

use super::boot::MARKS;
use super::commit::Group;

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
            self.given_up[class] = self.waiting(class, &self.lost);
            (self.groups[class], self.lost[class]) = (None, None);
            (self.pending[class], self.pending_bytes[class]) = (Vec::new(), 0);
        }
        (self.commit_at, self.urgent_at) = (None, None);
        let given_up = || self.given_up.iter().filter(|(_, records)| **records > 0);
        for (class, &records) in given_up() {
            self.shared.stats.spilled[class].add(records);
            tracing::error!(class = %class, records, "records lost: the store ends without having committed them");
        }
        if given_up().next().is_none() {
            return;
        }
        if self.disk.is_some() {
            self.save_cursors();
        } else if let Err(fault) = self.mark_given_up() {
            tracing::error!(error = %fault, "numbers of lost records could not be marked; nobody will declare them");
        }
    }

    /// Records that have come and are not committed, and such as found no place.
    pub(super) fn waiting(&self, class: Class, lost: &PerClass<Option<Lost>>) -> u64 {
        let packed = self.groups[class].as_ref().map_or(0, Group::records);
        let pending = self.pending[class].iter().filter(|pending| pending.is_ours()).count() as u64;
        packed + pending + lost[class].map_or(0, |lost| lost.count)
    }

    /// Moves the marks of a store that could not be opened; where it has none, it has no numbers to go on from either.
    fn mark_given_up(&self) -> Result<(), Fault> {
        let directory = &self.shared.directory;
        let _lock = directory.lock()?; // another process may have it open
        let path = directory.file(MARKS);
        let (Found::Marks(mut marks), uplinks) = Marks::read(&path, Unreadable::TryAgain)? else { return Ok(()) };
        for (class, mark) in marks.iter_mut().filter(|(_, mark)| mark.epoch != 0) {
            let given_up = self.given_up[class];
            (mark.last, mark.given_up) = (mark.last + given_up, mark.given_up + given_up);
        }
        Marks::open(&path, Unreadable::TryAgain)?.write(&marks, &uplinks)?;
        Ok(())
    }

    /// Nobody wants anything any more.
    pub(super) fn close(&mut self) {
        self.merge_now();
        self.save_cursors(); // first: of what is in both, the next start believes the marks
        self.save();
        self.copy_meta();
        if let Some(mut disk) = self.disk.take() {
            for open in disk.open.into_values().flatten() {
                let _ = open.checkpoint(); // the log says the same
            }
            let _ = disk.meta.checkpoint();
        }
    }
}
