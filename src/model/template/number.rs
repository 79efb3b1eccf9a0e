//! Numbers: which texts read as one, and how they compare and convert. What is
//! no finite number is an error here, never 0, `null` or `inf`.
//!
//! The engine's own rules would let `"on" > 3` hold, since every text is above
//! every number to it, and make 0 of `nan`. So comparisons and arithmetic reach
//! [`COMPARE`] and [`FINITE`] instead, by way of [`super::guard`].

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::scope;

/// The test that stands for all comparison operators.
pub(super) const COMPARE: &str = "pinhook_compare";

/// The filter that passes everything but infinite numbers and NaN.
pub(super) const FINITE: &str = "pinhook_finite";

/// Most characters of a pin's value that an error quotes.
const QUOTED: usize = 20;

/// Why something is no number to reckon with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0} is no number")]
    NoNumber(String),
    #[error("{0} is too large for an integer")]
    TooLarge(String),
    #[error("a calculation gives no finite number")]
    NotFinite,
    #[error("{0} cannot be compared with {1}")]
    NoOrder(String, String),
    #[error("nothing can be in {0}")]
    NoContainer(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::InvalidOperation, refusal.to_string()).with_source(refusal)
    }
}

/// The number that `text` reads as: decimal digits with a sign, a point or an
/// exponent, and blanks around it. Hexadecimal, `inf` and `nan` are text, as is
/// what is too large for a float.
pub(super) fn read(text: &str) -> Option<Value> {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_part = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    // Words such as `infinity` are numbers to the parser of floats.
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.bytes().all(is_part)
    {
        return None;
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit())
        && let Ok(integer) = text.parse::<i128>()
    {
        return Some(from_integer(integer));
    }
    let number = text.parse::<f64>().ok()?;
    number.is_finite().then(|| Value::from(number))
}

