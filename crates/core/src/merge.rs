//! Three-way merge: what the base was, what the app made of it, what the backend made of it, and what it becomes.
//!
//! A pure function of its arguments, and the whole table of DESIGN.md section 6. It knows no clock (who is newer is an
//! argument), no store and no task. [`record()`] decides about records as a whole, [`fields`] about what is in them,
//! [`whole`] takes one side as it is. Whatever is not taken is in a [`FieldConflict`].
//!
//! ```
//! use landfall_core::merge::{self, BaseFields, rule::{Rules, Strategy}};
//! use landfall_core::value::Fields;
//! let mut rules = Rules::new(Strategy::FieldMerge);
//! rules.declare("report.views=counter").unwrap();
//! let base = Fields::parse(r#"{"damage":"none","views":10,"cost":5}"#).unwrap();
//! let local = Fields::parse(r#"{"damage":"dent","views":12,"cost":5}"#).unwrap();
//! let remote = Fields::parse(r#"{"damage":"none","views":11,"cost":9}"#).unwrap();
//! let merged = merge::fields(BaseFields::Whole(&base), &local, &remote, rules.of("report"), None);
//! assert_eq!(merged.fields.to_json(), r#"{"cost":9,"damage":"dent","views":13}"#);
//! assert!(merged.still_dirty.iter().eq(["damage", "views"]));
//! ```
//!
//! Tests: `tests/merge_table.rs` (every row), `tests/merge_laws.rs` (the laws, an oracle, replicas that converge).

pub mod conflict;
mod list;
mod number;
pub mod record;
pub mod rule;
mod text;

pub use conflict::{BaseValue, Chosen, Dispute, FieldConflict, Misfit, Path, Side, Step};
pub use record::{RecordDecision, record};

use crate::change::{Intent, Operation};
use crate::value::{Fields, Value};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use list::Keyed;
use rule::{Answer, FieldRule, Group, Node, Pick, RulesOf};

/// Objects are taken apart down to this level; what is deeper is taken as it is. The same bound as in the JSON reader,
/// so no value that came in as text is deeper.
const DEPTH_MAX: usize = 128;

/// What is known of the last state that the backend confirmed.
#[derive(Clone, Copy, Debug)]
pub enum BaseFields<'a> {
    /// Nothing. Both sides hold all their fields; every difference is a conflict.
    Nothing,
    /// These fields; the record may have more, which the local side does not know either. A field that is neither
    /// here nor in the local side is the backend's, unless the app removed it.
    Partial {
        /// What was confirmed.
        fields: &'a Fields,
        /// What the app removed since, known or not.
        unset: &'a BTreeSet<String>,
    },
    /// Every field: what is not here was absent.
    Whole(&'a Fields),
}

/// What two sides became.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The record as the app is to see it.
    pub fields: Fields,
    /// Every value that both sides changed, each in its own way; also where a rule kept both ([`Chosen::Merged`]).
    pub conflicts: Vec<FieldConflict>,
    /// The top-level fields that differ from the remote side and so must still be sent.
    pub still_dirty: BTreeSet<String>,
    /// Why the validator refuses this mixture; then a person must decide, and nothing is sent.
    pub refused: Option<String>,
}

impl Merged {
    /// The conflicts that a person must decide.
    pub fn asks(&self) -> impl Iterator<Item = &FieldConflict> {
        self.conflicts.iter().filter(|conflict| conflict.chosen == Chosen::Undecided)
    }

    /// Whether this may be sent without asking anybody.
    pub fn is_decided(&self) -> bool {
        self.refused.is_none() && self.asks().next().is_none()
    }

    /// What must still be sent so that the backend has the same; `None` when it has.
    pub fn pending(&self) -> Option<Intent> {
        let mut intent = Intent::new(Operation::Update);
        for name in &self.still_dirty {
            match self.fields.value(name) {
                Some(value) => intent.set(name.clone(), value.clone()),
                None => intent.unset(name.clone()),
            }
        }
        (!intent.touches_nothing()).then_some(intent)
    }
}

