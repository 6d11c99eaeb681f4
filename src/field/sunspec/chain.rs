//! The models of a device: which, where, how long; and why the list ends. Pure.

use std::fmt;

use crate::model::sunspec::{HEADER_REGISTERS, ModelRef};

/// One model, as its header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Its number.
    pub number: u16,
    /// The register that holds the number.
    pub start: u16,
    /// Registers behind the header.
    pub length: u16,
}

impl Model {
    /// Registers with the header.
    pub const fn registers(&self) -> u32 {
        HEADER_REGISTERS as u32 + self.length as u32
    }

    /// Is this its header?
    pub fn has_header(&self, words: &[u16]) -> bool {
        words.get(..2) == Some(&[self.number, self.length])
    }
}

/// Why a chain ends before its end marker, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Nowhere.
    #[error("no \"SunS\" at register 40000, 50000 or 0")]
    NoMap,
    /// What should be a header is none.
    #[error("the header at register {at} is none: number {number}, length {length}")]
    Junk {
        /// Where.
        at: u16,
        /// What stands for the number.
        number: u16,
        /// And for the length.
        length: u16,
    },
    /// The device does not let itself be asked where the next header should be.
    #[error("there is no header at register {at}, and no end marker")]
    Truncated {
        /// Where.
        at: u32,
    },
    /// More models than anything that is a device has.
    #[error("it does not end after {0} models")]
    Endless(usize),
    /// The device is busy, whenever it is asked.
    #[error("the device is too busy to tell")]
    Busy,
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The register of its "SunS"; `None`: none was found.
    pub base: Option<u16>,
    /// In the order of the chain.
    pub models: Vec<Model>,
    /// Why it is not whole. What was found before that is there all the same.
    pub flaw: Option<Flaw>,
}

impl Chain {
    /// Where a model is.
    pub fn find(&self, wanted: ModelRef) -> Option<Model> {
        let place = usize::from(wanted.nth()).checked_sub(1)?;
        self.models.iter().filter(|model| wanted.is(model.number)).nth(place).copied()
    }
}

/// Number and length of each, as `1 (66), 103 (50)`; `none`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.models.is_empty() {
            return f.write_str("none");
        }
        for (place, model) in self.models.iter().enumerate() {
            write!(f, "{}{} ({})", if place == 0 { "" } else { ", " }, model.number, model.length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_by_number_by_alternative_and_by_place_among_its_like() {
        let model = |number, start, length| Model { number, start, length };
        let models = vec![model(1, 40_002, 66), model(160, 40_070, 48), model(103, 40_120, 50), model(160, 40_172, 28)];
        let chain = Chain { base: Some(40_000), models, flaw: None };
        let start =
            |numbers: &[u16], nth| chain.find(ModelRef::new(numbers, nth).expect("a model")).map(|model| model.start);
        assert_eq!(start(&[103], 1), Some(40_120));
        assert_eq!(start(&[101, 102, 103], 1), Some(40_120));
        assert_eq!((start(&[160], 1), start(&[160], 2), start(&[160], 3)), (Some(40_070), Some(40_172), None));
        assert_eq!(start(&[101], 1), None);
        assert_eq!(chain.to_string(), "1 (66), 160 (48), 103 (50), 160 (28)");
    }
}
