//! A ledger from databases: for a receiver that goes on, and for a report about what several receivers wrote.

use crate::disk::fault::Fault;
use crate::disk::received::{Kept as Database, LifeRow};
use crate::model::number::{Epoch, Seq};
use crate::payload::json::Previous;

use super::lag::{Delays, Lags};
use super::ledger::{Kept, Ledger};

/// Adds what a database holds.
pub(super) fn seed(ledger: &mut Ledger, lags: &mut Lags, database: &Database) -> Result<(), Fault> {
    for life in database.lives()? {
        let LifeRow { id, gateway, stream, epoch, previous, newest, duplicates, latest_ms } = life;
        let gateway = gateway.as_deref();
        let key = (stream, Epoch(epoch));
        let previous = previous.map(|(epoch, seq)| Previous { epoch: Epoch(epoch), seq: seq.map(Seq) });
        ledger.note_kept(gateway, key, &Kept { came: None, duplicates, previous, newest });
        database.came(id, &mut |first, last| {
            ledger.note_kept(gateway, key, &Kept { came: Some((first, last)), ..Kept::default() });
        })?;
        for (first, last) in database.gaps(id)? {
            ledger.note_gap_from(gateway, key, Seq(first), Seq(last));
        }
        lags.add(key, &Delays::from_kept(latest_ms, database.delays(id)?));
    }
    Ok(())
}
