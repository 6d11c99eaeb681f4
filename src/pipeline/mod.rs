//! From a reading to a sample: scale, limits, deadband. Pure: the bus calls these with a value and a moment.
//!
//! `meaning` what raw words are: sentinels, bit fields, maps · `scale` raw to engineering value and back, exact for
//! decimal factors · `limits` outside `min..max` is uncertain · `alarm` limits with hysteresis and delays · `deadband`
//! and `door` which samples are worth sending · `point` the three of one tag together · `derive` tags worked out from
//! others. Nothing here knows Modbus, a channel or a clock.

pub mod alarm;
pub mod deadband;
pub mod derive;
pub mod door;
pub mod limits;
pub mod meaning;
pub mod point;
pub mod scale;
