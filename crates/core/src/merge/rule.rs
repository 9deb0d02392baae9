//! What an app declares about conflicts: a strategy per queue or type, a rule per field, groups of fields, resolvers.
//!
//! Declarations are data, read from code, a file or the command line (`--field order.amount+currency=server`). This
//! module knows nothing of values; `merge.rs` applies what is declared here. Tests: at the end of the file.

use super::conflict::Dispute;
use crate::value::{Fields, Value};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What decides a field that both sides changed to different values.
///
/// One word everywhere, in code, in JSON and on the command line:
///
/// ```
/// use landfall_core::merge::rule::FieldRule;
/// assert_eq!(FieldRule::parse("keyed_list(id)"), Ok(FieldRule::KeyedList("id".into())));
/// assert_eq!(FieldRule::OrSet.to_string(), "or_set");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum FieldRule {
    /// The newer side. When nobody knows which is newer, the remote one, which the others already see.
    Lww,
    /// The remote side.
    Server,
    /// The local side.
    Client,
    /// The larger of two numbers, or of two texts byte by byte (so also of two ISO dates).
    Max,
    /// The smaller of them.
    Min,
    /// Both differences count: base + (local − base) + (remote − base), exact for integers. Absent in the base is 0.
    /// The one rule that also applies where both sides hold the same: two devices that counted one have counted two.
    Counter,
    /// A list as a set that only grows: everything that either side holds.
    GrowSet,
    /// A list as a set: what either side added comes in, what either side removed goes.
    OrSet,
    /// A list of objects that are told apart by this field: merged item by item, in the remote order.
    KeyedList(String),
    /// Text: both edits are kept where they touch different lines, or different words of a line.
    Text,
    /// What the backend accepted first stands, whole: never merged by key, never overwritten.
    Immutable,
    /// A person decides. Until then the app goes on seeing its own value, and nothing is sent.
    Ask,
    /// The resolver that the app registered under this name decides. It is given the whole value, objects included.
    Custom(String),
}

/// The rules that take a side without looking at the values: what a group may have, and what every other rule falls
/// back to when it does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pick {
    /// [`FieldRule::Lww`].
    Lww,
    /// [`FieldRule::Server`].
    Server,
    /// [`FieldRule::Client`].
    Client,
    /// [`FieldRule::Ask`].
    Ask,
    /// [`FieldRule::Custom`].
    Custom(String),
}

/// What happens when two sides clash, for a whole queue or an entity type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Strategy {
    /// The newer write of each contested field.
    LastWriteWins,
    /// The remote value of each contested field.
    ServerWins,
    /// The local value of each contested field. Fields that the app did not touch stay the backend's.
    ClientWins,
    /// Everything that can be kept is kept: the newer write of each contested field, and an edit before a deletion.
    FieldMerge,
    /// Contested fields wait for a person.
    Ask,
    /// A contested record becomes two.
    Fork,
    /// The resolver of this name decides.
    Custom(String),
}

/// What happens when one side deleted what the other edited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletePolicy {
    /// It is deleted; the edit is in the conflict record.
    DeleteWins,
    /// It lives on with the edit.
    EditWins,
    /// A person decides.
    Ask,
    /// The edited state lives on as a record of its own. A local deletion has nothing to keep apart, so there the
    /// remote edit simply stays.
    Fork,
}

/// The name of a field, or of a field inside an object: one or more names.
///
/// ```
/// use landfall_core::merge::rule::FieldPath;
/// let path = FieldPath::parse("address.geo\\.point").unwrap(); // a backslash takes the next character as it is
/// assert_eq!(path, FieldPath::new("address").then("geo.point"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FieldPath {
    parents: Vec<String>,
    name: String,
}

