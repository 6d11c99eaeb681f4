//! The simulated plant as a foreign client sees it: tokio-modbus over TCP and over the pseudo-terminal.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ironbridge::config::plan::{Parity, SerialPlan};
use ironbridge::model::tag::Table;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;
use tokio::time::timeout;
use tokio_modbus::ExceptionCode;
use tokio_modbus::client::{Context, Reader, Writer, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};

use crate::patience::until;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Units 1 and 2, whose holding registers 0..200 hold their own address, and one of each other table.
fn units() -> Units {
    let units = Units::new();
    for unit in [1, 2] {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &(0..200).collect::<Vec<u16>>());
        image.set_words(Table::Input, 7, &[0xBEEF]);
        image.set_words(Table::Coil, 0, &[0, 1]);
        image.set_words(Table::Discrete, 3, &[1]);
        units.insert(unit, image);
    }
    units
}

async fn on_tcp(line: &TcpLine) -> Context {
    tcp::connect_slave(line.address(), Slave(1)).await.expect("listens")
}

fn on_pty(line: &RtuLine) -> Context {
    let path = line.path().to_str().expect("UTF-8");
    let port = tokio_serial::SerialStream::open(&tokio_serial::new(path, 19200)).expect("opens");
    rtu::attach_slave(port, Slave(1))
}

/// What must hold on either line.
async fn everything(client: &mut Context, units: &Units) {
    let words = client.read_holding_registers(10, 125).await.expect("line").expect("mapped");
    assert_eq!(words, (10..135).collect::<Vec<u16>>());
    assert_eq!(client.read_input_registers(7, 1).await.expect("line"), Ok(vec![0xBEEF]));
    assert_eq!(client.read_coils(0, 2).await.expect("line"), Ok(vec![false, true]));
    assert_eq!(client.read_discrete_inputs(3, 1).await.expect("line"), Ok(vec![true]));
    assert_eq!(client.read_holding_registers(199, 2).await.expect("line"), Err(ExceptionCode::IllegalDataAddress));
    client.write_single_coil(0, true).await.expect("line").expect("mapped");
    client.write_multiple_coils(0, &[true, false]).await.expect("line").expect("mapped");
    client.write_single_register(5, 4711).await.expect("line").expect("mapped");
    client.write_multiple_registers(6, &[1, 2]).await.expect("line").expect("mapped");
    assert_eq!(client.read_coils(0, 2).await.expect("line"), Ok(vec![true, false]));
    let held = units.with_image(1, |image| image.words(Table::Holding, 4, 5));
    assert_eq!(held, Some(Ok(vec![4, 4711, 1, 2, 8])));
    assert_eq!(client.write_single_register(1000, 1).await.expect("line"), Err(ExceptionCode::IllegalDataAddress));
}

async fn faults(client: &mut Context, units: &Units) {
    units.set_fault(1, Some(Fault::Exception(6)));
    assert_eq!(client.read_holding_registers(0, 1).await.expect("line"), Err(ExceptionCode::ServerDeviceBusy));
    units.set_fault(1, Some(Fault::Late(Duration::from_millis(150))));
    let asked = Instant::now();
    assert_eq!(client.read_holding_registers(3, 1).await.expect("line"), Ok(vec![3]));
    assert!(asked.elapsed() >= Duration::from_millis(150));
    units.set_fault(1, Some(Fault::Dead));
    client.set_slave(Slave(2));
    assert_eq!(client.read_holding_registers(3, 1).await.expect("line"), Ok(vec![3]));
    client.set_slave(Slave(1));
    assert!(timeout(Duration::from_millis(200), client.read_holding_registers(0, 1)).await.is_err());
    assert!(units.set_fault(1, None));
    assert!(!units.set_fault(99, None));
}

