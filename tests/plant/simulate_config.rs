//! `simulate` as a whole: a config in, the same config with simulated places out, devices behind it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironbridge::commands::Failed;
use ironbridge::commands::simulate::{Args, run};
use ironbridge::config::plan::{Carrier, Plan, PortPlan};
use ironbridge::config::{self, HostFacts};
use tokio_modbus::client::{Reader, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};

const MAIN: &str = r#"
[gateway]
name  = "seven"

[[bus]]
name     = "plc-net" # the PLC
type     = "modbus-tcp"
endpoint = "192.0.2.1:502"

[[device]]
name    = "meter"
bus     = "plc-net"
unit_id = 1
profile = "map.csv"
[[device]]
name    = "dead"
bus     = "plc-net"
unit_id = 2
profile = "map.csv"
"#;

const LINE: &str = r#"
[[bus]]
name   = "rs485-1"
type   = "modbus-rtu"
port   = "/dev/ttyUSB0"
serial = "19200-8E1"
[[device]]
name    = "probe"
bus     = "rs485-1"
unit_id = 7
[[device.tag]]
name    = "level"
address = "input:3"
type    = "uint16"
poll    = "1s"
min     = 10
max     = 20
"#;

fn write(folder: &Path) -> Args {
    let etc = folder.join("etc");
    std::fs::create_dir_all(etc.join("ironbridge.d")).expect("directory");
    std::fs::write(etc.join("main.toml"), MAIN).expect("main");
    std::fs::write(etc.join("map.csv"), "name,address,type,poll\nvalue,holding:5,uint16,1s\n").expect("map");
    std::fs::write(etc.join("ironbridge.d/line.toml"), LINE).expect("fragment");
    Args {
        config: etc.join("main.toml"),
        write_config: Some(folder.join("out.toml")),
        data_dir: Some(folder.join("data")),
        dead: vec!["dead".into()],
        late: vec![("meter".into(), Duration::from_millis(50))],
        exception: vec![("probe".into(), 6)],
        noise: Vec::new(),
        fault: Vec::new(),
        paced: false,
        links: None,
        run_for: None,
        cloud: false,
        json: true,
    }
}

async fn written(out: PathBuf) -> Plan {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // Half a file does not parse, or lacks a bus.
        match config::load(&out, &HostFacts::default()) {
            Ok(loaded) if loaded.plan.buses.len() == 2 => return loaded.plan,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_written_config_leads_to_the_simulated_devices_and_their_faults() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let args = write(folder.path());
    let simulation = tokio::spawn(async move { run(args, &HostFacts::default()).await });
    let plan = written(folder.path().join("out.toml")).await;
    assert_eq!(plan.gateway.data_dir, folder.path().join("data"));
    let text = std::fs::read_to_string(folder.path().join("out.toml")).expect("out");
    assert!(text.contains("# the PLC"), "comments stay");

    let Carrier::Tcp { endpoint } = &plan.buses[0].link.carrier else { panic!("{plan:?}") };
    let address = endpoint.parse().expect("a literal address");
    let mut client = tcp::connect_slave(address, Slave(1)).await.expect("connects");
    let asked = Instant::now();
    client.read_holding_registers(5, 1).await.expect("line").expect("mapped");
    assert!(asked.elapsed() >= Duration::from_millis(50), "late by the fault");
    client.set_slave(Slave(2));
    let dead = tokio::time::timeout(Duration::from_millis(200), client.read_holding_registers(5, 1)).await;
    assert!(dead.is_err(), "{dead:?}");

    let Carrier::Serial(PortPlan { port, .. }) = &plan.buses[1].link.carrier else { panic!("{plan:?}") };
    let builder = tokio_serial::new(port.to_str().expect("UTF-8"), 19200);
    let port = tokio_serial::SerialStream::open(&builder).expect("opens");
    let mut client = rtu::attach_slave(port, Slave(7));
    let answer = client.read_input_registers(3, 1).await.expect("line");
    assert_eq!(answer, Err(tokio_modbus::ExceptionCode::ServerDeviceBusy));
    simulation.abort();
}

#[tokio::test]
async fn the_written_config_opens_the_same_doors_with_the_same_files_from_another_directory() {
    const USERS: &str = "[broker]\nusers_file = \"users\"\n";
    const DOORS: &str = r#"
[[broker.listener]]
listen = "127.0.0.1:8883"
tls    = { certificate = "tls/server.crt", key = "../server.key", client_ca = "clients.crt" }
[[broker.listener]]
listen = "unix:mqtt.sock"
"#;
    let folder = tempfile::tempdir().expect("temporary directory");
    let args = write(folder.path());
    std::fs::write(&args.config, format!("{MAIN}{USERS}")).expect("main");
    std::fs::write(folder.path().join("etc/ironbridge.d/doors.toml"), DOORS).expect("fragment");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let before = config::load(&args.config, &facts).expect("checks").plan.broker;
    let args = Args { run_for: Some(Duration::from_millis(50)), ..args };
    tokio::time::timeout(Duration::from_secs(120), run(args, &facts)).await.expect("ends").expect("well");
    let after = config::load(&folder.path().join("out.toml"), &facts).expect("checks").plan.broker;
    assert_eq!(before.users_file, Some(folder.path().join("etc/users")));
    assert_eq!(after.users_file, before.users_file);
    assert_eq!(after.listeners, before.listeners);
    let sockets: Vec<String> = after.listeners.iter().map(|door| door.listen.to_string()).collect();
    let socket = folder.path().join("etc/ironbridge.d/mqtt.sock");
    assert_eq!(sockets, ["127.0.0.1:8883".to_owned(), format!("unix:{}", socket.display())]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_served() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let right = write(folder.path());
    let cases = [
        Args { dead: vec!["nobody".into()], ..right.clone() },
        Args { write_config: Some(right.config.clone()), ..right.clone() },
        Args { write_config: Some(folder.path().join("etc/other.toml")), ..right.clone() },
    ];
    for args in cases {
        let shown = format!("{args:?}");
        assert!(matches!(run(args, &HostFacts::default()).await, Err(Failed::Usage(_))), "{shown}");
    }
    let missing = Args { config: folder.path().join("none.toml"), ..right };
    assert!(matches!(run(missing, &HostFacts::default()).await, Err(Failed::Config(_))));
}

#[tokio::test]
async fn a_simulation_with_a_time_ends_by_itself() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let args = Args { run_for: Some(Duration::from_millis(50)), ..write(folder.path()) };
    tokio::time::timeout(Duration::from_secs(120), run(args, &HostFacts::default()))
        .await
        .expect("ends")
        .expect("well");
}