/// Everything declared for one queue.
///
/// ```
/// use landfall_core::merge::rule::{DeletePolicy, FieldRule, Rules, Strategy};
/// let mut rules = Rules::new(Strategy::FieldMerge);
/// rules.declare("report.cost=max").unwrap();
/// rules.declare("order.price.amount+currency=server").unwrap(); // a group: never torn
/// rules.entity("order").deletes = Some(DeletePolicy::Ask);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// For every type that has none of its own.
    pub strategy: Strategy,
    /// For every type that has none of its own; `None`: what the strategy implies.
    pub deletes: Option<DeletePolicy>,
    types: BTreeMap<String, TypeRules>,
    resolvers: BTreeMap<String, Resolver>,
}

/// What is declared for one entity type.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TypeRules {
    /// Instead of the queue's.
    pub strategy: Option<Strategy>,
    /// Instead of the queue's, and of what the strategy implies.
    pub deletes: Option<DeletePolicy>,
    /// Looks at a record that nobody wrote as it is: a mixture of both sides. `Err` is a reason for people.
    pub validator: Option<Validator>,
    fields: Node,
}

/// What holds for one entity type when everything declared is put together. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct RulesOf<'a> {
    pub(super) strategy: &'a Strategy,
    pub(super) deletes: Option<DeletePolicy>,
    pub(super) validator: Option<&'a Validator>,
    pub(super) fields: &'a Node,
    resolvers: &'a BTreeMap<String, Resolver>,
}

/// One level of fields with what is declared for them.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Node {
    pub(super) rule: Option<FieldRule>,
    pub(super) groups: Vec<Group>,
    children: BTreeMap<String, Node>,
}

/// Fields of one level that are always taken from the same side.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Group {
    pub(super) members: BTreeSet<String>,
    pub(super) pick: Option<Pick>,
}

/// Decides one contested value. Must be a pure function: the same dispute may be put to it again.
#[derive(Clone)]
pub struct Resolver(Arc<ResolverFn>);

/// Judges one merged record. Must be a pure function.
#[derive(Clone)]
pub struct Validator(Arc<ValidatorFn>);

type ResolverFn = dyn Fn(&Dispute<'_>) -> Answer + Send + Sync;
type ValidatorFn = dyn Fn(&Fields) -> Result<(), String> + Send + Sync;

/// What a resolver says.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// The local value.
    Local,
    /// The remote value.
    Remote,
    /// This value. For a group: an object with its members.
    Value(Value),
    /// The field goes.
    Remove,
    /// A person is to decide.
    Ask,
}

/// Why a declaration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRule {
    /// The word names no rule.
    #[error(
        "unknown rule {0:?}; known are lww, server, client, max, min, counter, grow_set, or_set, keyed_list(KEY), text, immutable, ask, custom(NAME)"
    )]
    UnknownRule(String),
    /// The word names no strategy.
    #[error(
        "unknown strategy {0:?}; known are last_write_wins, server_wins, client_wins, field_merge, ask, fork, custom(NAME)"
    )]
    UnknownStrategy(String),
    /// The word names no delete policy.
    #[error("unknown delete policy {0:?}; known are delete_wins, edit_wins, ask, fork")]
    UnknownDeletePolicy(String),
    /// Not of the form `TYPE.FIELD=RULE`.
    #[error("{0:?} is not of the form TYPE.FIELD=RULE or TYPE.FIELD+FIELD=RULE")]
    Malformed(String),
    /// A name in a path is empty.
    #[error("{0:?} has an empty name in it")]
    EmptyName(String),
    /// A group takes one side as it is, so its rule must be one that takes sides.
    #[error("a group cannot have the rule {0}; use lww, server, client, ask or custom(NAME)")]
    NotForGroups(FieldRule),
    /// One field is not a group.
    #[error("a group needs at least two fields")]
    GroupTooSmall,
    /// A field has one rule: its own or its group's.
    #[error("{0:?} is already declared, on its own or in a group")]
    DeclaredTwice(String),
}

