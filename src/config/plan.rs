//! The plan: what the checked configuration means. Immutable; every room is given its part of it.
//!
//! Everything here is resolved: addresses are zero-based, topics are built, profiles are expanded, paths are absolute,
//! defaults are filled in. What cannot be expressed here cannot reach the field.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::number::Class;
use crate::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Order};

mod uplink;

pub use uplink::{
    Bind, Budget, Compress, Delivery, Downlink, Format, Layout, MqttVersion, Overrun, PathPlan, Period, Preset,
    ProxyKind, ProxyPlan, Schedule, ServerPlan, Transport, UplinkPlan, UplinkStart, UplinkTlsPlan,
};

/// The whole of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[gateway]`
    pub gateway: GatewayPlan,
    /// `[store]`
    pub store: StorePlan,
    /// `[broker]`
    pub broker: BrokerPlan,
    /// `[[uplink]]`
    pub uplinks: Vec<UplinkPlan>,
    /// `[[bus]]`; [`BusIx`] is the position.
    pub buses: Vec<BusPlan>,
    /// `[[device]]`; [`DeviceIx`] is the position.
    pub devices: Vec<DevicePlan>,
    /// `[[device.tag]]` and the tags of profiles, device by device; [`crate::model::tag::TagIx`] is the position.
    pub tags: Vec<TagPlan>,
}

/// `[gateway]`
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayPlan {
    /// One topic level; `{hostname}` already replaced.
    pub name: String,
    /// Absolute.
    pub data_dir: PathBuf,
    /// `time_source`
    pub time_source: TimeTrust,
}

/// `time_source`: who vouches for the wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TimeTrust {
    /// `auto`: systemd-timesyncd or chronyd, whichever runs; the system itself where neither does.
    #[default]
    Auto,
    /// `system`: the system's clock is right, for instance from a battery-backed RTC.
    System,
    /// `file:/run/gps-locked`: it is right while this file is there.
    File(PathBuf),
}

/// `[store]`
#[derive(Debug, Clone, PartialEq)]
pub struct StorePlan {
    /// Hard cap on disk, bytes. At least 8 MiB.
    pub max_size: u64,
    /// Older records go, acknowledged or not. `None`: only `max_size` counts. 1 h ..= 10 years.
    pub max_age: Option<Duration>,
    /// What a power cut may cost at most. 100 ms ..= 60 s.
    pub commit_interval: Duration,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerPlan {
    /// At least one; the default is 127.0.0.1:1883 with anonymous read.
    pub listeners: Vec<ListenerPlan>,
    /// `[[broker.acl]]`
    pub acl: Vec<AclPlan>,
}

/// `[[broker.listener]]`
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// A literal loopback address in this version. Port 0: the system chooses (the bound address is logged).
    pub listen: SocketAddr,
    /// What clients without a name may do.
    pub anonymous: Anonymous,
}

/// What anonymous clients may do on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// They are refused at CONNECT.
    #[default]
    None,
    /// Read tag topics, client topics, `ironbridge/` and `$SYS/`.
    Read,
    /// And write client topics; never `…/set`, which needs its own ACL rule.
    ReadWrite,
}

/// `[[broker.acl]]`
#[derive(Debug, Clone, PartialEq)]
pub struct AclPlan {
    /// Only `anonymous` in this version.
    pub user: String,
    /// Filters that may be subscribed to.
    pub read: Vec<String>,
    /// Filters that may be published on.
    pub write: Vec<String>,
}

/// `[[bus]]`
#[derive(Debug, Clone, PartialEq)]
pub struct BusPlan {
    /// Unique.
    pub name: String,
    /// How to reach it.
    pub link: BusLink,
    /// How long a device may take to answer, wire time included. 10 ms ..= 60 s; default 1 s.
    pub response_timeout: Duration,
}

/// How a bus is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum BusLink {
    /// `modbus-tcp`: `host:port`, resolved at each connect.
    ModbusTcp {
        /// `host:port`
        endpoint: String,
    },
    /// `modbus-rtu`
    ModbusRtu {
        /// Device path, best below `/dev/serial/by-id/`.
        port: PathBuf,
        /// Line settings.
        serial: SerialPlan,
    },
}

/// `serial = "19200-8E1"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialPlan {
    /// Bits per second, 300 ..= 4 000 000.
    pub baud: u32,
    /// 7 or 8 (RTU: 8).
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl SerialPlan {
    /// Bits of one character on the wire: start, data, parity, stop.
    pub const fn bits_per_char(self) -> u8 {
        1 + self.data_bits + if matches!(self.parity, Parity::None) { 0 } else { 1 } + self.stop_bits
    }
}

/// Parity of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// N
    None,
    /// E
    Even,
    /// O
    Odd,
}

/// `[[device]]`
#[derive(Debug, Clone, PartialEq)]
pub struct DevicePlan {
    /// Unique.
    pub name: String,
    /// Its bus.
    pub bus: BusIx,
    /// 0 ..= 255 on TCP (0 and 255 are "the device itself"), 1 ..= 247 on a serial line.
    pub unit_id: u8,
    /// Its tags in [`Plan::tags`].
    pub tags: Range<usize>,
    /// Longest read, registers: 1 ..= 125.
    pub max_registers_per_read: u16,
    /// Pause between two requests to this device (SDM72-like meters reboot without it). Default zero.
    pub delay_between_requests: Duration,
}

/// `[[device.tag]]`
#[derive(Debug, Clone, PartialEq)]
pub struct TagPlan {
    /// Unique in its device.
    pub name: String,
    /// Its device.
    pub device: DeviceIx,
    /// The full local topic, unique.
    pub topic: Arc<str>,
    /// Zero-based place on the wire.
    pub address: Address,
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
