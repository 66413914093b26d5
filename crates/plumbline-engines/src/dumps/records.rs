//! Cutting a stream into records: JSON lines, or JSON values that span lines (an indented object, an array of objects).
//!
//! One record is held at a time, and none that is longer than the limit.

use std::io::{self, BufRead, Cursor, Read};

use super::source::Stream;

/// Cuts a stream into records.
pub(super) struct Records {
    stream: Stream,
    /// Bytes of a record at most.
    limit: usize,
    /// Line of the next byte, from 1.
    line: u64,
    framing: Framing,
    ended: bool,
}

/// How records follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Not looked at yet.
    Unknown,
    /// One a line. A bad one ends with its line.
    Lines,
    /// One after the other, with white space and commas between them; in an array if `in_array`.
    Values { in_array: bool },
}

/// Why there is no record.
#[derive(Debug)]
pub(super) enum RecordError {
    /// This record cannot be used; reading goes on behind it.
    Bad { line: u64, reason: String },
    /// Nothing more can be read.
    End { line: u64, reason: String },
}

impl Records {
    pub(super) fn new(stream: Stream, limit: usize) -> Self {
        Self { stream, limit, line: 1, framing: Framing::Unknown, ended: false }
    }

    /// Puts the next record into `record` and returns the line where it begins; `None` at the end. Empty lines are none.
    pub(super) fn next(&mut self, record: &mut Vec<u8>) -> Option<Result<u64, RecordError>> {
        if self.ended {
            return None;
        }
        let next = self.read(record).transpose();
        self.ended = matches!(next, None | Some(Err(RecordError::End { .. })));
        next
    }

