//! One connection at work: requests in, utterances out when they are due, whatever carries the bytes.
//!
//! Utterances leave in the order of due times, not of arrival: a late unit does not hold up its neighbours. What waits is
//! bounded; what finds no place is dropped and counted.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::behind::{Behind, Presence, Then, Utterance};
use super::frames::{FRAME_MAX, Frames, Request};
use crate::config::plan::Framing;

/// Utterances of one line that wait for their time; one more is dropped.
pub(super) const WAITING_MAX: usize = 16;
/// A frame that has begun must go on within this time, where nothing else tells its end: half a request of a killed client
/// hurts nobody.
pub(super) const FRAME_PAUSE: Duration = Duration::from_millis(50);

/// Hands something to whoever writes: now, or when it is due.
pub(super) fn post<T: Send + 'static>(due: &mpsc::Sender<T>, after: Duration, said: T, behind: &dyn Behind) {
    let Ok(place) = due.clone().try_reserve_owned() else { return behind.stats().dropped.one() };
    behind.stats().replies.one();
    if after.is_zero() {
        place.send(said);
    } else {
        // Holds one of the WAITING_MAX places, so these are as bounded as the queue; ends by itself.
        tokio::spawn(async move {
            sleep(after).await;
            place.send(said);
        });
    }
}

/// Waits until connections have to end. Cancel-safe.
pub(super) async fn ended(presence: &mut watch::Receiver<Presence>, begun: Presence) {
    if presence.wait_for(|now| *now != begun).await.is_err() {
        std::future::pending::<()>().await; // nobody is left who could say so
    }
}

/// Why both directions of a connection ended.
enum End {
    Error(io::Error),
    Then(Then),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// One connection until its client leaves, sends what is no Modbus, or it has to end; how the caller is to end it.
pub(super) async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    framing: Framing,
    behind: &dyn Behind,
) -> io::Result<Then> {
    let mut presence = behind.presence();
    let begun = *presence.borrow_and_update();
    if begun == Presence::Away {
        return Ok(Then::Reset);
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (said, mut due) = mpsc::channel::<Utterance>(WAITING_MAX);
    let write = async {
        while let Some(utterance) = due.recv().await {
            for piece in &utterance.pieces {
                if !piece.pause.is_zero() {
                    sleep(piece.pause).await;
                }
                writer.write_all(&piece.bytes).await?;
                writer.flush().await?;
            }
            if utterance.then != Then::Stay {
                return Err(End::Then(utterance.then));
            }
        }
        Ok(())
    };
    let read = async {
        listen(&mut reader, framing, behind, &said).await?;
        drop(said);
        Ok(())
    };
    let talk = async { tokio::try_join!(read, write) };
    let then = tokio::select! {
        () = ended(&mut presence, begun) => Then::Reset,
        talked = talk => match talked {
            Ok(_) => return Ok(Then::Stay),
            Err(End::Error(error)) => return Err(error),
            Err(End::Then(then)) => then,
        },
    };
    if then == Then::Mute {
        let mut unheard = [0u8; FRAME_MAX];
        while reader.read(&mut unheard).await? > 0 {}
    }
    Ok(then)
}

async fn listen(
    reader: &mut (impl AsyncRead + Unpin),
    framing: Framing,
    behind: &dyn Behind,
    said: &mpsc::Sender<Utterance>,
) -> io::Result<()> {
    let mut frames = Frames::new(framing);
    let mut buffer = [0u8; FRAME_MAX];
    loop {
        let is_over = framing == Framing::Rtu && !frames.is_empty();
        match timeout(if is_over { FRAME_PAUSE } else { Duration::MAX }, reader.read(&mut buffer)).await {
            Ok(count) => match count? {
                0 => return Ok(()),
                count => frames.take(&buffer[..count]),
            },
            Err(_) => {
                let (request, dropped) = frames.pause();
                behind.stats().dropped.add(dropped as u64);
                if let Some(request) = request {
                    answer(behind, framing, &request, said);
                }
            }
        }
        while let Some(request) = frames.request()? {
            answer(behind, framing, &request, said);
        }
        behind.stats().dropped.add(frames.overflow() as u64);
    }
}

fn answer(behind: &dyn Behind, framing: Framing, request: &Request, said: &mpsc::Sender<Utterance>) {
    for utterance in behind.hear(framing, request) {
        post(said, utterance.after, utterance, behind);
    }
}
