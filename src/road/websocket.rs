//! MQTT in websocket frames (RFC 6455; MQTT 3.1.1, section 6): the byte stream is cut into binary frames as it comes, and
//! put together again whatever the other side's cuts are, for neither side's frames need to hold whole packets.
//!
//! Framing, masking, fragments, pings and the closing handshake are tungstenite's; asking for the upgrade is ours, because
//! fronts and brokers answer in ways that are allowed, or odd but clear, and that it does not take.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::destination::{Destination, RoadError};
use super::http;

/// For the answer to the upgrade.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// RFC 6455, section 1.3.
const ACCEPT_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// We send no larger frame, so that no more than this is copied.
const FRAME_BYTES: usize = 16 << 10;
/// A stranger's frame, or message of fragments, must not fill our memory; what we take from a broker is no larger.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Asks the server at the other end of `stream` to speak websocket.
pub(super) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
    to: &Destination,
) -> Result<Websocket<S>, RoadError> {
    let place = to.place();
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    // A default port is left out (RFC 6455, section 4.1): fronts choose the site by the exact text.
    let default = if to.tls.is_some() { ":443" } else { ":80" };
    let host = place.strip_suffix(default).unwrap_or(&place);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    let no = |why: &str| RoadError::Unreachable(format!("{place} does not speak websocket at {path}: {why}"));
    let head = http::ask(&mut stream, &request, ANSWER_MAX).await.map_err(|error| no(&error.to_string()))?;
    match head.status {
        101 => {}
        status @ (401 | 403) => {
            return Err(RoadError::Distrusted(format!("{place} refuses us at {path}: {status} {}", head.reason)));
        }
        status => return Err(no(&format!("{status} {}", head.reason))),
    }
    if !head.lists("upgrade", "websocket") || !head.lists("connection", "upgrade") {
        return Err(no("it switches to another protocol"));
    }
    if head.field("sec-websocket-accept") != Some(&accept(&key)) {
        return Err(no("its answer is for somebody else (a cache on the way?)"));
    }
    // A server may leave the field out when it knows but one protocol; another one than ours is a refusal.
    if head.field("sec-websocket-protocol").is_some_and(|chosen| !chosen.eq_ignore_ascii_case("mqtt")) {
        return Err(no("it chooses another subprotocol than mqtt"));
    }
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = FRAME_BYTES;
    config.write_buffer_size = 0; // each frame at once: what waits here would be late
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    let frames = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
    Ok(Websocket { frames, rest: Bytes::new() })
}

fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SALT}").as_bytes()))
}

/// The payload of binary frames as one stream of bytes.
pub(super) struct Websocket<S> {
    frames: WebSocketStream<S>,
    /// Of the frame that is being read.
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Websocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => self.rest = payload,
                // tungstenite has prepared the pong, and sends it when it is asked again
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    let text = "a text frame, where MQTT needs binary ones (MQTT 3.1.1, section 6)";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let bytes = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..bytes]);
        self.rest.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Websocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = &bytes[..bytes.len().min(FRAME_BYTES)];
        if taken.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(broken)?;
        Pin::new(&mut self.frames).start_send(Message::Binary(Bytes::copy_from_slice(taken))).map_err(broken)?;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(broken)
    }

    /// Sends a close frame; the server then closes the connection (RFC 6455, section 7.1.1).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.frames).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, format!("websocket: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_standards_own_example() {
        // RFC 6455, section 1.3
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
