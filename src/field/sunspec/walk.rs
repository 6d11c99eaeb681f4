//! One walk along a chain: which register is asked next, and what the answer says. Pure; whoever walks brings the answers.
//!
//! ```text
//! base + 0   0x5375 0x6E53   "SunS"; base is 40000, 50000 or 0 (Device Information Model Specification 1.2, section 6.1)
//! base + 2   number  length  of the first model, then `length` registers of points
//! …          number  length  of the next one
//! …          0xFFFF  0       the end
//! ```
//!
//! Only headers are read, one request each, the first together with the marker. Bounded: the chain only ever goes upwards, no
//! model is empty, there are at most so many. A device that leaves a question about one base without an answer is asked about the
//! next one: some are silent where others refuse.

use super::chain::{Chain, Flaw, Model};
use crate::model::sunspec::{END, HEADER_REGISTERS};

/// Where a chain may begin, the usual place first.
pub const BASES: [u16; 3] = [40_000, 50_000, 0];
/// Large storage systems have some thirty.
pub const MODELS_MAX: usize = 100;
const SUNS: [u16; 2] = [0x5375, 0x6E53];
/// A base about which a device that answers is silent so often has no chain.
const SILENCES_MAX: u8 = 2;

/// Holding registers to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The first.
    pub start: u16,
    /// How many.
    pub count: u16,
}

/// A walk under way.
#[derive(Debug, Clone)]
pub struct Walk {
    /// In the order in which they are tried.
    bases: [Candidate; 3],
    at: At,
    /// The device has said something during this walk.
    answered: bool,
    models: Vec<Model>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    base: u16,
    silences: u8,
    ruled_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The marker of this candidate.
    Base(usize),
    /// A header.
    Header { base: u16, start: u16 },
    /// Half a header: some devices end with the marker, and the register behind it does not exist.
    Half { base: u16, start: u16 },
}

impl Walk {
    /// Not begun; `known`: where the chain was last time.
    pub fn new(known: Option<u16>) -> Self {
        let candidate = |base| Candidate { base, silences: 0, ruled_out: false };
        let mut bases = BASES.map(candidate);
        bases.sort_by_key(|candidate| Some(candidate.base) != known); // stable
        Self { bases, at: At::Base(0), answered: false, models: Vec::new() }
    }

    /// What to read next.
    pub fn ask(&self) -> Ask {
        match self.at {
            At::Base(place) => Ask { start: self.bases[place].base, count: 4 },
            At::Header { start, .. } => Ask { start, count: HEADER_REGISTERS },
            At::Half { start, .. } => Ask { start, count: 1 },
        }
    }

    /// Has it found a base?
    pub const fn has_base(&self) -> bool {
        !matches!(self.at, At::Base(_))
    }

    /// The device answered with these registers; the chain, when this was its end.
    pub fn heard(&mut self, words: &[u16]) -> Option<Chain> {
        self.answered = true;
        match (self.at, words) {
            (At::Base(place), [mark @ .., number, length]) if *mark == SUNS => {
                let base = self.bases[place].base;
                self.header(base, base + 2, *number, *length)
            }
            (At::Base(place), _) => self.rule_out(place),
            (At::Header { base, start }, [number, length]) => self.header(base, start, *number, *length),
            (At::Half { base, .. }, [END]) => Some(self.end(base, None)),
            (At::Header { base, start } | At::Half { base, start }, _) => {
                Some(self.end(base, Some(Flaw::Truncated { at: start.into() })))
            }
        }
    }

    /// The device refused the question; the chain, when this was its end.
    pub fn refused(&mut self) -> Option<Chain> {
        self.answered = true;
        match self.at {
            At::Base(place) => self.rule_out(place),
            At::Header { base, start } => {
                self.at = At::Half { base, start };
                None
            }
            At::Half { base, start } => Some(self.end(base, Some(Flaw::Truncated { at: start.into() }))),
        }
    }

    /// No answer came; the chain, when there is nothing left to ask.
    pub fn silent(&mut self) -> Option<Chain> {
        let At::Base(place) = self.at else { return None };
        if self.answered {
            let candidate = &mut self.bases[place];
            candidate.silences += 1;
            if candidate.silences >= SILENCES_MAX {
                return self.rule_out(place);
            }
        }
        self.next_base(place)
    }

    fn rule_out(&mut self, place: usize) -> Option<Chain> {
        self.bases[place].ruled_out = true;
        self.next_base(place)
    }

    /// The next candidate, in a circle.
    fn next_base(&mut self, place: usize) -> Option<Chain> {
        let count = self.bases.len();
        let next = (1..=count).map(|step| (place + step) % count).find(|next| !self.bases[*next].ruled_out);
        match next {
            Some(next) => {
                self.at = At::Base(next);
                None
            }
            None => Some(Chain { base: None, models: Vec::new(), flaw: Some(Flaw::NoMap) }),
        }
    }

