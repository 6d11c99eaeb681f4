//! One command to a device: check, write, read back, say how it ended.
//!
//! Fed by the router through the bus's small queue; taken by the bus before the next poll. Promises: the deadline, and who
//! is to be left alone, are looked at just before the wire; a write that may have arrived goes out once, unless the tag's
//! `write.retry` says that twice does no harm; `done` means that the device confirmed it and, with `verify`, that it holds
//! what was written. Between the read and the write of some bits nothing else is on the bus: it is one task.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::driver::Driver;
use super::modbus::exchange::Sent;
use super::modbus::session::{Reading, Trouble};
use super::modbus::write::{Intent, Write, intend, read_back};
use super::outcome::{BUSY_MAX, BUSY_WAIT};
use super::sunspec::chain::Model;
use super::sunspec::guarded;
use super::switches::Switches;
use super::tags::exponent;
use crate::config::plan::{Plan, TagPlan, Verify};
use crate::flow::clock::Clock;
use crate::model::command::{Failure, Outcome, Refusal};
use crate::model::tag::TagIx;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::pipeline::meaning::Factor;

/// Commands that may wait for one bus; a full queue is `refused: busy`.
pub const COMMANDS_WAITING_MAX: usize = 16;
/// Many PLCs take a write over at the end of their cycle: a difference is looked at again after this long.
const VERIFY_AGAIN: Duration = Duration::from_millis(100);

/// The device does not know the function, and has done nothing (Application Protocol 1.1b3, section 7).
const ILLEGAL_FUNCTION: u8 = 1;
/// The device has accepted the request, and will take long over it.
const ACKNOWLEDGE: u8 = 5;
/// The device is at work on something else, and has not taken the request: later.
const DEVICE_BUSY: u8 = 6;

/// It is the gateway in between that says so: the unit behind it is silent (section 7).
pub(super) const fn is_of_gateway(exception: u8) -> bool {
    matches!(exception, 10 | 11)
}

/// A command on its way to its bus.
#[derive(Debug)]
pub struct FieldCommand {
    /// By which plan it was checked: what the value means, and where it goes. A bus whose plan says otherwise refuses it.
    pub plan: Arc<Plan>,
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
    /// Not sent.
    pub const fn refused(refusal: Refusal) -> Self {
        Self { outcome: Outcome::Refused(refusal), contact: Contact::None }
    }

    const fn failed(reason: Failure, contact: Contact) -> Self {
        Self { outcome: Outcome::Failed { reason, read_back: None }, contact }
    }

    /// Trouble before anything was written.
    pub fn unsent(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Timeout | Trouble::Protocol => Self::failed(Failure::Transport, Contact::Silent),
            Trouble::Lost { .. } => Self::failed(Failure::Transport, Contact::None),
            Trouble::Exception(_) | Trouble::TooLong => Self::of_trouble(trouble),
        }
    }

    fn of_trouble(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::Exception(code) if is_of_gateway(*code) => {
                Self::failed(Failure::Exception(*code), Contact::Silent)
            }
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
    /// The tag that holds its scale factor, if it has one.
    pub scale_from: Option<&'a TagPlan>,
    /// The unit of its device.
    pub unit: u8,
    /// The SunSpec model that has to be where it was found, or nothing is written.
    pub guard: Option<Model>,
    /// What to write.
    pub value: &'a Value,
    /// Not to be sent after this.
    pub deadline: Stamp,
    /// Whom a person wants left alone, on the whole bus; `None` where nobody can say so.
    pub switches: Option<&'a Switches>,
}

