//! The served resources: built-in ones and custom ones.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rkube_api::fields;
use rkube_api::registry::{self, Resource as ResourceInfo};
use rkube_api::schema::{Structural, Type, TypeRef};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_printers as table;
use rkube_store::KeyValue;
use rkube_strategy::{Strategy, strategy_for};
use serde_json::Value;

use crate::apiextensions::version::CrdVersion;
use crate::apiextensions::versions::CrdVersions;
use crate::cache::{Cache, CachedObject, FieldExtractor, ResourceCache};
use crate::convert;
use crate::negotiate::MediaTypes;
use crate::usage::kinds;
use rkube_request::RequestInfo;

/// A resource in one served version, with everything that handlers need.
pub struct Resource {
    row: ResourceInfo,
    /// The resource's cache, shared by all its versions.
    pub cache: Arc<ResourceCache>,
    storage_version: convert::StorageVersion,
    prefix: Box<str>,
    media_types: MediaTypes,
    kind_data: ResourceKind,
}

enum ResourceKind {
    Builtin {
        ty: TypeRef,
        /// The type of the storage version.
        hub: TypeRef,
        strategy: &'static dyn Strategy,
    },
    Custom {
        custom: Arc<CrdVersion>,
        family: Arc<CrdVersions>,
    },
    /// A resource that is not stored and has no schema.
    Virtual,
    /// The usage of nodes or pods, which is computed when it is requested.
    Usage(Structural),
}

impl Deref for Resource {
    type Target = ResourceInfo;

    fn deref(&self) -> &ResourceInfo {
        &self.row
    }
}

impl Resource {
    fn builtin(row: &ResourceInfo, cache: &Cache) -> Self {
        let storage_version = convert::StorageVersion::of(row);
        let kind_data = match row.schema() {
            Some(ty) => ResourceKind::Builtin {
                ty,
                hub: registry::find(
                    &storage_version.group,
                    &storage_version.version,
                    &row.plural,
                )
                .and_then(ResourceInfo::schema)
                .unwrap_or(ty),
                strategy: strategy_for(&row.group, &row.kind),
            },
            None => ResourceKind::Virtual,
        };
        Self::new(row.clone(), storage_version, kind_data, cache)
    }

    /// Creates a custom resource in one version.
    pub fn custom(
        row: ResourceInfo,
        custom: Arc<CrdVersion>,
        family: Arc<CrdVersions>,
        cache: &Cache,
    ) -> Self {
        let storage_version = convert::StorageVersion::of(&row);
        Self::new(
            row,
            storage_version,
            ResourceKind::Custom { custom, family },
            cache,
        )
    }

    /// Creates a resource of the group `metrics.k8s.io`.
    fn usage(row: ResourceInfo, cache: &Cache) -> Self {
        let storage_version = convert::StorageVersion::of(&row);
        let kind_data = ResourceKind::Usage(Structural::root(kinds::schema(&row)));
        Self::new(row, storage_version, kind_data, cache)
    }

    fn new(
        row: ResourceInfo,
        storage_version: convert::StorageVersion,
        kind_data: ResourceKind,
        cache: &Cache,
    ) -> Self {
        let group = if storage_version.group.is_empty() {
            "core"
        } else {
            &storage_version.group
        };
        let typed = !matches!(
            kind_data,
            ResourceKind::Custom { .. } | ResourceKind::Usage(_)
        ) && rkube_api::protobuf::message(&row.api_version(), &row.kind).is_some();
        Self {
            cache: cache.resource(&storage_version.group, &row.plural),
            prefix: format!("/registry/{group}/{}/", row.plural).into(),
            media_types: if typed {
                MediaTypes::Builtin
            } else {
                MediaTypes::Custom
            },
            storage_version,
            kind_data,
            row,
        }
    }

    /// Returns the resource's registry entry.
    pub fn row(&self) -> &ResourceInfo {
        &self.row
    }

