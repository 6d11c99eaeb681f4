//! One transaction at a time on one connection, with the silences it needs.
//!
//! Fed by the driver. Promises: the context of the crate is dropped after any error; after a serial timeout the whole
//! line stays quiet for at least the worst response time seen, and the silent unit is not asked again until another
//! response timeout has passed, so that its late answer is over before the next question; so it is after a serial port
//! was opened; a TCP connection survives a silent unit. A network may hold an answer back for longer: what could be mistaken
//! for it is not asked on that connection, which is lost to the question then ([`Session::is_spent`]). Nothing here is
//! cancel-safe but [`Session::settle`]: finish a transaction once begun.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_modbus::client::{Client as _, Context, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext as _};
use tokio_modbus::{Error, Request, Response};

use super::echo::EchoHabit;
use super::exchange::{Heard, Sent, WireEnd};
use super::frame::{EXCEPTION, Expect};
use super::gate::Gate;
use super::timing::{ModbusFraming, Timing};
use super::write::Write;
use crate::config::blocks::{BITS_PER_READ_MAX, REGISTERS_PER_READ_MAX};
use crate::config::plan::AnswersAs;
use crate::field::carrier::Wire;
use crate::field::stats::BusStats;
use crate::flow::timer::Timer;
use crate::model::tag::Table;

/// Added to the worst response time seen: the line's quiet after a timeout.
const QUIET_MARGIN: Duration = Duration::from_millis(20);
/// Data of the longest answer: a PDU without its function and what counts its bytes.
const ANSWER_BYTES_MAX: u32 = 251;

/// Why a transaction has no answer; the variant says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The device answered, with an exception: look at the code.
    #[error("exception {0}")]
    Exception(u8),
    /// Silence: count it against the unit.
    #[error("no answer in time")]
    Timeout,
    /// Something came, but no valid answer: count it against the unit.
    #[error("no valid answer")]
    Protocol,
    /// More registers or bits than one request may have: never sent, never will be.
    #[error("more than one request may carry")]
    TooLong,
    /// The connection is gone: open a new one.
    #[error("connection lost: {error}")]
    Lost {
        /// What the system said.
        error: io::Error,
        /// Whether the device can have seen the request.
        sent: Sent,
    },
}

/// What a read yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Holding or input registers, exactly as many as asked for.
    Registers(Vec<u16>),
    /// Coils or discrete inputs, exactly as many as asked for.
    Bits(Vec<bool>),
}

impl Reading {
    /// How many registers it has; `None`: it is bits.
    pub const fn registers(&self) -> Option<usize> {
        match self {
            Self::Registers(words) => Some(words.len()),
            Self::Bits(_) => None,
        }
    }
}

/// How exactly the pauses of a line are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// By the timers of the runtime: a millisecond, and virtual where time is.
    Runtime,
    /// By a timer of the system: at 115200 baud a millisecond is a tenth of what can be had.
    System,
}

fn read_request(table: Table, start: u16, count: u16) -> Request<'static> {
    match table {
        Table::Holding => Request::ReadHoldingRegisters(start, count),
        Table::Input => Request::ReadInputRegisters(start, count),
        Table::Coil => Request::ReadCoils(start, count),
        Table::Discrete => Request::ReadDiscreteInputs(start, count),
    }
}

/// See [`Expect::answers_like_an_echo`].
fn may_be_its_own_answer(unit: u8, table: Table, start: u16, count: u16) -> bool {
    let function = read_request(table, start, count).function_code().value();
    let [[high, low], [many, few]] = [start, count].map(u16::to_be_bytes);
    Expect::of_request(unit, &[function, high, low, many, few]).is_some_and(Expect::answers_like_an_echo)
}

/// One connection or open port.
pub struct Session {
    gate: Gate,
    context: Option<Context>,
    timing: Timing,
    quiet_until: Instant,
    /// Units that fell silent, and until when they are not to be asked again.
    holds: Vec<(u8, Instant)>,
    worst_response: Option<Duration>,
    last_response: Option<Duration>,
    is_spent: bool,
    timer: Option<Timer>,
    stats: Arc<BusStats>,
}

impl Session {
    /// Over a wire just opened. A serial line is listened to for a response timeout first: whoever asked there before,
    /// such as this program until it was killed, may have left a question whose answer is still to come, and nothing in
    /// it says that it is not ours.
    pub fn new(wire: Box<dyn Wire>, timing: Timing, stats: Arc<BusStats>) -> Self {
        let gate = Gate::new(wire, timing.link(), timing.settle(), Arc::clone(&stats));
        let quiet = if timing.is_numbered() { Duration::ZERO } else { timing.response_timeout().max(timing.pause()) };
        let quiet_until = Instant::now() + quiet;
        Self {
            gate,
            context: None,
            timing,
            quiet_until,
            holds: Vec::new(),
            worst_response: None,
            last_response: None,
            is_spent: false,
            timer: None,
            stats,
        }
    }

