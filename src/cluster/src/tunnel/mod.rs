//! Addresses for services of type LoadBalancer, reachable from the host.
//!
//! Every such service gets an address from the upper half of the nodes' range and keeps
//! it: assignments are stored in the profile. The host routes the address to a node
//! whose service proxy forwards to the pods. If the host has no route to the nodes,
//! services get loopback addresses, and connections are forwarded over SSH.

mod addresses;
mod carry;
mod cleanup;
mod lock;
#[cfg(not(target_os = "linux"))]
mod no_routes;
mod outage;
#[cfg(target_os = "linux")]
mod routes;
mod state;
mod via;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use rkube_client::reflector::{self, Changes, Event, Versioned};
use rkube_drivers::{Driver, NodeState};
use rkube_failure::{Failure, Kind};

#[cfg(not(target_os = "linux"))]
use no_routes as routes;

use crate::access;
use crate::files::Home;
use crate::profile::Profile;
use addresses::AddressAssignments;
pub use cleanup::{Cleanup, cleanup, is_needed};
pub use lock::is_open;
use lock::{Signed, lock_of, take_lock};
use outage::Outage;
use state::{Beginning, told};
pub use state::{State, state};
use via::{Gateway, Slices};
use wanted::{is_finalized, key, published, wants_address, wish};

/// The interval between checks whether the routes are still there. A restart of the nodes removes
/// them, and the removal of the profile ends the tunnel.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// The time that the driver may take to report which nodes run.
const STATES_TIMEOUT: Duration = Duration::from_secs(5);

/// Field manager of the status that the tunnel writes.
const MANAGER: &str = "rkube-tunnel";

/// A change of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The service can be reached at the address.
    Up {
        /// `namespace/name`.
        service: String,
        /// Its address.
        address: Ipv4Addr,
        /// Its ports.
        ports: Vec<u16>,
    },
    /// The service was deleted, or no longer needs an address.
    Down {
        /// `namespace/name`.
        service: String,
    },
    /// An operation that failed and is retried.
    Trouble(String),
    /// The cluster was deleted, which ends the tunnel.
    Deleted,
}

/// Prepares a tunnel, and removes the routes of one that was killed. Also returns the lock that marks
/// it as running.
async fn open(home: &Home, profile: &Profile) -> Result<(Tunnel, Signed), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    if !driver.is_up(&plan).await {
        return Err(access::not_running(&profile.name));
    }
    let lock = take_lock(profile, &lock_of(&plan.dir)).await?;
    let route = if driver.endpoints(&plan).routable {
        RouteKind::Route(routes::Routes {
            nodes: profile.node_cidr,
        })
    } else {
        RouteKind::Ssh(Box::new(carry::Carrier::new(home, profile)))
    };
    let mut tunnel = Tunnel {
        driver,
        gateways: Vec::new(),
        slices: Slices::default(),
        client: access::client(home, profile).await?,
        assignments: AddressAssignments::load(home, profile, route.range(profile))?,
        route,
        nodes: profile.node_cidr,
        up: BTreeMap::new(),
    };
    tunnel.look(home, profile).await;
    tunnel.route.begin(profile)?;
    Ok((tunnel, lock))
}

