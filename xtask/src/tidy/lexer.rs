//! Just enough of Rust's lexical grammar to tell code from comments and literals.

/// A source split into code and comments, each as long as the source and with its line breaks;
/// what belongs to the other, or is inside a literal, is spaces.
#[derive(Default)]
pub(super) struct Blanked {
    pub(super) code: String,
    pub(super) comments: String,
}

pub(super) fn blank(text: &str) -> Blanked {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut comments = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (kind, len) = token(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        for &byte in &bytes[at..at + len] {
            let gap = if byte == b'\n' { b'\n' } else { b' ' };
            code.push(if kind == Kind::Code { byte } else { gap });
            comments.push(if kind == Kind::Comment { byte } else { gap });
        }
        at += len;
    }
    let to_text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Blanked { code: to_text(code), comments: to_text(comments) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// What begins at `rest` and how many bytes of it there are, at least one.
fn token(rest: &[u8], before: Option<u8>) -> (Kind, usize) {
    let starts_word = !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => {
            (Kind::Comment, rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()))
        }
        [b'/', b'*', ..] => (Kind::Comment, block_comment_len(rest)),
        [b'"', ..] => (Kind::Literal, string_len(rest, 1)),
        [b'r' | b'b' | b'c', ..] if starts_word => match raw_string_len(rest) {
            Some(len) => (Kind::Literal, len),
            None => (Kind::Code, 1),
        },
        // `'a'` is a literal, `'a` a lifetime.
        [b'\'', b'\\', ..] => (Kind::Literal, char_len(rest)),
        [b'\'', ..] => match std::str::from_utf8(&rest[1..rest.len().min(5)]) {
            Ok(next) => quoted_char(next),
            Err(error) => {
                let valid = &rest[1..=error.valid_up_to()];
                quoted_char(std::str::from_utf8(valid).unwrap_or_default())
            }
        },
        _ => (Kind::Code, 1),
    }
}

fn quoted_char(next: &str) -> (Kind, usize) {
    let mut chars = next.chars();
    match (chars.next(), chars.next()) {
        (Some(quoted), Some('\'')) => (Kind::Literal, quoted.len_utf8() + 2),
        _ => (Kind::Code, 1),
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a string with escapes whose first `at` bytes are its prefix and opening quote.
fn string_len(rest: &[u8], mut at: usize) -> usize {
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn char_len(rest: &[u8]) -> usize {
    // The byte after the backslash may be a quote itself.
    rest.iter().skip(3).position(|&b| b == b'\'').map_or(rest.len(), |at| at + 4)
}

/// Length of `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"` or `cr"…"`; none if it is a plain word.
fn raw_string_len(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take(2).take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    let is_raw = rest[..prefix].contains(&b'r');
    let n_hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = prefix + n_hashes;
    if rest.get(open) != Some(&b'"') || (n_hashes > 0 && !is_raw) {
        return None;
    }
    if !is_raw {
        return Some(string_len(rest, open + 1));
    }
    let mut close = vec![b'"'];
    close.resize(n_hashes + 1, b'#');
    let body = &rest[open + 1..];
    let at = body.windows(close.len()).position(|window| window == close);
    Some(at.map_or(rest.len(), |at| open + 1 + at + close.len()))
}

/// For each line of blanked code, whether it belongs to an item under `#[cfg(test)]`.
pub(super) fn test_lines(code: &str) -> Vec<bool> {
    let mut is_test = vec![false; code.lines().count()];
    for marker in ["#[cfg(test)]", "#[cfg(all(test"] {
        for (at, _) in code.match_indices(marker) {
            let first = line_of(code, at);
            let last = line_of(code, item_end(code, at + marker.len()));
            for flag in is_test.iter_mut().take(last + 1).skip(first) {
                *flag = true;
            }
        }
    }
    is_test
}

/// The position of the `;` or the closing brace that ends the item which begins at `from`.
pub(super) fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            b';' if depth == 0 => return at,
            _ => {}
        }
    }
    code.len()
}

/// The line, counted from 0, of a byte position.
pub(super) fn line_of(code: &str, at: usize) -> usize {
    code[..at.min(code.len())].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str) {
        let blanked = blank(text);
        assert_eq!(blanked.code, code, "{text}");
        assert_eq!(blanked.comments.len(), text.len());
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a // b", "a     ");
        check("a /* b /* c */ d */ e", "a                   e");
        check("f(\"x\\\"{\", 1)", "f(      , 1)");
        check("r#\"a\"b\"# + br\"c\" + b\"d\"", "         +       +     ");
        check("'{' '\\'' 'a: &'a str", "         'a: &'a str");
        check("'é' x", "     x");
        check("for r in b {}", "for r in b {}");
        check("\"open", "     ");
    }

    #[test]
    fn test_items_are_marked() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { [1; 2]; }\n}\nfn c() {}\n";
        assert_eq!(test_lines(code), [false, true, true, true, true, false]);
        let code = "#[cfg(test)]\nmod tests;\nfn a() {}\n";
        assert_eq!(test_lines(code), [true, true, false]);
        let code = "#[cfg(test)]\nuse a::{b, c};\nfn a() {}\n";
        assert_eq!(test_lines(code), [true, true, false]);
    }
}
