//! What a person at the status page may ask of a device beside a write: leave it alone, ask it again, poll it now, begin
//! anew with it.
//!
//! Set by the app, looked at by the bus between two transactions. A pause is a state and the rest are wishes; asking for the
//! same twice is asking once, so nothing here can fill up. The wishes are kept here and go with the bus; the pauses are not
//! the bus's ([`super::pauses`]): each of its lives looks there whom it is to leave alone.
//!
//! While a device is paused nothing is sent to it: writes are refused (`paused`), because whoever paused it may have his
//! hands in it; so is a broadcast, which would reach it, too. It is a device of the configuration: another one with its unit
//! id has a pause of its own, as it has its own place on the page and its own rights (`operate`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::time::Instant;

use super::devices::Seat;
use super::lane::Lane;
use super::memory::Learned;
use super::pauses::Pauses;
use crate::config::plan::Plan;
use crate::flow::operate::{Operation, Unwilling};
use crate::model::lock::Hold as _;
use crate::model::tag::DeviceIx;

const PAUSED: u8 = 1;
const POLL: u8 = 2;
const RESET: u8 = 4;

/// The switches of all devices of one bus.
#[derive(Debug)]
pub struct Switches {
    devices: Mutex<BTreeMap<DeviceIx, Wishes>>,
    pauses: Pauses,
    heeded: watch::Sender<()>,
}

/// Of one device; the pause is not among them.
#[derive(Debug)]
struct Wishes {
    name: String,
    asked: u8,
    heed: Heed,
}

impl Wishes {
    fn none(plan: &Plan, device: DeviceIx) -> Self {
        let name = plan.device(device).map_or_else(String::new, |device| device.name.clone());
        Self { name, asked: 0, heed: Heed::Taken }
    }
}

/// Has the bus looked since something was asked last?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heed {
    /// Yes.
    Taken,
    /// A transaction may be under way that began before.
    Due,
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
    /// For these devices of a plan; whom of them to leave alone is looked up there.
    pub fn new(plan: &Plan, devices: impl IntoIterator<Item = DeviceIx>, pauses: &Pauses) -> Self {
        let devices = devices.into_iter().map(|device| (device, Wishes::none(plan, device))).collect();
        Self { devices: Mutex::new(devices), pauses: pauses.clone(), heeded: watch::Sender::default() }
    }

    /// These devices from now on. Wishes stay only with what is `kept` as it was.
    pub(super) fn adopt(&self, plan: &Plan, devices: &[DeviceIx], kept: &[DeviceIx]) {
        let mut known = self.devices();
        let mut before = std::mem::take(&mut *known);
        let mut stays = |device: &DeviceIx| before.remove(device).filter(|_| kept.contains(device));
        let wishes = |device: &DeviceIx| (*device, stays(device).unwrap_or_else(|| Wishes::none(plan, *device)));
        *known = devices.iter().map(wishes).collect();
        self.heeded.send_replace(()); // who is gone is asked nothing any more
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<DeviceIx, Wishes>> {
        self.devices.hold()
    }

    /// Asks it of the bus, which takes note after the transaction under way.
    pub fn ask(&self, device: DeviceIx, operation: Operation) -> Result<(), Unwilling> {
        {
            let mut devices = self.devices();
            let wishes = devices.get_mut(&device).ok_or(Unwilling::NoBus)?;
            match operation {
                Operation::Pause => self.pauses.begin(&wishes.name),
                Operation::Resume => self.pauses.end(&wishes.name),
                Operation::Poll if self.pauses.holds(&wishes.name) => return Err(Unwilling::Paused),
                Operation::Poll => wishes.asked |= POLL,
                Operation::Reset => wishes.asked |= RESET,
            }
            wishes.heed = Heed::Due;
        }
        self.pauses.tell();
        Ok(())
    }

    /// Is this device to be left alone, whether its bus has taken note yet or not?
    pub(super) fn holds(&self, device: DeviceIx) -> bool {
        self.devices().get(&device).is_some_and(|wishes| self.pauses.holds(&wishes.name))
    }

    /// Is any device of the bus?
    pub(super) fn hold_any(&self) -> bool {
        self.devices().values().any(|wishes| self.pauses.holds(&wishes.name))
    }

    /// Told of every change, also of what is asked of other buses.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.pauses.changes()
    }

    /// What is asked of a device now; wishes are taken, the pause stays. Only for the bus, between two transactions.
    pub(super) fn take(&self, device: DeviceIx) -> Asked {
        let mut devices = self.devices();
        let Some(wishes) = devices.get_mut(&device) else { return Asked(0) };
        let paused = if self.pauses.holds(&wishes.name) { PAUSED } else { 0 };
        if std::mem::replace(&mut wishes.heed, Heed::Taken) == Heed::Due {
            self.heeded.send_replace(());
        }
        Asked(std::mem::take(&mut wishes.asked) | paused)
    }

    /// Resolves when the bus has taken what was asked of this device: after a pause nothing more is sent to it, and of what
    /// came before nothing is under way. Of a bus that ends, never. Cancel-safe.
    pub async fn heeded(&self, device: DeviceIx) {
        let mut heeded = self.heeded.subscribe();
        while self.devices().get(&device).is_some_and(|wishes| wishes.heed == Heed::Due) {
            let _ = heeded.changed().await; // the sender is our own
        }
    }
}

