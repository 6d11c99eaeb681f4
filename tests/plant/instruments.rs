//! Simulated instruments: what they say fits their configuration, moves, and is wrong in the way that was asked for.

use std::path::Path;
use std::time::Duration;

use ironbridge::config::plan::{Carrier, Plan};
use ironbridge::config::{self, HostFacts};
use ironbridge::plant::faults::{Fault, Share, Trouble};
use ironbridge::plant::site::{Place, Site, SiteOptions};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SCALE: &str = include_str!("../../config/scale.toml");
const GPS: &str = include_str!("../../config/gps.toml");

/// On a network.
fn plan(text: &str) -> Plan {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let mut plan = config::parse(text, Path::new("x.toml"), &facts).unwrap_or_else(|error| panic!("{error}")).plan;
    plan.buses[0].link.carrier = Carrier::Tcp { endpoint: "nowhere:4001".into() };
    for tag in &mut plan.tags {
        tag.poll = Duration::from_millis(20);
    }
    plan
}

async fn client(site: &Site) -> BufReader<TcpStream> {
    let Place::Net(address) = site.buses()[0].place else { panic!("on TCP") };
    BufReader::new(TcpStream::connect(address).await.expect("listening"))
}

async fn line(wire: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut line = Vec::new();
    timeout(Duration::from_secs(120), wire.read_until(b'\n', &mut line)).await.expect("in time").expect("open");
    line
}

#[tokio::test]
async fn a_scale_answers_its_question_with_one_example_after_the_other_and_nothing_else() {
    let site = Site::serve(&plan(SCALE), &SiteOptions::default()).await.expect("served");
    let mut wire = client(&site).await;
    // Half a question of somebody who left, and garbage, are none.
    wire.write_all(b"\xFFSI\rS").await.expect("open");
    let mut said = Vec::new();
    for _ in 0..4 {
        wire.write_all(b"SI\r\n").await.expect("open");
        said.push(String::from_utf8(line(&mut wire).await).expect("text"));
    }
    assert!(said[0].starts_with("S S ") && said[1].starts_with("S S ") && said[2].starts_with("S D "), "{said:?}");
    assert_eq!(said[3], "S +\r\n");
    for (said, of) in said.iter().zip([100.0, 100.02, 101.5]) {
        assert_eq!(said.len(), "S S     100.00 g\r\n".len(), "{said:?}");
        let weight: f64 = said[4..].trim().trim_end_matches(" g").parse().expect("a number");
        assert!((weight - of).abs() <= 0.05 * of + 0.01, "{said:?}");
    }
    assert!(site.set_fault("scale", Some(Fault::Dead)) && !site.set_fault("scale", Some(Fault::Exception(2))));
    assert!(!site.set_fault("nobody", None));
    wire.write_all(b"SI\r\n").await.expect("open");
    assert!(timeout(Duration::from_millis(200), wire.read_u8()).await.is_err(), "it is dead");
    site.set_fault("scale", Some(Fault::Noise));
    wire.write_all(b"SI\r\n").await.expect("open");
    assert!(line(&mut wire).await.iter().any(|byte| *byte >= 0x80), "damaged");
    site.set_fault("scale", Some(Fault::Late(Duration::from_millis(300))));
    let asked = std::time::Instant::now();
    wire.write_all(b"SI\r\n").await.expect("open");
    line(&mut wire).await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
    site.stop().await;
}

#[tokio::test]
async fn a_receiver_speaks_by_itself_with_right_checksums_and_its_position_moves_a_little() {
    let site = Site::serve(&plan(GPS), &SiteOptions::default()).await.expect("served");
    let mut wire = client(&site).await;
    let mut altitudes = Vec::new();
    while altitudes.iter().filter(|altitude| **altitude != altitudes[0]).count() < 2 {
        let said = String::from_utf8(line(&mut wire).await).expect("text");
        let (body, sum) = said.trim_end().strip_prefix('$').expect("a sentence").split_once('*').expect("a checksum");
        assert_eq!(format!("{:02X}", body.bytes().fold(0, |all, byte| all ^ byte)), sum, "{said:?}");
        let fields: Vec<&str> = body.split(',').collect();
        match fields[0] {
            "GPGGA" => {
                assert_eq!((fields[1], &fields[2][..2], fields[6], fields[7]), ("123519", "48", "1", "08"), "{said:?}");
                altitudes.push(fields[9].to_owned());
            }
            "GPRMC" => assert!(fields[7].len() == 5 && fields[7].starts_with("02"), "{said:?}"),
            other => panic!("{other}"),
        }
    }
    // Now and then one is damaged, or breaks off.
    let often = Share::percent(50.0).expect("half of them");
    let trouble = |fault| Trouble { fault, share: often };
    assert!(site.set_troubles("gps", &[trouble(Fault::BitFlip), trouble(Fault::Truncated), trouble(Fault::Garbage)]));
    let (mut sound, mut damaged, mut cut) = (0, 0, 0);
    while sound.min(damaged).min(cut) < 3 {
        let said = line(&mut wire).await;
        let is_whole = said.starts_with(b"$GP") && said.ends_with(b"\r\n") && said.split(|it| *it == b'$').count() == 2;
        match (said.is_ascii(), is_whole) {
            (true, true) => sound += 1,
            (false, _) => damaged += 1,
            (true, false) => cut += 1,
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn it_dials_in_where_the_bus_listens_and_without_an_example_nothing_is_made_up() {
    let mut dialled = plan(SCALE);
    dialled.buses[0].link.carrier = Carrier::Listen { listen: ([127, 0, 0, 1], 0).into(), allow: Vec::new() };
    let site = Site::serve(&dialled, &SiteOptions::default()).await.expect("served");
    let Place::Dialled(to) = site.buses()[0].place else { panic!("dials in") };
    let (stream, _) = TcpListener::bind(to).await.expect("free").accept().await.expect("a call");
    let mut wire = BufReader::new(stream);
    wire.write_all(b"SI\r\n").await.expect("open");
    assert!(line(&mut wire).await.starts_with(b"S S"));
    site.stop().await;
    let mut mute = plan(SCALE);
    mute.devices[0].talk.as_mut().expect("speaks").examples.clear();
    let error = Site::serve(&mute, &SiteOptions::default()).await.expect_err("nothing to say").to_string();
    assert!(error.contains("scale has no `example`"), "{error}");
}
