//! Parser for the syntax of Go's `regexp/syntax`, with its error messages.

mod escape;

use std::collections::HashMap;

use crate::class::Set;

/// Maximum repeat count, and maximum product of nested repeat counts.
const MAX_REPEAT: u32 = 1000;
/// Maximum height of the syntax tree. Bounds the recursion of all functions that walk it.
const MAX_HEIGHT: u32 = 1000;
/// Maximum number of ranges in all distinct sets of a pattern.
const MAX_RANGES: usize = 1 << 20;

/// A node of the syntax tree.
#[derive(Debug)]
pub(crate) enum Node {
    Empty,
    Literal(char),
    Any,
    AnyButNewline,
    /// An index into [`Parsed::sets`].
    Set(u32),
    Assertion(Assertion),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
        greedy: bool,
    },
}

/// A zero-width assertion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Assertion {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordBoundary,
    NoWordBoundary,
}

/// A parsed pattern.
pub(crate) struct Parsed {
    /// The root of the syntax tree.
    pub root: Node,
    /// The distinct sets of the pattern; [`Node::Set`] refers to them by index.
    pub sets: Vec<Set>,
}

#[derive(Clone, Copy)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_all: bool,
    lazy: bool,
}

/// A node with the measures that the limits apply to.
struct MeasuredNode {
    node: Node,
    height: u32,
    /// Maximum product of nested repeat counts; see [`MAX_REPEAT`].
    weight: u32,
}

/// An open group; the outermost frame is the whole pattern.
struct Frame {
    /// Flags to restore at the end of the group.
    outer: Flags,
    captures: bool,
    alternatives: Vec<MeasuredNode>,
    sequence: Vec<MeasuredNode>,
}

struct Parser<'p> {
    whole: &'p str,
    rest: &'p str,
    flags: Flags,
    frames: Vec<Frame>,
    sets: Vec<Set>,
    known: HashMap<Set, u32>,
    ranges: usize,
}

fn error(what: &str, at: &str) -> String {
    format!("error parsing regexp: {what}: `{at}`")
}

const BAD_CLASS: &str = "invalid character class range";

/// Returns Go's error for a pattern that exceeds a size limit.
pub(crate) fn too_large(pattern: &str) -> String {
    error("expression too large", pattern)
}

/// Parses a pattern.
///
/// # Errors
///
/// Returns the message of Go's `regexp.Compile`.
pub(crate) fn parse(pattern: &str) -> Result<Parsed, String> {
    let flags = Flags {
        fold: false,
        lines: false,
        dot_all: false,
        lazy: false,
    };
    let mut parser = Parser {
        whole: pattern,
        rest: pattern,
        flags,
        frames: vec![Frame {
            outer: flags,
            captures: false,
            alternatives: Vec::new(),
            sequence: Vec::new(),
        }],
        sets: Vec::new(),
        known: HashMap::new(),
        ranges: 0,
    };
    parser.run()?;
    let root = match parser.frames.pop() {
        Some(frame) if parser.frames.is_empty() => parser.finish(frame)?,
        _ => return Err(error("missing closing )", pattern)),
    };
    Ok(Parsed {
        root: root.node,
        sets: parser.sets,
    })
}

