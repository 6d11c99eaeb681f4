//! `ironbridge write`: one value to one device, for commissioning: shows old and new, asks, writes, reads back.
//!
//! The limits and the access of a configuration hold here as they do for a command over MQTT; there is no way around them.

use std::time::Duration;

use serde_json::json;

use super::field::ask::{Answer, Wires, value_json, value_text, words};
use super::field::explain;
use super::field::target::{Purpose, Target, TargetArgs, Wanted};
use super::{self as commands, Failed};
use crate::config::plan::{Limits, TagPlan};
use crate::field::command::{Order, carry_out};
use crate::flow::clock::Clock;
use crate::host::terminal::say;
use crate::model::command::{Failure, Outcome, Refusal};
use crate::model::data_type::Kind;
use crate::model::quality::{Cause, Quality};
use crate::model::value::Value;
use crate::pipeline::limits;

/// A write that has not begun this long after it was confirmed is not carried out any more.
const DEADLINE: Duration = Duration::from_secs(30);

/// Arguments of `ironbridge write`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge write tcp 192.168.0.10:502 holding:200 42.5 --type float32 --order CDAB\n  \
    ironbridge write serial /dev/ttyUSB0 coil:3 on --unit 3 --yes\n  \
    ironbridge write --config plant.toml pump-1/speed_setpoint 42.5\n\n\
    With --config the value is in engineering units, and access and limits of the tag hold; there is no --force.\n\
    A serial port has one master, and so has a line behind a serial server: while the gateway runs on it, write through it\n\
    over MQTT instead. (In a container with a network of its own it is not seen; stop it first.)\n\
    Exit codes: 0 written and read back · 1 refused or failed · 64 usage · 75 nobody there · 78 configuration")]
pub struct Args {
    /// tcp HOST or HOST:PORT ADDRESS VALUE, serial PORT ADDRESS VALUE, or with --config: TAG VALUE
    ///
    /// A value is a number, true, false, on or off, or text.
    #[arg(value_name = "TARGET", required = true, num_args = 2.., allow_negative_numbers = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print one JSON object (does not ask: needs --yes)
    #[arg(long, requires = "yes")]
    pub json: bool,
}

/// Writes one value.
pub async fn run(args: Args, clock: Clock) -> Result<(), Failed> {
    let Some((text, words)) = args.words.split_last() else {
        return Err(Failed::Usage("a value is missing".into()));
    };
    let target = Target::find(&args.target, words, 1, Purpose::Write)?;
    let [wanted] = target.wanted.as_slice() else {
        return Err(Failed::Usage("one value to one address or tag".into()));
    };
    let tag = target.tag(wanted);
    if !tag.access.writes() {
        return Err(Failed::Config(format!(
            "{} has no access = \"read-write\" in the configuration; nobody may write it, the gateway's clients neither",
            wanted.label
        )));
    }
    let value = value(tag, text)?;
    check_limits(tag, wanted, &value)?;
    let mut wires = Wires::new(clock.clone());
    let old = if tag.access.reads() { Some(wires.read(&target, wanted).await?) } else { None };
    if let Some(answer) = old.as_ref().filter(|answer| answer.raw.is_none()) {
        return Err(unread(wanted, answer));
    }
    if !args.yes && !confirmed(tag, wanted, old.as_ref(), &value)? {
        return Err(Failed::Verdict);
    }
    let found = match tag.model() {
        None => None,
        Some(model) => match wires.find(&target, wanted, model).await? {
            Ok(found) => Some(found),
            Err(nowhere) => return Err(unread(wanted, &nowhere.answer(&target, wanted, Duration::ZERO))),
        },
    };
    let order = Order {
        tag: found.as_ref().map_or(tag, |found| &found.tag),
        scale_from: found.as_ref().map_or(target.scale_from(wanted), |found| found.scale_from.as_ref()),
        unit: wanted.unit,
        guard: found.as_ref().map(|found| found.model),
        value: &value,
        deadline: clock.now().after(DEADLINE),
        switches: None,
    };
    let done = carry_out(wires.driver(&target, wanted).await?, &clock, order).await;
    tell(&args, (tag, wanted), (old.as_ref(), &value), &done.outcome)
}

/// Nothing is written where nothing can be read: by who is not there, or by who said no.
fn unread(wanted: &Wanted, answer: &Answer) -> Failed {
    let text = format!("{}: {}", wanted.label, answer.advice.as_deref().unwrap_or("cannot be read"));
    match answer.quality {
        Quality::Bad(Cause::Timeout | Cause::Transport) => Failed::TryAgain(text),
        _ => refused(&text),
    }
}

fn refused(text: &str) -> Failed {
    say(format_args!("ironbridge: {text}"));
    Failed::Verdict
}

