//! What a live check says, sentence by sentence: per tag, per device, per line. Pure; `text` and `json` put it together.

use super::better::Proposal;
use super::seen::{Got, Miss, View};
use super::survey::BusSurvey;
use super::theory::{Evidence, Finding, Theory};
use super::verdict::{DeviceReport, TagReport, Verdict};
use crate::commands::check::figures::counted;
use crate::commands::decode::readings::shown;
use crate::commands::field::ask::value_text;
use crate::commands::field::explain;
use crate::config;
use crate::config::plan::{DevicePlan, LineMode, Plan, TagPlan};
use crate::config::units::write_duration;
use crate::model::tag::Address;

/// So many values are shown as examples.
const EXAMPLES: usize = 3;

/// What to make of one tag; `None`: nothing, it is good.
pub fn tag(device: &DeviceReport, report: &TagReport) -> Option<String> {
    let of = &device.survey.plan.tags[report.tag];
    let why = report.seen.look.why.clone();
    let reason =
        match (&report.got, report.verdict) {
            (Got::Miss(miss), _) => missed(device, of, miss),
            (_, Verdict::Good) => None,
            (_, Verdict::NoValue) => Some("the device says that it has no value now (nan)".to_owned()),
            (_, Verdict::NotANumber) => Some(why.unwrap_or_else(|| {
                "NaN: the device says that it has no value; `nan` would make that expected".to_owned()
            })),
            _ => why,
        };
    let better = report.proposal.as_ref().and_then(|proposal| proposed(device, of, proposal));
    match (reason, better) {
        (Some(reason), Some(better)) => Some(format!("{reason}; {better}")),
        (reason, better) => reason.or(better),
    }
}

fn proposed(device: &DeviceReport, tag: &TagPlan, proposal: &Proposal) -> Option<String> {
    let reads = value_text(tag, proposal.reads.as_ref());
    match (&proposal.key, device.finding.as_ref().map(|finding| finding.theory.view)) {
        (Some((key, value)), _) => Some(format!("{key} = \"{value}\" reads {reads}: {}", proposal.confidence.as_str())),
        (None, Some(View::Lower)) => Some(format!("one lower there is {reads}")),
        (None, Some(View::Higher)) => Some(format!("one higher there is {reads}")),
        (None, Some(View::OtherTable(_, to))) => Some(format!("in {}: there is {reads}", to.as_str())),
        (None, _) => None,
    }
}

/// Why a tag has no value. What holds for the whole device is said there.
fn missed(device: &DeviceReport, tag: &TagPlan, miss: &Miss) -> Option<String> {
    if let Miss::Absent(text) = miss {
        return Some(text.clone());
    }
    let Some(address) = tag.register() else { return unsaid(device, miss) };
    match miss {
        Miss::Exception(_) if same_exception(device).is_some() => None,
        Miss::Exception(code) if *code != 2 => {
            Some(format!("exception {code}: {}", explain::exception(*code, address)))
        }
        Miss::Exception(_) => Some(no_such_address(device, address)),
        Miss::Timeout if device.survey.answered() => Some(
            "no answer to this read, though the device answers others: does it need pauses (delay_between_requests)?"
                .into(),
        ),
        Miss::Timeout | Miss::NotAsked | Miss::Absent(_) => None,
        Miss::Garbled => Some(
            "something came, but no valid answer: noise, wrong line settings, or two devices with one unit id".into(),
        ),
        Miss::TooLong => Some("longer than one request may ask for".into()),
        Miss::Lost(error) => Some(format!("the connection broke: {error}")),
    }
}

/// Of an instrument.
fn unsaid(device: &DeviceReport, miss: &Miss) -> Option<String> {
    match miss {
        Miss::Timeout if device.survey.answered() => Some(
            "not in what the instrument said meanwhile: does `match` have a group of this name in that frame?".into(),
        ),
        Miss::Garbled => Some("it said something that `match` does not fit".into()),
        Miss::Lost(_) => Some("the connection was lost".into()),
        _ => None,
    }
}

fn no_such_address(device: &DeviceReport, address: Address) -> String {
    let what = format!("exception 2, illegal data address: no {address} (modicon {}) here", config::modicon(address));
    let others = device.tags.iter().any(|report| !matches!(report.got, Got::Miss(_)));
    if others && device.finding.is_none() {
        format!("{what}, though others are; look it up in the manual, mind whether that counts from 0 or 1")
    } else {
        what
    }
}