impl<'p> Parser<'p> {
    fn run(&mut self) -> Result<(), String> {
        // Text from the preceding repetition operator on, if the last token was one.
        let mut repeated: Option<&'p str> = None;
        while let Some(c) = self.rest.chars().next() {
            let before = self.rest;
            let previous = repeated.take();
            self.rest = &before[c.len_utf8()..];
            match c {
                '(' => self.open(before)?,
                ')' => self.close()?,
                '|' => self.bar()?,
                '^' if self.flags.lines => self.push(Node::Assertion(Assertion::LineStart)),
                '^' => self.push(Node::Assertion(Assertion::TextStart)),
                '$' if self.flags.lines => self.push(Node::Assertion(Assertion::LineEnd)),
                '$' => self.push(Node::Assertion(Assertion::TextEnd)),
                '.' if self.flags.dot_all => self.push(Node::Any),
                '.' => self.push(Node::AnyButNewline),
                '[' => self.class(before)?,
                '*' | '+' | '?' => {
                    let (min, max) = match c {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    self.repeat(before, previous, min, max, false)?;
                    repeated = Some(before);
                }
                '{' => match counts(before) {
                    None => self.literal('{'),
                    Some((min, max, rest)) => {
                        let valid = |n: u64| u32::try_from(n).ok().filter(|n| *n <= MAX_REPEAT);
                        let (Some(min), Some(max)) =
                            (valid(min), max.map_or(Some(None), |m| valid(m).map(Some)))
                        else {
                            return Err(bad_count(before, rest));
                        };
                        if max.is_some_and(|m| m < min) {
                            return Err(bad_count(before, rest));
                        }
                        self.rest = rest;
                        self.repeat(before, previous, min, max, true)?;
                        repeated = Some(before);
                    }
                },
                '\\' => self.escape(before)?,
                c => self.literal(c),
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> &mut Frame {
        // There is always a frame: `close` never pops the outermost one.
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn push(&mut self, node: Node) {
        self.frame().sequence.push(MeasuredNode {
            node,
            height: 1,
            weight: 1,
        });
    }

    fn literal(&mut self, c: char) {
        if self.flags.fold {
            let set = Set::one(c.into()).folded();
            if set.single().is_none() {
                return self.set(set);
            }
        }
        self.push(Node::Literal(c));
    }

    /// Appends a set, or a literal if the set has one code point. Equal sets are stored once.
    fn set(&mut self, set: Set) {
        if let Some(c) = set.single() {
            return self.push(Node::Literal(c));
        }
        let next = self.sets.len() as u32;
        let index = *self.known.entry(set.clone()).or_insert(next);
        if index == next {
            self.ranges += set.ranges().len();
            self.sets.push(set);
        }
        self.push(Node::Set(index));
    }

    /// Folds a set if the flag `i` is set, then negates it on request.
    fn named(&self, set: Set, negated: bool) -> Set {
        let set = if self.flags.fold { set.folded() } else { set };
        if negated { set.negated() } else { set }
    }

    fn concat(&self, mut sequence: Vec<MeasuredNode>) -> Result<MeasuredNode, String> {
        match sequence.len() {
            0 => Ok(MeasuredNode {
                node: Node::Empty,
                height: 1,
                weight: 1,
            }),
            1 => Ok(sequence.remove(0)),
            _ => self.join(sequence, Node::Concat),
        }
    }

    fn join(
        &self,
        parts: Vec<MeasuredNode>,
        make: fn(Vec<Node>) -> Node,
    ) -> Result<MeasuredNode, String> {
        let height = 1 + parts.iter().map(|p| p.height).max().unwrap_or(0);
        let weight = parts.iter().map(|p| p.weight).max().unwrap_or(1);
        self.limited(MeasuredNode {
            node: make(parts.into_iter().map(|p| p.node).collect()),
            height,
            weight,
        })
    }

    fn limited(&self, part: MeasuredNode) -> Result<MeasuredNode, String> {
        if part.height > MAX_HEIGHT {
            return Err(error("expression nests too deeply", self.whole));
        }
        if self.ranges > MAX_RANGES {
            return Err(too_large(self.whole));
        }
        Ok(part)
    }

    fn bar(&mut self) -> Result<(), String> {
        let sequence = std::mem::take(&mut self.frame().sequence);
        let part = self.concat(sequence)?;
        self.frame().alternatives.push(part);
        Ok(())
    }

    fn finish(&self, frame: Frame) -> Result<MeasuredNode, String> {
        let last = self.concat(frame.sequence)?;
        let mut alternatives = frame.alternatives;
        let mut part = if alternatives.is_empty() {
            last
        } else {
            alternatives.push(last);
            self.join(alternatives, Node::Alternate)?
        };
        // Upstream counts a capturing group as one level.
        part.height += u32::from(frame.captures);
        self.limited(part)
    }

    fn close(&mut self) -> Result<(), String> {
        if self.frames.len() < 2 {
            return Err(error("unexpected )", self.whole));
        }
        if let Some(frame) = self.frames.pop() {
            self.flags = frame.outer;
            let part = self.finish(frame)?;
            self.frame().sequence.push(part);
        }
        Ok(())
    }

    fn group(&mut self, outer: Flags, captures: bool) {
        self.frames.push(Frame {
            outer,
            captures,
            alternatives: Vec::new(),
            sequence: Vec::new(),
        });
    }

    /// Parses a group or flags; `before` begins at the consumed `(`.
    fn open(&mut self, before: &'p str) -> Result<(), String> {
        let Some(rest) = self.rest.strip_prefix('?') else {
            self.group(self.flags, true);
            return Ok(());
        };
        let named = (before.len() > 4)
            .then(|| rest.strip_prefix("P<"))
            .flatten();
        let named = named.or_else(|| (before.len() > 3).then(|| rest.strip_prefix('<')).flatten());
        if let Some(named) = named {
            let invalid = |at| Err(error("invalid named capture", at));
            let Some((name, after)) = named.split_once('>') else {
                return invalid(before);
            };
            if name.is_empty() || !name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return invalid(&before[..before.len() - after.len()]);
            }
            self.rest = after;
            self.group(self.flags, true);
            return Ok(());
        }
        self.switches(before, rest)
    }

    /// Parses what follows `(?`: flags, a non-capturing group, or both.
    fn switches(&mut self, before: &'p str, mut rest: &'p str) -> Result<(), String> {
        let mut flags = self.flags;
        let mut on = true;
        let mut seen = false;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                'i' => flags.fold = on,
                'm' => flags.lines = on,
                's' => flags.dot_all = on,
                'U' => flags.lazy = on,
                '-' if on => {
                    on = false;
                    seen = false;
                    continue;
                }
                ':' | ')' if on || seen => {
                    if c == ':' {
                        self.group(self.flags, false);
                    }
                    self.flags = flags;
                    self.rest = rest;
                    return Ok(());
                }
                _ => break,
            }
            seen = true;
        }
        let read = &before[..before.len() - rest.len()];
        Err(error("invalid or unsupported Perl syntax", read))
    }

    fn repeat(
        &mut self,
        before: &'p str,
        previous: Option<&'p str>,
        min: u32,
        max: Option<u32>,
        counted: bool,
    ) -> Result<(), String> {
        let mut greedy = !self.flags.lazy;
        if let Some(rest) = self.rest.strip_prefix('?') {
            self.rest = rest;
            greedy = !greedy;
        }
        let read = |from: &'p str, rest: &str| &from[..from.len() - rest.len()];
        if let Some(previous) = previous {
            let at = read(previous, self.rest);
            return Err(error("invalid nested repetition operator", at));
        }
        let Some(part) = self.frame().sequence.pop() else {
            let at = read(before, self.rest);
            return Err(error("missing argument to repetition operator", at));
        };
        let mut weight = part.weight;
        if counted && max == Some(0) {
            weight = 1;
        } else if counted {
            weight = weight.saturating_mul(max.unwrap_or(min).max(1));
            if weight > MAX_REPEAT && (min >= 2 || max.is_some_and(|m| m >= 2)) {
                return Err(bad_count(before, self.rest));
            }
        }
        let part = self.limited(MeasuredNode {
            node: Node::Repeat {
                node: Box::new(part.node),
                min,
                max,
                greedy,
            },
            height: part.height + 1,
            weight,
        })?;
        self.frame().sequence.push(part);
        Ok(())
    }
}

fn bad_count(before: &str, rest: &str) -> String {
    error("invalid repeat count", &before[..before.len() - rest.len()])
}

/// Parses `{min}`, `{min,}` or `{min,max}` at the start of the text and returns the remainder.
/// Returns `None` for anything else: such a `{` is a literal.
fn counts(text: &str) -> Option<(u64, Option<u64>, &str)> {
    let (min, rest) = number(text.strip_prefix('{')?)?;
    let Some(rest) = rest.strip_prefix(',') else {
        return Some((min, Some(min), rest.strip_prefix('}')?));
    };
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, None, rest));
    }
    let (max, rest) = number(rest)?;
    Some((min, Some(max), rest.strip_prefix('}')?))
}

/// Parses a decimal number without leading zeros and returns the remainder. Saturates at
/// `u64::MAX`.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u64::MAX), rest))
}
