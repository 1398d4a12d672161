//! Definitions: built-in types from the schema blob, lists, custom resources.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::gvk::GroupVersionKind;
use crate::registry::{self, Resource};
use crate::schema::blob::{self, DefRecord, Descriptions};
use crate::schema::{Kind, PatchStrategy, Type, TypeRef};

use super::facts;
use super::names::capitalize;
use super::simplify::{simplify, truth};
use super::types::{Custom, Dialect};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The definitions that a document refers to, collected while it is written.
pub(super) struct Schemas<'a> {
    dialect: Dialect,
    group_versions: Vec<(&'a str, &'a str)>,
    /// Built-in definitions that are referenced and not written yet.
    wanted: BTreeSet<&'static str>,
    done: BTreeMap<String, Value>,
    descriptions: Vec<Descriptions>,
}

fn gvk_value(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Returns the definition name of a custom resource's kind, with the group reversed.
pub(super) fn custom_name(resource: &Resource, kind: &str) -> String {
    let mut parts: Vec<&str> = resource.group.rsplit('.').collect();
    parts.push(&resource.version);
    parts.push(kind);
    parts.join(".")
}

/// Returns the definition name of a resource's objects.
pub(super) fn definition_name(resource: &Resource) -> String {
    if resource.definition.is_empty() {
        custom_name(resource, &resource.kind)
    } else {
        resource.definition.to_string()
    }
}

/// Returns the definition name of a resource's lists.
fn list_definition_name(resource: &Resource) -> String {
    let own = definition_name(resource);
    let package = own.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", resource.list_kind)
}

/// Returns the definition name of the built-in kind that a subresource takes, if it
/// has one.
pub(super) fn definition_of_kind(kind: &GroupVersionKind) -> Option<&'static str> {
    if let Some(row) = registry::find_kind(&kind.group, &kind.version, &kind.kind) {
        return Some(&row.definition);
    }
    Some(match (kind.group.as_str(), kind.kind.as_str()) {
        ("autoscaling", "Scale") => "io.k8s.api.autoscaling.v1.Scale",
        ("policy", "Eviction") => "io.k8s.api.policy.v1.Eviction",
        ("authentication.k8s.io", "TokenRequest") => "io.k8s.api.authentication.v1.TokenRequest",
        _ => return None,
    })
}

impl<'a> Schemas<'a> {
    /// Creates an empty collection for the document of these group versions.
    pub fn new(dialect: Dialect, group_versions: &[(&'a str, &'a str)]) -> Self {
        Self {
            dialect,
            group_versions: group_versions.to_vec(),
            wanted: BTreeSet::new(),
            done: BTreeMap::new(),
            descriptions: Vec::new(),
        }
    }

    /// Returns a reference to a built-in definition and adds it to the document.
    pub fn builtin(&mut self, name: &str) -> Value {
        if let Some(index) = blob::find_def(name) {
            let name = blob::def(index).name;
            if !self.done.contains_key(name) {
                self.wanted.insert(name);
            }
        }
        self.dialect.reference(name)
    }

    /// Returns a reference to a type of the meta group.
    pub fn meta(&mut self, kind: &str) -> Value {
        self.builtin(&format!("{META}{kind}"))
    }

    /// Returns a reference to a resource's objects.
    pub fn object(&mut self, resource: &Resource) -> Value {
        if resource.definition.is_empty() {
            self.dialect.reference(&definition_name(resource))
        } else {
            self.builtin(&resource.definition)
        }
    }

