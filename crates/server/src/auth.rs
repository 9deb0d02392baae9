//! Who is asking: bearer tokens and the tenants they stand for.
//!
//! Tokens are kept as SHA-256 only; a token is compared with every entry, each in constant time, so how long it
//! takes says nothing about how close a guess was. Knows no HTTP beyond the header's value.
//! Tests: below, `tests/http.rs`.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Shortest token accepted from a token file: shorter ones can be guessed over the network.
const TOKEN_CHARS: usize = 16;

/// How requests are told apart. `Debug` shows no token.
#[derive(Clone, Default)]
pub struct Auth(Option<Vec<([u8; 32], String)>>);

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            None => f.write_str("Auth(open)"),
            Some(entries) => write!(f, "Auth({} tokens)", entries.len()),
        }
    }
}

/// A token file that cannot be used. Says the line, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It cannot be read.
    #[error("the token file cannot be read")]
    Io(#[from] std::io::Error),
    /// A line is not `token tenant`.
    #[error("line {0} of the token file is not `token tenant` (or `sha256:<64 hex digits> tenant`)")]
    Line(usize),
    /// A token that can be guessed.
    #[error("line {0} of the token file has a token of less than {TOKEN_CHARS} characters")]
    Short(usize),
    /// A token stands for two tenants.
    #[error("line {0} of the token file repeats a token")]
    Twice(usize),
    /// No token at all: nobody could ever use the server.
    #[error("the token file has no token")]
    Empty,
}

impl Auth {
    /// No tokens: everybody is tenant `default`. For one's own machine.
    pub fn open() -> Self {
        Self(None)
    }

    /// Reads a token file: lines `token tenant` or `sha256:<hex> tenant`; `#` begins a comment line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, AuthError> {
        Self::from_text(&std::fs::read_to_string(path)?)
    }

    /// The same from text.
    pub fn from_text(text: &str) -> Result<Self, AuthError> {
        let mut entries: Vec<([u8; 32], String)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (token, tenant) = line.split_once(char::is_whitespace).ok_or(AuthError::Line(at + 1))?;
            let tenant = tenant.trim();
            if tenant.is_empty() || tenant.contains(char::is_whitespace) {
                return Err(AuthError::Line(at + 1));
            }
            let hash = match token.strip_prefix("sha256:") {
                Some(hex) => from_hex(hex).ok_or(AuthError::Line(at + 1))?,
                None if token.len() < TOKEN_CHARS => return Err(AuthError::Short(at + 1)),
                None => Sha256::digest(token).into(),
            };
            if entries.iter().any(|(known, _)| *known == hash) {
                return Err(AuthError::Twice(at + 1));
            }
            entries.push((hash, tenant.to_owned()));
        }
        if entries.is_empty() { Err(AuthError::Empty) } else { Ok(Self(Some(entries))) }
    }

    /// Whether anybody may come in.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The tenant behind the value of an `Authorization` header; `None` is a 401.
    pub fn tenant(&self, header: Option<&[u8]>) -> Option<&str> {
        let Some(entries) = &self.0 else { return Some("default") };
        let (scheme, token) = header?.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        let mut found = None;
        for (known, tenant) in entries {
            if same(known, &hash) {
                found = Some(tenant.as_str());
            }
        }
        found
    }
}

/// Compares all bytes whatever the first ones are.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    std::hint::black_box(difference) == 0
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_its_tenant_and_nothing_else_does() {
        // SHA-256 of "another-long-token".
        let hex: String =
            Sha256::digest("another-long-token").iter().map(|byte| format!("{byte:02x}")).collect();
        let auth =
            Auth::from_text(&format!("# file\n\n0123456789abcdef  anna\nsha256:{hex} bert\n")).unwrap();
        for (header, tenant) in [
            ("Bearer 0123456789abcdef", Some("anna")),
            ("bearer  0123456789abcdef ", Some("anna")),
            ("Bearer another-long-token", Some("bert")),
            ("Bearer 0123456789abcde", None),
            ("Bearer 0123456789abcdef0", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic 0123456789abcdef", None),
            ("0123456789abcdef", None),
            ("", None),
        ] {
            assert_eq!(auth.tenant(Some(header.as_bytes())), tenant, "{header:?}");
        }
        assert_eq!(auth.tenant(None), None);
        assert_eq!(Auth::open().tenant(None), Some("default"));
        assert!(!format!("{auth:?}").contains("0123"));
    }

    #[test]
    fn a_bad_token_file_is_refused_by_line() {
        for (text, problem) in [
            ("", "no token"),
            ("# only a comment", "no token"),
            ("0123456789abcdef", "line 1"),
            ("\n0123456789abcdef a b", "line 2"),
            ("short anna", "less than"),
            ("sha256:00 anna", "line 1"),
            ("0123456789abcdef a\n0123456789abcdef b", "repeats"),
        ] {
            let message = Auth::from_text(text).unwrap_err().to_string();
            assert!(message.contains(problem), "{text:?}: {message}");
        }
    }
}
