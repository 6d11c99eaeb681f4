//! The targets: bytes in, a panic if a promise is broken.

mod ascii;
mod config;
mod conversation;
mod csv;
mod expression;
mod framer;
mod gate;
mod inbox;
mod payload;
mod question;
#[cfg(feature = "quic")]
mod quic;
#[cfg(feature = "mqtt-sn")]
mod sensors;
mod sparkplug;

/// What is fed.
#[derive(Clone, Copy)]
pub struct Target {
    /// How it is called; the directory of its corpus.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
    /// How many mutations a test run tries: a second or so.
    #[cfg_attr(feature = "fuzz", allow(dead_code, reason = "libFuzzer makes its own"))]
    pub mutations: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "inbox", run: inbox::run, mutations: 20_000 },
    Target { name: "gate", run: gate::run, mutations: 10_000 },
    Target { name: "ascii", run: ascii::run, mutations: 20_000 },
    Target { name: "framer", run: framer::run, mutations: 10_000 },
    Target { name: "csv", run: csv::run, mutations: 600 },
    Target { name: "config", run: config::run, mutations: 1_000 },
    Target { name: "expression", run: expression::run, mutations: 20_000 },
    Target { name: "payload", run: payload::run, mutations: 5_000 },
    Target { name: "sparkplug", run: sparkplug::run, mutations: 20_000 },
    Target { name: "conversation", run: conversation::run, mutations: 1_000 },
    #[cfg(feature = "quic")]
    Target { name: "quic", run: quic::run, mutations: 200 },
    #[cfg(feature = "mqtt-sn")]
    Target { name: "sensors", run: sensors::run, mutations: 20_000 },
];

/// Takes an input apart from the front; what is not there any more is zero.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Is there more?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// So many bytes at most.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        part
    }
}
