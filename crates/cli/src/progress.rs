//! How far a sync is: a bar on a terminal, a line a second elsewhere, nothing with `--json`.
//!
//! Written to standard error. Counts come from the store, not from events, so a lost event costs nothing.
//! Tests: `tests/cli_basics.rs`.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where progress is shown.
pub(crate) struct Progress<'a> {
    output: &'a Output,
    shown: Shown,
    total: u64,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant, done: u64 },
    Nothing,
}

impl<'a> Progress<'a> {
    /// For `total` tasks.
    pub(crate) fn new(output: &'a Output, total: u64) -> Self {
        let shown = if output.is_json() {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tasks  {per_sec}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now(), done: 0 }
        };
        Self { output, shown, total }
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
            Shown::Lines { last, done } => {
                if *done != now_done && last.elapsed() >= LINE_EVERY {
                    (*last, *done) = (Instant::now(), now_done);
                    self.output.note(format_args!("{now_done}/{} tasks", self.total));
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
