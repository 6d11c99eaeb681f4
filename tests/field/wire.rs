//! Real sockets and real pseudo-terminals, in real time: connect, open, lose, find again.

use crate::plc;
use crate::ports::own_port;
use crate::pty;
use crate::rig;

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::time::Duration;

use ironbridge::config::plan::{BusLink, Carrier, Framing as Spoken, Parity, Plan, PortPlan, SerialPlan};
use ironbridge::model::command::Outcome;
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use ironbridge::plant::dial::DialLine;
use ironbridge::plant::image::Image;
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::tcp::{Manner, TcpLine};
use ironbridge::plant::udp::UdpLine;
use ironbridge::plant::units::Units;
use plc::{Fault, Framing, Plc};
use pty::Pty;
use rig::{Rig, good};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn fast(mut plan: Plan) -> Plan {
    rig::device(&mut plan, 1);
    for address in [10, 500, 900] {
        let tag = rig::tag(&mut plan, Table::Holding, address, DataType::Uint16);
        plan.tags[tag.0 as usize].poll = Duration::from_millis(20);
    }
    plan
}

fn own_address(sample: &Sample) {
    let address = [10, 500, 900][sample.tag.0 as usize];
    assert!(!good(sample) || sample.value == Some(Value::Uint(address)), "{sample:?}");
}

fn lost(sample: &Sample) -> bool {
    sample.quality == Quality::Bad(Cause::Transport)
}

async fn accept(listener: &TcpListener) -> tokio::net::TcpStream {
    listener.accept().await.expect("a connection").0
}

#[tokio::test]
async fn a_socket_that_breaks_is_found_again() {
    let listener = TcpListener::bind(("127.0.0.1", own_port())).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run(fast(rig::plan(rig::tcp(&address.to_string()))));
    let serving = tokio::spawn(plc.clone().serve(accept(&listener).await));
    for _ in 0..30 {
        rig.batch().await.iter().for_each(own_address);
    }
    assert!(matches!(rig.command(TagIx(0), Value::Uint(10)).await, Outcome::Done { read_back: Some(Value::Uint(10)) }));
    drop(listener);
    serving.abort();
    rig.sample(TagIx(2), lost).await;
    let listener = TcpListener::bind(address).await.expect("the same port");
    tokio::spawn(plc.serve(accept(&listener).await));
    own_address(&rig.sample(TagIx(2), good).await);
    assert!(rig.handle.stats.reconnects.get() >= 1);
}

#[tokio::test]
async fn a_serial_port_that_is_missing_unplugged_and_plugged_elsewhere_is_found_by_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let by_id = folder.path().join("usb-adapter");
    let mut rig = Rig::run(fast(rig::plan(rig::rtu(&by_id, 115_200))));
    rig.sample(TagIx(0), lost).await;
    let plc = Plc::new(Framing::Rtu);
    for _ in 0..2 {
        let pty = Pty::open().expect("a pty");
        symlink(&pty.path, &by_id).expect("a name");
        let serving = tokio::spawn(plc.clone().serve(pty));
        own_address(&rig.sample(TagIx(1), good).await);
        std::fs::remove_file(&by_id).expect("unplugged");
        serving.abort(); // drops the near end: the port now gives an error for ever
        rig.sample(TagIx(0), lost).await;
    }
}

#[tokio::test]
async fn a_noisy_pty_never_brings_a_wrong_value() {
    let pty = Pty::open().expect("a pty");
    let mut rig = Rig::run(fast(rig::plan(rig::rtu(&pty.path, 115_200))));
    let plc = Plc::new(Framing::Rtu);
    let mut count = 0;
    plc.plan(move |_| {
        count += 1;
        match count % 12 {
            1 => Fault::Late(rig::TIMEOUT + Duration::from_millis(50)),
            3 => Fault::Flip(count),
            5 => Fault::Garbage(vec![1, 3, 0xFF]),
            7 => Fault::EchoAndAnswer,
            9 => Fault::Drip(Duration::from_millis(2)),
            _ => Fault::None,
        }
    });
    tokio::spawn(plc.serve(pty));
    let mut goods = 0;
    while goods < 60 {
        for sample in rig.batch().await {
            own_address(&sample);
            goods += usize::from(good(&sample));
        }
    }
}

