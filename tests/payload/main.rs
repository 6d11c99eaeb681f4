//! What leaves the gateway, byte by byte.

mod batch;
mod schema;
mod sparkplug;
