//! What the operator is told about certificates: that one ends soon, and that renewed files cannot be used.
//!
//! Fed with how the files stand, at each connect and every half minute while connected. Days are counted only by a clock
//! with a fix: one without would cry wolf, or keep silent.

use std::sync::Arc;

use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::time::Wall;
use crate::road::Files;
use crate::road::renewal::{EXPIRING, Ending, Holds, UNUSABLE};

use super::stats::UplinkStats;

/// Whether a fault of the files is told here, or ends the uplink and is told as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Told,
    Elsewhere,
}

/// Of one uplink.
pub(super) struct Certificates {
    name: String,
    notices: Notices,
    stats: Arc<UplinkStats>,
    ending: Ending,
    fault: Option<String>,
}

impl Certificates {
    pub(super) fn new(name: String, notices: Notices, stats: Arc<UplinkStats>) -> Self {
        Self { name, notices, stats, ending: Ending::default(), fault: None }
    }

    /// The files stand like this.
    pub(super) fn note(&mut self, files: &Files, now: Wall, fault: Fault) {
        self.stats
            .certificate_ends
            .set(files.ends.as_ref().map_or(0, |ends| ends.unix_ms.max(0).unsigned_abs() / 1000));
        if let Some(news) = self.ending.note(files.ends.as_ref(), now) {
            let phase = match news.holds {
                Holds::Now => {
                    tracing::warn!(uplink = self.name, error = news.detail, "certificate ends soon");
                    Phase::Active
                }
                Holds::NoMore => Phase::Cleared,
            };
            self.tell(EXPIRING, phase, news.detail);
        }
        let fault = files.fault.as_ref().filter(|_| fault == Fault::Told);
        match (fault, &self.fault) {
            (Some(fault), None) => {
                self.tell(UNUSABLE, Phase::Active, format!("{fault}; the last good files stay in use"));
                self.fault = Some(fault.clone());
            }
            (None, Some(_)) => {
                self.tell(UNUSABLE, Phase::Cleared, "the files can be used again".into());
                self.fault = None;
            }
            _ => {}
        }
    }

    fn tell(&self, event: &'static str, phase: Phase, detail: String) {
        self.notices.tell(Notice { event, phase, subject: self.name.clone(), detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice::notices;
    use crate::model::time::Certainty;
    use crate::road::Ends;

    const END_MS: i64 = 1_800_000_000_000;
    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn the_end_is_told_thirty_days_ahead_once_a_day_and_taken_back_after_renewal() {
        let (hand_in, mut told) = notices();
        let stats = Arc::new(UplinkStats::default());
        let mut certificates = Certificates::new("cloud".into(), hand_in, Arc::clone(&stats));
        let files =
            |unix_ms| Files { ends: Some(Ends { unix_ms, what: "certificate gw.crt".into() }), ..Files::default() };
        let mut note = |hours_before: i64, unix_ms, certainty| {
            let now = Wall { unix_ms: END_MS - hours_before * 3_600_000, certainty };
            certificates.note(&files(unix_ms), now, Fault::Told);
            told.try_recv().ok().map(|notice| (notice.event, notice.phase, notice.detail))
        };
        assert_eq!(note(30 * 24 + 1, END_MS, Certainty::Fixed), None);
        assert_eq!(note(1, END_MS, Certainty::Floor), None, "a clock without a fix counts no days");
        let (event, phase, detail) = note(30 * 24, END_MS, Certainty::Fixed).expect("told");
        assert_eq!((event, phase), (EXPIRING, Phase::Active));
        assert!(detail.contains("gw.crt ends in 30 days: 2027-01-15"), "{detail}");
        let mut days = Vec::new();
        for hours in (-100..30 * 24).rev() {
            if let Some((.., detail)) = note(hours, END_MS, Certainty::Fixed) {
                days.push(detail);
            }
        }
        assert_eq!(days.len(), 30, "29 days to 0: {days:?}");
        assert!(days[29].contains("has ended"), "{days:?}");
        let renewed = note(0, END_MS + 90 * DAY_MS, Certainty::Fixed).expect("told");
        assert_eq!((renewed.0, renewed.1), (EXPIRING, Phase::Cleared));
        assert_eq!(note(0, END_MS + 90 * DAY_MS, Certainty::Fixed), None);
        assert_eq!(stats.certificate_ends.get(), (END_MS + 90 * DAY_MS).unsigned_abs() / 1000);
    }

    #[test]
    fn files_that_cannot_be_used_are_told_once_and_taken_back() {
        let (hand_in, mut told) = notices();
        let mut certificates = Certificates::new("cloud".into(), hand_in, Arc::default());
        let now = Wall { unix_ms: END_MS, certainty: Certainty::Fixed };
        let bad = Files { fault: Some("do not work together".into()), ..Files::default() };
        certificates.note(&bad, now, Fault::Elsewhere);
        assert!(told.try_recv().is_err());
        for files in [&bad, &bad, &Files::default(), &Files::default()] {
            certificates.note(files, now, Fault::Told);
        }
        let phases: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).map(|notice| notice.phase).collect();
        assert_eq!(phases, [Phase::Active, Phase::Cleared]);
    }
}
