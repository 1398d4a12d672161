//! Watches of the API, which convert objects into the scheduler's types on arrival.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::{Client, Resource, ResourceExt};
use rkube_api::quantity::Quantity;
use rkube_client::reflector::{Listed, Sink, Source, Versioned, reflect};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::{Budget, Claim, Class, Volume};
use crate::model::{Key, NodeInfo, PodInfo};
use rkube_component_helpers::label_selector::{Labels, Selector};
use rkube_component_helpers::node_affinity::{NodeTerm, node_terms};

/// A change of one object.
#[derive(Debug)]
pub enum Change<T> {
    /// The object was added or updated.
    Set(Key, T),
    /// The object was deleted.
    Gone(Key),
}

/// A message from one of the watches.
#[derive(Debug)]
pub enum Message {
    /// A change of a pod that is neither succeeded nor failed.
    Pod(Change<Arc<PodInfo>>),
    /// A change of a node.
    Node(Change<Box<NodeInfo>>),
    /// A change of a namespace's labels.
    Namespace(Change<Labels>),
    /// A change of a persistent volume claim.
    Claim(Change<Claim>),
    /// A change of a resource claim.
    DeviceClaim(Change<Arc<ResourceClaim>>),
    /// A change of a class of devices.
    DeviceClass(Change<Box<DeviceClass>>),
    /// A change of a slice of devices.
    DeviceSlice(Change<Arc<ResourceSlice>>),
    /// A change of a persistent volume.
    Volume(Change<Volume>),
    /// A change of a storage class.
    Class(Change<Class>),
    /// A change of a disruption budget.
    Budget(Change<Budget>),
    /// A change of a service's selector.
    Service(Change<Selector>),
    /// A change of the selector of a workload object, with its kind.
    Owner(&'static str, Change<Selector>),
    /// One more watch has delivered its initial list.
    Synced,
}

/// Number of watches that [`start`] starts. Each sends [`Message::Synced`] once.
pub const WATCHES: usize = 14;

/// Starts all watches as tasks in `tasks`. They end when the receiver of `to` is dropped.
pub fn start(client: &Client, tasks: &mut JoinSet<()>, to: &mpsc::UnboundedSender<Message>) {
    // Terminal pods use no resources of a node.
    let living = Some("status.phase!=Succeeded,status.phase!=Failed");
    watch(client, living, tasks, to, Message::Pod, |p: core::Pod| {
        Some(Arc::new(PodInfo::new(p)))
    });
    all(client, tasks, to, Message::Node, |n: core::Node| {
        Some(Box::new(NodeInfo::new(n)))
    });
    all(
        client,
        tasks,
        to,
        Message::Namespace,
        |n: core::Namespace| Some(n.metadata.labels.unwrap_or_default()),
    );
    all(client, tasks, to, Message::Claim, |c| Some(claim(c)));
    all(client, tasks, to, Message::DeviceClaim, |c| {
        Some(Arc::new(c))
    });
    all(client, tasks, to, Message::DeviceClass, |c| {
        Some(Box::new(c))
    });
    all(client, tasks, to, Message::DeviceSlice, |s| {
        Some(Arc::new(s))
    });
    all(client, tasks, to, Message::Volume, |v| Some(volume(v)));
    all(client, tasks, to, Message::Class, |c| Some(class(c)));
    all(client, tasks, to, Message::Budget, |b| Some(budget(b)));
    all(client, tasks, to, Message::Service, |s: core::Service| {
        s.spec
            .and_then(|spec| spec.selector)
            .filter(|selector| !selector.is_empty())
            .map(|selector| Selector::from_labels(&selector))
    });
    all(
        client,
        tasks,
        to,
        |c| Message::Owner("ReplicaSet", c),
        |r: ReplicaSet| r.spec.map(|s| Selector::new(Some(&s.selector))),
    );
    all(
        client,
        tasks,
        to,
        |c| Message::Owner("StatefulSet", c),
        |s: StatefulSet| s.spec.map(|s| Selector::new(Some(&s.selector))),
    );
    all(
        client,
        tasks,
        to,
        |c| Message::Owner("ReplicationController", c),
        |r: core::ReplicationController| {
            r.spec
                .and_then(|s| s.selector)
                .map(|s| Selector::from_labels(&s))
        },
    );
}

fn all<K, T>(
    client: &Client,
    tasks: &mut JoinSet<()>,
    to: &mpsc::UnboundedSender<Message>,
    wrap: fn(Change<T>) -> Message,
    read: fn(K) -> Option<T>,
) where
    K: Versioned + Resource<DynamicType = ()>,
    T: Send + 'static,
{
    watch(client, None, tasks, to, wrap, read);
}

fn watch<K, T>(
    client: &Client,
    fields: Option<&str>,
    tasks: &mut JoinSet<()>,
    to: &mpsc::UnboundedSender<Message>,
    wrap: fn(Change<T>) -> Message,
    read: fn(K) -> Option<T>,
) where
    K: Versioned + Resource<DynamicType = ()>,
    T: Send + 'static,
{
    let source = Source {
        fields: fields.map(str::to_owned),
        ..Source::of::<K>(None)
    };
    let feed = Feed {
        to: to.clone(),
        wrap,
        read,
        known: Mutex::default(),
        kind: PhantomData,
    };
    tasks.spawn(reflect::<K>(client.clone(), source, feed));
}

/// Sends the changes of one kind's objects as messages.
struct Feed<K, T> {
    to: mpsc::UnboundedSender<Message>,
    wrap: fn(Change<T>) -> Message,
    read: fn(K) -> Option<T>,
    /// The objects that exist, with their UIDs; `None` before the first list.
    known: Mutex<Option<HashMap<Key, String>>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Resource<DynamicType = ()>, T> Feed<K, T> {
    fn known(&self) -> std::sync::MutexGuard<'_, Option<HashMap<Key, String>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: Message) {
        // Without a receiver the scheduler ends, and with it the task that calls this.
        let _ = self.to.send(message);
    }