/// Adds what this module has to an engine.
pub(super) fn teach(engine: &mut Environment<'static>) {
    engine.add_filter("int", int);
    engine.add_filter("float", float);
    engine.add_filter("sum", sum);
    engine.add_filter("round", round);
    engine.add_filter(FINITE, finite);
    engine.add_test(COMPARE, compare);
    let tests: [(&[&str], &'static str); 7] = [
        (&["eq", "equalto", "=="], "=="),
        (&["ne", "!="], "!="),
        (&["lt", "lessthan", "<"], "<"),
        (&["le", "<="], "<="),
        (&["gt", "greaterthan", ">"], ">"),
        (&["ge", ">="], ">="),
        (&["in"], "in"),
    ];
    for (names, operator) in tests {
        for name in names {
            engine.add_test(*name, move |state: &State, left: Value, right: Value| {
                holds(state, &left, operator, &right)
            });
        }
    }
}

/// `left OP right OP right …`, as `is pinhook_compare(OP, right, OP, right …)`.
fn compare(state: &State, left: Value, rest: Rest<Value>) -> Result<bool, Error> {
    let mut left = &left;
    for pair in rest.chunks_exact(2) {
        let operator = pair[0].as_str().unwrap_or_default();
        if !holds(state, left, operator, &pair[1])? {
            return Ok(false);
        }
        left = &pair[1];
    }
    Ok(true)
}

fn holds(state: &State, left: &Value, operator: &str, right: &Value) -> Result<bool, Error> {
    if left.is_undefined() || right.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let order = || order(state, left, right);
    Ok(match operator {
        "==" => equal(state, left, right)?,
        "!=" => !equal(state, left, right)?,
        "<" => order()?.is_lt(),
        "<=" => order()?.is_le(),
        ">" => order()?.is_gt(),
        ">=" => order()?.is_ge(),
        "in" => contains(state, right, left)?,
        "not in" => !contains(state, right, left)?,
        _ => unreachable!("the guard writes no other operator"),
    })
}

/// A number equals a text that reads as the same number.
fn equal(state: &State, left: &Value, right: &Value) -> Result<bool, Error> {
    charge(state, left, right)?;
    Ok(match (left.kind(), right.kind()) {
        (ValueKind::Number, ValueKind::String) => text_of(right).is_some_and(|n| n == *left),
        (ValueKind::String, ValueKind::Number) => text_of(left).is_some_and(|n| n == *right),
        _ => left == right,
    })
}

/// Beside a number, a text is the number it reads as; unlike kinds have no order.
fn order(state: &State, left: &Value, right: &Value) -> Result<Ordering, Error> {
    use ValueKind::{Bool, Number, String};
    charge(state, left, right)?;
    let number = |value: &Value| {
        text_of(value).ok_or_else(|| Error::from(Refusal::NoNumber(name(state, value))))
    };
    match (left.kind(), right.kind()) {
        (Number, String) => Ok(left.cmp(&number(right)?)),
        (String, Number) => Ok(number(left)?.cmp(right)),
        (Number | Bool, Number | Bool) => Ok(left.cmp(right)),
        (one, other) if one == other => Ok(left.cmp(right)),
        (Number, _) => Err(Refusal::NoNumber(name(state, right)).into()),
        (_, Number) => Err(Refusal::NoNumber(name(state, left)).into()),
        _ => Err(Refusal::NoOrder(name(state, left), name(state, right)).into()),
    }
}

fn contains(state: &State, container: &Value, item: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::String => {
            charge(state, container, container)?;
            let text = container.as_str().unwrap_or_default();
            Ok(match item.as_str() {
                Some(item) => text.contains(item),
                None => text.contains(&item.to_string()),
            })
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for other in container.try_iter()? {
                if equal(state, &other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        ValueKind::Map => Ok(!container.get_item(item)?.is_undefined()),
        _ => Err(Refusal::NoContainer(name(state, container)).into()),
    }
}

/// Counts the work of a comparison, in the engine's measure.
fn charge(state: &State, left: &Value, right: &Value) -> Result<(), Error> {
    let size = |value: &Value| match value.as_str() {
        Some(text) => text.len() / 64,
        None => value.len().unwrap_or(0),
    };
    state.consume_fuel(1 + size(left).min(size(right)) as u64)
}

fn text_of(value: &Value) -> Option<Value> {
    value.as_str().and_then(read)
}

/// `| int`: towards zero. `base` as in Python; `default` stands for what is no number.
fn int(
    state: &State,
    value: Value,
    default: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = or_keyword(default, &kwargs, "default")?;
    let base = match base {
        Some(base) => base,
        None => kwargs.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the base of `int` must be from 2 to 36",
        ));
    }
    let number = match value.as_str() {
        Some(text) if base != 10 => digits(text, base).map(from_integer),
        _ => number(&value)?,
    };
    let Some(number) = number else {
        return default.ok_or_else(|| Refusal::NoNumber(name(state, &value)).into());
    };
    match truncated(&number) {
        Some(integer) => Ok(integer),
        None => default.ok_or_else(|| Refusal::TooLarge(name(state, &value)).into()),
    }
}

/// `| float`: `default` stands for what is no number.
fn float(
    state: &State,
    value: Value,
    default: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = or_keyword(default, &kwargs, "default")?;
    kwargs.assert_all_used()?;
    match number(&value)?.and_then(|number| f64::try_from(number).ok()) {
        Some(number) => Ok(Value::from(number)),
        None => default.ok_or_else(|| Refusal::NoNumber(name(state, &value)).into()),
    }
}

fn sum(
    state: &State,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    finite(filters::sum(state, values, attribute, start, kwargs)?)
}

fn round(
    value: Value,
    precision: Option<i32>,
    method: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    finite(filters::round(value, precision, method, kwargs)?)
}

fn finite(value: Value) -> Result<Value, Error> {
    match is_infinite(&value) {
        true => Err(Refusal::NotFinite.into()),
        false => Ok(value),
    }
}

/// Whether it is an infinite number, or NaN.
pub(super) fn is_infinite(value: &Value) -> bool {
    value.kind() == ValueKind::Number
        && !value.is_integer()
        && f64::try_from(value.clone()).is_ok_and(|number| !number.is_finite())
}

fn or_keyword(
    given: Option<Value>,
    kwargs: &Kwargs,
    keyword: &str,
) -> Result<Option<Value>, Error> {
    match given {
        Some(given) => Ok(Some(given)),
        None => kwargs.get(keyword),
    }
}

/// The number that a value is or reads as.
fn number(value: &Value) -> Result<Option<Value>, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Some(Value::from(u8::from(value.is_true()))),
        ValueKind::Number => (!is_infinite(value)).then(|| value.clone()),
        ValueKind::String => text_of(value),
        _ => None,
    })
}

