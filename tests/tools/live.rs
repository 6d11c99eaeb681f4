//! `check --live` against simulated devices: it names each thing that is wrong, and nothing where nothing is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use ironbridge::config::plan::Plan;
use ironbridge::config::shipped::SHIPPED;
use ironbridge::config::{self, HostFacts};
use ironbridge::model::tag::Table;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use ironbridge::plant::site::{Place, Site, SiteOptions};
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::tool;

/// A pump with two floats, a counter, a switch and an odd corner.
const PUMP: &str = r#"
[[device]]
name = "pump"
bus = "net"
unit_id = 1
[[device.tag]]
name = "voltage"
address = "holding:100"
type = "float32"
unit = "V"
[[device.tag]]
name = "flow"
address = "holding:102"
type = "float32"
unit = "m3/h"
max = 50.0
[[device.tag]]
name = "energy"
address = "holding:104"
type = "uint32"
unit = "kWh"
[[device.tag]]
name = "on"
address = "holding:106.0"
"#;

fn plan(text: &str) -> Plan {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let loaded = config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).plan
}

fn gateway(endpoint: &str, devices: &str) -> String {
    format!(
        "[gateway]\nname = \"g\"\n[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\nendpoint = \"{endpoint}\"\n\
         response_timeout = \"300ms\"\nretries = 0\n{devices}"
    )
}

/// 231.4 V, 12.5 m3/h, 123 456 kWh, on.
fn pump() -> Image {
    let mut image = Image::new();
    image.set_words(Table::Holding, 100, &[0x4367, 0x6666, 0x4148, 0x0000, 0x0001, 0xE240, 0x0001]);
    image
}

async fn serve(image: Image) -> (TcpLine, Units) {
    let units = Units::new();
    units.insert(1, image);
    let line = TcpLine::serve(SocketAddr::from(([127, 0, 0, 1], 0)), units.clone()).await.expect("serves");
    (line, units)
}

/// What `check --live` with these words says of a configuration; exit code and text.
async fn live(text: &str, words: &str) -> (Option<i32>, String) {
    let home = tempfile::tempdir().expect("temporary directory");
    let config = home.path().join("plant.toml");
    std::fs::write(&config, text).expect("written");
    tool(&format!("check --live --config {} {words}", config.display()), SocketAddr::from(([127, 0, 0, 1], 1))).await
}

