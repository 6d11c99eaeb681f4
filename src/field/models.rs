//! What a lane does for tags in SunSpec models: looks for the models, reads there, notices when they are not there. A part of
//! [`super::lane`].
//!
//! A walk along the chain of a device is made of single requests, each in place of one of its polls: commands go before it,
//! other devices have their turn by their deadlines, and a device that does not answer is suspect and down as always.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::command::Done;
use super::devices::{Ending, Seat};
use super::lane::Lane;
use super::modbus::session::{Reading, Trouble};
use super::outcome::{BUSY_MAX, BUSY_WAIT, REFUSED_WAIT};
use super::schedule::PollIx;
use super::sunspec::chain::{Chain, Flaw, Model};
use super::sunspec::discovery::News;
use super::sunspec::guarded::{self, Guarded, Part};
use super::sunspec::walk::Ask;
use crate::config::blocks::Block;
use crate::config::plan::TagPlan;
use crate::model::command::Refusal;
use crate::model::quality::Cause;
use crate::model::sunspec::{ModelRef, TABLE};
use crate::model::tag::Table;
use crate::model::time::{Stamp, micros};

/// Readings in a row that may show another model before its tags are bad …
const MOVED_MAX: u8 = 3;
/// … for this long.
const MOVED_WAIT: Duration = Duration::from_secs(10);

/// A command's tag where it is on the wire.
pub(super) struct Settled<'a> {
    /// It.
    pub tag: Cow<'a, TagPlan>,
    /// The tag with its scale factor.
    pub scale_from: Option<Cow<'a, TagPlan>>,
    /// What has to be there before anything is written.
    pub guard: Option<Model>,
}

/// How many registers of a block its model has.
pub(super) fn within(model: Model, block: &Block) -> u16 {
    let there = model.registers().saturating_sub(block.start.into());
    u16::try_from(there).unwrap_or(u16::MAX).min(block.count)
}

impl Lane {
    /// The model that a poll reads. `None`: not to be read now; what could be done about it was done.
    pub(super) async fn look_up(&mut self, ix: PollIx, wanted: ModelRef) -> Option<Model> {
        let now = Instant::now();
        let seat = self.envoy.roster.polls[ix].seat;
        let connection = self.driver.connection();
        let discovery = &mut self.envoy.roster.devices[seat.0].discovery;
        if let Some(ask) = discovery.ask(connection, now) {
            self.walk(ix, ask).await;
            return None;
        }
        let (found, until) = (discovery.find(wanted), discovery.until());
        if found.is_none() {
            self.schedule.begin(ix, now.into_std());
            self.schedule.put_off(ix, until.unwrap_or(now + REFUSED_WAIT).into_std());
            let at = self.envoy.clock.now();
            self.emit_bad_poll(ix, Cause::Config, at).await;
        }
        found
    }

    /// One step along the chain, in place of this poll, which is due again with the next one.
    async fn walk(&mut self, ix: PollIx, ask: Ask) {
        let begun = Instant::now();
        let seat = self.envoy.roster.polls[ix].seat;
        let device = &self.envoy.roster.devices[seat.0];
        let (unit, allowed) = (device.unit_id, self.allows(seat, TABLE, ask.start, ask.count));
        let asked = if allowed {
            let before = self.envoy.stats.noise();
            let asked = self.driver.read(unit, TABLE, ask.start, ask.count).await;
            let noise = self.envoy.stats.noise().since(before);
            self.envoy.roster.devices[seat.0].heard(noise);
            self.envoy.stats.busy_micros.add(micros(begun.elapsed()));
            asked
        } else {
            Err(Trouble::TooLong) // never sent
        };
        let (at, now) = (self.envoy.clock.now(), Instant::now());
        let device = &mut self.envoy.roster.devices[seat.0];
        // The next step has its own deadline; what was put off stays so.
        self.schedule.begin_anew(ix, now.into_std());
        let ended = match asked {
            Ok(Reading::Registers(words)) => {
                device.count(Ending::Answer(at));
                self.alive(seat);
                self.envoy.roster.devices[seat.0].discovery.heard(&words)
            }
            Err(Trouble::TooLong) => device.discovery.refused(),
            Err(Trouble::Exception(10 | 11) | Trouble::Timeout) => {
                let ended = device.discovery.silent();
                self.failed(ix, Cause::Timeout, begun).await;
                ended
            }
            Err(Trouble::Exception(code)) => {
                device.count(Ending::Exception(at, code));
                self.alive(seat);
                if matches!(code, 5 | 6) {
                    self.busy(ix)
                } else {
                    self.envoy.roster.devices[seat.0].discovery.refused()
                }
            }
            Ok(Reading::Bits(_)) | Err(Trouble::Protocol) => return self.failed(ix, Cause::Protocol, begun).await,
            Err(Trouble::Lost { error, sent }) => return self.lost(ix, &error, sent).await,
        };
        if let Some(chain) = ended {
            self.found(seat, &chain);
        }
    }

