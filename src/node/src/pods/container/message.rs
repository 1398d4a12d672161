//! Termination messages: what a container says when it ends.

use std::path::Path;

use super::super::instance::keys;
use super::super::paths::message_file;
use crate::log_line::LogLine;

/// Maximum length of a termination message, in bytes (the kubelet's limit).
const MAX_MESSAGE_BYTES: u64 = 4096;
/// Maximum length of a termination message that is taken from the log, in bytes.
const MAX_LOG_MESSAGE_BYTES: usize = 2048;
/// Maximum number of lines of a termination message that is taken from the log.
const MAX_LOG_MESSAGE_LINES: usize = 80;

/// Returns the termination message of a container that has exited.
///
/// The message is the end of the container's message file. If that is empty, the container failed
/// and its policy is `FallbackToLogsOnError`, it is the end of the log. The runtime's own message,
/// if there is one, precedes it.
pub(crate) fn termination_message(uid: &str, status: &rkube_runtime::ContainerStatus) -> String {
    let spec = &status.spec;
    let file = message_file(uid, &spec.name, spec.attempt);
    let mut text = read_end(&file, MAX_MESSAGE_BYTES);
    let policy = spec.annotations.get(keys::MESSAGE_POLICY);
    if text.is_empty()
        && policy.is_some_and(|p| p == "FallbackToLogsOnError")
        && status.exit_code != Some(0)
        && let Some(log) = &spec.log_path
    {
        text = log_tail(&read_end(log, 4 * MAX_LOG_MESSAGE_BYTES as u64));
    }
    join_messages(&status.message, &text)
}

/// Joins the runtime's message and the container's own.
fn join_messages(runtime: &str, own: &str) -> String {
    match (runtime, own) {
        ("", text) | (text, "") => text.to_owned(),
        (runtime, own) => format!("{runtime}: {own}"),
    }
}

/// Returns the last lines of a log in CRI format, without timestamps and stream names.
fn log_tail(raw: &str) -> String {
    let lines: Vec<String> = raw
        .lines()
        .filter_map(|l| LogLine::parse(l.as_bytes()))
        .map(|l| {
            let mut text = String::from_utf8_lossy(l.content).into_owned();
            if !l.partial {
                text.push('\n');
            }
            text
        })
        .collect();
    let mut text = lines[lines.len().saturating_sub(MAX_LOG_MESSAGE_LINES)..].concat();
    if text.len() > MAX_LOG_MESSAGE_BYTES {
        let mut cut = text.len() - MAX_LOG_MESSAGE_BYTES;
        while !text.is_char_boundary(cut) {
            cut += 1;
        }
        text.drain(..cut);
    }
    text
}

/// Returns at most `max` bytes from the end of a file; empty if it cannot be read.
fn read_end(path: &Path, max: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        if len > max {
            file.seek(SeekFrom::Start(len - max))?;
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(
        |_| String::new(),
        |b| String::from_utf8_lossy(&b).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_from_logs_are_short() {
        const TIME: &str = "2026-01-02T03:04:05.678901234Z";
        assert_eq!(
            log_tail(&format!(
                "{TIME} stdout P a\n{TIME} stdout F b\nx\n{TIME} stderr F c\n"
            )),
            "ab\nc\n"
        );
        let lines: String = (0..100).map(|i| format!("{TIME} stdout F {i}\n")).collect();
        let tail = log_tail(&lines);
        assert_eq!(tail.lines().next(), Some("20"));
        assert_eq!(tail.lines().count(), MAX_LOG_MESSAGE_LINES);
        let long = log_tail(&format!("{TIME} stdout F {}\n", "\u{e9}".repeat(2000)));
        assert!(long.len() <= MAX_LOG_MESSAGE_BYTES && long.len() > MAX_LOG_MESSAGE_BYTES - 2);
    }

    #[test]
    fn files_are_read_from_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "abcdef").unwrap();
        assert_eq!(read_end(&file, 4), "cdef");
        assert_eq!(read_end(&file, 10), "abcdef");
        assert_eq!(read_end(&dir.path().join("none"), 4), "");
    }

    #[test]
    fn messages_are_joined() {
        for (runtime, own, joined) in [
            ("", "", ""),
            ("OOM", "", "OOM"),
            ("", "bye", "bye"),
            ("OOM", "bye", "OOM: bye"),
        ] {
            assert_eq!(join_messages(runtime, own), joined);
        }
    }
}
