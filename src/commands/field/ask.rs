//! Asking: one request per tag, what came back, what it means. Opens each bus once and keeps it for the next round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::explain;
use super::models::Chains;
use super::target::{Target, Wanted};
use crate::commands::Failed;
use crate::commands::decode::readings;
use crate::config::plan::TagPlan;
use crate::field::BusStats;
use crate::field::carrier::{self, Who};
use crate::field::driver::Driver;
use crate::field::modbus::decode::{Cut, Piece};
use crate::field::modbus::session::{Reading, Trouble};
use crate::field::modbus::timing::Timing;
use crate::field::modbus::write::read_back;
use crate::field::sunspec::discovery::Discovery;
use crate::field::tags::exponent;
use crate::flow::clock::Clock;
use crate::model::quality::{Cause, Quality};
use crate::model::tag::{Address, DataType};
use crate::model::time::millis;
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::meaning::{Factor, Meaning};

/// A reading with another order is mentioned when it is this much more plausible than the one asked for.
const MUCH_MORE_PLAUSIBLE: i32 = 35;

/// A float below this is rather something else.
const UNLIKELY: i32 = 10;

/// What one request brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// As they came off the wire; `None`: nothing came.
    pub raw: Option<Reading>,
    /// The engineering value.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
    /// What to make of it, in plain words.
    pub advice: Option<String>,
    /// Where it was found on the wire, for a tag in a SunSpec model.
    pub at: Option<Address>,
    /// From question to answer.
    pub took: Duration,
}

/// The open buses of a target.
pub struct Wires {
    clock: Clock,
    drivers: BTreeMap<u32, Driver>,
    /// Of all of them: one question is asked at a time.
    stats: Arc<BusStats>,
    chains: Chains,
}

impl Wires {
    /// None open yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, drivers: BTreeMap::new(), stats: Arc::default(), chains: Chains::new() }
    }

    /// The driver of a device's bus, if it was opened, and what is known of the device's models.
    pub(super) fn device(&mut self, wanted: &Wanted) -> (Option<&mut Driver>, &mut Discovery) {
        let chain = self.chains.entry((wanted.bus.0, wanted.unit)).or_default();
        (self.drivers.get_mut(&wanted.bus.0), chain)
    }

    /// The driver of a tag's bus, open.
    pub async fn driver(&mut self, target: &Target, wanted: &Wanted) -> Result<&mut Driver, Failed> {
        let bus = target.bus(wanted);
        let driver = self.drivers.entry(wanted.bus.0).or_insert_with(|| {
            let opener = carrier::opener_of(bus, &self.clock, Who::Tool);
            Driver::new(opener, Timing::new(bus), target.paces(wanted.bus), Arc::clone(&self.stats))
        });
        if !driver.is_open() {
            driver.open().await.map_err(|error| Failed::TryAgain(explain::not_open(&bus.link, &error)))?;
        }
        Ok(driver)
    }

    /// Reads one tag. Only a bus that does not open is an error; all else is an answer.
    pub async fn read(&mut self, target: &Target, wanted: &Wanted) -> Result<Answer, Failed> {
        if let Some(model) = target.tag(wanted).model() {
            return self.read_in(target, wanted, model).await;
        }
        let tag = target.tag(wanted);
        let foreign = self.stats.foreign.get();
        let driver = self.driver(target, wanted).await?;
        let factor = match target.scale_from(wanted) {
            None => Ok(Factor::None),
            Some(holder) => factor(driver, wanted.unit, holder).await,
        };
        let asked = Instant::now();
        let (table, start, count) = (wanted.address.table, wanted.address.start, count(tag, wanted.address));
        let mut read = driver.read(wanted.unit, table, start, count).await;
        if matches!(read, Err(Trouble::Lost { .. })) && driver.renewed().await {
            read = driver.read(wanted.unit, table, start, count).await;
        }
        let took = asked.elapsed();
        Ok(match read {
            Ok(raw) => judge(tag, raw, factor, took),
            Err(trouble) => Answer {
                raw: None,
                value: None,
                quality: Quality::Bad(cause(&trouble)),
                advice: Some(match trouble {
                    Trouble::Timeout if self.stats.foreign.get() > foreign => explain::other_unit(wanted.unit),
                    trouble => explain::trouble(&trouble, &target.bus(wanted).link, wanted.address),
                }),
                at: None,
                took,
            },
        })
    }
}

/// Registers or bits of one value.
fn count(tag: &TagPlan, address: Address) -> u16 {
    if address.table.is_bits() || address.bit.is_some() { 1 } else { tag.data_type.registers() }
}

/// The cause that a tag is bad for.
pub(super) const fn cause(trouble: &Trouble) -> Cause {
    match trouble {
        Trouble::Exception(10 | 11) | Trouble::Timeout => Cause::Timeout,
        Trouble::Exception(_) => Cause::Exception,
        Trouble::Protocol => Cause::Protocol,
        Trouble::TooLong => Cause::Config,
        Trouble::Lost { .. } => Cause::Transport,
    }
}

