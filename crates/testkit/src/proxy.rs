//! A seeded fault proxy: stands on loopback before a real HTTP/1.1 server and breaks what passes, on purpose.
//!
//! `landfall demo` and the end-to-end tests put it between the engine and the reference server. It reads each
//! request whole, asks its [`FaultPlan`] what to do with it, and does that on the wire with real sockets.
//! It does not know the sync protocol, beyond a JSON member called `results` that some faults edit; it speaks
//! neither TLS nor HTTP/2 and decompresses nothing. The simulator covers the same faults in virtual time;
//! this covers the bytes.
//!
//! Same seed, same plan, same order of requests: same faults. Threads and memory are bounded by [`Limits`].
//! Tests: `tests/fault_proxy.rs` (bytes on the wire), and beside the pure parts (`plan`, `http`, `forge`).
//!
//! ```no_run
//! use landfall_testkit::proxy::{Cut, Ending, Fault, FaultPlan, FaultProxy};
//! # fn main() -> std::io::Result<()> {
//! let server = "127.0.0.1:8787".parse().expect("an address");
//! let plan = FaultPlan::script([
//!     Some(Fault::DropReplyAfterApply { end: Ending::Reset }),
//!     None,
//!     Some(Fault::CutReply { at: Cut::Seeded, end: Ending::Close }),
//! ]);
//! let proxy = FaultProxy::start(server, plan, 42)?;
//! proxy.on_event(|event| assert!(event.number > 0));
//! // … let the client talk to proxy.addr() …
//! proxy.set_plan(FaultPlan::healthy());
//! # Ok(()) }
//! ```

mod connection;
mod forge;
mod http;
mod plan;
mod shared;
mod upstream;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use plan::{Cut, Duplicate, Ending, Fault, FaultPlan, Late, Odd, RequestInfo, Which};
pub use shared::{FaultEvent, FaultStats, Limits, Reached};

use shared::{Shared, Wanted};

/// How long a call waits for the proxy's own threads before it goes on without them.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running proxy. Dropping it closes every connection and ends its threads.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    late: Option<JoinHandle<()>>,
    /// Both ends of one idle connection over the proxy's port. While it lives, the system gives the port to
    /// nobody else, so it can be listened on again after [`FaultProxy::set_offline`].
    _port_keeper: (TcpStream, TcpStream),
}

impl FaultProxy {
    /// Starts a proxy on a free loopback port, in front of `upstream`, with the default [`Limits`].
    ///
    /// The upstream is connected to on demand and need not be up yet. Fails when no port or thread can be had.
    pub fn start(upstream: SocketAddr, plan: FaultPlan, seed: u64) -> io::Result<Self> {
        Self::start_with(upstream, plan, seed, Limits::default())
    }

    /// Starts a proxy as [`FaultProxy::start`] does, with the caller's limits.
    pub fn start_with(upstream: SocketAddr, plan: FaultPlan, seed: u64, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let port_keeper = keep_port(&listener, addr)?;
        let shared = Arc::new(Shared::new(upstream, plan, seed, limits));
        // From here on, what has been started is stopped by dropping this, also if something else fails.
        let mut proxy = Self { addr, shared, acceptor: None, late: None, _port_keeper: port_keeper };
        let shared = Arc::clone(&proxy.shared);
        proxy.late = Some(proxy.spawn("fault-proxy-late", move || upstream::send_late(&shared))?);
        let shared = Arc::clone(&proxy.shared);
        let accept = move || connection::accept_all(&shared, listener, addr);
        proxy.acceptor = Some(proxy.spawn("fault-proxy-accept", accept)?);
        Ok(proxy)
    }

    /// Starts one of the two threads that live as long as the proxy.
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let guard = self.shared.begin_thread(usize::MAX);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            work();
            drop(guard);
        })
    }

    /// The address that clients talk to. It stays the same for the proxy's whole life.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The seed that every decision derives from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// What has happened so far. A request and its fault are counted before its client sees an answer, the bytes
    /// of the answer right after they were written.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        self.shared.stats()
    }

    /// Replaces the plan, from the next request on; requests being answered keep the fault they have.
    ///
    /// Counting of [`RequestInfo::turn`] starts again at 1, so a script begins at its beginning.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.shared.set_plan(plan);
    }

    /// Takes the proxy off the network, or puts it back.
    ///
    /// Offline closes every client connection, whatever it is in the middle of, and stops listening, so that a
    /// new connection is *refused* by the system ([`Fault::ResetOnAccept`] is the one that accepts first). What
    /// was already on its way to the upstream still arrives there. Returns when it is so; fails if it is not
    /// within some seconds. Not to be called from an observer.
    pub fn set_offline(&self, offline: bool) -> io::Result<()> {
        let wanted = if offline { Wanted::Refuse } else { Wanted::Listen };
        self.shared.want(wanted);
        if offline {
            wake(self.addr);
        }
        if self.shared.wait_listening(!offline, PATIENCE) {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the fault proxy could not change its listener in time",
            ))
        }
    }

    /// Sends what comes next to another address: the server was started again on another port.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.set_upstream(upstream);
    }

    /// Calls `observer` once for every request, and once more for every late copy, from the proxy's threads.
    ///
    /// The call comes after the upstream's part is over and before the client sees anything, so a client that
    /// has its answer finds the event already recorded. There is one observer; a new one replaces it.
    pub fn on_event(&self, observer: impl Fn(&FaultEvent) + Send + Sync + 'static) {
        self.shared.set_observer(Arc::new(observer));
    }

    /// Sends every copy that [`Fault::LateDuplicate`] holds back now, and waits until they were answered or failed.
    ///
    /// Returns false if that took longer than `timeout`. Not to be called from an observer.
    #[must_use]
    pub fn flush_late(&self, timeout: Duration) -> bool {
        self.shared.flush_late(timeout)
    }

    /// Stops the proxy as dropping it does: closes everything and ends the threads.
    pub fn stop(self) {}
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.want(Wanted::Stop);
        wake(self.addr);
        // The threads that serve connections are not joined but counted, and the wait is for all of them. One that
        // outlives the patience (an observer that blocks, or that is what drops the proxy) is left behind.
        if self.shared.wait_ended(PATIENCE) {
            for handle in [self.acceptor.take(), self.late.take()].into_iter().flatten() {
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr)
            .field("seed", &self.shared.seed)
            .finish_non_exhaustive()
    }
}

/// Opens the idle connection that reserves the port. See `FaultProxy::_port_keeper`.
fn keep_port(listener: &TcpListener, addr: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let ours = TcpStream::connect(addr)?;
    let from = ours.local_addr()?;
    // Anyone may connect to a fresh port; a few strangers are turned away before it is called a failure.
    for _ in 0..8 {
        let (accepted, peer) = listener.accept()?;
        if peer == from {
            return Ok((ours, accepted));
        }
    }
    Err(io::Error::other("strangers keep connecting to the fault proxy's port"))
}

/// Makes the accepting thread look at what is wanted, by connecting to it.
fn wake(addr: SocketAddr) {
    let _ = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
}
