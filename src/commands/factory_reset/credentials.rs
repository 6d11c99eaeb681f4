//! Where the credentials come from that systemd hands to the gateway: read from its unit and the drop-ins beside it.
//!
//! ```text
//! LoadCredential=ID:PATH  LoadCredentialEncrypted=ID:PATH      a file, or a directory whose files become ID_NAME
//! the same with ID alone, ImportCredential=GLOB                systemd's own stores (/etc/credstore …)
//! SetCredential=ID:TEXT   SetCredentialEncrypted=ID:TEXT       the secret itself
//! ```
//!
//! systemd.exec(5). Only where a path is written out is it known; a unit that says anything else stays and is reported.

use std::fs;
use std::path::{Path, PathBuf};

use super::ours::{entries, name};

/// Where units and their drop-ins lie: systemd.unit(5), "Unit File Load Path".
pub(super) const UNITS: [&str; 6] = [
    "/etc/systemd/system.control",
    "/run/systemd/system",
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const UNIT: &str = "ironbridge.service";
/// Keys that name files.
const LOADED: [&str; 2] = ["LoadCredential", "LoadCredentialEncrypted"];
/// Keys that hold a secret, or name it so that only systemd finds it.
const OTHERS: [&str; 3] = ["SetCredential", "SetCredentialEncrypted", "ImportCredential"];

/// A file of systemd's in which the gateway is given credentials.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// The file itself.
    pub(super) file: PathBuf,
    /// What the gateway calls them, and where they come from.
    pub(super) credentials: Vec<(String, PathBuf)>,
    /// A drop-in with nothing else in it.
    pub(super) has_nothing_else: bool,
}

/// The units and drop-ins that give the gateway credentials; what cannot be read gives none.
pub(super) fn units(places: &[&Path]) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut seen = Vec::new();
    for place in places {
        let Some(place) = fs::canonicalize(place).ok().filter(|place| !seen.contains(place)) else { continue };
        let mut files = vec![(place.join(UNIT), false)];
        for (file, kind) in entries(&place.join(format!("{UNIT}.d"))).unwrap_or_default() {
            if file.extension().is_some_and(|end| end == "conf") {
                files.push((file, !kind.is_symlink()));
            }
        }
        for (file, is_drop_in) in files {
            let text = fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            if let Some(unit) = unit(&text) {
                units.push(Unit { file, has_nothing_else: unit.has_nothing_else && is_drop_in, ..unit });
            }
        }
        seen.push(place);
    }
    units
}

/// What a text says of credentials, if anything.
fn unit(text: &str) -> Option<Unit> {
    let mut unit = Unit { has_nothing_else: true, ..Unit::default() };
    let mut says = false;
    for line in text.replace("\\\n", " ").lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        let (key, value) = line.split_once('=').map_or((line, ""), |(key, value)| (key.trim(), value.trim()));
        if LOADED.contains(&key) && value.is_empty() {
            continue; // takes back what earlier files say; what they name is a secret all the same
        }
        says |= LOADED.contains(&key) || OTHERS.contains(&key);
        match value.split_once(':') {
            Some((id, path)) if LOADED.contains(&key) && path.starts_with('/') && !path.contains('%') => {
                unit.credentials.extend(files_of(id, Path::new(path)));
            }
            _ => unit.has_nothing_else = false,
        }
    }
    says.then_some(unit)
}

fn files_of(id: &str, path: &Path) -> Vec<(String, PathBuf)> {
    if !path.is_dir() {
        return vec![(id.to_owned(), path.to_owned())];
    }
    let files = entries(path).unwrap_or_default().into_iter().filter(|(_, kind)| !kind.is_dir());
    files.map(|(file, _)| (format!("{id}_{}", name(&file)), file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_package_names_its_files_and_has_nothing_else_in_it() {
        let unit = unit(include_str!("../../../systemd/drop-ins/credentials.conf")).expect("it gives credentials");
        let files: Vec<_> = unit.credentials.iter().map(|(id, path)| format!("{id} {}", path.display())).collect();
        let secrets = "/etc/ironbridge/secrets";
        assert_eq!(
            files,
            [format!("cloud.password {secrets}/cloud.password"), format!("gateway.key {secrets}/gateway.key")]
        );
        assert!(unit.has_nothing_else);
    }

    #[test]
    fn a_unit_with_more_in_it_or_with_the_secret_itself_is_never_taken_away() {
        assert_eq!(unit("[Service]\nMemoryMax=1G\n# LoadCredential=a:/b\n"), None);
        for more in ["MemoryMax=1G", "SetCredential=pin:1234", "ImportCredential=iron*", "LoadCredential=b", "x"] {
            let text = format!("[Service]\nLoadCredentialEncrypted = a:\\\n/etc/a.cred\n{more}\n");
            assert!(unit(&text).is_some_and(|unit| !unit.has_nothing_else), "{more}");
        }
        assert!(unit("[Service]\nSetCredential=pin:1234").is_some());
    }
}
