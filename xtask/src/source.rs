//! Just enough of Rust's grammar to tell code from comments and text, so that a rule about code is not broken
//! by a sentence about it. It does not parse: macros, types and names are all the same to it.

/// The source with comments and the insides of string and character literals replaced by spaces.
/// Line breaks stay, so line numbers stay.
pub(crate) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if starts_raw_string(&chars, at) => raw_string_end(&chars, at),
            '\'' => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The lines (from 1) of `code` in which `word` stands by itself, not as a part of a longer name.
pub(crate) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let has_word = |line: &str| {
        line.match_indices(word).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            let after = line[start + word.len()..].chars().next();
            !before.is_some_and(is_name_char) && !after.is_some_and(is_name_char)
        })
    };
    code.lines().enumerate().filter(|(_, line)| has_word(line)).map(|(index, _)| index + 1).collect()
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_end(chars: &[char], start: usize) -> usize {
    chars[start..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| start + length)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"`, `r#"`, also behind the `b` or `c` of a byte or C string; but not `r#name`, nor an `r` at the end of
/// a name.
fn starts_raw_string(chars: &[char], at: usize) -> bool {
    let name_before = match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => at >= 2 && is_name_char(chars[at - 2]),
        Some(before) => is_name_char(before),
        None => false,
    };
    !name_before && chars.get(at + 1 + hashes(chars, at + 1)) == Some(&'"')
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let fence = hashes(chars, start + 1);
    let mut at = start + 1 + fence + 1;
    while at < chars.len() {
        if chars[at] == '"' && hashes(chars, at + 1) >= fence {
            return at + 1 + fence;
        }
        at += 1;
    }
    chars.len()
}

fn hashes(chars: &[char], from: usize) -> usize {
    chars.get(from..).map_or(0, |rest| rest.iter().take_while(|c| **c == '#').count())
}

/// The end of a character literal; `quote` itself if it opens a lifetime or label.
fn char_end(chars: &[char], quote: usize) -> usize {
    match (chars.get(quote + 1), chars.get(quote + 2)) {
        (Some('\\'), Some(_)) => {
            let close = chars[quote + 3..].iter().position(|c| *c == '\'');
            close.map_or(chars.len(), |length| quote + 3 + length + 1)
        }
        (Some(_), Some('\'')) => quote + 3,
        _ => quote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_kept() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("b \" c", d)"#, "f(        , d)"),
            (r##"f(r#"b " c"#, d)"##, "f(          , d)"),
            (r#"f(br"\", d)"#, "f(b    , d)"),
            ("r#type x", "r#type x"),
            ("for \"x\"", "for    "),
            ("'\"' a", "    a"),
            (r"'\'' a", "     a"),
            (r"'\u{e9}' a", "         a"),
            ("'é' a", "    a"),
            ("&'a str, 'b: loop", "&'a str, 'b: loop"),
            ("\"open\nend", "     \n   "),
        ];
        for (source, code) in cases {
            assert_eq!(code_only(source), code, "of {source:?}");
        }
    }

    #[test]
    fn a_word_is_found_by_itself_only() {
        let code = "unsafe_code\n unsafe {\nx_unsafe\n(unsafe)";
        assert_eq!(lines_with_word(code, "unsafe"), [2, 4]);
    }
}
