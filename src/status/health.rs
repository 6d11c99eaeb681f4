//! Is all well? `GET /health`, for watchdogs, load balancers, update hooks and people.
//!
//! | answer | body |
//! |---|---|
//! | 200, all is well | `{"ok":true,"reasons":[],"notes":[…]}` |
//! | 503, something is not | `{"ok":false,"reasons":[{"part":"bus","name":"rs485-1","text":"…"}],"notes":[…]}` |
//! | either, to a stranger | `ok` or `not ok` |
//!
//! A reason is what a person has to mend on this box or beside it: a bus without its port, a store that cannot commit, a
//! worker that hangs, certificates or users that cannot be read, a configuration that was changed and would not start. A
//! note is what is worth knowing and no fault of the box: a link that is gone, perhaps for days, devices that do not answer
//! or were paused, a clock that nobody vouches for, a status page without its port (then nobody is answered here anyway). A
//! stranger is who comes from another machine without a login: what is wrong with a plant is nobody else's business. Where
//! `[status]` lets nobody in without a login (`anonymous = "none"`), this machine is a stranger too: behind a proxy on it
//! may be anybody.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::Lobby;
use super::visitor::{self, From};
use crate::config::plan::Anonymous;

/// How the gateway is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// No reasons.
    pub ok: bool,
    /// Why not.
    pub reasons: Vec<Finding>,
    /// What else there is to say.
    pub notes: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `bus`, `store`, `uplink`, `broker`, `status`, `worker`, `clock` …
    pub part: &'static str,
    /// Which of them; empty where there is one.
    pub name: String,
    /// One sentence.
    pub text: String,
}

impl Health {
    /// From what was found.
    pub fn new(reasons: Vec<Finding>, notes: Vec<Finding>) -> Self {
        Self { ok: reasons.is_empty(), reasons, notes }
    }
}

/// Nothing found.
impl Default for Health {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

/// `GET /health`
pub(super) async fn answer(State(lobby): State<Lobby>, parts: Parts) -> Response {
    let board = lobby.boards.now();
    let health = &board.gateway.health;
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // A load balancer that asks every second is no failed login.
    let shown = [header::AUTHORIZATION, header::COOKIE].iter().any(|name| parts.headers.contains_key(name));
    let near = From::of(&parts).is_loopback() && lobby.anonymous() != Anonymous::None;
    let known = near || shown && visitor::identify(&lobby, &parts).await.is_ok();
    match serde_json::to_string(health) {
        Ok(told) if known => (status, [(CONTENT_TYPE, "application/json")], told + "\n").into_response(),
        _ => {
            let word = if health.ok { "ok\n" } else { "not ok\n" };
            (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], word).into_response()
        }
    }
}
