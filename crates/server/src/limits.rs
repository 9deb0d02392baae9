//! How much anybody may send and get: every bound of the server, with its reason; and the rate limit's bucket.
//!
//! Pure: time is an argument. Who enforces: `http.rs`, `incoming.rs`, `serve.rs`. Tests: below, `tests/http.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

/// Longest idempotency key, in characters: what the IETF draft on `Idempotency-Key` advises.
pub const KEY_CHARS: usize = 255;
/// Longest client, task and entity id and entity type, in bytes: fits a URL segment and an index page.
pub const ID_BYTES: usize = 1024;
/// Most groups in one request: each one that fails runs the request once more.
pub const GROUPS: usize = 64;
/// Most tenants the rate limiter remembers; above it, full buckets are forgotten first.
const BUCKETS: usize = 10_000;

/// Bounds on requests and answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Request body as it travels. 4 MiB: a thousand ordinary tasks, and cheap to hold for many callers.
    pub body_bytes: usize,
    /// Request body after decompression. 16 MiB: text compresses about fourfold; a bomb stops here.
    pub decoded_bytes: usize,
    /// Tasks in one push. 1000: one transaction stays within a few tens of milliseconds.
    pub tasks: usize,
    /// Nesting of JSON in a task. 64: deeper is never data, and readers recurse.
    pub json_depth: usize,
    /// Records in a page of the change feed when the caller names no limit.
    pub page_default: usize,
    /// Most records in a page of the change feed; a larger wish is cut to this.
    pub page_max: usize,
    /// About how many bytes of fields are in a page; a page has at least one record.
    pub page_bytes: usize,
    /// Time for a request's head. 10 s: slow phones manage, slow-loris does not.
    pub head_timeout: Duration,
    /// Time for a request's body. 60 s: 4 MiB over a bad mobile line.
    pub body_timeout: Duration,
    /// Connections at once; more wait in the operating system's queue.
    pub connections: usize,
    /// Requests per tenant; `None`: no limit.
    pub rate: Option<RateLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            decoded_bytes: 16 << 20,
            tasks: 1000,
            json_depth: 64,
            page_default: 200,
            page_max: 1000,
            page_bytes: 4 << 20,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            connections: 1024,
            rate: None,
        }
    }
}

/// A token bucket: so many requests per second in the long run, so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per second.
    pub per_second: f64,
    /// Requests at once after a pause.
    pub burst: f64,
}

/// The buckets of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Buckets(BTreeMap<String, (f64, f64)>);

impl Buckets {
    /// Takes one request out of a tenant's bucket at `now_s` (seconds of a clock that never goes back), or says in
    /// how many seconds there will be one.
    pub(crate) fn take(&mut self, rate: RateLimit, tenant: &str, now_s: f64) -> Result<(), f64> {
        let speed = rate.per_second.max(f64::MIN_POSITIVE);
        let burst = rate.burst.max(1.0);
        if self.0.len() >= BUCKETS && !self.0.contains_key(tenant) {
            self.0.retain(|_, (left, at)| *left + (now_s - *at) * speed < burst);
        }
        let (left, at) = self.0.entry(tenant.to_owned()).or_insert((burst, now_s));
        *left = (*left + (now_s - *at) * speed).min(burst);
        *at = now_s;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        Err((1.0 - *left) / speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_to_each_tenant() {
        let rate = RateLimit { per_second: 2.0, burst: 3.0 };
        let mut buckets = Buckets::default();
        for _ in 0..3 {
            assert_eq!(buckets.take(rate, "a", 100.0), Ok(()));
        }
        assert_eq!(buckets.take(rate, "a", 100.0), Err(0.5));
        assert_eq!(buckets.take(rate, "b", 100.0), Ok(()), "another tenant has its own");
        assert_eq!(buckets.take(rate, "a", 100.5), Ok(()));
        assert!(buckets.take(rate, "a", 100.5).is_err());
        assert_eq!(buckets.take(rate, "a", 1000.0), Ok(()));
    }
}
