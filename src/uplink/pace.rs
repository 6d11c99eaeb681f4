//! The pace of a link, as the acknowledgements tell it: bytes a second, round trip, and from both how much may be in
//! flight and how large a message should be. Pure; time comes in as an argument.
//!
//! A link is kept full by rate × round trip in flight, and a little more, so that something is always waiting in front
//! of it. Everything above that only waits: a live value behind it is late, a ping is not answered, and a cut sends it
//! twice. So:
//! * rate: bytes acknowledged from the sending of a message to its acknowledgement, over that time; the best of the last
//!   two spells ([`SPELL`]), because a sample is low whenever we had little to send. Only messages that left with the
//!   window full may make it fall.
//! * round trip: the shortest that an acknowledgement took, less the time its own bytes took at that rate. It is forgotten
//!   after [`WAY_FRESH`], and then the window runs nearly empty once, to see what the way itself takes.
//! * a fresh session knows nothing: it begins with [`FIRST`] and doubles per round trip while the rate follows.

use std::time::{Duration, Instant};

/// In flight before anything is known.
const FIRST: usize = 8 << 10;
/// In flight at most, whatever the link carries: 10 Mbit/s at 600 ms, and what must be kept in memory.
pub(super) const MOST: usize = 1 << 20;
/// The reserve in front of the link is at most this (rate × round trip + 16 KB) …
const RESERVE: u64 = 16 << 10;
/// … or, where that is more, what the link carries in 50 ms, up to this.
const RESERVE_MOST: u64 = 256 << 10;
/// Never less: a few records, or one small batch.
const RESERVE_LEAST: u64 = 2 << 10;
/// A message should take the link no longer than this: live values and pings wait behind it.
const MESSAGE_MS: u64 = 400;
/// What brokers commonly take, and what is worth compressing together.
const MESSAGE_MOST: u64 = 256 << 10;
/// How long a rate counts, at least, and in round trips.
const SPELL: Duration = Duration::from_secs(5);
const SPELL_ROUND_TRIPS: u32 = 10;
/// How long the shortest round trip counts.
const WAY_FRESH: Duration = Duration::from_secs(60);
/// The beginning is over when the rate did not grow by a quarter for so many rounds.
const ROUNDS_FLAT: u32 = 3;
/// Every so many rounds a quarter more is tried: whether the link carries more, only more in flight can tell.
const TRY_MORE_EVERY: u64 = 8;
/// An acknowledgement later than expected by more than this means that the link has become another one.
const LATE: Duration = Duration::from_secs(2);

/// Noted when a message leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departure {
    at: Instant,
    order: u64,
    /// What had been delivered then, and when.
    delivered: u64,
    delivered_at: Instant,
    /// The window was full, or this message filled it.
    full: bool,
}

/// The acknowledgement that took the shortest way.
#[derive(Debug, Clone, Copy)]
struct Shortest {
    took: Duration,
    bytes: u64,
    /// The rate then, or a better one seen since: its own time was no longer than that.
    rate: u64,
    at: Instant,
}

impl Shortest {
    /// The time of the way without the message itself; at least a little, as long as the rate is uncertain.
    fn way(&self) -> Duration {
        let own = Duration::from_micros(self.bytes.saturating_mul(1_000_000) / self.rate.max(1));
        self.took.saturating_sub(own).max(self.took / 8)
    }
}

/// Of one session.
#[derive(Debug)]
pub(super) struct Pace {
    delivered: u64,
    delivered_at: Option<Instant>,
    /// Best rates of this spell and the one before, bytes a second.
    rates: [u64; 2],
    spell_began: Option<Instant>,
    shortest: Option<Shortest>,
    /// The window runs nearly empty; the acknowledgement of a message from this order on says what the way takes.
    looking: Option<u64>,
    /// At the beginning: the best rate so far, and for how many rounds it did not grow.
    growing: Option<(u64, u32)>,
    /// A round is over when a message of this order or a later one is acknowledged.
    round: u64,
    rounds: u64,
    /// Bytes of the last message.
    message: u64,
    /// In flight at most.
    most: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            delivered: 0,
            delivered_at: None,
            rates: [0; 2],
            spell_began: None,
            shortest: None,
            looking: None,
            growing: Some((0, 0)),
            round: 0,
            rounds: 0,
            message: 0,
            most: MOST,
        }
    }
}

impl Pace {
    /// Never more than so many bytes in flight, however much the link carries (≥ 8 KiB).
    pub(super) fn bound(&mut self, most: usize) {
        self.most = most.clamp(FIRST, MOST);
    }

    /// Bytes a second; 0 as long as that is not known.
    pub(super) fn rate(&self) -> u64 {
        self.rates[0].max(self.rates[1])
    }

