//! What a program says line by line: progress reports, and the last of its complaints.

use std::collections::VecDeque;

use serde::Deserialize;

/// Longer lines are cut into pieces of this many bytes, so that a program that writes no line ends
/// takes no memory.
const MAX_LINE: usize = 8 * 1024;
/// How much of what a program said last goes into its error.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 3_500;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    rest: Vec<u8>,
}

impl Splitter {
    /// Takes bytes and hands on every line that they complete, without its end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let piece = &bytes[..bytes.len().min(room)];
            match piece.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.rest.extend_from_slice(&piece[..end]);
                    self.flush(&mut line);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.rest.extend_from_slice(piece);
                    bytes = &bytes[piece.len()..];
                    if self.rest.len() == MAX_LINE {
                        self.flush(&mut line);
                    }
                }
            }
        }
    }

    /// Hands on what came after the last line end.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            self.flush(&mut line);
        }
    }

    fn flush(&mut self, line: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.rest);
        line(text.trim_end_matches('\r'));
        self.rest.clear();
    }
}

/// The last lines.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, line: &str) {
        let mut line = line.to_owned();
        if line.len() > TAIL_BYTES {
            let end = (0..=TAIL_BYTES).rev().find(|at| line.is_char_boundary(*at));
            line.truncate(end.unwrap_or_default());
        }
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > TAIL_LINES || self.bytes > TAIL_BYTES + 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len() + 1);
        }
    }

    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join("\n").trim().to_owned()
    }
}

/// A report of progress.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) percent: i32,
    pub(super) message: String,
}

#[derive(Deserialize)]
struct ReportLine {
    progress: Option<f64>,
    message: Option<String>,
}

impl Report {
    /// Takes a line of the progress pipe; what it leaves out stays as it was. False when the line
    /// is no report.
    pub(super) fn update(&mut self, line: &str) -> bool {
        let Ok(report) = serde_json::from_str::<ReportLine>(line) else {
            return false;
        };
        if report.progress.is_none() && report.message.is_none() {
            return false;
        }
        if let Some(percent) = report.progress {
            // The conversion saturates; what is out of range is clamped.
            self.percent = (percent.round() as i32).clamp(0, 100);
        }
        if let Some(message) = report.message {
            self.message = message;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_found_however_they_arrive() {
        assert_eq!(split(&[b"a\nb", b"c\r\n\n", b"d"]), ["a", "bc", "", "d"]);
        assert!(split(&[b""]).is_empty());
        let long = vec![b'x'; MAX_LINE + 3];
        let lines = split(&[&long, b"\n"]);
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [MAX_LINE, 3]
        );
        assert_eq!(split(&[&[0xff, b'\n']]), ["\u{fffd}"]);
    }

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        assert_eq!(tail.text(), "");
        for number in 0..100 {
            tail.push(&format!("line {number}"));
        }
        let text = tail.text();
        assert!(
            text.starts_with("line 80\n") && text.ends_with("\nline 99"),
            "{text}"
        );
        tail.push(&"ä".repeat(TAIL_BYTES));
        assert!(tail.text().len() <= TAIL_BYTES && tail.text().starts_with('ä'));
    }

    #[test]
    fn reports_keep_what_they_do_not_change() {
        let mut report = Report::default();
        assert!(report.update(r#"{"progress": 40.4, "message": "half"}"#));
        assert_eq!((report.percent, report.message.as_str()), (40, "half"));
        assert!(report.update(r#"{"progress": 1e99}"#));
        assert_eq!((report.percent, report.message.as_str()), (100, "half"));
        assert!(report.update(r#"{"message": "done", "more": 1}"#));
        assert_eq!((report.percent, report.message.as_str()), (100, "done"));
        for no_report in ["", "40", "{}", "[1]", r#"{"progress": "x"}"#] {
            assert!(!report.update(no_report), "{no_report}");
        }
    }
}
