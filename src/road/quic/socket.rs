//! The UDP socket of a connection that we begin, every datagram counted.
//!
//! What the kernel refuses to send (no route, no such address any more) is a datagram lost, not the end of the connection:
//! it may be on its way to another address.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;

use super::account::Account;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Counted {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    account: Arc<Account>,
}

impl Counted {
    /// To be called within a runtime.
    pub(super) fn new(socket: std::net::UdpSocket, account: Arc<Account>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket)?, state, account })
    }
}

impl AsyncUdpSocket for Counted {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), transmit));
        match sent {
            Ok(()) => {
                let bytes = transmit.contents.len();
                let datagrams = transmit.segment_size.map_or(1, |size| bytes.div_ceil(size.max(1)));
                self.account.sent(transmit.destination, bytes, datagrams);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                tracing::debug!(to = %transmit.destination, %error, "datagram not sent");
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let received =
                self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), buffers, meta));
            match received {
                Ok(count) => {
                    for one in &meta[..count] {
                        self.account.received(one.addr, one.len, one.len.div_ceil(one.stride.max(1)));
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What the network has said of a datagram that we sent; the next one may arrive.
                Err(error) => tracing::debug!(%error, "UDP socket"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Waits until the kernel takes a datagram.
struct Writable {
    socket: Arc<Counted>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { socket.socket.writable().await }));
        let writable = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(writable)
    }
}
