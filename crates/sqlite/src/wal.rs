//! The write-ahead log, read by hand, only to see whose marks the newest committed first page carries.
//!
//! A store of a newer version may have raised its schema number in the log alone, and looking through SQLite would
//! already write to the shared memory. Format: sqlite.org/fileformat2.html, section 4. Nothing of SQLite's locking is
//! touched: the log itself is never locked. A log that changes while it is read ends the reading early; the marks are
//! read again through SQLite before anything is written. Tests: `tests/opening.rs`.

use crate::file::{Marks, beside};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// A log of this size holds no page.
pub(crate) const HEADER_BYTES: u64 = 32;

/// Where SQLite keeps the log of the database at `path`.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The marks of the newest committed first page in the log, if it has one that differs from `expected`.
pub(crate) fn marks(log: &Path, expected: Marks) -> io::Result<Option<Marks>> {
    // Most logs are only looked through; checksums are computed when something unexpected was seen.
    if !read(log, false)?.iter().any(|marks| *marks != expected) {
        return Ok(None);
    }
    Ok(read(log, true)?.last().copied().filter(|marks| *marks != expected))
}

/// The marks of each first page in the log, in order. With `proven`, only of those that were committed and whose
/// checksums hold.
fn read(log: &Path, proven: bool) -> io::Result<Vec<Marks>> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(log)?);
    let mut header = [0; HEADER_BYTES as usize];
    if !fill(&mut reader, &mut header)? {
        return Ok(Vec::new());
    }
    let page_bytes = word(&header, 8);
    let big_endian = match word(&header, 0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Ok(Vec::new()),
    };
    if !(512..=65_536).contains(&page_bytes) {
        return Ok(Vec::new());
    }
    let (mut found, mut committed) = (Vec::new(), 0);
    let mut sum = add((0, 0), &header[..24], big_endian);
    if proven && sum != (word(&header, 24), word(&header, 28)) {
        return Ok(Vec::new());
    }
    let mut frame = [0; 24];
    let mut page = vec![0; page_bytes as usize];
    while fill(&mut reader, &mut frame)? && fill(&mut reader, &mut page)? {
        if frame[8..16] != header[16..24] {
            break;
        }
        if proven {
            sum = add(add(sum, &frame[..8], big_endian), &page, big_endian);
            if sum != (word(&frame, 16), word(&frame, 20)) {
                break;
            }
        }
        if word(&frame, 0) == 1 {
            found.push(Marks::of_page(&page));
        }
        if word(&frame, 4) != 0 {
            committed = found.len();
        }
    }
    if proven {
        found.truncate(committed);
    }
    Ok(found)
}

/// Fills `buffer`, or says that the file ended first.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's running checksum of the log.
pub(crate) fn add((mut first, mut second): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let number = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(number(&pair[..4])).wrapping_add(second);
        second = second.wrapping_add(number(&pair[4..])).wrapping_add(first);
    }
    (first, second)
}
