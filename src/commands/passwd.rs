//! `ironbridge passwd FILE USER`: a user of the local broker, with argon2id.
//!
//! The password comes from the terminal, unseen and twice, or as the one line of standard input. Never from the command
//! line: everybody on the machine can read those, and shells keep them. The file is replaced whole; its other lines,
//! comments and mosquitto's among them, stay as they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::Failed;
use crate::access::{self, PASSWORD_BYTES_MAX};
use crate::host::terminal::say;

/// What is read of a line: a password that is too long, and how the line ends, are told from one that is not.
const LINE_BYTES_MAX: u64 = PASSWORD_BYTES_MAX as u64 + 3;

/// Ends the line as Enter does while a password is typed, and is told from it.
const CONTROL_C: u8 = 3;

/// Arguments of `ironbridge passwd`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The file that `users_file` of the configuration names; made if it is not there
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The user
    #[arg(value_name = "USER")]
    pub user: String,
    /// Delete the user
    #[arg(short = 'D', long)]
    pub delete: bool,
    /// What people try who know mosquitto_passwd
    #[arg(hide = true, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// As above
    #[arg(short = 'b', hide = true)]
    pub batch: bool,
    /// As above
    #[arg(short = 'c', hide = true)]
    pub create: bool,
}

/// Changes the file.
pub fn run(args: &Args) -> Result<(), Failed> {
    if args.batch || args.password.is_some() {
        let message = "a password does not belong on the command line: everybody on this machine can read it there, and \
                       the shell keeps it; type it when asked, or pipe it in";
        return Err(Failed::Usage(message.to_owned()));
    }
    if args.create {
        let message = "-c is not needed: a file that is not there is made, and one that is there is never begun anew";
        return Err(Failed::Usage(message.to_owned()));
    }
    let user = args.user.as_str();
    access::check_name(user).map_err(|why| Failed::Usage(format!("user {user:?}: the name {why}")))?;
    let change = |change: &dyn Fn(&str) -> (String, bool)| {
        access::change(&args.file, change).map_err(|error| Failed::TryAgain(error.to_string()))
    };
    let told = if args.delete {
        if !args.file.exists() || !change(&|text| without(text, user))? {
            return Err(Failed::Usage(format!("{}: there is no user {user}", args.file.display())));
        }
        "deleted from"
    } else {
        let password = if io::stdin().is_terminal() { typed(user)? } else { piped(&mut io::stdin().lock())? };
        let kept = access::hash(&password).map_err(|error| Failed::TryAgain(error.to_string()))?;
        if change(&|text| with(text, user, &kept))? { "has a new password in" } else { "added to" }
    };
    say(format_args!(
        "{user} {told} {}; a running gateway takes it at its next reload (ironbridge reload)",
        args.file.display()
    ));
    Ok(())
}

fn is_of(line: &str, user: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name == user)
}

/// The text without this user's lines; was there one?
fn without(text: &str, user: &str) -> (String, bool) {
    let kept: String = text.split_inclusive('\n').filter(|line| !is_of(line, user)).collect();
    let found = kept.len() < text.len();
    (kept, found)
}

/// The text with this password in the place of the user's line, or at the end.
fn with(text: &str, user: &str, kept: &str) -> (String, bool) {
    let mut new = String::with_capacity(text.len() + kept.len());
    let mut found = false;
    for line in text.split_inclusive('\n') {
        if !is_of(line, user) {
            new.push_str(line);
        } else if !found {
            new.extend([user, ":", kept, "\n"]);
            found = true;
        }
    }
    if !found {
        let end = if new.is_empty() || new.ends_with('\n') { "" } else { "\n" };
        new.extend([end, user, ":", kept, "\n"]);
    }
    (new, found)
}

/// The one line of standard input.
fn piped(input: &mut impl Read) -> Result<Vec<u8>, Failed> {
    let mut line = Vec::new();
    let read = input.take(LINE_BYTES_MAX).read_to_end(&mut line);
    read.map_err(|error| Failed::TryAgain(format!("cannot read the password: {error}")))?;
    for end in [b'\n', b'\r'] {
        line.pop_if(|last| *last == end);
    }
    sound(line)
}

fn sound(password: Vec<u8>) -> Result<Vec<u8>, Failed> {
    if password.is_empty() {
        return Err(Failed::Usage("an empty password is none".to_owned()));
    }
    if password.len() > PASSWORD_BYTES_MAX || password.contains(&b'\n') {
        return Err(Failed::Usage(format!("a password is one line of at most {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(password)
}

/// Asked for twice on the terminal.
fn typed(user: &str) -> Result<Vec<u8>, Failed> {
    let no_terminal = |error: io::Error| Failed::TryAgain(format!("cannot ask on the terminal: {error}"));
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let unseen = Unseen::new(terminal).map_err(no_terminal)?;
    let first = unseen.ask(&format!("Password for {user}: "))?;
    let second = unseen.ask("The same again: ")?;
    if first != second {
        return Err(Failed::Usage("the two are not the same; nothing was changed".to_owned()));
    }
    Ok(first)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut unseen = before.clone();
        // Ctrl-C must not kill us while the terminal is like this.
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        unseen.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
        unseen.special_codes[SpecialCodeIndex::VEOL] = CONTROL_C;
        tcsetattr(&terminal, OptionalActions::Flush, &unseen)?;
        Ok(Self { terminal, before })
    }

    fn ask(&self, question: &str) -> Result<Vec<u8>, Failed> {
        let no_terminal = |error: io::Error| Failed::TryAgain(format!("cannot ask on the terminal: {error}"));
        (&self.terminal).write_all(question.as_bytes()).map_err(no_terminal)?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(&self.terminal).take(LINE_BYTES_MAX);
        loop {
            let before = line.len();
            let more = reader.fill_buf().map_err(no_terminal)?;
            let end = more.iter().position(|byte| matches!(*byte, b'\n' | CONTROL_C));
            line.extend_from_slice(&more[..end.map_or(more.len(), |end| end + 1)]);
            let taken = line.len() - before;
            reader.consume(taken);
            if end.is_some() || taken == 0 {
                break;
            }
        }
        match line.pop() {
            Some(b'\n') => sound(line),
            _ => Err(Failed::Usage("cancelled; nothing was changed".to_owned())),
        }
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // The terminal may be gone; nobody is left to be told then.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_stay_as_they_are() {
        let text = "# plant\nhmi:old\r\n\nlogger:x\nhmi:twice\nlast:y";
        let (new, found) = with(text, "hmi", "$new");
        assert_eq!((new.as_str(), found), ("# plant\nhmi:$new\n\nlogger:x\nlast:y", true));
        assert_eq!(with("a:b", "c", "$d"), ("a:b\nc:$d\n".to_owned(), false));
        assert_eq!(with("", "c", "$d"), ("c:$d\n".to_owned(), false));
        assert_eq!(without(text, "last"), ("# plant\nhmi:old\r\n\nlogger:x\nhmi:twice\n".to_owned(), true));
        assert!(!without(text, "las").1);
    }

    #[test]
    fn one_line_of_input_is_the_password_whatever_is_in_it() {
        let password = |mut input: &[u8]| piped(&mut input).ok();
        assert_eq!(password(b"secret\n").as_deref(), Some(&b"secret"[..]));
        assert_eq!(password(b" s p\xff\r\n").as_deref(), Some(&b" s p\xff"[..]));
        assert_eq!(password(b"no end").as_deref(), Some(&b"no end"[..]));
        for wrong in [&b""[..], b"\n", b"two\nlines\n", &[b'x'; 5000]] {
            assert_eq!(password(wrong), None);
        }
    }
}
