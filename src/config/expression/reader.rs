//! From words to the tree: one function per line of the grammar's levels. Bounded in depth, so that no text can exhaust
//! the stack.

use super::token::{Token, Word};
use super::{Datum, Function, Node, Operator, Part, Wrong};

/// How deep parentheses, signs and functions may lie in each other.
const DEPTH_MAX: usize = 64;

/// Binary operators by level, the loosest first; all of them group from the left.
const LEVELS: [&[(&str, Operator)]; 5] = [
    &[("or", Operator::Or), ("||", Operator::Or)],
    &[("and", Operator::And), ("&&", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ],
    &[("+", Operator::Plus), ("-", Operator::Minus)],
    &[("*", Operator::Times), ("/", Operator::Over), ("%", Operator::Rest)],
];
/// The level of comparisons: `not` stands before it, and there is one at most.
const COMPARISON: usize = 2;

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    next: usize,
    depth: usize,
    names: Vec<String>,
}

/// The tree of all words, and the tags it names.
pub(super) fn read(tokens: &[Token<'_>]) -> Result<(Node, Vec<String>), Wrong> {
    let mut reader = Reader { tokens, next: 0, depth: 0, names: Vec::new() };
    let root = reader.level(0)?;
    match reader.peek() {
        None => Ok((root, reader.names)),
        Some(token) => Err(wrong(token.at, "an operator is missing before this")),
    }
}

fn wrong(at: usize, message: impl Into<String>) -> Wrong {
    Wrong { at, message: message.into() }
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.next)
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, wanted: &str) -> Option<usize> {
        let token = self.peek()?;
        let found = match token.word {
            Word::Sign(sign) => sign == wanted,
            Word::Name(name) => name == wanted,
            _ => false,
        };
        found.then(|| {
            self.next += 1;
            token.at
        })
    }

    /// Where something is missing.
    fn end(&self) -> usize {
        self.peek().or(self.tokens.last()).map_or(0, |token| token.at)
    }

    /// Guards everything that calls itself.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        if self.depth == DEPTH_MAX {
            return Err(wrong(self.end(), format!("lies more than {DEPTH_MAX} levels deep")));
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }

    fn level(&mut self, level: usize) -> Result<Node, Wrong> {
        let Some(operators) = LEVELS.get(level) else { return self.sign() };
        if level == COMPARISON
            && let Some(at) = self.take("not").or_else(|| self.take("!"))
        {
            let inner = self.deeper(|reader| reader.level(level))?;
            return Ok(Node { at, part: Part::Not(Box::new(inner)) });
        }
        let mut left = self.level(level + 1)?;
        let mut compared = false;
        while let Some((at, operator)) =
            operators.iter().find_map(|(word, operator)| Some((self.take(word)?, *operator)))
        {
            if std::mem::replace(&mut compared, level == COMPARISON) {
                return Err(wrong(at, "two comparisons in a row: join them with `and`"));
            }
            let right = self.level(level + 1)?;
            left = Node { at, part: Part::Both(operator, Box::new(left), Box::new(right)) };
        }
        Ok(left)
    }

    fn sign(&mut self) -> Result<Node, Wrong> {
        if let Some(at) = self.take("-") {
            let inner = self.deeper(Self::sign)?;
            return Ok(Node { at, part: Part::Minus(Box::new(inner)) });
        }
        if self.take("+").is_some() {
            return self.deeper(Self::sign);
        }
        let base = self.primary()?;
        match self.take("^") {
            None => Ok(base),
            Some(at) => {
                let exponent = self.deeper(Self::sign)?;
                Ok(Node { at, part: Part::Both(Operator::Power, Box::new(base), Box::new(exponent)) })
            }
        }
    }

    fn primary(&mut self) -> Result<Node, Wrong> {
        let Some(token) = self.peek() else {
            return Err(wrong(self.end(), "something is missing at the end"));
        };
        self.next += 1;
        let at = token.at;
        let part = match &token.word {
            Word::Whole(number) => Part::Constant(Datum::Whole(*number)),
            Word::Real(number) => Part::Constant(Datum::Real(*number)),
            Word::Text(text) => Part::Constant(Datum::Text((*text).into())),
            Word::Reference(name) => Part::Input(self.input(name, at)?),
            Word::Name("true") => Part::Constant(Datum::Bool(true)),
            Word::Name("false") => Part::Constant(Datum::Bool(false)),
            Word::Name(name) => return self.call(name, at),
            Word::Sign("(") => {
                let inner = self.deeper(|reader| reader.level(0))?;
                self.take(")").ok_or_else(|| wrong(at, "a parenthesis without its partner"))?;
                return Ok(inner);
            }
            Word::Sign(sign) => return Err(wrong(at, format!("a value is missing before `{sign}`"))),
        };
        Ok(Node { at, part })
    }

    fn input(&mut self, name: &str, at: usize) -> Result<usize, Wrong> {
        let name = name.trim();
        if name.is_empty() {
            return Err(wrong(at, "the name of a tag is missing: write {device/tag}"));
        }
        if let Some(known) = self.names.iter().position(|known| known == name) {
            return Ok(known);
        }
        self.names.push(name.to_owned());
        Ok(self.names.len() - 1)
    }

    fn call(&mut self, name: &str, at: usize) -> Result<Node, Wrong> {
        let Some((_, function)) = Function::ALL.into_iter().find(|(word, _)| *word == name) else {
            let known = Function::ALL.map(|(word, _)| word).join(" ");
            return Err(wrong(
                at,
                format!("no function `{name}` (there are: {known}); tags stand in braces: {{{name}}}"),
            ));
        };
        self.take("(").ok_or_else(|| wrong(at, format!("{name} is a function: write {name}(…)")))?;
        let mut arguments = vec![self.deeper(|reader| reader.level(0))?];
        while self.take(",").is_some() {
            arguments.push(self.deeper(|reader| reader.level(0))?);
        }
        self.take(")").ok_or_else(|| wrong(at, format!("the parenthesis of {name} has no partner")))?;
        let (least, most) = match function {
            Function::If => (3, 3),
            Function::Min | Function::Max | Function::Avg | Function::Sum => (1, usize::MAX),
            _ => (1, 1),
        };
        if arguments.len() < least || arguments.len() > most {
            return Err(wrong(
                at,
                format!("{name} takes {least}, not {}: write {}", arguments.len(), form(function, name)),
            ));
        }
        Ok(Node { at, part: Part::Call(function, arguments) })
    }
}

fn form(function: Function, name: &str) -> String {
    match function {
        Function::If => "if(condition, then, otherwise)".to_owned(),
        _ => format!("{name}(x)"),
    }
}
