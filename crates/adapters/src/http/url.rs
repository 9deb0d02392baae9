//! Addresses: what may be an endpoint, and how names become path segments.
//!
//! Pure text; this module opens nothing. It keeps every record name inside its own path segment, whatever
//! characters it has. Tests: below.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a text is not acceptable as an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndpointError {
    /// Neither `http://` nor `https://`.
    #[error("the endpoint must begin with https:// (or http:// for this machine)")]
    Scheme,
    /// A user name or password in the address: it would be logged and stored with it.
    #[error("the endpoint must not contain credentials; give them through the headers provider")]
    Credentials,
    /// A query or fragment, which cannot be extended by paths.
    #[error("the endpoint must not have a query or a fragment")]
    QueryOrFragment,
    /// No host, or one with characters that hosts do not have.
    #[error("the endpoint's host is missing or not valid (international names in their xn-- form)")]
    Host,
    /// Not a port number.
    #[error("the endpoint's port is not a number from 1 to 65535")]
    Port,
    /// A path with characters that must be percent-encoded, or with `.` or `..` segments.
    #[error("the endpoint's path must be percent-encoded and without . and .. segments")]
    Path,
    /// Unencrypted to another machine.
    #[error("plain http is only for this machine; use https, or allow it explicitly for a trusted network")]
    Insecure,
    /// Nobody to send requests with: the crate was built without its default transport.
    #[error("no HTTP transport: enable the feature `ureq` or set a transport")]
    NoTransport,
}

/// A checked base address, without a trailing slash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint(String);

impl Endpoint {
    /// Checks an address. Plain http is refused unless the host is this machine (`localhost`, `127.0.0.0/8`, `::1`)
    /// or `allow_insecure` is set.
    ///
    /// # Errors
    /// [`EndpointError`]. Messages do not repeat the address, which may hold a password.
    pub fn parse(text: &str, allow_insecure: bool) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Scheme)?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "https" && scheme != "http" {
            return Err(EndpointError::Scheme);
        }
        if rest.contains(['?', '#']) {
            return Err(EndpointError::QueryOrFragment);
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let host = check_authority(authority)?;
        if scheme == "http" && !allow_insecure && !is_this_machine(&host) {
            return Err(EndpointError::Insecure);
        }
        let path = path.trim_end_matches('/');
        check_path(path)?;
        Ok(Self(format!("{scheme}://{}{path}", authority.to_ascii_lowercase())))
    }

    /// The address itself. A bare host gets the path `/`.
    pub fn url(&self) -> String {
        let bare = self.0.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
        if bare { format!("{}/", self.0) } else { self.0.clone() }
    }

    /// Whether nobody can stand in between unseen: https, where the certificate would tell, or this machine.
    pub fn proves_itself(&self) -> bool {
        !self.0.starts_with("http://") || self.is_local()
    }

    /// Whether it is on this machine (`localhost`, `127.0.0.0/8`, `::1`): no network is needed to reach it.
    pub fn is_local(&self) -> bool {
        let host = |rest: &str| check_authority(rest.split('/').next().unwrap_or_default());
        self.0.split_once("://").is_some_and(|(_, rest)| host(rest).is_ok_and(|host| is_this_machine(&host)))
    }

    /// The address with segments appended, each percent-encoded.
    ///
    /// `None` when a segment is empty, `.` or `..`: even in the form `%2E%2E` programs on the way resolve these (the
    /// URL standard demands it), and another record's address would be asked.
    pub fn join(&self, segments: &[&str]) -> Option<String> {
        let mut url = self.0.clone();
        for segment in segments {
            if matches!(*segment, "" | "." | "..") {
                return None;
            }
            url.push('/');
            url.push_str(&percent_encode(segment));
        }
        Some(url)
    }
}

/// Encodes everything but letters, digits, `-`, `_`, `.` and `~`, so that the text stays within one path segment or
/// one query value.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

/// Checks host and port, and gives back the host.
fn check_authority(authority: &str) -> Result<String, EndpointError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(EndpointError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| EndpointError::Host)?;
        let port =
            if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(EndpointError::Host)?) };
        (host, port)
    } else {
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || host.len() > 253 || host.starts_with('.') || !host.bytes().all(label) {
            return Err(EndpointError::Host);
        }
        (host, port)
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(EndpointError::Port);
        }
    }
    Ok(host.to_ascii_lowercase())
}

fn check_path(path: &str) -> Result<(), EndpointError> {
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' => match after {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
                _ => return Err(EndpointError::Path),
            },
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) => after,
            _ => return Err(EndpointError::Path),
        };
    }
    let dots =
        |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(dots) { Err(EndpointError::Path) } else { Ok(()) }
}

