//! Every limit and every default, with its reason.
//!
//! Nothing else in the workspace holds a policy number. Tests: where each number is used.

use crate::conflict::Detector;
use crate::device::Conditions;
use crate::merge::rule::{Rules, Strategy};
use crate::model::Model;
use alloc::collections::BTreeSet;
use alloc::string::String;
use core::time::Duration;

/// All settings of a machine.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    /// What may be enqueued.
    pub limits: Limits,
    /// How sending is paced.
    pub push: PushConfig,
    /// When to try again.
    pub retry: RetryConfig,
    /// How long a holder may be silent before another takes over.
    pub lease: LeaseConfig,
    /// How long ended tasks are remembered.
    pub journal: JournalConfig,
    /// What happens when two sides clash.
    pub conflicts: ConflictConfig,
    /// What is read from the backend.
    pub pull: PullConfig,
    /// What the app says of its record types and lanes.
    pub model: Model,
    /// When it is told that nothing moves.
    pub watchdog: WatchdogConfig,
}

/// What may be enqueued.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Longest entity type, entity id or lane. 1 KiB: long enough for any URL-shaped id, short enough for an index.
    pub name_bytes: usize,
    /// Largest set of fields in one change. 4 MiB: below the body limits of common servers (nginx takes 1 MiB by
    /// default, most others more), above any form or note; files belong elsewhere.
    pub change_bytes: usize,
    /// Deepest nesting of lists and objects inside one field. 60: a request puts four levels around it, and servers
    /// that refuse more than 64 are common (.NET's default, and our own).
    pub value_depth: usize,
    /// Longest reason kept of a failed attempt. Answers can be whole HTML pages.
    pub failure_message_chars: usize,
    /// Longest answer of a backend kept with a dead letter. 2,000: a problem document with its list of fields.
    pub answer_chars: usize,
    /// Most tags of one change.
    pub tags: usize,
    /// Most dependencies of one change, those by declared references among them. 100: above any screen of an app; more
    /// is what lanes are for.
    pub dependencies: usize,
    /// Highest priority, and with a minus the lowest. 1,000: a million places in the queue.
    pub priority: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name_bytes: 1024,
            change_bytes: 4 << 20,
            value_depth: 60,
            failure_message_chars: 500,
            answer_chars: 2_000,
            tags: 32,
            dependencies: 100,
            priority: 1_000,
        }
    }
}

/// How sending is paced.
#[derive(Clone, PartialEq, Debug)]
pub struct PushConfig {
    /// Most tasks in one call; the adapter's own limit also holds. 500: a request of some 100 KB, which costs a phone
    /// one round trip, and 20 requests for 10,000 writes.
    pub batch_tasks: usize,
    /// Most payload bytes in one call. 1 MiB: what the strictest common server takes.
    pub batch_bytes: usize,
    /// Calls under way at once, over independent lanes. 2: one is answered and settled while the next is on its way.
    pub calls_max: usize,
    /// How long one call may take. 30 s: mobile networks stall for many seconds and recover.
    pub call_timeout: Duration,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { batch_tasks: 500, batch_bytes: 1 << 20, calls_max: 2, call_timeout: Duration::from_secs(30) }
    }
}

/// When to try again.
#[derive(Clone, PartialEq, Debug)]
pub struct RetryConfig {
    /// Upper bound of the first wait. 500 ms: most troubles of a network pass within a second.
    pub base: Duration,
    /// Growth from wait to wait.
    pub factor: u32,
    /// Upper bound of every wait, and the longest that a jumped clock can stall a retry. 15 min: with jitter a try every
    /// seven and a half on average, so that a week of outage costs a device some 1,400 requests where a probe finds out,
    /// some 2,200 where sending and reading find out by themselves; and recovery is noticed within the quarter of an hour
    /// even if no signal comes.
    pub cap: Duration,
    /// The longest `Retry-After` that is believed. 1 h: longer ones are a mistake or an attack.
    pub retry_after_cap: Duration,
    /// After how many unreadable answers a task becomes a dead letter. 20: with backoff about two hours of rubbish.
    pub unreadable_max: u32,
    /// After how many passing failures a task becomes a dead letter. `None`: never, because an outage of a week must
    /// not need a person.
    pub transient_max: Option<u32>,
    /// How many failed calls may be repeated in a burst. 60: a network that flickers for minutes.
    pub budget: u32,
    /// How often the budget gains one more, whatever happens; ten good calls give one too. 10 s: a backend that fails
    /// half of all calls, or a network that comes and goes, costs six repeats a minute in the long run.
    pub budget_every: Duration,
    /// Upper bound of the wait while something in between answers, such as a portal. 5 s: whoever logs in there
    /// waits for it, and the backend does not see the tries.
    pub intercepted_cap: Duration,
    /// How long a probe may take. 10 s: longer than any network that is of use; a portal answers at once.
    pub probe_timeout: Duration,
    /// The first wait before credentials that were refused are tried or asked for again while the machine runs by itself;
    /// it doubles up to [`cap`](Self::cap). 1 min: asking costs a service, or a person, something.
    pub credentials_base: Duration,
    /// Makes jitter of two replicas differ, and a simulation repeatable.
    pub seed: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            factor: 2,
            cap: Duration::from_secs(15 * 60),
            retry_after_cap: Duration::from_secs(60 * 60),
            unreadable_max: 20,
            transient_max: None,
            budget: 60,
            budget_every: Duration::from_secs(10),
            intercepted_cap: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(10),
            credentials_base: Duration::from_secs(60),
            seed: 0,
        }
    }
}

