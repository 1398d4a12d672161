//! The objects of an addon as an ApplySet (KEP-3659).
//!
//! Members have a label with the identity of their parent. The parent lists the kinds and namespaces
//! of its members.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::description::Addon;
use super::objects::GroupKind;

/// The namespace of all parents.
pub(super) const NAMESPACE: &str = "kube-system";
/// Prefix of parents' names.
const PREFIX: &str = "rkube-addon-";
/// Label of a parent: its identity.
pub(super) const ID: &str = "applyset.kubernetes.io/id";
/// Label of a member: its parent's identity.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// Annotation of a parent: the tool that manages the set.
const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// Annotation of a parent: the kinds of its members.
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// Annotation of a parent: the namespaces of its members, except its own.
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// Label of a parent, specific to rkube, by which all addons are found.
pub(super) const ADDON: &str = "rkube.dev/addon";
/// This tool, in the notation of the specification.
const THIS: &str = concat!("rkube/v", env!("CARGO_PKG_VERSION"));

/// Returns the name of an addon's parent.
pub(super) fn parent_name(addon: &str) -> String {
    format!("{PREFIX}{addon}")
}

/// Returns the identity of an addon's set.
pub(super) fn id(addon: &str) -> String {
    let key = format!("{}.{NAMESPACE}.ConfigMap.", parent_name(addon));
    let hash = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(hash))
}

/// The progress of an addon's last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The change has begun and is not complete.
    Changing,
    /// All objects are applied.
    Enabled,
}

/// The kinds and namespaces that the members of a set can have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The kinds of the members.
    pub kinds: BTreeSet<GroupKind>,
    /// The namespaces of the members, which can include the parent's.
    pub namespaces: BTreeSet<String>,
}

impl Scope {
    /// Returns the union of both scopes.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self {
            kinds: self.kinds.union(&other.kinds).cloned().collect(),
            namespaces: self.namespaces.union(&other.namespaces).cloned().collect(),
        }
    }
}

/// The parent of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// The addon's name.
    pub name: String,
    /// The addon's description.
    pub description: String,
    /// The version that was applied last.
    pub version: String,
    /// The addon's homepage.
    pub homepage: String,
    /// The addon's source: `built-in` or a directory.
    pub origin: String,
    /// The progress of the last change.
    pub state: State,
    /// The kinds and namespaces of the members.
    pub scope: Scope,
}

impl Parent {
    /// Creates the parent of an addon that is enabled or about to be.
    pub(super) fn new(addon: &Addon, state: State, scope: Scope) -> Self {
        Self {
            name: addon.name.clone(),
            description: addon.description.clone(),
            version: addon.version.clone(),
            homepage: addon.homepage.clone(),
            origin: addon.origin.to_string(),
            state,
            scope,
        }
    }

    /// Returns the ConfigMap to apply.
    pub(super) fn to_object(&self) -> Value {
        let join = |texts: Vec<String>| texts.join(",");
        let kinds = self.scope.kinds.iter().map(GroupKind::to_string).collect();
        let elsewhere = self.scope.namespaces.iter().filter(|n| *n != NAMESPACE);
        let state = match self.state {
            State::Changing => "changing",
            State::Enabled => "enabled",
        };
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": parent_name(&self.name),
                "namespace": NAMESPACE,
                "labels": { ID: id(&self.name), ADDON: self.name },
                "annotations": {
                    TOOLING: THIS,
                    KINDS: join(kinds),
                    NAMESPACES: join(elsewhere.cloned().collect()),
                },
            },
            "data": {
                "description": self.description,
                "version": self.version,
                "homepage": self.homepage,
                "source": self.origin,
                "state": state,
            },
        })
    }

    /// Reads a parent. The error is the reason why it does not belong to rkube.
    pub(super) fn read(object: &ConfigMap) -> Result<Self, String> {
        let map = |map: &Option<BTreeMap<String, String>>, key: &str| {
            let value = map.as_ref().and_then(|m| m.get(key));
            value.cloned().unwrap_or_default()
        };
        let meta = &object.metadata;
        let label = |key: &str| map(&meta.labels, key);
        let annotation = |key: &str| map(&meta.annotations, key);
        let data = |key: &str| map(&object.data, key);
        let name = label(ADDON);
        if name.is_empty() || label(ID) != id(&name) {
            return Err("it was not created by rkube addons".into());
        }
        let tooling = annotation(TOOLING);
        if !tooling.starts_with("rkube/") {
            return Err(format!("'{tooling}' has taken it over"));
        }
        let list = |text: String| -> Vec<String> {
            let parts = text.split(',').map(str::trim);
            parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
        };
        let kinds = list(annotation(KINDS));
        let elsewhere = list(annotation(NAMESPACES));
        Ok(Self {
            description: data("description"),
            version: data("version"),
            homepage: data("homepage"),
            origin: data("source"),
            state: match data("state").as_str() {
                "enabled" => State::Enabled,
                _ => State::Changing,
            },
            scope: Scope {
                kinds: kinds.iter().map(|k| GroupKind::parse(k)).collect(),
                namespaces: elsewhere
                    .into_iter()
                    .chain([NAMESPACE.to_owned()])
                    .collect(),
            },
            name,
        })
    }
}

