//! Records events about pods and the node. A repeated event increases the count of the first one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tracing::debug;

use crate::client;
use crate::delay::doubled;
use crate::kinds::*;

/// Time since its last occurrence within which an event is counted rather than created.
const AGGREGATION_PERIOD: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Number of events per object that are not rate-limited.
const BURST: f64 = 25.0;
/// Time after which an object may have one more event, in seconds.
const REFILL_SECONDS: f64 = 300.0;
/// Maximum number of events that wait to be written; further ones are dropped.
const MAX_PENDING_EVENTS: usize = 1000;

/// Maximum number of retries of a request while the server cannot be reached.
const MAX_RETRIES: u32 = 12;
/// Delay before the first retry.
const INITIAL_DELAY: Duration = Duration::from_millis(100);
/// Maximum delay between two retries.
const MAX_DELAY: Duration = Duration::from_millis(12_800);
/// Number of remembered events, and of buckets, above which old ones are forgotten.
const MAX_KNOWN_EVENTS: usize = 1024;

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// An event in the queue.
struct Entry {
    object: ObjectReference,
    severity: Severity,
    reason: Cow<'static, str>,
    message: String,
    at: Timestamp,
}

/// Queue of events. A background task writes them to the API in order.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Entry>,
}

impl Recorder {
    /// Starts the background task; `node` is the source host of all events.
    pub(crate) fn start(client: kube::Client, node: &str) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        tokio::spawn(write(client, node.to_owned(), receiver));
        Self { sender }
    }

    /// Records an event about an object.
    ///
    /// Never blocks: if too many events are pending, this one is dropped.
    pub(crate) fn record(
        &self,
        object: ObjectReference,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let entry = Entry {
            object,
            severity,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if let Err(e) = self.sender.try_send(entry) {
            let reason = &e.into_inner().reason;
            debug!(%reason, "an event is lost: too many wait");
        }
    }

    /// Records an event about a pod.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, None), severity, reason, message);
    }

    /// Records an event about one of a pod's containers.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, Some(container)), severity, reason, message);
    }
}

/// Returns a reference to a pod, or to one of its containers.
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

/// Returns a reference to the node. Its UID is the node's name, as in the kubelet's events.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..Default::default()
    }
}

/// Identity of an event: equal events are counted instead of created.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field_path: Option<String>,
    severity: bool,
    reason: Cow<'static, str>,
    message: String,
}

/// The API object of an event that was recorded.
struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
}

/// Token bucket that limits the events of one object.
struct Bucket {
    tokens: f64,
    last: Timestamp,
}

/// Writes the queued events to the API, one at a time.
async fn write(client: kube::Client, node: String, mut entries: mpsc::Receiver<Entry>) {
    let mut seen: HashMap<Key, Seen> = HashMap::new();
    let mut buckets: HashMap<String, Bucket> = HashMap::new();
    while let Some(entry) = entries.recv().await {
        forget(&mut seen, &mut buckets, entry.at);
        let uid = entry.object.uid.clone().unwrap_or_default();
        if !take_token(&mut buckets, &uid, entry.at) {
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
            reason: entry.reason.clone(),
            message: entry.message.clone(),
        };
        let known = seen
            .get_mut(&key)
            .filter(|s| entry.at.duration_since(s.last) < AGGREGATION_PERIOD);
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
                // The event has expired in the API, so it is created again.
                Err(e) if client::answered(&e, 404) => {}
                Err(e) => {
                    debug!("event {name}: {e}");
                    continue;
                }
            }
        }
        let event = new_event(&node, &entry, &namespace);
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

/// Forgets events that are too old to be counted and buckets that are full again.
fn forget(seen: &mut HashMap<Key, Seen>, buckets: &mut HashMap<String, Bucket>, now: Timestamp) {
    if seen.len() > MAX_KNOWN_EVENTS {
        seen.retain(|_, s| now.duration_since(s.last) < AGGREGATION_PERIOD);
    }
    if buckets.len() > MAX_KNOWN_EVENTS {
        // The stored number of tokens is that of the object's last event.
        buckets.retain(|_, b| b.tokens_at(now) < BURST);
    }
}

