//! The process: arguments in, one subcommand run, its error chain printed, its exit code chosen.

use std::process::ExitCode;

fn main() -> ExitCode {
    ironbridge::cli::main()
}
