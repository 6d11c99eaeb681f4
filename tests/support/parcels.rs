//! Datagrams through memory: each write is one, each read is one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{Receiver, Sender, channel};

pub struct Parcels {
    out: Sender<Vec<u8>>,
    incoming: Receiver<Vec<u8>>,
}

/// Two ends.
pub fn pair() -> (Parcels, Parcels) {
    let ((near_out, far_in), (far_out, near_in)) = (channel(1024), channel(1024));
    (Parcels { out: near_out, incoming: near_in }, Parcels { out: far_out, incoming: far_in })
}

impl AsyncRead for Parcels {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(parcel) = ready!(self.incoming.poll_recv(cx)) {
            out.put_slice(&parcel[..parcel.len().min(out.remaining())]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Parcels {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.out.try_send(bytes.to_vec()).ok(); // nobody listens, or too much: lost, as datagrams are
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
