//! The first packet of a caller: a connection that is closed in it does not begin.
//!
//! The library (quinn-proto 0.11.19) takes the goodbye in a packet that begins a connection (RFC 9000, section 10.2), but
//! sets no timer for what is left of it, so that stays for ever, and the port with it: for one datagram, which anybody can
//! send in anybody's name. The key that opens first packets, and nothing else, is ours to give: it does not open these.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use quinn::ConnectionId;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;

/// TLS for those who come.
pub(super) struct Comers(pub(super) Arc<QuicServerConfig>);

impl ServerConfig for Comers {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        let Keys { header, mut packet } = self.0.initial_keys(version, dst_cid)?;
        packet.remote = Box::new(First(packet.remote));
        Ok(Keys { header, packet })
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Arc::clone(&self.0).start_session(version, params)
    }
}

/// Opens a packet in which nobody says goodbye.
struct First(Box<dyn PacketKey>);

impl PacketKey for First {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.0.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)?;
        if is_goodbye(payload) == Some(true) { Err(CryptoError) } else { Ok(()) }
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// Is there a CONNECTION_CLOSE among the frames of an Initial packet (RFC 9000, sections 17.2.2 and 19)? `None`: there are
/// frames that may not be, or half of one, for which the library ends the connection in order.
fn is_goodbye(mut frames: &[u8]) -> Option<bool> {
    while !frames.is_empty() {
        match number(&mut frames)? {
            0x00 | 0x01 => {} // PADDING, PING
            kind @ (0x02 | 0x03) => {
                let (_largest, _delay, ranges) = (number(&mut frames)?, number(&mut frames)?, number(&mut frames)?);
                let counts = if kind == 0x03 { 3 } else { 0 };
                for _ in 0..ranges.checked_mul(2)?.checked_add(1 + counts)? {
                    number(&mut frames)?;
                }
            }
            0x06 => {
                let (_offset, length) = (number(&mut frames)?, number(&mut frames)?);
                frames = frames.get(usize::try_from(length).ok()?..)?;
            }
            0x1c | 0x1d => return Some(true), // of an application: it may not be here, and the library takes it all the same
            _ => return None,
        }
    }
    Some(false)
}

/// A variable-length integer (RFC 9000, section 16).
fn number(from: &mut &[u8]) -> Option<u64> {
    let first = *from.first()?;
    let bytes = 1 << (first >> 6);
    let mut rest = from.split_off(..bytes)?;
    let all = rest.get_uint(bytes);
    Some(all & (u64::MAX >> (66 - 8 * bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRYPTO: &[u8] = &[0x06, 0x00, 0x40, 0x05, 1, 2, 3, 0x1c, 5];
    const ACK: &[u8] = &[0x02, 0x40, 0x99, 0x00, 0x01, 0x00, 0x1c, 0x1c];
    const ACK_OF_CONGESTION: &[u8] = &[0x03, 0x07, 0x00, 0x00, 0x07, 0x1c, 0x1c, 0x1c];
    const CLOSE: &[u8] = &[0x1c, 0x00, 0x00, 0x00];

    #[test]
    fn a_goodbye_is_found_behind_all_that_may_stand_in_a_first_packet_and_nowhere_else() {
        let before = [&[0x00, 0x01][..], CRYPTO, ACK, ACK_OF_CONGESTION, &[0x00; 40]].concat();
        assert_eq!(is_goodbye(&before), Some(false));
        assert_eq!(is_goodbye(&[&before, CLOSE].concat()), Some(true));
        assert_eq!(is_goodbye(CLOSE), Some(true));
        assert_eq!(is_goodbye(&[0x40, 0x1c]), Some(true), "a number that is longer than it need be");
        assert_eq!(is_goodbye(&[0x1d, 0x00, 0x00]), Some(true), "of an application");
        assert_eq!(is_goodbye(&[0x1e]), None);
    }

    #[test]
    fn half_of_a_frame_is_no_goodbye() {
        for frame in [CRYPTO, ACK, ACK_OF_CONGESTION] {
            for end in 1..frame.len() {
                assert_eq!(is_goodbye(&frame[..end]), None, "{frame:x?} up to {end}");
            }
        }
        let (endless, huge) = ([0x02, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0xff; 8]);
        assert_eq!(is_goodbye(&endless), None);
        assert_eq!(is_goodbye(&[&[0x06, 0x00][..], &huge].concat()), None);
    }

    #[test]
    fn numbers_are_those_of_the_standard() {
        // RFC 9000, appendix A.1
        let told: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (mut bytes, wanted) in told {
            assert_eq!(number(&mut bytes), Some(wanted));
            assert!(bytes.is_empty());
        }
    }
}
