//! What is known of the chain of one device, and when it must be looked for again. Pure; the lane brings time and answers.
//!
//! A chain is believed for one connection, as long as the device answers, and for an hour at most. Then, and whenever a
//! reading or a refusal puts it in doubt, it is walked again. A chain that is not whole, or lacks a model that is wanted, is walked
//! again after a wait that grows: a device that starts may not have all of it yet.

use std::time::Duration;

use tokio::time::Instant;

use super::chain::{Chain, Flaw, Model};
use super::walk::{Ask, Walk};
use crate::model::sunspec::ModelRef;

/// A chain that has all that is wanted is believed for so long. Every reading shows that its own model is where it was; only
/// the second or third of several like it could have become another.
const BELIEVED: Duration = Duration::from_secs(3600);
/// What lacks something is looked for again after this long …
const AGAIN_FIRST: Duration = Duration::from_secs(10);
/// … and at most after this.
const AGAIN_LONGEST: Duration = Duration::from_secs(600);

/// Which connection something was found on ([`crate::field::driver::Driver::connection`]).
pub type Connection = u64;

/// The chain of one device.
#[derive(Debug, Clone)]
pub struct Discovery {
    state: State,
    /// As it was found last, whether or not it is believed.
    last: Option<Chain>,
    /// Walks in a row that lacked something.
    in_vain: u32,
}

#[derive(Debug, Clone)]
enum State {
    Unknown,
    Walking { walk: Walk, on: Connection },
    Known { on: Connection, until: Instant },
}

/// What a walk that ended changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The first chain of this device, or the first try.
    First,
    /// Another chain than last time.
    Changed,
    /// The same.
    Same,
}

impl Default for Discovery {
    /// Nothing known.
    fn default() -> Self {
        Self { state: State::Unknown, last: None, in_vain: 0 }
    }
}

impl Discovery {
    /// What must be asked before the chain can be believed; `None`: nothing, look at [`Self::find`].
    pub fn ask(&mut self, on: Connection, now: Instant) -> Option<Ask> {
        match &mut self.state {
            State::Known { on: found, until } if *found == on && now < *until => return None,
            // What was heard on another connection says nothing; that a base was silent there does.
            State::Walking { walk, on: walked } if *walked == on || !walk.has_base() => {
                *walked = on;
                return Some(walk.ask());
            }
            State::Unknown | State::Walking { .. } | State::Known { .. } => {}
        }
        let walk = Walk::new(self.last.as_ref().and_then(|chain| chain.base));
        let ask = walk.ask();
        self.state = State::Walking { walk, on };
        Some(ask)
    }

    /// The device answered the walk's question; the chain, when it was the last one.
    pub fn heard(&mut self, words: &[u16]) -> Option<Chain> {
        self.walk()?.heard(words)
    }

    /// It refused it.
    pub fn refused(&mut self) -> Option<Chain> {
        self.walk()?.refused()
    }

    /// It did not answer.
    pub fn silent(&mut self) -> Option<Chain> {
        self.walk()?.silent()
    }

    fn walk(&mut self) -> Option<&mut Walk> {
        match &mut self.state {
            State::Walking { walk, .. } => Some(walk),
            State::Unknown | State::Known { .. } => None,
        }
    }

    /// A walk ended with this chain, on this connection; `wanted`: all models that somebody wants of it.
    pub fn settle(&mut self, chain: Chain, on: Connection, wanted: &[ModelRef], now: Instant) -> News {
        let lacks = chain.flaw.is_some() || wanted.iter().any(|wanted| chain.find(*wanted).is_none());
        let wait = if lacks {
            let wait = AGAIN_FIRST.saturating_mul(1 << self.in_vain.min(16)).min(AGAIN_LONGEST);
            self.in_vain = self.in_vain.saturating_add(1);
            wait
        } else {
            self.in_vain = 0;
            BELIEVED
        };
        self.state = State::Known { on, until: now + wait };
        let news = match &self.last {
            None => News::First,
            Some(last) if *last == chain => News::Same,
            Some(_) => News::Changed,
        };
        self.last = Some(chain);
        news
    }

