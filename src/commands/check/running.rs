//! `check --against-running`: what a reload with this configuration would change. The running gateway compares; it is told
//! where the file stands, and must be able to read it.

use super::Args;
use crate::commands::{Failed, reload};
use crate::config::HostFacts;
use crate::host::control::Question;

/// What is printed, and how it ends.
pub(super) fn report(args: &Args, facts: &HostFacts) -> (String, Result<(), Failed>) {
    let Ok(config) = std::path::absolute(&args.config) else {
        return (String::new(), Err(Failed::TryAgain("there is no current directory".to_owned())));
    };
    let answer = match reload::ask(args.socket.as_deref(), &args.config, facts, &Question::Compare { config }) {
        Ok(answer) => answer,
        Err(failed) => return (String::new(), Err(failed)),
    };
    let ended = match answer.outcome.as_str() {
        "differs" | "unchanged" => Ok(()),
        "wrong" => Err(Failed::Config(answer.text.clone())),
        other => Err(Failed::TryAgain(format!("the gateway answered {other:?}"))),
    };
    let text = match (&ended, args.json) {
        (_, true) => serde_json::to_string(&answer).unwrap_or_default(),
        (Err(_), false) => String::new(),
        (Ok(()), false) if answer.outcome == "unchanged" => "a reload would change nothing".to_owned(),
        (Ok(()), false) if answer.restart.is_empty() => format!("a reload would change:\n{}", answer.text),
        (Ok(()), false) => format!("a reload would be refused:\n{}", answer.text),
    };
    (text, ended)
}
