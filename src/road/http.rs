//! Just enough of HTTP/1.1 (RFC 9112) to be let through: a request head out, a response head in. For proxies and websockets.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// No response head is longer; a stranger must not fill our memory.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What of a reason phrase is shown.
const REASON_CHARS_MAX: usize = 80;

/// A response without its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// For a person.
    pub(super) reason: String,
    fields: Vec<(String, String)>,
}

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHead {
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("what came is no HTTP answer")]
    NotHttp,
    #[error("the answer's head is longer than 16 KiB")]
    TooLong,
}

/// Sends a head and takes the answer's, to its last byte and no further: what follows belongs to whoever comes next.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &str,
    limit: Duration,
) -> Result<Head, NoHead> {
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::with_capacity(512);
        while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
            if head.len() == HEAD_BYTES_MAX {
                return Err(NoHead::TooLong);
            }
            head.push(stream.read_u8().await?); // few bytes, once per connect
            if head.len() == 5 && head != b"HTTP/" {
                return Err(NoHead::NotHttp);
            }
        }
        parse(&head).ok_or(NoHead::NotHttp)
    };
    timeout(limit, exchange).await.unwrap_or(Err(NoHead::Late(limit)))
}

fn parse(head: &[u8]) -> Option<Head> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let (version, rest) = lines.next()?.split_once(' ')?;
    if !version.starts_with("HTTP/1.") {
        return None;
    }
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = Some(status).filter(|digits| digits.len() == 3)?.parse().ok()?;
    let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some(Head { status, reason, fields })
}

impl Head {
    /// The value of the first field with this (lower-case) name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Does one of the fields with this name list this word (RFC 9110, section 5.6.1)?
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        let values = self.fields.iter().filter(|(found, _)| found == name);
        values.flat_map(|(_, value)| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(bytes: &[u8]) -> (Result<Head, NoHead>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(bytes).await.expect("room");
        far.shutdown().await.expect("open");
        let head = ask(&mut near, "GET", Duration::from_secs(60)).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.expect("memory");
        (head, rest)
    }

    #[tokio::test]
    async fn a_head_is_taken_to_its_last_byte_and_no_further() {
        let (head, rest) =
            answered(b"HTTP/1.1 200 OK\r\nVia: a\r\nConnection: keep-alive, UpGrade\r\n\r\n\x20\x02").await;
        let head = head.expect("a head");
        assert_eq!((head.status, head.reason.as_str(), head.field("via")), (200, "OK", Some("a")));
        assert!(head.lists("connection", "upgrade") && !head.lists("connection", "up"));
        assert_eq!(rest, b"\x20\x02");
        assert_eq!(answered(b"HTTP/1.0 407\n\n").await.0.expect("odd, but clear").status, 407);
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_floods_silence_and_a_cut_are_no_head() {
        assert!(matches!(answered(b"SSH-2.0-OpenSSH\r\n").await.0, Err(NoHead::NotHttp)));
        assert!(matches!(answered(b"HTTP/1.1 abc\r\n\r\n").await.0, Err(NoHead::NotHttp)));
        assert!(matches!(answered(b"HTTP/2 200\r\n\r\n").await.0, Err(NoHead::NotHttp)));
        let flood = [b"HTTP/1.1 200 OK\r\n".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        assert!(matches!(answered(&flood).await.0, Err(NoHead::TooLong)));
        assert!(matches!(answered(b"HTTP/1.1 200 OK\r\n").await.0, Err(NoHead::Broken(_))));
        let (mut near, _far) = tokio::io::duplex(64);
        let late = ask(&mut near, "GET", Duration::from_secs(60)).await;
        assert!(matches!(late, Err(NoHead::Late(_))), "{late:?}");
    }
}
