//! What the operator is told: each condition once when it begins and once when it ends, however often it is retried.

use std::time::Duration;

use tokio::time::Instant;

use crate::flow::notice::{Notice, Notices, Phase};

/// A file, key or certificate on this box must be mended.
const DISABLED: &str = "uplink_disabled";
/// Broker and gateway do not accept each other: certificate, user, client id.
const REFUSED: &str = "uplink_refused";

/// The broker is reached, but not by QUIC, which stands first in the list.
const QUIC_BLOCKED: &str = "uplink_quic_blocked";

/// Another client has our client id.
const TAKEN_OVER: &str = "uplink_taken_over";

/// One session after the other works, and is lost within a minute.
const UNSTEADY: &str = "uplink_unsteady";

/// The broker will not take a record; a gap record was put in its place.
const RECORD_REFUSED: &str = "uplink_record_refused";

/// The broker does not take a record for now, and only a person up there can change that: it is kept and sent again.
const NOT_TAKEN: &str = "uplink_not_taken";

/// The broker takes other topics and not this one: its records become gap records until it does.
const FORBIDDEN: &str = "uplink_topic_forbidden";

/// So many of them are named; the log has each.
const FORBIDDEN_NAMED: usize = 4;

/// The primary host of an edge node has not been there for long, and nothing goes without it.
const HOST_AWAITED: &str = "host_awaited";

/// Messages that a bridge should have carried are gone.
const BRIDGE_LOST: &str = "bridge_lost";

/// Whether the operator has just been told, or knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Now,
    Before,
}

/// Of one uplink.
pub(super) struct Trouble {
    name: String,
    notices: Notices,
    disabled: Option<String>,
    refused: Option<String>,
    taken_over: Option<String>,
    unsteady: bool,
    quic_blocked: Option<String>,
    /// A server was asked by QUIC and could not be reached, and none was reached so since.
    quic_unreached: bool,
    host_awaited: Option<String>,
    /// With when the broker last said so.
    not_taken: Option<(Instant, String)>,
    /// Topics, the newest first; as many as are kept apart (`forbidden`).
    forbidden: Vec<String>,
    /// The broker refused the status, and has not taken one since.
    status_refused: bool,
}

impl Trouble {
    pub(super) fn new(name: String, notices: Notices) -> Self {
        Self {
            name,
            notices,
            disabled: None,
            refused: None,
            taken_over: None,
            unsteady: false,
            quic_blocked: None,
            quic_unreached: false,
            host_awaited: None,
            not_taken: None,
            forbidden: Vec::new(),
            status_refused: false,
        }
    }

    /// Says whether that is news.
    pub(super) fn disabled(&mut self, detail: &str) -> Told {
        if self.disabled.replace(detail.to_owned()).is_some() {
            return Told::Before;
        }
        self.tell(DISABLED, Phase::Active, detail);
        Told::Now
    }

