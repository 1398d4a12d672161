//! Events about pods and the node, counted up instead of repeated.

use std::collections::HashMap;

use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tracing::debug;

use crate::client;
use crate::kinds::*;

/// How long an event may rest and still be counted up.
const LIFE: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Events of one object that are told at once; a further one each [`REFILL_SECONDS`].
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Events that wait for the API server at most.
const BACKLOG: usize = 1000;

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

struct Entry {
    object: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events and writes them in order, in the background.
pub(crate) struct Recorder {
    sender: mpsc::Sender<Entry>,
}

impl Recorder {
    pub(crate) fn start(client: kube::Client, node: &str) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(write(client, node.to_owned(), receiver));
        Self { sender }
    }

    /// Tells about an object. Never waits; an event is lost when too many wait already.
    pub(crate) fn record(
        &self,
        object: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let entry = Entry {
            object,
            severity,
            reason,
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.sender.try_send(entry).is_err() {
            debug!(reason, "an event is lost: too many wait");
        }
    }

    pub(crate) fn pod(
        &self,
        pod: &Pod,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, None), severity, reason, message);
    }

    pub(crate) fn container(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, Some(container)), severity, reason, message);
    }
}

/// A reference to a pod, or to one of its containers.
pub(crate) fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let list = if pod.init_containers().iter().any(|c| c.name == name) {
            "initContainers"
        } else if pod.spec().containers.iter().any(|c| c.name == name) {
            "containers"
        } else {
            "ephemeralContainers"
        };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name().into()),
        namespace: Some(pod.namespace().into()),
        uid: Some(pod.uid().into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// A reference to the node itself. Its UID is its name, as the kubelet's events have it.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..Default::default()
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field_path: Option<String>,
    severity: bool,
    reason: &'static str,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

async fn write(client: kube::Client, node: String, mut entries: mpsc::Receiver<Entry>) {
    let mut seen: HashMap<Key, Seen> = HashMap::new();
    let mut buckets: HashMap<String, Bucket> = HashMap::new();
    while let Some(entry) = entries.recv().await {
        if seen.len() > 1024 {
            seen.retain(|_, s| entry.at.duration_since(s.last) < LIFE);
            buckets.retain(|_, b| b.tokens < BURST);
        }
        let uid = entry.object.uid.clone().unwrap_or_default();
        if !take(&mut buckets, &uid, entry.at) {
            continue;
        }
        let namespace = entry
            .object
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = Key {
            uid,
            field_path: entry.object.field_path.clone(),
            severity: entry.severity == Severity::Warning,
            reason: entry.reason,
            message: entry.message.clone(),
        };
        let known = seen
            .get_mut(&key)
            .filter(|s| entry.at.duration_since(s.last) < LIFE);
        if let Some(known) = known {
            known.count += 1;
            known.last = entry.at;
            let patch = serde_json::json!({
                "count": known.count,
                "lastTimestamp": Time(seconds(entry.at)),
            });
            let name = known.name.clone();
            let params = PatchParams::default();
            let patch = Patch::Strategic(&patch);
            match retry(|| api.patch(&name, &params, &patch)).await {
                Ok(_) => continue,
                // The event has expired meanwhile; tell it anew.
                Err(e) if client::answered(&e, 404) => {}
                Err(e) => {
                    debug!("event {name}: {e}");
                    continue;
                }
            }
        }
        let event = make(&node, &entry, &namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        let params = PostParams::default();
        match retry(|| api.create(&params, &event)).await {
            Ok(_) => {
                seen.insert(
                    key,
                    Seen {
                        name,
                        count: 1,
                        last: entry.at,
                    },
                );
            }
            Err(e) => debug!("event {name}: {e}"),
        }
    }
}

/// Repeats a request while the server cannot be reached, up to 12 times.
async fn retry<T, F: Future<Output = Result<T, kube::Error>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, kube::Error> {
    let mut attempt = 0;
    loop {
        match request().await {
            Err(e) if client::unreachable(&e) && attempt < 12 => {
                tokio::time::sleep(std::time::Duration::from_millis(100 << attempt.min(7))).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

fn take(buckets: &mut HashMap<String, Bucket>, uid: &str, now: Timestamp) -> bool {
    let bucket = buckets.entry(uid.to_owned()).or_insert(Bucket {
        tokens: BURST,
        last: now,
    });
    let passed = now.duration_since(bucket.last).as_secs_f64().max(0.0);
    bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
    bucket.last = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}

fn make(node: &str, entry: &Entry, namespace: &str) -> Event {
    let at = Time(seconds(entry.at));
    Event {
        metadata: ObjectMeta {
            // Upstream's names: the object's and the time in hexadecimal nanoseconds.
            name: Some(format!(
                "{}.{:x}",
                entry.object.name.as_deref().unwrap_or_default(),
                entry.at.as_nanosecond()
            )),
            namespace: Some(namespace.into()),
            ..Default::default()
        },
        involved_object: entry.object.clone(),
        reason: Some(entry.reason.into()),
        message: Some(entry.message.clone()),
        type_: Some(
            match entry.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .into(),
        ),
        source: Some(k8s_openapi::api::core::v1::EventSource {
            component: Some("kubelet".into()),
            host: Some(node.into()),
        }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_object_is_slowed_down() {
        let mut buckets = HashMap::new();
        let now = Timestamp::UNIX_EPOCH;
        assert!((0..25).all(|_| take(&mut buckets, "a", now)));
        assert!(!take(&mut buckets, "a", now));
        assert!(take(&mut buckets, "b", now));
        let later = now + jiff::SignedDuration::from_secs(300);
        assert!(take(&mut buckets, "a", later));
        assert!(!take(&mut buckets, "a", later));
    }
}
