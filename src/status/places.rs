//! Places for visitors: few, and shared out so that nobody shuts the others out.
//!
//! A host has some of them only, and one of IPv6 is its network, as at the broker's doors: it has as many addresses as it
//! likes. Some are kept for this machine: its watchdog asks for `/health` here, and goes by the answer. Where none is free,
//! a newcomer gets that of somebody who has not asked for anything yet: of the same network if that has all of its share,
//! else of the network with the most. Whoever has sent the head of a request keeps the place.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::access::network;
use crate::model::lock::Hold as _;

/// Places in all, of one network that is not this machine, and that only this machine gets.
const ALL: usize = 128;
const PER_NETWORK: usize = 32;
const KEPT_FOR_LOOPBACK: usize = 16;

/// Who is inside.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By number: the oldest first.
    visitors: BTreeMap<u64, Visitor>,
}

#[derive(Debug)]
struct Visitor {
    network: IpAddr,
    has_asked: bool,
    displaced: CancellationToken,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    displaced: CancellationToken,
}

/// What a newcomer finds.
#[derive(Debug)]
pub(super) enum Found {
    Free(Place),
    /// Somebody who had not asked for anything has to go for it.
    InsteadOf(Place),
    Nothing,
}

impl Places {
    /// A place for this address.
    pub(super) fn find(self: &Arc<Self>, address: IpAddr) -> Found {
        let network = network(address);
        let mut inside = self.lock();
        let displaced = match inside.crowd(network) {
            Crowd::None => None,
            crowd => match inside.who_goes(network, crowd).and_then(|number| inside.visitors.remove(&number)) {
                Some(visitor) => Some(visitor.displaced),
                None => return Found::Nothing,
            },
        };
        let (number, token) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.visitors.insert(number, Visitor { network, has_asked: false, displaced: token.clone() });
        drop(inside);
        let place = Place { places: Arc::clone(self), number, displaced: token };
        match displaced {
            None => Found::Free(place),
            Some(displaced) => {
                displaced.cancel();
                Found::InsteadOf(place)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.hold()
    }
}

/// Is there no place, and whose fault is it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    None,
    OwnNetwork,
    Everybody,
}

impl Inside {
    fn crowd(&self, network: IpAddr) -> Crowd {
        if network.is_loopback() {
            return if self.visitors.len() >= ALL { Crowd::Everybody } else { Crowd::None };
        }
        let far = self.visitors.values().filter(|visitor| !visitor.network.is_loopback()).count();
        if self.of(network) >= PER_NETWORK {
            Crowd::OwnNetwork
        } else if far >= ALL - KEPT_FOR_LOOPBACK || self.visitors.len() >= ALL {
            Crowd::Everybody
        } else {
            Crowd::None
        }
    }

    fn of(&self, network: IpAddr) -> usize {
        self.visitors.values().filter(|visitor| visitor.network == network).count()
    }

    /// Nobody of this machine goes for somebody who is not.
    fn who_goes(&self, network: IpAddr, crowd: Crowd) -> Option<u64> {
        let may_go = |visitor: &Visitor| match crowd {
            Crowd::OwnNetwork => visitor.network == network,
            Crowd::Everybody | Crowd::None => network.is_loopback() || !visitor.network.is_loopback(),
        };
        let may_go = |(_, visitor): &(&u64, &Visitor)| !visitor.has_asked && may_go(visitor);
        let first = |(number, visitor): &(&u64, &Visitor)| {
            (!visitor.network.is_loopback(), self.of(visitor.network), Reverse(**number))
        };
        self.visitors.iter().filter(may_go).max_by_key(first).map(|(number, _)| *number)
    }
}

impl Place {
    /// The head of a request has come.
    pub(super) fn asked(&self) {
        if let Some(visitor) = self.places.lock().visitors.get_mut(&self.number) {
            visitor.has_asked = true;
        }
    }

    /// Resolves when somebody else has the place. Cancel-safe.
    pub(super) async fn lost(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().visitors.remove(&self.number); // somebody else may have it by now, under another number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(places: &Arc<Places>, address: &str) -> Found {
        places.find(address.parse().expect("an address"))
    }

