//! Modbus TCP server side: MBAP frames (Modbus Messaging on TCP/IP V1.0b, 3.1.3) around [`super::pdu`].
//!
//! Each connection answers in the order of due times, not of arrival: a late unit does not hold up its neighbours. Every
//! connection ends when its client leaves or when the server is stopped; their number is bounded.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pdu;
use super::units::{Answer, Condition, Units};

/// Connections at a time; one more is closed at once, as a small PLC does.
const CONNECTIONS_MAX: usize = 32;

/// Replies of one connection that wait for their time; one more is dropped.
const WAITING_MAX: usize = 16;

/// Transaction id, protocol id, length, unit id.
const HEADER: usize = 7;

/// Largest length field: unit id and a PDU of 253 bytes.
const LENGTH_MAX: usize = 254;

/// A listening Modbus TCP line. Dropping it closes the door and all connections.
#[derive(Debug)]
pub struct TcpLine {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TcpLine {
    /// Serves the units at an address (port 0: the system chooses).
    pub async fn serve(listen: SocketAddr, units: Units) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let line = Self { address: listener.local_addr()?, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (stop, tasks) = (line.stop.clone(), line.tasks.clone());
        line.tasks.spawn(async move {
            let _ = stop.clone().run_until_cancelled_owned(accept(listener, units, stop, tasks)).await;
        });
        Ok(line)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the door and all connections, and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for TcpLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, units: Units, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            // The tracker also counts this task.
            Ok((stream, _)) if tasks.len() <= CONNECTIONS_MAX => {
                let (units, stop) = (units.clone(), stop.clone());
                tasks.spawn(async move {
                    let _ = stop.run_until_cancelled_owned(converse(stream, units)).await;
                });
            }
            Ok((refused, _)) => drop(refused),
            // Out of file descriptors, most likely: let others finish first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

/// One connection until its client leaves or sends what is no Modbus.
async fn converse(stream: TcpStream, units: Units) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let (replies, mut due) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let write = async {
        while let Some(frame) = due.recv().await {
            writer.write_all(&frame).await?;
        }
        Ok(())
    };
    let read = async {
        while let Some((header, request)) = next_request(&mut reader).await? {
            answer(&units, header, &request, &replies);
        }
        drop(replies);
        io::Result::Ok(())
    };
    tokio::try_join!(read, write).map(|_: ((), ())| ())
}

/// The next frame; `None` when the client has left.
async fn next_request(reader: &mut OwnedReadHalf) -> io::Result<Option<([u8; HEADER], Vec<u8>)>> {
    let mut header = [0u8; HEADER];
    if let Err(error) = reader.read_exact(&mut header).await {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2..4] != [0, 0] || !(2..=LENGTH_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut request = vec![0u8; length - 1];
    reader.read_exact(&mut request).await?;
    Ok(Some((header, request)))
}

/// Hands the reply, if there is one, to the writer: now or when it is due.
fn answer(units: &Units, header: [u8; HEADER], request: &[u8], replies: &mpsc::Sender<Vec<u8>>) {
    let unit_id = header[6];
    let (after, pdu, condition) = match units.answer(unit_id, request) {
        Answer::Reply(reply) => (reply.after, reply.pdu, reply.condition),
        Answer::Silence => return,
        Answer::Nobody => {
            let function = request.first().copied().unwrap_or(0);
            (std::time::Duration::ZERO, pdu::exception(function, pdu::TARGET_SILENT), Condition::Sound)
        }
    };
    let mut frame = header.to_vec();
    if condition == Condition::Damaged {
        frame[0] ^= 0x80;
    }
    let length = u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX);
    frame[4..6].copy_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&pdu);
    let Ok(place) = replies.clone().try_reserve_owned() else { return units.stats().dropped.one() };
    units.stats().replies.one();
    if after.is_zero() {
        place.send(frame);
    } else {
        // Holds one of the WAITING_MAX places, so these are as bounded as the queue; ends by itself.
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            place.send(frame);
        });
    }
}
