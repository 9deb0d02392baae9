//! Time as the core sees it: always an argument, never a call.
//!
//! Wall time is stored and shown; monotonic time measures waits inside one process; the hybrid logical clock stamps
//! changes so that a device whose clock jumps still orders its own work. Tests: at the end of the file.

use alloc::string::String;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Wall-clock time in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment at which a task may be claimed at once.
    pub const ALWAYS: Self = Self(0);

    /// This moment plus `wait`, saturating.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment moved by so many milliseconds, saturating.
    #[must_use]
    pub fn shifted(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// Monotonic time in milliseconds since some moment of this process. Never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment plus `wait`, saturating.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// What the wall clock says; may jump either way.
    pub wall: Timestamp,
    /// What the monotonic clock says; only grows.
    pub mono: Mono,
}

/// A hybrid logical time: wall milliseconds, then a counter for changes within one millisecond or behind a clock that
/// went back. Later on one device is always greater, whatever its clock does.
///
/// Its text form sorts like the value: thirteen or more digits, a dash, five digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc {
    /// Wall milliseconds, never less than any seen before.
    pub wall_ms: i64,
    /// Order within one millisecond.
    pub counter: u32,
}

/// The counter's bound: past it the next time moves one millisecond ahead.
const HLC_COUNTER_MAX: u32 = 99_999;

impl Hlc {
    /// The next time on this device, greater than `self` and not behind the wall clock.
    #[must_use]
    pub fn tick(self, wall: Timestamp) -> Self {
        if wall.0 > self.wall_ms {
            Self { wall_ms: wall.0, counter: 0 }
        } else if self.counter < HLC_COUNTER_MAX {
            Self { wall_ms: self.wall_ms, counter: self.counter + 1 }
        } else {
            Self { wall_ms: self.wall_ms.saturating_add(1), counter: 0 }
        }
    }

    /// This time, or `now` if it lies more than `drift` ahead of that: nothing can have been written in the future.
    #[must_use]
    pub fn believed(self, now: Timestamp, drift: Duration) -> Self {
        if self.wall_ms > now.after(drift).0 { Self { wall_ms: now.0, counter: 0 } } else { self }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (wall, counter) = text.rsplit_once('-')?;
        if counter.len() != 5 {
            return None;
        }
        let counter: u32 = counter.parse().ok()?;
        Some(Self { wall_ms: wall.parse().ok()?, counter })
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{:05}", self.wall_ms, self.counter)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hlc {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hlc {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a hybrid logical time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_clock_that_goes_back_a_year_still_ticks_forward() {
        let before = Hlc::default().tick(Timestamp(1_700_000_000_000));
        let after = before.tick(Timestamp(1_668_000_000_000));
        assert!(after > before);
        assert!(after.to_string() > before.to_string());
        assert_eq!(alloc::format!("{after:?}"), "1700000000000-00001");
        assert_eq!(Hlc::parse(&alloc::format!("{after:?}")), Some(after));
    }

    #[test]
    fn two_changes_within_one_millisecond_have_an_order() {
        let wall = Timestamp(1_700_000_000_000);
        let mut last = Hlc::default();
        for _ in 0..3 {
            let next = last.tick(wall);
            assert!(next > last && next.wall_ms == wall.0);
            last = next;
        }
        assert_eq!(last.tick(Timestamp(wall.0 + 1)), Hlc { wall_ms: wall.0 + 1, counter: 0 });
    }

    #[test]
    fn hybrid_time_reads_back_what_it_writes() {
        for time in [Hlc { wall_ms: 1_763_870_000_000, counter: 12 }, Hlc { wall_ms: 5, counter: 99_999 }] {
            assert_eq!(Hlc::parse(&time.to_string()), Some(time));
        }
        for bad in ["", "1-2", "x-00001", "12-0000a"] {
            assert_eq!(Hlc::parse(bad), None);
        }
    }

    #[test]
    fn a_time_is_shown_with_its_unit() {
        assert_eq!(alloc::format!("{:?}", Timestamp(-5)), "-5ms");
    }

    #[test]
    fn a_time_far_ahead_counts_as_now() {
        let time = |wall_ms| Hlc { wall_ms, counter: 7 };
        let (now, drift) = (Timestamp(100_000), Duration::from_secs(60));
        assert_eq!(time(160_000).believed(now, drift), time(160_000));
        assert_eq!(time(160_001).believed(now, drift), Hlc { wall_ms: 100_000, counter: 0 });
        assert_eq!(time(5).believed(now, drift), time(5));
    }

    #[test]
    fn a_full_counter_moves_to_the_next_millisecond() {
        let full = Hlc { wall_ms: 9, counter: HLC_COUNTER_MAX };
        assert_eq!(full.tick(Timestamp(3)), Hlc { wall_ms: 10, counter: 0 });
    }
}
