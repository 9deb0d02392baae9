//! The laws of the merge, on random records, rules and bases: nothing a side wrote is lost without a record of it.
//!
//! 50,000 cases of each law in every run, a million with `cargo xtask test --nightly`; `LANDFALL_CASES` sets another
//! number, `LANDFALL_CASE=n` replays one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::change::Operation;
use landfall_core::entity::Body;
use landfall_core::merge::rule::{Answer, DeletePolicy, FieldPath, FieldRule, Pick, Rules, Strategy};
use landfall_core::merge::{self, BaseFields, BaseValue, Chosen, FieldConflict, Merged, Side, Step};
use landfall_core::patch;
use landfall_core::value::{Fields, Number, Value};
use std::collections::BTreeSet;

#[test]
fn a_side_that_changed_nothing_yields_to_the_other() {
    cases(|random| {
        let case = Case::new(random);
        let (b, l, r) = (&case.base, &case.local, &case.remote);
        let equal = if case.counts { (b, b, b) } else { (l, l, l) }; // equal counters have counted twice
        for (local, remote, expected) in [(b, r, r), (l, b, l), (b, b, b), equal] {
            let merged = merge::fields(BaseFields::Whole(b), local, remote, case.rules.of("t"), case.newer);
            assert_eq!(&merged.fields, expected, "{case:?}");
            assert_eq!(merged.conflicts, [], "{case:?}");
            assert_eq!(merged.still_dirty, differing(expected, remote), "{case:?}");
        }
        if case.counts {
            return;
        }
        // Equal sides agree whatever is known of the base.
        let agreed = merge::fields(case.base_fields(), l, l, case.rules.of("t"), case.newer);
        assert_eq!((&agreed.fields, agreed.conflicts.len(), agreed.still_dirty.len()), (l, 0, 0), "{case:?}");
    });
}

#[test]
fn merging_the_result_with_the_same_remote_changes_nothing() {
    cases(|random| {
        let case = Case::new(random);
        let merged = case.merge();
        let rebased = merge::fields(
            BaseFields::Whole(&case.remote),
            &merged.fields,
            &case.remote,
            case.rules.of("t"),
            case.newer,
        );
        assert_eq!(rebased.fields, merged.fields, "{case:?}");
        assert_eq!((rebased.conflicts.len(), &rebased.still_dirty), (0, &merged.still_dirty), "{case:?}");
        // A sum counts from its base, so with the old base a counter cannot be idempotent; everything else is.
        if !case.counts {
            let again = merge::fields(
                case.base_fields(),
                &merged.fields,
                &case.remote,
                case.rules.of("t"),
                case.newer,
            );
            assert_eq!(again.fields, merged.fields, "{case:?}");
        }
    });
}

#[test]
fn nothing_is_lost_silently() {
    cases(|random| {
        let case = Case::new(random);
        let merged = case.merge();
        assert_eq!(merged, case.merge(), "deterministic");
        let (local, remote, result) = (&case.local, &case.remote, &merged.fields);
        for name in names([&case.base, local, remote, result]) {
            if case.is_untouched(name) {
                assert_eq!(result.value(name), remote.value(name), "{name} was never read: {case:?}");
                continue;
            }
            let at = At { case: &case, conflicts: &merged.conflicts, path: vec![Step::Field(name.clone())] };
            let base = case.base_value(name);
            at.accounted(Side::Local, base, local.value(name), result.value(name));
            at.accounted(Side::Remote, base, remote.value(name), result.value(name));
            at.clean_stays_clean(base, local.value(name), remote.value(name), result.value(name));
            at.written_by_somebody([local.value(name), remote.value(name)], result.value(name));
        }
        for conflict in &merged.conflicts {
            check_record(conflict, &case, result);
        }
    });
}

#[test]
fn what_is_pending_makes_the_backend_equal() {
    cases(|random| {
        let case = Case::new(random);
        let merged = case.merge();
        assert_eq!(merged.still_dirty, differing(&merged.fields, &case.remote), "{case:?}");
        let backend = Body::Live(case.remote.clone());
        let after = merged.pending().map_or(backend.clone(), |intent| {
            assert_eq!(intent.operation, Operation::Update);
            patch::apply(&intent, Some(&backend))
        });
        assert_eq!(after, Body::Live(merged.fields), "{case:?}");
    });
}

