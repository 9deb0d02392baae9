//! What is written down of a value that both sides changed: all of it, so that nothing is ever dropped silently (G7).
//!
//! These are records, made by `merge.rs` and read by people and by the conflict inbox. Tests: at the end of the file
//! and in `tests/merge_laws.rs`.

use super::rule::{FieldRule, escape};
use crate::value::{Fields, Value};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize};

/// One of the two sides of a merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the app sees.
    Local,
    /// What the backend has.
    Remote,
}

/// What the base says of one value. `Unknown` is not `Absent`: a base is never guessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseValue<V> {
    /// Nothing is known: no base, or one that does not reach this field.
    Unknown,
    /// The field was not there.
    Absent,
    /// The field had this value.
    Present(V),
}

/// Both sides changed one value, each in its own way: what there was, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FieldConflict {
    /// Where.
    pub path: Path,
    /// What it was.
    pub base: BaseValue<Value>,
    /// The local value; `None`: not there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub local: Option<Value>,
    /// The remote value; `None`: not there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub remote: Option<Value>,
    /// The rule in force.
    pub rule: FieldRule,
    /// Why the rule did not fit, so that the strategy decided instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misfit: Option<Misfit>,
    /// The group that was taken as a whole, such as `amount+currency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whose value it became.
    pub chosen: Chosen,
    /// The value it became; `None`: not there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub result: Option<Value>,
}

/// Whose value a contested field became.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// The local one; the remote one is only in the record.
    Local,
    /// The remote one; the local one is only in the record.
    Remote,
    /// One made of both.
    Merged,
    /// Nobody's yet: a person must decide. The app goes on seeing its own.
    Undecided,
}

/// Why a rule could not be applied to the values it met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Misfit {
    /// The rule needs a base, and none is known.
    NoBase,
    /// One side removed what the other changed.
    Removed,
    /// A value is not of the kind that the rule works on.
    WrongKind,
    /// The sum does not fit 64 bits.
    Overflow,
    /// An item of a keyed list has no usable key, or two have the same.
    Keys,
    /// Both edited the same words.
    SameWords,
    /// The texts are too long or too different to compare.
    TooLarge,
    /// No resolver of that name is registered.
    NoResolver,
    /// The resolver answered with something that cannot be stored.
    BadAnswer,
}

/// Where in a record: `order.lines[7].quantity`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Path(pub Vec<Step>);

/// One step of a [`Path`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Into the field of this name.
    Field(String),
    /// Into the item of a keyed list whose field of this name has this value.
    Item(String, Value),
}

/// What a resolver is asked to decide.
#[derive(Clone, Copy, Debug)]
pub struct Dispute<'a> {
    /// Where. For a group: the object that holds its members.
    pub path: &'a Path,
    /// What it was. For a group this and the next two are objects with its members.
    pub base: BaseValue<&'a Value>,
    /// The local value; `None`: not there.
    pub local: Option<&'a Value>,
    /// The remote value; `None`: not there.
    pub remote: Option<&'a Value>,
    /// Which side was written later, if that is known.
    pub newer: Option<Side>,
}

impl Path {
    /// The top-level field that this lies in.
    pub fn field(&self) -> Option<&str> {
        match self.0.first() {
            Some(Step::Field(name)) => Some(name),
            _ => None,
        }
    }

    /// What a record has there.
    pub fn value<'a>(&self, record: &'a Fields) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        let Step::Field(name) = first else { return None };
        rest.iter().try_fold(record.value(name)?, |inside, step| match (inside, step) {
            (Value::Object(fields), Step::Field(name)) => fields.value(name),
            (Value::List(items), Step::Item(key, value)) => {
                items.iter().find(|item| is_item(item, key, value))
            }
            _ => None,
        })
    }

    /// Puts a value there, or takes it away; `false` when the record has no such place.
    pub fn put(&self, record: &mut Fields, value: Option<Value>) -> bool {
        let Some((Step::Field(name), rest)) = self.0.split_first() else { return false };
        put_field(record, name, rest, value)
    }
}

fn put_field(fields: &mut Fields, name: &str, rest: &[Step], value: Option<Value>) -> bool {
    match (rest.split_first(), value) {
        (None, Some(value)) => fields.set(name, value),
        (None, None) => drop(fields.0.remove(name)),
        (Some((step, deeper)), value) => {
            let Some(inside) = fields.0.get_mut(name) else { return false };
            return put_inside(inside, step, deeper, value);
        }
    }
    true
}

