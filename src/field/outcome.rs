//! What the answers, failures and commands of a bus lead to: samples, standings, splits. The other half of [`super::lane`].
//!
//! Every way a request can end is one arm here; each has its count, its quality and its next step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::display;
use tracing::{debug, info};

use super::command::{Contact, FieldCommand, Order, carry_out, is_of_gateway};
use super::devices::{Ending, Poll, Seat};
use super::lane::Lane;
use super::memory::Boundary;
use super::modbus::bisect;
use super::modbus::exchange::Sent;
use super::modbus::session::{Reading, Trouble};
use super::models::Settled;
use super::schedule::PollIx;
use super::standing::Change;
use super::sunspec::guarded::Guarded;
use super::tags::Slot;
use crate::config::blocks::Block;
use crate::model::command::{Failure, Outcome, Refusal};
use crate::model::quality::Cause;
use crate::model::time::{Stamp, micros};

/// A device that is busy (exceptions 5 and 6) is asked again after this long …
pub(super) const BUSY_WAIT: Duration = Duration::from_millis(200);
/// … so many times before its tags are bad.
pub(super) const BUSY_MAX: u8 = 3;
/// A block that was read before may be refused for this long before it is split for good: a PLC that restarts or is being
/// programmed says no to everything.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(60);
/// A single tag that the device refuses is not asked for more often than this.
pub(super) const REFUSED_WAIT: Duration = Duration::from_secs(60);

impl Lane {
    /// Reads one block.
    pub(super) async fn poll(&mut self, ix: PollIx) {
        let model = match self.envoy.roster.polls[ix].block.model {
            None => None,
            Some(wanted) => match self.look_up(ix, wanted).await {
                Some(model) => Some(model),
                None => return,
            },
        };
        let begun = Instant::now();
        let poll = &self.envoy.roster.polls[ix];
        let (seat, block) = (poll.seat, &poll.block);
        let (table, start, count) = (block.table, block.start, block.count);
        let unit_id = self.envoy.roster.devices[seat.0].unit_id;
        let skipped = self.schedule.begin(ix, begun.into_std());
        if self.envoy.roster.devices[seat.0].unit.is_down() {
            self.envoy.stats.probes.one();
        } else {
            self.envoy.stats.polls_skipped.add(skipped);
            self.envoy.roster.devices[seat.0].skipped(skipped);
        }
        let before = self.envoy.stats.noise();
        let read = match model {
            // Nothing to ask for: the model ends before these tags.
            Some(model) if model.registers() <= start.into() => return self.absent(ix).await,
            None => self.driver.read(unit_id, table, start, count).await.map(|reading| Guarded::Part(reading, None)),
            Some(model) => self.read_in(ix, model).await,
        };
        let at = self.envoy.clock.now();
        self.envoy.stats.polls.one();
        let device = &mut self.envoy.roster.devices[seat.0];
        device.heard(self.envoy.stats.noise().since(before));
        if let (Ok(_) | Err(Trouble::Exception(_)), Some(took)) = (&read, self.driver.last_response()) {
            device.took(took);
            self.envoy.stats.response.add(took);
        }
        let (elapsed_ms, error) = (begun.elapsed().as_millis(), read.as_ref().err().map(display));
        debug!(bus = %self.envoy.name, device = %device.name, table = table.as_str(), start, count, elapsed_ms, error, "polled");
        self.envoy.stats.busy_micros.add(micros(begun.elapsed()));
        match read {
            Ok(Guarded::Part(reading, head)) => self.answered(ix, &reading, head.as_ref(), at).await,
            Ok(Guarded::Moved) => self.moved(ix, at).await,
            Ok(Guarded::Unsettled) => self.unsettled(ix, at).await,
            Err(Trouble::Exception(code)) => self.exception(ix, code, begun, at).await,
            Err(Trouble::Timeout) => self.failed(ix, Cause::Timeout, begun).await,
            Err(Trouble::Protocol) => self.failed(ix, Cause::Protocol, begun).await,
            Err(Trouble::TooLong) => _ = self.refused(ix, Cause::Config, at).await,
            Err(Trouble::Lost { error, sent }) => self.lost(ix, &error, sent).await,
        }
    }

