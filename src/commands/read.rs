//! `ironbridge read`: one-shot reads for commissioning, by address or by tag of a configuration; `--watch` repeats.
//!
//! Asks the device itself, never the gateway; one request per value, so that an exception names its register.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::json;

use super::Failed;
use super::field::ask::{Answer, Wires, answer_json, value_text, words};
use super::field::target::{Purpose, Target, TargetArgs, Wanted};
use super::interrupt::Interrupt;
use crate::flow::clock::Clock;
use crate::host::terminal::say;
use crate::model::quality::Quality;

/// Arguments of `ironbridge read`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge read tcp 192.168.0.10:502 holding:100 --unit 1 --type float32 --order CDAB\n  \
    ironbridge read serial /dev/ttyUSB0 input:0 --line 9600-8N1 --unit 3 --count 10\n  \
    ironbridge read tcp 192.168.0.10 40101 --style modicon\n  \
    ironbridge read tcp 192.168.0.11 'sunspec:101|102|103:14' --type int16\n  \
    ironbridge read --config plant.toml pump-1/pressure meter-1 --watch 1s\n\n\
    A serial port has one master, and so has a line behind a serial server: while the gateway runs on it, look at its\n\
    values over MQTT instead. (In a container with a network of its own it is not seen; stop it first.)\n\
    Exit codes: 0 all values are there · 1 some are not · 64 usage · 75 nobody there · 78 configuration")]
pub struct Args {
    /// tcp HOST or HOST:PORT ADDRESS…, serial PORT ADDRESS…, or with --config: tags and devices
    ///
    /// Also udp, rtu-over-tcp, ascii-over-tcp, rtu-over-udp HOST:PORT and ascii PORT. An address is holding:100,
    /// input:0x64, coil:3, discrete:4, a bit such as holding:7.3 or a SunSpec point such as sunspec:103:14; see --style for manuals that count from 1.
    #[arg(value_name = "TARGET", required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// So many values one behind the other, from each address
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "config")]
    pub count: u16,
    /// Read again and again, this often, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    pub watch: Option<Duration>,
    /// Print a JSON object per value and line
    #[arg(long)]
    pub json: bool,
}

/// Reads once, or until it is told to stop.
pub async fn run(args: Args, clock: Clock) -> Result<(), Failed> {
    let target = Target::find(&args.target, &args.words, args.count, Purpose::Read)?;
    let mut wires = Wires::new(clock.clone());
    let Some(every) = args.watch else {
        return match round(&args, &target, &mut wires, &clock).await? {
            ControlFlow::Continue(false) => Err(Failed::Verdict),
            ControlFlow::Continue(true) | ControlFlow::Break(()) => Ok(()),
        };
    };
    let mut interrupt = Interrupt::listen()?;
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = interrupt.came() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // The port is closed whichever way it ends; a read on a serial line is not broken off for less than a signal.
        tokio::select! {
            () = interrupt.came() => return Ok(()),
            ended = round(&args, &target, &mut wires, &clock) => match ended {
                Ok(ControlFlow::Continue(_)) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(Failed::TryAgain(text)) => say(format_args!("ironbridge: {text}")),
                Err(other) => return Err(other),
            }
        }
    }
}

/// Every value once; were all of them there? Each is printed as it comes. Breaks off when nobody reads what is printed.
async fn round(
    args: &Args,
    target: &Target,
    wires: &mut Wires,
    clock: &Clock,
) -> Result<ControlFlow<(), bool>, Failed> {
    let mut all = true;
    let mut told = None; // the same advice for every value of a dead device is said once
    let width = target.wanted.iter().map(|wanted| wanted.label.chars().count()).max().unwrap_or(0);
    for wanted in &target.wanted {
        let answer = wires.read(target, wanted).await?;
        all &= !matches!(answer.quality, Quality::Bad(_));
        let time = clock.wall_now().to_string();
        let news = answer.advice.as_ref().filter(|advice| told.as_ref() != Some(*advice));
        let text = if args.json {
            let mut object = answer_json(target, wanted, &answer);
            object["time"] = json!(time);
            object.to_string()
        } else {
            let time = args.watch.map(|_| format!("{}  ", time.get(11..23).unwrap_or_default())).unwrap_or_default();
            format!("{time}{}", line(target, wanted, (&answer, news), width))
        };
        told = answer.advice;
        if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
            // Nobody reads on: no use in asking on, and what was read is all that was wanted.
            return super::printed(Err(error)).map(ControlFlow::Break);
        }
    }
    Ok(ControlFlow::Continue(all))
}

fn line(target: &Target, wanted: &Wanted, (answer, advice): (&Answer, Option<&String>), width: usize) -> String {
    let tag = target.tag(wanted);
    let value = value_text(tag, answer.value.as_ref());
    let place = match answer.at.filter(|_| tag.model().is_some()) {
        Some(found) => format!("{found}  "),
        None if wanted.label == target.address(wanted) => String::new(),
        None => format!("{}  ", target.address(wanted)),
    };
    let raw = answer.raw.as_ref().map(words).unwrap_or_default();
    let quality = answer.quality.to_string();
    let text = format!("{:<width$}  {value:<14}  {quality:<18}  {place}{raw}", wanted.label);
    match advice {
        Some(advice) => format!("{}\n{:width$}  {advice}", text.trim_end(), ""),
        None => text.trim_end().to_owned(),
    }
}
