//! Character classes: code point ranges, the named classes of Perl, POSIX and Unicode, and
//! case folding.

use regex_syntax::hir::{Class as Parsed, ClassUnicode, ClassUnicodeRange, HirKind};

/// The highest code point.
const LAST: u32 = char::MAX as u32;

/// A set of inclusive code point ranges; sorted and disjoint after [`Set::clean`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Set(Vec<(u32, u32)>);

impl Set {
    /// Returns a set of the given ranges, neither sorted nor merged.
    pub fn of(ranges: &[(char, char)]) -> Set {
        Set(ranges
            .iter()
            .map(|(a, b)| (u32::from(*a), u32::from(*b)))
            .collect())
    }

    /// Returns a set of one code point.
    pub fn one(c: u32) -> Set {
        Set(vec![(c, c)])
    }

    /// Returns a set of the code points from `low` to `high`, inclusive.
    pub fn range(low: u32, high: u32) -> Set {
        Set(vec![(low, high)])
    }

    /// Adds the ranges of another set without sorting or merging.
    pub fn add(&mut self, other: &Set) {
        self.0.extend_from_slice(&other.0);
    }

    /// Sorts the ranges and merges overlapping and adjacent ones.
    pub fn clean(mut self) -> Set {
        self.0.sort_unstable();
        let mut clean: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for (low, high) in self.0 {
            match clean.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => clean.push((low, high)),
            }
        }
        Set(clean)
    }

    /// Returns the complement, sorted and merged.
    pub fn negated(self) -> Set {
        let mut rest = Vec::new();
        let mut next = 0;
        for (low, high) in self.clean().0 {
            if next < low {
                rest.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= LAST {
            rest.push((next, LAST));
        }
        Set(rest)
    }

    /// Returns the set closed under Unicode simple case folding, sorted and merged.
    pub fn folded(self) -> Set {
        let mut class = ClassUnicode::new(self.0.iter().flat_map(|(low, high)| {
            // Surrogates are not `char`s and cannot occur in the text.
            let below = (*low, (*high).min(0xD7FF));
            let above = ((*low).max(0xE000), *high);
            [below, above].into_iter().filter_map(|(low, high)| {
                let range = ClassUnicodeRange::new(char::from_u32(low)?, char::from_u32(high)?);
                (low <= high).then_some(range)
            })
        }));
        // Fails only if `regex-syntax` is built without its case folding tables.
        if class.try_case_fold_simple().is_err() {
            return self.clean();
        }
        from_class(&class)
    }

    /// Returns the ranges; sorted and disjoint only after [`Set::clean`].
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Returns the code point of a set that has exactly one.
    pub fn single(&self) -> Option<char> {
        match self.0[..] {
            [(low, high)] if low == high => char::from_u32(low),
            _ => None,
        }
    }
}

fn from_class(class: &ClassUnicode) -> Set {
    Set(class
        .iter()
        .map(|r| (u32::from(r.start()), u32::from(r.end())))
        .collect())
}

/// Returns a Perl class by its lower-case letter: `d`, `s` or `w`. Perl classes are ASCII only.
pub(crate) fn perl(letter: char) -> Option<Set> {
    Some(match letter {
        'd' => Set::of(&[('0', '9')]),
        's' => Set::of(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
        'w' => Set::of(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        _ => return None,
    })
}

/// Returns a POSIX class by name, without the enclosing `[:` and `:]`.
pub(crate) fn posix(name: &str) -> Option<Set> {
    Some(match name {
        "alnum" => Set::of(&[('0', '9'), ('A', 'Z'), ('a', 'z')]),
        "alpha" => Set::of(&[('A', 'Z'), ('a', 'z')]),
        "ascii" => Set::of(&[('\0', '\x7f')]),
        "blank" => Set::of(&[('\t', '\t'), (' ', ' ')]),
        "cntrl" => Set::of(&[('\0', '\x1f'), ('\x7f', '\x7f')]),
        "digit" => Set::of(&[('0', '9')]),
        "graph" => Set::of(&[('!', '~')]),
        "lower" => Set::of(&[('a', 'z')]),
        "print" => Set::of(&[(' ', '~')]),
        "punct" => Set::of(&[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
        "space" => Set::of(&[('\t', '\r'), (' ', ' ')]),
        "upper" => Set::of(&[('A', 'Z')]),
        "word" => return perl('w'),
        "xdigit" => Set::of(&[('0', '9'), ('A', 'F'), ('a', 'f')]),
        _ => return None,
    })
}

/// Script names, lower case and without underscores.
const SCRIPTS: &str = include_str!("scripts.txt");

/// Returns a Unicode class by the names that Go accepts: general categories (short and long
/// names) and scripts (long names). Ignores case, spaces, hyphens and underscores.
pub(crate) fn unicode(name: &str) -> Option<Set> {
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    match name.as_str() {
        "any" => Some(Set::range(0, LAST)),
        "ascii" => posix("ascii"),
        "assigned" => property("gc", "cn").map(Set::negated),
        // `regex-syntax` ignores the prefix `is`; Go does not.
        _ if name.starts_with("is") => None,
        _ if SCRIPTS.split_whitespace().any(|s| s == name) => property("sc", &name),
        _ => property("gc", &name),
    }
}

/// Returns the set of a Unicode property value from the tables of `regex-syntax`.
fn property(property: &str, value: &str) -> Option<Set> {
    let parsed = regex_syntax::parse(&format!(r"\p{{{property}={value}}}")).ok()?;
    match parsed.kind() {
        HirKind::Class(Parsed::Unicode(class)) => Some(from_class(class)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_script_leads_to_a_table() {
        for name in SCRIPTS.split_whitespace() {
            assert!(unicode(name).is_some_and(|s| !s.0.is_empty()), "{name}");
        }
    }

    #[test]
    fn names_are_those_that_go_knows() {
        for name in [
            "L",
            "Lu",
            "LC",
            "Cn",
            "C",
            "letter",
            "Uppercase_Letter",
            "punct",
            "digit",
            "cntrl",
            "Greek",
            "greek",
            "Old_Italic",
            "Any",
            "Assigned",
            "ASCII",
        ] {
            assert!(unicode(name).is_some(), "{name}");
        }
        // Short script names, other properties, prefixes and blocks.
        for name in [
            "Grek",
            "Alphabetic",
            "IsGreek",
            "isL",
            "InGreek",
            "sc=Greek",
            "",
            "L}",
        ] {
            assert!(unicode(name).is_none(), "{name}");
        }
    }

    #[test]
    fn sets_are_folded_and_negated() {
        assert_eq!(
            Set::one('k'.into()).folded().0,
            [(0x4B, 0x4B), (0x6B, 0x6B), (0x212A, 0x212A)]
        );
        assert_eq!(Set::range(0, LAST).negated().0, []);
        assert_eq!(Set::default().negated().0, [(0, LAST)]);
        assert_eq!(
            Set(vec![(5, 9), (1, 4), (20, 30)]).clean().0,
            [(1, 9), (20, 30)]
        );
    }
}
