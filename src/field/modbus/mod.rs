//! Modbus as a client, in three framings over whatever carries it: on tokio-modbus, never bare.
//!
//! `frame` and `ascii` say which bytes are a frame (pure) · `inbox` says which frame is the answer · `gate` and
//! `exchange` sit between crate and wire and let nothing else through · `echo` whether a line sends our bytes back · `owed`
//! which answers may still come · `session` does one transaction at a time and
//! keeps the silences · `timing` knows how long things take · `bisect` splits a block that a device refuses · `decode`
//! cuts values out of words · `write` turns a value into what goes on the wire · `identity` asks a device who it is.
//! Nothing here knows schedules, tags' quality or the hub.

pub mod ascii;
pub mod bisect;
pub mod decode;
pub mod echo;
pub mod exchange;
pub mod frame;
pub mod gate;
pub mod identity;
pub mod inbox;
pub mod owed;
pub mod session;
pub mod timing;
pub mod write;
