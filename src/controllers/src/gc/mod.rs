//! The garbage collector: deletes objects whose owners no longer exist.
//!
//! Watches every deletable resource found by discovery, including custom ones: through the shared
//! informers where they exist, otherwise with metadata-only watches. Of the latter only the graph
//! ([`graph`]) is kept in memory.
//!
//! The graph alone never justifies a deletion. The object, and owners missing from the graph, are
//! first read from the API server, and deletions have UID and resource version as preconditions.

mod graph;
mod monitor;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Warning;
use crate::queue::Queue;
use crate::served::Served;

pub use graph::{Node, Task};
pub use monitor::Monitors;

use graph::{FOREGROUND, Graph, ORPHAN, Owner};

const NAME: &str = "garbage-collector-controller";
/// Maximum time to wait for resources that cannot be listed.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of objects processed concurrently.
const CONCURRENCY: usize = 20;

type Gone = Box<dyn Fn(&Node) + Send + Sync>;
/// A handler of changes of what is served and listed.
type Listed = Box<dyn Fn() + Send + Sync>;

/// Shared state of the collector, which other controllers may query.
#[derive(Clone, Default)]
pub struct Collector {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    graph: Mutex<Graph>,
    tasks: Queue<Task>,
    served: Mutex<Vec<Arc<Served>>>,
    gone: Mutex<Vec<Gone>>,
    listed: Mutex<Vec<Listed>>,
    /// Whether it is known what is served.
    discovered: watch::Sender<bool>,
}

/// The response to a metadata-only read.
#[derive(Clone, Debug, Deserialize)]
struct Live {
    metadata: ObjectMeta,
}

impl Collector {
    /// Registers a handler that is called with each deleted object.
    pub fn on_gone(&self, handler: impl Fn(&Node) + Send + Sync + 'static) {
        self.shared.gone.lock().push(Box::new(handler));
    }

    /// Registers a handler that is called when the watched resources are known or change, and when
    /// the objects of one have been listed.
    pub fn on_listed(&self, handler: impl Fn() + Send + Sync + 'static) {
        self.shared.listed.lock().push(Box::new(handler));
    }

    /// Completes when it is known which resources are watched.
    pub async fn discovered(&self) {
        // Cannot fail: `self` owns the sender.
        let _ = self
            .shared
            .discovered
            .subscribe()
            .wait_for(|known| *known)
            .await;
    }

    fn listed(&self) {
        for handler in self.shared.listed.lock().iter() {
            handler();
        }
    }

    /// Replaces the watched resources.
    fn set_served(&self, served: Vec<Arc<Served>>) {
        *self.shared.served.lock() = served;
        self.shared.discovered.send_replace(true);
        self.listed();
    }

    /// Returns the number of objects of a resource in a namespace.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> usize {
        self.shared.graph.lock().count(group, plural, namespace)
    }

    /// Returns the watched resources.
    pub fn served(&self) -> Vec<Arc<Served>> {
        self.shared.served.lock().clone()
    }

    fn put(&self, resource: &Arc<Served>, meta: &ObjectMeta) {
        let tasks = self.shared.graph.lock().put(resource, meta);
        tasks
            .into_iter()
            .for_each(|task| self.shared.tasks.add(task));
    }

    fn remove(&self, uid: &str) {
        let (node, tasks) = self.shared.graph.lock().remove(uid);
        tasks
            .into_iter()
            .for_each(|task| self.shared.tasks.add(task));
        if let Some(node) = node {
            for handler in self.shared.gone.lock().iter() {
                handler(&node);
            }
        }
    }
}

/// The controller that deletes objects whose owners are gone.
pub struct GarbageCollector {
    ctx: Context,
    collector: Collector,
    queue: Queue<Task>,
    monitors: Arc<Monitors>,
}

impl GarbageCollector {
    /// Returns the controller. It processes what `monitors` observe, which must run beside it.
    pub fn new(ctx: &Context, collector: &Collector, monitors: &Arc<Monitors>) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: collector.shared.tasks.clone(),
            monitors: monitors.clone(),
        }
    }
}

impl Controller for GarbageCollector {
    type Item = Task;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Task> {
        &self.queue
    }

    /// Declares nothing: the monitors queue tasks.
    fn watch(&self, _: &mut Watches<Task>) {}

    async fn prepare(&self) {
        self.monitors.synced().await;
    }

    async fn reconcile(&self, task: Task) -> Result<()> {
        match task {
            Task::Check(uid) => check(&self.ctx, &self.collector, &uid).await,
            Task::Orphan(uid) => orphan(&self.ctx, &self.collector, &uid).await,
        }
    }
}

