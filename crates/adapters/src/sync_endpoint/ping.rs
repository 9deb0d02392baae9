//! The probe: was it the backend that answered, or something on the way?
//!
//! Only two things are believed: the proof worked out from this probe's nonce, and a problem document of this protocol.
//! Both take a program written for the protocol; a portal's page, a redirect, an echo of the address or a kept copy are
//! neither. What else comes is believed a little where nobody can stand in between unseen ([`Endpoint::proves_itself`]),
//! and else is somebody in between. Pure. Tests: below, and `tests/ping.rs` over real sockets.

use crate::http::classify::{Table, problem};
use crate::http::url::Endpoint;
use crate::http::{HttpResponse, TransportError, TransportErrorKind};
use landfall_core::adapter::Probe;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_protocol::{
    CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, PROTOCOL_VERSION, Pong, code, ping_nonce, ping_proof,
};

/// The largest answer to a ping that is read: 16 KiB, a hundred times what is right. A page is longer.
pub(super) const PONG_BYTES_MAX: u64 = 16 << 10;

/// The address of a ping.
pub fn ping_url(endpoint: &Endpoint, probe: &Probe) -> String {
    let base = endpoint.join(&["ping"]).unwrap_or_default();
    format!("{base}?nonce={}", ping_nonce(&probe.nonce))
}

/// Says whether the backend answered:
///
/// | answer | verdict |
/// |---|---|
/// | 200 in JSON with protocol 1 and the proof for this nonce | reached |
/// | the same of another protocol version | `Unsupported` |
/// | a problem document of this protocol: `not_found`, `method_not_allowed`, `malformed` | reached: a backend that does not know pings |
/// | a problem document of this protocol with another code | as the table sorts it |
/// | anything else over plain http to another machine | `Intercepted`, and no wait of it is believed |
/// | over https, or from this machine: a pause (408, 425, 429, 5xx but 501, 511) | as the table sorts it |
/// | … 404, 405, 410, 501, or another 4xx that is no web page, but 407 | `Unsupported`: there is no ping here |
/// | … anything else: 2xx without the proof, 3xx, a web page | `Intercepted` |
///
/// # Errors
/// [`Failure`] unless the backend was reached.
pub fn decode_ping(
    table: &Table,
    endpoint: &Endpoint,
    probe: &Probe,
    response: &HttpResponse,
) -> Result<(), Failure> {
    match proven_version(probe, response) {
        Some(PROTOCOL_VERSION) => return Ok(()),
        Some(_) => {
            let why = "the backend was reached and speaks another protocol version";
            return Err(Failure::new(FailureKind::Unsupported, Delivery::Answered, why));
        }
        None => {}
    }
    let failure = table.judge(response).err().unwrap_or_else(|| {
        Failure::new(
            FailureKind::Intercepted,
            Delivery::Unknown,
            "200 in JSON without the proof for this ping",
        )
    });
    match own_code(response).as_deref() {
        Some(code::NOT_FOUND | code::METHOD_NOT_ALLOWED | code::MALFORMED) => Ok(()),
        Some(_) => Err(failure),
        None if endpoint.proves_itself() => Err(unproven(failure, response.status)),
        None => Err(intercepted(failure)),
    }
}

/// There is no whole answer. A ping has no effect, so it does not matter how far it got.
pub(super) fn unanswered(error: TransportError) -> Failure {
    use TransportErrorKind as Kind;
    let kind = match error.kind {
        Kind::Unreachable | Kind::Reset | Kind::Timeout => FailureKind::Unreachable,
        Kind::Tls | Kind::Malformed | Kind::BodyTooLarge => FailureKind::Intercepted,
        Kind::InvalidRequest => FailureKind::Unsupported,
        Kind::Local => FailureKind::Transient,
        Kind::Withdrawn => FailureKind::Cancelled,
    };
    Failure { kind, ..Failure::from(error) }
}

/// The protocol version in an answer that has the proof. Where it ends does not matter: a cut answer has no proof.
fn proven_version(probe: &Probe, response: &HttpResponse) -> Option<u32> {
    if response.status != 200 || response.media_type() != CONTENT_TYPE_JSON {
        return None;
    }
    let pong: Pong = serde_json::from_slice(&response.body).ok()?;
    (pong.proof == ping_proof(&ping_nonce(&probe.nonce))).then_some(pong.protocol)
}

/// The code of a problem document of this protocol; those of gateways and frameworks have another type.
fn own_code(response: &HttpResponse) -> Option<String> {
    let media = response.media_type();
    let problem = problem(response, &media).filter(|_| media == CONTENT_TYPE_PROBLEM)?;
    let own = !problem.code.is_empty()
        && problem.status == response.status
        && problem.kind == format!("urn:landfall:problem:{}", problem.code);
    own.then_some(problem.code)
}

