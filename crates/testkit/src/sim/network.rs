//! The simulated network and the server behind it: what happens to one request is decided when it leaves.

use crate::rng::Rng;
use landfall_adapters::http::HttpResponse;
use landfall_core::adapter::PullRequest;
use landfall_core::failure::{Delivery, Failure, FailureKind};
use landfall_core::id::EntityKey;
use landfall_protocol::{PushRequest, PushResponse};
use landfall_server::incoming::Submission;
use landfall_server::state::{MemoryRecords, Policy, Records, Refusal, changes, entity, push_with};

/// What becomes of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It arrives, and the answer arrives.
    Fine,
    /// Not a byte leaves.
    Refused,
    /// It is lost on the way.
    RequestLost,
    /// It arrives and takes effect, and the answer is lost.
    ReplyLost,
    /// It arrives and takes effect, and the answer is cut.
    ReplyCut,
    /// It arrives twice; the first answer counts.
    Doubled,
    /// It arrives, and once more much later.
    LateDouble,
    /// It takes effect, and the server answers 500.
    ErrorAfterEffect,
    /// The server answers 500, 503 with `Retry-After`, 429 or 401 and does nothing.
    Turned(u16),
    /// Something in between answers with a page.
    Portal,
    /// It arrives, and the answer names only some of the tasks.
    PartialReply,
    /// It arrives, and the answer says "conflict" without saying what the server has.
    BareConflicts,
}

impl Fate {
    pub(super) fn draw(rng: &mut Rng, faults: bool) -> Self {
        if !faults || rng.percent(45) {
            return Self::Fine;
        }
        match rng.below(15) {
            0 => Self::Refused,
            1 => Self::RequestLost,
            2..=4 => Self::ReplyLost,
            5 => Self::ReplyCut,
            6 => Self::Doubled,
            7 => Self::LateDouble,
            8 => Self::ErrorAfterEffect,
            9 => Self::Turned(503),
            10 => Self::Turned(429),
            11 => Self::Turned(if rng.percent(30) { 401 } else { 500 }),
            12 => Self::Portal,
            13 => Self::BareConflicts,
            _ => Self::PartialReply,
        }
    }

    /// Whether the request reaches the server's rules.
    pub(super) fn reaches(self) -> bool {
        !matches!(self, Self::Refused | Self::RequestLost | Self::Turned(_) | Self::Portal)
    }

    /// What the device receives: an answer, or nothing believable from below.
    pub(super) fn answer(self, rng: &mut Rng, reply: Option<HttpResponse>) -> Result<HttpResponse, Failure> {
        let timeout = || Failure::new(FailureKind::Transient, Delivery::Unknown, "no answer in time");
        match self {
            Self::Refused => {
                Err(Failure::new(FailureKind::Unreachable, Delivery::NotSent, "connection refused"))
            }
            Self::RequestLost | Self::ReplyLost => Err(timeout()),
            Self::Turned(status) => {
                let answer = HttpResponse::new(status, "application/problem+json", "{}");
                Ok(if status == 503 || rng.percent(50) {
                    answer.with_header("retry-after", "2")
                } else {
                    answer
                })
            }
            Self::Portal => Ok(HttpResponse::new(200, "text/html", "<html>Please log in</html>")),
            Self::ErrorAfterEffect => Ok(HttpResponse::new(500, "text/plain", "oops")),
            Self::ReplyCut => {
                let mut reply = reply.ok_or_else(timeout)?;
                let keep = rng.index(reply.body.len());
                reply.body.truncate(keep);
                Ok(reply)
            }
            Self::PartialReply => {
                let mut reply = reply.ok_or_else(timeout)?;
                if let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&reply.body) {
                    if let Some(results) = body["results"].as_array_mut() {
                        results.retain(|_| rng.percent(50));
                        if rng.percent(50) {
                            results.reverse();
                        }
                    }
                    reply.body = body.to_string().into_bytes();
                }
                Ok(reply)
            }
            Self::BareConflicts => {
                let mut reply = reply.ok_or_else(timeout)?;
                if let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&reply.body) {
                    for result in body["results"].as_array_mut().into_iter().flatten() {
                        if result["status"] == "conflict" {
                            *result = serde_json::json!({"key": result["key"], "status": "conflict"});
                        }
                    }
                    reply.body = body.to_string().into_bytes();
                }
                Ok(reply)
            }
            Self::Fine | Self::Doubled | Self::LateDouble => reply.ok_or_else(timeout),
        }
    }
}

