//! UDP: one datagram is one frame. The socket is connected, so the kernel lets nothing in from any other address, and it
//! says when nobody listens there. Nothing is sent twice here; asking again is up to whoever asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::tcp::{CONNECT_TIMEOUT, addresses, no_address};

/// A socket for `host:port`, on a port of our own that is new each time. Whether anybody is there shows with the first
/// question. Cancel-safe.
pub(super) async fn connect(endpoint: &str) -> io::Result<Datagrams> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved within 5 s");
    let mut addresses = timeout(CONNECT_TIMEOUT, addresses(endpoint)).await.map_err(|_| late())??;
    let to = addresses.next().ok_or_else(no_address)?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    Ok(Datagrams(socket))
}

/// Each write is a datagram, each read is one.
pub(super) struct Datagrams(UdpSocket);

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_recv(cx, out))?;
            // An empty datagram is not the end of anything.
            if !out.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