    fn header(&mut self, base: u16, start: u16, number: u16, length: u16) -> Option<Chain> {
        if number == END {
            return Some(self.end(base, None));
        }
        let model = Model { number, start, length };
        let behind = u32::from(start) + model.registers();
        if number == 0 || length == 0 || behind > 0x1_0000 {
            return Some(self.end(base, Some(Flaw::Junk { at: start, number, length })));
        }
        if self.models.len() == MODELS_MAX {
            return Some(self.end(base, Some(Flaw::Endless(MODELS_MAX))));
        }
        self.models.push(model);
        let Ok(start) = u16::try_from(behind) else {
            return Some(self.end(base, Some(Flaw::Truncated { at: behind })));
        };
        self.at = At::Header { base, start };
        None
    }

    fn end(&mut self, base: u16, flaw: Option<Flaw>) -> Chain {
        Chain { base: Some(base), models: std::mem::take(&mut self.models), flaw }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that has these registers from `base` on and refuses all others.
    fn walked(base: u16, words: &[u16]) -> (Chain, usize) {
        let mut walk = Walk::new(None);
        for asked in 1.. {
            let Ask { start, count } = walk.ask();
            let there = start.checked_sub(base).map(usize::from);
            let there = there.and_then(|first| words.get(first..first + usize::from(count)));
            let ended = match there {
                Some(words) => walk.heard(words),
                None => walk.refused(),
            };
            if let Some(chain) = ended {
                return (chain, asked);
            }
            assert!(asked < 1000, "it ends");
        }
        unreachable!()
    }

    /// "SunS", models of these numbers and lengths, then what comes behind.
    fn map(models: &[(u16, u16)], behind: &[u16]) -> Vec<u16> {
        let mut words = SUNS.to_vec();
        for (number, length) in models {
            words.extend([*number, *length]);
            words.extend(vec![7; usize::from(*length)]);
        }
        words.extend(behind);
        words
    }

    #[test]
    fn a_chain_is_found_at_each_base_with_one_request_per_model() {
        for (base, refusals) in [(40_000, 0), (50_000, 1), (0, 2)] {
            for common in [65, 66] {
                let (chain, asked) = walked(base, &map(&[(1, common), (64_001, 3), (103, 50)], &[END, 0]));
                let starts: Vec<_> = chain.models.iter().map(|model| model.start - base).collect();
                assert_eq!((chain.base, chain.flaw), (Some(base), None));
                assert_eq!(starts, [2, 4 + common, 9 + common]);
                assert_eq!(asked, 4 + refusals);
            }
        }
    }

    #[test]
    fn an_end_marker_without_a_length_is_an_end() {
        assert_eq!(walked(0, &map(&[(1, 65)], &[END])).0.flaw, None);
        assert_eq!(walked(0, &map(&[], &[END, 0])).0, Chain { base: Some(0), models: Vec::new(), flaw: None });
    }

    #[test]
    fn what_is_no_chain_ends_the_walk_with_what_was_found_before() {
        let flaw = |behind: &[u16]| {
            let (chain, asked) = walked(40_000, &map(&[(1, 65), (103, 50)], behind));
            assert!(asked < 10 && chain.models.len() == 2, "{chain:?}");
            chain.flaw
        };
        assert_eq!(flaw(&[]), Some(Flaw::Truncated { at: 40_121 }));
        assert_eq!(flaw(&[5]), Some(Flaw::Truncated { at: 40_121 }));
        assert_eq!(flaw(&[0, 0]), Some(Flaw::Junk { at: 40_121, number: 0, length: 0 }));
        assert_eq!(flaw(&[120, 0]), Some(Flaw::Junk { at: 40_121, number: 120, length: 0 }));
        assert_eq!(flaw(&[120, 40_000]), Some(Flaw::Junk { at: 40_121, number: 120, length: 40_000 }));
    }

    #[test]
    fn a_chain_without_an_end_is_given_up() {
        let (chain, asked) = walked(0, &map(&vec![(64_000, 1); 2000], &[]));
        assert_eq!(chain.flaw, Some(Flaw::Endless(MODELS_MAX)));
        assert_eq!((chain.models.len(), asked), (MODELS_MAX, MODELS_MAX + 3), "two other bases first");
        let to_the_end = map(&[(64_000, 65_530)], &[]);
        assert_eq!(walked(0, &to_the_end).0.flaw, Some(Flaw::Truncated { at: 65_534 }));
    }

    #[test]
    fn a_device_without_a_chain_is_asked_for_each_base_and_then_known_to_have_none() {
        let (chain, asked) = walked(40_000, &[1, 2, 3, 4]);
        assert_eq!((chain.base, chain.flaw, asked), (None, Some(Flaw::NoMap), 3));
    }

    #[test]
    fn a_device_that_is_silent_about_a_base_is_asked_about_the_next() {
        let mut walk = Walk::new(None);
        let mut asked = Vec::new();
        for _ in 0..7 {
            asked.push(walk.ask().start);
            assert_eq!(walk.silent(), None, "nobody there: for ever");
        }
        assert_eq!(asked, [40_000, 50_000, 0, 40_000, 50_000, 0, 40_000]);
        let mut walk = Walk::new(Some(50_000));
        assert_eq!(walk.ask().start, 50_000, "where it was last time");
        assert_eq!(walk.refused(), None);
        for base in [40_000, 0, 40_000] {
            assert_eq!(walk.ask().start, base);
            assert_eq!(walk.silent(), None);
        }
        assert_eq!(walk.silent().and_then(|chain| chain.flaw), Some(Flaw::NoMap), "it answers, and not there");
    }
}
