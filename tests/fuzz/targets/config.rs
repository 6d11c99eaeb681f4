//! A whole configuration as text.
//!
//! Promises: a plan, or a list of problems that is not empty, each with a place inside the file; the same every time; every
//! tag of a plan that is read is in exactly one wire read; what is said about a plan can be said.

use std::path::Path;

use ironbridge::config::plan::Plan;
use ironbridge::config::{self, HostFacts, Problem, blocks, forecast};
use ironbridge::model::tag::BusIx;

/// Is the place of a problem one of this text, if it is in a file of ours?
pub fn inside(problem: &Problem, text: &str) {
    let Some(place) = &problem.place else { return };
    let lines: Vec<&str> = text.split('\n').collect();
    let line = lines.get(place.line as usize - 1).unwrap_or_else(|| panic!("line {} of {}", place.line, lines.len()));
    assert!(place.column as usize <= line.chars().count() + 1, "{place} is behind the line");
    assert!(!problem.message.is_empty());
    drop(problem.to_string());
}

/// One file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let load = || config::parse(text, Path::new("/nowhere/plant.toml"), &HostFacts::default());
    match load() {
        Err(problems) => {
            assert!(problems.count() > 0);
            for problem in problems.iter().filter(|problem| problem.file.ends_with("plant.toml")) {
                inside(problem, text);
            }
            assert_eq!(load().map(drop), Err(problems));
        }
        Ok(loaded) => covered(&loaded.plan),
    }
}

fn covered(plan: &Plan) {
    let mut seen: Vec<u32> = Vec::new();
    for ix in 0..plan.buses.len() {
        let ix = BusIx(u32::try_from(ix).expect("a handful"));
        seen.extend(blocks::plan_blocks(plan, ix).iter().flat_map(|block| &block.tags).map(|tag| tag.0));
    }
    seen.sort_unstable();
    let polled = (0u32..).zip(&plan.tags).filter(|(_, tag)| tag.register().is_some() && tag.access.reads());
    assert_eq!(seen, polled.map(|(ix, _)| ix).collect::<Vec<_>>());
    drop(forecast::forecast(plan));
}
