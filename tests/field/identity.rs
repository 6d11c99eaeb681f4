//! Who a device is: FC 43/14 and FC 17 through the gate, in every framing, from devices that behave and devices that do not.

use crate::plc;
use crate::rig;

use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::{BusLink, BusPlan, Carrier, Framing};
use ironbridge::field::BusStats;
use ironbridge::field::carrier::opener;
use ironbridge::field::modbus::identity::{Category, Identity, read, report};
use ironbridge::field::modbus::session::{Session, Trouble};
use ironbridge::field::modbus::timing::Timing;
use ironbridge::model::tag::Table;
use ironbridge::plant::identity::Identity as Introduction;
use ironbridge::plant::image::Image;
use ironbridge::plant::rtu::{Pace, RtuLine};
use ironbridge::plant::tcp::{Manner, TcpLine};
use ironbridge::plant::udp::UdpLine;
use ironbridge::plant::units::Units;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const MS: Duration = Duration::from_millis(1);

fn units() -> Units {
    let mut image = Image::new();
    image.set_words(Table::Holding, 0, &[4711]);
    let units = Units::new();
    units.insert(7, image.clone());
    let long = "a very long name ".repeat(12);
    units.introduce(7, Introduction::new("ACME", "P-1", "2.1").with(4, &long).with(0x80, &long).with(0x81, "serial 5"));
    units.insert(8, image);
    units
}

/// Half a second of silence after opening, and as long to answer: the test goes on asking.
async fn session(link: BusLink) -> Session {
    let bus = BusPlan { response_timeout: 500 * MS, ..BusPlan::plain("bus", link) };
    let wire = opener(&bus.link.carrier, &rig::clock()).open().await.expect("opens");
    Session::new(wire, Timing::new(&bus), Arc::default())
}

/// Asks until an answer comes: on a machine with more to do half a second may be short.
async fn identity(session: &mut Session, unit: u8) -> Result<Identity, Trouble> {
    for _ in 0..50 {
        match read(session, unit, Category::Extended).await {
            Ok(identity) if identity.objects.len() < 4 => {} // something of it came late
            Err(Trouble::Timeout | Trouble::Protocol) => {}
            ended => return ended,
        }
    }
    Err(Trouble::Timeout)
}

async fn is_told(link: BusLink) {
    let spoken = link.kind();
    let mut session = session(link).await;
    let told = identity(&mut session, 7).await.expect("an identity");
    assert_eq!((told.vendor(), told.revision()), (Some("ACME"), Some("2.1")), "{spoken}");
    assert_eq!(told.objects.len(), 6, "all of both long streams: {told:?}");
    assert_eq!(told.objects[&0x81], "serial 5");
    assert!(matches!(identity(&mut session, 8).await, Err(Trouble::Exception(1))), "{spoken}");
}

#[tokio::test]
async fn a_device_says_who_it_is_in_every_framing() {
    let any = ([127, 0, 0, 1], 0).into();
    let mut told = tokio::task::JoinSet::new();
    for framing in [Framing::Mbap, Framing::Rtu, Framing::Ascii] {
        let line = TcpLine::serve_as(Manner { framing, tls: None }, any, units()).await.expect("serves");
        let link = BusLink::new(framing, Carrier::Tcp { endpoint: line.address().to_string() });
        told.spawn(async move {
            is_told(link).await;
            line.stop().await;
        });
    }
    for framing in [Framing::Mbap, Framing::Rtu] {
        let line = UdpLine::serve(framing, any, units()).await.expect("serves");
        let link = BusLink::new(framing, Carrier::Udp { endpoint: line.address().to_string() });
        told.spawn(async move {
            is_told(link).await;
            line.stop().await;
        });
    }
    for framing in [Framing::Rtu, Framing::Ascii] {
        let line = RtuLine::serve_as(framing, None, Pace::Instant, units()).expect("serves");
        let link = BusLink { framing, ..rig::rtu(line.path(), 115_200) };
        told.spawn(async move {
            is_told(link).await;
            line.stop().await;
        });
    }
    told.join_all().await;
}

