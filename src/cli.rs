//! The command line: names that scripts rely on, help worth reading, exit codes by what the caller should do next.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::app;
use crate::commands::demo::gateway;
use crate::commands::{self, Failed};
use crate::flow::stop::Stop;
use crate::host::journal;
use crate::host::signals::Signals;

/// Turns an industrial gateway box into a PLC-to-MQTT edge appliance
///
/// Polls Modbus devices, publishes every tag on its own MQTT broker, keeps every sample in SQLite and forwards it over
/// TLS whenever the link is there. Try it without any hardware: ironbridge demo
#[derive(Debug, Parser)]
#[command(name = "ironbridge", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 ok · 1 the verdict is no · 64 usage · 70 internal · 75 try again · 78 configuration\n\
                        Log lines go to the journal or stderr; RUST_LOG=ironbridge=debug shows each poll."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Args),
    Demo(commands::demo::Args),
    /// Check a configuration: all problems at once, or the plan and what it costs
    Check(commands::check::Args),
    /// Let the running gateway read its configuration again; other parts than the changed ones go on undisturbed
    ///
    /// Only touched buses, devices, listeners and uplinks begin anew. A configuration that is wrong changes nothing. For a
    /// minute the new one is on trial ([gateway] rollback, rollback_after).
    Reload(commands::reload::Args),
    /// Record what goes over the wires of a site, or show a recording
    ///
    /// Asks the devices of a configuration as the gateway would, with every habit, and keeps every request and every byte
    /// that came back, with times. Never writes to a device.
    Capture(commands::capture::Args),
    /// Forecast bytes and money per month, format by format
    ///
    /// From the configuration, or with --from-store from what the plant really did: how many samples, how large each
    /// format makes them, what the meters counted. Against budgets and prices of the configuration's paths.
    Cost(commands::cost::Args),
    /// Serve the devices of a configuration on this machine, with faults on request
    ///
    /// Each bus gets a free port on 127.0.0.1 or a pseudo-terminal. Try: ironbridge simulate --config plant.toml
    /// --write-config /tmp/sim.toml --dead meter-2, then ironbridge run --config /tmp/sim.toml
    Simulate(commands::simulate::Args),
    /// Play a recording back: the devices of a site, at a desk, with their delays and faults
    ///
    /// Serves what ironbridge capture recorded, each bus on this machine. Try: ironbridge replay site.capture
    /// --write-config /tmp/desk.toml, then ironbridge run --config /tmp/desk.toml
    Replay(commands::replay::Args),
    /// List the shipped register maps, or print one
    ///
    /// A device takes one with profile = "NAME". To change one, print it into a file and name that file instead:
    /// ironbridge profiles eastron-sdm630 > maps/sdm630.csv
    Profiles(commands::profiles::Args),
    /// Tags as CSV and back: edit a device in a spreadsheet, loss-free, errors by row and column
    Tags(commands::tags::Args),
    /// Receive on the cloud side: removes duplicates, reports what is missing
    Receive(commands::receive::ReceiveArgs),
    /// Look into a store, also while the gateway runs; prove that it is whole
    Store(commands::store::Args),
    /// Every plausible reading of raw registers, best guesses first
    ///
    /// For the number that looks absurd: which type and word order make sense of it.
    Decode(commands::decode::Args),
    /// Find the devices on a serial line or behind an address, and who they are; never writes
    Scan(commands::scan::Args),
    /// Read registers of a device once, by address or by tag of a configuration
    Read(commands::read::Args),
    /// Write one value to a device, after asking
    Write(commands::write::Args),
    /// Add a user of the local broker, change a password, or delete a user
    ///
    /// The password is asked for on a terminal, and read from standard input where there is none. A running gateway takes
    /// the file at its next reload (ironbridge reload, or SIGHUP).
    Passwd(commands::passwd::Args),
    /// The local broker: take over what mosquitto is configured to do
    Broker(commands::broker::Args),
    /// Put everything that helps to find a fault into one file, without secrets
    ///
    /// Configuration, plan, state of the stores, log lines, counters, versions, clock, memory, disks, ports. Also when the
    /// gateway does not run, or its configuration does not parse.
    Diag(commands::diag::Args),
    /// Delete state, users, passwords, keys and configuration, before a box is given away
    ///
    /// Says what goes and asks. Not while the gateway runs.
    FactoryReset(commands::factory_reset::Args),
    /// Print the completions of a shell
    ///
    /// For bash: ironbridge completions bash > /usr/share/bash-completion/completions/ironbridge
    Completions(commands::completions::Args),
    /// Print the manual page, or write the pages of all commands into a directory
    Man(commands::man::Args),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `help --help` asks for what `help` says, which would take it for a command's name; so does `store help -h`.
fn without_help_of_help(mut words: Vec<OsString>) -> Vec<OsString> {
    let groups = Cli::command();
    let is_group =
        |word: &OsString| word.to_str().and_then(|word| groups.find_subcommand(word)?.get_subcommands().next());
    let place = if words.get(1).and_then(is_group).is_some() { 2 } else { 1 };
    if words.get(place).is_some_and(|word| word == "help") {
        words.retain(|word| word != "--help" && word != "-h");
    }
    words
}

/// Parses the arguments and runs the subcommand.
pub fn main() -> ExitCode {
    let _last_words = journal::LastWords; // also when what follows panics
    let cli = match Cli::try_parse_from(without_help_of_help(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Failed::Usage(String::new()).code() } else { 0 };
            // A closed pipe (`ironbridge --help | head`) is nobody's error.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if !matches!(failed, Failed::Verdict) {
                // Where nobody reads that any more (`2>&1 | head`), the exit code still tells.
                journal::say_last(&format!("ironbridge: {failed}"));
            }
            ExitCode::from(failed.code())
        }
    }
}