    /// `head`: registers of its SunSpec model that were read apart.
    async fn answered(&mut self, ix: PollIx, reading: &Reading, head: Option<&Reading>, at: Stamp) {
        let poll = &mut self.envoy.roster.polls[ix];
        (poll.known_good, poll.busy, poll.refused_since) = (true, 0, None);
        (poll.moved, poll.doubted) = (0, None);
        let (seat, block) = (poll.seat, &poll.block);
        let device = &mut self.envoy.roster.devices[seat.0];
        if let Some(took) =
            self.driver.last_response().filter(|_| reading.registers() == Some(block.count.into()) && head.is_none())
        {
            let link = &self.envoy.plan[self.envoy.bus].link;
            device.think.learn(link, block.count, block.transaction_bytes(link), took);
        }
        device.count(Ending::Answer(at));
        device.refusals.read(block);
        if let Some(head) = head {
            self.envoy.tags.note_factors(&poll.head, head, at);
        }
        self.envoy.tags.note_factors(&poll.factors, reading, at);
        self.alive(seat);
        let Poll { block, cuts, .. } = &self.envoy.roster.polls[ix];
        let samples = if self.envoy.is_overtaken(block.tags.iter().copied()) {
            let keeps = |slot: Slot| self.envoy.tags.of_slots(&[slot]).all(|tag| self.envoy.keeps(tag));
            let kept: Vec<_> = cuts.iter().copied().filter(|(slot, _)| keeps(*slot)).collect();
            self.envoy.tags.read(&kept, reading, at)
        } else {
            self.envoy.tags.read(cuts, reading, at)
        };
        self.envoy.emit(seat, samples).await;
    }

    /// A device answered: tell if that is news.
    pub(super) fn alive(&mut self, seat: Seat) {
        if self.envoy.answered(seat) == Change::Back {
            let now = Instant::now().into_std();
            for poll in &self.envoy.roster.devices[seat.0].polls {
                self.schedule.begin_anew(*poll, now);
            }
        }
    }

    async fn exception(&mut self, ix: PollIx, code: u8, begun: Instant, at: Stamp) {
        let seat = self.envoy.roster.polls[ix].seat;
        // It has waited for the unit as we would have.
        if is_of_gateway(code) {
            return self.failed(ix, Cause::Timeout, begun).await;
        }
        self.envoy.roster.devices[seat.0].count(Ending::Exception(at, code));
        self.alive(seat);
        let given_up = match code {
            // The device does not have this function at all: no piece of the block will be read either.
            1 => {
                let until = Instant::now() + REFUSED_WAIT;
                self.schedule.put_off(ix, until.into_std());
                self.emit_bad_poll(ix, Cause::Exception, at).await;
                true
            }
            2 | 3 if self.doubts(ix) => false,
            2 | 3 => self.refused(ix, Cause::Exception, at).await,
            5 | 6 if self.envoy.roster.polls[ix].busy < BUSY_MAX => {
                self.envoy.roster.polls[ix].busy += 1;
                let now = Instant::now();
                self.schedule.begin_anew(ix, (now + BUSY_WAIT).into_std());
                false
            }
            _ => {
                self.envoy.roster.polls[ix].busy = 0;
                self.emit_bad_poll(ix, Cause::Exception, at).await;
                true
            }
        };
        if given_up {
            let roster = &mut self.envoy.roster;
            roster.devices[seat.0].refusals.refused(&roster.polls[ix].block, code);
        }
    }

    /// The device will not read this block: split it, or give its one tag up. Says whether its tags are bad now.
    async fn refused(&mut self, ix: PollIx, cause: Cause, at: Stamp) -> bool {
        let now = Instant::now();
        let poll = &mut self.envoy.roster.polls[ix];
        if poll.known_good {
            match poll.refused_since {
                None => {
                    poll.refused_since = Some(now);
                    self.schedule.begin_anew(ix, (now + BUSY_WAIT).into_std());
                    return false;
                }
                Some(since) if now.duration_since(since) < REFUSAL_PATIENCE => {
                    self.emit_bad_poll(ix, cause, at).await;
                    return true;
                }
                Some(_) => poll.known_good = false,
            }
        }
        if let Some((left, right)) = bisect::split(&poll.block, &self.envoy.plan)
            && let Some(twin) = self.schedule.split(ix, now.into_std())
        {
            let Block { table, model, period, start: at, .. } = right;
            self.learn(ix, [Boundary { table, model, period, at }], now);
            self.envoy.roster.split([ix, twin], [left, right], &self.envoy.plan, &self.envoy.tags);
            return false;
        }
        if let Some(tight) = bisect::tightened(&poll.block, &self.envoy.plan) {
            let edges = bisect::edges(&poll.block, &tight);
            self.learn(ix, edges, now);
            self.schedule.hasten(ix, now.into_std());
            self.envoy.roster.replace(ix, tight, &self.envoy.plan, &self.envoy.tags);
            return false;
        }
        self.schedule.put_off(ix, (now + REFUSED_WAIT).into_std());
        self.emit_bad_poll(ix, cause, at).await;
        true
    }

    /// A block is not to be read across these places, until it is tried again.
    fn learn(&mut self, ix: PollIx, boundaries: impl IntoIterator<Item = Boundary>, now: Instant) {
        let Poll { seat, block, .. } = &self.envoy.roster.polls[ix];
        let (seat, start, count) = (*seat, block.start, block.count);
        let device = &mut self.envoy.roster.devices[seat.0];
        info!(bus = %self.envoy.name, device = %device.name, start, count, "block split");
        boundaries.into_iter().for_each(|boundary| device.learned.add(boundary));
        device.whole_again = now + device.learned.wait();
        self.keep_learned(seat);
    }

