//! `ironbridge receive URL`: the reference consumer. Writes what comes, each record once, and reports what did not.
//!
//! A thread of its own writes and keeps the ledger, because files block; a message is acknowledged after its line was
//! handed to the system. Exit 0; 1 with `--expect-complete` when something is missing or nothing came; 75 when there
//! never was a connection.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::model::topic::check_filter;
use crate::receive::client::{Client, ClientParts, DELIVERIES_MAX, Delivery, Happened, Kept};
use crate::receive::decode::{Received, decode};
use crate::receive::ledger::{Begin, Ledger, Noted, Report};
use crate::receive::output::{Form, Header, Output};
use crate::road::Now;
use crate::road::destination::{Destination, TlsFiles};
use crate::road::login::LoginFiles;

use super::Failed;

/// Deliveries that are written before they are flushed and acknowledged together.
const FLUSH_EVERY: usize = 128;
/// How often the report is renewed on a terminal, and in a pipe.
const REPORT_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Reference consumer: take what a broker has, each record once, and report what is missing
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what bools are for
pub struct ReceiveArgs {
    /// Broker: mqtt://host, mqtts://host, ws://host/path or wss://host/path, with :PORT where it is not 1883, 8883, 80 or 443
    pub url: String,
    /// Trusted CAs (PEM); needed for mqtts:// and wss://
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// User name
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with the password
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// MQTT client id; with one, the broker keeps the session while the receiver is away
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// Topic filter to subscribe to; may be repeated
    #[arg(long = "topic", value_name = "FILTER", default_value = "#")]
    pub topics: Vec<String>,
    /// Format of the payloads: auto or json
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: String,
    /// Write to FILE (.csv, .ndjson) instead of standard output; an existing file is continued
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write no records, only report
    #[arg(long, conflicts_with = "out")]
    pub quiet: bool,
    /// End after this long, such as 60s
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    pub limit: Option<Duration>,
    /// The receiver is there before the gateway: expect every stream from its number 1
    #[arg(long)]
    pub from_start: bool,
    /// Exit with 1 when numbers are missing, or when nothing came at all
    #[arg(long)]
    pub expect_complete: bool,
    /// Records and the final report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs it until `stop`, `--for`, or an error that retrying does not mend.
pub async fn run(args: ReceiveArgs, clock: Clock, stop: Stop) -> Result<(), Failed> {
    let parts = parts(&args, clock)?;
    let output = open_output(&args)?;
    let begin = if args.from_start { Begin::One } else { Begin::FirstSeen };
    let ledger = Arc::new(Mutex::new(Ledger::new(begin)));
    let (into, happened) = mpsc::channel(DELIVERIES_MAX);
    let (to_writer, deliveries) = mpsc::channel(DELIVERIES_MAX);
    let books = Arc::clone(&ledger);
    let writer = tokio::task::spawn_blocking(move || write(deliveries, &books, output));
    let inner = stop.child();
    let client = tokio::spawn(Client::new(parts).run(into, inner.clone()));
    let connected = watch(happened, to_writer, &ledger, (&args, &inner)).await;
    inner.begin();
    let ended = client.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let written = writer.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let report = ledger.lock().unwrap_or_else(PoisonError::into_inner).report();
    if connected.is_ok() {
        show_final(&report, &args);
    }
    written.map_err(|error| Failed::TryAgain(format!("cannot write: {error}")))?;
    ended.map_err(|error| Failed::TryAgain(error.to_string()))?;
    connected?;
    let complete = report.is_complete() && report.received > 0;
    if args.expect_complete && !complete { Err(Failed::Verdict) } else { Ok(()) }
}

fn parts(args: &ReceiveArgs, clock: Clock) -> Result<ClientParts, Failed> {
    if !["auto", "json"].contains(&args.format.as_str()) {
        return Err(Failed::not_in_this_version(&format!("--format {}", args.format)));
    }
    for filter in &args.topics {
        check_filter(filter).map_err(|error| Failed::Usage(format!("--topic {filter}: {error}")))?;
    }
    let tls = args
        .ca_file
        .clone()
        .map(|ca_file| TlsFiles { ca_file, identity: args.certificate.clone().zip(args.key.clone()) });
    Ok(ClientParts {
        to: Destination::from_url(&args.url, tls).map_err(|error| Failed::Usage(error.to_string()))?,
        login: LoginFiles { username: args.username.clone(), password_file: args.password_file.clone() },
        kept: if args.client_id.is_some() { Kept::Yes } else { Kept::No },
        client_id: args
            .client_id
            .clone()
            .unwrap_or_else(|| format!("ironbridge-receive-{:08x}", rand::random::<u32>())),
        filters: args.topics.clone(),
        run_dir: std::env::temp_dir(),
        now: Now::new(move || clock.wall_now()),
    })
}

fn open_output(args: &ReceiveArgs) -> Result<Option<Output>, Failed> {
    let cannot = |error: io::Error| Failed::TryAgain(format!("cannot write: {error}"));
    if args.quiet {
        return Ok(None);
    }
    let Some(path) = &args.out else {
        let form = if args.json { Form::Ndjson } else { Form::Text };
        return Output::new(form, Box::new(BufWriter::new(io::stdout())), Header::Write).map(Some).map_err(cannot);
    };
    let form = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => Form::Csv,
        Some("ndjson" | "jsonl" | "json") => Form::Ndjson,
        Some("db" | "sqlite" | "sqlite3") => return Err(Failed::not_in_this_version("writing SQLite")),
        _ => return Err(Failed::Usage(format!("--out {}: expected a .csv or .ndjson file", path.display()))),
    };
    let cannot_open = |error: io::Error| Failed::TryAgain(format!("--out {}: {error}", path.display()));
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(cannot_open)?;
    let header = if file.metadata().map_err(cannot_open)?.len() == 0 { Header::Write } else { Header::Skip };
    Output::new(form, Box::new(BufWriter::new(file)), header).map(Some).map_err(cannot)
}

