//! The cluster's API as addons need it: any kind, by discovery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope as KindScope, verbs};
use kube::{Api, Client, ResourceExt};
use rkube_failure::{Failure, Kind, Source};
use serde_json::Value;

use super::applyset::{self, ADDON, NAMESPACE, PART_OF, Parent};
use super::objects::{GroupKind, removal_step};

/// Who the fields of addons' objects belong to.
const MANAGER: &str = "rkube-addons";
/// How long a request is repeated that the server cannot answer yet: the webhooks
/// that it asks may just have been installed.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is repeated.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// A cluster's API and the kinds that it has.
pub(super) struct Server {
    client: Client,
    kinds: Discovery,
}

/// An object of a set, as it is in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub resource: ApiResource,
    pub namespace: Option<String>,
    pub name: String,
    pub uid: String,
    /// When it is removed.
    pub step: u8,
}

/// An object in words.
pub(super) fn title(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

impl Member {
    pub(super) fn title(&self) -> String {
        title(&self.resource.kind, self.namespace.as_deref(), &self.name)
    }
}

/// What the server said to a request, in words.
pub(super) fn failure(doing: &str, error: kube::Error) -> Failure {
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

/// Nothing, where there is no such object or kind.
pub(super) fn none_if_missing<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(e) => Err(e),
    }
}

impl Server {
    pub(super) async fn new(client: Client) -> Result<Self, Failure> {
        let kinds = discover(&client).await?;
        Ok(Self { client, kinds })
    }

    /// Asks anew which kinds there are.
    pub(super) async fn refresh(&mut self) -> Result<(), Failure> {
        self.kinds = discover(&self.client).await?;
        Ok(())
    }

    /// A kind of a version, and whether it is namespaced.
    pub(super) fn resolve(&self, gvk: &GroupVersionKind) -> Option<(ApiResource, bool)> {
        let (resource, capabilities) = self.kinds.resolve_gvk(gvk)?;
        Some((resource, capabilities.scope == KindScope::Namespaced))
    }

    /// The objects of a kind.
    pub(super) fn api(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// The labels of an object, if it is there.
    pub(super) async fn labels(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> kube::Result<Option<BTreeMap<String, String>>> {
        let there = self.api(resource, namespace).get_metadata_opt(name).await?;
        Ok(there.map(|object| object.metadata.labels.unwrap_or_default()))
    }

    /// Makes an object as it is described, and gives its UID.
    pub(super) async fn apply(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
        content: &Value,
    ) -> Result<String, Failure> {
        let api = self.api(resource, namespace);
        // What was changed since by hand is changed back, as enabling promises.
        let params = PatchParams::apply(MANAGER).force();
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            let error = match api.patch(name, &params, &Patch::Apply(content)).await {
                Ok(object) => return Ok(object.uid().unwrap_or_default()),
                Err(e) => e,
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

    /// The parent of an addon's set, and its UID.
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

    /// Writes an addon's parent, and gives its UID.
    pub(super) async fn write_parent(&self, parent: &Parent) -> Result<String, Failure> {
        let name = applyset::parent_name(&parent.name);
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(parent.to_object());
        let written = self.parents().patch(&name, &params, &patch).await;
        let written = written
            .map_err(|e| failure(&format!("cannot write ConfigMap {NAMESPACE}/{name}"), e))?;
        Ok(written.uid().unwrap_or_default())
    }

    /// Removes a parent, unless another has taken its place.
    pub(super) async fn delete_parent(&self, addon: &str, uid: &str) -> Result<(), Failure> {
        let name = applyset::parent_name(addon);
        let params = super::remove::exactly(uid);
        let deleted = self.parents().delete(&name, &params).await;
        match none_if_missing(deleted) {
            Ok(_) => Ok(()),
            Err(e) => Err(failure(
                &format!("cannot delete ConfigMap {NAMESPACE}/{name}"),
                e,
            )),
        }
    }

    /// All members of a set: objects of these kinds with its label.
    pub(super) async fn members<'a>(
        &self,
        id: &str,
        kinds: impl IntoIterator<Item = &'a GroupKind>,
    ) -> Result<Vec<Member>, Failure> {
        let mut members = Vec::new();
        for kind in kinds {
            // Of a kind that is gone there are no objects.
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
            // Its definition may have gone since.
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

    /// Whether a kind is there by a definition.
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

/// The parents of all addons; those that are none of ours are left out.
pub(super) async fn parents(client: Client) -> kube::Result<Vec<Parent>> {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let found = api.list(&ListParams::default().labels(ADDON)).await?;
    let parents = found.items.iter().filter_map(|o| Parent::read(o).ok());
    Ok(parents.collect())
}

async fn discover(client: &Client) -> Result<Discovery, Failure> {
    let found = Discovery::new(client.clone()).run_aggregated().await;
    found.map_err(|e| failure("cannot ask which kinds the cluster has", e))
}
