//! `ironbridge store torture`: the kill test, on the owner's own box and flash.
//!
//! Round by round this program runs itself as a child that writes through the real store, kills it with SIGKILL at a
//! random moment, opens what is left and holds it against what the child had said it had committed. Its directory must
//! be empty or its own: a store of a gateway is never touched. With a ledger on another medium a real power cut can be
//! survived too: `--resume` goes on from it.
//!
//! `child` is what is killed, `promises` what it said, `ledger` where they are kept, `audit` the comparison.

mod audit;
mod child;
mod ledger;
mod promises;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::commands::interrupt::Interrupt;
use crate::commands::{self, Failed, block_on, duration};
use crate::host::terminal::say;
use crate::model::time::millis;
use ledger::Ledger;
use promises::Promises;

/// The store's directory in ours.
const STORE: &str = "store";
/// Says that the directory is ours.
const MARK: &str = "ironbridge-torture";
const ROUNDS: u64 = 20;
/// A child lives at most this long; most are killed far earlier.
const LIFE: Duration = Duration::from_millis(1500);
/// Lines of the child that wait for us.
const LINES_WAITING_MAX: usize = 4096;
/// Ids of one round.
const IDS: u64 = 10_000_000_000;

/// `ironbridge store torture --dir DIR`
#[derive(Debug, clap::Args)]
pub(super) struct TortureArgs {
    /// An empty directory on the disk that is to be tested, or that of an earlier run
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Kill so many times (20, or as often as fits into --for)
    #[arg(long, value_name = "N", conflicts_with = "time", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Go on for so long: 10m, 12h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Write every promise here too, as it is made; on another disk or machine. `-`: standard output
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// After a power cut: first hold what is left against the ledger (`-`: standard input)
    #[arg(long, requires = "ledger")]
    resume: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// What the child is told: where its ids begin.
    #[arg(long, hide = true)]
    child: Option<u64>,
}

/// What the run came to.
#[derive(Debug, Default, Serialize)]
struct Sum {
    rounds: u64,
    committed: u64,
    lost: u64,
    duplicates: u64,
    evicted: u64,
    slowest_open_ms: u64,
    slowest_commit_ms: u64,
    bytes_written: u64,
    elapsed_ms: u64,
    complaints: Vec<String>,
}

/// Runs the test, or is its child.
pub(super) fn run(args: &TortureArgs) -> Result<(), Failed> {
    if let Some(ids) = args.child {
        return block_on(child::run(&args.dir, ids));
    }
    prepare(args)?;
    block_on(torture(args))
}

/// Nothing but an empty directory, or our own, is written to.
fn prepare(args: &TortureArgs) -> Result<(), Failed> {
    let dir = &args.dir;
    let refuse = |what: &str| Failed::Usage(format!("{}: {what}", dir.display()));
    std::fs::create_dir_all(dir).map_err(|error| refuse(&format!("cannot be made: {error}")))?;
    let ours = dir.join(MARK);
    if ours.exists() {
        if !args.resume {
            let _ = std::fs::remove_dir_all(dir.join(STORE)); // every run begins anew
        }
        return Ok(());
    }
    let mut entries = std::fs::read_dir(dir).map_err(|error| refuse(&error.to_string()))?;
    if entries.next().is_some() {
        return Err(refuse("is neither empty nor of an earlier torture; nothing in it was touched"));
    }
    if args.resume {
        return Err(refuse("is empty: there is nothing to resume"));
    }
    std::fs::write(&ours, "made by `ironbridge store torture`; may be removed as a whole\n")
        .map_err(|error| refuse(&format!("cannot be written: {error}")))
}

async fn torture(args: &TortureArgs) -> Result<(), Failed> {
    let (mut promises, mut sum, began) = (Promises::default(), Sum::default(), Instant::now());
    let mut interrupt = Interrupt::listen()?;
    let mut ledger = Ledger::open(args.ledger.as_deref(), args.resume, &mut promises)?;
    let mut ids = IDS * (1 + rand::random_range(0..1_000_000_u64));
    let bar = bar(args);
    if args.resume {
        take(&mut sum, audit::audit(&args.dir, &mut promises, ids).await?);
        ledger.rewrite(&promises)?;
    }
    let rounds = args.rounds.unwrap_or(match (args.time, args.resume) {
        (Some(_), _) => u64::MAX,
        (None, true) => 0, // only what the power cut has left
        (None, false) => ROUNDS,
    });
    while sum.rounds < rounds && args.time.is_none_or(|time| began.elapsed() < time) && sum.complaints.is_empty() {
        ids += IDS;
        let stopped = round(args, (&mut promises, &mut ledger), (&mut sum, &mut interrupt), ids).await?;
        take(&mut sum, audit::audit(&args.dir, &mut promises, ids + IDS / 2).await?);
        ledger.rewrite(&promises)?;
        sum.rounds += 1;
        show(&bar, args, &sum, began);
        if stopped {
            break;
        }
    }
    bar.finish_and_clear();
    sum.committed = promises.count();
    sum.slowest_commit_ms = promises.slowest_ms;
    sum.elapsed_ms = millis(began.elapsed());
    if args.json {
        tell(args, &serde_json::to_string(&sum).map_err(|error| Failed::Internal(error.to_string()))?);
    } else {
        tell(args, text(args, &sum).trim_end());
    }
    if sum.complaints.is_empty() { Ok(()) } else { Err(Failed::Verdict) }
}

