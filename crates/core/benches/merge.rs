//! What a three-way merge costs beside reading its three documents: a record of 20 fields, six of them changed on each
//! side, three of these contested (P9: at most as much as `serde_json` takes to parse the three).
//!
//! `cargo bench -p landfall-core`. The ratio is what to look at.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a measuring program")]

use landfall_core::merge::rule::{Rules, Strategy};
use landfall_core::merge::{self, BaseFields, Side};
use landfall_core::value::Fields;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 20_000;

fn main() {
    let base = record(&[]);
    let local = record(&[0, 1, 2, 3, 4, 5]);
    let remote = record(&[3, 4, 5, 6, 7, 8]).replace("changed", "changed there");
    let mut rules = Rules::new(Strategy::FieldMerge);
    rules.declare("report.f4=server").unwrap();
    let parsed = [&base, &local, &remote].map(|text| Fields::parse(text).unwrap());
    let [b, l, r] = &parsed;
    let merged = merge::fields(BaseFields::Whole(b), l, r, rules.of("report"), Some(Side::Local));
    assert_eq!((merged.conflicts.len(), merged.still_dirty.len()), (3, 5));
    // In turns, so that both meet the same mood of the machine.
    let (mut parsing, mut merging) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..10 {
        parsing += timed(|| {
            for text in [&base, &local, &remote] {
                black_box(serde_json::from_str::<serde_json::Value>(black_box(text)).unwrap());
            }
        });
        merging += timed(|| {
            let of = rules.of("report");
            black_box(merge::fields(BaseFields::Whole(b), black_box(l), r, of, Some(Side::Local)));
        });
    }
    let each = |time: Duration| time / (10 * ROUNDS);
    let ratio = merging.as_secs_f64() / parsing.as_secs_f64();
    println!(
        "parse three documents {:?}, merge them {:?}: {ratio:.2} (P9, goal 1.0)",
        each(parsing),
        each(merging)
    );
}

fn record(changed: &[usize]) -> String {
    let field = |at: usize| match changed.contains(&at) {
        true => format!(r#""f{at}":"the value of field {at}, changed""#),
        false => format!(r#""f{at}":"the value of field {at}""#),
    };
    format!("{{{}}}", (0..20).map(field).collect::<Vec<_>>().join(","))
}

fn timed(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| work());
    start.elapsed()
}
