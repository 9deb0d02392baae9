//! What the parent and a device say to each other: which phase it is, and how far the device is.
//!
//! The parent tells the phase on standard input and reads [`Message`]s from standard output; when the parent dies,
//! the input ends, and so does the device. Tests: `tests/demo.rs`, with real processes.

use crate::demo::proof::Audit;
use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What the parent wants of all devices, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(in crate::demo) enum Phase {
    /// Record reports; there is no network.
    Record,
    /// Upload them through a bad network, and go on amending.
    Upload,
    /// The network is good: send what is left.
    Drain,
    /// Read what all others have sent.
    Meet,
    /// Amend the reports of all; there is no network.
    Amend,
    /// Send and read through a bad network, and go on amending.
    Exchange,
    /// The network is good: send what is left.
    Settle,
    /// Read what all others have sent, tell the books, end.
    Finish,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Record,
        Self::Upload,
        Self::Drain,
        Self::Meet,
        Self::Amend,
        Self::Exchange,
        Self::Settle,
        Self::Finish,
    ];

    /// The word for the command line and for standard input.
    pub(in crate::demo) const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Upload => "upload",
            Self::Drain => "drain",
            Self::Meet => "meet",
            Self::Amend => "amend",
            Self::Exchange => "exchange",
            Self::Settle => "settle",
            Self::Finish => "finish",
        }
    }

    /// Which act of the script it belongs to, from 0.
    pub(in crate::demo) const fn act(self) -> usize {
        match self {
            Self::Record | Self::Upload | Self::Drain | Self::Meet => 0,
            Self::Amend | Self::Exchange | Self::Settle | Self::Finish => 1,
        }
    }

    /// The network is away.
    pub(in crate::demo) const fn is_offline(self) -> bool {
        matches!(self, Self::Record | Self::Amend)
    }

    /// The network is there, and bad.
    pub(in crate::demo) const fn is_rough(self) -> bool {
        matches!(self, Self::Upload | Self::Exchange)
    }

    /// Nobody has anything left to send: all that is wanted is to read what others have sent.
    pub(in crate::demo) const fn is_last_of_act(self) -> bool {
        matches!(self, Self::Meet | Self::Finish)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }
}

/// What a device tells its parent, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::demo) enum Message {
    /// Where it stands: steps recorded, tasks in the queue.
    At { recorded: usize, left: u64 },
    /// Every step of the act is recorded and the queue is empty.
    Drained,
    /// Everything that others have sent was read.
    HasRead,
    /// Its books, at the very end.
    Books(Audit),
}

/// Says it.
pub(super) fn say(message: &Message) -> Result<(), Problem> {
    let line = crate::output::json(message)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Problem::new(format!("the parent does not listen: {error}")))
}

/// What is wanted of the thread that syncs, and what it has to say: shared by the device's threads.
#[derive(Debug, Clone)]
pub(super) struct Wanted(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// No session is to begin.
    calm: bool,
    /// A session runs.
    syncing: bool,
    /// The thread that syncs is to end.
    over: bool,
    /// How many sessions in a row have left nothing to send and nothing to read.
    complete: u32,
}

impl Wanted {
    /// Reads standard input on a thread of its own. When it ends the parent is gone, and this process goes too.
    pub(super) fn listen(phase: Phase) -> Result<Self, Problem> {
        let state = State { phase, calm: false, syncing: false, over: false, complete: 0 };
        let wanted = Self(Arc::new((Mutex::new(state), Condvar::new())));
        let heard = wanted.clone();
        let listen = move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if let Some(phase) = Phase::parse(&line) {
                    heard.change(|state| {
                        state.phase = state.phase.max(phase);
                        state.complete = 0;
                    });
                }
            }
            std::process::exit(1);
        };
        thread::Builder::new()
            .name("demo stdin".into())
            .spawn(listen)
            .map_err(|error| Problem::new(format!("cannot start a thread: {error}")))?;
        Ok(wanted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        still: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.0.1.wait_while(state, still).unwrap_or_else(PoisonError::into_inner)
    }

    /// The phase, as the parent last told.
    pub(super) fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Waits for the phase or a later one.
    pub(super) fn wait_for(&self, phase: Phase) {
        drop(self.wait_while(self.state(), |state| state.phase < phase));
    }

    /// Whether everything was read since this phase began: the second session in a row began after it.
    pub(super) fn has_read(&self) -> bool {
        self.state().complete >= 2
    }

    /// Begins a time in which no session runs; `stop` ends the one that does.
    pub(super) fn calm(&self, stop: impl FnOnce()) {
        self.change(|state| state.calm = true);
        stop();
        drop(self.wait_while(self.state(), |state| state.syncing));
    }

    /// Ends it.
    pub(super) fn end_calm(&self) {
        self.change(|state| state.calm = false);
    }

    /// A new thread that syncs may begin.
    pub(super) fn begin(&self) {
        self.change(|state| state.over = false);
    }

    /// Ends the thread that syncs.
    pub(super) fn end(&self) {
        self.change(|state| state.over = true);
    }

    /// Waits a little, and for calm to end; false when the thread is to end. A session must follow.
    pub(super) fn may_sync_after(&self, wait: Duration) -> bool {
        let waited = self.0.1.wait_timeout_while(self.state(), wait, |state| !state.over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut state = self.wait_while(state, |state| state.calm && !state.over);
        state.syncing = !state.over;
        state.syncing
    }

    /// A session has ended.
    pub(super) fn has_synced(&self, complete: bool) {
        self.change(|state| {
            state.syncing = false;
            state.complete = if complete { state.complete + 1 } else { 0 };
        });
    }
}