/// The words without an argument. `set` and the strategies' own words are understood too.
const RULE_WORDS: [(&str, FieldRule); 15] = [
    ("lww", FieldRule::Lww),
    ("server", FieldRule::Server),
    ("client", FieldRule::Client),
    ("max", FieldRule::Max),
    ("min", FieldRule::Min),
    ("counter", FieldRule::Counter),
    ("grow_set", FieldRule::GrowSet),
    ("or_set", FieldRule::OrSet),
    ("text", FieldRule::Text),
    ("immutable", FieldRule::Immutable),
    ("ask", FieldRule::Ask),
    ("set", FieldRule::OrSet),
    ("last_write_wins", FieldRule::Lww),
    ("server_wins", FieldRule::Server),
    ("client_wins", FieldRule::Client),
];

const STRATEGY_WORDS: [(&str, Strategy); 6] = [
    ("last_write_wins", Strategy::LastWriteWins),
    ("server_wins", Strategy::ServerWins),
    ("client_wins", Strategy::ClientWins),
    ("field_merge", Strategy::FieldMerge),
    ("ask", Strategy::Ask),
    ("fork", Strategy::Fork),
];

const DELETE_WORDS: [(&str, DeletePolicy); 4] = [
    ("delete_wins", DeletePolicy::DeleteWins),
    ("edit_wins", DeletePolicy::EditWins),
    ("ask", DeletePolicy::Ask),
    ("fork", DeletePolicy::Fork),
];

impl FieldRule {
    /// Reads the word, such as `counter` or `keyed_list(id)`.
    ///
    /// # Errors
    /// [`InvalidRule::UnknownRule`].
    pub fn parse(word: &str) -> Result<Self, InvalidRule> {
        let plain = RULE_WORDS.iter().find(|(known, _)| *known == word).map(|(_, rule)| rule.clone());
        plain
            .or_else(|| argument(word, "keyed_list").map(Self::KeyedList))
            .or_else(|| argument(word, "custom").map(Self::Custom))
            .ok_or_else(|| InvalidRule::UnknownRule(word.into()))
    }

    /// Whether a value is never taken apart under this rule, not even an object.
    pub(super) const fn is_atomic(&self) -> bool {
        matches!(self, Self::Immutable | Self::Custom(_))
    }
}

impl fmt::Display for FieldRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyedList(key) => write!(f, "keyed_list({key})"),
            Self::Custom(name) => write!(f, "custom({name})"),
            plain => f.write_str(word_of(&RULE_WORDS, plain)),
        }
    }
}

impl Strategy {
    /// Reads the word, such as `field_merge` or `custom(NAME)`.
    ///
    /// # Errors
    /// [`InvalidRule::UnknownStrategy`].
    pub fn parse(word: &str) -> Result<Self, InvalidRule> {
        let plain = STRATEGY_WORDS.iter().find(|(known, _)| *known == word).map(|(_, strategy)| strategy);
        plain
            .cloned()
            .or_else(|| argument(word, "custom").map(Self::Custom))
            .ok_or_else(|| InvalidRule::UnknownStrategy(word.into()))
    }

    /// What decides a contested field that has no rule of its own, or whose rule does not fit its values. A record
    /// that is to fork must not be decided field by field, so its fields stay open.
    pub fn pick(&self) -> Pick {
        match self {
            Self::LastWriteWins | Self::FieldMerge => Pick::Lww,
            Self::ServerWins => Pick::Server,
            Self::ClientWins => Pick::Client,
            Self::Ask | Self::Fork => Pick::Ask,
            Self::Custom(name) => Pick::Custom(name.clone()),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom(name) => write!(f, "custom({name})"),
            plain => f.write_str(word_of(&STRATEGY_WORDS, plain)),
        }
    }
}

impl DeletePolicy {
    /// Reads the word, such as `edit_wins`.
    ///
    /// # Errors
    /// [`InvalidRule::UnknownDeletePolicy`].
    pub fn parse(word: &str) -> Result<Self, InvalidRule> {
        let found = DELETE_WORDS.iter().find(|(known, _)| *known == word);
        found.map(|(_, policy)| *policy).ok_or_else(|| InvalidRule::UnknownDeletePolicy(word.into()))
    }
}

