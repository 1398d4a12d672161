//! Feeds network policies, namespaces and the cluster's pods to the node's packet filter.
//!
//! Only policies are watched at all times. Namespaces and the pods of all nodes are watched while
//! there is a policy; without one, nothing is kept and the packet filter has no rule.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use rkube_client::reflector::{Changes, Event, Unreadable};
use rkube_config::NodeConfig;
use rkube_network::nft::Table;
use rkube_network::{NodeNetwork, Policy, PolicyEnforcer, PolicyPod, PolicyState};
use rkube_runtime::{Runtime, Sandbox};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::delay::doubled;
use crate::host::Host;
use crate::kinds::Pod;
use crate::watching;

/// Minimum time between two updates of the rules. The first of several changes is not delayed.
const MIN_SYNC_PERIOD: Duration = Duration::from_millis(10);
/// Maximum time between two attempts to write rules.
const MAX_SYNC_DELAY: Duration = Duration::from_secs(30);
/// Maximum time that a new pod waits for its rules.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Annotation of a sandbox with what decides about its pod's connections, as JSON.
const RECORD: &str = "rkube.dev/network-policy-pod";

/// A sandbox that an earlier agent attached.
pub(crate) struct Adopted {
    sandbox: String,
    /// The pod's UID.
    uid: String,
    ips: Vec<IpAddr>,
    /// The pod when the sandbox was created. `None` if that was not recorded.
    pod: Option<PolicyPod>,
}

/// Returns the annotation of a new sandbox, from which the next agent knows its pod even if the API
/// does not any more. `None` for a pod without own addresses.
pub(crate) fn record(pod: &Pod) -> Option<(String, String)> {
    // The sandbox has no address yet.
    let known = PolicyPod::from_object(pod, "", Some(vec![Ipv4Addr::UNSPECIFIED.into()]))?;
    let text = serde_json::to_string(&known).expect("plain data");
    Some((RECORD.to_owned(), text))
}

/// Returns the attached sandboxes of earlier agents, in the order of their creation.
pub(crate) fn adopted(
    runtime: &Runtime,
    network: &NodeNetwork,
    config: &NodeConfig,
) -> Vec<Adopted> {
    let mut sandboxes = runtime.list_sandboxes();
    sandboxes.sort_by_key(|sandbox| sandbox.spec.attempt);
    let attached = |sandbox: Sandbox| {
        let ip = network.pod(&sandbox.id)?.ip;
        let ips = config.pod_ips(config.first_pod_ip(ip));
        Some(Adopted::new(sandbox, ips))
    };
    sandboxes.into_iter().filter_map(attached).collect()
}

impl Adopted {
    fn new(sandbox: Sandbox, ips: Vec<IpAddr>) -> Self {
        let recorded = sandbox.spec.annotations.get(RECORD);
        let pod = recorded.and_then(|text| serde_json::from_str::<PolicyPod>(text).ok());
        Self {
            pod: pod.map(|pod| PolicyPod {
                ips: ips.clone(),
                local: true,
                ..pod
            }),
            ips,
            sandbox: sandbox.id,
            uid: sandbox.spec.uid,
        }
    }
}

/// A message of a pod worker.
pub(crate) enum Notice {
    /// A sandbox got an address; `done` is notified once the rules for it are in place.
    Attached {
        sandbox: String,
        pod: Box<Pod>,
        ips: Vec<IpAddr>,
        done: oneshot::Sender<()>,
    },
    /// A sandbox lost its address.
    Detached { sandbox: String },
}

/// The handle of pod workers to the feed.
#[derive(Clone)]
pub(crate) struct Policies(mpsc::Sender<Notice>);

impl Policies {
    /// Returns a handle, and the messages sent with it, for [`PolicyFeed::notices`].
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// Returns once the policies that apply to a new pod are in effect, so that none of its
    /// processes is ever without them. The API does not know the pod's address yet.
    ///
    /// # Errors
    ///
    /// Fails if that takes more than 10 s, for example if the API server cannot be reached.
    pub(crate) async fn attached(
        &self,
        sandbox: &str,
        pod: &Pod,
        ips: Vec<IpAddr>,
    ) -> anyhow::Result<()> {
        let (done, told) = oneshot::channel();
        let notice = Notice::Attached {
            sandbox: sandbox.to_owned(),
            pod: Box::new(pod.clone()),
            ips,
            done,
        };
        self.0
            .send(notice)
            .await
            .context("network policies are not enforced")?;
        tokio::time::timeout(ATTACH_TIMEOUT, told)
            .await
            .context("the network policies of the pod are not in effect yet")?
            .context("network policies are not enforced")
    }

