//! What a QUIC connection costs: each datagram as it lies in its IP packet. Exact, but for datagrams that this box's own
//! kernel throws away after it took them.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

use crate::model::lock::Hold as _;
use crate::road::meter::Meters;
use crate::road::pace::Pace;

/// IP header without options and UDP header (RFC 791, section 3.1, or RFC 8200, section 3; RFC 768).
const HEADERS: [u64; 2] = [20 + 8, 40 + 8];
/// What a packet adds to the bytes of the stream that it carries, IP and UDP included, and how many it carries at most.
const PACKET_MORE: u64 = 28 + 32;
const PACKET_BYTES: u64 = 1200 - 32;

/// The meters and the pace of one connection.
#[derive(Debug)]
pub(super) struct Account {
    meters: Meters,
    pub(super) pace: Pace,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    sent: u64,
    received: u64,
    /// Sent bytes that the pace has been told of, some of them before they were sent.
    paid: u64,
}

impl Account {
    pub(super) fn new(meters: Meters, pace: Pace) -> Self {
        Self { meters, pace, sums: Mutex::default() }
    }

    /// So many bytes of the stream will be sent. What they cost is charged at once, so that the next ones wait for it.
    pub(super) fn wrote(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.meters.each(|meter| meter.up.add(bytes));
        let cost = bytes + bytes.div_ceil(PACKET_BYTES) * PACKET_MORE;
        self.lock().paid += cost;
        self.pace.spend(cost);
    }

    /// So many bytes of the stream were read.
    pub(super) fn read(&self, bytes: usize) {
        self.meters.each(|meter| meter.down.add(bytes as u64));
    }

    /// Datagrams with so many bytes in all were sent there.
    pub(super) fn sent(&self, to: SocketAddr, bytes: usize, datagrams: usize) {
        let cost = wire(to, bytes, datagrams);
        self.meters.wire(cost, 0);
        let mut sums = self.lock();
        sums.sent += cost;
        let unpaid = sums.sent.saturating_sub(sums.paid);
        sums.paid += unpaid;
        drop(sums);
        self.pace.spend(unpaid);
    }

    /// The connection goes on from another address.
    pub(super) fn moved(&self) {
        self.meters.each(|meter| meter.moves.one());
    }

    /// The same, received.
    pub(super) fn received(&self, from: SocketAddr, bytes: usize, datagrams: usize) {
        let cost = wire(from, bytes, datagrams);
        self.meters.wire(0, cost);
        self.lock().received += cost;
    }

    /// Was something sent, and nothing received at all?
    pub(super) fn is_unheard(&self) -> bool {
        let sums = self.lock();
        sums.sent > 0 && sums.received == 0
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.hold()
    }
}

/// Bytes of the IP packets.
fn wire(peer: SocketAddr, bytes: usize, datagrams: usize) -> u64 {
    bytes as u64 + datagrams as u64 * HEADERS[usize::from(peer.is_ipv6())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn datagrams_cost_their_headers_and_the_pace_is_charged_once() {
        let meters = Meters { road: Arc::default(), way: Some(Arc::default()) };
        let account = Account::new(meters.clone(), Pace::default());
        let (four, six) = (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([1; 8], 1)));
        account.sent(four, 1200, 1);
        account.sent(six, 2000, 2);
        account.received(four, 50, 1);
        let shown = meters.road.snapshot();
        assert_eq!((shown.sent, shown.received), (1228 + 2096, 78));
        assert_eq!(meters.way.as_ref().expect("one").snapshot(), shown);
        account.wrote(100);
        assert_eq!(account.lock().paid, 1228 + 2096 + 160);
        account.sent(four, 132, 1);
        assert_eq!(account.lock().paid, 1228 + 2096 + 160, "was paid for when it was written");
        account.sent(four, 40, 1);
        let Sums { sent, paid, .. } = *account.lock();
        assert_eq!(paid, sent, "a confirmation is charged too");
        assert_eq!(meters.road.up.get(), 100);
    }
}
