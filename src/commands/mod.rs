//! One file per subcommand: arguments in, text or JSON out, an exit code by what the caller should do next.
//!
//! `run` the gateway, `reload` its configuration, `check` it first and say what it will `cost` · `demo` all of it on one
//! machine, `simulate` a plant · at the cabinet: `scan`, `read`, `write` (what both share: `field`), `decode`, `capture`,
//! `replay` · `tags` as CSV, `profiles` register maps · `passwd` users, `broker` a mosquitto's configuration · `store` from
//! outside, `receive` at the far end · `diag` for whoever helps, `factory_reset` for the next owner · `man`, `completions` ·
//! `interrupt` how any of them is ended.

pub mod broker;
pub mod capture;
pub mod check;
pub mod completions;
pub mod cost;
pub mod decode;
pub mod demo;
pub mod diag;
pub mod factory_reset;
pub mod field;
pub mod interrupt;
pub mod man;
pub mod passwd;
pub mod profiles;
pub mod read;
pub mod receive;
pub mod reload;
pub mod replay;
pub mod run;
pub mod scan;
pub mod simulate;
pub mod store;
pub mod tags;
pub mod write;

use std::fmt;
use std::fs;
use std::future::Future;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::plan::Plan;
use crate::config::{self, HostFacts, Problems, units};
use crate::flow::clock::{Clock, Seen};
use crate::host::terminal::say;
use crate::host::{clock, facts};
use crate::model::time::Boot;

/// Where the state of a gateway lies when its configuration does not say.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/ironbridge";

/// Why a subcommand ended without success; the variant is the exit code, as `ironbridge --help` lists them.
#[derive(Debug)]
pub enum Failed {
    /// 64: the arguments make no sense, or name a file that cannot be used.
    Usage(String),
    /// 75: try again later.
    TryAgain(String),
    /// 78: the configuration does not parse or check, does not allow what was asked for, or names a part that this binary
    /// was built without.
    Config(String),
    /// 70: a fault of ours.
    Internal(String),
    /// 1: it ran, and the verdict is no: a check that fails, a write that was not done, a scan that found nothing. The text
    /// was printed already.
    Verdict,
}

impl Failed {
    /// Of a configuration that is of no use. What a file lies on may be well again later: a service that said otherwise would
    /// stay down for good.
    pub fn of(problems: &Problems) -> Self {
        if problems.may_pass() { Self::TryAgain(problems.to_string()) } else { Self::Config(problems.to_string()) }
    }

    /// Of a file that was named and cannot be read: it is not there, may not be read, is a directory or no text, which is
    /// for somebody to mend; or what it lies on fails, which may pass.
    pub fn unread(what: impl fmt::Display, error: &io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidData => Self::Usage(text),
            _ => Self::TryAgain(text),
        }
    }

    /// Before much else is done: is a file there that somebody named, and may it be read? A pipe is left alone, for its
    /// writer waits for one reader.
    pub fn look_for(file: &Path) -> Result<(), Self> {
        let looked = fs::metadata(file).and_then(|found| match found.file_type() {
            kind if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            kind if kind.is_file() => fs::File::open(file).map(drop),
            _ => Ok(()),
        });
        looked.map_err(|error| Self::unread(file.display(), &error))
    }

    /// The process exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::TryAgain(_) => 75,
            Self::Config(_) => 78,
            Self::Internal(_) => 70,
            Self::Verdict => 1,
        }
    }
}

/// Prints what was asked for on standard output.
///
/// A reader that went away (`… | head`) is nobody's error; a full disk behind `>` is: half a text must not pass for all of it.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_ref()).and_then(|()| out.flush()))
}

/// How a command ends that wrote to standard output by itself.
pub fn printed(written: io::Result<()>) -> Result<(), Failed> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failed::TryAgain(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints what was done: it stays done where that cannot be printed, so the command ends as it would have.
pub fn tell(text: &str) {
    if let Err(failed) = print(format!("{text}\n")) {
        say(format_args!("ironbridge: {failed}"));
    }
}

/// Asks whoever sits at the terminal; anything but a yes is a no. Where nobody can be asked the error says `instead`.
pub fn confirmed(question: impl fmt::Display, instead: &str) -> Result<bool, Failed> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failed::Usage(instead.to_owned()));
    }
    let unanswered = |error: io::Error| Failed::TryAgain(format!("cannot ask: {error}"));
    let mut answer = String::new();
    let mut asked = io::stderr().lock();
    write!(asked, "{question} [y/N] ").and_then(|()| asked.flush()).map_err(unanswered)?;
    stdin.lock().read_line(&mut answer).map_err(unanswered)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What a command that reads a configuration knows of the machine.
