//! A plain table: columns as wide as they need to be, long cells cut, control characters made visible.
//!
//! Widths count characters, not terminal cells: a table with wide scripts is slightly ragged, never wrong. Tests: below.

/// Longest cell shown; the whole is in `--json` and in `landfall task`.
const CELL: usize = 48;

/// Lays out rows below a heading.
pub(crate) fn layout(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| fit(cell)).collect()).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(heading.get(at).map(|name| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    std::iter::once(line(heading.to_vec()))
        .chain(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())))
        .collect()
}

fn fit(cell: &str) -> String {
    let clean = visible(cell);
    if clean.chars().count() <= CELL {
        return clean;
    }
    let mut cut: String = clean.chars().take(CELL - 1).collect();
    cut.push('…');
    cut
}

/// The text with everything a terminal would act upon escaped.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let escaped = escape.then(|| c.escape_unicode());
            escaped.into_iter().flatten().chain((!escape).then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed_and_long_cells_are_cut() {
        let rows = vec![vec!["a".into(), "x".repeat(100)], vec!["bbb".into(), "é".into()]];
        let lines = layout(&["id", "what"], &rows);
        assert_eq!(lines[0], "id   what");
        assert_eq!(lines[1], format!("a    {}…", "x".repeat(CELL - 1)));
        assert_eq!(lines[2], "bbb  é");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_act_upon() {
        assert_eq!(visible("a\u{1b}[31m\0\u{202e}b\n"), "a\\u{1b}[31m\\u{0}\\u{202e}b\\u{a}");
    }
}
