//! What the proxy's threads share: what is wanted of them, the plan, the open sockets, the late copies, the counts.
//!
//! It does no I/O but shutting sockets down, and calls nobody's code while it holds a lock.
//! Tests: `tests/fault_proxy.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::plan::{Fault, FaultPlan, Late, RequestInfo};

/// Bounds on what the proxy takes and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Client connections at once; one thread each. More are closed as they come. 256: more than a test opens.
    pub connections_max: usize,
    /// Bytes of one request or reply, head and body. 64 MiB: each is held whole, once per connection.
    pub message_bytes_max: usize,
    /// Bytes of one head. 64 KiB, as most servers have it.
    pub head_bytes_max: usize,
    /// How long a client's connection may be idle. 60 s: longer than a client keeps one, shorter than for ever.
    pub idle_ms: u64,
    /// How long one read or write may make no progress. 30 s: a slow server's answer is waited for.
    pub io_ms: u64,
    /// How long connecting to the upstream may take. 2 s: it is on this machine.
    pub connect_ms: u64,
    /// Late copies held at once. 256; further ones are not kept, and their events say so.
    pub late_copies_max: usize,
    /// Bytes of all late copies together. 64 MiB, as above.
    pub late_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            message_bytes_max: 64 << 20,
            head_bytes_max: 64 << 10,
            idle_ms: 60_000,
            io_ms: 30_000,
            connect_ms: 2_000,
            late_copies_max: 256,
            late_bytes_max: 64 << 20,
        }
    }
}

/// How far a request got. Ordered: a later variant is further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reached {
    /// No byte of it was sent to the upstream.
    Nothing,
    /// Some of it was.
    Part,
    /// All of it was, and no whole reply came back.
    Whole,
    /// The upstream replied.
    Answered {
        /// The reply's status.
        status: u16,
    },
}

impl Reached {
    /// Whether the upstream applied the request, judged by its reply's status: 2xx is yes, another is no, and a
    /// request sent whole without a reply is unknown. A request sent in part counts as not applied.
    #[must_use]
    pub fn applied(self) -> Option<bool> {
        match self {
            Self::Nothing | Self::Part => Some(false),
            Self::Whole => None,
            Self::Answered { status } => Some((200..300).contains(&status)),
        }
    }
}

/// What became of one request, or of one late copy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultEvent {
    /// The request's number, as in [`RequestInfo::number`]; a late copy has its original's.
    pub number: u64,
    /// The request's method.
    pub method: String,
    /// The request's path and query.
    pub path: String,
    /// What was decided; `None` let it pass.
    pub fault: Option<Fault>,
    /// False if the fault could not be done: a reply without `results` to edit, an upstream that cannot be
    /// reached, no room for a late copy. The reply, if there is one, then passes as it is.
    pub effective: bool,
    /// How far the request got; the furthest of its copies.
    pub reached: Reached,
    /// How many copies the upstream was sent whole.
    pub copies: u32,
    /// Whether this is about the late copy that [`Fault::LateDuplicate`] sent.
    pub late_copy: bool,
}

impl FaultEvent {
    /// The fault's name, or `pass`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.fault.as_ref().map_or("pass", Fault::name)
    }
}

impl fmt::Display for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {}: {}", self.number, self.method, self.path, self.name())?;
        if self.late_copy {
            f.write_str(" (late copy)")?;
        }
        if self.fault.is_some() && !self.effective {
            f.write_str(" (could not be done)")?;
        }
        match self.reached {
            Reached::Nothing => f.write_str(", not sent on"),
            Reached::Part => f.write_str(", sent on in part"),
            Reached::Whole => f.write_str(", sent on, no reply"),
            Reached::Answered { status } => write!(f, ", upstream said {status}"),
        }
    }
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultStats {
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections closed at once, being too many.
    pub connections_refused: u64,
    /// Requests whose head was read.
    pub requests: u64,
    /// Things that came from clients and were not a request this proxy takes.
    pub bad_requests: u64,
    /// Requests, and copies of them, that the upstream was sent whole.
    pub forwarded: u64,
    /// Times that the upstream could not be reached or did not reply.
    pub upstream_failures: u64,
    /// Decided faults by [`Fault::name`].
    pub faults: BTreeMap<&'static str, u64>,
    /// Late copies sent.
    pub late_sent: u64,
    /// Late copies still held back.
    pub late_waiting: u64,
    /// Bytes read from clients.
    pub bytes_from_clients: u64,
    /// Bytes written to clients.
    pub bytes_to_clients: u64,
    /// Bytes written to the upstream.
    pub bytes_to_upstream: u64,
    /// Bytes read from the upstream.
    pub bytes_from_upstream: u64,
}

impl FaultStats {
    /// How often this kind of fault was decided, whatever its parameters.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.faults.get(name).copied().unwrap_or(0)
    }

    /// How many faults were decided in all.
    #[must_use]
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// What the proxy's owner wants of the accepting thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Listen,
    Refuse,
    Stop,
}

/// Whom a socket leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

/// A request held back to be sent again.
#[derive(Debug)]
pub(super) struct LateCopy {
    pub(super) number: u64,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) fault: Fault,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    At(Instant),
    Request(u64),
}