#[tokio::test]
async fn a_port_is_opened_by_one_bus_only() {
    let pty = Pty::open().expect("a pty");
    let path = pty.path.clone();
    tokio::spawn(Plc::new(Framing::Rtu).serve(pty));
    let mut first = Rig::run(fast(rig::plan(rig::rtu(&path, 9600))));
    first.sample(TagIx(0), good).await;
    let mut second = Rig::run(fast(rig::plan(rig::rtu(&path, 9600))));
    second.sample(TagIx(0), lost).await;
    first.sample(TagIx(0), good).await;
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A simulated line of each type that unit 1 is behind, and how a bus reaches it.
async fn every_type(units: &Units, folder: &std::path::Path) -> Vec<(BusLink, Box<dyn Any + Send>)> {
    let mut lines: Vec<(BusLink, Box<dyn Any + Send>)> = Vec::new();
    let plain = |framing| Manner { framing, tls: None };
    for framing in [Spoken::Mbap, Spoken::Rtu, Spoken::Ascii] {
        let line = TcpLine::serve_as(plain(framing), ANY, units.clone()).await.expect("binds");
        let endpoint = line.address().to_string();
        lines.push((BusLink::new(framing, Carrier::Tcp { endpoint }), Box::new(line)));
        let listen = SocketAddr::from(([127, 0, 0, 1], own_port()));
        let line = DialLine::serve(framing, listen, units.clone());
        lines.push((BusLink::new(framing, Carrier::Listen { listen, allow: Vec::new() }), Box::new(line)));
    }
    for framing in [Spoken::Mbap, Spoken::Rtu] {
        let line = UdpLine::serve(framing, ANY, units.clone()).await.expect("binds");
        let endpoint = line.address().to_string();
        lines.push((BusLink::new(framing, Carrier::Udp { endpoint }), Box::new(line)));
    }
    // A pseudo-terminal carries 8 bits whatever is set, so 7-bit settings only show that the port takes them.
    for (framing, data_bits, baud) in [(Spoken::Rtu, 8, 19_200), (Spoken::Ascii, 7, 31_250)] {
        let line = RtuLine::serve_as(framing, None, Pace::Instant, units.clone()).expect("a pty");
        let settings = SerialPlan { baud, data_bits, parity: Parity::Even, stop_bits: 1 };
        let port = PortPlan { low_latency: true, ..PortPlan::plain(line.path(), settings) };
        lines.push((BusLink::new(framing, Carrier::Serial(port)), Box::new(line)));
    }
    #[cfg(feature = "demo")]
    {
        let (config, files) = ironbridge::plant::tls::make(folder).expect("certificates");
        let manner = Manner { framing: Spoken::Mbap, tls: Some(config) };
        let line = TcpLine::serve_as(manner, ANY, units.clone()).await.expect("binds");
        let tls = ironbridge::config::plan::TlsCarrier {
            endpoint: line.address().to_string(),
            ca_file: files.ca_file,
            certificate: files.certificate,
            key: files.key,
            server_name: "localhost".into(),
        };
        lines.push((BusLink::new(Spoken::Mbap, Carrier::Tls(tls)), Box::new(line)));
    }
    let _ = folder;
    lines
}

#[tokio::test]
async fn every_type_of_bus_reads_and_writes_a_simulated_device() {
    let units = Units::new();
    let folder = tempfile::tempdir().expect("a folder");
    for (at, (link, line)) in (0u16..).zip(every_type(&units, folder.path()).await) {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &(0..1000).collect::<Vec<u16>>());
        units.insert(1, image);
        let told = link.to_string();
        let mut rig = Rig::run(fast(rig::plan(link)));
        for tag in 0..3 {
            own_address(&rig.sample(TagIx(tag), good).await);
        }
        let written = Value::Uint(u64::from(3000 + at));
        let outcome = rig.command(TagIx(0), written.clone()).await;
        assert!(
            matches!(&outcome, Outcome::Done { read_back: Some(value) } if *value == written),
            "{told}: {outcome:?}"
        );
        let held = units.with_image(1, |image| image.words(Table::Holding, 10, 1));
        assert_eq!(held, Some(Ok(vec![3000 + at])), "{told}");
        rig.stop.begin();
        rig.task.await.expect("ends");
        drop(line);
    }
}

