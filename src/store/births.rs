//! What an edge node of Sparkplug needs of the store besides records: under which id each tag is known, and how often it has
//! connected (`bdSeq`, tck-id-topics-nbirth-bdseq-increment: it goes on from CONNECT to CONNECT, 0 after 255, also over a restart).
//!
//! The count is a value in `meta.db`, named `bdseq <uplink>`. It is on disk before it is used: a number used twice would let a
//! host take the death of an older session for that of the present one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Control, DictionaryTag, StoreHandle};
use crate::disk::meta::Edit;

const PREFIX: &str = "bdseq ";
/// A disk that takes longer does not keep a link from being used; the count is right for as long as the process lives.
const KEPT_WITHIN: Duration = Duration::from_secs(10);

/// The numbers used last, out of all single values.
pub(super) fn counted(values: &[(String, i64)]) -> HashMap<String, u8> {
    let of = |(name, number): &(String, i64)| {
        Some((name.strip_prefix(PREFIX)?.to_owned(), u8::try_from(number.rem_euclid(256)).ok()?))
    };
    values.iter().filter_map(of).collect()
}

impl StoreHandle {
    /// All tags that records may name, those of earlier plans included; `None` until the store could be opened.
    pub fn dictionary(&self) -> Option<Vec<Arc<DictionaryTag>>> {
        let state = self.shared.state();
        state.opened.then(|| state.dictionary.values().cloned().collect())
    }

    /// The number of the next session of an edge node; on disk when it returns, unless the disk does not take it within
    /// 10 s. `None` until the store could be opened. Cancelled, it may have used up a number.
    pub async fn next_session(&self, uplink: &str) -> Option<u8> {
        let number = {
            let mut state = self.shared.state();
            if !state.opened {
                return None;
            }
            let number = state.sessions.get(uplink).map_or(0, |before| before.wrapping_add(1));
            state.sessions.insert(uplink.to_owned(), number);
            state.edits.push(Edit::PutValue(format!("{PREFIX}{uplink}").into(), number.into()));
            number
        };
        let (done, saved) = oneshot::channel();
        let kept = async { self.control.send(Control::Save(done)).await.is_ok() && saved.await.is_ok() };
        if !timeout(KEPT_WITHIN, kept).await.unwrap_or(false) {
            tracing::warn!(uplink, number, "the number of a session is not on disk yet");
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_by_its_uplink_and_nothing_else_is_one() {
        let values = [("bdseq cloud".to_owned(), 255), ("wall".to_owned(), 7), ("bdseq a b".to_owned(), 256)];
        let counted = counted(&values);
        assert_eq!(counted.len(), 2);
        assert_eq!((counted["cloud"], counted["a b"]), (255, 0));
    }
}
