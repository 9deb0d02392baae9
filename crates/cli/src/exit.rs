//! Exit codes: the same four for every command.
//!
//! Tests: `tests/cli_basics.rs`.

use landfall_core::failure::FailureKind;
use landfall_core::store::Counts;
use std::process::ExitCode;

/// The codes as help shows them.
pub(crate) const TABLE: &str = "\
Exit codes:
  0  done
  1  wrong usage or a local error; nothing was half-stored
  2  work is left and will be retried by the next `landfall sync`
  3  something needs attention: dead letters, conflicts, credentials, a stopped queue";

/// The codes of `landfall wait`.
pub(crate) const TABLE_WAIT: &str = "\
Exit codes:
  0  the backend has the change
  1  wrong usage, a local error, or nobody knows the task
  2  the time was over first; a `landfall sync` will go on with it
  3  it waits for a person, or it has ended without effect";

/// The codes of `landfall agent`.
pub(crate) const TABLE_AGENT: &str = "\
Exit codes:
  0  it was told to stop; nothing is lost
  1  wrong usage, or a local error that it cannot go on after";

/// The codes of commands that only read or store.
pub(crate) const TABLE_LOCAL: &str = "\
Exit codes:
  0  done
  1  wrong usage or a local error; nothing was half-stored";

/// What stands at the end of a command's help: examples, then its exit codes.
pub(crate) fn help(examples: &str, codes: &str) -> String {
    format!("Examples:\n{examples}\n\n{codes}")
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// All is done.
    Done,
    /// Wrong usage or a local error.
    Failed,
    /// Work is left and will be retried.
    WorkLeft,
    /// Something needs a person.
    Attention,
}

impl Exit {
    /// What the state of the queue says: a person first, then work that is left.
    pub(crate) fn of(left: &Counts, gate: Option<FailureKind>) -> Self {
        let waits_for_person = gate.is_some_and(needs_person) && left.total() > 0;
        if left.dead > 0 || left.conflict > 0 || waits_for_person {
            Self::Attention
        } else if left.total() > 0 {
            Self::WorkLeft
        } else {
            Self::Done
        }
    }
}

/// Whether sending goes on only after somebody did something.
pub(crate) fn needs_person(gate: FailureKind) -> bool {
    use FailureKind as Kind;
    match gate {
        Kind::Unauthenticated
        | Kind::ServerChanged
        | Kind::ClientUnknown
        | Kind::ClientSuperseded
        | Kind::Unsupported => true,
        Kind::Unreachable
        | Kind::Intercepted
        | Kind::Transient
        | Kind::RateLimited
        | Kind::Forbidden
        | Kind::Rejected
        | Kind::TooLarge
        | Kind::CursorExpired
        | Kind::Protocol
        | Kind::Damaged
        | Kind::FateUnknown
        | Kind::Cancelled
        | Kind::UnknownKind
        | Kind::Orphaned => false,
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WorkLeft => 2,
            Exit::Attention => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_asked_for_before_work_is_counted() {
        let none = Counts::default();
        let pending = Counts { pending: 1, ..none };
        let dead = Counts { pending: 1, dead: 1, ..none };
        let conflict = Counts { conflict: 1, ..none };
        let unknown = Counts { unknown: 1, ..none };
        for (left, gate, expected) in [
            (none, None, Exit::Done),
            (none, Some(FailureKind::Unauthenticated), Exit::Done),
            (pending, None, Exit::WorkLeft),
            (unknown, Some(FailureKind::Unreachable), Exit::WorkLeft),
            (pending, Some(FailureKind::Unauthenticated), Exit::Attention),
            (pending, Some(FailureKind::ServerChanged), Exit::Attention),
            (dead, None, Exit::Attention),
            (conflict, None, Exit::Attention),
        ] {
            assert_eq!(Exit::of(&left, gate), expected, "{left:?} {gate:?}");
        }
    }
}