#[tokio::test]
async fn a_modem_that_dials_in_again_takes_the_place_of_its_old_connection() {
    let listen = SocketAddr::from(([127, 0, 0, 1], own_port()));
    let link = BusLink::new(Spoken::Rtu, Carrier::Listen { listen, allow: Vec::new() });
    let mut rig = Rig::run(fast(rig::plan(link)));
    let mut older: Option<tokio::task::JoinHandle<()>> = None;
    for _ in 0..3 {
        let stream = loop {
            match TcpStream::connect(listen).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await, // not listening yet
            }
        };
        let modem = Plc::new(Framing::RtuOverTcp);
        let serving = tokio::spawn(modem.clone().serve(stream));
        own_address(&rig.sample(TagIx(1), good).await);
        if let Some(older) = older.replace(serving) {
            older.await.expect("the old connection was closed");
        }
        modem.kill(1); // its network is gone; the connection stays
        rig.sample(TagIx(1), rig::is_bad).await;
    }
    assert!(rig.handle.stats.reconnects.get() >= 2);
}

#[tokio::test]
async fn a_datagram_from_elsewhere_is_not_heard_and_one_with_an_old_number_is_not_an_answer() {
    let device = UdpSocket::bind(ANY).await.expect("a port");
    let stranger = UdpSocket::bind(ANY).await.expect("a port");
    let endpoint = device.local_addr().expect("bound").to_string();
    let mut rig = Rig::run(fast(rig::plan(BusLink::new(Spoken::Mbap, Carrier::Udp { endpoint }))));
    tokio::spawn(async move {
        let mut request = [0; 260];
        while let Ok((_, from)) = device.recv_from(&mut request).await {
            // transaction (2), protocol 0 (2), length 5 (2), unit, FC 3, 2 bytes of data
            let answer =
                |number: [u8; 2], data: [u8; 2]| [&number[..], &[0, 0, 0, 5, request[6], 3, 2], &data].concat();
            let (number, address) = ([request[0], request[1]], [request[8], request[9]]);
            let old = [request[0], request[1].wrapping_sub(1)];
            stranger.send_to(&answer(number, [0xBA, 0xD0]), from).await.ok();
            device.send_to(&answer(old, [0x01, 0xD0]), from).await.ok();
            device.send_to(&[], from).await.ok();
            device.send_to(&answer(number, address), from).await.ok();
        }
    });
    for _ in 0..60 {
        rig.batch().await.iter().for_each(own_address);
    }
    rig.sample(TagIx(2), good).await;
    assert!(rig.handle.stats.stale.get() >= 20, "the old numbers were seen");
    assert_eq!(rig.handle.stats.foreign.get(), 0, "the stranger was not");
}

#[tokio::test]
async fn a_udp_device_that_is_not_there_is_told_as_no_connection() {
    let gone = UdpSocket::bind(ANY).await.expect("a port");
    let endpoint = gone.local_addr().expect("bound").to_string();
    drop(gone);
    let mut rig = Rig::run(fast(rig::plan(BusLink::new(Spoken::Mbap, Carrier::Udp { endpoint }))));
    rig.sample(TagIx(0), lost).await;
}
