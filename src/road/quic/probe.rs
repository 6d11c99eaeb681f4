//! Is somebody there who speaks QUIC? Asked without a connection: a packet of a version that nobody speaks is answered, from
//! nothing but itself, with the versions that are spoken (RFC 9000, section 6; RFC 8999, sections 5.1 and 6).
//!
//! ```text
//! 1 byte     0x80 | anything    long header
//! 4 bytes    0x?A?A?A?A         a version reserved for this (RFC 9000, section 15)
//! 1 + 8      length and bytes of the destination's connection id: random
//! 1 + 8      length and bytes of the sender's: random
//! …          zeros, to 1200 bytes: shorter ones may be ignored (section 6.1)
//!
//! answer: 0x80 | anything, version 0, our two ids the other way round, then the versions
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::open;
use super::silence::Silence;
use crate::road::destination::{Destination, RoadError};
use crate::road::reach::Terms;
use crate::road::socket::{Refusal, addresses};

use super::account::Account;

/// Sent again after these pauses, for datagrams get lost; the last one is for the answer.
const PAUSES: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(4), Duration::from_secs(4)];
const PROBE_BYTES: usize = 1200;
const ID_BYTES: usize = 8;

/// Asks the addresses of the name as a connect would, until one answers. Each costs about 1.3 kB, counted; three times that
/// where nobody does. Cancel-safe.
pub(in crate::road) async fn knock(to: &Destination, terms: &Terms) -> Result<(), RoadError> {
    let found = addresses(&to.host, to.port, &terms.bind).await?;
    knock_any(&found, terms).await
}

async fn knock_any(found: &[SocketAddr], terms: &Terms) -> Result<(), RoadError> {
    let (mut failures, mut silence) = (Vec::new(), Silence::new(&terms.silent));
    for address in terms.silent.in_turn(found) {
        if silence.covers(address) {
            continue;
        }
        let account = Account::new(terms.meters.clone(), terms.pace.clone());
        match knock_at(address, terms, &account).await {
            Ok(()) => {
                silence.broken(address);
                return Ok(());
            }
            Err(Refusal::Box(text)) => return Err(RoadError::Disabled(text)),
            Err(Refusal::Unsent(text)) => failures.push(text),
            Err(Refusal::Link(error)) => failures.push(format!("{address}: {error}")),
        }
        silence.note(address, &account);
    }
    Err(RoadError::Unreachable(failures.join("; ")))
}

async fn knock_at(address: SocketAddr, terms: &Terms, account: &Account) -> Result<(), Refusal> {
    let socket = UdpSocket::from_std(open(address, &terms.bind)?)?;
    let ids: [u8; 2 * ID_BYTES] = rand::random();
    let probe = probe(&ids);
    let mut sent = false;
    for pause in PAUSES {
        match socket.send_to(&probe, address).await {
            Ok(_) => {
                account.sent(address, probe.len(), 1);
                sent = true;
            }
            Err(error) if !sent => return Err(Refusal::Link(error)), // there is no way to it: the next may have one
            Err(_) => {}
        }
        if timeout(pause, answered(&socket, address, &ids, account)).await.is_ok() {
            return Ok(());
        }
    }
    Err(Refusal::Link(io::Error::new(io::ErrorKind::TimedOut, "no answer by UDP")))
}

fn probe(ids: &[u8; 2 * ID_BYTES]) -> [u8; PROBE_BYTES] {
    let mut probe = [0; PROBE_BYTES];
    let head = [0xC0, 0x1A, 0x2A, 0x3A, 0x4A, 8];
    probe[..6].copy_from_slice(&head);
    probe[6..14].copy_from_slice(&ids[..ID_BYTES]);
    probe[14] = 8;
    probe[15..23].copy_from_slice(&ids[ID_BYTES..]);
    probe
}

async fn answered(socket: &UdpSocket, address: SocketAddr, ids: &[u8; 2 * ID_BYTES], account: &Account) {
    let mut bytes = [0; PROBE_BYTES];
    loop {
        // An error is what the network says of our datagram; somebody else may still answer the next.
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else {
            std::future::pending::<()>().await;
            return;
        };
        account.received(from, length, 1);
        if from == address && is_answer(&bytes[..length], ids) {
            return;
        }
    }
}

fn is_answer(bytes: &[u8], ids: &[u8; 2 * ID_BYTES]) -> bool {
    let expected = [&[0, 0, 0, 0, 8], &ids[ID_BYTES..], &[8], &ids[..ID_BYTES]].concat();
    bytes.first().is_some_and(|first| first & 0x80 != 0) && bytes[1..].starts_with(&expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_has_an_address_that_answers_is_there_although_another_of_his_does_not() {
        let there = UdpSocket::bind("127.0.0.1:0").await.expect("free");
        let unsendable = SocketAddr::from(([127, 0, 0, 1], 0));
        let found = [unsendable, there.local_addr().expect("bound")];
        let answer = async {
            let mut asked = [0; PROBE_BYTES];
            let (_, from) = there.recv_from(&mut asked).await.expect("a probe");
            let answer = [&[0x9F, 0, 0, 0, 0, 8][..], &asked[15..23], &[8], &asked[6..14], &[0, 0, 0, 1]].concat();
            there.send_to(&answer, from).await.expect("sent")
        };
        let terms = Terms::default();
        let (found, _) = tokio::join!(knock_any(&found, &terms), answer);
        assert!(found.is_ok(), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_addresses_of_a_family_one_is_asked_and_the_other_the_next_time() {
        let silent =
            [UdpSocket::bind("127.0.0.1:0").await.expect("free"), UdpSocket::bind("127.0.0.1:0").await.expect("free")];
        let found = silent.each_ref().map(|socket| socket.local_addr().expect("bound"));
        let (terms, mut bytes) = (Terms::default(), [0; PROBE_BYTES]);
        for asked in [0, 1, 0] {
            let Err(RoadError::Unreachable(why)) = knock_any(&found, &terms.clone()).await else { panic!("nobody") };
            assert!(why.contains(&found[asked].to_string()), "{why}");
            for (at, socket) in silent.iter().enumerate() {
                let count = std::iter::from_fn(|| socket.try_recv(&mut bytes).ok()).count();
                assert_eq!(count, if at == asked { PAUSES.len() } else { 0 });
            }
        }
    }

    #[test]
    fn only_our_own_ids_the_other_way_round_are_an_answer() {
        let ids = std::array::from_fn(|at| u8::try_from(at).expect("few"));
        let probe = probe(&ids);
        assert_eq!((&probe[..6], probe[14]), (&[0xC0, 0x1A, 0x2A, 0x3A, 0x4A, 8][..], 8));
        let answer = [&[0x9F, 0, 0, 0, 0, 8][..], &ids[8..], &[8], &ids[..8], &[0, 0, 0, 1]].concat();
        assert!(is_answer(&answer, &ids));
        for length in 0..23 {
            assert!(!is_answer(&answer[..length], &ids), "{length}");
        }
        for at in 0..23 {
            let mut other = answer.clone();
            other[at] ^= 0x80;
            assert!(!is_answer(&other, &ids), "{at}");
        }
        assert!(!is_answer(&probe, &ids));
    }
}
