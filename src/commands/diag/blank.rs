//! A configuration file as somebody else may see it.
//!
//! Works on any text, also on one that does not parse, because that is when a file is sent in. So nothing is looked for
//! that may be a secret: what is not known to be harmless goes. Lines stay lines, for the numbers in error messages.
//!
//! ```text
//! # anything            ->  #                       people write passwords into comments
//! key = VALUE           ->  as it is, if the program has such a key there (config::schema); but
//!   username = …            goes: there are clouds whose user is the token
//!   password_file = …       and other names of files: only of files that are there; what is none may be the secret itself
//!   url = …                 without user, password and query
//! pasword = VALUE       ->  pasword = "(removed)"   no key of ours
//! anything else         ->  (removed)
//! ```

use std::collections::BTreeSet;

use super::scrub::{self, REMOVED};
use crate::config::schema;

/// Keys whose value is the name of a file.
const FILES: [&str; 8] = [
    "key",
    "password_file",
    "proxy_password_file",
    "sas_key_file",
    "users_file",
    "certificate",
    "ca_file",
    "client_ca",
];
/// Keys whose value may be a secret where a cloud wants it so.
const NAMES: [&str; 2] = ["username", "proxy_username"];
/// Keys whose value is a URL, also one that lacks its beginning.
const URLS: [&str; 3] = ["url", "urls", "proxy"];
/// The table whose keys are free: words for numbers.
const WORDS: &str = "map";
/// Shorter ones are not looked for elsewhere: too many honest words would go.
const TAKEN_CHARS_MIN: usize = 6;

/// What became of a text.
#[derive(Debug, Default)]
pub(super) struct Blanked {
    /// As it may be seen.
    pub(super) text: String,
    /// What was taken out of it; must not be seen elsewhere either.
    pub(super) taken: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Comment,
    Newline,
    Blank(&'a str),
    /// With its quotation marks.
    Quoted(&'a str),
    Mark(char),
    Word(&'a str),
}

/// What is open: a list, or a table with the key that is being set in it.
#[derive(Debug)]
enum Open<'a> {
    List,
    Table(Option<&'a str>),
}

/// Blanks a text; `is_file` knows whether a file of this name is there.
pub(super) fn blank(text: &str, is_file: &dyn Fn(&str) -> bool) -> Blanked {
    let tokens = tokens(text);
    let known = schema::all_paths().into_iter().collect();
    let mut censor =
        Censor { header: String::new(), open: vec![Open::Table(None)], known, is_file, out: Blanked::default() };
    let mut header = false;
    let mut fresh = true; // nothing but blanks on this line so far
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            Token::Comment => censor.out.text.push('#'),
            Token::Blank(blank) => censor.out.text.push_str(blank),
            Token::Newline => {
                censor.newline();
                (header, fresh) = (false, true);
                continue;
            }
            Token::Mark('[') if fresh && censor.at_key() => {
                header = true;
                censor.header.clear();
                censor.out.text.push('[');
            }
            Token::Mark(mark) if header => censor.out.text.push(mark),
            Token::Mark(mark) => censor.mark(mark),
            Token::Word(word) | Token::Quoted(word) if header => censor.table(word),
            Token::Word(word) | Token::Quoted(word) if is_key(&tokens[at + 1..]) => censor.key(word),
            Token::Word(word) => censor.value(word, word),
            Token::Quoted(raw) => censor.value(raw, inside(raw)),
        }
        fresh = fresh && matches!(token, Token::Blank(_));
    }
    censor.out
}

/// Does `=` follow?
fn is_key(rest: &[Token<'_>]) -> bool {
    rest.iter().find(|token| !matches!(token, Token::Blank(_))) == Some(&Token::Mark('='))
}

/// Without the quotation marks.
fn inside(raw: &str) -> &str {
    let quote = raw.chars().next().unwrap_or('"');
    raw.trim_matches(quote)
}

struct Censor<'a> {
    /// Of `[header]`.
    header: String,
    open: Vec<Open<'a>>,
    /// The way to every key.
    known: BTreeSet<String>,
    is_file: &'a dyn Fn(&str) -> bool,
    out: Blanked,
}

impl<'a> Censor<'a> {
    /// A setting ends with its line, unless a bracket is open.
    fn newline(&mut self) {
        self.out.text.push('\n');
        if let [Open::Table(key)] = self.open.as_mut_slice() {
            *key = None;
        }
    }

