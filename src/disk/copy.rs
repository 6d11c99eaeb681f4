//! What a copy of `meta.db` lacks that was made some edits ago: how bad it would be to go on from it.

use super::meta::Edit;

/// In order: more is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// Nothing that matters: an old cursor only means that records go out twice, epochs are read back from chunks and marks.
    Nothing,
    /// What was counted on the wire lately: so much may be sent beyond a budget.
    Meters,
    /// Something that nothing else tells.
    Facts,
}

impl Behind {
    /// What a copy lacks without this edit.
    pub(super) const fn without(edit: &Edit) -> Self {
        match edit {
            Edit::PutCursor(_) | Edit::PutEpoch(_) | Edit::PutValue(..) => Self::Nothing,
            Edit::PutMeter(_) => Self::Meters,
            _ => Self::Facts,
        }
    }
}
