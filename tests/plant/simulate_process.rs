//! `ironbridge simulate` as a process: it says where everything is, and SIGTERM ends it cleanly.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tokio_modbus::client::{Reader, tcp};
use tokio_modbus::slave::Slave;

use crate::patience::answer;

const CONFIG: &str = r#"
[gateway]
name = "seven"
[[bus]]
name     = "plc-net"
type     = "modbus-tcp"
endpoint = "192.0.2.1:502"
[[device]]
name    = "meter"
bus     = "plc-net"
unit_id = 1
[[device.tag]]
name    = "value"
address = "holding:5"
type    = "uint16"
poll    = "1s"
[[bus]]
name   = "rs485-1"
type   = "modbus-rtu"
port   = "/dev/ttyUSB0"
serial = "9600-8N1"
"#;

/// Ends with the test, whatever happens in it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn sigterm_ends_a_simulation_cleanly() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let config = folder.path().join("main.toml");
    std::fs::write(&config, CONFIG).expect("config");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.args(["simulate", "--json", "--config"]).arg(&config).arg("--links").arg(folder.path());
    let mut process = Process(command.stdout(Stdio::piped()).spawn().expect("starts"));
    let mut said = String::new();
    BufReader::new(process.0.stdout.take().expect("piped")).read_line(&mut said).expect("says something");
    let report: serde_json::Value = serde_json::from_str(&said).expect("one JSON object");
    let address = report["buses"][0]["at"].as_str().expect("an address").parse().expect("a socket address");
    let mut client = tcp::connect_slave(address, Slave(1)).await.expect("connects");
    client.read_holding_registers(5, 1).await.expect("line").expect("mapped");
    let link = folder.path().join("rs485-1");
    assert!(link.exists(), "{report}");

    let id = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("signal");
    let status = answer("its end", async || process.0.try_wait().expect("wait")).await;
    assert!(status.success(), "{status}");
    assert!(link.symlink_metadata().is_err(), "the link goes with the line");
}
