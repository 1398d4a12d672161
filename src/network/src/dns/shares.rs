//! Limited capacity that no single client can use up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// A capacity of which each client can have a part. Clones share it.
#[derive(Clone)]
pub(super) struct Shares {
    all: usize,
    per_client: usize,
    taken: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    /// Counts above zero.
    by_client: HashMap<IpAddr, usize>,
}

/// A unit of the capacity; given back when dropped.
pub(super) struct Share {
    client: IpAddr,
    taken: Arc<Mutex<Counts>>,
}

impl Shares {
    pub(super) fn new(all: usize, per_client: usize) -> Self {
        Self {
            all,
            per_client,
            taken: Arc::default(),
        }
    }

    /// Takes a unit. Returns `None` if there is none left, or the client has its part.
    pub(super) fn take(&self, client: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock();
        let own = taken.by_client.get(&client).copied().unwrap_or(0);
        if taken.all >= self.all || own >= self.per_client {
            return None;
        }
        taken.all += 1;
        taken.by_client.insert(client, own + 1);
        Some(Share {
            client,
            taken: self.taken.clone(),
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        match taken.by_client.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_takes_everything() {
        let client = |last| IpAddr::from([10, 244, 0, last]);
        let shares = Shares::new(3, 2);
        let (first, second) = (shares.take(client(1)), shares.take(client(1)));
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(client(1)).is_none(), "it has its part");
        let other = shares.take(client(2));
        assert!(other.is_some());
        assert!(shares.take(client(3)).is_none(), "nothing is left");
        drop(first);
        assert!(shares.take(client(1)).is_some());
        drop((second, other));
        assert!(shares.taken.lock().by_client.is_empty());
    }
}