/// Merges two states of a record field by field.
///
/// `newer` says which side was written later; it matters to `lww` only. The laws, tested in `tests/merge_laws.rs`:
/// a side that changed nothing yields to the other, equal sides stay as they are, and merging the result with the
/// same remote again changes nothing. Counters are the exception to the last two: two devices that both counted from 10
/// to 11 make 12, and a sum that is merged again from the same base counts again. So a merge must be given a remote
/// state that does not hold the local change yet, and after it the remote state is the new base.
pub fn fields(
    base: BaseFields<'_>,
    local: &Fields,
    remote: &Fields,
    rules: RulesOf<'_>,
    newer: Option<Side>,
) -> Merged {
    let mut merger = Merger { rules, newer, path: Path::default(), conflicts: Vec::new() };
    let place = Place { node: Some(rules.fields), inherited: None, depth: 0 };
    let fields = merger.object(base, local, remote, place);
    let mixture = fields != *local && fields != *remote;
    let refused = if mixture { rules.refuses(&fields) } else { None };
    Merged { still_dirty: differing(&fields, remote), conflicts: merger.conflicts, fields, refused }
}

/// Takes one side as it is, clean fields included, and writes down every change of the other side that this undoes.
///
/// With [`Side::Local`] this is the one way in which a field that the app did not touch is overwritten: for an app
/// that says "my whole record, whatever came in". Fields that it never read are not part of its record and stay.
pub fn whole(side: Side, base: BaseFields<'_>, local: &Fields, remote: &Fields) -> Merged {
    let (kept, lost) = match side {
        Side::Local => (local, remote),
        Side::Remote => (remote, local),
    };
    let never_read = remote.0.iter().filter(|(name, _)| base.untouched(name, local));
    let mut fields = kept.clone();
    fields.0.extend(never_read.map(|(name, value)| (name.clone(), value.clone())));
    let undone = |name: &&String| !base.of(name).is(lost.value(name)) && !base.untouched(name, local);
    let contested = differing(local, remote);
    let written_down = |name: &String| FieldConflict {
        path: Path([Step::Field(name.clone())].into()),
        base: base.of(name).cloned(),
        local: local.value(name).cloned(),
        remote: remote.value(name).cloned(),
        rule: if side == Side::Local { FieldRule::Client } else { FieldRule::Server },
        misfit: None,
        group: None,
        chosen: side.into(),
        result: kept.value(name).cloned(),
    };
    let conflicts = contested.iter().filter(undone).map(written_down).collect();
    Merged { still_dirty: differing(&fields, remote), fields, conflicts, refused: None }
}

/// The names of the fields in which two records differ.
fn differing(a: &Fields, b: &Fields) -> BTreeSet<String> {
    names(a, b).filter(|name| a.value(name) != b.value(name)).cloned().collect()
}

/// Every name that either has, in order.
fn names<'a>(a: &'a Fields, b: &'a Fields) -> impl Iterator<Item = &'a String> {
    let (mut a, mut b) = (a.0.keys().peekable(), b.0.keys().peekable());
    core::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(one), Some(other)) => match one.cmp(other) {
            Ordering::Less => a.next(),
            Ordering::Greater => b.next(),
            Ordering::Equal => a.next().and(b.next()),
        },
        (Some(_), None) => a.next(),
        (None, _) => b.next(),
    })
}

impl<'a> BaseFields<'a> {
    fn of(self, name: &str) -> BaseValue<&'a Value> {
        match self {
            Self::Nothing => BaseValue::Unknown,
            Self::Partial { fields, .. } => fields.value(name).map_or(BaseValue::Unknown, BaseValue::Present),
            Self::Whole(fields) => BaseValue::known(fields.value(name)),
        }
    }

    /// Whether `local` lacks the field only because it was never read.
    fn untouched(self, name: &str, local: &Fields) -> bool {
        match self {
            Self::Partial { fields, unset } => {
                fields.value(name).is_none() && local.value(name).is_none() && !unset.contains(name)
            }
            Self::Nothing | Self::Whole(_) => false,
        }
    }

    /// The base of what is inside an object; `None` when the base was something else, and the object is atomic.
    fn inside(base: BaseValue<&'a Value>) -> Option<Self> {
        static EMPTY: Fields = Fields::new();
        match base {
            BaseValue::Unknown => Some(Self::Nothing),
            BaseValue::Absent => Some(Self::Whole(&EMPTY)),
            BaseValue::Present(Value::Object(fields)) => Some(Self::Whole(fields)),
            BaseValue::Present(_) => None,
        }
    }
}

