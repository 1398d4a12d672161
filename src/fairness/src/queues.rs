//! The queues of one priority level: assigned by shuffle sharding, served by start-time fair
//! queuing.

use std::collections::VecDeque;

/// The number and the length of a level's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Number of queues.
    pub queues: usize,
    /// Hand size: the number of queues that one flow may use.
    pub hand: usize,
    /// Maximum number of requests per queue.
    pub length: usize,
}

struct Entry<T> {
    seats: u32,
    waiter: T,
}

struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    seats: u32,
    /// The virtual time at which the queue's next request starts.
    start: u64,
}

/// The waiting requests of a priority level.
pub struct Queues<T> {
    queues: Vec<Queue<T>>,
    /// The virtual start time of the request dispatched last.
    now: u64,
    /// The queue at which the search for the next request starts, so that ties are broken
    /// round-robin.
    turn: usize,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            queues: Vec::new(),
            now: 0,
            turn: 0,
        }
    }
}

/// Selects `hand` different queues of `deck` by `hash` (shuffle sharding, as upstream's dealer).
fn deal_queues(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for i in 0..hand.min(deck) {
        let left = (deck - i) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // Skip the cards that have been dealt already.
        let mut gone = dealt.clone();
        gone.sort_unstable();
        for other in gone {
            if other <= card {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

impl<T> Queues<T> {
    /// Appends a request to the shortest queue of its flow's hand.
    ///
    /// # Errors
    ///
    /// Fails if that queue is full.
    pub fn push(&mut self, shape: QueueConfig, flow: u64, seats: u32, waiter: T) -> Result<(), ()> {
        // Only grows: surplus queues of an earlier configuration drain and then stay empty.
        while self.queues.len() < shape.queues {
            self.queues.push(Queue {
                entries: VecDeque::new(),
                seats: 0,
                start: 0,
            });
        }
        let hand = deal_queues(flow, shape.queues, shape.hand);
        let Some(at) = hand.into_iter().min_by_key(|at| self.queues[*at].seats) else {
            return Err(());
        };
        let queue = &mut self.queues[at];
        if queue.entries.len() >= shape.length {
            return Err(());
        }
        if queue.entries.is_empty() {
            queue.start = queue.start.max(self.now);
        }
        queue.seats += seats;
        queue.entries.push_back(Entry { seats, waiter });
        Ok(())
    }

    /// Removes the requests for which `gave_up` is true, and returns how many there were.
    pub fn remove(&mut self, gave_up: impl Fn(&T) -> bool) -> u32 {
        let mut removed = 0;
        for queue in &mut self.queues {
            queue.entries.retain(|entry| {
                let gone = gave_up(&entry.waiter);
                if gone {
                    queue.seats -= entry.seats;
                    removed += 1;
                }
                !gone
            });
        }
        removed
    }

    /// Returns the total number of seats that waiting requests need.
    pub fn seats(&self) -> u32 {
        self.queues.iter().map(|q| q.seats).sum()
    }

    /// Returns the queue to serve next and the number of seats that its first request needs.
    pub fn next(&self) -> Option<(usize, u32)> {
        let count = self.queues.len();
        let order = (0..count).map(|i| (self.turn + i) % count);
        // The request with the earliest virtual finish time.
        order
            .filter_map(|at| {
                let queue = &self.queues[at];
                let first = queue.entries.front()?;
                Some((queue.start + u64::from(first.seats), at, first.seats))
            })
            .min_by_key(|(finish, ..)| *finish)
            .map(|(_, at, seats)| (at, seats))
    }

    /// Removes the first request of queue `at`.
    ///
    /// # Panics
    ///
    /// Panics if the queue is empty. `at` must come from [`next`](Self::next), without other calls
    /// in between.
    pub fn pop(&mut self, at: usize) -> T {
        let queue = &mut self.queues[at];
        let entry = queue
            .entries
            .pop_front()
            .expect("the queue was named because it has a first request");
        queue.seats -= entry.seats;
        self.now = self.now.max(queue.start);
        queue.start += u64::from(entry.seats);
        self.turn = at + 1;
        entry.waiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: QueueConfig = QueueConfig {
        queues: 8,
        hand: 1,
        length: 100,
    };

    #[test]
    fn a_loud_flow_does_not_starve_a_quiet_one() {
        let mut queues = Queues::default();
        for i in 0..50 {
            queues.push(SHAPE, 1, 1, ("loud", i)).unwrap();
        }
        queues.push(SHAPE, 2, 1, ("quiet", 0)).unwrap();
        let mut order = Vec::new();
        while let Some((at, _)) = queues.next() {
            order.push(queues.pop(at).0);
        }
        let quiet = order.iter().position(|name| *name == "quiet").unwrap();
        assert!(quiet <= 1, "{quiet}");
        assert_eq!(order.len(), 51);
    }

    #[test]
    fn wide_requests_count_for_more() {
        let mut queues = Queues::default();
        for i in 0..10 {
            queues.push(SHAPE, 1, 5, ("wide", i)).unwrap();
            queues.push(SHAPE, 2, 1, ("narrow", i)).unwrap();
        }
        let mut first: Vec<&str> = Vec::new();
        for _ in 0..6 {
            let (at, _) = queues.next().unwrap();
            first.push(queues.pop(at).0);
        }
        assert!(
            first.iter().filter(|n| **n == "narrow").count() >= 4,
            "{first:?}"
        );
    }

    #[test]
    fn full_queues_refuse() {
        let mut queues = Queues::default();
        let shape = QueueConfig { length: 1, ..SHAPE };
        assert!(queues.push(shape, 1, 1, ()).is_ok());
        assert!(queues.push(shape, 1, 1, ()).is_err());
        assert!(queues.push(shape, 2, 1, ()).is_ok());
        assert_eq!(queues.seats(), 2);
    }

    #[test]
    fn removed_requests_leave_room() {
        let mut queues = Queues::default();
        let shape = QueueConfig { length: 2, ..SHAPE };
        for i in 0..2 {
            queues.push(shape, 1, 3, i).unwrap();
        }
        assert!(queues.push(shape, 1, 1, 2).is_err());
        assert_eq!(queues.remove(|i| *i == 1), 1, "not only at the head");
        assert_eq!(queues.seats(), 3);
        queues.push(shape, 1, 1, 2).unwrap();
        let (at, seats) = queues.next().unwrap();
        assert_eq!((queues.pop(at), seats), (0, 3));
    }

    proptest! {
        #[test]
        fn hands_hold_different_queues(hash: u64, deck in 1usize..200, hand in 1usize..12) {
            let cards = deal_queues(hash, deck, hand);
            let mut distinct = cards.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), hand.min(deck));
            prop_assert!(cards.iter().all(|c| *c < deck));
        }
    }
}
