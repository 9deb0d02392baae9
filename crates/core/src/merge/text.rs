//! Text that two sides edited: both edits are kept where they lie apart, by lines first, then by the words of a line.
//!
//! Nothing is placed by guess. An edit goes where its surroundings are unchanged, edits that touch are a conflict, and
//! a result that would not survive being merged once more with either side is not taken. Words are what stands
//! between white space, so scripts without it merge by lines only. Tests: at the end of the file.

use super::conflict::{BaseValue, Misfit};
use crate::value::Value;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// Most steps one comparison may take. 2 million: some 20 ms and at most 8 MB, enough for a novel with a thousand
/// edits; texts further apart are two texts.
const STEPS_MAX: usize = 2_000_000;

/// The merged text, if every edit has its place.
pub(super) fn merge(base: BaseValue<&Value>, local: &Value, remote: &Value) -> Result<Value, Misfit> {
    let base = match base {
        BaseValue::Unknown => return Err(Misfit::NoBase),
        BaseValue::Absent => "",
        BaseValue::Present(value) => text(value)?,
    };
    three_way(base, text(local)?, text(remote)?).map(Value::Text)
}

fn text(value: &Value) -> Result<&str, Misfit> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(Misfit::WrongKind),
    }
}

fn three_way(base: &str, local: &str, remote: &str) -> Result<String, Misfit> {
    let merged = by_lines(base, local, remote)?;
    // Differences are not unique ("a a" from "a": which is new?), so another alignment may read the result otherwise.
    let stable = by_lines(base, &merged, remote)? == merged && by_lines(base, local, &merged)? == merged;
    if stable { Ok(merged) } else { Err(Misfit::SameWords) }
}

fn by_lines(base: &str, local: &str, remote: &str) -> Result<String, Misfit> {
    let lines = |text| str::split_inclusive(text, '\n').collect::<Vec<_>>();
    weave(&lines(base), &lines(local), &lines(remote), |base, local, remote| {
        let words = |lines: &[&str]| lines.concat();
        by_words(&words(base), &words(local), &words(remote))
    })
}

fn by_words(base: &str, local: &str, remote: &str) -> Result<String, Misfit> {
    weave(&words(base), &words(local), &words(remote), |_, _, _| Err(Misfit::SameWords))
}

/// Runs of white space and runs of anything else, in turn.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut before = None;
    for (at, c) in text.char_indices() {
        if before.is_some_and(|white: bool| white != c.is_whitespace()) {
            found.push(&text[start..at]);
            start = at;
        }
        before = Some(c.is_whitespace());
    }
    if start < text.len() {
        found.push(&text[start..]);
    }
    found
}

/// One edit: these tokens of the base became those of the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hunk {
    base: Range<usize>,
    other: Range<usize>,
}

/// Puts the edits of both sides into the base; where they touch, `overlap` is asked.
fn weave(
    base: &[&str],
    local: &[&str],
    remote: &[&str],
    overlap: impl Fn(&[&str], &[&str], &[&str]) -> Result<String, Misfit>,
) -> Result<String, Misfit> {
    let (base_ids, local_ids, remote_ids) = numbered(base, local, remote);
    let local_hunks = hunks(&base_ids, &local_ids)?;
    let remote_hunks = hunks(&base_ids, &remote_ids)?;
    let (mut of_local, mut of_remote) = (&local_hunks[..], &remote_hunks[..]);
    let mut merged = String::new();
    let mut done = 0;
    while let Some(region) = next_region(&mut of_local, &mut of_remote) {
        base[done..region.base.start].iter().for_each(|token| merged.push_str(token));
        done = region.base.end;
        let old = &base[region.base.clone()];
        let ours = region.local.map(|range| &local[range]);
        let theirs = region.remote.map(|range| &remote[range]);
        match (ours, theirs) {
            (Some(only), None) | (None, Some(only)) => only.iter().for_each(|token| merged.push_str(token)),
            (Some(ours), Some(theirs)) if ours == theirs => {
                ours.iter().for_each(|token| merged.push_str(token));
            }
            (Some(ours), Some(theirs)) => merged.push_str(&overlap(old, ours, theirs)?),
            (None, None) => {}
        }
    }
    base[done..].iter().for_each(|token| merged.push_str(token));
    Ok(merged)
}

/// A stretch of the base that one side edited, or both; with what each made of all of it.
struct Region {
    base: Range<usize>,
    local: Option<Range<usize>>,
    remote: Option<Range<usize>>,
}

/// Takes the next edits off both lists: one alone, or all that touch each other.
fn next_region(local: &mut &[Hunk], remote: &mut &[Hunk]) -> Option<Region> {
    let first = local.iter().take(1).chain(remote.iter().take(1)).min_by_key(|hunk| hunk.base.start)?;
    let mut base = first.base.clone();
    let (mut locals, mut remotes) = (0, 0);
    loop {
        let touching = |hunks: &[Hunk], taken: usize, end: usize| {
            hunks.get(taken).filter(|hunk| hunk.base.start <= end).map(|hunk| hunk.base.end)
        };
        if let Some(end) = touching(local, locals, base.end) {
            locals += 1;
            base.end = base.end.max(end);
        } else if let Some(end) = touching(remote, remotes, base.end) {
            remotes += 1;
            base.end = base.end.max(end);
        } else {
            break;
        }
    }
    let region = Region { local: span(local, locals, &base), remote: span(remote, remotes, &base), base };
    *local = &local[locals..];
    *remote = &remote[remotes..];
    Some(region)
}

