//! What can go wrong, and the plan that says when.
//!
//! Pure: a decision is a function of plan, seed and request. It knows no sockets and no JSON.
//! Tests: below, and `tests/fault_proxy.rs` for what each fault does on the wire.

use std::fmt;
use std::sync::Arc;

use crate::rng::Rng;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// An orderly end of stream (FIN).
    Close,
    /// A reset (RST). It may overtake bytes that the client had not received yet.
    Reset,
}

/// Where a message is cut. What is passed on is always shorter than the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Anywhere after the first byte, chosen by the seed.
    Seeded,
    /// Somewhere in the body, at its first byte at the earliest, chosen by the seed; like `Seeded` without a body.
    InBody,
    /// After this many bytes.
    At(usize),
}

/// How two copies of a request reach the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duplicate {
    /// The second when the first was answered.
    Sequential,
    /// Both at once, on two connections.
    Concurrent,
}

/// Which of two copies' replies the client gets. The other one's, if only that copy was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The first copy's.
    First,
    /// The second copy's.
    Second,
}

/// When a late copy is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Late {
    /// After this many milliseconds.
    Millis(u64),
    /// When this many further requests have arrived at the proxy.
    Requests(u64),
}

/// A reply that breaks the rules of HTTP, or keeps them in a way that nobody expects. Its body is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Odd {
    /// Two lengths that differ, the shorter one first.
    TwoLengths,
    /// A length and chunks, which do not agree.
    LengthAndChunks,
    /// A length below zero.
    NegativeLength,
    /// A length of thirty digits.
    HugeLength,
    /// A chunk whose size is beyond 64 bits.
    HugeChunk,
    /// A chunk whose size is no number.
    UnreadableChunk,
    /// 10,000 headers.
    ManyHeaders,
    /// One header of 1 MiB.
    LongHeader,
    /// A NUL in a header.
    NulInHeader,
    /// A carriage return alone in a header.
    ReturnInHeader,
    /// A header that goes on in the next line.
    FoldedHeader,
    /// A line without a colon among the headers.
    NoColon,
    /// 20,000 interim replies before the real one.
    InterimFlood,
    /// 10,000 trailers behind the last chunk.
    ManyTrailers,
    /// A status beyond three digits.
    WrongStatus,
    /// A version that does not exist.
    WrongVersion,
    /// A redirect to the same address.
    RedirectToItself,
    /// Another reply behind the real one, which nobody asked for; the connection stays open.
    ReplyBehind,
    /// The real reply, some bytes every few milliseconds.
    Drip,
}

impl Odd {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::TwoLengths,
        Self::LengthAndChunks,
        Self::NegativeLength,
        Self::HugeLength,
        Self::HugeChunk,
        Self::UnreadableChunk,
        Self::ManyHeaders,
        Self::LongHeader,
        Self::NulInHeader,
        Self::ReturnInHeader,
        Self::FoldedHeader,
        Self::NoColon,
        Self::InterimFlood,
        Self::ManyTrailers,
        Self::WrongStatus,
        Self::WrongVersion,
        Self::RedirectToItself,
        Self::ReplyBehind,
        Self::Drip,
    ];
}

