//! One line at work: requests in, replies out when they are due, whatever carries the bytes.
//!
//! Replies leave in the order of due times, not of arrival: a late unit does not hold up its neighbours. What waits is
//! bounded; what finds no place is dropped and counted.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::frames::{FRAME_MAX, Frames, Request};
use super::pdu;
use super::units::{Answer, Condition, Units};
use crate::config::plan::Framing;

/// Replies of one line that wait for their time; one more is dropped.
pub(super) const WAITING_MAX: usize = 16;
/// A frame that has begun must go on within this time, where nothing else tells its end: half a request of a killed client
/// hurts nobody.
pub(super) const FRAME_PAUSE: Duration = Duration::from_millis(50);

/// The frame that answers a request, if anybody does, and when it leaves the unit.
pub(super) fn reply(units: &Units, framing: Framing, request: &Request) -> Option<(Duration, Vec<u8>)> {
    if request.unit_id == 0 && !framing.is_numbered() {
        units.broadcast(&request.pdu);
        return None;
    }
    let (after, pdu, condition) = match units.answer(request.unit_id, &request.pdu) {
        Answer::Reply(reply) => (reply.after, reply.pdu, reply.condition),
        Answer::Nobody if framing.is_numbered() => {
            let function = request.pdu.first().copied().unwrap_or(0);
            (Duration::ZERO, pdu::exception(function, pdu::TARGET_SILENT), Condition::Sound)
        }
        Answer::Silence | Answer::Nobody => return None,
    };
    Some((after, request.reply(framing, &pdu, condition)))
}

/// Hands a reply to whoever writes: now, or when it is due.
pub(super) fn post<T: Send + 'static>(replies: &mpsc::Sender<T>, after: Duration, reply: T, units: &Units) {
    let Ok(place) = replies.clone().try_reserve_owned() else { return units.stats().dropped.one() };
    units.stats().replies.one();
    if after.is_zero() {
        place.send(reply);
    } else {
        // Holds one of the WAITING_MAX places, so these are as bounded as the queue; ends by itself.
        tokio::spawn(async move {
            sleep(after).await;
            place.send(reply);
        });
    }
}

/// One connection until its client leaves or sends what is no Modbus.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    framing: Framing,
    units: &Units,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (replies, mut due) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let write = async {
        while let Some(frame) = due.recv().await {
            writer.write_all(&frame).await?;
            writer.flush().await?;
        }
        Ok(())
    };
    let read = async {
        let mut frames = Frames::new(framing);
        let mut buffer = [0u8; FRAME_MAX];
        loop {
            let is_over = framing == Framing::Rtu && !frames.is_empty();
            match timeout(if is_over { FRAME_PAUSE } else { Duration::MAX }, reader.read(&mut buffer)).await {
                Ok(count) => match count? {
                    0 => break,
                    count => frames.take(&buffer[..count]),
                },
                Err(_) => {
                    let (request, dropped) = frames.pause();
                    units.stats().dropped.add(dropped as u64);
                    if let Some(request) = request {
                        answer(units, framing, &request, &replies);
                    }
                }
            }
            while let Some(request) = frames.next()? {
                answer(units, framing, &request, &replies);
            }
            units.stats().dropped.add(frames.overflow() as u64);
        }
        drop(replies);
        io::Result::Ok(())
    };
    tokio::try_join!(read, write).map(|_: ((), ())| ())
}

fn answer(units: &Units, framing: Framing, request: &Request, replies: &mpsc::Sender<Vec<u8>>) {
    if let Some((after, frame)) = reply(units, framing, request) {
        post(replies, after, frame, units);
    }
}
