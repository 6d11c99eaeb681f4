//! Where a receiver puts what comes, and what databases say afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::disk::fault::Fault;
use crate::disk::received::{self, Received};
use crate::host::terminal::say;
use crate::model::lock::Hold as _;
use crate::receive::consumer::{Account, Consumer, Target};
use crate::receive::ledger::{Begin, Ledger};
use crate::receive::output::{Form, Header, Output};
use crate::receive::resume;

use super::{ReceiveArgs, begin, extension, shown};
use crate::commands::Failed;

/// What is said at the end. A receiver of a group knows only its part; the database they share knows all.
pub(super) fn final_account(
    args: &ReceiveArgs,
    consumer: &Mutex<Consumer>,
    now_ms: Option<i64>,
) -> Result<Account, Failed> {
    match args.sqlite_file() {
        Some(path) if args.share.is_some() => look(std::slice::from_ref(&path.to_owned()), begin(args), now_ms),
        _ => Ok(consumer.hold().account(now_ms)),
    }
}

/// `--report`: what several receivers have written, taken together.
pub(super) fn report(args: &ReceiveArgs, now_ms: Option<i64>) -> Result<(), Failed> {
    let account = look(&args.report, begin(args), now_ms)?;
    shown::show_final(&account, args);
    if account.is_complete() { Ok(()) } else { Err(Failed::Verdict) }
}

fn look(files: &[PathBuf], begin: Begin, now_ms: Option<i64>) -> Result<Account, Failed> {
    let mut all = Consumer::new(Ledger::new(begin), Target::Nothing);
    for path in files {
        if !path.exists() {
            return Err(Failed::Usage(format!("{}: there is no such file", path.display())));
        }
        let read = received::look(path).and_then(|database| all.go_on(&database));
        read.map_err(|fault| unusable(path, &fault))?;
    }
    Ok(all.account(now_ms))
}

fn unusable(path: &Path, fault: &Fault) -> Failed {
    let text = format!("{}: {fault}", path.display());
    if fault.is_damage() { Failed::Usage(text) } else { Failed::TryAgain(text) }
}

/// The consumer that the arguments ask for, with what its database knows already.
pub(super) fn consumer(args: &ReceiveArgs) -> Result<Consumer, Failed> {
    let ledger = Ledger::new(begin(args));
    let Some(path) = args.sqlite_file() else {
        return Ok(Consumer::new(ledger, open_output(args)?.map_or(Target::Nothing, Target::Lines)));
    };
    let database = Received::open(path).map_err(|fault| unusable(path, &fault))?;
    let mut consumer = Consumer::new(ledger, Target::Database(database));
    if args.share.is_none() {
        let seeded = received::look(path).and_then(|kept| consumer.go_on(&kept));
        seeded.map_err(|fault| unusable(path, &fault))?;
    }
    if args.client_id.is_none() {
        say("without --client-id the broker keeps nothing while this receiver is away");
    }
    Ok(consumer)
}

/// What lines go into: a plain file, which may have to be mended, also for reading. Of a pipe we would be the reader ourselves
/// then, and what nobody takes would be acknowledged; one without a reader is an error at once, as nothing could end the wait.
fn open(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path).ok().map(|about| about.file_type());
    if kind.is_none_or(|kind| kind.is_file()) {
        return OpenOptions::new().create(true).read(true).append(true).open(path);
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().append(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::new(error.kind(), "nobody reads this pipe: start its reader first"),
        _ => error,
    })?;
    fcntl_setfl(&file, OFlags::APPEND)?; // from here on it waits for a reader that is slow
    Ok(file)
}

pub(super) fn open_output(args: &ReceiveArgs) -> Result<Option<Output>, Failed> {
    let cannot = |error: io::Error| Failed::TryAgain(format!("cannot write: {error}"));
    if args.quiet {
        return Ok(None);
    }
    let (path, form) = match (&args.csv, &args.ndjson, &args.out) {
        (Some(path), _, _) => (path, Form::Csv),
        (_, Some(path), _) => (path, Form::Ndjson),
        (_, _, Some(path)) => match extension(path) {
            Some("csv") => (path, Form::Csv),
            Some("ndjson" | "jsonl" | "json") => (path, Form::Ndjson),
            _ => {
                let text = format!("--out {}: expected a .csv, .ndjson or .sqlite file", path.display());
                return Err(Failed::Usage(text));
            }
        },
        (None, None, None) => {
            let form = if args.json { Form::Ndjson } else { Form::Text };
            let output = Output::new(form, Box::new(BufWriter::new(io::stdout())), Header::Write);
            return output.map(Some).map_err(cannot);
        }
    };
    let cannot_open = |error: io::Error| Failed::TryAgain(format!("{}: {error}", path.display()));
    let mut file = open(path).map_err(cannot_open)?;
    if form == Form::Csv && !resume::has_our_columns(&mut file).map_err(cannot_open)? {
        let text = format!(
            "{}: this file does not begin with the columns of a receiver, so nothing is added to it",
            path.display()
        );
        return Err(Failed::Usage(text));
    }
    let cut = resume::mend(&mut file, form).map_err(cannot_open)?;
    if cut > 0 {
        say(format_args!("{}: half a record at its end was cut off ({cut} bytes); it comes again", path.display()));
    }
    let header = if file.metadata().map_err(cannot_open)?.len() == 0 { Header::Write } else { Header::Skip };
    Output::new(form, Box::new(BufWriter::new(file)), header).map(Some).map_err(cannot)
}
