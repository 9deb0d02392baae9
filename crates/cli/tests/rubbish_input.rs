//! Rubbish as input: a clear error with its line, and nothing stored; or an exact round trip through queue, network
//! and server.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

#[macro_use]
mod support;

use std::fmt::Write as _;
use support::{Scratch, Server, Stored, counts, landfall, run};

/// One line around a value.
fn with_fields(fields: &str) -> String {
    format!(r#"{{"entity_type":"t","entity_id":"i","operation":"create","fields":{fields}}}"#)
}

#[test]
fn each_bad_line_is_named_and_nothing_of_the_file_is_stored() {
    let scratch = Scratch::new("bad-lines");
    let good = |id: u32| {
        format!(r#"{{"entity_type":"t","entity_id":"{id}","operation":"create","fields":{{"a":1}}}}"#)
    };
    let deep = with_fields(&format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500)));
    let long_name = with_fields("{}").replace("\"i\"", &format!("\"{}\"", "x".repeat(2000)));
    let huge = with_fields(&format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20)));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"{".to_vec(), "EOF while parsing"),
        (b"hello".to_vec(), "expected value"),
        (b"{\"entity_type\":\"t\",}".to_vec(), "trailing comma"),
        (with_fields("[1,2]").into(), "fields must be an object, found a list"),
        (with_fields("\"a\"").into(), "fields must be an object, found text"),
        (with_fields("null").into(), "fields must be an object, found null"),
        (with_fields("{}").replace("\"i\"", "\"\"").into(), "the entity id is empty"),
        (with_fields("{}").replace("\"t\"", "\"\"").into(), "the entity type is empty"),
        (with_fields("{}").replace("\"i\"", "7").into(), "entity_id must be text, found a number"),
        (with_fields("{}").replace("create", "make").into(), "unknown operation \"make\""),
        (with_fields("{}").replace("fields", "feilds").into(), "unknown member \"feilds\""),
        (with_fields("{\"a\":NaN}").into(), "expected value"),
        (with_fields("{\"a\":Infinity}").into(), "expected value"),
        (with_fields("{\"a\":1e999}").into(), "number out of range"),
        (with_fields("{\"a\":18446744073709551616}").into(), "18446744073709551616 does not fit 64 bits"),
        (with_fields("{\"a\":-9223372036854775809}").into(), "does not fit 64 bits"),
        (with_fields("{\"a\":[{\"b\":123456789012345678901234567890}]}").into(), "does not fit 64 bits"),
        (with_fields("{\"a\":1,\"a\":2}").into(), "the key \"a\" appears twice"),
        (with_fields("{\"a\":\"\\ud800\"}").into(), "hex escape"),
        (with_fields("{\"a\":\"\u{1}\"}").into(), "control character"),
        (b"{\"entity_type\":\"t\xff\",\"entity_id\":\"i\",\"operation\":\"create\"}".to_vec(), "not UTF-8"),
        (deep.into(), "recursion limit"),
        (
            with_fields(&format!("{{\"a\":{}{}}}", "[".repeat(61), "]".repeat(61))).into(),
            "more than 60 levels deep",
        ),
        (long_name.into(), "the entity id has 2000 bytes; at most 1024"),
        (huge.into(), "the change has 5242883 bytes or more; at most 4194304"),
        (with_fields("{}").replace("create", "update").into(), "an update needs at least one field"),
        (with_fields("{\"a\":1}").replace("create", "delete").into(), "a delete carries no fields"),
        (good(1).into(), "already exists"),
    ];
    for (case, (bad, fragment)) in cases.iter().enumerate() {
        let mut content = format!("{}\n\n", good(1)).into_bytes();
        content.extend_from_slice(bad);
        content.extend_from_slice(format!("\n{}\n", good(2)).as_bytes());
        let file = scratch.file(&format!("{case}.jsonl"), content);
        let db = scratch.text(&format!("{case}.db"));

        let ran = run!["enqueue", "--db", &db, "--file", &file].fails(fragment);
        assert!(ran.err.contains("line 3: "), "case {case}: {}", ran.err);
        assert!(ran.err.contains("hint:") && ran.err.contains("nothing was stored"), "{}", ran.err);
        assert!(ran.err.len() < 1000, "an error is no dump: {}", ran.err.len());
        assert_eq!(ran.out, "", "nothing is acknowledged");
        assert_eq!(counts(&db), [0; 5], "case {case}");

        let skipping = run!["enqueue", "--json", "--skip-bad", "--db", &db, "--file", &file].ends(0).json();
        assert_eq!((&skipping["changes"], &skipping["skipped"]), (&2.into(), &1.into()), "{skipping}");
        assert_eq!(skipping["skipped_lines"][0]["line"], 3);
        assert!(skipping["skipped_lines"][0]["error"].as_str().unwrap().contains(fragment), "{skipping}");
        assert_eq!(counts(&db), [2, 0, 0, 0, 0], "case {case}");
    }
}