#[test]
fn fields_without_a_group_do_not_depend_on_each_other() {
    cases(|random| {
        let case = Case::new(random);
        let merged = case.merge();
        let alone = |fields: &Fields, name: &str| -> Fields {
            fields.0.iter().filter(|(known, _)| *known == name).map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        for name in
            names([&case.local, &case.remote]).into_iter().filter(|name| !GROUP.contains(&name.as_str()))
        {
            let (b, l, r) = (alone(&case.base, name), alone(&case.local, name), alone(&case.remote, name));
            let single = Case { base: b, local: l, remote: r, ..case.clone() }.merge();
            assert_eq!(single.fields.value(name), merged.fields.value(name), "{name} {case:?}");
        }
    });
}

#[test]
fn rules_without_sides_commute() {
    let rules = ["counter", "grow_set", "or_set", "max", "min", "text", "lww", "ask", "keyed_list(id)"];
    cases(|random| {
        let mut case = Case::new(random);
        case.rules = Rules::new(Strategy::LastWriteWins);
        for name in NAMES {
            if random.chance(70) {
                let rule = FieldRule::parse(random.pick(&rules)).unwrap();
                case.rules.entity("t").field(&FieldPath::new(name), rule).unwrap();
            }
        }
        let newer = if random.chance(50) { Side::Local } else { Side::Remote };
        let base = case.base_fields();
        if let BaseFields::Partial { .. } = base {
            return; // says what only one side does not know
        }
        let rules = case.rules.of("t");
        let there = merge::fields(base, &case.local, &case.remote, rules, Some(newer));
        let back = merge::fields(base, &case.remote, &case.local, rules, Some(newer.other()));
        for name in names([&there.fields, &back.fields]) {
            let open = |merged: &Merged| merged.asks().any(|ask| ask.path.field() == Some(name));
            assert_eq!(open(&there), open(&back), "{name} {case:?}");
            if !open(&there) {
                let sorted = |merged: &Merged| merged.fields.value(name).map(without_order);
                assert_eq!(sorted(&there), sorted(&back), "{name} {case:?}");
            }
        }
    });
}

#[test]
fn taking_a_whole_side_records_what_it_undoes() {
    cases(|random| {
        let case = Case::new(random);
        for (side, kept, lost) in
            [(Side::Local, &case.local, &case.remote), (Side::Remote, &case.remote, &case.local)]
        {
            let merged = merge::whole(side, case.base_fields(), &case.local, &case.remote);
            assert_eq!(merged.still_dirty, differing(&merged.fields, &case.remote), "{case:?}");
            for name in names([&case.base, kept, lost]) {
                let result = merged.fields.value(name);
                let recorded = merged.conflicts.iter().find(|conflict| conflict.path.field() == Some(name));
                if case.is_untouched(name) {
                    assert_eq!((result, recorded), (case.remote.value(name), None), "{name} {case:?}");
                    continue;
                }
                assert_eq!(result, kept.value(name), "{name} {case:?}");
                let undone = !is(case.base_value(name), lost.value(name)) && lost.value(name) != result;
                assert_eq!(recorded.is_some(), undone, "{name} {case:?}");
                assert!(recorded.is_none_or(|conflict| conflict.chosen == Chosen::from(side)));
            }
        }
    });
}

/// Replicas that edit while apart and meet at one server: all end with the same record, counters add up exactly and
/// no added element is missing.
#[test]
fn replicas_that_meet_at_one_server_converge() {
    for case in case_numbers(20) {
        let random = &mut Random::of(case);
        let strategy = random.pick(&[
            Strategy::LastWriteWins,
            Strategy::ServerWins,
            Strategy::ClientWins,
            Strategy::FieldMerge,
        ]);
        let mut rules = Rules::new(strategy.clone());
        for declaration in ["t.n=counter", "t.grown=grow_set", "t.set=or_set", "t.amount+currency=lww"] {
            rules.declare(declaration).unwrap();
        }
        let start = Fields::parse(r#"{"n":5,"grown":[],"set":[0],"amount":0,"currency":"A0"}"#).unwrap();
        let mut server = start.clone();
        let mut replicas: Vec<(Fields, Fields)> = vec![(start.clone(), start); 2 + random.below(9)];
        let (mut total, mut added) = (5_i64, BTreeSet::new());
        let sync = |replica: &mut (Fields, Fields), server: &mut Fields, random: &mut Random| {
            let newer = random.pick(&[None, Some(Side::Local), Some(Side::Remote)]);
            let merged =
                merge::fields(BaseFields::Whole(&replica.0), &replica.1, server, rules.of("t"), newer);
            assert!(merged.is_decided(), "case {case}");
            *server = merged.fields.clone();
            *replica = (merged.fields.clone(), merged.fields);
        };
        for step in 0..random.below(40) {
            let at = random.below(replicas.len());
            let replica = &mut replicas[at];
            match random.below(6) {
                0 => {
                    let Some(Value::Number(Number::Integer(n))) = replica.1.value("n").cloned() else {
                        panic!()
                    };
                    let difference = random.below(100) as i64 - 50;
                    total += difference;
                    replica.1.set("n", n as i64 + difference);
                }
                field @ 1..=2 => {
                    let name = ["grown", "set"][field - 1];
                    let Some(Value::List(mut items)) = replica.1.value(name).cloned() else { panic!() };
                    let item = (step * 100 + at) as i64 + 1;
                    items.push(item.into());
                    added.insert((name, item));
                    replica.1.set(name, items);
                }
                3 => {
                    let amount = random.below(1000) as i64;
                    replica.1.set("amount", amount);
                    replica.1.set("currency", format!("A{amount}"));
                }
                4 => replica.1.set(random.pick(&["x", "y"]), random.below(9) as i64),
                _ => sync(replica, &mut server, random),
            }
        }
        for _ in 0..2 {
            replicas.iter_mut().for_each(|replica| sync(replica, &mut server, random));
        }
        assert!(replicas.iter().all(|(base, local)| *base == server && *local == server), "case {case}");
        assert_eq!(server.value("n"), Some(&total.into()), "case {case}");
        for (name, item) in added {
            let Some(Value::List(items)) = server.value(name) else { panic!() };
            assert!(items.contains(&item.into()), "case {case}: {item} in {name}");
        }
        let (Some(Value::Number(Number::Integer(amount))), Some(Value::Text(currency))) =
            (server.value("amount"), server.value("currency"))
        else {
            panic!()
        };
        assert_eq!(*currency, format!("A{amount}"), "case {case}: the group is torn");
    }
}

/// Lists and texts of a world so small that every base and every pair of edits can be tried: where chance seldom leads,
/// such as to a set that is written twice, or to a merge that ends where it began.
#[test]
fn every_merge_of_a_small_world_keeps_the_laws() {
    let lists: Vec<Value> =
        sequences(&["1", "2"], 3).map(|items| parse(&format!("[{}]", items.join(",")))).collect();
    let texts: Vec<Value> =
        sequences(&["a ", "b\n"], 3).map(|words| words.concat().as_str().into()).collect();
    let one = |id: u32, n: u32| format!("{{\"id\":{id},\"n\":{n}}}");
    let items = [one(1, 0), one(1, 1), one(2, 0), one(2, 1)];
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let distinct = |items: &Vec<&str>| items.len() < 2 || items[0][..7] != items[1][..7];
    let keyed: Vec<Value> =
        sequences(&items, 2).filter(distinct).map(|items| parse(&format!("[{}]", items.join(",")))).collect();
    for (rule, values) in
        [("grow_set", &lists), ("or_set", &lists), ("text", &texts), ("keyed_list(id)", &keyed)]
    {
        for (strategy, newer) in [
            (Strategy::FieldMerge, None),
            (Strategy::LastWriteWins, Some(Side::Local)),
            (Strategy::LastWriteWins, Some(Side::Remote)),
            (Strategy::Ask, None),
        ] {
            let mut rules = Rules::new(strategy);
            rules.declare(&format!("t.f={rule}")).unwrap();
            for (b, l, r) in triples(values) {
                let [b, l, r] = [b, l, r].map(|value| Fields::from([("f", value.clone())]));
                for base in [BaseFields::Whole(&b), BaseFields::Nothing] {
                    let merge = |l, r, newer| merge::fields(base, l, r, rules.of("t"), newer);
                    let merged = merge(&l, &r, newer);
                    let again = merge(&merged.fields, &r, newer);
                    assert_eq!(again.fields, merged.fields, "{rule} {base:?} {l:?} {r:?}");
                    let back = merge(&r, &l, newer.map(Side::other));
                    let same = |merged: &Merged| without_order(merged.fields.value("f").unwrap());
                    if merged.is_decided() && (newer.is_some() || rule.ends_with("_set")) {
                        assert_eq!(same(&back), same(&merged), "{rule} {base:?} {l:?} {r:?}");
                    }
                }
            }
        }
    }
}

/// Values that no JSON text can bring, and the deepest that one can: whatever comes out, it comes out.
#[test]
fn no_input_is_a_panic() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1.7e38];
    let large = [i128::MAX, i128::MIN, i128::from(u64::MAX), i128::from(i64::MIN)];
    let mut values: Vec<Option<Value>> = vec![None, Some(Value::Null), Some("".into()), Some("a b\n".into())];
    values.extend(odd.map(|f| Some(f.into())));
    values.extend(large.map(|n| Some(Value::Number(Number::Integer(n)))));
    values.extend([nested(2, 1), nested(2, 2)].map(Some));
    for list in [
        "[]",
        "[null,1,1.0]",
        "[{\"id\":1,\"a\":2},{\"id\":2}]",
        "[{\"id\":1},{\"id\":1.0}]",
        "[{\"id\":[]}]",
    ] {
        values.push(Some(Value::parse(list).unwrap()));
    }
    values.push(Some(vec![f64::NAN.into(), f64::NAN.into(), Value::from(1)].into()));
    let record = |value: &Option<Value>| -> Fields {
        value.iter().map(|value| ("f".to_string(), value.clone())).collect()
    };
    let deep = [nested(127, 1), nested(127, 2), nested(500, 3), nested(500, 4)].map(Some);
    for rule in RULES {
        let mut rules = Rules::new(Strategy::FieldMerge);
        rules.entity("t").field(&FieldPath::new("f"), FieldRule::parse(rule).unwrap()).unwrap();
        for (b, l, r) in triples(&values).chain(triples(&deep)) {
            let (b, l, r) = (record(b), record(l), record(r));
            for base in [BaseFields::Nothing, BaseFields::Whole(&b)] {
                merge::fields(base, &l, &r, rules.of("t"), None);
            }
        }
    }
}

