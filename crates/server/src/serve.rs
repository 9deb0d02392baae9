//! [`Server`]: the router on a socket of its own, for `landfall serve`, demos and tests.
//!
//! Bounded: connections at once, time for a request's head. Refuses to listen beyond this machine without tokens,
//! unless told to. Speaks HTTP/1 without TLS: put a proxy in front. Tests: `tests/http.rs`.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::auth::Auth;
use crate::http::{self, Config};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::state::{NoPolicy, Policy};
use crate::store::sqlite::{SqliteOptions, SqliteStore, StoreError};

/// How long requests under way may take once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// What may be chosen about a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Who may come in. Default: everybody, as tenant `default`.
    pub auth: Auth,
    /// How much.
    pub limits: Limits,
    /// The endpoint's path. Default: `/sync`.
    pub mount: String,
    /// The app's own rules and actions.
    pub policy: Arc<dyn Policy>,
    /// Listen on other than loopback addresses without tokens: everybody who reaches the port may read and write.
    pub dangerously_open_to_network: bool,
    /// Show numbers for Prometheus at this address, under `/metrics`: to everybody who reaches it, without a token, so
    /// let it be an address that only your own machines reach. Default: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            auth: Auth::open(),
            limits: Limits::default(),
            mount: "/sync".to_owned(),
            policy: Arc::new(NoPolicy),
            dangerously_open_to_network: false,
            metrics: None,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No tokens, and an address that others reach.
    #[error("refusing to listen on {0} without tokens: everybody could read and write")]
    OpenToNetwork(SocketAddr),
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    /// Where numbers are shown, if they are.
    numbers: Option<(TcpListener, SocketAddr)>,
    metrics: Metrics,
    addr: SocketAddr,
    store: SqliteStore,
    router: Router,
    mount: String,
    limits: Limits,
}

impl Server {
    /// Opens the database, makes the routes and listens; port 0 takes a free one.
    pub async fn bind(
        addr: SocketAddr,
        database: impl AsRef<Path>,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        if options.auth.is_open() && !addr.ip().is_loopback() && !options.dangerously_open_to_network {
            return Err(ServerError::OpenToNetwork(addr));
        }
        let store = SqliteStore::open(database, SqliteOptions { policy: options.policy })?;
        let (listener, addr) = listen(addr).await?;
        let numbers = match options.metrics {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        let metrics = Metrics::default();
        let health_store = store.clone();
        let router = http::uncounted(Config {
            store: store.clone(),
            auth: options.auth,
            limits: options.limits.clone(),
            mount: options.mount.clone(),
            metrics: metrics.clone(),
        })
        .route("/health", get(move || http::health(health_store.clone())))
        .fallback(http::not_found);
        let router = http::watched(router, &options.mount, metrics.clone());
        Ok(Self {
            listener,
            numbers,
            metrics,
            addr,
            store,
            router,
            mount: http::mount_path(&options.mount),
            limits: options.limits,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint's URL, for example `http://127.0.0.1:8787/sync`.
    pub fn endpoint(&self) -> String {
        format!("http://{}{}", self.addr, self.mount)
    }

    /// The records behind it.
    pub fn store(&self) -> &SqliteStore {
        &self.store
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where it shows its numbers, if it does, for example `http://127.0.0.1:9464/metrics`.
    pub fn metrics_url(&self) -> Option<String> {
        self.numbers.as_ref().map(|(_, addr)| format!("http://{addr}/metrics"))
    }

    /// Answers until `stop` is ready, then finishes what is under way (10 s at most).
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.limits.connections.max(1)));
        let mut stop = pin!(stop);
        let _numbers = self
            .numbers
            .map(|(listener, _)| Numbers::show(listener, self.metrics.clone(), self.limits.clone()));
        loop {
            let mut next = pin!(next_connection(&self.listener, &places));
            let next = poll_fn(|cx| match stop.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => next.as_mut().poll(cx).map(Some),
            });
            let Some((stream, place)) = next.await else { break };
            let connection = graceful.watch(connection(stream, self.router.clone(), &self.limits));
            let open = self.metrics.connection();
            tokio::spawn(async move {
                // A connection that breaks is the peer's business.
                let _ = connection.await;
                drop((place, open));
            });
        }
        drop((self.listener, self.router));
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
        // The last handle waits for the writer's thread.
        let _ = tokio::task::spawn_blocking(move || drop(self.store)).await;
    }

    /// Answers in a task of its own, until the handle is stopped or dropped.
    pub fn spawn(self) -> ServerHandle {
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, endpoint, store) = (self.addr, self.endpoint(), self.store.clone());
        let metrics_url = self.metrics_url();
        let task = tokio::spawn(self.serve(async move {
            let _ = stopped.await;
        }));
        ServerHandle { addr, endpoint, metrics_url, store, stop, task }
    }
}

/// A server that answers.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    endpoint: String,
    metrics_url: Option<String>,
    store: SqliteStore,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl ServerHandle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The endpoint's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it shows its numbers, if it does.
    pub fn metrics_url(&self) -> Option<&str> {
        self.metrics_url.as_deref()
    }

    /// The records behind it.
    pub fn store(&self) -> &SqliteStore {
        &self.store
    }

    /// Finishes what is under way, closes the database, then returns.
    pub async fn stop(self) {
        drop(self.store);
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let listen = |source| ServerError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    let addr = listener.local_addr().map_err(listen)?;
    Ok((listener, addr))
}

/// Shows the numbers at an address of their own until it is dropped. Not counted itself.
struct Numbers(JoinHandle<()>);

impl Numbers {
    /// Connections at once: those who scrape are few.
    const PLACES: usize = 16;

    fn show(listener: TcpListener, metrics: Metrics, limits: Limits) -> Self {
        let router = Router::new()
            .route("/metrics", get(move || http::numbers(metrics.clone())))
            .fallback(http::not_found);
        let places = Arc::new(Semaphore::new(Self::PLACES));
        Self(tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, place) = next_connection(&listener, &places).await;
                while open.try_join_next().is_some() {}
                let connection = connection(stream, router.clone(), &limits);
                open.spawn(async move {
                    let _ = connection.await;
                    drop(place);
                });
            }
        }))
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        // Its connections are dropped with it.
        self.0.abort();
    }
}

/// Waits for a free place, then for a peer.
async fn next_connection(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Out of file handles, or the peer is gone already: never spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn connection(
    stream: TcpStream,
    router: Router,
    limits: &Limits,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}
