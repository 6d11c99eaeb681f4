//! The gate as a whole: requests through it, and a wire at whose other end somebody answers as he likes.
//!
//! Promises: what comes out of it is one whole answer to the question under way, under the caller's transaction number and the
//! unit that was asked, with a right check sum, and it came after the question had gone out; a wire that falls silent gives
//! nothing; no more bytes come out than one answer has.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ironbridge::config::plan::{AnswersAs, BusLink, Framing, Parity, SerialPlan};
use ironbridge::field::modbus::gate::Gate;
use ironbridge::field::stats::BusStats;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::Bytes;
use super::question::{Asked, ascii, mbap, rtu};

#[derive(Default)]
struct Ends {
    /// To the gate, piece by piece.
    coming: VecDeque<Vec<u8>>,
    /// From the gate.
    sent: Vec<u8>,
}

/// Our end of the wire is the other clone.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Ends>>);

impl Wire {
    fn with<T>(&self, what: impl FnOnce(&mut Ends) -> T) -> T {
        what(&mut self.0.lock().expect("one thread"))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nothing wakes anybody: what comes is there before it is looked for, or the time is up.
        self.with(|ends| match ends.coming.pop_front() {
            None => Poll::Pending,
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(out.remaining()));
                out.put_slice(&piece);
                if !rest.is_empty() {
                    ends.coming.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
        })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|ends| ends.sent.extend_from_slice(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
}

/// Requests one after the other.
pub fn run(data: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(talk(Bytes(data))));
}

fn framed(framing: Framing, body: &[u8], transaction: u16) -> Vec<u8> {
    match framing {
        Framing::Mbap => mbap(transaction, body),
        Framing::Ascii => ascii(body),
        _ => rtu(body),
    }
}

async fn talk(mut bytes: Bytes<'_>) {
    let framing = [Framing::Rtu, Framing::Ascii, Framing::Mbap][usize::from(bytes.byte() % 3)];
    let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
    let link = BusLink { framing, ..BusLink::rtu("/dev/x", serial) };
    let stats = Arc::new(BusStats::default());
    let open = || {
        let wire = Wire::default();
        (Gate::new(Box::new(wire.clone()), &link, Duration::from_millis(5), Arc::clone(&stats)), wire)
    };
    let (mut gate, mut wire) = open();
    for crate_number in 0..8u16 {
        if bytes.is_empty() {
            return;
        }
        let asked = Asked::of(&mut bytes);
        let anyone = bytes.byte() & 1 == 1;
        gate.expect_from(if anyone { AnswersAs::Anyone } else { AnswersAs::Itself });
        wire.with(|ends| ends.sent.clear());
        // The crate speaks RTU to the gate of an ASCII line.
        let request = if framing == Framing::Mbap { mbap(crate_number, &asked.body) } else { rtu(&asked.body) };
        gate.write_all(&request).await.expect("staged");
        if gate.flush().await.is_err() {
            (gate, wire) = open(); // out of step while sweeping
            continue;
        }
        let number = wire.with(|ends| {
            assert!(ends.coming.is_empty(), "what was there before is swept");
            let number = u16::from_be_bytes([ends.sent[0], ends.sent[1]]);
            assert_eq!(ends.sent, framed(framing, &asked.body, number), "the question on the wire");
            number
        });
        let (now, later) = reply(&mut bytes, framing, &asked, number);
        let came = now.concat();
        wire.with(|ends| ends.coming = now.into());
        let mut out = [0; 512];
        match timeout(Duration::from_millis(100), gate.read(&mut out)).await {
            Ok(Ok(count)) => {
                judge(&out[..count], &asked, &came, (framing, crate_number, number, anyone));
                let more = timeout(Duration::from_millis(100), gate.read(&mut out)).await;
                assert!(!matches!(more, Ok(Ok(1..))), "something behind the answer");
                gate.abandon();
            }
            Ok(Err(_)) if framing == Framing::Mbap => (gate, wire) = open(),
            Ok(Err(_)) | Err(_) => drop(gate.abandon()),
        }
        wire.with(|ends| ends.coming.extend(later));
    }
}

/// What comes while the gate listens, and what comes too late.
fn reply(bytes: &mut Bytes<'_>, framing: Framing, asked: &Asked, number: u16) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut now, mut later) = (Vec::new(), Vec::new());
    for _ in 0..bytes.byte() % 5 {
        let (what, fill) = (bytes.byte(), bytes.byte());
        let mut answer = asked.answer(fill, (what & 8 != 0).then_some(fill));
        let mut piece = match what & 7 {
            0 => bytes.take(usize::from(fill)).to_vec(),
            1 => framed(framing, &asked.body, number),
            2 => framed(framing, &answer, number.wrapping_sub(1)),
            3 => {
                answer[usize::from(what >> 4 & 1)] = bytes.byte();
                framed(framing, &answer, number)
            }
            4 => {
                let mut broken = framed(framing, &answer, number);
                let bit = usize::from(bytes.word()) % (broken.len() * 8);
                broken[bit / 8] ^= 1 << (bit % 8);
                broken
            }
            5 => {
                let whole = framed(framing, &answer, number);
                whole[..usize::from(bytes.byte()) % whole.len()].to_vec()
            }
            _ => framed(framing, &answer, number),
        };
        piece.truncate(600);
        if !piece.is_empty() {
            if what & 0x80 == 0 { now.push(piece) } else { later.push(piece) }
        }
    }
    (now, later)
}

fn judge(out: &[u8], asked: &Asked, came: &[u8], (framing, crate_number, number, anyone): (Framing, u16, u16, bool)) {
    let body = if framing == Framing::Mbap { &out[6..] } else { &out[..out.len() - 2] };
    let right = if framing == Framing::Mbap { mbap(crate_number, body) } else { rtu(body) };
    assert_eq!(out, right, "not a frame as the crate wants it");
    assert!(asked.is_answered_by(body), "{body:02X?} does not answer {:02X?}", asked.body);
    assert_eq!(body[0], asked.body[0], "signed by the unit that was asked");
    let units = if anyone { 0..=255 } else { body[0]..=body[0] };
    let mut frames = units.map(|unit| framed(framing, &[&[unit], &body[1..]].concat(), number));
    let is_there = |frame: Vec<u8>| {
        let end = if framing == Framing::Ascii { frame.len() - 2 } else { frame.len() };
        came.windows(end).any(|part| part.eq_ignore_ascii_case(&frame[..end]))
    };
    assert!(frames.any(is_there), "an answer that did not come after the question: {body:02X?}");
}
