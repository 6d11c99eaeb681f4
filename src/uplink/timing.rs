//! How patient an uplink is.

use std::time::Duration;

use super::forbidden;
use crate::road::rotation;

/// How patient an uplink is. The defaults are for links with seconds of round trip; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Ceiling of the first wait before a reconnect; doubles with each failure.
    pub retry_first: Duration,
    /// Ceiling of all waits.
    pub retry_max: Duration,
    /// How often missing or broken files are looked at again (that costs nothing on the wire).
    pub files_again: Duration,
    /// A session without an acknowledgement for this long, while it is owed one, is thrown away.
    pub stalled: Duration,
    /// What the broker refused is sent again after this long.
    pub refused_again: Duration,
    /// How long the broker must refuse a topic, while it takes others, before that is given up until it is allowed again.
    pub forbidden_after: Duration,
    /// How often the status is refreshed while the numbers in it move on.
    pub status_every: Duration,
    /// What is retained on topics that go both ways is read again so long after it was read, where that has been contested;
    /// doubles each time.
    pub read_again: Duration,
    /// How long a stop waits for acknowledgements.
    pub stop_wait: Duration,
    /// How long a path that was down must be healthy before it is taken again; also the least time on a path.
    pub path_healthy: Duration,
    /// How long a later server is kept before the first one is tried again.
    pub first_server_again: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(15 * 60),
            files_again: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
            refused_again: Duration::from_secs(30),
            forbidden_after: forbidden::AFTER,
            status_every: Duration::from_secs(60),
            read_again: Duration::from_secs(10),
            stop_wait: Duration::from_secs(10),
            path_healthy: Duration::from_secs(60),
            first_server_again: rotation::DWELL,
        }
    }
}
