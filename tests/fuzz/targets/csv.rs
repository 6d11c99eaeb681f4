//! Register maps as CSV, as anybody's spreadsheet may have left them.
//!
//! Promises: it becomes TOML that means the same (which `exchange` checks itself and calls a fault of its own otherwise), or
//! there are problems with places inside the file; and the TOML goes out to CSV and comes back as the same text.

use std::path::Path;

use ironbridge::config::HostFacts;
use ironbridge::config::exchange::{self, Decimal, From, Refused, Source};

use super::config::inside;

const PLANT: &str = "[gateway]\nname = \"g\"\n[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n\n";

fn import(text: &str, decimal: Decimal) -> Result<String, Refused> {
    let source = Source { path: Path::new("/nowhere/in.csv"), decimal };
    let facts = HostFacts::default();
    let told = exchange::of_text(source, text.to_owned(), None, Path::new("/nowhere/out.toml"), &facts);
    match told {
        Ok(imported) => Ok(imported.toml),
        Err(Refused::Internal(message)) => panic!("{message}"),
        Err(Refused::Problems(problems)) => {
            problems.iter().for_each(|problem| inside(problem, text));
            Err(Refused::Problems(problems))
        }
        Err(refused) => Err(refused),
    }
}

/// One file.
pub fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let decimal = if first & 1 == 0 { Decimal::Point } else { Decimal::Comma };
    let Ok(toml) = import(text, decimal) else { return };
    if !toml.contains("[[tag]]\n") {
        return;
    }
    // In a device, from there to CSV, and back.
    let tags = toml.replace("[[tag]]\n", "[[device.tag]]\n");
    let config = format!("{PLANT}{tags}");
    let from = From::Text(Path::new("/nowhere/plant.toml"), &config);
    let exported = exchange::one_device(from, "d", decimal, &HostFacts::default());
    let csv = exported.unwrap_or_else(|refused| panic!("{refused}\n{config}")).csv;
    let again = import(&csv, decimal).unwrap_or_else(|refused| panic!("{refused}\n{csv}"));
    let keys = |toml: &str| {
        toml.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&again), keys(&toml), "{csv}");
}
