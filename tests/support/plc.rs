//! A PLC that speaks real Modbus, byte by byte and without any Modbus crate, and misbehaves on command.
//!
//! Serves each framing over anything bytes go through: an in-memory pipe, a socket, a pty; UDP over parcels in memory. Registers hold
//! their own address unless told otherwise, so that a wrong answer shows.

#![allow(dead_code, reason = "each test file uses a part of the fake")]

#[path = "parcels.rs"]
mod parcels;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ironbridge::field::carrier::{Opener, Opening, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::time::{Instant, sleep_until};

/// How the bytes are framed, and what carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Tcp,
    Rtu,
    Ascii,
    RtuOverTcp,
    AsciiOverTcp,
    Udp,
    RtuOverUdp,
}

impl Framing {
    pub const ALL: [Self; 7] =
        [Self::Rtu, Self::Tcp, Self::Ascii, Self::RtuOverTcp, Self::AsciiOverTcp, Self::Udp, Self::RtuOverUdp];

    /// Transaction numbers tell answers apart.
    pub const fn is_numbered(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    const fn is_ascii(self) -> bool {
        matches!(self, Self::Ascii | Self::AsciiOverTcp)
    }

    const fn is_rtu(self) -> bool {
        matches!(self, Self::Rtu | Self::RtuOverTcp | Self::RtuOverUdp)
    }

    pub const fn is_datagrams(self) -> bool {
        matches!(self, Self::Udp | Self::RtuOverUdp)
    }
}

/// What the fake does to one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    None,
    /// Answers rightly, this much later.
    Late(Duration),
    /// Only the first bytes of the answer.
    Truncate(usize),
    /// Bit n (counted modulo the length) of the answer turned over.
    Flip(usize),
    /// These bytes, then the answer.
    Garbage(Vec<u8>),
    /// The request comes back instead of an answer.
    Echo,
    /// The request comes back, then the answer.
    EchoAndAnswer,
    /// The answer of another unit to the same question, then nothing.
    Foreign,
    /// Nothing.
    Drop,
    Exception(u8),
    /// An exception, this much later.
    LateException(u8, Duration),
    /// A well-formed read answer with this many registers, whatever was asked.
    Registers(u8),
    /// The connection is closed instead of an answer.
    Close,
    /// TCP: another transaction id.
    WrongTransaction,
    /// Another unit id in an otherwise right answer.
    WrongUnit,
    /// The answer in single bytes with this pause between them.
    Drip(Duration),
    /// The right answer, and once more this much later.
    Twice(Duration),
    /// Confirms a write without doing it.
    Pretend,
    /// TCP: bytes that are no header.
    NoHeader,
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub unit: u8,
    pub pdu: Vec<u8>,
    pub at: Instant,
}

impl Seen {
    pub fn function(&self) -> u8 {
        self.pdu[0]
    }

    pub fn start(&self) -> u16 {
        u16::from_be_bytes([self.pdu[1], self.pdu[2]])
    }

    pub fn count(&self) -> u16 {
        u16::from_be_bytes([self.pdu[3], self.pdu[4]])
    }
}

type Planner = Box<dyn FnMut(&Seen) -> Fault + Send>;

#[derive(Default)]
struct State {
    registers: HashMap<u16, u16>,
    bits: HashMap<u16, bool>,
    /// With a map: anything else answers exception 2.
    mapped: Option<HashSet<u16>>,
    dead: HashSet<u8>,
    faults: VecDeque<Fault>,
    planner: Option<Planner>,
    think: Duration,
    char_time: Duration,
    seen: Vec<Seen>,
    busy_until: Option<Instant>,
    /// Its path hands nothing on before this, and it does one thing after the other, each taking this long.
    stalled: Option<Instant>,
    turn: Duration,
    refuse_to_open: bool,
    /// Functions that are answered with exception 1.
    unknown: HashSet<u8>,
    /// Every request is sent back before anything else, as two-wire adapters do.
    echoes: bool,
}

/// The handle with which a test commands the fake; also an [`Opener`] that connects a bus to it through memory.
#[derive(Clone)]
pub struct Plc {
    framing: Framing,
    state: Arc<Mutex<State>>,
}

