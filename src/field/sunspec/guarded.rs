//! Reading in a model, with a look at its header.
//!
//! Where a read begins with the header, it shows itself whether it is of this model. Where it cannot (the model is longer than
//! one read), the header is read before and after, and with it the scale factors that stand near it: what was the same
//! twice was so in between. What does not fit is reported, never returned.

use tokio::time::Instant;

use crate::field::driver::Driver;
use crate::field::modbus::session::{Reading, Trouble};
use crate::model::sunspec::{HEADER_REGISTERS, TABLE};

use super::chain::{Chain, Model};
use super::discovery::Discovery;
use super::walk::Ask;

/// What to read of a model, counted from its first register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// The first register.
    pub start: u16,
    /// How many, within the model.
    pub count: u16,
    /// Registers near the header, in one read with it, that have to be the same before and after, where the part itself does
    /// not begin with the header.
    pub steady: &'a [u16],
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarded {
    /// The registers, and those from the header on where they were read apart.
    Part(Reading, Option<Reading>),
    /// The model is not there any more.
    Moved,
    /// The scale factors beside the header were others before and after.
    Unsettled,
}

/// Reads a part of a model where it was found. Not cancel-safe.
pub async fn read(driver: &mut Driver, unit: u8, model: Model, part: Part<'_>) -> Result<Guarded, Trouble> {
    let Some(start) = model.start.checked_add(part.start) else { return Ok(Guarded::Moved) };
    if part.start == 0 && part.count >= HEADER_REGISTERS {
        let reading = driver.read(unit, TABLE, start, part.count).await?;
        return Ok(if heads(model, &reading) { Guarded::Part(reading, None) } else { Guarded::Moved });
    }
    let head = part.steady.iter().map(|at| at.saturating_add(1)).fold(HEADER_REGISTERS, u16::max);
    let before = driver.read(unit, TABLE, model.start, head).await?;
    if !heads(model, &before) {
        return Ok(Guarded::Moved);
    }
    let reading = driver.read(unit, TABLE, start, part.count).await?;
    let after = driver.read(unit, TABLE, model.start, head).await?;
    let steady = part.steady.iter().all(|at| word(&before, *at) == word(&after, *at));
    Ok(match (heads(model, &after), steady) {
        (false, _) => Guarded::Moved,
        (true, false) => Guarded::Unsettled,
        (true, true) => Guarded::Part(reading, Some(after)),
    })
}

fn word(reading: &Reading, at: u16) -> Option<u16> {
    match reading {
        Reading::Registers(words) => words.get(usize::from(at)).copied(),
        Reading::Bits(_) => None,
    }
}

fn heads(model: Model, reading: &Reading) -> bool {
    matches!(reading, Reading::Registers(words) if model.has_header(words))
}

/// Is the model where it was found? Not cancel-safe.
pub async fn is_there(driver: &mut Driver, unit: u8, model: Model) -> Result<bool, Trouble> {
    Ok(heads(model, &driver.read(unit, TABLE, model.start, HEADER_REGISTERS).await?))
}

/// Walks the chain of a device in one go, for who has nothing else to do; `discovery` says whether that is needed, and
/// `allows` what may be asked. The chain, when it was; then it has to be settled. Not cancel-safe.
pub async fn walk(
    driver: &mut Driver,
    unit: u8,
    discovery: &mut Discovery,
    allows: impl Fn(Ask) -> bool,
) -> Result<Option<Chain>, Trouble> {
    let now = Instant::now();
    while let Some(ask) = discovery.ask(driver.connection(), now) {
        if !allows(ask) {
            match discovery.refused() {
                None => continue,
                ended => return Ok(ended),
            }
        }
        let ended = match driver.read(unit, TABLE, ask.start, ask.count).await {
            Ok(Reading::Registers(words)) => discovery.heard(&words),
            Ok(Reading::Bits(_)) => return Err(Trouble::Protocol),
            // Busy, or nobody behind the gateway: that says nothing about the register.
            Err(Trouble::Exception(code)) if !matches!(code, 5 | 6 | 10 | 11) => discovery.refused(),
            Err(trouble) => return Err(trouble),
        };
        if ended.is_some() {
            return Ok(ended);
        }
    }
    Ok(None)
}
