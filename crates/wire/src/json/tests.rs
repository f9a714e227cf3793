use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;

/// Puts the tokens together again.
#[derive(Default)]
struct Tree {
    open: Vec<(Value, Option<String>)>,
    done: Option<Value>,
    spans: Vec<(String, Range<usize>)>,
}

impl Tree {
    fn value(&mut self, value: Value) {
        match self.open.last_mut() {
            Some((Value::Array(list), _)) => list.push(value),
            Some((Value::Object(map), key)) => {
                map.insert(key.take().unwrap(), value);
            }
            Some(_) => unreachable!("only containers are open"),
            None => self.done = Some(value),
        }
    }
}

fn unescaped(text: Text<'_>) -> String {
    let raw = text.raw.unwrap_or(b"too long");
    let mut out = vec![];
    let mut unescaper = Unescaper::default();
    let mut take = |part: &[u8]| {
        out.extend_from_slice(part);
        true
    };
    unescaper.feed(raw, &mut take);
    unescaper.finish(&mut take);
    assert_eq!(text.escapes.any() && text.raw.is_some(), raw.contains(&b'\\'));
    String::from_utf8(out).unwrap()
}

impl Sink for Tree {
    fn token(&mut self, token: Token<'_>, span: Range<usize>) {
        self.spans.push((format!("{token:?}"), span));
        match token {
            Token::ObjectStart => self.open.push((Value::Object(Default::default()), None)),
            Token::ArrayStart => self.open.push((Value::Array(vec![]), None)),
            Token::ObjectEnd | Token::ArrayEnd => {
                let (value, _) = self.open.pop().unwrap();
                self.value(value);
            }
            Token::Key(text) => self.open.last_mut().unwrap().1 = Some(unescaped(text)),
            Token::Str(text) => self.value(Value::String(unescaped(text))),
            Token::Number(raw) => {
                self.value(serde_json::from_slice(raw.unwrap_or(b"0")).unwrap_or(Value::Null));
            }
            Token::Bool(value) => self.value(Value::Bool(value)),
            Token::Null => self.value(Value::Null),
        }
    }
}

fn read(pieces: &[&[u8]]) -> (Result<(), JsonError>, Tree) {
    let (mut tokenizer, mut tree, mut at) = (Tokenizer::default(), Tree::default(), 0);
    for piece in pieces {
        if let Err(error) = tokenizer.feed(piece, at, &mut tree) {
            return (Err(error), tree);
        }
        at += piece.len();
    }
    (tokenizer.finish(at, &mut tree), tree)
}

/// Checks the verdict, and that it and all tokens are the same wherever the document is cut in two.
fn check(document: &[u8], expected: Result<(), JsonError>) {
    let shown = String::from_utf8_lossy(document).into_owned();
    let (verdict, tree) = read(&[document]);
    assert_eq!(verdict, expected, "{shown}");
    for cut in 0..=document.len() {
        let (a, b) = document.split_at(cut);
        let (split_verdict, split) = read(&[a, b]);
        assert_eq!(split_verdict, expected, "{shown} cut at {cut}");
        assert_eq!(split.spans, tree.spans, "{shown} cut at {cut}");
    }
    let single: Vec<&[u8]> = document.chunks(1).collect();
    assert_eq!(read(&single).0, expected, "{shown} in single bytes");
    assert_eq!(read(&single).1.spans, tree.spans, "{shown} in single bytes");
}

fn good(document: &str) {
    check(document.as_bytes(), Ok(()));
    let tree = read(&[document.as_bytes()]).1;
    assert_eq!(tree.done.unwrap(), serde_json::from_str::<Value>(document).unwrap(), "{document}");
}

fn bad(document: &[u8], kind: JsonErrorKind, offset: usize) {
    check(document, Err(kind.at(offset)));
}

#[test]
fn documents_are_read() {
    for document in [
        "0",
        " -0 ",
        "[]",
        "{}",
        "null",
        "true",
        r#""""#,
        "[1,-2.5,3e4,5E-6,0.1e+2]",
        "[[],{},[[{}]]]",
        r#" { "a" : [ 1 , { "b" : "c" } ] , "d" : false , "a b" : null } "#,
        r#"{"\u0061\n":"\"\\\/\b\f\n\r\t\u20AC\ud83d\ude00"}"#,
        r#"["é","日本語","😀","a😀b"]"#,
        "\t\r\n[1\n,\r2\t]\n",
    ] {
        good(document);
    }
}

