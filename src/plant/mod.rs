//! The plant: devices that do not exist, for `simulate`, `demo` and the tests.
//!
//! ```text
//!  pdu      one request in, one response out          image   what a device holds
//!  frames   requests and replies in each framing      faults  dead, late, exception, noise, set while it runs
//!  tcp udp dial rtu   the lines (rtu on a pty)        tls     certificates for those that need them
//!  talk               the lines of instruments (bus type line): instruments (who is asked, what is wrong) -> instrument (its words)
//!  conversation       requests in, replies out when they are due
//!  units    who is behind a line                      life + waves   the tags of a plan, moving
//!  site     a whole plan served: Plan -> lines
//!  link     a TCP relay that can be cut               cloud   rumqttd behind our TLS (feature `demo`)
//! ```
//!
//! Nothing here is used by a gateway at work. It speaks the real protocols, written apart from the crates that the field
//! room reads with, and promises to misbehave exactly as told.

mod conversation;
pub mod dial;
pub mod faults;
mod frames;
pub mod image;
pub mod instrument;
pub mod instruments;
pub mod life;
pub mod link;
pub mod pdu;
mod point;
pub mod pty;
pub mod rtu;
pub mod site;
pub mod talk;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod units;
pub mod waves;

#[cfg(feature = "demo")]
pub mod cloud;
