//! What an uplink pulls from: the store's reader, or a plain list in tests of the wire.

use std::future::Future;

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::store::Item;

/// What the broker acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// The record with this number.
    Record(Number),
    /// The gap record with this id.
    Gap(i64),
}

/// Everything one uplink is owed, in order.
pub trait Source: Send + Sync + 'static {
    /// Waits for at least one item and hands out at most `at_most` (≥ 1); `None` when the store has ended and all was
    /// handed out. Cancel-safe.
    fn next(&mut self, at_most: usize) -> impl Future<Output = Option<Vec<Item>>> + Send;
    /// Back to the first item that is not acknowledged.
    fn rewind(&mut self);
    /// The broker has it.
    fn acknowledge(&self, ack: Ack);
    /// Puts the cursor on disk.
    fn save(&self) -> impl Future<Output = ()> + Send;
    /// Items not yet acknowledged.
    fn backlog(&self) -> u64;
    /// The newest number of each stream that has one.
    fn newest(&self) -> Vec<(Class, Epoch, Seq)>;
}
