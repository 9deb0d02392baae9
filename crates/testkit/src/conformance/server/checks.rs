//! The checks, one function per rule. Each makes its own records and stands alone.
//!
//! Here are the table and what the checks share; the functions are in the submodules. They look only at what a client relies on:
//! a server may add fields and members of its own, order its results as it likes and page as it likes.

mod effects;
mod feed;
mod repeats;
mod wholes;

use super::room::{Room, cut, parsed};
use super::{Check, Level, Seen};
use effects::{
    base_version, create_on_live, exact_values, groups, not_found, only_named, order, poison, replace_whole,
    same_name_twice, tombstone, unknown_members, versions_move,
};
use feed::{cursor_expired, feed_again, feed_at_once, feed_whole};
use repeats::{cut_off, key_reused, lost_reply, refusals_remembered, same_key_at_once};
use wholes::{credentials, epochs, other_protocol, ping, server_identity, too_large, unreadable};

type Look = Result<Seen, String>;

macro_rules! checks {
    ($($look:ident, $level:ident, $written:literal, $rule:literal, $mend:literal;)*) => {
        /// All checks, in the order they run.
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($look), level: Level::$level, written: $written, rule: $rule, mend: $mend, look: $look,
        }),*];
    };
}

checks! {
    ping, Should, "The ping", "The ping proves who answers.", "Answer GET /ping?nonce=… with the SHA-256 of nonce and the word `landfall`, without asking for a token.";
    lost_reply, Must, "The ten rules, 1 and 2", "A request sent again after its answer was lost has one effect.", "Look the key up before anything else, in the transaction of the effect.";
    cut_off, Must, "The ten rules, 1 and 2", "A request whose connection breaks before there is an answer has one effect, once it is repeated.", "Commit effect and key together, or neither; a request that is broken off may do both or nothing.";
    key_reused, Must, "The ten rules, 2", "A key with another content is rejected and has no effect.", "Store a fingerprint of the content with the key and compare it.";
    refusals_remembered, Must, "The ten rules, 3", "Conflicts and rejections stay what they were under their key.", "Store the keys of `conflict` and `rejected` verdicts too.";
    same_key_at_once, Must, "Keys and fingerprints", "One key from many connections at once has one effect.", "Let a unique index on (tenant, key) decide; the loser waits or answers `retry`.";
    base_version, Must, "The ten rules, 4", "A task on an outdated base conflicts, shows the record as it is, and has no effect.", "Compare base_version in the transaction of the write.";
    create_on_live, Must, "What a task does", "A create of a record that is there conflicts.", "Do not make an upsert of it.";
    only_named, Must, "The ten rules, 5", "An update changes what it names and nothing else.", "Merge fields and unset into the record; do not replace the row.";
    replace_whole, Must, "What a task does", "A replace leaves exactly its fields.", "Take the record's old fields away.";
    order, Must, "The ten rules, 6", "A batch takes effect in the order of its tasks.", "Work through `tasks` from first to last.";
    poison, Must, "What a task does", "A bad task in a good request is rejected and the others go on.", "Judge each task alone; 400 is for requests that cannot be read.";
    tombstone, Must, "What a task does", "A deleted record leaves a tombstone that updates conflict with; a create brings it back.", "Keep a row with the version and no fields.";
    not_found, Must, "What a task does", "An update of what never existed is rejected with not_found, and nothing is made.", "Only upsert, create and replace make records.";
    versions_move, Must, "What a task does", "Each applied change gives its record a new version.", "Take the next number for each change.";
    feed_whole, Must, "Versions and the change feed", "Page after page, the feed gives every record once and says when it ends.", "Order by version, begin behind the cursor, say has_more only if there is more.";
    feed_at_once, Must, "Versions and the change feed", "A reader who goes on while others write misses nothing.", "Take version numbers under a lock that is held until the commit (\"The trap\").";
    feed_again, Must, "Versions and the change feed", "A cursor can be read again, and a later change or a delete comes behind it.", "Cursors are positions, not sessions; tombstones are in the feed.";
    cursor_expired, Must, "Versions and the change feed", "A cursor that cannot be continued is answered 410 cursor_expired.", "Never begin elsewhere in silence.";
    exact_values, Must, "The ten rules, 8", "Values come back exactly as they came.", "Keep the JSON text; no doubles, no normalisation.";
    same_name_twice, Must, "The ten rules, 8", "Fields with the same name twice are refused.", "Have the JSON reader refuse them, before anything is stored.";
    groups, Must, "What a task does", "Tasks of a group take effect together or not at all, and a repeat of the group is a duplicate.", "Undo the members before the one that failed; answer them retry, group_aborted.";
    server_identity, Must, "Who speaks to whom", "Another server_id is refused with server_changed; a client that knows us and is unknown with client_unknown; nothing remains.", "Judge server_id before the tasks.";
    epochs, Must, "Who speaks to whom", "A lower epoch than was seen is refused with client_superseded, and nothing remains; a higher one goes on.", "Remember the highest epoch per client.";
    other_protocol, Must, "Who speaks to whom", "Another protocol version is refused with unsupported_protocol.", "Look at `protocol` first.";
    unknown_members, Must, "What a task does", "Members that are not known are ignored.", "Do not deny unknown fields.";
    unreadable, Must, "Errors", "A body that is not JSON is refused with a problem document.", "Answer 400, application/problem+json, code malformed.";
    too_large, Must, "Errors", "A large batch is answered in full or refused as a whole with a problem, and then nothing of it remains.", "Answer 413 too_large before any task has an effect; clients then send less at once.";
    credentials, Must, "Security", "Without a token, or with one that is not known, nobody reads or writes.", "Answer 401 unauthorized on all routes but the ping.";
}

fn held(text: impl Into<String>) -> Look {
    Ok(Seen::Held(text.into()))
}

/// Whether there is a change feed at all.
pub(super) fn begin(room: &Room<'_>) -> Result<(), String> {
    let answer = room.get("/changes?limit=1")?;
    if answer.status != 200 {
        return Err(format!("GET /changes was answered {}: {}", answer.status, cut(&answer.body)));
    }
    if !parsed(&answer)?["changes"].is_array() {
        return Err(format!("GET /changes is not answered with a page of changes: {}", cut(&answer.body)));
    }
    Ok(())
}
