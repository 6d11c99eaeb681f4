//! `ironbridge store purge`: the oldest records go, declared where they were owed.

use std::path::Path;

use super::moment::{Moment, moment};
use super::{Where, failed};
use crate::commands::{self, Failed};
use crate::host::clock::RELEASE_MS;
use crate::host::terminal::say;
use crate::model::number::Class;
use crate::store::purge::{self, Owed, Purge, PurgeError, Purged};

/// `ironbridge store purge`
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("upto").required(true).args(["before", "older"]))]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    pub(super) place: Where,
    /// What was taken before: 2026-11-20T20:00:00Z, 2026-11-20, or -30d
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment)]
    before: Option<Moment>,
    /// What is older than this, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = crate::commands::duration)]
    older: Option<std::time::Duration>,
    /// Only this class (alarm, event, telemetry, bulk); may be repeated
    #[arg(long, value_name = "CLASS", value_parser = super::class)]
    class: Vec<Class>,
    /// Leave what some uplink is still owed, and what comes after it
    #[arg(long)]
    acknowledged_only: bool,
    /// Say what would go, and change nothing; also while the gateway runs
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Purges, after it has asked.
pub(super) fn run(dir: &Path, args: &PurgeArgs) -> Result<(), Failed> {
    let before = args.older.map(Moment::Ago).or(args.before);
    let Some(before) = before else { return Err(Failed::Usage("say --before or --older".into())) };
    let wanted = Purge {
        classes: if args.class.is_empty() { Class::ALL.to_vec() } else { args.class.clone() },
        before_ms: before.unix_ms().map_err(Failed::Usage)?,
        owed: if args.acknowledged_only { Owed::Stays } else { Owed::Goes },
    };
    for class in purge::held_up(dir, &wanted).map_err(explain)? {
        say(format_args!(
            "{class}: numbers that are owed are missing and not declared (in a damaged file that is still to be read?): \
             what lies behind them stays until the gateway has run and read or declared them"
        ));
    }
    let ahead = purge::preview(dir, &wanted, RELEASE_MS).map_err(explain)?;
    if args.dry_run || ahead.is_empty() {
        return commands::print(format!("{}\n", shown(&ahead, "would go", args)));
    }
    if !args.yes {
        let question = format_args!("{}\nPurge? This cannot be taken back.", shown(&ahead, "will go", args));
        let instead = "this cannot be taken back: say --yes, or --dry-run to see what would go";
        if !commands::confirmed(question, instead)? {
            say("nothing was purged");
            return Ok(());
        }
    }
    let gone = purge::purge(dir, &wanted, RELEASE_MS).map_err(explain)?;
    commands::tell(&shown(&gone, "went", args));
    Ok(())
}

fn explain(error: PurgeError) -> Failed {
    match error {
        PurgeError::Store(error) => failed(&error),
        PurgeError::InUse | PurgeError::Unwritable(_) => Failed::TryAgain(error.to_string()),
    }
}

fn shown(purged: &[Purged], word: &str, args: &PurgeArgs) -> String {
    if args.place.json {
        let rows: Vec<_> = purged.iter().map(row).collect();
        return serde_json::json!({ "outcome": word, "streams": rows }).to_string();
    }
    if purged.is_empty() {
        return "nothing is that old (a segment goes when all of it is; what is in the tail stays)".to_owned();
    }
    let line = |Purged { stream, records, unacknowledged, upto, bytes }: &Purged| {
        let owed = if *unacknowledged > 0 {
            format!(", {unacknowledged} of them not acknowledged: uplinks get a gap record")
        } else {
            String::new()
        };
        format!("{stream}: {records} records {word}, taken up to {upto}, {bytes} bytes{owed}")
    };
    purged.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(purged: &Purged) -> serde_json::Value {
    serde_json::json!({
        "stream": purged.stream.as_str(), "records": purged.records, "unacknowledged": purged.unacknowledged,
        "upto": purged.upto.to_string(), "bytes": purged.bytes,
    })
}