#[test]
fn what_is_not_json_is_refused_where_it_goes_wrong() {
    use JsonErrorKind::*;
    bad(b"", UnexpectedEnd, 0);
    bad(b"  ", UnexpectedEnd, 2);
    bad(b"{", UnexpectedEnd, 1);
    bad(b"[1,", UnexpectedEnd, 3);
    bad(b"[1,]", UnexpectedByte(b']'), 3);
    bad(b"[,1]", UnexpectedByte(b','), 1);
    bad(b"{,}", UnexpectedByte(b','), 1);
    bad(br#"{"a":1,}"#, UnexpectedByte(b'}'), 7);
    bad(br#"{"a" 1}"#, UnexpectedByte(b'1'), 5);
    bad(b"{a:1}", UnexpectedByte(b'a'), 1);
    bad(br#"{"a":}"#, UnexpectedByte(b'}'), 5);
    bad(b"[1 2]", UnexpectedByte(b'2'), 3);
    bad(b"[1}", UnexpectedByte(b'}'), 2);
    bad(br#"{"a":1]"#, UnexpectedByte(b']'), 6);
    bad(b"]", UnexpectedByte(b']'), 0);
    bad(b"1 1", TrailingByte(b'1'), 2);
    bad(b"{}]", TrailingByte(b']'), 2);
    bad(b"{}\0", TrailingByte(0), 2);
    bad(b"{} ,", TrailingByte(b','), 3);
    bad(b"01", TrailingByte(b'1'), 1);
    bad(b"[-]", BadNumber, 2);
    bad(b"[1.]", BadNumber, 3);
    bad(b"[1.e]", BadNumber, 3);
    bad(b"[1e]", BadNumber, 3);
    bad(b"-", UnexpectedEnd, 1);
    bad(b"[+1]", UnexpectedByte(b'+'), 1);
    bad(b"[NaN]", UnexpectedByte(b'N'), 1);
    bad(b"[nul]", BadLiteral, 4);
    bad(b"tru", UnexpectedEnd, 3);
    bad(b"[truE]", BadLiteral, 4);
    bad(b"\"a\nb\"", ControlCharacter(b'\n'), 2);
    bad(b"\"\0\"", ControlCharacter(0), 1);
    bad(br#""\x""#, BadEscape, 2);
    bad(br#""\u12G4""#, BadEscape, 5);
    bad(br#""\u12"#, UnexpectedEnd, 5);
    bad(b"\"abc", UnexpectedEnd, 4);
    bad(b"\"\xff\"", InvalidUtf8, 1);
    bad(b"\"a\xc3\"", InvalidUtf8, 2);
    bad(b"\"a\xe2\x82b\"", InvalidUtf8, 2);
    bad(b"\"\xc0\x80\"", InvalidUtf8, 1);
    bad(b"\"\xed\xa0\x80\"", InvalidUtf8, 1);
    bad(b"\"\xf5\x80\x80\x80\"", InvalidUtf8, 1);
    bad(b"[\xef\xbb\xbf]", UnexpectedByte(0xef), 1);
}

#[test]
fn nesting_is_bounded() {
    let nested = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
    assert_eq!(read(&[&nested(128)]).0, Ok(()));
    let error = JsonErrorKind::TooDeep { limit: 128 }.at(128);
    assert_eq!(read(&[&nested(129)]).0, Err(error));
    assert_eq!(error.to_string(), "nested deeper than 128 at byte 128");

    let mut tokenizer = Tokenizer::new(100_000);
    let error = JsonErrorKind::TooDeep { limit: MAX_DEPTH }.at(MAX_DEPTH);
    assert_eq!(tokenizer.feed(&nested(100_000), 0, &mut Tree::default()), Err(error));
}

#[test]
fn long_strings_are_not_handed_over_wherever_they_are_cut() {
    for len in [MAX_RAW_BYTES - 1, MAX_RAW_BYTES, MAX_RAW_BYTES + 1, 3 * MAX_RAW_BYTES] {
        let document = format!("\"{}\"", "x".repeat(len));
        check(document.as_bytes(), Ok(()));
        let handed_over = read(&[document.as_bytes()]).1.done.unwrap().as_str().unwrap().len();
        assert_eq!(handed_over == len, len <= MAX_RAW_BYTES, "{len}");
    }
}

#[test]
fn an_error_is_final() {
    let mut tokenizer = Tokenizer::default();
    let error = tokenizer.feed(b"[}", 0, &mut Tree::default()).unwrap_err();
    assert_eq!(tokenizer.feed(b"]", 2, &mut Tree::default()), Err(error));
    assert_eq!(tokenizer.finish(3, &mut Tree::default()), Err(error));
    tokenizer.reset();
    assert_eq!(tokenizer.feed(b"[]", 0, &mut Tree::default()), Ok(()));
}

/// Documents of all shapes, in compact and in spacious writing.
fn documents() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof!["[a-z]{0,6}", "\\PC{0,12}", "[\"\\\\/\u{0}-\u{1f}é😀]{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    (tree, any::<bool>()).prop_map(|(value, pretty)| {
        let write = if pretty { serde_json::to_vec_pretty } else { serde_json::to_vec };
        write(&value).unwrap()
    })
}

/// `IgnoredAny` takes numbers of any size and surrogates without their half, as we do, but does not look at UTF-8.
fn is_json(document: &[u8]) -> bool {
    std::str::from_utf8(document).is_ok() && serde_json::from_slice::<IgnoredAny>(document).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn trees_are_what_serde_reads(document in documents(), size in 1usize..40) {
        let pieces: Vec<&[u8]> = document.chunks(size).collect();
        let (verdict, tree) = read(&pieces);
        prop_assert_eq!(verdict, Ok(()));
        let expected: Value = serde_json::from_slice(&document).unwrap();
        prop_assert_eq!(tree.done.unwrap(), expected);
    }

    #[test]
    fn broken_documents_get_the_verdict_of_serde(
        document in documents(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
        size in 1usize..40,
    ) {
        let mut document = document;
        for (at, byte, edit) in edits {
            let at = at.index(document.len().max(1));
            match edit {
                0 if at < document.len() => document[at] = byte,
                1 if at < document.len() => { document.remove(at); }
                _ => document.insert(at, b"\"\\{}[],:0e-. tn\n\xc3"[usize::from(byte) % 17]),
            }
        }
        let pieces: Vec<&[u8]> = document.chunks(size).collect();
        let (verdict, _) = read(&pieces);
        prop_assert_eq!(verdict.is_ok(), is_json(&document), "{:?}", verdict);
        prop_assert_eq!(verdict, read(&[&document]).0);
    }

    #[test]
    fn noise_gets_the_verdict_of_serde(document in "[\\[\\]{}\":,0-2\\-.eE tfn\\\\u]{0,12}") {
        prop_assert_eq!(read(&[document.as_bytes()]).0.is_ok(), is_json(document.as_bytes()));
    }
}
