//! As much of HTTP/1.1 as a proxy needs: where a message ends, and the few headers that say so.
//!
//! Pure: bytes in, decisions out. It knows no sockets and no faults, and keeps every message as the bytes that
//! came. Sources: RFC 9112 (framing), RFC 9110 (dates, `Expect`). Tests: below.

use thiserror::Error;

/// Why bytes are not a message this proxy takes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum FrameError {
    /// The start line or a header cannot be read.
    #[error("not an HTTP/1 message: {0}")]
    NotHttp(&'static str),
    /// The chunked coding is broken.
    #[error("broken chunked coding: {0}")]
    Chunk(&'static str),
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    Length(u64),
    Chunked,
    /// Until the connection ends; replies only.
    UntilEnd,
}

/// A request's or reply's start line and headers.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The bytes as they came, with the empty line.
    pub(super) raw: Vec<u8>,
    pub(super) start: Start,
    pub(super) body: BodyKind,
    /// Whether the connection may carry another message after this one.
    pub(super) keep_alive: bool,
    /// `Expect: 100-continue`.
    pub(super) expects_continue: bool,
}

/// A start line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Request { method: String, path: String },
    Reply { status: u16 },
}

/// Finds the end of a head, the position after its empty line, looking from `from` on.
pub(super) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    tail.windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

impl Head {
    pub(super) fn request(raw: Vec<u8>) -> Result<Self, FrameError> {
        let text = String::from_utf8_lossy(&raw);
        let line = text.lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let (Some(method), Some(path), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(FrameError::NotHttp("the request line has not three words"));
        };
        if method.is_empty() || path.is_empty() || !version.starts_with("HTTP/1.") {
            return Err(FrameError::NotHttp("the request line is not one of HTTP/1"));
        }
        let start = Start::Request { method: method.to_owned(), path: path.to_owned() };
        let fields = Fields::read(&text, version == "HTTP/1.1")?;
        let body = match fields {
            Fields { chunked: true, .. } => BodyKind::Chunked,
            Fields { length, .. } => BodyKind::Length(length.unwrap_or(0)),
        };
        let Fields { keep_alive, expects_continue, .. } = fields;
        Ok(Self { raw, start, body, keep_alive, expects_continue })
    }

