//! What the server counts, for Prometheus: requests, verdicts, bytes, times. Never who: no label holds a tenant, a
//! client, a record or a token, and nobody can make up labels by what they send.
//!
//! [`Server`](crate::Server) shows it on a listener of its own, and only if asked to: the address of the endpoint is
//! usually open to the world, and numbers about all tenants are nobody's business there. Who mounts the router calls
//! [`Metrics::to_prometheus`] where they like. What each number means: `docs/metrics.md`. The engine has a writer of the
//! same format (`crates/engine/src/metrics/exposition.rs`); the two crates share nothing. Tests: `tests/metrics.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use landfall_protocol::{ChangesPage, PushResponse, Status};

/// Upper bounds in seconds: a read takes a millisecond, a push waits for a durable write, a body may take a minute.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];
/// Codes of refusals that are counted by name. The server has some fifteen.
const CODES_MAX: usize = 64;

/// What kind of request it is, whatever names are in its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// The endpoint itself.
    Push,
    /// The change feed.
    Changes,
    /// One record.
    Entity,
    /// The look whether the server lives.
    Health,
    /// Nothing of ours.
    Other,
}

impl Route {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Push, Self::Changes, Self::Entity, Self::Health, Self::Other];

    /// The word in labels and traces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Changes => "changes",
            Self::Entity => "entity",
            Self::Health => "health",
            Self::Other => "other",
        }
    }

    /// The kind of a request for `path`, when the endpoint is at `mount` (a slash in front, none behind).
    pub fn of(mount: &str, path: &str) -> Self {
        match path.strip_prefix(mount) {
            Some("") => Self::Push,
            Some("/") if mount.is_empty() => Self::Push,
            Some("/changes") => Self::Changes,
            Some(rest) if rest.starts_with("/entities/") => Self::Entity,
            _ if path == "/health" => Self::Health,
            _ => Self::Other,
        }
    }
}

/// The numbers of one server. Clones are the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// By route and status; 0 is a request whose caller went away before the answer.
    requests: BTreeMap<(Route, u16), u64>,
    refusals: BTreeMap<String, u64>,
    tasks: BTreeMap<&'static str, u64>,
    pulled: u64,
    bytes_in: u64,
    bytes_out: u64,
    times: BTreeMap<Route, Times>,
    in_flight: u64,
    connections: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    counts: [u64; BOUNDS.len() + 1],
    sum_seconds: f64,
}

impl Metrics {
    /// The Prometheus text exposition format, version 0.0.4. All names begin with `landfall_server_`.
    pub fn to_prometheus(&self) -> String {
        text(&self.lock())
    }

    /// The content type of [`to_prometheus`](Self::to_prometheus).
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; what is given back counts its end.
    pub(crate) fn request(&self, route: Route) -> Request {
        self.lock().in_flight += 1;
        Request { metrics: self.clone(), route, began: Instant::now(), answer: None }
    }

    /// A connection was taken; what is given back counts its end.
    pub(crate) fn connection(&self) -> Connection {
        self.lock().connections += 1;
        Connection(self.clone())
    }

    pub(crate) fn body_read(&self, bytes: usize) {
        self.lock().bytes_in += bytes as u64;
    }

    pub(crate) fn pushed(&self, answer: &PushResponse) {
        let mut counted = self.lock();
        for result in &answer.results {
            *counted.tasks.entry(word(&result.status)).or_default() += 1;
        }
    }

    pub(crate) fn pulled(&self, page: &ChangesPage) {
        self.lock().pulled += page.changes.len() as u64;
    }
}

/// The names that the server gives; an app's policy cannot make up others.
const fn word(status: &Status) -> &'static str {
    match status {
        Status::Applied => "applied",
        Status::Duplicate => "duplicate",
        Status::Conflict => "conflict",
        Status::Rejected => "rejected",
        Status::Retry => "retry",
        Status::Other(_) => "other",
    }
}

/// A request under way. Dropped without an answer, its caller has gone away.
#[derive(Debug)]
pub(crate) struct Request {
    metrics: Metrics,
    route: Route,
    began: Instant,
    answer: Option<(u16, u64, Option<String>)>,
}

