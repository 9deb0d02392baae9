//! What serde_json lets pass and a server must not: the same name twice in an object at any depth, too deep
//! nesting, and escapes that are no character (a lone surrogate).
//!
//! Works on text that is already known to be JSON; one pass, no recursion. Tests: below.

use std::borrow::Cow;

/// Says what is wrong with this JSON text, if anything.
pub(crate) fn check(json: &str, max_depth: usize) -> Result<(), String> {
    // One entry per open bracket: the names so far for an object, `None` for an array.
    let mut open: Vec<Option<Vec<Cow<'_, str>>>> = Vec::new();
    let mut name_next = false;
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                if open.len() == max_depth {
                    return Err(format!("nested deeper than {max_depth}"));
                }
                name_next = *byte == b'{';
                open.push(name_next.then(Vec::new));
            }
            b'}' | b']' => {
                if let Some(Some(mut names)) = open.pop() {
                    names.sort_unstable();
                    if names.windows(2).any(|pair| pair[0] == pair[1]) {
                        return Err("an object has the same name twice".to_owned());
                    }
                }
                name_next = false;
            }
            b',' => name_next = matches!(open.last(), Some(Some(_))),
            b'"' => {
                let end = end_of_string(bytes, at);
                let text = string_value(&json[at..end])?;
                if name_next {
                    if let Some(Some(names)) = open.last_mut() {
                        names.push(text);
                    }
                }
                name_next = false;
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The position after the closing quote.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            None => return bytes.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

fn string_value(quoted: &str) -> Result<Cow<'_, str>, String> {
    if !quoted.contains('\\') {
        return Ok(Cow::Borrowed(quoted));
    }
    // Quoted again, so that it compares with the names that needed no work.
    serde_json::from_str::<String>(quoted)
        .map(|text| Cow::Owned(format!("\"{text}\"")))
        .map_err(|_| "a string holds an escape that is no character".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fine_passes() {
        for json in [
            "{}",
            "[]",
            "1",
            "\"a\"",
            r#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#,
            r#"{"a":"a","b":"a"}"#,
            r#"["a","a",{"x":["x","x"]}]"#,
            r#"{"a":"\ud83d\ude00 \" , {","b":"}"}"#,
            r#"{"a":["a","a"],"c":1}"#,
        ] {
            assert_eq!(check(json, 64), Ok(()), "{json}");
        }
    }

    #[test]
    fn what_is_not_fine_is_named() {
        for (json, part) in [
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"[{"x":{"a":1,"b":{},"a":2}}]"#, "twice"),
            (r#"{"a":1,"\u0061":2}"#, "twice"),
            (r#"{"a\n":1,"a\u000a":2}"#, "twice"),
            (r#"{"a":"\ud800"}"#, "escape"),
            (r#"{"\udc00":1}"#, "escape"),
            (r#"[[[[[1]]]]]"#, "deeper"),
            (r#"{"a":[{"a":[{}]}]}"#, "deeper"),
        ] {
            assert!(check(json, 4).unwrap_err().contains(part), "{json}");
        }
    }
}
