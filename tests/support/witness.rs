//! What a store said while it ran, and whether it keeps its word when it is opened again.
//!
//! The process under test says over a socket, line by line (class, epoch and numbers; a record's content follows from
//! its id):
//!
//! ```text
//! commit CLASS EPOCH FIRST LAST ID        committed; record FIRST has this id, the next the next
//! told CLASS EPOCH FIRST LAST ID          handed to the uplink "cloud"
//! ack CLASS EPOCH FIRST LAST              about to be acknowledged by it
//! gap CLASS EPOCH FIRST LAST REASON       handed to it as a gap record
//! ```
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use ironbridge::config::plan::UplinkStart;
use ironbridge::model::number::{Class, Number};
use ironbridge::model::value::Value;
use ironbridge::store::{Item, Opening, Owed, OwedBody, Reader, Route, inspect};

use super::rig::{Running, opening, route, start};
use super::workload::Content;

pub type Key = (Class, u64, u64);

/// How long polling may wait for a store to be opened: 2 s are promised, the rest is for a busy machine and a slow disk.
pub const OPEN_MAX: Duration = Duration::from_secs(15);
/// How long a record may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ids of records that an audit stores begin here.
pub const FRESH: u64 = 1_000_000_000_000_000;

/// In memory where there is such a place: what a real disk takes is not what is tested here.
pub fn place() -> tempfile::TempDir {
    let memory = tempfile::Builder::new().prefix("ironbridge-proof").tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// What was said so far.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub committed: BTreeSet<Key>,
    /// The id of every number that was ever promised or handed out.
    pub means: BTreeMap<Key, u64>,
    pub acked: BTreeSet<Key>,
    pub gaps: BTreeSet<Key>,
    /// Lines of other words, as they came.
    pub other: Vec<String>,
    rest: Vec<u8>,
}

impl Said {
    /// Takes what came over the socket; an unfinished line waits for its end.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(std::str::from_utf8(&line).expect("text").trim_end());
        }
    }

    /// The process is gone: what it had not said to the end was not said.
    pub fn cut(&mut self) {
        self.rest.clear();
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["commit" | "told" | "ack" | "gap", class, epoch, first, last, more @ ..] = words.as_slice() else {
            return self.other.push(line.to_owned());
        };
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let class = Class::from_name(class).expect("a class");
        let (epoch, first, last) = (number(epoch), number(first), number(last));
        for seq in first..=last {
            let key = (class, epoch, seq);
            match words[0] {
                "ack" => drop(self.acked.insert(key)),
                "gap" => drop(self.gaps.insert(key)),
                word => {
                    let id = number(more[0]) + seq - first;
                    let before = self.means.insert(key, id);
                    assert!(before.is_none_or(|before| before == id), "{key:?} meant {before:?}, now {id}");
                    if word == "commit" {
                        self.committed.insert(key);
                    }
                }
            }
        }
    }
}

/// What an opened store hands out.
#[derive(Debug, Default)]
struct Heard {
    records: BTreeMap<Key, u64>,
    gaps: BTreeMap<Key, String>,
    twice: u64,
}

/// Figures of one audit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub opened_in: Duration,
    pub records: u64,
    pub promised: u64,
    pub evicted: u64,
    pub damaged: u64,
    pub declared_store: u64,
    /// Streams that had records and go on in a new epoch.
    pub epochs: u64,
}

impl Figures {
    pub fn add(&mut self, more: &Self) {
        self.opened_in = self.opened_in.max(more.opened_in);
        self.records += more.records;
        self.promised += more.promised;
        self.evicted += more.evicted;
        self.damaged += more.damaged;
        self.declared_store += more.declared_store;
        self.epochs += more.epochs;
    }
}

/// How strictly to judge.
#[derive(Debug, Clone)]
pub struct Audit {
    pub opening: Opening,
    /// The uplink "auditor" was there before and acknowledged nothing: it is owed everything or a gap record.
    pub auditor_known: bool,
    /// Files were damaged: what is missing may be declared.
    pub damage: bool,
    /// Ids of records that this audit stores.
    pub id: u64,
}

