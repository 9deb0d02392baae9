//! [`Fields`]: a JSON object whose values keep the exact text they were written with.
//!
//! Why not `serde_json::Value`: it turns integers above 64 bits into floats (two different ids become equal) and
//! lets the last of two equal names win. This type does neither. It does not judge values, compare numbers or
//! merge: two values are equal here when their texts are.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::string::{String, ToString};
use core::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The fields of a record or a change: names in order, values as exact JSON text.
///
/// Reading refuses an object that has the same name twice. Writing gives the names in byte order and each value
/// as it was read (the whitespace inside a value included).
///
/// ```
/// use landfall_protocol::Fields;
/// let fields = Fields::from_json(r#"{"id": 100000000000000000000001, "price": 1.0}"#).unwrap();
/// assert_eq!(fields.text("id"), Some("100000000000000000000001"));
/// assert_eq!(fields.to_json(), r#"{"id":100000000000000000000001,"price":1.0}"#);
/// assert!(Fields::from_json(r#"{"a":1,"a":2}"#).is_err());
/// ```
#[derive(Clone, Default)]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<Self, FieldsError> {
        serde_json::from_str(text).map_err(FieldsError::from)
    }

    /// The JSON object, names in byte order, no whitespace between members.
    pub fn to_json(&self) -> String {
        let mut text = String::from("{");
        for (name, value) in &self.0 {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(name).expect("a string is always JSON"));
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        text
    }

    /// Sets a field to the JSON text of a value, for example `"1.0"` or `"\"text\""`.
    pub fn set(&mut self, name: impl Into<String>, json: &str) -> Result<(), FieldsError> {
        let value = RawValue::from_string(json.trim().to_owned()).map_err(FieldsError::from)?;
        self.0.insert(name.into(), value);
        Ok(())
    }

    /// The same as [`Fields::set`], for building in one expression.
    pub fn with(mut self, name: impl Into<String>, json: &str) -> Result<Self, FieldsError> {
        self.set(name, json)?;
        Ok(self)
    }

    /// Sets a field to a value that is already JSON text.
    pub fn insert(&mut self, name: impl Into<String>, value: Box<RawValue>) {
        self.0.insert(name.into(), value);
    }

    /// Removes a field and gives back its value.
    pub fn remove(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.0.remove(name)
    }

    /// The value of a field.
    pub fn value(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// The JSON text of a field's value.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).map(RawValue::get)
    }

    /// Whether there is a field with this name (its value may be `null`).
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Names and values, names in byte order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Fields {
    /// Equal texts, so `1` differs from `1.0`.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.iter().zip(other.iter()).all(|(a, b)| a.0 == b.0 && a.1.get() == b.1.get())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.get()))).finish()
    }
}

impl FromIterator<(String, Box<RawValue>)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Box<RawValue>)>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

impl IntoIterator for Fields {
    type Item = (String, Box<RawValue>);
    type IntoIter = alloc::collections::btree_map::IntoIter<String, Box<RawValue>>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    match fields.entry(name) {
                        Entry::Vacant(place) => place.insert(map.next_value::<Box<RawValue>>()?),
                        Entry::Occupied(place) => {
                            return Err(A::Error::custom(format_args!(
                                "field {:?} is there twice",
                                place.key()
                            )));
                        }
                    };
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A text that is not a JSON object of fields, or not a JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldsError(String);

impl From<serde_json::Error> for FieldsError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for FieldsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not readable as fields: {}", self.0)
    }
}

impl core::error::Error for FieldsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_text_they_came_with() {
        let text =
            r#"{"a":18446744073709551617,"b":1.0,"c":1e2,"d":-0,"e":{"z":1,"y":[1.10]},"f":"é","g":null}"#;
        let fields = Fields::from_json(text).unwrap();
        assert_eq!(fields.to_json(), text);
        assert_eq!(serde_json::to_string(&fields).unwrap(), text);
        assert_ne!(
            Fields::new().with("n", "1").unwrap(),
            Fields::new().with("n", "1.0").unwrap(),
            "texts are compared, not numbers"
        );
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(Fields::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for text in ["null", "[]", "1", "\"a\"", "{\"a\":}", "{", ""] {
            assert!(Fields::from_json(text).is_err(), "{text}");
        }
        assert!(Fields::new().with("a", "1 2").is_err());
        assert!(Fields::new().with("a", "").is_err());
    }
}
