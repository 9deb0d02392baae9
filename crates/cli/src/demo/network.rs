//! The network of the demo: the fault proxy in front of the server, and what it did, in words.
//!
//! Off at first, then rough, then healed, and so twice. Which fault comes when is in `chance.rs`. Tests: below, and `tests/demo.rs`.

use super::chance;
use crate::problem::Problem;
use landfall_testkit::proxy::{FaultPlan, FaultProxy};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A network with moods.
#[derive(Debug)]
pub(super) struct Network {
    proxy: FaultProxy,
    met: Arc<Mutex<Met>>,
}

/// The faults that really happened to somebody.
#[derive(Debug, Default, Clone)]
pub(super) struct Met {
    /// How often, by kind.
    pub(super) by_kind: BTreeMap<&'static str, u64>,
    /// The last one's kind.
    pub(super) last: Option<&'static str>,
}

impl Met {
    /// How many in all.
    pub(super) fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }
}

impl Network {
    /// A network that is down.
    pub(super) fn start(server: SocketAddr, seed: u64) -> Result<Self, Problem> {
        let trouble = |error| Problem::new(format!("cannot start the fault proxy: {error}"));
        let proxy = FaultProxy::start(server, FaultPlan::healthy(), seed).map_err(trouble)?;
        let met = Arc::new(Mutex::new(Met::default()));
        let book = Arc::clone(&met);
        proxy.on_event(move |event| {
            // A fault that could not be done (a reply that was too short to cut) was not met.
            if let (Some(fault), true, false) = (event.fault, event.effective, event.late_copy) {
                let mut met = book.lock().unwrap_or_else(PoisonError::into_inner);
                *met.by_kind.entry(fault.name()).or_default() += 1;
                met.last = Some(fault.name());
            }
        });
        proxy.set_offline(true).map_err(trouble)?;
        Ok(Self { proxy, met })
    }

    /// Where the devices find the server, whenever they do.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}/sync", self.proxy.addr())
    }

    /// The network is back, and bad.
    pub(super) fn become_rough(&self) -> Result<(), Problem> {
        let (kinds, seed) = (chance::kinds_of_faults(), self.proxy.seed());
        self.proxy.set_plan(FaultPlan::by(move |request| chance::fault(&kinds, seed, request.turn)));
        self.proxy.set_offline(false).map_err(|error| Problem::new(format!("the fault proxy: {error}")))
    }

    /// Nothing passes, until it becomes rough again.
    pub(super) fn go_down(&self) -> Result<(), Problem> {
        self.proxy.set_offline(true).map_err(|error| Problem::new(format!("the fault proxy: {error}")))
    }

    /// From now on everything passes.
    pub(super) fn heal(&self) {
        self.proxy.set_plan(FaultPlan::healthy());
    }

    /// Delivers every duplicate that is still under way, late as it is.
    pub(super) fn deliver_late(&self) -> Result<(), Problem> {
        if self.proxy.flush_late(Duration::from_secs(10)) {
            Ok(())
        } else {
            Err(Problem::new("the fault proxy could not deliver its late duplicates"))
        }
    }

    /// The server was started again elsewhere.
    pub(super) fn lead_to(&self, server: SocketAddr) {
        self.proxy.set_upstream(server);
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.proxy.stats().requests
    }

    /// Faults so far.
    pub(super) fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A kind of fault in words.
pub(super) fn describe(kind: &str) -> String {
    let words = match kind {
        "reset_on_accept" => "connection reset before the request was read",
        "cut_request" => "request cut off on its way",
        "drop_reply_after_apply" => "applied, then the reply dropped",
        "cut_reply" => "applied, then the reply cut in the middle",
        "stall_mid_reply" => "applied, then the reply stalls and ends",
        "delay" => "request delayed",
        "delay_reply" => "reply delayed",
        "status_500" => "500, applied or not",
        "status_503_retry_after" => "503 with Retry-After in seconds",
        "status_503_retry_after_date" => "503 with Retry-After as a date",
        "status_429" => "429 too many requests",
        "captive_portal" => "captive portal: 200 with HTML",
        "redirect_302" => "302 to a login page elsewhere",
        "empty_200" => "200 with nothing, applied or not",
        "truncated_json" => "applied, then half of the JSON",
        "wrong_json" => "200 with JSON of another shape",
        "foreign_results" => "applied, results for other keys",
        "missing_results" => "applied, results missing",
        "reordered_results" => "applied, results in another order",
        "duplicate_request" => "request delivered twice",
        "late_duplicate" => "request delivered again later",
        "huge_body" => "reply without end",
        "garbage_bytes" => "bytes that are not HTTP",
        other => return other.replace('_', " "),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_words_of_its_own() {
        let kinds = chance::kinds_of_faults();
        let names: Vec<_> =
            kinds.iter().filter_map(|variants| variants.first()).map(|fault| fault.name()).collect();
        let words: std::collections::BTreeSet<_> = names.iter().map(|name| describe(name)).collect();
        assert_eq!(words.len(), names.len());
        assert!(names.iter().all(|name| describe(name) != name.replace('_', " ") || *name == "delay"));
    }
}
