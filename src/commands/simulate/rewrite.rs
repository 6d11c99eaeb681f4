//! A configuration rewritten to a simulated plant: other endpoints and ports, everything else as it was.
//!
//! Values are replaced in the text, so that comments stay; fragments are put behind the main file; relative paths become
//! absolute, so that the result works wherever it is written. Where texts cannot simply be put behind each other (a table
//! that two files share) the result is written anew without comments. Pure.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_spanned::Spanned;
use toml::{Table, Value};

use super::files;
use crate::plant::site::Place;

/// What is to be different.
#[derive(Debug, Default)]
pub struct Changes {
    /// Where each bus is now, by name.
    pub places: Vec<(String, Place)>,
    /// Another `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Another cloud for every uplink.
    pub cloud: Option<CloudChange>,
}

/// How to reach the simulated cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudChange {
    /// `mqtts://…`
    pub url: String,
    /// Its authority.
    pub ca: PathBuf,
    /// A client certificate it would take.
    pub certificate: PathBuf,
    /// The key to it.
    pub key: PathBuf,
    /// A file with some password; the cloud takes any.
    pub password: PathBuf,
}

/// The result would not be the same configuration.
#[derive(Debug, thiserror::Error)]
#[error("{file}: cannot be rewritten: {reason}", file = file.display())]
pub struct CannotRewrite {
    file: PathBuf,
    reason: String,
}

/// The keys that may change; all others pass unseen.
#[derive(Debug, Deserialize)]
struct Document {
    gateway: Option<Gateway>,
    #[serde(default)]
    bus: Vec<Bus>,
    #[serde(default)]
    device: Vec<Device>,
    #[serde(default)]
    uplink: Vec<Uplink>,
}

