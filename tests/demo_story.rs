//! The demo around a gateway made of a list and an uplink: an honest one passes, one that loses or invents does not.
#![cfg(feature = "demo")]

use std::sync::Arc;
use std::time::Duration;

use ironbridge::commands::Failed;
use ironbridge::commands::demo::gateway::{Gateway, Later, Pulse, StartGateway};
use ironbridge::commands::demo::{Args, run};
use ironbridge::config::plan::{Carrier, Plan};
use ironbridge::flow::notice::notices;
use ironbridge::flow::stop::Stop;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::tag::DataType;
use ironbridge::model::value::Value;
use ironbridge::store::{DictionaryTag, Item, Owed, OwedBody};
use ironbridge::uplink::{Timing, Uplink, UplinkParts};
use tokio_modbus::client::{Reader, tcp};
use tokio_modbus::slave::Slave;

#[path = "support/cloud.rs"]
mod cloud;
#[path = "support/owed.rs"]
mod owed;
#[path = "support/patience.rs"]
mod patience;
#[path = "support/uplink_rig.rs"]
mod rig;

use owed::OwedList;

/// What the gateway under test does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    LosesOne,
    InventsOne,
}

const EPOCH: Epoch = Epoch(77);

fn record(seq: u64, value: f64, clock: &ironbridge::flow::clock::Clock) -> Item {
    let tag = DictionaryTag {
        id: 1,
        device: "pump-station".into(),
        name: "level".into(),
        topic: "demo/pump-station/level".into(),
        data_type: DataType::Uint16,
    };
    Item::Record(Owed {
        number: Number { stream: Class::Telemetry, epoch: EPOCH, seq: Seq(seq) },
        previous: None,
        body: OwedBody::Sample { tag: Arc::new(tag), value: Some(Value::Float(value)), quality: Quality::Good },
        at: clock.now(),
    })
}

/// Polls the level, every sample an owed record; the uplink is the real one.
async fn begin(plan: Arc<Plan>, lie: Lie) -> Result<Gateway, Failed> {
    let Carrier::Tcp { endpoint } = &plan.buses[0].link.carrier else { panic!("the first bus is on TCP") };
    let mut client = tcp::connect_slave(endpoint.parse().expect("literal"), Slave(1)).await.expect("plant");
    let (list, stop, clock) = (OwedList::default(), Stop::new(), rig::clock());
    let (polled, polling, dated) = (list.clone(), stop.clone(), clock.clone());
    let plc = tokio::spawn(async move {
        let mut seq = 0;
        while !polling.is_begun() {
            let words = client.read_holding_registers(104, 1).await.expect("line").expect("mapped");
            seq += 1;
            let value = f64::from(words[0]) * 0.001;
            match lie {
                Lie::LosesOne if seq == 20 => {} // has taken its number
                Lie::InventsOne if seq == 20 => polled.push([record(seq, value + 0.000_4, &dated)]),
                _ => polled.push([record(seq, value, &dated)]),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        polled.end();
        seq
    });
    let run_dir = tempfile::tempdir().expect("temporary directory");
    let (hand_in, _notices) = notices();
    let (uplink, stats) = Uplink::new(UplinkParts {
        plan: plan.uplinks[0].clone(),
        gateway: plan.gateway.name.clone(),
        source: list.reader(),
        clock,
        notices: hand_in,
        commands: None,
        pass_on: None,
        run_dir: run_dir.path().to_owned(),
        timing: Timing {
            retry_first: Duration::from_millis(200),
            retry_max: Duration::from_secs(1),
            ..Timing::default()
        },
    });
    let sender = tokio::spawn(uplink.run(stop.clone()));
    let pulse = move || {
        let acknowledged = stats.acknowledged.get();
        let backlog = ironbridge::uplink::Source::backlog(&list.reader());
        let connected = stats.connected.get() == 1;
        Pulse { stored: acknowledged + backlog, backlog, sessions: stats.sessions.get(), connected }
    };
    let end = move || -> Later<Result<Vec<Number>, Failed>> {
        Box::pin(async move {
            stop.begin();
            let seq = plc.await.expect("polled");
            sender.await.expect("sent");
            drop(run_dir);
            Ok(vec![Number { stream: Class::Telemetry, epoch: EPOCH, seq: Seq(seq) }])
        })
    };
    let mqtt = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    Ok(Gateway { mqtt, page: None, pulse: Box::new(pulse), stop: Box::new(end) })
}

async fn demo(lie: Lie) -> Result<(), Failed> {
    let start: StartGateway = Box::new(move |plan| Box::pin(begin(plan, lie)));
    let args = Args { run_for: Some(Duration::from_secs(10)), data_dir: None };
    run(args, rig::clock(), start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_gateway_passes_through_cut_and_black_hole() {
    let verdict = demo(Lie::Nothing).await;
    assert!(verdict.is_ok(), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_loses_one_record_does_not() {
    assert!(matches!(demo(Lie::LosesOne).await, Err(Failed::Verdict)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_invents_one_value_does_not() {
    assert!(matches!(demo(Lie::InventsOne).await, Err(Failed::Verdict)));
}
