//! What stands between a road and its broker, and misbehaves on command: an echo for a broker, proxies that take us anywhere,
//! a websocket front.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Somebody who listens; ends with its value.
pub struct Far {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// One connection, as the far side saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    /// What was asked for: the head of an HTTP request, or a SOCKS request as text.
    pub asked: String,
    /// Of the TLS handshake.
    pub resumed: bool,
    pub alpn: Option<Vec<u8>>,
}

impl Drop for Far {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Far {
    async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<Seen>>>) -> R + Send + 'static,
        R: Future<Output = Option<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let book = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&book)));
            }
        });
        Self { address, seen, task }
    }

    /// Everybody who came, in their order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Says back what it hears.
    pub async fn echo() -> Self {
        Self::start(|stream, book| async move {
            note(&book, &stream, String::new(), None);
            echo(stream).await
        })
        .await
    }

    /// The same, behind TLS.
    pub async fn secure_echo(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start(move |stream, book| {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            async move {
                let peer = stream.peer_addr().ok()?;
                let stream = acceptor.accept(stream).await.ok()?;
                note_tls(&book, peer, stream.get_ref().1);
                echo(stream).await
            }
        })
        .await
    }

    /// The same, in websocket frames, behind TLS.
    pub async fn secure_websocket_echo(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start(move |stream, book| {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            async move {
                let peer = stream.peer_addr().ok()?;
                let stream = acceptor.accept(stream).await.ok()?;
                note_tls(&book, peer, stream.get_ref().1);
                websocket_echo(stream).await
            }
        })
        .await
    }

    /// Nothing ever comes from it.
    pub async fn mute() -> Self {
        Self::start(|stream, book| async move {
            note(&book, &stream, String::new(), None);
            std::future::pending::<()>().await;
            drop(stream);
            Some(())
        })
        .await
    }

    /// An HTTP proxy that connects everybody to `target`, whatever name they ask for.
    pub async fn http_proxy(target: SocketAddr) -> Self {
        Self::start(move |mut stream, book| async move {
            let head = head(&mut stream).await?;
            note(&book, &stream, head, None);
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
            carry(stream, target).await
        })
        .await
    }

    /// A SOCKS 5 proxy with user and password that connects everybody to `target`.
    pub async fn socks_proxy(target: SocketAddr) -> Self {
        Self::start(move |mut stream, book| async move {
            let mut methods = [0; 4];
            stream.read_exact(&mut methods).await.ok()?;
            stream.write_all(&[5, 2]).await.ok()?;
            let mut asked = Vec::new();
            stream.read_u8().await.ok()?;
            for _ in 0..2 {
                let length = stream.read_u8().await.ok()?;
                let mut text = vec![0; usize::from(length)];
                stream.read_exact(&mut text).await.ok()?;
                asked.extend(text);
                asked.push(b' ');
            }
            stream.write_all(&[1, 0]).await.ok()?;
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.ok()?;
            let mut name = vec![0; usize::from(request[4]) + 2];
            stream.read_exact(&mut name).await.ok()?;
            asked.extend(&name[..name.len() - 2]);
            note(&book, &stream, String::from_utf8(asked).ok()?, None);
            // byte by byte, as a slow link may bring it
            for byte in [5, 0, 0, 1, 127, 0, 0, 1, 0, 80] {
                stream.write_u8(byte).await.ok()?;
                tokio::task::yield_now().await;
            }
            carry(stream, target).await
        })
        .await
    }
}

fn note(book: &Mutex<Vec<Seen>>, stream: &TcpStream, asked: String, alpn: Option<Vec<u8>>) {
    let peer = stream.peer_addr().unwrap();
    book.lock().unwrap().push(Seen { peer, asked, resumed: false, alpn });
}

fn note_tls(book: &Mutex<Vec<Seen>>, peer: SocketAddr, tls: &rustls::ServerConnection) {
    let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
    book.lock().unwrap().push(Seen { peer, asked: String::new(), resumed, alpn });
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Option<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await.ok()?;
    writer.shutdown().await.ok()
}

async fn carry(mut near: TcpStream, target: SocketAddr) -> Option<()> {
    let mut far = TcpStream::connect(target).await.ok()?;
    copy_bidirectional(&mut near, &mut far).await.ok().map(drop)
}

async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn websocket_echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Option<()> {
    let head = head(&mut stream).await?;
    let key = head.split("Sec-WebSocket-Key: ").nth(1)?.split('\r').next()?;
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes()));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    let mut frames = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = frames.next().await {
        if let Message::Binary(payload) = message {
            for piece in payload.chunks(1000) {
                frames.send(Message::Ping(vec![1].into())).await.ok()?;
                frames.send(Message::Binary(piece.to_vec().into())).await.ok()?;
            }
        }
    }
    Some(())
}
