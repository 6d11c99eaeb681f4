//! From a reading to a sample: scale, limits, deadband. Pure: the bus calls these with a value and a moment.
//!
//! `scale` raw to engineering value and back, exact for decimal factors · `limits` outside `min..max` is uncertain ·
//! `deadband` which samples are worth sending. Nothing here knows Modbus, a channel or a clock.

pub mod deadband;
pub mod limits;
pub mod meaning;
pub mod scale;
