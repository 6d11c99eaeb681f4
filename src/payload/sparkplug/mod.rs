//! The payload of `format = "sparkplug"`: Sparkplug B 3.0, as an edge node without templates writes and reads it.
//!
//! `config/ironbridge-sparkplug.proto` says it to strangers, field by field, and `proto` is that text in Rust. `kind`
//! the data types, and which one a tag has · `encode` metrics to bytes · `squeeze` the compressed form · `command` what
//! a host sends, bounded whatever comes in · `read` what an edge node says, for who listens · `state` whether a host is
//! there. Where all of it goes stands in `model::sparkplug`.
//!
//! Pure: nothing here knows a session, its counts (bdSeq, seq) or a clock; they come in as arguments.

mod command;
mod encode;
mod kind;
mod proto;
mod read;
mod squeeze;
mod state;

pub use crate::model::sparkplug::{BadId, Kind, Node, Topic, check_id, state_topic};
pub use command::{Command, METRICS_MAX, NAME_BYTES_MAX, Refused, Told, decode_command};
pub use encode::{Metric, Payload, Property};
pub use kind::{DataType, Value, Worked, quality_code, type_of, value_of};
pub use read::{Read, Reading, decode_reading};
pub use state::{NoState, State, decode_state};

/// Name of the birth/death sequence number in NBIRTH and NDEATH (specification, section 6.4.22).
pub const BD_SEQ: &str = "bdSeq";
/// A command of this name and value true asks for new births (section 6.4.19).
pub const REBIRTH: &str = "Node Control/Rebirth";
/// … for the next server of the list.
pub const NEXT_SERVER: &str = "Node Control/Next Server";
/// … for another period of polling, ms.
pub const SCAN_RATE: &str = "Node Control/Scan Rate";
/// The property that carries [`quality_code`] (section 6.4.17).
pub const QUALITY: &str = "Quality";
