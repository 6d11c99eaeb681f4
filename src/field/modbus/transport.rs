//! Opening a bus: a TCP connection or a serial port, with the settings that the crates leave out.
//!
//! TCP: name resolution and connect within one timeout, NODELAY, keepalive. Serial: exclusive, stale input discarded,
//! never a port on which the kernel talks. What does not open is an error for this attempt only; the driver tries again.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_serial::{ClearBuffer, DataBits, FlowControl, SerialPort as _, SerialPortBuilderExt as _, StopBits};

use crate::config::plan::{BusLink, Parity, SerialPlan};

/// Resolving and connecting together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that dies silently is noticed after 30 s of silence and three questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Sent but never acknowledged for this long: the connection is dead.
const UNACKNOWLEDGED_MAX_MS: u32 = 20_000;
/// Where Linux lists the terminals it talks on.
const ACTIVE_CONSOLES: &str = "/sys/class/tty/console/active";

/// Anything bytes go through.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

/// How a bus gets its wire: the network or the port of its plan, or whatever a test has prepared.
pub trait Opener: Send {
    /// Opens it. Cancel-safe: what was half open is closed.
    fn open(&mut self) -> Opening<'_>;
}

impl Opener for BusLink {
    fn open(&mut self) -> Opening<'_> {
        match self {
            Self::ModbusTcp { endpoint } => Box::pin(connect(endpoint)),
            Self::ModbusRtu { port, serial } => Box::pin(async { open_port(port, *serial) }),
        }
    }
}

async fn connect(endpoint: &str) -> io::Result<Box<dyn Wire>> {
    let attempt = async {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host(endpoint).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s");
    let stream = timeout(CONNECT_TIMEOUT, attempt).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MAX_MS)?;
    Ok(Box::new(stream))
}

fn open_port(port: &Path, serial: SerialPlan) -> io::Result<Box<dyn Wire>> {
    let real = fs::canonicalize(port)?;
    if is_console(&real, &fs::read_to_string(ACTIVE_CONSOLES).unwrap_or_default()) {
        let text = format!("{} is a console of the kernel; opening it would change its settings", real.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let name = real.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
    let parity = match serial.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let stream = tokio_serial::new(name, serial.baud)
        .data_bits(if serial.data_bits == 7 { DataBits::Seven } else { DataBits::Eight })
        .parity(parity)
        .stop_bits(if serial.stop_bits == 2 { StopBits::Two } else { StopBits::One })
        .flow_control(FlowControl::None)
        .exclusive(true)
        .open_native_async()?;
    stream.clear(ClearBuffer::All)?;
    Ok(Box::new(stream))
}

/// Does the kernel (or a virtual terminal) talk on this port? `active`: names separated by blanks.
fn is_console(port: &Path, active: &str) -> bool {
    let Some(name) = port.strip_prefix("/dev").ok().and_then(Path::to_str) else {
        return false;
    };
    let is_virtual = name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    name == "console" || is_virtual || active.split_whitespace().any(|console| console == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_kernel_are_refused_and_others_are_not() {
        for console in ["/dev/console", "/dev/tty0", "/dev/tty7", "/dev/tty", "/dev/ttyS0", "/dev/ttyAMA0"] {
            assert!(is_console(Path::new(console), "tty0 ttyS0 ttyAMA0\n"), "{console}");
        }
        for port in ["/dev/ttyS1", "/dev/ttyUSB0", "/dev/pts/3", "/tmp/ttyS0", "/dev/ttyS01"] {
            assert!(!is_console(Path::new(port), "tty0 ttyS0\n"), "{port}");
        }
    }

    #[tokio::test]
    async fn a_missing_port_is_an_error_of_this_attempt() {
        let serial = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let mut link = BusLink::ModbusRtu { port: "/dev/serial/by-id/nothing-here".into(), serial };
        let error = link.open().await.err().expect("no such port");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
