//! Compiled programs, executed as a Pike virtual machine: all alternatives advance in
//! parallel. Time is at most proportional to the text's length times the program's.

use crate::class::Set;
use crate::parse::{Assertion, Node, Parsed};

/// Maximum number of instructions. Upstream allows about three times as many, but programs
/// here stay in memory as long as the schema that uses them.
const MAX_INSTRUCTIONS: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Instruction {
    Char(char),
    Set(u32),
    Any,
    AnyButNewline,
    Assertion(Assertion),
    /// Continues at both targets; the first is preferred.
    Split(u32, u32),
    Jump(u32),
    Match,
}

/// A set optimized for membership tests: a bitmap for ASCII, binary search above.
#[derive(Debug)]
struct Members {
    ascii: [u64; 2],
    ranges: Box<[(u32, u32)]>,
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Program {
    code: Box<[Instruction]>,
    sets: Box<[Members]>,
    /// Whether a match can only begin at the start of the text.
    anchored: bool,
}

/// The threads of one step: program counters in order of preference, without duplicates,
/// each with the offset at which its match began.
struct Threads {
    order: Vec<(u32, usize)>,
    /// Sparse-set index: the position in `order` by instruction; stale entries are ignored.
    place: Vec<u32>,
}

/// A position in the text: byte offset and adjacent characters.
#[derive(Clone, Copy)]
struct Position {
    at: usize,
    before: Option<char>,
    after: Option<char>,
}

impl Members {
    fn of(set: &Set) -> Members {
        let mut ascii = [0u64; 2];
        for (low, high) in set.ranges().iter().filter(|(low, _)| *low < 128) {
            for c in *low..=(*high).min(127) {
                ascii[(c / 64) as usize] |= 1 << (c % 64);
            }
        }
        Members {
            ascii,
            ranges: set.ranges().into(),
        }
    }

    fn contains(&self, c: char) -> bool {
        let c = u32::from(c);
        if c < 128 {
            return self.ascii[(c / 64) as usize] >> (c % 64) & 1 == 1;
        }
        let next = self.ranges.partition_point(|(low, _)| *low <= c);
        next > 0 && c <= self.ranges[next - 1].1
    }
}

impl Threads {
    fn new(size: usize) -> Threads {
        Threads {
            order: Vec::with_capacity(size.min(64)),
            place: vec![0; size],
        }
    }

    /// Adds a thread unless one is already at the instruction; returns whether it was added.
    fn insert(&mut self, instruction: u32, start: usize) -> bool {
        let place = self.place[instruction as usize] as usize;
        if self
            .order
            .get(place)
            .is_some_and(|(i, _)| *i == instruction)
        {
            return false;
        }
        self.place[instruction as usize] = self.order.len() as u32;
        self.order.push((instruction, start));
        true
    }
}

impl Assertion {
    fn holds(self, position: Position) -> bool {
        let word = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_ascii_alphanumeric());
        let boundary = word(position.before) != word(position.after);
        match self {
            Assertion::TextStart => position.before.is_none(),
            Assertion::TextEnd => position.after.is_none(),
            Assertion::LineStart => matches!(position.before, None | Some('\n')),
            Assertion::LineEnd => matches!(position.after, None | Some('\n')),
            Assertion::WordBoundary => boundary,
            Assertion::NoWordBoundary => !boundary,
        }
    }
}

impl Program {
    /// Compiles a pattern, `None` if the program exceeds [`MAX_INSTRUCTIONS`].
    pub fn new(parsed: &Parsed) -> Option<Program> {
        let mut code = Vec::new();
        emit(&parsed.root, &mut code)?;
        push(&mut code, Instruction::Match)?;
        Some(Program {
            anchored: matches!(
                code.first(),
                Some(Instruction::Assertion(Assertion::TextStart))
            ),
            code: code.into(),
            sets: parsed.sets.iter().map(Members::of).collect(),
        })
    }

    /// Returns the byte range of the leftmost match at or after `from`. With `any`, returns at
    /// the first match detected; otherwise returns the preferred match.
    pub fn search(&self, text: &str, from: usize, any: bool) -> Option<(usize, usize)> {
        let mut now = Threads::new(self.code.len());
        let mut next = Threads::new(self.code.len());
        let mut stack = Vec::new();
        let mut found = None;
        let mut chars = text[from..].chars();
        let mut position = Position {
            at: from,
            before: text[..from].chars().next_back(),
            after: chars.next(),
        };
        loop {
            if now.order.is_empty()
                && (found.is_some() || (self.anchored && position.before.is_some()))
            {
                return found;
            }
            if found.is_none() {
                self.follow(&mut now, &mut stack, 0, position.at, position);
            }
            let moved = position.after.map(|c| Position {
                at: position.at + c.len_utf8(),
                before: Some(c),
                after: chars.next(),
            });
            for (instruction, start) in now.order.drain(..) {
                let takes = match (self.code[instruction as usize], position.after) {
                    (Instruction::Match, _) if any => return Some((start, position.at)),
                    (Instruction::Match, _) => {
                        found = Some((start, position.at));
                        // The remaining threads are less preferred.
                        break;
                    }
                    (Instruction::Char(wanted), Some(c)) => wanted == c,
                    (Instruction::Set(set), Some(c)) => self.sets[set as usize].contains(c),
                    (Instruction::Any, Some(_)) => true,
                    (Instruction::AnyButNewline, Some(c)) => c != '\n',
                    _ => false,
                };
                if takes && let Some(moved) = moved {
                    self.follow(&mut next, &mut stack, instruction + 1, start, moved);
                }
            }
            let Some(moved) = moved else {
                return found;
            };
            std::mem::swap(&mut now, &mut next);
            position = moved;
        }
    }

