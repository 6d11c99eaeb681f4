//! Typing the tree, and working it out.

use std::cmp::Ordering;

use super::term::worst;
use super::{Datum, Function, Kind, Node, Operator, Part, Term, Wrong};
use crate::model::quality::{Cause, Quality};

impl Node {
    pub(super) fn kind(&self, inputs: &[Kind]) -> Result<Kind, Wrong> {
        match &self.part {
            Part::Constant(Datum::Whole(_) | Datum::Real(_)) => Ok(Kind::Number),
            Part::Constant(Datum::Bool(_)) => Ok(Kind::Bool),
            Part::Constant(Datum::Text(_)) => Ok(Kind::Text),
            Part::Input(ix) => Ok(inputs.get(*ix).copied().unwrap_or(Kind::Number)),
            Part::Not(inner) => inner.must(Kind::Bool, inputs),
            Part::Minus(inner) => inner.must(Kind::Number, inputs),
            Part::Both(operator, left, right) => match operator {
                Operator::Or | Operator::And => {
                    left.must(Kind::Bool, inputs)?;
                    right.must(Kind::Bool, inputs)
                }
                Operator::Equal | Operator::NotEqual => {
                    right.must(left.kind(inputs)?, inputs)?;
                    Ok(Kind::Bool)
                }
                Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                    left.must(Kind::Number, inputs)?;
                    right.must(Kind::Number, inputs)?;
                    Ok(Kind::Bool)
                }
                _ => {
                    left.must(Kind::Number, inputs)?;
                    right.must(Kind::Number, inputs)
                }
            },
            Part::Call(Function::Good, arguments) => {
                arguments.iter().try_for_each(|argument| argument.kind(inputs).map(|_| ()))?;
                Ok(Kind::Bool)
            }
            Part::Call(Function::If, arguments) => {
                let [condition, then, otherwise] = &arguments[..] else { return Ok(Kind::Number) };
                condition.must(Kind::Bool, inputs)?;
                otherwise.must(then.kind(inputs)?, inputs)
            }
            Part::Call(_, arguments) => {
                arguments.iter().try_for_each(|argument| argument.must(Kind::Number, inputs).map(|_| ()))?;
                Ok(Kind::Number)
            }
        }
    }

    fn must(&self, kind: Kind, inputs: &[Kind]) -> Result<Kind, Wrong> {
        let found = self.kind(inputs)?;
        if found == kind {
            return Ok(kind);
        }
        Err(Wrong { at: self.at, message: format!("{} stands where {} is needed", found.as_str(), kind.as_str()) })
    }

    pub(super) fn value(&self, inputs: &[Term]) -> Term {
        match &self.part {
            Part::Constant(datum) => Term::good(datum.clone()),
            Part::Input(ix) => inputs.get(*ix).cloned().unwrap_or(Term::bad(Cause::Config)),
            Part::Not(inner) => map(inner.value(inputs), |datum| match datum {
                Datum::Bool(bit) => Some(Datum::Bool(!bit)),
                _ => None,
            }),
            Part::Minus(inner) => map(inner.value(inputs), |datum| match datum {
                Datum::Whole(number) => number.checked_neg().map(Datum::Whole),
                other => other.real().map(|number| Datum::Real(-number)),
            }),
            Part::Both(Operator::And, left, right) => decide(left.value(inputs), false, || right.value(inputs)),
            Part::Both(Operator::Or, left, right) => decide(left.value(inputs), true, || right.value(inputs)),
            Part::Both(operator, left, right) => {
                join(left.value(inputs), right.value(inputs), |left, right| apply(*operator, left, right))
            }
            Part::Call(Function::Good, arguments) => {
                let good = |argument: &Node| argument.value(inputs).quality == Quality::Good;
                Term::good(Datum::Bool(arguments.iter().all(good)))
            }
            Part::Call(Function::If, arguments) => {
                let [condition, then, otherwise] = &arguments[..] else { return Term::bad(Cause::Config) };
                let condition = condition.value(inputs);
                let chosen = match condition.datum {
                    Some(Datum::Bool(true)) => then,
                    Some(_) => otherwise,
                    None => return condition,
                };
                chosen.value(inputs).doubted(condition.quality)
            }
            Part::Call(function, arguments) => call(*function, arguments.iter().map(|argument| argument.value(inputs))),
        }
    }
}

/// `and` and `or`: a left side that decides needs no right one.
fn decide(left: Term, decisive: bool, right: impl FnOnce() -> Term) -> Term {
    match left.datum {
        Some(Datum::Bool(bit)) if bit != decisive => right().doubted(left.quality),
        _ => left,
    }
}

