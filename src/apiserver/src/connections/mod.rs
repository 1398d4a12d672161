//! The connections of clients: how many there may be, and when one has to end.
//!
//! Every pod can connect, and a connection costs a descriptor and memory before its client is
//! known. Therefore the number of connections is limited, also for each address alone. Clients that
//! have not shown who they are get a small part of it.

mod activity;
mod limits;

pub use activity::{Activity, TrackedBody};
pub use limits::Limits;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// All open connections.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

/// Numbers of connections.
#[derive(Debug, Default)]
struct Counts {
    all: Count,
    /// Those of each address that has any.
    by_address: HashMap<IpAddr, Count>,
}

/// The connections of one address, or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    /// Those of clients that are not authenticated.
    strangers: usize,
}

/// An open connection; it counts until this is dropped.
#[derive(Debug)]
pub struct Connection {
    address: IpAddr,
    /// Whether the client has authenticated.
    known: AtomicBool,
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

    /// Counts a new connection. Returns `None` if it exceeds the limits.
    pub fn open(&self, address: IpAddr) -> Option<Arc<Connection>> {
        let limits = &self.limits;
        let mut counts = self.counts.lock();
        let own = counts.by_address.get(&address).copied().unwrap_or_default();
        let full = counts.all.open >= limits.all
            || counts.all.strangers >= limits.strangers
            || own.open >= limits.per_address
            || own.strangers >= limits.strangers_per_address;
        if full {
            return None;
        }
        counts.change(address, |count| {
            count.open += 1;
            count.strangers += 1;
        });
        Some(Arc::new(Connection {
            address,
            known: AtomicBool::new(false),
            counts: self.counts.clone(),
        }))
    }
}

impl Counts {
    /// Changes the count of an address and that of all.
    fn change(&mut self, address: IpAddr, change: impl Fn(&mut Count)) {
        change(&mut self.all);
        let own = self.by_address.entry(address).or_default();
        change(own);
        if own.open == 0 {
            self.by_address.remove(&address);
        }
    }
}

impl Connection {
    /// Notes that the client has authenticated. From now on it is no stranger.
    pub fn admit(&self) {
        if !self.is_known() && !self.known.swap(true, Ordering::Relaxed) {
            let mut counts = self.counts.lock();
            counts.change(self.address, |count| count.strangers -= 1);
        }
    }

    /// Returns whether the client has authenticated.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let stranger = usize::from(!self.is_known());
        self.counts.lock().change(self.address, |count| {
            count.open -= 1;
            count.strangers -= stranger;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn addresses_and_strangers_are_limited() {
        let connections = Connections::new(Limits {
            all: 6,
            per_address: 3,
            strangers: 3,
            strangers_per_address: 2,
            ..Limits::of_process()
        });
        let open = |last| connections.open(address(last));
        let (first, second) = (open(1).unwrap(), open(1).unwrap());
        assert!(
            open(1).is_none(),
            "two strangers are there from the address"
        );
        let other = open(2).unwrap();
        assert!(open(3).is_none(), "three strangers are there");
        first.admit();
        first.admit();
        let third = open(1).unwrap();
        for connection in [&second, &third, &other] {
            connection.admit();
        }
        assert!(open(1).is_none(), "three are there from the address");
        let rest: Vec<_> = (3..5).map(|last| open(last).unwrap()).collect();
        rest.iter().for_each(|connection| connection.admit());
        assert!(open(9).is_none(), "six are there");
        drop(first);
        assert!(open(9).is_some());
        drop((second, third, other, rest));
        let counts = connections.counts.lock();
        assert_eq!((counts.all.open, counts.all.strangers), (0, 0));
        assert!(counts.by_address.is_empty());
    }
}
