//! One device as the stage sees it: its process, what it last said, and the kills that await it.
//!
//! Tests: `tests/demo.rs`, with real processes.

use super::chance::{self, Kill};
use super::device::{Message, Phase};
use super::process::Process;
use super::progress::DeviceView;
use super::proof::Audit;
use super::script::{Act, Script};
use crate::problem::Problem;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What all devices have in common.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Reports of all devices together.
    pub(super) reports: usize,
    /// How many devices there are.
    pub(super) devices: usize,
    /// The seed.
    pub(super) seed: u64,
    /// Where they find the server.
    pub(super) endpoint: String,
    /// Where their files are.
    pub(super) folder: PathBuf,
}

/// A device.
#[derive(Debug)]
pub(super) struct Actor {
    number: usize,
    setting: Setting,
    acts: [Work; 2],
    phase: Phase,
    life: Life,
    recorded: u64,
    queue: u64,
    drained: bool,
    has_read: bool,
    books: Option<Audit>,
    kills: VecDeque<Kill>,
}

/// What one act holds for it, in steps counted from the beginning of the script.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// Where it begins.
    from: u64,
    /// Where its offline part ends.
    offline: u64,
    /// Where it ends.
    end: u64,
    /// About how many tasks it makes.
    tasks: u64,
}

/// Where the process is.
#[derive(Debug)]
enum Life {
    Running(Process),
    /// To be killed at this moment, and down for so long.
    Doomed(Process, Instant, Duration),
    /// Killed; comes back at this moment.
    Down(Instant),
    /// Ended in order.
    Over,
}

impl Actor {
    /// Starts the process.
    pub(super) fn start(script: &Script, setting: &Setting, kills: u64) -> Result<Self, Problem> {
        let number = script.device;
        let [alone, together] = &script.acts;
        let work = |act: &Act, from: usize, tasks: usize| Work {
            from: from as u64,
            offline: (from + act.offline.len()) as u64,
            end: (from + act.len()) as u64,
            tasks: tasks as u64,
        };
        let mut actor = Self {
            number,
            setting: setting.clone(),
            acts: [work(alone, 0, script.reports), work(together, alone.len(), together.len())],
            phase: Phase::Record,
            life: Life::Over,
            recorded: 0,
            queue: 0,
            drained: false,
            has_read: false,
            books: None,
            kills: VecDeque::new(),
        };
        actor.kills = actor.doom(kills);
        actor.life = Life::Running(actor.launch()?);
        Ok(actor)
    }

    fn work(&self) -> Work {
        self.acts[self.phase.act()]
    }

    fn doom(&self, kills: u64) -> VecDeque<Kill> {
        let kills = if self.work().tasks == 0 { 0 } else { kills };
        chance::kills(self.setting.seed, self.number as u64, self.phase as u64, kills).into()
    }

    fn launch(&self) -> Result<Process, Problem> {
        /// About so many requests of each device if all goes well: enough to meet every fault many times, in a minute.
        const REQUESTS: usize = 160;
        let Setting { reports, devices, endpoint, folder, .. } = &self.setting;
        let per_request = (reports / devices.max(&1) / REQUESTS).clamp(2, 100);
        let pairs: [(&str, OsString); 7] = [
            ("--db", folder.join(format!("device-{}.db", self.number)).into()),
            ("--endpoint", endpoint.into()),
            ("--device", self.number.to_string().into()),
            ("--devices", devices.to_string().into()),
            ("--reports", reports.to_string().into()),
            ("--tasks-per-request", per_request.to_string().into()),
            ("--phase", self.phase.as_str().into()),
        ];
        let mut arguments: Vec<OsString> = vec!["demo".into(), "device".into()];
        arguments.extend(pairs.into_iter().flat_map(|(name, value)| [name.into(), value]));
        Process::start(arguments, &folder.join(format!("device-{}.log", self.number)))
    }

    /// Its process id, while it has one.
    pub(super) fn id(&self) -> Option<u32> {
        match &self.life {
            Life::Running(process) | Life::Doomed(process, ..) => Some(process.id()),
            Life::Down(_) | Life::Over => None,
        }
    }

    /// Tells it what is wanted from now on, and makes up its mind on so many kills.
    pub(super) fn enter(&mut self, phase: Phase, kills: u64) {
        self.phase = phase;
        (self.drained, self.has_read) = (false, false);
        self.kills = self.doom(kills);
        if let Life::Running(process) | Life::Doomed(process, ..) = &mut self.life {
            process.tell(phase.as_str());
        }
    }