    pub(super) fn clear_disabled(&mut self) {
        if let Some(detail) = self.disabled.take() {
            self.tell(DISABLED, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// Says whether that is news.
    pub(super) fn refused(&mut self, detail: &str) -> Told {
        if self.refused.replace(detail.to_owned()).is_some() {
            return Told::Before;
        }
        self.tell(REFUSED, Phase::Active, detail);
        Told::Now
    }

    pub(super) fn clear_refused(&mut self) {
        if let Some(detail) = self.refused.take() {
            self.tell(REFUSED, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// Says whether that is news.
    pub(super) fn taken_over(&mut self, detail: &str) -> Told {
        if self.taken_over.replace(detail.to_owned()).is_some() {
            return Told::Before;
        }
        self.tell(TAKEN_OVER, Phase::Active, detail);
        Told::Now
    }

    fn clear_taken_over(&mut self) {
        if let Some(detail) = self.taken_over.take() {
            self.tell(TAKEN_OVER, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// So many sessions in a row did not last. Says whether that is news.
    pub(super) fn unsteady(&mut self, sessions: u32, client_id: &str, reason: &str) -> Told {
        if std::mem::replace(&mut self.unsteady, true) {
            return Told::Before;
        }
        let detail = format!(
            "{sessions} sessions in a row worked and were lost within a minute ({reason}): does another client connect as \
             \"{client_id}\" (two gateways with one name?), or does the link last no longer?"
        );
        tracing::warn!(uplink = self.name, detail, "sessions do not last");
        self.tell(UNSTEADY, Phase::Active, &detail);
        Told::Now
    }

    /// A session stands for long: nothing that ends one early is true any more.
    pub(super) fn clear_fleeting(&mut self) {
        self.clear_taken_over();
        self.clear_refused();
        if std::mem::take(&mut self.unsteady) {
            self.tell(UNSTEADY, Phase::Cleared, "a session lasts again");
        }
    }

    /// A server that is to be reached by QUIC was not.
    pub(super) fn quic_unreached(&mut self) {
        self.quic_unreached = true;
    }

    /// Connected to this server, and not by QUIC as was wanted first. Not told where QUIC works and its server was left for
    /// another reason: the way has nothing to do with that.
    pub(super) fn quic_blocked(&mut self, instead: &str) {
        if self.quic_unreached && self.quic_blocked.is_none() {
            let detail = format!("no QUIC connection, goes by {instead} (is UDP blocked on the way?)");
            tracing::warn!(uplink = self.name, detail, "uplink falls back");
            self.tell(QUIC_BLOCKED, Phase::Active, &detail);
            self.quic_blocked = Some(detail);
        }
    }

    pub(super) fn clear_quic_blocked(&mut self) {
        self.quic_unreached = false;
        if let Some(detail) = self.quic_blocked.take() {
            self.tell(QUIC_BLOCKED, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// The connection stands, and everything waits for the primary host.
    pub(super) fn host_awaited(&mut self, detail: &str) {
        if self.host_awaited.is_none() {
            tracing::warn!(uplink = self.name, detail, "the primary host is waited for");
            self.tell(HOST_AWAITED, Phase::Active, detail);
            self.host_awaited = Some(detail.to_owned());
        }
    }

    /// The primary host says that it is there.
    pub(super) fn host_is_there(&mut self) {
        if self.host_awaited.take().is_some() {
            self.tell(HOST_AWAITED, Phase::Cleared, "the primary host is there");
        }
    }

    /// The broker said why it does not take a record now.
    pub(super) fn not_taken(&mut self, detail: &str, now: Instant) {
        match &mut self.not_taken {
            Some((at, _)) => *at = now,
            None => {
                self.not_taken = Some((now, detail.to_owned()));
                tracing::warn!(uplink = self.name, error = detail, "the broker does not take a record");
                self.tell(NOT_TAKEN, Phase::Active, detail);
            }
        }
    }

    /// Something was taken. What was not has been sent again several times in `quiet`, so that nothing is withheld any
    /// more if the broker did not complain for that long.
    pub(super) fn taken(&mut self, quiet: Duration, now: Instant) {
        if let Some((_, detail)) = self.not_taken.take_if(|(at, _)| now.saturating_duration_since(*at) >= quiet) {
            self.tell(NOT_TAKEN, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// The broker took the status, or refused it for this reason. Records are another matter, and so it is told by itself, once.
    pub(super) fn status(&mut self, refused: Option<&str>) {
        let before = std::mem::replace(&mut self.status_refused, refused.is_some());
        if let Some(why) = refused.filter(|_| !before) {
            tracing::warn!(uplink = self.name, error = why, "the broker does not take the status");
            self.tell(NOT_TAKEN, Phase::Once, &format!("the broker does not take the status: {why}; it is sent again"));
        }
    }

    /// A record was given up.
    pub(super) fn record_refused(&self, detail: &str) {
        self.tell(RECORD_REFUSED, Phase::Once, detail);
    }

    /// Records of this topic are given up from now on.
    pub(super) fn forbidden(&mut self, topic: &str) {
        self.forbidden.insert(0, topic.to_owned());
        self.tell_forbidden();
    }

    /// The topic is not forbidden any more, and this is why. It is over with the last one.
    pub(super) fn allowed(&mut self, topic: &str, why: &str) {
        self.forbidden.retain(|forbidden| forbidden != topic);
        if self.forbidden.is_empty() {
            self.tell(FORBIDDEN, Phase::Cleared, &format!("{topic}: {why}"));
        } else {
            self.tell_forbidden();
        }
    }

    fn tell_forbidden(&self) {
        let (named, more) = self.forbidden.split_at(self.forbidden.len().min(FORBIDDEN_NAMED));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        let detail = format!(
            "the broker takes others but not {}{more}: what is recorded there is declared as gaps until it does (access list upstream?)",
            named.join(", ")
        );
        self.tell(FORBIDDEN, Phase::Active, &detail);
    }

    /// So many messages of a bridge were not kept, or not taken.
    pub(super) fn lost(&self, count: u64, reason: &str) {
        self.tell(BRIDGE_LOST, Phase::Once, &format!("{count} messages did not reach the other broker ({reason})"));
    }

    fn tell(&self, event: &'static str, phase: Phase, detail: &str) {
        self.notices.tell(Notice { event, phase, subject: self.name.clone(), detail: detail.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice::notices;

    #[test]
    fn what_the_broker_does_not_take_is_told_until_it_has_been_quiet_for_some_rounds() {
        let (hand_in, mut told) = notices();
        let (mut trouble, begun, quiet) =
            (Trouble::new("cloud".into(), hand_in), Instant::now(), Duration::from_secs(90));
        for seconds in [0, 30, 60] {
            trouble.not_taken("not authorized", begun + Duration::from_secs(seconds));
            trouble.taken(quiet, begun + Duration::from_secs(seconds + 10));
        }
        assert_eq!(told.try_recv().map(|notice| notice.phase), Ok(Phase::Active));
        assert!(told.try_recv().is_err(), "once");
        for _ in 0..2 {
            trouble.taken(quiet, begun + Duration::from_secs(150));
        }
        assert_eq!(told.try_recv().map(|notice| notice.phase), Ok(Phase::Cleared));
        assert!(told.try_recv().is_err(), "once");
    }

    #[test]
    fn a_status_that_is_refused_is_told_once_until_one_was_taken() {
        let (hand_in, mut told) = notices();
        let mut trouble = Trouble::new("cloud".into(), hand_in);
        for refusals in [3_u8, 1] {
            (0..refusals).for_each(|_| trouble.status(Some("not authorized")));
            trouble.status(None);
            let notice = told.try_recv().map(|notice| (notice.event, notice.phase));
            assert_eq!((notice, told.try_recv().is_err()), (Ok((NOT_TAKEN, Phase::Once)), true));
        }
    }

    #[test]
    fn topics_are_forbidden_until_the_broker_takes_the_last_of_them() {
        let (hand_in, mut told) = notices();
        let mut trouble = Trouble::new("cloud".into(), hand_in);
        let mut next = || told.try_recv().map(|notice| (notice.phase, notice.detail)).expect("it was told");
        for topic in ["a", "b", "c", "d", "e"] {
            trouble.forbidden(topic);
            assert!(next().1.contains(&format!("but not {topic}")), "the newest is named");
        }
        trouble.allowed("c", "the broker takes it again");
        let (phase, detail) = next();
        assert!(phase == Phase::Active && detail.contains("not e, d, b, a:"), "{detail}");
        for topic in ["a", "b", "d"] {
            trouble.allowed(topic, "the broker takes it again");
            assert_eq!(next().0, Phase::Active);
        }
        trouble.allowed("e", "the broker takes it again");
        assert_eq!(next(), (Phase::Cleared, "e: the broker takes it again".to_owned()));
    }

    #[test]
    fn a_condition_is_told_once_at_its_beginning_and_once_at_its_end() {
        let (hand_in, mut told) = notices();
        let mut trouble = Trouble::new("cloud".into(), hand_in);
        trouble.clear_disabled();
        for told in [Told::Now, Told::Before, Told::Before] {
            assert_eq!(trouble.disabled("key is missing"), told);
            assert_eq!(trouble.refused("bad password"), told);
            trouble.host_awaited("nothing came");
        }
        trouble.clear_disabled();
        trouble.clear_disabled();
        trouble.clear_refused();
        trouble.host_is_there();
        trouble.host_is_there();
        let mut seen = Vec::new();
        while let Ok(notice) = told.try_recv() {
            assert_eq!(notice.subject, "cloud");
            seen.push((notice.event, notice.phase));
        }
        let expected = [
            (DISABLED, Phase::Active),
            (REFUSED, Phase::Active),
            (HOST_AWAITED, Phase::Active),
            (DISABLED, Phase::Cleared),
            (REFUSED, Phase::Cleared),
            (HOST_AWAITED, Phase::Cleared),
        ];
        assert_eq!(seen, expected);
    }
}