impl Request {
    /// It is answered: with which status, how many bytes of body, and with which code if it was refused.
    pub(crate) fn answered(&mut self, status: u16, bytes: u64, refusal: Option<String>) {
        self.answer = Some((status, bytes, refusal));
    }

    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let (seconds, (status, bytes, refusal)) =
            (self.age().as_secs_f64(), self.answer.take().unwrap_or_default());
        let mut counted = self.metrics.lock();
        counted.in_flight = counted.in_flight.saturating_sub(1);
        *counted.requests.entry((self.route, status)).or_default() += 1;
        counted.bytes_out += bytes;
        let times = counted.times.entry(self.route).or_default();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        times.counts[bucket] += 1;
        times.sum_seconds += seconds;
        if let Some(code) = refusal {
            let known = counted.refusals.contains_key(&code) || counted.refusals.len() < CODES_MAX;
            *counted.refusals.entry(if known { code } else { "other".to_owned() }).or_default() += 1;
        }
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Connection(Metrics);

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counted = self.0.lock();
        counted.connections = counted.connections.saturating_sub(1);
    }
}

/// The whole text: each metric with its kind and meaning, then its series.
fn text(counted: &Counted) -> String {
    let mut page = Page(String::with_capacity(4 << 10));
    page.family("landfall_server_requests_total", "counter", "Requests, by route and status of the answer.");
    for ((route, status), count) in &counted.requests {
        let status = if *status == 0 { "aborted".to_owned() } else { status.to_string() };
        page.sample(
            "landfall_server_requests_total",
            &[("route", route.as_str()), ("status", &status)],
            count,
        );
    }
    page.family("landfall_server_refusals_total", "counter", "Requests that were refused, by code.");
    for (code, count) in &counted.refusals {
        page.sample("landfall_server_refusals_total", &[("code", code)], count);
    }
    page.family("landfall_server_tasks_total", "counter", "Pushed tasks, by result.");
    for result in ["applied", "duplicate", "conflict", "rejected", "retry"] {
        let count = counted.tasks.get(result).copied().unwrap_or(0);
        page.sample("landfall_server_tasks_total", &[("result", result)], count);
    }
    page.one(
        "landfall_server_changes_total",
        "counter",
        "Changes given out in pages of the feed.",
        counted.pulled,
    );
    let (into, out) = (counted.bytes_in, counted.bytes_out);
    page.one(
        "landfall_server_received_bytes_total",
        "counter",
        "Bytes of request bodies, as they came.",
        into,
    );
    page.one("landfall_server_sent_bytes_total", "counter", "Bytes of bodies of answers.", out);
    let name = "landfall_server_request_seconds";
    page.family(name, "histogram", "From a request's head to its answer, by route.");
    counted.times.iter().for_each(|(route, times)| page.times(name, *route, times));
    page.one("landfall_server_requests_in_flight", "gauge", "Requests under way.", counted.in_flight);
    page.one("landfall_server_connections", "gauge", "Open connections.", counted.connections);
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn times(&mut self, name: &str, route: Route, times: &Times) {
        let (route, mut sum) = (route.as_str(), 0);
        for (bound, count) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(times.counts) {
            sum += count;
            self.sample(&format!("{name}_bucket"), &[("route", route), ("le", &bound)], sum);
        }
        self.sample(&format!("{name}_sum"), &[("route", route)], times.sum_seconds);
        self.sample(&format!("{name}_count"), &[("route", route)], sum);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_kind_whatever_names_are_in_it() {
        for (mount, path, route) in [
            ("/sync", "/sync", Route::Push),
            ("/sync", "/sync/changes", Route::Changes),
            ("/sync", "/sync/entities/note/secret", Route::Entity),
            ("/sync", "/health", Route::Health),
            ("/sync", "/synchronous", Route::Other),
            ("/sync", "/sync/changes/more", Route::Other),
            ("/sync", "/", Route::Other),
            ("", "/", Route::Push),
            ("", "/changes", Route::Changes),
            ("", "/entities/a/b", Route::Entity),
        ] {
            assert_eq!(Route::of(mount, path), route, "{mount:?} {path:?}");
        }
    }

    #[test]
    fn a_request_whose_caller_goes_away_is_counted_as_such() {
        let metrics = Metrics::default();
        drop(metrics.request(Route::Push));
        let text = metrics.to_prometheus();
        assert!(
            text.contains(r#"landfall_server_requests_total{route="push",status="aborted"} 1"#),
            "{text}"
        );
        assert!(text.contains("landfall_server_requests_in_flight 0"), "{text}");
    }

    #[test]
    fn codes_beyond_the_bound_go_together() {
        let metrics = Metrics::default();
        for code in 0..CODES_MAX + 5 {
            metrics.request(Route::Push).answered(400, 0, Some(format!("code {code}")));
        }
        assert_eq!(metrics.lock().refusals.len(), CODES_MAX + 1);
        assert_eq!(metrics.lock().refusals["other"], 5);
    }
}
