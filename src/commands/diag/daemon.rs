//! What the running gateway and the system around it say: who holds the store, how everything stands, the unit, its log.
//!
//! Asks the gateway over its control socket, which is root's and its own user's; and else only what answers to anybody on this
//! machine: `/proc`, HTTP on a loopback address (with TLS where it has that), `systemctl`, `journalctl`. Changes nothing,
//! takes no lock (a gateway that is about to start would find it taken), never reads an environment.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::commands::reload;
use crate::config::HostFacts;
use crate::host::control::Question;
use crate::road::own;

/// What answers is on this machine.
const HTTP_WAIT: Duration = Duration::from_secs(5);
/// The journal of a year on a slow card is searched for this long.
const PROGRAM_WAIT: Duration = Duration::from_secs(15);
/// Of an answer; see the bound of one part of the bundle.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Lines of the journal.
const LINES: &str = "5000";
/// What the packages install.
const UNIT: &str = "ironbridge.service";

/// The process that has this store open, by the lock it holds (proc(5), /proc/locks).
pub(super) fn holder(store: &Path) -> Option<u32> {
    let file = fs::metadata(store.join("lock")).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let held =
        locks.lines().find(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word == place))?;
    held.split_whitespace().nth(4)?.parse().ok()
}

/// Memory, threads and limits of a process.
pub(super) fn process(pid: u32) -> Result<String, String> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    };
    let wanted = ["Name", "State", "Uid", "Threads", "VmPeak", "VmSize", "VmHWM", "VmRSS", "VmSwap", "FDSize"];
    let status = read("status")?;
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(&format!("{name}:"))));
    let lines: Vec<&str> = lines.collect();
    Ok(format!("process {pid}\n{}\n\n{}", lines.join("\n"), read("limits")?))
}

/// Something that the gateway tells of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// The part it becomes.
    pub(super) file: &'static str,
    /// Where the status room has it.
    pub(super) path: &'static str,
    question: fn() -> Question,
    /// Of the answer over the socket.
    part: fn(&str) -> Option<String>,
}

/// All of it.
pub(super) const TOLD: [Told; 3] = [
    Told {
        file: "status.json",
        path: "/api/status",
        question: || Question::Status,
        part: |text| Some(text.to_owned()),
    },
    Told { file: "metrics.txt", path: "/metrics", question: || Question::Metrics, part: |text| Some(text.to_owned()) },
    Told { file: "health.txt", path: "/health", question: || Question::Status, part: health },
];

impl Told {
    /// Over the control socket.
    pub(super) fn of_socket(self, config: &Path, facts: &HostFacts) -> Result<String, String> {
        let answer = reload::ask(None, config, facts, &(self.question)()).map_err(|failed| failed.to_string())?;
        let part = if answer.outcome == "told" { (self.part)(&answer.text) } else { None };
        part.ok_or_else(|| format!("the gateway answered {:?}: {}", answer.outcome, answer.text))
    }
}

/// As `GET /health` has it.
fn health(status: &str) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    status.get("gateway")?.get("health").map(|health| format!("{health}\n"))
}

/// Where the status room is on this machine.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) address: SocketAddr,
    /// What it shows who it is with, where it has TLS.
    pub(super) certificate: Option<PathBuf>,
}

/// The body of an answer of the status room.
pub(super) fn get(room: &Room, path: &str) -> Result<String, String> {
    let Room { address, certificate } = room;
    let url = format!("http{}://{address}{path}", if certificate.is_some() { "s" } else { "" });
    let failed = |error: io::Error| format!("{url}: {error}");
    let stream = TcpStream::connect_timeout(address, HTTP_WAIT).map_err(failed)?;
    stream.set_read_timeout(Some(HTTP_WAIT)).map_err(failed)?;
    stream.set_write_timeout(Some(HTTP_WAIT)).map_err(failed)?;
    // 1.0: the answer ends with the connection, in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = match certificate {
        None => asked(stream, &request),
        Some(certificate) => own::secured(stream, certificate).and_then(|stream| asked(stream, &request)),
    };
    let answer = answer.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        // /health says why it is not well with 503.
        Some("200" | "503") => Ok(body.to_owned()),
        Some("401" | "403") => Err(format!("{url} wants a login")),
        _ => Err(format!("{url} answers: {status}")),
    }
}

fn asked(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// State of the unit, without its environment.
pub(super) fn unit() -> Result<String, String> {
    let shown = "-p Id,LoadState,ActiveState,SubState,Result,NRestarts,ExecMainPID,ExecMainCode,ExecMainStatus,\
                 ActiveEnterTimestamp,InactiveEnterTimestamp,MemoryCurrent,MemoryMax,TasksCurrent,UnitFileState,FragmentPath,DropInPaths";
    let mut arguments = vec!["show", UNIT, "--no-pager"];
    arguments.extend(shown.split(' '));
    said(program("systemctl", &arguments)?, "systemctl says nothing")
}

/// The last lines of the unit.
pub(super) fn journal() -> Result<String, String> {
    let lines = program("journalctl", &["-u", UNIT, "-n", LINES, "-o", "short-iso", "--no-pager", "-q"])?;
    said(lines, "the journal has no lines of ironbridge.service, or this user may not see them (try it as root)")
}

fn said(text: String, otherwise: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err(otherwise.to_owned()) } else { Ok(text) }
}

/// What a program of this machine prints; with none of our environment, and not for longer than [`PROGRAM_WAIT`].
fn program(name: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(name);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {name} on this machine"),
        _ => format!("{name} cannot be run: {error}"),
    })?;
    let (done, waits) = mpsc::sync_channel(1);
    if let Some(out) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = out.take(ANSWER_BYTES_MAX).read_to_end(&mut text);
            drop(done.send(read.map(|_| String::from_utf8_lossy(&text).into_owned())));
        });
    }
    let text = waits.recv_timeout(PROGRAM_WAIT);
    // It has said all, or too much, or nothing in time: there is nothing more to come of it.
    drop(child.kill());
    drop(child.wait());
    match text {
        Ok(text) => text.map_err(|error| format!("{name}: {error}")),
        Err(_) => Err(format!("{name} took longer than {} s", PROGRAM_WAIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_without_taking_it() {
        let home = tempfile::tempdir().expect("a directory");
        assert_eq!(holder(home.path()), None);
        let directory = crate::disk::directory::Directory::at(home.path());
        let lock = directory.lock().expect("nobody has it");
        assert_eq!(holder(home.path()), Some(std::process::id()));
        drop(lock);
        // A program that another test starts has all our files for a moment, until it is another program.
        let begun = Instant::now();
        while let Some(holder) = holder(home.path()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{holder} still has it");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_told_by_its_name() {
        assert_eq!(program("no-such-program", &[]), Err("there is no no-such-program on this machine".into()));
        assert_eq!(program("printf", &["%s", "a"]), Ok("a".into()));
    }
}