/// The one exception that answers everything, unless another explanation was found.
fn same_exception(device: &DeviceReport) -> Option<u8> {
    let code = |report: &TagReport| match report.got {
        Got::Miss(Miss::Exception(code)) => Some(code),
        _ => None,
    };
    let first = device.tags.first().and_then(code).filter(|code| !matches!(code, 10 | 11))?;
    let all =
        device.finding.is_none() && device.tags.len() > 1 && device.tags.iter().all(|tag| code(tag) == Some(first));
    all.then_some(first)
}

/// The explanation for many tags of a device, with examples.
pub fn finding(device: &DeviceReport, finding: &Finding) -> String {
    let plan = &*device.survey.plan;
    let evidence = Evidence { plan, views: &device.survey.views };
    let share = format!("{} of {}", finding.mended.len(), counted(finding.troubled, "odd tag"));
    let sense = if finding.troubled == 1 { "makes" } else { "make" };
    let examples = |theory: Theory, most: usize| {
        let shown: Vec<String> =
            finding.mended.iter().filter_map(|tag| example(&evidence, theory, *tag)).take(most).collect();
        if shown.is_empty() { String::new() } else { format!(" ({})", shown.join("; ")) }
    };
    let thin = if finding.mended.len() == 1 { " (one tag alone is thin evidence)" } else { "" };
    let first = format!(
        "{}; then {share} {sense} sense{}: {}{thin}",
        theory(plan, device, finding.theory),
        examples(finding.theory, EXAMPLES),
        finding.confidence.as_str()
    );
    let moved = matches!(finding.theory.view, View::Lower | View::Higher);
    let others = if moved { ". Then what looks good below is wrong too" } else { "" };
    let rival = finding.rival.map(|rival| {
        let (other, examples) = (theory(plan, device, rival), examples(rival, 1));
        format!(". The registers cannot tell this from another way: {other}{examples}. The manual decides")
    });
    format!("{first}{others}{}", rival.unwrap_or_default())
}

fn example(evidence: &Evidence<'_>, theory: Theory, tag: usize) -> Option<String> {
    let of = &evidence.plan.tags[tag];
    let configured =
        Theory { view: View::Configured, floats: super::theory::Change::Keep, wholes: super::theory::Change::Keep };
    let then = evidence.see(theory, tag)?.value?;
    let now = evidence.see(configured, tag).and_then(|seen| seen.value);
    let now = now.map_or_else(|| "none".to_owned(), |value| shown(Some(&value)));
    Some(format!("{} {} instead of {now}", of.name, value_text(of, Some(&then))))
}

fn theory(plan: &Plan, device: &DeviceReport, theory: Theory) -> String {
    let mut orders: Vec<&str> = Vec::new();
    let mut types: Vec<String> = Vec::new();
    let tags = || device.tags.iter().map(|report| &plan.tags[report.tag]);
    for tag in tags().filter(|tag| theory.order(tag) != tag.order) {
        let (order, data_type) = (theory.order(tag).as_str(), tag.data_type.to_string());
        if !orders.contains(&order) {
            orders.push(order);
        }
        if !types.contains(&data_type) {
            types.push(data_type);
        }
    }
    let turned =
        (!orders.is_empty()).then(|| format!("order = \"{}\" for {}", orders.join("\" or \""), types.join(", ")));
    let moved = match theory.view {
        View::Configured => None,
        View::Lower => {
            Some("the map looks one too high: address_style = \"one-based\"? Read one register lower".to_owned())
        }
        View::Higher => Some(
            "the map looks one too low (counted from 0, and address_style says from 1?). Read one register higher"
                .to_owned(),
        ),
        View::OtherTable(from, to) => {
            Some(format!("the device keeps these in the other table: {}: in place of {}:", to.as_str(), from.as_str()))
        }
    };
    match (moved, turned) {
        (Some(moved), Some(turned)) => format!("{moved}, with {turned}"),
        (None, Some(turned)) => format!("the word order looks wrong: {turned}"),
        (moved, None) => moved.unwrap_or_else(|| "as it is".to_owned()),
    }
}

