//! `ironbridge receive URL`: the reference consumer. Writes what comes, each record once, and reports what did not.
//!
//! `target` where it goes, `shown` what is said of it, `sparkplug` as a host hears edge nodes. A thread of its own
//! writes and keeps the books, because files block; a message is acknowledged after its record was handed to the
//! system, or its transaction was committed. Exit 0; 1 with `--expect-complete` when something is missing or nothing
//! came, and with `--report` when something is missing; 75 when there never was a connection, and when what it writes into is
//! full, away or forbidden; 64 for a file that nothing may be added to, as it is damaged or somebody else's.

mod shown;
mod sparkplug;
mod target;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::config::plan::MqttVersion;
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::host::terminal::say;
use crate::model::lock::Hold as _;
use crate::model::time::Certainty;
use crate::model::topic::{check_filter, split_share};
use crate::receive::client::{Client, ClientParts, Delivery, Happened, Kept};
use crate::receive::consumer::{Arrival, Consumer, TakeError};
use crate::receive::ledger::Begin;
use crate::road::Now;
use crate::road::destination::{Destination, TlsFiles};
use crate::road::login::LoginFiles;

use super::Failed;

/// Messages of one window: written, and then acknowledged, together.
const WINDOW: usize = 512;
/// Messages between the connection and us.
const ARRIVING_MAX: usize = 32;
/// Bytes of messages that wait to be written, KiB.
const WAITING_KIB: u32 = 64 * 1024;
/// How often the report is renewed on a terminal, and in a pipe.
const REPORT_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// `--format`
const SPARKPLUG: &str = "sparkplug";

/// What `--help` says after the options.
const MORE: &str = "Every format is known by itself: json (layouts tag and device, arrays, compressed) and batch.

SQLite: tables sample (epoch_id, seq, topic_id, time in ms since 1970, value, quality 0 good 1 uncertain 2 bad, cause),
event (… body as JSON), gap (epoch_id, first, last, reason, body), epoch (id, gateway, stream, epoch, previous_epoch,
previous_seq, newest, duplicates), topic (id, topic); the views samples, events and gaps have it in words. One transaction
per window of messages, which is acknowledged to the broker after the commit.

CSV and NDJSON: a file that is continued may hold lines twice after a kill (key: stream, epoch, seq). Cells are exact, also where a
spreadsheet would take a text for a formula. Either may be a pipe that somebody reads already (else exit code 75). When its reader goes
away the receiver ends with 75, too: what it had not written comes again; what lay unread in the pipe, 64 KiB at most, is lost.

With --format sparkplug it hears edge nodes of any make, on spBv1.0/#: a line per value, with `historical` and `birth` where it
is that. Values have no numbers there; what `seq` shows to be missing is counted, and births are asked for (the broker must let
us publish NCMD). A value may come twice: topic and time are its key. What was sent while nobody listened comes later, as
historical, from edge nodes that name our --host-id as their primary host, and from no others. Not into --sqlite, not with --share.

With --share a receiver sees only its part of the numbers and cannot say what is missing: let all of a group write one
--sqlite FILE (or each its own), and ask with --report FILE…

Exit codes: 0 ended as told · 1 --expect-complete or --report, and something is missing · 64 usage, or a file that nothing can be
added to: a damaged database, a CSV with other columns · 75 never connected or turned away, or what it writes into is full, cannot be
written or has lost its reader";

