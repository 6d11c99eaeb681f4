//! SunSpec models of a device, found before its tags are read: then they have addresses like any other. A part of `ask`.

use std::sync::Arc;

use tokio::time::Instant;

use super::ask::Asker;
use super::seen::{Got, Harvest, Miss};
use crate::config::blocks::Block;
use crate::config::plan::{DevicePlan, Plan};
use crate::field::modbus::session::Trouble;
use crate::field::sunspec::chain::Chain;
use crate::field::sunspec::discovery::Discovery;
use crate::field::sunspec::guarded;
use crate::model::sunspec::{ModelRef, TABLE};

/// The tags of a device where they are on the wire, and what is nowhere.
pub struct Settled {
    /// The plan with these addresses.
    pub plan: Arc<Plan>,
    /// The reads.
    pub blocks: Vec<Block>,
    /// Tags without a place.
    pub missing: Harvest,
}

/// Looks for the models that these blocks are of; without any nothing is asked.
pub async fn settle(asker: &mut Asker<'_>, plan: &Arc<Plan>, device: &DevicePlan, blocks: Vec<Block>) -> Settled {
    let mut wanted: Vec<ModelRef> = blocks.iter().filter_map(|block| block.model).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Settled { plan: Arc::clone(plan), blocks, missing: Harvest::new() };
    }
    let mut discovery = Discovery::default();
    let allows = |start: u16, count: u16| device.territory.allows(TABLE, start.into(), count.into());
    let walked =
        guarded::walk(&mut asker.driver, device.unit_id, &mut discovery, |ask| allows(ask.start, ask.count)).await;
    let why = match walked {
        Ok(Some(chain)) => {
            discovery.settle(chain, asker.driver.connection(), &wanted, Instant::now());
            None
        }
        Ok(None) => None,
        Err(trouble) => Some(missed(trouble)),
    };
    place(plan, blocks, &discovery, why.as_ref())
}

fn missed(trouble: Trouble) -> Miss {
    match trouble {
        Trouble::Exception(code) => Miss::Exception(code),
        Trouble::Timeout => Miss::Timeout,
        Trouble::Protocol => Miss::Garbled,
        Trouble::TooLong => Miss::TooLong,
        Trouble::Lost { error, .. } => Miss::Lost(error.to_string()),
    }
}

/// Gives every tag its address; what has none is missed for this reason, or because the device has no such model.
fn place(plan: &Arc<Plan>, blocks: Vec<Block>, discovery: &Discovery, why: Option<&Miss>) -> Settled {
    let (mut settled, mut placed, mut missing) = (Plan::clone(plan), Vec::new(), Harvest::new());
    for block in blocks {
        let Some(wanted) = block.model else {
            placed.push(block);
            continue;
        };
        let found = discovery.find(wanted);
        let mut kept = Vec::new();
        for ix in &block.tags {
            let at = ix.0 as usize;
            let tag = found.and_then(|model| plan.tags.get(at)?.settled(model.start, model.registers()));
            if let (Some(tag), Some(old)) = (tag, settled.tags.get_mut(at)) {
                *old = tag;
                kept.push(*ix);
            } else {
                let absent = || Miss::Absent(absent(wanted, discovery.chain()));
                missing.insert(at, Got::Miss(why.cloned().unwrap_or_else(absent)));
            }
        }
        let Some(model) = found.filter(|_| !kept.is_empty()) else { continue };
        let within = u16::try_from(model.registers().saturating_sub(block.start.into())).unwrap_or(u16::MAX);
        if let Some(start) = model.start.checked_add(block.start) {
            placed.push(Block { model: None, start, count: block.count.min(within), tags: kept, ..block });
        }
    }
    Settled { plan: Arc::new(settled), blocks: placed, missing }
}

fn absent(model: ModelRef, chain: Option<&Chain>) -> String {
    match chain {
        Some(chain) if chain.base.is_some() => {
            let flaw = chain.flaw.map(|flaw| format!("; {flaw}")).unwrap_or_default();
            format!("its model {model} is missing or too short; models and their lengths here: {chain}{flaw}")
        }
        _ => "the device has no SunSpec models (no \"SunS\" at register 40000, 50000 or 0)".to_owned(),
    }
}
