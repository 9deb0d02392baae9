//! The false replies: whole ones made up, and real ones edited.
//!
//! Pure but for the date, which is an argument. Of the protocol it knows one word, `results`: an array of objects
//! with a member `key`. An edited reply is written anew by serde_json: members sorted, and integers beyond 64
//! bits become floats. Tests: below, and `tests/fault_proxy.rs`.

use serde_json::Value;

use super::http::http_date;
use super::plan::{Fault, Odd};
use super::upstream::Reply;
use crate::rng::Rng;

/// A made-up reply with a `Content-Length`, dated `now_s` (seconds since 1970).
pub(super) fn reply(status: &str, headers: &str, body: &[u8], now_s: u64) -> Vec<u8> {
    let date = http_date(now_s);
    let length = body.len();
    let mut out = format!("HTTP/1.1 {status}\r\nDate: {date}\r\n{headers}Content-Length: {length}\r\n\r\n")
        .into_bytes();
    out.extend_from_slice(body);
    out
}

/// The made-up reply of a fault that has one.
pub(super) fn made_up(fault: Fault, now_s: u64, rng: &mut Rng) -> Option<Vec<u8>> {
    const JSON: &str = "Content-Type: application/json\r\n";
    let problem = |status: &str, header: &str| {
        let code = status.split(' ').next().unwrap_or_default();
        let title = status.split_once(' ').map_or("", |(_, title)| title);
        let body = format!("{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{code}}}");
        reply(status, &format!("Content-Type: application/problem+json\r\n{header}"), body.as_bytes(), now_s)
    };
    Some(match fault {
        Fault::Status500 { .. } => problem("500 Internal Server Error", ""),
        Fault::Status503WithRetryAfter { seconds } => {
            problem("503 Service Unavailable", &format!("Retry-After: {seconds}\r\n"))
        }
        Fault::Status503WithRetryAfterDate { seconds } => {
            let date = http_date(now_s.saturating_add(seconds));
            problem("503 Service Unavailable", &format!("Retry-After: {date}\r\n"))
        }
        Fault::Status429 { retry_after_s: None } => problem("429 Too Many Requests", ""),
        Fault::Status429 { retry_after_s: Some(seconds) } => {
            problem("429 Too Many Requests", &format!("Retry-After: {seconds}\r\n"))
        }
        Fault::CaptivePortal => reply(
            "200 OK",
            "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n",
            PORTAL,
            now_s,
        ),
        Fault::Redirect302 => {
            let headers =
                "Location: http://portal.invalid/login\r\nContent-Type: text/html; charset=utf-8\r\n";
            reply("302 Found", headers, PORTAL, now_s)
        }
        Fault::Empty200 { .. } => reply("200 OK", JSON, b"", now_s),
        Fault::WrongJson => {
            let body = match rng.index(WRONG.len() + 1).checked_sub(1) {
                Some(at) => WRONG.get(at).copied().unwrap_or("null").to_owned(),
                // Deeper than a reader that recurses can bear.
                None => "[".repeat(50_000) + &"]".repeat(50_000),
            };
            reply("200 OK", JSON, body.as_bytes(), now_s)
        }
        _ => return None,
    })
}

/// What a hotel says to everything.
const PORTAL: &[u8] = b"<!DOCTYPE html>\n<html><head><title>Welcome to Hotel WiFi</title></head>\n\
<body><h1>Sign in to use the internet</h1><form action=\"/login\" method=\"post\">\
<input name=\"room\"><input type=\"submit\" value=\"Connect\"></form></body></html>\n";

/// Valid JSON that is no reply.
const WRONG: [&str; 12] = [
    "null",
    "true",
    "42",
    "\"ok\"",
    "[]",
    "{}",
    r#"{"status":"ok"}"#,
    r#"{"protocol":"1","results":{}}"#,
    r#"{"protocol":1,"results":null}"#,
    r#"{"protocol":1,"results":[null,7,"applied",[]]}"#,
    r#"{"protocol":1,"results":[{"key":7,"status":true,"version":8}]}"#,
    r#"{"protocol":2,"changes":"none","results":[{"key":null,"status":"applied"}]}"#,
];

