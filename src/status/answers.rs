//! How much of answers is in memory, however many visitors there are and however slowly they read.
//!
//! An answer up to [`SMALL`] is written in any case: places are few, so these are at most 16 MiB together. All larger ones have
//! [`LARGE_ALL_KIB`] together, and whoever comes when that is taken is asked to try again: the page's own questions, `/health` and
//! `/metrics` of most plants are small. One that is larger than all of that is given out alone. What an answer is written into
//! may have grown to twice of what is in it, so "at most 64 MiB".
//!
//! The connection gets it in pieces: it copies what it is given, and given the whole it would have it twice.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::RETRY_AFTER;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An answer that is always given, bytes: a page of fifty tags with their lines is less.
const SMALL: usize = 128 * 1024;

/// All larger ones that are being written, KiB.
const LARGE_ALL_KIB: usize = 16 * 1024;

/// What the connection is given at once, bytes.
const PIECE: usize = 16 * 1024;

/// Room for answers; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    large: Arc<Semaphore>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { large: Arc::new(Semaphore::new(LARGE_ALL_KIB)) }
    }
}

impl Answers {
    /// The same answer, accounted for until nothing of it is held; or what takes its place.
    pub(super) async fn admit(&self, answer: Response<Body>) -> Response<Body> {
        let (head, body) = answer.into_parts();
        let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response(); // they are in memory: nothing can go wrong
        };
        if bytes.len() <= SMALL {
            return Response::from_parts(head, Body::new(Pieces(bytes)));
        }
        let kib = u32::try_from(bytes.len().div_ceil(1024).min(LARGE_ALL_KIB)).unwrap_or(u32::MAX);
        match Arc::clone(&self.large).try_acquire_many_owned(kib) {
            Ok(room) => {
                let held = Bytes::from_owner(Held { bytes, _room: room });
                Response::from_parts(head, Body::new(Pieces(held)))
            }
            Err(_) => busy(),
        }
    }
}

fn busy() -> Response<Body> {
    let text = "too much is being given out to others: try again, or ask for less\n";
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], text).into_response()
}

/// A large answer and its room: every piece of it holds both.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is left of an answer.
struct Pieces(Bytes);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const MIB: usize = 1024 * 1024;

    fn of(bytes: usize) -> Response<Body> {
        vec![b'x'; bytes].into_response()
    }

    async fn piece(body: &mut Body) -> Option<Bytes> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.expect("in memory").into_data().expect("data"))
    }

    #[tokio::test]
    async fn visitors_who_read_slowly_have_so_much_memory_together_and_a_small_answer_is_always_given() {
        let answers = Answers::default();
        let mut held = Vec::new();
        for _ in 0..128 {
            let answer = answers.admit(of(4 * MIB)).await;
            if answer.status() == StatusCode::OK {
                held.push(answer.into_body());
            } else {
                assert_eq!(answer.headers()[RETRY_AFTER], "5");
            }
        }
        assert_eq!(held.len() * 4 * MIB, LARGE_ALL_KIB * 1024);
        assert_eq!(answers.admit(of(SMALL)).await.status(), StatusCode::OK);
        // The last bytes of an answer may hold all of it.
        let mut body = held.pop().expect("four");
        let mut last = piece(&mut body).await.expect("the first");
        assert_eq!(last.len(), PIECE);
        while let Some(next) = piece(&mut body).await {
            last = next;
        }
        drop(body);
        assert_eq!(answers.admit(of(4 * MIB)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(last);
        assert_eq!(answers.admit(of(4 * MIB)).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_one_that_is_larger_than_all_the_room_comes_alone() {
        let answers = Answers::default();
        let answer = answers.admit(of(20 * MIB)).await;
        assert_eq!(answer.body().size_hint().exact(), Some(20 * MIB as u64));
        assert_eq!(answers.admit(of(SMALL + 1)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        let whole = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("in memory");
        assert_eq!(whole.len(), 20 * MIB);
    }

    #[tokio::test]
    async fn a_connection_gives_out_all_pieces_and_then_the_room_is_free() {
        let (near, mut far) = tokio::io::duplex(4096);
        let answers = Answers::default();
        let inside = answers.clone();
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            let answers = inside.clone();
            async move { Ok::<_, Infallible>(answers.admit(of(MIB)).await) }
        });
        let connection = http1::Builder::new().max_buf_size(PIECE).serve_connection(TokioIo::new(near), service);
        let serving = tokio::spawn(connection);
        far.write_all(b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n").await.expect("written");
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.expect("read");
        serving.await.expect("no panic").expect("served");
        let head = said.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        assert!(String::from_utf8_lossy(&said[..head]).contains("content-length: 1048576"));
        assert_eq!(said.len() - head, MIB);
        assert_eq!(answers.large.available_permits(), LARGE_ALL_KIB);
    }
}
