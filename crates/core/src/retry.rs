//! How long to wait before the next attempt: capped exponential backoff with jitter, and the backend's own wish.
//!
//! Full jitter after a network's trouble; equal jitter when the backend asked for calm, because full jitter can come
//! out near zero and add to the load. The randomness is a hash of (seed, task, attempt), so that a run can be
//! replayed. Tests: at the end of the file.

use crate::config::RetryConfig;
use crate::time::Timestamp;
use core::time::Duration;

/// How a wait is spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jitter {
    /// Anywhere between nothing and the bound.
    Full,
    /// Between half of the bound and the bound.
    Equal,
}

/// The wait before the attempt after `failures` failures in a row (at least 1) of the thing named by `subject`.
///
/// Never shorter than `asked`, which is clamped to [`RetryConfig::retry_after_cap`]; never longer than the cap plus that.
pub fn backoff(
    config: &RetryConfig,
    subject: &[u8],
    failures: u32,
    jitter: Jitter,
    asked: Option<Duration>,
) -> Duration {
    let bound = bound(config, failures);
    let random = scatter(config.seed, subject, failures);
    let wait = match jitter {
        Jitter::Full => random % (bound + 1),
        Jitter::Equal => bound / 2 + random % (bound / 2 + 1),
    };
    let wait = Duration::from_millis(wait);
    match asked {
        // The wish is a lower bound; the jitter on top keeps a fleet from coming back in the same instant.
        Some(asked) => asked.min(config.retry_after_cap) + wait.min(config.cap),
        None => wait,
    }
}

/// The longest wait after so many failures, in milliseconds.
fn bound(config: &RetryConfig, failures: u32) -> u64 {
    let steps = failures.saturating_sub(1).min(63);
    let growth = u64::from(config.factor).saturating_pow(steps);
    let base = u64::try_from(config.base.as_millis()).unwrap_or(u64::MAX);
    let cap = u64::try_from(config.cap.as_millis()).unwrap_or(u64::MAX);
    base.saturating_mul(growth).min(cap)
}

/// The moment near `at` that tasks after as many failures share, so that ten thousand of them that were put off go in a few calls
/// instead of ten thousand. Never before `earliest`. Another replica has other moments.
pub fn together(config: &RetryConfig, failures: u32, at: Timestamp, earliest: Timestamp) -> Timestamp {
    /// Moments in the longest wait.
    const MOMENTS: u64 = 8;
    let step = i64::try_from((bound(config, failures) / MOMENTS).max(1)).unwrap_or(i64::MAX);
    let shift = i64::try_from(config.seed >> 1).unwrap_or(0).rem_euclid(step);
    let before = at.0.saturating_sub(at.0.saturating_sub(shift).rem_euclid(step));
    Timestamp(if before < earliest.0 { before.saturating_add(step) } else { before })
}

