//! What a person at the status page may ask of a device beside a write: leave it alone, ask it again, poll it now, begin
//! anew with it.
//!
//! Set by the app, looked at by the bus between two transactions. A pause is a state and the rest are wishes; asking for the
//! same twice is asking once, so nothing here can fill up. A pause ends when somebody says so, and with the process: neither a
//! reload, whatever it changes, nor its coming back, nor a bus that fails and is built anew ends one, for somebody may have his
//! hands in the device. Whoever forgot one has it shown on the page, on the device's topic and in
//! the cause of its tags, and a box that was switched off and on polls what its configuration says.
//!
//! While a device is paused nothing is sent to it: writes are refused (`paused`), because whoever paused it may have his
//! hands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::devices::Seat;
use super::lane::Lane;
use super::memory::Learned;
use crate::flow::operate::{Operation, Unwilling};
use crate::model::quality::Cause;
use crate::model::tag::DeviceIx;

const PAUSED: u8 = 1;
const POLL: u8 = 2;
const RESET: u8 = 4;

/// The switches of all devices of one bus.
#[derive(Debug)]
pub struct Switches {
    devices: Mutex<BTreeMap<DeviceIx, u8>>,
    /// Paused elsewhere; they stay so if they come here.
    awaited: Mutex<BTreeSet<DeviceIx>>,
    changed: watch::Sender<()>,
}

/// What is asked of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked(u8);

impl Asked {
    /// Nothing is to be sent to it.
    pub(super) const fn is_paused(self) -> bool {
        self.0 & PAUSED != 0
    }

    /// Poll all of it now.
    pub(super) const fn poll(self) -> bool {
        self.0 & POLL != 0
    }

    /// Forget what was counted and learned.
    pub(super) const fn reset(self) -> bool {
        self.0 & RESET != 0
    }
}

