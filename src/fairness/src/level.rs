//! A priority level: its seats and the requests that wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::{Mutex, RwLock};
use rkube_api::{Object, meta};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use crate::allocation::Item;
use crate::queues::{QueueConfig, Queues};

/// Seats of all levels together: the sum of upstream's defaults, 400 for reads and 200 for writes.
pub(crate) const TOTAL_SEATS: u32 = 600;
/// The most seats that one list request takes, however many objects it returns.
const MAX_LIST_SEATS: u32 = 100;
/// The fraction of a level's seats that one request may take.
const MAX_SEATS_PART: f64 = 0.15;

/// The reason for which a request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The flow's queue is full.
    QueueFull,
    /// The request waited too long for a seat.
    TimeOut,
    /// No seat is free and the level does not queue requests.
    ConcurrencyLimit,
}

impl Refusal {
    /// Returns the reason's label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
            Self::ConcurrencyLimit => "concurrency-limit",
        }
    }

    fn all() -> [Self; 3] {
        [Self::QueueFull, Self::TimeOut, Self::ConcurrencyLimit]
    }
}

/// The settings of a `PriorityLevelConfiguration`.
#[derive(Clone, Copy, Default)]
struct Spec {
    shares: u32,
    lendable: f64,
    borrowing: Option<f64>,
    /// `None` if the level rejects excess requests instead of queuing them.
    shape: Option<QueueConfig>,
}

/// A priority level.
pub struct Level {
    /// The level's name.
    pub name: String,
    uid: RwLock<Option<HeaderValue>>,
    spec: RwLock<Spec>,
    exempt: AtomicBool,
    nominal: AtomicU32,
    current: AtomicU32,
    /// Low 32 bits: seats in use. High 32 bits: the peak of wanted seats since the last adjustment.
    seats: AtomicU64,
    /// Number of waiting requests; only changed with `queues` locked.
    waiting: AtomicU32,
    queues: Mutex<Queues<oneshot::Sender<Permit>>>,
    smoothed: Mutex<f64>,
    contended: Arc<Notify>,
    dispatched: AtomicU64,
    refused: [AtomicU64; 3],
}

/// The seats of a request, released when this is dropped.
pub struct Permit {
    /// `None` once the seats have been released.
    level: Option<Arc<Level>>,
    seats: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(level) = self.level.take() {
            level.leave(self.seats);
        }
    }
}

/// A request in a queue, which leaves it when this is dropped: after its time, or because the client
/// has gone away.
struct QueuedRequest<'a> {
    level: &'a Arc<Level>,
    receiver: oneshot::Receiver<Permit>,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        // Has its seats, so it has left the queue.
        if self.receiver.is_terminated() {
            return;
        }
        self.receiver.close();
        match self.receiver.try_recv() {
            // Got its seats at the last moment: dropping them returns them.
            Ok(permit) => drop(permit),
            Err(_) => self.level.forget_abandoned(),
        }
    }
}

/// The factor by which a level's smoothed demand decays towards a lower demand, per adjustment.
const SMOOTHING: f64 = 0.977;

