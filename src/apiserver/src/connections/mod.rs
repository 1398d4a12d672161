//! The connections of clients: how many there may be, and when one has to end.
//!
//! Every pod can connect, and a connection costs a descriptor and memory before its client is
//! known. Therefore the number of connections is limited, also for each address alone. Clients that
//! have not shown who they are never keep others out: when they are too many, the oldest connection
//! of the address that has most of them ends.

mod activity;
mod limits;

pub use activity::{Activity, TrackedBody};
pub use limits::Limits;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The time in which clients can introduce themselves before a further connection from the same
/// address ends theirs.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// All open connections.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

/// Numbers of connections.
#[derive(Debug, Default)]
struct Counts {
    /// All that are open.
    open: usize,
    /// Those of clients that are not authenticated, except for those that are told to end.
    strangers: usize,
    /// Number of connections so far.
    sequence: u64,
    /// Those of each address that has any.
    by_address: HashMap<IpAddr, Own>,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct Own {
    open: usize,
    /// Those of clients that are not authenticated, by sequence number.
    strangers: BTreeMap<u64, Stranger>,
}

/// A connection whose client is not authenticated.
#[derive(Debug)]
struct Stranger {
    since: Instant,
    end: CancellationToken,
}

/// An open connection; it counts until this is dropped.
#[derive(Debug)]
pub struct Connection {
    address: IpAddr,
    /// The sequence number.
    number: u64,
    /// Whether the client has authenticated.
    known: AtomicBool,
    end: CancellationToken,
    counts: Arc<Mutex<Counts>>,
}

impl Connections {
    /// Returns a count of no connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// Counts a new connection, and tells that of a stranger to end if they are too many. Returns
    /// `None` if the new one exceeds the limits.
    pub fn open(&self, address: IpAddr) -> Option<Arc<Connection>> {
        self.open_at(address, Instant::now())
    }

    fn open_at(&self, address: IpAddr, now: Instant) -> Option<Arc<Connection>> {
        let mut counts = self.counts.lock();
        if let Some(crowded) = counts.crowded(&self.limits, address)
            && !counts.end_oldest(crowded?, address, now)
        {
            return None;
        }
        let end = CancellationToken::new();
        let number = counts.sequence;
        counts.sequence += 1;
        counts.open += 1;
        counts.strangers += 1;
        let own = counts.by_address.entry(address).or_default();
        own.open += 1;
        let stranger = Stranger {
            since: now,
            end: end.clone(),
        };
        own.strangers.insert(number, stranger);
        Some(Arc::new(Connection {
            address,
            number,
            known: AtomicBool::new(false),
            end,
            counts: self.counts.clone(),
        }))
    }
}

impl Counts {
    /// Returns the address of which a stranger has to make room for a connection from `newcomer`,
    /// if there is no room. The inner `None` means that there is no stranger.
    fn crowded(&self, limits: &Limits, newcomer: IpAddr) -> Option<Option<IpAddr>> {
        let (open, strangers) = self
            .by_address
            .get(&newcomer)
            .map_or((0, 0), |own| (own.open, own.strangers.len()));
        let room = limits.all.saturating_sub(self.open);
        if open >= limits.per_address
            || strangers >= limits.strangers_per_address
            || (room <= limits.reserved && open >= limits.few)
        {
            return Some(Some(newcomer));
        }
        if room > 0 && self.strangers < limits.strangers {
            return None;
        }
        let most = self
            .by_address
            .iter()
            .filter(|(_, own)| !own.strangers.is_empty())
            .max_by_key(|(address, own)| (own.strangers.len(), **address != newcomer));
        Some(most.map(|(address, _)| *address))
    }

    /// Tells the oldest stranger from `address` to end, for a connection from `newcomer`. Returns
    /// whether there is one. Of the newcomer's own address, the youngest are spared: many clients
    /// may connect at the same time, and none would get through if each new one ended another.
    fn end_oldest(&mut self, address: IpAddr, newcomer: IpAddr, now: Instant) -> bool {
        let Some(own) = self.by_address.get_mut(&address) else {
            return false;
        };
        let Some(oldest) = own.strangers.first_entry() else {
            return false;
        };
        let age = now.saturating_duration_since(oldest.get().since);
        if address == newcomer && age < INTRODUCTION {
            return false;
        }
        oldest.remove().end.cancel();
        self.strangers -= 1;
        true
    }

