//! Patterns as Go's `regexp` reads them: its syntax, its messages, its
//! preference among matches, and time that grows with the text's length only.
//!
//! A matcher of our own, because what there is either knows no classes of
//! Unicode or writes one out for each of a thousand repetitions. The tables
//! are those of regex-syntax, which other crates bring anyway.

mod class;
mod parse;
mod program;
#[cfg(test)]
mod tests;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern(program::Program);

impl Pattern {
    /// Compiles a pattern, or says as Go does what is wrong with it.
    pub fn new(pattern: &str) -> Result<Pattern, String> {
        let parsed = parse::parse(pattern)?;
        program::Program::new(&parsed)
            .map(Pattern)
            .ok_or_else(|| parse::too_large(pattern))
    }

    /// Whether some part of the text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.search(text, 0, true).is_some()
    }

    /// The first match.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.search(text, 0, false).map(|(a, b)| &text[a..b])
    }

    /// Matches that do not overlap; an empty one does not follow another.
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
