//! The end of a connection. A socket brings over what was said last by itself; a QUIC connection that is closed forgets it,
//! so it is held until the other side has confirmed all of it, or a time is over.

use std::pin::Pin;
use std::time::Duration;

use quinn::{Connection, SendStream, StoppedError, VarInt};
use tokio::time::timeout;

/// Somebody who may go.
pub struct Leaving {
    connection: Connection,
    delivered: Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>,
}

impl Leaving {
    pub(super) fn new(connection: &Connection, send: &SendStream) -> Self {
        Self { connection: connection.clone(), delivered: Box::pin(send.stopped()) }
    }

    /// The stream is over: waits until the other side has all of it, `most` so long, and closes the connection. Cancel-safe:
    /// it is closed then too.
    pub async fn depart(self, most: Duration) {
        if self.connection.close_reason().is_none() {
            drop(timeout(most, self.delivered).await);
            self.connection.close(VarInt::from_u32(0), b"");
        }
    }
}
