//! What must have come of all scripts: folded from plain maps, without any engine.
//!
//! A field that one author changed has his value. Of a field that several changed it is only known whose values it may
//! have; the proof wants the others on record. Counters, sets and groups come to what their names say, and a report that
//! is deleted by one and edited by another lives on with the edit. Tests: at the end of the file.

use super::rules::{COUNTER, GROUP, SET};
use super::script::{Deed, Fields, LOGBOOK, Name, STRIKE, Script, logbook_fields};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What must be of every record: `None` when it must be gone.
pub(super) type Outcome = BTreeMap<Name, Option<Wanted>>;

/// What must be of a record that lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// Fields of which the value is certain.
    pub(super) settled: Fields,
    /// Fields that have one of several values, and groups.
    pub(super) units: Vec<Unit>,
    /// What the counter must show, if anybody counted.
    pub(super) count: Option<i64>,
    /// What the set must hold, if anybody added to it.
    pub(super) tags: Option<BTreeSet<String>>,
    /// Who amended it in the second act.
    pub(super) authors: BTreeSet<usize>,
    /// Who deleted it in the second act.
    pub(super) deleted_by: Option<usize>,
    /// Who changed which field in the second act.
    pub(super) writers: BTreeMap<String, BTreeSet<usize>>,
}

/// Fields that belong together: one that several authors changed, or a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unit {
    /// Their names.
    pub(super) fields: Vec<String>,
    /// What each author wrote, in the order of the names.
    pub(super) said: BTreeMap<usize, Vec<Value>>,
}

impl Unit {
    /// Whether two authors wrote different things.
    pub(super) fn is_contested(&self) -> bool {
        let mut said = self.said.values();
        let first = said.next();
        said.any(|other| Some(other) != first)
    }

    /// Whether it is more than one field.
    pub(super) fn is_group(&self) -> bool {
        self.fields.len() > 1
    }
}

impl Wanted {
    /// Certain from beginning to end.
    pub(super) fn settled(fields: Fields) -> Self {
        Self { settled: fields, ..Self::default() }
    }

    /// Whether several devices amended it.
    pub(super) fn is_shared(&self) -> bool {
        self.authors.len() > 1
    }

    /// Fields of a shared report that exactly one author changed.
    pub(super) fn merged(&self) -> usize {
        let single = |name: &&String| {
            self.settled.contains_key(*name) && self.writers.get(*name).is_some_and(|who| who.len() == 1)
        };
        if self.is_shared() { self.writers.keys().filter(single).count() } else { 0 }
    }
}

/// What must have come of the scripts.
pub(super) fn outcome(scripts: &[Script]) -> Outcome {
    let mut records = Outcome::new();
    for script in scripts {
        for step in script.acts[0].steps() {
            let record = records.entry((STRIKE.to_owned(), step.id.clone())).or_insert(None);
            alone(record, &step.deed);
        }
        if script.len() > 0 {
            let logbook = Wanted::settled(logbook_fields(script.len()));
            records.insert((LOGBOOK.to_owned(), script.logbook()), Some(logbook));
        }
    }
    let mut said = BTreeMap::new();
    for script in scripts {
        for step in script.acts[1].steps() {
            let name = (STRIKE.to_owned(), step.id.clone());
            if let Some(wanted) = records.entry(name.clone()).or_insert(None) {
                together(wanted, said.entry(name).or_default(), script.device, &step.deed);
            }
        }
    }
    for (name, units) in said {
        let Some(Some(wanted)) = records.get_mut(&name) else { continue };
        for (fields, said) in units {
            let unit = Unit { fields, said };
            match unit.said.values().next() {
                Some(value) if !unit.is_group() && !unit.is_contested() => {
                    let pairs = unit.fields.iter().cloned().zip(value.iter().cloned());
                    wanted.settled.extend(pairs);
                }
                _ => {
                    for field in &unit.fields {
                        wanted.settled.remove(field);
                    }
                    wanted.units.push(unit);
                }
            }
        }
    }
    records
}

