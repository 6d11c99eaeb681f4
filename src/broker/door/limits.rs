//! How many connections at once: in all, and per address, so that one host cannot take every place.
//!
//! Loopback has no limit per address, since every local client comes from the same one. The total stays below half of
//! the file descriptors that the process may have: the store and the field need theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};

/// Connections in all.
const TOTAL_MAX: usize = 1024;

/// Connections from one address that is not loopback.
const PER_ADDRESS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Limits {
    total_max: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    from: HashMap<IpAddr, usize>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    /// By the file descriptors that the process may have.
    pub(super) fn from_system() -> Self {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let total_max = files.map_or(TOTAL_MAX, |files| (files / 2).clamp(16, TOTAL_MAX));
        if total_max < TOTAL_MAX {
            tracing::info!(total_max, "fewer connections than usual, file descriptors are limited");
        }
        Self::new(total_max)
    }

    fn new(total_max: usize) -> Self {
        Self { total_max, inside: Mutex::default() }
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let address = address.to_canonical();
        let mut inside = self.lock();
        let from = inside.from.get(&address).copied().unwrap_or(0);
        if inside.total >= self.total_max || from >= PER_ADDRESS_MAX && !address.is_loopback() {
            return None;
        }
        inside.total += 1;
        inside.from.insert(address, from + 1);
        Some(Pass { limits: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.limits.lock();
        inside.total -= 1;
        match inside.from.get_mut(&self.address) {
            Some(from) if *from > 1 => *from -= 1,
            _ => drop(inside.from.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_cannot_take_every_place_and_places_come_back() {
        let limits = Arc::new(Limits::new(600));
        let (host, loopback) = (IpAddr::from([10, 0, 0, 7]), IpAddr::from([127, 0, 0, 1]));
        let passes: Vec<Pass> = std::iter::from_fn(|| limits.admit(host)).collect();
        assert_eq!(passes.len(), PER_ADDRESS_MAX);
        let local: Vec<Pass> = std::iter::from_fn(|| limits.admit(loopback)).collect();
        assert_eq!(local.len(), 600 - PER_ADDRESS_MAX);
        drop(passes);
        assert!(limits.admit(host).is_some());
        drop(local);
        assert!(limits.lock().from.is_empty());
        assert_eq!(limits.lock().total, 0);
    }
}
