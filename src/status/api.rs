//! The values of the tags as JSON: what the page shows, and what a script may ask for. Who asks sees the tags that the rules
//! for that user give on the broker, and no others.
//!
//! | path | answer |
//! |---|---|
//! | `GET /api/tags?device=NAME&find=TEXT&from=N&count=M&points=P` | `{"total":T,"tags":[{…}]}` |
//! | `GET /api/history?device=NAME&tag=NAME` | `{"points":[[ms since 1970, value or null],…]}` |
//!
//! All parameters of the first may be left out: `device` (then of all devices), `find` (a part of device, tag or
//! description, any case), `from` (0), `count` (50, at most 200), `points` (0, at most 600: then each tag has its newest
//! `points`, too). A tag is
//! `{"device","tag","topic","value","quality","cause","time","unit","data_type","type","min","max","writable","may_write",
//! "write_min","write_max","description"}`: value, quality, cause and time as in its MQTT payload (64 bit exact), `type`
//! `bool`, `number` or `text`; `writable`: its `access` allows it, `may_write`: to this visitor, too.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::Lobby;
use super::board::{Alarm, Board};
use super::login::problem;
use super::values::{POINTS_MAX, Point};
use super::visitor;
use crate::access::Identity;
use crate::config::plan::{Plan, TagPlan};
use crate::model::data_type::Kind;
use crate::model::quality::{Cause, Quality};
use crate::model::tag::TagIx;
use crate::model::topic::{GatewayTopics, set_topic};
use crate::payload::json;

/// Tags in one answer.
const COUNT_MAX: usize = 200;
const COUNT: usize = 50;

/// Longest text to look for, bytes: the page's field takes 100 UTF-16 units, and none of them is more than three in UTF-8.
const FIND_MAX: usize = 300;

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
struct Query {
    device: Option<String>,
    tag: Option<String>,
    find: String,
    from: usize,
    count: Option<usize>,
    points: usize,
}

impl Query {
    /// `None`: an unknown or unreadable parameter, which would else be ignored and something else answered.
    fn read(uri: &Uri) -> Option<Self> {
        let mut query = Self::default();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = plain(value)?;
            match name {
                "device" => query.device = Some(value),
                "tag" => query.tag = Some(value),
                "find" if value.len() <= FIND_MAX => query.find = value.to_lowercase(),
                "from" => query.from = value.parse().ok()?,
                "count" => query.count = Some(value.parse().ok()?),
                "points" => query.points = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(query)
    }

    fn wants(&self, plan: &Plan, tag: &TagPlan) -> bool {
        let device = plan.device(tag.device).map_or("", |device| &device.name);
        let holds = |text: &str| text.to_lowercase().contains(&self.find);
        !tag.name.is_empty()
            && self.device.as_ref().is_none_or(|wanted| wanted == device)
            && self.tag.as_ref().is_none_or(|wanted| *wanted == tag.name)
            && (self.find.is_empty() || holds(&tag.name) || holds(device) || holds(&tag.description))
    }
}

/// Percent-encoding undone (WHATWG URL, application/x-www-form-urlencoded parsing).
fn plain(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok().filter(|digits| !digits.starts_with('+'))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &after[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// `GET /api/tags`
pub(super) async fn tags(State(lobby): State<Lobby>, parts: Parts) -> Response {
    let who = match visitor::identify(&lobby, &parts).await {
        Ok(who) => who,
        Err(refused) => return visitor::refusal(refused),
    };
    let Some(query) = Query::read(&parts.uri) else { return no_such_question() };
    let operator = lobby.logins.visitor(&lobby, &parts.headers);
    let (plan, mut total, mut found) = (lobby.values.plan(), 0, Vec::new());
    let count = query.count.unwrap_or(COUNT).min(COUNT_MAX);
    for (tag, ix) in plan.tags.iter().zip((0..).map(TagIx)) {
        if !query.wants(&plan, tag) || !lobby.access.may_read(&who, &tag.topic) {
            continue;
        }
        if total >= query.from && found.len() < count {
            found.push((tag, ix));
        }
        total += 1;
    }
    let mut out = format!("{{\"total\":{total},\"tags\":[").into_bytes();
    for (place, (tag, ix)) in found.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_tag(&mut out, &lobby, (&plan, tag, ix), operator.as_ref(), query.points.min(POINTS_MAX));
    }
    out.extend_from_slice(b"]}");
    ([(CONTENT_TYPE, "application/json")], out).into_response()
}

/// `GET /api/history`
pub(super) async fn history(State(lobby): State<Lobby>, parts: Parts) -> Response {
    let who = match visitor::identify(&lobby, &parts).await {
        Ok(who) => who,
        Err(refused) => return visitor::refusal(refused),
    };
    let Some(query) = Query::read(&parts.uri).filter(|query| query.device.is_some() && query.tag.is_some()) else {
        return no_such_question();
    };
    let plan = lobby.values.plan();
    let numbered = plan.tags.iter().zip((0..).map(TagIx));
    let mut readable = numbered.filter(|(tag, _)| query.wants(&plan, tag) && lobby.access.may_read(&who, &tag.topic));
    let Some((_, ix)) = readable.next() else {
        return problem(StatusCode::NOT_FOUND, "there is no such tag, or you may not read it");
    };
    let mut out = b"{\"points\":".to_vec();
    write_points(&mut out, &lobby.values.history(ix, POINTS_MAX));
    out.push(b'}');
    ([(CONTENT_TYPE, "application/json")], out).into_response()
}

fn no_such_question() -> Response {
    problem(
        StatusCode::BAD_REQUEST,
        "this cannot be asked: device, tag, find, from, count and points can, each once behind ? or &; a history needs device and tag",
    )
}

/// The board without the alarms of tags that this visitor may not read.
pub(super) fn seen_by<'a>(lobby: &Lobby, who: &Identity, board: &'a Board) -> Cow<'a, Board> {
    let plan = lobby.values.plan();
    let topics = GatewayTopics::new(&plan.gateway.name);
    let topic = |alarm: &Alarm| topics.alarm(&alarm.device, &alarm.tag);
    // The board may be older than a plan by a moment: then another tag may stand at that place.
    let tag_topic = |alarm: &Alarm| {
        let tag = plan.tag(alarm.ix).filter(|tag| tag.name == alarm.tag)?;
        let device = plan.device(tag.device)?;
        (device.name == alarm.device).then_some(&tag.topic)
    };
    board.with_alarms(|alarm| {
        lobby.access.may_read(who, &topic(alarm))
            || tag_topic(alarm).is_some_and(|topic| lobby.access.may_read(who, topic))
    })
}