/// The value that a text means for a tag.
fn value(tag: &TagPlan, text: &str) -> Result<Value, Failed> {
    let number = || {
        let whole = text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Uint));
        whole.ok().or_else(|| text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float))
    };
    let switch = match text {
        "true" | "on" => Some(Value::Bool(true)),
        "false" | "off" => Some(Value::Bool(false)),
        _ => None,
    };
    match tag.data_type {
        data_type if tag.map.is_some() || data_type.kind() == Kind::Text => Ok(Value::Text(text.into())),
        data_type => switch.or_else(number).ok_or_else(|| Failed::Usage(format!("'{text}' is no {data_type}"))),
    }
}

/// Before anybody is asked, and before the device is.
fn check_limits(tag: &TagPlan, wanted: &Wanted, value: &Value) -> Result<(), Failed> {
    match value.as_f64() {
        Some(number) if !limits::of_writes(tag).contain(number) => {
            let limits = span(tag.write.limits);
            Err(refused(&format!("{}: {value} is outside {limits} of the configuration", wanted.label)))
        }
        _ => Ok(()),
    }
}

fn span(limits: Limits) -> String {
    let end = |limit: Option<f64>| limit.map(|limit| limit.to_string()).unwrap_or_default();
    format!("{} ..= {}", end(limits.min), end(limits.max))
}

fn confirmed(tag: &TagPlan, wanted: &Wanted, old: Option<&Answer>, new: &Value) -> Result<bool, Failed> {
    let place = tag.address_text().unwrap_or_default();
    let question = format_args!("{} (unit {}, {place}): {}. Write?", wanted.label, wanted.unit, change(tag, old, new));
    let yes = commands::confirmed(question, "nobody can be asked here: say --yes")?;
    if !yes {
        say("not written");
    }
    Ok(yes)
}

fn change(tag: &TagPlan, old: Option<&Answer>, new: &Value) -> String {
    let old = old.map_or_else(|| "(write only)".to_owned(), |old| value_text(tag, old.value.as_ref()));
    format!("{old} → {}", value_text(tag, Some(new)))
}

/// Prints how it ended.
fn tell(
    args: &Args,
    (tag, wanted): (&TagPlan, &Wanted),
    (old, new): (Option<&Answer>, &Value),
    outcome: &Outcome,
) -> Result<(), Failed> {
    let read_back = match outcome {
        Outcome::Done { read_back } | Outcome::Failed { read_back, .. } => read_back.as_ref(),
        Outcome::Refused(_) => None,
    };
    let advice = advice(tag, wanted, outcome);
    let text = if args.json {
        json!({
            "name": wanted.label,
            "unit_id": wanted.unit,
            "address": tag.address_text(),
            "old": value_json(old.and_then(|old| old.value.as_ref()), tag.data_type),
            "old_words": old.and_then(|old| old.raw.as_ref()).map(words),
            "new": value_json(Some(new), tag.data_type),
            "outcome": outcome.to_string(),
            "read_back": value_json(read_back, tag.data_type),
            "advice": advice,
        })
        .to_string()
    } else {
        let read_back =
            read_back.map(|value| format!(", reads back {}", value_text(tag, Some(value)))).unwrap_or_default();
        let advice = advice.map(|advice| format!("\n{advice}")).unwrap_or_default();
        format!("{}: {}: {outcome}{read_back}{advice}", wanted.label, change(tag, old, new))
    };
    commands::tell(&text);
    if matches!(outcome, Outcome::Done { .. }) { Ok(()) } else { Err(Failed::Verdict) }
}

fn advice(tag: &TagPlan, wanted: &Wanted, outcome: &Outcome) -> Option<String> {
    let text = match outcome {
        Outcome::Done { .. } => return None,
        Outcome::Refused(Refusal::Range) => format!("the value does not fit {}", tag.data_type),
        Outcome::Refused(Refusal::Payload) => format!("that is no value for {}", tag.data_type),
        Outcome::Refused(_) => "nothing was sent".to_owned(),
        Outcome::Failed { reason: Failure::Exception(code), .. } => explain::exception(*code, wanted.address),
        Outcome::Failed { reason: Failure::Verify, read_back: None } => {
            "the device confirmed it and does not say what it holds; read the value before writing again".into()
        }
        Outcome::Failed { reason: Failure::Verify, .. } => {
            "the device confirmed it and holds something else: is another master or its own program writing there?"
                .into()
        }
        Outcome::Failed { reason: Failure::Timeout, .. } => {
            "no answer to the write: it may have arrived or not; read the value before writing again".into()
        }
        Outcome::Failed { .. } => "read the value before writing again".into(),
    };
    Some(text)
}
