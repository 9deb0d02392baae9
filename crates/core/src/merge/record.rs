//! What becomes of a record as a whole: above all when one side deleted what the other edited.
//!
//! Decides; does nothing. The fields of two live records are merged by [`super::fields`]. Tests: at the end, one line
//! for each row.

use super::conflict::Side;
use super::rule::{DeletePolicy, RulesOf, Strategy};
use crate::entity::{Base, Body};
use alloc::string::String;

/// What is to be done with a record when its remote state has come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordDecision {
    /// Nothing of ours is at stake: it becomes what the backend has. No conflict.
    TakeRemote,
    /// The backend still has what it had: our change goes on as it is. No conflict.
    KeepLocal,
    /// Both sides live: merge them field by field.
    MergeFields,
    /// Edited here, deleted there: a conflict, to be written down whatever the fate.
    EditedHereDeletedThere(EditFate),
    /// Deleted here, edited there: a conflict, to be written down whatever the fate.
    DeletedHereEditedThere(DeleteFate),
}

/// What becomes of an edit of a record that the backend deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditFate {
    /// The record goes; the edit stays in the conflict record.
    Delete,
    /// The record is made again from the local state.
    Recreate,
    /// The record goes; the local state becomes a record of its own.
    Fork,
    /// A person decides.
    Ask,
    /// The resolver of this name decides.
    Custom(String),
}

/// What becomes of a deletion of a record that somebody edited meanwhile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeleteFate {
    /// The deletion is sent on, now knowing the edit, which stays in the conflict record.
    Delete,
    /// The edited record comes back.
    Restore,
    /// A person decides.
    Ask,
    /// The resolver of this name decides.
    Custom(String),
}

impl RecordDecision {
    /// Whether a conflict record must be written. For [`Self::MergeFields`] the fields say so.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::EditedHereDeletedThere(_) | Self::DeletedHereEditedThere(_))
    }
}

/// Decides what becomes of a record.
///
/// | local | remote | decision |
/// |---|---|---|
/// | as the base, or as the remote (with a counter declared: only as the base) | anything | [`RecordDecision::TakeRemote`] |
/// | changed | as the base | [`RecordDecision::KeepLocal`] |
/// | edited | edited | [`RecordDecision::MergeFields`] |
/// | edited | deleted | [`RecordDecision::EditedHereDeletedThere`] |
/// | deleted | edited | [`RecordDecision::DeletedHereEditedThere`] |
///
/// "As the base" needs a base that holds every field; only for a record that the backend deleted is a local state
/// that changed nothing it knows of enough.
pub fn record(
    base: Option<&Base>,
    local: &Body,
    remote: &Body,
    rules: RulesOf<'_>,
    newer: Option<Side>,
) -> RecordDecision {
    let is_base = |body: &Body| base.is_some_and(|base| base.body == *body);
    let base_is_whole = base.is_some_and(|base| base.complete || base.body == Body::Deleted);
    match (local, remote) {
        (local, _) if is_base(local) && base_is_whole => RecordDecision::TakeRemote,
        (_, remote) if is_base(remote) && base_is_whole => RecordDecision::KeepLocal,
        // Two sides that counted to the same number have counted twice: only the fields can say.
        (Body::Live(_), Body::Live(_)) if rules.counts() => RecordDecision::MergeFields,
        (local, remote) if local == remote => RecordDecision::TakeRemote,
        (Body::Live(_), Body::Live(_)) => RecordDecision::MergeFields,
        (Body::Live(_), Body::Deleted) if is_base(local) => RecordDecision::TakeRemote,
        (Body::Live(_), Body::Deleted) => {
            RecordDecision::EditedHereDeletedThere(match fate(rules, newer, Side::Remote) {
                Fate::Delete => EditFate::Delete,
                Fate::Keep => EditFate::Recreate,
                Fate::Fork => EditFate::Fork,
                Fate::Ask => EditFate::Ask,
                Fate::Custom(name) => EditFate::Custom(name),
            })
        }
        (Body::Deleted, Body::Live(_)) => {
            RecordDecision::DeletedHereEditedThere(match fate(rules, newer, Side::Local) {
                Fate::Delete => DeleteFate::Delete,
                Fate::Keep | Fate::Fork => DeleteFate::Restore,
                Fate::Ask => DeleteFate::Ask,
                Fate::Custom(name) => DeleteFate::Custom(name),
            })
        }
        (Body::Deleted, Body::Deleted) => RecordDecision::TakeRemote,
    }
}