impl Audit {
    pub fn of(dir: &Path, max_size: u64) -> Self {
        let opening = Opening { max_size, ..opening(dir) };
        Self { opening, auditor_known: true, damage: false, id: FRESH }
    }

    /// Opens the store and holds it against what was said. Every complaint is a line.
    pub async fn run(&self, said: &Said) -> Result<Figures, Vec<String>> {
        let mut complaints = Vec::new();
        let auditor = Route { start: UplinkStart::Oldest, ..route("auditor", &Class::ALL) };
        let before = Instant::now();
        let running = start(Opening { uplinks: vec![route("cloud", &Class::ALL), auditor], ..self.opening.clone() });
        let opened_in = before.elapsed();
        if opened_in > OPEN_MAX {
            complaints.push(format!("opening took {opened_in:?}"));
        }
        let new = match self.store_more(&running, said).await {
            Ok(new) => new,
            Err(complaint) => return Err(vec![complaint]),
        };
        let mut both = Vec::new();
        for uplink in ["auditor", "cloud"] {
            let mut reader = running.store.reader(uplink).expect("routed");
            match listen(&mut reader, &new).await {
                Ok(heard) => both.push(heard),
                Err(complaint) => complaints.push(format!("{uplink}: {complaint}")),
            }
        }
        if let [auditor, cloud] = &both[..] {
            self.judge(auditor, cloud, said, &mut complaints);
        }
        close(running).await;
        match inspect::verify(&self.opening.dir, &mut |_, _| {}) {
            Ok(verdict) => {
                let structure = |problem: &&String| !self.damage || problem.contains("are missing");
                complaints
                    .extend(verdict.problems.iter().filter(structure).map(|problem| format!("verify: {problem}")));
            }
            Err(error) => complaints.push(format!("verify: {error}")),
        }
        if let Err(error) = inspect::status(&self.opening.dir) {
            complaints.push(format!("status: {error}"));
        }
        let [auditor, ..] = &both[..] else { return Err(complaints) };
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let because = |reason: &str| auditor.gaps.values().filter(|gap| *gap == reason).count() as u64;
        let newest = |class| said.means.keys().filter(move |key| key.0 == class).map(|key| key.1);
        let drawn = |number: &&Number| {
            newest(number.stream).next().is_some() && newest(number.stream).all(|epoch| epoch != number.epoch.0)
        };
        Ok(Figures {
            opened_in,
            records: auditor.records.len() as u64,
            promised: said.committed.len() as u64,
            evicted: because("evicted"),
            damaged: because("damaged"),
            declared_store: because("store"),
            epochs: new.iter().filter(drawn).count() as u64,
        })
    }

    /// New records, one of each class: their numbers must be new.
    async fn store_more(&self, running: &Running, said: &Said) -> Result<Vec<Number>, String> {
        let mut new = Vec::new();
        for (n, class) in Class::ALL.into_iter().enumerate() {
            let id = self.id + 10 * n as u64 + 5;
            let number = tokio::time::timeout(PATIENCE, Content::of(id).stored(running, class));
            let number = number.await.map_err(|_| format!("{class}: nothing is committed any more"))?;
            let number = number.ok_or_else(|| format!("{class}: a new record was refused"))?;
            if let Some(id) = said.means.get(&key(number)) {
                return Err(format!("{:?} is used again; it meant {id}", key(number)));
            }
            new.push(number);
        }
        Ok(new)
    }