    /// Everything for the offline phase is stored.
    pub(super) fn has_recorded(&self) -> bool {
        self.recorded >= self.work().offline && !self.is_doomed()
    }

    /// Nothing is left to record and to send.
    pub(super) fn is_drained(&self) -> bool {
        self.drained && !self.is_doomed()
    }

    /// It has read what all others have sent.
    pub(super) fn has_read(&self) -> bool {
        self.has_read && !self.is_doomed()
    }

    /// It has told its books and ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    fn is_doomed(&self) -> bool {
        matches!(self.life, Life::Doomed(..) | Life::Down(_))
    }

    /// How much of the act's work is on the server, from 0 to 1.
    pub(super) fn uploaded(&self) -> f64 {
        let tasks = self.work().tasks;
        if self.drained || tasks == 0 {
            return 1.0;
        }
        1.0 - (self.queue as f64 / tasks as f64).min(1.0)
    }

    /// What it last said of itself.
    pub(super) fn into_books(self) -> Option<Audit> {
        self.books
    }

    /// Hears what it says, kills it or brings it back when it is time; true when it was killed now.
    pub(super) fn look(&mut self) -> Result<bool, Problem> {
        let now = Instant::now();
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Running(mut process) => {
                if let Some(status) = process.ended() {
                    self.hear(process.rest());
                    if status.success() && self.books.is_some() {
                        return Ok(false);
                    }
                    let problem = Problem::new(format!("device {} ended by itself: {status}", self.number));
                    return Err(problem.hint(process.last_words()));
                }
                self.hear(std::iter::from_fn(|| process.line()));
                self.life = match self.next_kill() {
                    Some(kill) => Life::Doomed(process, now + kill.delay, kill.down),
                    None => Life::Running(process),
                };
            }
            Life::Doomed(mut process, at, down) if now >= at => {
                process.kill();
                // What it said before it died still counts as said.
                self.hear(process.rest());
                self.drained = false;
                self.life = Life::Down(now + down);
                return Ok(true);
            }
            Life::Doomed(process, at, down) => {
                self.hear(std::iter::from_fn(|| process.line()));
                self.life = Life::Doomed(process, at, down);
            }
            Life::Down(at) if now >= at => self.life = Life::Running(self.launch()?),
            Life::Down(at) => self.life = Life::Down(at),
            Life::Over => {}
        }
        Ok(false)
    }

    fn hear(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            // A line that the kill cut off says nothing.
            match serde_json::from_str(&line) {
                Ok(Message::At { recorded, left }) => {
                    self.recorded = recorded as u64;
                    self.queue = left;
                }
                Ok(Message::Drained) => self.drained = true,
                Ok(Message::HasRead) => self.has_read = true,
                Ok(Message::Books(books)) => self.books = Some(books),
                Err(_) => {}
            }
        }
    }

    /// The next kill, if the work has come that far and is not done.
    fn next_kill(&mut self) -> Option<Kill> {
        let done = if self.phase.is_offline() { self.recorded_part() } else { self.uploaded() };
        if self.drained || done < self.kills.front()?.at {
            return None;
        }
        self.kills.pop_front()
    }

    /// How much of the act's offline part is recorded, from 0 to 1.
    fn recorded_part(&self) -> f64 {
        let Work { from, offline, .. } = self.work();
        self.recorded.saturating_sub(from) as f64 / (offline - from).max(1) as f64
    }

    /// What is shown of it.
    pub(super) fn view(&self) -> DeviceView {
        let Work { from, offline, end, tasks } = self.work();
        let doing = match (&self.life, self.phase) {
            (Life::Down(_), _) => "killed",
            (Life::Over, _) => "done",
            (_, Phase::Record | Phase::Amend) if self.recorded >= offline => "waiting for the network",
            (_, Phase::Record) => "recording",
            (_, Phase::Amend) => "amending what others have in hand too",
            (_, Phase::Upload | Phase::Exchange) if self.drained => "synced",
            (_, Phase::Upload | Phase::Exchange) if self.recorded < end => "syncing, still amending",
            (_, Phase::Upload | Phase::Exchange | Phase::Drain | Phase::Settle) => "syncing",
            (_, Phase::Meet) => "reading what others sent",
            (_, Phase::Finish) => "closing its books",
        };
        let (done, of) = match self.phase.is_offline() {
            true => (self.recorded.clamp(from, offline) - from, offline - from),
            false => (tasks.saturating_sub(self.queue), tasks),
        };
        DeviceView { done, of, doing: doing.to_owned(), queue: self.queue }
    }
}
