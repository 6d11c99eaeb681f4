//! The group that a gateway makes itself known to: who looks for one asks there, so its door has to be a member.
//!
//! Membership is that of one interface of the box: the listener's own if it has one, or that of the address it listens on;
//! else the kernel takes the one that the group is routed through, and refuses where there is no route. An interface may
//! come, or come again, after the door was opened: so whoever makes itself known joins each time before.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::netdevice::name_to_index;
use socket2::{InterfaceIndexOrAddress, SockRef};
use tokio::net::UdpSocket;

/// A group, and through what it is heard.
#[derive(Debug)]
enum Membership {
    V4(Ipv4Addr, InterfaceIndexOrAddress),
    /// 0: the kernel chooses.
    V6(Ipv6Addr, u32),
}

/// Makes the port hear what is sent to this group, if it is one; that it does so already is no error.
pub(super) fn join(socket: &UdpSocket, group: SocketAddr, interface: Option<&str>) -> io::Result<()> {
    if !group.ip().is_multicast() {
        return Ok(());
    }
    let index = interface.map(|name| name_to_index(socket, name)).transpose()?;
    let socket2 = SockRef::from(socket);
    let joined = match membership(group, socket.local_addr()?, index) {
        Membership::V4(group, through) => socket2.join_multicast_v4_n(&group, &through),
        Membership::V6(group, through) => socket2.join_multicast_v6(&group, through),
    };
    match joined {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        joined => joined,
    }
}

fn membership(group: SocketAddr, listen: SocketAddr, interface: Option<u32>) -> Membership {
    match group {
        SocketAddr::V4(group) => {
            let address = match listen.ip() {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            let through = interface.map_or(InterfaceIndexOrAddress::Address(address), InterfaceIndexOrAddress::Index);
            Membership::V4(*group.ip(), through)
        }
        SocketAddr::V6(group) => {
            let of_listen = if let SocketAddr::V6(listen) = listen { listen.scope_id() } else { 0 };
            let scope = if group.scope_id() == 0 { of_listen } else { group.scope_id() };
            Membership::V6(*group.ip(), interface.unwrap_or(scope))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(group: &str, listen: &str, interface: Option<u32>) -> String {
        let address = |text: &str| text.parse().expect("an address");
        match membership(address(group), address(listen), interface) {
            Membership::V4(group, InterfaceIndexOrAddress::Index(index)) => format!("{group} interface {index}"),
            Membership::V4(group, InterfaceIndexOrAddress::Address(address)) => format!("{group} at {address}"),
            Membership::V6(group, index) => format!("{group} interface {index}"),
        }
    }

    #[test]
    fn a_group_is_heard_through_the_listeners_interface_or_else_where_it_listens() {
        let (four, six) = ("225.1.1.1:1884", "[ff02::1:1]:1884");
        assert_eq!(chosen(four, "0.0.0.0:1884", Some(7)), "225.1.1.1 interface 7");
        assert_eq!(chosen(four, "10.0.7.1:1884", Some(7)), "225.1.1.1 interface 7");
        assert_eq!(chosen(four, "10.0.7.1:1884", None), "225.1.1.1 at 10.0.7.1");
        assert_eq!(chosen(four, "0.0.0.0:1884", None), "225.1.1.1 at 0.0.0.0");
        assert_eq!(chosen(six, "[::]:1884", Some(7)), "ff02::1:1 interface 7");
        assert_eq!(chosen("[ff02::1:1%3]:1884", "[::]:1884", None), "ff02::1:1 interface 3");
        assert_eq!(chosen(six, "[fe80::1%2]:1884", None), "ff02::1:1 interface 2");
        assert_eq!(chosen(six, "[::]:1884", None), "ff02::1:1 interface 0");
    }

    #[tokio::test]
    async fn to_join_once_more_is_no_error_and_an_interface_that_there_is_not_is_one() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let group = "225.1.1.1:1884".parse().expect("an address");
        for _ in 0..2 {
            join(&socket, group, Some("lo")).expect("a member");
        }
        join(&socket, "10.0.7.255:1884".parse().expect("an address"), Some("none0")).expect("it is no group");
        assert!(join(&socket, group, Some("none0")).is_err());
    }
}