/// May this visitor write this tag?
pub(super) fn may_write(lobby: &Lobby, who: &Identity, (device, tag): (&str, &TagPlan)) -> bool {
    tag.access.writes() && lobby.access.may_operate(who, device) && lobby.access.may_write(who, &set_topic(&tag.topic))
}

fn write_tag(
    out: &mut Vec<u8>,
    lobby: &Lobby,
    (plan, tag, ix): (&Plan, &TagPlan, TagIx),
    operator: Option<&Identity>,
    points: usize,
) {
    let device = plan.device(tag.device).map_or("", |device| &device.name);
    let clock = lobby.values.clock();
    let sample = match lobby.values.newest(ix) {
        Some(sample) => json::sample(sample.value.as_ref(), sample.quality, clock.wall(sample.at)),
        None => json::sample(None, Quality::Bad(Cause::Starting), clock.wall_now()),
    };
    let kind = match tag.kind() {
        Kind::Bool => "bool",
        Kind::Number => "number",
        Kind::Text => "text",
    };
    let about = serde_json::json!({
        "device": device, "tag": tag.name, "topic": tag.topic.as_ref(), "unit": tag.unit, "type": kind,
        "data_type": tag.data_type.to_string(), "min": tag.limits.min, "max": tag.limits.max,
        "writable": tag.access.writes(), "description": tag.description,
        "may_write": operator.is_some_and(|who| may_write(lobby, who, (device, tag))),
        "write_min": tag.write.limits.min, "write_max": tag.write.limits.max,
    });
    let about = about.to_string();
    out.extend_from_slice(about.strip_suffix('}').unwrap_or(&about).as_bytes());
    out.push(b',');
    let sample = sample.strip_prefix(b"{").unwrap_or(&sample);
    out.extend_from_slice(sample.strip_suffix(b"}").unwrap_or(sample));
    if points > 0 {
        out.extend_from_slice(b",\"points\":");
        write_points(out, &lobby.values.history(ix, points));
    }
    out.push(b'}');
}

fn write_points(out: &mut Vec<u8>, points: &[Point]) {
    let _ = serde_json::to_writer(out, points); // memory takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &'static str) -> Option<Query> {
        Query::read(&Uri::from_static(query))
    }

    #[test]
    fn whatever_fits_into_the_field_of_the_page_can_be_looked_for() {
        let page = include_str!("page/index.html");
        assert!(page.lines().any(|line| line.contains("id=\"filter\"") && line.contains("maxlength=\"100\"")));
        let find = |character: &str, count| {
            let query: Uri = format!("/api/tags?find={}", character.repeat(count)).parse().expect("a path");
            Query::read(&query).map(|query| query.find.len())
        };
        assert_eq!(find("%E2%82%AC", 100), Some(300), "a hundred signs of the euro");
        assert_eq!(find("%F0%9F%94%A7", 50), Some(200), "each of them is two units");
        assert_eq!(find("a", 301), None);
    }

    #[test]
    fn a_question_is_read_whole_or_not_at_all() {
        let wanted = Query { device: Some("pump 1/ü".into()), from: 50, count: Some(10), ..Query::default() };
        assert_eq!(read("/api/tags?device=pump+1%2F%C3%BC&from=50&count=10"), Some(wanted));
        assert_eq!(read("/api/tags"), Some(Query::default()));
        assert_eq!(read("/api/tags?&find=ABC&").map(|query| query.find), Some("abc".into()));
        for wrong in ["/?from=-1", "/?from=x", "/?other=1", "/?device=%", "/?device=%zz", "/?device=%+1", "/?tag=%ff"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