impl Level {
    /// Creates a level without configuration. `contended` is notified when requests have to wait.
    pub fn new(name: &str, contended: Arc<Notify>) -> Self {
        Self {
            name: name.to_owned(),
            uid: RwLock::default(),
            spec: RwLock::default(),
            exempt: AtomicBool::new(false),
            nominal: AtomicU32::new(0),
            current: AtomicU32::new(0),
            seats: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            queues: Mutex::default(),
            smoothed: Mutex::new(0.0),
            contended,
            dispatched: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// Applies a `PriorityLevelConfiguration` object.
    pub fn configure(&self, object: &Object) {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let part = &spec[if exempt { "exempt" } else { "limited" }];
        let percent = |field: &str| number(&part[field]).map(|n| f64::from(n) / 100.0);
        let response = &part["limitResponse"];
        let queuing = &response["queuing"];
        let shape = (response["type"] == "Queue").then(|| QueueConfig {
            queues: number(&queuing["queues"]).unwrap_or(64).max(1) as usize,
            hand: number(&queuing["handSize"]).unwrap_or(8).max(1) as usize,
            length: number(&queuing["queueLengthLimit"]).unwrap_or(50).max(1) as usize,
        });
        *self.spec.write() = Spec {
            shares: number(&part["nominalConcurrencyShares"]).unwrap_or(if exempt {
                0
            } else {
                30
            }),
            lendable: percent("lendablePercent").unwrap_or(0.0),
            borrowing: percent("borrowingLimitPercent"),
            shape,
        };
        self.exempt.store(exempt, Ordering::Relaxed);
        *self.uid.write() = HeaderValue::from_str(meta::uid(object)).ok();
    }

    /// Returns the uid of the level's object as a header value.
    pub fn uid(&self) -> Option<HeaderValue> {
        self.uid.read().clone()
    }

    /// Returns whether the level admits requests without a limit.
    pub fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Relaxed)
    }

    /// Returns the level's nominal concurrency shares.
    pub fn shares(&self) -> u64 {
        u64::from(self.spec.read().shares)
    }

    /// Sets the level's nominal seats to its fraction of `total`. `shares` is the sum of all
    /// levels' shares. A change of the nominal seats also resets the current seats.
    pub fn set_nominal(&self, total: u32, shares: u64) {
        let part = u64::from(total) * self.shares();
        let nominal = part.div_ceil(shares.max(1)) as u32;
        if self.nominal.swap(nominal, Ordering::Relaxed) != nominal {
            self.current.store(nominal, Ordering::Relaxed);
        }
    }

    /// Returns the level's nominal seats, before lending and borrowing.
    pub fn nominal(&self) -> u32 {
        self.nominal.load(Ordering::Relaxed)
    }

    /// Returns the level's current seats, after lending and borrowing.
    pub fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Returns the number of seats in use.
    pub fn executing(&self) -> u32 {
        self.seats.load(Ordering::Relaxed) as u32
    }