    /// With this precision. A system without such a clock has the runtime's.
    #[must_use]
    pub fn waiting(mut self, precision: Precision) -> Self {
        let precise = precision == Precision::System && self.timing.link().line().is_some();
        self.timer = precise.then(|| Timer::new().ok()).flatten();
        self
    }

    /// How long the last answer took; `None`: the last request had none.
    pub const fn last_response(&self) -> Option<Duration> {
        self.last_response
    }

    /// It has refused a question, because an answer that is still owed could be taken for the answer to it ([`super::owed`]):
    /// that one may be asked on another connection.
    pub const fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Under which unit id the next answers may come.
    pub fn expect_from(&self, answers_as: AnswersAs) {
        self.gate.expect_from(answers_as);
    }

    /// Until when this unit is not to be asked, the silence of the line apart.
    pub fn held_until(&self, unit: u8) -> Option<Instant> {
        self.holds.iter().filter(|(held, _)| *held == unit).map(|(_, until)| *until).max()
    }

    /// Until when the line has to be silent, whoever is asked next.
    pub const fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// Waits until this unit may be asked, listening to what the line still has to say. Cancel-safe.
    pub async fn settle(&mut self, unit: u8) -> Result<(), Trouble> {
        let now = Instant::now();
        self.holds.retain(|(_, until)| *until > now);
        let mut deadline = self.held_until(unit).map_or(self.quiet_until, |held| held.max(self.quiet_until));
        let patience = deadline.max(now) + self.timing.response_timeout(); // with a line that never stops babbling
        loop {
            let heard = self.overhear_until(deadline).await;
            heard.map_err(|error| Trouble::Lost { error, sent: Sent::Nothing })?;
            deadline = self.gate.last_heard() + self.timing.pause();
            let now = Instant::now();
            if deadline <= now || now >= patience {
                return Ok(());
            }
        }
    }

    async fn overhear_until(&mut self, deadline: Instant) -> io::Result<()> {
        let Some(timer) = &mut self.timer else {
            return self.gate.overhear_until(deadline).await;
        };
        tokio::select! {
            biased;
            () = timer.at(deadline.into_std()) => Ok(()),
            heard = self.gate.overhear() => heard,
        }
    }

