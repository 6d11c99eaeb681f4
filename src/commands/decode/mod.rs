//! `ironbridge decode`: every plausible reading of raw registers, best guesses first, with the line for the configuration.
//!
//! `words` reads the command line, `readings` tries types and orders, `plausible` judges a value. All of it is offline.

use std::fmt::Write as _;

use serde_json::json;

use super::field::ask::value_json;
use super::{self as commands, Failed};
use crate::flow::clock::Clock;
use crate::model::tag::{DataType, Order};
use readings::{Reading, shown};
use words::Notation;

mod plausible;
pub mod readings;
pub mod words;

/// Readings below this score are shown with `--all` only.
const SHOWN_MIN: i32 = 15;
/// So many readings are shown without `--all`.
const SHOWN_MAX: usize = 8;

/// Arguments of `ironbridge decode`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge decode 0x42F6 0xE979        123.456 as float32\n  \
    ironbridge decode 59769 17142          the same with its words reversed: order CDAB\n  \
    ironbridge decode -- -10               a negative register, as some tools print it\n\n\
    Best guess first: measurements with few digits, small numbers, text, times near now. Paste the line on the right\n\
    into a [[device.tag]], one key per line.")]
pub struct Args {
    /// Registers as they were read, in address order: decimal, or hex with 0x
    ///
    /// If any word has a hex letter (42F6), all of them are taken as hex, four digits to a register. Longer hex is cut
    /// into registers (0x42F6E979). Lists such as [17142, 59769] are understood.
    #[arg(value_name = "WORD", required = true, allow_negative_numbers = true)]
    pub words: Vec<String>,
    /// Take all words as hex, also those of digits only
    #[arg(long)]
    pub hex: bool,
    /// Show the implausible readings too
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object with every reading
    #[arg(long)]
    pub json: bool,
}

/// Prints the readings.
pub fn run(args: &Args, clock: &Clock) -> Result<(), Failed> {
    let notation = if args.hex { Notation::Hex } else { Notation::Guess };
    let words = words::read(&args.words, notation).map_err(Failed::Usage)?;
    let readings = readings::readings(&words, clock.wall_now().unix_ms / 1000);
    let text = if args.json { json_text(&words, &readings) } else { plain_text(&words, &readings, args.all) };
    commands::print(format!("{}\n", text.trim_end()))
}

fn plain_text(words: &[u16], readings: &[Reading], all: bool) -> String {
    let mut out = String::new();
    let hex: Vec<_> = words.iter().map(|word| format!("0x{word:04X}")).collect();
    let _ = writeln!(out, "{}\n", hex.join(" ")); // writing to a String cannot fail
    let worth = |reading: &&Reading| all || reading.score >= SHOWN_MIN;
    let shown: Vec<&Reading> = readings.iter().filter(worth).take(if all { usize::MAX } else { SHOWN_MAX }).collect();
    let values: Vec<String> = shown.iter().map(|reading| values(reading)).collect();
    let width = values.iter().map(|text| text.chars().count()).max().unwrap_or(0).min(40);
    for (reading, values) in shown.iter().zip(&values) {
        let _ = writeln!(
            out,
            "{:>3} %  {values:<width$}  {}",
            reading.score,
            config_line(reading.data_type, reading.order)
        );
        for note in &reading.notes {
            let _ = writeln!(out, "       {note}");
        }
        if !reading.alike.is_empty() {
            let _ = writeln!(out, "       the same as {}", alike(reading));
        }
    }
    let hidden = readings.len() - shown.len();
    if hidden > 0 {
        let _ = writeln!(out, "\n{hidden} less plausible readings: --all");
    }
    out
}

fn values(reading: &Reading) -> String {
    reading.values.iter().map(|value| shown(value.as_ref())).collect::<Vec<_>>().join("  ")
}

fn alike(reading: &Reading) -> String {
    let name = |(data_type, order): &(DataType, Order)| format!("{data_type} {}", order.as_str());
    reading.alike.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What goes into a `[[device.tag]]`.
fn config_line(data_type: DataType, order: Order) -> String {
    match order {
        Order::Abcd => format!("type = \"{data_type}\""),
        order => format!("type = \"{data_type}\", order = \"{}\"", order.as_str()),
    }
}

fn json_text(words: &[u16], readings: &[Reading]) -> String {
    let one = |reading: &Reading| {
        json!({
            "score": reading.score,
            "type": reading.data_type.to_string(),
            "order": reading.order.as_str(),
            "values": reading.values.iter().map(|value| value_json(value.as_ref(), reading.data_type)).collect::<Vec<_>>(),
            "config": config_line(reading.data_type, reading.order),
            "notes": reading.notes,
            "alike": reading.alike.iter().map(|(data_type, order)| {
                json!({ "type": data_type.to_string(), "order": order.as_str() })
            }).collect::<Vec<_>>(),
        })
    };
    json!({ "words": words, "readings": readings.iter().map(one).collect::<Vec<_>>() }).to_string()
}
