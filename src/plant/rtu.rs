//! Modbus RTU server side on a pseudo-terminal: frames, CRC and the time that bytes take on a real line.
//!
//! Framing is by the length of the function, with the CRC as proof; what makes no frame within `FRAME_PAUSE` is dropped,
//! so that a half request of a killed client hurts nobody. (Serial line V1.02, section 2.5.1; its pauses of 1.5 and 3.5
//! characters cannot be seen through a pseudo-terminal.)

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::plan::SerialPlan;

use super::pdu;
use super::pty::Pty;
use super::units::{Answer, Condition, Units};

/// Longest RTU frame (serial line V1.02, 2.3.1).
const FRAME_MAX: usize = 256;

/// A frame that has begun must go on within this time.
const FRAME_PAUSE: Duration = Duration::from_millis(50);

/// Replies that wait for their time or for the line; one more is dropped.
const WAITING_MAX: usize = 16;

/// How fast bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the machine can.
    Instant,
    /// As on a line with these settings: the request's bytes and the reply's take their time.
    Line(SerialPlan),
}

impl Pace {
    /// The time that this many characters take.
    pub fn time(self, characters: usize) -> Duration {
        match self {
            Self::Instant => Duration::ZERO,
            Self::Line(serial) => {
                let bits = characters as u64 * u64::from(serial.bits_per_char());
                Duration::from_nanos(bits * 1_000_000_000 / u64::from(serial.baud.max(1)))
            }
        }
    }
}

/// A Modbus RTU line on a pseudo-terminal. Dropping it closes the line.
#[derive(Debug)]
pub struct RtuLine {
    path: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl RtuLine {
    /// Serves the units; with `symlink` under that name too (see [`Pty::open`]). Must be called within a tokio runtime.
    pub fn serve(symlink: Option<&Path>, pace: Pace, units: Units) -> io::Result<Self> {
        let pty = Pty::open(symlink)?;
        let line = Self { path: pty.path().to_path_buf(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let stop = line.stop.clone();
        line.tasks.spawn(async move {
            let (replies, due) = mpsc::channel(WAITING_MAX);
            let talk = async { tokio::try_join!(listen(&pty, pace, &units, replies), speak(&pty, pace, &units, due)) };
            if let Some(Err(error)) = stop.run_until_cancelled(talk).await {
                tracing::warn!(%error, "simulated serial line ended");
            }
        });
        Ok(line)
    }

    /// What a client opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the line and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for RtuLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// Not enough of them yet, or not to be told apart from noise before the pause.
    Open,
    /// A whole frame of this length with a right CRC.
    Whole(usize),
}

fn frame(bytes: &[u8]) -> Frame {
    let length = pdu::request_length(bytes.get(1..).unwrap_or_default()).map(|pdu| 1 + pdu + 2);
    match length {
        Some(length) if length <= bytes.len() && has_crc(&bytes[..length]) => Frame::Whole(length),
        _ => Frame::Open,
    }
}

/// Reads requests for ever and hands the replies on.
async fn listen(pty: &Pty, pace: Pace, units: &Units, replies: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut pending = Vec::with_capacity(FRAME_MAX);
    let mut buffer = [0u8; FRAME_MAX];
    loop {
        let pause = if pending.is_empty() { Duration::MAX } else { FRAME_PAUSE };
        match timeout(pause, pty.read(&mut buffer)).await {
            Ok(count) => pending.extend_from_slice(&buffer[..count?]),
            Err(_) => {
                // A function that we do not know has no known length: the pause ends it.
                if pending.len() >= 4 && has_crc(&pending) {
                    answer(pace, units, &pending, &replies);
                } else {
                    units.stats().dropped.add(pending.len() as u64);
                }
                pending.clear();
            }
        }
        while let Frame::Whole(length) = frame(&pending) {
            answer(pace, units, &pending[..length], &replies);
            pending.drain(..length);
        }
        if pending.len() > FRAME_MAX {
            units.stats().dropped.add(pending.len() as u64);
            pending.clear();
        }
    }
}

/// Hands the reply to one whole frame, if there is one, to the line: when its request has passed the wire and it is due.
fn answer(pace: Pace, units: &Units, frame: &[u8], replies: &mpsc::Sender<Vec<u8>>) {
    let (unit_id, request) = (frame[0], &frame[1..frame.len() - 2]);
    if unit_id == 0 {
        return units.broadcast(request);
    }
    let Answer::Reply(reply) = units.answer(unit_id, request) else { return };
    let mut answer = vec![unit_id];
    answer.extend_from_slice(&reply.pdu);
    answer.extend_from_slice(&crc16(&answer).to_le_bytes());
    if reply.condition == Condition::Damaged {
        let middle = answer.len() / 2;
        answer[middle] ^= 0x10;
    }
    let Ok(slot) = replies.clone().try_reserve_owned() else { return units.stats().dropped.one() };
    let after = reply.after + pace.time(frame.len());
    if after.is_zero() {
        slot.send(answer);
    } else {
        // Holds one of the WAITING_MAX places, so these are as bounded as the queue; ends by itself.
        tokio::spawn(async move {
            sleep(after).await;
            slot.send(answer);
        });
    }
}

/// Puts replies on the line, each byte in its time.
async fn speak(pty: &Pty, pace: Pace, units: &Units, mut due: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = due.recv().await {
        units.stats().replies.one();
        let begun = Instant::now();
        let piece = if pace == Pace::Instant { FRAME_MAX } else { 8 };
        let mut sent = 0;
        for bytes in frame.chunks(piece) {
            sent += bytes.len();
            if pace != Pace::Instant {
                sleep_until(begun + pace.time(sent)).await;
            }
            let written = pty.write(bytes)?;
            units.stats().dropped.add((bytes.len() - written) as u64);
        }
    }
    Ok(())
}

fn has_crc(frame: &[u8]) -> bool {
    let Some((body, crc)) = frame.split_last_chunk::<2>() else { return false };
    crc16(body).to_le_bytes() == *crc
}

/// CRC-16 of the serial line (V1.02, section 6.2.2): polynomial 0xA001 reflected, start 0xFFFF.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Parity;

    #[test]
    fn the_crc_is_the_one_of_the_specification() {
        assert_eq!(crc16(&[0x02, 0x07]), 0x1241); // V1.02, appendix B: goes on the wire as 41 12
        assert!(has_crc(&[0x02, 0x07, 0x41, 0x12]));
        assert!(!has_crc(&[0x02, 0x07, 0x41, 0x13]));
        assert!(!has_crc(&[0x02]));
    }

    #[test]
    fn a_frame_is_whole_when_its_length_and_crc_say_so() {
        let mut request = vec![1, 3, 0, 0, 0, 2];
        request.extend(crc16(&request).to_le_bytes());
        assert_eq!(frame(&request), Frame::Whole(8));
        assert_eq!(frame(&request[..7]), Frame::Open);
        request[4] ^= 1;
        assert_eq!(frame(&request), Frame::Open);
        assert_eq!(frame(&[1, 99]), Frame::Open);
    }

    #[test]
    fn bytes_take_the_time_of_their_line() {
        let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        // field design: 125 registers, 8E1: 8 characters out, 255 back
        assert_eq!(Pace::Line(serial).time(8 + 255).as_millis(), 301);
        assert_eq!(Pace::Instant.time(300), Duration::ZERO);
    }
}