    /// The device has no time for the walk: again in a while, and not for ever.
    fn busy(&mut self, ix: PollIx) -> Option<Chain> {
        let (now, poll) = (Instant::now(), &mut self.envoy.roster.polls[ix]);
        let device = &mut self.envoy.roster.devices[poll.seat.0];
        if poll.busy >= BUSY_MAX {
            poll.busy = 0;
            return Some(device.discovery.give_up(Flaw::Busy));
        }
        poll.busy += 1;
        for poll in &device.polls {
            self.schedule.begin_anew(*poll, (now + BUSY_WAIT).into_std());
        }
        None
    }

    /// A walk has ended.
    pub(super) fn found(&mut self, seat: Seat, chain: &Chain) {
        let (now, connection) = (Instant::now(), self.driver.connection());
        let device = &mut self.envoy.roster.devices[seat.0];
        let mut wanted: Vec<ModelRef> =
            device.polls.iter().filter_map(|ix| self.envoy.roster.polls[*ix].block.model).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let news = device.discovery.settle(chain.clone(), connection, &wanted, now);
        if news == News::Same {
            return;
        }
        let (bus, name, models) = (&self.envoy.name, &device.name, chain.to_string());
        let missing: Vec<String> =
            wanted.iter().filter(|wanted| chain.find(**wanted).is_none()).map(ToString::to_string).collect();
        match (news, chain.base) {
            (_, None) => {}
            (News::Changed, Some(base)) => info!(bus, device = %name, base, %models, "sunspec models changed"),
            (_, Some(base)) => info!(bus, device = %name, base, %models, "sunspec models found"),
        }
        if let Some(flaw) = chain.flaw {
            warn!(bus, device = %name, error = %flaw, "sunspec chain is not whole");
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            warn!(bus, device = %name, %missing, %models, "sunspec models are missing, their tags are bad");
        }
        let short = device.polls.iter().map(|ix| &self.envoy.roster.polls[*ix].block);
        let short = short.filter_map(|block| Some((chain.find(block.model?)?, block)));
        for (model, block) in short.filter(|(model, block)| within(*model, block) < block.count) {
            let (model, length) = (model.number, model.length);
            let needed = u32::from(block.start) + u32::from(block.count);
            warn!(bus, device = %name, model, length, needed, "sunspec model is shorter than its tags");
        }
        for poll in &device.polls {
            self.schedule.begin_anew(*poll, now.into_std());
        }
    }

    /// Reads what a poll wants of a model where it was found: as much of it as the model has.
    pub(super) async fn read_in(&mut self, ix: PollIx, model: Model) -> Result<Guarded, Trouble> {
        let poll = &self.envoy.roster.polls[ix];
        let (unit, start) = (self.envoy.roster.devices[poll.seat.0].unit_id, poll.block.start);
        let count = within(model, &poll.block);
        let first = u32::from(model.start) + u32::from(start);
        if !u16::try_from(first).is_ok_and(|first| self.allows(poll.seat, TABLE, first, count)) {
            return Err(Trouble::TooLong); // a smaller piece of it may be allowed
        }
        guarded::read(&mut self.driver, unit, model, Part { start, count, steady: &poll.steady }).await
    }

    /// The model is shorter than its tags: they are bad until the chain is walked again.
    pub(super) async fn absent(&mut self, ix: PollIx) {
        let (now, at) = (Instant::now(), self.envoy.clock.now());
        let until = self.envoy.roster.devices[self.envoy.roster.polls[ix].seat.0].discovery.until();
        self.schedule.put_off(ix, until.unwrap_or(now + REFUSED_WAIT).into_std());
        self.emit_bad_poll(ix, Cause::Config, at).await;
    }

