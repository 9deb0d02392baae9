//! What the app says of its record types and lanes: references, payload formats, and what a dead letter holds up.
//!
//! All of it is optional; a type that is not named has the defaults. Tests: at the end of the file, and
//! `tests/lifecycle` of `landfall-testkit`.

use crate::change::{Intent, Operation};
use crate::value::{Fields, Value};
use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Deserializer, Serialize};

/// What the app says of its record types and lanes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Record types by name.
    pub types: BTreeMap<String, TypeModel>,
    /// Whether `types` names every type that this program knows: queued changes of others are then quarantined.
    pub closed: bool,
    /// What a dead letter holds up, in lanes and for types that do not say otherwise.
    pub when_dead: WhenDead,
    /// What a dead letter holds up in these named lanes.
    pub lanes: BTreeMap<String, WhenDead>,
}

/// What the app says of one record type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TypeModel {
    /// Fields that hold the id of another record: name of the field, type of the record. A change waits by itself for
    /// the unconfirmed create of a record that it refers to, and is sent with the backend's ids.
    pub references: BTreeMap<String, String>,
    /// The newest version of the payload format, and that of changes that do not name one.
    pub schema: u32,
    /// How a payload of one version becomes one of the next: by the older version.
    pub upcasts: BTreeMap<u32, Upcast>,
    /// How long a record of this type must be left alone before a change of it is first sent, so that only the latest
    /// state goes. At most ten times that long.
    #[serde(rename = "debounce_ms", with = "millis")]
    pub debounce: Duration,
    /// Fields that are shown nowhere.
    pub sensitive: BTreeSet<String>,
    /// What a dead letter of this type holds up; in a named lane the lane's own rule comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_dead: Option<WhenDead>,
}

impl Model {
    /// The declared references of a type: name of the field, type of the record.
    pub fn references(&self, entity_type: &str) -> Option<&BTreeMap<String, String>> {
        self.types.get(entity_type).map(|of| &of.references)
    }

    /// The newest payload format of a type.
    pub fn schema(&self, entity_type: &str) -> u32 {
        self.types.get(entity_type).map_or(1, |of| of.schema)
    }

    /// How long a record of a type must be left alone before a change of it is first sent.
    pub fn debounce(&self, entity_type: &str) -> Duration {
        self.types.get(entity_type).map_or(Duration::ZERO, |of| of.debounce)
    }

    /// What a dead letter holds up.
    pub fn when_dead(&self, entity_type: &str, lane: Option<&str>) -> WhenDead {
        let of_lane = lane.and_then(|lane| self.lanes.get(lane)).copied();
        let of_type = self.types.get(entity_type).and_then(|of| of.when_dead);
        of_lane.or(of_type).unwrap_or(self.when_dead)
    }

    /// Whether any dead letter may be passed at all.
    pub(crate) fn lets_any_pass(&self) -> bool {
        let of_types = self.types.values().filter_map(|of| of.when_dead);
        let mut policies = self.lanes.values().copied().chain(of_types).chain([self.when_dead]);
        policies.any(|policy| policy != WhenDead::Block)
    }

