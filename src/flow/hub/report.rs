//! How a device stands, and its counts: what the live side is told of it, newest only.

use std::time::Duration;

use crate::model::tag::DeviceIx;
use crate::model::time::Stamp;

/// How a device stands (retained on `ironbridge/<gateway>/device/<device>`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Answers.
    Answering,
    /// One failure; asked once more.
    Suspect,
    /// Two failures or no connection; probed with backoff.
    Down,
    /// Somebody wants it left alone; nothing is sent to it.
    Paused,
}

impl Standing {
    /// The word in the payload.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answering => "answering",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Paused => "paused",
        }
    }
}

/// A device's state and error counts since start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// Which device.
    pub device: DeviceIx,
    /// Its standing now.
    pub standing: Standing,
    /// Last valid answer, if there was one.
    pub last_success: Option<Stamp>,
    /// Requests sent.
    pub requests: u64,
    /// No answer in time.
    pub timeouts: u64,
    /// Modbus exceptions.
    pub exceptions: u64,
    /// Broken frames, wrong lengths, lost connections.
    pub errors: u64,
    /// How its line and its answers were.
    pub diagnosis: Diagnosis,
}

impl DeviceReport {
    /// Of one that was never asked anything.
    pub fn unasked(device: DeviceIx, standing: Standing) -> Self {
        let (requests, timeouts, exceptions, errors) = (0, 0, 0, 0);
        let diagnosis = Diagnosis::default();
        Self { device, standing, last_success: None, requests, timeouts, exceptions, errors, diagnosis }
    }
}

/// What a person at the cabinet wants to know of a device; counts since start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// How long its answers take; `None` before the first.
    pub response: Option<Percentiles>,
    /// Frames that looked like its answer up to their check sum.
    pub crc: u64,
    /// Whole frames that answered another question.
    pub stale: u64,
    /// Bytes that belonged to no frame.
    pub garbage: u64,
    /// Whole frames of another unit while it was asked: of somebody else on the line, or it has another unit id.
    pub foreign: u64,
    /// Periods of its polls that were missed.
    pub skipped: u64,
    /// Exceptions by code, those that came.
    pub exception_codes: Vec<(u8, u64)>,
    /// How busy its bus was lately, percent of its time.
    pub bus_load: u8,
}

/// How long answers took, wire included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 95 of 100.
    pub p95: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// None took longer.
    pub longest: Duration,
}
