//! The process: arguments in, one subcommand run, its error chain printed, its exit code chosen. Before that the daemon
//! tells its allocator to be thrifty.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// The allocator of the C library keeps what the reading of a large configuration and each merge of the store took, once
/// per thread: with 10 000 tags twice of what is in use.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pages that are free go back to the system at once (mimalloc, "Environment Options"): 37 MB with 10 000 tags, and 55 to 65
/// without it.
const THRIFT: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|command| command == "run") && env::var_os(THRIFT.0).is_none() {
        begin_anew();
    }
    ironbridge::cli::main()
}

/// The allocator looks at its environment once, before `main`, and has no other safe door: so the program takes its own
/// place, in the same process. Where that fails it goes on as it is, with more memory.
fn begin_anew() {
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let _ = Command::new(program).arg0(name).args(arguments).env(THRIFT.0, THRIFT.1).exec(); // returns only if it failed
}
