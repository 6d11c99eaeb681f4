//! What of a box is the gateway's, by name: so nothing else can go, wherever `data_dir` and the configuration point.
//!
//! ```text
//! data_dir/           broker.db commands.db learned.db retained.db alarms.json, with what SQLite and a crash leave beside them
//!          store/     meta.db meta.copy marks tail ballast lock chunk-…, quarantine/ whole; the same in bridge-NAME/
//! beside the          what it names and what lies there: users, passwords, private keys (they go in any case);
//! configuration       certificates, register maps, ironbridge.d/*.toml (they go with the configuration)
//! ```
//!
//! Links below `data_dir` are not followed, and what a configuration names elsewhere stays: it is reported.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files in `data_dir`; with a `.` or `-` and more behind it, the same.
const STATE: [&str; 6] = ["broker.db", "commands.db", "learned.db", "retained.db", "alarms.json", "alarms.draft"];
/// Files of a store.
const STORE: [&str; 7] = ["meta.db", "meta.copy", "marks", "tail", "ballast", ".writable", "lock"];
const CHUNKS: &str = "chunk-";
/// Whatever was set aside there.
const QUARANTINE: &str = "quarantine";
/// Keys that name secrets.
const SECRETS: [&str; 5] = ["users_file", "password_file", "proxy_password_file", "sas_key_file", "key"];
/// Keys that name what belongs to a configuration.
const PARTS: [&str; 4] = ["certificate", "ca_file", "client_ca", "profile"];

/// What goes and what stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files and directories to remove, in this order.
    pub(super) goes: Vec<PathBuf>,
    /// What lies there or is named, and is not touched, with the reason.
    pub(super) stays: Vec<(PathBuf, &'static str)>,
}

/// The directories of stores in a data directory, links excepted.
pub(super) fn stores(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut stores = Vec::new();
    for (path, kind) in entries(data_dir)? {
        let name = name(&path);
        if kind.is_dir() && (name == "store" || name.starts_with("bridge-")) {
            stores.push(path);
        }
    }
    Ok(stores)
}

/// Everything in a data directory.
pub(super) fn state(data_dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for store in stores(data_dir)? {
        let mut locks = Vec::new();
        for (path, kind) in entries(&store)? {
            match name(&path) {
                QUARANTINE if kind.is_dir() => found.goes.push(path),
                // Last: until then no gateway can begin here.
                "lock" => locks.push(path),
                name if !kind.is_dir() && (name.starts_with(CHUNKS) || is_one_of(name, &STORE)) => {
                    found.goes.push(path);
                }
                _ => found.stays.push((path, "is not the gateway's")),
            }
        }
        found.goes.append(&mut locks);
        found.goes.push(store);
    }
    for (path, kind) in entries(data_dir)? {
        if !kind.is_dir() && is_one_of(name(&path), &STATE) {
            found.goes.push(path);
        } else if !found.goes.contains(&path) {
            let why = if kind.is_symlink() { "is a link, and links are not followed" } else { "is not the gateway's" };
            found.stays.push((path, why));
        }
    }
    // A log without its database is nothing; a new database with the log of the old one would be a mixture of both.
    found.goes.sort_by_key(|path| (!is_companion(path), !is_draft(path)));
    let (directories, files): (Vec<_>, Vec<_>) = found.goes.into_iter().partition(|path| is_store(path, data_dir));
    let (locks, mut files): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| name(path) == "lock");
    files.extend(locks);
    files.extend(directories);
    Ok(Found { goes: files, stays: found.stays })
}

fn is_store(path: &Path, data_dir: &Path) -> bool {
    path.parent() == Some(data_dir) && (name(path) == "store" || name(path).starts_with("bridge-"))
}

fn is_companion(path: &Path) -> bool {
    ["-wal", "-shm", "-journal"].iter().any(|end| name(path).ends_with(end))
}

fn is_draft(path: &Path) -> bool {
    name(path).contains(".draft")
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| name.strip_prefix(known).is_some_and(|end| end.is_empty() || end.starts_with(['.', '-'])))
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, fs::FileType)>> {
    let list = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    let mut entries = Vec::new();
    for entry in list {
        let entry = entry?;
        entries.push((entry.path(), entry.file_type()?));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// The files of a configuration: its fragments, and what all of them name.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Users, passwords, private keys.
    pub(super) secrets: Found,
    /// Fragments, certificates, register maps.
    pub(super) parts: Found,
}

/// Looks at a configuration that need not be right; a file that is no TOML names nothing.
pub(super) fn beside(config: &Path) -> io::Result<Beside> {
    let home = config.parent().unwrap_or(Path::new("/"));
    let mut beside = Beside::default();
    let mut texts = vec![config.to_owned()];
    for (path, kind) in entries(&home.join("ironbridge.d"))? {
        if !kind.is_dir() && path.extension().is_some_and(|end| end == "toml") {
            texts.push(path.clone());
            beside.parts.goes.push(path);
        }
    }
    for path in texts {
        let document = fs::read_to_string(&path).ok().and_then(|text| text.parse::<toml::Table>().ok());
        if let Some(document) = document {
            named(&toml::Value::Table(document), &path, home, &mut beside);
        }
    }
    for found in [&mut beside.secrets, &mut beside.parts] {
        found.goes.sort();
        found.goes.dedup();
        found.stays.sort();
        found.stays.dedup();
    }
    // One file may be both, in a PEM with certificate and key.
    beside.parts.goes.retain(|path| !beside.secrets.goes.contains(path) && path != config);
    beside.secrets.goes.retain(|path| path != config);
    Ok(beside)
}

fn named(value: &toml::Value, file: &Path, home: &Path, beside: &mut Beside) {
    match value {
        toml::Value::Array(list) => list.iter().for_each(|value| named(value, file, home, beside)),
        toml::Value::Table(table) => {
            for (key, value) in table {
                match value {
                    toml::Value::String(text) if SECRETS.contains(&key.as_str()) => {
                        sort_out(text, file, home, &mut beside.secrets);
                    }
                    toml::Value::String(text) if PARTS.contains(&key.as_str()) => {
                        sort_out(text, file, home, &mut beside.parts);
                    }
                    _ => named(value, file, home, beside),
                }
            }
        }
        _ => {}
    }
}

/// Into what goes, if it lies below the directory of the configuration.
fn sort_out(text: &str, file: &Path, home: &Path, found: &mut Found) {
    let path = file.parent().unwrap_or(Path::new("/")).join(text);
    if text.starts_with('$') || !fs::symlink_metadata(&path).is_ok_and(|about| !about.is_dir()) {
        return; // systemd's, or nothing is there: a shipped profile, a file that is gone already
    }
    let real = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let inside = real.zip(fs::canonicalize(home).ok()).is_some_and(|(real, home)| real.starts_with(home));
    if inside { found.goes.push(path) } else { found.stays.push((path, "lies elsewhere")) }
}
