//! What is known of which key of a mosquitto.conf.

/// Keys without a counterpart, and why that does not matter.
pub(super) const NEEDLESS: &[(&str, &str)] = &[
    ("persistence", "sessions and retained messages are always kept on disk here"),
    ("persistence_file", "there is one file, broker.db in data_dir"),
    ("persistence_location", "the file lies in data_dir; retained messages are not carried over: publish them again"),
    ("autosave_interval", "what is acknowledged is on disk already"),
    ("autosave_on_changes", "what is acknowledged is on disk already"),
    ("pid_file", "systemd knows the process"),
    ("user", "systemd runs the service as a user of its own"),
    ("log_dest", "the log goes to the journal"),
    ("log_type", "the log goes to the journal"),
    ("log_facility", "the log goes to the journal"),
    ("log_timestamp", "the journal has the times"),
    ("log_timestamp_format", "the journal has the times"),
    ("connection_messages", "logins are always logged"),
    ("sys_interval", "$SYS is told every ten seconds, when it has changed"),
    ("set_tcp_nodelay", "it is always set"),
    ("upgrade_outgoing_qos", "messages go at the lower of both QoS, as MQTT says"),
    ("allow_duplicate_messages", "overlapping subscriptions give one message"),
    ("queue_qos0_messages", "QoS 0 is never kept for clients that are away"),
    ("per_listener_settings", "anonymous access is set per listener, users and rules for all of them"),
    ("socket_domain", "an address says by itself whether it is IPv4 or IPv6"),
    ("tls_version", "TLS 1.2 and 1.3 are spoken, whichever was the least"),
    ("ciphers", "rustls has only sound ciphers"),
    ("ciphers_tls1.3", "rustls has only sound ciphers"),
];

/// Keys without a counterpart that let in less, or show less, at one listener.
pub(super) const RESTRICTING: &[&str] = &["capath", "crlfile", "mount_point", "psk_hint"];

/// The same, at all of them.
pub(super) const RESTRICTING_ALL: &[&str] = &["clientid_prefixes", "plugin", "auth_plugin", "global_plugin"];

/// Limits with a counterpart.
pub(super) const LIMITS: &[&str] = &[
    "check_retain_source",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "message_size_limit",
    "persistent_client_expiration",
    "retain_available",
];

/// Keys of a bridge that do not begin with `bridge_`, `remote_` or `local_`.
pub(super) const BRIDGE_KEYS: &[&str] = &[
    "address",
    "addresses",
    "topic",
    "cleansession",
    "clientid",
    "idle_timeout",
    "keepalive_interval",
    "notification_topic",
    "notifications",
    "notifications_local_only",
    "password",
    "restart_timeout",
    "round_robin",
    "start_type",
    "threshold",
    "try_private",
    "username",
];

/// Of these, and of a bridge's keys, flags: 0, 1, true or false, and nothing else.
pub(super) const FLAGS: &[&str] = &[
    "bridge_attempt_unsubscribe",
    "bridge_insecure",
    "bridge_outgoing_retain",
    "bridge_require_ocsp",
    "check_retain_source",
    "cleansession",
    "notifications",
    "notifications_local_only",
    "retain_available",
    "try_private",
];

/// Does somebody miss what a needless key said here?
pub(super) fn is_missed(key: &str, said: &str) -> bool {
    matches!((key, said), ("queue_qos0_messages" | "upgrade_outgoing_qos", "true" | "1") | ("tls_version", "tlsv1.3"))
}