impl Switches {
    /// For these devices, none of them paused.
    pub fn new(devices: impl IntoIterator<Item = DeviceIx>) -> Self {
        let devices = devices.into_iter().map(|device| (device, 0)).collect();
        Self { devices: Mutex::new(devices), awaited: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// These devices from now on. Pauses stay, also of those that were handed over; wishes only with what is `kept` as it was.
    pub(super) fn adopt(&self, devices: &[DeviceIx], kept: &[DeviceIx]) {
        let awaited = std::mem::take(&mut *self.awaited.lock().unwrap_or_else(PoisonError::into_inner));
        let mut known = self.devices();
        let before = std::mem::take(&mut *known);
        let asked = |device: &DeviceIx| {
            let asked = before.get(device).copied().unwrap_or(0);
            let stays = if kept.contains(device) { asked } else { asked & PAUSED };
            if awaited.contains(device) { stays | PAUSED } else { stays }
        };
        *known = devices.iter().map(|device| (*device, asked(device))).collect();
    }

    /// Those that are to be left alone.
    pub fn paused(&self) -> Vec<DeviceIx> {
        self.devices().iter().filter(|(_, asked)| **asked & PAUSED != 0).map(|(device, _)| *device).collect()
    }

    /// These were paused until now, here or on another bus, or in an earlier life of this one: they still are.
    pub fn hand_over(&self, paused: &[DeviceIx]) {
        let mut devices = self.devices();
        let (mut awaited, mut news) = (BTreeSet::new(), false);
        for device in paused {
            match devices.get_mut(device) {
                Some(asked) => {
                    news |= *asked & PAUSED == 0;
                    *asked |= PAUSED;
                }
                None => _ = awaited.insert(*device),
            }
        }
        drop(devices);
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = awaited;
        if news {
            self.changed.send_replace(());
        }
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<DeviceIx, u8>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it of the bus, which takes note after the transaction under way.
    pub fn ask(&self, device: DeviceIx, operation: Operation) -> Result<(), Unwilling> {
        {
            let mut devices = self.devices();
            let asked = devices.get_mut(&device).ok_or(Unwilling::NoBus)?;
            match operation {
                Operation::Pause => *asked |= PAUSED,
                Operation::Resume => *asked &= !PAUSED,
                Operation::Poll if *asked & PAUSED != 0 => return Err(Unwilling::Paused),
                Operation::Poll => *asked |= POLL,
                Operation::Reset => *asked |= RESET,
            }
        }
        self.changed.send_replace(());
        Ok(())
    }

    /// Is it to be left alone?
    pub fn is_paused(&self, device: DeviceIx) -> bool {
        self.devices().get(&device).is_some_and(|asked| asked & PAUSED != 0)
    }

    /// Told of every change. Its sender lives as long as this does: whoever waits for it keeps this, too.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is asked of a device now; wishes are taken, the pause stays.
    pub(super) fn take(&self, device: DeviceIx) -> Asked {
        let mut devices = self.devices();
        let Some(asked) = devices.get_mut(&device) else { return Asked(0) };
        let taken = Asked(*asked);
        *asked &= PAUSED;
        taken
    }
}

impl Lane {
    /// Does what was asked of its devices since it last looked.
    pub(super) async fn heed_switches(&mut self) {
        if !self.switched.has_changed().unwrap_or(false) {
            return;
        }
        self.switched.mark_unchanged();
        for place in 0..self.roster.devices.len() {
            let asked = self.switches.take(self.roster.devices[place].ix);
            self.heed(Seat(place), asked).await;
        }
    }

    async fn heed(&mut self, seat: Seat, asked: Asked) {
        let device = &mut self.roster.devices[seat.0];
        if asked.reset() {
            device.forget();
            if !device.learned.boundaries().is_empty() {
                device.learned = Learned::default();
                self.keep_learned(seat);
                self.replan_as_learned();
            }
        }
        let device = &mut self.roster.devices[seat.0];
        let was_paused = device.unit.is_paused();
        match (was_paused, asked.is_paused()) {
            (false, true) => return self.pause(seat).await,
            (true, true) => {}
            (true, false) => {
                info!(bus = %self.name, device = %device.name, "device is polled again");
                device.unit.resume();
                self.poll_now(seat);
            }
            (false, false) if asked.poll() || asked.reset() => self.poll_now(seat),
            (false, false) => {}
        }
        if asked.reset() {
            self.tell(seat);
        }
    }

    async fn pause(&mut self, seat: Seat) {
        let device = &mut self.roster.devices[seat.0];
        info!(bus = %self.name, device = %device.name, "device is paused");
        device.unit.pause();
        (device.cause, device.down_since) = (Cause::Paused, None);
        self.tell(seat);
        let at = self.clock.now();
        self.emit_bad(seat, at).await;
    }

    /// One that is down is tried at once, as if nothing had been.
    fn poll_now(&mut self, seat: Seat) {
        let (device, now) = (&mut self.roster.devices[seat.0], Instant::now().into_std());
        device.unit.try_now();
        device.polls.iter().for_each(|poll| self.schedule.begin_anew(*poll, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_reload_a_pause_stays_whatever_has_changed_and_a_wish_only_with_a_device_that_is_as_it_was() {
        let [same, changed, new, come] = [1, 2, 3, 4].map(DeviceIx);
        let switches = Switches::new([same, changed]);
        assert_eq!(switches.ask(same, Operation::Pause), Ok(()));
        assert_eq!(switches.ask(changed, Operation::Reset), Ok(()));
        assert_eq!(switches.ask(changed, Operation::Pause), Ok(()));
        switches.hand_over(&[same, come]);
        switches.adopt(&[same, changed, new, come], &[same]);
        assert_eq!(switches.paused(), [same, changed, come]);
        assert_eq!(switches.take(changed), Asked(PAUSED), "the wish was for another one");
        let next = Switches::new([changed, come]);
        next.hand_over(&switches.paused());
        assert_eq!(next.paused(), [changed, come], "in the next life of the bus");
        assert_eq!(next.ask(come, Operation::Resume), Ok(()));
        next.hand_over(&[]);
        next.adopt(&[changed, come, same], &[changed, come]);
        assert_eq!(next.paused(), [changed], "what was awaited for one reload is not for the next");
    }

    #[test]
    fn wishes_are_taken_once_and_a_pause_stays() {
        let (one, other) = (DeviceIx(3), DeviceIx(4));
        let switches = Switches::new([one, other]);
        let changes = switches.changes();
        assert_eq!(switches.ask(one, Operation::Poll), Ok(()));
        assert_eq!(switches.ask(one, Operation::Reset), Ok(()));
        assert_eq!(switches.ask(other, Operation::Pause), Ok(()));
        assert!(changes.has_changed().expect("open"));
        assert_eq!(switches.take(one), Asked(POLL | RESET));
        assert_eq!(switches.take(one), Asked(0));
        assert_eq!(switches.take(other), Asked(PAUSED));
        assert!(switches.take(other).is_paused() && switches.is_paused(other));
        assert_eq!(switches.ask(other, Operation::Poll), Err(Unwilling::Paused));
        assert_eq!(switches.ask(other, Operation::Resume), Ok(()));
        assert!(!switches.take(other).is_paused());
        assert_eq!(switches.ask(DeviceIx(9), Operation::Pause), Err(Unwilling::NoBus));
    }
}
