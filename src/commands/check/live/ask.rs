//! Asking one device for blocks, until every tag has words or a reason why not.
//!
//! Like the gateway: a refused block is split at its holes down to single tags, a busy device is asked again, silence is
//! repeated as often as configured. Unlike it: a device that stays silent is given up at once. Never writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::progress::Progress;
use super::seen::{Got, Harvest, Miss, View};
use crate::config::blocks::Block;
use crate::config::plan::{BusPlan, DevicePlan, Plan};
use crate::field::BusStats;
use crate::field::carrier::{self, Who};
use crate::field::driver::{Driver, Pace};
use crate::field::modbus::bisect;
use crate::field::modbus::decode::{Cut, Piece};
use crate::field::modbus::session::{Reading, Trouble};
use crate::field::modbus::timing::Timing;
use crate::flow::clock::Clock;
use crate::model::tag::{BusIx, Table};

/// A device that is busy (exceptions 5 and 6) is asked again after this long …
const BUSY_WAIT: Duration = Duration::from_millis(200);
/// … so many times.
const BUSY_MAX: u8 = 5;
/// A connection that broke is opened again after at most this long.
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(3);
/// Blocks in a row without an answer, of a device that did answer: it is gone.
const SILENT_MAX: u8 = 2;

/// The wire of one bus, and what it takes to use it.
pub struct Asker<'a> {
    /// Its tags have the addresses that are read.
    pub plan: Arc<Plan>,
    /// The connection.
    pub driver: Driver,
    progress: &'a Progress,
    /// What has come in besides answers.
    pub stats: Arc<BusStats>,
    /// How long answers took.
    pub took: Vec<Duration>,
}

impl<'a> Asker<'a> {
    /// Not yet open.
    pub fn new(plan: &Arc<Plan>, ix: BusIx, clock: &Clock, progress: &'a Progress) -> Self {
        let bus: &BusPlan = &plan[ix];
        let stats = Arc::<BusStats>::default();
        let paces = Pace::of_units(plan.devices_on(ix).map(|(_, device)| device));
        let opener = carrier::opener_of(bus, clock, Who::Tool);
        let driver = Driver::new(opener, Timing::new(bus), paces, Arc::clone(&stats));
        Self { plan: Arc::clone(plan), driver, progress, stats, took: Vec::new() }
    }

    /// Opens the bus.
    pub async fn open(&mut self) -> std::io::Result<()> {
        self.driver.open().await
    }

    /// More reads than were planned.
    pub fn more(&self, reads: usize) {
        self.progress.more(reads);
    }

    /// Reads these blocks of a device, as seen from `view`.
    pub async fn read(&mut self, device: &DevicePlan, blocks: Vec<Block>, view: View) -> Harvest {
        let mut harvest = Harvest::new();
        let mut waiting = blocks;
        waiting.reverse();
        let (mut silent, mut unknown): (u8, Option<Table>) = (0, None);
        while let Some(block) = waiting.pop() {
            if unknown == Some(block.table) {
                self.miss(&mut harvest, &block, &Miss::Exception(1));
                continue;
            }
            let outcome = match placed(&block, view, device) {
                Some((table, start)) => self.ask(device, table, start, block.count).await,
                None => Err(Miss::NotAsked),
            };
            match outcome {
                Ok(reading) => {
                    silent = 0;
                    self.cut(&mut harvest, &block, &reading);
                }
                Err(miss) => {
                    let halves = bisect::split(&block, &self.plan);
                    if let (Miss::Exception(2 | 3), Some((left, right))) = (&miss, halves) {
                        silent = 0;
                        self.progress.more(1);
                        waiting.extend([right, left]);
                        continue;
                    }
                    self.miss(&mut harvest, &block, &miss);
                    let answered = miss.is_answer() || matches!(miss, Miss::NotAsked | Miss::TooLong);
                    silent = if answered { 0 } else { silent + 1 };
                    if miss == Miss::Exception(1) {
                        unknown = Some(block.table);
                    }
                    let heard = harvest.values().any(|got| !matches!(got, Got::Miss(miss) if !miss.is_answer()));
                    if silent >= SILENT_MAX || silent > 0 && !heard {
                        waiting.drain(..).for_each(|rest| self.miss(&mut harvest, &rest, &miss));
                    }
                }
            }
        }
        harvest
    }

    fn miss(&self, harvest: &mut Harvest, block: &Block, miss: &Miss) {
        self.progress.step();
        harvest.extend(block.tags.iter().map(|ix| (ix.0 as usize, Got::Miss(miss.clone()))));
    }

    fn cut(&self, harvest: &mut Harvest, block: &Block, reading: &Reading) {
        self.progress.step();
        for ix in block.tags.iter().map(|ix| ix.0 as usize) {
            let Some(cut) = self.plan.tags.get(ix).and_then(|tag| Cut::new(tag, block.start)) else { continue };
            let got = match cut.piece(reading) {
                Piece::Bit(on) => Got::Bit(on),
                Piece::Words(words) => Got::Words(words.to_vec()),
                Piece::Missing => Got::Miss(Miss::Garbled),
            };
            harvest.insert(ix, got);
        }
    }

    /// One request, again where that may help.
    async fn ask(&mut self, device: &DevicePlan, table: Table, start: u16, count: u16) -> Result<Reading, Miss> {
        let (mut busy, mut failed, mut reopened) = (0, 0, false);
        loop {
            if !self.driver.is_open() {
                let wait = self.driver.retry_at().min(Instant::now() + REOPEN_WAIT_MAX);
                sleep_until(wait).await;
                self.driver.open().await.map_err(|error| Miss::Lost(error.to_string()))?;
            }
            let mut read = self.driver.read(device.unit_id, table, start, count).await;
            if matches!(read, Err(Trouble::Lost { .. })) && self.driver.renewed().await {
                read = self.driver.read(device.unit_id, table, start, count).await;
            }
            if let (Ok(_) | Err(Trouble::Exception(_)), Some(took)) = (&read, self.driver.last_response()) {
                self.took.push(took);
            }
            let miss = match read {
                Ok(reading) => return Ok(reading),
                Err(Trouble::Exception(5 | 6)) if busy < BUSY_MAX => {
                    busy += 1;
                    sleep(BUSY_WAIT).await;
                    continue;
                }
                Err(Trouble::Exception(code)) => return Err(Miss::Exception(code)),
                Err(Trouble::TooLong) => return Err(Miss::TooLong),
                Err(Trouble::Lost { error, .. }) if reopened => return Err(Miss::Lost(error.to_string())),
                Err(Trouble::Lost { .. }) => {
                    reopened = true;
                    continue;
                }
                Err(Trouble::Timeout) => Miss::Timeout,
                Err(Trouble::Protocol) => Miss::Garbled,
            };
            if failed >= device.manners.retries {
                return Err(miss);
            }
            failed += 1;
        }
    }
}

/// Where a block lies from there; `None`: it must not be read, or there is nothing.
fn placed(block: &Block, view: View, device: &DevicePlan) -> Option<(Table, u16)> {
    let (table, start) = match view {
        View::Configured => return Some((block.table, block.start)),
        View::Lower => (block.table, block.start.checked_sub(1)?),
        View::Higher => (block.table, block.start.checked_add(1)?),
        View::OtherTable(from, to) if block.table == from => (to, block.start),
        View::OtherTable(..) => (block.table, block.start),
    };
    start.checked_add(block.count - 1)?;
    device.territory.allows(table, start.into(), block.count.into()).then_some((table, start))
}
