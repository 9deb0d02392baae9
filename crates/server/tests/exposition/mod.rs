//! A strict reader of the Prometheus text format 0.0.4, for tests: every line is judged, nothing is passed over.
//!
//! Read by the tests of the server and, by its path, by those of the engine.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

/// Everything that a text says.
#[derive(Debug)]
pub(crate) struct Exposition {
    kinds: Vec<(String, String)>,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// Panics at the first line that is not as the format wants it.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut read = Self { kinds: Vec::new(), samples: Vec::new() };
        let mut help: Option<String> = None;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(!words.is_empty() && !words.contains('\\'), "{line}");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert_eq!(help.as_deref(), Some(name), "TYPE without its HELP before it: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(!read.kinds.iter().any(|(known, _)| known == name), "twice: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                read.kinds.push((name.to_owned(), kind.to_owned()));
            } else {
                read.sample(line);
            }
        }
        read
    }

    fn sample(&mut self, line: &str) {
        let (name, labels, value) = split(line);
        let (family, kind) = self.kinds.last().unwrap_or_else(|| panic!("a sample without TYPE: {line}"));
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("not of {family}: {line}"));
        match kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        assert_eq!(suffix == "_bucket", labels.contains_key("le"), "{line}");
        let known =
            |(other, its, _): &(String, BTreeMap<String, String>, f64)| *other == name && *its == labels;
        assert!(!self.samples.iter().any(known), "the same series twice: {line}");
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        self.samples.push((name, labels, value));
    }

    /// Names and kinds, in the order in which they were exported.
    pub(crate) fn families(&self) -> Vec<(String, String)> {
        self.kinds.clone()
    }

    /// The series of a name with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(label, value)| (label.to_string(), value.to_string())).collect();
        self.samples.iter().find(|(own, its, _)| own == name && *its == labels).map(|(.., value)| *value)
    }

    /// The values of all series of a name.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.samples.iter().filter(|(own, ..)| own == name).map(|(.., value)| *value).collect()
    }

    /// Every label value there is.
    pub(crate) fn label_values(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().flat_map(|(_, labels, _)| labels.values().map(String::as_str))
    }

    /// Bounds and counts grow, the last bound is infinite, and its count is the count of all.
    pub(crate) fn has_sound_histogram(&self, name: &str) {
        let bucket = format!("{name}_bucket");
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for (_, labels, value) in self.samples.iter().filter(|(own, ..)| *own == bucket) {
            let mut labels = labels.clone();
            let bound = number(&labels.remove("le").unwrap());
            series.entry(labels).or_default().push((bound, *value));
        }
        assert!(!series.is_empty(), "{name} has no buckets");
        for (labels, buckets) in series {
            let grows = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            assert!(buckets.windows(2).all(grows), "{name}: {buckets:?}");
            let last = buckets.last().unwrap();
            assert_eq!(last.0, f64::INFINITY, "{name}");
            let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(self.value(&format!("{name}_count"), &labels), Some(last.1), "{name}");
            assert!(self.value(&format!("{name}_sum"), &labels).is_some(), "{name}");
        }
    }
}

/// Name, labels and value of one line.
fn split(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let (value, after) = quoted(after, line);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("no end of labels: {line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space before the value: {line}"));
    (name.to_owned(), labels, number(value))
}

/// What stands before the closing quote, and what is behind it.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                other => panic!("not an escape: {other:?} in {line}"),
            }),
            other => value.push(other),
        }
    }
    panic!("a value without its end: {line}")
}

fn is_name(name: &str) -> bool {
    let fits = |at: usize, c: char| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit())
    };
    !name.is_empty() && name.chars().enumerate().all(|(at, c)| fits(at, c))
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        other => other.parse().unwrap_or_else(|_| panic!("not a number: {other}")),
    }
}

/// Names and kinds in the table under a heading of `docs/metrics.md`.
pub(crate) fn documented(page: &str, heading: &str) -> Vec<(String, String)> {
    let section = page.split_once(heading).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `landfall_"));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().trim_end_matches('`');
        let (kind, unit, meaning) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
        assert!(!unit.is_empty() && !meaning.is_empty(), "{row}");
        (format!("landfall_{name}"), kind.to_owned())
    })
    .collect()
}
