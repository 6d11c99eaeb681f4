//! A whole plan served: values move within their limits, written ones stay, and the site knows what it held.

use std::sync::Arc;

use ironbridge::config::plan::*;

use ironbridge::model::registers::{BitField, decode, encode};
use ironbridge::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Order, Table, TagIx};
use ironbridge::model::value::Value;
use ironbridge::pipeline::meaning::{Factor, Meaning};
use ironbridge::pipeline::scale::Exponent;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use ironbridge::plant::life::Follow;
use ironbridge::plant::site::{Place, Site, SiteOptions};
use tokio_modbus::client::{Reader, Writer, tcp};
use tokio_modbus::slave::Slave;

use crate::patience::answer;

fn tag(name: &str, table: Table, start: u16, data_type: DataType) -> TagPlan {
    TagPlan {
        topic: Arc::from(format!("plant/pump/{name}")),
        ..TagPlan::plain(name, DeviceIx(0), Address { table, start, bit: None }, data_type)
    }
}

fn plan() -> Plan {
    let limits = Limits { min: Some(2.0), max: Some(8.0) };
    let tags = vec![
        TagPlan { limits, order: Order::Cdab, ..tag("pressure", Table::Holding, 0, DataType::Float32) },
        TagPlan {
            limits,
            scale: Scale { factor: 0.01, offset: -3.0 },
            ..tag("level", Table::Input, 0, DataType::Int16)
        },
        TagPlan { unit: "h".into(), ..tag("run_hours", Table::Holding, 10, DataType::Uint32) },
        tag("running", Table::Discrete, 5, DataType::Bool),
        tag("name", Table::Holding, 20, DataType::Text(8)),
        TagPlan {
            access: Access::ReadWrite,
            write: WritePlan { limits, ..WritePlan::default() },
            ..tag("set_point", Table::Holding, 30, DataType::Uint16)
        },
        tag("speed", Table::Holding, 31, DataType::Uint16),
        TagPlan {
            source: Source::Register(Address { table: Table::Holding, start: 40, bit: Some(3) }),
            ..tag("alarm", Table::Holding, 40, DataType::Bool)
        },
    ];
    let device = DevicePlan { tags: 0..tags.len(), ..DevicePlan::plain("pump", BusIx(0), 1) };
    let link = BusLink::tcp("192.0.2.1:502");
    Plan { buses: vec![BusPlan::plain("plc", link)], devices: vec![device], tags, ..Plan::empty("test") }
}

#[tokio::test]
async fn a_site_serves_its_plan_and_knows_every_value_it_held() {
    let follow = Follow { source: "set_point".into(), target: "speed".into(), gain: 100.0, rate: 100_000.0 };
    let options = SiteOptions { follows: vec![("pump".into(), follow)], ..SiteOptions::default() };
    let site = Site::serve(&plan(), &options).await.expect("serves");
    let Some(Place::Net(address)) = site.place("plc") else { panic!("not on TCP") };
    let mut client = tcp::connect_slave(*address, Slave(1)).await.expect("connects");

    let words = client.read_holding_registers(0, 2).await.expect("line").expect("mapped");
    let pressure = decode(&words, DataType::Float32, Order::Cdab).expect("a float");
    assert!((2.0..=8.0).contains(&pressure.as_f64().expect("number")), "{pressure}");
    assert_eq!(site.held("plant/pump/pressure", &pressure), Some(true));
    assert_eq!(site.held("plant/pump/pressure", &Value::Float(5.000_01)), Some(false));
    assert_eq!(site.held("plant/other", &pressure), None);

    let words = client.read_input_registers(0, 1).await.expect("line").expect("mapped");
    let raw = decode(&words, DataType::Int16, Order::Abcd).expect("a number").as_f64().expect("a number");
    let level = raw * 0.01 - 3.0;
    assert!((2.0..=8.0).contains(&level), "{level}");
    assert_eq!(site.held("plant/pump/level", &Value::Float(level)), Some(true));

    let name = client.read_holding_registers(20, 4).await.expect("line").expect("mapped");
    assert_eq!(name, encode(&Value::Text("NAME".into()), DataType::Text(8), Order::Abcd).expect("fits"));
    assert_eq!(site.held("plant/pump/name", &Value::Text("NAME".into())), Some(true));
    client.read_discrete_inputs(5, 1).await.expect("line").expect("mapped");
    client.read_holding_registers(40, 1).await.expect("line").expect("mapped");
    assert_eq!(site.held("plant/pump/alarm", &Value::Bool(false)), Some(true));

    client.write_single_register(30, 7).await.expect("line").expect("mapped");
    assert_eq!(site.held("plant/pump/set_point", &Value::Uint(7)), Some(true));
    let mut reacted = async || client.read_holding_registers(31, 1).await.expect("line") == Ok(vec![700]);
    answer("the pump reacts", async || reacted().await.then_some(())).await;
    assert_eq!(client.read_holding_registers(30, 1).await.expect("line"), Ok(vec![7]));

    assert!(site.set_fault("pump", Some(Fault::Exception(4))));
    assert!(client.read_holding_registers(30, 1).await.expect("line").is_err());
    assert!(!site.set_fault("nobody", None));
    site.stop().await;
}

