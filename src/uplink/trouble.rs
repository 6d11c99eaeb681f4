//! What the operator is told: each condition once when it begins and once when it ends, however often it is retried.

use crate::flow::notice::{Notice, Notices, Phase};

/// A file, key or certificate on this box must be mended.
const DISABLED: &str = "uplink_disabled";
/// Broker and gateway do not accept each other: certificate, user, client id.
const REFUSED: &str = "uplink_refused";

/// Another client has our client id.
const TAKEN_OVER: &str = "uplink_taken_over";

/// The broker will not take a record; a gap record was put in its place.
const RECORD_REFUSED: &str = "uplink_record_refused";

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
}

impl Trouble {
    pub(super) fn new(name: String, notices: Notices) -> Self {
        Self { name, notices, disabled: None, refused: None, taken_over: None }
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

    pub(super) fn clear_taken_over(&mut self) {
        if let Some(detail) = self.taken_over.take() {
            self.tell(TAKEN_OVER, Phase::Cleared, &format!("no longer: {detail}"));
        }
    }

    /// A record was given up.
    pub(super) fn record_refused(&self, detail: &str) {
        self.tell(RECORD_REFUSED, Phase::Once, detail);
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
    fn a_condition_is_told_once_at_its_beginning_and_once_at_its_end() {
        let (hand_in, mut told) = notices();
        let mut trouble = Trouble::new("cloud".into(), hand_in);
        trouble.clear_disabled();
        for told in [Told::Now, Told::Before, Told::Before] {
            assert_eq!(trouble.disabled("key is missing"), told);
            assert_eq!(trouble.refused("bad password"), told);
        }
        trouble.clear_disabled();
        trouble.clear_disabled();
        trouble.clear_refused();
        let mut seen = Vec::new();
        while let Ok(notice) = told.try_recv() {
            assert_eq!(notice.subject, "cloud");
            seen.push((notice.event, notice.phase));
        }
        let expected = [
            (DISABLED, Phase::Active),
            (REFUSED, Phase::Active),
            (DISABLED, Phase::Cleared),
            (REFUSED, Phase::Cleared),
        ];
        assert_eq!(seen, expected);
    }
}
