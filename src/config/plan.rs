//! The plan: what the checked configuration means. Immutable; every room is given its part of it.
//!
//! Everything here is resolved: addresses are zero-based, topics are built, profiles are expanded, paths are absolute,
//! defaults are filled in. What cannot be expressed here cannot reach the field.
//!
//! A file for each part: `lookup` where things are · `bus` (`line`: of type line only), `device`, `habits` of both, `tag`,
//! `condition` what is watched of a tag · `listener` the broker's doors, `mqtt_sn` those for sensors, `page` the status page ·
//! `uplink` (`sparkplug`: as an edge node), `bridging` messages of clients on their way to other brokers.

use std::path::PathBuf;
use std::time::Duration;

mod bridging;
mod bus;
mod condition;
mod device;
mod habits;
mod line;
mod listener;
mod lookup;
mod mqtt_sn;
mod page;
mod sparkplug;
mod tag;
mod uplink;

pub use bridging::{BridgePlan, DownPlan, ForwardPlan, Notifications, OutPlan, ReceiveQos, RetainHere};
pub use bus::{
    BusLink, BusPlan, Carrier, Echo, Framing, Level, Network, Parity, PortPlan, Rs485, SerialPlan, TlsCarrier,
};
pub use condition::{AlarmPlan, Compression, Freshness};
pub use device::DevicePlan;
pub use habits::{AnswersAs, Extent, Grouping, Habits, Keep, Manners, RETRIES, TURNAROUND, Territory, Verdict};
pub use line::{
    ChecksumForm, ChecksumKind, ChecksumPlace, ChecksumPlan, FrameCut, LineMode, LinePlan, Pattern, StatusPlan,
    TalkPlan,
};
pub use listener::{
    Anonymous, BrokerLimits, ClientCertificate, Listen, ListenerPlan, ListenerTls, Rate, WebsocketPlan,
};
pub use mqtt_sn::{
    AddressRange, AdvertisePlan, Entrance, MqttSnPlan, SENSOR_ID_BYTES_MAX, SensorPlan, UnaskedPlan, admits,
};
pub use page::PagePlan;
pub use sparkplug::{Datatypes, HOST_TIMEOUT, SparkplugPlan};
pub use tag::{Derivation, Limits, Scale, Source, TagPlan, ValueMap, Verify, WriteFunction, WritePlan};
pub use uplink::{
    BATCH_SAMPLES, Bind, Budget, Compress, Delivery, Downlink, Format, KEEP_ALIVE_MIN_V5, LOCAL_URL, Layout,
    MqttVersion, Overrun, PathPlan, Period, Preset, ProxyKind, ProxyPlan, Schedule, ServerPlan, Transport, UplinkPlan,
    UplinkStart, UplinkTlsPlan, Use,
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
    /// `[status]`; `None`: there is no status page.
    pub status: Option<PagePlan>,
    /// `[[uplink]]`
    pub uplinks: Vec<UplinkPlan>,
    /// `[[forward]]`, in order: the first whose filter matches counts.
    pub forwards: Vec<ForwardPlan>,
    /// `[[bridge]]`
    pub bridges: Vec<BridgePlan>,
    /// `[[bus]]`; [`crate::model::tag::BusIx`] is the position.
    pub buses: Vec<BusPlan>,
    /// `[[device]]`; [`crate::model::tag::DeviceIx`] is the position.
    pub devices: Vec<DevicePlan>,
    /// `[[device.tag]]` and the tags of profiles, device by device; [`crate::model::tag::TagIx`] is the position.
    pub tags: Vec<TagPlan>,
}

impl Plan {
    /// A gateway of this name that has nothing to do: no bus, no uplink, no door, and its data nowhere.
    pub fn empty(gateway: &str) -> Self {
        Self {
            gateway: GatewayPlan {
                name: gateway.to_owned(),
                data_dir: "/nonexistent".into(),
                time_source: TimeTrust::Auto,
                trial: None,
            },
            store: StorePlan { max_size: 8 << 20, max_age: None, commit_interval: Duration::from_secs(1) },
            broker: BrokerPlan {
                listeners: Vec::new(),
                limits: BrokerLimits::default(),
                users_file: None,
                acl: Vec::new(),
                sessions: SessionsPlan::default(),
            },
            status: None,
            uplinks: Vec::new(),
            forwards: Vec::new(),
            bridges: Vec::new(),
            buses: Vec::new(),
            devices: Vec::new(),
            tags: Vec::new(),
        }
    }
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
    /// `rollback`, `rollback_after`: how long a reloaded configuration is on trial; after that the one before is back if
    /// what was touched is worse off. `None`: never. 5 s ..= 10 min.
    pub trial: Option<Duration>,
}

/// `time_source`: who vouches for the wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TimeTrust {
    /// `auto`: systemd-timesyncd or chronyd, whichever runs; the system itself where neither does, which is noted.
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
    /// How much of everything a client, or all of them, may have.
    pub limits: BrokerLimits,
    /// `users_file`: who may log in with name and password.
    pub users_file: Option<PathBuf>,
    /// `[[broker.acl]]`
    pub acl: Vec<AclPlan>,
    /// Bounds of sessions that outlive their connections.
    pub sessions: SessionsPlan,
}

/// `[broker]`: bounds of sessions that outlive their connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionsPlan {
    /// Bytes on disk that one session may be owed. 64 KiB ..= 1 GiB.
    pub session_max_size: u64,
    /// Bytes on disk that all of them may be owed, with a [share](Self::share) set aside for each. 64 KiB ..= 4 GiB.
    pub sessions_max_size: u64,
    /// How many there may be. 1 ..= 10000.
    pub max_sessions: usize,
    /// How long one may live without a connection, seconds. 1 min ..= 10 years.
    pub session_expiry_max: u32,
}

/// No share is larger, bytes.
const SHARE_MAX: u64 = 256 << 10;

impl SessionsPlan {
    /// What each session may be owed though all together have reached their bound, bytes: so few that fill it take nothing from
    /// those that keep up. All shares together are at most half of `sessions_max_size`; it is passed at most by those of
    /// sessions that began when it had been reached.
    pub fn share(&self) -> u64 {
        let part = self.sessions_max_size / 2 / (self.max_sessions.max(1) as u64);
        part.min(SHARE_MAX).min(self.session_max_size)
    }
}

impl Default for SessionsPlan {
    fn default() -> Self {
        Self {
            session_max_size: 16 << 20,
            sessions_max_size: 64 << 20,
            max_sessions: 1000,
            session_expiry_max: 30 * 24 * 3600,
        }
    }
}

/// `[[broker.acl]]`
#[derive(Debug, Clone, PartialEq)]
pub struct AclPlan {
    /// A user, `*` for everyone who has a name, `anonymous`, or `cert:` and the name of a certificate.
    pub user: String,
    /// Filters that may be subscribed to.
    pub read: Vec<String>,
    /// Filters that may be published on.
    pub write: Vec<String>,
    /// Devices that may be paused, polled and reset.
    pub operate: Vec<String>,
}