impl fmt::Display for DeletePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word_of(&DELETE_WORDS, self))
    }
}

impl From<Pick> for FieldRule {
    fn from(pick: Pick) -> Self {
        match pick {
            Pick::Lww => Self::Lww,
            Pick::Server => Self::Server,
            Pick::Client => Self::Client,
            Pick::Ask => Self::Ask,
            Pick::Custom(name) => Self::Custom(name),
        }
    }
}

impl TryFrom<FieldRule> for Pick {
    type Error = InvalidRule;

    fn try_from(rule: FieldRule) -> Result<Self, InvalidRule> {
        Ok(match rule {
            FieldRule::Lww => Self::Lww,
            FieldRule::Server => Self::Server,
            FieldRule::Client => Self::Client,
            FieldRule::Ask => Self::Ask,
            FieldRule::Custom(name) => Self::Custom(name),
            other => return Err(InvalidRule::NotForGroups(other)),
        })
    }
}

macro_rules! as_word {
    ($($type:ty),*) => {$(
        impl From<$type> for String {
            fn from(value: $type) -> Self { value.to_string() }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidRule;
            fn try_from(word: String) -> Result<Self, InvalidRule> { Self::parse(&word) }
        }
    )*};
}
as_word!(FieldRule, Strategy);

impl FieldPath {
    /// A field of the record.
    pub fn new(name: impl Into<String>) -> Self {
        Self { parents: Vec::new(), name: name.into() }
    }

    /// A field inside this one.
    #[must_use]
    pub fn then(mut self, name: impl Into<String>) -> Self {
        self.parents.push(core::mem::replace(&mut self.name, name.into()));
        self
    }

    /// The names from the outside in.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parents.iter().chain([&self.name]).map(String::as_str)
    }

    /// Reads names with dots between them. The items of a keyed list are left out: `items.quantity`.
    ///
    /// # Errors
    /// [`InvalidRule::EmptyName`].
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        let mut names = split(text, '.').into_iter().map(|name| unescape(&name));
        let first = Self::new(names.next().unwrap_or_default());
        let path = names.fold(first, Self::then);
        if path.name.is_empty() || path.parents.iter().any(String::is_empty) {
            return Err(InvalidRule::EmptyName(text.into()));
        }
        Ok(path)
    }
}

impl Rules {
    /// No rule but this strategy.
    pub const fn new(strategy: Strategy) -> Self {
        Self { strategy, deletes: None, types: BTreeMap::new(), resolvers: BTreeMap::new() }
    }

    /// What is declared for one type, to be added to.
    pub fn entity(&mut self, entity_type: impl Into<String>) -> &mut TypeRules {
        self.types.entry(entity_type.into()).or_default()
    }

    /// Registers what `custom(name)` means.
    pub fn resolver(
        &mut self,
        name: impl Into<String>,
        resolver: impl Fn(&Dispute<'_>) -> Answer + Send + Sync + 'static,
    ) {
        self.resolvers.insert(name.into(), Resolver(Arc::new(resolver)));
    }

    /// Reads one declaration as the command line takes it: `TYPE.FIELD=RULE`, or `TYPE.FIELD+FIELD=RULE` for a group.
    ///
    /// # Errors
    /// [`InvalidRule`] says what to mend.
    pub fn declare(&mut self, declaration: &str) -> Result<(), InvalidRule> {
        let malformed = || InvalidRule::Malformed(declaration.into());
        let (target, word) = cut(declaration, '=').ok_or_else(malformed)?;
        let (entity_type, fields) = cut(target, '.').ok_or_else(malformed)?;
        if entity_type.is_empty() {
            return Err(malformed());
        }
        let rule = FieldRule::parse(word)?;
        let mut names = split(fields, '+').into_iter();
        let first = FieldPath::parse(&names.next().unwrap_or_default())?;
        let others: Vec<String> = names.map(|name| unescape(&name)).collect();
        let entity = self.entity(unescape(entity_type));
        if others.is_empty() {
            return entity.field(&first, rule);
        }
        entity.group(&first, others, Some(rule.try_into()?))
    }

    /// What holds for one type.
    pub fn of(&self, entity_type: &str) -> RulesOf<'_> {
        static NONE: TypeRules =
            TypeRules { strategy: None, deletes: None, validator: None, fields: Node::NONE };
        let own = self.types.get(entity_type).unwrap_or(&NONE);
        RulesOf {
            strategy: own.strategy.as_ref().unwrap_or(&self.strategy),
            deletes: own.deletes.or(self.deletes),
            validator: own.validator.as_ref(),
            fields: &own.fields,
            resolvers: &self.resolvers,
        }
    }
}

