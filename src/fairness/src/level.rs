//! A priority level: its seats, and who waits for one.

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

/// Seats of all levels together: upstream's 400 reads and 200 writes.
pub(crate) const SEATS: u32 = 600;
/// A list takes no more seats than this, whatever it gives out.
const MAX_LIST_SEATS: u32 = 100;
/// The part of a level's seats that one request may take.
const MAX_SEATS_PART: f64 = 0.15;

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its queue is full.
    QueueFull,
    /// It waited too long.
    TimeOut,
    /// The level has no queues.
    ConcurrencyLimit,
}

impl Refusal {
    /// The reason in metrics.
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

/// What a `PriorityLevelConfiguration` says.
#[derive(Clone, Copy, Default)]
struct Spec {
    shares: u32,
    lendable: f64,
    borrowing: Option<f64>,
    /// `None` where there are no queues.
    shape: Option<QueueConfig>,
}

/// A priority level.
pub struct Level {
    /// Its name.
    pub name: String,
    uid: RwLock<Option<HeaderValue>>,
    spec: RwLock<Spec>,
    exempt: AtomicBool,
    nominal: AtomicU32,
    current: AtomicU32,
    /// Seats taken, and the most that were wanted since the last adjustment in
    /// the upper half.
    seats: AtomicU64,
    /// How many wait; only changed with `queues` locked.
    waiting: AtomicU32,
    queues: Mutex<Queues<oneshot::Sender<Permit>>>,
    smoothed: Mutex<f64>,
    contended: Arc<Notify>,
    dispatched: AtomicU64,
    refused: [AtomicU64; 3],
}

/// Seats that a request holds for as long as it is under way.
pub struct Permit {
    /// `None` once the seats have been given back.
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

/// How fast a level's smoothed demand follows its falling demand.
const SMOOTHING: f64 = 0.977;

impl Level {
    /// A level without configuration; `contended` is told when requests wait.
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

    /// Takes over what the object says.
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

    /// The uid of the level's object, as a header's value.
    pub fn uid(&self) -> Option<HeaderValue> {
        self.uid.read().clone()
    }

    /// Whether requests are let in without end.
    pub fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Relaxed)
    }

    /// The level's part in all shares.
    pub fn shares(&self) -> u64 {
        u64::from(self.spec.read().shares)
    }

    /// Gives the level its part of `total` seats.
    pub fn set_nominal(&self, total: u32, shares: u64) {
        let part = u64::from(total) * self.shares();
        let nominal = part.div_ceil(shares.max(1)) as u32;
        if self.nominal.swap(nominal, Ordering::Relaxed) != nominal {
            self.current.store(nominal, Ordering::Relaxed);
        }
    }

    /// The seats that are the level's own.
    pub fn nominal(&self) -> u32 {
        self.nominal.load(Ordering::Relaxed)
    }

