//! Failed logins slow down those that follow; pure: time is an argument.
//!
//! What is slowed down is chosen so that a stranger elsewhere cannot lock anybody out, and one at the same address nobody
//! who has logged in within a day (`memory`):
//!
//! * **a name from an address** that failed there: one attempt in up to 4 s. A client with an old password stops itself.
//! * **an address** where any names failed: two attempts a second in all of those that failed there, and two of those that
//!   have not. Guessing many names is no way around it; and one client with an old password, however often it comes, does
//!   not stand in the way of another that is new.
//! * **a name** that failed anywhere: each attempt waits up to 1 s, in parallel. Many addresses gain little.
//!
//! The last two do not hold for a name that has logged in from that address within a day: guesses elsewhere, or of other
//! names beside it (all of loopback is one address), do not slow down those who belong there. A right password that was
//! checked lately does not come here at all (`memory`). Whoever would have to wait for more than 10 s is told to come back:
//! a name for its own failures, and one that was never there while hundreds of invented ones are tried from its very
//! address. Loopback is slowed down like everybody else.
//!
//! An address is its network here ([`network`]): who has a /64 of IPv6 could come from another address with each guess, and
//! who is on the link takes what link-local address he likes. A plant that is one /64 is treated like a site behind one
//! address of IPv4: those who have logged in there within a day are not slowed down by their neighbours.
//!
//! The table is bounded; when it is full, the entry whose last failure is longest ago goes. Counts halve each minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Entries of each kind: 400 bytes each at most, so that a flood of names costs three megabytes.
const ENTRIES_MAX: usize = 2048;

/// Failures that are forgiven: fingers slip.
const FREE: u32 = 3;

/// The first pause after that; doubles with each failure.
const PAUSE: Duration = Duration::from_millis(100);

/// A count halves after this long.
const HALVED_AFTER: Duration = Duration::from_secs(60);

/// How long a name is known at an address.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(86_400);

/// Nobody waits longer than this; beyond, come back later.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Brake {
    pairs: Table<(IpAddr, Arc<str>)>,
    /// Of names that have failed there.
    addresses: Table<IpAddr>,
    /// Of names that had not when they came.
    fresh: Table<IpAddr>,
    names: Table<Arc<str>>,
    known: HashMap<(IpAddr, Arc<str>), Instant>,
}

#[derive(Debug)]
struct Table<K>(HashMap<K, Failures>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// When the next attempt may be looked at.
    next: Instant,
}

impl Brake {
    /// How long an attempt waits before it is looked at; `None`: too many wait already.
    pub(super) fn wait(&mut self, from: IpAddr, name: &Arc<str>, now: Instant) -> Option<Duration> {
        let (from, pair) = (network(from), (network(from), Arc::clone(name)));
        let line = if self.pairs.has(&pair) { &mut self.addresses } else { &mut self.fresh };
        let mut wait = self.pairs.in_line(&pair, Duration::from_secs(4), now)?;
        if self.known.get(&pair).is_none_or(|since| now.duration_since(*since) >= KNOWN_FOR) {
            wait = wait.max(line.in_line(&from, Duration::from_millis(500), now)?);
            wait = wait.max(self.names.pause(name, Duration::from_secs(1), now));
        }
        Some(wait)
    }

    pub(super) fn failed(&mut self, from: IpAddr, name: &Arc<str>, now: Instant) {
        let from = network(from);
        let pair = (from, Arc::clone(name));
        let line = if self.pairs.has(&pair) { &mut self.addresses } else { &mut self.fresh };
        line.failed(from, Duration::from_millis(500), now);
        self.pairs.failed(pair, Duration::from_secs(4), now);
        self.names.failed(Arc::clone(name), Duration::from_secs(1), now);
    }

    /// Only the pair is forgiven: one password that is known must not buy guesses at others.
    pub(super) fn succeeded(&mut self, from: IpAddr, name: &Arc<str>, now: Instant) {
        let pair = (network(from), Arc::clone(name));
        self.pairs.0.remove(&pair);
        make_room(&mut self.known, |since| *since);
        self.known.insert(pair, now);
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + std::hash::Hash> Table<K> {
    fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Takes a place behind those who wait already.
    fn in_line(&mut self, key: &K, longest: Duration, now: Instant) -> Option<Duration> {
        let Some(failures) = self.0.get_mut(key) else { return Some(Duration::ZERO) };
        let pause = pause(failures.count_at(now), longest);
        let at = failures.next.max(now);
        if at - now > WAIT_MAX {
            return None;
        }
        failures.next = at + pause;
        Some(at - now)
    }

    fn pause(&self, key: &K, longest: Duration, now: Instant) -> Duration {
        self.0.get(key).map_or(Duration::ZERO, |failures| pause(failures.count_at(now), longest))
    }

    fn failed(&mut self, key: K, longest: Duration, now: Instant) {
        if !self.0.contains_key(&key) {
            make_room(&mut self.0, |failures| failures.last);
        }
        let failures = self.0.entry(key).or_insert(Failures { count: 0, last: now, next: now });
        failures.count = failures.count_at(now).saturating_add(1);
        failures.last = now;
        failures.next = failures.next.max(now + pause(failures.count, longest));
    }
}

impl Failures {
    fn count_at(&self, now: Instant) -> u32 {
        let halvings = now.duration_since(self.last).as_secs() / HALVED_AFTER.as_secs();
        u32::try_from(halvings).ok().and_then(|halvings| self.count.checked_shr(halvings)).unwrap_or(0)
    }
}

fn pause(failures: u32, longest: Duration) -> Duration {
    match failures.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(over) => PAUSE.saturating_mul(1 << over.min(10)).min(longest),
    }
}

/// Lets the oldest tenth go when the table is full, so that looking for them is rare.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(table: &mut HashMap<K, V>, age: impl Fn(&V) -> Instant) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    let mut ages: Vec<Instant> = table.values().map(&age).collect();
    let (_, limit, _) = ages.select_nth_unstable(ENTRIES_MAX / 10);
    let limit = *limit;
    table.retain(|_, entry| age(entry) > limit);
}

