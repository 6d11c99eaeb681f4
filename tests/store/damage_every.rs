//! Every file of a store, damaged in every manner: missing, emptied, cut, bits flipped at any place, zeroed, filled with
//! rubbish, an older version of it, grown. The store starts at once, and what is not there any more is declared.
//!
//! The store is one that was killed while it was written, so that logs are full and nothing was put away. The files keep
//! their inodes (the store would notice a copy). `IRONBRIDGE_DAMAGES` sets how often each file meets each manner (1).

use crate::powercut;
use crate::subject;
use crate::witness;
use crate::workload;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use powercut::{Disk, Image};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use subject::Subject;
use witness::{Audit, FRESH, Figures, Said};
use workload::Order;

const MAX_SIZE: u64 = 24 * 1024 * 1024;

/// Not a test of its own: what is killed.
#[test]
fn the_process_that_is_killed() {
    if let Some(order) = Order::mine() {
        order.obey();
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Emptied,
    Cut,
    LastByte,
    Head,
    Flips,
    Zeros,
    Rubbish,
    AllRubbish,
    Older,
    Grown,
}

const DAMAGES: [Damage; 11] = [
    Damage::Missing,
    Damage::Emptied,
    Damage::Cut,
    Damage::LastByte,
    Damage::Head,
    Damage::Flips,
    Damage::Zeros,
    Damage::Rubbish,
    Damage::AllRubbish,
    Damage::Older,
    Damage::Grown,
];

/// A store as it was left, what it had said by then, and how it lay there a while before.
struct Left {
    home: tempfile::TempDir,
    image: Image,
    disk: Disk,
    older: Disk,
    said: Said,
}

impl Left {
    fn path(&self) -> PathBuf {
        self.home.path().join("store")
    }

    fn new() -> Self {
        let home = witness::place();
        let dir = home.path().join("store");
        let mut random = StdRng::seed_from_u64(1);
        let mut said = Said::default();
        let mut older = Disk::default();
        for (ids, steps, after) in [(1_000_000_000, 25, 9_000), (2_000_000_000, 500, 20_000)] {
            let (socket, lives) = (home.path().join("socket"), 1000);
            let order =
                Order { dir: dir.clone(), socket, seed: ids, ids, steps, lives, max_size: MAX_SIZE, auditor: true };
            let mut subject = Subject::run("damage_every::the_process_that_is_killed", &order);
            subject.has_said(after);
            subject.kill(&mut said);
            if older.bytes() == 0 {
                older = Disk::of(&dir);
            }
        }
        let disk = Disk::of(&dir);
        let image = disk.cut(&mut random); // nothing is under way: as it lies there
        Self { home, image, disk, older, said }
    }

    /// The files, damaged in one place, and opened.
    fn suffer(&self, name: &Path, damage: Damage, random: &mut StdRng) -> Result<Figures, Vec<String>> {
        let home = tempfile::tempdir_in(self.home.path()).expect("a directory");
        let dir = home.path().join("store");
        std::fs::create_dir(&dir).expect("made");
        let mut files = self.image.files.clone();
        let place = files.iter().position(|(path, ..)| path == name).expect("one of them");
        let content = files[place].2.as_mut().expect("a file");
        let older = self.older.content(&self.older_path(name));
        if matches!(damage, Damage::Missing) {
            files.remove(place);
        } else {
            hurt(content, damage, older, random);
        }
        let image = Image { files, kind: "damaged" };
        image.write(&dir, &self.disk.places());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let audit = Audit { damage: true, id: FRESH, ..Audit::of(&dir, MAX_SIZE) };
        std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(audit.run(&self.said))))
            .unwrap_or_else(|_| Err(vec!["panicked, as told above".to_owned()]))
    }

    fn older_path(&self, name: &Path) -> PathBuf {
        self.path().join(name)
    }
}

fn hurt(content: &mut Vec<u8>, damage: Damage, older: Option<&[u8]>, random: &mut StdRng) {
    let length = content.len();
    let some = |random: &mut StdRng| {
        let start = random.random_range(0..length.max(1));
        start.min(length)..(start + random.random_range(1..20_000)).min(length)
    };
    match damage {
        Damage::Missing => {}
        Damage::Emptied => content.clear(),
        Damage::Cut => content.truncate(random.random_range(0..=length)),
        Damage::LastByte => drop(content.pop()),
        Damage::Head => content.iter_mut().take(100).for_each(|byte| *byte = !*byte),
        Damage::Flips => {
            for _ in 0..random.random_range(1..20) {
                if let Some(byte) = content.get_mut(random.random_range(0..length.max(1))) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
        Damage::Zeros => content[some(random)].fill(0),
        Damage::Rubbish => {
            let place = some(random);
            random.fill_bytes(&mut content[place]);
        }
        Damage::AllRubbish => random.fill_bytes(content),
        Damage::Older => {
            if let Some(older) = older {
                *content = older.to_vec();
            }
        }
        Damage::Grown => {
            let mut more = vec![0; random.random_range(1..9000)];
            random.fill_bytes(&mut more);
            content.extend(more);
        }
    }
}

#[test]
fn whatever_happens_to_any_one_file_the_store_starts_and_what_is_missing_is_declared() {
    let times: u64 = std::env::var("IRONBRIDGE_DAMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let left = Left::new();
    let names: Vec<PathBuf> =
        left.image.files.iter().filter(|file| file.2.is_some()).map(|(path, ..)| path.clone()).collect();
    let (mut figures, mut wrong, mut cases) = (Figures::default(), Vec::new(), 0);
    let mut random = StdRng::seed_from_u64(5);
    for name in &names {
        for damage in DAMAGES {
            for _ in 0..times {
                cases += 1;
                match left.suffer(name, damage, &mut random) {
                    Ok(more) => figures.add(&more),
                    Err(complaints) => {
                        wrong.push(format!("{} {damage:?}: {}", name.display(), complaints.join("\n    ")));
                    }
                }
            }
        }
    }
    eprintln!("{cases} damages to {} files: {figures:?}", names.len());
    assert!(wrong.is_empty(), "{} of {cases}\n{}", wrong.len(), wrong.join("\n"));
    assert!(figures.damaged > 0, "some of it must cost something");
}
