//! The values of `--chmod`: octal, or symbolic as those of `chmod(1)`.

use crate::error::{BuildError, Result};

/// The bits that a clause without users does not touch, as the usual umask of `chmod`.
const UMASK: u32 = 0o022;

/// The permission bits that copies get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These bits.
    Bits(u32),
    /// Changes to the bits of the original.
    Changes(Vec<Change>),
}

/// A change of permission bits: one operator of a clause such as `u=rwX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The bits of the users that are meant: 0700, 0070, 0007, and 04000, 02000, 01000.
    who: u32,
    /// Whether no users were named, so that [`UMASK`] counts.
    all: bool,
    operator: char,
    what: What,
}

/// What a change sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Bits of all users, and whether `X` adds those to execute.
    Bits(u32, bool),
    /// The bits that a user has: the number of places to shift them down.
    Copy(u32),
}

impl Mode {
    /// Parses the value of `--chmod`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).ok();
            return bits
                .filter(|bits| *bits <= 0o7777)
                .map(Self::Bits)
                .ok_or_else(|| wrong(text));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            clause_into(clause, &mut changes).ok_or_else(|| wrong(text))?;
        }
        Ok(Self::Changes(changes))
    }

    /// Returns the bits of a copy whose original has the bits `mode`.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Changes(changes) => changes
                .iter()
                .fold(mode & 0o7777, |mode, change| change.apply(mode, directory)),
        }
    }
}

fn wrong(text: &str) -> BuildError {
    BuildError::new(format!(
        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or symbolic as u=rwX,go=rX"
    ))
}

/// Parses one clause. Returns `None` if it is malformed.
fn clause_into(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let begin = clause.find(['+', '-', '='])?;
    let all = begin == 0;
    let mut who = if all { 0o7777 } else { 0 };
    for user in clause[..begin].chars() {
        who |= match user {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let mut rest = &clause[begin..];
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let what = match &rest[..end] {
            "u" => What::Copy(6),
            "g" => What::Copy(3),
            "o" => What::Copy(0),
            bits => permissions(bits)?,
        };
        changes.push(Change {
            who,
            all,
            operator,
            what,
        });
        rest = &rest[end..];
    }
    Some(())
}

fn permissions(text: &str) -> Option<What> {
    let (mut bits, mut execute) = (0, false);
    for letter in text.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => execute = true,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some(What::Bits(bits, execute))
}

impl Change {
    fn apply(self, mode: u32, directory: bool) -> u32 {
        let mut bits = match self.what {
            What::Copy(shift) => {
                let own = mode >> shift & 0o7;
                own << 6 | own << 3 | own
            }
            What::Bits(bits, execute) => {
                let executes = execute && (directory || mode & 0o111 != 0);
                bits | if executes { 0o111 } else { 0 }
            }
        };
        bits &= self.who;
        if self.all {
            bits &= !UMASK;
        }
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => {
                // As chmod, which keeps these of directories unless they are named.
                let special = match directory {
                    true => 0o6000 & !bits,
                    false => 0,
                };
                mode & !(self.who & !special) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_chmod() {
        // The mode, the bits before, those of a file and those of a directory afterwards.
        for (text, before, file, directory) in [
            ("0755", 0o600, 0o755, 0o755),
            ("7", 0o600, 0o007, 0o007),
            ("4755", 0o600, 0o4755, 0o4755),
            ("u+x", 0o644, 0o744, 0o744),
            ("+x", 0o644, 0o755, 0o755),
            ("+w", 0o444, 0o644, 0o644),
            ("a+w", 0o444, 0o666, 0o666),
            ("go-rwx", 0o777, 0o700, 0o700),
            ("u=rwX,go=rX", 0o600, 0o644, 0o755),
            ("u=rwX,go=rX", 0o711, 0o755, 0o755),
            ("a=r", 0o777, 0o444, 0o444),
            ("u=g", 0o470, 0o770, 0o770),
            ("g=u-w", 0o640, 0o640, 0o640),
            ("o=", 0o777, 0o770, 0o770),
            ("ug+s,o+t", 0o755, 0o7755, 0o7755),
            ("u=rw", 0o4755, 0o655, 0o4655),
        ] {
            let mode = Mode::parse(text).unwrap();
            assert_eq!(mode.apply(before, false), file, "{text} of a file");
            assert_eq!(mode.apply(before, true), directory, "{text} of a directory");
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "", "10000", "8", "u", "u+q", "z+x", "u+x,", "rwx", "-1", "u+ug",
        ] {
            let error = Mode::parse(text).map(drop).unwrap_err();
            assert!(error.message.contains("invalid chmod"), "{text}: {error}");
        }
    }
}