/// What one host may have of addresses: a whole /64 of IPv6 (RFC 6177, section 2).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Attempts until `total` is over, each as soon as it is allowed; how many were looked at.
    fn guess(brake: &mut Brake, from: IpAddr, names: &mut dyn FnMut() -> Arc<str>, total: Duration) -> u32 {
        let begin = Instant::now();
        let (mut now, mut looked_at) = (begin, 0);
        while now < begin + total {
            let name = names();
            match brake.wait(from, &name, now) {
                Some(wait) => {
                    now += wait;
                    looked_at += 1;
                    brake.failed(from, &name, now);
                }
                None => now += SECOND,
            }
        }
        looked_at
    }

    #[tokio::test]
    async fn guessing_gets_slow_for_one_name_and_for_many() {
        let minute = Duration::from_secs(60);
        let one = guess(&mut Brake::default(), address(1), &mut || "hmi".into(), minute);
        assert!((10..30).contains(&one), "{one} guesses a minute at one name");
        let mut number = 0;
        let mut many = || {
            number += 1;
            number.to_string().into()
        };
        let many = guess(&mut Brake::default(), address(1), &mut many, minute);
        assert!((60..150).contains(&many), "{many} guesses a minute at many names");
    }

    #[tokio::test]
    async fn a_few_mistakes_cost_nothing_and_are_forgotten() {
        let (mut brake, name, now) = (Brake::default(), Arc::from("hmi"), Instant::now());
        for _ in 0..FREE {
            brake.failed(address(1), &name, now);
        }
        assert_eq!(brake.wait(address(1), &name, now), Some(Duration::ZERO));
        for _ in 0..20 {
            brake.failed(address(1), &name, now);
        }
        assert!(brake.wait(address(1), &name, now).is_some_and(|wait| wait >= SECOND));
        assert_eq!(brake.wait(address(1), &name, now + 10 * HALVED_AFTER), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_stranger_cannot_lock_a_user_out() {
        let (mut brake, name, now): (_, Arc<str>, _) = (Brake::default(), Arc::from("hmi"), Instant::now());
        brake.succeeded(address(1), &name, now);
        for attempt in 0..500_u16 {
            let stranger = IpAddr::from([10, 1, (attempt % 7) as u8, 1]);
            brake.wait(stranger, &name, now);
            brake.failed(stranger, &name, now);
            let other: Arc<str> = attempt.to_string().into();
            brake.wait(address(1), &other, now);
            brake.failed(address(1), &other, now);
        }
        assert_eq!(brake.wait(address(1), &name, now), Some(Duration::ZERO), "where it belongs");
        assert!(brake.wait(address(9), &name, now).is_some_and(|wait| wait <= SECOND), "at a new place");
        let other: Arc<str> = "logger".into();
        assert_eq!(brake.wait(address(9), &other, now), Some(Duration::ZERO), "another name elsewhere");
    }

    #[tokio::test]
    async fn clients_with_an_old_password_do_not_keep_out_another_that_is_new_at_their_address() {
        let (mut brake, now): (_, _) = (Brake::default(), Instant::now());
        for name in ["hmi", "logger", "node-red"].map(Arc::<str>::from) {
            for _ in 0..100 {
                if brake.wait(address(1), &name, now).is_some() {
                    brake.failed(address(1), &name, now);
                }
            }
        }
        let new: Arc<str> = "scada".into();
        assert_eq!(brake.wait(address(1), &new, now), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn one_password_that_is_known_does_not_buy_guesses_at_others() {
        let (mut brake, own): (_, Arc<str>) = (Brake::default(), Arc::from("own"));
        let name: Arc<str> = Arc::from("hmi");
        let begin = Instant::now();
        let mut guesses = 0;
        for second in 0..60 {
            brake.succeeded(address(1), &own, begin + SECOND * second);
            if let Some(wait) = brake.wait(address(1), &name, begin + SECOND * second)
                && wait < SECOND
            {
                guesses += 1;
                brake.failed(address(1), &name, begin + SECOND * second);
            }
        }
        assert!(guesses < 30, "{guesses}");
    }

    #[tokio::test]
    async fn the_tables_are_bounded_and_a_whole_ipv6_network_is_one_address() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for number in 0..10_000_u32 {
            let name: Arc<str> = number.to_string().into();
            brake.failed(IpAddr::from(std::net::Ipv4Addr::from_bits(number)), &name, now + PAUSE * number);
            brake.succeeded(address(1), &name, now + PAUSE * number);
        }
        let lines = [brake.addresses.0.len(), brake.fresh.0.len()];
        for length in [brake.pairs.0.len(), brake.names.0.len(), brake.known.len()].into_iter().chain(lines) {
            assert!(length <= ENTRIES_MAX, "{length}");
        }
        let v6 = |text: &str| network(text.parse().expect("address"));
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:10.0.0.1"), address(1));
    }
}
