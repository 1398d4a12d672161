//! Decides whether a history of one object is linearizable.
//!
//! The search is that of Wing and Gong with Lowe's memory of visited states ("Testing for
//! linearizability", 2016). A history is linearizable if its operations can be put in an order
//! that the object's model allows, and that keeps apart what did not overlap.

use std::collections::HashSet;

/// What an object holds. Every write of a history stores another value.
pub type Value = u64;

/// An operation on one object, with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read that found this, or nothing.
    Read(Option<Value>),
    /// A creation of an object that did not exist.
    Create(Value),
    /// A creation that was refused because the object exists.
    Exists,
    /// An update from the value that the client had read.
    Replace(Value, Value),
    /// An update or a deletion that was refused because the object does not hold this value.
    Differs(Value),
    /// An update or a deletion that was refused because the object does not exist.
    Absent,
    /// A deletion of the object with this value.
    Delete(Value),
}

impl Operation {
    /// Returns the object's next state, or nothing where this operation cannot happen.
    fn apply(self, state: Option<Value>) -> Option<Option<Value>> {
        let (allowed, next) = match self {
            Self::Read(found) => (state == found, state),
            Self::Create(value) => (state.is_none(), Some(value)),
            Self::Exists => (state.is_some(), state),
            Self::Replace(from, to) => (state == Some(from), Some(to)),
            Self::Differs(from) => (state.is_some_and(|value| value != from), state),
            Self::Absent => (state.is_none(), state),
            Self::Delete(from) => (state == Some(from), None),
        };
        allowed.then_some(next)
    }
}

/// An operation and its time, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What was asked, and the outcome.
    pub operation: Operation,
    /// When the request was sent.
    pub sent: u64,
    /// When the answer came. Without an answer, the operation may have happened at any time since
    /// it was sent, or never.
    pub answered: Option<u64>,
}

/// A set of entries, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn new(entries: usize) -> Self {
        Self(vec![0; entries.div_ceil(64)])
    }

    fn has(&self, entry: usize) -> bool {
        self.0[entry / 64] & (1 << (entry % 64)) != 0
    }

    fn toggle(&mut self, entry: usize) {
        self.0[entry / 64] ^= 1 << (entry % 64);
    }
}

/// One step of the search: the entry that was put last, and the state before it.
struct Step {
    entry: usize,
    before: Option<Value>,
}

/// Checks the history of an object that did not exist at first.
///
/// # Errors
/// The longest prefix that has an order, and the entries of which none can follow.
pub fn check(history: &[Entry]) -> Result<(), String> {
    let mut entries = history.to_vec();
    entries.sort_by_key(|entry| entry.sent);
    let mut search = Search {
        done: Done::new(entries.len()),
        seen: HashSet::new(),
        state: None,
        steps: Vec::new(),
        open: entries.iter().filter(|e| e.answered.is_some()).count(),
        entries,
        first: 0,
        longest: (0, String::new()),
    };
    search.run()
}

struct Search {
    entries: Vec<Entry>,
    done: Done,
    seen: HashSet<(Done, Option<Value>)>,
    state: Option<Value>,
    steps: Vec<Step>,
    /// The number of answered entries that have no place yet.
    open: usize,
    /// All entries before this one are done.
    first: usize,
    /// The most entries that found a place, and what could not follow them.
    longest: (usize, String),
}

impl Search {
    fn run(&mut self) -> Result<(), String> {
        let mut from = self.first;
        while self.open > 0 {
            if let Some(entry) = self.next(from) {
                self.put(entry);
                from = self.first;
                continue;
            }
            if self.steps.len() >= self.longest.0 {
                self.longest = (self.steps.len(), self.describe());
            }
            let Some(step) = self.steps.pop() else {
                let (length, text) = &self.longest;
                return Err(format!("after {length} operations: {text}"));
            };
            self.take_back(&step);
            from = step.entry + 1;
        }
        Ok(())
    }

    /// Returns the first entry from `from` on that may happen now and leads to a new state.
    fn next(&mut self, from: usize) -> Option<usize> {
        // What was sent after an answer happened after the operation answered.
        let deadline = self.deadline();
        for entry in from..self.entries.len() {
            let Entry {
                operation, sent, ..
            } = self.entries[entry];
            if sent > deadline {
                return None;
            }
            if self.done.has(entry) {
                continue;
            }
            let Some(next) = operation.apply(self.state) else {
                continue;
            };
            self.done.toggle(entry);
            let is_new = self.seen.insert((self.done.clone(), next));
            self.done.toggle(entry);
            if is_new {
                return Some(entry);
            }
        }
        None
    }

