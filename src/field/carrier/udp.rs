//! UDP: one datagram is one frame. The socket is connected, so the kernel lets nothing in from any other address, and it
//! says when nobody listens there. Nothing is sent twice here; asking again is up to whoever asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::tcp::{CONNECT_TIMEOUT, addresses, no_address};

/// Where the last socket led, and whether anything came from there.
pub(super) struct Last {
    to: SocketAddr,
    heard: Arc<AtomicBool>,
}

/// A socket for `host:port`, on a port of our own that is new each time. Whether anybody is there shows with the first
/// question: after an address from which nothing ever came the next one of the name is asked. Cancel-safe.
pub(super) async fn connect(endpoint: &str, last: &mut Option<Last>) -> io::Result<Datagrams> {
    let addresses = addresses(endpoint, Instant::now() + CONNECT_TIMEOUT).await?;
    connect_any(addresses, last).await
}

async fn connect_any(mut addresses: Vec<SocketAddr>, last: &mut Option<Last>) -> io::Result<Datagrams> {
    let place = |last: &Last| {
        let place = addresses.iter().position(|address| *address == last.to)?;
        Some(if last.heard.load(Ordering::Relaxed) { place } else { (place + 1) % addresses.len() })
    };
    let first = last.as_ref().and_then(place).unwrap_or(0);
    addresses.rotate_left(first);
    let mut failure = no_address();
    for to in addresses {
        match connect_to(to).await {
            Ok(socket) => {
                let heard = Arc::default();
                *last = Some(Last { to, heard: Arc::clone(&heard) });
                return Ok(Datagrams { socket, heard });
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Each write is a datagram, each read is one.
pub(super) struct Datagrams {
    socket: UdpSocket,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv(cx, out))?;
            self.heard.store(true, Ordering::Relaxed);
            // An empty datagram is not the end of anything.
            if !out.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn after_an_address_that_never_answered_the_next_is_asked_and_one_that_has_answered_is_stayed_with() {
        let devices =
            [UdpSocket::bind("127.0.0.1:0").await.expect("free"), UdpSocket::bind("127.0.0.1:0").await.expect("free")];
        let unsendable = SocketAddr::from((Ipv4Addr::BROADCAST, 502)); // not without asking the system for it
        let addresses =
            [unsendable].into_iter().chain(devices.iter().map(|device| device.local_addr().expect("bound")));
        let (addresses, mut last) = (addresses.collect::<Vec<_>>(), None);
        for (asked, answers) in
            [(0, false), (1, true), (1, true), (1, false), (0, false), (1, false), (0, true), (0, true)]
        {
            let mut wire = connect_any(addresses.clone(), &mut last).await.expect("a socket");
            wire.write_all(b"?").await.expect("sent");
            let (_, from) = devices[asked].recv_from(&mut [0; 8]).await.expect("received");
            if answers {
                devices[asked].send_to(b"!", from).await.expect("sent");
                assert_eq!(wire.read(&mut [0; 8]).await.expect("received"), 1);
            }
        }
    }
}
