//! What a backend said, made fit to be shown: without credentials, without control characters, no longer than wanted.
//!
//! A backend may echo what it was sent, in whatever form its page has: as it is, escaped for JSON or HTML, encoded for
//! an address, or only the beginning of it. This module knows neither statuses nor tasks. Tests: below.

use super::auth::REDACTED;

/// Most characters of an answer that are kept, the mark of a cut included: some thirty lines, enough to see what
/// happened, and little beside the task it is kept with.
const ANSWER_CHARS_MAX: usize = 2000;
/// Ends an answer that was longer.
const CUT: &str = " [cut]";
/// A shorter text is no secret; replacing it would only spoil words.
const SECRET_CHARS_MIN: usize = 6;
/// So many characters of a secret give it away as such when the rest is missing.
const BEGINNING_CHARS: usize = 12;

/// What must not be shown: the values of the headers that went out, and their words.
#[derive(Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Of a request that carried these headers.
    pub(crate) fn of(headers: &[(String, String)]) -> Self {
        let mut secrets = Vec::new();
        for (_, value) in headers {
            secrets.push(value.clone());
            // `Bearer x` is also echoed as `x`.
            secrets.extend(value.split([' ', '=', ';', ',']).map(str::to_owned));
            let login = value.strip_prefix("Basic ").and_then(|login| from_base64(login.trim()));
            if let Some(login) = login {
                secrets.extend(login.split_once(':').map(|(_, password)| password.to_owned()));
                secrets.push(login);
            }
        }
        secrets.retain(|secret| secret.chars().count() >= SECRET_CHARS_MIN && secret != "Bearer");
        secrets.sort_unstable();
        secrets.dedup();
        Self(secrets)
    }

    /// At most so many characters of a text.
    pub(crate) fn shown(&self, text: &str, most: usize) -> String {
        self.first(text, most).0
    }

    /// An answer's text as it is kept; `None` when it says nothing. Says so when it is cut.
    pub(crate) fn answer(&self, text: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(text);
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        match self.first(text, ANSWER_CHARS_MAX) {
            (whole, true) => Some(whole),
            (_, false) => {
                let (mut cut, _) = self.first(text, ANSWER_CHARS_MAX - CUT.len());
                cut.push_str(CUT);
                Some(cut)
            }
        }
    }

    /// The beginning of a text, and whether that is all of it. Cut after the replacing, never before: half a credential
    /// would not be recognised.
    fn first(&self, text: &str, most: usize) -> (String, bool) {
        let mut shown = String::new();
        let (mut count, mut at) = (0, 0);
        while let Some(c) = text[at..].chars().next() {
            // The longest, so that no end of one remains behind a beginning that is also another.
            let found = self.0.iter().filter_map(|secret| echoed(&text[at..], secret)).max();
            let piece = match (found, c) {
                (Some(bytes), _) => {
                    at += bytes;
                    REDACTED.to_owned()
                }
                (None, c) => {
                    at += c.len_utf8();
                    visible(c)
                }
            };
            count += piece.chars().count();
            if count > most {
                return (shown, false);
            }
            shown.push_str(&piece);
        }
        (shown, true)
    }
}

/// A character that breaks no line and moves no cursor.
fn visible(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' => " ".to_owned(),
        // Marks of direction make a text look like another.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            c.escape_unicode().to_string()
        }
        c if c.is_control() => c.escape_unicode().to_string(),
        c => c.to_string(),
    }
}

/// How many bytes at the beginning of `text` are `secret`, or enough of its beginning, in one of the usual encodings.
fn echoed(text: &str, secret: &str) -> Option<usize> {
    // A `%`, `&` or `\` of the secret itself may be encoded or not: each way is tried for the whole.
    [true, false].into_iter().find_map(|encoded_first| {
        let (mut at, mut chars) = (0, 0);
        for c in secret.chars() {
            let rest = &text[at..];
            let plain = rest.starts_with(c).then(|| c.len_utf8());
            let length = if encoded_first { encoded(rest, c).or(plain) } else { plain.or(encoded(rest, c)) };
            match length {
                Some(length) => at += length,
                None if chars >= BEGINNING_CHARS => break,
                None => return None,
            }
            chars += 1;
        }
        Some(at)
    })
}

/// How many bytes at the beginning of `text` are `c` as JSON, HTML or an address may write it.
fn encoded(text: &str, c: char) -> Option<usize> {
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
    if let Some(escape) = text.strip_prefix('\\') {
        if let Some(digits) = escape.strip_prefix('u').and_then(|rest| rest.get(..4)) {
            return (hex(digits)? == c).then_some(6);
        }
        return (matches!(c, '/' | '"' | '\\') && escape.starts_with(c)).then_some(2);
    }
    if let Some(digits) = text.strip_prefix('%').and_then(|rest| rest.get(..2)) {
        return (hex(digits)? == c).then_some(3);
    }
    let entity = text.strip_prefix('&')?;
    let name = &entity[..entity.find(';').filter(|end| *end <= 8)?];
    let found = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => match name.strip_prefix('#')? {
            number if number.starts_with(['x', 'X']) => hex(&number[1..])?,
            number => number.parse().ok().and_then(char::from_u32)?,
        },
    };
    (found == c).then_some(name.len() + 2)
}

