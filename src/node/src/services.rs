//! Feeds services, endpoint slices and nodes to the service proxy, the DNS server and the routes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::select;
use futures::{Stream, StreamExt};
use ipnet::IpNet;
use kube::ResourceExt;
use rkube_client::reflector::{Event, Versioned};
use rkube_network::{
    DnsConfig, DnsServer, DnsState, NodeNetwork, ProxyConfig, ServiceProxy, ServiceState,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::corefile::{self, CorefileFeed};
use crate::delay::doubled;
use crate::host::Host;
use crate::kinds::{EndpointSlice, Node, Service};
use crate::load_balancers::{self, Balancing};
use crate::recorder::Recorder;
use crate::service_env::ServiceEnv;
use crate::watching;

/// Minimum time between two updates of proxy and routes.
const MIN_SYNC_PERIOD: Duration = Duration::from_millis(75);
/// Maximum time between two attempts to write rules or routes.
const MAX_SYNC_DELAY: Duration = Duration::from_secs(30);

/// The label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The taint of nodes that an autoscaler is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// The current objects of one kind, from a watch.
struct ObjectSet<K> {
    objects: HashMap<String, Arc<K>>,
    /// Whether a first list is complete.
    complete: bool,
}

impl<K> Default for ObjectSet<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            complete: false,
        }
    }
}

fn key<K: ResourceExt>(k: &K) -> String {
    format!("{}/{}", k.namespace().unwrap_or_default(), k.name_any())
}

impl<K: Versioned + ResourceExt> ObjectSet<K> {
    /// Applies a change; returns whether the set may have changed.
    fn apply(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Listed(mut list) => {
                let objects = std::mem::take(&mut list.objects).into_iter();
                let listed: HashMap<_, _> = objects.map(|k| (key(&k), Arc::new(k))).collect();
                self.objects.retain(|_, known| list.keeps(known.metadata()));
                self.objects.extend(listed);
                self.complete = true;
                true
            }
            Event::Applied(k) => {
                self.objects.insert(key(&k), Arc::new(k));
                true
            }
            Event::Deleted(k) => self.objects.remove(&key(&k)).is_some(),
            // What is known may be stale, which is better than nothing.
            Event::Unreadable(_) | Event::Failed(_) => false,
        }
    }

    fn values(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }
}

/// An event of one of the watches.
enum Change {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Node(Box<Event<Node>>),
}

/// Dependencies of the service feed.
pub(crate) struct ServiceFeed {
    pub host: Arc<Host>,
    /// Client with the service proxy's identity.
    pub client: kube::Client,
    pub network: NodeNetwork,
    /// Publishes services for container environments.
    pub environment: watch::Sender<Option<ServiceEnv>>,
    /// Reports what is wrong with the Corefile.
    pub recorder: Recorder,
}

