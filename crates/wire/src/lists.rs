//! Comma-separated lists in header values, as RFC 9110 §5.6.1 and RFC 7240 §2 have them.

/// The names in a list such as `if-available; x=1, respond-async`: the tokens before `=`, `;` and the next comma.
/// Empty elements are passed over, and commas in quoted strings separate nothing.
pub fn tokens(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = element_end(rest);
            let (element, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
            rest = tail.get(1..).unwrap_or_default();
            let name = element.split([';', '=']).next().unwrap_or_default().trim_ascii();
            if !name.is_empty() {
                return Some(name);
            }
        }
        None
    })
}

/// Whether one of the values of a header has `name` in its list, whatever the case.
///
/// ```
/// use router_wire::lists::has_token;
///
/// let prefer = ["wait=5, If-Available; x=1"];
/// assert!(has_token(prefer, "if-available"));
/// ```
pub fn has_token<'a>(values: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    values.into_iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(name)))
}

/// Where the first comma outside quotes is.
fn element_end(list: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    list.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: &[&str]) {
        assert_eq!(tokens(value).collect::<Vec<_>>(), expected, "{value:?}");
    }

    #[test]
    fn names_are_taken_from_lists() {
        check("", &[]);
        check("if-available", &["if-available"]);
        check(" , a ,, b;q=1 ,c = \"x,y\", d=\"\\\",\" ,e", &["a", "b", "c", "d", "e"]);
        check("respond-async, wait=100", &["respond-async", "wait"]);
        check("a=\"open, b", &["a"]);
        check("Trailers,", &["Trailers"]);
        check("ü, b", &["ü", "b"]);
    }

    #[test]
    fn a_token_is_a_whole_name() {
        assert!(has_token(["IF-AVAILABLE"], "if-available"));
        assert!(has_token(["wait=5", "x, if-available;foo"], "if-available"));
        assert!(!has_token(["if-available-soon"], "if-available"));
        assert!(!has_token(["x=\"a, if-available\""], "if-available"));
        assert!(!has_token([], "if-available"));
    }
}
