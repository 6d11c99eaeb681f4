//! A mosquitto of its own: the broker that is not ours. Left out, visibly, where there is none.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::own_port;
use crate::skip::skipped;

/// How long it may take to listen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped. What it is started again with is in its own directory, sessions too.
pub struct Mosquitto {
    pub port: u16,
    home: tempfile::TempDir,
    child: Child,
}

impl Mosquitto {
    /// With more of its configuration, which is told the directory; `None`, said aloud, where `what` needs it and there is none.
    pub fn start(what: &str, more: impl FnOnce(&Path) -> String) -> Option<Self> {
        let (home, port) = (tempfile::tempdir().expect("a directory"), own_port());
        let more = more(home.path());
        let text = format!("listener {port} 127.0.0.1\nmax_queued_messages 0\nuser root\nlog_type error\n{more}");
        std::fs::write(config(home.path()), text).expect("written");
        let Ok(child) = spawn(home.path()) else {
            skipped(what, "mosquitto is not installed");
            return None;
        };
        let mut this = Self { port, home, child };
        this.listens();
        Some(this)
    }

    /// kill -9, then a new one.
    pub fn restart(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.again();
    }

    /// Told to end, which is when it writes its sessions down; then a new one.
    pub fn restart_in_order(&mut self) {
        self.signal("-TERM");
        self.again();
    }

    fn again(&mut self) {
        self.child.wait().expect("gone");
        self.child = spawn(self.home.path()).expect("it was there before");
        self.listens();
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    fn listens(&mut self) {
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "mosquitto does not listen: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn config(home: &Path) -> PathBuf {
    home.join("mosquitto.conf")
}

/// Debian puts it where only root looks.
fn spawn(home: &Path) -> std::io::Result<Child> {
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(config(home)).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