/// A record, two edits of it, and what is declared for it.
#[derive(Clone, Debug)]
struct Case {
    base: Fields,
    local: Fields,
    remote: Fields,
    known: Known,
    unset: BTreeSet<String>,
    rules: Rules,
    newer: Option<Side>,
    counts: bool,
    grouped: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Known {
    Nothing,
    Partial,
    Whole,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const GROUP: [&str; 2] = ["e", "f"];
const RULES: [&str; 13] = [
    "lww",
    "server",
    "client",
    "max",
    "min",
    "counter",
    "grow_set",
    "or_set",
    "keyed_list(id)",
    "text",
    "immutable",
    "ask",
    "custom(larger)",
];

impl Case {
    fn new(random: &mut Random) -> Self {
        let mut base = Fields::new();
        for name in NAMES {
            if random.chance(75) {
                base.set(name, random.value(3));
            }
        }
        let mut local = random.edited(&base);
        let remote = random.edited(&base);
        let known = random.pick(&[Known::Whole, Known::Whole, Known::Whole, Known::Partial, Known::Nothing]);
        let mut unset = BTreeSet::new();
        if known == Known::Partial {
            // What was never read is neither in the base nor, unless the app wrote it, in the local side.
            for name in NAMES {
                if random.chance(40) {
                    base.0.remove(name);
                    match random.below(3) {
                        0 => _ = local.0.remove(name),
                        1 => {
                            local.0.remove(name);
                            unset.insert(name.to_string());
                        }
                        _ => {}
                    }
                }
            }
        }
        let newer = random.pick(&[None, Some(Side::Local), Some(Side::Remote)]);
        let mut case = Self {
            base,
            local,
            remote,
            known,
            unset,
            rules: Rules::new(random.strategy()),
            newer,
            counts: false,
            grouped: random.chance(30),
        };
        case.declare(random);
        case
    }

    fn declare(&mut self, random: &mut Random) {
        self.rules.resolver("larger", |dispute| {
            let text = |value: Option<&Value>| {
                value.map(|value| serde_json::to_string(value).expect("the tests declare what is valid"))
            };
            if text(dispute.local) > text(dispute.remote) { Answer::Local } else { Answer::Remote }
        });
        let entity = self.rules.entity("t");
        entity.deletes =
            random.pick(&[None, None, Some(DeletePolicy::DeleteWins), Some(DeletePolicy::EditWins)]);
        if self.grouped {
            let pick = random.pick(&[None, Some(Pick::Server), Some(Pick::Client), Some(Pick::Ask)]);
            entity
                .group(&FieldPath::new(GROUP[0]), [GROUP[1].to_string()], pick)
                .expect("the tests declare what is valid");
        }
        for name in NAMES.iter().filter(|name| !self.grouped || !GROUP.contains(name)) {
            for path in
                [FieldPath::new(*name), FieldPath::new(*name).then("a"), FieldPath::new(*name).then("q")]
            {
                if random.chance(60) {
                    let rule =
                        FieldRule::parse(random.pick(&RULES)).expect("the tests declare what is valid");
                    self.counts |= rule == FieldRule::Counter;
                    entity.field(&path, rule).expect("the tests declare what is valid");
                }
            }
        }
    }

    fn base_fields(&self) -> BaseFields<'_> {
        match self.known {
            Known::Nothing => BaseFields::Nothing,
            Known::Partial => BaseFields::Partial { fields: &self.base, unset: &self.unset },
            Known::Whole => BaseFields::Whole(&self.base),
        }
    }

    fn base_value(&self, name: &str) -> BaseValue<&Value> {
        match (self.known, self.base.value(name)) {
            (Known::Nothing, _) | (Known::Partial, None) => BaseValue::Unknown,
            (_, Some(value)) => BaseValue::Present(value),
            (Known::Whole, None) => BaseValue::Absent,
        }
    }

    fn is_untouched(&self, name: &str) -> bool {
        self.known == Known::Partial
            && !self.base.0.contains_key(name)
            && !self.local.0.contains_key(name)
            && !self.unset.contains(name)
    }

    fn merge(&self) -> Merged {
        merge::fields(self.base_fields(), &self.local, &self.remote, self.rules.of("t"), self.newer)
    }
}

/// One place in a merged record, for checks that go down it.
struct At<'a> {
    case: &'a Case,
    conflicts: &'a [FieldConflict],
    path: Vec<Step>,
}

