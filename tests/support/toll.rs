//! A toll station between uplink and cloud: counts what passes from outside, by the address it comes from, and closes
//! ways on command. Two loopback addresses stand for two interfaces.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Default)]
struct Books {
    /// Payload of TCP, both directions.
    bytes: BTreeMap<IpAddr, u64>,
    connects: BTreeMap<IpAddr, usize>,
}

pub struct Toll {
    pub address: SocketAddr,
    books: Arc<Mutex<Books>>,
    closed: watch::Sender<BTreeSet<IpAddr>>,
    gate: JoinHandle<()>,
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.gate.abort();
    }
}

impl Toll {
    pub async fn before(cloud: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let books = Arc::<Mutex<Books>>::default();
        let closed = watch::Sender::new(BTreeSet::new());
        let (kept, orders) = (Arc::clone(&books), closed.subscribe());
        let gate = tokio::spawn(async move {
            while let Ok((near, from)) = listener.accept().await {
                *kept.lock().unwrap().connects.entry(from.ip()).or_default() += 1;
                tokio::spawn(pass(near, cloud, Arc::clone(&kept), orders.clone()));
            }
        });
        Self { address, books, closed, gate }
    }

    /// Payload bytes that came from and went to this address.
    pub fn bytes(&self, way: &str) -> u64 {
        self.books.lock().unwrap().bytes.get(&way.parse().unwrap()).copied().unwrap_or(0)
    }

    pub fn all_bytes(&self) -> u64 {
        self.books.lock().unwrap().bytes.values().sum()
    }

    pub fn connects(&self, way: &str) -> usize {
        self.books.lock().unwrap().connects.get(&way.parse().unwrap()).copied().unwrap_or(0)
    }

    /// From now on every connection of this way is cut.
    pub fn close(&self, way: &str) {
        self.closed.send_modify(|closed| {
            closed.insert(way.parse().unwrap());
        });
    }

    pub fn open(&self, way: &str) {
        self.closed.send_modify(|closed| {
            closed.remove(&way.parse::<IpAddr>().unwrap());
        });
    }
}

async fn pass(
    mut near: TcpStream,
    cloud: SocketAddr,
    books: Arc<Mutex<Books>>,
    mut orders: watch::Receiver<BTreeSet<IpAddr>>,
) {
    let from = near.peer_addr().unwrap().ip();
    let Ok(mut far) = TcpStream::connect(cloud).await else { return };
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    let count = |bytes: usize| *books.lock().unwrap().bytes.entry(from).or_default() += bytes as u64;
    loop {
        tokio::select! {
            biased;
            () = is_closed(&mut orders, from) => {
                near.set_zero_linger().unwrap(); // an RST
                return;
            }
            read = near.read(&mut up) => match read {
                Ok(bytes) if bytes > 0 => {
                    count(bytes);
                    if far.write_all(&up[..bytes]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(bytes) if bytes > 0 => {
                    count(bytes);
                    if near.write_all(&down[..bytes]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

async fn is_closed(orders: &mut watch::Receiver<BTreeSet<IpAddr>>, way: IpAddr) {
    let _ = orders.wait_for(|closed| closed.contains(&way)).await.map(drop);
}
