//! `ironbridge capture`: records what goes over the wires of a site, for `ironbridge replay` and for whoever wonders.
//!
//! Runs the field side of a configuration as the gateway would, with every habit of its buses and devices, through a
//! wire tap; no broker, no store, nothing is ever written to a device. Or only listens (`passive`, `ear`). `site` is
//! what the file says about the configuration, `wires` names the wires again, `takes` makes questions and answers out
//! of bytes, `show` prints them.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::{JoinHandle, spawn_blocking};

use super::interrupt::Interrupt;
use super::{Failed, duration};
use crate::config::plan::Plan;
use crate::config::{self, HostFacts, units};
use crate::field::carrier::tap::Tapped;
use crate::field::carrier::{self, Opener, Who};
use crate::field::line::LineBus;
use crate::field::{AnyBus, Bus, BusHandle, BusStats, Pauses, Shared};
use crate::flow::clock::Clock;
use crate::flow::hub::{self, Hub};
use crate::flow::stop::Stop;
use crate::model::tag::BusIx;
use crate::recording::{Bounds, Line, Recorder, RecordingStats};

mod ear;
mod passive;
pub mod show;
mod site;
pub mod takes;
pub mod wires;

/// Arguments of `ironbridge capture`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge capture --config plant.toml --for 10m --output site.capture\n  \
    ironbridge capture --config plant.toml --bus rs485-1 --output line.capture\n  \
    ironbridge capture --listen /dev/ttyUSB1 --serial 19200-8E1 --output line.capture\n  \
    ironbridge capture --show site.capture | less\n  \
    ironbridge capture --show site.capture --json | jq 'select(.result != \"answer\")'\n  \
    ironbridge replay site.capture\n\n\
    A serial port and a line behind a serial server have one master, and many devices serve few connections: stop the\n\
    gateway first (systemctl stop ironbridge); in a container with a network of its own it is not seen. The file holds the\n\
    devices, tags and register maps of the configuration, so that it can be replayed elsewhere, but nothing of its uplinks,\n\
    users and certificates. A recording that was cut off (a power cut) is good up to its last tenth of a second.\n\
    Exit codes: 0 recorded · 64 usage · 75 nobody could be asked, or the file cannot be written · 78 configuration")]
pub struct Args {
    /// The configuration whose devices are asked
    #[arg(long, value_name = "FILE", default_value = "/etc/ironbridge/ironbridge.toml")]
    pub config: PathBuf,
    /// Only this bus (may be repeated)
    #[arg(long, value_name = "BUS")]
    pub bus: Vec<String>,
    /// Ask nobody: only listen on this RS-485 line while somebody else asks, and never transmit (modbus-rtu)
    ///
    /// Requests and replies are told apart by their shape. Needs a receiver on the line, such as a second USB adapter.
    #[arg(long, value_name = "PORT", requires = "serial", conflicts_with_all = ["config", "bus"])]
    pub listen: Option<PathBuf>,
    /// Settings of the line to listen on
    #[arg(long, value_name = "BAUD-FORMAT", requires = "listen")]
    pub serial: Option<String>,
    /// Stop after this time, such as 10m (default: at Ctrl-C or SIGTERM)
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// The file to write; it must not exist yet
    #[arg(long, short, value_name = "FILE", required_unless_present = "show")]
    pub output: Option<PathBuf>,
    /// Stop when the file has this size
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub max_size: u64,
    /// Print a recording instead: time, unit, function, address, words, and what went wrong
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "bus", "run_for", "output", "listen"])]
    pub show: Option<PathBuf>,
    /// Print JSON: an object per line with --show, else one with the outcome
    #[arg(long)]
    pub json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    let size = units::size(text).filter(|size| *size >= 64 << 10);
    size.ok_or_else(|| format!("'{text}' is no size of at least 64KiB; write for instance 50MiB"))
}

