//! MQTT-SN over real datagrams: a gateway's door, sensors that lose them, sleep, move and lie, and MQTT clients beside them.

#![cfg(feature = "mqtt-sn")]

#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/broker.rs"]
mod support;

mod bytes;
mod doors;
mod hmi;
mod loss;
mod reload;
mod sensor;
mod sleep;
mod topics;
mod wills;
