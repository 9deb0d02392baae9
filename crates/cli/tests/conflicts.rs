//! Conflicts as a person on the command line meets them: two devices, one real server, every strategy and every way out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test helpers are outside #[test]"
)]

mod support;

use landfall_testkit::proxy::{Cut, Ending, Fault, FaultPlan, FaultProxy};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use support::devices::Device;
use support::{Ran, Scratch, Server, Stored, endpoint, landfall, seed};

/// Two devices that know `report r1` as the server has it.
fn pair(scratch: &Scratch, server: &Server, fields: &str) -> (Device, Device) {
    let (anna, ben) = (Device::new(scratch, "anna.db", server), Device::new(scratch, "ben.db", server));
    anna.enqueue(&["report", "r1", "create", fields]);
    anna.sync(&[]);
    ben.sync(&[]);
    anna.sync(&[]);
    (anna, ben)
}

/// What the server has of `report r1`.
fn on_server(server: &Server, id: &str) -> Option<Value> {
    let records = Stored::read(&server.db).records;
    records.get(&("report".to_owned(), id.to_owned())).map(|text| serde_json::from_str(text).unwrap())
}

/// Both devices and the server hold the same of every record, and nothing waits.
#[track_caller]
fn all_agree(server: &Server, devices: &[&Device]) {
    for device in devices {
        device.sync(&[]);
    }
    for device in devices {
        device.sync(&[]);
        let listed = device.run(&["list", "report", "--all", "--json"]).ends(0);
        let listed: Vec<(String, Value)> = listed
            .out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|row| {
                assert_eq!(row["dirty"], json!([]), "{row}");
                (row["entity_id"].as_str().unwrap().to_owned(), row["fields"].clone())
            })
            .collect();
        let stored: Vec<(String, Value)> = Stored::read(&server.db)
            .records
            .into_iter()
            .map(|((_, id), text)| (id, serde_json::from_str(&text).unwrap()))
            .collect();
        assert_eq!(listed, stored, "{}", device.db);
        assert_eq!(device.conflicts(&[]), Vec::<Value>::new());
    }
}

