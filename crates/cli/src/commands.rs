//! One file per command: its arguments, then what it does.

pub(crate) mod completions;
pub(crate) mod conflicts;
pub(crate) mod enqueue;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod queue;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod task;
