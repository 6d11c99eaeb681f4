//! The compressed form of a payload, as Tahu has it: another payload in `body`, `uuid` [`UUID`], the algorithm in a metric.
//! It is in no chapter of the specification, so nothing is sent so unless it is asked for.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::GzEncoder;

/// `Payload.uuid` of a compressed one.
pub(super) const UUID: &str = "SPBV1.0_COMPRESSED";
/// RFC 1952.
pub(super) const GZIP: &str = "GZIP";
/// RFC 1950, although it is called so; what is meant where no algorithm is named.
pub(super) const DEFLATE: &str = "DEFLATE";

/// The whole of it in one member.
pub(super) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::with_capacity(plain.len() / 2), Compression::default());
    packer.write_all(plain).expect("memory takes everything");
    packer.finish().expect("memory takes everything")
}

/// Unpacks at most `bytes_max`; `None` for more, for damage and for another algorithm.
pub(super) fn unpack(body: &[u8], algorithm: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = u64::try_from(bytes_max).ok()? + 1;
    match algorithm {
        GZIP => GzDecoder::new(body).take(limit).read_to_end(&mut plain).ok()?,
        DEFLATE => ZlibDecoder::new(body).take(limit).read_to_end(&mut plain).ok()?,
        _ => return None,
    };
    (plain.len() <= bytes_max).then_some(plain)
}
