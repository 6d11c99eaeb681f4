//! Two settings of serial ports that no crate offers without `unsafe`: RS-485 mode and low latency. The only file with
//! `unsafe` in this program.
//!
//! Fed by `serial` with a port just opened. Each call hands the kernel a structure of exactly the layout and size that the
//! request code stands for, which is all that can go wrong here; what a driver does not offer is an error (`ENOTTY`).
//!
//! Layouts (Linux, include/uapi/linux/serial.h): `struct serial_rs485` is 32 bytes on every machine; `struct
//! serial_struct` is read, changed by one bit and written back, its address fields as numbers of the machine's width.

#![allow(unsafe_code, reason = "the kernel offers these settings through ioctl only; the layouts are checked below")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl};
use tokio_serial::SerialStream;

use crate::config::plan::{Level, Rs485};

/// Request codes of include/uapi/asm-generic/ioctls.h, which x86, ARM and RISC-V use.
const TIOCGSERIAL: Opcode = 0x541E;
const TIOCSSERIAL: Opcode = 0x541F;
const TIOCSRS485: Opcode = 0x542F;
/// Some machines number their requests otherwise, and there the codes above mean something else.
const OFFERED: bool = !cfg!(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc64"
));

const RS485_ENABLED: u32 = 1;
const RS485_RTS_ON_SEND: u32 = 1 << 1;
const RS485_RTS_AFTER_SEND: u32 = 1 << 2;
/// `ASYNC_LOW_LATENCY` (include/uapi/linux/tty_flags.h); one of the flags that need no privilege.
const LOW_LATENCY: i32 = 1 << 13;

/// `struct serial_rs485`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SerialRs485 {
    flags: u32,
    delay_before_send_ms: u32,
    delay_after_send_ms: u32,
    padding: [u32; 5],
}

/// `struct serial_struct`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SerialStruct {
    kind: i32,
    line: i32,
    port: u32,
    irq: i32,
    flags: i32,
    xmit_fifo_size: i32,
    custom_divisor: i32,
    baud_base: i32,
    close_delay: u16,
    io_type: u8,
    reserved: u8,
    hub6: i32,
    closing_wait: u16,
    closing_wait2: u16,
    iomem_base: usize,
    iomem_reg_shift: u16,
    port_high: u32,
    iomap_base: usize,
}

const _: () = assert!(size_of::<SerialRs485>() == 32);
const _: () = assert!(size_of::<SerialStruct>() == if size_of::<usize>() == 8 { 72 } else { 60 });

/// The descriptor of a port.
pub(super) fn descriptor(port: &SerialStream) -> BorrowedFd<'_> {
    // SAFETY: a `SerialStream` owns an open descriptor until it is dropped, and the result borrows it.
    unsafe { BorrowedFd::borrow_raw(port.as_raw_fd()) }
}

/// Lets the driver switch the transmitter.
pub(super) fn set_rs485(port: BorrowedFd<'_>, mode: Rs485) -> io::Result<()> {
    check_offered()?;
    let mut settings = settings(mode);
    // SAFETY: TIOCSRS485 reads one `struct serial_rs485`, which `SerialRs485` is, and writes back what it made of it.
    let updater = unsafe { Updater::<{ TIOCSRS485 }, SerialRs485>::new(&mut settings) };
    // SAFETY: the request was built for its code just above.
    unsafe { ioctl(port, updater) }?;
    Ok(())
}

fn check_offered() -> io::Result<()> {
    if OFFERED { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Unsupported, "not on this kind of machine")) }
}

fn settings(mode: Rs485) -> SerialRs485 {
    let ms = |delay: std::time::Duration| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
    let rts = match mode.rts_on_send {
        Level::High => RS485_RTS_ON_SEND,
        Level::Low => RS485_RTS_AFTER_SEND,
    };
    SerialRs485 {
        flags: RS485_ENABLED | rts,
        delay_before_send_ms: ms(mode.delay_before_send),
        delay_after_send_ms: ms(mode.delay_after_send),
        padding: [0; 5],
    }
}

/// Tells the driver to hand on bytes at once. USB adapters of FTDI otherwise wait up to 16 ms for more.
pub(super) fn set_low_latency(port: BorrowedFd<'_>) -> io::Result<()> {
    check_offered()?;
    // SAFETY: TIOCGSERIAL fills one `struct serial_struct`, which `SerialStruct` is; any bytes make a valid one.
    let getter = unsafe { Getter::<{ TIOCGSERIAL }, SerialStruct>::new() };
    // SAFETY: the request was built for its code just above.
    let mut settings = unsafe { ioctl(port, getter) }?;
    settings.flags |= LOW_LATENCY;
    // SAFETY: TIOCSSERIAL reads one `struct serial_struct` and writes nothing; this one came from the kernel a moment ago.
    let setter = unsafe { Setter::<{ TIOCSSERIAL }, SerialStruct>::new(settings) };
    // SAFETY: as before.
    unsafe { ioctl(port, setter) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    #[test]
    fn rs485_settings_say_what_was_asked_for() {
        let mode = |rts_on_send| Rs485 {
            rts_on_send,
            delay_before_send: Duration::from_millis(2),
            delay_after_send: Duration::from_millis(3),
        };
        let high = settings(mode(Level::High));
        assert_eq!((high.flags, high.delay_before_send_ms, high.delay_after_send_ms), (0b011, 2, 3));
        assert_eq!(settings(mode(Level::Low)).flags, 0b101);
    }

    #[test]
    fn the_flags_lie_where_the_kernel_reads_them() {
        // serial.h: four words of 4 bytes stand before `flags`
        assert_eq!(offset_of!(SerialStruct, flags), 16);
        assert_eq!(offset_of!(SerialStruct, close_delay), 32);
        assert_eq!(offset_of!(SerialStruct, hub6), 36);
        assert_eq!(offset_of!(SerialStruct, iomem_base), if size_of::<usize>() == 8 { 48 } else { 44 });
    }

    #[test]
    fn a_terminal_that_is_no_serial_port_says_so() {
        let pty = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).expect("a pseudo-terminal");
        let mode =
            Rs485 { rts_on_send: Level::High, delay_before_send: Duration::ZERO, delay_after_send: Duration::ZERO };
        for refused in [set_rs485(pty.as_fd(), mode), set_low_latency(pty.as_fd())] {
            assert_eq!(refused.expect_err("not a port").raw_os_error(), Some(25), "ENOTTY");
        }
    }
}
