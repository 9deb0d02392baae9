//! Every limit and every default, with its reason.
//!
//! Nothing else in the workspace holds a policy number. Tests: where each number is used.

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
}

impl Default for Limits {
    fn default() -> Self {
        Self { name_bytes: 1024, change_bytes: 4 << 20, value_depth: 60, failure_message_chars: 500 }
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
    /// How often a conflict may send a change back before it goes to the inbox. 8: enough for a busy record, few
    /// enough to end a quarrel.
    pub conflict_rounds_max: u32,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            batch_tasks: 500,
            batch_bytes: 1 << 20,
            calls_max: 2,
            call_timeout: Duration::from_secs(30),
            conflict_rounds_max: 8,
        }
    }
}

/// When to try again.
#[derive(Clone, PartialEq, Debug)]
pub struct RetryConfig {
    /// Upper bound of the first wait. 500 ms: most troubles of a network pass within a second.
    pub base: Duration,
    /// Growth from wait to wait.
    pub factor: u32,
    /// Upper bound of every wait, and the longest that a jumped clock can stall a retry. 15 min: a week of outage
    /// costs some 700 requests, and recovery is noticed within the quarter of an hour even if no signal comes.
    pub cap: Duration,
    /// The longest `Retry-After` that is believed. 1 h: longer ones are a mistake or an attack.
    pub retry_after_cap: Duration,
    /// After how many unreadable answers a task becomes a dead letter. 20: with backoff about two hours of rubbish.
    pub unreadable_max: u32,
    /// After how many passing failures a task becomes a dead letter. `None`: never, because an outage of a week must
    /// not need a person.
    pub transient_max: Option<u32>,
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