#[test]
fn edits_of_different_fields_both_arrive_and_nobody_is_asked() {
    for strategy in ["last_write_wins", "server_wins", "client_wins", "field_merge", "ask", "fork"] {
        let scratch = Scratch::new("different-fields");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","cost":5}"#);
        anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent"}"#]);
        ben.enqueue(&["report", "r1", "update", r#"{"cost":9}"#]);
        for device in [&anna, &ben, &anna] {
            device.sync(&["--conflict", strategy]);
        }
        for device in [&anna, &ben] {
            assert_eq!(device.fields("report", "r1"), json!({"damage":"dent","cost":9}), "{strategy}");
            assert_eq!(device.conflicts(&["--all"]), Vec::<Value>::new(), "{strategy}");
        }
        all_agree(&server, &[&anna, &ben]);
    }
}

#[test]
fn each_strategy_lets_the_documented_side_win_and_keeps_the_loser() {
    for (strategy, expected, chosen) in [
        // The server orders writes: what reaches it last is the last write.
        ("last_write_wins", "crack", "local"),
        ("field_merge", "crack", "local"),
        ("client_wins", "crack", "local"),
        ("server_wins", "dent", "remote"),
    ] {
        let scratch = Scratch::new("strategies");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","cost":5}"#);
        anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent"}"#]);
        ben.enqueue(&["report", "r1", "update", r#"{"damage":"crack","cost":6}"#]);
        anna.sync(&["--conflict", strategy]);
        let report = ben.sync(&["--conflict", strategy]);
        assert_eq!((&report["conflicts"], &report["conflicts_settled"]), (&json!(1), &json!(1)), "{report}");
        anna.sync(&["--conflict", strategy]);
        for device in [&anna, &ben] {
            assert_eq!(device.fields("report", "r1"), json!({"damage":expected,"cost":6}), "{strategy}");
            assert_eq!(device.conflicts(&[]), Vec::<Value>::new());
        }
        assert_eq!(on_server(&server, "r1"), Some(json!({"damage":expected,"cost":6})), "{strategy}");

        let kept = ben.conflicts(&["--all"]);
        assert_eq!(kept.len(), 1, "{strategy}: {kept:?}");
        let field = &kept[0]["fields"][0];
        assert_eq!(
            (&field["path"], &field["base"], &field["mine"], &field["theirs"], &field["chosen"]),
            (&json!("damage"), &json!("none"), &json!("crack"), &json!("dent"), &json!(chosen)),
            "{strategy}"
        );
        assert_eq!((&kept[0]["settled"]["by"], &kept[0]["rule"]), (&json!("rule"), &json!(strategy)));
        let id = kept[0]["conflict"].as_str().unwrap();
        let shown = ben.run(&["conflicts", "show", &id[..6]]).ends(0);
        for part in [id, "\"none\"", "\"crack\"", "\"dent\"", "settled by the rule", strategy] {
            assert!(shown.out.contains(part), "no {part:?}: {shown:?}");
        }
        let has_way_back = shown.err.contains(r#"report r1 update '{"damage":"crack"}'"#);
        assert_eq!(has_way_back, chosen == "remote", "{shown:?}");
        all_agree(&server, &[&anna, &ben]);
    }
}

#[test]
fn people_read_what_was_settled_and_what_waits() {
    let scratch = Scratch::new("words");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","cost":5}"#);
    anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent","cost":6}"#]);
    anna.sync(&[]);
    ben.enqueue(&["report", "r1", "update", r#"{"damage":"crack"}"#]);
    let args = ["sync", "--endpoint", &ben.endpoint, "--conflict", "ask"];
    let ran = ben.run(&args).ends(3);
    assert!(ran.out.contains("left: 1 in conflict"), "{ran:?}");
    assert!(ran.err.contains("a conflict waits for your decision: `landfall conflicts list`"), "{ran:?}");
    assert_eq!(ben.get("report", "r1")["status"], "conflict");
    let ran = ben.run(&["get", "report", "r1"]).ends(0);
    assert!(ran.err.contains("landfall conflicts list"), "{ran:?}");
    let ran = ben.run(&["status"]).ends(0);
    assert!(
        ran.out.contains("1 conflict   waiting for a decision: see `landfall conflicts list`"),
        "{ran:?}"
    );
    assert!(ran.out.contains("the backend's changes were read"), "{ran:?}");
    ben.run(&["status", "--exit-code"]).ends(3);

    // Listing always succeeds; what waits is its result, not its failure.
    let ran = ben.run(&["conflicts", "list"]).ends(0);
    assert!(ran.out.contains("report r1") && ran.out.contains("waits for a decision"), "{ran:?}");
    let id = ben.open_conflict();
    let ran = ben.run(&["conflicts", "show", &id]).ends(0);
    for part in [
        "both sides changed the same fields",
        "it was",
        "yours",
        "theirs",
        "proposed",
        "ask: open",
        "only theirs: cost = 6",
    ] {
        assert!(ran.out.contains(part), "no {part:?}: {ran:?}");
    }
    for way in ["--accept", "--keep-mine", "--set damage=mine", "--fork", "--dry-run"] {
        assert!(ran.err.contains(way), "no {way:?}: {ran:?}");
    }
    let ran = ben.run(&["conflicts", "resolve", &id, "--keep-mine"]).ends(0);
    assert!(ran.err.contains("the next `landfall sync` sends it"), "{ran:?}");
    assert_eq!(ben.run(&["conflicts", "list"]).ends(0).out.lines().count(), 1);
    let ran = ben.run(&["conflicts", "show", &id[..8]]).ends(0);
    assert!(ran.out.contains("settled by a decision") && ran.out.contains("sent as    task"), "{ran:?}");
    ben.sync(&[]);

    ben.enqueue(&["report", "r1", "update", r#"{"damage":"hole"}"#]);
    anna.enqueue(&["report", "r1", "update", r#"{"damage":"gone"}"#]);
    anna.sync(&[]);
    let ran = ben.run(&["sync", "--endpoint", &ben.endpoint]).ends(0);
    assert!(ran.out.contains("1 conflict settled by rule; `landfall conflicts list --all`"), "{ran:?}");
    all_agree(&server, &[&anna, &ben]);
}

/// A conflict of Ben's that waits: he has crack and 6, she has dent and a note; both had none and 5.
fn waiting(scratch: &Scratch, server: &Server) -> (Device, Device, String) {
    let (anna, ben) = pair(scratch, server, r#"{"damage":"none","cost":5,"draft":true}"#);
    anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent","note":"hers"}"#]);
    ben.enqueue(&["report", "r1", "update", r#"{"damage":"crack","cost":6}"#]);
    anna.sync(&["--conflict", "ask"]);
    ben.try_sync(&["--conflict", "ask"]).ends(3);
    let id = ben.open_conflict();
    (anna, ben, id)
}

#[test]
fn every_way_to_resolve_can_be_tried_first_and_reaches_everybody() {
    let merged = |damage: &str| json!({"damage":damage,"cost":6,"draft":true,"note":"hers"});
    let scratch = Scratch::new("edit-file");
    let record = scratch.file("record.json", r#"{"damage":"file"}"#);
    let edit_file = format!("@{record}");
    let cases: Vec<(Vec<&str>, Value)> = vec![
        (vec!["--keep-mine"], merged("crack")),
        (vec!["--keep-theirs"], merged("dent")),
        (vec!["--accept"], merged("crack")),
        (vec!["--mine-whole"], json!({"damage":"crack","cost":6,"draft":true})),
        (vec!["--theirs-whole"], json!({"damage":"dent","cost":5,"draft":true,"note":"hers"})),
        (
            vec!["--set", "damage=theirs", "--set", "cost=theirs"],
            json!({"damage":"dent","cost":5,"draft":true,"note":"hers"}),
        ),
        (
            vec!["--set", r#"damage:="mine""#, "--set", "draft=remove"],
            json!({"damage":"mine","cost":6,"note":"hers"}),
        ),
        (
            vec!["--set", "new:={\"a\":[1,2.50]}"],
            json!({"damage":"crack","cost":6,"draft":true,"note":"hers","new":{"a":[1,2.5]}}),
        ),
        (vec!["--edit", r#"{"only":"this"}"#], json!({"only":"this"})),
        (vec!["--edit", &edit_file], json!({"damage":"file"})),
        (vec!["--edit", "-"], json!({"damage":"piped"})),
        (vec!["--delete"], Value::Null),
    ];
    for (way, expected) in cases {
        let scratch = Scratch::new("ways");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben, id) = waiting(&scratch, &server);
        let look = || {
            let shown = ben.run(&["conflicts", "show", &id, "--json"]).ends(0).out;
            (shown, ben.get("report", "r1"), ben.run(&["queue", "--json"]).ends(0).out)
        };
        let resolve = |more: &[&str]| -> Ran {
            let mut child = landfall()
                .args(["conflicts", "resolve", &id, "--json", "--db", &ben.db])
                .args(&way)
                .args(more)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // Whoever does not read it may be gone already.
            drop(child.stdin.take().unwrap().write_all(br#"{"damage":"piped"}"#));
            child.wait_with_output().unwrap().into()
        };
        let before = look();
        let dry = resolve(&["--dry-run"]).ends(0).json();
        assert_eq!(look(), before, "{way:?} changed something in a dry run");
        assert_eq!((&dry["dry_run"], &dry["task"]), (&json!(true), &json!(null)), "{dry}");
        let done = resolve(&[]).ends(0).json();
        assert_eq!((&done["result"], &done["sends"]), (&dry["result"], &dry["sends"]), "{way:?}");
        assert_eq!(done["result"]["fields"], expected, "{way:?}");
        assert_eq!(ben.fields("report", "r1"), expected, "{way:?}");
        assert_eq!(done["sends"].is_null(), done["task"].is_null(), "{done}");
        ben.sync(&[]);
        if let Some(task) = done["task"].as_str() {
            // What was announced is what was sent.
            let sent = ben.run(&["task", task, "--json"]).ends(0).json();
            for part in ["operation", "fields"] {
                let announced = done["sends"].get(part).filter(|value| **value != json!({}));
                assert_eq!(sent["payload"].get(part), announced, "{way:?}: {sent} {done}");
            }
        }
        assert_eq!(on_server(&server, "r1"), Some(expected).filter(|fields| !fields.is_null()), "{way:?}");
        all_agree(&server, &[&anna, &ben]);
        let again = ben.run(&["conflicts", "resolve", &id, "--keep-mine"]).fails("settled already");
        assert!(again.err.contains("hint: "), "{again:?}");
    }
}

#[test]
fn a_fork_keeps_both_records() {
    let scratch = Scratch::new("fork");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben, id) = waiting(&scratch, &server);
    let dry = ben.run(&["conflicts", "resolve", &id, "--fork", "--dry-run", "--json"]).ends(0).json();
    assert_eq!(ben.conflicts(&[]).len(), 1);
    let done = ben.run(&["conflicts", "resolve", &id, "--fork", "--json"]).ends(0).json();
    assert_eq!((&dry["forks_to"], &dry["sends"]), (&done["forks_to"], &done["sends"]));
    let copy = done["forks_to"]["entity_id"].as_str().unwrap();
    assert_eq!(done["sends"]["entity_id"], copy);
    ben.sync(&[]);
    assert_eq!(on_server(&server, "r1").unwrap()["damage"], "dent");
    assert_eq!(on_server(&server, copy).as_ref(), Some(&done["sends"]["fields"]));
    assert_eq!(on_server(&server, copy).unwrap()["damage"], "crack");
    let shown = ben.run(&["conflicts", "show", &id]).ends(0);
    assert!(shown.out.contains(copy), "{shown:?}");
    all_agree(&server, &[&anna, &ben]);

    // As a strategy the same happens by itself.
    anna.enqueue(&["report", "r1", "update", r#"{"damage":"hers"}"#]);
    ben.enqueue(&["report", "r1", "update", r#"{"damage":"his"}"#]);
    anna.sync(&["--conflict", "fork"]);
    ben.sync(&["--conflict", "fork"]);
    assert_eq!(ben.fields("report", "r1")["damage"], "hers");
    assert_eq!(Stored::read(&server.db).records.len(), 3);
    all_agree(&server, &[&anna, &ben]);
}

#[test]
fn wrong_resolutions_are_clear_errors_and_change_nothing() {
    let scratch = Scratch::new("wrong");
    let server = Server::start(scratch.path("server.db"));
    let (_, ben, id) = waiting(&scratch, &server);
    let look = || {
        let shown = ben.run(&["conflicts", "show", &id, "--json"]).ends(0).out;
        (shown, ben.get("report", "r1"), ben.run(&["queue", "--json"]).ends(0).out)
    };
    let before = look();
    for (args, fragment) in [
        (vec![], "required arguments were not provided"),
        (vec!["--keep-mine", "--keep-theirs"], "cannot be used with"),
        (vec!["--set", "damage=mine", "--delete"], "cannot be used with"),
        (vec!["--set", "damage"], "write FIELD=mine"),
        (vec!["--set", "damage=dent"], "a value of its own is given as 'damage:=JSON'"),
        (vec!["--set", "damage:=dent"], "text needs double quotes"),
        (vec!["--set", "damage=mine", "--set", "damage=theirs"], "decides the field \"damage\" twice"),
        (vec!["--set", "nothing=mine"], "\"nothing\" is no field of this record"),
        (vec!["--set", "damage.deep=mine"], "is no field of this record"),
        (vec!["--set", "a..b:=1"], "cannot be read as the path"),
        (vec!["--set", "n:=18446744073709551616"], "does not fit 64 bits"),
        (vec!["--edit", "[1]"], "the record is not usable"),
        (vec!["--edit", "@/no/such/file"], "cannot read /no/such/file"),
        (vec!["--edit", r#"{"a":1,"a":2}"#], "appears twice"),
        (vec!["--keep-mine", "--conflict", "best"], "unknown strategy \"best\""),
    ] {
        let all: Vec<&str> = ["conflicts", "resolve", &id].into_iter().chain(args).collect();
        let ran = ben.run(&all).fails(fragment);
        assert!(ran.out.is_empty(), "{ran:?}");
        assert_eq!(look(), before, "{all:?}");
    }
    for (wanted, fragment) in [
        ("abc", "first 4 digits or more"),
        ("hello", "only digits"),
        ("00000000", "there is no conflict 00000000"),
        ("00000000-0000-4000-8000-000000000000", "there is no conflict"),
    ] {
        for command in [vec!["show", wanted], vec!["resolve", wanted, "--keep-mine"]] {
            let all: Vec<&str> = ["conflicts"].into_iter().chain(command).collect();
            ben.run(&all).fails(fragment);
        }
    }
    ben.run(&["conflicts", "list", "--id", "r1"]).fails("--type");
    assert_eq!(ben.conflicts(&["--type", "report", "--id", "r1"]).len(), 1);
    assert_eq!(ben.conflicts(&["--type", "report", "--id", "r2", "--all"]).len(), 0);
    assert_eq!(ben.conflicts(&["--type", "note"]).len(), 0);
}

#[test]
fn wrong_rules_are_refused_before_anything_is_opened() {
    let scratch = Scratch::new("wrong-rules");
    let device = Device { db: scratch.text("none.db"), endpoint: "http://127.0.0.1:9/sync".into() };
    for (args, fragment) in [
        (
            vec!["--conflict", "best"],
            "known are last_write_wins, server_wins, client_wins, field_merge, ask, fork",
        ),
        (vec!["--conflict", "custom(x)"], "the command line has none"),
        (vec!["--deletes", "never"], "known are delete_wins, edit_wins, ask, fork"),
        (vec!["--field", "report.cost"], "is not of the form TYPE.FIELD=RULE"),
        (vec!["--field", "report.cost=biggest"], "unknown rule \"biggest\""),
        (vec!["--field", "report.a+b=counter"], "a group cannot have the rule counter"),
        (vec!["--field", "report.a=max", "--field", "report.a=min"], "already declared"),
        (vec!["--push-only", "--pull-only"], "cannot be used with"),
    ] {
        let all: Vec<&str> = ["sync", "--create", "--endpoint", &device.endpoint]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        device.run(&all).fails(fragment);
        assert!(!scratch.path("none.db").exists(), "{args:?}");
    }
}

#[test]
fn a_deletion_against_an_edit_ends_as_the_policy_says() {
    // Who deletes syncs first or second; what is left, and what the second one has to decide.
    for (deletes, deletes_first, expected, waits) in [
        ("delete_wins", true, None, false),
        ("delete_wins", false, None, false),
        ("edit_wins", true, Some("dent"), false),
        ("edit_wins", false, Some("dent"), false),
        ("ask", true, None, true),
        ("ask", false, Some("dent"), true),
        ("fork", true, None, false),
        ("fork", false, Some("dent"), false),
    ] {
        let case = format!("{deletes}, {deletes_first}");
        let scratch = Scratch::new("deletes");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","cost":5}"#);
        let edit = ["report", "r1", "update", r#"{"damage":"dent"}"#];
        let delete = ["report", "r1", "delete"];
        let (first, second): (&[&str], &[&str]) =
            if deletes_first { (&delete, &edit) } else { (&edit, &delete) };
        anna.enqueue(first);
        ben.enqueue(second);
        anna.sync(&["--deletes", deletes]);
        let ran = ben.try_sync(&["--deletes", deletes]);
        assert_eq!(ran.code, Some(if waits { 3 } else { 0 }), "{case}: {ran:?}");
        let why = if deletes_first { "edited_here_deleted_there" } else { "deleted_here_edited_there" };
        let kept = ben.conflicts(&["--all"]);
        assert_eq!(
            (kept.len(), &kept[0]["why"], &kept[0]["open"]),
            (1, &json!(why), &json!(waits)),
            "{case}"
        );
        let record = on_server(&server, "r1");
        assert_eq!(
            record.as_ref().map(|fields| &fields["damage"]),
            expected.map(Value::from).as_ref(),
            "{case}"
        );
        let live = Stored::read(&server.db).records.len();
        let forked = deletes == "fork" && deletes_first;
        assert_eq!(live, usize::from(expected.is_some()) + usize::from(forked), "{case}");
        let shown =
            ben.run(&["conflicts", "show", &ben.conflicts(&["--all"])[0]["conflict"].as_str().unwrap()[..8]]);
        let story = if deletes_first { "edited here, deleted there" } else { "deleted here, edited there" };
        assert!(shown.ends(0).out.contains(story), "{case}");
        if waits {
            let id = ben.open_conflict();
            ben.run(&["conflicts", "resolve", &id, "--set", "damage=mine"]).fails("deleted on one side");
            if !deletes_first {
                ben.run(&["conflicts", "resolve", &id, "--fork"]).fails("nothing to keep apart");
            }
            ben.run(&["conflicts", "resolve", &id, "--accept"]).ends(0);
            ben.sync(&[]);
            // The proposal is what the app sees: its edit, or its deletion.
            assert_eq!(on_server(&server, "r1").is_some(), deletes_first, "{case}");
        }
        all_agree(&server, &[&anna, &ben]);
    }
}

#[test]
fn a_record_deleted_on_one_side_is_kept_or_given_up_as_a_whole() {
    for (deletes_first, way, lives) in [
        (true, "--keep-mine", true),
        (true, "--keep-theirs", false),
        (true, "--mine-whole", true),
        (true, "--theirs-whole", false),
        (true, "--delete", false),
        (false, "--keep-mine", false),
        (false, "--keep-theirs", true),
        (false, "--theirs-whole", true),
    ] {
        let scratch = Scratch::new("delete-ways");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","cost":5}"#);
        let edit = ["report", "r1", "update", r#"{"damage":"dent"}"#];
        let delete = ["report", "r1", "delete"];
        anna.enqueue(if deletes_first { &delete } else { &edit });
        ben.enqueue(if deletes_first { &edit } else { &delete });
        anna.sync(&[]);
        ben.try_sync(&["--deletes", "ask"]).ends(3);
        let id = ben.open_conflict();
        ben.run(&["conflicts", "resolve", &id, way]).ends(0);
        ben.sync(&[]);
        let expected = lives.then(|| json!({"damage":"dent","cost":5}));
        assert_eq!(on_server(&server, "r1"), expected, "{way}, deleted there: {deletes_first}");
        all_agree(&server, &[&anna, &ben]);
    }
}

#[test]
fn fields_that_belong_together_are_never_torn() {
    for (rule, expected) in
        [("server", json!([5, "USD"])), ("client", json!([7, "CHF"])), ("lww", json!([7, "CHF"]))]
    {
        let scratch = Scratch::new("group");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"amount":5,"currency":"EUR"}"#);
        // Field by field this would become 7 USD, which nobody ever wrote.
        anna.enqueue(&["report", "r1", "update", r#"{"currency":"USD"}"#]);
        ben.enqueue(&["report", "r1", "update", r#"{"amount":7,"currency":"CHF"}"#]);
        let group = format!("report.amount+currency={rule}");
        for device in [&anna, &ben, &anna] {
            device.sync(&["--field", &group]);
        }
        let fields = on_server(&server, "r1").unwrap();
        assert_eq!(json!([fields["amount"], fields["currency"]]), expected, "{rule}");
        let kept = ben.conflicts(&["--all"]);
        assert_eq!(kept[0]["fields"][0]["group"], "amount+currency", "{kept:?}");
        all_agree(&server, &[&anna, &ben]);
    }
    // Also a person decides about all of them.
    let scratch = Scratch::new("group-ask");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = pair(&scratch, &server, r#"{"amount":5,"currency":"EUR"}"#);
    anna.enqueue(&["report", "r1", "update", r#"{"currency":"USD"}"#]);
    ben.enqueue(&["report", "r1", "update", r#"{"amount":7}"#]);
    anna.sync(&[]);
    ben.try_sync(&["--field", "report.amount+currency=ask"]).ends(3);
    let id = ben.open_conflict();
    ben.run(&["conflicts", "resolve", &id, "--set", "amount=theirs"]).ends(0);
    assert_eq!(ben.fields("report", "r1"), json!({"amount":5,"currency":"USD"}));
    ben.sync(&[]);
    all_agree(&server, &[&anna, &ben]);
}

#[test]
fn conflicts_are_listed_in_pages_the_last_first() {
    let scratch = Scratch::new("conflict-pages");
    let server = Server::start(scratch.path("server.db"));
    let (anna, ben) = (Device::new(&scratch, "anna.db", &server), Device::new(&scratch, "ben.db", &server));
    let lines = |operation: &str, value: &str| {
        let line = |n| support::line("note", &format!("{n:03}"), operation, &json!({"a": value}));
        (0..450).map(line).collect::<Vec<_>>().join("\n")
    };
    anna.enqueue(&["--file", &scratch.file("create", lines("create", "none"))]);
    anna.sync(&[]);
    ben.sync(&[]);
    anna.enqueue(&["--file", &scratch.file("anna", lines("update", "hers"))]);
    ben.enqueue(&["--file", &scratch.file("ben", lines("update", "his"))]);
    anna.sync(&[]);
    let report = ben.try_sync(&["--conflict", "ask"]).ends(3).json();
    assert_eq!(
        (&report["left"]["conflict"], &report["conflicts_settled"]),
        (&json!(450), &json!(0)),
        "{report}"
    );
    let all = ben.conflicts(&["--limit", "0"]);
    assert_eq!(all.len(), 450);
    let mut paged = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut args = vec!["conflicts", "list", "--json", "--limit", "130"];
        args.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
        let page = ben.run(&args).ends(0).json();
        paged.extend(page["conflicts"].as_array().unwrap().clone());
        match page["next_after"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let ran = ben.run(&["conflicts", "list", "--limit", "3"]).ends(0);
    assert_eq!(ran.out.lines().count(), 4, "{ran:?}");
    assert!(ran.err.contains("there are more: add --after "), "{ran:?}");
    let ran = ben.run(&["conflicts", "list", "--limit", "450"]).ends(0);
    assert!(!ran.err.contains("there are more"), "{ran:?}");
    // Four digits are enough where they are unique, and an error that names some where they are not.
    for conflict in all.iter().take(40) {
        let id = conflict["conflict"].as_str().unwrap();
        let alike = all.iter().filter(|other| other["conflict"].as_str().unwrap()[..4] == id[..4]).count();
        let ran = ben.run(&["conflicts", "show", &id[..4]]);
        if alike == 1 {
            ran.ends(0)
        } else {
            ran.fails("give more digits")
        };
    }
}

#[test]
fn rules_of_resolve_judge_what_is_queued_behind() {
    for (rule, expected) in [("counter", 12), ("lww", 11)] {
        let scratch = Scratch::new("behind");
        let server = Server::start(scratch.path("server.db"));
        let (anna, ben) = pair(&scratch, &server, r#"{"damage":"none","views":10}"#);
        anna.enqueue(&["report", "r1", "update", r#"{"damage":"dent","views":11}"#]);
        anna.sync(&[]);
        // His first change is sent and stopped on the way, so his count becomes a change of its own behind it.
        ben.enqueue(&["report", "r1", "update", r#"{"damage":"crack"}"#]);
        let fault = Fault::CutRequest { at: Cut::InBody, end: Ending::Close };
        let proxy = FaultProxy::start(server.addr, FaultPlan::always(fault), seed()).unwrap();
        let rough = Device { endpoint: endpoint(proxy.addr()), ..ben.clone() };
        rough.try_sync(&["--push-only", "--deadline", "0"]).ends(2);
        ben.enqueue(&["report", "r1", "update", r#"{"views":11}"#]);
        let views = format!("report.views={rule}");
        let rules = ["--field", "report.damage=ask", "--field", &views];
        ben.try_sync(&rules).ends(3);
        let id = ben.open_conflict();
        let all: Vec<&str> =
            ["conflicts", "resolve", &id, "--keep-theirs"].into_iter().chain(rules).collect();
        ben.run(&all).ends(0);
        ben.sync(&rules);
        assert_eq!(on_server(&server, "r1"), Some(json!({"damage":"dent","views":expected})), "{rule}");
        all_agree(&server, &[&anna, &ben]);
    }
}
