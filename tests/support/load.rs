//! MQTT 3.1.1 clients for measuring: fixed packets, blocking sockets, a thread each, nothing allocated per message. Not a
//! library: they know one topic and expect a broker that does everything right. Standard library only.
//!
//! A publisher keeps at most `window` of its messages unacknowledged, and at most `ahead` of them not yet with every
//! subscriber: neither broker holds a publisher back for a slow reader, and what is measured here is speed, not what is
//! dropped. Every subscriber holds each message against the number it must have: nothing missing, nothing twice, no
//! order changed.

#![allow(dead_code, reason = "the bench uses one part, tests another")]

use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// The one topic.
const TOPIC: &str = "plant/pump-station-7/pressure";

/// Where number and time of a message stand in its payload: two numbers of 20 digits in what could be a tag's value.
const HEAD: &[u8] = br#"{"seq":00000000000000000000,"ns":00000000000000000000,"v":20.437,"q":"good","u":"bar"}"#;
const NUMBER_AT: usize = 7;
const TIME_AT: usize = 33;
const DIGITS: usize = 20;

/// How a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub qos: u8,
    pub subscribers: usize,
    pub payload: usize,
    pub window: usize,
    /// CleanSession = 0.
    pub durable: bool,
    /// Each subscriber by a shared subscription of its own, so that all of them get every message.
    pub shared: bool,
    /// Messages per second; `None`: as many as go.
    pub rate: Option<u32>,
    pub lasts: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub messages: u64,
    pub took: Duration,
    /// Of every message at every subscriber, sorted.
    pub latencies: Vec<Duration>,
}

/// What the threads of a run share.
struct Progress {
    begun: Instant,
    received: Vec<AtomicU64>,
    /// The publisher sleeps until more was received.
    asleep: AtomicBool,
}

impl Progress {
    fn new(subscribers: usize) -> Self {
        let received = (0..subscribers).map(|_| AtomicU64::new(0)).collect();
        Self { begun: Instant::now(), received, asleep: AtomicBool::new(false) }
    }

    fn everywhere(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }
}

/// How many messages may be on their way to the slowest subscriber: a quarter of a megabyte.
fn ahead(payload: usize) -> u64 {
    (256 * 1024 / (payload + 200)).clamp(8, 1000) as u64
}

