//! Compilation errors, with their positions in the source.

use std::fmt;

/// A compilation error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 0.
    pub column: u32,
    /// Upstream's message.
    pub message: String,
}

/// All errors of a compilation; displays them with the affected lines of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    /// Source of the expression.
    pub(crate) source: String,
    /// Listed errors, at most [`MAX_LISTED`].
    pub(crate) list: Vec<Issue>,
    /// Number of errors, including unlisted ones.
    pub(crate) total: usize,
}

/// Maximum number of listed errors; further ones are only counted.
const MAX_LISTED: usize = 100;
/// Maximum length of a source line that is displayed.
const MAX_SNIPPET: usize = 16384;

impl Issues {
    /// Returns an empty list of errors.
    pub(crate) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            list: Vec::new(),
            total: 0,
        }
    }

    /// Returns the listed errors, ordered by position.
    pub fn list(&self) -> &[Issue] {
        &self.list
    }

    /// Returns whether there are no errors.
    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Adds an error at a character offset, or without location.
    pub(crate) fn report(&mut self, offset: Option<u32>, message: impl Into<String>) {
        self.total += 1;
        if self.list.len() >= MAX_LISTED {
            return;
        }
        let (line, column) = match offset {
            Some(offset) => self.place(offset),
            None => (u32::MAX, u32::MAX),
        };
        self.list.push(Issue {
            line,
            column,
            message: message.into(),
        });
    }

    fn place(&self, offset: u32) -> (u32, u32) {
        let (mut line, mut column) = (1, 0);
        for c in self.source.chars().take(offset as usize) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        (line, column)
    }

    /// Sorts the errors by position.
    pub(crate) fn sorted(mut self) -> Self {
        self.list.sort_by_key(|i| (i.line, i.column));
        self
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, issue) in self.list.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            if issue.line == u32::MAX {
                // As upstream, errors without location are at -1:0.
                write!(f, "ERROR: <input>:-1:0: {}", issue.message)?;
                continue;
            }
            // As upstream, the only error of an empty source is before its first column.
            let empty = self.source.is_empty();
            let column = if empty { 0 } else { issue.column + 1 };
            write!(
                f,
                "ERROR: <input>:{}:{column}: {}",
                issue.line, issue.message
            )?;
            if empty {
                continue;
            }
            let Some(line) = self.source.split('\n').nth(issue.line as usize - 1) else {
                continue;
            };
            if line.len() > MAX_SNIPPET {
                continue;
            }
            let line = line.replace('\t', " ");
            write!(f, "\n | {line}\n | ")?;
            let mut chars = line.chars();
            for _ in 0..issue.column {
                match chars.next() {
                    Some(c) if c.len_utf8() > 1 => write!(f, "\u{ff0e}")?,
                    Some(_) => write!(f, ".")?,
                    None => break,
                }
            }
            match chars.next() {
                Some(c) if c.len_utf8() > 1 => write!(f, "\u{ff3e}")?,
                _ => write!(f, "^")?,
            }
        }
        if self.total > self.list.len() {
            write!(
                f,
                "\n{} more errors were truncated",
                self.total - self.list.len()
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
