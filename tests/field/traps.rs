//! Every trap known of Modbus on a wire, one by one, against a session over memory in paused time.

use crate::plc;
use crate::rig;

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ironbridge::config::plan::BusLink;
use ironbridge::field::BusStats;
use ironbridge::field::carrier::{Opener, Wire};
use ironbridge::field::modbus::exchange::Sent;
use ironbridge::field::modbus::session::{Reading, Session, Trouble};
use ironbridge::field::modbus::timing::Timing;
use ironbridge::field::modbus::write::{By, Write};
use ironbridge::model::tag::Table;
use plc::{Fault, Framing, Plc};
use rig::TIMEOUT;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};

const MS: Duration = Duration::from_millis(1);

struct Line {
    plc: Plc,
    session: Session,
    stats: Arc<BusStats>,
    framing: Framing,
}

async fn line(framing: Framing) -> Line {
    let mut plc = Plc::new(framing);
    let wire = plc.open().await.expect("memory");
    let stats = Arc::<BusStats>::default();
    Line { plc, session: Session::new(wire, timing(rig::link(framing)), Arc::clone(&stats)), stats, framing }
}

fn timing(link: BusLink) -> Timing {
    Timing::new(&rig::plan(link).buses[0])
}

impl Line {
    async fn read(&mut self, unit: u8, start: u16, count: u16) -> Result<Reading, Trouble> {
        let read = self.session.read(unit, Table::Holding, start, count).await;
        if !self.session.is_spent() {
            return read;
        }
        assert!(matches!(read, Err(Trouble::Lost { sent: Sent::Nothing, .. })), "{read:?}");
        let wire = self.plc.open().await.expect("memory");
        self.session = Session::new(wire, timing(rig::link(self.framing)), Arc::clone(&self.stats));
        self.session.read(unit, Table::Holding, start, count).await
    }

    /// Reads four registers and demands their own addresses.
    async fn reads_right(&mut self, unit: u8, start: u16) {
        let own = (start..start + 4).collect();
        assert_eq!(self.read(unit, start, 4).await.expect("an answer"), Reading::Registers(own));
    }
}

fn one(address: u16, word: u16) -> Write {
    Write::Registers { address, words: vec![word], by: By::Single }
}

#[tokio::test(start_paused = true)]
async fn rtu_a_late_reply_is_not_the_answer_to_the_next_question() {
    let mut line = line(Framing::Rtu).await;
    for late in [TIMEOUT, TIMEOUT + 50 * MS, TIMEOUT + 195 * MS] {
        line.plc.next([Fault::Late(late)]);
        assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)), "late by {late:?}");
        line.reads_right(1, 500).await;
    }
    assert_eq!(line.stats.stale.get(), 3);
}

/// A wire that takes its time over the next write: a busy gateway, a full buffer.
struct Slow {
    wire: Box<dyn Wire>,
    stuck: Arc<Mutex<Option<Pin<Box<Sleep>>>>>,
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, out)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(stuck) = self.stuck.lock().expect("nobody panics").as_mut() {
            ready!(stuck.as_mut().poll(cx));
        }
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn rtu_what_is_late_is_late_from_when_the_question_left_not_from_when_it_was_to_leave() {
    let mut plc = Plc::new(Framing::RtuOverTcp);
    let stuck = Arc::<Mutex<_>>::default();
    let wire = Slow { wire: plc.open().await.expect("memory"), stuck: Arc::clone(&stuck) };
    let link = timing(rig::link(Framing::RtuOverTcp));
    let framing = Framing::RtuOverTcp;
    let session = Session::new(Box::new(wire), link, Arc::default());
    let mut line = Line { plc, session, stats: Arc::default(), framing };
    line.reads_right(1, 100).await;
    *stuck.lock().expect("nobody panics") = Some(Box::pin(tokio::time::sleep(3 * TIMEOUT / 4)));
    line.plc.next([Fault::Late(39 * TIMEOUT / 20)]);
    assert!(matches!(line.read(1, 200, 4).await, Err(Trouble::Timeout)));
    line.plc.next([Fault::Late(19 * TIMEOUT / 20)]); // time for the other one to be taken for it
    line.reads_right(1, 500).await;
}

