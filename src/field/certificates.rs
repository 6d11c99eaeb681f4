//! What the operator is told about the certificates of a bus with TLS: that one ends soon, and that files cannot be used.
//!
//! A part of the [`super::bus`] beside its lanes, so that a slow disk costs no poll. Looks from time to time, whether the
//! device is there or not: a connection may stand for months, and only the next one needs the files.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::bus::Shared;
use super::stats::BusStats;
use crate::flow::clock::Clock;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::road::handshake::{Handshake, Look};
use crate::road::renewal::{EXPIRING, Ending, Holds, UNUSABLE};

/// Reading three small files costs nothing, and writes nothing.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same while they cannot be used.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What its notices are about: an uplink with the name of the bus has certificates too.
pub fn certificate_subject(bus: &str) -> String {
    format!("bus {bus}")
}

/// Of one bus.
pub(super) struct Certificates {
    bus: String,
    handshake: Handshake,
    clock: Clock,
    stop: Stop,
    notices: Option<Notices>,
    stats: Arc<BusStats>,
    ending: Ending,
    unusable: bool,
}

impl Certificates {
    /// Not yet looked at.
    pub(super) fn new(bus: &str, handshake: Handshake, shared: &Shared, stats: Arc<BusStats>) -> Self {
        let (clock, stop) = (shared.clock.clone(), shared.stop.clone());
        let (bus, ending) = (bus.to_owned(), Ending::default());
        Self { bus, handshake, clock, stop, notices: None, stats, ending, unusable: false }
    }

    /// See [`super::Bus::telling`].
    pub(super) fn telling(self, notices: Notices) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// Looks until the stop.
    pub(super) async fn run(mut self) {
        // A life before this one may have ended without a word.
        let subject = certificate_subject(&self.bus);
        let own = |told: &Notice| [EXPIRING, UNUSABLE].contains(&told.event) && told.subject == subject;
        self.notices.iter().for_each(|notices| notices.over("the files are looked at anew", own));
        loop {
            let look = tokio::select! {
                look = self.handshake.look() => look,
                () = self.stop.begun() => return,
            };
            self.note(look);
            tokio::select! {
                () = sleep(if self.unusable { LOOK_AGAIN } else { LOOK_EVERY }) => {}
                () = self.stop.begun() => return,
            }
        }
    }

    /// The files stand like this.
    fn note(&mut self, look: Look) {
        let end_s = look.ends.as_ref().map_or(0, |ends| ends.unix_ms.max(0).unsigned_abs() / 1000);
        self.stats.certificate_ends.set(end_s);
        if let Some(news) = self.ending.note(look.ends.as_ref(), self.clock.wall_now()) {
            let phase = match news.holds {
                Holds::Now => {
                    tracing::warn!(bus = self.bus, error = news.detail, "certificate ends soon");
                    Phase::Active
                }
                Holds::NoMore => Phase::Cleared,
            };
            self.tell(EXPIRING, phase, news.detail);
        }
        match (std::mem::replace(&mut self.unusable, look.fault.is_some()), look.fault) {
            (false, Some(fault)) => {
                tracing::warn!(bus = self.bus, error = fault, "certificate files cannot be used");
                self.tell(UNUSABLE, Phase::Active, fault);
            }
            (true, None) => {
                tracing::info!(bus = self.bus, "certificate files can be used again");
                self.tell(UNUSABLE, Phase::Cleared, "the files can be used again".to_owned());
            }
            _ => {}
        }
    }

    fn tell(&self, event: &'static str, phase: Phase, detail: String) {
        if let Some(notices) = &self.notices {
            notices.tell(Notice { event, phase, subject: certificate_subject(&self.bus), detail });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::clock::FakeTime;
    use crate::flow::notice::remembered;
    use crate::model::time::{Boot, Certainty, Wall};
    use crate::road::Now;
    use crate::road::destination::TlsFiles;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    /// Of the clock, in the year 2027.
    const NOW_MS: i64 = 1_800_000_000_000;

    /// `gw.crt`, which ends in this year and is its own authority, and `gw.key`.
    fn put(folder: &Path, year: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("ring works");
        let mut params = CertificateParams::new(vec!["gw".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        let certificate = params.self_signed(&key).expect("ring works");
        let paths = (folder.join("gw.crt"), folder.join("gw.key"));
        std::fs::write(&paths.0, certificate.pem()).expect("written");
        std::fs::write(&paths.1, key.serialize_pem()).expect("written");
        let_others_read(&paths.1, 0o600);
        paths
    }

    fn let_others_read(key: &Path, mode: u32) {
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_cannot_be_used_any_more_are_told_within_a_minute_while_a_connection_stands() {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = put(folder.path(), 2040);
        let files = TlsFiles { ca_file: certificate.clone(), identity: Some((certificate, key.clone())) };
        let now = Now::new(|| Wall { unix_ms: NOW_MS, certainty: Certainty::Fixed });
        let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
        let (notices, mut told) = remembered(clock.clone());
        notices.tell(Notice {
            event: UNUSABLE,
            phase: Phase::Active,
            subject: certificate_subject("plc"),
            detail: "told in a life that ended by a panic".to_owned(),
        });
        let shared = Shared { clock, stop: Stop::new(), pauses: crate::field::Pauses::default() };
        let stop = shared.stop.clone();
        let watch = Certificates::new("plc", Handshake::new(files, "plc".into(), now), &shared, Arc::default());
        let task = tokio::spawn(watch.telling(notices).run());
        let mut next = async || {
            let told = tokio::time::timeout(LOOK_EVERY * 2, told.recv()).await.expect("in time").expect("told");
            assert_eq!(told.subject, "bus plc");
            (told.event, told.phase, told.detail)
        };
        next().await; // the one before
        assert_eq!(next().await.1, Phase::Cleared);
        sleep(LOOK_AGAIN).await; // the good ones are known

        put(folder.path(), 2025);
        let (event, phase, detail) = next().await;
        assert_eq!((event, phase), (UNUSABLE, Phase::Active));
        assert!(
            detail.contains("gw.crt has expired") && detail.ends_with("the last good files stay in use"),
            "{detail}"
        );
        put(folder.path(), 2040);
        assert_eq!(next().await.1, Phase::Cleared);
        let_others_read(&key, 0o644);
        let (event, phase, detail) = next().await;
        assert_eq!((event, phase), (UNUSABLE, Phase::Active));
        assert!(detail.contains("gw.key") && detail.contains("chmod"), "{detail}");
        stop.begin();
        task.await.expect("ends with the stop");
    }
}
