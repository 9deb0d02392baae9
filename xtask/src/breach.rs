//! One broken rule: where, what, and what to do about it. Checks collect breaches and report them all at
//! once.

use std::fmt::{self, Display, Write as _};

use anyhow::{Result, anyhow};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// A file of the repository, with a line number where there is one.
    pub(crate) place: String,
    pub(crate) what: String,
    /// How to mend it.
    pub(crate) remedy: String,
}

impl Breach {
    pub(crate) fn new(place: impl Display, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.to_string(), what: what.into(), remedy: remedy.into() }
    }
}

impl Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    mend: {}", self.place, self.what, self.remedy)
    }
}

/// `Ok(summary)` when nothing is broken, else one error that lists every breach.
pub(crate) fn verdict(breaches: &[Breach], summary: String) -> Result<String> {
    if breaches.is_empty() {
        return Ok(summary);
    }
    let mut list = String::new();
    for breach in breaches {
        let _ = write!(list, "\n  {breach}");
    }
    Err(anyhow!("{} found:{list}", count(breaches.len(), "breach", "breaches")))
}

/// `1 file`, `2 files`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_breach_is_listed_with_its_remedy() {
        let breaches = [Breach::new("a.rs:1", "first", "do this"), Breach::new("b.rs", "second", "do that")];
        let message = verdict(&breaches, String::new()).expect_err("two breaches").to_string();
        for part in ["2 breaches", "a.rs:1: first", "do this", "b.rs: second", "do that"] {
            assert!(message.contains(part), "{part:?} is missing in {message}");
        }
        assert_eq!(verdict(&[], "fine".into()).expect("no breach"), "fine");
    }
}
