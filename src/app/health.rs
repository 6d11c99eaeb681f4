//! What is wrong, and what is only worth knowing: from what rooms have told and from how everything stands.
//!
//! A condition that a room has told and not taken back counts by its name; see [`REASONS`]. `status::health` says what the
//! difference between a reason and a note is.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::flow::notice::DatedNotice;
use crate::flow::progress::{Late, Stuck};
use crate::status::board::{Board, Bus, Device};
use crate::status::health::{Finding, Health};

use super::sources::Sources;
use super::timekeeper::UNVOUCHED;

/// Conditions that somebody has to mend. Not among them: the status page has no door. It shows the gateway and is no part of
/// its work; whoever needs it sees that nobody answers.
const REASONS: &[&str] = &[
    "store_failed",
    "broker_listener_down",
    "broker_certificate_missing",
    "broker_users_unavailable",
    "broker_retained_not_kept",
    "broker_no_more_sessions",
    "broker_no_more_subscriptions",
    "certificate_unusable",
    "uplink_disabled",
    "config_unusable",
    "commands_not_journalled",
];

/// Conditions that are seen better elsewhere.
const SEEN_ELSEWHERE: &[&str] = &["bus_down", "worker_stuck"];

/// Devices that are named; of more there is the number.
const NAMED_MAX: usize = 5;

/// Judges a board that is otherwise complete.
pub(super) fn judge(sources: &Sources, board: &Board) -> Health {
    let (mut reasons, mut notes) = (Vec::new(), Vec::new());
    let late = sources.progress.late(Instant::now());
    reasons.extend(late.iter().map(stuck));
    let standing = sources.notices.standing();
    conditions(standing.iter().cloned(), &mut reasons, &mut notes);
    for bus in board.buses.iter().filter(|bus| bus.state == "down") {
        let finding = Finding { part: "bus", name: bus.name.clone(), text: why_down(bus, &standing) };
        if bus.ours { reasons.push(finding) } else { notes.push(finding) }
    }
    for uplink in &board.uplinks {
        let finding = |text| Finding { part: "uplink", name: uplink.name.clone(), text };
        if uplink.certificate_days_left.is_some_and(|days| days < 0) {
            reasons.push(finding("its certificate has ended".to_owned()));
        }
        if uplink.state == "connecting" || uplink.state == "paused" {
            let why = uplink.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            notes.push(finding(format!("{}, {} records wait{why}", uplink.state, uplink.waiting_records)));
        }
    }
    notes.extend(devices(&board.devices, "down", "do not answer"));
    notes.extend(devices(&board.devices, "paused", "are paused by hand"));
    if board.gateway.clock == "unknown" {
        let text = "nobody vouches for the time".to_owned();
        notes.push(Finding { part: "clock", name: String::new(), text });
    } else if sources.unvouched.load(Ordering::Relaxed) {
        let text = format!(
            "{UNVOUCHED}: run chrony or systemd-timesyncd, or say gateway.time_source = \"system\" where it is right"
        );
        notes.push(Finding { part: "clock", name: String::new(), text });
    }
    Health::new(reasons, notes)
}

/// What rooms have told and not taken back.
fn conditions(standing: impl IntoIterator<Item = DatedNotice>, reasons: &mut Vec<Finding>, notes: &mut Vec<Finding>) {
    for DatedNotice { notice, .. } in standing {
        let (event, part) = (notice.event, notice.part());
        let finding = Finding { part, name: notice.subject, text: notice.detail };
        if REASONS.contains(&event) {
            reasons.push(finding);
        } else if !SEEN_ELSEWHERE.contains(&event) {
            notes.push(finding);
        }
    }
}

/// As it was told, with the cause; a loss that is not told yet may be made good in a moment.
fn why_down(bus: &Bus, standing: &[DatedNotice]) -> String {
    let mut told = standing.iter().map(|told| &told.notice).filter(|told| told.event == "bus_down");
    let lane =
        |subject: &str| subject.strip_prefix(&bus.name).is_some_and(|lane| lane.is_empty() || lane.starts_with('/'));
    let told = told.find(|told| lane(&told.subject));
    told.map_or_else(|| format!("no connection: {}", bus.endpoint), |told| told.detail.clone())
}

