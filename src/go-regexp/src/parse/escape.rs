//! Escapes, and classes in brackets.

use super::{Assertion, BAD_CLASS, Node, Parser, error};
use crate::class::{self, Set};

impl<'p> Parser<'p> {
    /// Parses an escape outside a class; `before` begins at the consumed `\`.
    pub(super) fn escape(&mut self, before: &'p str) -> Result<(), String> {
        let Some(c) = self.rest.chars().next() else {
            return Err(error("trailing backslash at end of expression", ""));
        };
        let assertion = match c {
            'A' => Some(Assertion::TextStart),
            'z' => Some(Assertion::TextEnd),
            'b' => Some(Assertion::WordBoundary),
            'B' => Some(Assertion::NoWordBoundary),
            _ => None,
        };
        if let Some(assertion) = assertion {
            self.rest = &self.rest[1..];
            self.push(Node::Assertion(assertion));
            return Ok(());
        }
        if c == 'Q' {
            let quoted = &self.rest[1..];
            let (quoted, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            quoted.chars().for_each(|c| self.literal(c));
            self.rest = rest;
            return Ok(());
        }
        self.rest = before;
        if let Some(set) = self.escaped_set()? {
            self.set(set.clean());
            return Ok(());
        }
        match self.escaped_char()? {
            c if self.flags.fold => self.set(Set::one(c).folded()),
            c => self.set(Set::one(c)),
        }
        Ok(())
    }

    /// Parses `\pL`, `\p{Greek}`, `\d` and their negations, inside and outside classes. Returns
    /// `None` and consumes nothing for any other text.
    fn escaped_set(&mut self) -> Result<Option<Set>, String> {
        let whole = self.rest;
        let mut chars = whole.chars();
        if chars.next() != Some('\\') {
            return Ok(None);
        }
        let Some(letter) = chars.next() else {
            return Ok(None);
        };
        if !matches!(letter, 'p' | 'P') {
            let Some(set) = class::perl(letter.to_ascii_lowercase()) else {
                return Ok(None);
            };
            self.rest = &whole[2..];
            return Ok(Some(self.named(set, letter.is_ascii_uppercase())));
        }
        let (name, rest) = match chars.next() {
            Some('{') => {
                let Some((name, rest)) = whole[3..].split_once('}') else {
                    return Err(error(BAD_CLASS, whole));
                };
                (name, rest)
            }
            Some(c) => whole[2..].split_at(c.len_utf8()),
            None => ("", ""),
        };
        let (name, opposite) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let Some(set) = class::unicode(name) else {
            return Err(error(BAD_CLASS, &whole[..whole.len() - rest.len()]));
        };
        self.rest = rest;
        Ok(Some(self.named(set, opposite != (letter == 'P'))))
    }

    /// Parses an escape that denotes one code point; [`Parser::rest`] must begin with its `\`.
    fn escaped_char(&mut self) -> Result<u32, String> {
        let whole = self.rest;
        let mut chars = whole[1..].chars();
        let Some(c) = chars.next() else {
            return Err(error("trailing backslash at end of expression", ""));
        };
        let plain = match c {
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        let code = match c {
            _ if plain.is_some() => plain.map(u32::from),
            '0'..='7' => octal(c, &mut chars),
            'x' => hexadecimal(&mut chars),
            _ => None,
        };
        self.rest = chars.as_str();
        code.ok_or_else(|| {
            let read = &whole[..whole.len() - self.rest.len()];
            error("invalid escape sequence", read)
        })
    }

    /// Parses a character class; `before` begins at the consumed `[`.
    pub(super) fn class(&mut self, before: &'p str) -> Result<(), String> {
        let negated = match self.rest.strip_prefix('^') {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        };
        let mut set = Set::default();
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if let Some(named) = self.posix()? {
                set.add(&named);
                continue;
            }
            if let Some(escaped) = self.escaped_set()? {
                set.add(&escaped);
                continue;
            }
            let start = self.rest;
            let low = self.class_char(before)?;
            let mut high = low;
            if let Some(rest) = self.rest.strip_prefix('-')
                && !rest.is_empty()
                && !rest.starts_with(']')
            {
                self.rest = rest;
                high = self.class_char(before)?;
                if high < low {
                    let read = &start[..start.len() - self.rest.len()];
                    return Err(error(BAD_CLASS, read));
                }
            }
            let range = Set::range(low, high);
            set.add(&self.named(range, false));
        }
        self.rest = &self.rest[1..];
        self.set(if negated { set.negated() } else { set.clean() });
        Ok(())
    }

    fn class_char(&mut self, class: &str) -> Result<u32, String> {
        match self.rest.chars().next() {
            None => Err(error("missing closing ]", class)),
            Some('\\') => self.escaped_char(),
            Some(c) => {
                self.rest = &self.rest[c.len_utf8()..];
                Ok(c.into())
            }
        }
    }

    /// Parses a POSIX class such as `[:alpha:]` within a class, `None` if the text has none.
    fn posix(&mut self) -> Result<Option<Set>, String> {
        let whole = self.rest;
        let Some((name, rest)) = whole.strip_prefix("[:").and_then(|w| w.split_once(":]")) else {
            return Ok(None);
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let Some(set) = class::posix(name) else {
            return Err(error(BAD_CLASS, &whole[..whole.len() - rest.len()]));
        };
        self.rest = rest;
        Ok(Some(self.named(set, negated)))
    }
}

/// Parses up to three octal digits. A single digit other than 0 is a back-reference: `None`.
fn octal(first: char, chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let digit = |chars: &std::str::Chars<'_>| chars.clone().next().and_then(|c| c.to_digit(8));
    if first != '0' && digit(chars).is_none() {
        return None;
    }
    let mut code = first.to_digit(8)?;
    for _ in 0..2 {
        let Some(next) = digit(chars) else { break };
        code = code * 8 + next;
        chars.next();
    }
    Some(code)
}

/// Parses the code point after `\x`: `7F` or `{10FFFF}`.
fn hexadecimal(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let first = chars.next()?;
    if first != '{' {
        let second = chars.next()?;
        return Some(first.to_digit(16)? * 16 + second.to_digit(16)?);
    }
    let mut code = None;
    loop {
        match chars.next()? {
            '}' => return code,
            c => {
                let next = code.unwrap_or(0) * 16 + c.to_digit(16)?;
                code = Some(next).filter(|n| *n <= u32::from(char::MAX));
                code?;
            }
        }
    }
}