    fn read(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, RecordError> {
        if self.framing == Framing::Unknown {
            self.look()?;
        }
        match self.framing {
            Framing::Values { in_array } => self.value(record, in_array),
            Framing::Unknown | Framing::Lines => self.next_line(record),
        }
    }

    /// Finds out how records follow each other.
    fn look(&mut self) -> Result<(), RecordError> {
        let start = self.peek()?;
        if start.starts_with(b"\xef\xbb\xbf") {
            self.stream.consume(3);
        }
        match self.skip(|byte| byte.is_ascii_whitespace())? {
            Some(b'[') => {
                self.stream.consume(1);
                self.framing = Framing::Values { in_array: true };
            }
            Some(b'{') => {
                // An object that does not end with its line, and then no other object begins: it is written over lines.
                let mut first = Vec::new();
                let complete = self.line(&mut first)?;
                let indented =
                    complete && end_of_value(&first).is_none() && !matches!(self.peek()?.first(), None | Some(b'{'));
                self.framing = if indented { Framing::Values { in_array: false } } else { Framing::Lines };
                let rest = std::mem::replace(&mut self.stream, Box::new(io::empty()));
                self.stream = Box::new(Cursor::new(first).chain(rest));
            }
            _ => self.framing = Framing::Lines,
        }
        Ok(())
    }

    fn next_line(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, RecordError> {
        loop {
            record.clear();
            if self.peek()?.is_empty() {
                return Ok(None);
            }
            let line = self.line;
            let complete = self.line(record)?;
            self.line += 1;
            if !complete {
                self.skip_line()?;
                return Err(RecordError::Bad { line, reason: format!("is longer than {} bytes", self.limit) });
            }
            if !record.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Reads to the end of the line, but no more than a byte beyond the limit; `false` if the line is longer.
    fn line(&mut self, line: &mut Vec<u8>) -> Result<bool, RecordError> {
        let number = self.line;
        // The end of the line does not count.
        let most = self.limit as u64 + 1;
        let read = (&mut self.stream).take(most).read_until(b'\n', line);
        read.map_err(|error| RecordError::End { line: number, reason: format!("cannot be read: {error}") })?;
        Ok(line.len() as u64 <= self.limit as u64 || line.last() == Some(&b'\n'))
    }

    /// Leaves out the rest of a line.
    fn skip_line(&mut self) -> Result<(), RecordError> {
        loop {
            let bytes = self.peek()?;
            let (used, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (bytes.len(), bytes.is_empty()),
            };
            self.stream.consume(used);
            if ended {
                return Ok(());
            }
        }
    }

    fn value(&mut self, record: &mut Vec<u8>, in_array: bool) -> Result<Option<u64>, RecordError> {
        record.clear();
        let first = self.skip(|byte| byte.is_ascii_whitespace() || byte == b',')?;
        let line = self.line;
        let end = |reason: &str| Err(RecordError::End { line, reason: reason.to_owned() });
        match first {
            Some(b'{') => {}
            Some(b']') if in_array => return Ok(None),
            None if in_array => return end("the array has no end"),
            None => return Ok(None),
            Some(_) => return end("expected an object here"),
        }
        let mut scanner = Scanner::default();
        loop {
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return end("the object that begins here has no end");
            }
            let end_of_value = scanner.end(bytes);
            let used = end_of_value.unwrap_or(bytes.len());
            let lines = bytes[..used].iter().filter(|byte| **byte == b'\n').count() as u64;
            record.extend_from_slice(&bytes[..used]);
            self.stream.consume(used);
            self.line += lines;
            if record.len() > self.limit {
                return end(&format!("the object that begins here is longer than {} bytes", self.limit));
            }
            if end_of_value.is_some() {
                return Ok(Some(line));
            }
        }
    }

    /// Leaves out bytes and returns the first other one, which stays.
    fn skip(&mut self, leave_out: impl Fn(u8) -> bool) -> Result<Option<u8>, RecordError> {
        loop {
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let place = bytes.iter().position(|byte| !leave_out(*byte));
            let used = place.unwrap_or(bytes.len());
            let lines = bytes[..used].iter().filter(|byte| **byte == b'\n').count() as u64;
            let next = place.map(|place| bytes[place]);
            self.stream.consume(used);
            self.line += lines;
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn peek(&mut self) -> Result<&[u8], RecordError> {
        let line = self.line;
        self.stream.fill_buf().map_err(|error| RecordError::End { line, reason: format!("cannot be read: {error}") })
    }
}

/// Finds the end of a JSON object by its braces.
#[derive(Debug, Default)]
struct Scanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Where in the next bytes the object ends: behind its last byte.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

fn end_of_value(bytes: &[u8]) -> Option<usize> {
    Scanner::default().end(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Records as `line: text`, and what is wrong.
    fn cut(text: &str, limit: usize, buffer: usize) -> Vec<String> {
        let stream = io::BufReader::with_capacity(buffer, Cursor::new(text.as_bytes().to_vec()));
        let mut records = Records::new(Box::new(stream), limit);
        let (mut record, mut found) = (Vec::new(), Vec::new());
        while let Some(next) = records.next(&mut record) {
            found.push(match next {
                Ok(line) => format!("{line}: {}", String::from_utf8_lossy(&record).trim()),
                Err(RecordError::Bad { line, reason }) => format!("{line} bad: {reason}"),
                Err(RecordError::End { line, reason }) => format!("{line} end: {reason}"),
            });
        }
        found
    }

    #[test]
    fn lines_are_records() {
        let text = "\u{feff}\n{\"a\":1}\n\n{\"b\":\n{\"c\":3}\r\n{\"d\"";
        assert_eq!(cut(text, 100, 4), ["2: {\"a\":1}", "4: {\"b\":", "5: {\"c\":3}", "6: {\"d\""]);
        assert!(cut("", 100, 4).is_empty() && cut(" \n \n", 100, 4).is_empty());
        assert_eq!(cut("what\n{}", 100, 4), ["1: what", "2: {}"]);
        assert_eq!(
            cut("{\"cut\n{\"b\":1}\n", 100, 4),
            ["1: {\"cut", "2: {\"b\":1}"],
            "the next line is another record"
        );
    }

    #[test]
    fn long_lines_are_left_out() {
        let text = format!("{{\"a\":1}}\n{{\"b\":\"{}\"}}\n{{\"c\":3}}\n", "x".repeat(50));
        assert_eq!(cut(&text, 10, 4), ["1: {\"a\":1}", "2 bad: is longer than 10 bytes", "3: {\"c\":3}"]);
        assert_eq!(cut("{\"a\":123}\n{\"b\":123}", 9, 4).len(), 2, "the limit itself is not too long");
    }

    #[test]
    fn values_over_lines_are_records() {
        let text = "{\n  \"a\": [1,\n 2],\n \"s\": \"}\\\"{\"\n}\n{\n  \"b\": 2\n}\n";
        let found = cut(text, 100, 3);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("1: {") && found[0].ends_with('}') && found[1].starts_with("6: {"), "{found:?}");
        assert_eq!(cut("[{\"a\":1},\n {\"b\":[2]}]\n", 100, 3), ["1: {\"a\":1}", "2: {\"b\":[2]}"]);
        assert_eq!(cut("[{\"a\":1},\n", 100, 3), ["1: {\"a\":1}", "2 end: the array has no end"]);
        assert_eq!(cut("[{\"a\":1}, 5]", 100, 3)[1], "1 end: expected an object here");
        assert_eq!(cut("{\n\"a\": {\n", 100, 3), ["1 end: the object that begins here has no end"]);
        assert_eq!(
            cut("[{\"a\":\"xxxxxxxxxxx\"}]", 10, 3),
            ["1 end: the object that begins here is longer than 10 bytes"]
        );
    }

    proptest! {
        /// However the bytes arrive and whatever they are: the same records, and an end.
        #[test]
        fn buffers_do_not_matter(text in r#"[{}\[\]"\\,:a1 \n]{0,80}"#, limit in 1usize..40, buffer in 1usize..10) {
            prop_assert_eq!(cut(&text, limit, buffer), cut(&text, limit, 1000));
        }
    }
}
