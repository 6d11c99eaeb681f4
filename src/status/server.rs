//! The listener of the status page: HTTP/1.1, with TLS where the configuration has it, and everything bounded.
//!
//! A port that cannot be opened is tried again with growing pauses and told; it never ends the process. A shortage, such as of
//! file descriptors, is waited for; only a listener that is broken is opened again, once it is closed. A connection is a
//! task of its own. It has [`HEAD_WITHIN`] for each request's head, which also ends it when it is idle, [`ANSWER_WITHIN`]
//! for the answer, and is cut off when the other side takes next to nothing of it for [`STALLED_FOR`]. Places are few:
//! `places`; and so is room for answers: `answers`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::StatusStats;
use super::answers::Answers;
use super::certificates::Certificates;
use super::places::{Found, Place, Places};
use super::stall::Patient;
use super::visitor::From;
use crate::config::plan::PagePlan;
use crate::flow::clock::Clock;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::road::doorstep::{Trouble, judge};
use crate::road::server::Serving;

/// First and longest pause between two attempts to open the listener.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Waiting to be taken in.
const BACKLOG: u32 = 64;

/// TLS has this long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// For the head of a request, from the end of the one before.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// Bytes of a head, and lines in it.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// For an answer to begin; a password may wait in a queue.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Who takes next to nothing of an answer for so long is gone.
const STALLED_FOR: Duration = Duration::from_secs(20);

/// What the kernel takes of an answer that nobody reads; it takes twice as much memory for it. It says that there is room again
/// when a third of that is free, so this must be less than what a slow reader takes in [`STALLED_FOR`].
const SEND_BUFFER: u32 = 16 * 1024;

/// What is in flight when the gateway stops.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// In a shortage, which trying at once does not mend.
const PAUSE: Duration = Duration::from_millis(200);

/// Of a shortage, and of those who were turned away, the log hears so often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Not yet open.
pub(super) struct Server {
    listen: SocketAddr,
    name: String,
    listener: Option<TcpListener>,
    secured: Option<(Certificates, watch::Receiver<Option<Serving>>)>,
    renew: watch::Receiver<u64>,
    notices: Notices,
    stats: Arc<StatusStats>,
}

/// What connections share.
struct Hall {
    router: Router,
    serving: Option<watch::Receiver<Option<Serving>>>,
    places: Arc<Places>,
    answers: Answers,
    tracker: TaskTracker,
    stop: Stop,
}

impl Server {
    pub(super) fn new(
        plan: &PagePlan,
        clock: Clock,
        notices: Notices,
        (stats, renew): (Arc<StatusStats>, watch::Receiver<u64>),
    ) -> Self {
        let name = plan.to_string();
        let tls = plan.tls.as_ref();
        let secured = tls.map(|tls| Certificates::new(tls, name.clone(), clock, notices.clone()));
        Self { listen: plan.listen, name, listener: None, secured, renew, notices, stats }
    }

    pub(super) async fn bind(&mut self) -> Option<SocketAddr> {
        if let Some((certificates, serving)) = &mut self.secured {
            certificates.look().await;
            if serving.borrow().is_none() {
                return None;
            }
        }
        self.listener = open(self.listen).ok();
        self.listener.as_ref()?.local_addr().ok()
    }

