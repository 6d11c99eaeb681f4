//! The near end: a socket that only this process can open, taken by one client, once.
//!
//! Fed by the road with a connection that stands already; the client is rumqttc with `Transport::Unix`. The directory is
//! removed with the relay.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::UnixListener;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::destination::RoadError;
use super::near::Near;
use super::overhear::Overheard;
use super::reach::{Reached, is_distrust};

/// The client is in this process and takes the socket at once.
const ACCEPT_MAX: Duration = Duration::from_secs(10);
/// `sun_path` of unix(7) has 108 bytes with its final NUL.
const PATH_BYTES_MAX: usize = 107;
/// Upwards: enough to fill TLS records (16 KiB); downwards come acknowledgements.
const UP_BYTES: usize = 16 << 10;
/// See [`UP_BYTES`].
const DOWN_BYTES: usize = 8 << 10;
/// How often the kernel is asked what the connection has cost.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Once our client is gone, a broker has so many counts to hang up: time for a slow link to bring its end, and no more,
/// for a peer that keeps its half open would keep the connection for ever.
const FAREWELL_COUNTS: u32 = 30;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEnd {
    /// One side closed in order.
    Closed,
    /// The connection failed; the text says how.
    Broken(String),
    /// The broker does not accept our certificate, and said so after the handshake.
    Distrusted(String),
}

/// A connection waiting for its client at [`Relay::socket`].
pub struct Relay {
    listener: UnixListener,
    reached: Reached,
    home: PrivateDir,
}

impl Relay {
    pub(super) fn bind(run_dir: &Path, reached: Reached) -> Result<Self, RoadError> {
        let disabled =
            |error: io::Error| RoadError::Disabled(format!("no private socket below {}: {error}", run_dir.display()));
        let home = PrivateDir::create_below(run_dir).map_err(disabled)?;
        let socket = home.socket();
        if socket.as_os_str().len() > PATH_BYTES_MAX {
            return Err(RoadError::Disabled(format!(
                "the path of a socket below {} is longer than {PATH_BYTES_MAX} bytes; use a shorter runtime directory",
                run_dir.display()
            )));
        }
        let listener = UnixListener::bind(&socket).map_err(disabled)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(disabled)?;
        Ok(Self { listener, reached, home })
    }

    /// Where the client connects.
    pub fn socket(&self) -> PathBuf {
        self.home.socket()
    }

    /// Waits for the client and carries bytes until both sides are done or one fails; a broker that does not hang up after
    /// its client has gone is left. What the client has said is brought over, however it went. Dropping it closes both.
    pub async fn run(self) -> RelayEnd {
        self.run_overheard(|_| ()).await
    }

    /// The same; `heard` is shown what comes from the far end, before the client gets it.
    pub async fn run_overheard(self, heard: impl FnMut(&[u8]) + Send + Unpin) -> RelayEnd {
        let Self { listener, reached, home } = self;
        let Reached { far, mut books } = reached;
        let ending = Arc::new(AtomicBool::new(false));
        let mut far = Overheard { stream: far, listener: heard, ending: Arc::clone(&ending) };
        let mut near = match timeout(ACCEPT_MAX, listener.accept()).await {
            Ok(Ok((near, _))) => Near::new(near),
            Ok(Err(error)) => return RelayEnd::Broken(format!("private socket: {error}")),
            Err(_) => return RelayEnd::Broken("private socket: nobody came".into()),
        };
        drop((listener, home)); // one client, once
        let carry = copy_bidirectional_with_sizes(&mut near, &mut far, UP_BYTES, DOWN_BYTES);
        let mut carry = pin!(carry);
        let mut count = interval(COUNT_EVERY);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut farewell = 0;
        let carried = loop {
            tokio::select! {
                carried = &mut carry => break carried,
                _ = count.tick() => books.settle(),
            }
            farewell += u32::from(ending.load(Ordering::Relaxed));
            if farewell > FAREWELL_COUNTS {
                return RelayEnd::Closed;
            }
        };
        match carried {
            Ok(_) => RelayEnd::Closed,
            Err(error) if is_distrust(&error) => {
                RelayEnd::Distrusted(format!("the broker does not accept our certificate: {error}"))
            }
            Err(error) => RelayEnd::Broken(error.to_string()),
        }
    }
}

/// A 0700 directory with a random name, gone with its owner.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn create_below(run_dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(run_dir)?;
        let path = run_dir.join(format!("road-{:08x}", rand::random::<u32>()));
        DirBuilder::new().mode(0o700).create(&path)?; // fails if it exists: nobody prepared it for us
        Ok(Self(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        drop(fs::remove_file(self.socket()));
        drop(fs::remove_dir(&self.0));
    }
}