fn json(text: &str) -> Value {
    let object = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON in {text}"));
    serde_json::from_str(object).expect("one JSON object")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_device_of_each_shipped_map_has_nothing_to_mend() {
    let mut text = String::new();
    for (unit, (name, _)) in SHIPPED.iter().enumerate() {
        let unit = unit + 1;
        write!(text, "[[device]]\nname = \"{name}\"\nbus = \"net\"\nunit_id = {unit}\nprofile = \"{name}\"\n")
            .expect("a string takes everything");
    }
    let served = plan(&gateway("127.0.0.1:502", &text));
    let site = Site::serve(&served, &SiteOptions::default()).await.expect("serves");
    let Some(Place::Net(address)) = site.place("net") else { panic!("not on TCP") };
    let (code, said) = live(&gateway(&address.to_string(), &text).replace("300ms", "30s"), "--json").await;
    let report = json(&said);
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{said}");
    assert_eq!(report["good"], served.tags.len());
    for device in report["buses"][0]["devices"].as_array().expect("a list") {
        assert_eq!((&device["finding"], &device["notes"]), (&Value::Null, &Value::Array(Vec::new())), "{device}");
        for tag in device["tags"].as_array().expect("a list") {
            assert_eq!(
                (&tag["verdict"], &tag["proposal"], &tag["advice"]),
                (&"good".into(), &Value::Null, &Value::Null),
                "{tag}"
            );
        }
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_word_order_is_named_with_the_values_that_the_right_one_gives() {
    let (line, _units) = serve(pump()).await;
    let wrong = PUMP.replace("type = \"float32\"", "type = \"float32\"\norder = \"CDAB\"");
    let (code, said) = live(&gateway(&line.address().to_string(), &wrong), "").await;
    assert_eq!(code, Some(1), "{said}");
    for part in
        ["order = \"ABCD\" reads 231.4 V: likely", "order = \"ABCD\" reads 12.5 m3/h", "suspicious", "123456 kWh"]
    {
        assert!(said.contains(part), "'{part}' is missing: {said}");
    }
    let wrong = PUMP.replace("type = \"uint32\"", "type = \"uint32\"\norder = \"CDAB\"");
    let (code, said) = live(&gateway(&line.address().to_string(), &wrong), "").await;
    assert!(code == Some(1) && said.contains("order = \"ABCD\" reads 123456 kWh"), "{said}");
    let wrong = PUMP.replace("holding:100\"\ntype = \"float32\"", "holding:100\"\ntype = \"uint32\"");
    let (code, said) = live(&gateway(&line.address().to_string(), &wrong), "").await;
    assert!(code == Some(1) && said.contains("type = \"float32\" reads 231.4 V"), "{said}");
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_one_off_is_named_with_its_direction_and_no_word_order_is_blamed() {
    let (line, _units) = serve(pump()).await;
    let place = line.address().to_string();
    for (shift, says) in [(1, "one too high: address_style = \"one-based\"?"), (-1, "one too low")] {
        let moved: String = PUMP
            .split_inclusive("holding:")
            .map(|part| match part.split_at_checked(3).map(|(digits, rest)| (digits.parse::<i32>(), rest)) {
                Some((Ok(address), rest)) => format!("{}{rest}", address + shift),
                _ => part.to_owned(),
            })
            .collect();
        let (code, said) = live(&gateway(&place, &moved), "").await;
        assert!(code == Some(1) && said.contains(says) && said.contains("voltage 231.4 V instead of"), "{said}");
        assert!(!said.contains("order ="), "{said}");
    }
    let moved = PUMP.replace("holding:", "input:");
    let (code, said) = live(&gateway(&place, &moved), "").await;
    assert!(code == Some(1) && said.contains("in the other table: holding: in place of input:"), "{said}");
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_must_not_be_read_is_read_to_find_a_map_that_is_one_off() {
    let (line, units) = serve(pump()).await;
    let place = line.address().to_string();
    let moved = PUMP.replace("holding:106", "holding:107").replace("unit_id = 1", "unit_id = 1\nfill_gaps = false");
    let before = units.stats().requests.get();
    let (_, said) = live(&gateway(&place, &moved), "").await;
    assert!(said.contains("fill_gaps = false") && said.contains("no holding:107.0"), "{said}");
    // One block of three values, which exists; the bit behind it; none beside.
    assert_eq!(units.stats().requests.get() - before, 2, "{said}");
    line.stop().await;
}

/// "SunS", the models 1 and 103, the end.
fn chain() -> Vec<u16> {
    let mut words = vec![0x5375, 0x6E53, 1, 66];
    words.extend([0x4142; 66]);
    let mut inverter = [0; 52];
    (inverter[0], inverter[1], inverter[2], inverter[6], inverter[14]) = (103, 50, 2077, 0xFFFE, 14_321);
    words.extend(inverter);
    words.extend([0xFFFF, 0]);
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_in_sunspec_models_are_read_where_the_device_has_put_them() {
    let mut image = Image::new();
    image.set_words(Table::Holding, 40_000, &chain());
    let (line, _units) = serve(image).await;
    let tag = |name: &str, address: &str, more: &str| {
        format!("[[device.tag]]\nname = \"{name}\"\naddress = \"{address}\"\ntype = \"int16\"\n{more}")
    };
    let inverter = "[[device]]\nname = \"inverter\"\nbus = \"net\"\nunit_id = 1\n".to_owned()
        + &tag("current", "sunspec:103:2", "scale_from = \"current_sf\"\nunit = \"A\"\n")
        + &tag("current_sf", "sunspec:103:6", "");
    let config = gateway(&line.address().to_string(), &inverter);
    let (code, said) = live(&config, "").await;
    assert!(code == Some(0) && said.contains("20.77 A") && said.contains("sunspec:103:2 = holding:40072"), "{said}");
    let (code, said) = live(&(config + &tag("battery", "sunspec:124:5", "")), "").await;
    assert!(
        code == Some(1) && said.contains("its model 124 is missing") && said.contains("1 (66), 103 (50)"),
        "{said}"
    );
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instrument_is_asked_once_and_one_that_says_something_else_is_told_from_one_that_is_silent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let place = listener.local_addr().expect("bound");
    let answer = std::sync::Arc::new(std::sync::Mutex::new("S S     123.45 g\r\n"));
    let says = std::sync::Arc::clone(&answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let says = std::sync::Arc::clone(&says);
            tokio::spawn(async move {
                let mut question = [0; 64];
                while stream.read(&mut question).await.is_ok_and(|read| read > 0) {
                    let text = *says.lock().expect("nobody panicked");
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let config = format!(
        "[gateway]\nname = \"g\"\n[[bus]]\nname = \"line\"\ntype = \"line\"\nendpoint = \"{place}\"\nmode = \"poll\"\n\
         frame_end = \"\\r\\n\"\nresponse_timeout = \"300ms\"\n[[device]]\nname = \"scale\"\nbus = \"line\"\nsend = \"SI\\r\\n\"\n\
         match = ['^S (?P<state>[SD]) +(?P<weight>-?[0-9.]+) g *$']\nstatus = {{ field = \"state\", good = [\"S\"], uncertain = [\"D\"] }}\n\
         [[device.tag]]\nname = \"weight\"\nfield = \"weight\"\nunit = \"g\"\n"
    );
    let (code, said) = live(&config, "").await;
    assert!(code == Some(0) && said.contains("123.45 g  good"), "{said}");
    *answer.lock().expect("nobody panicked") = "S D     123.45 g\r\n";
    let (code, said) = live(&config, "").await;
    assert!(code == Some(1) && said.contains("the instrument itself has its doubts"), "{said}");
    *answer.lock().expect("nobody panicked") = "HELLO\r\n";
    let (code, said) = live(&config, "").await;
    assert!(code == Some(75) && said.contains("something came that fits no `match`"), "{said}");
    *answer.lock().expect("nobody panicked") = "";
    let (code, said) = live(&config, "").await;
    assert!(code == Some(75) && said.contains("nothing at all came"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_unit_is_told_apart_from_a_dead_line_and_one_bad_address_hides_no_other() {
    let devices = format!("{PUMP}{}", PUMP.replace("pump", "mixer").replace("unit_id = 1", "unit_id = 7"));
    let site = Site::serve(&plan(&gateway("127.0.0.1:502", &devices)), &SiteOptions::default()).await.expect("serves");
    let Some(Place::Net(address)) = site.place("net") else { panic!("not on TCP") };
    site.set_fault("mixer", Some(Fault::Dead));
    let place = address.to_string();
    let (code, said) = live(&gateway(&place, &devices), "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("unit 7 does not answer; unit 1 on the same line does"), "{said}");
    assert!(said.contains("4 good, 4 no answer"), "{said}");
    let (code, said) = live(&gateway(&place, &devices), "--device mixer").await;
    assert!(code == Some(75) && said.contains("no device could be reached"), "{said}");
    let (code, said) = live(&gateway(&place, &devices), "--device pump").await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = live(&gateway(&place, &devices), "--device pomp").await;
    assert!(code == Some(64) && said.contains("no device 'pomp'") && said.contains("mixer"), "{said}");
    let strange = PUMP.replace("holding:102", "holding:500");
    let (code, said) = live(&gateway(&place, &strange), "").await;
    assert!(code == Some(1) && said.contains("no holding:500 (modicon 400501)"), "{said}");
    assert!(said.contains("3 good, 1 exception"), "{said}");
    let (code, said) = live(&gateway(&place, &devices.replace("holding:102", "holding:x")), "").await;
    assert!(code == Some(78) && said.contains("holding:x"), "{said}");
    site.stop().await;
    let (code, said) = live(&gateway(&place, &devices), "").await;
    assert!(code == Some(75) && said.contains("nobody listens there"), "{said}");
}