/// Runs the tunnel until `stop` resolves, then removes all addresses and routes. Also ends when the
/// cluster is deleted. Survives restarts of the nodes.
pub async fn run(
    home: &Home,
    profile: &Profile,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(Change),
) -> Result<(), Failure> {
    let beginning = Beginning::new(home, profile);
    let opened = match open(home, profile).await {
        Ok((tunnel, lock)) => tunnel.route.check(profile).map(|()| (tunnel, lock)),
        Err(e) => Err(e),
    };
    let (mut tunnel, _lock) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            // The file of a tunnel that runs is not touched.
            if e.kind != Kind::Conflict {
                // Where it cannot be written, the failure itself is what counts.
                let _ = beginning.tell(false, Some(&told(&e)));
            }
            return Err(e);
        }
    };
    let mut report = |change: Change| {
        let mut written = Ok(());
        if let Change::Trouble(what) = &change {
            written = beginning.tell(true, Some(what));
        }
        report(change);
        if let Err(e) = written {
            report(Change::Trouble(e.message));
        }
    };

    tokio::pin!(stop);
    let mut events = tunnel.events();
    let mut outage = Outage::default();
    let mut check = tokio::time::interval(CHECK_PERIOD);
    loop {
        let event = tokio::select! {
            () = &mut stop => break,
            what = tunnel.route.trouble() => {
                report(Change::Trouble(what));
                continue;
            }
            _ = check.tick() => {
                // The same name may be another cluster by now. A profile that cannot be read
                // is looked at again at the next check.
                match Profile::try_load(home, &profile.name) {
                    Ok(Some(now)) if now.created == profile.created => {
                        tunnel.look(home, &now).await;
                    }
                    Err(_) => {}
                    Ok(_) => {
                        tunnel.forget(&mut report);
                        return Ok(());
                    }
                }
                tunnel.lead(&mut report);
                if tunnel.mend() {
                    // The nodes were restarted, perhaps without closing the watch's connection.
                    events = tunnel.events();
                }
                continue;
            }
            event = events.next() => event,
        };
        match event {
            None => break,
            Some(WatchEvent::Failed) => {
                if let Some(what) = outage.begin(&profile.name) {
                    report(Change::Trouble(what));
                }
            }
            Some(WatchEvent::Slice(event)) => {
                if tunnel.slices.apply(*event) {
                    tunnel.lead(&mut report);
                }
            }
            Some(WatchEvent::Service(event)) => {
                let is_list = matches!(*event, Event::Listed(_));
                if is_list {
                    outage = Outage::default();
                }
                tunnel.handle(*event, &mut report).await;
                if is_list && let Err(e) = beginning.tell(true, None) {
                    report(Change::Trouble(e.message));
                }
            }
        }
    }
    tunnel.withdraw(&mut report).await;
    Ok(())
}

/// The objects that the tunnel watches.
enum WatchEvent {
    /// A service.
    Service(Box<Event<Service>>),
    /// Endpoints of a service.
    Slice(Box<Event<EndpointSlice>>),
    /// The API server does not respond.
    Failed,
}

/// Returns the changes of all objects of a kind. `wrap` is not called for failures.
fn changes<K: Versioned + kube::Resource<DynamicType = ()>>(
    client: &Client,
    wrap: fn(Box<Event<K>>) -> WatchEvent,
) -> impl Stream<Item = WatchEvent> + Send + use<K> {
    let source = reflector::Source::of::<K>(None)
        .streamed()
        .delays(|_| outage::RETRY_PERIOD);
    Changes::new(client.clone(), source).map(move |event| match event {
        Event::Failed(_) => WatchEvent::Failed,
        event => wrap(Box::new(event)),
    })
}

/// The way of packets for a load balancer's address into the cluster.
enum RouteKind {
    /// The host routes them to a node.
    Route(routes::Routes),
    /// The host listens on loopback addresses and forwards connections over SSH.
    Ssh(Box<carry::Carrier>),
}

impl RouteKind {
    /// Returns the range of addresses to assign.
    fn range(&self, profile: &Profile) -> Ipv4Net {
        match self {
            Self::Route(_) => profile.load_balancer_range(),
            Self::Ssh(carrier) => carrier.range(),
        }
    }

    /// Removes the routes of a tunnel that was killed.
    fn begin(&self, profile: &Profile) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.clear(profile.load_balancer_range()),
            // Listeners are closed with their process.
            Self::Ssh(_) => Ok(()),
        }
    }

    /// Fails if this process may not do what services need.
    fn check(&self, profile: &Profile) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.check(profile.load_balancer_range()),
            Self::Ssh(_) => Ok(()),
        }
    }

    fn up(
        &mut self,
        key: &str,
        service: &Service,
        address: Ipv4Addr,
        via: Ipv4Addr,
    ) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.add(address, via),
            Self::Ssh(carrier) => carrier.add(key, service, address),
        }
    }

    fn down(&mut self, key: &str, address: Ipv4Addr, via: Ipv4Addr) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.remove(address, via),
            Self::Ssh(carrier) => {
                carrier.remove(key);
                Ok(())
            }
        }
    }

    /// Returns the `ipMode` of the address: whether nodes may bypass the load balancer for it.
    fn ip_mode(&self) -> &'static str {
        match self {
            Self::Route(_) => "VIP",
            // On every node, a loopback address refers to the node itself.
            Self::Ssh(_) => "Proxy",
        }
    }

    /// Leads an address to another node.
    fn turn(&self, address: Ipv4Addr, via: Ipv4Addr) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.add(address, via),
            // The address is the service's cluster IP, which every node serves for all pods.
            Self::Ssh(_) => Ok(()),
        }
    }

    /// Restores the routes to `addresses` if some of them are missing. Returns whether they were
    /// restored, which fails while the nodes are stopped.
    fn mend(&self, addresses: &[(Ipv4Addr, Ipv4Addr)]) -> bool {
        let Self::Route(routes) = self else {
            // Forwards connect to the node again on their own.
            return false;
        };
        // If the routes cannot be read, they are read at the next check.
        !routes.has_all(addresses).unwrap_or(true)
            && addresses
                .iter()
                .all(|(address, via)| routes.add(*address, *via).is_ok())
    }

    async fn trouble(&mut self) -> String {
        match self {
            Self::Route(_) => std::future::pending().await,
            Self::Ssh(carrier) => carrier.trouble().await,
        }
    }
}

