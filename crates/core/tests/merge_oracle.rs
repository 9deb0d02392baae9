//! An oracle that shares no code with the merge: flat records, small numbers, sets as bits, text as slots.
//!
//! It says in its own way what each field must become, and the merge must agree. `LANDFALL_CASES` sets the number.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_core::merge::rule::{FieldPath, FieldRule, Rules, Strategy};
use landfall_core::merge::{self, BaseFields, Side};
use landfall_core::value::{Fields, Value};

/// A field of the oracle's world: absent, or a small number whose meaning depends on the rule.
type Cell = Option<u32>;

/// How a rule's small numbers are written as values.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    /// Bit n stands for element n.
    Set,
    /// Three octal digits, each a line of its own between fixed ones; no line is like another, so that only one reading
    /// of an edit is the shortest.
    Text,
    /// Bit n stands for an item with id n, and its content for bit n + 4.
    Keyed,
}

const COLUMNS: [(&str, &str, Kind); 13] = [
    ("none", "", Kind::Plain),
    ("lww", "lww", Kind::Plain),
    ("server", "server", Kind::Plain),
    ("client", "client", Kind::Plain),
    ("max", "max", Kind::Plain),
    ("min", "min", Kind::Plain),
    ("counter", "counter", Kind::Plain),
    ("grow_set", "grow_set", Kind::Set),
    ("or_set", "or_set", Kind::Set),
    ("text", "text", Kind::Text),
    ("immutable", "immutable", Kind::Plain),
    ("ask", "ask", Kind::Plain),
    ("keyed", "keyed_list(id)", Kind::Keyed),
];

