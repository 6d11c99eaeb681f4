//! What uplinks have counted on the wire: kept in `meta.db` for them, so that a budget survives a restart.
//!
//! The store does not understand the figures. Rows go out with the next work of the writer thread; what cannot be written
//! stays for the next time, newest figure only.

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
}

impl StoreHandle {
    /// The rows of an uplink as they lay there when the store was opened, by path, period and number; `None` until it
    /// could be opened.
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
                let older = |edit: &Edit| matches!(edit, Edit::PutMeter(old) if old.is_same_period(&row));
                match state.edits.iter().position(older) {
                    Some(place) => state.edits[place] = Edit::PutMeter(row),
                    None => state.edits.push(Edit::PutMeter(row)),
                }
            }
        }
        self.shared.cursors_due.notify_one();
    }
}
