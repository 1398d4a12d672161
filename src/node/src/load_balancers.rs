//! Answers for load balancers' addresses that this node has; see [`rkube_network::balance`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rkube_network::balance::{self, Announcer, Balancer, Candidate, Peers};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::kinds::Service;
use crate::network::UPLINK;

/// Interval of the queries to other nodes, and of the retries after an error.
const PERIOD: Duration = Duration::from_secs(1);
/// Number of periods in which a new address is announced again. Machines ignore a change that
/// follows another one within a second.
const REPEATS: u32 = 3;
/// Number of periods between two announcements of all addresses: a node that was silent for a while,
/// as a paused machine, does not know that another one has stood in for it.
const REFRESH: u32 = 5;

/// The addresses of load balancers and the nodes that may answer for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balancing {
    balancers: Vec<Balancer>,
    candidates: Vec<Candidate>,
}

impl Balancing {
    /// Derives the addresses in `range` from API objects.
    pub fn from_objects(
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        nodes: &[Arc<Node>],
        range: Ipv4Net,
    ) -> Self {
        Self {
            balancers: balance::balancers(services, slices, range),
            candidates: balance::candidates(nodes),
        }
    }
}

/// The part of a node in answering for addresses.
struct Duty {
    own: Ipv4Addr,
    peers: Peers,
    addresses: BTreeSet<Ipv4Addr>,
    ask: BTreeSet<Ipv4Addr>,
    repeats: Repeats,
    /// Whether the last attempt failed.
    failed: bool,
}

/// The announcements that follow the first one of each address.
#[derive(Clone, Debug, Default)]
struct Repeats {
    /// Addresses that are new, with the number of periods left.
    fresh: BTreeMap<Ipv4Addr, u32>,
    /// Number of periods since all were announced.
    periods: u32,
}

impl Repeats {
    /// Takes note of new addresses, and of those that are there.
    fn note(&mut self, new: impl IntoIterator<Item = Ipv4Addr>, all: &BTreeSet<Ipv4Addr>) {
        self.fresh.extend(new.into_iter().map(|ip| (ip, REPEATS)));
        self.fresh.retain(|ip, _| all.contains(ip));
    }

    /// Returns what is to be announced in this period.
    fn due(&mut self, all: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
        self.periods += 1;
        let mut due: BTreeSet<Ipv4Addr> = self.fresh.keys().copied().collect();
        if self.periods >= REFRESH {
            self.periods = 0;
            due.extend(all);
        }
        self.fresh.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
        due.into_iter().collect()
    }
}

/// Answers for the node's part of the addresses until the future is dropped. `None` stands for
/// objects that are not known yet.
pub(crate) async fn run(
    own: Ipv4Addr,
    range: Ipv4Net,
    mut known: watch::Receiver<Option<Balancing>>,
) {
    let announcer = loop {
        let opened = tokio::task::spawn_blocking(move || Announcer::open(UPLINK, own, range));
        match opened.await {
            Ok(Ok(announcer)) => break Arc::new(announcer),
            Ok(Err(e)) => warn!("answering for load balancers: {e}"),
            Err(e) => warn!("answering for load balancers: {e}"),
        }
        tokio::time::sleep(PERIOD).await;
    };
    let mut duty = Duty {
        own,
        peers: Peers::default(),
        addresses: BTreeSet::new(),
        ask: BTreeSet::new(),
        repeats: Repeats::default(),
        failed: false,
    };
    let mut periods = tokio::time::interval(PERIOD);
    periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Objects may change often: queries and repeats keep their pace.
    let mut is_period = false;
    loop {
        let balancing = known.borrow_and_update().clone();
        if let Some(balancing) = balancing {
            duty.act(&announcer, &balancing, is_period).await;
        }
        // Without duties, nothing happens until the objects change.
        is_period = tokio::select! {
            changed = known.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            _ = periods.tick(), if duty.goes_on() => true,
        };
    }
}

impl Duty {
    /// Whether there is something to do without a change of the objects.
    fn goes_on(&self) -> bool {
        self.failed || !self.ask.is_empty() || !self.addresses.is_empty()
    }

    /// Does what is due now. `is_period` is whether a period has passed.
    async fn act(&mut self, announcer: &Arc<Announcer>, balancing: &Balancing, is_period: bool) {
        let (own, there, known) = (self.own, announcer.clone(), balancing.clone());
        let (mut peers, before, ask) =
            (self.peers.clone(), self.addresses.clone(), self.ask.clone());
        let mut repeats = self.repeats.clone();
        let done = tokio::task::spawn_blocking(move || {
            if is_period && !ask.is_empty() {
                let answered = there.ask(&ask)?;
                peers.record(&ask, &answered);
            }
            let (addresses, ask) = peers.duties(own, &known.balancers, &known.candidates);
            let mut new = there.set(&addresses)?;
            new.extend(addresses.difference(&before));
            if is_period {
                there.announce(&repeats.due(&addresses))?;
            }
            repeats.note(new, &addresses);
            Ok::<_, rkube_network::NetworkError>((peers, before, addresses, ask, repeats))
        })
        .await;
        self.failed = !matches!(done, Ok(Ok(_)));
        match done {
            Ok(Ok((peers, before, addresses, ask, repeats))) => {
                for ip in addresses.difference(&before) {
                    info!(%ip, "this node answers for the load balancer's address");
                }
                for ip in before.difference(&addresses) {
                    info!(%ip, "another node answers for the load balancer's address");
                }
                (self.peers, self.addresses, self.ask) = (peers, addresses, ask);
                self.repeats = repeats;
            }
            Ok(Err(e)) => warn!("answering for load balancers: {e}"),
            Err(e) => warn!("answering for load balancers: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_addresses_and_nodes() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "n", "name": "web"},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.130"}]}},
        }))
        .unwrap();
        let range = "10.0.0.128/25".parse().unwrap();
        let found = Balancing::from_objects(&[Arc::new(service)], &[], &[], range);
        assert_eq!(found.balancers.len(), 1);
        assert!(found.candidates.is_empty());
    }
    #[test]
    fn new_addresses_are_repeated_and_all_are_refreshed() {
        let (old, new) = (Ipv4Addr::new(10, 0, 0, 130), Ipv4Addr::new(10, 0, 0, 131));
        let gone = Ipv4Addr::new(10, 0, 0, 132);
        let all = BTreeSet::from([old, new]);
        let mut repeats = Repeats::default();
        repeats.note([new, gone], &all);
        let due: Vec<Vec<Ipv4Addr>> = (0..10).map(|_| repeats.due(&all)).collect();
        for (i, due) in due.iter().enumerate() {
            let expected = match i {
                0..=2 => vec![new],
                4 | 9 => vec![old, new],
                _ => vec![],
            };
            assert_eq!(*due, expected, "period {i}");
        }
    }
}
