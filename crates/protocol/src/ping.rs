//! The ping: is it really the backend that answers? Shapes, and the proof that both sides work out.
//!
//! The client draws a nonce and expects another text made from it. Whatever stands in between and answers with a page
//! of its own, with the address it was asked for, or with something it kept, does not have that text. It is no secret:
//! who writes a program for this protocol can answer, and over plain HTTP only TLS would stop it. Tests: below.

use alloc::format;
use alloc::string::String;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The answer 200 to `GET {endpoint}/ping?nonce=…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The version of the protocol, here 1.
    pub protocol: u32,
    /// [`ping_proof`] of the nonce.
    pub proof: String,
    /// The backend's name for itself, if it likes to tell it to anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
}

/// What stands behind the nonce when the proof is made, so that no other use of the same hash gives the same text.
const PROOF_SUFFIX: &str = "landfall";

/// The nonce as it is sent: 32 lower-case hexadecimal digits.
pub fn ping_nonce(nonce: &[u8; 16]) -> String {
    hex(nonce)
}

/// Whether a text can be a nonce: 32 lower-case hexadecimal digits.
pub fn is_ping_nonce(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The proof for a nonce as it was sent: SHA-256 of its 32 characters followed by `landfall`, in 64 lower-case
/// hexadecimal digits.
///
/// ```
/// let proof = landfall_protocol::ping_proof("00112233445566778899aabbccddeeff");
/// assert_eq!(proof, "cee13e1a2479da2ab4549465562010e3d472d34ec09238d257570d72d5418e2e");
/// ```
pub fn ping_proof(nonce: &str) -> String {
    hex(&Sha256::new().chain_update(nonce).chain_update(PROOF_SUFFIX).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_lower_case_hexadecimal_digits_are_a_nonce() {
        let nonce = ping_nonce(&[0xaf; 16]);
        assert_eq!(nonce, "afafafafafafafafafafafafafafafaf");
        assert!(is_ping_nonce(&nonce));
        let longer = format!("{nonce}0");
        let upper = nonce.to_ascii_uppercase();
        for text in [
            "",
            "0",
            &nonce[1..],
            &longer,
            &upper,
            "g0000000000000000000000000000000",
            "é000000000000000000000000000000",
        ] {
            assert!(!is_ping_nonce(text), "{text}");
        }
    }

    #[test]
    fn the_proof_does_not_hold_the_nonce_and_is_another_for_each() {
        let proofs = [[0_u8; 16], [1; 16], [255; 16]].map(|nonce| {
            let nonce = ping_nonce(&nonce);
            let proof = ping_proof(&nonce);
            assert!(proof.len() == 64 && !proof.contains(&nonce));
            proof
        });
        assert!(proofs[0] != proofs[1] && proofs[1] != proofs[2]);
    }

    #[test]
    fn an_answer_without_its_proof_is_an_error() {
        for text in
            [r#"{"protocol":1}"#, r#"{"proof":"x"}"#, r#"{"protocol":"1","proof":"x"}"#, "{}", "null", "[]"]
        {
            assert!(serde_json::from_str::<Pong>(text).is_err(), "{text}");
        }
        let pong: Pong = serde_json::from_str(r#"{"protocol":1,"proof":"x","later":[]}"#).unwrap();
        assert_eq!(serde_json::to_string(&pong).unwrap(), r#"{"protocol":1,"proof":"x"}"#);
    }
}
