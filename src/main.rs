//! The process: arguments in, one subcommand run, its error chain printed, its exit code chosen.

use std::process::ExitCode;

/// The allocator of the C library keeps what the reading of a large configuration and each merge of the store took, once
/// per thread: with 10 000 tags twice of what is in use.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ironbridge::cli::main()
}
