//! A register map as somebody else may see it: what stands in the columns that register maps have.
//!
//! Works on any text, like `blank`: comments, columns that nobody knows, cells beyond the header and what is no table at all
//! go. Lines stay lines and columns stay columns, for the places in error messages.

use super::scrub::REMOVED;
use crate::config;

const SEPARATORS: [char; 3] = [',', ';', '\t'];

/// Blanks a text.
pub(super) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for known in config::csv_known(text) {
        unknown(&text[done..known.start], &mut out);
        out.push_str(&text[known.clone()]);
        done = known.end;
    }
    unknown(&text[done..], &mut out);
    out
}

/// Between two cells that may stay.
fn unknown(text: &str, out: &mut String) {
    for line in text.split_inclusive('\n') {
        let fresh = out.is_empty() || out.ends_with('\n');
        if fresh && line.starts_with('#') {
            out.push('#');
        } else {
            for piece in line.trim_end_matches(['\r', '\n']).split_inclusive(SEPARATORS) {
                out.push_str(if piece.trim_end_matches(SEPARATORS).trim().is_empty() { "" } else { REMOVED });
                out.extend(piece.chars().next_back().filter(|last| SEPARATORS.contains(last)));
            }
        }
        if line.ends_with('\n') {
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_nobody_knows_go_and_the_others_stay() {
        for (text, wanted) in [
            ("name,address,type\np,holding:1,uint16\n", "name,address,type\np,holding:1,uint16\n"),
            (
                "# hunter2\nname,address,login\np,holding:1,hunter2\n",
                "#\nname,address,(removed)\np,holding:1,(removed)\n",
            ),
            ("hunter2;name;address\n\"hunter;2\";p;coil:1", "(removed);name;address\n(removed);(removed);p;coil:1"),
            ("name,address\np,coil:1,hunter2\n#hunter2\nq,coil:2", "name,address\np,coil:1,(removed)\n#\nq,coil:2"),
            ("name,address,description\np,coil:1,\"a, b\"\n", "name,address,description\np,coil:1,\"a, b\"\n"),
            ("login hunter2\npassword hunter2\n", "(removed)\n(removed)\n"),
            ("name,address\np,\"hunter2\n", "name,address\n(removed),(removed)\n"),
            (
                "name,address,min\np,coil:1,hunter2\nq,coil:2,-1.5",
                "name,address,min\np,coil:1,(removed)\nq,coil:2,-1.5",
            ),
            ("", ""),
        ] {
            let clean = blank(text);
            assert!(!clean.contains("hunter2"), "{clean}");
            assert_eq!(clean, wanted, "{text}");
        }
    }
}
