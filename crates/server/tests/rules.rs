//! The promises of the rules, over memory and SQLite alike.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use landfall_protocol::{ErrorDetail, Fields, Status, Task, TaskResult, code, task_code};
use landfall_server::state::{ActionError, ActionRoom, Effect, MemoryRecords, Policy, push};
use landfall_server::{AssignIds, Increment, Policies, RequireFields};
use serde_json::{Value, json};
use support::{Backend, task};

/// How the record stands before: never there, at version 1, or deleted at version 2.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Given {
    Nothing,
    Live,
    Gone,
}

fn prepare(backend: &mut Backend, given: Given) {
    if given != Given::Nothing {
        backend.one(task("given-1", "create", json!({"fields": {"a": 1, "b": 2}})));
    }
    if given == Given::Gone {
        backend.one(task("given-2", "delete", json!({})));
    }
}

#[test]
fn every_operation_meets_every_record_as_the_table_says() {
    use Given::*;
    let set = json!({"fields": {"a": 9}, "unset": ["b"]});
    let with = |base: &str| json!({"fields": {"a": 9}, "unset": ["b"], "base_version": base});
    // promise, given, operation, members, status, what is there afterwards ("" nothing, "-" a tombstone)
    let live = r#"{"a":1,"b":2}"#;
    let only_a = r#"{"a":9}"#;
    #[rustfmt::skip]
    let rows: &[(&str, Given, &str, Value, &str, &str)] = &[
        ("create makes what is not there",                Nothing, "create",  set.clone(), "applied",  only_a),
        ("create with a base still makes it",             Nothing, "create",  with("7"),   "applied",  only_a),
        ("create never overwrites",                       Live,    "create",  set.clone(), "conflict", live),
        ("create never overwrites, base or not",          Live,    "create",  with("1"),   "conflict", live),
        ("create after a delete makes it anew",           Gone,    "create",  set.clone(), "applied",  only_a),
        ("create over the tombstone it knows",            Gone,    "create",  with("2"),   "applied",  only_a),
        ("create over another tombstone",                 Gone,    "create",  with("1"),   "conflict", "-"),
        ("update of nothing is refused",                  Nothing, "update",  set.clone(), "rejected", ""),
        ("update of nothing is refused, base or not",     Nothing, "update",  with("1"),   "rejected", ""),
        ("update changes only its fields",                Live,    "update",  json!({"fields": {"a": 9}}), "applied", r#"{"a":9,"b":2}"#),
        ("update removes what is unset",                  Live,    "update",  with("1"),   "applied",  only_a),
        ("update unsets what is not there",               Live,    "update",  json!({"unset": ["zz"]}), "applied", live),
        ("update on an outdated base changes nothing",    Live,    "update",  with("0"),   "conflict", live),
        ("update on a future base changes nothing",       Live,    "update",  with("2"),   "conflict", live),
        ("a base is compared as text",                    Live,    "update",  with("01"),  "conflict", live),
        ("update of a deleted record",                    Gone,    "update",  set.clone(), "conflict", "-"),
        ("update of a deleted record, base of tombstone", Gone,    "update",  with("2"),   "conflict", "-"),
        ("upsert makes what is not there",                Nothing, "upsert",  set.clone(), "applied",  only_a),
        ("upsert with a base needs the record",           Nothing, "upsert",  with("1"),   "conflict", ""),
        ("upsert changes only its fields",                Live,    "upsert",  json!({"fields": {"c": null}}), "applied", r#"{"a":1,"b":2,"c":null}"#),
        ("upsert on its base",                            Live,    "upsert",  with("1"),   "applied",  only_a),
        ("upsert on an outdated base",                    Live,    "upsert",  with("0"),   "conflict", live),
        ("upsert after a delete begins anew",             Gone,    "upsert",  json!({"fields": {"c": 3}}), "applied", r#"{"c":3}"#),
        ("upsert over the tombstone it knows",            Gone,    "upsert",  with("2"),   "applied",  only_a),
        ("upsert over another tombstone",                 Gone,    "upsert",  with("1"),   "conflict", "-"),
        ("replace makes what is not there",               Nothing, "replace", json!({"fields": {"a": 9}}), "applied", only_a),
        ("replace with a base needs the record",          Nothing, "replace", with("1"),   "conflict", ""),
        ("replace leaves exactly its fields",             Live,    "replace", json!({"fields": {"a": 9}}), "applied", only_a),
        ("replace by nothing",                            Live,    "replace", json!({"fields": {}}), "applied", "{}"),
        ("replace on an outdated base",                   Live,    "replace", with("0"),   "conflict", live),
        ("replace after a delete begins anew",            Gone,    "replace", json!({"fields": {"a": 9}}), "applied", only_a),
        ("replace over the tombstone it knows",           Gone,    "replace", with("2"),   "applied",  only_a),
        ("replace over another tombstone",                Gone,    "replace", with("1"),   "conflict", "-"),
        ("delete of nothing is done, and leaves a trace", Nothing, "delete",  json!({}),   "applied",  "-"),
        ("delete of nothing with a base is done",         Nothing, "delete",  json!({"base_version": "4"}), "applied", "-"),
        ("delete leaves a tombstone",                     Live,    "delete",  json!({"base_version": "1"}), "applied", "-"),
        ("delete without a base deletes",                 Live,    "delete",  json!({}),   "applied",  "-"),
        ("delete on an outdated base deletes nothing",    Live,    "delete",  json!({"base_version": "0"}), "conflict", live),
        ("delete of a deleted record is done",            Gone,    "delete",  json!({"base_version": "1"}), "applied", "-"),
        ("an unknown action is refused",                  Live,    "action",  json!({"action": "publish"}), "rejected", live),
        ("an action on an outdated base",                 Live,    "action",  json!({"action": "publish", "base_version": "0"}), "conflict", live),
        ("an unknown operation is refused",               Live,    "merge",   set.clone(), "rejected", live),
        ("a field both set and unset is refused",         Live,    "update",  json!({"fields": {"a": 1}, "unset": ["a"]}), "rejected", live),
        ("an empty type is refused",                      Live,    "create",  json!({"entity_type": ""}), "rejected", live),
        ("an empty id is refused",                        Live,    "create",  json!({"entity_id": ""}), "rejected", live),
        ("a huge id is refused",                          Live,    "create",  json!({"entity_id": "x".repeat(1025)}), "rejected", live),
    ];
    for (promise, given, operation, members, status, after) in rows {
        for mut backend in Backend::both() {
            let case = format!("{promise} ({}, {given:?}, {operation})", backend.name());
            prepare(&mut backend, *given);
            let before = backend.changes(None, 10).unwrap();
            let result = backend.one(task("k", operation, members.clone()));
            assert_eq!(result.status.as_str(), *status, "{case}: {result:?}");
            assert_eq!(backend.note(), *after, "{case}");
            assert_eq!(result.error.is_some(), result.status == Status::Rejected, "{case}");
            match result.status {
                Status::Conflict => {
                    assert_eq!(result.deleted, *after != live, "{case}");
                    assert_eq!(
                        result.fields.map(|fields| fields.to_json()).unwrap_or("-".into()),
                        if after.is_empty() { "-" } else { after },
                        "{case}"
                    );
                    assert_eq!(result.version.is_some(), *given != Nothing, "{case}");
                }
                Status::Applied => {
                    let now = backend.entity("note", "n").unwrap();
                    assert_eq!(result.version.as_deref(), Some(now.version.as_str()), "{case}");
                    let tells = *given == Live
                        && matches!(*operation, "update" | "upsert")
                        && members.get("base_version").is_none();
                    assert_eq!(
                        result.fields,
                        now.fields.filter(|_| tells),
                        "{case}: tells what the client cannot know"
                    );
                }
                _ => assert_eq!(backend.changes(None, 10).unwrap(), before, "{case}"),
            }
        }
    }
}

#[test]
fn a_repeat_has_no_second_effect_whatever_the_first_verdict_was() {
    for mut backend in Backend::both() {
        let name = backend.name();
        let create = task("k1", "create", json!({"fields": {"a": 1}}));
        let missing = task("k2", "update", json!({"entity_id": "later", "fields": {"a": 1}}));
        let stale = task("k3", "update", json!({"fields": {"a": 2}, "base_version": "0"}));
        let blind = task("k4", "update", json!({"fields": {"b": 1}}));
        let first = backend.tasks(&[create.clone(), missing.clone(), stale.clone(), blind.clone()]);
        let statuses: Vec<_> = first.iter().map(|result| result.status.as_str()).collect();
        assert_eq!(statuses, ["applied", "rejected", "conflict", "applied"], "{name}");

        // The world goes on, so that a second execution would end differently.
        backend.one(task("k5", "create", json!({"entity_id": "later"})));
        backend.one(task("k6", "update", json!({"fields": {"a": 7}})));
        let before = backend.changes(None, 10).unwrap();
        let again = backend.tasks(&[create, missing, stale, blind]);
        assert_eq!(backend.changes(None, 10).unwrap(), before, "{name}: nothing changed");
        assert_eq!(again[0].status, Status::Duplicate, "{name}");
        assert_eq!(again[0].version, first[0].version, "{name}: the version of that time");
        assert_eq!(again[1], first[1], "{name}: a rejection stays one, though the record is there now");
        assert_eq!(again[2].status, Status::Conflict, "{name}");
        let now = r#"{"a":7,"b":1}"#;
        assert_eq!(
            again[2].fields.as_ref().unwrap().to_json(),
            now,
            "{name}: a conflict shows the record of now"
        );
        assert_eq!(
            (again[3].status.clone(), &again[3].fields),
            (Status::Duplicate, &first[3].fields),
            "{name}"
        );
        assert!(again[3].fields.is_some(), "{name}");
    }
}

#[test]
fn a_late_repeat_does_not_undo_what_came_after_it() {
    for mut backend in Backend::both() {
        let old = task("k1", "upsert", json!({"fields": {"a": "old"}}));
        backend.one(old.clone());
        backend.one(task("k2", "upsert", json!({"fields": {"a": "new"}})));
        backend.one(task("k3", "delete", json!({})));
        assert_eq!(backend.one(old).status, Status::Duplicate);
        assert_eq!(backend.note(), "-", "a deleted record is not revived by a late repeat");
    }
}

#[test]
fn a_key_is_never_used_for_two_contents() {
    for mut backend in Backend::both() {
        backend.one(task("k", "create", json!({"fields": {"a": 1}})));
        for other in [json!({"fields": {"a": 2}}), json!({"fields": {"a": 1.0}}), json!({"entity_id": "m"})] {
            let result = backend.one(task("k", "create", other));
            assert_eq!(result.error.unwrap().code, task_code::KEY_REUSED);
        }
        assert_eq!(backend.one(task("k", "create", json!({"fields": {"a": 1}}))).status, Status::Duplicate);
        assert_eq!(backend.note(), r#"{"a":1}"#);
    }
}

#[test]
fn the_same_key_twice_in_one_request_is_one_effect() {
    for mut backend in Backend::both() {
        let results = backend.tasks(&[
            task("k", "create", json!({"fields": {"a": 1}})),
            task("k", "create", json!({"fields": {"a": 1}})),
            task("k", "create", json!({"fields": {"a": 2}})),
        ]);
        let statuses: Vec<_> = results.iter().map(|result| result.status.as_str()).collect();
        assert_eq!(statuses, ["applied", "duplicate", "rejected"]);
    }
}

#[test]
fn a_batch_is_applied_in_order_and_a_bad_task_spoils_no_other() {
    for mut backend in Backend::both() {
        let results = backend.tasks(&[
            task("k1", "create", json!({"fields": {"a": 1}})),
            task("k2", "update", json!({"fields": [1]})),
            task("k3", "update", json!({"fields": {"a": 2}, "base_version": "1"})),
            json!({"key": "k4"}),
            task("k5", "update", json!({"fields": {"a": 3}, "base_version": "2"})),
            task("", "update", json!({})),
            task("schlüssel", "update", json!({})),
            task("k6", "delete", json!({"base_version": "3"})),
        ]);
        let statuses: Vec<_> = results.iter().map(|result| result.status.as_str()).collect();
        assert_eq!(
            statuses,
            ["applied", "rejected", "applied", "rejected", "applied", "rejected", "rejected", "applied"]
        );
        for at in [1, 3, 5, 6] {
            assert_eq!(results[at].error.as_ref().unwrap().code, task_code::MALFORMED);
        }
        assert_eq!(backend.note(), "-");
        let again = backend.tasks(&[json!({"key": "k4"}), json!({"key": "k4", "more": 1})]);
        assert_eq!(again[0].error.as_ref().unwrap().code, task_code::MALFORMED, "stored like any rejection");
        assert_eq!(again[1].error.as_ref().unwrap().code, task_code::KEY_REUSED);
    }
}

#[test]
fn a_group_takes_effect_together_or_not_at_all() {
    let group = |key: &str, id: &str, operation: &str, more: Value| {
        let mut task = task(key, operation, more);
        task["entity_id"] = json!(id);
        task["group"] = json!("g");
        task
    };
    for mut backend in Backend::both() {
        let name = backend.name();
        let members = [
            group("k1", "a", "create", json!({"fields": {"x": 1}})),
            group("k2", "b", "update", json!({"fields": {"x": 1}})),
            group("k3", "c", "create", json!({})),
        ];
        let outside = task("k4", "create", json!({"entity_id": "a", "fields": {"x": "mine"}}));
        let [k1, k2, k3] = members.clone();
        let results = backend.tasks(&[k1, outside, k2, k3]);
        let told: Vec<_> =
            results.iter().map(|r| (r.status.as_str(), r.error.as_ref().map(|e| e.code.as_str()))).collect();
        assert_eq!(
            told,
            [
                ("retry", Some(task_code::GROUP_ABORTED)),
                ("applied", None),
                ("rejected", Some(task_code::NOT_FOUND)),
                ("retry", Some(task_code::GROUP_ABORTED)),
            ],
            "{name}: the culprit has its own verdict; a task outside goes on as if the group were not there"
        );
        assert_eq!(backend.entity("note", "c").unwrap_err().status, 404, "{name}");

        // Sent again it still fails; without the culprit the others apply, for retry was not stored.
        let [k1, k2, k3] = members.clone();
        let again = backend.tasks(&[k1, k2, k3]);
        assert_eq!(again[2].status, Status::Retry, "{name}");
        let [_, _, k3] = members;
        assert_eq!(backend.one(k3).status, Status::Applied, "{name}");
    }
}

#[test]
fn a_conflict_inside_a_group_shows_what_is_stored_not_what_the_group_had_done() {
    for mut backend in Backend::both() {
        backend.one(task("k0", "create", json!({"fields": {"a": 1}})));
        let results = backend.tasks(&[
            task("k1", "update", json!({"fields": {"a": 2}, "group": "g"})),
            task("k2", "update", json!({"fields": {"a": 3}, "base_version": "1", "group": "g"})),
            task("k3", "create", json!({"entity_id": "other", "group": "h"})),
        ]);
        assert_eq!(results[0].status, Status::Retry);
        assert_eq!(results[1].status, Status::Conflict);
        assert_eq!(results[1].version.as_deref(), Some("1"), "version 2 never existed for anybody else");
        assert_eq!(results[1].fields.as_ref().unwrap().to_json(), r#"{"a":1}"#);
        assert_eq!(results[2].version.as_deref(), Some("2"), "an aborted group uses up no version");
    }
}

#[test]
fn a_group_whose_member_was_applied_before_goes_through() {
    for mut backend in Backend::both() {
        backend.one(task("k1", "create", json!({"group": "g"})));
        let results = backend.tasks(&[
            task("k1", "create", json!({"group": "g"})),
            task("k2", "create", json!({"entity_id": "b", "group": "g"})),
        ]);
        assert_eq!((results[0].status.as_str(), results[1].status.as_str()), ("duplicate", "applied"));
    }
}

#[test]
fn a_group_whose_answer_was_lost_is_all_duplicates_when_it_comes_again() {
    for mut backend in Backend::both() {
        let name = backend.name();
        let group = |key: &str, id: &str, operation: &str| {
            task(key, operation, json!({"entity_id": id, "group": "g", "fields": {"x": 1}}))
        };
        let members = [group("k1", "a", "create"), group("k2", "b", "upsert"), group("k3", "a", "update")];
        let first = backend.tasks(&members);
        assert!(first.iter().all(|result| result.status == Status::Applied), "{name}: {first:?}");
        // Somebody else goes on, so that a second execution would end differently.
        backend.one(task("k9", "delete", json!({"entity_id": "a"})));
        let before = backend.changes(None, 10).unwrap();
        for repeat in [&members[..], &members[1..], &members[..1]] {
            for result in backend.tasks(repeat) {
                let same = first.iter().find(|one| one.key == result.key).unwrap();
                assert_eq!(
                    (result.status.clone(), &result.version, &result.fields),
                    (Status::Duplicate, &same.version, &same.fields),
                    "{name}"
                );
            }
        }
        assert_eq!(backend.changes(None, 10).unwrap(), before, "{name}");
    }
}

#[test]
fn a_group_of_which_a_part_comes_is_judged_by_that_part() {
    // The server cannot know who is missing: sending a group whole is the client's duty.
    for mut backend in Backend::both() {
        let one = task("k1", "create", json!({"entity_id": "a", "group": "g"}));
        let two = task("k2", "update", json!({"entity_id": "b", "group": "g", "fields": {"x": 1}}));
        assert_eq!(backend.one(one.clone()).status, Status::Applied);
        let results = backend.tasks(&[one, two]);
        assert_eq!((results[0].status.as_str(), results[1].status.as_str()), ("duplicate", "rejected"));
        assert!(backend.entity("note", "a").is_ok(), "what took effect is not taken back");
    }
}

#[test]
fn a_malformed_member_aborts_its_group() {
    for mut backend in Backend::both() {
        let results = backend.tasks(&[
            task("k1", "create", json!({"group": "g"})),
            task("k2", "create", json!({"group": "g", "entity_id": "b", "fields": 7})),
        ]);
        assert_eq!((results[0].status.as_str(), results[1].status.as_str()), ("retry", "rejected"));
        assert_eq!(backend.note(), "");
    }
}

#[test]
fn identity_and_epochs_are_judged_before_any_task() {
    let push = |backend: &mut Backend, client: &str, epoch: u64, server: Option<&str>, key: &str| {
        let mut body = json!({"protocol": 1, "client_id": client, "client_epoch": epoch,
            "tasks": [task(key, "upsert", json!({}))]});
        if let Some(server) = server {
            body["server_id"] = json!(server);
        }
        backend
            .push_json(&body)
            .map(|answer| answer.server_id.unwrap())
            .map_err(|problem| (problem.status, problem.code))
    };
    for mut backend in Backend::both() {
        let refused = |code: &str| Err((409, code.to_owned()));
        assert_eq!(push(&mut backend, "a", 3, Some("elsewhere"), "k1"), refused(code::SERVER_CHANGED));
        let us = push(&mut backend, "a", 3, None, "k2").unwrap();
        let us = us.as_str();
        assert!(
            push(&mut backend, "a", 3, None, "k3").is_ok(),
            "a second first contact, racing the first answer"
        );
        assert!(push(&mut backend, "a", 3, Some(us), "k4").is_ok());
        assert_eq!(push(&mut backend, "a", 2, Some(us), "k5"), refused(code::CLIENT_SUPERSEDED));
        assert!(push(&mut backend, "a", 4, Some(us), "k6").is_ok(), "a higher epoch is a newer store");
        assert_eq!(push(&mut backend, "a", 3, None, "k7"), refused(code::CLIENT_SUPERSEDED));
        assert_eq!(
            push(&mut backend, "b", 1, Some(us), "k8"),
            refused(code::CLIENT_UNKNOWN),
            "it knows us, we do not know it"
        );
        assert!(push(&mut backend, "b", 1, None, "k9").is_ok());
        assert_eq!(push(&mut backend, "", 1, None, "k10"), Err((400, code::MALFORMED.to_owned())));
        assert_eq!(push(&mut backend, "z", u64::MAX, None, "k11"), Err((400, code::MALFORMED.to_owned())));
        // A refused request leaves nothing behind: its key is new.
        let fresh = backend.tasks_of("a", 4, &[task("k5", "upsert", json!({}))]);
        assert_eq!(fresh, "applied");
    }
}

#[test]
fn a_copied_client_that_became_another_client_still_has_one_effect() {
    for mut backend in Backend::both() {
        let create = task("k", "create", json!({"fields": {"a": 1}}));
        assert_eq!(backend.tasks_of("original", 1, std::slice::from_ref(&create)), "applied");
        assert_eq!(backend.tasks_of("copy", 1, &[create]), "duplicate");
    }
}

impl Backend {
    fn tasks_of(&mut self, client: &str, epoch: u64, tasks: &[Value]) -> String {
        let body = json!({"protocol": 1, "client_id": client, "client_epoch": epoch, "tasks": tasks});
        self.push_json(&body).unwrap().results[0].status.as_str().to_owned()
    }
}

#[test]
fn the_feed_gives_every_record_at_its_newest_version_and_skips_none() {
    for mut backend in Backend::both() {
        let name = backend.name();
        let mut cursor: Option<String> = None;
        let mut mirror = std::collections::BTreeMap::new();
        let mut seed = 7_u64;
        for round in 0..60 {
            for n in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let id = format!("n{}", (seed >> 33) % 9);
                let operation = ["upsert", "upsert", "replace", "delete"][(seed >> 60) as usize % 4];
                backend.one(task(
                    &format!("{round}-{n}"),
                    operation,
                    json!({"entity_id": id, "fields": {"at": round}}),
                ));
            }
            // A reader that is now and then slower than the writer, with small pages.
            let page = backend.changes(cursor.as_deref(), 2).unwrap();
            assert!(page.changes.len() <= 2);
            for record in page.changes {
                mirror.insert(record.entity_id.clone(), record);
            }
            cursor = Some(page.cursor);
        }
        loop {
            let page = backend.changes(cursor.as_deref(), 2).unwrap();
            for record in page.changes {
                mirror.insert(record.entity_id.clone(), record);
            }
            cursor = Some(page.cursor);
            if !page.has_more {
                break;
            }
        }
        let all = backend.changes(None, 1000).unwrap();
        assert!(!all.has_more);
        let truth: std::collections::BTreeMap<_, _> =
            all.changes.into_iter().map(|record| (record.entity_id.clone(), record)).collect();
        assert_eq!(mirror, truth, "{name}");
        let end = backend.changes(cursor.as_deref(), 2).unwrap();
        assert_eq!((end.changes.len(), end.has_more, Some(end.cursor)), (0, false, cursor), "{name}");
    }
}

#[test]
fn a_page_is_bounded_in_bytes_but_never_empty() {
    let mut records = MemoryRecords::new("db");
    let mut body: landfall_protocol::PushRequest = serde_json::from_value(support::first_push(&[task(
        "k",
        "create",
        json!({"fields": {"a": "x".repeat(500)}}),
    )]))
    .unwrap();
    for n in 0..5 {
        body.tasks[0].key = format!("k{n}");
        body.tasks[0].entity_id = format!("n{n}");
        push(&mut records, &body).unwrap();
    }
    for (bytes, count) in [(1, 1), (1100, 2), (1 << 20, 5)] {
        let page = landfall_server::state::changes(&records, None, 100, bytes).unwrap();
        assert_eq!((page.changes.len(), page.has_more), (count, count < 5));
    }
}

#[test]
fn a_cursor_of_another_feed_or_of_the_future_is_expired() {
    for mut backend in Backend::both() {
        backend.one(task("k", "create", json!({})));
        let cursor = backend.changes(None, 1).unwrap().cursor;
        let ahead = cursor.rsplit_once('.').map(|(feed, _)| format!("{feed}.2")).unwrap();
        for bad in
            [ahead.as_str(), "0", "1", "1.00000000.1", "x", "1.x.y", &format!("{cursor} "), "1.00000000.-1"]
        {
            let problem = backend.changes(Some(bad), 1).unwrap_err();
            assert_eq!((problem.status, problem.code.as_str()), (410, code::CURSOR_EXPIRED), "{bad}");
        }
    }
}

#[test]
fn values_are_stored_and_given_back_exactly() {
    let exact = r#"{"big":100000000000000000000001,"deep":{"list":[1,1.0,-0,1e400]},"float":1.10,"nul":"a\u0000b","one":1.0,"text":"é é"}"#;
    for mut backend in Backend::both() {
        let body = format!(
            r#"{{"protocol":1,"client_id":"c","client_epoch":1,"tasks":[{{"key":"k","task_id":"t","entity_type":"note","entity_id":"n","operation":"create","fields":{exact}}}]}}"#
        );
        let submission =
            landfall_server::Submission::from_json(body.as_bytes(), &Default::default()).unwrap();
        let answer = match &mut backend {
            Backend::Memory(records, policy) => {
                landfall_server::state::push_with(records.as_mut(), policy.as_ref(), &submission)
            }
            Backend::Sqlite(store, ..) => store.push_blocking("default", submission),
        };
        assert_eq!(answer.unwrap().results[0].status, Status::Applied);
        assert_eq!(backend.note(), exact);
    }
}

#[test]
fn ids_are_two_values_and_never_one_text() {
    for mut backend in Backend::both() {
        let ids = [
            ("a", "b/c"),
            ("a/b", "c"),
            ("a\0", "b"),
            ("a", "\0b"),
            ("A", "b"),
            ("a", "b"),
            ("é", "x"),
            ("e\u{301}", "x"),
            ("🙂", "../.."),
        ];
        for (at, (kind, id)) in ids.iter().enumerate() {
            let made = task(
                &format!("k{at}"),
                "create",
                json!({"entity_type": kind, "entity_id": id, "fields": {"at": at}}),
            );
            assert_eq!(backend.one(made).status, Status::Applied, "{kind:?} {id:?}");
        }
        for (at, (kind, id)) in ids.iter().enumerate() {
            assert_eq!(
                backend.entity(kind, id).unwrap().fields.unwrap().text("at"),
                Some(at.to_string().as_str())
            );
        }
    }
}

#[derive(Debug)]
struct Shop;

impl Policy for Shop {
    fn check(&self, _tenant: &str, task: &Task, current: Option<&Fields>) -> Result<(), ErrorDetail> {
        let locked = current.and_then(|fields| fields.text("locked")) == Some("true");
        if locked && task.operation.as_str() != "action" {
            return Err(ErrorDetail::new("locked", "this record is locked"));
        }
        Ok(())
    }

    fn action(&self, _tenant: &str, task: &Task, room: &mut ActionRoom<'_, '_>) -> Result<(), ActionError> {
        let fields = room.record(&task.entity_type, &task.entity_id)?.unwrap_or_default();
        room.put("log", &task.key, task.fields.clone());
        match task.action.as_deref() {
            Some("lock") => {
                room.put(&task.entity_type, &task.entity_id, fields.with("locked", "true").unwrap())
            }
            Some("remove") => room.remove(&task.entity_type, &task.entity_id),
            _ => return Err(ErrorDetail::new("no_such_thing", "not sold here").into()),
        }
        Ok(())
    }
}

#[test]
fn an_action_does_all_it_says_or_nothing_and_only_once() {
    for mut backend in Backend::both_with(Arc::new(Shop)) {
        backend.one(task("k1", "create", json!({"fields": {"a": 1}})));
        let lock = task("k2", "action", json!({"action": "lock", "fields": {"by": "me"}}));
        let result = backend.one(lock.clone());
        assert_eq!(result.fields.as_ref().unwrap().to_json(), r#"{"a":1,"locked":true}"#);
        assert_eq!(backend.entity("log", "k2").unwrap().fields.unwrap().to_json(), r#"{"by":"me"}"#);
        let again = backend.one(lock);
        assert_eq!(
            (again.status, &again.version, &again.fields),
            (Status::Duplicate, &result.version, &result.fields)
        );
        let refused = backend.one(task("k3", "action", json!({"action": "dance"})));
        assert_eq!(refused.error.unwrap().code, "no_such_thing");
        assert_eq!(
            backend.entity("log", "k3").unwrap_err().status,
            404,
            "nothing of a refused action remains"
        );
        let locked = backend.one(task("k4", "update", json!({"fields": {"a": 2}})));
        assert_eq!(locked.error.unwrap().code, "locked");
        assert_eq!(backend.one(task("k5", "action", json!({"action": "remove"}))).status, Status::Applied);
        assert_eq!(backend.note(), "-");
    }
}

fn order(key: &str, operation: &str, id: &str, more: Value) -> Value {
    let mut order = task(key, operation, more);
    order["entity_type"] = json!("order");
    order["entity_id"] = json!(id);
    order
}

#[test]
fn a_record_gets_the_servers_id_once_and_is_known_by_it_alone() {
    for operation in ["create", "upsert", "replace"] {
        for mut backend in Backend::both_with(Arc::new(AssignIds::new(["order"]))) {
            let case = format!("{operation}, {}", backend.name());
            let create = order("k1", operation, "local-1", json!({"fields": {"a": 1}}));
            let made = backend.one(create.clone());
            let id = made.entity_id.clone().unwrap_or_else(|| panic!("{case}: {made:?}"));
            assert_eq!((made.status.clone(), id != "local-1"), (Status::Applied, true), "{case}");
            assert_eq!(backend.entity("order", "local-1").unwrap_err().status, 404, "{case}");
            let record = backend.entity("order", &id).unwrap();
            assert_eq!(
                (record.fields.unwrap().to_json(), Some(record.version)),
                (r#"{"a":1}"#.into(), made.version.clone())
            );
            let feed = backend.changes(None, 10).unwrap().changes;
            assert_eq!(feed.iter().map(|it| it.entity_id.as_str()).collect::<Vec<_>>(), [&id], "{case}");

            // The client's own id means nothing here; the server's is an id like any other.
            let lost = backend.one(order("k2", "update", "local-1", json!({"fields": {"a": 2}})));
            assert_eq!(lost.error.unwrap().code, task_code::NOT_FOUND, "{case}");
            let based = json!({"fields": {"a": 2}, "base_version": made.version});
            let found = backend.one(order("k3", "update", &id, based));
            assert_eq!((found.status, found.entity_id), (Status::Applied, None), "{case}");

            let again = backend.one(create.clone());
            assert_eq!(again, TaskResult { status: Status::Duplicate, ..made }, "{case}");
            assert_eq!(backend.changes(None, 10).unwrap().changes.len(), 1, "{case}: one record");

            // Another key is another intent, whatever the client calls it.
            let other = backend.one(order("k4", operation, "local-1", json!({})));
            assert!(other.entity_id.is_some_and(|other| other != id), "{case}");
            // A record that was there keeps its id.
            backend.one(order("k5", "delete", &id, json!({})));
            let revived = backend.one(order("k6", operation, &id, json!({})));
            assert_eq!((revived.status, revived.entity_id), (Status::Applied, None), "{case}");
            // Other types are the client's to name.
            assert_eq!(backend.one(task("k7", operation, json!({}))).entity_id, None, "{case}");
            assert_eq!(backend.note(), "{}", "{case}");
        }
    }
}

#[test]
fn an_aborted_group_keeps_the_ids_it_will_get() {
    for mut backend in Backend::both_with(Arc::new(AssignIds::new(["*"]))) {
        let one = order("k1", "create", "local-1", json!({"group": "g"}));
        let bad = order("k2", "update", "local-2", json!({"group": "g", "fields": {"a": 1}}));
        let good = order("k3", "create", "local-3", json!({"group": "g"}));
        let aborted = backend.tasks(&[one.clone(), bad, good.clone()]);
        assert!(aborted.iter().all(|result| result.entity_id.is_none()), "{aborted:?}");
        assert!(backend.changes(None, 10).unwrap().changes.is_empty());
        let results = backend.tasks(&[one.clone(), good.clone()]);
        let again = backend.tasks(&[good, one]);
        assert!(results[0].entity_id.is_some() && results[0].entity_id != results[1].entity_id);
        assert_eq!(
            (&again[1].entity_id, &again[0].entity_id),
            (&results[0].entity_id, &results[1].entity_id)
        );
    }
}

/// Gives every record the id that the task asks for.
#[derive(Debug)]
struct AsAsked;

impl Policy for AsAsked {
    fn assign_id(&self, _tenant: &str, task: &Task) -> Option<String> {
        Some(task.fields.text("id")?.trim_matches('"').to_owned())
    }
}

#[test]
fn an_assigned_id_never_takes_another_records_place() {
    for mut backend in Backend::both_with(Arc::new(AsAsked)) {
        backend.one(order("k1", "create", "live", json!({})));
        backend.one(order("k2", "create", "gone", json!({})));
        backend.one(order("k3", "delete", "gone", json!({})));
        let before = backend.changes(None, 10).unwrap();
        for (key, id) in [("k4", "live"), ("k5", "gone"), ("k6", ""), ("k7", &*"x".repeat(1025))] {
            let result = backend.one(order(key, "create", "new", json!({"fields": {"id": id}})));
            assert_eq!(result.error.map(|error| error.code).as_deref(), Some(task_code::NO_ID), "{id}");
        }
        assert_eq!(backend.changes(None, 10).unwrap(), before);
        let same = backend.one(order("k8", "create", "new", json!({"fields": {"id": "new"}})));
        assert_eq!((same.status, same.entity_id), (Status::Applied, None), "the client's id needs no word");
    }
}

#[test]
fn an_increment_adds_once_and_refuses_what_is_no_whole_number() {
    let policies = Policies::new()
        .with(AssignIds::new(["order"]))
        .with(RequireFields::new().with("note", "title"))
        .with(Increment);
    for mut backend in Backend::both_with(Arc::new(policies)) {
        let increment =
            |key: &str, fields: Value| task(key, "action", json!({"action": "increment", "fields": fields}));
        let refused = backend.one(increment("k0", json!({"n": 1})));
        assert_eq!(refused.error.unwrap().code, task_code::NOT_FOUND);
        let nameless = backend.one(task("k1", "create", json!({"fields": {"n": 40, "text": "canary"}})));
        let error = nameless.error.unwrap();
        assert!(error.code == "invalid_field" && error.message.contains("canary"), "{error:?}");
        let fields = json!({"title": "t", "n": 40, "text": "x", "max": i64::MAX});
        backend.one(task("k2", "create", json!({"fields": fields})));
        let twice = increment("k3", json!({"n": 2, "new": -1}));
        let done = backend.one(twice.clone());
        let after = format!(r#"{{"max":{},"n":42,"new":-1,"text":"x","title":"t"}}"#, i64::MAX);
        assert_eq!(done.fields.as_ref().unwrap().to_json(), after);
        assert_eq!(backend.one(twice).status, Status::Duplicate);
        for (key, bad) in [
            ("k4", json!({"n": 1, "x": "1"})),
            ("k5", json!({"n": 1.5})),
            ("k6", json!({"n": null})),
            ("k7", json!({"n": 1, "text": 1})),
            ("k8", json!({"n": 1, "max": 1})),
        ] {
            let refused = backend.one(increment(key, bad.clone()));
            assert_eq!(refused.error.unwrap().code, "invalid_field", "{bad}");
        }
        assert_eq!(backend.note(), after, "a refused increment changes nothing");
        let unknown = backend.one(task("k9", "action", json!({"action": "decrement"})));
        assert_eq!(unknown.error.unwrap().code, task_code::UNKNOWN_ACTION);
        assert!(backend.one(order("k10", "create", "local", json!({}))).entity_id.is_some());
    }
}

/// Puts something and then says that it does not know the action.
#[derive(Debug)]
struct Untidy;

impl Policy for Untidy {
    fn action(&self, tenant: &str, task: &Task, room: &mut ActionRoom<'_, '_>) -> Result<(), ActionError> {
        room.put("litter", "1", Fields::new());
        landfall_server::NoPolicy.action(tenant, task, room)
    }
}

#[test]
fn a_policy_that_does_not_know_an_action_leaves_nothing_to_the_next() {
    for mut backend in Backend::both_with(Arc::new(Policies::new().with(Untidy).with(Increment))) {
        backend.one(task("k1", "create", json!({})));
        let done = backend.one(task("k2", "action", json!({"action": "increment", "fields": {"n": 1}})));
        assert_eq!(done.status, Status::Applied);
        assert_eq!(backend.entity("litter", "1").unwrap_err().status, 404);
    }
}

#[test]
fn the_effect_log_names_every_execution_once() {
    let mut records = MemoryRecords::new("db");
    let request = serde_json::from_value(support::first_push(&[
        task("k1", "create", json!({"fields": {"a": 1}})),
        task("k2", "update", json!({"fields": {"a": 2}, "unset": ["b"], "base_version": "9"})),
        task("k3", "update", json!({"fields": {"a": 2}, "unset": ["b"], "base_version": "1"})),
        task("k4", "delete", json!({})),
        task("k5", "delete", json!({})),
    ]))
    .unwrap();
    push(&mut records, &request).unwrap();
    push(&mut records, &request).unwrap();
    let told: Vec<_> = records
        .effects()
        .iter()
        .map(|Effect { key, version, changed, .. }| (key.as_str(), version.unwrap(), *changed))
        .collect();
    assert_eq!(told, [("k1", 1, true), ("k3", 2, true), ("k4", 3, true), ("k5", 3, false)]);
    assert_eq!(records.effects()[1].touched, ["a", "b"]);
    assert_eq!(records.all_seen().count(), 5);
    assert_eq!(records.all_clients().collect::<Vec<_>>(), [("c", 1)]);
    assert_eq!(records.last_version(), 3);
}
