//! The status page and what lies beneath it: how the gateway is, for people, Prometheus and watchdogs.
//!
//! It shows and asks, and owns nothing: the app gathers a [`board::Board`] of all rooms when somebody asks for it. Nothing
//! here is on the way of a value; without the page everything else goes on.
//!
//! `server` the listener and its limits, `places` how many get in, `answers` what is held for them, `stall` who is given
//! up · `certificates` its TLS · `guard` what every request passes · `visitor` who asks · `board` how everything stands,
//! `health` whether all is well, `metrics` what there is to count · `pages` what a browser gets · `api` the values of tags,
//! `values` where they come from, `history` a line of points · `login` who is who, `sessions` for how long · `operate` commands.
//!
//! | path | answer | for whom |
//! |---|---|---|
//! | `/health` | is all well, and why not | everybody; reasons with a login, and on loopback for who is let in |
//! | `/metrics` | figures for Prometheus | who is let in |
//! | `/api/status` | the board as JSON | who is let in; alarms of tags that they may read |
//! | `/`, `/style.css`, `/script.js` | the page, without a figure in it | everybody |
//! | `/api/tags`, `/api/history` | see `api` | who is let in; tags that they may read |
//! | `/api/session`, `/api/login`, `/api/logout` | see `login` | everybody |
//! | `/api/command/…` | see `operate` | who is logged in and has `operate` |

mod answers;
mod api;
pub mod board;
mod certificates;
mod guard;
pub mod health;
pub mod history;
mod login;
pub mod metrics;
mod operate;
mod pages;
mod places;
mod server;
mod sessions;
mod stall;
pub mod values;
mod visitor;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use crate::access::Access;
use crate::config::plan::{Anonymous, PagePlan};
use crate::flow::clock::Clock;
use crate::flow::command::CommandEntry;
use crate::flow::notice::Notices;
use crate::flow::operate::Operate;
use crate::flow::stop::Stop;
use crate::model::stats::Counter;
use board::{Boards, Gather};
use login::Logins;
use server::Server;
use values::Values;

/// Longest body of a request, bytes: a login or a command.
const BODY_MAX: usize = 16 * 1024;

/// What the room is made of.
pub struct StatusParts {
    /// `[status]`
    pub plan: PagePlan,
    /// Who may see what.
    pub access: Arc<Access>,
    /// How everything stands.
    pub gather: Gather,
    /// What there is to count.
    pub count: metrics::Count,
    /// Dates certificates.
    pub clock: Clock,
    /// Told when the page cannot be served.
    pub notices: Notices,
    /// What it counts.
    pub stats: Arc<StatusStats>,
    /// The values of the tags.
    pub values: Arc<Values>,
    /// Where writes are handed in …
    pub commands: CommandEntry,
    /// … and what else may be asked of a device.
    pub operate: Operate,
}

/// Counters since start.
#[derive(Debug, Default)]
pub struct StatusStats {
    /// Connections taken in.
    pub connections: Counter,
    /// Connections closed because there are too many: at once, or for another one's sake before they had asked for anything.
    pub turned_away: Counter,
    /// Requests.
    pub requests: Counter,
    /// Requests that named another host.
    pub refused_host: Counter,
}

/// The room, not yet open.
pub struct Status {
    server: Server,
    router: Router,
}

/// What a request's answer is made of; cheap to clone.
#[derive(Clone)]
struct Lobby(Arc<Furniture>);

struct Furniture {
    plan: PagePlan,
    access: Arc<Access>,
    boards: Boards,
    count: metrics::Count,
    stats: Arc<StatusStats>,
    notices: Notices,
    values: Arc<Values>,
    commands: CommandEntry,
    operate: Operate,
    /// Places for writes that are under way.
    writes: Arc<Semaphore>,
    logins: Logins,
}

impl std::ops::Deref for Lobby {
    type Target = Furniture;

    fn deref(&self) -> &Furniture {
        &self.0
    }
}

impl Furniture {
    /// What is shown without a login, by the plan in force: the rest of `[status]` waits for a restart.
    fn anonymous(&self) -> Anonymous {
        self.values.plan().status.as_ref().map_or(self.plan.anonymous, |page| page.anonymous)
    }
}

impl Status {
    /// Opens nothing yet. Each change of `renew` asks for certificates to be read again.
    pub fn new(parts: StatusParts, renew: watch::Receiver<u64>) -> Self {
        let StatusParts { plan, access, gather, count, clock, notices, stats, values, commands, operate } = parts;
        let server = Server::new(&plan, clock, notices.clone(), (Arc::clone(&stats), renew));
        let (boards, logins) = (Boards::new(gather), Logins::default());
        let lobby = Lobby(Arc::new(Furniture {
            plan,
            access,
            boards,
            count,
            stats,
            notices,
            values,
            commands,
            operate,
            writes: Arc::new(Semaphore::new(operate::WRITES_MAX)),
            logins,
        }));
        Self { server, router: router(lobby) }
    }

    /// Tries once to open the listener, so that the address is known; [`Status::run`] tries on.
    pub async fn bind(&mut self) -> Option<SocketAddr> {
        self.server.bind().await
    }

    /// Serves until stopping begins, then gives requests in flight a moment. Cancel-safe: cancelled, they are cut off.
    pub async fn run(self, stop: Stop) {
        self.server.run(self.router, stop).await;
    }
}

fn router(lobby: Lobby) -> Router {
    Router::new()
        .route("/health", get(health::answer))
        .route("/metrics", get(metrics::answer))
        .route("/", get(pages::index))
        .route("/style.css", get(pages::style))
        .route("/script.js", get(pages::script))
        .route("/api/status", get(status))
        .route("/api/tags", get(api::tags))
        .route("/api/history", get(api::history))
        .route("/api/session", get(login::session))
        .route("/api/login", post(login::login))
        .route("/api/logout", post(login::logout))
        .route("/api/command/write", post(operate::write))
        .route("/api/command/poll", post(operate::device))
        .route("/api/command/pause", post(operate::device))
        .route("/api/command/resume", post(operate::device))
        .route("/api/command/reset", post(operate::device))
        .fallback(nothing_there)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(lobby.clone(), guard::pass))
        .with_state(lobby)
}

/// `GET /api/status`
async fn status(State(lobby): State<Lobby>, parts: Parts) -> Response {
    match visitor::identify(&lobby, &parts).await {
        Ok(who) => json(&api::seen_by(&lobby, &who, &lobby.boards.now())),
        Err(refused) => visitor::refusal(refused),
    }
}

/// An answer in JSON.
fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer of the status page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn nothing_there() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here\n").into_response()
}