/// How long a holder may be silent.
#[derive(Clone, PartialEq, Debug)]
pub struct LeaseConfig {
    /// 10 s: longer than any commit on a struggling disk, short enough to wait for. A holder on the same machine
    /// whose process is gone is replaced at once.
    pub term: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { term: Duration::from_secs(10) }
    }
}

/// How long ended tasks are remembered.
#[derive(Clone, PartialEq, Debug)]
pub struct JournalConfig {
    /// 30 days: "is my write safe?" is asked within a month or never.
    pub horizon: Duration,
    /// Most entries removed in one transaction, so that tidying never delays a write noticeably.
    pub prune_batch: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { horizon: Duration::from_secs(30 * 24 * 3600), prune_batch: 500 }
    }
}

/// What happens when two sides clash.
#[derive(Clone, PartialEq, Debug)]
pub struct ConflictConfig {
    /// Strategies, rules of fields, resolvers, validators. The default is last write wins, field by field: what most
    /// people expect who have not thought about it, and what the conflict records make safe.
    pub rules: Rules,
    /// What counts as a conflict.
    pub detector: Detector,
    /// How often a conflict may send a change back before it goes to the inbox. 8: enough for a busy record, few
    /// enough to end a quarrel.
    pub rounds_max: u32,
    /// How far a time of change may lie ahead of the backend's clock and still be believed. 1 min: clocks that are
    /// kept at all are better than that; what is beyond counts as made now.
    pub clock_drift_max: Duration,
    /// How long settled conflicts are kept. 90 days: "where did my text go?" is asked within a quarter.
    pub horizon: Duration,
}

impl Default for ConflictConfig {
    fn default() -> Self {
        Self {
            rules: Rules::new(Strategy::LastWriteWins),
            detector: Detector::default(),
            rounds_max: 8,
            clock_drift_max: Duration::from_secs(60),
            horizon: Duration::from_secs(90 * 24 * 3600),
        }
    }
}

/// What is read from the backend.
#[derive(Clone, PartialEq, Debug)]
pub struct PullConfig {
    /// Whether sessions pull at all, where the adapter can. Off for apps that keep their own read model.
    pub enabled: bool,
    /// Only records of these types are taken in; `None`: of all. When the feed has to be read from its beginning, a
    /// record of these types that the backend had confirmed and that does not come is taken as deleted there; with
    /// `None`, if the feed ever brought a record of its type.
    pub types: Option<BTreeSet<String>>,
    /// Most changes asked for in one page. 1000: some 300 KB, and one transaction of a few ten milliseconds, so that
    /// a write never waits long behind it.
    pub page_changes: usize,
    /// How long one page may take.
    pub call_timeout: Duration,
}

impl Default for PullConfig {
    fn default() -> Self {
        Self { enabled: true, types: None, page_changes: 1000, call_timeout: Duration::from_secs(30) }
    }
}

/// How the machine runs by itself.
#[derive(Clone, PartialEq, Debug)]
pub struct AutoConfig {
    /// How long a new change waits for others to go with it. 200 ms: the next keystroke, and nobody notices.
    pub debounce: Duration,
    /// How long a stream of changes can put a run off. 2 s.
    pub debounce_max: Duration,
    /// How often there is a run that reads what others changed, though nothing is known to have happened. 5 min;
    /// `None`: never.
    pub interval: Option<Duration>,
    /// Over how long devices that hear the same news at once spread their runs: the network is back, the backend
    /// has called. 5 s: a thousand devices are two hundred requests a second, and nobody waits long.
    pub spread: Duration,
    /// How often a run is tried though the device says that there is no network. 60 s: it may be wrong, and a try that
    /// fails in the device costs nothing.
    pub offline_every: Duration,
    /// How often it is looked whether another process has left something in the store; costs next to nothing. 1 s;
    /// `None`: only this process writes.
    pub look_every: Option<Duration>,
    /// What must be so.
    pub conditions: Conditions,
}

impl Default for AutoConfig {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(200),
            debounce_max: Duration::from_secs(2),
            interval: Some(Duration::from_secs(5 * 60)),
            spread: Duration::from_secs(5),
            offline_every: Duration::from_secs(60),
            look_every: Some(Duration::from_secs(1)),
            conditions: Conditions::default(),
        }
    }
}

/// When it is told that nothing moves.
#[derive(Clone, PartialEq, Debug)]
pub struct WatchdogConfig {
    /// How long work that could be sent may wait without any of it ending. 10 min: longer than any call, shorter than
    /// a person's patience. It is told again after twice that time, and so on.
    pub stalled_after: Duration,
    /// From which difference on the wall clock counts as jumped. 30 s: no clock drifts that far between two steps, and a
    /// device that slept longer should look around anyway.
    pub jump: Duration,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self { stalled_after: Duration::from_secs(10 * 60), jump: Duration::from_secs(30) }
    }
}
