//! When and by which way to try again: what the end of a session, or of the attempt to begin one, means for the next.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::plan::{MqttVersion, Transport};
use crate::road::destination::RoadError;
use crate::road::rotation::Next;

use super::Uplink;
use super::client::Spoken;
use super::ended::Ended;
use super::feeder::PROVED_AFTER;
use super::session::{End, Outcome};
use super::source::Source;
use super::stats::UplinkState;
use super::trouble::Told;
use super::version::Again;

/// What a failure says of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The broker was reached by it.
    Works,
    /// It may be its fault.
    Failed,
}

impl<S: Source> Uplink<S> {
    /// There is a connection: tells with whom, and whether that is not as it was wanted.
    pub(super) fn arrived(&mut self) {
        let at = self.rotation.server();
        self.stats.server.set(at as u64 + 1);
        let Some((first, server)) = self.plan.servers.first().zip(self.plan.servers.get(at)) else { return };
        if server.transport == Transport::Quic {
            self.trouble.clear_quic_blocked();
        } else if first.transport == Transport::Quic {
            self.trouble.quic_blocked(&server.to_string());
        }
    }

    /// After a session that worked the waits begin at the shortest again; not where the broker itself wants us to be slow,
    /// and less and less where each is lost within a minute.
    pub(super) fn shorten_waits(&mut self, outcome: &Outcome) {
        if !outcome.proved || matches!(outcome.end, End::Ended(Ended::TakenOver(_) | Ended::Busy(_))) {
            return;
        }
        if matches!(outcome.end, End::Ended(Ended::Lost(_))) && outcome.stood < PROVED_AFTER {
            self.backoff.count_as(self.brief.another());
        } else {
            self.brief.over();
            self.backoff.reset();
        }
    }

    /// What the end of a session means for the next; `None` when there is none.
    pub(super) fn wait_after(&mut self, spoken: Spoken, outcome: Outcome) -> Option<Duration> {
        let again = self.known[self.rotation.server()].learn(spoken, &outcome, Instant::now().into_std());
        let End::Ended(ended) = outcome.end else {
            self.routing.ended();
            return None;
        };
        if again == Again::AtOnce {
            self.routing.ended();
            let (uplink, spoken) = (self.plan.name.as_str(), spoken.as_str());
            tracing::info!(uplink, spoken, error = ended.reason(), "broker asked again in another way");
            return Some(Duration::ZERO);
        }
        if matches!(ended, Ended::Host(_)) {
            self.rotation.failed(); // the next server
        }
        if let Ended::Host(reason) | Ended::Anew(reason) = ended {
            // no failure of anybody here: soon, and at most as often as after a lost connection
            self.routing.ended();
            self.down(reason, Told::Before);
            return Some(self.timing.retry_first);
        }
        let told = match &ended {
            Ended::Refused(reason) => self.trouble.refused(reason),
            Ended::OtherVersion(reason) if self.plan.mqtt_version != MqttVersion::Auto => self.trouble.refused(reason),
            Ended::TakenOver(reason) => self.trouble.taken_over(reason),
            Ended::Lost(reason) if outcome.proved => match self.brief.suspicious() {
                Some(sessions) => self.trouble.unsteady(sessions, &self.plan.client_id, reason),
                None => Told::Before,
            },
            _ => Told::Before,
        };
        let stays = outcome.proved || matches!(ended, Ended::TakenOver(_));
        let elsewhere = !stays || matches!(ended, Ended::Elsewhere(_));
        // A broker that answers, whatever it says, is reached.
        let reached = !matches!(ended, Ended::Lost(_) | Ended::Silence(_));
        self.stats.unreached.set(u64::from(matches!(ended, Ended::Silence(_))));
        if elsewhere {
            let verdict = if reached { Verdict::Works } else { Verdict::Failed };
            return Some(self.next_server(ended.reason(), told, verdict));
        }
        if reached {
            self.routing.ended();
        } else if self.routing.failed(outcome.proved, &self.source.waiting(), Instant::now()) {
            self.down(ended.reason(), told);
            return Some(Duration::ZERO);
        }
        Some(self.retry_after(ended.reason(), told))
    }

    pub(super) fn no_road(&mut self, error: &RoadError) -> Duration {
        let reason = error.to_string();
        let unreached = matches!(error, RoadError::Unreachable(_));
        self.stats.unreached.set(u64::from(unreached));
        let server = self.plan.servers.get(self.rotation.server());
        if unreached && server.is_some_and(|server| server.transport == Transport::Quic) {
            self.trouble.quic_unreached();
        }
        if let RoadError::Disabled(_) = error {
            let told = self.trouble.disabled(&reason);
            self.down(reason, told);
            self.stats.state(UplinkState::Disabled);
            // An interface that may not be used does not close the other ways.
            let another = self.routing.failed(false, &self.source.waiting(), Instant::now());
            return if another { Duration::ZERO } else { self.timing.files_again };
        }
        self.trouble.clear_disabled();
        let told = if let RoadError::Distrusted(_) = error { self.trouble.refused(&reason) } else { Told::Before };
        self.next_server(reason, told, Verdict::Failed)
    }

    /// At once, until all servers have been tried by every path.
    fn next_server(&mut self, reason: String, told: Told, verdict: Verdict) -> Duration {
        let next = self.rotation.failed();
        if next == Next::Now || verdict == Verdict::Works {
            self.routing.ended();
        }
        let another = match (next, verdict) {
            (Next::Now, _) => true,
            (Next::AfterBackoff, Verdict::Works) => false,
            (Next::AfterBackoff, Verdict::Failed) => self.routing.failed(false, &self.source.waiting(), Instant::now()),
        };
        if another {
            self.down(reason, told);
            Duration::ZERO
        } else {
            self.retry_after(reason, told)
        }
    }

    fn retry_after(&mut self, reason: String, told: Told) -> Duration {
        self.down(reason, told);
        self.backoff.next(&mut self.dice)
    }

    /// Notes a failure, and tells the log once per outage, and again where it turns into one that needs a person.
    fn down(&mut self, reason: String, told: Told) {
        let uplink = self.plan.name.as_str();
        if self.lost_since.is_none() || told == Told::Now {
            self.lost_since.get_or_insert_with(Instant::now);
            tracing::warn!(uplink, error = reason, "uplink down");
        } else {
            tracing::debug!(uplink, error = reason, "uplink still down");
        }
        self.stats.failed(reason);
    }
}
