//! Somebody on the way: a captive portal at the endpoint's address, which later opens and lets everything through.
//!
//! Everything that comes in while it is closed is kept as it came, so that a test can look for what must not be there.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// The page that it shows to everybody.
const PAGE: &str =
    "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><form>log in</form></body></html>\n";

/// What a closed portal says to everything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// 200 with its page.
    Page,
    /// 302 to its page.
    Redirect,
    /// 511, which means just this.
    LoginRequired,
}

impl Says {
    fn answer(self) -> String {
        let (status, more) = match self {
            Self::Page => ("200 OK", ""),
            Self::Redirect => ("302 Found", "Location: http://login.portal.invalid/\r\n"),
            Self::LoginRequired => ("511 Network Authentication Required", ""),
        };
        format!(
            "HTTP/1.1 {status}\r\n{more}Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
            PAGE.len()
        )
    }
}

/// The portal.
pub(crate) struct Portal {
    pub(crate) addr: SocketAddr,
    open: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Portal {
    /// Closed, in front of `upstream`.
    pub(crate) fn closed(upstream: SocketAddr, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (open, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_open, requests) = (Arc::clone(&open), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (is_open, requests) = (Arc::clone(&is_open), Arc::clone(&requests));
                thread::spawn(move || {
                    if is_open.load(Ordering::SeqCst) {
                        drop(pass(stream, upstream));
                    } else {
                        drop(intercept(stream, says, &requests));
                    }
                });
            }
        });
        Self { addr, open, seen }
    }

    /// Somebody has logged in: from the next connection on everything goes through.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Whole requests, as they came in while it was closed.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn intercept(mut stream: TcpStream, says: Says, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !is_whole(&request) {
        match stream.read(&mut piece)? {
            0 => break,
            count => request.extend_from_slice(&piece[..count]),
        }
    }
    if request.is_empty() {
        return Ok(());
    }
    // Kept before it is answered: whoever has the answer finds the request here.
    seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    stream.write_all(says.answer().as_bytes())
}

/// Whether a request is whole: its head, and as many bytes as that announces.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    assert!(!head.contains("transfer-encoding"), "the portal knows lengths only: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    request.len() >= end + 4 + length.unwrap_or(0)
}

fn pass(client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let there = thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
    let (mut from, mut to) = (server, client);
    drop(std::io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Both));
    drop(there.join());
    Ok(())
}
