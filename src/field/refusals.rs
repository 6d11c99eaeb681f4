//! Which registers a device refuses with an exception: said once, until they are read again, and in one line for all of a
//! round, because a map that is wrong is wrong in many places. Pure; the bus says when.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::blocks::Block;
use crate::model::sunspec::ModelRef;
use crate::model::tag::Table;

/// Named in a line; the others are counted.
const NAMED_MAX: usize = 8;

/// Where a block begins.
type Place = (Table, Option<ModelRef>, u16);

/// Of one device; no more of them than it has polls.
#[derive(Debug, Default)]
pub struct Refusals {
    known: BTreeMap<Place, Refused>,
}

#[derive(Debug)]
struct Refused {
    code: u8,
    told: Told,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Yes,
    No,
}

/// What was refused since it was last said.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// Blocks.
    pub count: usize,
    /// `holding:900 (exception 2), …`
    pub registers: String,
}

impl Refusals {
    /// The device answered this block with an exception, and will not be asked for less of it.
    pub fn refused(&mut self, block: &Block, code: u8) {
        let place = (block.table, block.model, block.start);
        self.known.entry(place).or_insert(Refused { code, told: Told::No });
    }

    /// It was read.
    pub fn read(&mut self, block: &Block) {
        if !self.known.is_empty() {
            let last = block.start.saturating_add(block.count.saturating_sub(1));
            let inside = |(table, model, start): &Place| {
                (*table, *model) == (block.table, block.model) && (block.start..=last).contains(start)
            };
            self.known.retain(|place, _| !inside(place));
        }
    }

    /// What there is to say; once.
    pub fn news(&mut self) -> Option<News> {
        let mut news = News { count: 0, registers: String::new() };
        for ((table, model, start), refused) in self.known.iter_mut().filter(|(_, refused)| refused.told == Told::No) {
            refused.told = Told::Yes;
            news.count += 1;
            if news.count <= NAMED_MAX {
                let comma = if news.count == 1 { "" } else { ", " };
                let place = if model.is_some() { " of its model" } else { "" };
                // writing to a String cannot fail
                let _ = write!(news.registers, "{comma}{}:{start}{place} (exception {})", table.as_str(), refused.code);
            }
        }
        if news.count > NAMED_MAX {
            news.registers.push_str(", …");
        }
        (news.count > 0).then_some(news)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::tag::DeviceIx;

    fn block(start: u16, count: u16) -> Block {
        let (period, tags) = (Duration::from_secs(1), Vec::new());
        Block { device: DeviceIx(0), table: Table::Holding, model: None, start, count, period, tags }
    }

    #[test]
    fn what_is_refused_is_told_once_until_it_is_read_again() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.news(), None);
        refusals.refused(&block(900, 2), 2);
        refusals.refused(&block(900, 2), 2);
        let told = || News { count: 1, registers: "holding:900 (exception 2)".to_owned() };
        assert_eq!(refusals.news(), Some(told()));
        refusals.refused(&block(900, 2), 2);
        refusals.read(&block(880, 20));
        assert_eq!(refusals.news(), None, "known already, and not among those that were read");
        refusals.read(&block(880, 30));
        refusals.refused(&block(900, 2), 2);
        assert_eq!(refusals.news(), Some(told()));
    }

    #[test]
    fn a_map_that_is_wrong_everywhere_is_one_line() {
        let mut refusals = Refusals::default();
        (0..500).for_each(|start| refusals.refused(&block(start, 1), 3));
        let news = refusals.news().expect("there is something to tell");
        assert!(news.count == 500 && news.registers.len() < 250, "{news:?}");
        assert!(news.registers.starts_with("holding:0 (exception 3), holding:1 ") && news.registers.ends_with('…'));
        assert_eq!(refusals.news(), None);
    }
}