    /// Returns whether this resource has the given group and plural name.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.row.group == group && self.row.plural == plural
    }

    /// Returns the kind's strategy: defaults, validation and preparation of its objects.
    pub fn strategy(&self) -> &dyn Strategy {
        match &self.kind_data {
            ResourceKind::Builtin { strategy, .. } => *strategy,
            ResourceKind::Custom { custom, .. } => &**custom,
            ResourceKind::Virtual | ResourceKind::Usage(_) => &rkube_strategy::Generic,
        }
    }

    /// Returns the schema of the objects.
    pub fn schema(&self) -> Type<'_> {
        static ANYTHING: std::sync::LazyLock<Structural> =
            std::sync::LazyLock::new(Structural::anything);
        match &self.kind_data {
            ResourceKind::Builtin { ty, .. } => Type::Builtin(*ty),
            ResourceKind::Custom { custom, .. } => Type::Structural(custom.structural()),
            ResourceKind::Virtual => Type::Structural(&ANYTHING),
            ResourceKind::Usage(schema) => Type::Structural(schema),
        }
    }

    /// Returns the schema of the objects in the version of
    /// [`working_api_version`](Self::working_api_version).
    pub fn working_schema(&self) -> Type<'_> {
        match &self.kind_data {
            ResourceKind::Builtin { hub, .. } => Type::Builtin(*hub),
            _ => self.schema(),
        }
    }

    /// Brings a stored object into the form that Go's encoder gives it. Objects that earlier
    /// versions have stored may not be in it; a comparison would show changes that no
    /// client made.
    pub fn normalise(&self, object: &mut Object) {
        if let ResourceKind::Builtin { hub, .. } = &self.kind_data {
            // A value that does not fit its type stays as it is: an update can mend it.
            let _ = fields::check(*hub, object);
        }
    }

    /// Returns the CustomResourceDefinition's version, if this is a custom resource.
    pub fn crd_version(&self) -> Option<&Arc<CrdVersion>> {
        match &self.kind_data {
            ResourceKind::Custom { custom, .. } => Some(custom),
            _ => None,
        }
    }

    /// Returns the OpenAPI schema, if it is not one of the built-in definitions.
    pub fn openapi_schema(&self) -> Option<&Value> {
        match &self.kind_data {
            ResourceKind::Custom { custom, .. } => Some(custom.schema_value()),
            ResourceKind::Usage(_) => Some(kinds::schema(&self.row)),
            ResourceKind::Builtin { .. } | ResourceKind::Virtual => None,
        }
    }

    /// Returns all versions of the CustomResourceDefinition, if this is a custom resource.
    pub fn crd_versions(&self) -> Option<&Arc<CrdVersions>> {
        match &self.kind_data {
            ResourceKind::Custom { family, .. } => Some(family),
            _ => None,
        }
    }

    /// Returns the media types in which objects are available.
    pub fn media_types(&self) -> MediaTypes {
        self.media_types
    }

    /// Returns whether this version is the storage version.
    pub fn serves_storage_version(&self) -> bool {
        self.storage_version.group == self.row.group
            && self.storage_version.version == self.row.version
    }

    /// Returns the key prefix of the resource's objects in the store.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the key of an object in the store. `namespace` is ignored for cluster-scoped
    /// resources.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.prefix().to_owned();
        if self.row.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// Decodes a stored entry. Returns `None` if the key or the value is not of this resource.
    pub fn read(&self, kv: &KeyValue) -> Option<CachedObject> {
        let rest = kv.key.strip_prefix(self.prefix())?;
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        self.read_as(namespace, name, kv.mod_revision, &kv.value)
    }

    /// Decodes JSON of an object of this resource.
    pub fn read_as(
        &self,
        namespace: &str,
        name: &str,
        revision: u64,
        json: &Bytes,
    ) -> Option<CachedObject> {
        let extractor = self.extractor();
        CachedObject::new(namespace, name, revision, json, extractor.as_ref())
    }

    /// Returns the `apiVersion` of the hub version, in which objects are processed: the storage
    /// version for built-in kinds, the request's version for custom resources.
    pub fn working_api_version(&self) -> String {
        if self.crd_versions().is_some() {
            self.row.api_version()
        } else {
            self.storage_api_version()
        }
    }

    /// Converts an object from the hub version to this version. Custom resources are already in it.
    pub fn served(&self, mut object: Object) -> Result<Object, Status> {
        if self.serves_storage_version() || self.crd_versions().is_some() {
            return Ok(object);
        }
        convert::from_storage(&mut object, &self.row)?;
        // As in `normalise`: a client must be able to see what does not fit its type.
        let _ = fields::check(self.schema(), &mut object);
        Ok(object)
    }

    /// Converts an object of this version to the hub version. Custom resources are already in it.
    pub fn stored(&self, mut object: Object) -> Result<Object, Status> {
        if self.serves_storage_version() || self.crd_versions().is_some() {
            return Ok(object);
        }
        convert::to_storage(&mut object, &self.row, &self.storage_version)?;
        fields::check(self.working_schema(), &mut object)?;
        Ok(object)
    }

    /// Returns the `apiVersion` of the storage version.
    pub fn storage_api_version(&self) -> String {
        rkube_api::gvk::api_version(&self.storage_version.group, &self.storage_version.version)
    }

    /// Returns an error if `field` is not selectable.
    pub fn check_field(&self, field: &str) -> Result<(), Status> {
        if self.row.is_selectable(field) || self.stored_field(field).is_some() {
            return Ok(());
        }
        // Kinds without own selectable fields share upstream's default rule.
        let is_plain = self.row.selectable_fields.is_empty() && self.crd_version().is_none();
        Err(Status::bad_request(if is_plain {
            format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                rkube_api::text::quote(field)
            )
        } else {
            match &*self.row.kind {
                "Job" => format!(
                    "field label {} not supported for Job",
                    rkube_api::text::quote(field)
                ),
                "ResourceSlice" => format!(
                    "field label not supported for {}, Kind=ResourceSlice: {field}",
                    self.row.api_version()
                ),
                _ => format!("field label not supported: {field}"),
            }
        }))
    }

    /// Returns the selectable field of the storage version that a field of this version is another
    /// name of. Only pods and the events of `events.k8s.io` have such fields.
    pub fn stored_field(&self, field: &str) -> Option<String> {
        if self.is("", "pods") {
            return (field == "spec.host").then(|| "spec.nodeName".to_owned());
        }
        if !self.is("events.k8s.io", "events") {
            return None;
        }
        match field.strip_prefix("regarding.") {
            Some(rest) => Some(format!("involvedObject.{rest}")),
            None => (field == "reportingController").then(|| "reportingComponent".to_owned()),
        }
    }

    /// Returns the function that extracts selectable fields, if the resource has any.
    fn extractor(&self) -> Option<FieldExtractor> {
        let selectable = match self.crd_versions() {
            Some(family) => family.selectable(),
            None => &self.row.selectable_fields,
        };
        if selectable.is_empty() {
            return None;
        }
        let fields: Vec<Box<str>> = selectable.iter().map(|f| (**f).into()).collect();
        let read = move |strategy: &dyn Strategy, object: &Object| -> Vec<(Box<str>, Box<str>)> {
            fields
                .iter()
                .filter_map(|field| {
                    Some((field.clone(), strategy.field_value(object, field)?.into()))
                })
                .collect()
        };
        match &self.kind_data {
            ResourceKind::Builtin { strategy, .. } => {
                let strategy = *strategy;
                Some(Arc::new(move |object| read(strategy, object)))
            }
            ResourceKind::Custom { custom, .. } => {
                let custom = custom.clone();
                Some(Arc::new(move |object| read(&*custom, object)))
            }
            ResourceKind::Virtual | ResourceKind::Usage(_) => None,
        }
    }

    /// Returns the column definitions of the resource's table.
    pub fn columns(&self) -> Vec<Value> {
        match &self.kind_data {
            ResourceKind::Custom { custom, .. } => custom.columns(),
            ResourceKind::Usage(_) => kinds::columns(),
            _ => table::columns(&self.row.group, &self.row.kind)
                .iter()
                .map(|c| c.to_value())
                .collect(),
        }
    }

    /// Returns an object's cells in a table.
    pub fn cells(&self, object: &Object) -> Value {
        let now = jiff::Timestamp::now();
        match &self.kind_data {
            ResourceKind::Custom { custom, .. } => Value::Array(custom.cells(object, now)),
            ResourceKind::Usage(_) => kinds::cells(object),
            _ => Value::Array(table::cells(&self.row.group, &self.row.kind, object, now)),
        }
    }

    /// Returns the row conditions of an object in a table.
    pub fn row_conditions(&self, object: &Object) -> Vec<Value> {
        match &self.kind_data {
            ResourceKind::Custom { .. } | ResourceKind::Usage(_) => Vec::new(),
            _ => table::row_conditions(&self.row.group, &self.row.kind, object),
        }
    }

    /// Checks `apiVersion` and `kind` of an object against this resource, and sets them where they
    /// are missing.
    pub fn check_kind(&self, object: &mut Object) -> Result<(), Status> {
        let api_version = meta::api_version(object);
        let kind = meta::kind(object);
        if !kind.is_empty() && kind != self.row.kind
            || !api_version.is_empty() && api_version != self.row.api_version()
        {
            return Err(self.wrong_kind(api_version, kind));
        }
        meta::set_type(object, &self.row.api_version(), &self.row.kind);
        Ok(())
    }
}

