//! One file per command: its arguments, then what it does.

pub(crate) mod accounts;
pub(crate) mod agent;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod conflicts;
pub(crate) mod conformance;
pub(crate) mod dead;
pub(crate) mod enqueue;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod journal;
pub(crate) mod list;
pub(crate) mod logout;
pub(crate) mod outbox;
pub(crate) mod pause;
pub(crate) mod queue;
pub(crate) mod rescue;
pub(crate) mod retry_now;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod wait;
