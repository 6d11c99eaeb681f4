//! The TCP connection as the rest of the road sees it: every byte counted, none sent faster than allowed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::meter::Tap;
use super::pace::Pace;
use crate::model::lock::Hold as _;

/// Anything bytes go through, both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What looks after the costs of a connection, about once a second.
pub(super) trait Books: Send {
    /// Tells the meters what they do not know yet, and charges the pace for it.
    fn settle(&mut self);
}

/// Lets bytes through no faster than a pace allows.
#[derive(Debug)]
pub(super) struct Gate {
    pace: Pace,
    until: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, until: None }
    }

    /// How many bytes may be written now.
    pub(super) fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(until) = &mut self.until {
                // A new rate wakes us too, so time alone does not decide.
                let slept = until.as_mut().poll(cx).is_ready();
                match self.pace.allow(Instant::now(), cx.waker()) {
                    Ok(bytes) => {
                        self.until = None;
                        return Poll::Ready(bytes);
                    }
                    Err(at) if slept || until.deadline() != at => until.as_mut().reset(at),
                    Err(_) => return Poll::Pending,
                }
                continue;
            }
            match self.pace.allow(Instant::now(), cx.waker()) {
                Ok(bytes) => return Poll::Ready(bytes),
                Err(at) => self.until = Some(Box::pin(sleep_until(at))),
            }
        }
    }
}

/// A TCP connection whose bytes are counted and paced.
pub(super) struct Wire {
    books: WireBooks,
    stream: TcpStream,
    gate: Gate,
}

/// The books of a connection; its relay looks after them once a second.
#[derive(Clone)]
pub(super) struct WireBooks(Arc<Mutex<Account>>);

struct Account {
    tap: Option<Tap>,
    pace: Pace,
    /// Sent bytes that the pace has been told of.
    paid: u64,
}

impl Books for WireBooks {
    /// Asks the kernel, tells the meters, charges the pace for what the estimates missed.
    fn settle(&mut self) {
        self.ask();
    }
}

impl WireBooks {
    /// Of a connection that costs nothing.
    pub(super) fn of_nothing() -> Self {
        Self(Arc::new(Mutex::new(Account { tap: None, pace: Pace::default(), paid: 0 })))
    }

    fn ask(&self) {
        let mut books = self.lock();
        let Some(sent) = books.tap.as_mut().map(Tap::settle) else { return };
        books.pace.spend(sent.saturating_sub(books.paid));
        books.paid = books.paid.max(sent);
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.hold()
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream, mut tap: Tap, pace: Pace) -> Self {
        let paid = tap.settle();
        pace.spend(paid);
        let gate = Gate::new(pace.clone());
        let books = WireBooks(Arc::new(Mutex::new(Account { tap: Some(tap), pace, paid })));
        Self { books, stream, gate }
    }

    pub(super) fn books(&self) -> WireBooks {
        self.books.clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.books.lock().tap = None; // counts for the last time, while the socket is still there
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        let bytes = into.filled().len() - before;
        if let Some(tap) = self.books.lock().tap.as_mut().filter(|_| bytes > 0) {
            tap.read(bytes);
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.gate.poll_allowed(cx)).min(bytes.len());
        let result = Pin::new(&mut self.stream).poll_write(cx, &bytes[..allowed]);
        if let Poll::Ready(Ok(written)) = &result {
            let mut books = self.books.lock();
            let cost = books.tap.as_mut().map_or(0, |tap| tap.wrote(*written));
            books.pace.spend(cost);
            books.paid += cost;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.books.ask(); // once both sides are done, the kernel forgets
        if let Some(tap) = self.books.lock().tap.as_mut() {
            tap.shut();
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
