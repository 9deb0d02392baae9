//! Values of fields in the one canonical form that decides equality.
//!
//! A JSON library's own equality is not enough for a merge: integers above 64 bits silently become floats there, and
//! `1 == 1.0` is false. Here keys are sorted, integers are exact or refused, `1` equals `1.0` (numbers are compared by
//! what they are worth, not by how they are written), strings are compared byte for byte, and a repeated key is an
//! error. What was written is what is sent: `1.0` stays `1.0`. Tests: at the end of the file.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The fields of a record or of a change: names and values, sorted by name.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Fields(pub BTreeMap<String, Value>);

/// One value: JSON's data model with exact integers.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`, which differs from an absent field.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number that fits 64 bits.
    Number(Number),
    /// A string, compared byte for byte.
    Text(String),
    /// An array; its order matters.
    List(Vec<Value>),
    /// An object; the order of its keys does not matter.
    Object(Fields),
}

/// A number: an exact 64-bit integer or a finite double. Compared by worth, so `Integer(1) == Float(1.0)`.
#[derive(Clone, Copy)]
pub enum Number {
    /// An integer from `i64::MIN` to `u64::MAX`.
    Integer(i128),
    /// A double. Only finite ones pass [`Value::check`].
    Float(f64),
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Integer(i), Self::Float(f)) | (Self::Float(f), Self::Integer(i)) => {
                // A cast saturates and drops the fraction; casting back shows whether anything was lost.
                *f as i128 == *i && (*f as i128) as f64 == *f
            }
        }
    }
}

impl Eq for Number {}

/// Why a JSON text is not a value that Landfall accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not JSON, too deep, or a repeated key; the text says where.
    #[error("{0}")]
    Json(String),
    /// An integer that no 64-bit number holds; sending it on would change it.
    #[error("integer {0} does not fit 64 bits; send it as text")]
    IntegerTooLarge(String),
    /// `NaN` or an infinity, which JSON cannot carry.
    #[error("a number is not finite")]
    NotFinite,
    /// The text is a value, but not an object.
    #[error("expected a JSON object with the fields")]
    NotAnObject,
}

impl Value {
    /// Reads one JSON text exactly.
    ///
    /// # Errors
    /// [`ValueError`] for anything that could not be sent on unchanged.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        refuse_large_integers(text)?;
        serde_json::from_str(text).map_err(|error| ValueError::Json(error.to_string()))
    }

    /// Whether the other is not only equal but written in the same way: `1` is not `1.0` here.
    pub fn is_written_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(Number::Integer(a)), Self::Number(Number::Integer(b))) => a == b,
            (Self::Number(Number::Float(a)), Self::Number(Number::Float(b))) => a.to_bits() == b.to_bits(),
            (Self::Number(_), Self::Number(_)) => false,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_written_like(b))
            }
            (Self::Object(a), Self::Object(b)) => a.is_written_like(b),
            (a, b) => a == b,
        }
    }

    /// Whether lists and objects are nested in it more than `levels` deep. Looks no deeper than that.
    pub fn is_deeper_than(&self, levels: usize) -> bool {
        let deeper = |inner: &Self| match levels.checked_sub(1) {
            Some(left) => inner.is_deeper_than(left),
            None => true,
        };
        match self {
            Self::Null | Self::Bool(_) | Self::Text(_) | Self::Number(_) => false,
            Self::List(items) => levels == 0 || items.iter().any(deeper),
            Self::Object(fields) => levels == 0 || fields.0.values().any(deeper),
        }
    }

    /// Checks that every number inside can be written: finite, and an integer of 64 bits.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`], [`ValueError::IntegerTooLarge`].
    pub fn check(&self) -> Result<(), ValueError> {
        match self {
            Self::Null | Self::Bool(_) | Self::Text(_) => Ok(()),
            Self::Number(Number::Integer(n)) => {
                let fits = i64::try_from(*n).is_ok() || u64::try_from(*n).is_ok();
                fits.then_some(()).ok_or_else(|| ValueError::IntegerTooLarge(n.to_string()))
            }
            Self::Number(Number::Float(f)) => f.is_finite().then_some(()).ok_or(ValueError::NotFinite),
            Self::List(items) => items.iter().try_for_each(Self::check),
            Self::Object(fields) => fields.check(),
        }
    }
}

