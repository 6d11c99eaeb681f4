//! What the tests of wrong configurations share: `«` marks where the place of the problem must be; the whole text is
//! right but for that.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use ironbridge::config::{self, HostFacts, Loaded, Problems};

/// A connection and a serial line.
pub const BUS: &str = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"plc\"\n\
                   [[bus]]\nname = \"line\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8N1\"\n";
/// On the connection.
pub const DEVICE: &str = "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n";
/// Without an address.
pub const TAG: &str = "[[device.tag]]\nname = \"t\"\n";
/// Without a URL.
pub const UPLINK: &str = "[[uplink]]\nname = \"u\"\n";

/// The facts of a machine called box-7.
pub fn facts() -> HostFacts {
    HostFacts { hostname: "box-7".into(), credentials_dir: None }
}

/// Reads a text as the main file.
pub fn parse(text: &str) -> Result<Loaded, Problems> {
    config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts())
}

/// What is wrong with a text.
pub fn problems(text: &str) -> Problems {
    match parse(text) {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(problems) => problems,
    }
}

/// Removes the mark and says where it was: line and column from 1.
pub fn marked(text: &str) -> (String, u32, u32) {
    let at = text.find('«').unwrap_or_else(|| panic!("no mark in:\n{text}"));
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].rsplit('\n').next().unwrap_or("").chars().count() + 1;
    let short = |number: usize| u32::try_from(number).expect("a short text");
    (text.replacen('«', "", 1), short(line), short(column))
}

/// One problem, at the mark, with this path and this in its message or allowed range.
pub fn assert_refused(prelude: &str, cases: &[(&str, &str, &str)]) {
    for (text, path, words) in cases {
        let (text, line, column) = marked(&format!("{prelude}{text}"));
        let problems = problems(&text);
        let [problem] = problems.iter().as_slice() else {
            panic!("expected one problem in\n{text}\nfound:\n{problems}");
        };
        let place = problem.place.as_ref().unwrap_or_else(|| panic!("no place: {problem}"));
        assert_eq!(
            (problem.path.as_str(), place.line, place.column),
            (*path, line, column),
            "\n{text}\nfound:\n{problem}"
        );
        assert_eq!(place.file, Path::new("/etc/ironbridge/ironbridge.toml"));
        let said = format!("{} {}", problem.message, problem.allowed.as_deref().unwrap_or(""));
        assert!(said.contains(words), "`{words}` is not in `{said}`");
    }
}