impl Lane {
    /// Does what was asked of its devices since it last looked.
    pub(super) async fn heed_switches(&mut self) {
        if !self.envoy.switched.has_changed().unwrap_or(false) {
            return;
        }
        self.envoy.switched.mark_unchanged();
        for place in 0..self.envoy.roster.devices.len() {
            let asked = self.envoy.switches.take(self.envoy.roster.devices[place].ix);
            self.heed(Seat(place), asked).await;
        }
    }

    async fn heed(&mut self, seat: Seat, asked: Asked) {
        let device = &mut self.envoy.roster.devices[seat.0];
        if asked.reset() {
            device.forget();
            if !device.learned.boundaries().is_empty() {
                device.learned = Learned::default();
                self.keep_learned(seat);
                self.replan_as_learned();
            }
        }
        match (self.envoy.roster.devices[seat.0].unit.is_paused(), asked.is_paused()) {
            (false, true) => return self.envoy.pause(seat).await,
            (true, true) => {}
            (true, false) => {
                self.envoy.resume(seat);
                self.poll_now(seat);
                if self.driver.is_open() {
                    self.envoy.connected();
                }
            }
            (false, false) if asked.poll() || asked.reset() => self.poll_now(seat),
            (false, false) => {}
        }
        if asked.reset() {
            self.envoy.tell(seat);
        }
    }

    /// One that is down is tried at once, as if nothing had been.
    fn poll_now(&mut self, seat: Seat) {
        let (device, now) = (&mut self.envoy.roster.devices[seat.0], Instant::now().into_std());
        device.unit.try_now();
        device.polls.iter().for_each(|poll| self.schedule.begin_anew(*poll, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::DevicePlan;
    use crate::model::tag::BusIx;

    fn plan() -> Plan {
        let devices = (0..4).map(|n| DevicePlan::plain(&format!("d{n}"), BusIx(0), 1)).collect();
        Plan { devices, ..Plan::empty("gw") }
    }

    #[test]
    fn after_a_reload_a_pause_stays_whatever_has_changed_and_a_wish_only_with_a_device_that_is_as_it_was() {
        let [same, changed, new] = [1, 2, 3].map(DeviceIx);
        let (plan, pauses) = (plan(), Pauses::default());
        let switches = Switches::new(&plan, [same, changed], &pauses);
        for device in [same, changed] {
            assert_eq!(switches.ask(device, Operation::Reset), Ok(()));
            assert_eq!(switches.ask(device, Operation::Pause), Ok(()));
        }
        switches.adopt(&plan, &[same, changed, new], &[same]);
        assert_eq!(switches.take(same), Asked(PAUSED | RESET));
        assert_eq!(switches.take(changed), Asked(PAUSED), "the wish was for another one");
        assert_eq!(switches.take(new), Asked(0));
        let next = Switches::new(&plan, [changed], &pauses);
        assert!(next.take(changed).is_paused(), "in the next life of the bus, and on another one");
    }

    #[test]
    fn a_device_that_comes_back_at_another_place_is_still_paused_and_what_is_said_last_holds_on_whichever_bus() {
        let (mut plan, pauses) = (plan(), Pauses::default());
        let (here, there) = (Switches::new(&plan, [DeviceIx(0)], &pauses), Switches::new(&plan, [], &pauses));
        assert_eq!(here.ask(DeviceIx(0), Operation::Pause), Ok(()));
        here.adopt(&plan, &[], &[]); // it is removed, or on its way from the one to the other
        plan.devices.push(plan.devices[0].clone());
        there.adopt(&plan, &[DeviceIx(4)], &[]);
        assert!(there.take(DeviceIx(4)).is_paused());
        // Two owners for a moment: the older one is asked last, and nobody hands anything over.
        here.adopt(&plan, &[DeviceIx(0)], &[]);
        let told = there.changes();
        assert_eq!(here.ask(DeviceIx(0), Operation::Resume), Ok(()));
        assert!(told.has_changed().expect("open") && !there.take(DeviceIx(4)).is_paused());
    }

    #[test]
    fn wishes_are_taken_once_and_a_pause_stays() {
        let (one, other) = (DeviceIx(2), DeviceIx(3));
        let plan = plan();
        let switches = Switches::new(&plan, [one, other], &Pauses::default());
        let changes = switches.changes();
        assert_eq!(switches.ask(one, Operation::Poll), Ok(()));
        assert_eq!(switches.ask(one, Operation::Reset), Ok(()));
        assert_eq!(switches.ask(other, Operation::Pause), Ok(()));
        assert!(changes.has_changed().expect("open"));
        assert_eq!(switches.take(one), Asked(POLL | RESET));
        assert_eq!(switches.take(one), Asked(0));
        assert_eq!(switches.take(other), Asked(PAUSED));
        assert!(switches.take(other).is_paused());
        assert_eq!(switches.ask(other, Operation::Poll), Err(Unwilling::Paused));
        assert_eq!(switches.ask(other, Operation::Resume), Ok(()));
        assert!(!switches.take(other).is_paused());
        assert_eq!(switches.ask(DeviceIx(9), Operation::Pause), Err(Unwilling::NoBus));
    }
}
