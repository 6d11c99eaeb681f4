//! User and password for CONNECT; the password is a file, read at each connect, so that a changed one is simply used.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use super::destination::RoadError;

/// No password is longer; a path that points to something else must not fill the memory.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

/// As configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginFiles {
    /// User name; without one there is no login at all (MQTT 3.1.1, section 3.1.2.9).
    pub username: Option<String>,
    /// File with the password; trailing line ends are ignored.
    pub password_file: Option<PathBuf>,
}

/// As sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Empty when there is none.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, …)", self.username)
    }
}

impl LoginFiles {
    /// Reads the file now.
    pub async fn read(&self) -> Result<Option<Login>, RoadError> {
        let Some(username) = self.username.clone() else {
            return Ok(None);
        };
        let Some(path) = self.password_file.clone() else {
            return Ok(Some(Login { username, password: String::new() }));
        };
        let shown = path.display().to_string();
        let broken = |error: &dyn fmt::Display| RoadError::Disabled(format!("password_file {shown}: {error}"));
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::open(path)?.take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        });
        match read.await {
            Ok(Ok(text)) => Ok(Some(Login { username, password: text.trim_end_matches(['\r', '\n']).to_owned() })),
            Ok(Err(error)) => Err(broken(&error)),
            Err(error) => Err(broken(&error)),
        }
    }
}