/// All served resources at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// All resources in discovery order.
    pub all: Vec<Arc<Resource>>,
    by_path: HashMap<String, Arc<Resource>>,
    /// Built-in kinds that are served in several versions, by key prefix.
    several: HashMap<Box<str>, Arc<[Arc<Resource>]>>,
    /// Increases with every change; identifies the snapshot in document caches.
    pub generation: u64,
}

impl Snapshot {
    /// Returns a resource by group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(path(group, version, plural).as_str())
    }

    /// Returns whether a group has built-in resources.
    pub fn has_builtin(&self, group: &str) -> bool {
        let mut all = self.all.iter();
        all.any(|r| r.group == group && r.crd_version().is_none())
    }

    /// Returns all versions of a built-in kind; `None` if it has only one.
    pub fn versions(&self, resource: &Resource) -> Option<&Arc<[Arc<Resource>]>> {
        self.several.get(resource.prefix())
    }

    /// Returns a resource in its storage version, or in any served version if that one is not
    /// served.
    pub fn by_group(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let mut found = None;
        for resource in self.all.iter().filter(|r| r.is(group, plural)) {
            if resource.serves_storage_version() {
                return Some(resource);
            }
            found = Some(resource);
        }
        found
    }
}

fn path(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

/// The current [`Snapshot`], updated when CustomResourceDefinitions change.
pub struct Resources {
    builtin: Vec<Arc<Resource>>,
    now: RwLock<Arc<Snapshot>>,
}

impl Resources {
    /// Creates the built-in resources, with their objects in `cache`.
    pub fn new(cache: &Cache) -> Self {
        let builtin: Vec<Arc<Resource>> = registry::builtin()
            .iter()
            .map(|row| Resource::builtin(row, cache))
            .chain(
                kinds::rows()
                    .into_iter()
                    .map(|row| Resource::usage(row, cache)),
            )
            .map(Arc::new)
            .collect();
        for resource in builtin.iter().filter(|r| r.serves_storage_version()) {
            resource.cache.set_extractor(resource.extractor());
        }
        let resources = Self {
            builtin,
            now: RwLock::default(),
        };
        resources.set_custom(Vec::new());
        resources
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.now.read().clone()
    }

    /// Returns a resource by group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.now.read().find(group, version, plural).cloned()
    }

    /// Replaces all custom resources.
    pub fn set_custom(&self, custom: Vec<Resource>) {
        let custom: Vec<Arc<Resource>> = custom.into_iter().map(Arc::new).collect();
        for resource in &custom {
            resource.cache.set_extractor(resource.extractor());
        }
        let all: Vec<Arc<Resource>> = self.builtin.iter().cloned().chain(custom).collect();
        let by_path = all
            .iter()
            .map(|r| (path(&r.group, &r.version, &r.plural), r.clone()))
            .collect();
        let mut versions: HashMap<Box<str>, Vec<Arc<Resource>>> = HashMap::new();
        for resource in self.builtin.iter().filter(|r| r.is_stored()) {
            let of_kind = versions.entry(resource.prefix().into()).or_default();
            of_kind.push(resource.clone());
        }
        let several = versions
            .into_iter()
            .filter(|(_, of_kind)| of_kind.len() > 1)
            .map(|(prefix, of_kind)| (prefix, of_kind.into()))
            .collect();
        let mut now = self.now.write();
        let generation = now.generation + 1;
        *now = Arc::new(Snapshot {
            all,
            by_path,
            several,
            generation,
        });
    }
}

impl Resource {
    /// Returns the namespace of a request's objects: empty for cluster-scoped resources, also if
    /// the path names one (`namespaces/NAME`).
    pub fn namespace_of(&self, info: &RequestInfo) -> String {
        if self.namespaced {
            info.namespace.clone()
        } else {
            String::new()
        }
    }
}
