//! How the devices of a life run: when an app says so, or by themselves; and what they are told of the world outside.
//!
//! All of it comes from a stream of its own, so that lives in which apps say when are what they were before there was
//! anything else. Both worlds use it. Tests: `tests/simulator.rs` and `tests/errands.rs`.

use super::Runs;
use super::network::Fate;
use crate::rng::Rng;
use landfall_core::config::{AutoConfig, RetryConfig};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use std::time::Duration;

/// Requests beside the budget that are no repeats: the first ones of a life, those under way when the last good answer
/// came, and two directions that fail at once.
const NO_REPEATS: u64 = 12;
/// Repeats in a burst: few, so that a life of two minutes can use them up.
const BUDGET: u32 = 10;
/// How long a life that runs by itself may need after healing: the longest backoff, and a while for what follows.
pub(super) const RECOVERY_MS: u64 = (15 + 2) * 60 * 1000;
/// How often it is looked whether all that can go has gone.
pub(super) const LOOK_MS: u64 = 30_000;
/// How long until everybody has read what the others sent: the longest interval, and a while for what follows.
pub(super) const READING_MS: u64 = 7 * 60 * 1000;

/// The habits of one life.
#[derive(Debug)]
pub(super) struct Habits {
    pub(super) rng: Rng,
    /// Machines run by themselves.
    pub(super) by_itself: bool,
    /// Apps start runs too.
    pub(super) on_demand: bool,
    /// Machines can probe.
    pub(super) probe: bool,
}

/// What a device is told, or what happens to its app.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// The host puts the app to sleep, for so many milliseconds.
    Suspended(u64),
    /// The backend has something to read.
    Called,
    /// The operating system says that there is a network, or none; it may be wrong.
    Online(bool),
    /// The network may be back.
    Regained,
    Nothing,
}

impl Habits {
    pub(super) fn draw(seed: u64, runs: Runs) -> Self {
        let mut rng = Rng::new(seed, 7, 0);
        let drawn = rng.percent(50);
        let by_itself = match runs {
            Runs::Drawn => drawn,
            Runs::OnDemand => false,
            Runs::ByThemselves => true,
        };
        let (mixed, probe) = (rng.percent(25), rng.percent(50));
        Self { rng, by_itself, on_demand: !by_itself || mixed, probe: by_itself && probe }
    }

    pub(super) fn settings() -> AutoConfig {
        // What another process leaves in the store the world shows by itself.
        AutoConfig { look_every: None, ..AutoConfig::default() }
    }

    /// What the machines of such a life are configured with.
    pub(super) fn configure(&self, retry: &mut RetryConfig) {
        if self.by_itself {
            retry.budget = BUDGET;
        }
    }

    pub(super) fn news(&mut self) -> News {
        match self.rng.below(10) {
            0..=2 => News::Suspended(self.rng.below(20_000)),
            3 => News::Called,
            4..=5 => News::Online(self.rng.percent(60)),
            6 => News::Regained,
            _ => News::Nothing,
        }
    }

    /// How long until the next news.
    pub(super) fn pause(&mut self) -> u64 {
        500 + self.rng.below(15_000)
    }

    /// What a probe finds, and after how long.
    pub(super) fn probed(&mut self, online: bool, faults: bool) -> (u64, Result<(), Failure>) {
        use FailureKind as Kind;
        let fate = if online { Fate::draw(&mut self.rng, faults) } else { Fate::Refused };
        let (kind, delivery) = match fate {
            Fate::Refused => (Kind::Unreachable, Delivery::NotSent),
            Fate::RequestLost | Fate::ReplyLost | Fate::ReplyCut => (Kind::Unreachable, Delivery::Unknown),
            Fate::Portal => (Kind::Intercepted, Delivery::Unknown),
            Fate::Turned(429 | 503) => (Kind::RateLimited, Delivery::Answered),
            Fate::Turned(401) => (Kind::Unauthenticated, Delivery::Answered),
            Fate::Turned(_) | Fate::ErrorAfterEffect => (Kind::Transient, Delivery::Answered),
            Fate::Fine | Fate::Doubled | Fate::LateDouble | Fate::PartialReply | Fate::BareConflicts => {
                return (1 + self.rng.below(400), Ok(()));
            }
        };
        let failure = Failure::new(kind, delivery, format!("{fate:?}"));
        let wait = if delivery == Delivery::Unknown { 10_000 } else { 1 + self.rng.below(400) };
        (wait, Err(failure))
    }
}

/// The requests that one machine made since the last good answer (G11), counted beside its own budget.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    since_ms: u64,
    made: u64,
}

impl Tries {
    pub(super) fn begin(now_ms: u64) -> Self {
        Self { since_ms: now_ms, made: 0 }
    }

    /// A request leaves.
    pub(super) fn made(&mut self, now_ms: u64) -> Result<(), String> {
        let config = RetryConfig::default();
        self.made += 1;
        let every = u64::try_from(config.budget_every.as_millis()).unwrap_or(u64::MAX);
        let filled = (now_ms - self.since_ms) / every;
        let most = u64::from(BUDGET) + filled + NO_REPEATS;
        if self.made <= most {
            return Ok(());
        }
        let passed = Duration::from_millis(now_ms - self.since_ms);
        Err(format!("G11: {} requests in {passed:?} without a good answer, {most} are allowed", self.made))
    }

    /// An answer came.
    pub(super) fn answered(&mut self, now_ms: u64, failed: Option<FailureKind>) {
        match failed {
            None => *self = Self::begin(now_ms),
            // A portal is asked as often as somebody may be logging in, and fresh credentials are tried at once.
            Some(FailureKind::Intercepted | FailureKind::Unauthenticated) => {
                self.made = self.made.saturating_sub(1);
            }
            Some(_) => {}
        }
    }
}