    fn at_key(&self) -> bool {
        matches!(self.open.as_slice(), [Open::Table(None)])
    }

    fn mark(&mut self, mark: char) {
        self.out.text.push(mark);
        let nested = self.open.len() > 1;
        match (mark, self.open.last_mut()) {
            ('[', _) => self.open.push(Open::List),
            ('{', _) => self.open.push(Open::Table(None)),
            (']', Some(Open::List)) => drop(self.open.pop()),
            ('}', Some(Open::Table(_))) if nested => drop(self.open.pop()),
            (',', Some(Open::Table(key))) => *key = None,
            _ => {}
        }
    }

    /// A key is a key wherever it stands: so a bracket that was never closed hides nothing behind it.
    fn key(&mut self, raw: &'a str) {
        while matches!(self.open.last(), Some(Open::List)) {
            self.open.pop();
        }
        let free = self.in_words() && raw.len() <= 20;
        if let Some(Open::Table(open)) = self.open.last_mut() {
            *open = Some(raw.trim_matches(['"', '\'']));
        }
        if free { self.out.text.push_str(raw) } else { self.name(raw) }
    }

    fn table(&mut self, raw: &str) {
        self.header.push_str(raw.trim_matches(['"', '\'']));
        self.name(raw);
    }

    /// The way to what is being set; `None`: nothing is.
    fn path(&self) -> Option<String> {
        let mut path = self.header.clone();
        for open in &self.open {
            if let Open::Table(key) = open {
                path = if path.is_empty() { (*key)?.to_owned() } else { format!("{path}.{}", (*key)?) };
            }
        }
        Some(path)
    }

    /// A key of ours? Those of a register map are those of a device.
    fn is_ours(&self, path: &str) -> bool {
        self.known.contains(path) || self.known.contains(&format!("device.{path}"))
    }

    /// Inside of `map = { … }`.
    fn in_words(&self) -> bool {
        let [tables @ .., _] = self.open.as_slice() else { return false };
        matches!(tables.last(), Some(Open::Table(Some(WORDS)))) && self.header.ends_with("tag")
    }

    /// The name of a key or table: ours, or such that a typing mistake can be told from a secret.
    fn name(&mut self, raw: &str) {
        let name = raw.trim_matches(['"', '\'']);
        let plain = |part: &str| part.len() <= 32 && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if name.split('.').all(plain) {
            self.out.text.push_str(raw);
        } else {
            self.take(name, REMOVED);
        }
    }

    fn value(&mut self, raw: &str, value: &str) {
        match self.path() {
            Some(_) if self.in_words() => self.out.text.push_str(raw),
            Some(path) if self.is_ours(&path) => self.known(path.rsplit('.').next().unwrap_or(&path), raw, value),
            Some(_) => self.take(value, "\"(removed)\""),
            None => self.take(value, REMOVED),
        }
    }

    /// A value of a key that the program has.
    fn known(&mut self, key: &str, raw: &str, value: &str) {
        let credentials = "$CREDENTIALS_DIRECTORY/";
        if NAMES.contains(&key) {
            // Not looked for elsewhere: it is the name of the gateway as often as not.
            self.out.text.push_str("\"(removed)\"");
        } else if FILES.contains(&key) && !value.starts_with(credentials) && !(self.is_file)(value) {
            self.take(value, "\"(removed: there is no such file)\"");
        } else if value.contains("-----BEGIN") || (raw == value && !is_plain(value)) {
            self.take(value, "\"(removed)\"");
        } else {
            match url_begin(key, value) {
                Some(begin) => self.url(key, (raw, value), begin),
                None => self.out.text.push_str(&scrub::text(raw, &[])),
            }
        }
    }