    /// Adds a thread at an instruction and at all that are reachable without consuming input.
    fn follow(
        &self,
        threads: &mut Threads,
        stack: &mut Vec<u32>,
        from: u32,
        start: usize,
        position: Position,
    ) {
        stack.push(from);
        while let Some(instruction) = stack.pop() {
            if !threads.insert(instruction, start) {
                continue;
            }
            match self.code[instruction as usize] {
                Instruction::Jump(to) => stack.push(to),
                Instruction::Split(first, second) => stack.extend([second, first]),
                Instruction::Assertion(assertion) if assertion.holds(position) => {
                    stack.push(instruction + 1)
                }
                _ => {}
            }
        }
    }
}

fn push(code: &mut Vec<Instruction>, instruction: Instruction) -> Option<usize> {
    let at = code.len();
    (at < MAX_INSTRUCTIONS).then(|| code.push(instruction))?;
    Some(at)
}

/// Emits a split whose targets [`close`] sets.
fn open(code: &mut Vec<Instruction>) -> Option<usize> {
    push(code, Instruction::Split(0, 0))
}

/// Sets a split's targets: `on` is preferred if greedy, `out` otherwise.
fn close(code: &mut [Instruction], at: usize, on: usize, out: usize, greedy: bool) {
    let (on, out) = (on as u32, out as u32);
    code[at] = if greedy {
        Instruction::Split(on, out)
    } else {
        Instruction::Split(out, on)
    };
}

fn emit(node: &Node, code: &mut Vec<Instruction>) -> Option<()> {
    match node {
        Node::Empty => {}
        Node::Literal(c) => drop(push(code, Instruction::Char(*c))?),
        Node::Any => drop(push(code, Instruction::Any)?),
        Node::AnyButNewline => drop(push(code, Instruction::AnyButNewline)?),
        Node::Set(index) => drop(push(code, Instruction::Set(*index))?),
        Node::Assertion(assertion) => drop(push(code, Instruction::Assertion(*assertion))?),
        Node::Concat(parts) => {
            for part in parts {
                emit(part, code)?;
            }
        }
        Node::Alternate(parts) => alternate(parts, code)?,
        Node::Repeat {
            node,
            min,
            max,
            greedy,
        } => repeat(node, *min, *max, *greedy, code)?,
    }
    Some(())
}

fn alternate(parts: &[Node], code: &mut Vec<Instruction>) -> Option<()> {
    let mut ends = Vec::new();
    let (last, others) = parts.split_last()?;
    for part in others {
        let split = open(code)?;
        emit(part, code)?;
        ends.push(push(code, Instruction::Jump(0))?);
        let next = code.len();
        close(code, split, split + 1, next, true);
    }
    emit(last, code)?;
    let end = code.len() as u32;
    for at in ends {
        code[at] = Instruction::Jump(end);
    }
    Some(())
}

fn repeat(
    node: &Node,
    min: u32,
    max: Option<u32>,
    greedy: bool,
    code: &mut Vec<Instruction>,
) -> Option<()> {
    let mut start = code.len();
    for _ in 0..min {
        start = code.len();
        emit(node, code)?;
        if code.len() == start {
            // The operand emits no code; repeating it has no effect.
            return Some(());
        }
    }
    let Some(max) = max else {
        // Compiles `x*` as `(x+)?`. Looping only from the end of `x` preserves the order of
        // preference if `x` can match the empty string.
        let skip = if min == 0 { Some(open(code)?) } else { None };
        if min == 0 {
            start = code.len();
            emit(node, code)?;
        }
        let again = open(code)?;
        let end = code.len();
        close(code, again, start, end, greedy);
        if let Some(skip) = skip {
            close(code, skip, skip + 1, end, greedy);
        }
        return Some(());
    };
    let mut splits = Vec::new();
    for _ in min..max {
        splits.push(open(code)?);
        emit(node, code)?;
    }
    let end = code.len();
    for at in splits {
        close(code, at, at + 1, end, greedy);
    }
    Some(())
}
