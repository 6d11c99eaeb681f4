//! MQTT in websocket frames, the server's side (RFC 6455; MQTT 3.1.1, section 6). A frame as it comes from a client:
//!
//! ```text
//! byte 0       FIN 0x80 · reserved 0x70 · opcode: 0 goes on, 1 text, 2 binary, 8 close, 9 ping, 10 pong
//! byte 1       mask 0x80, always set · length 0..=125, or 126: 2 bytes follow, or 127: 8 bytes follow (big-endian)
//! 4 bytes      mask
//! length       payload, byte n xor mask[n mod 4]
//! ```
//!
//! A codec of our own, because a library hands over whole frames: each client could make us keep a megabyte before a byte
//! of it is looked at, past the bounds of `intake`. Here payload is handed on as it comes, however long its frame, so
//! that a connection keeps a few KiB, and packets may span or share frames as they like.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const GOES_ON: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const NOT_SUPPORTED: u16 = 1003;

/// Read and sent in pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;
const FRAME_BYTES: usize = 16 * 1024;

/// So many pings, or pieces without a byte of payload, in one turn: they cost a client next to nothing, and may come without
/// end.
const TURN_MAX: usize = 16;

/// Pongs are left out while the client does not take those before (section 5.5.3: only the newest ping counts).
const PONGS_BYTES_MAX: usize = 1024;

/// The payload of binary frames as one stream of bytes, over any other.
pub(super) struct Frames<S> {
    below: S,
    incoming: Incoming,
    /// Whole frames on their way out.
    output: BytesMut,
    closing: Closing,
}

/// Whether a close frame has been sent, or has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// By us.
    Said,
    /// By the client, and it has been answered: whatever comes behind it is not looked at (sections 1.4, 7.1.2).
    Heard,
}

/// What has come and was not yet handed on.
#[derive(Debug, Default)]
struct Incoming {
    bytes: BytesMut,
    /// Of the binary frame that is coming: bytes left, mask, and the place in it.
    payload: Option<(u64, [u8; 4], usize)>,
    /// A message of several frames has begun and not ended.
    goes_on: bool,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// So much payload was handed on; more than nothing.
    Payload(usize),
    Ping(Vec<u8>),
    /// With what it says: a code and a reason, or nothing.
    Close(Vec<u8>),
    /// Not enough has come.
    More,
}

/// What a client may not send, and the code it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wrong(u16, &'static str);

impl Incoming {
    /// Takes what is there, payload into `into`.
    fn next(&mut self, into: &mut ReadBuf<'_>) -> Result<Next, Wrong> {
        loop {
            if let Some((left, mask, at)) = &mut self.payload {
                let most = into.remaining().min(self.bytes.len());
                let count = usize::try_from(*left).map_or(most, |left| left.min(most));
                if count > 0 {
                    for (byte, mask) in self.bytes[..count].iter_mut().zip(mask.iter().cycle().skip(*at)) {
                        *byte ^= mask;
                    }
                    into.put_slice(&self.bytes[..count]);
                    self.bytes.advance(count);
                    (*left, *at) = (*left - count as u64, (*at + count) % 4);
                }
                if *left == 0 {
                    self.payload = None;
                }
                if count > 0 {
                    return Ok(Next::Payload(count));
                }
                if self.payload.is_some() {
                    return Ok(Next::More);
                }
            }
            let Some((first, length, mask, head)) = head(&self.bytes)? else { return Ok(Next::More) };
            match (first & 0x0F, self.goes_on) {
                (BINARY, false) | (GOES_ON, true) => {
                    self.goes_on = first & FINAL == 0;
                    self.bytes.advance(head);
                    self.payload = Some((length, mask, 0));
                }
                (CLOSE | PING | PONG, _) => {
                    let Some(body) = self.control(first, length, (mask, head))? else { return Ok(Next::More) };
                    match first & 0x0F {
                        PING => return Ok(Next::Ping(body)),
                        CLOSE => return Ok(Next::Close(body)),
                        _ => {}
                    }
                }
                (1, _) => return Err(Wrong(NOT_SUPPORTED, "a text frame, where MQTT needs binary ones")),
                _ => return Err(Wrong(PROTOCOL_ERROR, "a frame out of order")),
            }
        }
    }

