//! Applies the objects of a session, and takes away those that are not wanted any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use rkube_cluster::addons::objects::{self, GroupKind, Object, removal_step};
use rkube_cluster::addons::server::{Member, Server, exactly, failure, title};
use rkube_cluster::addons::{remove_members, wait_for_definitions};
use rkube_dev::manifests::{self, Image};
use rkube_dev::pods::{self, Workload};
use rkube_dev::record::{Applied, Store};
use rkube_dev::rollout;
use rkube_failure::{Failure, Kind, Source};
use serde_json::Value;
use tokio::sync::watch;

use super::live::Live;
use super::wait::Target;

/// Field manager of the objects.
const MANAGER: &str = "rkube-dev";
/// What helps if objects cannot be taken away.
const RETRY: &str = "run 'rkube dev --delete'";
/// The grace period of pods in the end, in seconds.
const GRACE: u32 = 2;
/// The interval of looks for such pods.
const HURRY_PERIOD: Duration = Duration::from_millis(100);
/// The namespace of objects if nobody names one.
const DEFAULT_NAMESPACE: &str = "default";

/// What an application has changed.
#[derive(Default)]
pub struct Changes {
    /// The objects that were applied, for messages.
    pub applied: Vec<String>,
    /// The workloads that were applied.
    pub targets: Vec<Target>,
    /// The objects that wait for an image that has not been built yet, for messages.
    pub held: Vec<String>,
    /// The objects that were there before the session, for messages.
    pub adopted: Vec<String>,
    /// Why others were not applied.
    pub failures: Vec<Failure>,
}

/// Applies objects to a cluster.
pub struct Deployer {
    server: Server,
    client: Client,
    /// The objects as they were applied last, by kind, namespace and name.
    last: BTreeMap<(GroupKind, String, String), Value>,
}

fn key(object: &Object) -> (GroupKind, String, String) {
    let namespace = object.namespace.clone().unwrap_or_default();
    (object.group_kind(), namespace, object.name.clone())
}

/// Returns whether objects of a kind hold data or other objects, which a moment's mistake in a file
/// must not cost.
fn is_precious(object: &Applied) -> bool {
    matches!(
        object.kind.as_str(),
        "PersistentVolumeClaim" | "PersistentVolume" | "Namespace" | "CustomResourceDefinition"
    )
}

/// Returns whether the session's manager has applied an object.
fn is_managed(metadata: &ObjectMeta) -> bool {
    let mut managers = metadata.managed_fields.iter().flatten();
    managers.any(|entry| entry.manager.as_deref() == Some(MANAGER))
}

/// Returns whether the server has refused one object, and may take others.
fn is_refusal(failure: &Failure) -> bool {
    use Kind::{Config, Conflict, NotFound, Permission, Unsupported};
    failure.source == Source::ControlPlane
        && matches!(
            failure.kind,
            Config | Conflict | NotFound | Permission | Unsupported
        )
}

/// Returns what the record has beside the objects, but what is held back until the end.
pub fn surplus(objects: &[Object], store: &Store) -> Vec<Applied> {
    let wanted = objects.iter().map(|o| applied(o, String::new(), false));
    let wanted: Vec<_> = wanted.collect();
    let known = store.record.objects.iter();
    known
        .filter(|known| !is_precious(known) && !wanted.iter().any(|object| object.is(known)))
        .cloned()
        .collect()
}

/// Returns a description of an object for messages.
pub fn describe(object: &Object) -> String {
    title(&object.gvk.kind, object.namespace.as_deref(), &object.name)
}

/// Returns an object as the record has it.
fn applied(object: &Object, uid: String, adopted: bool) -> Applied {
    Applied {
        api_version: object.gvk.api_version(),
        kind: object.gvk.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid,
        adopted,
    }
}

impl Deployer {
    pub async fn new(client: Client) -> Result<Self, Failure> {
        Ok(Self {
            server: Server::managed_by(client.clone(), MANAGER).await?,
            client,
            last: BTreeMap::new(),
        })
    }

