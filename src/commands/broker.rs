//! `ironbridge broker import mosquitto.conf`: what a mosquitto is configured to do, as a configuration of ours.
//!
//! Nothing is carried over silently wider than it was: what has no counterpart here is left out and named, with its line
//! and what it means for the plant. Every other line that is not carried over is named, too. What is printed passes
//! `ironbridge check`: it is checked before it is printed.
//!
//! `conf` reads mosquitto.conf · `acl` its acl_file, and what a deny rule does to it · `bridge` its
//! connections · `page` writes ours.

mod acl;
mod bridge;
mod conf;
mod page;

use std::path::{Path, PathBuf};

use super::{self as commands, Failed, host_facts};
use crate::host::terminal::say;
use crate::{access, config};
use conf::Mosquitto;

/// Arguments of `ironbridge broker`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Print the [broker] part of a configuration that does what this mosquitto.conf does
    ///
    /// Listeners, TLS, users, rules, limits, bridges. What is not carried over is named, line by line, in comments and on stderr.
    /// Exit codes: 0 written · 64 a file that cannot be read, or one to be written that exists · 75 the disk fails · 78 a line that mosquitto does not take, either
    Import(Import),
}

#[derive(Debug, Clone, clap::Args)]
struct Import {
    /// The file; include_dir in it is followed
    #[arg(value_name = "MOSQUITTO.CONF")]
    conf: PathBuf,
    /// Write broker.toml and a copy of the users there, instead of printing
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Replace these two files in DIR if they exist, with the logins in them
    #[arg(long, requires = "out_dir")]
    force: bool,
}

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    /// File and line.
    place: String,
    text: String,
    weight: Weight,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Somebody can do less than before, or it must be done otherwise.
    Loud,
    /// It has no meaning here.
    Quiet,
}

/// What is said while reading.
#[derive(Debug, Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn add(&mut self, weight: Weight, place: &str, text: impl Into<String>) {
        self.0.push(Note { place: place.to_owned(), text: text.into(), weight });
    }
}

/// Carries it over.
pub fn run(args: &Args) -> Result<(), Failed> {
    let Command::Import(import) = &args.command;
    let mut notes = Notes::default();
    let mosquitto = conf::read(&import.conf, &mut notes)?;
    let (users, users_text) = users(&mosquitto, import.out_dir.as_deref(), &mut notes)?;
    let rules = acl::translate(&mosquitto, &users, &mut notes)?;
    let page = page::write(&import.conf, &mosquitto, (&users, &rules), &mut notes);
    let directory = import.out_dir.clone().unwrap_or_else(|| PathBuf::from("."));
    if let Err(problems) = config::parse(&page, &directory.join("broker.toml"), &host_facts()) {
        return Err(Failed::Internal(format!("what came out is no configuration of ours:\n{problems}")));
    }
    match &import.out_dir {
        None => commands::print(page)?,
        Some(directory) => put(import, directory, &page, users_text.as_deref())?,
    }
    let loud = notes.0.iter().filter(|note| note.weight == Weight::Loud);
    for note in loud {
        say(format_args!("{}: {}", note.place, note.text));
    }
    Ok(())
}

/// Writes the files; neither of them over one that is there, unless that is wanted.
fn put(import: &Import, directory: &Path, page: &str, users: Option<&str>) -> Result<(), Failed> {
    let broken = |path: &Path, error: &dyn std::fmt::Display| Failed::TryAgain(format!("{}: {error}", path.display()));
    let (path, users_path) = (directory.join("broker.toml"), directory.join("users"));
    let mut wanted = std::iter::once(&path).chain(users.map(|_| &users_path));
    if let Some(there) = wanted.find(|wanted| !import.force && wanted.symlink_metadata().is_ok()) {
        let text = format!("{} exists: name another directory, or --force replaces it", there.display());
        return Err(Failed::Usage(text));
    }
    std::fs::create_dir_all(directory).map_err(|error| broken(directory, &error))?;
    std::fs::write(&path, page).map_err(|error| broken(&path, &error))?;
    if let Some(users) = users {
        access::replace(&users_path, users).map_err(|error| Failed::TryAgain(error.to_string()))?;
    }
    say(format_args!("{} written; take its tables into ironbridge.toml, or put it into ironbridge.d", path.display()));
    Ok(())
}

/// Who can log in.
#[derive(Debug, Default)]
struct Users {
    /// What `users_file` will be.
    path: Option<String>,
    names: Vec<String>,
}

/// The names in the password file, and its lines that can be used, for the copy.
fn users(mosquitto: &Mosquitto, out_dir: Option<&Path>, notes: &mut Notes) -> Result<(Users, Option<String>), Failed> {
    let Some((file, place)) = &mosquitto.password_file else { return Ok((Users::default(), None)) };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failed::unread(format_args!("{place}: password_file {}", file.display()), &error))?;
    let (mut names, mut copy) = (Vec::new(), String::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let place = format!("{}:{number}", file.display());
        let Some((name, kept)) = line.split_once(':') else {
            notes.add(Weight::Loud, &place, "has no colon between name and password: this user cannot log in");
            continue;
        };
        let wrong = access::check_name(name).map_err(|why| format!("the name {why}"));
        let wrong =
            wrong.and_then(|()| access::check_hash(kept.trim_end()).map_err(|bad| format!("the password {bad}")));
        match wrong {
            Err(why) => notes.add(Weight::Loud, &place, format!("user {name:?} cannot log in: {why}")),
            Ok(()) if names.iter().any(|known| known == name) => {
                notes.add(Weight::Loud, &place, format!("user {name:?} is there a second time; the first one counts"));
            }
            Ok(()) => {
                names.push(name.to_owned());
                copy.extend([name, ":", kept.trim_end(), "\n"]);
            }
        }
    }
    if out_dir.is_some() {
        return Ok((Users { path: Some("users".to_owned()), names }, Some(copy)));
    }
    if let Err(bad @ access::BadFile::Open(..)) = access::read(file) {
        notes.add(Weight::Loud, place, bad.to_string());
    }
    Ok((Users { path: Some(page::absolute(file)), names }, None))
}
