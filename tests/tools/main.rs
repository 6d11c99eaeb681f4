//! The tools for the person at the cabinet, as processes, against simulated devices: each points at what is wrong.

#[path = "../support/patience.rs"]
mod patience;

mod capture;
mod lines;
mod live;
mod output;
mod scan;
mod tags;
mod unit;
mod users;

use std::net::SocketAddr;
use std::process::{Command, Output};

use ironbridge::model::tag::Table;
use ironbridge::plant::faults::Fault;
use ironbridge::plant::image::Image;
use ironbridge::plant::tcp::TcpLine;
use ironbridge::plant::units::Units;

/// Unit 1 has 123.456 at 100 (words reversed), 42 at 200 and a coil at 3.
async fn device() -> (TcpLine, Units) {
    let mut image = Image::new();
    image.set_words(Table::Holding, 100, &[0xE979, 0x42F6]);
    image.set_words(Table::Holding, 200, &[42]);
    image.set_words(Table::Coil, 3, &[0]);
    let units = Units::new();
    units.insert(1, image);
    let line = TcpLine::serve(SocketAddr::from(([127, 0, 0, 1], 0)), units.clone()).await.expect("serves");
    (line, units)
}

async fn tool(words: &str, place: SocketAddr) -> (Option<i32>, String) {
    let words = words.replace("PLC", &place.to_string());
    let told: Output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_ironbridge")).args(words.split_whitespace()).output().expect("runs")
    })
    .await
    .expect("no panic");
    let text = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    (told.status.code(), text)
}

async fn says(words: &str, place: SocketAddr, code: i32, parts: &[&str]) {
    let (ended, text) = tool(words, place).await;
    assert_eq!(ended, Some(code), "{words}: {text}");
    for part in parts {
        assert!(text.contains(part), "{words} does not say '{part}': {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_tells_the_value_its_words_and_what_is_wrong() {
    let (line, units) = device().await;
    let plc = line.address();
    says("read tcp PLC holding:100 --type float32 --order CDAB", plc, 0, &["123.456", "good", "0xE979 0x42F6"]).await;
    says("read tcp PLC holding:100 --type float32", plc, 0, &["with order CDAB the registers read 123.456"]).await;
    says("read tcp PLC holding:101 --style one-based --count 2", plc, 0, &["59769", "17142", "holding:101"]).await;
    says("read tcp PLC holding:99", plc, 1, &["exception 2", "illegal data address", "--style one-based"]).await;
    says("read tcp PLC holding:200 --unit 9 --timeout 200ms", plc, 1, &["exception 11", "unit id"]).await;
    says("read tcp PLC holding:200 --json", plc, 0, &["\"value\":42", "\"words\":[42]", "\"quality\":\"good\""]).await;
    says("read tcp PLC holdings:1", plc, 64, &["holdings"]).await;
    units.set_fault(1, Some(Fault::WrongUnit));
    let words = ["somebody answers under another unit id than 1", "timeout"];
    says("read tcp PLC holding:200 --timeout 200ms", plc, 1, &words).await;
    units.set_fault(1, None);
    line.stop().await;
    says("read tcp PLC holding:200 --timeout 500ms", plc, 75, &["cannot open", "nobody listens"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_shows_old_and_new_reads_back_and_asks_unless_told() {
    let (line, _units) = device().await;
    let plc = line.address();
    says("write tcp PLC holding:200 43", plc, 64, &["--yes"]).await;
    says("write tcp PLC holding:200 43 --yes", plc, 0, &["42 → 43", "done", "reads back 43"]).await;
    says("read tcp PLC holding:200", plc, 0, &["43"]).await;
    says("write tcp PLC coil:3 on --yes --json", plc, 0, &["\"old\":false", "\"read_back\":true"]).await;
    says("write tcp PLC holding:100 7.5 --type float32 --order CDAB --yes", plc, 0, &["reads back 7.5"]).await;
    says("write tcp PLC holding:200 70000 --yes", plc, 1, &["does not fit uint16"]).await;
    says("write tcp PLC input:7 1 --yes", plc, 64, &["input"]).await;
    says("write tcp PLC holding:300 1 --yes", plc, 1, &["illegal data address"]).await; // there, and it says no
    says("write tcp PLC holding:200 1 --yes --unit 9", plc, 75, &["exception 11"]).await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_says_who_may_write_what() {
    let (line, _units) = device().await;
    let plc = line.address();
    let home = tempfile::tempdir().expect("temporary directory");
    let config = home.path().join("plant.toml");
    let text = format!(
        "[gateway]\nname = \"g\"\n[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"{plc}\"\n\
         [[device]]\nname = \"pump\"\nbus = \"b\"\nunit_id = 1\n\
         [[device.tag]]\nname = \"pressure\"\naddress = \"holding:100\"\ntype = \"float32\"\norder = \"CDAB\"\nunit = \"bar\"\nmax = 16.0\n\
         [[device.tag]]\nname = \"speed\"\naddress = \"holding:200\"\ntype = \"uint16\"\nscale = 0.1\nunit = \"%\"\n\
         access = \"read-write\"\nwrite = {{ min = 0.0, max = 10.0 }}\n"
    );
    std::fs::write(&config, text).expect("written");
    let at = config.display();
    says(&format!("read --config {at} pump"), plc, 0, &["pump/speed", "4.2 %", "123.456 bar", "uncertain (range)"])
        .await;
    says(&format!("read --config {at} pump/speed"), plc, 0, &["4.2 %"]).await;
    says(&format!("read --config {at} pomp"), plc, 64, &["no device or tag 'pomp'", "pump"]).await;
    says(&format!("write --config {at} pump/speed 5.5 --yes"), plc, 0, &["4.2 % → 5.5 %", "reads back 5.5 %"]).await;
    says(&format!("write --config {at} pump/speed 11 --yes"), plc, 1, &["11 is outside 0 ..= 10"]).await;
    says(&format!("write --config {at} pump/pressure 1 --yes"), plc, 78, &["no access"]).await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decode_puts_the_likeliest_reading_first() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let (code, text) = tool("decode 0xE979 0x42F6", nowhere).await;
    let first = text.lines().nth(2).unwrap_or_default();
    assert!(code == Some(0) && first.contains("123.456") && first.contains("order = \"CDAB\""), "{text}");
    says("decode 70000", nowhere, 64, &["'70000' is no register"]).await;
    says("decode --json -- -1", nowhere, 0, &["\"words\":[65535]", "not available"]).await;
    let (_, text) = tool("decode --json 0x3DCC 0xCCCD", nowhere).await;
    assert!(text.contains("\"values\":[0.1]") && !text.contains("0.10000000149"), "{text}");
}
