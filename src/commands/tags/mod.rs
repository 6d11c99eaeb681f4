//! `ironbridge tags export` and `ironbridge tags import`: tags as CSV for a spreadsheet or a script, and back into TOML.
//!
//! Both are offline and all or nothing: whatever is wrong is listed with row and column, and no file is touched. The work
//! is done in `config::exchange`; here are the arguments, the files (`file`) and what a person or a script is told.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::check::figures::counted;
use super::check::problems_json;
use super::{self as commands, Failed};
use crate::config::HostFacts;
use crate::config::exchange::{self, Changes, Decimal, Exported, From, Imported, Refused, Source};
use file::Overwrite;

mod file;

/// Arguments of `ironbridge tags`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Clone, Subcommand)]
enum Way {
    /// Write tags of a configuration as CSV
    ///
    /// With --device: a register map of that device, all its tags, those of its profile too; every key that a tag uses is
    /// a column, tables are flattened (write.min). A device takes it with profile = "FILE.csv", or import it again.
    /// Without --device: all devices, their own keys in columns that begin with device. and their profiles by name.
    Export(ExportArgs),
    /// Make TOML of a CSV file, or put its tags into a configuration
    ///
    /// A file as `tags export` or a spreadsheet writes it: comma, semicolon or tab, with or without byte order mark,
    /// # lines are comments and are kept. Everything wrong is listed with row, column and what would be right; nothing
    /// is written then. Without --config: a register map for profile = "FILE.toml", or [[device]]s for ironbridge.d/
    /// if the file has device. columns.
    Import(ImportArgs),
}

/// Arguments of `ironbridge tags export`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge tags export --config plant.toml --device pump-1 --output pump-1.csv\n  \
    ironbridge tags export --config plant.toml --output devices.csv\n  \
    ironbridge tags export --config plant.toml --device pump-1 --decimal-comma --output pump-1.csv\n\n\
    Addresses are in the device's address_style, numbers as they were written. Comments above a tag and at the head\n\
    are kept, comments behind a value are not. Exit codes: 0 written · 64 usage, or the file exists · 78 configuration")]
pub struct ExportArgs {
    /// The configuration; `ironbridge.d/*.toml` beside it is read too
    #[arg(long, value_name = "FILE", default_value = "/etc/ironbridge/ironbridge.toml")]
    config: PathBuf,
    /// The device; without it, all of them
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Write into this file; without it, to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// For a spreadsheet set to a country with decimal commas: 0,1, semicolons between cells, a byte order mark
    #[arg(long)]
    decimal_comma: bool,
    /// Print one JSON object: the CSV or the file it went into, or the list of problems
    #[arg(long)]
    json: bool,
}

/// Arguments of `ironbridge tags import`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge tags import pump.csv --output pump.toml            a register map: profile = \"pump.toml\"\n  \
    ironbridge tags import pump.csv --config plant.toml --device pump-1            shows what would change\n  \
    ironbridge tags import pump.csv --config plant.toml --device pump-1 --force    changes plant.toml\n  \
    ironbridge tags import devices.csv --output ironbridge.d/devices.toml          whole devices\n\n\
    Into a configuration: afterwards the device has exactly the tags of the file, in place of its own and of its profile;\n\
    everything else in the configuration stays as it is. Lists in a cell: a|b, maps: 0=off|1=on, a bar in a word: \\|.\n\
    Exit codes: 0 written · 64 usage, or --force is missing · 78 something in the file or the configuration is wrong")]
pub struct ImportArgs {
    /// The CSV file
    #[arg(value_name = "CSV")]
    csv: PathBuf,
    /// Write into this file; without it and without --config, to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Put the tags into this configuration, or into the file of its ironbridge.d where the device stands
    #[arg(long, value_name = "FILE", requires = "device")]
    config: Option<PathBuf>,
    /// The device that gets the tags
    #[arg(long, value_name = "NAME", requires = "config")]
    device: Option<String>,
    /// How the addresses of a register map count; in a configuration its device says so
    #[arg(long, value_name = "STYLE", value_parser = exchange::STYLES, conflicts_with = "config")]
    address_style: Option<String>,
    /// Numbers have a decimal comma, as spreadsheets of many countries save them
    #[arg(long)]
    decimal_comma: bool,
    /// Replace a file that exists, the configuration too
    #[arg(long)]
    force: bool,
    /// Print one JSON object: what was written, or the list of problems with row and column
    #[arg(long)]
    json: bool,
}

/// Carries out one of the two.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let (json, told) = match &args.way {
        Way::Export(args) => (args.json, export(args, facts)),
        Way::Import(args) => (args.json, import(args, facts)),
    };
    let (text, ended) = match told {
        Ok(told) => (if json { told.json.to_string() } else { told.text }, Ok(())),
        Err(Untold::Failed(failed)) => (if json { error_json(&failed) } else { String::new() }, Err(failed)),
        Err(Untold::Refused(refused)) => {
            let text = if json { refused_json(&refused).to_string() } else { String::new() };
            (text, Err(failed(refused, json)))
        }
    };
    if !text.is_empty() {
        let printed = commands::print(format!("{}\n", text.trim_end_matches('\n')));
        return ended.and(printed);
    }
    ended
}

