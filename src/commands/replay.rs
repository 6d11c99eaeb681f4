//! `ironbridge replay`: plays a recording back, so that a site can be tested at a desk.
//!
//! Each recorded line is served on 127.0.0.1 or a pseudo-terminal, through the same doors as `ironbridge simulate`, with what
//! its devices said, their delays and faults. `tracks` makes scripts of the file; who answers is
//! [`crate::plant::playback`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::interrupt::Interrupt;
use super::simulate::rewrite::Changes;
use super::simulate::{self, Certificates, Folder};
use super::{Failed, duration};
use crate::config::{self, HostFacts, units};
use crate::plant::front::{Door, Doors, Place};
use crate::plant::playback::{Ending, Playback, Tempo};
use crate::recording::Head;
use tracks::Tracks;

mod tracks;

/// Faster or slower than this is of no use.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.01..=1000.0;

/// Arguments of `ironbridge replay`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge replay site.capture --write-config desk.toml --data-dir /tmp/desk\n  \
    ironbridge run --config desk.toml\n  \
    ironbridge replay site.capture --loop --speed 10x\n  \
    ironbridge replay --show site.capture\n\n\
    What is answered: a request that was recorded gets what it got at this point of the recording, bytes, delays, timeouts,\n\
    exceptions, noise and broken connections included; a request for a part of what was recorded, or over several parts,\n\
    gets the registers as they were then. All else is answered with exception 2 (exception 1: a function that was never\n\
    used, such as any write), because nobody knows the truth; such requests are counted and listed at the end.\n\
    --speed makes values move faster, never answers: delays stay as they were.\n\
    After the end the last state stays, until Ctrl-C; with --loop it begins again.\n\
    Exit codes: 0 played · 64 usage · 75 try again · 78 configuration")]
pub struct Args {
    /// The recording
    #[arg(value_name = "FILE", required_unless_present = "show")]
    pub file: Option<PathBuf>,
    /// Write a configuration that leads to the played devices to this file: the recorded one, or that of --config
    #[arg(long, value_name = "OUT")]
    pub write_config: Option<PathBuf>,
    /// The configuration to rewrite, with its uplinks, instead of the recorded one
    #[arg(long, value_name = "FILE", requires = "write_config")]
    pub config: Option<PathBuf>,
    /// Another data_dir for the written configuration
    #[arg(long, value_name = "DIR", requires = "write_config")]
    pub data_dir: Option<PathBuf>,
    /// Play so many times faster, such as 10x
    #[arg(long, value_name = "FACTOR", default_value = "1x", value_parser = speed)]
    pub speed: f64,
    /// Begin again at the end
    #[arg(long = "loop")]
    pub again: bool,
    /// Put a symbolic link to each pseudo-terminal into this directory, named after its bus
    #[arg(long, value_name = "DIR")]
    pub links: Option<PathBuf>,
    /// Stop after this time, such as 60s (default: at Ctrl-C or SIGTERM)
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Print the recording instead (as ironbridge capture --show does)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "write_config", "config", "again", "links", "run_for"])]
    pub show: Option<PathBuf>,
    /// Print JSON: an object at the start, another at the end
    #[arg(long)]
    pub json: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    let factor = text.strip_suffix('x').unwrap_or(text).parse().ok().filter(|factor| SPEEDS.contains(factor));
    factor.ok_or_else(|| {
        format!("'{text}' is no speed; write for instance 10x, from {} to {}", SPEEDS.start(), SPEEDS.end())
    })
}