    /// Returns the number of waiting requests.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of requests admitted so far.
    pub fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Relaxed)
    }

    /// Returns the number of requests rejected so far, by reason.
    pub fn refused(&self) -> [(&'static str, u64); 3] {
        Refusal::all().map(|r| (r.as_str(), self.refused[r as usize].load(Ordering::Relaxed)))
    }

    /// Returns the most seats that one request may take.
    pub fn max_seats(&self) -> u32 {
        let nominal = self.nominal();
        let hand = self.spec.read().shape.map_or(1, |s| s.hand as u32);
        let part = (f64::from(nominal) * MAX_SEATS_PART).ceil() as u32;
        part.min(nominal / hand.max(1)).clamp(1, MAX_LIST_SEATS)
    }

    /// Takes `seats` if the total stays within `limit`. Returns whether they were taken.
    fn take_seats(&self, seats: u32, limit: u32) -> bool {
        self.seats
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |both| {
                let taken = both as u32;
                // A request wider than the limit is admitted when nothing else runs.
                if taken > 0 && taken.saturating_add(seats) > limit {
                    return None;
                }
                let taken = taken + seats;
                let most = ((both >> 32) as u32).max(taken);
                Some(u64::from(most) << 32 | u64::from(taken))
            })
            .is_ok()
    }

    /// Raises the recorded peak demand to `seats`.
    pub fn want(&self, seats: u32) {
        let _ = self
            .seats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |both| {
                let most = ((both >> 32) as u32).max(seats);
                Some(u64::from(most) << 32 | u64::from(both as u32))
            });
    }

    /// Returns the peak demand since the last call, and restarts from the seats in use.
    pub fn take_demand(&self) -> u32 {
        let before = self
            .seats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |both| {
                let taken = u64::from(both as u32);
                Some(taken << 32 | taken)
            })
            .unwrap_or_default();
        (before >> 32) as u32
    }

    /// Returns the level's demand and bounds for the next period, and whether its peak demand
    /// exceeded its nominal seats.
    pub fn demand(&self) -> (Item, bool) {
        let most = f64::from(self.take_demand());
        let mut smoothed = self.smoothed.lock();
        *smoothed = most.max(SMOOTHING * *smoothed + (1.0 - SMOOTHING) * most);
        let spec = *self.spec.read();
        let nominal = f64::from(self.nominal());
        let least = nominal - (nominal * spec.lendable).round();
        let low = least.max(nominal.min(most));
        let high = match spec.borrowing {
            Some(part) => nominal + (nominal * part).round(),
            None => nominal + f64::from(TOTAL_SEATS),
        };
        let item = Item {
            low,
            high: high.max(low),
            target: low.max(*smoothed),
            nominal,
        };
        (item, most > nominal)
    }

    /// Sets the level's current seats and dispatches waiting requests that now fit.
    pub fn set_current(self: &Arc<Self>, seats: u32) {
        self.current.store(seats, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut queues = self.queues.lock();
            self.dispatch(&mut queues);
        }
    }

    /// Acquires seats, waiting at most `wait`. `flow` computes the flow's hash; it is called only
    /// when the request must be queued.
    pub async fn enter(
        self: &Arc<Self>,
        seats: u32,
        flow: impl FnOnce() -> u64,
        wait: Duration,
    ) -> Result<Permit, Refusal> {
        let limit = if self.is_exempt() {
            u32::MAX
        } else {
            self.current()
        };
        // New requests must not overtake waiting ones.
        let free = limit == u32::MAX || self.waiting.load(Ordering::SeqCst) == 0;
        if free && self.take_seats(seats, limit) {
            self.dispatched.fetch_add(1, Ordering::Relaxed);
            return Ok(Permit {
                level: Some(self.clone()),
                seats,
            });
        }
        let refuse = |why: Refusal| {
            self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
            why
        };
        let Some(shape) = self.spec.read().shape else {
            return Err(refuse(Refusal::ConcurrencyLimit));
        };
        let (sender, receiver) = oneshot::channel();
        {
            let mut queues = self.queues.lock();
            queues
                .push(shape, flow(), seats, sender)
                .map_err(|()| refuse(Refusal::QueueFull))?;
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.want(self.executing().saturating_add(queues.seats()));
            // A seat may have been released before this request was queued.
            self.dispatch(&mut queues);
        }
        self.contended.notify_one();
        let mut waiting = QueuedRequest {
            level: self,
            receiver,
        };
        match tokio::time::timeout(wait, &mut waiting.receiver).await {
            Ok(Ok(permit)) => {
                self.dispatched.fetch_add(1, Ordering::Relaxed);
                Ok(permit)
            }
            Ok(Err(_)) | Err(_) => Err(refuse(Refusal::TimeOut)),
        }
    }

    /// Removes the waiting requests that have been abandoned, so that they neither fill the queues
    /// nor count as demand.
    fn forget_abandoned(self: &Arc<Self>) {
        let mut queues = self.queues.lock();
        let gone = queues.remove(oneshot::Sender::is_closed);
        self.waiting.fetch_sub(gone, Ordering::SeqCst);
        // A request behind a removed one may fit.
        self.dispatch(&mut queues);
    }

    /// Admits waiting requests in order while seats are free.
    fn dispatch(self: &Arc<Self>, queues: &mut Queues<oneshot::Sender<Permit>>) {
        while let Some((at, seats)) = queues.next() {
            if !self.take_seats(seats, self.current()) {
                return;
            }
            let sender = queues.pop(at);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            let permit = Permit {
                level: Some(self.clone()),
                seats,
            };
            // The receiver has just given up: return its seats here. Dropping the permit would lock
            // the queues a second time.
            if let Err(mut unwanted) = sender.send(permit) {
                unwanted.level = None;
                self.seats.fetch_sub(u64::from(seats), Ordering::SeqCst);
            }
        }
    }

    fn leave(self: &Arc<Self>, seats: u32) {
        self.seats.fetch_sub(u64::from(seats), Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut queues = self.queues.lock();
            self.dispatch(&mut queues);
        }
    }
}

