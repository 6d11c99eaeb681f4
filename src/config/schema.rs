//! Every key of the configuration.
//!
//! A key that is not here is a mistake of the user. The shipped `config/ironbridge.toml` names exactly these, as a test holds.

/// One key of a table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What stands behind it.
    pub kind: Kind,
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

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

/// The top of the file.
pub const ROOT: &[Key] = &[
    key("gateway", Kind::Table(GATEWAY)),
    key("store", Kind::Table(STORE)),
    key("broker", Kind::Table(BROKER)),
    key("forward", Kind::Tables(FORWARD)),
    key("status", Kind::Table(STATUS)),
    key("uplink", Kind::Tables(UPLINK)),
    key("bridge", Kind::Tables(BRIDGE)),
    key("bus", Kind::Tables(BUS)),
    key("device", Kind::Tables(DEVICE)),
];

/// `[gateway]`
pub const GATEWAY: &[Key] = &[
    key("name", Kind::Text),
    key("topic", Kind::Text),
    key("data_dir", Kind::Path),
    key("time_source", Kind::Text),
    key("rollback", Kind::Bool),
    key("rollback_after", Kind::Text),
];

/// `[store]`
pub const STORE: &[Key] =
    &[key("max_size", Kind::Text), key("max_age", Kind::Text), key("commit_interval", Kind::Text)];

/// `[broker]`
pub const BROKER: &[Key] = &[
    key("users_file", Kind::Path),
    key("keep_alive_max", Kind::Text),
    key("max_connections", Kind::Number),
    key("max_connections_per_address", Kind::Number),
    key("max_connect_rate", Kind::Number),
    key("max_connect_rate_per_address", Kind::Number),
    key("max_packet_size", Kind::Text),
    key("max_payload_size", Kind::Text),
    key("max_inflight", Kind::Number),
    key("max_queued_size", Kind::Text),
    key("max_subscriptions", Kind::Number),
    key("retain_available", Kind::Bool),
    key("check_retain_source", Kind::Bool),
    key("session_max_size", Kind::Text),
    key("sessions_max_size", Kind::Text),
    key("max_sessions", Kind::Number),
    key("session_expiry_max", Kind::Text),
    key("listener", Kind::Tables(LISTENER)),
    key("acl", Kind::Tables(ACL)),
];

/// `[[broker.listener]]`
pub const LISTENER: &[Key] = &[
    key("listen", Kind::Text),
    key("anonymous", Kind::Text),
    key("identity", Kind::Text),
    key("tls", Kind::Table(LISTENER_TLS)),
    key("quic", Kind::Bool),
    key("websocket", Kind::Bool),
    key("origins", Kind::List),
    key("interface", Kind::Text),
    key("max_qos", Kind::Number),
    key("require_client_id", Kind::Bool),
    key("protocol", Kind::Text),
    key("insecure_network", Kind::Bool),
    key("mqtt_sn", Kind::Table(MQTT_SN)),
    key("sensor", Kind::Tables(SENSOR)),
    key("topic", Kind::Tables(PREDEFINED_TOPIC)),
];

/// `mqtt_sn = { … }` of a listener.
pub const MQTT_SN: &[Key] = &[
    key("gateway_id", Kind::Number),
    key("advertise", Kind::Text),
    key("advertise_to", Kind::Text),
    key("retry", Kind::Text),
    key("retries", Kind::Number),
    key("wait", Kind::Text),
    key("max_datagram", Kind::Text),
    key("publish_user", Kind::Text),
    key("publish_from", Kind::List),
];

/// `[[broker.listener.sensor]]`
pub const SENSOR: &[Key] = &[key("client_id", Kind::Text), key("user", Kind::Text), key("from", Kind::List)];

/// `[[broker.listener.topic]]`
pub const PREDEFINED_TOPIC: &[Key] = &[key("id", Kind::Number), key("name", Kind::Text)];

/// `tls = { … }` of a listener.
pub const LISTENER_TLS: &[Key] = &[
    key("certificate", Kind::Path),
    key("key", Kind::Path),
    key("client_ca", Kind::Path),
    key("client_certificate", Kind::Text),
];

/// `[[broker.acl]]`
pub const ACL: &[Key] =
    &[key("user", Kind::Text), key("read", Kind::List), key("write", Kind::List), key("operate", Kind::List)];

/// `[[forward]]`
pub const FORWARD: &[Key] = &[key("filter", Kind::Text), key("class", Kind::Text), key("uplinks", Kind::List)];

