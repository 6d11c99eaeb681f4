//! Every key of the contract, section 2, and which of them have landed.
//!
//! A key that is not here is a mistake of the user; a key that is here and has not landed is refused by name. The
//! shipped `config/ironbridge.toml` names exactly these keys, and a test holds it to that.

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What stands behind it.
    pub kind: Kind,
    /// Whether this version knows what to do with it.
    pub landed: Landed,
}

/// What stands behind a key, as far as CSV cells and the list of all keys must know.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text, also with a unit in it.
    Text,
    /// A text: the path of a file or directory, as seen from the file it stands in.
    Path,
    /// A whole or real number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A list of texts; `a|b` in a cell.
    List,
    /// A table: `[name]` or inline.
    Table(&'static [Key]),
    /// `[[name]]`
    Tables(&'static [Key]),
    /// A table of free keys and their words: `{ 0 = "off" }`; `0=off|1=on` in a cell.
    Words,
}

/// Whether the part behind a key is in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// It is.
    Yes,
    /// It is refused by name.
    NotYet,
}

const fn landed(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, landed: Landed::Yes }
}

/// The top of the file.
pub const ROOT: &[Key] = &[
    landed("gateway", Kind::Table(GATEWAY)),
    landed("store", Kind::Table(STORE)),
    landed("broker", Kind::Table(BROKER)),
    landed("forward", Kind::Tables(FORWARD)),
    landed("status", Kind::Table(STATUS)),
    landed("uplink", Kind::Tables(UPLINK)),
    landed("bridge", Kind::Tables(BRIDGE)),
    landed("bus", Kind::Tables(BUS)),
    landed("device", Kind::Tables(DEVICE)),
];

/// `[gateway]`
pub const GATEWAY: &[Key] = &[
    landed("name", Kind::Text),
    landed("topic", Kind::Text),
    landed("data_dir", Kind::Path),
    landed("time_source", Kind::Text),
    landed("rollback", Kind::Bool),
    landed("rollback_after", Kind::Text),
];

/// `[store]`
pub const STORE: &[Key] =
    &[landed("max_size", Kind::Text), landed("max_age", Kind::Text), landed("commit_interval", Kind::Text)];

/// `[broker]`
pub const BROKER: &[Key] = &[
    landed("users_file", Kind::Path),
    landed("keep_alive_max", Kind::Text),
    landed("max_connections", Kind::Number),
    landed("max_connections_per_address", Kind::Number),
    landed("max_connect_rate", Kind::Number),
    landed("max_connect_rate_per_address", Kind::Number),
    landed("max_packet_size", Kind::Text),
    landed("max_payload_size", Kind::Text),
    landed("max_inflight", Kind::Number),
    landed("max_queued_size", Kind::Text),
    landed("max_subscriptions", Kind::Number),
    landed("retain_available", Kind::Bool),
    landed("check_retain_source", Kind::Bool),
    landed("session_max_size", Kind::Text),
    landed("sessions_max_size", Kind::Text),
    landed("max_sessions", Kind::Number),
    landed("session_expiry_max", Kind::Text),
    landed("listener", Kind::Tables(LISTENER)),
    landed("acl", Kind::Tables(ACL)),
];

/// `[[broker.listener]]`
pub const LISTENER: &[Key] = &[
    landed("listen", Kind::Text),
    landed("anonymous", Kind::Text),
    landed("identity", Kind::Text),
    landed("tls", Kind::Table(LISTENER_TLS)),
    landed("websocket", Kind::Bool),
    landed("origins", Kind::List),
    landed("interface", Kind::Text),
    landed("max_qos", Kind::Number),
    landed("require_client_id", Kind::Bool),
];

/// `tls = { … }` of a listener.
pub const LISTENER_TLS: &[Key] = &[
    landed("certificate", Kind::Path),
    landed("key", Kind::Path),
    landed("client_ca", Kind::Path),
    landed("client_certificate", Kind::Text),
];

/// `[[broker.acl]]`
pub const ACL: &[Key] = &[
    landed("user", Kind::Text),
    landed("read", Kind::List),
    landed("write", Kind::List),
    landed("operate", Kind::List),
];

/// `[[forward]]`
pub const FORWARD: &[Key] = &[landed("filter", Kind::Text), landed("class", Kind::Text), landed("uplinks", Kind::List)];

/// `[status]`
pub const STATUS: &[Key] = &[
    landed("listen", Kind::Text),
    landed("anonymous", Kind::Text),
    landed("hosts", Kind::List),
    landed("tls", Kind::Table(STATUS_TLS)),
];

/// `tls = { … }` of the status page.
pub const STATUS_TLS: &[Key] = &[landed("certificate", Kind::Path), landed("key", Kind::Path)];

