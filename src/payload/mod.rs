//! Payload formats, one room each; encoding happens late, when something is about to be sent.
//!
//! `json` text, one object a record · `device` text, one object a device and poll · `batch` columns for links where
//! bytes cost money · `packed` tells them apart · `event` their time · `letter` the number beside a client's message ·
//! `table` a record as a row of text · `runs` codes that repeat · `sparkplug` metrics as SCADA hosts know them.

pub mod batch;
pub mod device;
pub mod event;
pub mod json;
pub mod letter;
pub mod packed;
pub mod runs;
pub mod sparkplug;
pub mod table;
