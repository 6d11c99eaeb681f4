//! What the operator is told about certificates: that one ends soon, and that renewed files cannot be used.
//!
//! Fed with how the files stand, at each connect and every half minute while connected. Days are counted only by a clock
//! with a fix: one without would cry wolf, or keep silent.

use std::sync::Arc;

use crate::flow::notice::{Notice, Notices, Phase};
use crate::model::time::{Certainty, Wall};
use crate::road::{Ends, Files};

use super::stats::UplinkStats;

/// A certificate of ours or a CA ends soon; told again each day.
const EXPIRING: &str = "certificate_expiring";
/// The files on disk cannot be used; the last good ones are.
const UNUSABLE: &str = "certificate_unusable";
/// Days before the end at which the operator is told.
const DAYS_AHEAD: i64 = 30;
const DAY_MS: i64 = 86_400_000;

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
    /// What was told, and how many days it then had.
    expiring: Option<(String, i64)>,
    fault: Option<String>,
}

impl Certificates {
    pub(super) fn new(name: String, notices: Notices, stats: Arc<UplinkStats>) -> Self {
        Self { name, notices, stats, expiring: None, fault: None }
    }

    /// The files stand like this.
    pub(super) fn note(&mut self, files: &Files, now: Wall, fault: Fault) {
        self.stats
            .certificate_ends
            .set(files.ends.as_ref().map_or(0, |ends| ends.unix_ms.max(0).unsigned_abs() / 1000));
        if now.certainty == Certainty::Fixed {
            self.note_end(files.ends.as_ref(), now);
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

    fn note_end(&mut self, ends: Option<&Ends>, now: Wall) {
        let soon = ends.and_then(|ends| Some((ends, days_left(ends.unix_ms, now.unix_ms)?)));
        match soon {
            Some((ends, days)) => {
                let news = (ends.what.clone(), days);
                if self.expiring.as_ref() == Some(&news) {
                    return;
                }
                let end = Wall { unix_ms: ends.unix_ms, certainty: Certainty::Fixed };
                let detail = match days {
                    0 => format!("{} ends within a day or has ended: {end}", ends.what),
                    days => format!("{} ends in {days} days: {end}", ends.what),
                };
                tracing::warn!(uplink = self.name, days, error = detail, "certificate ends soon");
                self.tell(EXPIRING, Phase::Active, detail);
                self.expiring = Some(news);
            }
            None => {
                if let Some((what, _)) = self.expiring.take() {
                    self.tell(EXPIRING, Phase::Cleared, format!("{what} has been renewed"));
                }
            }
        }
    }

    fn tell(&self, event: &'static str, phase: Phase, detail: String) {
        self.notices.tell(Notice { event, phase, subject: self.name.clone(), detail });
    }
}

/// Whole days until the end, once there are no more than [`DAYS_AHEAD`]; 0 on the last day and afterwards.
fn days_left(end_ms: i64, now_ms: i64) -> Option<i64> {
    let days = end_ms.saturating_sub(now_ms).div_euclid(DAY_MS).max(0);
    (days < DAYS_AHEAD || end_ms.saturating_sub(now_ms) == DAYS_AHEAD * DAY_MS).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice::notices;

    const END_MS: i64 = 1_800_000_000_000;

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