    /// Sets the namespace of each object. Unknown kinds are errors, before anything is changed.
    pub fn place(&self, objects: &mut [Object], namespace: Option<&str>) -> Result<(), Failure> {
        let defined = objects::defined(objects);
        for object in objects {
            let known = self.server.resolve(&object.gvk);
            let known = known.map(|(_, namespaced)| namespaced);
            let known = known.or_else(|| defined.get(&object.group_kind()).copied());
            let Some(namespaced) = known else {
                let (kind, version) = (&object.gvk.kind, object.gvk.api_version());
                return Err(Failure::new(
                    Source::ControlPlane,
                    Kind::NotFound,
                    format!(
                        "cannot apply {kind} {}: the cluster has no kind {kind} in {version}",
                        object.name
                    ),
                ));
            };
            let own = object.namespace.take();
            object.namespace = namespaced.then(|| {
                own.or_else(|| namespace.map(str::to_owned))
                    .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
            });
        }
        Ok(())
    }

    /// Applies the objects that differ from what was applied last, with the images that were built.
    /// One that is refused does not keep the others from it. `stop` ends it between two objects.
    pub async fn apply(
        &mut self,
        objects: &[Object],
        images: &[Image],
        store: &mut Store,
        stop: &watch::Receiver<bool>,
    ) -> Changes {
        let mut changes = Changes::default();
        let steps = objects::in_order(objects.to_vec());
        let early = steps.namespaces.iter().chain(&steps.definitions);
        if !self
            .apply_all(early, images, store, stop, &mut changes)
            .await
        {
            return changes;
        }
        let unknown = steps
            .rest
            .iter()
            .any(|o| self.server.resolve(&o.gvk).is_none());
        if unknown && changes.failures.is_empty() {
            let waited = wait_for_definitions(&mut self.server, &steps.definitions, &steps.rest);
            if let Err(failure) = waited.await {
                changes.failures.push(failure);
                return changes;
            }
        }
        self.apply_all(&steps.rest, images, store, stop, &mut changes)
            .await;
        self.last
            .retain(|known, _| objects.iter().any(|object| key(object) == *known));
        changes
    }

    /// Applies objects. Returns whether others can be applied.
    async fn apply_all(
        &mut self,
        objects: impl IntoIterator<Item = &Object>,
        images: &[Image],
        store: &mut Store,
        stop: &watch::Receiver<bool>,
        changes: &mut Changes,
    ) -> bool {
        for object in objects {
            if *stop.borrow() {
                changes.failures.push(Failure::interruption());
                return false;
            }
            if let Err(failure) = self.apply_one(object, images, store, changes).await {
                let next = is_refusal(&failure);
                changes.failures.push(failure);
                if !next {
                    return false;
                }
            }
        }
        true
    }

    /// Takes objects away that the manifests no longer have. Returns their descriptions.
    pub async fn prune(
        &self,
        surplus: &[Applied],
        store: &mut Store,
        live: &Live,
    ) -> Result<Vec<String>, Failure> {
        let removed = self.remove(surplus, live).await?;
        store
            .record
            .objects
            .retain(|known| !surplus.contains(known));
        store.save()?;
        Ok(removed)
    }

