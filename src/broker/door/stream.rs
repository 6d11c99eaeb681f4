//! A client's connection, whatever lies between its socket and MQTT.
//!
//! Plain TCP and unix sockets are split without a lock, so that the usual client pays for nothing that it does not use.
//! TLS and websocket layers keep bytes of their own between us and the socket; [`Whole`] makes a write that has been
//! answered one that has left them, so that who writes last need not flush, and a reader that has stalled shows.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::broker::outbox::Socket;

/// Written in one go, bytes: as much as a TLS record holds.
const GO_BYTES: usize = 16 * 1024;

/// What lies between a socket and MQTT.
pub(super) trait Layers: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Layers for S {}

/// A client's connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Layered(Whole<Box<dyn Layers>>),
}

/// What comes from the client.
pub(super) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Layered(ReadHalf<Whole<Box<dyn Layers>>>),
}

/// What goes to the client. A write that was not waited for must be repeated with the same bytes (more may follow them).
pub(super) enum Writer {
    Tcp(Arc<tcp::OwnedWriteHalf>),
    Unix(Arc<unix::OwnedWriteHalf>),
    Layered(WriteHalf<Whole<Box<dyn Layers>>>),
}

impl Stream {
    /// MQTT above layers of any kind.
    pub(super) fn layered(layers: impl Layers + 'static) -> Self {
        Self::Layered(Whole { layers: Box::new(layers), taken: 0 })
    }

    pub(super) fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(Arc::new(writer)))
            }
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Unix(reader), Writer::Unix(Arc::new(writer)))
            }
            Self::Layered(stream) => {
                let (reader, writer) = split(stream);
                (Reader::Layered(reader), Writer::Layered(writer))
            }
        }
    }
}

/// Layers whose writes are answered when the socket has all of it.
pub(super) struct Whole<L> {
    layers: L,
    /// Bytes that the layers have and the socket perhaps not yet: the first ones of the next write.
    taken: usize,
}

impl<L: AsyncRead + Unpin> AsyncRead for Whole<L> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.layers).poll_read(cx, into)
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Whole<L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            let go = &bytes[..bytes.len().min(GO_BYTES)];
            self.taken = ready!(Pin::new(&mut self.layers).poll_write(cx, go))?;
        }
        ready!(Pin::new(&mut self.layers).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.layers).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.layers).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, into),
            Self::Unix(half) => Pin::new(half).poll_read(cx, into),
            Self::Layered(half) => Pin::new(half).poll_read(cx, into),
        }
    }
}

impl Stream {
    fn sink(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
            Self::Layered(stream) => Pin::new(stream),
        }
    }
}

/// For refusals only: what is served goes through a [`Writer`].
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().sink().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().sink().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().sink().poll_shutdown(cx)
    }
}

impl Writer {
    /// A way for others to write what need not wait. Layers with state of their own have none.
    pub(super) fn socket(&self) -> Option<Arc<dyn Socket>> {
        match self {
            Self::Tcp(half) => Some(Arc::clone(half) as Arc<dyn Socket>),
            Self::Unix(half) => Some(Arc::clone(half) as Arc<dyn Socket>),
            Self::Layered(_) => None,
        }
    }
}

impl Socket for tcp::OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }
}

impl Socket for unix::OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }
}

/// Writes when the socket is ready, and when it says so although it is not, waits again.
fn poll_socket(
    cx: &mut Context<'_>,
    is_ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    write: impl Fn() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(is_ready(cx))?;
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => {
                let stream: &TcpStream = half.as_ref().as_ref();
                poll_socket(cx, |cx| stream.poll_write_ready(cx), || stream.try_write(bytes))
            }
            Self::Unix(half) => {
                let stream: &UnixStream = half.as_ref().as_ref();
                poll_socket(cx, |cx| stream.poll_write_ready(cx), || stream.try_write(bytes))
            }
            Self::Layered(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())), // sockets keep nothing back
            Self::Layered(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => {
                let stream: &TcpStream = half.as_ref().as_ref();
                Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Unix(half) => {
                let stream: &UnixStream = half.as_ref().as_ref();
                Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Self::Layered(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
