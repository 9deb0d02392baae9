//! Writes all mutants of a file into one text, each asleep until its number is called.
//!
//! A place with mutants becomes `match crate::mutant::of(first, n) { 0 => as it was, 1 => …, … }`. Inside a mutated arm
//! the text is the original one, because only one mutant is ever awake; so the text grows little. Marks in comments say
//! which mutant the compiler complains of. Tests are at the end of the file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use crate::sites::{Shape, Site};

/// What stands in the scratch copy of the core as `mutant.rs`.
pub(crate) const MODULE: &str = r#"//! Which mutant is awake: scratch code, made by `cargo xtask mutants`.
#![allow(missing_docs, unreachable_pub, clippy::all)]
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

const NOT_ASKED: u32 = u32::MAX;
const TRACING: u32 = u32::MAX - 1;
static AWAKE: AtomicU32 = AtomicU32::new(NOT_ASKED);
static SEEN: [AtomicBool; 65536] = [const { AtomicBool::new(false) }; 65536];
static TRACE: OnceLock<Mutex<std::fs::File>> = OnceLock::new();

#[inline]
pub fn of(first: u32, count: u32) -> u32 {
    let awake = AWAKE.load(Ordering::Relaxed);
    if awake < TRACING {
        let at = awake.wrapping_sub(first);
        return if at < count { at + 1 } else { 0 };
    }
    slow(awake, first, count)
}

#[cold]
fn slow(awake: u32, first: u32, count: u32) -> u32 {
    if awake == NOT_ASKED {
        let state = match std::env::var("LANDFALL_MUTANT_TRACE") {
            Ok(path) => {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("trace file");
                let _ = TRACE.set(Mutex::new(file));
                TRACING
            }
            Err(_) => match std::env::var("LANDFALL_MUTANT") {
                Ok(number) => number.parse().expect("number of a mutant"),
                Err(_) => 0,
            },
        };
        AWAKE.store(state, Ordering::Relaxed);
        return of(first, count);
    }
    if !SEEN[first as usize].swap(true, Ordering::Relaxed) {
        if let Some(file) = TRACE.get() {
            let _ = file.lock().expect("trace").write_all(&first.to_le_bytes());
        }
    }
    0
}
"#;

/// The text with all mutants but `dropped`. `first` is the number of the file's first mutation; numbers run on through
/// the sites in their order. The functions `constant` stay `const`; others cannot, because they ask who is awake.
pub(crate) fn write(
    text: &str,
    sites: &[Site],
    first: u32,
    dropped: &BTreeSet<u32>,
    constant: &BTreeSet<String>,
) -> String {
    let mut numbers = Vec::new();
    let mut next = first;
    for site in sites {
        numbers.push(next);
        next += u32::try_from(site.mutations.len()).unwrap_or(u32::MAX);
    }
    let writer = Writer { text, sites, numbers: &numbers, dropped, constant };
    writer.region(0..text.len(), &mut 0)
}

struct Writer<'a> {
    text: &'a str,
    sites: &'a [Site],
    numbers: &'a [u32],
    dropped: &'a BTreeSet<u32>,
    constant: &'a BTreeSet<String>,
}

impl Writer<'_> {
    /// The text of a region with all sites from `next` on that are in it.
    fn region(&self, range: Range<usize>, next: &mut usize) -> String {
        let mut out = String::new();
        let mut at = range.start;
        while let Some(site) = self.sites.get(*next) {
            let is_inside = site.range.start < range.end && site.range.end <= range.end
                || site.range.is_empty() && site.range.start <= range.end;
            if !is_inside {
                break;
            }
            let number = self.numbers[*next];
            *next += 1;
            out.push_str(&self.text[at..site.range.start]);
            let inner = self.region(site.range.clone(), next);
            self.site(&mut out, site, number, &inner);
            at = site.range.end;
        }
        out.push_str(&self.text[at..range.end]);
        out
    }

    fn site(&self, out: &mut String, site: &Site, number: u32, inner: &str) {
        let count = site.mutations.len();
        let awake: Vec<(u32, u32, &str)> = (0..)
            .zip(&site.mutations)
            .map(|(at, mutation)| (at + 1, number + at, mutation.text.as_str()))
            .filter(|(_, id, _)| !self.dropped.contains(id))
            .collect();
        if awake.is_empty() {
            if site.shape != Shape::Blank || self.constant.contains(&site.function) {
                out.push_str(inner);
            }
            return;
        }
        let ask = format!("crate::mutant::of({number}, {count})");
        match site.shape {
            Shape::Blank => {}
            Shape::Expression => {
                let _ = write!(out, "(match {ask} {{ 0 => {{ {inner} }}");
                for (at, id, text) in awake {
                    let _ = write!(out, " {at} => /*[{id}*/{{ {text} }}/*]{id}*/");
                }
                out.push_str(" _ => ::core::unreachable!() })");
            }
            Shape::Statement => {
                let _ = write!(out, "/*[{number}*/if {ask} == 0 {{ {inner} }}/*]{number}*/");
            }
            Shape::Body => {
                let _ = write!(out, " match {ask} {{ 0 => {{}}");
                for (at, id, text) in awake {
                    let _ = write!(out, " {at} => /*[{id}*/{{ {text} }}/*]{id}*/");
                }
                out.push_str(" _ => ::core::unreachable!() }");
            }
            Shape::Arm => {
                let _ = write!(out, " if /*[{number}*/{ask} == 0/*]{number}*/");
            }
        }
    }
}

/// Where each mutant stands in a text that [`write`] made: its number and its region.
pub(crate) fn marks(text: &str) -> Vec<(u32, Range<usize>)> {
    let mut open: Vec<(u32, usize)> = Vec::new();
    let mut marks = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("/*") {
        let start = at + found;
        at = start + 2;
        let rest = &text[at..];
        let Some(end) = rest.find("*/") else { break };
        let Some(kind) = rest.chars().next().filter(|kind| matches!(kind, '[' | ']')) else { continue };
        let Ok(number) = rest[1..end].parse() else { continue };
        if kind == '[' {
            open.push((number, start));
        } else if let Some(from) = open.iter().rposition(|(open, _)| *open == number) {
            let (_, from) = open.remove(from);
            marks.push((number, from..start));
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
    use super::*;
    use crate::sites::find;

    const TEXT: &str = "const fn f() -> bool { g(); a == (b && c) }";

    #[test]
    fn every_mutant_is_asleep_beside_the_text_as_it_was() {
        let sites = find(TEXT).unwrap();
        let written = write(TEXT, &sites, 7, &BTreeSet::new(), &BTreeSet::new());
        assert!(syn::parse_file(&written).is_ok(), "{written}");
        assert!(!written.contains("const"), "{written}");
        let numbers: BTreeSet<u32> = marks(&written).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, (7..12).collect());
        assert_eq!(written.matches("0 => {  }").count() + written.matches("0 => {}").count(), 1);
    }

    #[test]
    fn with_all_dropped_it_is_the_text_as_it_was() {
        let sites = find(TEXT).unwrap();
        let all = (7..12).collect();
        assert_eq!(write(TEXT, &sites, 7, &all, &BTreeSet::new()), TEXT.replace("const", ""));
        assert_eq!(write(TEXT, &sites, 7, &all, &BTreeSet::from(["f".to_owned()])), TEXT);
    }
}