    /// A walk that cannot be brought to an end.
    pub fn give_up(&mut self, flaw: Flaw) -> Chain {
        self.state = State::Unknown;
        Chain { base: None, models: Vec::new(), flaw: Some(flaw) }
    }

    /// The chain may be another one by now.
    pub fn doubt(&mut self) {
        match &self.state {
            // The next base is tried when the device is asked again.
            State::Walking { walk, .. } if !walk.has_base() => {}
            State::Unknown | State::Walking { .. } | State::Known { .. } => self.state = State::Unknown,
        }
    }

    /// Where a model is, if the chain is believed and has it.
    pub fn find(&self, wanted: ModelRef) -> Option<Model> {
        match self.state {
            State::Known { .. } => self.last.as_ref()?.find(wanted),
            State::Unknown | State::Walking { .. } => None,
        }
    }

    /// As it was found last; `None`: it was never walked.
    pub const fn chain(&self) -> Option<&Chain> {
        self.last.as_ref()
    }

    /// When it is looked for again; `None`: now.
    pub const fn until(&self) -> Option<Instant> {
        match self.state {
            State::Known { until, .. } => Some(until),
            State::Unknown | State::Walking { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(numbers: &[u16]) -> Chain {
        let models = numbers.iter().map(|number| Model { number: *number, start: *number, length: 9 }).collect();
        Chain { base: Some(40_000), models, flaw: None }
    }

    fn wanted(number: u16) -> ModelRef {
        ModelRef::new(&[number], 1).expect("a model")
    }

    #[test]
    fn a_chain_is_believed_for_its_connection_and_not_beyond_a_doubt() {
        let now = Instant::now();
        let mut discovery = Discovery::default();
        assert_eq!(discovery.ask(1, now), Some(Ask { start: 40_000, count: 4 }));
        assert_eq!(discovery.find(wanted(103)), None);
        assert_eq!(discovery.settle(chain(&[1, 103]), 1, &[wanted(103)], now), News::First);
        assert!(discovery.ask(1, now + BELIEVED / 2).is_none() && discovery.find(wanted(103)).is_some());
        assert!(discovery.ask(2, now).is_some() && discovery.find(wanted(103)).is_none(), "another connection");
        assert_eq!(discovery.settle(chain(&[1, 103]), 2, &[wanted(103)], now), News::Same);
        discovery.doubt();
        assert!(discovery.find(wanted(103)).is_none() && discovery.ask(2, now).is_some());
        assert_eq!(discovery.settle(chain(&[1, 64_001, 103]), 2, &[wanted(103)], now), News::Changed);
        assert!(discovery.ask(2, now + BELIEVED).is_some(), "an hour");
    }

    #[test]
    fn what_lacks_a_model_is_looked_for_again_ever_more_seldom() {
        let now = Instant::now();
        let mut discovery = Discovery::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            discovery.settle(chain(&[1]), 1, &[wanted(103)], now);
            waits.push(discovery.until().expect("known").duration_since(now).as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
        discovery.settle(chain(&[1, 103]), 1, &[wanted(103)], now);
        discovery.settle(chain(&[1]), 1, &[wanted(103)], now);
        assert_eq!(discovery.until(), Some(now + AGAIN_FIRST));
    }

    #[test]
    fn a_walk_begins_anew_on_another_connection_but_goes_on_to_the_next_base() {
        let now = Instant::now();
        let mut discovery = Discovery::default();
        discovery.ask(1, now);
        assert_eq!(discovery.silent(), None);
        discovery.doubt();
        assert_eq!(discovery.ask(2, now).map(|ask| ask.start), Some(50_000));
        assert_eq!(discovery.heard(&[0x5375, 0x6E53, 1, 65]), None);
        assert_eq!(discovery.ask(2, now).map(|ask| ask.start), Some(50_069));
        assert_eq!(discovery.ask(3, now).map(|ask| ask.start), Some(40_000), "from the beginning");
    }
}