type Observer = Arc<dyn Fn(&FaultEvent) + Send + Sync>;

pub(super) struct Shared {
    pub(super) seed: u64,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Told of every change of the state that somebody may wait for.
    changed: Condvar,
    stats: Mutex<FaultStats>,
    observer: Mutex<Option<Observer>>,
}

struct State {
    wanted: Wanted,
    listening: bool,
    upstream: SocketAddr,
    plan: Arc<FaultPlan>,
    /// Counts `set_plan`, so that a turn is not taken from a plan that is gone.
    plans: u64,
    turns: u64,
    requests: u64,
    sockets: BTreeMap<u64, (Side, Weak<TcpStream>)>,
    next_socket: u64,
    threads: usize,
    late: VecDeque<(Due, LateCopy)>,
    late_sending: bool,
    late_flush: bool,
}

impl Shared {
    pub(super) fn new(upstream: SocketAddr, plan: FaultPlan, seed: u64, limits: Limits) -> Self {
        let state = State {
            wanted: Wanted::Listen,
            listening: true,
            upstream,
            plan: Arc::new(plan),
            plans: 0,
            turns: 0,
            requests: 0,
            sockets: BTreeMap::new(),
            next_socket: 0,
            threads: 0,
            late: VecDeque::new(),
            late_sending: false,
            late_flush: false,
        };
        Self {
            seed,
            limits,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stats: Mutex::default(),
            observer: Mutex::default(),
        }
    }

    // What the owner asks for.

    /// Changes what is wanted, and shuts down the sockets that have no place in it.
    pub(super) fn want(&self, wanted: Wanted) {
        let mut state = lock(&self.state);
        state.wanted = wanted;
        for (side, socket) in state.sockets.values() {
            let doomed = match wanted {
                Wanted::Listen => false,
                Wanted::Refuse => *side == Side::Client,
                Wanted::Stop => true,
            };
            if let Some(socket) = socket.upgrade().filter(|_| doomed) {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    pub(super) fn set_plan(&self, plan: FaultPlan) {
        let mut state = lock(&self.state);
        state.plan = Arc::new(plan);
        state.plans += 1;
        state.turns = 0;
    }

    pub(super) fn set_upstream(&self, upstream: SocketAddr) {
        lock(&self.state).upstream = upstream;
    }

    pub(super) fn set_observer(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }

    pub(super) fn stats(&self) -> FaultStats {
        let waiting = lock(&self.state).late.len();
        FaultStats { late_waiting: waiting as u64, ..lock(&self.stats).clone() }
    }

    /// Waits until the listener is open, or closed. False if that takes too long.
    pub(super) fn wait_listening(&self, listening: bool, patience: Duration) -> bool {
        self.wait(patience, |state| state.listening == listening)
    }

    /// Waits until no thread of the proxy is left. False if that takes too long.
    pub(super) fn wait_ended(&self, patience: Duration) -> bool {
        self.wait(patience, |state| state.threads == 0)
    }

    pub(super) fn flush_late(&self, patience: Duration) -> bool {
        lock(&self.state).late_flush = true;
        self.changed.notify_all();
        let done = self.wait(patience, |state| state.late.is_empty() && !state.late_sending);
        lock(&self.state).late_flush = false;
        done
    }

    // What the threads ask for.

    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.state).wanted == Wanted::Stop
    }

    pub(super) fn wanted(&self) -> Wanted {
        lock(&self.state).wanted
    }

    pub(super) fn set_listening(&self, listening: bool) {
        lock(&self.state).listening = listening;
        self.changed.notify_all();
    }

    /// Waits until something else is wanted than this, or for the given time.
    pub(super) fn wait_unwanted(&self, wanted: Wanted, time: Duration) {
        self.wait(time, |state| state.wanted != wanted);
    }

    /// Waits that long, or until the proxy stops, which makes it false.
    pub(super) fn pause(&self, ms: u64) -> bool {
        !self.wait(Duration::from_millis(ms), |state| state.wanted == Wanted::Stop)
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        lock(&self.state).upstream
    }

    /// Counts a request and decides its fault.
    pub(super) fn admit(&self, method: &str, path: &str) -> (RequestInfo, Option<Fault>) {
        let (plan, plans, number) = {
            let mut state = lock(&self.state);
            state.requests += 1;
            (Arc::clone(&state.plan), state.plans, state.requests)
        };
        // Late copies may be due by this request.
        self.changed.notify_all();
        let mut info = RequestInfo { number, turn: 0, method: method.to_owned(), path: path.to_owned() };
        let mut fault = None;
        if plan.covers(&info) {
            {
                let mut state = lock(&self.state);
                if state.plans == plans {
                    state.turns += 1;
                    info.turn = state.turns;
                }
            }
            // Without a turn the plan was replaced a moment ago; the request counts as outside both.
            if info.turn > 0 {
                fault = plan.decide(self.seed, &info);
            }
        }
        self.count(|stats| {
            stats.requests += 1;
            if let Some(fault) = &fault {
                *stats.faults.entry(fault.name()).or_default() += 1;
            }
        });
        (info, fault)
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut FaultStats)) {
        count(&mut lock(&self.stats));
    }