/// What a side made of the stretch `base`, in which its first `taken` hunks lie. Around them nothing changed, so the
/// distance to the ends of the stretch is the same on both.
fn span(hunks: &[Hunk], taken: usize, base: &Range<usize>) -> Option<Range<usize>> {
    let first = hunks[..taken].first()?;
    let last = hunks[..taken].last()?;
    Some(first.other.start - (first.base.start - base.start)..last.other.end + (base.end - last.base.end))
}

/// Tokens as numbers, equal where the tokens are: each is compared as text once only.
fn numbered<'t>(base: &[&'t str], local: &[&'t str], remote: &[&'t str]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut known: BTreeMap<&'t str, u32> = BTreeMap::new();
    let mut number = |tokens: &[&'t str]| -> Vec<u32> {
        let number = |token: &&'t str| {
            let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
            *known.entry(token).or_insert(next)
        };
        tokens.iter().map(number).collect()
    };
    (number(base), number(local), number(remote))
}

/// The fewest edits that make `b` of `a` (Myers, 1986), in order, with at least one unchanged token between any two.
fn hunks(a: &[u32], b: &[u32]) -> Result<Vec<Hunk>, Misfit> {
    let ahead = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a_rest, b_rest) = (&a[ahead..], &b[ahead..]);
    let behind = a_rest.iter().rev().zip(b_rest.iter().rev()).take_while(|(x, y)| x == y).count();
    let a = &a_rest[..a_rest.len() - behind];
    let b = &b_rest[..b_rest.len() - behind];
    let mut found: Vec<Hunk> = Vec::new();
    for (from, to) in edits(a, b, &furthest(a, b)?) {
        match found.last_mut() {
            Some(last) if last.base.end == ahead + from.0 && last.other.end == ahead + from.1 => {
                last.base.end = ahead + to.0;
                last.other.end = ahead + to.1;
            }
            _ => found.push(Hunk { base: ahead + from.0..ahead + to.0, other: ahead + from.1..ahead + to.1 }),
        }
    }
    Ok(found)
}

/// For each number of edits `d` and each diagonal `k = x − y` in `−d, −d+2 … d`: how far along `a` one gets.
fn furthest(a: &[u32], b: &[u32]) -> Result<Vec<Vec<u32>>, Misfit> {
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let mut steps = STEPS_MAX;
    for d in 0..=a.len() + b.len() {
        let mut row: Vec<u32> = Vec::with_capacity(d + 1);
        for at in 0..=d {
            let start = match rows.last() {
                None => 0,
                Some(above) if goes_down(above, at) => above[at] as usize,
                Some(above) => above[at - 1] as usize + 1,
            };
            // y = x − k with k = 2·at − d, and no way is so short that y would be negative.
            let (mut x, mut y) = (start, start + d - 2 * at);
            while x < a.len() && y < b.len() && a[x] == b[y] {
                (x, y) = (x + 1, y + 1);
            }
            steps = steps.checked_sub(1 + x - start).ok_or(Misfit::TooLarge)?;
            row.push(u32::try_from(x).map_err(|_| Misfit::TooLarge)?);
            if x == a.len() && y == b.len() {
                rows.push(row);
                return Ok(rows);
            }
        }
        rows.push(row);
    }
    Err(Misfit::TooLarge)
}

/// Whether the best way to place `at` of a row inserts a token of `b`, rather than removing one of `a`.
fn goes_down(above: &[u32], at: usize) -> bool {
    at == 0 || (at < above.len() && above[at - 1] < above[at])
}

type Point = (usize, usize);

