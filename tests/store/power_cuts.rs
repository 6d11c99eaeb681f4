//! Simulated power cuts: what the store wrote is traced call by call, and after any cut that a disk may make of it,
//! everything that was promised is there.
//!
//! A process writes through the real store under strace; its log is played into a model of a disk
//! (`support/powercut.rs`) that is cut at random moments. Each image is opened, read to the end and held against what
//! the process had said before the cut (`support/witness.rs`). Some images become the start of the next process, so that
//! recovery is cut as well. `IRONBRIDGE_POWER_CUTS` sets the number of images (500), `IRONBRIDGE_SEED` the seed.

use crate::powercut;
use crate::strace;
use crate::witness;
use crate::workload;

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use powercut::{Disk, Image};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use strace::Op;
use witness::{Audit, Figures, Said};
use workload::{ORDER, Order};

/// One process, then these many cuts of what it wrote.
const IMAGES_OF_ONE: u64 = 36;
/// Processes in line, before one begins with an empty directory again.
const GENERATIONS: u64 = 3;
const LANES: u64 = 2;
/// What the indexes of WALs take at first: 32 KiB each, one of the store's own database and one of the chunk it continues.
const WAL_INDEXES: u64 = 2 * 32 * 1024;

/// Not a test of its own: what is traced.
#[test]
fn the_process_that_is_traced() {
    if let Some(order) = Order::mine() {
        order.obey();
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs the process to its end; the log of its calls.
fn trace(order: &Order, home: &Path) -> Vec<Op> {
    let log = home.join("log");
    let listener = UnixListener::bind(&order.socket).expect("bound");
    let status = strace::traced(&log, &std::env::current_exe().expect("this test"))
        .args(["power_cuts::the_process_that_is_traced", "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDER, order.text())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut process = status.expect("started");
    let (mut socket, _) = listener.accept().expect("connected");
    let mut all = Vec::new();
    socket.read_to_end(&mut all).expect("heard");
    assert!(process.wait().expect("waited for").success(), "the traced process failed");
    assert!(all.ends_with(b"done\n"));
    std::fs::remove_file(&order.socket).expect("removed");
    strace::read(&log)
}

/// What happened to one line of processes, each beginning where a cut had left the one before.
struct Lane {
    home: tempfile::TempDir,
    random: StdRng,
    number: u64,
    said: Said,
    figures: Figures,
    images: u64,
    kinds: BTreeMap<&'static str, u64>,
    opened: Vec<u128>,
}

impl Lane {
    fn new(number: u64, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed * LANES + number);
        let (said, figures) = (Said::default(), Figures::default());
        Self {
            home: witness::place(),
            random,
            number,
            said,
            figures,
            images: 0,
            kinds: BTreeMap::new(),
            opened: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// One store in three is so small that records are evicted.
    fn order(&mut self, generation: u64) -> Order {
        let small = generation % GENERATIONS == 2;
        Order {
            dir: self.path("live"),
            socket: self.path("socket"),
            seed: self.random.random(),
            ids: (self.number + 1) * 1_000_000_000_000 + generation * 1_000_000_000,
            steps: self.random.random_range(10..if small { 150 } else { 50 }),
            lives: self.random.random_range(1..4),
            max_size: if small { 3 } else { 24 } * 1024 * 1024,
            auditor: true,
        }
    }

    fn run(&mut self, images: u64) {
        for generation in 0.. {
            let left = images - self.images;
            if left == 0 {
                return;
            }
            if generation % GENERATIONS == 0 {
                let _ = std::fs::remove_dir_all(self.path("live"));
                std::fs::create_dir(self.path("live")).expect("made");
                self.said = Said::default();
            }
            self.generation(generation, left.min(IMAGES_OF_ONE));
        }
    }

    fn generation(&mut self, generation: u64, images: u64) {
        let order = self.order(generation);
        let mut disk = Disk::of(&order.dir);
        let ops = trace(&order, self.home.path());
        // Where each file is at the end: an image is made of the real ones, which the store knows by their inodes.
        let real = played_to_the_end(disk.clone(), &ops, order.max_size).places();
        let cuts = self.cuts(&ops, images);
        let next = self.random.random_range(0..cuts.len());
        let mut start: Option<(Image, Said)> = None;
        let mut played = 0;
        for (n, cut) in cuts.iter().enumerate() {
            for (place, op) in ops.iter().enumerate().take(*cut).skip(played) {
                disk.play(place, op);
                if let Op::Said(bytes) = op {
                    self.said.hear(bytes);
                }
            }
            played = *cut;
            let image = disk.cut(&mut self.random);
            self.images += 1;
            *self.kinds.entry(image.kind).or_default() += 1;
            self.judge(&image, &real, &format!("generation {generation}, cut at {cut} of {}", ops.len()), &order);
            if n == next {
                start = Some((image, self.said.clone()));
            }
        }
        let (image, said) = start.expect("chosen");
        self.said = said;
        let live = self.path("next");
        std::fs::create_dir(&live).expect("made");
        image.write(&live, &real);
        std::fs::remove_dir_all(&order.dir).expect("removed");
        std::fs::rename(&live, &order.dir).expect("moved");
    }

    /// Anywhere, and often just after something was synced or promised.
    fn cuts(&mut self, ops: &[Op], images: u64) -> Vec<usize> {
        let syncs: Vec<usize> = (0..ops.len()).filter(|n| matches!(ops[*n], Op::Sync { .. } | Op::Said(_))).collect();
        let mut cuts = Vec::new();
        for n in 0..images {
            cuts.push(match n % 3 {
                0 => syncs[self.random.random_range(0..syncs.len())] + 1,
                _ => self.random.random_range(0..=ops.len()),
            });
        }
        cuts.sort_unstable();
        cuts
    }

    /// What is said of a disk that has forgotten every sync since the middle of the process's life.
    fn forgetful(&mut self) -> Vec<String> {
        std::fs::create_dir(self.path("live")).expect("made");
        let order = Order { steps: 40, lives: 1, ..self.order(0) };
        let mut disk = Disk::of(&order.dir);
        let ops = trace(&order, self.home.path());
        let real = played_to_the_end(disk.clone(), &ops, order.max_size).places();
        for (place, op) in ops.iter().enumerate() {
            if place < ops.len() / 2 || !matches!(op, Op::Sync { .. }) {
                disk.play(place, op);
            }
            if let Op::Said(bytes) = op {
                self.said.hear(bytes);
            }
        }
        let images: Vec<Image> = (0..12).map(|_| disk.cut(&mut self.random)).collect();
        images.iter().find_map(|image| self.look(image, &real, &order).err()).unwrap_or_default()
    }

    fn look(&self, image: &Image, real: &HashMap<usize, PathBuf>, order: &Order) -> Result<Figures, Vec<String>> {
        let home = tempfile::tempdir_in(self.home.path()).expect("a directory");
        let dir = home.path().join("store");
        std::fs::create_dir(&dir).expect("made");
        image.write(&dir, real);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let audit = Audit { id: witness::FRESH + self.images * 100, ..Audit::of(&dir, order.max_size) };
        runtime.block_on(audit.run(&self.said))
    }

    fn judge(&mut self, image: &Image, real: &HashMap<usize, PathBuf>, place: &str, order: &Order) {
        match self.look(image, real, order) {
            Ok(figures) => {
                self.opened.push(figures.opened_in.as_millis());
                self.figures.add(&figures);
            }
            Err(complaints) => {
                let kept = std::env::temp_dir().join(format!("ironbridge-power-cut-{}-{}", self.number, self.images));
                let _ = std::fs::create_dir(&kept);
                image.write(&kept, &HashMap::new());
                let complaints = complaints.join("\n  ");
                panic!("lane {}, {place}, {}: kept in {}\n  {complaints}", self.number, image.kind, kept.display());
            }
        }
    }
}

/// The disk after all that was done; the store's cap held at every moment.
fn played_to_the_end(mut disk: Disk, ops: &[Op], max_size: u64) -> Disk {
    // A cap that was lowered is reached in time. Before the store can make room SQLite lays its indexes of the WALs that it finds
    // (-shm), and what they hold goes into the databases beside them.
    let (before, wals) = (disk.bytes(), disk.wal_bytes());
    let most = max_size.max(before + wals + WAL_INDEXES);
    for (n, op) in ops.iter().enumerate() {
        disk.play(n, op);
        let bytes = disk.bytes();
        let found = format!("{before} at first, {wals} of them in WALs");
        assert!(bytes <= most, "{bytes} bytes of {max_size} ({found}) after call {n}: {}", strace::short(op));
    }
    disk
}

#[test]
fn after_any_power_cut_everything_promised_is_there_and_no_number_means_two_things() {
    if !strace::available() {
        return;
    }
    let (images, seed) = (number("IRONBRIDGE_POWER_CUTS", 500), number("IRONBRIDGE_SEED", 1));
    let began = std::time::Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|n| {
            std::thread::spawn(move || {
                let mut lane = Lane::new(n, seed);
                lane.run(images.div_ceil(LANES));
                lane
            })
        })
        .collect();
    let (mut figures, mut kinds, mut all, mut opened) = (Figures::default(), BTreeMap::new(), 0, Vec::new());
    for lane in lanes {
        let lane = lane.join().expect("no complaint");
        figures.add(&lane.figures);
        all += lane.images;
        opened.extend(lane.opened);
        for (kind, count) in lane.kinds {
            *kinds.entry(kind).or_insert(0) += count;
        }
    }
    opened.sort_unstable();
    eprintln!("{all} power cuts {kinds:?} in {:?}: {figures:?}", began.elapsed());
    eprintln!("opened within (ms): median {}, slowest {}", opened[opened.len() / 2], opened[opened.len() - 1]);
    assert!(figures.promised > images * 100, "{figures:?}");
}

#[test]
fn a_disk_that_forgets_what_it_has_synced_is_found_out() {
    if !strace::available() {
        return;
    }
    let complaints = Lane::new(99, 1).forgetful();
    assert!(!complaints.is_empty(), "what was promised last was never on that disk");
}

/// Opens an image that an earlier run has kept, named by `IRONBRIDGE_IMAGE`.
#[test]
#[ignore = "by hand: IRONBRIDGE_IMAGE names the image"]
fn an_image_that_was_kept_can_be_read_to_the_end() {
    let kept = std::env::var("IRONBRIDGE_IMAGE").expect("IRONBRIDGE_IMAGE is set");
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("store");
    let disk = Disk::of(Path::new(&kept));
    let image = disk.cut(&mut StdRng::seed_from_u64(1));
    std::fs::create_dir(&dir).expect("made");
    image.write(&dir, &HashMap::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let audit = Audit::of(&dir, number("IRONBRIDGE_IMAGE_CAP", 24 * 1024 * 1024));
    let figures = runtime.block_on(audit.run(&Said::default()));
    assert!(figures.is_ok(), "{figures:?}");
}
