//! From the text of an expression to its words.

use super::Wrong;

/// A word and the byte it begins at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'a> {
    pub at: usize,
    pub word: Word<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word<'a> {
    Whole(i128),
    Real(f64),
    Text(&'a str),
    /// What stands between braces.
    Reference(&'a str),
    /// A function, `and`, `or`, `not`, `true`, `false`.
    Name(&'a str),
    /// An operator, a parenthesis, a comma.
    Sign(&'static str),
}

/// The longer ones first.
const SIGNS: [&str; 19] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "^", "!", "(", ")", ",", "="];

/// Cuts a text into words.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Wrong> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (word, length) = word(rest, first).map_err(|message| Wrong { at, message })?;
        tokens.push(Token { at, word });
        at += length;
    }
    Ok(tokens)
}

/// The first word of a text that is not empty, and its length in bytes.
fn word(rest: &str, first: char) -> Result<(Word<'_>, usize), String> {
    match first {
        '{' => {
            let name = enclosed(rest, '}').ok_or("a brace without its partner: write {device/tag}")?;
            Ok((Word::Reference(name), name.len() + 2))
        }
        '\'' | '"' => {
            let inside = enclosed(rest, first).ok_or("a text without its end")?;
            Ok((Word::Text(inside), inside.len() + 2))
        }
        '0'..='9' | '.' => number(rest),
        'a'..='z' | 'A'..='Z' | '_' => {
            let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            Ok((Word::Name(&rest[..length]), length))
        }
        other => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(&"=") => Err("a single = compares nothing: write ==".to_owned()),
            Some(sign) => Ok((Word::Sign(sign), sign.len())),
            None => Err(format!("`{other}` has no meaning here")),
        },
    }
}

/// What stands between the first character, one byte long, and the next `end`.
fn enclosed(rest: &str, end: char) -> Option<&str> {
    rest[1..].split_once(end).map(|(inside, _)| inside)
}

/// Digits, a point, an exponent.
fn number(rest: &str) -> Result<(Word<'_>, usize), String> {
    let digits = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(0);
    let mut real = false;
    if rest[length..].starts_with('.') {
        real = true;
        length += 1 + digits(length + 1);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            real = true;
            length += 1 + sign + exponent;
        }
    }
    let text = &rest[..length];
    if rest[length..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
        return Err(format!("`{text}` is followed by what belongs to no number; tags stand in braces: {{device/tag}}"));
    }
    if !real && let Ok(whole) = text.parse() {
        return Ok((Word::Whole(whole), length));
    }
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number.is_finite() { Ok((Word::Real(number), length)) } else { Err(format!("`{text}` is too large")) }
}