impl Plc {
    pub fn new(framing: Framing) -> Self {
        Self { framing, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics under the lock")
    }

    pub fn set(&self, address: u16, words: &[u16]) {
        let mut state = self.state();
        for (address, word) in (address..).zip(words) {
            state.registers.insert(address, *word);
            if let Some(mapped) = &mut state.mapped {
                mapped.insert(address);
            }
        }
    }

    pub fn register(&self, address: u16) -> u16 {
        self.state().register(address)
    }

    pub fn set_bit(&self, address: u16, on: bool) {
        self.state().bits.insert(address, on);
    }

    pub fn bit(&self, address: u16) -> bool {
        self.state().bits.get(&address).copied().unwrap_or(false)
    }

    /// Only what is set from now on exists.
    pub fn map_nothing(&self) {
        self.state().mapped = Some(HashSet::new());
    }

    /// This register does not exist; all others do.
    pub fn unmap(&self, address: u16) {
        self.state().mapped.get_or_insert_with(|| (0..=u16::MAX).collect()).remove(&address);
    }

    pub fn kill(&self, unit: u8) {
        self.state().dead.insert(unit);
    }

    pub fn revive(&self, unit: u8) {
        self.state().dead.remove(&unit);
    }

    /// What to do to the next answers, one each.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Asked for every answer when no fault is queued.
    pub fn plan(&self, planner: impl FnMut(&Seen) -> Fault + Send + 'static) {
        self.state().planner = Some(Box::new(planner));
    }

    pub fn think(&self, think: Duration) {
        self.state().think = think;
    }

    /// Answers take as long as their bytes at this rate (11 bits a character).
    pub fn baud(&self, baud: u32) {
        self.state().char_time = Duration::from_secs(11) / baud;
    }

    pub fn refuse_to_open(&self, refuse: bool) {
        self.state().refuse_to_open = refuse;
    }

    /// Functions that this device does not have.
    pub fn knows_not(&self, functions: impl IntoIterator<Item = u8>) {
        self.state().unknown.extend(functions);
    }

    /// From now on it is asked over a path that keeps order: what waited while it stalled is answered piece by piece.
    pub fn in_turn(&self, turn: Duration) {
        self.state().turn = turn;
    }

    /// The path stands still.
    pub fn stall(&self, time: Duration) {
        self.state().stalled = Some(Instant::now() + time);
    }

    async fn turn(&self) {
        let (stalled, turn) = {
            let state = self.state();
            (state.stalled, state.turn)
        };
        if let Some(until) = stalled {
            sleep_until(until).await;
        }
        if !turn.is_zero() {
            sleep_until(Instant::now() + turn).await;
        }
    }

    pub fn echo_everything(&self, echoes: bool) {
        self.state().echoes = echoes;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    pub fn forget_seen(&self) {
        self.state().seen.clear();
    }

    /// Serves one connection until it is closed.
    pub async fn serve(self, wire: impl Wire + 'static) {
        let (mut reader, writer) = tokio::io::split(wire);
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let mut inbox = Vec::new();
        loop {
            while let Some((length, header, unit, pdu)) = self.parse(&mut inbox) {
                let request = inbox[..length].to_vec();
                inbox.drain(..length);
                self.turn().await;
                if self.answer(Incoming { request, header, unit, pdu }, &writer).await == Flow::Close {
                    writer.lock().await.shutdown().await.ok();
                    return;
                }
            }
            let mut space = [0; 512];
            match reader.read(&mut space).await {
                Ok(0) | Err(_) => return,
                Ok(count) => inbox.extend_from_slice(&space[..count]),
            }
        }
    }

    /// The next request: its length, its MBAP header, unit and PDU. Skips what is none.
    fn parse(&self, inbox: &mut Vec<u8>) -> Option<(usize, [u8; 4], u8, Vec<u8>)> {
        match self.framing {
            Framing::Ascii | Framing::AsciiOverTcp => loop {
                let end = inbox.iter().position(|byte| *byte == b'\n')? + 1;
                let line = &inbox[..end];
                let digits = line.strip_prefix(b":").and_then(|line| line.strip_suffix(b"\r\n"));
                let bytes: Option<Vec<u8>> = digits.and_then(|digits| digits.chunks(2).map(unhex).collect());
                if let Some(bytes) = bytes.filter(|bytes| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0) {
                    return Some((end, [0; 4], bytes[0], bytes[1..bytes.len() - 1].to_vec()));
                }
                inbox.drain(..end);
            },
            Framing::Tcp | Framing::Udp => {
                let length = 6 + usize::from(u16::from_be_bytes([*inbox.get(4)?, *inbox.get(5)?]));
                let frame = inbox.get(..length)?;
                Some((length, frame[..4].try_into().expect("four"), frame[6], frame[7..].to_vec()))
            }
            Framing::Rtu | Framing::RtuOverTcp | Framing::RtuOverUdp => loop {
                let length = match *inbox.get(1)? {
                    1..=6 => 8,
                    15 | 16 => 9 + usize::from(*inbox.get(6)?),
                    22 => 10,
                    _ => 0,
                };
                let frame = inbox.get(..length)?;
                if length > 0 && crc(&frame[..length - 2]).to_le_bytes() == frame[length - 2..] {
                    return Some((length, [0; 4], frame[0], frame[1..length - 2].to_vec()));
                }
                inbox.remove(0);
            },
        }
    }

    async fn answer<T: Wire + 'static>(&self, incoming: Incoming, writer: &Writer<T>) -> Flow {
        let seen = Seen { unit: incoming.unit, pdu: incoming.pdu.clone(), at: Instant::now() };
        let (fault, dead, think, char_time, echoes) = {
            let mut state = self.state();
            state.seen.push(seen.clone());
            let queued = state.faults.pop_front();
            let planned = || state.planner.as_mut().map(|planner| planner(&seen));
            let fault = queued.or_else(planned).unwrap_or(Fault::None);
            (fault, state.dead.contains(&incoming.unit), state.think, state.char_time, state.echoes)
        };
        if echoes {
            send(writer, &incoming.request).await;
        }
        if dead || fault == Fault::Drop {
            return Flow::GoOn;
        }
        if fault == Fault::Close {
            return Flow::Close;
        }
        let pdu = match &fault {
            Fault::Exception(code) | Fault::LateException(code, _) => vec![incoming.pdu[0] | 0x80, *code],
            Fault::Registers(count) => {
                let mut pdu = vec![incoming.pdu[0], count * 2];
                pdu.resize(2 + usize::from(*count) * 2, 0xEE);
                pdu
            }
            Fault::Pretend => confirm(&incoming.pdu),
            _ => self.state().execute(&incoming.pdu),
        };
        let unit = if matches!(fault, Fault::Foreign | Fault::WrongUnit) { incoming.unit ^ 2 } else { incoming.unit };
        let mut header = incoming.header;
        if fault == Fault::WrongTransaction {
            header[1] ^= 0x55;
        }
        let mut bytes = self.frame(header, unit, &pdu);
        let wire = char_time * u32::try_from(incoming.request.len() + bytes.len()).expect("small");
        let mut at = Instant::now() + think + wire;
        match fault {
            Fault::Late(by) | Fault::LateException(_, by) => at += by,
            Fault::Truncate(length) => bytes.truncate(length % bytes.len()),
            Fault::Flip(bit) => {
                let bit = bit % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Fault::Garbage(garbage) => bytes = [garbage, bytes].concat(),
            Fault::Echo => bytes = incoming.request,
            Fault::EchoAndAnswer if self.framing.is_datagrams() => send(writer, &incoming.request).await,
            Fault::EchoAndAnswer => bytes = [incoming.request, bytes].concat(),
            Fault::NoHeader => bytes = vec![0xAA; 16],
            Fault::Twice(after) => send_at(at + after, writer, bytes.clone()),
            Fault::Drip(pause) => {
                for byte in bytes {
                    sleep_until(at).await;
                    send(writer, &[byte]).await;
                    at += pause;
                }
                return Flow::GoOn;
            }
            _ => {}
        }
        send_at(at, writer, bytes);
        Flow::GoOn
    }

    fn frame(&self, header: [u8; 4], unit: u8, pdu: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        if self.framing.is_numbered() {
            frame.extend(header);
            frame.extend(u16::try_from(pdu.len() + 1).expect("short").to_be_bytes());
        }
        frame.push(unit);
        frame.extend(pdu);
        if self.framing.is_rtu() {
            frame.extend(crc(&frame).to_le_bytes());
        }
        if self.framing.is_ascii() {
            let sum = frame.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            frame.push(0u8.wrapping_sub(sum));
            let digits: Vec<String> = frame.iter().map(|byte| format!("{byte:02X}")).collect();
            frame = format!(":{}\r\n", digits.concat()).into_bytes();
        }
        frame
    }
}

type Writer<T> = Arc<tokio::sync::Mutex<WriteHalf<T>>>;

struct Incoming {
    request: Vec<u8>,
    header: [u8; 4],
    unit: u8,
    pdu: Vec<u8>,
}

#[derive(PartialEq, Eq)]
enum Flow {
    GoOn,
    Close,
}

/// Not one after the other: a late answer must be able to fall into the next question.
fn send_at<T: Wire + 'static>(at: Instant, writer: &Writer<T>, bytes: Vec<u8>) {
    let writer = Arc::clone(writer);
    tokio::spawn(async move {
        sleep_until(at).await;
        send(&writer, &bytes).await;
    });
}

async fn send<T: Wire>(writer: &Writer<T>, bytes: &[u8]) {
    let mut writer = writer.lock().await;
    writer.write_all(bytes).await.ok(); // the bus may have closed
    writer.flush().await.ok();
}

/// What a device says to a write that it did (or says it did).
fn confirm(pdu: &[u8]) -> Vec<u8> {
    pdu[..if pdu[0] == 22 { 7 } else { 5 }].to_vec()
}

impl State {
    fn register(&self, address: u16) -> u16 {
        self.registers.get(&address).copied().unwrap_or(address)
    }