/// A hash that spreads well and is the same everywhere (FNV-1a, then the finaliser of SplitMix64).
fn scatter(seed: u64, subject: &[u8], failures: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed;
    for byte in subject.iter().copied().chain(failures.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(failures: u32, jitter: Jitter, asked: Option<u64>) -> Duration {
        backoff(&RetryConfig::default(), b"task", failures, jitter, asked.map(Duration::from_secs))
    }

    #[test]
    fn waits_grow_and_stay_under_the_cap() {
        let config = RetryConfig::default();
        for failures in 1..200 {
            for subject in [b"a", b"b", b"c"] {
                let bound = config.base * 2_u32.saturating_pow(failures - 1).min(100_000);
                let full = backoff(&config, subject, failures, Jitter::Full, None);
                assert!(full <= bound.min(config.cap));
                let equal = backoff(&config, subject, failures, Jitter::Equal, None);
                assert!(
                    equal <= bound.min(config.cap)
                        && equal >= bound.min(config.cap) / 2 - Duration::from_millis(1)
                );
            }
        }
    }

    #[test]
    fn a_fleet_does_not_come_back_at_once() {
        let config = RetryConfig::default();
        for jitter in [Jitter::Full, Jitter::Equal] {
            let waits: alloc::collections::BTreeSet<_> =
                (0..1000_u32).map(|n| backoff(&config, &n.to_be_bytes(), 8, jitter, None)).collect();
            assert!(waits.len() > 950, "{} different waits of 1000", waits.len());
        }
    }

    #[test]
    fn the_backends_wish_is_a_lower_bound_within_reason() {
        assert!(wait(1, Jitter::Equal, Some(7)) >= Duration::from_secs(7));
        let config = RetryConfig::default();
        assert!(wait(1, Jitter::Equal, Some(u64::MAX / 2000)) <= config.retry_after_cap + config.cap);
    }

    #[test]
    fn tasks_that_were_put_off_together_go_together_and_replicas_do_not() {
        let moments = |seed, now: i64| {
            let config = RetryConfig { seed, ..RetryConfig::default() };
            let of = |n: u32| {
                let wait = backoff(&config, &n.to_be_bytes(), 8, Jitter::Full, None);
                let at = together(&config, 8, Timestamp(now).after(wait), Timestamp(now));
                assert!(
                    at >= Timestamp(now) && at <= Timestamp(now).after(config.base * 128 + config.base * 16)
                );
                at
            };
            (0..10_000).map(of).collect::<alloc::collections::BTreeSet<_>>()
        };
        let mine = moments(7 << 40, 1_700_000_000_000);
        assert!(mine.len() <= 9, "{} moments", mine.len());
        assert!(mine.is_disjoint(&moments(9 << 33, 1_700_000_000_000)));
        for now in [0, -5, i64::MIN, i64::MAX - 200_000] {
            moments(3, now.max(i64::MIN + 100_000));
        }
    }

    #[test]
    fn the_same_attempt_waits_the_same() {
        assert_eq!(wait(3, Jitter::Full, None), wait(3, Jitter::Full, None));
    }

    /// As another program computes it: FNV-1a over the subject and the count, then the finaliser of SplitMix64.
    #[test]
    fn a_run_can_be_replayed_on_any_machine_and_by_any_version() {
        let rows: [(u64, &[u8], u32, u64, u64); 3] = [
            (0, b"task", 1, 422, 405),
            (7, b"task", 5, 215, 4_515),
            (u64::MAX, b"call", 12, 81_268, 657_766),
        ];
        for (seed, subject, failures, full, equal) in rows {
            let config = RetryConfig { seed, ..RetryConfig::default() };
            let wait = |jitter| backoff(&config, subject, failures, jitter, None);
            assert_eq!(wait(Jitter::Full), Duration::from_millis(full));
            assert_eq!(wait(Jitter::Equal), Duration::from_millis(equal));
        }
    }

    #[test]
    fn a_wait_of_nothing_can_be_asked_for() {
        for base in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(3)] {
            let config = RetryConfig { base, cap: base, ..RetryConfig::default() };
            for n in 0..50_u32 {
                for jitter in [Jitter::Full, Jitter::Equal] {
                    assert!(backoff(&config, &n.to_be_bytes(), 1, jitter, None) <= base);
                }
            }
        }
    }

    #[test]
    fn whoever_is_at_a_shared_moment_already_stays_there() {
        let config = RetryConfig { seed: 12_345, ..RetryConfig::default() };
        let now = Timestamp(1_700_000_000_000);
        let moment = together(&config, 8, now, now);
        assert_eq!(together(&config, 8, moment, moment), moment);
        assert_eq!(together(&config, 8, Timestamp(moment.0 + 1), moment), moment);
        assert!(together(&config, 8, Timestamp(moment.0 + 1), Timestamp(moment.0 + 1)) > moment);
    }

    #[test]
    fn replicas_have_moments_of_their_own_however_large_their_seeds_are() {
        let now = Timestamp(1_700_000_000_000);
        let moment = |n: u64| {
            let seed = u64::MAX - n * 0x0123_4567_89ab;
            together(&RetryConfig { seed, ..RetryConfig::default() }, 8, now, now)
        };
        let moments: alloc::collections::BTreeSet<_> = (0..50).map(moment).collect();
        assert!(moments.len() > 45, "{} of 50", moments.len());
    }
}
