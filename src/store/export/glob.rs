//! Names with `*` (any characters, also none) and `?` (one character).

/// A pattern for whole names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<char>);

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.chars().collect())
    }

    /// Does it match the whole of a name? Takes at most the product of both lengths in steps.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (&[char], Vec<char>) = (&self.0, name.chars().collect());
        let (mut at, mut n) = (0, 0);
        // Where the last star stands, and up to where it has eaten.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, n));
                    at += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => (at, n) = (at + 1, n + 1),
                _ => {
                    let Some((place, eaten)) = star else { return false };
                    star = Some((place, eaten + 1));
                    (at, n) = (place + 1, eaten + 1);
                }
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_whole_names_only() {
        for (pattern, yes, no) in [
            ("pressure", &["pressure"][..], &["pressure2", "a/pressure"][..]),
            ("pump-*/pres*", &["pump-1/pressure", "pump-/pres"], &["pump/pres", "xpump-1/pressure"]),
            ("*", &["", "a/b"], &[]),
            ("?é*x", &["aéx", "bééxx"], &["éx", "aé"]),
            ("*a*b*c*", &["abc", "xaybzc1"], &["acb"]),
        ] {
            let glob = Glob::new(pattern);
            for name in yes {
                assert!(glob.matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!glob.matches(name), "{pattern} {name}");
            }
        }
        let hard = Glob::new(&"*a".repeat(200));
        assert!(!hard.matches(&"a".repeat(199)), "in no time");
    }
}