/// `[status]`
pub const STATUS: &[Key] = &[
    key("listen", Kind::Text),
    key("anonymous", Kind::Text),
    key("hosts", Kind::List),
    key("tls", Kind::Table(STATUS_TLS)),
];

/// `tls = { … }` of the status page.
pub const STATUS_TLS: &[Key] = &[key("certificate", Kind::Path), key("key", Kind::Path)];

/// `[[uplink]]`
pub const UPLINK: &[Key] = &[
    key("name", Kind::Text),
    key("url", Kind::Text),
    key("urls", Kind::List),
    key("client_id", Kind::Text),
    key("ca_file", Kind::Path),
    key("certificate", Kind::Path),
    key("key", Kind::Path),
    key("username", Kind::Text),
    key("password_file", Kind::Path),
    key("proxy", Kind::Text),
    key("proxy_username", Kind::Text),
    key("proxy_password_file", Kind::Path),
    key("mqtt_version", Kind::Text),
    key("format", Kind::Text),
    key("layout", Kind::Text),
    key("compress", Kind::Text),
    key("group_id", Kind::Text),
    key("edge_node_id", Kind::Text),
    key("primary_host", Kind::Text),
    key("host_timeout", Kind::Text),
    key("datatypes", Kind::Text),
    key("batch_samples", Kind::Number),
    key("batch_interval", Kind::Text),
    key("summary_after", Kind::Text),
    key("topic_prefix", Kind::Text),
    key("delivery", Kind::Text),
    key("classes", Kind::List),
    key("start", Kind::Text),
    key("max_rate", Kind::Text),
    key("budget", Kind::List),
    key("reserve", Kind::Text),
    key("overrun", Kind::Text),
    key("keep_alive", Kind::Text),
    key("preset", Kind::Text),
    key("sas_key_file", Kind::Path),
    key("commands", Kind::Bool),
    key("session_expiry", Kind::Text),
    key("down", Kind::Tables(UPLINK_DOWN)),
    key("path", Kind::Tables(UPLINK_PATH)),
];

/// `[[uplink.down]]`
pub const UPLINK_DOWN: &[Key] = &[
    key("filter", Kind::Text),
    key("local_prefix", Kind::Text),
    key("remote_prefix", Kind::Text),
    key("qos", Kind::Number),
    key("retain", Kind::Bool),
];

/// `[[bridge]]`
pub const BRIDGE: &[Key] = &[
    key("name", Kind::Text),
    key("url", Kind::Text),
    key("urls", Kind::List),
    key("client_id", Kind::Text),
    key("ca_file", Kind::Path),
    key("certificate", Kind::Path),
    key("key", Kind::Path),
    key("username", Kind::Text),
    key("password_file", Kind::Path),
    key("proxy", Kind::Text),
    key("proxy_username", Kind::Text),
    key("proxy_password_file", Kind::Path),
    key("mqtt_version", Kind::Text),
    key("keep_alive", Kind::Text),
    key("max_rate", Kind::Text),
    key("session_expiry", Kind::Text),
    key("max_size", Kind::Text),
    key("max_age", Kind::Text),
    key("notifications", Kind::Bool),
    key("topic", Kind::Tables(BRIDGE_TOPIC)),
];

/// `[[bridge.topic]]`
pub const BRIDGE_TOPIC: &[Key] = &[
    key("filter", Kind::Text),
    key("direction", Kind::Text),
    key("qos", Kind::Number),
    key("local_prefix", Kind::Text),
    key("remote_prefix", Kind::Text),
    key("retain", Kind::Bool),
];

/// `[[uplink.path]]`
pub const UPLINK_PATH: &[Key] = &[
    key("name", Kind::Text),
    key("interface", Kind::Text),
    key("source", Kind::Text),
    key("classes", Kind::List),
    key("budget", Kind::List),
    key("max_rate", Kind::Text),
    key("schedule", Kind::Text),
    key("price", Kind::Text),
];

