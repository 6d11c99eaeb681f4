//! How many connections at once, and how many new ones in a second: in all, and per address, so that one host cannot
//! take every place or keep the door busy.
//!
//! Loopback has no limits per address, since every local client comes from the same one; but this box's own clients leave some
//! places, and an eighth of every burst, for those from elsewhere. An IPv6 host may take any address of
//! its /64 (RFC 6177, section 2), and a whole plant may be in one: so what counts is the address, and beside it all of a /64
//! have half of the places, and of the rate, at most. The total stays below half of the file descriptors that the process may
//! have: the store and the field need theirs.
//!
//! A sensor has not shown that it is where it says, and may be silent for a day. So sensors have books of their own, in which an
//! address and a network may have as much as in the other, and all of them together half as many places, and half of the rate.
//! They take none of the others' places (nor file descriptors: all of a door have one): datagrams with invented addresses keep
//! nobody else out, wherever they claim to be from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use crate::access::network;
use crate::config::plan::{BrokerLimits, Rate};
use crate::model::lock::Hold as _;

/// A burst as long as this at the full rate is let through at once: after a power cut everybody comes back together.
const BURST: Duration = Duration::from_secs(5);

/// However fast this box's own clients come, what is left of it is for others.
const BURST_FROM_HERE: Duration = Duration::from_millis(4375);

/// Addresses are forgotten when there are more than this and some have long been silent.
const ADDRESSES: usize = 4096;

/// The limits and what they are held against; shared by all doors.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) total_max: usize,
    plan: BrokerLimits,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    connections: Book,
    sensors: Book,
}

/// Of one kind of clients.
#[derive(Debug, Default)]
struct Book {
    count: usize,
    flow: Flow,
    hosts: Origins,
    /// Of IPv6, and this box.
    networks: Origins,
}

/// Those with connections, or with some lately.
#[derive(Debug, Default)]
struct Origins(HashMap<IpAddr, Origin>);

#[derive(Debug, Default, Clone, Copy)]
struct Origin {
    count: usize,
    flow: Flow,
}

/// A leaky bucket, as the moment at which it will be empty.
#[derive(Debug, Default, Clone, Copy)]
struct Flow(Option<Instant>);

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    limits: Arc<Limits>,
    from: Source,
    whose: Whose,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    /// `None`: this box.
    host: Option<IpAddr>,
    network: Option<IpAddr>,
}

/// Who wants a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Somebody with a connection.
    Connection,
    /// Somebody who sends datagrams.
    Sensor,
}

impl Whose {
    /// There are as many of these as there may be.
    fn full(self) -> NoPlace {
        match self {
            Self::Connection => NoPlace::Full,
            Self::Sensor => NoPlace::FullOfSensors,
        }
    }
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("max_connections")]
    Full,
    #[error("half of max_connections, which is what sensors may have")]
    FullOfSensors,
    #[error("max_connections_per_address")]
    FullFromThere,
    #[error("max_connect_rate")]
    TooFast,
    #[error("half of max_connections, all from one network")]
    FullFromNetwork,
    #[error("max_connect_rate_per_address")]
    TooFastFromThere,
    #[error("half of max_connect_rate, all from one network")]
    TooFastFromNetwork,
    #[error("max_connections, but for what is left to clients from elsewhere")]
    FullFromHere,
}

impl Limits {
    /// By the plan, and the file descriptors that the process may have.
    pub(super) fn new(plan: BrokerLimits) -> Self {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let total_max = files.map_or(plan.connections, |files| plan.connections.min((files / 2).max(16)));
        if total_max < plan.connections {
            tracing::info!(total_max, "fewer connections than max_connections, file descriptors are limited");
        }
        Self { total_max, plan, inside: Mutex::default() }
    }