/// One thing that goes wrong with one request.
///
/// "Forwarded" means that the upstream gets the whole request and the proxy reads its whole reply, before the
/// client sees anything. Faults that are not described as forwarding never bother the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Reset after the request's head, with its body unread. Nothing is forwarded.
    ResetOnAccept,
    /// Send the upstream only the beginning of the request, then close both sides.
    CutRequest {
        /// How much is sent.
        at: Cut,
        /// How the client's side ends.
        end: Ending,
    },
    /// Forward, then close without a byte of the reply: the effect happened, its answer is lost.
    DropReplyAfterApply {
        /// How the connection ends.
        end: Ending,
    },
    /// Forward, then send only the beginning of the reply. A reply that is delimited by the end of its
    /// connection and cut with [`Ending::Close`] looks whole.
    CutReply {
        /// How much is sent.
        at: Cut,
        /// How the connection ends.
        end: Ending,
    },
    /// Forward, send the reply's head and some of its body, then nothing until the time is over or the client leaves.
    StallMidReply {
        /// How long nothing comes.
        ms: u64,
    },
    /// Wait before forwarding. A client that stops waiting meanwhile does not stop the request.
    Delay {
        /// How long.
        ms: u64,
    },
    /// Forward at once, wait before answering.
    DelayReply {
        /// How long.
        ms: u64,
    },
    /// Answer 500.
    Status500 {
        /// Whether the request is forwarded first.
        applied: bool,
    },
    /// Answer 503 with `Retry-After` in seconds.
    Status503WithRetryAfter {
        /// The header's value.
        seconds: u64,
    },
    /// Answer 503 with `Retry-After` as an HTTP date, counted from the system's clock.
    Status503WithRetryAfterDate {
        /// How far ahead the date is.
        seconds: u64,
    },
    /// Answer 429.
    Status429 {
        /// The value of `Retry-After`, if there is one.
        retry_after_s: Option<u64>,
    },
    /// Answer 200 with an HTML login page.
    CaptivePortal,
    /// Answer 302 to a login page on another host.
    Redirect302,
    /// Answer 200, `application/json`, with no body.
    Empty200 {
        /// Whether the request is forwarded first.
        applied: bool,
    },
    /// Forward, then send the reply's JSON cut short, with a `Content-Length` that matches what is left.
    TruncatedJson,
    /// Answer 200 with valid JSON of another type or shape.
    WrongJson,
    /// Forward, then give every entry of the reply's `results` a key nobody asked about.
    ForeignResults,
    /// Forward, then drop at least one entry of the reply's `results`.
    MissingResults,
    /// Forward, then reverse the reply's `results`. Harmless by the protocol.
    ReorderedResults,
    /// Forward twice.
    DuplicateRequest {
        /// One after the other, or together.
        how: Duplicate,
        /// Whose reply the client gets.
        answer: Which,
    },
    /// Forward and answer, and send the upstream a second copy later. The copy's reply is thrown away.
    LateDuplicate {
        /// When.
        after: Late,
    },
    /// Answer 200, `application/json`, and send a body until the client hangs up or 10 GB were sent.
    HugeBody {
        /// The `Content-Length`, which then also ends the body; without one it is chunked and does not end.
        declared: Option<u64>,
    },
    /// Answer with bytes that are not HTTP, and close.
    GarbageBytes,
    /// Forward, then answer in a way that is not, or hardly, HTTP. Not among [`Fault::samples`].
    OddReply {
        /// In which way.
        how: Odd,
    },
}

impl Fault {
    /// The fault's name in events and statistics: lower case, words joined by `_`, without its parameters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ResetOnAccept => "reset_on_accept",
            Self::CutRequest { .. } => "cut_request",
            Self::DropReplyAfterApply { .. } => "drop_reply_after_apply",
            Self::CutReply { .. } => "cut_reply",
            Self::StallMidReply { .. } => "stall_mid_reply",
            Self::Delay { .. } => "delay",
            Self::DelayReply { .. } => "delay_reply",
            Self::Status500 { .. } => "status_500",
            Self::Status503WithRetryAfter { .. } => "status_503_retry_after",
            Self::Status503WithRetryAfterDate { .. } => "status_503_retry_after_date",
            Self::Status429 { .. } => "status_429",
            Self::CaptivePortal => "captive_portal",
            Self::Redirect302 => "redirect_302",
            Self::Empty200 { .. } => "empty_200",
            Self::TruncatedJson => "truncated_json",
            Self::WrongJson => "wrong_json",
            Self::ForeignResults => "foreign_results",
            Self::MissingResults => "missing_results",
            Self::ReorderedResults => "reordered_results",
            Self::DuplicateRequest { .. } => "duplicate_request",
            Self::LateDuplicate { .. } => "late_duplicate",
            Self::HugeBody { .. } => "huge_body",
            Self::GarbageBytes => "garbage_bytes",
            Self::OddReply { .. } => "odd_reply",
        }
    }

    /// Every kind of fault but [`Fault::OddReply`], in every variant that acts differently, with short times: a walk through all of them.
    #[must_use]
    pub fn samples() -> Vec<Self> {
        let mut all = vec![Self::ResetOnAccept];
        for end in [Ending::Close, Ending::Reset] {
            all.push(Self::DropReplyAfterApply { end });
            for at in [Cut::Seeded, Cut::InBody] {
                all.extend([Self::CutRequest { at, end }, Self::CutReply { at, end }]);
            }
        }
        for applied in [false, true] {
            all.extend([Self::Status500 { applied }, Self::Empty200 { applied }]);
        }
        for how in [Duplicate::Sequential, Duplicate::Concurrent] {
            for answer in [Which::First, Which::Second] {
                all.push(Self::DuplicateRequest { how, answer });
            }
        }
        all.extend([
            Self::StallMidReply { ms: 200 },
            Self::Delay { ms: 20 },
            Self::DelayReply { ms: 20 },
            Self::Status503WithRetryAfter { seconds: 1 },
            Self::Status503WithRetryAfterDate { seconds: 1 },
            Self::Status429 { retry_after_s: None },
            Self::Status429 { retry_after_s: Some(1) },
            Self::CaptivePortal,
            Self::Redirect302,
            Self::TruncatedJson,
            Self::WrongJson,
            Self::ForeignResults,
            Self::MissingResults,
            Self::ReorderedResults,
            Self::LateDuplicate { after: Late::Millis(50) },
            Self::LateDuplicate { after: Late::Requests(3) },
            Self::HugeBody { declared: None },
            Self::HugeBody { declared: Some(10_000_000_000) },
            Self::GarbageBytes,
        ]);
        all
    }
}

