//! Dynamic access to the API server: any kind, by discovery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope as KindScope, verbs};
use kube::{Api, Client, ResourceExt};
use rkube_failure::{Failure, Kind, Source};
use serde_json::Value;

use super::applyset::{self, ADDON, NAMESPACE, PART_OF, Parent};
use super::objects::{GroupKind, removal_step};

/// Field manager of addons' objects.
const MANAGER: &str = "rkube-addons";
/// The time in which server errors are retried: webhooks that were just installed may not be ready.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval between retries.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// A client of a cluster, with the result of discovery.
pub struct Server {
    client: Client,
    /// Field manager of what is applied.
    manager: &'static str,
    kinds: Discovery,
}

/// A member of a set that exists in the cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// The API resource.
    pub resource: ApiResource,
    /// The namespace, unless cluster-scoped.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// The object's UID.
    pub uid: String,
    /// The step of its removal, see [`removal_step`].
    pub step: u8,
}

/// Returns a description of an object for messages.
pub fn title(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

impl Member {
    /// Returns a description for messages.
    pub fn title(&self) -> String {
        title(&self.resource.kind, self.namespace.as_deref(), &self.name)
    }
}

/// Converts the error of a request into a failure.
pub fn failure(doing: &str, error: kube::Error) -> Failure {
    let (kind, why) = match error {
        kube::Error::Api(status) => {
            let kind = match status.code {
                400 | 422 => Kind::Config,
                403 => Kind::Permission,
                404 => Kind::NotFound,
                409 => Kind::Conflict,
                504 => Kind::Timeout,
                _ => Kind::Error,
            };
            (kind, status.message.clone())
        }
        e => (Kind::Unavailable, e.to_string()),
    };
    Failure::new(Source::ControlPlane, kind, format!("{doing}: {why}"))
}

/// Tells configurations that do not fit their kind from errors of the server: as upstream, it
/// answers both with 500.
fn of_configuration(mut error: kube::Error) -> kube::Error {
    if let kube::Error::Api(status) = &mut error
        && status
            .message
            .starts_with("failed to create typed patch object")
    {
        status.code = 422;
    }
    error
}

/// Converts the error 404 (no such object or kind) to `None`.
pub fn none_if_missing<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(e) => Err(e),
    }
}

impl Server {
    /// Creates a client and discovers the cluster's kinds.
    pub async fn new(client: Client) -> Result<Self, Failure> {
        Self::managed_by(client, MANAGER).await
    }

    /// Creates a client whose objects have another field manager than addons.
    pub async fn managed_by(client: Client, manager: &'static str) -> Result<Self, Failure> {
        let kinds = discover(&client).await?;
        Ok(Self {
            client,
            manager,
            kinds,
        })
    }

    /// Repeats the discovery.
    pub async fn refresh(&mut self) -> Result<(), Failure> {
        self.kinds = discover(&self.client).await?;
        Ok(())
    }

    /// Returns the resource of a kind, and whether it is namespaced.
    pub fn resolve(&self, gvk: &GroupVersionKind) -> Option<(ApiResource, bool)> {
        let (resource, capabilities) = self.kinds.resolve_gvk(gvk)?;
        Some((resource, capabilities.scope == KindScope::Namespaced))
    }

