//! A router between two ends that speak UDP: it counts, loses, delays, blocks, and forgets who it forwards for, so that the
//! other side sees another address.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// IPv4 and UDP header.
const HEADERS: u64 = 28;

#[derive(Default)]
struct Orders {
    blocked: bool,
    /// Whose datagrams go nowhere.
    shut_out: HashSet<IpAddr>,
    /// Each so many-th datagram; 0: none.
    lost: u32,
    delay: Duration,
    /// Since one was lost.
    passed: u32,
    counted: Counted,
    /// By client: the socket that stands for it on the other side, and who carries what comes back.
    mappings: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)>,
    outside: Option<IpAddr>,
    mapped: usize,
}

/// Bytes of IP packets, as they came from the client, and as they went to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub from_client: u64,
    pub to_client: u64,
    pub datagrams: u64,
}

/// See the head of this file.
pub struct Middlebox {
    pub address: SocketAddr,
    orders: Arc<Mutex<Orders>>,
    task: JoinHandle<()>,
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.task.abort();
        self.change_source(None);
    }
}

impl Middlebox {
    /// Forwards to this address.
    pub async fn start(to: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let orders = Arc::<Mutex<Orders>>::default();
        let task = tokio::spawn(forward(front, to, Arc::clone(&orders)));
        Self { address, orders, task }
    }

    /// Nothing gets through, either way.
    pub fn block(&self, on: bool) {
        self.orders.lock().unwrap().blocked = on;
    }

    /// Nothing gets through to and from this client.
    pub fn shut_out(&self, client: &str) {
        self.orders.lock().unwrap().shut_out.insert(client.parse().unwrap());
    }

    /// Each so many-th datagram is lost, whichever way it goes; 0: none. Evenly, for dice throw a series one day after which
    /// nobody waits any more: on a new path QUIC repeats after 3, 9, 21, 45 … seconds.
    pub fn lose_each(&self, so_many_th: u32) {
        self.orders.lock().unwrap().lost = so_many_th;
    }

    /// Each datagram takes so long, each way.
    pub fn delay(&self, by: Duration) {
        self.orders.lock().unwrap().delay = by;
    }

    /// What comes next is forwarded from another port, or from this address and another port; what still comes to the old
    /// one is lost.
    pub fn change_source(&self, to: Option<IpAddr>) {
        let mut orders = self.orders.lock().unwrap();
        orders.outside = to;
        for (_, (_, back)) in orders.mappings.drain() {
            back.abort();
        }
    }

    /// How often somebody was given an address outside.
    pub fn mapped(&self) -> usize {
        self.orders.lock().unwrap().mapped
    }

    pub fn counted(&self) -> Counted {
        self.orders.lock().unwrap().counted
    }
}

impl Orders {
    /// Is this one lost, from or to this client? And how long does it take?
    fn fate(&mut self, client: IpAddr) -> Option<Duration> {
        self.passed += 1;
        let lost = self.lost > 0 && self.passed >= self.lost;
        if lost {
            self.passed = 0;
        }
        (!lost && !self.blocked && !self.shut_out.contains(&client)).then_some(self.delay)
    }
}

async fn forward(front: Arc<UdpSocket>, to: SocketAddr, orders: Arc<Mutex<Orders>>) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok((length, client)) = front.recv_from(&mut bytes).await else { continue };
        let (fate, known, outside) = {
            let mut orders = orders.lock().unwrap();
            orders.counted.from_client += length as u64 + HEADERS;
            orders.counted.datagrams += 1;
            (
                orders.fate(client.ip()),
                orders.mappings.get(&client).map(|(socket, _)| Arc::clone(socket)),
                orders.outside,
            )
        };
        let Some(delay) = fate else { continue };
        let socket = match known {
            Some(socket) => socket,
            None => {
                let outside = outside.unwrap_or(IpAddr::from([127, 0, 0, 1]));
                let socket = Arc::new(UdpSocket::bind((outside, 0)).await.unwrap());
                socket.connect(to).await.unwrap();
                let back = tokio::spawn(back(Arc::clone(&socket), Arc::clone(&front), client, Arc::clone(&orders)));
                let mut orders = orders.lock().unwrap();
                orders.mapped += 1;
                orders.mappings.insert(client, (Arc::clone(&socket), back));
                socket
            }
        };
        let datagram = bytes[..length].to_vec();
        if delay.is_zero() {
            drop(socket.send(&datagram).await);
        } else {
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                drop(socket.send(&datagram).await);
            });
        }
    }
}

async fn back(socket: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, orders: Arc<Mutex<Orders>>) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(length) = socket.recv(&mut bytes).await else { continue };
        let fate = orders.lock().unwrap().fate(client.ip());
        let Some(delay) = fate else { continue };
        let (front, orders, datagram) = (Arc::clone(&front), Arc::clone(&orders), bytes[..length].to_vec());
        let deliver = async move {
            {
                let mut orders = orders.lock().unwrap();
                orders.counted.to_client += datagram.len() as u64 + HEADERS;
                orders.counted.datagrams += 1;
            }
            drop(front.send_to(&datagram, client).await);
        };
        if delay.is_zero() {
            deliver.await;
        } else {
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                deliver.await;
            });
        }
    }
}