/// Feeds the node's network until the future is dropped.
pub(crate) async fn run(feed: ServiceFeed) -> anyhow::Result<()> {
    let config = &feed.host.config;
    let dns_ips = config.cluster.dns_ips();
    let dns = DnsServer::start(DnsConfig {
        listen: dns_ips.iter().map(|ip| (*ip, 53).into()).collect(),
        domain: config.cluster.dns_domain.clone(),
        upstreams: config.upstream_dns.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
        host: config.host_ip,
        host_names: rkube_config::HOST_NAMES.map(str::to_owned).into(),
    })
    .await
    .context("starting the cluster's name server")?;
    let dns = Arc::new(dns);
    let proxy = Arc::new(
        ServiceProxy::new(ProxyConfig {
            node_name: config.name.clone(),
            cluster_cidrs: config.cluster.pod_cidrs(),
            local_ips: dns_ips,
            load_balancers: config.cluster.load_balancers,
        })
        .context("starting the service proxy")?,
    );

    let (balancing, known) = watch::channel(None);
    // Ends with this future.
    let mut tasks = JoinSet::new();
    tasks.spawn(corefile::run(CorefileFeed {
        client: feed.client.clone(),
        dns: dns.clone(),
        recorder: config.control_plane.then(|| feed.recorder.clone()),
    }));
    if let Some(range) = config.cluster.load_balancers {
        tasks.spawn(load_balancers::run(config.ip, range, known));
    }
    let mut changes = changes(&feed.client);
    let mut services = ObjectSet::<Service>::default();
    let mut slices = ObjectSet::<EndpointSlice>::default();
    let mut nodes = ObjectSet::<Node>::default();
    // Until the node is known, hints of zones do not apply.
    let mut zone: Option<String> = None;
    let mut pending = PendingSync::default();
    let mut failures: u32 = 0;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => {
                anyhow::bail!("the name server's settings or the load balancers ended: {ended:?}");
            }
            change = changes.next() => {
                let Some(change) = change else {
                    anyhow::bail!("the watches of services ended");
                };
                match change {
                    Change::Service(event) => {
                        if services.apply(*event) {
                            pending.services = true;
                            publish(&feed.environment, &services);
                        }
                    }
                    Change::Slice(event) => pending.services |= slices.apply(*event),
                    Change::Node(event) => {
                        pending.routes |= nodes.apply(*event);
                        let now = zone_of(&nodes, &config.name);
                        pending.services |= now != zone;
                        zone = now;
                        proxy.set_node_leaving(is_leaving(&nodes, &config.name));
                    }
                }
                // Of a kind without a complete list, nothing is written yet; the end of its list
                // triggers a sync.
                pending.services &= services.complete && slices.complete;
                pending.routes &= nodes.complete;
                // Changes do not wait for the retry of what failed.
                if pending.any() {
                    due = due.min(Instant::now() + MIN_SYNC_PERIOD);
                }
            }
            () = tokio::time::sleep_until(due), if pending.any() => {
                feed.balance(&balancing, &services, &slices, &nodes);
                pending.routes = pending.routes && !feed.set_routes(&nodes).await;
                if pending.services {
                    let node = (config.name.clone(), zone.clone());
                    pending.services = !sync(node, &proxy, &dns, &services, &slices).await;
                }
                failures = if pending.any() { failures.saturating_add(1) } else { 0 };
                due = Instant::now() + doubled(MIN_SYNC_PERIOD, failures, MAX_SYNC_DELAY);
            }
        }
    }
}

/// The outputs that have to be written.
#[derive(Default)]
struct PendingSync {
    services: bool,
    routes: bool,
}

impl PendingSync {
    fn any(&self) -> bool {
        self.services || self.routes
    }
}

/// Watches services, their endpoints and nodes.
fn changes(client: &kube::Client) -> impl Stream<Item = Change> + Unpin + use<> {
    let services = watching::all(client).map(|e| Change::Service(Box::new(e)));
    let slices = watching::all(client).map(|e| Change::Slice(Box::new(e)));
    let nodes = watching::all(client).map(|e| Change::Node(Box::new(e)));
    select(select(services, slices), nodes)
}

/// Publishes the services for container environments once their first list is complete.
fn publish(to: &watch::Sender<Option<ServiceEnv>>, services: &ObjectSet<Service>) {
    if !services.complete {
        return;
    }
    let mut by_namespace: HashMap<String, Vec<Arc<Service>>> = HashMap::new();
    for service in services.objects.values() {
        by_namespace
            .entry(service.namespace().unwrap_or_default())
            .or_default()
            .push(service.clone());
    }
    to.send_replace(Some(Arc::new(by_namespace)));
}

/// Updates the DNS server and the proxy rules of the node with this name and zone; returns whether
/// both are up to date. Errors are logged.
async fn sync(
    (node, zone): (String, Option<String>),
    proxy: &Arc<ServiceProxy>,
    dns: &DnsServer,
    services: &ObjectSet<Service>,
    slices: &ObjectSet<EndpointSlice>,
) -> bool {
    let (services, slices) = (services.values(), slices.values());
    dns.update(DnsState::from_objects(&services, &slices));
    let proxy = proxy.clone();
    let done = tokio::task::spawn_blocking(move || {
        proxy.sync(&ServiceState::from_objects(&services, &slices, &node).in_zone(zone))
    })
    .await;
    match done {
        Ok(Ok(report)) => {
            debug!(?report, "service rules");
            return true;
        }
        Ok(Err(e)) => warn!("writing the service rules: {e}"),
        Err(e) => warn!("writing the service rules: {e}"),
    }
    false
}

