//! What a poll yields after the pipeline: samples, and a batch of them per device and poll.

use super::quality::Quality;
use super::tag::{DeviceIx, TagIx};
use super::time::Stamp;
use super::value::Value;

/// Value, quality and time of one tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which tag of the running plan.
    pub tag: TagIx,
    /// The value after scaling; `None` when there is none.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
    /// When the device's reply arrived (or when it was given up).
    pub at: Stamp,
}

/// Samples of one device from one poll, sorted bytewise by tag name.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The device that was polled.
    pub device: DeviceIx,
    /// At least one sample.
    pub samples: Vec<Sample>,
}
