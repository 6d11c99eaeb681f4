//! `[[broker.listener]]`: where local clients come in, and with what.
//!
//! What other machines can reach has TLS and a login, and anonymous clients are let in on loopback only, without websocket:
//! there is no switch for either. Files are only named here: `check` looks into them, and a door
//! opens as soon as they can be used.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::super::plan::{Anonymous, ClientCertificate, Listen, ListenerPlan, ListenerTls, WebsocketPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::exposed::{self, Exposed};
use super::{access, mqtt_sn, path};

const LISTEN_ALLOWED: &str = "a literal address and a port, such as \"127.0.0.1:1883\" or \"[::]:8883\", \"unix:/run/ironbridge-clients/mqtt.sock\", or \"udp:127.0.0.1:1884\" for MQTT-SN";
const ORIGIN_ALLOWED: &str = "as browsers write it, such as \"https://hmi.example.com\" or \"http://10.0.0.7:1880\"";
pub(super) const ANONYMOUS: [(&str, Anonymous); 4] = [
    ("none", Anonymous::None),
    ("acl", Anonymous::Acl),
    ("read", Anonymous::Read),
    ("read-write", Anonymous::ReadWrite),
];
const CLIENT_CERTIFICATES: [(&str, ClientCertificate); 2] =
    [("required", ClientCertificate::Required), ("optional", ClientCertificate::Optional)];
const EXPOSED: Exposed = Exposed {
    what: "a listener",
    logins: "`users_file`, or `client_ca`",
    lacks: "neither `users_file` (ironbridge passwd writes one) nor `tls.client_ca`",
};
/// `sun_path` of unix(7) with its NUL, less the suffix of the name under which a socket is made.
const SOCKET_BYTES_MAX: usize = 99;

/// The highest there is (MQTT 5, section 4.3).
const QOS_MAX: u8 = 2;

/// All of them.
pub fn listeners(broker: &Section<'_, '_>) -> Vec<ListenerPlan> {
    let list = Trail::Key(broker.trail, "listener");
    let mut listeners: Vec<(ListenerPlan, At)> = Vec::new();
    for (position, node) in broker.tables("listener").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(broker.cx, node, &trail, schema::LISTENER) else { continue };
        let Some((listener, at)) = listener(&section, broker) else { continue };
        let same = |(other, _): &&(ListenerPlan, At)| collide(&listener, other);
        if let Some((_, first)) = listeners.iter().find(same) {
            let message = "another listener has this address already";
            section.report(section.wrong("listen", at, message).also(*first));
        }
        listeners.push((listener, at));
    }
    listeners.into_iter().map(|(listener, _)| listener).collect()
}

/// One, and where its `listen` stands.
fn listener(section: &Section<'_, '_>, broker: &Section<'_, '_>) -> Option<(ListenerPlan, At)> {
    let anonymous = section.choice("anonymous", &ANONYMOUS);
    let (tls, websocket) = (tls(section), websocket(section));
    let interface = section.text("interface").and_then(|name| path::interface(section, name));
    let max_qos = section.whole("max_qos", 0..=QOS_MAX.into()).and_then(|qos| u8::try_from(qos).ok());
    let max_qos = max_qos.unwrap_or(QOS_MAX);
    let require_client_id = section.flag("require_client_id").is_some_and(|flag| flag.value);
    let identity = access::identity(section);
    let text = section.required_text("listen", "an address and a port, or a unix socket")?;
    let listen = quic(section, listen(section, text)?, text.at);
    let mqtt_sn = mqtt_sn::door(section, (&listen, text.at));
    let shows_none = section.get("tls").is_none() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_none());
    if let Some(node) = section.get("identity").filter(|_| shows_none) {
        let message = "goes with `tls.client_ca`: only then clients show a certificate";
        section.report(section.wrong("identity", node.at, message));
    }
    if let (Listen::Unix(_), Some(node)) = (&listen, section.get("interface")) {
        section.report(section.wrong("interface", node.at, "a unix socket belongs to no interface"));
    }
    if let (Listen::Unix(_), Some(node)) = (&listen, section.get("tls")) {
        let message = "a unix socket needs no TLS: what goes through it does not leave this machine";
        section.report(section.wrong("tls", node.at, message));
    }
    if let Some(spot) = anonymous.filter(|spot| spot.value != Anonymous::None) {
        check_anonymous(section, spot.at, (&listen, text.at));
    }
    if let Listen::Tcp(address) | Listen::Quic(address) = listen
        && !address.ip().is_loopback()
    {
        // of a `tls` that is wrong nobody knows what it would have let in
        let by_certificate = tls.as_ref().is_none_or(|tls| tls.client_ca.is_some());
        EXPOSED.check(section, text.at, broker.get("users_file").is_some() || by_certificate);
    }
    let anonymous = anonymous.map(|spot| spot.value).unwrap_or_default();
    let listener =
        ListenerPlan { listen, anonymous, tls, websocket, identity, interface, max_qos, require_client_id, mqtt_sn };
    Some((listener, text.at))
}

fn listen(section: &Section<'_, '_>, text: Spot<&str>) -> Option<Listen> {
    let refuse = |message: &str| {
        section.report(section.wrong("listen", text.at, message).allowed(LISTEN_ALLOWED));
        None
    };
    if let Some(address) = text.value.strip_prefix("udp:") {
        return match address.parse() {
            Ok(address) => Some(Listen::Udp(address)),
            Err(_) => refuse("is no address with a port behind `udp:`"),
        };
    }
    let Some(path) = text.value.strip_prefix("unix:") else {
        return match text.value.parse() {
            Ok(address) => Some(Listen::Tcp(address)),
            Err(_) => refuse("is no address with a port; a name does not do, because what it means can change"),
        };
    };
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        return refuse("names no socket");
    }
    let path: PathBuf = section.cx.resolve(Spot { value: path, at: text.at });
    if path.as_os_str().len() > SOCKET_BYTES_MAX {
        return refuse(&format!("is too long for the name of a socket: {SOCKET_BYTES_MAX} bytes at most"));
    }
    Some(Listen::Unix(path))
}

