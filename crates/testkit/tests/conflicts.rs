//! What comes out when two sides change one record: one promise a test, shown by one line of events.
//!
//! The rules as pure functions are tested in `crates/core/tests`; here the machine carries them out: what the app sees,
//! what is sent, what is written down, what waits. Many tests meet the conflict both ways, see [`BOTH_WAYS`].
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use bench::{Bench, applied, body, capabilities, gone, note, reply, theirs};
use landfall_core::adapter::{Applied, Capabilities, EffectClass, Outcome, PushReply, Rejection};
use landfall_core::change::Change;
use landfall_core::config::{Config, ConflictConfig};
use landfall_core::conflict::{
    Choice, ConflictDetector, DecidedBy, Detected, Detector, Found, Resolution, ResolveError, Why,
};
use landfall_core::entity::{Body, RemoteEntity};
use landfall_core::event::Event;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::ConflictId;
use landfall_core::inspect::{EntityStatus, dirty_fields};
use landfall_core::machine::Enqueued;
use landfall_core::merge::BaseValue;
use landfall_core::merge::rule::{Answer, DeletePolicy, Rules, Strategy, Validator};
use landfall_core::task::{Task, Verdict};
use landfall_core::time::{Hlc, Timestamp};
use landfall_core::value::{Fields, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A conflict comes to light when the backend refuses what was sent, or when a remote state comes in over a change that
/// was never sent. What becomes of the record must not depend on which it was.
const BOTH_WAYS: [Found; 2] = [Found::Push, Found::Pull];

impl Bench {
    /// The backend has this note at version 1, and this device knows it whole.
    fn knows(mut self, json: &str) -> Self {
        self.hear(theirs("1", json, "1"));
        self
    }

    /// The change of a note meets another state of it. Afterwards a session runs.
    fn meets(&mut self, found: Found, remote: RemoteEntity) {
        match found {
            Found::Push => {
                self.sync();
                let batch = self.last_sent();
                self.outcome(&batch, &Outcome::Conflict { remote: Some(remote) });
            }
            Found::Pull => {
                self.hear(remote);
                self.sync();
            }
        }
    }

    /// What was sent after the conflict: the payloads of the tasks in it.
    fn sent_after(&self, found: Found) -> Vec<String> {
        let batches = self.sent.iter().skip(usize::from(found == Found::Push));
        batches.flat_map(|batch| &batch.tasks).map(|task| task.payload.to_string()).collect()
    }

    fn emitted(&self, test: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| test(event)).count()
    }
}

fn custom_rules(answer: Answer) -> Rules {
    let mut rules = Rules::new(Strategy::Custom("mine".into()));
    rules.resolver("mine", move |_| answer.clone());
    rules
}

fn declared(strategy: Strategy, declarations: &[&str]) -> Rules {
    let mut rules = Rules::new(strategy);
    rules.resolver("longer", |dispute| match (dispute.local, dispute.remote) {
        (Some(Value::Text(ours)), Some(Value::Text(theirs))) if ours.len() > theirs.len() => Answer::Local,
        _ => Answer::Remote,
    });
    for declaration in declarations {
        rules.declare(declaration).unwrap();
    }
    rules
}

fn asking() -> Bench {
    Bench::ruled(Rules::new(Strategy::Ask))
}

