//! Texts: JSON values, addresses, rules, exported tasks, and the parts of a journal row that are JSON.

use landfall_adapters::http::url::{Endpoint, percent_encode};
use landfall_adapters::sync_endpoint::{entity_url, ping_url, pull_url};
use landfall_core::adapter::{Probe, PullRequest};
use landfall_core::export::ExportedTask;
use landfall_core::id::{Cursor, EntityKey};
use landfall_core::merge::rule::{DeletePolicy, FieldPath, FieldRule, Rules, Strategy};
use landfall_core::task::{Frozen, History, Terms};
use landfall_core::time::Timestamp;
use landfall_core::value::{Fields, Number, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

pub(super) fn value(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(value) = Value::parse(text) else {
        assert!(Fields::parse(text).is_err());
        return;
    };
    let printed = serde_json::to_string(&value).expect("what was read can be printed");
    let again = Value::parse(&printed).expect("what was printed can be read");
    assert!(again == value && again.is_written_like(&value), "{value:?} became {again:?}");
    assert_eq!(serde_json::to_string(&again).expect("printed once already"), printed, "not canonical");
    assert_eq!(numbers(text), numbers(&printed), "a number changed on the way");
    // The order of names and what is between them decide nothing.
    let mut reversed = String::new();
    backwards(&value, &mut reversed);
    assert_eq!(Value::parse(&reversed).as_ref(), Ok(&value), "equal, and not the same");
    value.check().expect("what was read is finite");
    let deep = (0..200).find(|depth| !value.is_deeper_than(*depth)).expect("the reader has a bound");
    assert!(deep <= 128 && deep <= text.len(), "{deep} deep");
    if let Value::Object(fields) = &value {
        assert_eq!(Fields::parse(text).as_ref(), Ok(fields));
        // The server holds texts instead of values; both must hold the same.
        let theirs =
            landfall_protocol::Fields::from_json(text).expect("the server reads what a client reads");
        let theirs = Fields::parse(&theirs.to_json()).expect("and gives it back");
        assert!(theirs.is_written_like(fields), "{theirs:?} at the server, {fields:?} here");
    } else {
        assert!(Fields::parse(text).is_err());
    }
}

/// The numbers of a JSON text, integers digit by digit and others by their bits, and how often each is there.
fn numbers(text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut in_text = false;
    let mut escaped = false;
    let mut token = String::new();
    for char in text.chars().chain([' ']) {
        if in_text {
            in_text = escaped || char != '"';
            escaped = !escaped && char == '\\';
            continue;
        }
        if matches!(char, '0'..='9' | '+' | '-' | '.') || !token.is_empty() && matches!(char, 'e' | 'E') {
            token.push(char);
            continue;
        }
        if !token.is_empty() {
            let word = std::mem::take(&mut token);
            let exact = word != "-0" && !word.contains(['.', 'e', 'E']);
            let float = || word.parse::<f64>().expect("JSON's numbers are Rust's").to_bits();
            let name = if exact { word.clone() } else { format!("{:x}", float()) };
            *found.entry(name).or_insert(0) += 1;
        }
        in_text = char == '"';
    }
    found
}

fn backwards(value: &Value, text: &mut String) {
    let plain = |value: &Value| serde_json::to_string(value).expect("printed before");
    match value {
        Value::List(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { " " } else { "\n, " });
                backwards(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (at, (name, item)) in fields.0.iter().rev().enumerate() {
                let name = plain(&Value::from(name.as_str()));
                let _ = write!(text, "{}{name}\t:\r\n", if at == 0 { "" } else { "," });
                backwards(item, text);
            }
            text.push('}');
        }
        // Equal by worth, though written in another way.
        Value::Number(Number::Integer(n)) if n.unsigned_abs() < 1 << 53 => {
            let _ = write!(text, "{n}.0");
        }
        other => text.push_str(&plain(other)),
    }
}

pub(super) fn address(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, &text));
    if let Ok(endpoint) = Endpoint::parse(first, true) {
        let url = endpoint.url();
        assert_eq!(Endpoint::parse(&url, true).as_ref(), Ok(&endpoint), "{url}");
        let (scheme, after) = url.split_once("://").expect("it has a scheme");
        assert!(matches!(scheme, "http" | "https"));
        let (authority, path) = after.split_at(after.find('/').expect("it has a path"));
        assert!(!authority.is_empty() && !authority.contains('@'), "{url}");
        assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\\"<>".contains(&byte)), "{url}");
        let dots = |segment: &str| matches!(&*segment.to_lowercase().replace("%2e", "."), "." | "..");
        assert!(!path.split('/').any(dots), "{url}");
        match Endpoint::parse(first, false) {
            Ok(strict) => assert!(strict == endpoint && strict.proves_itself()),
            Err(_) => assert!(!endpoint.proves_itself() && !endpoint.is_local(), "{url}"),
        }
        names_stay_inside(&endpoint, rest);
    }
    names_stay_inside(&Endpoint::parse("https://a.example/sync", false).expect("a constant"), rest);
}

