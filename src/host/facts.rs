//! What the box says about itself.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The host name, lower case, as one topic level.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    name.replace(['/', '+', '#', '\0'], "-")
}

/// `$CREDENTIALS_DIRECTORY` of systemd's LoadCredential.
pub fn credentials_dir() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// A text that is the same as long as this boot lasts, and never again.
///
/// The kernel's boot id where /proc shows it; a hardened unit sees no /proc/sys, so there a token file in the runtime
/// directory (which systemd keeps with `RuntimeDirectoryPreserve=yes` and the boot throws away). Failing both, a new
/// token: this run then counts as a boot of its own, which costs nothing but a fix.
pub fn boot_token(runtime_dir: Option<&Path>) -> String {
    if let Ok(id) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        return id.trim().to_owned();
    }
    let fresh = format!("{:032x}", rand::random::<u128>());
    let Some(file) = runtime_dir.map(|dir| dir.join("boot-token")) else {
        return fresh;
    };
    match std::fs::read_to_string(&file) {
        Ok(token) if !token.trim().is_empty() => token.trim().to_owned(),
        _ => {
            // Without a place to keep it the token is good for this run only; see above.
            drop(std::fs::write(&file, &fresh));
            fresh
        }
    }
}

/// No memory image of this process is written when it dies: passwords and keys would lie in it. What the unit says with
/// `LimitCORE=0`, for daemons without one; systemd-coredump and apport keep to it too. Where the system refuses, the limit
/// is lower already.
pub fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _refused = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// `$RUNTIME_DIRECTORY` of systemd, if we run under it.
pub fn systemd_runtime_dir() -> Option<PathBuf> {
    let dirs = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&dirs).next()
}

/// A directory for our sockets that nobody else can look into: systemd's, or a new one below the temporary directory
/// (where that is missing or full, another one), removed when this value is dropped.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    ours: bool,
}

impl RuntimeDir {
    /// Finds or makes it (mode 0700).
    pub fn new() -> io::Result<Self> {
        if let Some(path) = systemd_runtime_dir() {
            return Ok(Self { path, ours: false });
        }
        let name = format!("ironbridge-{:016x}", rand::random::<u64>());
        let make = |parent: PathBuf| {
            let path = parent.join(&name);
            std::fs::DirBuilder::new().mode(0o700).create(&path).map(|()| Self { path, ours: true })
        };
        let others = ["/run", "/dev/shm", "/var/tmp"].map(PathBuf::from);
        make(std::env::temp_dir()).or_else(|first| others.into_iter().find_map(|parent| make(parent).ok()).ok_or(first))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if self.ours {
            // Best effort: a left-over directory in /tmp hurts nobody.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_runtime_directory_is_private_and_goes_away() {
        let dir = RuntimeDir::new().expect("temporary directory is writable");
        let mode = std::fs::metadata(dir.path()).expect("exists").permissions().mode();
        assert_eq!(mode & 0o077, 0);
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_boot_token_is_kept_for_the_boot() {
        assert_eq!(boot_token(None), boot_token(None));
    }
}
