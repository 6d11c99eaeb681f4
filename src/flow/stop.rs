//! Stopping: sources hear it, everyone else ends when the channel in front closes ("The stop" in `src/lib.rs`).

use tokio_util::sync::CancellationToken;

/// Handed to sources (buses, doors, uplinks). Two stages: finish in order, then hurry.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    begin: CancellationToken,
    hurry: CancellationToken,
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// First SIGTERM: stop in order.
    pub fn begin(&self) {
        self.begin.cancel();
    }

    /// Second SIGTERM: skip to the commit.
    pub fn hurry(&self) {
        self.begin.cancel();
        self.hurry.cancel();
    }

    /// Resolves when stopping has begun. Cancel-safe.
    pub async fn begun(&self) {
        self.begin.cancelled().await;
    }

    /// Resolves when it must be quick. Cancel-safe.
    pub async fn hurried(&self) {
        self.hurry.cancelled().await;
    }

    /// Has stopping begun?
    pub fn is_begun(&self) -> bool {
        self.begin.is_cancelled()
    }

    /// Must it be quick?
    pub fn is_hurried(&self) -> bool {
        self.hurry.is_cancelled()
    }

    /// A stop of one part: ends with the whole, or on its own (a reload that removes one bus).
    #[must_use]
    pub fn child(&self) -> Self {
        Self { begin: self.begin.child_token(), hurry: self.hurry.child_token() }
    }
}