/// What a plan may look at. The body is not read yet when it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// Which request of the proxy's life this is, from 1.
    pub number: u64,
    /// Which request in the plan's scope this is since the plan was set, from 1. Zero outside the scope.
    pub turn: u64,
    /// The method, as sent.
    pub method: String,
    /// The request target, as sent: path and query.
    pub path: String,
}

type Chooser = dyn Fn(&RequestInfo) -> Option<Fault> + Send + Sync;
type Scope = dyn Fn(&RequestInfo) -> bool + Send + Sync;

/// Says which fault, if any, befalls each request.
///
/// ```
/// use landfall_testkit::proxy::{Fault, FaultPlan};
/// // Of twelve pushes, about ten get through; pulls are left alone.
/// let plan = FaultPlan::weighted(10, [(1, Fault::CaptivePortal), (1, Fault::WrongJson)])
///     .only(|request| request.method == "POST");
/// # let _ = plan;
/// ```
#[derive(Clone)]
pub struct FaultPlan {
    choice: Choice,
    scope: Option<Arc<Scope>>,
}

#[derive(Clone)]
enum Choice {
    Healthy,
    Always(Fault),
    Script(Arc<[Option<Fault>]>),
    Weighted { healthy: u32, faults: Arc<[(u32, Fault)]> },
    By(Arc<Chooser>),
}

impl FaultPlan {
    /// No faults: everything passes.
    #[must_use]
    pub fn healthy() -> Self {
        Choice::Healthy.into()
    }

    /// The same fault for every request.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Choice::Always(fault).into()
    }

    /// The first entry for the first request, and so on; `None` lets one pass, as does the end of the list.
    #[must_use]
    pub fn script(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Choice::Script(faults.into_iter().collect()).into()
    }

    /// Drawn by the seed: each fault has its weight, and so has no fault at all.
    ///
    /// With `healthy` 9 and one fault of weight 1, one request in ten meets it. All weights zero: no faults.
    #[must_use]
    pub fn weighted(healthy: u32, faults: impl IntoIterator<Item = (u32, Fault)>) -> Self {
        Choice::Weighted { healthy, faults: faults.into_iter().collect() }.into()
    }

    /// Whatever the function says. It runs on the proxy's threads; to stay repeatable it should depend on nothing else.
    #[must_use]
    pub fn by(choose: impl Fn(&RequestInfo) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Choice::By(Arc::new(choose)).into()
    }

    /// A rough network, for demos: half of the requests pass, the rest meet every kind of fault but those that
    /// take long (`huge_body`, `stall_mid_reply`) or ask for a wait of seconds (`Retry-After`).
    #[must_use]
    pub fn rough() -> Self {
        let faults: Vec<(u32, Fault)> = Fault::samples()
            .into_iter()
            .filter(|fault| {
                !matches!(
                    fault,
                    Fault::HugeBody { .. }
                        | Fault::StallMidReply { .. }
                        | Fault::Status503WithRetryAfter { .. }
                        | Fault::Status503WithRetryAfterDate { .. }
                        | Fault::Status429 { retry_after_s: Some(_) }
                )
            })
            .map(|fault| (1, fault))
            .collect();
        Self::weighted(u32::try_from(faults.len()).unwrap_or(1), faults)
    }

    /// Leaves requests alone for which `scope` is false. They take no turn, so a script passes over them.
    ///
    /// The scope sees a [`RequestInfo::turn`] of zero, because the turn depends on its answer.
    #[must_use]
    pub fn only(self, scope: impl Fn(&RequestInfo) -> bool + Send + Sync + 'static) -> Self {
        Self { scope: Some(Arc::new(scope)), ..self }
    }

    /// Whether the plan is about this request at all.
    #[must_use]
    pub fn covers(&self, request: &RequestInfo) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope(request))
    }

    /// The fault for a request that the plan covers: a function of the plan, the seed and the request's turn.
    #[must_use]
    pub fn decide(&self, seed: u64, request: &RequestInfo) -> Option<Fault> {
        match &self.choice {
            Choice::Healthy => None,
            Choice::Always(fault) => Some(*fault),
            Choice::Script(faults) => {
                let at = usize::try_from(request.turn).ok()?.checked_sub(1)?;
                faults.get(at).copied().flatten()
            }
            Choice::Weighted { healthy, faults } => {
                let total: u64 = faults.iter().map(|(weight, _)| u64::from(*weight)).sum();
                let mut drawn = Rng::new(seed, request.turn, PURPOSE_PLAN).below(total + u64::from(*healthy));
                for (weight, fault) in faults.iter() {
                    match drawn.checked_sub(u64::from(*weight)) {
                        Some(rest) => drawn = rest,
                        None => return Some(*fault),
                    }
                }
                None
            }
            Choice::By(choose) => choose(request),
        }
    }
}

