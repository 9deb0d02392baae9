//! What an app asks for: a change, its options, and the checks at the door.
//!
//! A change is input: everything in it is checked before anything is stored, and each refusal says what to do.
//! Tests: at the end of the file; the coalescing of changes is in `coalesce.rs`.

use crate::config::Limits;
use crate::entity::Base;
use crate::id::{EntityKey, TaskId};
use crate::task::Orphaned;
use crate::time::Timestamp;
use crate::value::{Fields, Number, Value, ValueError};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What a change does to its record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Makes a record that does not exist yet.
    Create,
    /// Changes some fields of a record that exists.
    Update,
    /// Changes some fields, creating the record if it is missing.
    Upsert,
    /// The record becomes exactly these fields.
    Replace,
    /// The record goes.
    Delete,
    /// A named command about the record; what it does is the backend's to know. Never coalesced.
    Action,
}

impl Operation {
    /// Every operation, in the order of the coalescing table.
    pub const ALL: [Self; 6] =
        [Self::Create, Self::Update, Self::Upsert, Self::Replace, Self::Delete, Self::Action];

    /// The word on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Upsert => "upsert",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Action => "action",
        }
    }

    /// Reads that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == word)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operation with the fields it sets and unsets: what a task carries and what coalescing works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// What happens to the record.
    pub operation: Operation,
    /// Name of the command; only of an action.
    pub action: Option<String>,
    /// Fields to set; of an action, its arguments.
    pub fields: Fields,
    /// Fields to remove. Disjoint from `fields`.
    pub unset: BTreeSet<String>,
}

impl Intent {
    /// An intent without fields.
    pub fn new(operation: Operation) -> Self {
        Self { operation, action: None, fields: Fields::new(), unset: BTreeSet::new() }
    }

    /// Sets a field; an earlier unset of it is undone.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let name = name.into();
        self.unset.remove(&name);
        self.fields.set(name, value);
    }

    /// Removes a field; an earlier value for it is dropped.
    pub fn unset(&mut self, name: impl Into<String>) {
        let name = name.into();
        self.fields.0.remove(&name);
        self.unset.insert(name);
    }

    /// Whether nothing would be set or unset.
    pub fn touches_nothing(&self) -> bool {
        self.fields.is_empty() && self.unset.is_empty()
    }
}

/// What the app hands to `enqueue`.
///
/// ```
/// use landfall_core::change::Change;
/// let change = Change::update("note", "note-123").set("title", "Updated title").unset("draft");
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The record.
    pub entity: EntityKey,
    /// What to do with it.
    pub intent: Intent,
    /// How and when to send it.
    pub options: Options,
}

/// How and when a change is to be sent.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options {
    /// Higher goes first among the tasks that may be sent now. Default 0. A coalesced change keeps the higher one.
    pub priority: i32,
    /// Not to be sent before this moment.
    pub not_before: Option<Timestamp>,
    /// A named lane: its tasks run in order, whatever their entities. Without one, only tasks of the same entity wait
    /// for each other.
    pub lane: Option<String>,
    /// Version of the app's payload format. Default 1.
    pub schema: Option<u32>,
    /// The state that the app knows to be the backend's, for apps that do not let Landfall keep a read model. Taken
    /// only while nothing else is queued for the record.
    pub base: Option<Base>,
    /// The id named by an earlier `OutcomeUnknown`: repeating a change with it makes one task, not two.
    pub repeat_of: Option<TaskId>,
    /// After this moment it is not sent for the first time any more.
    pub expires_at: Option<Timestamp>,
    /// What must have ended before it may be sent.
    pub depends_on: Vec<DependsOn>,
    /// What becomes of it when something it waits for is dead or given up.
    pub orphaned: Orphaned,
    /// Changes of one call of `enqueue_many` with the same group are sent together or not at all.
    pub group: Option<String>,
    /// The app's own name for this change: a second one with it is the first one, also after that was applied, within the
    /// journal's horizon.
    pub dedup_key: Option<String>,
    /// The app's own words for finding it again.
    pub tags: BTreeSet<String>,
    /// Not to be sent over a metered network.
    pub unmetered_only: bool,
    /// Rather not at all than twice.
    pub at_most_once: bool,
}

