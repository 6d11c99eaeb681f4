//! What somebody meant who wrote no TOML. The parser says which character it expected; this says what to write instead.
//!
//! Looks at the line of the mistake, and at the headers and keys above it where something stands twice. A guess for a
//! message, and nothing else: what it does not know stays as the parser says it. Pure.

use std::ops::Range;

use super::places;

/// A mistake in other words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slip {
    /// What is wrong, and what right looks like.
    pub message: String,
    /// Bytes of what is wrong.
    pub at: Range<usize>,
    /// Bytes of what it collides with.
    pub also: Option<Range<usize>>,
}

/// The same in words that help, if there are any; `said` is the parser's message, `at` its place.
pub fn meant(text: &str, at: Range<usize>, said: &str) -> Option<Slip> {
    let start = at.start.min(text.len());
    if !text.is_char_boundary(start) {
        return None;
    }
    if said.starts_with("duplicate key") {
        return twice(text, at);
    }
    let line = line_at(text, start);
    let rest = text[start..line.end].trim_end_matches('\r');
    let message = misspelt(&text[line.start..start], rest, said)?;
    Some(Slip { message, at, also: None })
}

/// What is wrong at a place in a line.
fn misspelt(before: &str, rest: &str, said: &str) -> Option<String> {
    let is_value = before.contains('=');
    let key = before.split('=').next().unwrap_or_default().trim();
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let word = rest.split([' ', '\t', '#', ',', ']', '}']).next().unwrap_or_default();
    let is_switch = ["true", "false"].iter().any(|switch| word.eq_ignore_ascii_case(switch));
    // `t`, `f`, `i` and `n` may begin something that needs no quotes, so the parser takes the word for that.
    let lacks_quotes = match said {
        _ if said.starts_with("invalid boolean") => !is_switch,
        _ if said.starts_with("invalid float") => word.starts_with(char::is_alphabetic),
        _ => said.starts_with("string values must be quoted"),
    };
    let message = match rest.chars().next() {
        _ if said.starts_with("carriage return") => {
            "lines end with a carriage return alone: save the file with the line ends of Linux (LF) or Windows (CR LF)"
        }
        Some('“' | '”' | '„' | '‘' | '’' | '«' | '»') => {
            "these quotes are for print: write straight ones, \"…\""
        }
        Some('\u{a0}' | '\u{2007}' | '\u{202f}') => "there is a no-break space here: write an ordinary one",
        Some('{') if before.trim().is_empty() => {
            "this looks like JSON: a configuration has headers such as [gateway], and below them lines such as name = \"box\""
        }
        Some(';' | '/') if before.trim().is_empty() => "a comment begins with #",
        Some(':') if !is_value => "between key and value stands =, not a colon",
        Some(',') if is_value && before.ends_with(|c: char| c.is_ascii_digit()) && digits(&rest[1..]) => {
            "a number is written with a point: 0.5, not 0,5"
        }
        Some('.') if before.ends_with(|c: char| c.is_ascii_digit()) => {
            "a number has one point; a text, such as an address, stands in quotes: \"…\""
        }
        Some('.') if is_value && digits(&rest[1..]) => "a number begins with a digit: 0.5, not .5",
        Some(']') if before.starts_with('[') => "a header has as many ] as [: [gateway], [[device]]",
        None | Some('#') if is_value && before.trim_end().ends_with('=') => {
            return Some(format!("`{key}` has no value behind the ="));
        }
        _ if said.starts_with("unclosed") && before.starts_with('[') => {
            "a header has as many ] as [: [gateway], [[device]]"
        }
        _ if is_switch => "write true or false, in small letters and without quotes",
        _ if said.contains("escape") || said.contains("unicode value") => {
            "between \"…\" a \\ begins an escape: write the text between '…', or each \\ twice"
        }
        _ if said.contains("basic string, expected `\"`") => "the closing \" is missing",
        _ if lacks_quotes => "a text stands in quotes: \"…\"",
        _ if said.starts_with("key with no value") => {
            let word = before.split_whitespace().next()?;
            let word: String = word.chars().take(40).collect();
            return Some(format!("a line is a key, = and a value; here is no = behind `{word}`"));
        }
        _ if said.starts_with("unexpected leading zero") => "a number does not begin with 0 (0x1F is hexadecimal)",
        _ => return None,
    };
    Some(message.to_owned())
}

