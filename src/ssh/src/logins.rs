//! The connections whose client has not authenticated yet.
//!
//! Every pod can connect, so their number and time are limited, also for each address alone.
//! An authenticated client is root and needs no limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Limits of connections without authentication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of all.
    pub all: usize,
    /// Maximum number from one address.
    pub per_address: usize,
    /// Time to authenticate.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: 100,
            per_address: 20,
            time: Duration::from_secs(60),
        }
    }
}

/// Numbers of connections by address, all above zero.
type Counts = HashMap<IpAddr, usize>;

/// The connections without authentication.
#[derive(Debug, Default)]
pub(crate) struct Logins(Arc<Mutex<Counts>>);

/// A connection without authentication; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Login {
    address: IpAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Logins {
    /// Counts a new connection. Returns `None` if it exceeds the limits.
    pub(crate) fn begin(&self, address: IpAddr, limits: Limits) -> Option<Login> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(&address).copied().unwrap_or(0);
        if own >= limits.per_address || counts.values().sum::<usize>() >= limits.all {
            return None;
        }
        counts.insert(address, own + 1);
        Some(Login {
            address,
            counts: self.0.clone(),
        })
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_all_together_are_limited() {
        let limits = Limits {
            all: 3,
            per_address: 2,
            ..Limits::default()
        };
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let logins = Logins::default();
        let begin = |last| logins.begin(address(last), limits);
        let (first, second) = (begin(1), begin(1));
        assert!(first.is_some() && second.is_some() && begin(1).is_none());
        let other = begin(2);
        assert!(other.is_some() && begin(3).is_none());
        drop(first);
        assert!(begin(1).is_some());
        drop((second, other));
        assert!(logins.0.lock().unwrap().is_empty());
    }
}
