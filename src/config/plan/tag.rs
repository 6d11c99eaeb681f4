//! `[[device.tag]]` of the plan.

use std::sync::Arc;
use std::time::Duration;

use crate::config::expression::Formula;

use super::condition::{AlarmPlan, Compression, Freshness};
use crate::model::number::Class;
use crate::model::tag::{Access, Address, DataType, DeviceIx, Order, TagIx};

/// `[[device.tag]]`
#[derive(Debug, Clone, PartialEq)]
pub struct TagPlan {
    /// Unique in its device.
    pub name: String,
    /// Its device.
    pub device: DeviceIx,
    /// The full local topic, unique.
    pub topic: Arc<str>,
    /// Where its value comes from.
    pub source: Source,
    /// Type on the wire.
    pub data_type: DataType,
    /// Byte order.
    pub order: Order,
    /// Raw to engineering value.
    pub scale: Scale,
    /// Engineering unit, may be empty.
    pub unit: String,
    /// Group name, may be empty.
    pub group: String,
    /// Period of polling. 10 ms ..= 1 d.
    pub poll: Duration,
    /// A smaller change than this is no sample. `None`: every poll is one.
    pub deadband: Option<f64>,
    /// With a deadband: send anyway after this long. Default 5 min where a deadband is set.
    pub heartbeat: Option<Duration>,
    /// Keeps what a straight line does not tell; never with a deadband.
    pub compression: Option<Compression>,
    /// When it is no longer believed.
    pub freshness: Freshness,
    /// Limits that are worth an alarm.
    pub alarm: Option<AlarmPlan>,
    /// Outside `min..=max`: value kept, quality uncertain, cause range.
    pub limits: Limits,
    /// Its stream.
    pub class: Class,
    /// Who may do what.
    pub access: Access,
    /// Bounds on writes.
    pub write: WritePlan,
    /// For people.
    pub description: String,
}

impl TagPlan {
    /// A tag that has every default; its topic is its name.
    pub fn plain(name: &str, device: DeviceIx, address: Address, data_type: DataType) -> Self {
        Self {
            name: name.to_owned(),
            device,
            topic: Arc::from(name),
            source: Source::Register(address),
            data_type,
            order: Order::Abcd,
            scale: Scale::IDENTITY,
            unit: String::new(),
            group: String::new(),
            poll: Duration::from_secs(1),
            deadband: None,
            heartbeat: None,
            compression: None,
            freshness: Freshness::default(),
            alarm: None,
            limits: Limits::default(),
            class: Class::Telemetry,
            access: Access::Read,
            write: WritePlan { limits: Limits::default(), verify: Verify::ReadBack },
            description: String::new(),
        }
    }

    /// Its place on the wire, if it has one.
    pub const fn register(&self) -> Option<Address> {
        match self.source {
            Source::Register(address) => Some(address),
            Source::Derived(_) | Source::Field(_) => None,
        }
    }

    /// Does it come from its device, and not from other tags?
    pub const fn is_of_device(&self) -> bool {
        !matches!(self.source, Source::Derived(_))
    }
}

/// Where the value of a tag comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `address`: polled, at this zero-based place on the wire.
    Register(Address),
    /// `expression`: computed from other tags.
    Derived(Derivation),
    /// `field`: the group of this name in a frame of an instrument.
    Field(String),
}

/// `expression = "{pump-1/flow} * 0.5"`
#[derive(Debug, Clone, PartialEq)]
pub struct Derivation {
    /// As it was written.
    pub text: String,
    /// What it says.
    pub formula: Formula,
    /// The tags it names, in the order of [`Formula::names`]; never itself, directly or through others.
    pub inputs: Vec<TagIx>,
    /// `poll`: worked out this often. `None`: whenever one of its tags has news.
    pub every: Option<Duration>,
}

/// `value = raw * scale + offset`; `identity` keeps integers exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Factor; finite, not 0.
    pub factor: f64,
    /// Summand; finite.
    pub offset: f64,
}

impl Scale {
    /// No scaling.
    pub const IDENTITY: Self = Self { factor: 1.0, offset: 0.0 };
}

/// An inclusive range with open ends.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Smallest allowed value.
    pub min: Option<f64>,
    /// Largest allowed value.
    pub max: Option<f64>,
}

impl Limits {
    /// Is the number inside?
    pub fn contain(self, number: f64) -> bool {
        self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
    }
}

/// `write = { min, max, verify }`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WritePlan {
    /// Engineering limits of a command.
    pub limits: Limits,
    /// Read back and compare (default true where the tag can be read).
    pub verify: Verify,
}

/// Whether a write is read back and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Read back; a difference is `failed: verify`.
    ReadBack,
    /// Trust the device's answer.
    TrustReply,
}
