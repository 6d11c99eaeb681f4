//! A sheet as TOML: `[[tag]]` of a register map, `[[device.tag]]` of a device, or whole `[[device]]`s.

use super::super::csv::cell;
use super::super::csv::columns::{Column, Owner};
use super::super::schema::{DEVICE, Key, Kind, TAG};
use super::{Cell, Line, Part, Sheet, comment_line};

/// What the TOML is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// A register map of its own, with the style of its addresses if it was declared.
    Map(Option<&'a str>),
    /// What follows the keys of a `[[device]]`.
    Tags,
    /// Devices with their tags.
    Devices,
}

impl Sheet {
    /// The file as TOML.
    pub fn to_toml(&self, form: Form<'_>) -> String {
        let mut out = String::new();
        comments(&mut out, &self.head);
        if let Form::Map(Some(style)) = form {
            blank(&mut out);
            out.extend(["address_style = ", &cell::quoted(style), "\n"]);
        }
        for part in &self.parts {
            part.to_toml(&mut out, form);
        }
        if !self.tail.is_empty() {
            blank(&mut out);
            comments(&mut out, &self.tail);
        }
        out
    }
}

impl Part {
    fn to_toml(&self, out: &mut String, form: Form<'_>) {
        if form == Form::Devices {
            blank(out);
            comments(out, &self.comments);
            out.push_str("[[device]]\n");
            keys(out, &self.cells, Owner::Device, DEVICE);
        }
        let header = if matches!(form, Form::Map(_)) { "[[tag]]\n" } else { "[[device.tag]]\n" };
        for Line { comments: above, cells, verbatim } in &self.lines {
            blank(out);
            if let Some(text) = verbatim {
                out.extend([text.trim_end(), "\n"]);
                continue;
            }
            comments(out, above);
            out.push_str(header);
            keys(out, cells, Owner::Tag, TAG);
        }
    }
}

/// A blank line, but not at the very beginning.
fn blank(out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
}

fn comments(out: &mut String, comments: &[String]) {
    for comment in comments {
        out.push_str(&comment_line(comment));
        out.push('\n');
    }
}

fn keys(out: &mut String, cells: &[Cell], owner: Owner, keys: &[Key]) {
    let find = |table: Option<&str>, name: &str| {
        let is = |column: &Column| (column.owner, column.table, column.key.name) == (owner, table, name);
        cells.iter().find(|(column, _)| is(column)).map(|(column, text)| cell::toml(text, column.key.kind))
    };
    for key in keys {
        let value = match key.kind {
            Kind::Tables(_) => None,
            Kind::Table(below) => {
                let inner = below.iter().filter_map(|inner| Some((inner.name, find(Some(key.name), inner.name)?)));
                let inner: Vec<String> = inner.map(|(name, value)| format!("{name} = {value}")).collect();
                (!inner.is_empty()).then(|| format!("{{ {} }}", inner.join(", ")))
            }
            _ => find(None, key.name),
        };
        if let Some(value) = value {
            out.extend([key.name, " = ", &value, "\n"]);
        }
    }
}