    /// Takes what is free, and asks for something.
    fn all(places: &Arc<Places>, addresses: impl Iterator<Item = String>) -> Vec<Place> {
        let taken = addresses.map_while(|address| match find(places, &address) {
            Found::Free(place) => Some(place),
            Found::InsteadOf(_) | Found::Nothing => None,
        });
        taken.inspect(Place::asked).collect()
    }

    fn same(address: &str) -> impl Iterator<Item = String> {
        std::iter::repeat(address.to_owned())
    }

    #[test]
    fn one_host_cannot_take_every_place_with_all_its_addresses_and_places_come_back() {
        let places = Arc::<Places>::default();
        let six = all(&places, (1..).map(|n| format!("2001:db8::{n:x}")));
        assert_eq!(six.len(), PER_NETWORK);
        assert!(matches!(find(&places, "2001:db8::ffff:1"), Found::Nothing), "all have asked");
        let four = all(&places, same("10.0.0.7"));
        assert_eq!(four.len(), PER_NETWORK);
        assert!(matches!(find(&places, "::ffff:10.0.0.7"), Found::Nothing), "the same");
        assert!(matches!(find(&places, "2001:db8:0:1::1"), Found::Free(_)));
        drop((six, four));
        assert!(places.lock().visitors.is_empty());
    }

    #[test]
    fn this_machine_finds_a_place_however_many_others_there_are() {
        let places = Arc::<Places>::default();
        let far = all(&places, (0..).map(|n| format!("10.0.0.{}", n % 200)));
        assert_eq!(far.len(), ALL - KEPT_FOR_LOOPBACK);
        assert!(matches!(find(&places, "10.0.0.201"), Found::Nothing));
        let near = all(&places, same("127.0.0.1"));
        assert_eq!(near.len(), KEPT_FOR_LOOPBACK);
        assert!(matches!(find(&places, "::1"), Found::Nothing), "all have asked");
        drop(far);
        assert_eq!(all(&places, same("127.0.0.1")).len(), ALL - KEPT_FOR_LOOPBACK);
        drop(near);
    }

    #[tokio::test]
    async fn who_says_nothing_yields_his_place_and_who_has_asked_keeps_it() {
        let places = Arc::<Places>::default();
        let silent = |address: &str| match find(&places, address) {
            Found::Free(place) => place,
            other => panic!("there is room, not {other:?}"),
        };
        // Of the same host: its own first silent connection goes, nobody else's.
        let other = silent("10.0.0.1");
        let crowd: Vec<Place> = (0..PER_NETWORK).map(|_| silent("10.0.0.7")).collect();
        crowd[0].asked();
        let Found::InsteadOf(newest) = find(&places, "10.0.0.7") else { panic!("one of them says nothing") };
        crowd[1].lost().await;
        assert!(!crowd[0].displaced.is_cancelled() && !other.displaced.is_cancelled());
        assert_eq!(places.lock().of("10.0.0.7".parse().expect("an address")), PER_NETWORK);
        drop(crowd);
        drop((newest, other));
        assert!(places.lock().visitors.is_empty(), "a lost place is not given back twice");
        // All places: the network with the most of them yields one, this machine none.
        let near: Vec<Place> = (0..KEPT_FOR_LOOPBACK).map(|_| silent("127.0.0.1")).collect();
        let large: Vec<Place> = (0..PER_NETWORK).map(|_| silent("10.0.0.7")).collect();
        let small: Vec<Place> =
            (PER_NETWORK..ALL - KEPT_FOR_LOOPBACK).map(|n| silent(&format!("10.0.1.{n}"))).collect();
        assert!(matches!(find(&places, "10.0.2.1"), Found::InsteadOf(_)));
        assert!(large[0].displaced.is_cancelled());
        large.iter().chain(&small).for_each(Place::asked);
        let _last = silent("10.0.2.1");
        assert!(matches!(find(&places, "10.0.2.2"), Found::InsteadOf(_)));
        assert!(near.iter().chain(&small).all(|place| !place.displaced.is_cancelled()));
    }
}