    /// Reads `count` registers or bits. On a line that may echo, nobody knows yet, a read whose answer may look like its echo
    /// goes after one of a single bit, which does not.
    pub async fn read(&mut self, unit: u8, table: Table, start: u16, count: u16) -> Result<Reading, Trouble> {
        let bound = if table.is_bits() { BITS_PER_READ_MAX } else { REGISTERS_PER_READ_MAX };
        if count == 0 || count > bound {
            return Err(Trouble::TooLong);
        }
        if self.must_learn_echo() && may_be_its_own_answer(unit, table, start, count) {
            self.call(unit, read_request(table, start, 1), 1).await?;
        }
        let request = read_request(table, start, count);
        let data = if table.is_bits() { u32::from(count).div_ceil(8) } else { 2 * u32::from(count) };
        let count = usize::from(count);
        match self.call(unit, request, data).await? {
            Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) if words.len() == count => {
                Ok(Reading::Registers(words))
            }
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) if bits.len() >= count => {
                bits.truncate(count);
                Ok(Reading::Bits(bits))
            }
            _ => Err(Trouble::Protocol),
        }
    }

    /// Writes, with the function that the write names.
    pub async fn write(&mut self, unit: u8, write: &Write) -> Result<(), Trouble> {
        let request = write.request().ok_or(Trouble::TooLong)?;
        self.call(unit, request, write.data_bytes()).await.map(drop)
    }

    /// Writes to all units of a serial line at once: nobody answers, the line is given its turnaround.
    pub async fn broadcast(&mut self, write: &Write) -> Result<(), Trouble> {
        const EVERYBODY: u8 = 0;
        let request = write.request().ok_or(Trouble::TooLong)?;
        self.settle(EVERYBODY).await?;
        let mut context = rtu::attach_slave(self.gate.clone(), Slave(EVERYBODY));
        let over = Instant::now() + self.timing.turnaround(write.data_bytes());
        let heard = timeout_at(over, context.call(request)).await;
        let abandoned = self.gate.abandon();
        self.context = None;
        self.quiet_until = over.max(Instant::now() + self.timing.pause());
        match heard {
            Ok(Err(Error::Transport(error))) if abandoned.ended.is_some_and(WireEnd::is_final) => {
                Err(Trouble::Lost { error, sent: abandoned.sent })
            }
            Err(_elapsed) if abandoned.sent != Sent::All => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the request could not be sent");
                Err(Trouble::Lost { error, sent: abandoned.sent })
            }
            _ => Ok(()), // silence, as it should be, or somebody who answers all the same
        }
    }

    /// On a serial line that may echo nobody knows yet whether what looks like the request is the answer.
    pub fn must_learn_echo(&self) -> bool {
        !self.timing.is_numbered() && self.gate.echo_habit() == EchoHabit::Unknown
    }

    async fn call(&mut self, unit: u8, request: Request<'_>, data: u32) -> Result<Response, Trouble> {
        self.settle(unit).await?;
        let gate = &self.gate;
        let framing = self.timing.framing();
        let context = self.context.get_or_insert_with(|| match framing {
            ModbusFraming::Mbap => tcp::attach_slave(gate.clone(), Slave(unit)),
            ModbusFraming::Rtu | ModbusFraming::Ascii => rtu::attach_slave(gate.clone(), Slave(unit)),
        });
        context.set_slave(Slave(unit));
        self.last_response = None;
        let asked = Instant::now();
        let wait = self.timing.wait(self.timing.link().framing.transaction_bytes(data));
        let answer = timeout(wait, context.call(request)).await;
        self.ended(unit, asked, wait, answer)?.map_err(|code| {
            self.stats.exceptions.one();
            Trouble::Exception(code.into())
        })
    }

    /// Asks with a PDU of the caller's own, for functions whose answers say themselves how long they are: the PDU of the
    /// answer.
    pub async fn ask(&mut self, unit: u8, pdu: &[u8]) -> Result<Vec<u8>, Trouble> {
        self.settle(unit).await?;
        let framing = self.timing.framing();
        self.last_response = None;
        let asked = Instant::now();
        let wait = self.timing.wait(self.timing.link().framing.transaction_bytes(ANSWER_BYTES_MAX));
        let answer = timeout(wait, self.gate.ask(framing, unit, pdu)).await;
        let answer = self.ended(unit, asked, wait, answer.map(|answer| answer.map_err(Error::Transport)))?;
        match answer.as_slice() {
            [function, code] if Some(&(function & !EXCEPTION)) == pdu.first() && function & EXCEPTION != 0 => {
                self.stats.exceptions.one();
                Err(Trouble::Exception(*code))
            }
            _ => Ok(answer),
        }
    }

    /// Learns from how a request ended; of an answer, whatever it says, how long it took.
    fn ended<T>(
        &mut self,
        unit: u8,
        asked: Instant,
        wait: Duration,
        answer: Result<Result<T, Error>, Elapsed>,
    ) -> Result<T, Trouble> {
        self.quiet_until = Instant::now() + self.timing.pause();
        match answer {
            Ok(Ok(answer)) => {
                self.last_response = Some(asked.elapsed());
                self.worst_response = self.worst_response.max(self.last_response);
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.give_up(unit, Some(error), asked, wait)),
            Err(_elapsed) => Err(self.give_up(unit, None, asked, wait + wait)),
        }
    }

    /// After anything but an answer: a new context for the next request; silence on a serial line, and for the unit until
    /// what it may still have to say is over: `patience` after the question left.
    fn give_up(&mut self, unit: u8, error: Option<Error>, asked: Instant, patience: Duration) -> Trouble {
        self.context = None;
        let abandoned = self.gate.abandon();
        self.is_spent |= abandoned.ended == Some(WireEnd::Owing);
        if !self.timing.is_numbered() {
            let quiet = self.quiet();
            self.quiet_until = Instant::now() + quiet;
            self.holds.push((unit, abandoned.sent_at.unwrap_or(asked) + patience + quiet));
        }
        match error {
            Some(Error::Transport(error)) if abandoned.ended.is_some_and(WireEnd::is_final) => {
                Trouble::Lost { error, sent: abandoned.sent }
            }
            Some(_) => Trouble::Protocol,
            None if abandoned.sent != Sent::All => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the request could not be sent");
                Trouble::Lost { error, sent: abandoned.sent }
            }
            None => {
                self.stats.timeouts.one();
                match abandoned.heard {
                    Heard::Noise => Trouble::Protocol,
                    Heard::Nothing => Trouble::Timeout,
                }
            }
        }
    }

    /// How long a serial line stays quiet after a failure.
    fn quiet(&self) -> Duration {
        let timeout = self.timing.response_timeout();
        let worst = self.worst_response.map_or(timeout, |worst| worst + worst / 4 + QUIET_MARGIN);
        worst.min(timeout).max(self.timing.pause())
    }
}
