//! The number of a stored sample: stream (its class), epoch, seq.
//!
//! A receiver that keys on (gateway, stream, epoch, seq) has each sample exactly once.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Order of sending (most urgent first), reverse order of eviction, unit of routing; also the name of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Sent first, evicted last.
    Alarm = 0,
    /// Events and command results.
    Event = 1,
    /// Ordinary tags.
    Telemetry = 2,
    /// Sent last, evicted first.
    Bulk = 3,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 4] = [Self::Alarm, Self::Event, Self::Telemetry, Self::Bulk];

    /// The word in config and payloads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Event => "event",
            Self::Telemetry => "telemetry",
            Self::Bulk => "bulk",
        }
    }

    /// The class with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The class with this stored code (0..=3).
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u8 == code)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One `T` for each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerClass<T>([T; Class::ALL.len()]);

impl<T> PerClass<T> {
    /// What it says of each class.
    pub fn of(each: impl FnMut(Class) -> T) -> Self {
        Self(Class::ALL.map(each))
    }

    /// Each class with its own, most urgent first.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &T)> {
        Class::ALL.into_iter().zip(&self.0)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Class, &mut T)> {
        Class::ALL.into_iter().zip(&mut self.0)
    }

    /// All of them, most urgent first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// The same, without the rest.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.0.into_iter()
    }
}

impl<T> From<[T; Class::ALL.len()]> for PerClass<T> {
    /// Most urgent first.
    fn from(values: [T; Class::ALL.len()]) -> Self {
        Self(values)
    }
}

impl<T> Index<Class> for PerClass<T> {
    type Output = T;

    fn index(&self, class: Class) -> &T {
        &self.0[class as usize]
    }
}

impl<T> IndexMut<Class> for PerClass<T> {
    fn index_mut(&mut self, class: Class) -> &mut T {
        &mut self.0[class as usize]
    }
}

/// One life of a stream: random, 1 ..= 2^53 - 1, so that it is exact in JSON readers that only know doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Position within an epoch; starts at 1, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// The full number of one stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// The class whose stream this is.
    pub stream: Class,
    /// The life of that stream.
    pub epoch: Epoch,
    /// The position in it.
    pub seq: Seq,
}
