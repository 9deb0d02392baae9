//! Where words go: results to standard output, progress and errors to standard error.
//!
//! A reader that goes away (`| head`) is no error: what comes after is dropped, and [`Output::is_closed`] lets a long
//! listing stop. Colours appear only where they are wanted. Tests: `tests/cli_basics.rs`.

use crate::problem::Problem;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};

/// The style of `error:`.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// The style of `hint:`.
pub(crate) const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// The style of what is wrong but goes on.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// The style of headings.
pub(crate) const HEAD: Style = Style::new().bold();

/// Both streams, and whether JSON was asked for.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    closed: Cell<bool>,
}

impl Output {
    /// For one run of a command.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, closed: Cell::new(false) }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether nobody reads results any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// A line of results.
    pub(crate) fn line(&self, text: impl fmt::Display) -> Result<(), Problem> {
        self.write(format_args!("{text}\n"))
    }

    /// Results as they are.
    pub(crate) fn write(&self, text: fmt::Arguments<'_>) -> Result<(), Problem> {
        if self.closed.get() {
            return Ok(());
        }
        let mut stdout = anstream::stdout().lock();
        self.checked(stdout.write_fmt(text).and_then(|()| stdout.flush()))
    }

    /// One JSON text on a line of its own.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Problem> {
        self.line(json(value)?)
    }

    fn checked(&self, written: io::Result<()>) -> Result<(), Problem> {
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.set(true);
                Ok(())
            }
            Err(error) => Err(Problem::new(format!("cannot write the result: {error}"))),
        }
    }

    /// A line for people, beside the results. Nobody has to read it.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        drop(writeln!(anstream::stderr().lock(), "{text}"));
    }

    /// What ended the command, and what to do about it.
    pub(crate) fn problem(&self, problem: &Problem) {
        if self.json {
            let text = json(problem).unwrap_or_else(|_| String::from("{}"));
            return self.note(text);
        }
        self.note(format_args!("{ERROR}error:{ERROR:#} {}", problem.error));
        if let Some(hint) = &problem.hint {
            self.hint(hint);
        }
    }

    /// A line that says what to do next.
    pub(crate) fn hint(&self, hint: impl fmt::Display) {
        self.note(format_args!("{HINT}hint:{HINT:#} {hint}"));
    }
}

/// A value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|error| Problem::new(format!("cannot write JSON: {error}")))
}

/// A number of things: `1 task`, `2 tasks`.
pub(crate) fn many(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