/// `[[bus]]`
pub const BUS: &[Key] = &[
    key("name", Kind::Text),
    key("type", Kind::Text),
    key("endpoint", Kind::Text),
    key("port", Kind::Text),
    key("serial", Kind::Text),
    key("rs485", Kind::Table(RS485)),
    key("low_latency", Kind::Bool),
    key("echo", Kind::Text),
    key("listen", Kind::Text),
    key("allow", Kind::List),
    key("ca_file", Kind::Path),
    key("certificate", Kind::Path),
    key("key", Kind::Path),
    key("server_name", Kind::Text),
    key("response_timeout", Kind::Text),
    key("pause_after_connect", Kind::Text),
    key("delay_between_requests", Kind::Text),
    key("delay_on_unit_change", Kind::Text),
    key("close_after_cycle", Kind::Bool),
    key("max_connections", Kind::Number),
    key("ignore_unit_id", Kind::Bool),
    key("retries", Kind::Number),
    key("turnaround", Kind::Text),
    key("mode", Kind::Text),
    key("frame_start", Kind::Text),
    key("frame_end", Kind::Text),
    key("frame_length", Kind::Number),
    key("frame_idle", Kind::Text),
    key("max_frame", Kind::Number),
    key("checksum", Kind::Text),
    key("checksum_form", Kind::Text),
    key("checksum_after", Kind::Text),
    key("checksum_place", Kind::Text),
];

/// `[bus.rs485]`
pub const RS485: &[Key] =
    &[key("rts_on_send", Kind::Text), key("delay_before_send", Kind::Text), key("delay_after_send", Kind::Text)];

/// `[[device]]`
pub const DEVICE: &[Key] = &[
    key("name", Kind::Text),
    key("bus", Kind::Text),
    key("unit_id", Kind::Number),
    key("profile", Kind::Text),
    key("address_style", Kind::Text),
    key("poll", Kind::Text),
    key("max_registers_per_read", Kind::Number),
    key("max_bits_per_read", Kind::Number),
    key("max_gap", Kind::Number),
    key("fill_gaps", Kind::Bool),
    key("one_request_per_tag", Kind::Bool),
    key("readable", Kind::List),
    key("forbidden", Kind::List),
    key("pause_after_connect", Kind::Text),
    key("delay_between_requests", Kind::Text),
    key("delay_on_unit_change", Kind::Text),
    key("ignore_unit_id", Kind::Bool),
    key("retries", Kind::Number),
    key("send", Kind::Text),
    key("match", Kind::List),
    key("status", Kind::Table(STATUS_TEXTS)),
    key("example", Kind::List),
    key("tag", Kind::Tables(TAG)),
];

/// `status = { … }` of a device on a bus of type `line`.
pub const STATUS_TEXTS: &[Key] = &[key("field", Kind::Text), key("good", Kind::List), key("uncertain", Kind::List)];

/// `[[device.tag]]`, and the columns of a CSV register map.
pub const TAG: &[Key] = &[
    key("name", Kind::Text),
    key("address", Kind::Text),
    key("type", Kind::Text),
    key("order", Kind::Text),
    key("mask", Kind::Text),
    key("shift", Kind::Number),
    key("nan", Kind::List),
    key("scale", Kind::Number),
    key("offset", Kind::Number),
    key("scale_from", Kind::Text),
    key("map", Kind::Words),
    key("encoding", Kind::Text),
    key("pad", Kind::Text),
    key("terminator", Kind::Text),
    key("unit", Kind::Text),
    key("group", Kind::Text),
    key("poll", Kind::Text),
    key("deadband", Kind::Number),
    key("expression", Kind::Text),
    key("field", Kind::Text),
    key("compression", Kind::Table(COMPRESSION)),
    key("stale_after", Kind::Text),
    key("unchanged_for", Kind::Text),
    key("heartbeat", Kind::Text),
    key("min", Kind::Number),
    key("max", Kind::Number),
    key("class", Kind::Text),
    key("access", Kind::Text),
    key("write", Kind::Table(WRITE)),
    key("alarm", Kind::Table(ALARM)),
    key("description", Kind::Text),
];

/// `write = { … }` of a tag.
pub const WRITE: &[Key] = &[
    key("function", Kind::Text),
    key("min", Kind::Number),
    key("max", Kind::Number),
    key("verify", Kind::Bool),
    key("retry", Kind::Number),
];

/// `compression = { … }` of a tag.
pub const COMPRESSION: &[Key] = &[key("swing", Kind::Number), key("max_gap", Kind::Text)];

/// `alarm = { … }` of a tag.
pub const ALARM: &[Key] = &[
    key("high_high", Kind::Number),
    key("high", Kind::Number),
    key("low", Kind::Number),
    key("low_low", Kind::Number),
    key("state", Kind::Bool),
    key("hysteresis", Kind::Number),
    key("delay", Kind::Text),
    key("off_delay", Kind::Text),
    key("class", Kind::Text),
];

/// The top of a TOML register map.
pub const MAP: &[Key] = &[key("address_style", Kind::Text), key("tag", Kind::Tables(TAG))];

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
