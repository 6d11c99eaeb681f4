//! The receiving side: a reference consumer for the cloud, and the ledger that proves a transfer complete.
//!
//! `client` one MQTT session after another (`wire` MQTT 5 or 3.1.1), each message acknowledged only when its consumer
//! says so · `message` one message to what it means, whatever its format (`device` one layout of JSON, `unfold`
//! batches) · `record` what that is · `consumer` puts windows of messages away: into a database (`keep`), as lines
//! (`output`), or nowhere (`resume` continues a file) · `ledger` which numbers came, twice, late or never (`ranges`
//! sets of numbers, `report` what it says, `seed` from a database) · `lag` how late · `decode` the short way for who
//! knows that only JSON comes · `sparkplug` edge nodes of any make, as a host hears them. Fed by a broker upstream,
//! through the same road as the uplinks; imports nothing of theirs.
//!
//! Promises: a record is acknowledged after its line was handed to the system, or its transaction was committed, so a
//! receiver that dies is sent it again; into a database each record goes once, over any number of runs and receivers, as
//! a line once within a run. What arrives is never trusted: sizes, counts and memory are bounded, and nothing panics.

pub mod client;
pub mod consumer;
pub mod decode;
mod device;
mod keep;
pub mod lag;
pub mod ledger;
pub mod message;
pub mod output;
mod ranges;
pub mod record;
mod report;
pub mod resume;
mod seed;
pub mod sparkplug;
mod unfold;
mod wire;