    /// Makes a payload one of the newest format of its type, step by step.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn upcast(&self, entity_type: &str, schema: &mut u32, intent: &mut Intent) -> Result<(), String> {
        let Some(of) = self.types.get(entity_type) else {
            return match self.closed {
                true => Err(format!("records of the type {entity_type:?} are not known to this program")),
                false => Ok(()),
            };
        };
        if *schema > of.schema {
            return Err(format!(
                "its payload has format {schema} of {entity_type:?}, this program knows {}; it was made by a newer one",
                of.schema
            ));
        }
        while *schema < of.schema {
            let missing = || format!("nothing says how format {schema} of {entity_type:?} becomes the next");
            of.upcasts.get(schema).ok_or_else(missing)?.apply(intent)?;
            *schema += 1;
        }
        Ok(())
    }

    /// The fields as they may be shown.
    pub fn shown<'f>(&self, entity_type: &str, fields: &'f Fields) -> Cow<'f, Fields> {
        let Some(of) = self.types.get(entity_type) else { return Cow::Borrowed(fields) };
        if !fields.0.keys().any(|name| of.sensitive.contains(name)) {
            return Cow::Borrowed(fields);
        }
        let mut shown = fields.clone();
        for (name, value) in &mut shown.0 {
            if of.sensitive.contains(name) {
                *value = Value::Text(REDACTED.into());
            }
        }
        Cow::Owned(shown)
    }

    /// `text` without any sensitive value of `fields`: an answer may repeat what was sent.
    pub fn clean(&self, entity_type: &str, fields: &Fields, text: &str) -> String {
        without(text, &self.secrets(entity_type, fields))
    }

    /// The texts of sensitive values, the longest first, as an answer may repeat them.
    pub(crate) fn secrets(&self, entity_type: &str, fields: &Fields) -> Vec<String> {
        let mut secrets = Vec::new();
        if let Some(of) = self.types.get(entity_type) {
            for name in &of.sensitive {
                if let Some(value) = fields.value(name) {
                    collect_texts(value, &mut secrets);
                }
            }
        }
        secrets.sort_by_key(|secret| core::cmp::Reverse(secret.len()));
        secrets
    }
}

/// What is shown in the place of a sensitive value.
pub const REDACTED: &str = "[redacted]";

/// Every text and number within a value, and every text as JSON writes it.
fn collect_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Text(text) => {
            let written = json(value);
            let written = written.trim_matches('"');
            if written != text {
                texts.push(written.into());
            }
            texts.push(text.clone());
        }
        Value::Number(_) => texts.push(json(value)),
        Value::List(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Value::Object(fields) => fields.0.values().for_each(|item| collect_texts(item, texts)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn json(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// `text` without any of `secrets`. A short one counts only where it stands alone, or no text would be left.
pub(crate) fn without(text: &str, secrets: &[String]) -> String {
    /// Shorter than that may be part of any word.
    const SHORT: usize = 4;
    let mut clean = String::from(text);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        if secret.len() >= SHORT {
            clean = clean.replace(secret.as_str(), REDACTED);
            continue;
        }
        let mut kept = String::new();
        let mut rest = clean.as_str();
        while let Some(at) = rest.find(secret.as_str()) {
            let (before, found) = rest.split_at(at);
            let after = &found[secret.len()..];
            let part_of_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let alone = !part_of_word(before.chars().next_back().or_else(|| kept.chars().next_back()))
                && !part_of_word(after.chars().next());
            kept.push_str(before);
            kept.push_str(if alone { REDACTED } else { secret });
            rest = after;
        }
        kept.push_str(rest);
        clean = kept;
    }
    clean
}

impl Default for TypeModel {
    fn default() -> Self {
        Self {
            references: BTreeMap::new(),
            schema: 1,
            upcasts: BTreeMap::new(),
            debounce: Duration::ZERO,
            sensitive: BTreeSet::new(),
            when_dead: None,
        }
    }
}

/// What a dead letter holds up: users want both, so it can be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenDead {
    /// Everything behind it in its lane waits until somebody decides.
    #[default]
    Block,
    /// What is behind it goes on, but for changes of a record that the letter was to create.
    Skip,
    /// What is behind it goes on unless it builds on it: the same fields of the same record, a record that the letter was
    /// to make or delete, or what depends on it.
    SkipIfIndependent,
}

impl WhenDead {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Block, Self::Skip, Self::SkipIfIndependent];

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Skip => "skip",
            Self::SkipIfIndependent => "skip_if_independent",
        }
    }
}

/// How a payload of one version becomes one of the next.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Upcast {
    /// By rules.
    Rules(UpcastRules),
    /// By code of the app.
    #[serde(skip)]
    Code(Arc<dyn Upcaster>),
}

/// Rules for changing a payload, applied in the order in which they stand here.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpcastRules {
    /// Fields that have another name now: old name, new name.
    pub rename: BTreeMap<String, String>,
    /// Fields that there are no more.
    pub remove: BTreeSet<String>,
    /// Fields that a whole record needs now, with their value where it is missing.
    pub add: Fields,
}

