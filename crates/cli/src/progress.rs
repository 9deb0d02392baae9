//! How far a sync is: a bar on a terminal, a line a second elsewhere, nothing with `--json`.
//!
//! Written to standard error. Counts of tasks come from the store, not from events, so a lost event costs nothing;
//! those of changes that are read come from events, and the report has the true number.
//! Tests: `tests/cli_basics.rs`.

use crate::output::{Output, many};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where progress is shown.
pub(crate) struct Progress<'a> {
    output: &'a Output,
    shown: Shown,
    total: u64,
    read: u64,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant, done: u64, said_read: u64 },
    Nothing,
}

impl<'a> Progress<'a> {
    /// For `total` tasks.
    pub(crate) fn new(output: &'a Output, total: u64) -> Self {
        let shown = if output.is_json() {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tasks  {per_sec}  {prefix}{msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now(), done: 0, said_read: 0 }
        };
        Self { output, shown, total, read: 0 }
    }

    /// So many tasks are left to send.
    pub(crate) fn left(&mut self, left: u64) {
        // Changes that are recorded meanwhile make the whole longer.
        self.total = self.total.max(left);
        let now_done = self.total - left;
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(self.total);
                bar.set_position(now_done);
            }
            Shown::Lines { last, done, .. } => {
                if *done != now_done && last.elapsed() >= LINE_EVERY {
                    (*last, *done) = (Instant::now(), now_done);
                    self.output.note(format_args!("{now_done}/{} tasks", self.total));
                }
            }
            Shown::Nothing => {}
        }
    }

    /// So many more changes of the backend were read.
    pub(crate) fn read(&mut self, changes: u64) {
        self.read += changes;
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_prefix(format!("{} read  ", many(self.read, "change"))),
            Shown::Lines { last, said_read, .. } => {
                if *said_read != self.read && last.elapsed() >= LINE_EVERY {
                    (*last, *said_read) = (Instant::now(), self.read);
                    self.output.note(format_args!("{} read", many(self.read, "change")));
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Why nothing moves, until it does.
    pub(crate) fn pause(&mut self, why: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(why.to_owned()),
            Shown::Lines { .. } => self.output.note(why),
            Shown::Nothing => {}
        }
    }

    /// It moves again.
    pub(crate) fn resume(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message("");
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}

/// How often a count is looked at.
const TICK: Duration = Duration::from_millis(200);

/// A count that goes up on another thread: a line that renews itself on a terminal, a line a second elsewhere.
pub(crate) struct Ticker {
    thing: &'static str,
    done: &'static str,
    shown: Ticking,
    last: Instant,
}

enum Ticking {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Ticker {
    /// Counts `thing`s that are `done`.
    pub(crate) fn new(output: &Output, thing: &'static str, done: &'static str) -> Self {
        let shown = if output.is_json() {
            Ticking::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            Ticking::Bar(bar)
        } else {
            Ticking::Lines
        };
        Self { thing, done, shown, last: Instant::now() }
    }

    /// So many now.
    pub(crate) fn count(&mut self, count: u64) {
        let every = if matches!(self.shown, Ticking::Lines) { LINE_EVERY } else { TICK };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let text = format!("{} {}", many(count, self.thing), self.done);
        match &self.shown {
            Ticking::Bar(bar) => bar.set_message(text),
            Ticking::Lines => drop(writeln!(io::stderr(), "{text}")),
            Ticking::Nothing => {}
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Ticking::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
