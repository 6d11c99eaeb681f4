//! ironbridge.toml(5): the reference configuration as a manual page.
//!
//! `config/ironbridge.toml` is written for people, with every key and its meaning; a test holds it to what the program
//! reads. Here its comments become paragraphs and its settings stand as they are, `#` included: what begins with it is
//! switched off. A line of the file is one of
//!
//! ```text
//! # words          a paragraph goes on; three spaces or more behind the # keep the line as it is
//! [table] #[table] a heading of its own, and the line itself
//! key = … #key = … kept as it is
//! (empty)          ends a paragraph
//! ```

use std::fmt::Write as _;

/// The file that packages install as an example too.
const REFERENCE: &str = include_str!("../../../config/ironbridge.toml");

/// The page as man(7) source.
pub fn page() -> String {
    let head = format!(
        ".TH ironbridge.toml 5 \"\" \"ironbridge {}\" \"Ironbridge\"\n\
         .SH NAME\nironbridge.toml \\- configuration of the gateway\n\
         .SH SYNOPSIS\n/etc/ironbridge/ironbridge.toml\n.br\n/etc/ironbridge/ironbridge.d/*.toml\n\
         .SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    let foot = ".SH SEE ALSO\n.BR ironbridge (1),\n.BR ironbridge\\-run (1),\n.BR ironbridge\\-check (1)\n";
    format!("{head}{}{foot}", body(REFERENCE))
}

/// What a line of the file is on the page.
#[derive(PartialEq, Eq)]
enum Piece<'a> {
    Words(&'a str),
    Heading(&'a str),
    Kept(&'a str),
    Empty,
}

fn piece(line: &str) -> Piece<'_> {
    let setting = line.strip_prefix('#').unwrap_or(line);
    match line.strip_prefix("# ") {
        Some(words) if words.starts_with("  ") => Piece::Kept(words),
        Some(words) => Piece::Words(words),
        None if setting.is_empty() => Piece::Empty,
        None if setting.starts_with('[') => Piece::Heading(setting),
        None => Piece::Kept(line),
    }
}

fn body(file: &str) -> String {
    let mut page = String::new();
    let mut kept = false; // inside .EX
    let mut begun = false; // inside a paragraph
    for line in file.lines() {
        let piece = piece(line);
        let keeps = matches!(piece, Piece::Kept(_));
        if keeps != kept {
            page.push_str(if keeps { ".PP\n.EX\n" } else { ".EE\n" });
            (kept, begun) = (keeps, false);
        }
        match piece {
            Piece::Words(words) => {
                page.push_str(if begun { "" } else { ".PP\n" });
                begun = true;
                text(&mut page, words);
            }
            Piece::Heading(words) => {
                page.push_str(".SS ");
                text(
                    &mut page,
                    words.split(']').next().map_or(words, |table| &words[..words.len().min(table.len() + 2)]).trim(),
                );
                begun = false;
            }
            Piece::Kept(words) => text(&mut page, words),
            Piece::Empty => begun = false,
        }
    }
    page.push_str(if kept { ".EE\n" } else { "" });
    page
}

/// One line of text: nothing in it is a request or an escape of roff, and a hyphen stays what can be pasted.
fn text(page: &mut String, line: &str) {
    let line = line.trim_end().replace('\\', "\\e").replace('-', "\\-").replace('^', "\\(ha").replace('~', "\\(ti");
    let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    let _ = writeln!(page, "{guard}{line}"); // writing into a String does not fail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_paragraphs_and_settings_stand_as_they_are() {
        let file = "# One\n# two.\n\n[store]\n# Three\nmax_size = \"a\\b\"\n#off = 1\n#[[bus]]\n#   .kept\n# 'four\n";
        let wanted = ".PP\nOne\ntwo.\n.SS [store]\n.PP\nThree\n.PP\n.EX\nmax_size = \"a\\eb\"\n#off = 1\n.EE\n\
                      .SS [[bus]]\n.PP\n.EX\n  .kept\n.EE\n.PP\n\\&'four\n";
        assert_eq!(body(file), wanted);
    }

    #[test]
    fn every_setting_of_the_reference_is_on_the_page() {
        let page = page();
        for line in REFERENCE.lines().filter(|line| line.contains(" = ") && !line.starts_with("# ")) {
            let key = line.trim_start_matches('#').split(" = ").next().unwrap_or_default().trim();
            assert!(page.contains(key), "{key}");
        }
        assert!(page.lines().all(|line| line.chars().count() < 220));
    }
}
