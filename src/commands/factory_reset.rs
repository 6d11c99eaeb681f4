//! `ironbridge factory-reset`: what makes this box somebody's goes: samples, sessions, users, passwords, keys, configuration.
//!
//! Names everything first and asks. Never beside a running gateway: the locks of its stores are taken and held. Goes in an
//! order that a power cut may interrupt anywhere, because whoever runs it again finds what is left: state, then secrets, then
//! parts of the configuration; the main file, which says where all of that lies, is the last, and is replaced in one step
//! by what the package was delivered with. Where there is no such file the configuration stays, and that is said.
//!
//! `ours` what of a data directory is the gateway's, `beside` what of the owner lies beside the configuration, `credentials` what
//! systemd hands on. While a configuration is on trial or rolled back the one before is in the data directory alone: it is looked
//! into like the file, goes after the secrets that it names, and stays with --keep-config.
//!
//! Success means that nothing of the owner is left here that the gateway knows of, can see beside its configuration or among
//! its data, or is given by systemd. Whatever stays is named, and then the exit code is 1: that box is not to be given away
//! yet. What only the replaced configuration spoke of is remembered (`left`), so that the next run does not take the box for
//! clean.
//!
//! Deletes names, not blocks: flash keeps old blocks for a while. What must not be read from a card that is taken out
//! belongs on an encrypted one. Log lines in the system's journal are not ours to delete.

mod beside;
mod credentials;
mod left;
mod ours;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use self::beside::{Beside, Unclear};
use self::ours::{Found, Why};
use super::{Failed, confirmed, run};
use crate::access;
use crate::config::{self, HostFacts};
use crate::disk::directory::Directory;
use crate::disk::fault::Fault;
use crate::host::journal;
use crate::host::terminal::say;

/// Where packages and images keep the configuration they were delivered with.
const DELIVERED: &str = "/usr/share/ironbridge/ironbridge.toml";

/// Arguments of `ironbridge factory-reset`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "What goes: samples, sessions, retained messages, the record of commands, what was learned about devices; users,\n\
    passwords and private keys beside the configuration; and the configuration itself, if there is one to take its place.\n\
    What stays although it may be the owner's is named, and the exit code is 1.\n\
    Stop the gateway first: systemctl stop ironbridge. After a power cut run it again: it finishes."
)]
pub struct Args {
    /// The configuration; it need not be right
    #[arg(long, value_name = "FILE", default_value = run::DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where the data lies, when no configuration can say it
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Only the state goes; configuration, users, passwords and keys stay
    #[arg(long)]
    pub keep_config: bool,
    /// What takes the place of the configuration
    #[arg(long, value_name = "FILE", default_value = DELIVERED)]
    pub default_config: PathBuf,
    /// Say what would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// What is going to happen.
struct Intent {
    /// In this order, each of them only when the one before it went: state and secrets; then what says where those lie.
    goes: [Vec<PathBuf>; 2],
    stays: Vec<(PathBuf, Why)>,
    /// Text of the configuration that was delivered; `None`: the present one stays.
    delivered: Option<String>,
}

/// Resets, after it has asked.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let config = std::path::absolute(&args.config).map_err(|error| Failed::Usage(error.to_string()))?;
    let data_dir = data_dir(args, &config, facts)?;
    let locks = lock_all(&data_dir)?;
    let intent = intend(args, &config, &data_dir)?;
    super::print(shown(&intent, &config, args.keep_config))?;
    if args.dry_run {
        return Ok(());
    }
    let instead = "this cannot be taken back: say --yes, or --dry-run to see what would go";
    if !args.yes && !confirmed("Delete all of this? It cannot be taken back.", instead)? {
        say("nothing was changed");
        return Ok(());
    }
    let paths = intent.goes.iter().map(Vec::len).sum();
    tell("begun", paths);
    let outcome = carry_out(&intent, &config);
    drop(locks);
    let left = intent.left(args.keep_config);
    tell(if outcome.is_err() || left > 0 { "unfinished" } else { "done" }, paths);
    outcome.map_err(|why| Failed::TryAgain(format!("not finished, run it again: {why}")))?;
    let is_drop_in = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("ironbridge.service.d"));
    if intent.goes[1].iter().any(is_drop_in) {
        super::tell("A drop-in of the unit is gone: systemctl daemon-reload");
    }
    super::tell("Log lines of the past are the system's: journalctl --rotate --vacuum-time=1s removes them");
    if left > 0 {
        say(format_args!("not as delivered: {left} of the lines above that begin with \"stays\" may be the owner's"));
        return Err(Failed::Verdict);
    }
    super::tell("done");
    Ok(())
}

