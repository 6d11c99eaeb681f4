//! Expressions over tags: what `expression = "…"` may say, and what it gives.
//!
//! ```text
//! or          = and { ("or" | "||") and }
//! and         = not { ("and" | "&&") not }
//! not         = ("not" | "!") not | comparison
//! comparison  = sum [ ("==" | "!=" | "<" | "<=" | ">" | ">=") sum ]
//! sum         = product { ("+" | "-") product }
//! product     = sign { ("*" | "/" | "%") sign }
//! sign        = ("-" | "+") sign | power
//! power       = primary [ "^" sign ]                          -2^2 is -4, 2^3^2 is 512, as in mathematics
//! primary     = number | 'text' | true | false | reference | function "(" or { "," or } ")" | "(" or ")"
//! reference   = "{device/tag}" | "{tag}", the second one of the own device
//! function    = abs avg ceil exp floor good if ln log10 max min round sqrt sum
//! ```
//!
//! `token` cuts the text into words, `reader` makes a tree of them, `work` types it and works it out, `term` is a value in it.
//! `check` reads and types it ([`Formula::read`], [`Formula::kind`]); whoever owns a derived tag works it out
//! ([`Formula::value`]). Promises: an expression that was typed never meets a value of the wrong kind; whole numbers stay
//! exact through `+ - * % min max abs sum` and through divisions that leave no rest (128 bits inside; beyond them, and in
//! everything else, doubles); the quality is the worst of what was needed: `if` needs its condition and the chosen
//! branch, `and` and `or` not what stands behind a decided side, `good` nothing; what is no finite number is bad, cause nan.
//!
//! An own reader, because the crates at hand would have cost more than they save: one is under the AGPL, one refuses
//! `min(1, max(2, 3))` and takes `{a` without its end, the others are no longer cared for or bring a language along.

mod reader;
mod term;
mod token;
mod work;

use crate::model::tag::DataType;
use crate::model::value::Value;

pub use term::{Datum, Term};

/// Longest expression, bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1024;

/// What kind of value something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number, whole or not.
    Number,
    /// True or false.
    Bool,
    /// A text.
    Text,
}

impl Kind {
    /// Of a tag's values.
    pub const fn of(data_type: DataType) -> Self {
        match data_type {
            DataType::Bool => Self::Bool,
            other if other.is_number() => Self::Number,
            _ => Self::Text,
        }
    }

    /// Of a tag's values, as somebody who reads it sees them.
    pub fn of_tag(tag: &super::plan::TagPlan) -> Self {
        if tag.map.is_some() { Self::Text } else { Self::of(tag.data_type) }
    }

    /// For problems.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Text => "a text",
        }
    }
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where, bytes from its begin.
    pub at: usize,
    /// What.
    pub message: String,
}

/// An expression that can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Formula {
    root: Node,
    names: Vec<String>,
}

/// A part of it and where it begins.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    at: usize,
    part: Part,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Constant(Datum),
    /// Position in `names`.
    Input(usize),
    Not(Box<Node>),
    Minus(Box<Node>),
    Both(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    Over,
    Rest,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Abs,
    Avg,
    Ceil,
    Exp,
    Floor,
    Good,
    If,
    Ln,
    Log10,
    Max,
    Min,
    Round,
    Sqrt,
    Sum,
}

impl Function {
    const ALL: [(&'static str, Self); 14] = [
        ("abs", Self::Abs),
        ("avg", Self::Avg),
        ("ceil", Self::Ceil),
        ("exp", Self::Exp),
        ("floor", Self::Floor),
        ("good", Self::Good),
        ("if", Self::If),
        ("ln", Self::Ln),
        ("log10", Self::Log10),
        ("max", Self::Max),
        ("min", Self::Min),
        ("round", Self::Round),
        ("sqrt", Self::Sqrt),
        ("sum", Self::Sum),
    ];
}

impl Formula {
    /// Reads an expression.
    pub fn read(text: &str) -> Result<Self, Wrong> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let message = format!("is {} bytes long, at most {EXPRESSION_BYTES_MAX} are read", text.len());
            return Err(Wrong { at: 0, message });
        }
        reader::read(&token::tokens(text)?).map(|(root, names)| Self { root, names })
    }

    /// The tags it names, as they are written between braces, each once, in the order of their first use.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What it gives, when its tags, in the order of [`Formula::names`], are of these kinds.
    pub fn kind(&self, inputs: &[Kind]) -> Result<Kind, Wrong> {
        self.root.kind(inputs)
    }

    /// Works it out for these values of its tags.
    pub fn value(&self, inputs: &[Term]) -> Term {
        self.root.value(inputs)
    }
}

impl Term {
    /// As a value of a tag of this type; bad where it does not fit, cause range.
    #[must_use]
    pub fn into_value(self, data_type: DataType) -> (Option<Value>, crate::model::quality::Quality) {
        term::into_value(self, data_type)
    }
}

#[cfg(test)]
mod tests;