/// `[[uplink]]`
pub const UPLINK: &[Key] = &[
    landed("name", Kind::Text),
    landed("url", Kind::Text),
    landed("urls", Kind::List),
    landed("client_id", Kind::Text),
    landed("ca_file", Kind::Path),
    landed("certificate", Kind::Path),
    landed("key", Kind::Path),
    landed("username", Kind::Text),
    landed("password_file", Kind::Path),
    landed("proxy", Kind::Text),
    landed("proxy_username", Kind::Text),
    landed("proxy_password_file", Kind::Path),
    landed("mqtt_version", Kind::Text),
    landed("format", Kind::Text),
    landed("layout", Kind::Text),
    landed("compress", Kind::Text),
    landed("group_id", Kind::Text),
    landed("edge_node_id", Kind::Text),
    landed("primary_host", Kind::Text),
    landed("host_timeout", Kind::Text),
    landed("datatypes", Kind::Text),
    landed("batch_samples", Kind::Number),
    landed("batch_interval", Kind::Text),
    landed("summary_after", Kind::Text),
    landed("topic_prefix", Kind::Text),
    landed("delivery", Kind::Text),
    landed("classes", Kind::List),
    landed("start", Kind::Text),
    landed("max_rate", Kind::Text),
    landed("budget", Kind::List),
    landed("reserve", Kind::Text),
    landed("overrun", Kind::Text),
    landed("keep_alive", Kind::Text),
    landed("preset", Kind::Text),
    landed("sas_key_file", Kind::Path),
    landed("commands", Kind::Bool),
    landed("session_expiry", Kind::Text),
    landed("down", Kind::Tables(UPLINK_DOWN)),
    landed("path", Kind::Tables(UPLINK_PATH)),
];

/// `[[uplink.down]]`
pub const UPLINK_DOWN: &[Key] = &[
    landed("filter", Kind::Text),
    landed("local_prefix", Kind::Text),
    landed("remote_prefix", Kind::Text),
    landed("qos", Kind::Number),
    landed("retain", Kind::Bool),
];

/// `[[bridge]]`
pub const BRIDGE: &[Key] = &[
    landed("name", Kind::Text),
    landed("url", Kind::Text),
    landed("urls", Kind::List),
    landed("client_id", Kind::Text),
    landed("ca_file", Kind::Path),
    landed("certificate", Kind::Path),
    landed("key", Kind::Path),
    landed("username", Kind::Text),
    landed("password_file", Kind::Path),
    landed("proxy", Kind::Text),
    landed("proxy_username", Kind::Text),
    landed("proxy_password_file", Kind::Path),
    landed("mqtt_version", Kind::Text),
    landed("keep_alive", Kind::Text),
    landed("max_rate", Kind::Text),
    landed("session_expiry", Kind::Text),
    landed("max_size", Kind::Text),
    landed("max_age", Kind::Text),
    landed("notifications", Kind::Bool),
    landed("topic", Kind::Tables(BRIDGE_TOPIC)),
];

/// `[[bridge.topic]]`
pub const BRIDGE_TOPIC: &[Key] = &[
    landed("filter", Kind::Text),
    landed("direction", Kind::Text),
    landed("qos", Kind::Number),
    landed("local_prefix", Kind::Text),
    landed("remote_prefix", Kind::Text),
    landed("retain", Kind::Bool),
];

/// `[[uplink.path]]`
pub const UPLINK_PATH: &[Key] = &[
    landed("name", Kind::Text),
    landed("interface", Kind::Text),
    landed("source", Kind::Text),
    landed("classes", Kind::List),
    landed("budget", Kind::List),
    landed("max_rate", Kind::Text),
    landed("schedule", Kind::Text),
    landed("price", Kind::Text),
];

/// `[[bus]]`
pub const BUS: &[Key] = &[
    landed("name", Kind::Text),
    landed("type", Kind::Text),
    landed("endpoint", Kind::Text),
    landed("port", Kind::Text),
    landed("serial", Kind::Text),
    landed("rs485", Kind::Table(RS485)),
    landed("low_latency", Kind::Bool),
    landed("echo", Kind::Text),
    landed("listen", Kind::Text),
    landed("allow", Kind::List),
    landed("ca_file", Kind::Path),
    landed("certificate", Kind::Path),
    landed("key", Kind::Path),
    landed("server_name", Kind::Text),
    landed("response_timeout", Kind::Text),
    landed("pause_after_connect", Kind::Text),
    landed("delay_between_requests", Kind::Text),
    landed("delay_on_unit_change", Kind::Text),
    landed("close_after_cycle", Kind::Bool),
    landed("max_connections", Kind::Number),
    landed("ignore_unit_id", Kind::Bool),
    landed("retries", Kind::Number),
    landed("turnaround", Kind::Text),
    landed("mode", Kind::Text),
    landed("frame_start", Kind::Text),
    landed("frame_end", Kind::Text),
    landed("frame_length", Kind::Number),
    landed("frame_idle", Kind::Text),
    landed("max_frame", Kind::Number),
    landed("checksum", Kind::Text),
    landed("checksum_form", Kind::Text),
    landed("checksum_after", Kind::Text),
    landed("checksum_place", Kind::Text),
];

