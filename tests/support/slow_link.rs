//! A link with a rate and a delay each way, in user space: what a satellite does to TCP's bytes, without its losses.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What is sent at once.
const SEGMENT: usize = 1400;

pub struct SlowLink {
    pub address: SocketAddr,
    /// Bytes that went up.
    pub up: Arc<AtomicU64>,
    bytes_per_s: Arc<AtomicU32>,
    door: JoinHandle<()>,
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.door.abort();
    }
}

impl SlowLink {
    /// `bytes_per_s` each way; `round_trip` without the time that the bytes take.
    pub async fn to(target: SocketAddr, bytes_per_s: u32, round_trip: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let up = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&up);
        let bytes_per_s = Arc::new(AtomicU32::new(bytes_per_s));
        let rate = Arc::clone(&bytes_per_s);
        let door = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(target).await else { continue };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(one_way(near_in, far_out, Arc::clone(&rate), round_trip / 2, Some(Arc::clone(&counted))));
                tokio::spawn(one_way(far_in, near_out, Arc::clone(&rate), round_trip / 2, None));
            }
        });
        Self { address, up, bytes_per_s, door }
    }

    /// So many from now on, on the connections that there are too.
    pub fn carry(&self, bytes_per_s: u32) {
        self.bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
    }
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    bytes_per_s: Arc<AtomicU32>,
    delay: Duration,
    count: Option<Arc<AtomicU64>>,
) {
    let mut coming: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut free = Instant::now();
    let mut piece = vec![0; SEGMENT];
    let mut open = true;
    while open || !coming.is_empty() {
        let due = coming.front().map_or(Instant::now() + Duration::from_secs(3600), |(at, _)| *at);
        let busy = free > Instant::now();
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due), if !coming.is_empty() => {
                let Some((_, bytes)) = coming.pop_front() else { return };
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep_until(free), if busy => {}
            read = from.read(&mut piece), if open && !busy => match read {
                Ok(0) | Err(_) => open = false,
                Ok(length) => {
                    // late wake-ups of a busy machine must not make the link slower than it is
                    let late = Instant::now().saturating_duration_since(free).min(Duration::from_millis(20));
                    free = Instant::now() - late + Duration::from_secs(length as u64) / bytes_per_s.load(Ordering::Relaxed);
                    coming.push_back((free + delay, piece[..length].to_vec()));
                    if let Some(count) = &count {
                        count.fetch_add(length as u64, Ordering::Relaxed);
                    }
                }
            },
        }
    }
}