#[tokio::test]
async fn a_tcp_line_serves_all_tables_and_its_faults() {
    let units = units();
    let line = TcpLine::serve(ANY, units.clone()).await.expect("binds");
    let mut client = on_tcp(&line).await;
    everything(&mut client, &units).await;
    faults(&mut client, &units).await;
    let mut client = on_tcp(&line).await;
    client.set_slave(Slave(77));
    let answer = client.read_holding_registers(0, 1).await.expect("line");
    assert_eq!(answer, Err(ExceptionCode::GatewayTargetDevice));
    line.stop().await;
    assert!(client.read_holding_registers(0, 1).await.is_err());
}

#[tokio::test]
async fn a_pty_line_serves_all_tables_and_its_faults_to_one_client_after_another() {
    let units = units();
    let folder = tempfile::tempdir().expect("temporary directory");
    let name = folder.path().join("ttyPLANT");
    let line = RtuLine::serve(Some(&name), Pace::Instant, units.clone()).expect("pty");
    assert_eq!(line.path(), name);
    everything(&mut on_pty(&line), &units).await;
    for _ in 0..5 {
        let mut client = on_pty(&line);
        assert_eq!(client.read_holding_registers(20, 2).await.expect("line"), Ok(vec![20, 21]));
    }
    faults(&mut on_pty(&line), &units).await;
    line.stop().await;
    assert!(name.symlink_metadata().is_err(), "the link goes with the line");
}

#[tokio::test]
async fn half_a_request_of_a_killed_client_disturbs_nobody() {
    let units = units();
    let line = RtuLine::serve(None, Pace::Instant, units.clone()).expect("pty");
    std::fs::write(line.path(), [1, 3, 0, 0]).expect("half a request");
    until("the half request is dropped", || units.stats().dropped.get() >= 4).await;
    assert_eq!(on_pty(&line).read_holding_registers(1, 1).await.expect("line"), Ok(vec![1]));
}

#[tokio::test]
async fn a_paced_line_takes_the_time_of_its_baud_rate() {
    let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
    let line = RtuLine::serve(None, Pace::Line(serial), units()).expect("pty");
    let mut client = on_pty(&line);
    let asked = Instant::now();
    assert_eq!(client.read_holding_registers(0, 100).await.expect("line").expect("mapped").len(), 100);
    // 8 characters out and 205 back, 11 bits each
    assert!(asked.elapsed() >= Duration::from_micros(213 * 11 * 1_000_000 / 9600));
}

#[tokio::test]
async fn a_damaged_reply_is_never_a_valid_one() {
    let units = units();
    units.set_fault(1, Some(Fault::Noise));
    let tcp = TcpLine::serve(ANY, units.clone()).await.expect("binds");
    assert!(on_tcp(&tcp).await.read_holding_registers(0, 4).await.is_err());
    let rtu = RtuLine::serve(None, Pace::Instant, units).expect("pty");
    let mut client = on_pty(&rtu);
    let answer = timeout(Duration::from_millis(200), client.read_holding_registers(0, 4)).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
}

#[tokio::test]
async fn garbage_of_one_client_disturbs_no_other() {
    use std::io::Write as _;
    let units = units();
    let tcp = TcpLine::serve(ANY, units.clone()).await.expect("binds");
    let mut neighbour = on_tcp(&tcp).await;
    let noise: Vec<u8> = (0..4000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for length in [1, 7, 8, 100, 4000] {
        let mut stranger = std::net::TcpStream::connect(tcp.address()).expect("connects");
        drop(stranger.write_all(&noise[..length])); // may be closed while it still writes
        assert_eq!(neighbour.read_holding_registers(9, 1).await.expect("line"), Ok(vec![9]));
    }
    let rtu = RtuLine::serve(None, Pace::Instant, units.clone()).expect("pty");
    std::fs::write(rtu.path(), &noise[..1000]).expect("noise");
    until("the noise is dropped", || units.stats().dropped.get() >= 990).await;
    assert_eq!(on_pty(&rtu).read_holding_registers(9, 1).await.expect("line"), Ok(vec![9]));
}
