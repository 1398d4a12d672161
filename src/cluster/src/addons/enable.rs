//! Applies an addon's objects and removes those that are no longer part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::Client;
use kube::core::GroupVersionKind;
use rkube_failure::{Failure, Kind, Source};
use serde_json::{Value, json};

use super::applyset::{self, Claim, PART_OF, Parent, Scope, State};
use super::description::{Addon, Origin};
use super::objects::{self, Object};
use super::server::{Server, failure, title};
use super::{fetch, ingress, remove};
use crate::Progress;

/// The time that the server may take to serve the kinds of new definitions.
const DEFINITION_TIMEOUT: Duration = Duration::from_secs(30);
/// The period of the checks of that.
const CHECK_PERIOD: Duration = Duration::from_millis(50);

/// Enables an addon or updates it. Can be repeated after a failure.
pub(super) async fn enable(
    client: Client,
    addon: &Addon,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let name = &addon.name;
    if addon.needs_network() {
        let message = format!("Downloading {name} {}", addon.version);
        progress.step("download", &message);
    }
    let mut objects = objects::read(&fetch::manifests(addon).await?)?;
    add_namespace(addon, &mut objects);

    let mut server = Server::new(client).await?;
    place(&server, addon, &mut objects)?;
    ingress::keep_default(&server, &mut objects, progress).await?;
    let count = objects.len();
    progress.step("apply", &format!("Applying {count} objects of {name}"));
    // First, so that an addon that is only partly applied can be disabled.
    let scope = scope_of(&objects);
    let before = server.parent(name).await?;
    let before = before.map(|(parent, _)| parent.scope).unwrap_or_default();
    let wide = scope.union(&before);
    let parent = |state, scope| Parent::new(addon, state, scope);
    server
        .write_parent(&parent(State::Changing, wide.clone()))
        .await?;

    let mut set = Set {
        id: applyset::id(name),
        home: BTreeSet::new(),
        applied: BTreeSet::new(),
    };
    let steps = objects::in_order(objects);
    for object in steps.namespaces.iter().chain(&steps.definitions) {
        set.apply(&server, object).await?;
    }
    if !steps.definitions.is_empty() {
        let count = steps.definitions.len();
        progress.step("definitions", &format!("Waiting for {count} definitions"));
        wait_for_definitions(&mut server, &steps.definitions, &steps.rest).await?;
        progress.step("apply", &format!("Applying the other objects of {name}"));
    }
    for object in &steps.rest {
        set.apply(&server, object).await?;
    }

    let mut surplus = server.members(&set.id, &wide.kinds).await?;
    surplus.retain(|member| !set.applied.contains(&member.uid));
    if !surplus.is_empty() {
        let count = surplus.len();
        progress.step(
            "prune",
            &format!("Removing {count} objects that {name} no longer has"),
        );
        let retry = format!("enable '{name}' again");
        remove::members(&server, surplus, &retry).await?;
    }
    if is_ingress(addon) {
        progress.step("wait", "Waiting for the ingress controller");
        ingress::wait(&server).await?;
    }
    server.write_parent(&parent(State::Enabled, scope)).await?;
    Ok(())
}

/// Whether an addon is the one whose controller is part of the binary.
fn is_ingress(addon: &Addon) -> bool {
    addon.name == ingress::ADDON && matches!(addon.origin, Origin::BuiltIn(_))
}

/// Adds the addon's namespace unless the manifests contain it.
fn add_namespace(addon: &Addon, objects: &mut Vec<Object>) {
    let Some(name) = &addon.namespace else {
        return;
    };
    if objects.iter().any(|o| o.is_namespace() && o.name == *name) {
        return;
    }
    objects.push(Object {
        gvk: GroupVersionKind::gvk("", "v1", "Namespace"),
        name: name.clone(),
        namespace: None,
        content: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
    });
}

/// Sets the namespace of each object and rejects unknown kinds, before anything is changed.
fn place(server: &Server, addon: &Addon, objects: &mut [Object]) -> Result<(), Failure> {
    let defined = objects::defined(objects);
    for object in objects {
        let known = server
            .resolve(&object.gvk)
            .map(|(_, namespaced)| namespaced);
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
            )
            .advise("it may come with another addon; enable that one first"));
        };
        object.namespace = namespaced.then(|| {
            let default = || addon.namespace.clone().unwrap_or_else(|| "default".into());
            object.namespace.take().unwrap_or_else(default)
        });
    }
    Ok(())
}

/// Returns the kinds and namespaces of the objects of a set.
fn scope_of(objects: &[Object]) -> Scope {
    Scope {
        kinds: objects.iter().map(Object::group_kind).collect(),
        namespaces: objects.iter().filter_map(|o| o.namespace.clone()).collect(),
    }
}

/// A set whose objects are being applied.
struct Set {
    id: String,
    /// Namespaces that belong to the set.
    home: BTreeSet<String>,
    /// UIDs of the objects that have been applied.
    applied: BTreeSet<String>,
}