    /// The seats that the level has at present.
    pub fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Seats that are taken.
    pub fn executing(&self) -> u32 {
        self.seats.load(Ordering::Relaxed) as u32
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that were let in.
    pub fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Relaxed)
    }

    /// Requests that were not, by reason.
    pub fn refused(&self) -> [(&'static str, u64); 3] {
        Refusal::all().map(|r| (r.as_str(), self.refused[r as usize].load(Ordering::Relaxed)))
    }

    /// The most seats that one request may take.
    pub fn max_seats(&self) -> u32 {
        let nominal = self.nominal();
        let hand = self.spec.read().shape.map_or(1, |s| s.hand as u32);
        let part = (f64::from(nominal) * MAX_SEATS_PART).ceil() as u32;
        part.min(nominal / hand.max(1)).clamp(1, MAX_LIST_SEATS)
    }

    /// Takes seats if there are some for all who wait and this one.
    fn take(&self, seats: u32, limit: u32) -> bool {
        self.seats
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |both| {
                let taken = both as u32;
                // Whoever is alone gets in, however wide.
                if taken > 0 && taken.saturating_add(seats) > limit {
                    return None;
                }
                let taken = taken + seats;
                let most = ((both >> 32) as u32).max(taken);
                Some(u64::from(most) << 32 | u64::from(taken))
            })
            .is_ok()
    }

    /// Notes that so many seats were wanted at once.
    pub fn want(&self, seats: u32) {
        let _ = self
            .seats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |both| {
                let most = ((both >> 32) as u32).max(seats);
                Some(u64::from(most) << 32 | u64::from(both as u32))
            });
    }

    /// The most seats wanted since this was last asked.
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

    /// What the level needs and may have, for the next period; and whether it
    /// wanted more than its own seats.
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
            None => nominal + f64::from(SEATS),
        };
        let item = Item {
            low,
            high: high.max(low),
            target: low.max(*smoothed),
            nominal,
        };
        (item, most > nominal)
    }

    /// Gives the level so many seats.
    pub fn set_current(self: &Arc<Self>, seats: u32) {
        self.current.store(seats, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut queues = self.queues.lock();
            self.dispatch(&mut queues);
        }
    }

    /// Takes seats, waiting for them for `wait` at most. `flow` is asked for
    /// the flow's hash only when there are none.
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
        // Who comes now must not overtake who waits.
        let free = limit == u32::MAX || self.waiting.load(Ordering::SeqCst) == 0;
        if free && self.take(seats, limit) {
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
            // A seat may have become free just before.
            self.dispatch(&mut queues);
        }
        self.contended.notify_one();
        match tokio::time::timeout(wait, receiver).await {
            Ok(Ok(permit)) => {
                self.dispatched.fetch_add(1, Ordering::Relaxed);
                Ok(permit)
            }
            // What is left in the queue is thrown away when its turn comes.
            Ok(Err(_)) | Err(_) => Err(refuse(Refusal::TimeOut)),
        }
    }

    /// Lets in those whose turn it is, as long as there are seats.
    fn dispatch(self: &Arc<Self>, queues: &mut Queues<oneshot::Sender<Permit>>) {
        while let Some((at, seats)) = queues.next(
            |sender| sender.is_closed(),
            || {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            },
        ) {
            if !self.take(seats, self.current()) {
                return;
            }
            let sender = queues.pop(at);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            let permit = Permit {
                level: Some(self.clone()),
                seats,
            };
            // Who has just given up leaves the seats to the next in turn, here
            // and not by dropping the permit: that would lock once more.
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

/// A number of a spec.
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

    const WAIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn seats_are_waited_for_in_turn() {
        let level = level(
            json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}),
        );
        let one = level.enter(1, || 0, WAIT).await.unwrap();
        let two = level.enter(1, || 0, WAIT).await.unwrap();
        let waiter = |level: &Arc<Level>| {
            let level = level.clone();
            tokio::spawn(async move { level.enter(1, || 0, WAIT).await })
        };
        let (three, four) = (waiter(&level), waiter(&level));
        while level.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            level.enter(1, || 0, WAIT).await.err(),
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
        let wide = level.enter(5, || 0, WAIT).await.unwrap();
        assert_eq!(level.executing(), 5, "alone, even the widest gets in");
        assert_eq!(
            level.enter(1, || 1, Duration::ZERO).await.err(),
            Some(Refusal::TimeOut)
        );
        drop(wide);
        assert_eq!((level.executing(), level.waiting()), (0, 0));
        assert!(level.enter(1, || 1, WAIT).await.is_ok());
    }

    #[tokio::test]
    async fn without_queues_there_is_no_waiting() {
        let level = level(json!({"type": "Reject"}));
        let _wide = level.enter(2, || 0, WAIT).await.unwrap();
        assert_eq!(
            level.enter(1, || 0, WAIT).await.err(),
            Some(Refusal::ConcurrencyLimit)
        );
        assert_eq!(level.refused()[2], ("concurrency-limit", 1));
    }
}
