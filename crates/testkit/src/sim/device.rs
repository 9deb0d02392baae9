//! A device: one store, one or two processes that drive a machine on it, and what its user believes.

use super::habits::Tries;
use landfall_core::change::Change;
use landfall_core::entity::Body;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::machine::Machine;
use landfall_core::store::{StoreError, StoreRead};
use landfall_core::time::Hlc;
use landfall_core::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One store and who works on it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) processes: Vec<Process>,
    /// What the wall clock shows beside the true time.
    pub(super) clock_error_ms: i64,
    pub(super) online: bool,
    pub(super) belief: Belief,
    /// Changes of which nobody knows whether they were stored, oldest first.
    pub(super) doubts: Vec<Doubt>,
}

/// One running program, until it is killed.
#[derive(Debug)]
pub(super) struct Process {
    /// `None` while it does not run.
    pub(super) machine: Option<Machine>,
    /// Counts starts: an answer to a request of an earlier life finds nobody.
    pub(super) life: u64,
    /// Wake-ups already in the calendar.
    pub(super) woken_at: Option<u64>,
    /// Whether the host has put the app to sleep.
    pub(super) suspended: bool,
    pub(super) tries: Tries,
}

/// What the user did and was told, kept apart from the engine.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// Records that only this device changes, as its user left them. `None`: deleted.
    pub(super) own: BTreeMap<EntityKey, Option<BTreeMap<String, Value>>>,
    /// Every value this user ever wrote into a field of a record.
    pub(super) written: BTreeSet<(EntityKey, String, String)>,
    /// Tasks the store acknowledged.
    pub(super) acknowledged: BTreeSet<TaskId>,
    /// The last value this user gave each field of the records that all devices change.
    pub(super) last: BTreeMap<(EntityKey, String), Value>,
    /// What this user added to the common counter.
    pub(super) counted: i64,
    /// What this user put into the common set.
    pub(super) added: BTreeSet<i64>,
}

/// A change in whose commit the process died.
#[derive(Debug)]
pub(super) struct Doubt {
    /// The trace it left, if it was stored.
    newest: Hlc,
    what: Tentative,
    /// Whether it was there when somebody looked last.
    seen: bool,
}

/// What the user will believe if it was stored.
#[derive(Debug)]
pub(super) enum Tentative {
    Own(Change),
    Shared(Change),
    Counted(i64),
    Added(i64),
    /// Nothing that a user would know of.
    Nothing,
}

impl Doubt {
    /// Without a trace the commit was never tried.
    pub(super) fn new(newest: Option<Hlc>, what: Tentative) -> Option<Self> {
        newest.map(|newest| Self { newest, what, seen: false })
    }

    /// Looks which of them are there. What was seen before a later one that is there too, stays as it was seen.
    pub(super) fn see_all(doubts: &mut [Self], tx: &dyn StoreRead) -> Result<(), StoreError> {
        if doubts.is_empty() {
            return Ok(());
        }
        let clock = tx.replica()?.map(|replica| replica.clock);
        for doubt in doubts.iter_mut().rev() {
            doubt.seen = clock >= Some(doubt.newest);
            if doubt.seen {
                break;
            }
        }
        Ok(())
    }

    /// What was seen is durable now.
    pub(super) fn settle_all(doubts: &mut Vec<Self>, belief: &mut Belief) {
        doubts.drain(..).filter(|doubt| doubt.seen).for_each(|doubt| doubt.what.believe(belief));
    }
}

impl Tentative {
    pub(super) fn believe(&self, belief: &mut Belief) {
        match self {
            Self::Own(change) => belief.note(change),
            Self::Shared(change) => belief.note_shared(change),
            Self::Counted(by) => belief.counted += by,
            Self::Added(item) => drop(belief.added.insert(*item)),
            Self::Nothing => {}
        }
    }
}

impl Belief {
    /// The user is about to make a change: what it writes may be sent from now on.
    pub(super) fn intend(&mut self, change: &Change) {
        for (name, value) in &change.intent.fields.0 {
            self.written.insert((change.entity.clone(), name.clone(), format!("{value:?}")));
        }
    }

    /// The user's own bookkeeping of a change that was taken: written without the engine's functions.
    pub(super) fn note(&mut self, change: &Change) {
        use landfall_core::change::Operation::{Action, Create, Delete, Replace, Update, Upsert};
        let record = self.own.entry(change.entity.clone()).or_default();
        match change.intent.operation {
            Delete => *record = None,
            Create | Replace => *record = Some(change.intent.fields.0.clone()),
            Update | Upsert => {
                let fields = record.get_or_insert_with(BTreeMap::new);
                for name in &change.intent.unset {
                    fields.remove(name);
                }
                fields.extend(change.intent.fields.0.clone());
            }
            // What a command does is the backend's to know.
            Action => {}
        }
    }

    /// The user's own bookkeeping of a change of a record that all devices change.
    pub(super) fn note_shared(&mut self, change: &Change) {
        use landfall_core::change::Operation::{Create, Delete, Replace};
        let whole = matches!(change.intent.operation, Create | Delete | Replace);
        let unset = &change.intent.unset;
        self.last.retain(|(key, name), _| *key != change.entity || !(whole || unset.contains(name)));
        for (name, value) in &change.intent.fields.0 {
            self.last.insert((change.entity.clone(), name.clone()), value.clone());
        }
    }

    /// Whether the engine shows the record as the user left it.
    pub(super) fn agrees(&self, key: &EntityKey, shown: Option<&Body>) -> bool {
        match (self.own.get(key), shown) {
            (None | Some(None), None | Some(Body::Deleted)) => true,
            (Some(Some(fields)), Some(Body::Live(shown))) => *fields == shown.0,
            _ => false,
        }
    }
}