impl At<'_> {
    fn inside(&self, name: &str) -> Self {
        let mut path = self.path.clone();
        path.push(Step::Field(name.into()));
        Self { path, ..*self }
    }

    fn record(&self) -> Option<&FieldConflict> {
        self.conflicts.iter().find(|conflict| conflict.path.0 == self.path)
    }

    /// Whether this is a list that is equal on both sides but for counters in its items, which have their own records.
    fn counted_inside(&self) -> bool {
        let item = |step: &Step| matches!(step, Step::Item(..));
        self.conflicts.iter().any(|conflict| {
            let path = &conflict.path.0;
            conflict.rule == FieldRule::Counter
                && path.starts_with(&self.path)
                && path.get(self.path.len()).is_some_and(item)
        })
    }

    fn is_grouped(&self) -> bool {
        self.case.grouped && matches!(&self.path[0], Step::Field(name) if GROUP.contains(&name.as_str()))
    }

    /// Whatever `side` changed is in the result or in a record.
    fn accounted(&self, side: Side, base: BaseValue<&Value>, wrote: Option<&Value>, result: Option<&Value>) {
        let recorded = self.record().is_some_and(|conflict| wrote == of(conflict, side));
        if is(base, wrote) || wrote == result || recorded || self.counted_inside() {
            return;
        }
        let (Some(Value::Object(wrote)), Some(Value::Object(result))) = (wrote, result) else {
            panic!("{side:?} wrote {wrote:?} at {:?}, and it is gone: {:?}", self.path, self.case)
        };
        for name in names([wrote, result, object_of(base)]) {
            self.inside(name).accounted(side, below(base, name), wrote.value(name), result.value(name));
        }
    }

    /// Where one side changed nothing, the other's value stands, however deep.
    fn clean_stays_clean(
        &self,
        base: BaseValue<&Value>,
        local: Option<&Value>,
        remote: Option<&Value>,
        result: Option<&Value>,
    ) {
        if self.is_grouped() {
            return;
        }
        if is(base, local) {
            assert_eq!(result, remote, "{:?} {:?}", self.path, self.case);
        } else if is(base, remote) {
            assert_eq!(result, local, "{:?} {:?}", self.path, self.case);
        } else if local == remote && !self.case.counts {
            assert_eq!(result, remote, "{:?} {:?}", self.path, self.case);
        } else if self.record().is_none() && result != remote && !self.counted_inside() {
            let (Some(Value::Object(l)), Some(Value::Object(r)), Some(Value::Object(m))) =
                (local, remote, result)
            else {
                panic!("contested and not recorded: {:?} {:?}", self.path, self.case)
            };
            for name in names([l, r, m, object_of(base)]) {
                self.inside(name).clean_stays_clean(
                    below(base, name),
                    l.value(name),
                    r.value(name),
                    m.value(name),
                );
            }
        }
    }

    /// The result invents nothing: every value is a side's, or recorded as made of both.
    fn written_by_somebody(&self, sides: [Option<&Value>; 2], result: Option<&Value>) {
        let recorded = self.record().is_some_and(|conflict| conflict.result.as_ref() == result);
        if recorded || sides.contains(&result) || self.counted_inside() {
            return;
        }
        let Some(Value::Object(fields)) = result else {
            panic!("{result:?} at {:?} was written by nobody: {:?}", self.path, self.case)
        };
        for (name, value) in &fields.0 {
            let inner = sides.map(|side| match side {
                Some(Value::Object(fields)) => fields.value(name),
                _ => None,
            });
            self.inside(name).written_by_somebody(inner, Some(value));
        }
    }
}

