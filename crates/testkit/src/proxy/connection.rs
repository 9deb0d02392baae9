//! A client's connection: read a request, have its fault decided, do it, answer.
//!
//! `act` talks to the upstream and decides on the [`Answer`], the event goes out, then `answer` puts the answer
//! on the wire; nothing else writes to a client.
//!
//! **Resets without `unsafe`.** The standard library cannot set `SO_LINGER`, but closing a socket with unread
//! bytes resets it (RFC 9293, 3.6.1; Linux and Windows do so at once). So the last byte of every request is only
//! peeked at, and taken when the connection goes on or ends in order. Where a system does not follow that rule
//! a reset becomes an orderly close.
//!
//! It does not know how decisions are made. Tests: `tests/fault_proxy.rs`.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::forge;
use super::http::{BodyKind, FrameError, Framer, Head, head_end};
use super::plan::{Cut, Duplicate, Ending, Fault, Odd, Which};
use super::shared::{FaultEvent, LateCopy, Reached, Shared, Side, Socket, Wanted};
use super::upstream::{Exchange, Link, Reply};
use crate::rng::Rng;

/// What an endless body ends at, so that a client that reads for ever does not keep a thread for ever.
const ENDLESS_BYTES_MAX: u64 = 10_000_000_000;
/// How often a stalled connection looks whether its client is still there.
const STALL_TICK_MS: u64 = 20;
/// How much of a reply drips at once, and how often.
const DRIP_BYTES: usize = 7;
const DRIP_TICK_MS: u64 = 2;
/// How long the accepting thread waits after an error that may repeat (no descriptors, port still taken).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Keeps draws for different purposes apart; `plan` has 1.
const PURPOSE_ACT: u64 = 2;