    /// A value that is one URL, to its end: what may not be seen may have any character.
    fn url(&mut self, key: &str, (raw, value): (&str, &str), begin: usize) {
        let (open, close) = raw.split_once(value).unwrap_or(("\"", "\""));
        let (scheme, url) = value.split_at(begin);
        let (shown, secrets) = scrub::url_of(url);
        let shown = scrub::text(&format!("{scheme}{shown}"), &[]);
        self.out.text.extend([open, &shown, close]);
        let lost = raw.matches('\n').count().saturating_sub(shown.matches('\n').count());
        self.out.text.push_str(&"\n".repeat(lost));
        for part in secrets {
            self.remember_parts(part);
        }
        // Elsewhere it stands without the backslashes.
        let read = toml::from_str::<toml::Table>(&format!("value = {raw}")).ok();
        let read = read.as_ref().and_then(|table| table.get("value")?.as_str()).filter(|read| *read != value);
        if let Some(url) = read.and_then(|read| read.get(url_begin(key, read)?..)) {
            for part in scrub::url_of(url).1 {
                self.remember_parts(part);
            }
        }
    }

    /// User and password, or a query: as a whole, and each of what it consists of.
    fn remember_parts(&mut self, part: &str) {
        self.remember(part);
        part.split([':', '@']).for_each(|part| self.remember(part));
        self.remember(part.split_once(':').map_or("", |(_, password)| password));
        for pair in part.split(['&', '?', '#']) {
            self.remember(pair.split_once('=').map_or(pair, |(_, value)| value));
        }
    }

    fn take(&mut self, value: &str, instead: &str) {
        self.out.text.push_str(instead);
        for _ in 0..value.matches('\n').count() {
            self.out.text.push('\n');
        }
        value.lines().for_each(|line| self.remember(line));
    }

