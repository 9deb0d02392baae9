//! What ends a command: what is wrong, and what to do about it.
//!
//! Errors of the crates below say what is wrong; the advice is added here, once. Tests: below, and
//! `tests/store_troubles.rs`.

use landfall_core::machine::{EnqueueError, TaskError};
use landfall_core::store::StoreError;
use landfall_engine::Error;
use serde::Serialize;
use std::fmt;

/// What is wrong, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Problem {
    /// What is wrong.
    pub(crate) error: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// Without advice.
    pub(crate) fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), hint: None }
    }

    /// With advice.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what was going on in front.
    #[must_use]
    pub(crate) fn context(mut self, context: impl fmt::Display) -> Self {
        self.error = format!("{context}: {}", self.error);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Problem {}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let hint = match &error {
            StoreError::Busy(_) => "another program is writing to this file; try again when it is done",
            StoreError::Full(_) => "free some space on that disk, then repeat the command",
            StoreError::ReadOnly(_) => "make the file and its folder writable for this user",
            StoreError::Corrupt(_) => {
                "keep the file and the files beside it that end in -wal and -shm; go on with a backup or a new file"
            }
            StoreError::Damaged(_) => {
                "the other rows are not affected; `landfall queue` names the damaged ones"
            }
            StoreError::TooNew { .. } => "use the newer landfall that wrote it",
            StoreError::Foreign(_) => {
                "`--db` must name a queue file, which `landfall enqueue` makes if there is none"
            }
            StoreError::Io(_) => "check that the folder exists and that the disk works",
            _ => return Self::new(error.to_string()),
        };
        Self::new(error.to_string()).hint(hint)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) | Error::Enqueue(EnqueueError::Store(error)) => error.into(),
            Error::Input(error) => match error.downcast::<Self>() {
                Ok(problem) => *problem,
                Err(error) => Self::new(error.to_string()),
            },
            Error::OutcomeUnknown { task: Some(task), .. } => Self::new(error.to_string())
                .hint(format!("repeat the command with `--repeat-of {task}`: there will be one task")),
            Error::OutcomeUnknown { task: None, .. } => Self::new(error.to_string()).hint(
                "all of it is there, or nothing: when the disk works again, `landfall queue` shows which; repeat it only then",
            ),
            Error::Task(error) => {
                let hint = match &error {
                    TaskError::NotFound(_) => {
                        "`landfall queue` lists the tasks; ended ones are remembered for 30 days"
                    }
                    TaskError::Ended { .. } => "`landfall task TASK` shows how it ended",
                    TaskError::WrongState { .. } => "`landfall explain TASK` says where it stands",
                    _ => return Self::new(error.to_string()),
                };
                Self::new(error.to_string()).hint(hint)
            }
            error => Self::new(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::id::TaskId;

    #[test]
    fn every_trouble_of_the_store_comes_with_advice() {
        for error in [
            StoreError::Busy("x".into()),
            StoreError::Full("x".into()),
            StoreError::ReadOnly("x".into()),
            StoreError::Corrupt("x".into()),
            StoreError::Damaged("x".into()),
            StoreError::TooNew { found: 9, known: 1 },
            StoreError::Foreign("x".into()),
            StoreError::Io("x".into()),
        ] {
            let problem = Problem::from(Error::from(error));
            assert!(problem.hint.is_some(), "{problem}");
        }
    }

    #[test]
    fn a_fate_that_nobody_knows_comes_with_advice() {
        let task = TaskId::parse("00000000-0000-4000-8000-000000000007").unwrap();
        for (task, said) in [(Some(task), "(task 00000000-"), (None, "is unknown: ")] {
            let problem = Problem::from(Error::OutcomeUnknown { task, reason: StoreError::Full("x".into()) });
            assert!(problem.error.contains(said), "{problem}");
            assert!(problem.hint.is_some(), "{problem}");
        }
    }

    #[test]
    fn a_problem_passes_through_the_engine_unchanged() {
        let problem = Problem::new("line 7: bad").hint("mend it");
        assert_eq!(Problem::from(Error::Input(problem.clone().into())), problem);
    }
}
