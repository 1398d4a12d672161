//! Services, endpoints and nodes, handed to the proxy, the name server and the routes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use rkube_network::{DnsConfig, DnsServer, DnsState, ProxyConfig, ServiceProxy, ServiceState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::agent::Agent;
use crate::kinds::{EndpointSlice, Node, Service};
use crate::watching;

/// Rules are written at most this often; the first change after a rest at once.
const MIN_INTERVAL: Duration = Duration::from_millis(75);

/// Services by namespace and name, for containers' environments.
pub(crate) type ServiceEnv = Arc<HashMap<String, Vec<Arc<Service>>>>;

/// One kind's objects, complete once its first list has ended.
struct Informed<K> {
    objects: HashMap<String, Arc<K>>,
    listing: Option<HashMap<String, Arc<K>>>,
    complete: bool,
}

impl<K> Default for Informed<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            complete: false,
        }
    }
}

fn key<K: ResourceExt>(k: &K) -> String {
    format!("{}/{}", k.namespace().unwrap_or_default(), k.name_any())
}

impl<K: ResourceExt> Informed<K> {
    /// Takes an event in; answers whether the set of objects may have changed.
    fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(HashMap::new());
                false
            }
            Event::InitApply(k) => {
                self.listing
                    .get_or_insert_with(HashMap::new)
                    .insert(key(&k), Arc::new(k));
                false
            }
            Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                self.complete = true;
                true
            }
            Event::Apply(k) => {
                self.objects.insert(key(&k), Arc::new(k));
                true
            }
            Event::Delete(k) => self.objects.remove(&key(&k)).is_some(),
        }
    }

    fn values(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }
}

enum Change {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Node(Box<Event<Node>>),
}

/// Feeds the node's network until it is dropped.
pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    let config = &agent.config;
    let dns = DnsServer::start(DnsConfig {
        listen: (config.cluster.dns_ip, 53).into(),
        domain: config.cluster.dns_domain.clone(),
        upstreams: config.upstream_dns.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    })
    .await
    .context("starting the cluster's name server")?;
    let proxy = Arc::new(
        ServiceProxy::new(ProxyConfig {
            node_name: config.name.clone(),
            zone: None,
            cluster_cidr: config.cluster.pod_cidr,
            local_ips: vec![config.cluster.dns_ip],
        })
        .context("starting the service proxy")?,
    );

    let (sender, mut changes) = mpsc::channel::<Change>(256);
    spawn_watch(&agent, &sender, |e| Change::Service(Box::new(e)));
    spawn_watch(&agent, &sender, |e| Change::Slice(Box::new(e)));
    spawn_watch(&agent, &sender, |e| Change::Node(Box::new(e)));

    let mut services = Informed::<Service>::default();
    let mut slices = Informed::<EndpointSlice>::default();
    let mut nodes = Informed::<Node>::default();
    let mut dirty = Dirty::default();
    let mut last = None::<Instant>;
    loop {
        let due = last.map_or_else(Instant::now, |l| l + MIN_INTERVAL);
        tokio::select! {
            biased;
            change = changes.recv() => {
                let Some(change) = change else {
                    anyhow::bail!("the watches of services ended");
                };
                match change {
                    Change::Service(event) => {
                        if services.take(*event) {
                            dirty.services = true;
                            publish(&agent.services, &services);
                        }
                    }
                    Change::Slice(event) => dirty.services |= slices.take(*event),
                    Change::Node(event) => dirty.routes |= nodes.take(*event),
                }
            }
            () = tokio::time::sleep_until(due), if dirty.any() => {
                if dirty.routes && nodes.complete {
                    set_routes(&agent, &nodes).await;
                    dirty.routes = false;
                }
                if dirty.services && services.complete && slices.complete {
                    sync(&agent, &proxy, &dns, &services, &slices).await;
                    dirty.services = false;
                }
                last = Some(Instant::now());
                if dirty.any() {
                    // Something is not listed yet; its own event will come.
                    dirty = Dirty::default();
                }
            }
        }
    }
}

#[derive(Default)]
struct Dirty {
    services: bool,
    routes: bool,
}

impl Dirty {
    fn any(&self) -> bool {
        self.services || self.routes
    }
}

fn spawn_watch<K>(
    agent: &Agent,
    sender: &mpsc::Sender<Change>,
    wrap: impl Fn(Event<K>) -> Change + Send + 'static,
) where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api: Api<K> = Api::all(agent.proxy_client.clone());
    let sender = sender.clone();
    tokio::spawn(async move {
        let events = watching::forever(api, watcher::Config::default());
        futures::pin_mut!(events);
        while let Some(event) = events.next().await {
            if sender.send(wrap(event)).await.is_err() {
                return;
            }
        }
    });
}

fn publish(to: &watch::Sender<Option<ServiceEnv>>, services: &Informed<Service>) {
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

async fn sync(
    agent: &Agent,
    proxy: &Arc<ServiceProxy>,
    dns: &DnsServer,
    services: &Informed<Service>,
    slices: &Informed<EndpointSlice>,
) {
    let (services, slices) = (services.values(), slices.values());
    dns.update(DnsState::from_objects(&services, &slices));
    let proxy = proxy.clone();
    let node = agent.config.name.clone();
    let done = tokio::task::spawn_blocking(move || {
        proxy.sync(&ServiceState::from_objects(&services, &slices, &node))
    })
    .await;
    match done {
        Ok(Ok(report)) => debug!(?report, "service rules"),
        Ok(Err(e)) => warn!("writing the service rules: {e}"),
        Err(e) => warn!("writing the service rules: {e}"),
    }
}

async fn set_routes(agent: &Agent, nodes: &Informed<Node>) {
    let routes: Vec<_> = nodes
        .objects
        .values()
        .filter(|n| n.name_any() != agent.config.name)
        .filter_map(|n| {
            let cidr = n.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
            let address = n
                .status
                .as_ref()?
                .addresses
                .as_ref()?
                .iter()
                .find(|a| a.type_ == "InternalIP")?;
            Some((cidr, address.address.parse().ok()?))
        })
        .collect();
    let network = agent.network.clone();
    match tokio::task::spawn_blocking(move || network.set_routes(&routes)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => warn!("setting the routes to other nodes: {e}"),
        Err(e) => warn!("setting the routes to other nodes: {e}"),
    }
}
