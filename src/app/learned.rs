//! Where buses keep what they learned about their devices: `learned.db` in the data directory
//! ([`crate::disk::learned`]), a file with a thread of its own, so that no bus ever waits for the disk.
//!
//! A text per device, its name the key: the register map as 16 hexadecimal digits, a line feed, and
//! for each place at which blocks are split `<table> <period in ms> <first register or bit behind it>` and a line feed, such as
//! `holding 1000 35`. It expires after a week; a record of another map, or one that cannot be read, counts as none.
//! Without a disk everything works but for this: blocks are split again after each start.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::disk::learned::{Learned, LearnedFile};
use crate::field::memory::{Boundary, Memory};
use crate::flow::clock::Clock;
use crate::model::lock::Hold as _;
use crate::model::tag::Table;
use crate::model::time::Certainty;

/// What was learned longer ago is not believed: devices are replaced and updated.
const LIFE_MS: i64 = 7 * 86_400_000;
/// More boundaries of one device than tags it can have in one table.
const BOUNDARIES_MAX: usize = 0x1_0000;

/// Opens the file; `None` when there can be no thread for it.
pub fn open(data_dir: &Path, clock: &Clock) -> Option<Arc<dyn Memory>> {
    match LearnedFile::open(&data_dir.join("learned.db")) {
        Ok((file, known)) => Some(Arc::new(Kept { file, known: Mutex::new(known), clock: clock.clone() })),
        Err(error) => {
            tracing::warn!(%error, "what is learned about devices is not kept");
            None
        }
    }
}

struct Kept {
    file: LearnedFile,
    known: Mutex<HashMap<String, Learned>>,
    clock: Clock,
}

impl Memory for Kept {
    fn recall(&self, device: &str, map: u64) -> Vec<Boundary> {
        let known = self.known.hold();
        let now = self.clock.wall_now();
        // A clock that nobody vouches for says nothing about how old something is.
        let expired = |learned: &&Learned| {
            now.certainty == Certainty::Fixed && learned.expires_unix_ms.is_some_and(|expires| expires <= now.unix_ms)
        };
        let learned = known.get(device).filter(|learned| !expired(learned));
        learned.and_then(|learned| read(&learned.content, map)).unwrap_or_default()
    }

    fn keep(&self, device: &str, map: u64, boundaries: &[Boundary]) {
        // Those in a model are learned anew: it is looked for anew, too.
        let boundaries: Vec<Boundary> = boundaries.iter().filter(|kept| kept.model.is_none()).copied().collect();
        let now = self.clock.wall_now();
        let learned = (!boundaries.is_empty()).then(|| Learned {
            content: write(map, &boundaries),
            expires_unix_ms: (now.certainty == Certainty::Fixed).then_some(now.unix_ms + LIFE_MS),
        });
        let mut known = self.known.hold();
        match &learned {
            Some(learned) => known.insert(device.to_owned(), learned.clone()),
            None => known.remove(device),
        };
        self.file.put(Arc::from(device), learned);
    }
}

fn write(map: u64, boundaries: &[Boundary]) -> String {
    let mut text = format!("{map:016x}\n");
    for boundary in boundaries {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", boundary.table.as_str(), boundary.period.as_millis(), boundary.at);
    }
    text
}

fn read(text: &str, map: u64) -> Option<Vec<Boundary>> {
    let (of, lines) = text.split_once('\n')?;
    if u64::from_str_radix(of, 16).ok()? != map {
        return None;
    }
    let boundary = |line: &str| {
        let mut words = line.split(' ');
        Some(Boundary {
            table: Table::from_name(words.next()?)?,
            model: None,
            period: Duration::from_millis(words.next()?.parse().ok()?),
            at: words.next()?.parse().ok()?,
        })
    };
    lines.lines().take(BOUNDARIES_MAX).map(boundary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::{FakeTime, Fix};
    use crate::model::time::Boot;

    fn holding(at: u16) -> Boundary {
        Boundary { table: Table::Holding, model: None, period: Duration::from_millis(500), at }
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart_for_the_same_map_and_for_a_week() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let time = Arc::new(FakeTime::default());
        let clock = Clock::new(time.clone(), Boot(1), 0);
        clock.learn(Fix { at: clock.now(), unix_ms: 1_000_000 });
        let coil = Boundary { table: Table::Coil, ..holding(3) };
        let memory = open(directory.path(), &clock).expect("opens");
        memory.keep("meter", 7, &[holding(35), coil]);
        memory.keep("pump", 8, &[holding(1)]);
        memory.keep("pump", 8, &[]);
        drop(memory);
        let memory = open(directory.path(), &clock).expect("opens again");
        assert_eq!(memory.recall("meter", 7), [holding(35), coil]);
        assert_eq!(memory.recall("meter", 9), [], "another map");
        assert_eq!(memory.recall("pump", 8), []);
        time.advance(Duration::from_secs(8 * 86_400));
        assert_eq!(memory.recall("meter", 7), [], "too long ago");
    }

    #[test]
    fn a_record_that_is_none_counts_as_none() {
        for text in ["", "7", "\n", "zz\n", "7\nholding 1\n", "7\nlake 1 2\n", "7\nholding 1 70000\n"] {
            assert_eq!(read(text, 7), None, "{text:?}");
        }
        assert_eq!(read("7\n", 7), Some(Vec::new()));
    }
}
