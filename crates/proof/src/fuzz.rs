//! What reads bytes that others wrote, as plain functions of bytes: each checks laws and panics when one is broken.
//!
//! libFuzzer calls them (`fuzz/`), and so does every run of the tests, on stable (`tests/fuzz.rs`). "Does not panic" is
//! the least of the laws: what was acknowledged was named, what was printed reads the same, what is cut is not believed,
//! bounds hold. How inputs are made is in `landfall_testkit::mutate`; there is no C interface yet, so the public Rust
//! functions stand for it. The command line's own readers are in `crates/cli/src/fuzzed.rs`.

mod answers;
mod changes;
mod requests;
mod store;
mod structured;
mod texts;

use landfall_testkit::mutate::Target;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Every target here.
pub const TARGETS: &[Target] = &[
    Target { name: "push_answer", run: answers::push, words: ANSWER_WORDS, cost: 1 },
    Target { name: "pull_answer", run: answers::pull, words: ANSWER_WORDS, cost: 1 },
    Target { name: "fetch_answer", run: answers::fetch, words: ANSWER_WORDS, cost: 1 },
    Target { name: "ping_answer", run: answers::ping, words: ANSWER_WORDS, cost: 1 },
    Target { name: "answer_head", run: answers::head, words: ANSWER_WORDS, cost: 1 },
    Target { name: "push_request", run: requests::push, words: REQUEST_WORDS, cost: 3 },
    Target { name: "value", run: texts::value, words: VALUE_WORDS, cost: 1 },
    Target { name: "address", run: texts::address, words: ADDRESS_WORDS, cost: 1 },
    Target { name: "rules", run: texts::rules, words: RULE_WORDS, cost: 1 },
    Target { name: "export_line", run: texts::export_line, words: EXPORT_WORDS, cost: 2 },
    Target { name: "journal_parts", run: texts::journal_parts, words: EXPORT_WORDS, cost: 1 },
    Target { name: "merge", run: changes::merge, words: &[], cost: 2 },
    Target { name: "coalesce", run: changes::coalesce, words: &[], cost: 1 },
    Target { name: "store_file", run: store::file, words: &[], cost: 2_000 },
];

/// The target of this name.
///
/// # Panics
/// When there is none.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(input);
}

/// A JSON text as another reader sees it: an object member by member. What cannot be read, such as a number beyond all
/// bounds, is `null` and costs only itself.
fn members(text: &str) -> Json {
    let members = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text);
    let read = |raw: &RawValue| serde_json::from_str::<Json>(raw.get()).unwrap_or_default();
    members.map_or(Json::Null, |members| members.into_iter().map(|(name, raw)| (name, read(&raw))).collect())
}

/// The objects in the list of this name.
///
/// # Panics
/// When the text is no object or has no such list.
fn objects(text: &[u8], list: &str) -> Vec<Json> {
    items(text, list).iter().map(|item| members(item.get())).collect()
}

/// What the list of this name holds, as it is written.
///
/// # Panics
/// When the text is no object or has no such list.
fn items(text: &[u8], list: &str) -> Vec<Box<RawValue>> {
    let text = std::str::from_utf8(text).expect("what was believed is UTF-8");
    let whole: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(text).expect("what was believed is JSON");
    serde_json::from_str(whole[list].get()).expect("a list")
}

const ANSWER_WORDS: &[&str] = &[
    "\"protocol\":1",
    "\"results\":[",
    "\"key\":\"00000000000000000000000000000001\"",
    "\"key\":\"00000000000000000000000000000002\"",
    "\"status\":\"applied\"",
    "\"status\":\"duplicate\"",
    "\"status\":\"conflict\"",
    "\"status\":\"rejected\"",
    "\"status\":\"retry\"",
    "\"version\":\"7\"",
    "\"retry_after_ms\":",
    "\"error\":{\"code\":\"x\",\"message\":\"y\"}",
    "\"fields\":{\"a\":1}",
    "\"deleted\":true",
    "\"has_more\":true",
    "\"cursor\":\"c1\"",
    "\"entity_id\":\"",
    "\"server_id\":\"",
    "503 ",
    "429 ",
    "401 ",
    "404 ",
    "200 ",
    "application/json",
    "application/problem+json",
    "text/html",
    "\nretry-after: ",
    "\ndate: ",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
    "\\u0000",
    "\\ud800",
    "close ",
    "{\"type\":\"urn:landfall:problem:not_found\",\"status\":404,\"code\":\"not_found\"}",
];

const REQUEST_WORDS: &[&str] = &[
    "\"protocol\":1",
    "\"protocol\":2",
    "\"client_id\":\"c\"",
    "\"client_epoch\":1",
    "\"tasks\":[",
    "{\"key\":\"k9\",\"task_id\":\"t\",\"entity_type\":\"note\",\"entity_id\":\"1\",\"operation\":\"upsert\",\"fields\":{\"a\":1}}",
    "\"operation\":\"delete\"",
    "\"operation\":\"update\"",
    "\"operation\":\"create\"",
    "\"operation\":\"action\"",
    "\"base_version\":\"1\"",
    "\"unset\":[\"a\"]",
    "\"group\":\"g\"",
    "\"key\":\"k1\"",
    "\"a\":1,\"a\":1",
    "\\u0061",
    "\\ud800",
];

const VALUE_WORDS: &[&str] = &[
    "1e400",
    "1.0",
    "-0.0",
    "18446744073709551616",
    "9007199254740993",
    "\\u0000",
    "\\ud83d\\ude00",
    "null",
    "true",
    "{\"a\":",
    "[[[[",
    "1e-400",
    "0.1e1",
    "\"a\":1",
];

const ADDRESS_WORDS: &[&str] = &[
    "http://",
    "https://",
    "[::1]",
    "localhost",
    "127.0.0.1",
    "%2e%2e",
    "/..",
    "..",
    "@",
    ":80",
    "?",
    "#",
    "\n",
];

const RULE_WORDS: &[&str] =
    &["counter", "keyed_list(id)", "custom(x)", ".", "=", "+", "\\", "lww", "immutable", "set"];

const EXPORT_WORDS: &[&str] = &[
    "\"landfall_task\":1",
    "\"state\":\"in_flight\"",
    "\"state\":\"unknown\"",
    "\"state\":\"dead\"",
    "\"why\":\"rejected\"",
    "\"sent\":{\"key\":\"0123456789abcdef0123456789abcdef\",\"payload\":\"{}\",\"sends\":1,\"open_sends\":1}",
    "\"base\":{\"body\":\"deleted\",\"version\":null,\"complete\":true}",
    "\"not_before\":",
    "\"terms\":{\"tags\":[\"a\"]}",
];
