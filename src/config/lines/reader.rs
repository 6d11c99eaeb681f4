//! From a frame to values: groups of a pattern, and what a status text says of them. Pure.

use crate::config::plan::{Plan, Source, StatusPlan, TagPlan, TalkPlan};
use crate::model::quality::{Cause, Quality};
use crate::model::tag::{DataType, DeviceIx, TagIx};
use crate::model::value::Value;

/// What one tag gets from a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Which tag.
    pub tag: TagIx,
    /// Its raw value, or why it has none.
    pub raw: Result<Value, Cause>,
    /// What the instrument says of it.
    pub doubt: Quality,
}

/// How the frames of one device are read.
#[derive(Debug)]
pub struct Reader {
    talk: TalkPlan,
    tags: Vec<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    tag: TagIx,
    field: String,
    data_type: DataType,
}

impl Reader {
    /// For a device; `None`: it does not speak lines.
    pub fn new(plan: &Plan, device: DeviceIx) -> Option<Self> {
        let own = plan.device(device)?;
        let numbered = (0..).map(TagIx).zip(&plan.tags).skip(own.tags.start).take(own.tags.len());
        Some(Self::of(own.talk.clone()?, numbered))
    }

    /// For these tags of a device that says this.
    pub fn of<'a>(talk: TalkPlan, tags: impl IntoIterator<Item = (TagIx, &'a TagPlan)>) -> Self {
        let wanted = tags.into_iter().filter_map(|(ix, tag)| match &tag.source {
            Source::Field(field) => Some(Wanted { tag: ix, field: field.clone(), data_type: tag.data_type }),
            Source::Register(_) | Source::Model(_) | Source::Derived(_) => None,
        });
        Self { tags: wanted.collect(), talk }
    }

    /// What the device is asked.
    pub fn question(&self) -> &[u8] {
        &self.talk.send
    }

    /// The tags that it gives values to.
    pub fn tags(&self) -> impl Iterator<Item = TagIx> {
        self.tags.iter().map(|tag| tag.tag)
    }

    /// Does a pattern of the one stand among those of the other?
    pub fn speaks_like(&self, other: &Self) -> bool {
        self.talk.patterns.iter().any(|pattern| other.talk.patterns.contains(pattern))
    }

    /// What a frame says; `None`: it is not one of this device.
    pub fn read(&self, frame: &[u8]) -> Option<Vec<Reading>> {
        let (pattern, groups) =
            self.talk.patterns.iter().find_map(|pattern| pattern.read(frame).map(|groups| (pattern, groups)))?;
        let status = self.talk.status.as_ref().filter(|status| pattern.has(&status.field));
        let doubt =
            status.map_or(Quality::Good, |status| judge(status, groups.name(&status.field).map(|m| m.as_bytes())));
        let own = |field: &str| status.is_none_or(|status| status.field != field);
        // "Overload" often stands alone: then it is said of all that the device measures.
        let speaks_of_all = !self.tags.iter().any(|tag| own(&tag.field) && pattern.has(&tag.field));
        let reading = |tag: &Wanted| {
            let is_status = !own(&tag.field);
            if !pattern.has(&tag.field) {
                let lost = matches!(doubt, Quality::Bad(_)) && speaks_of_all;
                return lost.then_some(Reading { tag: tag.tag, raw: Err(Cause::Exception), doubt });
            }
            let raw = match doubt {
                Quality::Bad(cause) if !is_status => Err(cause),
                _ => groups.name(&tag.field).map_or(Err(Cause::Nan), |group| value(group.as_bytes(), tag.data_type)),
            };
            // The status itself is what it is.
            Some(Reading { tag: tag.tag, raw, doubt: if is_status { Quality::Good } else { doubt } })
        };
        Some(self.tags.iter().filter_map(reading).collect())
    }
}

/// What a status text means; one that is not listed is bad.
fn judge(plan: &StatusPlan, text: Option<&[u8]>) -> Quality {
    let text = text.unwrap_or_default().trim_ascii();
    let listed = |list: &[String]| list.iter().any(|known| known.as_bytes().trim_ascii() == text);
    if listed(&plan.good) {
        Quality::Good
    } else if listed(&plan.uncertain) {
        Quality::Uncertain(Cause::Exception)
    } else {
        Quality::Bad(Cause::Exception)
    }
}

/// The value in a group. An empty one is no value: receivers without a fix leave fields empty.
fn value(bytes: &[u8], data_type: DataType) -> Result<Value, Cause> {
    let text = std::str::from_utf8(bytes).map_err(|_| Cause::Protocol)?.trim();
    if let DataType::Text(longest) = data_type {
        let fits = text.len() <= usize::from(longest) && !text.contains(char::is_control);
        return if fits { Ok(Value::Text(text.into())) } else { Err(Cause::Config) };
    }
    if text.is_empty() {
        return Err(Cause::Nan);
    }
    // Scales write "-  12.5": the sign in its own column.
    let number = match text.split_at_checked(1) {
        Some((sign @ ("+" | "-"), rest)) => format!("{sign}{}", rest.trim_start()),
        _ => text.to_owned(),
    };
    match data_type {
        DataType::Bool => match text {
            "1" | "true" | "on" => Ok(Value::Bool(true)),
            "0" | "false" | "off" => Ok(Value::Bool(false)),
            _ => Err(Cause::Protocol),
        },
        DataType::Int64 => number.parse().map(Value::Int).map_err(|_| Cause::Protocol),
        DataType::Uint64 => number.parse().map(Value::Uint).map_err(|_| Cause::Protocol),
        _ => {
            let number: f64 = number.parse().map_err(|_| Cause::Protocol)?;
            if number.is_finite() { Ok(Value::Float(number)) } else { Err(Cause::Nan) }
        }
    }
}
