//! The certificates of a door with TLS: read at the start, once a minute and when somebody asks, and told about.
//!
//! A door without usable ones is closed until there are some. New ones serve the next client; who is connected stays, but
//! for those whose own certificate is not accepted any more. Bad new ones change nothing and are noticed.

use std::sync::{Arc, Mutex, Weak};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::broker::notice;
use crate::broker::outbox::Outbox;
use crate::broker::session::Ending;
use crate::config::plan::{ClientCertificate, ListenerPlan, ListenerTls};
use crate::flow::clock::Clock;
use crate::flow::notice::{Notices, Phase};
use crate::model::lock::Hold as _;
use crate::road::Now;
use crate::road::renewal::{About, Holds, News, Reason, Renewal};
use crate::road::server::{Server, ServerFiles, Serving, Without};

/// There is none that can be used, and the door is shut. A port that cannot be opened is another matter: either may end first.
pub(super) const NO_CERTIFICATE: &str = "broker_certificate_missing";

/// What a client offers in the TLS handshake, where it offers anything (RFC 7301): MQTT's name, and that of the upgrade.
const MQTT: &[u8] = b"mqtt";
const WEBSOCKET: &[u8] = b"http/1.1";

/// Keeps the certificates of one door.
pub(super) struct Certificates {
    files: Renewal,
    clock: Clock,
    subject: String,
    notices: Notices,
    now: watch::Sender<Option<Serving>>,
    guests: Arc<Guests>,
}

/// What a door is given of them.
#[derive(Clone)]
pub(super) struct Secured {
    now: watch::Receiver<Option<Serving>>,
    pub guests: Arc<Guests>,
}

/// What a listener with TLS shows, and whom it trusts.
pub fn files(tls: &ListenerTls) -> ServerFiles {
    let without = match tls.client_certificate {
        ClientCertificate::Required => Without::Refused,
        ClientCertificate::Optional => Without::Accepted,
    };
    let clients = tls.client_ca.clone().map(|path| (path, without));
    ServerFiles { certificate: tls.certificate.clone(), key: tls.key.clone(), clients }
}

impl Certificates {
    /// Of a listener with TLS; nothing is read yet.
    pub(super) fn new(plan: &ListenerPlan, clock: Clock, notices: Notices) -> Option<(Self, Secured)> {
        let tls = plan.tls.as_ref()?;
        let alpn = if plan.websocket.is_some() { WEBSOCKET } else { MQTT };
        let dated = clock.clone();
        let server = Server::new(files(tls), &[alpn], Now::new(move || dated.date_now()));
        let (now, seen) = watch::channel(None);
        let guests = Arc::<Guests>::default();
        let secured = Secured { now: seen, guests: Arc::clone(&guests) };
        let (files, subject) = (Renewal::new(server), plan.place());
        Some((Self { files, clock, subject, notices, now, guests }, secured))
    }

    /// Looks now and then, and whenever `asked` changes; runs until dropped. Cancel-safe.
    pub(super) async fn keep(mut self, mut asked: watch::Receiver<u64>) {
        loop {
            let reason = self.files.due(&mut asked).await;
            self.look(reason).await;
        }
    }

    /// Reads the files and acts on what they hold. When asked, at a reload, who is connected is judged anew, whatever they
    /// hold.
    pub(super) async fn look(&mut self, reason: Reason) {
        let (serving, news) = self.files.look(self.clock.wall_now()).await;
        for news in news {
            self.tell(news);
        }
        let Some(serving) = serving else {
            self.now.send_replace(None);
            return;
        };
        let before = self.now.borrow().as_ref().map(|before| before.edition);
        if before == Some(serving.edition) {
            if reason == Reason::Asked {
                self.guests.judge(&serving); // time has passed: theirs may have ended
            }
            return;
        }
        // New ones first: a handshake that ends meanwhile is judged here, or judges itself by them.
        self.now.send_replace(Some(serving.clone()));
        if before.is_some() {
            let sent_away = self.guests.judge(&serving);
            tracing::info!(listener = self.subject, sent_away, "renewed certificates are in use");
        }
    }

    fn tell(&self, News { about, holds, detail }: News) {
        let listener = self.subject.as_str();
        match (about, holds) {
            (About::Missing, Holds::Now) => {
                tracing::error!(listener, error = detail, "listener is closed, its certificate cannot be used");
            }
            (About::Unusable, Holds::Now) => {
                tracing::error!(listener, error = detail, "renewed certificates cannot be used");
            }
            (About::Unusable, Holds::NoMore) => tracing::info!(listener, "certificate files can be used again"),
            (About::Ending, Holds::Now) => tracing::warn!(listener, error = detail, "certificate ends soon"),
            (About::Missing | About::Ending, Holds::NoMore) => {}
        }
        let phase = if holds == Holds::Now { Phase::Active } else { Phase::Cleared };
        self.notices.tell(notice(about.event(NO_CERTIFICATE), phase, listener, detail));
    }
}

impl Secured {
    /// For the next handshake; `None`: the door is closed.
    pub(super) fn serving(&self) -> Option<Serving> {
        self.now.borrow().clone()
    }

    /// Resolves when there are certificates. Cancel-safe.
    pub(super) async fn usable(&mut self) {
        if self.now.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await; // we are stopping
        }
    }

    /// Resolves when there are none any more. Cancel-safe.
    pub(super) async fn gone(&mut self) {
        if self.now.wait_for(Option::is_none).await.is_err() {
            std::future::pending::<()>().await; // we are stopping
        }
    }
}

/// Clients that showed a certificate and are connected.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Vec<Weak<Guest>>>);

/// One of them; forgotten when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    chain: Vec<CertificateDer<'static>>,
    place: Mutex<Place>,
}

/// Where it can be told.
#[derive(Debug)]
enum Place {
    NotYet,
    Connected(Weak<Outbox>),
    Refused,
}

impl Guest {
    /// Has its place now.
    pub(super) fn connected(&self, outbox: &Arc<Outbox>) {
        let mut place = self.place.hold();
        match *place {
            Place::Refused => outbox.end(Ending::NotAllowed),
            _ => *place = Place::Connected(Arc::downgrade(outbox)),
        }
    }

    fn send_away(&self) {
        let before = std::mem::replace(&mut *self.place.hold(), Place::Refused);
        if let Place::Connected(outbox) = before
            && let Some(outbox) = outbox.upgrade()
        {
            outbox.end(Ending::NotAllowed);
        }
    }
}

impl Guests {
    /// Notes one.
    pub(super) fn note(&self, chain: Vec<CertificateDer<'static>>) -> Arc<Guest> {
        let guest = Arc::new(Guest { chain, place: Mutex::new(Place::NotYet) });
        let mut guests = self.0.hold();
        if guests.len() == guests.capacity() {
            guests.retain(|guest| guest.strong_count() > 0); // before it grows
        }
        guests.push(Arc::downgrade(&guest));
        guest
    }

    /// Sends those away that would not come in now; says how many.
    fn judge(&self, serving: &Serving) -> usize {
        let mut guests = self.0.hold();
        guests.retain(|guest| guest.strong_count() > 0);
        let all: Vec<_> = guests.iter().filter_map(Weak::upgrade).collect();
        drop(guests);
        let refused = all.iter().filter(|guest| !serving.accepts(&guest.chain));
        refused.map(|guest| guest.send_away()).count()
    }
}
