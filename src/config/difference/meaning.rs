//! What values mean, and whether they mean the same under another plan: the one answer for all who keep values over a reload.
//!
//! A tag means something else when its value comes from another place, is read another way or is another quantity: then
//! no value from before is one of it. A tag that is read has a new place in the plan then ([`super::arranged`]), so what is
//! still on its way under the earlier plan belongs to nothing. What is derived keeps its place and means something else with
//! its expression, and with each of the tags in it.
//!
//! A bus that is reached elsewhere, or a device on another bus, is the same one for whoever gave it its name.

use std::collections::{HashMap, HashSet};

use crate::config::plan::{Derivation, Plan, Source, TagPlan};
use crate::model::tag::TagIx;

/// The tags of a plan whose values under an earlier one are values of theirs. Both plans stand in one arrangement.
pub fn kept(old: &Plan, new: &Plan) -> HashSet<TagIx> {
    let live = |tag: &&TagPlan| !tag.is_hole();
    let before: HashMap<&str, &TagPlan> = old.tags.iter().filter(live).map(|tag| (&*tag.topic, tag)).collect();
    let same = |tag: &TagPlan| {
        before.get(&*tag.topic).is_some_and(|before| match (&before.source, &tag.source) {
            (Source::Derived(was), Source::Derived(is)) => {
                is_worked_alike((old, was), (new, is)) && is_one_quantity(before, tag)
            }
            _ => is_read_alike((old, before), (new, tag)),
        })
    };
    let numbered = || new.live_tags();
    let mut kept: HashSet<TagIx> = numbered().filter(|(_, tag)| same(tag)).map(|(ix, _)| ix).collect();
    loop {
        let uprooted = |(ix, tag): &(TagIx, &TagPlan)| match &tag.source {
            Source::Derived(derivation) => kept.contains(ix) && !derivation.inputs.iter().all(|ix| kept.contains(ix)),
            _ => false,
        };
        let uprooted: Vec<TagIx> = numbered().filter(uprooted).map(|(ix, _)| ix).collect();
        if uprooted.is_empty() {
            return kept;
        }
        for ix in uprooted {
            kept.remove(&ix);
        }
    }
}

/// The same for one tag of the earlier plan that is read, wherever its device has it in the new one.
pub fn is_kept((old, ix): (&Plan, TagIx), new: &Plan) -> bool {
    let Some(before) = old.live_tag(ix) else { return false };
    let device = new.live_device(before.device);
    let found = device.and_then(|device| new.tags_of(device).find(|(_, tag)| tag.topic == before.topic));
    found.is_some_and(|(_, tag)| is_read_alike((old, before), (new, tag)))
}

/// Are these, each of its own plan, read at the same place and taken for the same?
pub(super) fn is_read_alike((old, before): (&Plan, &TagPlan), (new, tag): (&Plan, &TagPlan)) -> bool {
    let asked =
        |plan: &Plan, tag: &TagPlan| plan.device(tag.device).map(|device| (device.unit_id, device.talk.clone()));
    let factors = (before.scale_from, tag.scale_from);
    let same_factor = match factors {
        (None, None) => true,
        (Some(was), Some(is)) => match (old.tag(was), new.tag(is)) {
            (Some(was), Some(is)) => was.name == is.name && is_same_alone(was, is),
            _ => false,
        },
        _ => false,
    };
    same_factor && is_same_alone(before, tag) && asked(old, before) == asked(new, tag)
}

/// But for its device and its scale factor.
fn is_same_alone(before: &TagPlan, tag: &TagPlan) -> bool {
    (before.source == tag.source && before.form() == tag.form() && before.nan == tag.nan)
        && is_one_quantity(before, tag)
        && before.has_values() == tag.has_values()
}

fn is_one_quantity(before: &TagPlan, tag: &TagPlan) -> bool {
    (before.data_type == tag.data_type && before.scale == tag.scale)
        && (before.map == tag.map && before.unit == tag.unit)
}

/// The same expression, of tags of the same names.
fn is_worked_alike((old, was): (&Plan, &Derivation), (new, is): (&Plan, &Derivation)) -> bool {
    let named = |plan: &Plan, ix: &TagIx| plan.tag(*ix).map(|tag| tag.topic.clone());
    let same = |(was, is)| named(old, was) == named(new, is);
    was.formula == is.formula && was.inputs.len() == is.inputs.len() && was.inputs.iter().zip(&is.inputs).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::difference::arranged;
    use crate::config::plan::{BusLink, BusPlan, DevicePlan};
    use crate::model::tag::{Address, BusIx, DataType, DeviceIx, Table};

    #[test]
    fn a_tag_that_only_gets_a_neighbour_is_kept_at_its_new_place_and_one_that_is_read_otherwise_is_not() {
        let plan = |unit: u8, tags: &[(&str, u16)]| {
            let tag = |(name, start): &(&str, u16)| {
                let address = Address { table: Table::Holding, start: *start, bit: None };
                TagPlan::plain(name, DeviceIx(0), address, DataType::Uint16)
            };
            let device = DevicePlan { tags: 0..tags.len(), ..DevicePlan::plain("d", BusIx(0), unit) };
            let buses = vec![BusPlan::plain("b", BusLink::tcp("x:1"))];
            Plan { buses, devices: vec![device], tags: tags.iter().map(tag).collect(), ..Plan::empty("gw") }
        };
        let old = plan(1, &[("a", 0), ("b", 1), ("c", 2)]);
        let kept = |new: Plan| {
            let new = arranged(&old, new);
            [0, 1, 2].map(|ix| is_kept((&old, TagIx(ix)), &new))
        };
        assert_eq!(kept(plan(1, &[("z", 7), ("b", 1), ("a", 0), ("c", 2)])), [true; 3]);
        assert_eq!(kept(plan(1, &[("a", 0), ("b", 9)])), [true, false, false], "elsewhere, or gone");
        assert_eq!(kept(plan(2, &[("a", 0), ("b", 1), ("c", 2)])), [false; 3], "of another unit");
    }
}
