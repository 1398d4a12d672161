//! A model of a node with its agent: it registers, renews its lease, and takes pods from
//! pending through running to their end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Client;
use kube::core::WatchEvent;
use rkube_store::embedded::Random;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{self, Event, name, text, uid};

/// The label that sets how a pod's containers end: `succeed`, `fail` or `flaky`.
pub const SCRIPT: &str = "script";
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// Time that the agent waits after a request that failed.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// A node. It outlives the control plane's processes.
pub struct Node {
    pub name: String,
    random: Random,
    /// The addresses that were given out.
    addresses: u64,
    /// State of each pod, by uid.
    pods: BTreeMap<String, Pod>,
    /// When the node can be reached again, in simulated time.
    pub away_until: Rc<Cell<Duration>>,
}

struct Pod {
    object: Value,
    address: Option<String>,
    /// When the agent acts on it next.
    due: Option<Instant>,
    /// The outcome of its containers.
    ended: Option<&'static str>,
}

impl Node {
    pub fn new(name: String, seed: u64) -> Node {
        Node {
            name,
            random: Random::new(seed),
            addresses: 1,
            pods: BTreeMap::new(),
            away_until: Rc::default(),
        }
    }

    /// Runs the agent while one control plane does.
    pub async fn run(&mut self, client: Client) {
        loop {
            self.sleep_while_away().await;
            if let Err(error) = self.serve(&client).await {
                tracing_note(&self.name, &error);
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    async fn sleep_while_away(&self) {
        tokio::time::sleep(self.away_until.get().saturating_sub(crate::clock::now())).await;
    }

    async fn serve(&mut self, client: &Client) -> Result<(), kube::Error> {
        self.register(client).await?;
        let query = format!("fieldSelector=spec.nodeName%3D{}", self.name);
        let (items, _, mut events) = api::list_and_watch(client, "/api/v1/pods", &query).await?;
        let mut known = std::mem::take(&mut self.pods);
        for pod in items {
            let old = known.remove(uid(&pod));
            self.note(pod, old);
        }
        let mut renew = Instant::now();
        loop {
            let due = self.pods.values().filter_map(|pod| pod.due).min();
            let next = due.map_or(renew, |due| due.min(renew));
            let event = next_event(&mut events, next).await;
            if crate::clock::now() < self.away_until.get() {
                return Ok(());
            }
            match event {
                Some(Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)))) => {
                    let old = self.pods.remove(uid(&pod));
                    self.note(pod, old);
                }
                Some(Some(Ok(WatchEvent::Deleted(pod)))) => {
                    self.pods.remove(uid(&pod));
                }
                Some(Some(Ok(WatchEvent::Bookmark(_)))) => {}
                Some(Some(Ok(WatchEvent::Error(status)))) => {
                    return Err(kube::Error::Api(status));
                }
                Some(Some(Err(error))) => return Err(error),
                // The watch has ended.
                Some(None) => return Ok(()),
                None => {}
            }
            if renew <= Instant::now() {
                self.renew(client).await?;
                renew = Instant::now() + LEASE_PERIOD;
            }
            self.act(client).await;
        }
    }

    /// Notes a pod's new state, to act on it a little later.
    fn note(&mut self, object: Value, old: Option<Pod>) {
        let delay = Duration::from_millis(self.random.below(2000));
        let (address, ended) = old.map(|p| (p.address, p.ended)).unwrap_or_default();
        let pod = Pod {
            address,
            ended,
            due: Some(Instant::now() + delay),
            object,
        };
        self.pods.insert(uid(&pod.object).to_owned(), pod);
    }