/// Runs it; panics when anything is missing, twice or out of order.
pub fn run(address: SocketAddr, load: &Load) -> Outcome {
    let progress = Arc::new(Progress::new(load.subscribers));
    let publisher = Wire::connect(address, "load-publisher", true).expect("a connection");
    let subscribers: Vec<JoinHandle<Vec<Duration>>> = (0..load.subscribers)
        .map(|place| {
            let id = format!("load-subscriber-{place}");
            let mut wire = Wire::connect(address, &id, !load.durable).expect("a connection");
            let filter = if load.shared { format!("$share/{place}/{TOPIC}") } else { TOPIC.to_owned() };
            wire.subscribe(&filter, load.qos).expect("subscribed");
            let (progress, load, publisher) = (Arc::clone(&progress), *load, thread::current());
            thread::spawn(move || listen(wire, &load, (&progress, place), &publisher).expect("a working connection"))
        })
        .collect();
    let begun = Instant::now();
    let messages = publish(publisher, load, &progress).expect("a working connection");
    let deadline = Instant::now() + PATIENCE;
    while progress.everywhere() < messages {
        assert!(Instant::now() < deadline, "{} of {messages} messages came", progress.everywhere());
        progress.asleep.store(true, Ordering::Release);
        thread::park_timeout(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    // A last message tells the subscribers that it was the last.
    let mut farewell = Wire::connect(address, "load-farewell", true).expect("a connection");
    farewell.stream.write_all(&packet(&Load { qos: 0, ..*load }, b"end").0).expect("sent");
    let mut latencies: Vec<Duration> = subscribers.into_iter().flat_map(|one| one.join().expect("no panic")).collect();
    latencies.sort_unstable();
    if load.durable {
        forget(address, load.subscribers);
    }
    Outcome { messages, took, latencies }
}

/// Ends the sessions that were to stay.
fn forget(address: SocketAddr, subscribers: usize) {
    for place in 0..subscribers {
        drop(Wire::connect(address, &format!("load-subscriber-{place}"), true).expect("a connection"));
    }
}

/// Publishes for one client that is away, until all is acknowledged.
pub fn queue(address: SocketAddr, load: &Load, messages: u64) -> Outcome {
    forget(address, 1);
    let mut wire = Wire::connect(address, "load-subscriber-0", false).expect("a connection");
    wire.subscribe(TOPIC, load.qos).expect("subscribed");
    drop(wire);
    let publisher = Wire::connect(address, "load-publisher", true).expect("a connection");
    let progress = Progress::new(0);
    publish_so_many(publisher, load, (&progress, messages)).expect("a working connection");
    Outcome { messages, took: progress.begun.elapsed(), latencies: Vec::new() }
}

/// The client comes back and takes all that was queued for it.
pub fn fetch(address: SocketAddr, load: &Load, messages: u64) -> Outcome {
    let progress = Progress::new(1);
    let mut wire = Wire::connect(address, "load-subscriber-0", false).expect("a connection");
    while progress.everywhere() < messages {
        wire.take(load, (&progress, 0), &mut Vec::new());
        wire.flush().expect("taken");
        if progress.everywhere() < messages {
            wire.fill().expect("messages");
        }
    }
    let took = progress.begun.elapsed();
    // The last acknowledgements may have been too late.
    forget(address, 1);
    Outcome { messages, took, latencies: Vec::new() }
}

fn publish(wire: Wire, load: &Load, progress: &Progress) -> Result<u64> {
    let until = Instant::now() + load.lasts;
    let mut sender = Sender::new(wire, load);
    let (begun, ahead) = (Instant::now(), ahead(load.payload));
    while Instant::now() < until {
        if let Some(rate) = load.rate {
            let due = begun + Duration::from_secs(1) / rate * u32::try_from(sender.sent).unwrap_or(u32::MAX);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            sender.send(1, progress)?;
            // The second half of QoS 2 is not to wait for the next message.
            while sender.in_flight > 0 {
                sender.hear(Blocking::Yes)?;
            }
            continue;
        }
        let credit = ahead.saturating_sub(sender.sent - progress.everywhere());
        let room = usize::try_from(credit).unwrap_or(0).min(sender.room()).min(64);
        if room > 0 {
            sender.send(room, progress)?;
        } else if sender.in_flight > 0 && sender.room() == 0 {
            sender.hear(Blocking::Yes)?;
        } else {
            sender.hear(Blocking::No)?;
            progress.asleep.store(true, Ordering::Release);
            if sender.sent - progress.everywhere() >= ahead {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
    sender.finish()
}

fn publish_so_many(wire: Wire, load: &Load, (progress, messages): (&Progress, u64)) -> Result<u64> {
    let mut sender = Sender::new(wire, load);
    while sender.sent < messages {
        let left = usize::try_from(messages - sender.sent).unwrap_or(usize::MAX);
        match sender.room().min(left) {
            0 => sender.hear(Blocking::Yes)?,
            room => sender.send(room, progress)?,
        }
    }
    sender.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocking {
    Yes,
    No,
}

struct Sender {
    wire: Wire,
    qos: u8,
    window: usize,
    template: Vec<u8>,
    id_at: usize,
    payload_at: usize,
    sent: u64,
    in_flight: usize,
}

/// A PUBLISH, where its packet id stands and where its payload begins.
fn packet(load: &Load, payload: &[u8]) -> (Vec<u8>, usize, usize) {
    let id = if load.qos > 0 { 2 } else { 0 };
    let mut packet = vec![0x30 | load.qos << 1];
    let mut length = 2 + TOPIC.len() + id + payload.len();
    while length > 0x7F {
        packet.push(u8::try_from(length & 0x7F).expect("seven bits") | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).expect("seven bits"));
    packet.extend(u16::try_from(TOPIC.len()).expect("short").to_be_bytes());
    packet.extend(TOPIC.as_bytes());
    let id_at = packet.len();
    packet.extend(&[0, 0][..id]);
    let payload_at = packet.len();
    packet.extend(payload);
    (packet, id_at, payload_at)
}

fn put_number(at: &mut [u8], mut number: u64) {
    for digit in at.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
}

fn number(at: &[u8]) -> u64 {
    at.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

impl Sender {
    fn new(wire: Wire, load: &Load) -> Self {
        let mut payload = HEAD.to_vec();
        payload.resize(load.payload.max(HEAD.len()), b' ');
        let (template, id_at, payload_at) = packet(load, &payload);
        Self { wire, qos: load.qos, window: load.window, template, id_at, payload_at, sent: 0, in_flight: 0 }
    }

    fn room(&self) -> usize {
        if self.qos == 0 { 64 } else { self.window - self.in_flight }
    }

    fn send(&mut self, count: usize, progress: &Progress) -> Result<()> {
        let out = &mut self.wire.out;
        for _ in 0..count {
            let place = out.len();
            out.extend_from_slice(&self.template);
            let packet = &mut out[place..];
            if self.qos > 0 {
                let id = u16::try_from(self.sent % 65_535 + 1).expect("below 65 536");
                packet[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
                self.in_flight += 1;
            }
            let payload = &mut packet[self.payload_at..];
            put_number(&mut payload[NUMBER_AT..NUMBER_AT + DIGITS], self.sent);
            let now = u64::try_from(progress.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            put_number(&mut payload[TIME_AT..TIME_AT + DIGITS], now);
            self.sent += 1;
        }
        self.wire.flush()
    }

    /// Takes acknowledgements.
    fn hear(&mut self, blocking: Blocking) -> Result<()> {
        if self.qos == 0 {
            return Ok(());
        }
        if blocking == Blocking::Yes {
            self.wire.fill()?;
        } else {
            self.wire.stream.set_nonblocking(true)?;
            let read = self.wire.fill();
            self.wire.stream.set_nonblocking(false)?;
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            }
        }
        let (in_flight, out) = (&mut self.in_flight, &mut self.wire.out);
        self.wire.arrived.each(|first, body| match first {
            0x40 | 0x70 => *in_flight -= 1,
            0x50 => out.extend_from_slice(&[0x62, 2, body[0], body[1]]),
            other => panic!("packet {other:#x} to a publisher"),
        });
        self.wire.flush()
    }

    fn finish(mut self) -> Result<u64> {
        while self.in_flight > 0 {
            self.hear(Blocking::Yes)?;
        }
        Ok(self.sent)
    }
}

fn listen(mut wire: Wire, load: &Load, at: (&Progress, usize), publisher: &thread::Thread) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    loop {
        wire.fill()?;
        let end = wire.take(load, at, &mut latencies);
        wire.flush()?;
        if at.0.asleep.swap(false, Ordering::AcqRel) {
            publisher.unpark();
        }
        if end {
            return Ok(latencies);
        }
    }
}

/// Bytes that have arrived.
struct Arrived {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Arrived {
    /// Hands over each whole packet: first byte and body.
    fn each(&mut self, mut take: impl FnMut(u8, &[u8])) {
        loop {
            let bytes = &self.bytes[self.from..self.to];
            let (mut length, mut place) = (0_usize, 1);
            loop {
                let Some(byte) = bytes.get(place) else { return };
                length |= usize::from(byte & 0x7F) << (7 * (place - 1));
                place += 1;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let Some(body) = bytes.get(place..place + length) else { return };
            take(bytes[0], body);
            self.from += place + length;
        }
    }
}

/// A connection.
struct Wire {
    stream: TcpStream,
    arrived: Arrived,
    out: Vec<u8>,
}

impl Wire {
    fn connect(address: SocketAddr, id: &str, clean: bool) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let arrived = Arrived { bytes: vec![0; 256 * 1024], from: 0, to: 0 };
        let mut wire = Self { stream, arrived, out: Vec::new() };
        let length = u8::try_from(12 + id.len()).expect("a short id");
        wire.out.extend([0x10, length, 0, 4, b'M', b'Q', b'T', b'T', 4, if clean { 2 } else { 0 }, 0, 0, 0]);
        wire.out.push(u8::try_from(id.len()).expect("a short id"));
        wire.out.extend(id.as_bytes());
        wire.flush()?;
        assert_eq!((wire.answer()?[0], wire.arrived.bytes[3]), (0x20, 0), "CONNACK");
        wire.arrived.from = 4;
        Ok(wire)
    }

    fn subscribe(&mut self, topic: &str, qos: u8) -> Result<()> {
        let length = u8::try_from(5 + topic.len()).expect("a short topic");
        self.out.extend([0x82, length, 0, 1, 0, length - 5]);
        self.out.extend(topic.as_bytes());
        self.out.push(qos);
        self.flush()?;
        let answer = self.answer()?;
        assert_eq!((answer[0], answer[4]), (0x90, qos), "SUBACK");
        self.arrived.from += 5;
        Ok(())
    }

    /// At least four bytes of an answer.
    fn answer(&mut self) -> Result<&[u8]> {
        while self.arrived.to - self.arrived.from < 4 {
            self.fill()?;
        }
        Ok(&self.arrived.bytes[self.arrived.from..self.arrived.to])
    }

    /// Reads what there is.
    fn fill(&mut self) -> Result<()> {
        let Arrived { bytes, from, to } = &mut self.arrived;
        bytes.copy_within(*from..*to, 0);
        (*from, *to) = (0, *to - *from);
        match self.stream.read(&mut bytes[*to..])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                *to += count;
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Takes publishes and answers them; true when the last has come.
    fn take(&mut self, load: &Load, (progress, place): (&Progress, usize), latencies: &mut Vec<Duration>) -> bool {
        let (out, received) = (&mut self.out, &progress.received[place]);
        let mut count = received.load(Ordering::Relaxed);
        let (now, mut end) = (progress.begun.elapsed(), false);
        self.arrived.each(|first, body| match first >> 4 {
            3 => {
                let qos = (first >> 1) & 3;
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let payload = &body[at + if qos > 0 { 2 } else { 0 }..];
                if payload == b"end" {
                    end = true;
                    return;
                }
                assert_eq!(
                    (number(&payload[NUMBER_AT..NUMBER_AT + DIGITS]), qos),
                    (count, load.qos),
                    "the next message"
                );
                count += 1;
                if load.rate.is_some() {
                    let sent = Duration::from_nanos(number(&payload[TIME_AT..TIME_AT + DIGITS]));
                    latencies.push(now.saturating_sub(sent));
                }
                match qos {
                    1 => out.extend_from_slice(&[0x40, 2, body[at], body[at + 1]]),
                    2 => out.extend_from_slice(&[0x50, 2, body[at], body[at + 1]]),
                    _ => {}
                }
            }
            6 => out.extend_from_slice(&[0x70, 2, body[0], body[1]]),
            _ => panic!("packet {first:#x} to a subscriber"),
        });
        received.store(count, Ordering::Release);
        end
    }
}
