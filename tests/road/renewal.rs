//! The certificates of a server over the years: what is said of them, and when.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::Now;
use ironbridge::road::renewal::{About, Holds, News, Renewal};
use ironbridge::road::server::{Server, ServerFiles};

use crate::authority::{Authority, VALID, Years};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// 2040-01-01, when [`VALID`] ends.
const END_MS: i64 = 2_208_988_800_000;

/// A server whose clock is set by hand.
struct Served {
    authority: Authority,
    files: ServerFiles,
    unix_ms: Arc<AtomicI64>,
    renewal: Renewal,
}

impl Served {
    fn new() -> Self {
        let authority = Authority::new();
        let file = |name: &str| authority.home.path().join(name);
        let files = ServerFiles { certificate: file("door.crt"), key: file("door.key"), clients: None };
        let unix_ms = Arc::new(AtomicI64::new(END_MS - 365 * DAY_MS));
        let shown = Arc::clone(&unix_ms);
        let now = Now::new(move || Wall { unix_ms: shown.load(Ordering::Relaxed), certainty: Certainty::Fixed });
        let renewal = Renewal::new(Server::new(files.clone(), &[], now));
        let served = Self { authority, files, unix_ms, renewal };
        served.put(VALID);
        served
    }

    fn put(&self, years: Years) {
        let (certificate, key) = self.authority.server_pem("box", years);
        std::fs::write(&self.files.certificate, certificate).unwrap();
        std::fs::write(&self.files.key, key).unwrap();
        std::fs::set_permissions(&self.files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What is said so long before the end; it is served with all the same.
    async fn said(&mut self, left_ms: i64, certainty: Certainty) -> Vec<News> {
        let unix_ms = END_MS - left_ms;
        self.unix_ms.store(unix_ms, Ordering::Relaxed);
        let (serving, news) = self.renewal.look(Wall { unix_ms, certainty }).await;
        assert!(serving.is_some(), "{news:?}");
        news
    }

    /// The same where nothing but this may be said of the end, if anything is.
    async fn end(&mut self, left_ms: i64) -> Option<(Holds, String)> {
        let news = self.said(left_ms, Certainty::Fixed).await;
        assert!(news.len() <= 1 && news.iter().all(|news| news.about == About::Ending), "{news:?}");
        news.into_iter().next().map(|News { holds, detail, .. }| (holds, detail))
    }
}

#[tokio::test]
async fn the_end_of_a_servers_certificate_is_told_from_thirty_days_ahead_once_a_day_until_it_is_renewed() {
    let mut served = Served::new();
    let ends = |days: u32| {
        let of = served.files.certificate.display();
        Some((Holds::Now, format!("certificate {of} ends in {days} days: 2040-01-01T00:00:00.000Z")))
    };
    let (in_30, in_29, in_28) = (ends(30), ends(29), ends(28));
    assert_eq!(served.end(31 * DAY_MS).await, None);
    assert_eq!(served.end(30 * DAY_MS).await, in_30);
    assert_eq!(served.end(30 * DAY_MS - HOUR_MS).await, in_29);
    assert_eq!(served.end(29 * DAY_MS).await, None, "it is the same day");
    assert_eq!(served.end(29 * DAY_MS - HOUR_MS).await, in_28);
    let (holds, detail) = served.end(HOUR_MS).await.unwrap();
    assert!(holds == Holds::Now && detail.contains("ends within a day or has ended"), "{detail}");
    assert_eq!(served.end(1000).await, None);
    served.put((2020, 2050));
    let (holds, detail) = served.end(1000).await.unwrap();
    assert!(holds == Holds::NoMore && detail.contains("has been renewed"), "{detail}");
    assert_eq!(served.end(-DAY_MS).await, None);
}

#[tokio::test]
async fn without_a_clock_nobody_knows_when_a_certificate_ends() {
    let mut served = Served::new();
    assert_eq!(served.said(DAY_MS, Certainty::Floor).await, []);
    assert_eq!(served.said(DAY_MS, Certainty::Fixed).await.len(), 1);
}
