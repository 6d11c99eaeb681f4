//! mosquitto.conf (mosquitto 2, mosquitto.conf(5)): one `key value` per line, in the order in which it counts.
//!
//! `listener` and `connection` begin a part; the keys behind them in the same file belong to it. An included file begins
//! without one, and behind it the file that includes it goes on where it was (mosquitto 2, `config__read_file_core`).
//! Relative paths are looked for from where the command runs, as mosquitto does. Of a flag, a number or a word only the
//! first word counts, whatever stands behind it; names and paths go on to the end of the line.
//!
//! `keys` what is known of which key.

mod keys;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Failed, Notes, Weight};
use keys::{BRIDGE_KEYS, FLAGS, LIMITS, NEEDLESS, RESTRICTING, RESTRICTING_ALL, is_missed};

/// Nobody nests deeper.
const INCLUDES_MAX: usize = 8;

/// What counts for us.
#[derive(Debug, Default)]
pub(super) struct Mosquitto {
    pub listeners: Vec<Listener>,
    /// The file and the line that names it.
    pub password_file: Option<(PathBuf, String)>,
    pub acl_file: Option<(PathBuf, String)>,
    /// Limits that have a counterpart, by mosquitto's names.
    pub limits: BTreeMap<&'static str, (String, String)>,
    /// A plugin decides who may what.
    pub plugin: bool,
    pub bridges: Vec<Bridge>,
}

/// `listener`, or the one that `port` makes, or the one that is there when nothing is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Listener {
    pub place: String,
    pub port: u16,
    pub bind: Option<String>,
    pub anonymous: Option<bool>,
    pub websocket: bool,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub ca: Option<String>,
    pub require_certificate: bool,
    pub identity_is_user: bool,
    pub interface: Option<String>,
    /// The value and the line that says it.
    pub max_qos: Option<(String, String)>,
    pub zero_length_id: Option<bool>,
    /// The line that says that the client id is the user name.
    pub name_is_id: Option<String>,
    /// The same of `max_connections`.
    pub max_connections: Option<(String, String)>,
    /// A key that keeps clients out, or apart, and has no counterpart.
    pub restricted: Option<String>,
    password_file: Option<String>,
    acl_file: Option<String>,
}

/// `connection`, as it stands there; passwords left out.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    pub place: String,
    pub name: String,
    pub lines: Vec<String>,
}

/// Reads it, and all that it includes.
pub(super) fn read(path: &Path, notes: &mut Notes) -> Result<Mosquitto, Failed> {
    let mut lines = Vec::new();
    collect(path, INCLUDES_MAX, &mut 0, &mut lines)?;
    let mut per_listener = false;
    for line in lines.iter().filter(|line| line.key == "per_listener_settings") {
        per_listener |= line.flag()?;
    }
    let (default, found, begun) = (Listener::default(), Mosquitto::default(), BTreeMap::new());
    let mut reading = Reading { notes, per_listener, default, restricted: None, begun, found };
    for line in &lines {
        reading.take(line)?;
    }
    reading.finish()
}

struct Line {
    place: String,
    /// Tells the files apart, and one from itself where it is included twice.
    file: usize,
    key: String,
    value: String,
}

impl Line {
    fn first(&self) -> &str {
        self.value.split_whitespace().next().unwrap_or_default()
    }

    /// As mosquitto reads one. Taken for "no" whatever else it is, a door would be open that was shut.
    fn flag(&self) -> Result<bool, Failed> {
        match self.first() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.wrong("true, false, 1 or 0")),
        }
    }

    fn port(&self) -> Result<u16, Failed> {
        self.first().parse().map_err(|_| self.wrong("a port"))
    }

    /// What it says: of a flag only whether it is set.
    fn said(&self) -> Result<String, Failed> {
        if FLAGS.contains(&self.key.as_str()) { Ok(self.flag()?.to_string()) } else { Ok(self.value.clone()) }
    }

    fn wrong(&self, wanted: &str) -> Failed {
        let Self { place, key, value, .. } = self;
        Failed::Config(format!(
            "{place}: {key} is not {wanted}: {value}. mosquitto does not take it, and nothing was written"
        ))
    }
}

