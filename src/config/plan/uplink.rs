//! `[[uplink]]` in the plan: brokers upstream, the ways to reach them, what they are owed and what that may cost.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{DownPlan, Notifications, SparkplugPlan};
use crate::model::number::Class;

/// The URL of the gateway's own broker.
pub const LOCAL_URL: &str = "local:";

/// `batch_samples` of the format batch when it is not written.
pub const BATCH_SAMPLES: u32 = 10_000;

/// `session_expiry` when it is not written: a long weekend, and a week to notice it.
const SESSION_EXPIRY: Duration = Duration::from_secs(7 * 86_400);

/// `[[uplink]]`
#[derive(Debug, Clone, PartialEq)]
pub struct UplinkPlan {
    /// Unique; names its cursor in the store.
    pub name: String,
    /// `url` or `urls`: at least one, tried in this order, from the first again after the last.
    pub servers: Vec<ServerPlan>,
    /// TLS files; `None` when no server speaks TLS.
    pub tls: Option<UplinkTlsPlan>,
    /// `proxy`: all paths go through it.
    pub proxy: Option<ProxyPlan>,
    /// MQTT client id.
    pub client_id: String,
    /// User name, if any.
    pub username: Option<String>,
    /// File with the password (trailing newline ignored), read at each connect.
    pub password_file: Option<PathBuf>,
    /// `sas_key_file`: the device key from which Azure's tokens are made; only with the preset azure.
    pub sas_key_file: Option<PathBuf>,
    /// `mqtt_version`
    pub mqtt_version: MqttVersion,
    /// `preset`
    pub preset: Preset,
    /// `format`
    pub format: Format,
    /// `layout`, for the format json.
    pub layout: Layout,
    /// The topic template of `[gateway]`: the layout device makes its topics of it.
    pub topic_template: String,
    /// `batch_samples`: at most so many records in one publish. 1 ..= 60 000; default 1 for json, 10 000 for batch.
    pub batch_samples: u32,
    /// `batch_interval`: how long a publish that is not full waits for more. 0 ..= 1 h; default 0: what was committed
    /// together goes together.
    pub batch_interval: Duration,
    /// `compress`, for json and sparkplug; the format batch is always compressed.
    pub compress: Compress,
    /// Put before every upstream topic as it stands (usually ends with `/`, may be empty).
    pub topic_prefix: String,
    /// `delivery`
    pub delivery: Delivery,
    /// Which classes it is owed.
    pub classes: Vec<Class>,
    /// Where a new uplink begins.
    pub start: UplinkStart,
    /// `max_rate`, wire bytes per second. 128 ..= 1 GiB.
    pub max_rate: Option<u64>,
    /// `budget`, wire bytes of all paths together; at most one of each period.
    pub budgets: Vec<Budget>,
    /// `reserve`: part of each budget that only alarms and live values may use. 0.0 ..= 0.9; default 0.2.
    pub reserve: f64,
    /// `overrun`
    pub overrun: Overrun,
    /// MQTT keep alive, 1 s ..= 18 h; over MQTT 5 at least [`KEEP_ALIVE_MIN_V5`].
    pub keep_alive: Duration,
    /// `commands`
    pub commands: Downlink,
    /// `[[uplink.down]]`: topics that come down. Never together with `commands`: what waited upstream must not be one.
    pub downs: Vec<DownPlan>,
    /// `session_expiry`: how long the broker upstream keeps what comes down while the link is down. 1 min ..= 365 d.
    pub session_expiry: Duration,
    /// The edge node that it is: with the format sparkplug, and never without it.
    pub sparkplug: Option<SparkplugPlan>,
    /// What it is there for.
    pub usage: Use,
    /// `summary_after`: after an outage that left a backlog this long, one summary per tag (min, max, mean, last) goes
    /// before the raw samples. `None`: never. 1 min ..= 30 d.
    pub summary_after: Option<Duration>,
    /// `[[uplink.path]]`, cheapest first; empty: whatever the system routes.
    pub paths: Vec<PathPlan>,
}

impl UplinkPlan {
    /// Does it lead to the embedded broker of this gateway?
    pub fn is_local(&self) -> bool {
        self.servers.iter().any(|server| server.transport == Transport::Local)
    }

    /// The default of every key; without servers yet.
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            servers: Vec::new(),
            tls: None,
            proxy: None,
            client_id: name.to_owned(),
            username: None,
            password_file: None,
            sas_key_file: None,
            mqtt_version: MqttVersion::default(),
            preset: Preset::default(),
            format: Format::default(),
            layout: Layout::default(),
            topic_template: "{gateway}/{device}/{tag}".to_owned(),
            batch_samples: 1,
            batch_interval: Duration::ZERO,
            compress: Compress::default(),
            topic_prefix: String::new(),
            delivery: Delivery::default(),
            classes: Class::ALL.to_vec(),
            start: UplinkStart::default(),
            max_rate: None,
            budgets: Vec::new(),
            reserve: 0.2,
            overrun: Overrun::default(),
            keep_alive: Duration::from_secs(60),
            commands: Downlink::default(),
            downs: Vec::new(),
            session_expiry: SESSION_EXPIRY,
            sparkplug: None,
            usage: Use::default(),
            summary_after: None,
            paths: Vec::new(),
        }
    }
}

/// What an uplink is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Use {
    /// Samples and events.
    #[default]
    Records,
    /// These, and clients' messages (`[[forward]]`): numbers beside those need MQTT 5, which is not given up for speed.
    Letters,
    /// The connection of a bridge: clients' messages as they are, and nothing of the gateway's own; `None`: it tells
    /// nobody its state.
    Bridge(Notifications),
}