    async fn apply_one(
        &mut self,
        object: &Object,
        images: &[Image],
        store: &mut Store,
        changes: &mut Changes,
    ) -> Result<(), Failure> {
        let mut content = object.prepared();
        let used = manifests::set_images(&mut content, images);
        if used.iter().any(|i| images[*i].name.is_none()) {
            changes.held.push(describe(object));
            return Ok(());
        }
        if self.last.get(&key(object)) == Some(&content) {
            return Ok(());
        }
        let title = describe(object);
        let Some((resource, _)) = self.server.resolve(&object.gvk) else {
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::NotFound,
                format!("cannot apply {title}: its kind has gone"),
            ));
        };
        let api = self.server.api(&resource, object.namespace.as_deref());
        let there = api.get_metadata_opt(&object.name).await;
        let there = there.map_err(|e| failure(&format!("cannot read {title}"), e))?;
        let mut mine = applied(object, String::new(), false);
        let before = store.find(&mine).cloned();
        if let Some(there) = &there {
            let uid = there.metadata.uid.clone().unwrap_or_default();
            mine.adopted = store.is_foreign(&mine, &uid, is_managed(&there.metadata));
            mine.uid = uid;
        }
        // Before the request: what it makes must be known, whatever happens next.
        store.note(mine.clone());
        store.save()?;
        match self.send(object, &resource, &content, &mine, store).await {
            Ok(uid) => mine.uid = uid,
            Err(failure) => {
                if is_refusal(&failure) {
                    store.record.objects.retain(|known| !known.is(&mine));
                    store.record.objects.extend(before);
                    store.save()?;
                }
                return Err(failure);
            }
        }
        if mine.adopted && before.as_ref() != Some(&mine) {
            changes.adopted.push(title.clone());
        }
        store.note(mine);
        store.save()?;
        if rollout::is_tracked(&object.gvk.kind) {
            changes.targets.push(Target {
                title: title.clone(),
                path: api.resource_url().to_owned(),
                kind: object.gvk.kind.clone(),
                name: object.name.clone(),
                ends: object.gvk.kind == "Job",
            });
        }
        changes.applied.push(title);
        self.last.insert(key(object), content);
        Ok(())
    }

    /// Applies an object, or puts another one in the place of one whose fields cannot be changed.
    /// Returns the UID.
    async fn send(
        &self,
        object: &Object,
        resource: &ApiResource,
        content: &Value,
        mine: &Applied,
        store: &mut Store,
    ) -> Result<String, Failure> {
        let (namespace, name) = (object.namespace.as_deref(), object.name.as_str());
        let done = self.server.apply(resource, namespace, name, content).await;
        let refused = match done {
            Err(refused) if is_fixed(&object.group_kind(), &refused) => refused,
            done => return done,
        };
        if mine.adopted {
            return Err(refused.advise(
                "it was there before this session, which does not delete it; delete it yourself, \
                 or give the one in the manifest another name",
            ));
        }
        let member = Member {
            resource: resource.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: mine.uid.clone(),
            step: 0,
        };
        remove_members(&self.server, vec![member], RETRY).await?;
        store.note(applied(object, String::new(), false));
        store.save()?;
        self.server.apply(resource, namespace, name, content).await
    }

    /// Returns the images of objects as the cluster has them.
    pub async fn images_of(&self, object: &Applied) -> Result<BTreeSet<String>, Failure> {
        let mut images = BTreeSet::new();
        let Some((resource, _)) = self.server.resolve(&gvk(object)) else {
            return Ok(images);
        };
        let api = self.server.api(&resource, object.namespace.as_deref());
        let there = api.get_opt(&object.name).await.map_err(|e| {
            let title = title(&object.kind, object.namespace.as_deref(), &object.name);
            failure(&format!("cannot read {title}"), e)
        })?;
        if let Some(mut there) = there {
            collect_images(&mut there.data, &mut images);
        }
        Ok(images)
    }

    /// Returns the images of what was applied last, and of the pods that there are.
    pub async fn used_images(&self) -> Result<BTreeSet<String>, Failure> {
        let mut images = self.pod_images().await?;
        for content in self.last.values() {
            collect_images(&mut content.clone(), &mut images);
        }
        Ok(images)
    }

    /// Returns the images of the pods that there are.
    pub async fn pod_images(&self) -> Result<BTreeSet<String>, Failure> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(|e| failure("cannot list the pods", e))?;
        let containers = listed.items.iter().flat_map(pods::containers);
        Ok(containers.map(|container| container.image).collect())
    }

    /// Returns the UID of an object that the session has made; `None` if there is none.
    async fn uid_of(
        &self,
        object: &Applied,
        resource: &ApiResource,
    ) -> Result<Option<String>, Failure> {
        if !object.uid.is_empty() {
            return Ok(Some(object.uid.clone()));
        }
        // The answer to its application has not come.
        let api = self.server.api(resource, object.namespace.as_deref());
        let there = api.get_metadata_opt(&object.name).await.map_err(|e| {
            let title = title(&object.kind, object.namespace.as_deref(), &object.name);
            failure(&format!("cannot read {title}"), e)
        })?;
        let there = there.filter(|there| is_managed(&there.metadata));
        Ok(there.and_then(|there| there.metadata.uid))
    }

    async fn remove_slowly(&self, objects: &[Applied]) -> Result<Vec<String>, Failure> {
        let mut members = Vec::new();
        for object in objects.iter().filter(|object| !object.adopted) {
            let gvk = gvk(object);
            let group = gvk.group.as_str();
            // Of a kind that no longer exists there are no objects.
            let Some((resource, _)) = self.server.resolve(&gvk) else {
                continue;
            };
            let Some(uid) = self.uid_of(object, &resource).await? else {
                continue;
            };
            let custom = group.contains('.') && !group.ends_with(".k8s.io");
            members.push(Member {
                resource,
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                uid,
                step: removal_step(&GroupKind::of(&gvk), custom),
            });
        }
        let titles = members.iter().map(Member::title).collect();
        remove_members(&self.server, members, RETRY).await?;
        Ok(titles)
    }

    /// Takes objects away that the session has made, and waits until they are gone. Returns their
    /// descriptions. Their pods get [`GRACE`], because nobody waits for what they still do.
    pub async fn remove(&self, objects: &[Applied], live: &Live) -> Result<Vec<String>, Failure> {
        let own = objects.iter().filter(|object| !object.adopted);
        let workloads = own.map(|object| Workload {
            kind: object.kind.clone(),
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone(),
        });
        let workloads = workloads.collect();
        tokio::select! {
            removed = self.remove_slowly(objects) => removed,
            never = self.hurry(&workloads, live) => match never {},
        }
    }

    async fn hurry(&self, workloads: &BTreeSet<Workload>, live: &Live) -> std::convert::Infallible {
        let params = DeleteParams::default().grace_period(GRACE);
        let mut done = BTreeSet::new();
        loop {
            for (namespace, name, uid) in live.ending(workloads, GRACE) {
                if done.insert(uid.clone()) {
                    let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                    let exact = params.clone().preconditions(exactly(&uid));
                    // Otherwise the pod takes its time, as it would anyway.
                    let _ = api.delete(&name, &exact).await;
                }
            }
            tokio::time::sleep(HURRY_PERIOD).await;
        }
    }

    /// Returns the client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Returns the kind of an object with its version.