/// The three states of one value.
#[derive(Clone, Copy)]
struct Three<'a> {
    base: BaseValue<&'a Value>,
    local: Option<&'a Value>,
    remote: Option<&'a Value>,
}

/// The rows of the table.
enum Row {
    /// Both sides agree.
    Agreed,
    /// Only one side changed it.
    Only(Side),
    /// Both did, or nobody knows.
    Contested,
}

impl<'a> Three<'a> {
    fn row(self) -> Row {
        if self.local == self.remote {
            Row::Agreed
        } else if self.base.is(self.local) {
            Row::Only(Side::Remote)
        } else if self.base.is(self.remote) {
            Row::Only(Side::Local)
        } else {
            Row::Contested
        }
    }

    fn side(self, side: Side) -> Option<&'a Value> {
        match side {
            Side::Local => self.local,
            Side::Remote => self.remote,
        }
    }

    /// Both sides, for a rule that works on values.
    fn both(self) -> Result<(&'a Value, &'a Value), Misfit> {
        self.local.zip(self.remote).ok_or(Misfit::Removed)
    }
}

/// Where in the declarations a value lies, and how deep.
#[derive(Clone, Copy)]
struct Place<'a> {
    node: Option<&'a Node>,
    inherited: Option<&'a FieldRule>,
    depth: usize,
}

impl<'a> Place<'a> {
    fn field(self, name: &str) -> Self {
        let node = self.node.and_then(|node| node.child(name));
        let inherited = node.and_then(|node| node.rule.as_ref()).or(self.inherited);
        Self { node, inherited, depth: self.depth + 1 }
    }

    fn takes_objects_apart(self) -> bool {
        self.depth < DEPTH_MAX && !self.inherited.is_some_and(FieldRule::is_atomic)
    }

    /// Whether a counter is declared here or further inside.
    fn may_count(self) -> bool {
        self.inherited == Some(&FieldRule::Counter) || self.node.is_some_and(Node::has_counter)
    }

    fn item(self) -> Self {
        Self { inherited: None, depth: self.depth + 1, ..self }
    }
}

/// What a rule made of a contested value.
struct Settled {
    chosen: Chosen,
    result: Option<Value>,
}

impl Settled {
    fn merged(value: Value) -> Self {
        Self { chosen: Chosen::Merged, result: Some(value) }
    }
}

struct Merger<'a> {
    rules: RulesOf<'a>,
    newer: Option<Side>,
    path: Path,
    conflicts: Vec<FieldConflict>,
}

impl<'a> Merger<'a> {
    fn object(
        &mut self,
        base: BaseFields<'a>,
        local: &'a Fields,
        remote: &'a Fields,
        at: Place<'a>,
    ) -> Fields {
        let mut result = Fields::new();
        let groups = at.node.map_or(&[][..], |node| &node.groups);
        for group in groups {
            self.group(group, base, local, remote, &mut result);
        }
        for name in names(local, remote) {
            if groups.iter().any(|group| group.members.contains(name)) {
                continue;
            }
            let value = if base.untouched(name, local) {
                remote.value(name).cloned()
            } else {
                let three =
                    Three { base: base.of(name), local: local.value(name), remote: remote.value(name) };
                self.inside(Step::Field(name.clone()), |merger| merger.value(three, at.field(name)))
            };
            if let Some(value) = value {
                result.0.insert(name.clone(), value);
            }
        }
        result
    }

    fn inside<T>(&mut self, step: Step, work: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let done = work(self);
        self.path.0.pop();
        done
    }

