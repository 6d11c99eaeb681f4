//! A visitor of the status page who speaks plain HTTP/1.1, so that he can also speak it badly.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;

use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).unwrap_or_default()
    }
}

/// Asks for a path; `more` are further header lines, each with its end. Turned away, it comes again.
pub async fn get(page: SocketAddr, path: &str, more: &str) -> Answer {
    let begun = std::time::Instant::now();
    loop {
        let stream = TcpStream::connect(page).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n{more}\r\n");
        if let Some(answer) = try_ask(stream, &request).await {
            return answer;
        }
        assert!(begun.elapsed() < crate::gateway::PATIENCE, "no answer from {page}{path}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Sends exactly this and reads to the end.
pub async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    try_ask(stream, request).await.unwrap_or_else(|| panic!("no answer to {request:?}"))
}

/// The same; nothing where the connection ends without an answer.
pub async fn try_ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Option<Answer> {
    let _ = stream.write_all(request.as_bytes()).await; // it may have hung up before the end
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await; // a connection may be cut off after the answer
    let said = String::from_utf8_lossy(&said);
    let (head, body) = said.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Some(Answer { status, head: head.to_owned(), body })
}

/// RFC 9112, section 7.1.
fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}
