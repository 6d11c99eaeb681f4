//! What is put into one transaction.

use std::collections::BTreeMap;

use rusqlite::types::{ToSqlOutput, Value as Cell, ValueRef};
use rusqlite::{OptionalExtension as _, Statement, Transaction, params};

use crate::model::number::Class;
use crate::model::value::Value;

use super::super::fault::Fault;
use super::Ids;

/// An epoch as a record names it; the gateway where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeKey<'a> {
    /// Whose.
    pub gateway: Option<&'a str>,
    /// Which stream.
    pub stream: Class,
    /// Which epoch, below 2^63.
    pub epoch: u64,
}

/// A sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRow<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// ms since 1970.
    pub time_ms: Option<i64>,
    /// Where that is the earliest it can have been: the latest.
    pub until_ms: Option<i64>,
    /// Its value.
    pub value: Option<&'a Value>,
    /// 0 good, 1 uncertain, 2 bad.
    pub quality: u8,
    /// Why not good.
    pub cause: Option<&'a str>,
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventRow<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// ms since 1970.
    pub time_ms: Option<i64>,
    /// The object.
    pub body: &'a str,
}

/// A gap record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GapRow<'a> {
    /// First lost number, below 2^63.
    pub first: u64,
    /// Last lost number.
    pub last: u64,
    /// Why.
    pub reason: Option<&'a str>,
    /// The object.
    pub body: &'a str,
}

/// An entry of a gateway's dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DictionaryRow {
    /// Its number.
    pub id: u32,
    /// Device name.
    pub device: String,
    /// Tag name.
    pub name: String,
    /// Topic.
    pub topic: String,
    /// Type on the wire of the device.
    pub data_type: String,
}

/// A batch that cannot be read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingRow<'a> {
    /// Its first number.
    pub first: u64,
    /// As it came.
    pub payload: &'a [u8],
}

/// Whether a record was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It is new.
    First,
    /// It was there.
    Again,
}

/// Counted in the window, written at its end.
#[derive(Debug, Default)]
struct Tally {
    duplicates: u64,
    newest: Option<u64>,
    previous: Option<(u64, Option<u64>)>,
    delays: BTreeMap<u32, u64>,
}

/// One transaction of the receiver.
pub struct Window<'a> {
    work: &'a Transaction<'a>,
    ids: &'a mut Ids,
    sample: Statement<'a>,
    event: Statement<'a>,
    tallies: BTreeMap<i64, Tally>,
}

impl<'a> Window<'a> {
    pub(super) fn new(work: &'a Transaction<'a>, ids: &'a mut Ids) -> Result<Self, Fault> {
        let sample = work.prepare("INSERT INTO sample VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING")?;
        let event = work.prepare("INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING")?;
        Ok(Self { work, ids, sample, event, tallies: BTreeMap::new() })
    }

    /// The id of an epoch. A gateway that says its name is given the epoch that was known without one.
    pub fn life(&mut self, key: LifeKey<'_>) -> Result<i64, Fault> {
        let LifeKey { gateway, stream, epoch } = key;
        let mine = |lives: &[(i64, String)]| {
            let named = lives.iter().find(|(_, name)| gateway.is_none_or(|gateway| gateway == name));
            named.map(|(id, _)| *id)
        };
        if let Some(id) = self.ids.lives.get(&(stream as u8, epoch)).and_then(|lives| mine(lives)) {
            return Ok(id);
        }
        let mut lives = self.lives(stream, epoch)?;
        if mine(&lives).is_none() {
            let name = gateway.unwrap_or_default();
            if let Some((id, unnamed)) = lives.iter_mut().find(|(_, name)| name.is_empty()) {
                self.work.execute("UPDATE epoch SET gateway = ?2 WHERE id = ?1", params![*id, name])?;
                name.clone_into(unnamed);
            } else {
                let sql = "INSERT INTO epoch (gateway, stream, epoch) VALUES (?1, ?2, ?3)";
                self.work.execute(sql, params![name, stream.as_str(), epoch.cast_signed()])?;
                lives.push((self.work.last_insert_rowid(), name.to_owned()));
            }
        }
        let id = mine(&lives).unwrap_or_default();
        self.ids.lives.insert((stream as u8, epoch), lives);
        Ok(id)
    }

