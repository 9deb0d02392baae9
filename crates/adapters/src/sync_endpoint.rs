//! The adapter for Landfall's own protocol: `POST {endpoint}`, `GET {endpoint}/changes`, `GET {endpoint}/entities/…`,
//! `GET {endpoint}/ping`.
//!
//! This file puts calls together; what goes out is made in [`encode`], what comes back is read in [`decode`] and [`ping`], all
//! without a network and open to simulators. The protocol in words: `docs/writing-a-backend.md`. It knows nothing of
//! the queue. Tests: in the submodules, `tests/sync_endpoint.rs` and `tests/ping.rs` over real sockets.

pub mod decode;
pub mod encode;
pub mod ping;

pub use crate::http::url::EndpointError;
pub use decode::{decode_fetch, decode_pull, decode_push};
pub use encode::{encode_push, entity_url, pull_url};
pub use ping::{decode_ping, ping_url};

use crate::http::auth::{HeadersProvider, NoHeaders, checked_credentials};
use crate::http::classify::Table;
use crate::http::shown::Secrets;
use crate::http::url::Endpoint;
use crate::http::{HttpRequest, HttpResponse, HttpTransport, Method, RESPONSE_BYTES_MAX, trace};
use landfall_core::adapter::{
    Adapter, BoxFuture, CallContext, Capabilities, EffectClass, Probe, PullPage, PullRequest, PushBatch,
    PushReply,
};
use landfall_core::entity::RemoteEntity;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::EntityKey;
use landfall_protocol::CONTENT_TYPE_JSON;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most tasks in one push unless set otherwise: what the reference server takes, and some 100 KB of small changes.
const BATCH_TASKS: usize = 500;
/// Most payload bytes in one push unless set otherwise. 1 MiB: the default limit of nginx, the strictest of the
/// common servers.
const BATCH_BYTES: usize = 1 << 20;
/// What every answer is made of.
const ACCEPT: &str = "application/json, application/problem+json";

/// Talks to a backend that implements the sync endpoint protocol, version 1.
///
/// ```no_run
/// # #[cfg(feature = "ureq")] {
/// use landfall_adapters::SyncEndpoint;
/// use landfall_adapters::http::auth::BearerToken;
/// let adapter = SyncEndpoint::builder("https://api.example.com/sync")
///     .headers(BearerToken::new("…"))
///     .build()?;
/// # }
/// # Ok::<(), landfall_adapters::sync_endpoint::EndpointError>(())
/// ```
pub struct SyncEndpoint {
    endpoint: Endpoint,
    transport: Arc<dyn HttpTransport>,
    headers: Arc<dyn HeadersProvider>,
    table: Table,
    capabilities: Capabilities,
    max_response_bytes: u64,
    #[cfg(feature = "gzip")]
    compress_above: Option<usize>,
    unasked: AtomicU64,
}

impl SyncEndpoint {
    /// With the default transport, without credentials.
    ///
    /// # Errors
    /// [`EndpointError`] when the address is not acceptable.
    pub fn new(endpoint_url: &str) -> Result<Self, EndpointError> {
        Self::builder(endpoint_url).build()
    }

    /// With settings of your own.
    pub fn builder(endpoint_url: impl Into<String>) -> SyncEndpointBuilder {
        SyncEndpointBuilder {
            url: endpoint_url.into(),
            allow_insecure_http: false,
            transport: None,
            headers: Arc::new(NoHeaders),
            table: Table::sync_endpoint(),
            batch_tasks: BATCH_TASKS,
            batch_bytes: BATCH_BYTES,
            probe: true,
            max_response_bytes: RESPONSE_BYTES_MAX,
            #[cfg(feature = "gzip")]
            compress_above: None,
        }
    }

    /// Who gives the credentials, so that the engine can ask it to refresh them.
    pub fn headers_provider(&self) -> &Arc<dyn HeadersProvider> {
        &self.headers
    }

    /// How many results came so far for keys that were not in the batch they answered. They are ignored; more than
    /// none means that the backend, or something before it, mixes up answers.
    pub fn unasked_results(&self) -> u64 {
        self.unasked.load(Ordering::Relaxed)
    }

