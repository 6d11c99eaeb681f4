//! What the broker counts, for `$SYS`, the status page and the tests.

use crate::model::stats::{Counter, Gauge};

/// Counters since start, and a few numbers as they are now.
#[derive(Debug, Default)]
pub struct BrokerStats {
    /// Clients connected now.
    pub clients: Gauge,
    /// Most clients that were connected at once.
    pub clients_max: Gauge,
    /// Sessions that are kept for clients which are not connected now.
    pub sessions_away: Gauge,
    /// Kept sessions whose client did not come back in time.
    pub sessions_expired: Counter,
    /// Subscriptions now.
    pub subscriptions: Gauge,
    /// Subscriptions of lasting sessions that were on disk at start, and found no room.
    pub subscriptions_left_out: Counter,
    /// Retained messages now.
    pub retained: Gauge,
    /// Retained messages of clients dropped: their topics have become the gateway's, or they may be older than what nobody
    /// could note.
    pub retained_dropped: Counter,
    /// Connections taken in.
    pub connections: Counter,
    /// Callers by QUIC that were asked to prove their address first, because many came at once.
    pub asked_for_proof: Counter,
    /// Connections turned away at the limit, or because nothing sensible came in time.
    pub turned_away: Counter,
    /// CONNECTs that came, good or bad.
    pub connects: Counter,
    /// CONNECTs refused.
    pub connects_refused: Counter,
    /// Packets of any kind from clients.
    pub packets_received: Counter,
    /// Packets of any kind to clients.
    pub packets_sent: Counter,
    /// Bytes from clients.
    pub bytes_received: Counter,
    /// Bytes to clients.
    pub bytes_sent: Counter,
    /// PUBLISH from clients.
    pub publishes_received: Counter,
    /// PUBLISH to clients.
    pub publishes_sent: Counter,
    /// Payload bytes of PUBLISH from clients.
    pub publish_bytes_received: Counter,
    /// Payload bytes of PUBLISH to clients.
    pub publish_bytes_sent: Counter,
    /// Tag values that a newer one replaced before a slow client took them.
    pub conflated: Counter,
    /// Messages lost to clients that were disconnected for reading too slowly.
    pub dropped_slow: Counter,
    /// Messages longer than a client's Maximum Packet Size.
    pub dropped_too_large: Counter,
    /// Messages that found no room among what their session is owed, or no disk that works: those that their clients are not
    /// known to have taken. And long ones at QoS 0 while too much waits for all clients.
    pub dropped_full: Counter,
    /// Messages that were owed to a session when it ended, or left by a member of a shared group that has no other.
    pub dropped_ended: Counter,
    /// Messages that expired before they could be sent.
    pub dropped_expired: Counter,
    /// Publishes of clients refused: no right to write there, the topic is the gateway's, or a limit.
    pub publishes_refused: Counter,
    /// Connections ended for malformed packets or protocol errors.
    pub faults: Counter,
    /// Doors that speak MQTT-SN.
    pub sensors: SensorStats,
}

/// What doors that speak MQTT-SN count besides.
#[derive(Debug, Default)]
pub struct SensorStats {
    /// Clients that sleep now.
    pub asleep: Gauge,
    /// Datagrams from sensors, whatever is in them.
    pub received: Counter,
    /// Datagrams to sensors.
    pub sent: Counter,
    /// Those that are no message of MQTT-SN.
    pub bad: Counter,
    /// Messages of somebody who is not connected.
    pub strangers: Counter,
    /// Messages that found their client too busy; whoever sent them sends them again.
    pub crowded: Counter,
    /// Messages sent again because no answer came.
    pub repeated: Counter,
    /// Clients that did not answer any more.
    pub lost: Counter,
    /// Messages that a sensor did not take, or that went at QoS 0 with its connection before it heard again.
    pub refused: Counter,
    /// Publishes at QoS −1 that were handed to the broker; what rules refuse of them is in [`BrokerStats::publishes_refused`].
    pub unasked: Counter,
    /// Publishes at QoS −1 that were not.
    pub unasked_refused: Counter,
}

impl BrokerStats {
    /// Everything that did not reach a client it was meant for.
    pub fn dropped(&self) -> u64 {
        let slow = self.conflated.get() + self.dropped_slow.get() + self.dropped_too_large.get();
        slow + self.dropped_expired.get() + self.dropped_full.get() + self.dropped_ended.get()
    }
}