/// Returns a value as `u32` if it is an integer in range.
fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn level(response: serde_json::Value) -> Arc<Level> {
        let level = Arc::new(Level::new("l", Arc::new(Notify::new())));
        level.configure(
            &json!({"metadata": {"uid": "u"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "limitResponse": response}}}),
        );
        level.set_nominal(2, 1);
        level
    }

    const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn seats_are_waited_for_in_turn() {
        let level = level(
            json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}),
        );
        let one = level.enter(1, || 0, WAIT_TIMEOUT).await.unwrap();
        let two = level.enter(1, || 0, WAIT_TIMEOUT).await.unwrap();
        let waiter = |level: &Arc<Level>| {
            let level = level.clone();
            tokio::spawn(async move { level.enter(1, || 0, WAIT_TIMEOUT).await })
        };
        let (three, four) = (waiter(&level), waiter(&level));
        while level.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            level.enter(1, || 0, WAIT_TIMEOUT).await.err(),
            Some(Refusal::QueueFull)
        );
        drop(one);
        let three = three.await.unwrap().unwrap();
        assert_eq!((level.executing(), level.waiting()), (2, 1));
        drop(two);
        let four = four.await.unwrap().unwrap();
        drop((three, four));
        assert_eq!((level.executing(), level.waiting()), (0, 0));
        assert_eq!(level.dispatched(), 4);
    }

    #[tokio::test]
    async fn who_gives_up_holds_no_seat() {
        let level = level(
            json!({"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 2}}),
        );
        let wide = level.enter(5, || 0, WAIT_TIMEOUT).await.unwrap();
        assert_eq!(level.executing(), 5, "alone, even the widest gets in");
        assert_eq!(
            level.enter(1, || 1, Duration::ZERO).await.err(),
            Some(Refusal::TimeOut)
        );
        drop(wide);
        assert_eq!((level.executing(), level.waiting()), (0, 0));
        assert!(level.enter(1, || 1, WAIT_TIMEOUT).await.is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_queue() {
        let level = level(
            json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}}),
        );
        let all = level.enter(2, || 0, WAIT_TIMEOUT).await.unwrap();
        for _ in 0..3 {
            let late = level.enter(1, || 0, Duration::ZERO).await;
            assert_eq!(
                late.err(),
                Some(Refusal::TimeOut),
                "the queue is free again"
            );
            assert_eq!(level.waiting(), 0);
            // A client that disconnects drops its request.
            let waiter = level.clone();
            let waiter = tokio::spawn(async move { waiter.enter(1, || 0, WAIT_TIMEOUT).await });
            while level.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            waiter.abort();
            assert!(waiter.await.is_err());
            assert_eq!(level.waiting(), 0);
        }
        drop(all);
        assert_eq!(level.executing(), 0);
    }

    #[tokio::test]
    async fn a_seat_given_at_the_last_moment_is_returned() {
        let level = level(
            json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}}),
        );
        let all = level.enter(2, || 0, WAIT_TIMEOUT).await.unwrap();
        let mut waiter = Box::pin(level.enter(1, || 0, WAIT_TIMEOUT));
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiter.as_mut().poll(context).is_pending())
        });
        assert!(polled.await);
        drop(all);
        assert_eq!((level.executing(), level.waiting()), (1, 0));
        drop(waiter);
        assert_eq!(level.executing(), 0);
    }

    #[tokio::test]
    async fn without_queues_there_is_no_waiting() {
        let level = level(json!({"type": "Reject"}));
        let _wide = level.enter(2, || 0, WAIT_TIMEOUT).await.unwrap();
        assert_eq!(
            level.enter(1, || 0, WAIT_TIMEOUT).await.err(),
            Some(Refusal::ConcurrencyLimit)
        );
        assert_eq!(level.refused()[2], ("concurrency-limit", 1));
    }
}