    /// The body of a control frame, once it is whole.
    fn control(&mut self, first: u8, length: u64, (mask, head): ([u8; 4], usize)) -> Result<Option<Vec<u8>>, Wrong> {
        if first & FINAL == 0 || length > 125 {
            return Err(Wrong(PROTOCOL_ERROR, "a control frame that is long or in pieces"));
        }
        let end = head + usize::try_from(length).unwrap_or(0);
        if self.bytes.len() < end {
            return Ok(None);
        }
        let frame = self.bytes.split_to(end);
        Ok(Some(frame[head..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()))
    }
}

/// First byte, length of the payload, mask, length of the head.
#[expect(clippy::type_complexity, reason = "the four fields of a head, taken apart at once by its one reader")]
fn head(bytes: &[u8]) -> Result<Option<(u8, u64, [u8; 4], usize)>, Wrong> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(Wrong(PROTOCOL_ERROR, "a frame with reserved bits"));
    }
    if second & MASKED == 0 {
        return Err(Wrong(PROTOCOL_ERROR, "a frame that is not masked"));
    }
    let (length, rest) = match second & 0x7F {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if length > u64::MAX >> 1 {
        return Err(Wrong(PROTOCOL_ERROR, "a frame of impossible length"));
    }
    Ok(rest.first_chunk().map(|mask| (*first, length, *mask, bytes.len() - rest.len() + 4)))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Over a connection that was upgraded; `arrived` came behind the request.
    pub(super) fn new(below: S, arrived: BytesMut) -> Self {
        let incoming = Incoming { bytes: arrived, ..Incoming::default() };
        Self { below, incoming, output: BytesMut::new(), closing: Closing::No }
    }

    fn put(&mut self, opcode: u8, body: &[u8]) {
        self.output.put_u8(FINAL | opcode);
        match body.len() {
            short @ 0..=125 => self.output.put_u8(u8::try_from(short).unwrap_or(0)),
            length => {
                self.output.put_u8(126);
                self.output.put_u16(u16::try_from(length).unwrap_or(u16::MAX)); // a frame is no longer than FRAME_BYTES
            }
        }
        self.output.extend_from_slice(body);
    }

    fn close(&mut self, body: &[u8]) {
        if self.closing == Closing::No {
            self.closing = Closing::Said;
            self.put(CLOSE, body);
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.below).poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.output.advance(count),
            }
        }
        Pin::new(&mut self.below).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing == Closing::Heard {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURN_MAX {
            match this.incoming.next(into) {
                Ok(Next::Payload(_)) => return Poll::Ready(Ok(())),
                Ok(Next::Ping(body)) => {
                    if this.closing == Closing::No && this.output.len() < PONGS_BYTES_MAX {
                        this.put(PONG, &body);
                    }
                    continue;
                }
                Ok(Next::Close(body)) => {
                    this.close(body.get(..2).unwrap_or_default()); // the code comes back, section 5.5.1
                    this.closing = Closing::Heard;
                    let _ = this.poll_out(cx)?; // as far as the socket takes it: the client has said that it is the end
                    return Poll::Ready(Ok(()));
                }
                Ok(Next::More) => {}
                Err(Wrong(code, text)) => {
                    this.close(&code.to_be_bytes());
                    let _ = this.poll_out(cx)?; // as above
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, format!("websocket: {text}"))));
                }
            }
            if !this.output.is_empty() {
                let _ = this.poll_out(cx)?; // pongs; if the socket takes none, the wake comes to this task
            }
            let mut space = [std::mem::MaybeUninit::uninit(); PIECE_BYTES];
            let mut piece = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.below).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.incoming.bytes.extend_from_slice(piece.filled());
        }
        cx.waker().wake_by_ref(); // others first
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        if self.closing != Closing::No {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = &bytes[..bytes.len().min(FRAME_BYTES)];
        if !taken.is_empty() {
            self.put(BINARY, taken);
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx)
    }

    /// Sends a close frame, then closes our direction of what is below.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(&NORMAL.to_be_bytes());
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
