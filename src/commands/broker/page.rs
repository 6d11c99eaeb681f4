//! The configuration that comes out, with comments for what does not.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use super::acl::Rule;
use super::bridge;
use super::conf::{Listener, Mosquitto};
use super::{Notes, Users, Weight};
use crate::config::plan::Listen;
use crate::config::schema::{self, Key};
use crate::config::{quoted, units};

/// A value as it is written here, and whether it is less than it was.
type Form = fn(&str) -> Option<(String, Kept)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Whole,
    /// Theirs is more than there is here.
    Part,
}

/// The longest `session_expiry_max`.
const EXPIRY_DAYS_MAX: u32 = 3650;

/// mosquitto's name of a limit, ours, and how its value is written here. 0 is without a limit there, where we have one.
const LIMITS: &[(&str, &str, Form)] = &[
    ("max_inflight_messages", "max_inflight", |value| bounded(value, 0, 256, |count| count.to_string())),
    ("max_keepalive", "keep_alive_max", |value| bounded(value, 1, 65_535, |seconds| format!("\"{seconds}s\""))),
    ("max_packet_size", "max_packet_size", |value| bounded(value, 20, 1 << 20, bytes)),
    ("message_size_limit", "max_payload_size", |value| bounded(value, 0, 1 << 20, bytes)),
    ("persistent_client_expiration", "session_expiry_max", expiry),
    ("retain_available", "retain_available", flag),
    ("check_retain_source", "check_retain_source", flag),
];

/// The whole text.
pub(super) fn write(
    conf: &Path,
    mosquitto: &Mosquitto,
    (users, rules): (&Users, &[Rule]),
    notes: &mut Notes,
) -> String {
    let mut body = String::from("[broker]\n");
    if let Some(path) = &users.path {
        line(&mut body, "users_file", &quoted(path));
    }
    for (theirs, ours, form) in LIMITS {
        let Some((value, place)) = mosquitto.limits.get(theirs) else { continue };
        match form(value).filter(|_| has(schema::BROKER, ours)) {
            Some((written, kept)) => {
                line(&mut body, ours, &written);
                if kept == Kept::Part {
                    let text = format!("{theirs} {value} is more than there is here: {ours} = {written}");
                    notes.add(Weight::Loud, place, text);
                }
            }
            None => notes.add(Weight::Quiet, place, format!("{theirs} is not carried over; the standard limit counts")),
        }
    }
    if !mosquitto.limits.contains_key("persistent_client_expiration") {
        // There it is for ever.
        line(&mut body, "session_expiry_max", &format!("\"{EXPIRY_DAYS_MAX}d\""));
    }
    connections(&mut body, mosquitto, notes);
    for (listener, listen) in doors(mosquitto, notes) {
        body.push_str(&door(listener, &listen, mosquitto, notes));
    }
    for rule in rules {
        let _ = write!(body, "\n[[broker.acl]]\nuser = {}\n", quoted(&rule.user));
        for (key, filters) in [("read", &rule.read), ("write", &rule.write)] {
            if !filters.is_empty() {
                let filters: Vec<String> = filters.iter().map(|filter| quoted(filter)).collect();
                line(&mut body, key, &format!("[{}]", filters.join(", ")));
            }
        }
    }
    general(mosquitto, rules, notes);
    for connection in &mosquitto.bridges {
        bridge::write(&mut body, connection, notes);
    }
    format!("{}{body}", head(conf, notes))
}

/// There it is of one listener, here of all of them together.
fn connections(body: &mut String, mosquitto: &Mosquitto, notes: &mut Notes) {
    for listener in &mosquitto.listeners {
        let Some((value, place)) = &listener.max_connections else { continue };
        let (weight, why) = match value.parse::<u16>().ok().filter(|count| *count > 0) {
            Some(count) if mosquitto.listeners.len() == 1 => {
                line(body, "max_connections", &count.to_string());
                continue;
            }
            Some(_) => (Weight::Loud, "it counted for this listener alone, and here it is for all of them together"),
            None => (Weight::Quiet, "the standard limit counts"),
        };
        notes.add(weight, place, format!("max_connections {value} is not carried over: {why}"));
    }
}

fn head(conf: &Path, notes: &Notes) -> String {
    let mut head = format!("# Made from {} by ironbridge broker import.\n#\n", one_line(&conf.display().to_string()));
    for (weight, title) in [(Weight::Loud, "NOT AS IT WAS"), (Weight::Quiet, "Not needed here")] {
        let mut of_weight = notes.0.iter().filter(|note| note.weight == weight).peekable();
        if of_weight.peek().is_some() {
            let _ = writeln!(head, "# {title}:");
        }
        for note in of_weight {
            let _ = writeln!(head, "#   {}: {}", one_line(&note.place), one_line(&note.text));
        }
    }
    head.push('\n');
    head
}

