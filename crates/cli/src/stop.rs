//! Ctrl-C and SIGTERM: the first asks to stop, the second insists.
//!
//! Tests: `tests/cli_basics.rs`.

use crate::problem::Problem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody asked this process to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on, and calls `on_stop` at the first signal. Once per process.
    pub(crate) fn listen(on_stop: impl FnOnce() + Send + 'static) -> Result<Self, Problem> {
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        let mut on_stop = Some(on_stop);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                // What was acknowledged is durable, so nothing is lost by going at once.
                std::process::exit(130);
            }
            if let Some(on_stop) = on_stop.take() {
                on_stop();
            }
        })
        .map_err(|error| Problem::new(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Self(asked))
    }

    /// Whether the signal came.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
