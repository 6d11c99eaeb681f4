//! The near end of a relay: our own client. It may go at any moment, without reading what has come for it; what it said
//! before it went is read to its last byte all the same, and what still comes for it is thrown away.
//!
//! The kernel tells whoever reads of a close with unread bytes (`ECONNRESET`, behind what was said), and whoever writes
//! (`EPIPE`): neither is an error here, or the last words would be lost with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// See the head of this file.
pub(super) struct Near {
    stream: UnixStream,
    /// Nobody reads any more.
    gone: bool,
}

impl Near {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, gone: false }
    }
}

impl AsyncRead for Near {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_read(cx, into)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gone {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(Ok(written.unwrap_or_else(|_| {
            self.gone = true;
            bytes.len()
        })))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a socket has nothing to flush
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx)); // an error: it has gone before
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn last_words_are_read_although_their_speaker_has_not_read_everything_and_is_gone() {
        let (mut client, near) = UnixStream::pair().expect("two ends");
        let mut near = Near::new(near);
        near.write_all(b"unread").await.expect("it is there");
        client.write_all(b"last words").await.expect("it is there");
        drop(client);
        near.write_all(b"too late").await.expect("thrown away");
        let mut said = String::new();
        near.read_to_string(&mut said).await.expect("an end in order");
        assert_eq!(said, "last words");
        near.shutdown().await.expect("no matter");
    }
}
