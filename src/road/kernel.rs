//! What the kernel counts for one TCP connection: asked over netlink (sock_diag(7)), because that is the one way to
//! `struct tcp_info` without unsafe code.
//!
//! ```text
//! request   nlmsghdr            len u32 · type u16 = SOCK_DIAG_BY_FAMILY (20) · flags u16 = NLM_F_REQUEST · seq u32 · pid u32
//!           inet_diag_req_v2    family u8 · protocol u8 = TCP · ext u8 = wants INET_DIAG_INFO · pad u8 · states u32
//!           inet_diag_sockid    sport, dport: u16 big-endian · src, dst: 16 bytes each · if u32 · cookie 8 bytes = none
//! answer    nlmsghdr            type NLMSG_ERROR (2): an errno follows
//!           inet_diag_msg       family u8 · state u8 · timer u8 · retrans u8 · sockid 48 bytes · 5 × u32
//!           attributes          len u16 · type u16 · value, padded to 4; INET_DIAG_INFO (2) holds struct tcp_info
//! ```
//!
//! Numbers are in the byte order of the machine where nothing else stands (linux/inet_diag.h, linux/tcp.h).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSGHDR: usize = 16;
const REQUEST: usize = NLMSGHDR + 56;
const INET_DIAG_MSG: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// An answer about one socket has about 500 bytes.
const ANSWER_MAX: usize = 4096;

/// `TCPI_OPT_TIMESTAMPS`
const TIMESTAMPS: u8 = 1;
// Offsets in struct tcp_info; the last two fields are there since Linux 4.19.
const OPTIONS: usize = 5;
const BYTES_RECEIVED: usize = 128;
const SEGS_OUT: usize = 136;
const SEGS_IN: usize = 140;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;

/// IP header without options: IPv4 (RFC 791, section 3.1) or IPv6 (RFC 8200, section 3).
const IP_HEADER: [u64; 2] = [20, 40];
/// TCP header (RFC 9293, section 3.1), and its timestamps (RFC 7323, section 3.2) with padding.
const TCP_HEADER: u64 = 20;
const TIMESTAMPS_BYTES: u64 = 12;
/// What a SYN of Linux has more than later segments: with timestamps 20 bytes of options, without 12.
const SYN_MORE: [u64; 2] = [12, 8];

/// What one connection has cost so far, IP and TCP headers and repetitions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Bytes of IP packets sent.
    pub(super) sent: u64,
    /// Bytes of IP packets received.
    pub(super) received: u64,
    /// Segments that closing it will still cost.
    pub(super) farewell: Farewell,
    /// IP and TCP header of a segment.
    pub(super) header: u64,
    /// Payload that has been sent, each byte once.
    pub(super) up: u64,
    /// Payload that has come, read by us or not.
    pub(super) down: u64,
}

/// Segments until a connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Farewell {
    pub(super) out: u64,
    pub(super) back: u64,
}

/// IP and TCP header of a segment with timestamps.
pub(super) fn header(ip: IpAddr) -> u64 {
    IP_HEADER[usize::from(ip.is_ipv6())] + TCP_HEADER + TIMESTAMPS_BYTES
}

/// A SYN, with the options that Linux sends.
pub(super) fn syn(ip: IpAddr) -> u64 {
    header(ip) + SYN_MORE[1]
}

/// Asks for one connection.
pub(super) struct Asker {
    netlink: OwnedFd,
    request: [u8; REQUEST],
}

impl Asker {
    /// `interface`: index of the interface that the socket is bound to, or 0. `None` where the kernel offers no netlink.
    pub(super) fn new(local: SocketAddr, remote: SocketAddr, interface: u32) -> Option<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let netlink = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG));
        Some(Self { netlink: netlink.ok()?, request: request(local, remote, interface) })
    }

    /// What the kernel has counted; `None` when it does not know the connection any more, or never tells. Does not block:
    /// the kernel answers while it takes the request.
    pub(super) fn ask(&self) -> Option<Counted> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.netlink, &self.request, SendFlags::empty(), &kernel).ok()?;
        let mut answer = [0; ANSWER_MAX];
        let (length, _) = rustix::net::recv(&self.netlink, &mut answer[..], RecvFlags::empty()).ok()?;
        counted(answer.get(..length)?)
    }
}

