//! A connection that is given up when the other side takes next to nothing for a while. HTTP has limits for reading; who asks
//! for a long answer and does not read it, or a byte now and then, would keep the place for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// So much must be taken before patience ends, bytes: less than the worst radio link takes in that time.
const LEAST: usize = 16 * 1024;

/// A stream with patience.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs from the first write that waits until [`LEAST`] bytes are taken, or all there is.
    waits: Option<Pin<Box<Sleep>>>,
    /// Taken since it runs.
    taken: usize,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waits: None, taken: 0 }
    }

    /// Something was taken.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= LEAST {
            self.took_all();
        }
    }

    fn took_all(&mut self) {
        (self.waits, self.taken) = (None, 0);
    }

    /// It waits: for how long still?
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.waits.is_none() {
            self.taken = 0;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side takes next to nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(Ok(count)) => {
                self.took(count);
                Poll::Ready(Ok(count))
            }
            Poll::Pending => self.wait(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.wait(cx),
            Poll::Ready(flushed) => {
                self.took_all(); // whoever writes has nothing left
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => self.wait(cx),
            Poll::Ready(shut) => Poll::Ready(shut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Writes to somebody who takes so many bytes every 19 seconds; how that ends, and after how many seconds.
    async fn write_to(bytes_at_once: usize) -> (io::Result<()>, u64) {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Patient::new(near, Duration::from_secs(20));
        tokio::spawn(async move {
            let mut taken = vec![0; bytes_at_once];
            loop {
                tokio::time::sleep(Duration::from_secs(19)).await;
                if bytes_at_once > 0 && far.read_exact(&mut taken).await.is_err() {
                    return;
                }
            }
        });
        let begun = tokio::time::Instant::now();
        let written = near.write_all(&vec![7; 16 * LEAST]).await;
        (written, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_or_a_byte_now_and_then_is_given_up_and_a_slow_one_is_not() {
        let (written, _) = write_to(LEAST).await;
        written.expect("slowly, but it goes");
        for next_to_nothing in [0, 1, 64, LEAST / 2] {
            let (written, seconds) = write_to(next_to_nothing).await;
            assert_eq!(written.expect_err("given up").kind(), io::ErrorKind::TimedOut, "{next_to_nothing}");
            assert_eq!(seconds, 20, "{next_to_nothing}");
        }
    }
}
