//! How many connections at once, and how many new ones in a second: in all, and per address, so that one host cannot
//! take every place or keep the door busy.
//!
//! Loopback has no limits per address, since every local client comes from the same one. An IPv6 host has 2^64 addresses
//! of its own (RFC 6177, section 2): a /64 counts as one. The total stays below half of the file descriptors that the
//! process may have: the store and the field need theirs.
//!
//! A sensor has not shown that it is where it says, and may be silent for a day: all of them together have half of the
//! places, so that datagrams with invented addresses keep nobody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use crate::access::network;
use crate::config::plan::{BrokerLimits, Rate};

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
    total: usize,
    /// Of them, those of sensors.
    sensors: usize,
    flow: Flow,
    from: HashMap<IpAddr, Host>,
}

#[derive(Debug, Default)]
struct Host {
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
    address: Option<IpAddr>,
    whose: Whose,
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
    #[error("max_connect_rate_per_address")]
    TooFastFromThere,
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
        let address = address.map(network).filter(|address| !address.is_loopback());
        let mut inside = self.lock();
        if inside.total >= self.total_max {
            return Err(NoPlace::Full);
        }
        if whose == Whose::Sensor && inside.sensors >= self.total_max.div_ceil(2) {
            return Err(NoPlace::FullOfSensors);
        }
        if !inside.flow.has_room(self.plan.rate, now) {
            return Err(NoPlace::TooFast);
        }
        if let Some(address) = address {
            if inside.from.len() > ADDRESSES {
                inside.from.retain(|_, from| from.count > 0 || from.flow.is_running(now));
            }
            let from = inside.from.entry(address).or_default();
            if from.count >= self.plan.per_address {
                return Err(NoPlace::FullFromThere);
            }
            if !from.flow.has_room(self.plan.rate_per_address, now) {
                return Err(NoPlace::TooFastFromThere);
            }
            from.flow.add(self.plan.rate_per_address, now);
            from.count += 1;
        }
        inside.flow.add(self.plan.rate, now);
        inside.total += 1;
        inside.sensors += usize::from(whose == Whose::Sensor);
        Ok(Pass { limits: Arc::clone(self), address, whose })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
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
        inside.total -= 1;
        inside.sensors -= usize::from(self.whose == Whose::Sensor);
        if let Some(from) = self.address.and_then(|address| inside.from.get_mut(&address)) {
            from.count -= 1;
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
        assert_eq!(limits.lock().total, 0);
    }

    #[test]
    fn sensors_from_ever_other_addresses_leave_half_of_the_places_to_others() {
        let limits = limits(BrokerLimits { connections: 100, rate: Rate(1000), ..BrokerLimits::default() });
        let now = Instant::now();
        let sensors: Vec<Pass> =
            (0..200).filter_map(|n| limits.admit_sensor(IpAddr::from([10, 1, 0, n]), now).ok()).collect();
        assert_eq!(sensors.len(), 50);
        assert_eq!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).err(), Some(NoPlace::FullOfSensors));
        let others: Vec<Pass> = (0..50).filter_map(|_| limits.admit(None, now).ok()).collect();
        assert_eq!((others.len(), limits.admit(None, now).err()), (50, Some(NoPlace::Full)));
        drop(others);
        drop(sensors);
        assert!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).is_ok());
        let inside = limits.lock();
        assert_eq!((inside.total, inside.sensors), (0, 0));
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
        assert!(limits.lock().from.len() <= ADDRESSES + 1);
        drop(limits.admit(HOST, now));
        assert!(limits.lock().from.len() < 10);
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_the_one_it_maps() {
        let limits = limits(BrokerLimits { per_address: 1, ..BrokerLimits::default() });
        let (now, address) = (Instant::now(), |text: &str| text.parse::<IpAddr>().ok());
        let _first = limits.admit(address("2001:db8::1"), now).expect("a place");
        assert!(limits.admit(address("2001:db8::2"), now).is_err());
        assert!(limits.admit(address("2001:db8:0:1::2"), now).is_ok());
        let _mapped = limits.admit(address("::ffff:10.0.0.7"), now).expect("a place");
        assert!(limits.admit(HOST, now).is_err());
        let _six =
            (limits.admit(address("::1"), now).expect("a place"), limits.admit(address("::1"), now).expect("another"));
    }
}
