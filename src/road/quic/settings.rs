//! What both ends ask of the library. Made for links that are slow, far and paid by the byte, and for boxes with little
//! memory: all windows are small, nothing is sent that need not be.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use rand::RngCore;

/// Before a round trip was measured. A first packet is repeated after three of these: not before a satellite can have
/// answered (2 s), for it is padded to 1200 bytes (RFC 9000, section 14.1), and repeated twice.
const FIRST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Bytes that may be on their way to us unread.
const COMING_BYTES_MAX: u32 = 64 << 10;
/// Bytes that may wait for their first transmission beside what is under way: as over TCP, what is urgent must not stand
/// behind minutes of backlog.
pub(super) const NOT_SENT_MAX: u64 = 16 << 10;
/// Bytes unconfirmed or unsent, at most: of an uplink (8 Mbit/s at a round trip of 1 s) …
pub(super) const UP_BYTES_MAX: u64 = 1 << 20;
/// … and of each client of a listener.
pub(super) const DOWN_BYTES_MAX: u64 = 256 << 10;
/// An uplink has gone silent after its keep alive and a half, as MQTT has it (3.1.2.10), and this.
const GRACE: Duration = Duration::from_secs(30);
/// A client without a keep alive, or with a long one, is asked this often whether it is still there …
const ASK_EVERY: Duration = Duration::from_secs(600);
/// … and has gone when this long nothing came: its place is for others.
const GONE_AFTER: Duration = Duration::from_secs(1800);
/// Connection ids of a listener, bytes: so many that nobody guesses one.
const ID_BYTES: usize = 8;

/// Of connections that we begin.
pub(super) fn going(keep_alive: Duration) -> TransportConfig {
    let mut transport = both(keep_alive + keep_alive / 2 + GRACE);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0)).send_window(UP_BYTES_MAX);
    // One datagram per write: counted as it is, and lost alone.
    transport.enable_segmentation_offload(false);
    transport
}

/// Of connections that come to us.
pub(super) fn coming() -> TransportConfig {
    let mut transport = both(GONE_AFTER);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1)).send_window(DOWN_BYTES_MAX);
    transport.keep_alive_interval(Some(ASK_EVERY));
    transport
}

fn both(silence: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let window = VarInt::from_u32(COMING_BYTES_MAX);
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window)
        .receive_window(window)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(silence).ok())
        // Looking for larger packets costs some of them, at each connection; 1200 bytes fit everywhere.
        .mtu_discovery_config(None)
        .initial_rtt(FIRST_ROUND_TRIP)
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    transport
}

/// Of an endpoint that connects: it has one connection and needs no ids for its own side, in any packet.
pub(super) fn client() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(Ids(0)));
    config
}

/// Of an endpoint that is connected to; `seed` outlives the process, so that clients of an earlier one can be told that
/// their connections are gone (RFC 9000, section 10.3).
pub(super) fn server(seed: &[u8]) -> EndpointConfig {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, seed);
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(Ids(ID_BYTES)));
    config
}

/// Random ids of so many bytes.
#[derive(Debug)]
struct Ids(usize);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        ConnectionId::new(&bytes[..self.0])
    }

    fn cid_len(&self) -> usize {
        self.0
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