/// The integer towards zero, if one of 128 bits holds it.
fn truncated(number: &Value) -> Option<Value> {
    /// 2 to the power of 127.
    const LIMIT: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    if number.is_integer() {
        return Some(number.clone());
    }
    let number = f64::try_from(number.clone()).ok()?;
    (number.abs() < LIMIT).then_some(from_integer(number as i128))
}

/// Digits of `base` with a sign and, as in Python, the base's own prefix.
fn digits(text: &str, base: u32) -> Option<i128> {
    let text = text.trim();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let has_prefix = rest
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let rest = if has_prefix {
        &rest[prefix.len()..]
    } else {
        rest
    };
    let is_sign = rest.starts_with(['+', '-']);
    (!is_sign).then(|| i128::from_str_radix(&format!("{sign}{rest}"), base).ok())?
}

fn from_integer(integer: i128) -> Value {
    match i64::try_from(integer) {
        Ok(small) => Value::from(small),
        Err(_) => Value::from(integer),
    }
}

/// How an error calls `value`. A text is quoted only if it is just what was
/// written to a pin: any other may come from a variable with a secret in it, or
/// from a response.
fn name(state: &State, value: &Value) -> String {
    let text = match value.kind() {
        ValueKind::None => return "null".to_owned(),
        ValueKind::Bool => return value.is_true().to_string(),
        ValueKind::String => value.as_str().unwrap_or_default(),
        ValueKind::Number => return "the number".to_owned(),
        ValueKind::Seq | ValueKind::Iterable => return "a list".to_owned(),
        ValueKind::Map => return "a map".to_owned(),
        _ => return "the value".to_owned(),
    };
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    if !scope::is_pin_value(state, text) {
        return "the text".to_owned();
    }
    let mut quoted: String = text.escape_debug().take(QUOTED).collect();
    if text.escape_debug().nth(QUOTED).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_texts_read_as_numbers() {
        for (text, number) in [
            ("5", "5"),
            (" -5\t", "-5"),
            ("+5", "5"),
            ("007", "7"),
            ("1.50", "1.5"),
            (".5", "0.5"),
            ("5.", "5.0"),
            ("1e3", "1000.0"),
            ("-2.5E-3", "-0.0025"),
            ("9223372036854775808", "9223372036854775808"),
        ] {
            let read = read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(read.to_string(), number, "{text}");
        }
        for text in [
            "", " ", ".", "-", "+-5", "on", "0x1F", "inf", "-inf", "nan", "NaN", "infinity",
            "1e999", "1_000", "1,5", "5V", "e5", "1e", "--1", "٣",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn integers_of_other_bases_may_have_their_prefix() {
        for (text, base, integer) in [
            ("1f", 16, Some(31)),
            ("0x1F", 16, Some(31)),
            ("-0X1f", 16, Some(-31)),
            ("0b101", 2, Some(5)),
            ("0o17", 8, Some(15)),
            ("zz", 36, Some(1295)),
            ("0x-1", 16, None),
            ("--1", 16, None),
            ("9", 8, None),
            ("", 16, None),
        ] {
            assert_eq!(digits(text, base), integer, "{text} {base}");
        }
    }
}
