//! Others' text on its way into the page.

/// As text between tags or as the value of an attribute in double or single quotes.
pub(super) fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // What no page may hold, and what turns the direction of all text after it.
            '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => escaped += "\u{fffd}",
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped += "\u{fffd}",
            _ => escaped.push(char),
        }
    }
    escaped
}

/// JSON inside a `script` element: no `<` can end it or begin a comment.
pub(super) fn json_in_script(json: &str) -> String {
    // These characters are only in strings, where an escape says the same.
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped += &format!("\\u{:04x}", u32::from(char));
            }
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_end_what_it_stands_in() {
        let text = "</script><!--<a href='x' title=\"y\">&amp;\u{202e}\0";
        let safe = html(text);
        assert_eq!(
            safe,
            "&lt;/script&gt;&lt;!--&lt;a href=&#39;x&#39; title=&quot;y&quot;&gt;&amp;amp;\u{fffd}\u{fffd}"
        );
        let json = json_in_script(&serde_json::to_string(text).unwrap());
        assert!(!json.contains(['<', '>', '&']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