    /// Scale factors do not hold still while their values are read: again at once, and not for ever.
    pub(super) async fn unsettled(&mut self, ix: PollIx, at: Stamp) {
        let poll = &mut self.envoy.roster.polls[ix];
        let seat = poll.seat;
        self.envoy.roster.devices[seat.0].count(Ending::Answer(at));
        if poll.busy < BUSY_MAX {
            poll.busy += 1;
            self.schedule.begin_anew(ix, Instant::now().into_std());
        } else {
            poll.busy = 0;
            self.emit_bad_poll(ix, Cause::Protocol, at).await;
        }
        self.alive(seat);
    }

    /// Where a command's tag is now; how the command ended if it is nowhere.
    pub(super) async fn settled<'a>(
        &mut self,
        seat: Seat,
        tag: &'a TagPlan,
        scale_from: Option<&'a TagPlan>,
    ) -> Result<Settled<'a>, Done> {
        let Some(wanted) = tag.model() else {
            return Ok(Settled { tag: Cow::Borrowed(tag), scale_from: scale_from.map(Cow::Borrowed), guard: None });
        };
        let device = &mut self.envoy.roster.devices[seat.0];
        let territory = self.envoy.plan.device(device.ix).map(|device| &device.territory);
        let allows = |ask: Ask| territory.is_none_or(|here| here.allows(TABLE, ask.start.into(), ask.count.into()));
        let walked = guarded::walk(&mut self.driver, device.unit_id, &mut device.discovery, allows).await;
        if let Some(chain) = walked.map_err(|trouble| Done::unsent(&trouble))? {
            self.found(seat, &chain);
        }
        let absent = || Done::refused(Refusal::Absent);
        let model = self.envoy.roster.devices[seat.0].discovery.find(wanted).ok_or_else(absent)?;
        let settle = |tag: &TagPlan| tag.settled(model.start, model.registers()).map(Cow::Owned).ok_or_else(absent);
        Ok(Settled { tag: settle(tag)?, scale_from: scale_from.map(settle).transpose()?, guard: Some(model) })
    }

    /// May the device be asked for these registers?
    pub(super) fn allows(&self, seat: Seat, table: Table, start: u16, count: u16) -> bool {
        let device = self.envoy.plan.device(self.envoy.roster.devices[seat.0].ix);
        device.is_none_or(|device| device.territory.allows(table, start.into(), count.into()))
    }

    /// What was read is not of the model: nothing of it is used, and the chain is walked again.
    pub(super) async fn moved(&mut self, ix: PollIx, at: Stamp) {
        let now = Instant::now();
        let poll = &mut self.envoy.roster.polls[ix];
        let (seat, device) = (poll.seat, &mut self.envoy.roster.devices[poll.seat.0]);
        let model = poll.block.model.map(|model| model.to_string()).unwrap_or_default();
        debug!(bus = %self.envoy.name, device = %device.name, model, "sunspec model is not where it was");
        device.discovery.doubt();
        device.count(Ending::Answer(at));
        poll.moved = poll.moved.saturating_add(1);
        if poll.moved <= MOVED_MAX {
            self.schedule.begin_anew(ix, now.into_std());
        } else {
            if poll.moved == MOVED_MAX + 1 {
                warn!(bus = %self.envoy.name, device = %device.name, model, "sunspec model never is where the chain has it");
            }
            self.schedule.put_off(ix, (now + MOVED_WAIT).into_std());
            self.emit_bad_poll(ix, Cause::Protocol, at).await;
        }
        self.alive(seat);
    }

    /// Puts the chain in doubt because of a refusal, unless that was done a short time ago; was it?
    pub(super) fn doubts(&mut self, ix: PollIx) -> bool {
        let now = Instant::now();
        let poll = &mut self.envoy.roster.polls[ix];
        if poll.block.model.is_none() || poll.doubted.is_some_and(|last| now.duration_since(last) < REFUSED_WAIT) {
            return false;
        }
        poll.doubted = Some(now);
        self.envoy.roster.devices[poll.seat.0].discovery.doubt();
        self.schedule.begin_anew(ix, now.into_std());
        true
    }
}