impl ServiceFeed {
    /// Publishes the addresses of load balancers once all objects are known.
    fn balance(
        &self,
        to: &watch::Sender<Option<Balancing>>,
        services: &ObjectSet<Service>,
        slices: &ObjectSet<EndpointSlice>,
        nodes: &ObjectSet<Node>,
    ) {
        let Some(range) = self.host.config.cluster.load_balancers else {
            return;
        };
        if !(services.complete && slices.complete && nodes.complete) {
            return;
        }
        let (services, slices, nodes) = (services.values(), slices.values(), nodes.values());
        let now = Balancing::from_objects(&services, &slices, &nodes, range);
        to.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&now);
            *known = Some(now);
            changed
        });
    }

    /// Sets the routes to other nodes; returns whether they are up to date. Errors are logged.
    async fn set_routes(&self, nodes: &ObjectSet<Node>) -> bool {
        let routes = routes(nodes, self.host.name());
        let network = self.network.clone();
        match tokio::task::spawn_blocking(move || network.set_routes(&routes)).await {
            Ok(Ok(())) => return true,
            Ok(Err(e)) => warn!("setting the routes to other nodes: {e}"),
            Err(e) => warn!("setting the routes to other nodes: {e}"),
        }
        false
    }
}

/// Returns whether a node is being deleted, or is about to be. Unknown nodes are not.
fn is_leaving(nodes: &ObjectSet<Node>, name: &str) -> bool {
    let Some(node) = nodes.objects.get(&format!("/{name}")) else {
        return false;
    };
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_some()
        || taints
            .into_iter()
            .any(|taint| taint.key == TO_BE_DELETED_TAINT)
}

/// Returns the zone of a node.
fn zone_of(nodes: &ObjectSet<Node>, name: &str) -> Option<String> {
    let node = nodes.objects.get(&format!("/{name}"))?;
    node.labels().get(ZONE_LABEL).cloned()
}

/// Returns the pod CIDRs of each other node, with its address of the same family.
fn routes(nodes: &ObjectSet<Node>, own_name: &str) -> Vec<(IpNet, IpAddr)> {
    nodes
        .objects
        .values()
        .filter(|n| n.name_any() != own_name)
        .flat_map(|node| routes_to(node))
        .collect()
}