    fn value(&mut self, three: Three<'a>, at: Place<'a>) -> Option<Value> {
        match three.row() {
            Row::Agreed if at.may_count() => self.counted_twice(three, at),
            Row::Agreed => three.remote.cloned(),
            Row::Only(side) => three.side(side).cloned(),
            Row::Contested => self.contested(three, at),
        }
    }

    /// Both sides hold the same, with counters in it. Two sides that both counted one have counted two: that they are
    /// equal is chance, and no reason to drop one.
    fn counted_twice(&mut self, three: Three<'a>, at: Place<'a>) -> Option<Value> {
        let (Some(local), Some(remote), false) = (three.local, three.remote, three.base.is(three.local))
        else {
            return three.remote.cloned();
        };
        match (local, remote, at.inherited) {
            (Value::Object(local), Value::Object(remote), _) if at.takes_objects_apart() => {
                Some(match BaseFields::inside(three.base) {
                    Some(base) => Value::Object(self.object(base, local, remote, at)),
                    None => Value::Object(remote.clone()),
                })
            }
            (Value::List(_), Value::List(_), Some(rule @ FieldRule::KeyedList(key))) => {
                match Keyed::of(three.base, local, remote, key) {
                    Ok(lists) => Some(Value::List(self.items(&lists, rule, at))),
                    Err(_) => Some(remote.clone()),
                }
            }
            (Value::Number(_), Value::Number(_), Some(FieldRule::Counter))
                if number::sum(three.base, local, remote).is_ok() =>
            {
                self.contested(three, at)
            }
            _ => Some(remote.clone()),
        }
    }

    fn contested(&mut self, three: Three<'a>, at: Place<'a>) -> Option<Value> {
        if let (Some(Value::Object(local)), Some(Value::Object(remote)), Some(base), true) =
            (three.local, three.remote, BaseFields::inside(three.base), at.takes_objects_apart())
        {
            return Some(Value::Object(self.object(base, local, remote, at)));
        }
        let index = self.conflicts.len();
        let strategy = self.rules.strategy.pick();
        let (rule, settled) = match at.inherited {
            Some(rule) => (rule.clone(), self.apply(rule, three, at)),
            None => (strategy.clone().into(), self.pick(&strategy, three)),
        };
        let (settled, misfit) = match settled {
            Ok(settled) => (settled, None),
            Err(misfit) => (self.pick_or_ask(&strategy, three), Some(misfit)),
        };
        let conflict = self.written_down(three, rule, misfit, settled);
        let result = conflict.result.clone();
        self.conflicts.insert(index, conflict);
        result
    }

    fn written_down(
        &self,
        three: Three<'_>,
        rule: FieldRule,
        misfit: Option<Misfit>,
        settled: Settled,
    ) -> FieldConflict {
        FieldConflict {
            path: self.path.clone(),
            base: three.base.cloned(),
            local: three.local.cloned(),
            remote: three.remote.cloned(),
            rule,
            misfit,
            group: None,
            chosen: settled.chosen,
            result: settled.result,
        }
    }

    fn apply(&mut self, rule: &'a FieldRule, three: Three<'a>, at: Place<'a>) -> Result<Settled, Misfit> {
        let take = |side: Side| Settled { chosen: side.into(), result: three.side(side).cloned() };
        match rule {
            FieldRule::Lww => self.pick(&Pick::Lww, three),
            FieldRule::Server => self.pick(&Pick::Server, three),
            FieldRule::Client => self.pick(&Pick::Client, three),
            FieldRule::Ask => self.pick(&Pick::Ask, three),
            FieldRule::Custom(name) => self.pick(&Pick::Custom(name.clone()), three),
            FieldRule::Immutable => Ok(take(Side::Remote)),
            FieldRule::Max => three.both().and_then(|(l, r)| number::larger(l, r)).map(take),
            FieldRule::Min => three.both().and_then(|(l, r)| number::larger(l, r)).map(|s| take(s.other())),
            FieldRule::Counter => {
                three.both().and_then(|(l, r)| number::sum(three.base, l, r)).map(Settled::merged)
            }
            FieldRule::GrowSet => {
                three.both().and_then(|(l, r)| list::union(three.base, l, r)).map(Settled::merged)
            }
            FieldRule::OrSet => {
                three.both().and_then(|(l, r)| list::set(three.base, l, r)).map(Settled::merged)
            }
            FieldRule::Text => {
                three.both().and_then(|(l, r)| text::merge(three.base, l, r)).map(Settled::merged)
            }
            FieldRule::KeyedList(key) => {
                let (local, remote) = three.both()?;
                let lists = Keyed::of(three.base, local, remote, key)?;
                Ok(Settled::merged(Value::List(self.items(&lists, rule, at))))
            }
        }
    }