    fn execute(&mut self, pdu: &[u8]) -> Vec<u8> {
        let start = u16::from_be_bytes([pdu[1], pdu[2]]);
        let count = u16::from_be_bytes([pdu[3], pdu[4]]);
        let extent = if matches!(pdu[0], 5 | 6 | 22) { 1 } else { count };
        if self.unknown.contains(&pdu[0]) {
            return vec![pdu[0] | 0x80, 1];
        }
        let exists = |address: u16| self.mapped.as_ref().is_none_or(|mapped| mapped.contains(&address));
        if !(0..extent).all(|offset| start.checked_add(offset).is_some_and(exists)) {
            return vec![pdu[0] | 0x80, 2];
        }
        match pdu[0] {
            1 | 2 => {
                let mut bytes = vec![0; usize::from(count.div_ceil(8))];
                for offset in 0..count {
                    let on = self.bits.get(&(start + offset)).copied().unwrap_or(false);
                    bytes[usize::from(offset / 8)] |= u8::from(on) << (offset % 8);
                }
                [vec![pdu[0], u8::try_from(bytes.len()).expect("fits")], bytes].concat()
            }
            3 | 4 => {
                let words = (0..count).flat_map(|offset| self.register(start + offset).to_be_bytes());
                [vec![pdu[0], u8::try_from(count * 2).expect("fits")], words.collect()].concat()
            }
            5 => {
                self.bits.insert(start, count == 0xFF00);
                confirm(pdu)
            }
            6 => {
                self.registers.insert(start, count);
                confirm(pdu)
            }
            15 => {
                for offset in 0..count {
                    let on = pdu[6 + usize::from(offset / 8)] >> (offset % 8) & 1 == 1;
                    self.bits.insert(start + offset, on);
                }
                confirm(pdu)
            }
            22 => {
                let (and, or) = (count, u16::from_be_bytes([pdu[5], pdu[6]]));
                let held = self.register(start);
                self.registers.insert(start, held & and | or & !and);
                confirm(pdu)
            }
            16 => {
                for (address, word) in (start..).zip(pdu[6..].chunks_exact(2)) {
                    self.registers.insert(address, u16::from_be_bytes([word[0], word[1]]));
                }
                confirm(pdu)
            }
            function => vec![function | 0x80, 1],
        }
    }
}

impl Opener for Plc {
    fn open(&mut self) -> Opening<'_> {
        let open = async {
            if self.state().refuse_to_open {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            if self.framing.is_datagrams() {
                let (near, far) = parcels::pair();
                tokio::spawn(self.clone().serve(far));
                return Ok(Box::new(near) as Box<dyn Wire>);
            }
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(self.clone().serve(far));
            Ok(Box::new(near) as Box<dyn Wire>)
        };
        let open: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(open);
        open
    }
}

fn unhex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// CRC-16/MODBUS, bit by bit: another way than the product's table, so that the two check each other.
pub fn crc(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFFu16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc
}
