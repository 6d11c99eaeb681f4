//! Bytes on the wire: what the operator of the link counts, IP and TCP headers, handshakes and repetitions included.
//!
//! The kernel's own count of each connection is the measure (`kernel`); what passed since it was last asked, and everything
//! on a kernel that does not tell, is worked out from the sizes of reads and writes. Not counted: DNS, and anything below
//! IP. [`Meter::snapshot`] is at most a second old while connected.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::destination::Bind;
use super::kernel::{self, Asker, Farewell};
use super::socket::{interface_index, syns};
use crate::model::stats::Counter;

/// Payload of a full segment: an Ethernet frame's 1500 bytes less 52.
const SEGMENT: u64 = 1448;

/// Bytes of all connections that are counted here: of a road, or of one way to go it.
#[derive(Debug, Default)]
pub struct Meter {
    /// Payload of TCP handed to the kernel: TLS included, headers not. Exact at every moment.
    pub up: Counter,
    /// Payload of TCP received.
    pub down: Counter,
    /// How often a QUIC connection went on from another address of this box.
    pub moves: Counter,
    sent: Counter,
    received: Counter,
}

/// What a meter shows; only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterReading {
    /// Bytes of IP packets sent.
    pub sent: u64,
    /// Bytes of IP packets received.
    pub received: u64,
}

impl MeterReading {
    /// Both directions.
    pub fn total(self) -> u64 {
        self.sent + self.received
    }
}

impl Meter {
    /// Wire bytes so far, over all connections. Cheap.
    pub fn snapshot(&self) -> MeterReading {
        MeterReading { sent: self.sent.get(), received: self.received.get() }
    }
}

/// The road's meter, and that of the way it takes at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Meters {
    pub(super) road: Arc<Meter>,
    pub(super) way: Option<Arc<Meter>>,
}

impl Meters {
    pub(super) fn each(&self, count: impl Fn(&Meter)) {
        count(&self.road);
        self.way.iter().for_each(|way| count(way));
    }

    pub(super) fn wire(&self, sent: u64, received: u64) {
        self.each(|meter| {
            meter.sent.add(sent);
            meter.received.add(received);
        });
    }

    /// A connect that failed after so long: SYNs without an answer, or one answered by a RST (40 or 60 bytes).
    pub(super) fn no_connection(&self, to: IpAddr, lasted: Duration, answered: Answered) {
        let refusal = kernel::header(to) - 12;
        let received = if answered == Answered::No { 0 } else { refusal };
        self.wire(syns(lasted) * kernel::syn(to), received);
    }
}

/// Whether somebody answered a connect that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Yes,
    No,
}

/// Counts one connection.
pub(super) struct Tap {
    meters: Meters,
    asker: Option<Asker>,
    /// The kernel's last word.
    known: MeterReading,
    /// Estimated, since then.
    since: MeterReading,
    /// What of both the meters have been told.
    told: MeterReading,
    /// Payload that we have written and read.
    up: u64,
    down: u64,
    /// Payload that the kernel had counted, and we not yet read, at its last word.
    unread: u64,
    farewell: Farewell,
    header: u64,
    /// We have sent our FIN, or are about to.
    shut: bool,
}

impl Tap {
    /// Begins with a connection that has just been made.
    pub(super) fn new(stream: &TcpStream, bind: &Bind, meters: Meters) -> Self {
        let ends = stream.local_addr().and_then(|local| Ok((local, stream.peer_addr()?))).ok();
        let asker = ends.and_then(|(local, remote)| Asker::new(local, remote, interface_index(stream, bind)));
        let ip = ends.map_or(IpAddr::from([0, 0, 0, 0]), |(local, _)| local.ip());
        let mut tap = Self::begun(ip, meters, asker);
        tap.settle();
        tap
    }

    /// The three-way handshake is done.
    fn begun(ip: IpAddr, meters: Meters, asker: Option<Asker>) -> Self {
        let (syn, header) = (kernel::syn(ip), kernel::header(ip));
        Self {
            meters,
            asker,
            known: MeterReading::default(),
            since: MeterReading { sent: syn + header, received: syn },
            told: MeterReading::default(),
            up: 0,
            down: 0,
            unread: 0,
            farewell: Farewell { out: 2, back: 2 },
            header,
            shut: false,
        }
    }