async fn fetch_metadata(
    ctx: &Context,
    resource: &Served,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>> {
    let path = format!("{}/{name}", resource.path(namespace));
    let request = http::Request::get(path)
        .header(
            http::header::ACCEPT,
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        )
        .body(Vec::new())
        .map_err(|error| Error::Api(kube::Error::HttpError(error)))?;
    let answer: Result<Live> = ctx.client.request(request).await.map_err(Error::from);
    Ok(optional(answer)?.map(|live| live.metadata))
}

async fn patch(ctx: &Context, node: &Node, metadata: serde_json::Value) -> Result<()> {
    let path = format!(
        "{}/{}?fieldManager={}",
        node.resource.path(&node.namespace),
        node.name,
        crate::events::FIELD_MANAGER
    );
    let body = json!({ "metadata": metadata }).to_string().into_bytes();
    let answer: Result<serde::de::IgnoredAny> = ctx
        .raw_as(
            http::Method::PATCH,
            &path,
            "application/merge-patch+json",
            body,
        )
        .await;
    optional(answer).map(drop)
}

async fn drop_finalizer(ctx: &Context, node: &Node, uid: &str, finalizer: &str) -> Result<()> {
    let Some(meta) = fetch_metadata(ctx, &node.resource, &node.namespace, &node.name).await? else {
        return Ok(());
    };
    let finalizers = meta.finalizers.unwrap_or_default();
    if meta.uid.as_deref() != Some(uid) || !finalizers.iter().any(|present| present == finalizer) {
        return Ok(());
    }
    let left: Vec<_> = finalizers
        .iter()
        .filter(|present| *present != finalizer)
        .collect();
    patch(
        ctx,
        node,
        json!({"uid": uid, "resourceVersion": meta.resource_version, "finalizers": left}),
    )
    .await
}

/// Whether an owner exists.
#[derive(Clone, Copy)]
enum OwnerState {
    Missing,
    Exists {
        /// Whether it is being deleted in the foreground.
        waits: bool,
    },
    /// The owner is of a namespaced kind, but the dependent has no namespace. Upstream never collects
    /// such an object.
    Unresolvable,
}

/// The owners of an object: existing, missing, and being deleted in the foreground.
#[derive(Default)]
struct Owners {
    solid: Vec<OwnerReference>,
    dangling: Vec<OwnerReference>,
    waiting: Vec<OwnerReference>,
}

/// Returns the propagation policy for an object without owners, as determined by its finalizers.
fn propagation(meta: &ObjectMeta) -> &'static str {
    let has = |finalizer: &str| {
        meta.finalizers
            .iter()
            .flatten()
            .any(|present| present == finalizer)
    };
    if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    }
}

/// Determines which owners of an object exist. Returns `None` if that can never be determined.
async fn classify(
    ctx: &Context,
    collector: &Collector,
    node: &Node,
    uid: &str,
    references: &[OwnerReference],
) -> Result<Option<Owners>> {
    let mut owners = Owners::default();
    let mut asked: HashMap<Owner, OwnerState> = HashMap::new();
    for reference in references {
        let named = Owner::of(reference);
        let known = collector.shared.graph.lock().get(&reference.uid).cloned();
        if known.as_ref().is_some_and(|owner| !owner.may_own(node)) {
            tell_invalid_owner(ctx, node, uid, reference);
        }
        // An owner missing from the graph may just have been created.
        let known = known.filter(|owner| owner.may_own(node) && owner.is_meant_by(&named));
        let state = match (known, asked.get(&named)) {
            (Some(owner), _) => OwnerState::Exists {
                waits: owner.waits_for_dependents,
            },
            (None, Some(state)) => *state,
            (None, None) => {
                let state = ask_for_owner(ctx, collector, node, reference).await?;
                asked.insert(named, state);
                state
            }
        };
        match state {
            OwnerState::Missing => owners.dangling.push(reference.clone()),
            OwnerState::Exists { waits: true } => owners.waiting.push(reference.clone()),
            OwnerState::Exists { waits: false } => owners.solid.push(reference.clone()),
            OwnerState::Unresolvable => return Ok(None),
        }
    }
    Ok(Some(owners))
}

/// Asks the API server for an owner that the graph does not have.
async fn ask_for_owner(
    ctx: &Context,
    collector: &Collector,
    node: &Node,
    reference: &OwnerReference,
) -> Result<OwnerState> {
    let group = reference
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group);
    let resource = collector
        .served()
        .into_iter()
        .find(|served| served.kind == reference.kind && served.group == group)
        .ok_or_else(|| {
            Error::other(format!(
                "no kind {} is served in {}: its absence proves nothing",
                reference.kind, reference.api_version
            ))
        })?;
    if resource.namespaced && node.namespace.is_empty() {
        return Ok(OwnerState::Unresolvable);
    }
    let Some(meta) = fetch_metadata(ctx, &resource, &node.namespace, &reference.name).await? else {
        return Ok(OwnerState::Missing);
    };
    if meta.uid.as_deref() != Some(&reference.uid) {
        return Ok(OwnerState::Missing);
    }
    let foreground = meta
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FOREGROUND);
    Ok(OwnerState::Exists {
        waits: meta.deletion_timestamp.is_some() && foreground,
    })
}