/// A service that has its address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Up {
    address: Ipv4Addr,
    ports: Vec<u16>,
    /// Whether only nodes with its pods serve it.
    local: bool,
    /// The node that packets are sent to.
    via: Ipv4Addr,
}

struct Tunnel {
    client: Client,
    driver: Box<dyn Driver>,
    route: RouteKind,
    assignments: AddressAssignments,
    gateways: Vec<Gateway>,
    slices: Slices,
    /// The range of the nodes' addresses.
    nodes: Ipv4Net,
    up: BTreeMap<String, Up>,
}

impl Tunnel {
    /// Watches services and their endpoints from now on.
    fn events(&self) -> BoxStream<'static, WatchEvent> {
        futures::stream::select(
            changes(&self.client, WatchEvent::Service),
            changes(&self.client, WatchEvent::Slice),
        )
        .boxed()
    }

    /// Finds out which nodes there are and which of them run.
    async fn look(&mut self, home: &Home, profile: &Profile) {
        let plan = profile.plan(home);
        let states = tokio::time::timeout(STATES_TIMEOUT, self.driver.states(&plan)).await;
        // A state that is not known is checked again the next time.
        let states = match states {
            Ok(Ok(states)) => states,
            _ if self.gateways.is_empty() => vec![NodeState::Running; profile.nodes.len()],
            _ => return,
        };
        let nodes = profile.nodes.iter().zip(states);
        self.gateways = nodes
            .map(|(node, state)| Gateway {
                name: node.name.clone(),
                ip: node.ip,
                up: state == NodeState::Running,
            })
            .collect();
    }

    /// Leads addresses to other nodes where the ones so far do not serve them any more.
    fn lead(&mut self, report: &mut impl FnMut(Change)) {
        for (key, up) in &mut self.up {
            let via = self
                .slices
                .via(&self.gateways, key, up.local, Some(up.via))
                .unwrap_or(up.via);
            if via == up.via {
                continue;
            }
            match self.route.turn(up.address, via) {
                Ok(()) => up.via = via,
                Err(e) => report(Change::Trouble(format!(
                    "cannot lead {} to another node: {}",
                    up.address, e.message
                ))),
            }
        }
    }

    /// Takes a change of a service over. One that cannot be read keeps its address.
    async fn handle(&mut self, event: Event<Service>, report: &mut impl FnMut(Change)) {
        let kept = match event {
            Event::Listed(list) => {
                let mut seen = BTreeSet::new();
                seen.extend(list.objects.iter().map(key));
                let unreadable = list.unreadable.iter();
                seen.extend(unreadable.map(|s| format!("{}/{}", s.namespace, s.name)));
                let gone = self.up.keys().filter(|k| !seen.contains(*k));
                for service in gone.cloned().collect::<Vec<_>>() {
                    self.take_down(&service, report);
                }
                // First, so that the addresses are free for others.
                let kept = self.assignments.keep(&seen);
                for service in &list.objects {
                    self.apply(service, report).await;
                }
                kept
            }
            Event::Applied(service) => {
                self.apply(&service, report).await;
                Ok(())
            }
            Event::Deleted(service) => {
                let key = key(&service);
                self.take_down(&key, report);
                self.assignments.forget(&key)
            }
            Event::Unreadable(_) | Event::Failed(_) => Ok(()),
        };
        if let Err(e) = kept {
            report(Change::Trouble(e.message));
        }
    }

    /// Restores missing routes. Returns whether there were any.
    fn mend(&self) -> bool {
        let addresses: Vec<(Ipv4Addr, Ipv4Addr)> =
            self.up.values().map(|up| (up.address, up.via)).collect();
        self.route.mend(&addresses)
    }

    /// Removes all addresses from the host, after the cluster was deleted.
    fn forget(&mut self, report: &mut impl FnMut(Change)) {
        for (key, up) in std::mem::take(&mut self.up) {
            // The route went with the nodes' network, if not, it leads nowhere.
            let _ = self.route.down(&key, up.address, up.via);
        }
        report(Change::Deleted);
    }

    async fn apply(&mut self, service: &Service, report: &mut impl FnMut(Change)) {
        let key = key(service);
        if !wants_address(service) {
            let was_ours = self.up.contains_key(&key);
            self.take_down(&key, report);
            if was_ours && let Err(e) = self.set_status(service, None).await {
                report(Change::Trouble(format!(
                    "cannot take back the address of {key}: {e}"
                )));
            }
            return;
        }
        let routed = matches!(self.route, RouteKind::Route(_));
        if routed && is_finalized(service) && !published(service).is_empty() {
            // Until the nodes are restarted without the controller, it has the address.
            self.take_down(&key, report);
            return;
        }
        let wished = match wish(service) {
            // An address of the nodes' network is what the service has without the tunnel.
            Ok(wished) => wished.filter(|ip| routed || !self.nodes.contains(ip)),
            Err(why) => return report(Change::Trouble(format!("no address for {key}: {why}"))),
        };
        let address = match self.assignments.address(&key, wished) {
            Ok(address) => address,
            Err(e) => return report(Change::Trouble(format!("no address for {key}: {e}"))),
        };
        let ports: Vec<u16> = service
            .spec
            .iter()
            .flat_map(|s| s.ports.iter().flatten())
            .filter_map(|p| u16::try_from(p.port).ok())
            .collect();
        let local = via::is_local(service);
        let before = self.up.get(&key);
        let via = before.map(|up| up.via);
        let Some(via) = self.slices.via(&self.gateways, &key, local, via) else {
            return;
        };
        let now = Up {
            address,
            ports,
            local,
            via,
        };
        if before != Some(&now) {
            self.take_down(&key, report);
            if let Err(e) = self.route.up(&key, service, address, via) {
                return report(Change::Trouble(format!(
                    "cannot lead {address} to the cluster: {}",
                    told(&e)
                )));
            }
            report(Change::Up {
                service: key.clone(),
                address,
                ports: now.ports.clone(),
            });
            self.up.insert(key.clone(), now);
        }
        if published(service) != [address.to_string()]
            && let Err(e) = self.set_status(service, Some(address)).await
        {
            report(Change::Trouble(format!(
                "cannot publish the address of {key}: {e}"
            )));
        }
    }

    fn take_down(&mut self, key: &str, report: &mut impl FnMut(Change)) {
        let Some(Up { address, via, .. }) = self.up.remove(key) else {
            return;
        };
        match self.route.down(key, address, via) {
            Ok(()) => report(Change::Down {
                service: key.to_owned(),
            }),
            Err(e) => report(Change::Trouble(format!(
                "cannot take {address} back: {}",
                e.message
            ))),
        }
    }

    async fn set_status(
        &self,
        service: &Service,
        address: Option<Ipv4Addr>,
    ) -> Result<(), kube::Error> {
        let api: Api<Service> = Api::namespaced(
            self.client.clone(),
            &service.namespace().unwrap_or_default(),
        );
        let load_balancer = match address {
            Some(ip) => {
                serde_json::json!({ "ingress": [{ "ip": ip, "ipMode": self.route.ip_mode() }] })
            }
            None => serde_json::json!({ "ingress": null }),
        };
        let patch = serde_json::json!({ "status": { "loadBalancer": load_balancer } });
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        match api
            .patch_status(&service.name_any(), &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            // The service was deleted in the meantime; its event follows.
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes all addresses from the host and from the services' status. Reports errors of the API
    /// server.
    async fn withdraw(&mut self, report: &mut impl FnMut(Change)) {
        for key in self.up.keys().cloned().collect::<Vec<_>>() {
            self.take_down(&key, report);
            let Some((namespace, name)) = key.split_once('/') else {
                continue;
            };
            let service = Service {
                metadata: kube::core::ObjectMeta {
                    namespace: Some(namespace.into()),
                    name: Some(name.into()),
                    ..kube::core::ObjectMeta::default()
                },
                ..Service::default()
            };
            if let Err(e) = self.set_status(&service, None).await {
                report(Change::Trouble(format!(
                    "cannot take back the address of {key}: {e}"
                )));
            }
        }
    }
}