    /// Returns the earliest answer of the entries that have no place yet.
    fn deadline(&self) -> u64 {
        let mut deadline = u64::MAX;
        for entry in self.first..self.entries.len() {
            if self.entries[entry].sent > deadline {
                break;
            }
            if !self.done.has(entry) {
                deadline = deadline.min(self.entries[entry].answered.unwrap_or(u64::MAX));
            }
        }
        deadline
    }

    fn put(&mut self, entry: usize) {
        let before = self.state;
        let operation = self.entries[entry].operation;
        self.state = operation.apply(before).expect("next() has checked it");
        self.done.toggle(entry);
        self.open -= usize::from(self.entries[entry].answered.is_some());
        self.steps.push(Step { entry, before });
        while self.first < self.entries.len() && self.done.has(self.first) {
            self.first += 1;
        }
    }

    fn take_back(&mut self, step: &Step) {
        self.done.toggle(step.entry);
        self.open += usize::from(self.entries[step.entry].answered.is_some());
        self.state = step.before;
        self.first = self.first.min(step.entry);
    }

    fn describe(&self) -> String {
        let deadline = self.deadline();
        let waiting: Vec<_> = self.entries[self.first..]
            .iter()
            .enumerate()
            .take_while(|(_, entry)| entry.sent <= deadline)
            .filter(|(offset, entry)| {
                // Those without an answer need no place.
                !self.done.has(self.first + offset) && entry.answered.is_some()
            })
            .map(|(_, entry)| entry)
            .collect();
        format!(
            "the object holds {:?}, none of {waiting:?} can follow",
            self.state
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Operation::{Absent, Create, Delete, Differs, Exists, Read, Replace};
    use super::{Entry, Operation, check};

    /// Operations with the times of request and answer; 0 is no answer.
    fn history(entries: &[(Operation, u64, u64)]) -> Vec<Entry> {
        let entry = |&(operation, sent, answered)| Entry {
            operation,
            sent,
            answered: (answered > 0).then_some(answered),
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn linearizable_histories_are_accepted() {
        let histories: &[&[(Operation, u64, u64)]] = &[
            &[],
            &[(Read(None), 1, 2), (Create(1), 3, 4), (Read(Some(1)), 5, 6)],
            // A read beside a write sees the state before or after it.
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 9),
                (Read(Some(1)), 4, 5),
                (Read(Some(2)), 6, 7),
            ],
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 9),
                (Read(Some(2)), 4, 5),
                (Read(Some(2)), 6, 7),
            ],
            // Without an answer, a write may happen late, early or never.
            &[(Create(1), 1, 0), (Read(None), 3, 4), (Read(Some(1)), 5, 6)],
            &[(Create(1), 1, 0), (Read(None), 3, 4), (Read(None), 5, 6)],
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 0),
                (Differs(1), 5, 6),
                (Replace(2, 3), 7, 8),
            ],
            // The answers of refused requests are reads.
            &[
                (Create(1), 1, 9),
                (Exists, 2, 3),
                (Delete(1), 10, 11),
                (Absent, 12, 13),
            ],
            &[
                (Create(1), 1, 2),
                (Delete(1), 3, 9),
                (Create(2), 4, 8),
                (Exists, 4, 9),
            ],
        ];
        for entries in histories {
            assert_eq!(check(&history(entries)), Ok(()), "{entries:?}");
        }
    }

    #[test]
    fn other_histories_are_refused() {
        let histories: &[&[(Operation, u64, u64)]] = &[
            // A lost object, and one that nobody made.
            &[(Create(1), 1, 2), (Read(None), 3, 4)],
            &[(Read(Some(1)), 1, 2)],
            // A stale read.
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 4),
                (Read(Some(1)), 5, 6),
            ],
            // Time runs backwards between two reads beside a write.
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 9),
                (Read(Some(2)), 4, 5),
                (Read(Some(1)), 6, 7),
            ],
            // Two updates of one version.
            &[
                (Create(1), 1, 2),
                (Replace(1, 2), 3, 9),
                (Replace(1, 3), 4, 9),
            ],
            // A refusal without a reason.
            &[(Create(1), 1, 2), (Differs(1), 3, 4)],
            &[(Create(1), 1, 2), (Absent, 3, 4)],
            &[(Exists, 1, 2)],
            // What was refused has happened.
            &[(Create(1), 1, 2), (Differs(1), 3, 4), (Read(Some(2)), 5, 6)],
            // A write without an answer takes effect before it was sent, or twice.
            &[(Read(Some(1)), 1, 2), (Create(1), 3, 0)],
            &[
                (Create(1), 1, 0),
                (Read(Some(1)), 2, 3),
                (Delete(1), 4, 5),
                (Read(Some(1)), 6, 7),
            ],
        ];
        for entries in histories {
            assert!(check(&history(entries)).is_err(), "{entries:?}");
        }
    }
}
