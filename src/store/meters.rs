//! What uplinks have counted on the wire: kept in `meta.db` for them, so that a budget survives a restart.
//!
//! The store does not understand the figures. Rows go out with the next work of the writer thread; what cannot be written
//! stays for the next time, newest figure only. Who asks gets what was saved last, on disk or not: an uplink that a reload
//! began anew goes on where the one before it ended.

use crate::disk::meta::Edit;
pub use crate::disk::meter::MeterRow;

use super::state::State;
use super::{StoreHandle, births};

impl State {
    /// The directory could be opened, and these lay there.
    pub(super) fn begin_with(&mut self, meters: &[MeterRow], values: &[(String, i64)]) {
        self.opened = true;
        self.meters = meters.to_vec();
        self.sessions = births::counted(values);
    }

    /// Keeps a row, here and with the next edits in `meta.db`.
    fn keep_meter(&mut self, row: MeterRow) {
        self.meters.retain(|older| !row.displaces(older));
        self.meters.push(row.clone());
        self.edits.retain(|edit| !matches!(edit, Edit::PutMeter(older) if row.displaces(older)));
        self.edits.push(Edit::PutMeter(row));
    }
}

impl StoreHandle {
    /// The rows of an uplink as they were saved last, by this process or an earlier one; `None` until the directory could
    /// be opened.
    pub fn meters(&self, uplink: &str) -> Option<Vec<MeterRow>> {
        let state = self.shared.state();
        let mine = state.meters.iter().filter(|row| row.uplink == uplink);
        state.opened.then(|| mine.cloned().collect())
    }

    /// Puts rows on disk within moments; never waits.
    pub fn save_meters(&self, rows: Vec<MeterRow>) {
        {
            let mut state = self.shared.state();
            for row in rows {
                state.keep_meter(row);
            }
        }
        self.shared.cursors_due.notify_one();
    }
}
