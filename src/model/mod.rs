//! The words of the house: what every room talks about, and nothing that does anything.
//!
//! No tokio, no I/O, no clock. Every other room may import this one; this one imports nobody. `tag` what is read
//! (`sunspec`: in a chain of models), `data_type` as what · `value` + `registers` what came off the wire · `quality`
//! how far to trust it · `time` when · `sample` the three together · `number` its place in a stream · `topic` where it
//! is published (`mapping`: under another name elsewhere; `sparkplug`: as SCADA hosts have it) · `message` what a
//! client published there · `command` what may be written back · `alarm` what a tag may be warned of · `certificate`
//! what its holder is called · `stats` what is counted. Beside them `lock`: how every room takes one.

pub mod alarm;
pub mod certificate;
pub mod command;
pub mod data_type;
pub mod lock;
pub mod mapping;
pub mod message;
pub mod number;
pub mod quality;
pub mod registers;
pub mod sample;
pub mod sparkplug;
pub mod stats;
pub mod sunspec;
pub mod tag;
pub mod time;
pub mod topic;
pub mod value;