    /// Bytes that may be in flight.
    pub(super) fn limit(&self) -> usize {
        let Some(round_trip) = self.round_trip() else { return FIRST.min(self.most) };
        let product = self.carried_in(round_trip);
        if self.looking.is_some() {
            return usize::try_from(product / 4).unwrap_or(MOST).clamp(1, self.most);
        }
        let (product, least) = match self.growing {
            Some((0, _)) => (product * 2, FIRST), // what it carries when the window is full nobody has seen yet
            Some(_) => (product * 2, 1),
            None if self.rounds.is_multiple_of(TRY_MORE_EVERY) => (product + product / 4, 1),
            None => (product, 1),
        };
        usize::try_from(product + self.reserve().max(self.message))
            .unwrap_or(MOST)
            .clamp(least.min(self.most), self.most)
    }

    fn round_trip(&self) -> Option<Duration> {
        self.shortest.filter(|_| self.rate() > 0).map(|shortest| shortest.way())
    }

    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate().max(1))
    }

    /// Bytes beyond rate × round trip that wait in front of the link.
    pub(super) fn reserve(&self) -> u64 {
        let most = RESERVE.max(self.carried_in(Duration::from_millis(50)).min(RESERVE_MOST));
        self.carried_in(Duration::from_millis(MESSAGE_MS)).clamp(RESERVE_LEAST, most).min(self.most as u64 / 4)
    }

    /// How large a message should be.
    pub(super) fn message_bytes(&self) -> usize {
        if self.rate() == 0 {
            return FIRST.min(self.most / 2);
        }
        let bytes = self.carried_in(Duration::from_millis(MESSAGE_MS)).clamp(RESERVE_LEAST, MESSAGE_MOST);
        usize::try_from(bytes).unwrap_or(FIRST).min(self.most / 2)
    }

    fn carried_in(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.rate()) * time.as_micros() / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).min(1 << 40)
    }

    /// A message leaves; `in_flight` are the bytes with it.
    pub(super) fn leaves(&mut self, order: u64, in_flight: usize, bytes: usize, now: Instant) -> Departure {
        if in_flight == bytes {
            self.delivered_at = Some(now); // nothing was on its way: the time before does not count
        }
        Departure {
            at: now,
            order,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            full: in_flight >= self.limit(),
        }
    }

    /// Its acknowledgement came; `next_order` will be the next message's.
    pub(super) fn arrived(&mut self, departure: &Departure, bytes: usize, next_order: u64, now: Instant) {
        self.delivered += bytes as u64;
        self.delivered_at = Some(now);
        self.message = bytes as u64;
        let micros = now.saturating_duration_since(departure.delivered_at).as_micros().max(1);
        let rate = u128::from(self.delivered - departure.delivered) * 1_000_000 / micros;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(1);
        let took = now.saturating_duration_since(departure.at);
        self.learn_rate(rate, took, departure.full, now);
        self.learn_way(departure, Shortest { took, bytes: bytes as u64, rate: self.rate(), at: now }, next_order);
        if departure.order >= self.round {
            self.round = next_order;
            self.rounds += 1;
            self.grow(departure.full);
        }
    }

    fn learn_rate(&mut self, rate: u64, took: Duration, full: bool, now: Instant) {
        let way = self.round_trip().unwrap_or_default();
        if full && self.rate() > 0 && took > (way + self.time_for(self.limit() as u64)) * 2 + LATE {
            self.rates = [rate; 2];
            self.growing = None;
        }
        let began = *self.spell_began.get_or_insert(now);
        if full && now.saturating_duration_since(began) >= SPELL.max(way * SPELL_ROUND_TRIPS) {
            self.rates = [rate, self.rates[0]];
            self.spell_began = Some(now);
        }
        if full || rate > self.rate() {
            self.rates[0] = self.rates[0].max(rate);
        }
    }

    fn learn_way(&mut self, departure: &Departure, new: Shortest, next_order: u64) {
        let looked = self.looking.is_some_and(|from| departure.order >= from);
        let old = self.shortest.as_mut().filter(|_| !looked);
        let old = old.map(|old| {
            old.rate = old.rate.max(new.rate);
            *old
        });
        if old.is_none_or(|old| new.way() <= old.way()) {
            self.shortest = Some(new);
            self.looking = None;
        } else if self.looking.is_none() && departure.full && self.growing.is_none() {
            let stale = old.is_some_and(|old| new.at.saturating_duration_since(old.at) >= WAY_FRESH);
            self.looking = stale.then_some(next_order);
        }
    }

    fn grow(&mut self, full: bool) {
        let rate = self.rate();
        if let Some((best, flat)) = self.growing.filter(|_| full) {
            self.growing = if rate > best + best / 4 {
                Some((rate, 0))
            } else if flat + 1 < ROUNDS_FLAT {
                Some((best, flat + 1))
            } else {
                None
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A link that carries so many bytes a second with this round trip, filled as the pace allows.
    struct Link {
        pace: Pace,
        bytes_per_s: u32,
        round_trip: Duration,
        now: Instant,
        free: Instant,
        flying: VecDeque<(Instant, Departure, usize)>,
        in_flight: usize,
        order: u64,
        carried: usize,
        longest: Duration,
    }

    impl Link {
        fn new(bytes_per_s: u32, round_trip: Duration) -> Self {
            let now = Instant::now();
            let (pace, flying) = (Pace::default(), VecDeque::new());
            let (in_flight, order, carried, longest) = (0, 0, 0, Duration::ZERO);
            Self { pace, bytes_per_s, round_trip, now, free: now, flying, in_flight, order, carried, longest }
        }

        /// Sends messages of this size, or as large as the pace likes them; returns the part of the link that was used,
        /// and the longest queue in front of it.
        fn run(&mut self, seconds: u64, message: Option<usize>) -> (f64, Duration) {
            let end = self.now + Duration::from_secs(seconds);
            (self.carried, self.longest) = (0, Duration::ZERO);
            while self.now < end {
                while self.in_flight < self.pace.limit() {
                    let bytes = message.unwrap_or_else(|| self.pace.message_bytes());
                    self.in_flight += bytes;
                    let departure = self.pace.leaves(self.order, self.in_flight, bytes, self.now);
                    self.order += 1;
                    self.longest = self.longest.max(self.free.saturating_duration_since(self.now));
                    let own = Duration::from_secs(bytes as u64) / self.bytes_per_s;
                    self.free = self.free.max(self.now) + own;
                    self.flying.push_back((self.free + self.round_trip, departure, bytes));
                }
                let (at, departure, bytes) = self.flying.pop_front().expect("something is in flight");
                self.now = at;
                self.in_flight -= bytes;
                self.carried += bytes;
                self.pace.arrived(&departure, bytes, self.order, self.now);
            }
            #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
            let used = self.carried as f64 / (f64::from(self.bytes_per_s) * seconds as f64);
            (used, self.longest)
        }
    }

    #[test]
    fn a_satellite_link_is_kept_full_with_messages_of_any_size() {
        for message in [Some(200), Some(4 << 10), Some(11 << 10), Some(64 << 10), Some(256 << 10), None] {
            let mut link = Link::new(32_000, Duration::from_millis(600));
            let (used, _) = link.run(120, message);
            assert!(used > 0.9, "{message:?}: {used} from the first second on");
            let (used, longest) = link.run(300, message);
            assert!(used > 0.96, "{message:?}: {used}");
            if message.is_none_or(|bytes| bytes <= 11 << 10) {
                assert!(longest <= Duration::from_secs(1), "{message:?}: {longest:?} of queue");
            }
        }
    }

    #[test]
    fn other_links_are_kept_full_too_and_a_slow_one_has_no_long_queue() {
        for (bytes_per_s, millis) in [(1000, 1000), (300, 300), (200_000, 50), (1_250_000, 600), (100_000_000, 1)] {
            let mut link = Link::new(bytes_per_s, Duration::from_millis(millis));
            let message = usize::try_from(bytes_per_s / 5000).unwrap_or(0).max(200);
            link.run(60, Some(message));
            let (used, longest) = link.run(60, Some(message));
            assert!(used > 0.9, "{bytes_per_s} B/s, {millis} ms: {used}");
            assert!(longest < Duration::from_secs(9), "{bytes_per_s} B/s: {longest:?} of queue");
        }
    }

    #[test]
    fn a_link_that_becomes_another_one_is_followed() {
        let mut link = Link::new(32_000, Duration::from_millis(600));
        link.run(60, None);
        link.bytes_per_s = 2000;
        link.run(60, None);
        let (used, longest) = link.run(120, None);
        assert!(used > 0.9 && longest < Duration::from_secs(3), "slower: {used} {longest:?}");
        link.bytes_per_s = 50_000;
        link.run(60, None);
        let (used, longest) = link.run(60, None);
        assert!(used > 0.9, "faster: {used} {longest:?}");
        link.round_trip = Duration::from_millis(1500);
        link.run(120, None);
        assert!(link.run(60, None).0 > 0.85, "farther away");
        link.round_trip = Duration::from_millis(100);
        link.run(120, None);
        let (used, longest) = link.run(60, None);
        assert!(used > 0.9 && longest < Duration::from_millis(1500), "nearer: {used} {longest:?}");
    }
}
