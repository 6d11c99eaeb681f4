//! A broker that speaks no TLS newer than 1.1 is not talked to.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use crate::authority::Authority;
use crate::gateway::{Home, Plc, config, tag, until};

/// RFC 4346, 7.4.1.3: a ServerHello of TLS 1.1 with a cipher that 1.2 knows too.
fn server_hello() -> Vec<u8> {
    let mut hello = vec![
        0x16, 0x03, 0x02, 0x00, 0x2a, // a handshake record of version 3.2, 42 bytes
        0x02, 0x00, 0x00, 0x26, // ServerHello, 38 bytes
        0x03, 0x02, // TLS 1.1
    ];
    hello.extend([0x5a; 32]); // random
    hello.extend([0x00, 0xc0, 0x2f, 0x00]); // no session, ECDHE_RSA_WITH_AES_128_GCM_SHA256, no compression
    hello
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uplink_does_not_speak_tls_1_1() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plc = Plc::start().await;
    let uplink = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://127.0.0.1:{port}\"\nca_file = {:?}\n",
        authority.ca_file().display().to_string()
    );
    let home = Home::new(&(config(plc.line.address()) + &tag("a", "holding:0", "uint16", "") + &uplink));
    let daemon = home.run();
    let answered = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&server_hello()).unwrap();
        let mut alert = [0; 7];
        stream.read_exact(&mut alert).unwrap();
        alert
    });
    until("the uplink says that it is down", || daemon.said("uplink down").is_some()).await;
    let alert = tokio::task::spawn_blocking(|| answered.join().unwrap()).await.unwrap();
    assert_eq!((alert[0], alert[5]), (0x15, 2), "a fatal alert and no handshake: {alert:?}");
    assert!(daemon.said("uplink up").is_none());
}
