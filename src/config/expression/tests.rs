//! What expressions give, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::model::quality::{Cause, Quality};

fn value(text: &str) -> Term {
    let formula = Formula::read(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    formula.kind(&[]).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    formula.value(&[])
}

#[test]
fn expressions_mean_what_they_mean_in_mathematics() {
    for (text, expected) in [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("-2 ^ 2", -4.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("2 ^ -1", 0.5),
        ("10 - 4 - 3", 3.0),
        ("2 / 4 / 2", 0.25),
        ("7 % 4 + 0.5", 3.5),
        ("1.5e3 - -.5", 1500.5),
        ("min(3, max(1, 2), 7)", 2.0),
        ("avg(1, 2, 6)", 3.0),
        ("avg(1, 2)", 1.5),
        ("sum(1, 2.5) + sqrt(16) + abs(-3)", 10.5),
        ("if(1 < 2 and not 3 == 4, 10, 20)", 10.0),
        ("if(2 <= 1 || false, 10, 20)", 20.0),
        ("if('a' != \"b\", 1, 0)", 1.0),
        ("round(2.5) + floor(2.9) + ceil(2.1) + ln(exp(1)) + log10(1000)", 12.0),
    ] {
        let found = value(text).datum.and_then(|datum| datum.real()).expect(text);
        assert!((found - expected).abs() < 1e-12, "{text} is {found}");
    }
}

#[test]
fn whole_numbers_stay_exact_as_long_as_the_result_is_whole() {
    let huge = u64::MAX;
    assert_eq!(value(&format!("{huge} - 1")).into_value(DataType::Uint64).0, Some(Value::Uint(huge - 1)));
    assert_eq!(value(&format!("{huge} * 2 / 2 % {huge}")).into_value(DataType::Int64).0, Some(Value::Int(0)));
    assert_eq!(
        value("9007199254740993 * 3 / 3").into_value(DataType::Int64).0,
        Some(Value::Int(9_007_199_254_740_993))
    );
    assert_eq!(value("7 / 2").into_value(DataType::Int64).0, Some(Value::Int(4)), "rounded to the nearest");
    let range = (None, Quality::Bad(Cause::Range));
    assert_eq!(value(&format!("{huge} + 1")).into_value(DataType::Uint64), range);
    assert_eq!(value("-1").into_value(DataType::Uint64), range);
    assert_eq!(value("'grün'").into_value(DataType::Text(3)).0, Some(Value::Text("gr".into())));
}

#[test]
fn what_is_no_number_is_bad() {
    for text in ["1 / 0", "1.5 % 0", "0 / 0", "sqrt(-1)", "ln(0)", "10.0 ^ 400", "1 % 0", "if(1 / 0 > 3, 1, 2)"] {
        assert_eq!(value(text), Term::bad(Cause::Nan), "{text}");
    }
}

#[test]
fn the_quality_is_the_worst_of_what_was_needed() {
    let good = Term::good(Datum::Whole(1));
    let uncertain = Term { quality: Quality::Uncertain(Cause::Range), ..good.clone() };
    let (bad, worse) = (Term::bad(Cause::Timeout), Term::bad(Cause::Stale));
    let inputs = [good, uncertain, bad, worse];
    let quality = |text: &str| {
        let text = text.replace('g', "{a}").replace('u', "{b}").replace('t', "{c}").replace('s', "{d}");
        let formula = Formula::read(&text).expect("reads");
        let pick = |name: &String| inputs[usize::from(name.as_bytes()[0] - b'a')].clone();
        formula.value(&formula.names().iter().map(pick).collect::<Vec<_>>()).quality
    };
    assert_eq!(quality("g + u"), Quality::Uncertain(Cause::Range));
    assert_eq!(quality("u * t + s"), Quality::Bad(Cause::Timeout), "the first of two bad ones");
    assert_eq!(quality("if(g == 1, u, t)"), Quality::Uncertain(Cause::Range), "the other branch is not needed");
    assert_eq!(quality("if(s == 1, g, g)"), Quality::Bad(Cause::Stale));
    assert_eq!(quality("g == 2 and t == 1"), Quality::Good);
    assert_eq!(quality("g == 1 or t == 1"), Quality::Good);
    assert_eq!(quality("g == 1 and t == 1"), Quality::Bad(Cause::Timeout));
    let spare = Formula::read("if(good({m}), {m}, {n})").expect("reads");
    assert_eq!(spare.value(&[inputs[2].clone(), inputs[0].clone()]), inputs[0], "a spare sensor");
}

#[test]
fn what_cannot_be_read_is_refused_where_it_is_wrong() {
    for (text, at, words) in [
        ("", 0, "missing"),
        ("1 +", 2, "missing"),
        ("1 2", 2, "operator is missing"),
        ("(1", 0, "without its partner"),
        ("1)", 1, "operator is missing"),
        ("{a", 0, "without its partner"),
        ("{}", 0, "name of a tag"),
        ("'a", 0, "without its end"),
        ("flow + 1", 0, "tags stand in braces: {flow}"),
        ("2flow", 0, "in braces"),
        ("min()", 4, "missing before `)`"),
        ("if(true, 1)", 0, "takes 3"),
        ("sqrt(1, 2)", 0, "takes 1"),
        ("sqrt 2", 0, "write sqrt("),
        ("1 = 1", 2, "write =="),
        ("1 < 2 < 3", 6, "join them with `and`"),
        ("1 ; 2", 2, "no meaning"),
        ("1e999", 0, "too large"),
        ("1.2.3", 0, "no number"),
    ] {
        let wrong = Formula::read(text).expect_err(text);
        assert_eq!(wrong.at, at, "{text}: {wrong:?}");
        assert!(wrong.message.contains(words), "{text}: {wrong:?}");
    }
    for text in ["(".repeat(900), "-".repeat(900), "not ".repeat(200), "1^".repeat(400) + "1"] {
        assert!(Formula::read(&text).is_err_and(|wrong| wrong.message.contains("deep")), "{text}");
    }
    assert!(Formula::read(&"1+".repeat(600)).is_err_and(|wrong| wrong.message.contains("1024")));
}

#[test]
fn kinds_that_do_not_go_together_are_refused_before_they_meet() {
    let kinds = [Kind::Number, Kind::Bool, Kind::Text];
    for (text, words) in [
        ("{n} + {b}", "true or false stands where a number is needed"),
        ("{n} and {b}", "a number stands where true or false"),
        ("{t} < 'x'", "a text stands where a number"),
        ("{n} == {t}", "a text stands where a number"),
        ("if({b}, {n}, {t})", "a text stands where a number"),
        ("not {n}", "a number stands where"),
        ("-{b}", "true or false stands where a number"),
        ("max({n}, {b})", "true or false stands where a number"),
    ] {
        let formula = Formula::read(text).expect("reads");
        let of = |name: &String| kinds["nbt".find(name.as_str()).expect("one of them")];
        let inputs: Vec<Kind> = formula.names().iter().map(of).collect();
        let wrong = formula.kind(&inputs).expect_err(text);
        assert!(wrong.message.contains(words), "{text}: {wrong:?}");
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0u64..u64::MAX).prop_map(|number| number.to_string()),
        (0.0..1e18f64).prop_map(|number| format!("{number:?}")),
        Just("{a}".to_owned()),
        Just("true".to_owned()),
        Just("'x'".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "*", "/", "%", "^", "==", "<", "and", "or"]);
        let function = prop::sample::select(vec!["abs", "sqrt", "floor", "good", "not", "-", "exp"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
            (function, inner.clone()).prop_map(|(function, one)| format!("({function}({one}))")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(one, two, three)| format!("if({one} == {two}, max({two}, {three}), {three})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fail(text in "[-+*/^(){}a-z0-9.,' <>=!&|é\"%]{0,60}") {
        if let Ok(formula) = Formula::read(&text) {
            let inputs = vec![Kind::Number; formula.names().len()];
            let _ = formula.kind(&inputs);
            let _ = formula.value(&vec![Term::good(Datum::Real(1.0)); formula.names().len()]);
        }
    }

    #[test]
    fn what_was_typed_gives_a_value_of_its_kind_or_none_for_a_reason(text in expression(), input in any::<i64>()) {
        let Ok(formula) = Formula::read(&text) else { return Ok(()) }; // too deep or too long
        let inputs = vec![Term::good(Datum::Whole(input.into())); formula.names().len()];
        if let Ok(kind) = formula.kind(&vec![Kind::Number; inputs.len()]) {
            let term = formula.value(&inputs);
            match term.datum {
                None => prop_assert_eq!(term.quality, Quality::Bad(Cause::Nan), "{}", text),
                Some(Datum::Real(number)) => prop_assert!(number.is_finite() && kind == Kind::Number, "{}", text),
                Some(Datum::Whole(_)) => prop_assert_eq!(kind, Kind::Number, "{}", text),
                Some(Datum::Bool(_)) => prop_assert_eq!(kind, Kind::Bool, "{}", text),
                Some(Datum::Text(_)) => prop_assert_eq!(kind, Kind::Text, "{}", text),
            }
        }
    }
}
