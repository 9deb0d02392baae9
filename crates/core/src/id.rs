//! Names of things: entities, tasks, clients, keys, versions.
//!
//! Every identifier that leaves the process is made of random or derived bits; none comes from a row number.
//! This module does not know how identifiers are stored. Tests: at the end of the file.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// One record of the app: a type and an id, two strings that are never joined into one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityKey {
    /// The kind of record, such as `note`.
    pub entity_type: String,
    /// The record's id within its type.
    pub entity_id: String,
}

impl EntityKey {
    /// Names an entity. Whether the two strings are acceptable is checked when a change is enqueued.
    pub fn new(entity_type: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self { entity_type: entity_type.into(), entity_id: entity_id.into() }
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.entity_type.escape_debug(), self.entity_id.escape_debug())
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Which change of an entity a task carries: 1 for the first, one more for each new task.
pub type Generation = u64;

/// Deterministic id of a task: UUIDv5 over client, entity and generation.
///
/// The same intent always gets the same id and two intents never share one, because the parts are length-prefixed
/// before they are hashed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

/// The namespace of task ids; a fixed random UUID of this project.
const TASK_NAMESPACE: Uuid = Uuid::from_u128(0x6c61_6e64_6661_6c6c_8f3a_51d2_97b0_4e11);

impl TaskId {
    /// Derives the id of the `generation`-th task of `entity` on `client`.
    pub fn derive(client: ClientId, entity: &EntityKey, generation: Generation) -> Self {
        let mut name = alloc::vec::Vec::with_capacity(48 + entity.entity_type.len() + entity.entity_id.len());
        for part in [
            client.0.as_bytes().as_slice(),
            entity.entity_type.as_bytes(),
            entity.entity_id.as_bytes(),
            &generation.to_be_bytes(),
        ] {
            name.extend_from_slice(&(part.len() as u64).to_be_bytes());
            name.extend_from_slice(part);
        }
        Self(Uuid::new_v5(&TASK_NAMESPACE, &name))
    }

    /// Reads the usual hyphenated form.
    ///
    /// # Errors
    /// The text is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
    }
}

/// Random id of this replica, made at first open and stored with the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub Uuid);

impl ClientId {
    /// Reads the usual hyphenated form.
    ///
    /// # Errors
    /// The text is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
    }
}

/// Names one conflict. Random, so that it can be shown, typed and sent without telling anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConflictId(pub Uuid);

impl ConflictId {
    /// Reads the usual hyphenated text form.
    ///
    /// # Errors
    /// The text is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
    }
}

/// A text that is not an identifier of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identifier")]
pub struct InvalidId;

macro_rules! uuid_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
    )*};
}
uuid_text!(TaskId, ClientId, ConflictId);

/// The secret-free random name of one frozen payload: 16 bytes, written as 32 hexadecimal digits.
///
/// A key is stored before the first byte of its payload leaves, and is never seen with another payload (G8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(pub [u8; 16]);

impl IdempotencyKey {
    /// Reads 32 hexadecimal digits.
    ///
    /// # Errors
    /// The text has another length or other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(InvalidId);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Result<u8, InvalidId> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(InvalidId),
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of the exact bytes that are sent under a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

macro_rules! opaque_text {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self { Self(text.into()) }
        }
    )*};
}
opaque_text!(
    /// A record's version as the backend names it. Opaque: compared for equality, never computed with.
    Version,
    /// The backend's position in its change feed. Opaque.
    Cursor,
    /// The name that a backend's database gives itself, so that another one behind the same address is noticed.
    ServerId
);

/// One request to the adapter. Numbers are unique within one opened machine and never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// Fencing number of a lease: grows by one with each new holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// 32 fresh random bytes that one step may turn into identifiers.
///
/// The machine has no source of randomness of its own: whoever drives it passes this in, so a run can be replayed.
#[derive(Clone, Copy)]
pub struct Entropy(pub [u8; 32]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}

impl Entropy {
    /// Derives 16 bytes for one purpose; another `purpose` or `subject` gives unrelated bytes.
    pub fn derive(&self, purpose: &str, subject: &[u8]) -> [u8; 16] {
        let digest = Sha256::new()
            .chain_update(self.0)
            .chain_update((purpose.len() as u64).to_be_bytes())
            .chain_update(purpose)
            .chain_update(subject)
            .finalize();
        let mut out = [0; 16];
        out.copy_from_slice(&digest[..16]);
        out
    }

    /// A random (version 4) UUID for `purpose`.
    pub fn uuid(&self, purpose: &str) -> Uuid {
        uuid::Builder::from_random_bytes(self.derive(purpose, b"")).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn client() -> ClientId {
        ClientId(Uuid::from_u128(7))
    }

    #[test]
    fn the_same_intent_gets_the_same_task_id() {
        let entity = EntityKey::new("note", "n1");
        assert_eq!(TaskId::derive(client(), &entity, 1), TaskId::derive(client(), &entity, 1));
        assert_ne!(TaskId::derive(client(), &entity, 1), TaskId::derive(client(), &entity, 2));
    }

    #[test]
    fn no_two_entities_share_a_task_id_however_their_names_are_cut() {
        let a = TaskId::derive(client(), &EntityKey::new("ab", "c"), 1);
        let b = TaskId::derive(client(), &EntityKey::new("a", "bc"), 1);
        assert_ne!(a, b);
    }

    #[test]
    fn a_key_reads_back_what_it_writes_and_refuses_the_rest() {
        let key = IdempotencyKey([0xa5; 16]);
        assert_eq!(IdempotencyKey::parse(&key.to_string()), Ok(key));
        for bad in ["", "a5", "A5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "zza5a5a5a5a5a5a5a5a5a5a5a5a5a5a5"] {
            assert_eq!(IdempotencyKey::parse(bad), Err(InvalidId));
        }
    }

    #[test]
    fn a_fingerprint_is_shown_by_its_first_digits_and_entropy_not_at_all() {
        let shown = alloc::format!("{:?}", Fingerprint::of(b""));
        assert_eq!(shown, "e3b0c442", "as every other program shows the SHA-256 of nothing");
        assert_eq!(alloc::format!("{:?}", Entropy([7; 32])), "Entropy(..)", "ids are made of it");
        assert_eq!(alloc::format!("{:?}", IdempotencyKey([0xa5; 16])), "a5".repeat(16), "a key is no secret");
    }

    #[test]
    fn a_record_is_shown_in_one_line_whatever_its_names_hold() {
        let key = EntityKey::new("note", "a\nb\u{202e}");
        for shown in [key.to_string(), alloc::format!("{key:?}")] {
            assert_eq!(shown, "note a\\nb\\u{202e}");
        }
    }
}