    /// A place for a connection from this address (`None`: this box), if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Pass, NoPlace> {
        self.take(address, Whose::Connection, now)
    }

    /// The same for a sensor.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its doors let any in"))]
    pub(super) fn admit_sensor(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Pass, NoPlace> {
        self.take(Some(address), Whose::Sensor, now)
    }

    fn take(self: &Arc<Self>, address: Option<IpAddr>, whose: Whose, now: Instant) -> Result<Pass, NoPlace> {
        let from = Source::new(address);
        let (of_all, of_host) = (self.of_all(whose), self.of_host());
        let of_network = if from.host.is_some() { self.of_network() } else { self.of_here() };
        let mut guard = self.lock();
        let book = guard.book(whose);
        if book.count >= of_all.count {
            return Err(whose.full());
        }
        let burst = if from.host.is_some() { BURST } else { BURST_FROM_HERE };
        if !book.flow.has_room(of_all.rate, now, burst) {
            return Err(NoPlace::TooFast);
        }
        let Source { host, network } = from;
        match host.map_or(Verdict::Room, |host| book.hosts.verdict(host, of_host, now)) {
            Verdict::Room => {}
            Verdict::Full => return Err(NoPlace::FullFromThere),
            Verdict::TooFast => return Err(NoPlace::TooFastFromThere),
        }
        if let Some(network) = network {
            match book.networks.verdict(network, of_network, now) {
                Verdict::Room => book.networks.add(network, of_network, now),
                Verdict::Full if host.is_none() => return Err(NoPlace::FullFromHere),
                Verdict::Full => return Err(NoPlace::FullFromNetwork),
                Verdict::TooFast => return Err(NoPlace::TooFastFromNetwork),
            }
        }
        if let Some(host) = host {
            book.hosts.add(host, of_host, now);
        }
        book.flow.add(of_all.rate, now);
        book.count += 1;
        drop(guard);
        Ok(Pass { limits: Arc::clone(self), from, whose })
    }

    /// Of one kind together.
    fn of_all(&self, whose: Whose) -> Bounds {
        let Rate(rate) = self.plan.rate;
        match whose {
            Whose::Connection => Bounds { count: self.total_max, rate: self.plan.rate },
            Whose::Sensor => Bounds { count: self.total_max.div_ceil(2), rate: Rate(rate.div_ceil(2)) },
        }
    }

    fn of_host(&self) -> Bounds {
        Bounds { count: self.plan.per_address, rate: self.plan.rate_per_address }
    }

    /// Half, though one host of it might have more: it has a network to itself.
    fn of_network(&self) -> Bounds {
        Bounds { count: (self.total_max / 2).max(1), rate: Rate((self.plan.rate.0 / 2).max(1)) }
    }

    /// Nearly all: on most boxes there are no others.
    fn of_here(&self) -> Bounds {
        Bounds { count: self.total_max - self.total_max / 128, rate: self.plan.rate }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.hold()
    }
}

impl Inside {
    fn book(&mut self, whose: Whose) -> &mut Book {
        match whose {
            Whose::Connection => &mut self.connections,
            Whose::Sensor => &mut self.sensors,
        }
    }
}

/// What one origin, or all of one kind, may have.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    count: usize,
    rate: Rate,
}

/// Is there room for one more from there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Room,
    Full,
    TooFast,
}

impl Origins {
    fn verdict(&self, from: IpAddr, bounds: Bounds, now: Instant) -> Verdict {
        match self.0.get(&from) {
            Some(origin) if origin.count >= bounds.count => Verdict::Full,
            Some(origin) if !origin.flow.has_room(bounds.rate, now, BURST) => Verdict::TooFast,
            _ => Verdict::Room,
        }
    }

    fn add(&mut self, from: IpAddr, bounds: Bounds, now: Instant) {
        if self.0.len() > ADDRESSES {
            self.0.retain(|_, origin| origin.count > 0 || origin.flow.is_running(now));
        }
        let origin = self.0.entry(from).or_default();
        origin.flow.add(bounds.rate, now);
        origin.count += 1;
    }

    fn remove(&mut self, from: IpAddr) {
        if let Some(origin) = self.0.get_mut(&from) {
            origin.count -= 1;
        }
    }
}

impl Source {
    /// Link-local addresses have no network of their own: all of them are in one.
    fn new(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()).filter(|host| !host.is_loopback()) {
            None => Self { host: None, network: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) },
            Some(host @ IpAddr::V6(v6)) if !v6.is_unicast_link_local() => {
                Self { host: Some(host), network: Some(network(host)) }
            }
            host => Self { host, network: None },
        }
    }
}

impl Flow {
    fn has_room(self, rate: Rate, now: Instant, burst: Duration) -> bool {
        self.0.is_none_or(|empty_at| empty_at + share(rate) <= now + burst)
    }

    fn add(&mut self, rate: Rate, now: Instant) {
        self.0 = Some(self.0.map_or(now, |empty_at| empty_at.max(now)) + share(rate));
    }

    fn is_running(self, now: Instant) -> bool {
        self.0.is_some_and(|empty_at| empty_at > now)
    }
}

/// The time of one connection at this rate.
fn share(Rate(per_second): Rate) -> Duration {
    Duration::from_secs(1) / u32::from(per_second.max(1))
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.limits.lock();
        let book = inside.book(self.whose);
        book.count -= 1;
        let Source { host, network } = self.from;
        if let Some(host) = host {
            book.hosts.remove(host);
        }
        if let Some(network) = network {
            book.networks.remove(network);
        }
    }
}

#[cfg(test)]
mod tests;