/// What everybody must know who comes from mosquitto.
fn general(mosquitto: &Mosquitto, rules: &[Rule], notes: &mut Notes) {
    if mosquitto.acl_file.is_some() {
        let text = "a client that subscribes to more than it may read is refused that filter (mosquitto accepts it and holds \
                    messages back): let it subscribe to what its rules name";
        notes.add(Weight::Loud, "subscriptions", text);
    }
    let wide = |filter: &String| filter.ends_with('#') || filter.ends_with('+') || filter.ends_with("/set");
    for rule in rules.iter().filter(|rule| rule.write.iter().any(wide)) {
        let text =
            format!("{} may also command tags that are writable, where write covers their topic and /set", rule.user);
        notes.add(Weight::Loud, "commands", text);
    }
}

/// Each listener that is carried over, and where it listens here. One that has to be moved to loopback and finds its place
/// taken there is left out.
fn doors<'a>(mosquitto: &'a Mosquitto, notes: &mut Notes) -> Vec<(&'a Listener, Listen)> {
    let found = mosquitto.listeners.iter().map(|listener| (listener, seat(listener, mosquitto)));
    let found: Vec<(&Listener, Seat)> = found.collect();
    let mut taken: Vec<SocketAddr> = found.iter().filter_map(|(_, seat)| seat.address()).collect();
    let mut doors = Vec::new();
    for (listener, seat) in found {
        let (to, why, then) = match seat {
            Seat::There(listen) => {
                if let (None, Listen::Tcp(to)) = (&listener.bind, &listen) {
                    let text = format!(
                        "the listener on port {0} hears IPv4 only: write listen = \"[::]:{0}\" where it is to hear IPv6, too",
                        to.port()
                    );
                    notes.add(Weight::Loud, &listener.place, text);
                }
                doors.push((listener, listen));
                continue;
            }
            Seat::Moved { to, why, then } => (to, why, then),
        };
        if taken.iter().any(|other| other.port() == to.port() && (other.ip() == to.ip() || other.ip().is_unspecified()))
        {
            let message = format!("{why}: LEFT OUT, another listener has {to} already");
            notes.add(Weight::Loud, &listener.place, message);
        } else {
            notes.add(Weight::Loud, &listener.place, why + then);
            taken.push(to);
            doors.push((listener, Listen::Tcp(to)));
        }
    }
    doors
}

/// Where a listener comes to.
enum Seat {
    There(Listen),
    /// To loopback.
    Moved {
        to: SocketAddr,
        why: String,
        then: &'static str,
    },
}

impl Seat {
    fn address(&self) -> Option<SocketAddr> {
        if let Self::There(Listen::Tcp(address)) = self { Some(*address) } else { None }
    }
}

fn seat(listener: &Listener, mosquitto: &Mosquitto) -> Seat {
    let port = listener.port;
    if let Some(path) = listener.bind.as_deref().filter(|bind| port == 0 && bind.starts_with('/')) {
        return Seat::There(Listen::Unix(path.into()));
    }
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let Some(address) = address(listener) else {
        let why =
            format!("{} is a name; write the address that it means", listener.bind.as_deref().unwrap_or_default());
        return Seat::Moved { to, why, then: "" };
    };
    let certificates = listener.require_certificate && listener.ca.is_some();
    let login = certificates || mosquitto.password_file.is_some() && !listener.require_certificate;
    let tls = has_tls(listener);
    if address.is_loopback() || tls && login && listener.restricted.is_none() {
        return Seat::There(Listen::Tcp((address, port).into()));
    }
    if let Some(key) = &listener.restricted {
        let why = format!(
            "the listener on port {port} had {key}, which kept clients out or apart and has no counterpart here"
        );
        let then = ": IT IS CARRIED OVER TO LOOPBACK ONLY; see that its users and rules do the same before you give it its \
                    address";
        return Seat::Moved { to, why, then };
    }
    let why = format!("the listener on port {port} HAS NO {}", if tls { "LOGIN" } else { "TLS" });
    let then = " AND IS CARRIED OVER TO LOOPBACK ONLY: other machines cannot reach it until it is given `tls`, users or a \
                client_ca, and their address";
    Seat::Moved { to, why, then }
}

fn has_tls(listener: &Listener) -> bool {
    listener.certificate.is_some() && listener.key.is_some()
}

fn door(listener: &Listener, listen: &Listen, mosquitto: &Mosquitto, notes: &mut Notes) -> String {
    let place = &listener.place;
    let mut out = String::from("\n[[broker.listener]]\n");
    let unix = matches!(listen, Listen::Unix(_));
    let tls = has_tls(listener) && !unix;
    let loopback = if let Listen::Tcp(address) = listen { address.ip().is_loopback() } else { true };
    line(&mut out, "listen", &quoted(&listen.to_string()));
    line(
        &mut out,
        "anonymous",
        &quoted(anonymous(listener, loopback && !listener.websocket && !unix, mosquitto, notes)),
    );
    if tls {
        secure(&mut out, listener);
    }
    if listener.require_certificate && !listener.identity_is_user {
        let message = "a certificate is a login by itself here (cert:NAME, with no rights unless a rule gives them); with \
                       user name and password beside it the client is that user, as it was";
        notes.add(Weight::Loud, place, message);
    }
    if listener.websocket {
        line(&mut out, "websocket", "true");
    }
    terms(&mut out, listener, notes);
    match &listener.interface {
        // Held to another interface, an address of loopback would hear nobody.
        Some(interface) if loopback => {
            let weight = if interface == "lo" { Weight::Quiet } else { Weight::Loud };
            let message = format!(
                "bind_interface {interface} is not carried over: a door on loopback, and a unix socket, hears no other interface"
            );
            notes.add(weight, place, message);
        }
        Some(interface) => line(&mut out, "interface", &quoted(interface)),
        None => {}
    }
    out
}

