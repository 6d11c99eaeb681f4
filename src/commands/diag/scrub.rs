//! Secrets out of free text: log lines, error texts, answers of the daemon.
//!
//! Our own log lines have none to begin with; this is the second lock on that door, and the only one for what others write
//! into the same journal. What goes:
//!
//! ```text
//! scheme://USER:PASSWORD@host/path?QUERY      user, password and query of every URL
//! password=VALUE "token": "VALUE" …           the value behind a word that says secret, and `=` or `:`
//! Authorization: …                            the rest of the line
//! $argon2id$… $7$… $6$…                       hashes of passwords
//! -----BEGIN … PRIVATE KEY-----               to its END, or to the end of the text
//! any of the given secrets                    what was taken out of a configuration, wherever it is repeated
//! ```

/// What stands where something was taken out.
pub(super) const REMOVED: &str = "(removed)";

/// A word that ends in one of these says that a secret follows.
const WORDS: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "psk",
    "secret",
    "token",
    "api_key",
    "apikey",
    "accesskey",
    "access_key",
    "sig",
    "private_key",
];
const REST_OF_LINE: &str = "authorization";
const HASHES: [&str; 3] = ["$argon2", "$7$", "$6$"];

/// The text without secrets. `known` must not be found in it in any case.
pub(super) fn text(text: &str, known: &[String]) -> String {
    let mut clean = without_keys(text);
    for secret in known {
        if clean.contains(secret.as_str()) {
            clean = clean.replace(secret.as_str(), REMOVED);
        }
    }
    let lines = clean.split_inclusive('\n').map(|line| named(&urls(line)));
    lines.collect()
}

/// Private keys in PEM.
fn without_keys(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("-----BEGIN ") {
        let head = rest[at..].find('\n').map_or(rest.len(), |end| at + end);
        let private = rest[at..head].contains("PRIVATE");
        let end = rest[head..].find("-----END ").map(|end| head + end + "-----END ".len());
        let end = end.map_or(rest.len(), |end| rest[end..].find("-----").map_or(rest.len(), |dashes| end + dashes + 5));
        out.push_str(&rest[..at]);
        out.push_str(if private { REMOVED } else { &rest[at..end] });
        rest = &rest[end..];
    }
    out + rest
}

/// Every URL of a line without user, password and query. It goes to the next blank or `"`, and to the next `'` where it
/// begins with one: anything else may stand in a password.
fn urls(line: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(line.len()), line);
    while let Some(at) = rest.find("://") {
        let single = rest[..at].trim_end_matches(is_of_scheme).ends_with('\'');
        let (front, url) = rest.split_at(at + 3);
        let ends = |c: char| c.is_whitespace() || c == '"' || single && c == '\'';
        let (whole, behind) = url.split_at(url.find(ends).unwrap_or(url.len()));
        // Of the sentence around it.
        let mut bare = whole;
        while !bare.ends_with(REMOVED)
            && let Some(shorter) = bare.strip_suffix([',', ';', ':', '.', ')', ']', '}', '>', '`', '\''])
        {
            bare = shorter;
        }
        out.extend([front, &url_of(bare).0, &whole[bare.len()..]]);
        rest = behind;
    }
    out + rest
}

/// May it stand in front of `://`?
pub(super) fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-.".contains(c)
}