impl UpcastRules {
    fn apply(&self, intent: &mut Intent) {
        for (old, new) in &self.rename {
            if let Some(value) = intent.fields.0.remove(old) {
                intent.fields.0.insert(new.clone(), value);
            }
            if intent.unset.remove(old) {
                intent.unset.insert(new.clone());
            }
        }
        for name in &self.remove {
            intent.fields.0.remove(name);
            intent.unset.remove(name);
        }
        if matches!(intent.operation, Operation::Create | Operation::Replace) {
            for (name, value) in &self.add.0 {
                intent.fields.0.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Changes a payload by code.
pub trait Upcaster: Send + Sync {
    /// Makes `intent` one of the next version.
    ///
    /// # Errors
    /// Why it cannot be; the task is then quarantined with this reason, and kept.
    fn upcast(&self, intent: &mut Intent) -> Result<(), String>;
}

impl Upcast {
    fn apply(&self, intent: &mut Intent) -> Result<(), String> {
        match self {
            Self::Rules(rules) => {
                rules.apply(intent);
                Ok(())
            }
            Self::Code(code) => code.upcast(intent),
        }
    }

    /// An upcast by code.
    pub fn code(upcaster: impl Upcaster + 'static) -> Self {
        Self::Code(Arc::new(upcaster))
    }
}

/// Read as rules, so that an unknown member is refused by its name.
impl<'de> Deserialize<'de> for Upcast {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UpcastRules::deserialize(deserializer).map(Self::Rules)
    }
}

impl<F> Upcaster for F
where
    F: Fn(&mut Intent) -> Result<(), String> + Send + Sync,
{
    fn upcast(&self, intent: &mut Intent) -> Result<(), String> {
        self(intent)
    }
}

impl fmt::Debug for Upcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(rules) => rules.fmt(f),
            Self::Code(_) => f.write_str("Code(..)"),
        }
    }
}

