//! Instruments that speak lines of their own: the shipped examples against fakes on a pseudo-terminal and over TCP.

use crate::pty;
use crate::rig;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ironbridge::config::lines::{Framer, Heard, checksum};
use ironbridge::config::plan::{
    Carrier, ChecksumForm, ChecksumKind, ChecksumPlace, ChecksumPlan, FrameCut, LineMode, LinePlan, Plan,
};
use ironbridge::config::{self, HostFacts};
use ironbridge::field::carrier::{Opener, Opening, Wire};
use ironbridge::flow::notice::{Phase, notices};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::sample::Sample;
use ironbridge::model::tag::TagIx;
use ironbridge::model::value::Value;
use proptest::prelude::*;
use pty::Pty;
use rig::{Rig, good};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

const SCALE: &str = include_str!("../../config/scale.toml");
const GPS: &str = include_str!("../../config/gps.toml");

pub fn plan(text: &str) -> Plan {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts)
        .unwrap_or_else(|error| panic!("{error}"))
        .plan
}

/// The tag of this name.
pub fn ix(plan: &Plan, name: &str) -> TagIx {
    let at = plan.tags.iter().position(|tag| tag.name == name).expect("a tag of this name");
    TagIx(u32::try_from(at).expect("few"))
}

fn bad(cause: Cause) -> impl Fn(&Sample) -> bool {
    move |sample| sample.quality == Quality::Bad(cause)
}

fn is(value: f64) -> impl Fn(&Sample) -> bool {
    move |sample| good(sample) && sample.value == Some(Value::Float(value))
}

fn line(cut: FrameCut, checksum: Option<ChecksumPlan>) -> LinePlan {
    LinePlan { mode: LineMode::Poll, cut, max_frame: 16, checksum }
}

fn lines() -> LinePlan {
    line(FrameCut::Marks { start: Vec::new(), end: b"\r\n".to_vec() }, None)
}

/// STX, data, ETX, exclusive or of data and ETX.
fn block_check() -> LinePlan {
    let place = ChecksumPlace::Behind;
    let check = ChecksumPlan { kind: ChecksumKind::Xor, form: ChecksumForm::Binary, after: Vec::new(), place };
    line(FrameCut::Marks { start: vec![2], end: vec![3] }, Some(check))
}

fn frames(plan: &LinePlan, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut framer = Framer::new(plan);
    let mut found = Vec::new();
    for piece in pieces {
        let heard: Vec<Heard> = framer.push(piece).collect();
        found.extend(
            heard.into_iter().filter_map(|heard| if let Heard::Frame(frame) = heard { Some(frame) } else { None }),
        );
        assert!(framer.held() <= plan.max_frame + 16, "{} bytes are held", framer.held());
    }
    found
}

#[test]
fn frames_are_found_between_their_marks_and_nowhere_else() {
    assert_eq!(frames(&lines(), &[b"one\r\n\r\ntwo\r\nthr"]), [b"one", b"two"]);
    assert_eq!(frames(&lines(), &[b"0123456789abcdefg\r\nnext\r\n"]), [b"next"], "one that is too long is none");
    let nmea = line(FrameCut::Marks { start: b"$".to_vec(), end: b"\r\n".to_vec() }, None);
    assert_eq!(frames(&nmea, &[b"noise\r\n$half$whole\r\n\xFF\xFE$next\r\n"]), [&b"whole"[..], b"next"]);
    assert_eq!(frames(&nmea, &[b"$0123456789abcdefghijk\r\n$next\r\n"]), [b"next"]);
    let fixed = line(FrameCut::Length { start: vec![0xAA, 0x55], length: 3 }, None);
    assert_eq!(frames(&fixed, &[&[1, 0xAA, 0xAA, 0x55, 7, 8, 9, 4, 0xAA, 0x55, 1, 2, 3]]), [[7, 8, 9], [1, 2, 3]]);
    let whole = |body: &[u8]| {
        let counted = [body, &[3]].concat();
        let sum = u8::try_from(checksum::of(ChecksumKind::Xor, &counted)).expect("8 bits");
        [&[2][..], &counted, &[sum]].concat()
    };
    let stream = [&whole(b"12.5")[..], b"\x02bad\x03\x00", &whole(b"13")].concat();
    assert_eq!(frames(&block_check(), &[&stream]), [&b"12.5"[..], b"13"]);
}