/// Text in base64; `None` when it is not that, or not UTF-8.
fn from_base64(text: &str) -> Option<String> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &str) -> Secrets {
        Secrets::of(&[("authorization".into(), format!("Bearer {token}"))])
    }

    #[test]
    fn an_echoed_credential_is_taken_out_in_every_form() {
        let token = "can/ary+7%25&\"\\=x.tail";
        let secrets = bearer(token);
        let json = serde_json::to_string(token).unwrap();
        let html =
            token.replace('&', "&amp;").replace('"', "&quot;").replace('/', "&#x2F;").replace('=', "&#61;");
        let address = token.replace('%', "%25").replace('/', "%2F").replace('+', "%2B").replace('&', "%26");
        for echo in [
            token.to_owned(),
            format!("Bearer {token}"),
            json.clone(),
            json.replace('/', "\\/").replace('+', "\\u002B"),
            html,
            address,
            "only can/ary+7%25&\"".to_owned(),
        ] {
            let shown = secrets.shown(&format!("<{echo}>"), 500);
            for part in ["can", "ary", "tail"] {
                assert!(!shown.contains(part), "{echo} is shown as {shown}");
            }
            assert!(shown.starts_with('<') && shown.ends_with('>') && shown.contains(REDACTED), "{shown}");
        }
        assert_eq!(secrets.shown("Bearer tokens expire, canary", 500), "Bearer tokens expire, canary");
        let cookies = Secrets::of(&[(
            "cookie".into(),
            "a=canary1; b=canary1-and-tail; c=Bearer canary1-and-tail9".into(),
        )]);
        let shown = cookies.shown("<canary1> <canary1-and-tail> <Bearer canary1-and-tail9>", 500);
        assert_eq!(shown, "<[redacted]> <[redacted]> <Bearer [redacted]>");
        let basic = Secrets::of(&[("authorization".into(), "Basic YW5uYTpodW50ZXIyYQ==".into())]);
        for echo in ["no hunter2a here", "YW5uYTpodW50ZXIyYQ==", "YW5uYTpodW50ZXIyYQ", "anna:hunter2a"] {
            let shown = basic.shown(echo, 500);
            assert!(!shown.contains("hunter") && !shown.contains("YW5u"), "{shown}");
        }
    }

    #[test]
    fn a_cut_never_leaves_half_a_credential() {
        let secrets = bearer("canary-0123456789");
        for before in 0..60 {
            let text = format!("{}canary-0123456789", "x".repeat(before));
            for most in 0..60 {
                let shown = secrets.shown(&text, most);
                assert!(shown.chars().count() <= most && !shown.contains("ca"), "{shown}");
            }
        }
    }

    #[test]
    fn an_answer_is_bounded_and_says_when_it_is_cut() {
        let secrets = Secrets::default();
        for (text, whole) in
            [("ä".repeat(2000), true), ("ä".repeat(2001), false), ("\u{1}".repeat(1999), false)]
        {
            let answer = secrets.answer(text.as_bytes()).unwrap();
            assert!(answer.chars().count() <= 2000, "{}", answer.len());
            assert_eq!(answer.ends_with("[cut]"), !whole);
            assert_eq!(answer == text, whole);
        }
        for nothing in [b"".as_slice(), b" \r\n"] {
            assert_eq!(secrets.answer(nothing), None);
        }
        assert_eq!(secrets.answer(b"\xff\xfe!").as_deref(), Some("\u{fffd}\u{fffd}!"));
    }

    #[test]
    fn what_would_disturb_a_terminal_is_made_visible() {
        let text = "a\r\nb\tc\u{1b}[2Jd\0\u{7f}\u{9b}\u{202e}e";
        let shown = Secrets::default().shown(text, 100);
        assert_eq!(shown, r"a  b c\u{1b}[2Jd\u{0}\u{7f}\u{9b}\u{202e}e");
    }

    #[test]
    fn any_text_is_shown_without_a_panic() {
        let secrets = bearer("&#x;%\\u12é𝄞&;&#99999999;");
        let pieces = ["&", "#", "x", ";", "%", "\\", "u", "é", "𝄞", "12", "&#x;", "Bearer ", "%2", "\\u00e9"];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            assert!(secrets.shown(&text, 9).chars().count() <= 9);
        }
    }
}