impl Fields {
    /// No fields.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Reads a JSON object exactly.
    ///
    /// # Errors
    /// [`ValueError`] for anything else, or anything that could not be sent on unchanged.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        match Value::parse(text)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(ValueError::NotAnObject),
        }
    }

    /// Whether the other has the same fields, each [written in the same way](Value::is_written_like).
    pub fn is_written_like(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|((name, a), (other, b))| name == other && a.is_written_like(b))
    }

    /// The canonical JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("fields were checked to hold only finite numbers")
    }

    /// Checks that every number inside can be written: finite, and an integer of 64 bits.
    ///
    /// # Errors
    /// [`ValueError::NotFinite`], [`ValueError::IntegerTooLarge`].
    pub fn check(&self) -> Result<(), ValueError> {
        self.0.values().try_for_each(Value::check)
    }

    /// Sets one field.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of a field, if it is there.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const N: usize, K: Into<String>, V: Into<Value>> From<[(K, V); N]> for Fields {
    fn from(pairs: [(K, V); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl FromIterator<(String, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

macro_rules! value_from {
    ($($from:ty => $make:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self { ($make)(value) }
        }
    )*};
}
value_from! {
    bool => Value::Bool,
    i32 => |n: i32| Value::Number(Number::Integer(n.into())),
    u32 => |n: u32| Value::Number(Number::Integer(n.into())),
    i64 => |n: i64| Value::Number(Number::Integer(n.into())),
    u64 => |n: u64| Value::Number(Number::Integer(n.into())),
    f64 => |n: f64| Value::Number(Number::Float(n)),
    &str => |text: &str| Value::Text(text.into()),
    String => Value::Text,
    Fields => Value::Object,
    Vec<Value> => Value::List,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Looks at the number tokens of a JSON text, because a decoder has already rounded them when it hands them over.
fn refuse_large_integers(text: &str) -> Result<(), ValueError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let start = at;
                while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                {
                    at += 1;
                }
                let token = &text[start..at];
                let integer = !token.contains(['.', 'e', 'E']);
                if integer
                    && token.len() > 18
                    && token.parse::<i64>().is_err()
                    && token.parse::<u64>().is_err()
                {
                    let shown: String = token.chars().take(40).collect();
                    return Err(ValueError::IntegerTooLarge(shown));
                }
            }
            _ => at += 1,
        }
    }
    Ok(())
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Integer(n) => match (i64::try_from(n), u64::try_from(n)) {
                (Ok(signed), _) => serializer.serialize_i64(signed),
                (_, Ok(unsigned)) => serializer.serialize_u64(unsigned),
                _ => Err(serde::ser::Error::custom("integer does not fit 64 bits")),
            },
            Self::Float(f) if f.is_finite() => serializer.serialize_f64(f),
            Self::Float(_) => Err(serde::ser::Error::custom("number is not finite")),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Object(fields) => fields.serialize(serializer),
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

