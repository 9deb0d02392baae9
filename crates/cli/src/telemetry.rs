//! What the command tells of its own work, if it is asked to: log lines on standard error, and spans for a collector.
//!
//! | variable | what |
//! |---|---|
//! | `LANDFALL_LOG` | `error`, `warn`, `info`, `debug`, `trace`, or by crate: `landfall_engine=debug,info` |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | (builds with the feature `otel`) spans go to `{it}/v1/traces`, as OTLP in JSON |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | with it: `name=value,…`, for collectors that want to know who is asking |
//! | `OTEL_SERVICE_NAME` | with it: how this program is called there; `landfall` unless set |
//!
//! Without the first two nothing is installed, and a span costs a look at one number. Nothing secret is in any span
//! (`crates/landfall/tests/traces.rs`); the crate `log`, to which HTTP clients write, is not listened to. Tests:
//! `tests/telemetry.rs`, the part with a collector under the feature `otel`.

use crate::output::Output;
use std::env;
use std::io;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const LOG: &str = "LANDFALL_LOG";

/// Sends what is left when it is dropped.
#[derive(Debug)]
pub(crate) struct Telemetry {
    #[cfg(feature = "otel")]
    _exporter: Option<otlp::Exporter>,
}

/// Listens to spans and events from now on, if the environment says so. Trouble with it is told and stops nothing.
pub(crate) fn begin(output: &Output) -> Telemetry {
    let filter = env::var(LOG).ok().filter(|text| !text.is_empty()).and_then(|text| match text.parse() {
        Ok(filter) => Some(filter),
        Err(error) => {
            output.hint(format_args!("{LOG}={text} is not understood ({error}); try {LOG}=debug"));
            None::<Targets>
        }
    });
    let logs = filter.map(|filter| {
        // A span is one line, when it is over: then its numbers are known.
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_span_events(FmtSpan::CLOSE)
            .with_filter(filter)
    });
    #[cfg(feature = "otel")]
    let (exporter, spans) = otlp::Exporter::from_environment(output).unzip();
    #[cfg(not(feature = "otel"))]
    let spans: Option<tracing_subscriber::layer::Identity> = None;
    if logs.is_some() || spans.is_some() {
        let ours = Targets::new().with_target("landfall", LevelFilter::DEBUG);
        let spans = spans.map(|spans| spans.with_filter(ours));
        // Only this function installs one, and it is called once.
        drop(tracing_subscriber::registry().with(logs).with(spans).try_init());
    }
    Telemetry {
        #[cfg(feature = "otel")]
        _exporter: exporter,
    }
}

/// Spans as OTLP in JSON over HTTP: the one format that needs neither protobuf nor another HTTP client.
///
/// Written by hand because the usual crates bring some sixty others; this brings none. Bounded: a collector that is slow
/// or away costs spans, never work.
#[cfg(feature = "otel")]
mod otlp {
    use crate::output::Output;
    use landfall_adapters::http::{HttpRequest, Method, UreqTransport};
    use serde_json::{Value, json};
    use std::collections::hash_map::RandomState;
    use std::env;
    use std::fmt;
    use std::hash::BuildHasher as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
    use std::thread::{self, JoinHandle};
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing_subscriber::layer::Context;
    use tracing_subscriber::registry::LookupSpan;

    /// Spans that may wait to be sent; more are dropped. A megabyte or two.
    const WAITING: usize = 4096;
    /// Spans in one request, well below what collectors take.
    const BATCH: usize = 512;
    /// How long a span waits for others.
    const LINGER: Duration = Duration::from_secs(2);
    /// How long one request may take. At its end a command is held up by two of them at most: the one under way, and one
    /// that a collector does not take.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// The thread that sends.
    #[derive(Debug)]
    pub(super) struct Exporter {
        spans: Option<SyncSender<Value>>,
        closing: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Exporter {
        /// With the layer that feeds it; `None` unless an address is given.
        pub(super) fn from_environment(output: &Output) -> Option<(Self, Spans)> {
            let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
            let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            let service = set("OTEL_SERVICE_NAME").unwrap_or_else(|| "landfall".to_owned());
            let collector = Collector {
                url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
                headers: headers(&set("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default()),
                service,
                transport: UreqTransport::new(),
                closing: Arc::default(),
            };
            let closing = Arc::clone(&collector.closing);
            let (spans, waiting) = sync_channel(WAITING);
            let thread = thread::Builder::new()
                .name("landfall otel".into())
                .spawn(move || collector.serve(&waiting))
                .map_err(|error| output.hint(format_args!("no spans are sent: {error}")))
                .ok()?;
            Some((Self { spans: Some(spans.clone()), closing, thread: Some(thread) }, Spans(spans)))
        }
    }

    impl Drop for Exporter {
        fn drop(&mut self) {
            self.closing.store(true, Ordering::SeqCst);
            // The layer lives as long as the process, so the end has to be said; null is no span.
            let told = self.spans.take().is_some_and(|spans| spans.send(Value::Null).is_ok());
            if let Some(thread) = self.thread.take().filter(|_| told) {
                drop(thread.join());
            }
        }
    }

    /// Where spans go.
    struct Collector {
        url: String,
        headers: Vec<(String, String)>,
        service: String,
        transport: UreqTransport,
        /// The program ends: a collector that takes nothing is not tried again.
        closing: Arc<AtomicBool>,
    }

    impl Collector {
        fn serve(&self, waiting: &Receiver<Value>) {
            let mut over = false;
            while !over {
                let Ok(first) = waiting.recv() else { return };
                let until = Instant::now() + LINGER;
                let mut batch = Vec::new();
                let mut next = Ok(first);
                while let Ok(span) = next {
                    over = span.is_null();
                    if over {
                        break;
                    }
                    batch.push(span);
                    next = match batch.len() < BATCH {
                        true => waiting.recv_timeout(until.saturating_duration_since(Instant::now())),
                        false => Err(RecvTimeoutError::Timeout),
                    };
                }
                let taken = batch.is_empty() || self.send(batch);
                if !taken && self.closing.load(Ordering::SeqCst) {
                    return;
                }
            }
        }

        /// One attempt. What a collector does not take is gone: traces are for looking, not for keeping.
        fn send(&self, spans: Vec<Value>) -> bool {
            let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
            let version = env!("CARGO_PKG_VERSION");
            let body = json!({ "resourceSpans": [{
                "resource": { "attributes": [
                    text("service.name", &self.service),
                    text("service.version", version),
                ]},
                "scopeSpans": [{ "scope": { "name": "landfall", "version": version }, "spans": spans }],
            }]});
            let mut request = HttpRequest::new(Method::Post, self.url.as_str(), PATIENCE);
            request.headers.extend(self.headers.iter().cloned());
            let request = request.body("application/json", body.to_string().into_bytes());
            self.transport.send_blocking(&request).is_ok()
        }
    }

    /// `name=value,…` as OpenTelemetry writes it; values may be percent-encoded.
    fn headers(text: &str) -> Vec<(String, String)> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.trim().to_owned(), decoded(value.trim()))).collect()
    }

