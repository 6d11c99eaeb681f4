//! The bus: one or more lanes, each with a connection of its own, and one queue of commands.
//!
//! Nearly always one lane. A gateway that works on several requests in parallel (`max_connections`) gets up to four; its
//! units are shared out among them, so that each unit is asked by one lane only and its commands stay in order. All lanes
//! are one task: a bus stays the fault domain.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc;

use super::adopt::Plans;
use super::carrier::{self, Opener, Who};
use super::certificates::Certificates;
use super::command::{COMMANDS_WAITING_MAX, FieldCommand};
use super::envoy::Site;
use super::lane::Lane;
use super::memory::Memory;
use super::pauses::Pauses;
use super::stats::BusStats;
use super::switches::Switches;
use crate::config::plan::Plan;
use crate::flow::clock::Clock;
use crate::flow::hub::Hub;
use crate::flow::notice::Notices;
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::command::{Outcome, Refusal};
use crate::model::tag::{BusIx, DeviceIx};

/// What the app holds of a bus.
#[derive(Debug, Clone)]
pub struct BusHandle {
    /// Commands for tags of this bus; use `try_send`, full is `refused: busy`.
    pub commands: mpsc::Sender<FieldCommand>,
    /// Counters of its first connection, which is the only one but for `max_connections`.
    pub stats: Arc<BusStats>,
    /// Counters of its other connections.
    pub others: Vec<Arc<BusStats>>,
    /// What a person asks of its devices.
    pub switches: Arc<Switches>,
}

impl BusHandle {
    /// Its life has ended by a panic, and there will be another one.
    pub fn lost(&self) {
        self.stats.restarts.one();
        std::iter::once(&self.stats).chain(&self.others).for_each(|lane| lane.connected.set(0));
    }
}

/// What every room of the house shares.
#[derive(Clone)]
pub struct Shared {
    /// The time.
    pub clock: Clock,
    /// The end.
    pub stop: Stop,
    /// Whom to leave alone.
    pub pauses: Pauses,
}

/// One bus, built and then run.
pub struct Bus {
    lanes: Vec<Lane>,
    desk: Option<Desk>,
    certificates: Option<Certificates>,
}

impl Bus {
    /// A bus of the plan, not yet connected. `bus` must be one of the plan's.
    pub fn new(plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        let of = &plan[bus];
        let opener = || carrier::opener_of(of, &shared.clock, Who::Gateway);
        let openers: Vec<_> = (0..of.habits.max_connections.max(1)).map(|_| opener()).collect();
        let (bus, handle) = Self::over_each(openers, plan, bus, hub, shared);
        (bus.precise(), handle)
    }

    /// A bus over a wire of the caller's choosing.
    pub fn over(opener: Box<dyn Opener>, plan: Arc<Plan>, bus: BusIx, hub: &Hub, shared: Shared) -> (Self, BusHandle) {
        Self::over_each(vec![opener], plan, bus, hub, shared)
    }

    /// A bus over several of them, one lane each; one at least.
    pub fn over_each(
        openers: Vec<Box<dyn Opener>>,
        plan: Arc<Plan>,
        bus: BusIx,
        hub: &Hub,
        shared: Shared,
    ) -> (Self, BusHandle) {
        let shares = shares(&plan, bus, openers.len());
        let (sender, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let mut commands = Some(commands);
        let handshake = openers.first().and_then(|opener| opener.handshake());
        let switches = Arc::new(Switches::new(&plan, shares.iter().flatten().copied(), &shared.pauses));
        let alone = shares.len() == 1;
        let (mut lanes, mut ways, mut stats) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (opener, devices)) in openers.into_iter().zip(&shares).enumerate() {
            let counts = Arc::<BusStats>::default();
            stats.push(Arc::clone(&counts));
            let queue = commands.take_if(|_| alone).unwrap_or_else(|| {
                let (way, queue) = mpsc::channel(COMMANDS_WAITING_MAX);
                ways.push(way);
                queue
            });
            let switches = Arc::clone(&switches);
            let site = Site { plan: Arc::clone(&plan), bus, place, devices: devices.clone(), stats: counts, switches };
            lanes.push(Lane::new(opener, site, hub.clone(), shared.clone(), queue));
        }
        let mut stats = stats.into_iter();
        let first = stats.next().unwrap_or_default();
        let certificates =
            handshake.map(|files| Certificates::new(&plan[bus].name, files, &shared, Arc::clone(&first)));
        let desk = commands.map(|commands| Desk { commands, ways, shares, plan, stop: shared.stop });
        let handle = BusHandle { commands: sender, stats: first, others: stats.collect(), switches };
        (Self { lanes, desk, certificates }, handle)
    }

    /// Tells the operator there when the bus has no connection, and when it has one again.
    #[must_use]
    pub fn telling(mut self, notices: &Notices) -> Self {
        self.certificates = self.certificates.map(|certificates| certificates.telling(notices.clone()));
        self.each(|lane| lane.telling(notices.clone()))
    }