#[test]
fn the_merge_agrees_with_a_plain_table() {
    let nightly = std::env::var("LANDFALL_TIER").as_deref() == Ok("nightly");
    let usual = if nightly { 1_000_000 } else { 50_000 };
    let count = std::env::var("LANDFALL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let mut rules = Rules::new(Strategy::FieldMerge);
    for (name, rule, _) in COLUMNS {
        if !rule.is_empty() {
            rules.entity("t").field(&FieldPath::new(name), FieldRule::parse(rule).unwrap()).unwrap();
        }
    }
    let mut dice = Dice(20_261_123);
    for case in 0..count {
        let known = dice.roll(5) > 0;
        let newer = [None, Some(Side::Local), Some(Side::Remote)][dice.roll(3) as usize];
        let rows = COLUMNS.map(|(_, _, kind)| dice.cells(kind));
        let [base, local, remote] = [0, 1, 2].map(|side| {
            let present = COLUMNS.iter().zip(&rows).filter_map(|((name, _, kind), cells)| {
                Some(((*name).to_string(), write(*kind, cells[side]?)))
            });
            present.collect::<Fields>()
        });
        let base_fields = if known { BaseFields::Whole(&base) } else { BaseFields::Nothing };
        let merged = merge::fields(base_fields, &local, &remote, rules.of("t"), newer);
        for ((name, _, kind), [b, l, r]) in COLUMNS.iter().zip(rows) {
            let (expected, conflict) = expect(name, known.then_some(b), l, r, newer == Some(Side::Local));
            let shown = format!("case {case}, {name}, known {known}, {newer:?}: {b:?} {l:?} {r:?}");
            let result = merged.fields.value(name).map(|value| in_order(*kind, value));
            assert_eq!(result, expected.map(|cell| write(*kind, cell)), "{shown}");
            let recorded = merged.conflicts.iter().any(|conflict| conflict.path.to_string() == *name);
            assert_eq!(recorded, conflict, "{shown}");
            let dirty = merged.still_dirty.contains(*name);
            assert_eq!(dirty, expected != r, "{shown}");
        }
    }
}

/// What the field becomes and whether a conflict is recorded. `base` is `None` when there is none.
fn expect(rule: &str, base: Option<Cell>, l: Cell, r: Cell, local_is_newer: bool) -> (Cell, bool) {
    let both_changed = base.is_none_or(|b| b != l && b != r);
    if !both_changed {
        return (if base == Some(l) { r } else { l }, false);
    }
    if rule == "counter" {
        if let (Some(b), Some(l), Some(r)) = (base, l, r) {
            // Offsets keep the oracle's numbers above zero: see `write`.
            let sum = l as i64 + r as i64 - b.map_or(100, i64::from);
            return (Some(sum as u32), true);
        }
    }
    if l == r {
        return (l, false);
    }
    let newer = if local_is_newer { l } else { r };
    let on_both = |work: &dyn Fn(u32, u32) -> Cell| match (l, r) {
        (Some(l), Some(r)) => work(l, r),
        _ => None,
    };
    let ruled = match rule {
        "server" | "immutable" => return (r, true),
        "client" | "ask" => return (l, true),
        "max" => on_both(&|l, r| Some(l.max(r))),
        "min" => on_both(&|l, r| Some(l.min(r))),
        "grow_set" => on_both(&|l, r| Some(l | r)),
        "or_set" => on_both(&|l, r| {
            let before = base.flatten().unwrap_or(0);
            Some((l & r) | (l & !before) | (r & !before))
        }),
        "text" => on_both(&|l, r| slots(base??, l, r)),
        "keyed" => on_both(&|l, r| Some(items(base.map(Option::unwrap_or_default), l, r, local_is_newer))),
        _ => None,
    };
    (ruled.or(newer), true)
}

/// Three independent lines; two different edits of one are nobody's to mix.
fn slots(base: u32, local: u32, remote: u32) -> Cell {
    let digit = |number: u32, at: u32| number >> (3 * at) & 7;
    (0..3).try_fold(0, |whole, at| {
        let (b, l, r) = (digit(base, at), digit(local, at), digit(remote, at));
        let line = if l == r || b == r {
            l
        } else if b == l {
            r
        } else {
            return None;
        };
        Some(whole | line << (3 * at))
    })
}

/// Four items with one bit of content each. The strategy is field_merge: an edit outlives a deletion.
fn items(base: Option<u32>, local: u32, remote: u32, local_is_newer: bool) -> u32 {
    let item = |set: u32, at: u32| (set >> at & 1 == 1).then_some(set >> (at + 4) & 1);
    (0..4).fold(0, |whole, at| {
        let (l, r) = (item(local, at), item(remote, at));
        let became = match (base.map(|base| item(base, at)), l, r) {
            (Some(b), l, r) if b == l => r,
            (Some(b), l, r) if b == r => l,
            (_, Some(l), Some(r)) => Some(if local_is_newer { l } else { r }),
            (_, l, r) => l.or(r),
        };
        whole | became.map_or(0, |content| 1 << at | content << (at + 4))
    })
}

fn write(kind: Kind, cell: u32) -> Value {
    match kind {
        // 100 is nothing, so that sums of small differences stay above zero here and cross zero there.
        Kind::Plain => Value::from(i64::from(cell) - 100),
        Kind::Set => (0..8)
            .filter(|bit| cell >> bit & 1 == 1)
            .map(|bit: u32| Value::from(bit))
            .collect::<Vec<_>>()
            .into(),
        Kind::Text => {
            let line = |at: u32| format!("slot{at} {}\nfixed{at}\n", cell >> (3 * at) & 7);
            (0..3).map(line).collect::<String>().into()
        }
        Kind::Keyed => {
            let item = |at: u32| {
                let content = cell >> (at + 4) & 1;
                Value::Object(Fields::from([("id", at), ("content", content)]))
            };
            (0..4).filter(|at| cell >> at & 1 == 1).map(item).collect::<Vec<_>>().into()
        }
    }
}

/// The oracle knows no order of elements.
fn in_order(kind: Kind, value: &Value) -> Value {
    let (Kind::Set | Kind::Keyed, Value::List(items)) = (kind, value) else { return value.clone() };
    let mut items = items.clone();
    items.sort_by_cached_key(|item| match item {
        Value::Object(fields) => serde_json::to_string(&fields.value("id")).ok(),
        plain => serde_json::to_string(plain).ok(),
    });
    items.into()
}

/// A linear congruential generator: enough for an oracle, and nothing in common with the laws' own.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(sides)) as u32
    }

    /// A base and two edits of it, each often the base itself.
    fn cells(&mut self, kind: Kind) -> [Cell; 3] {
        let base = self.cell(kind, 0);
        [base, self.edit(kind, base), self.edit(kind, base)]
    }

    fn edit(&mut self, kind: Kind, base: Cell) -> Cell {
        match (self.roll(10), base) {
            (0..3, _) => base,
            (3..7, Some(base)) => match kind {
                Kind::Plain => Some(base + self.roll(9) - 4),
                Kind::Text => {
                    let at = 3 * self.roll(3);
                    Some(base & !(7 << at) | self.roll(8) << at)
                }
                Kind::Set => Some(base ^ (1 << self.roll(8))),
                Kind::Keyed => Some(tidy(base ^ (1 << self.roll(8)))),
            },
            _ => self.cell(kind, 2),
        }
    }

    fn cell(&mut self, kind: Kind, fewer_absent: u32) -> Cell {
        if self.roll(4 + fewer_absent) == 0 {
            return None;
        }
        Some(match kind {
            Kind::Plain => 97 + self.roll(7),
            Kind::Text => self.roll(512),
            Kind::Set => self.roll(256),
            Kind::Keyed => tidy(self.roll(256)),
        })
    }
}

/// Content without its item is none.
fn tidy(cell: u32) -> u32 {
    cell & (0xF | (cell & 0xF) << 4)
}
