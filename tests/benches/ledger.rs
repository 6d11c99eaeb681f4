//! How fast messages for durable sessions are committed, and what they cost on flash: `cargo bench --bench ledger [-- SECONDS [DIR]]`.
//!
//! QoS 2 from publishers with a window of 64 to one session that outlives its connection, as the broker does it: owed and
//! its packet id noted before PUBREC, PUBREL from both sides committed before it is answered, the row removed at leisure.
//! QoS 1 to a subscriber that acknowledges at once never touches the disk. A queue is filled for a session that is away,
//! then read in pages and settled. Beside it, what a 4 KiB write with fdatasync takes in the same directory: two commits per
//! message and window are what a disk must give.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ironbridge::disk::ledger::{Ledger, LedgerFigures, MessageRow, Owing, SessionId, SessionRow};

const WINDOW: u16 = 64;
const PAYLOAD: usize = 100;
const QUEUE: u64 = 100_000;
/// Cost of a page read at a time.
const PAGE: usize = 256 * 1024;

/// A ledger in use; ordinals are drawn and entered under one lock, as in the broker's core.
struct Desk {
    ledger: Ledger,
    ordinal: Mutex<u64>,
    to: SessionId,
    done: AtomicU64,
    stop: AtomicBool,
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or(5);
    let home = words.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let home = home.join(format!("ledger-{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("a directory to write in");
    println!("fdatasync of 4 KiB: median {:?}, in {}\n", sync_time(&home), home.display());
    println!("{:<44} {:>10} {:>10} {:>12} {:>10} {:>12}", "", "msgs/s", "commits/s", "msgs/commit", "B/msg", "longest");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for publishers in [1, 4, 16] {
        let path = home.join(format!("{publishers}.db"));
        runtime.block_on(handshakes(&path, publishers, Duration::from_secs(seconds)));
    }
    runtime.block_on(at_once(&home.join("fast.db"), Duration::from_secs(seconds)));
    runtime.block_on(queue(&home.join("queue.db")));
    std::fs::remove_dir_all(&home).expect("removed");
}

fn sync_time(home: &Path) -> Duration {
    let file = File::create(home.join("sync")).expect("made");
    let mut times: Vec<Duration> = (0..200)
        .map(|n| {
            let begun = Instant::now();
            file.write_all_at(&[n; 4096], 0).expect("written");
            file.sync_data().expect("synced");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn message() -> Arc<MessageRow> {
    let payload = vec![b'x'; PAYLOAD].into();
    let topic = "plant/pump-1/pressure".into();
    Arc::new(MessageRow { topic, qos: 2, payload, properties: Bytes::new(), expires_unix_ms: None })
}

fn desk(path: &Path, qos: u8) -> (Arc<Desk>, u8) {
    let (ledger, _) = Ledger::open(path).expect("a thread");
    let to = session(&ledger, "subscriber");
    let (ordinal, done, stop) = (Mutex::new(0), AtomicU64::new(0), AtomicBool::new(false));
    (Arc::new(Desk { ledger, ordinal, to, done, stop }), qos)
}

fn session(ledger: &Ledger, client: &str) -> SessionId {
    let id = ledger.new_session();
    let (client_id, owner) = (client.into(), "anonymous".into());
    ledger.session(SessionRow {
        id,
        client_id,
        owner,
        version: 5,
        expiry_s: 9,
        left_unix_ms: None,
        dropped: 0,
        sent_below: None,
    });
    id
}

impl Desk {
    fn owe(
        &self,
        message: &Arc<MessageRow>,
        qos: u8,
        received: Option<(SessionId, u16)>,
    ) -> (u64, ironbridge::disk::ledger::Committed) {
        let mut ordinal = self.ordinal.lock().expect("no panic");
        *ordinal += 1;
        let owing = Owing { ordinal: *ordinal, qos, retain: false, identifiers: Vec::new() };
        (*ordinal, self.ledger.owe(Arc::clone(message), &[(self.to, owing)], received).expect("taken"))
    }
}

async fn handshakes(path: &Path, publishers: u16, time: Duration) {
    let (desk, qos) = desk(path, 2);
    let mut tasks = Vec::new();
    for publisher in 0..publishers {
        let from = session(&desk.ledger, &format!("publisher-{publisher}"));
        for packet_id in 1..=WINDOW {
            let desk = Arc::clone(&desk);
            tasks.push(tokio::spawn(async move {
                let message = message();
                while !desk.stop.load(Ordering::Relaxed) {
                    let (ordinal, committed) = desk.owe(&message, qos, Some((from, packet_id)));
                    committed.await.expect("told").expect("committed");
                    let released = desk.ledger.release(desk.to, ordinal);
                    desk.ledger.finish(from, packet_id).await.expect("told").expect("committed");
                    released.await.expect("told").expect("committed");
                    desk.ledger.settle(desk.to, ordinal);
                    desk.done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    measure(&desk, &format!("QoS 2, {publishers} publishers, window {WINDOW}"), time).await;
    for task in tasks {
        task.await.expect("no panic");
    }
}

async fn at_once(path: &Path, time: Duration) {
    let (desk, qos) = desk(path, 1);
    let own = Arc::clone(&desk);
    let task = tokio::spawn(async move {
        let message = message();
        while !own.stop.load(Ordering::Relaxed) {
            let (ordinal, committed) = own.owe(&message, qos, None);
            own.ledger.settle(own.to, ordinal);
            committed.await.expect("told").expect("owed no more");
            own.done.fetch_add(1, Ordering::Relaxed);
        }
    });
    measure(&desk, "QoS 1, acknowledged before its commit", time).await;
    task.await.expect("no panic");
}

async fn measure(desk: &Desk, what: &str, time: Duration) {
    let (before, begun) = (desk.ledger.figures(), Instant::now());
    tokio::time::sleep(time).await;
    desk.stop.store(true, Ordering::Relaxed);
    let done = desk.done.load(Ordering::Relaxed);
    print(what, done, begun.elapsed(), before, desk.ledger.figures());
}

fn print(what: &str, done: u64, took: Duration, before: LedgerFigures, after: LedgerFigures) {
    let per_second = |count: u64| count as f64 / took.as_secs_f64();
    let commits = after.commits - before.commits;
    let bytes = (after.written_bytes - before.written_bytes) as f64 / done as f64;
    let each = done as f64 / commits.max(1) as f64;
    let longest = after.longest_commit;
    println!(
        "{what:<44} {:>10.0} {:>10.0} {each:>12.0} {bytes:>10.0} {longest:>12.1?}",
        per_second(done),
        per_second(commits)
    );
}

async fn queue(path: &Path) {
    let (desk, qos) = desk(path, 1);
    let (message, before, begun) = (message(), desk.ledger.figures(), Instant::now());
    let mut window = std::collections::VecDeque::new();
    for _ in 0..QUEUE {
        window.push_back(desk.owe(&message, qos, None).1);
        if window.len() >= usize::from(WINDOW) * 16 {
            window.pop_front().expect("there").await.expect("told").expect("committed");
        }
    }
    desk.ledger.committed().await.expect("told").expect("committed");
    print("a queue filled, QoS 1, 1024 on their way", QUEUE, begun.elapsed(), before, desk.ledger.figures());
    let (before, begun) = (desk.ledger.figures(), Instant::now());
    let (mut from, mut read) = (0, 0);
    loop {
        let page = desk.ledger.page(desk.to, from, PAGE).await.expect("told").expect("read");
        let Some(last) = page.last() else { break };
        (from, read) = (last.ordinal + 1, read + page.len() as u64);
        for row in &page {
            desk.ledger.settle(desk.to, row.ordinal);
        }
    }
    desk.ledger.committed().await.expect("told").expect("committed");
    assert_eq!(read, QUEUE, "all of it");
    print("and read in pages and settled", QUEUE, begun.elapsed(), before, desk.ledger.figures());
}