fn routes_to(node: &Node) -> Vec<(IpNet, IpAddr)> {
    let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter();
    let mut ranges: Vec<IpNet> = listed
        .flatten()
        .chain(spec.and_then(|spec| spec.pod_cidr.as_ref()))
        .filter_map(|range| range.parse().ok())
        .collect();
    ranges.dedup();
    let addresses = status.and_then(|status| status.addresses.as_ref());
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let mut routes = Vec::new();
    for range in ranges {
        let same = |ip: &&IpAddr| ip.is_ipv4() == range.addr().is_ipv4();
        if let Some(ip) = addresses.iter().find(same)
            && !routes.contains(&(range, *ip))
        {
            routes.push((range, *ip));
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};
    use rkube_client::reflector::{Listed, Unreadable};

    fn listed<K>(objects: impl IntoIterator<Item = K>) -> Event<K> {
        Event::Listed(Listed::new(objects.into_iter().collect(), 1))
    }

    fn node(name: &str, cidr: &str, ip: &str) -> Node {
        let mut node = Node {
            spec: Some(NodeSpec {
                pod_cidr: Some(cidr.into()),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(vec![NodeAddress {
                    type_: "InternalIP".into(),
                    address: ip.into(),
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        node.metadata.name = Some(name.into());
        node
    }

    #[test]
    fn a_set_is_complete_after_its_first_list() {
        let mut set = ObjectSet::<Node>::default();
        assert!(!set.apply(Event::Failed(String::new())));
        assert!(!set.complete && set.values().is_empty());
        assert!(set.apply(listed([node("a", "", "")])));
        assert!(set.complete);
        assert_eq!(set.values().len(), 1);
        assert!(set.apply(Event::Applied(node("b", "", ""))));
        assert_eq!(set.values().len(), 2);
        assert!(set.apply(Event::Deleted(node("a", "", ""))));
        assert!(
            !set.apply(Event::Deleted(node("a", "", ""))),
            "it is gone already"
        );
        // A list replaces all objects.
        set.apply(listed([node("c", "", "")]));
        let names = |set: &ObjectSet<Node>| -> Vec<String> {
            set.values().iter().map(|node| node.name_any()).collect()
        };
        assert_eq!(names(&set), ["c"]);
        // One that cannot be read any more is not gone, unless it is another one.
        for (uid, left) in [("", 1), ("other", 0)] {
            let mut list = Listed::new(vec![], 1);
            list.unreadable.push(Unreadable {
                name: "c".into(),
                uid: uid.into(),
                ..Default::default()
            });
            assert!(!set.apply(Event::Unreadable(list.unreadable[0].clone())));
            assert!(set.apply(Event::Listed(list)));
            assert_eq!(names(&set).len(), left, "{uid}");
        }
    }

    #[test]
    fn routes_lead_to_other_nodes() {
        let mut set = ObjectSet::<Node>::default();
        for n in [
            node("own", "10.244.0.0/24", "10.0.0.1"),
            node("other", "10.244.1.0/24", "10.0.0.2"),
            node("no-network", "", "10.0.0.3"),
            node("no-address", "10.244.3.0/24", "x"),
            Node::default(),
        ] {
            set.apply(Event::Applied(n));
        }
        assert_eq!(
            routes(&set, "own"),
            [(
                "10.244.1.0/24".parse().unwrap(),
                "10.0.0.2".parse().unwrap()
            )]
        );
    }

    #[test]
    fn the_zone_is_that_of_the_own_node() {
        let mut set = ObjectSet::<Node>::default();
        assert_eq!(zone_of(&set, "own"), None);
        for (name, zone) in [
            ("own", Some("east")),
            ("other", Some("west")),
            ("bare", None),
        ] {
            let mut n = node(name, "", "");
            n.metadata.labels = zone.map(|z| [(ZONE_LABEL.to_owned(), z.to_owned())].into());
            set.apply(Event::Applied(n));
        }
        assert_eq!(zone_of(&set, "own").as_deref(), Some("east"));
        assert_eq!(zone_of(&set, "bare"), None);
        assert!(!is_leaving(&set, "own") && !is_leaving(&set, "unknown"));
        let mut tainted = node("own", "", "");
        tainted.spec.get_or_insert_default().taints =
            Some(vec![k8s_openapi::api::core::v1::Taint {
                key: TO_BE_DELETED_TAINT.into(),
                effect: "NoSchedule".into(),
                ..Default::default()
            }]);
        set.apply(Event::Applied(tainted));
        assert!(is_leaving(&set, "own"));
    }

    #[test]
    fn services_are_published_by_namespace() {
        let (sender, receiver) = watch::channel(None);
        let mut set = ObjectSet::<Service>::default();
        publish(&sender, &set);
        assert!(receiver.borrow().is_none(), "not before the first list");
        let mut services = Vec::new();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("b", "x")] {
            let mut service = Service::default();
            service.metadata.namespace = Some(namespace.into());
            service.metadata.name = Some(name.into());
            services.push(service);
        }
        set.apply(listed(services));
        publish(&sender, &set);
        let published = receiver.borrow().clone().unwrap();
        assert_eq!(published["a"].len(), 2);
        assert_eq!(published["b"].len(), 1);
    }
}