/// Plays until the time is over or a signal comes.
pub async fn run(args: Args, facts: &HostFacts) -> Result<(), Failed> {
    if let Some(file) = &args.show {
        return super::capture::show::run(file, args.json);
    }
    let mut interrupt = Interrupt::listen()?;
    let file = args.file.clone().unwrap_or_default();
    let tracks = tracks::read(&file)?;
    if tracks.lines.is_empty() {
        return Err(Failed::Usage(format!("{}: there is no line in it that could be played", file.display())));
    }
    if let Some(out) = &args.write_config {
        simulate::check_place(out)?;
    }
    let notes = notes(&tracks);
    let head = tracks.head.clone();
    let certificates = Certificates::beside(args.write_config.as_deref());
    // An adapter that was unplugged comes back under its link.
    let ports = Folder::if_needed(args.links.is_none())?;
    let links = args.links.clone().or_else(|| ports.as_ref().map(|folder| folder.path().to_owned()));
    let doors = Doors::new(false, Some(certificates.folder().to_owned()), links);
    let ending = if args.again { Ending::Again } else { Ending::Stay };
    let stage = Stage::open(tracks, doors, Tempo { speed: args.speed, ending }).await?;
    if let Some(out) = &args.write_config {
        write_config(&args, out, &head, &stage, facts)?;
    }
    stage.tell(&args, &head, &notes)?;
    interrupt.came_or_after(args.run_for).await;
    let summary = stage.summary(args.json);
    stage.stop().await;
    drop(ports);
    super::print(format!("{summary}\n"))
}

/// What to know about the recording before it is trusted.
fn notes(tracks: &Tracks) -> Vec<String> {
    let mut notes: Vec<String> = super::capture::show::tail_text(tracks.tail).into_iter().collect();
    if tracks.missed > 0 {
        notes.push(format!("{} events are missing in it: the disk was too slow", tracks.missed));
    }
    for line in &tracks.unknown {
        notes.push(format!("{} is of type {}, which cannot be played", line.name, line.kind));
    }
    notes
}

/// Everything that is played.
struct Stage {
    acts: Vec<Act>,
    conductors: Vec<tokio::task::JoinHandle<()>>,
    length: Duration,
}

struct Act {
    name: String,
    kind: String,
    was: String,
    door: Door,
    playback: Arc<Playback>,
}

impl Stage {
    async fn open(tracks: Tracks, mut doors: Doors, tempo: Tempo) -> Result<Self, Failed> {
        let mut stage = Self { acts: Vec::new(), conductors: Vec::new(), length: tracks.length };
        for (line, link, script) in tracks.lines {
            let playback = Arc::new(Playback::new(script, tempo));
            let door = doors.open(&line.name, &link, Arc::clone(&playback) as _).await;
            let door =
                door.map_err(|error| Failed::TryAgain(format!("bus {}: cannot serve it: {error}", line.name)))?;
            let conducted = Arc::clone(&playback);
            stage.conductors.push(tokio::spawn(async move { conducted.conduct().await }));
            let was = format!("{} {}", line.place, line.settings).trim_end().to_owned();
            stage.acts.push(Act { name: line.name, kind: line.kind, was, door, playback });
        }
        Ok(stage)
    }

    fn places(&self) -> Vec<(String, Place)> {
        self.acts.iter().map(|act| (act.name.clone(), act.door.place.clone())).collect()
    }