    /// Removes a connection from the strangers. Returns whether it was among them.
    fn remove_stranger(&mut self, address: IpAddr, number: u64) -> bool {
        let own = self.by_address.get_mut(&address);
        let found = own.is_some_and(|own| own.strangers.remove(&number).is_some());
        self.strangers -= usize::from(found);
        found
    }
}

impl Connection {
    /// Notes that the client has authenticated. From now on it is no stranger, unless its
    /// connection was told to end.
    pub fn admit(&self) {
        if self.is_known() {
            return;
        }
        let mut counts = self.counts.lock();
        if counts.remove_stranger(self.address, self.number) {
            self.known.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the client has authenticated.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Completes when the connection has to end because strangers have too many.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.remove_stranger(self.address, self.number);
        counts.open -= 1;
        if let Some(own) = counts.by_address.get_mut(&self.address) {
            own.open -= 1;
            if own.open == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn limits() -> Limits {
        Limits {
            all: 8,
            per_address: 4,
            reserved: 0,
            few: 2,
            strangers: 6,
            strangers_per_address: 3,
            ..Limits::of_process()
        }
    }

    fn is_ended(connection: &Connection) -> bool {
        connection.end.is_cancelled()
    }

    #[test]
    fn strangers_make_room_for_others() {
        let connections = Connections::new(limits());
        let now = Instant::now();
        let later = now + INTRODUCTION;
        let open = |last| connections.open_at(address(last), now);
        let first: Vec<_> = (0..3).map(|_| open(1).unwrap()).collect();
        assert!(open(1).is_none(), "the youngest of an address are spared");
        let second: Vec<_> = (0..3).map(|_| open(2).unwrap()).collect();
        // All strangers are there; one of an address with many has to go for each new address.
        let third = open(3).unwrap();
        let fourth = open(4).unwrap();
        let ended = |all: &[Arc<Connection>]| all.iter().map(|c| is_ended(c)).collect::<Vec<_>>();
        assert_eq!(ended(&first), [true, false, false]);
        assert_eq!(ended(&second), [true, false, false]);
        first[0].admit();
        assert!(!first[0].is_known(), "it ends");
        drop(first);
        drop(second);
        third.admit();
        fourth.admit();
        let mut known = vec![third, fourth];
        for _ in 0..5 {
            let connection = connections.open_at(address(3), later);
            known.extend(connection.inspect(|connection| connection.admit()));
        }
        assert_eq!(known.len(), 5, "four are there from the address");
        let strangers: Vec<_> = (0..3).map(|_| open(5).unwrap()).collect();
        assert!(open(5).is_none());
        let newest = connections.open_at(address(5), later).unwrap();
        assert_eq!(ended(&strangers), [true, false, false]);
        drop((known, strangers, newest));
        let counts = connections.counts.lock();
        assert_eq!((counts.open, counts.strangers), (0, 0));
        assert!(counts.by_address.is_empty());
    }

    #[test]
    fn strangers_make_room_if_all_is_full() {
        let connections = Connections::new(limits());
        let open = |last| connections.open(address(last));
        let strangers: Vec<_> = (1..4).map(|last| open(last).unwrap()).collect();
        let mut known = Vec::new();
        for last in 11..19 {
            let connection = open(last);
            known.extend(connection.inspect(|connection| connection.admit()));
        }
        assert_eq!(known.len(), 8);
        assert!(strangers.iter().all(|stranger| is_ended(stranger)));
        assert!(open(19).is_none(), "nobody is left to make room");
        drop(strangers);
        drop(known.pop());
        assert!(open(19).is_some());
    }

    #[test]
    fn the_last_places_are_for_addresses_with_few() {
        let connections = Connections::new(Limits {
            reserved: 4,
            ..limits()
        });
        let mut known = Vec::new();
        let mut open = |last| {
            let connection = connections.open(address(last));
            let found = connection.is_some();
            known.extend(connection.inspect(|connection| connection.admit()));
            found
        };
        assert!((0..4).all(|_| open(1)));
        assert!(!open(1), "four are there from the address");
        assert!(open(2) && open(2));
        assert!(!open(2), "it has its few");
        assert!(open(3) && open(3));
        assert!(!open(4), "eight are there");
    }
}
