//! `[[device.tag]]` of the plan.

use std::sync::Arc;
use std::time::Duration;

use super::condition::{AlarmPlan, Compression, Freshness};
use crate::config::expression::Formula;
use crate::model::data_type::Kind;
use crate::model::number::Class;
use crate::model::registers::{BitField, Form, TextForm};
use crate::model::sunspec::{ModelPlace, ModelRef};
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
    /// The bits that are the value; only of binary integers. `None`: all.
    pub field: Option<BitField>,
    /// How the text of a `string(N)` lies in its bytes.
    pub text: TextForm,
    /// Raw values, order undone, that say "no value": null, bad, cause nan.
    pub nan: Vec<u64>,
    /// Raw to engineering value.
    pub scale: Scale,
    /// An int16 of the same device: the scaled value is multiplied by ten to its power.
    pub scale_from: Option<TagIx>,
    /// Whole numbers to words. Then the value is text, and there is no scale.
    pub map: Option<Arc<ValueMap>>,
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
    pub alarm: Option<Box<AlarmPlan>>,
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
            field: None,
            text: TextForm::default(),
            nan: Vec::new(),
            scale: Scale::IDENTITY,
            scale_from: None,
            map: None,
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
            write: WritePlan::default(),
            description: String::new(),
        }
    }

    /// Its place on the wire, if it always has the same.
    pub const fn register(&self) -> Option<Address> {
        match self.source {
            Source::Register(address) => Some(address),
            Source::Model(_) | Source::Derived(_) | Source::Field(_) => None,
        }
    }

    /// Its place among what is read with it: on the wire, or in its model, counted from the model's first register. Only
    /// together with [`Self::model`] does it say where the tag is.
    pub const fn place(&self) -> Option<Address> {
        match &self.source {
            Source::Register(address) => Some(*address),
            Source::Model(place) => Some(place.relative()),
            Source::Derived(_) | Source::Field(_) => None,
        }
    }

    /// The SunSpec model it is in, if it is in one.
    pub const fn model(&self) -> Option<ModelRef> {
        match &self.source {
            Source::Model(place) => Some(place.model),
            Source::Register(_) | Source::Derived(_) | Source::Field(_) => None,
        }
    }

    /// The same tag where it is on the wire when its model begins at this register and has so many; one with an address of its
    /// own is there already. `None`: the model ends before it.
    pub fn settled(&self, model_start: u16, registers: u32) -> Option<Self> {
        match &self.source {
            Source::Model(place) if u32::from(place.offset) + u32::from(self.data_type.registers()) > registers => None,
            Source::Model(place) => Some(Self { source: Source::Register(place.at(model_start)?), ..self.clone() }),
            Source::Register(_) | Source::Derived(_) | Source::Field(_) => Some(self.clone()),
        }
    }

    /// Its address as it would be written, zero-based.
    pub fn address_text(&self) -> Option<String> {
        match &self.source {
            Source::Register(address) => Some(address.to_string()),
            Source::Model(place) => Some(place.to_string()),
            Source::Derived(_) | Source::Field(_) => None,
        }
    }

    /// Does it come from its device, and not from other tags?
    pub const fn is_of_device(&self) -> bool {
        !matches!(self.source, Source::Derived(_))
    }

    /// How its value lies in its registers.
    pub const fn form(&self) -> Form {
        Form { data_type: self.data_type, order: self.order, field: self.field, text: self.text }
    }

    /// What its engineering values are.
    pub fn kind(&self) -> Kind {
        if self.map.is_some() { Kind::Text } else { self.data_type.kind() }
    }
}

/// `map = { 0 = "off", 1 = "on" }`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValueMap {
    /// Raw numbers and their words, by number; no number twice.
    pub entries: Vec<(i128, Arc<str>)>,
}

impl ValueMap {
    /// The word of a number.
    pub fn word(&self, number: i128) -> Option<&str> {
        let at = self.entries.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.entries[at].1)
    }

    /// The number of a word.
    pub fn number(&self, word: &str) -> Option<i128> {
        self.entries.iter().find(|(_, known)| **known == *word).map(|(number, _)| *number)
    }
}

/// Where the value of a tag comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `address`: polled, at this zero-based place on the wire.
    Register(Address),
    /// `address = "sunspec:…"`: polled, wherever the device has put this model.
    Model(ModelPlace),
    /// `expression`: computed from other tags.
    Derived(Box<Derivation>),
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

/// `write = { function, min, max, verify, retry }`
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WritePlan {
    /// Which Modbus functions it uses.
    pub function: WriteFunction,
    /// Engineering limits of a command.
    pub limits: Limits,
    /// Read back and compare (default true where the tag can be read and does not move by itself).
    pub verify: Verify,
    /// How often a write that got no answer is sent again, 0 ..= 3. Whoever sets it says that writing twice does no harm.
    pub retries: u8,
}

/// `write.function`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteFunction {
    /// FC 5 for a coil, FC 6 for one register, FC 16 for more. A device that answers exception 1 to FC 5 or 6 has not done
    /// it and is asked with 15 or 16.
    #[default]
    Auto,
    /// FC 5 or 6, nothing else.
    Single,
    /// FC 15 or 16, also for one.
    Multiple,
    /// FC 22: the device changes some bits of a register by itself.
    Mask,
}

/// Whether a write is read back and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Read back; a difference is `failed: verify`.
    #[default]
    ReadBack,
    /// Trust the device's answer.
    TrustReply,
}