    /// Forgets the address of a sandbox.
    pub(crate) async fn detached(&self, sandbox: &str) {
        let sandbox = sandbox.to_owned();
        // Fails only if the feed has ended, and with it the agent.
        let _ = self.0.send(Notice::Detached { sandbox }).await;
    }
}

/// Dependencies of the feed.
pub(crate) struct PolicyFeed {
    pub host: Arc<Host>,
    /// Client with an identity that may watch policies, namespaces and all pods.
    pub client: kube::Client,
    pub notices: mpsc::Receiver<Notice>,
    /// Sandboxes that earlier agents attached.
    pub adopted: Vec<Adopted>,
}

/// An event of one of the watches.
enum Change {
    Policy(Event<NetworkPolicy>),
    Namespace(Event<Namespace>),
    Pod(Box<Event<Pod>>),
}

/// Feeds the packet filter until the future is dropped.
pub(crate) async fn run(mut feed: PolicyFeed) -> anyhow::Result<()> {
    let config = &feed.host.config;
    let enforcer = Arc::new(PolicyEnforcer::new().context("enforcing network policies")?);
    let mut view = View::new(&config.name, config.cluster.dns_ips());
    view.restore(std::mem::take(&mut feed.adopted));
    let mut watches = Watches::new(feed.client.clone());
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut failures: u32 = 0;
    // The first sync removes what an earlier agent left.
    let mut pending = true;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            biased;
            // Not before all lists are complete: with a part of the objects, the rules would let
            // pass too much or too little.
            () = tokio::time::sleep_until(due), if pending && view.is_complete() => {
                if write(&enforcer, view.state.tables()).await? {
                    (pending, failures) = (false, 0);
                    for done in waiting.drain(..) {
                        // The worker may have stopped waiting.
                        let _ = done.send(());
                    }
                } else {
                    failures = failures.saturating_add(1);
                }
                due = Instant::now() + doubled(MIN_SYNC_PERIOD, failures, MAX_SYNC_DELAY);
            }
            change = watches.next() => {
                view.take(change.context("the watches of network policies ended")?);
                pending = true;
                if view.needs_cluster() {
                    watches.watch_cluster();
                } else if watches.forget_cluster() {
                    view.forget_cluster();
                }
            }
            notice = feed.notices.recv() => {
                waiting.extend(view.notice(notice.context("the pod workers ended")?));
                pending |= view.needs_cluster();
            }
        }
    }
}

/// Makes the rules equal to `tables`; returns whether they are. Errors are logged.
async fn write(enforcer: &Arc<PolicyEnforcer>, tables: Vec<Table>) -> anyhow::Result<bool> {
    let enforcer = enforcer.clone();
    let written = tokio::task::spawn_blocking(move || enforcer.apply(tables)).await;
    match written.context("writing the rules of network policies")? {
        Ok(changed) => {
            debug!(changed, "rules of network policies");
            Ok(true)
        }
        Err(e) => {
            warn!("writing the rules of network policies: {e}");
            Ok(false)
        }
    }
}

/// The watches.
struct Watches {
    client: kube::Client,
    policies: Changes<NetworkPolicy>,
    /// The watches of namespaces and pods, if running. Dropping them ends them.
    cluster: Option<(Changes<Namespace>, Changes<Pod>)>,
}

impl Watches {
    /// Returns the watch of policies.
    fn new(client: kube::Client) -> Self {
        Self {
            policies: watching::all(&client),
            client,
            cluster: None,
        }
    }

    /// Waits for the next change.
    async fn next(&mut self) -> Option<Change> {
        let Some((namespaces, pods)) = &mut self.cluster else {
            return self.policies.next().await.map(Change::Policy);
        };
        tokio::select! {
            event = self.policies.next() => event.map(Change::Policy),
            event = namespaces.next() => event.map(Change::Namespace),
            event = pods.next() => event.map(|event| Change::Pod(Box::new(event))),
        }
    }

    /// Starts the watches of namespaces and pods, unless they are running.
    fn watch_cluster(&mut self) {
        let client = &self.client;
        self.cluster
            .get_or_insert_with(|| (watching::all(client), watching::all(client)));
    }

    /// Ends the watches of namespaces and pods. Returns whether they were running.
    fn forget_cluster(&mut self) -> bool {
        self.cluster.take().is_some()
    }
}