/// A note whose `a` both sides have changed, waiting for a person.
fn waiting(found: Found) -> Bench {
    let mut bench = asking().knows(r#"{"a":"base","b":1,"c":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", "ours").set("c", 2)).unwrap();
    bench.meets(found, theirs("1", r#"{"a":"theirs","b":2,"c":1}"#, "2"));
    bench
}

fn choices<const N: usize>(choices: [(&str, Choice); N]) -> Resolution {
    Resolution::Fields(choices.into_iter().map(|(path, choice)| (path.to_owned(), choice)).collect())
}

// ---- fields -----------------------------------------------------------------------------------------------------------

#[test]
fn every_strategy_decides_a_field_that_both_sides_changed() {
    use Strategy::{Ask, ClientWins, FieldMerge, Fork, LastWriteWins, ServerWins};
    let ours = r#"{"a":"ours","b":2}"#;
    let theirs_now = r#"{"a":"theirs","b":2}"#;
    let sends_ours = Some(r#""base_version":"2","fields":{"a":"ours"}"#);
    let both = || custom_rules(Answer::Value("both".into()));
    let table = [
        // rules, what the app sees, what is sent after it, what waits
        (Rules::new(LastWriteWins), ours, sends_ours, 0),
        (Rules::new(FieldMerge), ours, sends_ours, 0),
        (Rules::new(ClientWins), ours, sends_ours, 0),
        (Rules::new(ServerWins), theirs_now, None, 0),
        (both(), r#"{"a":"both","b":2}"#, Some(r#""base_version":"2","fields":{"a":"both"}"#), 0),
        (custom_rules(Answer::Remote), theirs_now, None, 0),
        (custom_rules(Answer::Remove), r#"{"b":2}"#, Some(r#""fields":{},"unset":["a"]"#), 0),
        (custom_rules(Answer::Ask), ours, None, 1),
        (Rules::new(Ask), ours, None, 1),
        (Rules::new(Fork), theirs_now, Some(r#""operation":"create","fields":{"a":"ours","b":1}"#), 0),
    ];
    for (rules, view, sends, waits) in table {
        for found in BOTH_WAYS {
            let told = format!("{:?} {found:?}", rules.strategy);
            let mut bench = Bench::ruled(rules.clone()).knows(r#"{"a":"base","b":1}"#);
            let receipt = bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
            bench.meets(found, theirs("1", r#"{"a":"theirs","b":2}"#, "2"));
            assert_eq!(bench.view("1"), view, "{told}");
            let sent = bench.sent_after(found);
            assert_eq!(sent.len(), usize::from(sends.is_some()), "{told}: {sent:?}");
            if let Some(sends) = sends {
                assert!(sent[0].contains(sends), "{told}: {}", sent[0]);
            }
            assert_eq!(bench.counts().conflict, waits, "{told}");

            let conflict = bench.conflict();
            assert_eq!((conflict.found, &conflict.why), (found, &Why::Fields), "{told}");
            assert_eq!(conflict.rule, rules.strategy.to_string(), "{told}");
            assert_eq!(conflict.is_open(), waits == 1, "{told}");
            let is_it = |event: &&Event| matches!(event, Event::Conflicted { conflict: id, .. } if *id == conflict.id);
            assert_eq!(bench.events.iter().filter(is_it).count(), 1, "{told}: the app hears of it once");
            let forks = bench.events.iter().filter_map(|event| match event {
                Event::Forked { to, .. } => Some(to.clone()),
                _ => None,
            });
            let forked_to = conflict.settled.as_ref().and_then(|settled| settled.forked_to.clone());
            assert_eq!(forks.collect::<Vec<_>>(), forked_to.into_iter().collect::<Vec<_>>(), "{told}");
            assert_eq!(conflict.base.unwrap().body, body(r#"{"a":"base","b":1}"#), "{told}");
            assert_eq!(conflict.local, body(r#"{"a":"ours","b":1}"#), "{told}");
            assert_eq!(conflict.remote.unwrap().body, body(r#"{"a":"theirs","b":2}"#), "{told}");
            assert_eq!(conflict.fields.len(), 1, "{told}");
            assert!(conflict.change.contains(r#""fields":{"a":"ours"}"#), "{told}: {}", conflict.change);
            if waits == 0 {
                let settled = conflict.settled.unwrap();
                assert_eq!((settled.by, settled.result), (DecidedBy::Rule, body(view)), "{told}");
                let verdict = match (rules.strategy == Fork, sends, found) {
                    (true, _, _) => Some(Verdict::Forked),
                    (false, None, _) => Some(Verdict::ResolvedToRemote),
                    (false, Some(_), Found::Push) => Some(Verdict::Rebased),
                    (false, Some(_), Found::Pull) => None,
                };
                assert_eq!(bench.verdict(receipt), verdict, "{told}");
            }
        }
    }
}

#[test]
fn every_field_rule_keeps_what_it_can_and_what_it_sets_aside_is_written_down() {
    let lines = |one: u8, two: u8| format!(r#"[{{"id":1,"n":{one}}},{{"id":2,"n":{two}}}]"#);
    let table: &[(&str, &str, &str, &str, &str, bool)] = &[
        // rule, base, local, remote, result, whether it waits
        ("lww", r#""b""#, r#""l""#, r#""r""#, r#""l""#, false),
        ("server", r#""b""#, r#""l""#, r#""r""#, r#""r""#, false),
        ("client", r#""b""#, r#""l""#, r#""r""#, r#""l""#, false),
        ("max", "1", "5", "3", "5", false),
        ("max", "1", "3", "5", "5", false),
        ("min", "9", "5", "3", "3", false),
        ("counter", "10", "12", "11", "13", false),
        ("grow_set", r#"["a"]"#, r#"["a","l"]"#, r#"["a","r"]"#, r#"["a","r","l"]"#, false),
        ("grow_set", r#"["a"]"#, r#"["l"]"#, r#"["a","r"]"#, r#"["a","r","l"]"#, false),
        ("or_set", r#"["a","b"]"#, r#"["a","b","l"]"#, r#"["b","r"]"#, r#"["b","r","l"]"#, false),
        ("keyed_list(id)", &lines(1, 1), &lines(2, 1), &lines(1, 3), &lines(2, 3), false),
        (
            "text",
            r#""First.\n\nSecond.""#,
            r#""First, by us.\n\nSecond.""#,
            r#""First.\n\nSecond, by them.""#,
            r#""First, by us.\n\nSecond, by them.""#,
            false,
        ),
        ("immutable", r#""b""#, r#""l""#, r#""r""#, r#""r""#, false),
        ("custom(longer)", r#""b""#, r#""longest""#, r#""long""#, r#""longest""#, false),
        ("ask", r#""b""#, r#""l""#, r#""r""#, r#""l""#, true),
    ];
    for (rule, base, local, remote, result, waits) in table {
        for found in BOTH_WAYS {
            let told = format!("{rule} {found:?}");
            let record = |value: &str| format!(r#"{{"f":{value},"other":1}}"#);
            let declaration = format!("note.f={rule}");
            let rules = declared(Strategy::FieldMerge, &[&declaration]);
            let mut bench = Bench::ruled(rules).knows(&record(base));
            bench.enqueue(Change::update("note", "1").set("f", Value::parse(local).unwrap())).unwrap();
            bench.meets(found, theirs("1", &record(remote), "2"));
            assert_eq!(bench.local("note", "1"), Some(body(&record(result))), "{told}");
            assert_eq!(bench.counts().conflict, u64::from(*waits), "{told}");
            let clean = Value::parse(result).unwrap() == Value::parse(remote).unwrap();
            assert_eq!(bench.sent_after(found).is_empty(), *waits || clean, "{told}");

            // G7: whatever was set aside can be read afterwards.
            let conflict = bench.conflict();
            assert_eq!(conflict.local, body(&record(local)), "{told}");
            assert_eq!(conflict.remote.unwrap().body, body(&record(remote)), "{told}");
            let field = &conflict.fields[0];
            assert_eq!(field.base, BaseValue::Present(Value::parse(base).unwrap()), "{told}");
            assert_eq!(field.local, Some(Value::parse(local).unwrap()), "{told}");
            assert_eq!(field.remote, Some(Value::parse(remote).unwrap()), "{told}");
            assert_eq!(field.rule.to_string(), *rule, "{told}");
        }
    }
}

#[test]
fn different_fields_are_merged_without_a_conflict() {
    for strategy in
        ["last_write_wins", "server_wins", "client_wins", "field_merge", "ask", "fork", "custom(x)"]
    {
        for found in BOTH_WAYS {
            let told = format!("{strategy} {found:?}");
            let rules = Rules::new(Strategy::parse(strategy).unwrap());
            let mut bench = Bench::ruled(rules).knows(r#"{"a":1,"b":1}"#);
            bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
            bench.meets(found, theirs("1", r#"{"a":1,"b":2}"#, "2"));
            assert_eq!(bench.view("1"), r#"{"a":2,"b":2}"#, "{told}");
            let sent = bench.last_payload();
            assert!(sent.contains(r#""base_version":"2","fields":{"a":2}"#), "{told}: {sent}");
            assert!(bench.conflicts().is_empty(), "{told}");
        }
    }
}

#[test]
fn both_sides_with_the_same_value_have_nothing_left_to_send() {
    for (found, verdict) in [(Found::Push, Verdict::ResolvedToRemote), (Found::Pull, Verdict::NoChange)] {
        let mut bench = asking().knows(r#"{"a":1,"b":1}"#);
        let receipt = bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.meets(found, theirs("1", r#"{"a":2,"b":1}"#, "2"));
        assert!(bench.sent_after(found).is_empty(), "{found:?}");
        assert!(bench.conflicts().is_empty(), "{found:?}");
        assert_eq!(bench.verdict(receipt), Some(verdict));
        assert_eq!(bench.status("1"), EntityStatus::Synced);
    }
}

#[test]
fn a_rule_for_the_client_never_touches_a_clean_field() {
    let mut bench_rules = Rules::new(Strategy::ClientWins);
    bench_rules.declare("note.a=client").unwrap();
    for found in BOTH_WAYS {
        let mut bench = Bench::ruled(bench_rules.clone()).knows(r#"{"a":1,"b":1}"#);
        bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
        bench.meets(found, theirs("1", r#"{"a":9,"b":9}"#, "2"));
        assert_eq!(bench.view("1"), r#"{"a":9,"b":2}"#, "{found:?}");
        assert!(bench.last_payload().contains(r#""fields":{"b":2}"#), "{}", bench.last_payload());
    }
}

#[test]
fn a_value_that_is_taken_back_before_it_was_sent_is_clean() {
    let mut bench = Bench::new().knows(r#"{"a":"x"}"#);
    bench.enqueue(Change::update("note", "1").set("a", "y")).unwrap();
    let back = bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap();
    assert_eq!(back.outcome, Enqueued::NoChange);
    bench.sync();
    assert!(bench.sent.is_empty());
    assert!(dirty_fields(&bench.entity("1").unwrap()).is_empty());
}

#[test]
fn a_value_that_is_taken_back_while_something_else_is_on_its_way_is_not_sent() {
    let mut bench = Bench::new().knows(r#"{"a":"x","b":1}"#);
    bench.enqueue(Change::update("note", "1").set("b", 2)).unwrap();
    bench.sync();
    bench.enqueue(Change::update("note", "1").set("a", "y")).unwrap();
    bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap();
    let first = bench.last_sent();
    bench.apply(&first, "2");
    assert_eq!((bench.sent.len(), bench.counts().total()), (1, 0));
    assert_eq!(bench.status("1"), EntityStatus::Synced);
}

#[test]
fn a_value_that_is_taken_back_after_it_was_sent_is_sent_back() {
    let mut bench = Bench::new().knows(r#"{"a":"x"}"#);
    bench.enqueue(Change::update("note", "1").set("a", "y")).unwrap();
    bench.sync();
    let first = bench.last_sent();
    bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap();
    assert_eq!(bench.view("1"), r#"{"a":"x"}"#);
    bench.apply(&first, "2");
    assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":"x"}"#));
    let second = bench.last_sent();
    bench.apply(&second, "3");
    assert!(dirty_fields(&bench.entity("1").unwrap()).is_empty());
}

#[test]
fn a_value_that_is_taken_back_after_the_backend_took_it_over_is_a_change() {
    let mut bench = Bench::new().knows(r#"{"a":"x"}"#);
    bench.enqueue(Change::update("note", "1").set("a", "y")).unwrap();
    bench.hear(theirs("1", r#"{"a":"y"}"#, "2"));
    assert_eq!(bench.counts().total(), 0, "both sides have the same");
    bench.enqueue(Change::update("note", "1").set("a", "x")).unwrap();
    bench.sync();
    assert!(bench.last_payload().contains(r#""fields":{"a":"x"}"#));
}

#[test]
fn absent_differs_from_null() {
    for found in BOTH_WAYS {
        let mut bench = asking().knows(r#"{"a":1,"b":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", Value::Null)).unwrap();
        bench.meets(found, theirs("1", r#"{"b":1}"#, "2"));
        let conflict = bench.conflict();
        assert!(conflict.is_open(), "null here and absent there are not the same");
        assert_eq!((&conflict.fields[0].local, &conflict.fields[0].remote), (&Some(Value::Null), &None));

        let mut bench = asking().knows(r#"{"a":1,"b":1}"#);
        bench.enqueue(Change::update("note", "1").unset("a")).unwrap();
        bench.meets(found, theirs("1", r#"{"a":null,"b":1}"#, "2"));
        let conflict = bench.conflict();
        assert_eq!((&conflict.fields[0].local, &conflict.fields[0].remote), (&None, &Some(Value::Null)));
        bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
        bench.sync();
        assert!(bench.last_payload().contains(r#""unset":["a"]"#));
    }
}

#[test]
fn a_group_of_fields_is_never_torn() {
    let table = [
        (Strategy::FieldMerge, "note.amount+currency=lww", r#"{"amount":2,"currency":"EUR"}"#),
        (Strategy::ServerWins, "note.amount+currency=client", r#"{"amount":2,"currency":"EUR"}"#),
        (Strategy::ClientWins, "note.amount+currency=server", r#"{"amount":1,"currency":"USD"}"#),
        (Strategy::FieldMerge, "note.amount+currency=ask", r#"{"amount":2,"currency":"EUR"}"#),
    ];
    for (strategy, group, result) in table {
        for found in BOTH_WAYS {
            let rules = declared(strategy.clone(), &[group]);
            let mut bench = Bench::ruled(rules).knows(r#"{"amount":1,"currency":"EUR"}"#);
            // Each side changed another member: field by field that would be 2 USD, which nobody ever wrote.
            bench.enqueue(Change::update("note", "1").set("amount", 2)).unwrap();
            bench.meets(found, theirs("1", r#"{"amount":1,"currency":"USD"}"#, "2"));
            assert_eq!(bench.view("1"), result, "{group} {found:?}");
            let conflict = bench.conflict();
            assert!(conflict.fields.iter().all(|field| field.group.as_deref() == Some("amount+currency")));
            if conflict.is_open() {
                // Choosing for one member chooses for all.
                bench.resolve(&conflict, &choices([("amount", Choice::Remote)])).unwrap();
                assert_eq!(bench.view("1"), r#"{"amount":1,"currency":"USD"}"#, "{found:?}");
            }
        }
    }
}

#[test]
fn a_mixture_that_the_validator_refuses_waits() {
    let mut rules = Rules::new(Strategy::FieldMerge);
    rules.entity("note").validator = Some(Validator::new(|fields: &Fields| {
        let text = fields.to_json();
        if text == r#"{"end":3,"start":4}"# { Err("it ends before it starts".into()) } else { Ok(()) }
    }));
    for found in BOTH_WAYS {
        let mut bench = Bench::ruled(rules.clone()).knows(r#"{"start":1,"end":5}"#);
        bench.enqueue(Change::update("note", "1").set("start", 4)).unwrap();
        bench.meets(found, theirs("1", r#"{"start":1,"end":3}"#, "2"));
        assert!(bench.sent_after(found).is_empty());
        let conflict = bench.conflict();
        assert_eq!(conflict.why, Why::Refused("it ends before it starts".into()));
        let refused = bench.resolve(&conflict, &Resolution::KeepLocal).unwrap_err();
        assert_eq!(refused, ResolveError::Refused("it ends before it starts".into()));
        assert!(bench.conflict().is_open());
        bench.resolve(&conflict, &choices([("end", Choice::Value(9.into()))])).unwrap();
        bench.sync();
        assert_eq!(bench.view("1"), r#"{"end":9,"start":4}"#);
        assert!(bench.last_payload().contains(r#""fields":{"end":9,"start":4}"#));
    }
}

#[test]
fn without_a_base_every_difference_is_a_conflict_and_fields_never_read_stay() {
    // A replace of a record that was never read: nothing is known of what it was made on.
    let mut bench = asking();
    bench.enqueue(Change::replace("note", "1").set("a", "ours").set("same", 1)).unwrap();
    bench.meets(Found::Push, theirs("1", r#"{"a":"theirs","same":1}"#, "2"));
    let conflict = bench.conflict();
    assert_eq!(conflict.fields.len(), 1);
    assert_eq!(conflict.fields[0].base, BaseValue::Unknown);

    // Whoever makes a record says that there was none: what only the other one gave is no clash.
    let mut bench = asking();
    bench.enqueue(Change::create("note", "1").set("a", "ours").set("same", 1)).unwrap();
    bench.meets(Found::Push, theirs("1", r#"{"a":"theirs","same":1,"more":2}"#, "2"));
    let conflict = bench.conflict();
    assert_eq!(conflict.fields.len(), 1);
    assert_eq!(conflict.fields[0].base, BaseValue::Absent);
    assert_eq!(bench.view("1"), r#"{"a":"ours","more":2,"same":1}"#);

    // An update of a record that was never read leaves what it did not name.
    let mut bench = Bench::ruled(Rules::new(Strategy::ClientWins));
    bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
    bench.meets(Found::Push, theirs("1", r#"{"a":"theirs","b":1}"#, "2"));
    assert_eq!(bench.view("1"), r#"{"a":"ours","b":1}"#);
    assert!(bench.last_payload().contains(r#""fields":{"a":"ours"}"#));
}

// ---- deletions --------------------------------------------------------------------------------------------------------

#[test]
fn every_strategy_and_policy_decides_an_edit_of_a_deleted_record() {
    use DeletePolicy::{Ask, DeleteWins, EditWins, Fork};
    let table = [
        // strategy, policy, what the app sees, operation sent, waits
        ("server_wins", None, "deleted", None, 0),
        ("client_wins", None, r#"{"a":2,"b":1}"#, Some("replace"), 0),
        ("last_write_wins", None, r#"{"a":2,"b":1}"#, Some("replace"), 0),
        ("field_merge", None, r#"{"a":2,"b":1}"#, Some("replace"), 0),
        ("ask", None, r#"{"a":2,"b":1}"#, None, 1),
        ("fork", None, "deleted", Some("create"), 0),
        ("client_wins", Some(DeleteWins), "deleted", None, 0),
        ("server_wins", Some(EditWins), r#"{"a":2,"b":1}"#, Some("replace"), 0),
        ("server_wins", Some(Ask), r#"{"a":2,"b":1}"#, None, 1),
        ("server_wins", Some(Fork), "deleted", Some("create"), 0),
    ];
    for (strategy, policy, view, sends, waits) in table {
        for found in BOTH_WAYS {
            let told = format!("{strategy} {policy:?} {found:?}");
            let mut rules = Rules::new(Strategy::parse(strategy).unwrap());
            rules.deletes = policy;
            let mut bench = Bench::ruled(rules).knows(r#"{"a":1,"b":1}"#);
            bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
            bench.meets(found, gone("1", "2"));
            assert_eq!(bench.view("1"), view, "{told}");
            let sent = bench.sent_after(found);
            assert_eq!(sent.len(), usize::from(sends.is_some()), "{told}: {sent:?}");
            if let Some(operation) = sends {
                let whole = format!(r#""operation":"{operation}""#);
                assert!(
                    sent[0].contains(&whole) && sent[0].contains(r#"{"a":2,"b":1}"#),
                    "{told}: {}",
                    sent[0]
                );
            }
            let conflict = bench.conflict();
            assert_eq!(conflict.why, Why::EditedHereDeletedThere, "{told}");
            assert_eq!(conflict.is_open(), waits == 1, "{told}");
            assert_eq!(conflict.local, body(r#"{"a":2,"b":1}"#), "G7, {told}");
            assert_eq!(
                conflict.rule,
                policy.map_or(strategy.to_owned(), |policy| policy.to_string()),
                "{told}"
            );
        }
    }
}

#[test]
fn every_strategy_and_policy_decides_a_deletion_of_an_edited_record() {
    use DeletePolicy::{Ask, DeleteWins, EditWins, Fork};
    let edited = r#"{"a":2,"b":1}"#;
    let table = [
        // strategy, policy, what the app sees, whether the deletion is sent, waits
        ("server_wins", None, edited, false, 0),
        ("client_wins", None, "deleted", true, 0),
        ("last_write_wins", None, "deleted", true, 0),
        ("field_merge", None, edited, false, 0),
        ("ask", None, "deleted", false, 1),
        ("fork", None, edited, false, 0),
        ("server_wins", Some(DeleteWins), "deleted", true, 0),
        ("client_wins", Some(EditWins), edited, false, 0),
        ("client_wins", Some(Ask), "deleted", false, 1),
        ("client_wins", Some(Fork), edited, false, 0),
    ];
    for (strategy, policy, view, sends, waits) in table {
        for found in BOTH_WAYS {
            let told = format!("{strategy} {policy:?} {found:?}");
            let mut rules = Rules::new(Strategy::parse(strategy).unwrap());
            rules.deletes = policy;
            let mut bench = Bench::ruled(rules).knows(r#"{"a":1,"b":1}"#);
            bench.enqueue(Change::delete("note", "1")).unwrap();
            bench.meets(found, theirs("1", edited, "2"));
            assert_eq!(bench.view("1"), view, "{told}");
            let sent = bench.sent_after(found);
            assert_eq!(sent.len(), usize::from(sends), "{told}: {sent:?}");
            if sends {
                assert!(
                    sent[0].contains(r#""operation":"delete","base_version":"2""#),
                    "{told}: {}",
                    sent[0]
                );
            }
            let conflict = bench.conflict();
            assert_eq!(conflict.why, Why::DeletedHereEditedThere, "{told}");
            assert_eq!(conflict.is_open(), waits == 1, "{told}");
            assert_eq!(conflict.remote.unwrap().body, body(edited), "G7, {told}");
        }
    }
}

#[test]
fn a_resolver_may_decide_about_a_deletion_too() {
    let table = [
        // what it says, what the app sees, operation sent
        (Answer::Local, r#"{"a":2}"#, Some("replace")),
        (Answer::Remote, "deleted", None),
        (Answer::Remove, "deleted", None),
        (Answer::Value(Value::parse(r#"{"a":7}"#).unwrap()), r#"{"a":7}"#, Some("replace")),
        // What makes no sense for a record is left to a person.
        (Answer::Value(7.into()), r#"{"a":2}"#, None),
        (Answer::Ask, r#"{"a":2}"#, None),
    ];
    for (answer, view, sends) in table {
        for found in BOTH_WAYS {
            let mut bench = Bench::ruled(custom_rules(answer.clone())).knows(r#"{"a":1}"#);
            bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
            bench.meets(found, gone("1", "2"));
            assert_eq!(bench.view("1"), view, "{answer:?}");
            let sent = bench.sent_after(found);
            let operation = sent.first().map(|payload| payload.contains(r#""operation":"replace""#));
            assert_eq!(operation, sends.map(|_| true), "{answer:?}: {sent:?}");
        }
    }
}

#[test]
fn a_record_that_both_sides_deleted_is_deleted_and_no_conflict() {
    for found in BOTH_WAYS {
        let mut bench = asking().knows(r#"{"a":1}"#);
        bench.enqueue(Change::delete("note", "1")).unwrap();
        bench.meets(found, gone("1", "2"));
        assert_eq!((bench.view("1"), bench.counts().total()), ("deleted".into(), 0));
        assert!(bench.conflicts().is_empty() && bench.sent_after(found).is_empty());
    }
}

#[test]
fn a_record_nobody_touched_here_is_deleted_with_the_backend() {
    let mut bench = asking().knows(r#"{"a":1}"#);
    bench.hear(gone("1", "2"));
    assert_eq!(bench.view("1"), "deleted");
    assert!(bench.conflicts().is_empty());
}

// ---- sending and rebasing ---------------------------------------------------------------------------------------------

#[test]
fn an_edit_during_a_push_is_sent_once_on_top_of_a_state_that_came_in_meanwhile() {
    let mut bench = Bench::new();
    bench.enqueue(Change::create("note", "1").set("a", 1).set("b", 1)).unwrap();
    bench.sync();
    let create = bench.last_sent();
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.hear(theirs("1", r#"{"a":7,"b":5}"#, "9"));
    assert_eq!(bench.view("1"), r#"{"a":2,"b":1}"#, "nothing is merged while a fate is open");
    bench.apply(&create, "8");
    assert_eq!(bench.view("1"), r#"{"a":2,"b":5}"#);
    assert!(
        bench.last_payload().contains(r#""base_version":"9","fields":{"a":2}"#),
        "{}",
        bench.last_payload()
    );
    assert_eq!(bench.conflict().fields[0].remote, Some(7.into()), "G7");
    let update = bench.last_sent();
    bench.apply(&update, "10");
    assert_eq!((bench.sent.len(), bench.counts().total()), (2, 0));
    assert_eq!(bench.status("1"), EntityStatus::Synced);
}

#[test]
fn a_state_that_came_in_while_a_fate_was_unknown_is_merged_at_the_verdict() {
    let verdicts: [(&str, Outcome, &str); 3] = [
        ("applied", applied("2"), r#"{"a":2,"b":5}"#),
        ("duplicate", Outcome::Duplicate(Default::default()), r#"{"a":2,"b":5}"#),
        (
            "conflict",
            Outcome::Conflict { remote: Some(theirs("1", r#"{"a":2,"b":4}"#, "2")) },
            r#"{"a":2,"b":5}"#,
        ),
    ];
    for (name, verdict, view) in verdicts {
        let mut bench = Bench::new().knows(r#"{"a":1,"b":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
        assert_eq!(bench.status("1"), EntityStatus::FateUnknown);
        bench.hear(theirs("1", r#"{"a":2,"b":5}"#, "3"));
        assert_eq!(bench.view("1"), r#"{"a":2,"b":1}"#, "{name}: it may hold our own effect");
        assert!(bench.entity("1").unwrap().staged.is_some());
        bench.wait(Duration::from_secs(3600));
        let again = bench.last_sent();
        bench.outcome(&again, &verdict);
        assert_eq!(bench.view("1"), view, "{name}");
        assert!(bench.entity("1").unwrap().staged.is_none(), "{name}");
        assert!(bench.conflicts().is_empty(), "{name}: it would be a conflict with ourselves");
        assert_eq!(bench.sent.len(), 2, "{name}");
    }
}

#[test]
fn a_state_staged_for_a_send_that_never_left_is_merged_when_the_task_melts() {
    let mut bench = Bench::new().knows(r#"{"a":1,"b":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.hear(theirs("1", r#"{"a":1,"b":5}"#, "3"));
    bench.fail(&batch, FailureKind::Unreachable, Delivery::NotSent);
    assert_eq!(bench.view("1"), r#"{"a":2,"b":5}"#);
    bench.wait(Duration::from_secs(3600));
    assert!(bench.last_payload().contains(r#""base_version":"3""#));
    assert_ne!(bench.last_sent().tasks[0].payload, batch.tasks[0].payload);
}

#[test]
fn a_rebased_change_has_its_own_generation_task_id_and_key() {
    let mut bench = Bench::new().knows(r#"{"a":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let before = bench.tasks().remove(0);
    bench.meets(Found::Push, theirs("1", r#"{"a":9}"#, "2"));
    let after = bench.tasks().remove(0);
    let (first, second) = (bench.sent[0].tasks[0].clone(), bench.sent[1].tasks[0].clone());
    assert!(after.generation > before.generation);
    assert_eq!(after.seq, before.seq, "it keeps its place");
    assert_ne!(first.task_id, second.task_id);
    assert_ne!(first.key, second.key);
    assert_ne!(first.payload, second.payload);
    assert_eq!((after.attempts, second.attempt), (0, 0));
    // A late answer to the first finds nobody.
    let settled = bench.counts();
    bench.apply(&bench.sent[0].clone(), "77");
    assert_eq!(bench.counts(), settled);
}

#[test]
fn a_quarrel_ends_in_the_inbox_and_can_be_settled() {
    let conflicts = ConflictConfig { rounds_max: 3, ..ConflictConfig::default() };
    let mut bench = Bench::with(Config { conflicts, ..Config::default() }, EffectClass::OneEffect);
    bench = bench.knows(r#"{"a":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for round in 0..4 {
        let batch = bench.last_sent();
        let version = format!("{}", round + 2);
        let remote = theirs("1", &format!(r#"{{"a":{}}}"#, round + 10), &version);
        bench.outcome(&batch, &Outcome::Conflict { remote: Some(remote) });
    }
    assert_eq!((bench.sent.len(), bench.counts().conflict), (4, 1));
    let conflict = bench.inbox().remove(0);
    assert_eq!(conflict.why, Why::TooManyRounds);
    assert_eq!(bench.view("1"), r#"{"a":1}"#);
    // Another state does not make the rules decide after all.
    bench.hear(theirs("1", r#"{"a":99}"#, "99"));
    assert_eq!(bench.inbox()[0].id, conflict.id);
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    bench.sync();
    assert!(bench.last_payload().contains(r#""base_version":"99","fields":{"a":1}"#));
    // Somebody has looked at it: what comes back now is decided by the rules again.
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(theirs("1", r#"{"a":100}"#, "100")) });
    assert_eq!(bench.counts().conflict, 0);
    let batch = bench.last_sent();
    bench.apply(&batch, "101");
    assert_eq!(bench.counts().total(), 0);
}

// ---- what counts as a conflict ----------------------------------------------------------------------------------------

#[test]
fn a_refusal_that_means_that_the_record_moved_on_is_a_conflict() {
    let refusal =
        |code: &str| Outcome::Rejected(Rejection { code: code.into(), message: "no".into(), answer: None });
    for code in ["conflict", "version_mismatch", "version_conflict", "precondition_failed", "stale"] {
        let mut bench = Bench::new().knows(r#"{"a":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.outcome(&batch, &refusal(code));
        assert_eq!((bench.counts().conflict, bench.counts().dead), (1, 0), "{code}");
        bench.fetched(Ok(Some(theirs("1", r#"{"a":9}"#, "2"))));
        assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#), "{code}");
    }
    let mut bench = Bench::new().knows(r#"{"a":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &refusal("too_silly"));
    assert_eq!((bench.counts().conflict, bench.counts().dead), (0, 1));
}

#[test]
fn an_app_may_say_what_counts_as_a_conflict() {
    #[derive(Debug)]
    struct Locked;
    impl ConflictDetector for Locked {
        fn detect(&self, task: &Task, outcome: &Outcome) -> Option<Detected> {
            match outcome {
                Outcome::Conflict { remote } => Some(Detected { remote: remote.clone() }),
                Outcome::Rejected(refusal) if refusal.code == "E42" => {
                    Some(Detected { remote: Some(theirs(&task.entity.entity_id, r#"{"a":9}"#, "2")) })
                }
                // A backend that says yes and flags that it kept its own.
                Outcome::Applied(Applied { fields: Some(fields), .. }) if fields.value("lost").is_some() => {
                    Some(Detected { remote: Some(theirs(&task.entity.entity_id, r#"{"a":9}"#, "2")) })
                }
                _ => None,
            }
        }
    }
    let flagged = Applied { fields: Some(Fields::from([("lost", true)])), ..Applied::default() };
    for outcome in [
        Outcome::Rejected(Rejection { code: "E42".into(), message: "no".into(), answer: None }),
        Outcome::Applied(flagged),
    ] {
        let detector = Detector(std::sync::Arc::new(Locked));
        let conflicts = ConflictConfig { detector, ..ConflictConfig::default() };
        let mut bench = Bench::with(Config { conflicts, ..Config::default() }, EffectClass::OneEffect);
        bench = bench.knows(r#"{"a":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.outcome(&batch, &outcome);
        assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#));
        assert_eq!(bench.conflict().fields[0].remote, Some(9.into()));
    }
}

#[test]
fn a_conflict_without_a_remote_state_asks_for_it_and_goes_on() {
    let table = [
        // what the backend has, what the app sees, what is sent
        (
            Some(theirs("1", r#"{"a":9,"b":2}"#, "2")),
            r#"{"a":2,"b":2}"#,
            r#""base_version":"2","fields":{"a":2}"#,
        ),
        // Refused, and yet what we know is what the backend has: the change goes on as it is.
        (
            Some(theirs("1", r#"{"a":1,"b":1}"#, "1")),
            r#"{"a":2,"b":1}"#,
            r#""base_version":"1","fields":{"a":2}"#,
        ),
        (None, r#"{"a":2,"b":1}"#, r#""operation":"replace","fields":{"a":2,"b":1}"#),
    ];
    for (remote, view, sends) in table {
        let mut bench = Bench::new().knows(r#"{"a":1,"b":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        bench.outcome(&batch, &Outcome::Conflict { remote: None });
        assert_eq!(bench.conflict().why, Why::RemoteUnknown);
        let conflict = bench.conflict();
        assert_eq!(bench.resolve(&conflict, &Resolution::KeepLocal), Err(ResolveError::RemoteUnknown));
        assert_eq!(bench.fetches.len(), 1);
        bench.fetched(Ok(remote));
        assert_eq!(bench.view("1"), view);
        assert!(bench.last_payload().contains(sends), "{}", bench.last_payload());
        assert_ne!(bench.last_sent().tasks[0].key, batch.tasks[0].key);
        assert!(!bench.conflict().is_open());
    }
}

#[test]
fn a_conflict_whose_remote_state_cannot_be_asked_for_waits_until_it_comes_in() {
    let mut bench = Bench::new().knows(r#"{"a":1,"b":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: None });
    bench.fetched(Err(Failure::new(FailureKind::Unsupported, Delivery::NotSent, "cannot")));
    assert_eq!(bench.counts().conflict, 1);
    assert!(bench.fetches.is_empty(), "not asked again and again in one session");
    bench.hear(theirs("1", r#"{"a":9,"b":2}"#, "2"));
    bench.sync();
    assert_eq!(bench.view("1"), r#"{"a":2,"b":2}"#);
    assert!(bench.last_payload().contains(r#""base_version":"2","fields":{"a":2}"#));
}

// ---- the inbox --------------------------------------------------------------------------------------------------------

#[test]
fn a_waiting_conflict_blocks_its_own_record_only() {
    for found in BOTH_WAYS {
        let mut bench = waiting(found);
        assert_eq!((bench.status("1"), bench.status("2")), (EntityStatus::Conflict, EntityStatus::Unknown));
        assert!(bench.reports.last().unwrap().needs_attention());
        bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
        bench.enqueue(Change::update("note", "1").set("c", 3)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        assert_eq!(batch.tasks.len(), 1);
        assert_eq!(batch.tasks[0].entity, note("2"));
        bench.apply(&batch, "1");
        assert_eq!(bench.status("2"), EntityStatus::Synced);
        let report = bench.reports.last().unwrap();
        assert!(report.waiting_for.as_ref().unwrap().contains("decision"), "{report:?}");
    }
}

#[test]
fn edits_behind_a_waiting_conflict_are_kept_and_laid_over_whatever_comes() {
    for found in BOTH_WAYS {
        let mut bench = waiting(found);
        bench.enqueue(Change::update("note", "1").set("d", 7)).unwrap();
        assert_eq!(bench.view("1"), r#"{"a":"ours","b":2,"c":2,"d":7}"#);
        bench.hear(theirs("1", r#"{"a":"theirs","b":3,"c":1,"e":3}"#, "3"));
        assert_eq!(bench.view("1"), r#"{"a":"ours","b":3,"c":2,"d":7,"e":3}"#);
        let conflict = bench.conflict();
        bench.resolve(&conflict, &Resolution::ReplaceWithRemote).unwrap();
        assert_eq!(bench.view("1"), r#"{"a":"theirs","b":3,"c":1,"d":7,"e":3}"#);
        bench.sync();
        let sent = bench.last_payload();
        assert!(sent.contains(r#""base_version":"3","fields":{"d":7}"#), "{sent}");
    }
}

#[test]
fn every_resolution_does_what_it_says() {
    let ours = r#"{"a":"ours","b":2,"c":2}"#;
    let table = [
        // decision, what the record becomes, what is sent
        (Resolution::KeepLocal, ours, Some(r#""fields":{"a":"ours","c":2}"#)),
        (Resolution::KeepRemote, r#"{"a":"theirs","b":2,"c":2}"#, Some(r#""fields":{"c":2}"#)),
        (
            Resolution::ReplaceWithLocal,
            r#"{"a":"ours","b":1,"c":2}"#,
            Some(r#""fields":{"a":"ours","b":1,"c":2}"#),
        ),
        (Resolution::ReplaceWithRemote, r#"{"a":"theirs","b":2,"c":1}"#, None),
        (choices([("a", Choice::Local)]), ours, Some(r#""fields":{"a":"ours","c":2}"#)),
        (choices([("a", Choice::Remote)]), r#"{"a":"theirs","b":2,"c":2}"#, Some(r#""fields":{"c":2}"#)),
        (
            choices([("a", Choice::Value("mid".into()))]),
            r#"{"a":"mid","b":2,"c":2}"#,
            Some(r#""fields":{"a":"mid","c":2}"#),
        ),
        (choices([("a", Choice::Remove)]), r#"{"b":2,"c":2}"#, Some(r#""fields":{"c":2},"unset":["a"]"#)),
        // A field that is not contested may be chosen too.
        (
            choices([("a", Choice::Remote), ("b", Choice::Local), ("c", Choice::Remote)]),
            r#"{"a":"theirs","b":1,"c":1}"#,
            Some(r#""fields":{"b":1}"#),
        ),
        (Resolution::Fields(BTreeMap::new()), ours, Some(r#""fields":{"a":"ours","c":2}"#)),
        (
            Resolution::Edit(body(r#"{"a":"new"}"#)),
            r#"{"a":"new"}"#,
            Some(r#""fields":{"a":"new"},"unset":["b","c"]"#),
        ),
        (Resolution::Edit(Body::Deleted), "deleted", Some(r#""operation":"delete","base_version":"2""#)),
        (
            Resolution::Fork,
            r#"{"a":"theirs","b":2,"c":1}"#,
            Some(r#""operation":"create","fields":{"a":"ours","b":2,"c":2}"#),
        ),
    ];
    for (resolution, result, sends) in table {
        for found in BOTH_WAYS {
            let told = format!("{resolution:?} {found:?}");
            let mut bench = waiting(found);
            let conflict = bench.conflict();
            let resolved = bench.resolve(&conflict, &resolution).unwrap();
            assert_eq!((resolved.conflict, &resolved.entity), (conflict.id, &note("1")), "{told}");
            assert_eq!(bench.view("1"), result, "{told}");
            assert!(bench.inbox().is_empty(), "{told}");
            let settled = bench.conflict().settled.unwrap();
            assert_eq!(settled.by, DecidedBy::App, "{told}");
            assert_eq!(Some(&settled.result), bench.local("note", "1").as_ref(), "{told}");
            assert_eq!((settled.sent_as, &settled.forked_to), (resolved.task, &resolved.forks_to), "{told}");
            assert_eq!(bench.emitted(|event| matches!(event, Event::Resolved { .. })), 1, "{told}");
            bench.sync();
            let sent = bench.sent_after(found);
            assert_eq!(sent.len(), usize::from(sends.is_some()), "{told}: {sent:?}");
            if let Some(sends) = sends {
                assert!(sent[0].contains(sends), "{told}: {}", sent[0]);
                let next = bench.last_sent();
                assert!(
                    bench.sent[..bench.sent.len() - 1].iter().all(|b| b.tasks[0].key != next.tasks[0].key)
                );
                bench.apply(&next, "3");
            }
            assert_eq!(bench.counts().total(), 0, "{told}");
            assert_eq!(bench.view("1"), result, "{told}");
        }
    }
}

#[test]
fn a_choice_reaches_into_objects_and_into_items_of_a_list() {
    let mut rules = Rules::new(Strategy::Ask);
    rules.declare("note.lines=keyed_list(id)").unwrap();
    let record = |street: &str, n: u8| {
        format!(r#"{{"at":{{"street":"{street}","zip":1}},"lines":[{{"id":7,"n":{n}}},{{"id":8,"n":1}}]}}"#)
    };
    for (choice, street, n) in [(Choice::Local, "ours", 2), (Choice::Remote, "theirs", 3)] {
        for found in BOTH_WAYS {
            let mut bench = Bench::ruled(rules.clone()).knows(&record("base", 1));
            let Body::Live(ours) = body(&record("ours", 2)) else { unreachable!() };
            bench.enqueue(Change::update("note", "1").fields(ours)).unwrap();
            bench.meets(found, theirs("1", &record("theirs", 3), "2"));
            let conflict = bench.conflict();
            let paths: Vec<String> = conflict.fields.iter().map(|field| field.path.to_string()).collect();
            assert_eq!(paths, ["at.street", "lines", "lines[7].n"], "{found:?}");
            let chosen = choices([("at.street", choice.clone()), ("lines[7].n", choice.clone())]);
            bench.resolve(&conflict, &chosen).unwrap();
            assert_eq!(bench.local("note", "1"), Some(body(&record(street, n))), "{found:?}");
        }
    }
}

#[test]
fn every_resolution_of_a_deletion_does_what_it_says() {
    let edit = |bench: &mut Bench| bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
    let delete = |bench: &mut Bench| bench.enqueue(Change::delete("note", "1")).unwrap();
    let theirs_now = || theirs("1", r#"{"a":9}"#, "2");
    let (keep, take) = (Resolution::KeepLocal, Resolution::KeepRemote);
    let table: [(bool, Resolution, &str, Option<&str>); 11] = [
        // edited here, decision, what the app sees, operation sent
        (true, keep.clone(), r#"{"a":2}"#, Some("replace")),
        (true, take.clone(), "deleted", None),
        (true, Resolution::ReplaceWithLocal, r#"{"a":2}"#, Some("replace")),
        (true, Resolution::ReplaceWithRemote, "deleted", None),
        (true, Resolution::Edit(body(r#"{"a":5}"#)), r#"{"a":5}"#, Some("replace")),
        (true, Resolution::Fork, "deleted", Some("create")),
        (false, keep, "deleted", Some("delete")),
        (false, take, r#"{"a":9}"#, None),
        (false, Resolution::ReplaceWithLocal, "deleted", Some("delete")),
        (false, Resolution::ReplaceWithRemote, r#"{"a":9}"#, None),
        (false, Resolution::Edit(body(r#"{"a":5}"#)), r#"{"a":5}"#, Some("update")),
    ];
    for (edited_here, resolution, view, operation) in table {
        for found in BOTH_WAYS {
            let told = format!("{edited_here} {resolution:?} {found:?}");
            let mut bench = asking().knows(r#"{"a":1}"#);
            if edited_here {
                edit(&mut bench);
                bench.meets(found, gone("1", "2"));
            } else {
                delete(&mut bench);
                bench.meets(found, theirs_now());
            }
            let conflict = bench.conflict();
            bench.resolve(&conflict, &resolution).unwrap();
            bench.sync();
            assert_eq!(bench.view("1"), view, "{told}");
            let sent = bench.sent_after(found);
            let word = operation.map(|operation| format!(r#""operation":"{operation}""#));
            assert_eq!(sent.len(), usize::from(word.is_some()), "{told}: {sent:?}");
            assert!(word.is_none_or(|word| sent[0].contains(&word)), "{told}: {sent:?}");
        }
    }
}

#[test]
fn a_resolution_that_cannot_be_is_refused_with_its_reason_and_changes_nothing() {
    use ResolveError as Error;
    let value = |text: &str| Choice::Value(Value::parse(text).unwrap());
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let table = [
        (choices([("nope", Choice::Local)]), Error::UnknownField("nope".into())),
        (choices([("nope", Choice::Remote)]), Error::UnknownField("nope".into())),
        (choices([("a.inside", Choice::Value(1.into()))]), Error::UnknownField("a.inside".into())),
        (choices([("a..b", Choice::Local)]), Error::BadPath("a..b".into())),
        (choices([("", Choice::Local)]), Error::BadPath(String::new())),
        (
            choices([("a", value(&deep))]),
            Error::BadValue(
                "the field \"a\" is nested more than 60 levels deep; flatten it, or send it as text".into(),
            ),
        ),
    ];
    for found in BOTH_WAYS {
        let mut bench = waiting(found);
        let conflict = bench.conflict();
        for (resolution, expected) in &table {
            assert_eq!(bench.resolve(&conflict, resolution).as_ref(), Err(expected));
        }
        let infinite = Resolution::Edit(Body::Live(Fields::from([("a", f64::INFINITY)])));
        assert!(matches!(bench.resolve(&conflict, &infinite), Err(Error::BadValue(_))));
        let mut other = conflict.clone();
        other.id = ConflictId::parse("00000000-0000-4000-8000-000000000007").unwrap();
        assert_eq!(bench.resolve(&other, &Resolution::KeepLocal), Err(Error::NotFound(other.id)));
        assert_eq!(bench.conflict(), conflict);

        // What is behind it may have deleted the record meanwhile.
        bench.enqueue(Change::delete("note", "1")).unwrap();
        assert_eq!(bench.resolve(&conflict, &Resolution::Fork), Err(Error::NothingToFork));

        let mut bench = asking().knows(r#"{"a":1}"#);
        bench.enqueue(Change::update("note", "1").set("a", 2)).unwrap();
        bench.meets(found, gone("1", "2"));
        let conflict = bench.conflict();
        let chosen = bench.resolve(&conflict, &choices([("a", Choice::Local)]));
        assert_eq!(chosen, Err(Error::DeletedOnOneSide));
    }
}

#[test]
fn a_preview_changes_nothing() {
    for found in BOTH_WAYS {
        let mut bench = waiting(found);
        bench.enqueue(Change::update("note", "1").set("d", 7)).unwrap();
        let before = (bench.tasks(), bench.conflicts(), bench.entity("1"), bench.counts());
        let conflict = bench.conflict();
        for resolution in [Resolution::KeepLocal, Resolution::ReplaceWithRemote, Resolution::Fork] {
            let told = bench.preview(&conflict, &resolution).unwrap();
            assert_eq!((bench.tasks(), bench.conflicts(), bench.entity("1"), bench.counts()), before);
            let mut again = bench.clone_of();
            let done = again.resolve(&conflict, &resolution).unwrap();
            assert_eq!((told.result, told.sends, told.forks_to), (done.result, done.sends, done.forks_to));
        }
    }
}

#[test]
fn a_conflict_can_be_settled_only_once() {
    for found in BOTH_WAYS {
        for resolution in [Resolution::KeepLocal, Resolution::ReplaceWithRemote, Resolution::Fork] {
            let mut bench = waiting(found);
            let conflict = bench.conflict();
            bench.resolve(&conflict, &resolution).unwrap();
            let before = (bench.tasks(), bench.conflicts());
            assert_eq!(bench.resolve(&conflict, &Resolution::KeepRemote), Err(ResolveError::Settled));
            assert_eq!((bench.tasks(), bench.conflicts()), before);
        }
    }
}

#[test]
fn a_waiting_conflict_follows_the_backend() {
    for found in BOTH_WAYS {
        let mut bench = waiting(found);
        let before = bench.conflict();
        bench.hear(theirs("1", r#"{"a":"newer","b":3,"c":1}"#, "3"));
        let after = bench.conflict();
        assert_eq!((after.id, after.at, after.found), (before.id, before.at, before.found));
        assert_eq!(after.remote.as_ref().unwrap().version, Some("3".into()));
        assert_eq!(after.fields[0].remote, Some("newer".into()));
        assert_eq!(after.fields[0].base, before.fields[0].base, "what the change was made on does not move");
        assert_eq!(bench.view("1"), r#"{"a":"ours","b":3,"c":2}"#);
        bench.resolve(&after, &Resolution::KeepLocal).unwrap();
        bench.sync();
        assert!(bench.last_payload().contains(r#""base_version":"3","fields":{"a":"ours","c":2}"#));
    }
}

#[test]
fn a_conflict_whose_clash_vanishes_settles_by_itself() {
    let table = [
        // what the backend has in the end, what is then sent
        (r#"{"a":"ours","b":2,"c":1}"#, Some(r#""base_version":"3","fields":{"c":2}"#)),
        (r#"{"a":"ours","b":2,"c":2}"#, None),
        // It took its own change back.
        (r#"{"a":"base","b":1,"c":1}"#, Some(r#""base_version":"3","fields":{"a":"ours","c":2}"#)),
    ];
    for (remote, sends) in table {
        for found in BOTH_WAYS {
            let mut bench = waiting(found);
            bench.hear(theirs("1", remote, "3"));
            let settled = bench.conflict().settled.expect("it is settled");
            assert_eq!((settled.by, settled.sent_as.is_some()), (DecidedBy::Rule, sends.is_some()));
            assert_eq!(bench.emitted(|event| matches!(event, Event::Resolved { .. })), 1);
            bench.sync();
            let sent = bench.sent_after(found);
            assert_eq!(sent.len(), usize::from(sends.is_some()), "{sent:?}");
            assert!(sends.is_none_or(|sends| sent[0].contains(sends)), "{sent:?}");
        }
    }
}

#[test]
fn several_conflicts_of_one_record_wait_side_by_side_and_are_settled_in_any_order() {
    for later_first in [true, false] {
        let mut bench = asking().knows(r#"{"a":0,"b":0}"#);
        // Two formats of the app's payload, so the two edits stay two tasks.
        bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
        let second = bench.enqueue(Change::update("note", "1").set("b", 1).schema(2)).unwrap();
        bench.hear(theirs("1", r#"{"a":0,"b":9}"#, "2"));
        let later = bench.conflict();
        assert_eq!(Some(later.task_id), second.task);
        bench.meets(Found::Push, theirs("1", r#"{"a":9,"b":9}"#, "3"));
        let mut open = bench.inbox();
        assert_eq!(open.len(), 2, "the later one is still there, and speaks of the newest state");
        assert!(open.iter().any(|conflict| conflict.id == later.id));
        assert_eq!(bench.view("1"), r#"{"a":1,"b":1}"#);
        open.sort_by_key(|conflict| (conflict.id == later.id) != later_first);
        bench.resolve(&open[0], &Resolution::KeepLocal).unwrap();
        let left = bench.inbox();
        assert_eq!(left.len(), 1, "the other one waits on");
        bench.resolve(&left[0], &Resolution::KeepLocal).unwrap();
        assert!(bench.inbox().is_empty());
        assert_eq!(bench.view("1"), r#"{"a":1,"b":1}"#);
        bench.sync();
        assert!(bench.last_payload().contains(r#""base_version":"3","fields":{"a":1}"#));
    }
}

#[test]
fn a_backend_that_never_says_what_it_has_is_not_asked_without_end() {
    let mut bench = Bench::new().knows(r#"{"a":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.sync();
    for _ in 0..30 {
        let batch = bench.last_sent();
        bench.outcome(&batch, &Outcome::Conflict { remote: None });
        if bench.fetches.is_empty() {
            assert_eq!(bench.inbox()[0].why, Why::TooManyRounds);
            return;
        }
        bench.fetched(Ok(Some(theirs("1", r#"{"a":0}"#, "1"))));
    }
    panic!("{} sends, and no end", bench.sent.len());
}

#[test]
fn an_edit_of_what_the_app_saw_behind_a_waiting_conflict_is_no_conflict() {
    let rules = declared(Strategy::ServerWins, &["note.a=ask"]);
    let mut bench = Bench::ruled(rules).knows(r#"{"a":0,"b":1}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    bench.hear(theirs("1", r#"{"a":9,"b":2}"#, "2"));
    bench.enqueue(Change::update("note", "1").set("b", 7).schema(2)).unwrap();
    let conflict = bench.conflict();
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    assert_eq!(bench.view("1"), r#"{"a":1,"b":7}"#);
}

#[test]
fn keep_local_leaves_what_a_rule_made_of_both_sides() {
    let rules = declared(Strategy::Ask, &["note.l=keyed_list(id)", "note.tags=or_set"]);
    let base = r#"{"l":[{"id":7,"n":1},{"id":8,"n":1}],"tags":[]}"#;
    let mut bench = Bench::ruled(rules).knows(base);
    let ours = Value::parse(r#"[{"id":7,"n":2},{"id":8,"n":1}]"#).unwrap();
    let tags = Value::parse(r#"["mine"]"#).unwrap();
    bench.enqueue(Change::update("note", "1").set("l", ours).set("tags", tags)).unwrap();
    bench.hear(theirs("1", r#"{"l":[{"id":7,"n":3},{"id":8,"n":5}],"tags":["hers"]}"#, "2"));
    let conflict = bench.conflict();
    bench.resolve(&conflict, &Resolution::KeepLocal).unwrap();
    assert_eq!(bench.view("1"), r#"{"l":[{"id":7,"n":2},{"id":8,"n":5}],"tags":["hers","mine"]}"#);
}

#[test]
fn a_conflict_that_waits_is_told_again_when_the_other_side_moves() {
    let mut bench = asking().knows(r#"{"a":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", 1)).unwrap();
    let told = |bench: &Bench| bench.emitted(|event| matches!(event, Event::Conflicted { waits: true, .. }));
    bench.hear(theirs("1", r#"{"a":9}"#, "2"));
    assert_eq!(told(&bench), 1);
    bench.hear(theirs("1", r#"{"a":10}"#, "3"));
    assert_eq!(told(&bench), 2);
    bench.hear(theirs("1", r#"{"a":10}"#, "3"));
    assert_eq!(told(&bench), 2, "the same again is no news");
}

#[test]
fn a_resolution_is_no_larger_than_a_change_may_be() {
    let mut bench = waiting(Found::Push);
    let conflict = bench.conflict();
    let large = Body::Live(Fields::from([("a", "x".repeat(5 << 20).as_str())]));
    let refused = bench.resolve(&conflict, &Resolution::Edit(large));
    assert!(matches!(refused, Err(ResolveError::BadValue(_))), "{refused:?}");
    assert!(bench.conflict().is_open());
}

/// What is counted while a conflict waits is counted on top of what the app saw then: the proposal.
#[test]
fn what_is_counted_behind_a_waiting_conflict_adds_up() {
    let mut bench = Bench::ruled(declared(Strategy::LastWriteWins, &["note.n=counter", "note.a=ask"]))
        .knows(r#"{"a":"base","n":0}"#);
    bench.enqueue(Change::update("note", "1").set("a", "ours").set("n", 1)).unwrap();
    bench.meets(Found::Push, theirs("1", r#"{"a":"theirs","n":10}"#, "2"));
    assert_eq!(bench.view("1"), r#"{"a":"ours","n":11}"#);
    bench.enqueue(Change::update("note", "1").set("n", 16)).unwrap();
    bench.hear(theirs("1", r#"{"a":"theirs","n":110}"#, "3"));
    assert_eq!(bench.view("1"), r#"{"a":"ours","n":116}"#);
    let conflict = bench.inbox().remove(0);
    bench.resolve(&conflict, &Resolution::Fields([("a".to_owned(), Choice::Remote)].into())).unwrap();
    assert_eq!(bench.view("1"), r#"{"a":"theirs","n":116}"#);
}

#[test]
fn waiting_conflicts_and_what_is_behind_them_survive_a_restart() {
    let mut bench = waiting(Found::Push);
    bench.enqueue(Change::update("note", "1").set("d", 7)).unwrap();
    bench.crash();
    let conflict = bench.conflict();
    bench.sync();
    assert_eq!(bench.sent.len(), 1);
    bench.resolve(&conflict, &Resolution::KeepRemote).unwrap();
    bench.sync();
    assert_eq!(bench.view("1"), r#"{"a":"theirs","b":2,"c":2,"d":7}"#);
}

#[test]
fn a_record_tells_how_far_it_is_synced_and_which_fields_are_dirty() {
    let mut bench = asking().knows(r#"{"a":1,"b":1}"#);
    assert_eq!((bench.status("nobody"), bench.status("1")), (EntityStatus::Unknown, EntityStatus::Synced));
    bench.enqueue(Change::update("note", "1").set("a", 2).unset("b").set("c", 1)).unwrap();
    assert_eq!(bench.status("1"), EntityStatus::Pending);
    assert!(dirty_fields(&bench.entity("1").unwrap()).into_iter().eq(["a", "b", "c"]));
    bench.sync();
    assert_eq!(bench.status("1"), EntityStatus::InFlight);
    let batch = bench.last_sent();
    bench.fail(&batch, FailureKind::Transient, Delivery::Unknown);
    assert_eq!(bench.status("1"), EntityStatus::FateUnknown);
    bench.wait(Duration::from_secs(3600));
    let batch = bench.last_sent();
    bench.outcome(&batch, &Outcome::Conflict { remote: Some(theirs("1", r#"{"a":9,"b":1}"#, "2")) });
    assert_eq!(bench.status("1"), EntityStatus::Conflict);
    let conflict = bench.conflict();
    bench.resolve(&conflict, &Resolution::KeepRemote).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.outcome(
        &batch,
        &Outcome::Rejected(Rejection { code: "no".into(), message: "never".into(), answer: None }),
    );
    assert_eq!(bench.status("1"), EntityStatus::Dead);
}

// ---- who is newer -----------------------------------------------------------------------------------------------------

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// A device whose clock is `ahead_ms` ahead of the backend's, which does not order writes and has told its time.
fn with_clock(ahead_ms: i64) -> Bench {
    let unordered = Capabilities { orders_writes: false, ..capabilities(EffectClass::OneEffect) };
    let mut bench = Bench::of(Config::default(), unordered);
    // The first thing sent was made before the backend was ever heard of.
    bench.enqueue(Change::create("note", "first").set("a", 1)).unwrap();
    bench.wall_ms += ahead_ms;
    bench.sync();
    let batch = bench.last_sent();
    let server_time = Some(Timestamp(bench.wall_ms - ahead_ms));
    bench.answer(&batch, Ok(PushReply { server_time, ..reply(&batch, &applied("1")) }));
    bench.sent.clear();
    bench.pass(Duration::from_secs(1));
    bench.knows(r#"{"a":"base"}"#)
}

/// What comes out when they wrote so many milliseconds after us, by the backend's clock.
fn written_after_us(bench: &mut Bench, backend_now_ms: i64, later_ms: i64, found: Found) -> String {
    bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
    let changed_at = Some(Hlc { wall_ms: backend_now_ms + later_ms, counter: 0 });
    let remote = RemoteEntity { changed_at, ..theirs("1", r#"{"a":"theirs"}"#, "2") };
    bench.pass(Duration::from_secs(2));
    bench.meets(found, remote);
    bench.view("1")
}

#[test]
fn where_the_backend_orders_no_writes_the_newer_one_wins_and_ties_go_to_the_backend() {
    let (ours, theirs) = (r#"{"a":"ours"}"#, r#"{"a":"theirs"}"#);
    // The device's clock may be wrong by a year: what counts is the backend's.
    for ahead_ms in [0, YEAR_MS, -YEAR_MS] {
        for (later_ms, winner) in [(-1000, ours), (0, theirs), (1000, theirs)] {
            for found in BOTH_WAYS {
                let mut bench = with_clock(ahead_ms);
                let now = bench.wall_ms - ahead_ms;
                let view = written_after_us(&mut bench, now, later_ms, found);
                assert_eq!(view, winner, "ahead {ahead_ms}, they wrote {later_ms} ms later, {found:?}");
                let field = bench.conflict().fields.remove(0);
                assert_eq!((field.local, field.remote), (Some("ours".into()), Some("theirs".into())), "G7");
            }
        }
    }
}

#[test]
fn where_the_backend_orders_writes_no_clock_is_asked() {
    for found in BOTH_WAYS {
        let mut bench = Bench::new().knows(r#"{"a":"base"}"#);
        let now = bench.wall_ms;
        assert_eq!(written_after_us(&mut bench, now, YEAR_MS, found), r#"{"a":"ours"}"#);
    }
}

#[test]
fn without_a_time_of_change_the_backend_counts_as_newer() {
    for found in BOTH_WAYS {
        let mut bench = with_clock(0);
        bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
        bench.meets(found, theirs("1", r#"{"a":"theirs"}"#, "2"));
        assert_eq!(bench.view("1"), r#"{"a":"theirs"}"#);
        assert_eq!(bench.conflict().fields[0].local, Some("ours".into()), "G7");
    }
}

#[test]
fn a_time_that_lies_ahead_of_the_backends_clock_is_not_believed() {
    // A device wrote before it ever heard the time, with a clock that is a year ahead. Its write counts as made now, so
    // somebody's write that was made now, or claims to come later, is not older; ties go to the backend.
    for (later_ms, winner) in
        [(-1, r#"{"a":"ours"}"#), (0, r#"{"a":"theirs"}"#), (YEAR_MS, r#"{"a":"theirs"}"#)]
    {
        let unordered = Capabilities { orders_writes: false, ..capabilities(EffectClass::OneEffect) };
        let mut bench = Bench::of(Config::default(), unordered);
        let backend_now = bench.wall_ms;
        bench.wall_ms += YEAR_MS;
        bench = bench.knows(r#"{"a":"base"}"#);
        bench.enqueue(Change::update("note", "1").set("a", "ours")).unwrap();
        bench.enqueue(Change::create("note", "2").set("a", 1)).unwrap();
        bench.sync();
        let batch = bench.last_sent();
        let changed_at = Some(Hlc { wall_ms: backend_now + later_ms, counter: 0 });
        let remote = RemoteEntity { changed_at, ..theirs("1", r#"{"a":"theirs"}"#, "2") };
        let results = vec![
            (batch.tasks[0].key, Outcome::Conflict { remote: Some(remote) }),
            (batch.tasks[1].key, applied("1")),
        ];
        let server_time = Some(Timestamp(backend_now));
        bench.answer(&batch, Ok(PushReply { results, server_time, server_id: None }));
        assert_eq!(bench.view("1"), winner, "{later_ms}");
    }
}

/// The conflict remembers what the backend would have had after the change before it (seeds 733 and 3846 of the second
/// world): when that ends without an effect, so does the memory.
#[test]
fn a_conflict_behind_a_change_that_is_given_up_is_laid_over_what_the_backend_has() {
    let mut bench = Bench::ruled(Rules::new(Strategy::Ask));
    bench.enqueue(Change::create("note", "n").set("text", "x")).unwrap();
    bench.sync();
    let batch = bench.last_sent();
    bench.apply(&batch, "1");
    bench.step(|step, _| step.stop_session());
    let first = bench.enqueue(Change::update("note", "n").set("body", "y").group("g")).unwrap();
    bench.enqueue(Change::update("note", "n").set("text", "w")).unwrap();
    bench.hear(theirs("n", r#"{"text":"z"}"#, "2"));
    bench.step(|step, tx| step.cancel(tx, first.task.unwrap()).unwrap());
    let waits = bench.conflicts().into_iter().find(|record| record.is_open()).unwrap();
    bench.resolve(&waits, &Resolution::KeepRemote).unwrap();
    assert_eq!(bench.view("n"), r#"{"text":"z"}"#);
    assert_eq!(bench.counts().total(), 0);
}
