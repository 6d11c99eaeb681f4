//! Which addresses keep silent. Where UDP is blocked or leads nowhere, all of a name are as silent, and asking each costs as
//! much: so after one that kept silent no other of its family is asked in the same attempt. The next attempt begins with
//! another one: if only one of them is dead, the others are found.
//!
//! A refusal counts as silence: the kernel tells of it only where a socket is connected, and then a connection could not go on
//! when this box has another address (`roam`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::account::Account;
use crate::model::lock::Hold as _;

/// Addresses that are remembered, of all servers of a road.
const REMEMBERED_MAX: usize = 32;

/// Those that kept silent when they were last asked, whoever was last at the end; of a road and its probes. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(in crate::road) struct Silent(Arc<Mutex<VecDeque<SocketAddr>>>);

impl Silent {
    /// The same addresses, the families where they were, and of each those first that did not keep silent, then those that did
    /// so longest ago.
    pub(super) fn in_turn(&self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let silent = self.0.hold();
        let mut families = [false, true].map(|is_ipv6| {
            let own = found.iter().copied().filter(|address| address.is_ipv6() == is_ipv6);
            let mut own: Vec<SocketAddr> = own.collect();
            own.sort_by_key(|address| silent.iter().position(|silent| silent == address));
            own.into_iter()
        });
        found.iter().filter_map(|address| families[usize::from(address.is_ipv6())].next()).collect()
    }

    fn note(&self, address: SocketAddr, is_silent: bool) {
        let mut silent = self.0.hold();
        silent.retain(|known| *known != address);
        if is_silent {
            silent.push_back(address);
        }
        if silent.len() > REMEMBERED_MAX {
            silent.pop_front();
        }
    }
}

/// What one attempt has met: the families of which one kept silent.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    silent: &'a Silent,
    families: [bool; 2],
}

impl<'a> Silence<'a> {
    pub(super) fn new(silent: &'a Silent) -> Self {
        Self { silent, families: [false; 2] }
    }

    /// This one was asked, and its time is over. One to which nothing could be sent says nothing of the others.
    pub(super) fn note(&mut self, address: SocketAddr, account: &Account) {
        let is_silent = account.is_unheard();
        self.silent.note(address, is_silent);
        self.families[usize::from(address.is_ipv6())] |= is_silent;
    }

    /// This one has answered.
    pub(super) fn broken(&self, by: SocketAddr) {
        self.silent.note(by, false);
    }

    pub(super) fn covers(&self, address: SocketAddr) -> bool {
        self.families[usize::from(address.is_ipv6())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_family_those_that_kept_silent_come_last_and_the_one_that_did_so_longest_ago_first_of_them() {
        let of =
            |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|text| text.parse().expect("an address")).collect() };
        let silent = Silent::default();
        let found = of(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"]);
        assert_eq!(silent.in_turn(&found), found);
        silent.note(found[1], true);
        silent.note(found[3], true);
        assert_eq!(silent.in_turn(&found), of(&["[::1]:1", "3.3.3.3:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1"]));
        silent.note(found[1], true);
        silent.note(found[4], true);
        assert_eq!(silent.in_turn(&found), of(&["[::1]:1", "2.2.2.2:1", "[::2]:1", "1.1.1.1:1", "3.3.3.3:1"]));
        silent.note(found[1], false);
        assert_eq!(silent.in_turn(&found)[1], found[1]);
        for port in 1..1000 {
            silent.note(SocketAddr::from(([10, 0, 0, 1], port)), true);
        }
        assert_eq!(silent.0.lock().expect("no panic").len(), REMEMBERED_MAX);
    }
}
