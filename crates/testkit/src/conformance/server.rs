//! What protocol v1 asks of a server, one named check per rule, against any server that a [`Way`] leads to.
//!
//! The suite speaks requests and answers only: it does not know HTTP clients, tokens or how a server keeps its records.
//! Everything it makes has random ids, and [`run`] deletes it at the end. The rules are those of
//! `docs/writing-a-backend.md`. That each check notices a server that breaks its rule: `tests/broken_servers.rs`.

mod checks;
mod room;

pub use checks::CHECKS;
pub use room::Room;

/// One request, as the suite wants it sent.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// What comes behind the endpoint's address, percent-encoded: nothing, or `/changes?limit=2`.
    pub path: String,
    /// The body, which is `application/json`.
    pub body: Option<String>,
    /// Whether to say who is asking.
    pub with_credentials: bool,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Content-Type`, or nothing.
    pub content_type: String,
    /// The whole body.
    pub body: String,
}

/// The way to the server. Must send each request exactly once, and must not follow redirects.
pub trait Way: Sync {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Why there is no whole answer, in words.
    fn ask(&self, ask: &Ask) -> Result<Answer, String>;

    /// Whether there are credentials to leave out; without, whether the server asks for any is not checked.
    fn has_credentials(&self) -> bool {
        false
    }
}

/// How much hangs on a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Without it clients lose, double or mix up changes.
    Must,
    /// Without it clients work, worse.
    Should,
}

/// A rule and how to look at it.
pub struct Check {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// How much hangs on it.
    pub level: Level,
    /// The rule in a sentence.
    pub rule: &'static str,
    /// The section of `docs/writing-a-backend.md` where it is written.
    pub written: &'static str,
    /// What to do when it does not hold.
    pub mend: &'static str,
    /// Looks: what was seen, or what was seen instead.
    look: fn(&Room<'_>) -> Result<Seen, String>,
}

/// What a check saw that did not fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The rule holds.
    Held(String),
    /// There was nothing to look at, and why.
    Skipped(String),
}

/// A check and its end.
pub struct Finding {
    /// Which.
    pub check: &'static Check,
    /// What was seen; the error is what was seen instead.
    pub seen: Result<Seen, String>,
}

impl Finding {
    /// Whether a must-rule is broken.
    pub fn is_broken_must(&self) -> bool {
        self.seen.is_err() && self.check.level == Level::Must
    }
}

/// How a run ended.
pub struct Outcome {
    /// One per check that ran, in order.
    pub findings: Vec<Finding>,
    /// Records that were made and deleted.
    pub cleaned: usize,
    /// Records (ids) that could not be deleted.
    pub left: Vec<String>,
}

/// Runs the checks that are wanted, telling `progress` of each, and deletes the records that they made.
///
/// # Errors
/// When the server cannot be reached at all; nothing was sent then but one reading of the feed.
pub fn run(
    way: &dyn Way,
    entity_type: &str,
    wanted: &dyn Fn(&Check) -> bool,
    progress: &mut dyn FnMut(&Finding),
) -> Result<Outcome, String> {
    let room = Room::new(way, entity_type);
    room.get("/changes?limit=1")?;
    let mut findings = Vec::new();
    for check in CHECKS.iter().filter(|check| wanted(check)) {
        let finding = Finding { check, seen: (check.look)(&room) };
        progress(&finding);
        findings.push(finding);
    }
    let (cleaned, left) = room.clean();
    Ok(Outcome { findings, cleaned, left })
}