/// How a step before the end can end.
enum Stop {
    /// It was not sent.
    Refused(Refusal),
    /// It went wrong.
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Carries a command out. Not cancel-safe: let it finish.
pub async fn carry_out(driver: &mut Driver, clock: &Clock, order: Order<'_>) -> Done {
    let mut ended = attempt(driver, clock, order).await;
    if matches!(ended, Err(Stop::Trouble(Trouble::Lost { sent: Sent::Nothing, .. }))) && driver.renewed().await {
        ended = attempt(driver, clock, order).await;
    }
    match ended {
        Ok(done) => done,
        Err(Stop::Refused(refusal)) => Done::refused(refusal),
        Err(Stop::Trouble(trouble)) => Done::of_trouble(&trouble),
    }
}

async fn attempt(driver: &mut Driver, clock: &Clock, order: Order<'_>) -> Result<Done, Stop> {
    let early = if order.scale_from.is_none() { Some(intent_of(order, Factor::None)?) } else { None };
    if let Err(trouble) = driver.settle(order.unit).await {
        // Closed while nobody asked: worth one new connection, nothing has been sent.
        if !driver.was_proven() || driver.open().await.is_err() {
            return Err(trouble.into());
        }
    }
    still_wanted(driver, clock, order)?;
    if order.scale_from.is_some() {
        present(driver, order).await?; // or what follows is no scale factor
    }
    let factor = factor(driver, order).await?;
    let intent = match early {
        Some(intent) => intent,
        None => intent_of(order, factor)?,
    };
    if driver.broadcasts(order.unit) {
        // Nobody answers, so nothing can be read either: check has seen to it that nothing has to be.
        let write = intent.write(None).ok_or(Stop::Refused(Refusal::Access))?;
        driver.broadcast(&write).await?;
        return Ok(Done { outcome: Outcome::Done { read_back: None }, contact: Contact::None });
    }
    let taken = send(driver, clock, order, &intent).await?;
    if order.tag.write.verify == Verify::TrustReply {
        let outcome = match taken {
            Taken::Over => Outcome::Done { read_back: None },
            Taken::In => in_doubt(None),
        };
        return Ok(Done { outcome, contact: Contact::Answered });
    }
    Ok(verify(driver, order, &intent, (factor, taken)).await?)
}

/// What a device says of a write that it does not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It is done.
    Over,
    /// It is begun, and takes long.
    In,
}

/// It was begun, and nobody can say that it was done.
fn in_doubt(read_back: Option<Value>) -> Outcome {
    Outcome::Failed { reason: Failure::Timeout, read_back }
}

fn intent_of(order: Order<'_>, factor: Factor) -> Result<Intent, Stop> {
    intend(order.tag, factor, order.value).map_err(Stop::Refused)
}

/// The SunSpec model of the tag is where it was found.
async fn present(driver: &mut Driver, order: Order<'_>) -> Result<(), Stop> {
    match order.guard {
        Some(model) if !guarded::is_there(driver, order.unit, model).await? => Err(Stop::Refused(Refusal::Absent)),
        _ => Ok(()),
    }
}

/// It is not too late, and nobody whom the write would reach is to be left alone: of a broadcast that is the whole line.
fn still_wanted(driver: &Driver, clock: &Clock, order: Order<'_>) -> Result<(), Stop> {
    let everybody = driver.broadcasts(order.unit);
    let holds = |all: &Switches| if everybody { all.hold_any() } else { all.holds(order.tag.device) };
    if order.switches.is_some_and(holds) {
        Err(Stop::Refused(Refusal::Paused))
    } else if clock.now() > order.deadline {
        Err(Stop::Refused(Refusal::Expired))
    } else {
        Ok(())
    }
}

/// The scale factor as the device has it now. A value that cannot be expressed without it is out of range.
async fn factor(driver: &mut Driver, order: Order<'_>) -> Result<Factor, Stop> {
    let Some(holder) = order.scale_from else { return Ok(Factor::None) };
    let Some(place) = holder.register() else { return Err(Stop::Refused(Refusal::Range)) };
    let reading = driver.read(order.unit, place.table, place.start, holder.data_type.registers()).await?;
    let value = read_back(holder, Factor::None, &reading);
    let exponent = value.and_then(|value| exponent(&value).ok());
    exponent.map(Factor::Known).ok_or(Stop::Refused(Refusal::Range))
}