/// A real reply with its JSON edited as the fault says, or `None` if it has nothing to edit.
pub(super) fn edited(fault: Fault, reply: &Reply, rng: &mut Rng) -> Option<Vec<u8>> {
    if !(200..300).contains(&reply.status()) {
        return None;
    }
    let content = reply.content();
    let mut value: Value = serde_json::from_slice(&content).ok()?;
    let body = if fault == Fault::TruncatedJson {
        // An object or array without its end is never valid, however much of it there is.
        let text = content.trim_ascii();
        if !(value.is_object() || value.is_array()) {
            return None;
        }
        let at = 1 + rng.index(text.len().saturating_sub(1));
        text.get(..at)?.to_vec()
    } else {
        let results = value.get_mut("results")?.as_array_mut()?;
        if results.is_empty() {
            return None;
        }
        match fault {
            Fault::ForeignResults => {
                for result in results.iter_mut() {
                    *result.get_mut("key")? = Value::String(format!("foreign-{:016x}", rng.next()));
                }
            }
            Fault::MissingResults => {
                let sure = rng.index(results.len());
                let mut at = 0;
                results.retain(|_| {
                    at += 1;
                    at - 1 != sure && rng.below(2) == 0
                });
            }
            Fault::ReorderedResults if results.len() > 1 => results.reverse(),
            _ => return None,
        }
        serde_json::to_vec(&value).ok()?
    };
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut out = reply.head.rewritten(&["content-length", "transfer-encoding", "trailer", "etag"], &length);
    out.extend_from_slice(&body);
    Some(out)
}

