//! Words for what a task waits for: the same wherever a queue, a sync or `landfall explain` says it.
//!
//! The reasons themselves are the core's. Tests: below, `tests/lifecycle.rs`.

use crate::moment;
use crate::table::visible;
use landfall_core::explain::{Blocker, Explanation, Wait};
use landfall_core::task::StateKind;
use landfall_core::time::Timestamp;

/// A few words for a column; more reasons than one are counted.
pub(crate) fn short(explanation: &Explanation, now: Timestamp) -> String {
    let Some(first) = explanation.waits_for.first() else { return "a sync that is running".into() };
    let words = match first {
        Wait::Answer => "an answer".into(),
        Wait::DeadLetter { .. } | Wait::Conflict { .. } => "a decision".into(),
        Wait::Backoff { until } | Wait::NotBefore { until } => {
            let away = moment::away(*until, now);
            format!("{} to pass", away.strip_prefix("in ").unwrap_or(&away))
        }
        Wait::EarlierChange(blocker) | Wait::Dependency(blocker) => short_blocker(blocker),
        Wait::Lane { blocker, .. } | Wait::Group { blocker, .. } => short_blocker(blocker),
        Wait::Paused | Wait::TypePaused | Wait::LanePaused => "`landfall resume`".into(),
        Wait::UnmeteredNetwork => "an unmetered network".into(),
        Wait::Gate { why, .. } => why.as_str().replace('_', " "),
        Wait::Offline { .. } => "a network".into(),
        Wait::Condition { unmet } => unmet.wanted().into(),
        Wait::Suspended => "the app to wake up".into(),
        Wait::NextRun { at } => format!("the next run {}", moment::away(*at, now)),
        Wait::Lease { .. } => "a sync that is running".into(),
        Wait::Sync => "the next sync".into(),
        _ => "something else".into(),
    };
    match explanation.waits_for.len() {
        1 => words,
        more => format!("{words} (+{})", more - 1),
    }
}

/// The state and the task; a state that is no news is left out, so that the id fits a column.
fn short_blocker(blocker: &Blocker) -> String {
    match blocker.state {
        StateKind::Dead => format!("dead {}", blocker.task),
        StateKind::Conflict => format!("conflict {}", blocker.task),
        _ => format!("task {}", blocker.task),
    }
}

/// Whether it waits for another task, so that sending alone does not help.
pub(crate) fn blocker(wait: &Wait) -> Option<&Blocker> {
    match wait {
        Wait::EarlierChange(blocker) | Wait::Dependency(blocker) => Some(blocker),
        Wait::Lane { blocker, .. } | Wait::Group { blocker, .. } => Some(blocker),
        _ => None,
    }
}

/// A task in the way, in words: what it does, where it stands, and its id.
pub(crate) fn in_the_way(blocker: &Blocker) -> String {
    let state = match blocker.state {
        StateKind::Pending => "waits itself",
        StateKind::InFlight => "is on its way",
        StateKind::Unknown => "was sent without an answer",
        StateKind::Conflict => "waits for a decision about a conflict",
        StateKind::Dead => "was refused and waits for a decision",
    };
    let entity = &blocker.entity;
    format!(
        "the {} of {} {}, which {state} (task {})",
        blocker.operation,
        visible(&entity.entity_type),
        visible(&entity.entity_id),
        blocker.task
    )
}

/// One whole sentence, and what to do about it if something can be done.
pub(crate) fn sentence(wait: &Wait, task: &Explanation, now: Timestamp) -> String {
    let id = task.task;
    let kind = visible(&task.entity.entity_type);
    match wait {
        Wait::Answer => "It is on its way; the backend's answer is awaited.".into(),
        Wait::DeadLetter { why } => format!(
            "It was refused or given up ({}) and waits for you: `landfall dead show {id}` says more.",
            why.as_str().replace('_', " ")
        ),
        Wait::Conflict { conflict: Some(conflict) } => format!(
            "Both sides changed the record, and it waits for you: `landfall conflicts show {conflict}` says more."
        ),
        Wait::Conflict { conflict: None } => {
            "Both sides changed the record, and it waits for you: see `landfall conflicts list`.".into()
        }
        Wait::Backoff { until } => format!(
            "It is tried again at {}; `landfall retry-now {id}` ends the wait.",
            moment::both(*until, now)
        ),
        Wait::NotBefore { until } => {
            format!("You asked not to send it before {}.", moment::both(*until, now))
        }
        Wait::EarlierChange(blocker) => {
            format!("It waits for an earlier change of its record: {}.", in_the_way(blocker))
        }
        Wait::Lane { lane, blocker } => {
            format!("It waits in the lane {} for {}.", visible(lane), in_the_way(blocker))
        }
        Wait::Dependency(blocker) => format!("It depends on {}.", in_the_way(blocker)),
        Wait::Group { group, blocker } => {
            format!(
                "It is sent together with the group {}, and waits for {}.",
                visible(group),
                in_the_way(blocker)
            )
        }
        Wait::Paused => "Everything is paused: `landfall resume` lets it go on.".into(),
        Wait::TypePaused => {
            format!("Records of the type {kind} are paused: `landfall resume --type {kind}` lets them go on.")
        }
        Wait::LanePaused => "Its lane is paused: `landfall resume --lane LANE` lets it go on.".into(),
        Wait::UnmeteredNetwork => {
            "It waits for an unmetered network: a `landfall sync` without --metered sends it.".into()
        }
        Wait::Gate { why, message, until } => {
            let until = until.map(|until| format!(" It is tried again at {}.", moment::both(until, now)));
            format!(
                "Nothing is sent now ({}): {}.{}",
                why.as_str().replace('_', " "),
                visible(message),
                until.unwrap_or_default()
            )
        }
        Wait::Offline { until } => {
            let until =
                until.map(|until| format!("; it is tried all the same at {}", moment::both(until, now)));
            format!("The device says that it has no network{}.", until.unwrap_or_default())
        }
        Wait::Condition { unmet } => format!("It waits for {}.", unmet.wanted()),
        Wait::Suspended => "The app that sends is asleep; it goes on when that is resumed.".into(),
        Wait::Lease { holder, until } => format!(
            "Another process is sending ({}); if it falls silent, that is over at {}.",
            visible(holder),
            moment::both(*until, now)
        ),
        Wait::NextRun { at } => {
            format!("Nothing is in its way: the next run begins by itself at {}.", moment::both(*at, now))
        }
        Wait::Sync => "Nothing is in its way: the next `landfall sync` sends it.".into(),
        _ => "It waits for something that this program does not know.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::id::{EntityKey, TaskId};

    #[test]
    fn the_first_reason_is_shown_and_the_others_are_counted() {
        let task = TaskId::parse("0b9c5a1e-6f0d-5b0e-9c1a-2f4f6a3a9d10").unwrap();
        let entity = EntityKey::new("note", "n1");
        let of =
            |waits_for| Explanation { task, entity: entity.clone(), state: StateKind::Pending, waits_for };
        let now = Timestamp(0);
        assert_eq!(short(&of(vec![Wait::Sync]), now), "the next sync");
        let until = Timestamp(30_000);
        assert_eq!(short(&of(vec![Wait::Backoff { until }, Wait::Paused]), now), "30 s to pass (+1)");
        let blocker = Blocker {
            task,
            entity: entity.clone(),
            operation: landfall_core::change::Operation::Update,
            state: StateKind::Dead,
        };
        let waits = Wait::EarlierChange(blocker);
        let text = sentence(&waits, &of(vec![waits.clone()]), now);
        assert!(text.contains("the update of note n1, which was refused"), "{text}");
    }
}