/// Sends the write until the device has taken it, or until it must not be sent again.
async fn send(driver: &mut Driver, clock: &Clock, order: Order<'_>, intent: &Intent) -> Result<Taken, Stop> {
    let (mut retries, mut busy, mut instead, mut reopened) = (order.tag.write.retries, 0, None, false);
    let mut earlier: Option<Trouble> = None;
    loop {
        let sent = once(driver, clock, order, intent, instead.take()).await;
        if let Ok((write, Err(Trouble::Exception(ILLEGAL_FUNCTION)))) = &sent
            && let Some(other) = intent.instead_of(write)
        {
            instead = Some(other);
            continue;
        }
        if driver.renewed().await {
            continue; // an answer is owed, maybe that to an earlier attempt: this one has not been sent
        }
        let is_busy = matches!(sent, Ok((_, Err(Trouble::Exception(DEVICE_BUSY)))));
        if is_busy && busy < BUSY_MAX && earlier.is_none() {
            busy += 1;
            sleep(BUSY_WAIT).await;
            continue;
        }
        let trouble = match (sent, earlier.take()) {
            (Ok((_, Ok(()))), _) => return Ok(Taken::Over),
            (Ok((_, Err(Trouble::Exception(ACKNOWLEDGE)))), _) => return Ok(Taken::In),
            (Ok((_, Err(trouble))) | Err(Stop::Trouble(trouble)), None) => trouble,
            // An earlier attempt may have arrived: that is what the sender must know, also when this one is refused.
            (Ok((_, Err(Trouble::Lost { .. } | Trouble::Exception(_)))) | Err(_), Some(before)) => {
                return Err(before.into());
            }
            (Ok((_, Err(trouble))), Some(_)) => trouble,
            (Err(refused), None) => return Err(refused),
        };
        let surely_unsent = matches!(trouble, Trouble::Lost { sent: Sent::Nothing, .. });
        let again = match trouble {
            Trouble::Lost { .. } if surely_unsent && !reopened => driver.was_proven(),
            Trouble::Timeout | Trouble::Protocol | Trouble::Lost { .. } if !surely_unsent && retries > 0 => {
                retries -= 1;
                true
            }
            _ => false,
        };
        let is_lost = matches!(trouble, Trouble::Lost { .. });
        if !again || is_lost && driver.open().await.is_err() {
            return Err(trouble.into());
        }
        reopened |= surely_unsent;
        earlier = (!surely_unsent).then_some(trouble);
    }
}

/// One request on the wire: the write that went out, and how that ended.
async fn once(
    driver: &mut Driver,
    clock: &Clock,
    order: Order<'_>,
    intent: &Intent,
    instead: Option<Write>,
) -> Result<(Write, Result<(), Trouble>), Stop> {
    still_wanted(driver, clock, order)?; // this may be a repetition
    let (table, start, count) = intent.extent();
    let write = match instead {
        Some(write) => write,
        None => {
            let held =
                if intent.needs_reading() { Some(driver.read(order.unit, table, start, count).await?) } else { None };
            intent.write(held.as_ref()).ok_or(Trouble::Protocol)?
        }
    };
    if driver.must_learn_echo()
        && write.answers_like_an_echo()
        && let Err(lost @ Trouble::Lost { .. }) = driver.read(order.unit, table, start, count).await
    {
        return Err(lost.into());
    }
    present(driver, order).await?;
    driver.settle(order.unit).await?;
    still_wanted(driver, clock, order)?;
    let sent = driver.write(order.unit, &write).await;
    Ok((write, sent))
}

async fn verify(
    driver: &mut Driver,
    order: Order<'_>,
    intent: &Intent,
    (factor, taken): (Factor, Taken),
) -> Result<Done, Trouble> {
    let (looks, wait) = match taken {
        Taken::Over => (1, VERIFY_AGAIN),
        Taken::In => (BUSY_MAX, BUSY_WAIT),
    };
    let mut reading = held(driver, order, intent).await?;
    for _ in 0..looks {
        if reading.as_ref().is_none_or(|reading| intent.holds(reading)) {
            break;
        }
        sleep(wait).await;
        reading = held(driver, order, intent).await?;
    }
    let is_there = reading.as_ref().is_some_and(|reading| intent.holds(reading));
    let read_back = reading.and_then(|reading| read_back(order.tag, factor, &reading));
    let outcome = match taken {
        _ if is_there => Outcome::Done { read_back },
        Taken::Over => Outcome::Failed { reason: Failure::Verify, read_back },
        Taken::In => in_doubt(read_back),
    };
    Ok(Done { outcome, contact: Contact::Answered })
}

/// What the device holds after a write that it has taken. `None`: it does not say. Its exception is one to the reading
/// then, and "refused" would have the sender write a second time. Busy with storing it is asked again like by a poll.
async fn held(driver: &mut Driver, order: Order<'_>, intent: &Intent) -> Result<Option<Reading>, Trouble> {
    let (table, start, count) = intent.extent();
    let mut busy = 0;
    loop {
        match driver.read(order.unit, table, start, count).await {
            Err(Trouble::Exception(5 | 6)) if busy < BUSY_MAX => {
                busy += 1;
                sleep(BUSY_WAIT).await;
            }
            Err(Trouble::Exception(_)) => return Ok(None),
            read => return read.map(Some).map_err(now_sent),
        }
    }
}

/// After the write "nothing was sent" is not true any more, whatever happens to the read.
fn now_sent(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Lost { error, .. } => Trouble::Lost { error, sent: Sent::All },
        other => other,
    }
}