    /// Returns the API of a resource: of one namespace, or of all.
    pub fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Returns the labels of an object; `None` if it does not exist.
    pub(super) async fn labels(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> kube::Result<Option<BTreeMap<String, String>>> {
        let there = self.api(resource, namespace).get_metadata_opt(name).await?;
        Ok(there.map(|object| object.metadata.labels.unwrap_or_default()))
    }

    /// Applies an object on the server side and returns its UID. Retries on server errors.
    pub async fn apply(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
        content: &Value,
    ) -> Result<String, Failure> {
        let api = self.api(resource, namespace);
        // Forced: what is applied reverts manual changes.
        let params = PatchParams::apply(self.manager).force();
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            let error = match api.patch(name, &params, &Patch::Apply(content)).await {
                Ok(object) => return Ok(object.uid().unwrap_or_default()),
                Err(e) => of_configuration(e),
            };
            let again = matches!(&error, kube::Error::Api(s) if s.code >= 500 || s.code == 429);
            if !again || Instant::now() >= deadline {
                let doing = format!("cannot apply {}", title(&resource.kind, namespace, name));
                return Err(failure(&doing, error));
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    fn parents(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Returns the parent of an addon's set and its UID.
    pub(super) async fn parent(&self, addon: &str) -> Result<Option<(Parent, String)>, Failure> {
        let name = applyset::parent_name(addon);
        let doing = format!("cannot read ConfigMap {NAMESPACE}/{name}");
        let found = self.parents().get_opt(&name).await;
        let Some(object) = found.map_err(|e| failure(&doing, e))? else {
            return Ok(None);
        };
        match Parent::read(&object) {
            Ok(parent) => Ok(Some((parent, object.uid().unwrap_or_default()))),
            Err(why) => Err(Failure::new(
                Source::ControlPlane,
                Kind::Conflict,
                format!(
                    "ConfigMap {NAMESPACE}/{name} does not describe the addon '{addon}': {why}"
                ),
            )
            .advise("delete it if it is not needed, or rename it")),
        }
    }

    /// Writes an addon's parent and returns its UID.
    pub(super) async fn write_parent(&self, parent: &Parent) -> Result<String, Failure> {
        let name = applyset::parent_name(&parent.name);
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(parent.to_object());
        let written = self.parents().patch(&name, &params, &patch).await;
        let written = written
            .map_err(|e| failure(&format!("cannot write ConfigMap {NAMESPACE}/{name}"), e))?;
        Ok(written.uid().unwrap_or_default())
    }

    /// Deletes a parent unless it has been replaced by another object.
    pub(super) async fn delete_parent(&self, addon: &str, uid: &str) -> Result<(), Failure> {
        let name = applyset::parent_name(addon);
        // The parent owns nothing. In the foreground, it would exist until the garbage collector
        // has seen that, after the caller has reported the addon as disabled.
        let params = DeleteParams::background().preconditions(exactly(uid));
        let deleted = self.parents().delete(&name, &params).await;
        match none_if_missing(deleted) {
            Ok(_) => Ok(()),
            Err(e) => Err(failure(
                &format!("cannot delete ConfigMap {NAMESPACE}/{name}"),
                e,
            )),
        }
    }

    /// Returns all members of a set: the objects of `kinds` with its label.
    pub(super) async fn members<'a>(
        &self,
        id: &str,
        kinds: impl IntoIterator<Item = &'a GroupKind>,
    ) -> Result<Vec<Member>, Failure> {
        let mut members = Vec::new();
        for kind in kinds {
            // A kind that no longer exists has no objects.
            let group = self.kinds.get(&kind.group);
            let Some((resource, capabilities)) =
                group.and_then(|group| group.recommended_kind(&kind.kind))
            else {
                continue;
            };
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let params = ListParams::default().labels(&format!("{PART_OF}={id}"));
            let listed = self.api(&resource, None).list_metadata(&params).await;
            // The definition may have been deleted in the meantime.
            let listed = none_if_missing(listed)
                .map_err(|e| failure(&format!("cannot list objects of kind {kind}"), e))?;
            let found = listed.map(|l| l.items).unwrap_or_default();
            if found.is_empty() {
                continue;
            }
            let step = removal_step(kind, self.is_custom(&resource).await?);
            members.extend(found.into_iter().map(|object| Member {
                resource: resource.clone(),
                namespace: object.namespace(),
                name: object.name_any(),
                uid: object.uid().unwrap_or_default(),
                step,
            }));
        }
        Ok(members)
    }

    /// Whether a kind is defined by a custom resource definition.
    async fn is_custom(&self, resource: &ApiResource) -> Result<bool, Failure> {
        let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let Some((definitions, _)) = self.resolve(&gvk) else {
            return Ok(false);
        };
        let name = format!("{}.{}", resource.plural, resource.group);
        let found = self.api(&definitions, None).get_metadata_opt(&name).await;
        let found = found.map_err(|e| failure(&format!("cannot read the definition {name}"), e))?;
        Ok(found.is_some())
    }
}

/// Returns the parents of all addons. Skips objects that rkube did not create.
pub(super) async fn parents(client: Client) -> kube::Result<Vec<Parent>> {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let found = api.list(&ListParams::default().labels(ADDON)).await?;
    let parents = found.items.iter().filter_map(|o| Parent::read(o).ok());
    Ok(parents.collect())
}

/// Returns the precondition that an object has this UID.
pub fn exactly(uid: &str) -> Preconditions {
    Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    }
}

async fn discover(client: &Client) -> Result<Discovery, Failure> {
    let found = Discovery::new(client.clone()).run_aggregated().await;
    found.map_err(|e| failure("cannot ask which kinds the cluster has", e))
}