/// Records until the time is over, a signal comes or the file is full; or shows a recording.
pub async fn run(args: Args, facts: &HostFacts, clock: Clock) -> Result<(), Failed> {
    if let Some(file) = &args.show {
        return show::run(file, args.json);
    }
    let mut interrupt = Interrupt::listen()?;
    let output = args.output.as_deref().unwrap_or(Path::new("site.capture"));
    let (round, recorder) = match &args.listen {
        Some(port) => {
            let settings = args
                .serial
                .as_deref()
                .and_then(wires::settings)
                .ok_or_else(|| Failed::Usage("--serial tells how the line is set, such as 19200-8E1".to_owned()))?;
            let ear = passive::open(port, settings, &clock).await?;
            let line = ear.line();
            let recorder = start(output, args.max_size, site::nameless(&clock), vec![line])?;
            (Round::listen(ear, &recorder), recorder)
        }
        None => {
            let loaded = config::load(&args.config, facts).map_err(|problems| Failed::Config(problems.to_string()))?;
            let buses = buses(&loaded.plan, &args.bus)?;
            let head = site::head(&loaded, &clock)?;
            let lines = buses.iter().map(|bus| site::line(&loaded.plan[*bus])).collect();
            let recorder = start(output, args.max_size, head, lines)?;
            (Round::start(loaded.plan, &buses, &recorder, &clock), recorder)
        }
    };
    let why = {
        let over = interrupt.came_or_after(args.run_for);
        tokio::pin!(over);
        let bar = bar(&args);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = &mut over => break Why::Told,
                _ = looks.tick() => {}
            }
            bar.set_message(round.progress(recorder.told()));
            bar.tick();
            if recorder.told().full.get() > 0 {
                break Why::Full;
            }
            if recorder.is_over() {
                break Why::Told; // its error is told below
            }
        }
    };
    let outcome = round.stop().await;
    let told = Arc::clone(recorder.told());
    let ended = spawn_blocking(move || recorder.end()).await.map_err(|error| Failed::Internal(error.to_string()))?;
    ended.map_err(|error| Failed::TryAgain(format!("{}: {error}", output.display())))?;
    outcome.tell(&args, output, &told, why)
}

/// Between two looks at how it goes.
const LOOK: Duration = Duration::from_millis(200);

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A signal, or the time was over.
    Told,
    /// The file has its size.
    Full,
}

/// Makes the file.
fn start(output: &Path, bytes_max: u64, head: crate::recording::Head, lines: Vec<Line>) -> Result<Recorder, Failed> {
    Recorder::start(output, Bounds { bytes_max }, head, lines).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failed::Usage(format!("{} exists already; name another file", output.display()))
        }
        _ => Failed::TryAgain(format!("{}: {error}", output.display())),
    })
}

/// The buses that were named, or all.
fn buses(plan: &Plan, named: &[String]) -> Result<Vec<BusIx>, Failed> {
    let known: Vec<&str> = plan.buses.iter().map(|bus| bus.name.as_str()).collect();
    if let Some(stranger) = named.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        return Err(Failed::Usage(format!("there is no bus '{stranger}' in this configuration, only {known}")));
    }
    let all = (0..).map(BusIx).zip(known);
    let buses: Vec<_> = all.filter(|(_, name)| named.is_empty() || named.iter().any(|named| named == name)).collect();
    if buses.is_empty() {
        return Err(Failed::Config("there is no bus in this configuration".into()));
    }
    Ok(buses.into_iter().map(|(ix, _)| ix).collect())
}

fn bar(args: &Args) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if args.json || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise}  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// A bus for people, and what its connections count.
type Counted = (String, Vec<Arc<BusStats>>);

/// The buses at work, or an ear on a line.
struct Round {
    stop: Stop,
    running: Vec<JoinHandle<()>>,
    buses: Vec<Counted>,
    /// Held, so that nobody ever writes and no bus takes the end of its queue for its own.
    handles: Vec<BusHandle>,
    drain: Option<JoinHandle<()>>,
}

impl Round {
    fn start(plan: Plan, buses: &[BusIx], recorder: &Recorder, clock: &Clock) -> Self {
        let plan = Arc::new(plan);
        let (hub, latest, mut durable) = hub::hub(plan.tags.iter().map(|tag| tag.class).collect());
        // Nobody wants the samples; the wires are what counts.
        let drain = tokio::spawn(async move {
            let _latest = latest;
            while durable.records.recv().await.is_some() {}
        });
        let mut round = Self { drain: Some(drain), ..Self::idle() };
        for (line, bus) in (0..).zip(buses) {
            let name = plan[*bus].name.clone();
            let shared = Shared { clock: clock.clone(), stop: round.stop.clone(), pauses: Pauses::default() };
            let (bus, handle) = tapped(&plan, *bus, &hub, (recorder, line), shared);
            round.running.push(tokio::spawn(bus.run()));
            let stats = std::iter::once(&handle.stats).chain(&handle.others).map(Arc::clone);
            round.buses.push((name, stats.collect()));
            round.handles.push(handle);
        }
        round
    }

    fn listen(ear: passive::Ear, recorder: &Recorder) -> Self {
        let mut round = Self::idle();
        round.buses.push((ear.line().name, vec![ear.stats()]));
        round.running.push(tokio::spawn(ear.run(recorder.tape(0, 0), round.stop.clone())));
        round
    }

    fn idle() -> Self {
        Self { stop: Stop::new(), running: Vec::new(), buses: Vec::new(), handles: Vec::new(), drain: None }
    }