/// `[bus.rs485]`
pub const RS485: &[Key] = &[
    landed("rts_on_send", Kind::Text),
    landed("delay_before_send", Kind::Text),
    landed("delay_after_send", Kind::Text),
];

/// `[[device]]`
pub const DEVICE: &[Key] = &[
    landed("name", Kind::Text),
    landed("bus", Kind::Text),
    landed("unit_id", Kind::Number),
    landed("profile", Kind::Text),
    landed("address_style", Kind::Text),
    landed("poll", Kind::Text),
    landed("max_registers_per_read", Kind::Number),
    landed("max_bits_per_read", Kind::Number),
    landed("max_gap", Kind::Number),
    landed("fill_gaps", Kind::Bool),
    landed("one_request_per_tag", Kind::Bool),
    landed("readable", Kind::List),
    landed("forbidden", Kind::List),
    landed("pause_after_connect", Kind::Text),
    landed("delay_between_requests", Kind::Text),
    landed("delay_on_unit_change", Kind::Text),
    landed("ignore_unit_id", Kind::Bool),
    landed("retries", Kind::Number),
    landed("send", Kind::Text),
    landed("match", Kind::List),
    landed("status", Kind::Table(STATUS_TEXTS)),
    landed("example", Kind::List),
    landed("tag", Kind::Tables(TAG)),
];

/// `status = { … }` of a device on a bus of type `line`.
pub const STATUS_TEXTS: &[Key] =
    &[landed("field", Kind::Text), landed("good", Kind::List), landed("uncertain", Kind::List)];

/// `[[device.tag]]`, and the columns of a CSV register map.
pub const TAG: &[Key] = &[
    landed("name", Kind::Text),
    landed("address", Kind::Text),
    landed("type", Kind::Text),
    landed("order", Kind::Text),
    landed("mask", Kind::Text),
    landed("shift", Kind::Number),
    landed("nan", Kind::List),
    landed("scale", Kind::Number),
    landed("offset", Kind::Number),
    landed("scale_from", Kind::Text),
    landed("map", Kind::Words),
    landed("encoding", Kind::Text),
    landed("pad", Kind::Text),
    landed("terminator", Kind::Text),
    landed("unit", Kind::Text),
    landed("group", Kind::Text),
    landed("poll", Kind::Text),
    landed("deadband", Kind::Number),
    landed("expression", Kind::Text),
    landed("field", Kind::Text),
    landed("compression", Kind::Table(COMPRESSION)),
    landed("stale_after", Kind::Text),
    landed("unchanged_for", Kind::Text),
    landed("heartbeat", Kind::Text),
    landed("min", Kind::Number),
    landed("max", Kind::Number),
    landed("class", Kind::Text),
    landed("access", Kind::Text),
    landed("write", Kind::Table(WRITE)),
    landed("alarm", Kind::Table(ALARM)),
    landed("description", Kind::Text),
];

/// `write = { … }` of a tag.
pub const WRITE: &[Key] = &[
    landed("function", Kind::Text),
    landed("min", Kind::Number),
    landed("max", Kind::Number),
    landed("verify", Kind::Bool),
    landed("retry", Kind::Number),
];

/// `compression = { … }` of a tag.
pub const COMPRESSION: &[Key] = &[landed("swing", Kind::Number), landed("max_gap", Kind::Text)];

/// `alarm = { … }` of a tag.
pub const ALARM: &[Key] = &[
    landed("high_high", Kind::Number),
    landed("high", Kind::Number),
    landed("low", Kind::Number),
    landed("low_low", Kind::Number),
    landed("state", Kind::Bool),
    landed("hysteresis", Kind::Number),
    landed("delay", Kind::Text),
    landed("off_delay", Kind::Text),
    landed("class", Kind::Text),
];

/// The top of a TOML register map.
pub const MAP: &[Key] = &[landed("address_style", Kind::Text), landed("tag", Kind::Tables(TAG))];

/// The way to every key of a configuration, tables included: `broker.listener.tls.key`.
pub fn all_paths() -> Vec<String> {
    let mut paths = Vec::new();
    collect(ROOT, "", &mut paths);
    paths
}

fn collect(keys: &[Key], above: &str, paths: &mut Vec<String>) {
    for key in keys {
        let path = if above.is_empty() { key.name.to_owned() } else { format!("{above}.{}", key.name) };
        if let Kind::Table(below) | Kind::Tables(below) = key.kind {
            collect(below, &path, paths);
        }
        paths.push(path);
    }
}
