//! Reading JSON Lines: changes for `landfall enqueue --file FILE` (or `-`), and plain lines for `landfall import`.
//!
//! Streams: one line is in memory at a time, and a line is bounded ([`LINE_BYTES_MAX`]). A line is one object with the
//! members `entity_type`, `entity_id`, `operation`, and where they make sense `fields` (an object) and `unset` (a list
//! of names), `base` (an object) and with it `base_version` (text), and those of `change_options.rs`. Anything else is an
//! error that names the line: a misspelt member must not vanish. Blank lines are skipped. Values are read by the core's own exact reader, so nothing is rounded on the way. Tests: below.

use crate::change_options::{self, kind};
use crate::problem::Problem;
use landfall_core::change::{Change, Operation, Options};
use landfall_core::entity::{Base, Body};
use landfall_core::id::{EntityKey, Version};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Value};
use std::io::{BufRead, Read};

/// Bytes that one line may take. 16 MiB: four times the largest change.
pub(crate) const LINE_BYTES_MAX: u64 = 16 << 20;

/// The lines of an input that are not blank, each with its number.
///
/// A bad line does not end the iteration, so that a caller can pass over it; an error in reading does.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    line: u64,
    is_over: bool,
}

/// The changes of an input, each with its line's number; bad lines as with [`Lines`].
#[derive(Debug)]
pub(crate) struct JsonLines<R> {
    lines: Lines<R>,
    /// What goes for lines that say nothing else.
    options: Options,
    now: Timestamp,
}

/// What is wrong with a line, or with reading on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadLine {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// What is wrong.
    pub(crate) error: String,
    /// Whether nothing behind it can be read.
    pub(crate) is_fatal: bool,
}

impl From<BadLine> for Problem {
    fn from(bad: BadLine) -> Self {
        Self::new(format!("line {}: {}", bad.line, bad.error))
    }
}

impl<R: BufRead> JsonLines<R> {
    /// The changes of `input`, with `options` where a line says nothing else; `now` is where spans begin.
    pub(crate) fn new(input: R, options: Options, now: Timestamp) -> Self {
        Self { lines: Lines::new(input), options, now }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<(u64, Change), BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let (line, text) = match self.lines.next()? {
            Ok(line) => line,
            Err(bad) => return Some(Err(bad)),
        };
        let change = change(&text, self.options.clone(), self.now);
        Some(change.map(|change| (line, change)).map_err(|error| BadLine { line, error, is_fatal: false }))
    }
}

impl<R: BufRead> Lines<R> {
    /// The lines of `input`.
    pub(crate) fn new(input: R) -> Self {
        Self { input, line: 0, is_over: false }
    }

    /// The next line without its end; `None` at the end of the input.
    fn read(&mut self) -> Option<Result<Vec<u8>, BadLine>> {
        let mut bytes = Vec::new();
        self.line += 1;
        let read = (&mut self.input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
        let whole = bytes.last() == Some(&b'\n');
        match read {
            Err(error) => Some(Err(self.fatal(format!("cannot read on: {error}")))),
            Ok(0) => None,
            Ok(_) if !whole && bytes.len() as u64 > LINE_BYTES_MAX => {
                Some(Err(self.fatal(format!("longer than {LINE_BYTES_MAX} bytes"))))
            }
            Ok(_) => {
                if whole {
                    bytes.pop();
                }
                Some(Ok(bytes))
            }
        }
    }

    fn fatal(&mut self, error: String) -> BadLine {
        self.is_over = true;
        BadLine { line: self.line, error, is_fatal: true }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<(u64, String), BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let bytes = match self.read()? {
                Ok(bytes) => bytes,
                Err(bad) => return Some(Err(bad)),
            };
            let line = self.line;
            let bytes = match line {
                1 => bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes),
                _ => &bytes,
            };
            let bad = |error| BadLine { line, error, is_fatal: false };
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Some(Err(bad("not UTF-8 text".into())));
            };
            if !text.trim_ascii().is_empty() {
                return Some(Ok((line, text.to_owned())));
            }
        }
        None
    }
}

