//! How long something took, in buckets of fixed bounds: small, mergeable, and good enough for a p95.
//!
//! Tests: at the end of the file.

use serde::{Serialize, Serializer};
use std::time::Duration;

/// Upper bounds in seconds. A device that is online confirms within a second; one that was offline over the weekend
/// within days; beyond a week it does not matter how long exactly.
const BOUNDS: [f64; 16] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0,
    604_800.0,
];

/// How often something took how long.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// For each bound what was not above it and above the one before; last, what was above all.
    counts: [u64; BOUNDS.len() + 1],
    sum_seconds: f64,
}

impl Histogram {
    /// The upper bounds of the buckets, from 0.05 s to 7 days; above the last one is a bucket without a bound.
    pub const BOUNDS_SECONDS: [f64; 16] = BOUNDS;

    pub(crate) fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum_seconds += seconds;
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub const fn sum_seconds(&self) -> f64 {
        self.sum_seconds
    }

    /// Bounds, each with the number of those that were not above it. The last bound is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    /// An estimate of the time within which the part `quantile` (0 to 1) was done: even spread is assumed within a
    /// bucket, and what is above the last bound counts as that bound. `None` when nothing was observed.
    ///
    /// The estimate is never further off than the width of its bucket (`estimates_stay_within_their_bucket`).
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * count as f64;
        let (mut lower, mut before) = (0.0, 0);
        for (bound, upto) in self.cumulative() {
            if upto > before && upto as f64 >= rank {
                let share = (rank - before as f64) / (upto - before) as f64;
                return Some(if bound.is_finite() { lower + (bound - lower) * share } else { lower });
            }
            (lower, before) = (bound, upto);
        }
        Some(lower)
    }

    /// The median, estimated.
    pub fn p50_seconds(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The time within which 19 of 20 were done, estimated.
    pub fn p95_seconds(&self) -> Option<f64> {
        self.quantile(0.95)
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Bucket {
            /// Absent for the one without a bound.
            #[serde(skip_serializing_if = "Option::is_none")]
            le_seconds: Option<f64>,
            count: u64,
        }
        #[derive(Serialize)]
        struct Shown {
            count: u64,
            sum_seconds: f64,
            p50_seconds: Option<f64>,
            p95_seconds: Option<f64>,
            buckets: Vec<Bucket>,
        }
        let bucket =
            |(bound, count): (f64, u64)| Bucket { le_seconds: bound.is_finite().then_some(bound), count };
        Shown {
            count: self.count(),
            sum_seconds: self.sum_seconds,
            p50_seconds: self.p50_seconds(),
            p95_seconds: self.p95_seconds(),
            buckets: self.cumulative().map(bucket).collect(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seconds: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        seconds.iter().for_each(|one| histogram.observe(Duration::from_secs_f64(*one)));
        histogram
    }

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_is_not_above() {
        let counts = |seconds: f64| of(&[seconds]).counts.iter().position(|count| *count == 1).unwrap();
        for (seconds, bucket) in [(0.0, 0), (0.05, 0), (0.051, 1), (1.0, 4), (604_800.0, 15), (1e9, 16)] {
            assert_eq!(counts(seconds), bucket, "{seconds}");
        }
    }

    #[test]
    fn buckets_only_grow_and_end_at_the_count() {
        let histogram = of(&[0.01, 0.2, 0.2, 7.0, 1e7]);
        let buckets: Vec<_> = histogram.cumulative().collect();
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 5)));
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum_seconds() - 10_000_007.41).abs() < 1e-6);
    }

    #[test]
    fn estimates_stay_within_their_bucket() {
        assert_eq!(Histogram::default().p50_seconds(), None);
        // One task a millisecond, from 1 ms to 10 s.
        let seconds: Vec<f64> = (1..=10_000).map(|ms| f64::from(ms) / 1e3).collect();
        let histogram = of(&seconds);
        for quantile in [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0] {
            let truth = quantile * 10.0;
            let upper = BOUNDS.iter().position(|bound| truth <= *bound).unwrap();
            let lower = if upper == 0 { 0.0 } else { BOUNDS[upper - 1] };
            let estimate = histogram.quantile(quantile).unwrap();
            assert!((lower..=BOUNDS[upper]).contains(&estimate), "{quantile}: {estimate}, not {truth}");
        }
        assert!((histogram.p50_seconds().unwrap() - 5.0).abs() < 1e-9);
        assert!((histogram.p95_seconds().unwrap() - 9.5).abs() < 1e-9);
        assert_eq!(of(&[1e9]).p95_seconds(), Some(604_800.0));
        assert_eq!(of(&[0.07]).quantile(0.0), Some(0.05));
    }
}