impl TypeRules {
    /// Declares the rule of one field. Fields inside it that declare none have the same; the items of a keyed list
    /// start anew.
    ///
    /// # Errors
    /// [`InvalidRule::DeclaredTwice`].
    pub fn field(&mut self, path: &FieldPath, rule: FieldRule) -> Result<(), InvalidRule> {
        let parent = self.fields.descend(&path.parents)?;
        parent.refuse_grouped(&path.name)?;
        let node = parent.children.entry(path.name.clone()).or_default();
        if node.rule.is_some() {
            return Err(InvalidRule::DeclaredTwice(path.name.clone()));
        }
        node.rule = Some(rule);
        Ok(())
    }

    /// Declares that `first` and its neighbours `others` are taken from one side together. Without a `pick` the
    /// strategy decides.
    ///
    /// # Errors
    /// [`InvalidRule`] when a field is missing, or has a rule already.
    pub fn group(
        &mut self,
        first: &FieldPath,
        others: impl IntoIterator<Item = String>,
        pick: Option<Pick>,
    ) -> Result<(), InvalidRule> {
        let parent = self.fields.descend(&first.parents)?;
        let mut members = BTreeSet::from([first.name.clone()]);
        members.extend(others);
        if members.len() < 2 {
            return Err(InvalidRule::GroupTooSmall);
        }
        for name in &members {
            if name.is_empty() {
                return Err(InvalidRule::EmptyName(members.iter().cloned().collect::<Vec<_>>().join("+")));
            }
            parent.refuse_grouped(name)?;
            if parent.children.contains_key(name) {
                return Err(InvalidRule::DeclaredTwice(name.clone()));
            }
        }
        parent.groups.push(Group { members, pick });
        Ok(())
    }
}

impl Node {
    const NONE: Self = Self { rule: None, groups: Vec::new(), children: BTreeMap::new() };

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.get(name)
    }

    pub(super) fn has_counter(&self) -> bool {
        self.rule == Some(FieldRule::Counter) || self.children.values().any(Self::has_counter)
    }

    fn descend(&mut self, parents: &[String]) -> Result<&mut Self, InvalidRule> {
        let mut node = self;
        for name in parents {
            node.refuse_grouped(name)?;
            node = node.children.entry(name.clone()).or_default();
        }
        Ok(node)
    }

    fn refuse_grouped(&self, name: &str) -> Result<(), InvalidRule> {
        let grouped = self.groups.iter().any(|group| group.members.contains(name));
        if grouped { Err(InvalidRule::DeclaredTwice(name.into())) } else { Ok(()) }
    }
}

impl Group {
    /// What people call it: `amount+currency`.
    pub(super) fn name(&self) -> String {
        self.members.iter().map(String::as_str).collect::<Vec<_>>().join("+")
    }
}

