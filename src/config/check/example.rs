//! `example` of a device on a bus of type `line`: what it says, proved against frames, patterns and tags.

use super::super::lines::{Reader, example};
use super::super::plan::{LinePlan, Source, TagPlan, TalkPlan};
use super::super::section::{Section, Spot};
use super::line;
use crate::model::quality::Cause;
use crate::model::tag::TagIx;

const EXAMPLES_MAX: usize = 16;
/// The longest frame with marks and checksum.
const BYTES_MAX: usize = 4096 + 32;

/// What the examples say, without marks and checksums; `first`: the number of the first of the device's tags. Without the
/// frames of the bus nothing can be proved, and they stay as they are shown.
pub fn examples(
    section: &Section<'_, '_>,
    frames: Option<&LinePlan>,
    talk: &TalkPlan,
    first: usize,
    tags: &[TagPlan],
) -> Vec<Vec<u8>> {
    let Some(node) = section.get("example") else { return Vec::new() };
    let texts = line::one_or_more(section, "example");
    if texts.is_empty() || texts.len() > EXAMPLES_MAX {
        let allowed = format!("1 ..= {EXAMPLES_MAX} frames");
        section.report(section.wrong("example", node.at, format!("has {} frames", texts.len())).allowed(allowed));
    }
    let numbered = (u32::try_from(first).unwrap_or(u32::MAX)..).map(TagIx).zip(tags);
    let reader = Reader::of(talk.clone(), numbered);
    let prove = |text: Spot<&str>| {
        let Some(shown) = line::bytes_of(text.value, BYTES_MAX) else {
            section.report(section.wrong("example", text.at, "are no such bytes").allowed(line::BYTES_FORM));
            return None;
        };
        let Some(frames) = frames else { return Some(shown) };
        let said = example::said(frames, &shown).and_then(|said| {
            proved(talk, &reader, &said, |ix| tags.get((ix.0 as usize).checked_sub(first)?)).map(|()| said)
        });
        said.map_err(|message| section.report(section.wrong("example", text.at, message))).ok()
    };
    texts.into_iter().take(EXAMPLES_MAX).filter_map(prove).collect()
}

/// A pattern fits, and what it gives to each tag is a value of its type, or none for a reason that the instrument has.
fn proved<'t>(
    talk: &TalkPlan,
    reader: &Reader,
    said: &[u8],
    tag: impl Fn(TagIx) -> Option<&'t TagPlan>,
) -> Result<(), String> {
    let Some(readings) = reader.read(said) else {
        let part = talk.patterns.iter().find_map(|pattern| pattern.part(said));
        return Err(match part {
            None => "no pattern in `match` fits it".to_owned(),
            Some(part) => {
                format!(
                    "a pattern must fit the whole frame, and the one in `match` fits only `{}`",
                    part.escape_ascii()
                )
            }
        });
    };
    for reading in readings {
        let (Err(Cause::Protocol | Cause::Config), Some(tag)) = (&reading.raw, tag(reading.tag)) else { continue };
        let Source::Field(field) = &tag.source else { continue };
        let found = talk.patterns.iter().find_map(|pattern| pattern.read(said));
        let group = found.as_ref().and_then(|groups| groups.name(field)).map_or(&b""[..], |group| group.as_bytes());
        return Err(format!("`{}` for the tag {} is no {}", group.escape_ascii(), tag.name, tag.data_type));
    }
    Ok(())
}
