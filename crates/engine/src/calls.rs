//! Calls to the backend: one thread each, one attempt each, and a panic of an adapter is an answer like any other.

use crate::sync::{Mutex, thread};
use crate::trace;
use landfall_core::adapter::BoxFuture;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::CallId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tracing::Span;

/// Makes the call on a thread of its own, within `span`, and brings the answer to `done`.
pub(crate) fn make<T, C, D>(call: CallId, span: Span, work: C, done: D)
where
    T: Send + 'static,
    C: FnOnce() -> Result<T, Failure> + Send + 'static,
    D: FnOnce(Result<T, Failure>) + Send + 'static,
{
    let done = Arc::new(Mutex::new(Some(done)));
    let answer = Arc::clone(&done);
    let name = format!("landfall call {}", call.0 & 0xffff_ffff);
    let work = move || {
        let made = catch_unwind(AssertUnwindSafe(|| trace::within(span, work)));
        finish(&answer, made.unwrap_or_else(|_| Err(panicked())));
    };
    if let Err(error) = thread::Builder::new().name(name).spawn(work) {
        let failure = Failure::new(FailureKind::Transient, Delivery::NotSent, "no thread for the call");
        finish(&done, Err(failure.caused_by(error)));
    }
}

/// Waits for an adapter's future on this thread.
pub(crate) fn wait<T>(future: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
    pollster::block_on(future)
}

fn finish<T, D: FnOnce(Result<T, Failure>)>(done: &Mutex<Option<D>>, answer: Result<T, Failure>) {
    if let Some(done) = done.lock().ok().and_then(|mut done| done.take()) {
        done(answer);
    }
}

fn panicked() -> Failure {
    Failure::new(FailureKind::Transient, Delivery::Unknown, "the adapter panicked; see the program's log")
}