/// A real reply's body in a head, or framing, that is not, or hardly, HTTP.
pub(super) fn odd(how: Odd, reply: &Reply) -> Vec<u8> {
    const COMMON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let body = reply.content();
    let length = body.len();
    let plain = |head: &str, headers: &str| {
        [format!("{head}{headers}Content-Length: {length}\r\n\r\n").as_bytes(), &body].concat()
    };
    let said = |headers: String| [format!("{COMMON}{headers}\r\n").as_bytes(), &body].concat();
    let chunked = |headers: &str, size: &str, end: &str| {
        let head = format!("{COMMON}{headers}Transfer-Encoding: chunked\r\n\r\n{size}\r\n");
        [head.as_bytes(), &body, b"\r\n0\r\n", end.as_bytes(), b"\r\n"].concat()
    };
    let size = format!("{length:x}");
    let many =
        |count: usize| (0..count).map(|number| format!("X-{number}: {number}\r\n")).collect::<String>();
    match how {
        Odd::TwoLengths => said(format!("Content-Length: {}\r\nContent-Length: {length}\r\n", length / 2)),
        Odd::LengthAndChunks => chunked("Content-Length: 3\r\n", &size, ""),
        Odd::NegativeLength => said("Content-Length: -1\r\n".to_owned()),
        Odd::HugeLength => said(format!("Content-Length: {}\r\n", "9".repeat(30))),
        Odd::HugeChunk => chunked("", &"f".repeat(20), ""),
        Odd::UnreadableChunk => chunked("", "-5;x", ""),
        Odd::ManyHeaders => plain(COMMON, &many(10_000)),
        Odd::LongHeader => plain(COMMON, &format!("X-Long: {}\r\n", "x".repeat(1 << 20))),
        Odd::NulInHeader => plain(COMMON, "X-Nul: a\0b\r\n"),
        Odd::ReturnInHeader => plain(COMMON, "X-Return: a\rContent-Length: 2\r\n"),
        Odd::FoldedHeader => plain(COMMON, "X-Folded: a\r\n Content-Length: 2\r\n"),
        Odd::NoColon => plain(COMMON, "no colon here\r\n"),
        Odd::InterimFlood => {
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(20_000);
            [interim.into_bytes(), plain(COMMON, "")].concat()
        }
        Odd::ManyTrailers => chunked("", &size, &many(10_000)),
        Odd::WrongStatus => plain("HTTP/1.1 20000 OK\r\nContent-Type: application/json\r\n", ""),
        Odd::WrongVersion => plain("HTTP/9.7 200 OK\r\nContent-Type: application/json\r\n", ""),
        Odd::RedirectToItself => plain("HTTP/1.1 307 Again\r\nLocation: /sync\r\n", ""),
        Odd::ReplyBehind => {
            let behind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n";
            [&plain(COMMON, "")[..], behind, br#"{"protocol":1,"results":[]}"#].concat()
        }
        Odd::Drip => plain(COMMON, ""),
    }
}

/// Bytes that no HTTP reader can take for a status line.
pub(super) fn garbage(rng: &mut Rng) -> Vec<u8> {
    let length = 64 + rng.index(4_096);
    let mut out = vec![0x15, 0x03, 0x00];
    out.extend((0..length).map(|_| rng.next().to_le_bytes()[0]));
    out
}

/// The pieces of an endless reply: its beginning, and what is repeated for ever.
pub(super) struct Endless {
    pub(super) head: Vec<u8>,
    pub(super) first: Vec<u8>,
    pub(super) again: Vec<u8>,
}

/// A JSON reply that never ends, or not before `declared` bytes.
pub(super) fn endless(declared: Option<u64>, now_s: u64) -> Endless {
    const PIECE: usize = 64 << 10;
    let date = http_date(now_s);
    let framing =
        declared.map_or("Transfer-Encoding: chunked".to_owned(), |n| format!("Content-Length: {n}"));
    let head =
        format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: application/json\r\n{framing}\r\n\r\n");
    let first = b"{\"protocol\":1,\"results\":[".to_vec();
    let again = br#"{"key":"more","status":"retry","error":{"code":"more","message":"and more"}},"#;
    let again = again.repeat(PIECE / again.len());
    let chunk = |bytes: Vec<u8>| match declared {
        Some(_) => bytes,
        None => [format!("{:x}\r\n", bytes.len()).into_bytes(), bytes, b"\r\n".to_vec()].concat(),
    };
    Endless { head: head.into_bytes(), first: chunk(first), again: chunk(again) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::Head;

    fn real(body: &str) -> Reply {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: {}\r\nX: y\r\n\r\n",
            body.len()
        );
        let raw = [head.as_bytes(), body.as_bytes()].concat();
        Reply { head: Head::reply(head.into_bytes(), "POST").unwrap(), raw }
    }

    fn body(bytes: &[u8]) -> &[u8] {
        let at = crate::proxy::http::head_end(bytes, 0).unwrap();
        let head = Head::reply(bytes[..at].to_vec(), "POST").unwrap();
        assert_eq!(head.body, crate::proxy::http::BodyKind::Length((bytes.len() - at) as u64));
        &bytes[at..]
    }

    const THREE: &str = r#"{"protocol":1,"results":[{"key":"a"},{"key":"b"},{"key":"c"}]}"#;

    fn keys(bytes: &[u8]) -> Vec<String> {
        let value: Value = serde_json::from_slice(body(bytes)).unwrap();
        let results = value["results"].as_array().unwrap();
        results.iter().map(|result| result["key"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn edits_do_what_they_say_for_every_seed() {
        for seed in 0..200 {
            let rng = || Rng::new(seed, 1, 2);
            let reply = real(THREE);
            let reordered = edited(Fault::ReorderedResults, &reply, &mut rng()).unwrap();
            assert_eq!(keys(&reordered), ["c", "b", "a"]);
            let foreign = keys(&edited(Fault::ForeignResults, &reply, &mut rng()).unwrap());
            assert!(foreign.len() == 3 && foreign.iter().all(|key| key.starts_with("foreign-")));
            let missing = keys(&edited(Fault::MissingResults, &reply, &mut rng()).unwrap());
            assert!(missing.len() < 3 && missing.iter().all(|key| ["a", "b", "c"].contains(&key.as_str())));
            let short = edited(Fault::TruncatedJson, &reply, &mut rng()).unwrap();
            let short = body(&short);
            assert!(!short.is_empty() && THREE.as_bytes().starts_with(short));
            assert!(serde_json::from_slice::<Value>(short).is_err());
        }
    }

    #[test]
    fn what_has_no_results_is_not_edited() {
        for body in ["", "<html>", "[]", "{}", r#"{"results":[]}"#, r#"{"results":7}"#] {
            assert!(edited(Fault::MissingResults, &real(body), &mut Rng::new(1, 1, 1)).is_none(), "{body}");
        }
        assert!(
            edited(Fault::ForeignResults, &real(r#"{"results":[{}]}"#), &mut Rng::new(1, 1, 1)).is_none()
        );
    }

    #[test]
    fn made_up_replies_are_well_formed() {
        for fault in Fault::samples() {
            for seed in 0..50 {
                if let Some(bytes) = made_up(fault, 784_111_777, &mut Rng::new(seed, 1, 1)) {
                    let body = body(&bytes);
                    let is_json = serde_json::from_slice::<Value>(body).is_ok() || body.starts_with(b"[[[");
                    let expect_json =
                        !matches!(fault, Fault::CaptivePortal | Fault::Redirect302 | Fault::Empty200 { .. });
                    assert_eq!(is_json, expect_json, "{fault:?}");
                }
            }
        }
        let dated =
            made_up(Fault::Status503WithRetryAfterDate { seconds: 60 }, 784_111_777, &mut Rng::new(1, 1, 1));
        let text = String::from_utf8(dated.unwrap()).unwrap();
        assert!(text.contains("\r\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT\r\n"), "{text}");
    }
}
