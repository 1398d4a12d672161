//! A catalogue of translations, in the PO format.

use std::collections::HashMap;

/// Stands for what a message inserts.
const HOLE: &str = "{}";
/// How often what was inserted is a message itself.
const DEPTH: usize = 3;

/// The translations of a language.
pub struct Catalogue {
    exact: HashMap<String, String>,
    /// Texts with holes; those with most words of their own come first.
    patterns: Vec<Pattern>,
}

struct Pattern {
    /// The text around the holes.
    pieces: Vec<String>,
    translation: String,
}

impl Catalogue {
    /// Reads a catalogue. Entries without a translation are left out.
    pub fn parse(po: &str) -> Self {
        let mut catalogue = Self {
            exact: HashMap::new(),
            patterns: Vec::new(),
        };
        for (key, translation) in entries(po) {
            if key.is_empty() || translation.is_empty() {
                continue;
            }
            if key.contains(HOLE) {
                let pieces = key.split(HOLE).map(str::to_owned).collect();
                catalogue.patterns.push(Pattern {
                    pieces,
                    translation,
                });
            } else {
                catalogue.exact.insert(key, translation);
            }
        }
        let own = |pattern: &Pattern| pattern.pieces.iter().map(String::len).sum::<usize>();
        let order = |pattern: &Pattern| std::cmp::Reverse(own(pattern));
        catalogue.patterns.sort_by_key(order);
        catalogue
    }

    /// Returns the translation of a text; `None` if it has none.
    pub fn find(&self, english: &str) -> Option<String> {
        self.find_in(english, DEPTH)
    }

    fn find_in(&self, english: &str, depth: usize) -> Option<String> {
        if let Some(text) = self.exact.get(english) {
            return Some(text.clone());
        }
        let matched =
            |pattern: &Pattern| Some((pattern.matches(english)?, pattern.translation.clone()));
        let (inserted, translation) = self.patterns.iter().find_map(matched)?;
        let inserted: Vec<String> = inserted
            .into_iter()
            .map(|text| match depth {
                0 => text.to_owned(),
                _ => self
                    .find_in(text, depth - 1)
                    .unwrap_or_else(|| text.to_owned()),
            })
            .collect();
        Some(fill(&translation, &inserted))
    }
}

impl Pattern {
    /// Returns what is in the holes if the text is of this form.
    fn matches<'a>(&self, text: &'a str) -> Option<Vec<&'a str>> {
        let (first, rest) = self.pieces.split_first()?;
        let (last, middle) = rest.split_last()?;
        let mut left = text
            .strip_prefix(first.as_str())?
            .strip_suffix(last.as_str())?;
        let mut found = Vec::new();
        for piece in middle {
            let (hole, after) = left.split_once(piece.as_str())?;
            found.push(hole);
            left = after;
        }
        found.push(left);
        Some(found)
    }
}

/// Fills the holes of a translation: `{}` in order, `{2}` by its place in the English text.
fn fill(translation: &str, inserted: &[String]) -> String {
    let mut text = String::new();
    let mut rest = translation;
    let mut next = 0;
    while let Some((before, after)) = rest.split_once('{') {
        text += before;
        let Some((place, after)) = after.split_once('}') else {
            rest = after;
            text.push('{');
            continue;
        };
        let at = match place.parse::<usize>() {
            Ok(place) => place.checked_sub(1),
            Err(_) => {
                next += 1;
                Some(next - 1)
            }
        };
        if let Some(word) = at.and_then(|at| inserted.get(at)) {
            text += word;
        }
        rest = after;
    }
    text + rest
}

/// Returns the keys and translations of a PO file.
pub fn entries(po: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut in_key = true;
    for line in po.lines() {
        let quoted = if let Some(rest) = line.strip_prefix("msgid ") {
            all.push(Default::default());
            in_key = true;
            rest
        } else if let Some(rest) = line.strip_prefix("msgstr ") {
            in_key = false;
            rest
        } else if line.starts_with('"') {
            line
        } else {
            continue;
        };
        if let Some(entry) = all.last_mut() {
            let part = if in_key { &mut entry.0 } else { &mut entry.1 };
            part.push_str(&unquote(quoted));
        }
    }
    all
}

fn unquote(quoted: &str) -> String {
    let inner = quoted.trim().trim_start_matches('"');
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    text
}