/// Keeps draws for different purposes apart.
const PURPOSE_PLAN: u64 = 1;

impl From<Choice> for FaultPlan {
    fn from(choice: Choice) -> Self {
        Self { choice, scope: None }
    }
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::healthy()
    }
}

impl From<Fault> for FaultPlan {
    fn from(fault: Fault) -> Self {
        Self::always(fault)
    }
}

impl fmt::Debug for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.choice {
            Choice::Healthy => f.write_str("healthy")?,
            Choice::Always(fault) => write!(f, "always {fault:?}")?,
            Choice::Script(faults) => write!(f, "script {faults:?}")?,
            Choice::Weighted { healthy, faults } => write!(f, "weighted, healthy {healthy}, {faults:?}")?,
            Choice::By(_) => f.write_str("by a function")?,
        }
        if self.scope.is_some() { f.write_str(", scoped") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(turn: u64) -> RequestInfo {
        RequestInfo { number: turn, turn, method: "POST".into(), path: "/sync".into() }
    }

    #[test]
    fn the_same_seed_decides_the_same_and_another_differs() {
        let plan = FaultPlan::rough();
        let run = |seed| (1..=500).map(|turn| plan.decide(seed, &request(turn))).collect::<Vec<_>>();
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn weights_are_kept_roughly() {
        let plan = FaultPlan::weighted(8, [(1, Fault::WrongJson), (1, Fault::CaptivePortal)]);
        let count = |wanted| (1..=10_000).filter(|turn| plan.decide(3, &request(*turn)) == wanted).count();
        for (wanted, about) in
            [(None, 8_000), (Some(Fault::WrongJson), 1_000), (Some(Fault::CaptivePortal), 1_000)]
        {
            assert!(count(wanted).abs_diff(about) < 150, "{wanted:?}: {}", count(wanted));
        }
        assert_eq!(FaultPlan::weighted(0, [(0, Fault::WrongJson)]).decide(1, &request(1)), None);
        assert_eq!(FaultPlan::weighted(0, []).decide(1, &request(1)), None);
        let certain = FaultPlan::weighted(0, [(0, Fault::WrongJson), (5, Fault::GarbageBytes)]);
        assert!((1..100).all(|turn| certain.decide(1, &request(turn)) == Some(Fault::GarbageBytes)));
    }

    #[test]
    fn a_script_runs_by_turn_and_then_lets_pass() {
        let plan = FaultPlan::script([Some(Fault::WrongJson), None, Some(Fault::GarbageBytes)]);
        let run: Vec<_> = (0..=4).map(|turn| plan.decide(9, &request(turn))).collect();
        assert_eq!(run, [None, Some(Fault::WrongJson), None, Some(Fault::GarbageBytes), None]);
    }

    #[test]
    fn samples_name_every_kind_once_per_variant() {
        let samples = Fault::samples();
        let unique: std::collections::HashSet<_> = samples.iter().collect();
        assert_eq!(unique.len(), samples.len());
        let names: std::collections::BTreeSet<_> = samples.iter().map(Fault::name).collect();
        assert_eq!(names.len(), 23);
    }
}