    fn remember(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.chars().count() >= TAKEN_CHARS_MIN {
            self.out.taken.push(secret.to_owned());
        }
    }
}

/// Where user and host begin in a value that is a URL: behind `://`, unless what stands before it is no scheme.
fn url_begin(key: &str, value: &str) -> Option<usize> {
    let at = value.find("://");
    let scheme = at.filter(|at| value[..*at].chars().all(scrub::is_of_scheme)).map(|at| at + 3);
    scheme.or_else(|| (at.is_some() || URLS.contains(&key)).then_some(0))
}

/// A number, a truth or a date: what may stand without quotation marks.
fn is_plain(word: &str) -> bool {
    let number = word.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-')
        && word.len() <= 40
        && word.chars().all(|c| c.is_ascii_hexdigit() || "xob_+-.:TZ".contains(c));
    number || ["true", "false", "inf", "nan"].contains(&word)
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let word = |c: char| !c.is_whitespace() && !"=#{}[],\"'".contains(c);
        let until = |ends: &dyn Fn(char) -> bool| rest.find(ends).unwrap_or(rest.len());
        let length = match first {
            '\n' => 1,
            '#' => until(&|c| c == '\n'),
            '"' | '\'' => quoted(rest, first),
            '=' | '{' | '}' | '[' | ']' | ',' => 1,
            _ if first.is_whitespace() => until(&|c| c == '\n' || !c.is_whitespace()),
            _ => until(&|c| !word(c)),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(match first {
            '\n' => Token::Newline,
            '#' => Token::Comment,
            '"' | '\'' => Token::Quoted(token),
            '=' | '{' | '}' | '[' | ']' | ',' => Token::Mark(first),
            _ if first.is_whitespace() => Token::Blank(token),
            _ => Token::Word(token),
        });
        rest = behind;
    }
    tokens
}

/// Length of a text in quotation marks, with them; one that is not closed ends with its line, or, in three, with the file.
fn quoted(text: &str, quote: char) -> usize {
    let three: String = std::iter::repeat_n(quote, 3).collect();
    if let Some(body) = text.strip_prefix(&three) {
        return body.find(&three).map_or(text.len(), |end| end + 6);
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        blank(text, &|name| name == "there.key").text
    }

    #[test]
    fn harmless_settings_stay_as_they_are() {
        let text = "[[uplink]]\nname = 'cloud'\nurls = [\"mqtts://a:1\", \"wss://b/c\"]\nkeep_alive = \"60s\"\ncommands = true\n\
                    key = \"there.key\"\npassword_file = \"$CREDENTIALS_DIRECTORY/cloud\"\n[[device.tag]]\n\
                    map = { 0 = \"off\", 1 = \"auto\" }\nscale = -1.5e-3\nwrite = { min = 0.0, verify = false }\nunit = \"°C\"\n";
        assert_eq!(clean(text), text);
    }

    #[test]
    fn everything_else_goes_and_lines_stay_lines() {
        for (text, wanted) in [
            ("# admin / hunter2\n", "#\n"),
            ("name = \"a\" # hunter2", "name = \"a\" #"),
            ("password = \"hunter2\"", "password = \"(removed)\""),
            ("pasword = 'hunter2'", "pasword = \"(removed)\""),
            ("name = hunter2", "name = \"(removed)\""),
            ("password hunter2 = 'x'", "(removed) (removed) = \"(removed)\""),
            ("password: hunter2", "(removed) (removed)"),
            ("key = \"hunter2\"", "key = \"(removed: there is no such file)\""),
            ("username = \"hunter2\"", "username = \"(removed)\""),
            ("url = \"mqtts://u:hunter2@h/x?t=hunter2\"", "url = \"mqtts://(removed)@h/x?(removed)\""),
            ("url = \"mqtts://u:s3cr;hunter2,x@h:1\"", "url = \"mqtts://(removed)@h:1\""),
            ("proxy = 'http://u:x)\"hunter2@h:1'", "proxy = 'http://(removed)@h:1'"),
            (
                "urls = [\"u:hunter2@h\", \"wss://h/m?t=a;hunter2 x\"]",
                "urls = [\"(removed)@h\", \"wss://h/m?(removed)\"]",
            ),
            ("url = \"u:hunter2@h://1\"", "url = \"(removed)@h://1\""),
            ("url = \"wss://h/m?t=a@b;hunter2\"", "url = \"wss://(removed)\""),
            ("url = '''\nwss://h?t=\nhunter2'''", "url = '''\nwss://h?(removed)'''\n"),
            ("secret = '''\nhunter2\n'''", "secret = \"(removed)\"\n\n"),
            ("secret = \"\"\"\nhunter2\nname = 1", "secret = \"(removed)\"\n\n"),
            ("secret = \"hunter2\nname = \"a\"", "secret = \"(removed)\"\nname = \"a\""),
            ("classes = [ \"a\"\nsecret = \"hunter2\"", "classes = [ \"a\"\nsecret = \"(removed)\""),
            ("[hunter2X]\nname = 1", "[(removed)]\nname = \"(removed)\""),
            ("MIIhunter2+/==", "(removed)=="),
            ("name = \"-----BEGIN PRIVATE KEY-----hunter2\"", "name = \"(removed)\""),
            ("note = { name = \"hunter2\", map = 1 }", "note = { name = \"(removed)\", map = \"(removed)\" }"),
            ("map = { a = \"hunter2\" }", "map = { a = \"(removed)\" }"),
        ] {
            assert_eq!(clean(&format!("[[uplink]]\n{text}")), format!("[[uplink]]\n{wanted}"));
        }
        let tls = "[[broker.listener]]\ntls = { key = \"hunter2\", certificate = \"there.key\", secret = 5 }";
        let wanted = tls.replace("hunter2", "(removed: there is no such file)").replace('5', "\"(removed)\"");
        assert_eq!(clean(tls), wanted);
        let text = "[[uplink]]\nurl = \"mqtts://u:p%40ssword@h?token=abcdefg\"\ntoken = \"s3cret!\"\n\
                    url = \"mqtts://u:it's;\\\"so)@h\"\nproxy = \"http://h?a=1&t=x,y=z;==\"";
        let taken = blank(text, &|_| false).taken;
        for secret in ["p%40ssword", "abcdefg", "s3cret!", "it's;\\\"so)", "it's;\"so)", "x,y=z;=="] {
            assert!(taken.iter().any(|taken| taken == secret), "{taken:?}");
        }
    }
}
