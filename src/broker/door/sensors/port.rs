//! The port of a door: datagrams in and out. One that listens on all addresses of the box (`0.0.0.0`, `[::]`) notes to which
//! of them each datagram came (ip(7), `IP_PKTINFO`; RFC 3542, section 6), so that the answer comes from there. The kernel
//! would take the address of the interface that the answer goes out by, and a sensor that asked another one does not know
//! it, nor does a firewall between the two.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub length: usize,
    pub from: SocketAddr,
    /// Our own address, where there are several and it is known.
    pub to: Option<IpAddr>,
}

/// The port.
#[derive(Debug)]
pub(super) struct Port {
    socket: Arc<UdpSocket>,
    /// Does it listen on several addresses?
    is_open_to_all: bool,
}

impl Port {
    pub(super) fn new(socket: &Arc<UdpSocket>) -> io::Result<Self> {
        let listens = socket.local_addr()?;
        let is_open_to_all = listens.ip().is_unspecified();
        if is_open_to_all && listens.is_ipv4() {
            setsockopt(socket, Ipv4PacketInfo, &true)?;
        } else if is_open_to_all {
            setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { socket: Arc::clone(socket), is_open_to_all })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next one; what is longer than `into` is cut off. Cancel-safe.
    pub(super) async fn receive(&self, into: &mut [u8]) -> io::Result<Received> {
        if self.is_open_to_all {
            return self.socket.async_io(Interest::READABLE, || receive(&self.socket, into)).await;
        }
        let (length, from) = self.socket.recv_from(into).await?;
        Ok(Received { length, from, to: None })
    }

    /// Sends one, from this address of ours. If that is ours no more, from any. Cancel-safe.
    pub(super) async fn send(&self, datagram: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        if let Some(from) = from {
            let sent = self.socket.async_io(Interest::WRITABLE, || send(&self.socket, datagram, to, from)).await;
            if sent.is_ok() {
                return sent;
            }
        }
        self.socket.send_to(datagram, to).await.map(|_| ())
    }
}

fn receive(socket: &UdpSocket, into: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut into = [IoSliceMut::new(into)];
    let flags = MsgFlags::empty();
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut into, Some(&mut control[..]), flags)?;
    let from = received.address.and_then(|address| {
        let four = address.as_sockaddr_in().map(|address| SocketAddr::V4(SocketAddrV4::from(*address)));
        four.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6(SocketAddrV6::from(*address))))
    });
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    // What does not fit is cut off, and then nothing is known.
    let to = received.cmsgs().ok().and_then(|mut all| all.find_map(|message| own(&message)));
    Ok(Received { length: received.bytes, from, to })
}

/// The address of ours that a datagram came to. For what was sent to a group or to everybody IPv4 has the one to answer from.
fn own(message: &ControlMessageOwned) -> Option<IpAddr> {
    let address: IpAddr = match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()),
        ControlMessageOwned::Ipv6PacketInfo(info) => IpAddr::from(info.ipi6_addr.s6_addr),
        _ => return None,
    };
    let canonical = address.to_canonical();
    (!canonical.is_multicast() && !canonical.is_unspecified()).then_some(address)
}

fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
    let (four, six);
    let source = match from {
        IpAddr::V4(from) => {
            let none = libc::in_addr { s_addr: 0 };
            let spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            four = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec_dst, ipi_addr: none };
            ControlMessage::Ipv4PacketInfo(&four)
        }
        IpAddr::V6(from) => {
            let address = libc::in6_addr { s6_addr: from.octets() };
            six = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&six)
        }
    };
    let (to, datagram) = (SockaddrStorage::from(to), [IoSlice::new(datagram)]);
    sendmsg(socket.as_raw_fd(), &datagram, &[source], MsgFlags::empty(), Some(&to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came to one of our addresses is answered from there.
    async fn answered(listen: &str, asked: &str, ask_from: &str) {
        let socket = Arc::new(UdpSocket::bind(listen).await.expect("a port"));
        let port = Port::new(&socket).expect("set");
        let sensor = UdpSocket::bind(ask_from).await.expect("a port");
        let at = SocketAddr::new(asked.parse().expect("an address"), socket.local_addr().expect("its own").port());
        sensor.send_to(b"SEARCHGW", at).await.expect("sent");
        let mut datagram = [0; 4];
        let received = port.receive(&mut datagram).await.expect("received");
        assert_eq!(received.length, 4, "the rest is cut off");
        port.send(b"GWINFO", received.from, received.to).await.expect("sent");
        let (length, from) = sensor.recv_from(&mut [0; 64]).await.expect("received");
        assert_eq!((length, from), (6, at), "{listen}");
    }

    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked_and_not_from_the_next_best() {
        for asked in ["127.0.0.1", "127.0.0.9"] {
            answered("0.0.0.0:0", asked, "127.0.0.1:0").await;
        }
        answered("127.0.0.9:0", "127.0.0.9", "127.0.0.1:0").await;
        if UdpSocket::bind("[::1]:0").await.is_ok() {
            answered("[::]:0", "::1", "[::1]:0").await;
        }
    }

    #[tokio::test]
    async fn an_address_that_was_ours_and_is_no_more_costs_nobody_the_answer() {
        let port = Port::new(&Arc::new(UdpSocket::bind("0.0.0.0:0").await.expect("a port"))).expect("set");
        let sensor = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let to = sensor.local_addr().expect("its own");
        port.send(b"x", to, Some(IpAddr::from([192, 0, 2, 1]))).await.expect("sent");
        assert_eq!(sensor.recv_from(&mut [0; 4]).await.expect("received").0, 1);
    }
}