    /// Sends one request with fresh credentials of the context's account; gives back the answer, and what of the
    /// request must not be shown.
    async fn exchange(
        &self,
        context: &CallContext,
        request: HttpRequest,
    ) -> Result<(HttpResponse, Secrets), Failure> {
        let own = checked_credentials(self.headers.as_ref(), context.identity.as_deref())?;
        let secrets = Secrets::of(&own);
        let mut request = request.header("accept", ACCEPT);
        request.headers.extend(own);
        request.max_response_bytes = self.max_response_bytes;
        request.permit = context.permit.clone();
        // After the credentials, which may have become another account's while the provider was asked. The default
        // transport looks once more, before the first byte; one that does not leaves the time that connecting takes.
        // In it the request can still leave, but only as what it was when it was made: this account's, with
        // credentials that were handed out before the queue changed hands.
        check_permit(context)?;
        let response = trace::send(self.transport.as_ref(), request).await?;
        Ok((response, secrets))
    }

    fn push_request(&self, context: &CallContext, batch: &PushBatch) -> HttpRequest {
        let body = encode_push(context, batch);
        let request = HttpRequest::new(Method::Post, self.endpoint.url(), context.timeout);
        #[cfg(feature = "gzip")]
        if self.compress_above.is_some_and(|least| body.len() > least) {
            if let Some(packed) = encode::gzip(&body) {
                return request.header("content-encoding", "gzip").body(CONTENT_TYPE_JSON, packed);
            }
        }
        request.body(CONTENT_TYPE_JSON, body)
    }
}

impl Adapter for SyncEndpoint {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn push<'a>(
        &'a self,
        context: &'a CallContext,
        batch: &'a PushBatch,
    ) -> BoxFuture<'a, Result<PushReply, Failure>> {
        Box::pin(async move {
            let (response, secrets) = self.exchange(context, self.push_request(context, batch)).await?;
            let read = decode::read_push_sent(&self.table, batch, &response, &secrets)?;
            self.unasked.fetch_add(read.unasked, Ordering::Relaxed);
            Ok(read.reply)
        })
    }

    fn refresh_credentials(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.headers_provider().refresh() })
    }

    fn pull<'a>(
        &'a self,
        context: &'a CallContext,
        request: &'a PullRequest,
    ) -> BoxFuture<'a, Result<PullPage, Failure>> {
        Box::pin(async move {
            let url = pull_url(&self.endpoint, request);
            let asked = HttpRequest::new(Method::Get, url, context.timeout);
            let (response, secrets) = self.exchange(context, asked).await?;
            decode::read_pull_sent(&self.table, request, &response, &secrets)
        })
    }

    fn fetch<'a>(
        &'a self,
        context: &'a CallContext,
        entity: &'a EntityKey,
    ) -> BoxFuture<'a, Result<Option<RemoteEntity>, Failure>> {
        Box::pin(async move {
            let url = entity_url(&self.endpoint, entity).ok_or_else(|| {
                Failure::new(
                    FailureKind::Rejected,
                    Delivery::NotSent,
                    format!(
                        "{entity} cannot be asked for: an empty name, . or .. cannot stand in an address"
                    ),
                )
            })?;
            let asked = HttpRequest::new(Method::Get, url, context.timeout);
            let (response, secrets) = self.exchange(context, asked).await?;
            decode::read_fetch_sent(&self.table, entity, &response, &secrets)
        })
    }

    /// Without credentials: who answers is not known yet, and may be anybody.
    fn probe<'a>(&'a self, context: &'a CallContext, probe: &'a Probe) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let url = ping_url(&self.endpoint, probe);
            let mut asked = HttpRequest::new(Method::Get, url, context.timeout).header("accept", ACCEPT);
            asked.max_response_bytes = ping::PONG_BYTES_MAX.min(self.max_response_bytes);
            asked.permit = context.permit.clone();
            check_permit(context)?;
            let response = trace::send(self.transport.as_ref(), asked).await.map_err(ping::unanswered)?;
            decode_ping(&self.table, &self.endpoint, probe, &response)
        })
    }
}