/// A record tells the truth about both sides and about what became of them.
fn check_record(conflict: &FieldConflict, case: &Case, result: &Fields) {
    let FieldConflict { path, local, remote, result: became, chosen, .. } = conflict;
    let chosen_is_true = match chosen {
        Chosen::Local | Chosen::Undecided => became == local,
        Chosen::Remote => became == remote,
        Chosen::Merged => true,
    };
    let at = |fields| find(fields, &path.0);
    let base_is_true = match &conflict.base {
        BaseValue::Present(base) => at(&case.base) == Some(base),
        BaseValue::Absent | BaseValue::Unknown => case.known == Known::Nothing || at(&case.base).is_none(),
    };
    let sides_are_true = at(&case.local) == local.as_ref() && at(&case.remote) == remote.as_ref();
    let is_contested = local != remote || conflict.rule == FieldRule::Counter;
    let all = [is_contested, chosen_is_true, base_is_true, sides_are_true, at(result) == became.as_ref()];
    assert_eq!(all, [true; 5], "{conflict:?} {case:?}");
}

fn find<'a>(fields: &'a Fields, path: &[Step]) -> Option<&'a Value> {
    let (Step::Field(first), rest) = path.split_first()? else { return None };
    rest.iter().try_fold(fields.value(first)?, |value, step| match (value, step) {
        (Value::Object(fields), Step::Field(name)) => fields.value(name),
        (Value::List(items), Step::Item(_, key)) => items.iter().find(|item| match item {
            Value::Object(fields) => fields.value("id") == Some(key),
            _ => false,
        }),
        _ => None,
    })
}

