//! What the gateway tells of itself on its control socket, with or without a status page.

use super::figures;
use super::sources::Sources;

/// What a command on this box may ask of the running gateway, whoever may see the status page.
#[derive(Clone)]
pub struct Insight(pub(super) Sources);

impl Insight {
    /// As `GET /api/status` has it, for somebody who may see all.
    pub fn status(&self) -> String {
        let board = self.0.board();
        serde_json::to_string(&board.with_alarms(|_| true)).unwrap_or_else(|error| error.to_string())
    }

    /// As `GET /metrics` has it.
    pub fn metrics(&self) -> String {
        figures::all(&self.0).text().unwrap_or_else(|error| error.to_string())
    }
}