/// One broker of `urls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPlan {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What is spoken there.
    pub transport: Transport,
}

impl fmt::Display for ServerPlan {
    /// As a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.transport {
            Transport::Tcp => ("mqtt", ""),
            Transport::Tls => ("mqtts", ""),
            Transport::Websocket { path } => ("ws", path.as_str()),
            Transport::SecureWebsocket { path } => ("wss", path.as_str()),
            Transport::Quic => ("quic", ""),
            Transport::Local => return f.write_str(LOCAL_URL),
        };
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{}{}{}:{}{path}", brackets.0, self.host, brackets.1, self.port)
    }
}

/// The scheme of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// `mqtt://`, port 1883.
    Tcp,
    /// `mqtts://`, port 8883.
    Tls,
    /// `ws://host/path`, port 80.
    Websocket {
        /// With its leading slash; `/mqtt` when the URL has none.
        path: String,
    },
    /// `wss://host/path`, port 443.
    SecureWebsocket {
        /// With its leading slash; `/mqtt` when the URL has none.
        path: String,
    },
    /// `quic://`, UDP port 14567.
    Quic,
    /// `local:`: the embedded broker of this gateway, without a network between; host and port say nothing.
    Local,
}

impl Transport {
    /// Is TLS spoken?
    pub const fn is_secure(&self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebsocket { .. } | Self::Quic)
    }
}

/// TLS files of an uplink: paths only, read at each connect, so that a renewed certificate is simply used.
#[derive(Debug, Clone, PartialEq)]
pub struct UplinkTlsPlan {
    /// PEM bundle of trusted CAs.
    pub ca_file: PathBuf,
    /// Client certificate chain and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `proxy = "http://proxy:3128"` or `"socks5://proxy:1080"`, with `proxy_username` and `proxy_password_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPlan {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Host name or address.
    pub host: String,
    /// Port; 3128 for http, 1080 for socks5 when the URL has none.
    pub port: u16,
    /// User name, if any.
    pub username: Option<String>,
    /// File with its password, read at each connect.
    pub password_file: Option<PathBuf>,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928), names resolved by the proxy.
    Socks5,
}

/// `mqtt_version`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// `auto`: 5, and 3.1.1 where the broker refuses 5.
    #[default]
    Auto,
    /// `3.1.1`
    V311,
    /// `5`
    V5,
}

/// A shorter `keep_alive` is taken for this over MQTT 5: the client knows no shorter one there.
pub const KEEP_ALIVE_MIN_V5: Duration = Duration::from_secs(5);

/// `preset`: the published limits of a cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// None but MQTT's own.
    #[default]
    Plain,
    /// AWS IoT Core.
    Aws,
    /// Azure IoT Hub.
    Azure,
    /// HiveMQ Cloud.
    HiveMq,
    /// EMQX Cloud.
    Emqx,
}

/// `format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// JSON text.
    #[default]
    Json,
    /// Columns in protobuf, compressed.
    Batch,
    /// Sparkplug B 3.0, as an edge node.
    Sparkplug,
}

/// `layout` of json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// A message per sample.
    #[default]
    Tag,
    /// A message per device, poll and class.
    Device,
}

/// `compress`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// As it is.
    #[default]
    None,
    /// zstd (RFC 8878).
    Zstd,
    /// gzip (RFC 1952), as `SPBV1.0_COMPRESSED`; of sparkplug only.
    Gzip,
}

/// `delivery`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Everything in order.
    #[default]
    Strict,
    /// New values at once, the backlog beside them.
    LiveFirst,
}

/// `start`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UplinkStart {
    /// A new uplink is owed what is stored from now on.
    #[default]
    Now,
    /// A new uplink is owed everything the store still holds.
    Oldest,
}

/// `"200MiB/month"`: wire bytes, TLS and TCP included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes, at least 64 KiB.
    pub bytes: u64,
    /// Per what.
    pub period: Period,
}

/// Calendar periods in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// `day`
    Day,
    /// `month`
    Month,
}

/// `overrun`: what happens at 100 % of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overrun {
    /// Nothing is sent until the next period.
    #[default]
    Stop,
    /// Alarms are, up to 10 % more.
    Alarms,
}

/// `commands`: whether writes are accepted from an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Downlink {
    /// Nothing is subscribed to.
    #[default]
    Refused,
    /// The `…/set` topics below `topic_prefix` are.
    Accepted,
}

/// `[[uplink.path]]`
#[derive(Debug, Clone, PartialEq)]
pub struct PathPlan {
    /// Unique in its uplink.
    pub name: String,
    /// `interface` or `source`.
    pub bind: Bind,
    /// What may go this way; all classes of the uplink when it is not written.
    pub classes: Vec<Class>,
    /// `budget` of this way alone.
    pub budgets: Vec<Budget>,
    /// `max_rate` of this way alone, wire bytes per second.
    pub max_rate: Option<u64>,
    /// `schedule`; `None`: always.
    pub schedule: Option<Schedule>,
    /// `price`: money per MiB, in whatever currency the bill comes. For `ironbridge cost`.
    pub price_per_mib: Option<f64>,
}

/// What the sockets of a path are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// Whatever the system routes.
    System,
    /// A network interface by name.
    Interface(String),
    /// A local address.
    Source(IpAddr),
}

/// `"*/15min for 2min"`: from each full multiple of `every` since midnight UTC, for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// 1 min ..= 1 d.
    pub every: Duration,
    /// 10 s ..= `every`.
    pub lasts: Duration,
}
