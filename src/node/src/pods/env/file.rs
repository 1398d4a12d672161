//! Values from a file of a volume (`fileKeyRef`).
//!
//! A line is `NAME='value'`, blank, or a comment. The value may span lines and has no escapes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::volumes::subpath;

/// Maximum size of a file that is read, in bytes. Containers write it.
const MAX_FILE: u64 = 1 << 20;
/// Maximum length of a line in bytes, upstream's.
const MAX_LINE: usize = 64 * 1024 - 1;

/// Reads the file `path` of the volume in the directory `volume`. Links lead nowhere else.
pub(super) fn read(volume: &Path, path: &str) -> io::Result<String> {
    let root = OwnedFd::from(File::open(volume)?);
    // A container may have made it a pipe, which must not stop the agent.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let relative = Path::new(path.trim_start_matches('/'));
    let file = File::from(subpath::open_in_root(&root, relative, flags)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(io::Error::other("it is no regular file of at most 1 MiB"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the value of `key`; empty if there is none. What follows it is not examined.
///
/// # Errors
///
/// Returns upstream's message for a line before the key that is malformed.
pub(super) fn value(text: &str, key: &str) -> Result<String, String> {
    let invalid = |at: usize, what: &str| {
        Err(format!(
            "invalid environment variable format at line {at}: {what}"
        ))
    };
    let mut lines = text.lines().zip(1..);
    while let Some((line, at)) = lines.next() {
        check_length(line)?;
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return invalid(at, "missing '='");
        };
        let trimmed = name.trim_end_matches(BLANKS);
        if trimmed.is_empty() {
            return invalid(at, "empty variable name");
        }
        if trimmed != name {
            return invalid(at, "whitespace before '=' is not allowed");
        }
        if value.starts_with(BLANKS) {
            // As in a shell, the value is empty.
            if name == key {
                break;
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return invalid(at, "value must be enclosed in single quotes");
        };
        let mut value = String::new();
        let mut end = at;
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                value.push_str(last);
                break after.trim_start_matches(BLANKS);
            }
            value.push_str(rest);
            value.push('\n');
            let Some((next, line)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {at}: unclosed single quote"
                ));
            };
            check_length(next)?;
            (rest, end) = (next, line);
        };
        if !after.is_empty() && !after.starts_with('#') {
            return invalid(end, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

/// The blanks that may surround names and values.
const BLANKS: [char; 2] = [' ', '\t'];

fn check_length(line: &str) -> Result<(), String> {
    if line.len() > MAX_LINE {
        return Err(
            "error reading environment variable file: bufio.Scanner: token too long".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_upstreams_parser() {
        for (text, key, want) in [
            ("A='1'\nB='2'\n", "B", Ok("2")),
            ("A='1'\nA='2'", "A", Ok("1")),
            ("  # c\n\n\tA='x y'  # after\n", "A", Ok("x y")),
            ("A='one\ntwo\n'\nB='3'", "A", Ok("one\ntwo\n")),
            ("A='one\ntwo'\nB='3'", "B", Ok("3")),
            ("A='1'\r\nB='2'\r\n", "B", Ok("2")),
            ("A= '1'\n", "A", Ok("")),
            ("A= broken\nB='2'", "B", Ok("2")),
            ("A='$B\\n\"'", "A", Ok("$B\\n\"")),
            ("A=''", "A", Ok("")),
            ("A='1'", "a", Ok("")),
            ("A='1'\nbroken", "A", Ok("1")),
            ("broken", "A", Err("at line 1: missing '='")),
            ("\n='1'", "A", Err("at line 2: empty variable name")),
            (
                "A ='1'",
                "A",
                Err("at line 1: whitespace before '=' is not allowed"),
            ),
            (
                "A=1",
                "A",
                Err("at line 1: value must be enclosed in single quotes"),
            ),
            (
                "A=\"1\"",
                "A",
                Err("at line 1: value must be enclosed in single quotes"),
            ),
            (
                "A='x\ny' z",
                "A",
                Err("at line 2: unexpected content after closing quote"),
            ),
            (
                "\nA='x\ny",
                "A",
                Err("starting at line 2: unclosed single quote"),
            ),
        ] {
            let want = want
                .map(str::to_owned)
                .map_err(|e| format!("invalid environment variable format {e}"));
            assert_eq!(value(text, key), want, "{text:?}");
        }
        assert!(value(&format!("A='{}'", "x".repeat(70_000)), "A").is_err());
    }

    #[test]
    fn files_are_those_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("d")).unwrap();
        std::fs::write(volume.join("d/env"), "A='1'").unwrap();
        std::fs::write(dir.path().join("secret"), "A='2'").unwrap();
        std::os::unix::fs::symlink("/d/env", volume.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        nix::unistd::mkfifo(
            &volume.join("pipe"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        for good in ["d/env", "/d/env", "absolute"] {
            assert_eq!(read(&volume, good).unwrap(), "A='1'", "{good}");
        }
        for bad in ["out", "../secret", "pipe", "d", "none"] {
            assert!(read(&volume, bad).is_err(), "{bad}");
        }
    }
}