/// A device in memory: for each request it expects to see, what it sends.
async fn device(mut wire: DuplexStream, script: Vec<(&'static [u8], Vec<u8>)>) {
    for (request, answer) in script {
        let mut seen = vec![0; request.len() + 2];
        wire.read_exact(&mut seen).await.expect("a request");
        assert_eq!(seen, rtu(request));
        for byte in answer {
            wire.write_all(&[byte]).await.expect("open"); // in pieces
            tokio::time::sleep(MS).await;
        }
    }
    std::future::pending::<()>().await;
}

fn rtu(body: &[u8]) -> Vec<u8> {
    [body, &plc::crc(body).to_le_bytes()].concat()
}

/// A part of unit 7's stream, category basic: `more`, `next`, then objects of one letter.
fn part(unit: u8, more: u8, next: u8, objects: &[(u8, u8)]) -> Vec<u8> {
    let count = u8::try_from(objects.len()).expect("few");
    let mut body = vec![unit, 43, 14, 1, 1, more, next, count];
    body.extend(objects.iter().flat_map(|(id, letter)| [*id, 1, *letter]));
    rtu(&body)
}

fn scripted(script: Vec<(&'static [u8], Vec<u8>)>) -> (Session, Arc<BusStats>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    tokio::spawn(device(theirs, script));
    let stats = Arc::<BusStats>::default();
    let timing = Timing::new(&rig::plan(rig::rtu("/dev/nowhere", 19_200)).buses[0]);
    (Session::new(Box::new(ours), timing, Arc::clone(&stats)), stats)
}

const BASIC: &[u8] = &[7, 43, 14, 1, 0];

#[tokio::test(start_paused = true)]
async fn an_answer_in_pieces_behind_garbage_strangers_and_an_echo_is_found_and_nothing_else() {
    let stranger = part(6, 0, 0, &[(0, b'X')]);
    let old = rtu(&[7, 3, 2, 0, 1]);
    let (mut session, stats) = scripted(vec![
        (BASIC, [rtu(BASIC), vec![0xFF, 7, 43], stranger, old, part(7, 0, 0, &[(0, b'A'), (1, b'B')])].concat()),
        (&[8, 17], rtu(&[8, 17, 4, 5, 0xFF, b'O', b'K'])),
    ]);
    let told = read(&mut session, 7, Category::Extended).await.expect("an identity");
    assert_eq!((told.vendor(), told.product(), told.revision()), (Some("A"), Some("B"), None));
    assert_eq!((stats.echo.get(), stats.foreign.get(), stats.stale.get(), stats.garbage.get()), (1, 1, 1, 3));
    assert_eq!(report(&mut session, 8).await.expect("a report"), "OK");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_another_devices_answer_is_none() {
    let mut damaged = part(7, 0, 0, &[(0, b'A')]);
    damaged[10] ^= 1;
    let (mut session, stats) = scripted(vec![(BASIC, damaged), (BASIC, part(6, 0, 0, &[(0, b'A')])), (BASIC, vec![])]);
    assert!(matches!(read(&mut session, 7, Category::Basic).await, Err(Trouble::Protocol)));
    assert!(matches!(read(&mut session, 7, Category::Basic).await, Err(Trouble::Timeout)));
    assert!(matches!(read(&mut session, 7, Category::Basic).await, Err(Trouble::Timeout)));
    assert_eq!((stats.crc.get(), stats.foreign.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_always_has_more_to_say_is_believed_no_longer_than_it_gets_on() {
    let (mut session, _) = scripted(vec![
        (BASIC, part(7, 0xFF, 1, &[(0, b'A')])),
        (&[7, 43, 14, 1, 1], part(7, 0xFF, 1, &[(1, b'B')])), // go on where you are
    ]);
    let told = read(&mut session, 7, Category::Extended).await.expect("an identity");
    assert_eq!((told.vendor(), told.product()), (Some("A"), Some("B")));
}
