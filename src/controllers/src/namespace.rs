//! Deletion of namespaces: deletes all objects in them, pods first, and then removes the finalizer.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{ObjectList, PartialObjectMeta};
use serde_json::json;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::discovery::discover;
use crate::gc::Collector;
use crate::informers::Key;
use crate::queue::Queue;
use crate::served::Served;

const NAME: &str = "namespace-controller";
/// Number of namespaces processed concurrently.
const CONCURRENCY: usize = 10;
/// Finalizer in the namespace's spec that this controller removes.
const KUBERNETES: &str = "kubernetes";
/// Interval of checks for remaining objects whose deletion no watch reports.
const RECHECK_PERIOD: Duration = Duration::from_secs(15);

/// Objects that remain in a namespace after their deletion was requested.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RemainingContent {
    /// Number of remaining objects, by `resource.group`.
    pub counts: BTreeMap<String, usize>,
    /// Number of remaining objects with each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// Group versions that could not be discovered.
    pub undiscovered: Vec<String>,
    /// Resources that could not be listed or deleted, with the error.
    pub failures: Vec<String>,
    /// Whether only pods have been deleted so far, and some remain. As upstream, the conditions then
    /// tell nothing of what remains.
    pub waits_for_pods: bool,
}

impl RemainingContent {
    /// Returns whether the namespace is known to be empty.
    pub fn is_nothing(&self) -> bool {
        self.counts.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }
}

