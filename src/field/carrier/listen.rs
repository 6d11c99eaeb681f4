//! A bus that dials in: serial servers behind a mobile network have no address that anybody could connect to.
//!
//! One connection at a time, the newest: a modem that lost its network dials again long before the old connection is known
//! to be dead. So whoever reads from a connection also looks whether another one has come; then its own is over. Nobody
//! dials in from an address that is not allowed. No task of its own: a caller waits in the kernel's queue until the bus
//! looks, and the queue is bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{ours, reset_on_close, tcp};
use crate::config::plan::Network;
use crate::model::lock::Hold as _;

/// How long an attempt to open waits for a call; the next attempt finds who called in between.
const PATIENCE: Duration = Duration::from_secs(5);
/// Strangers are told about no more often than this.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);
/// Callers looked at in one go.
const CALLERS_MAX: usize = 64;

/// Where they dial in; lives as long as the bus.
pub(super) struct Door {
    listen: SocketAddr,
    hall: Arc<Mutex<Hall>>,
}

/// What door and connection both know.
struct Hall {
    allow: Vec<Network>,
    listener: Option<TcpListener>,
    waiting: Option<TcpStream>,
    /// Callers turned away since that was last told.
    strangers: u64,
    told: Option<Instant>,
}

impl Door {
    /// Not yet listening.
    pub(super) fn new(listen: SocketAddr, allow: Vec<Network>) -> Self {
        Self {
            listen,
            hall: Arc::new(Mutex::new(Hall { allow, listener: None, waiting: None, strangers: 0, told: None })),
        }
    }

    /// The newest caller; an error when nobody called for a while. Cancel-safe.
    pub(super) async fn open(&mut self) -> io::Result<Caller> {
        if self.hall().listener.is_none() {
            let listener = TcpListener::bind(self.listen).await.map_err(ours)?;
            self.hall().listener = Some(listener);
        }
        let call = std::future::poll_fn(|cx| {
            let mut hall = self.hall();
            hall.look(cx);
            hall.waiting.take().map_or(Poll::Pending, Poll::Ready)
        });
        let nobody = || io::Error::new(io::ErrorKind::TimedOut, format!("nobody has dialled in on {}", self.listen));
        let stream = timeout(PATIENCE, call).await.map_err(|_| nobody())?;
        tcp::tune(&stream)?;
        Ok(Caller { stream, hall: Arc::clone(&self.hall) })
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        lock(&self.hall)
    }
}

/// Never contended: door and connection belong to one bus, which is one task.
fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.hold()
}

impl Hall {
    /// Lets callers in; only the last one stays.
    fn look(&mut self, cx: &mut Context<'_>) {
        for _ in 0..CALLERS_MAX {
            let Some(Poll::Ready(Ok((stream, from)))) = self.listener.as_ref().map(|door| door.poll_accept(cx)) else {
                return; // nobody, or out of file descriptors: the next look tells
            };
            let from = from.ip().to_canonical();
            if !is_allowed(&self.allow, from) {
                self.turn_away(from);
                continue;
            }
            info!(%from, "a serial server has dialled in");
            if let Some(older) = self.waiting.replace(stream) {
                reset_on_close(&older);
            }
        }
        cx.waker().wake_by_ref(); // more may wait
    }
}

impl Hall {
    /// Told at most once a minute, however often they try.
    fn turn_away(&mut self, from: IpAddr) {
        self.strangers += 1;
        if self.told.is_none_or(|told| told.elapsed() >= BETWEEN_WARNINGS) {
            let callers = self.strangers;
            warn!(%from, callers, "callers that are not in the list of allowed addresses were turned away");
            (self.strangers, self.told) = (0, Some(Instant::now()));
        }
    }
}

fn is_allowed(allow: &[Network], from: IpAddr) -> bool {
    allow.is_empty() || allow.iter().any(|network| network.has(from))
}

/// A connection that somebody else opened.
pub(super) struct Caller {
    stream: TcpStream,
    hall: Arc<Mutex<Hall>>,
}

impl Caller {
    /// What it came by.
    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Caller {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_over = {
            let mut hall = lock(&self.hall);
            hall.look(cx);
            hall.waiting.is_some()
        };
        if is_over {
            reset_on_close(&self.stream);
            let text = "it has dialled in again, so this connection is over";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, text)));
        }
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hang_up;
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn door(allow: Vec<Network>) -> (Door, SocketAddr) {
        let door = Door::new(([127, 0, 0, 1], 0).into(), allow);
        let listener = TcpListener::bind(door.listen).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        door.hall().listener = Some(listener);
        (door, address)
    }

    #[tokio::test]
    async fn the_newest_caller_wins_and_the_older_one_is_told() {
        let (mut door, address) = door(Vec::new()).await;
        let mut first = TcpStream::connect(address).await.expect("listening");
        let mut caller = door.open().await.expect("somebody called");
        first.write_all(b"1").await.expect("open");
        assert_eq!(caller.read_u8().await.expect("open"), b'1');

        let mut second = TcpStream::connect(address).await.expect("listening");
        let mut third = TcpStream::connect(address).await.expect("listening");
        let over = caller.read_u8().await.expect_err("replaced");
        assert_eq!(over.kind(), io::ErrorKind::ConnectionAborted);
        drop(caller);
        assert!(first.read_u8().await.is_err() && second.read_u8().await.is_err());

        let mut caller = door.open().await.expect("the newest");
        third.write_all(b"3").await.expect("open");
        assert_eq!(caller.read_u8().await.expect("open"), b'3');

        hang_up(&caller);
        drop(caller);
        assert_eq!(third.read_u8().await.expect_err("over").kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_from_elsewhere_are_turned_away() {
        let elsewhere = Network { address: [10, 0, 0, 0].into(), prefix: 8 };
        let (mut door, address) = door(vec![elsewhere]).await;
        let mut stranger = TcpStream::connect(address).await.expect("the kernel takes the call");
        let nobody = door.open().await.err().expect("nobody who may");
        assert_eq!(nobody.kind(), io::ErrorKind::TimedOut);
        assert!(stranger.read_u8().await.is_err());
    }
}
