//! Which bytes on a line are a request, and which are its reply, for somebody who only listens. Pure.
//!
//! Fed with bytes and their times, and with pauses. On an RS-485 line both look alike: a frame that fits the last request as
//! its answer is the answer, one that has the length of a request and a right CRC is a request, the rest is noise. Where
//! both are the same bytes (FC 5 and 6) the second of two is the answer, even if it was a repetition.

use std::time::{Duration, Instant};

use crate::config::plan::AnswersAs;
use crate::field::modbus::frame::{EchoRule, Expect, Found, crc16, hunt};
use crate::plant::pdu::request_length;

/// No frame is longer (Modbus over Serial Line 1.02, section 2.5.1).
const FRAME_MAX: usize = 256;
/// Unit, function, CRC.
const FRAME_MIN: usize = 4;

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// When it began.
    pub at: Instant,
    /// From its first byte to its last.
    pub took: Duration,
    /// By whom.
    pub by: Speaker,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Who says something on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The one who asks.
    Master,
    /// A unit that was asked.
    Unit,
    /// Nobody who could be understood.
    Noise,
}

/// What was heard and is not over yet.
#[derive(Debug, Default)]
pub struct Ear {
    bytes: Vec<u8>,
    times: Vec<Instant>,
    asked: Option<(Vec<u8>, Option<Expect>)>,
}

impl Ear {
    /// Has a frame begun?
    pub fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Bytes came.
    pub fn hear(&mut self, at: Instant, bytes: &[u8]) -> Vec<Said> {
        self.bytes.extend_from_slice(bytes);
        self.times.resize(self.bytes.len(), at);
        let mut said = Vec::new();
        while let Some(next) = self.next() {
            said.push(next);
        }
        said
    }

    /// The line is still: what is there is over.
    pub fn pause(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while !self.bytes.is_empty() {
            let count = self.bytes.len();
            let is_frame = (FRAME_MIN..=FRAME_MAX).contains(&count) && has_crc(&self.bytes);
            // A function whose length nobody here knows: the silence tells where it ends.
            let speaker = match &self.asked {
                _ if !is_frame => Speaker::Noise,
                Some((request, None)) if request.first() == self.bytes.first() => Speaker::Unit,
                _ => Speaker::Master,
            };
            said.push(self.take(count, speaker));
        }
        said
    }

    /// The first thing that is over.
    fn next(&mut self) -> Option<Said> {
        let request = self.request();
        if let Some((asked, Some(expect))) = &self.asked {
            // An answer that begins right here; noise before it has to be over first.
            let answer = hunt(&self.bytes, asked, expect.answering_as(AnswersAs::Itself), EchoRule::Answer);
            if let Some(Found::Answer(range)) = answer
                && request.is_none_or(|(start, _)| range.start <= start)
            {
                return Some(self.split(range.start, range.end, Speaker::Unit));
            }
        }
        if let Some((start, end)) = request {
            return Some(self.split(start, end, Speaker::Master));
        }
        (self.bytes.len() > 2 * FRAME_MAX).then(|| self.take(FRAME_MAX, Speaker::Noise))
    }

    /// The first whole request.
    fn request(&self) -> Option<(usize, usize)> {
        (0..self.bytes.len()).find_map(|start| {
            let frame = &self.bytes[start..];
            let end = 1 + request_length(frame.get(1..)?)? + 2;
            frame.get(..end).filter(|frame| has_crc(frame)).map(|_| (start, start + end))
        })
    }

    /// A frame, or what is before it.
    fn split(&mut self, start: usize, end: usize, by: Speaker) -> Said {
        if start > 0 { self.take(start, Speaker::Noise) } else { self.take(end, by) }
    }

    fn take(&mut self, count: usize, by: Speaker) -> Said {
        let bytes: Vec<u8> = self.bytes.drain(..count).collect();
        let times: Vec<Instant> = self.times.drain(..count).collect();
        let at = times[0];
        match by {
            Speaker::Master => {
                let body = &bytes[..bytes.len() - 2];
                self.asked = Some((bytes.clone(), Expect::of_request(body[0], &body[1..])));
            }
            Speaker::Unit => self.asked = None,
            Speaker::Noise => {}
        }
        Said { at, took: times[count - 1].saturating_duration_since(at), by, bytes }
    }
}

fn has_crc(frame: &[u8]) -> bool {
    frame.split_last_chunk::<2>().is_some_and(|(body, crc)| crc16(body).to_le_bytes() == *crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [body, &crc16(body).to_le_bytes()].concat()
    }

    /// What is understood, whatever the crumbs.
    fn understood(frames: &[Vec<u8>], crumb: usize) -> Vec<(Speaker, Vec<u8>)> {
        let (mut ear, mut said) = (Ear::default(), Vec::new());
        let now = Instant::now();
        for frame in frames {
            for bytes in frame.chunks(crumb) {
                said.extend(ear.hear(now, bytes));
            }
            said.extend(if ear.is_waiting() { ear.pause() } else { Vec::new() });
        }
        said.into_iter().map(|said| (said.by, said.bytes)).collect()
    }

    #[test]
    fn questions_and_answers_are_told_apart_in_crumbs_of_any_size() {
        use Speaker::{Master, Noise, Unit};
        let talk = [
            (Master, frame(&[1, 3, 0, 0, 0, 2])),
            (Unit, frame(&[1, 3, 4, 0, 1, 0, 2])),
            (Master, frame(&[9, 3, 0, 0, 0, 1])),  // is dead
            (Master, frame(&[9, 3, 0, 0, 0, 1])),  // asked again
            (Master, frame(&[1, 1, 0, 0, 0, 20])), // its answer has the length of a request
            (Unit, frame(&[1, 1, 3, 0xFF, 0, 1])),
            (Master, frame(&[2, 6, 0, 7, 0, 2])),
            (Unit, frame(&[2, 6, 0, 7, 0, 2])),
            (Noise, vec![0xFF, 0x00]),
            (Master, frame(&[2, 16, 0, 7, 0, 1, 2, 0, 9])),
            (Unit, frame(&[2, 0x90, 6])),
            (Master, frame(&[3, 17])),
            (Unit, frame(&[3, 17, 3, 1, 2, 0xFF])),
        ];
        let frames: Vec<_> = talk.iter().map(|(_, bytes)| bytes.clone()).collect();
        for crumb in [1, 3, 300] {
            assert_eq!(understood(&frames, crumb), talk, "crumbs of {crumb}");
        }
    }

    #[test]
    fn noise_before_a_question_does_not_hide_it() {
        let bytes = [vec![7, 7], frame(&[1, 3, 0, 0, 0, 1]), frame(&[1, 3, 2, 0, 5])].concat();
        let speakers: Vec<_> = understood(&[bytes], 4).into_iter().map(|(speaker, _)| speaker).collect();
        assert_eq!(speakers, [Speaker::Noise, Speaker::Master, Speaker::Unit]);
    }

    proptest::proptest! {
        #[test]
        fn every_byte_comes_out_again_in_its_order(chunks: Vec<Vec<u8>>) {
            let mut ear = Ear::default();
            let mut said: Vec<u8> = Vec::new();
            for chunk in &chunks {
                said.extend(ear.hear(Instant::now(), chunk).into_iter().flat_map(|said| said.bytes));
            }
            said.extend(ear.pause().into_iter().flat_map(|said| said.bytes));
            proptest::prop_assert_eq!(said, chunks.concat());
        }
    }
}