fn gvk(object: &Applied) -> GroupVersionKind {
    let version = object.api_version.as_str();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    GroupVersionKind::gvk(group, version, &object.kind)
}

fn collect_images(content: &mut Value, images: &mut BTreeSet<String>) {
    manifests::for_each_container(content, &mut |container| {
        images.extend(container["image"].as_str().map(str::to_owned));
    });
}

/// Returns whether an object was refused because its fields cannot be changed, and can be replaced
/// without loss.
fn is_fixed(kind: &GroupKind, refused: &Failure) -> bool {
    let text = &refused.message;
    let fixed = text.contains("field is immutable") || text.contains("may not change fields");
    let replaceable = matches!(
        (kind.kind.as_str(), kind.group.as_str()),
        ("Pod", "") | ("Job", "batch")
    );
    replaceable && fixed && refused.kind == Kind::Config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_data_is_kept_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "a").unwrap();
        for kind in ["ConfigMap", "PersistentVolumeClaim", "Namespace"] {
            store.note(Applied {
                api_version: "v1".into(),
                kind: kind.into(),
                namespace: None,
                name: "a".into(),
                uid: "1".into(),
                adopted: false,
            });
        }
        let kinds: Vec<_> = surplus(&[], &store).into_iter().map(|o| o.kind).collect();
        assert_eq!(kinds, ["ConfigMap"]);
    }

    #[test]
    fn only_pods_and_jobs_are_replaced() {
        let refused = |kind, text: &str| Failure::new(Source::ControlPlane, kind, text);
        let job = GroupKind::parse("Job.batch");
        let text = "cannot apply Job n/a: spec.template: Invalid value: {}: field is immutable";
        assert!(is_fixed(&job, &refused(Kind::Config, text)));
        assert!(!is_fixed(&job, &refused(Kind::Permission, text)));
        assert!(!is_fixed(
            &job,
            &refused(Kind::Config, "spec.template: Required value")
        ));
        let claim = GroupKind::parse("PersistentVolumeClaim");
        assert!(!is_fixed(&claim, &refused(Kind::Config, text)));
    }
}