fn data_dir(args: &Args, config: &Path, facts: &HostFacts) -> Result<PathBuf, Failed> {
    let named = match &args.data_dir {
        Some(dir) => std::path::absolute(dir).ok(),
        None => config::load(config, facts).map(|loaded| loaded.plan.gateway.data_dir).ok(),
    };
    let named = named.or_else(|| super::data_dir_of(config));
    // A link to another disk is where the data is.
    named.map(|dir| fs::canonicalize(&dir).unwrap_or(dir)).ok_or_else(|| {
        let file = config.display();
        Failed::Config(format!(
            "{file} cannot be read or is no TOML, so it does not say where the data lies: say --data-dir"
        ))
    })
}

/// The locks of all stores; nobody starts here meanwhile.
fn lock_all(data_dir: &Path) -> Result<Vec<File>, Failed> {
    let stores =
        ours::stores(data_dir).map_err(|error| Failed::TryAgain(format!("{}: {error}", data_dir.display())))?;
    let lock = |store: PathBuf| {
        Directory::at(&store).lock().map_err(|fault| match fault {
            Fault::InUse(_) => {
                Failed::TryAgain(format!("the gateway is running ({fault}): stop it first, systemctl stop ironbridge"))
            }
            fault => {
                Failed::TryAgain(format!("{}: {fault}; is this root, or the user of the gateway?", store.display()))
            }
        })
    };
    stores.into_iter().map(lock).collect()
}

fn intend(args: &Args, config: &Path, data_dir: &Path) -> Result<Intent, Failed> {
    let look = |error: io::Error| Failed::TryAgain(format!("cannot look: {error}"));
    let unclear = |unclear: Unclear| match unclear {
        Unclear::Text(..) => Failed::Config(unclear.to_string()),
        Unclear::Io(..) => Failed::TryAgain(format!("cannot look: {unclear}")),
    };
    let (found, configuration) = ours::state(data_dir).map_err(look)?.without_configuration(data_dir);
    let home = config.parent().unwrap_or(Path::new("/"));
    let default_config = std::path::absolute(&args.default_config).map_err(look)?;
    let units = credentials::units(&credentials::UNITS.map(Path::new));
    let beside = beside::on_trial(data_dir).and_then(|on_trial| beside::beside(config, &on_trial, &units));
    // What the configuration has in the data directory, which may be its own, is no stranger there.
    let mut own: Vec<_> = beside.iter().flat_map(Beside::paths).collect();
    own.extend([config.into(), home.join("ironbridge.d"), default_config.clone(), left::file(home)]);
    let Found { mut goes, mut stays } = found.without(&own).map_err(look)?;
    if args.keep_config {
        stays.extend(configuration.into_iter().map(|path| (path, Why::Configuration)));
        return Ok(Intent { goes: [goes, Vec::new()], stays, delivered: None });
    }
    let beside = beside.map_err(unclear)?;
    let delivered = match fs::read_to_string(&default_config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        text => Some(text.map_err(look)?),
    };
    let others = [config.into(), data_dir.into(), default_config, left::file(home)];
    let known = [&goes[..], &configuration, &beside.secrets.goes, &beside.parts.goes, &others].concat();
    let unnamed = beside::unnamed(home, &known).map_err(unclear)?;
    let named_there =
        |path: &PathBuf| unnamed.goes.contains(path) || unnamed.stays.iter().any(|(stays, _)| stays == path);
    stays.retain(|(path, why)| *why != Why::NotOurs || !named_there(path));
    goes.extend(beside.secrets.goes.into_iter().chain(unnamed.goes));
    stays.extend(beside.secrets.stays.into_iter().chain(beside.parts.stays).chain(unnamed.stays));
    let mut left = left::read(home).map_err(look)?;
    left.retain(|path| !known.contains(path) && !stays.iter().any(|(stays, _)| stays == path));
    stays.extend(left.into_iter().map(|path| (path, Why::Left)));
    let parts = if delivered.is_some() { beside.parts.goes } else { Vec::new() };
    Ok(Intent { goes: [goes, [parts, configuration].concat()], stays, delivered })
}