    pub(super) async fn failed(&mut self, ix: PollIx, cause: Cause, begun: Instant) {
        let seat = self.envoy.roster.polls[ix].seat;
        let now = Instant::now();
        let device = &mut self.envoy.roster.devices[seat.0];
        device.count(if cause == Cause::Timeout { Ending::Timeout } else { Ending::Error });
        let was_down = device.unit.is_down();
        let change = device.unit.failed(Some(ix), now.into_std());
        debug!(bus = %self.envoy.name, device = %device.name, cause = cause.as_str(), "poll failed");
        if self.envoy.roster.devices.iter().all(|device| device.unit.is_down()) {
            self.driver.renew_if_mute();
        } else if was_down {
            let silence = self.driver.quiet_until().saturating_duration_since(now);
            self.envoy.probes.spent(now.saturating_duration_since(begun) + silence, now.into_std());
        }
        self.fallen(seat, change, cause).await;
        if change != Change::Down {
            self.schedule.hasten(ix, now.into_std());
        }
    }

    /// Tells what a failure changed, and asks one that is down in other ways.
    async fn fallen(&mut self, seat: Seat, change: Change, cause: Cause) {
        if change == Change::Down {
            let device = &mut self.envoy.roster.devices[seat.0];
            device.discovery.doubt(); // it may come back with other firmware
            for poll in &device.polls {
                self.schedule.hasten(*poll, Instant::now().into_std()); // whichever is chosen to probe, the standing says when
            }
        }
        self.envoy.fallen(seat, change, cause).await;
    }

    pub(super) async fn lost(&mut self, ix: PollIx, error: &io::Error, sent: Sent) {
        let now = Instant::now();
        self.schedule.hasten(ix, now.into_std());
        if !self.driver.was_proven() {
            return self.envoy.tell_cut(error).await;
        }
        // It worked until now: the loop opens it again at once, and only if that fails anyone is told.
        debug!(bus = %self.envoy.name, error = %error, "connection lost");
        if sent != Sent::Nothing {
            self.failed(ix, Cause::Transport, now).await;
        }
    }

    /// Carries one command out.
    pub(super) async fn command(&mut self, command: FieldCommand) {
        self.envoy.stats.commands.one();
        if command.reply.is_closed() {
            return;
        }
        let plan = Arc::clone(&self.envoy.plan);
        let Some(tag) = plan.live_tag(command.tag) else {
            return drop(command.reply.send(Outcome::Refused(Refusal::Access)));
        };
        if !self.is_meant(&command, tag.device) {
            return drop(command.reply.send(Outcome::Refused(Refusal::Busy)));
        }
        let Some(seat) = self.envoy.roster.seat_of(tag.device) else {
            return drop(command.reply.send(Outcome::Refused(Refusal::Access)));
        };
        if self.envoy.roster.devices[seat.0].unit.is_paused() {
            return drop(command.reply.send(Outcome::Refused(Refusal::Paused)));
        }
        let begun = Instant::now();
        let unit = self.envoy.roster.devices[seat.0].unit_id;
        let scale_from = tag.scale_from.and_then(|ix| plan.tag(ix));
        let done = match self.settled(seat, tag, scale_from).await {
            Ok(Settled { tag, scale_from, guard }) => {
                let (value, deadline, switches) = (&command.value, command.deadline, Some(&*self.envoy.switches));
                let scale_from = scale_from.as_deref();
                let order = Order { tag: &tag, scale_from, unit, guard, value, deadline, switches };
                carry_out(&mut self.driver, &self.envoy.clock, order).await
            }
            Err(done) => done,
        };
        if done.outcome == Outcome::Refused(Refusal::Absent) {
            self.envoy.roster.devices[seat.0].discovery.doubt();
        }
        let now = Instant::now();
        self.envoy.stats.busy_micros.add(micros(begun.elapsed()));
        let refused = match done.outcome {
            Outcome::Failed { reason: Failure::Exception(code), .. } => Some(code),
            _ => None,
        };
        debug!(bus = %self.envoy.name, tag = %tag.topic, outcome = %done.outcome, "command carried out");
        drop(command.reply.send(done.outcome)); // nobody may be waiting any more; the device has it all the same
        match done.contact {
            Contact::Answered => {
                let at = self.envoy.clock.now();
                let device = &mut self.envoy.roster.devices[seat.0];
                device.count(refused.map_or(Ending::Answer(at), |code| Ending::Exception(at, code)));
                self.alive(seat);
            }
            Contact::Silent => {
                let device = &mut self.envoy.roster.devices[seat.0];
                device.count(Ending::Timeout);
                let change = device.unit.failed(None, now.into_std());
                self.fallen(seat, change, Cause::Timeout).await;
            }
            Contact::None => {}
        }
        if let Some(poll) = self.envoy.roster.poll_with(command.tag) {
            self.schedule.hasten(poll, now.into_std());
        }
    }
}