#[tokio::test(start_paused = true)]
async fn rtu_an_answer_to_whoever_asked_before_the_port_was_opened_is_not_ours() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let stats = Arc::<BusStats>::default();
    let mut session = Session::new(Box::new(ours), timing(rig::rtu("/dev/nowhere", 19_200)), Arc::clone(&stats));
    let frame = |register: u8| {
        let mut frame = vec![1, 3, 2, 0, register];
        frame.extend(plc::crc(&frame).to_le_bytes());
        frame
    };
    let device = tokio::spawn(async move {
        tokio::time::sleep(190 * MS).await; // just in time for a process that was killed
        theirs.write_all(&frame(100)).await.expect("open");
        theirs.read_exact(&mut [0; 8]).await.expect("a request");
        theirs.write_all(&frame(200)).await.expect("open");
        theirs
    });
    let reading = session.read(1, Table::Holding, 200, 1).await.expect("an answer");
    assert_eq!(reading, Reading::Registers(vec![200]));
    assert_eq!(stats.stale.get(), 1);
    drop(device.await);
}

#[tokio::test(start_paused = true)]
async fn rtu_after_a_timeout_the_line_is_quiet_for_the_worst_response_time_and_the_unit_for_another_timeout() {
    let mut line = line(Framing::Rtu).await;
    line.plc.think(40 * MS);
    line.reads_right(1, 1).await;
    line.plc.next([Fault::Drop]);
    let asked = Instant::now();
    assert!(line.read(1, 2, 4).await.is_err());
    let given_up = Instant::now();
    assert!(given_up - asked >= TIMEOUT);
    line.reads_right(2, 3).await;
    line.reads_right(1, 4).await;
    let seen = line.plc.seen();
    assert!(seen[2].at - given_up >= 40 * MS && seen[2].at - given_up < 100 * MS, "a neighbour, after the quiet time");
    assert!(seen[3].at - given_up >= TIMEOUT, "the silent unit itself");
}

#[tokio::test(start_paused = true)]
async fn rtu_every_request_is_preceded_by_t35_of_silence() {
    let mut line = line(Framing::Rtu).await;
    for start in 0..5 {
        line.reads_right(1, start).await;
    }
    let pause = Duration::from_secs_f64(3.5 * 11.0 / 19_200.0);
    assert!(line.plc.seen().windows(2).all(|pair| pair[1].at - pair[0].at >= pause));
}

#[tokio::test(start_paused = true)]
async fn tcp_one_late_answer_does_not_make_the_following_calls_fail() {
    let mut line = line(Framing::Tcp).await;
    line.plc.next([Fault::Late(TIMEOUT + 20 * MS)]);
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)));
    let begun = Instant::now();
    for start in 0..40 {
        line.reads_right(1, 200 + start).await;
        tokio::time::sleep(MS).await;
    }
    assert!(begun.elapsed() < TIMEOUT, "no quiet time on TCP");
    assert_eq!(line.stats.stale.get(), 1, "the late one, by its transaction id");
}

#[tokio::test(start_paused = true)]
async fn tcp_a_late_answer_does_not_fit_the_first_question_of_a_new_context() {
    // The crate counts transactions from 0 in each context; the gate must not.
    let mut line = line(Framing::Tcp).await;
    line.plc.next([Fault::Late(TIMEOUT + 5 * MS), Fault::Late(20 * MS)]);
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)));
    line.reads_right(1, 200).await;
    assert_eq!(line.stats.stale.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn tcp_an_answer_with_another_transaction_or_unit_id_is_dropped() {
    let mut line = line(Framing::Tcp).await;
    line.plc.next([Fault::WrongTransaction, Fault::WrongUnit]);
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)));
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)));
    line.reads_right(1, 300).await;
    assert_eq!((line.stats.stale.get(), line.stats.foreign.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn tcp_a_stream_out_of_step_is_lost_not_searched() {
    let mut line = line(Framing::Tcp).await;
    line.plc.next([Fault::NoHeader]);
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Lost { sent: Sent::All, .. })));
}

