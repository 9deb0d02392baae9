//! The clocks and the entropy of a real machine, behind a trait so that tests can turn them.

use landfall_core::id::Entropy;
use landfall_core::time::{Mono, Now, Timestamp};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// Where time and randomness come from.
pub trait Clock: fmt::Debug + Send + 'static {
    /// Both clocks, read together.
    fn now(&self) -> Now;
    /// Fresh random bytes.
    fn entropy(&mut self) -> Entropy;
}

/// The operating system's clocks and random source.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now {
            wall: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            mono: Mono(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn entropy(&mut self) -> Entropy {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system always has random bytes");
        Entropy(bytes)
    }
}