    fn pick(&self, pick: &Pick, three: Three<'_>) -> Result<Settled, Misfit> {
        let side = match pick {
            Pick::Lww => self.newer.unwrap_or(Side::Remote),
            Pick::Server => Side::Remote,
            Pick::Client => Side::Local,
            Pick::Ask => return Ok(undecided(three)),
            Pick::Custom(name) => return self.custom(name, three),
        };
        Ok(Settled { chosen: side.into(), result: three.side(side).cloned() })
    }

    /// The last word when a rule does not fit: a strategy whose resolver cannot say either leaves it to a person.
    fn pick_or_ask(&self, pick: &Pick, three: Three<'_>) -> Settled {
        self.pick(pick, three).unwrap_or_else(|_| undecided(three))
    }

    fn custom(&self, name: &str, three: Three<'_>) -> Result<Settled, Misfit> {
        let Three { base, local, remote } = three;
        let dispute = Dispute { path: &self.path, base, local, remote, newer: self.newer };
        let (chosen, result) = match self.rules.resolve(name, &dispute).ok_or(Misfit::NoResolver)? {
            Answer::Local => (Chosen::Local, local.cloned()),
            Answer::Remote => (Chosen::Remote, remote.cloned()),
            Answer::Ask => return Ok(undecided(three)),
            Answer::Remove => (Chosen::Merged, None),
            Answer::Value(value) => {
                value.check().map_err(|_| Misfit::BadAnswer)?;
                if value.is_deeper_than(DEPTH_MAX) {
                    return Err(Misfit::BadAnswer);
                }
                (Chosen::Merged, Some(value))
            }
        };
        Ok(Settled { chosen, result })
    }

    /// Merges the items of a keyed list: the remote order, then what only the local side has.
    fn items(&mut self, lists: &Keyed<'a>, rule: &'a FieldRule, at: Place<'a>) -> Vec<Value> {
        let mut result = Vec::new();
        for (key, three) in lists.items() {
            let step = Step::Item(lists.key().into(), key.clone());
            let merged = self.inside(step, |merger| merger.item(three, rule, at.item()));
            result.extend(merged);
        }
        result
    }

    fn item(&mut self, three: Three<'a>, rule: &FieldRule, at: Place<'a>) -> Option<Value> {
        let deleter = match (three.local, three.remote, three.base) {
            (Some(_), Some(_), _) => return self.value(three, at),
            // Without a base an item that one side lacks is one that the other added: nothing is lost by keeping it.
            (one, other, BaseValue::Unknown | BaseValue::Absent) => return one.or(other).cloned(),
            (None, Some(edited), BaseValue::Present(base)) if edited != base => Side::Local,
            (Some(edited), None, BaseValue::Present(base)) if edited != base => Side::Remote,
            _ => return None,
        };
        let settled = match record::fate(self.rules, self.newer, deleter) {
            record::Fate::Delete => Settled { chosen: deleter.into(), result: None },
            record::Fate::Keep | record::Fate::Fork => {
                let editor = deleter.other();
                Settled { chosen: editor.into(), result: three.side(editor).cloned() }
            }
            record::Fate::Ask | record::Fate::Custom(_) => undecided(three),
        };
        let conflict = self.written_down(three, rule.clone(), Some(Misfit::Removed), settled);
        let result = conflict.result.clone();
        self.conflicts.push(conflict);
        result
    }

