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
    Ok(Websocket { frames, rest: Bytes::new(), closed: false })
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
pub fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SALT}").as_bytes()))
}

/// The payload of binary frames as one stream of bytes.
pub(super) struct Websocket<S> {
    frames: WebSocketStream<S>,
    /// Of the frame that is being read.
    rest: Bytes,
    /// The server has said that it is the end.
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Websocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => self.rest = payload,
                // tungstenite has prepared the pong, and sends it when it is asked again
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => self.closed = true,
                Some(Ok(Message::Text(_))) => {
                    let text = "a text frame, where MQTT needs binary ones (MQTT 3.1.1, section 6)";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => return Poll::Ready(Ok(())),
                // after that, many close TCP without a word of TLS
                Some(Err(Error::Io(_))) if self.closed => return Poll::Ready(Ok(())),
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    #[test]
    fn the_accept_key_is_that_of_the_standards_own_example() {
        // RFC 6455, section 1.3
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// A server that takes the request and answers with `head`, in which `{accept}` stands for the right key.
    async fn greet(mut far: DuplexStream, head: &str) -> (DuplexStream, String) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(far.read_u8().await.expect("a request"));
        }
        let request = String::from_utf8(request).expect("text");
        let key = request.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.split('\r').next()).expect("a key");
        far.write_all(head.replace("{accept}", &accept(key)).as_bytes()).await.expect("taken");
        (far, request)
    }

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

    async fn upgraded(head: &str) -> (Result<Websocket<DuplexStream>, RoadError>, DuplexStream, String) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let to = Destination::plain("broker.example.com", 80);
        let (near, (far, request)) = tokio::join!(upgrade(near, "/mqtt?a=1", &to), greet(far, head));
        (near, far, request)
    }

    async fn open() -> (Websocket<DuplexStream>, DuplexStream) {
        let (near, far, _) = upgraded(GOOD).await;
        (near.expect("upgraded"), far)
    }

    /// A frame as servers send it: not masked (RFC 6455, section 5.2).
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(u8::try_from(length).expect("small")),
            length @ 126..=0xFFFF => {
                bytes.push(126);
                bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    /// A frame of ours, unmasked.
    async fn heard(far: &mut DuplexStream) -> (u8, Vec<u8>) {
        let (first, second) = (far.read_u8().await.expect("a frame"), far.read_u8().await.expect("a frame"));
        assert_eq!(second & 0x80, 0x80, "clients mask (RFC 6455, section 5.1)");
        let length = match second & 0x7F {
            126 => usize::from(far.read_u16().await.expect("a length")),
            127 => panic!("no frame of ours is that large"),
            length => usize::from(length),
        };
        let mut mask = [0; 4];
        far.read_exact(&mut mask).await.expect("a mask");
        let mut payload = vec![0; length];
        far.read_exact(&mut payload).await.expect("a payload");
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        (first, payload)
    }

    #[tokio::test]
    async fn the_request_is_what_fronts_expect() {
        let (near, _far, request) = upgraded(GOOD).await;
        assert!(near.is_ok());
        assert!(request.starts_with("GET /mqtt?a=1 HTTP/1.1\r\nHost: broker.example.com\r\n"), "{request}");
        assert!(request.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{request}");
    }

    #[tokio::test]
    async fn odd_but_clear_answers_are_taken_and_refusals_have_a_reason() {
        let silent = GOOD.replace("Sec-WebSocket-Protocol: mqtt\r\n", "");
        assert!(upgraded(&silent).await.0.is_ok(), "one protocol only, left out");
        for (head, why) in [
            (GOOD.replace("{accept}", "AAAA"), "somebody else"),
            (GOOD.replace("WebSocket\r", "h2c\r"), "another protocol"),
            (GOOD.replace("mqtt", "chat"), "another subprotocol"),
            ("HTTP/1.1 404 Not Found\r\n\r\n".into(), "404 Not Found"),
            ("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n".into(), "301 Moved"),
            ("\x20\x02\x00\x05".into(), "does not speak websocket"),
        ] {
            let refused = upgraded(&format!("{head}                ")).await.0.err();
            assert!(matches!(&refused, Some(RoadError::Unreachable(text)) if text.contains(why)), "{why}: {refused:?}");
        }
        let refused = upgraded("HTTP/1.1 403 Forbidden\r\n\r\n").await.0.err();
        assert!(matches!(refused, Some(RoadError::Distrusted(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn fragments_pings_and_frames_that_split_packets_become_one_stream_again() {
        let (mut near, mut far) = open().await;
        let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).take(300_000).collect();
        let served = sent.clone();
        let server = tokio::spawn(async move {
            far.write_all(&frame(0x82, &served[..1])).await.expect("taken");
            far.write_all(&frame(0x89, b"there?")).await.expect("taken");
            far.write_all(&frame(0x02, &served[1..126])).await.expect("taken"); // begins a message
            far.write_all(&frame(0x89, b"")).await.expect("taken"); // a ping between its fragments
            far.write_all(&frame(0x00, b"")).await.expect("taken"); // an empty one
            far.write_all(&frame(0x80, &served[126..70_000])).await.expect("taken");
            far.write_all(&frame(0x82, &served[70_000..])).await.expect("taken");
            let pongs = [heard(&mut far).await, heard(&mut far).await];
            assert_eq!(pongs, [(0x8A, b"there?".to_vec()), (0x8A, Vec::new())]);
            far.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await.expect("taken");
            assert_eq!(heard(&mut far).await.0, 0x88, "a close is answered");
        });
        let mut received = vec![0; sent.len()];
        near.read_exact(&mut received).await.expect("all of it");
        assert!(received == sent);
        assert_eq!(near.read(&mut received).await.expect("closed in order"), 0);
        server.await.expect("the server is content");
    }

    #[tokio::test]
    async fn what_we_send_goes_in_binary_frames_of_bounded_size_and_ends_with_a_close() {
        let (mut near, mut far) = open().await;
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let written = sent.clone();
        let client = tokio::spawn(async move {
            near.write_all(&written).await.expect("taken");
            near.shutdown().await.expect("closed");
            near
        });
        let mut received = Vec::new();
        loop {
            match heard(&mut far).await {
                (0x82, payload) => {
                    assert!(payload.len() <= FRAME_BYTES);
                    received.extend(payload);
                }
                (first, _) => {
                    assert_eq!(first, 0x88);
                    break;
                }
            }
        }
        assert!(received == sent);
        drop(client.await.expect("content"));
    }

    #[tokio::test]
    async fn text_masked_reserved_and_huge_frames_end_the_connection() {
        let huge = [vec![0x82, 127], (1_u64 << 40).to_be_bytes().to_vec()].concat();
        for nonsense in [frame(0x81, b"text"), vec![0x82, 0x81, 1, 2, 3, 4, 5], frame(0xF2, b"x"), huge] {
            let (mut near, mut far) = open().await;
            far.write_all(&nonsense).await.expect("taken");
            let error = near.read(&mut [0; 64]).await.expect_err("nonsense");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{nonsense:?}: {error}");
        }
    }
}
