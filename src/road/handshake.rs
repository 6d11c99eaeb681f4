//! TLS over a connection that somebody else made: for what is no broker, such as a field device.
//!
//! The same rules as for the road to a broker: files are read again each time, bad ones do not end a good configuration, a
//! box without the time accepts certificates that may be valid. But for one: a certificate of ours that has ended is shown all
//! the same where there is no better one. It is up to the other side what it makes of that, and many a controller knows no date.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::destination::{RoadError, TlsFiles};
use super::expiry::Ends;
use super::reach::shake;
use super::tls::{Configs, Expired, Loaded, Now, Whom};

/// A secured connection.
pub type Secured<T> = tokio_rustls::client::TlsStream<T>;

/// Remembers TLS sessions from one connection to the next. Clones share what they know.
#[derive(Clone)]
pub struct Handshake {
    files: TlsFiles,
    name: String,
    configs: Arc<Mutex<Configs>>,
}

/// What to shake hands with; see [`Handshake::ready`].
pub struct Ready {
    name: String,
    loaded: Loaded,
}

/// How the files stand; see [`Handshake::look`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What is wrong with them, and what that leads to.
    pub fault: Option<String>,
    /// Which of their certificates ends first.
    pub ends: Option<Ends>,
}

impl Handshake {
    /// With these files, to whom this name belongs (a host name or an address). `now` dates certificates.
    pub fn new(files: TlsFiles, name: String, now: Now) -> Self {
        Self { files, name, configs: Arc::new(Mutex::new(Configs::new(now, Expired::Shown))) }
    }

    /// Reads the files, which are then as they will be for [`Ready::shake`]. An error is always [`RoadError::Disabled`].
    /// Cancel-safe.
    pub async fn ready(&self) -> Result<Ready, RoadError> {
        let loaded = self.configs.lock().await.load(&self.files, &self.whom()).await?;
        Ok(Ready { name: self.name.clone(), loaded })
    }

    /// Looks at the files, without a byte on the wire. Cancel-safe.
    pub async fn look(&self) -> Look {
        let mut configs = self.configs.lock().await;
        let fault = match configs.load(&self.files, &self.whom()).await {
            Ok(Loaded { fault, expired: true, .. }) => {
                fault.map(|fault| format!("{fault}; it is shown all the same, and the device may refuse it"))
            }
            Ok(loaded) => loaded.fault.map(|fault| format!("{fault}; the last good files stay in use")),
            Err(error) => Some(format!("{error}; there is no connection until that is put right")),
        };
        Look { fault, ends: configs.ends().cloned() }
    }

    fn whom(&self) -> Whom {
        Whom { place: self.name.clone(), over_quic: false, alpn: Vec::new() }
    }
}

impl Ready {
    /// Secures a connection. Takes up to 60 s; cancel-safe.
    pub async fn shake<T>(self, wire: T) -> Result<Secured<T>, RoadError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        shake(wire, &self.name, &self.name, self.loaded.config).await
    }
}
