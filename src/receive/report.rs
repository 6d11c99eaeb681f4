//! What a ledger says: sums, and each epoch of each stream.

use serde::Serialize;

/// Sums over all streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Different records.
    pub received: u64,
    /// Records that came again.
    pub duplicates: u64,
    /// New records that came after a higher number of their epoch.
    pub out_of_order: u64,
    /// Numbers that the gateway declared lost and that indeed did not come.
    pub declared_lost: u64,
    /// Numbers that should have come and did not.
    pub missing: u64,
    /// Numbers that the gateway says it has and that did not come yet.
    pub outstanding: u64,
    /// Records of epochs beyond the limit of this ledger, and gap records beyond that of an epoch.
    pub not_tracked: u64,
    /// Each stream and epoch.
    pub streams: Vec<StreamReport>,
}

/// Sums never overflow, whatever a stranger claims.
impl FromIterator<StreamReport> for Report {
    fn from_iter<T: IntoIterator<Item = StreamReport>>(streams: T) -> Self {
        let streams: Vec<StreamReport> = streams.into_iter().collect();
        let sum = |of: fn(&StreamReport) -> u64| streams.iter().map(of).fold(0, u64::saturating_add);
        Self {
            received: sum(|stream| stream.received),
            duplicates: sum(|stream| stream.duplicates),
            out_of_order: sum(|stream| stream.out_of_order),
            declared_lost: sum(|stream| stream.declared_lost),
            missing: sum(|stream| stream.missing),
            outstanding: sum(|stream| stream.outstanding),
            not_tracked: 0,
            streams,
        }
    }
}

impl Report {
    /// Nothing is missing and nothing went untracked.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && self.not_tracked == 0
    }
}

/// One epoch of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// Whose, if its gateway has said its name: a tag topic alone does not tell.
    pub gateway: Option<String>,
    /// The class.
    pub stream: &'static str,
    /// The epoch.
    pub epoch: u64,
    /// Lowest number that came.
    pub first: Option<u64>,
    /// Highest number that came.
    pub last: Option<u64>,
    /// See [`Report`].
    pub received: u64,
    /// See [`Report`].
    pub duplicates: u64,
    /// See [`Report`].
    pub out_of_order: u64,
    /// See [`Report`].
    pub declared_lost: u64,
    /// See [`Report`].
    pub missing: u64,
    /// The first missing ranges, inclusive.
    pub holes: Vec<(u64, u64)>,
    /// See [`Report`].
    pub outstanding: u64,
    /// The epoch before this one, if a record named it.
    pub previous_epoch: Option<u64>,
}