/// Follows the best way back and lists its single edits, from the front.
fn edits(a: &[u32], b: &[u32], rows: &[Vec<u32>]) -> Vec<(Point, Point)> {
    let mut found = Vec::new();
    let (mut x, mut y) = (a.len(), b.len());
    for d in (1..rows.len()).rev() {
        let above = &rows[d - 1];
        let at = (x + d - y) / 2;
        let (from, to) = if goes_down(above, at) {
            let px = above[at] as usize;
            // One diagonal up: y = x − (k + 1)
            let py = px + d - 2 * at - 1;
            ((px, py), (px, py + 1))
        } else {
            let px = above[at - 1] as usize;
            let py = px + d + 1 - 2 * at;
            ((px, py), (px + 1, py))
        };
        found.push((from, to));
        (x, y) = from;
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn edits_in_different_places_are_both_kept() {
        let cases = [
            // base, local, remote, merged
            ("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n"),
            ("a\nb\nc\n", "a\nc\n", "a\nb\nc\nd\n", "a\nc\nd\n"),
            ("a\nb", "A\nb", "a\nB", "A\nB"),
            ("a\nb\n", "a\nx\nb\n", "a\nb\ny\n", "a\nx\nb\ny\n"),
            ("a quick brown fox", "a slow brown fox", "a quick brown cat", "a slow brown cat"),
            ("one two", "zero one two", "one two three", "zero one two three"),
            ("one two three", "one three", "one two three four", "one three four"),
            (
                "first\n\nsecond\n",
                "first, longer\n\nsecond\n",
                "first\n\nsecond, longer\n",
                "first, longer\n\nsecond, longer\n",
            ),
            ("a\r\nb\r\n", "A\r\nb\r\n", "a\r\nB\r\n", "A\r\nB\r\n"),
            ("größer 🦀 é", "kleiner 🦀 é", "größer 🦀 è", "kleiner 🦀 è"),
            // The same edit on both sides counts once.
            ("a b c d", "A b C d", "A b c D", "A b C D"),
        ];
        for (base, local, remote, merged) in cases {
            assert_eq!(
                three_way(base, local, remote).as_deref(),
                Ok(merged),
                "{base:?} {local:?} {remote:?}"
            );
            assert_eq!(three_way(base, remote, local).as_deref(), Ok(merged), "the other way round");
        }
    }

    #[test]
    fn edits_of_the_same_words_are_nobodys_to_mix() {
        let cases = [
            ("a b", "a x", "a y"),
            ("", "mine", "theirs"),
            ("a", "a mine", "a theirs"),
            ("a b c", "a c", "a x c"),
            ("one\n", "two\n", "three\n"),
            ("a b", "", "a c"),
            // Laid over one of the sides once more, what was woven of these would be read otherwise.
            ("a\na\n", "b\na\n", "a\na\nb\n"),
        ];
        for (base, local, remote) in cases {
            assert_eq!(
                three_way(base, local, remote),
                Err(Misfit::SameWords),
                "{base:?} {local:?} {remote:?}"
            );
            assert_eq!(three_way(base, remote, local), Err(Misfit::SameWords));
        }
    }

    #[test]
    fn hunks_turn_one_text_into_the_other_with_the_fewest_edits() {
        // Every pair of texts of up to five tokens out of three; under miri, which is slow, of three.
        let longest = if cfg!(miri) { 3 } else { 5_u32 };
        let all: Vec<Vec<u32>> = (0..=longest)
            .flat_map(|length| {
                (0..3_u32.pow(length)).map(move |n| (0..length).map(|at| n / 3_u32.pow(at) % 3).collect())
            })
            .collect();
        for a in &all {
            for b in &all {
                let found = hunks(a, b).unwrap();
                let mut made = Vec::new();
                let mut done = 0;
                for hunk in &found {
                    assert!(hunk.base.start > done || done == 0, "hunks are apart");
                    made.extend_from_slice(&a[done..hunk.base.start]);
                    made.extend_from_slice(&b[hunk.other.clone()]);
                    done = hunk.base.end;
                }
                made.extend_from_slice(&a[done..]);
                assert_eq!(&made, b, "{a:?} {found:?}");
                let edits: usize = found.iter().map(|hunk| hunk.base.len() + hunk.other.len()).sum();
                assert_eq!(edits, a.len() + b.len() - 2 * common(a, b), "{a:?} {b:?}");
            }
        }
    }

    /// The length of the longest common subsequence, the slow and plain way.
    fn common(a: &[u32], b: &[u32]) -> usize {
        let mut table = alloc::vec![alloc::vec![0; b.len() + 1]; a.len() + 1];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                table[i + 1][j + 1] =
                    if x == y { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
            }
        }
        table[a.len()][b.len()]
    }

    #[test]
    fn texts_that_are_too_far_apart_are_refused_in_bounded_time() {
        let line = |what: &str, n: usize| (0..n).map(|at| format!("{what}{at}\n")).collect::<String>();
        let (base, local, remote) = (line("b", 20_000), line("l", 20_000), line("r", 20_000));
        assert_eq!(three_way(&base, &local, &remote), Err(Misfit::TooLarge));
        let edited = |at: &str| base.replace(at, "edited\n");
        let merged = three_way(&base, &edited("b7\n"), &edited("b19000\n")).unwrap();
        assert_eq!(merged.matches("edited").count(), 2);
    }

    /// So that merging ends, and takes no more memory than a phone has.
    #[test]
    fn the_work_is_bounded_also_where_the_texts_have_not_one_word_in_common() {
        let words = |what: &str, n: usize| (0..n).map(|at| format!("{what}{at}\n")).collect::<String>();
        let of = |n: usize| {
            let base = words("b", n);
            three_way(&base, &words("l", n), &base.replace("b7\n", "edited\n"))
        };
        assert_ne!(of(100), Err(Misfit::TooLarge));
        assert_eq!(of(1_500), Err(Misfit::TooLarge));
    }
}
