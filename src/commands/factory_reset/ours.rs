//! What of a data directory is the gateway's, by name: so nothing else can go, wherever `data_dir` points.
//!
//! ```text
//! data_dir/           broker.db commands.db learned.db retained.db alarms.json trial.json, with what SQLite and a crash leave beside them,
//!                     and in quarantine/; control.sock
//!          store/     meta.db meta.copy marks tail ballast lock chunk-… subscribed-UPLINK.json, quarantine/ whole; the same in
//!                     bridge-NAME/, and offered.json
//! ```
//!
//! All else may be the owner's, a copy of the samples, and is reported; an empty directory is nothing. Links below `data_dir`
//! are not followed: they are reported. What lies beside the configuration: `beside`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::beside::plain;

/// Files in `data_dir`; with a `.` or `-` and more behind it, the same.
const STATE: [&str; 10] = [
    "broker.db",
    "commands.db",
    "learned.db",
    "retained.db",
    "alarms.json",
    "alarms.draft",
    "alarms.unread",
    TRIAL,
    "trial.draft",
    "control.sock", // of a gateway that was killed
];
/// Of these, the configuration before one on trial, or before one that was rolled back: what may be in force (`app::Fallback`).
pub(super) const TRIAL: &str = "trial.json";
/// Files of a store.
const STORE: [&str; 11] = [
    "meta.db",
    "meta.copy",
    "meta.draft",
    "marks",
    "tail",
    "ballast",
    ".writable",
    "lock",
    "offered.json",
    "offered.draft",
    "subscribed",
];
const CHUNKS: &str = "chunk-";
/// Whatever was set aside there.
const QUARANTINE: &str = "quarantine";
/// Made with each file system, and root's. What a check of the disk has put there may be samples.
const LOST_AND_FOUND: &str = "lost+found";
/// Why something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Nothing of the gateway's, in the data directory: somebody else's, or a copy that the owner made.
    NotOurs,
    /// In the data directory; behind it may be anything.
    Link,
    /// Named by the configuration or a unit, and not below the directory of the configuration.
    Elsewhere,
    /// The same, but whom the gateway trusts is no secret: as a rule it is the system's.
    Trusted,
    /// An earlier run said so, of a configuration that is gone, and it is still there.
    Left,
    /// Below the directory of the configuration, and nothing names it: an older key, somebody's copy.
    Unnamed,
    /// There is more of that than anybody reads.
    More,
    /// Named by the configuration as a credential of systemd, and no unit says where that comes from.
    Credential,
    /// A file of systemd's that names credentials, or holds them, and more than that.
    Unit,
    /// It belongs to the configuration, which stays.
    Configuration,
}

impl Why {
    /// For people.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::NotOurs => "is not the gateway's: is it a copy of the samples?",
            Self::Link => "is a link, and links are not followed",
            Self::Elsewhere => "lies elsewhere",
            Self::Trusted => "lies elsewhere; whom the gateway trusts is no secret",
            Self::Left => "an earlier run named it, and it is still there",
            Self::Unnamed => "nothing names it: is it a key or a copy of one?",
            Self::More => "more lies there that nothing names",
            Self::Credential => "no unit of the gateway says which file that is",
            Self::Configuration => {
                "is of the configuration: what each start goes by while the file is on trial or rolled back"
            }
            Self::Unit => {
                "has the gateway's credentials and more in it: take their lines out, or the gateway may not start"
            }
        }
    }

    /// Only the configuration or the data directory that is in force now says that it is there: after a reset nobody does.
    pub(super) const fn would_be_forgotten(self) -> bool {
        matches!(self, Self::NotOurs | Self::Elsewhere | Self::Link | Self::Left)
    }

    /// It may hold something of the owner: the box is not as it was delivered.
    pub(super) const fn may_be_the_owners(self) -> bool {
        !matches!(self, Self::Trusted | Self::Configuration)
    }
}

/// What goes and what stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files and directories to remove, in this order.
    pub(super) goes: Vec<PathBuf>,
    /// What lies there or is named, and is not touched, with the reason.
    pub(super) stays: Vec<(PathBuf, Why)>,
}

impl Found {
    /// What goes without the configuration that is kept among the state of this data directory, and that apart.
    pub(super) fn without_configuration(self, data_dir: &Path) -> (Self, Vec<PathBuf>) {
        let kept = data_dir.join(TRIAL);
        let (configuration, goes) = self.goes.into_iter().partition(|path| *path == kept);
        (Self { goes, stays: self.stays }, configuration)
    }

