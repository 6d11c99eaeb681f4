//! `ironbridge reload`: the running daemon reads its configuration again; waits for what comes of it. And how commands find
//! the daemon's control socket.

use std::io;
use std::path::{Path, PathBuf};

use super::run::DEFAULT_CONFIG;
use super::{self as commands, Failed};
use crate::config::{self, HostFacts};
use crate::host::control::{self, Answer, Question};
use crate::host::facts;

/// Where systemd makes our runtime directory.
const RUNTIME_DIR: &str = "/run/ironbridge";

/// Arguments of `ironbridge reload`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it is in force, or nothing had changed · 1 so it is, but the users file could not be read ·\n\
    75 no gateway is running here · 78 the configuration is wrong, or changes what needs a restart; then nothing was changed\n\n\
    What it would change beforehand: ironbridge check --against-running"
)]
pub struct Args {
    /// The configuration of the running gateway, to find it by
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The gateway's control socket, where it is not found by itself
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Asks the daemon to reload, and prints what it did.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let answer = ask(args.socket.as_deref(), &args.config, facts, &Question::Reload)?;
    if args.json {
        let text = serde_json::to_string(&answer).map_err(|error| Failed::Internal(error.to_string()))?;
        commands::tell(&text);
    }
    let (mut text, ended) = told(&answer);
    if let Some(users) = &answer.users {
        text.push_str("\n! the users could not all be read again: ");
        text.push_str(users);
    }
    if !args.json {
        commands::tell(&text);
    }
    ended.and(if answer.users.is_some() { Err(Failed::Verdict) } else { Ok(()) })
}

fn told(answer: &Answer) -> (String, Result<(), Failed>) {
    let text = answer.text.trim_end();
    match answer.outcome.as_str() {
        "applied" => {
            let trial = answer.trial_s.map_or_else(String::new, |seconds| {
                format!("\non trial for {seconds} s: if what it touched is worse off then, the one before comes back")
            });
            (format!("reloaded\n{text}{trial}"), Ok(()))
        }
        "unchanged" => (format!("nothing has changed; {} were read again", read_again(answer)), Ok(())),
        "wrong" => ("nothing was changed".to_owned(), Err(Failed::Config(text.to_owned()))),
        "restart" => ("nothing was changed".to_owned(), Err(Failed::Config(text.to_owned()))),
        "stopping" => (String::new(), Err(Failed::TryAgain("the gateway is stopping".to_owned()))),
        other => (String::new(), Err(Failed::Internal(format!("the gateway answered {other:?}: {text}")))),
    }
}

const fn read_again(answer: &Answer) -> &'static str {
    if answer.users.is_none() { "users and certificates" } else { "certificates" }
}

/// Asks the daemon that runs with this configuration.
pub(super) fn ask(
    socket: Option<&Path>,
    config: &Path,
    facts: &HostFacts,
    question: &Question,
) -> Result<Answer, Failed> {
    let mut tried = Vec::new();
    let Sockets { mut paths, wrong } = sockets(socket, config, facts);
    // A draft stands anywhere, and what it is held against changes nothing there.
    let service = control::path(Some(Path::new(RUNTIME_DIR)), Path::new(RUNTIME_DIR));
    if socket.is_none() && matches!(question, Question::Compare { .. }) && !paths.contains(&service) {
        paths.push(service);
    }
    for path in paths {
        match control::ask(&path, question) {
            Ok(answer) => return Ok(answer),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                tried.push(path.display().to_string());
            }
            Err(error) => {
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                let why =
                    if denied { "only root and the gateway's own user may do this".into() } else { error.to_string() };
                return Err(wrong.unwrap_or(Failed::TryAgain(format!("{}: {why}", path.display()))));
            }
        }
    }
    let text = format!("no gateway is running here; looked at {}", tried.join(" and "));
    Err(wrong.unwrap_or(Failed::TryAgain(text)))
}

struct Sockets {
    paths: Vec<PathBuf>,
    /// What is to be said of the file where no gateway says it.
    wrong: Option<Failed>,
}

/// Where the daemon may listen: in systemd's runtime directory, else in its data directory, which a file that is wrong
/// elsewhere names, too.
fn sockets(named: Option<&Path>, config: &Path, facts: &HostFacts) -> Sockets {
    if let Some(named) = named {
        return Sockets { paths: vec![named.to_owned()], wrong: None };
    }
    let standard = (config == Path::new(DEFAULT_CONFIG)).then(|| PathBuf::from(RUNTIME_DIR));
    let mut found: Vec<PathBuf> = facts::systemd_runtime_dir().or(standard).into_iter().collect();
    let mut wrong = None;
    match config::load(config, facts) {
        Ok(loaded) => found.push(loaded.plan.gateway.data_dir),
        Err(problems) => {
            let is_found = found.iter().any(|dir| control::path(None, dir).exists());
            wrong = (!is_found).then(|| Failed::Config(problems.to_string()));
            found.extend(commands::data_dir_of(config));
        }
    }
    Sockets { paths: found.iter().map(|dir| control::path(None, dir)).collect(), wrong }
}
