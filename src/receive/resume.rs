//! A file of lines that is continued: a receiver that was killed may have left half a line, which the next one would otherwise
//! be written onto.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom};

use super::output::Form;
use crate::payload::table;

/// Cuts half a record off the end; how many bytes that were. What is no plain file (a pipe, a terminal) is left alone. Reads
/// all of the file, as a line end within quotes ends no CSV row.
pub fn mend(file: &mut File, form: Form) -> io::Result<u64> {
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(0))?;
    let whole = whole_records(BufReader::with_capacity(1 << 20, &mut *file), form)?;
    let cut = about.len().saturating_sub(whole);
    if cut > 0 {
        file.set_len(whole)?;
    }
    Ok(cut)
}

/// May a file of rows be continued? It begins with our columns, or with as much of them as were written. What is empty, or no
/// plain file, has no columns to contradict.
pub fn has_our_columns(file: &mut File) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(true);
    }
    let columns = format!("{}\n", table::COLUMNS.join(","));
    let mut begin = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    (&*file).take(columns.len() as u64).read_to_end(&mut begin)?;
    Ok(columns.as_bytes().starts_with(&begin))
}

/// Up to where whole records lie.
fn whole_records(mut from: impl BufRead, form: Form) -> io::Result<u64> {
    let (mut read, mut whole, mut quoted) = (0_u64, 0_u64, false);
    loop {
        let part = from.fill_buf()?;
        if part.is_empty() {
            return Ok(whole);
        }
        for byte in part {
            read += 1;
            match byte {
                // A quote within quotes is written twice, so this is right after both of them.
                b'"' if form == Form::Csv => quoted = !quoted,
                b'\n' if !quoted => whole = read,
                _ => {}
            }
        }
        let taken = part.len();
        from.consume(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn half_a_record_at_the_end_is_cut_off_and_nothing_else() {
        let csv = "topic,value\n\"a\nb\",\"say \"\"x\"\"\"\n";
        let json = "{\"topic\":\"a\"}\n{\"topic\":\"\\\"b\"}\n";
        for (form, whole, halves) in [
            (Form::Csv, csv, &["", "c", "\"c\n", "\"c\nd\",\"\"\"\n", "c,1"][..]),
            (Form::Ndjson, json, &["", "{\"topic\"", "{"]),
        ] {
            for half in halves {
                let mut file = tempfile::tempfile().expect("a file");
                write!(file, "{whole}{half}").expect("written");
                assert_eq!(mend(&mut file, form).expect("mended"), half.len() as u64, "{half:?}");
                assert_eq!(file.metadata().expect("a file").len(), whole.len() as u64, "{half:?}");
            }
        }
    }

    #[test]
    fn rows_are_continued_only_below_our_own_columns() {
        let columns = format!("{}\n", table::COLUMNS.join(","));
        let rows = format!("{columns}a,b\n");
        for (text, ours) in
            [("", true), ("top", true), (&*columns, true), (&*rows, true), ("not,csv\n", false), ("top\n", false)]
        {
            let mut file = tempfile::tempfile().expect("a file");
            write!(file, "{text}").expect("written");
            assert_eq!(has_our_columns(&mut file).expect("read"), ours, "{text:?}");
        }
    }
}
