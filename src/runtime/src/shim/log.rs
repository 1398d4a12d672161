//! A container's log file in the CRI format, with one line per record: `<RFC 3339 time with
//! nanoseconds> stdout|stderr F|P <text>`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Maximum length of a record's text in bytes. Longer lines are split into several records, all but
/// the last tagged `P`.
pub const MAX_LINE: usize = 16 * 1024;

/// The output stream of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A log file, with the unfinished line of each stream.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    partial: [Vec<u8>; 2],
    record: Vec<u8>,
}

impl Log {
    /// Opens the log at `path` for appending. Creates missing directories.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            file: Some(open(path)?),
            partial: [Vec::new(), Vec::new()],
            record: Vec::new(),
        })
    }

    /// Reopens the file after it was renamed.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(open(&self.path)?);
        Ok(())
    }

    /// Writes output of a stream. Each complete line becomes a record.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: impl Fn() -> i128) {
        let index = stream as usize;
        self.record.clear();
        let time = timestamp(now());
        let mut rest = bytes;
        while !rest.is_empty() {
            let newline = rest.iter().position(|b| *b == b'\n');
            let room = MAX_LINE - self.partial[index].len();
            let take = newline.unwrap_or(rest.len()).min(room);
            self.partial[index].extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if rest.first() == Some(&b'\n') {
                rest = &rest[1..];
                self.emit(stream, &time, b'F');
            } else if self.partial[index].len() == MAX_LINE {
                self.emit(stream, &time, b'P');
            }
        }
        self.flush();
    }

    /// Writes a stream's unfinished last line, tagged `P`.
    pub fn finish(&mut self, stream: Stream, now: impl Fn() -> i128) {
        if !self.partial[stream as usize].is_empty() {
            self.record.clear();
            self.emit(stream, &timestamp(now()), b'P');
            self.flush();
        }
    }

    /// Formats a record from the stream's pending text.
    fn emit(&mut self, stream: Stream, time: &str, tag: u8) {
        self.record.extend_from_slice(time.as_bytes());
        self.record.extend_from_slice(match stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        self.record.extend_from_slice(&[tag, b' ']);
        let partial = &mut self.partial[stream as usize];
        self.record.extend_from_slice(partial);
        self.record.push(b'\n');
        partial.clear();
    }

    /// Writes the formatted records. Errors are ignored, so that a full disk does not stop the
    /// container.
    fn flush(&mut self) {
        if self.record.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.record);
        }
        if self.record.capacity() > 64 * 1024 {
            self.record = Vec::new();
        }
    }
}

/// Opens a log file for appending, with mode 0640.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

/// Formats nanoseconds since 1970 as RFC 3339, such as `2026-01-02T03:04:05.000000006Z`.
pub fn timestamp(nanoseconds: i128) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds)
        .map(|time| format!("{time:.9}"))
        .unwrap_or_default()
}

/// Returns the current time in nanoseconds since 1970.
pub fn now() -> i128 {
    jiff::Timestamp::now().as_nanosecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[(Stream, &[u8])]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.log");
        let mut log = Log::open(&path).unwrap();
        for (stream, bytes) in pieces {
            log.write(*stream, bytes, || 1_000_000_006);
        }
        log.finish(Stream::Stdout, || 1_000_000_006);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_become_records() {
        let text = written(&[
            (Stream::Stdout, b"one\ntwo"),
            (Stream::Stderr, b"oops\n\n"),
            (Stream::Stdout, b" more\nrest"),
        ]);
        let time = "1970-01-01T00:00:01.000000006Z";
        assert_eq!(
            text,
            format!(
                "{time} stdout F one\n{time} stderr F oops\n{time} stderr F \n{time} stdout F two more\n{time} stdout P rest\n"
            )
        );
    }

    #[test]
    fn long_lines_are_split() {
        let long = vec![b'x'; MAX_LINE + 10];
        let text = written(&[(Stream::Stdout, &long), (Stream::Stdout, b"\n")]);
        let tags: Vec<&str> = text.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
        let exact = vec![b'x'; MAX_LINE];
        let text = written(&[(Stream::Stdout, &exact), (Stream::Stdout, b"\n")]);
        assert_eq!(text.lines().count(), 2);
    }
}
