//! Tags in SunSpec models, asked for by hand: finds the model, reads it with its header and its scale factor in one go.
//!
//! A part of [`super::ask`]. The same caution as in the gateway: what is not of the model that was found is not shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ask::{Answer, Wires, cause, factor_in, judge};
use super::explain;
use super::target::{Target, Wanted};
use crate::commands::Failed;
use crate::config::blocks::{longest_read, width};
use crate::config::plan::TagPlan;
use crate::field::driver::Driver;
use crate::field::modbus::session::{Reading, Trouble};
use crate::field::sunspec::chain::{Chain, Model};
use crate::field::sunspec::discovery::Discovery;
use crate::field::sunspec::guarded::{self, Guarded, Part};
use crate::model::quality::{Cause, Quality};
use crate::model::sunspec::{ModelRef, TABLE};
use crate::pipeline::meaning::Factor;

/// What is known of the chains of a target's devices, by bus and unit.
pub type Chains = BTreeMap<(u32, u8), Discovery>;

/// A tag in a model that was found.
pub struct Found {
    /// With its address on the wire.
    pub tag: TagPlan,
    /// The tag with its scale factor, likewise.
    pub scale_from: Option<TagPlan>,
    /// Its model.
    pub model: Model,
}

/// Why a tag cannot be had.
pub enum Nowhere {
    /// The device said nothing useful.
    Trouble(Trouble),
    /// It said that there is no such place.
    Absent(String),
}

impl From<Trouble> for Nowhere {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Nowhere {
    /// As an answer.
    pub fn answer(&self, target: &Target, wanted: &Wanted, took: Duration) -> Answer {
        let (cause, advice) = match self {
            Self::Trouble(trouble) => {
                (cause(trouble), explain::trouble(trouble, &target.bus(wanted).link, wanted.address))
            }
            Self::Absent(advice) => (Cause::Config, advice.clone()),
        };
        Answer { raw: None, value: None, quality: Quality::Bad(cause), advice: Some(advice), at: None, took }
    }
}

impl Wires {
    /// Where a tag is that is in a model. Only a bus that does not open is a failure.
    pub async fn find(
        &mut self,
        target: &Target,
        wanted: &Wanted,
        model: ModelRef,
    ) -> Result<Result<Found, Nowhere>, Failed> {
        self.driver(target, wanted).await?;
        let (driver, discovery) = self.device(wanted);
        let Some(driver) = driver else { return Err(Failed::TryAgain("the bus is closed".into())) };
        Ok(find(driver, discovery, target, wanted, model).await)
    }

    /// Reads a tag that is in a model.
    pub(super) async fn read_in(
        &mut self,
        target: &Target,
        wanted: &Wanted,
        model: ModelRef,
    ) -> Result<Answer, Failed> {
        let asked = Instant::now();
        // A chain that moved since it was walked is walked once more.
        for _ in 0..2 {
            let found = match self.find(target, wanted, model).await? {
                Ok(found) => found,
                Err(nowhere) => return Ok(nowhere.answer(target, wanted, asked.elapsed())),
            };
            let (Some(driver), discovery) = self.device(wanted) else { break };
            match ask(driver, target, wanted, &found).await {
                Ok(Some((raw, factor))) => return Ok(judge(&found.tag, raw, factor, asked.elapsed())),
                Ok(None) => discovery.doubt(),
                Err(trouble) => return Ok(Nowhere::Trouble(trouble).answer(target, wanted, asked.elapsed())),
            }
        }
        let advice = format!("model {model} is not where the device says it is");
        Ok(Nowhere::Absent(advice).answer(target, wanted, asked.elapsed()))
    }
}

async fn find(
    driver: &mut Driver,
    discovery: &mut Discovery,
    target: &Target,
    wanted: &Wanted,
    model: ModelRef,
) -> Result<Found, Nowhere> {
    let territory = target.device(wanted).map(|device| &device.territory);
    let allows = |start: u16, count: u16| territory.is_none_or(|here| here.allows(TABLE, start.into(), count.into()));
    let walked = guarded::walk(driver, wanted.unit, discovery, |ask| allows(ask.start, ask.count)).await?;
    if let Some(chain) = walked {
        discovery.settle(chain, driver.connection(), &[model], tokio::time::Instant::now());
    }
    let chain = discovery.chain();
    let Some(found) = discovery.find(model) else { return Err(Nowhere::Absent(absent(model, chain))) };
    let short = || {
        let advice = format!("model {} of this device ends after {} registers", found.number, found.registers());
        Nowhere::Absent(advice)
    };
    let settle = |tag: &TagPlan| tag.settled(found.start, found.registers()).ok_or_else(short);
    let tag = settle(target.tag(wanted))?;
    let scale_from = target.scale_from(wanted).map(settle).transpose()?;
    if let Some(place) = tag.register().filter(|place| !allows(place.start, width(&tag))) {
        return Err(Nowhere::Absent(format!("lies at {place}, where this device is not to be read")));
    }
    Ok(Found { tag, scale_from, model: found })
}

/// Why there is no such model, for people.
pub fn absent(model: ModelRef, chain: Option<&Chain>) -> String {
    let Some(chain) = chain else { return "the device has no SunSpec models".to_owned() };
    let flaw = chain.flaw.map(|flaw| format!("; {flaw}")).unwrap_or_default();
    if chain.base.is_none() {
        return format!("the device has no SunSpec models{flaw}");
    }
    format!("the device has no model {model}; its models and their lengths: {chain}{flaw}")
}

/// The registers of a tag and its scale factor; `None`: they are not of its model.
async fn ask(
    driver: &mut Driver,
    target: &Target,
    wanted: &Wanted,
    found: &Found,
) -> Result<Option<(Reading, Result<Factor, Cause>)>, Trouble> {
    let Found { tag, scale_from, model } = found;
    let behind = |tag: &TagPlan| tag.register().map_or(0, |place| place.start.saturating_sub(model.start));
    let count = width(tag);
    let longest = target.device(wanted).map_or(0, |device| longest_read(device, TABLE));
    let factor_at = scale_from.as_ref().map(behind);
    let end = behind(tag).saturating_add(count).max(factor_at.map_or(0, |at| at.saturating_add(1)));
    let steady: Vec<u16> = factor_at.into_iter().filter(|at| *at < longest).collect();
    let part = if end <= longest {
        Part { start: 0, count: end.max(2), steady: &[] }
    } else {
        Part { start: behind(tag), count, steady: &steady }
    };
    let Guarded::Part(reading, head) = guarded::read(driver, wanted.unit, *model, part).await? else {
        return Ok(None);
    };
    let factor = match (scale_from, factor_at) {
        (Some(holder), Some(at)) => {
            let register = cut(head.as_ref().unwrap_or(&reading), at, 1);
            register.map_or(Err(Cause::Config), |register| factor_in(holder, &register))
        }
        _ => Ok(Factor::None),
    };
    Ok(cut(&reading, behind(tag) - part.start, count).map(|raw| (raw, factor)))
}

fn cut(reading: &Reading, at: u16, count: u16) -> Option<Reading> {
    let Reading::Registers(words) = reading else { return None };
    let at = usize::from(at);
    words.get(at..at + usize::from(count)).map(|words| Reading::Registers(words.to_vec()))
}