fn request(local: SocketAddr, remote: SocketAddr, interface: u32) -> [u8; REQUEST] {
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // seq, pid
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend([family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // any state
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for ip in [local.ip(), remote.ip()] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets().into_iter().chain([0; 12])),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend(interface.to_ne_bytes());
    bytes.extend([0xFF; 8]); // INET_DIAG_NOCOOKIE, twice
    bytes.try_into().expect("the fields above add up to 72 bytes")
}

fn counted(answer: &[u8]) -> Option<Counted> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != SOCK_DIAG_BY_FAMILY {
        return None; // an error: no such socket
    }
    let family = *answer.get(NLMSGHDR)?;
    let state = *answer.get(NLMSGHDR + 1)?;
    let info = attribute(answer.get(NLMSGHDR + INET_DIAG_MSG..)?, INET_DIAG_INFO)?;
    let u32_at = |at: usize| Some(u64::from(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?)));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let stamped = *info.get(OPTIONS)? & TIMESTAMPS != 0;
    let header = IP_HEADER[usize::from(family == AF_INET6)] + TCP_HEADER + if stamped { TIMESTAMPS_BYTES } else { 0 };
    let syn_more = SYN_MORE[usize::from(stamped)];
    let (sent, down) = (u64_at(BYTES_SENT)?, u64_at(BYTES_RECEIVED)?);
    Some(Counted {
        sent: sent + u32_at(SEGS_OUT)? * header + syn_more,
        received: down + u32_at(SEGS_IN)? * header + syn_more,
        up: sent.saturating_sub(u64_at(BYTES_RETRANS)?),
        down,
        farewell: farewell(state),
        header,
    })
}

fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?; // None for a length below 4, so this ends
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// RFC 9293, section 3.3.2; numbers as in linux/tcp_states.h.
fn farewell(state: u8) -> Farewell {
    let (out, back) = match state {
        1 => (2, 2),     // ESTABLISHED: two FINs and their acknowledgements
        4 => (1, 2),     // FIN-WAIT-1: ours is sent
        5 | 8 => (1, 1), // FIN-WAIT-2, CLOSE-WAIT: one side is done
        9 => (0, 1),     // LAST-ACK
        11 => (1, 1),    // CLOSING
        _ => (0, 0),
    };
    Farewell { out, back }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one foreign attribute before a tcp_info of so many bytes.
    fn answer(family: u8, options: u8, info_bytes: usize) -> Vec<u8> {
        let mut info = vec![0; 256];
        info[OPTIONS] = options;
        info[BYTES_RECEIVED..BYTES_RECEIVED + 8].copy_from_slice(&300_u64.to_ne_bytes());
        info[SEGS_OUT..SEGS_OUT + 4].copy_from_slice(&7_u32.to_ne_bytes());
        info[SEGS_IN..SEGS_IN + 4].copy_from_slice(&5_u32.to_ne_bytes());
        info[BYTES_SENT..BYTES_SENT + 8].copy_from_slice(&1000_u64.to_ne_bytes());
        info[BYTES_RETRANS..BYTES_RETRANS + 8].copy_from_slice(&100_u64.to_ne_bytes());
        info.truncate(info_bytes);
        let mut bytes = vec![0; NLMSGHDR + INET_DIAG_MSG];
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        (bytes[NLMSGHDR], bytes[NLMSGHDR + 1]) = (family, 1);
        bytes.extend(5_u16.to_ne_bytes());
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend([9, 0, 0, 0]); // one byte of value, three of padding
        bytes.extend(u16::try_from(4 + info.len()).expect("small").to_ne_bytes());
        bytes.extend(INET_DIAG_INFO.to_ne_bytes());
        bytes.extend(info);
        bytes
    }

    #[test]
    fn segments_cost_their_headers_and_a_syn_its_options() {
        let v4 = counted(&answer(AF_INET, TIMESTAMPS, 232)).expect("complete");
        assert_eq!((v4.sent, v4.received, v4.header), (1000 + 7 * 52 + 8, 300 + 5 * 52 + 8, 52));
        assert_eq!(v4.farewell, Farewell { out: 2, back: 2 });
        assert_eq!((v4.up, v4.down), (900, 300));
        let v6 = counted(&answer(AF_INET6, 0, 232)).expect("complete");
        assert_eq!((v6.sent, v6.received, v6.header), (1000 + 7 * 60 + 12, 300 + 5 * 60 + 12, 60));
    }

    #[test]
    fn an_old_kernel_an_error_and_every_cut_answer_are_no_count() {
        assert_eq!(counted(&answer(AF_INET, TIMESTAMPS, 200)), None, "before Linux 4.19");
        let whole = answer(AF_INET, TIMESTAMPS, 216);
        assert!(counted(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(counted(&whole[..length]), None, "{length}");
        }
        let mut error = whole.clone();
        error[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(counted(&error), None);
        let mut endless = whole;
        endless[NLMSGHDR + INET_DIAG_MSG..][..2].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(counted(&endless), None, "an attribute without length");
    }

    #[test]
    fn this_kernel_counts_a_connection_of_ours() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut near = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut far, _) = listener.accept().expect("comes");
        let (local, remote) = (near.local_addr().expect("bound"), near.peer_addr().expect("connected"));
        let asker = Asker::new(local, remote, 0).filter(|asker| asker.ask().is_some());
        let Some(asker) = asker else {
            println!("SKIPPED: this kernel answers no sock_diag");
            return;
        };
        near.write_all(&[7; 1000]).expect("written");
        let mut all = [0; 1000];
        far.read_exact(&mut all).expect("arrives");
        let counted = asker.ask().expect("known");
        // SYN, ACK, one segment of 1000 bytes; SYN-ACK, and perhaps already the acknowledgement
        assert_eq!(counted.sent, 60 + 52 + 1052);
        assert!([60, 60 + 52].contains(&counted.received), "{}", counted.received);
    }
}