#[derive(Debug, Deserialize)]
struct Gateway {
    data_dir: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
struct Bus {
    name: String,
    endpoint: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    port: Option<Spanned<String>>,
    rs485: Option<Spanned<Value>>,
    allow: Option<Spanned<Value>>,
    ca_file: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
struct Device {
    profile: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
struct Uplink {
    url: Option<Spanned<String>>,
    ca_file: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
}

type Edit = (Range<usize>, String);

/// One text out of the main file and its fragments (path and content each, in order), with the changes made.
pub fn merged(files: &[(PathBuf, String)], changes: &Changes) -> Result<String, CannotRewrite> {
    let mut whole = Table::new();
    let mut text = String::new();
    for (path, content) in files {
        let cannot = |error: toml::de::Error| CannotRewrite { file: path.clone(), reason: error.to_string() };
        let document: Document = toml::from_str(content).map_err(cannot)?;
        let edited = apply(content, edits((&document, content), path.parent().unwrap_or(Path::new("/")), changes));
        join(&mut whole, edited.parse().map_err(cannot)?);
        if !text.is_empty() {
            let name = path.file_name().unwrap_or_default().display();
            let _ = writeln!(text, "\n# ---- {name}");
        }
        text.push_str(&edited);
    }
    if let Some(directory) = &changes.data_dir {
        let value = Value::String(directory.display().to_string());
        if let Some(gateway) = whole.get_mut("gateway").and_then(Value::as_table_mut)
            && gateway.insert("data_dir".to_owned(), value.clone()).is_none()
        {
            text = text.replacen("[gateway]\n", &format!("[gateway]\ndata_dir = {value}\n"), 1);
        }
    }
    // The proof that the text says what the tables say.
    Ok(if text.parse::<Table>().is_ok_and(|table| table == whole) { text } else { whole.to_string() })
}

fn edits((document, content): (&Document, &str), directory: &Path, changes: &Changes) -> Vec<Edit> {
    let (mut edits, mut urls): (Vec<Edit>, _) = (Vec::new(), Vec::new());
    let mut settled: Vec<Edit> = Vec::new();
    let mut put = |old: Option<&Spanned<String>>, new: String| {
        if let Some(old) = old {
            edits.push((old.span(), Value::String(new).to_string()));
        }
    };
    let mut settle = |old: Option<&Spanned<Value>>, new: &str| {
        settled.extend(old.map(|old| (old.span(), new.to_owned())));
    };
    let absolute = |old: &Spanned<String>| absolute(old.get_ref(), directory);
    if let (Some(gateway), Some(new)) = (&document.gateway, &changes.data_dir) {
        put(gateway.data_dir.as_ref(), new.display().to_string());
    }
    for bus in &document.bus {
        let served = changes.places.iter().find(|(name, _)| *name == bus.name).map(|(_, place)| place);
        match served {
            Some(place @ Place::Net(_)) => put(bus.endpoint.as_ref(), place.to_string()),
            Some(place @ Place::Dialled(_)) => put(bus.listen.as_ref(), place.to_string()),
            Some(place @ Place::Pty(_)) => put(bus.port.as_ref(), place.to_string()),
            Some(Place::Tls(address, files)) => {
                put(bus.endpoint.as_ref(), address.to_string());
                put(bus.ca_file.as_ref(), files.ca_file.display().to_string());
                put(bus.certificate.as_ref(), files.certificate.display().to_string());
                put(bus.key.as_ref(), files.key.display().to_string());
                put(bus.server_name.as_ref(), "localhost".to_owned());
            }
            None => {}
        }
        if served.is_some() {
            // Nobody has to switch a transmitter here, and callers are on this machine.
            settle(bus.rs485.as_ref(), "false");
            settle(bus.allow.as_ref(), "[\"127.0.0.1\"]");
        }
    }
    for profile in document.device.iter().filter_map(|device| device.profile.as_ref()) {
        let name = Path::new(profile.get_ref());
        let is_map = name.extension().is_some_and(|extension| extension == "csv" || extension == "toml");
        if is_map || name.components().count() > 1 {
            put(Some(profile), absolute(profile));
        }
    }
    let abroad = document.uplink.iter().filter(|uplink| uplink.url.as_ref().is_none_or(|url| url.as_ref() != "local:"));
    for (uplink, cloud) in abroad.filter_map(|uplink| Some((uplink, changes.cloud.as_ref()?))) {
        let files = [&uplink.ca_file, &uplink.certificate, &uplink.key, &uplink.password_file];
        let new = [&cloud.ca, &cloud.certificate, &cloud.key, &cloud.password];
        for (old, new) in files.into_iter().zip(new) {
            put(old.as_ref(), new.display().to_string());
        }
        if let Some(url) = &uplink.url {
            let mut new = Value::String(cloud.url.clone()).to_string();
            if uplink.ca_file.is_none() {
                let _ = write!(new, "\nca_file = {}", Value::String(cloud.ca.display().to_string()));
            }
            urls.push((url.span(), new));
        }
    }
    edits.append(&mut urls);
    edits.append(&mut settled);
    let left = files::edits(content, |path| self::absolute(path, directory));
    let left = left.into_iter().filter(|(place, _)| !edits.iter().any(|(changed, _)| changed == place));
    let left: Vec<Edit> = left.collect();
    edits.extend(left);
    edits
}

/// A path of a file in `directory`; one below a credentials directory stays as it is.
fn absolute(path: &str, directory: &Path) -> String {
    if path.starts_with('$') { path.to_owned() } else { directory.join(path).display().to_string() }
}

fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(span, _)| span.start);
    let mut out = String::with_capacity(text.len() + 256);
    let mut end = 0;
    for (span, new) in edits {
        out.push_str(&text[end..span.start]);
        out.push_str(&new);
        end = span.end;
    }
    out.push_str(&text[end..]);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// As the loader joins fragments: tables key by key, lists one after the other.
fn join(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => join(into, from),
            (Some(Value::Array(into)), Value::Array(from)) => into.extend(from),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plant::tls::GatewayFiles;

    const MAIN: &str = r#"# my plant
[gateway]
name = "seven"   # of nine

[[bus]]
name     = "plc"            # comment stays
type     = "modbus-tcp"
endpoint = "192.168.0.10:502"

[[device]]
name = "pump"
bus = "plc"
profile = "maps/pump.csv"
"#;

    const OTHERS: &str = r#"[[bus]]
name = "modem"
type = "modbus-rtu-over-tcp"
listen = "0.0.0.0:5020"
allow = ["10.0.0.0/8"]   # the carrier's

[[bus]]
name = "board"
type = "modbus-rtu"
port = "/dev/ttyS1"
rs485 = { rts_on_send = "low" }

[[bus]]
name = "secure"
type = "modbus-tls"
endpoint = "plc:802"
ca_file = "ca.pem"
certificate = "own.crt"
key = "own.key"
"#;

    const FRAGMENT: &str = r#"[[bus]]
type = "modbus-rtu"
port = '/dev/ttyUSB0'
name = "line"

[[uplink]]
name = "cloud"
url = "mqtt://example.com"
password_file = "$CREDENTIALS_DIRECTORY/cloud"
"#;

    fn changes() -> Changes {
        let places = vec![
            ("plc".to_owned(), Place::Net(([127, 0, 0, 1], 40_001).into())),
            ("line".to_owned(), Place::Pty("/dev/pts/9".into())),
        ];
        Changes { places, ..Changes::default() }
    }

    fn files() -> Vec<(PathBuf, String)> {
        vec![("/etc/x/main.toml".into(), MAIN.to_owned()), ("/etc/x/ironbridge.d/a.toml".into(), FRAGMENT.to_owned())]
    }

    #[test]
    fn endpoints_and_ports_change_and_comments_stay() {
        let text = merged(&files(), &changes()).expect("rewritten");
        for line in [
            "# my plant",
            "name     = \"plc\"            # comment stays",
            "endpoint = \"127.0.0.1:40001\"",
            "port = \"/dev/pts/9\"",
            "profile = \"/etc/x/maps/pump.csv\"",
            "password_file = \"$CREDENTIALS_DIRECTORY/cloud\"",
            "url = \"mqtt://example.com\"",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_bus_that_listens_one_with_rs485_and_one_with_tls_are_led_to_this_machine() {
        let device = GatewayFiles { ca_file: "/t/ca".into(), certificate: "/t/crt".into(), key: "/t/key".into() };
        let places = vec![
            ("modem".to_owned(), Place::Dialled(([127, 0, 0, 1], 40_002).into())),
            ("board".to_owned(), Place::Pty("/dev/pts/8".into())),
            ("secure".to_owned(), Place::Tls(([127, 0, 0, 1], 40_003).into(), device)),
        ];
        let files = [(PathBuf::from("/etc/x/main.toml"), OTHERS.to_owned())];
        let text = merged(&files, &Changes { places, ..Changes::default() }).expect("rewritten");
        let table: Table = text.parse().expect("TOML");
        let key = |bus: usize, key: &str| table["bus"][bus][key].clone();
        assert_eq!(key(0, "listen").as_str(), Some("127.0.0.1:40002"));
        assert_eq!(key(0, "allow"), Value::Array(vec!["127.0.0.1".into()]));
        assert_eq!(key(1, "rs485").as_bool(), Some(false));
        assert_eq!((key(2, "endpoint").as_str(), key(2, "key").as_str()), (Some("127.0.0.1:40003"), Some("/t/key")));
        assert!(text.contains("# the carrier's"), "comments stay: {text}");
        let untouched = merged(&files, &Changes::default()).expect("rewritten");
        assert!(untouched.contains("ca_file = \"/etc/x/ca.pem\""), "{untouched}");
    }

    #[test]
    fn files_and_sockets_that_are_named_stay_where_they_are() {
        let named = r#"[gateway]
data_dir = "data"
[broker]
users_file = "users"
[[broker.listener]]
listen = "127.0.0.1:8883"   # stays
tls = { certificate = "tls/server.crt", key = "$CREDENTIALS_DIRECTORY/key", client_ca = "/ca.pem" }
[[broker.listener]]
listen = "unix:mqtt.sock"
[[uplink]]
sas_key_file = "sas"
proxy_password_file = "proxy"
[[bridge]]
name = "unix:x"
ca_file = "b/ca.pem"
certificate = "b.crt"
key = "b.key"
password_file = "$CREDENTIALS_DIRECTORY/b"
proxy_password_file = "p"
"#;
        let text = merged(&[("/etc/x/main.toml".into(), named.to_owned())], &Changes::default()).expect("rewritten");
        for line in [
            "data_dir = \"/etc/x/data\"",
            "sas_key_file = \"/etc/x/sas\"",
            "proxy_password_file = \"/etc/x/proxy\"",
            "name = \"unix:x\"",
            "ca_file = \"/etc/x/b/ca.pem\"",
            "certificate = \"/etc/x/b.crt\"",
            "key = \"/etc/x/b.key\"",
            "password_file = \"$CREDENTIALS_DIRECTORY/b\"",
            "proxy_password_file = \"/etc/x/p\"",
            "users_file = \"/etc/x/users\"",
            "listen = \"127.0.0.1:8883\"   # stays",
            "certificate = \"/etc/x/tls/server.crt\", key = \"$CREDENTIALS_DIRECTORY/key\", client_ca = \"/ca.pem\"",
            "listen = \"unix:/etc/x/mqtt.sock\"",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn another_data_directory_and_another_cloud_are_put_in() {
        let cloud = CloudChange {
            url: "mqtts://127.0.0.1:8883".into(),
            ca: "/t/ca.pem".into(),
            certificate: "/t/c".into(),
            key: "/t/k".into(),
            password: "/t/p".into(),
        };
        let changes = Changes { data_dir: Some("/t/data".into()), cloud: Some(cloud), ..changes() };
        let text = merged(&files(), &changes).expect("rewritten");
        let table: Table = text.parse().expect("TOML");
        assert_eq!(table["gateway"]["data_dir"].as_str(), Some("/t/data"));
        assert_eq!(table["uplink"][0]["url"].as_str(), Some("mqtts://127.0.0.1:8883"));
        assert_eq!(table["uplink"][0]["ca_file"].as_str(), Some("/t/ca.pem"));
        assert_eq!(table["uplink"][0]["password_file"].as_str(), Some("/t/p"));
        assert!(text.contains("# comment stays"));
        let local = ("/etc/x/l.toml".into(), "[[uplink]]\nurl = \"local:\"\n".to_owned());
        assert!(merged(&[local], &changes).expect("rewritten").contains("url = \"local:\""));
    }

    #[test]
    fn tables_that_two_files_share_are_joined_even_if_comments_go() {
        let fragment = ("/etc/x/ironbridge.d/b.toml".into(), "gateway.topic = \"a/{device}/{tag}\"\n".to_owned());
        let mut files = files();
        files.push(fragment);
        let table: Table = merged(&files, &changes()).expect("rewritten").parse().expect("TOML");
        assert_eq!(table["gateway"]["topic"].as_str(), Some("a/{device}/{tag}"));
        assert_eq!(table["bus"].as_array().map(Vec::len), Some(2));
    }
}
