//! One command to a device: check, write, read back, say how it ended.
//!
//! Fed by the router through the bus's small queue; taken by the bus before the next poll. Promises: the deadline is
//! looked at just before the wire; a write goes out at most once, whatever comes back; `done` means that the device
//! confirmed it and, with `verify`, that it holds what was written.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::driver::Driver;
use super::modbus::gate::Sent;
use super::modbus::session::{Reading, Trouble};
use super::modbus::write::{Intent, Write, intend, read_back};
use crate::config::plan::{TagPlan, Verify};
use crate::flow::clock::Clock;
use crate::model::command::{Failure, Outcome, Refusal};
use crate::model::tag::{Table, TagIx};
use crate::model::time::Stamp;
use crate::model::value::Value;

/// Commands that may wait for one bus; a full queue is `refused: busy`.
pub const COMMANDS_WAITING_MAX: usize = 16;
/// Many PLCs take a write over at the end of their cycle: a difference is looked at again after this long.
const VERIFY_AGAIN: Duration = Duration::from_millis(100);

/// A command on its way to its bus.
#[derive(Debug)]
pub struct FieldCommand {
    /// What is written.
    pub tag: TagIx,
    /// Engineering value.
    pub value: Value,
    /// Not to be sent after this.
    pub deadline: Stamp,
    /// Told how it ended, once. When nobody waits any more the command is not carried out.
    pub reply: oneshot::Sender<Outcome>,
}

/// Whether the device answered, for its standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// The device was not asked, or its connection broke.
    None,
    /// It answered.
    Answered,
    /// It did not.
    Silent,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// For the sender.
    pub outcome: Outcome,
    /// For the standing of the device.
    pub contact: Contact,
}

impl Done {
    const fn refused(refusal: Refusal) -> Self {
        Self { outcome: Outcome::Refused(refusal), contact: Contact::None }
    }

    const fn failed(reason: Failure, contact: Contact) -> Self {
        Self { outcome: Outcome::Failed { reason, read_back: None }, contact }
    }

    fn of_trouble(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Exception(code) => Self::failed(Failure::Exception(*code), Contact::Answered),
            Trouble::Timeout => Self::failed(Failure::Timeout, Contact::Silent),
            Trouble::Protocol => Self::failed(Failure::Protocol, Contact::Silent),
            Trouble::TooLong => Self::refused(Refusal::Range),
            Trouble::Lost { sent: Sent::Nothing, .. } => Self::failed(Failure::Transport, Contact::None),
            // It may have arrived: "nothing was sent" would be a lie.
            Trouble::Lost { .. } => Self::failed(Failure::Timeout, Contact::None),
        }
    }
}

/// One command with all it needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Of the tag.
    pub tag: &'a TagPlan,
    /// The unit of its device.
    pub unit: u8,
    /// What to write.
    pub value: &'a Value,
    /// Not to be sent after this.
    pub deadline: Stamp,
}

/// Carries a command out. Not cancel-safe: let it finish.
pub async fn carry_out(driver: &mut Driver, clock: &Clock, order: Order<'_>) -> Done {
    let intent = match intend(order.tag, order.value) {
        Ok(intent) => intent,
        Err(refusal) => return Done::refused(refusal),
    };
    match attempt(driver, clock, order, intent).await {
        Ok(done) => done,
        Err(trouble) => Done::of_trouble(&trouble),
    }
}

async fn attempt(driver: &mut Driver, clock: &Clock, order: Order<'_>, intent: Intent) -> Result<Done, Trouble> {
    let unit = order.unit;
    if let Err(trouble) = driver.settle(unit).await {
        // Closed while nobody asked: worth one new connection, nothing has been sent.
        if !driver.was_proven() || driver.open().await.is_err() {
            return Err(trouble);
        }
    }
    if clock.now() > order.deadline {
        return Ok(Done::refused(Refusal::Expired));
    }
    let write = match intent {
        Intent::Write(write) => write,
        Intent::Bit { address, bit, on } => {
            let Reading::Registers(words) = driver.read(unit, Table::Holding, address, 1).await? else {
                return Err(Trouble::Protocol);
            };
            let word = words.first().copied().ok_or(Trouble::Protocol)?;
            let word = if on { word | 1 << bit } else { word & !(1 << bit) };
            Write::Registers { address, words: vec![word] }
        }
    };
    if driver.must_learn_echo() && write.registers() == 1 {
        let (table, start, count) = write.extent();
        if let Err(lost @ Trouble::Lost { .. }) = driver.read(unit, table, start, count).await {
            return Err(lost);
        }
    }
    driver.settle(unit).await?;
    if clock.now() > order.deadline {
        return Ok(Done::refused(Refusal::Expired));
    }
    driver.write(unit, &write).await?;
    if order.tag.write.verify == Verify::TrustReply {
        return Ok(Done { outcome: Outcome::Done { read_back: None }, contact: Contact::Answered });
    }
    verify(driver, order, &write).await
}

async fn verify(driver: &mut Driver, order: Order<'_>, write: &Write) -> Result<Done, Trouble> {
    let (table, start, count) = write.extent();
    let mut reading = driver.read(order.unit, table, start, count).await.map_err(now_sent)?;
    if !write.holds(&reading) {
        sleep(VERIFY_AGAIN).await;
        reading = driver.read(order.unit, table, start, count).await.map_err(now_sent)?;
    }
    let read_back = read_back(order.tag, &reading);
    let outcome = if write.holds(&reading) {
        Outcome::Done { read_back }
    } else {
        Outcome::Failed { reason: Failure::Verify, read_back }
    };
    Ok(Done { outcome, contact: Contact::Answered })
}

/// After the write "nothing was sent" is not true any more, whatever happens to the read.
fn now_sent(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Lost { error, .. } => Trouble::Lost { error, sent: Sent::All },
        other => other,
    }
}