/// What a change waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DependsOn {
    /// Everything that is queued for this record now.
    Entity(EntityKey),
    /// This task.
    Task(TaskId),
}

impl Change {
    fn new(operation: Operation, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self {
            entity: EntityKey::new(entity_type, entity_id),
            intent: Intent::new(operation),
            options: Options::default(),
        }
    }

    /// A change of any operation.
    pub fn of(operation: Operation, entity: EntityKey) -> Self {
        Self { entity, intent: Intent::new(operation), options: Options::default() }
    }

    /// Makes a record that does not exist yet.
    pub fn create(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self::new(Operation::Create, entity_type, entity_id)
    }

    /// Changes some fields of a record that exists.
    pub fn update(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self::new(Operation::Update, entity_type, entity_id)
    }

    /// Changes some fields, creating the record if it is missing.
    pub fn upsert(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self::new(Operation::Upsert, entity_type, entity_id)
    }

    /// Makes the record exactly these fields.
    pub fn replace(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self::new(Operation::Replace, entity_type, entity_id)
    }

    /// Deletes the record.
    pub fn delete(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self::new(Operation::Delete, entity_type, entity_id)
    }

    /// A named command about a record, with its arguments as fields. Never coalesced, and sent once.
    pub fn action(
        entity_type: impl Into<String>,
        entity_id: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let mut change = Self::new(Operation::Action, entity_type, entity_id);
        change.intent.action = Some(action.into());
        change
    }

