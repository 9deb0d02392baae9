//! The key of an encrypted store, and applying it (feature `sqlcipher`).
//!
//! A key is asked for when a connection is opened and wiped as soon as it was applied. It stands in no URL, log, error or
//! debug output: errors of the statement that carries it are replaced whole, because SQLite's own quote the statement.
//! Tests: `tests/encrypted.rs`.

use landfall_core::store::StoreError;
use rusqlite::{Connection, ffi};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What opens an encrypted store. Its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct SecretKey(Secret);

#[derive(Clone)]
enum Secret {
    Raw(Zeroizing<[u8; 32]>),
    Passphrase(Zeroizing<String>),
}

impl SecretKey {
    /// 32 bytes as they are, out of the keystore of the system for example. The best choice: opening costs nothing.
    pub fn raw(bytes: [u8; 32]) -> Self {
        Self(Secret::Raw(Zeroizing::new(bytes)))
    }

    /// Words of a person. Deriving the key from them takes SQLCipher some tenths of a second at every opening.
    pub fn passphrase(words: impl Into<String>) -> Self {
        Self(Secret::Passphrase(Zeroizing::new(words.into())))
    }

    /// The statement that applies it.
    fn statement(&self) -> Zeroizing<String> {
        // Room for all of it: what grows leaves copies behind.
        let mut sql = match &self.0 {
            Secret::Raw(_) => Zeroizing::new(String::with_capacity(100)),
            Secret::Passphrase(words) => Zeroizing::new(String::with_capacity(20 + 2 * words.len())),
        };
        match &self.0 {
            Secret::Raw(bytes) => {
                sql.push_str("PRAGMA key = \"x'");
                for byte in bytes.iter() {
                    write!(sql, "{byte:02x}").expect("a text takes everything");
                }
                sql.push_str("'\"");
            }
            Secret::Passphrase(words) => {
                sql.push_str("PRAGMA key = '");
                for letter in words.chars() {
                    if letter == '\'' {
                        sql.push('\'');
                    }
                    sql.push(letter);
                }
                sql.push('\'');
            }
        }
        sql
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// Why a key could not be had.
pub type KeyError = Box<dyn std::error::Error + Send + Sync>;

/// Where the key comes from, at each opening anew.
#[derive(Clone)]
pub(crate) struct KeySource(Arc<dyn Fn() -> Result<SecretKey, KeyError> + Send + Sync>);

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySource(..)")
    }
}

impl KeySource {
    pub(crate) fn new(ask: impl Fn() -> Result<SecretKey, KeyError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Applies the key to a connection with which nothing was done yet, and reads something to see that it is the right
    /// one.
    pub(crate) fn unlock(&self, connection: &Connection, path: &Path) -> Result<(), StoreError> {
        let failed = crate::error::failed;
        // A plain SQLite takes the key without a word and encrypts nothing.
        if connection.query_one("PRAGMA cipher_version", (), |_| Ok(())).is_err() {
            return Err(StoreError::Misuse(
                "the SQLite in this program cannot encrypt; another dependency may have brought its own"
                    .to_string(),
            ));
        }
        // It writes to standard error by itself.
        connection.execute_batch("PRAGMA cipher_log_level = NONE").map_err(failed)?;
        let key =
            (self.0)().map_err(|error| StoreError::Misuse(format!("the key cannot be had: {error}")))?;
        let applied = connection.execute_batch(&key.statement());
        drop(key);
        if applied.is_err() {
            return Err(StoreError::WrongKey(format!("{}: the key was not taken", path.display())));
        }
        let mut statement = match connection.prepare("SELECT 1 FROM sqlite_schema LIMIT 1") {
            Ok(statement) => statement,
            Err(error) => return Err(refused(error, path)),
        };
        let mut rows = statement.query(()).map_err(failed)?;
        rows.next().map(drop).map_err(|error| refused(error, path))
    }
}

fn refused(error: rusqlite::Error, path: &Path) -> StoreError {
    match error.sqlite_error().map(|error| error.extended_code & 0xff) {
        Some(ffi::SQLITE_NOTADB) => StoreError::WrongKey(path.display().to_string()),
        _ => crate::error::failed(error),
    }
}
