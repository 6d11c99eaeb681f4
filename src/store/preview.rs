//! A preview: every sample that an uplink is owed, read once beside the daemon, for a summary of an outage.
//!
//! Only reads, and changes nothing of what is owed; page by page, so memory stays small.

use std::ops::ControlFlow;
use std::path::Path;

use crate::model::number::Class;
use crate::model::quality::Quality;
use crate::model::time::Stamp;
use crate::model::value::Value;

use super::DictionaryTag;
use super::cursor::Position;
use super::inspect::LookError;
use super::pages::{Pages, Turned};
use super::segment::Body;

/// One sample that is owed.
#[derive(Debug, Clone, Copy)]
pub struct Previewed<'a> {
    /// Which tag.
    pub tag: &'a DictionaryTag,
    /// Its value.
    pub value: Option<&'a Value>,
    /// Its quality.
    pub quality: Quality,
    /// When it was taken.
    pub at: Stamp,
}

/// Shows `each` the samples of these classes that the uplink had not acknowledged when its cursors were last saved, class
/// by class in the order of their numbers, until it breaks off. Blocks: it reads files.
pub fn preview(
    dir: &Path,
    uplink: &str,
    classes: &[Class],
    each: &mut dyn FnMut(Previewed<'_>) -> ControlFlow<()>,
) -> Result<(), LookError> {
    let mut pages = Pages::open(dir)?;
    for class in classes {
        let ledger = pages.now.state.ledgers.iter().find(|ledger| ledger.name == uplink);
        let cursor = ledger.and_then(|ledger| ledger.cursors[*class].as_ref());
        let Some(cursor) = cursor.cloned() else { continue };
        let mut at = cursor.acked.next();
        loop {
            match pages.turn(*class, at, &|_| true)? {
                Turned::End => break,
                Turned::Skip { next, .. } => at = next,
                Turned::Page(page) => {
                    at = page.next;
                    for (record, seq) in page.records.iter().zip(page.first..) {
                        if cursor.has(Position { seq, ..at }) {
                            continue; // it went ahead of the backlog
                        }
                        let Body::Sample { tag, value, quality } = &record.body else { continue };
                        let Some(tag) = pages.tag(*tag) else { continue };
                        let sample = Previewed { tag: &tag, value: value.as_ref(), quality: *quality, at: record.at };
                        if each(sample).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