    async fn register(&mut self, client: &Client) -> Result<(), kube::Error> {
        let labels = json!({"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"});
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": labels}});
        let made = api::post(client, "/api/v1/nodes", node).await;
        if !api::is_code(&made, 409) {
            made?;
        }
        let now = "2026-01-01T00:00:00Z";
        let status = json!({"status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        let path = format!("/api/v1/nodes/{}/status", self.name);
        api::patch(client, &path, status).await?;
        Ok(())
    }

    /// Renews the lease, and says that the node is ready if the control plane thought not.
    async fn renew(&mut self, client: &Client) -> Result<(), kube::Error> {
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let path = format!("{leases}/{}", self.name);
        // The clock's own format is RFC 3339 with microseconds.
        let now = crate::clock::wall();
        let renewed = api::patch(client, &path, json!({"spec": {"renewTime": now}})).await;
        if api::is_code(&renewed, 404) {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.name},
                "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now}});
            api::post(client, leases, lease).await?;
        } else {
            renewed?;
        }
        let node = api::get(client, &format!("/api/v1/nodes/{}", self.name)).await?;
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if !ready {
            self.register(client).await?;
        }
        Ok(())
    }

    /// Acts on every pod that is due.
    async fn act(&mut self, client: &Client) {
        let now = Instant::now();
        let due: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.due.is_some_and(|due| due <= now))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            let result = self.step(client, &uid).await;
            if let (Err(error), Some(pod)) = (result, self.pods.get_mut(&uid)) {
                tracing_note(&self.name, &error);
                pod.due = Some(Instant::now() + RETRY_PERIOD);
            }
        }
    }

    /// Takes one step with a pod. The watch shows the result and leads to the next one.
    async fn step(&mut self, client: &Client, uid: &str) -> Result<(), kube::Error> {
        let cidr = api::get(client, &format!("/api/v1/nodes/{}", self.name)).await?;
        let cidr = text(&cidr, "/spec/podCIDR").to_owned();
        let random = &mut self.random;
        let Some(pod) = self.pods.get_mut(uid) else {
            return Ok(());
        };
        pod.due = None;
        let namespace = text(&pod.object, "/metadata/namespace");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}", name(&pod.object));
        let phase = text(&pod.object, "/status/phase");
        let is_over = matches!(phase, "Succeeded" | "Failed");
        if api::is_deleting(&pod.object) {
            if !is_over && pod.address.is_some() {
                pod.ended.get_or_insert("Failed");
            } else {
                let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                return ignore_missing(api::delete(client, &path, options).await);
            }
        }
        if is_over {
            return Ok(());
        }
        if pod.address.is_none() {
            let Some(base) = cidr.strip_suffix(".0/24") else {
                pod.due = Some(Instant::now() + RETRY_PERIOD);
                return Ok(());
            };
            self.addresses = self.addresses % 250 + 1;
            pod.address = Some(format!("{base}.{}", self.addresses));
        } else if phase == "Running" && pod.ended.is_none() {
            let script = pod.object["metadata"]["labels"][SCRIPT].as_str();
            pod.ended = match script {
                Some("succeed") => Some("Succeeded"),
                Some("fail") => Some("Failed"),
                Some("flaky") => Some(["Succeeded", "Failed"][random.below(2) as usize]),
                _ => None,
            };
            if pod.ended.is_some() {
                pod.due = Some(Instant::now() + Duration::from_millis(random.below(8000)));
                return Ok(());
            }
            // As the kubelet, takes back what the control plane said while the node was away.
            if api::is_ready(&pod.object) {
                return Ok(());
            }
        }
        let now = &crate::clock::wall()[..19];
        let status = status(pod, &format!("{now}Z"));
        let body = json!({"metadata": {"uid": uid}, "status": status});
        ignore_missing(api::patch(client, &format!("{path}/status"), body).await)
    }
}

/// Ignores that an object has gone, or was replaced by another of the name.
fn ignore_missing(result: Result<Value, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Returns the status of a pod as the agent sees it.
fn status(pod: &Pod, now: &str) -> Value {
    let (phase, ready, state) = match pod.ended {
        None => ("Running", "True", json!({"running": {"startedAt": now}})),
        Some(phase) => {
            let code = if phase == "Failed" { 1 } else { 0 };
            let ended = json!({"exitCode": code, "startedAt": now, "finishedAt": now});
            (phase, "False", json!({"terminated": ended}))
        }
    };
    json!({
        "phase": phase, "podIP": pod.address, "podIPs": [{"ip": pod.address}], "startTime": now,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
            {"type": "Ready", "status": ready, "lastTransitionTime": now},
            {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
        ],
        "containerStatuses": [{"name": "c", "image": "img:1", "imageID": "img", "ready": ready == "True",
            "restartCount": 0, "state": state}],
    })
}

/// Returns the next event until a time; `None` at that time.
async fn next_event(
    events: &mut BoxStream<'static, Event>,
    until: Instant,
) -> Option<Option<Event>> {
    tokio::time::timeout_at(until, events.next()).await.ok()
}

fn tracing_note(node: &str, error: &kube::Error) {
    if std::env::var_os("RKUBE_SIM_TRACE").is_some() {
        eprintln!("{:?} {node}: {error}", crate::clock::now());
    }
}