    fn set(&self, key: Key, object: K) {
        self.send((self.wrap)(converted(key, object, self.read)));
    }
}

impl<K, T> Sink<K> for Feed<K, T>
where
    K: Versioned + Resource<DynamicType = ()>,
    T: Send + 'static,
{
    fn replace(&self, list: Listed<K>) {
        let mut known = self.known();
        let entry = |object: &K| (key(object), uid(object));
        let mut listed: HashMap<Key, String> = list.objects.iter().map(entry).collect();
        for object in list.objects {
            self.set(key(&object), object);
        }
        // What cannot be read any more stays as it was known, unless it is another object of that name.
        let unreadable = list.unreadable.into_iter();
        let unreadable = unreadable.map(|object| ((object.namespace, object.name), object.uid));
        let before: HashMap<_, _> = known.iter().flatten().collect();
        listed.extend(unreadable.filter(|(key, uid)| before.get(key) == Some(&uid)));
        // Objects missing from a new list were deleted while the watch was interrupted.
        for gone in before.into_keys().filter(|key| !listed.contains_key(*key)) {
            self.send((self.wrap)(Change::Gone(gone.clone())));
        }
        if known.replace(listed).is_none() {
            self.send(Message::Synced);
        }
    }

    fn apply(&self, object: K) {
        let key = key(&object);
        let uid = uid(&object);
        self.known()
            .get_or_insert_default()
            .insert(key.clone(), uid);
        self.set(key, object);
    }

    fn remove(&self, object: K) {
        let key = key(&object);
        self.known().get_or_insert_default().remove(&key);
        self.send((self.wrap)(Change::Gone(key)));
    }
}

fn uid<K: Resource>(object: &K) -> String {
    object.uid().unwrap_or_default()
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Converts an object. One without relevant content counts as deleted, as does one that cannot be
/// converted: it must not stop the watch.
fn converted<K: Resource<DynamicType = ()>, T>(
    key: Key,
    object: K,
    read: fn(K) -> Option<T>,
) -> Change<T> {
    let value = catch_unwind(AssertUnwindSafe(|| read(object))).unwrap_or_else(|_| {
        tracing::error!(kind = %K::kind(&()), ?key, "converting an object panicked");
        None
    });
    match value {
        Some(value) => Change::Set(key, value),
        None => Change::Gone(key),
    }
}

fn bytes(text: Option<&Text>) -> i64 {
    text.and_then(|t| Quantity::parse(&t.0).ok())
        .map_or(0, |q| q.value())
}

fn claim(claim: core::PersistentVolumeClaim) -> Claim {
    let meta = claim.metadata;
    let spec = claim.spec.unwrap_or_default();
    let annotation = |key: &str| {
        meta.annotations
            .as_ref()
            .and_then(|a| a.get(key))
            .filter(|v| !v.is_empty())
            .cloned()
    };
    Claim {
        bound: annotation("pv.kubernetes.io/bind-completed").is_some(),
        selected_node: annotation("volume.kubernetes.io/selected-node"),
        class: annotation("volume.beta.kubernetes.io/storage-class").or(spec.storage_class_name),
        volume: spec.volume_name.unwrap_or_default(),
        lost: claim
            .status
            .and_then(|s| s.phase)
            .is_some_and(|p| p == "Lost"),
        deleting: meta.deletion_timestamp.is_some(),
        modes: spec.access_modes.unwrap_or_default(),
        size: bytes(
            spec.resources
                .as_ref()
                .and_then(|r| r.requests.as_ref())
                .and_then(|r| r.get("storage")),
        ),
        mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        selector: spec
            .selector
            .as_ref()
            .map_or_else(Selector::default, |s| Selector::new(Some(s))),
        owner: meta
            .owner_references
            .into_iter()
            .flatten()
            .find(|o| o.controller == Some(true))
            .map(|o| o.uid),
        uid: meta.uid.unwrap_or_default(),
    }
}

fn volume(volume: core::PersistentVolume) -> Volume {
    let meta = volume.metadata;
    let spec = volume.spec.unwrap_or_default();
    Volume {
        labels: meta.labels.unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
        node: spec
            .node_affinity
            .and_then(|a| a.required)
            .as_ref()
            .map(node_terms),
        class: spec.storage_class_name.unwrap_or_default(),
        size: bytes(spec.capacity.as_ref().and_then(|c| c.get("storage"))),
        modes: spec.access_modes.unwrap_or_default(),
        mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        claim_uid: spec.claim_ref.as_ref().and_then(|c| c.uid.clone()),
        claim: spec
            .claim_ref
            .map(|c| (c.namespace.unwrap_or_default(), c.name.unwrap_or_default())),
        phase: volume.status.and_then(|s| s.phase).unwrap_or_default(),
    }
}

fn class(class: StorageClass) -> Class {
    Class {
        waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        provisioner: class.provisioner,
        topologies: class
            .allowed_topologies
            .into_iter()
            .flatten()
            .map(|term| {
                // Topology terms have the same semantics as `In` node selector requirements.
                NodeTerm::new(&core::NodeSelectorTerm {
                    match_expressions: Some(
                        term.match_label_expressions
                            .into_iter()
                            .flatten()
                            .map(|e| core::NodeSelectorRequirement {
                                key: e.key,
                                operator: "In".to_owned(),
                                values: Some(e.values),
                            })
                            .collect(),
                    ),
                    match_fields: None,
                })
            })
            .collect(),
    }
}

fn budget(budget: PodDisruptionBudget) -> Budget {
    let status = budget.status.unwrap_or_default();
    Budget {
        namespace: budget.metadata.namespace.unwrap_or_default(),
        selector: Selector::new(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
        allowed: status.disruptions_allowed.unwrap_or(0).into(),
        disrupted: status
            .disrupted_pods
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect(),
    }
}