impl RulesOf<'_> {
    /// The answer of the resolver of that name; `None` when there is none.
    pub(crate) fn resolve(&self, name: &str, dispute: &Dispute<'_>) -> Option<Answer> {
        self.resolvers.get(name).map(|resolver| (resolver.0)(dispute))
    }

    /// The word of what decides when one side deleted what the other edited: the policy, or else the strategy.
    pub(crate) fn word_for_deletes(&self) -> String {
        self.deletes.map_or_else(|| self.strategy.to_string(), |policy| policy.to_string())
    }

    /// Why the validator refuses a record, if it does.
    pub(crate) fn refuses(&self, fields: &Fields) -> Option<String> {
        self.validator.and_then(|validator| validator.judge(fields))
    }

    /// Whether any field is declared to count.
    pub(super) fn counts(&self) -> bool {
        self.fields.has_counter()
    }

    /// The strategy in force.
    pub const fn strategy(&self) -> &Strategy {
        self.strategy
    }
}

impl Validator {
    /// Wraps a function that says why a record must not be.
    pub fn new(judge: impl Fn(&Fields) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    pub(super) fn judge(&self, fields: &Fields) -> Option<String> {
        (self.0)(fields).err()
    }
}

macro_rules! opaque {
    ($($type:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(stringify!($type)) }
        }
        /// The same function, not merely one that does the same.
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool { Arc::ptr_eq(&self.0, &other.0) }
        }
    )*};
}
opaque!(Resolver, Validator);

/// `argument("custom(x)", "custom")` is `x`.
fn argument(word: &str, name: &str) -> Option<String> {
    let inner = word.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
    (!inner.is_empty()).then(|| inner.into())
}

/// The first word of a value in its table. Every value without an argument is in its table; a test walks them all.
fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// The text before and after the first `separator` that no backslash stands before.
fn cut(text: &str, separator: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && c == separator {
            return Some((&text[..at], &text[at + c.len_utf8()..]));
        }
        escaped = !escaped && c == '\\';
    }
    None
}

/// The parts between separators that no backslash stands before; the backslashes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((part, after)) = cut(rest, separator) {
        parts.push(part.into());
        rest = after;
    }
    parts.push(rest.into());
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        escaped = !escaped && c == '\\';
        if !escaped {
            plain.push(c);
        }
    }
    plain
}

