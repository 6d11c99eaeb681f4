//! `url`, `urls` and `proxy` of an uplink: where it goes.

use super::super::plan::{LOCAL_URL, ProxyKind, ProxyPlan, ServerPlan, Transport};
use super::super::section::{Section, Spot};
use super::reach::split_host;

const URL_FORM: &str = "mqtt://host[:1883], mqtts://host[:8883], ws://host[:80][/mqtt] or wss://host[:443][/mqtt]";
const PROXY_FORM: &str = "http://host[:3128] or socks5://host[:1080]";
const SERVERS_MAX: usize = 16;
const PROXY_USER_BYTES_MAX: usize = 255;
/// Where brokers have their websocket door when nothing else is said.
const WEBSOCKET_PATH: &str = "/mqtt";

/// `url`, or `urls`; empty when both are wrong, which was reported.
pub fn servers(section: &Section<'_, '_>) -> Vec<ServerPlan> {
    if section.get("urls").is_none() {
        let text = section.required_text("url", "where the broker is, such as \"mqtts://broker.example.com:8883\"");
        return text.and_then(|text| server(section, "url", text)).into_iter().collect();
    }
    let urls = section.texts("urls").unwrap_or_default();
    if let Some(node) = section.get("url") {
        section.report(section.wrong("url", node.at, "either `url` or `urls`, not both"));
    }
    if let (true, Some(node)) = (urls.is_empty() || urls.len() > SERVERS_MAX, section.get("urls")) {
        let finding = section.wrong("urls", node.at, format!("lists {} brokers", urls.len()));
        section.report(finding.allowed(format!("1 ..= {SERVERS_MAX} URLs")));
    }
    let mut servers: Vec<ServerPlan> = Vec::new();
    for text in urls {
        let Some(server) = server(section, "urls", text) else { continue };
        if servers.contains(&server) {
            section.report(section.wrong("urls", text.at, "the same broker twice"));
        } else {
            servers.push(server);
        }
    }
    servers
}

fn server(section: &Section<'_, '_>, key: &str, text: Spot<&str>) -> Option<ServerPlan> {
    if text.value == LOCAL_URL {
        if key == "url" {
            return Some(ServerPlan { host: String::new(), port: 0, transport: Transport::Local });
        }
        let message = "the local broker has no other beside it: it is the `url` of an [[uplink]] of its own";
        section.report(section.wrong(key, text.at, message));
        return None;
    }
    let refuse = |message: &str| {
        section.report(section.wrong(key, text.at, message).allowed(URL_FORM));
        None
    };
    if text.value.contains('@') {
        let message = "user and password do not belong into the URL: there are `username` and `password_file`";
        section.report(section.wrong(key, text.at, message).allowed(URL_FORM).secret());
        return None;
    }
    let (scheme, rest) = text.value.split_once("://").unwrap_or(("", text.value));
    let (place, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let websocket_path = if path.len() <= 1 { WEBSOCKET_PATH } else { path };
    let (transport, port) = match scheme {
        "mqtt" => (Transport::Tcp, 1883),
        "mqtts" => (Transport::Tls, 8883),
        "ws" => (Transport::Websocket { path: websocket_path.to_owned() }, 80),
        "wss" => (Transport::SecureWebsocket { path: websocket_path.to_owned() }, 443),
        _ => return refuse("does not begin with mqtt://, mqtts://, ws:// or wss://"),
    };
    if path.len() > 1 && matches!(transport, Transport::Tcp | Transport::Tls) {
        return refuse("a path has a meaning with ws:// and wss:// only");
    }
    if path.chars().any(|c| !c.is_ascii_graphic() || c == '#') {
        return refuse("the path is made of printable ASCII without blanks, and has no #");
    }
    match split_host(place, port) {
        Ok((host, port)) => Some(ServerPlan { host: host.to_owned(), port, transport }),
        Err(message) => refuse(message),
    }
}

/// `proxy`, `proxy_username`, `proxy_password_file`
pub fn proxy(section: &Section<'_, '_>) -> Option<ProxyPlan> {
    let text = section.text("proxy");
    let username = section.text("proxy_username");
    let password_file = section.path("proxy_password_file");
    let keys = [
        ("proxy_username", username.map(|text| text.at)),
        ("proxy_password_file", password_file.as_ref().map(|file| file.at)),
    ];
    for (key, at) in keys.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        if text.is_none() && section.get("proxy").is_none() {
            section.report(section.wrong(key, at, "goes with `proxy`"));
        }
    }
    if let (None, Some(file)) = (&username, &password_file) {
        section.report(section.wrong("proxy_password_file", file.at, "a password goes with a `proxy_username`"));
    }
    let text = text?;
    if text.value.contains('@') {
        let message = "user and password do not belong into the URL: there are `proxy_username` and \
                       `proxy_password_file`";
        section.report(section.wrong("proxy", text.at, message).allowed(PROXY_FORM).secret());
        return None;
    }
    let (scheme, rest) = text.value.split_once("://").unwrap_or(("", text.value));
    let (kind, port) = match scheme {
        "http" => (ProxyKind::Http, 3128),
        "socks5" => (ProxyKind::Socks5, 1080),
        _ => {
            section.report(section.wrong("proxy", text.at, "is no proxy").allowed(PROXY_FORM));
            return None;
        }
    };
    if let Some(username) = username {
        proxy_username(section, kind, username);
    }
    match split_host(rest.strip_suffix('/').unwrap_or(rest), port) {
        Ok((host, port)) => Some(ProxyPlan {
            kind,
            host: host.to_owned(),
            port,
            username: username.map(|text| text.value.to_owned()),
            password_file: password_file.map(|file| file.value),
        }),
        Err(message) => {
            section.report(section.wrong("proxy", text.at, message).allowed(PROXY_FORM));
            None
        }
    }
}

/// SOCKS has one byte for its length (RFC 1929, section 2), and HTTP ends it at the first colon (RFC 7617, section 2).
fn proxy_username(section: &Section<'_, '_>, kind: ProxyKind, text: Spot<&str>) {
    let colon = kind == ProxyKind::Http && text.value.contains(':');
    if !(1..=PROXY_USER_BYTES_MAX).contains(&text.value.len()) || text.value.chars().any(char::is_control) || colon {
        let allowed =
            format!("1 ..= {PROXY_USER_BYTES_MAX} bytes without control characters, for http also without a colon");
        section.report(section.wrong("proxy_username", text.at, "is no user of a proxy").allowed(allowed));
    }
}