#[test]
fn silence_ends_a_frame_that_has_no_marks() {
    let mut framer = Framer::new(&line(FrameCut::Idle(Duration::from_millis(20)), None));
    assert_eq!(framer.push(b"4006381").count(), 0);
    assert_eq!(framer.push(b"333931").count(), 0);
    assert_eq!(framer.silence(), Some(Heard::Frame(b"4006381333931".to_vec())));
    assert_eq!(framer.silence(), None);
    let _ = framer.push(&[b'x'; 100]).count();
    assert!(matches!(framer.silence(), Some(Heard::Noise(_))), "longer than any frame");
    let _ = framer.push(b"4").count();
    assert_eq!(framer.silence(), Some(Heard::Frame(b"4".to_vec())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn however_the_bytes_are_cut_the_frames_are_the_same(
        bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(2u8), Just(3u8), any::<u8>()], 0..200),
        cuts in prop::collection::vec(1usize..20, 1..40),
    ) {
        for plan in [lines(), block_check(), line(FrameCut::Length { start: vec![2], length: 4 }, None)] {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(frames(&plan, &pieces), frames(&plan, &[&bytes]));
        }
    }

    #[test]
    fn after_any_garbage_the_frame_after_the_next_end_is_found(garbage in prop::collection::vec(any::<u8>(), 0..100)) {
        let found = frames(&lines(), &[&garbage, b"\r\nsound\r\n"]);
        prop_assert_eq!(found.last().map(Vec::as_slice), Some(&b"sound"[..]));
    }
}

/// A scale that says what it is told to, one line per question; `None` is silence.
async fn weigh(wire: impl AsyncRead + AsyncWrite + Unpin, mut says: impl FnMut(usize) -> Option<Vec<u8>>) {
    let mut wire = BufReader::new(wire);
    let mut line = String::new();
    for question in 0.. {
        line.clear();
        if !wire.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            return;
        }
        assert_eq!(line, "SI\r\n");
        if let Some(answer) = says(question) {
            // The other side may be gone: then there is no next question.
            let _ = wire.write_all(&answer).await;
        }
    }
}

fn scale(carrier: impl FnOnce(Carrier) -> Carrier) -> Plan {
    let mut plan = plan(SCALE);
    let link = &mut plan.buses[0].link;
    link.carrier = carrier(link.carrier.clone());
    plan.buses[0].response_timeout = Duration::from_millis(150);
    for tag in &mut plan.tags {
        tag.poll = Duration::from_millis(20);
        tag.deadband = None;
    }
    plan
}

fn on_port(path: &Path) -> impl FnOnce(Carrier) -> Carrier {
    let path = path.to_owned();
    move |carrier| match carrier {
        Carrier::Serial(mut port) => {
            port.port = path;
            Carrier::Serial(port)
        }
        other => other,
    }
}