    /// Reads a reply's head; whether it has a body depends on the request's method too.
    pub(super) fn reply(raw: Vec<u8>, to_method: &str) -> Result<Self, FrameError> {
        let text = String::from_utf8_lossy(&raw);
        let line = text.lines().next().unwrap_or_default();
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|word| word.parse::<u16>().ok());
        let Some(status) = status.filter(|status| version.starts_with("HTTP/1.") && *status >= 100) else {
            return Err(FrameError::NotHttp("the status line is not one of HTTP/1"));
        };
        let fields = Fields::read(&text, version == "HTTP/1.1")?;
        let bodiless = to_method == "HEAD" || status < 200 || status == 204 || status == 304;
        let body = match fields {
            _ if bodiless => BodyKind::Length(0),
            Fields { chunked: true, .. } => BodyKind::Chunked,
            Fields { length: Some(length), .. } => BodyKind::Length(length),
            Fields { length: None, .. } => BodyKind::UntilEnd,
        };
        let Fields { keep_alive, expects_continue, .. } = fields;
        let keep_alive = keep_alive && body != BodyKind::UntilEnd;
        Ok(Self { raw, start: Start::Reply { status }, body, keep_alive, expects_continue })
    }

    /// The method, empty for a reply.
    pub(super) fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Reply { .. } => "",
        }
    }

    /// The request target, empty for a reply.
    pub(super) fn path(&self) -> &str {
        match &self.start {
            Start::Request { path, .. } => path,
            Start::Reply { .. } => "",
        }
    }

    /// The head's bytes without the named headers, and with `extra` lines (each ending in CR LF) at its end.
    pub(super) fn rewritten(&self, without: &[&str], extra: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + extra.len());
        for (index, line) in self.raw.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if line == b"\r\n" {
                break;
            }
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if index == 0 || !without.iter().any(|out| name.eq_ignore_ascii_case(out.as_bytes())) {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(extra.as_bytes());
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The headers that matter for framing.
struct Fields {
    length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Fields {
    fn read(head: &str, is_1_1: bool) -> Result<Self, FrameError> {
        let mut fields = Self { length: None, chunked: false, keep_alive: is_1_1, expects_continue: false };
        for line in head.split("\r\n").skip(1).take_while(|line| !line.is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or(FrameError::NotHttp("a header without a colon"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let length = value.parse::<u64>().ok().filter(|_| digits);
                let length = length.ok_or(FrameError::NotHttp("a content-length that is not a number"))?;
                if fields.length.replace(length).is_some_and(|before| before != length) {
                    return Err(FrameError::NotHttp("two content-lengths"));
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                fields.chunked = value.to_ascii_lowercase().ends_with("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                for option in value.split(',').map(str::trim) {
                    if option.eq_ignore_ascii_case("close") {
                        fields.keep_alive = false;
                    } else if option.eq_ignore_ascii_case("keep-alive") {
                        fields.keep_alive = true;
                    }
                }
            } else if name.eq_ignore_ascii_case("expect") {
                fields.expects_continue = value.eq_ignore_ascii_case("100-continue");
            }
        }
        Ok(fields)
    }
}

/// Finds the end of a body in bytes that come piece by piece.
#[derive(Debug)]
pub(super) struct Framer {
    state: FrameState,
}

#[derive(Debug)]
enum FrameState {
    Data {
        left: u64,
    },
    UntilEnd,
    Done,
    /// In the line before a chunk: its size so far, digits seen, and whether the digits are over.
    Size {
        size: u64,
        digits: u8,
        over: bool,
    },
    Chunk {
        left: u64,
    },
    /// The line end after a chunk.
    ChunkEnd,
    /// In a line after the last chunk; the number of bytes in it so far.
    Trailer {
        length: usize,
    },
}

const NEXT_SIZE: FrameState = FrameState::Size { size: 0, digits: 0, over: false };

impl Framer {
    pub(super) fn new(body: BodyKind) -> Self {
        let state = match body {
            BodyKind::Length(0) => FrameState::Done,
            BodyKind::Length(left) => FrameState::Data { left },
            BodyKind::Chunked => NEXT_SIZE,
            BodyKind::UntilEnd => FrameState::UntilEnd,
        };
        Self { state }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, FrameState::Done)
    }

    /// Whether the end of the connection is a proper end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.state, FrameState::Done | FrameState::UntilEnd)
    }

    /// Takes what belongs to the body from the front of `input`, returning how many bytes that was, and adds the
    /// decoded content to `content`. Takes all of it unless the body ends inside.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        mut content: Option<&mut Vec<u8>>,
    ) -> Result<usize, FrameError> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            let byte = rest[0];
            match &mut self.state {
                FrameState::Done => break,
                FrameState::UntilEnd => {
                    take(rest, rest.len(), &mut content);
                    used = input.len();
                }
                FrameState::Data { left } => {
                    let n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    take(rest, n, &mut content);
                    used += n;
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = FrameState::Done;
                    }
                }
                FrameState::Chunk { left } => {
                    let n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    take(rest, n, &mut content);
                    used += n;
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = FrameState::ChunkEnd;
                    }
                }
                FrameState::ChunkEnd => {
                    used += 1;
                    match byte {
                        b'\r' => {}
                        b'\n' => self.state = NEXT_SIZE,
                        _ => return Err(FrameError::Chunk("a chunk longer than its size")),
                    }
                }
                FrameState::Size { size, digits, over } => {
                    used += 1;
                    match (byte, char::from(byte).to_digit(16)) {
                        (b'\n', _) if *digits == 0 => return Err(FrameError::Chunk("a size without digits")),
                        (b'\n', _) if *size == 0 => self.state = FrameState::Trailer { length: 0 },
                        (b'\n', _) => self.state = FrameState::Chunk { left: *size },
                        (_, Some(digit)) if !*over => {
                            *digits += 1;
                            if *digits > 15 {
                                return Err(FrameError::Chunk("a size with too many digits"));
                            }
                            *size = *size * 16 + u64::from(digit);
                        }
                        (b'\r' | b';' | b' ' | b'\t', _) => *over = true,
                        _ if *over => {}
                        _ => return Err(FrameError::Chunk("a size that is not hexadecimal")),
                    }
                }
                FrameState::Trailer { length } => {
                    used += 1;
                    match byte {
                        b'\n' if *length == 0 => self.state = FrameState::Done,
                        b'\n' => *length = 0,
                        b'\r' => {}
                        _ => *length += 1,
                    }
                }
            }
        }
        Ok(used)
    }
}

