//! Frames as clients cut them, nonsense, floods.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 0x80, 0, 0xFF];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(MASKED | u8::try_from(length).expect("small")),
        length @ 126..=0xFFFF => {
            bytes.push(MASKED | 0x7E);
            bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
        }
        length => {
            bytes.push(MASKED | 0x7F);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn sent() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_be_bytes).take(200_000).collect()
}

#[tokio::test]
async fn fragments_pings_and_frames_of_any_length_become_one_stream_however_they_are_cut() {
    let sent = sent();
    let wire = [
        frame(0x82, &sent[..1]),
        frame(0x89, b"there?"),
        frame(0x02, &sent[1..126]),
        frame(0x89, b""),
        frame(0x00, b""),
        frame(0x80, &sent[126..70_000]),
        frame(0x8A, b"a pong nobody asked for"),
        frame(0x82, &sent[70_000..]),
        frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']),
    ]
    .concat();
    for cut in [1, 3, 7, 1000, wire.len()] {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut frames = Frames::new(near, BytesMut::from(&wire[..cut.min(20)]));
        let rest = wire[cut.min(20)..].to_vec();
        let client = tokio::spawn(async move {
            for piece in rest.chunks(cut) {
                far.write_all(piece).await.expect("taken");
            }
            let mut answers = Vec::new();
            far.read_to_end(&mut answers).await.expect("closed");
            answers
        });
        let mut received = Vec::new();
        frames.read_to_end(&mut received).await.expect("to the close frame");
        assert!(received == sent, "cut {cut}");
        assert!(frames.incoming.bytes.capacity() <= 4 * PIECE_BYTES, "little is kept of a long frame");
        assert_eq!(frames.write(b"late").await.map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
        drop(frames);
        let answers = client.await.expect("content");
        assert_eq!(answers, [&[0x8A, 6][..], b"there?", &[0x8A, 0, 0x88, 2, 0x03, 0xE8]].concat());
    }
}

#[tokio::test]
async fn what_is_sent_goes_in_whole_unmasked_frames_and_ends_with_a_close() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let sent = sent();
    let mut frames = Frames::new(near, BytesMut::new());
    frames.write_all(&sent).await.expect("taken");
    frames.write_all(b"short").await.expect("taken");
    frames.shutdown().await.expect("taken");
    let (mut wire, mut received) = (Vec::new(), Vec::new());
    far.read_to_end(&mut wire).await.expect("all");
    let mut rest = &wire[..];
    while let [0x82, length, behind @ ..] = rest {
        let (length, behind) = match length {
            126 => (usize::from(u16::from_be_bytes([behind[0], behind[1]])), &behind[2..]),
            short => (usize::from(*short), behind),
        };
        assert!(length <= FRAME_BYTES);
        received.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    assert!(received == [&sent[..], b"short"].concat());
    assert_eq!(rest, [0x88, 2, 0x03, 0xE8]);
}

#[tokio::test]
async fn nonsense_ends_the_connection_with_its_code_and_floods_of_pings_are_not_hoarded() {
    let huge = [vec![0x82, MASKED | 127], (1_u64 << 63).to_be_bytes().to_vec(), vec![0; 4]].concat();
    for (nonsense, code) in [
        (frame(0x81, b"text"), NOT_SUPPORTED),
        (vec![0x82, 1, b'x'], PROTOCOL_ERROR),
        (frame(0xF2, b"x"), PROTOCOL_ERROR),
        (frame(0x80, b"goes on from nowhere"), PROTOCOL_ERROR),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), PROTOCOL_ERROR),
        (frame(0x09, b"a ping in pieces"), PROTOCOL_ERROR),
        (frame(0x89, &[b'x'; 126]), PROTOCOL_ERROR),
        (frame(0x83, b"x"), PROTOCOL_ERROR),
        (huge, PROTOCOL_ERROR),
    ] {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut frames = Frames::new(near, BytesMut::from(&nonsense[..]));
        let mut into = Vec::new();
        let error = frames.read_to_end(&mut into).await.expect_err("nonsense");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{nonsense:?}");
        let mut told = [0; 4];
        far.read_exact(&mut told).await.expect("told");
        assert_eq!(told, [[0x88, 2], code.to_be_bytes()].concat()[..], "{nonsense:?}");
    }
    let pings = frame(0x89, &[b'p'; 100]).repeat(1000);
    let (near, far) = tokio::io::duplex(64); // nobody reads what comes back
    let mut frames = Frames::new(near, BytesMut::from(&[&pings[..], &frame(0x82, b"x")].concat()[..]));
    let mut one = [0];
    frames.read_exact(&mut one).await.expect("the payload behind them");
    assert!(frames.output.len() < 2 * PONGS_BYTES_MAX);
    drop(far);
}

/// Gives the same frames for ever, and takes all that is written.
struct Flood {
    frames: Vec<u8>,
    /// Pieces that are still to be read; one more says that nobody else has had a turn.
    pieces: usize,
}

impl AsyncRead for Flood {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pieces = self.pieces.checked_sub(1).expect("others have a turn");
        while into.remaining() >= self.frames.len() {
            into.put_slice(&self.frames);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn control_frames_without_end_let_others_have_their_turn() {
    let message_of_nothing = [frame(0x02, b""), frame(0x80, b"")].concat();
    for flood in [frame(0x89, b""), frame(0x8A, b""), message_of_nothing] {
        let flood = Flood { frames: flood, pieces: 200 * TURN_MAX };
        let mut frames = Frames::new(flood, BytesMut::new());
        let mut turns = 0;
        let others = async {
            for _ in 0..100 {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        let read = tokio::task::unconstrained(frames.read_u8());
        tokio::select! {
            biased;
            read = read => panic!("{read:?}, and nothing was said"),
            () = others => {}
        }
        assert_eq!(turns, 100);
    }
}

#[tokio::test]
async fn what_comes_behind_a_close_frame_is_not_looked_at() {
    let wire = [frame(0x88, &[0x03, 0xE8]), frame(0x82, b"late"), frame(0x89, b"there?")].concat();
    let (near, mut far) = tokio::io::duplex(1 << 10);
    let mut frames = Frames::new(near, BytesMut::from(&wire[..]));
    for _ in 0..3 {
        assert_eq!(frames.read(&mut [0; 8]).await.expect("the end"), 0);
    }
    drop(frames);
    let mut answers = Vec::new();
    far.read_to_end(&mut answers).await.expect("closed");
    assert_eq!(answers, [0x88, 2, 0x03, 0xE8]);
}