impl Intent {
    /// What stays and nobody would speak of any more.
    fn would_be_forgotten(&self) -> Vec<&Path> {
        let stays = self.stays.iter().filter(|(_, why)| why.would_be_forgotten());
        stays.map(|(path, _)| path.as_path()).collect()
    }

    /// How much stays that may be the owner's, the configuration among it.
    fn left(&self, keeps_config: bool) -> usize {
        let stays = self.stays.iter().filter(|(_, why)| why.may_be_the_owners()).count();
        stays + usize::from(self.delivered.is_none() && !keeps_config)
    }
}

fn shown(intent: &Intent, config: &Path, keeps_config: bool) -> String {
    let goes = intent.goes.iter().flatten().map(|path| format!("goes   {}\n", path.display()));
    let stays = intent.stays.iter().map(|(path, why)| format!("stays  {} ({})\n", path.display(), why.text()));
    let config = config.display();
    let last = match &intent.delivered {
        Some(_) => format!("reset  {config}, to what was delivered\n"),
        None if keeps_config => format!("stays  {config}, with users, passwords and keys (--keep-config)\n"),
        None => {
            format!("stays  {config} (there is none that was delivered to take its place: edit or delete it by hand)\n")
        }
    };
    goes.chain(stays).chain([last]).collect()
}

/// Everything that can go goes, whatever cannot; but what says where the rest lies is touched only when all of that went.
fn carry_out(intent: &Intent, config: &Path) -> Result<(), String> {
    if intent.delivered.is_some() {
        let home = config.parent().unwrap_or(Path::new("/"));
        let kept = left::keep(home, &intent.would_be_forgotten());
        kept.map_err(|error| format!("{}: {error}", left::file(home).display()))?;
    }
    for goes in &intent.goes {
        let failed = |path: &Path, error| format!("{}: {error}", path.display());
        let trouble: Vec<_> = goes.iter().filter_map(|path| Some(failed(path, remove(path).err()?))).collect();
        for parent in parents(goes) {
            if let Ok(directory) = File::open(&parent) {
                directory.sync_all().map_err(|error| failed(&parent, error))?;
            }
        }
        if !trouble.is_empty() {
            return Err(trouble.join("; "));
        }
    }
    match &intent.delivered {
        Some(text) => access::replace(config, text).map_err(|error| error.to_string().replace("users_file ", "")),
        None => Ok(()),
    }
}

/// A directory with something of somebody else's in it stays.
fn remove(path: &Path) -> io::Result<()> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    let removed = match (about.is_dir(), path.file_name().is_some_and(|name| name == "quarantine")) {
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        _ => fs::remove_file(path),
    };
    match removed {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => Ok(()),
        removed => removed,
    }
}

fn parents(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut parents: Vec<_> = paths.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
    parents.sort();
    parents.dedup();
    parents
}

/// The line of the audit trail: in the journal, wherever this was typed.
fn tell(outcome: &str, paths: usize) {
    let user = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    let fields =
        [("outcome", outcome.to_owned()), ("paths", paths.to_string()), ("uid", uid.to_string()), ("login_uid", user)];
    journal::audit("factory_reset", "factory reset", &fields);
}
