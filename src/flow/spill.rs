//! What the durable lane had no room for: counted per class, until the store numbers it into gap records.
//!
//! Fed by the hub, emptied by the store; bounded, for it only counts.

use std::sync::Mutex;

use crate::model::lock::Hold as _;
use crate::model::number::{Class, PerClass};
use crate::model::time::Stamp;

/// Samples that found the durable lane full, per class, waiting for the store to number them into gap records.
#[derive(Debug, Default)]
pub struct Spill {
    lost: Mutex<PerClass<Option<Lost>>>,
}

/// How many samples of one class were not stored, and when they were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Stamp,
    /// The last of them.
    pub last: Stamp,
}

impl Spill {
    /// Counts one sample (or event) that was not stored.
    pub fn add(&self, class: Class, at: Stamp) {
        let mut lost = self.lost.hold();
        let slot = &mut lost[class];
        match slot {
            Some(lost) => {
                lost.count += 1;
                lost.last = at;
            }
            None => *slot = Some(Lost { count: 1, first: at, last: at }),
        }
    }

    /// The store takes what was lost since it last asked, in class order.
    pub fn take(&self) -> PerClass<Option<Lost>> {
        std::mem::take(&mut *self.lost.hold())
    }
}
