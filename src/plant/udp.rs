//! A line on UDP, server side: a datagram in, a datagram out, to whoever asked.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behind::{Behind, Presence, Utterance};
use super::conversation::{WAITING_MAX, post};
use super::frames::{FRAME_MAX, Frames};
use crate::config::plan::Framing;

/// A bound line. Dropping it closes the socket.
#[derive(Debug)]
pub struct UdpLine {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl UdpLine {
    /// Serves somebody at an address (port 0: the system chooses). Without connections nothing can be closed or reset: that
    /// is silence here.
    pub async fn serve(framing: Framing, listen: SocketAddr, behind: impl Behind + 'static) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen).await?;
        let line = Self { address: socket.local_addr()?, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let stop = line.stop.clone();
        line.tasks.spawn(async move {
            let (said, due) = mpsc::channel(WAITING_MAX);
            let talk = async { tokio::join!(listen_on(&socket, framing, &behind, said), speak(&socket, due)) };
            stop.run_until_cancelled(talk).await;
        });
        Ok(line)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the socket and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for UdpLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen_on(
    socket: &UdpSocket,
    framing: Framing,
    behind: &dyn Behind,
    said: mpsc::Sender<(Utterance, SocketAddr)>,
) -> ! {
    let mut buffer = [0u8; FRAME_MAX];
    loop {
        // An error here is the ICMP echo of a client that has gone.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        if *behind.presence().borrow() == Presence::Away {
            continue;
        }
        let mut frames = Frames::new(framing);
        frames.take(&buffer[..count]);
        let request = frames.request().ok().flatten().or_else(|| frames.pause().0);
        match request {
            Some(request) => {
                for utterance in behind.hear(framing, &request) {
                    post(&said, utterance.after, (utterance, from), behind);
                }
            }
            None => behind.stats().dropped.add(count as u64),
        }
    }
}

/// Each piece is a datagram.
async fn speak(socket: &UdpSocket, mut due: mpsc::Receiver<(Utterance, SocketAddr)>) {
    while let Some((utterance, to)) = due.recv().await {
        for piece in &utterance.pieces {
            if !piece.pause.is_zero() {
                sleep(piece.pause).await;
            }
            let _ = socket.send_to(&piece.bytes, to).await; // whoever asked may have gone
        }
    }
}