    fn count(&self, of: impl Fn(&BusStats) -> u64) -> u64 {
        self.buses.iter().map(|bus| count(bus, &of)).sum()
    }

    /// One line for people.
    fn progress(&self, told: &RecordingStats) -> String {
        let quiet = self.buses.iter().filter(|bus| count(bus, |stats| stats.connected.get()) == 0);
        let quiet: Vec<&str> = quiet.map(|(name, _)| name.as_str()).collect();
        let quiet = if quiet.is_empty() { String::new() } else { format!(", not connected: {}", quiet.join(", ")) };
        format!(
            "{} asked, {} answered, {} timeouts, {} exceptions, {}{quiet}",
            self.count(|stats| stats.requests.get()),
            self.count(|stats| stats.replies.get()),
            self.count(|stats| stats.timeouts.get()),
            self.count(|stats| stats.exceptions.get()),
            HumanBytes(told.bytes.get()),
        )
    }

    /// Ends all buses, each after the transaction under way.
    async fn stop(self) -> Outcome {
        self.stop.begin();
        for running in self.running {
            let _ = running.await; // a bus that panicked has said so
        }
        drop(self.handles);
        if let Some(drain) = self.drain {
            drain.abort();
        }
        let counts = |bus: &Counted| {
            [
                count(bus, |stats| stats.requests.get()),
                count(bus, |stats| stats.replies.get()),
                count(bus, |stats| stats.timeouts.get()),
                count(bus, |stats| stats.exceptions.get()),
            ]
        };
        Outcome(self.buses.iter().map(|bus| (bus.0.clone(), counts(bus))).collect())
    }
}

fn count((_, stats): &Counted, of: impl Fn(&BusStats) -> u64) -> u64 {
    stats.iter().map(|stats| of(stats)).sum()
}

/// A bus as the gateway has it, with a tap on each of its connections.
fn tapped(plan: &Arc<Plan>, bus: BusIx, hub: &Hub, tap: (&Recorder, u32), shared: Shared) -> (AnyBus, BusHandle) {
    let of = &plan[bus];
    let openers = (0u32..).take(of.habits.max_connections.max(1).into()).map(|connection| {
        let (recorder, line) = tap;
        let opener = carrier::opener_of(of, &shared.clock, Who::Tool);
        Box::new(Tapped::new(opener, recorder.tape(line, connection))) as Box<dyn Opener>
    });
    let mut openers: Vec<_> = openers.collect();
    if of.line.is_some()
        && let Some(opener) = openers.pop()
    {
        let (line, handle) = LineBus::over(opener, Arc::clone(plan), bus, hub, shared);
        return (AnyBus::Line(Box::new(line)), handle);
    }
    let (bus, handle) = Bus::over_each(openers, Arc::clone(plan), bus, hub, shared);
    (bus.precise().into(), handle)
}

/// Requests, replies, timeouts, exceptions of each bus.
struct Outcome(Vec<(String, [u64; 4])>);

impl Outcome {
    /// Says what was recorded; nobody could be asked: an error.
    fn tell(&self, args: &Args, output: &Path, told: &RecordingStats, why: Why) -> Result<(), Failed> {
        let (bytes, missed) = (told.bytes.get(), told.missed.get());
        if args.json {
            let buses = self.0.iter().map(|(name, [requests, replies, timeouts, exceptions])| {
                serde_json::json!({ "name": name, "requests": requests, "replies": replies, "timeouts": timeouts, "exceptions": exceptions })
            });
            let buses: Vec<_> = buses.collect();
            let is_full = why == Why::Full;
            let file = output.display().to_string();
            let whole =
                serde_json::json!({ "file": file, "bytes": bytes, "missed": missed, "full": is_full, "buses": buses });
            super::tell(&whole.to_string());
        } else {
            let mut text = String::new(); // writing into it cannot fail
            for (name, [requests, replies, timeouts, exceptions]) in &self.0 {
                let answered = format!("{replies} answered ({exceptions} exceptions), {timeouts} timeouts");
                let _ = writeln!(text, "{name}: {requests} asked, {answered}");
            }
            if why == Why::Full {
                text.push_str("the file has the size of --max-size; the recording ends here\n");
            } else if missed > 0 {
                let _ = writeln!(text, "{missed} events came faster than the disk took them and are missing");
            }
            let (file, size) = (output.display(), HumanBytes(bytes));
            let look = format!("look at it: ironbridge capture --show {file}; play it back: ironbridge replay {file}");
            super::tell(&format!("{text}{file}: {size}; {look}"));
        }
        if self.0.iter().all(|(_, counts)| counts[0] == 0) {
            let text =
                "no bus could be opened, so nobody was asked; the recording says why (ironbridge capture --show)";
            return Err(Failed::TryAgain(text.into()));
        }
        Ok(())
    }
}