    /// What stays without what is the configuration's `own`; of a directory with some of that in it the rest stays.
    pub(super) fn without(mut self, own: &[PathBuf]) -> io::Result<Self> {
        let own: Vec<_> = own.iter().map(|path| plain(path)).collect();
        let mut at = 0;
        while let Some((path, why)) = self.stays.get(at) {
            if *why != Why::NotOurs || !own.iter().any(|own| own.starts_with(path)) {
                at += 1;
                continue;
            }
            let inside = if own.contains(path) { Vec::new() } else { entries(path)? };
            self.stays.splice(at..=at, inside.into_iter().map(|(path, kind)| (path, stranger(kind))));
        }
        Ok(self)
    }
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
                _ => found.stays.push((path, stranger(kind))),
            }
        }
        found.goes.append(&mut locks);
        found.goes.push(store);
    }
    for (path, kind) in entries(data_dir)? {
        if !kind.is_dir() && is_one_of(name(&path), &STATE) {
            found.goes.push(path);
        } else if kind.is_dir() && name(&path) == QUARANTINE {
            let Found { goes, stays } = set_aside(path)?;
            found.goes.extend(goes);
            found.stays.extend(stays);
        } else if kind.is_dir() && name(&path) == LOST_AND_FOUND {
            let inside = entries(&path).unwrap_or_default(); // who is not root does not see it
            found.stays.extend(inside.into_iter().map(|(path, kind)| (path, stranger(kind))));
        } else if !found.goes.contains(&path) && !is_empty(&path, kind) {
            found.stays.push((path, stranger(kind)));
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

/// What of the state was damaged. The whole directory goes, if nobody else has put anything there: `data_dir` may be one that
/// is shared, and the name is not ours alone.
fn set_aside(quarantine: PathBuf) -> io::Result<Found> {
    let is_ours = |(path, kind): &(PathBuf, fs::FileType)| !kind.is_dir() && is_one_of(name(path), &STATE);
    let (ours, strangers): (Vec<_>, Vec<_>) = entries(&quarantine)?.into_iter().partition(is_ours);
    if strangers.is_empty() {
        return Ok(Found { goes: vec![quarantine], stays: Vec::new() });
    }
    let stays = strangers.into_iter().map(|(path, kind)| (path, stranger(kind))).collect();
    Ok(Found { goes: ours.into_iter().map(|(path, _)| path).collect(), stays })
}

/// A directory that somebody made, or from which everything went.
fn is_empty(path: &Path, kind: fs::FileType) -> bool {
    kind.is_dir() && entries(path).is_ok_and(|inside| inside.is_empty())
}

fn stranger(kind: fs::FileType) -> Why {
    if kind.is_symlink() { Why::Link } else { Why::NotOurs }
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

/// The name of a file; empty where it is no text.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// What lies in a directory, in order; nothing where there is none.
pub(super) fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, fs::FileType)>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_set_aside_goes_with_its_log() {
        let home = tempfile::tempdir().expect("a directory");
        let aside = ["broker.db.damaged-wal", "broker.db.damaged"].map(|file| home.path().join(file));
        for file in &aside {
            fs::write(file, "").expect("written");
        }
        assert_eq!(state(home.path()).expect("readable"), Found { goes: aside.into(), stays: Vec::new() });
    }

    #[test]
    fn a_damaged_record_of_commands_goes_and_what_somebody_else_has_beside_it_stays() {
        let home = tempfile::tempdir().expect("a directory");
        let aside = home.path().join("quarantine");
        fs::create_dir(&aside).expect("made");
        for file in ["commands.db", "commands.db.2", "commands.db.2-wal"] {
            fs::write(aside.join(file), "").expect("written");
        }
        let whole = state(home.path()).expect("readable");
        assert_eq!(whole, Found { goes: vec![aside.clone()], stays: Vec::new() });
        fs::write(aside.join("virus.zip"), "of a scanner").expect("written");
        let shared = state(home.path()).expect("readable");
        let goes = ["commands.db.2-wal", "commands.db", "commands.db.2"].map(|file| aside.join(file));
        assert_eq!(shared, Found { goes: goes.into(), stays: vec![(aside.join("virus.zip"), Why::NotOurs)] });
    }

    #[test]
    fn what_an_uplink_is_subscribed_to_goes_with_the_store() {
        let home = tempfile::tempdir().expect("a directory");
        let store = home.path().join("store");
        fs::create_dir(&store).expect("made");
        let files = ["subscribed-cloud.draft", "subscribed-cloud.json"].map(|file| store.join(file));
        for file in &files {
            fs::write(file, "").expect("written");
        }
        let found = state(home.path()).expect("readable");
        assert_eq!(found, Found { goes: [&files[..], &[store]].concat(), stays: Vec::new() });
    }
}
