//! `ironbridge store export`: a range of a store as CSV, NDJSON or Parquet.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::moment::{Moment, moment};
use super::{Where, failed};
use crate::commands::{self, Failed};
use crate::host::clock::RELEASE_MS;
use crate::host::terminal::say;
use crate::model::number::Class;
use crate::store::export::{Export, ExportError, Form, Glob, Selection, Sheet, Summary};

/// `ironbridge store export`
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// Taken at or after: 2026-11-20T20:00:00Z, 2026-11-20, or -1h (an hour ago)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment)]
    from: Option<Moment>,
    /// Taken before
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment)]
    to: Option<Moment>,
    /// Only this class (alarm, event, telemetry, bulk); may be repeated
    #[arg(long, value_name = "CLASS", value_parser = super::class)]
    class: Vec<Class>,
    /// Only tags whose name, device/name or topic is like this: * any characters, ? one
    #[arg(long, value_name = "GLOB")]
    tag: Option<String>,
    /// From this number on; numbers count per class and epoch
    #[arg(long, value_name = "SEQ", requires = "class")]
    from_seq: Option<u64>,
    /// Up to this number
    #[arg(long, value_name = "SEQ", requires = "class")]
    to_seq: Option<u64>,
    /// Only this epoch
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
    /// csv, ndjson or parquet; without it what the name of FILE ends in, else csv
    #[arg(long, value_name = "FORMAT")]
    format: Option<FormName>,
    /// Write to FILE, which is there when it is whole (a pipe or a device is written to); without it to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormName {
    Csv,
    Ndjson,
    Parquet,
}

/// Exports; what it came to is said on standard error.
pub(super) fn run(dir: &Path, args: &ExportArgs) -> Result<(), Failed> {
    let selection = selection(args)?;
    let form = form(args)?;
    let export = Export::open(dir, RELEASE_MS).map_err(|error| failed(&error))?;
    let summary = match &args.out {
        None => to_stream(export, &selection, form, Box::new(io::stdout()))?,
        Some(path) => to_file(export, &selection, form, path)?,
    };
    let Some(summary) = summary else { return Ok(()) };
    if args.place.json {
        let told = format!(r#"{{"records":{},"unreadable":{}}}"#, summary.records, summary.unreadable);
        if args.out.is_some() {
            commands::tell(&told);
        } else {
            say(&told); // the records have standard output
        }
    } else {
        say(format_args!("{} records", summary.records));
        if summary.unreadable > 0 {
            say(format_args!("{} numbers could not be read: see `ironbridge store verify`", summary.unreadable));
        }
    }
    Ok(())
}

fn selection(args: &ExportArgs) -> Result<Selection, Failed> {
    let at = |moment: Option<Moment>| moment.map(Moment::unix_ms).transpose().map_err(Failed::Usage);
    let (from_ms, to_ms) = (at(args.from)?, at(args.to)?);
    if from_ms.zip(to_ms).is_some_and(|(from, to)| from >= to) {
        return Err(Failed::Usage("--from is not before --to".into()));
    }
    let numbers = args.from_seq.unwrap_or(1)..=args.to_seq.unwrap_or(u64::MAX);
    if numbers.is_empty() {
        return Err(Failed::Usage("--from-seq is above --to-seq".into()));
    }
    let classes = if args.class.is_empty() { Class::ALL.to_vec() } else { args.class.clone() };
    Ok(Selection { classes, from_ms, to_ms, numbers, epoch: args.epoch, tag: args.tag.as_deref().map(Glob::new) })
}

fn form(args: &ExportArgs) -> Result<Form, Failed> {
    let by_name = |name: &str| match name {
        "csv" => Some(Form::Csv),
        "ndjson" | "jsonl" | "json" => Some(Form::Ndjson),
        "parquet" => Some(Form::Parquet),
        _ => None,
    };
    let extension = args.out.as_deref().and_then(Path::extension).and_then(|extension| extension.to_str());
    match (args.format, extension) {
        (Some(FormName::Csv), _) => Ok(Form::Csv),
        (Some(FormName::Ndjson), _) => Ok(Form::Ndjson),
        (Some(FormName::Parquet), None) if args.out.is_none() && io::stdout().is_terminal() => {
            Err(Failed::Usage("Parquet is not for a terminal: give --out FILE".into()))
        }
        (Some(FormName::Parquet), _) => Ok(Form::Parquet),
        (None, None) => Ok(Form::Csv),
        (None, Some(extension)) => by_name(extension)
            .ok_or_else(|| Failed::Usage(format!("*.{extension}: say --format csv, ndjson or parquet"))),
    }
}

/// `None`: whoever read it has heard enough.
fn to_stream(
    export: Export,
    selection: &Selection,
    form: Form,
    into: Box<dyn Write + Send>,
) -> Result<Option<Summary>, Failed> {
    match write(export, selection, form, into) {
        Ok(summary) => Ok(Some(summary)),
        Err(ExportError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Err(error) => Err(explain(error)),
    }
}

/// Under another name until it is whole. What is no file (a pipe, a device) is written to and never replaced; a link stays one.
fn to_file(export: Export, selection: &Selection, form: Form, path: &Path) -> Result<Option<Summary>, Failed> {
    let cannot = |error: io::Error| Failed::TryAgain(format!("--out {}: {error}", path.display()));
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        let into = File::options().write(true).open(path).map_err(cannot)?;
        return to_stream(export, selection, form, Box::new(into));
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut draft = target.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let file = File::create(&draft).map_err(cannot)?;
    let written = file.try_clone().map_err(cannot).and_then(|into| {
        let summary = write(export, selection, form, Box::new(into)).map_err(explain)?;
        file.sync_all().and_then(|()| fs::rename(&draft, &target)).map_err(cannot)?;
        Ok(summary)
    });
    if written.is_err() {
        drop(fs::remove_file(&draft)); // half a file helps nobody
    }
    written.map(Some)
}

fn write(
    export: Export,
    selection: &Selection,
    form: Form,
    into: Box<dyn Write + Send>,
) -> Result<Summary, ExportError> {
    let bar = ProgressBar::new(0);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {eta}") {
        bar.set_style(style);
    }
    let mut sheet = Sheet::new(form, into)?;
    let summary = export.write(selection, &mut sheet, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let summary = summary?;
    sheet.finish()?;
    Ok(summary)
}

fn explain(error: ExportError) -> Failed {
    match error {
        ExportError::Store(error) => failed(&error),
        ExportError::Output(_) => Failed::TryAgain(error.to_string()),
    }
}
