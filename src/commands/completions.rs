//! `ironbridge completions SHELL`: what a shell needs to complete our commands and options, on standard output.
//!
//! Made from the command line as it is, so it cannot be older than the program. Reads and writes nothing else; packages
//! install what it prints.

/// The shells that can be asked for: bash, elvish, fish, powershell, zsh.
pub use clap_complete::Shell;

use super::Failed;

/// Arguments of `ironbridge completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the completions of `command`, the whole command line.
pub fn run(args: &Args, command: clap::Command) -> Result<(), Failed> {
    super::print(script(args.shell, command))
}

/// What [`run()`] prints.
pub fn script(shell: Shell, mut command: clap::Command) -> Vec<u8> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}