/// The writer's thread: decode, keep the books, write, flush, acknowledge.
fn write(mut from: mpsc::Receiver<Delivery>, ledger: &Mutex<Ledger>, mut output: Option<Output>) -> io::Result<()> {
    let mut written = Vec::with_capacity(FLUSH_EVERY);
    while let Some(first) = from.blocking_recv() {
        let mut next = Some(first);
        while let Some(delivery) = next {
            note(&delivery, ledger, output.as_mut())?;
            written.push(delivery);
            next = if written.len() < FLUSH_EVERY { from.try_recv().ok() } else { None };
        }
        if let Some(output) = &mut output {
            output.flush()?;
        }
        written.drain(..).for_each(Delivery::acknowledge);
    }
    Ok(())
}

fn note(delivery: &Delivery, ledger: &Mutex<Ledger>, output: Option<&mut Output>) -> io::Result<()> {
    let received = decode(delivery.topic(), delivery.payload());
    let mut books = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let body = match received {
        Received::Numbered(numbered) => match books.note(numbered.number, numbered.previous) {
            Noted::New => numbered.body,
            Noted::Duplicate => return Ok(()),
        },
        Received::Gap { stream, epoch, first, last, body } => {
            books.note_gap(stream, epoch, first, last);
            body
        }
        Received::Status(newest) => {
            for (stream, epoch, seq) in newest {
                books.note_newest(stream, epoch, seq);
            }
            return Ok(());
        }
        Received::Other => return Ok(()),
    };
    drop(books);
    output.map_or(Ok(()), |output| output.write(delivery.topic(), &body))
}

/// Passes messages on and tells the person; ends with the client, the writer, `--for` or the stop. Err: never connected.
async fn watch(
    mut happened: mpsc::Receiver<Happened>,
    to_writer: mpsc::Sender<Delivery>,
    ledger: &Mutex<Ledger>,
    (args, stop): (&ReceiveArgs, &Stop),
) -> Result<(), Failed> {
    let every = if io::stderr().is_terminal() { REPORT_EVERY.0 } else { REPORT_EVERY.1 };
    let mut reports = interval_at(Instant::now() + every, every);
    reports.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let limit = sleep(args.limit.unwrap_or(Duration::from_secs(u64::from(u32::MAX))));
    tokio::pin!(limit);
    let (mut connected, mut last_error, mut told) = (false, String::from("no answer yet"), None);
    loop {
        tokio::select! {
            () = &mut limit => break,
            () = stop.begun() => break,
            _ = reports.tick() => {
                let report = ledger.lock().unwrap_or_else(PoisonError::into_inner).report();
                if told.as_ref() != Some(&report) {
                    eprintln!("{}", line(&report));
                    told = Some(report);
                }
            }
            next = happened.recv() => match next {
                None => break,
                Some(Happened::Connected) => {
                    connected = true;
                    eprintln!("connected to {}", args.url);
                }
                Some(Happened::Lost(error)) => {
                    if error != last_error {
                        eprintln!("not connected to {}: {error}", args.url);
                    }
                    last_error = error;
                }
                Some(Happened::Message(delivery)) => {
                    if to_writer.send(delivery).await.is_err() {
                        break; // the writer ended; its error is shown by the caller
                    }
                }
            },
        }
    }
    if connected { Ok(()) } else { Err(Failed::TryAgain(format!("never connected to {}: {last_error}", args.url))) }
}

fn line(report: &Report) -> String {
    format!(
        "received {}  duplicates {}  out of order {}  declared lost {}  missing {}  outstanding {}",
        report.received,
        report.duplicates,
        report.out_of_order,
        report.declared_lost,
        report.missing,
        report.outstanding
    )
}

fn show_final(report: &Report, args: &ReceiveArgs) {
    if args.json {
        let text = serde_json::json!({ "report": report }).to_string();
        drop(writeln!(io::stdout(), "{text}")); // a closed pipe has nobody to tell
        return;
    }
    for stream in &report.streams {
        let holes: Vec<String> = stream.holes.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let missing = if holes.is_empty() { String::new() } else { format!("  ({})", holes.join(", ")) };
        eprintln!(
            "{} epoch {}: received {}, duplicates {}, declared lost {}, missing {}{missing}",
            stream.stream, stream.epoch, stream.received, stream.duplicates, stream.declared_lost, stream.missing
        );
    }
    eprintln!("{}", line(report));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        use crate::commands::duration;
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("5").is_err() && duration("-5s").is_err());
    }
}