/// A reason and a message.
type Problem = Option<(&'static str, String)>;

fn counts(map: &BTreeMap<String, usize>, suffix: &str) -> String {
    let parts: Vec<String> = map
        .iter()
        .map(|(name, count)| format!("{name}{suffix} {count} resource instances"))
        .collect();
    parts.join(", ")
}

fn discovery_failures(content: &RemainingContent) -> Problem {
    let groups = &content.undiscovered;
    (!groups.is_empty()).then(|| {
        let text = format!(
            "Discovery failed for some groups, {} failing: {}",
            groups.len(),
            groups.join(", ")
        );
        ("DiscoveryFailed", text)
    })
}

fn deletion_failures(content: &RemainingContent) -> Problem {
    let failures = &content.failures;
    (!failures.is_empty()).then(|| {
        let text = format!(
            "Failed to delete all resource types, {} remaining: {}",
            failures.len(),
            failures.join(", ")
        );
        ("ContentDeletionFailed", text)
    })
}

fn remaining_resources(content: &RemainingContent) -> Problem {
    (!content.counts.is_empty() && !content.waits_for_pods).then(|| {
        let list = counts(&content.counts, " has");
        let text = format!("Some resources are remaining: {list}");
        ("SomeResourcesRemain", text)
    })
}

fn remaining_finalizers(content: &RemainingContent) -> Problem {
    (!content.finalizers.is_empty() && !content.waits_for_pods).then(|| {
        let list = counts(&content.finalizers, " in");
        let text = format!("Some content in the namespace has finalizers remaining: {list}");
        ("SomeFinalizersRemain", text)
    })
}

/// Returns the conditions that report the progress of the deletion.
pub fn conditions(
    old: &[NamespaceCondition],
    content: &RemainingContent,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let state = |kind: &str, problem: Problem, fine: (&str, &str)| {
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("True", reason.to_owned(), message),
            None => ("False", fine.0.to_owned(), fine.1.to_owned()),
        };
        NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }
    };
    let news = [
        state(
            "NamespaceDeletionDiscoveryFailure",
            discovery_failures(content),
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        ),
        state(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        state(
            "NamespaceDeletionContentFailure",
            deletion_failures(content),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        state(
            "NamespaceContentRemaining",
            remaining_resources(content),
            ("ContentRemoved", "All content successfully removed"),
        ),
        state(
            "NamespaceFinalizersRemaining",
            remaining_finalizers(content),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    let mut all: Vec<NamespaceCondition> = old.to_vec();
    for mut condition in news {
        match all
            .iter_mut()
            .find(|present| present.type_ == condition.type_)
        {
            Some(present) => {
                if present.status == condition.status {
                    condition
                        .last_transition_time
                        .clone_from(&present.last_transition_time);
                }
                *present = condition;
            }
            None => all.push(condition),
        }
    }
    all
}

/// The controller that empties namespaces that are being deleted.
pub struct NamespaceController {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
}

impl NamespaceController {
    /// Returns the controller.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for NamespaceController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let namespaces = self.ctx.informers.namespaces.clone();
        watches.watches(&self.ctx.informers.namespaces, |change, queue| {
            let namespace = change.object();
            if namespace.metadata.deletion_timestamp.is_some() && !change.is_deletion() {
                queue.add(Key::of(&namespace.metadata));
            }
        });
        // An object was deleted; it may have been the last one.
        let queue = self.queue.clone();
        self.collector.on_gone(move |node| {
            if let Some(namespace) = namespaces.get("", &node.namespace)
                && namespace.metadata.deletion_timestamp.is_some()
            {
                queue.add_after(Key::of(&namespace.metadata), Duration::from_millis(20));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

impl NamespaceController {
    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.namespaces;
        let Some(namespace) = store.by_key(&key) else {
            return Ok(());
        };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let mut namespace = Namespace::clone(&namespace);
        let phase = namespace
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if phase != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".into());
            let Some(updated) = optional(self.ctx.update_status(store, &namespace).await)? else {
                return Ok(());
            };
            namespace = Namespace::clone(&updated);
        }
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.clone())
            .unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == KUBERNETES) {
            return Ok(());
        }
        let content = self.empty(&key.name).await?;
        self.report(&mut namespace, &content).await?;
        if content.is_nothing() {
            return self.finalize(&namespace).await;
        }
        if !content.failures.is_empty() || !content.undiscovered.is_empty() {
            return Err(Error::other(format!(
                "namespace {} cannot be emptied yet: {:?} {:?}",
                key.name, content.undiscovered, content.failures
            )));
        }
        self.queue.add_after(key, RECHECK_PERIOD);
        Ok(())
    }

    async fn report(&self, namespace: &mut Namespace, content: &RemainingContent) -> Result<()> {
        let status = namespace.status.get_or_insert_default();
        let old = status.conditions.clone().unwrap_or_default();
        let new = conditions(&old, content, self.ctx.now());
        if new == old {
            return Ok(());
        }
        status.conditions = Some(new);
        let store = &self.ctx.informers.namespaces;
        if let Some(updated) = optional(self.ctx.update_status(store, namespace).await)? {
            *namespace = Namespace::clone(&updated);
        }
        Ok(())
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<()> {
        let mut namespace = namespace.clone();
        if let Some(finalizers) = namespace
            .spec
            .as_mut()
            .and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != KUBERNETES);
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let body = serde_json::to_vec(&namespace)
            .map_err(|error| Error::Api(kube::Error::SerdeError(error)))?;
        let path = format!("/api/v1/namespaces/{name}/finalize");
        optional(
            self.ctx
                .raw::<serde::de::IgnoredAny>(http::Method::PUT, &path, body)
                .await,
        )?;
        Ok(())
    }

    /// Requests deletion of all objects in the namespace. Returns what remains.
    async fn empty(&self, name: &str) -> Result<RemainingContent> {
        let (served, undiscovered) = discover(&self.ctx).await?;
        let mut content = RemainingContent {
            undiscovered,
            ..Default::default()
        };
        let (pods, others): (Vec<_>, Vec<_>) = served
            .into_iter()
            .filter(|served| served.namespaced && served.can("delete") && served.can("list"))
            .partition(|served| served.group.is_empty() && served.plural == "pods");
        // Running pods may still need the other objects.
        for resource in &pods {
            self.empty_of(name, resource, &mut content).await;
        }
        if !content.counts.is_empty() || !content.failures.is_empty() {
            content.waits_for_pods = true;
            return Ok(content);
        }
        for resource in &others {
            self.empty_of(name, resource, &mut content).await;
        }
        Ok(content)
    }

    async fn empty_of(&self, namespace: &str, resource: &Served, content: &mut RemainingContent) {
        let title = if resource.group.is_empty() {
            format!("{}.", resource.plural)
        } else {
            format!("{}.{}", resource.plural, resource.group)
        };
        if let Err(error) = self
            .try_empty_of(namespace, resource, &title, content)
            .await
        {
            content.failures.push(format!("{title}: {error}"));
        }
    }

    async fn try_empty_of(
        &self,
        namespace: &str,
        resource: &Served,
        title: &str,
        content: &mut RemainingContent,
    ) -> Result<()> {
        let path = resource.path(namespace);
        let before = self.list(&path).await?;
        if before.items.is_empty() {
            return Ok(());
        }
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        let options = options.to_string().into_bytes();
        if resource.can("deletecollection") {
            self.ctx
                .raw::<serde::de::IgnoredAny>(http::Method::DELETE, &path, options)
                .await?;
        } else {
            for object in &before.items {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let path = format!("{path}/{name}");
                optional(
                    self.ctx
                        .raw::<serde::de::IgnoredAny>(http::Method::DELETE, &path, options.clone())
                        .await,
                )?;
            }
        }
        let left = self.list(&path).await?;
        if !left.items.is_empty() {
            content.counts.insert(title.to_owned(), left.items.len());
        }
        for object in &left.items {
            for finalizer in object.metadata.finalizers.iter().flatten() {
                *content.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn list(&self, path: &str) -> Result<ObjectList<PartialObjectMeta>> {
        let request = kube::core::Request::new(path)
            .list_metadata(&kube::api::ListParams::default())
            .map_err(|error| Error::Api(kube::Error::BuildRequest(error)))?;
        Ok(
            optional(self.ctx.client.request(request).await.map_err(Error::from))?.unwrap_or(
                ObjectList {
                    types: kube::core::TypeMeta::default(),
                    metadata: kube::core::ListMeta::default(),
                    items: Vec::new(),
                },
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;

    #[test]
    fn conditions_report_the_remaining_content() {
        let content = RemainingContent {
            counts: [("pods.".to_owned(), 2)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Default::default()
        };
        let first = conditions(&[], &content, at(1));
        assert_eq!(first.len(), 5);
        let left = first
            .iter()
            .find(|c| c.type_ == "NamespaceContentRemaining")
            .unwrap();
        assert_eq!(left.status, "True");
        assert_eq!(
            left.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        let held = first
            .iter()
            .find(|c| c.type_ == "NamespaceFinalizersRemaining")
            .unwrap();
        assert_eq!(
            held.message.as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            )
        );
        assert_eq!(conditions(&first, &content, at(9)), first);
        let early = RemainingContent {
            waits_for_pods: true,
            ..content
        };
        let early = conditions(&[], &early, at(1));
        assert!(early.iter().all(|condition| condition.status == "False"));
        let done = conditions(&first, &RemainingContent::default(), at(9));
        let left = done
            .iter()
            .find(|c| c.type_ == "NamespaceContentRemaining")
            .unwrap();
        assert_eq!(
            (left.status.as_str(), left.last_transition_time.clone()),
            ("False", Some(Time(at(9))))
        );
    }
}
