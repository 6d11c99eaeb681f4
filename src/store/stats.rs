//! What the store counts.

use crate::model::number::PerClass;
use crate::model::stats::{Counter, Gauge, Histogram};

/// Counters and gauges of a store.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Records committed, by class.
    pub stored: PerClass<Counter>,
    /// Segments committed.
    pub segments: Counter,
    /// Commits: of groups of records.
    pub commits: Counter,
    /// Merges of a class's tail into a chunk.
    pub merges: Counter,
    /// Bytes handed to the disk: blocks of tail and marks, pages of chunks (to the log, and again into the database) and
    /// of `meta.db`. What the file system adds is not in it.
    pub written_bytes: Counter,
    /// Commits that failed.
    pub commit_failures: Counter,
    /// How long commits took, failed ones included.
    pub commit_times: Histogram,
    /// Duration of the last commit, ms.
    pub commit_ms_last: Gauge,
    /// Duration of the longest commit, ms.
    pub commit_ms_max: Gauge,
    /// Records evicted before everybody had them, by class.
    pub evicted: PerClass<Counter>,
    /// Chunk files evicted, acknowledged ones included.
    pub chunks_evicted: Counter,
    /// Records that found no place while the store could not commit, by class.
    pub spilled: PerClass<Counter>,
    /// Records lost to damage, by class.
    pub damaged: PerClass<Counter>,
    /// Files set aside.
    pub damaged_files: Counter,
    /// Samples of tags the plan does not have (a fault of ours).
    pub unknown_tags: Counter,
    /// Bytes in the directory after the last commit.
    pub bytes: Gauge,
    /// Never more than this. While a reload is on trial the wider of two bounds holds, so it need not be the plan's.
    pub max_bytes: Gauge,
    /// Records taken and not yet committed.
    pub uncommitted: Gauge,
    /// 1 while the store cannot commit.
    pub failed: Gauge,
    /// Gap records owed, all uplinks together.
    pub gaps_owed: Gauge,
}
