//! Every fault as it is on the wire, byte by byte, on every kind of line that can show it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use ironbridge::config::plan::Framing;
use ironbridge::config::{self, HostFacts};
use ironbridge::model::tag::Table;
use ironbridge::plant::faults::{Fault, Share, Trouble};
use ironbridge::plant::image::Image;
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::site::{Place, Site, SiteOptions};
use ironbridge::plant::tcp::{Manner, TcpLine};
use ironbridge::plant::udp::UdpLine;
use ironbridge::plant::units::Units;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::patience::answer;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const MS: Duration = Duration::from_millis(1);

/// Units 1 and 2; holding registers 0 to 9 hold 0x1111, 0x2222 …
fn units() -> Units {
    let units = Units::new();
    for unit in [1, 2] {
        let mut image = Image::new();
        image.set_words(Table::Holding, 0, &(1..=10).map(|n| n * 0x1111).collect::<Vec<u16>>());
        units.insert(unit, image);
    }
    units
}

fn crc(bytes: &[u8]) -> [u8; 2] {
    let one = |crc: u16, byte: &u8| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    };
    bytes.iter().fold(0xFFFF, one).to_le_bytes()
}

/// A frame as the test understands the standards.
fn frame(framing: Framing, number: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let body = [&[unit][..], pdu].concat();
    match framing {
        Framing::Mbap => {
            let length = u16::try_from(body.len()).expect("short").to_be_bytes();
            [&number.to_be_bytes()[..], &[0, 0], &length, &body].concat()
        }
        Framing::Rtu => [&body[..], &crc(&body)].concat(),
        Framing::Ascii => {
            let lrc = body.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
            let digits: Vec<String> = body.iter().chain([&lrc]).map(|byte| format!("{byte:02X}")).collect();
            format!(":{}\r\n", digits.concat()).into_bytes()
        }
        Framing::Line => unreachable!("no Modbus"),
    }
}

/// Reads registers 0 to 3.
const READ: [u8; 5] = [3, 0, 0, 0, 4];
/// The right answer.
const ANSWER: [u8; 10] = [3, 8, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44];
/// Of unit 2, which is sound: what it says comes behind what unit 1 said.
const BEHIND: ([u8; 5], [u8; 4]) = ([3, 0, 9, 0, 1], [3, 2, 0xAA, 0xAA]);

/// What unit 1 says to a request, up to where unit 2 is heard.
async fn said(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), framing: Framing, pdu: &[u8]) -> Vec<u8> {
    let both = [frame(framing, 0x0105, 1, pdu), frame(framing, 0x0777, 2, &BEHIND.0)].concat();
    stream.write_all(&both).await.expect("open");
    let end = frame(framing, 0x0777, 2, &BEHIND.1);
    let mut got = Vec::new();
    while !got.ends_with(&end) {
        let byte = timeout(Duration::from_secs(120), stream.read_u8()).await;
        got.push(byte.expect("unit 2 answers").expect("open"));
    }
    got.truncate(got.len() - end.len());
    got
}

async fn on_tcp(framing: Framing, units: &Units) -> (TcpLine, TcpStream) {
    let line = TcpLine::serve_as(Manner { framing, tls: None }, ANY, units.clone()).await.expect("serves");
    let stream = TcpStream::connect(line.address()).await.expect("listens");
    (line, stream)
}

