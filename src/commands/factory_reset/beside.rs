//! What of the owner lies beside a configuration, and what of it the gateway may take away.
//!
//! ```text
//! goes in any case:             users, passwords, private keys that the configuration names, also through
//!                               $CREDENTIALS_DIRECTORY (`credentials`); drafts that a power cut left of them
//! goes with the configuration:  certificates, register maps, ironbridge.d/*.toml; a drop-in of nothing but credentials
//! stays, and is reported:       what is named and lies elsewhere; what lies below the directory and nothing names
//! ```
//!
//! A configuration need not be right, but it must be TOML: from one that is not nobody learns which keys it names, and
//! once it is gone nobody ever does. So that is refused before anything is changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::credentials::Unit;
use super::ours::{Found, TRIAL, Why, entries, name};
use crate::app::Fallback;
use crate::config::{self, Text};

/// Keys that name secrets.
const SECRETS: [&str; 5] = ["users_file", "password_file", "proxy_password_file", "sas_key_file", "key"];
/// Keys that name what belongs to a configuration.
const PARTS: [&str; 2] = ["certificate", "profile"];
/// Keys that name whom the gateway trusts.
const TRUSTED: [&str; 2] = ["ca_file", "client_ca"];
/// What systemd is to bring.
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";
/// Where that is, for who writes it out: there only while the gateway runs.
const CREDENTIALS_OF_UNIT: &str = "/run/credentials/ironbridge.service/";
/// So many files that nothing names are listed, and so many directories are looked into for them.
const UNNAMED_MAX: usize = 200;

/// The files of a configuration: its fragments, and what all of them name.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Users, passwords, private keys.
    pub(super) secrets: Found,
    /// Fragments, certificates, register maps, drop-ins.
    pub(super) parts: Found,
}

impl Beside {
    /// All of that, whether it goes or stays.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let found = [&self.secrets, &self.parts];
        let paths =
            found.into_iter().flat_map(|found| found.goes.iter().chain(found.stays.iter().map(|(path, _)| path)));
        paths.cloned().collect()
    }
}

/// Why it cannot be said what belongs to a configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unclear {
    /// Repair or delete it first.
    #[error("{} {}: which keys it names cannot be seen, and without it nobody would know. Repair it or delete it by hand, or \
             say --keep-config", .0.display(), .1)]
    Text(PathBuf, String),
    /// The file system does not say.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

/// The texts of a trial that is not over, or of a roll-back: what is in force may stand nowhere else.
pub(super) fn on_trial(data_dir: &Path) -> Result<Vec<Text>, Unclear> {
    let file = data_dir.join(TRIAL);
    Fallback::in_dir(data_dir).texts().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Unclear::Text(file, format!("is damaged ({error})")),
        _ => Unclear::Io(file, error),
    })
}