    /// What so much payload costs, and what its acknowledgements do: of every second segment (RFC 9293, section 3.8.6.3).
    fn cost(&self, payload: u64) -> (u64, u64) {
        let segments = payload.div_ceil(SEGMENT);
        (payload + segments * self.header, segments.div_ceil(2) * self.header)
    }

    /// The kernel took so many bytes; what they cost on the wire, as far as that can be said now.
    pub(super) fn wrote(&mut self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.meters.each(|meter| meter.up.add(bytes));
        self.up += bytes;
        let (cost, acknowledged) = self.cost(bytes);
        self.since.sent += cost;
        self.since.received += acknowledged;
        cost
    }

    /// So many bytes came.
    pub(super) fn read(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.meters.each(|meter| meter.down.add(bytes));
        self.down += bytes;
        let counted = bytes.min(self.unread);
        self.unread -= counted;
        let (cost, acknowledged) = self.cost(bytes - counted);
        self.since.received += cost;
        if self.shut {
            // What still comes acknowledges our FIN, and is itself acknowledged together with theirs.
            self.farewell.back = self.farewell.back.min(1);
        } else {
            self.since.sent += acknowledged;
        }
    }

    /// Our FIN is the next to be sent. Call it after [`Tap::settle`]: once both sides are done, the kernel forgets.
    pub(super) fn shut(&mut self) {
        self.shut = true;
    }

    /// Asks the kernel and tells the meters. Returns all that has been sent so far.
    pub(super) fn settle(&mut self) -> u64 {
        if let Some(counted) = self.asker.as_ref().and_then(Asker::ask) {
            self.known = MeterReading { sent: counted.sent, received: counted.received };
            (self.farewell, self.header) = (counted.farewell, counted.header);
            self.unread = counted.down.saturating_sub(self.down);
            let (sent, received) = self.cost(self.up.saturating_sub(counted.up)); // waits in the kernel
            self.since = MeterReading { sent, received };
        }
        let (sent, received) = (self.known.sent + self.since.sent, self.known.received + self.since.received);
        self.meters.wire(sent.saturating_sub(self.told.sent), received.saturating_sub(self.told.received));
        self.told = MeterReading { sent: sent.max(self.told.sent), received: received.max(self.told.received) };
        sent
    }
}

impl Drop for Tap {
    /// The connection is about to be closed.
    fn drop(&mut self) {
        self.settle();
        self.meters.wire(self.farewell.out * self.header, self.farewell.back * self.header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_kernel_the_sizes_of_reads_and_writes_give_an_estimate() {
        let meters = Meters { road: Arc::default(), way: Some(Arc::default()) };
        let mut tap = Tap::begun(IpAddr::from([10, 0, 0, 1]), meters.clone(), None);
        assert_eq!(tap.wrote(10_000), 10_000 + 7 * 52);
        tap.read(100);
        tap.settle();
        let expected = MeterReading { sent: 112 + 10_364 + 52, received: 60 + 4 * 52 + 152 };
        assert_eq!(meters.road.snapshot(), expected);
        assert_eq!(meters.way.as_ref().expect("one").snapshot(), expected);
        drop(tap);
        assert_eq!(meters.road.snapshot().total(), expected.total() + 4 * 52);
        assert_eq!((meters.road.up.get(), meters.road.down.get()), (10_000, 100));
    }

    #[test]
    fn connects_that_fail_are_paid_for_too() {
        let meters = Meters::default();
        let v4 = IpAddr::from([10, 0, 0, 1]);
        meters.no_connection(v4, Duration::from_secs(20), Answered::No);
        assert_eq!(meters.road.snapshot(), MeterReading { sent: 5 * 60, received: 0 });
        meters.no_connection(v4, Duration::ZERO, Answered::Yes);
        assert_eq!(meters.road.snapshot(), MeterReading { sent: 6 * 60, received: 40 });
    }
}
