//! What every request passes: is it for us at all, and what every answer carries.
//!
//! **Host.** A page of somebody else in a browser on this machine can ask any address for anything, and by a name that it
//! has made point to 127.0.0.1 it may even read the answer (DNS rebinding). Such a request names that host. So it is
//! answered only when it names an address, `localhost`, this box or one of `[status] hosts`; anything else is 421
//! (RFC 9110, section 15.5.20).

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Lobby;

/// What a browser may do with what we answer: nothing that is not ours, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// On every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Around everything.
pub(super) async fn pass(State(lobby): State<Lobby>, request: Request, next: Next) -> Response {
    lobby.stats.requests.one();
    let mut answer = if is_for_us(the_host(request.headers()), request.uri(), &lobby.plan.hosts) {
        next.run(request).await
    } else {
        lobby.stats.refused_host.one();
        let text = "this box is not known by that name; see `hosts` in [status]\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// With two of them it is anybody's guess which one whoever stands between us has looked at (RFC 9112, section 3.2).
fn the_host(headers: &HeaderMap) -> Option<&[u8]> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?;
    hosts.next().is_none().then_some(host.as_bytes())
}

fn is_for_us(host: Option<&[u8]>, uri: &Uri, hosts: &[String]) -> bool {
    // Only a proxy is asked with a whole address (RFC 9112, section 3.2.2).
    if uri.authority().is_some() {
        return false;
    }
    let Some(host) = host.and_then(|host| std::str::from_utf8(host).ok()) else { return false };
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    name == "localhost" || hosts.contains(&name) || name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_two_hosts_has_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(the_host(&headers), None);
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(the_host(&headers), Some(&b"localhost"[..]));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(the_host(&headers), None);
    }

    #[test]
    fn a_request_for_another_name_is_not_for_us() {
        let (own, root) = (["box-7".to_owned(), "box-7.local".to_owned()], Uri::from_static("/"));
        let ours = |host: &str| is_for_us(Some(host.as_bytes()), &root, &own);
        for host in ["127.0.0.1:8080", "localhost", "LocalHost:8080", "[::1]:8080", "[::1]", "10.0.0.7", "Box-7.local."]
        {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example", "box-7.evil.example", "evilbox-7", "", ":8080", "localhost:80:80", "::1", "[evil]"]
        {
            assert!(!ours(host), "{host}");
        }
        assert!(!is_for_us(None, &root, &own));
        assert!(!is_for_us(Some(b"box-7"), &Uri::from_static("http://evil.example/health"), &own));
    }
}
