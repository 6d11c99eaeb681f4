//! User and password for CONNECT; the password is a file of ours alone, read at each connect, so that a changed one is simply
//! used.

use std::fmt;
use std::path::PathBuf;

use super::destination::RoadError;
use super::tls;

/// No password is longer (MQTT 5, section 1.5.6).
const PASSWORD_BYTES_MAX: usize = 65_535;

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
        let bytes = tls::read_secret(&path, "password_file").await?;
        let text = std::str::from_utf8(&bytes).ok().map(|text| text.trim_end_matches(['\r', '\n']));
        match text.filter(|password| password.len() <= PASSWORD_BYTES_MAX) {
            Some(password) => Ok(Some(Login { username, password: password.to_owned() })),
            None => Err(RoadError::Disabled(format!(
                "password_file {}: is no text of at most {PASSWORD_BYTES_MAX} bytes",
                path.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_password_that_everybody_may_read_or_that_nobody_can_send_is_refused_by_name() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("password");
        let files = LoginFiles { username: Some("gw".into()), password_file: Some(file.clone()) };
        let read = async |mode, text: &[u8]| {
            std::fs::write(&file, text).expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
            files.read().await.map(|login| login.expect("there is a user").password).map_err(|error| error.to_string())
        };
        assert_eq!(read(0o640, b"secret\r\n").await.as_deref(), Ok("secret"));
        assert!(
            read(0o644, b"secret").await.is_err_and(|told| told.contains("chmod 640") && told.contains("password"))
        );
        assert!(
            read(0o600, &vec![b'a'; 65_536]).await.is_err_and(|told| told.contains("65535 bytes")),
            "and not its front"
        );
        assert!(read(0o600, b"\xff").await.is_err_and(|told| told.contains("no text")));
    }
}
