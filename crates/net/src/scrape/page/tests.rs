use proptest::{collection::vec, prop_assert, prop_assert_eq, proptest};

use super::*;

/// Feeds `pieces` one read at a time, then the end of the connection.
fn read(pieces: &[&[u8]], max: usize) -> Result<(Vec<u8>, bool), ScrapeError> {
    let mut reader = PageReader::new(max);
    let mut buffer = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        buffer.extend_from_slice(piece);
        if let Some(done) = reader.on_bytes(&mut buffer)? {
            return Ok((buffer[done.body].to_vec(), done.keep_alive));
        }
        assert!(buffer.len() <= MAX_HEAD_BYTES + max + MAX_LINE_BYTES + piece.len());
    }
    let done = reader.on_end(&buffer)?.unwrap();
    Ok((buffer[done.body].to_vec(), done.keep_alive))
}

fn check(answer: &str, expected: Result<(&str, bool), &str>) {
    let outcome = read(&[answer.as_bytes()], 100);
    match (outcome, expected) {
        (Ok((page, keep)), Ok((text, expected_keep))) => {
            assert_eq!((String::from_utf8(page).unwrap().as_str(), keep), (text, expected_keep));
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (outcome, _) => panic!("{answer:?}: {outcome:?}"),
    }
}

#[test]
fn every_framing_is_read() {
    check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Ok(("hello", true)));
    check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(("", true)));
    check("HTTP/1.1 200 OK\r\n\r\nuntil the end", Ok(("until the end", false)));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(&format!("{chunked}3\r\nabc\r\n02;x=y\r\nde\r\n0\r\n\r\n"), Ok(("abcde", true)));
    check(&format!("{chunked}1\r\na\r\n0\r\nx: trailer\r\n\r\n"), Ok(("a", true)));
    check(&format!("{chunked}0\r\n\r\n"), Ok(("", true)));
}

#[test]
fn a_connection_is_kept_only_when_both_sides_would() {
    let with = |version: &str, header: &str| {
        format!("{version} 200 OK\r\n{header}content-length: 1\r\n\r\nx")
    };
    check(&with("HTTP/1.1", "connection: close\r\n"), Ok(("x", false)));
    check(&with("HTTP/1.1", "connection: keep-alive, Close\r\n"), Ok(("x", false)));
    check(&with("HTTP/1.0", ""), Ok(("x", false)));
    check(&with("HTTP/1.0", "connection: Keep-Alive\r\n"), Ok(("x", true)));
    check(&format!("{}rest", with("HTTP/1.1", "")), Ok(("x", false)));
}

#[test]
fn what_is_wrong_is_said() {
    check("HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nsorry", Err("status 503"));
    check("HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n", Err("status 301"));
    check("HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", Err("larger than the limit of 100"));
    check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfour", Err("ended before"));
    check("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Err("not a number"));
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        Err("two different"),
    );
    check("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", Err("`gzip`"));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Err("unknown transfer"));
    check("HTTP/1.1 200", Err("ended before"));
    check("SSH-2.0-OpenSSH\r\n", Err("cannot be read"));
    check("", Err("ended before"));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(&format!("{chunked}x\r\n"), Err("chunk size"));
    check(&format!("{chunked}ffffffffffffffff\r\n"), Err("chunk size"));
    check(&format!("{chunked}+1\r\na\r\n"), Err("chunk size"));
    check(&format!("{chunked}1\r\nab\r\n"), Err("longer than it says"));
    check(&format!("{chunked}1\na"), Err("carriage return"));
    check(&format!("{chunked}1\r\na\r\n"), Err("ended before"));
    check(&format!("{chunked}65\r\n{}\r\n", "y".repeat(0x65)), Err("larger than the limit"));
    check(&format!("{chunked}1;{}", "e".repeat(5000)), Err("line is too long"));
    let trailers = "x: yyyyyyyyyyyyyyyyyyyy\r\n".repeat(400);
    check(&format!("{chunked}0\r\n{trailers}"), Err("trailers are too large"));
    let headers = "x: y\r\n".repeat(65);
    check(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), Err("too many headers"));
    check(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(40_000)), Err("head is too large"));
    check(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "y".repeat(101)), Err("larger than the limit"));
}

/// Cuts `bytes` at the given places.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn chunks_come_out_whole_however_they_are_cut(
        chunks in vec(vec(0_u8..=255, 1..40), 0..8),
        places in vec(0_usize..1000, 0..12),
    ) {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for chunk in &chunks {
            answer.extend(format!("{:X}\r\n", chunk.len()).bytes());
            answer.extend(chunk);
            answer.extend(b"\r\n");
        }
        answer.extend(b"0\r\n\r\n");
        let (page, keep_alive) = read(&cut(&answer, &places), 1000).unwrap();
        prop_assert_eq!(page, chunks.concat());
        prop_assert!(keep_alive);
    }

    #[test]
    fn whatever_comes_nothing_panics(
        chunked: bool,
        tail in vec(0_u8..=255, 0..300),
        places in vec(0_usize..1000, 0..6),
    ) {
        let head: &[u8] =
            if chunked { b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" } else { b"" };
        let answer = [head, &tail].concat();
        let outcome = read(&cut(&answer, &places), 64);
        prop_assert!(outcome.is_err() || outcome.is_ok_and(|(page, _)| page.len() <= 64));
    }
}
