//! Reading the receiver's database beside those who write it: what a report needs.

use std::path::Path;

use rusqlite::Connection;

use crate::model::number::Class;

use super::super::database;
use super::super::fault::Fault;
use super::LAYOUT;

/// One epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeRow {
    /// Its id in this file.
    pub id: i64,
    /// Whose; `None` until it said its name.
    pub gateway: Option<String>,
    /// Which stream.
    pub stream: Class,
    /// Which epoch.
    pub epoch: u64,
    /// The epoch before and its last number, each if known.
    pub previous: Option<(u64, Option<u64>)>,
    /// The highest number its gateway's status named.
    pub newest: Option<u64>,
    /// Records that came again.
    pub duplicates: u64,
    /// Time of its newest sample, ms since 1970: that of its highest number.
    pub latest_ms: Option<i64>,
}

/// An open file.
#[derive(Debug)]
pub struct Kept {
    connection: Connection,
}

/// Opens a receiver's database for reading.
pub fn look(path: &Path) -> Result<Kept, Fault> {
    let connection = database::open_reader(path)?;
    connection.execute_batch("PRAGMA cache_size = -16384;")?;
    LAYOUT.check(&connection)?;
    Ok(Kept { connection })
}

impl Kept {
    /// All epochs.
    pub fn lives(&self) -> Result<Vec<LifeRow>, Fault> {
        let mut query = self.connection.prepare(
            "SELECT id, gateway, stream, epoch, previous_epoch, previous_seq, newest, duplicates,
                 (SELECT time FROM sample WHERE epoch_id = epoch.id ORDER BY seq DESC LIMIT 1) FROM epoch ORDER BY id",
        )?;
        let rows = query.query_map([], |row| {
            let number = |column| row.get::<_, Option<i64>>(column).map(|number| number.map(i64::cast_unsigned));
            let (gateway, stream) = (row.get::<_, String>(1)?, row.get::<_, String>(2)?);
            let (before, before_seq) = (number(4)?, number(5)?);
            Ok(Class::from_name(&stream).map(|stream| LifeRow {
                id: row.get(0).unwrap_or_default(),
                gateway: (!gateway.is_empty()).then_some(gateway),
                stream,
                epoch: number(3).ok().flatten().unwrap_or_default(),
                previous: before.map(|epoch| (epoch, before_seq)),
                newest: number(6).ok().flatten(),
                duplicates: number(7).ok().flatten().unwrap_or_default(),
                latest_ms: row.get(8).unwrap_or_default(),
            }))
        })?;
        Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
    }

    /// The numbers of an epoch that are here, as ranges in order. Reads all of its keys.
    pub fn came(&self, life: i64, take: &mut dyn FnMut(u64, u64)) -> Result<(), Fault> {
        let sql = "SELECT seq FROM sample WHERE epoch_id = ?1 UNION ALL SELECT seq FROM event WHERE epoch_id = ?1
                   ORDER BY seq";
        let mut query = self.connection.prepare(sql)?;
        let mut rows = query.query([life])?;
        let mut range: Option<(u64, u64)> = None;
        while let Some(row) = rows.next()? {
            let seq = row.get::<_, i64>(0)?.cast_unsigned();
            range = match range {
                Some((first, last)) if seq <= last.saturating_add(1) => Some((first, seq)),
                Some((first, last)) => {
                    take(first, last);
                    Some((seq, seq))
                }
                None => Some((seq, seq)),
            };
        }
        if let Some((first, last)) = range {
            take(first, last);
        }
        Ok(())
    }

    /// The gap records of an epoch: first and last.
    pub fn gaps(&self, life: i64) -> Result<Vec<(u64, u64)>, Fault> {
        let mut query = self.connection.prepare("SELECT first, last FROM gap WHERE epoch_id = ?1")?;
        let rows = query.query_map([life], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How late the records of an epoch came: bucket and count.
    pub fn delays(&self, life: i64) -> Result<Vec<(u32, u64)>, Fault> {
        let mut query = self.connection.prepare("SELECT bucket, count FROM delay WHERE epoch_id = ?1")?;
        let rows = query.query_map([life], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Batches that wait for their dictionary.
    pub fn waiting(&self) -> Result<u64, Fault> {
        Ok(self.connection.query_row("SELECT count(*) FROM waiting", [], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }
}
