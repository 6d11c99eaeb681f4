//! Splits a block that a device refuses: at the largest hole, then in the middle, down to single tags. Pure.
//!
//! Devices refuse a whole read when one register in it does not exist; the planner cannot know which. Only what is left
//! alone and still refused is bad. Tags that begin at the same register (bits of one word) stay together. A block may reach
//! further than its tags, as far as their scale factor: what lies between may be what is refused, and is left out at last.

use crate::config::blocks::Block;
use crate::config::plan::{Plan, TagPlan};
use crate::field::memory::Boundary;
use crate::model::tag::TagIx;

/// Registers (or bits) that a tag takes, from its block's start: first and one past the last.
fn span(tag: &TagPlan) -> Option<(u32, u32)> {
    let address = tag.place()?;
    let width = if address.table.is_bits() { 1 } else { tag.data_type.registers() };
    let start = u32::from(address.start);
    Some((start, start + u32::from(width)))
}

/// The two halves of a block; `None` when its tags cannot be told apart.
pub fn split(block: &Block, plan: &Plan) -> Option<(Block, Block)> {
    let mut spans = spans(&block.tags, plan);
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
    Some((headed(block, part(block, &spans)?), part(block, &right)?))
}

/// The block without what lies around its tags; `None` when that is nothing, and with the header of its model.
pub fn tightened(block: &Block, plan: &Plan) -> Option<Block> {
    let tight = headed(block, part(block, &spans(&block.tags, plan))?);
    (tight.count < block.count).then_some(tight)
}

/// Where a read of this block is never to reach any more, now that it became this.
pub fn edges(block: &Block, tight: &Block) -> Vec<Boundary> {
    let end = |block: &Block| block.start.saturating_add(block.count);
    let at = |at: u16| Boundary { table: block.table, model: block.model, period: block.period, at };
    let below = (tight.start > block.start).then_some(tight.start);
    let above = (end(tight) < end(block)).then_some(end(tight));
    below.into_iter().chain(above).map(at).collect()
}

fn spans(tags: &[TagIx], plan: &Plan) -> Vec<(TagIx, (u32, u32))> {
    tags.iter().filter_map(|ix| Some((*ix, span(plan.tag(*ix)?)?))).collect()
}

/// The pieces of blocks that were found to need splitting at these places.
pub fn split_at(blocks: Vec<Block>, boundaries: &[Boundary], plan: &Plan) -> Vec<Block> {
    let mut pieces = Vec::with_capacity(blocks.len());
    for block in blocks {
        let begins = |ix: &TagIx| plan.tag(*ix).and_then(span).map_or(0, |(start, _)| start);
        let own: Vec<Boundary> = boundaries.iter().filter(|kept| kept.is_of(&block)).copied().collect();
        let mut rest = block;
        for boundary in own {
            let behind = |ix: &TagIx| begins(ix) >= u32::from(boundary.at);
            let (right, left): (Vec<TagIx>, Vec<TagIx>) = rest.tags.iter().copied().partition(behind);
            let piece = |tags: &[TagIx]| part(&rest, &spans(tags, plan));
            match (piece(&left), piece(&right)) {
                (Some(left), Some(right)) => {
                    pieces.push(headed(&rest, left));
                    rest = right;
                }
                // All its tags are on one side: it must not reach over to the other one.
                (Some(one), None) | (None, Some(one)) if boundary.is_within(&rest) => rest = headed(&rest, one),
                _ => {}
            }
        }
        pieces.push(rest);
    }
    pieces
}

/// The lower part of a block that begins with the header of its model begins with it too.
fn headed(block: &Block, lower: Block) -> Block {
    if block.model.is_none() || !block.has_header() {
        return lower;
    }
    Block { start: block.start, count: lower.start - block.start + lower.count, ..lower }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::tag::{Address, DataType, DeviceIx, Table};

    fn tag((start, data_type): (u16, DataType)) -> TagPlan {
        TagPlan::plain("t", DeviceIx(0), Address { table: Table::Holding, start, bit: None }, data_type)
    }

    /// Start and count of both halves of a block of these tags.
    fn halves(tags: &[(u16, DataType)]) -> Option<[(u16, u16); 2]> {
        let plan = Plan { tags: tags.iter().copied().map(tag).collect(), ..Plan::empty("g") };
        let tags = (0u32..).zip(tags).map(|(ix, _)| TagIx(ix)).collect();
        let period = Duration::from_secs(1);
        let block =
            Block { device: DeviceIx(0), table: Table::Holding, model: None, start: 0, count: 100, period, tags };
        let (left, right) = split(&block, &plan)?;
        Some([(left.start, left.count), (right.start, right.count)])
    }

    #[test]
    fn what_was_split_once_is_split_there_again() {
        let starts = [0u16, 1, 9, 12, 30];
        let plan = Plan { tags: starts.map(|at| tag((at, DataType::Float32))).to_vec(), ..Plan::empty("g") };
        let period = Duration::from_secs(1);
        let tags = (0..5).map(TagIx).collect();
        let block =
            Block { device: DeviceIx(0), table: Table::Holding, model: None, start: 0, count: 32, period, tags };
        let at = |at| Boundary { table: Table::Holding, model: None, period, at };
        let other = Boundary { table: Table::Input, ..at(1) };
        let pieces = split_at(vec![block], &[other, at(0), at(9), at(30), at(77)], &plan);
        let pieces: Vec<_> = pieces.iter().map(|piece| (piece.start, piece.count, piece.tags.len())).collect();
        assert_eq!(pieces, [(0, 3, 2), (9, 5, 2), (30, 2, 1)]);
    }

    #[test]
    fn a_block_that_reaches_further_than_its_tags_is_tightened_and_stays_so() {
        let plan = Plan { tags: vec![tag((20, DataType::Float32))], ..Plan::empty("g") };
        let period = Duration::from_secs(1);
        let block = |start, count| Block {
            device: DeviceIx(0),
            table: Table::Holding,
            model: None,
            start,
            count,
            period,
            tags: vec![TagIx(0)],
        };
        for (start, count, places) in [(0, 22, vec![20]), (20, 60, vec![22]), (0, 80, vec![20, 22])] {
            let wide = block(start, count);
            assert_eq!(split(&wide, &plan), None);
            let tight = tightened(&wide, &plan).expect("it is wider than its tag");
            assert_eq!((&tight, tightened(&tight, &plan)), (&block(20, 2), None));
            let edges = edges(&wide, &tight);
            assert_eq!(edges.iter().map(|edge| edge.at).collect::<Vec<_>>(), places);
            assert_eq!(split_at(vec![wide], &edges, &plan), [block(20, 2)], "planned anew");
        }
    }

    #[test]
    fn a_block_is_split_at_its_largest_hole_else_in_the_middle_and_never_through_a_value() {
        use DataType::{Float32, Int64, Uint16};
        assert_eq!(halves(&[(0, Uint16), (1, Uint16), (9, Uint16), (12, Float32)]), Some([(0, 2), (9, 5)]));
        assert_eq!(halves(&[(0, Uint16), (1, Uint16), (2, Uint16), (3, Uint16)]), Some([(0, 2), (2, 2)]));
        assert_eq!(halves(&[(0, Int64), (2, Uint16), (6, Uint16)]), Some([(0, 4), (6, 1)]), "one lies in the other");
        assert_eq!(halves(&[(5, Float32), (0, Float32)]), Some([(0, 2), (5, 2)]), "in any order");
        assert_eq!(halves(&[(7, Uint16), (7, Uint16)]), None, "two views of one register");
        assert_eq!(halves(&[(7, Int64)]), None);
    }
}