impl Set {
    async fn apply(&mut self, server: &Server, object: &Object) -> Result<(), Failure> {
        let (kind, name) = (&object.gvk.kind, &object.name);
        let namespace = object.namespace.as_deref();
        let title = title(kind, namespace, name);
        let Some((resource, _)) = server.resolve(&object.gvk) else {
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::NotFound,
                format!("cannot apply {title}: its kind has gone"),
            ));
        };
        let present = server.labels(&resource, namespace, name).await;
        let present = present.map_err(|e| failure(&format!("cannot read {title}"), e))?;
        let at_home = namespace.is_some_and(|n| self.home.contains(n));
        match applyset::claim(&self.id, present.as_ref(), object.is_namespace(), at_home) {
            Claim::Leave => return Ok(()),
            Claim::Refuse => return Err(taken(&title, present.as_ref())),
            Claim::Take => {}
        }
        let content = prepared(object, &self.id);
        let uid = server.apply(&resource, namespace, name, &content).await?;
        if object.is_namespace() {
            self.home.insert(name.clone());
        }
        self.applied.insert(uid);
        Ok(())
    }
}

/// Returns the error for an object that must not be overwritten.
fn taken(title: &str, labels: Option<&BTreeMap<String, String>>) -> Failure {
    let owned = labels.is_some_and(|l| l.contains_key(PART_OF));
    let (whose, advice) = if owned {
        (
            "is part of another addon or set",
            "disable that addon first; kubectl get configmap,secret -A -l applyset.kubernetes.io/id shows the sets",
        )
    } else {
        (
            "already exists and was not created by this addon",
            "delete it if it is not needed, and enable the addon again",
        )
    };
    Failure::new(
        Source::ControlPlane,
        Kind::Conflict,
        format!("cannot apply {title}: it {whose}"),
    )
    .advise(advice)
}

/// Returns an object as it is sent: with its namespace and the label of its set.
fn prepared(object: &Object, id: &str) -> Value {
    let mut content = object.prepared();
    let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) else {
        return content;
    };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        // `labels:` without a value.
        *labels = json!({});
    }
    labels[PART_OF] = json!(id);
    content
}

/// Waits until the API server serves the kinds of new definitions.
pub async fn wait_for_definitions(
    server: &mut Server,
    definitions: &[Object],
    rest: &[Object],
) -> Result<(), Failure> {
    let deadline = Instant::now() + DEFINITION_TIMEOUT;
    for object in definitions {
        wait_until_established(server, object, deadline).await?;
    }
    loop {
        server.refresh().await?;
        let missing = rest.iter().find(|o| server.resolve(&o.gvk).is_none());
        let Some(missing) = missing else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let (kind, version) = (&missing.gvk.kind, missing.gvk.api_version());
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::Timeout,
                format!("the cluster does not come to serve the kind {kind} of {version}"),
            )
            .advise("see the status of its definition: kubectl get crd -o yaml"));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

async fn wait_until_established(
    server: &Server,
    object: &Object,
    deadline: Instant,
) -> Result<(), Failure> {
    let name = &object.name;
    let Some((resource, _)) = server.resolve(&object.gvk) else {
        return Ok(());
    };
    let api = server.api(&resource, None);
    loop {
        let present = api.get(name).await;
        let present =
            present.map_err(|e| failure(&format!("cannot read the definition {name}"), e))?;
        let refusal = match condition(&present.data, "NamesAccepted") {
            Some((false, message)) => Some(message),
            _ => None,
        };
        if let Some((true, _)) = condition(&present.data, "Established") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = refusal.unwrap_or_else(|| "the API server gave no reason".into());
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::Timeout,
                format!("the definition {name} does not take effect: {why}"),
            ));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Returns whether a condition is true, and its message; `None` if it is not set.
fn condition(data: &Value, name: &str) -> Option<(bool, String)> {
    let all = data.pointer("/status/conditions")?.as_array()?;
    let one = all.iter().find(|c| c["type"] == name)?;
    let message = one["message"].as_str().unwrap_or_default();
    Some((one["status"] == "True", message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::objects::{GroupKind, Text};
    use super::*;

    #[test]
    fn objects_are_sent_as_members() {
        let text = "
apiVersion: v1
kind: ConfigMap
metadata:
  name: a
  uid: x
  creationTimestamp: null
  labels:
data: {k: v}
";
        let mut objects = objects::read(&[Text {
            name: "x".into(),
            text: text.into(),
        }])
        .unwrap();
        objects[0].namespace = Some("here".into());
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "here", "labels": {PART_OF: "me"}},
            "data": {"k": "v"},
        });
        assert_eq!(prepared(&objects[0], "me"), expected);
        objects[0].namespace = None;
        assert_eq!(
            prepared(&objects[0], "me")["metadata"].get("namespace"),
            None
        );
        assert_eq!(
            scope_of(&objects).kinds,
            [GroupKind::parse("ConfigMap")].into()
        );
    }
}
