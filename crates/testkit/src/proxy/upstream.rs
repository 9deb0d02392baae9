//! The proxy's side towards the real server: one connection, one exchange at a time, and the late copies.
//!
//! It repeats nothing by itself: a request that failed half-way is reported, never sent again, because a
//! duplicate that nobody asked for would spoil what the faults are meant to show.
//! It does not know what faults there are. Tests: `tests/fault_proxy.rs`.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::http::{BodyKind, Framer, Head, Start, head_end};
use super::shared::{FaultEvent, Reached, Shared, Side, Socket};

/// A reply, whole, as the bytes that came.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) head: Head,
    /// Head and body.
    pub(super) raw: Vec<u8>,
}

impl Reply {
    pub(super) fn status(&self) -> u16 {
        match self.head.start {
            Start::Reply { status } => status,
            Start::Request { .. } => 0,
        }
    }

    pub(super) fn head_len(&self) -> usize {
        self.head.raw.len()
    }

    /// The body without its transfer coding.
    pub(super) fn content(&self) -> Vec<u8> {
        let body = self.raw.get(self.head_len()..).unwrap_or_default();
        if self.head.body != BodyKind::Chunked {
            return body.to_vec();
        }
        let mut content = Vec::with_capacity(body.len());
        // It was framed when it was read, so it is sound.
        let _ = Framer::new(self.head.body).feed(body, Some(&mut content));
        content
    }
}

/// What came of sending one request.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) reached: Reached,
    pub(super) reply: Option<Reply>,
}

impl Exchange {
    /// Whether the upstream got the whole request.
    pub(super) fn is_sent(&self) -> bool {
        self.reached >= Reached::Whole
    }
}

/// A connection to the upstream, kept open between exchanges when both sides can.
pub(super) struct Link {
    shared: Arc<Shared>,
    open: Option<(SocketAddr, Socket)>,
}

impl Link {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), open: None }
    }

    /// Sends one request and reads its reply.
    pub(super) fn exchange(&mut self, request: &[u8], method: &str) -> Exchange {
        let exchange = self.try_exchange(request, method);
        self.shared.count(|stats| {
            stats.forwarded += u64::from(exchange.is_sent());
            stats.upstream_failures += u64::from(exchange.reply.is_none());
        });
        exchange
    }

    /// Sends the beginning of a request and closes the connection.
    pub(super) fn send_part(&mut self, part: &[u8]) -> Reached {
        let Ok(socket) = self.connect() else {
            self.shared.count(|stats| stats.upstream_failures += 1);
            return Reached::Nothing;
        };
        if socket.write(part).0 > 0 { Reached::Part } else { Reached::Nothing }
    }

    fn try_exchange(&mut self, request: &[u8], method: &str) -> Exchange {
        let upstream = self.shared.upstream();
        let Ok(socket) = self.connect() else {
            return Exchange { reached: Reached::Nothing, reply: None };
        };
        // A server may answer before it has read everything and close, so a failed write may still have a reply.
        let reached = match socket.write(request) {
            (_, Ok(())) => Reached::Whole,
            (0, Err(_)) => Reached::Nothing,
            (_, Err(_)) => Reached::Part,
        };
        match read_reply(
            &socket,
            method,
            self.shared.limits.head_bytes_max,
            self.shared.limits.message_bytes_max,
        ) {
            Ok((reply, clean)) => {
                if clean && reply.head.keep_alive && reached == Reached::Whole {
                    self.open = Some((upstream, socket));
                }
                Exchange { reached: Reached::Answered { status: reply.status() }, reply: Some(reply) }
            }
            Err(_) => Exchange { reached, reply: None },
        }
    }

    /// Takes the open connection if it still is one and leads to the right place, or makes a new one.
    fn connect(&mut self) -> io::Result<Socket> {
        let upstream = self.shared.upstream();
        if let Some((addr, socket)) = self.open.take() {
            if addr == upstream && is_quiet(&socket) {
                return Ok(socket);
            }
        }
        let time = Duration::from_millis(self.shared.limits.connect_ms.max(1));
        let stream = TcpStream::connect_timeout(&upstream, time)?;
        self.shared.track(Side::Upstream, stream)?.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}

/// Whether an idle connection is open and has nothing to say: what a server that closes it would leave there.
fn is_quiet(socket: &Socket) -> bool {
    let stream = socket.stream();
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let quiet = matches!(socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_ok() && quiet
}

/// Reads one final reply, and whether nothing came behind it.
fn read_reply(
    socket: &Socket,
    method: &str,
    head_max: usize,
    message_max: usize,
) -> io::Result<(Reply, bool)> {
    let mut buf = vec![0; 64 << 10];
    let mut raw = Vec::new();
    let mut searched = 0;
    let head = loop {
        if let Some(end) = head_end(&raw, searched) {
            let rest = raw.split_off(end);
            let head = Head::reply(std::mem::take(&mut raw), method).map_err(io::Error::other)?;
            raw = rest;
            searched = 0;
            match head.start {
                // An interim reply; 101 would change the protocol, which nobody asked for.
                Start::Reply { status: 100..200 } => continue,
                _ => break head,
            }
        }
        searched = raw.len().saturating_sub(3);
        if raw.len() > head_max {
            return Err(io::Error::other("the reply's head is too long"));
        }
        let n = socket.read(&mut buf)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        raw.extend_from_slice(buf.get(..n).unwrap_or_default());
    };
    let mut framer = Framer::new(head.body);
    let mut used = framer.feed(&raw, None).map_err(io::Error::other)?;
    let mut clean = used == raw.len();
    raw.truncate(used);
    let mut whole = head.raw.clone();
    whole.append(&mut raw);
    while !framer.is_done() {
        if whole.len() > message_max {
            return Err(io::Error::other("the reply is too long"));
        }
        let n = socket.read(&mut buf)?;
        if n == 0 {
            if framer.may_end() {
                break;
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = buf.get(..n).unwrap_or_default();
        used = framer.feed(bytes, None).map_err(io::Error::other)?;
        clean = used == n;
        whole.extend_from_slice(bytes.get(..used).unwrap_or_default());
    }
    Ok((Reply { head, raw: whole }, clean))
}

/// The late thread: sends each copy that is due, on a connection of its own.
pub(super) fn send_late(shared: &Arc<Shared>) {
    while let Some(copy) = shared.next_late() {
        let exchange = Link::new(shared).exchange(&copy.bytes, &copy.method);
        shared.count(|stats| stats.late_sent += u64::from(exchange.is_sent()));
        shared.emit(&FaultEvent {
            number: copy.number,
            method: copy.method,
            path: copy.path,
            fault: Some(copy.fault),
            effective: exchange.is_sent(),
            reached: exchange.reached,
            copies: u32::from(exchange.is_sent()),
            late_copy: true,
        });
    }
}