/// What else there is to say of a device.
pub fn notes(device: &DeviceReport) -> Vec<String> {
    let plan = &*device.survey.plan;
    let of = &plan[device.device];
    let timeout = of.bus.map(|bus| plan[bus].response_timeout).unwrap_or_default();
    let (survey, mut notes) = (&device.survey, Vec::new());
    if let (Some(code), Some(first)) = (same_exception(device), device.tags.first())
        && let Some(address) = plan.tags[first.tag].register()
    {
        let meaning =
            if code == 2 { "it has none of these registers".to_owned() } else { explain::exception(code, address) };
        notes.push(format!(
            "it answers every request with exception {code}: {meaning}. Is it the device that is meant?"
        ));
    }
    if survey.neighbours_barred {
        notes.push(
            "its neighbouring registers were not looked at: fill_gaps = false (max_gap = 0) forbids it".to_owned(),
        );
    }
    if let Some(slowest) = survey.slowest.filter(|slowest| *slowest > timeout / 2) {
        let (slowest, timeout) = (slowest.as_millis(), write_duration(timeout));
        notes.push(format!(
            "its answers take up to {slowest} ms, and response_timeout is {timeout}: leave it more time"
        ));
    }
    if survey.noise.stale > 0 && of.talk.is_none() {
        let late = counted(usize::try_from(survey.noise.stale).unwrap_or(usize::MAX), "answer");
        notes.push(format!("{late} came too late: raise response_timeout (now {})", write_duration(timeout)));
    }
    if survey.noise.crc > 0 {
        let frames = counted(usize::try_from(survey.noise.crc).unwrap_or(usize::MAX), "frame");
        notes.push(format!("{frames} arrived damaged: look at termination, shield, line settings"));
    }
    if survey.foreign > 0 && of.talk.is_none() {
        notes.push(explain::other_unit(of.unit_id));
    }
    notes
}

/// What a silent device means, with what its neighbours on the line do.
pub fn silence(plan: &Plan, bus: &BusSurvey, device: &DeviceReport, answering: &[u8]) -> String {
    let of: &DevicePlan = &plan[device.device];
    let bus = &plan[bus.bus];
    if let Some(line) = &bus.line {
        return unheard(of, line.mode, device);
    }
    let link = &bus.link;
    let unit = of.unit_id;
    let by_gateway = device.tags.iter().find_map(|tag| match tag.got {
        Got::Miss(Miss::Exception(code @ (10 | 11))) => Some(code),
        _ => None,
    });
    let who = match by_gateway {
        Some(code) => format!("the gateway says exception {code}: it has no answer from unit {unit}"),
        None => format!("unit {unit} does not answer"),
    };
    let missed = device.tags.iter().find_map(|tag| match &tag.got {
        Got::Miss(Miss::Garbled) => Some(
            "something came, but no valid answer: noise, wrong line settings, or two devices with this unit id"
                .to_owned(),
        ),
        Got::Miss(Miss::Lost(error)) => Some(format!(
            "the connection broke ({error}): some devices serve one client at a time; is the gateway itself connected?"
        )),
        _ => None,
    });
    if let Some(missed) = missed {
        return format!("unit {unit}: {missed}");
    }
    let list: Vec<String> = answering.iter().map(u8::to_string).collect();
    match (answering.len(), link.line().is_some()) {
        (0, true) => format!(
            "{who}, nor does anybody else that was asked on this line: are A and B swapped, do baud rate and parity fit, \
             is the line powered and terminated?"
        ),
        (0, false) => format!(
            "{who}; the connection itself works: is the unit id right? Devices with an own address often want 1, 0 or 255"
        ),
        (1, _) => format!(
            "{who}; unit {} on the same line does: look at its unit id, its power and its wiring",
            list.join(", ")
        ),
        (_, _) => format!(
            "{who}; units {} on the same line do: look at its unit id, its power and its wiring",
            list.join(", ")
        ),
    }
}

/// An instrument of a bus of type line that said nothing that could be read.
fn unheard(device: &DevicePlan, mode: LineMode, report: &DeviceReport) -> String {
    let noise = &report.survey.noise;
    let heard = noise.garbage + noise.crc + noise.stale + report.survey.foreign > 0;
    let what = match mode {
        LineMode::Poll => "does not answer its `send`",
        LineMode::Listen => "said nothing in the time it was listened to",
    };
    let why = if heard {
        "but something came that fits no `match`: look at the marks of a frame, the checksum and the patterns"
    } else {
        "and nothing at all came: is it on, do baud rate and parity fit, is it set to talk this way?"
    };
    format!("{} {what}, {why}", device.name)
}

/// Why a bus could not be opened.
pub fn not_open(plan: &Plan, bus: &BusSurvey, error: &std::io::Error) -> String {
    let link = &plan[bus.bus].link;
    let text = explain::not_open(link, error);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "{text}; another program listens there, maybe the gateway itself: stop it first (systemctl stop ironbridge)"
            )
        }
        _ => text,
    }
}
