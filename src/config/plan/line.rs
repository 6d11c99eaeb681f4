//! The parts of the plan that only a bus of type `line` has: how its bytes become frames, and what its instruments say.

use std::time::Duration;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// A compiled pattern may take this much memory; patterns of people take a few thousand bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A bus of type `line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePlan {
    /// `mode`
    pub mode: LineMode,
    /// Where a frame begins and ends.
    pub cut: FrameCut,
    /// `max_frame`: longest frame, bytes, 1 ..= 4096.
    pub max_frame: usize,
    /// `checksum`, if frames have one.
    pub checksum: Option<ChecksumPlan>,
}

/// `mode`: who begins to talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineMode {
    /// Each device is asked with its `send`.
    Poll,
    /// Instruments speak by themselves.
    Listen,
}

/// Where a frame ends; what marks it is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameCut {
    /// `frame_end`, with `frame_start` or without (then empty): 1 ..= 8 bytes.
    Marks {
        /// Before the frame; what comes ahead of it is noise.
        start: Vec<u8>,
        /// Behind it.
        end: Vec<u8>,
    },
    /// `frame_length`, behind `frame_start` if that is not empty.
    Length {
        /// Before the frame.
        start: Vec<u8>,
        /// Its bytes: 1 ..= `max_frame`.
        length: usize,
    },
    /// `frame_idle`: silence ends it. 1 ms ..= 10 s.
    Idle(Duration),
}

/// A checksum and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecksumPlan {
    /// `checksum`
    pub kind: ChecksumKind,
    /// `checksum_form`
    pub form: ChecksumForm,
    /// `checksum_after`: what stands between the bytes that count and the checksum; may be empty.
    pub after: Vec<u8>,
    /// `checksum_place`
    pub place: ChecksumPlace,
}

impl ChecksumPlan {
    /// Bytes of the checksum on the wire.
    pub const fn width(&self) -> usize {
        let bytes = match self.kind {
            ChecksumKind::Xor | ChecksumKind::Sum8 | ChecksumKind::Lrc => 1,
            ChecksumKind::Crc16Modbus | ChecksumKind::Crc16Ccitt => 2,
        };
        match self.form {
            ChecksumForm::Binary => bytes,
            ChecksumForm::Hex => 2 * bytes,
        }
    }
}

/// How a checksum is worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// All bytes with exclusive or (NMEA 0183, and most block check characters).
    Xor,
    /// The sum, its low byte.
    Sum8,
    /// The sum's two's complement (Modbus over Serial Line 1.02, section 2.5.2.2).
    Lrc,
    /// Polynomial 0xA001 from 0xFFFF; binary: low byte first (same document, section 2.5.1.2).
    Crc16Modbus,
    /// Polynomial 0x1021 from 0xFFFF; binary: high byte first (CRC-16/IBM-3740, often called CCITT-FALSE).
    Crc16Ccitt,
}

/// How a checksum is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumForm {
    /// As bytes.
    Binary,
    /// As hexadecimal digits, high digit first.
    Hex,
}

/// Where a checksum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumPlace {
    /// At the end of what lies between the marks; what is before it counts.
    Inside,
    /// Behind `frame_end`, which counts too: STX … ETX BCC.
    Behind,
}

/// What a device on a line bus is asked and how its answers are read.
#[derive(Debug, Clone, PartialEq)]
pub struct TalkPlan {
    /// `send`; empty on a bus that listens.
    pub send: Vec<u8>,
    /// `match`: the first that fits a frame counts. 1 ..= 32.
    pub patterns: Vec<Pattern>,
    /// `status`
    pub status: Option<StatusPlan>,
    /// `example`: what the device says, without marks and checksums. At most 16.
    pub examples: Vec<Vec<u8>>,
}

/// `status = { field = "state", good = ["S"], uncertain = ["D"] }`: every text that is not listed is bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusPlan {
    /// The group of the pattern that holds it.
    pub field: String,
    /// Texts that mean a good value.
    pub good: Vec<String>,
    /// Texts that mean a value with a doubt.
    pub uncertain: Vec<String>,
}

/// A regular expression over the bytes of a frame, with named groups. It must fit the whole frame: of "12.5 g" with noise
/// before it, or cut in the middle, "2.5 g" would be a wrong value that looks well.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Fits whole frames only.
    regex: Regex,
    /// As it is written.
    alone: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Pattern {
    /// Reads one; the error is for people. Frames are bytes: `\d` and its like are those of ASCII.
    pub fn new(text: &str) -> Result<Self, String> {
        let build = |text: &str| RegexBuilder::new(text).unicode(false).size_limit(PATTERN_BYTES_MAX).build();
        let alone = build(text).map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("is no regular expression: {}", last.trim_start_matches("error: "))
        })?;
        if alone.capture_names().flatten().next().is_none() {
            return Err("has no named group: nothing of a frame would become a value".to_owned());
        }
        // A comment of (?x) may stand at its end.
        let whole = build(&format!(r"\A(?:{text})\z")).or_else(|_| build(&format!("\\A(?:{text}\n)\\z")));
        Ok(Self { regex: whole.map_err(|_| "is too long")?, alone })
    }

    /// Names of its groups.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.regex.capture_names().flatten()
    }

    /// Has it a group of this name?
    pub fn has(&self, field: &str) -> bool {
        self.fields().any(|name| name == field)
    }

    /// The part of a frame that it would fit, if parts were enough.
    pub fn part<'f>(&self, frame: &'f [u8]) -> Option<&'f [u8]> {
        self.alone.find(frame).map(|found| found.as_bytes())
    }

    /// What its groups hold in a frame; `None`: the frame is another one.
    pub fn read<'f>(&self, frame: &'f [u8]) -> Option<Captures<'f>> {
        self.regex.captures(frame)
    }
}
