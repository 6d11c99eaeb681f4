//! Real sockets and real pseudo-terminals, in real time: connect, open, lose, find again.

use crate::plc;
use crate::pty;
use crate::rig;

use std::os::unix::fs::symlink;
use std::time::Duration;

use ironbridge::config::plan::Plan;
use ironbridge::model::command::Outcome;
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::{DataType, Table, TagIx};
use ironbridge::model::value::Value;
use plc::{Fault, Framing, Plc};
use pty::Pty;
use rig::{Rig, good};
use tokio::net::TcpListener;

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
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
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
