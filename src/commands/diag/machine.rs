//! The box: versions, clock, memory, disks, serial ports, network. Reads `/proc` and asks the file system; nothing that
//! says who uses it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::config::plan::TimeTrust;
use crate::disk::database;
use crate::flow::clock::TimeSource as _;
use crate::host::clock::BootTime;
use crate::host::sync::Asked;

/// rustls says it nowhere; a test compares with Cargo.lock.
const RUSTLS: &str = "0.23.46";
/// Entries of a directory that are listed.
const ENTRIES_MAX: usize = 1000;

/// Of the program and what it runs on.
pub(super) fn versions() -> String {
    let system = rustix::system::uname();
    let os = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
    format!(
        "ironbridge {} ({}, demo {})\nSQLite     {}\nrustls     {RUSTLS}\nkernel     {} {} {} {}\n\n{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        if cfg!(feature = "demo") { "with" } else { "without" },
        database::version(),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.version().to_string_lossy(),
        system.machine().to_string_lossy(),
        os.unwrap_or_else(|| "there is no os-release\n".to_owned()),
    )
}

/// What time it is, and who vouches for it.
pub(super) fn clock(now: &str, trust: &TimeTrust) -> String {
    let boot = Duration::from_micros(BootTime.boot_micros().unsigned_abs());
    let timesync = fs::metadata("/run/systemd/timesync/synchronized").is_ok();
    format!(
        "wall clock             {now}\nsince boot             {} s\ntime_source            {trust:?}\nit says                {}\n\
         timesyncd synchronised {timesync}\nRTC                    {}\n",
        boot.as_secs(),
        Asked::default().ask(trust, boot),
        lines_of("/proc/driver/rtc", &["rtc_time", "rtc_date"]).unwrap_or_else(|error| error).replace('\n', " "),
    )
}

/// Memory, load, and the disks that matter.
pub(super) fn memory_and_disks(data_dir: &Path) -> String {
    let memory = lines_of("/proc/meminfo", &["MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree", "Dirty"]);
    let mut text = memory.unwrap_or_else(|error| error);
    let _ = writeln!(text, "\nload    {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let _ = writeln!(text, "cores   {cores}\n");
    for path in [data_dir, Path::new("/"), Path::new("/tmp"), Path::new("/etc/ironbridge")] {
        let _ = writeln!(text, "{}", disk(path)); // writing into a String does not fail
    }
    text
}

fn disk(path: &Path) -> String {
    let space = match rustix::fs::statvfs(path) {
        Ok(space) => space,
        Err(error) => return format!("{}: {error}", path.display()),
    };
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize) / 1024;
    let (size, free, files) = (bytes(space.f_blocks), bytes(space.f_bavail), space.f_favail);
    format!("{}: {size} KiB, {free} free, {files} files free, {}", path.display(), mount(path))
}

/// Device, kind and whether it can be written; not its options, which may name users.
fn mount(path: &Path) -> String {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    let around = fields.filter(|fields| real.starts_with(fields[1])).max_by_key(|fields| fields[1].len());
    around.map_or_else(
        || "no mount is known".to_owned(),
        |fields| {
            let state = fields[3].split(',').find(|option| ["ro", "rw"].contains(option)).unwrap_or("?");
            format!("{} on {} ({}, {state})", fields[0], fields[1], fields[2])
        },
    )
}

/// Interfaces and what went over them.
pub(super) fn network() -> Result<String, String> {
    fs::read_to_string("/proc/net/dev").map_err(|error| format!("/proc/net/dev: {error}"))
}

/// Names, sizes and rights of what lies in a directory, and in the directories of ours below it.
pub(super) fn listing(dir: &Path) -> Result<String, String> {
    let mut lines = Vec::new();
    list(dir, 2, &mut lines).map_err(|error| format!("{}: {error}", dir.display()))?;
    lines.sort();
    lines.truncate(ENTRIES_MAX);
    Ok(lines.join("\n") + "\n")
}

fn list(dir: &Path, depth: usize, lines: &mut Vec<String>) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    for entry in fs::read_dir(dir)?.take(ENTRIES_MAX) {
        let path = entry?.path();
        let Ok(about) = fs::symlink_metadata(&path) else { continue }; // gone since
        let (mode, user, group, bytes) = (about.mode(), about.uid(), about.gid(), about.len());
        lines.push(format!("{} {mode:06o} {user}:{group} {bytes}", path.display()));
        if about.is_dir() && depth > 0 {
            drop(list(&path, depth - 1, lines));
        }
    }
    Ok(())
}

fn lines_of(path: &str, names: &[&str]) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let wanted = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    Ok(wanted.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_rustls_is_the_one_that_is_locked() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"rustls\"\nversion = \"{RUSTLS}\"\n")), "put the new one here");
    }

    #[test]
    fn a_box_tells_about_itself_and_a_missing_directory_is_said() {
        assert!(versions().contains("SQLite     3.") && versions().contains(env!("CARGO_PKG_VERSION")));
        let text = memory_and_disks(Path::new("/nowhere"));
        assert!(text.contains("MemTotal") && text.contains("/nowhere: "), "{text}");
        assert!(clock("now", &TimeTrust::System).contains("synchronised"));
        assert!(listing(Path::new("/nowhere")).is_err());
    }
}