/// What clients without a name may do; nothing where something of mosquitto's that is not here had a say in it. `near`: on
/// loopback.
fn anonymous(listener: &Listener, near: bool, mosquitto: &Mosquitto, notes: &mut Notes) -> &'static str {
    let named = listener.name_is_id.as_ref().map(|_| "use_username_as_clientid");
    let held_back = listener.restricted.as_deref().or(mosquitto.plugin.then_some("plugin")).or(named);
    let why = match held_back {
        _ if listener.anonymous != Some(true) => return "none",
        Some(key) => format!(
            "anonymous clients are NOT LET IN: {key} kept them out or apart, and has no counterpart here. See that your rules \
             do the same before you write anonymous = \"acl\""
        ),
        None if !near => "anonymous clients are let in on loopback only, without websocket".to_owned(),
        None if mosquitto.acl_file.is_some() => return "acl",
        None => return "read-write",
    };
    notes.add(Weight::Loud, &listener.place, why);
    "none"
}

/// What its clients may do.
fn terms(out: &mut String, listener: &Listener, notes: &mut Notes) {
    if let Some((value, place)) = &listener.max_qos {
        match within(value, 0..=2) {
            Some(qos) => line(out, "max_qos", &qos.to_string()),
            None => notes.add(Weight::Loud, place, format!("max_qos {value} is not carried over: it is 0, 1 or 2")),
        }
    }
    if listener.zero_length_id == Some(false) {
        line(out, "require_client_id", "true");
    }
}

fn secure(out: &mut String, listener: &Listener) {
    let Listener { certificate, key, ca, .. } = listener;
    let path = |path: &String| quoted(&absolute(Path::new(path)));
    let written = |name: &Option<String>| name.as_ref().map_or_else(|| quoted(""), path);
    let (certificate, key) = (written(certificate), written(key));
    let client_ca = ca.as_ref().filter(|_| listener.require_certificate);
    let client_ca = client_ca.map_or_else(String::new, |ca| format!(", client_ca = {}", path(ca)));
    line(out, "tls", &format!("{{ certificate = {certificate}, key = {key}{client_ca} }}"));
}

/// `None`: it is a name.
fn address(listener: &Listener) -> Option<IpAddr> {
    match listener.bind.as_deref() {
        None => Some(IpAddr::from([0, 0, 0, 0])),
        Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Some(bind) => bind.trim_matches(['[', ']']).parse().ok(),
    }
}

fn has(keys: &[Key], name: &str) -> bool {
    keys.iter().any(|key| key.name == name)
}

/// What our key takes of it; theirs may be more, or no limit at all.
fn within(value: &str, range: RangeInclusive<u32>) -> Option<u32> {
    value.parse().ok().filter(|number| range.contains(number))
}

/// A number, `least` or more; 0 where that may be said is no limit there.
fn bounded(value: &str, least: u32, most: u32, write: fn(u32) -> String) -> Option<(String, Kept)> {
    let number: u64 = value.parse().ok().filter(|number| *number >= u64::from(least))?;
    let number = if number == 0 { u32::MAX } else { u32::try_from(number).unwrap_or(u32::MAX) };
    let (number, kept) = cut(number, most);
    Some((write(number), kept))
}

fn cut(number: u32, most: u32) -> (u32, Kept) {
    if number > most { (most, Kept::Part) } else { (number, Kept::Whole) }
}

fn bytes(bytes: u32) -> String {
    quoted(&units::write_size(bytes.into()))
}

fn flag(value: &str) -> Option<(String, Kept)> {
    matches!(value, "true" | "false").then(|| (value.to_owned(), Kept::Whole))
}

/// Hours, days, weeks, months, years.
fn expiry(value: &str) -> Option<(String, Kept)> {
    let (count, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
    let (each, unit, most) = match unit {
        "h" => (1, "h", EXPIRY_DAYS_MAX * 24),
        "d" => (1, "d", EXPIRY_DAYS_MAX),
        "w" => (7, "d", EXPIRY_DAYS_MAX),
        "m" => (30, "d", EXPIRY_DAYS_MAX),
        "y" => (365, "d", EXPIRY_DAYS_MAX),
        _ => return None,
    };
    let (count, kept) = cut(count.saturating_mul(each), most);
    Some((format!("\"{count}{unit}\""), kept))
}

pub(super) fn line(out: &mut String, key: &str, value: &str) {
    let _ = writeln!(out, "{key} = {value}");
}

/// mosquitto looks from where it runs, we from where the configuration stands.
pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

pub(super) fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
