//! The routes: HTTP in, HTTP out, every error a problem document. Decides nothing about records.
//!
//! | route | answer |
//! |---|---|
//! | `POST {mount}` | [`landfall_protocol::PushResponse`] |
//! | `GET {mount}/changes?cursor=…&limit=…` | [`landfall_protocol::ChangesPage`] |
//! | `GET {mount}/entities/{entity_type}/{entity_id}` | [`landfall_protocol::Record`] |
//! | `GET {mount}/ping?nonce=…` | [`landfall_protocol::Pong`] |
//!
//! A push passes, in this order: token, rate, content type and encoding, size as it travels, time, size after
//! decompression, shape; nothing of the body is read for a caller without a token. A ping passes nothing: it says that
//! this program is here, to anybody, and costs less than a refusal. Tests: `tests/http.rs`.

use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use landfall_protocol::{
    CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, PROTOCOL_VERSION, Pong, Problem, code, is_ping_nonce, ping_proof,
};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use crate::auth::Auth;
use crate::incoming::Submission;
use crate::limits::{Buckets, Limits};
use crate::metrics::{Metrics, Route};
use crate::state::Refusal;
use crate::store::sqlite::SqliteStore;

/// What a router needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The records.
    pub store: SqliteStore,
    /// Who may come in.
    pub auth: Auth,
    /// How much.
    pub limits: Limits,
    /// Where: `/sync` unless changed. Begins with a slash, does not end with one.
    pub mount: String,
    /// Where it is counted. Keep a clone to show the numbers.
    pub metrics: Metrics,
}

impl Config {
    /// Open to everybody, default limits, at `/sync`.
    pub fn new(store: SqliteStore) -> Self {
        Self {
            store,
            auth: Auth::open(),
            limits: Limits::default(),
            mount: "/sync".to_owned(),
            metrics: Metrics::default(),
        }
    }
}

/// The sync endpoint as a router, to be merged into an app's own; it has no fallback and no other route.
///
/// The mount is brought into form (`api/sync/` becomes `/api/sync`). See `examples/mounted.rs`.
pub fn router(config: Config) -> Router {
    let (mount, metrics) = (config.mount.clone(), config.metrics.clone());
    watched(uncounted(config), &mount, metrics)
}

/// Every request is counted and has a span, see [`watch`].
pub(crate) fn watched(router: Router, mount: &str, metrics: Metrics) -> Router {
    let mount: Arc<str> = mount_path(mount).replace("{{", "{").replace("}}", "}").into();
    router.layer(axum::middleware::from_fn_with_state((mount, metrics), watch))
}

pub(crate) fn uncounted(config: Config) -> Router {
    let mount = mount_path(&config.mount);
    let endpoint = if mount.is_empty() { "/" } else { mount.as_str() };
    let app = App {
        store: config.store,
        auth: config.auth,
        limits: config.limits,
        metrics: config.metrics,
        buckets: Mutex::new(Buckets::default()),
        began: Instant::now(),
    };
    Router::new()
        .route(endpoint, post(push))
        .route(&format!("{mount}/changes"), get(changes))
        .route(&format!("{mount}/entities/{{entity_type}}/{{entity_id}}"), get(entity))
        .route(&format!("{mount}/ping"), get(ping))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(app))
}

/// A slash in front, none behind; braces are taken literally. Empty for the root.
pub(crate) fn mount_path(mount: &str) -> String {
    let parts = mount.split('/').filter(|part| !part.is_empty());
    parts.map(|part| format!("/{}", part.replace('{', "{{").replace('}', "}}"))).collect()
}

/// A problem document for an address that is not ours.
pub(crate) async fn not_found() -> Response {
    problem(Problem::new(404, code::NOT_FOUND, "there is nothing at this address"))
}

async fn method_not_allowed() -> Response {
    problem(Problem::new(405, code::METHOD_NOT_ALLOWED, "this address does not know this method"))
}

/// Counts a request and gives it a span. The span names the kind of request and never its address, which may hold the
/// name of a record or a cursor (`crates/landfall/tests/traces.rs`).
async fn watch(
    State((mount, metrics)): State<(Arc<str>, Metrics)>,
    request: Request,
    next: Next,
) -> Response {
    let route = Route::of(&mount, request.uri().path());
    let span = tracing::info_span!(
        "landfall_request",
        method = method(request.method()),
        route = route.as_str(),
        status = tracing::field::Empty,
        code = tracing::field::Empty,
        duration_ms = tracing::field::Empty,
    );
    let mut counted = metrics.request(route);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let refusal = response.extensions().get::<Refused>().map(|Refused(code)| code.clone());
    span.record("status", status);
    if let Some(code) = &refusal {
        span.record("code", code.as_str());
    }
    span.record("duration_ms", counted.age().as_secs_f64() * 1e3);
    let bytes = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    counted.answered(status, bytes, refusal);
    response
}

/// The methods that everybody knows, by name; a caller may make up others.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The code of a problem document, for whoever counts.
#[derive(Debug, Clone)]
struct Refused(String);