fn take(rest: &[u8], n: usize, content: &mut Option<&mut Vec<u8>>) {
    if let (Some(content), Some(bytes)) = (content.as_deref_mut(), rest.get(..n)) {
        content.extend_from_slice(bytes);
    }
}

/// Seconds since 1970 as an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
pub(super) fn http_date(unix_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Four digits of year are all the format has.
    let unix_s = unix_s.min(253_402_300_799);
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Howard Hinnant's civil_from_days, for days from 1970 on.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 2 } else { shifted - 10 };
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let name =
        |names: &[&'static str], at: u64| usize::try_from(at).ok().and_then(|at| names.get(at).copied());
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7).unwrap_or_default(),
        name(&MONTHS, month).unwrap_or_default(),
        second / 3_600,
        second / 60 % 60,
        second % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: BodyKind, input: &[u8], piece: usize) -> Result<(usize, bool, Vec<u8>), FrameError> {
        let (mut framer, mut content, mut used) = (Framer::new(kind), Vec::new(), 0);
        for part in input.chunks(piece) {
            let n = framer.feed(part, Some(&mut content))?;
            used += n;
            if n < part.len() {
                break;
            }
        }
        Ok((used, framer.is_done(), content))
    }

    #[test]
    fn a_body_ends_where_its_framing_says_whatever_the_pieces() {
        let chunked: &[u8] = b"4;x=y\r\nWiki\r\nB \r\npedia in \r\n\r\n0\r\nTrailer: x\r\n\r\nGET";
        for piece in 1..chunked.len() {
            let (used, done, content) = decode(BodyKind::Chunked, chunked, piece).unwrap();
            assert_eq!(
                (used, done, content.as_slice()),
                (chunked.len() - 3, true, &b"Wikipedia in \r\n"[..])
            );
            let (used, done, content) = decode(BodyKind::Length(5), b"helloGET", piece).unwrap();
            assert_eq!((used, done, content.as_slice()), (5, true, &b"hello"[..]));
        }
        assert_eq!(decode(BodyKind::Length(0), b"x", 1).unwrap().0, 0);
        assert_eq!(decode(BodyKind::UntilEnd, b"xyz", 2).unwrap(), (3, false, b"xyz".to_vec()));
    }

    #[test]
    fn broken_chunks_are_errors() {
        for broken in [&b"\r\n"[..], b"zz\r\n", b"1\r\nabc", b"-1\r\n", b"1111111111111111\r\n"] {
            assert!(decode(BodyKind::Chunked, broken, 1).is_err(), "{}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn heads_are_read() {
        let request = |text: &str| Head::request(text.as_bytes().to_vec());
        let head =
            request("POST /a?b HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").unwrap();
        assert_eq!((head.method(), head.path(), head.body), ("POST", "/a?b", BodyKind::Length(3)));
        assert!(head.keep_alive && head.expects_continue);
        assert!(!request("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(!request("GET / HTTP/1.1\r\nconnection: x, Close\r\n\r\n").unwrap().keep_alive);
        let both = "POST / HTTP/1.1\r\ncontent-length: 3\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
        assert_eq!(request(both).unwrap().body, BodyKind::Chunked);
        for bad in [
            "\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: +3\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            "\u{16}\u{3}\u{1}\r\n\r\n",
        ] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
        let reply = |text: &str, method| Head::reply(text.as_bytes().to_vec(), method);
        assert_eq!(reply("HTTP/1.1 200 OK\r\n\r\n", "GET").unwrap().body, BodyKind::UntilEnd);
        assert_eq!(
            reply("HTTP/1.1 200\r\ncontent-length: 9\r\n\r\n", "HEAD").unwrap().body,
            BodyKind::Length(0)
        );
        assert_eq!(
            reply("HTTP/1.1 304 X\r\ncontent-length: 9\r\n\r\n", "GET").unwrap().body,
            BodyKind::Length(0)
        );
        assert!(reply("HTTP/1.1 99 X\r\n\r\n", "GET").is_err());
        assert!(reply("SSH-2.0-x\r\n\r\n", "GET").is_err());
    }

    #[test]
    fn headers_can_be_taken_out_and_added() {
        let head =
            Head::request(b"GET /x HTTP/1.1\r\nHost: a\r\nACCEPT-encoding: gzip\r\n\r\n".to_vec()).unwrap();
        let out = head.rewritten(&["accept-encoding"], "A: b\r\n");
        assert_eq!(out, b"GET /x HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n");
    }

    #[test]
    fn http_dates() {
        for (at, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(at), text);
        }
    }
}