    pub(super) fn emit(&self, event: &FaultEvent) {
        let observer = lock(&self.observer).clone();
        if let Some(observer) = observer {
            observer(event);
        }
    }

    /// Takes a socket into the books, so that it can be shut down from outside. `None`: it has no place any more.
    pub(super) fn track(self: &Arc<Self>, side: Side, stream: TcpStream) -> io::Result<Option<Socket>> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(self.limits.io_ms.max(1))))?;
        stream.set_write_timeout(Some(Duration::from_millis(self.limits.io_ms.max(1))))?;
        let stream = Arc::new(stream);
        let mut state = lock(&self.state);
        let allowed = match side {
            Side::Client => state.wanted == Wanted::Listen,
            Side::Upstream => state.wanted != Wanted::Stop,
        };
        if !allowed {
            return Ok(None);
        }
        let id = state.next_socket;
        state.next_socket += 1;
        state.sockets.insert(id, (side, Arc::downgrade(&stream)));
        drop(state);
        Ok(Some(Socket { stream, id, side, shared: Arc::clone(self) }))
    }

    /// Counts a thread from before it starts until the guard is dropped. `None` if there are too many.
    pub(super) fn begin_thread(self: &Arc<Self>, max: usize) -> Option<ThreadGuard> {
        let mut state = lock(&self.state);
        if state.threads >= max {
            return None;
        }
        state.threads += 1;
        Some(ThreadGuard(Arc::clone(self)))
    }

    /// Holds a copy back. False if there is no room.
    pub(super) fn hold_back(&self, after: Late, copy: LateCopy) -> bool {
        let mut state = lock(&self.state);
        let bytes: usize = state.late.iter().map(|(_, copy)| copy.bytes.len()).sum();
        if state.late.len() >= self.limits.late_copies_max
            || bytes.saturating_add(copy.bytes.len()) > self.limits.late_bytes_max
        {
            return false;
        }
        let due = match after {
            Late::Millis(ms) => {
                // A time that the clock cannot hold is as far away as one needs.
                let now = Instant::now();
                Due::At(
                    now.checked_add(Duration::from_millis(ms)).unwrap_or(now + Duration::from_secs(1 << 30)),
                )
            }
            Late::Requests(n) => Due::Request(copy.number.saturating_add(n)),
        };
        state.late.push_back((due, copy));
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits for the next copy that is due. `None` when the proxy stops.
    pub(super) fn next_late(&self) -> Option<LateCopy> {
        let mut state = lock(&self.state);
        if state.late_sending {
            state.late_sending = false;
            self.changed.notify_all();
        }
        loop {
            if state.wanted == Wanted::Stop {
                return None;
            }
            let now = Instant::now();
            let requests = state.requests;
            let flush = state.late_flush;
            let is_due = |due: &Due| match due {
                Due::At(at) => flush || *at <= now,
                Due::Request(number) => flush || requests >= *number,
            };
            if let Some(at) = state.late.iter().position(|(due, _)| is_due(due)) {
                state.late_sending = true;
                return state.late.remove(at).map(|(_, copy)| copy);
            }
            let next = state.late.iter().filter_map(|(due, _)| match due {
                Due::At(at) => Some(at.saturating_duration_since(now)),
                Due::Request(_) => None,
            });
            let time = next.min().unwrap_or(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a condition on the state; false if it does not hold when the time is over.
    fn wait(&self, time: Duration, holds: impl Fn(&State) -> bool) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| !holds(state))
            .unwrap_or_else(PoisonError::into_inner);
        holds(&state)
    }
}

/// A thread that panicked (an observer may) leaves counts and books that are still true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A live thread.
pub(super) struct ThreadGuard(Arc<Shared>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        lock(&self.0.state).threads -= 1;
        self.0.changed.notify_all();
    }
}

/// A socket in the books. Closed when dropped.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    id: u64,
    side: Side,
    shared: Arc<Shared>,
}

impl Socket {
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what is there. Interrupted calls are repeated.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let n = retry(|| (&*self.stream).read(buf))?;
        self.shared.count(|stats| match self.side {
            Side::Client => stats.bytes_from_clients += n as u64,
            Side::Upstream => stats.bytes_from_upstream += n as u64,
        });
        Ok(n)
    }

    /// Shows what is there without taking it.
    pub(super) fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|| self.stream.peek(buf))
    }

    /// Writes everything, or says how much was written before it failed.
    pub(super) fn write(&self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let mut outcome = Ok(());
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match retry(|| (&*self.stream).write(rest)) {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    written += n;
                    continue;
                }
                Err(error) => outcome = Err(error),
            }
            break;
        }
        self.shared.count(|stats| match self.side {
            Side::Client => stats.bytes_to_clients += written as u64,
            Side::Upstream => stats.bytes_to_upstream += written as u64,
        });
        (written, outcome)
    }

    pub(super) fn set_read_timeout_ms(&self, ms: u64) -> io::Result<()> {
        self.stream.set_read_timeout(Some(Duration::from_millis(ms.max(1))))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.shared.state).sockets.remove(&self.id);
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
