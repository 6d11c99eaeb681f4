//! What systemd is told: ready, reloading, stopping, a line of status, alive (sd_notify(3)).
//!
//! One datagram of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names: a path, or, with `@` for the first byte,
//! an abstract address. Without it everything here does nothing. A datagram that cannot be sent is left: systemd being
//! restarted is no reason to stop, and a service that stays silent is dealt with by systemd itself.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to systemd, if there is one; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notify {
    socket: Option<Arc<UnixDatagram>>,
}

impl Notify {
    /// As the environment says.
    pub fn from_environment() -> Self {
        std::env::var_os("NOTIFY_SOCKET").and_then(|address| Self::to(&address).ok()).unwrap_or_default()
    }

    /// To this address.
    pub fn to(address: &OsStr) -> std::io::Result<Self> {
        Ok(Self { socket: Some(Arc::new(connect(address)?)) })
    }

    /// Everything is up, for the first time or after a reload.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The configuration is read again; [`Notify::ready`] must follow, whatever comes of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Everybody makes progress.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace('\n', " ")));
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            drop(socket.send(text.as_bytes())); // see above
        }
    }
}

fn connect(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // systemd that is being restarted does not take anything for a while; nobody waits for it.
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Within which time systemd wants to hear [`Notify::alive`] (`WatchdogSec=`), if this very process is meant.
pub fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref(), std::process::id())
}

fn interval(micros: Option<&str>, meant: Option<&str>, own: u32) -> Option<Duration> {
    let meant = meant.is_none_or(|meant| meant.parse() == Ok(own));
    let micros: u64 = micros?.parse().ok()?;
    (meant && micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let length = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn each_word_is_one_datagram_to_a_path_or_an_abstract_address() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bound");
        let notify = Notify::to(path.as_os_str()).expect("connected");
        notify.ready();
        notify.reloading();
        notify.status("two\nlines");
        notify.alive();
        notify.stopping();
        assert_eq!(heard(&systemd), "READY=1");
        let reloading = heard(&systemd);
        let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("with its time");
        assert!(stamp.parse::<u64>().expect("a number") > 0);
        assert_eq!(heard(&systemd), "STATUS=two lines");
        assert_eq!((heard(&systemd).as_str(), heard(&systemd).as_str()), ("WATCHDOG=1", "STOPPING=1"));

        let name = format!("ironbridge-test-{:x}", rand::random::<u64>());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("short")).expect("bound");
        connect(OsStr::new(&format!("@{name}"))).expect("connected").send(b"READY=1").expect("sent");
        assert_eq!(heard(&systemd), "READY=1");
    }

    #[test]
    fn without_systemd_nothing_is_said_and_nothing_is_wrong() {
        Notify::default().ready();
        assert!(connect(OsStr::new("/nowhere/notify")).is_err());
    }

    #[test]
    fn the_watchdog_is_fed_only_by_the_process_it_is_meant_for() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(interval(Some("60000000"), None, 7), minute);
        assert_eq!(interval(Some("60000000"), Some("7"), 7), minute);
        assert_eq!(interval(Some("60000000"), Some("8"), 7), None);
        assert_eq!(interval(Some("0"), None, 7), None);
        assert_eq!(interval(Some("soon"), None, 7), None);
        assert_eq!(interval(None, None, 7), None);
    }
}
