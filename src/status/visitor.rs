//! Who asks: the identity behind a request, by the users and rules of the broker.
//!
//! HTTP Basic (RFC 7617) for Prometheus and scripts, checked and slowed down by the access room like a login at the broker.
//! A session of the page (`login`) comes first. HTTP Basic is only for asking: a browser sends it by itself, to whatever page
//! makes it ask. Without either a visitor is anonymous, as far as `[status] anonymous` allows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Lobby;
use crate::access::{Arriving, Credentials, Identity, NAME_BYTES_MAX, PASSWORD_BYTES_MAX, Refused};
use crate::config::plan::Anonymous;

/// What stands for the client id: `%c` in a filter, `client` in the audit trail.
pub(super) const CLIENT: &str = "status";

/// Longer ones than user name, colon and password together, in base64, are nobody's.
const CREDENTIALS_MAX: usize = (NAME_BYTES_MAX + 1 + PASSWORD_BYTES_MAX).div_ceil(3) * 4;

/// The other end of a connection; every request carries it.
#[derive(Debug, Clone, Copy)]
pub(super) struct From(pub(super) SocketAddr);

impl From {
    /// Of this request.
    pub(super) fn of(parts: &Parts) -> Self {
        // Set by the server for each connection; without it, nobody near.
        parts.extensions.get().copied().unwrap_or(Self(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// Does it come from this machine?
    pub(super) fn is_loopback(self) -> bool {
        self.address().is_loopback()
    }

    pub(super) fn address(self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// The visitor's identity. Takes as long as checking a password takes. Who shows a login is in the audit trail, let in or not.
pub(super) async fn identify(lobby: &Lobby, parts: &Parts) -> Result<Identity, Refused> {
    if let Some(who) = lobby.logins.visitor(lobby, &parts.headers) {
        return Ok(who);
    }
    let door = lobby.anonymous();
    let login = match parts.headers.get(header::AUTHORIZATION) {
        Some(value) => Some(login(value.as_bytes()).ok_or(Refused::BadCredentials)?),
        // No attempt to come in: a page that is open asks so every second until somebody logs in.
        None if door == Anonymous::None => return Err(Refused::NotAuthorized),
        None => None,
    };
    let arriving = Arriving { door, client: CLIENT, from: Some(From::of(parts).address()) };
    let user = login.as_ref().map(|(user, _)| user.as_str());
    let password = login.as_ref().map(|(_, password)| password.as_slice());
    lobby.access.admit_request(arriving, Credentials { user, password, certificate: None, sensor: None }).await
}

/// What a visitor is told who is not let in.
pub(super) fn refusal(refused: Refused) -> Response {
    let status = match refused {
        Refused::NotAuthorized | Refused::BadCredentials => StatusCode::UNAUTHORIZED,
        Refused::Busy | Refused::NoUsers => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{refused}\n")).into_response()
}

/// The same, for programs that send a login only when they are asked for one.
pub(super) fn challenge(refused: Refused) -> Response {
    let mut response = refusal(refused);
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = header::HeaderValue::from_static("Basic realm=\"ironbridge\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// User and password of an `Authorization: Basic …`.
fn login(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") || rest.len() > CREDENTIALS_MAX {
        return None;
    }
    let pair = BASE64_STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let user = std::str::from_utf8(&pair[..colon]).ok()?.to_owned();
    Some((user, pair[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_a_user_up_to_the_first_colon_and_a_password_of_any_bytes() {
        let basic = |pair: &[u8]| login(format!("Basic {}", BASE64_STANDARD.encode(pair)).as_bytes());
        assert_eq!(basic(b"hmi:se:cret"), Some(("hmi".into(), b"se:cret".to_vec())));
        assert_eq!(basic(b"hmi:\xff"), Some(("hmi".into(), b"\xff".to_vec())));
        assert_eq!(basic(b"hmi"), None);
        assert_eq!(basic(b"\xff:a"), None);
        let [name, password] = [NAME_BYTES_MAX, PASSWORD_BYTES_MAX].map(|length| "a".repeat(length));
        let longest = Some((name.clone(), password.clone().into_bytes()));
        assert_eq!(basic(format!("{name}:{password}").as_bytes()), longest, "whatever passwd takes");
        assert_eq!(basic(format!("{name}:{password}aaa").as_bytes()), None);
        assert_eq!(login(b"Bearer abc"), None);
        assert_eq!(login(b"Basic ***"), None);
        assert_eq!(login(b""), None);
    }
}
