//! The plant: devices that do not exist, for `simulate`, `demo` and the tests.
//!
//! ```text
//!  pdu      one request in, one response out          image   what a device holds
//!  frames   requests and replies in each framing      faults  what can be wrong with a unit; damage: how it shows
//!  tcp udp dial rtu   the lines (rtu on a pty)        tls     certificates for those that need them
//!  talk               the lines of instruments (bus type line): instruments (who is asked, what is wrong) -> instrument (its words)
//!  conversation       requests in, replies out when they are due
//!  behind   what a line asks of whoever is there      front   the door of a line, whatever carries it
//!  units    simulated devices behind a line           life + waves   the tags of a plan, moving; point: one of them
//!  identity who a device says it is (FC 43)           chain   its SunSpec models, one behind the other
//!  site     a whole plan served: Plan -> lines        playback + script   a recording behind a line
//!  link     a TCP relay that can be cut               cloud   rumqttd behind our TLS (feature `demo`)
//! ```
//!
//! Nothing here is used by a gateway at work. It speaks the real protocols, written apart from the crates that the field
//! room reads with, and promises to misbehave exactly as told.

pub mod behind;
pub mod chain;
mod conversation;
mod damage;
pub mod dial;
pub mod faults;
pub mod frames;
pub mod front;
pub mod identity;
pub mod image;
pub mod instrument;
pub mod instruments;
pub mod life;
pub mod link;
pub mod pdu;
pub mod playback;
mod point;
pub mod pty;
pub mod rtu;
pub mod script;
pub mod site;
pub mod talk;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod units;
pub mod waves;

#[cfg(feature = "demo")]
pub mod cloud;