/// Reference consumer: take what a broker has, each record once, and report what is missing
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what bools are for
pub struct ReceiveArgs {
    /// Broker: mqtt://host, mqtts://host, ws://host/path, wss://host/path or quic://host, with :PORT where it is not 1883, 8883, 80, 443 or 14567
    #[arg(required_unless_present = "report")]
    pub url: Option<String>,
    /// Trusted CAs (PEM); needed for mqtts://, wss:// and quic://
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
    /// With --client-id: how long an MQTT 5 broker keeps the session for us (3.1.1: as long as the broker likes)
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "7d")]
    pub session_expiry: Duration,
    /// MQTT version: auto (5, and 3.1.1 where the broker does not know 5), 5 or 3.1.1
    #[arg(long, value_name = "VERSION", default_value = "auto")]
    pub mqtt_version: VersionName,
    /// Divide the messages with the other receivers of this group ($share/GROUP/…); each needs its own --client-id
    #[arg(long, value_name = "GROUP")]
    pub share: Option<String>,
    /// Topic filter to subscribe to; may be repeated
    #[arg(long = "topic", value_name = "FILTER", default_value = "#")]
    pub topics: Vec<String>,
    /// Format of the payloads: auto (json and batch, each known by its first bytes), or sparkplug
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: String,
    /// With --format sparkplug: be this host application, whose state edge nodes may wait for (their `primary_host`)
    #[arg(long, value_name = "ID")]
    pub host_id: Option<String>,
    /// Write into this SQLite database, each record once, whoever else writes it too
    #[arg(long, value_name = "FILE", group = "target")]
    pub sqlite: Option<PathBuf>,
    /// Write to this CSV file; an existing one is continued
    #[arg(long, value_name = "FILE", group = "target")]
    pub csv: Option<PathBuf>,
    /// Write to this file, a JSON object per line; an existing one is continued
    #[arg(long, value_name = "FILE", group = "target")]
    pub ndjson: Option<PathBuf>,
    /// The same, told by the name: .csv, .ndjson, .sqlite or .db
    #[arg(long, value_name = "FILE", group = "target")]
    pub out: Option<PathBuf>,
    /// Write no records, only report
    #[arg(long, group = "target")]
    pub quiet: bool,
    /// Receive nothing: report about databases that receivers have written, together; exit code 1 when something is
    /// missing
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["url", "target", "share"])]
    pub report: Vec<PathBuf>,
    /// End after this long, such as 60s
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    pub limit: Option<Duration>,
    /// The receiver is there before the gateway: expect every stream from its number 1
    #[arg(long)]
    pub from_start: bool,
    /// Exit with 1 when numbers are missing, or when nothing came at all
    #[arg(long)]
    pub expect_complete: bool,
    /// Print records and the final report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `--mqtt-version`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VersionName {
    /// Found out.
    Auto,
    /// 3.1.1
    #[value(name = "3.1.1")]
    V311,
    /// 5
    #[value(name = "5")]
    V5,
}

/// Runs it until `stop`, `--for`, or an error that retrying does not mend.
pub async fn run(args: ReceiveArgs, clock: Clock, stop: Stop) -> Result<(), Failed> {
    if !args.report.is_empty() {
        let now_ms = now_ms(&clock);
        let looked = tokio::task::spawn_blocking(move || target::report(&args, now_ms)).await;
        return looked.map_err(|error| Failed::Internal(error.to_string()))?;
    }
    let args = Arc::new(args);
    let parts = parts(&args, clock.clone())?;
    if args.format == SPARKPLUG {
        return sparkplug::run(args, parts, clock, stop).await;
    }
    if args.host_id.is_some() {
        return Err(Failed::Usage("--host-id goes with --format sparkplug".into()));
    }
    let opened = Arc::clone(&args);
    let opened = tokio::task::spawn_blocking(move || target::consumer(&opened)).await;
    let consumer = Arc::new(Mutex::new(opened.map_err(|error| Failed::Internal(error.to_string()))??));
    let (into, happened) = mpsc::channel(ARRIVING_MAX);
    let (to_writer, deliveries) = mpsc::channel(WINDOW);
    let (books, time) = (Arc::clone(&consumer), clock.clone());
    let writer = tokio::task::spawn_blocking(move || write(deliveries, &books, &time));
    let inner = stop.child();
    let client = Client::new(parts).speaking(version(args.mqtt_version)).kept_for(args.session_expiry);
    let client = tokio::spawn(client.run(into, inner.clone()));
    let mut told = None;
    let news = || {
        // While a window is being written there is no hurry.
        let account = consumer.try_lock().ok()?.account(now_ms(&clock));
        let line = (told.as_ref() != Some(&account.report)).then(|| shown::line(&account, &args))?;
        told = Some(account.report);
        Some(line)
    };
    let connected = watch(happened, to_writer, (&args, &inner), news).await;
    inner.begin();
    let ended = client.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let written = writer.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let account = target::final_account(&args, &consumer, now_ms(&clock))?;
    if connected.is_ok() {
        shown::show_final(&account, &args);
    }
    written.map_err(|error| Failed::TryAgain(error.to_string()))?;
    ended.map_err(|error| Failed::TryAgain(error.to_string()))?;
    connected?;
    let complete = account.is_complete() && account.report.received > 0;
    if args.expect_complete && !complete { Err(Failed::Verdict) } else { Ok(()) }
}