#[tokio::test(start_paused = true)]
async fn after_any_error_the_next_call_is_answered_right() {
    for framing in Framing::ALL {
        let mut line = line(framing).await;
        let mut faults = vec![
            Fault::Drop,
            Fault::Registers(0),
            Fault::Registers(2),
            Fault::Registers(125),
            Fault::Exception(4),
            Fault::Foreign,
            Fault::Echo,
        ];
        if !framing.is_numbered() {
            faults.extend([Fault::Flip(30), Fault::Flip(3), Fault::Truncate(6), Fault::Truncate(1)]);
        }
        for fault in faults {
            line.plc.next([fault.clone()]);
            assert!(line.read(1, 100, 4).await.is_err(), "{framing:?} {fault:?}");
            for start in 0..3 {
                line.reads_right(1, 40 + start).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replies_with_0_2_or_125_registers_to_a_request_for_4_are_protocol_errors() {
    for framing in Framing::ALL {
        let mut line = line(framing).await;
        for count in [0, 2, 5, 125] {
            line.plc.next([Fault::Registers(count)]);
            assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Protocol)), "{framing:?} {count}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_network_delivers_twice_is_not_the_answer_to_the_next_question() {
    for framing in [Framing::Udp, Framing::RtuOverUdp] {
        let mut line = line(framing).await;
        line.plc.think(MS);
        for after in [Duration::ZERO, MS / 4, 3 * MS] {
            line.plc.next([Fault::Twice(after)]);
            line.reads_right(1, 100).await;
            line.reads_right(1, 200).await;
        }
        tokio::time::sleep(5 * MS).await;
        line.reads_right(1, 300).await;
        assert_eq!(line.stats.stale.get(), 3, "{framing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_before_the_answer_and_single_bytes_do_not_hide_it() {
    let mut line = line(Framing::Rtu).await;
    line.plc.next([Fault::Garbage(vec![0; 7]), Fault::Garbage(vec![1, 3, 8]), Fault::Drip(5 * MS)]);
    for start in 0..3 {
        line.reads_right(1, start).await;
    }
    assert!(line.stats.garbage.get() >= 7);
}

#[tokio::test(start_paused = true)]
async fn a_broken_frame_is_given_up_before_the_timeout() {
    let mut line = line(Framing::Rtu).await;
    line.reads_right(1, 100).await;
    line.plc.next([Fault::Flip(40)]);
    let begun = Instant::now();
    assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Protocol)));
    assert!(begun.elapsed() < TIMEOUT / 2);
    assert_eq!(line.stats.crc.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_echo_is_stripped_and_never_an_answer() {
    for framing in Framing::ALL {
        let mut line = line(framing).await;
        line.plc.next([Fault::EchoAndAnswer, Fault::Echo]);
        line.reads_right(1, 100).await;
        assert!(matches!(line.read(1, 100, 4).await, Err(Trouble::Timeout)), "{framing:?}: only the echo came");
        assert_eq!(line.stats.echo.get(), 2);
    }
}

/// 24 coils from 0x0300 that read 00 00 18: byte for byte what was asked.
#[tokio::test(start_paused = true)]
async fn bits_that_look_like_the_question_are_the_answer_where_nothing_echoes_and_not_where_it_does() {
    for framing in Framing::ALL {
        for echoes in [false, true] {
            if echoes && framing.is_numbered() {
                continue; // there is no such line
            }
            let mut line = line(framing).await;
            line.plc.echo_everything(echoes);
            let on = |bit: u16| matches!(bit, 19 | 20); // 0x18 in the third byte
            (0..24).for_each(|bit| line.plc.set_bit(0x300 + bit, on(bit)));
            let wanted = Reading::Bits((0..24).map(on).collect());
            for _ in 0..3 {
                let read = line.session.read(1, Table::Coil, 0x300, 24).await;
                assert_eq!(read.expect("an answer"), wanted, "{framing:?}, echoes: {echoes}");
            }
            line.plc.kill(1);
            let read = line.session.read(1, Table::Coil, 0x300, 24).await;
            assert!(matches!(read, Err(Trouble::Timeout)), "{framing:?}, echoes: {echoes}: nobody is there");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_dead_device_behind_an_echoing_adapter_is_no_success() {
    let mut line = line(Framing::Rtu).await;
    line.plc.echo_everything(true);
    line.reads_right(1, 100).await;
    line.session.write(1, &one(7, 42)).await.expect("alive: echo, then answer");
    assert_eq!(line.plc.register(7), 42);
    line.plc.kill(1);
    for write in [
        one(7, 43),
        Write::Registers { address: 7, words: vec![1, 2], by: By::Single },
        Write::Coil { address: 7, on: true, by: By::Single },
    ] {
        assert!(matches!(line.session.write(1, &write).await, Err(Trouble::Timeout)), "{write:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn writes_are_confirmed_on_a_line_that_does_not_echo() {
    for framing in Framing::ALL {
        let mut line = line(framing).await;
        line.session.write(1, &one(7, 42)).await.expect("FC 6");
        line.session
            .write(1, &Write::Registers { address: 8, words: vec![1, 2], by: By::Single })
            .await
            .expect("FC 16");
        line.session.write(1, &Write::Coil { address: 9, on: true, by: By::Single }).await.expect("FC 5");
        assert_eq!((line.plc.register(7), line.plc.register(8), line.plc.register(9)), (42, 1, 2));
        assert!(line.plc.bit(9));
        let functions: Vec<u8> = line.plc.seen().iter().map(plc::Seen::function).collect();
        assert_eq!(functions, [6, 16, 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn exceptions_carry_their_code() {
    for framing in Framing::ALL {
        let mut line = line(framing).await;
        for code in [1, 2, 3, 4, 5, 6, 8, 10, 11, 77] {
            line.plc.next([Fault::Exception(code)]);
            let answer = line.read(1, 100, 4).await;
            assert!(matches!(answer, Err(Trouble::Exception(seen)) if seen == code), "{framing:?} {code}: {answer:?}");
        }
        assert_eq!((line.stats.exceptions.get(), line.stats.replies.get()), (10, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_close_is_a_lost_connection_never_try_again() {
    let mut line = line(Framing::Tcp).await;
    line.plc.next([Fault::Close]);
    match line.read(1, 100, 4).await {
        Err(Trouble::Lost { error, sent: Sent::All }) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
        other => panic!("{other:?}"),
    }
    match line.read(1, 100, 4).await {
        Err(Trouble::Lost { sent: Sent::Nothing, .. }) => {}
        other => panic!("closed before the request, so nothing was sent: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_for_one_request_never_reaches_the_wire() {
    let mut line = line(Framing::Tcp).await;
    assert!(matches!(line.read(1, 0, 126).await, Err(Trouble::TooLong)));
    assert!(matches!(line.read(1, 0, 0).await, Err(Trouble::TooLong)));
    assert!(matches!(line.session.read(1, Table::Coil, 0, 2001).await, Err(Trouble::TooLong)));
    let words = vec![0; 124];
    let long = Write::Registers { address: 0, words, by: By::Single };
    assert!(matches!(line.session.write(1, &long).await, Err(Trouble::TooLong)));
    assert!(line.plc.seen().is_empty());
    let Reading::Bits(bits) = line.session.read(1, Table::Coil, 0, 2000).await.expect("the bound") else { panic!() };
    assert_eq!(bits.len(), 2000);
    let Reading::Bits(bits) = line.session.read(1, Table::Discrete, 3, 13).await.expect("odd") else { panic!() };
    assert_eq!(bits.len(), 13, "not the 16 of two bytes");
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_never_sent_with_the_next_one() {
    // A pipe of 5 bytes that nobody empties: the request gets stuck halfway.
    let (near, mut far) = tokio::io::duplex(5);
    let mut session = Session::new(Box::new(near), timing(rig::tcp("nowhere:502")), Arc::default());
    match session.read(1, Table::Holding, 0, 4).await {
        Err(Trouble::Lost { sent: Sent::Part, .. }) => {}
        other => panic!("the stream is unusable: {other:?}"),
    }
    drop(session);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.expect("memory");
    assert_eq!(rest.len(), 5);
    far.write_all(&[0]).await.expect_err("closed");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_babbles_without_end_does_not_hang_the_session() {
    let (near, mut far) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        while far.write_all(&[1, 3, 8, 0, 0]).await.is_ok() {
            tokio::time::sleep(MS).await;
        }
    });
    let mut session = Session::new(Box::new(near), timing(rig::rtu("/dev/nowhere", 19_200)), Arc::default());
    let begun = Instant::now();
    assert!(session.read(1, Table::Holding, 0, 4).await.is_err());
    assert!(begun.elapsed() <= 3 * TIMEOUT);
}

/// As `tokio-rustls` has it: whatever is wrong with a TLS stream is invalid data.
struct DeadTls {
    is_asked: bool,
}

impl AsyncRead for DeadTls {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_asked {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "bad record MAC")))
        } else {
            Poll::Pending
        }
    }
}

impl AsyncWrite for DeadTls {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_calls_its_end_invalid_data_is_lost_and_that_is_no_fault_of_the_device() {
    let wire = Box::new(DeadTls { is_asked: false });
    let mut session = Session::new(wire, timing(rig::tcp("nowhere:502")), Arc::default());
    match session.read(1, Table::Holding, 0, 4).await {
        Err(Trouble::Lost { error, sent: Sent::All }) => assert_eq!(error.to_string(), "bad record MAC"),
        other => panic!("the connection is of no use any more: {other:?}"),
    }
}