/// The same place by QUIC, if that is what is wanted.
fn quic(section: &Section<'_, '_>, listen: Listen, at: At) -> Listen {
    let Some(flag) = section.flag("quic").filter(|flag| flag.value) else { return listen };
    let refuse = |at, message: &str| section.report(section.wrong("quic", at, message));
    if !cfg!(feature = "quic") {
        refuse(flag.at, "this build has no QUIC (it was made without the feature `quic`)");
    }
    if section.get("tls").is_none() {
        refuse(flag.at, "QUIC goes with `tls = { certificate, key }`: there is none without TLS");
    }
    if let Some(websocket) = section.flag("websocket").filter(|flag| flag.value) {
        section.report(section.wrong("quic", flag.at, "either QUIC or websocket, not both").also(websocket.at));
    }
    match listen {
        Listen::Tcp(address) => Listen::Quic(address),
        other => {
            section.report(
                section
                    .wrong("quic", flag.at, "QUIC goes with an address and a port, such as \"0.0.0.0:14567\"")
                    .also(at),
            );
            other
        }
    }
}

/// Anonymous clients come from this machine, and are no web pages.
fn check_anonymous(section: &Section<'_, '_>, at: At, (listen, listen_at): (&Listen, At)) {
    let refuse = |message: &str| section.wrong("anonymous", at, message).allowed("none");
    match listen {
        Listen::Tcp(address) | Listen::Udp(address) | Listen::Quic(address) if !address.ip().is_loopback() => {
            let message = "anonymous clients are let in on loopback only; there is no switch for it";
            section.report(refuse(message).also(listen_at));
        }
        Listen::Unix(_) => {
            let message =
                "anonymous clients are let in on a loopback address only; here they log in with name and password";
            section.report(refuse(message).also(listen_at));
        }
        Listen::Tcp(_) | Listen::Udp(_) | Listen::Quic(_) => {
            if let Some(websocket) = section.flag("websocket").filter(|flag| flag.value) {
                let message =
                    "no anonymous clients by websocket: every page that a browser on this machine shows could be one";
                section.report(refuse(message).also(websocket.at));
            }
        }
    }
}

fn tls(listener: &Section<'_, '_>) -> Option<ListenerTls> {
    let trail = Trail::Key(listener.trail, "tls");
    let section = Section::open(listener.cx, listener.get("tls")?, &trail, schema::LISTENER_TLS)?;
    let identity = exposed::identity(&section);
    let client_ca = section.path("client_ca").map(|path| path.value);
    let client_certificate = section.choice("client_certificate", &CLIENT_CERTIFICATES);
    if let (Some(spot), None) = (client_certificate, section.get("client_ca")) {
        let message = "goes with `client_ca`: who signs the certificates of clients";
        section.report(section.wrong("client_certificate", spot.at, message));
    }
    let client_certificate = client_certificate.map(|spot| spot.value).unwrap_or_default();
    let (certificate, key) = identity?;
    Some(ListenerTls { certificate, key, client_ca, client_certificate })
}

fn websocket(section: &Section<'_, '_>) -> Option<WebsocketPlan> {
    let on = section.flag("websocket").is_some_and(|flag| flag.value);
    if let (Some(node), false) = (section.get("origins"), on) {
        section.report(section.wrong("origins", node.at, "goes with `websocket = true`"));
    }
    let mut origins = Vec::new();
    for origin in section.texts("origins").unwrap_or_default() {
        if is_origin(origin.value) {
            origins.push(origin.value.to_owned());
        } else {
            section.report(section.wrong("origins", origin.at, "is no origin of a page").allowed(ORIGIN_ALLOWED));
        }
    }
    on.then_some(WebsocketPlan { origins })
}

/// Scheme, host and perhaps a port, and nothing behind them (RFC 6454, section 7); `null` is a page that has none.
fn is_origin(text: &str) -> bool {
    let Some((scheme, place)) = text.split_once("://") else { return text == "null" };
    let scheme_is_one = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    scheme_is_one && !place.is_empty() && place.chars().all(|c| c.is_ascii_graphic() && !"/?#@*,\"\\".contains(c))
}

/// Can one of them not be opened while the other is? A socket for all addresses takes the port of each (tcp(7), ipv6(7)).
fn collide(one: &ListenerPlan, other: &ListenerPlan) -> bool {
    let (one_at, other_at) = match (&one.listen, &other.listen) {
        (Listen::Tcp(one), Listen::Tcp(other)) => (one, other),
        (Listen::Udp(one) | Listen::Quic(one), Listen::Udp(other) | Listen::Quic(other)) => (one, other),
        (one, other) => return one == other,
    };
    let apart = one.interface.is_some() && other.interface.is_some() && one.interface != other.interface;
    one_at.port() != 0
        && one_at.port() == other_at.port()
        && !apart
        && (covers(one_at, other_at) || covers(other_at, one_at))
}

/// Does a socket for the one address take what is meant for the other too?
pub(super) fn covers(one: &SocketAddr, other: &SocketAddr) -> bool {
    one.ip() == other.ip()
        || match one.ip() {
            IpAddr::V4(address) => address.is_unspecified() && other.is_ipv4(),
            IpAddr::V6(address) => address.is_unspecified(),
        }
}
