//! The end of the demo: what the gateway's store says it had against what arrived. Pure.

use std::fmt::Write as _;

use crate::receive::ledger::Report;

use super::screen::Colours;
use super::verifier::Findings;

/// Everything the verdict rests on.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The verifier's books, told the newest numbers of the closed store.
    pub findings: Findings,
    /// Records stored while the link was away.
    pub stored_while_away: u64,
    /// Sessions of the uplink.
    pub sessions: u64,
    /// Bytes that went up.
    pub bytes_up: u64,
}

/// One row of the table.
struct Row {
    what: &'static str,
    figure: String,
    good: Option<bool>,
    remark: String,
}

impl Evidence {
    /// Is everything there, once at least, in order and right?
    pub fn is_good(&self) -> bool {
        self.rows().iter().all(|row| row.good != Some(false))
    }

    /// The table for people, with a last line that says it.
    pub fn table(&self, colours: Colours) -> String {
        let mut text = String::from("\n  Verdict: what the gateway's store had against what arrived in the cloud\n\n");
        for Row { what, figure, good, remark } in self.rows() {
            let mark = match good {
                Some(true) => colours.paint(32, "ok  "),
                Some(false) => colours.paint(31, "FAIL"),
                None => "    ".to_owned(),
            };
            let _ = writeln!(text, "    {what:<34}{figure:>9}  {mark}  {remark}");
        }
        for wrong in &self.findings.wrong_listed {
            let _ = writeln!(text, "      never held: {wrong}");
        }
        let last = if self.is_good() {
            colours.paint(32, "Nothing is missing, nothing is wrong.")
        } else {
            colours.paint(31, "This should not have happened: please report it with the data directory (--data-dir).")
        };
        let _ = writeln!(text, "\n  {last}");
        text
    }

    fn rows(&self) -> Vec<Row> {
        let nothing = Report {
            received: 0,
            duplicates: 0,
            out_of_order: 0,
            declared_lost: 0,
            missing: 0,
            outstanding: 0,
            not_tracked: 0,
            streams: Vec::new(),
        };
        let report = self.findings.report.clone().unwrap_or(nothing);
        let missing = report.missing + report.outstanding + report.not_tracked;
        let streams: Vec<String> =
            report.streams.iter().map(|stream| format!("{} {}", stream.stream, stream.received)).collect();
        let row = |what, figure: u64, good, remark: String| Row { what, figure: figure.to_string(), good, remark };
        let none = |figure: u64| Some(figure == 0);
        vec![
            row("committed by the store", report.received + missing + report.declared_lost, None, String::new()),
            row("arrived in the cloud", report.received, Some(report.received > 0), streams.join(", ")),
            row("missing", missing, none(missing), String::new()),
            row("declared lost", report.declared_lost, none(report.declared_lost), String::new()),
            row("out of order", report.out_of_order, none(report.out_of_order), String::new()),
            row("values the plant never held", self.findings.wrong, none(self.findings.wrong), self.compared()),
            row("duplicates", report.duplicates, None, "at least once: a receiver drops them by number".into()),
            row("stored while the link was away", self.stored_while_away, None, "polling did not notice".into()),
            row("sessions of the uplink", self.sessions, None, format!("{} KiB sent", self.bytes_up / 1024)),
        ]
    }

    fn compared(&self) -> String {
        let Findings { checked, without_value, .. } = &self.findings;
        format!("{checked} compared, {without_value} said they have no value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::{Class, Epoch, Number, Seq};
    use crate::receive::ledger::{Begin, Ledger};

    fn evidence(seqs: impl IntoIterator<Item = u64>, newest: u64) -> Evidence {
        let mut ledger = Ledger::new(Begin::One);
        for seq in seqs {
            ledger.note(Number { stream: Class::Telemetry, epoch: Epoch(7), seq: Seq(seq) }, None);
        }
        ledger.note_newest(Class::Telemetry, Epoch(7), Seq(newest));
        let findings = Findings { report: Some(ledger.report()), checked: 9, ..Findings::default() };
        Evidence { findings, stored_while_away: 3, sessions: 2, bytes_up: 4096 }
    }

    #[test]
    fn everything_arrived_is_good_even_with_duplicates() {
        let all = evidence([1, 2, 3, 2, 3, 4], 4);
        assert!(all.is_good());
        assert!(all.table(Colours::No).contains("Nothing is missing, nothing is wrong."));
    }

    #[test]
    fn a_hole_an_end_that_never_came_a_wrong_value_and_silence_are_not() {
        assert!(!evidence([1, 2, 4], 4).is_good(), "a hole");
        assert!(!evidence([1, 2, 3], 4).is_good(), "the last one never came");
        assert!(!evidence([], 0).is_good(), "nothing at all");
        let mut wrong = evidence([1], 1);
        wrong.findings.wrong = 1;
        wrong.findings.wrong_listed.push("demo/x = 5".into());
        assert!(!wrong.is_good());
        assert!(wrong.table(Colours::No).contains("never held: demo/x = 5"));
    }
}
