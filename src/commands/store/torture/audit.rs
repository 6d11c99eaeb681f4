//! Opens the store after a kill (or a real power cut) and holds it against what was promised.
//!
//! The uplink `auditor` never acknowledges anything, so it is owed every record or a gap record for it; only eviction at
//! the cap excuses a promised record from being there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use super::child::{self, Running};
use super::promises::{Promises, Run, Stream, id_of, place};
use crate::commands::Failed;
use crate::model::number::{Class, Epoch, Seq};
use crate::store::{Item, Reader, inspect};

/// How long polling may wait for the store (the product's promise).
const OPEN_MAX: Duration = Duration::from_secs(2);
/// How long a record may take to be committed or handed out before that counts as a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Complaints that are kept; more say nothing new.
const COMPLAINTS_MAX: usize = 20;

/// What came of an audit.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub(super) opened_in: Duration,
    pub(super) lost: u64,
    pub(super) evicted: u64,
    pub(super) duplicates: u64,
    pub(super) complaints: Vec<String>,
}

impl Finding {
    fn complain(&mut self, text: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text);
        }
    }
}

/// What the auditor is handed.
#[derive(Default)]
struct Handed {
    records: BTreeMap<Stream, BTreeMap<u64, u64>>,
    gaps: Vec<(Stream, u64, u64, String)>,
}

impl Handed {
    fn has(&self, (stream, seq): (Stream, u64)) -> bool {
        self.records.get(&stream).is_some_and(|records| records.contains_key(&seq)) || self.gap(stream, seq).is_some()
    }

    fn gap(&self, stream: Stream, seq: u64) -> Option<&str> {
        let covers = |gap: &&(Stream, u64, u64, String)| gap.0 == stream && gap.1 <= seq && seq <= gap.2;
        self.gaps.iter().find(covers).map(|gap| gap.3.as_str())
    }
}

/// Opens, reads everything, stores one more record of each class (their numbers are promised from then on), closes,
/// verifies. `ids`: no other process on this store may use the same.
pub(super) async fn audit(dir: &Path, promises: &mut Promises, ids: u64) -> Result<Finding, Failed> {
    let before = Instant::now();
    let running = child::start(dir);
    let mut finding = Finding { opened_in: before.elapsed(), ..Finding::default() };
    if finding.opened_in > OPEN_MAX {
        finding.complain(format!("opening took {:?}", finding.opened_in));
    }
    match store_more(&running, ids).await {
        Some(more) => {
            let upto: Vec<_> = more.iter().map(|(stream, run)| (*stream, run.last)).collect();
            for (stream, run) in more {
                if promises.id_of(stream, run.first).is_some() {
                    finding.duplicates += 1;
                    finding.complain(format!("{} {}: number {} was used again", stream.0, stream.1, run.first));
                } else {
                    promises.promise(stream, run);
                }
            }
            let handed = match running.store.reader("auditor") {
                Some(mut reader) => listen(&mut reader, &upto, &mut finding).await,
                None => Handed::default(),
            };
            judge(&handed, promises, &mut finding);
        }
        None => finding.complain("nothing is committed any more".into()),
    }
    running.close().await;
    match inspect::verify(&child::opening(dir).dir, &mut |_, _| {}) {
        Ok(verdict) => verdict.problems.into_iter().for_each(|problem| finding.complain(problem)),
        Err(error) => finding.complain(error.to_string()),
    }
    for twice in promises.twice.drain(..) {
        finding.duplicates += 1;
        finding.complain(twice);
    }
    Ok(finding)
}

/// Stores a record of each class; their numbers and ids once they are committed.
async fn store_more(running: &Running, ids: u64) -> Option<Vec<(Stream, Run)>> {
    let before = running.store.newest();
    for class in Class::ALL {
        running.emit(class, ids + class as u64..ids + class as u64 + 1).await;
    }
    let began = Instant::now();
    loop {
        let newest = running.store.newest();
        let later = |(now, before): (&(Class, Epoch, Seq), &(Class, Epoch, Seq))| now.2 > before.2;
        if before.len() == Class::ALL.len() && newest.iter().zip(&before).all(later) {
            let run = |(class, epoch, seq): (Class, Epoch, Seq)| {
                ((class, epoch.0), Run { first: seq.0, last: seq.0, id: ids + class as u64 })
            };
            return Some(newest.into_iter().map(run).collect());
        }
        if began.elapsed() > PATIENCE {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn listen(reader: &mut Reader, upto: &[(Stream, u64)], finding: &mut Finding) -> Handed {
    let mut handed = Handed::default();
    while !upto.iter().all(|number| handed.has(*number)) {
        let Ok(Some(items)) = tokio::time::timeout(PATIENCE, reader.next(2000)).await else {
            finding.complain("a reader stands still before the end".into());
            return handed;
        };
        for item in items {
            match item {
                Item::Gap(gap) => handed.gaps.push(((gap.stream, gap.epoch.0), gap.first.0, gap.last.0, gap.reason)),
                Item::Record(owed) => {
                    let (stream, seq) = place(owed.number);
                    let Some(id) = id_of(&owed) else {
                        finding.complain(format!("{} {}: record {seq} is not what was stored", stream.0, stream.1));
                        continue;
                    };
                    if handed.records.entry(stream).or_default().insert(seq, id).is_some() {
                        finding.duplicates += 1;
                        finding.complain(format!("{} {}: record {seq} came twice", stream.0, stream.1));
                    }
                }
            }
        }
    }
    handed
}

fn judge(handed: &Handed, promises: &Promises, finding: &mut Finding) {
    for (stream, runs) in &promises.runs {
        let records = handed.records.get(stream);
        for run in runs {
            for seq in run.first..=run.last {
                let id = run.id + seq - run.first;
                match (records.and_then(|records| records.get(&seq)), handed.gap(*stream, seq)) {
                    (Some(found), _) if *found == id => {}
                    (None, Some("evicted")) => finding.evicted += 1,
                    (Some(found), _) => {
                        finding.duplicates += 1;
                        finding.complain(format!("{} {}: {seq} meant {id}, now {found}", stream.0, stream.1));
                    }
                    (None, gap) => {
                        finding.lost += 1;
                        let gap = gap.unwrap_or("nowhere");
                        finding.complain(format!("{} {}: {seq} was committed and is {gap}", stream.0, stream.1));
                    }
                }
            }
        }
    }
    for (stream, records) in &handed.records {
        let numbers: BTreeSet<u64> = records.keys().copied().collect();
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { continue };
        let missing = (*first..=*last).filter(|seq| !numbers.contains(seq));
        for seq in missing.filter(|seq| handed.gap(*stream, *seq).is_none()) {
            finding.complain(format!("{} {}: {seq} is neither there nor in a gap record", stream.0, stream.1));
        }
    }
}