/// The way to proceed with an object of an addon that may already exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Apply it as a member of the set.
    Take,
    /// It has another owner and is left unchanged.
    Leave,
    /// It has another owner and would be overwritten: a conflict.
    Refuse,
}

/// Decides how to proceed with an object. `present` are its labels, if it exists.
///
/// Objects that the addon did not create never become members, since members are deleted with the
/// addon. Existing namespaces are shared and left to their owners. Any other object would be
/// overwritten, which is refused. In a namespace that belongs to the set (`at_home`), objects
/// without an owner are taken over. An example is the service account that the control plane
/// creates there.
pub(super) fn claim(
    id: &str,
    present: Option<&BTreeMap<String, String>>,
    namespace: bool,
    at_home: bool,
) -> Claim {
    let Some(labels) = present else {
        return Claim::Take;
    };
    match labels.get(PART_OF) {
        Some(owner) if owner == id => Claim::Take,
        _ if namespace => Claim::Leave,
        None if at_home => Claim::Take,
        _ => Claim::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::super::description::Origin;
    use super::*;

    fn addon() -> Addon {
        Addon {
            name: "demo".into(),
            description: "A demo".into(),
            version: "v1".into(),
            homepage: "https://example.com".into(),
            namespace: None,
            manifests: Vec::new(),
            origin: Origin::BuiltIn(&[]),
        }
    }

    #[test]
    fn identities_are_the_specifications() {
        // printf rkube-addon-demo.kube-system.ConfigMap. | openssl dgst -sha256 -binary | basenc --base64url
        assert_eq!(
            id("demo"),
            "applyset-pMNOmrJS7q7hDZ81SsuNWUE3qTPM1ktpShnE5KgzUNY-v1"
        );
        // A label's value has 63 characters at most.
        assert!(rkube_api::names::label_value(&id("demo")).is_empty());
    }

    #[test]
    fn a_parent_is_read_as_it_was_written() {
        let scope = Scope {
            kinds: ["Service", "Deployment.apps", "Thing.example.com"]
                .map(GroupKind::parse)
                .into(),
            namespaces: ["b", "a", NAMESPACE].map(str::to_owned).into(),
        };
        let parent = Parent::new(&addon(), State::Enabled, scope);
        let object = parent.to_object();
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(
            annotations[KINDS],
            "Deployment.apps,Service,Thing.example.com"
        );
        assert_eq!(annotations[NAMESPACES], "a,b");
        let mut object: ConfigMap = serde_json::from_value(object).unwrap();
        assert_eq!(Parent::read(&object), Ok(parent));
        let annotations = object.metadata.annotations.as_mut().unwrap();
        annotations.insert(TOOLING.into(), "kubectl/v1.36.0".into());
        assert!(Parent::read(&object).unwrap_err().contains("kubectl"));
        object.metadata.labels.as_mut().unwrap().remove(ID);
        assert!(
            Parent::read(&object)
                .unwrap_err()
                .contains("not created by")
        );
    }

    #[test]
    fn only_objects_of_the_addon_are_its_own() {
        let labels = |owner: &str| BTreeMap::from([(PART_OF.to_owned(), owner.to_owned())]);
        let none = BTreeMap::new();
        let (ours, theirs) = (labels("me"), labels("other"));
        let claim = |present, namespace, home| claim("me", present, namespace, home);
        assert_eq!(claim(None, false, false), Claim::Take);
        assert_eq!(claim(None, true, false), Claim::Take);
        assert_eq!(claim(Some(&ours), false, false), Claim::Take);
        assert_eq!(claim(Some(&ours), true, false), Claim::Take);
        assert_eq!(claim(Some(&none), true, false), Claim::Leave);
        assert_eq!(claim(Some(&theirs), true, false), Claim::Leave);
        assert_eq!(claim(Some(&none), false, false), Claim::Refuse);
        assert_eq!(claim(Some(&none), false, true), Claim::Take);
        assert_eq!(claim(Some(&theirs), false, true), Claim::Refuse);
    }
}
