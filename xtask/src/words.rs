//! `cargo xtask words`: reads every text file of the repository for things that may not be committed.
//!
//! The patterns are put together from halves, here and in the tests, so that this file does not break its own
//! rules.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::breach::{Breach, count, verdict};
use crate::workspace::Workspace;

/// A kind of thing that may not be committed, and what to do instead.
struct Rule {
    what: &'static str,
    patterns: &'static [&'static str],
    place: Place,
    remedy: &'static str,
    /// Names of files (in any folder) that the rule leaves alone.
    except: &'static [&'static str],
}

/// Where in a line a pattern counts.
#[derive(Clone, Copy)]
enum Place {
    Anywhere,
    /// Not as a part of a longer word: the letter repeated in a template for a file name is no mark.
    WholeWord,
    /// As the start of a path: not within a URL, a relative path or a longer path.
    PathStart,
}

const RULES: &[Rule] = &[
    Rule {
        what: "a path of one machine",
        patterns: &[
            concat!("/wo", "rk/"),
            concat!("/ho", "me/"),
            concat!("/ro", "ot/"),
            concat!("/tmp/", "target"),
        ],
        place: Place::PathStart,
        remedy: "use a path relative to the repository, or ask the environment",
        except: &[],
    },
    Rule {
        what: "a mark of unfinished work",
        patterns: &[
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("to", "do!("),
            concat!("unimpl", "emented!("),
        ],
        place: Place::Anywhere,
        remedy: "finish it, or say in plain words in the docs what is missing",
        except: &[],
    },
    Rule {
        what: "a mark of unfinished work",
        patterns: &[concat!("XX", "X")],
        place: Place::WholeWord,
        remedy: "finish it, or say in plain words in the docs what is missing",
        except: &[],
    },
    Rule {
        what: "a test that does not run",
        patterns: &[concat!("#[ig", "nore")],
        place: Place::Anywhere,
        remedy: "run it, put it behind the slow tier (LANDFALL_TIER), or delete it",
        except: &[],
    },
    Rule {
        what: "the host of a registry",
        patterns: &[
            concat!("index.", "crates.io"),
            concat!("static.", "crates.io"),
            concat!("crates.io", "-index"),
            concat!("registry.", "npmjs.org"),
            concat!("py", "pi.org"),
            concat!("files.", "pythonhosted.org"),
            concat!("deb.", "debian.org"),
        ],
        place: Place::Anywhere,
        remedy: "name the package and let the user's own client find it",
        except: &["Cargo.lock"],
    },
];

pub(crate) fn help() -> String {
    use std::fmt::Write as _;
    let mut help = String::from(
        "usage: cargo xtask words

Reads every text file that is, or with `git add .` would be, in the repository, and fails on:
",
    );
    for rule in RULES {
        let _ = write!(help, "\n  {}: {}", rule.what, rule.patterns.join("  "));
        if !rule.except.is_empty() {
            let _ = write!(help, "  (but in {})", rule.except.join(", "));
        }
    }
    help
}

/// Reads the repository and reports every find at once.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let files = workspace.files()?;
    ensure!(!files.is_empty(), "no files found in {}", workspace.root().display());
    let mut breaches = Vec::new();
    let mut read = 0_usize;
    for path in &files {
        let bytes = std::fs::read(workspace.root().join(path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        if !bytes.contains(&0) {
            read += 1;
            breaches.extend(check_text(path, &String::from_utf8_lossy(&bytes)));
        }
    }
    let summary =
        format!("words: {} of {} are text, and fit to commit", read, count(files.len(), "file", "files"));
    verdict(&breaches, summary)
}

fn check_text(path: &Path, text: &str) -> Vec<Breach> {
    let name = path.file_name().unwrap_or_default();
    let mut breaches = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for rule in RULES.iter().filter(|rule| !rule.except.iter().any(|except| name == *except)) {
            if let Some(pattern) = rule.patterns.iter().find(|pattern| is_in(line, pattern, rule.place)) {
                let place = format!("{}:{}", path.display(), index + 1);
                let what = format!("{} (`{pattern}`): {}", rule.what, excerpt(line));
                breaches.push(Breach::new(place, what, rule.remedy));
            }
        }
    }
    breaches
}

fn is_in(line: &str, pattern: &str, place: Place) -> bool {
    line.match_indices(pattern).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + pattern.len()..].chars().next();
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        match place {
            Place::Anywhere => true,
            Place::WholeWord => !is_word(before) && !is_word(after),
            Place::PathStart => !is_word(before) && !before.is_some_and(|c| "-.~}*".contains(c)),
        }
    })
}

fn excerpt(line: &str) -> String {
    const LONGEST: usize = 90;
    let line = line.trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(path: &str, text: &str) -> usize {
        check_text(Path::new(path), text).len()
    }

    #[test]
    fn each_pattern_is_found_with_its_line() {
        for rule in RULES {
            for pattern in rule.patterns {
                let breaches = check_text(Path::new("a/b.md"), &format!("fine\nsee {pattern} x\n"));
                assert_eq!(breaches.len(), 1, "{pattern}");
                assert_eq!(breaches[0].place, "a/b.md:2");
                assert!(breaches[0].what.contains(rule.what) && breaches[0].what.contains(pattern));
            }
        }
    }

    #[test]
    fn a_path_counts_where_it_begins() {
        let home = concat!("/ho", "me/");
        for bad in [
            format!("\"{home}me\""),
            format!("file://{home}x"),
            format!("PATH=/bin:{home}x"),
            home.to_owned(),
        ] {
            assert_eq!(finds("x.sh", &bad), 1, "{bad}");
        }
        for fine in [
            format!("https://example.com{home}"),
            format!("..{home}x"),
            format!("~{home}"),
            format!("/mnt{home}"),
        ] {
            assert_eq!(finds("x.sh", &fine), 0, "{fine}");
        }
    }

    #[test]
    fn a_mark_within_a_longer_word_is_no_mark() {
        let mark = concat!("XX", "X");
        assert_eq!(finds("x.sh", &format!("mktemp {mark}{mark}")), 0);
        assert_eq!(finds("x.sh", &format!("# {mark}: later")), 1);
        assert_eq!(finds("x.md", "an app that keeps todo lists"), 0);
    }

    #[test]
    fn lock_files_of_cargo_may_name_the_registry_and_nothing_else() {
        let host = concat!("https://index.", "crates.io/");
        assert_eq!(finds("fuzz/Cargo.lock", host), 0);
        assert_eq!(finds("Cargo.toml", host), 1);
        assert_eq!(finds("Cargo.lock", concat!("path = \"/ho", "me/x\"")), 1);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        assert_eq!(excerpt(&"é".repeat(91)), format!("{} …", "é".repeat(90)));
        assert_eq!(excerpt("  short "), "short");
    }
}