impl Bucket {
    /// Returns the number of tokens at a later time.
    fn tokens_at(&self, now: Timestamp) -> f64 {
        let passed = now.duration_since(self.last).as_secs_f64().max(0.0);
        (self.tokens + passed / REFILL_SECONDS).min(BURST)
    }
}

/// Retries a request while the server cannot be reached, at most [`MAX_RETRIES`] times.
async fn retry<T, F: Future<Output = Result<T, kube::Error>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, kube::Error> {
    let mut attempt = 0;
    loop {
        match request().await {
            Err(e) if client::unreachable(&e) && attempt < MAX_RETRIES => {
                tokio::time::sleep(doubled(INITIAL_DELAY, attempt, MAX_DELAY)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Takes a token for an event; returns false if the object has none left.
fn take_token(buckets: &mut HashMap<String, Bucket>, uid: &str, now: Timestamp) -> bool {
    let bucket = buckets.entry(uid.to_owned()).or_insert(Bucket {
        tokens: BURST,
        last: now,
    });
    bucket.tokens = bucket.tokens_at(now);
    bucket.last = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}

fn new_event(node: &str, entry: &Entry, namespace: &str) -> Event {
    let at = Time(seconds(entry.at));
    Event {
        metadata: ObjectMeta {
            // Upstream's form: the object's name and the time in hexadecimal nanoseconds.
            name: Some(format!(
                "{}.{:x}",
                entry.object.name.as_deref().unwrap_or_default(),
                entry.at.as_nanosecond()
            )),
            namespace: Some(namespace.into()),
            ..Default::default()
        },
        involved_object: entry.object.clone(),
        reason: Some(entry.reason.clone().into_owned()),
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
        assert!((0..25).all(|_| take_token(&mut buckets, "a", now)));
        assert!(!take_token(&mut buckets, "a", now));
        assert!(take_token(&mut buckets, "b", now));
        let later = now + jiff::SignedDuration::from_secs(300);
        assert!(take_token(&mut buckets, "a", later));
        assert!(!take_token(&mut buckets, "a", later));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let (mut seen, mut buckets) = (HashMap::new(), HashMap::new());
        let now = Timestamp::UNIX_EPOCH;
        for i in 0..=MAX_KNOWN_EVENTS {
            assert!(take_token(&mut buckets, &i.to_string(), now));
        }
        assert!(take_token(&mut buckets, "busy", now));
        assert!(take_token(&mut buckets, "busy", now));
        forget(&mut seen, &mut buckets, now);
        assert_eq!(buckets.len(), MAX_KNOWN_EVENTS + 2, "none is full");
        let later = now + jiff::SignedDuration::from_secs(300);
        forget(&mut seen, &mut buckets, later);
        assert_eq!(buckets.into_keys().collect::<Vec<_>>(), ["busy"]);
    }

    fn pod() -> Pod {
        let container = |name: &str| Container {
            name: name.into(),
            ..Default::default()
        };
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                resource_version: Some("7".into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                init_containers: Some(vec![container("i")]),
                containers: vec![container("c")],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn references_name_the_container() {
        let path = |name| reference(&pod(), name).field_path;
        assert_eq!(path(None), None);
        assert_eq!(path(Some("i")).as_deref(), Some("spec.initContainers{i}"));
        assert_eq!(path(Some("c")).as_deref(), Some("spec.containers{c}"));
        assert_eq!(
            path(Some("d")).as_deref(),
            Some("spec.ephemeralContainers{d}")
        );
        let r = reference(&pod(), None);
        assert_eq!(r.kind.as_deref(), Some("Pod"));
        assert_eq!(r.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn events_are_the_kubelets() {
        let entry = Entry {
            object: reference(&pod(), Some("c")),
            severity: Severity::Warning,
            reason: "BackOff".into(),
            message: "m".into(),
            at: Timestamp::from_nanosecond(0x1234_5678_9abc).unwrap(),
        };
        let event = new_event("n", &entry, "ns");
        assert_eq!(event.metadata.name.as_deref(), Some("p.123456789abc"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let source = event.source.unwrap();
        assert_eq!(source.component.as_deref(), Some("kubelet"));
        assert_eq!(source.host.as_deref(), Some("n"));
        assert_eq!(event.count, Some(1));
        assert_eq!(event.first_timestamp, event.last_timestamp);
    }
}
