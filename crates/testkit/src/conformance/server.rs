//! What protocol v1 asks of a server, one named check per rule, against any server that a [`Way`] leads to.
//!
//! The suite speaks requests and answers only: it does not know HTTP clients, tokens or how a server keeps its records.
//! Everything it makes has random ids, and [`run`] deletes it at the end. The rules are those of
//! `docs/writing-a-backend.md`. That each check notices a server that breaks its rule: `tests/broken_servers.rs`.

mod checks;
mod room;

pub use checks::CHECKS;

use room::Room;
use std::fmt;

/// On whose behalf a request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Ours, with the credentials that were given.
    Us,
    /// Nobody's: without credentials.
    Nobody,
    /// Somebody's whom the server cannot know: with a bearer token that was just made up.
    Stranger,
}

/// One request, as the suite wants it sent.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// What comes behind the endpoint's address, percent-encoded: nothing, or `/changes?limit=2`.
    pub path: String,
    /// The body, which is `application/json`.
    pub body: Option<String>,
    /// Who asks.
    pub who: Who,
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

/// When a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Once the server has begun to answer, before anybody reads it: it has done its work.
    WhenAnswered,
    /// Once the last byte of the request has left: whether the server does its work is open.
    AtOnce,
}

/// The way to the server. Must send each request exactly once (but for one that was refused with 429), and must not
/// follow redirects.
pub trait Way: Sync {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Why there is no whole answer, in words.
    fn ask(&self, ask: &Ask) -> Result<Answer, String>;

    /// Sends a whole request and cuts the connection; `false` when this way cannot cut there.
    ///
    /// # Errors
    /// Why the request could not be sent, or why there was no answer to cut off.
    fn cut(&self, ask: &Ask, when: Cut) -> Result<bool, String>;

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
#[derive(Debug)]
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
#[derive(Debug)]
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

/// Why a run was over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Every wanted check was looked at.
    Whole,
    /// Somebody asked to stop.
    Stopped,
    /// During the check of this name the server went out of reach, and why.
    Lost(&'static str, String),
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// One per check that came to an end, in order.
    pub findings: Vec<Finding>,
    /// Records that were made and deleted.
    pub cleaned: usize,
    /// Records (ids) that may be there still.
    pub left: Vec<String>,
    /// Whether all was looked at.
    pub end: End,
}

/// What to check.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The type of the records that are made.
    pub entity_type: &'a str,
    /// Which checks.
    pub checks: &'a dyn Fn(&Check) -> bool,
    /// Whether to stop now; asked before each request. What was made is deleted all the same.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("entity_type", &self.entity_type).finish_non_exhaustive()
    }
}

/// Runs the checks that are wanted, telling `progress` of each, and deletes the records that they made.
///
/// # Errors
/// When nothing at this address is read as a change feed; nothing was sent then but one reading of it.
pub fn run(
    way: &dyn Way,
    wanted: &Wanted<'_>,
    progress: &mut dyn FnMut(&Finding),
) -> Result<Outcome, String> {
    let room = Room::new(way, wanted.entity_type, wanted.stop);
    checks::begin(&room)?;
    let mut findings = Vec::new();
    let mut end = End::Whole;
    for check in CHECKS.iter().filter(|check| (wanted.checks)(check)) {
        if (wanted.stop)() {
            end = End::Stopped;
            break;
        }
        let seen = (check.look)(&room);
        if seen.is_err() && (wanted.stop)() {
            end = End::Stopped;
            break;
        }
        // A server that is gone keeps no rule and breaks none.
        if seen.is_err() {
            if let Err(why) = room.get("/changes?limit=1") {
                end = End::Lost(check.name, why);
                break;
            }
        }
        let finding = Finding { check, seen };
        progress(&finding);
        findings.push(finding);
    }
    let (cleaned, left) = if matches!(end, End::Lost(..)) { (0, room.left()) } else { room.clean() };
    Ok(Outcome { findings, cleaned, left, end })
}