/// Reads any value; in the place of another one it says what was expected.
struct ValueVisitor(&'static str);

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }
    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(n.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the key {name:?} appears twice")));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(Fields(fields)))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor("a JSON value"))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_map(ValueVisitor("a JSON object"))? {
            Value::Object(fields) => Ok(fields),
            _ => Err(de::Error::custom("expected an object")),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(Number::Integer(n)) => write!(f, "{n}"),
            Self::Number(Number::Float(n)) => write!(f, "{n:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Object(fields) => fields.fmt(f),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Value::Number(*self).fmt(f)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_not_yet_written_alike() {
        let rows = [
            ("1", "1.0", false),
            ("1", "1", true),
            ("1.5", "1.50", true),
            ("[1,{\"a\":2}]", "[1,{\"a\":2.0}]", false),
            ("{\"a\":1,\"b\":null}", "{\"b\":null,\"a\":1}", true),
            ("-0.0", "0.0", false),
            ("[1,\"a\"]", "[1,\"a\"]", true),
            ("[[],1.0]", "[[],1]", false),
        ];
        for (a, b, alike) in rows {
            let (a, b) = (Value::parse(a).unwrap(), Value::parse(b).unwrap());
            assert_eq!(a, b);
            assert_eq!(a.is_written_like(&b), alike, "{a:?} {b:?}");
        }
    }

    #[test]
    fn integers_are_exact_or_refused() {
        for exact in ["9223372036854775807", "-9223372036854775808", "18446744073709551615", "0", "-1"] {
            let text = alloc::format!("{{\"n\":{exact}}}");
            assert_eq!(Fields::parse(&text).unwrap().to_json(), text);
        }
        for large in ["18446744073709551616", "-9223372036854775809", "100000000000000000001"] {
            let text = alloc::format!("[\"9\\\"9\",{large}]");
            assert_eq!(Value::parse(&text), Err(ValueError::IntegerTooLarge(large.into())));
        }
        for text in [
            "100000000000000000001",
            "999999999999999999999999",
            "no 999999999999999999999999",
            "\\\"-99999999999999999999999",
            "\\\\",
        ] {
            let text = alloc::format!("[\"{text}\",1]");
            assert_eq!(
                serde_json::to_string(&Value::parse(&text).unwrap()).unwrap(),
                text,
                "words are not numbers"
            );
        }
        assert!(Value::parse("1e300").is_ok());
    }

    #[test]
    fn floats_come_back_as_they_were_written() {
        for text in ["[0.1]", "[1.0]", "[2.225073858507201e-308]", "[123456789.12345679]", "[-0.0]"] {
            let value = Value::parse(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
    }

    #[test]
    fn numbers_are_equal_by_worth() {
        let equal = |a: &str, b: &str| Value::parse(a).unwrap() == Value::parse(b).unwrap();
        assert!(equal("1", "1.0"));
        assert!(equal("0", "-0.0"));
        assert!(equal("1e2", "100"));
        assert!(!equal("9007199254740993", "9007199254740992.0"));
        assert!(!equal("18446744073709551615", "18446744073709551616.0"));
        assert!(!equal("1", "\"1\""));
        assert!(!equal("1", "1.5"));
    }

    #[test]
    fn key_order_is_irrelevant_and_list_order_is_not() {
        let value = |text| Value::parse(text).unwrap();
        assert_eq!(value(r#"{"b":1,"a":[1,2]}"#), value(r#"{"a":[1,2],"b":1}"#));
        assert_ne!(value("[1,2]"), value("[2,1]"));
        assert_ne!(value(r#""é""#), value("\"e\u{301}\""), "no Unicode normalisation");
    }

    #[test]
    fn rubbish_is_an_error_and_never_a_panic() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "nul", "\"", "\"\\", "{\"a\":1,\"a\":2}", "1e400", "\"\\ud800\"", "[1 2]", &deep]
        {
            assert!(Value::parse(bad).is_err(), "{}", &bad[..bad.len().min(20)]);
        }
        assert_eq!(Fields::parse("[1]"), Err(ValueError::NotAnObject));
        assert_eq!(Value::from(f64::NAN).check(), Err(ValueError::NotFinite));
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(
                serde_json::to_string(&Value::from(odd)).is_err(),
                "{odd} is not written as something else"
            );
        }
        for beyond in [i128::from(u64::MAX) + 1, i128::from(i64::MIN) - 1] {
            let value = Value::List([Value::Number(Number::Integer(beyond))].into());
            assert_eq!(value.check(), Err(ValueError::IntegerTooLarge(beyond.to_string())));
        }
    }

    #[test]
    fn depth_counts_lists_and_objects() {
        for (text, depth) in [("1", 0), ("[]", 1), ("{\"a\":1}", 1), ("[1,[2],{\"a\":[]}]", 3)] {
            let value = Value::parse(text).unwrap();
            assert!(!value.is_deeper_than(depth), "{text}");
            assert!(depth == 0 || value.is_deeper_than(depth - 1), "{text}");
        }
    }

    #[test]
    fn absent_differs_from_null() {
        assert_ne!(Fields::parse(r#"{"a":null}"#), Fields::parse("{}"));
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        for text in ["null", "true", "-1", "1.0", "\"a\"", "[1, \"b\"]", "{\"a\": [2], \"b\": {\"c\": null}}"]
        {
            let value = Value::parse(text).unwrap();
            assert_eq!(alloc::format!("{value:?}"), text);
        }
        let fields = Fields::parse("{\"a\":1}").unwrap();
        assert_eq!(alloc::format!("{fields:?} {:?}", Number::Float(0.5)), "{\"a\": 1} 0.5");
    }

    #[test]
    fn what_stands_in_the_place_of_fields_is_named_and_what_should() {
        let error = serde_json::from_str::<Fields>("7").unwrap_err().to_string();
        assert!(error.contains("integer `7`") && error.contains("expected a JSON object"), "{error}");
    }
}
