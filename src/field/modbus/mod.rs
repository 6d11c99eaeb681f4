//! Modbus as a client: TCP and RTU on serial lines, on tokio-modbus and tokio-serial, never bare.
//!
//! `transport` opens the connection or the port · `frame` says which bytes are the answer (pure) · `gate` sits between
//! crate and wire and lets nothing else through · `session` does one transaction at a time and keeps the silences ·
//! `timing` knows how long things take · `bisect` splits a block that a device refuses · `decode` cuts values out of words
//! · `write` turns a value into what goes on the wire. Nothing here knows schedules, tags' quality or the hub.

pub mod bisect;
pub mod decode;
pub mod frame;
pub mod gate;
pub mod session;
pub mod timing;
pub mod transport;
pub mod write;