fn check_permit(context: &CallContext) -> Result<(), Failure> {
    if context.permit.is_withdrawn() {
        return Err(Failure::new(
            FailureKind::Cancelled,
            Delivery::NotSent,
            "the permit to send was withdrawn before anything was sent",
        ));
    }
    Ok(())
}

impl fmt::Debug for SyncEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncEndpoint")
            .field("endpoint", &self.endpoint.url())
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// Settings of [`SyncEndpoint`].
#[must_use]
pub struct SyncEndpointBuilder {
    url: String,
    allow_insecure_http: bool,
    transport: Option<Arc<dyn HttpTransport>>,
    headers: Arc<dyn HeadersProvider>,
    table: Table,
    batch_tasks: usize,
    batch_bytes: usize,
    probe: bool,
    max_response_bytes: u64,
    #[cfg(feature = "gzip")]
    compress_above: Option<usize>,
}

impl SyncEndpointBuilder {
    /// Who gives the headers with the credentials, asked for every request; a closure will do.
    pub fn headers(mut self, provider: impl HeadersProvider) -> Self {
        self.headers = Arc::new(provider);
        self
    }

    /// Sends with this transport instead of the default one.
    pub fn transport(mut self, transport: impl HttpTransport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Allows plain http to other machines: on a trusted network, or to reach the host from an emulator. Everybody
    /// on the way can then read the data and use the credentials.
    pub fn allow_insecure_http(mut self) -> Self {
        self.allow_insecure_http = true;
        self
    }

    /// Most tasks in one push; at least 1. Default 500.
    pub fn batch_tasks(mut self, most: usize) -> Self {
        self.batch_tasks = most.max(1);
        self
    }

    /// Most payload bytes in one push. Default 1 MiB.
    pub fn batch_bytes(mut self, most: usize) -> Self {
        self.batch_bytes = most.max(1);
        self
    }

    /// Never asks whether the backend can be reached. For a backend without the ping route on plain http in a trusted
    /// network: its 404 is not to be told from that of a stranger. Elsewhere its absence is noticed.
    pub fn without_probe(mut self) -> Self {
        self.probe = false;
        self
    }

    /// The largest answer that is read. Default 32 MiB.
    pub fn max_response_bytes(mut self, most: u64) -> Self {
        self.max_response_bytes = most;
        self
    }

    /// Sorts answers by another table.
    pub fn table(mut self, table: Table) -> Self {
        self.table = table;
        self
    }

    /// Compresses pushes of more than so many bytes. Off by default: not every server reads compressed requests.
    #[cfg(feature = "gzip")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compress_above = Some(bytes);
        self
    }

    /// The adapter.
    ///
    /// # Errors
    /// [`EndpointError`] when the address is not acceptable, or there is no transport.
    pub fn build(self) -> Result<SyncEndpoint, EndpointError> {
        let endpoint = Endpoint::parse(&self.url, self.allow_insecure_http)?;
        let transport = self.transport.or_else(default_transport).ok_or(EndpointError::NoTransport)?;
        Ok(SyncEndpoint {
            endpoint,
            transport,
            headers: self.headers,
            table: self.table,
            capabilities: Capabilities {
                batch_tasks: self.batch_tasks,
                batch_bytes: self.batch_bytes,
                effect: EffectClass::OneEffect,
                pull: true,
                orders_writes: true,
                atomic_groups: true,
                actions: true,
                probe: self.probe,
            },
            max_response_bytes: self.max_response_bytes,
            #[cfg(feature = "gzip")]
            compress_above: self.compress_above,
            unasked: AtomicU64::new(0),
        })
    }
}

impl fmt::Debug for SyncEndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address is not checked yet and may hold a password.
        f.write_str("SyncEndpointBuilder(..)")
    }
}

fn default_transport() -> Option<Arc<dyn HttpTransport>> {
    #[cfg(feature = "ureq")]
    return Some(Arc::new(crate::http::UreqTransport::new()));
    #[cfg(not(feature = "ureq"))]
    None
}
