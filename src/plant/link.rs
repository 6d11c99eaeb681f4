//! A link that can fail: a TCP relay with a switch, between a gateway and its cloud.
//!
//! Up, slow, cut (connections are reset, new ones refused at once) or a black hole (everything is accepted, nothing
//! passes, nobody is told). Bytes that passed are counted. Fed by whoever connects; promises nothing about order between
//! connections, everything within one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::stats::Counter;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Bytes pass.
    Up,
    /// Bytes pass, each piece this much later.
    Slow(Duration),
    /// Connections are reset.
    Cut,
    /// Connections stand, nothing passes either way.
    BlackHole,
}

/// Bytes that passed, and connections.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// From the gateway to the cloud.
    pub bytes_up: Counter,
    /// From the cloud to the gateway.
    pub bytes_down: Counter,
    /// Connections that reached the other side.
    pub connections: Counter,
}

/// A running relay. Dropping it closes the door and all connections.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    stats: Arc<LinkStats>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Relays from 127.0.0.1 at a free port to `target`.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (switch, watched) = watch::channel(LinkState::Up);
        let link = Self {
            address: listener.local_addr()?,
            state: switch,
            stats: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (stats, stop, tasks) = (Arc::clone(&link.stats), link.stop.clone(), link.tasks.clone());
        link.tasks.spawn(async move {
            let relay = Relay { target, state: watched, stats };
            let _ = stop.clone().run_until_cancelled_owned(accept(listener, relay, stop, tasks)).await;
        });
        Ok(link)
    }

    /// Where the near side connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Turns the switch.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }

    /// How the switch stands.
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Bytes and connections so far.
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// Closes everything and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct Relay {
    target: SocketAddr,
    state: watch::Receiver<LinkState>,
    stats: Arc<LinkStats>,
}

async fn accept(listener: TcpListener, relay: Relay, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await; // out of file descriptors, most likely
            continue;
        };
        let (relay, stop) = (relay.clone(), stop.clone());
        tasks.spawn(async move {
            let _ = stop.run_until_cancelled_owned(relay.carry(near)).await;
        });
    }
}

impl Relay {
    /// One connection until either side ends it or the link is cut.
    async fn carry(mut self, mut near: TcpStream) -> io::Result<()> {
        self.passable().await;
        if *self.state.borrow_and_update() == LinkState::Cut {
            return near.set_zero_linger();
        }
        let mut far = TcpStream::connect(self.target).await?;
        self.stats.connections.one();
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let cut = {
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            let up = pump(near_read, far_write, self.state.clone(), &self.stats.bytes_up);
            let down = pump(far_read, near_write, self.state.clone(), &self.stats.bytes_down);
            tokio::select! {
                ended = async { tokio::try_join!(up, down) } => ended.map(|_| false)?,
                _ = self.state.wait_for(|state| *state == LinkState::Cut) => true,
            }
        };
        if cut {
            near.set_zero_linger()?;
            far.set_zero_linger()?;
        }
        Ok(())
    }

    /// Waits out a black hole.
    async fn passable(&mut self) {
        let _ = self.state.wait_for(|state| *state != LinkState::BlackHole).await;
    }
}

/// One direction until its source ends; the end is passed on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<LinkState>,
    count: &Counter,
) -> io::Result<()> {
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let now = *state.borrow();
        if let LinkState::Slow(by) = now {
            sleep(by).await;
        }
        if state.wait_for(|state| *state != LinkState::BlackHole).await.is_err() {
            return Ok(());
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        count.add(length as u64);
    }
}
