//! The queues of a priority level: shuffle-sharded, and served in turn by what
//! each has been given so far (start-time fair queuing).

use std::collections::VecDeque;

/// How many queues there are, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Queues.
    pub queues: usize,
    /// Queues that one flow may use.
    pub hand: usize,
    /// Requests that one queue may hold.
    pub length: usize,
}

struct Entry<T> {
    seats: u32,
    waiter: T,
}

struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    seats: u32,
    /// The virtual time at which the next request starts.
    start: u64,
}

/// Requests that wait.
pub struct Queues<T> {
    queues: Vec<Queue<T>>,
    /// The virtual time of the last request that was let in.
    now: u64,
    /// Where the search begins, so that equals take turns.
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

/// Deals `hand` of `deck` cards, all different, as the hash says.
fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for i in 0..hand.min(deck) {
        let left = (deck - i) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // Count over the cards that are gone.
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
    /// Puts a request at the end of the emptiest queue of its flow's hand.
    pub fn push(&mut self, shape: QueueConfig, flow: u64, seats: u32, waiter: T) -> Result<(), ()> {
        // Queues that are one too many after a change empty by themselves.
        while self.queues.len() < shape.queues {
            self.queues.push(Queue {
                entries: VecDeque::new(),
                seats: 0,
                start: 0,
            });
        }
        let hand = deal(flow, shape.queues, shape.hand);
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

    /// Seats that are waited for.
    pub fn seats(&self) -> u32 {
        self.queues.iter().map(|q| q.seats).sum()
    }

    /// The queue whose turn it is and the seats that its first request needs.
    /// Requests that `gave_up` are thrown away, and each is told to `forget`.
    pub fn next(
        &mut self,
        gave_up: impl Fn(&T) -> bool,
        mut forget: impl FnMut(),
    ) -> Option<(usize, u32)> {
        for queue in &mut self.queues {
            while let Some(first) = queue.entries.front() {
                if !gave_up(&first.waiter) {
                    break;
                }
                queue.seats -= first.seats;
                queue.entries.pop_front();
                forget();
            }
        }
        let count = self.queues.len();
        let order = (0..count).map(|i| (self.turn + i) % count);
        // Whose request would be done first.
        order
            .filter_map(|at| {
                let queue = &self.queues[at];
                let first = queue.entries.front()?;
                Some((queue.start + u64::from(first.seats), at, first.seats))
            })
            .min_by_key(|(finish, ..)| *finish)
            .map(|(_, at, seats)| (at, seats))
    }

    /// Takes the first request off a queue that [`next`](Self::next) has named.
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
        while let Some((at, _)) = queues.next(|_| false, || {}) {
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
            let (at, _) = queues.next(|_| false, || {}).unwrap();
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

    proptest! {
        #[test]
        fn hands_hold_different_queues(hash: u64, deck in 1usize..200, hand in 1usize..12) {
            let cards = deal(hash, deck, hand);
            let mut distinct = cards.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), hand.min(deck));
            prop_assert!(cards.iter().all(|c| *c < deck));
        }
    }
}