fn stuck(late: &Late) -> Finding {
    let why = match late.stuck {
        Stuck::Unserved => "is given no turn any more",
        Stuck::Overdue => "waits for something that takes longer than it may",
    };
    let text = format!("{} {why}, for {} s", late.kind, late.by.as_secs());
    Finding { part: "worker", name: late.name.clone(), text }
}

/// One note for all that are in a state.
fn devices(devices: &[Device], state: &str, are: &str) -> Option<Finding> {
    let them: Vec<&str> =
        devices.iter().filter(|device| device.state == state).map(|device| device.name.as_str()).collect();
    let named = them.get(..NAMED_MAX).map_or_else(|| them.join(", "), |some| format!("{} …", some.join(", ")));
    let text = format!("{} of {} {are}: {named}", them.len(), devices.len());
    (!them.is_empty()).then_some(Finding { part: "devices", name: String::new(), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice::{Notice, Phase};
    use crate::model::time::{Boot, Stamp};

    #[test]
    fn devices_that_do_not_answer_are_one_note_however_many_they_are() {
        let device = |n: usize, state| Device { name: format!("d{n}"), state, ..Device::default() };
        let devices: Vec<_> = (0..500).map(|n| device(n, if n < 3 { "down" } else { "answering" })).collect();
        let text = |all: &[Device]| super::devices(all, "down", "do not answer").map(|finding| finding.text);
        assert_eq!(text(&devices).as_deref(), Some("3 of 500 do not answer: d0, d1, d2"));
        let all: Vec<_> = (0..500).map(|n| device(n, "down")).collect();
        assert_eq!(text(&all).as_deref(), Some("500 of 500 do not answer: d0, d1, d2, d3, d4 …"));
        assert_eq!(text(&devices[3..]), None);
    }

    #[test]
    fn a_device_that_somebody_paused_is_a_note() {
        let device = |name: &str, state| Device { name: name.into(), state, ..Device::default() };
        let all = [device("pump", "paused"), device("fan", "answering")];
        let told = super::devices(&all, "paused", "are paused by hand").map(|finding| finding.text);
        assert_eq!(told.as_deref(), Some("1 of 2 are paused by hand: pump"));
    }

    /// Parts of the reasons, and of the notes.
    fn judged<const N: usize>(events: [&'static str; N]) -> [Vec<&'static str>; 2] {
        let (mut reasons, mut notes) = (Vec::new(), Vec::new());
        let told = events.map(|event| {
            let (subject, detail) = ("127.0.0.1:1".to_owned(), "address in use".to_owned());
            let at = Stamp { boot: Boot(1), micros: 0 };
            DatedNotice { at, notice: Notice { event, phase: Phase::Active, subject, detail } }
        });
        conditions(told, &mut reasons, &mut notes);
        [reasons, notes].map(|findings| findings.iter().map(|finding| finding.part).collect())
    }

    #[test]
    fn a_port_of_the_broker_that_is_taken_is_a_reason_and_one_of_the_page_is_a_note() {
        assert_eq!(judged(["broker_listener_down", "status_listener_down"]), [["broker"], ["status"]]);
        assert_eq!(judged(["broker_certificate_missing", "status_certificate_missing"]), [["broker"], ["status"]]);
    }

    #[test]
    fn that_new_clients_find_no_places_is_a_reason_and_one_full_session_is_a_note() {
        let taken = ["broker_no_more_sessions", "broker_no_more_subscriptions", "broker_session_full"];
        assert_eq!(judged(taken), [vec!["broker", "broker"], vec!["broker"]]);
    }

    #[test]
    fn an_uplink_that_waits_for_its_primary_host_is_a_note_of_the_uplink() {
        assert_eq!(judged(["host_awaited"]), [vec![], vec!["uplink"]]);
    }

    #[test]
    fn commands_that_cannot_be_journalled_are_a_reason() {
        assert_eq!(judged(["commands_not_journalled"]), [vec!["commands"], vec![]]);
    }

    #[test]
    fn a_file_that_would_not_start_is_a_reason_and_one_that_waits_for_a_restart_is_a_note() {
        assert_eq!(judged(["config_unusable", "config_needs_restart"]), [["config"], ["config"]]);
    }
}
