//! Work queues of controllers, with the semantics of client-go's rate-limiting queue.
//!
//! An item is queued at most once and processed by at most one worker at a time. If it is added
//! again while being processed, it is queued again afterwards.
//!
//! Failed items are retried with exponential back-off and jitter: 5 ms doubling up to 1000 s, and
//! overall ten retries per second with bursts of a hundred.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use rkube_component_helpers::backoff::Backoff;
use rkube_component_helpers::time;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Back-off of failing items. Up to 10 % jitter is added, so that items that failed together are
/// not retried together.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(5), Duration::from_secs(1000)).with_jitter(0.1);
/// Retries per second over all items after the burst.
const RETRY_RATE: f64 = 10.0;
/// Number of retries allowed in a burst.
const RETRY_BURST: f64 = 100.0;

struct State<T> {
    ready: VecDeque<T>,
    /// All items to be processed: those in `ready`, and those that are added to it once their
    /// current worker is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    failures: HashMap<T, u32>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_items: HashMap<u64, T>,
    due: HashMap<T, (Instant, u64)>,
    sequence: u64,
    tokens: f64,
    refilled: Instant,
}

/// A work queue; clones share it.
pub struct Queue<T> {
    state: Arc<Mutex<State<T>>>,
    wake: Arc<Notify>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            wake: self.wake.clone(),
        }
    }
}

