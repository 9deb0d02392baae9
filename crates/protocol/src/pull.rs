//! The change feed and single records. Shapes only; how a feed stays gapless is in `docs/writing-a-backend.md`.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::Fields;

/// The answer 200 to `GET {endpoint}/changes?cursor=…&limit=…`: records changed after the cursor, oldest change first.
///
/// Each record stands at its newest version only; a record changed again moves behind the cursor it was read at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesPage {
    /// The changed records, tombstones included.
    pub changes: Vec<Record>,
    /// Where the next page begins; opaque. Stored by the client together with the page.
    pub cursor: String,
    /// Whether the next page would hold something already now.
    pub has_more: bool,
}

/// One record as the backend has it: a member of [`ChangesPage`] and the answer of the entity route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// First half of the identity.
    pub entity_type: String,
    /// Second half of the identity.
    pub entity_id: String,
    /// Version, opaque to the client.
    pub version: String,
    /// A tombstone: the record was deleted at `version`.
    #[serde(default)]
    pub deleted: bool,
    /// All fields; absent for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_record_without_fields_differs_from_a_tombstone() {
        let live = r#"{"entity_type":"note","entity_id":"1","version":"3","deleted":false,"fields":{}}"#;
        let gone = r#"{"entity_type":"note","entity_id":"1","version":"4","deleted":true}"#;
        for text in [live, gone] {
            let record: Record = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
        }
    }

    #[test]
    fn a_page_without_its_end_marker_is_an_error() {
        let cut = r#"{"changes":[],"cursor":"3"}"#;
        assert!(serde_json::from_str::<ChangesPage>(cut).is_err(), "has_more is the end marker");
    }
}