const fn version(name: VersionName) -> MqttVersion {
    match name {
        VersionName::Auto => MqttVersion::Auto,
        VersionName::V311 => MqttVersion::V311,
        VersionName::V5 => MqttVersion::V5,
    }
}

fn now_ms(clock: &Clock) -> Option<i64> {
    Some(clock.wall_now()).filter(|now| now.certainty == Certainty::Fixed).map(|now| now.unix_ms)
}

const fn begin(args: &ReceiveArgs) -> Begin {
    if args.from_start { Begin::One } else { Begin::FirstSeen }
}

impl ReceiveArgs {
    /// The database, however it was told.
    fn sqlite_file(&self) -> Option<&Path> {
        let is_database = |path: &&PathBuf| matches!(extension(path), Some("db" | "sqlite" | "sqlite3"));
        self.sqlite.as_ref().or(self.out.as_ref().filter(is_database)).map(PathBuf::as_path)
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

fn parts(args: &ReceiveArgs, clock: Clock) -> Result<ClientParts, Failed> {
    if !["auto", "json", "batch", SPARKPLUG].contains(&args.format.as_str()) {
        return Err(Failed::Usage(format!("--format {}: expected auto, json, batch or sparkplug", args.format)));
    }
    for file in [&args.ca_file, &args.certificate, &args.key, &args.password_file].into_iter().flatten() {
        Failed::look_for(file)?;
    }
    let url = args.url.as_deref().unwrap_or_default();
    let tls = args
        .ca_file
        .clone()
        .map(|ca_file| TlsFiles { ca_file, identity: args.certificate.clone().zip(args.key.clone()) });
    Ok(ClientParts {
        to: Destination::from_url(url, tls).map_err(|error| Failed::Usage(error.to_string()))?,
        login: LoginFiles { username: args.username.clone(), password_file: args.password_file.clone() },
        kept: if args.client_id.is_some() { Kept::Yes } else { Kept::No },
        client_id: args
            .client_id
            .clone()
            .unwrap_or_else(|| format!("ironbridge-receive-{:08x}", rand::random::<u32>())),
        filters: filters(args)?,
        run_dir: std::env::temp_dir(),
        now: Now::new(move || clock.wall_now()),
    })
}

fn filters(args: &ReceiveArgs) -> Result<Vec<String>, Failed> {
    let mut filters = Vec::new();
    for filter in &args.topics {
        check_filter(filter).map_err(|error| Failed::Usage(format!("--topic {filter}: {error}")))?;
        filters.push(match &args.share {
            None => filter.clone(),
            Some(group) => format!("$share/{group}/{filter}"),
        });
    }
    if let Some(group) = &args.share {
        if group.is_empty() || group.contains(['/', '+', '#']) || split_share(&filters[0]).is_err() {
            return Err(Failed::Usage(format!("--share {group}: a group is one word without / + #")));
        }
        if args.expect_complete && args.sqlite_file().is_none() {
            return Err(Failed::Usage(
                "--share sees a part of the numbers only: with --expect-complete let the group write one --sqlite FILE"
                    .into(),
            ));
        }
    }
    Ok(filters)
}

/// A message on its way to the writer, with its share of the bytes that may wait.
struct Waiting {
    delivery: Delivery,
    _bytes: tokio::sync::OwnedSemaphorePermit,
}

impl Waiting {
    /// Waits for room; `None`: there never will be any. A message that is larger than all of it takes all.
    async fn in_room(delivery: Delivery, room: &Arc<Semaphore>) -> Option<Self> {
        let kib = u32::try_from(delivery.payload().len() / 1024 + 1).unwrap_or(WAITING_KIB);
        let bytes = Arc::clone(room).acquire_many_owned(kib.min(WAITING_KIB)).await.ok()?;
        Some(Self { delivery, _bytes: bytes })
    }
}

/// The writer's thread: a window is put away, then acknowledged.
fn write(mut from: mpsc::Receiver<Waiting>, consumer: &Mutex<Consumer>, clock: &Clock) -> Result<(), TakeError> {
    let mut window = Vec::with_capacity(WINDOW);
    while let Some(first) = from.blocking_recv() {
        let mut next = Some(first);
        while let Some(waiting) = next {
            window.push(waiting);
            next = if window.len() < WINDOW { from.try_recv().ok() } else { None };
        }
        let of = |waiting: &Waiting| waiting.delivery.payload().clone();
        let payloads: Vec<_> = window.iter().map(of).collect();
        let arrivals = window.iter().zip(&payloads);
        let arrivals: Vec<_> = arrivals
            .map(|(waiting, payload)| {
                let (topic, user) = (waiting.delivery.topic(), waiting.delivery.user());
                Arrival { topic, payload, user }
            })
            .collect();
        consumer.hold().take(&arrivals, now_ms(clock))?;
        drop(arrivals);
        window.drain(..).for_each(|waiting| waiting.delivery.acknowledge());
    }
    Ok(())
}

/// Passes messages on and tells the person, `news` when there are any; ends with the client, the writer, `--for` or the stop. Err:
/// never connected.
async fn watch(
    mut happened: mpsc::Receiver<Happened>,
    to_writer: mpsc::Sender<Waiting>,
    (args, stop): (&ReceiveArgs, &Stop),
    mut news: impl FnMut() -> Option<String>,
) -> Result<(), Failed> {
    let every = if io::stderr().is_terminal() { REPORT_EVERY.0 } else { REPORT_EVERY.1 };
    let mut reports = interval_at(Instant::now() + every, every);
    reports.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let limit = sleep(args.limit.unwrap_or(Duration::from_secs(u64::from(u32::MAX))));
    tokio::pin!(limit);
    let room = Arc::new(Semaphore::new(WAITING_KIB as usize));
    let url = args.url.as_deref().unwrap_or_default();
    let (mut connected, mut last_error) = (false, String::from("no answer yet"));
    loop {
        tokio::select! {
            () = &mut limit => break,
            () = stop.begun() => break,
            () = to_writer.closed() => break, // the writer ended; its error is shown by the caller
            _ = reports.tick() => {
                if let Some(line) = news() {
                    say(line);
                }
            }
            next = happened.recv() => match next {
                None => break,
                Some(Happened::Connected) => {
                    connected = true;
                    say(format_args!("connected to {url}"));
                }
                Some(Happened::Lost(error)) => {
                    if error != last_error {
                        say(format_args!("not connected to {url}: {error}"));
                    }
                    last_error = error;
                }
                Some(Happened::Message(delivery)) => {
                    let Some(waiting) = Waiting::in_room(delivery, &room).await else { break };
                    if to_writer.send(waiting).await.is_err() {
                        break; // the same
                    }
                }
            },
        }
    }
    if connected { Ok(()) } else { Err(Failed::TryAgain(format!("never connected to {url}: {last_error}"))) }
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