    /// Sets a field.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.intent.set(name, value);
        self
    }

    /// Sets every one of `fields`.
    #[must_use]
    pub fn fields(mut self, fields: Fields) -> Self {
        for (name, value) in fields.0 {
            self.intent.set(name, value);
        }
        self
    }

    /// Removes a field.
    #[must_use]
    pub fn unset(mut self, name: impl Into<String>) -> Self {
        self.intent.unset(name);
        self
    }

    /// Higher goes first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.options.priority = priority;
        self
    }

    /// Not to be sent before `moment`.
    #[must_use]
    pub fn not_before(mut self, moment: Timestamp) -> Self {
        self.options.not_before = Some(moment);
        self
    }

    /// Puts the task into a named lane.
    #[must_use]
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.options.lane = Some(lane.into());
        self
    }

    /// Marks the payload with the app's own format version.
    #[must_use]
    pub fn schema(mut self, schema: u32) -> Self {
        self.options.schema = Some(schema);
        self
    }

    /// Says what the backend last confirmed, for apps that keep their own read model.
    #[must_use]
    pub fn base(mut self, base: Base) -> Self {
        self.options.base = Some(base);
        self
    }

    /// Repeats a change whose outcome was unknown.
    #[must_use]
    pub fn repeat_of(mut self, task: TaskId) -> Self {
        self.options.repeat_of = Some(task);
        self
    }

    /// Not to be sent for the first time after `moment`.
    #[must_use]
    pub fn expires_at(mut self, moment: Timestamp) -> Self {
        self.options.expires_at = Some(moment);
        self
    }

    /// Waits for everything that is queued for another record.
    #[must_use]
    pub fn depends_on(mut self, entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        self.options.depends_on.push(DependsOn::Entity(EntityKey::new(entity_type, entity_id)));
        self
    }

    /// Waits for another task.
    #[must_use]
    pub fn depends_on_task(mut self, task: TaskId) -> Self {
        self.options.depends_on.push(DependsOn::Task(task));
        self
    }

    /// What becomes of it when something it waits for is dead or given up.
    #[must_use]
    pub fn orphaned(mut self, orphaned: Orphaned) -> Self {
        self.options.orphaned = orphaned;
        self
    }

    /// Sent together with the other changes of its group, or not at all.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.options.group = Some(group.into());
        self
    }

    /// The app's own name for this change, by which a repetition is known.
    #[must_use]
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.options.dedup_key = Some(key.into());
        self
    }

    /// A word for finding it again.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.tags.insert(tag.into());
        self
    }

    /// Not to be sent over a metered network.
    #[must_use]
    pub fn unmetered_only(mut self) -> Self {
        self.options.unmetered_only = true;
        self
    }

    /// Rather not at all than twice: if its fate becomes unknown it waits for a decision instead of being sent again.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.options.at_most_once = true;
        self
    }

    /// Checks everything that can be checked without looking at the queue.
    ///
    /// # Errors
    /// [`InvalidChange`], which says what to mend.
    pub fn check(&self, limits: &Limits) -> Result<(), InvalidChange> {
        check_name("entity type", &self.entity.entity_type, limits.name_bytes)?;
        check_name("entity id", &self.entity.entity_id, limits.name_bytes)?;
        let options = &self.options;
        for (what, name) in [
            ("lane", &options.lane),
            ("group", &options.group),
            ("dedup key", &options.dedup_key),
            ("name of the action", &self.intent.action),
        ] {
            if let Some(name) = name {
                check_name(what, name, limits.name_bytes)?;
            }
        }
        for tag in &options.tags {
            check_name("tag", tag, limits.name_bytes)?;
        }
        if options.tags.len() > limits.tags {
            return Err(InvalidChange::TooManyTags { tags: options.tags.len(), limit: limits.tags });
        }
        if options.depends_on.len() > limits.dependencies {
            let (dependencies, limit) = (options.depends_on.len(), limits.dependencies);
            return Err(InvalidChange::TooManyDependencies { dependencies, limit });
        }
        if !(-limits.priority..=limits.priority).contains(&options.priority) {
            return Err(InvalidChange::PriorityOutOfRange {
                priority: options.priority,
                limit: limits.priority,
            });
        }
        let depth = limits.value_depth;
        if let Some((name, _)) = self.intent.fields.0.iter().find(|(_, value)| value.is_deeper_than(depth)) {
            return Err(InvalidChange::TooDeep { field: name.clone(), limit: depth });
        }
        self.intent.fields.check()?;
        let bytes: usize = self.intent.fields.0.iter().map(|(name, value)| name.len() + size(value)).sum();
        if bytes > limits.change_bytes {
            return Err(InvalidChange::TooLarge { bytes, limit: limits.change_bytes });
        }
        if self.intent.action.is_some() != (self.intent.operation == Operation::Action) {
            return Err(InvalidChange::ActionName);
        }
        match self.intent.operation {
            Operation::Delete if !self.intent.touches_nothing() => Err(InvalidChange::DeleteWithFields),
            Operation::Update if self.intent.touches_nothing() => Err(InvalidChange::NothingToUpdate),
            Operation::Create | Operation::Replace | Operation::Action if !self.intent.unset.is_empty() => {
                Err(InvalidChange::UnsetOfWhole(self.intent.operation))
            }
            _ => Ok(()),
        }
    }
}

fn check_name(what: &'static str, name: &str, limit: usize) -> Result<(), InvalidChange> {
    if name.is_empty() {
        return Err(InvalidChange::Empty(what));
    }
    if name.len() > limit {
        return Err(InvalidChange::NameTooLong { what, bytes: name.len(), limit });
    }
    Ok(())
}

/// A lower bound of a value's length as JSON, without writing it: of what is escaped, and of fractions, it is less.
fn size(value: &Value) -> usize {
    // Two brackets, and a comma between two items.
    let around = |items: usize| 2 + items.saturating_sub(1);
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(Number::Integer(n)) => {
            let digits = n.unsigned_abs().checked_ilog10().map_or(1, |tens| tens as usize + 1);
            digits + usize::from(*n < 0)
        }
        Value::Number(Number::Float(_)) => 3,
        Value::Text(text) => text.len() + 2,
        Value::List(items) => around(items.len()) + items.iter().map(size).sum::<usize>(),
        Value::Object(Fields(fields)) => {
            let inside: usize = fields.iter().map(|(name, item)| name.len() + 3 + size(item)).sum();
            around(fields.len()) + inside
        }
    }
}