    pub(super) async fn run(mut self, router: Router, stop: Stop) {
        let (listener, (keeper, serving)) = (self.listener.take(), self.secured.take().unzip());
        let (tracker, places, answers) = (TaskTracker::new(), Arc::default(), Answers::default());
        let hall = Arc::new(Hall { router, serving, places, answers, tracker, stop: stop.clone() });
        let keeping = async {
            match keeper {
                Some(certificates) => certificates.keep(self.renew.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.begun() => {}
            () = keeping => {}
            () = self.serve(listener, &hall) => {}
        }
        hall.tracker.close();
        if timeout(FAREWELL_MAX, hall.tracker.wait()).await.is_err() {
            tracing::info!(connections = hall.tracker.len(), "visitors of the status page were cut off");
        }
    }

    async fn serve(&self, mut listener: Option<TcpListener>, hall: &Arc<Hall>) {
        loop {
            if let Some(mut serving) = hall.serving.clone()
                && serving.wait_for(Option::is_some).await.is_err()
            {
                return std::future::pending().await; // we are stopping
            }
            let open = match listener.take() {
                Some(open) => open,
                None => self.open_with_patience().await,
            };
            let address = open.local_addr().map_or_else(|_| self.name.clone(), |address| address.to_string());
            tracing::info!(%address, listener = self.name, "status page is open");
            let error = self.take_in_all(&open, hall).await;
            drop(open); // while it is there, nobody can listen on its address
            tracing::error!(%address, %error, "the status page's listener broke, opening it again");
            sleep(RETRY.0).await;
        }
    }

    /// Until the listener is of no use any more.
    async fn take_in_all(&self, listener: &TcpListener, hall: &Arc<Hall>) -> io::Error {
        let (mut told_at, mut crowd) = (None::<Instant>, Crowd::default());
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(taken) => taken,
                Err(error) => {
                    match judge(&error) {
                        Trouble::Broken => return error,
                        Trouble::ThatOne => {}
                        Trouble::NoFile | Trouble::Short => {
                            if told_at.is_none_or(|told_at| told_at.elapsed() >= TOLD_EVERY) {
                                tracing::warn!(%error, listener = self.name, "cannot take in visitors, trying on");
                                told_at = Some(Instant::now());
                            }
                            sleep(PAUSE).await;
                        }
                    }
                    continue;
                }
            };
            self.stats.connections.one();
            let found = hall.places.find(from.ip());
            if !matches!(found, Found::Free(_)) {
                self.stats.turned_away.one();
                crowd.tell(&self.name);
            }
            let (Found::Free(place) | Found::InsteadOf(place)) = found else { continue };
            let inside = Arc::clone(hall);
            hall.tracker.spawn(async move {
                tokio::select! {
                    received = inside.receive(stream, from, &place) => if let Err(error) = received {
                        tracing::debug!(peer = %from, %error, "a visitor of the status page is gone");
                    },
                    () = place.lost() => tracing::debug!(peer = %from, "a visitor who said nothing has lost the place"),
                }
            });
        }
    }

    async fn open_with_patience(&self) -> TcpListener {
        let (mut pause, longest) = RETRY;
        let mut failed = false;
        loop {
            let error = match open(self.listen) {
                Ok(listener) => {
                    if failed {
                        self.tell(Phase::Cleared, "open now".to_owned());
                    }
                    return listener;
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut failed, true) {
                tracing::warn!(listener = self.name, %error, "cannot open the status page, trying on");
                self.tell(Phase::Active, format!("cannot listen on {}: {error}", self.listen));
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn tell(&self, phase: Phase, detail: String) {
        self.notices.tell(Notice { event: "status_listener_down", phase, subject: self.name.clone(), detail });
    }
}

/// Those who were turned away, or lost their places to others, and of whom the log has not heard.
#[derive(Debug, Default)]
struct Crowd {
    count: u64,
    told_at: Option<Instant>,
}

impl Crowd {
    fn tell(&mut self, listener: &str) {
        self.count += 1;
        if self.told_at.is_none_or(|told_at| told_at.elapsed() >= TOLD_EVERY) {
            tracing::warn!(listener, count = self.count, "the status page is full, visitors were turned away");
            (self.count, self.told_at) = (0, Some(Instant::now()));
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // else a restart would wait for connections of the last run (TIME_WAIT)
    socket.set_send_buffer_size(SEND_BUFFER)?; // each connection has it from here
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Hall {
    /// One connection, from its first byte to its last.
    async fn receive(&self, stream: TcpStream, from: SocketAddr, place: &Place) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = Patient::new(stream, STALLED_FOR);
        let Some(serving) = &self.serving else { return self.answer(stream, from, place).await };
        let Some(config) = serving.borrow().as_ref().map(|serving| Arc::clone(&serving.config)) else {
            return Ok(()); // the certificates have just gone
        };
        let accepted = timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await;
        self.answer(accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten()?, from, place).await
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        from: SocketAddr,
        place: &Place,
    ) -> io::Result<()> {
        let service = service_fn(|request| {
            place.asked();
            answer(self.router.clone(), self.answers.clone(), from, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = self.stop.begun() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await.map_err(io::Error::other)
    }
}

async fn answer(
    router: Router,
    answers: Answers,
    from: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(From(from));
    match timeout(ANSWER_WITHIN, TowerToHyperService::new(router).call(request)).await {
        Ok(Ok(answer)) => Ok(answers.admit(answer).await),
        Err(_) => Ok((StatusCode::SERVICE_UNAVAILABLE, "this took too long\n").into_response()),
    }
}
