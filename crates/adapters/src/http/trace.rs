//! A span for each exchange: method, host, path, status, duration.
//!
//! Never what is behind a `?` (cursors, and whatever an app's own address has there), a user's name in an address, a header
//! or a body (G17). At level debug; within the engine's span of the call. Tests: below, and
//! `crates/landfall/tests/traces.rs`.

use super::{HttpRequest, HttpResponse, HttpTransport, TransportError};
use std::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

/// Sends a request through `transport`, within a span of its own. Every adapter sends like this.
///
/// # Errors
/// As [`HttpTransport::send`].
pub async fn send(
    transport: &dyn HttpTransport,
    request: HttpRequest,
) -> Result<HttpResponse, TransportError> {
    let (host, path) = shown(&request.url);
    let span = tracing::debug_span!(
        "landfall_http",
        method = request.method.as_str(),
        host,
        path,
        status = Empty,
        error = Empty,
        duration_ms = Empty,
    );
    let began = Instant::now();
    let answer = transport.send(request).instrument(span.clone()).await;
    match &answer {
        Ok(response) => span.record("status", response.status),
        Err(error) => span.record("error", tracing::field::debug(error.kind)),
    };
    span.record("duration_ms", began.elapsed().as_secs_f64() * 1e3);
    answer
}

/// Host (with its port) and path of an address.
fn shown(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (authority.rsplit('@').next().unwrap_or_default(), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_path_of_an_address_are_shown() {
        for (url, host, path) in [
            ("https://api.example.com/sync", "api.example.com", "/sync"),
            ("https://api.example.com/sync/changes?cursor=secret&x=/y", "api.example.com", "/sync/changes"),
            ("https://anna:secret@[::1]:8787/a/b#secret", "[::1]:8787", "/a/b"),
            ("https://anna:sec@ret@host?secret@x/y", "host", ""),
            ("https://host", "host", ""),
        ] {
            assert_eq!(shown(url), (host, path), "{url}");
        }
    }
}