/// What came of the registers of a tag whose place is on the wire.
pub(super) fn judge(tag: &TagPlan, raw: Reading, factor: Result<Factor, Cause>, took: Duration) -> Answer {
    let (value, quality) = match factor {
        Ok(factor) => read(tag, &raw, factor),
        Err(cause) => (None, Quality::Bad(cause)),
    };
    let quality = match (&value, quality) {
        (Some(value), Quality::Good) => limits::judge(limits::of(tag), value),
        (_, quality) => quality,
    };
    let advice = match quality {
        Quality::Bad(_) if factor.is_err() => {
            Some("the tag with its scale factor (scale_from) has no value".to_owned())
        }
        Quality::Bad(Cause::Nan) => Some("the device says that there is no value (NaN)".to_owned()),
        Quality::Bad(_) => Some(format!("these words are no {}", tag.data_type)),
        Quality::Uncertain(_) => Some("outside min and max of the configuration".to_owned()),
        Quality::Good => None,
    };
    let better = better_order(tag, &raw);
    let advice = match (advice, better) {
        (Some(advice), Some(better)) => Some(format!("{advice}; {better}")),
        (advice, better) => advice.or(better),
    };
    Answer { raw: Some(raw), value, quality, advice, at: tag.register(), took }
}

fn read(tag: &TagPlan, raw: &Reading, factor: Factor) -> (Option<Value>, Quality) {
    let missing = (None, Quality::Bad(Cause::Config));
    let Some(cut) = tag.register().and_then(|address| Cut::new(tag, address.start)) else { return missing };
    match cut.piece(raw) {
        Piece::Bit(on) => Meaning::of(tag).read_bit(on),
        Piece::Words(words) => Meaning::of(tag).read(words, factor),
        Piece::Missing => missing,
    }
}

/// The scale factor that another tag of the device holds now.
async fn factor(driver: &mut Driver, unit: u8, holder: &TagPlan) -> Result<Factor, Cause> {
    let place = holder.register().ok_or(Cause::Config)?;
    let read = driver.read(unit, place.table, place.start, holder.data_type.registers()).await;
    let reading = read.map_err(|trouble| cause(&trouble))?;
    factor_in(holder, &reading)
}

/// The scale factor in the register of its tag.
pub(super) fn factor_in(holder: &TagPlan, register: &Reading) -> Result<Factor, Cause> {
    let value = read_back(holder, Factor::None, register).ok_or(Cause::Nan)?;
    exponent(&value).map(Factor::Known)
}

/// The usual suspect when values look absurd.
fn better_order(tag: &TagPlan, raw: &Reading) -> Option<String> {
    let Reading::Registers(words) = raw else { return None };
    if words.len() < 2 || matches!(tag.data_type, DataType::Text(_)) {
        return None;
    }
    let all = readings::readings(words, 0);
    let named = |reading: &&readings::Reading, order| {
        reading.data_type == tag.data_type && reading.order == order || reading.alike.contains(&(tag.data_type, order))
    };
    let own = all.iter().find(|reading| named(reading, tag.order)).map_or(0, |reading| reading.score);
    let best = all.iter().find(|reading| reading.data_type == tag.data_type)?;
    let value = best.values.first()?.as_ref();
    if own < UNLIKELY && best.score < own + MUCH_MORE_PLAUSIBLE && tag.data_type.is_float() {
        let words = self::words(raw);
        return Some(format!("an unlikely {}: `ironbridge decode {words}` shows other readings", tag.data_type));
    }
    (best.score >= own + MUCH_MORE_PLAUSIBLE).then(|| {
        format!(
            "with order {} the registers read {}: is the word order right?",
            best.order.as_str(),
            readings::shown(value)
        )
    })
}

/// The words of a reading as people compare them with a manual.
pub fn words(raw: &Reading) -> String {
    match raw {
        Reading::Registers(words) => words.iter().map(|word| format!("0x{word:04X}")).collect::<Vec<_>>().join(" "),
        Reading::Bits(bits) => bits.iter().map(|bit| if *bit { "1" } else { "0" }).collect::<Vec<_>>().join(" "),
    }
}

/// A value and its unit.
pub fn value_text(tag: &TagPlan, value: Option<&Value>) -> String {
    let value = value.map_or_else(|| "-".to_owned(), |value| readings::shown(Some(value)));
    if tag.unit.is_empty() { value } else { format!("{value} {}", tag.unit) }
}

/// An answer for a script.
pub fn answer_json(target: &Target, wanted: &Wanted, answer: &Answer) -> Json {
    let tag = target.tag(wanted);
    json!({
        "name": wanted.label,
        "bus": target.bus(wanted).name,
        "unit_id": wanted.unit,
        "address": target.address(wanted),
        "found_at": answer.at.filter(|_| tag.model().is_some()).map(|at| at.to_string()),
        "type": tag.data_type.to_string(),
        "order": tag.order.as_str(),
        "words": match &answer.raw {
            Some(Reading::Registers(words)) => json!(words),
            Some(Reading::Bits(bits)) => json!(bits),
            None => Json::Null,
        },
        "value": value_json(answer.value.as_ref(), tag.data_type),
        "unit": tag.unit,
        "quality": answer.quality.as_str(),
        "cause": answer.quality.cause().map(Cause::as_str),
        "advice": answer.advice,
        "elapsed_ms": millis(answer.took),
    })
}

/// 64-bit integers exact, a float32 with the digits it has as one (0.1, not 0.10000000149), null where there is no value.
pub fn value_json(value: Option<&Value>, data_type: DataType) -> Json {
    match value {
        None => Json::Null,
        Some(Value::Bool(bit)) => json!(bit),
        Some(Value::Int(number)) => json!(number),
        Some(Value::Uint(number)) => json!(number),
        Some(Value::Float(number)) if data_type == DataType::Float32 => json!(readings::shortest(*number)),
        Some(Value::Float(number)) => json!(number),
        Some(Value::Text(text)) => json!(text),
    }
}
