//! A line that dials in: a serial server that connects to the gateway, and again whenever the connection ends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behind::{Behind, Presence, Then};
use super::conversation::converse;
use crate::config::plan::Framing;

/// Between two calls.
const REDIAL: Duration = Duration::from_millis(500);

/// A dialling line. Dropping it hangs up.
#[derive(Debug)]
pub struct DialLine {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl DialLine {
    /// Serves somebody to whoever listens there, as soon as anyone does. Must be called within a tokio runtime.
    pub fn serve(framing: Framing, to: SocketAddr, behind: impl Behind + 'static) -> Self {
        let line = Self { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let stop = line.stop.clone();
        line.tasks.spawn(async move {
            let _ = stop.run_until_cancelled(dial(framing, to, &behind)).await;
        });
        line
    }

    /// Hangs up and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for DialLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn dial(framing: Framing, to: SocketAddr, behind: &dyn Behind) -> ! {
    loop {
        // While nobody listens, one call in some 28 000 gets the called port as its own and reaches itself.
        if *behind.presence().borrow() != Presence::Away
            && let Ok(mut stream) = TcpStream::connect(to).await
            && stream.local_addr().is_ok_and(|own| own != to)
            && stream.set_nodelay(true).is_ok()
            && let Ok(Then::Reset) = converse(&mut stream, framing, behind).await
        {
            let _ = stream.set_zero_linger(); // it ended, one way or the other: dial again
        }
        sleep(REDIAL).await;
    }
}