/// The server takes one request, as its HTTP layer would hand it to the rules. `None`: it died in it.
pub(super) fn answer_push(
    body: &[u8],
    push: impl FnOnce(&Submission) -> Option<Result<PushResponse, Refusal>>,
) -> Option<HttpResponse> {
    let request: PushRequest = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return Some(HttpResponse::new(400, "application/problem+json", error.to_string())),
    };
    Some(respond(push(&request.into())?.map(|reply| serde_json::to_vec(&reply))))
}

/// Likewise for records in memory, which never die.
pub(super) fn serve_with(server: &mut MemoryRecords, policy: &dyn Policy, body: &[u8]) -> HttpResponse {
    answer_push(body, |request| Some(push_with(server, policy, request))).expect("it never dies")
}

/// What the simulated feed has forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forgotten {
    /// How often it forgot. Cursors are marked with it.
    pub(super) times: u64,
    /// What was deleted up to this version is not told to whoever begins to read.
    pub(super) up_to: u64,
}

/// The server writes one page of its feed. A cursor from before it forgot has expired.
pub(super) fn serve_page(server: &dyn Records, request: &PullRequest, forgotten: Forgotten) -> HttpResponse {
    let given = request.cursor.as_ref().and_then(|cursor| cursor.0.split_once('|'));
    let cursor = given.map(|(_, cursor)| cursor);
    let at = cursor.and_then(|text| text.rsplit('.').next()).and_then(|number| number.parse::<u64>().ok());
    let from_before = given.is_some_and(|(mark, _)| mark != forgotten.times.to_string());
    if from_before && at.is_some_and(|at| at < forgotten.up_to) {
        let problem = r#"{"type":"about:blank","title":"expired","status":410,"code":"cursor_expired"}"#;
        return HttpResponse::new(410, "application/problem+json", problem);
    }
    respond(changes(server, cursor, request.limit, usize::MAX).map(|mut page| {
        let is_gone = |version: &str| version.parse().is_ok_and(|version: u64| version <= forgotten.up_to);
        page.changes.retain(|record| !(record.deleted && is_gone(&record.version)));
        page.cursor = format!("{}|{}", forgotten.times, page.cursor);
        serde_json::to_vec(&page)
    }))
}

/// The server shows one record.
pub(super) fn serve_record(server: &dyn Records, key: &EntityKey) -> HttpResponse {
    respond(entity(server, &key.entity_type, &key.entity_id).map(|record| serde_json::to_vec(&record)))
}

fn respond(answer: Result<serde_json::Result<Vec<u8>>, Refusal>) -> HttpResponse {
    match answer {
        Ok(body) => {
            let body = body.expect("an answer of the rules is always JSON");
            HttpResponse::new(200, "application/json", body)
        }
        Err(refusal) => {
            let problem = refusal.into_problem();
            let body = serde_json::to_vec(&problem).expect("a problem is always JSON");
            HttpResponse::new(problem.status, "application/problem+json", body)
        }
    }
}

/// A server that does not remember keys: each one looks new to it, because it is another one each time.
pub(super) fn serve_without_keys(
    body: &[u8],
    salt: u64,
    serve: impl FnOnce(&[u8]) -> Option<HttpResponse>,
) -> Option<HttpResponse> {
    let disguise = |key: &str| format!("{key}-{salt:016x}");
    let Ok(mut request) = serde_json::from_slice::<serde_json::Value>(body) else {
        return serve(body);
    };
    for task in request["tasks"].as_array_mut().into_iter().flatten() {
        task["key"] = disguise(task["key"].as_str().unwrap_or_default()).into();
    }
    let mut reply = serve(request.to_string().as_bytes())?;
    if let Ok(text) = String::from_utf8(std::mem::take(&mut reply.body)) {
        reply.body = text.replace(&format!("-{salt:016x}"), "").into_bytes();
    }
    Some(reply)
}
