//! Serial ports: exclusive, stale input discarded, never a port on which the kernel talks.
//!
//! The path is followed anew at each opening: an adapter that was unplugged comes back under another name, and the link
//! below `/dev/serial/by-id/` leads there.

use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{
    ClearBuffer, DataBits, FlowControl, SerialPort as _, SerialPortBuilderExt as _, SerialStream, StopBits,
};
use tracing::warn;

use super::{Wire, ioctl};
use crate::config::plan::{Parity, PortPlan};

/// Where Linux lists the terminals it talks on.
const ACTIVE_CONSOLES: &str = "/sys/class/tty/console/active";

/// Opens a port. Blocks for as long as its driver likes. Without the RS-485 mode that was asked for nothing would leave the
/// adapter, so that is an error; without low latency everything works, only slower.
pub(super) fn open(plan: &PortPlan) -> io::Result<Box<dyn Wire>> {
    let real = fs::canonicalize(&plan.port)?;
    if is_console(&real, &fs::read_to_string(ACTIVE_CONSOLES).unwrap_or_default()) {
        let text = format!("{} is a console of the kernel; opening it would change its settings", real.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let name = real.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
    let parity = match plan.line.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let stream = tokio_serial::new(name, plan.line.baud)
        .data_bits(if plan.line.data_bits == 7 { DataBits::Seven } else { DataBits::Eight })
        .parity(parity)
        .stop_bits(if plan.line.stop_bits == 2 { StopBits::Two } else { StopBits::One })
        .flow_control(FlowControl::None)
        .exclusive(true)
        .open_native_async()?;
    if let Some(mode) = plan.rs485 {
        ioctl::set_rs485(ioctl::descriptor(&stream), mode).map_err(|error| {
            let text = format!("rs485: the driver of {name} cannot switch a transmitter: {error}");
            io::Error::new(error.kind(), text)
        })?;
    }
    if plan.low_latency
        && let Err(error) = ioctl::set_low_latency(ioctl::descriptor(&stream))
    {
        warn!(port = %name, %error, "low_latency: the driver of the port has no such mode");
    }
    stream.clear(ClearBuffer::All)?;
    Ok(Box::new(Undrained(stream)))
}

/// A port whose flush does nothing: that of the crate is tcdrain, which blocks the thread until the last bit has left.
struct Undrained(SerialStream);

impl AsyncRead for Undrained {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl AsyncWrite for Undrained {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
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
    use crate::config::plan::SerialPlan;

    #[test]
    fn ports_of_the_kernel_are_refused_and_others_are_not() {
        for console in ["/dev/console", "/dev/tty0", "/dev/tty7", "/dev/tty", "/dev/ttyS0", "/dev/ttyAMA0"] {
            assert!(is_console(Path::new(console), "tty0 ttyS0 ttyAMA0\n"), "{console}");
        }
        for port in ["/dev/ttyS1", "/dev/ttyUSB0", "/dev/pts/3", "/tmp/ttyS0", "/dev/ttyS01"] {
            assert!(!is_console(Path::new(port), "tty0 ttyS0\n"), "{port}");
        }
    }

    #[test]
    fn a_missing_port_is_an_error_of_this_attempt() {
        let line = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let error = open(&PortPlan::plain("/dev/serial/by-id/nothing-here", line)).err().expect("no such port");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