fn collect(path: &Path, depth: usize, files: &mut usize, lines: &mut Vec<Line>) -> Result<(), Failed> {
    *files += 1;
    let file = *files;
    let text = fs::read_to_string(path).map_err(|error| Failed::unread(path.display(), &error))?;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.trim().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
        let place = format!("{}:{number}", path.display());
        let line = Line { place, file, key: key.to_owned(), value: value.trim().to_owned() };
        if line.key != "include_dir" {
            lines.push(line);
            continue;
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Failed::Usage(format!("{}: include_dir goes round in a circle", line.place)));
        };
        let entries = fs::read_dir(&line.value)
            .map_err(|error| Failed::unread(format_args!("{}: include_dir {}", line.place, line.value), &error))?;
        let mut included: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        included.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        included.sort();
        for path in included {
            collect(&path, depth, files, lines)?;
        }
    }
    Ok(())
}

struct Reading<'a> {
    notes: &'a mut Notes,
    per_listener: bool,
    /// What stands before the first `listener`.
    default: Listener,
    /// See [`RESTRICTING_ALL`].
    restricted: Option<String>,
    /// By file.
    begun: BTreeMap<usize, Begun>,
    found: Mosquitto,
}

/// The parts of [`Mosquitto`] that a file has come to.
#[derive(Default)]
struct Begun {
    listener: Option<usize>,
    bridge: Option<usize>,
}

