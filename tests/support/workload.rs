//! The process under test: stores records of all classes through the real store as fast as it may, reads and
//! acknowledges them in and out of order, stops and starts again, and says over a socket what it was promised.
//!
//! What a record holds follows from its id alone, so that every byte can be checked later. Ids of a class are given in
//! order, so that numbers and ids go in step as long as nothing finds the lane full.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironbridge::config::plan::UplinkStart;
use ironbridge::flow::clock::Fix;
use ironbridge::flow::hub::EventRecord;
use ironbridge::model::number::{Class, Epoch, Number, PerClass, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::sample::{Batch, Sample};
use ironbridge::model::tag::{DeviceIx, TagIx};
use ironbridge::model::time::Stamp;
use ironbridge::model::value::Value;
use ironbridge::store::{Ack, Item, Opening, OwedBody, Reader, Route};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::oneshot;

use super::rig::{Running, opening, route, start};
use super::witness;

/// Names the order of the process in its environment.
pub const ORDER: &str = "IRONBRIDGE_TEST_WORKLOAD";

/// Set: the process tells on standard error what happens to its store.
pub const LOG: &str = "IRONBRIDGE_TEST_LOG";

/// What the process is to do; `Order::text` goes into its environment.
#[derive(Debug, Clone)]
pub struct Order {
    pub dir: PathBuf,
    pub socket: PathBuf,
    pub seed: u64,
    /// Ids begin here; no two processes share any.
    pub ids: u64,
    /// Steps between a start and a stop.
    pub steps: u64,
    /// Starts.
    pub lives: u64,
    pub max_size: u64,
    /// Is the second uplink there, that never acknowledges anything?
    pub auditor: bool,
}

impl Order {
    pub fn text(&self) -> String {
        let Self { dir, socket, seed, ids, steps, lives, max_size, auditor } = self;
        let (dir, socket) = (dir.display(), socket.display());
        format!("{dir}|{socket}|{seed}|{ids}|{steps}|{lives}|{max_size}|{auditor}")
    }

    /// What this process was ordered to do, if anything.
    pub fn mine() -> Option<Self> {
        let text = std::env::var(ORDER).ok()?;
        let mut words = text.split('|');
        let mut word = || words.next().expect("eight words").to_owned();
        let (dir, socket) = (word().into(), word().into());
        let mut number = || word().parse().expect("a number");
        let (seed, ids, steps, lives, max_size) = (number(), number(), number(), number(), number());
        Some(Self { dir, socket, seed, ids, steps, lives, max_size, auditor: word() == "true" })
    }

    /// How the store is opened.
    pub fn opening(&self) -> Opening {
        let mut opening = Opening { max_size: self.max_size, ..opening(&self.dir) };
        if self.auditor {
            opening.uplinks.push(Route { start: UplinkStart::Oldest, ..route("auditor", &Class::ALL) });
        }
        opening
    }

    /// Does it; returns when all lives are lived or the other end of the socket closes its side.
    pub fn obey(&self) {
        if std::env::var_os(LOG).is_some() {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        }
        // Without an I/O driver: its wake-ups are writes, and writes may be made to fail.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let socket = UnixStream::connect(&self.socket).expect("connected");
        let stop = Arc::new(AtomicBool::new(false));
        let (mut other, stopped) = (socket.try_clone().expect("cloned"), Arc::clone(&stop));
        std::thread::spawn(move || {
            let _ = other.read(&mut [0]);
            stopped.store(true, Ordering::Relaxed);
        });
        let random = StdRng::seed_from_u64(self.seed);
        let next_id = PerClass::of(|class| self.ids + class as u64 * 10_000_000);
        let (voice, slowest) = (Voice::new(socket), Duration::ZERO);
        let (late, asked) = (Vec::new(), Vec::new());
        let mut work = Work { order: self.clone(), voice, random, next_id, late, asked, slowest, stop };
        runtime.block_on(async {
            for _ in 0..self.lives {
                work.live().await;
                if work.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        work.voice.say("done");
    }
}

/// The content of a record.
pub enum Content {
    Sample(u64),
    Event(u64, Vec<u8>),
}

const TOPIC: &str = "machines/press";

impl Content {
    /// Every fifth is an event, every tenth a large one that does not compress.
    pub fn of(id: u64) -> Self {
        if !id.is_multiple_of(5) {
            return Self::Sample(id);
        }
        let mut random = id | 1;
        let mut pad = String::new();
        let length = if id.is_multiple_of(10) { 3000 } else { id % 90 };
        for _ in 0..length {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            pad.push(char::from(b'a' + u8::try_from(random % 16).expect("small")));
        }
        Self::Event(id, format!("{{\"id\":{id},\"pad\":\"{pad}\"}}").into_bytes())
    }

    pub fn id_in(body: &[u8]) -> Option<u64> {
        std::str::from_utf8(body).ok()?.strip_prefix("{\"id\":")?.split(',').next()?.parse().ok()
    }

    pub fn micros(id: u64) -> i64 {
        i64::try_from(id % 1_000_000_007).expect("small") * 1000
    }

    pub fn is(&self, found: &OwedBody) -> bool {
        match (self, found) {
            (Self::Sample(id), OwedBody::Sample { value, quality, .. }) => {
                *value == Some(Value::Uint(*id)) && *quality == Quality::Good
            }
            (Self::Event(_, mine), OwedBody::Event { topic, body }) => **topic == *TOPIC && **body == mine[..],
            _ => false,
        }
    }

    /// Stores an event; its number.
    pub async fn stored(self, running: &Running, class: Class) -> Option<Number> {
        let (told, number) = oneshot::channel();
        let Self::Event(id, body) = self else { return None };
        running.hub.emit_event(event(running, class, (id, body), Some(told))).await;
        number.await.ok()
    }
}

fn event(
    running: &Running,
    class: Class,
    (id, body): (u64, Vec<u8>),
    committed: Option<oneshot::Sender<Number>>,
) -> EventRecord {
    let at = Stamp { micros: Content::micros(id), ..running.clock.now() };
    EventRecord { topic: TOPIC.into(), body, class, at, committed }
}

/// Speaks over the socket, a line at a time. When nobody listens any more, the process may end.
#[derive(Clone)]
struct Voice(Arc<Mutex<UnixStream>>);

impl Voice {
    fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    fn say(&self, line: &str) {
        let sent = self.0.lock().expect("no panic").write_all(format!("{line}\n").as_bytes());
        if sent.is_err() {
            std::process::exit(0);
        }
    }
}

struct Work {
    order: Order,
    voice: Voice,
    random: StdRng,
    next_id: PerClass<u64>,
    /// Not acknowledged at once: later, out of order.
    late: Vec<Ack>,
    /// Events whose number is not told yet.
    asked: Vec<(u64, oneshot::Receiver<Number>)>,
    slowest: Duration,
    stop: Arc<AtomicBool>,
}

/// Says what is committed, as soon as the store says so. Numbers and ids go in step while nothing was spilled.
struct Watch {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

type Newest = Vec<(Class, Epoch, Seq)>;

impl Watch {
    fn over(running: &Running, voice: &Voice, first_id: PerClass<u64>) -> Self {
        let (store, hub, voice) = (running.store.clone(), running.hub.stats(), voice.clone());
        let end = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&end);
        let base = store.newest();
        let mut told = base.clone();
        let thread = std::thread::spawn(move || {
            // Where the directory could not be used at once, it is not known where numbers began.
            let mut known = base.len() == 4;
            loop {
                let last_round = over.load(Ordering::Relaxed);
                let newest = store.newest();
                known &= hub.spilled.get() == 0;
                if known {
                    say_commits(&voice, &newest, (&base, &mut told), first_id);
                }
                if last_round {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { end, thread }
    }

    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

fn say_commits(voice: &Voice, newest: &Newest, (base, told): (&Newest, &mut Newest), first_id: PerClass<u64>) {
    for ((now, base), told) in newest.iter().zip(base).zip(told) {
        let (class, epoch, Seq(last)) = *now;
        if epoch == base.1 && last > told.2.0 {
            let first = told.2.0 + 1;
            let id = first_id[class] + first - base.2.0 - 1;
            voice.say(&format!("commit {class} {} {first} {last} {id}", epoch.0));
            told.2 = Seq(last);
        }
    }
}

impl Work {
    /// One life of the store.
    async fn live(&mut self) {
        let running = start(self.order.opening());
        let watch = Watch::over(&running, &self.voice, self.next_id);
        let mut reader = running.store.reader("cloud").expect("routed");
        for step in 0..self.order.steps {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.step(&running, &mut reader).await;
            if step % 20 == 0 {
                self.voice.say(&format!("live {}", self.slowest.as_millis()));
                self.slowest = Duration::ZERO;
            }
        }
        drop(reader);
        let Running { hub, store, .. } = running;
        drop(hub);
        store.ended().await;
        watch.end();
        self.say_numbers();
        self.asked.clear();
        self.late.clear();
        store.finish().await;
    }

    async fn step(&mut self, running: &Running, reader: &mut Reader) {
        let class = Class::ALL[self.random.random_range(0..4)];
        let count = if self.random.random_bool(0.1) { 400 } else { self.random.random_range(1..60) };
        self.emit(running, class, count).await;
        self.say_numbers();
        if self.random.random_bool(0.4) {
            self.deliver(reader).await;
        }
        if self.random.random_bool(0.02) {
            reader.rewind();
            self.late.clear();
        }
        if self.random.random_bool(0.05) {
            // Says nothing when the disk does not take it.
            let _ = tokio::time::timeout(Duration::from_millis(200), reader.save()).await;
        }
        if self.random.random_bool(0.02) {
            let unix_ms = 1_795_204_800_000 + i64::try_from(self.next_id[Class::Alarm]).expect("small");
            running.store.record_fix(Fix { at: running.clock.now(), unix_ms });
        }
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..8))).await;
    }

    async fn emit(&mut self, running: &Running, class: Class, count: u64) {
        let before = Instant::now();
        let mut samples = Vec::new();
        for _ in 0..count {
            let id = self.next_id[class];
            self.next_id[class] += 1;
            let at = Stamp { micros: Content::micros(id), ..running.clock.now() };
            match Content::of(id) {
                Content::Sample(id) => {
                    let value = Some(Value::Uint(id));
                    samples.push(Sample { tag: TagIx(class as u32), value, quality: Quality::Good, at });
                }
                Content::Event(id, body) => {
                    emit_samples(running, &mut samples).await;
                    let (told, number) = oneshot::channel();
                    let wanted = id.is_multiple_of(3);
                    if wanted {
                        self.asked.push((id, number));
                    }
                    running.hub.emit_event(event(running, class, (id, body), wanted.then_some(told))).await;
                }
            }
        }
        emit_samples(running, &mut samples).await;
        self.slowest = self.slowest.max(before.elapsed());
    }

    /// Says the numbers of events that are committed.
    fn say_numbers(&mut self) {
        let voice = self.voice.clone();
        self.asked.retain_mut(|(id, number)| match number.try_recv() {
            Ok(number) => {
                let (class, epoch, seq) = (number.stream, number.epoch.0, number.seq.0);
                voice.say(&format!("commit {class} {epoch} {seq} {seq} {id}"));
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
    }

    async fn deliver(&mut self, reader: &mut Reader) {
        let most = self.random.random_range(1..300);
        let page = tokio::time::timeout(Duration::from_millis(20), reader.next(most)).await;
        let Ok(Some(items)) = page else { return };
        self.say_told(&items);
        let mut acks: Vec<Ack> = items.iter().map(ack).collect();
        acks.append(&mut self.late);
        if self.random.random_bool(0.3) {
            acks.shuffle(&mut self.random);
        }
        let later = if self.random.random_bool(0.5) { 0 } else { acks.len() / 5 };
        self.late = acks.split_off(acks.len() - later);
        for ack in acks {
            if let Ack::Records { stream, epoch, first, last } = ack {
                self.voice.say(&format!("ack {stream} {} {} {}", epoch.0, first.0, last.0));
            }
            reader.acknowledge(ack);
        }
    }

    fn say_told(&self, items: &[Item]) {
        // Class, epoch, first, last, first id.
        let mut run: Option<(Class, u64, u64, u64, u64)> = None;
        let say = |run: Option<(Class, u64, u64, u64, u64)>| {
            if let Some((class, epoch, first, last, id)) = run {
                self.voice.say(&format!("told {class} {epoch} {first} {last} {id}"));
            }
        };
        for item in items {
            match item {
                Item::Gap(gap) => {
                    let (class, epoch, first, last) = (gap.stream, gap.epoch.0, gap.first.0, gap.last.0);
                    self.voice.say(&format!("gap {class} {epoch} {first} {last} {}", gap.reason));
                }
                Item::Record(owed) => match witness::id(owed) {
                    Ok(id) => {
                        let (class, epoch, seq) = witness::key(owed.number);
                        match &mut run {
                            Some(run)
                                if (run.0, run.1, run.3 + 1) == (class, epoch, seq) && run.4 + seq - run.2 == id =>
                            {
                                run.3 = seq;
                            }
                            _ => say(run.replace((class, epoch, seq, seq, id))),
                        }
                    }
                    Err(wrong) => self.voice.say(&format!("wrong {wrong}")),
                },
            }
        }
        say(run);
    }
}

fn ack(item: &Item) -> Ack {
    match item {
        Item::Gap(gap) => Ack::Gap(gap.id),
        Item::Record(owed) => Ack::of(owed.number),
    }
}

async fn emit_samples(running: &Running, samples: &mut Vec<Sample>) {
    if !samples.is_empty() {
        running.hub.emit(Batch { device: DeviceIx(0), samples: std::mem::take(samples) }).await;
    }
}
