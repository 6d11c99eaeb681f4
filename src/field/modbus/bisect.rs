//! Splits a block that a device refuses: at the largest hole, then in the middle, down to single tags. Pure.
//!
//! Devices refuse a whole read when one register in it does not exist; the planner cannot know which. Only what is left
//! alone and still refused is bad. Tags that begin at the same register (bits of one word) stay together.

use crate::config::blocks::Block;
use crate::config::plan::{Plan, TagPlan};
use crate::model::tag::TagIx;

/// Registers (or bits) that a tag takes, from its block's start: first and one past the last.
fn span(tag: &TagPlan) -> (u32, u32) {
    let width = if tag.address.table.is_bits() { 1 } else { tag.data_type.registers() };
    let start = u32::from(tag.address.start);
    (start, start + u32::from(width))
}

/// The two halves of a block; `None` when its tags cannot be told apart.
pub fn split(block: &Block, plan: &Plan) -> Option<(Block, Block)> {
    let mut spans: Vec<(TagIx, (u32, u32))> =
        block.tags.iter().filter_map(|ix| Some((*ix, span(plan.tags.get(ix.0 as usize)?)))).collect();
    spans.sort_by_key(|(_, span)| *span);
    let middle = spans.len() / 2;
    let mut best: Option<(u32, usize)> = None;
    let mut end = 0;
    for (place, pair) in spans.windows(2).enumerate() {
        let ((left_start, left_end), (right_start, _)) = (pair[0].1, pair[1].1);
        end = left_end.max(end);
        if left_start == right_start {
            continue;
        }
        let (cut, hole) = (place + 1, right_start.saturating_sub(end));
        let better = best.is_none_or(|(best_hole, best_cut)| {
            hole > best_hole || hole == best_hole && cut.abs_diff(middle) < best_cut.abs_diff(middle)
        });
        if better {
            best = Some((hole, cut));
        }
    }
    let (_, cut) = best?;
    let right = spans.split_off(cut);
    Some((part(block, &spans)?, part(block, &right)?))
}

fn part(block: &Block, spans: &[(TagIx, (u32, u32))]) -> Option<Block> {
    let start = spans.iter().map(|(_, (start, _))| *start).min()?;
    let end = spans.iter().map(|(_, (_, end))| *end).max()?;
    Some(Block {
        start: u16::try_from(start).ok()?,
        count: u16::try_from(end - start).ok()?,
        tags: spans.iter().map(|(ix, _)| *ix).collect(),
        ..block.clone()
    })
}