    fn judge(&self, auditor: &Heard, cloud: &Heard, said: &Said, complaints: &mut Vec<String>) {
        let mut wrong = |text: String| {
            if complaints.len() < 8 {
                complaints.push(text);
            }
        };
        for (name, heard) in [("auditor", auditor), ("cloud", cloud)] {
            if heard.twice > 0 {
                wrong(format!("{name}: {} items came twice", heard.twice));
            }
            for (key, id) in &heard.records {
                if said.means.get(key).is_some_and(|meant| meant != id) {
                    wrong(format!("{name}: {key:?} meant {:?}, now {id}", said.means.get(key)));
                }
                if !self.damage && heard.gaps.contains_key(key) {
                    wrong(format!("{name}: {key:?} is declared missing, but there"));
                }
            }
        }
        if let Some(hole) = holes(auditor) {
            wrong(hole);
        }
        let mut first: BTreeMap<(Class, u64), u64> = BTreeMap::new();
        for (class, epoch, seq) in auditor.records.keys().chain(auditor.gaps.keys()) {
            let first = first.entry((*class, *epoch)).or_insert(*seq);
            *first = (*first).min(*seq);
        }
        let excused = |reason: &str| reason == "evicted" || (self.damage && reason == "damaged");
        for key in &said.committed {
            if auditor.records.contains_key(key) {
                // Whoever has not acknowledged it is owed it.
                if !said.acked.contains(key) && !cloud.records.contains_key(key) && !cloud.gaps.contains_key(key) {
                    wrong(format!("{key:?} is not owed to cloud, which never acknowledged it"));
                }
                continue;
            }
            match auditor.gaps.get(key) {
                Some(reason) if excused(reason) => {}
                Some(reason) => wrong(format!("{key:?} was committed and is now declared missing: {reason}")),
                None => {
                    let gone = first.get(&(key.0, key.1)).is_none_or(|first| key.2 < *first);
                    let known = said.acked.contains(key) || said.gaps.contains(key) || cloud.gaps.contains_key(key);
                    if self.auditor_known || !gone || !known {
                        wrong(format!("{key:?} was committed and is nowhere"));
                    }
                }
            }
        }
    }
}

/// Between the first and the last number of an epoch each one is a record or in a gap record.
fn holes(heard: &Heard) -> Option<String> {
    let all: BTreeSet<&Key> = heard.records.keys().chain(heard.gaps.keys()).collect();
    let mut before: Option<&Key> = None;
    for key in all {
        if let Some(before) = before
            && (before.0, before.1) == (key.0, key.1)
            && before.2 + 1 != key.2
        {
            return Some(format!("nothing between {before:?} and {key:?}"));
        }
        before = Some(key);
    }
    None
}

/// Reads until the newest record of each class has come, or is declared evicted.
async fn listen(reader: &mut Reader, upto: &[Number]) -> Result<Heard, String> {
    let mut heard = Heard::default();
    let told = |heard: &Heard, key: Key| heard.records.contains_key(&key) || heard.gaps.contains_key(&key);
    while !upto.iter().all(|number| told(&heard, key(*number))) {
        let page = tokio::time::timeout(PATIENCE, reader.next(1000)).await;
        let page = page.map_err(|_| format!("stands still after {} records", heard.records.len()))?;
        for item in page.ok_or("ended early")? {
            match item {
                Item::Record(owed) => {
                    let twice = heard.records.insert(key(owed.number), id(&owed)?);
                    heard.twice += u64::from(twice.is_some());
                }
                Item::Gap(gap) => {
                    for seq in gap.first.0..=gap.last.0 {
                        heard.gaps.insert((gap.stream, gap.epoch.0, seq), gap.reason.clone());
                    }
                }
            }
        }
    }
    Ok(heard)
}

pub fn key(number: Number) -> Key {
    (number.stream, number.epoch.0, number.seq.0)
}

/// The id of a record, if every byte of it is as it was stored.
pub fn id(owed: &Owed) -> Result<u64, String> {
    let found = match &owed.body {
        OwedBody::Sample { value: Some(Value::Uint(id)), tag, .. } if tag.name == owed.number.stream.as_str() => *id,
        OwedBody::Event { body, .. } => Content::id_in(body).ok_or("an event without an id")?,
        body @ (OwedBody::Sample { .. } | OwedBody::Message { .. }) => {
            return Err(format!("{:?}: {body:?}", owed.number));
        }
    };
    let as_stored = Content::of(found).is(&owed.body) && owed.at.micros == Content::micros(found);
    if as_stored { Ok(found) } else { Err(format!("record {found} is not what was stored: {owed:?}")) }
}

/// Closes the lane and waits for the store to be done.
pub async fn close(running: Running) {
    let Running { hub, store, .. } = running;
    drop(hub);
    tokio::time::timeout(PATIENCE, store.ended()).await.expect("ends");
    tokio::time::timeout(PATIENCE, store.finish()).await.expect("finishes");
}