    /// Returns a reference to a resource's lists.
    pub fn list(&mut self, resource: &Resource) -> Value {
        let name = list_definition_name(resource);
        if !self.done.contains_key(&name) {
            let item = self.object(resource);
            let list_meta = self.meta("ListMeta");
            let list_meta = self.described(list_meta, "Standard list metadata.");
            let plural = format!("List of {}.", resource.plural);
            let list = json!({
                "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"description": "The version of this representation.", "type": "string"},
                    "items": {"description": plural, "type": "array", "items": item},
                    "kind": {"description": "The kind of this representation.", "type": "string"},
                    "metadata": list_meta,
                },
                "x-kubernetes-group-version-kind":
                    [gvk_value(&resource.group, &resource.version, &resource.list_kind)],
            });
            self.done.insert(name.clone(), list);
        }
        self.dialect.reference(&name)
    }

    /// Adds a description to a reference. Version 3 allows no siblings of `$ref`.
    fn described(&self, reference: Value, description: &str) -> Value {
        match self.dialect {
            Dialect::V2 => {
                let mut reference = reference;
                crate::meta::map_mut(&mut reference)
                    .insert("description".into(), description.into());
                reference
            }
            Dialect::V3 => json!({"allOf": [reference], "description": description, "default": {}}),
        }
    }

    /// Returns the properties `apiVersion`, `kind` and `metadata` of every object.
    fn object_properties(&mut self) -> [(&'static str, Value); 3] {
        let metadata = self.meta("ObjectMeta");
        let (version, kind, meta) = match blob::find_def("io.k8s.api.core.v1.Pod") {
            Some(index) => {
                let pod = blob::def(index);
                let text = |this: &mut Self, name: &str| {
                    let at = (0..pod.count).find(|i| pod.field(*i).name == name);
                    at.map_or_else(String::new, |i| {
                        this.with_descriptions(&pod, |d| d.field(&pod, i).to_owned())
                    })
                };
                (
                    text(self, "apiVersion"),
                    text(self, "kind"),
                    text(self, "metadata"),
                )
            }
            None => Default::default(),
        };
        [
            (
                "apiVersion",
                json!({"description": version, "type": "string"}),
            ),
            ("kind", json!({"description": kind, "type": "string"})),
            ("metadata", self.described(metadata, &meta)),
        ]
    }

    /// Adds kind and metadata to the objects within an object
    /// (`x-kubernetes-embedded-resource`).
    fn add_embedded(&mut self, schema: &mut Value) {
        let Value::Object(map) = schema else { return };
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            properties.values_mut().for_each(|p| self.add_embedded(p));
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get_mut(key) {
                self.add_embedded(inner);
            }
        }
        let embedded = truth(map, "x-kubernetes-embedded-resource");
        // Clients reject unknown fields where known ones are listed.
        let open =
            self.dialect == Dialect::V2 && truth(map, "x-kubernetes-preserve-unknown-fields");
        if !embedded || open {
            return;
        }
        let properties = crate::meta::child_map(map, "properties");
        for (name, property) in self.object_properties() {
            properties.insert(name.into(), property);
        }
        let required = map
            .entry("required")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(required) = required {
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|r| r == name) {
                    required.push(name.into());
                }
            }
        }
    }

    /// Adds a custom resource's definition.
    pub fn add_custom(&mut self, custom: &Custom<'_>) {
        let resource = custom.resource;
        let v2 = self.dialect == Dialect::V2;
        let mut schema = custom.schema.clone();
        let root = crate::meta::map_mut(&mut schema);
        let open = truth(root, "x-kubernetes-preserve-unknown-fields");
        if v2 && open {
            // Clients reject fields that are not listed, so none are.
            schema = json!({"type": "object"});
        } else {
            if v2 {
                simplify(&mut schema);
            }
            let own = self.object_properties();
            let root = crate::meta::map_mut(&mut schema);
            let properties = crate::meta::child_map(root, "properties");
            for (name, property) in own {
                properties.insert(name.into(), property);
            }
            self.add_embedded(&mut schema);
        }
        let root = crate::meta::map_mut(&mut schema);
        root.insert(
            "x-kubernetes-group-version-kind".into(),
            json!([gvk_value(
                &resource.group,
                &resource.version,
                &resource.kind
            )]),
        );
        self.done.insert(definition_name(resource), schema);
    }

    /// Returns all definitions, with everything that they refer to.
    pub fn finish(mut self) -> Value {
        while let Some(name) = self.wanted.pop_first() {
            let Some(index) = blob::find_def(name) else {
                continue;
            };
            let schema = self.definition(&blob::def(index));
            self.done.insert(name.to_owned(), schema);
        }
        Value::Object(self.done.into_iter().collect())
    }

    fn with_descriptions<T>(&mut self, def: &DefRecord, read: impl Fn(&Descriptions) -> T) -> T {
        let at = match self.descriptions.iter().position(|d| d.covers(def)) {
            Some(at) => at,
            None => {
                self.descriptions.push(Descriptions::read(def));
                self.descriptions.len() - 1
            }
        };
        read(&self.descriptions[at])
    }

    fn definition(&mut self, def: &DefRecord) -> Value {
        let mut out = Map::new();
        let description = self.with_descriptions(def, |d| d.definition(def).to_owned());
        if !description.is_empty() {
            out.insert("description".into(), description.into());
        }
        let ty = Type::Builtin(TypeRef::from_index(def.ty));
        match ty.kind() {
            Kind::Object => {
                out.insert("type".into(), "object".into());
                self.properties(def, &mut out);
                if ty.is_atomic_map() {
                    out.insert("x-kubernetes-map-type".into(), "atomic".into());
                }
            }
            Kind::Quantity => match self.dialect {
                Dialect::V2 => {
                    out.insert("type".into(), "string".into());
                }
                Dialect::V3 => {
                    out.insert(
                        "oneOf".into(),
                        json!([{"type": "string"}, {"type": "number"}]),
                    );
                }
            },
            Kind::IntOrString => {
                out.insert("format".into(), "int-or-string".into());
                match self.dialect {
                    Dialect::V2 => out.insert("type".into(), "string".into()),
                    Dialect::V3 => out.insert(
                        "oneOf".into(),
                        json!([{"type": "integer"}, {"type": "string"}]),
                    ),
                };
            }
            Kind::Time | Kind::MicroTime => {
                out.insert("type".into(), "string".into());
                out.insert("format".into(), "date-time".into());
            }
            // A definition of any value has no type; the rest are objects without known
            // fields.
            Kind::SchemaOr => {}
            _ if def.name.ends_with(".JSON") => {}
            _ => {
                out.insert("type".into(), "object".into());
            }
        }
        if let Some(gvks) = self.gvks(def.name) {
            out.insert("x-kubernetes-group-version-kind".into(), gvks);
        }
        if let Some((_, discriminator, fields)) = UNIONS.iter().find(|(d, ..)| *d == def.name) {
            out.insert("x-kubernetes-unions".into(), union(discriminator, fields));
        }
        Value::Object(out)
    }

    fn properties(&mut self, def: &DefRecord, out: &mut Map<String, Value>) {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for i in 0..def.count {
            let field = def.field(i);
            let description = self.with_descriptions(def, |d| d.field(def, i).to_owned());
            let ty = TypeRef::from_index(field.ty);
            let mut schema = match self.type_schema(ty) {
                Value::Object(schema) => schema,
                other => Map::from_iter([("default".to_owned(), other)]),
            };
            let default = default_of(&field, ty).filter(|_| self.dialect == Dialect::V3);
            // Version 3 allows no siblings of a reference.
            if self.dialect == Dialect::V3
                && (!description.is_empty() || default.is_some())
                && let Some(reference) = schema.remove("$ref")
            {
                schema.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            if !description.is_empty() {
                schema.insert("description".into(), description.into());
            }
            if let Some(default) = default {
                schema.insert("default".into(), default);
            }
            // Bytes are a string in JSON, but upstream publishes the marker of a list.
            if (def.name, field.name) == LISTED_BYTES {
                schema.insert("x-kubernetes-list-type".into(), "atomic".into());
            }
            if field.required {
                required.push(Value::from(field.name));
            }
            properties.insert(field.name.to_owned(), Value::Object(schema));
        }
        facts::complete(def.name, &mut properties, &mut required);
        if !properties.is_empty() {
            out.insert("properties".into(), Value::Object(properties));
        }
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
    }

    /// Returns the schema of a use of a type.
    fn type_schema(&mut self, ty: TypeRef) -> Value {
        let view = Type::Builtin(ty);
        let mut out = Map::new();
        let inner = |this: &mut Self| match view.element() {
            Some(Type::Builtin(element)) => this.type_schema(element),
            _ => json!({}),
        };
        match view.kind() {
            Kind::Array => {
                out.insert("type".into(), "array".into());
                out.insert("items".into(), inner(self));
                list_facts(ty, &mut out);
            }
            Kind::Map => {
                out.insert("type".into(), "object".into());
                out.insert("additionalProperties".into(), inner(self));
            }
            Kind::Boolean => {
                out.insert("type".into(), "boolean".into());
            }
            kind @ (Kind::String | Kind::Bytes | Kind::Integer | Kind::Number) => {
                let name = match kind {
                    Kind::Integer => "integer",
                    Kind::Number => "number",
                    _ => "string",
                };
                out.insert("type".into(), name.into());
                if let Some(format) = ty.format() {
                    out.insert("format".into(), format.into());
                }
            }
            _ => match ty.definition_name() {
                Some(name) => {
                    if let Value::Object(reference) = self.builtin(name) {
                        out.extend(reference);
                    }
                }
                None => {
                    out.insert("type".into(), "object".into());
                }
            },
        }
        if matches!(view.kind(), Kind::Object | Kind::Map) {
            if let Some(map_type) = ty.own_map_type() {
                out.insert("x-kubernetes-map-type".into(), map_type.into());
            }
            patch_facts(view.patch_strategy(), None, &mut out);
        }
        Value::Object(out)
    }

    fn gvks(&self, name: &str) -> Option<Value> {
        if let Some(meta) = name.strip_prefix(META) {
            return match meta {
                // These belong to every group version.
                "DeleteOptions" | "WatchEvent" => {
                    let others = self.group_versions.iter().filter(|gv| **gv != ("", "v1"));
                    let all = std::iter::once(&("", "v1")).chain(others);
                    Some(
                        all.map(|(group, version)| gvk_value(group, version, meta))
                            .collect(),
                    )
                }
                "APIGroup" | "APIGroupList" | "APIResourceList" | "APIVersions" | "Status" => {
                    Some(json!([gvk_value("", "v1", meta)]))
                }
                _ => None,
            };
        }
        let own = registry::builtin()
            .iter()
            .find(|r| r.definition == name)
            .map(Resource::gvk);
        let own = own.or_else(|| {
            let (group, version, kind) = match name {
                "io.k8s.api.autoscaling.v1.Scale" => ("autoscaling", "v1", "Scale"),
                "io.k8s.api.policy.v1.Eviction" => ("policy", "v1", "Eviction"),
                "io.k8s.api.authentication.v1.TokenRequest" => {
                    ("authentication.k8s.io", "v1", "TokenRequest")
                }
                _ => return None,
            };
            Some(GroupVersionKind::new(group, version, kind))
        })?;
        Some(json!([gvk_value(&own.group, &own.version, &own.kind)]))
    }
}