#[test]
fn bad_arguments_are_errors_that_store_nothing() {
    let scratch = Scratch::new("bad-arguments");
    let db = scratch.text("q.db");
    for (args, fragment) in [
        (vec!["t", "i", "create", "[1]"], "expected a JSON object"),
        (vec!["t", "i", "create", "{"], "EOF while parsing"),
        (vec!["t", "i", "create", "{\"a\":NaN}"], "expected value"),
        (vec!["t", "i", "create", "{\"a\":99999999999999999999}"], "does not fit 64 bits"),
        (vec!["t", "", "create", "{}"], "the entity id is empty"),
        (vec!["", "i", "create", "{}"], "the entity type is empty"),
        (vec!["t", "i", "destroy", "{}"], "unknown operation"),
        (vec!["t", "i", "update"], "at least one field"),
        (vec!["t", "i", "delete", "{\"a\":1}"], "a delete carries no fields"),
        (vec!["t", "i", "create", "{}", "--unset", "a"], "leave the field out"),
        (vec!["t", "i", "update", "{\"a\":1}", "--unset", "a"], "both set and unset"),
    ] {
        let mut all = vec!["enqueue", "--db", &db];
        all.extend(args);
        run(all).fails(fragment);
        assert!(!scratch.path("q.db").exists(), "a refused change makes no file");
    }
}

/// Ids that have to come through unharmed, and those among them that no address can name.
fn ids() -> Vec<String> {
    let texts = [
        "plain",
        "a b",
        "a/b",
        "..",
        ".",
        "../../etc/passwd",
        "a\\b",
        "a:b",
        "a|b",
        "a\u{0}b",
        "\u{0}",
        "'",
        "\"",
        "`",
        "'; DROP TABLE records; --",
        "%2e%2e",
        "%",
        "?",
        "#",
        "&=",
        "🦀",
        "e\u{301}",
        "é",
        "\u{202e}rtl",
        "\u{feff}",
        " ",
        "\n",
        "\t",
        "null",
        "0",
        "{}",
        "\u{1f468}\u{200d}\u{1f469}",
        "\u{10ffff}",
        "A",
        "a",
        "-rf",
        "--help",
    ];
    let mut ids: Vec<String> = texts.into_iter().map(str::to_owned).collect();
    ids.push("x".repeat(1024));
    ids
}