/// What stands behind the `://` of a URL without user, password and query; and those. An @ in a password does not end it:
/// the last one does.
pub(super) fn url_of(url: &str) -> (String, [&str; 2]) {
    let (user, rest) = url.split_at(url.rfind('@').unwrap_or(0));
    if user.contains(['?', '#']) {
        // Of a password, or of a query that has the @: nobody knows.
        return (REMOVED.to_owned(), [url, ""]);
    }
    let (place, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let user_shown = if rest.starts_with('@') { REMOVED } else { "" };
    let (mark, query) = query.split_at(usize::from(!query.is_empty()));
    let query_shown = if query.is_empty() { "" } else { REMOVED };
    (format!("{user_shown}{place}{mark}{query_shown}"), [user, query])
}

/// Values behind words that say what they are, and hashes.
fn named(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut done = 0;
    for (begin, end) in secrets(line) {
        // Inside of what went already, or gone before.
        if begin >= done && begin < end && !line[begin..].starts_with(REMOVED) {
            out.push_str(&line[done..begin]);
            out.push_str(REMOVED);
            done = end;
        }
    }
    out + &line[done..]
}

/// Where values begin and end, in order; looked for once, however many there are.
fn secrets(line: &str) -> Vec<(usize, usize)> {
    let lower = line.to_ascii_lowercase(); // of the same length: positions stay
    let line_end = line.trim_end_matches(['\r', '\n']).len();
    let behind = |word: &'static str| {
        let ends = lower.match_indices(word).map(|(at, word)| at + word.len());
        ends.filter_map(|end| value_begin(line, end)).collect::<Vec<_>>()
    };
    let mut found: Vec<_> = behind(REST_OF_LINE).into_iter().map(|begin| (begin, line_end)).collect();
    for word in WORDS {
        found.extend(behind(word).into_iter().map(|begin| (begin, value_end(line, begin))));
    }
    for hash in HASHES {
        found.extend(lower.match_indices(hash).map(|(begin, _)| (begin, word_end(line, begin))));
    }
    found.sort_unstable();
    found
}

/// Behind a word, its closing quotation mark, `=` or `:`, and the opening one.
fn value_begin(line: &str, word_end: usize) -> Option<usize> {
    let rest = line[word_end..].trim_start_matches(['"', '\'', ' ']);
    let rest = rest.strip_prefix(['=', ':'])?.trim_start_matches(' ');
    let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
    Some(line.len() - rest.len())
}

/// In quotation marks to the closing one, otherwise to the next blank.
fn value_end(line: &str, begin: usize) -> usize {
    match line[..begin].chars().next_back() {
        Some(quote @ ('"' | '\'')) => line[begin..].find(quote).map_or(line.trim_end().len(), |end| begin + end),
        _ => word_end(line, begin),
    }
}

fn word_end(line: &str, begin: usize) -> usize {
    line[begin..].find(|c: char| c.is_whitespace() || "\"'&,;)}".contains(c)).map_or(line.len(), |end| begin + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_secret_goes_and_everything_else_stays() {
        let known = ["hunter2".to_owned()];
        for (line, clean) in [
            ("wss://u:p@h/mqtt?token=abc, again", "wss://(removed)@h/mqtt?(removed), again"),
            ("to mqtts://u:s3;c)r,'x@h:1, again", "to mqtts://(removed)@h:1, again"),
            ("to 'http://u:x)y@h:1'; again", "to 'http://(removed)@h:1'; again"),
            ("{\"url\":\"wss://h/m?t=a;b'c,d\",\"n\":1}", "{\"url\":\"wss://h/m?(removed)\",\"n\":1}"),
            ("wss://h/m?t=a@b;c x", "wss://(removed) x"),
            ("mqtts://u:a?b@h#c x", "mqtts://(removed) x"),
            ("mqtts://u:p@ss/w@h:1 x", "mqtts://(removed)@h:1 x"),
            ("mqtts://h:1/a#frag", "mqtts://h:1/a#(removed)"),
            ("login password=abc user=x", "login password=(removed) user=x"),
            ("ppp: PASS=abc pwd: 'a b' wifi-psk=abc", "ppp: PASS=(removed) pwd: '(removed)' wifi-psk=(removed)"),
            ("{\"token\": \"a b\", \"n\": 1}", "{\"token\": \"(removed)\", \"n\": 1}"),
            ("sr=h&sig=abc%3D&se=1", "sr=h&sig=(removed)&se=1"),
            ("Authorization: Basic YWJj", "Authorization: (removed)"),
            ("user:$argon2id$v=19$x rest", "user:(removed) rest"),
            ("a hunter2 b", "a (removed) b"),
            ("reason=credentials from=127.0.0.1", "reason=credentials from=127.0.0.1"),
            ("cannot read password_file /etc/x", "cannot read password_file /etc/x"),
        ] {
            assert_eq!(text(line, &known), clean);
        }
        let pem = "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb";
        assert_eq!(text(pem, &[]), "a\n(removed)\nb");
        assert_eq!(text("x -----BEGIN PRIVATE KEY-----\nMHc", &[]), "x (removed)");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        assert_eq!(text(certificate, &[]), certificate);
    }
}