/// Of one value; what has no result is no number.
fn map(term: Term, work: impl FnOnce(Datum) -> Option<Datum>) -> Term {
    let Some(datum) = term.datum else { return term };
    match work(datum).filter(|datum| !matches!(datum, Datum::Real(number) if !number.is_finite())) {
        Some(datum) => Term { datum: Some(datum), quality: term.quality },
        None => Term::bad(Cause::Nan),
    }
}

/// Of two values.
fn join(left: Term, right: Term, work: impl FnOnce(&Datum, &Datum) -> Option<Datum>) -> Term {
    let quality = worst(left.quality, right.quality);
    match (left.datum, right.datum) {
        (Some(left), Some(right)) => map(Term { datum: Some(left), quality }, |left| work(&left, &right)),
        _ => Term { datum: None, quality },
    }
}

fn apply(operator: Operator, left: &Datum, right: &Datum) -> Option<Datum> {
    let compared = |wanted: fn(Ordering) -> bool| compare(left, right).map(|order| Datum::Bool(wanted(order)));
    match operator {
        Operator::Equal => compared(Ordering::is_eq),
        Operator::NotEqual => compared(Ordering::is_ne),
        Operator::Less => compared(Ordering::is_lt),
        Operator::LessOrEqual => compared(Ordering::is_le),
        Operator::Greater => compared(Ordering::is_gt),
        Operator::GreaterOrEqual => compared(Ordering::is_ge),
        Operator::And | Operator::Or => None, // decided before
        _ => exact(operator, left, right).or_else(|| real(operator, left.real()?, right.real()?).map(Datum::Real)),
    }
}

fn compare(left: &Datum, right: &Datum) -> Option<Ordering> {
    match (left, right) {
        (Datum::Whole(left), Datum::Whole(right)) => Some(left.cmp(right)),
        (Datum::Bool(left), Datum::Bool(right)) => Some(left.cmp(right)),
        (Datum::Text(left), Datum::Text(right)) => Some(left.cmp(right)),
        _ => left.real()?.partial_cmp(&right.real()?),
    }
}

/// Two whole numbers with a whole result.
fn exact(operator: Operator, left: &Datum, right: &Datum) -> Option<Datum> {
    let (Datum::Whole(left), Datum::Whole(right)) = (left, right) else { return None };
    let whole = match operator {
        Operator::Plus => left.checked_add(*right),
        Operator::Minus => left.checked_sub(*right),
        Operator::Times => left.checked_mul(*right),
        Operator::Over if left.checked_rem(*right) == Some(0) => left.checked_div(*right),
        Operator::Rest => left.checked_rem(*right),
        Operator::Power => u32::try_from(*right).ok().and_then(|exponent| left.checked_pow(exponent)),
        _ => None,
    };
    whole.map(Datum::Whole)
}

/// A division by zero is infinite, and so no number.
fn real(operator: Operator, left: f64, right: f64) -> Option<f64> {
    Some(match operator {
        Operator::Plus => left + right,
        Operator::Minus => left - right,
        Operator::Times => left * right,
        Operator::Over => left / right,
        Operator::Rest => left % right,
        Operator::Power => left.powf(right),
        _ => return None,
    })
}

fn call(function: Function, mut terms: impl Iterator<Item = Term>) -> Term {
    let Some(first) = terms.next() else { return Term::bad(Cause::Config) };
    let pick = |wanted: Ordering| {
        move |one: Term, other: Term| {
            join(one, other, |one, other| {
                let other_wins = compare(other, one)? == wanted;
                Some(if other_wins { other.clone() } else { one.clone() })
            })
        }
    };
    let add = |one, other| join(one, other, |one, other| apply(Operator::Plus, one, other));
    match function {
        Function::Min => terms.fold(first, pick(Ordering::Less)),
        Function::Max => terms.fold(first, pick(Ordering::Greater)),
        Function::Sum => terms.fold(first, add),
        Function::Avg => {
            let mut count = 1i128;
            let sum = terms.inspect(|_| count += 1).fold(first, add);
            join(sum, Term::good(Datum::Whole(count)), |sum, count| apply(Operator::Over, sum, count))
        }
        _ => map(first, |datum| match (function, datum) {
            (Function::Abs, Datum::Whole(number)) => number.checked_abs().map(Datum::Whole),
            (Function::Ceil | Function::Floor | Function::Round, whole @ Datum::Whole(_)) => Some(whole),
            (function, datum) => of_one(function, datum.real()?).map(Datum::Real),
        }),
    }
}

fn of_one(function: Function, number: f64) -> Option<f64> {
    Some(match function {
        Function::Abs => number.abs(),
        Function::Ceil => number.ceil(),
        Function::Exp => number.exp(),
        Function::Floor => number.floor(),
        Function::Ln => number.ln(),
        Function::Log10 => number.log10(),
        Function::Round => number.round(),
        Function::Sqrt => number.sqrt(),
        _ => return None,
    })
}
