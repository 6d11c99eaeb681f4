//! A pseudo-terminal: a serial port made of software. The plant holds the master side, any program opens the other by path.
//!
//! The slave side is kept open here too, so that the line stays up when clients close and open it again. Raw mode is set at
//! the start; a client may set what it likes. Bytes that nobody reads are lost, as on a wire.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The master side, and the path by which clients open the other.
#[derive(Debug)]
pub struct Pty {
    master: AsyncFd<OwnedFd>,
    /// Keeps the line up between clients.
    _slave: File,
    path: PathBuf,
    link: Option<PathBuf>,
}

impl Pty {
    /// Opens a pair; with `link`, a symbolic link of that name points to it (an older link is replaced, a file is not).
    pub fn open(link: Option<&Path>) -> io::Result<Self> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let name = name.into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let path = PathBuf::from(name);
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = File::from(rustix::fs::open(&path, flags, rustix::fs::Mode::empty())?);
        let mut mode = tcgetattr(&slave)?;
        mode.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &mode)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let link = link.map(std::path::absolute).transpose()?;
        if let Some(link) = &link {
            point(link, &path)?;
        }
        Ok(Self { master: watch(master)?, _slave: slave, path, link })
    }

    /// What a client opens: the link if there is one, the device otherwise.
    pub fn path(&self) -> &Path {
        self.link.as_deref().unwrap_or(&self.path)
    }

    /// Reads what has arrived; waits for at least one byte. Cancel-safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.master.async_io(Interest::READABLE, |master| Ok(rustix::io::read(master, &mut *buffer)?)).await
    }

    /// Writes what fits; how much that was. Never waits: what a full line does not take is lost.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(self.master.get_ref(), &bytes[written..]) {
                Ok(count) => written += count,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && std::fs::read_link(link).is_ok_and(|target| target == self.path)
        {
            let _ = std::fs::remove_file(link); // left behind it would point to somebody else's terminal one day
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is `unsafe` for types that may close their descriptor early; an OwnedFd cannot"
)]
fn watch(master: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(master)
}

fn point(link: &Path, target: &Path) -> io::Result<()> {
    if link.symlink_metadata().is_ok_and(|existing| existing.is_symlink()) {
        std::fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(target, link)
}