/// Sorts an answer that comes from the backend's side, though perhaps only from a gateway in front of it.
fn unproven(failure: Failure, status: u16) -> Failure {
    let web_page = failure.kind == FailureKind::Intercepted;
    match status {
        511 | 407 => intercepted(failure),
        404 | 405 | 410 | 501 => no_ping(failure),
        408 | 425 | 429 | 500..=599 => failure,
        400..=499 if !web_page => no_ping(failure),
        _ => intercepted(failure),
    }
}

fn no_ping(failure: Failure) -> Failure {
    let message = format!("{}; there is no ping at this address", failure.message);
    Failure { kind: FailureKind::Unsupported, message, retry_after: None, ..failure }
}

fn intercepted(failure: Failure) -> Failure {
    let message = format!("{}; it does not prove to be the backend", failure.message);
    Failure { kind: FailureKind::Intercepted, message, retry_after: None, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Framing;
    use landfall_protocol::Problem;

    const PROBE: Probe = Probe { nonce: [0x5a; 16] };
    const HTML: &str = "text/html; charset=utf-8";

    fn plain() -> Endpoint {
        Endpoint::parse("http://backend.example/sync", true).unwrap()
    }

    fn judged(endpoint: &Endpoint, response: &HttpResponse) -> Result<(), (FailureKind, Option<u64>)> {
        decode_ping(&Table::sync_endpoint(), endpoint, &PROBE, response)
            .map_err(|failure| (failure.kind, failure.retry_after.map(|wait| wait.as_secs())))
    }

    fn json(body: &str) -> HttpResponse {
        HttpResponse::new(200, CONTENT_TYPE_JSON, body)
    }

    fn coded(status: u16, code: &str) -> HttpResponse {
        let body = serde_json::to_vec(&Problem::new(status, code, "d")).unwrap();
        HttpResponse::new(status, CONTENT_TYPE_PROBLEM, body)
    }

    fn proof() -> String {
        ping_proof(&ping_nonce(&PROBE.nonce))
    }

    #[test]
    fn the_address_is_below_the_endpoint() {
        let url = ping_url(&plain(), &PROBE);
        assert_eq!(url, "http://backend.example/sync/ping?nonce=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    }

    #[test]
    fn only_the_proof_for_this_nonce_is_believed() {
        let good = format!(r#"{{"protocol":1,"proof":"{}","server_id":"s","later":{{}}}}"#, proof());
        assert_eq!(judged(&plain(), &json(&good)), Ok(()));
        let open = HttpResponse { framing: Framing::UntilClose, ..json(&good) };
        assert_eq!(judged(&plain(), &open), Ok(()), "what has the proof is whole");
        let nonce = ping_nonce(&PROBE.nonce);
        let other = ping_proof(&ping_nonce(&[0x5b; 16]));
        let twice = format!(r#"{{"protocol":1,"proof":"{}","proof":"{}"}}"#, proof(), proof());
        let listed = format!("[{good}]");
        let upper = good.replace(&proof(), &proof().to_uppercase());
        for body in [
            r#"{"protocol":1}"#,
            "{}",
            "null",
            "",
            &good[..good.len() - 1],
            &format!("{good}<!-- -->"),
            &listed,
            &twice,
            &upper,
            &format!(r#"{{"protocol":1,"proof":"{other}"}}"#),
            &format!(r#"{{"protocol":1,"proof":"{nonce}"}}"#),
            &format!(r#"{{"protocol":1,"proof":["{}"]}}"#, proof()),
            &format!(r#"{{"protocol":1,"nonce":"{nonce}","args":{{"proof":"{}"}}}}"#, proof()),
        ] {
            let expected = Err((FailureKind::Intercepted, None));
            assert_eq!(judged(&plain(), &json(body)), expected, "{body}");
        }
        for response in [
            HttpResponse::new(200, HTML, good.clone()),
            HttpResponse::new(200, "", good.clone()),
            HttpResponse::new(201, CONTENT_TYPE_JSON, good.clone()),
            HttpResponse::new(302, CONTENT_TYPE_JSON, good.clone()),
        ] {
            assert_eq!(judged(&plain(), &response), Err((FailureKind::Intercepted, None)), "{response:?}");
        }
        let newer = good.replace("\"protocol\":1", "\"protocol\":2");
        assert_eq!(judged(&plain(), &json(&newer)), Err((FailureKind::Unsupported, None)));
    }

    #[test]
    fn problem_documents_of_the_protocol_are_the_backends_word() {
        use FailureKind as Kind;
        let later = |status, code| coded(status, code).with_header("retry-after", "9");
        let cases = [
            (coded(404, code::NOT_FOUND), Ok(())),
            (coded(405, code::METHOD_NOT_ALLOWED), Ok(())),
            (coded(400, code::MALFORMED), Ok(())),
            (coded(401, code::UNAUTHORIZED), Err((Kind::Unauthenticated, None))),
            (coded(403, "forbidden"), Err((Kind::Forbidden, None))),
            (later(429, code::RATE_LIMITED), Err((Kind::RateLimited, Some(9)))),
            (later(503, code::UNAVAILABLE), Err((Kind::RateLimited, Some(9)))),
            (coded(503, code::UNAVAILABLE), Err((Kind::Transient, None))),
            (coded(400, code::UNSUPPORTED_PROTOCOL), Err((Kind::Unsupported, None))),
        ];
        for (response, expected) in cases {
            assert_eq!(judged(&plain(), &response), expected, "{}", response.status);
        }
        let foreign = |body: &str| HttpResponse::new(404, CONTENT_TYPE_PROBLEM, body);
        for response in [
            foreign(r#"{"type":"about:blank","status":404,"code":"not_found"}"#),
            foreign(r#"{"type":"urn:landfall:problem:not_found","status":404}"#),
            foreign(r#"{"type":"urn:landfall:problem:not_found","status":400,"code":"not_found"}"#),
            foreign(r#"{"type":"urn:landfall:problem:gone","status":404,"code":"not_found"}"#),
            HttpResponse {
                body: coded(404, code::NOT_FOUND).body,
                ..HttpResponse::new(404, CONTENT_TYPE_JSON, "")
            },
        ] {
            assert_eq!(judged(&plain(), &response), Err((Kind::Intercepted, None)), "{response:?}");
        }
    }

    #[test]
    fn over_plain_http_nothing_else_is_believed() {
        for status in 0..1000 {
            for media in ["", HTML, "text/plain", CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM] {
                let response = HttpResponse::new(status, media, "{}").with_header("retry-after", "86400");
                let expected = Err((FailureKind::Intercepted, None));
                assert_eq!(judged(&plain(), &response), expected, "{status} {media}");
            }
        }
    }

    #[test]
    fn where_nobody_can_stand_in_between_a_gateway_is_believed() {
        use FailureKind as Kind;
        let cases: &[(u16, &str, FailureKind, Option<u64>)] = &[
            (503, HTML, Kind::RateLimited, Some(9)),
            (502, HTML, Kind::Transient, Some(9)),
            (429, HTML, Kind::RateLimited, Some(9)),
            (408, "", Kind::Transient, Some(9)),
            (404, HTML, Kind::Unsupported, None),
            (404, CONTENT_TYPE_JSON, Kind::Unsupported, None),
            (405, "", Kind::Unsupported, None),
            (501, HTML, Kind::Unsupported, None),
            (401, HTML, Kind::Unsupported, None),
            (400, CONTENT_TYPE_JSON, Kind::Unsupported, None),
            (409, CONTENT_TYPE_JSON, Kind::Unsupported, None),
            (403, HTML, Kind::Intercepted, None),
            (407, HTML, Kind::Intercepted, None),
            (511, HTML, Kind::Intercepted, None),
            (302, HTML, Kind::Intercepted, None),
            (200, HTML, Kind::Intercepted, None),
            (200, CONTENT_TYPE_JSON, Kind::Intercepted, None),
            (204, "", Kind::Intercepted, None),
            (999, CONTENT_TYPE_JSON, Kind::Intercepted, None),
        ];
        for url in ["https://backend.example/sync", "http://127.0.0.1:9/sync"] {
            let endpoint = Endpoint::parse(url, false).unwrap();
            for (status, media, kind, wait) in cases {
                let response = HttpResponse::new(*status, media, "{}").with_header("retry-after", "9");
                assert_eq!(judged(&endpoint, &response), Err((*kind, *wait)), "{status} {media}");
            }
        }
    }

    #[test]
    fn what_was_not_answered_is_sorted_by_whether_anybody_was_there() {
        use TransportErrorKind as Kind;
        for (kind, expected) in [
            (Kind::Unreachable, FailureKind::Unreachable),
            (Kind::Reset, FailureKind::Unreachable),
            (Kind::Timeout, FailureKind::Unreachable),
            (Kind::Tls, FailureKind::Intercepted),
            (Kind::Malformed, FailureKind::Intercepted),
            (Kind::BodyTooLarge, FailureKind::Intercepted),
            (Kind::Local, FailureKind::Transient),
            (Kind::InvalidRequest, FailureKind::Unsupported),
            (Kind::Withdrawn, FailureKind::Cancelled),
        ] {
            for delivery in [Delivery::NotSent, Delivery::Unknown] {
                let failure = unanswered(TransportError::new(kind, delivery, "x"));
                assert_eq!((failure.kind, failure.delivery), (expected, delivery));
            }
        }
    }
}
