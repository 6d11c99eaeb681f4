//! `check --against-running`: what a reload with this configuration would change. The running gateway compares; it is sent
//! what was read here: a hardened unit sees neither /tmp nor /root of others, and runs as a user of its own.

use std::path::Path;

use super::Args;
use crate::commands::{Failed, reload};
use crate::config::{self, HostFacts, Text};
use crate::host::control::{Answer, Question};

/// What is printed, and how it ends; `texts` are those of the configuration.
pub(super) fn report(args: &Args, facts: &HostFacts, texts: Vec<Text>) -> (String, Result<(), Failed>) {
    let Ok(config) = std::path::absolute(&args.config) else {
        return (String::new(), Err(Failed::TryAgain("there is no current directory".to_owned())));
    };
    let texts = texts.into_iter().filter(config::is_of_file).collect(); // shipped register maps everybody has
    let mut question = Question::Compare { config: config.clone(), texts: Some(texts) };
    let sent = question.fits();
    if !sent {
        question = Question::Compare { config: config.clone(), texts: None };
    }
    let answer = match reload::ask(args.socket.as_deref(), &args.config, facts, &question) {
        Ok(answer) => answer,
        Err(failed) => return (String::new(), Err(failed)),
    };
    let ended = ended(&answer, sent, &config);
    let text = match (&ended, args.json) {
        (_, true) => serde_json::to_string(&answer).unwrap_or_default(),
        (Err(_), false) => String::new(),
        (Ok(()), false) if answer.outcome == "unchanged" => "a reload would change nothing".to_owned(),
        (Ok(()), false) if answer.restart.is_empty() => format!("a reload would change:\n{}", answer.text),
        (Ok(()), false) => format!("a reload would be refused:\n{}", answer.text),
    };
    (text, ended)
}

fn ended(answer: &Answer, sent: bool, config: &Path) -> Result<(), Failed> {
    match answer.outcome.as_str() {
        "differs" | "unchanged" => Ok(()),
        // It checks here: so it is the gateway that has no access.
        "wrong" if !sent => Err(Failed::TryAgain(format!(
            "{} is too long to be sent to the gateway, and the gateway cannot read it: put it beside the configuration in \
             force, readable for the gateway's user\n{}",
            config.display(),
            answer.text
        ))),
        "wrong" => Err(Failed::Config(answer.text.clone())),
        other => Err(Failed::TryAgain(format!("the gateway answered {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_that_is_too_long_and_that_the_gateway_cannot_open_is_not_called_wrong() {
        let long =
            |bytes| Question::Compare { config: "/x".into(), texts: Some(vec![("/x".into(), "x".repeat(bytes))]) };
        assert!(long(1 << 20).fits() && !long(5 << 20).fits());
        let answer = Answer { outcome: "wrong".into(), text: "there is no such file".into(), ..Answer::default() };
        assert!(matches!(ended(&answer, true, Path::new("/x")), Err(Failed::Config(_))));
        let Err(Failed::TryAgain(told)) = ended(&answer, false, Path::new("/tmp/x.toml")) else { panic!("75") };
        assert!(
            told.contains("/tmp/x.toml") && told.contains("put it beside") && told.contains("no such file"),
            "{told}"
        );
    }
}