/// Fields as they are written, and as they must arrive: keys sorted, numbers as they were written.
fn fields() -> Vec<(String, String)> {
    let same = |text: &str| (text.to_owned(), text.to_owned());
    let mut all = vec![
        same("{}"),
        same(r#"{"":""}"#),
        same(r#"{"a":null}"#),
        same(r#"{"a":[],"b":{},"c":[[],{}]}"#),
        same(r#"{"a":9223372036854775807,"b":-9223372036854775808,"c":18446744073709551615}"#),
        same(r#"{"a":9007199254740993}"#),
        same(r#"{"a":0.1,"b":1.0,"c":-0.0,"e":2.225073858507201e-308,"f":123456789.12345679}"#),
        (r#"{"a":1e300,"b":1E2}"#.into(), r#"{"a":1e+300,"b":100.0}"#.into()),
        same(r#"{"a":"NaN","b":"Infinity","c":"99999999999999999999999"}"#),
        same(r#"{"a":"🦀 é é \\ \" ' <script> ${x} %s"}"#),
        same("{\"a\":\"e\u{301}\",\"b\":\"\u{e9}\"}"),
        same(r#"{"../x":1,"a.b":2,"a/b":3,"k'\"; DROP":4,"🦀":5}"#),
        (r#"{ "b" : 1 , "a" : 2 }"#.into(), r#"{"a":2,"b":1}"#.into()),
        (r#"{"a":"\u0041\ud83e\udd80\/"}"#.into(), r#"{"a":"A🦀/"}"#.into()),
        (r#"{"a":"\u0000\n\t\u001f"}"#.into(), r#"{"a":"\u0000\n\t\u001f"}"#.into()),
        same(&format!("{{\"a\":{}1{}}}", "[".repeat(60), "]".repeat(60))),
        same(&format!("{{\"big\":\"{}\"}}", "é🦀x\\\\".repeat(100_000))),
    ];
    let many: String = (0..2000).fold(String::new(), |mut text, n| {
        write!(text, "{}\"k{n:05}\":{n}", if n == 0 { "" } else { "," }).unwrap();
        text
    });
    all.push(same(&format!("{{{many}}}")));
    all
}

#[test]
fn what_is_taken_arrives_exactly_as_it_was_written() {
    let scratch = Scratch::new("round-trip");
    let server = Server::start(scratch.path("server.db"));
    let db = scratch.text("q.db");
    let mut lines = String::new();
    let mut expected = Vec::new();
    for (number, id) in ids().iter().enumerate() {
        let fields = format!("{{\"n\":{number}}}");
        // The id is also part of the type, so that separators in either cannot make two records one.
        let entity_type = if id.len() < 1000 { format!("type {id}") } else { "type".into() };
        expected.push((entity_type, id.clone(), fields.clone(), fields));
    }
    for (number, (written, arrives)) in fields().into_iter().enumerate() {
        expected.push(("fields".into(), number.to_string(), written, arrives));
    }
    for (entity_type, id, written, _) in &expected {
        let (entity_type, id) =
            (serde_json::to_string(entity_type).unwrap(), serde_json::to_string(id).unwrap());
        writeln!(
            lines,
            r#"{{"entity_type":{entity_type},"entity_id":{id},"operation":"create","fields":{written}}}"#
        )
        .unwrap();
    }
    let file = scratch.file("changes.jsonl", lines);
    let report = run!["enqueue", "--json", "--db", &db, "--file", &file].ends(0).json();
    assert_eq!(report["tasks"], expected.len());
    for (entity_type, id, _, arrives) in &expected {
        if !entity_type.contains('\0') && !id.starts_with('-') {
            let shown = run!["get", "--json", "--db", &db, entity_type, id].ends(0);
            assert!(shown.out.contains(&format!("\"fields\":{arrives},")), "{id:?}: {}", cut(&shown.out));
        }
    }
    run!["sync", "--db", &db, "--endpoint", &server.endpoint()].ends(0);

    for (entity_type, id, _, arrives) in &expected {
        if matches!(id.as_str(), "." | "..") {
            continue;
        }
        let path = format!("/sync/entities/{}/{}", encode(entity_type), encode(id));
        let (status, body) = server.get(&path);
        assert_eq!(status, 200, "{entity_type:?} {id:?}: {body}");
        assert!(body.contains(&format!("\"fields\":{arrives}")), "{id:?}: {}", cut(&body));
        // Text in a JSON answer is compared after one decoding, by a reader that is not ours.
        let record: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&record["entity_type"], &record["entity_id"]),
            (&entity_type.as_str().into(), &id.as_str().into())
        );
    }
    let stored = Stored::read(&server.stop());
    stored.has_one_effect_per_task();
    assert_eq!(stored.records.len(), expected.len());
    for (entity_type, id, _, arrives) in expected {
        let found = stored.records.get(&(entity_type.clone(), id.clone()));
        assert_eq!(found.map(|found| cut(found)), Some(cut(&arrives)), "{entity_type:?} {id:?}");
        assert!(found == Some(&arrives));
    }
}

#[test]
fn ids_from_the_command_line_come_through_too() {
    let scratch = Scratch::new("id-arguments");
    let db = scratch.text("q.db");
    let ids: Vec<String> = ids().into_iter().filter(|id| !id.contains('\0')).collect();
    for id in &ids {
        let ran = landfall().args(["enqueue", "--db", &db, "--", id, id, "create", "{}"]).output().unwrap();
        assert!(ran.status.success(), "{id:?}: {ran:?}");
    }
    let listed = run!["queue", "--json", "--limit", "0", "--db", &db].ends(0).json();
    let listed: Vec<&str> =
        listed["tasks"].as_array().unwrap().iter().map(|task| task["entity_id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids);
    let table = run!["queue", "--db", &db].ends(0).out;
    assert!(!table.contains('\u{202e}') && !table.contains('\u{1b}'), "nothing a terminal acts upon");
    assert_eq!(table.lines().count(), ids.len() + 1, "one line per task");
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

/// By RFC 3986, written here again so that the test does not trust our own encoder.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
