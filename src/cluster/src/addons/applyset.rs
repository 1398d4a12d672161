//! Which objects are an addon's, by upstream's ApplySet specification (KEP-3659):
//! members have a label with the parent's identity, the parent tells which kinds
//! and namespaces to look for them in.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::description::Addon;
use super::objects::GroupKind;

/// The namespace of all parents.
pub(super) const NAMESPACE: &str = "kube-system";
/// What parents' names begin with.
const PREFIX: &str = "rkube-addon-";
/// On a parent: its identity.
pub(super) const ID: &str = "applyset.kubernetes.io/id";
/// On a member: the parent's identity.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// On a parent: who changes the set.
const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// On a parent: the kinds of its members.
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// On a parent: its members' namespaces, without its own.
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// On a parent, rkube's own: finds the parents of all addons.
pub(super) const ADDON: &str = "rkube.dev/addon";
/// This tool, as the specification wants it written.
const THIS: &str = concat!("rkube/v", env!("CARGO_PKG_VERSION"));

/// The parent's name.
pub(super) fn parent_name(addon: &str) -> String {
    format!("{PREFIX}{addon}")
}

/// The identity of the set with this parent.
pub(super) fn id(addon: &str) -> String {
    let key = format!("{}.{NAMESPACE}.ConfigMap.", parent_name(addon));
    let hash = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(hash))
}

/// How far an addon's last change got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Begun, and not ended.
    Changing,
    /// Everything is there.
    Enabled,
}

/// Where members of a set may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    pub kinds: BTreeSet<GroupKind>,
    /// With the parent's own.
    pub namespaces: BTreeSet<String>,
}

impl Scope {
    /// Both together.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self {
            kinds: self.kinds.union(&other.kinds).cloned().collect(),
            namespaces: self.namespaces.union(&other.namespaces).cloned().collect(),
        }
    }
}

/// A parent as it is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub name: String,
    pub description: String,
    pub version: String,
    pub homepage: String,
    pub origin: String,
    pub state: State,
    pub scope: Scope,
}

impl Parent {
    /// The parent of an addon that is about to be, or is.
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

    /// The object to apply.
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

    /// Reads a parent; the error says why the object is none of ours.
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

/// What to do with an object of an addon that may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Apply it as a member.
    Take,
    /// It is somebody's, needed and left as it is.
    Leave,
    /// It is somebody's, and would be changed.
    Refuse,
}

/// Who may have what. `present` are the labels of what is there, if something is.
///
/// Nothing that the addon did not make becomes a member, since members are deleted
/// with it. A namespace is shared by nature, so one that was there is left to its
/// owner; anything else would be overwritten, and is refused. In a namespace of the
/// addon's own (`at_home`) everything is its own, such as the service account that
/// the control plane has just made there.
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
    fn a_parent_is_what_was_written() {
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
    fn only_what_the_addon_made_is_its_own() {
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