/// What becomes of a record, or of an item of a keyed list, that one side deleted and the other edited.
pub(super) enum Fate {
    Delete,
    Keep,
    Fork,
    Ask,
    Custom(String),
}

/// The declared policy, or else what the strategy implies: `deleter` is the side that deleted.
pub(super) fn fate(rules: RulesOf<'_>, newer: Option<Side>, deleter: Side) -> Fate {
    if let Some(policy) = rules.deletes {
        return match policy {
            DeletePolicy::DeleteWins => Fate::Delete,
            DeletePolicy::EditWins => Fate::Keep,
            DeletePolicy::Ask => Fate::Ask,
            DeletePolicy::Fork => Fate::Fork,
        };
    }
    let winner = match rules.strategy {
        Strategy::ServerWins => Some(Side::Remote),
        Strategy::ClientWins => Some(Side::Local),
        Strategy::LastWriteWins => newer,
        // Losing work is worse than an extra record.
        Strategy::FieldMerge => None,
        Strategy::Ask => return Fate::Ask,
        Strategy::Fork => return Fate::Fork,
        Strategy::Custom(name) => return Fate::Custom(name.clone()),
    };
    if winner == Some(deleter) { Fate::Delete } else { Fate::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::rule::Rules;
    use crate::value::Fields;

    fn live(n: i32) -> Body {
        Body::Live(Fields::from([("n", n)]))
    }

    fn base(body: Body, complete: bool) -> Option<Base> {
        Some(Base { body, version: None, complete })
    }

    #[test]
    fn every_row_of_the_record_table() {
        use RecordDecision::{
            DeletedHereEditedThere as Deleted, EditedHereDeletedThere as Edited, KeepLocal, MergeFields,
            TakeRemote,
        };
        let gone = Body::Deleted;
        let merged = Rules::new(Strategy::FieldMerge);
        let rows = [
            // base                       local     remote    decision
            (base(live(1), true), live(1), live(2), TakeRemote),
            (base(live(1), true), live(1), live(1), TakeRemote),
            (base(live(1), true), live(2), live(2), TakeRemote),
            (base(live(1), true), live(2), live(1), KeepLocal),
            (base(live(1), true), live(2), live(3), MergeFields),
            (base(live(1), true), live(1), gone.clone(), TakeRemote),
            (base(live(1), true), live(2), gone.clone(), Edited(EditFate::Recreate)),
            (base(live(1), true), gone.clone(), live(1), KeepLocal),
            (base(live(1), true), gone.clone(), live(2), Deleted(DeleteFate::Restore)),
            (base(live(1), true), gone.clone(), gone.clone(), TakeRemote),
            (base(gone.clone(), true), live(1), gone.clone(), KeepLocal),
            (base(gone.clone(), true), gone.clone(), live(1), TakeRemote),
            (base(gone.clone(), true), live(1), live(2), MergeFields),
            // A base that does not hold every field says nothing of the others.
            (base(live(1), false), live(1), live(2), MergeFields),
            (base(live(1), false), live(2), live(1), MergeFields),
            (base(live(1), false), live(1), gone.clone(), TakeRemote),
            (base(live(1), false), live(2), gone.clone(), Edited(EditFate::Recreate)),
            (base(live(1), false), gone.clone(), live(1), Deleted(DeleteFate::Restore)),
            (None, live(1), live(2), MergeFields),
            (None, live(1), live(1), TakeRemote),
            (None, live(1), gone.clone(), Edited(EditFate::Recreate)),
            (None, gone.clone(), live(1), Deleted(DeleteFate::Restore)),
            (None, gone.clone(), gone.clone(), TakeRemote),
        ];
        for (base, local, remote, expected) in rows {
            let decision = record(base.as_ref(), &local, &remote, merged.of("t"), None);
            assert_eq!(decision, expected, "{base:?} {local:?} {remote:?}");
            let clash = matches!(expected, Edited(_) | Deleted(_));
            assert_eq!(decision.is_conflict(), clash, "{decision:?}");
        }
    }

    #[test]
    fn two_sides_that_counted_to_the_same_number_are_not_taken_for_one() {
        let mut counted = Rules::new(Strategy::FieldMerge);
        counted.declare("t.n=counter").unwrap();
        let decide =
            |of: &str, base: Option<Base>| record(base.as_ref(), &live(2), &live(2), counted.of(of), None);
        assert_eq!(decide("t", base(live(1), true)), RecordDecision::MergeFields);
        assert_eq!(decide("t", base(live(2), true)), RecordDecision::TakeRemote, "nobody counted");
        assert_eq!(decide("other", base(live(1), true)), RecordDecision::TakeRemote);
    }

    #[test]
    fn every_strategy_and_policy_decides_both_clashes() {
        use Side::{Local, Remote};
        use Strategy::{Ask, ClientWins, Custom, FieldMerge, Fork, LastWriteWins, ServerWins};
        let custom = || Custom("c".into());
        let rows = [
            // strategy, policy, newer                            edited here          deleted here
            (ServerWins, None, Some(Local), EditFate::Delete, DeleteFate::Restore),
            (ClientWins, None, Some(Remote), EditFate::Recreate, DeleteFate::Delete),
            (LastWriteWins, None, Some(Local), EditFate::Recreate, DeleteFate::Delete),
            (LastWriteWins, None, Some(Remote), EditFate::Delete, DeleteFate::Restore),
            (LastWriteWins, None, None, EditFate::Recreate, DeleteFate::Restore),
            (FieldMerge, None, Some(Remote), EditFate::Recreate, DeleteFate::Restore),
            (FieldMerge, None, Some(Local), EditFate::Recreate, DeleteFate::Restore),
            (Ask, None, Some(Local), EditFate::Ask, DeleteFate::Ask),
            (Fork, None, None, EditFate::Fork, DeleteFate::Restore),
            (custom(), None, None, EditFate::Custom("c".into()), DeleteFate::Custom("c".into())),
            (ServerWins, Some(DeletePolicy::EditWins), None, EditFate::Recreate, DeleteFate::Restore),
            (Ask, Some(DeletePolicy::DeleteWins), None, EditFate::Delete, DeleteFate::Delete),
            (FieldMerge, Some(DeletePolicy::Ask), None, EditFate::Ask, DeleteFate::Ask),
            (ClientWins, Some(DeletePolicy::Fork), None, EditFate::Fork, DeleteFate::Restore),
            (custom(), Some(DeletePolicy::EditWins), None, EditFate::Recreate, DeleteFate::Restore),
        ];
        for (strategy, policy, newer, edited, deleted) in rows {
            let mut rules = Rules::new(strategy);
            rules.deletes = policy;
            let decide = |local: &Body, remote: &Body| {
                record(base(live(1), true).as_ref(), local, remote, rules.of("t"), newer)
            };
            let here = decide(&live(2), &Body::Deleted);
            assert_eq!(here, RecordDecision::EditedHereDeletedThere(edited), "{rules:?}");
            assert!(here.is_conflict());
            let there = decide(&Body::Deleted, &live(2));
            assert_eq!(there, RecordDecision::DeletedHereEditedThere(deleted), "{rules:?}");
            assert!(there.is_conflict());
        }
    }
}