/// What is known of the objects of a kind.
#[derive(Default)]
struct Listing {
    /// Whether a first list was received.
    listed: bool,
    /// The names of objects whose contents are known, and their UIDs.
    known: HashMap<String, String>,
    /// The names of objects that exist and could never be read.
    unknown: HashSet<String>,
}

impl Listing {
    /// Returns whether all objects are known.
    fn is_complete(&self) -> bool {
        self.listed && self.unknown.is_empty()
    }

    /// Records a list. Returns the objects that stay: what cannot be read any more is as it was, unless
    /// it is another object of the same name.
    fn list(
        &mut self,
        listed: HashMap<String, String>,
        unreadable: &[Unreadable],
    ) -> &HashMap<String, String> {
        let known = std::mem::replace(&mut self.known, listed);
        self.unknown.clear();
        self.listed = true;
        for object in unreadable {
            let name = name_of(object);
            if known.get(&name) == Some(&object.uid) {
                self.known.insert(name, object.uid.clone());
            } else {
                self.unknown.insert(name);
            }
        }
        &self.known
    }

    fn put(&mut self, name: String, uid: String) {
        self.unknown.remove(&name);
        self.known.insert(name, uid);
    }

    fn remove(&mut self, name: &str) {
        self.unknown.remove(name);
        self.known.remove(name);
    }

    fn unreadable(&mut self, object: &Unreadable) {
        let name = name_of(object);
        if self.known.get(&name) != Some(&object.uid) {
            self.known.remove(&name);
            self.unknown.insert(name);
        }
    }
}

fn name_of(object: &Unreadable) -> String {
    full_name(&object.namespace, &object.name)
}

fn full_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn uid(object: &impl kube::Resource) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The objects as the watches and the pod workers reported them.
struct View {
    node: String,
    dns: Vec<IpAddr>,
    state: PolicyState,
    policies: Listing,
    namespaces: Listing,
    /// Whether a first list of pods was received.
    pods_listed: bool,
    /// The pods that this agent attached or adopted, by UID. Their addresses come before those of the API.
    attached: HashMap<String, Attachment>,
}

/// An attached sandbox.
struct Attachment {
    sandbox: String,
    ips: Vec<IpAddr>,
    pod: Option<PolicyPod>,
}

impl View {
    fn new(node: &str, dns: Vec<IpAddr>) -> Self {
        Self {
            node: node.to_owned(),
            state: PolicyState::new(&dns),
            dns,
            policies: Listing::default(),
            namespaces: Listing::default(),
            pods_listed: false,
            attached: HashMap::new(),
        }
    }

    /// Returns whether namespaces and pods are needed.
    fn needs_cluster(&self) -> bool {
        !self.state.has_no_policy()
    }

    /// Returns whether the rules can be compiled. A policy or namespace that cannot be read
    /// prevents that: what it forbids must not be let pass. A pod that cannot be read matches no
    /// rule that permits something.
    fn is_complete(&self) -> bool {
        let cluster = self.namespaces.is_complete() && self.pods_listed;
        self.policies.is_complete() && (cluster || !self.needs_cluster())
    }