/// Returns the default that a field publishes: that of its type, the empty struct
/// that Go holds by value, or the zero of a scalar that is always encoded.
fn default_of(field: &blob::FieldRecord, ty: TypeRef) -> Option<Value> {
    if let Some(default) = field.default {
        return serde_json::from_str(default).ok();
    }
    if field.embedded {
        return Some(json!({}));
    }
    if !field.always || field.null_when_unset {
        return None;
    }
    match Type::Builtin(ty).kind() {
        Kind::String => Some("".into()),
        Kind::Integer => Some(0.into()),
        Kind::Boolean => Some(false.into()),
        _ => None,
    }
}

fn list_facts(ty: TypeRef, out: &mut Map<String, Value>) {
    use crate::schema::ListType;
    let view = Type::Builtin(ty);
    let Some(list) = ty.list() else { return };
    let name = match view.list_type() {
        ListType::Set => "set",
        ListType::Map => "map",
        ListType::Atomic => "atomic",
    };
    if !list.is_unset() {
        out.insert("x-kubernetes-list-type".into(), name.into());
    }
    let keys = view.list_map_keys();
    if !keys.is_empty() {
        out.insert("x-kubernetes-list-map-keys".into(), keys.into());
    }
    patch_facts(view.patch_strategy(), view.merge_key(), out);
}

