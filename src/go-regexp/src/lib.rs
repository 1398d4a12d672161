//! Regular expressions with the syntax and semantics of Go's `regexp` package.
//!
//! Kubernetes specifies patterns in CRD schemas and CEL expressions as RE2
//! patterns, compiled by Go. This crate accepts the same syntax, reports the
//! same messages and prefers the same match. Matching takes time linear in the
//! length of the text.
//!
//! The matcher is written for this project because the `regex` crate differs in
//! its classes and repetition limits, and expands a Unicode class once per
//! repetition. The Unicode tables come from `regex-syntax`.

mod class;
mod parse;
mod program;
#[cfg(test)]
mod tests;

/// A compiled regular expression (Go: `regexp.Regexp`).
#[derive(Debug)]
pub struct Pattern(program::Program);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// Returns the message that Go's `regexp.Compile` returns for a malformed or
    /// too large pattern.
    pub fn new(pattern: &str) -> Result<Pattern, String> {
        let parsed = parse::parse(pattern)?;
        program::Program::new(&parsed)
            .map(Pattern)
            .ok_or_else(|| parse::too_large(pattern))
    }

    /// Returns whether any part of the text matches (Go: `MatchString`).
    pub fn is_match(&self, text: &str) -> bool {
        self.0.search(text, 0, true).is_some()
    }

    /// Returns the first match (Go: `FindString`).
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.search(text, 0, false).map(|(a, b)| &text[a..b])
    }

    /// Returns successive non-overlapping matches (Go: `FindAllString`).
    ///
    /// An empty match directly after another match is left out.
    pub fn find_all<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut at = Some(0);
        let mut previous = None;
        std::iter::from_fn(move || {
            loop {
                let from = at?;
                let Some((start, end)) = self.0.search(text, from, false) else {
                    at = None;
                    return None;
                };
                let empty = end == from;
                at = if empty {
                    text[from..].chars().next().map(|c| from + c.len_utf8())
                } else {
                    Some(end)
                };
                let follows = empty && previous == Some(start);
                previous = Some(end);
                if !follows {
                    return Some(&text[start..end]);
                }
            }
        })
    }
}