impl<T: Clone + Eq + Hash + Debug + Send + 'static> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash + Debug + Send + 'static> Queue<T> {
    /// Returns an empty queue.
    pub fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                failures: HashMap::new(),
                delayed: BinaryHeap::new(),
                delayed_items: HashMap::new(),
                due: HashMap::new(),
                sequence: 0,
                tokens: RETRY_BURST,
                refilled: Instant::now(),
            })),
            wake: Arc::new(Notify::new()),
        }
    }

    /// Adds `item` to be processed as soon as possible.
    pub fn add(&self, item: T) {
        let mut state = self.state.lock();
        if Self::enqueue(&mut state, item) {
            drop(state);
            self.wake.notify_one();
        }
    }

    fn enqueue(state: &mut State<T>, item: T) -> bool {
        if !state.dirty.insert(item.clone()) {
            return false;
        }
        if state.working.contains(&item) {
            return false;
        }
        state.ready.push_back(item);
        true
    }

    /// Adds `item` after `delay`. If it is already scheduled for an earlier time, that is kept.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.state.lock();
        let at = Instant::now() + time::timer(delay);
        if let Some((due, _)) = state.due.get(&item)
            && *due <= at
        {
            return;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if let Some((_, old)) = state.due.insert(item.clone(), (at, sequence)) {
            state.delayed_items.remove(&old);
        }
        state.delayed.push(Reverse((at, sequence)));
        state.delayed_items.insert(sequence, item);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds `item` after its back-off, because processing it failed.
    pub fn retry(&self, item: T) {
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let own = BACKOFF.delay(*failures);
            *failures = failures.saturating_add(1);
            let now = Instant::now();
            let gained = (now - state.refilled).as_secs_f64() * RETRY_RATE;
            state.tokens = (state.tokens + gained).min(RETRY_BURST) - 1.0;
            state.refilled = now;
            let overall = if state.tokens < 0.0 {
                Duration::from_secs_f64(-state.tokens / RETRY_RATE)
            } else {
                Duration::ZERO
            };
            BACKOFF.jitter(own.max(overall), rand::random())
        };
        self.add_after(item, delay);
    }

    /// Resets the back-off of `item`.
    pub fn forget(&self, item: &T) {
        self.state.lock().failures.remove(item);
    }

    /// Returns the number of consecutive failures of `item`.
    pub fn failures(&self, item: &T) -> u32 {
        self.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Takes the next item. If there is none, returns the time at which the next delayed item is
    /// due.
    fn poll_next(&self) -> std::result::Result<T, Option<Instant>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some(Reverse((at, sequence))) = state.delayed.peek().copied() {
            let Some(item) = state.delayed_items.get(&sequence).cloned() else {
                state.delayed.pop(); // superseded by an earlier time
                continue;
            };
            if at > now {
                break;
            }
            state.delayed.pop();
            state.delayed_items.remove(&sequence);
            state.due.remove(&item);
            Self::enqueue(&mut state, item);
        }
        match state.ready.pop_front() {
            Some(item) => {
                state.dirty.remove(&item);
                state.working.insert(item.clone());
                Ok(item)
            }
            None => Err(state.delayed.peek().map(|Reverse((at, _))| *at)),
        }
    }

    /// Waits for the next item and takes it. The caller must call [`Queue::done`] afterwards.
    pub async fn next(&self) -> T {
        loop {
            let notified = self.wake.notified();
            match self.poll_next() {
                Ok(item) => return item,
                Err(None) => notified.await,
                Err(Some(at)) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// Marks `item`, obtained from [`Queue::next`], as processed.
    pub fn done(&self, item: &T) {
        let mut state = self.state.lock();
        state.working.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Puts items back that were being processed when their worker was dropped. Only for a queue
    /// without workers.
    pub fn recover(&self) {
        let mut state = self.state.lock();
        let lost: Vec<T> = state.working.drain().collect();
        for item in lost {
            state.dirty.insert(item.clone());
            state.ready.push_back(item);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Processes the queue forever, up to `concurrency` items at a time.
    ///
    /// A failed item is retried with back-off. Conflicts are expected with optimistic
    /// concurrency and are only traced. A panic fails only its item: the others are processed
    /// further, and the item is retried like after an error.
    pub async fn work<F, Fut>(&self, controller: &'static str, concurrency: usize, sync: F)
    where
        F: Fn(T) -> Fut + Send + Sync,
        Fut: Future<Output = Result<()>> + Send,
    {
        self.run(controller, concurrency, &|item| sync(item).boxed())
            .await;
    }

    /// Implements [`Queue::work`]; compiled once per item type instead of once per controller.
    async fn run<'a>(
        &self,
        controller: &'static str,
        concurrency: usize,
        sync: &(dyn Fn(T) -> BoxFuture<'a, Result<()>> + Send + Sync + 'a),
    ) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                item = self.next(), if running.len() < concurrency => {
                    let key = item.clone();
                    let work = AssertUnwindSafe(async move { sync(key).await }).catch_unwind();
                    running.push(async move { (item, work.await) });
                }
                Some((item, outcome)) = running.next() => {
                    self.settle(controller, &item, outcome);
                    self.done(&item);
                }
            }
        }
    }

    fn settle(&self, controller: &str, item: &T, outcome: std::thread::Result<Result<()>>) {
        match outcome {
            Ok(Ok(())) => return self.forget(item),
            Ok(Err(Error::Retry(after))) => return self.add_after(item.clone(), after),
            Ok(Err(error)) if error.is_conflict() => {
                tracing::debug!(controller, ?item, %error, "will retry");
            }
            Ok(Err(error)) => {
                tracing::warn!(controller, ?item, %error, "sync failed, will retry");
            }
            // The panic's message may quote the object, so it is left out.
            Err(_) => tracing::error!(controller, ?item, "sync panicked, will retry"),
        }
        self.retry(item.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_item_waits_once_and_is_worked_on_alone() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a"); // while it is being processed
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.poll_next(), Err(None));
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        queue.done(&"b");
        assert_eq!(queue.poll_next(), Err(None));
    }

    #[tokio::test]
    async fn the_earlier_of_two_dates_stands() {
        let queue = Queue::new();
        queue.add_after("a", Duration::from_secs(86_400));
        queue.add_after("a", Duration::from_millis(1));
        queue.add_after("a", Duration::from_secs(86_400));
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert_eq!(queue.poll_next(), Err(None));
    }

    #[tokio::test]
    async fn a_delay_of_any_length_can_be_waited_for() {
        let queue = Queue::new();
        queue.add_after("a", Duration::MAX);
        queue.add_after("b", Duration::from_secs(u64::MAX / 2));
        assert!(queue.poll_next().is_err_and(|due| due.is_some()));
    }

    #[tokio::test]
    async fn a_panic_fails_only_its_item() {
        let (queue, done) = (Queue::new(), Notify::new());
        queue.add("poison");
        queue.add("fine");
        let sync = async |item| {
            if item == "poison" {
                assert_eq!(queue.failures(&item), 2, "expected by this test");
                done.notify_one();
            }
            Ok(())
        };
        let work = queue.work("test", 2, sync);
        tokio::select! {
            () = work => unreachable!(),
            () = done.notified() => {}
        }
        assert_eq!(queue.failures(&"fine"), 0);
    }

    #[tokio::test]
    async fn what_a_lost_worker_had_is_processed_again() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.recover();
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert_eq!(queue.poll_next(), Err(None));
    }

    #[tokio::test]
    async fn failures_are_counted_until_forgotten() {
        let queue = Queue::new();
        queue.retry("a");
        queue.retry("a");
        assert_eq!(queue.failures(&"a"), 2);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(queue.next().await, "a");
    }
}
