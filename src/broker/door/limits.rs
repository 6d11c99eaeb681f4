//! How many connections at once, and how many new ones in a second: in all, and per address, so that one host cannot
//! take every place or keep the door busy.
//!
//! Loopback has no limits per address, since every local client comes from the same one. An IPv6 host may take any address of
//! its /64 (RFC 6177, section 2), and a whole plant may be in one: so what counts is the address, and beside it all of a /64
//! have half of the places, and of the rate, at most. The total stays below half of the file descriptors that the process may
//! have: the store and the field need theirs.
//!
//! A sensor has not shown that it is where it says, and may be silent for a day. So sensors have books of their own, in which an
//! address and a network may have as much as in the other, and all of them together half of the places and half of the rate:
//! datagrams with invented addresses keep nobody else out, wherever they claim to be from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use crate::access::network;
use crate::config::plan::{BrokerLimits, Rate};
use crate::model::lock::Hold as _;

/// A burst as long as this at the full rate is let through at once: after a power cut everybody comes back together.
const BURST: Duration = Duration::from_secs(5);

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
    /// Of IPv6.
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
    from: Option<Source>,
    whose: Whose,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    host: IpAddr,
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

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("max_connections")]
    Full,
    #[error("half of max_connections, which is all that sensors may have")]
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
        let from = address.and_then(Source::new);
        let (of_all, of_host, of_network) = (self.of_all(whose), self.of_host(), self.of_network());
        let mut guard = self.lock();
        if guard.connections.count + guard.sensors.count >= self.total_max {
            return Err(NoPlace::Full);
        }
        let book = guard.book(whose);
        if book.count >= of_all.count {
            return Err(NoPlace::FullOfSensors);
        }
        if !book.flow.has_room(of_all.rate, now) {
            return Err(NoPlace::TooFast);
        }
        if let Some(Source { host, network }) = from {
            match book.hosts.verdict(host, of_host, now) {
                Verdict::Room => {}
                Verdict::Full => return Err(NoPlace::FullFromThere),
                Verdict::TooFast => return Err(NoPlace::TooFastFromThere),
            }
            if let Some(network) = network {
                match book.networks.verdict(network, of_network, now) {
                    Verdict::Room => book.networks.add(network, of_network, now),
                    Verdict::Full => return Err(NoPlace::FullFromNetwork),
                    Verdict::TooFast => return Err(NoPlace::TooFastFromNetwork),
                }
            }
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

    /// Never less than one host of it may have.
    fn of_network(&self) -> Bounds {
        let Bounds { count, rate } = self.of_host();
        Bounds { count: count.max(self.total_max / 2), rate: Rate(rate.0.max(self.plan.rate.0 / 2)) }
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
            Some(origin) if !origin.flow.has_room(bounds.rate, now) => Verdict::TooFast,
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
    /// `None`: this machine. Link-local addresses have no network of their own: all of them are in one.
    fn new(address: IpAddr) -> Option<Self> {
        let host = address.to_canonical();
        let network = match host {
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(network(host)),
            _ => None,
        };
        (!host.is_loopback()).then_some(Self { host, network })
    }
}

impl Flow {
    fn has_room(self, rate: Rate, now: Instant) -> bool {
        self.0.is_none_or(|empty_at| empty_at + share(rate) <= now + BURST)
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
        if let Some(Source { host, network }) = self.from {
            book.hosts.remove(host);
            if let Some(network) = network {
                book.networks.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)));
    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn limits(plan: BrokerLimits) -> Arc<Limits> {
        Arc::new(Limits { total_max: plan.connections, plan, inside: Mutex::default() })
    }

    #[test]
    fn one_host_cannot_take_every_place_and_places_come_back() {
        let limits = limits(BrokerLimits { connections: 600, per_address: 200, ..BrokerLimits::default() });
        let now = Instant::now();
        let all = |address| std::iter::from_fn(|| limits.admit(address, now).ok()).collect::<Vec<Pass>>();
        let passes = all(HOST);
        assert_eq!(passes.len(), 200);
        assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::FullFromThere));
        let local = all(LOOPBACK);
        assert_eq!(local.len(), 400);
        assert_eq!(limits.admit(None, now).err(), Some(NoPlace::Full));
        drop(passes);
        assert!(limits.admit(HOST, now).is_ok());
        drop(local);
        assert_eq!(limits.lock().connections.count, 0);
    }

    #[test]
    fn sensors_from_ever_other_addresses_leave_half_of_the_places_to_others() {
        let limits = limits(BrokerLimits { connections: 100, ..BrokerLimits::default() });
        let now = Instant::now();
        let address = |n| IpAddr::from([10, 1, 0, n]);
        let sensors: Vec<Pass> = (0..200).filter_map(|n| limits.admit_sensor(address(n), now).ok()).collect();
        assert_eq!(sensors.len(), 50);
        assert_eq!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).err(), Some(NoPlace::FullOfSensors));
        let others: Vec<Pass> = (0..50).filter_map(|n| limits.admit(Some(address(n)), now).ok()).collect();
        assert_eq!((others.len(), limits.admit(None, now).err()), (50, Some(NoPlace::Full)));
        drop(others);
        drop(sensors);
        assert!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).is_ok());
        let inside = limits.lock();
        assert_eq!((inside.connections.count, inside.sensors.count), (0, 0));
    }

    #[test]
    fn sensors_that_claim_to_be_a_host_or_its_network_keep_it_neither_out_nor_waiting() {
        let plan = BrokerLimits { connections: 1000, per_address: 10, rate: Rate(100), ..BrokerLimits::default() };
        for host in ["10.0.0.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().expect("an address")) {
            let (limits, now) = (limits(plan), Instant::now());
            let claims: Vec<Pass> = (0..1000).filter_map(|_| limits.admit_sensor(host, now).ok()).collect();
            assert_eq!((claims.len(), limits.admit_sensor(host, now).err()), (10, Some(NoPlace::FullFromThere)));
            let others = (0..u16::MAX).filter(|n| {
                let [high, low] = n.to_be_bytes();
                limits.admit_sensor(IpAddr::from([10, 1, high, low]), now).is_ok()
            });
            assert_eq!(others.count(), 240, "with those ten five seconds' worth of half of the rate");
            assert_eq!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).err(), Some(NoPlace::TooFast));
            let own: Vec<Pass> = (0..1000).filter_map(|_| limits.admit(Some(host), now).ok()).collect();
            assert_eq!(own.len(), 10, "{host}");
            assert_eq!((0..1000).filter(|_| limits.admit(None, now).is_ok()).count(), 490);
        }
    }

    #[test]
    fn a_host_that_connects_again_and_again_is_slowed_down_alone_and_forgotten_in_the_end() {
        let plan = BrokerLimits { rate: Rate(100), rate_per_address: Rate(10), ..BrokerLimits::default() };
        let (limits, mut now) = (limits(plan), Instant::now());
        let burst = (0..1000).filter(|_| limits.admit(HOST, now).is_ok()).count();
        assert_eq!(burst, 50, "five seconds' worth");
        assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::TooFastFromThere));
        assert!(limits.admit(LOOPBACK, now).is_ok());
        now += Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| limits.admit(HOST, now).is_ok()).count(), 10);
        now += Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| limits.admit(LOOPBACK, now).is_ok()).count(), 500);
        assert_eq!(limits.admit(None, now).err(), Some(NoPlace::TooFast));
        for n in 0..=ADDRESSES {
            now += Duration::from_secs(1);
            let [high, low] = u16::try_from(n).expect("few").to_be_bytes();
            drop(limits.admit(Some(IpAddr::from([10, 1, high, low])), now));
        }
        assert!(limits.lock().connections.hosts.0.len() <= ADDRESSES + 1);
        drop(limits.admit(HOST, now));
        assert!(limits.lock().connections.hosts.0.len() < 10);
    }

    #[test]
    fn a_whole_ipv6_network_has_half_of_the_places_and_each_address_in_it_its_own_and_a_mapped_one_is_what_it_maps() {
        let limits = limits(BrokerLimits { connections: 20, per_address: 2, ..BrokerLimits::default() });
        let (now, address) = (Instant::now(), |text: &str| text.parse::<IpAddr>().ok());
        let admit = |text: &str| limits.admit(address(text), now);
        let mut inside = Vec::new();
        for host in 1..=5 {
            for _ in 0..2 {
                inside.push(admit(&format!("2001:db8::{host}")).expect("a place"));
            }
            let full = if host == 5 { NoPlace::FullFromNetwork } else { NoPlace::FullFromThere };
            let other = if host == 5 { 6 } else { host };
            assert_eq!(admit(&format!("2001:db8::{other}")).err(), Some(full));
        }
        inside.push(admit("2001:db8:0:1::2").expect("another network"));
        inside.push(admit("::ffff:10.0.0.7").expect("a place"));
        inside.push(limits.admit(HOST, now).expect("the second"));
        assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::FullFromThere));
        inside.push(admit("::1").expect("this machine"));
        inside.truncate(9);
        assert!(admit("2001:db8::6").is_ok(), "one has gone");
        inside.clear();
        for host in 1..=11 {
            inside.push(admit(&format!("fe80::{host}")).expect("of many on one link each by itself"));
        }
    }
}