fn of(conflict: &FieldConflict, side: Side) -> Option<&Value> {
    match side {
        Side::Local => conflict.local.as_ref(),
        Side::Remote => conflict.remote.as_ref(),
    }
}

fn is(base: BaseValue<&Value>, side: Option<&Value>) -> bool {
    match base {
        BaseValue::Unknown => false,
        BaseValue::Absent => side.is_none(),
        BaseValue::Present(value) => side == Some(value),
    }
}

fn below<'a>(base: BaseValue<&'a Value>, name: &str) -> BaseValue<&'a Value> {
    match base {
        BaseValue::Unknown => BaseValue::Unknown,
        BaseValue::Present(Value::Object(fields)) => {
            fields.value(name).map_or(BaseValue::Absent, BaseValue::Present)
        }
        BaseValue::Absent | BaseValue::Present(_) => BaseValue::Absent,
    }
}

fn object_of(base: BaseValue<&Value>) -> &Fields {
    static EMPTY: Fields = Fields::new();
    match base {
        BaseValue::Present(Value::Object(fields)) => fields,
        _ => &EMPTY,
    }
}

fn names<const N: usize>(records: [&Fields; N]) -> BTreeSet<&String> {
    records.into_iter().flat_map(|fields| fields.0.keys()).collect()
}

