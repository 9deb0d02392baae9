//! Asking before something is given up: on a terminal by a question, elsewhere by `--yes`.
//!
//! Tests: `tests/lifecycle.rs`.

use crate::problem::Problem;
use std::io::{self, IsTerminal, Write};

/// Whether to go on. Where nobody can be asked, only `--yes` says so.
pub(crate) fn confirmed(question: &str, yes: bool) -> Result<bool, Problem> {
    if yes {
        return Ok(true);
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Problem::new(format!("{question} Nobody is here to be asked"))
            .hint("add --yes to do it; nothing was changed"));
    }
    drop(write!(io::stderr(), "{question} [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Problem::new(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
