//! The verdict on each tag and each device: what came, whether it makes sense, what to change. Pure.

use super::better::{self, Proposal};
use super::look::{Grade, Look};
use super::seen::{Got, Miss, Seen, View, see};
use super::survey::DeviceSurvey;
use super::theory::{Confidence, Evidence, Finding};
use crate::config::plan::{Plan, TagPlan};
use crate::model::quality::{Cause, Quality};
use crate::model::tag::DeviceIx;

/// What became of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A value that makes sense.
    Good,
    /// The device says that it has none, in the way the configuration knows (`nan`).
    NoValue,
    /// NaN, or registers that are no value of the type.
    NotANumber,
    /// Outside min and max, or a number without a word.
    Range,
    /// An instrument doubts its own value.
    Uncertain,
    /// A value that hardly is what it is meant to be.
    Suspicious,
    /// The device refuses.
    Exception,
    /// Silence.
    Timeout,
    /// Something came, but no answer.
    Garbled,
    /// No connection, or not asked.
    NotRead,
}

impl Verdict {
    /// For people and scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::NoValue => "no value",
            Self::NotANumber => "not a number",
            Self::Range => "out of range",
            Self::Uncertain => "uncertain",
            Self::Suspicious => "suspicious",
            Self::Exception => "exception",
            Self::Timeout => "no answer",
            Self::Garbled => "garbled",
            Self::NotRead => "not read",
        }
    }

    /// Is there nothing to mend?
    pub const fn is_fine(self) -> bool {
        matches!(self, Self::Good | Self::NoValue)
    }
}

/// One tag.
#[derive(Debug)]
pub struct TagReport {
    /// Its place in the plan.
    pub tag: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// What was read.
    pub seen: Seen,
    /// As it came.
    pub got: Got,
    /// A better way to read it.
    pub proposal: Option<Proposal>,
}

/// One device.
#[derive(Debug)]
pub struct DeviceReport {
    /// Which.
    pub device: DeviceIx,
    /// The evidence.
    pub survey: DeviceSurvey,
    /// One explanation for many of its tags.
    pub finding: Option<Finding>,
    /// Its tags, in plan order.
    pub tags: Vec<TagReport>,
}

impl DeviceReport {
    /// Is there nothing to mend?
    pub fn is_fine(&self) -> bool {
        self.finding.is_none() && self.tags.iter().all(|tag| tag.verdict.is_fine())
    }
}

/// Judges what was found of a device.
pub fn device(survey: DeviceSurvey) -> DeviceReport {
    let plan = &*survey.plan;
    let evidence = Evidence { plan, views: &survey.views };
    let finding = evidence.vote();
    let judge = |(tag, got): (&usize, &Got)| {
        let of = &plan.tags[*tag];
        let seen = see(plan, survey.configured(), *tag, of.order);
        let verdict = verdict(of, got, &seen);
        let proposal = proposal(plan, &survey, finding.as_ref(), *tag, verdict);
        TagReport { tag: *tag, verdict, seen, got: got.clone(), proposal }
    };
    let tags = survey.configured().iter().map(judge).collect();
    DeviceReport { device: survey.device, finding, tags, survey }
}

fn verdict(tag: &TagPlan, got: &Got, seen: &Seen) -> Verdict {
    match (got, seen.quality) {
        (Got::Miss(Miss::Exception(10 | 11) | Miss::Timeout), _) => Verdict::Timeout,
        (Got::Miss(Miss::Exception(_) | Miss::TooLong | Miss::Absent(_)), _) => Verdict::Exception,
        (Got::Miss(Miss::Garbled), _) => Verdict::Garbled,
        (Got::Miss(Miss::Lost(_) | Miss::NotAsked), _) => Verdict::NotRead,
        (_, Quality::Bad(Cause::Nan)) if !tag.nan.is_empty() => Verdict::NoValue,
        (_, Quality::Bad(_)) => Verdict::NotANumber,
        (_, _) if seen.look.grade == Grade::Absurd => Verdict::Suspicious,
        (_, Quality::Uncertain(Cause::Range)) => Verdict::Range,
        (_, Quality::Uncertain(_)) => Verdict::Uncertain,
        (_, Quality::Good) if seen.look.grade == Grade::Doubtful => Verdict::Suspicious,
        (_, Quality::Good) => Verdict::Good,
    }
}

/// By the explanation for the whole device if it has one for this tag, else by the tag's own registers.
fn proposal(
    plan: &Plan,
    survey: &DeviceSurvey,
    finding: Option<&Finding>,
    tag: usize,
    verdict: Verdict,
) -> Option<Proposal> {
    let of = &plan.tags[tag];
    let evidence = Evidence { plan, views: &survey.views };
    if let Some(finding) = finding {
        let order = finding.theory.order(of);
        let changed = finding.theory.view == View::Configured && order != of.order;
        let seen = evidence.see(finding.theory, tag).filter(|_| changed || finding.theory.view != View::Configured);
        let now = see(plan, survey.configured(), tag, of.order).value;
        // Also of what looks good as it is: if the others are read wrongly, so is this.
        if let Some(reads) = seen.and_then(|seen| seen.value).filter(|reads| now.as_ref() != Some(reads)) {
            let key = changed.then(|| ("order", order.as_str().to_owned()));
            let mended = finding.mended.contains(&tag);
            let confidence = if mended { finding.confidence } else { Confidence::Possible };
            return Some(Proposal { key, reads: Some(reads), confidence });
        }
    }
    let odd = matches!(verdict, Verdict::Suspicious | Verdict::Range | Verdict::NotANumber);
    let uneasy = of.data_type.is_integer() && matches!(survey.configured().get(&tag), Some(Got::Words(_)));
    let look = || see(plan, survey.configured(), tag, of.order).look;
    if odd || uneasy && matches!(look(), Look { grade: Grade::Uneasy, why: Some(_) }) {
        return better::reading(plan, survey.configured(), tag);
    }
    None
}
