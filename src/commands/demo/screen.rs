//! What the demo shows while it runs: a picture with live figures on a terminal, a line every few seconds in a pipe.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::host::journal;
use crate::plant::link::LinkState;

use super::gateway::Pulse;
use super::timeline::Moment;

/// In a pipe: a line at least this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Everything there is to show.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Since the start.
    pub elapsed: Duration,
    /// How much of the story (or of its round) has been told.
    pub percent: u64,
    /// The link.
    pub moment: Moment,
    /// The gateway.
    pub pulse: Pulse,
    /// Records that have arrived, each counted once.
    pub forwarded: u64,
    /// Records that should have arrived and did not.
    pub missing: u64,
    /// Records that arrived again.
    pub duplicates: u64,
    /// Whether the story is over and only the rest is being sent.
    pub phase: Phase,
}

/// Where the demo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The story is being told.
    Story,
    /// Polling is about to end; the rest is sent.
    Draining,
}

/// The screen.
pub struct Screen {
    kind: Kind,
}

enum Kind {
    Terminal { bars: [ProgressBar; 4], colours: Colours },
    Pipe { last: Option<(Duration, LinkState, Phase)> },
}

/// Whether text may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// A terminal that wants them.
    Yes,
    /// A pipe, or NO_COLOR is set.
    No,
}

impl Colours {
    /// What standard output wants.
    pub fn of_stdout() -> Self {
        let wanted = journal::may_colour();
        if std::io::stdout().is_terminal() && wanted { Self::Yes } else { Self::No }
    }

    /// The text in a colour of ECMA-48 (31 red, 32 green, 33 yellow, 36 cyan; 1 bold).
    pub fn paint(self, code: u8, text: &str) -> String {
        if self == Self::Yes { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Screen {
    /// For standard output, whatever it is.
    pub fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self { kind: Kind::Pipe { last: None } };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(5));
        let plain = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressStyle::with_template("  [{bar:58}] {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bars = [(); 4].map(|()| all.add(ProgressBar::new(100)));
        for line in &bars[..3] {
            line.set_style(plain.clone());
        }
        bars[3].set_style(bar.progress_chars("=> "));
        Self { kind: Kind::Terminal { bars, colours: Colours::of_stdout() } }
    }

    /// Shows the scene; in a pipe only when it is time or something changed.
    pub fn show(&mut self, scene: &Scene) {
        match &mut self.kind {
            Kind::Terminal { bars, colours } => {
                for (bar, line) in bars.iter().zip(picture(scene, *colours)) {
                    bar.set_message(line);
                }
                bars[3].set_position(scene.percent);
                bars[3].set_message(format!("{} s", scene.elapsed.as_secs()));
            }
            Kind::Pipe { last } => {
                let now = (scene.moment.link, scene.phase);
                let due = last.is_none_or(|(at, link, phase)| {
                    scene.elapsed.saturating_sub(at) >= LINE_EVERY || (link, phase) != now
                });
                if due {
                    *last = Some((scene.elapsed, now.0, now.1));
                    say(&format!("{}\n", line(scene)));
                }
            }
        }
    }

    /// Leaves the last picture where it is.
    pub fn finish(self) {
        if let Kind::Terminal { bars, .. } = self.kind {
            bars.iter().for_each(ProgressBar::abandon);
        }
    }
}

/// To standard output; a reader that has gone away is no reason to stop.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One line with everything, for a pipe.
fn line(scene: &Scene) -> String {
    format!(
        "{:>4}s  {:<22} stored {:<6} forwarded {:<6} backlog {:<6} missing {:<3} duplicates {}",
        scene.elapsed.as_secs(),
        if scene.phase == Phase::Draining { "sending the rest".to_owned() } else { link_words(scene.moment) },
        scene.pulse.stored,
        scene.forwarded,
        scene.pulse.backlog,
        scene.missing,
        scene.duplicates,
    )
}

fn link_words(moment: Moment) -> String {
    let seconds = moment.remaining.as_secs() + 1;
    match moment.link {
        LinkState::Up => "link up".to_owned(),
        LinkState::Slow(by) => format!("link slow ({} ms)", by.as_millis()),
        LinkState::Cut => format!("link cut ({seconds} s more)"),
        LinkState::BlackHole => format!("black hole ({seconds} s)"),
    }
}

/// The flow from plant to verifier with what is where.
fn picture(scene: &Scene, colours: Colours) -> [String; 3] {
    let (words, code) = (link_words(scene.moment), if scene.moment.link == LinkState::Up { 32 } else { 31 });
    let wire = match (scene.moment.link, scene.pulse.connected) {
        (LinkState::Up | LinkState::Slow(_), true) => "=====>",
        (LinkState::Up | LinkState::Slow(_), false) => "..?..>", // the link is back, the uplink does not know yet
        (LinkState::Cut, _) => "==  X ",
        (LinkState::BlackHole, _) => "==>(  ",
    };
    let boxes = format!("  [ plant ]=====>[ gateway ]{wire}( {} ){wire}[ cloud ]", colours.paint(code, &words));
    let figures = format!(
        "     stored {}   forwarded {}   backlog {}",
        colours.paint(1, &scene.pulse.stored.to_string()),
        colours.paint(1, &scene.forwarded.to_string()),
        colours.paint(if scene.pulse.backlog > 100 { 33 } else { 1 }, &scene.pulse.backlog.to_string()),
    );
    let proof = format!(
        "     missing {}   duplicates {}{}",
        colours.paint(if scene.missing == 0 { 32 } else { 31 }, &scene.missing.to_string()),
        scene.duplicates,
        if scene.phase == Phase::Draining { "   sending the rest" } else { "" },
    );
    [boxes, figures, proof]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(link: LinkState) -> Scene {
        Scene {
            elapsed: Duration::from_secs(7),
            percent: 10,
            moment: Moment { link, remaining: Duration::from_millis(3500) },
            pulse: Pulse { stored: 120, backlog: 20, sessions: 1, connected: link == LinkState::Up },
            forwarded: 100,
            missing: 0,
            duplicates: 2,
            phase: Phase::Story,
        }
    }

    #[test]
    fn a_pipe_gets_one_plain_line_with_every_figure() {
        let text = line(&scene(LinkState::Cut));
        for part in
            ["7s", "link cut (4 s more)", "stored 120", "forwarded 100", "backlog 20", "missing 0", "duplicates 2"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn the_picture_has_colours_only_when_they_are_wanted() {
        let plain = picture(&scene(LinkState::Up), Colours::No).join("\n");
        assert!(plain.contains("[ gateway ]=====>( link up )=====>[ cloud ]") && !plain.contains('\x1b'), "{plain}");
        assert!(picture(&scene(LinkState::Up), Colours::Yes).join("").contains("\x1b[32mlink up\x1b[0m"));
    }
}