fn differing(result: &Fields, remote: &Fields) -> BTreeSet<String> {
    names([result, remote])
        .into_iter()
        .filter(|name| result.value(name) != remote.value(name))
        .cloned()
        .collect()
}

/// The value with every list sorted and without repetitions, for laws that hold of sets.
fn without_order(value: &Value) -> Value {
    match value {
        Value::List(items) => {
            let mut items: Vec<Value> = items.iter().map(without_order).collect();
            items.sort_by_cached_key(|item| serde_json::to_string(item).ok());
            items.dedup();
            Value::List(items)
        }
        Value::Object(fields) => {
            Value::Object(fields.0.iter().map(|(name, value)| (name.clone(), without_order(value))).collect())
        }
        // 1.0 and 1 are equal but not written alike.
        Value::Number(Number::Float(f)) if f.fract() == 0.0 => Value::from(*f as i64),
        plain => plain.clone(),
    }
}

fn nested(depth: usize, leaf: i32) -> Value {
    (0..depth).fold(leaf.into(), |inner, _| Value::Object(Fields::from([("f", inner)])))
}

/// Every sequence of up to `longest` of these.
fn sequences<'a>(of: &'a [&'a str], longest: usize) -> impl Iterator<Item = Vec<&'a str>> {
    let longer = |shorter: Vec<Vec<&'a str>>| -> Vec<Vec<&'a str>> {
        let one_more =
            |short: &Vec<&'a str>| of.iter().map(|next| [&short[..], &[*next]].concat()).collect::<Vec<_>>();
        shorter.iter().flat_map(one_more).collect()
    };
    std::iter::successors(Some(vec![Vec::new()]), move |shorter| Some(longer(shorter.clone())))
        .take(longest + 1)
        .flatten()
}

fn parse(json: &str) -> Value {
    Value::parse(json).expect("JSON")
}

fn triples<T>(values: &[T]) -> impl Iterator<Item = (&T, &T, &T)> {
    values.iter().flat_map(move |b| values.iter().flat_map(move |l| values.iter().map(move |r| (b, l, r))))
}

fn cases(law: impl Fn(&mut Random)) {
    for case in case_numbers(1) {
        let mut random = Random::of(case);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| law(&mut random)));
        assert!(outcome.is_ok(), "broken as shown above; replay with LANDFALL_CASE={case}");
    }
}

/// Which cases to run; one in `cost` of them where a case is long.
fn case_numbers(cost: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LANDFALL_CASE") {
        Some(one) => one..one + 1,
        None => 0..number("LANDFALL_CASES").unwrap_or_else(usual) / cost,
    }
}

fn usual() -> u64 {
    if std::env::var("LANDFALL_TIER").as_deref() == Ok("nightly") { 1_000_000 } else { 50_000 }
}

/// SplitMix64: small, fast, the same everywhere.
struct Random(u64);