impl Reading<'_> {
    fn take(&mut self, line: &Line) -> Result<(), Failed> {
        let Line { place, key, value, .. } = line;
        match key.as_str() {
            "listener" => {
                let second = value.split_whitespace().nth(1);
                let bind = second.filter(|word| !word.starts_with('#')).map(str::to_owned);
                let port = line.port()?;
                self.begun.entry(line.file).or_default().listener = Some(self.found.listeners.len());
                self.found.listeners.push(Listener { place: place.clone(), port, bind, ..Listener::default() });
            }
            "connection" => {
                let (place, name) = (place.clone(), value.clone());
                self.begun.entry(line.file).or_default().bridge = Some(self.found.bridges.len());
                self.found.bridges.push(Bridge { place, name, lines: Vec::new() });
            }
            key if BRIDGE_KEYS.contains(&key)
                || ["bridge_", "remote_", "local_"].iter().any(|p| key.starts_with(p)) =>
            {
                self.take_bridge(line)?;
            }
            "allow_anonymous" | "allow_zero_length_clientid" | "password_file" | "acl_file" => {
                self.take_security(line)?;
            }
            _ => self.take_listener(line)?,
        }
        Ok(())
    }

    /// Whose keys stand in this file now.
    fn listener(&mut self, file: usize) -> &mut Listener {
        let begun = self.begun.get(&file).and_then(|begun| begun.listener);
        begun.and_then(|place| self.found.listeners.get_mut(place)).unwrap_or(&mut self.default)
    }

    fn take_bridge(&mut self, line: &Line) -> Result<(), Failed> {
        let Line { place, key, .. } = line;
        let value = line.said()?;
        let secret = key.ends_with("password") || key.ends_with("psk");
        let bridge = self.begun.get(&line.file).and_then(|begun| begun.bridge);
        match bridge.and_then(|place| self.found.bridges.get_mut(place)) {
            None => self.notes.add(Weight::Loud, place, format!("{key} belongs to no connection")),
            Some(bridge) if secret => bridge.lines.push(format!("{key} (left out: a secret belongs into a file)")),
            Some(bridge) => bridge.lines.push(format!("{key} {value}")),
        }
        Ok(())
    }

    /// What counts for all listeners, or for one.
    fn take_security(&mut self, line: &Line) -> Result<(), Failed> {
        let Line { place, key, value, .. } = line;
        let listener = if self.per_listener { self.listener(line.file) } else { &mut self.default };
        match key.as_str() {
            "allow_anonymous" => listener.anonymous = Some(line.flag()?),
            "allow_zero_length_clientid" => listener.zero_length_id = Some(line.flag()?),
            "password_file" => {
                listener.password_file = Some(value.clone());
                self.found.password_file = Some((value.into(), place.clone()));
            }
            _ => {
                listener.acl_file = Some(value.clone());
                self.found.acl_file = Some((value.into(), place.clone()));
            }
        }
        Ok(())
    }

    fn take_listener(&mut self, line: &Line) -> Result<(), Failed> {
        let Line { place, key, value, .. } = line;
        let listener = self.listener(line.file);
        let text = || Some(value.clone());
        match key.as_str() {
            "port" => (listener.port, listener.place) = (line.port()?, place.clone()),
            "bind_address" => (listener.bind, listener.place) = (text(), place.clone()),
            "bind_interface" => listener.interface = text(),
            "max_qos" | "maximum_qos" => listener.max_qos = Some((line.first().to_owned(), place.clone())),
            "max_connections" => listener.max_connections = Some((line.first().to_owned(), place.clone())),
            "protocol" => listener.websocket = line.first() == "websockets",
            "certfile" => listener.certificate = text(),
            "keyfile" => listener.key = text(),
            "cafile" => listener.ca = text(),
            "require_certificate" => listener.require_certificate = line.flag()?,
            "use_identity_as_username" => listener.identity_is_user = line.flag()?,
            "use_username_as_clientid" => listener.name_is_id = line.flag()?.then(|| place.clone()),
            key if RESTRICTING.contains(&key) => {
                listener.restricted = Some(key.to_owned());
                self.take_rest(line)?;
            }
            key if RESTRICTING_ALL.contains(&key) => {
                self.restricted = Some(key.to_owned());
                self.found.plugin |= key.ends_with("plugin");
                self.take_rest(line)?;
            }
            _ => self.take_rest(line)?,
        }
        Ok(())
    }

    fn take_rest(&mut self, line: &Line) -> Result<(), Failed> {
        let Line { place, key, .. } = line;
        if let Some(limit) = LIMITS.iter().find(|limit| **limit == key) {
            let said = line.said()?;
            let first = said.split_whitespace().next().unwrap_or_default();
            self.found.limits.insert(limit, (first.to_owned(), place.clone()));
        } else if let Some((_, why)) = NEEDLESS.iter().find(|(known, _)| *known == key) {
            let weight = if is_missed(key, line.first()) { Weight::Loud } else { Weight::Quiet };
            self.notes.add(weight, place, format!("{key} is not carried over: {why}"));
        } else {
            self.notes.add(Weight::Loud, place, format!("{key} is not carried over: there is no such thing here"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Mosquitto, Failed> {
        let said = self.default.port != 0 || self.default.bind.is_some();
        // Without a word about listeners mosquitto 2 serves anybody, on loopback only.
        let nothing_said = !said && self.found.listeners.is_empty();
        if said || nothing_said {
            let mut first = self.default.clone();
            if first.port == 0 {
                first.port = 1883;
            }
            if nothing_said {
                first.bind = Some("127.0.0.1".to_owned());
                first.anonymous = first.anonymous.or(Some(true));
                "without a listener".clone_into(&mut first.place);
            }
            self.found.listeners.insert(0, first);
        } else if let Some((_, place)) = &self.default.max_connections {
            let text = "max_connections is not carried over: before the first listener it counts for none";
            self.notes.add(Weight::Quiet, place, text);
        }
        for listener in &mut self.found.listeners {
            listener.name_is_id = listener.name_is_id.take().or_else(|| self.default.name_is_id.clone());
            listener.restricted = listener.restricted.take().or_else(|| self.restricted.clone());
            if !self.per_listener {
                listener.anonymous = listener.anonymous.or(self.default.anonymous);
                listener.zero_length_id = self.default.zero_length_id;
                listener.password_file = None;
                listener.acl_file = None;
            }
        }
        let with_files = |listener: &Listener| (listener.password_file.clone(), listener.acl_file.clone());
        let mut files: Vec<_> = self.found.listeners.iter().map(with_files).collect();
        files.dedup();
        if self.per_listener && files.len() > 1 {
            let message = "per_listener_settings: the listeners have different users or rules, and here one set counts for \
                           all of them. To merge them would let in who was kept out before; decide by hand which \
                           counts, and import that. Nothing was written";
            return Err(Failed::Config(message.to_owned()));
        }
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests;
