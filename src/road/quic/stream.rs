//! The one stream of a connection, and what its errors mean.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use super::account::Account;
use super::leaving::Leaving;
use super::settings::NOT_SENT_MAX;
use crate::road::reach::means_distrust;
use crate::road::wire::Gate;

/// The first of 256 codes of QUIC that are TLS alerts (RFC 9001, section 4.8).
const ALERTS: u64 = 0x100;
/// What an uplink said last is brought over in this time, or not at all: there may be no link any more.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// MQTT's bytes. The connection ends with it; what was written before a shutdown is still brought over by whoever holds
/// the connection that long.
#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    /// Bytes unconfirmed or unsent.
    window: u64,
    window_max: u64,
}

impl Stream {
    pub(super) fn new(connection: Connection, send: SendStream, receive: RecvStream, window_max: u64) -> Self {
        Self { connection, send, receive, window: window_max, window_max }
    }

    /// To be held until the stream is over.
    pub(super) fn leaving(&self) -> Leaving {
        Leaving::new(&self.connection, &self.send)
    }

    /// As much as the network takes at the moment, and a little that waits: the library's own window would take whatever
    /// the slowest link is to bring in the next minutes.
    fn widen(&mut self) {
        let under_way = self.connection.stats().path.cwnd;
        let window = (under_way + NOT_SENT_MAX).min(self.window_max);
        if window != self.window {
            self.window = window;
            self.connection.set_send_window(window);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(self.receive.poll_read_buf(cx, into)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(ReadError::ConnectionLost(error)) if is_farewell(&error) => Poll::Ready(Ok(())),
            Err(ReadError::ConnectionLost(error)) => Poll::Ready(Err(Trouble(error).into())),
            Err(error @ ReadError::Reset(_)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.widen();
        match ready!(Pin::new(&mut self.send).poll_write(cx, bytes)) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(WriteError::ConnectionLost(error)) => Poll::Ready(Err(Trouble(error).into())),
            Err(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.send.finish(); // an error: it was finished, or nobody reads it any more
        Poll::Ready(Ok(()))
    }
}

/// A stream whose bytes are counted, and written no faster than allowed. What was written is brought over when it is
/// dropped, too, as the kernel does it for a socket.
pub(super) struct Paced {
    stream: Stream,
    gate: Gate,
    account: Arc<Account>,
    leaving: Option<Leaving>,
}

impl Paced {
    pub(super) fn new(stream: Stream, account: Arc<Account>) -> Self {
        let leaving = Some(stream.leaving());
        Self { stream, gate: Gate::new(account.pace.clone()), account, leaving }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if let (Some(leaving), Ok(runtime)) = (self.leaving.take(), Handle::try_current()) {
            runtime.spawn(leaving.depart(FAREWELL_MAX));
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        self.account.read(into.filled().len() - before);
        result
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.gate.poll_allowed(cx)).min(bytes.len());
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[..allowed]))?;
        self.account.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Why a connection is no more, for those who know sockets.
pub(super) struct Trouble(pub(super) ConnectionError);

impl From<Trouble> for io::Error {
    /// An alert of the other side is what it would be over TCP: whoever asks whether that is distrust finds it.
    fn from(Trouble(error): Trouble) -> Self {
        if let (ConnectionError::ConnectionClosed(_), Some(alert)) = (&error, alert(&error)) {
            return Self::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        }
        let kind = match &error {
            ConnectionError::TimedOut => io::ErrorKind::TimedOut,
            ConnectionError::Reset | ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_) => {
                io::ErrorKind::ConnectionReset
            }
            ConnectionError::LocallyClosed => io::ErrorKind::NotConnected,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, told(&error))
    }
}

/// Did the other side close in order?
fn is_farewell(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner() == 0,
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code) == 0,
        _ => false,
    }
}

/// In words, and with what a person can do about it.
pub(super) fn told(error: &ConnectionError) -> String {
    match (error, alert(error)) {
        (_, Some(AlertDescription::NoApplicationProtocol)) => {
            "no protocol in common (MQTT over QUIC is ALPN mqtt)".to_owned()
        }
        (ConnectionError::TransportError(local), Some(_)) => format!("{}{}", local.reason, hint(&local.reason)),
        (_, Some(alert)) => rustls::Error::AlertReceived(alert).to_string(),
        (ConnectionError::TimedOut, None) => {
            "silence for longer than one side allows (QUIC's idle timeout; `keep_alive` must be shorter)".to_owned()
        }
        (error, None) => error.to_string(),
    }
}

/// See `reach::hint`; of a QUIC handshake only the text is left.
fn hint(reason: &str) -> &'static str {
    if reason.contains("not valid for name") || reason.contains("NotValidForName") {
        "; the server's certificate must carry the name of the url as subjectAltName (its CN is not looked at)"
    } else if reason.contains("BadSignature") {
        "; a CA in ca_file has the name of the one that signed the server's certificate, but another key"
    } else if reason.contains("UnknownIssuer") {
        "; no CA in ca_file signed the server's certificate"
    } else {
        ""
    }
}

/// Does one side refuse the other's certificate?
pub(super) fn is_distrust(error: &ConnectionError) -> bool {
    alert(error).is_some_and(means_distrust)
}

/// The alert that it was, if it was one.
fn alert(error: &ConnectionError) -> Option<AlertDescription> {
    let code = match error {
        ConnectionError::TransportError(local) => u64::from(local.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => return None,
    };
    u8::try_from(code.checked_sub(ALERTS)?).ok().map(AlertDescription::from)
}