fn patch_facts(strategy: PatchStrategy, merge_key: Option<&str>, out: &mut Map<String, Value>) {
    let names: Vec<&str> = [
        (strategy.merge, "merge"),
        (strategy.replace, "replace"),
        (strategy.retain_keys, "retainKeys"),
    ]
    .into_iter()
    .filter_map(|(on, name)| on.then_some(name))
    .collect();
    if !names.is_empty() {
        out.insert("x-kubernetes-patch-strategy".into(), names.join(",").into());
    }
    if let Some(key) = merge_key {
        out.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
}

/// The only field of bytes that upstream marks as a list.
const LISTED_BYTES: (&str, &str) = (
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec",
    "caBundle",
);

/// Definitions of which at most one field is set: definition, discriminator (or empty),
/// fields.
const UNIONS: [(&str, &str, &[&str]); 6] = [
    (
        "io.k8s.api.core.v1.AppArmorProfile",
        "type",
        &["localhostProfile"],
    ),
    (
        "io.k8s.api.core.v1.PodSchedulingGroup",
        "",
        &["podGroupName"],
    ),
    (
        "io.k8s.api.core.v1.SeccompProfile",
        "type",
        &["localhostProfile"],
    ),
    (
        "io.k8s.api.flowcontrol.v1.LimitResponse",
        "type",
        &["queuing"],
    ),
    (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &["exempt", "limited"],
    ),
    (
        "io.k8s.api.flowcontrol.v1.Subject",
        "kind",
        &["group", "serviceAccount", "user"],
    ),
];

/// Returns the value of `x-kubernetes-unions`. The discriminator's values are the
/// fields' Go names.
fn union(discriminator: &str, fields: &[&str]) -> Value {
    let by: Map<String, Value> = fields
        .iter()
        .map(|field| ((*field).to_owned(), capitalize(field).into()))
        .collect();
    let mut union = json!({"fields-to-discriminateBy": by});
    if !discriminator.is_empty() {
        crate::meta::map_mut(&mut union).insert("discriminator".into(), discriminator.into());
    }
    json!([union])
}