/// Standard output belongs to the ledger when that was asked for.
fn tell(args: &TortureArgs, text: &str) {
    if args.ledger.as_deref() == Some(Path::new("-")) && !args.resume {
        say(text);
    } else {
        commands::tell(text);
    }
}

/// One child's life; true when the user wants no more.
async fn round(
    args: &TortureArgs,
    (promises, ledger): (&mut Promises, &mut Ledger),
    (sum, interrupt): (&mut Sum, &mut Interrupt),
    ids: u64,
) -> Result<bool, Failed> {
    let here = |error: std::io::Error| Failed::TryAgain(format!("cannot run myself: {error}"));
    let (mut process, mut lines) = child_process(&args.dir, ids).map_err(here)?;
    let end = tokio::time::sleep(LIFE.mul_f64(rand::random::<f64>().powi(2)));
    tokio::pin!(end);
    let (mut killed, mut stopped) = (false, false);
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => {
                    promises.take(&line);
                    ledger.write(&line)?;
                }
                None => break, // it is gone, and what it had said is heard
            },
            () = &mut end, if !killed => {
                sum.bytes_written += written(process.0.id());
                process.0.kill().map_err(here)?;
                killed = true;
            }
            () = interrupt.came(), if !killed => {
                process.0.kill().map_err(here)?;
                (killed, stopped) = (true, true);
            }
        }
    }
    let status = process.0.wait().map_err(here)?;
    if !killed {
        return Err(Failed::TryAgain(format!("the child ended by itself ({status}); what it said stands above")));
    }
    Ok(stopped)
}

/// A process that does not outlive us.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may be gone already
        let _ = self.0.wait();
    }
}

/// Starts the child; what it says comes line by line.
fn child_process(dir: &Path, ids: u64) -> std::io::Result<(Kept, mpsc::Receiver<String>)> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["store", "torture", "--child", &ids.to_string(), "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = process.stdout.take();
    let (tell, lines) = mpsc::channel(LINES_WAITING_MAX);
    std::thread::Builder::new().name("torture-ear".into()).spawn(move || {
        let heard = out.into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok));
        heard.map_while(|line| tell.blocking_send(line).ok()).for_each(drop);
    })?;
    Ok((Kept(process), lines))
}

/// Bytes that a process has sent to the disk so far (proc(5), /proc/pid/io).
fn written(process: u32) -> u64 {
    let figures = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = figures.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

fn take(sum: &mut Sum, finding: audit::Finding) {
    sum.slowest_open_ms = sum.slowest_open_ms.max(millis(finding.opened_in));
    sum.lost += finding.lost;
    sum.duplicates += finding.duplicates;
    sum.evicted = finding.evicted;
    sum.complaints.extend(finding.complaints);
}

fn bar(args: &TortureArgs) -> ProgressBar {
    let length = args.time.map_or(args.rounds.unwrap_or(ROUNDS), |time| time.as_secs().max(1));
    let bar = ProgressBar::new(length);
    if args.json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, args: &TortureArgs, sum: &Sum, began: Instant) {
    bar.set_position(if args.time.is_some() { began.elapsed().as_secs() } else { sum.rounds });
    bar.set_message(format!("{} kills, lost {}, duplicates {}", sum.rounds, sum.lost, sum.duplicates));
}

fn text(args: &TortureArgs, sum: &Sum) -> String {
    let Sum { rounds, committed, lost, duplicates, evicted, slowest_open_ms, slowest_commit_ms, .. } = sum;
    let mut text = String::new();
    let _ = writeln!(text, "killed           {rounds} times in {} s", sum.elapsed_ms / 1000);
    let _ = writeln!(text, "committed        {committed} records ({evicted} evicted since, at the cap of the test)");
    let _ = writeln!(text, "lost             {lost}");
    let _ = writeln!(text, "duplicates       {duplicates}");
    let _ = writeln!(text, "slowest open     {slowest_open_ms} ms");
    let _ =
        writeln!(text, "slowest commit   {slowest_commit_ms} ms (what this disk takes for an fdatasync at its worst)");
    let _ = writeln!(text, "bytes written    {}", sum.bytes_written);
    for complaint in &sum.complaints {
        let _ = writeln!(text, "WRONG: {complaint}");
    }
    text.push_str(if sum.complaints.is_empty() { "the store is whole\n" } else { "the store is NOT whole\n" });
    if args.ledger.is_none() && sum.complaints.is_empty() {
        let dir = args.dir.display();
        let _ = writeln!(
            text,
            "\nA kill leaves the disk its cache. For a real power cut keep the promises elsewhere and pull the plug:"
        );
        let _ = writeln!(text, "  ssh THIS-BOX ironbridge store torture --dir {dir} --for 1h --ledger - > ledger");
        let _ = writeln!(text, "  ssh THIS-BOX ironbridge store torture --dir {dir} --ledger - --resume < ledger");
    }
    text
}