fn put_inside(inside: &mut Value, step: &Step, rest: &[Step], value: Option<Value>) -> bool {
    match (inside, step) {
        (Value::Object(fields), Step::Field(name)) => put_field(fields, name, rest, value),
        (Value::List(items), Step::Item(key, wanted)) => {
            let at = items.iter().position(|item| is_item(item, key, wanted));
            match (rest.split_first(), value, at) {
                (None, Some(value), Some(at)) => items[at] = value,
                (None, Some(value), None) => items.push(value),
                (None, None, Some(at)) => drop(items.remove(at)),
                (None, None, None) => {}
                (Some((step, deeper)), value, Some(at)) => {
                    return put_inside(&mut items[at], step, deeper, value);
                }
                (Some(_), _, None) => return false,
            }
            true
        }
        _ => false,
    }
}

fn is_item(item: &Value, key: &str, value: &Value) -> bool {
    matches!(item, Value::Object(fields) if fields.value(key) == Some(value))
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => f.write_str(&escape(name))?,
                Step::Field(name) => write!(f, ".{}", escape(name))?,
                Step::Item(_, key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

impl Side {
    /// The one across.
    pub const fn other(self) -> Self {
        match self {
            Self::Local => Self::Remote,
            Self::Remote => Self::Local,
        }
    }
}

impl From<Side> for Chosen {
    fn from(side: Side) -> Self {
        match side {
            Side::Local => Self::Local,
            Side::Remote => Self::Remote,
        }
    }
}

impl<'a> BaseValue<&'a Value> {
    /// Of a field that a whole base has or has not.
    pub(super) fn known(value: Option<&'a Value>) -> Self {
        value.map_or(Self::Absent, Self::Present)
    }

    /// Whether `side` is certainly what it was.
    pub(super) fn is(self, side: Option<&Value>) -> bool {
        match self {
            Self::Unknown => false,
            Self::Absent => side.is_none(),
            Self::Present(value) => side == Some(value),
        }
    }

    /// A copy to keep.
    pub fn cloned(self) -> BaseValue<Value> {
        match self {
            Self::Unknown => BaseValue::Unknown,
            Self::Absent => BaseValue::Absent,
            Self::Present(value) => BaseValue::Present(value.clone()),
        }
    }
}

/// Reads a value that is there, also when it is `null`: `Option`'s own reading takes that for nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn a_path_leads_to_the_same_place_for_reading_and_writing() {
        let mut record = Fields::parse(r#"{"a":{"b":1},"list":[{"id":7,"c":2},{"id":8,"c":3}]}"#).unwrap();
        let field = |name: &str| Step::Field(name.into());
        let in_list = Path(vec![field("list"), Step::Item("id".into(), 8.into()), field("c")]);
        let in_object = Path(vec![field("a"), field("b")]);
        assert_eq!(in_list.value(&record), Some(&3.into()));
        assert!(in_list.put(&mut record, Some(9.into())) && in_object.put(&mut record, None));
        assert!(Path(vec![field("list"), Step::Item("id".into(), 7.into())]).put(&mut record, None));
        assert_eq!(record.to_json(), r#"{"a":{},"list":[{"c":9,"id":8}]}"#);
        assert!(!Path(vec![field("gone"), field("x")]).put(&mut record, Some(1.into())));
        assert!(!Path::default().put(&mut record, None));
    }

    #[test]
    fn a_conflict_is_kept_exactly_with_null_and_absent_apart() {
        let path =
            Path(vec![Step::Field("a.b".into()), Step::Item("id".into(), 7.into()), Step::Field("c".into())]);
        assert_eq!(path.to_string(), "a\\.b[7].c");
        for (local, remote) in [(None, Some(Value::Null)), (Some(Value::Null), None), (Some(1.into()), None)]
        {
            for base in [BaseValue::Unknown, BaseValue::Absent, BaseValue::Present(Value::Null)] {
                let conflict = FieldConflict {
                    path: path.clone(),
                    base,
                    local: local.clone(),
                    remote: remote.clone(),
                    rule: FieldRule::KeyedList("id".into()),
                    misfit: Some(Misfit::Keys),
                    group: None,
                    chosen: Chosen::Remote,
                    result: remote.clone(),
                };
                let json = serde_json::to_string(&conflict).unwrap();
                assert_eq!(serde_json::from_str::<FieldConflict>(&json).unwrap(), conflict, "{json}");
            }
        }
    }
}
