//! Dirty fields for apps that keep their own records: what an edit form changed, and the change that says just that.
//!
//! Usable without an engine. Nothing is flagged: a field is dirty while its value differs from the one the form began
//! with, so typing a word and taking it back leaves nothing to send. Tests: at the end of the file.

use crate::change::{Change, Operation};
use crate::entity::{Base, Body};
use crate::id::{EntityKey, Version};
use crate::value::{Fields, Value};
use alloc::string::String;
use core::iter;

/// Tracks what was changed since a known state of a record.
///
/// ```
/// use landfall_core::dirty::DirtyTracker;
/// use landfall_core::value::Fields;
/// let mut note = DirtyTracker::new(Fields::parse(r#"{"title":"Milk","pinned":true}"#).unwrap());
/// note.set("title", "Bread");
/// note.set("pinned", false);
/// note.set("pinned", true); // back to what it was: clean again
/// assert!(note.dirty_fields().eq(["title"]));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirtyTracker {
    base: Fields,
    current: Fields,
}

impl DirtyTracker {
    /// Begins with a state in which nothing is dirty.
    pub fn new(base: Fields) -> Self {
        Self { current: base.clone(), base }
    }

    /// Sets a field.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.current.set(name, value);
    }

    /// Removes a field.
    pub fn unset(&mut self, name: &str) {
        self.current.0.remove(name);
    }

    /// The value of a field now.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.current.value(name)
    }

    /// The whole record now.
    pub fn current(&self) -> &Fields {
        &self.current
    }

    /// The state that everything is compared with.
    pub fn base(&self) -> &Fields {
        &self.base
    }

    /// Whether a field differs from the base; absent differs from `null`.
    pub fn is_field_dirty(&self, name: &str) -> bool {
        self.base.value(name) != self.current.value(name)
    }

    /// Whether anything differs from the base.
    pub fn is_dirty(&self) -> bool {
        self.base != self.current
    }

    /// The names of the fields that differ from the base, removed ones included, in order.
    pub fn dirty_fields(&self) -> impl Iterator<Item = &str> {
        let removed = self.base.0.keys().filter(|name| self.current.value(name).is_none());
        let mut names: alloc::vec::Vec<&str> = self
            .current
            .0
            .keys()
            .chain(removed)
            .map(String::as_str)
            .filter(|n| self.is_field_dirty(n))
            .collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Takes a field back to its base.
    pub fn revert(&mut self, name: &str) {
        match self.base.value(name) {
            Some(value) => self.current.set(name, value.clone()),
            None => drop(self.current.0.remove(name)),
        }
    }

    /// What is now is the new base: nothing is dirty any more. For when the change was handed over.
    pub fn mark_clean(&mut self) {
        self.base = self.current.clone();
    }

    /// The dirty fields as a payload.
    pub fn payload(&self) -> DirtyPayloadBuilder<'_> {
        DirtyPayloadBuilder { tracker: self, always: Fields::new(), version: None }
    }
}

/// Builds what is to be sent of a [`DirtyTracker`]: its dirty fields, and fields that always go along.
#[derive(Clone, Debug)]
pub struct DirtyPayloadBuilder<'a> {
    tracker: &'a DirtyTracker,
    always: Fields,
    version: Option<Version>,
}

impl DirtyPayloadBuilder<'_> {
    /// Sends this field along whenever anything is dirty, such as `updated_by`.
    #[must_use]
    pub fn always(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.always.set(name, value);
        self
    }

    /// The version of the base, by which the backend can see that the record has moved on.
    #[must_use]
    pub fn base_version(mut self, version: impl Into<Version>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The fields to set; `None` when nothing is dirty.
    pub fn fields(&self) -> Option<Fields> {
        if !self.tracker.is_dirty() {
            return None;
        }
        let current = |name: &str| Some((String::from(name), self.tracker.value(name)?.clone()));
        let dirty = self.tracker.dirty_fields().filter_map(current);
        let always = self.always.0.iter().map(|(name, value)| (name.clone(), value.clone()));
        Some(dirty.chain(always).collect())
    }

    /// An update of `entity` with exactly these fields, based on the tracker's base; `None` when nothing is dirty.
    pub fn change(&self, entity: EntityKey) -> Option<Change> {
        let mut change = Change::of(Operation::Update, entity).fields(self.fields()?);
        for name in self.tracker.dirty_fields().filter(|name| self.tracker.value(name).is_none()) {
            if self.always.value(name).is_none() {
                change = change.unset(name);
            }
        }
        let body = Body::Live(self.tracker.base.clone());
        Some(change.base(Base { body, version: self.version.clone(), complete: true }))
    }
}

impl iter::FromIterator<(String, Value)> for DirtyTracker {
    /// Begins with these fields.
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        Self::new(fields.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> DirtyTracker {
        DirtyTracker::new(Fields::from([("a", 1), ("b", 2), ("c", 3)]))
    }

    #[test]
    fn a_field_that_came_back_is_clean() {
        let mut record = tracker();
        record.set("a", 9);
        assert!(record.is_dirty() && record.is_field_dirty("a"));
        record.set("a", 1);
        assert!(!record.is_dirty());
        assert_eq!(record.payload().fields(), None);
    }

    #[test]
    fn only_what_differs_is_sent_and_null_is_not_absent() {
        let mut record = tracker();
        record.set("a", Value::Null);
        record.unset("b");
        record.set("d", 4);
        assert!(record.dirty_fields().eq(["a", "b", "d"]));
        let change =
            record.payload().base_version("7").always("by", 5).change(EntityKey::new("t", "1")).unwrap();
        assert_eq!(change.intent.fields.to_json(), r#"{"a":null,"by":5,"d":4}"#);
        assert!(change.intent.unset.iter().eq(["b"]));
        assert_eq!(change.options.base.unwrap().version, Some("7".into()));
        record.revert("b");
        record.mark_clean();
        assert!(!record.is_dirty());
        assert_eq!(record.base().to_json(), r#"{"a":null,"b":2,"c":3,"d":4}"#);
    }

    #[test]
    fn a_tracker_of_collected_fields_begins_clean() {
        let record: DirtyTracker = Fields::from([("a", 1)]).0.into_iter().collect();
        assert_eq!(record.base().to_json(), r#"{"a":1}"#);
        assert!(!record.is_dirty());
    }
}
