//! A wire tap: an opener whose wires tell a recording what happens on them.
//!
//! Between carrier and gate: below TLS nothing could be read, above the gate nothing but answers is left. Fed by the driver
//! like any opener. Promises to change nothing: every byte, error and pause passes as it would without it. What one flush
//! sends is one request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Opener, Opening, Wire};
use crate::recording::{By, Tape, What};

/// An opener under observation.
pub struct Tapped {
    opener: Box<dyn Opener>,
    tape: Tape,
}

impl Tapped {
    /// Tells this tape.
    pub fn new(opener: Box<dyn Opener>, tape: Tape) -> Self {
        Self { opener, tape }
    }
}

impl Opener for Tapped {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async {
            let opened = self.opener.open().await;
            let what = match &opened {
                Ok(_) => What::Opened,
                Err(error) => What::NotOpened(error.to_string()),
            };
            note(&self.tape, Instant::now(), what);
            let tape = self.tape.clone();
            Ok(Box::new(Observed { wire: opened?, tape, sending: Vec::new(), since: None, is_over: false })
                as Box<dyn Wire>)
        })
    }
}

fn note(tape: &Tape, at: Instant, what: What) {
    tape.note(at.into_std(), what);
}

/// A wire under observation.
struct Observed {
    wire: Box<dyn Wire>,
    tape: Tape,
    /// Of the request on its way out.
    sending: Vec<u8>,
    since: Option<Instant>,
    /// Its end has been told.
    is_over: bool,
}

impl Observed {
    /// What was sent up to here is a request, or as much of one as went out.
    fn sent(&mut self) {
        if let Some(since) = self.since.take() {
            let took = since.elapsed();
            note(&self.tape, since, What::Sent { took, bytes: std::mem::take(&mut self.sending) });
        }
    }

    fn over(&mut self, by: By, error: String) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.sent();
            note(&self.tape, Instant::now(), What::Closed { by, error });
        }
    }

    fn failed(&mut self, error: io::Error) -> io::Error {
        self.over(By::System, error.to_string());
        error
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.over(By::Us, String::new());
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.wire).poll_read(cx, out)).map_err(|error| self.failed(error))?;
        let came = &out.filled()[before..];
        if came.is_empty() {
            self.over(By::Them, String::new());
        } else {
            self.sent();
            note(&self.tape, Instant::now(), What::Received { took: Duration::ZERO, bytes: came.to_vec() });
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.wire).poll_write(cx, bytes)).map_err(|error| self.failed(error))?;
        self.since.get_or_insert_with(Instant::now);
        self.sending.extend_from_slice(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.wire).poll_flush(cx)).map_err(|error| self.failed(error))?;
        self.sent();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