    fn tell(&self, args: &Args, head: &Head, notes: &[String]) -> Result<(), Failed> {
        let began = head.began_unix_ms.map(|unix_ms| {
            let certainty = crate::model::time::Certainty::Fixed;
            crate::model::time::Wall { unix_ms, certainty }.to_string()
        });
        if args.json {
            let buses = self.acts.iter().map(|act| {
                let units = act.playback.script().units();
                json!({ "name": act.name, "type": act.kind, "at": act.door.place.to_string(), "was": act.was, "units": units })
            });
            let buses: Vec<_> = buses.collect();
            let config = args.write_config.as_ref().map(|out| out.display().to_string());
            let whole = json!({ "recorded": began, "seconds": self.length.as_secs_f64(), "buses": buses, "config": config, "notes": notes });
            return super::print(format!("{whole}\n"));
        }
        let length = units::write_duration(Duration::from_secs(self.length.as_secs().max(1)));
        let mut text = format!("{length} recorded {}\n", began.as_deref().unwrap_or("at a time that nobody knew"));
        // Writing into a String cannot fail.
        for act in &self.acts {
            let _ = writeln!(text, "{}  {}  {}  (it was {})", act.name, act.kind, act.door.place, act.was);
            for (unit, count) in act.playback.script().units() {
                let _ = writeln!(text, "    unit {unit}  {count} questions recorded");
            }
        }
        if self.acts.iter().any(|act| matches!(act.door.place, Place::Pty(_))) {
            text.push_str("(pseudo-terminals have no parity: some tools must be told 8N1)\n");
        }
        for note in notes {
            let _ = writeln!(text, "note: {note}");
        }
        if let Some(out) = &args.write_config {
            let _ = writeln!(text, "configuration written; try: ironbridge run --config {}", out.display());
        }
        let again = if args.again { "again and again" } else { "once, then its last state stays" };
        super::print(format!("{text}playing {again}, until Ctrl-C\n"))
    }

    fn summary(&self, json: bool) -> String {
        if json {
            let buses = self.acts.iter().map(|act| {
                let (played, strange) = (act.playback.played(), act.playback.strange());
                let strange =
                    strange.iter().map(|((unit, pdu), count)| json!({ "unit": unit, "pdu": pdu, "count": count }));
                let strange: Vec<_> = strange.collect();
                json!({
                    "name": act.name, "recorded": played.recorded.get(), "image": played.image.get(),
                    "not_recorded": played.not_recorded.get(), "strange": strange
                })
            });
            return json!({ "buses": buses.collect::<Vec<_>>() }).to_string();
        }
        let mut lines = Vec::new();
        for act in &self.acts {
            let played = act.playback.played();
            lines.push(format!(
                "{}: {} answered as recorded, {} from recorded registers, {} not recorded",
                act.name,
                played.recorded.get(),
                played.image.get(),
                played.not_recorded.get(),
            ));
            for ((unit, pdu), count) in act.playback.strange() {
                lines.push(format!("    not recorded: {} ({count} times)", super::capture::show::question(unit, &pdu)));
            }
        }
        lines.join("\n")
    }

    async fn stop(self) {
        self.conductors.iter().for_each(tokio::task::JoinHandle::abort);
        for act in self.acts {
            act.door.stop().await;
        }
    }
}

/// The configuration of --config, or the recorded one, led to where the devices are played.
fn write_config(args: &Args, out: &Path, head: &Head, stage: &Stage, facts: &HostFacts) -> Result<(), Failed> {
    let from = match &args.config {
        Some(config) => config.clone(),
        None => unpack(out, head)?,
    };
    let loaded = config::load(&from, facts).map_err(|problems| Failed::Config(problems.to_string()))?;
    simulate::check_target(out, &loaded)?;
    let data_dir = args.data_dir.as_ref().map(std::path::absolute).transpose();
    let data_dir = data_dir.map_err(|error| Failed::TryAgain(format!("--data-dir: {error}")))?;
    simulate::write_config(out, &loaded, &Changes { places: stage.places(), data_dir, cloud: None }, facts)
}

/// Puts the recorded configuration and its register maps into a folder beside the one to write, which names the maps.
fn unpack(out: &Path, head: &Head) -> Result<PathBuf, Failed> {
    let mut folder = out.as_os_str().to_owned();
    folder.push(".recorded");
    let folder = PathBuf::from(folder);
    let mut first = None;
    for (name, content) in &head.files {
        let name = Path::new(name);
        if name.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(Failed::Usage(format!("the recording wants to write outside its folder: {}", name.display())));
        }
        let path = folder.join(name);
        let written =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, content));
        written.map_err(|error| Failed::TryAgain(format!("{}: {error}", path.display())))?;
        first.get_or_insert(path);
    }
    first.ok_or_else(|| Failed::Usage("there is no configuration in this recording; give one with --config".to_owned()))
}