fn bits_between(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

const FRAMINGS: [Framing; 3] = [Framing::Mbap, Framing::Rtu, Framing::Ascii];

#[tokio::test]
async fn what_a_unit_says_instead_of_its_answer_is_in_every_framing() {
    for framing in FRAMINGS {
        let units = units();
        let (_line, mut stream) = on_tcp(framing, &units).await;
        let right = |pdu: &[u8]| frame(framing, 0x0105, 1, pdu);
        let registers = |count: u8| {
            let data: Vec<u8> =
                ANSWER[2..].iter().copied().chain([0, 0]).cycle().take(usize::from(count) * 2).collect();
            right(&[&[3, count.wrapping_mul(2)][..], &data].concat())
        };
        let hole = |first, last| Fault::Hole { table: Table::Holding, first, last };
        let cases: [(Fault, Vec<u8>); 15] = [
            (Fault::Dead, Vec::new()),
            (Fault::Lost, Vec::new()),
            (Fault::Exception(2), right(&[0x83, 2])),
            (Fault::Exception(3), right(&[0x83, 3])),
            (Fault::Exception(5), right(&[0x83, 5])),
            (Fault::Exception(6), right(&[0x83, 6])),
            (Fault::Exception(10), right(&[0x83, 10])),
            (Fault::Exception(11), right(&[0x83, 11])),
            (hole(3, 7), right(&[0x83, 2])),
            (hole(4, 7), right(&ANSWER)),
            (Fault::Limit(3), right(&[0x83, 3])),
            (Fault::WrongUnit, frame(framing, 0x0105, 2, &ANSWER)),
            (Fault::WrongFunction, right(&[&[1][..], &ANSWER[1..]].concat())),
            (Fault::Registers(0), registers(0)),
            (Fault::Registers(125), registers(125)),
        ];
        for (fault, expected) in cases {
            units.set_fault(1, Some(fault));
            assert_eq!(said(&mut stream, framing, &READ).await, expected, "{framing:?}: {fault}");
        }
        units.set_fault(1, Some(Fault::Registers(2)));
        assert_eq!(said(&mut stream, framing, &READ).await, registers(2), "{framing:?}");
        units.set_fault(1, None);
        assert_eq!(said(&mut stream, framing, &READ).await, right(&ANSWER), "{framing:?}: healed");
    }
}

#[tokio::test]
async fn what_a_line_does_to_an_answer_shows_in_its_bytes() {
    for framing in FRAMINGS {
        let units = units();
        let (_line, mut stream) = on_tcp(framing, &units).await;
        let (asked, right) = (frame(framing, 0x0105, 1, &READ), frame(framing, 0x0105, 1, &ANSWER));
        for round in 0..20 {
            units.set_fault(1, Some(Fault::Truncated));
            let got = said(&mut stream, framing, &READ).await;
            assert!(
                !got.is_empty() && got.len() < right.len() && right.starts_with(&got),
                "{framing:?} {round}: {got:?}"
            );
            units.set_fault(1, Some(Fault::Garbage));
            let got = said(&mut stream, framing, &READ).await;
            assert!(got.len() > right.len() && got.ends_with(&right), "{framing:?} {round}: {got:?}");
            units.set_fault(1, Some(Fault::BitFlip));
            let got = said(&mut stream, framing, &READ).await;
            assert_eq!(bits_between(&got, &right), 1, "{framing:?} {round}");
        }
        units.set_fault(1, Some(Fault::Noise));
        let got = said(&mut stream, framing, &READ).await;
        assert_eq!(bits_between(&got, &right), 1, "{framing:?}");
        assert!(framing != Framing::Mbap || got[0] == 0x81 && got[1..] == right[1..]);
        units.set_fault(1, Some(Fault::Echo));
        assert_eq!(said(&mut stream, framing, &READ).await, [&asked[..], &right].concat(), "{framing:?}");
        units.set_troubles(1, vec![Fault::Echo.into(), Fault::Dead.into()]);
        assert_eq!(said(&mut stream, framing, &READ).await, asked, "{framing:?}: an adapter echoes for the dead");
    }
    let units = units();
    let (_line, mut stream) = on_tcp(Framing::Mbap, &units).await;
    units.set_fault(1, Some(Fault::StaleNumber));
    assert_eq!(said(&mut stream, Framing::Mbap, &READ).await, frame(Framing::Mbap, 0x0104, 1, &ANSWER));
}

#[tokio::test]
async fn a_lost_reply_was_a_write_and_a_dead_unit_never_heard_it() {
    let units = units();
    let (_line, mut stream) = on_tcp(Framing::Rtu, &units).await;
    let held = || units.with_image(1, |image| image.words(Table::Holding, 5, 1).expect("mapped")[0]);
    units.set_fault(1, Some(Fault::Dead));
    assert!(said(&mut stream, Framing::Rtu, &[6, 0, 5, 0, 77]).await.is_empty());
    assert_eq!(held(), Some(0x6666));
    units.set_fault(1, Some(Fault::Lost));
    assert!(said(&mut stream, Framing::Rtu, &[6, 0, 5, 0, 77]).await.is_empty());
    assert_eq!(held(), Some(77));
}

#[tokio::test]
async fn late_replies_meet_the_next_question_and_pieces_come_one_by_one() {
    let units = units();
    let (_line, mut stream) = on_tcp(Framing::Rtu, &units).await;
    let right = frame(Framing::Rtu, 0, 1, &ANSWER);
    units.set_fault(1, Some(Fault::Late(200 * MS)));
    let asked = Instant::now();
    assert!(said(&mut stream, Framing::Rtu, &READ).await.is_empty(), "unit 2 was faster");
    let mut late = vec![0; right.len()];
    stream.read_exact(&mut late).await.expect("open");
    assert!(late == right && asked.elapsed() >= 200 * MS);
    units.set_fault(1, Some(Fault::Pieces(30 * MS)));
    let asked = Instant::now();
    assert_eq!(said(&mut stream, Framing::Rtu, &READ).await, right);
    assert!(asked.elapsed() >= 90 * MS, "four pieces have three pauses");
}

#[tokio::test]
async fn connections_end_in_order_or_not_or_stand_like_a_black_hole() {
    let units = units();
    let (line, mut stream) = on_tcp(Framing::Mbap, &units).await;
    let again = || async { TcpStream::connect(line.address()).await.expect("listens") };
    let request = frame(Framing::Mbap, 1, 1, &READ);
    let mut buffer = [0u8; 64];

    units.set_fault(1, Some(Fault::HangUp));
    stream.write_all(&request).await.expect("open");
    assert_eq!(stream.read(&mut buffer).await.expect("closed in order"), 0);

    units.set_fault(1, Some(Fault::Reset));
    let mut stream = again().await;
    stream.write_all(&request).await.expect("open");
    let error = stream.read(&mut buffer).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    units.set_fault(1, Some(Fault::BlackHole));
    let (mut stream, mut other) = (again().await, again().await);
    stream.write_all(&request).await.expect("open");
    stream.write_all(&frame(Framing::Mbap, 2, 2, &BEHIND.0)).await.expect("still open");
    assert!(timeout(150 * MS, stream.read(&mut buffer)).await.is_err(), "neither an answer nor an end");
    other.write_all(&frame(Framing::Mbap, 2, 2, &BEHIND.0)).await.expect("open");
    let heard = other.read(&mut buffer).await.expect("another connection is as it was");
    assert_eq!(buffer[..heard], frame(Framing::Mbap, 2, 2, &BEHIND.1));
}

#[tokio::test]
async fn datagrams_have_their_faults_too() {
    let units = units();
    let line = UdpLine::serve(Framing::Rtu, ANY, units.clone()).await.expect("serves");
    let socket = UdpSocket::bind(ANY).await.expect("a port");
    socket.connect(line.address()).await.expect("an address");
    let right = frame(Framing::Rtu, 0, 1, &ANSWER);
    let ask = async || {
        socket.send(&frame(Framing::Rtu, 0, 1, &READ)).await.expect("sent");
        let mut buffer = [0u8; 300];
        let count = timeout(Duration::from_secs(120), socket.recv(&mut buffer)).await.expect("said").expect("open");
        buffer[..count].to_vec()
    };
    units.set_fault(1, Some(Fault::BitFlip));
    assert_eq!(bits_between(&ask().await, &right), 1);
    units.set_fault(1, Some(Fault::Pieces(MS)));
    assert_eq!(ask().await, right[..4], "each piece is a datagram");
}

#[tokio::test]
async fn an_unplugged_adapter_is_gone_and_comes_back_under_its_link() {
    let home = tempfile::tempdir().expect("temporary directory");
    let link = home.path().join("rs485-1");
    let units = units();
    let _line = RtuLine::serve(Some(&link), Pace::Instant, units.clone()).expect("a pseudo-terminal");
    let open = || {
        let settings = tokio_serial::new(link.to_str().expect("UTF-8"), 19200);
        tokio_serial::SerialStream::open(&settings)
    };
    let mut port = open().expect("plugged in");
    let right = frame(Framing::Rtu, 0, 1, &ANSWER);
    assert_eq!(said(&mut port, Framing::Rtu, &READ).await, right);
    units.set_fault(1, Some(Fault::Unplug(300 * MS)));
    port.write_all(&frame(Framing::Rtu, 0, 1, &READ)).await.expect("open");
    let mut buffer = [0u8; 16];
    let ended = timeout(Duration::from_secs(120), port.read(&mut buffer)).await.expect("it tells");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    units.set_fault(1, None);
    let mut port = answer("it is back", async || open().ok()).await;
    assert_eq!(said(&mut port, Framing::Rtu, &READ).await, right);
}

#[tokio::test]
async fn a_share_of_the_requests_is_hit_and_the_same_ones_in_each_run() {
    let run = async || {
        let units = units();
        let (_line, mut stream) = on_tcp(Framing::Rtu, &units).await;
        let share = Share::percent(10.0).expect("a share");
        units.set_troubles(1, vec![Trouble { fault: Fault::Exception(6), share }]);
        let mut hits = Vec::new();
        for at in 0..500 {
            if said(&mut stream, Framing::Rtu, &READ).await[1] == 0x83 {
                hits.push(at);
            }
        }
        hits
    };
    let hits = run().await;
    assert!((25..=80).contains(&hits.len()), "10 % of 500: {}", hits.len());
    assert_eq!(run().await, hits);
    assert_eq!([Share::percent(0.0), Share::percent(101.0)], [None, None]);
}

#[tokio::test]
async fn tags_without_a_value_hold_their_sentinels_and_floats_are_not_a_number() {
    let text = r#"
        [gateway]
        name = "g"
        [[bus]]
        name = "b"
        type = "modbus-tcp"
        endpoint = "plc:502"
        [[device]]
        name = "inverter"
        bus = "b"
        unit_id = 1
        [[device.tag]]
        name = "power"
        address = "holding:0"
        type = "float32"
        order = "CDAB"
        [[device.tag]]
        name = "current"
        address = "holding:2"
        type = "int16"
        nan = ["0x8000"]
        [[device.tag]]
        name = "state"
        address = "holding:3"
        type = "uint16"
        access = "read-write"
    "#;
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let plan = config::parse(text, Path::new("plant.toml"), &facts).expect("checks").plan;
    let site = Site::serve(&plan, &SiteOptions::default()).await.expect("serves");
    let Some(Place::Net(address)) = site.place("b").cloned() else { panic!("on the network") };
    let mut stream = TcpStream::connect(address).await.expect("listens");
    let mut ask = async |words: &mut [u8; 8]| {
        stream.write_all(&frame(Framing::Mbap, 1, 1, &READ)).await.expect("open");
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.expect("open");
        stream.read_exact(words).await.expect("open");
    };
    let (mut before, mut blank) = ([0; 8], [0; 8]);
    ask(&mut before).await;
    assert!(site.set_troubles("inverter", &[Fault::NotANumber.into()]));
    ask(&mut blank).await;
    assert_eq!(blank[..6], [0, 0, 0x7F, 0xC0, 0x80, 0], "words reversed; its sentinel");
    assert_eq!(blank[6..], before[6..], "a tag that cannot say so keeps its value");
    assert!(site.set_troubles("inverter", &[]));
    ask(&mut before).await;
    assert_ne!(before[..4], blank[..4], "nothing of it stays");
}
