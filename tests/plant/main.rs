//! The simulated plant and cloud, and `ironbridge simulate`.

mod cloud;
mod faults;
mod lines;
mod rumqttd_rows;
mod simulate_config;
mod simulate_process;
mod site;