impl PartialEq for Upcast {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rules(a), Self::Rules(b)) => a == b,
            (Self::Code(a), Self::Code(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

mod millis {
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(wait: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn secrets(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_secret_is_taken_out_wherever_it_stands_and_a_short_one_where_it_stands_alone() {
        assert_eq!(without("xhunter2y hunter2", &secrets(&["hunter2"])), "x[redacted]y [redacted]");
        assert_eq!(without("a 7, 17 and 7", &secrets(&["7"])), "a [redacted], 17 and [redacted]");
        assert_eq!(without("77", &secrets(&["7"])), "77", "part of another number");
        assert_eq!(without("nothing", &secrets(&["", "zzzz"])), "nothing");
        assert_eq!(without("xabcdy", &secrets(&["abcd"])), "x[redacted]y");
        assert_eq!(without("xabcy abc", &secrets(&["abc"])), "xabcy [redacted]");
        assert_eq!(without("äé", &secrets(&["é"])), "äé");
    }

    #[test]
    fn secrets_are_found_in_depth_and_as_json_writes_them_and_the_longest_goes_first() {
        let of = TypeModel { sensitive: ["s".to_string()].into(), ..TypeModel::default() };
        let model = Model { types: [("card".to_string(), of)].into(), ..Model::default() };
        let fields = Fields::parse(r#"{"s":{"a":["in\"ner",42]},"open":"word"}"#).unwrap();
        assert_eq!(model.secrets("card", &fields), ["in\\\"ner", "in\"ner", "42"]);
        assert!(model.secrets("note", &fields).is_empty());
        assert_eq!(model.shown("card", &fields).to_json(), r#"{"open":"word","s":"[redacted]"}"#);
    }

    #[test]
    fn the_lanes_rule_comes_before_the_types_and_that_before_the_queues() {
        let of = TypeModel { when_dead: Some(WhenDead::Skip), ..TypeModel::default() };
        let model = Model {
            types: [("note".to_string(), of)].into(),
            lanes: [("l".to_string(), WhenDead::SkipIfIndependent)].into(),
            ..Model::default()
        };
        assert_eq!(model.when_dead("note", Some("l")), WhenDead::SkipIfIndependent);
        assert_eq!(model.when_dead("note", Some("other")), WhenDead::Skip);
        assert_eq!(model.when_dead("card", None), WhenDead::Block);
    }

    #[test]
    fn rules_rename_then_remove_then_add_to_whole_records_only() {
        let rules = UpcastRules {
            rename: [("a".to_string(), "b".to_string())].into(),
            remove: ["old".to_string()].into(),
            add: Fields::from([("kind", "plain")]),
        };
        let mut intent = Intent::new(Operation::Update);
        intent.set("a", 1);
        intent.set("old", 2);
        rules.apply(&mut intent);
        assert_eq!(
            intent.fields.to_json(),
            r#"{"b":1}"#,
            "an update must not touch what the user did not (G6)"
        );
        let mut intent = Intent::new(Operation::Update);
        intent.unset("a");
        intent.unset("old");
        rules.apply(&mut intent);
        assert!(intent.unset.iter().eq(["b"]), "what there is no more is not unset either");
        let mut intent = Intent::new(Operation::Create);
        rules.apply(&mut intent);
        assert_eq!(intent.fields.to_json(), r#"{"kind":"plain"}"#);
    }

    #[test]
    fn a_model_is_read_from_json_and_unknown_words_are_refused() {
        let text = r#"{"types":{"note":{"references":{"project_id":"project"},"schema":2,"debounce_ms":500,
            "upcasts":{"1":{"rename":{"text":"body"}}},"sensitive":["pin"],"when_dead":"skip"}},"lanes":{"l":"block"}}"#;
        let model: Model = serde_json::from_str(text).unwrap();
        assert_eq!(model.debounce("note"), Duration::from_millis(500));
        assert_eq!(model.schema("note"), 2);
        let written = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<Model>(&written).unwrap(), model);
        let wrong = serde_json::from_str::<Model>(r#"{"types":{"note":{"referenced":{}}}}"#).unwrap_err();
        assert!(wrong.to_string().contains("referenced"), "{wrong}");
    }

    #[test]
    fn an_answer_that_repeats_a_secret_is_shown_without_it() {
        let of = TypeModel { sensitive: ["pin".to_string()].into(), ..TypeModel::default() };
        let model = Model { types: [("card".to_string(), of)].into(), ..Model::default() };
        let fields = Fields::from([("pin", 4711), ("floor", 3)]);
        let answer = "4711 is too easy on floor 3";
        assert_eq!(model.clean("card", &fields, answer), "[redacted] is too easy on floor 3");
        assert_eq!(model.clean("note", &fields, answer), answer);
        // Of two of which one begins with the other, nothing is left.
        let fields = Fields::parse(r#"{"pin":["hunter","hunter2"]}"#).unwrap();
        assert_eq!(model.clean("card", &fields, "not hunter2"), "not [redacted]");
    }

    #[test]
    fn every_policy_reads_back_its_word() {
        for policy in WhenDead::ALL {
            let word = alloc::format!("\"{}\"", policy.as_str());
            assert_eq!(serde_json::from_str::<WhenDead>(&word).unwrap(), policy, "{word}");
        }
    }

    #[test]
    fn upcasts_are_equal_by_their_rules_and_code_only_with_itself() {
        let rules = |old: &str| {
            Upcast::Rules(UpcastRules { remove: [old.to_string()].into(), ..UpcastRules::default() })
        };
        assert_eq!(rules("a"), rules("a"));
        assert_ne!(rules("a"), rules("b"));
        let code = || Upcast::code(|_: &mut Intent| Ok(()));
        let one = code();
        assert_eq!(one, one.clone());
        assert_ne!(one, code());
        assert_ne!(one, rules("a"));
        assert_eq!(alloc::format!("{one:?}"), "Code(..)");
        assert!(alloc::format!("{:?}", rules("old_name")).contains("old_name"));
    }
}
