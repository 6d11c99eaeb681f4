//! The gate: `AsyncRead + AsyncWrite` between tokio-modbus and the wire, and the only way through.
//!
//! On write: drains and discards what is pending, remembers what the answer must look like, sends from a buffer of its
//! own, never calls tcdrain. On read: hunts for the answer and hands over only whole valid frames; what else comes is
//! counted and dropped (all this in [`super::exchange`]). Transaction ids are the gate's own: the crate begins again at 0
//! with each new context, and a late answer to an old question must not fit a new one.
//!
//! Clones share one wire, so that a context can be dropped after an error without dropping the connection. One
//! transaction at a time; the session sees to that.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::echo::EchoHabit;
use super::exchange::{Abandoned, Exchange};
use super::frame::{MBAP_BYTES, PDU_BYTES_MAX, crc16};
use super::timing::ModbusFraming;
use crate::config::plan::{AnswersAs, BusLink};
use crate::field::carrier::Wire;
use crate::field::stats::BusStats;
use crate::model::lock::Hold as _;

/// A handle to the gate of one connection.
#[derive(Clone)]
pub struct Gate {
    exchange: Arc<Mutex<Exchange>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate over a connection or an open port. `settle`: how long a serial line must be still after a broken frame.
    pub fn new(wire: Box<dyn Wire>, link: &BusLink, settle: Duration, stats: Arc<BusStats>) -> Self {
        Self { exchange: Arc::new(Mutex::new(Exchange::new(wire, link, settle, stats))) }
    }

    /// Never contended: the session and its context are one task.
    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.hold()
    }

    /// Under which unit id the next answers may come.
    pub fn expect_from(&self, answers_as: AnswersAs) {
        self.exchange().expect_from(answers_as);
    }

    /// Gives the request up after a timeout or an error. Drop the context too.
    pub fn abandon(&self) -> Abandoned {
        self.exchange().abandon()
    }

    /// Listens for ever and discards what comes; ends when the connection is gone. Cancel-safe.
    pub async fn overhear(&self) -> io::Result<()> {
        loop {
            poll_fn(|cx| self.exchange().poll_discard(cx)).await?;
        }
    }

    /// Listens until the deadline and discards what comes; an error means that the connection is gone. Cancel-safe.
    pub async fn overhear_until(&self, deadline: Instant) -> io::Result<()> {
        while let Ok(more) = timeout_at(deadline, poll_fn(|cx| self.exchange().poll_discard(cx))).await {
            more?;
        }
        Ok(())
    }

    /// When the last byte came.
    pub fn last_heard(&self) -> Instant {
        self.exchange().last_heard()
    }

    /// Asks with a PDU of the caller's own, past the crate, whose decoders refuse what real devices say to some functions:
    /// the PDU of the answer. Not cancel-safe: finish it, or abandon.
    pub async fn ask(&mut self, framing: ModbusFraming, unit: u8, pdu: &[u8]) -> io::Result<Vec<u8>> {
        let mut body = vec![unit];
        body.extend_from_slice(pdu);
        let frame = match framing {
            ModbusFraming::Mbap => {
                let length = u16::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                [&[0; 4][..], &length.to_be_bytes(), &body].concat()
            }
            ModbusFraming::Rtu | ModbusFraming::Ascii => [&body[..], &crc16(&body).to_le_bytes()].concat(),
        };
        self.write_all(&frame).await?;
        self.flush().await?;
        let mut answer = [0; MBAP_BYTES + PDU_BYTES_MAX];
        let length = self.read(&mut answer).await?; // whole, as ever
        let pdu = match framing {
            ModbusFraming::Mbap => answer[..length].get(MBAP_BYTES..),
            ModbusFraming::Rtu | ModbusFraming::Ascii => answer[..length].get(1..length.saturating_sub(2)),
        };
        pdu.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Does the line echo?
    pub fn echo_habit(&self) -> EchoHabit {
        self.exchange().echo_habit()
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.exchange().poll_answer(cx, out)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.exchange().stage(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange().poll_send(cx)
    }

    /// The crate does not own the wire; dropping the session closes it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
