//! `ironbridge man`: the manual, made from the command line and from the reference configuration.
//!
//! Prints the page ironbridge(1). With `--dir` it writes ironbridge(1), one page for each subcommand
//! (`ironbridge-store-status.1`) and ironbridge.toml(5) (`reference`) into that directory, as packages install them. The same program
//! always writes the same bytes: no date, nothing of the machine.

pub mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use super::Failed;

/// The page of the configuration file.
const REFERENCE_PAGE: &str = "ironbridge.toml.5";

/// Arguments of `ironbridge man`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Write all pages into this directory: ironbridge.1, one for each subcommand, ironbridge.toml.5
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints the main page of `command`, the whole command line, or writes all pages.
pub fn run(args: &Args, command: clap::Command) -> Result<(), Failed> {
    let pages = pages(command);
    let Some(dir) = &args.dir else {
        return super::print(pages.first().map_or(&[][..], |(_, text)| text));
    };
    write(dir, &pages).map_err(|(path, error)| Failed::TryAgain(format!("cannot write {}: {error}", path.display())))
}

fn write(dir: &Path, pages: &[(String, Vec<u8>)]) -> Result<(), (PathBuf, std::io::Error)> {
    fs::create_dir_all(dir).map_err(|error| (dir.to_owned(), error))?;
    for (name, text) in pages {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| (path, error))?;
    }
    Ok(())
}

/// File name and text of every page; the first is ironbridge(1).
pub fn pages(command: clap::Command) -> Vec<(String, Vec<u8>)> {
    let mut command = command.disable_help_subcommand(true);
    command.build(); // gives subcommands their names as pages: ironbridge-store-status
    let mut pages = Vec::new();
    collect(command, &mut pages);
    pages.push((REFERENCE_PAGE.to_owned(), reference::page().into_bytes()));
    pages
}

fn collect(command: clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let children: Vec<_> = command.get_subcommands().filter(|child| !child.is_hide_set()).cloned().collect();
    let page = Man::new(command).manual("Ironbridge");
    let mut text = Vec::new();
    if page.render(&mut text).is_ok() {
        pages.push((page.get_filename(), text)); // writing into memory does not fail
    }
    for child in children {
        collect(child, pages);
    }
}