/// Names only what cannot be resolved to another machine; `127.1` and the like are not understood, hence refused.
fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_prove_themselves() {
        for (url, expected) in [
            ("https://a.example/sync", true),
            ("https://a.example", true),
            ("HTTPS://A.example:8443", true),
            ("http://localhost:8787/sync", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:80/x", true),
            ("http://a.example/sync", false),
            ("http://192.168.1.7:8787", false),
            ("http://localhost.example/sync", false),
            ("http://a.example/localhost", false),
        ] {
            assert_eq!(Endpoint::parse(url, true).unwrap().proves_itself(), expected, "{url}");
        }
    }

    #[test]
    fn endpoints_are_taken_or_refused_with_their_reason() {
        use EndpointError as E;
        let cases: &[(&str, Result<&str, E>)] = &[
            ("https://api.example.com/sync", Ok("https://api.example.com/sync")),
            ("HTTPS://API.Example.com:8443/Sync//", Ok("https://api.example.com:8443/Sync")),
            ("https://api.example.com", Ok("https://api.example.com/")),
            ("https://api.example.com/", Ok("https://api.example.com/")),
            ("http://localhost:3000/sync", Ok("http://localhost:3000/sync")),
            ("http://127.9.9.9/s", Ok("http://127.9.9.9/s")),
            ("http://[::1]:80/s", Ok("http://[::1]:80/s")),
            ("https://api.example.com/a%20b/@x", Ok("https://api.example.com/a%20b/@x")),
            ("", Err(E::Scheme)),
            ("api.example.com/sync", Err(E::Scheme)),
            ("ftp://api.example.com", Err(E::Scheme)),
            ("file:///etc/passwd", Err(E::Scheme)),
            ("https://user:pw@api.example.com/sync", Err(E::Credentials)),
            ("https://user@api.example.com/sync", Err(E::Credentials)),
            ("https://api.example.com/sync?x=1", Err(E::QueryOrFragment)),
            ("https://api.example.com/sync#x", Err(E::QueryOrFragment)),
            ("https://", Err(E::Host)),
            ("https:///sync", Err(E::Host)),
            ("https://a b/sync", Err(E::Host)),
            ("https://bücher.example/sync", Err(E::Host)),
            ("https://a\\evil.example/sync", Err(E::Host)),
            ("https://[::1/sync", Err(E::Host)),
            ("https://[::1]x/sync", Err(E::Host)),
            ("https://a.example:/sync", Err(E::Port)),
            ("https://a.example:0/sync", Err(E::Port)),
            ("https://a.example:70000/sync", Err(E::Port)),
            ("https://a.example:+80/sync", Err(E::Port)),
            ("https://a.example/a b", Err(E::Path)),
            ("https://a.example/a\r\nX: y", Err(E::Path)),
            ("https://a.example/ä", Err(E::Path)),
            ("https://a.example/%zz", Err(E::Path)),
            ("https://a.example/%2", Err(E::Path)),
            ("https://a.example/a/../b", Err(E::Path)),
            ("https://a.example/a/%2E%2e/b", Err(E::Path)),
            ("https://a.example/a\\b", Err(E::Path)),
            ("http://api.example.com/sync", Err(E::Insecure)),
            ("http://localhost.evil.example/", Err(E::Insecure)),
            ("http://127.0.0.1.evil.example/", Err(E::Insecure)),
            ("http://127.1/", Err(E::Insecure)),
            ("http://10.0.2.2/", Err(E::Insecure)),
            ("http://0.0.0.0/", Err(E::Insecure)),
        ];
        for (text, expected) in cases {
            let url = Endpoint::parse(text, false).map(|endpoint| endpoint.url());
            assert_eq!(url.as_deref().map_err(Clone::clone), expected.clone(), "{text}");
        }
        assert!(Endpoint::parse("http://10.0.2.2:3000/", true).is_ok());
        assert!(!EndpointError::Credentials.to_string().contains("pw"));
    }

    #[test]
    fn every_name_stays_inside_its_segment() {
        let endpoint = Endpoint::parse("https://a.example/sync", false).unwrap();
        let cases: &[(&str, Option<&str>)] = &[
            ("note-1", Some("note-1")),
            ("a/b", Some("a%2Fb")),
            ("%2f", Some("%252f")),
            ("?", Some("%3F")),
            ("#", Some("%23")),
            ("a\r\nX: y", Some("a%0D%0AX%3A%20y")),
            ("\0", Some("%00")),
            ("😀", Some("%F0%9F%98%80")),
            ("\\..\\", Some("%5C..%5C")),
            ("...", Some("...")),
            ("..;", Some("..%3B")),
            ("a+b c", Some("a%2Bb%20c")),
            (".", None),
            ("..", None),
            ("", None),
        ];
        for (name, expected) in cases {
            let expected = expected.map(|segment| format!("https://a.example/sync/entities/note/{segment}"));
            assert_eq!(endpoint.join(&["entities", "note", name]), expected, "{name:?}");
        }
        for code in 0..=0x2ff_u32 {
            let name = char::from_u32(code).unwrap().to_string();
            let Some(url) = endpoint.join(&["entities", &name, "x"]) else { continue };
            assert_eq!(url.matches('/').count(), 6, "{name:?}");
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte)), "{name:?}");
        }
    }
}