pub fn host_facts() -> HostFacts {
    HostFacts { hostname: facts::hostname(), credentials_dir: facts::credentials_dir() }
}

/// A time on the command line, written as in the configuration.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| format!("'{text}' is no time; write for instance 60s, 5m or 12h"))
}

/// What still blocks a thread when a command has ended is given this long.
const LEFT_OVER_MAX: Duration = Duration::from_secs(1);

/// Runs an async command to its end.
pub fn block_on(command: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::TryAgain(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(command);
    // What blocks by now is nobody's any more: a name lookup at a dead resolver takes half a minute, and no stop waits for it.
    runtime.shutdown_timeout(LEFT_OVER_MAX);
    ended
}

/// The clock of a command that has no store: the system's wall clock as it is now, if it is believable.
pub fn plain_clock() -> Clock {
    let clock = clock::system_clock(Boot(0), Seen::default());
    if let Some(fix) = clock::plain_fix(&clock) {
        clock.learn(fix);
    }
    clock
}

/// Reads and checks a configuration; all problems are in the error.
pub fn load(path: &Path) -> Result<Plan, Failed> {
    config::load(path, &host_facts()).map(|loaded| loaded.plan).map_err(|problems| Failed::of(&problems))
}

/// `data_dir` of a configuration that may be wrong elsewhere; `None` when the main file is empty, or no TOML at all.
pub fn data_dir_of(config: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(config).ok().filter(|text| !config::is_hollow(text))?;
    let document: toml::Table = text.parse().ok()?;
    let named = document.get("gateway").and_then(|gateway| gateway.get("data_dir")).and_then(toml::Value::as_str);
    let config = std::path::absolute(config).ok()?;
    Some(config.parent()?.join(named.unwrap_or(DEFAULT_DATA_DIR)))
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::TryAgain(text) | Self::Config(text) | Self::Internal(text) => f.write_str(text),
            Self::Verdict => f.write_str("the verdict is no"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_file_that_cannot_be_read_for_now_is_tried_again_and_one_that_is_wrong_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = |more: &str| {
            let text = format!(
                "[gateway]\nname = \"gw\"\ndata_dir = \"data\"\n{more}[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\n\
                 endpoint = \"127.0.0.1:1\"\n[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\nprofile = \"maps/d.csv\"\n"
            );
            let file = dir.path().join("ironbridge.toml");
            std::fs::write(&file, text).expect("written");
            load(&file).map(drop).map_err(|failed| failed.code())
        };
        assert_eq!(text(""), Err(75), "a register map on a disk that is mounted late");
        let refers = "[[derived]]\nname = \"sum\"\nexpression = \"{d/v} + 1\"\n";
        assert_eq!(text(refers), Err(75), "what refers to it is not wrong for that");
        std::fs::create_dir(dir.path().join("maps")).expect("made");
        assert_eq!(text(""), Err(78), "a name that is not in its directory is misspelt");
        std::fs::write(dir.path().join("maps/d.csv"), "name,address,type\nv,holding:0,uint16\n").expect("written");
        assert_eq!(text(""), Ok(()));
        assert_eq!(text("nonsense = 1\n"), Err(78));
        let code = |file: &Path| load(file).map(drop).map_err(|failed| failed.code());
        assert_eq!(code(&dir.path().join("none.toml")), Err(78), "nobody wrote one");
        assert_eq!(code(Path::new("/proc/self/mem")), Err(75), "an error of input and output");
    }

    #[test]
    fn a_name_lookup_that_hangs_does_not_hold_up_the_end() {
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        let ended = block_on(async move {
            tokio::task::spawn_blocking(move || hung.recv_timeout(Duration::from_secs(60)));
            Ok(())
        });
        assert!(ended.is_ok() && began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        drop(release);
    }
}