/// The accepting thread: listens while that is wanted, and starts a thread per connection.
pub(super) fn accept_all(shared: &Arc<Shared>, listener: TcpListener, addr: SocketAddr) {
    let mut listener = Some(listener);
    loop {
        match (shared.wanted(), listener.take()) {
            (Wanted::Stop, _) => return,
            (Wanted::Refuse, open) => {
                drop(open);
                shared.set_listening(false);
                shared.wait_unwanted(Wanted::Refuse, Duration::from_secs(3600));
            }
            (Wanted::Listen, None) => match TcpListener::bind(addr) {
                Ok(open) => {
                    listener = Some(open);
                    shared.set_listening(true);
                }
                Err(_) => shared.wait_unwanted(Wanted::Listen, ACCEPT_PAUSE),
            },
            (Wanted::Listen, Some(open)) => {
                match open.accept() {
                    Ok((stream, _)) => {
                        // Not tracked: it came while the proxy was going offline.
                        if let Ok(Some(socket)) = shared.track(Side::Client, stream) {
                            start(shared, socket);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => shared.wait_unwanted(Wanted::Listen, ACCEPT_PAUSE),
                }
                listener = Some(open);
            }
        }
    }
}

fn start(shared: &Arc<Shared>, socket: Socket) {
    // The accepting and the late thread are counted too.
    let Some(guard) = shared.begin_thread(shared.limits.connections_max.saturating_add(2)) else {
        shared.count(|stats| stats.connections_refused += 1);
        return;
    };
    shared.count(|stats| stats.connections += 1);
    let connection = Connection::new(shared, socket);
    // Without a thread to be had, the connection is closed by dropping it.
    let _ = thread::Builder::new().name("fault-proxy-conn".into()).spawn(move || {
        connection.serve();
        drop(guard);
    });
}

/// A request, whole, as the bytes that came.
struct Request {
    head: Head,
    /// Head and body.
    raw: Vec<u8>,
    number: u64,
}

/// What the client gets to see.
enum Answer {
    /// A whole reply.
    Whole { bytes: Vec<u8>, keep_alive: bool },
    /// These bytes, which may be none, and the end.
    Part { bytes: Vec<u8>, end: Ending },
    /// These bytes, then nothing for a while, then the end.
    Stall { bytes: Vec<u8>, ms: u64 },
    /// These bytes, a few at a time, then the end.
    Drip { bytes: Vec<u8> },
    /// A body without end.
    Endless { declared: Option<u64> },
}

/// What was done about a request.
struct Deed {
    answer: Answer,
    reached: Reached,
    copies: u32,
    effective: bool,
}

/// Why no request could be read.
enum ReadError {
    Io,
    Bad(FrameError),
    TooLong,
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<FrameError> for ReadError {
    fn from(error: FrameError) -> Self {
        Self::Bad(error)
    }
}

struct Connection {
    shared: Arc<Shared>,
    client: Socket,
    link: Link,
    buf: Vec<u8>,
    /// Whether the request's last byte is still unread. See the module's text.
    holds_byte: bool,
}

impl Connection {
    fn new(shared: &Arc<Shared>, client: Socket) -> Self {
        let link = Link::new(shared);
        Self { shared: Arc::clone(shared), client, link, buf: vec![0; 64 << 10], holds_byte: false }
    }

    fn serve(mut self) {
        loop {
            match self.serve_one() {
                Ok(true) => {}
                Ok(false) | Err(ReadError::Io) => return,
                Err(ReadError::Bad(error)) => {
                    return self.turn_away("400 Bad Request", &error.to_string());
                }
                Err(ReadError::TooLong) => {
                    return self.turn_away("413 Content Too Large", "more than the fault proxy holds");
                }
            }
        }
    }

    /// Serves one request. False when the connection is over.
    fn serve_one(&mut self) -> Result<bool, ReadError> {
        let Some(head) = self.read_head()? else { return Ok(false) };
        let (info, fault) = self.shared.admit(head.method(), head.path());
        let event = |reached, copies, effective| FaultEvent {
            number: info.number,
            method: info.method.clone(),
            path: info.path.clone(),
            fault,
            effective,
            reached,
            copies,
            late_copy: false,
        };
        if fault == Some(Fault::ResetOnAccept) {
            self.shared.emit(&event(Reached::Nothing, 0, true));
            return Ok(false);
        }
        let request = self.read_body(head, info.number)?;
        let mut rng = Rng::new(self.shared.seed, info.number, PURPOSE_ACT);
        let deed = self.act(&request, fault, &mut rng);
        self.shared.emit(&event(deed.reached, deed.copies, deed.effective));
        Ok(self.answer(deed.answer).unwrap_or(false))
    }

    // Reading.

    /// Reads a head, all but the last byte of a request that ends with it. `None` at an orderly end or after idling.
    fn read_head(&mut self) -> Result<Option<Head>, ReadError> {
        self.release_byte()?;
        self.client.set_read_timeout_ms(self.shared.limits.idle_ms)?;
        let mut raw: Vec<u8> = Vec::new();
        loop {
            let n = match self.client.peek(&mut self.buf) {
                Ok(0) | Err(_) if raw.is_empty() => return Ok(None),
                Ok(0) => return Err(ReadError::Io),
                Ok(n) => n,
                Err(_) => return Err(ReadError::Io),
            };
            if raw.is_empty() {
                self.client.set_read_timeout_ms(self.shared.limits.io_ms)?;
            }
            let before = raw.len();
            raw.extend_from_slice(self.buf.get(..n).unwrap_or_default());
            let Some(end) = head_end(&raw, before.saturating_sub(3)) else {
                self.take(n)?;
                if raw.len() > self.shared.limits.head_bytes_max {
                    return Err(ReadError::TooLong);
                }
                continue;
            };
            raw.truncate(end);
            return match Head::request(raw) {
                Ok(head) => {
                    self.holds_byte = head.body == BodyKind::Length(0);
                    self.take(end - before - usize::from(self.holds_byte))?;
                    Ok(Some(head))
                }
                Err(error) => {
                    self.take(n)?;
                    Err(error.into())
                }
            };
        }
    }

    /// Reads a body, all but its last byte.
    fn read_body(&mut self, head: Head, number: u64) -> Result<Request, ReadError> {
        let max = self.shared.limits.message_bytes_max;
        if matches!(head.body, BodyKind::Length(length) if length > max as u64) {
            return Err(ReadError::TooLong);
        }
        let mut raw = head.raw.clone();
        if head.expects_continue {
            // It waits for leave to send its body; what is passed on needs no such leave.
            raw = head.rewritten(&["expect"], "");
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n").1?;
        }
        let mut framer = Framer::new(head.body);
        while !framer.is_done() {
            let n = self.client.peek(&mut self.buf)?;
            if n == 0 {
                return Err(ReadError::Io);
            }
            let bytes = self.buf.get(..n).unwrap_or_default();
            let used = framer.feed(bytes, None)?;
            raw.extend_from_slice(bytes.get(..used).unwrap_or_default());
            self.holds_byte = framer.is_done();
            self.take(used.saturating_sub(usize::from(self.holds_byte)))?;
            if raw.len() > max {
                return Err(ReadError::TooLong);
            }
        }
        Ok(Request { head, raw, number })
    }

    /// Takes bytes that a peek has shown.
    fn take(&mut self, mut n: usize) -> io::Result<()> {
        while n > 0 {
            let size = n.min(self.buf.len());
            match self.client.read(self.buf.get_mut(..size).unwrap_or_default())? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => n -= read,
            }
        }
        Ok(())
    }

    /// Takes the byte that was held, after which closing is orderly.
    fn release_byte(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.holds_byte) { self.take(1) } else { Ok(()) }
    }

    // Acting.

    fn act(&mut self, request: &Request, fault: Option<Fault>, rng: &mut Rng) -> Deed {
        let Some(fault) = fault else { return self.pass(request) };
        match fault {
            // Done before the body was read.
            Fault::ResetOnAccept => refuse(Answer::Part { bytes: Vec::new(), end: Ending::Reset }),
            Fault::CutRequest { at, end } => {
                let size = cut(at, request.raw.len(), request.head.raw.len(), rng);
                let part = request.raw.get(..size).unwrap_or_default();
                let reached = self.link.send_part(part);
                let answer = Answer::Part { bytes: Vec::new(), end };
                Deed { answer, reached, copies: 0, effective: reached == Reached::Part || size == 0 }
            }
            Fault::DropReplyAfterApply { end } => {
                self.edit_reply(request, |_| Some(Answer::Part { bytes: Vec::new(), end }))
            }
            Fault::CutReply { at, end } => self.edit_reply(request, |reply| {
                let mut bytes = reply.raw.clone();
                bytes.truncate(cut(at, reply.raw.len(), reply.head_len(), rng));
                Some(Answer::Part { bytes, end })
            }),
            Fault::StallMidReply { ms } => self.edit_reply(request, |reply| {
                let mut bytes = reply.raw.clone();
                bytes.truncate(cut(Cut::InBody, reply.raw.len(), reply.head_len(), rng));
                Some(Answer::Stall { bytes, ms })
            }),
            Fault::Delay { ms } => {
                self.shared.pause(ms);
                self.pass(request)
            }
            Fault::DelayReply { ms } => {
                let deed = self.pass(request);
                self.shared.pause(ms);
                deed
            }
            Fault::Status500 { applied } | Fault::Empty200 { applied } => {
                let answer = self.made_up(request, fault, rng);
                if applied { self.edit_reply(request, |_| Some(answer)) } else { refuse(answer) }
            }
            Fault::Status503WithRetryAfter { .. }
            | Fault::Status503WithRetryAfterDate { .. }
            | Fault::Status429 { .. }
            | Fault::CaptivePortal
            | Fault::Redirect302
            | Fault::WrongJson => refuse(self.made_up(request, fault, rng)),
            Fault::TruncatedJson
            | Fault::ForeignResults
            | Fault::MissingResults
            | Fault::ReorderedResults => {
                let keep_alive = request.head.keep_alive;
                // What is to be edited must come uncompressed.
                let plain = request.without_encodings();
                self.edit_reply(&plain, |reply| {
                    let bytes = forge::edited(fault, reply, rng)?;
                    Some(Answer::Whole { bytes, keep_alive: keep_alive && reply.head.keep_alive })
                })
            }
            Fault::DuplicateRequest { how, answer } => self.duplicate(request, how, answer),
            Fault::LateDuplicate { after } => {
                // Held back before the first is sent: a client may be quick, and the count is by requests.
                let held = self.shared.hold_back(
                    after,
                    LateCopy {
                        number: request.number,
                        method: request.head.method().to_owned(),
                        path: request.head.path().to_owned(),
                        fault,
                        bytes: request.raw.clone(),
                    },
                );
                let deed = self.pass(request);
                Deed { effective: held, ..deed }
            }
            Fault::HugeBody { declared } => refuse(Answer::Endless { declared }),
            Fault::OddReply { how } => {
                let plain = request.without_encodings();
                self.edit_reply(&plain, |reply| {
                    let bytes = forge::odd(how, reply);
                    Some(match how {
                        Odd::ReplyBehind => Answer::Whole { bytes, keep_alive: true },
                        Odd::Drip => Answer::Drip { bytes },
                        _ => Answer::Part { bytes, end: Ending::Close },
                    })
                })
            }
            Fault::GarbageBytes => refuse(Answer::Part { bytes: forge::garbage(rng), end: Ending::Close }),
        }
    }

    /// Forwards and answers as it should be. An upstream that cannot be reached or says nothing is shown to the
    /// client as what it would have seen itself: a connection that breaks.
    fn pass(&mut self, request: &Request) -> Deed {
        let exchange = self.link.exchange(&request.raw, request.head.method());
        let effective = exchange.reply.is_some();
        let (copies, reached) = (u32::from(exchange.is_sent()), exchange.reached);
        Deed { answer: whole(request, exchange.reply), reached, copies, effective }
    }

    /// Forwards, and answers with what `edit` makes of the reply, or with the reply itself.
    fn edit_reply(&mut self, request: &Request, edit: impl FnOnce(&Reply) -> Option<Answer>) -> Deed {
        let exchange = self.link.exchange(&request.raw, request.head.method());
        let edited = exchange.reply.as_ref().and_then(edit);
        let effective = edited.is_some();
        let (copies, reached) = (u32::from(exchange.is_sent()), exchange.reached);
        let answer = edited.unwrap_or_else(|| whole(request, exchange.reply));
        Deed { answer, reached, copies, effective }
    }

    fn duplicate(&mut self, request: &Request, how: Duplicate, answer: Which) -> Deed {
        let method = request.head.method();
        let (first, second) = match how {
            Duplicate::Sequential => {
                let first = self.link.exchange(&request.raw, method);
                (first, Some(self.link.exchange(&request.raw, method)))
            }
            Duplicate::Concurrent => {
                let shared = &self.shared;
                let link = &mut self.link;
                thread::scope(|scope| {
                    let twin = thread::Builder::new()
                        .name("fault-proxy-twin".into())
                        .spawn_scoped(scope, || Link::new(shared).exchange(&request.raw, method));
                    let first = link.exchange(&request.raw, method);
                    (first, twin.ok().and_then(|twin| twin.join().ok()))
                })
            }
        };
        let second = second.unwrap_or(Exchange { reached: Reached::Nothing, reply: None });
        let copies = u32::from(first.is_sent()) + u32::from(second.is_sent());
        let reached = first.reached.max(second.reached);
        let reply = match answer {
            Which::First => first.reply.or(second.reply),
            Which::Second => second.reply.or(first.reply),
        };
        Deed { answer: whole(request, reply), reached, copies, effective: copies == 2 }
    }

    fn made_up(&self, request: &Request, fault: Fault, rng: &mut Rng) -> Answer {
        let mut bytes = forge::made_up(fault, now_s(), rng).unwrap_or_default();
        if request.head.method() == "HEAD" {
            bytes.truncate(head_end(&bytes, 0).unwrap_or(bytes.len()));
        }
        Answer::Whole { bytes, keep_alive: request.head.keep_alive }
    }

    // Answering.

    /// Puts the answer on the wire. False when the connection is over.
    fn answer(&mut self, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::Whole { bytes, keep_alive } => {
                self.client.write(&bytes).1?;
                if !keep_alive {
                    self.close()?;
                }
                Ok(keep_alive)
            }
            Answer::Part { bytes, end } => {
                self.client.write(&bytes).1?;
                if end == Ending::Close {
                    self.close()?;
                }
                Ok(false)
            }
            Answer::Stall { bytes, ms } => {
                self.client.write(&bytes).1?;
                self.release_byte()?;
                self.stall(ms)?;
                self.close()?;
                Ok(false)
            }
            Answer::Drip { bytes } => {
                self.release_byte()?;
                for piece in bytes.chunks(DRIP_BYTES) {
                    self.client.write(piece).1?;
                    if !self.shared.pause(DRIP_TICK_MS) {
                        break;
                    }
                }
                self.close()?;
                Ok(false)
            }
            Answer::Endless { declared } => {
                self.release_byte()?;
                self.pour(declared)?;
                self.close()?;
                Ok(false)
            }
        }
    }

    /// Says nothing until the time is over, the client has left or the proxy stops.
    fn stall(&mut self, ms: u64) -> io::Result<()> {
        let start = Instant::now();
        self.client.stream().set_nonblocking(true)?;
        loop {
            let spent = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let left = ms.saturating_sub(spent);
            match self.client.peek(&mut [0]) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) if left == 0 => break,
                Ok(_) | Err(_) => {}
            }
            if !self.shared.pause(left.min(STALL_TICK_MS)) {
                break;
            }
        }
        self.client.stream().set_nonblocking(false)
    }

    /// Writes an endless reply, piece by piece, until the client leaves.
    fn pour(&mut self, declared: Option<u64>) -> io::Result<()> {
        let endless = forge::endless(declared, now_s());
        self.client.write(&endless.head).1?;
        let mut left = declared.unwrap_or(ENDLESS_BYTES_MAX).min(ENDLESS_BYTES_MAX);
        let mut piece = &endless.first;
        while left > 0 && !self.shared.is_stopping() {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            self.client.write(piece.get(..size).unwrap_or_default()).1?;
            left -= size as u64;
            piece = &endless.again;
        }
        Ok(())
    }

    /// Ends the connection in order.
    fn close(&mut self) -> io::Result<()> {
        self.release_byte()?;
        self.client.stream().shutdown(Shutdown::Write)
    }

    /// Answers something that is no request, and closes.
    fn turn_away(&mut self, status: &str, why: &str) {
        self.shared.count(|stats| stats.bad_requests += 1);
        let headers = "Content-Type: text/plain\r\nConnection: close\r\n";
        let bytes = forge::reply(status, headers, why.as_bytes(), now_s());
        if self.client.write(&bytes).1.is_ok() {
            let _ = self.close();
        }
    }
}