    /// Forgets namespaces and pods.
    fn forget_cluster(&mut self) {
        self.state = PolicyState::new(&self.dns);
        self.namespaces = Listing::default();
        self.pods_listed = false;
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Policy(event) => self.take_policy(event),
            Change::Namespace(event) => self.take_namespace(event),
            Change::Pod(event) => self.take_pod(*event),
        }
    }

    fn take_policy(&mut self, event: Event<NetworkPolicy>) {
        match event {
            Event::Listed(list) => {
                let names = list.objects.iter();
                let names = names.map(|policy| (self.put_policy(policy), uid(policy).to_owned()));
                let names = names.collect();
                let kept = self.policies.list(names, &list.unreadable);
                self.state.retain_policies(|namespace, name| {
                    kept.contains_key(&full_name(namespace, name))
                });
            }
            Event::Applied(policy) => {
                let name = self.put_policy(&policy);
                self.policies.put(name, uid(&policy).to_owned());
            }
            Event::Deleted(policy) => {
                let namespace = policy.namespace().unwrap_or_default();
                let name = policy.name_any();
                self.policies.remove(&full_name(&namespace, &name));
                self.state.set_policy(&namespace, &name, None);
            }
            Event::Unreadable(policy) => self.policies.unreadable(&policy),
            Event::Failed(_) => {}
        }
    }

    fn take_namespace(&mut self, event: Event<Namespace>) {
        match event {
            Event::Listed(list) => {
                let names = list.objects.into_iter();
                let names = names.map(|namespace| {
                    let uid = uid(&namespace).to_owned();
                    (self.put_namespace(namespace), uid)
                });
                let names = names.collect();
                let kept = self.namespaces.list(names, &list.unreadable);
                self.state
                    .retain_namespaces(|name| kept.contains_key(&full_name("", name)));
            }
            Event::Applied(namespace) => {
                let uid = uid(&namespace).to_owned();
                let name = self.put_namespace(namespace);
                self.namespaces.put(name, uid);
            }
            Event::Deleted(namespace) => {
                let name = namespace.name_any();
                self.namespaces.remove(&full_name("", &name));
                self.state.set_namespace(&name, None);
            }
            Event::Unreadable(namespace) => self.namespaces.unreadable(&namespace),
            Event::Failed(_) => {}
        }
    }

    fn take_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Listed(list) => {
                let mut listed = HashSet::new();
                for pod in &list.objects {
                    listed.insert(uid(pod));
                    self.put_pod(pod);
                }
                listed.extend(list.unreadable.iter().map(|pod| pod.uid.as_str()));
                // A worker may have seen a pod that is newer than the list.
                for (uid, attachment) in &self.attached {
                    if !listed.contains(uid.as_str()) {
                        self.state.set_pod(uid, attachment.pod.clone());
                    }
                }
                self.state
                    .retain_pods(|uid| listed.contains(uid) || self.attached.contains_key(uid));
                self.pods_listed = true;
            }
            Event::Applied(pod) => self.put_pod(&pod),
            Event::Deleted(pod) => {
                // Its processes may outlive it: until its sandbox is detached, its rules hold.
                let running = self.attached.get(uid(&pod));
                let running = running.and_then(|attachment| attachment.pod.clone());
                self.state.set_pod(uid(&pod), running);
            }
            Event::Unreadable(_) | Event::Failed(_) => {}
        }
    }

    /// Takes a message of a pod worker. Returns who waits for the rules, if they are needed.
    fn notice(&mut self, notice: Notice) -> Option<oneshot::Sender<()>> {
        match notice {
            Notice::Attached {
                sandbox,
                pod,
                ips,
                done,
            } => {
                self.attach(sandbox, &pod, ips);
                if !self.is_complete() || self.needs_cluster() {
                    return Some(done);
                }
                // There is no policy. The worker may have stopped waiting.
                let _ = done.send(());
            }
            Notice::Detached { sandbox } => self.detach(&sandbox),
        }
        None
    }

    /// Sets a policy and returns its full name.
    fn put_policy(&mut self, object: &NetworkPolicy) -> String {
        let policy = Policy::from_object(object);
        let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
        self.state.set_policy(&namespace, &name, Some(policy));
        full_name(&namespace, &name)
    }

    /// Sets a namespace and returns its full name.
    fn put_namespace(&mut self, namespace: Namespace) -> String {
        let name = namespace.name_any();
        let labels = namespace.metadata.labels.unwrap_or_default();
        self.state.set_namespace(&name, Some(labels));
        full_name("", &name)
    }

    fn put_pod(&mut self, pod: &Pod) {
        let address = self
            .attached
            .get(uid(pod))
            .map(|attachment| attachment.ips.clone());
        let known = PolicyPod::from_object(pod, &self.node, address);
        if let Some(attachment) = self.attached.get_mut(uid(pod)) {
            attachment.pod.clone_from(&known);
        }
        self.state.set_pod(uid(pod), known);
    }

    /// Takes over what earlier agents attached. Of several sandboxes of a pod, the last one counts.
    fn restore(&mut self, adopted: Vec<Adopted>) {
        for Adopted {
            sandbox,
            uid,
            ips,
            pod,
        } in adopted
        {
            self.attached.insert(uid, Attachment { sandbox, ips, pod });
        }
    }

    fn attach(&mut self, sandbox: String, pod: &Pod, ips: Vec<IpAddr>) {
        let known = PolicyPod::from_object(pod, &self.node, Some(ips.clone()));
        if self.needs_cluster() {
            self.state.set_pod(uid(pod), known.clone());
        }
        let attachment = Attachment {
            sandbox,
            ips,
            pod: known,
        };
        self.attached.insert(uid(pod).to_owned(), attachment);
    }

    fn detach(&mut self, sandbox: &str) {
        // A pod may have got another sandbox since.
        let uid = self
            .attached
            .iter()
            .find(|(_, attachment)| attachment.sandbox == sandbox)
            .map(|(uid, _)| uid.clone());
        if let Some(uid) = uid {
            self.attached.remove(&uid);
            self.state.set_pod(&uid, None);
        }
    }
}

#[cfg(test)]
mod tests;