/// Reads a tag off the image as a gateway would, with the scale factor that a simulated one holds.
fn reading(site: &Site, tag: &TagPlan) -> Option<Value> {
    let place = tag.register().expect("on the wire");
    let read = |image: &mut Image| image.words(place.table, place.start, tag.data_type.registers());
    let words = site.buses()[0].units.with_image(1, read).expect("a unit").expect("mapped");
    let minus_one = Exponent::of(&Value::Int(-1)).expect("a scale factor");
    let factor = if tag.scale_from.is_some() { Factor::Known(minus_one) } else { Factor::None };
    let meaning = Meaning::of(tag);
    match place.bit {
        Some(bit) => meaning.read_bit(words[0] >> tag.order.wire_bit(bit) & 1 == 1).0,
        None => meaning.read(&words, factor).0,
    }
}

#[tokio::test]
async fn every_type_is_served_as_it_will_be_read() {
    let mut plan = plan();
    plan.tags.clear();
    let types = DataType::SIMPLE.into_iter().chain([DataType::Text(7), DataType::Bytes(5)]);
    for (place, data_type) in (0u16..).zip(types) {
        plan.tags.push(tag(&data_type.to_string(), Table::Holding, place * 10, data_type));
    }
    let entries = vec![(3, "off".into()), (7, "on".into())];
    let map = Some(Arc::new(ValueMap { entries }));
    let field = Some(BitField { mask: 0x0FF0, shift: 4 });
    let bit = Source::Register(Address { table: Table::Holding, start: 430, bit: Some(3) });
    let limits = Limits { min: Some(220.0), max: Some(240.0) };
    let scale_from = Some(TagIx(u32::try_from(plan.tags.len()).expect("few") + 4));
    plan.tags.extend([
        TagPlan { map, ..tag("map", Table::Holding, 400, DataType::Uint16) },
        TagPlan { field, ..tag("field", Table::Holding, 410, DataType::Uint16) },
        TagPlan { field, order: Order::Badc, ..tag("signed", Table::Holding, 420, DataType::Int16) },
        TagPlan { source: bit, order: Order::Badc, ..tag("bit", Table::Holding, 430, DataType::Bool) },
        tag("sf", Table::Holding, 440, DataType::Int16),
        TagPlan { scale_from, limits, nan: vec![0x8000], ..tag("volts", Table::Holding, 441, DataType::Int16) },
    ]);
    plan.devices[0].tags = 0..plan.tags.len();
    let site = Site::serve(&plan, &SiteOptions::default()).await.expect("serves");
    for tag in &plan.tags {
        let value = reading(&site, tag).unwrap_or_else(|| panic!("{} has no value", tag.name));
        assert_eq!(site.held(&tag.topic, &value), Some(true), "{}: {value}", tag.name);
    }
    let volts = reading(&site, plan.tags.last().expect("volts")).and_then(|volts| volts.as_f64()).expect("a number");
    assert!((220.0..=240.0).contains(&volts), "{volts}");
    site.stop().await;
}