    /// Goes on with the devices of newer plans, where [`super::can_follow`] says so.
    #[must_use]
    pub fn following(self, plans: &Plans) -> Self {
        self.each(|lane| lane.following(plans.clone()))
    }

    /// Keeps there what was learned about its devices, and begins with what is there.
    #[must_use]
    pub fn remembering(self, memory: &Arc<dyn Memory>) -> Self {
        self.each(|lane| lane.remembering(Arc::clone(memory)))
    }

    /// Keeps the pauses of a serial line to fractions of a millisecond, by the system's clock and not by tokio's.
    #[must_use]
    pub fn precise(self) -> Self {
        self.each(Lane::precise)
    }

    fn each(self, f: impl Fn(Lane) -> Lane) -> Self {
        Self { lanes: self.lanes.into_iter().map(f).collect(), ..self }
    }

    /// Polls until the stop. Ends after the transaction under way. Not cancel-safe.
    pub async fn run(self) {
        let lanes = self.lanes.into_iter().map(|lane| {
            let name = lane.envoy.name.clone();
            Box::pin(progress::part("bus", &name, lane.run())) as Running
        });
        let desk = self.desk.map(|desk| Box::pin(desk.run()) as Running);
        let certificates = self.certificates.map(|certificates| Box::pin(certificates.run()) as Running);
        let mut running: Vec<Running> = lanes.chain(desk).chain(certificates).collect();
        poll_fn(|cx| {
            running.retain_mut(|part| part.as_mut().poll(cx).is_pending());
            if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The devices of each lane: unit by unit in turn, so that what shares a unit shares a lane.
fn shares(plan: &Plan, bus: BusIx, lanes: usize) -> Vec<Vec<DeviceIx>> {
    let mut units: Vec<u8> = Vec::new();
    let mut shares = vec![Vec::new(); lanes.max(1)];
    for (ix, device) in plan.devices_on(bus) {
        let place = units.iter().position(|unit| *unit == device.unit_id).unwrap_or_else(|| {
            units.push(device.unit_id);
            units.len() - 1
        });
        shares[place % lanes.max(1)].push(ix);
    }
    shares.truncate(units.len().max(1));
    shares
}

/// The end of a queue of commands. To the end of it, not till it is empty: the router may hold a place for a command that
/// is still being journalled, and waits for an answer to each.
pub(super) async fn refuse_stopping(commands: &mut mpsc::Receiver<FieldCommand>) {
    commands.close();
    while let Some(command) = commands.recv().await {
        drop(command.reply.send(Outcome::Refused(Refusal::Stopping))); // nobody may be waiting any more
    }
}

/// Hands commands to the lanes of their devices.
struct Desk {
    commands: mpsc::Receiver<FieldCommand>,
    ways: Vec<mpsc::Sender<FieldCommand>>,
    shares: Vec<Vec<DeviceIx>>,
    plan: Arc<Plan>,
    stop: Stop,
}

impl Desk {
    async fn run(mut self) {
        loop {
            let command = tokio::select! {
                command = self.commands.recv() => command,
                () = self.stop.begun() => None,
            };
            let Some(command) = command else { break };
            let refused = match self.way(&command).map(|way| way.try_send(command)) {
                Some(Ok(())) | None => continue,
                Some(Err(refused)) => refused,
            };
            let (command, refusal) = match refused {
                mpsc::error::TrySendError::Full(command) => (command, Refusal::Busy),
                mpsc::error::TrySendError::Closed(command) => (command, Refusal::Stopping),
            };
            drop(command.reply.send(Outcome::Refused(refusal))); // nobody may be waiting any more
        }
        refuse_stopping(&mut self.commands).await;
    }

    /// A tag that is none of the plan's goes to the first lane, which refuses it.
    fn way(&self, command: &FieldCommand) -> Option<mpsc::Sender<FieldCommand>> {
        let device = self.plan.tag(command.tag).map(|tag| tag.device);
        let lane = device.and_then(|device| self.shares.iter().position(|share| share.contains(&device)));
        self.ways.get(lane.unwrap_or(0)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::DevicePlan;

    #[test]
    fn units_are_shared_out_in_turn_and_what_shares_a_unit_shares_a_lane() {
        let device = |unit| DevicePlan::plain("", BusIx(0), unit);
        let other = DevicePlan::plain("", BusIx(1), 9);
        let devices = vec![device(1), device(2), other, device(1), device(3), device(4), device(5)];
        let plan = Plan { devices, ..Plan::empty("g") };
        let places = |lanes| -> Vec<Vec<u32>> {
            shares(&plan, BusIx(0), lanes).into_iter().map(|share| share.into_iter().map(|ix| ix.0).collect()).collect()
        };
        assert_eq!(places(2), [vec![0, 3, 4, 6], vec![1, 5]]);
        assert_eq!(places(1), [vec![0, 1, 3, 4, 5, 6]]);
        assert_eq!(shares(&plan, BusIx(1), 4).len(), 1, "no connection without a unit");
        assert_eq!(shares(&plan, BusIx(2), 4).len(), 1);
    }
}