/// Puts a backslash before what a path would misread.
pub(super) fn escape(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len()), |text, c| {
        if matches!(c, '.' | '+' | '=' | '[' | '\\') {
            format!("{text}\\{c}")
        } else {
            text + c.encode_utf8(&mut [0; 4])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_written() {
        let rules = [
            "lww",
            "server",
            "client",
            "max",
            "min",
            "counter",
            "grow_set",
            "or_set",
            "keyed_list(id)",
            "text",
            "immutable",
            "ask",
            "custom(price)",
        ];
        for word in rules {
            assert_eq!(FieldRule::parse(word).unwrap().to_string(), word);
            let json = format!("\"{word}\"");
            assert_eq!(serde_json::to_string(&FieldRule::parse(word).unwrap()).unwrap(), json);
            assert_eq!(serde_json::from_str::<FieldRule>(&json).unwrap(), FieldRule::parse(word).unwrap());
        }
        let strategies =
            ["last_write_wins", "server_wins", "client_wins", "field_merge", "ask", "fork", "custom(mine)"];
        for word in strategies {
            assert_eq!(Strategy::parse(word).unwrap().to_string(), word);
        }
        for word in ["delete_wins", "edit_wins", "ask", "fork"] {
            assert_eq!(DeletePolicy::parse(word).unwrap().to_string(), word);
            assert_eq!(
                serde_json::to_string(&DeletePolicy::parse(word).unwrap()).unwrap(),
                format!("\"{word}\"")
            );
        }
        for bad in
            ["", "LWW", "keyed_list", "keyed_list()", "custom(", "keyed_list(id", "counter()", "custom)"]
        {
            assert_eq!(FieldRule::parse(bad), Err(InvalidRule::UnknownRule(bad.into())));
            assert!(Strategy::parse(bad).is_err() && DeletePolicy::parse(bad).is_err());
        }
        assert_eq!(FieldRule::parse("set"), Ok(FieldRule::OrSet));
        assert_eq!(FieldRule::parse("client_wins"), Ok(FieldRule::Client));
    }

    #[test]
    fn declarations_are_read_as_they_are_typed() {
        let mut read = Rules::new(Strategy::Ask);
        for declaration in [
            "note.title=text",
            "order.lines=keyed_list(sku)",
            "order.lines.quantity=counter",
            "order.price.amount+currency=server",
            "a\\.b.c\\+d\\=e=max",
        ] {
            read.declare(declaration).unwrap();
        }
        let mut built = Rules::new(Strategy::Ask);
        built.entity("note").field(&FieldPath::new("title"), FieldRule::Text).unwrap();
        let order = built.entity("order");
        order.field(&FieldPath::new("lines"), FieldRule::KeyedList("sku".into())).unwrap();
        order.field(&FieldPath::new("lines").then("quantity"), FieldRule::Counter).unwrap();
        order
            .group(&FieldPath::new("price").then("amount"), ["currency".into()], Some(Pick::Server))
            .unwrap();
        built.entity("a.b").field(&FieldPath::new("c+d=e"), FieldRule::Max).unwrap();
        assert_eq!(read, built);
    }

    #[test]
    fn each_bad_declaration_is_refused_with_its_reason() {
        let mut rules = Rules::new(Strategy::FieldMerge);
        rules.declare("t.a=lww").unwrap();
        rules.declare("t.b+c=lww").unwrap();
        let cases = [
            ("", InvalidRule::Malformed(String::new())),
            ("t=lww", InvalidRule::Malformed("t=lww".into())),
            ("t.x", InvalidRule::Malformed("t.x".into())),
            (".x=lww", InvalidRule::Malformed(".x=lww".into())),
            ("t.=lww", InvalidRule::EmptyName(String::new())),
            ("t.x..y=lww", InvalidRule::EmptyName("x..y".into())),
            ("t.x=newest", InvalidRule::UnknownRule("newest".into())),
            ("t.a=max", InvalidRule::DeclaredTwice("a".into())),
            ("t.b=max", InvalidRule::DeclaredTwice("b".into())),
            ("t.b.x=max", InvalidRule::DeclaredTwice("b".into())),
            ("t.c+d=ask", InvalidRule::DeclaredTwice("c".into())),
            ("t.a+d=ask", InvalidRule::DeclaredTwice("a".into())),
            ("t.x+x=ask", InvalidRule::GroupTooSmall),
            ("t.x+=ask", InvalidRule::EmptyName("+x".into())),
            ("t.x+y=max", InvalidRule::NotForGroups(FieldRule::Max)),
        ];
        for (declaration, expected) in cases {
            assert_eq!(rules.declare(declaration), Err(expected), "{declaration}");
        }
    }

    #[test]
    fn what_is_nearer_holds() {
        let mut rules = Rules::new(Strategy::ServerWins);
        rules.deletes = Some(DeletePolicy::Ask);
        rules.entity("note").strategy = Some(Strategy::FieldMerge);
        rules.entity("todo").deletes = Some(DeletePolicy::EditWins);
        let of = |name| (rules.of(name).strategy.clone(), rules.of(name).deletes);
        assert_eq!(of("other"), (Strategy::ServerWins, Some(DeletePolicy::Ask)));
        assert_eq!(of("note"), (Strategy::FieldMerge, Some(DeletePolicy::Ask)));
        assert_eq!(of("todo"), (Strategy::ServerWins, Some(DeletePolicy::EditWins)));
    }

    #[test]
    fn names_survive_the_way_through_a_path() {
        for name in ["a", "a.b", "a\\", "\\.", "+=[]", "é🦀", "a\\b.c"] {
            assert_eq!(FieldPath::parse(&escape(name)), Ok(FieldPath::new(name)));
        }
    }
}
