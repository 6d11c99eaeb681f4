//! The control socket: how a command on the same box asks the running daemon something, and has its answer.
//!
//! `control.sock` in the runtime directory that systemd makes, or in the data directory where there is none; mode 0600, so
//! whoever may open it is root or the daemon's own user. One question and one answer per connection, each a line of JSON:
//!
//! ```text
//! {"ask":"reload"}                              read the configuration again, and say what came of it
//! {"ask":"compare","config":"/etc/x.toml"}      what would this file change? With "texts":[["/etc/x.toml","…"],…] the
//!                                               daemon opens no file: it may see fewer than whoever asks
//! {"ask":"status"}                              everything on the status page but the values, as JSON in "text"
//! {"ask":"metrics"}                             every counter, as on /metrics, in "text"
//! {"outcome":"applied","text":"device pump-1 changed\n","changes":[{"part":"device","name":"pump-1","how":"changed",
//!  "detail":"1 tags added"}],"restart":[],"trial_s":60}
//! ```
//!
//! Outcomes: `told` (status, metrics), `applied`, `unchanged`, `differs` (compare), `wrong` (the file does not check;
//! `text` says why), `restart` (it needs one; nothing was changed), `stopping`. Bounded: one question at a time, at most
//! `LINE_MAX` bytes, and whoever says nothing for `PATIENCE` is dismissed.

use std::fs::Permissions;
use std::future::Future;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// A question is short, and so is an answer: a line for each part that changed, or for each counter.
const LINE_MAX: u64 = 4 << 20;

/// Longest text of an answer, bytes; as JSON it grows, but not to more than a line may have.
pub const TEXT_MAX: usize = 2 << 20;

/// How long a question may take to arrive, and an answer to be fetched.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reload may wait for a transaction, for the farewell of an uplink and for a slow disk; after this it is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    /// Read the configuration again.
    Reload,
    /// How everything stands.
    Status,
    /// Every counter.
    Metrics,
    /// What would this file change?
    Compare {
        /// Absolute.
        config: PathBuf,
        /// What it, its fragments and its register maps hold, each by its absolute name. `None`: the daemon reads them itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        texts: Option<Vec<(PathBuf, String)>>,
    },
}

impl Question {
    /// Is it short enough to be asked?
    pub fn fits(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|line| (line.len() as u64) < LINE_MAX)
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// One of the words above.
    pub outcome: String,
    /// For people.
    pub text: String,
    /// Parts that are touched.
    #[serde(default)]
    pub changes: Vec<Told>,
    /// Keys that need a restart.
    #[serde(default)]
    pub restart: Vec<String>,
    /// It is taken back after so many seconds if what it touched is worse off then.
    #[serde(default)]
    pub trial_s: Option<u64>,
    /// Why the users file could not be read, or some of its lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<String>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Such as `device`.
    pub part: String,
    /// Its name.
    pub name: String,
    /// `added`, `removed`, `changed`.
    pub how: String,
    /// More for people.
    pub detail: String,
}

/// The open socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// Where the socket of a daemon is.
pub fn path(runtime_dir: Option<&Path>, data_dir: &Path) -> PathBuf {
    runtime_dir.unwrap_or(data_dir).join("control.sock")
}

impl Socket {
    /// Opens it; one that an earlier run left is replaced, one that somebody serves is not.
    pub fn open(path: &Path) -> io::Result<Self> {
        if Blocking::connect(path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another daemon serves it"));
        }
        // Never open to others, not even for a moment: made under another name first.
        let own = path.with_extension(format!("sock.{}", std::process::id()));
        drop(std::fs::remove_file(&own)); // of a crashed process that had our number
        let listener = UnixListener::bind(&own)?;
        std::fs::set_permissions(&own, Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&own, path))
            .inspect_err(|_| drop(std::fs::remove_file(&own)))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until dropped, one question after the other.
    pub async fn serve<F: Future<Output = Answer>>(self, answer: impl Fn(Question) -> F) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = attend(stream, &answer).await {
                        tracing::debug!(%error, "a question on the control socket came to nothing");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket cannot take a connection");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path)); // otherwise the next start replaces it
    }
}

async fn attend<F: Future<Output = Answer>>(stream: UnixStream, answer: &impl Fn(Question) -> F) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, tokio::io::BufReader::new(read.take(LINE_MAX)).read_line(&mut line)).await??;
    let question = serde_json::from_str(&line).map_err(io::Error::other)?;
    let mut text = serde_json::to_vec(&answer(question).await).map_err(io::Error::other)?;
    text.push(b'\n');
    timeout(PATIENCE, write.write_all(&text)).await?
}

/// Asks the daemon and waits for its answer. Blocking.
pub fn ask(path: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = Blocking::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the daemon ended before it answered"));
    }
    serde_json::from_str(&answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_by_the_one_daemon_that_serves_the_socket_and_nobody_else_may_open_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = path(None, home.path());
        let socket = Socket::open(&path).expect("opens");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Socket::open(&path).expect_err("served").kind(), ErrorKind::AddrInUse);
        let answer = |question| async move { Answer { text: format!("{question:?}"), ..Answer::default() } };
        let serving = tokio::spawn(socket.serve(answer));
        let asked = path.clone();
        // Nonsense costs nobody the answer that comes after it.
        let told = tokio::task::spawn_blocking(move || {
            Blocking::connect(&asked).expect("open").write_all(b"{\"ask\":\"money\"}\n").expect("written");
            ask(&asked, &Question::Reload)
        });
        assert_eq!(told.await.expect("no panic").expect("answered").text, "Reload");
        serving.abort();
        drop(serving.await);
        assert!(!path.exists(), "it leaves no file behind");
        std::fs::write(&path, b"").expect("left over");
        Socket::open(&path).expect("what is left over is replaced");
    }
}
