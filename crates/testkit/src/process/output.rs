//! What a child writes, kept within bounds and searchable while it is written.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// How many lines of each stream are kept: enough for an access log of a whole test.
pub const MAX_LINES: usize = 20_000;
/// How much of a line is kept, in bytes; the rest of it is dropped.
pub const MAX_LINE_LEN: usize = 64 * 1024;

/// The last lines of one stream.
#[derive(Debug)]
pub(super) struct Output {
    lines: Mutex<Lines>,
    /// Told of every new line and of the end.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// How many lines were dropped from the front.
    n_dropped: u64,
    is_closed: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self { lines: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Output {
    /// The first kept line that is wanted, or none when the stream ends without it.
    pub(super) async fn find_line(&self, is_wanted: &impl Fn(&str) -> bool) -> Option<String> {
        let mut changed = self.changed.subscribe();
        let mut next = 0_u64;
        loop {
            changed.mark_unchanged();
            let is_closed = {
                let lines = self.lines.lock();
                let skip = next.saturating_sub(lines.n_dropped) as usize;
                if let Some(line) = lines.kept.iter().skip(skip).find(|line| is_wanted(line)) {
                    return Some(line.clone());
                }
                next = lines.n_dropped + lines.kept.len() as u64;
                lines.is_closed
            };
            if is_closed || changed.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until the stream has ended.
    pub(super) async fn closed(&self) {
        self.find_line(&|_| false).await;
    }

    pub(super) fn text(&self) -> String {
        self.last_lines(MAX_LINES).join("\n")
    }

    pub(super) fn last_lines(&self, n_lines: usize) -> Vec<String> {
        let lines = self.lines.lock();
        let skip = lines.kept.len().saturating_sub(n_lines);
        lines.kept.iter().skip(skip).cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines.lock();
        if lines.kept.len() == MAX_LINES {
            lines.kept.pop_front();
            lines.n_dropped += 1;
        }
        lines.kept.push_back(String::from_utf8_lossy(line).into_owned());
        drop(lines);
        self.changed.send_replace(());
    }

    fn close(&self) {
        self.lines.lock().is_closed = true;
        self.changed.send_replace(());
    }
}

/// Reads `stream` on a thread of its own until it ends, so that the child never blocks on a full pipe.
pub(super) fn gather(stream: Option<impl Read + Send + 'static>, output: Arc<Output>) {
    let Some(stream) = stream else { return output.close() };
    std::thread::spawn(move || {
        read_lines(stream, &output);
        output.close();
    });
}

fn read_lines(stream: impl Read, output: &Output) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(chunk) = reader.fill_buf() {
        if chunk.is_empty() {
            break;
        }
        let line_end = chunk.iter().position(|&byte| byte == b'\n');
        let text = &chunk[..line_end.unwrap_or(chunk.len())];
        let room = MAX_LINE_LEN - line.len();
        line.extend_from_slice(&text[..text.len().min(room)]);
        let n_read = text.len() + usize::from(line_end.is_some());
        reader.consume(n_read);
        if line_end.is_some() {
            output.push(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        output.push(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &[u8], expected: &[&str]) {
        let output = Output::default();
        read_lines(written, &output);
        assert_eq!(output.last_lines(MAX_LINES), expected);
    }

    #[test]
    fn lines_are_split_and_bounded() {
        check(b"", &[]);
        check(b"a\n\nb", &["a", "", "b"]);
        check(b"\xff\n", &["\u{fffd}"]);
        let long = "x".repeat(MAX_LINE_LEN + 10);
        check(format!("{long}\ny\n").as_bytes(), &[&long[..MAX_LINE_LEN], "y"]);
    }

    #[test]
    fn old_lines_are_dropped() {
        let output = Output::default();
        let written: Vec<String> = (0..MAX_LINES + 2).map(|n| n.to_string()).collect();
        read_lines(written.join("\n").as_bytes(), &output);
        assert_eq!(output.last_lines(MAX_LINES).len(), MAX_LINES);
        assert_eq!(output.last_lines(MAX_LINES)[0], "2");
    }

    #[tokio::test]
    async fn a_line_is_found_whenever_it_comes() {
        let output = Arc::new(Output::default());
        output.push(b"early");
        assert_eq!(output.find_line(&|line| line == "early").await.as_deref(), Some("early"));
        let writer = Arc::clone(&output);
        let find = output.find_line(&|line| line == "late");
        let write = async move {
            writer.push(b"other");
            writer.push(b"late");
            writer.close();
        };
        let (found, ()) = tokio::join!(find, write);
        assert_eq!(found.as_deref(), Some("late"));
        assert_eq!(output.find_line(&|line| line == "never").await, None);
    }
}