/// Reads one line as a change.
fn change(text: &str, options: Options, now: Timestamp) -> Result<Change, String> {
    let value = Value::parse(text).map_err(|error| in_line(&error.to_string()))?;
    let Value::Object(Fields(mut members)) = value else {
        return Err(format!(
            "expected an object such as {{\"entity_type\":\"note\",\"entity_id\":\"n1\",\"operation\":\"update\",\"fields\":{{}}}}, found {}",
            kind(&value)
        ));
    };
    let mut text = |name: &str| match members.remove(name) {
        Some(Value::Text(text)) => Ok(text),
        Some(other) => Err(format!("{name} must be text, found {}", kind(&other))),
        None => Err(format!("{name} is missing")),
    };
    let entity = EntityKey::new(text("entity_type")?, text("entity_id")?);
    let operation = operation(&text("operation")?)?;
    let mut change = Change { options, ..Change::of(operation, entity) };
    match members.remove("fields") {
        None => {}
        Some(Value::Object(fields)) => change = change.fields(fields),
        Some(other) => return Err(format!("fields must be an object, found {}", kind(&other))),
    }
    let unset = match members.remove("unset") {
        None => Vec::new(),
        Some(Value::List(names)) => names,
        Some(other) => return Err(format!("unset must be a list of field names, found {}", kind(&other))),
    };
    for name in unset {
        let Value::Text(name) = name else {
            return Err(format!("unset must be a list of field names, found {} in it", kind(&name)));
        };
        if change.intent.fields.value(&name).is_some() {
            return Err(format!("the field {name:?} is both set and unset"));
        }
        change = change.unset(name);
    }
    let base = match members.remove("base") {
        None => None,
        Some(Value::Object(fields)) => Some(fields),
        Some(other) => return Err(format!("base must be an object, found {}", kind(&other))),
    };
    let version = match (members.remove("base_version"), &base) {
        (None, _) => None,
        (Some(_), None) => return Err("base_version needs base".into()),
        (Some(Value::Text(version)), Some(_)) => Some(Version(version)),
        (Some(other), Some(_)) => return Err(format!("base_version must be text, found {}", kind(&other))),
    };
    if let Some(fields) = base {
        change = change.base(Base { body: Body::Live(fields), version, complete: true });
    }
    let mut members = Fields(members);
    change_options::read_members(&mut members, &mut change, now)?;
    match members.0.keys().next() {
        None => Ok(change),
        Some(name) => Err(format!(
            "unknown member {name:?}; there are entity_type, entity_id, operation, fields, unset, base, base_version, {}",
            change_options::MEMBERS
        )),
    }
}

/// Reads the name of an operation.
pub(crate) fn operation(word: &str) -> Result<Operation, String> {
    Operation::parse(word).ok_or_else(|| {
        let known = Operation::ALL.map(Operation::as_str).join(", ");
        format!("unknown operation {word:?}; there are {known}")
    })
}

/// Errors of the JSON reader count lines within the one line they were given.
fn in_line(error: &str) -> String {
    match error.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} (column {column})"),
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn read(input: &[u8]) -> Vec<Result<(u64, Change), BadLine>> {
        JsonLines::new(input, Options::default(), Timestamp(0)).collect()
    }

    #[test]
    fn lines_become_changes() {
        let changes = read(
            b"\xef\xbb\xbf{\"entity_type\":\"note\",\"entity_id\":\"1\",\"operation\":\"create\",\"fields\":{\"a\":1.0}}\r\n\n  \n{\"operation\":\"update\",\"unset\":[\"b\"],\"entity_id\":\"1\",\"entity_type\":\"note\"}",
        );
        let expected =
            [(1, Change::create("note", "1").set("a", 1.0)), (4, Change::update("note", "1").unset("b"))];
        assert_eq!(changes, expected.map(Ok));
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_and_does_not_end_the_file() {
        let whole = r#"{"entity_type":"t","entity_id":"1","operation":"delete"}"#;
        for (line, expected) in [
            ("{", "EOF while parsing an object (column 1)"),
            ("[1]", "expected an object such as"),
            ("NaN", "expected value (column 1)"),
            (r#"{"entity_type":"t","operation":"delete"}"#, "entity_id is missing"),
            (
                r#"{"entity_type":"t","entity_id":5,"operation":"delete"}"#,
                "entity_id must be text, found a number",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"drop"}"#,
                "unknown operation \"drop\"; there are create",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"create","fields":[1]}"#,
                "fields must be an object, found a list",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","unset":"a"}"#,
                "unset must be a list",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","unset":[1]}"#,
                "found a number in it",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","fields":{"a":1},"unset":["a"]}"#,
                "both set and unset",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","base":[]}"#,
                "base must be an object, found a list",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","base_version":"7"}"#,
                "base_version needs base",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"update","base":{},"base_version":7}"#,
                "base_version must be text, found a number",
            ),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"create","field":{}}"#,
                "unknown member \"field\"",
            ),
            (r#"{"entity_type":"t","entity_id":"1","entity_id":"2","operation":"create"}"#, "appears twice"),
            (
                r#"{"entity_type":"t","entity_id":"1","operation":"create","fields":{"n":18446744073709551616}}"#,
                "does not fit 64 bits",
            ),
        ] {
            let results = read(format!("{whole}\n{line}\n{whole}\n").as_bytes());
            assert_eq!(results.len(), 3, "{line}");
            let bad = results[1].as_ref().unwrap_err();
            assert_eq!((bad.line, bad.is_fatal), (2, false));
            assert!(bad.error.contains(expected), "{line}: {}", bad.error);
        }
        let results = read(b"\xff\n");
        assert_eq!(results[0].as_ref().unwrap_err().error, "not UTF-8 text");
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let endless = io::BufReader::new(io::repeat(b' '));
        let results: Vec<_> = JsonLines::new(endless, Options::default(), Timestamp(0)).collect();
        assert_eq!(results.len(), 1);
        assert!(results[0].as_ref().unwrap_err().is_fatal);
    }
}