#[tokio::test]
async fn a_scale_on_a_serial_port_gives_weights_with_their_quality_and_noise_gives_none() {
    let pty = Pty::open().expect("a pty");
    let plan = scale(on_port(&pty.path));
    let weight = ix(&plan, "weight");
    let mut rig = Rig::run(plan);
    let answers: [&[u8]; 8] = [
        b"S S     100.00 g\r\n",
        b"S D     101.50 g\r\n",
        b"S +\r\n",
        b"S S      99.00 kg\r\n",                // another unit: no value at all
        b"\xFF\x00S S 7\r\nS S     -12.5 g\r\n", // noise and half a frame before the answer
        b"S S     ",                             // half a frame, and nothing behind it
        b"S S   1.2.3 g\r\n",
        b"S S     100.00 g\r\n",
    ];
    tokio::spawn(weigh(pty, move |question| Some(answers[question % answers.len()].to_vec())));
    rig.sample(weight, is(100.0)).await;
    let moving = rig.sample(weight, |sample| matches!(sample.quality, Quality::Uncertain(_))).await;
    assert_eq!(moving.value, Some(Value::Float(101.5)));
    rig.sample(weight, bad(Cause::Exception)).await;
    rig.sample(weight, is(-12.5)).await;
    rig.sample(weight, bad(Cause::Protocol)).await;
    let mut goods = 0;
    while goods < 20 {
        for sample in rig.batch().await.into_iter().filter(|sample| sample.tag == weight && good(sample)) {
            assert!([Some(Value::Float(100.0)), Some(Value::Float(-12.5))].contains(&sample.value), "{sample:?}");
            goods += 1;
        }
    }
    assert!(rig.handle.stats.foreign.get() > 0, "what no pattern fits is counted");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let plan = scale(|_| Carrier::Tcp { endpoint });
    let (weight, timeout) = (ix(&plan, "weight"), plan.buses[0].response_timeout);
    let mut rig = Rig::run(plan);
    let (stream, _) = listener.accept().await.expect("a connection");
    let (read, mut write) = stream.into_split();
    let (asked, mut questions) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(_)) = lines.next_line().await {
            if asked.send(()).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut number = 0;
        while questions.recv().await.is_some() {
            number += 1;
            let is_late = number % 3 == 0;
            if is_late {
                tokio::time::sleep(timeout + timeout / 3).await;
            }
            let answer = if is_late { "S S     666 g\r\n".to_owned() } else { "S S     1 g\r\n".to_owned() };
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mut goods = 0;
    while goods < 8 {
        for sample in rig.batch().await.into_iter().filter(|sample| sample.tag == weight) {
            assert_ne!(sample.value, Some(Value::Float(666.0)), "a late answer");
            goods += usize::from(good(&sample));
        }
    }
    assert!(rig.handle.stats.timeouts.get() > 0 && rig.handle.stats.stale.get() > 0);
}

#[tokio::test]
async fn a_scale_that_falls_silent_or_is_unplugged_is_bad_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let by_id = folder.path().join("usb-adapter");
    let plan = scale(on_port(&by_id));
    let weight = ix(&plan, "weight");
    let mut rig = Rig::run(plan);
    rig.sample(weight, bad(Cause::Transport)).await;
    let pty = Pty::open().expect("a pty");
    symlink(&pty.path, &by_id).expect("a name");
    let silent = |question: usize| (3..6).contains(&question);
    let says = move |question| (!silent(question)).then(|| b"S S     5 g\r\n".to_vec());
    let serving = tokio::spawn(weigh(pty, says));
    rig.sample(weight, is(5.0)).await;
    rig.sample(weight, bad(Cause::Timeout)).await;
    rig.sample(weight, is(5.0)).await;
    std::fs::remove_file(&by_id).expect("unplugged");
    serving.abort(); // drops the near end: the port now gives an error for ever
    rig.sample(weight, bad(Cause::Transport)).await;
    let pty = Pty::open().expect("a pty");
    symlink(&pty.path, &by_id).expect("a name");
    tokio::spawn(weigh(pty, |_| Some(b"S S     6 g\r\n".to_vec())));
    rig.sample(weight, is(6.0)).await;
}

fn sentence(body: &str) -> Vec<u8> {
    let sum = body.bytes().fold(0, |all, byte| all ^ byte);
    format!("${body}*{sum:02X}\r\n").into_bytes()
}

async fn gps() -> (TcpListener, Plan) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut plan = plan(GPS);
    plan.buses[0].link.carrier = Carrier::Tcp { endpoint: listener.local_addr().expect("bound").to_string() };
    for tag in plan.tags.iter_mut().filter(|tag| tag.is_of_device()) {
        tag.freshness.stale_after = Some(Duration::from_millis(600));
    }
    (listener, plan)
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("the gateway listens");
}

