//! `expression = "…"`: derived tags. They are read where they stand and settled when all tags of all devices are known.

use std::collections::BTreeMap;

use super::super::expression::{Formula, Kind, Wrong};
use super::super::nearest;
use super::super::plan::{Derivation, DevicePlan, Source, TagPlan};
use super::super::problem::{Finding, Findings};
use super::super::section::{Section, Spot};
use super::super::source::At;
use crate::model::tag::{Access, TagIx};

/// Keys that say where on a wire a tag is, and how to write it there.
const OF_THE_WIRE: [&str; 12] = [
    "address",
    "order",
    "access",
    "write",
    "mask",
    "shift",
    "nan",
    "scale_from",
    "map",
    "encoding",
    "pad",
    "terminator",
];

/// An expression whose tags are not known yet.
#[derive(Debug)]
pub struct Pending {
    /// Position of its tag.
    tag: usize,
    /// Where the expression stands.
    at: At,
    /// The way to it.
    path: String,
}

/// Reads the expression of a tag; `None` where it cannot be read, which was reported.
pub fn source(section: &Section<'_, '_>, text: Spot<&str>) -> Option<Source> {
    for key in OF_THE_WIRE {
        if let Some(node) = section.get(key) {
            let message = "a tag with an expression is computed: nothing is read from or written to a device";
            section.report(section.wrong(key, node.at, message));
        }
    }
    match Formula::read(text.value) {
        Ok(formula) => {
            let text = text.value.to_owned();
            Some(Source::Derived(Box::new(Derivation { text, formula, inputs: Vec::new(), every: None })))
        }
        Err(wrong) => {
            section.report(section.wrong("expression", text.at, told(&wrong, text.value)));
            None
        }
    }
}

/// Notes an expression that was read.
pub fn pending(section: &Section<'_, '_>, text: Spot<&str>, tag: usize) -> Pending {
    Pending { tag, at: text.at, path: format!("{}.expression", section.trail) }
}

/// The problem with its place in the expression, for people.
fn told(wrong: &Wrong, text: &str) -> String {
    let before = text.get(..wrong.at).unwrap_or(text);
    format!("{} (at character {})", wrong.message, before.chars().count() + 1)
}

/// Finds the tags of all expressions; reports those that do not exist, that go round in a circle, or are of the wrong kind.
pub fn settle(pending: &[Pending], devices: &[DevicePlan], tags: &mut [TagPlan], findings: &Findings) {
    // In order, so that of two names as near as each other the same one is meant every time.
    let mut book: BTreeMap<String, usize> = BTreeMap::new();
    for (position, tag) in tags.iter().enumerate() {
        if let Some(device) = devices.get(tag.device.0 as usize) {
            book.insert(format!("{}/{}", device.name, tag.name), position);
        }
    }
    for one in pending {
        let Some(own) = tags.get(one.tag).and_then(|tag| devices.get(tag.device.0 as usize)) else { continue };
        let inputs = inputs(one, &own.name, &book, tags, findings);
        if let Some(Source::Derived(derivation)) = tags.get_mut(one.tag).map(|tag| &mut tag.source) {
            derivation.inputs = inputs;
        }
    }
    let circles: Vec<bool> = pending.iter().map(|one| in_circle(one.tag, tags)).collect();
    for (one, circle) in pending.iter().zip(circles) {
        if circle {
            findings.report(Finding::value(one.at, &one.path, "the expression depends on its own result"));
            continue;
        }
        check_kind(one, tags, findings);
        // For forecasts: as often as the input that is read most often.
        let Some(Source::Derived(derivation)) = tags.get(one.tag).map(|tag| &tag.source) else { continue };
        let polls = derivation.inputs.iter().filter_map(|ix| tags.get(ix.0 as usize)).map(|tag| tag.poll);
        if let (None, Some(poll)) = (derivation.every, polls.min()) {
            tags[one.tag].poll = poll;
        }
    }
}

/// The tags an expression names.
fn inputs(
    one: &Pending,
    own: &str,
    book: &BTreeMap<String, usize>,
    tags: &[TagPlan],
    findings: &Findings,
) -> Vec<TagIx> {
    let Some(Source::Derived(derivation)) = tags.get(one.tag).map(|tag| &tag.source) else { return Vec::new() };
    let mut inputs = Vec::new();
    for name in derivation.formula.names() {
        let full = if name.contains('/') { name.clone() } else { format!("{own}/{name}") };
        let Some(&position) = book.get(&full) else {
            let hint = nearest::hint(&full, book.keys().map(String::as_str));
            let message = format!("there is no tag {{{full}}}{hint}");
            findings.report(
                Finding::value(one.at, &one.path, message).allowed("{device/tag}, or {tag} of the same device"),
            );
            continue;
        };
        if tags.get(position).is_some_and(|tag| tag.access == Access::Write) {
            findings.report(Finding::value(one.at, &one.path, format!("{{{full}}} is only written, never read")));
        }
        inputs.extend(u32::try_from(position).map(TagIx));
    }
    inputs
}

/// Does the value of a tag depend on itself?
fn in_circle(tag: usize, tags: &[TagPlan]) -> bool {
    let inputs = |position: usize| match tags.get(position).map(|tag| &tag.source) {
        Some(Source::Derived(derivation)) => derivation.inputs.as_slice(),
        _ => &[],
    };
    let mut seen = vec![false; tags.len()];
    let mut open: Vec<TagIx> = inputs(tag).to_vec();
    while let Some(TagIx(next)) = open.pop() {
        if next as usize == tag {
            return true;
        }
        if !std::mem::replace(&mut seen[next as usize], true) {
            open.extend_from_slice(inputs(next as usize));
        }
    }
    false
}

/// Does the expression give what its type holds?
fn check_kind(one: &Pending, tags: &[TagPlan], findings: &Findings) {
    let Some(tag) = tags.get(one.tag) else { return };
    let Source::Derived(derivation) = &tag.source else { return };
    if derivation.inputs.len() != derivation.formula.names().len() {
        return; // reported
    }
    let kinds: Vec<Kind> = derivation.inputs.iter().map(|ix| Kind::of_tag(&tags[ix.0 as usize])).collect();
    let wanted = Kind::of(tag.data_type);
    let message = match derivation.formula.kind(&kinds) {
        Ok(kind) if kind == wanted => return,
        Ok(kind) => {
            let word = match kind {
                Kind::Number => "float64",
                Kind::Bool => "bool",
                Kind::Text => "string(N)",
            };
            format!("gives {}, and the type is {}: write type = \"{word}\"", kind.as_str(), tag.data_type)
        }
        Err(wrong) => told(&wrong, &derivation.text),
    };
    findings.report(Finding::value(one.at, &one.path, message));
}