    fn decoded(text: &str) -> String {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                None => {
                    bytes.push(*first);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes a value of each span and gives it to the thread when the span is over.
    pub(super) struct Spans(SyncSender<Value>);

    /// What is known of a span under way.
    struct Known {
        trace: String,
        own: String,
        parent: Option<String>,
        began_ns: u128,
        attributes: Vec<Value>,
        failed: bool,
    }

    impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
        fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
            let Some(span) = context.span(id) else { return };
            let parent = span.parent().and_then(|parent| {
                parent.extensions().get::<Known>().map(|known| (known.trace.clone(), known.own.clone()))
            });
            let (trace, parent) = match parent {
                Some((trace, own)) => (trace, Some(own)),
                None => (random() + &random(), None),
            };
            let mut known = Known {
                trace,
                own: random(),
                parent,
                began_ns: now_ns(),
                attributes: Vec::new(),
                failed: false,
            };
            attributes.record(&mut known);
            span.extensions_mut().insert(known);
        }

        fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
            let Some(span) = context.span(id) else { return };
            if let Some(known) = span.extensions_mut().get_mut::<Known>() {
                values.record(known);
            }
        }

        fn on_close(&self, id: Id, context: Context<'_, S>) {
            let Some(span) = context.span(&id) else { return };
            let Some(known) = span.extensions_mut().remove::<Known>() else { return };
            match self.0.try_send(known.finished(span.name())) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }

    impl Known {
        fn finished(self, name: &str) -> Value {
            // Internal, of a server, of a client.
            let kind = match name {
                "landfall_request" => 2,
                "landfall_http" => 3,
                _ => 1,
            };
            json!({
                "traceId": self.trace,
                "spanId": self.own,
                "parentSpanId": self.parent.unwrap_or_default(),
                "name": name,
                "kind": kind,
                "startTimeUnixNano": self.began_ns.to_string(),
                "endTimeUnixNano": now_ns().to_string(),
                "attributes": self.attributes,
                "status": if self.failed { json!({ "code": 2 }) } else { json!({}) },
            })
        }

        fn put(&mut self, field: &Field, value: Value) {
            self.failed |= matches!(field.name(), "failure" | "error");
            self.attributes.push(json!({ "key": field.name(), "value": value }));
        }
    }

    impl Visit for Known {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.put(field, json!({ "stringValue": format!("{value:?}") }));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.put(field, json!({ "stringValue": value }));
        }

        fn record_bool(&mut self, field: &Field, value: bool) {
            self.put(field, json!({ "boolValue": value }));
        }

        fn record_f64(&mut self, field: &Field, value: f64) {
            self.put(field, json!({ "doubleValue": value }));
        }

        // Numbers of 64 bits are texts in this format.
        fn record_i64(&mut self, field: &Field, value: i64) {
            self.put(field, json!({ "intValue": value.to_string() }));
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            self.put(field, json!({ "intValue": value.to_string() }));
        }
    }

    /// 64 random bits in hex: two hashers of the standard library never have the same keys.
    fn random() -> String {
        format!("{:016x}", RandomState::new().hash_one(now_ns()))
    }

    fn now_ns() -> u128 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn headers_are_read_as_the_specification_writes_them() {
            let read = headers("api-key=abc, authorization=Basic%20eA%3D%3D,broken,odd=100%");
            let expected = [("api-key", "abc"), ("authorization", "Basic eA=="), ("odd", "100%")];
            assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }

        #[test]
        fn no_two_spans_have_one_name() {
            let names: std::collections::BTreeSet<_> = (0..1000).map(|_| random()).collect();
            assert_eq!(names.len(), 1000);
            assert!(names.iter().all(|name| name.len() == 16));
        }
    }
}