/// Looks at a configuration, what is on trial with it, and the units that give it credentials.
pub(super) fn beside(config: &Path, on_trial: &[Text], units: &[Unit]) -> Result<Beside, Unclear> {
    let home = config.parent().unwrap_or(Path::new("/"));
    let mut look = Look { home, beside: Beside::default(), wanted: Vec::new() };
    if let Some(text) = document(config)? {
        look.document(&text, config);
    }
    let fragments = home.join("ironbridge.d");
    for (path, kind) in entries(&fragments).map_err(|error| Unclear::Io(fragments, error))? {
        if !kind.is_dir() && path.extension().is_some_and(|end| end == "toml") && !name(&path).starts_with('.') {
            if let Some(text) = document(&path)? {
                look.document(&text, &path);
            }
            look.found(Kind::Part).goes.push(path);
        }
    }
    for (path, text) in on_trial {
        // All of them were read by the gateway: what is no TOML is a register map.
        if let Ok(table) = text.parse() {
            look.document(&table, path);
        }
    }
    look.units(units);
    let mut beside = look.beside;
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

/// What lies below the directory of a configuration besides what is `known`; the directories among that are not looked into.
pub(super) fn unnamed(home: &Path, known: &[PathBuf]) -> Result<Found, Unclear> {
    let mut found = Found::default();
    let known: Vec<_> = known.iter().map(|path| plain(path)).collect();
    let mut directories = vec![fs::canonicalize(home).unwrap_or_else(|_| home.to_owned())];
    let mut looked = 0;
    while let Some(directory) = directories.pop() {
        looked += 1;
        if looked > UNNAMED_MAX || found.stays.len() >= UNNAMED_MAX {
            found.stays.push((directory, Why::More));
            break;
        }
        for (path, kind) in entries(&directory).map_err(|error| Unclear::Io(directory, error))? {
            let is_known = |path: &PathBuf| known.contains(path);
            let leads_to_known = kind.is_symlink() && fs::canonicalize(&path).is_ok_and(|path| is_known(&path));
            if is_known(&path) || leads_to_known {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if is_draft(name(&path)) {
                found.goes.push(path);
            } else {
                found.stays.push((path, Why::Unnamed));
            }
        }
    }
    Ok(found)
}

/// A path without links and `..` above its last part.
pub(super) fn plain(path: &Path) -> PathBuf {
    let above = path.parent().and_then(|above| fs::canonicalize(above).ok());
    above.zip(path.file_name()).map_or_else(|| path.to_owned(), |(above, name)| above.join(name))
}

/// `.NAME.0123abcd.new`: what is written before it takes the name of a users file or a configuration.
fn is_draft(name: &str) -> bool {
    let number = name.strip_suffix(".new").and_then(|rest| rest.rsplit_once('.')).map(|(_, number)| number);
    name.starts_with('.')
        && number.is_some_and(|number| number.len() == 8 && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn document(path: &Path) -> Result<Option<toml::Table>, Unclear> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unclear::Io(path.to_owned(), error)),
        Ok(bytes) => {
            let text =
                String::from_utf8(bytes).map_err(|_| Unclear::Text(path.to_owned(), "is not UTF-8 text".into()))?;
            if config::is_hollow(&text) {
                return Err(Unclear::Text(path.to_owned(), "is empty, so nobody knows what it named".into()));
            }
            let table = text.parse().map_err(|error: toml::de::Error| {
                Unclear::Text(path.to_owned(), format!("is no TOML ({})", error.message()))
            })?;
            Ok(Some(table))
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Secret,
    Part,
    /// A part that is no secret.
    Trusted,
}

struct Look<'a> {
    home: &'a Path,
    beside: Beside,
    /// Names of credentials of which no source is known yet, and what they are for.
    wanted: Vec<(String, Kind)>,
}

impl Look<'_> {
    fn found(&mut self, kind: Kind) -> &mut Found {
        match kind {
            Kind::Secret => &mut self.beside.secrets,
            Kind::Part | Kind::Trusted => &mut self.beside.parts,
        }
    }

    fn document(&mut self, document: &toml::Table, file: &Path) {
        for (key, value) in document {
            match value {
                toml::Value::String(text) if SECRETS.contains(&key.as_str()) => self.named(text, file, Kind::Secret),
                toml::Value::String(text) if PARTS.contains(&key.as_str()) => self.named(text, file, Kind::Part),
                toml::Value::String(text) if TRUSTED.contains(&key.as_str()) => self.named(text, file, Kind::Trusted),
                toml::Value::Table(table) => self.document(table, file),
                toml::Value::Array(list) => self.list(list, file),
                _ => {}
            }
        }
    }

    fn list(&mut self, list: &[toml::Value], file: &Path) {
        for value in list {
            match value {
                toml::Value::Table(table) => self.document(table, file),
                toml::Value::Array(list) => self.list(list, file),
                _ => {}
            }
        }
    }

    fn named(&mut self, text: &str, file: &Path, kind: Kind) {
        match text.strip_prefix(CREDENTIALS).or_else(|| text.strip_prefix(CREDENTIALS_OF_UNIT)) {
            Some(id) => self.wanted.push((id.to_owned(), kind)),
            None => {
                self.sort_out(&file.parent().unwrap_or(Path::new("/")).join(text), kind);
            }
        }
    }

    /// A credential is the gateway's whether its configuration names it or not. A drop-in goes when all that it names does.
    fn units(&mut self, units: &[Unit]) {
        for unit in units {
            let mut all_ours = unit.has_nothing_else;
            for (id, path) in &unit.credentials {
                self.wanted.retain(|(wanted, _)| wanted != id);
                all_ours &= self.sort_out(path, Kind::Secret);
            }
            if all_ours && !unit.credentials.is_empty() {
                self.found(Kind::Part).goes.push(unit.file.clone());
            } else {
                self.found(Kind::Secret).stays.push((unit.file.clone(), Why::Unit));
            }
        }
        for (id, kind) in std::mem::take(&mut self.wanted) {
            self.found(kind).stays.push((Path::new(CREDENTIALS).join(id), Why::Credential));
        }
    }

    /// Whether it lies below the directory of the configuration, or would if it were still there; and what a link points to.
    fn sort_out(&mut self, path: &Path, kind: Kind) -> bool {
        let mut ours = true;
        let target = fs::read_link(path).ok().and_then(|_| fs::canonicalize(path).ok());
        for path in [Some(path.to_owned()), target].into_iter().flatten() {
            let inside = is_inside(&path, self.home);
            ours &= inside;
            if !fs::symlink_metadata(&path).is_ok_and(|about| !about.is_dir()) {
                continue; // nothing is there: a shipped profile, a file that is gone already
            }
            let why = if matches!(kind, Kind::Trusted) { Why::Trusted } else { Why::Elsewhere };
            let found = self.found(kind);
            if inside { found.goes.push(path) } else { found.stays.push((path, why)) }
        }
        ours
    }
}

/// By the nearest directory above it that is there.
fn is_inside(path: &Path, home: &Path) -> bool {
    let above = path.ancestors().skip(1).find_map(|above| fs::canonicalize(above).ok());
    above.zip(fs::canonicalize(home).ok()).is_some_and(|(above, home)| above.starts_with(home))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn box_with(config: &str, files: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("a directory");
        for file in files {
            fs::create_dir_all(home.path().join(file).parent().expect("above")).expect("made");
            fs::write(home.path().join(file), "").expect("written");
        }
        fs::write(home.path().join("ironbridge.toml"), config).expect("written");
        home
    }

    fn names(home: &Path, paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(home).unwrap_or(path).display().to_string()).collect()
    }

    fn drop_in(home: &Path, file: &str, sources: &[(&str, &str)]) -> Unit {
        let credentials = sources.iter().map(|(id, path)| ((*id).to_owned(), home.join(path))).collect();
        Unit { file: home.join(file), credentials, has_nothing_else: true }
    }

    #[test]
    fn credentials_of_systemd_go_with_the_drop_in_that_names_them_and_what_is_elsewhere_stays_and_is_named() {
        let config = "[[uplink]]\nkey = \"$CREDENTIALS_DIRECTORY/gw.key\"\n\
                      [[bridge]]\npassword_file = \"/run/credentials/ironbridge.service/lost\"\n";
        let home = box_with(config, &["secrets/gw.key", "secrets/unused"]);
        let elsewhere = box_with("", &["lent"]);
        let lent = elsewhere.path().join("lent");
        let units = [
            drop_in(home.path(), "a.conf", &[("gw.key", "secrets/gw.key"), ("unused", "secrets/unused")]),
            drop_in(home.path(), "b.conf", &[("lent", lent.to_str().expect("text"))]),
            Unit { file: "/set.conf".into(), ..Unit::default() },
        ];
        let beside = beside(&home.path().join("ironbridge.toml"), &[], &units).expect("clear");
        assert_eq!(names(home.path(), &beside.secrets.goes), ["secrets/gw.key", "secrets/unused"]);
        assert_eq!(names(home.path(), &beside.parts.goes), ["a.conf"]);
        let stays = [
            (Path::new(CREDENTIALS).join("lost"), Why::Credential),
            ("/set.conf".into(), Why::Unit),
            (lent, Why::Elsewhere),
            (home.path().join("b.conf"), Why::Unit),
        ];
        assert_eq!(beside.secrets.stays.iter().collect::<std::collections::BTreeSet<_>>(), stays.iter().collect());
    }

    #[test]
    fn a_ca_file_of_the_system_is_named_and_is_nothing_of_the_owners() {
        let system = box_with("", &["ca-certificates.crt"]);
        let ca = system.path().join("ca-certificates.crt");
        let home = box_with(&format!("[[uplink]]\nca_file = {:?}\n", ca.display().to_string()), &[]);
        let beside = beside(&home.path().join("ironbridge.toml"), &[], &[]).expect("clear");
        assert_eq!(beside.parts.stays, [(ca, Why::Trusted)]);
        assert!(beside.secrets.stays.is_empty() && !Why::Trusted.may_be_the_owners());
    }

    #[test]
    fn a_key_behind_a_link_goes_or_is_named_and_so_is_a_copy_that_nothing_names() {
        let home = box_with("key = \"gw.key\"\nusers_file = \"../nowhere/users\"", &["users~", ".users.0123abcd.new"]);
        let elsewhere = box_with("", &["gw.key"]);
        let real = elsewhere.path().join("gw.key");
        std::os::unix::fs::symlink(&real, home.path().join("gw.key")).expect("linked");
        let beside = beside(&home.path().join("ironbridge.toml"), &[], &[]).expect("clear");
        assert_eq!(names(home.path(), &beside.secrets.goes), ["gw.key"]);
        assert_eq!(beside.secrets.stays, [(fs::canonicalize(real).expect("there"), Why::Elsewhere)]);
        let known = [home.path().join("gw.key"), home.path().join("ironbridge.toml")];
        let left = unnamed(home.path(), &known).expect("seen");
        assert_eq!(left.goes.len(), 1, "{left:?}");
        assert_eq!(left.stays, [(fs::canonicalize(home.path()).expect("there").join("users~"), Why::Unnamed)]);
    }
}
