//! Beside a session: looks after what may make it worth ending in order: certificates renewed on disk, the first server,
//! which has been left for long enough, or a token that ends.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::road::Road;

use super::certificates::{Certificates, Fault};

/// Why a session is to be ended that nobody wanted stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The files hold other certificates than it was made with.
    Renewed,
    /// It is not with the first server.
    FirstServer,
    /// Its token is good for little longer.
    Token,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "certificates or keys were renewed",
            Self::FirstServer => "the first server is tried again",
            Self::Token => "a new token is needed",
        }
    }
}

/// What is watched.
pub(super) struct Watch<'a> {
    pub(super) road: &'a mut Road,
    pub(super) certificates: &'a mut Certificates,
    pub(super) clock: &'a Clock,
    /// How often the files are looked at.
    pub(super) every: Duration,
    pub(super) first_server_at: Option<Instant>,
    pub(super) token_at: Option<Instant>,
}

impl Watch<'_> {
    /// Tells the session to `leave` when there is a reason, and goes on looking at the files until it has ended.
    pub(super) async fn run(self, leave: &Stop, reason: &OnceLock<Reason>) -> std::convert::Infallible {
        let (mut first_server_at, mut token_at) = (self.first_server_at, self.token_at);
        loop {
            let due = tokio::select! {
                () = sleep(self.every) => {
                    let files = self.road.files().await;
                    self.certificates.note(&files, self.clock.wall_now(), Fault::Told);
                    files.renewed.then_some(Reason::Renewed)
                }
                () = sleep_until(first_server_at.unwrap_or_else(Instant::now)), if first_server_at.is_some() => {
                    first_server_at = None;
                    Some(Reason::FirstServer)
                }
                () = sleep_until(token_at.unwrap_or_else(Instant::now)), if token_at.is_some() => {
                    token_at = None;
                    Some(Reason::Token)
                }
            };
            if let Some(due) = due {
                reason.get_or_init(|| due);
                leave.begin();
            }
        }
    }
}
