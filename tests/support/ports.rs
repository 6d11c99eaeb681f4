//! Ports that are still free when a process of its own opens them.

use std::sync::Mutex;

use tokio::net::TcpSocket;

/// Bound, never listening, until this process ends.
static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that the system gives to nobody else while this process lives, for listeners and for the near end of
/// connections alike. Whoever asks for it by its number may listen there, again and again: it is bound with `SO_REUSEADDR`,
/// as listeners that come back at once are, and on Linux such sockets stand beside one that does not listen (socket(7)).
pub fn own_port() -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("set");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let port = socket.local_addr().expect("bound").port();
    HELD.lock().expect("no panic").push(socket);
    port
}