    /// Merges the members of a group as if they were one value.
    fn group(
        &mut self,
        group: &'a Group,
        base: BaseFields<'a>,
        local: &'a Fields,
        remote: &'a Fields,
        result: &mut Fields,
    ) {
        let member = |name: &'a String| {
            let remote = remote.value(name);
            let local = if base.untouched(name, local) { remote } else { local.value(name) };
            (name, Three { base: base.of(name), local, remote })
        };
        let members: Vec<(&String, Three<'a>)> = group.members.iter().map(member).collect();
        let side = match group_row(&members) {
            Row::Agreed => Side::Remote,
            Row::Only(side) => side,
            Row::Contested => return self.contested_group(group, &members, result),
        };
        for (name, three) in members {
            put(result, name, three.side(side).cloned());
        }
    }

    fn contested_group(&mut self, group: &Group, members: &[(&String, Three<'a>)], result: &mut Fields) {
        let strategy = self.rules.strategy.pick();
        let pick = group.pick.as_ref().unwrap_or(&strategy);
        let (picked, misfit) = match self.pick_group(pick, members) {
            Ok(picked) => (Some(picked), None),
            Err(misfit) => (self.pick_group(&strategy, members).ok(), Some(misfit)),
        };
        let (chosen, mut values) =
            picked.unwrap_or_else(|| (Chosen::Undecided, gather(members, |three| three.local)));
        for (name, three) in members {
            let value = values.0.remove(name.as_str());
            if three.local != three.remote {
                let settled = Settled { chosen, result: value.clone() };
                let conflict = self.inside(Step::Field((*name).clone()), |merger| {
                    merger.written_down(*three, pick.clone().into(), misfit, settled)
                });
                self.conflicts.push(FieldConflict { group: Some(group.name()), ..conflict });
            }
            put(result, name, value);
        }
    }

    /// The side taken and the members as they become; nothing else is in there.
    fn pick_group(&self, pick: &Pick, members: &[(&String, Three<'a>)]) -> Result<(Chosen, Fields), Misfit> {
        let base = gather(members, |three| match three.base {
            BaseValue::Present(value) => Some(value),
            BaseValue::Unknown | BaseValue::Absent => None,
        });
        let base = Value::Object(base);
        let unknown = members.iter().any(|(_, three)| three.base == BaseValue::Unknown);
        let (local, remote) = (
            Value::Object(gather(members, |three| three.local)),
            Value::Object(gather(members, |three| three.remote)),
        );
        let three = Three {
            base: if unknown { BaseValue::Unknown } else { BaseValue::Present(&base) },
            local: Some(&local),
            remote: Some(&remote),
        };
        let Settled { chosen, result } = self.pick(pick, three)?;
        match result {
            Some(Value::Object(values))
                if values.0.keys().all(|name| members.iter().any(|m| m.0 == name)) =>
            {
                Ok((chosen, values))
            }
            _ => Err(Misfit::BadAnswer),
        }
    }
}

/// The app's own value, until a person has decided.
fn undecided(three: Three<'_>) -> Settled {
    Settled { chosen: Chosen::Undecided, result: three.local.cloned() }
}

fn put(fields: &mut Fields, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        fields.0.insert(name.into(), value);
    }
}

fn group_row(members: &[(&String, Three<'_>)]) -> Row {
    let all = |test: fn(&Three<'_>) -> bool| members.iter().all(|(_, three)| test(three));
    if all(|three| three.local == three.remote) {
        Row::Agreed
    } else if all(|three| three.base.is(three.local)) {
        Row::Only(Side::Remote)
    } else if all(|three| three.base.is(three.remote)) {
        Row::Only(Side::Local)
    } else {
        Row::Contested
    }
}

/// The members of a group as one object.
fn gather<'a>(members: &[(&String, Three<'a>)], of: impl Fn(&Three<'a>) -> Option<&'a Value>) -> Fields {
    members.iter().filter_map(|(name, three)| Some(((*name).clone(), of(three)?.clone()))).collect()
}
