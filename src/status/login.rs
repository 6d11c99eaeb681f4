//! Logging in and out, and what a request that changes something has to show.
//!
//! **Cookie.** One, `ironbridge` (`__Host-ironbridge` under TLS: then no other host and no plain connection can set it),
//! HttpOnly, SameSite=Strict. It names a session, or, before a login, just this browser. Logging in and out gives another
//! name, so that nobody can log somebody else into a session known to both.
//!
//! **Changing something.** Only a POST does, and it must show three things: `Content-Type: application/json` (a form of
//! another site cannot send that), an `Origin` of our own if there is one, and in `X-CSRF-Token` the mark that
//! `GET /api/session` gave for this cookie. HTTP Basic is for reading only: a browser sends it by itself.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `GET /api/session` | | `{"user":"hmi","may_log_in":true,"operate":["pump-1"],"csrf":"…"}` |
//! | `POST /api/login` | `{"user":…,"password":…}` | 200 `{"user":"hmi"}`, 401 `{"error":…}` |
//! | `POST /api/logout` | `{}` | 200 `{}` |

use axum::body::Bytes;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use tokio::time::Instant;

use super::sessions::{Sessions, random_name};
use super::visitor::{self, CLIENT, From};
use super::{Lobby, json};
use crate::access::{self, Access, Arriving, Credentials, Deed, Identity, Refused, Seal};
use crate::config::plan::Anonymous;

/// Where the mark is shown.
const TOKEN: &str = "x-csrf-token";

/// Letters of a cookie of ours.
const NAME_LETTERS: usize = 64;

/// Sessions, and the seal on what they may do.
#[derive(Debug, Default)]
pub(super) struct Logins {
    sessions: Sessions,
    seal: Seal,
}

/// Whether the page is behind TLS of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Plain,
    Tls,
}

impl Door {
    fn of(lobby: &Lobby) -> Self {
        if lobby.plan.tls.is_some() { Self::Tls } else { Self::Plain }
    }

    const fn cookie(self) -> &'static str {
        match self {
            Self::Plain => "ironbridge",
            Self::Tls => "__Host-ironbridge",
        }
    }

    /// A cookie that lives as long as the browser does; the session behind it may end sooner.
    fn set_cookie(self, name: &str) -> String {
        let secure = if self == Self::Tls { "; Secure" } else { "" };
        format!("{}={name}; Path=/; HttpOnly; SameSite=Strict{secure}", self.cookie())
    }
}

impl Logins {
    /// Who is logged in with this request's cookie; not who may not come in any more.
    pub(super) fn visitor(&self, lobby: &Lobby, headers: &HeaderMap) -> Option<Identity> {
        let name = cookie(headers, Door::of(lobby))?;
        let who = self.sessions.whose(name, Instant::now())?;
        if lobby.access.is_admitted(&who) {
            return Some(who);
        }
        self.sessions.end(name);
        None
    }
}

/// Who may change something: they are logged in, and it is their own browser that asks. Others are written down.
pub(super) fn operator(lobby: &Lobby, parts: &Parts, operation: &'static str) -> Result<Identity, Denied> {
    let who = lobby.logins.visitor(lobby, &parts.headers);
    let denied = match (may_post(lobby, parts), who.clone()) {
        (Ok(()), Some(who)) => return Ok(who),
        (Ok(()), None) => Denied {
            status: StatusCode::UNAUTHORIZED,
            text: "log in first; the session may have ended",
            outcome: "not_logged_in",
        },
        (Err(denied), _) => denied,
    };
    let (who, from) = (who.unwrap_or_else(|| Identity::anonymous(Anonymous::None, CLIENT)), From::of(parts).address());
    let deed = Deed { who: &who, from, device: "", tag: "", operation, outcome: denied.outcome };
    lobby.access.operate_refused(deed);
    Err(denied)
}

/// `GET /api/session`
pub(super) async fn session(State(lobby): State<Lobby>, parts: Parts) -> Response {
    let who = visitor::identify(&lobby, &parts).await.ok();
    let door = Door::of(&lobby);
    let known = cookie(&parts.headers, door).map(str::to_owned);
    let name = known.clone().unwrap_or_else(random_name);
    let user = who.as_ref().and_then(Identity::name);
    let operate: Vec<String> = match &who {
        Some(who) if user.is_some() => operated_by(&lobby, who),
        _ => Vec::new(),
    };
    let mut answer = json(&serde_json::json!({
        "user": user,
        "may_log_in": lobby.access.has_users(),
        "operate": operate,
        "csrf": lobby.logins.seal.mark(&name),
    }));
    if known.is_none() {
        give(&mut answer, door, &name);
    }
    answer
}

