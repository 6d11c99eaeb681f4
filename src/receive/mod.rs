//! The receiving side: a reference consumer for the cloud, and the ledger that proves a transfer complete.
//!
//! `client` one MQTT session after another, each message acknowledged only when its consumer says so · `decode` topic and
//! payload to what they mean · `ledger` which numbers came, twice, late or never · `ranges` sets of numbers · `output`
//! lines for people, NDJSON, CSV. Fed by a broker upstream, through the same road as the uplinks; imports nothing of
//! theirs. Format `json` only in this version.
//!
//! Promises: a record is acknowledged after its line was handed to the system, so a receiver that dies is sent it again;
//! within one run each record is written once, whatever arrives twice.

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
mod seed;
mod unfold;
mod wire;