/// One author at a time: the last word counts.
fn alone(record: &mut Option<Wanted>, deed: &Deed) {
    match deed {
        Deed::Create(fields) => *record = Some(Wanted::settled(fields.clone())),
        Deed::Amend { set, unset } => {
            let fields = &mut record.get_or_insert_with(Wanted::default).settled;
            fields.extend(set.clone());
            for name in unset {
                fields.remove(name);
            }
        }
        Deed::Delete => *record = None,
        Deed::Contribute { .. } => {}
    }
}

/// Fields that belong together, and what each author wrote.
type Said = BTreeMap<Vec<String>, BTreeMap<usize, Vec<Value>>>;

/// Several authors who do not know of each other: everything is collected.
fn together(wanted: &mut Wanted, said: &mut Said, device: usize, deed: &Deed) {
    wanted.authors.insert(device);
    match deed {
        Deed::Contribute { set, reviews, tags } => {
            let group = GROUP.map(str::to_owned).to_vec();
            if let Some(values) = group.iter().map(|name| set.get(name).cloned()).collect() {
                said.entry(group.clone()).or_default().insert(device, values);
            }
            for (name, value) in set {
                wanted.writers.entry(name.clone()).or_default().insert(device);
                if !group.contains(name) {
                    said.entry(vec![name.clone()]).or_default().insert(device, vec![value.clone()]);
                }
            }
            if *reviews != 0 {
                wanted.count = Some(wanted.count.unwrap_or(0) + reviews);
                wanted.writers.entry(COUNTER.to_owned()).or_default().insert(device);
            }
            if !tags.is_empty() {
                wanted.tags.get_or_insert_default().extend(tags.iter().cloned());
                wanted.writers.entry(SET.to_owned()).or_default().insert(device);
            }
        }
        Deed::Delete => wanted.deleted_by = Some(device),
        Deed::Create(_) | Deed::Amend { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::script::{REPORTS_MAX, scripts};

    #[test]
    fn every_kind_of_meeting_happens_and_nobody_is_forgotten() {
        for devices in [2, 3, 4, 16] {
            let outcome = outcome(&scripts(REPORTS_MAX, devices));
            let shared: Vec<_> = outcome.values().flatten().filter(|wanted| wanted.is_shared()).collect();
            assert!((1_300..1_700).contains(&shared.len()), "{} shared", shared.len());
            let contested = |group| {
                let units = shared.iter().flat_map(|wanted| &wanted.units);
                units.filter(|unit| unit.is_group() == group && unit.is_contested()).count()
            };
            assert!(contested(false) > 300 && contested(true) > 200);
            assert!(shared.iter().filter(|wanted| wanted.count.is_some()).count() > 300);
            assert!(shared.iter().filter(|wanted| wanted.deleted_by.is_some()).count() > 80);
            assert!(shared.iter().map(|wanted| wanted.merged()).sum::<usize>() > 1_000);
            for wanted in shared {
                for unit in &wanted.units {
                    assert!(unit.fields.iter().all(|name| !wanted.settled.contains_key(name)));
                    let different: Vec<_> = unit.said.values().collect();
                    assert!(different.iter().enumerate().all(|(at, value)| !different[..at].contains(value)));
                }
            }
        }
        let alone = outcome(&scripts(REPORTS_MAX, 1));
        assert!(alone.values().flatten().all(|wanted| !wanted.is_shared()));
    }

    #[test]
    fn the_last_word_counts_alone_and_every_word_together() {
        let mut wanted = Wanted::default();
        let mut said = Said::new();
        let price = |amount: i64| Deed::Contribute {
            set: [(GROUP[0].to_owned(), amount.into()), (GROUP[1].to_owned(), "USD".into())]
                .into_iter()
                .collect(),
            reviews: amount,
            tags: vec![format!("t{amount}")],
        };
        together(&mut wanted, &mut said, 1, &price(5));
        together(&mut wanted, &mut said, 2, &price(7));
        assert_eq!((wanted.count, wanted.tags.as_ref().map(BTreeSet::len)), (Some(12), Some(2)));
        assert_eq!(said[&GROUP.map(str::to_owned).to_vec()].len(), 2);
    }
}