/// What went well.
struct Told {
    text: String,
    json: Value,
}

/// What did not.
enum Untold {
    Refused(Refused),
    Failed(Failed),
}

impl std::convert::From<Refused> for Untold {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl std::convert::From<Failed> for Untold {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

const fn decimal(comma: bool) -> Decimal {
    if comma { Decimal::Comma } else { Decimal::Point }
}

const fn overwrite(force: bool) -> Overwrite {
    if force { Overwrite::Yes } else { Overwrite::No }
}

fn export(args: &ExportArgs, facts: &HostFacts) -> Result<Told, Untold> {
    let decimal = decimal(args.decimal_comma);
    let config = From::File(&args.config);
    let Exported { csv, tags, devices } = match &args.device {
        Some(device) => exchange::one_device(config, device, decimal, facts)?,
        None => exchange::all_devices(config, decimal, facts)?,
    };
    let Some(path) = &args.output else {
        let json = json!({ "ok": true, "tags": tags, "devices": devices, "csv": csv });
        return Ok(Told { text: csv, json });
    };
    file::write(path, &csv, overwrite(args.force))?;
    let text = format!("{} of {} in {}", counted(tags, "tag"), counted(devices, "device"), path.display());
    Ok(Told {
        text,
        json: json!({ "ok": true, "tags": tags, "devices": devices, "written": path.display().to_string() }),
    })
}

fn import(args: &ImportArgs, facts: &HostFacts) -> Result<Told, Untold> {
    Failed::look_for(&args.csv)?;
    let source = Source { path: &args.csv, decimal: decimal(args.decimal_comma) };
    let imported = match (&args.config, &args.device) {
        (Some(config), Some(device)) => exchange::into_config(source, config, device, facts)?,
        _ => {
            let beside = args.csv.with_extension("toml");
            let out = args.output.as_deref().unwrap_or(&beside);
            exchange::to_file(source, args.address_style.as_deref(), out, facts)?
        }
    };
    let Imported { path: config, toml, tags, changes } = &imported;
    let summary = changes.as_ref().map_or_else(|| counted(*tags, "tag"), |changes| summary(*tags, changes));
    let Some(path) = args.output.as_deref().or(config.as_deref()) else {
        return Ok(Told { text: toml.clone(), json: json!({ "ok": true, "tags": tags, "toml": toml }) });
    };
    if args.output.is_none() && !args.force {
        let message = format!("{summary}\n{} is not changed yet: --force does it", path.display());
        return Err(Failed::Usage(message).into());
    }
    file::write(path, toml, overwrite(args.force))?;
    let mut json = json!({ "ok": true, "tags": tags, "written": path.display().to_string() });
    if let Some(Changes { added, changed, moved, removed }) = changes {
        json["added"] = json!(added);
        json["changed"] = json!(changed);
        json["moved"] = json!(moved);
        json["removed"] = json!(removed);
    }
    Ok(Told { text: format!("{summary} in {}", path.display()), json })
}

fn summary(tags: usize, changes: &Changes) -> String {
    const SHOWN_MAX: usize = 8;
    let list = |what: &str, names: &[String]| match names.len() {
        0 => String::new(),
        1..=SHOWN_MAX => format!("\n  {what}: {}", names.join(", ")),
        more => format!("\n  {what}: {} and {} more", names[..SHOWN_MAX].join(", "), more - SHOWN_MAX),
    };
    let Changes { added, changed, moved, removed } = changes;
    if added.is_empty() && changed.is_empty() && removed.is_empty() {
        return format!("{}, none of them means anything else than before", counted(tags, "tag"));
    }
    let lists = [list("new", added), list("changed", changed), list("moved", moved), list("gone", removed)].concat();
    format!("{}{lists}\n", counted(tags, "tag"))
}

fn failed(refused: Refused, json: bool) -> Failed {
    match refused {
        Refused::Problems(problems) if json => Failed::Config(counted(problems.count(), "problem")),
        Refused::Problems(problems) => Failed::Config(format!("nothing is written\n{problems}")),
        Refused::Asked(message) | Refused::Shape(message) => Failed::Usage(message),
        Refused::Internal(message) => Failed::Internal(format!("{message}; nothing is written")),
    }
}

fn error_json(failed: &Failed) -> String {
    json!({ "ok": false, "error": failed.to_string() }).to_string()
}

/// The list of `check --json`, with row and column of the table where a problem is in one.
fn refused_json(refused: &Refused) -> Value {
    let Refused::Problems(problems) = refused else {
        return json!({ "ok": false, "error": refused.to_string() });
    };
    let mut report = problems_json(problems);
    for problem in report["problems"].as_array_mut().into_iter().flatten() {
        let path = problem["path"].as_str().unwrap_or_default().to_owned();
        let (row, key) = path.split_once(", column ").map_or((path.as_str(), None), |(row, key)| (row, Some(key)));
        if let Some(row) = row.strip_prefix("row ").and_then(|row| row.parse::<u32>().ok()) {
            problem["row"] = json!(row);
            problem["key"] = json!(key);
        }
    }
    report
}
