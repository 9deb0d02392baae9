//! Fingerprints: SHA-256 over an unambiguous encoding of what a task does.
//!
//! Encoding, version 1: the text `landfall-task-1`, then each part as its length in bytes (8 bytes, big endian)
//! and its bytes. Parts: task_id, entity_type, entity_id, operation, action, base_version, number of fields
//! (decimal), for each field in byte order of names its name and its value, number of unset names, the names in
//! the order given, changed_at, schema (decimal). An absent optional part is a single byte 0, a present one the
//! byte 1 followed by the part. A value is its JSON text without the whitespace between tokens.
//! `key` is not content. `group` is not either: it says with whom a task travels, not what it does, and a member
//! re-sent alone after its group was settled must be recognised. Unknown members are not content in version 1.
//! Tests: below; `docs/writing-a-backend.md` shows an example.

use std::borrow::Cow;
use std::fmt;

use landfall_protocol::{Fields, RawValue, Task};
use sha2::{Digest, Sha256};

/// A SHA-256 over the content of a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The fingerprint of a task's content.
pub fn fingerprint(task: &Task) -> Fingerprint {
    let mut hash = Parts::new("landfall-task-1");
    hash.part(&task.task_id);
    hash.part(&task.entity_type);
    hash.part(&task.entity_id);
    hash.part(task.operation.as_str());
    hash.optional(task.action.as_deref());
    hash.optional(task.base_version.as_deref());
    hash.part(&task.fields.len().to_string());
    for (name, value) in task.fields.iter() {
        hash.part(name);
        hash.part(&without_whitespace(value.get()));
    }
    hash.part(&task.unset.len().to_string());
    for name in &task.unset {
        hash.part(name);
    }
    hash.optional(task.changed_at.as_deref());
    hash.optional(task.schema.map(|schema| schema.to_string()).as_deref());
    hash.finish()
}

/// The fingerprint of a task that cannot be read: over its text.
pub fn fingerprint_of_text(text: &str) -> Fingerprint {
    let mut hash = Parts::new("landfall-unreadable-1");
    hash.part(text);
    hash.finish()
}

/// Eight hexadecimal digits over some texts, to recognise what belongs together; not a secret.
pub(super) fn tag(texts: &[&str]) -> String {
    digest("landfall-tag-1", texts).to_string()[..8].to_owned()
}

/// A SHA-256 over some texts, unlike that over the same texts for another purpose.
pub(crate) fn digest(purpose: &'static str, texts: &[&str]) -> Fingerprint {
    let mut hash = Parts::new(purpose);
    texts.iter().for_each(|text| hash.part(text));
    hash.finish()
}

/// The fields with each value's text freed of whitespace between tokens: the form that is stored.
pub(super) fn compact(fields: &Fields) -> Fields {
    let tight = |(name, value): (&str, &RawValue)| {
        let tight = match without_whitespace(value.get()) {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => RawValue::from_string(text).ok(),
        };
        (name.to_owned(), tight.unwrap_or_else(|| value.to_owned()))
    };
    fields.iter().map(tight).collect()
}

/// JSON text without the whitespace outside of strings; nothing else is changed.
fn without_whitespace(json: &str) -> Cow<'_, str> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r');
    if !json.contains(is_space) {
        return Cow::Borrowed(json);
    }
    let mut tight = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string || !is_space(c) {
            tight.push(c);
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
    }
    Cow::Owned(tight)
}

struct Parts(Sha256);

impl Parts {
    fn new(purpose: &str) -> Self {
        Self(Sha256::new_with_prefix(purpose))
    }

    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            None => self.0.update([0]),
            Some(text) => {
                self.0.update([1]);
                self.part(text);
            }
        }
    }

    fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(json: &str) -> Task {
        serde_json::from_str(json).unwrap()
    }

    const BASE: &str = r#"{"key":"k","task_id":"t","entity_type":"note","entity_id":"n","operation":"update","fields":{"a":{"x":[1,2]},"b":"1"}}"#;

    #[test]
    fn the_fingerprint_of_version_1_never_changes() {
        // Stored for ever in servers' databases: a change of this value is a change of the protocol.
        assert_eq!(
            fingerprint(&task(BASE)).to_string(),
            "e29d036128bf56f922049ef71ed2d627f65fd20e3a2ee6ce5297e647f880c45f"
        );
    }

    #[test]
    fn form_is_not_content() {
        let same = [
            r#"{"key":"other","group":"g","task_id":"t","entity_type":"note","entity_id":"n","operation":"update","fields":{"b":"1","a":{"x":[1,2]}}}"#,
            r#"{ "future":1, "key":"k","task_id":"t","entity_type":"note","entity_id":"n","operation":"update","fields":{"a": { "x" : [1,
                2] },"b":"1"},"unset":[]}"#,
        ];
        for other in same {
            assert_eq!(fingerprint(&task(BASE)), fingerprint(&task(other)), "{other}");
        }
    }

    #[test]
    fn every_part_of_the_content_counts() {
        let swaps = [
            (r#""task_id":"t""#, r#""task_id":"u""#),
            (r#""entity_type":"note","entity_id":"n""#, r#""entity_type":"noten","entity_id":"""#),
            ("update", "upsert"),
            (r#"[1,2]"#, "[1,2.0]"),
            (r#"[1,2]"#, "[2,1]"),
            (r#""b":"1""#, r#""b":"1 ""#),
            (r#""b":"1""#, r#""b":1"#),
            (r#""operation""#, r#""base_version":"1","operation""#),
            (r#""operation""#, r#""base_version":"","operation""#),
            (r#""operation""#, r#""changed_at":"1","operation""#),
            (r#""operation""#, r#""action":"1","operation""#),
            (r#""operation""#, r#""schema":1,"operation""#),
            (r#""operation""#, r#""unset":["c"],"operation""#),
        ];
        let mut all: Vec<_> =
            swaps.iter().map(|(from, to)| fingerprint(&task(&BASE.replace(from, to)))).collect();
        all.push(fingerprint(&task(BASE)));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn whitespace_inside_strings_stays() {
        assert_eq!(
            without_whitespace("{ \"a b\\\" c\\\\\" : [ 1 , \" \" ] }"),
            "{\"a b\\\" c\\\\\":[1,\" \"]}"
        );
    }
}
