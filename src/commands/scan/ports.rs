//! Which serial ports this machine has, for the person who named one that is not there.

use std::fs;
use std::path::{Path, PathBuf};

const BY_ID: &str = "/dev/serial/by-id";
/// Names of ports that somebody may have plugged something into: USB adapters, and the ports of boards.
const NAMES: [&str; 7] = ["ttyUSB", "ttyACM", "ttyAMA", "ttySC", "ttymxc", "ttyO", "ttyTHS"];
/// More help nobody.
const SHOWN_MAX: usize = 20;

/// One sentence or a list, to be put behind an error.
pub fn there_are() -> String {
    shown(&stable(Path::new(BY_ID)), &plain(Path::new("/dev")))
}

/// The name of a port that stays the same wherever its adapter is plugged in, if it has one.
pub fn stable_name(port: &str) -> Option<PathBuf> {
    let real = fs::canonicalize(port).ok()?;
    stable(Path::new(BY_ID)).into_iter().find(|(_, target)| *target == real).map(|(name, _)| name)
}

fn stable(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((entry.path(), fs::canonicalize(entry.path()).ok()?))).collect();
    found.sort();
    found
}

fn plain(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_port = |name: &str| NAMES.iter().any(|known| name.starts_with(known));
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_port)).map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn shown(stable: &[(PathBuf, PathBuf)], plain: &[PathBuf]) -> String {
    let named = stable.iter().map(|(name, target)| format!("  {} ({})", name.display(), target.display()));
    let others = plain.iter().filter(|port| !stable.iter().any(|(_, target)| target == *port));
    let lines: Vec<String> = named.chain(others.map(|port| format!("  {}", port.display()))).take(SHOWN_MAX).collect();
    if lines.is_empty() {
        "no USB or board serial port is there: is the adapter plugged in, and does this user see it (group dialout)?"
            .to_owned()
    } else {
        format!("these serial ports are there:\n{}", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed_by_the_name_that_stays() {
        let (link, target) = (PathBuf::from("/dev/serial/by-id/usb-FTDI"), PathBuf::from("/dev/ttyUSB0"));
        let text = shown(&[(link, target.clone())], &[target, PathBuf::from("/dev/ttyAMA0")]);
        assert_eq!(text, "these serial ports are there:\n  /dev/serial/by-id/usb-FTDI (/dev/ttyUSB0)\n  /dev/ttyAMA0");
        assert!(shown(&[], &[]).contains("plugged in"));
        assert!(stable(Path::new("/nowhere")).is_empty());
    }
}