/// Why a change cannot be taken as it stands. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChange {
    /// A name that must not be empty is.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A name is longer than the limit.
    #[error("the {what} has {bytes} bytes; at most {limit} are allowed")]
    NameTooLong {
        /// Which name.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The fields are larger than one change may be.
    #[error(
        "the change has {bytes} bytes or more; at most {limit} are allowed (raise `limits.change_bytes` or store the content elsewhere and send a reference)"
    )]
    TooLarge {
        /// A lower bound of its size.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A value is nested more deeply than servers take.
    #[error("the field {field:?} is nested more than {limit} levels deep; flatten it, or send it as text")]
    TooDeep {
        /// Which field.
        field: String,
        /// The limit in force.
        limit: usize,
    },
    /// A value that JSON cannot carry unchanged.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// An action has no name, or something else has one.
    #[error("an action, and nothing else, needs the name of its command")]
    ActionName,
    /// More tags than one change may have.
    #[error("the change has {tags} tags; at most {limit} are allowed")]
    TooManyTags {
        /// How many.
        tags: usize,
        /// The limit in force.
        limit: usize,
    },
    /// More dependencies than one change may have.
    #[error(
        "the change depends on {dependencies} others; at most {limit} are allowed (put them into one lane instead)"
    )]
    TooManyDependencies {
        /// How many.
        dependencies: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A priority that would drown all others.
    #[error("the priority {priority} is out of range; it must be between -{limit} and {limit}")]
    PriorityOutOfRange {
        /// The priority asked for.
        priority: i32,
        /// The limit in force.
        limit: i32,
    },
    /// A delete carries fields.
    #[error("a delete carries no fields")]
    DeleteWithFields,
    /// An update sets and unsets nothing.
    #[error("an update needs at least one field to set or unset")]
    NothingToUpdate,
    /// A create or replace says which fields to remove, but it already says all that the record is to have.
    #[error("a {0} gives the whole record; leave the field out instead of unsetting it")]
    UnsetOfWhole(Operation),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_change_is_refused_with_its_reason() {
        let limits = Limits { change_bytes: 100, name_bytes: 20, value_depth: 2, ..Limits::default() };
        let long = "x".repeat(21);
        let cases = [
            (Change::delete("", "1"), InvalidChange::Empty("entity type")),
            (Change::delete("note", ""), InvalidChange::Empty("entity id")),
            (
                Change::delete("note", long.clone()),
                InvalidChange::NameTooLong { what: "entity id", bytes: 21, limit: 20 },
            ),
            (Change::delete("note", "1").lane(""), InvalidChange::Empty("lane")),
            (Change::delete("note", "1").set("a", 1), InvalidChange::DeleteWithFields),
            (Change::update("note", "1"), InvalidChange::NothingToUpdate),
            (Change::create("note", "1").unset("a"), InvalidChange::UnsetOfWhole(Operation::Create)),
            (
                Change::update("note", "1").set("a", Value::parse("[[[1]]]").unwrap()),
                InvalidChange::TooDeep { field: "a".into(), limit: 2 },
            ),
            (Change::update("note", "1").set("a", f64::INFINITY), ValueError::NotFinite.into()),
            (
                Change::update("note", "1").set("a", "x".repeat(100)),
                InvalidChange::TooLarge { bytes: 103, limit: 100 },
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(change.check(&limits), Err(expected), "{change:?}");
        }
    }

    #[test]
    fn names_may_hold_any_character() {
        for name in ["a b", "a/b", "..", "\0", "🦀", "'\"`;--", "%2f", "\u{202e}rtl", "a\u{301}"] {
            assert_eq!(Change::delete(name, name).check(&Limits::default()), Ok(()));
        }
    }

    #[test]
    fn the_last_of_set_and_unset_counts() {
        let change = Change::update("note", "1").set("a", 1).unset("a").unset("b").set("b", 2);
        assert_eq!(change.intent.fields, Fields::from([("b", 2)]));
        assert!(change.intent.unset.iter().eq(["a"]));
    }

    #[test]
    fn a_change_is_never_taken_for_larger_than_its_json_is() {
        let limits = Limits { change_bytes: 0, ..Limits::default() };
        let told = |text: &str| {
            let change = Change::update("note", "1").set("f", Value::parse(text).unwrap());
            match change.check(&limits) {
                Err(InvalidChange::TooLarge { bytes, .. }) => bytes - "f".len(),
                other => panic!("{text}: {other:?}"),
            }
        };
        for text in [
            "null",
            "true",
            "false",
            "0",
            "7",
            "-10",
            "18446744073709551615",
            "\"\"",
            "\"words\"",
            "[]",
            "[1]",
            "[1,22,[333]]",
            "{}",
            "{\"name\":1}",
            "{\"a\":[],\"b\":{\"c\":\"d\"},\"e\":false}",
        ] {
            assert_eq!(told(text), text.len(), "{text}");
        }
        for text in ["0.5", "-0.123456", "1e300", "\"\\n\"", "{\"\\\"\":1}"] {
            assert!(told(text) <= text.len() && told(text) > 0, "{text}");
        }
    }

    #[test]
    fn an_operation_reads_back_its_word_and_no_other() {
        for operation in Operation::ALL {
            assert_eq!(Operation::parse(operation.as_str()), Some(operation));
            assert_eq!(serde_json::to_string(&operation).unwrap(), alloc::format!("\"{operation}\""));
        }
        for word in ["", "Create", "remove", "create "] {
            assert_eq!(Operation::parse(word), None);
        }
    }

    #[test]
    fn what_is_just_as_large_as_is_allowed_is_taken_and_nothing_larger() {
        let limits = Limits {
            change_bytes: 12,
            name_bytes: 4,
            tags: 2,
            dependencies: 1,
            priority: 7,
            ..Limits::default()
        };
        let plain = || Change::update("note", "1").set("a", 1);
        let task = TaskId::derive(crate::id::ClientId(uuid::Uuid::nil()), &EntityKey::new("a", "b"), 1);
        for fits in [
            Change::update("four", "four")
                .set("a", 1)
                .lane("four")
                .group("four")
                .dedup_key("four")
                .tag("four"),
            plain().tag("a").tag("b"),
            plain().depends_on_task(task),
            plain().priority(7),
            plain().priority(-7),
            Change::update("note", "1").set("f", "123456789"),
        ] {
            assert_eq!(fits.check(&limits), Ok(()), "{fits:?}");
        }
        let long = |what| InvalidChange::NameTooLong { what, bytes: 5, limit: 4 };
        for (change, why) in [
            (Change::update("fives", "1").set("a", 1), long("entity type")),
            (plain().lane("fives"), long("lane")),
            (plain().group("fives"), long("group")),
            (plain().dedup_key("fives"), long("dedup key")),
            (plain().tag("fives"), long("tag")),
            (plain().tag(""), InvalidChange::Empty("tag")),
            (plain().tag("a").tag("b").tag("c"), InvalidChange::TooManyTags { tags: 3, limit: 2 }),
            (
                plain().depends_on_task(task).depends_on("a", "b"),
                InvalidChange::TooManyDependencies { dependencies: 2, limit: 1 },
            ),
            (plain().priority(8), InvalidChange::PriorityOutOfRange { priority: 8, limit: 7 }),
            (plain().priority(-8), InvalidChange::PriorityOutOfRange { priority: -8, limit: 7 }),
            (
                Change::update("note", "1").set("f", "1234567890"),
                InvalidChange::TooLarge { bytes: 13, limit: 12 },
            ),
        ] {
            assert_eq!(change.check(&limits), Err(why), "{change:?}");
        }
    }
}
