//! Order and sums of values, exact: an integer is never turned into a double to be compared or added.
//!
//! The order is total over every value that can be built, so that sorting cannot go astray. Tests: at the end.

use super::conflict::{BaseValue, Misfit, Side};
use crate::value::{Fields, Number, Value};
use alloc::string::String;
use core::cmp::Ordering;

/// A value with an order of its own: equal exactly when the values are, for every value that passes `Value::check`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered<'a>(pub(super) &'a Value);

impl Ord for Ordered<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.0, other.0)
    }
}

impl PartialOrd for Ordered<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ordered<'_> {}

/// Which side has the larger value.
pub(super) fn larger(local: &Value, remote: &Value) -> Result<Side, Misfit> {
    let order = match (local, remote) {
        (Value::Number(l), Value::Number(r)) => compare_numbers(*l, *r),
        (Value::Text(l), Value::Text(r)) => l.cmp(r),
        _ => return Err(Misfit::WrongKind),
    };
    Ok(if order == Ordering::Greater { Side::Local } else { Side::Remote })
}

/// Base + (local − base) + (remote − base). Every term fits 64 bits, so 128 bits hold the sum.
pub(super) fn sum(base: BaseValue<&Value>, local: &Value, remote: &Value) -> Result<Value, Misfit> {
    let base = match base {
        BaseValue::Unknown => return Err(Misfit::NoBase),
        BaseValue::Absent => 0,
        BaseValue::Present(value) => integer(value)?,
    };
    let sum = integer(local)? + integer(remote)? - base;
    if fits(sum) { Ok(Value::Number(Number::Integer(sum))) } else { Err(Misfit::Overflow) }
}

/// The integer that a value is worth: `2.0` is 2, because the two are equal.
fn integer(value: &Value) -> Result<i128, Misfit> {
    let worth = match value {
        Value::Number(Number::Integer(n)) => *n,
        Value::Number(Number::Float(f)) if (*f as i128) as f64 == *f => *f as i128,
        _ => return Err(Misfit::WrongKind),
    };
    if fits(worth) { Ok(worth) } else { Err(Misfit::WrongKind) }
}

fn fits(n: i128) -> bool {
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&n)
}

fn compare(a: &Value, b: &Value) -> Ordering {
    fn pairs(fields: &Fields) -> impl Iterator<Item = (&String, Ordered<'_>)> {
        fields.0.iter().map(|(name, value)| (name, Ordered(value)))
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => compare_numbers(*a, *b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => a.iter().map(Ordered).cmp(b.iter().map(Ordered)),
        (Value::Object(a), Value::Object(b)) => pairs(a).cmp(pairs(b)),
        _ => rank(a).cmp(&rank(b)),
    }
}

const fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::Text(_) => 3,
        Value::List(_) => 4,
        Value::Object(_) => 5,
    }
}

/// By worth. What is not a number comes after all numbers.
fn compare_numbers(a: Number, b: Number) -> Ordering {
    match (a, b) {
        (Number::Integer(a), Number::Integer(b)) => a.cmp(&b),
        (Number::Float(a), Number::Float(b)) => {
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        (Number::Integer(n), Number::Float(f)) => compare_mixed(n, f),
        (Number::Float(f), Number::Integer(n)) => compare_mixed(n, f).reverse(),
    }
}

fn compare_mixed(n: i128, f: f64) -> Ordering {
    if f.is_nan() {
        return Ordering::Less;
    }
    // Beyond 128 bits the cast stops at the last integer, and the rest says which of the two is further out.
    let whole = f as i128;
    let fraction = f - whole as f64;
    n.cmp(&whole).then(0.0_f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap()
    }

    #[test]
    fn values_are_in_one_order_and_equal_where_the_values_are() {
        let sorted = [
            "null",
            "false",
            "true",
            "-1e300",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "0",
            "0.5",
            "1",
            "1.5",
            "9007199254740992.0",
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616.0",
            "1e300",
            "\"\"",
            "\"a\"",
            "\"é\"",
            "[]",
            "[1]",
            "[1,2]",
            "[2]",
            "{}",
            "{\"a\":1}",
            "{\"a\":1,\"b\":0}",
            "{\"b\":0}",
        ]
        .map(value);
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(Ordered(a).cmp(&Ordered(b)), i.cmp(&j), "{a:?} {b:?}");
                assert_eq!(Ordered(a) == Ordered(b), a == b);
            }
        }
        assert_eq!(Ordered(&value("1.0")), Ordered(&value("1")));
        assert_eq!(Ordered(&value("-0.0")), Ordered(&value("0")));
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0, -0.0, 1e39, -1e39];
        let mut odd: Vec<Value> = odd.into_iter().map(Value::from).chain([value("3")]).collect();
        odd.sort_by(compare);
        assert_eq!(Ordered(&odd[7]), Ordered(&f64::NAN.into()));
        let order = |n: i128, f: f64| compare_numbers(Number::Integer(n), Number::Float(f));
        for n in [i128::from(u64::MAX), 0, i128::from(i64::MIN)] {
            for (far, expected) in
                [(1e300, Ordering::Less), (1e38, Ordering::Less), (f64::INFINITY, Ordering::Less)]
            {
                assert_eq!(order(n, far), expected, "{n} {far}");
                assert_eq!(order(n, -far), expected.reverse(), "{n} -{far}");
            }
        }
    }

    #[test]
    fn counters_are_exact_or_refused() {
        const MAX: u64 = u64::MAX;
        let cases = [
            ("10", "12", "15", Ok("17")),
            ("10", "7", "15", Ok("12")),
            ("2.0", "3", "4.0", Ok("5")),
            ("9007199254740993", "9007199254740994", "9007199254740995", Ok("9007199254740996")),
            (
                "18446744073709551614",
                "18446744073709551615",
                "18446744073709551614",
                Ok("18446744073709551615"),
            ),
            ("0", "18446744073709551615", "1", Err(Misfit::Overflow)),
            ("0", "-9223372036854775808", "-1", Err(Misfit::Overflow)),
            ("-9223372036854775808", "18446744073709551615", "18446744073709551615", Err(Misfit::Overflow)),
            ("1", "1.5", "3", Err(Misfit::WrongKind)),
            ("1", "\"2\"", "3", Err(Misfit::WrongKind)),
            ("null", "2", "3", Err(Misfit::WrongKind)),
            ("1e30", "2", "3", Err(Misfit::WrongKind)),
            ("1", "1e300", "3", Err(Misfit::WrongKind)),
        ];
        for (base, local, remote, expected) in cases {
            let base = value(base);
            let result = sum(BaseValue::Present(&base), &value(local), &value(remote));
            assert_eq!(result, expected.map(value), "{base:?} {local} {remote}");
        }
        assert_eq!(sum(BaseValue::Absent, &3.into(), &4.into()), Ok(7.into()));
        assert_eq!(sum(BaseValue::Unknown, &3.into(), &4.into()), Err(Misfit::NoBase));
        assert_eq!(sum(BaseValue::Absent, &MAX.into(), &MAX.into()), Err(Misfit::Overflow));
        assert_eq!(sum(BaseValue::Absent, &f64::NAN.into(), &1.into()), Err(Misfit::WrongKind));
    }
}