    fn lives(&self, stream: Class, epoch: u64) -> Result<Vec<(i64, String)>, Fault> {
        let mut query =
            self.work.prepare("SELECT id, gateway FROM epoch WHERE stream = ?1 AND epoch = ?2 ORDER BY id")?;
        let rows =
            query.query_map(params![stream.as_str(), epoch.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn topic(&mut self, topic: &str) -> Result<i64, Fault> {
        if let Some(id) = self.ids.topics.get(topic) {
            return Ok(*id);
        }
        let find =
            || self.work.query_row("SELECT id FROM topic WHERE topic = ?1", [topic], |row| row.get(0)).optional();
        let id = match find()? {
            Some(id) => id,
            None => {
                self.work.execute("INSERT INTO topic (topic) VALUES (?1)", [topic])?;
                self.work.last_insert_rowid()
            }
        };
        self.ids.topics.insert(topic.into(), id);
        Ok(id)
    }

    /// A sample of the epoch with this id.
    pub fn sample(&mut self, life: i64, seq: u64, row: &SampleRow<'_>) -> Result<Came, Fault> {
        let topic = self.topic(row.topic)?;
        let (seq, value) = (seq.cast_signed(), row.value.map(cell));
        let new = self.sample.execute(params![life, seq, topic, row.time_ms, value, row.quality, row.cause])? > 0;
        if new {
            if let Some(until_ms) = row.until_ms {
                let sql = "INSERT OR REPLACE INTO bracket VALUES (?1, ?2, ?3)";
                self.work.execute(sql, params![life, seq, until_ms])?;
            }
            return Ok(Came::First);
        }
        if row.cause != Some("clock") {
            // The gateway has learned the time since it sent this first.
            let sql = "UPDATE sample SET time = ?3, quality = ?4, cause = ?5
                       WHERE epoch_id = ?1 AND seq = ?2 AND cause = 'clock'";
            if self.work.execute(sql, params![life, seq, row.time_ms, row.quality, row.cause])? > 0 {
                self.work.execute("DELETE FROM bracket WHERE epoch_id = ?1 AND seq = ?2", params![life, seq])?;
            }
        }
        self.tally(life).duplicates += 1;
        Ok(Came::Again)
    }

    /// An event.
    pub fn event(&mut self, life: i64, seq: u64, row: &EventRow<'_>) -> Result<Came, Fault> {
        let topic = self.topic(row.topic)?;
        let new = self.event.execute(params![life, seq.cast_signed(), topic, row.time_ms, row.body])? > 0;
        if new {
            return Ok(Came::First);
        }
        self.tally(life).duplicates += 1;
        Ok(Came::Again)
    }

    /// A gap record; repetitions change nothing.
    pub fn gap(&mut self, life: i64, row: &GapRow<'_>) -> Result<(), Fault> {
        let (first, last) = (row.first.cast_signed(), row.last.cast_signed());
        let sql = "INSERT INTO gap VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
        self.work.execute(sql, params![life, first, last, row.reason, row.body])?;
        Ok(())
    }

    /// What a record says about the epoch before its own.
    pub fn previous(&mut self, life: i64, previous: (u64, Option<u64>)) {
        self.tally(life).previous = Some(previous);
    }

    /// The newest number that the gateway's status names.
    pub fn newest(&mut self, life: i64, seq: u64) {
        let tally = self.tally(life);
        tally.newest = tally.newest.max(Some(seq));
    }

    /// A new record came this late.
    pub fn delay(&mut self, life: i64, bucket: u32) {
        *self.tally(life).delays.entry(bucket).or_default() += 1;
    }

    fn tally(&mut self, life: i64) -> &mut Tally {
        self.tallies.entry(life).or_default()
    }

    /// Keeps an entry of a gateway's dictionary.
    pub fn put_tag(&mut self, gateway: &str, row: &DictionaryRow) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO tag VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.work.execute(sql, params![gateway, row.id, row.device, row.name, row.topic, row.data_type])?;
        Ok(())
    }

    /// The dictionary of a gateway, as whichever receiver has learned it.
    pub fn tags(&self, gateway: &str) -> Result<Vec<DictionaryRow>, Fault> {
        let mut query = self.work.prepare("SELECT id, device, name, topic, type FROM tag WHERE gateway = ?1")?;
        let rows = query.query_map([gateway], |row| {
            let (id, device, name) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(DictionaryRow { id, device, name, topic: row.get(3)?, data_type: row.get(4)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps a batch until its dictionary has come. Of two that begin with the same number (one was divided otherwise when it
    /// was sent again) the larger stays; what the other has beyond is sent again too.
    pub fn put_waiting(&mut self, key: LifeKey<'_>, row: &WaitingRow<'_>) -> Result<Came, Fault> {
        let LifeKey { gateway, stream, epoch } = key;
        let key = params![gateway.unwrap_or_default(), stream.as_str(), epoch.cast_signed(), row.first.cast_signed()];
        let sql =
            "SELECT length(payload) FROM waiting WHERE gateway = ?1 AND stream = ?2 AND epoch = ?3 AND first = ?4";
        let there: Option<i64> = self.work.query_row(sql, key, |row| row.get(0)).optional()?;
        if there.is_none_or(|bytes| bytes.cast_unsigned() < row.payload.len() as u64) {
            let sql = "INSERT OR REPLACE INTO waiting VALUES (?1, ?2, ?3, ?4, ?5)";
            let (gateway, stream) = (gateway.unwrap_or_default(), stream.as_str());
            self.work
                .execute(sql, params![gateway, stream, epoch.cast_signed(), row.first.cast_signed(), row.payload])?;
        }
        Ok(if there.is_none() { Came::First } else { Came::Again })
    }

    /// Bytes of all batches that wait.
    pub fn waiting_bytes(&self) -> Result<u64, Fault> {
        let sql = "SELECT coalesce(sum(length(payload)), 0) FROM waiting";
        Ok(self.work.query_row(sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    /// The batches of a gateway that wait, with their row ids.
    pub fn waiting(&self, gateway: &str) -> Result<Vec<(i64, Vec<u8>)>, Fault> {
        let mut query = self.work.prepare("SELECT rowid, payload FROM waiting WHERE gateway = ?1")?;
        let rows = query.query_map([gateway], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One of them was read at last.
    pub fn drop_waiting(&mut self, row: i64) -> Result<(), Fault> {
        self.work.execute("DELETE FROM waiting WHERE rowid = ?1", [row])?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Fault> {
        let mut put = self.work.prepare(
            "UPDATE epoch SET duplicates = duplicates + ?2,
                 newest = CASE WHEN ?3 IS NULL OR newest >= ?3 THEN newest ELSE ?3 END,
                 previous_epoch = coalesce(?4, previous_epoch), previous_seq = coalesce(?5, previous_seq)
             WHERE id = ?1",
        )?;
        let mut count = self.work.prepare(
            "INSERT INTO delay VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?;
        for (life, tally) in self.tallies {
            let (before, seq) = tally.previous.map_or((None, None), |(epoch, seq)| (Some(epoch), seq));
            let (before, seq) = (before.map(u64::cast_signed), seq.map(u64::cast_signed));
            let (duplicates, newest) = (tally.duplicates.cast_signed(), tally.newest.map(u64::cast_signed));
            put.execute(params![life, duplicates, newest, before, seq])?;
            for (bucket, records) in tally.delays {
                count.execute(params![life, bucket, records.cast_signed()])?;
            }
        }
        Ok(())
    }
}

fn cell(value: &Value) -> ToSqlOutput<'_> {
    match value {
        Value::Bool(bit) => ToSqlOutput::Owned(Cell::Integer(i64::from(*bit))),
        Value::Int(number) => ToSqlOutput::Owned(Cell::Integer(*number)),
        Value::Uint(number) => {
            ToSqlOutput::Owned(i64::try_from(*number).map_or_else(|_| Cell::Text(number.to_string()), Cell::Integer))
        }
        Value::Float(number) => ToSqlOutput::Owned(Cell::Real(*number)),
        Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
    }
}