#[tokio::test]
async fn a_gps_receiver_gives_positions_no_fix_gives_none_and_silence_is_stale() {
    let (listener, plan) = gps().await;
    let [degrees, minutes, altitude, speed, fix] =
        ["lat_deg", "lat_min", "altitude", "speed", "fix"].map(|name| ix(&plan, name));
    let mut rig = Rig::run(plan);
    let (mut stream, _) = listener.accept().await.expect("a connection");
    // The sentences of the example, with the checksums that the literature gives.
    let known = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n";
    send(&mut stream, known).await;
    let batch = rig.batch().await;
    let value = |tag| batch.iter().find(|sample: &&Sample| sample.tag == tag).and_then(|sample| sample.value.clone());
    assert_eq!((value(degrees), value(minutes)), (Some(Value::Float(48.0)), Some(Value::Float(7.038))));
    assert_eq!((value(altitude), value(fix)), (Some(Value::Float(545.4)), Some(Value::Int(1))));
    send(&mut stream, b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n").await;
    rig.sample(speed, |sample| good(sample) && sample.value == Some(Value::Float(41.4848))).await;

    // Noise, half a sentence, a sentence with a wrong digit, one of another kind: none of it is a value.
    let torn = String::from_utf8_lossy(known).replace("545.4", "945.4");
    let other = sentence("GPGSV,3,1,11,03,03,111,00");
    let noise = [b"\xFF\x00\xA5", &known[..30], torn.as_bytes(), &other].concat();
    send(&mut stream, &noise).await;
    send(&mut stream, &sentence("GPGGA,123521,,,,,0,00,99.9,,,,,,")).await;
    let batch = rig.batch().await;
    assert!(
        batch.iter().filter(|sample| sample.tag != fix).all(|sample| !good(sample) && sample.value.is_none()),
        "{batch:?}"
    );
    assert_eq!(rig.handle.stats.crc.get(), 1, "the wrong digit");
    assert_eq!(rig.handle.stats.foreign.get(), 1, "the sentence of another kind");
    assert!(rig.handle.stats.garbage.get() > 0);
    send(&mut stream, known).await;
    rig.sample(altitude, is(545.4)).await;
    rig.sample(altitude, bad(Cause::Stale)).await;

    // The connection breaks and comes back.
    drop(stream);
    let (mut stream, _) = listener.accept().await.expect("it comes back");
    send(&mut stream, &sentence("GPGGA,123522,4807.038,S,01131.000,W,1,08,0.9,7.5,M,46.9,M,,")).await;
    rig.sample(altitude, is(7.5)).await;
}

/// A barcode reader: digits and a line end, by itself. Any part of what it says would make a code too.
const CODES: &str = r#"
[gateway]
name = "gw"
data_dir = "/nowhere"
[[bus]]
name = "codes"
type = "line"
endpoint = "nowhere:4001"
mode = "listen"
frame_end = "\r"
[[device]]
name = "reader"
bus = "codes"
match = '(?P<code>[0-9]+)'
[[device.tag]]
name = "code"
field = "code"
type = "string(20)"
"#;

/// Hands out one end of a pipe at each opening; the test has the other.
struct Pipes(mpsc::Sender<DuplexStream>);

impl Opener for Pipes {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async {
            let (near, far) = duplex(4096);
            self.0.send(far).await.expect("the test goes on");
            Ok(Box::new(near) as Box<dyn Wire>)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_frame_whose_beginning_nobody_heard_no_part_is_a_value() {
    let (sender, mut opened) = mpsc::channel(1);
    let mut rig = Rig::run_over(plan(CODES), Box::new(Pipes(sender)));
    let mut reader = opened.recv().await.expect("opened");
    let code =
        |text: &'static str| move |sample: &Sample| good(sample) && sample.value == Some(Value::Text(text.into()));
    let (first, second) = (code("4006381333931"), code("9783161484100"));
    let mut codes = Vec::new();

    // The port is opened while the instrument speaks.
    reader.write_all(b"333931\r4006381333931\r").await.expect("heard");
    // A frame that breaks off; what comes a minute later may be its rest.
    sleep(Duration::from_secs(5)).await;
    reader.write_all(b"97831").await.expect("heard");
    sleep(Duration::from_secs(60)).await;
    reader.write_all(b"61484100\r").await.expect("heard");
    sleep(Duration::from_secs(5)).await;
    reader.write_all(b"9783161484100\r").await.expect("heard");
    while !codes.last().is_some_and(&second) {
        codes.extend(rig.batch().await.into_iter().filter(good));
    }
    drop(reader);
    // On a line that is silent at first the very first frame counts, and what an open line sounds like breaks none.
    let mut reader = opened.recv().await.expect("opened again");
    sleep(Duration::from_secs(2)).await;
    reader.write_all(b"4006381333931\r\n").await.expect("heard");
    sleep(Duration::from_secs(2)).await;
    reader.write_all(b"9783161484100\r").await.expect("heard");
    while codes.len() < 4 {
        codes.extend(rig.batch().await.into_iter().filter(good));
    }
    assert!(first(&codes[0]) && second(&codes[1]) && first(&codes[2]) && second(&codes[3]), "{codes:?}");
    assert_eq!(codes.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_of_an_instrument_that_speaks_only_of_changes_is_told_and_over_when_its_delays_are() {
    let (sender, mut opened) = mpsc::channel(1);
    let alarm = "stale_after = \"1h\"\nalarm = { high = 10.0, delay = \"2s\", off_delay = \"3s\" }";
    let text = CODES.replace("[0-9]+", "[0-9.]+").replace("type = \"string(20)\"", alarm);
    let mut rig = Rig::run_over(plan(&text), Box::new(Pipes(sender)));
    let mut scale = opened.recv().await.expect("opened");
    sleep(Duration::from_secs(2)).await;
    for (says, state, delay) in [("11.0\r", "active", 2), ("9.0\r", "cleared", 3)] {
        scale.write_all(says.as_bytes()).await.expect("heard");
        let said = tokio::time::Instant::now();
        let event = rig.event().await;
        let (body, took) = (String::from_utf8_lossy(&event.body).into_owned(), said.elapsed());
        let delay = Duration::from_secs(delay);
        assert!(body.contains(state) && took >= delay && took < delay + Duration::from_millis(100), "{took:?} {body}");
        sleep(Duration::from_secs(12)).await;
    }
}

/// The same, but after the first opening each takes this long, as a network does that has lost its way.
struct Far(Pipes, Option<Duration>);

impl Opener for Far {
    fn open(&mut self) -> Opening<'_> {
        let takes = self.1.replace(Duration::from_secs(4)).unwrap_or_default();
        Box::pin(async move {
            sleep(takes).await;
            self.0.open().await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_lost_connection_takes_long_to_open_again_nothing_of_it_is_good() {
    let (sender, mut opened) = mpsc::channel(1);
    let plan = plan(CODES);
    let (code, longest) = (ix(&plan, "code"), plan.buses[0].response_timeout.max(Duration::from_secs(1)));
    let mut rig = Rig::run_over(plan, Box::new(Far(Pipes(sender), None)));
    for life in 0..2 {
        let mut reader = opened.recv().await.expect("opened");
        sleep(Duration::from_secs(2)).await;
        reader.write_all(b"4006381333931\r").await.expect("heard");
        rig.sample(code, good).await;
        drop(reader);
        let lost = tokio::time::Instant::now();
        rig.sample(code, bad(Cause::Transport)).await;
        assert!(lost.elapsed() <= longest + Duration::from_millis(10), "{life}: {:?}", lost.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_scale_that_is_alone_on_its_line_is_looked_for_every_few_seconds() {
    let (sender, mut opened) = mpsc::channel(1);
    let mut plan = scale(|carrier| carrier);
    plan.buses[0].response_timeout = Duration::from_secs(2);
    let weight = ix(&plan, "weight");
    let mut rig = Rig::run_over(plan, Box::new(Pipes(sender)));
    let silent = |question: usize| (3..7).contains(&question);
    let wire = opened.recv().await.expect("opened");
    tokio::spawn(weigh(wire, move |question| (!silent(question)).then(|| b"S S     5 g\r\n".to_vec())));
    rig.sample(weight, is(5.0)).await;
    rig.sample(weight, bad(Cause::Timeout)).await;
    let down = tokio::time::Instant::now();
    rig.sample(weight, is(5.0)).await;
    // Two probes in vain, after 2 s and 4 s, and the third finds it after 8 s; nobody else needs the time.
    assert!(down.elapsed() < Duration::from_secs(30), "{:?}", down.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_cannot_keep_up_is_told_once_after_a_minute_and_so_is_that_it_can_again() {
    let (sender, mut opened) = mpsc::channel(1);
    let (tell, mut told) = notices();
    let mut rig = Rig::run_line(scale(|carrier| carrier), Box::new(Pipes(sender)), |bus| bus.telling(tell));
    let wire = opened.recv().await.expect("opened");
    let thinks = Arc::new(AtomicU64::new(90)); // ms, and it is asked every 20
    let thinking = Arc::clone(&thinks);
    tokio::spawn(async move {
        let mut wire = BufReader::new(wire);
        while wire.read_line(&mut String::new()).await.is_ok_and(|read| read > 0) {
            sleep(Duration::from_millis(thinking.load(Ordering::Relaxed))).await;
            wire.write_all(b"S S     5 g\r\n").await.expect("heard");
        }
    });
    rig.collect(Duration::from_secs(50)).await;
    assert!(told.try_recv().is_err(), "a restart is no overload");
    rig.collect(Duration::from_secs(100)).await;
    thinks.store(1, Ordering::Relaxed);
    rig.collect(Duration::from_secs(150)).await;
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).map(|told| (told.event, told.phase)).collect();
    assert_eq!(told, [("bus_overloaded", Phase::Active), ("bus_overloaded", Phase::Cleared)]);
}
