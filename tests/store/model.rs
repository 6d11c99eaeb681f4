//! Random work against a plain list, with restarts and files that are torn, emptied, flipped, zeroed or gone. One uplink takes
//! what there is, another of fewer classes is dead all the time and is owed everything at the end.

use crate::rig as support;
use crate::witness::OPEN_MAX;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ironbridge::model::number::Class;
use ironbridge::store::{Item, Opening, inspect};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;

type Key = (u8, u64, u64);

/// Classes of the dead uplink.
const OF_DEAD: [Class; 2] = [Class::Alarm, Class::Telemetry];

fn both(dir: &Path) -> Opening {
    Opening { uplinks: vec![route("cloud", &Class::ALL), route("dead", &OF_DEAD)], ..opening(dir) }
}

/// What the other end of the uplink knows.
#[derive(Default)]
struct Cloud {
    records: BTreeMap<Key, u64>,
    gaps: BTreeSet<Key>,
}

impl Cloud {
    fn take(&mut self, item: &Item) {
        match item {
            Item::Gap(gap) => {
                self.gaps.extend((gap.first.0..=gap.last.0).map(|seq| (gap.stream as u8, gap.epoch.0, seq)));
            }
            Item::Record(_) => {
                let (number, value) = told(item).expect("a record");
                let key = (number.stream as u8, number.epoch.0, number.seq.0);
                let before = self.records.insert(key, value);
                assert!(before.is_none_or(|before| before == value), "{key:?} meant {before:?}, now {value}");
            }
        }
    }

    /// Every number up to the highest of its epoch is explained.
    fn has_no_holes(&self) {
        let mut highest: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        for (class, epoch, seq) in self.records.keys().chain(&self.gaps) {
            let high = highest.entry((*class, *epoch)).or_default();
            *high = (*high).max(*seq);
        }
        for ((class, epoch), high) in highest {
            for seq in 1..=high {
                let key = (class, epoch, seq);
                assert!(self.records.contains_key(&key) || self.gaps.contains(&key), "{key:?} of {high} is nowhere");
            }
        }
    }
}

struct Model {
    random: StdRng,
    home: tempfile::TempDir,
    stored: Vec<u64>,
    /// What of it the dead uplink is owed.
    owed: Vec<u64>,
    cloud: Cloud,
    dead: Cloud,
    log: Vec<String>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let (random, cloud, dead) = (StdRng::seed_from_u64(seed), Cloud::default(), Cloud::default());
        Self { random, home, stored: Vec::new(), owed: Vec::new(), cloud, dead, log: Vec::new() }
    }

    /// One life of the store: some samples, some deliveries, all committed at the end.
    async fn live(&mut self) {
        let before = Instant::now();
        let running = start(both(self.home.path()));
        assert!(before.elapsed() < OPEN_MAX, "polling may start");
        let mut reader = running.store.reader("cloud").expect("routed");
        let mut mine = 0;
        for _ in 0..self.random.random_range(1..6) {
            let class = Class::ALL[self.random.random_range(0..4)];
            let first = self.stored.len() as u64;
            let count = self.random.random_range(1..400);
            self.stored.extend(first..first + count);
            if OF_DEAD.contains(&class) {
                self.owed.extend(first..first + count);
            }
            running.emit(class, first..first + count).await;
            mine += count;
            if self.random.random_bool(0.5) {
                running.settled(mine).await;
            }
            if self.random.random_bool(0.5) && reader.backlog() > 0 {
                let most = self.random.random_range(1..900);
                for item in next(&mut reader, most).await.expect("open") {
                    self.cloud.take(&item);
                    if self.random.random_bool(0.8) {
                        reader.acknowledge(ack(&item));
                    }
                }
            }
            if self.random.random_bool(0.2) {
                reader.rewind();
            }
            if self.random.random_bool(0.3) {
                reader.save().await;
            }
        }
        running.settled(mine).await;
        drop(reader);
        running.close().await;
    }

    /// Everything that is still owed arrives, also where nothing arrived before.
    async fn deliver(&mut self) {
        let running = start(both(self.home.path()));
        for (name, end) in [("cloud", &mut self.cloud), ("dead", &mut self.dead)] {
            let mut reader = running.store.reader(name).expect("routed");
            while reader.backlog() > 0 {
                for item in next(&mut reader, 500).await.expect("open") {
                    end.take(&item);
                    reader.acknowledge(ack(&item));
                }
            }
        }
        running.close().await;
    }

    fn damage(&mut self) {
        let mut files = files(self.home.path());
        files.retain(|path| !path.to_string_lossy().contains("quarantine") && !path.ends_with("ballast"));
        let path = files[self.random.random_range(0..files.len())].clone();
        let mut bytes = std::fs::read(&path).expect("read");
        let kind = self.random.random_range(0..6);
        match (kind, bytes.len()) {
            (0, _) => bytes.clear(),
            (1, length) => bytes.truncate(self.random.random_range(0..=length)),
            (2, length) if length > 0 => {
                for _ in 0..self.random.random_range(1..20) {
                    bytes[self.random.random_range(0..length)] ^= 1 << self.random.random_range(0..8);
                }
            }
            (3, length) if length > 0 => {
                let start = self.random.random_range(0..length);
                let end = (start + self.random.random_range(1..20_000)).min(length);
                bytes[start..end].fill(0);
            }
            (4, _) => bytes.iter_mut().for_each(|byte| *byte = self.random.random()),
            _ => {}
        }
        self.log.push(format!("{kind} {}", path.display()));
        if kind == 5 {
            std::fs::remove_file(&path).expect("removed");
        } else {
            std::fs::write(&path, bytes).expect("written");
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn without_damage_every_record_arrives_and_nothing_is_declared_lost() {
    for seed in 0..6 {
        let mut model = Model::new(seed);
        for _ in 0..4 {
            model.live().await;
        }
        model.deliver().await;
        for (end, stored) in [(&model.cloud, &model.stored), (&model.dead, &model.owed)] {
            end.has_no_holes();
            let mut values: Vec<u64> = end.records.values().copied().collect();
            values.sort_unstable();
            assert_eq!(&values, stored, "seed {seed}");
            assert!(end.gaps.is_empty(), "seed {seed}");
        }
        let verdict = inspect::verify(model.home.path(), &mut |_, _| {}).expect("readable");
        assert!(verdict.problems.is_empty(), "{verdict:?}");
    }
}

#[tokio::test]
async fn whatever_happens_to_the_files_the_store_starts_and_what_is_missing_is_declared() {
    for seed in 100..112 {
        let mut model = Model::new(seed);
        for _ in 0..3 {
            model.live().await;
            model.damage();
        }
        model.live().await;
        model.deliver().await;
        for (end, stored) in [(&model.cloud, &model.stored), (&model.dead, &model.owed)] {
            end.has_no_holes();
            let arrived: BTreeSet<u64> = end.records.values().copied().collect();
            let missing = stored.iter().filter(|value| !arrived.contains(value)).count();
            let declared = end.gaps.iter().filter(|key| !end.records.contains_key(key)).count();
            assert!(missing <= declared, "seed {seed}: {missing} missing, {declared} declared, {:?}", model.log);
        }
        let verdict = inspect::verify(model.home.path(), &mut |_, _| {}).expect("readable");
        // A file's structure may be hurt where its records are not.
        let undeclared: Vec<_> = verdict.problems.iter().filter(|problem| problem.contains("are missing")).collect();
        assert!(undeclared.is_empty(), "seed {seed}: {undeclared:?} {:?}", model.log);
    }
}
