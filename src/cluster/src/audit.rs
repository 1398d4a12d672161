//! The file of the log of commands. It is bounded: the oldest lines go first.

use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::time::SystemTime;

use rkube_failure::Failure;

use crate::files::{Home, io_failure, owned, write_private};
use crate::sudo::act_for_owner_of;

/// The most lines that are kept, minikube's default.
const MAX_LINES: usize = 1000;
/// The size from which on the lines are counted: fewer than that many lines of the shortest kind.
const CHECKED_SIZE: u64 = 64 << 10;

/// Appends a line. Does nothing if rkube has no directory, which a log alone does not justify.
pub fn add(home: &Home, line: &str) -> Result<(), Failure> {
    let path = home.audit_file();
    if !home.root().is_dir() {
        return Ok(());
    }
    let size = {
        let _owner = act_for_owner_of(&path);
        let mut options = std::fs::File::options();
        let mut append = || {
            // One write, so that lines of commands at the same time do not mix.
            let options = options.create(true).append(true).read(true);
            let mut file = owned(options, 0o600).open(&path)?;
            // A full disk may have cut the last line off.
            let start = if ends_line(&mut file)? { "" } else { "\n" };
            file.write_all(format!("{start}{line}\n").as_bytes())?;
            file.metadata().map(|data| data.len())
        };
        match append() {
            // The last cluster was deleted in the meantime.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|e| io_failure("write", &path, &e))?,
        }
    };
    if size > CHECKED_SIZE {
        let lines = lines(home)?;
        if lines.len() > MAX_LINES {
            let kept = &lines[lines.len() - MAX_LINES / 2..];
            write_private(&path, format!("{}\n", kept.join("\n")).as_bytes())?;
        }
    }
    Ok(())
}

/// Whether a file is empty or ends with the end of a line.
fn ends_line(file: &mut std::fs::File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns the lines, the newest last; none if there is no log.
pub fn lines(home: &Home) -> Result<Vec<String>, Failure> {
    let path = home.audit_file();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.lines().map(str::to_owned).collect())
        }
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(io_failure("read", &path, &e)),
    }
}

/// Returns a time as the log has it, RFC 3339 in UTC with seconds.
pub fn time(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    let rounded = at.round(jiff::Unit::Second).unwrap_or(at);
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_private_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        add(&home, "lost").unwrap();
        assert!(!home.root().exists() && lines(&home).unwrap().is_empty());
        std::fs::create_dir(home.root()).unwrap();
        // As short as an entry can be.
        let line = |i: usize| format!("{i:04} {}", "x".repeat(120));
        for i in 0..1500 {
            add(&home, &line(i)).unwrap();
        }
        let all = lines(&home).unwrap();
        assert!(all.len() <= MAX_LINES && all.len() >= MAX_LINES / 2);
        assert_eq!(all.last(), Some(&line(1499)));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = home.audit_file().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::write(home.audit_file(), "one\ntw").unwrap();
        add(&home, "three").unwrap();
        add(&home, "four").unwrap();
        assert_eq!(lines(&home).unwrap(), ["one", "tw", "three", "four"]);
    }

    #[test]
    fn the_log_goes_with_the_last_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        std::fs::create_dir_all(home.profile_dir("a")).unwrap();
        add(&home, "one").unwrap();
        home.tidy();
        assert_eq!(lines(&home).unwrap(), ["one"]);
        std::fs::remove_dir(home.profile_dir("a")).unwrap();
        home.tidy();
        assert!(!home.root().exists());
    }

    #[test]
    fn times_have_seconds() {
        assert_eq!(time(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
