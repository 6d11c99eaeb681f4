//! The simulated plant and cloud, and `ironbridge simulate`.

#[path = "../support/patience.rs"]
mod patience;

mod cloud;
mod faults;
mod instruments;
mod lines;
mod replay;
mod rumqttd_rows;
mod simulate_config;
mod simulate_process;
mod site;