/// The numbers, as text.
pub(crate) async fn numbers(metrics: Metrics) -> Response {
    let headers = [(header::CONTENT_TYPE, Metrics::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    (headers, metrics.to_prometheus()).into_response()
}

/// Is the database readable?
pub(crate) async fn health(store: SqliteStore) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    match store.entity("default", String::new(), String::new()).await {
        Err(refusal @ Refusal::Store(_)) => problem(refusal.into_problem()),
        Ok(_) | Err(Refusal::Problem(_)) => json(&Health { status: "ok" }),
    }
}

#[derive(Debug)]
struct App {
    store: SqliteStore,
    auth: Auth,
    limits: Limits,
    metrics: Metrics,
    buckets: Mutex<Buckets>,
    began: Instant,
}

impl App {
    /// The tenant of a request, if it may be answered now.
    fn admit(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let header = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some(tenant) = self.auth.tenant(header) else {
            return Err(Problem::new(401, code::UNAUTHORIZED, "a valid bearer token is needed"));
        };
        if let Some(rate) = self.limits.rate {
            let now_s = self.began.elapsed().as_secs_f64();
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(wait_s) = buckets.take(rate, tenant, now_s) {
                let wait_ms = (wait_s * 1000.0).ceil().min(3_600_000.0) as u64;
                let problem = Problem::new(429, code::RATE_LIMITED, "too many requests of this tenant");
                return Err(problem.retry_after_ms(wait_ms));
            }
        }
        Ok(tenant.to_owned())
    }

    /// The body, decompressed, within its limits.
    async fn body(&self, request: Request) -> Result<Vec<u8>, Problem> {
        let unsupported = |detail: &str| Problem::new(415, code::UNSUPPORTED_MEDIA, detail);
        if !is_json(request.headers()) {
            return Err(unsupported("the body must be application/json"));
        }
        let encoding = request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let gzip = match encoding.map(<[u8]>::to_ascii_lowercase).as_deref() {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip" | b"x-gzip") => true,
            Some(_) => return Err(unsupported("the body may be gzip or not encoded")),
        };
        let read = read_body(request.into_body(), self.limits.body_bytes);
        let body = tokio::time::timeout(self.limits.body_timeout, read)
            .await
            .map_err(|_| Problem::new(408, code::TIMEOUT, "the body did not arrive in time"))??;
        self.metrics.body_read(body.len());
        if !gzip {
            return Ok(body);
        }
        let limit = self.limits.decoded_bytes;
        let mut decoded = Vec::new();
        flate2::read::MultiGzDecoder::new(body.as_slice())
            .take(limit as u64 + 1)
            .read_to_end(&mut decoded)
            .map_err(|_| Problem::new(400, code::MALFORMED, "the body is not gzip"))?;
        if decoded.len() > limit { Err(too_large(limit)) } else { Ok(decoded) }
    }
}

async fn push(State(app): State<Arc<App>>, request: Request) -> Response {
    let pushed = async {
        let tenant = app.admit(request.headers())?;
        let body = app.body(request).await?;
        let submission = Submission::from_json(&body, &app.limits)?;
        drop(body);
        app.store.push(&tenant, submission).await.map_err(Refusal::into_problem)
    };
    pushed.await.map_or_else(problem, |answer| {
        app.metrics.pushed(&answer);
        json(&answer)
    })
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn changes(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Response {
    let page = async {
        let tenant = app.admit(&headers)?;
        let Query(query) = query.map_err(|_| Problem::new(400, code::MALFORMED, "limit must be a number"))?;
        let limit = query.limit.unwrap_or(app.limits.page_default).clamp(1, app.limits.page_max.max(1));
        let page = app.store.changes(&tenant, query.cursor, limit, app.limits.page_bytes);
        page.await.map_err(Refusal::into_problem)
    };
    page.await.map_or_else(problem, |page| {
        app.metrics.pulled(&page);
        json(&page)
    })
}

async fn entity(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    let record = async {
        let tenant = app.admit(&headers)?;
        let Path((kind, id)) =
            path.map_err(|_| Problem::new(400, code::MALFORMED, "the path is not UTF-8"))?;
        app.store.entity(&tenant, kind, id).await.map_err(Refusal::into_problem)
    };
    record.await.map_or_else(problem, |record| json(&record))
}

#[derive(Debug, Deserialize)]
struct PingQuery {
    nonce: String,
}

/// Needs no token and counts towards no rate, like a refusal for want of a token: neither takes more than this. If the
/// pings of strangers were counted together, one stranger could make every client believe that it cannot get through.
/// The server's name stays out: it belongs to its tenants.
async fn ping(query: Result<Query<PingQuery>, QueryRejection>) -> Response {
    match query {
        Ok(Query(PingQuery { nonce })) if is_ping_nonce(&nonce) => {
            json(&Pong { protocol: PROTOCOL_VERSION, proof: ping_proof(&nonce), server_id: None })
        }
        _ => {
            let detail = "a ping needs one nonce: 32 lower-case hexadecimal digits";
            problem(Problem::new(400, code::MALFORMED, detail))
        }
    }
}

/// Reads a body and stops as soon as it is too long.
async fn read_body(mut body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    if http_body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(400, code::MALFORMED, "the body broke off"))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> Problem {
    Problem::new(413, code::TOO_LARGE, format!("the body has more than {limit} bytes"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case(CONTENT_TYPE_JSON)
}

/// An answer 200. What is told of records is never kept by caches.
fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let headers = [(header::CONTENT_TYPE, CONTENT_TYPE_JSON), (header::CACHE_CONTROL, "no-store")];
            (headers, body).into_response()
        }
        Err(_) => problem(Problem::new(503, code::UNAVAILABLE, "the answer could not be written")),
    }
}

/// A problem document with the headers that belong to it.
pub(crate) fn problem(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response =
        (status, [(header::CONTENT_TYPE, CONTENT_TYPE_PROBLEM), (header::CACHE_CONTROL, "no-store")], body)
            .into_response();
    response.extensions_mut().insert(Refused(problem.code));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(wait_ms) = problem.retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000).max(1)));
    }
    response
}