/// Reports that an owner is in another namespace than its dependent, which makes it no owner.
fn tell_invalid_owner(ctx: &Context, node: &Node, uid: &str, reference: &OwnerReference) {
    let regarding = ObjectReference {
        api_version: Some(node.resource.api_version()),
        kind: Some(node.resource.kind.clone()),
        name: Some(node.name.clone()),
        namespace: Some(node.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    let message = format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
        reference.api_version,
        reference.kind,
        reference.name,
        reference.uid,
        namespace = node.namespace,
    );
    ctx.recorder.event_about(
        NAME,
        regarding,
        Warning,
        "OwnerRefInvalidNamespace",
        message,
    );
}

async fn check(ctx: &Context, collector: &Collector, uid: &str) -> Result<()> {
    let Some(node) = collector.shared.graph.lock().get(uid).cloned() else {
        return Ok(());
    };
    if node.waits_for_dependents {
        return release_or_wait(ctx, collector, &node, uid).await;
    }
    if node.deleting || collector.shared.graph.lock().owners_stand(&node) {
        return Ok(());
    }
    let Some(meta) = fetch_metadata(ctx, &node.resource, &node.namespace, &node.name).await? else {
        return Ok(()); // the watch will report the deletion
    };
    if meta.uid.as_deref() != Some(uid) || meta.deletion_timestamp.is_some() {
        return Ok(());
    }
    let references = meta.owner_references.clone().unwrap_or_default();
    if references.is_empty() {
        return Ok(());
    }
    let Some(owners) = classify(ctx, collector, &node, uid, &references).await? else {
        return Ok(());
    };
    if !owners.solid.is_empty() {
        if owners.dangling.is_empty() && owners.waiting.is_empty() {
            return Ok(());
        }
        let left = json!({"uid": uid, "resourceVersion": meta.resource_version, "ownerReferences": owners.solid});
        return patch(ctx, &node, left).await;
    }
    let dependents = collector.shared.graph.lock().dependents(uid);
    if owners.waiting.is_empty() || dependents.is_empty() {
        return delete(ctx, &node, &meta, propagation(&meta)).await;
    }
    let circular = dependents.iter().any(|dependent| {
        let graph = collector.shared.graph.lock();
        graph
            .get(dependent)
            .is_some_and(|node| node.waits_for_dependents)
    });
    if circular {
        // A deletion cycle: stop this object from blocking its owners.
        let unblocked: Vec<_> = references
            .iter()
            .map(|reference| OwnerReference {
                block_owner_deletion: Some(false),
                ..reference.clone()
            })
            .collect();
        patch(
            ctx,
            &node,
            json!({"uid": uid, "ownerReferences": unblocked}),
        )
        .await?;
    }
    delete(ctx, &node, &meta, "Foreground").await
}

async fn release_or_wait(
    ctx: &Context,
    collector: &Collector,
    node: &Node,
    uid: &str,
) -> Result<()> {
    let blocking = collector.shared.graph.lock().blocking_dependents(uid);
    if blocking.is_empty() {
        return drop_finalizer(ctx, node, uid, FOREGROUND).await;
    }
    for dependent in blocking {
        let waits = {
            let graph = collector.shared.graph.lock();
            graph
                .get(&dependent)
                .is_some_and(|node| node.waits_for_dependents || node.deleting)
        };
        if !waits {
            collector.shared.tasks.add(Task::Check(dependent));
        }
    }
    Ok(())
}

async fn delete(ctx: &Context, node: &Node, meta: &ObjectMeta, propagation: &str) -> Result<()> {
    let path = format!("{}/{}", node.resource.path(&node.namespace), node.name);
    let body = json!({
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": propagation,
        "preconditions": {"uid": meta.uid, "resourceVersion": meta.resource_version},
    });
    let answer: Result<serde::de::IgnoredAny> = ctx
        .raw(http::Method::DELETE, &path, body.to_string().into_bytes())
        .await;
    optional(answer).map(drop)
}

async fn orphan(ctx: &Context, collector: &Collector, uid: &str) -> Result<()> {
    let Some(node) = collector.shared.graph.lock().get(uid).cloned() else {
        return Ok(());
    };
    let dependents = collector.shared.graph.lock().dependents(uid);
    for dependent in dependents {
        let Some(child) = collector.shared.graph.lock().get(&dependent).cloned() else {
            continue;
        };
        let Some(meta) =
            fetch_metadata(ctx, &child.resource, &child.namespace, &child.name).await?
        else {
            continue;
        };
        if meta.uid.as_deref() != Some(&dependent) {
            continue;
        }
        let references = meta.owner_references.unwrap_or_default();
        let left: Vec<_> = references
            .iter()
            .filter(|reference| reference.uid != uid)
            .collect();
        if left.len() < references.len() {
            patch(
                ctx,
                &child,
                json!({"uid": dependent, "resourceVersion": meta.resource_version, "ownerReferences": left}),
            )
            .await?;
        }
    }
    drop_finalizer(ctx, &node, uid, ORPHAN).await
}
