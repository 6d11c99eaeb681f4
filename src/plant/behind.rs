//! Whoever is behind a line: hears requests, says when it says what, and what becomes of the connection then.
//!
//! Asked by every line, whatever carries it; answered by simulated units ([`super::units`]) and by a recording
//! ([`super::playback`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::frames::Request;
use super::units::LineStats;
use crate::config::plan::Framing;

/// Somebody behind a line.
pub trait Behind: fmt::Debug + Send + Sync {
    /// What a request leads to, each at its time.
    fn hear(&self, framing: Framing, request: &Request) -> Vec<Utterance>;

    /// Counters.
    fn stats(&self) -> &LineStats;

    /// Whether anybody can be reached now.
    fn presence(&self) -> watch::Receiver<Presence>;
}

impl<T: Behind + ?Sized> Behind for Arc<T> {
    fn hear(&self, framing: Framing, request: &Request) -> Vec<Utterance> {
        (**self).hear(framing, request)
    }

    fn stats(&self) -> &LineStats {
        (**self).stats()
    }

    fn presence(&self) -> watch::Receiver<Presence> {
        (**self).presence()
    }
}

/// Whether a line can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Yes. With another number all connections end once, and new ones are taken.
    Here(u64),
    /// No: connections are reset and refused, a serial adapter is unplugged.
    Away,
}

/// What is said in answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// When it begins, from the request.
    pub after: Duration,
    /// The bytes.
    pub pieces: Vec<Piece>,
    /// What becomes of the connection.
    pub then: Then,
}

/// Bytes without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Before it.
    pub pause: Duration,
    /// They.
    pub bytes: Vec<u8>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It stays.
    Stay,
    /// It is closed in order.
    HangUp,
    /// It is reset.
    Reset,
    /// It stays, and nothing more is ever heard or said on it.
    Mute,
    /// A serial adapter is pulled, and plugged in again after this long.
    Unplug(Duration),
}

impl Utterance {
    /// A frame at once, or after a while.
    pub fn frame(after: Duration, bytes: Vec<u8>) -> Self {
        Self { after, pieces: vec![Piece { pause: Duration::ZERO, bytes }], then: Then::Stay }
    }

    /// Nothing but an end.
    pub const fn end(then: Then) -> Self {
        Self { after: Duration::ZERO, pieces: Vec::new(), then }
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }
}