fn run(command: Command) -> Result<(), Failed> {
    if !matches!(command, Command::Run(_)) {
        journal::begin(journal::Verbosity::Tool)
            .map_err(|error| Failed::Internal(format!("cannot begin logging: {error}")))?;
    }
    match command {
        Command::Run(args) => commands::run::run(&args),
        Command::Demo(args) => {
            let clock = commands::plain_clock();
            commands::block_on(commands::demo::run(args, clock, gateway::start_in_process()))
        }
        Command::Check(args) => commands::check::run(&args, &commands::host_facts()),
        Command::Reload(args) => commands::reload::run(&args, &commands::host_facts()),
        Command::Capture(args) => {
            let clock = commands::plain_clock();
            commands::block_on(commands::capture::run(args, &commands::host_facts(), clock))
        }
        Command::Cost(args) => commands::cost::run(&args, &commands::host_facts()),
        Command::Simulate(args) => commands::block_on(commands::simulate::run(args, &commands::host_facts())),
        Command::Replay(args) => commands::block_on(commands::replay::run(args, &commands::host_facts())),
        Command::Profiles(args) => commands::profiles::run(&args),
        Command::Tags(args) => commands::tags::run(&args, &commands::host_facts()),
        Command::Receive(args) => commands::block_on(receive(args)),
        Command::Store(args) => commands::store::run(&args, store_dir),
        Command::Decode(args) => commands::decode::run(&args, &commands::plain_clock()),
        Command::Scan(args) => commands::block_on(commands::scan::run(args, commands::plain_clock())),
        Command::Read(args) => commands::block_on(commands::read::run(args, commands::plain_clock())),
        Command::Write(args) => commands::block_on(commands::write::run(args, commands::plain_clock())),
        Command::Passwd(args) => commands::passwd::run(&args),
        Command::Broker(args) => commands::broker::run(&args),
        Command::Diag(args) => commands::diag::run(&args, &commands::host_facts()),
        Command::FactoryReset(args) => commands::factory_reset::run(&args, &commands::host_facts()),
        Command::Completions(args) => commands::completions::run(&args, Cli::command()),
        Command::Man(args) => commands::man::run(&args, Cli::command()),
        Command::Other(words) => Err(other(&words)),
    }
}

async fn receive(args: commands::receive::ReceiveArgs) -> Result<(), Failed> {
    let stop = Stop::new();
    let signals = Signals::new().map_err(|error| Failed::Internal(format!("cannot take signals over: {error}")))?;
    let driver = tokio::spawn(signals.drive(stop.clone()));
    let ended = commands::receive::run(args, commands::plain_clock(), stop).await;
    driver.abort();
    ended
}

fn store_dir(config: Option<&Path>) -> Result<PathBuf, Failed> {
    let config = config.unwrap_or(Path::new(commands::run::DEFAULT_CONFIG));
    commands::load(config).map(|plan| app::store_dir(&plan))
}

fn other(words: &[OsString]) -> Failed {
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    Failed::Usage(format!("there is no command {name:?}; see ironbridge --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_its_manual_page_and_is_completed_in_every_shell() {
        let pages = commands::man::pages(Cli::command());
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.starts_with(&["ironbridge.1"]) && names.ends_with(&["ironbridge.toml.5"]), "{names:?}");
        assert!(names.contains(&"ironbridge-store-status.1") && !names.iter().any(|name| name.contains("help")));
        for command in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
            assert!(names.contains(&format!("ironbridge-{command}.1").as_str()), "{command}");
            for shell in shells() {
                let script = commands::completions::script(shell, Cli::command());
                assert!(String::from_utf8_lossy(&script).contains(&command), "{shell:?} {command}");
            }
        }
    }

    #[test]
    fn every_command_says_the_same_of_json() {
        fn look(command: &clap::Command, told: &mut usize) {
            for json in command.get_arguments().filter(|argument| argument.get_long() == Some("json")) {
                let help = json.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.starts_with("Print ") && help.contains("JSON"), "{} --json: {help}", command.get_name());
                *told += 1;
            }
            command.get_subcommands().for_each(|below| look(below, told));
        }
        let mut told = 0;
        look(&Cli::command(), &mut told);
        assert!(told > 10, "commands have --json: {told}");
    }

    fn shells() -> Vec<commands::completions::Shell> {
        clap::ValueEnum::value_variants().to_vec()
    }

    #[test]
    fn help_of_help_is_help() {
        for asked in
            [&["help", "--help"][..], &["help", "-h"], &["help", "check", "--help"], &["store", "help", "--help"]]
        {
            let words = ["ironbridge"].iter().chain(asked).map(OsString::from).collect();
            let shown = Cli::try_parse_from(without_help_of_help(words)).expect_err("help ends the program");
            assert!(!shown.use_stderr() && shown.to_string().contains("Usage: ironbridge"), "{asked:?}: {shown}");
        }
        let words: Vec<OsString> = ["ironbridge", "decode", "help", "--help"].map(OsString::from).into();
        assert_eq!(without_help_of_help(words.clone()), words, "a word that is to be decoded");
    }

    #[test]
    fn nonsense_is_usage() {
        assert_eq!(other(&["scam".into()]).code(), 64);
    }
}