fn names_stay_inside(endpoint: &Endpoint, text: &str) {
    let (entity_type, entity_id) = text.split_once('\n').unwrap_or(("note", text));
    let base = endpoint.url();
    let base = base.trim_end_matches('/');
    if let Some(url) = entity_url(endpoint, &EntityKey::new(entity_type, entity_id)) {
        let path = url.strip_prefix(base).expect("it stays below the endpoint");
        let segments: Vec<String> = path.split('/').map(decoded).collect();
        assert_eq!(segments, ["", "entities", entity_type, entity_id], "{url}");
        let dots = |segment: &str| matches!(&*segment.to_lowercase().replace("%2e", "."), "" | "." | "..");
        assert!(!path[1..].split('/').any(dots), "{url}");
    } else {
        assert!([entity_type, entity_id].iter().any(|name| matches!(*name, "" | "." | "..")));
    }
    let url = pull_url(endpoint, &PullRequest { cursor: Some(Cursor(text.into())), limit: 3 });
    let query =
        url.strip_prefix(base).and_then(|rest| rest.strip_prefix("/changes?cursor=")).expect("its place");
    assert_eq!(decoded(query.strip_suffix("&limit=3").expect("and its limit")), text);
    assert!(ping_url(endpoint, &Probe { nonce: [7; 16] }).starts_with(base));
    assert_eq!(decoded(&percent_encode(text)), text);
}

/// Undoes percent encoding, and lets nothing pass that must not stand in a path segment or query value.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
        } else {
            assert!(byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte), "{text}");
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("whole characters")
}

pub(super) fn rules(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut rules = Rules::new(Strategy::FieldMerge);
    for line in text.lines() {
        if let Ok(rule) = FieldRule::parse(line) {
            assert_eq!(FieldRule::parse(&rule.to_string()), Ok(rule));
        }
        if let Ok(strategy) = Strategy::parse(line) {
            assert_eq!(Strategy::parse(&strategy.to_string()), Ok(strategy));
        }
        if let Ok(policy) = DeletePolicy::parse(line) {
            assert_eq!(DeletePolicy::parse(&policy.to_string()), Ok(policy));
        }
        if let Ok(path) = FieldPath::parse(line) {
            assert!(path.names().all(|name| !name.is_empty()), "{path:?}");
        }
        if rules.declare(line).is_ok() {
            assert!(rules.declare(line).is_err(), "{line:?} was declared twice");
        }
    }
}

fn same_when_printed<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) {
    let Ok(read) = serde_json::from_str::<T>(text) else { return };
    let printed = serde_json::to_string(&read).expect("what was read can be printed");
    let again: T = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"));
    assert_eq!(again, read);
}

/// The parts of task and journal rows that are stored as JSON.
pub(super) fn journal_parts(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    same_when_printed::<History>(text);
    same_when_printed::<Terms>(text);
    same_when_printed::<landfall_core::store::Replica>(text);
    same_when_printed::<landfall_core::store::Controls>(text);
    same_when_printed::<landfall_core::entity::RemoteEntity>(text);
    same_when_printed::<landfall_core::merge::FieldConflict>(text);
}

pub(super) fn export_line(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(line) = ExportedTask::from_json(text) else { return };
    let again = ExportedTask::from_json(&line.to_json()).expect("what was written is read");
    assert_eq!(again, line);
    let now = Timestamp(1_763_870_000_000);
    let Ok(task) = line.clone().into_task(7, now) else { return };
    assert_eq!((task.seq, &task.entity, task.id), (7, &line.entity(), line.task_id));
    assert!(task.intent.fields.is_written_like(&line.fields), "an import that changes values");
    if let (Some(sent), Some(Frozen { key, payload, .. })) = (&line.sent, &task.frozen) {
        assert!(key.to_string().eq_ignore_ascii_case(&sent.key) && **payload == *sent.payload, "{sent:?}");
    }
    assert_eq!(line.sent.is_some(), task.frozen.is_some(), "what was sent is sent again under another key");
    // A task that came in goes out as the same, once more.
    let out = ExportedTask::new(&task, line.base.clone(), line.server_id.clone());
    let back = ExportedTask::from_json(&out.to_json()).expect("an export is read").into_task(7, now);
    assert_eq!(back.as_ref(), Ok(&task), "not the same after a second journey");
}