impl Request {
    /// The same request, asking for a reply without content coding.
    fn without_encodings(&self) -> Self {
        let mut raw = self.head.rewritten(&["accept-encoding", "expect"], "");
        let head = Head { raw: raw.clone(), ..self.head.clone() };
        let body_at = self.raw.len() - self.body_len();
        raw.extend_from_slice(self.raw.get(body_at..).unwrap_or_default());
        Self { head, raw, number: self.number }
    }

    /// The length of the body's bytes. The head in `raw` may be shorter than the one that came.
    fn body_len(&self) -> usize {
        head_end(&self.raw, 0).map_or(0, |end| self.raw.len() - end)
    }
}

/// An answer without the upstream.
fn refuse(answer: Answer) -> Deed {
    Deed { answer, reached: Reached::Nothing, copies: 0, effective: true }
}

/// The upstream's reply as it came, or a connection that breaks for want of one.
fn whole(request: &Request, reply: Option<Reply>) -> Answer {
    match reply {
        Some(reply) => {
            Answer::Whole { keep_alive: request.head.keep_alive && reply.head.keep_alive, bytes: reply.raw }
        }
        None => Answer::Part { bytes: Vec::new(), end: Ending::Reset },
    }
}

/// How much of a message of `len` bytes, `head` of them its head, is passed on. Less than all of it.
fn cut(at: Cut, len: usize, head: usize, rng: &mut Rng) -> usize {
    let last = len.saturating_sub(1);
    match at {
        Cut::At(at) => at.min(last),
        Cut::InBody if head < len => head + rng.index(len - head),
        Cut::InBody | Cut::Seeded => last.min(1 + rng.index(len.saturating_sub(1))),
    }
}

/// Seconds since 1970 by the system's clock.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_always_short_of_the_whole() {
        for seed in 0..500 {
            let mut rng = Rng::new(seed, 1, 1);
            assert!((1..100).contains(&cut(Cut::Seeded, 100, 60, &mut rng)));
            assert!((60..100).contains(&cut(Cut::InBody, 100, 60, &mut rng)));
            assert!((1..100).contains(&cut(Cut::InBody, 100, 100, &mut rng)));
        }
        let mut rng = Rng::new(1, 1, 1);
        assert_eq!(cut(Cut::At(7), 100, 60, &mut rng), 7);
        assert_eq!(cut(Cut::At(0), 100, 60, &mut rng), 0);
        assert_eq!(cut(Cut::At(1_000), 100, 60, &mut rng), 99);
        for at in [Cut::Seeded, Cut::InBody, Cut::At(3)] {
            assert_eq!(cut(at, 0, 0, &mut rng), 0);
            assert_eq!(cut(at, 1, 0, &mut rng), 0);
        }
    }
}
