//! Watches the wire: may the request still leave, was anything of it written, and how does the answer say where its
//! body ends?
//!
//! None of it can be asked of `ureq`: the same error kind comes from a handshake and from a half-read answer, and when it
//! inflates a body it drops the headers that frame it. So the outermost layer of every connection is ours and notes
//! both, for the thread that runs the exchange (one exchange at a time runs on a thread, all of it).
//!
//! The connector traits are outside ureq's promise of stability; only their smallest part is used. Tests: below and
//! `tests/transport.rs`.

use super::super::Framing;
use landfall_core::adapter::Permit;
use landfall_core::failure::Delivery;
use std::cell::{Cell, RefCell};
use std::io;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

thread_local! {
    static WRITTEN: Cell<bool> = const { Cell::new(false) };
    static FRAMING: Cell<Option<Framing>> = const { Cell::new(None) };
    static PERMIT: RefCell<Permit> = RefCell::default();
    static WITHDRAWN: Cell<bool> = const { Cell::new(false) };
}

/// Forgets the last exchange of this thread; the next one has this permit.
pub(super) fn begin(permit: Permit) {
    forget();
    PERMIT.set(permit);
    WITHDRAWN.set(false);
}

fn forget() {
    WRITTEN.set(false);
    FRAMING.set(None);
}

/// Looks whether the exchange's permit was withdrawn, and keeps in mind that it was.
pub(super) fn may_not_leave() -> bool {
    let withdrawn = PERMIT.with_borrow(Permit::is_withdrawn);
    WITHDRAWN.set(WITHDRAWN.get() || withdrawn);
    withdrawn
}

/// Whether the exchange was stopped for want of a permit; then nothing of the request was written.
pub(super) fn was_withdrawn() -> bool {
    WITHDRAWN.get()
}

/// Whether the backend may have seen some of the request.
pub(super) fn delivery() -> Delivery {
    if WRITTEN.get() { Delivery::Unknown } else { Delivery::NotSent }
}

/// How the answer's body was framed; `None` when no whole head was seen.
pub(super) fn framing() -> Option<Framing> {
    FRAMING.get()
}

/// Wraps every connection of another connector in [`WatchedTransport`].
#[derive(Debug)]
pub(super) struct Watched<C>(pub(super) C);

impl<C: Connector<()>> Connector<()> for Watched<C> {
    type Out = WatchedTransport<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let connected = self.0.connect(details, chained);
        // A proxy is reached through a connection that is watched as well. Whatever was written to it while
        // connecting was not the request.
        forget();
        Ok(connected?.map(WatchedTransport))
    }
}

/// A connection ready for requests: TLS, if any, is inside.
#[derive(Debug)]
pub(super) struct WatchedTransport<T>(T);

impl<T: Transport> Transport for WatchedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if amount > 0 && !WRITTEN.get() {
            // The last look: the connection stands, TLS included, and the next call gives the request's first bytes to
            // the kernel. A permit withdrawn between this line and that one comes too late: the request then leaves,
            // as if it had left a moment earlier, with the credentials of the account it belongs to.
            if may_not_leave() {
                return Err(Error::Io(io::Error::other("the permit to send was withdrawn")));
            }
            WRITTEN.set(true);
        }
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let progress = self.0.await_input(timeout)?;
        if FRAMING.get().is_none() {
            FRAMING.set(head_framing(self.0.buffers().input()));
        }
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Reads the framing from the bytes of an answer's head. `None` while the head is not whole.
///
/// Strict where `ureq` is generous: what is not clearly framed counts as not framed.
fn head_framing(input: &[u8]) -> Option<Framing> {
    let end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&input[..end]);
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.splitn(3, ' ');
    let version = start.next()?;
    let status = start.next().unwrap_or_default();
    if status.len() == 3 && status.starts_with('1') && status != "101" {
        return head_framing(&input[end + 4..]);
    }
    let (mut length, mut chunked) = (false, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = version == "HTTP/1.1" && value.eq_ignore_ascii_case("chunked");
            if !chunked {
                return Some(Framing::UntilClose);
            }
        }
    }
    Some(if length || chunked { Framing::Delimited } else { Framing::UntilClose })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_is_read_from_the_head() {
        let cases: &[(&str, Option<Framing>)] = &[
            ("", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some(Framing::Delimited)),
            ("HTTP/1.0 200 OK\r\ncontent-length:3\r\n\r\n", Some(Framing::Delimited)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Some(Framing::Delimited)),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Some(Framing::UntilClose)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Some(Framing::UntilClose)),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Some(Framing::UntilClose)),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", Some(Framing::UntilClose)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Some(Framing::Delimited),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
        ];
        for (head, expected) in cases {
            assert_eq!(head_framing(head.as_bytes()), *expected, "{head:?}");
        }
    }
}
