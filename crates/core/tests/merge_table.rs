//! Every row of the merge table of DESIGN.md section 6, and every rule in and out of its element, as tables.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::merge::rule::{Answer, FieldPath, FieldRule, Rules, Strategy, Validator};
use landfall_core::merge::{self, BaseFields, BaseValue, Chosen, Merged, Misfit, Side};
use landfall_core::value::{Fields, Number, Value};
use std::collections::BTreeSet;

/// What a text stands for: a value, `∅` for absent, `?` for a base of which nothing is known.
fn field(text: &str) -> Fields {
    match text {
        "∅" | "?" => Fields::new(),
        json => Fields::from([("f", Value::parse(json).expect(json))]),
    }
}

fn merge_field(rules: &Rules, base: &str, local: &str, remote: &str, newer: Option<Side>) -> Merged {
    let known = field(base);
    let base = if base == "?" { BaseFields::Nothing } else { BaseFields::Whole(&known) };
    merge::fields(base, &field(local), &field(remote), rules.of("t"), newer)
}

fn with(rule: &str) -> Rules {
    let mut rules = Rules::new(Strategy::FieldMerge);
    rules.declare(&format!("t.f={rule}")).expect("a rule");
    rules
}

#[test]
fn every_row_of_the_table() {
    let (no, yes) = (false, true);
    let rows = [
        // base, local, remote, result, conflict, still dirty
        ("1", "1", "1", "1", no, no),
        ("1", "1", "2", "2", no, no),
        ("1", "1", "∅", "∅", no, no),
        ("∅", "∅", "null", "null", no, no),
        ("1", "2", "1", "2", no, yes),
        ("1", "∅", "1", "∅", no, yes),
        ("∅", "null", "∅", "null", no, yes),
        ("null", "∅", "null", "∅", no, yes),
        ("1", "2", "2", "2", no, no),
        ("1", "∅", "∅", "∅", no, no),
        ("1", "2", "2.0", "2", no, no),
        ("1", "2", "3", "3", yes, no),
        ("1", "∅", "3", "3", yes, no),
        ("1", "2", "∅", "∅", yes, no),
        ("1", "∅", "null", "null", yes, no),
        ("∅", "null", "1", "1", yes, no),
        ("?", "2", "2", "2", no, no),
        ("?", "2", "3", "3", yes, no),
        ("?", "2", "∅", "∅", yes, no),
        ("?", "∅", "3", "3", yes, no),
        // Objects by key.
        (r#"{"a":1,"b":1}"#, r#"{"a":2,"b":1}"#, r#"{"a":1,"b":3}"#, r#"{"a":2,"b":3}"#, no, yes),
        (r#"{"a":1,"b":1}"#, r#"{"a":1}"#, r#"{"a":3,"b":1}"#, r#"{"a":3}"#, no, yes),
        (
            r#"{"o":{"a":1}}"#,
            r#"{"o":{"a":1,"l":1}}"#,
            r#"{"o":{"a":1,"r":1}}"#,
            r#"{"o":{"a":1,"l":1,"r":1}}"#,
            no,
            yes,
        ),
        ("∅", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"a":1,"b":1}"#, no, yes),
        (r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":3}"#, yes, no),
        ("?", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"b":1}"#, yes, no),
        // A type change is atomic, and so is a list.
        ("1", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"b":1}"#, yes, no),
        ("null", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"b":1}"#, yes, no),
        (r#"{"a":1}"#, r#"{"a":2}"#, "[1]", "[1]", yes, no),
        ("[1,2]", "[1,2,3]", "[0,1,2]", "[0,1,2]", yes, no),
    ];
    for (base, local, remote, result, conflict, dirty) in rows {
        let merged = merge_field(&Rules::new(Strategy::ServerWins), base, local, remote, None);
        let shown = format!("{base} {local} {remote}: {merged:?}");
        assert_eq!(merged.fields, field(result), "{shown}");
        assert_eq!(!merged.conflicts.is_empty(), conflict, "{shown}");
        assert_eq!(!merged.still_dirty.is_empty(), dirty, "{shown}");
        if conflict && dirty == no {
            let ours = merge_field(&Rules::new(Strategy::ClientWins), base, local, remote, None);
            assert!(!ours.still_dirty.is_empty() && !ours.conflicts.is_empty(), "{ours:?}");
        }
    }
}

#[test]
fn every_rule_in_and_out_of_its_element() {
    use Chosen::{Local, Merged, Remote, Undecided};
    use Misfit::{BadAnswer, Keys, NoBase, NoResolver, Overflow, Removed, SameWords, WrongKind};
    const L: Option<Side> = Some(Side::Local);
    const R: Option<Side> = Some(Side::Remote);
    // Where a rule does not fit, the strategy decides; here the newer side.
    let rows = [
        // rule, newer, base, local, remote, result, chosen, misfit
        ("lww", L, "1", "2", "3", "2", Local, None),
        ("lww", R, "1", "2", "3", "3", Remote, None),
        ("lww", None, "1", "2", "3", "3", Remote, None),
        ("lww", L, "1", "∅", "3", "∅", Local, None),
        ("server", L, "1", "2", "3", "3", Remote, None),
        ("client", R, "1", "2", "3", "2", Local, None),
        ("client", R, "?", "2", "∅", "2", Local, None),
        ("max", R, "1", "5", "3", "5", Local, None),
        ("max", L, "1", "2", "2.5", "2.5", Remote, None),
        ("max", R, "?", "5", "3", "5", Local, None),
        ("max", L, "9", "-9223372036854775808", "18446744073709551615", "18446744073709551615", Remote, None),
        ("max", R, r#""2026-01-01""#, r#""2026-03-01""#, r#""2026-02-01""#, r#""2026-03-01""#, Local, None),
        ("max", L, "1", "true", "3", "true", Local, Some(WrongKind)),
        ("max", R, "1", "∅", "3", "3", Remote, Some(Removed)),
        ("min", R, "9", "5", "3", "3", Remote, None),
        ("min", R, "9", "2", "3", "2", Local, None),
        ("min", L, "9", "null", "3", "null", Local, Some(WrongKind)),
        ("counter", L, "10", "12", "15", "17", Merged, None),
        ("counter", L, "10", "12", "12", "14", Merged, None),
        ("counter", L, "10", "7", "10.0", "7", Local, None), // never reached: only one side changed
        ("counter", L, "∅", "2", "3", "5", Merged, None),
        ("counter", L, "∅", "2", "2", "4", Merged, None),
        ("counter", L, "0", "18446744073709551615", "1", "18446744073709551615", Local, Some(Overflow)),
        ("counter", R, "0", "1.5", "1", "1", Remote, Some(WrongKind)),
        ("counter", L, "?", "2", "3", "2", Local, Some(NoBase)),
        ("counter", L, "1", "∅", "3", "∅", Local, Some(Removed)),
        ("grow_set", L, "[1]", "[1,2]", "[3]", "[3,1,2]", Merged, None),
        ("grow_set", L, "?", "[1,1.0,2]", "[3,2]", "[3,2,1]", Merged, None),
        ("grow_set", R, "[1]", "7", "[3]", "[3]", Remote, Some(WrongKind)),
        ("or_set", L, "[1,2,3]", "[1,2,4]", "[2,3,5]", "[2,5,4]", Merged, None),
        ("set", L, "∅", "[1,2]", "[2,3]", "[2,3,1]", Merged, None),
        ("or_set", L, "?", "[1]", "[2]", "[2,1]", Merged, None),
        ("or_set", L, r#"[{"a":1}]"#, r#"[{"a":1.0},"x"]"#, "[]", r#"["x"]"#, Merged, None),
        ("or_set", L, "null", "[1]", "[2]", "[1]", Local, Some(WrongKind)),
        ("or_set", L, "[1]", "∅", "[2]", "∅", Local, Some(Removed)),
        ("text", L, r#""a b c""#, r#""x b c""#, r#""a b y""#, r#""x b y""#, Merged, None),
        ("text", R, r#""a""#, r#""x""#, r#""y""#, r#""y""#, Remote, Some(SameWords)),
        ("text", L, "?", r#""x""#, r#""y""#, r#""x""#, Local, Some(NoBase)),
        ("text", L, "1", r#""x""#, r#""y""#, r#""x""#, Local, Some(WrongKind)),
        ("text", R, r#""a""#, r#""x""#, "7", "7", Remote, Some(WrongKind)),
        ("immutable", L, "∅", r#"{"a":1}"#, r#"{"b":1}"#, r#"{"b":1}"#, Remote, None),
        ("ask", L, "1", "2", "3", "2", Undecided, None),
        ("custom(nobody)", L, "1", "2", "3", "2", Local, Some(NoResolver)),
        ("custom(longer)", L, r#"{"a":1}"#, r#"{"a":22}"#, r#"{"a":333}"#, r#"{"a":333}"#, Remote, None),
        ("custom(nan)", R, "1", "2", "3", "3", Remote, Some(BadAnswer)),
        ("custom(remove)", R, "1", "2", "3", "∅", Merged, None),
        ("custom(ask)", R, "1", "2", "3", "2", Undecided, None),
        ("keyed_list(id)", L, "[]", "[1]", r#"[{"id":1}]"#, "[1]", Local, Some(Keys)),
        (
            "keyed_list(id)",
            R,
            "[]",
            r#"[{"id":1},{"id":1.0}]"#,
            r#"[{"id":2}]"#,
            r#"[{"id":2}]"#,
            Remote,
            Some(Keys),
        ),
        ("keyed_list(id)", R, "[]", r#"[{"id":null}]"#, "[]", r#"[{"id":null}]"#, Local, None),
        (
            "keyed_list(id)",
            R,
            r#"[{"id":1,"a":1,"b":1},{"id":2}]"#,
            r#"[{"id":1,"a":2,"b":1},{"id":3}]"#,
            r#"[{"id":4},{"id":2},{"id":1,"a":1,"b":5}]"#,
            r#"[{"id":4},{"id":1,"a":2,"b":5},{"id":3}]"#,
            Merged,
            None,
        ),
        (
            "keyed_list(id)",
            L,
            "?",
            r#"[{"id":"l"}]"#,
            r#"[{"id":"r"}]"#,
            r#"[{"id":"r"},{"id":"l"}]"#,
            Merged,
            None,
        ),
    ];
    for (rule, newer, base, local, remote, result, chosen, misfit) in rows {
        let mut rules = with(rule);
        rules.resolver("longer", |dispute| {
            let length = |side: Option<&Value>| serde_json::to_string(&side).unwrap().len();
            if length(dispute.local) > length(dispute.remote) { Answer::Local } else { Answer::Remote }
        });
        rules.resolver("nan", |_| Answer::Value(f64::NAN.into()));
        rules.resolver("remove", |_| Answer::Remove);
        rules.resolver("ask", |_| Answer::Ask);
        let merged = merge_field(&rules, base, local, remote, newer);
        let shown = format!("{rule} {base} {local} {remote}: {merged:?}");
        assert_eq!(merged.fields, field(result), "{shown}");
        assert_eq!(merged.still_dirty.is_empty(), field(result) == field(remote), "{shown}");
        let Some(conflict) = merged.conflicts.first() else {
            assert!(field(base) == field(local) || field(base) == field(remote), "{shown}");
            continue;
        };
        assert_eq!((conflict.chosen, conflict.misfit), (chosen, misfit), "{shown}");
        assert_eq!(conflict.rule, FieldRule::parse(rule).unwrap(), "{shown}");
        assert_eq!(conflict.local.as_ref(), field(local).value("f"), "{shown}");
        assert_eq!(conflict.remote.as_ref(), field(remote).value("f"), "{shown}");
        assert_eq!(conflict.result.as_ref(), field(result).value("f"), "{shown}");
        assert_eq!(merged.is_decided(), chosen != Undecided, "{shown}");
    }
}

#[test]
fn every_strategy_decides_what_no_rule_does() {
    let rows = [
        (Strategy::LastWriteWins, Some(Side::Local), "2", FieldRule::Lww, Chosen::Local),
        (Strategy::LastWriteWins, Some(Side::Remote), "3", FieldRule::Lww, Chosen::Remote),
        (Strategy::FieldMerge, Some(Side::Local), "2", FieldRule::Lww, Chosen::Local),
        (Strategy::ServerWins, Some(Side::Local), "3", FieldRule::Server, Chosen::Remote),
        (Strategy::ClientWins, Some(Side::Remote), "2", FieldRule::Client, Chosen::Local),
        (Strategy::Ask, Some(Side::Remote), "2", FieldRule::Ask, Chosen::Undecided),
        (Strategy::Fork, Some(Side::Remote), "2", FieldRule::Ask, Chosen::Undecided),
        (Strategy::Custom("add".into()), None, "6", FieldRule::Custom("add".into()), Chosen::Merged),
        (Strategy::Custom("x".into()), None, "2", FieldRule::Custom("x".into()), Chosen::Undecided),
    ];
    for (strategy, newer, result, rule, chosen) in rows {
        let mut rules = Rules::new(strategy);
        rules.resolver("add", |dispute| {
            assert_eq!(
                (dispute.path.to_string().as_str(), dispute.base),
                ("f", BaseValue::Present(&1.into()))
            );
            Answer::Value(6.into())
        });
        let merged = merge_field(&rules, "1", "2", "3", newer);
        assert_eq!(merged.fields, field(result), "{rules:?}");
        assert_eq!((&merged.conflicts[0].rule, merged.conflicts[0].chosen), (&rule, chosen), "{rules:?}");
    }
}

#[test]
fn a_group_is_never_torn() {
    let record = |amount: i32, currency: &str| {
        Fields::from([("amount", amount.into()), ("currency", Value::from(currency))])
    };
    let (base, local, remote) = (record(1, "EUR"), record(2, "EUR"), record(1, "USD"));
    let rows = [
        ("server", record(1, "USD"), Chosen::Remote, vec![]),
        ("client", record(2, "EUR"), Chosen::Local, vec!["amount", "currency"]),
        ("lww", record(2, "EUR"), Chosen::Local, vec!["amount", "currency"]),
        ("ask", record(2, "EUR"), Chosen::Undecided, vec!["amount", "currency"]),
        ("custom(convert)", record(3, "CHF"), Chosen::Merged, vec!["amount", "currency"]),
        ("custom(torn)", record(2, "EUR"), Chosen::Local, vec!["amount", "currency"]),
    ];
    for (rule, result, chosen, dirty) in rows {
        let mut rules = Rules::new(Strategy::FieldMerge);
        rules.declare(&format!("t.amount+currency={rule}")).unwrap();
        rules.resolver("convert", |_| {
            Answer::Value(Fields::from([("amount", 3.into()), ("currency", Value::from("CHF"))]).into())
        });
        rules.resolver("torn", |_| Answer::Value(Fields::from([("elsewhere", 3)]).into()));
        let merged =
            merge::fields(BaseFields::Whole(&base), &local, &remote, rules.of("t"), Some(Side::Local));
        assert_eq!(merged.fields, result, "{rule}");
        assert!(merged.still_dirty.iter().eq(dirty), "{rule} {merged:?}");
        let names: Vec<String> = merged.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        assert_eq!(names, ["amount", "currency"], "both values of both sides are on record");
        for conflict in &merged.conflicts {
            assert_eq!((conflict.chosen, conflict.group.as_deref()), (chosen, Some("amount+currency")));
        }
        // One side alone is no conflict.
        let alone = merge::fields(BaseFields::Whole(&base), &base, &remote, rules.of("t"), None);
        assert_eq!((alone.fields, alone.conflicts.len()), (remote.clone(), 0));
    }
}

#[test]
fn a_deletion_meets_an_edit_inside_a_keyed_list() {
    let base = r#"[{"id":1,"a":1},{"id":2,"a":1}]"#;
    let gone = r#"[{"id":2,"a":1},{"id":3}]"#;
    let edited = r#"[{"id":1,"a":9},{"id":2,"a":1}]"#;
    let without = r#"[{"id":2,"a":1},{"id":3}]"#;
    let kept = r#"[{"id":2,"a":1},{"id":3},{"id":1,"a":9}]"#;
    let rows = [
        // strategy, newer, edited here and deleted there, deleted here and edited there
        (Strategy::FieldMerge, None, (kept, Chosen::Local), ("keep", Chosen::Remote)),
        (Strategy::ServerWins, None, (without, Chosen::Remote), ("keep", Chosen::Remote)),
        (Strategy::ClientWins, None, (kept, Chosen::Local), ("drop", Chosen::Local)),
        (Strategy::LastWriteWins, Some(Side::Remote), (without, Chosen::Remote), ("keep", Chosen::Remote)),
        (Strategy::LastWriteWins, Some(Side::Local), (kept, Chosen::Local), ("drop", Chosen::Local)),
        (Strategy::Ask, None, (kept, Chosen::Undecided), ("drop", Chosen::Undecided)),
    ];
    for (strategy, newer, (here, here_chosen), (there, there_chosen)) in rows {
        let mut rules = Rules::new(strategy);
        rules.declare("t.f=keyed_list(id)").unwrap();
        let merged = merge_field(&rules, base, edited, gone, newer);
        assert_eq!(merged.fields, field(here), "{rules:?}");
        assert_eq!(merged.conflicts[1].path.to_string(), "f[1]");
        assert_eq!(
            (merged.conflicts[1].chosen, merged.conflicts[1].misfit),
            (here_chosen, Some(Misfit::Removed))
        );
        let merged = merge_field(&rules, base, gone, edited, newer);
        let expected = if there == "keep" { r#"[{"id":1,"a":9},{"id":2,"a":1},{"id":3}]"# } else { without };
        assert_eq!(merged.fields, field(expected), "{rules:?}");
        assert_eq!(merged.conflicts[1].chosen, there_chosen);
    }
}

#[test]
fn equal_counts_of_two_devices_are_two_counts_wherever_they_lie() {
    let mut rules = Rules::new(Strategy::FieldMerge);
    for declaration in
        ["t.f=keyed_list(id)", "t.f.n=counter", "t.votes=counter", "t.o.n=counter", "t.whole=immutable"]
    {
        rules.declare(declaration).unwrap();
    }
    let fields = |n: i32| {
        let json = r#"{"f":[{"id":1,"n":N}],"votes":{"up":N,"down":N},"o":{"n":N,"x":N},"whole":{"n":N}}"#;
        Fields::parse(&json.replace('N', &n.to_string())).unwrap()
    };
    let merged = merge::fields(BaseFields::Whole(&fields(1)), &fields(2), &fields(2), rules.of("t"), None);
    let expected = r#"{"f":[{"id":1,"n":3}],"o":{"n":3,"x":2},"votes":{"down":3,"up":3},"whole":{"n":2}}"#;
    assert_eq!(merged.fields.to_json(), expected);
    assert!(merged.still_dirty.iter().eq(["f", "o", "votes"]));
    assert_eq!(merged.conflicts.len(), 4);
}

#[test]
fn of_a_partial_base_only_what_the_app_touched_is_contested() {
    let known = Fields::from([("read", 1)]);
    let unset = BTreeSet::from(["removed".to_string()]);
    let local = Fields::from([("read", 1), ("written", 2)]);
    let remote = Fields::from([("read", 1), ("written", 3), ("removed", 4), ("never_read", 5)]);
    for strategy in [Strategy::ClientWins, Strategy::ServerWins] {
        let rules = Rules::new(strategy);
        let base = BaseFields::Partial { fields: &known, unset: &unset };
        let merged = merge::fields(base, &local, &remote, rules.of("t"), None);
        assert_eq!(merged.fields.value("never_read"), Some(&5.into()), "a clean field is never overwritten");
        let contested: Vec<String> =
            merged.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        assert_eq!(contested, ["removed", "written"]);
        let ours =
            merged.fields.value("removed").is_none() && merged.fields.value("written") == Some(&2.into());
        assert_eq!(ours, *rules.of("t").strategy() == Strategy::ClientWins);
    }
}

#[test]
fn a_validator_judges_only_what_nobody_wrote() {
    let mut rules = Rules::new(Strategy::FieldMerge);
    rules.entity("t").validator = Some(Validator::new(|fields| {
        let number = |name| match fields.value(name) {
            Some(Value::Number(Number::Integer(n))) => *n,
            _ => 0,
        };
        if number("from") > number("to") { Err("from lies after to".into()) } else { Ok(()) }
    }));
    let record = |from: i32, to: i32| Fields::from([("from", from), ("to", to), ("x", 0)]);
    let base = record(1, 5);
    let merge = |local: &Fields, remote: &Fields| {
        merge::fields(BaseFields::Whole(&base), local, remote, rules.of("t"), None)
    };
    let mixture = merge(&record(4, 5), &record(1, 2));
    assert_eq!(mixture.fields, record(4, 2));
    assert_eq!(mixture.refused.as_deref(), Some("from lies after to"));
    assert!(!mixture.is_decided());
    assert_eq!(merge(&base, &record(9, 2)).refused, None, "the backend took it");
    assert_eq!(merge(&record(9, 2), &base).refused, None, "the app wrote it");
}

#[test]
fn rules_reach_into_objects_and_stop_at_items() {
    let mut rules = Rules::new(Strategy::ServerWins);
    rules.declare("t.o=client").unwrap();
    rules.declare("t.o.s=server").unwrap();
    let fields =
        |n: i32| Fields::parse(&r#"{"o":{"a":{"b":N},"s":N},"z":N}"#.replace('N', &n.to_string())).unwrap();
    let merged = merge::fields(BaseFields::Whole(&fields(1)), &fields(2), &fields(3), rules.of("t"), None);
    assert_eq!(merged.fields.to_json(), r#"{"o":{"a":{"b":2},"s":3},"z":3}"#);
    let other = merge::fields(BaseFields::Whole(&fields(1)), &fields(2), &fields(3), rules.of("other"), None);
    assert_eq!(other.fields, fields(3));
    let mut items = Rules::new(Strategy::ServerWins);
    let entity = items.entity("t");
    entity.field(&FieldPath::new("f"), FieldRule::KeyedList("id".into())).unwrap();
    entity.field(&FieldPath::new("f").then("n"), FieldRule::Counter).unwrap();
    let list = |n: i32| format!(r#"[{{"id":"a","n":{n},"l":[{n}]}}]"#);
    let merged = merge_field(&items, &list(1), &list(2), &list(4), None);
    assert_eq!(merged.fields, field(r#"[{"id":"a","n":5,"l":[4]}]"#));
    let paths: Vec<String> = merged.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
    assert_eq!(paths, ["f", "f[\"a\"].l", "f[\"a\"].n"]);
    assert_eq!((&merged.conflicts[1].rule, merged.conflicts[1].misfit), (&FieldRule::Server, None));
}

#[test]
fn objects_are_taken_apart_down_to_a_bound() {
    let nested = |leaf: i32| (0..200).fold(Value::from(leaf), |inner, _| Fields::from([("f", inner)]).into());
    let [base, local, remote] = [1, 2, 3].map(|leaf| Fields::from([("f", nested(leaf))]));
    let rules = Rules::new(Strategy::ClientWins);
    let merged = merge::fields(BaseFields::Whole(&base), &local, &remote, rules.of("t"), None);
    assert_eq!(merged.fields, local);
    assert_eq!(merged.conflicts[0].path.0.len(), 128);
}

/// Two that both counted from one number have counted twice; of other sides that agree nothing can be added up.
#[test]
fn two_sides_that_agree_are_no_conflict_where_nothing_can_be_counted() {
    let rows = [
        ("?", "2"),
        ("1", "1"),
        ("1.5", "2"),
        ("null", "2"),
        ("1", "2.5"),
        ("1", "\"two\""),
        ("1", "∅"),
        ("0", "18446744073709551615"),
    ];
    for (base, both) in rows {
        let merged = merge_field(&with("counter"), base, both, both, Some(Side::Local));
        assert_eq!(merged.fields, field(both), "{base} {both}");
        assert!(merged.conflicts.is_empty() && merged.still_dirty.is_empty(), "{base} {both}: {merged:?}");
    }
}

#[test]
fn what_is_never_taken_apart_is_not_counted_inside_either() {
    for (whole, result) in [("immutable", "2"), ("custom(nobody)", "2"), ("lww", "3")] {
        let mut rules = with(whole);
        rules.declare("t.f.n=counter").unwrap();
        let of = |n: &str| format!(r#"{{"n":{n}}}"#);
        let merged = merge_field(&rules, &of("1"), &of("2"), &of("2"), Some(Side::Local));
        assert_eq!(merged.fields, field(&of(result)), "{whole}");
    }
}

#[test]
fn a_groups_resolver_is_told_what_both_sides_began_with_if_that_is_known() {
    let of = |amount: i32, currency: &str| {
        Fields::from([("amount", amount.into()), ("currency", Value::from(currency))])
    };
    let (base, local, remote) = (of(1, "EUR"), of(2, "EUR"), of(1, "USD"));
    for (known, result) in [(BaseFields::Whole(&base), of(1, "EUR")), (BaseFields::Nothing, of(9, "?"))] {
        let mut rules = Rules::new(Strategy::FieldMerge);
        rules.declare("t.amount+currency=custom(back)").unwrap();
        rules.resolver("back", |dispute| match dispute.base {
            BaseValue::Present(base) => Answer::Value(base.clone()),
            _ => Answer::Value(Fields::from([("amount", 9.into()), ("currency", Value::from("?"))]).into()),
        });
        let merged = merge::fields(known, &local, &remote, rules.of("t"), None);
        assert_eq!(merged.fields, result);
    }
}

#[test]
fn one_side_taken_as_a_whole_is_written_down_as_its_own_rule() {
    let base = field("1");
    let rows = [(Side::Local, FieldRule::Client, "2"), (Side::Remote, FieldRule::Server, "3")];
    for (side, rule, result) in rows {
        let merged = merge::whole(side, BaseFields::Whole(&base), &field("2"), &field("3"));
        assert_eq!(merged.fields, field(result));
        let conflict = &merged.conflicts[0];
        assert_eq!((&conflict.rule, conflict.chosen), (&rule, Chosen::from(side)));
    }
}

#[test]
fn an_item_that_one_side_took_out_and_the_other_left_alone_is_out() {
    let base = r#"[{"id":1,"a":1},{"id":2,"a":1}]"#;
    let (without, edited) = (r#"[{"id":1,"a":2}]"#, r#"[{"id":1,"a":3},{"id":2,"a":1}]"#);
    for (local, remote) in [(without, edited), (edited, without)] {
        let merged = merge_field(&with("keyed_list(id)"), base, local, remote, Some(Side::Remote));
        let left = if remote == edited { r#"[{"id":1,"a":3}]"# } else { without };
        assert_eq!(merged.fields, field(left), "{merged:?}");
        let paths: Vec<String> = merged.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        assert_eq!(paths, ["f", "f[1].a"], "nothing is asked about the other one");
    }
}

#[test]
fn nothing_is_added_up_in_the_items_of_a_list_of_which_nobody_knows_how_it_began() {
    let mut rules = with("keyed_list(id)");
    rules.declare("t.f.n=counter").unwrap();
    let of = |n: i32| format!(r#"[{{"id":1,"n":{n}}}]"#);
    for (base, result) in [("?", 3), ("∅", 5), (of(1).as_str(), 4)] {
        let merged = merge_field(&rules, base, &of(2), &of(3), Some(Side::Remote));
        assert_eq!(merged.fields, field(&of(result)), "{base}");
    }
}