impl Random {
    fn of(case: u64) -> Self {
        let mut random = Self(case.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1CEB_00DA);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn strategy(&mut self) -> Strategy {
        let custom = || Strategy::Custom("larger".into());
        let all = [
            Strategy::LastWriteWins,
            Strategy::ServerWins,
            Strategy::ClientWins,
            Strategy::FieldMerge,
            Strategy::Ask,
            Strategy::Fork,
            custom(),
            Strategy::Custom("nobody".into()),
        ];
        self.pick(&all)
    }

    fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0 => Value::Null,
            1 => Value::Bool(self.chance(50)),
            2 | 3 => Value::from(self.below(9) as i64 - 3),
            4 => Value::from(self.pick(&[0.5, 1.0, 2.0, -1.5, 1e300])),
            5 => self.text().into(),
            6 => (0..self.below(4)).map(|_| self.value(0)).collect::<Vec<_>>().into(),
            7 => self.keyed().into(),
            _ => {
                let names = ["a", "b", "q", "id"];
                let size = self.below(4);
                (0..size)
                    .map(|_| (self.pick(&names).to_string(), self.value(depth - 1)))
                    .collect::<Fields>()
                    .into()
            }
        }
    }

    fn text(&mut self) -> String {
        let words = ["a", "b", "c", "d", " ", " ", " ", "\n", "\n", "é", "🦀"];
        (0..self.below(12)).map(|_| self.pick(&words)).collect()
    }

    fn keyed(&mut self) -> Vec<Value> {
        let mut items = Vec::new();
        for id in 0..4 {
            if self.chance(60) {
                items.push(
                    Fields::from([("id", Value::from(id)), ("q", self.value(0)), ("a", self.value(1))])
                        .into(),
                );
            }
        }
        if self.chance(20) {
            items.reverse();
        }
        if self.chance(3) {
            items.push(self.value(1));
        }
        items
    }

    fn edited(&mut self, fields: &Fields) -> Fields {
        let mut edited = fields.clone();
        for name in NAMES {
            if self.chance(55) {
                match edited.0.remove(name) {
                    Some(_) if self.chance(12) => {}
                    Some(value) => edited.set(name, self.edited_value(&value, 3)),
                    None if self.chance(50) => edited.set(name, self.value(3)),
                    None => {}
                }
            }
        }
        if self.chance(20) {
            let name = format!("unknown{}", self.below(3));
            edited.set(name, self.value(2));
        }
        edited
    }

    fn edited_value(&mut self, value: &Value, depth: usize) -> Value {
        if self.chance(12) {
            return self.value(depth);
        }
        match value {
            Value::Number(Number::Integer(n)) => Value::from(*n as i64 + self.below(7) as i64 - 3),
            Value::Text(text) => self.edited_text(text).into(),
            Value::List(items) => {
                let mut items: Vec<Value> = items.iter().filter(|_| self.chance(85)).cloned().collect();
                for item in &mut items {
                    if self.chance(30) {
                        *item = self.edited_value(item, depth.saturating_sub(1));
                    }
                }
                if self.chance(40) {
                    let at = self.below(items.len() + 1);
                    items.insert(at, self.value(0));
                }
                if self.chance(10) {
                    items.reverse();
                }
                items.into()
            }
            Value::Object(fields) => {
                let mut fields = fields.clone();
                for name in ["a", "b", "q", "id"] {
                    if self.chance(if name == "id" { 3 } else { 40 }) {
                        match fields.0.remove(name) {
                            Some(_) if self.chance(20) => {}
                            Some(value) => {
                                fields.set(name, self.edited_value(&value, depth.saturating_sub(1)))
                            }
                            None => fields.set(name, self.value(depth.saturating_sub(1))),
                        }
                    }
                }
                fields.into()
            }
            Value::Null | Value::Bool(_) | Value::Number(Number::Float(_)) => self.value(depth),
        }
    }

    fn edited_text(&mut self, text: &str) -> String {
        let mut words: Vec<String> = text.split_inclusive([' ', '\n']).map(str::to_string).collect();
        for _ in 0..1 + self.below(2) {
            let at = self.below(words.len() + 1);
            match self.below(3) {
                0 => words.insert(at, format!("{} ", self.pick(&["x", "y", "z", "a"]))),
                1 if at < words.len() => _ = words.remove(at),
                _ if at < words.len() => words[at] = format!("{} ", self.pick(&["u", "v", "b"])),
                _ => {}
            }
        }
        words.concat()
    }
}
