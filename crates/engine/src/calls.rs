//! Calls to the backend: one thread each, one attempt each, and a panic of an adapter is an answer like any other.

use landfall_core::adapter::{Adapter, CallContext, PushBatch, PushReply};
use landfall_core::failure::{Delivery, Failure, FailureKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// Makes the call on a thread of its own and brings the answer to `done`.
pub(crate) fn push(
    adapter: &Arc<dyn Adapter>,
    context: CallContext,
    batch: PushBatch,
    done: impl FnOnce(Result<PushReply, Failure>) + Send + 'static,
) {
    let adapter = Arc::clone(adapter);
    let done = Arc::new(std::sync::Mutex::new(Some(done)));
    let answer = Arc::clone(&done);
    let finish = move |result| {
        if let Some(done) = answer.lock().ok().and_then(|mut done| done.take()) {
            done(result);
        }
    };
    let name = format!("landfall call {}", batch.call.0 & 0xffff_ffff);
    let work = move || {
        let made = catch_unwind(AssertUnwindSafe(|| pollster::block_on(adapter.push(&context, &batch))));
        finish(made.unwrap_or_else(|_| Err(panicked())));
    };
    if let Err(error) = thread::Builder::new().name(name).spawn(work) {
        if let Some(done) = done.lock().ok().and_then(|mut done| done.take()) {
            let failure = Failure::new(FailureKind::Transient, Delivery::NotSent, "no thread for the call");
            done(Err(failure.caused_by(error)));
        }
    }
}

fn panicked() -> Failure {
    Failure::new(FailureKind::Transient, Delivery::Unknown, "the adapter panicked; see the program's log")
}