fn operated_by(lobby: &Lobby, who: &Identity) -> Vec<String> {
    let plan = lobby.values.plan();
    let devices = plan.devices.iter().filter(|device| device.bus.is_some() && !device.is_hole());
    devices.filter(|device| lobby.access.may_operate(who, &device.name)).map(|device| device.name.clone()).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

/// `POST /api/login`. Takes as long as checking a password takes.
pub(super) async fn login(State(lobby): State<Lobby>, parts: Parts, body: Bytes) -> Response {
    if let Err(denied) = may_post(&lobby, &parts) {
        return denied.answer();
    }
    let Ok(Login { user, password }) = serde_json::from_slice(&body) else {
        return problem(StatusCode::BAD_REQUEST, "this is no login");
    };
    match admit(&lobby.access, &parts, (&user, &password)).await {
        Ok(who) => {
            let door = Door::of(&lobby);
            if let Some(before) = cookie(&parts.headers, door) {
                lobby.logins.sessions.end(before);
            }
            let mut answer = json(&serde_json::json!({ "user": who.name() }));
            let name = lobby.logins.sessions.begin(who, Instant::now());
            give(&mut answer, door, &name);
            answer
        }
        Err(refused) => problem(visitor::refusal(refused).status(), &refused.to_string()),
    }
}

async fn admit(access: &Access, parts: &Parts, (user, password): (&str, &str)) -> Result<Identity, Refused> {
    let arriving = Arriving { door: Anonymous::None, client: CLIENT, from: Some(From::of(parts).address()) };
    let shown = Credentials { user: Some(user), password: Some(password.as_bytes()), certificate: None, sensor: None };
    access.admit(arriving, shown).await
}

/// `POST /api/logout`
pub(super) async fn logout(State(lobby): State<Lobby>, parts: Parts, _body: Bytes) -> Response {
    if let Err(denied) = may_post(&lobby, &parts) {
        return denied.answer();
    }
    let door = Door::of(&lobby);
    let ended = cookie(&parts.headers, door).and_then(|name| lobby.logins.sessions.end(name));
    if let Some(who) = ended {
        access::logged_out(&who, From::of(&parts).address());
    }
    let mut answer = json(&serde_json::json!({}));
    give(&mut answer, door, &random_name());
    answer
}

fn give(answer: &mut Response, door: Door, name: &str) {
    if let Ok(cookie) = HeaderValue::try_from(door.set_cookie(name)) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

fn may_post(lobby: &Lobby, parts: &Parts) -> Result<(), Denied> {
    let (headers, door) = (&parts.headers, Door::of(lobby));
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    if !kind.trim_ascii().eq_ignore_ascii_case(b"application/json") {
        return Err(Denied::no_page_of_ours(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/json is taken"));
    }
    if !is_own_origin(headers, door) {
        return Err(Denied::no_page_of_ours(StatusCode::FORBIDDEN, "this was asked by another page"));
    }
    let token = headers.get(TOKEN).and_then(|token| token.to_str().ok()).unwrap_or_default();
    match cookie(headers, door) {
        Some(name) if lobby.logins.seal.is_mark(name, token) => Ok(()),
        _ => Err(Denied::no_page_of_ours(StatusCode::FORBIDDEN, "the token of GET /api/session is missing or old")),
    }
}

/// Without an `Origin` it was no browser of our days. Plain HTTP may stand behind a proxy that has the TLS.
fn is_own_origin(headers: &HeaderMap, door: Door) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let Some(origin) = text(header::ORIGIN) else { return true };
    let host = text(header::HOST).unwrap_or_default();
    match origin.split_once("://") {
        Some(("https", from)) => from.eq_ignore_ascii_case(host),
        Some(("http", from)) => door == Door::Plain && from.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The value of our cookie, if it can be one of ours.
fn cookie(headers: &HeaderMap, door: Door) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == door.cookie()).map(|(_, value)| value);
    ours.find(|value| value.len() == NAME_LETTERS && value.bytes().all(|letter| letter.is_ascii_hexdigit()))
}

/// Why a request may not change anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Denied {
    status: StatusCode,
    text: &'static str,
    /// For the audit trail.
    outcome: &'static str,
}

impl Denied {
    const fn no_page_of_ours(status: StatusCode, text: &'static str) -> Self {
        Self { status, text, outcome: "forged" }
    }

    pub(super) fn answer(self) -> Response {
        problem(self.status, self.text)
    }
}

/// `{"error":"…"}`
pub(super) fn problem(status: StatusCode, text: &str) -> Response {
    let mut answer = json(&serde_json::json!({ "error": text })).into_response();
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("plain"))).collect()
    }

    #[test]
    fn an_origin_is_ours_when_it_names_the_host_that_was_asked() {
        let from =
            |origin: &str, door| is_own_origin(&headers(&[(header::ORIGIN, origin), (header::HOST, "box:8080")]), door);
        assert!(from("http://box:8080", Door::Plain) && from("https://box:8080", Door::Plain));
        assert!(from("https://BOX:8080", Door::Tls) && !from("http://box:8080", Door::Tls));
        for origin in ["null", "", "http://box", "http://box:8081", "http://evil", "ftp://box:8080", "http://box:8080/"]
        {
            assert!(!from(origin, Door::Plain), "{origin}");
        }
        assert!(is_own_origin(&HeaderMap::new(), Door::Tls), "no browser");
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_in_our_form() {
        let own = "ab".repeat(32);
        let found = |line: &str| cookie(&headers(&[(header::COOKIE, line)]), Door::Plain).map(str::to_owned);
        assert_eq!(found(&format!("a=b; ironbridge={own}; c")), Some(own.clone()));
        assert_eq!(found(&format!("ironbridge=short; ironbridge={own}")), Some(own.clone()));
        for line in [format!("__Host-ironbridge={own}"), format!("ironbridge={own}x"), "ironbridge=".into()] {
            assert_eq!(found(&line), None, "{line}");
        }
        assert!(Door::Tls.set_cookie("x").ends_with("; Secure") && Door::Tls.cookie().starts_with("__Host-"));
    }
}
