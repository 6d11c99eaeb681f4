//! The certificates of the status page: read at the start, once a minute and when somebody asks, and told about. The same
//! files, rules and events as at the broker's doors; who is connected stays.

use tokio::sync::watch;

use crate::config::plan::ListenerTls;
use crate::flow::clock::Clock;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::road::Now;
use crate::road::renewal::{About, Holds, News, Renewal};
use crate::road::server::{Server, ServerFiles, Serving};

/// Keeps them.
pub(super) struct Certificates {
    files: Renewal,
    clock: Clock,
    subject: String,
    notices: Notices,
    now: watch::Sender<Option<Serving>>,
}

impl Certificates {
    /// Nothing is read yet. The receiver has what to serve with; `None`: nothing.
    pub(super) fn new(
        tls: &ListenerTls,
        subject: String,
        clock: Clock,
        notices: Notices,
    ) -> (Self, watch::Receiver<Option<Serving>>) {
        let dated = clock.clone();
        let files = ServerFiles { certificate: tls.certificate.clone(), key: tls.key.clone(), clients: None };
        let files = Renewal::new(Server::new(files, &[b"http/1.1"], Now::new(move || dated.date_now())));
        let (now, seen) = watch::channel(None);
        (Self { files, clock, subject, notices, now }, seen)
    }

    /// Looks now and then, and whenever `asked` changes; runs until dropped. Cancel-safe.
    pub(super) async fn keep(mut self, mut asked: watch::Receiver<u64>) {
        loop {
            self.files.due(&mut asked).await;
            self.look().await;
        }
    }

    /// Reads the files and acts on what they hold.
    pub(super) async fn look(&mut self) {
        let (serving, news) = self.files.look(self.clock.wall_now()).await;
        for news in news {
            self.tell(news);
        }
        let edition = |serving: &Option<Serving>| serving.as_ref().map(|serving| serving.edition);
        let (before, after) = (edition(&self.now.borrow()), edition(&serving));
        if before != after {
            if before.is_some() && after.is_some() {
                tracing::info!(listener = self.subject, "renewed certificates are in use");
            }
            self.now.send_replace(serving);
        }
    }

    fn tell(&self, News { about, holds, detail }: News) {
        let listener = self.subject.as_str();
        match (about, holds) {
            (About::Missing, Holds::Now) => {
                tracing::error!(listener, error = detail, "status page is closed, its certificate cannot be used");
            }
            (About::Unusable, Holds::Now) => {
                tracing::error!(listener, error = detail, "renewed certificates cannot be used");
            }
            (About::Ending, Holds::Now) => tracing::warn!(listener, error = detail, "certificate ends soon"),
            (_, Holds::NoMore) => tracing::info!(listener, detail, "certificate is in order again"),
        }
        let event = about.event("status_certificate_missing");
        let phase = if holds == Holds::Now { Phase::Active } else { Phase::Cleared };
        self.notices.tell(Notice { event, phase, subject: self.subject.clone(), detail });
    }
}