/// `[a.b]` or `[[a.b]]`
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    path: String,
    is_list: bool,
    at: Range<usize>,
}

impl Header {
    /// The header on a line that begins at this byte.
    fn read(line: &str, start: usize) -> Option<Self> {
        let trimmed = line.trim_start();
        let inner = trimmed.strip_prefix('[')?;
        let is_list = inner.starts_with('[');
        let name = inner.trim_start_matches('[').split(']').next()?;
        let path: Vec<&str> = name.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect();
        let begin = start + (line.len() - trimmed.len());
        let length = trimmed.rfind(']').map_or(trimmed.len(), |end| end + 1);
        Some(Self { path: path.join("."), is_list, at: begin..begin + length })
    }

    fn written(&self) -> String {
        if self.is_list { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }

    fn is_below(&self, above: &str) -> bool {
        self.path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
    }
}

fn twice(text: &str, at: Range<usize>) -> Option<Slip> {
    let line = line_at(text, at.start);
    match Header::read(&text[line.clone()], line.start) {
        Some(header) => header_twice(text, &header),
        None => Some(key_twice(text, at, line.start)),
    }
}

/// What stands above collides with this header.
fn header_twice(text: &str, now: &Header) -> Option<Slip> {
    let mut first: Option<Header> = None;
    for (start, line) in lines(&text[..now.at.start]) {
        let Some(header) = Header::read(line, start) else { continue };
        if header.is_list && now.is_below(&header.path) {
            first = None; // another entry of the list in which both stand
        } else if header.path == now.path {
            let is_first = first.as_ref().is_none_or(|first| first.path != now.path && !now.is_list);
            first = if is_first { Some(header) } else { first };
        } else if first.is_none() && header.is_below(&now.path) {
            first = Some(header);
        }
    }
    let first = first?;
    let (above, here) = (first.written(), now.written());
    if first.path != now.path {
        let message = format!("{above} stands before any {here}: put it below the {here} that it belongs to");
        return Some(Slip { message, at: first.at, also: Some(now.at.clone()) });
    }
    let path = &now.path;
    let message = if places::is_list(path) {
        format!("{here} stands here and {above} above: {path} is a list, write [[{path}]] for each")
    } else if first.is_list != now.is_list {
        format!("{here} stands here and {above} above: it is there once, write [{path}] and all its keys below it")
    } else {
        format!("{here} stands here a second time: put all its keys below the first one")
    };
    Some(Slip { message, at: now.at.clone(), also: Some(first.at) })
}

/// A key that is set twice; the other place, if both begin a line.
fn key_twice(text: &str, at: Range<usize>, line: usize) -> Slip {
    let key = text.get(at.clone()).unwrap_or_default();
    let own = text[line..at.start].trim().is_empty();
    let mut also = None;
    for (start, above) in lines(&text[..line]).filter(|_| own) {
        if Header::read(above, start).is_some() {
            also = None;
        } else if above.split_once('=').is_some_and(|(name, _)| name.trim() == key) {
            let begin = start + (above.len() - above.trim_start().len());
            also = Some(begin..begin + key.len());
        }
    }
    Slip { message: format!("`{key}` is set twice in this table"), at, also }
}

/// Each line with its first byte.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |next, line| {
        let start = *next;
        *next += line.len();
        Some((start, line.trim_end()))
    })
}

/// The bytes of the line around a byte, without its end.
fn line_at(text: &str, byte: usize) -> Range<usize> {
    let start = text[..byte].rfind('\n').map_or(0, |end| end + 1);
    let end = text[byte..].find('\n').map_or(text.len(), |end| byte + end);
    start..end.max(byte)
}
